/* SPDX-License-Identifier: Apache-2.0 */
/* trace/: rings that are written over, lives out of records, a guest's file, waterfalls, the viewer's file. */
#include <criterion/criterion.h>

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include "trace/trace.h"

#define SLOTS 64u

static struct vgpu_trace_ring *ring_new(uint32_t component, uint32_t slots)
{
    struct vgpu_trace_ring *r = aligned_alloc(64, vgpu_trace_bytes(slots));

    cr_assert_not_null(r);
    vgpu_trace_init(r, component, slots);
    return r;
}

static void put(struct vgpu_trace_ring *r, uint64_t position, uint32_t vm_id, const uint64_t at[VGPU_TRACE_STAMPS])
{
    struct vgpu_trace_record rec = {.position = position, .vm_id = vm_id, .opcode = 5, .number = 77};

    memcpy(rec.at, at, sizeof(rec.at));
    vgpu_trace_put(r, r->slots - 1, &rec);
}

Test(trace, a_ring_keeps_the_newest_and_says_what_it_lost)
{
    struct vgpu_trace_ring *r = ring_new(VGPU_TRACE_POLL_CORE, SLOTS);
    struct vgpu_trace_set set = {0};
    struct vgpu_trace_record rec;

    cr_expect(!vgpu_trace_get(r, SLOTS - 1, 1, &rec));
    cr_expect(!vgpu_trace_get(r, SLOTS - 1, 0, &rec));
    for (uint64_t i = 0; i < 100; i++)
        put(r, i, 1, (const uint64_t[]){1000 + i, 1001 + i, 1002 + i, 0, 0});
    cr_assert_eq(vgpu_trace_collect(&set, r, VGPU_TRACE_POLL_CORE, SLOTS, 3, 0, 0), 0);
    cr_expect_eq(set.count, SLOTS);
    cr_expect_eq(set.missed, 100 - SLOTS);
    cr_expect_eq(set.entries[0].record.position, 36);
    cr_expect_eq(set.entries[0].record.number, 37);
    cr_expect_eq(set.entries[0].index, 3);
    cr_expect(!vgpu_trace_get(r, SLOTS - 1, 36, &rec), "it was written over");
    cr_expect(vgpu_trace_get(r, SLOTS - 1, 37, &rec) && rec.at[2] == 1038);
    vgpu_trace_set_free(&set);
    cr_assert_eq(vgpu_trace_collect(&set, r, VGPU_TRACE_POLL_CORE, SLOTS, 3, 0, 1090), 0);
    cr_expect_eq(set.count, 10, "since: %zu", set.count);
    vgpu_trace_set_free(&set);
    cr_assert_eq(vgpu_trace_collect(&set, r, VGPU_TRACE_POLL_CORE, SLOTS, 3, 2, 0), 0);
    cr_expect_eq(set.count, 0, "of another VM");
    vgpu_trace_set_free(&set);
    free(r);
}

Test(trace, sampling_is_by_position)
{
    uint32_t n = 0;

    for (uint64_t p = 0; p < 4096; p++)
        n += vgpu_trace_sampled((UINT64_C(1) << 60) + p, 64);
    cr_expect_eq(n, 64);
    cr_expect(vgpu_trace_sampled(17, 1));
}

Test(trace, lives_are_joined_by_vm_and_position)
{
    struct vgpu_trace_ring *poll = ring_new(VGPU_TRACE_POLL_CORE, SLOTS), *exec = ring_new(VGPU_TRACE_EXECUTOR, SLOTS);
    struct vgpu_trace_set set = {0};
    struct vgpu_trace_life *lives;
    size_t count;

    put(poll, 7, 1, (const uint64_t[]){100, 110, 120, 0, 0});
    put(poll, 7, 2, (const uint64_t[]){90, 91, 92, 0, 0});
    put(poll, 8, 1, (const uint64_t[]){130, 131, 132, 0, 0});
    put(exec, 7, 2, (const uint64_t[]){200, 210, 0, 0, 240});
    put(exec, 7, 1, (const uint64_t[]){150, 160, 170, 180, 190});
    cr_assert_eq(vgpu_trace_collect(&set, poll, VGPU_TRACE_POLL_CORE, SLOTS, 0, 0, 0), 0);
    cr_assert_eq(vgpu_trace_collect(&set, exec, VGPU_TRACE_EXECUTOR, SLOTS, 0, 0, 0), 0);
    cr_assert_eq(vgpu_trace_lives(&set, &lives, &count), 0);
    cr_assert_eq(count, 3);
    cr_expect(lives[0].vm_id == 2 && lives[0].at[VGPU_HOP_COMPLETED] == 240 && lives[0].at[VGPU_HOP_DEVICE_START] == 0);
    cr_expect(lives[1].vm_id == 1 && lives[1].at[VGPU_HOP_DEVICE_END] == 180 && lives[1].at[VGPU_HOP_QUEUED] == 120);
    cr_expect(lives[2].position == 8 && lives[2].at[VGPU_HOP_DEQUEUED] == 0, "it is not over");
    free(lives);
    vgpu_trace_set_free(&set);
    free(poll);
    free(exec);
}

