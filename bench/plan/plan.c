/* SPDX-License-Identifier: Apache-2.0 */
/* vgpu-bench plan: the command line, how many poll cores, which limit is met first. */
#include "bench/plan/plan.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/harness.h"

#define SIMULATED 100000u
#define SIMULATED_MIN 5000u
#define SIMULATED_ROUNDS 4e7 /* a descriptor of a cold VM is one of many rounds: with very many VMs fewer are simulated */
#define FACTOR_MAX 1e4
#define POLL_CORES_MAX 16 /* of a daemon: docs/man/vgpud.yaml.5.scd */

struct wish {
    double vms, rate, active, burst, poll_cores, poll_cores_most, p99_us, utilisation, in_flight, op_us, width, reps;
    const char *layout, *machine, *constants, *calibrate, *cores;
    bool calibrating, check, list;
    FILE *json;
};

static const struct number_row {
    const char *name, *value, *what;
    size_t at;
    double low, high;
    bool whole;
} numbers[] = {
#define AT(field) offsetof(struct wish, field)
    {"vms", "N", "VMs attached", AT(vms), 1, 65535, true},
    {"rate", "R", "descriptors a second, of each VM that sends", AT(rate), 0.001, 1e9, false},
    {"active", "N", "how many of the VMs send (default: all)", AT(active), 1, 65535, true},
    {"burst", "N", "descriptors sent at a time (1)", AT(burst), 1, 1024, true},
    {"poll-cores", "N", "so many, instead of as few as will do", AT(poll_cores), 1, POLL_CORES_MAX, true},
    {"poll-cores-most", "N", "how many the host has for that (16)", AT(poll_cores_most), 1, POLL_CORES_MAX, true},
    {"p99-us", "T", "p99 that guests are promised, us (default: none)", AT(p99_us), 0.01, 1e9, false},
    {"utilisation", "U", "how busy a core may be (0.7)", AT(utilisation), 0.01, 0.99, false},
    {"in-flight", "N", "descriptors that a VM may have outstanding (1024)", AT(in_flight), 1, 65536, true},
    {"op-us", "T", "what an operation takes on the device, us (0: backend null)", AT(op_us), 0, 1e9, false},
    {"device-width", "N", "operations that run there at once (1)", AT(width), 1, 1e6, true},
    {"reps", "N", "of --calibrate and --check: rounds (5)", AT(reps), 1, BENCH_REPS_MAX, true},
};
#define NUMBERS (sizeof(numbers) / sizeof(numbers[0]))

static void usage(FILE *to)
{
    fprintf(to, "usage: vgpu-bench plan --vms N --rate R [OPTION...]\n"
                "       vgpu-bench plan --calibrate[=FILE] | --list\n"
                "       vgpu-bench plan --check [--vms N --rate R [--layout L]]\n\n");
    for (size_t i = 0; i < NUMBERS; i++)
        fprintf(to, "  --%s %s%*s %s\n", numbers[i].name, numbers[i].value,
                (int)(18 - strlen(numbers[i].name) - strlen(numbers[i].value)), "", numbers[i].what);
    fprintf(to, "  --layout L           one-core: the executor in the poll core's loop; split: on a core of its own (one-core)\n"
                "  --machine NAME       constants of a machine that was measured (--list); default: the first\n"
                "  --constants FILE     constants of a file that --calibrate wrote\n"
                "  --calibrate[=FILE]   measure this machine; write FILE, or plan with it\n"
                "  --check              real runs on this machine beside model and simulation: of that load, or of a list\n"
                "  --cores A,B,C        for these two: guest, poll core, executor\n"
                "  --json[=FILE]        what was found as JSON\n\n"
                "Exit: 0 it fits, 1 it does not (or a run failed), 2 usage.\n");
}

