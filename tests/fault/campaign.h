/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kill -9 under load, for the suites kill and soak: a host with two pools, guests that survive everything and account
 * for each descriptor, guests that are killed over and over, and the verdict. One campaign a process; its main thread.
 */
#ifndef VGPU_TESTS_FAULT_CAMPAIGN_H
#define VGPU_TESTS_FAULT_CAMPAIGN_H

#include <pthread.h>

#include "holdings.h"

#define CAMPAIGN_SURVIVORS 3u
#define CAMPAIGN_VICTIMS   3u
#define CAMPAIGN_EXECUTORS 2u

struct campaign_survivor {
    unsigned vm_id;
    enum e2e_work work;
    const bool *stop;
    uint64_t rng, progress; /* progress: descriptors done, read by others */
    uint64_t submitted, ok, lost, lost_locally, reattaches;
    struct vgpu *v;
};

/* What all of them held before the victims came. */
struct campaign_before {
    struct holdings own, daemon, executor[CAMPAIGN_EXECUTORS];
    struct machine_holdings machine;
    unsigned files;
};

struct campaign_killed {
    uint64_t guests, executors, daemons, starts, together;
};

struct campaign {
    struct e2e_host h;
    struct campaign_survivor s[CAMPAIGN_SURVIVORS];
    pthread_t thread[CAMPAIGN_SURVIVORS];
    pid_t nurse[CAMPAIGN_VICTIMS];
    bool stop;
    struct campaign_before before;
};

/* Starts host, survivors and victims; returns once all get on. */
void campaign_open(struct campaign *c, const struct e2e_options *how);
/* Kills somebody, or several in the same instant, after a random while. daemon_too: vgpud may be among them. */
void campaign_round(struct campaign *c, unsigned round, bool daemon_too);
/* Waits until each survivor has done `by` descriptors more. */
void campaign_all_get_on(struct campaign_survivor *s, uint64_t by, const char *when);
/* In run_dir. */
unsigned campaign_files(const struct e2e_host *h);
/* So far. */
struct campaign_killed campaign_killed(void);
/* Ends the victims, judges the survivors' books and what everybody holds, stops the host. */
void campaign_close(struct campaign *c, bool daemon_too);

#endif
