/* SPDX-License-Identifier: Apache-2.0 */
/* The poll core of plan.h, round by round, with arrivals drawn at random. */
#include "bench/plan/plan.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define TAKE 32u /* from a VM in one round; by an executor in one of its rounds, by a guest from its completion ring */
#define NONE UINT32_MAX

struct list { /* FIFO of descriptors, linked by sim.next */
    uint32_t first, last, count;
};
/* A thread that plays VMs: it sends what is due and takes what has come, one after the other. */
struct guest {
    struct list due, come;
    double free;    /* when it is done with what it does */
    bool listed;    /* in sim.working */
    bool sent_last; /* both wait: they take turns */
};
struct sim {
    const struct plan_load *load;
    double fixed, hot_ns, cold_ns, visit, work, wire;
    double send, take, more;               /* of a guest, more: half of what each further one of a burst costs */
    double exec_fixed, exec_visit, exec_work, exec_at; /* split; at: when it is done with its round */
    uint32_t vms, active, guests, burst;
    struct list *vm, exec;
    struct guest *guest;
    uint64_t *expires; /* round after which a hot VM counts as cold; 0: is cold */
    uint32_t *hot_list, *working; /* VMs that are hot, of those that send; guests that have something to do */
    uint32_t n_hot, n_working;
    uint32_t *next;    /* of a descriptor: the one behind it in its list */
    uint32_t *owner;   /* of a descriptor: its VM */
    double *arrived, *seen, *latency; /* seen: from when it is there for who looks next */
    uint64_t state;
    double t, due, busy;
    uint64_t made, done, want;
    uint64_t round;
    uint32_t hot, scan, waiting; /* in lists of VMs */
};

static double draw(struct sim *s)
{
    s->state ^= s->state << 13; /* xorshift, Marsaglia 2003 */
    s->state ^= s->state >> 7;
    s->state ^= s->state << 17;
    return ((double)(s->state >> 11) + 0.5) / 9007199254740992.0;
}

static void append(struct sim *s, struct list *l, uint32_t id)
{
    s->next[id] = NONE;
    if (l->count++)
        s->next[l->last] = id;
    else
        l->first = id;
    l->last = id;
}

static uint32_t remove_first(struct sim *s, struct list *l)
{
    uint32_t id = l->first;

    l->first = s->next[id];
    l->count--;
    return id;
}

static void guest_append(struct sim *s, uint32_t vm, bool due, uint32_t id)
{
    struct guest *g = &s->guest[vm % s->guests];

    append(s, due ? &g->due : &g->come, id);
    if (!g->listed)
        s->working[s->n_working++] = vm % s->guests;
    g->listed = true;
}

/* All batches that are due by now go to VMs drawn at random. */
static void arrive(struct sim *s)
{
    double gap = 1e9 * s->load->burst / s->load->rate;

    while (s->due <= s->t && s->made < s->want) {
        uint32_t vm = (uint32_t)(draw(s) * s->active);
        for (uint32_t i = 0; i < s->burst && s->made < s->want; i++) {
            uint32_t id = (uint32_t)s->made++;
            s->arrived[id] = s->seen[id] = s->due;
            s->owner[id] = vm;
            guest_append(s, vm, true, id);
        }
        s->due -= log(draw(s)) * gap;
    }
}

/* ---- Guests ---- */
/* A batch that was due becomes visible when it is written. */
static void guest_send(struct sim *s, struct guest *g, double from)
{
    double due = s->arrived[g->due.first];
    uint32_t vm = s->owner[g->due.first], n = 0, ids[1024];

    while (g->due.count && n < s->burst && s->owner[g->due.first] == vm && s->arrived[g->due.first] <= due)
        ids[n++] = remove_first(s, &g->due);
    g->free = from + s->send + (n - 1) * s->more;
    for (uint32_t i = 0; i < n; i++) {
        s->seen[ids[i]] = g->free + s->wire / 2;
        append(s, &s->vm[vm], ids[i]);
    }
    s->waiting += n;
}

static void guest_take(struct sim *s, struct guest *g, double from)
{
    uint32_t vm = s->owner[g->come.first], n = 0, ids[TAKE];

    while (g->come.count && n < TAKE && s->owner[g->come.first] == vm && s->seen[g->come.first] <= from)
        ids[n++] = remove_first(s, &g->come);
    g->free = from + s->take + (n - 1) * s->more;
    for (uint32_t i = 0; i < n; i++)
        s->latency[s->done++] = g->free - s->arrived[ids[i]];
}

