/* SPDX-License-Identifier: Apache-2.0 */
/* The command line: each option is a row with its bounds, so that each wrong value is told what would be right. */
#include "bench/harness.h"

#include <errno.h>
#include <getopt.h>
#include <sched.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum kind { WHOLE, REAL, WORDS, TEXT, FLAG };
struct option_row {
    const char *name, *value, *what;
    enum kind kind;
    uint32_t takes;         /* which suites: BENCH_TAKES_*; 0: all */
    size_t at;              /* in struct bench: uint32_t, double, const char *, bool; a struct bench_list where `most` > 1 */
    double low, high;
    uint32_t most;          /* values in the list */
    bool power_of_two, bytes; /* bytes: K, M and G are understood */
    const char *const *words;
};
#define AT(field) offsetof(struct bench, field)

static const char *const engines[] = {"auto", "stream", "batch", "resident", NULL};
static const char *const loads[] = {"open", "closed", NULL};

/* Those that need code of their own (list, json, cores, help) are below. */
static const struct option_row rows[] = {
    {"filter", "TEXT", "only measurement/subject names that contain TEXT (rtt/ or /vgpu)", TEXT, 0, AT(filter), 0, 0, 1,
     0, 0, NULL},
    {"reps", "N", "rounds that count (default 7; gpu, priority, isolation, copy: 3)", WHOLE, 0, AT(reps), 1, BENCH_REPS_MAX, 1,
     0, 0, NULL},
    {"repeat", "N", "the same as --reps", WHOLE, 0, AT(reps), 1, BENCH_REPS_MAX, 1, 0, 0, NULL},
    {"warm-up", "N", "rounds before, which do not count (default 1; those of the gpu warm up in each measurement)", WHOLE, 0,
     AT(warm_up), 0, 100, 1, 0, 0, NULL},
    {"seconds", "S", "time that a suite may take, roughly; gpu, priority, isolation, copy: of one measurement", REAL, 0,
     AT(seconds), 0.001, 86400, 1, 0, 0, NULL},
    {"duration", "S", "time of one measurement", REAL, BENCH_TAKES_DURATION, AT(duration), 0.0001, 3600, 1, 0, 0, NULL},
    {"vms", "N,...", "how many VMs are attached", WHOLE, BENCH_TAKES_VMS, AT(vms), 1, 1000, BENCH_LIST_MAX, 0, 0, NULL},
    {"clients", "N,...", "administrators who ask at the same time", WHOLE, BENCH_TAKES_CLIENTS, AT(clients), 1, 64,
     BENCH_LIST_MAX, 0, 0, NULL},
    {"ring-slots", "N", "slots of each ring, a power of two", WHOLE, BENCH_TAKES_SLOTS, AT(ring_slots), 8, 65536, 1, true, 0,
     NULL},
    {"burst", "N,...", "descriptors sent at a time, powers of two", WHOLE, BENCH_TAKES_BURST, AT(burst), 1, 32, BENCH_LIST_MAX,
     true, 0, NULL},
    {"payload", "BYTES,...", "bytes moved by each message or copy", WHOLE, BENCH_TAKES_PAYLOAD, AT(payload), 8, 1u << 28,
     BENCH_LIST_MAX, 0, true, NULL},
    {"engine", "NAME", "engine of the cuda backend: auto, stream, batch or resident", WORDS, BENCH_TAKES_ENGINE, AT(engine), 0, 0,
     1, 0, 0, engines},
    {"load", "KIND", "closed: the next when the last is answered; open: on a schedule. Default: both", WORDS, BENCH_TAKES_LOAD,
     AT(load), 0, 0, 1, 0, 0, loads},
    {"rate", "R,...", "of an open loop: descriptors a second, over all VMs", REAL, BENCH_TAKES_RATE, AT(rate), 1, 1e9,
     BENCH_LIST_MAX, 0, 0, NULL},
    {"minutes", "M", "how long to go on", REAL, BENCH_TAKES_MINUTES, AT(minutes), 0.05, 10080, 1, 0, 0, NULL},
    {"chrome", "FILE", "write a trace of the last subject there, which ui.perfetto.dev opens", TEXT, BENCH_TAKES_CHROME,
     AT(chrome), 0, 0, 1, 0, 0, NULL},
    {"gpu-options", "K=V,...", "more options of the cuda executor", TEXT, BENCH_TAKES_ENGINE, AT(gpu_options), 0, 0, 1, 0,
     0, NULL},
    {"refuse-noisy", NULL, "stop with exit status 3 after a suite during which others ran on its cores", FLAG, 0,
     AT(refuse_noisy), 0, 0, 1, 0, 0, NULL},
    {"gpu-small", NULL, "small sizes and two tenants, to see whether all works", FLAG, BENCH_TAKES_ENGINE, AT(gpu_small), 0, 0, 1,
     0, 0, NULL},
};
#define ROWS (sizeof(rows) / sizeof(rows[0]))

