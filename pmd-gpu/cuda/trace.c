/* SPDX-License-Identifier: Apache-2.0 */
/*
 * When traced operations ran, by the GPU's own clock (globaltimer). A kernel of one thread writes it into pinned memory,
 * before and after what is launched for the operation; only streams have that: what a resident worker runs has no times.
 *
 * The GPU's clock and ours have nothing in common but cause and effect: a first stamp is later than the launch of its
 * kernel, a last one earlier than the moment when the loop saw its done word. Each operation so bounds the distance of the
 * clocks from both sides; they drift, so bounds widen with time. The middle is what we map by, half of what is between
 * them is how far that may be off, and vgpu-ctl says so. Loop thread, but for cuda_trace_stamp() (launcher thread).
 */
#include "core/base/clock.h"
#include "pmd-gpu/cuda/cuda.h"

#define DRIFT 1e-4 /* at most so far apart do the rates of two crystals' clocks get */

struct stamps {
    uint64_t device_ns[2]; /* first, last; written by the device */
    uint64_t launched;     /* ticks: before the first was launched */
    uint64_t reserved;
};
_Static_assert(sizeof(struct stamps) == CUDA_STAMP_BYTES, "as cuda.c reserves them");

void cuda_trace_stamp(struct cuda *c, struct cuda_lane *lane, bool last)
{
    uint64_t slot = (lane->launched & lane->mask) * CUDA_STAMP_BYTES;
    struct stamps *s = (struct stamps *)(void *)(lane->stamps + slot);
    CUdeviceptr at = lane->stamps_dev + slot + (last ? sizeof(s->device_ns[0]) : 0);
    void *params[] = {&at};

    if (!last) {
        s->device_ns[0] = s->device_ns[1] = 0;
        s->launched = vgpu_ticks();
    }
    /* Should it fail, the operation has no times; the error is the next call's as well. */
    cuda_ok(c, c->api->LaunchKernel(c->gpu->stamp, 1, 1, 1, 1, 1, 1, 0, lane->stream, params, NULL), "stamp of a trace");
}

void cuda_trace_put(struct cuda_lane *lane, struct vgpu_op *op)
{
    op->priv[CUDA_PRIV_STAMPS] = (uintptr_t)(lane->stamps + (lane->launched & lane->mask) * CUDA_STAMP_BYTES);
}

/* Host's nanoseconds since the first look, and back. Doubles: differences of hours are exact to the nanosecond. */
static double host_ns(const struct cuda *c, uint64_t ticks)
{
    return (double)(int64_t)(ticks - c->trace.anchor_ticks) * 1e9 / (double)vgpu_clock.ticks_hz;
}

static uint64_t host_ticks(const struct cuda *c, double ns)
{
    return c->trace.anchor_ticks + (uint64_t)(int64_t)(ns * (double)vgpu_clock.ticks_hz / 1e9);
}

static double device_ns(const struct cuda *c, uint64_t ns)
{
    return (double)(int64_t)(ns - c->trace.anchor_device);
}

/* What this operation says about the distance of the clocks. */
static void bound(struct cuda *c, double low, double high, double now)
{
    struct cuda_trace *t = &c->trace;
    double widen = (now - t->at) * DRIFT;

    t->low = t->low - widen > low ? t->low - widen : low;
    t->high = t->high + widen < high ? t->high + widen : high;
    t->at = now;
    if (t->low > t->high) { /* the clock was set: this operation is all that is known */
        t->low = low;
        t->high = high;
    }
}

void cuda_trace_done(struct cuda *c, struct vgpu_op *op)
{
    const struct stamps *s = (const struct stamps *)(uintptr_t)op->priv[CUDA_PRIV_STAMPS];
    uint64_t now = vgpu_ticks();

    op->priv[CUDA_PRIV_STAMPS] = 0;
    if (!s || !s->device_ns[0] || s->device_ns[1] < s->device_ns[0]) /* not on a stream, cancelled, or failed */
        return;
    if (c->trace.anchor_ticks == 0) {
        c->trace = (struct cuda_trace){.anchor_ticks = s->launched, .anchor_device = s->device_ns[0], .low = -1e300,
                                       .high = 1e300};
    }
    double first = device_ns(c, s->device_ns[0]), last = device_ns(c, s->device_ns[1]), at = host_ns(c, now);
    bound(c, host_ns(c, s->launched) - first, at - last, at);
    double offset = (c->trace.low + c->trace.high) / 2;
    op->device_start = host_ticks(c, first + offset);
    op->device_end = host_ticks(c, last + offset);
    op->device = VGPU_TRACE_DEVICE_MAPPED;
}

uint32_t cuda_trace_error(const struct vgpu_backend *b)
{
    const struct cuda *c = (const struct cuda *)b;
    double ns = (c->trace.high - c->trace.low) / 2;

    return ns >= 0 && ns < 1e9 ? (uint32_t)vgpu_ns_to_ticks((uint64_t)ns) : UINT32_MAX;
}
