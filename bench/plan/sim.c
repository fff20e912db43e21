/* SPDX-License-Identifier: Apache-2.0 */
/* The poll core of plan.h, round by round, with arrivals drawn at random. */
#include "bench/plan/plan.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define TAKE 32u /* from a VM in one round */

struct waiting { /* of one VM, a FIFO in a list of all descriptors */
    uint32_t first, last, count;
};
struct sim {
    const struct plan_load *load;
    double fixed, hot_ns, cold_ns, visit, work;
    uint32_t vms, active;
    struct waiting *vm;
    uint32_t *expires; /* round after which a hot VM counts as cold; 0: is cold */
    uint32_t *next;    /* of a descriptor: the one behind it in its VM */
    double *arrived, *latency;
    uint64_t state;
    double t, due, busy, started;
    uint64_t made, done, want;
    uint32_t hot, round, scan, pending;
};

static double draw(struct sim *s)
{
    s->state ^= s->state << 13; /* xorshift, Marsaglia 2003 */
    s->state ^= s->state >> 7;
    s->state ^= s->state << 17;
    return ((double)(s->state >> 11) + 0.5) / 9007199254740992.0;
}

/* All batches that are due by now go to VMs drawn at random. */
static void arrive(struct sim *s)
{
    double gap = 1e9 * s->load->burst / s->load->rate;

    while (s->due <= s->t && s->made < s->want) {
        struct waiting *w = &s->vm[(uint32_t)(draw(s) * s->active)];
        for (uint32_t i = 0; i < (uint32_t)s->load->burst && s->made < s->want; i++) {
            uint32_t id = (uint32_t)s->made++;
            s->arrived[id] = s->due;
            s->next[id] = UINT32_MAX;
            if (w->count++)
                s->next[w->last] = id;
            else
                w->first = id;
            w->last = id;
            s->pending++;
        }
        s->due -= log(draw(s)) * gap;
    }
}

/* What is taken from a VM; returns how many, and the ids in out. */
static uint32_t take(struct sim *s, uint32_t i, uint32_t *out)
{
    struct waiting *w = &s->vm[i];
    uint32_t n = 0;

    for (; n < TAKE && w->count; n++) {
        out[n] = w->first;
        w->first = s->next[w->first];
        w->count--;
        s->pending--;
    }
    return n;
}

static bool always_hot(const struct sim *s)
{
    return s->vms <= PLAN_HOT_ALWAYS;
}

/* One round: looks at hot VMs, and at four others; completions go out at its end. */
static void round_run(struct sim *s, uint32_t *taken)
{
    double from = s->t;
    uint32_t n = 0, visits = 0, looked = 0, hot = s->hot;

    arrive(s);
    for (uint32_t i = 0; i < s->active; i++) {
        if (!always_hot(s) && !s->expires[i])
            continue;
        if (s->vm[i].count) {
            n += take(s, i, taken + n);
            visits++;
            s->expires[i] = s->round + PLAN_COOL_AFTER + 1;
        } else if (!always_hot(s) && s->expires[i] <= s->round) {
            s->expires[i] = 0;
            s->hot--;
        }
    }
    for (uint32_t tries = 0; !always_hot(s) && looked < PLAN_COLD_PER_ROUND && tries < s->vms; tries++) {
        uint32_t i = s->scan = s->scan + 1 < s->vms ? s->scan + 1 : 0;
        if (i < s->active && s->expires[i])
            continue;
        looked++;
        if (i < s->active && s->vm[i].count) {
            n += take(s, i, taken + n);
            visits++;
            s->expires[i] = s->round + PLAN_COOL_AFTER + 1;
            s->hot++;
        }
    }
    double idle = s->fixed + hot * s->hot_ns + (always_hot(s) ? 0 : s->cold_ns);
    s->t += idle + visits * s->visit + n * s->work;
    s->busy += s->t - from - idle;
    for (uint32_t i = 0; i < n; i++, s->done++)
        s->latency[s->done] = s->t - s->arrived[taken[i]];
    s->round++;
}

