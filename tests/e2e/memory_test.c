/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory that a guest takes away while the host uses it: holes in a plain memfd (pages come back as zeros), and hugepages
 * that are not there any more (SIGBUS). vgpud, the executor and all other guests live on; that guest alone is broken.
 */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "raw.h"
#include "ring_look.h"

#ifndef MFD_HUGE_2MB
#define MFD_HUGE_2MB (21u << 26)
#endif
#define HUGE (UINT64_C(2) << 20)

struct other {
    const struct e2e_host *h;
    unsigned vm_id;
    bool stop;
    uint64_t rng, progress;
    pthread_t thread;
};

static void *run_other(void *arg)
{
    struct other *o = arg;
    struct e2e_flow f = {.v = e2e_open(o->h, o->vm_id, NULL), .work = E2E_VERIFIED, .total = UINT64_MAX, .stop = &o->stop,
                         .rng = o->rng};

    while (e2e_flow_step(&f))
        __atomic_store_n(&o->progress, f.status[VGPU_OK], __ATOMIC_RELAXED);
    e2e_flow_check(&f);
    e2e_check(f.status[VGPU_OK] == f.submitted, "VM %u suffered: %llu of %llu done", o->vm_id,
              (unsigned long long)f.status[VGPU_OK], (unsigned long long)f.submitted);
    e2e_flow_free(&f);
    vgpu_close(f.v);
    return NULL;
}

/* Verified work in the same pool, for as long as it lasts. */
static void other_start(struct other *o, const struct e2e_host *h, unsigned vm_id)
{
    *o = (struct other){.h = h, .vm_id = vm_id, .rng = e2e_random()};
    e2e_thread(run_other, o, &o->thread);
}

static void other_gets_on(struct other *o)
{
    uint64_t was = __atomic_load_n(&o->progress, __ATOMIC_RELAXED);

    e2e_eventually(__atomic_load_n(&o->progress, __ATOMIC_RELAXED) > was + 100, "VM %u does not get on", o->vm_id);
}

static void other_end(struct other *o)
{
    other_gets_on(o);
    __atomic_store_n(&o->stop, true, __ATOMIC_RELAXED);
    pthread_join(o->thread, NULL);
}

static void same_processes(const struct e2e_host *h, pid_t executor)
{
    e2e_check(e2e_host_alive(h), "vgpud died");
    e2e_check(e2e_executor_pid(h, "A") == executor, "the executor died");
}

/* ---- plain memory: a hole reads as zeros ---- */

static void punch(int fd, uint64_t off, uint64_t bytes)
{
    int rc = fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)off, (off_t)bytes);

    e2e_check(rc == 0, "cannot punch a hole: %s", strerror(errno));
}

/* Attached with libvgpu, submits, and takes pages away under it at random; whatever comes of it is its own affair. */
static void as_puncher(void *arg)
{
    struct other *o = arg;
    uint64_t rng = o->rng;
    struct vgpu *v = e2e_open_patiently(o->h, o->vm_id);
    struct vgpu_completion c[64];
    struct vgpu_request r[16];

    for (unsigned i = 0; i < 400; i++) {
        for (unsigned k = 0; k < 16; k++)
            r[k] = (struct vgpu_request){.opcode = VGPU_OP_FILL, .tag = k, .dst = {.offset = e2e_next(&rng) % 200 * 4096},
                                         .n = 4096};
        int rc = vgpu_submit_burst(v, r, 16, NULL);
        if (rc < 0 && rc != -EAGAIN)
            break;
        uint64_t pages = v->region.bytes / 4096, page = e2e_next(&rng) % pages, n = 1 + e2e_next(&rng) % 8;
        if (i % 3 == 0) /* control pages and rings more often than by chance */
            page = e2e_next(&rng) % 35;
        punch(v->region.fd, page * 4096, (page + n > pages ? pages - page : n) * 4096);
        if (vgpu_poll(v, c, 64) < 0)
            break;
    }
    vgpu_close(v);
}

static void holes(struct e2e_options o)
{
    struct e2e_host h;
    struct other good[2], bad;

    e2e_host_start(&h, &o);
    e2e_register(&h, 1, 3, "A", "medium", NULL);
    pid_t executor = e2e_executor_pid(&h, "A");
    other_start(&good[0], &h, 1);
    other_start(&good[1], &h, 2);
    for (unsigned i = 0; i < 20; i++) {
        bad = (struct other){.h = &h, .vm_id = 3, .rng = e2e_random()};
        e2e_check(e2e_reap(e2e_fork(as_puncher, &bad)), "the puncher failed otherwise");
        same_processes(&h, executor);
    }
    other_end(&good[0]);
    other_end(&good[1]);
    struct vgpu *v = e2e_open_patiently(&h, 3);
    e2e_check(vgpu_nop(v) == 0, "%s", vgpu_strerror(v));
    vgpu_close(v);
    e2e_host_stop(&h);
}

