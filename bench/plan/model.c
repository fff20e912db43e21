/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/plan/plan.h"

#include <math.h>

#define ROUNDS 200       /* of a fixed point; it settles within some tens */
#define OVERLOADED 0.995 /* of a server: beyond it waits grow without end */
#define P99 2.3263       /* of a normal distribution */
#define TERMS 60         /* of series and fraction; both settle within some tens */
#define SHAPE_MAX 50     /* of a gamma distribution: beyond it, it is nearly normal */
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

/*
 * Times are sums of what does not depend on each other, so each part is known by its mean and variance, and the sum by a gamma
 * distribution of the same mean and variance.
 */
struct part {
    double fixed, mean, var; /* never less than fixed; beyond that a variable part */
};

static void part_add(struct part *to, const struct part *p)
{
    to->fixed += p->fixed;
    to->mean += p->mean;
    to->var += p->var;
}

/* The share of a gamma distribution of shape k and scale 1 that is below x: the regularised incomplete gamma function. */
static double gamma_below(double k, double x)
{
    double front = exp(k * log(x) - x - lgamma(k)), term = 1 / k, sum = term;

    if (x < k + 1) { /* its series; else its continued fraction by Lentz's method */
        for (int i = 1; i < TERMS; i++)
            sum += term *= x / (k + i);
        return front * sum;
    }
    double b = x + 1 - k, c = 1e300, d = 1 / b, h = d;
    for (int i = 1; i < TERMS; i++) {
        double an = -i * (i - k);
        b += 2;
        d = 1 / (an * d + b);
        c = b + an / c;
        h *= d * c;
    }
    return 1 - front * h;
}

/* Its median, or p99. */
static double part_quantile(const struct part *p, double q)
{
    if (p->mean <= 0 || p->var <= 0)
        return p->fixed + p->mean;
    double k = p->mean * p->mean / p->var, scale = p->var / p->mean, low = 1e-9, high = k + 20 * sqrt(k) + 50;
    if (k > SHAPE_MAX) { /* Wilson and Hilferty 1931 */
        double root = 1 - 1 / (9 * k) + (q > 0.5 ? P99 : 0) / (3 * sqrt(k));
        return p->fixed + p->mean * root * root * root;
    }
    for (int i = 0; i < 40; i++) {
        double x = sqrt(low * high);
        if (gamma_below(k, x) < q)
            low = x;
        else
            high = x;
    }
    return p->fixed + high * scale;
}

struct server {
    double fixed; /* a round's time without work, ns */
    double work;  /* a descriptor's */
    double visit; /* a visit's */
};
struct settled {
    double round, utilisation; /* mean; round below 0: it cannot keep up */
    double own;                /* a batch's own work */
    struct part stay;          /* from when a batch is there to the end of the round that takes it */
};

/* Visits of a batch: batches of one VM that meet in a round share one. */
static double visits_each(double batches, double active)
{
    return batches > 0 && active > 0 ? active * (1 - exp(-batches / active)) / batches : 1;
}

/*
 * A round lasts for its fixed part and the work of the batches that came during the round before it, so with batches at random
 * the mean f / (1 - rho) and the variance of rounds follow. A batch comes more likely in a long round than in a short one (the
 * inspection paradox: moments weighted by length), waits for the rest of it, and for the whole next round, which has its own
 * work and that of all who came in the same round. What rounds last beyond f is taken as gamma distributed.
 */
static void settle(const struct server *s, const struct plan_load *l, double rate, struct settled *out)
{
    double f = s->fixed, come = rate * 1e-9 / l->burst, t = f;

    *out = (struct settled){.round = -1, .utilisation = 1};
    /* The mean round: arrivals of one are those of the time that the last one took. From below this only grows. */
    for (int i = 0; i < ROUNDS; i++) {
        t = f + come * t * (l->burst * s->work + s->visit * visits_each(come * t, l->active));
        if (come * l->burst * s->work > OVERLOADED || t > 1e9)
            return;
    }
    double rho = 1 - f / t, own = rho / come;
    if (rho > OVERLOADED)
        return;
    double mean = t - f, var = come * own * own * f / (1 - rho) / (1 - rho * rho);
    double scale = mean > 0 ? var / mean : 0, m2 = mean * (mean + scale), m3 = m2 * (mean + 2 * scale);
    double seen = (f * f + 2 * f * mean + m2) / t, seen2 = (f * f * f + 3 * f * f * mean + 3 * f * m2 + m3) / t;

    /* What is in a round with a certain batch: its own work, and of each other one less where they are of the same VM. */
    double other = l->burst * s->work + s->visit * visits_each(come * seen, l->active) * (1 - 1 / l->active);
    double factor = 0.5 + come * other;
    out->round = t;
    out->own = l->burst * s->work + s->visit;
    out->utilisation = rho;
    out->stay = (struct part){.fixed = f + out->own, .mean = seen * factor,
                              .var = come * other * other * seen + seen2 / 12 + factor * factor * (seen2 - seen * seen)};
}

