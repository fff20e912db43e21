/* SPDX-License-Identifier: Apache-2.0 */
/* The tenant: the one loop that every side runs, and serving vgpu-bench (or one cell from the command line). */
#include "bench/peers/tenant.h"

#include <errno.h>
#include <getopt.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#define STUCK_NS UINT64_C(15000000000) /* nothing came back for this long: the cell has failed */
#define STAMPS   8192u                 /* power of two, at least the deepest cell */
#define PAUSE_NS UINT64_C(2000)        /* between looks where the core is shared */

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
                "  --n N  --data device|arena|copied  --depth D  --seconds S  --bf16 1\n"
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
    double seconds;
};

static const char *const op_names[] = {"vadd",     "gemm",     "copy-h2d", "copy-d2h", "nop",
                                       "pingpong", "resident", "churn",    NULL};
static const char *const data_names[] = {"device", "arena", "copied", NULL};
static const char *const wait_names[] = {"sync", "value", "event", NULL};

enum kind { TEXT, NUMBER32, NUMBER64, SECONDS, WORD };
static const struct field {
    const char *name;
    enum kind kind;
    size_t offset;
    const char *const *words; /* WORD: its index is the value */
} fields[] = {
#define OPTION(name, kind, member)                                                                                     \
    {                                                                                                                  \
        name, kind, offsetof(struct command, member), NULL                                                             \
    }
    OPTION("mode", TEXT, options.mode),
    OPTION("driver", TEXT, options.driver),
    OPTION("cublas", TEXT, options.cublas),
    OPTION("socket", TEXT, options.socket_path),
    OPTION("token", TEXT, options.token_path),
    OPTION("serve", TEXT, serve),
    OPTION("vm", NUMBER32, options.vm_id),
    OPTION("device", NUMBER32, options.device),
    OPTION("cpu", NUMBER32, options.cpu),
    OPTION("patience", NUMBER32, options.patience_s),
    OPTION("host-bytes", NUMBER64, options.host_bytes),
    OPTION("device-bytes", NUMBER64, options.device_bytes),
    OPTION("n", NUMBER64, cell.n),
    OPTION("depth", NUMBER32, cell.depth),
    OPTION("bf16", NUMBER32, cell.bf16),
    OPTION("notify", NUMBER32, cell.notify),
    OPTION("graph", NUMBER32, cell.graph),
    OPTION("chains", NUMBER32, cell.chains),
    OPTION("streams", NUMBER32, cell.streams),
    OPTION("slots", NUMBER32, cell.slots),
    OPTION("seconds", SECONDS, seconds),
#undef OPTION
    {"op", WORD, offsetof(struct command, cell.op), op_names},
    {"data", WORD, offsetof(struct command, cell.data), data_names},
    {"wait", WORD, offsetof(struct command, cell.wait), wait_names},
};
#define FIELDS (sizeof(fields) / sizeof(fields[0]))

static void field_take(struct command *c, const struct field *f, const char *value)
{
    void *at = (char *)c + f->offset;

    switch (f->kind) {
    case TEXT:
        *(const char **)at = value;
        break;
    case NUMBER32:
        *(uint32_t *)at = (uint32_t)strtol(value, NULL, 0);
        break;
    case NUMBER64:
        *(uint64_t *)at = strtoull(value, NULL, 0);
        break;
    case SECONDS:
        *(double *)at = strtod(value, NULL);
        break;
    case WORD:
        *(uint32_t *)at = (uint32_t)index_of(f->words, value);
        break;
    }
}

/* True: --probe. */
static bool command_read(struct command *c, int argc, char **argv)
{
    struct option options[FIELDS + 3] = {{"help", no_argument, NULL, 'h'}, {"probe", no_argument, NULL, 'p'}};
    bool probe = false;
    int option, index = 0;

    *c = (struct command){
        .options = {.mode = "", .cpu = -1, .patience_s = 10, .host_bytes = 16u << 20, .device_bytes = 64u << 20},
        .cell = {.n = 256, .depth = 1},
        .seconds = 1,
    };
    for (size_t i = 0; i < FIELDS; i++)
        options[2 + i] = (struct option){fields[i].name, required_argument, NULL, 'f'};
    while ((option = getopt_long(argc, argv, "h", options, &index)) != -1) {
        if (option == 'f') {
            field_take(c, &fields[index - 2], optarg);
        } else if (option == 'p') {
            probe = true;
        } else {
            usage(option == 'h' ? stdout : stderr);
            exit(option == 'h' ? 0 : 2);
        }
    }
    c->cell.run_ns = (uint64_t)(c->seconds * 1e9);
    c->cell.warmup_ns = c->cell.run_ns / 10;
    return probe;
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

    bool probe = command_read(&c, argc, argv);
    if (c.serve)
        prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0); /* whatever happens to vgpu-bench, nothing stays behind */
    vgpu_clock_init();
    if (probe) {
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
