/* SPDX-License-Identifier: Apache-2.0 */
/* The tenant: the one loop that every side runs, and serving vgpu-bench (or one cell from the command line). */
#include "bench/peers/tenant.h"

#include <errno.h>
#include <getopt.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <signal.h>
#include <unistd.h>

#define STUCK_NS  UINT64_C(15000000000) /* nothing came back for this long: the cell has failed */
#define STAMPS    8192u                 /* power of two, at least the deepest cell */
#define PAUSE_NS  UINT64_C(2000)        /* between looks where the core is shared */

struct tenant {
    const struct side_ops *ops;
    struct side *side;
    struct plan plan;
    struct tenant_shared *shared;
    uint64_t sent, done; /* since prepare */
    uint64_t stamp[STAMPS];
};

#ifndef HAVE_CUDA
const struct side_ops side_native = {.name = "native"};

int side_native_probe(const struct tenant_options *o, FILE *to, char *text)
{
    snprintf(text, TENANT_TEXT_BYTES, "this build has no CUDA in it");
    return -ENOTSUP;
}
#endif

/* ---- The loop ---- */
static int failed(struct tenant_result *r, int rc, const char *text)
{
    r->rc = rc;
    if (text != r->text)
        snprintf(r->text, sizeof(r->text), "%s", text);
    return rc;
}

static void wait_a_bit(const struct tenant_cell *cell)
{
    if (cell->share)
        sched_yield();
}

/* Takes what has finished. A count or -errno. */
static int collect(struct tenant *t, struct tenant_result *r, uint64_t *now)
{
    bool fresh = t->plan.cell.data != TENANT_DEVICE;
    int got = t->ops->poll(t->side);

    *now = vgpu_ticks();
    if (got <= 0)
        return got;
    for (int k = 0; k < got; k++, t->done++) {
        if (r)
            tenant_hist_add(&r->hist, vgpu_ticks_to_ns(*now - t->stamp[t->done % STAMPS]));
        if (fresh)
            t->shared->result.wrong += plan_check_one(&t->plan, t->side, t->done);
    }
    if (fresh)
        *now = vgpu_ticks();
    return got;
}

static int start_some(struct tenant *t, uint64_t *now)
{
    const struct tenant_cell *cell = &t->plan.cell;

    if (cell->data != TENANT_DEVICE) {
        plan_refresh(&t->plan, t->side, t->sent);
        *now = vgpu_ticks();
    }
    uint32_t room = (uint32_t)(cell->depth - (t->sent - t->done));
    for (uint32_t k = 0; k < room; k++)
        t->stamp[(t->sent + k) % STAMPS] = *now;
    int rc = t->ops->submit(t->side, t->sent, room);
    if (rc > 0)
        t->sent += (uint64_t)rc;
    return rc;
}

/* Keeps cell.depth operations going until `end`, then until the last one is back. r NULL: warming up. */
static int loop_run(struct tenant *t, uint64_t end, struct tenant_result *r)
{
    uint64_t now = vgpu_ticks(), from = now, last = now, first = t->done;
    uint64_t stuck = vgpu_ns_to_ticks(STUCK_NS);

    for (;;) {
        if (now < end && t->sent - t->done < t->plan.cell.depth) {
            int rc = start_some(t, &now);
            if (rc < 0)
                return rc;
        }
        int got = collect(t, r, &now);
        if (got < 0)
            return got;
        if (got > 0) {
            last = now;
        } else {
            if (now - last > stuck) {
                snprintf(t->side->text, sizeof(t->side->text), "nothing came back for %llu s",
                         (unsigned long long)(STUCK_NS / 1000000000u));
                return -ETIMEDOUT;
            }
            wait_a_bit(&t->plan.cell);
        }
        if (now >= end && t->sent == t->done)
            break;
    }
    if (r) {
        r->ops = t->done - first;
        r->elapsed_ns = vgpu_ticks_to_ns(last - from);
    }
    return 0;
}

