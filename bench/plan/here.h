/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs of the real poll core and executor for plan --calibrate and --check, with guests on all cores that are left: one thread
 * that plays 30 VMs would be what waits. Main thread.
 */
#ifndef VGPU_BENCH_PLAN_HERE_H
#define VGPU_BENCH_PLAN_HERE_H

#include "bench/path/path.h"

#define HERE_GUESTS_MAX 6u /* the poll core may share a physical core with one of the others */
#define HERE_SLOTS 1024u
#define HERE_VMS_MAX 64u

/* How long the rounds of a loop took, by what they did; in ticks. */
struct here_rounds {
    struct bench_hist none, one; /* nothing; one descriptor */
    struct bench_hist each;      /* rounds with many: ticks of one descriptor, times PATH_WINDOW_SCALE */
};
struct here {
    struct bench *b;
    struct rig *rig;
    struct path_load loads[HERE_GUESTS_MAX];
    struct path_open_cost *cost; /* of all guests; NULL: not asked for */
    struct bench_hist *hist;     /* latencies or windows of all guests */
    struct bench_hist *own;      /* [HERE_GUESTS_MAX] of each */
    struct here_rounds *poll, *exec;
    bool timed;                  /* fill poll and exec; costs a look at the clock in each round */
};
/* What runs: so many VMs send `rate` descriptors a second together (path_open_main), or as much as goes. */
struct here_run {
    bench_thread_fn *guest;
    uint32_t vms, guests; /* guests 0: as many threads as there are cores and VMs */
    double rate, seconds;
    bool split;
};

/* 0 or -errno, said aloud; close also after a failure. */
int here_open(struct here *h, struct bench *b);
void here_close(struct here *h);
/* How many threads can play so many VMs. */
uint32_t here_guests(const struct bench *b, uint32_t vms, bool split);
int here_run(struct here *h, const struct here_run *r);
/* p50 and p99 of a latency, as they are while nobody else is on the cores: medians of short runs. */
int here_quiet(struct here *h, const struct here_run *r, double *p50, double *p99);

#endif
