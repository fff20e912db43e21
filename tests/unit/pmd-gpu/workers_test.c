/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an executor shares with program workers, and how they come and go: copies of arenas, memory that vanishes, starts
 * that have to wait, what cannot be made. Workers run nothing (fake_worker.c).
 */
#include "programs_rig.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "core/base/fdpass.h"
#include "core/base/sigbus.h"
#include "pmd-gpu/programs/starter.h"

TestSuite(workers, .timeout = 60);

/* What was under way is completed when nothing writes into the arena any more, not before: the guest may use it again. */
Test(workers, cancelled_means_that_it_ended)
{
    rig_open("");
    volatile uint64_t *word = (volatile uint64_t *)(d.arena[0] + FAKE_GATE_OFF);
    uint32_t writes = execute(0, FAKE_SCRIBBLE);
    for (uint64_t start = vgpu_now_ns(); *word == 0 && vgpu_now_ns() - start < WAIT_NS;)
        d.got += d.ops->poll(d.b, d.done + d.got, OPS - d.got);
    d.ops->cancel(d.b, 0);
    collect();
    uint64_t then = *word;
    expect(writes, VGPU_E_CANCELLED);
    usleep(20000);
    cr_expect_eq(*word, then, "it was completed while its worker wrote on");
    rig_close();
}

/* Memory that has no descriptor (Xen grants): the worker has a copy, in which each request finds what it names. */
Test(workers, a_region_without_a_descriptor_is_copied)
{
    struct vgpu_err err = {0};

    rig_open("");
    d.ops->region_del(d.b, 0);
    cr_assert_eq(d.ops->region_add(d.b, 0, d.arena[0], ARENA, -1, 0, &err), 0, "%s", err.text);
    for (uint32_t vm = 0; vm < 2; vm++) { /* 0 through copies, 1 as ever */
        for (uint32_t round = 0; round < 3; round++) {
            uint32_t n = 1000 + 700 * round, from = 64 * round, to = 8192 + 4096 * round;
            for (uint32_t i = 0; i < n; i++)
                d.arena[vm][from + i] = (uint8_t)(i * 7 + round + vm);
            send_as(vm, 1, (struct vgpu_work){.opcode = VGPU_OP_BUFFER_PUT, .arg = {7}, .src0 = from, .src1 = 60000, .n = n});
            collect();
            memset(d.arena[vm] + from, 0xee, n);
            send_as(vm, 1, (struct vgpu_work){.opcode = VGPU_OP_BUFFER_GET, .arg = {7}, .dst = to, .n = n});
            collect();
            for (uint32_t i = 0; i < n; i++)
                cr_assert_eq(d.arena[vm][to + i], (uint8_t)(i * 7 + round + vm), "VM %u, byte %u of %u", vm, i, n);
            cr_expect_eq(d.arena[vm][to + n], 0, "more than was asked for");
        }
    }
    uint32_t ok = execute(0, FAKE_OK), dies = execute(0, FAKE_DIE), word = fill(0, 0);
    collect();
    expect(ok, VGPU_OK);
    expect(dies, VGPU_E_LOST);
    expect(word, VGPU_OK);
    rig_close();
}

#define LARGE (3u << 20) /* of one copy; a poll copies some hundred KiB */
#define PIECE (256u << 10)

/* VM 0 gets an arena of `bytes` that only we can map. */
static uint8_t *copied_region(uint64_t bytes)
{
    struct vgpu_err err = {0};
    uint8_t *arena = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    cr_assert(arena != MAP_FAILED);
    d.ops->region_del(d.b, 0);
    cr_assert_eq(d.ops->region_add(d.b, 0, arena, bytes, -1, 0, &err), 0, "%s", err.text);
    execute(0, FAKE_OK);
    collect(); /* from here on its worker is there */
    return arena;
}

static uint32_t put(uint64_t from, uint64_t n)
{
    return send_as(0, 1, (struct vgpu_work){.opcode = VGPU_OP_BUFFER_PUT, .arg = {7}, .src0 = from, .n = n});
}