/* ---- Command line ---- */
static int number_set(struct wish *w, const struct number_row *r, const char *text)
{
    char *end;
    double v = strtod(text, &end);

    bool number = ((*text >= '0' && *text <= '9') || *text == '.') && !*end;
    if (number && v >= r->low && v <= r->high && (!r->whole || floor(v) == v)) {
        *(double *)((char *)w + r->at) = v;
        return 0;
    }
    fprintf(stderr, "vgpu-bench: plan: --%s takes a %s from %g to %.10g; not '%s'\n", r->name,
            r->whole ? "whole number" : "number", r->low, r->high, text);
    return -1;
}

enum { LAYOUT = 1000, MACHINE, CONSTANTS, CALIBRATE, CHECK, JSON, LIST, CORES };

static int option_set(struct wish *w, int option)
{
    switch (option) {
    case LAYOUT:
        w->layout = optarg;
        if (!strcmp(optarg, "one-core") || !strcmp(optarg, "split"))
            return 0;
        fprintf(stderr, "vgpu-bench: plan: --layout takes one-core or split; not '%s'\n", optarg);
        return -1;
    case MACHINE:
        w->machine = optarg;
        return 0;
    case CONSTANTS:
        w->constants = optarg;
        return 0;
    case CALIBRATE:
        w->calibrating = true;
        w->calibrate = optarg;
        return 0;
    case CHECK:
        w->check = true;
        return 0;
    case LIST:
        w->list = true;
        return 0;
    case CORES:
        w->cores = optarg;
        return 0;
    case JSON:
        w->json = optarg ? fopen(optarg, "w") : stdout;
        if (!w->json)
            fprintf(stderr, "vgpu-bench: cannot write %s: %m\n", optarg);
        return w->json ? 0 : -1;
    default:
        return number_set(w, &numbers[option - 1], optarg);
    }
}

/* Real runs send one descriptor at a time through one poll core; what else a plan may ask for they cannot show. */
static int wish_of_check(const struct wish *w)
{
    if ((w->vms > 0) != (w->rate > 0)) {
        fprintf(stderr, "vgpu-bench: plan: --check runs a list of loads, or one that --vms and --rate say together\n");
        return -1;
    }
    if (w->vms > PLAN_CHECK_VMS) {
        fprintf(stderr, "vgpu-bench: plan: --check runs up to %u VMs; not %g\n", PLAN_CHECK_VMS, w->vms);
        return -1;
    }
    if ((w->active > 0 && w->active < w->vms) || w->burst > 1 || w->poll_cores > 1 || w->op_us > 0) {
        fprintf(stderr, "vgpu-bench: plan: --check: all VMs send, one descriptor at a time, to one poll core and backend null: "
                        "no --active, --burst, --poll-cores, --op-us\n");
        return -1;
    }
    return 0;
}

static int wish_check(const struct wish *w)
{
    if (w->check)
        return wish_of_check(w);
    if (w->list || (w->calibrating && w->vms <= 0 && w->rate <= 0))
        return 0;
    if (w->vms <= 0 || w->rate <= 0) {
        fprintf(stderr, "vgpu-bench: plan: --vms and --rate say what is to be carried (see plan --help)\n");
        return -1;
    }
    if (w->active > w->vms) {
        fprintf(stderr, "vgpu-bench: plan: --active: of %g VMs %g cannot send\n", w->vms, w->active);
        return -1;
    }
    if (w->burst > w->in_flight) {
        fprintf(stderr, "vgpu-bench: plan: --burst: a VM may have %g outstanding (--in-flight), a burst is %g\n", w->in_flight,
                w->burst);
        return -1;
    }
    if (w->machine && w->constants && w->calibrating) {
        fprintf(stderr, "vgpu-bench: plan: --machine, --constants and --calibrate each say whose constants: give one\n");
        return -1;
    }
    return 0;
}

