/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vgpu-bench compare A.json B.json: B against A, row by row, with a verdict where the rounds allow one.
 *
 * Two things speak for a difference: the interval of the ratio of medians (a percentile bootstrap over rounds, Efron &
 * Tibshirani, An Introduction to the Bootstrap, ch. 13) leaves out 1 by more than what a reader calls the same, and the
 * rounds of one side lie mostly on one side of the other's (Cliff's delta: P(b > a) - P(b < a), which no single round can
 * carry). Only both make a row slower or faster. Rows of a run that says of itself that others ran where it measured get no
 * verdict unless asked for: a neighbour that came or went between two runs looks like a change.
 */
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench/harness.h"

#define SAME 0.02        /* a difference that nobody asked about */
#define DELTA_LARGE 0.474 /* "large" by the thresholds of Romano et al. 2006, which are common for Cliff's delta */

struct side {
    char *key; /* bench, subject, params, metric */
    const char *unit;
    const json_t *host;
    bool noisy;
    double value[BENCH_REPS_MAX];
    int rounds;
};
struct rows {
    json_t *all; /* array that owns what the sides point to */
    struct side *side;
    size_t count;
};

static void rows_free(struct rows *r)
{
    for (size_t i = 0; i < r->count; i++)
        free(r->side[i].key);
    free(r->side);
    json_decref(r->all);
}

static int row_read(struct rows *r, const json_t *row)
{
    const char *bench = json_string_value(json_object_get(row, "bench"));
    const char *subject = json_string_value(json_object_get(row, "subject"));
    const char *metric = json_string_value(json_object_get(row, "metric"));
    const char *unit = json_string_value(json_object_get(row, "unit"));
    const json_t *values = json_object_get(row, "values");
    char *params = json_dumps(json_object_get(row, "params"), JSON_COMPACT | JSON_SORT_KEYS);

    if (metric && strcmp(metric, "hist") == 0) { /* its percentiles have rows of their own */
        free(params);
        return 0;
    }
    struct side *s = realloc(r->side, (r->count + 1) * sizeof(*s));
    if (s)
        r->side = s;
    if (!bench || !subject || !metric || !unit || !params || !s) {
        free(params);
        return -EINVAL;
    }
    s = &r->side[r->count];
    memset(s, 0, sizeof(*s));
    int n = asprintf(&s->key, "%s/%s %s %s", bench, subject, params, metric);
    free(params);
    if (n < 0)
        return -ENOMEM;
    r->count++;
    s->unit = unit;
    s->host = json_object_get(row, "host");
    s->noisy = json_is_true(json_object_get(json_object_get(row, "noise"), "noisy"));
    for (size_t i = 0; i < json_array_size(values) && s->rounds < BENCH_REPS_MAX; i++)
        if (json_is_number(json_array_get(values, i)))
            s->value[s->rounds++] = json_number_value(json_array_get(values, i));
    if (!values && json_is_number(json_object_get(row, "value"))) /* rows of before there were values */
        s->value[s->rounds++] = json_number_value(json_object_get(row, "value"));
    return 0;
}

static int rows_load(const char *path, struct rows *r)
{
    FILE *in = fopen(path, "r");
    json_error_t error;
    char *line = NULL;
    size_t cap = 0;
    int number = 0, rc = 0;

    if (!in) {
        fprintf(stderr, "vgpu-bench: cannot read %s: %m\n", path);
        return -errno;
    }
    r->all = json_array();
    while (rc == 0 && getline(&line, &cap, in) > 0) {
        number++;
        if (line[strspn(line, " \t\r\n")] == '\0')
            continue;
        json_t *row = json_loads(line, 0, &error);
        if (!row || json_array_append_new(r->all, row) || row_read(r, row)) {
            fprintf(stderr, "vgpu-bench: %s:%d: no row of a benchmark (%s); expected what --json wrote\n", path, number,
                    row ? "bench, subject, params, metric or unit is missing" : error.text);
            rc = -EINVAL;
        }
    }
    free(line);
    fclose(in);
    if (rc == 0 && r->count == 0) {
        fprintf(stderr, "vgpu-bench: %s has no rows\n", path);
        rc = -ENODATA;
    }
    return rc;
}

static double cliff(const struct side *a, const struct side *b)
{
    int more = 0;

    for (int i = 0; i < a->rounds; i++)
        for (int j = 0; j < b->rounds; j++)
            more += (b->value[j] > a->value[i]) - (b->value[j] < a->value[i]);
    return (double)more / ((double)a->rounds * b->rounds);
}

/* Is less better? A time is; a rate, and whatever else is per second, is not. */
static bool less_is_better(const char *unit)
{
    return !strchr(unit, '/');
}

static const char *verdict(const struct side *a, const struct side *b, double low, double high, double delta)
{
    if (a->rounds < BENCH_ROUNDS_MIN || b->rounds < BENCH_ROUNDS_MIN)
        return "too few rounds";
    bool more = low > 1 + SAME && delta > DELTA_LARGE, less = high < 1 - SAME && delta < -DELTA_LARGE;
    if (!more && !less)
        return "same within noise";
    return more == less_is_better(a->unit) ? "SLOWER" : "faster";
}