/* n lives, the i-th with a span of (i + 1) * 10 in the queue and 5 for all others; every other hop of the host's. */
static struct vgpu_trace_life *lives_make(size_t n, uint32_t hops)
{
    struct vgpu_trace_life *l = calloc(n, sizeof(*l));

    for (size_t i = 0; i < n; i++) {
        uint64_t at = 1000;
        for (uint32_t h = 0; h < VGPU_HOP_COUNT; h++) {
            at += h == VGPU_HOP_DEQUEUED ? (i + 1) * 10 : 5;
            l[i].at[h] = hops >> h & 1 ? at : 0;
        }
        l[i].position = i;
        l[i].vm_id = 1;
    }
    return l;
}

Test(trace, a_waterfall_adds_up)
{
    const size_t n = 2000;
    struct vgpu_trace_life *l = lives_make(n, 0x3ff);
    struct vgpu_waterfall w;

    cr_assert_eq(vgpu_waterfall(l, n, 1000000000, &w), 0);
    cr_expect_eq(w.lives, n);
    cr_expect_eq(w.left_out, 0);
    const size_t ranks[VGPU_WATERFALL_ROWS] = {1000, 1800, 1980, 1998};
    for (uint32_t i = 0; i < VGPU_WATERFALL_ROWS; i++) {
        double sum = 0;
        for (uint32_t h = 0; h < VGPU_HOP_COUNT; h++)
            sum += w.row[i].span_ns[h];
        cr_expect_float_eq(sum, w.row[i].total_ns, 1e-6, "%s", vgpu_waterfall_name(i));
        /* Evenly spaced, so the mean next to a rank is its own. */
        cr_expect_float_eq(w.row[i].span_ns[VGPU_HOP_DEQUEUED], 10.0 * (double)ranks[i], 1e-6, "%s: %f",
                           vgpu_waterfall_name(i), w.row[i].span_ns[VGPU_HOP_DEQUEUED]);
        cr_expect_float_eq(w.row[i].span_ns[VGPU_HOP_VALIDATED], 5, 1e-6);
        cr_expect_eq(w.row[i].span_ns[VGPU_HOP_PUBLISHED], 0);
    }
    cr_expect_eq(w.row[0].lives, 21); /* half a percent of 2000 on each side */
    free(l);
}

Test(trace, a_waterfall_invents_nothing)
{
    const uint32_t host = 0x1fe & ~(1u << VGPU_HOP_DEVICE_START | 1u << VGPU_HOP_DEVICE_END);
    struct vgpu_trace_life *l = lives_make(500, host);
    struct vgpu_waterfall w;

    l[0].at[VGPU_HOP_DEVICE_START] = l[0].at[VGPU_HOP_DEVICE_END] = l[0].at[VGPU_HOP_SUBMITTED]; /* one that has them */
    l[1].at[VGPU_HOP_COMPLETED] = 0;                                                             /* not over */
    l[2].at[VGPU_HOP_QUEUED] = 1;                                                                /* contradicts itself */
    cr_assert_eq(vgpu_waterfall(l, 500, 1000000000, &w), 0);
    cr_expect_eq(w.hops, host);
    cr_expect_eq(w.lives, 497);
    cr_expect_eq(w.left_out, 3);
    cr_expect(isnan(w.row[0].span_ns[VGPU_HOP_DEVICE_START]) && isnan(w.row[0].span_ns[VGPU_HOP_GUEST_SEEN]));
    cr_expect_eq(w.row[3].lives, 0, "497 lives say nothing about p99.9");
    cr_expect_neq(w.row[2].lives, 0);
    cr_expect_eq(vgpu_waterfall(l, 0, 1000000000, &w), -ENODATA);
    free(l);
}

/* ---- a guest's file ---- */

