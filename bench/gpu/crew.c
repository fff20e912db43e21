/* SPDX-License-Identifier: Apache-2.0 */
/* Tenant processes: started when first needed, kept from cell to cell, ended when they fail. */
#include "bench/gpu/gpu.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define MEMBERS_MAX    64
#define OPEN_TIMEOUT_S 90.0 /* twelve contexts at once take their time */
#define CELL_TIMEOUT_S 60.0 /* to prepare one, and to check its results */
#define GIVE_UP_AFTER  4u   /* tenants of the cells in a row that could not start */
#define NATIVE_HOST    (16 * GPU_MIB)
#define NATIVE_DEVICE  (256 * GPU_MIB)

struct member {
    enum crew_kind kind;
    uint32_t id;
    pid_t pid; /* 0: does not run */
    int fd;
    struct tenant_shared *shared;
};

static struct member *member_of(struct gpu *g, enum crew_kind kind, uint32_t id)
{
    for (uint32_t i = 0; i < g->n_members; i++)
        if (g->members[i].kind == kind && g->members[i].id == id)
            return &g->members[i];
    if (!g->members)
        g->members = calloc(MEMBERS_MAX, sizeof(*g->members));
    if (!g->members || g->n_members == MEMBERS_MAX) {
        fprintf(stderr, "vgpu-bench: too many tenants\n");
        abort();
    }
    struct member *m = &g->members[g->n_members++];
    *m = (struct member){.kind = kind, .id = id, .fd = -1};
    return m;
}

/* It may be waiting for a start: then it leaves the cell out, and finds the socket closed. */
static void member_release(struct member *m)
{
    if (m->shared)
        vgpu_store_release(&m->shared->go, UINT64_MAX); /* G2 pairs with G1 */
    if (m->fd >= 0)
        shutdown(m->fd, SHUT_RDWR);
}

static void member_end(struct member *m)
{
    member_release(m);
    if (m->fd >= 0)
        close(m->fd);
    if (m->pid > 0)
        proc_wait(m->pid, 3);
    if (m->shared)
        munmap(m->shared, sizeof(*m->shared));
    m->fd = -1;
    m->pid = 0;
    m->shared = NULL;
}

/* ---- Starting ---- */
static int core_of(const struct gpu *g, const struct member *m)
{
    uint32_t n = (uint32_t)g->tenants_max;

    if (g->shared_cores)
        return -1;
    if (m->kind != CREW_VGPU || m->id < GPU_VM_BACKGROUND)
        return g->tenant_core[(m->kind == CREW_VGPU ? m->id - 1 : m->id) % n];
    /* Backgrounds and the VM that comes and goes: any but the first, which is the one that is measured. */
    return n > 1 ? g->tenant_core[1 + (m->id - GPU_VM_BACKGROUND) % (n - 1)] : g->tenant_core[0];
}

static pid_t member_exec(struct gpu *g, const struct member *m, int fd, int memory)
{
    static const char *const no_mps[] = {"CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY", NULL};
    char serve[32], core[16], vm[16], host[24], device[24], sock[128], token[128];
    const struct gpu_vm *registered = m->kind == CREW_VGPU ? daemon_vm(g, m->id) : NULL;
    bool first = m->kind == CREW_NATIVE && m->id == 0; /* the one that plays every native part */
    uint64_t host_bytes = first ? gpu_limit(g, TENANT_COPY_H2D) + 80 * GPU_MIB : NATIVE_HOST;
    uint64_t device_bytes = first ? 8 * NATIVE_DEVICE : NATIVE_DEVICE;
    const char *argv[32] = {g->tenant,
                            "--mode",
                            m->kind == CREW_VGPU ? "vgpu" : "native",
                            "--serve",
                            serve,
                            "--cpu",
                            core,
                            "--host-bytes",
                            host,
                            "--device-bytes",
                            device};
    int n = 11, keep[] = {fd, memory};

    if (m->kind == CREW_VGPU) {
        if (!registered)
            return -1;
        host_bytes = registered->arena_bytes;
        device_bytes = registered->device_bytes;
        daemon_paths(g, m->id, sock, token);
        snprintf(vm, sizeof(vm), "%u", m->id);
        const char *more[] = {"--vm", vm, "--socket", sock, "--token", token, "--patience", "30"};
        memcpy(&argv[n], more, sizeof(more));
    } else if (g->driver[0]) {
        const char *more[] = {"--driver", g->driver, "--cublas", g->cublas};
        memcpy(&argv[n], more, sizeof(more));
    }
    snprintf(serve, sizeof(serve), "%d,%d", fd, memory);
    snprintf(core, sizeof(core), "%d", core_of(g, m));
    snprintf(host, sizeof(host), "%llu", (unsigned long long)host_bytes);
    snprintf(device, sizeof(device), "%llu", (unsigned long long)device_bytes);
    return proc_start(&(struct proc_start){.argv = (char *const *)argv,
                                           .keep = keep,
                                           .n_keep = 2,
                                           .core = -1,
                                           .env = m->kind == CREW_MPS ? mps_env(g) : no_mps});
}

