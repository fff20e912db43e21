/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/transport/transport.h"

#include <math.h>
#include <string.h>

#define SUBJECTS_MAX 64

const char *transport_params(char *text, uint32_t slots, uint32_t payload, uint32_t burst)
{
    if (burst)
        snprintf(text, TRANSPORT_PARAMS_BYTES, "{\"slots\":%u,\"burst\":%u}", slots, burst);
    else if (payload)
        snprintf(text, TRANSPORT_PARAMS_BYTES, "{\"slots\":%u,\"bytes\":%u}", slots, payload);
    else
        snprintf(text, TRANSPORT_PARAMS_BYTES, "{\"slots\":%u}", slots);
    return text;
}

/* Rows of one measurement and metric, as they were recorded. */
static int rows_of(const struct bench *b, const char *bench, const char *metric, const struct bench_row *out[SUBJECTS_MAX])
{
    int n = 0;

    for (size_t i = 0; i < b->n_rows && n < SUBJECTS_MAX; i++)
        if (!strcmp(b->rows[i].bench, bench) && !strcmp(b->rows[i].metric, metric))
            out[n++] = &b->rows[i];
    return n;
}

static void latency_table(const struct bench *b, const char *bench, const char *title, const char *against)
{
    static const char *const tail[] = {"p99", "p99.9", "p99.99", "max"};
    const struct bench_row *rows[SUBJECTS_MAX];
    int n = rows_of(b, bench, "p50", rows);
    struct bench_table t;
    char heading[48];

    snprintf(heading, sizeof(heading), "x %s", against);
    bench_table_init(&t, 9);
    bench_table_names(&t, (const char *const[]){title, "", "p50 ns", "95 %", "p99", "p99.9", "p99.99", "max", heading, NULL});
    int none = t.cells;
    for (int i = 0; i < n; i++) {
        const struct bench_row *r = rows[i];
        const char *bytes = strstr(r->params, "\"bytes\":");
        bench_table_add(&t, "%s", r->subject);
        bench_table_add(&t, "%.*s%s", bytes ? (int)strcspn(bytes + 8, "}") : 0, bytes ? bytes + 8 : "", bytes ? " bytes" : "");
        bench_table_num(&t, bench_median(r), 0);
        bench_table_interval(&t, r, 0);
        for (size_t k = 0; k < sizeof(tail) / sizeof(tail[0]); k++)
            bench_table_num(&t, bench_median(bench_find(b, bench, r->subject, r->params, tail[k])), 0);
        bench_table_num(&t, bench_ratio(r, bench_find(b, bench, against, r->params, "p50")), 2);
    }
    bench_table_show(&t, none, b->text);
}

static void stream_table(const struct bench *b)
{
    const struct bench_row *rows[SUBJECTS_MAX];
    int n = rows_of(b, "transport.stream", "rate", rows);
    struct bench_table t;

    bench_table_init(&t, 6);
    bench_table_names(&t, (const char *const[]){"stream", "burst", "M/s", "95 %", "mean", "x vgpu+arena", NULL});
    int none = t.cells;
    for (int i = 0; i < n; i++) {
        const struct bench_row *r = rows[i];
        const char *burst = strstr(r->params, "\"burst\":");
        bench_table_add(&t, "%s", r->subject);
        bench_table_add(&t, "%.*s", burst ? (int)strcspn(burst + 8, "}") : 0, burst ? burst + 8 : "");
        bench_table_num(&t, bench_median(r), 2);
        bench_table_interval(&t, r, 2);
        bench_table_num(&t, bench_median(bench_find(b, "transport.stream", r->subject, r->params, "mean")), 2);
        bench_table_num(&t, bench_ratio(r, bench_find(b, "transport.stream", "vgpu+arena", r->params, "rate")), 3);
    }
    bench_table_show(&t, none, b->text);
}

/* No goal names these peers; how far they are from the rings is what one reads here. */
static void ratios(struct bench *b, uint32_t slots)
{
    static const char *const kernel[] = {"eventfd", "pipe", "unix-seqpacket", "unix-stream", "io_uring-unix", "io_uring-msg"};
    char params[TRANSPORT_PARAMS_BYTES];
    struct bench_goals g;

    transport_params(params, slots, 0, 0);
    bench_goals_begin(&g, b, "transport", false, false);
    for (size_t i = 0; i < sizeof(kernel) / sizeof(kernel[0]); i++)
        bench_goal(&g, "vgpud, libvgpu and back, p50", kernel[i], true, (double)NAN,
                   bench_find(b, "transport.rtt", "vgpud", params, "p50"),
                   bench_find(b, "transport.rtt", kernel[i], params, "p50"));
    bench_goals_end(&g, "no goal names these peers");
}

void transport_report(struct bench *b, uint32_t slots)
{
    latency_table(b, "transport.rtt", "round trip, one in flight", "vgpu");
    stream_table(b);
    latency_table(b, "transport.payload", "payload there, a message back", "vgpu+arena");
    ratios(b, slots);
}
