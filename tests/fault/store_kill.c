/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A writer of the store is killed at random points, over and over on one file, until so many writes were acknowledged
 * (first argument, 1000). Each write is one transaction: a change of several VMs and pools with its row of history. The
 * writes are a function of their number, so after each kill the store must be exactly what the acknowledged writes make
 * of it, or those and the one that was being made. VGPU_TEST_SEED repeats a run's writes and delays.
 */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "store/store.h"

#define VMS       40u
#define BATCH_MAX 5u
#define POOLS     2u

static char dir[] = "/tmp/vgpu-store-kill-XXXXXX";
static char path[64];
static uint64_t seed;

/* What the store should hold. */
struct model {
    struct vgpu_vm_record vm[VMS + 1]; /* by vm_id; vm_id 0: not registered */
    uint32_t capacity[POOLS];
    uint32_t writes;
};

static _Noreturn void fail(const char *what, const struct vgpu_err *err)
{
    fprintf(stderr, "store-kill: %s%s%s (seed %" PRIu64 ", %s stays for a look)\n", what, err ? ": " : "",
            err ? err->text : "", seed, dir);
    exit(1);
}

static uint64_t mix(uint64_t x)
{
    x += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

/* What write number k does. */
struct change {
    struct vgpu_vm_record add[BATCH_MAX], update[BATCH_MAX];
    uint32_t remove[BATCH_MAX];
    uint32_t adds, updates, removes;
    struct vgpu_pool_record pool; /* its new capacity */
};

static void vary(struct vgpu_vm_record *r, uint64_t x, uint32_t k)
{
    static const char *const pools[POOLS] = {"A", "B"};

    strcpy(r->pool, pools[x & 1]);
    r->priority = (uint32_t)(x >> 8) % VGPU_PRIO_COUNT;
    r->in_flight = (uint32_t)(x >> 16) % 100;
    r->device_bytes = x >> 40;
    r->admin_state = (uint32_t)(x >> 12) % VGPU_VM_ADMIN_COUNT;
    memset(r->reason, 0, sizeof(r->reason));
    if (r->admin_state)
        snprintf(r->reason, sizeof(r->reason), "write %u", k);
}

static void change_make(const struct model *m, uint32_t k, struct change *c)
{
    uint64_t x = mix(seed ^ (uint64_t)k << 20);
    uint32_t first = (uint32_t)(x % VMS) + 1, n = (uint32_t)(x >> 32) % BATCH_MAX + 1;

    memset(c, 0, sizeof(*c));
    for (uint32_t i = 0; i < n; i++) {
        uint32_t id = (first + i - 1) % VMS + 1;
        uint64_t y = mix(x + i);
        if (!m->vm[id].vm_id) {
            struct vgpu_vm_record *r = &c->add[c->adds++];
            r->vm_id = id;
            snprintf(r->name, sizeof(r->name), "vm-%u", id);
            r->uid = 1000;
            r->has_token = true;
            memcpy(r->token, &y, sizeof(y));
            snprintf(r->uuid, sizeof(r->uuid), "00000000-0000-4000-8000-%012u", id);
            vary(r, y, k);
        } else if (y % 4 == 0) {
            c->remove[c->removes++] = id;
        } else {
            struct vgpu_vm_record *r = &c->update[c->updates++];
            *r = m->vm[id];
            vary(r, y, k);
        }
    }
    strcpy(c->pool.name, x >> 50 & 1 ? "B" : "A");
    c->pool.capacity = VMS + (uint32_t)(x >> 52);
}

static void model_apply(struct model *m, const struct change *c)
{
    for (uint32_t i = 0; i < c->adds; i++)
        m->vm[c->add[i].vm_id] = c->add[i];
    for (uint32_t i = 0; i < c->updates; i++)
        m->vm[c->update[i].vm_id] = c->update[i];
    for (uint32_t i = 0; i < c->removes; i++)
        m->vm[c->remove[i]].vm_id = 0;
    m->capacity[c->pool.name[0] - 'A'] = c->pool.capacity;
    m->writes++;
}

static int change_write(struct vgpu_store *s, const struct change *c, uint32_t k, struct vgpu_err *err)
{
    struct vgpu_audit_record a = {.uid = k, .command = "write", .new_json = "{}", .result = "ok"};
    int rc = vgpu_store_begin(s, err);

    if (rc)
        return rc;
    rc = vgpu_store_remove_vms(s, c->remove, c->removes, err);
    if (!rc)
        rc = vgpu_store_update_pool(s, &c->pool, err);
    if (!rc)
        rc = vgpu_store_add_vms(s, c->add, c->adds, err);
    if (!rc)
        rc = vgpu_store_update_vms(s, c->update, c->updates, err);
    if (!rc)
        rc = vgpu_store_audit_add(s, &a, err);
    return vgpu_store_end(s, rc, err);
}

static _Noreturn void writer(struct model *m, int acknowledge)
{
    struct vgpu_store *s;
    struct vgpu_err err;
    struct change c;

    if (vgpu_store_open(path, &s, &err))
        fail("the writer cannot open", &err);
    for (;;) {
        change_make(m, m->writes, &c);
        if (change_write(s, &c, m->writes, &err))
            fail("a write failed", &err);
        model_apply(m, &c);
        if (write(acknowledge, &m->writes, sizeof(m->writes)) != sizeof(m->writes))
            _exit(0);
    }
}

/* ---- the look afterwards ---- */

struct look {
    const struct model *m;
    uint32_t vms, pools, audits;
    bool same;
};

static bool look_vm(void *ctx, const struct vgpu_vm_record *r)
{
    struct look *l = ctx;

    l->vms++;
    l->same = l->same && r->vm_id <= VMS && memcmp(r, &l->m->vm[r->vm_id], sizeof(*r)) == 0;
    return true;
}

static bool look_pool(void *ctx, const struct vgpu_pool_record *p)
{
    struct look *l = ctx;

    l->pools++;
    l->same = l->same && p->capacity == l->m->capacity[(p->name[0] - 'A') % POOLS];
    return true;
}

static bool look_audit(void *ctx, const struct vgpu_audit_record *a)
{
    struct look *l = ctx;

    l->same = l->same && a->uid == l->audits++; /* each write once, in order */
    return true;
}

static bool is_model(struct vgpu_store *s, const struct model *m)
{
    struct look l = {.m = m, .same = true};
    struct vgpu_err err;
    uint32_t registered = 0;

    for (uint32_t id = 1; id <= VMS; id++)
        registered += m->vm[id].vm_id != 0;
    if (vgpu_store_each_vm(s, NULL, -1, look_vm, &l, &err) || vgpu_store_each_pool(s, look_pool, &l, &err) ||
        vgpu_store_each_audit(s, &(struct vgpu_audit_filter){0}, look_audit, &l, &err))
        fail("the store cannot be read", &err);
    return l.same && l.vms == registered && l.pools == POOLS && l.audits == m->writes;
}

/* One writer from start to kill; m follows. True when the write that was not acknowledged is there. */
static bool round_run(struct model *m, uint64_t random, uint32_t most)
{
    int told[2], status;
    uint32_t acknowledged = m->writes, until = m->writes + (uint32_t)(random % (most + 1));
    struct vgpu_store *s;
    struct vgpu_err err;
    struct change c;

    if (pipe(told))
        fail("no pipe", NULL);
    pid_t pid = fork();
    if (pid == 0) {
        close(told[0]);
        writer(m, told[1]);
    }
    close(told[1]);
    while (acknowledged < until && read(told[0], &acknowledged, sizeof(acknowledged)) == sizeof(acknowledged))
        ;
    usleep((unsigned)(random >> 32) % 8000); /* with no write waited for, this ends somewhere in its open */
    kill(pid, SIGKILL);
    while (read(told[0], &acknowledged, sizeof(acknowledged)) == sizeof(acknowledged)) /* what it still said */
        ;
    close(told[0]);
    waitpid(pid, &status, 0);
    if (!WIFSIGNALED(status))
        fail("the writer ended by itself", NULL);

    if (vgpu_store_open(path, &s, &err))
        fail("the store does not open after a kill", &err);
    while (m->writes < acknowledged) {
        change_make(m, m->writes, &c);
        model_apply(m, &c);
    }
    bool more = !is_model(s, m);
    if (more) {
        change_make(m, m->writes, &c);
        model_apply(m, &c);
        if (!is_model(s, m))
            fail("the store is neither what was acknowledged nor that and the next write", NULL);
    }
    vgpu_store_close(s);
    return more;
}

int main(int argc, char **argv)
{
    uint32_t wanted = argc > 1 ? (uint32_t)atoi(argv[1]) : 1000, kills = 0, unheard = 0, idle = 0;
    const char *given = getenv("VGPU_TEST_SEED");
    static struct model m = {.capacity = {VGPU_POOL_CAPACITY, VGPU_POOL_CAPACITY}};
    char command[96];

    seed = given ? strtoull(given, NULL, 0) : (uint64_t)time(NULL);
    if (!mkdtemp(dir))
        fail("no directory", NULL);
    snprintf(path, sizeof(path), "%s/s.db", dir);
    for (uint64_t round = 0; m.writes - unheard < wanted; round++) {
        uint32_t before = m.writes;
        unheard += round_run(&m, mix(seed + round * 3), wanted / 100 + 2);
        idle += m.writes == before;
        kills++;
    }
    printf("shows: %u acknowledged writes of a store whose writer was killed %u times (seed %" PRIu64 "): all there, "
           "none half; %u kills before the first write, %u between a commit and its acknowledgement\n",
           m.writes - unheard, kills, seed, idle, unheard);
    snprintf(command, sizeof(command), "rm -rf %s", dir);
    return system(command) != 0;
}