static uint32_t get(uint64_t to, uint64_t n)
{
    return send_as(0, 1, (struct vgpu_work){.opcode = VGPU_OP_BUFFER_GET, .arg = {7}, .dst = to, .n = n});
}

static void poll_once(void)
{
    d.got += d.ops->poll(d.b, d.done + d.got, OPS - d.got);
}

/* One poll serves everybody, so it copies a piece: what the guest changes in between is in the later ones. */
Test(workers, a_large_copy_goes_in_pieces)
{
    rig_open("");
    uint8_t *arena = copied_region(3 * LARGE);
    memset(arena, 1, LARGE);
    put(0, LARGE);
    poll_once();
    memset(arena, 2, LARGE);
    collect();
    get(LARGE, LARGE);
    for (uint64_t start = vgpu_now_ns(); *(volatile uint8_t *)(arena + LARGE) == 0 && vgpu_now_ns() - start < WAIT_NS;)
        poll_once();
    cr_expect_eq(arena[LARGE + PIECE], 0, "more than a piece was copied back in one poll");
    cr_expect_lt(d.got, d.sent, "it was completed before its result was there");
    collect();
    uint32_t first = 0;
    while (first < LARGE && arena[LARGE + first] == 1)
        first++;
    cr_expect(first > 0 && first <= PIECE, "%u bytes were copied in one poll", first);
    for (uint32_t i = first; i < LARGE; i++)
        cr_assert_eq(arena[LARGE + i], 2, "byte %u", i);
    /* A worker that dies while what it answered is copied back has answered. */
    get(2 * LARGE, LARGE);
    execute(0, FAKE_DIE);
    collect();
    cr_expect_eq(memcmp(arena + LARGE, arena + 2 * LARGE, LARGE), 0);
    rig_close();
    munmap(arena, 3 * LARGE);
}

/* What one request writes the next one reads, as far as copies have to go. */
Test(workers, copies_keep_the_order)
{
    rig_open("");
    uint8_t *arena = copied_region(4 * LARGE);
    for (uint32_t i = 0; i < LARGE; i++)
        arena[i] = (uint8_t)(i * 13 + i / 251);
    put(0, LARGE);
    get(LARGE, LARGE);
    put(LARGE, LARGE);
    get(2 * LARGE, LARGE);
    put(2 * LARGE + 4096, 4096);
    get(3 * LARGE, 4096);
    collect();
    for (uint32_t i = 0; i < d.sent; i++)
        expect(i, VGPU_OK);
    cr_expect_eq(memcmp(arena, arena + LARGE, LARGE), 0);
    cr_expect_eq(memcmp(arena, arena + 2 * LARGE, LARGE), 0);
    cr_expect_eq(memcmp(arena + 4096, arena + 3 * LARGE, 4096), 0);
    expect_order();
    rig_close();
    munmap(arena, 4 * LARGE);
}

/* Cancelled half way; and the slot's next VM begins anew. */
Test(workers, a_cancelled_copy_leaves_nothing)
{
    struct vgpu_err err = {0};

    rig_open("");
    uint8_t *arena = copied_region(LARGE);
    uint32_t half = put(0, LARGE);
    poll_once();
    d.ops->cancel(d.b, 0);
    collect();
    expect(half, VGPU_E_CANCELLED);
    d.ops->region_del(d.b, 0);
    cr_assert_eq(d.ops->region_add(d.b, 0, arena, LARGE, -1, 0, &err), 0, "%s", err.text);
    arena[0] = 77;
    put(0, 4096);
    get(8192, 4096);
    collect();
    cr_expect_eq(arena[8192], 77);
    rig_close();
    munmap(arena, LARGE);
}

/* The only mapping of this memfd, which then has no page any more: what a hole and a full machine come to. */
static void vanish(const char *name)
{
    char line[512];
    uintptr_t from = 0, to = 0;
    FILE *f = fopen("/proc/self/maps", "r");

    cr_assert(f);
    for (unsigned found = 0; fgets(line, sizeof(line), f);)
        if (strstr(line, name)) {
            cr_assert_eq(++found, 1, "%s is mapped more than once", name);
            cr_assert_eq(sscanf(line, "%lx-%lx", &from, &to), 2);
        }
    fclose(f);
    cr_assert(from, "%s is not mapped", name);
    int fd = memfd_create("nothing", MFD_CLOEXEC);
    cr_assert(mmap((void *)from, to - from, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) != MAP_FAILED);
    close(fd);
}

