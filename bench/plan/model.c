/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/plan/plan.h"

#include <math.h>

#define ROUNDS 200       /* of the fixed point; it settles within some tens */
#define OVERLOADED 0.995 /* of a server: beyond it waits grow without end */
#define P99 2.3263       /* of a normal distribution */
#define COLD_STEPS 16    /* an even distribution as so many points */

double plan_at(const struct plan_curve *curve, double vms)
{
    int i = 1;

    if (curve->n == 0)
        return 0;
    if (curve->n == 1 || vms <= curve->vms[0])
        return curve->ns[0];
    while (i < curve->n - 1 && vms > curve->vms[i])
        i++;
    double share = (vms - curve->vms[i - 1]) / (curve->vms[i] - curve->vms[i - 1]);
    share = share > 1 ? 1 : share; /* beyond the last one measured: as there */
    return curve->ns[i - 1] + share * (curve->ns[i] - curve->ns[i - 1]);
}

/* How many of the VMs that send are hot when rounds take so long: each stays so for COOL_AFTER rounds after its last. */
static double hot_of(const struct plan_load *l, double round_ns, double *cold_chance)
{
    double batches = l->active > 0 ? l->rate / l->active / l->burst : 0; /* a second, of one VM */

    *cold_chance = 0;
    if (l->vms <= PLAN_HOT_ALWAYS)
        return l->vms;
    *cold_chance = exp(-batches * PLAN_COOL_AFTER * round_ns * 1e-9);
    return l->active * (1 - *cold_chance);
}

struct server {
    double fixed; /* a round's time without work, ns */
    double work;  /* a descriptor's */
    double visit; /* a visit's */
};

/* Time of a round with `n` descriptors of `batches` batches from `active` VMs. */
static double round_with(const struct server *s, double n, double batches, double active)
{
    double visited = active > 0 ? active * (1 - exp(-batches / active)) : 0;

    return s->fixed + n * s->work + visited * s->visit;
}

/* Visits of a batch: batches of one VM that meet in a round share one. */
static double visits_each(double batches, double active)
{
    return batches > 0 && active > 0 ? active * (1 - exp(-batches / active)) / batches : 1;
}

struct settled {
    double round, utilisation; /* mean; round below 0: it cannot keep up */
    double round99;            /* one round in a hundred is longer */
    double wait50, wait99;     /* for the work that is there before a batch, when it is seen as a queue of batches */
    double own;                /* a batch's own work */
};

/*
 * Arrivals of a round are those of the time that the last one took: the mean round is a fixed point. Two views of its spread,
 * and the longer one counts: rounds that feed themselves (many VMs, small batches), and a queue of batches with an exponential
 * tail (few, large ones), as of M/D/1.
 */
static void settle(const struct server *s, const struct plan_load *l, double rate, struct settled *out)
{
    double t = s->fixed, rate_ns = rate * 1e-9, n = 0;

    *out = (struct settled){.round = -1, .utilisation = rate_ns * s->work};
    for (int i = 0; i < ROUNDS; i++) {
        n = rate_ns * t;
        t = round_with(s, n, n / l->burst, l->active);
        if (rate_ns * s->work > OVERLOADED || t > 1e9)
            return;
    }
    double batches = n / l->burst;
    out->round = t;
    out->utilisation = 1 - s->fixed / t;
    /* What one more descriptor in a round adds to it, and by that to the next one. */
    double gain = rate_ns * (s->work + (l->active > 0 ? s->visit * exp(-batches / l->active) / l->burst : 0));
    double spread = sqrt(n * l->burst / (1 - (gain < 0.99 ? gain * gain : 0.98)));
    double high = n + P99 * spread;
    if (high < l->burst && 1 - exp(-batches) > 0.01)
        high = l->burst; /* one round in a hundred has a batch at all */
    out->round99 = round_with(s, high, high / l->burst, l->active);
    /* While it is busy rounds are longer than the mean, so more visits are shared. */
    double each = l->burst * s->work + s->visit * visits_each(3 * batches, l->active);
    double rho = rate_ns / l->burst * each, mean = rho < 1 ? each / (2 * (1 - rho)) : HUGE_VAL;
    out->own = each;
    out->wait50 = rho > 0.5 ? mean * log(2 * rho) : 0;
    out->wait99 = rho > 0.01 ? mean * log(100 * rho) : 0;
}

/* Alone on an idle host a descriptor takes what was measured; of that the model has one and a half rounds of its own. */
double plan_wire(const struct plan_constants *c, bool split)
{
    double wire = (split ? c->split_p50 : c->one_core_p50) - 1.5 * c->round - c->visit - plan_at(&c->descriptor, 1);

    return wire > 0 ? wire : 0;
}

double plan_tail(const struct plan_constants *c, bool split)
{
    return split ? c->split_p99 - c->split_p50 : c->one_core_p99 - c->one_core_p50;
}

static void overloaded(struct plan_answer *out)
{
    out->p50_ns = out->p99_ns = out->round_ns = out->outstanding = HUGE_VAL;
}

/* Latency beside what is measured with one descriptor in flight: the round that it comes in, and the one that takes it. */
static void waits(const struct server *s, const struct settled *r, double *p50, double *p99)
{
    double longest = r->round99 > s->fixed + r->own ? r->round99 : s->fixed + r->own;
    double rounds50 = r->round / 2 + (r->round > s->fixed + r->own ? r->round : s->fixed + r->own);
    double rounds99 = 0.75 * r->round99 + longest;
    double queue = 1.5 * s->fixed + r->own;

    *p50 = rounds50 > queue + r->wait50 ? rounds50 : queue + r->wait50;
    *p99 = rounds99 > queue + r->wait99 ? rounds99 : queue + r->wait99;
}

