/* SPDX-License-Identifier: Apache-2.0 */
#include "store/store.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define DATA VGPU_TEST_SOURCE_ROOT "/tests/unit/store/data"

static char dir[] = "/tmp/vgpu-store-XXXXXX";
static char path[64];
static struct vgpu_store *s;
static struct vgpu_err err;

static void open_store(void)
{
    cr_assert_eq(vgpu_store_open(path, &s, &err), 0, "%s", err.text);
}

static void setup(void)
{
    cr_assert_not_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/s.db", dir);
    open_store();
    cr_assert_eq(vgpu_store_put_pool(s, &(struct vgpu_pool_record){.name = "A", .capacity = 3}, &err), 0);
    cr_assert_eq(vgpu_store_put_pool(s, &(struct vgpu_pool_record){.name = "B", .capacity = 100}, &err), 0);
}

static void teardown(void)
{
    char command[96];

    vgpu_store_close(s);
    snprintf(command, sizeof(command), "rm -rf %s", dir);
    cr_assert_eq(system(command), 0);
}

TestSuite(store, .init = setup, .fini = teardown);

static struct vgpu_vm_record vm(uint32_t id, const char *pool)
{
    struct vgpu_vm_record r = {.vm_id = id, .priority = VGPU_PRIO_MEDIUM, .device_bytes = UINT64_MAX, .uid = -1};
    snprintf(r.pool, sizeof(r.pool), "%s", pool);
    return r;
}

static int add(struct vgpu_vm_record r)
{
    memset(&err, 0, sizeof(err));
    return vgpu_store_add_vms(s, &r, 1, &err);
}

static bool count_vm(void *ctx, const struct vgpu_vm_record *r)
{
    ++*(uint32_t *)ctx;
    return true;
}

static uint32_t count(const char *pool, int priority)
{
    uint32_t n = 0;
    cr_assert_eq(vgpu_store_each_vm(s, pool, priority, count_vm, &n, &err), 0, "%s", err.text);
    return n;
}

/* Runs SQL on the closed store with plain SQLite; its last error code. */
static int raw(const char *sql)
{
    sqlite3 *db;
    int rc;

    cr_assert_eq(sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, NULL), SQLITE_OK);
    sqlite3_exec(db, "PRAGMA foreign_keys = ON", NULL, NULL, NULL);
    sqlite3_exec(db, sql, NULL, NULL, NULL);
    rc = sqlite3_extended_errcode(db);
    sqlite3_close(db);
    return rc;
}

static void close_store(void)
{
    vgpu_store_close(s);
    s = NULL;
}

Test(store, what_is_put_comes_back)
{
    struct vgpu_vm_record in = {.vm_id = VGPU_VM_ID_MAX,
                                .name = "big.one-1_x",
                                .pool = "A",
                                .priority = VGPU_PRIO_LOW,
                                .engine = VGPU_VM_ENGINE_RESIDENT,
                                .in_flight = 65536,
                                .arena_bytes = UINT64_C(1) << 48,
                                .device_bytes = 0,
                                .uid = INT64_C(4294967294),
                                .expected = true,
                                .uuid = "0f7a7a5e-1b2c-4d3e-8f90-0123456789ab",
                                .isolation = VGPU_VM_DEDICATED,
                                .iommu_domain = UINT32_MAX,
                                .admin_state = VGPU_VM_QUARANTINED,
                                .reason = "ring ran ahead; caf\303\251"},
                          out;

    cr_assert_eq(add(in), 0, "%s", err.text);
    cr_assert_eq(vgpu_store_get_vm(s, in.vm_id, &out, &err), 0);
    cr_assert(out.has_token, "a VM with a uid gets a token");
    in.has_token = true;
    memcpy(in.token, out.token, sizeof(in.token));
    cr_assert_eq(memcmp(&in, &out, sizeof(in)), 0);
    cr_assert_eq(vgpu_store_get_vm_by_uuid(s, in.uuid, &out, &err), 0, "%s", err.text);
    cr_assert_eq(out.vm_id, in.vm_id);
    cr_assert_eq(vgpu_store_get_vm_by_uuid(s, "0f7a7a5e-1b2c-4d3e-8f90-0123456789ac", &out, &err), -ENOENT);
    cr_assert_eq(add(vm(1, "A")), 0);
    cr_assert_eq(vgpu_store_get_vm(s, 1, &out, &err), 0);
    cr_assert_str_eq(out.name, "vm-1");
    cr_assert_eq(out.uid, -1);
    cr_assert_eq(out.engine, VGPU_VM_ENGINE_AUTO);
    cr_assert_not(out.has_token);
    cr_assert_eq(out.device_bytes, UINT64_MAX);
    cr_assert_eq(vgpu_store_get_vm(s, 2, &out, &err), -ENOENT);
    cr_assert_str_eq(err.text, "VM 2 is not registered");
}

