/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/pmd-gpu/rig.h"

#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "core/base/clock.h"
#include "rings/memspace.h"

#define PAGE 4096u

/* xorshift64*: the seed of a failing run is printed and repeats it. */
uint64_t rig_random(struct rig *r)
{
    r->random ^= r->random >> 12;
    r->random ^= r->random << 25;
    r->random ^= r->random >> 27;
    return r->random * UINT64_C(0x2545f4914f6cdd1d);
}

uint64_t rig_below(struct rig *r, uint64_t n)
{
    return (rig_random(r) >> 11) % n;
}

static void arena_map(struct rig *r, uint32_t vm)
{
    struct rig_vm *v = &r->vm[vm];
    uint64_t bytes = r->config.arena_bytes;

    v->map = mmap(NULL, bytes + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(v->map != MAP_FAILED, "mmap of an arena: %s", strerror(errno));
    v->arena = v->map + PAGE;
    CHECK(mprotect(v->arena, bytes, PROT_READ | PROT_WRITE) == 0, "mprotect: %s", strerror(errno));
    v->shadow = malloc(bytes);
    CHECK(v->shadow, "out of memory");
    /* Poison: quiet NaNs as f32 and as bf16, so that reading what is not an operand shows in the result. */
    for (uint64_t i = 0; i < bytes / 4; i++)
        ((uint32_t *)(void *)v->shadow)[i] = 0x7fc07fc0u + (uint32_t)(i % 61) * 0x10001u;
    memcpy(v->arena, v->shadow, bytes);
}

void rig_open(struct rig *r, const struct conformance_subject *s, const struct rig_config *config)
{
    struct vgpu_err err = {0};

    memset(r, 0, sizeof(*r));
    r->s = s;
    r->config = *config;
    r->random = s->seed | 1;
    r->ops = vgpu_backend_find(s->backend);
    CHECK(r->ops, "no backend \"%s\"; there are: %s", s->backend, vgpu_backend_names());
    struct vgpu_backend_config bc = {.heap_bytes = config->heap_bytes,
                                     .max_vms = config->vms,
                                     .queues = config->queues,
                                     .max_in_flight = config->in_flight,
                                     .options = s->options};
    int rc = r->ops->open(&bc, &r->b, &err);
    CHECK(rc == 0, "open: %d %s", rc, err.text);
    r->vm = calloc(config->vms, sizeof(r->vm[0]));
    r->pool = aligned_alloc(64, config->in_flight * sizeof(r->pool[0]));
    r->free = calloc(config->in_flight, sizeof(r->free[0]));
    r->heap_shadow = calloc(1, config->unshadowed ? 1 : config->heap_bytes + 1);
    CHECK(r->vm && r->pool && r->free && r->heap_shadow, "out of memory");
    memset(r->pool, 0, config->in_flight * sizeof(r->pool[0]));
    for (uint32_t i = 0; i < config->in_flight; i++)
        r->free[r->n_free++] = &r->pool[i];
    for (uint32_t vm = 0; vm < config->vms; vm++) {
        arena_map(r, vm);
        r->vm[vm].priority = VGPU_PRIO_MEDIUM;
        if (config->engines && r->ops->region_engine)
            r->ops->region_engine(r->b, vm, (enum vgpu_engine)(vm % VGPU_ENGINE_COUNT));
        rc = r->ops->region_add(r->b, vm, r->vm[vm].arena, config->arena_bytes, -1, 0, &err);
        CHECK(rc == 0, "region_add: %d %s", rc, err.text);
        bool bounced = r->ops->region_bounced && r->ops->region_bounced(r->b, vm);
        CHECK(bounced == s->bounced, "VM %u: the arena is%s reached through copies", vm, bounced ? "" : " not");
    }
    if (config->heap_bytes && !config->unshadowed) { /* the heap starts poisoned too */
        struct vgpu_work w = w_fill(REF_D(0), 0x7fc17fc1u, config->heap_bytes);
        rig_send(r, 0, &w);
        rig_drain(r);
        for (uint64_t i = 0; i < config->heap_bytes / 4; i++)
            ((uint32_t *)(void *)r->heap_shadow)[i] = 0x7fc17fc1u;
    }
}

void rig_close(struct rig *r)
{
    rig_compare(r);
    CHECK(r->finished == r->submitted, "%" PRIu64 " submitted, %" PRIu64 " finished", r->submitted, r->finished);
    for (uint32_t vm = 0; vm < r->config.vms; vm++) {
        r->ops->region_del(r->b, vm);
        munmap(r->vm[vm].map, r->config.arena_bytes + 2 * PAGE);
        free(r->vm[vm].shadow);
    }
    r->ops->close(r->b);
    free(r->vm);
    free(r->pool);
    free(r->free);
    free(r->heap_shadow);
    free(r->heap_copy);
}

static void check_result(struct rig_vm *v, const struct rig_op *ro)
{
    if (v->leaving && ro->op.status == VGPU_E_CANCELLED) {
        v->cancelled++;
        return;
    }
    /* What has no effect may be done all the same. */
    bool idle = ro->sent.opcode == VGPU_OP_NOP || ro->sent.opcode == VGPU_OP_FENCE || ro->sent.opcode == VGPU_OP_MEM_FREE;
    CHECK(idle || v->cancelled == 0, "opcode %u of a VM that left: status %u after %u were cancelled", ro->sent.opcode,
          ro->op.status, v->cancelled);
    CHECK(ro->op.status == ro->want_status, "opcode %u: status %u, expected %u", ro->sent.opcode, ro->op.status,
          ro->want_status);
    CHECK(ro->op.value == ro->want_value, "opcode %u: value %" PRIu64 ", expected %" PRIu64, ro->sent.opcode,
          ro->op.value, ro->want_value);
}

uint32_t rig_poll(struct rig *r, uint32_t max)
{
    struct vgpu_op *done[64];

    if (max > 64)
        max = 64;
    uint32_t n = r->ops->poll(r->b, done, max);
    CHECK(n <= max, "poll(%u) returned %u", max, n);
    for (uint32_t i = 0; i < n; i++) {
        struct rig_op *ro = (struct rig_op *)done[i];
        CHECK(ro >= r->pool && ro < r->pool + r->config.in_flight, "poll returned an operation that is none");
        CHECK(ro->busy, "an operation (opcode %u) came back twice", ro->sent.opcode);
        CHECK(memcmp(&ro->sent, &ro->op.work, sizeof(ro->sent)) == 0, "the work of opcode %u was changed",
              ro->sent.opcode);
        check_result(&r->vm[ro->op.vm], ro);
        struct rig_vm *v = &r->vm[ro->op.vm];
        CHECK(ro->order > v->last_order, "VM %u: operation %" PRIu64 " comes back after %" PRIu64, ro->op.vm, ro->order,
              v->last_order);
        v->last_order = ro->order;
        ro->busy = false;
        r->in_flight--;
        r->finished++;
        if (r->on_done)
            r->on_done(r, ro);
        r->free[r->n_free++] = ro;
    }
    return n;
}

#define LOST_NS UINT64_C(180000000000) /* longer than the deadline of the device (subjects.c) */

static void poll_some(struct rig *r)
{
    uint64_t start = vgpu_now_ns();

    for (uint32_t empty = 1; rig_poll(r, 64) == 0; empty++) {
        CHECK(empty % 256 || !r->ops->lost || !r->ops->lost(r->b), "the device is lost: %s",
              r->ops->lost_reason ? r->ops->lost_reason(r->b) : "");
        CHECK(vgpu_now_ns() - start < LOST_NS, "%u in flight and no completion for three minutes", r->in_flight);
        if (r->s->asynchronous && empty % 256 == 0)
            sched_yield(); /* the device may be a thread of this machine */
    }
}

struct rig_op *rig_send_expect(struct rig *r, uint32_t vm, const struct vgpu_work *w, uint16_t status)
{
    while (r->n_free == 0)
        poll_some(r);
    struct rig_op *ro = r->free[--r->n_free];

    memset(&ro->op, 0xa5, sizeof(ro->op)); /* nothing may be taken over from an operation's last use */
    ro->op.work = *w;
    vgpu_work_set_vm(&ro->op.work, vm);
    ro->op.work.seq = r->submitted + 1;
    ro->sent = ro->op.work;
    ro->op.vm = vm;
    ro->op.queue = r->vm[vm].queue;
    ro->op.priority = r->vm[vm].priority;
    ro->want_status = status;
    ro->want_value = 0;
    if (w->opcode == VGPU_OP_MEM_ALLOC && status == VGPU_OK)
        ro->want_value = (w->n + VGPU_MEM_GRAIN - 1) / VGPU_MEM_GRAIN * VGPU_MEM_GRAIN;
    ro->busy = true;
    ro->order = r->submitted + 1;
    int rc;
    while ((rc = r->ops->submit(r->b, &ro->op)) == -EAGAIN) {
        CHECK(r->in_flight > 0, "submit refuses with -EAGAIN while nothing is in flight");
        poll_some(r);
    }
    CHECK(rc == 0, "submit: %d", rc);
    r->submitted++;
    r->in_flight++;
    return ro;
}

struct rig_op *rig_send(struct rig *r, uint32_t vm, const struct vgpu_work *w)
{
    return rig_send_expect(r, vm, w, VGPU_OK);
}

void rig_drain(struct rig *r)
{
    while (r->in_flight)
        poll_some(r);
    CHECK(rig_poll(r, 64) == 0, "a completion that nobody asked for");
}

void rig_swap_arenas(struct rig *r, uint32_t a, uint32_t b)
{
    struct rig_vm was = r->vm[a];

    r->vm[a].map = r->vm[b].map;
    r->vm[a].arena = r->vm[b].arena;
    r->vm[a].shadow = r->vm[b].shadow;
    r->vm[b].map = was.map;
    r->vm[b].arena = was.arena;
    r->vm[b].shadow = was.shadow;
}

uint64_t rig_window(const struct rig *r)
{
    return r->config.arena_bytes / 4 * 3;
}

uint8_t *rig_shadow(struct rig *r, uint32_t vm, uint64_t ref)
{
    uint64_t off = ref & VGPU_WREF_OFFSET_MASK;

    return (ref & VGPU_WREF_DEVICE ? r->heap_shadow : r->vm[vm].shadow) + off;
}

/* Moves bytes between the device and `data` through the window of a VM's arena, whose bytes and shadow stay in step. */
static void window_move(struct rig *r, uint32_t vm, uint64_t ref, uint8_t *data, uint64_t bytes, bool to_device)
{
    uint64_t window = rig_window(r), room = r->config.arena_bytes - window;
    uint8_t *at = r->vm[vm].arena + window;

    rig_drain(r);
    for (uint64_t done = 0; done < bytes;) {
        uint64_t len = bytes - done < room ? bytes - done : room;
        if (to_device)
            memcpy(at, data + done, len);
        struct vgpu_work w =
            to_device ? w_copy(ref + done, REF_A(window), len) : w_copy(REF_A(window), ref + done, len);
        rig_send(r, vm, &w);
        rig_drain(r);
        if (!to_device)
            memcpy(data + done, at, len);
        memcpy(r->vm[vm].shadow + window, at, len);
        done += len;
    }
}

void rig_write(struct rig *r, uint32_t vm, uint64_t ref, const void *data, uint64_t bytes)
{
    if (ref & VGPU_WREF_DEVICE)
        window_move(r, vm, ref, (uint8_t *)(uintptr_t)data, bytes, true);
    else
        memcpy(r->vm[vm].arena + ref, data, bytes);
    memcpy(rig_shadow(r, vm, ref), data, bytes);
}

void rig_read(struct rig *r, uint32_t vm, uint64_t ref, void *data, uint64_t bytes)
{
    if (ref & VGPU_WREF_DEVICE)
        window_move(r, vm, ref, data, bytes, false);
    else
        memcpy(data, r->vm[vm].arena + ref, bytes);
}

static void compare_bytes(const char *what, uint32_t vm, const uint8_t *got, const uint8_t *want, uint64_t bytes)
{
    if (memcmp(got, want, bytes) == 0)
        return;
    uint64_t i = 0;
    while (got[i] == want[i])
        i++;
    CHECK(false, "%s (VM %u): byte %" PRIu64 " of %" PRIu64 " is 0x%02x, expected 0x%02x", what, vm, i, bytes, got[i],
          want[i]);
}

void rig_compare(struct rig *r)
{
    rig_drain(r);
    for (uint32_t vm = 0; vm < r->config.vms; vm++)
        compare_bytes("arena", vm, r->vm[vm].arena, r->vm[vm].shadow, r->config.arena_bytes);
    if (!r->s->computes || r->config.heap_bytes == 0 || r->config.unshadowed)
        return;
    if (!r->heap_copy)
        r->heap_copy = malloc(r->config.heap_bytes);
    CHECK(r->heap_copy, "out of memory");
    rig_read(r, 0, REF_D(0), r->heap_copy, r->config.heap_bytes);
    compare_bytes("heap", 0, r->heap_copy, r->heap_shadow, r->config.heap_bytes);
}

void rig_run(struct rig *r, uint32_t vm, const struct vgpu_work *w)
{
    uint32_t m, n, k;
    uint64_t count = w->n;

    rig_send(r, vm, w);
    rig_drain(r);
    if (!r->s->computes)
        return;
    if (w->opcode == VGPU_OP_GEMM) {
        vgpu_gemm_unpack(w->n, &m, &n, &k);
        count = (uint64_t)m * n;
    }
    if (w->opcode == VGPU_OP_REDUCE || count == 0)
        count = 1;
    double *tolerance = calloc(count, sizeof(double));
    float *got = malloc(count * sizeof(float));
    CHECK(tolerance && got, "out of memory");
    uint64_t results = model_apply(r, vm, w, tolerance);
    if (results) {
        uint64_t ref = VGPU_WORK_LOW(w->dst);
        float *want = (float *)(void *)rig_shadow(r, vm, ref);
        rig_read(r, vm, ref, got, results * sizeof(float));
        for (uint64_t i = 0; i < results; i++) {
            double diff = (double)got[i] - (double)want[i];
            CHECK(diff <= tolerance[i] && -diff <= tolerance[i],
                  "opcode %u n %" PRIu64 ": result %" PRIu64 " is %.9g, expected %.9g within %.3g", w->opcode, w->n, i,
                  (double)got[i], (double)want[i], tolerance[i]);
        }
        memcpy(want, got, results * sizeof(float));
    }
    free(tolerance);
    free(got);
}