static void plain_holes(void)
{
    holes((struct e2e_options){0});
}
static void plain_holes_in_process(void)
{
    holes((struct e2e_options){.in_process = true});
}

/* ---- hugepages: a hole is a SIGBUS once the pool is empty ---- */

/* Takes every free hugepage, so that the next touch of a missing one fails. */
struct hoard {
    int fd;
    void *map;
    uint64_t bytes;
};
static void hoard_all(struct hoard *x)
{
    uint64_t pages = (uint64_t)e2e_hugepages("free_hugepages");

    *x = (struct hoard){.fd = memfd_create("vgpu-hoard", MFD_CLOEXEC | MFD_HUGETLB | MFD_HUGE_2MB), .bytes = pages * HUGE};
    e2e_check(x->fd >= 0 && ftruncate(x->fd, (off_t)x->bytes) == 0, "hoard: %s", strerror(errno));
    for (uint64_t i = 0; i < pages; i++)
        e2e_check(fallocate(x->fd, 0, (off_t)(i * HUGE), (off_t)HUGE) == 0 || errno == ENOSPC, "hoard: %s",
                  strerror(errno));
    e2e_check(e2e_hugepages("free_hugepages") == 0, "%ld hugepages are still free", e2e_hugepages("free_hugepages"));
}
/* Takes the region's first page while the host polls there, and would fault in another at once: tries until we are first. */
static void take_away(struct hoard *x, int region_fd)
{
    e2e_check(ftruncate(x->fd, (off_t)(x->bytes + HUGE)) == 0, "hoard: %s", strerror(errno));
    for (unsigned tries = 0;; tries++) {
        punch(region_fd, 0, HUGE);
        if (fallocate(x->fd, 0, (off_t)x->bytes, (off_t)HUGE) == 0)
            return;
        e2e_check(errno == ENOSPC && tries < 1000000, "hoard: %s after %u tries", strerror(errno), tries);
    }
}
static void hoard_release(struct hoard *x)
{
    close(x->fd);
}

static void is_broken(const struct e2e_host *h, unsigned vm_id)
{
    char state[32];

    e2e_eventually((e2e_vm_state(h, vm_id, state, sizeof(state)), !strcmp(state, "broken")), "VM %u is \"%s\"", vm_id,
                   state);
}

/* The arena's second page is gone: the operation on it reports FAULT. Rings are in the first page and stay. */
static void arena_gone(struct vgpu *v)
{
    struct vgpu_request good = {.opcode = VGPU_OP_FILL, .dst = {.offset = 4096}, .n = 4096, .tag = 1};
    struct vgpu_request bad = {.opcode = VGPU_OP_FILL, .dst = {.offset = 3 * HUGE}, .n = 8192, .tag = 2};
    struct vgpu_completion c;
    struct hoard x;

    e2e_check(vgpu_submit(v, &good, NULL) == 0 && vgpu_wait(v, &c, 1, UINT64_C(20000000000)) == 1 && c.status == VGPU_OK,
              "before: %s", vgpu_strerror(v));
    /* A page that was never there stays reserved for this region; one that was and is punched goes back to the pool. */
    e2e_check(fallocate(v->region.fd, 0, 0, (off_t)v->region.bytes) == 0, "fallocate: %s", strerror(errno));
    punch(v->region.fd, HUGE, v->region.bytes - HUGE);
    hoard_all(&x);
    e2e_check(vgpu_submit(v, &bad, NULL) == 0, "%s", vgpu_strerror(v));
    int n = vgpu_wait(v, &c, 1, UINT64_C(20000000000));
    e2e_check(n == 1 && c.tag == 2 && c.status == VGPU_E_FAULT, "%d: tag %u, status %u: %s", n, c.tag, c.status,
              vgpu_strerror(v));
    hoard_release(&x);
}

/* A GPU holds the pages of the arenas that are registered with it: punching holes takes nothing away from anybody. */
static void needs_pages_that_can_go(void)
{
    if (e2e_backend() && strcmp(e2e_backend(), "cuda") == 0)
        e2e_skip("backend cuda keeps an arena's pages: they cannot vanish");
}

