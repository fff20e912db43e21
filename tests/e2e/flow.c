/* SPDX-License-Identifier: Apache-2.0 */
/* A guest that numbers its descriptors (the tag is the number) and accounts for each completion. */
#include <stdlib.h>
#include <time.h>

#include "harness.h"

#define SLOTS 64u          /* verified work in flight, each with a piece of the arena of its own */
#define SLOT_BYTES 1024u
#define SLOT_FLOATS 64u
#define POLL_MAX 128u
#define BURST_MAX 128u

static bool seen_before(struct e2e_flow *f, uint64_t tag)
{
    if (tag / 64 >= f->seen_tags / 64) {
        uint64_t tags = f->seen_tags ? f->seen_tags * 2 : 1u << 16;
        while (tags <= tag)
            tags *= 2;
        uint64_t *more = realloc(f->seen, tags / 8);
        e2e_check(more, "no memory to account for %llu tags", (unsigned long long)tags);
        memset(&more[f->seen_tags / 64], 0, (tags - f->seen_tags) / 8);
        f->seen = more;
        f->seen_tags = tags;
    }
    uint64_t bit = UINT64_C(1) << (tag % 64);
    bool before = f->seen[tag / 64] & bit;
    f->seen[tag / 64] |= bit;
    return before;
}

/* ---- verified work: even tags FILL, odd tags VECTOR_ADD; each slot holds dst | src0 | src1 ---- */

static struct vgpu_request verified_request(struct e2e_flow *f, uint32_t tag)
{
    uint32_t slot = tag % SLOTS;
    struct vgpu_buffer dst = vgpu_buffer_at(&f->arena, slot * SLOT_BYTES);
    struct vgpu_request r = {.opcode = VGPU_OP_FILL, .tag = tag, .dst = dst, .n = SLOT_FLOATS * 4, .arg = {tag}};

    memset(dst.host_ptr, 0xee, SLOT_FLOATS * 4);
    if (tag & 1) {
        r = vgpu_req_vector_add(&dst, &dst, &dst, SLOT_FLOATS);
        r.tag = tag;
        r.src0 = vgpu_buffer_at(&dst, SLOT_FLOATS * 4);
        r.src1 = vgpu_buffer_at(&dst, SLOT_FLOATS * 8);
        float *a = r.src0.host_ptr, *b = r.src1.host_ptr;
        for (uint32_t i = 0; i < SLOT_FLOATS; i++) {
            a[i] = (float)(tag & 0xffff);
            b[i] = (float)i;
        }
    }
    f->busy[slot] = true;
    return r;
}

static void verified_result(struct e2e_flow *f, const struct vgpu_completion *c)
{
    uint32_t slot = c->tag % SLOTS;
    const char *at = (const char *)f->arena.host_ptr + slot * SLOT_BYTES;
    bool good = true;

    f->busy[slot] = false;
    if (c->status != VGPU_OK)
        return;
    for (uint32_t i = 0; i < SLOT_FLOATS; i++)
        good = good && (c->tag & 1 ? ((const float *)at)[i] == (float)(c->tag & 0xffff) + (float)i
                                   : ((const uint32_t *)at)[i] == c->tag);
    f->wrong_results += !good;
}

/* ---- submit and poll ---- */

static unsigned make_requests(struct e2e_flow *f, struct vgpu_request *r, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        uint32_t tag = (uint32_t)(f->submitted + i);
        if (f->work == E2E_VERIFIED) {
            if (f->busy[tag % SLOTS])
                return i;
            r[i] = verified_request(f, tag);
        } else {
            r[i] = (struct vgpu_request){.opcode = VGPU_OP_NOP, .tag = tag};
        }
    }
    return n;
}

static void nap(void)
{
    struct timespec ts = {.tv_nsec = 200000};

    nanosleep(&ts, NULL);
}

static void note_gone(struct e2e_flow *f)
{
    f->was_gone = true;
    nap();
}

