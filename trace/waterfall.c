/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>

#include "trace/trace.h"

#define WINDOW_SHARE 200u /* of all lives: next to a percentile are those within half a percent of it */

static const double quantiles[VGPU_WATERFALL_ROWS] = {0.5, 0.9, 0.99, 0.999};
static const char *const names[VGPU_WATERFALL_ROWS] = {"p50", "p90", "p99", "p99.9"};

const char *vgpu_waterfall_name(unsigned row)
{
    return row < VGPU_WATERFALL_ROWS ? names[row] : "";
}

/* Bits of the hops that are known; 0: it is not over, or its times contradict each other. */
static uint32_t hops_of(const struct vgpu_trace_life *l)
{
    uint32_t hops = 0;
    uint64_t last = 0;

    for (uint32_t h = 0; h < VGPU_HOP_COUNT; h++) {
        if (!l->at[h])
            continue;
        if (l->at[h] < last)
            return 0;
        last = l->at[h];
        hops |= 1u << h;
    }
    return (hops >> VGPU_HOP_SEEN & 1) && (hops >> VGPU_HOP_COMPLETED & 1) ? hops : 0;
}

static uint64_t total_of(const struct vgpu_trace_life *l, uint32_t hops)
{
    return l->at[31 - __builtin_clz(hops)] - l->at[__builtin_ctz(hops)];
}

/* The hops that most lives have. */
static uint32_t hops_most(const struct vgpu_trace_life *lives, size_t count)
{
    uint32_t tally[1u << VGPU_HOP_COUNT] = {0}, best = 0;

    for (size_t i = 0; i < count; i++) {
        uint32_t hops = hops_of(&lives[i]);
        if (hops && ++tally[hops] > tally[best])
            best = hops;
    }
    return best;
}

struct ranked {
    uint64_t total;
    const struct vgpu_trace_life *life;
};

static int by_total(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;

    if (x->total != y->total)
        return x->total < y->total ? -1 : 1;
    return x->life < y->life ? -1 : x->life > y->life;
}

static void row_fill(struct vgpu_waterfall_row *row, const struct ranked *r, size_t n, uint32_t hops, double ns_per_tick)
{
    size_t rank = (size_t)ceil(row->q * (double)n), half;

    for (uint32_t h = 0; h < VGPU_HOP_COUNT; h++)
        row->span_ns[h] = NAN;
    if (n < 2 || (double)n * (1 - row->q) < 1) /* no life is beyond: the slowest would stand for the percentile */
        return;
    rank = rank ? rank - 1 : 0;
    half = n / WINDOW_SHARE;
    half = half < (n - 1 - rank) / 2 ? half : (n - 1 - rank) / 2; /* nearer to the percentile than to the slowest */
    half = half < rank ? half : rank;
    row->lives = (uint32_t)(2 * half + 1);
    uint64_t sum[VGPU_HOP_COUNT] = {0};
    for (size_t i = rank - half; i <= rank + half; i++) {
        uint64_t last = 0;
        for (uint32_t h = 0; h < VGPU_HOP_COUNT; h++)
            if (hops >> h & 1) {
                sum[h] += last ? r[i].life->at[h] - last : 0;
                last = r[i].life->at[h];
            }
    }
    for (uint32_t h = 0; h < VGPU_HOP_COUNT; h++)
        if (hops >> h & 1) {
            row->span_ns[h] = (double)sum[h] * ns_per_tick / row->lives;
            row->total_ns += row->span_ns[h];
        }
}

int vgpu_waterfall(const struct vgpu_trace_life *lives, size_t count, uint64_t ticks_hz, struct vgpu_waterfall *out)
{
    struct ranked *r = malloc((count ? count : 1) * sizeof(*r));
    size_t n = 0;

    memset(out, 0, sizeof(*out));
    if (!r)
        return -ENOMEM;
    out->hops = hops_most(lives, count);
    for (size_t i = 0; i < count && out->hops; i++)
        if (hops_of(&lives[i]) == out->hops)
            r[n++] = (struct ranked){total_of(&lives[i], out->hops), &lives[i]};
    out->lives = n;
    out->left_out = count - n;
    qsort(r, n, sizeof(*r), by_total);
    for (uint32_t i = 0; i < VGPU_WATERFALL_ROWS; i++) {
        out->row[i].q = quantiles[i];
        row_fill(&out->row[i], r, n, out->hops, 1e9 / (double)ticks_hz);
    }
    free(r);
    return n ? 0 : -ENODATA;
}

/* ---- for people ---- */

static void time_print(FILE *to, double ns)
{
    if (ns < 1e4)
        fprintf(to, "%8.0f ns", ns);
    else if (ns < 1e7)
        fprintf(to, "%8.1f us", ns / 1e3);
    else
        fprintf(to, "%8.1f ms", ns / 1e6);
}

/* A bar from `from` to `until` of `total`, in eighths of a column; nothing is drawn for less than one. */
static void bar_print(FILE *to, double from, double until, double total, unsigned columns)
{
    static const char *const part[] = {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
    unsigned start = total > 0 ? (unsigned)(from / total * columns) : 0;
    unsigned eighths = total > 0 ? (unsigned)((until - from) / total * columns * 8 + 0.5) : 0;

    fprintf(to, "%*s", (int)start, "");
    for (unsigned i = 0; i < eighths / 8; i++)
        fputs("█", to);
    fputs(part[eighths % 8], to);
}

void vgpu_waterfall_print(FILE *to, const struct vgpu_waterfall *w, unsigned columns)
{
    for (uint32_t i = 0; i < VGPU_WATERFALL_ROWS; i++) {
        const struct vgpu_waterfall_row *row = &w->row[i];
        double at = 0;
        if (row->lives == 0)
            continue;
        fprintf(to, "%s: ", names[i]);
        time_print(to, row->total_ns);
        fprintf(to, " (mean of %u next to it, of %llu)\n", row->lives, (unsigned long long)w->lives);
        for (uint32_t h = 0; h < VGPU_HOP_COUNT; h++) {
            if (isnan(row->span_ns[h]) || h == (uint32_t)__builtin_ctz(w->hops))
                continue;
            /* Where hops are missing in between, the span is theirs too. */
            bool whole = w->hops >> (h - 1) & 1;
            fprintf(to, "  %-13s %-25s", vgpu_hop_names[h], whole ? vgpu_hop_spans[h] : "(all since the hop above)");
            time_print(to, row->span_ns[h]);
            fprintf(to, " %3.0f %%  ", row->total_ns > 0 ? 100 * row->span_ns[h] / row->total_ns : 0);
            bar_print(to, at, at + row->span_ns[h], row->total_ns, columns);
            fputc('\n', to);
            at += row->span_ns[h];
        }
    }
    if (w->left_out)
        fprintf(to, "%llu more are left out: not over, or known at other hops than these\n", (unsigned long long)w->left_out);
}