static int wish_read(struct wish *w, int argc, char **argv)
{
    struct option options[NUMBERS + 10] = {
        {"layout", required_argument, NULL, LAYOUT},       {"machine", required_argument, NULL, MACHINE},
        {"constants", required_argument, NULL, CONSTANTS}, {"calibrate", optional_argument, NULL, CALIBRATE},
        {"check", no_argument, NULL, CHECK},               {"json", optional_argument, NULL, JSON},
        {"list", no_argument, NULL, LIST},                 {"cores", required_argument, NULL, CORES},
        {"help", no_argument, NULL, 'h'}};
    int option;

    *w = (struct wish){.burst = 1, .utilisation = 0.7, .in_flight = 1024, .width = 1, .reps = 5, .layout = "one-core",
                       .poll_cores_most = POLL_CORES_MAX};
    for (size_t i = 0; i < NUMBERS; i++)
        options[9 + i] = (struct option){numbers[i].name, required_argument, NULL, (int)i + 1};
    opterr = 0;
    while ((option = getopt_long(argc, argv, ":h", options, NULL)) != -1) {
        if (option == 'h') {
            usage(stdout);
            return 1;
        }
        if (option == '?' || option == ':') {
            fprintf(stderr, "vgpu-bench: plan: %s '%s' (see plan --help)\n",
                    option == ':' ? "a value is missing:" : "unknown option", argv[optind - 1]);
            return -1;
        }
        if (option_set(w, option))
            return -1;
    }
    if (optind < argc) {
        fprintf(stderr, "vgpu-bench: plan: '%s' is no option (see plan --help)\n", argv[optind]);
        return -1;
    }
    return wish_check(w);
}

/* ---- The load of one poll core of so many, at `factor` times what was asked for ---- */
static struct plan_load load_of(const struct wish *w, double poll_cores, double factor)
{
    double active = w->active > 0 ? w->active : w->vms, all = active * w->rate * factor;
    struct plan_load l = {.vms = ceil(w->vms / poll_cores), .active = ceil(active / poll_cores), .burst = w->burst,
                          .in_flight = w->in_flight, .split = !strcmp(w->layout, "split"), .executor_rate = all,
                          .device_ns = w->op_us * 1e3, .device_width = w->width};

    l.rate = all * l.active / active;
    return l;
}

static struct plan_answer answer_of(const struct plan_constants *c, const struct wish *w, double poll_cores, double factor)
{
    struct plan_load l = load_of(w, poll_cores, factor);
    struct plan_answer a;

    plan_model(c, &l, &a);
    return a;
}

/* ---- Limits ---- */
#define LIMITS 5
struct limit {
    const char *what;
    double now, allowed; /* allowed HUGE_VAL: there is none */
    double factor;       /* of the load, at which it is met; HUGE_VAL: never */
};

static double limit_value(const struct plan_answer *a, int i)
{
    const double values[LIMITS] = {a->utilisation, a->executor_utilisation, a->device_utilisation, a->outstanding,
                                   a->p99_ns / 1e3};

    return values[i];
}

