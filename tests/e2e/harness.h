/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the end-to-end tests share: a real vgpud with its executors in a directory of its own, VMs registered through
 * vgpu-ctl, guests as processes or threads, and the proof that nothing is left behind.
 *
 * Each test runs in a process of its own that adopts whatever its daemon leaves (a subreaper), under a time limit. A
 * failed check ends that process; the runner then shows the end of the daemon's log. Output is TAP.
 * Threads: start, stop, register and fork from the test's main thread; e2e_open, e2e_check and the flows from any.
 */
#ifndef VGPU_TESTS_E2E_HARNESS_H
#define VGPU_TESTS_E2E_HARNESS_H

#include <errno.h>
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>

#include "guest-lib/vgpu.h"
#include "rings/abi/vgpu_abi.h"

#define E2E_PATH_BYTES 96
#define E2E_WAIT_MS 20000 /* for what must happen; a healthy machine needs a thousandth of it */

/* ---- tests ---- */
struct e2e_test {
    const char *name;
    void (*run)(void);
    unsigned limit_s; /* 0: 60 */
};
/* Runs them all, or those named in argv. Exit status for main(). */
int e2e_main(int argc, char **argv, const struct e2e_test *tests, size_t count);
#define E2E_MAIN(tests)                                                                                                \
    int main(int argc, char **argv)                                                                                    \
    {                                                                                                                  \
        return e2e_main(argc, argv, tests, sizeof(tests) / sizeof((tests)[0]));                                        \
    }