static int member_start(struct gpu *g, struct member *m)
{
    int pair[2], rc = -ENOMEM;
    int memory = memfd_create("vgpu-bench-tenant", MFD_CLOEXEC);

    if (memory < 0 || ftruncate(memory, sizeof(struct tenant_shared)))
        goto out_memory;
    m->shared = mmap(NULL, sizeof(struct tenant_shared), PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
    if (m->shared == MAP_FAILED) {
        m->shared = NULL;
        goto out_memory;
    }
    rc = socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) ? -errno : 0;
    if (rc)
        goto out_memory;
    m->fd = pair[0];
    m->pid = member_exec(g, m, pair[1], memory);
    close(pair[1]);
    rc = m->pid > 0 ? 0 : -ECHILD;
out_memory:
    if (memory >= 0)
        close(memory);
    if (rc)
        member_end(m);
    return rc;
}

/* ---- Talking ---- */
static int said(struct outcome *out, int rc, const struct member *m, const char *text)
{
    static const char *const kinds[] = {"native", "mps", "vgpu"};

    if (out->rc == 0) {
        out->rc = rc;
        snprintf(out->text, sizeof(out->text), "%s tenant %u: %.200s", kinds[m->kind], m->id, text);
    }
    return rc;
}

/* Waits for `want`. TENANT_FAILED: its own words are passed on. */
static int expect(struct member *m, char want, double timeout_s, struct outcome *out)
{
    uint64_t until = vgpu_now_ns() + (uint64_t)(timeout_s * 1e9);
    struct pollfd p = {.fd = m->fd, .events = POLLIN};
    char byte = 0;

    if (m->pid <= 0)
        return said(out, -ECHILD, m, "does not run");
    for (;;) {
        int rc = poll(&p, 1, 50);
        if (gpu_interrupted)
            return said(out, -EINTR, m, "interrupted");
        if (rc > 0)
            break;
        if (vgpu_now_ns() > until)
            return said(out, -ETIMEDOUT, m, "took too long");
    }
    if (read(m->fd, &byte, 1) != 1)
        return said(out, -EPIPE, m, m->shared->result.rc ? m->shared->result.text : "ended");
    if (byte == want)
        return 0;
    return said(out, m->shared->result.rc ? m->shared->result.rc : -EPROTO, m, m->shared->result.text);
}

const char *crew_missing(struct gpu *g, enum crew_kind kind)
{
    if (kind == CREW_VGPU && (daemon_revive(g) || !g->daemon))
        return "vgpud does not run";
    if (kind == CREW_MPS && !g->mps)
        return "MPS is not to be had";
    return g->failures >= GIVE_UP_AFTER ? "given up: tenants could not start again and again" : NULL;
}

static int members_open(struct gpu *g, const struct crew *c, struct outcome *out)
{
    bool fresh[MEMBERS_MAX] = {false}, any = false;
    int rc = 0;

    for (uint32_t i = 0; i < c->count && !rc; i++) {
        struct member *m = member_of(g, c->kind, c->first + i);
        if (m->pid > 0)
            continue;
        rc = member_start(g, m);
        if (rc)
            said(out, rc, m, "cannot be started");
        fresh[i] = any = rc == 0;
    }
    for (uint32_t i = 0; i < c->count; i++) {
        struct member *m = member_of(g, c->kind, c->first + i);
        if (!fresh[i])
            continue;
        int one = expect(m, TENANT_READY, OPEN_TIMEOUT_S, out);
        if (one)
            member_end(m);
        rc = rc ? rc : one;
    }
    if (!rc && any && c->kind == CREW_MPS && !mps_serves(g))
        rc = said(out, -ENODEV, member_of(g, c->kind, c->first), "runs, but not under MPS");
    g->failures = rc ? g->failures + 1 : 0;
    return rc;
}

/*
 * Resident workers leave the GPU when they have had no work for a while: before that a native tenant would not have it
 * to itself. The backend looks for that some 20 times a second, and at the third look it is sure.
 */