/* ---- One cell ---- */
static bool cell_sane(const struct tenant_cell *c, char *text)
{
    uint32_t unit = c->graph ? c->graph : c->notify ? c->notify : 1;

    if (c->depth >= 1 && c->depth <= STAMPS && c->depth % unit == 0 && (c->data == TENANT_DEVICE || c->depth == 1))
        return true;
    snprintf(text, TENANT_TEXT_BYTES, "depth %u in units of %u is not possible", c->depth, unit);
    return false;
}

static int cell_prepare(struct tenant *t)
{
    struct tenant_result *r = &t->shared->result;
    struct tenant_cell cell = t->shared->cell;

    memset(r, 0, sizeof(*r));
    if (!cell_sane(&cell, r->text))
        return failed(r, -EINVAL, r->text);
    t->sent = t->done = 0;
    int rc = plan_make(&t->plan, t->side, &cell, r->text);
    if (rc)
        return failed(r, rc, r->text);
    rc = plan_load(&t->plan, t->side);
    if (rc)
        return failed(r, rc, t->side->text);
    rc = t->ops->prepare(t->side, &cell, r->text);
    if (rc)
        return failed(r, rc, r->text);
    if (cell.op == TENANT_CHURN)
        return 0;
    rc = loop_run(t, vgpu_ticks() + vgpu_ns_to_ticks(cell.warmup_ns), NULL);
    return rc ? failed(r, rc, t->side->text) : 0;
}

static int cell_run(struct tenant *t)
{
    struct tenant_shared *shared = t->shared;
    struct tenant_result *r = &shared->result;
    uint64_t go;
    int rc;

    while ((go = vgpu_load_acquire(&shared->go)) == 0) /* G1 pairs with G2 */
        wait_a_bit(&t->plan.cell);
    if (go == UINT64_MAX) {
        t->ops->finish(t->side);
        return failed(r, -ECANCELED, "left out");
    }
    while (vgpu_ticks() < go)
        wait_a_bit(&t->plan.cell);
    uint64_t end = go + vgpu_ns_to_ticks(t->plan.cell.run_ns);
    if (t->plan.cell.op == TENANT_CHURN)
        rc = t->ops->churn(t->side, end, r);
    else
        rc = loop_run(t, end, r);
    int finished = t->ops->finish(t->side);
    if (rc || finished)
        return failed(r, rc ? rc : finished, t->side->text);
    int64_t wrong = t->plan.cell.unchecked ? 0 : plan_check(&t->plan, t->side, t->done);
    if (wrong < 0)
        return failed(r, (int)wrong, t->side->text);
    r->wrong += (uint64_t)wrong;
    if (r->wrong) {
        snprintf(r->text, sizeof(r->text), "%llu wrong results", (unsigned long long)r->wrong);
        return failed(r, -EBADMSG, r->text);
    }
    return 0;
}

/* ---- Serving ---- */
static int say(int fd, char byte)
{
    return write(fd, &byte, 1) == 1 ? 0 : -EPIPE;
}

static int serve(struct tenant *t, int fd)
{
    char byte;

    if (say(fd, TENANT_READY))
        return 1;
    while (read(fd, &byte, 1) == 1 && byte == TENANT_PREPARE) {
        bool ok = cell_prepare(t) == 0;
        if (say(fd, ok ? TENANT_READY : TENANT_FAILED))
            return 1;
        if (!ok) {
            t->ops->finish(t->side);
            continue;
        }
        ok = cell_run(t) == 0;
        if (say(fd, ok ? TENANT_DONE : TENANT_FAILED))
            return 1;
    }
    return 0;
}

static void result_print(const struct tenant_result *r, const struct tenant_cell *cell)
{
    static const double at[] = {0.5, 0.99, 0.999};

    printf("{\"ops\":%llu,\"seconds\":%.6f,\"rate\":%.1f,\"wrong\":%llu", (unsigned long long)r->ops,
           (double)r->elapsed_ns / 1e9, r->elapsed_ns ? (double)r->ops * 1e9 / (double)r->elapsed_ns : 0,
           (unsigned long long)r->wrong);
    for (int i = 0; i < 3 && r->hist.count; i++)
        printf(",\"p%g_us\":%.3f", at[i] * 100, tenant_hist_quantile(&r->hist, at[i]) / 1e3);
    printf(",\"n\":%llu,\"depth\":%u}\n", (unsigned long long)cell->n, cell->depth);
}

