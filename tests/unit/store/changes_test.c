/* SPDX-License-Identifier: Apache-2.0 */
/* Changing what is there, pools, transactions across calls, the audit, and who owns the file. */
#include "store/store.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char dir[] = "/tmp/vgpu-store-XXXXXX";
static char path[64];
static struct vgpu_store *s;
static struct vgpu_err err;

static void setup(void)
{
    cr_assert_not_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/s.db", dir);
    cr_assert_eq(vgpu_store_open(path, &s, &err), 0, "%s", err.text);
}

static void teardown(void)
{
    char command[96];

    vgpu_store_close(s);
    snprintf(command, sizeof(command), "rm -rf %s", dir);
    cr_assert_eq(system(command), 0);
}

TestSuite(changes, .init = setup, .fini = teardown);

static struct vgpu_vm_record vm(uint32_t id, const char *pool)
{
    struct vgpu_vm_record r = {.vm_id = id, .priority = VGPU_PRIO_MEDIUM, .device_bytes = UINT64_MAX, .uid = -1};
    snprintf(r.pool, sizeof(r.pool), "%s", pool);
    return r;
}

static struct vgpu_vm_record get(uint32_t id)
{
    struct vgpu_vm_record r;
    cr_assert_eq(vgpu_store_get_vm(s, id, &r, &err), 0, "%s", err.text);
    return r;
}

static void pool(const char *name, uint32_t capacity)
{
    struct vgpu_pool_record p = {.capacity = capacity};
    snprintf(p.name, sizeof(p.name), "%s", name);
    cr_assert_eq(vgpu_store_add_pool(s, &p, &err), 0, "%s", err.text);
}

static bool list_pool(void *ctx, const struct vgpu_pool_record *p)
{
    char *text = ctx;
    sprintf(text + strlen(text), "%s:%u ", p->name, p->capacity);
    return true;
}

static const char *pools(void)
{
    static char text[512];
    text[0] = 0;
    cr_assert_eq(vgpu_store_each_pool(s, list_pool, text, &err), 0, "%s", err.text);
    return text;
}

Test(changes, a_new_store_has_pools_a_and_b)
{
    cr_assert_str_eq(pools(), "A:32 B:32 ");
}

Test(changes, the_configuration_names_pools)
{
    struct vgpu_pool_record p[] = {{.name = "X", .capacity = 4}, {.name = "A", .capacity = 8}}, got;

    cr_assert_eq(vgpu_store_put_pools(s, p, 2, &err), 0, "%s", err.text);
    cr_assert_str_eq(pools(), "A:8 X:4 ", "B was only the new store's: %s", pools());
    cr_assert_eq(vgpu_store_get_pool(s, "A", &got, &err), 0);
    got.capacity = 16;
    strcpy(got.executor, "exec-A");
    got.sm_share = 50;
    cr_assert_eq(vgpu_store_update_pool(s, &got, &err), 0, "%s", err.text);
    cr_assert_eq(vgpu_store_put_pools(s, p, 2, &err), 0);
    cr_assert_str_eq(pools(), "A:16 X:4 ", "the same configuration undid the administrator's capacity: %s", pools());
    p[1].capacity = 9;
    cr_assert_eq(vgpu_store_put_pools(s, p, 2, &err), 0);
    cr_assert_str_eq(pools(), "A:9 X:4 ", "%s", pools());
    cr_assert_eq(vgpu_store_get_pool(s, "A", &got, &err), 0);
    cr_assert(got.sm_share == 50 && !strcmp(got.executor, "exec-A"));
    p[1].capacity = 0;
    p[0].capacity = 1;
    cr_assert_eq(vgpu_store_put_pools(s, p, 2, &err), -EINVAL);
    cr_assert_str_eq(pools(), "A:9 X:4 ", "half of it was taken: %s", pools());
}

Test(changes, a_default_pool_with_members_or_changes_stays)
{
    struct vgpu_pool_record p = {.name = "X", .capacity = 4}, b;
    struct vgpu_vm_record member = vm(1, "A");

    cr_assert_eq(vgpu_store_add_vms(s, &member, 1, &err), 0);
    cr_assert_eq(vgpu_store_get_pool(s, "B", &b, &err), 0);
    b.capacity = 5;
    cr_assert_eq(vgpu_store_update_pool(s, &b, &err), 0);
    cr_assert_eq(vgpu_store_put_pools(s, &p, 1, &err), 0);
    cr_assert_str_eq(pools(), "A:32 B:5 X:4 ", "%s", pools());
}