static void park_wait(const struct gpu *g)
{
    uint64_t until = g->vgpu_ended_ns + (GPU_PARK_MS + 130) * UINT64_C(1000000);

    while (g->daemon && g->vgpu_ended_ns && vgpu_now_ns() < until)
        proc_nap(0.005);
}

int crew_prepare(struct gpu *g, const struct crew *c, const struct tenant_cell *cell, struct outcome *out)
{
    const char *missing = crew_missing(g, c->kind);
    uint32_t refused = 0; /* that cannot do such a cell, and wait for another */
    int rc;

    if (missing || gpu_interrupted) {
        out->rc = -ENODEV;
        snprintf(out->text, sizeof(out->text), "%s", missing ? missing : "interrupted");
        return out->rc;
    }
    rc = members_open(g, c, out);
    if (rc)
        return rc;
    if (c->kind != CREW_VGPU)
        park_wait(g);
    for (uint32_t i = 0; i < c->count; i++) {
        struct member *m = member_of(g, c->kind, c->first + i);
        char byte = TENANT_PREPARE;
        m->shared->cell = *cell;
        m->shared->cell.share = g->shared_cores || c->count > (uint32_t)g->tenants_max;
        vgpu_store_relaxed(&m->shared->go, 0); /* it sleeps in read(), which orders this */
        if (send(m->fd, &byte, 1, MSG_NOSIGNAL) != 1)
            rc = said(out, -EPIPE, m, "ended");
    }
    for (uint32_t i = 0; i < c->count; i++) {
        struct member *m = member_of(g, c->kind, c->first + i);
        int one = expect(m, TENANT_READY, CELL_TIMEOUT_S, out);
        refused += one == -ENOTSUP;
        if (one && one != -ENOTSUP)
            member_end(m);
        rc = rc ? rc : one;
    }
    if (rc && refused < c->count) /* those that are ready must not wait for ever */
        for (uint32_t i = 0; i < c->count; i++)
            member_end(member_of(g, c->kind, c->first + i));
    return rc;
}

void crew_go(struct gpu *g, const struct crew *c, double lead_s)
{
    uint64_t tick = vgpu_ticks() + vgpu_ns_to_ticks((uint64_t)(lead_s * 1e9));

    for (uint32_t i = 0; i < c->count; i++)
        vgpu_store_release(&member_of(g, c->kind, c->first + i)->shared->go, tick); /* G2 pairs with G1 */
}

int crew_collect(struct gpu *g, const struct crew *c, struct outcome *out)
{
    int rc = 0;

    for (uint32_t i = 0; i < c->count; i++) {
        struct member *m = member_of(g, c->kind, c->first + i);
        int one = m->shared ? expect(m, TENANT_DONE, CELL_TIMEOUT_S, out) : said(out, -ECHILD, m, "ended");
        if (one) {
            member_end(m);
            rc = rc ? rc : one;
            continue;
        }
        const struct tenant_result *r = &m->shared->result;
        out->ops += r->ops;
        out->least = i == 0 || r->ops < out->least ? r->ops : out->least;
        out->rate += r->elapsed_ns ? (double)r->ops * 1e9 / (double)r->elapsed_ns : 0;
        tenant_hist_merge(&out->hist, &r->hist);
    }
    if (c->kind == CREW_VGPU)
        g->vgpu_ended_ns = vgpu_now_ns();
    return rc;
}

void crew_run(struct gpu *g, const struct crew *c, const struct tenant_cell *cell, struct outcome *out)
{
    memset(out, 0, sizeof(*out));
    if (crew_prepare(g, c, cell, out) == 0) {
        crew_go(g, c, 0.001);
        crew_collect(g, c, out);
    } else if (c->kind == CREW_VGPU) {
        g->vgpu_ended_ns = vgpu_now_ns();
    }
}

void crew_end(struct gpu *g, enum crew_kind kind)
{
    for (uint32_t i = 0; i < g->n_members; i++) /* all of them at once, then wait for each */
        if (g->members[i].kind == kind)
            member_release(&g->members[i]);
    for (uint32_t i = 0; i < g->n_members; i++)
        if (g->members[i].kind == kind)
            member_end(&g->members[i]);
}

void crew_end_all(struct gpu *g)
{
    for (int kind = 0; kind < CREW_KINDS; kind++)
        crew_end(g, (enum crew_kind)kind);
    free(g->members);
    g->members = NULL;
    g->n_members = 0;
}
