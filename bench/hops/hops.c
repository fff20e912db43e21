/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Each measurement sends descriptors of one VM through the real path (the rig of bench/path) with tracing on, one of one,
 * and puts the records of guest, poll core and executor together. The same without tracing, interleaved, says what that
 * costs. The guest is this program, so its own two hops are stamps of its own, by position.
 */
#include "bench/hops/hops.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench/path/rig.h"
#include "trace/trace.h"

#define DEFAULT_SECONDS 15.0
#define SLICE_MAX_S     0.25
#define SLOTS           1024u
#define TRACE_SLOTS     65536u
#define LIVES_MAX       60000u /* of one measurement: fewer than a ring holds, so none is written over */
#define SHOWN_MAX       1000000u
#define CHROME_LIVES    5000u  /* a viewer is slow with more */
#define BURST_DEFAULT   32u
#define BURST_MOST      32u
#define ADD_N           256u   /* floats of a vector add */
#define ARENA_BYTES     4096u
#define STUCK_NS        UINT64_C(5000000000)

struct cell {
    const char *subject, *backend;
    bool in_process, add; /* vector adds, else NOPs */
    uint32_t burst;
    /* over all rounds */
    struct vgpu_trace_life *lives;
    size_t count;
};
#define CELLS_MAX 16

struct load {
    struct rig *rig;
    const struct cell *cell;
    uint64_t ticks;
    uint64_t *published, *seen; /* [LIVES_MAX], ticks, by number; NULL: not traced */
    uint64_t first, n, errors;  /* number of the first; how many came back */
    struct bench_hist *hist;    /* round trips of bursts */
};

struct run {
    struct bench *b;
    struct rig *rig[2]; /* backend null, backend cpu */
    struct cell cells[CELLS_MAX];
    int n_cells;
    uint64_t ticks, errors;
    uint64_t *published, *seen;
    struct bench_hist *hist;
};

/* ---- the guest ---- */

static void slot_fill(struct vgpu_slot *slot, bool add, uint64_t number)
{
    struct vgpu_desc *d = (struct vgpu_desc *)slot;

    memset(slot, 0, sizeof(*slot));
    d->tag = (uint32_t)number;
    if (!add)
        return;
    d->opcode = VGPU_OP_VECTOR_ADD;
    d->dst = VGPU_REF(VGPU_HANDLE_ARENA, 0);
    d->src0 = VGPU_REF(VGPU_HANDLE_ARENA, ADD_N * 4);
    d->src1 = VGPU_REF(VGPU_HANDLE_ARENA, ADD_N * 8);
    d->n = ADD_N;
}

static void take(struct load *l, struct rig_guest *g, const struct vgpu_slot *slots, uint32_t count)
{
    uint64_t now = l->seen ? vgpu_ticks_ordered() : 0;

    for (uint32_t i = 0; i < count; i++) {
        const struct vgpu_cpl *c = (const struct vgpu_cpl *)&slots[i];
        l->errors += c->tag != (uint32_t)g->done || c->status != VGPU_OK || c->sq_pos != g->sq_start + g->done;
        if (l->seen)
            l->seen[g->done - l->first] = now;
        g->done++;
    }
}

/* A burst, and all its answers; then the next. */
static void guest_main(void *arg)
{
    struct load *l = arg;
    struct rig_guest *g = &l->rig->guests[0];
    struct vgpu_slot slots[BURST_MOST];
    uint64_t from = vgpu_ticks(), last = from;

    l->first = g->done;
    while (last - from < l->ticks && l->n + l->cell->burst <= LIVES_MAX && !l->errors) {
        for (uint32_t i = 0; i < l->cell->burst; i++)
            slot_fill(&slots[i], l->cell->add, g->sent + i);
        for (uint32_t i = 0; i < l->cell->burst; i++) {
            if (l->published)
                l->published[g->sent - l->first] = vgpu_ticks();
            l->errors += vgpu_prod_push(&g->sq, &slots[i], 1) != 1; /* there is room: all were answered */
            g->sent++;
        }
        for (uint32_t spins = 1; g->done < g->sent && !l->errors; spins++) {
            uint32_t got = vgpu_cons_pop(&g->cq, slots, BURST_MOST);
            if (got)
                take(l, g, slots, got);
            else if (spins % 65536 == 0 && vgpu_ticks_to_ns(vgpu_ticks() - last) > STUCK_NS)
                l->errors++;
        }
        uint64_t now = vgpu_ticks();
        bench_hist_add(l->hist, now - last);
        last = now;
        l->n += l->cell->burst;
    }
    rig_stop(l->rig);
}

/* ---- one measurement ---- */

