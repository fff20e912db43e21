/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The data path of the guest: producer of the submission ring, consumer of the completion ring. Both rings are those
 * of rings/spsc.h, where the table of shared variables and labels (S1 C1, S2 C2, S3 C3) is; this file adds no shared
 * variable. What the host wrote is fetched once and checked against the private window of outstanding descriptors.
 */
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "core/base/clock.h"
#include "core/base/probe.h"
#include "guest-lib/internal.h"

#define CHUNK 32u                        /* completions fetched into private memory at a time */
#define CHECK_EMPTY_POLLS 64u            /* the clock is read once in so many empty polls */
#define CHECK_INTERVAL_NS 1000000u       /* and the socket at most this often */
#define SLEEP_SLICE_NS UINT64_C(200000000) /* a sleeper looks at the state page at least this often */

/* ---- Health of the attachment ---- */

static void link_lose(struct vgpu *v, enum vgpu_link after)
{
    if (v->link != VGPU_LINK_UP)
        return;
    v->link = VGPU_LINK_LOSING;
    v->after_losing = after;
}

/* The host broke the protocol: nothing more is believed. */
static void link_break(struct vgpu *v, const char *sentence)
{
    vgpu_fail(v, EPROTO, sentence);
    v->cq_untrusted = true;
    link_lose(v, VGPU_LINK_BROKEN);
}

static const char *broken_sentence(uint32_t reason)
{
    switch (reason) {
    case VGPU_BROKEN_SQ_SEQ:
        return "the host broke off this attachment: a submission slot's sequence ran ahead of its position (do two "
               "threads use the handle, or did it cross a fork?); close and open again";
    case VGPU_BROKEN_CQ_CREDIT:
        return "the host broke off this attachment: completion credit is impossible (do two threads use the handle, or "
               "did it cross a fork?); close and open again";
    case VGPU_BROKEN_MEMORY:
        return "the host broke off this attachment: memory of the region is gone (hole punched, or no hugepage left); "
               "close and open again";
    case VGPU_BROKEN_OPERATOR:
        return "the operator quarantined this VM; ask them, then close and open again";
    default:
        return "the host broke off this attachment for a reason that this library does not know; close and open again";
    }
}

void vgpu_link_check(struct vgpu *v)
{
    struct vgpu_err err = {0};

    if (v->link != VGPU_LINK_UP)
        return;
    /* One word, and only a verdict hangs on it: no seqlock needed. */
    if (vgpu_props_page(v)->state == VGPU_VM_BROKEN) {
        vgpu_fail(v, EPROTO, broken_sentence(vgpu_props_page(v)->reason));
        link_lose(v, VGPU_LINK_BROKEN);
        return;
    }
    if (vgpu_cons_overrun(&v->cq)) {
        link_break(v, "the host broke the protocol: a completion slot's sequence ran ahead of its position; close and "
                      "open again");
        return;
    }
    if (v->daemon_gone || !v->carrier->ops->alive(v->carrier, &err)) {
        if (!v->daemon_gone)
            snprintf(v->gone_text, sizeof(v->gone_text), "%.159s", err.text);
        v->daemon_gone = true;
        /* An executor may outlive the daemon by a moment and still write: what is outstanding is lost only when it is
         * over, or the application could reuse memory under it. */
        if (!v->carrier->ops->released(v->carrier))
            return;
        v->daemon_gone = false;
        vgpu_failf(v, ENOTCONN, "the host went away (vgpud stopped, or it ended this attachment)%s%s",
                   v->gone_text[0] ? "; it said: " : "", v->gone_text);
        link_lose(v, VGPU_LINK_DOWN);
    }
}

/* For busy loops: a counter, then the clock, then the system call of vgpu_link_check(). */
static void link_check_lazily(struct vgpu *v)
{
    if (vgpu_likely(++v->empty_polls % CHECK_EMPTY_POLLS != 0))
        return;
    uint64_t now = vgpu_now_ns();
    if (now < v->next_check_ns)
        return;
    v->next_check_ns = now + CHECK_INTERVAL_NS;
    vgpu_link_check(v);
}

/* ---- Completions ---- */