/* The share of descriptors of VMs that are looked at in each round which are done by t: log-normal through p50 and p99. */
static double hot_by(double p50, double p99, double t)
{
    double sigma = log(p99 / p50) / P99;

    if (t <= 0)
        return 0;
    return sigma > 1e-6 ? 0.5 * erfc(-log(t / p50) / (sigma * M_SQRT2)) : t >= p50;
}

struct scan { /* what a descriptor waits for whose VM is cold: any share of these rounds */
    double chance; /* that it is */
    double ns, sd; /* of all of them */
};

/* The share of all that is done by t, where some wait for a scan before what p50 and p99 say. */
static double mixed_by(double p50, double p99, const struct scan *s, double t)
{
    static const double normal[] = {-1.534, -0.887, -0.489, -0.157, 0.157, 0.489, 0.887, 1.534}; /* middles of eighths */
    double cold = 0;

    for (int k = 0; k < COLD_STEPS; k++) {
        double share = (k + 0.5) / COLD_STEPS;
        for (int z = 0; z < 8; z++) {
            double wait = share * s->ns + normal[z] * sqrt(share) * s->sd;
            cold += hot_by(p50, p99, t - (wait > 0 ? wait : 0)) / (8 * COLD_STEPS);
        }
    }
    return (1 - s->chance) * hot_by(p50, p99, t) + s->chance * cold;
}

static double mixed_quantile(double q, double p50, double p99, const struct scan *s)
{
    double low = 0, high = 4 * p99 + s->ns + 4 * s->sd;

    for (int i = 0; i < 24; i++) {
        double t = (low + high) / 2;
        if (mixed_by(p50, p99, s, t) < q)
            low = t;
        else
            high = t;
    }
    return high;
}

/*
 * Cold VMs are looked at four a round: what that adds for those that find themselves cold. So many rounds take as long as
 * they would idle, and as the work takes that comes meanwhile: mean and deviation are those of a delay busy period.
 */
static void cold_add(const struct plan_load *l, double hot, double chance, const struct server *s, const struct settled *r,
                     struct plan_answer *out)
{
    double rounds = (l->vms - hot) / PLAN_COLD_PER_ROUND, p50 = out->p50_ns, p99 = out->p99_ns, left = 1 - r->utilisation;
    struct scan scan = {.chance = chance, .ns = rounds * r->round};

    if (l->vms <= PLAN_HOT_ALWAYS || rounds <= 1)
        return;
    scan.sd = sqrt(rounds * s->fixed * l->rate * 1e-9 / l->burst * r->own * r->own / (left * left * left));
    out->p50_ns = mixed_quantile(0.5, p50, p99, &scan);
    out->p99_ns = mixed_quantile(0.99, p50, p99, &scan);
}

static void device_add(const struct plan_load *l, struct plan_answer *out)
{
    if (!(l->device_ns > 0))
        return;
    double wait = out->device_utilisation / (2 * (1 - out->device_utilisation)) * l->device_ns / l->device_width;
    out->p50_ns += l->device_ns + wait;
    out->p99_ns += l->device_ns + wait * log(100); /* exponential, as queues have it */
}

void plan_model(const struct plan_constants *c, const struct plan_load *l, struct plan_answer *out)
{
    double cost = plan_at(&c->descriptor, l->active), share = l->split ? c->poll_share : 1, chance = 0, hot = 0, p50, p99;
    struct server poll = {.fixed = c->round, .work = cost * share, .visit = c->visit};
    struct settled r = {.round = c->round};

    *out = (struct plan_answer){0};
    for (int i = 0; i < ROUNDS && r.round > 0; i++) { /* how many are hot depends on how long rounds take */
        hot = hot_of(l, r.round, &chance);
        poll.fixed = c->round + hot * c->hot + (l->vms > PLAN_HOT_ALWAYS ? plan_at(&c->cold, l->vms) : 0);
        settle(&poll, l, l->rate, &r);
    }
    out->hot = hot;
    out->utilisation = r.utilisation;
    out->device_utilisation = l->device_width > 0 ? l->executor_rate * 1e-9 * l->device_ns / l->device_width : 0;
    struct server exec = {.fixed = c->round, .work = cost * (1 - share)};
    struct settled e = {.round = c->round};
    if (l->split) {
        settle(&exec, l, l->executor_rate, &e);
        out->executor_utilisation = e.utilisation;
    }
    if (r.round < 0 || e.round < 0 || out->device_utilisation > OVERLOADED) {
        overloaded(out);
        return;
    }
    out->round_ns = r.round;
    waits(&poll, &r, &p50, &p99);
    out->p50_ns = plan_wire(c, l->split) + p50;
    out->p99_ns = plan_wire(c, l->split) + plan_tail(c, l->split) + p99;
    cold_add(l, hot, chance, &poll, &r, out);
    if (l->split) { /* the executor's loop beyond an empty one, which is in what was measured */
        waits(&exec, &e, &p50, &p99);
        out->p50_ns += p50 - 1.5 * exec.fixed;
        out->p99_ns += p99 - 1.5 * exec.fixed;
    }
    device_add(l, out);
    out->outstanding = l->active > 0 ? l->rate / l->active * out->p99_ns * 1e-9 + l->burst : 0;
}
