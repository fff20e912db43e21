/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The harness under every benchmark suite: arguments, host facts, pinned threads, memory, repeated measurements and
 * how they are shown (tables for people, JSON Lines for programs).
 *
 * A suite is a function. It measures in rounds: each round measures each subject once, so that what is compared ran
 * within a second of each other; virtual machines move between near and far cores and only neighbours in time can be
 * compared. bench_record() adds one measurement of one round; medians, and the medians of ratios taken round by round,
 * come from what was recorded. Nothing here judges a timing by an exit status.
 *
 * Threads: everything but the functions handed to bench_team_run() runs on the main thread.
 */
#ifndef VGPU_BENCH_HARNESS_H
#define VGPU_BENCH_HARNESS_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include "core/base/atomic.h"
#include "core/base/clock.h"

#ifdef __cplusplus
extern "C" {
#endif

#define BENCH_CORES_MAX 64
#define BENCH_REPS_MAX  101

struct bench_hist;

/* The numbers of one option, growing; n 0: not given. */
#define BENCH_LIST_MAX 12
struct bench_list {
    uint32_t n;
    double value[BENCH_LIST_MAX];
};

/* A measurement repeated round by round. */
struct bench_row {
    char *bench;                  /* "rings.rtt" */
    char *subject;                /* "vgpu" */
    char *params;                 /* a JSON object: {"slots":1024} */
    char *metric;                 /* "p50" */
    char *unit;                   /* "ns" */
    double value[BENCH_REPS_MAX]; /* by round; NAN where it did not run */
    int rounds;
    struct bench_hist *hist; /* metric "hist": all rounds together; else NULL */
};

/* What disturbed a suite; noise.c. NAN: this machine does not tell. */
struct bench_noise {
    bool noisy;
    double switches_per_s, steal_percent, interrupts_per_s, frequency_percent;
    /* private to noise.c */
    uint64_t from_ns, switches, thread_ns, migrations, steal, all, interrupts;
    double mhz_low, mhz_high;
    bool have_steal, have_interrupts, have_frequency;
};

struct bench {
    /* From the command line. */
    uint32_t reps;           /* rounds that count */
    uint32_t warm_up;        /* and before them, that do not: they are rounds below 0 */
    bool reps_given, warm_up_given; /* else a suite may have a default of its own */
    double seconds;          /* time that one suite may take; 0: the suite's default */
    double duration;         /* of one measurement, s; 0: the suite's default */
    double minutes;          /* of a suite that goes on; 0: its default */
    struct bench_list vms, clients, burst, payload, rate; /* payload: bytes; rate: 1/s over all VMs */
    uint32_t ring_slots;     /* 0: the suite's default */
    const char *engine;      /* of the cuda backend; NULL: its own choice */
    const char *load;        /* "open", "closed"; NULL: both */
    const char *filter;      /* only "measurement/subject" names that contain this; NULL: all */
    const char *gpu_options; /* suite gpu: more options of the cuda executor; NULL: none */
    bool gpu_small;          /* suite gpu: small sizes, two tenants */
    const char *chrome;      /* suite hops: a trace for a viewer goes there; NULL: none */
    FILE *json;              /* NULL: none */
    off_t json_from;         /* where rows that are not final begin */
    FILE *text;              /* where tables and remarks go */
    bool list_only;
    int cores[BENCH_CORES_MAX]; /* to use, in order: one of each physical core first */
    int n_cores;
    bool cores_given;
    bool refuse_noisy; /* end with BENCH_NOISY after a suite that was measured while others ran on its cores */
    bool cores_shared; /* one was given twice: everything runs, no goal is judged */
    /* Facts. */
    char *host_json; /* a JSON object */
    bool is_amd;
    bool is_intel;
    /* State. */
    struct bench_noise noise;
    int round; /* of the measurements being recorded; below 0: nothing is */
    struct bench_row *rows;
    size_t n_rows, cap_rows;
    struct bench_mem *mem;
};

#define BENCH_SKIPPED 77 /* a suite's return: it cannot run here at all, and has said why; the exit status too */
#define BENCH_NOISY   3  /* exit status: --refuse-noisy, and the host was */
typedef int bench_suite_fn(struct bench *b);
/* Options that mean something to a suite; the others mean something to all. */
#define BENCH_TAKES_DURATION (1u << 0)
#define BENCH_TAKES_VMS      (1u << 1)
#define BENCH_TAKES_CLIENTS  (1u << 2)
#define BENCH_TAKES_SLOTS    (1u << 3)
#define BENCH_TAKES_BURST    (1u << 4)
#define BENCH_TAKES_PAYLOAD  (1u << 5)
#define BENCH_TAKES_ENGINE   (1u << 6)
#define BENCH_TAKES_LOAD     (1u << 7)
#define BENCH_TAKES_RATE     (1u << 8)
#define BENCH_TAKES_MINUTES  (1u << 9)
#define BENCH_TAKES_CHROME   (1u << 10)
struct bench_suite {
    const char *name;
    const char *what; /* one line */
    bench_suite_fn
        *run; /* 0, BENCH_SKIPPED, or -errno when something could not be measured (never because of a time) */
    void (*list)(FILE *to);
    uint32_t takes;
};
/* All suites, ended by a NULL name; in main.c. */
extern const struct bench_suite bench_suites[];

/* ---- args.c ---- */
/* Fills b; the names of the suites to run go to suites[] (pointers into argv). Returns how many, or -1 after having
 * said what is wrong; -2 when help was shown. */
int bench_args(struct bench *b, int argc, char **argv, const char **suites, int max);
/* NULL, said aloud: there is none of this name. */
const struct bench_suite *bench_suite_find(const char *name);
/* Does the filter let this through? */
bool bench_wanted(const struct bench *b, const char *measurement, const char *subject);

/* ---- host.c ---- */
/* build/bench/vgpu-bench -> build/NAME. False: there is no such program. */
bool bench_sibling(char out[PATH_MAX], const char *name);
/* Fills host_json, vendor, and cores unless given. */
void bench_host_init(struct bench *b);
/* Runs fn[i](arg[i]) on threads pinned to cores[i], started together; returns when all are done. 0 or -errno. */
typedef void bench_thread_fn(void *arg);
int bench_team_run(struct bench *b, const int *cores, int n, bench_thread_fn *const *fn, void *const *arg);

/* ---- noise.c ---- */
/* Around a suite. end: says aloud what went beyond its limit, and returns whether anything did; rows carry it too. */
void bench_noise_begin(struct bench *b);
bool bench_noise_end(struct bench *b);
/* A thread that measured: involuntary switches of it so far, before it does (waiting for the others counts as such, too), and at
 * its end. Any thread. */
uint64_t bench_noise_switches(void);
void bench_noise_thread(struct bench_noise *n, uint64_t switches_before, uint64_t ran_ns, bool migrated);
void bench_noise_print(const struct bench *b, FILE *to); /* as a JSON object */

/*
 * Memory for rings: huge pages where the host has them. bench_mem_take() gives zeroed pieces at addresses that differ
 * in their low bits from piece to piece: rings that all start at the same page offset collide in the L1 cache and a
 * poll of many is then up to ten times slower.
 */
struct bench_mem {
    char *base;
    size_t bytes, used;
    unsigned pieces;
    const char *kind; /* "hugetlb", "transparent huge pages", "4 KiB pages" */
};
int bench_mem_init(struct bench_mem *m, size_t bytes);
void bench_mem_fini(struct bench_mem *m);
/* Zeroes what was used and starts again. */
void bench_mem_reset(struct bench_mem *m);
/* 128-byte aligned and zeroed; exits the program when the arena is too small, which is a bug of the suite. */
void *bench_mem_take(struct bench_mem *m, size_t bytes);

/* ---- report.c ---- */
void bench_record(struct bench *b, const char *bench, const char *subject, const char *params, const char *metric,
                  const char *unit, double value);
/* One round's latencies: p50, p99, p99.9, p99.99 and max, and the histogram over all rounds for the JSON rows. */
void bench_record_latency(struct bench *b, const char *bench, const char *subject, const char *params,
                          const struct bench_hist *hist);
/* NULL when nothing was recorded. */
const struct bench_row *bench_find(const struct bench *b, const char *bench, const char *subject, const char *params,
                                   const char *metric);
/* Medians and extremes over rounds that ran; NAN when row is NULL. */
double bench_median(const struct bench_row *row);
double bench_min(const struct bench_row *row);
double bench_max(const struct bench_row *row);
/* At least 95 % sure to hold the median, see stats.c; false: too few rounds. */
bool bench_interval(const struct bench_row *row, double *low, double *high);
/* The same of the median ratio of rounds. */
bool bench_ratio_interval(const struct bench_row *a, const struct bench_row *b, double *low, double *high);
/* Median over the rounds of a / b, both of the same round. NAN when either is NULL. */
double bench_ratio(const struct bench_row *a, const struct bench_row *b);
/* Rounds: those that do not count first. */
#define bench_rounds(b) for ((b)->round = -(int)(b)->warm_up; (b)->round < (int)(b)->reps; (b)->round++)
/* The i-th of n in this round: each round begins with another one, so none always runs after the same neighbour. */
static inline int bench_turn(const struct bench *b, int i, int n)
{
    return (i + b->round + (int)b->warm_up) % n;
}
/* How long one measurement takes when `cells` of them share the suite's time in each round; at most most_s. */
double bench_slice_s(const struct bench *b, double suite_s, int cells, double most_s);
/* One JSON object a line for each row recorded since the last call; then forgets them. */
void bench_json_flush(struct bench *b);
/* The same with what there is up to now, in place of what the last checkpoint wrote: a long run that is killed leaves
 * that. */
void bench_json_checkpoint(struct bench *b);

/* ---- stats.c ---- */
#define BENCH_ROUNDS_MIN   5 /* compare: fewer rounds have no verdict */
#define BENCH_INTERVAL_MIN 6 /* fewer rounds have no interval of 95 % */
double bench_median_of(const double *v, int n);
bool bench_sign_interval(const double *sorted, int n, double *low, double *high);
/* Percentile bootstrap of median(b) / median(a). The same numbers give the same interval. */
void bench_bootstrap_ratio(const double *a, int n_a, const double *b, int n_b, double *low, double *high);

/* ---- compare.c ---- */
/* vgpu-bench compare A.json B.json; argv without these two words. The exit status: 1 when something is slower. */
int bench_compare(int argc, char **argv);

/* A table that aligns itself: cells are added row by row, printed at the end. The first column is left-aligned. */
struct bench_table {
    int columns, cells, cap;
    char **cell;
};
void bench_table_init(struct bench_table *t, int columns);
void bench_table_add(struct bench_table *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* A number with so many decimals, or "-" for NAN. */
void bench_table_num(struct bench_table *t, double value, int decimals);
/* "[low, high]" of a row's median, or "-". */
void bench_table_interval(struct bench_table *t, const struct bench_row *row, int decimals);
/* Prints (first row is the heading) and frees. */
void bench_table_print(struct bench_table *t, FILE *to);
/* Cells from a list that NULL ends. */
void bench_table_names(struct bench_table *t, const char *const *names);
/* Prints a table that has more cells than its heading, and an empty line; frees either way. */
void bench_table_show(struct bench_table *t, int heading_cells, FILE *to);

/* ---- goals.c ---- */
struct bench_goals {
    struct bench *b;
    const char *suite; /* rows are of "SUITE.goal" */
    bool judge;        /* else all is shown and nothing judged */
    bool show_missing; /* also goals of which a side was not measured */
    struct bench_table table;
    int met, judged;
};
void bench_goals_begin(struct bench_goals *g, struct bench *b, const char *suite, bool judge, bool show_missing);
/*
 * ours / other, round by round; against "": ours alone. at_most: it should not exceed the bound, else it should reach it.
 * Rows may be NULL: not measured. bound NAN: shown, not judged. Adds rows, so pointers to rows are void afterwards.
 */
void bench_goal(struct bench_goals *g, const char *what, const char *against, bool at_most, double bound,
                const struct bench_row *ours, const struct bench_row *other);
/* Prints and frees. */
void bench_goals_end(struct bench_goals *g, const char *note);

/*
 * ---- Histogram of ticks: log-linear, 1024 steps in each power of two, so a reading is within 0.1 % and below 1024 ticks
 * exact. Up to 2^40 ticks (some minutes); what is larger counts in the last bucket, and max keeps it exactly. Adding two
 * of them loses nothing. ----
 */
#define BENCH_HIST_SUB_BITS 10u
#define BENCH_HIST_SUB      (1u << BENCH_HIST_SUB_BITS)
#define BENCH_HIST_MAX_BITS 40u
#define BENCH_HIST_BUCKETS  ((BENCH_HIST_MAX_BITS - BENCH_HIST_SUB_BITS + 1) * BENCH_HIST_SUB)
struct bench_hist {
    uint64_t count, max;
    uint32_t bucket[BENCH_HIST_BUCKETS];
};
static inline uint32_t bench_hist_index(uint64_t ticks)
{
    if (ticks < BENCH_HIST_SUB)
        return (uint32_t)ticks;
    uint32_t msb = 63u - (uint32_t)__builtin_clzll(ticks);
    if (msb >= BENCH_HIST_MAX_BITS)
        return BENCH_HIST_BUCKETS - 1;
    uint32_t shift = msb - BENCH_HIST_SUB_BITS;
    return ((shift + 1) << BENCH_HIST_SUB_BITS) + (uint32_t)((ticks >> shift) & (BENCH_HIST_SUB - 1));
}
/* The smallest value of a bucket; that of the bucket behind it ends it. */
static inline uint64_t bench_hist_lower(uint32_t index)
{
    if (index < BENCH_HIST_SUB)
        return index;
    uint32_t shift = (index >> BENCH_HIST_SUB_BITS) - 1;
    return (uint64_t)((index & (BENCH_HIST_SUB - 1)) | BENCH_HIST_SUB) << shift;
}
static inline void bench_hist_add(struct bench_hist *h, uint64_t ticks)
{
    h->bucket[bench_hist_index(ticks)]++;
    h->count++;
    if (ticks > h->max)
        h->max = ticks;
}
void bench_hist_merge(struct bench_hist *to, const struct bench_hist *from);
/* In nanoseconds; never above the largest reading; NAN when empty. */
double bench_hist_quantile_ns(const struct bench_hist *h, double q);

#ifdef __cplusplus
}
#endif
#endif