/* Rounds in which nothing is due and no VM turns cold need not be gone through. */
static void skip(struct sim *s)
{
    double round = s->fixed + s->hot * s->hot_ns + (always_hot(s) ? 0 : s->cold_ns);

    if (s->pending || s->due <= s->t + 2 * round || s->made == s->want)
        return;
    uint64_t rounds = (uint64_t)((s->due - s->t) / round) - 1;
    for (uint32_t i = 0; i < s->active && !always_hot(s); i++)
        if (s->expires[i] && s->expires[i] - s->round < rounds)
            rounds = s->expires[i] > s->round ? s->expires[i] - s->round : 0;
    s->t += (double)rounds * round;
    s->round += (uint32_t)rounds;
    s->scan = (uint32_t)((s->scan + rounds * PLAN_COLD_PER_ROUND) % s->vms);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* The share of these, sorted, that are not above `value`. */
static double share_below(const double *sorted, uint64_t n, double value)
{
    uint64_t low = 0, high = n;

    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        if (sorted[middle] <= value)
            low = middle + 1;
        else
            high = middle;
    }
    return n ? (double)low / (double)n : 0;
}

int plan_simulate(const struct plan_constants *c, const struct plan_load *l, uint64_t descriptors, uint64_t seed,
                  const struct plan_answer *model, struct plan_answer *out)
{
    double cost = plan_at(&c->descriptor, l->active), share = l->split ? c->poll_share : 1;
    struct sim s = {.load = l, .fixed = c->round, .hot_ns = c->hot, .cold_ns = plan_at(&c->cold, l->vms), .visit = c->visit,
                    .work = cost * share, .vms = (uint32_t)l->vms, .active = (uint32_t)l->active,
                    .state = seed * UINT64_C(0x9e3779b97f4a7c15) | 1, .want = descriptors};
    uint32_t *taken = calloc(s.active + 1u, TAKE * sizeof(*taken));
    int rc = -ENOMEM;

    s.vm = calloc(s.active + 1u, sizeof(*s.vm));
    s.expires = calloc(s.active + 1u, sizeof(*s.expires));
    s.next = calloc(descriptors, sizeof(*s.next));
    s.arrived = calloc(descriptors, sizeof(*s.arrived));
    s.latency = calloc(descriptors, sizeof(*s.latency));
    memset(out, 0, sizeof(*out));
    if (!taken || !s.vm || !s.expires || !s.next || !s.arrived || !s.latency)
        goto out;
    s.hot = always_hot(&s) ? s.vms : s.active;
    for (uint32_t i = 0; i < s.active; i++) /* else a busy host begins with a backlog that no busy host has */
        s.expires[i] = PLAN_COOL_AFTER + 1;
    rc = 0;
    while (s.done < descriptors && s.t < 3600e9) {
        skip(&s);
        round_run(&s, taken);
        /* More waits than a second brings: it will not catch up. */
        if (s.pending > 1000 + 2 * l->active * l->in_flight)
            break;
    }
    out->utilisation = s.t > 0 ? s.busy / s.t : 0;
    out->round_ns = s.round ? s.t / s.round : 0;
    out->hot = s.hot;
    if (s.done < descriptors) {
        out->p50_ns = out->p99_ns = HUGE_VAL;
        goto out;
    }
    uint64_t from = descriptors / 10; /* filling up */
    qsort(s.latency + from, descriptors - from, sizeof(*s.latency), by_value);
    double wire = plan_wire(c, l->split), tail = plan_tail(c, l->split);
    out->p50_ns = wire + s.latency[from + (descriptors - from) / 2];
    out->p99_ns = wire + tail + s.latency[from + (descriptors - from) * 99 / 100];
    if (model) {
        out->below_p50 = share_below(s.latency + from, descriptors - from, model->p50_ns - wire);
        out->below_p99 = share_below(s.latency + from, descriptors - from, model->p99_ns - wire - tail);
    }
out:
    free(taken);
    free(s.vm);
    free(s.expires);
    free(s.next);
    free(s.arrived);
    free(s.latency);
    return rc;
}