static int lives_read(struct run *run, struct cell *cell, const struct load *l, uint64_t since)
{
    struct vgpu_trace_set set = {0};
    struct vgpu_trace_life *lives = NULL;
    uint64_t start = l->rig->guests[0].sq_start + l->first;
    size_t count = 0;
    int rc = vgpu_trace_collect(&set, l->rig->trace, VGPU_TRACE_POLL_CORE, TRACE_SLOTS, 0, 1, since);

    if (!rc)
        rc = vgpu_trace_collect(&set, vgpu_xchg_trace(l->rig->xchg), VGPU_TRACE_EXECUTOR, TRACE_SLOTS, 0, 1, since);
    if (!rc)
        rc = vgpu_trace_lives(&set, &lives, &count);
    vgpu_trace_set_free(&set);
    for (size_t i = 0; i < count && !rc; i++) {
        uint64_t number = lives[i].position - start;
        if (number >= l->n)
            continue;
        lives[i].at[VGPU_HOP_PUBLISHED] = l->published[number];
        lives[i].at[VGPU_HOP_GUEST_SEEN] = l->seen[number];
    }
    if (!rc && count != l->n) { /* a quiet host, one of one: each has to be there */
        fprintf(run->b->text, "hops: %zu lives of %llu descriptors\n", count, (unsigned long long)l->n);
        run->errors++;
    }
    if (!rc && run->b->round >= 0 && cell->count + count <= SHOWN_MAX) {
        struct vgpu_trace_life *more = realloc(cell->lives, (cell->count + count) * sizeof(*more));
        if (more) {
            memcpy(more + cell->count, lives, count * sizeof(*more));
            cell->lives = more;
            cell->count += count;
        }
    }
    if (!rc) {
        struct vgpu_waterfall w;
        char params[96];
        if (vgpu_waterfall(lives, count, vgpu_clock.ticks_hz, &w) == 0)
            for (uint32_t r = 0; r < VGPU_WATERFALL_ROWS; r++) {
                if (w.row[r].lives == 0)
                    continue;
                snprintf(params, sizeof(params), "{\"burst\":%u,\"percentile\":\"%s\"}", cell->burst, vgpu_waterfall_name(r));
                bench_record(run->b, "hops.until", cell->subject, params, "total", "ns", w.row[r].total_ns);
                for (uint32_t h = 1; h < VGPU_HOP_COUNT; h++)
                    if (!isnan(w.row[r].span_ns[h]))
                        bench_record(run->b, "hops.until", cell->subject, params, vgpu_hop_names[h], "ns", w.row[r].span_ns[h]);
            }
    }
    free(lives);
    return rc;
}

static int measure(struct run *run, struct cell *cell, bool traced)
{
    struct rig *rig = run->rig[cell->add];
    struct load l = {.rig = rig, .cell = cell, .ticks = run->ticks, .hist = run->hist};
    uint64_t since = vgpu_ticks();
    char params[64];

    if (traced) {
        l.published = run->published;
        l.seen = run->seen;
    }
    memset(run->hist, 0, sizeof(*run->hist));
    rig_publish(rig, 1, cell->in_process);
    rig_trace(rig, 0, traced);
    bench_thread_fn *const fn[] = {guest_main, rig_poll_main, rig_exec_main};
    void *const arg[] = {&l, rig, rig};
    int err = bench_team_run(run->b, run->b->cores, cell->in_process ? 2 : 3, fn, arg);
    rig_trace(rig, 0, 0);
    if (err)
        return err;
    if (l.errors) {
        fprintf(run->b->text, "WRONG DATA: hops/%s: %llu of %llu\n", cell->subject, (unsigned long long)l.errors,
                (unsigned long long)l.n);
        run->errors += l.errors;
        return 0;
    }
    snprintf(params, sizeof(params), "{\"burst\":%u,\"tracing\":%s}", cell->burst, traced ? "true" : "false");
    bench_record(run->b, "hops.round", cell->subject, params, "p50", "ns", bench_hist_quantile_ns(run->hist, 0.5));
    return traced ? lives_read(run, cell, &l, since) : 0;
}

/* ---- the suite ---- */

static void cells_add(struct run *run, const char *subject, bool in_process, bool add)
{
    const struct bench_list *given = &run->b->burst;
    uint32_t n = given->n ? given->n : 2;

    for (uint32_t i = 0; i < n && run->n_cells < CELLS_MAX; i++) {
        uint32_t burst = given->n ? (uint32_t)given->value[i] : i ? BURST_DEFAULT : 1;
        if (bench_wanted(run->b, "hops", subject))
            run->cells[run->n_cells++] = (struct cell){
                .subject = subject, .backend = add ? "cpu" : "null", .in_process = in_process, .add = add, .burst = burst};
    }
}