/* Ends the test as failed with "FILE:LINE: what" when cond is false. */
#define e2e_check(cond, ...)                                                                                           \
    do {                                                                                                               \
        if (!(cond))                                                                                                   \
            e2e_fail(__FILE__, __LINE__, #cond, __VA_ARGS__);                                                          \
    } while (0)
void e2e_fail(const char *file, int line, const char *cond, const char *fmt, ...)
    __attribute__((noreturn, format(printf, 4, 5)));
/* Ends the test as skipped. The reason is shown. */
void e2e_skip(const char *fmt, ...) __attribute__((noreturn, format(printf, 1, 2)));
/* A fact for the summary of the whole run. */
void e2e_shows(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* n shrunk by VGPU_TEST_SCALE (sanitizers), at least 1. */
uint64_t e2e_scaled(uint64_t n);
/* The environment variable's number, or `otherwise`. */
uint64_t e2e_number(const char *variable, uint64_t otherwise);
/* VGPU_E2E_BACKEND, or NULL. */
const char *e2e_backend(void);
/* The test's own folder, mode 0700. */
const char *e2e_dir(void);
void e2e_sleep_ms(unsigned ms);
uint64_t e2e_now_ms(void);
/* A seeded generator; the seed is VGPU_TEST_SEED or the clock, and printed when a test fails. */
uint64_t e2e_random(void);           /* main thread */
uint64_t e2e_seed(void);
static inline uint64_t e2e_next(uint64_t *state) /* one generator per thread */
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* At least `want` free 2 MiB hugepages, or the test skips. Reserves them when need be; the runner undoes that. */
void e2e_hugepages_need(long want);
long e2e_hugepages(const char *name); /* "free_hugepages" or another of the kernel's counts; -1: there is none */

/* Waits until cond holds, looking each millisecond, at most E2E_WAIT_MS. */
#define e2e_eventually(cond, ...)                                                                                      \
    do {                                                                                                               \
        for (uint64_t until_ = e2e_now_ms() + E2E_WAIT_MS; !(cond); e2e_sleep_ms(1))                                   \
            if (e2e_now_ms() > until_)                                                                                 \
                e2e_fail(__FILE__, __LINE__, #cond " (waited in vain)", __VA_ARGS__);                                  \
    } while (0)

/* ---- the host ---- */
/*
 * What differs from the defaults of e2e_host_start(): cpu backend, pool A, one poll core, small sizes. 0: default.
 * VGPU_E2E_BACKEND names another backend for all that do not ask for a particular one, VGPU_E2E_OPTIONS its options;
 * such a backend serves DEBUG itself, so it also stands in for a plain fault:cpu.
 */
struct e2e_options {
    const char *backend;
    const char *backend_options;
    const char *device_options; /* added where VGPU_E2E_BACKEND takes effect */
    unsigned pools;          /* 1: A; 2: A and B, each with an executor of its own */
    bool one_executor;       /* both pools on one executor */
    bool scope_host;
    bool in_process;
    bool always_poll, exec_always_polls; /* poll cores; executors */
    bool debug;              /* debug_ops and exec_seq */
    unsigned poll_cores, burst, window, in_flight, ring_slots, attached_vms;
    unsigned budget[VGPU_PRIO_COUNT];
    const char *arena_bytes, *max_arena_bytes, *device_bytes, *heap_bytes;
    const char *memory_bytes; /* of each executor's process; NULL: no limit */
    bool hugepages;
    const char *privileges;  /* a line of YAML: "{sandbox: off}" */
    const char *programs;    /* of each executor */
    unsigned quarantine;     /* recovery.quarantine; 0: never, for the same reason as the next */
    unsigned breaker_deaths, retry_s; /* recovery.deaths; 0: never, since tests kill what they like */
};

struct e2e_host {
    char dir[E2E_PATH_BYTES];
    char config[E2E_PATH_BYTES + 24], attach_socket[E2E_PATH_BYTES + 24], control_socket[E2E_PATH_BYTES + 24];
    pid_t pid;
};

/* Writes the configuration, starts vgpud and waits for its readiness. */
void e2e_host_start(struct e2e_host *h, const struct e2e_options *o);
/* Starts vgpud again with the configuration that is there. */
void e2e_host_restart(struct e2e_host *h);
/* The same; false when it ends with an error instead, leaving no process. */
bool e2e_host_begin(struct e2e_host *h);
/* Starts vgpud and kills it -9 that much later, whether or not it was ready. */
void e2e_host_start_and_kill(const struct e2e_host *h, unsigned after_us);
/* Starts another vgpud with this configuration that is expected to end by itself; its exit status. */
int e2e_host_try(const struct e2e_host *h);
/* SIGTERM, exit status 0, no process and no socket left. Guests that are this process's children are reaped before. */
void e2e_host_stop(struct e2e_host *h);
/* SIGKILL; waits until the executors are gone too. */
void e2e_host_kill(struct e2e_host *h);
bool e2e_host_alive(const struct e2e_host *h);
/* For this uid. extra: further arguments of vgpu-ctl register-vm, one string without spaces each, NULL-terminated. */
void e2e_register(const struct e2e_host *h, unsigned first, unsigned last, const char *pool, const char *priority,
                  const char *const *extra);
/* vgpu-ctl with these arguments and --json; returns its exit status, *out (to be decref'd) may be NULL; error text on
 * failure goes to error. */
int e2e_ctl(const struct e2e_host *h, json_t **out, char *error, size_t error_bytes, const char *const *args);
/* One request over the control socket; its result, a new reference. NULL with the message in error when it is refused. */
json_t *e2e_ask(const struct e2e_host *h, const char *command, json_t *args, char *error, size_t error_bytes);
/* Changes a VM's "priority" or "pool" (text) or one of its limits (number); fails the test when refused. */
void e2e_set(const struct e2e_host *h, unsigned vm_id, const char *what, const char *text, int number);
/* The same; false with the message in error when it is refused. */
bool e2e_try(const struct e2e_host *h, unsigned vm_id, const char *what, const char *text, int number, char *error,
             size_t error_bytes);
/* drain-vm, quarantine-vm (with a reason, which may be NULL), clear-quarantine; fails the test when refused. */
void e2e_admin(const struct e2e_host *h, unsigned vm_id, const char *command, const char *reason, bool undo);
/* This VM may not attach; the sentence says `why`. */
void e2e_refused(const struct e2e_host *h, unsigned vm_id, const char *why, char *error, size_t error_bytes);
json_t *e2e_stats(const struct e2e_host *h);
/* A number of the VM's statistics. */
uint64_t e2e_vm_stat(const struct e2e_host *h, unsigned vm_id, const char *key);
/* A VM's "state" as show-vm says. */
void e2e_vm_state(const struct e2e_host *h, unsigned vm_id, char *out, size_t bytes);
/* Process of a pool's executor; 0 while there is none. */
pid_t e2e_executor_pid(const struct e2e_host *h, const char *pool);

/* ---- guests ---- */
void e2e_token_path(const struct e2e_host *h, unsigned vm_id, char *out, size_t bytes);
/* Options filled for this VM; the strings live as long as `paths`. */
struct e2e_paths {
    char token[2 * E2E_PATH_BYTES];
};
struct vgpu_options e2e_guest_options(const struct e2e_host *h, unsigned vm_id, struct e2e_paths *paths);
/* Attaches or fails the test. more (may be NULL) sets arena_bytes, ring_slots and flags. */
struct vgpu *e2e_open(const struct e2e_host *h, unsigned vm_id, const struct vgpu_options *more);
/* The same, but waits while the pool is down or the VM still attached. */
struct vgpu *e2e_open_patiently(const struct e2e_host *h, unsigned vm_id);
/* A process that ends with the test, running fn(arg); its exit status is 0 when fn returns. */
pid_t e2e_fork(void (*fn)(void *arg), void *arg);
/* Waits for it; true when it ended with status 0. */
bool e2e_reap(pid_t pid);
void e2e_thread(void *(*fn)(void *), void *arg, void *thread_out);

/* ---- flows: a guest that submits numbered descriptors and holds the host to one completion for each ---- */
enum e2e_work {
    E2E_NOPS,     /* NOP */
    E2E_VERIFIED, /* FILL and VECTOR_ADD whose results are looked at */
};
struct e2e_flow {
    /* set by the caller */
    struct vgpu *v;
    enum e2e_work work;
    uint64_t total;        /* submit that many, then drain; UINT64_MAX: until *stop */
    const bool *stop;      /* may be NULL */
    uint64_t rng;
    unsigned burst_max;    /* 0: 64 */
    bool many_executors;   /* it may be moved from one to another: exec_seq says nothing then */
    bool check_order;      /* completions come in the order of submission, exec_seq grows */
    bool until_gone;       /* end, once all is accounted for, when the host has gone */
    /* counted */
    uint64_t submitted, completed, lost_locally, duplicates, misordered, wrong_results, reattaches;
    uint64_t status[VGPU_STATUS_COUNT];
    uint64_t last_exec_seq, highest_by_host, lowest_lost_locally;
    uint64_t *seen;        /* bit per tag */
    uint64_t seen_tags;
    struct vgpu_buffer arena;
    bool busy[64];
    bool was_gone;
};
/* Runs it to the end: `total` reached or *stop, then everything outstanding fetched. Checks that each tag came once. */
void e2e_flow_run(struct e2e_flow *f);
/* One round: submits and polls some; false when there is nothing more to do. */
bool e2e_flow_step(struct e2e_flow *f);
/* After the last step: each tag exactly once, no wrong result, no misorder. */
void e2e_flow_check(struct e2e_flow *f);
void e2e_flow_free(struct e2e_flow *f);

#endif