/* False: nothing went in, so there is time to wait. */
static bool submit_some(struct e2e_flow *f)
{
    struct vgpu_request r[BURST_MAX];
    unsigned most = f->burst_max ? f->burst_max : 64;
    uint64_t left = f->total - f->submitted;
    unsigned want = 1 + (unsigned)(e2e_next(&f->rng) % most);

    if (want > left)
        want = (unsigned)left;
    unsigned n = make_requests(f, r, want);
    if (n == 0)
        return false;
    int got = vgpu_submit_burst(f->v, r, n, NULL);
    unsigned in = got > 0 ? (unsigned)got : 0;
    for (unsigned i = in; i < n && f->work == E2E_VERIFIED; i++)
        f->busy[r[i].tag % SLOTS] = false;
    f->submitted += in;
    if (got == -ENOTCONN)
        note_gone(f);
    else
        e2e_check(got > 0 || got == -EAGAIN, "submit: %d: %s", got, vgpu_strerror(f->v));
    return in == n;
}

static void account(struct e2e_flow *f, const struct vgpu_completion *c)
{
    e2e_check(c->tag < f->submitted, "a completion of tag %u, which was never submitted", c->tag);
    e2e_check(c->status < VGPU_STATUS_COUNT, "status %u is none", c->status);
    f->duplicates += seen_before(f, c->tag);
    f->status[c->status]++;
    if (c->lost_locally) {
        f->lost_locally++;
        if (f->lost_locally == 1)
            f->lowest_lost_locally = c->position;
    } else {
        f->highest_by_host = c->position > f->highest_by_host ? c->position : f->highest_by_host;
        if (f->check_order) {
            f->misordered += c->tag != (uint32_t)f->completed;
            f->misordered += !f->many_executors && c->exec_seq <= f->last_exec_seq;
            f->last_exec_seq = c->exec_seq;
        }
    }
    f->completed++;
    if (f->work == E2E_VERIFIED)
        verified_result(f, c);
}

/* Mixes of poll and wait, of small and large batches. */
static void poll_some(struct e2e_flow *f, bool full)
{
    struct vgpu_completion c[POLL_MAX];
    unsigned n = 1 + (unsigned)(e2e_next(&f->rng) % POLL_MAX);
    bool wait = full || e2e_next(&f->rng) % 64 == 0;
    int got = wait ? vgpu_wait(f->v, c, n, UINT64_C(100000000)) : vgpu_poll(f->v, c, n);

    if (got == -ENOTCONN) {
        note_gone(f);
        return;
    }
    e2e_check(got >= 0 || got == -ETIMEDOUT, "poll: %d: %s", got, vgpu_strerror(f->v));
    if (got > 0 && f->was_gone && !c[0].lost_locally) {
        f->was_gone = false;
        f->reattaches++;
    }
    for (int i = 0; i < got; i++)
        account(f, &c[i]);
}

bool e2e_flow_step(struct e2e_flow *f)
{
    bool stopped = f->stop && __atomic_load_n(f->stop, __ATOMIC_RELAXED);
    bool draining = stopped || f->submitted >= f->total || (f->until_gone && f->was_gone);

    if (f->work == E2E_VERIFIED && !f->arena.host_ptr) {
        int rc = vgpu_arena_alloc(f->v, SLOTS * SLOT_BYTES, &f->arena);
        e2e_check(rc == 0, "arena: %s", vgpu_strerror(f->v));
    }
    if (draining && vgpu_outstanding(f->v) == 0)
        return false;
    bool full = draining || !submit_some(f);
    poll_some(f, full);
    return true;
}

void e2e_flow_run(struct e2e_flow *f)
{
    while (e2e_flow_step(f))
        ;
    e2e_flow_check(f);
}

void e2e_flow_check(struct e2e_flow *f)
{
    e2e_check(f->duplicates == 0, "%llu descriptors were completed twice", (unsigned long long)f->duplicates);
    e2e_check(f->completed == f->submitted, "%llu submitted, %llu completed", (unsigned long long)f->submitted,
              (unsigned long long)f->completed);
    for (uint64_t tag = 0; tag < f->submitted; tag++)
        e2e_check(f->seen[tag / 64] >> (tag % 64) & 1, "tag %llu was never completed", (unsigned long long)tag);
    e2e_check(f->misordered == 0, "%llu completions out of order", (unsigned long long)f->misordered);
    e2e_check(f->wrong_results == 0, "%llu wrong results", (unsigned long long)f->wrong_results);
}

void e2e_flow_free(struct e2e_flow *f)
{
    free(f->seen);
    f->seen = NULL;
    f->seen_tags = 0;
}