Test(store, tokens_are_random_or_given)
{
    struct vgpu_vm_record a = vm(1, "B"), b = vm(2, "B"), c = vm(3, "B"), out[3];

    a.uid = b.uid = c.uid = 7;
    c.has_token = true;
    memset(c.token, 0xab, sizeof(c.token));
    cr_assert_eq(add(a) | add(b) | add(c), 0);
    for (uint32_t i = 0; i < 3; i++)
        cr_assert_eq(vgpu_store_get_vm(s, i + 1, &out[i], &err), 0);
    cr_assert_neq(memcmp(out[0].token, out[1].token, VGPU_TOKEN_LEN), 0);
    cr_assert_neq(memcmp(out[0].token, (uint8_t[VGPU_TOKEN_LEN]){0}, VGPU_TOKEN_LEN), 0);
    cr_assert_eq(memcmp(out[2].token, c.token, VGPU_TOKEN_LEN), 0);
    c.vm_id = 4;
    c.uid = -1;
    cr_assert_eq(add(c), -EINVAL);
}

Test(store, each_wrong_field_is_refused)
{
    struct {
        int code;
        const char *message;
        struct vgpu_vm_record r;
    } wrong[32];
    int n = 0;
#define WRONG(c, m, change)                                                                                            \
    do {                                                                                                               \
        struct vgpu_vm_record r = vm(5, "B");                                                                          \
        change;                                                                                                        \
        wrong[n].code = c, wrong[n].message = m, wrong[n++].r = r;                                                     \
    } while (0)
    WRONG(EINVAL, "vm_id 0", r.vm_id = 0);
    WRONG(EINVAL, "vm_id 65536", r.vm_id = 65536);
    WRONG(EINVAL, "bad name", strcpy(r.name, "a b"));
    WRONG(EINVAL, "bad name", memset(r.name, 'x', sizeof(r.name)));
    WRONG(EINVAL, "bad name", strcpy(r.name, "a\n"));
    WRONG(EINVAL, "bad pool name", r.pool[0] = 0);
    WRONG(EINVAL, "bad pool name", strcpy(r.pool, "'; --"));
    WRONG(EINVAL, "priority 3", r.priority = 3);
    WRONG(EINVAL, "engine 4", r.engine = 4);
    WRONG(EINVAL, "in_flight 65537", r.in_flight = 65537);
    WRONG(EINVAL, "2^48", r.arena_bytes = (UINT64_C(1) << 48) + 1);
    WRONG(EINVAL, "2^48", r.device_bytes = UINT64_MAX - 1);
    WRONG(EINVAL, "uid -2", r.uid = -2);
    WRONG(EINVAL, "uid 4294967295", r.uid = INT64_C(4294967295));
    WRONG(EINVAL, "bad uuid", strcpy(r.uuid, "x"));
    WRONG(EINVAL, "bad uuid", strcpy(r.uuid, "0F7A7A5E-1b2c-4d3e-8f90-0123456789ab"));
    WRONG(EINVAL, "bad uuid", strcpy(r.uuid, "0f7a7a5e-1b2c-4d3e-8f90-0123456789a"));
    WRONG(EINVAL, "bad uuid", memset(r.uuid, 'a', sizeof(r.uuid)));
    WRONG(EINVAL, "isolation 2", r.isolation = 2);
    WRONG(EINVAL, "admin_state 3", r.admin_state = 3);
    WRONG(EINVAL, "bad reason", (r.admin_state = 1, strcpy(r.reason, "a\033[2J")));
    WRONG(EINVAL, "bad reason", (r.admin_state = 1, memset(r.reason, 0x72, sizeof(r.reason))));
    WRONG(EINVAL, "neither drained", strcpy(r.reason, "because"));
    WRONG(ENOENT, "no pool C", strcpy(r.pool, "C"));
    for (int i = 0; i < n; i++) {
        cr_expect_eq(add(wrong[i].r), -wrong[i].code, "%s: %s", wrong[i].message, err.text);
        cr_expect_eq(err.code, wrong[i].code);
        cr_expect_not_null(strstr(err.text, wrong[i].message), "%s", err.text);
    }
    cr_assert_eq(count(NULL, -1), 0);
}

