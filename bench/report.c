/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/harness.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void *must(void *p)
{
    if (!p) {
        fprintf(stderr, "vgpu-bench: no memory\n");
        exit(1);
    }
    return p;
}

static double ticks_ns(double ticks)
{
    return ticks * 1e9 / (double)vgpu_clock.ticks_hz;
}

static struct bench_row *find(const struct bench *b, const char *bench, const char *subject, const char *params,
                              const char *metric)
{
    for (size_t i = 0; i < b->n_rows; i++) {
        struct bench_row *r = &b->rows[i];
        if (!strcmp(r->bench, bench) && !strcmp(r->subject, subject) && !strcmp(r->params, params) &&
            !strcmp(r->metric, metric))
            return r;
    }
    return NULL;
}

const struct bench_row *bench_find(const struct bench *b, const char *bench, const char *subject, const char *params,
                                   const char *metric)
{
    return find(b, bench, subject, params, metric);
}

/* The row of this name, made where there is none. */
static struct bench_row *row_of(struct bench *b, const char *bench, const char *subject, const char *params,
                                const char *metric, const char *unit)
{
    struct bench_row *r = find(b, bench, subject, params, metric);

    if (!r) {
        if (b->n_rows == b->cap_rows) {
            b->cap_rows = b->cap_rows ? 2 * b->cap_rows : 64;
            b->rows = must(realloc(b->rows, b->cap_rows * sizeof(*b->rows)));
        }
        r = &b->rows[b->n_rows++];
        r->bench = must(strdup(bench));
        r->subject = must(strdup(subject));
        r->params = must(strdup(params));
        r->metric = must(strdup(metric));
        r->unit = must(strdup(unit));
        r->rounds = 0;
        r->hist = NULL;
        for (int i = 0; i < BENCH_REPS_MAX; i++)
            r->value[i] = NAN;
    }
    return r;
}

void bench_record(struct bench *b, const char *bench, const char *subject, const char *params, const char *metric,
                  const char *unit, double value)
{
    if (b->round < 0) /* warming up */
        return;
    struct bench_row *r = row_of(b, bench, subject, params, metric, unit);
    r->value[b->round] = value;
    if (b->round >= r->rounds)
        r->rounds = b->round + 1;
}