/* Alone on an idle host a descriptor takes what was measured; what nobody's work explains of it are lines on their way. */
void plan_costs_of(const struct plan_constants *c, const struct plan_load *l, struct plan_costs *out)
{
    double one = plan_at(&c->descriptor, 1), share = l->split ? c->poll_share : 1, each = plan_at(&c->descriptor, l->active);
    double alone = c->guest_send + c->guest_take + 1.5 * c->round + one;

    *out = (struct plan_costs){.work = each * share, .executor_work = each * (1 - share),
                               .visit = plan_at(l->split ? &c->split_visit : &c->visit, l->active),
                               .executor_visit = plan_at(&c->executor_visit, l->active),
                               .guests = l->guests > 0 && l->guests < l->active ? l->guests : l->active};
    alone += l->split ? plan_at(&c->split_visit, 1) + plan_at(&c->executor_visit, 1) + 1.5 * c->round : plan_at(&c->visit, 1);
    out->wire = (l->split ? c->split_p50 : c->one_core_p50) - alone;
    out->wire = out->wire > 0 ? out->wire : 0;
}

double plan_tail(const struct plan_constants *c, bool split)
{
    return split ? c->split_p99 - c->split_p50 : c->one_core_p99 - c->one_core_p50;
}

static void overloaded(struct plan_answer *out)
{
    out->p50_ns = out->p99_ns = out->round_ns = out->outstanding = HUGE_VAL;
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

/* A guest's own time, and what its work waits for: each batch is sent, and taken, in a queue of all that this thread does. */
static struct part guest_stay(const struct plan_constants *c, const struct plan_load *l, double guests)
{
    double more = (l->burst - 1) * c->guest_more / 2, jobs[] = {c->guest_send + more, c->guest_take + more};
    double come = l->rate * 1e-9 / l->burst / guests, rho = come * (jobs[0] + jobs[1]), b2 = 0, b3 = 0;

    for (int i = 0; i < 2; i++) {
        b2 += jobs[i] * jobs[i];
        b3 += jobs[i] * jobs[i] * jobs[i];
    }
    if (rho > OVERLOADED)
        return (struct part){.fixed = HUGE_VAL};
    double wait = come * b2 / (2 * (1 - rho)), var = wait * wait + come * b3 / (3 * (1 - rho)); /* Pollaczek and Khinchine */
    return (struct part){.fixed = jobs[0] + jobs[1], .mean = 2 * wait + l->guest_round / 2,
                         .var = 2 * var + l->guest_round * l->guest_round / 12};
}

void plan_model(const struct plan_constants *c, const struct plan_load *l, struct plan_answer *out)
{
    struct plan_costs cost;
    double chance = 0, hot = 0;

    plan_costs_of(c, l, &cost);
    struct server poll = {.fixed = c->round, .work = cost.work, .visit = cost.visit};
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
    struct plan_load whole = *l; /* as an executor sees it: work of one poll core */
    whole.active = 1;
    struct server exec = {.fixed = c->round, .work = cost.executor_work, .visit = cost.executor_visit};
    struct settled e = {.round = c->round};
    if (l->split) {
        settle(&exec, &whole, l->executor_rate, &e);
        out->executor_utilisation = e.utilisation;
    }
    struct part stay = guest_stay(c, l, cost.guests);
    if (r.round < 0 || e.round < 0 || stay.fixed >= HUGE_VAL || out->device_utilisation > OVERLOADED) {
        overloaded(out);
        return;
    }
    out->round_ns = r.round;
    part_add(&stay, &r.stay);
    if (l->split)
        part_add(&stay, &e.stay);
    out->p50_ns = cost.wire + part_quantile(&stay, 0.5);
    out->p99_ns = cost.wire + part_quantile(&stay, 0.99);
    cold_add(l, hot, chance, &poll, &r, out);
    out->p99_ns += plan_tail(c, l->split);
    device_add(l, out);
    double meanwhile = l->active > 0 ? l->rate / l->active * out->p99_ns * 1e-9 : 0;
    out->outstanding = l->burst + (meanwhile > 0.01 * l->burst ? meanwhile : 0); /* else hardly ever another burst */
}