static void usage(FILE *to)
{
    fprintf(to, "usage: vgpu-bench [OPTION...] SUITE...\n"
                "       vgpu-bench compare [--even-noisy] A.json B.json\n"
                "       vgpu-bench plan --vms N --rate R [OPTION...]\n\n"
                "  --list [SUITE...]    show suites and what they compare, and stop\n"
                "  --json[=FILE]        one JSON object a line; without FILE on stdout, tables then go to stderr\n"
                "  --cores A,B,C        cores to use, in this order (default: one of each physical core)\n");
    for (size_t i = 0; i < ROWS; i++) {
        char head[40];
        snprintf(head, sizeof(head), "--%s%s%s", rows[i].name, rows[i].value ? " " : "", rows[i].value ? rows[i].value : "");
        fprintf(to, "  %-20s %s\n", head, rows[i].what);
        const char *before = "                       of ";
        for (const struct bench_suite *s = bench_suites; s->name && rows[i].takes; s++)
            if (s->takes & rows[i].takes) {
                fprintf(to, "%s%s", before, s->name);
                before = ", ";
            }
        if (rows[i].takes)
            fputc('\n', to);
    }
    fprintf(to, "  --help\n\nsuites:\n");
    for (const struct bench_suite *s = bench_suites; s->name; s++)
        fprintf(to, "  %-10s %s\n", s->name, s->what);
}

/* ---- Values ---- */
static int bad(const struct option_row *r, const char *value)
{
    fprintf(stderr, "vgpu-bench: --%s takes ", r->name);
    if (r->kind == WORDS)
        for (const char *const *w = r->words; *w; w++)
            fprintf(stderr, "%s%s", w == r->words ? "" : " or ", *w);
    else
        fprintf(stderr, "%s%s from %g to %.10g%s%s", r->most > 1 ? "up to 12 " : "a ",
                r->power_of_two ? (r->most > 1 ? "powers of two" : "power of two")
                                : (r->most > 1 ? "numbers" : "number"),
                r->low, r->high, r->most > 1 ? ", separated by commas" : "", r->bytes ? ", K, M or G behind it" : "");
    fprintf(stderr, "; not '%s'\n", value);
    return -1;
}

/* One number at *text, which moves behind it. */
static bool number(const struct option_row *r, const char **text, double *out)
{
    char *end;

    if (!((**text >= '0' && **text <= '9') || **text == '.'))
        return false;
    errno = 0;
    *out = r->kind == WHOLE ? (double)strtoull(*text, &end, 10) : strtod(*text, &end);
    if (end == *text || errno)
        return false;
    static const char units[] = "KMG";
    const char *unit = r->bytes && *end ? strchr(units, *end) : NULL;
    if (unit) {
        *out *= (double)(UINT64_C(1) << (10 * (unit - units + 1)));
        end++;
    }
    *text = end;
    if (!(*out >= r->low && *out <= r->high))
        return false;
    uint64_t whole = (uint64_t)*out;
    return !r->power_of_two || (whole & (whole - 1)) == 0;
}