static void huge_arena(struct e2e_options o)
{
    struct e2e_host h;
    struct other good;
    struct vgpu_completion c;

    needs_pages_that_can_go();
    e2e_hugepages_need(8);
    o.arena_bytes = "8M";
    e2e_host_start(&h, &o);
    e2e_register(&h, 1, 2, "A", "medium", NULL);
    pid_t executor = e2e_executor_pid(&h, "A");
    other_start(&good, &h, 1);
    struct vgpu *v = e2e_open(&h, 2, &(struct vgpu_options){.flags = VGPU_OPEN_HUGEPAGES});
    e2e_check(v->region.bytes % HUGE == 0, "libvgpu did not get hugepages");
    arena_gone(v);
    is_broken(&h, 2);
    e2e_eventually(vgpu_poll(v, &c, 1) == -EPROTO, "the guest is not told: %s", vgpu_strerror(v));
    e2e_check(strstr(vgpu_strerror(v), "memory of the region is gone"), "%s", vgpu_strerror(v));
    same_processes(&h, executor);
    vgpu_close(v);
    v = e2e_open_patiently(&h, 2);
    e2e_check(vgpu_nop(v) == 0, "attached again: %s", vgpu_strerror(v));
    vgpu_close(v);
    other_end(&good);
    same_processes(&h, executor);
    e2e_host_stop(&h);
}

static void huge_arena_gone(void)
{
    huge_arena((struct e2e_options){0});
}
static void huge_arena_gone_in_process(void)
{
    huge_arena((struct e2e_options){.in_process = true});
}

/* Header, control pages and rings are gone. A guest by hand, which touches none of it itself, rings the doorbell. */
static void huge_rings_gone(void)
{
    struct e2e_host h;
    struct raw_guest g;
    struct other good;
    struct hoard x;

    needs_pages_that_can_go();
    e2e_hugepages_need(4);
    e2e_host_start(&h, NULL);
    e2e_register(&h, 1, 2, "A", "medium", NULL);
    pid_t executor = e2e_executor_pid(&h, "A");
    other_start(&good, &h, 1);
    raw_connect(&g, &h, 2);
    g.header.region_bytes = HUGE;
    g.header.arena_bytes = 64 * 4096;
    int fd = raw_region(&g, MFD_HUGETLB | MFD_HUGE_2MB, RAW_SEALS_GOOD);
    e2e_check(raw_hello(&g) == 0 && raw_attach(&g, HUGE, &fd, 1) == 0, "%s", g.error.text);
    hoard_all(&x);
    take_away(&x, fd);
    raw_ring(&g);
    is_broken(&h, 2);
    other_gets_on(&good);
    same_processes(&h, executor);
    raw_close(&g);
    hoard_release(&x);
    struct vgpu *v = e2e_open_patiently(&h, 2);
    e2e_check(vgpu_nop(v) == 0, "attached again: %s", vgpu_strerror(v));
    vgpu_close(v);
    other_end(&good);
    same_processes(&h, executor);
    e2e_host_stop(&h);
}