Test(store, ids_names_and_room)
{
    struct vgpu_vm_record named = vm(9, "B");

    cr_assert_eq(add(vm(1, "A")), 0);
    cr_assert_eq(add(vm(1, "B")), -EEXIST);
    cr_assert_not_null(strstr(err.text, "VM 1 is registered already"), "%s", err.text);
    strcpy(named.name, "vm-1");
    cr_assert_eq(add(named), -EEXIST);
    cr_assert_not_null(strstr(err.text, "the name vm-1 is taken"), "%s", err.text);
    cr_assert_eq(add(vm(2, "A")) | add(vm(3, "A")), 0);
    cr_assert_eq(add(vm(4, "A")), -ENOSPC);
    cr_assert_not_null(strstr(err.text, "pool A is full"), "%s", err.text);
    cr_assert_eq(add(vm(3, "A")), -EEXIST, "%s", err.text);
    cr_assert_eq(vgpu_store_remove_vm(s, 2, &err), 0);
    cr_assert_eq(add(vm(4, "A")), 0);
    cr_assert_eq(vgpu_store_remove_vm(s, 2, &err), -ENOENT);
    cr_assert_eq(vgpu_store_put_pool(s, &(struct vgpu_pool_record){.name = "A", .capacity = 2}, &err), -ENOSPC);
    cr_assert_not_null(strstr(err.text, "more VMs than the new capacity of 2"), "%s", err.text);
    cr_assert_eq(vgpu_store_put_pool(s, &(struct vgpu_pool_record){.name = "A", .capacity = 4}, &err), 0);
    cr_assert_eq(add(vm(5, "A")), 0);
    cr_assert_eq(vgpu_store_put_pool(s, &(struct vgpu_pool_record){.name = "", .capacity = 4}, &err), -EINVAL);
    cr_assert_eq(vgpu_store_put_pool(s, &(struct vgpu_pool_record){.name = "X", .capacity = 0}, &err), -EINVAL);
    cr_assert_eq(vgpu_store_put_pool(s, &(struct vgpu_pool_record){.name = "X", .capacity = 65536}, &err), -EINVAL);
}

Test(store, many_at_once_are_all_or_nothing)
{
    struct vgpu_vm_record vms[5];
    uint32_t ids[5];

    for (uint32_t i = 0; i < 5; i++)
        vms[i] = vm(i + 1, "A");
    cr_assert_eq(vgpu_store_add_vms(s, vms, 5, &err), -ENOSPC, "the fourth does not fit");
    cr_assert_eq(count(NULL, -1), 0);
    vms[2].priority = 9;
    cr_assert_eq(vgpu_store_add_vms(s, vms, 3, &err), -EINVAL);
    vms[2] = vms[0];
    cr_assert_eq(vgpu_store_add_vms(s, vms, 3, &err), -EEXIST);
    vms[2] = vm(3, "nowhere");
    cr_assert_eq(vgpu_store_add_vms(s, vms, 3, &err), -ENOENT);
    cr_assert_eq(count(NULL, -1), 0);
    for (uint32_t i = 0; i < 5; i++) {
        vms[i] = vm(i + 1, "B");
        ids[i] = i + 1;
    }
    cr_assert_eq(vgpu_store_add_vms(s, vms, 5, &err), 0);
    ids[4] = 6;
    cr_assert_eq(vgpu_store_remove_vms(s, ids, 5, &err), -ENOENT);
    cr_assert_str_eq(err.text, "VM 6 is not registered");
    cr_assert_eq(count("B", -1), 5);
    cr_assert_eq(vgpu_store_remove_vms(s, ids, 4, &err), 0);
    cr_assert_eq(count("B", -1), 1);
}

struct order {
    uint32_t id[8], n, stop_after;
};

static bool note_order(void *ctx, const struct vgpu_vm_record *r)
{
    struct order *o = ctx;
    o->id[o->n++] = r->vm_id;
    return o->n != o->stop_after;
}

static bool note_pool(void *ctx, const struct vgpu_pool_record *p)
{
    struct vgpu_pool_record *out = ctx;
    out[p->name[0] - 'A'] = *p;
    return true;
}