/* Frees the window's entry of this completion. False: no such descriptor is outstanding. */
static bool window_take(struct vgpu *v, uint64_t pos, uint32_t tag)
{
    struct vgpu_outstanding *o = &v->window[pos & v->window_mask];

    if (vgpu_unlikely(o->pos_plus_1 != pos + 1 || pos == UINT64_MAX || o->tag != tag))
        return false;
    o->pos_plus_1 = 0;
    v->outstanding--;
    while (v->window_tail != v->sq.pos && v->window[v->window_tail & v->window_mask].pos_plus_1 == 0)
        v->window_tail++;
    return true;
}

/* Fetches what is there. A count, or -EPROTO when the host broke the protocol (what was good before it is counted). */
static int harvest(struct vgpu *v, struct vgpu_completion *out, unsigned n)
{
    struct vgpu_slot got[CHUNK];
    unsigned done = 0;

    while (done < n) {
        uint32_t want = n - done < CHUNK ? n - done : CHUNK;
        uint32_t count = vgpu_cons_pop(&v->cq, got, want);
        if (vgpu_unlikely(v->trace != NULL) && count)
            vgpu_guest_trace_seen(v, got, count, vgpu_ticks_ordered());
        for (uint32_t i = 0; i < count; i++) {
            const struct vgpu_cpl *c = (const struct vgpu_cpl *)&got[i];
            if (vgpu_unlikely(!window_take(v, c->sq_pos, c->tag))) {
                link_break(v, "the host broke the protocol: it completed a descriptor that is not outstanding, or with "
                              "another tag; close and open again");
                return done ? (int)done : -EPROTO;
            }
            VGPU_PROBE3(guest_seen, c->sq_pos, c->status, c->tag);
            struct vgpu_completion *o = &out[done++];
            o->tag = c->tag;
            o->status = c->status;
            o->opcode = c->opcode;
            o->lost_locally = 0;
            o->position = c->sq_pos;
            o->value = c->value;
            o->exec_seq = c->exec_seq;
            o->latency_ns = c->latency_ns;
        }
        if (count < want)
            break;
    }
    return (int)done;
}

/* Completes outstanding descriptors ourselves, oldest first. */
static int lose(struct vgpu *v, struct vgpu_completion *out, unsigned n)
{
    unsigned done = 0;

    while (done < n && v->outstanding > 0) {
        struct vgpu_outstanding *o = &v->window[v->window_tail++ & v->window_mask];
        if (o->pos_plus_1 == 0)
            continue;
        out[done++] = (struct vgpu_completion){.tag = o->tag, .status = VGPU_E_LOST, .opcode = o->opcode,
                                               .lost_locally = 1, .position = o->pos_plus_1 - 1};
        o->pos_plus_1 = 0;
        v->outstanding--;
    }
    return (int)done;
}

/* vgpu_poll() when the link is not up. */
static int poll_not_up(struct vgpu *v, struct vgpu_completion *out, unsigned n)
{
    if (v->link == VGPU_LINK_LOSING) {
        int got = v->cq_untrusted ? 0 : harvest(v, out, n);
        if (got > 0)
            return got;
        got = lose(v, out, n);
        if (v->outstanding == 0)
            v->link = v->after_losing;
        if (got > 0)
            return got;
    }
    if (v->link == VGPU_LINK_BROKEN)
        return -EPROTO; /* the sentence is there since it broke */
    if (v->link == VGPU_LINK_DOWN)
        return vgpu_reattach(v);
    return 0;
}

int vgpu_poll(struct vgpu *v, struct vgpu_completion *out, unsigned n)
{
    if (n > INT_MAX)
        n = INT_MAX;
    if (n == 0)
        return 0;
    if (vgpu_likely(v->link == VGPU_LINK_UP)) {
        int got = harvest(v, out, n);
        if (vgpu_likely(got > 0))
            return got;
        link_check_lazily(v);
        if (vgpu_likely(v->link == VGPU_LINK_UP))
            return 0;
    }
    return poll_not_up(v, out, n);
}

uint64_t vgpu_outstanding(const struct vgpu *v)
{
    return v->outstanding;
}

uint64_t vgpu_submitted(const struct vgpu *v)
{
    return v->submitted;
}

/* ---- Submission ---- */