Test(changes, pools_are_made_changed_and_removed)
{
    struct vgpu_pool_record p = {.name = "gpu-1", .capacity = 1, .executor = "exec-A", .sm_share = 25}, got;
    struct vgpu_vm_record member = vm(1, "gpu-1");

    cr_assert_eq(vgpu_store_add_pool(s, &p, &err), 0, "%s", err.text);
    cr_assert_eq(vgpu_store_get_pool(s, "gpu-1", &got, &err), 0);
    cr_assert_eq(memcmp(&p, &got, sizeof(p)), 0);
    cr_assert_eq(vgpu_store_add_pool(s, &p, &err), -EEXIST);
    cr_assert_not_null(strstr(err.text, "there is a pool gpu-1 already"), "%s", err.text);
    p.sm_share = 101;
    cr_assert_eq(vgpu_store_update_pool(s, &p, &err), -EINVAL);
    p.sm_share = 0;
    strcpy(p.executor, "a b");
    cr_assert_eq(vgpu_store_update_pool(s, &p, &err), -EINVAL);
    strcpy(p.executor, "");
    strcpy(p.name, "gpu-2");
    cr_assert_eq(vgpu_store_update_pool(s, &p, &err), -ENOENT);
    cr_assert_eq(vgpu_store_add_vms(s, &member, 1, &err), 0);
    cr_assert_eq(vgpu_store_remove_pool(s, "gpu-1", &err), -EBUSY);
    cr_assert_not_null(strstr(err.text, "pool gpu-1 has VMs"), "%s", err.text);
    cr_assert_eq(vgpu_store_remove_vm(s, 1, &err), 0);
    cr_assert_eq(vgpu_store_remove_pool(s, "gpu-1", &err), 0, "%s", err.text);
    cr_assert_eq(vgpu_store_remove_pool(s, "gpu-1", &err), -ENOENT);
    cr_assert_eq(vgpu_store_get_pool(s, "gpu-1", &got, &err), -ENOENT);
}

Test(changes, vms_are_changed_all_or_none)
{
    struct vgpu_vm_record v[3] = {vm(1, "A"), vm(2, "A"), vm(3, "B")}, before[3];

    v[0].uid = 1000;
    strcpy(v[1].uuid, "0f7a7a5e-1b2c-4d3e-8f90-0123456789ab");
    cr_assert_eq(vgpu_store_add_vms(s, v, 3, &err), 0, "%s", err.text);
    for (uint32_t i = 0; i < 3; i++)
        before[i] = v[i] = get(i + 1);
    v[0].priority = VGPU_PRIO_HIGH;
    strcpy(v[0].pool, "B");
    v[1].admin_state = VGPU_VM_QUARANTINED;
    strcpy(v[1].reason, "broke the ring rules");
    memset(v[2].name, 0, sizeof(v[2].name));
    strcpy(v[2].name, "vm-1");
    cr_assert_eq(vgpu_store_update_vms(s, v, 3, &err), -EEXIST, "two of one name");
    strcpy(v[2].name, "three");
    strcpy(v[2].uuid, v[1].uuid);
    cr_assert_eq(vgpu_store_update_vms(s, v, 3, &err), -EEXIST, "two of one uuid");
    cr_assert_not_null(strstr(err.text, "another VM has the uuid"), "%s", err.text);
    memset(v[2].uuid, 0, sizeof(v[2].uuid));
    v[2].vm_id = 4;
    cr_assert_eq(vgpu_store_update_vms(s, v, 3, &err), -ENOENT);
    v[2].vm_id = 3;
    v[2].priority = 3;
    cr_assert_eq(vgpu_store_update_vms(s, v, 3, &err), -EINVAL);
    for (uint32_t i = 0; i < 3; i++) {
        struct vgpu_vm_record now = get(i + 1);
        cr_assert_eq(memcmp(&before[i], &now, sizeof(now)), 0, "VM %u was changed by what was refused", i + 1);
    }
    v[2].priority = VGPU_PRIO_LOW;
    cr_assert_eq(vgpu_store_update_vms(s, v, 3, &err), 0, "%s", err.text);
    for (uint32_t i = 0; i < 3; i++) { /* the token of VM 1 too */
        struct vgpu_vm_record now = get(i + 1);
        cr_assert_eq(memcmp(&v[i], &now, sizeof(now)), 0, "VM %u is not what it was changed to", i + 1);
    }
}