Test(store, lists_filter_and_keep_order)
{
    struct vgpu_vm_record high = vm(7, "B");
    struct order o = {0};
    struct vgpu_pool_record pools[2];

    high.priority = VGPU_PRIO_HIGH;
    cr_assert_eq(add(vm(9, "B")) | add(high) | add(vm(2, "A")), 0);
    cr_assert_eq(count("A", -1), 1);
    cr_assert_eq(count("B", -1), 2);
    cr_assert_eq(count("B", VGPU_PRIO_HIGH), 1);
    cr_assert_eq(count(NULL, VGPU_PRIO_MEDIUM), 2);
    cr_assert_eq(count(NULL, VGPU_PRIO_LOW), 0);
    cr_assert_eq(count("C", -1), 0);
    cr_assert_eq(vgpu_store_each_vm(s, NULL, -1, note_order, &o, &err), 0);
    cr_assert(o.n == 3 && o.id[0] == 2 && o.id[1] == 7 && o.id[2] == 9);
    o = (struct order){.stop_after = 2};
    cr_assert_eq(vgpu_store_each_vm(s, NULL, -1, note_order, &o, &err), 0);
    cr_assert_eq(o.n, 2);
    cr_assert_eq(vgpu_store_each_pool(s, note_pool, pools, &err), 0);
    cr_assert(pools[0].members == 1 && pools[0].capacity == 3 && pools[1].members == 2 && pools[1].capacity == 100);
}

Test(store, persists_and_is_private)
{
    struct vgpu_vm_record in = vm(4, "A"), out;
    struct stat st;

    in.uid = 5;
    cr_assert_eq(add(in), 0);
    close_store();
    cr_assert_eq(stat(path, &st), 0);
    cr_assert_eq(st.st_mode & 0777, 0600);
    cr_assert_eq(chmod(path, 0644), 0);
    open_store();
    cr_assert_eq(stat(path, &st), 0);
    cr_assert_eq(st.st_mode & 0777, 0600, "it holds tokens");
    cr_assert_eq(vgpu_store_get_vm(s, 4, &out, &err), 0);
    cr_assert(out.has_token);
    /* A pool of the configuration is put again at each start. */
    cr_assert_eq(vgpu_store_put_pool(s, &(struct vgpu_pool_record){.name = "A", .capacity = 3}, &err), 0);
    cr_assert_eq(count("A", -1), 1);
}

Test(store, has_one_owner)
{
    struct vgpu_store *second;
    pid_t pid = fork();

    if (pid == 0)
        _exit(vgpu_store_open_wait(path, 0, &second, &err) == -EBUSY && strstr(err.text, "another process has it open") ? 0
                                                                                                                : 1);
    int status;
    waitpid(pid, &status, 0);
    cr_assert_eq(status, 0);
    cr_assert_eq(add(vm(1, "A")), 0, "the first is not disturbed");
}

Test(store, refuses_what_is_no_store)
{
    struct vgpu_store *other;
    char text[128];

    close_store();
    cr_assert_eq(raw("PRAGMA user_version = 5"), SQLITE_OK);
    cr_assert_eq(vgpu_store_open(path, &other, &err), -ENOTSUP);
    cr_assert_not_null(strstr(err.text, "schema 5 was written by a newer vgpu, this one knows up to 4"), "%s",
                       err.text);
    cr_assert_null(other);
    cr_assert_eq(raw("PRAGMA user_version = 4; PRAGMA application_id = 77"), SQLITE_OK);
    cr_assert_eq(vgpu_store_open(path, &other, &err), -EINVAL);
    cr_assert_not_null(strstr(err.text, "not a vgpu store"), "%s", err.text);
    cr_assert_eq(vgpu_store_open("/dev/null", &other, &err), -EINVAL);
    cr_assert_not_null(strstr(err.text, "not a regular file"), "%s", err.text);
    cr_assert_eq(vgpu_store_open(dir, &other, &err), -EISDIR);
    snprintf(text, sizeof(text), "%s/no/such", dir);
    cr_assert_eq(vgpu_store_open(text, &other, &err), -ENOENT);
    snprintf(text, sizeof(text), "%s/text", dir);
    FILE *f = fopen(text, "w");
    for (int i = 0; i < 1000; i++)
        fputs("this is no database\n", f);
    fclose(f);
    cr_assert_eq(vgpu_store_open(text, &other, &err), -EINVAL);
    cr_assert_not_null(strstr(err.text, "file is not a database"), "%s", err.text);
    snprintf(text, sizeof(text), "%s/empty", dir);
    fclose(fopen(text, "w"));
    cr_assert_eq(vgpu_store_open(text, &other, &err), 0, "an empty file becomes a store");
    vgpu_store_close(other);
}