static void report(struct run *run)
{
    struct bench *b = run->b;

    for (int i = 0; i < run->n_cells; i++) {
        struct cell *c = &run->cells[i];
        struct vgpu_waterfall w;
        char off[64], on[64];
        fprintf(b->text, "\n%s: backend %s, %s, bursts of %u\n", c->subject, c->backend,
                c->in_process ? "poll core and executor in one loop" : "a core each", c->burst);
        if (vgpu_waterfall(c->lives, c->count, vgpu_clock.ticks_hz, &w))
            continue;
        vgpu_waterfall_print(b->text, &w, 40);
        snprintf(off, sizeof(off), "{\"burst\":%u,\"tracing\":false}", c->burst);
        snprintf(on, sizeof(on), "{\"burst\":%u,\"tracing\":true}", c->burst);
        const struct bench_row *without = bench_find(b, "hops.round", c->subject, off, "p50");
        const struct bench_row *with = bench_find(b, "hops.round", c->subject, on, "p50");
        fprintf(b->text, "a burst and its answers: %.0f ns untraced, %.0f ns with each descriptor traced (x %.2f)\n",
                bench_median(without), bench_median(with), bench_ratio(with, without));
    }
}

static int chrome_write(struct run *run)
{
    const struct cell *c = run->n_cells ? &run->cells[run->n_cells - 1] : NULL;

    if (!run->b->chrome || !c || c->count == 0)
        return 0;
    FILE *f = fopen(run->b->chrome, "we");
    size_t count = c->count < CHROME_LIVES ? c->count : CHROME_LIVES;
    int rc = f ? vgpu_trace_chrome(f, c->lives, count, vgpu_clock.ticks_hz, c->backend) : -errno;
    if (f && fclose(f) && !rc)
        rc = -errno;
    fprintf(run->b->text, rc ? "\nhops: cannot write %s: %s\n" : "\n%s%s: open it at ui.perfetto.dev\n", run->b->chrome,
            rc ? strerror(-rc) : "");
    return rc;
}

static int run_open(struct run *run)
{
    struct vgpu_err err = {0};
    int rc = 0;

    run->published = calloc(LIVES_MAX, sizeof(uint64_t));
    run->seen = calloc(LIVES_MAX, sizeof(uint64_t));
    run->hist = calloc(1, sizeof(*run->hist));
    if (!run->published || !run->seen || !run->hist)
        return -ENOMEM;
    for (int i = 0; i < 2 && !rc; i++) {
        struct rig_params params = {.vms = 1, .ring_slots = SLOTS, .in_flight = SLOTS, .window = 256, .burst = 32,
                                    .budget = 64, .handles = 16, .arena_bytes = ARENA_BYTES, .trace_slots = TRACE_SLOTS,
                                    .backend = i ? "cpu" : "null"};
        rc = rig_open(&params, &run->rig[i], &err);
    }
    if (rc)
        fprintf(run->b->text, "hops: %s\n", err.text);
    return rc;
}

int bench_hops_run(struct bench *b)
{
    struct run run = {.b = b};
    int err = run_open(&run);

    if (!err && b->n_cores < 2) {
        fprintf(b->text, "SKIPPED: hops: needs 2 cores, there is %d\n", b->n_cores);
        err = BENCH_SKIPPED;
    }
    if (err)
        goto out;
    cells_add(&run, "rtc", true, false);
    cells_add(&run, "rtc-cpu", true, true);
    if (b->n_cores >= 3) {
        cells_add(&run, "split", false, false);
        cells_add(&run, "split-cpu", false, true);
    } else {
        fprintf(b->text, "SKIPPED: split (the executor on a core of its own): needs 3 cores, there are 2\n");
    }
    double slice_s = bench_slice_s(b, DEFAULT_SECONDS, 2 * run.n_cells, SLICE_MAX_S);
    run.ticks = (uint64_t)(slice_s * (double)vgpu_clock.ticks_hz);
    bench_rounds(b)
        for (int i = 0; i < 2 * run.n_cells && !err; i++) {
            int k = bench_turn(b, i, 2 * run.n_cells);
            err = measure(&run, &run.cells[k / 2], k % 2);
        }
    if (err)
        fprintf(b->text, "hops: stopped: %s\n", strerror(-err));
    else
        report(&run);
    if (!err)
        err = chrome_write(&run);
    if (run.errors)
        err = -EBADMSG;
out:
    for (int i = 0; i < run.n_cells; i++)
        free(run.cells[i].lives);
    rig_close(run.rig[0]);
    rig_close(run.rig[1]);
    free(run.published);
    free(run.seen);
    free(run.hist);
    return err;
}

void bench_hops_list(FILE *to)
{
    fprintf(to,
            "  measurements: hops: until each hop, by percentile; a burst's round trip with and without tracing\n"
            "  rtc, split         backend null: poll core and executor in one loop; a core each (from 3 cores on)\n"
            "  rtc-cpu, split-cpu backend cpu, vector adds of 256 floats: with the device's two hops\n");
}