/* What a guest begins up to now. It looks once in a round of its own, so it is late by a part of that where it was idle. */
static void guest_run(struct sim *s, struct guest *g)
{
    while (g->due.count || g->come.count) {
        double due = g->due.count ? s->seen[g->due.first] : HUGE_VAL, come = g->come.count ? s->seen[g->come.first] : HUGE_VAL;
        bool both = due <= g->free && come <= g->free, sends = both ? !g->sent_last : due <= come;
        double from = sends ? due : come;
        if (from > s->t || g->free > s->t)
            return;
        from = from > g->free ? from + (sends ? draw(s) * s->load->guest_round : 0) : g->free;
        g->sent_last = sends;
        if (sends)
            guest_send(s, g, from);
        else
            guest_take(s, g, from);
    }
}

static void guests_run(struct sim *s)
{
    for (uint32_t i = 0; i < s->n_working;) {
        struct guest *g = &s->guest[s->working[i]];
        guest_run(s, g);
        g->listed = g->due.count || g->come.count;
        if (g->listed)
            i++;
        else
            s->working[i] = s->working[--s->n_working];
    }
}

static void come(struct sim *s, uint32_t id, double when)
{
    s->seen[id] = when + s->wire / 2;
    guest_append(s, s->owner[id], false, id);
}

/* ---- The executor on a core of its own ---- */
static void executor_run(struct sim *s)
{
    if (s->exec_at < s->t && !s->exec.count)
        s->exec_at = s->t;
    while (s->exec.count && s->exec_at <= s->t) {
        uint32_t n = 0, ids[TAKE];
        while (s->exec.count && n < TAKE && s->seen[s->exec.first] <= s->exec_at)
            ids[n++] = remove_first(s, &s->exec);
        s->exec_at += s->exec_fixed + (n ? s->exec_visit : 0) + n * s->exec_work;
        for (uint32_t i = 0; i < n; i++)
            come(s, ids[i], s->exec_at);
    }
}

/* ---- The poll core ---- */
/* What is taken from a VM; returns how many, and the ids in out. */
static uint32_t take(struct sim *s, uint32_t i, uint32_t *out)
{
    struct list *w = &s->vm[i];
    uint32_t n = 0;

    while (n < TAKE && w->count && s->seen[w->first] <= s->t)
        out[n++] = remove_first(s, w);
    s->waiting -= n;
    return n;
}

static bool always_hot(const struct sim *s)
{
    return s->vms <= PLAN_HOT_ALWAYS;
}

/* One round: looks at hot VMs, and at four others; what was taken goes on at its end. */
static void round_run(struct sim *s, uint32_t *taken)
{
    double from = s->t;
    uint32_t n = 0, visits = 0, looked = 0, hot = s->hot;

    for (uint32_t k = 0; k < s->n_hot;) {
        uint32_t i = s->hot_list[k], got = take(s, i, taken + n);
        n += got;
        visits += got > 0;
        if (got) {
            s->expires[i] = s->round + PLAN_COOL_AFTER + 1;
        } else if (!always_hot(s) && s->expires[i] <= s->round) {
            s->expires[i] = 0;
            s->hot--;
            s->hot_list[k] = s->hot_list[--s->n_hot];
            continue;
        }
        k++;
    }
    for (uint32_t tries = 0; !always_hot(s) && looked < PLAN_COLD_PER_ROUND && tries < s->vms; tries++) {
        uint32_t i = s->scan = s->scan + 1 < s->vms ? s->scan + 1 : 0;
        if (i < s->active && s->expires[i])
            continue;
        looked++;
        uint32_t got = i < s->active ? take(s, i, taken + n) : 0;
        if (got) {
            n += got;
            visits++;
            s->expires[i] = s->round + PLAN_COOL_AFTER + 1;
            s->hot++;
            s->hot_list[s->n_hot++] = i;
        }
    }
    double idle = s->fixed + hot * s->hot_ns + (always_hot(s) ? 0 : s->cold_ns);
    s->t += idle + visits * s->visit + n * s->work;
    s->busy += s->t - from - idle;
    for (uint32_t i = 0; i < n; i++) {
        if (!s->load->split) {
            come(s, taken[i], s->t);
            continue;
        }
        s->seen[taken[i]] = s->t;
        append(s, &s->exec, taken[i]);
    }
    s->round++;
}