/* Takes the place of the closed store: a file that an old version of this program wrote, and its log if it was killed. */
static void old_file(const char *name)
{
    char command[512];

    close_store();
    snprintf(command, sizeof(command), "rm -f %s*; cp " DATA "/%s.db %s", path, name, path);
    cr_assert_eq(system(command), 0);
    snprintf(command, sizeof(command), "test ! -e " DATA "/%s.db-wal || cp " DATA "/%s.db-wal %s-wal", name, name, path);
    cr_assert_eq(system(command), 0);
    cr_assert_eq(chmod(path, 0600), 0);
}

/* Files of versions 1 and 2 (data/README.md) open, keep all that they had, and are of the newest version afterwards. */
static void brought_to_the_newest(const char *file, uint32_t engine)
{
    struct vgpu_vm_record want = {.vm_id = 7,
                                  .name = "seven",
                                  .pool = "A",
                                  .priority = VGPU_PRIO_HIGH,
                                  .engine = engine,
                                  .in_flight = 16,
                                  .arena_bytes = 4096,
                                  .uid = 1000,
                                  .token = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
                                  .has_token = true},
                          out;
    struct vgpu_pool_record pool;

    old_file(file);
    for (int round = 0; round < 2; round++) { /* the second time there is nothing to do */
        open_store();
        cr_assert_eq(vgpu_store_get_vm(s, 7, &out, &err), 0, "%s", err.text);
        cr_assert_eq(memcmp(&want, &out, sizeof(out)), 0, "the VM is not what it was");
        cr_assert_eq(vgpu_store_get_vm(s, 9, &out, &err), 0, "%s", err.text);
        cr_assert(out.engine == VGPU_VM_ENGINE_AUTO && out.device_bytes == UINT64_MAX && out.uid == -1);
        cr_assert(!out.uuid[0] && !out.admin_state && !out.isolation && !out.expected);
        cr_assert_eq(count(NULL, -1), 2 + round);
        struct vgpu_vm_record r = vm(20 + (uint32_t)round, "A");
        r.engine = VGPU_VM_ENGINE_BATCH;
        r.isolation = VGPU_VM_DEDICATED;
        snprintf(r.uuid, sizeof(r.uuid), "0f7a7a5e-1b2c-4d3e-8f90-0123456789a%d", round);
        cr_assert_eq(add(r), 0, "%s", err.text);
        cr_assert_eq(vgpu_store_get_vm(s, r.vm_id, &out, &err), 0);
        cr_assert(out.engine == VGPU_VM_ENGINE_BATCH && out.isolation == VGPU_VM_DEDICATED);
        close_store();
    }
    open_store();
    cr_assert_eq(add(vm(30, "A")), -ENOSPC, "the pool's room is not counted any more");
    cr_assert_eq(vgpu_store_get_pool(s, "B", &pool, &err), 0);
    cr_assert(pool.capacity == 100 && pool.members == 1 && !pool.executor[0] && !pool.sm_share);
    /* The old capacities were the configuration's: the same value again changes nothing that was set since. */
    pool.capacity = 50;
    cr_assert_eq(vgpu_store_update_pool(s, &pool, &err), 0, "%s", err.text);
    cr_assert_eq(vgpu_store_put_pool(s, &(struct vgpu_pool_record){.name = "B", .capacity = 100}, &err), 0);
    cr_assert_eq(vgpu_store_get_pool(s, "B", &pool, &err), 0);
    cr_assert_eq(pool.capacity, 50);
}

Test(store, version_1_is_brought_to_the_newest)
{
    brought_to_the_newest("version-1", VGPU_VM_ENGINE_AUTO);
}

Test(store, version_2_of_a_killed_daemon_is_brought_to_the_newest)
{
    brought_to_the_newest("version-2", VGPU_VM_ENGINE_RESIDENT);
}

Test(store, version_3_is_brought_to_the_newest)
{
    brought_to_the_newest("version-3", VGPU_VM_ENGINE_RESIDENT);
}

static uint32_t members(const char *name)
{
    struct vgpu_pool_record pool;

    cr_assert_eq(vgpu_store_get_pool(s, name, &pool, &err), 0, "%s", err.text);
    return pool.members;
}