Test(changes, names_and_places_can_be_exchanged)
{
    struct vgpu_vm_record v[2] = {vm(1, "one"), vm(2, "two")};

    pool("one", 1);
    pool("two", 1);
    cr_assert_eq(vgpu_store_add_vms(s, v, 2, &err), 0);
    strcpy(v[0].pool, "two");
    strcpy(v[1].pool, "one");
    strcpy(v[0].name, "vm-2");
    strcpy(v[1].name, "vm-1");
    cr_assert_eq(vgpu_store_update_vms(s, v, 2, &err), 0, "%s", err.text);
    strcpy(v[0].pool, "one");
    cr_assert_eq(vgpu_store_update_vms(s, v, 1, &err), -ENOSPC);
}

static bool note(void *ctx, const struct vgpu_audit_record *a)
{
    char *text = ctx;
    sprintf(text + strlen(text), "%llu %s %s %s %s>%s %s;", (unsigned long long)a->seq, a->user, a->command, a->object,
            a->old_json ? a->old_json : "", a->new_json ? a->new_json : "", a->result);
    return true;
}

static const char *history(struct vgpu_audit_filter filter)
{
    static char text[4096];
    text[0] = 0;
    cr_assert_eq(vgpu_store_each_audit(s, &filter, note, text, &err), 0, "%s", err.text);
    return text;
}

Test(changes, a_transaction_holds_a_change_and_its_audit_together)
{
    struct vgpu_vm_record v = vm(1, "A"), again = vm(1, "A");
    struct vgpu_audit_record a = {.uid = 0, .pid = 42, .user = "root", .command = "register-vm", .object = "vm 1",
                                  .vm_id = 1, .new_json = "{\"vm_id\":1}", .result = "ok"};

    cr_assert_eq(vgpu_store_begin(s, &err), 0);
    cr_assert_eq(vgpu_store_add_vms(s, &v, 1, &err), 0);
    cr_assert_eq(vgpu_store_audit_add(s, &a, &err), 0, "%s", err.text);
    cr_assert_eq(vgpu_store_end(s, -EPERM, &err), -EPERM);
    cr_assert_eq(vgpu_store_get_vm(s, 1, &v, &err), -ENOENT);
    cr_assert_str_eq(history((struct vgpu_audit_filter){0}), "");
    v = vm(1, "A");
    cr_assert_eq(vgpu_store_begin(s, &err), 0);
    cr_assert_eq(vgpu_store_add_vms(s, &v, 1, &err), 0);
    cr_assert_eq(vgpu_store_audit_add(s, &a, &err), 0);
    cr_assert_eq(vgpu_store_add_vms(s, &again, 1, &err), -EEXIST);
    cr_assert_eq(vgpu_store_end(s, 0, &err), -EEXIST, "a failed part was overlooked");
    cr_assert_eq(vgpu_store_get_vm(s, 1, &v, &err), -ENOENT);
    v = vm(1, "A");
    cr_assert_eq(vgpu_store_begin(s, &err), 0);
    cr_assert_eq(vgpu_store_add_vms(s, &v, 1, &err), 0);
    cr_assert_eq(vgpu_store_audit_add(s, &a, &err), 0);
    cr_assert_eq(vgpu_store_end(s, 0, &err), 0, "%s", err.text);
    cr_assert_str_eq(history((struct vgpu_audit_filter){0}), "1 root register-vm vm 1 >{\"vm_id\":1} ok;");
}

Test(changes, the_history_is_filtered)
{
    struct vgpu_audit_record a = {.time_us = 1000, .command = "c", .old_json = "{}", .result = "ok"};

    for (uint32_t i = 0; i < 10; i++, a.time_us += 1000) {
        a.vm_id = i % 3;
        snprintf(a.object, sizeof(a.object), "vm %u", a.vm_id);
        cr_assert_eq(vgpu_store_audit_add(s, &a, &err), 0);
    }
    cr_assert_str_eq(history((struct vgpu_audit_filter){.vm_id = 2}),
                     "3  c vm 2 {}> ok;6  c vm 2 {}> ok;9  c vm 2 {}> ok;");
    cr_assert_str_eq(history((struct vgpu_audit_filter){.vm_id = 2, .limit = 1}), "9  c vm 2 {}> ok;");
    cr_assert_str_eq(history((struct vgpu_audit_filter){.since_us = 9000}), "9  c vm 2 {}> ok;10  c vm 0 {}> ok;");
    a.old_json = "{half}";
    cr_assert_lt(vgpu_store_audit_add(s, &a, &err), 0, "what is no JSON got into the audit");
}

static bool count_row(void *ctx, const struct vgpu_audit_record *a)
{
    ++*(uint32_t *)ctx;
    return true;
}