static int submit_not_up(struct vgpu *v)
{
    if (v->link == VGPU_LINK_LOSING && v->outstanding == 0)
        v->link = v->after_losing;
    if (v->link == VGPU_LINK_DOWN)
        return vgpu_reattach(v);
    /* The sentence was set when it went away or broke. */
    return v->link == VGPU_LINK_BROKEN || v->after_losing == VGPU_LINK_BROKEN ? -EPROTO : -ENOTCONN;
}

/* The limit may have been changed since we last looked. More than it is not wrong: the host takes what it allows. */
static uint64_t cap_room(struct vgpu *v)
{
    uint32_t limit = vgpu_props_page(v)->max_in_flight; /* one word: no seqlock needed */

    v->cap = limit < v->header.cq_slots ? limit : v->header.cq_slots;
    return v->cap > v->outstanding ? v->cap - v->outstanding : 0;
}

/* How many may be submitted now, at most `want`; or -errno. */
static int64_t submit_room(struct vgpu *v, uint32_t want)
{
    uint64_t room = v->cap - v->outstanding;
    uint64_t span = (uint64_t)v->window_mask + 1 - (v->sq.pos - v->window_tail);

    if (vgpu_unlikely(v->outstanding >= v->cap))
        room = cap_room(v);
    if (room == 0) {
        link_check_lazily(v);
        if (v->link != VGPU_LINK_UP) /* its sentence says more */
            return submit_not_up(v);
        return vgpu_fail(v, EAGAIN, "as many descriptors are outstanding as this VM may have in flight; poll for "
                                    "completions, then try again");
    }
    if (span < room)
        room = span; /* one very old descriptor is still outstanding: positions must not lap it */
    if (want < room)
        room = want;
    int64_t slots = vgpu_prod_room(&v->sq, (uint32_t)room);
    if (vgpu_unlikely(slots < 0)) {
        link_break(v, "the host broke the protocol: its submission credit is impossible; close and open again");
        return -EPROTO;
    }
    if ((uint64_t)slots < room)
        room = (uint64_t)slots;
    if (room == 0) {
        link_check_lazily(v);
        if (v->link != VGPU_LINK_UP) /* its sentence says more */
            return submit_not_up(v);
        return vgpu_fail(v, EAGAIN,
                         "the submission ring is full: the host has not taken earlier descriptors yet; poll for "
                         "completions, then try again");
    }
    return (int64_t)room;
}

/* The descriptor is put together in words: stored as small fields and then copied as words, each copy would wait for
 * the fields to leave the store buffer. The layout is that of struct vgpu_desc. */
static inline void put_one(struct vgpu *v, struct vgpu_prod *sq, const struct vgpu_request *r)
{
    struct vgpu_outstanding *o = &v->window[sq->pos & v->window_mask];
    struct vgpu_slot slot;

    slot.w[0] = (uint64_t)r->opcode | (uint64_t)r->flags << 8 | (uint64_t)r->dtype << 16 | (uint64_t)r->sub << 24 |
                (uint64_t)r->tag << 32;
    slot.w[1] = VGPU_REF(r->dst.handle, r->dst.offset);
    slot.w[2] = VGPU_REF(r->src0.handle, r->src0.offset);
    slot.w[3] = VGPU_REF(r->src1.handle, r->src1.offset);
    slot.w[4] = r->n;
    slot.w[5] = (uint64_t)r->arg[0] | (uint64_t)r->arg[1] << 32;
    slot.w[6] = (uint64_t)r->arg[2] | (uint64_t)r->arg[3] << 32;
    o->pos_plus_1 = sq->pos + 1;
    o->tag = r->tag;
    o->opcode = r->opcode;
    VGPU_PROBE3(published, sq->pos, r->opcode, r->tag);
    vgpu_prod_put(sq, &slot);
}