static void file_write(const char *path, const void *what, size_t bytes)
{
    FILE *f = fopen(path, "w");

    cr_assert_not_null(f);
    cr_assert_eq(fwrite(what, 1, bytes, f), bytes);
    cr_assert_eq(fclose(f), 0);
}

Test(trace, a_guest_tells_only_its_own_two_hops)
{
    char path[] = "/tmp/vgpu-trace-test-XXXXXX";
    struct vgpu_trace_ring *r = ring_new(VGPU_TRACE_GUEST, SLOTS);
    struct vgpu_trace_life l[3] = {{.position = 1, .vm_id = 1}, {.position = 2, .vm_id = 1}, {.position = 3, .vm_id = 1}};
    struct vgpu_trace_guest g;
    struct vgpu_err err;

    close(mkstemp(path));
    vgpu_trace_host(r->host);
    for (int i = 0; i < 3; i++) {
        l[i].at[VGPU_HOP_SEEN] = 1000;
        l[i].at[VGPU_HOP_COMPLETED] = 2000;
    }
    put(r, 1, 1, (const uint64_t[]){900, 2100, 0, 0, 0});
    put(r, 2, 1, (const uint64_t[]){1100, 2100, 0, 0, 0}); /* published after it was seen: not believed */
    put(r, 3, 1, (const uint64_t[]){900, 1900, 0, 0, 0});  /* has what is not there yet */
    put(r, 4, 1, (const uint64_t[]){900, 2100, 0, 0, 0});  /* of another time */
    file_write(path, r, vgpu_trace_bytes(SLOTS));
    cr_assert_eq(vgpu_trace_guest_read(path, l, 3, &g, &err), 0, "%s", err.text);
    cr_expect(g.records == 4 && g.used == 1 && g.contradict == 2);
    cr_expect(l[0].at[VGPU_HOP_PUBLISHED] == 900 && l[0].at[VGPU_HOP_GUEST_SEEN] == 2100);
    cr_expect(l[1].at[VGPU_HOP_PUBLISHED] == 0 && l[2].at[VGPU_HOP_GUEST_SEEN] == 0);
    cr_expect(l[0].at[VGPU_HOP_SEEN] == 1000 && l[0].at[VGPU_HOP_COMPLETED] == 2000);
    unlink(path);
    free(r);
}

Test(trace, a_guests_file_is_judged_before_it_is_used)
{
    char path[] = "/tmp/vgpu-trace-test-XXXXXX";
    struct vgpu_trace_ring *r = ring_new(VGPU_TRACE_GUEST, SLOTS);
    struct vgpu_trace_life l = {.position = 1};
    struct vgpu_trace_guest g;
    struct vgpu_err err;

    close(mkstemp(path));
    vgpu_trace_host(r->host);
    r->host[3] ^= 1;
    file_write(path, r, vgpu_trace_bytes(SLOTS));
    cr_expect_eq(vgpu_trace_guest_read(path, &l, 1, &g, &err), -EXDEV, "another kernel's clock");
    vgpu_trace_host(r->host);
    r->slots = 1u << 20;
    file_write(path, r, vgpu_trace_bytes(SLOTS));
    cr_expect_eq(vgpu_trace_guest_read(path, &l, 1, &g, &err), -EINVAL, "longer than the file");
    r->slots = 48;
    file_write(path, r, vgpu_trace_bytes(SLOTS));
    cr_expect_eq(vgpu_trace_guest_read(path, &l, 1, &g, &err), -EINVAL, "no power of two");
    r->slots = 0;
    file_write(path, r, vgpu_trace_bytes(SLOTS));
    cr_expect_eq(vgpu_trace_guest_read(path, &l, 1, &g, &err), -EINVAL, "none");
    r->slots = SLOTS;
    r->written = UINT64_MAX; /* nothing in it can have these numbers */
    file_write(path, r, vgpu_trace_bytes(SLOTS));
    cr_expect_eq(vgpu_trace_guest_read(path, &l, 1, &g, &err), 0);
    cr_expect_eq(g.records, 0);
    file_write(path, r, 17);
    cr_expect_eq(vgpu_trace_guest_read(path, &l, 1, &g, &err), -EINVAL, "short");
    cr_expect_eq(vgpu_trace_guest_read("/nowhere/at all", &l, 1, &g, &err), -ENOENT);
    cr_expect_eq(vgpu_trace_guest_read("/dev/null", &l, 1, &g, &err), -EINVAL);
    unlink(path);
    free(r);
}