static int list_set(const struct option_row *r, struct bench_list *list, const char *value)
{
    const char *at = value;

    for (list->n = 0;; at++) {
        if (list->n == r->most || !number(r, &at, &list->value[list->n]))
            return bad(r, value);
        for (uint32_t i = 0; i < list->n; i++)
            if (list->value[i] >= list->value[list->n]) {
                fprintf(stderr, "vgpu-bench: --%s: numbers must grow from left to right; not '%s'\n", r->name, value);
                return -1;
            }
        list->n++;
        if (*at == '\0')
            return 0;
        if (*at != ',')
            return bad(r, value);
    }
}

static int set(struct bench *b, const struct option_row *r, const char *value)
{
    void *at = (char *)b + r->at;
    double n;

    switch (r->kind) {
    case TEXT:
        *(const char **)at = value;
        if (!*value)
            fprintf(stderr, "vgpu-bench: --%s takes a text that is not empty\n", r->name);
        return *value ? 0 : -1;
    case FLAG:
        *(bool *)at = true;
        return 0;
    case WORDS:
        for (const char *const *w = r->words; *w; w++)
            if (!strcmp(*w, value)) {
                *(const char **)at = *w;
                return 0;
            }
        return bad(r, value);
    case WHOLE:
    case REAL:
        break;
    }
    if (r->most > 1)
        return list_set(r, at, value);
    const char *end = value;
    if (!number(r, &end, &n) || *end)
        return bad(r, value);
    if (r->kind == WHOLE)
        *(uint32_t *)at = (uint32_t)n;
    else
        *(double *)at = n;
    return 0;
}

static int cores_set(struct bench *b, const char *text)
{
    const char *from = text;
    cpu_set_t allowed;
    char *end;

    if (sched_getaffinity(0, sizeof(allowed), &allowed))
        CPU_ZERO(&allowed);
    b->cores_given = true;
    for (b->n_cores = 0;; text = end + 1) {
        long core = strtol(text, &end, 10);
        if (end == text || *text == '-' || core < 0 || core >= CPU_SETSIZE || b->n_cores == BENCH_CORES_MAX ||
            (*end && *end != ',')) {
            fprintf(stderr, "vgpu-bench: --cores takes core numbers separated by commas, at most %d; not '%s'\n",
                    BENCH_CORES_MAX, from);
            return -1;
        }
        if (!CPU_ISSET((size_t)core, &allowed)) {
            fprintf(stderr, "vgpu-bench: --cores: core %ld is not there, or this process may not use it (nproc, taskset -p)\n",
                    core);
            return -1;
        }
        for (int i = 0; i < b->n_cores; i++)
            b->cores_shared |= b->cores[i] == core;
        b->cores[b->n_cores++] = (int)core;
        if (*end == '\0')
            return 0;
    }
}

static int json_set(struct bench *b, const char *file)
{
    if (!file) {
        b->json = stdout;
        b->text = stderr;
        return 0;
    }
    b->json = fopen(file, "w");
    if (!b->json)
        fprintf(stderr, "vgpu-bench: cannot write %s: %m\n", file);
    return b->json ? 0 : -1;
}

/* ---- Do suites and options go together? ---- */
const struct bench_suite *bench_suite_find(const char *name)
{
    for (const struct bench_suite *s = bench_suites; s->name; s++)
        if (strcmp(s->name, name) == 0)
            return s;
    fprintf(stderr, "vgpu-bench: no suite is called '%s'; there are", name);
    for (const struct bench_suite *s = bench_suites; s->name; s++)
        fprintf(stderr, " %s", s->name);
    fputc('\n', stderr);
    return NULL;
}