/* ---- Command line ---- */
static void usage(FILE *to)
{
    fprintf(to, "usage: vgpu-bench-tenant --mode native|vgpu [OPTION...]    (vgpu-bench gpu starts these itself)\n\n"
                "  --op vadd|gemm|copy-h2d|copy-d2h|nop|pingpong|resident|churn\n"
                "  --n N  --data device|arena|copied  --depth D  --seconds S  --bf16\n"
                "  --wait sync|value|event  --notify N  --graph LAUNCHES  --chains N  --streams N --slots N  (native)\n"
                "  --vm ID  --socket PATH  --token PATH  --patience SECONDS                            (vgpu)\n"
                "  --cpu N  --host-bytes B  --device-bytes B  --device N  --driver PATH  --cublas PATH\n"
                "  --probe            say what GPU a native tenant would use, and stop\n"
                "  --serve FD,FD      for vgpu-bench: a socket, and memory shared with it\n"
                "prints one line of JSON; ends with 1 when a result was wrong or nothing could be measured\n");
}

static int index_of(const char *const *names, const char *name)
{
    for (int i = 0; names[i]; i++)
        if (strcmp(names[i], name) == 0)
            return i;
    fprintf(stderr, "vgpu-bench-tenant: '%s' is none of those that --help names\n", name);
    exit(2);
}

struct command {
    struct tenant_options options;
    struct tenant_cell cell;
    const char *serve;
    bool probe;
};

static const char *const op_names[] = {"vadd", "gemm", "copy-h2d", "copy-d2h", "nop", "pingpong", "resident", "churn",
                                       NULL};
static const char *const data_names[] = {"device", "arena", "copied", NULL};
static const char *const wait_names[] = {"sync", "value", "event", NULL};

static void option_take(struct command *c, int option, const char *value)
{
    struct tenant_options *o = &c->options;
    uint64_t number = value ? strtoull(value, NULL, 0) : 0;

    switch (option) {
    case 'm': o->mode = value; break;
    case 'o': c->cell.op = (uint32_t)index_of(op_names, value); break;
    case 'n': c->cell.n = number; break;
    case 'd': c->cell.data = (uint32_t)index_of(data_names, value); break;
    case 'D': c->cell.depth = (uint32_t)number; break;
    case 's': c->cell.run_ns = (uint64_t)(strtod(value, NULL) * 1e9); break;
    case 'b': c->cell.bf16 = 1; break;
    case 'w': c->cell.wait = (uint32_t)index_of(wait_names, value); break;
    case 'N': c->cell.notify = (uint32_t)number; break;
    case 'g': c->cell.graph = (uint32_t)number; break;
    case 'k': c->cell.chains = (uint32_t)number; break;
    case 'S': c->cell.streams = (uint32_t)number; break;
    case 'O': c->cell.slots = (uint32_t)number; break;
    case 'v': o->vm_id = (uint32_t)number; break;
    case 'p': o->socket_path = value; break;
    case 't': o->token_path = value; break;
    case 'c': o->cpu = (int)number; break;
    case 'H': o->host_bytes = number; break;
    case 'G': o->device_bytes = number; break;
    case 'i': o->device = (uint32_t)number; break;
    case 'W': o->patience_s = (uint32_t)number; break;
    case 'L': o->driver = value; break;
    case 'B': o->cublas = value; break;
    case 'P': c->probe = true; break;
    case 'f': c->serve = value; break;
    case 'h': usage(stdout); exit(0);
    default: usage(stderr); exit(2);
    }
}