/* Rounds in which nothing is due and no VM turns cold need not be gone through. */
static void skip(struct sim *s)
{
    double round = s->fixed + s->hot * s->hot_ns + (always_hot(s) ? 0 : s->cold_ns);

    if (s->made != s->done || s->due <= s->t + 2 * round || s->made == s->want)
        return;
    uint64_t rounds = (uint64_t)((s->due - s->t) / round) - 1;
    for (uint32_t k = 0; k < s->n_hot && !always_hot(s); k++) {
        uint64_t until = s->expires[s->hot_list[k]];
        if (until < s->round + rounds)
            rounds = until > s->round ? until - s->round : 0;
    }
    s->t += (double)rounds * round;
    s->round += rounds;
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

static void sim_fini(struct sim *s)
{
    free(s->vm);
    free(s->guest);
    free(s->expires);
    free(s->hot_list);
    free(s->working);
    free(s->next);
    free(s->owner);
    free(s->arrived);
    free(s->seen);
    free(s->latency);
}

static bool sim_init(struct sim *s, const struct plan_constants *c, const struct plan_load *l, uint64_t descriptors,
                     uint64_t seed)
{
    struct plan_costs cost;

    plan_costs_of(c, l, &cost);
    *s = (struct sim){.load = l, .fixed = c->round, .hot_ns = c->hot, .cold_ns = plan_at(&c->cold, l->vms), .visit = cost.visit,
                      .work = cost.work, .wire = cost.wire, .send = c->guest_send, .take = c->guest_take,
                      .more = c->guest_more / 2, .exec_fixed = c->round, .exec_visit = cost.executor_visit,
                      .exec_work = cost.executor_work, .vms = (uint32_t)l->vms, .active = (uint32_t)l->active,
                      .guests = (uint32_t)cost.guests, .burst = (uint32_t)l->burst,
                      .state = seed * UINT64_C(0x9e3779b97f4a7c15) | 1, .want = descriptors};
    s->vm = calloc(s->active + 1u, sizeof(*s->vm));
    s->guest = calloc(s->guests + 1u, sizeof(*s->guest));
    s->expires = calloc(s->active + 1u, sizeof(*s->expires));
    s->hot_list = calloc(s->active + 1u, sizeof(*s->hot_list));
    s->working = calloc(s->guests + 1u, sizeof(*s->working));
    s->next = calloc(descriptors, sizeof(*s->next));
    s->owner = calloc(descriptors, sizeof(*s->owner));
    s->arrived = calloc(descriptors, sizeof(*s->arrived));
    s->seen = calloc(descriptors, sizeof(*s->seen));
    s->latency = calloc(descriptors, sizeof(*s->latency));
    return s->vm && s->guest && s->expires && s->hot_list && s->working && s->next && s->owner && s->arrived && s->seen &&
           s->latency;
}

static void answer(struct sim *s, double tail, const struct plan_answer *model, struct plan_answer *out)
{
    uint64_t from = s->want / 10, n = s->want - from; /* before that it fills up */
    double *sorted = s->latency + from;

    qsort(sorted, n, sizeof(*sorted), by_value);
    out->p50_ns = sorted[n / 2];
    out->p99_ns = tail + sorted[n * 99 / 100];
    if (model) {
        out->below_p50 = share_below(sorted, n, model->p50_ns);
        out->below_p99 = share_below(sorted, n, model->p99_ns - tail);
    }
}

/* As many are hot as the formulas say, in all stages of that: all or none would take a while to become those. */
static void warm_up(struct sim *s, const struct plan_answer *model)
{
    uint32_t n = model && model->hot < s->active && !always_hot(s) ? (uint32_t)model->hot : s->active;

    for (uint32_t i = 0; i < n; i++) {
        s->expires[i] = 1 + (uint64_t)(PLAN_COOL_AFTER + 1) * (i + 1) / n;
        s->hot_list[s->n_hot++] = i;
    }
    s->hot = always_hot(s) ? s->vms : n;
}

int plan_simulate(const struct plan_constants *c, const struct plan_load *l, uint64_t descriptors, uint64_t seed,
                  const struct plan_answer *model, struct plan_answer *out)
{
    uint32_t *taken = calloc((size_t)l->active + 1, TAKE * sizeof(*taken));
    struct sim s;
    bool room = sim_init(&s, c, l, descriptors, seed);

    memset(out, 0, sizeof(*out));
    if (room)
        warm_up(&s, model);
    while (room && taken && s.done < descriptors) {
        skip(&s);
        arrive(&s);
        guests_run(&s);
        round_run(&s, taken);
        if (l->split)
            executor_run(&s);
        /* More waits than a second brings: it will not catch up. */
        if (s.made - s.done > 1000 + 2 * l->active * l->in_flight)
            break;
    }
    out->utilisation = s.t > 0 ? s.busy / s.t : 0;
    out->round_ns = s.round ? s.t / (double)s.round : 0;
    out->hot = s.hot;
    if (s.done < descriptors)
        out->p50_ns = out->p99_ns = HUGE_VAL;
    else
        answer(&s, plan_tail(c, l->split), model, out);
    sim_fini(&s);
    free(taken);
    return room && taken ? 0 : -ENOMEM;
}
