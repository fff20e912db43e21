/* SPDX-License-Identifier: Apache-2.0 */
/* The suite `path`: what the files of this folder share. */
#ifndef VGPU_BENCH_PATH_H
#define VGPU_BENCH_PATH_H

#include "bench/harness.h"
#include "bench/path/rig.h"

int bench_path_run(struct bench *b);
void bench_path_list(FILE *to);

#define PATH_SLOTS 1024u   /* of each ring: what libvgpu asks for by default */
#define PATH_SLOTS_MAX 65536u
#define PATH_BURST 32u     /* the most that is sent or taken at a time */
#define PATH_VMS_MAX 64u
/* What the command line asks for, in measure.c; set before the first round. */
extern struct path_plan {
    uint32_t slots;
    uint32_t vms[BENCH_LIST_MAX], n_vms; /* 0: the suite's own mixes */
    uint32_t bursts[BENCH_LIST_MAX], n_bursts;
    double rates[BENCH_LIST_MAX]; /* millions a second */
    uint32_t n_rates;
} path_plan;
#define PATH_THREADS_MAX 4u /* that play guests */
/*
 * A stream is timed in windows of this many descriptors; its rate is that of the median window (see bench/rings). More
 * than can be outstanding, else a window of what had piled up would count as speed.
 */
#define PATH_WINDOW 8192u
#define PATH_OUTSTANDING_MAX 2048u /* over all VMs that send */
#define PATH_WINDOW_SCALE 64u

/* One thread's part of a measurement. */
struct path_load {
    struct rig *rig;
    uint32_t first, step, vms; /* it plays guests first, first + step, ... below vms */
    uint32_t burst;            /* path_stream_main, and the bare ring */
    uint64_t ticks;            /* how long to run */
    uint32_t *running;         /* threads that have not ended; the last one stops the loops */
    struct bench_hist *hist;   /* round trips in ticks, or windows */
    uint64_t count, took, errors;
    bool stuck;                /* it gave up waiting, which is one of the errors */
    double rate;               /* path_open_main: descriptors that fall due, millions a second, of this thread */
    struct path_open_cost *cost; /* path_open_main: what its own work takes; NULL: nobody asks */
} VGPU_ALIGNED(128);

/*
 * What the generator of an open loop does itself, by histograms of how long a turn of its loop took: one that sent and took
 * nothing, one that took and did not send, one that did neither. And how late it sent, from when a descriptor fell due to when
 * it was in the ring: what of a latency is the generator's own.
 */
struct path_open_cost {
    struct bench_hist send, take, idle, late;
};

/* Thread functions; arg: struct path_load. */
void path_rtt_main(void *arg);    /* one descriptor in flight */
void path_stream_main(void *arg); /* bursts, as many in flight as the host takes */

/* One at a time on a schedule; the latency counts from when each fell due. Its VMs are drawn at random. */
void path_open_main(void *arg);

/* A ring without a path behind it, in the rig's memory: what comes out is validated, and with `completions` answered. */
struct path_bare {
    struct path_load *guest, *host; /* with completions the guest measures, without them the host */
    bool completions;
    uint32_t stop VGPU_ALIGNED(128);
};
void path_bare_init(struct path_bare *bare);
void path_bare_guest_main(void *arg);
void path_bare_host_main(void *arg);

#define PATH_PARAMS_BYTES 96
/* ---- vgpud.c: the daemon itself, as a process, and libvgpu ---- */
struct path_daemon;
/* NULL, said aloud, when its program is not beside ours or does not start. executor_cpu < 0: in the poll core's loop. */
struct path_daemon *path_daemon_start(struct bench *b, int poll_cpu, int executor_cpu);
/* The same with an idle policy ("{spin_us: 0, ...}"; NULL: the default) of poll core and executor, poll_cpu < 0: where the
 * kernel likes, and hugepages for what vgpud and the guest map. */
struct path_daemon_options {
    int poll_cpu, executor_cpu;
    const char *idle;
    bool hugepages;
};
struct path_daemon *path_daemon_start_with(struct bench *b, const struct path_daemon_options *o);
struct vgpu *path_daemon_guest(struct path_daemon *d);
pid_t path_daemon_pid(const struct path_daemon *d);
void path_daemon_stop(struct path_daemon *d);
/* As path_load's: hist and count are filled. 0 or -errno, said aloud. */
int path_daemon_measure(struct path_daemon *d, struct bench *b, bool stream, struct path_load *load);

const char *path_daemon_control(const struct path_daemon *d, char out[PATH_PARAMS_BYTES]); /* its control socket */
/* Attaches as VM vm_id, sends one NOP, waits for it and detaches. 0 or -errno. Any thread. */
int path_daemon_visit(const struct path_daemon *d, uint32_t vm_id);

/* ---- control.c: administrators who ask that daemon over its control socket ---- */
/* One request, a line of JSON; the daemon answers one a connection. True: it did what was asked. */
bool path_ask(const char *socket_path, const char *request);
#define PATH_CLIENTS 50u
#define PATH_CLIENTS_MAX 64u
struct path_clients;
/* NULL: no memory. Threads on the cores that nothing is measured on, where there are such. */
struct path_clients *path_clients_start(const struct bench *b, const char *socket_path, uint32_t n);
/* How many requests were answered; *refused: how many were not. */
uint64_t path_clients_stop(struct path_clients *c, uint64_t *refused);

/* ---- report.c ---- */
const char *path_params(char out[PATH_PARAMS_BYTES], uint32_t attached, uint32_t active, uint32_t burst);
/* Of a load of so many million a second, from so many VMs. */
const char *path_open_params(char out[PATH_PARAMS_BYTES], double rate, uint32_t vms);
void path_report(struct bench *b); /* prints, and records goals as rows of path.goal */
/* VMs attached, and how many of them send. */
struct path_mix {
    uint32_t attached, active;
};
#define PATH_MIXES_MAX (2 * BENCH_LIST_MAX)
uint32_t path_mixes(struct path_mix out[PATH_MIXES_MAX]); /* of streams; how many */
extern const uint32_t path_idle_counts[];
#define PATH_IDLE_COUNTS 5u

static inline void path_window(struct path_load *load, uint64_t *number, uint64_t *since)
{
    uint64_t now = vgpu_ticks();

    bench_hist_add(load->hist, (now - *since) * PATH_WINDOW_SCALE / (load->count - *number));
    *number = load->count;
    *since = now;
}

#endif
