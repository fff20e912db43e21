/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two hostile guests against a real daemon, beside neighbours in the same pool and in another one that verify every
 * result all the time. Whatever the hostile ones do: the same processes run to the end, no neighbour stands still or
 * sees a wrong byte, nothing is left of them afterwards, and no error is logged but about them.
 *
 * VGPU_HOSTILE_SEED repeats the random choices (not the interleaving); VGPU_TEST_SLICE_S is the length of all tests
 * together.
 */
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "holdings.h"
#include "hostile.h"

#define NEIGHBOURS    3u
#define HOSTILES      2u
#define HOSTILE_VM(i) (20u + 2u * (i)) /* and the next one, for storms */
#define SECONDS       20u
#define WARM_MS       1500u
#define RSS_SLACK_KB  16384
#define STEPS_WANTED  UINT64_C(100000000) /* of a run of LONG_S or more: words rewritten, descriptors, steps of other kinds */
#define LONG_S        600u

#define PROGRESS_MS (SANITIZED ? 5000u : 1000u) /* each neighbour completes something in each such span */
#define STILL_SPANS 5u                          /* or is still for that many at most: this machine may be busy */

struct neighbour {
    unsigned vm_id;
    struct e2e_flow flow;
    uint64_t last;  /* completed when it was looked at last */
    unsigned still; /* looks in a row that found no more */
};

/* ---- the hostile side: a process that starts one after the other ---- */

static struct hostile_shared *shared;
static const struct e2e_host *host;
static uint64_t seed;

static void as_hostile_children(void *arg)
{
    unsigned index = *(const unsigned *)arg;
    uint64_t rng = seed + index;

    while (!__atomic_load_n(&shared->go, __ATOMIC_ACQUIRE))
        e2e_sleep_ms(1);
    while (!__atomic_load_n(&shared->stop, __ATOMIC_RELAXED)) {
        static struct hostile x;
        memset(&x, 0, sizeof(x));
        x.h = host;
        x.shared = shared;
        x.vm_id = HOSTILE_VM(index);
        x.other_vm_id = HOSTILE_VM(index) + 1;
        x.rng = e2e_next(&rng);
        pid_t pid = e2e_fork((void (*)(void *))hostile_live, &x);
        int status = 0;
        e2e_check(waitpid(pid, &status, 0) == pid, "waitpid: %s", strerror(errno));
        e2e_check(WIFSIGNALED(status) ? WTERMSIG(status) == SIGKILL : WEXITSTATUS(status) == 0,
                  "a hostile guest ended with status %x", (unsigned)status);
    }
}

/* ---- neighbours ---- */

static void *as_neighbour(void *arg)
{
    struct neighbour *n = arg;

    e2e_flow_run(&n->flow);
    e2e_check(n->flow.status[VGPU_OK] == n->flow.submitted && n->flow.submitted > 0, "VM %u: %llu of %llu done",
              n->vm_id, (unsigned long long)n->flow.status[VGPU_OK], (unsigned long long)n->flow.submitted);
    return NULL;
}

static void check_progress(struct neighbour *n)
{
    for (unsigned i = 0; i < NEIGHBOURS; i++) {
        uint64_t now = __atomic_load_n(&n[i].flow.completed, __ATOMIC_RELAXED);
        n[i].still = now > n[i].last ? 0 : n[i].still + 1;
        e2e_check(n[i].still < STILL_SPANS, "VM %u stood still for %u ms at %llu", n[i].vm_id, STILL_SPANS * PROGRESS_MS,
                  (unsigned long long)now);
        n[i].last = now;
    }
}

/* ---- verdict ---- */

