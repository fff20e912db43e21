/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vgpu-bench plan: how many poll cores a load needs, how busy they are, what p99 to expect, and which limit comes first.
 *
 * The model is of what core/poller.c does. A poll core goes round: it looks at each VM that was lately busy (`hot`) and at
 * four of the others, takes up to a burst from each that has something, runs the executor when that lives in its loop, and
 * completions go out at the round's end. So a descriptor waits for the rest of the round that it arrives in, and for the
 * round that takes it; one of a VM that had gone cold waits until it is looked at. Before and behind it the guest is a queue
 * of its own: one thread sends and takes. model.c has this as formulas, sim.c as a simulation round by round with random
 * arrivals; calibrate.c measures the constants, check.c holds both against real runs.
 */
#ifndef VGPU_BENCH_PLAN_H
#define VGPU_BENCH_PLAN_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct bench;

/* As core/poller.c has them; tests/bench/plan_test.py compares. */
#define PLAN_HOT_ALWAYS     8u
#define PLAN_COLD_PER_ROUND 4u
#define PLAN_COOL_AFTER     256u

#define PLAN_POINTS_MAX 8
struct plan_curve { /* value at so many VMs, growing; between them on a line */
    int n;
    double vms[PLAN_POINTS_MAX], ns[PLAN_POINTS_MAX];
};
/* What was measured on a machine; plan --calibrate. Nanoseconds. */
struct plan_constants {
    char name[48], what[160];
    double round; /* an empty round without VMs; that of an executor's core, too */
    double hot;   /* what a hot VM without work adds to it */
    /*
     * What a VM with work adds, besides its descriptors, while so many send from other cores: most of it are the lines that
     * have to come from there, so it is measured in rounds of a poll core that serves them.
     */
    struct plan_curve visit;
    struct plan_curve descriptor; /* a descriptor, when so many VMs send */
    struct plan_curve cold;       /* what looking at cold VMs adds to a round, so many attached */
    /* The executor on a core of its own: a visit of the poll core then, what a round of the executor with work adds, and what
     * of a descriptor is the poll core's; the rest is the executor's. */
    struct plan_curve split_visit, executor_visit;
    double poll_share;
    double guest_send, guest_take; /* a guest's own time for a burst of one */
    double guest_more;             /* and for each further one, both together */
    double guest_round;            /* a turn of the loop of --check's guests that finds nothing to do */
    /* One descriptor in flight, nothing else: what is left of p50 beyond the model's own part is moving lines between cores. p99
     * is later than p50 by what the model lacks for few descriptors on a schedule: interrupts, what else stops a core. */
    double one_core_p50, one_core_p99, split_p50, split_p99; /* split: 0 where it was not measured */
};

struct plan_load {
    double vms, active; /* attached, sending; to one poll core */
    double rate;        /* descriptors a second, of all that send */
    double burst;       /* sent at a time */
    double in_flight;   /* cap of a VM */
    bool split;         /* the executor on a core of its own */
    double executor_rate; /* split: of all poll cores together */
    double guests;        /* threads that play those that send; 0: each has a CPU of its own */
    double guest_round;   /* how often such a thread looks whether something is due; 0: what sends knows */
    double device_ns, device_width; /* an operation on the device, and how many run at once */
};
struct plan_answer {
    double utilisation;          /* of the poll core: the share of its time in which it has work */
    double executor_utilisation; /* split */
    double device_utilisation;
    double round_ns;
    double hot; /* VMs looked at in each round */
    double p50_ns, p99_ns;       /* HUGE_VAL: it cannot keep up */
    double outstanding;          /* of one VM at p99 */
    double below_p50, below_p99; /* simulation: of its descriptors, those done by the model's p50 and p99 */
};

/* ---- model.c ---- */
void plan_model(const struct plan_constants *c, const struct plan_load *l, struct plan_answer *out);
double plan_at(const struct plan_curve *curve, double vms);
/* What the constants say of a load. */
struct plan_costs {
    double visit, work;                   /* of the poll core */
    double executor_visit, executor_work; /* split */
    double guests;
    double wire; /* of the latency of a descriptor that is alone: what nobody's work explains */
};
void plan_costs_of(const struct plan_constants *c, const struct plan_load *l, struct plan_costs *out);
/* How much longer one in a hundred takes that is alone. */
double plan_tail(const struct plan_constants *c, bool split);

/* ---- sim.c ---- */
/* The same by simulation of so many descriptors; the same seed gives the same. model: what it is held against, may be NULL.
 * 0 or -ENOMEM. */
int plan_simulate(const struct plan_constants *c, const struct plan_load *l, uint64_t descriptors, uint64_t seed,
                  const struct plan_answer *model, struct plan_answer *out);

/* ---- constants.c ---- */
/* Of `file`, or those built in where it is NULL; the machine of this name, or the first one. 0 or -errno, said aloud. */
int plan_constants_load(const char *file, const char *machine, struct plan_constants *out);
void plan_constants_print(const struct plan_constants *c, FILE *to); /* as such a file */
void plan_constants_names(FILE *to);

/* ---- check.c ---- */
/* Measures this machine. 0 or -errno, said aloud. */
int plan_calibrate(struct bench *b, struct plan_constants *out);
#define PLAN_CHECK_VMS 64u
/* Runs one load (vms > 0), or those of a list that fit here, beside what model and simulation say of them. */
int plan_runs(struct bench *b, const struct plan_constants *c, double vms, double rate, bool split);

/* ---- main of it: plan.c ---- */
int bench_plan(int argc, char **argv); /* argv[0]: the program */

#endif
