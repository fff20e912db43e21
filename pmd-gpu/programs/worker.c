/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vgpu-worker: the process that runs the compiled programs of one VM. Started and ended by vgpu-exec (keeper.c);
 * expects its descriptors at VGPU_WORKER_FD_* and PLUGIN CLIENT-OPTIONS ARENA-OFFSET:BYTES
 * DEVICE-MIB:MEMORY-MIB:SPIN-US:SUBPROCESS SANDBOX. SANDBOX is the policy where vgpud's spawner starts it (core/workers.c);
 * where the executor itself does, it is not there.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "pmd-gpu/programs/worker_int.h"
#include "sandbox/sandbox.h"

#define BUSY_WAIT_NS UINT64_C(2000000) /* what takes less than this is polled for while it runs, for at most BUSY_SPIN_NS */
#define BUSY_SPIN_NS (2 * BUSY_WAIT_NS)

static void fail(struct worker *w, const char *text)
{
    snprintf(w->shm->text, sizeof(w->shm->text), "%.255s", text);
    vgpu_store_release(&w->shm->state, VGPU_WORKER_FAILED); /* W1 pairs with W1 in keeper.c look() */
    exit(1);
}

void worker_item_done(struct item *item)
{
    struct worker *w = item->worker;

    vgpu_store_release(&item->done, 1); /* R1 pairs with R1 in answer(): status and error before it */
    vgpu_fence_full();                  /* R2: done before `asleep` is read; pairs with the fence in rest() */
    if (vgpu_load_relaxed(&w->asleep)) {
        uint64_t one = 1;
        ssize_t ignored = write(VGPU_WORKER_FD_EVENT, &one, sizeof(one));
        (void)ignored;
    }
}

static struct item *item_at(struct worker *w, uint64_t pos)
{
    return &w->items[pos % VGPU_WORKER_SLOTS];
}

/* Takes one request. */
static bool take(struct worker *w)
{
    struct vgpu_slot slot;

    if (w->taken - w->answered >= VGPU_WORKER_SLOTS || vgpu_cons_pop(&w->req, &slot, 1) != 1)
        return false;
    struct item *item = item_at(w, w->taken++);
    memset(item, 0, sizeof(*item));
    item->worker = w;
    item->taken_ns = vgpu_now_ns();
    memcpy(&item->work, &slot, sizeof(slot));
    worker_begin(w, item);
    return true;
}

/* Answers the oldest if it is done. */
static bool answer(struct worker *w)
{
    struct item *item = item_at(w, w->answered);

    if (w->answered == w->taken || !vgpu_load_acquire(&item->done)) /* R1 pairs with R1 in worker_item_done() */
        return false;
    worker_end(w, item);
    w->wait_ns = vgpu_average_ns(w->wait_ns, vgpu_now_ns() - item->taken_ns, 2 * BUSY_SPIN_NS);
    struct vgpu_worker_reply r = {.status = item->status, .value = item->value, .device_ns = item->device_ns};
    while (vgpu_prod_push(&w->rep, (const struct vgpu_slot *)&r, 1) != 1)
        vgpu_pause(); /* there is a slot for each request without a reply */
    w->answered++;
    return true;
}

/* Nothing to do for a while: sleeps until a request comes or something that runs is done. */
static void rest(struct worker *w)
{
    uint64_t value;

    vgpu_cons_publish(&w->req);
    vgpu_store_relaxed(&w->asleep, 1); /* R2 pairs with R2 in worker_item_done(); the fence is in the next */
    vgpu_ring_event_arm(&w->shm->req_event, w->req.pos);
    bool work = vgpu_cons_ready(&w->req) && w->taken - w->answered < VGPU_WORKER_SLOTS;
    bool done = w->answered != w->taken && vgpu_load_acquire(&item_at(w, w->answered)->done); /* R1 */
    if (!work && !done) {
        ssize_t ignored = read(VGPU_WORKER_FD_EVENT, &value, sizeof(value));
        (void)ignored;
    }
    vgpu_store_relaxed(&w->asleep, 0); /* relaxed: at worst one wake-up too many */
}

/* How long to poll before sleeping: being woken takes tens of microseconds, of an execution that may take as many. */
static uint64_t spin_for(const struct worker *w)
{
    bool soon = w->spin_ns && w->taken != w->answered && w->wait_ns < BUSY_WAIT_NS;

    return soon && w->spin_ns < BUSY_SPIN_NS ? BUSY_SPIN_NS : w->spin_ns;
}

/* Has no CPU of its own: yields after a while, to whoever computes what it waits for. */
static void run(struct worker *w)
{
    uint64_t since = vgpu_now_ns();

    for (uint32_t rounds = 0;; rounds++) {
        bool worked = take(w);
        while (answer(w))
            worked = true;
        if (worked) {
            since = 0;
            continue;
        }
        if (rounds % 32 == 0) {
            uint64_t now = vgpu_now_ns();
            if (!since)
                since = now;
            else if (now - since >= spin_for(w)) {
                rest(w);
                since = 0;
            } else if (now - since >= w->spin_ns / 2)
                sched_yield();
        }
        vgpu_pause();
    }
}