/* The members that a pool counts are those that are in it, whatever was done, and whoever did it. */
Test(store, pools_count_their_members)
{
    for (uint32_t i = 1; i <= 40; i++)
        cr_assert_eq(add(vm(i, i % 4 ? "B" : "A")), i > 12 && i % 4 == 0 ? -ENOSPC : 0, "VM %u: %s", i, err.text);
    cr_expect_eq(members("A"), 3);
    cr_expect_eq(members("B"), 30);
    struct vgpu_vm_record exchange[] = {vm(4, "B"), vm(1, "A")};
    cr_assert_eq(vgpu_store_update_vms(s, exchange, 2, &err), 0, "%s", err.text);
    cr_expect(members("A") == 3 && members("B") == 30);
    struct vgpu_vm_record too_many[] = {vm(2, "A"), vm(3, "A")};
    cr_assert_eq(vgpu_store_update_vms(s, too_many, 2, &err), -ENOSPC);
    cr_expect(members("A") == 3 && members("B") == 30, "what was undone counts");
    cr_assert_eq(vgpu_store_remove_vm(s, 1, &err), 0);
    cr_expect_eq(members("A"), 2);
    close_store();
    /* With another program: through the triggers, and around them. */
    cr_assert_eq(raw("UPDATE vms SET pool = 'A' WHERE vm_id = 2"), SQLITE_OK);
    cr_assert_eq(raw("UPDATE vms SET pool = 'A' WHERE vm_id = 3"), SQLITE_CONSTRAINT_TRIGGER, "the pool is full");
    cr_assert_eq(raw("UPDATE pools SET name = 'C' WHERE name = 'B'"), SQLITE_CONSTRAINT_TRIGGER);
    cr_assert_eq(raw("DELETE FROM vms WHERE vm_id > 4 AND pool = 'B'"), SQLITE_OK);
    cr_assert_eq(raw("UPDATE pools SET members = 77"), SQLITE_OK);
    open_store();
    cr_expect(members("A") == 3 && members("B") == 2, "%u and %u", members("A"), members("B"));
    close_store();
}

Test(store, notices_damage)
{
    struct vgpu_store *other;

    for (uint32_t i = 1; i <= 100; i++)
        cr_assert_eq(add(vm(i, "B")), 0);
    close_store();
    int fd = open(path, O_RDWR);
    struct stat st;
    cr_assert_eq(fstat(fd, &st), 0);
    char junk[4096];
    memset(junk, 0x77, sizeof(junk));
    for (off_t at = 4096; at < st.st_size; at += 4096) /* all but the first page: header and schema */
        cr_assert_eq(pwrite(fd, junk, sizeof(junk), at), 4096);
    close(fd);
    int rc = vgpu_store_open(path, &other, &err);
    cr_assert_eq(rc, -EUCLEAN, "%d %s", rc, err.text);
    cr_assert_null(other);
}

/* An index that does not say what its table says: each page is well, and two names may be alike. */
Test(store, notices_an_index_that_is_wrong)
{
    struct vgpu_store *other;

    cr_assert_eq(add(vm(1, "B")), 0);
    close_store();
    cr_assert_eq(raw("PRAGMA writable_schema = ON; CREATE TABLE k AS SELECT * FROM sqlite_schema WHERE name = 'vms_pool';"
                     "DELETE FROM sqlite_schema WHERE name = 'vms_pool'"),
                 SQLITE_OK);
    cr_assert_eq(raw("INSERT INTO vms(vm_id, name, pool, priority) VALUES(2, 'x', 'B', 0)"), SQLITE_OK);
    cr_assert_eq(raw("PRAGMA writable_schema = ON; INSERT INTO sqlite_schema SELECT * FROM k; DROP TABLE k"), SQLITE_OK);
    cr_assert_eq(vgpu_store_open(path, &other, &err), -EUCLEAN);
    cr_assert_not_null(strstr(err.text, "damaged (row 2 missing from index vms_pool)"), "%s", err.text);
}

Test(store, notices_a_member_without_a_pool)
{
    struct vgpu_store *other;

    cr_assert_eq(add(vm(1, "A")), 0);
    close_store();
    raw("PRAGMA foreign_keys = OFF; DELETE FROM pools WHERE name = 'A'");
    cr_assert_eq(vgpu_store_open(path, &other, &err), -EUCLEAN);
    cr_assert_not_null(strstr(err.text, "damaged"), "%s", err.text);
}