/* Memory that a worker shares with the executor, and takes away: it costs its VM its programs until it attaches again. */
Test(workers, memory_that_vanishes)
{
    struct vgpu_err err = {0};

    cr_assert_eq(vgpu_sigbus_install(), 0);
    for (int which = 0; which < 2; which++) {
        rig_open("");
        for (uint32_t vm = 1; vm < VMS; vm++)
            d.ops->region_del(d.b, vm);
        uint8_t *arena = copied_region(ARENA);
        vanish(which ? "vgpu-arena-copy" : "vgpu-worker");
        cr_assert_eq(d.ops->region_add(d.b, 1, d.arena[1], ARENA, d.fd[1], 0, &err), 0, "%s", err.text);
        uint32_t first = put(0, 4096), then = execute(0, FAKE_OK), word = fill(0, 0), other = execute(1, FAKE_OK);
        collect();
        cr_expect(d.op[first].status == VGPU_E_LOST || d.op[first].status == VGPU_E_BACKEND, "%u", d.op[first].status);
        expect(then, VGPU_E_BACKEND);
        expect(word, VGPU_OK);
        expect(other, VGPU_OK);
        d.ops->region_del(d.b, 0);
        cr_assert_eq(d.ops->region_add(d.b, 0, d.arena[0], ARENA, d.fd[0], 0, &err), 0, "%s", err.text);
        uint32_t again = execute(0, FAKE_OK);
        collect();
        expect(again, VGPU_OK);
        rig_close();
        munmap(arena, ARENA);
    }
}

/* Who starts workers instead of the keeper: says that the one before is still there for `busy` times. */
static struct {
    int sock;
    unsigned busy, starts;
    pid_t pid;
} starter;

static int starter_start(const struct vgpu_starter_request *q, const int *fds)
{
    char arena[64];
    char *argv[] = {(char *)FAKE_WORKER, (char *)"/dev/null", (char *)"", arena, (char *)"0:0:0:0", NULL};
    posix_spawn_file_actions_t fa;

    snprintf(arena, sizeof(arena), "%llu:%llu", (unsigned long long)q->arena_off, (unsigned long long)q->arena_bytes);
    posix_spawn_file_actions_init(&fa);
    for (int i = 0; i < 3; i++)
        posix_spawn_file_actions_adddup2(&fa, fds[i], 100 + i);
    for (int i = 0; i < 3; i++)
        posix_spawn_file_actions_adddup2(&fa, 100 + i, 3 + i);
    int rc = posix_spawn(&starter.pid, FAKE_WORKER, &fa, NULL, argv, NULL);
    posix_spawn_file_actions_destroy(&fa);
    return -rc;
}

static void *starter_main(void *arg)
{
    struct vgpu_starter_request q;
    int fds[3], n = 3;

    (void)arg;
    for (; vgpu_fd_recv(starter.sock, &q, sizeof(q), fds, &n, 0) == (ssize_t)sizeof(q); n = 3) {
        struct vgpu_starter_answer a = {0};
        int pid_fd = -1;
        if (q.type == VGPU_STARTER_START) {
            starter.starts++;
            a.rc = starter.busy ? -EBUSY : starter_start(&q, fds);
            starter.busy -= starter.busy > 0;
            a.pid = starter.pid;
            pid_fd = a.rc ? -1 : (int)syscall(SYS_pidfd_open, starter.pid, 0);
        } else if (q.type == VGPU_STARTER_END) {
            kill(starter.pid, SIGKILL);
        } else {
            waitpid(starter.pid, &a.status, 0);
        }
        for (int i = 0; i < n; i++)
            close(fds[i]);
        vgpu_fd_send(starter.sock, &a, sizeof(a), &pid_fd, pid_fd >= 0, 0);
        if (pid_fd >= 0)
            close(pid_fd);
    }
    return NULL;
}

