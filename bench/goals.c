/* SPDX-License-Identifier: Apache-2.0 */
/* Goals: a row of a run held against another row of it, or against a number; a table for people, rows for programs. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench/harness.h"

void bench_goals_begin(struct bench_goals *g, struct bench *b, const char *suite, bool judge, bool show_missing)
{
    *g = (struct bench_goals){.b = b, .suite = suite, .judge = judge, .show_missing = show_missing};
    bench_table_init(&g->table, 5);
    bench_table_names(&g->table, (const char *const[]){"goal", "against", "bound", "reached", "", NULL});
}

/* Rows of SUITE.goal hold each round's ratio (or value); their parameters the bound and the words. */
static void record(struct bench_goals *g, const char *what, const char *against, bool at_most, double bound,
                   const struct bench_row *ours, const struct bench_row *other, bool judged)
{
    char name[48], params[256], limit[48];
    struct bench *b = g->b;
    int round = b->round;

    snprintf(name, sizeof(name), "%s.goal", g->suite);
    snprintf(limit, sizeof(limit), isnan(bound) ? "null" : "%g", bound);
    snprintf(params, sizeof(params), "{\"against\":\"%s\",\"%s\":%s,\"judged\":%s}", against,
             at_most ? "at_most" : "at_least", limit, judged ? "true" : "false");
    for (b->round = 0; b->round < ours->rounds && (!other || b->round < other->rounds); b->round++) {
        double value = ours->value[b->round];
        if (other && !(other->value[b->round] > 0))
            continue;
        bench_record(b, name, what, params, other ? "ratio" : "value", other ? "" : ours->unit,
                     other ? value / other->value[b->round] : value);
    }
    b->round = round;
}

void bench_goal(struct bench_goals *g, const char *what, const char *against, bool at_most, double bound,
                const struct bench_row *ours, const struct bench_row *other)
{
    bool ratio = against[0] != '\0';
    double reached = ratio ? bench_ratio(ours, other) : bench_median(ours);
    bool judged = g->judge && !isnan(bound) && !isnan(reached);

    if (isnan(reached) && !g->show_missing)
        return;
    bool met = judged && (at_most ? reached <= bound : reached >= bound);
    bench_table_add(&g->table, "%s", what);
    bench_table_add(&g->table, "%s", against);
    if (isnan(bound))
        bench_table_add(&g->table, "-");
    else
        bench_table_add(&g->table, "%s %g", at_most ? "<=" : ">=", bound);
    if (isnan(reached))
        bench_table_add(&g->table, "-");
    else
        bench_table_add(&g->table, reached < 10 ? "%.3f" : reached < 100 ? "%.1f" : "%.0f", reached);
    bench_table_add(&g->table, isnan(reached) ? "not measured" : !judged ? "not judged" : met ? "met" : "MISSED");
    g->judged += judged;
    g->met += met;
    if (isnan(reached))
        return;
    /* Copies: rows that are added may move the others. */
    struct bench_row first = *ours, second = ratio ? *other : first;
    record(g, what, against, at_most, bound, &first, ratio ? &second : NULL, judged);
}

void bench_goals_end(struct bench_goals *g, const char *note)
{
    FILE *to = g->b->text;

    if (g->table.cells == g->table.columns) /* nothing that a goal is about */
        fprintf(to, "  (no goal's two sides were measured)\n");
    bench_table_print(&g->table, to);
    fprintf(to, "  %d of %d judged goals met (%s)\n", g->met, g->judged, note);
}