/* The schema itself refuses what other tools would write. */
Test(store, constraints_hold_without_our_code)
{
    static const struct {
        int code;
        const char *sql;
    } bad[] = {
        {SQLITE_CONSTRAINT_CHECK, "INSERT INTO vms(vm_id, name, pool, priority) VALUES(0, 'x', 'B', 0)"},
        {SQLITE_CONSTRAINT_CHECK, "INSERT INTO vms(vm_id, name, pool, priority) VALUES(65536, 'x', 'B', 0)"},
        {SQLITE_CONSTRAINT_CHECK, "INSERT INTO vms(vm_id, name, pool, priority) VALUES(5, 'x', 'B', 3)"},
        {SQLITE_CONSTRAINT_CHECK, "INSERT INTO vms(vm_id, name, pool, priority) VALUES(5, 'x y', 'B', 0)"},
        {SQLITE_CONSTRAINT_CHECK, "INSERT INTO vms(vm_id, name, pool, priority, engine) VALUES(5, 'x', 'B', 0, 4)"},
        {SQLITE_CONSTRAINT_CHECK, "UPDATE vms SET engine = -1 WHERE vm_id = 1"},
        {SQLITE_CONSTRAINT_NOTNULL, "UPDATE vms SET engine = NULL WHERE vm_id = 1"},
        {SQLITE_CONSTRAINT_CHECK, "INSERT INTO vms(vm_id, name, pool, priority) VALUES(5, '', 'B', 0)"},
        {SQLITE_CONSTRAINT_CHECK, "INSERT INTO vms(vm_id, name, pool, priority, uid) VALUES(5, 'x', 'B', 0, -1)"},
        {SQLITE_CONSTRAINT_CHECK,
         "INSERT INTO vms(vm_id, name, pool, priority, uid, token) VALUES(5, 'x', 'B', 0, 1, x'00')"},
        {SQLITE_CONSTRAINT_CHECK,
         "INSERT INTO vms(vm_id, name, pool, priority, token) VALUES(5, 'x', 'B', 0, zeroblob(16))"},
        {SQLITE_CONSTRAINT_NOTNULL, "INSERT INTO vms(vm_id, name, pool, priority) VALUES(5, 'x', NULL, 0)"},
        {SQLITE_CONSTRAINT_DATATYPE, "INSERT INTO vms(vm_id, name, pool, priority) VALUES(5, 'x', 'B', 'high')"},
        {SQLITE_CONSTRAINT_FOREIGNKEY, "INSERT INTO vms(vm_id, name, pool, priority) VALUES(5, 'x', 'Z', 0)"},
        {SQLITE_CONSTRAINT_PRIMARYKEY, "INSERT INTO vms(vm_id, name, pool, priority) VALUES(1, 'x', 'B', 0)"},
        {SQLITE_CONSTRAINT_UNIQUE, "INSERT INTO vms(vm_id, name, pool, priority) VALUES(5, 'vm-1', 'B', 0)"},
        {SQLITE_CONSTRAINT_TRIGGER, "INSERT INTO vms(vm_id, name, pool, priority) VALUES(5, 'x', 'A', 0)"},
        {SQLITE_CONSTRAINT_TRIGGER, "UPDATE vms SET pool = 'A' WHERE vm_id = 4"},
        {SQLITE_CONSTRAINT_TRIGGER, "UPDATE pools SET capacity = 1 WHERE name = 'A'"},
        {SQLITE_CONSTRAINT_TRIGGER, "DELETE FROM pools WHERE name = 'A'"},
        {SQLITE_CONSTRAINT_CHECK, "INSERT INTO pools(name, capacity) VALUES('C', 0)"},
        {SQLITE_CONSTRAINT_CHECK, "INSERT INTO pools(name, capacity) VALUES('a/b', 1)"},
        {SQLITE_CONSTRAINT_CHECK, "INSERT INTO pools(name, capacity, sm_share) VALUES('C', 1, 101)"},
        {SQLITE_CONSTRAINT_CHECK, "UPDATE pools SET executor = 'a b'"},
        {SQLITE_CONSTRAINT_CHECK, "UPDATE vms SET uuid = '' WHERE vm_id = 1"},
        {SQLITE_CONSTRAINT_CHECK, "UPDATE vms SET uuid = '0F7a7a5e-1b2c-4d3e-8f90-0123456789ab' WHERE vm_id = 1"},
        {SQLITE_CONSTRAINT_CHECK, "UPDATE vms SET uuid = '0f7a7a5e11b2c-4d3e-8f90-0123456789ab' WHERE vm_id = 1"},
        {SQLITE_CONSTRAINT_CHECK, "UPDATE vms SET uuid = '0f7a7a5e-1b2c-4d3e-8f90-0123456789-b' WHERE vm_id = 1"},
        {SQLITE_CONSTRAINT_UNIQUE, "UPDATE vms SET uuid = '0f7a7a5e-1b2c-4d3e-8f90-0123456789ab'"},
        {SQLITE_CONSTRAINT_CHECK, "UPDATE vms SET isolation = 2"},
        {SQLITE_CONSTRAINT_CHECK, "UPDATE vms SET iommu_domain = 4294967296"},
        {SQLITE_CONSTRAINT_CHECK, "UPDATE vms SET admin_state = 3"},
        {SQLITE_CONSTRAINT_CHECK, "UPDATE vms SET reason = 'x'"},
        {SQLITE_CONSTRAINT_CHECK, "UPDATE vms SET admin_state = 1, reason = char(27) || '[2J'"},
        {SQLITE_CONSTRAINT_CHECK, "UPDATE vms SET admin_state = 1, reason = hex(zeroblob(48))"},
        {SQLITE_CONSTRAINT_NOTNULL, "UPDATE vms SET expected = NULL"},
        {SQLITE_CONSTRAINT_CHECK, "INSERT INTO audit VALUES(1, 1, 0, 1, '', 'c', '', NULL, 'no', NULL, 'ok')"},
        {SQLITE_CONSTRAINT_CHECK, "INSERT INTO audit VALUES(1, 1, 0, 1, '', 'c', '', 65536, NULL, NULL, 'ok')"},
        {SQLITE_CONSTRAINT_TRIGGER,
         "INSERT INTO audit VALUES(1, 1, 0, 1, '', 'c', '', 1, NULL, NULL, 'ok'); UPDATE audit SET uid = 7"},
    };
    cr_assert_eq(add(vm(1, "A")) | add(vm(2, "A")) | add(vm(3, "A")) | add(vm(4, "B")), 0);
    close_store();
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        cr_expect_eq(raw(bad[i].sql), bad[i].code, "%s", bad[i].sql);
    open_store();
    cr_assert_eq(count(NULL, -1), 4);
}