/* Lines of the daemon's and the executors' log. */
static void check_log(const struct e2e_host *h)
{
    char path[2 * E2E_PATH_BYTES], line[2048];
    unsigned lines = 0;

    snprintf(path, sizeof(path), "%s/vgpud.log", h->dir);
    FILE *f = fopen(path, "r");
    e2e_check(f, "%s: %s", path, strerror(errno));
    while (fgets(line, sizeof(line), f)) {
        unsigned vm = 0;
        const char *at = strstr(line, "VM ");
        lines++;
        if (at && sscanf(at, "VM %u", &vm) == 1 && vm >= HOSTILE_VM(0) && vm <= HOSTILE_VM(HOSTILES - 1) + 1)
            continue;
        e2e_check(!strstr(line, "error:") && !(vm && strstr(line, "broke a rule")), "the log says: %s", line);
    }
    fclose(f);
    e2e_check(lines > 3, "the log has %u lines", lines);
}

static void check_steps(void)
{
#define X(name) #name,
    static const char *const names[] = {HOSTILE_STEPS(X)};
#undef X
    for (unsigned i = 0; i < HOSTILE_STEP_COUNT; i++)
        e2e_check(shared->steps[i] > 0, "no step of kind '%s' was taken: the run was too short", names[i]);
}

static unsigned seconds(void)
{
    unsigned n = (unsigned)e2e_number("VGPU_TEST_SLICE_S", SECONDS);

    return n ? n : 1;
}

static void hostile_gone(const struct e2e_host *h)
{
    char state[32];

    for (unsigned vm = HOSTILE_VM(0); vm <= HOSTILE_VM(HOSTILES - 1) + 1; vm++)
        e2e_eventually((e2e_vm_state(h, vm, state, sizeof(state)), !strcmp(state, "registered")), "VM %u stays \"%s\"",
                       vm, state);
}

static void hostile_start(const struct e2e_host *h, pid_t *pid)
{
    static unsigned index[HOSTILES];
    const char *text = getenv("VGPU_HOSTILE_SEED");

    seed = text ? strtoull(text, NULL, 0) : e2e_random();
    printf("# VGPU_HOSTILE_SEED=%llu\n", (unsigned long long)seed);
    shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    e2e_check(shared != MAP_FAILED, "mmap: %s", strerror(errno));
    host = h;
    e2e_register(h, HOSTILE_VM(0), HOSTILE_VM(HOSTILES - 1) + 1, "A", "medium", NULL);
    for (unsigned i = 0; i < HOSTILES; i++) { /* before there are threads; they wait for `go` */
        index[i] = i;
        pid[i] = e2e_fork(as_hostile_children, &index[i]);
    }
}

static void neighbours_start(const struct e2e_host *h, struct neighbour *n, pthread_t *thread, const bool *stop)
{
    static const char *const pool[NEIGHBOURS] = {"A", "A", "B"};

    for (unsigned i = 0; i < NEIGHBOURS; i++) {
        e2e_register(h, i + 1, i + 1, pool[i], "medium", NULL);
        n[i] = (struct neighbour){.vm_id = i + 1};
        n[i].flow = (struct e2e_flow){.v = e2e_open(h, i + 1, NULL),
                                      .work = E2E_VERIFIED,
                                      .total = UINT64_MAX,
                                      .stop = stop,
                                      .rng = seed + 77 + i};
        e2e_thread(as_neighbour, &n[i], &thread[i]);
    }
}

/* Joins them, which judges all their results. Returns how many. */
static uint64_t neighbours_stop(struct neighbour *n, const pthread_t *thread, bool *stop)
{
    uint64_t verified = 0;

    __atomic_store_n(stop, true, __ATOMIC_RELAXED);
    for (unsigned i = 0; i < NEIGHBOURS; i++) {
        pthread_join(thread[i], NULL);
        verified += n[i].flow.completed;
        e2e_flow_free(&n[i].flow);
        vgpu_close(n[i].flow.v);
    }
    return verified;
}