/* The completion ring vanishes while an operation runs: the executor meets the hole when it completes. */
static void huge_completion_ring_gone(void)
{
    struct e2e_host h;
    struct raw_guest g;
    struct other good;
    struct hoard x;

    e2e_hugepages_need(6);
    e2e_host_start(&h, &(struct e2e_options){.backend = "fault:cpu", .debug = true, .arena_bytes = "4M"});
    e2e_register(&h, 1, 2, "A", "medium", NULL);
    pid_t executor = e2e_executor_pid(&h, "A");
    raw_connect(&g, &h, 2);
    /* Header, guest control and submission ring in the first hugepage, all that the executor writes in the second. */
    g.header.region_bytes = 2 * HUGE;
    g.header.cq_off = HUGE;
    g.header.arena_off = HUGE + 4096;
    int fd = raw_region(&g, MFD_HUGETLB | MFD_HUGE_2MB, RAW_SEALS_GOOD);
    e2e_check(raw_hello(&g) == 0 && raw_attach(&g, 2 * HUGE, &fd, 1) == 0, "%s", g.error.text);
    e2e_check(fallocate(fd, 0, 0, (off_t)(2 * HUGE)) == 0, "fallocate: %s", strerror(errno));
    char *map = mmap(NULL, HUGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    e2e_check(map != MAP_FAILED, "mmap: %s", strerror(errno));
    struct vgpu_desc *d = (struct vgpu_desc *)(map + g.header.sq_off) + (g.attached.sq_start & (g.header.sq_slots - 1));
    *d = (struct vgpu_desc){.opcode = VGPU_OP_DEBUG, .arg = {500000}};
    vgpu_store_release(&d->seq, g.attached.sq_start + 1); /* S1 */
    raw_ring(&g);
    e2e_eventually(e2e_vm_stat(&h, 2, "accepted") == 1, "the stall is not accepted");
    punch(fd, HUGE, HUGE);
    hoard_all(&x);
    is_broken(&h, 2);
    same_processes(&h, executor);
    other_start(&good, &h, 1);
    other_end(&good);
    munmap(map, HUGE);
    raw_close(&g);
    hoard_release(&x);
    struct vgpu *v = e2e_open_patiently(&h, 2);
    e2e_check(vgpu_nop(v) == 0, "attached again: %s", vgpu_strerror(v));
    vgpu_close(v);
    same_processes(&h, executor);
    e2e_host_stop(&h);
}

/* The first page is gone before the host has looked at the header. */
static void huge_header_gone(void)
{
    struct e2e_host h;
    struct raw_guest g;
    struct hoard x;

    e2e_hugepages_need(4);
    e2e_host_start(&h, NULL);
    e2e_register(&h, 1, 2, "A", "medium", NULL);
    pid_t executor = e2e_executor_pid(&h, "A");
    raw_connect(&g, &h, 2);
    g.header.region_bytes = HUGE;
    int fd = raw_region(&g, MFD_HUGETLB | MFD_HUGE_2MB, RAW_SEALS_GOOD);
    punch(fd, 0, HUGE);
    hoard_all(&x);
    e2e_check(raw_hello(&g) == 0, "%s", g.error.text);
    uint32_t error = raw_attach(&g, HUGE, &fd, 1);
    e2e_check(error == VGPU_ATTACH_E_REGION || error == VGPU_ATTACH_E_NOMEM, "error %u: %s", error, g.error.text);
    same_processes(&h, executor);
    raw_close(&g);
    hoard_release(&x);
    struct vgpu *v = e2e_open_patiently(&h, 2);
    e2e_check(vgpu_nop(v) == 0, "%s", vgpu_strerror(v));
    vgpu_close(v);
    e2e_host_stop(&h);
}

/* vgpud's own hugepages and a guest's: whoever is killed, the pool is as full as before once all are gone. */
struct hugepage_guest {
    const struct e2e_host *h;
    int told; /* a byte when it works */
};

static void hugepage_guest(void *arg)
{
    struct hugepage_guest *g = arg;
    struct vgpu *v = e2e_open(g->h, 1, &(struct vgpu_options){.flags = VGPU_OPEN_HUGEPAGES});

    e2e_check(v->region.bytes % HUGE == 0, "libvgpu did not get hugepages");
    e2e_check(vgpu_nop(v) == 0 && write(g->told, "x", 1) == 1, "%s", vgpu_strerror(v));
    for (;;)
        vgpu_nop(v);
}

static void hugepages_come_back(void)
{
    struct e2e_host h;
    int pipes[2];
    char byte;

    needs_pages_that_can_go();
    e2e_hugepages_need(32);
    const long before = e2e_hugepages("free_hugepages");
    long least = before;
    e2e_host_start(&h, &(struct e2e_options){.arena_bytes = "8M", .hugepages = true});
    e2e_register(&h, 1, 1, "A", "medium", NULL);
    for (unsigned round = 0; round < 3; round++) { /* an executor, a guest, vgpud */
        e2e_check(pipe(pipes) == 0, "pipe: %s", strerror(errno));
        struct hugepage_guest g = {.h = &h, .told = pipes[1]};
        pid_t guest = e2e_fork(hugepage_guest, &g);
        close(pipes[1]);
        e2e_check(read(pipes[0], &byte, 1) == 1, "the guest does not work");
        long now = e2e_hugepages("free_hugepages");
        least = now < least ? now : least;
        if (round == 0) {
            pid_t old = e2e_executor_pid(&h, "A"), next;
            e2e_check(kill(old, SIGKILL) == 0, "kill: %s", strerror(errno));
            e2e_eventually((next = e2e_executor_pid(&h, "A")) > 0 && next != old, "pool A stays down");
        }
        if (round == 2)
            e2e_host_kill(&h);
        e2e_check(kill(guest, SIGKILL) == 0 && waitpid(guest, NULL, 0) == guest, "guest: %s", strerror(errno));
        close(pipes[0]);
        char state[32] = "";
        e2e_eventually(round == 2 || (e2e_vm_state(&h, 1, state, sizeof(state)), !strcmp(state, "registered")), "VM 1 is \"%s\"",
                       state);
    }
    e2e_check(least < before, "no hugepage was in use");
    e2e_eventually(e2e_hugepages("free_hugepages") == before, "%ld hugepages are free, before there were %ld",
                   e2e_hugepages("free_hugepages"), before);
    e2e_shows("%ld hugepages in use came back after an executor, a guest and vgpud were killed -9", before - least);
    e2e_host_restart(&h);
    e2e_host_stop(&h);
}

static const struct e2e_test tests[] = {
    {"plain_holes", plain_holes, 0},
    {"plain_holes_in_process", plain_holes_in_process, 0},
    {"huge_arena_gone", huge_arena_gone, 0},
    {"huge_arena_gone_in_process", huge_arena_gone_in_process, 0},
    {"huge_rings_gone", huge_rings_gone, 0},
    {"huge_completion_ring_gone", huge_completion_ring_gone, 0},
    {"huge_header_gone", huge_header_gone, 0},
    {"hugepages_come_back", hugepages_come_back, 120},
};
E2E_MAIN(tests)