/* A writer that is killed at any point leaves all of its acknowledged batches and no half of another. */
Test(store, survives_kill)
{
    close_store();
    for (int round = 0; round < 15; round++) {
        int acknowledged[2], status;
        uint32_t done = 0, got;

        cr_assert_eq(pipe(acknowledged), 0);
        pid_t pid = fork();
        if (pid == 0) {
            struct vgpu_store *mine;
            struct vgpu_vm_record batch[4];
            if (vgpu_store_open(path, &mine, &err))
                _exit(1);
            for (uint32_t b = 0; b < 25; b++) {
                for (uint32_t i = 0; i < 4; i++)
                    batch[i] = vm(b * 4 + i + 1, "B");
                if (vgpu_store_add_vms(mine, batch, 4, &err) || write(acknowledged[1], &b, sizeof(b)) != sizeof(b))
                    _exit(1);
            }
            pause();
        }
        close(acknowledged[1]);
        /* Not before it works, and then at a moment of its work. */
        while (done <= (uint32_t)round && read(acknowledged[0], &got, sizeof(got)) == sizeof(got))
            done = got + 1;
        usleep((unsigned)(round * 137));
        kill(pid, SIGKILL);
        while (read(acknowledged[0], &got, sizeof(got)) == sizeof(got))
            done = got + 1;
        waitpid(pid, &status, 0);
        close(acknowledged[0]);
        cr_assert(WIFSIGNALED(status), "%s", err.text);
        cr_assert_gt(done, (uint32_t)round);
        open_store();
        uint32_t n = count("B", -1);
        cr_assert_eq(n % 4, 0, "half a batch: %u", n);
        cr_assert_geq(n / 4, done, "an acknowledged batch is missing");
        cr_assert_leq(n / 4, done + 1);
        close_store();
        cr_assert_eq(raw("DELETE FROM vms"), SQLITE_OK);
    }
    open_store();
}

/* A file that may not grow fails like a full disk, for writes. */
Test(store, a_full_disk_is_a_clear_error)
{
    pid_t pid = fork();
    int status;

    close_store();
    if (pid == 0) {
        struct rlimit limit = {.rlim_cur = 96 * 1024, .rlim_max = 96 * 1024};
        struct vgpu_vm_record r = vm(1, "B");
        int rc = 0;
        signal(SIGXFSZ, SIG_IGN);
        if (vgpu_store_open(path, &s, &err) || setrlimit(RLIMIT_FSIZE, &limit))
            _exit(1);
        if (vgpu_store_put_pool(s, &(struct vgpu_pool_record){.name = "B", .capacity = 65535}, &err))
            _exit(3);
        for (; r.vm_id < 65535 && !rc; r.vm_id++)
            rc = add(r);
        uint32_t n = count("B", -1);
        _exit(rc < 0 && strstr(err.text, path) && n == r.vm_id - 2 ? 0 : 2);
    }
    waitpid(pid, &status, 0);
    open_store();
    cr_assert_eq(status, 0);
    cr_assert_gt(count("B", -1), 0, "what was acknowledged before is there");
}