int vgpu_submit_burst(struct vgpu *v, const struct vgpu_request *reqs, unsigned n, uint64_t *first_position)
{
    if (vgpu_unlikely(v->link != VGPU_LINK_UP)) {
        int rc = submit_not_up(v);
        if (rc < 0)
            return rc;
    }
    if (n == 0)
        return 0;
    if (n > INT_MAX)
        n = INT_MAX;
    int64_t room = submit_room(v, n);
    if (vgpu_unlikely(room < 0))
        return (int)room;
    uint64_t from = v->sq.pos;
    struct vgpu_prod sq = v->sq; /* a copy, which lives in registers */
    if (vgpu_likely(!v->trace)) {
        for (int64_t i = 0; i < room; i++)
            put_one(v, &sq, &reqs[i]);
    } else {
        for (int64_t i = 0; i < room; i++) {
            vgpu_guest_trace_published(v, sq.pos);
            put_one(v, &sq, &reqs[i]);
        }
    }
    v->sq.pos = sq.pos;
    v->outstanding += (uint64_t)room;
    v->submitted += (uint64_t)room;
    if (first_position)
        *first_position = from;
    /* "Always polling" is negotiated so that the full fence (S3) is paid only where the host may sleep. */
    if (!v->always_poll && vgpu_ring_event_wanted(&v->host_ctrl->sq_event, from, v->sq.pos))
        v->carrier->ops->ring(v->carrier);
    return (int)room;
}

int vgpu_submit(struct vgpu *v, const struct vgpu_request *req, uint64_t *position)
{
    int rc = vgpu_submit_burst(v, req, 1, position);

    return rc < 0 ? rc : 0;
}

/* ---- Waiting ---- */

int vgpu_event_fd(struct vgpu *v)
{
    return v->event_fd;
}

int vgpu_event_arm(struct vgpu *v)
{
    if (v->link != VGPU_LINK_UP)
        return 1; /* vgpu_poll() has something to say */
    /* Drain first: a byte that came before is about a completion that the look below finds. */
    v->carrier->ops->drain(v->carrier);
    vgpu_cons_publish(&v->cq); /* the host may be waiting for exactly this credit */
    vgpu_ring_event_arm(&v->guest_ctrl->cq_event, v->cq.pos);
    return vgpu_cons_ready(&v->cq) ? 1 : 0;
}

/* Polls until the deadline. Pauses first; in the second half it also yields, for the case that the host's poll core
 * waits for this very core. True: something is there. */
static bool spin(struct vgpu *v, uint64_t now, uint64_t until)
{
    uint64_t yield_from = now + (until - now) / 2;

    do {
        for (int i = 0; i < 32; i++) {
            if (vgpu_cons_ready(&v->cq))
                return true;
            vgpu_pause();
        }
        now = vgpu_now_ns();
        if (now >= yield_from)
            sched_yield();
    } while (now < until);
    return false;
}

static void sleep_until(struct vgpu *v, uint64_t now, uint64_t deadline)
{
    struct pollfd fds[2] = {{.fd = v->carrier->doorbell_fd, .events = POLLIN},
                            {.fd = v->daemon_gone ? -1 : v->carrier->watch_fd, .events = POLLIN | POLLRDHUP}};
    uint64_t ns = deadline - now < SLEEP_SLICE_NS ? deadline - now : SLEEP_SLICE_NS;
    struct timespec ts = {.tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u)};

    ppoll(fds, 2, &ts, NULL);
    /* Woken, or a slice is over, without a completion: the host may be gone or may have broken the attachment off. */
    if (!vgpu_cons_ready(&v->cq))
        vgpu_link_check(v);
}

int vgpu_wait(struct vgpu *v, struct vgpu_completion *out, unsigned n, uint64_t timeout_ns)
{
    int got = vgpu_poll(v, out, n);

    if (got != 0 || n == 0)
        return got;
    if (v->outstanding == 0)
        return 0; /* nothing can come: one thread owns this handle */
    uint64_t now = vgpu_now_ns();
    uint64_t deadline = timeout_ns > UINT64_MAX - now ? UINT64_MAX : now + timeout_ns;
    uint64_t spin_until = deadline - now < v->spin_ns ? deadline : now + v->spin_ns;
    bool ready = timeout_ns > 0 && v->link == VGPU_LINK_UP && spin(v, now, spin_until);

    for (;;) {
        if (!ready && timeout_ns > 0)
            ready = vgpu_event_arm(v) != 0;
        now = vgpu_now_ns();
        if (!ready && now < deadline)
            sleep_until(v, now, deadline);
        got = vgpu_poll(v, out, n);
        if (got != 0)
            return got;
        if (now >= deadline)
            return vgpu_fail(v, ETIMEDOUT, "no completion came in the time given");
        ready = false;
    }
}