static double factor_of(const struct plan_constants *c, const struct wish *w, double poll_cores, int i, double allowed)
{
    double low = 1e-6, high = FACTOR_MAX;
    struct plan_answer a = answer_of(c, w, poll_cores, high);

    if (limit_value(&a, i) <= allowed)
        return HUGE_VAL;
    for (int k = 0; k < 60; k++) {
        double middle = sqrt(low * high);
        a = answer_of(c, w, poll_cores, middle);
        if (limit_value(&a, i) <= allowed)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* Fills limits; the index of the one that is met first. */
static int limits_find(const struct plan_constants *c, const struct wish *w, double poll_cores, struct limit out[LIMITS])
{
    static const char *const names[LIMITS] = {"a poll core's utilisation", "the executor's utilisation",
                                              "the device's utilisation", "outstanding of a VM, at p99", "p99, us"};
    struct plan_answer a = answer_of(c, w, poll_cores, 1);
    const double allowed[LIMITS] = {w->utilisation, strcmp(w->layout, "split") ? HUGE_VAL : w->utilisation,
                                    w->op_us > 0 ? w->utilisation : HUGE_VAL, w->in_flight,
                                    w->p99_us > 0 ? w->p99_us : HUGE_VAL};
    int first = 0;

    for (int i = 0; i < LIMITS; i++) {
        out[i] = (struct limit){names[i], limit_value(&a, i), allowed[i], HUGE_VAL};
        if (allowed[i] < HUGE_VAL)
            out[i].factor = factor_of(c, w, poll_cores, i, allowed[i]);
        if (out[i].factor < out[first].factor)
            first = i;
    }
    return first;
}

/* As few poll cores as keep all limits; 0: not even the most. */
static int poll_cores_find(const struct plan_constants *c, const struct wish *w)
{
    struct limit limits[LIMITS];

    if (w->poll_cores > 0)
        return (int)w->poll_cores;
    for (int n = 1; n <= (int)w->poll_cores_most && n <= w->vms; n++)
        if (limits[limits_find(c, w, n, limits)].factor >= 1)
            return n;
    return 0;
}

/* ---- Printing ---- */
static void cell(struct bench_table *t, double v, int decimals)
{
    if (v >= HUGE_VAL)
        bench_table_add(t, "no end");
    else
        bench_table_num(t, v, decimals);
}

static uint64_t simulated_of(double vms)
{
    double n = SIMULATED_ROUNDS / (1 + vms / (2 * PLAN_COLD_PER_ROUND));

    return n > SIMULATED ? SIMULATED : n < SIMULATED_MIN ? SIMULATED_MIN : (uint64_t)n;
}

static void cores_table(const struct plan_constants *c, const struct wish *w, int chosen, struct plan_answer *simulated)
{
    struct bench_table t;

    bench_table_init(&t, 9);
    bench_table_names(&t, (const char *const[]){"poll cores", "VMs each", "M/s each", "utilisation", "round ns", "p50 us",
                                                "p99 us", "simulated p50", "p99", NULL});
    for (int n = chosen > 1 ? chosen - 1 : 1; n <= chosen + 1 && n <= POLL_CORES_MAX && n <= w->vms; n++) {
        struct plan_load l = load_of(w, n, 1);
        struct plan_answer a = answer_of(c, w, n, 1), s;
        /* The simulation is of one poll core; what a device adds, or an executor that serves several, is the model's in both. */
        struct plan_load alone = l;
        alone.device_ns = 0;
        alone.split = l.split && n == 1;
        struct plan_answer bare;
        plan_model(c, &alone, &bare);
        if (plan_simulate(c, &alone, simulated_of(l.vms), 1, &bare, &s))
            s.p50_ns = s.p99_ns = (double)NAN;
        s.p50_ns += a.p50_ns - bare.p50_ns;
        s.p99_ns += a.p99_ns - bare.p99_ns;
        if (n == chosen)
            *simulated = s;
        bench_table_add(&t, "%d%s", n, n == chosen ? " *" : "");
        bench_table_num(&t, l.vms, 0);
        bench_table_num(&t, l.rate / 1e6, 3);
        bench_table_num(&t, a.utilisation, 3);
        cell(&t, a.round_ns, 0);
        cell(&t, a.p50_ns / 1e3, 2);
        cell(&t, a.p99_ns / 1e3, 2);
        cell(&t, s.p50_ns / 1e3, 2);
        cell(&t, s.p99_ns / 1e3, 2);
    }
    bench_table_print(&t, stdout);
}

static void limits_table(const struct wish *w, const struct limit limits[LIMITS])
{
    struct bench_table t;

    bench_table_init(&t, 5);
    bench_table_names(&t, (const char *const[]){"limit", "now", "allowed", "met at, times this load", "descriptors/s of each VM",
                                                NULL});
    for (int i = 0; i < LIMITS; i++) {
        if (limits[i].allowed >= HUGE_VAL && i != LIMITS - 1)
            continue;
        bench_table_add(&t, "%s", limits[i].what);
        cell(&t, limits[i].now, limits[i].now < 10 ? 2 : 0);
        if (limits[i].allowed >= HUGE_VAL)
            bench_table_add(&t, "none given");
        else
            bench_table_num(&t, limits[i].allowed, limits[i].allowed < 10 ? 2 : 0);
        if (limits[i].factor >= HUGE_VAL)
            bench_table_add(&t, "-");
        else
            bench_table_num(&t, limits[i].factor, 2);
        if (limits[i].factor >= HUGE_VAL)
            bench_table_add(&t, "-");
        else
            bench_table_num(&t, limits[i].factor * w->rate, 0);
    }
    bench_table_print(&t, stdout);
}

static void json_number(FILE *to, const char *key, double v)
{
    if (v >= HUGE_VAL || isnan(v))
        fprintf(to, ",\"%s\":null", key);
    else
        fprintf(to, ",\"%s\":%.6g", key, v);
}

static void answer_json(const struct plan_constants *c, const struct wish *w, int n, bool fits, const struct limit *first,
                        const struct plan_answer *simulated)
{
    struct plan_answer a = answer_of(c, w, n, 1);

    fprintf(w->json, "{\"machine\":\"%s\",\"layout\":\"%s\",\"vms\":%g,\"rate\":%g,\"burst\":%g,\"fits\":%s,\"poll_cores\":%d",
            c->name, w->layout, w->vms, w->rate, w->burst, fits ? "true" : "false", n);
    json_number(w->json, "utilisation", a.utilisation);
    json_number(w->json, "executor_utilisation", a.executor_utilisation);
    json_number(w->json, "device_utilisation", a.device_utilisation);
    json_number(w->json, "round_ns", a.round_ns);
    json_number(w->json, "p50_ns", a.p50_ns);
    json_number(w->json, "p99_ns", a.p99_ns);
    json_number(w->json, "simulated_p50_ns", simulated->p50_ns);
    json_number(w->json, "simulated_p99_ns", simulated->p99_ns);
    json_number(w->json, "simulated_below_p50", simulated->below_p50);
    json_number(w->json, "simulated_below_p99", simulated->below_p99);
    fprintf(w->json, ",\"first_limit\":\"%s\"", first->what);
    json_number(w->json, "first_limit_factor", first->factor);
    fprintf(w->json, "}\n");
}

static int plan_print(const struct plan_constants *c, const struct wish *w)
{
    struct limit limits[LIMITS];
    struct plan_answer simulated = {0};
    double active = w->active > 0 ? w->active : w->vms;
    bool split = !strcmp(w->layout, "split");
    int found = poll_cores_find(c, w), n = found ? found : (int)(w->poll_cores_most < w->vms ? w->poll_cores_most : w->vms);

    if (split && c->split_p50 <= 0) {
        fprintf(stderr, "vgpu-bench: plan: --layout split was not measured on %s: it had no third core\n", c->name);
        return 2;
    }
    printf("plan: %g VMs, %g of them with %g descriptors a second each in bursts of %g: %.4g M/s in all\n"
           "      executor %s; constants of %s (%s)\n\n", w->vms, active, w->rate, w->burst, active * w->rate / 1e6,
           split ? "on a core of its own" : "in the poll core's loop", c->name, c->what);
    cores_table(c, w, n, &simulated);
    int first = limits_find(c, w, n, limits);
    bool fits = limits[first].factor >= 1;
    printf("\nwith %d poll core%s:\n", n, n > 1 ? "s" : "");
    limits_table(w, limits);
    if (fits && limits[first].factor >= HUGE_VAL)
        printf("\nIt fits: %d poll core%s%s. %g times this load would, too.\n", n, n > 1 ? "s" : "",
               split ? " and one for the executor" : "", FACTOR_MAX);
    else if (fits)
        printf("\nIt fits: %d poll core%s%s. Met first: %s, at %.3g times this load.\n", n, n > 1 ? "s" : "",
               split ? " and one for the executor" : "", limits[first].what, limits[first].factor);
    else
        printf("\nIt does NOT fit: %s is beyond its limit with %d poll core%s; %.3g times this load would.\n",
               limits[first].what, n, n > 1 ? "s" : "", limits[first].factor);
    if (w->json)
        answer_json(c, w, n, fits, &limits[first], &simulated);
    return fits ? 0 : 1;
}

/* ---- What needs this machine ---- */
static int bench_begin(struct bench *b, struct bench_mem *mem, const struct wish *w)
{
    char cores[256], *argv[] = {(char *)"vgpu-bench", (char *)"path", cores, NULL};
    const char *suite;

    if (w->cores) {
        snprintf(cores, sizeof(cores), "--cores=%s", w->cores);
        optind = 0; /* getopt begins anew */
        if (bench_args(b, 3, argv, &suite, 1) < 0)
            return 2;
    }
    b->reps = (uint32_t)w->reps;
    b->warm_up = 1;
    b->text = w->json == stdout ? stderr : stdout;
    vgpu_clock_init();
    if (bench_mem_init(mem, (size_t)64 << 20)) {
        fprintf(stderr, "vgpu-bench: no memory\n");
        return 1;
    }
    b->mem = mem;
    bench_host_init(b);
    if (b->n_cores >= 2)
        return 0;
    fprintf(stderr, "vgpu-bench: plan: a guest and a poll core need 2 cores, there is %d\n", b->n_cores);
    return BENCH_SKIPPED;
}

static int constants_get(struct bench *b, const struct wish *w, struct plan_constants *c)
{
    if (!w->calibrating && !(w->check && !w->machine && !w->constants))
        return plan_constants_load(w->constants, w->machine, c) ? 2 : 0;
    FILE *out = w->calibrate ? fopen(w->calibrate, "a") : NULL; /* before a minute of work; what it has stays until then */
    if (w->calibrate && !out) {
        fprintf(stderr, "vgpu-bench: cannot write %s: %m\n", w->calibrate);
        return 2;
    }
    bool was_empty = out && ftell(out) == 0;
    if (plan_calibrate(b, c)) {
        if (out)
            fclose(out);
        if (was_empty)
            unlink(w->calibrate);
        return 1;
    }
    if (!out)
        return 0;
    out = freopen(w->calibrate, "w", out);
    if (!out) {
        fprintf(stderr, "vgpu-bench: cannot write %s: %m\n", w->calibrate);
        return 1;
    }
    plan_constants_print(c, out);
    if (fclose(out))
        return 1;
    fprintf(b->text, "constants: %s\n", w->calibrate);
    return 0;
}

int bench_plan(int argc, char **argv)
{
    static struct bench b;
    static struct bench_mem mem;
    struct plan_constants c;
    struct wish w;
    int rc = wish_read(&w, argc, argv);

    if (rc)
        return rc < 0 ? 2 : 0;
    if (w.list) {
        plan_constants_names(stdout);
        return 0;
    }
    bool measures = w.calibrating || w.check;
    if (measures) {
        rc = bench_begin(&b, &mem, &w);
        if (rc)
            return rc;
        bench_noise_begin(&b);
    }
    rc = constants_get(&b, &w, &c);
    if (!rc && w.check) {
        b.json = w.json;
        rc = plan_runs(&b, &c, w.vms, w.rate, !strcmp(w.layout, "split")) ? 1 : 0;
    }
    if (measures) {
        bench_noise_end(&b);
        bench_json_flush(&b);
        bench_mem_fini(&mem);
    }
    if (!rc && w.calibrating && !w.calibrate && w.vms <= 0)
        plan_constants_print(&c, stdout);
    if (!rc && !w.check && w.vms > 0)
        rc = plan_print(&c, &w);
    if (w.json && fflush(w.json))
        rc = 1;
    return rc;
}