static void command_read(struct command *c, int argc, char **argv)
{
    static const struct option options[] = {
        {"mode", 1, NULL, 'm'},   {"op", 1, NULL, 'o'},         {"n", 1, NULL, 'n'},            {"data", 1, NULL, 'd'},
        {"depth", 1, NULL, 'D'},  {"seconds", 1, NULL, 's'},    {"bf16", 0, NULL, 'b'},         {"wait", 1, NULL, 'w'},
        {"notify", 1, NULL, 'N'}, {"graph", 1, NULL, 'g'},      {"chains", 1, NULL, 'k'},       {"streams", 1, NULL, 'S'}, {"slots", 1, NULL, 'O'},
        {"vm", 1, NULL, 'v'},     {"socket", 1, NULL, 'p'},     {"token", 1, NULL, 't'},        {"cpu", 1, NULL, 'c'},
        {"host-bytes", 1, NULL, 'H'}, {"device-bytes", 1, NULL, 'G'}, {"device", 1, NULL, 'i'}, {"driver", 1, NULL, 'L'},
        {"cublas", 1, NULL, 'B'}, {"probe", 0, NULL, 'P'},      {"serve", 1, NULL, 'f'},        {"help", 0, NULL, 'h'},
        {"patience", 1, NULL, 'W'},
        {NULL, 0, NULL, 0},
    };
    int option;

    *c = (struct command){
        .options = {.mode = "", .cpu = -1, .patience_s = 10, .host_bytes = (uint64_t)16 << 20, .device_bytes = (uint64_t)64 << 20},
        .cell = {.n = 256, .depth = 1, .run_ns = 1000000000},
    };
    while ((option = getopt_long(argc, argv, "h", options, NULL)) != -1)
        option_take(c, option, optarg);
    c->cell.warmup_ns = c->cell.run_ns / 10;
}

static void pin(int cpu)
{
    cpu_set_t set;

    if (cpu < 0)
        return;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (sched_setaffinity(0, sizeof(set), &set))
        fprintf(stderr, "vgpu-bench-tenant: cannot run on CPU %d: %m\n", cpu);
}

static struct tenant_shared *shared_map(const char *serve, int *fd)
{
    int memory = -1;

    *fd = -1;
    if (serve && (sscanf(serve, "%d,%d", fd, &memory) != 2 || *fd < 0 || memory < 0))
        return MAP_FAILED;
    return mmap(NULL, sizeof(struct tenant_shared), PROT_READ | PROT_WRITE,
                memory < 0 ? MAP_SHARED | MAP_ANONYMOUS : MAP_SHARED, memory, 0);
}

static int run_once(struct tenant *t, const struct command *c)
{
    int rc;

    t->shared->cell = c->cell;
    rc = cell_prepare(t);
    t->shared->go = vgpu_ticks();
    if (!rc)
        rc = cell_run(t);
    if (rc) {
        fprintf(stderr, "vgpu-bench-tenant: %s\n", t->shared->result.text);
        return 1;
    }
    result_print(&t->shared->result, &c->cell);
    return 0;
}

int main(int argc, char **argv)
{
    static struct tenant t;
    struct command c;
    char text[TENANT_TEXT_BYTES] = "";
    int fd;

    command_read(&c, argc, argv);
    if (c.serve)
        prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0); /* whatever happens to vgpu-bench, nothing stays behind */
    vgpu_clock_init();
    if (c.probe) {
        if (side_native_probe(&c.options, stdout, text) == 0)
            return 0;
        printf("%s\n", text);
        return 77;
    }
    t.ops = strcmp(c.options.mode, "native") == 0 ? &side_native : &side_guest;
    if (strcmp(c.options.mode, t.ops->name)) {
        usage(stderr);
        return 2;
    }
    t.shared = shared_map(c.serve, &fd);
    if (t.shared == MAP_FAILED) {
        fprintf(stderr, "vgpu-bench-tenant: no shared memory: %m\n");
        return 1;
    }
    pin(c.options.cpu);
    int rc = t.ops->open ? t.ops->open(&c.options, &t.side, text) : -ENOTSUP;
    if (rc) {
        failed(&t.shared->result, rc, t.ops->open ? text : "this build has no CUDA in it");
        fprintf(stderr, "vgpu-bench-tenant: %s\n", t.shared->result.text);
        if (c.serve)
            say(fd, TENANT_FAILED);
        return 1;
    }
    rc = c.serve ? serve(&t, fd) : run_once(&t, &c);
    t.ops->close(t.side);
    return rc;
}