/* An option that none of the suites takes is a mistake; one that some do not take is said. */
static int options_match(const struct bench *b, const char *const *suites, int n, const bool given[ROWS])
{
    for (size_t i = 0; i < ROWS; i++) {
        int takers = 0;
        for (int k = 0; k < n && given[i]; k++)
            takers += rows[i].takes == 0 || (bench_suite_find(suites[k])->takes & rows[i].takes);
        if (!given[i] || takers == n)
            continue;
        if (takers == 0) {
            fprintf(stderr, "vgpu-bench: --%s means nothing to %s%s; suites that take it:", rows[i].name, suites[0],
                    n > 1 ? " and the others" : "");
            for (const struct bench_suite *s = bench_suites; s->name; s++)
                if (s->takes & rows[i].takes)
                    fprintf(stderr, " %s", s->name);
            fputc('\n', stderr);
            return -1;
        }
        for (int k = 0; k < n; k++)
            if (!(bench_suite_find(suites[k])->takes & rows[i].takes))
                fprintf(b->text, "note: suite %s does not take --%s\n", suites[k], rows[i].name);
    }
    if (b->ring_slots && b->burst.n && b->burst.value[b->burst.n - 1] > b->ring_slots) {
        fprintf(stderr, "vgpu-bench: a burst of %g does not fit into a ring of %u slots: --burst, --ring-slots\n",
                b->burst.value[b->burst.n - 1], b->ring_slots);
        return -1;
    }
    if (b->load && !strcmp(b->load, "closed") && b->rate.n) {
        fprintf(stderr, "vgpu-bench: --rate is of an open loop, and --load closed asks for none\n");
        return -1;
    }
    return 0;
}

enum { LIST = 1000, JSON, CORES };

static int one_option(struct bench *b, int option, bool given[ROWS], char **argv)
{
    switch (option) {
    case LIST:
        b->list_only = true;
        return 0;
    case JSON:
        return json_set(b, optarg);
    case CORES:
        return cores_set(b, optarg);
    case 'h':
        usage(stdout);
        return -2;
    case '?':
    case ':':
        if (option == ':')
            fprintf(stderr, "vgpu-bench: %s needs a value (see --help)\n", argv[optind - 1]);
        else
            fprintf(stderr, "vgpu-bench: unknown option '%s' (see --help)\n", argv[optind - 1]);
        return -1;
    default:
        given[option - 1] = true;
        b->reps_given |= rows[option - 1].at == AT(reps);
        b->warm_up_given |= rows[option - 1].at == AT(warm_up);
        return set(b, &rows[option - 1], optarg);
    }
}

int bench_args(struct bench *b, int argc, char **argv, const char **suites, int max)
{
    struct option options[ROWS + 5] = {{"list", no_argument, NULL, LIST},
                                       {"json", optional_argument, NULL, JSON},
                                       {"cores", required_argument, NULL, CORES},
                                       {"help", no_argument, NULL, 'h'}};
    bool given[ROWS] = {false};
    int option, rc, n = 0;

    for (size_t i = 0; i < ROWS; i++)
        options[4 + i] = (struct option){rows[i].name, rows[i].kind == FLAG ? no_argument : required_argument, NULL, (int)i + 1};
    b->reps = 7;
    b->warm_up = 1;
    b->text = stdout;
    opterr = 0;
    while ((option = getopt_long(argc, argv, ":h", options, NULL)) != -1) {
        rc = one_option(b, option, given, argv);
        if (rc)
            return rc;
    }
    for (; optind < argc; optind++) {
        if (n == max) {
            fprintf(stderr, "vgpu-bench: too many suites: '%s' is one more than %d\n", argv[optind], max);
            return -1;
        }
        if (!bench_suite_find(argv[optind]))
            return -1;
        suites[n++] = argv[optind];
    }
    if (n == 0 && !b->list_only) {
        usage(stderr);
        return -1;
    }
    return n && options_match(b, suites, n, given) ? -1 : n;
}

bool bench_wanted(const struct bench *b, const char *measurement, const char *subject)
{
    char name[128];

    if (!b->filter)
        return true;
    snprintf(name, sizeof(name), "%s/%s", measurement, subject);
    return strstr(name, b->filter) != NULL;
}
