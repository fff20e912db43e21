/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/harness.h"

#include <getopt.h>
#include <stdlib.h>
#include <string.h>

static void usage(FILE *to)
{
    fprintf(to,
            "usage: vgpu-bench [OPTION...] SUITE...\n"
            "       vgpu-bench compare A.json B.json\n\n"
            "  --list           show suites and what they compare, and stop\n"
            "  --json[=FILE]    one JSON object a line; without FILE on stdout, tables then go to stderr\n"
            "  --filter S       only measurement/subject names that contain S (example: rtt/ or /vgpu)\n"
            "  --reps N         rounds, 1 to %d (default 7; gpu: 3)\n"
            "  --seconds S      time that a suite may take, roughly (default: the suite's); gpu: one measurement\n"
            "  --cores A,B,C    cores to use, in this order (default: one of each physical core)\n"
            "  --gpu-options K=V,...  gpu: more options of the cuda executor\n"
            "  --gpu-small      gpu: small sizes and two tenants, to see whether all works\n"
            "  --help\n\nsuites:\n",
            BENCH_REPS_MAX);
    for (const struct bench_suite *s = bench_suites; s->name; s++)
        fprintf(to, "  %-10s %s\n", s->name, s->what);
}

static int parse_cores(struct bench *b, const char *text)
{
    char *end;

    b->n_cores = 0;
    for (;;) {
        long core = strtol(text, &end, 10);
        if (end == text || core < 0 || core > 4095 || b->n_cores == BENCH_CORES_MAX)
            return -1;
        for (int i = 0; i < b->n_cores; i++)
            b->cores_shared |= b->cores[i] == core;
        b->cores[b->n_cores++] = (int)core;
        if (*end == '\0')
            return 0;
        if (*end != ',')
            return -1;
        text = end + 1;
    }
}

static int open_json(struct bench *b, const char *file)
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

static int bad(const char *what, const char *value)
{
    fprintf(stderr, "vgpu-bench: %s: %s (see --help)\n", what, value);
    return -1;
}

int bench_args(struct bench *b, int argc, char **argv, const char **suites, int max)
{
    static const struct option options[] = {
        {"list", no_argument, NULL, 'l'},
        {"json", optional_argument, NULL, 'j'},
        {"filter", required_argument, NULL, 'f'},
        {"reps", required_argument, NULL, 'r'},
        {"seconds", required_argument, NULL, 's'},
        {"cores", required_argument, NULL, 'c'},
        {"gpu-options", required_argument, NULL, 'o'},
        {"gpu-small", no_argument, NULL, 'm'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    char *end;
    int option, n = 0;

    b->reps = 7;
    b->text = stdout;
    while ((option = getopt_long(argc, argv, "h", options, NULL)) != -1) {
        switch (option) {
        case 'l':
            b->list_only = true;
            break;
        case 'j':
            if (open_json(b, optarg))
                return -1;
            break;
        case 'f':
            b->filter = optarg;
            break;
        case 'r':
            b->reps = (int)strtol(optarg, &end, 10);
            b->reps_given = true;
            if (*end || b->reps < 1 || b->reps > BENCH_REPS_MAX)
                return bad("--reps takes a small number", optarg);
            break;
        case 's':
            b->seconds = strtod(optarg, &end);
            if (*end || !(b->seconds > 0))
                return bad("--seconds takes a number above 0", optarg);
            break;
        case 'c':
            if (parse_cores(b, optarg))
                return bad("--cores takes core numbers separated by commas", optarg);
            b->cores_given = true;
            break;
        case 'o':
            b->gpu_options = optarg;
            break;
        case 'm':
            b->gpu_small = true;
            break;
        case 'h':
            usage(stdout);
            return -2;
        default:
            return bad("unknown option", argv[optind - 1]);
        }
    }
    for (; optind < argc; optind++) {
        if (n == max)
            return bad("too many suites", argv[optind]);
        suites[n++] = argv[optind];
    }
    if (n == 0 && !b->list_only) {
        usage(stderr);
        return -1;
    }
    return n;
}

bool bench_wanted(const struct bench *b, const char *measurement, const char *subject)
{
    char name[128];

    if (!b->filter)
        return true;
    snprintf(name, sizeof(name), "%s/%s", measurement, subject);
    return strstr(name, b->filter) != NULL;
}