Test(changes, refusals_do_not_fill_the_disk)
{
    struct vgpu_audit_record a = {.command = "c", .result = "EPERM: no"};
    uint32_t n = 0;

    cr_assert_eq(vgpu_store_begin(s, &err), 0); /* for speed */
    a.result = "ok";
    cr_assert_eq(vgpu_store_audit_add(s, &a, &err), 0);
    a.result = "EPERM: no";
    for (uint32_t i = 0; i < VGPU_AUDIT_REFUSALS + 200; i++)
        cr_assert_eq(vgpu_store_audit_add(s, &a, &err), 0);
    cr_assert_eq(vgpu_store_end(s, 0, &err), 0);
    cr_assert_eq(vgpu_store_each_audit(s, &(struct vgpu_audit_filter){0}, count_row, &n, &err), 0);
    cr_assert(n > VGPU_AUDIT_REFUSALS && n <= VGPU_AUDIT_REFUSALS + 65, "%u", n);
    cr_assert_str_eq(history((struct vgpu_audit_filter){.limit = 1}) + 5, "  c  > EPERM: no;");
}

/* A child that opens the store, does what it is told through `announce`, and says so. */
static pid_t owner(const char *announce, int *stop)
{
    int told[2], end[2];
    char c;

    cr_assert_eq(pipe(told) | pipe(end), 0);
    pid_t pid = fork();
    if (pid == 0) {
        struct vgpu_store *mine;
        close(end[1]);
        if (vgpu_store_open(path, &mine, &err) || (announce && vgpu_store_announce(mine, announce, &err)) ||
            write(told[1], "x", 1) != 1)
            _exit(1);
        if (read(end[0], &c, 1) == 0)
            vgpu_store_close(mine);
        _exit(0);
    }
    close(end[0]);
    close(told[1]);
    cr_assert_eq(read(told[0], &c, 1), 1);
    close(told[0]);
    *stop = end[1];
    return pid;
}

Test(changes, a_daemon_that_holds_the_store_is_named)
{
    char socket[VGPU_STORE_SOCKET_BYTES];
    struct vgpu_store *second;
    int stop;

    vgpu_store_close(s);
    s = NULL;
    cr_assert_not(vgpu_store_holder(path, socket));
    pid_t pid = owner("/run/some where/c.sock", &stop);
    cr_assert(vgpu_store_holder(path, socket));
    cr_assert_str_eq(socket, "/run/some where/c.sock");
    cr_assert_eq(vgpu_store_open(path, &second, &err), -EBUSY);
    cr_assert_not_null(strstr(err.text, "serves /run/some where/c.sock"), "%s", err.text);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    close(stop);
    cr_assert_not(vgpu_store_holder(path, socket), "a dead daemon is no holder");
    cr_assert_eq(vgpu_store_open_wait(path, 0, &s, &err), 0, "%s", err.text);
    cr_assert_not(vgpu_store_holder(path, socket), "we serve nothing");
}

Test(changes, a_short_owner_is_waited_for)
{
    struct vgpu_store *second;
    int stop, status;

    vgpu_store_close(s);
    s = NULL;
    pid_t pid = owner(NULL, &stop);
    cr_assert_eq(vgpu_store_open_wait(path, 20, &second, &err), -EBUSY);
    cr_assert_not_null(strstr(err.text, "another process has it open (pid "), "%s", err.text);
    pid_t waiter = fork();
    if (waiter == 0)
        _exit(close(stop) || vgpu_store_open(path, &second, &err) ? 1 : 0);
    usleep(20000);
    close(stop);
    waitpid(waiter, &status, 0);
    cr_assert_eq(status, 0, "the store was free and was not taken");
    waitpid(pid, NULL, 0);
}

Test(changes, a_store_made_by_root_belongs_to_its_directory)
{
    char sub[64], file[80], lock[96];
    struct vgpu_store *other;
    struct stat st;

    if (geteuid() != 0)
        cr_skip_test("needs root: only root can make files that belong to others");
    snprintf(sub, sizeof(sub), "%s/state", dir);
    snprintf(file, sizeof(file), "%s/s.db", sub);
    snprintf(lock, sizeof(lock), "%s.lock", file);
    cr_assert_eq(mkdir(sub, 0700) | chown(sub, 4711, 4712), 0);
    cr_assert_eq(vgpu_store_open(file, &other, &err), 0, "%s", err.text);
    cr_assert(stat(file, &st) == 0 && st.st_uid == 4711 && st.st_gid == 4712);
    cr_assert(stat(lock, &st) == 0 && st.st_uid == 4711);
    snprintf(lock, sizeof(lock), "%s-wal", file);
    cr_assert(stat(lock, &st) == 0 && st.st_uid == 4711);
    vgpu_store_close(other);
}
