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

/* A measurement repeated round by round. */
struct bench_row {
    char *bench;                  /* "rings.rtt" */
    char *subject;                /* "vgpu" */
    char *params;                 /* a JSON object: {"slots":1024} */
    char *metric;                 /* "p50" */
    char *unit;                   /* "ns" */
    double value[BENCH_REPS_MAX]; /* by round; NAN where it did not run */
    int rounds;
};

struct bench {
    /* From the command line. */
    int reps;                /* rounds */
    bool reps_given;         /* else a suite may have a default of its own */
    double seconds;          /* time that one suite may take; 0: the suite's default */
    const char *filter;      /* only "measurement/subject" names that contain this; NULL: all */
    const char *gpu_options; /* suite gpu: more options of the cuda executor; NULL: none */
    bool gpu_small;          /* suite gpu: small sizes, two tenants */
    FILE *json;              /* NULL: none */
    off_t json_from;         /* where rows that are not final begin */
    FILE *text;              /* where tables and remarks go */
    bool list_only;
    int cores[BENCH_CORES_MAX]; /* to use, in order: one of each physical core first */
    int n_cores;
    bool cores_given;
    bool cores_shared; /* one was given twice: everything runs, no goal is judged */
    /* Facts. */
    char *host_json; /* a JSON object */
    bool is_amd;
    bool is_intel;
    /* State. */
    int round; /* of the measurements being recorded */
    struct bench_row *rows;
    size_t n_rows, cap_rows;
    struct bench_mem *mem;
};

#define BENCH_SKIPPED 77 /* a suite's return: it cannot run here at all, and has said why; the exit status too */
typedef int bench_suite_fn(struct bench *b);
struct bench_suite {
    const char *name;
    const char *what; /* one line */
    bench_suite_fn
        *run; /* 0, BENCH_SKIPPED, or -errno when something could not be measured (never because of a time) */
    void (*list)(FILE *to);
};
/* All suites, ended by a NULL name; in main.c. */
extern const struct bench_suite bench_suites[];

/* ---- args.c ---- */
/* Fills b; the names of the suites to run go to suites[] (pointers into argv). Returns how many, or -1 after having
 * said what is wrong; -2 when help was shown. */
int bench_args(struct bench *b, int argc, char **argv, const char **suites, int max);
/* Does the filter let this through? */
bool bench_wanted(const struct bench *b, const char *measurement, const char *subject);

/* ---- host.c ---- */
/* build/bench/vgpu-bench -> build/NAME. False: there is no such program. */
bool bench_sibling(char out[PATH_MAX], const char *name);
/* Fills host_json, vendor, and cores unless given. */
void bench_host_init(struct bench *b);
/* Runs fn[i](arg[i]) on threads pinned to cores[i], started together; returns when all are done. 0 or -errno. */
typedef void bench_thread_fn(void *arg);
int bench_team_run(const int *cores, int n, bench_thread_fn *const *fn, void *const *arg);

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
/* NULL when nothing was recorded. */
const struct bench_row *bench_find(const struct bench *b, const char *bench, const char *subject, const char *params,
                                   const char *metric);
/* Medians and extremes over rounds that ran; NAN when row is NULL. */
double bench_median(const struct bench_row *row);
double bench_min(const struct bench_row *row);
double bench_max(const struct bench_row *row);
/* Median over the rounds of a / b, both of the same round. NAN when either is NULL. */
double bench_ratio(const struct bench_row *a, const struct bench_row *b);
/* One JSON object a line for each row recorded since the last call; then forgets them. */
void bench_json_flush(struct bench *b);
/* The same with what there is up to now, in place of what the last checkpoint wrote: a long run that is killed leaves
 * that. */
void bench_json_checkpoint(struct bench *b);

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
/* Prints (first row is the heading) and frees. */
void bench_table_print(struct bench_table *t, FILE *to);
/* Cells from a list that NULL ends. */
void bench_table_names(struct bench_table *t, const char *const *names);
/* Prints a table that has more cells than its heading, and an empty line; frees either way. */
void bench_table_show(struct bench_table *t, int heading_cells, FILE *to);

/* ---- Histogram of ticks: two ticks a bucket, so a ratio of two medians near 100 ns is good to about 1 %. ---- */
#define BENCH_HIST_SHIFT   1u
#define BENCH_HIST_BUCKETS (1u << 15)
struct bench_hist {
    uint64_t count;
    uint32_t bucket[BENCH_HIST_BUCKETS]; /* the last one keeps all that is larger */
};
static inline void bench_hist_add(struct bench_hist *h, uint64_t ticks)
{
    uint64_t i = ticks >> BENCH_HIST_SHIFT;

    h->bucket[i < BENCH_HIST_BUCKETS ? i : BENCH_HIST_BUCKETS - 1]++;
    h->count++;
}
/* In nanoseconds; NAN when empty, and when it lies in the last bucket, whose width nobody knows. */
double bench_hist_quantile_ns(const struct bench_hist *h, double q);

#ifdef __cplusplus
}
#endif
#endif