static pthread_t starter_open(unsigned refusals)
{
    int pair[2];
    pthread_t thread;

    cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    starter.sock = pair[0];
    starter_fd = pair[1];
    starter.busy = refusals;
    starter.starts = 0;
    cr_assert_eq(pthread_create(&thread, NULL, starter_main, NULL), 0);
    return thread;
}

static void starter_close(pthread_t thread)
{
    close(starter_fd);
    starter_fd = -1;
    pthread_join(thread, NULL);
    close(starter.sock);
}

/* The worker before it is on its way out: that is no failure, it is tried again; but not for ever. */
Test(workers, a_start_waits_for_the_end_of_the_one_before)
{
    pthread_t thread = starter_open(5);
    rig_open("");
    uint32_t ok = execute(0, FAKE_OK);
    collect();
    expect(ok, VGPU_OK);
    cr_expect_eq(starter.starts, 6, "%u starts", starter.starts);
    uint32_t hangs = execute(0, FAKE_DIE), again = execute(0, FAKE_OK);
    collect();
    expect(hangs, VGPU_E_LOST);
    cr_expect(d.op[again].status == VGPU_OK || d.op[again].status == VGPU_E_LOST);
    rig_close();
    starter_close(thread);

    thread = starter_open(UINT32_MAX);
    rig_open("start_ms=100");
    uint32_t never = execute(0, FAKE_OK), word = fill(0, 0);
    collect();
    expect(never, VGPU_E_BACKEND);
    expect(word, VGPU_OK);
    cr_expect_gt(starter.starts, 1);
    rig_close();
    starter_close(thread);
}

/* ---- calls that fail (meson.build wraps them) ---- */

static bool threads_fail;
extern int __real_pthread_create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
extern int __wrap_pthread_create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *), void *arg)
{
    return threads_fail ? EAGAIN : __real_pthread_create(thread, attr, run, arg);
}

static unsigned open_files(void)
{
    unsigned n = 0;

    for (int fd = 0; fd < 1024; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

/* Each rung of the keeper's ladders leaves nothing behind. */
Test(workers, what_cannot_be_made_leaves_nothing)
{
    struct vgpu_backend_config config = {
        .heap_bytes = 65536, .max_vms = 1, .queues = 1, .max_in_flight = 1, .options = ""};
    struct vgpu_programs_options o;
    struct vgpu_backend *b;
    struct vgpu_err err = {0};

    cr_assert_eq(vgpu_programs_parse("plugin=/dev/null,worker=" FAKE_WORKER, &o, &err), 0);
    unsigned before = open_files();
    threads_fail = true;
    cr_expect_eq(vgpu_programs_over(&vgpu_backend_null, &o)->open(&config, &b, &err), -EAGAIN);
    cr_expect(strstr(err.text, "thread"), "%s", err.text);
    threads_fail = false;
    cr_expect_eq(open_files(), before);

    rig_open("");
    d.ops->region_del(d.b, 0);
    before = open_files();
    /* A file cannot be so large; one that can is more than there are addresses; no guard is left for it. */
    const uint64_t bytes[] = {UINT64_C(1) << 63, UINT64_C(1) << 62, ARENA};
    static int guard[VGPU_SIGBUS_RANGES];
    static uint32_t word;
    unsigned guards = 0;
    for (int i = 0; i < 3; i++) {
        while (bytes[i] == ARENA && guards < VGPU_SIGBUS_RANGES && (guard[guards] = vgpu_sigbus_add(&word, 4, 4, &word)) >= 0)
            guards++;
        cr_expect_lt(d.ops->region_add(d.b, 0, d.arena[0], bytes[i], -1, 0, &err), 0);
        cr_expect(strstr(err.text, "memory"), "%s", err.text);
        cr_expect_eq(open_files(), before);
    }
    while (guards > 0)
        vgpu_sigbus_del(guard[--guards]);
    cr_assert_eq(d.ops->region_add(d.b, 0, d.arena[0], ARENA, d.fd[0], 0, &err), 0, "%s", err.text);
    uint32_t ok = execute(0, FAKE_OK);
    collect();
    expect(ok, VGPU_OK);
    rig_close();
}