static void show(uint64_t verified, unsigned span_ms)
{
    uint64_t steps = 0;

    for (unsigned i = 0; i < HOSTILE_STEP_COUNT; i++)
        steps += shared->steps[i];
    if (span_ms >= 4000 && !SANITIZED)
        check_steps();
    e2e_check(shared->broken > 0 && shared->attachments > 10,
              "%llu attachments of %llu were told that they broke a rule", (unsigned long long)shared->broken,
              (unsigned long long)shared->attachments);
    uint64_t all = shared->flips + shared->descriptors + steps;
    e2e_check(SANITIZED || seconds() < LONG_S || all >= STEPS_WANTED / 3, "%llu steps: less than a third of %llu",
              (unsigned long long)all, (unsigned long long)STEPS_WANTED);
    e2e_shows("%llu words of shared memory rewritten at random moments, %llu descriptors, %llu steps of other kinds "
              "(%llu attachments, %llu told that they broke a rule, %llu killed -9, "
              "seed %llu); %llu results of %u neighbours verified meanwhile",
              (unsigned long long)shared->flips, (unsigned long long)shared->descriptors, (unsigned long long)steps,
              (unsigned long long)shared->attachments, (unsigned long long)shared->broken,
              (unsigned long long)shared->kills, (unsigned long long)seed, (unsigned long long)verified, NEIGHBOURS);
}

static void attack(const struct e2e_options *o, unsigned span_ms)
{
    struct e2e_host h;
    struct neighbour n[NEIGHBOURS];
    pthread_t thread[NEIGHBOURS];
    pid_t hostile[HOSTILES];
    bool stop = false;

    e2e_host_start(&h, o);
    hostile_start(&h, hostile);
    neighbours_start(&h, n, thread, &stop);
    e2e_sleep_ms(WARM_MS);
    check_progress(n);
    const pid_t executor[2] = {e2e_executor_pid(&h, "A"), e2e_executor_pid(&h, "B")}, daemon = h.pid;
    e2e_check(o->in_process || (executor[0] > 0 && executor[1] > 0), "executors %d and %d", (int)executor[0],
              (int)executor[1]);
    const struct holdings before[3] = {holdings_of(daemon), holdings_of(executor[0]), holdings_of(executor[1])};
    e2e_check(before[0].memfds >= (long)(4 * NEIGHBOURS) && (o->in_process || before[1].memfds > 0),
              "%ld and %ld mappings of memfds", before[0].memfds, before[1].memfds);

    __atomic_store_n(&shared->go, true, __ATOMIC_RELEASE);
    for (uint64_t until = e2e_now_ms() + span_ms; e2e_now_ms() < until;) {
        e2e_sleep_ms(PROGRESS_MS);
        check_progress(n);
        e2e_check(e2e_host_alive(&h), "vgpud died");
    }
    __atomic_store_n(&shared->stop, true, __ATOMIC_RELAXED);
    for (unsigned i = 0; i < HOSTILES; i++)
        e2e_check(e2e_reap(hostile[i]), "a hostile guest found fault");
    hostile_gone(&h);
    holdings_check(daemon, "vgpud", &before[0], RSS_SLACK_KB);
    holdings_check(executor[0], "executor of pool A", &before[1], RSS_SLACK_KB);
    holdings_check(executor[1], "executor of pool B", &before[2], RSS_SLACK_KB);
    check_progress(n);
    e2e_check(e2e_executor_pid(&h, "A") == executor[0] && e2e_executor_pid(&h, "B") == executor[1],
              "an executor is another one");
    uint64_t verified = neighbours_stop(n, thread, &stop);
    e2e_host_stop(&h);
    check_log(&h);
    show(verified, span_ms);
}

static unsigned span_ms(void)
{
    return seconds() * 1000 / 3;
}

static void one_poll_core(void)
{
    attack(&(struct e2e_options){.pools = 2}, span_ms());
}

/* Small queues: much waits as backlog with the poll cores. */
static void two_poll_cores(void)
{
    attack(&(struct e2e_options){.pools = 2, .poll_cores = 2, .window = 16, .in_flight = 256}, span_ms());
}

static void in_process(void)
{
    attack(&(struct e2e_options){.pools = 2, .in_process = true}, span_ms());
}

static const struct e2e_test tests[] = {
    {"one_poll_core", one_poll_core, 3600},
    {"two_poll_cores", two_poll_cores, 3600},
    {"in_process", in_process, 3600},
};
E2E_MAIN(tests)