static const struct side *side_of(const struct rows *r, const char *key)
{
    for (size_t i = 0; i < r->count; i++)
        if (!strcmp(r->side[i].key, key))
            return &r->side[i];
    return NULL;
}

/* Rows of different machines have no common scale; only what a run compared within itself has. */
static bool same_host(const struct side *a, const struct side *b)
{
    static const char *const facts[] = {"cpu", "cpus", "kernel", "gpu", "memory"};

    for (size_t i = 0; i < sizeof(facts) / sizeof(facts[0]); i++) {
        const json_t *x = json_object_get(a->host, facts[i]), *y = json_object_get(b->host, facts[i]);
        if ((x || y) && !json_equal(x, y))
            return false;
    }
    return true;
}

static size_t noisy_of(const struct rows *r)
{
    size_t n = 0;

    for (size_t i = 0; i < r->count; i++)
        n += r->side[i].noisy;
    return n;
}

/* Said before the table and behind it: it is longer than a screen. */
static void noise_say(const struct rows *a, const struct rows *b, bool even_noisy)
{
    size_t of_a = noisy_of(a), of_b = noisy_of(b);

    if (of_a || of_b)
        printf("**** NOISY HOST: others ran where %zu of %zu rows of A and %zu of %zu rows of B were measured. %s ****\n", of_a,
               a->count, of_b, b->count,
               even_noisy ? "Verdicts on them are doubtful (--even-noisy)."
                          : "They get no verdict: measure again on a quiet host, or add --even-noisy.");
}

static int compare(const struct rows *a, const struct rows *b, bool even_noisy)
{
    static const char *const heading[] = {"what", "unit", "A", "B", "B / A", "95 %", "delta", "verdict", NULL};
    struct bench_table t;
    int slower = 0, faster = 0, only = 0, refused = 0;
    bool one_host = true;

    noise_say(a, b, even_noisy);
    bench_table_init(&t, 8);
    bench_table_names(&t, heading);
    for (size_t i = 0; i < a->count; i++) {
        const struct side *x = &a->side[i], *y = side_of(b, x->key);
        if (!y || x->rounds == 0 || y->rounds == 0) {
            only++;
            continue;
        }
        double low, high, delta = cliff(x, y), mx = bench_median_of(x->value, x->rounds);
        double my = bench_median_of(y->value, y->rounds);
        bench_bootstrap_ratio(x->value, x->rounds, y->value, y->rounds, &low, &high);
        one_host &= same_host(x, y);
        const char *said = same_host(x, y) ? verdict(x, y, low, high, delta) : "another machine";
        bool noisy = (x->noisy || y->noisy) && same_host(x, y);
        said = noisy && !even_noisy ? "NOISY HOST" : said;
        refused += noisy && !even_noisy;
        slower += !strcmp(said, "SLOWER");
        faster += !strcmp(said, "faster");
        bench_table_add(&t, "%s", x->key);
        bench_table_add(&t, "%s", x->unit);
        bench_table_add(&t, "%.4g", mx);
        bench_table_add(&t, "%.4g", my);
        bench_table_add(&t, "%.3f", my / mx);
        bench_table_add(&t, "%.3f..%.3f", low, high);
        bench_table_add(&t, "%+.2f", delta);
        bench_table_add(&t, "%s%s", said, noisy && even_noisy ? " (noisy host)" : "");
    }
    bench_table_show(&t, 8, stdout);
    if (!one_host)
        printf("The machines differ: nothing of them is judged. Compare ratios within one run instead.\n");
    if (only)
        printf("%d rows of A are not in B.\n", only);
    noise_say(a, b, even_noisy);
    printf("%d slower, %d faster", slower, faster);
    if (refused)
        printf(", %d without a verdict since the host was noisy", refused);
    putchar('\n');
    return slower ? 1 : refused ? 2 : 0;
}

int bench_compare(int argc, char **argv)
{
    struct rows a = {NULL, NULL, 0}, b = {NULL, NULL, 0};
    const char *files[2];
    bool even_noisy = false, help = false;
    int rc = 2, n = 0, wrong = 0;

    for (int i = 0; i < argc; i++) {
        if (!strcmp(argv[i], "--even-noisy"))
            even_noisy = true;
        else if (!strcmp(argv[i], "--help"))
            help = true;
        else if (argv[i][0] == '-' || n == 2)
            wrong++;
        else
            files[n++] = argv[i];
    }
    if (help || wrong || n != 2) {
        fprintf(help ? stdout : stderr,
                "usage: vgpu-bench compare [--even-noisy] A.json B.json\n"
                "B against A. Rows that were measured on a noisy host get no verdict; with --even-noisy they get one.\n"
                "Exit: 0 nothing is slower, 1 something is, 2 they cannot be compared, or some only with --even-noisy.\n");
        return help ? 0 : 2;
    }
    if (rows_load(files[0], &a) == 0 && rows_load(files[1], &b) == 0)
        rc = compare(&a, &b, even_noisy);
    rows_free(&a);
    rows_free(&b);
    return rc;
}