/* "A:B:C" */
static void numbers(const char *text, unsigned long long *out, int n)
{
    for (int i = 0; i < n; i++) {
        char *end;
        out[i] = strtoull(text, &end, 10);
        text = *end ? end + 1 : end;
    }
}

/*
 * A user, a file system and a network of our own, by the policy that we were given. Without one the executor started us and
 * its sandbox is ours already; then what a worker needs less than an executor is to start others: nothing that a program
 * does may become a process, unless its compiler is one.
 */
static int give_up(const char *policy, bool subprocess, char *text, size_t bytes, struct vgpu_err *err)
{
    struct vgpu_sandbox_policy p;
    struct vgpu_sandbox_report report;

    if (policy) {
        int rc = vgpu_sandbox_parse(policy, &p, err);
        if (rc == 0)
            rc = vgpu_sandbox_enter(&p, &report, err);
        if (rc == 0)
            vgpu_sandbox_report_text(&report, text, bytes);
        return rc;
    }
    vgpu_sandbox_defaults(&p);
    p.want[VGPU_SANDBOX_MOUNTS] = p.want[VGPU_SANDBOX_NETWORK] = p.want[VGPU_SANDBOX_USER] = VGPU_SANDBOX_OFF;
    p.uid = p.gid = VGPU_SANDBOX_SAME_USER;
    if (subprocess)
        p.may |= VGPU_SANDBOX_MAY_EXEC | VGPU_SANDBOX_MAY_FORK | VGPU_SANDBOX_MAY_SIGNAL;
    return vgpu_sandbox_enter(&p, &report, err);
}

/* Where the host runs out of memory the kernel ends a process that serves one VM, not one that serves many. If it may not be
 * said, it is not. */
static void first_to_go(void)
{
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

    if (fd < 0)
        return;
    ssize_t ignored = write(fd, "1000", 4);
    (void)ignored;
    close(fd);
}

int main(int argc, char **argv)
{
    static struct worker w;
    unsigned long long arena[2], limits[4];
    struct vgpu_err err = {0};

    prctl(PR_SET_PDEATHSIG, SIGKILL); /* vgpu-exec's death ends us */
    w.shm = argc == 5 || argc == 6
                ? mmap(NULL, sizeof(*w.shm), PROT_READ | PROT_WRITE, MAP_SHARED, VGPU_WORKER_FD_SHM, 0)
                : MAP_FAILED;
    if (w.shm == MAP_FAILED || w.shm->magic != VGPU_WORKER_MAGIC) {
        fprintf(stderr, "vgpu-worker is started by vgpu-exec, not by hand.\n");
        return 2;
    }
    numbers(argv[3], arena, 2);
    numbers(argv[4], limits, 4);
    vgpu_clock_init();
    w.arena_bytes = arena[1];
    w.device_bytes_max = (uint64_t)limits[0] << 20;
    w.spin_ns = limits[2] * 1000;
    if (limits[1]) {
        struct rlimit r = {limits[1] << 20, limits[1] << 20};
        setrlimit(RLIMIT_DATA, &r);
    }
    first_to_go();
    char layers[1024] = "";
    if (give_up(argv[5], limits[3] != 0, layers, sizeof(layers), &err))
        fail(&w, err.text);
    prctl(PR_SET_DUMPABLE, 0); /* where other VMs' workers have our uid they must not open our /proc/PID/mem */
    if (layers[0])
        fprintf(stderr, "vgpu-worker: pid %d: %s\n", (int)getpid(), layers);
    w.arena = mmap(NULL, arena[1], PROT_READ | PROT_WRITE, MAP_SHARED, VGPU_WORKER_FD_ARENA, (off_t)arena[0]);
    if (w.arena == MAP_FAILED)
        fail(&w, "cannot map the guest's arena");
    close(VGPU_WORKER_FD_ARENA); /* what follows runs what the guest sent: it gets the arena, not the whole region */
    close(VGPU_WORKER_FD_SHM);
    if (pjrt_open(&w.pjrt, argv[1], argv[2], &err))
        fail(&w, err.text);
    vgpu_cons_init(&w.req, w.shm->req, VGPU_WORKER_SLOTS, &w.shm->req_head, 0, !vgpu_ring_ownership_pays());
    vgpu_prod_init(&w.rep, w.shm->rep, VGPU_WORKER_SLOTS, &w.shm->rep_head, 0);
    snprintf(w.shm->text, sizeof(w.shm->text), "%s", w.pjrt.platform);
    vgpu_store_release(&w.shm->state, VGPU_WORKER_READY); /* W1 pairs with W1 in keeper.c look() */
    run(&w);
    return 0;
}