void bench_record_latency(struct bench *b, const char *bench, const char *subject, const char *params,
                          const struct bench_hist *hist)
{
    static const struct {
        const char *metric;
        double q;
    } quantiles[] = {{"p50", 0.5}, {"p99", 0.99}, {"p99.9", 0.999}, {"p99.99", 0.9999}, {"max", 1}};

    if (b->round < 0)
        return;
    for (size_t i = 0; i < sizeof(quantiles) / sizeof(quantiles[0]); i++)
        bench_record(b, bench, subject, params, quantiles[i].metric, "ns",
                     bench_hist_quantile_ns(hist, quantiles[i].q));
    struct bench_row *r = row_of(b, bench, subject, params, "hist", "ns");
    if (!r->hist)
        r->hist = must(calloc(1, sizeof(*r->hist)));
    bench_hist_merge(r->hist, hist);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* The rounds that ran, sorted; returns how many. */
static int sorted(const struct bench_row *row, double *v)
{
    int n = 0;

    for (int i = 0; row && i < row->rounds; i++)
        if (!isnan(row->value[i]))
            v[n++] = row->value[i];
    qsort(v, (size_t)n, sizeof(*v), by_value);
    return n;
}

double bench_median(const struct bench_row *row)
{
    double v[BENCH_REPS_MAX];
    int n = sorted(row, v);

    return bench_median_of(v, n);
}

double bench_min(const struct bench_row *row)
{
    double v[BENCH_REPS_MAX];

    return sorted(row, v) ? v[0] : NAN;
}

double bench_max(const struct bench_row *row)
{
    double v[BENCH_REPS_MAX];
    int n = sorted(row, v);

    return n ? v[n - 1] : NAN;
}

/* Ratios of the rounds that both have. */
static int ratios(const struct bench_row *a, const struct bench_row *b, double *v)
{
    int n = 0;

    for (int i = 0; a && b && i < a->rounds && i < b->rounds; i++)
        if (!isnan(a->value[i]) && !isnan(b->value[i]) && b->value[i] > 0)
            v[n++] = a->value[i] / b->value[i];
    return n;
}

double bench_ratio(const struct bench_row *a, const struct bench_row *b)
{
    double v[BENCH_REPS_MAX];
    int n = ratios(a, b, v);

    return bench_median_of(v, n);
}

bool bench_interval(const struct bench_row *row, double *low, double *high)
{
    double v[BENCH_REPS_MAX];
    int n = sorted(row, v);

    return bench_sign_interval(v, n, low, high);
}

bool bench_ratio_interval(const struct bench_row *a, const struct bench_row *b, double *low, double *high)
{
    double v[BENCH_REPS_MAX];
    int n = ratios(a, b, v);

    qsort(v, (size_t)n, sizeof(*v), by_value);
    return bench_sign_interval(v, n, low, high);
}

double bench_slice_s(const struct bench *b, double suite_s, int cells, double most_s)
{
    double slice = (b->seconds > 0 ? b->seconds : suite_s) / (b->reps + b->warm_up) / (cells > 0 ? cells : 1);

    return b->duration > 0 ? b->duration : slice < most_s ? slice : most_s;
}

/* By round; null where it did not run. */
static void values_print(FILE *to, const struct bench_row *r)
{
    for (int i = 0; i < r->rounds; i++)
        if (isnan(r->value[i]))
            fprintf(to, "%snull", i ? "," : "");
        else
            fprintf(to, "%s%.6g", i ? "," : "", r->value[i]);
}

/* [lower end in ns, how many] of each bucket that is not empty. */
static void hist_print(const struct bench *b, const struct bench_row *r)
{
    const char *comma = "";

    fprintf(b->json,
            "{\"bench\":\"%s\",\"subject\":\"%s\",\"params\":%s,\"metric\":\"hist\",\"unit\":\"ns\",\"count\":%llu,"
            "\"max\":%.6g,\"buckets\":[",
            r->bench, r->subject, r->params, (unsigned long long)r->hist->count, ticks_ns((double)r->hist->max));
    for (uint32_t i = 0; i < BENCH_HIST_BUCKETS; i++)
        if (r->hist->bucket[i]) {
            fprintf(b->json, "%s[%.7g,%u]", comma, ticks_ns((double)bench_hist_lower(i)), r->hist->bucket[i]);
            comma = ",";
        }
    fprintf(b->json, "],\"host\":%s}\n", b->host_json);
}

static void rows_print(const struct bench *b)
{
    double v[BENCH_REPS_MAX];

    for (size_t i = 0; i < b->n_rows; i++) {
        const struct bench_row *r = &b->rows[i];
        if (r->hist) {
            hist_print(b, r);
            continue;
        }
        int n = sorted(r, v);
        if (n == 0)
            continue;
        fprintf(b->json,
                "{\"bench\":\"%s\",\"subject\":\"%s\",\"params\":%s,\"metric\":\"%s\",\"value\":%.6g,"
                "\"min\":%.6g,\"max\":%.6g,\"unit\":\"%s\",\"reps\":%d,\"values\":[",
                r->bench, r->subject, r->params, r->metric, bench_median(r), v[0], v[n - 1], r->unit, n);
        values_print(b->json, r);
        double low, high;
        fputs("],\"ci95\":", b->json);
        if (bench_sign_interval(v, n, &low, &high))
            fprintf(b->json, "[%.6g,%.6g]", low, high);
        else
            fputs("null", b->json);
        fprintf(b->json, ",\"host\":%s,\"noise\":", b->host_json);
        bench_noise_print(b, b->json);
        fputs("}\n", b->json);
    }
}

/* Takes back what is not final. False: it is no file of its own, so what was written stays. */
static bool json_take_back(struct bench *b)
{
    struct stat st;

    if (b->json == stdout || fflush(b->json) || fstat(fileno(b->json), &st) || !S_ISREG(st.st_mode))
        return false;
    return fseeko(b->json, b->json_from, SEEK_SET) == 0 && ftruncate(fileno(b->json), b->json_from) == 0;
}

void bench_json_checkpoint(struct bench *b)
{
    if (!b->json || !json_take_back(b))
        return;
    rows_print(b);
    fflush(b->json);
}

void bench_json_flush(struct bench *b)
{
    if (b->json) {
        json_take_back(b);
        rows_print(b);
        off_t at = ftello(b->json);
        b->json_from = at > 0 ? at : 0;
    }
    for (size_t i = 0; i < b->n_rows; i++) {
        struct bench_row *r = &b->rows[i];
        free(r->bench);
        free(r->subject);
        free(r->params);
        free(r->metric);
        free(r->unit);
        free(r->hist);
    }
    b->n_rows = 0;
}

/* ---- Tables ---- */
void bench_table_init(struct bench_table *t, int columns)
{
    memset(t, 0, sizeof(*t));
    t->columns = columns;
}

void bench_table_add(struct bench_table *t, const char *fmt, ...)
{
    va_list args;

    if (t->cells == t->cap) {
        t->cap = t->cap ? 2 * t->cap : 64;
        t->cell = must(realloc(t->cell, (size_t)t->cap * sizeof(*t->cell)));
    }
    va_start(args, fmt);
    if (vasprintf(&t->cell[t->cells], fmt, args) < 0)
        must(NULL);
    va_end(args);
    t->cells++;
}

void bench_table_num(struct bench_table *t, double value, int decimals)
{
    if (isnan(value))
        bench_table_add(t, "-");
    else
        bench_table_add(t, "%.*f", decimals, value);
}

void bench_table_interval(struct bench_table *t, const struct bench_row *row, int decimals)
{
    double low, high;

    if (row && bench_interval(row, &low, &high))
        bench_table_add(t, "[%.*f, %.*f]", decimals, low, decimals, high);
    else
        bench_table_add(t, "-");
}

void bench_table_print(struct bench_table *t, FILE *to)
{
    for (int i = 0; i < t->cells; i++) {
        int column = i % t->columns, width = 0;
        for (int k = column; k < t->cells; k += t->columns)
            if ((int)strlen(t->cell[k]) > width)
                width = (int)strlen(t->cell[k]);
        fprintf(to, column == 0 ? "  %-*s" : "  %*s", width, t->cell[i]);
        if (column == t->columns - 1)
            fputc('\n', to);
    }
    for (int i = 0; i < t->cells; i++)
        free(t->cell[i]);
    free(t->cell);
    memset(t, 0, sizeof(*t));
}

double bench_hist_quantile_ns(const struct bench_hist *h, double q)
{
    uint64_t want = (uint64_t)(q * (double)h->count), seen = 0;

    for (uint32_t i = 0; i < BENCH_HIST_BUCKETS - 1; i++) {
        if (h->bucket[i] && seen + h->bucket[i] > want) {
            /* Inside a bucket: by its share, so that the bucket's width does not show in ratios. */
            double part = (double)(want - seen) / (double)h->bucket[i];
            double from = (double)bench_hist_lower(i), to = (double)bench_hist_lower(i + 1);
            double ticks = from + part * (to - from);
            return ticks_ns(ticks > (double)h->max ? (double)h->max : ticks);
        }
        seen += h->bucket[i];
    }
    return h->count ? ticks_ns((double)h->max) : NAN;
}

void bench_hist_merge(struct bench_hist *to, const struct bench_hist *from)
{
    to->count += from->count;
    if (from->max > to->max)
        to->max = from->max;
    for (uint32_t i = 0; i < BENCH_HIST_BUCKETS; i++)
        to->bucket[i] += from->bucket[i];
}

void bench_table_names(struct bench_table *t, const char *const *names)
{
    for (; *names; names++)
        bench_table_add(t, "%s", *names);
}

void bench_table_show(struct bench_table *t, int heading_cells, FILE *to)
{
    if (t->cells > heading_cells) {
        bench_table_print(t, to);
        fputc('\n', to);
        return;
    }
    for (int i = 0; i < t->cells; i++)
        free(t->cell[i]);
    free(t->cell);
}
