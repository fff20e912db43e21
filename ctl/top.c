/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vgpu-ctl top: rates, queues and latencies, drawn again at each interval. Two answers of `stats` make a frame:
 * counters are cumulative, so what was done in between is their difference, over the time that really passed.
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ctl/ask.h"
#include "ctl/local.h"
#include "ctl/table.h"
#include "ctl/terminal.h"

enum sort { SORT_RATE, SORT_QUEUE, SORT_P99, SORT_ID, SORT_COUNT };
static const char *const sort_names[SORT_COUNT] = {"rate", "queue", "p99", "vm-id"};

struct top {
    struct vgpu_ctl_local *local;
    struct vgpu_ctl_terminal terminal;
    const char *pool; /* only its VMs; NULL: all */
    uint64_t interval_ms;
    enum sort sort;
    json_t *before; /* the last answer of stats, at before_ns */
    uint64_t before_ns;
    struct vgpu_err error; /* why there is no new one */
    bool failed;
};

static uint64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static json_int_t number(const json_t *row, const char *key)
{
    return json_integer_value(json_object_get(row, key));
}

/* The VM's row in an answer of stats, or NULL. */
static const json_t *vm_find(const json_t *stats, json_int_t vm_id)
{
    size_t i;
    const json_t *vm;

    json_array_foreach(json_object_get(stats, "vms"), i, vm) if (number(vm, "vm_id") == vm_id) return vm;
    return NULL;
}

/* What a counter grew by in a second; a counter that fell belongs to a daemon that was started again. */
static json_int_t rate(const json_t *before, const json_t *now, const char *key, double seconds)
{
    json_int_t a = number(before, key), b = number(now, key);

    if (!before || b < a)
        a = 0;
    return (json_int_t)((double)(b - a) / seconds + 0.5);
}

static double sort_key(const json_t *row, enum sort sort)
{
    return sort == SORT_ID      ? -(double)number(row, "vm_id")
           : sort == SORT_QUEUE ? (double)number(row, "queue_depth")
           : sort == SORT_P99   ? json_number_value(vgpu_ctl_lookup(row, "latency.p99_us"))
                                : (double)number(row, "completed_per_s");
}

static enum sort sort_now;
static int compare(const void *a, const void *b)
{
    const json_t *x = *(json_t *const *)a, *y = *(json_t *const *)b;
    double kx = sort_key(x, sort_now), ky = sort_key(y, sort_now);

    if (kx != ky)
        return kx < ky ? 1 : -1;
    return number(x, "vm_id") < number(y, "vm_id") ? -1 : 1;
}

static void sort_rows(json_t *rows, enum sort sort)
{
    size_t n = json_array_size(rows), i;
    json_t **copy = calloc(n ? n : 1, sizeof(*copy));
    json_t *row;

    if (!copy)
        return;
    json_array_foreach(rows, i, row) copy[i] = json_incref(row);
    sort_now = sort;
    qsort(copy, n, sizeof(*copy), compare);
    for (i = 0; i < n; i++)
        json_array_set_new(rows, i, copy[i]);
    free(copy);
}

/* One frame from two answers: {"interval_ms","total_per_s","vms":[{...,"completed_per_s","bytes_per_s"}]}. */
static json_t *frame_make(const struct top *t, const json_t *now, double seconds)
{
    json_t *rows = json_array();
    json_int_t total = 0, bytes = 0, attached = 0;
    size_t i;
    json_t *vm;

    json_array_foreach(json_object_get(now, "vms"), i, vm)
    {
        const json_t *old = vm_find(t->before, number(vm, "vm_id"));
        const char *pool = json_string_value(json_object_get(vm, "pool"));
        if (t->pool && (!pool || strcmp(pool, t->pool)))
            continue;
        json_t *row =
            json_pack("{s:O?,s:O?,s:O?,s:O?,s:I,s:I,s:I,s:O?,s:O?,s:O?}", "vm_id", json_object_get(vm, "vm_id"), "pool",
                      json_object_get(vm, "pool"), "priority", json_object_get(vm, "priority"), "attached",
                      json_object_get(vm, "attached"), "completed_per_s", rate(old, vm, "completed", seconds),
                      "bytes_per_s", rate(old, vm, "bytes", seconds), "refused_per_s",
                      rate(old, vm, "refused", seconds), "queue_depth", json_object_get(vm, "queue_depth"),
                      "outstanding", json_object_get(vm, "outstanding"), "latency", json_object_get(vm, "latency"));
        if (!row)
            continue;
        total += number(row, "completed_per_s");
        bytes += number(row, "bytes_per_s");
        attached += json_is_true(json_object_get(row, "attached"));
        json_array_append_new(rows, row);
    }
    sort_rows(rows, t->sort);
    return json_pack("{s:I,s:I,s:I,s:I,s:O?,s:O?,s:o}", "interval_ms", (json_int_t)(seconds * 1000 + 0.5),
                     "completed_per_s", total, "bytes_per_s", bytes, "attached", attached, "uptime_s",
                     json_object_get(json_object_get(now, "daemon"), "uptime_s"), "pools",
                     json_object_get(now, "pools"), "vms", rows);
}

/* A line for each pool: what waits and what runs, by priority. */
static void print_pools(FILE *out, const json_t *pools)
{
    static const char *const priorities[] = {"high", "medium", "low"};
    char name[VGPU_CTL_CELL_BYTES];
    size_t i;
    const json_t *pool;

    json_array_foreach((json_t *)pools, i, pool)
    {
        vgpu_ctl_cell(json_object_get(pool, "name"), VGPU_CTL_CELL_TEXT, name);
        fprintf(out, "pool %-8s", name);
        for (int p = 0; p < 3; p++) {
            const json_t *at = json_object_get(json_object_get(pool, "priorities"), priorities[p]);
            fprintf(out, "  %s: %" JSON_INTEGER_FORMAT " queued, %" JSON_INTEGER_FORMAT " in flight", priorities[p],
                    number(at, "queue_depth"), number(at, "in_flight"));
        }
        fputc('\n', out);
    }
}

static char *frame_text(const struct top *t, const json_t *frame)
{
    static const struct vgpu_ctl_column columns[] = {
        {"VM", "vm_id", VGPU_CTL_CELL_NUMBER},
        {"POOL", "pool", VGPU_CTL_CELL_TEXT},
        {"PRIORITY", "priority", VGPU_CTL_CELL_TEXT},
        {"ATTACHED", "attached", VGPU_CTL_CELL_TEXT},
        {"DONE/s", "completed_per_s", VGPU_CTL_CELL_NUMBER},
        {"BYTES/s", "bytes_per_s", VGPU_CTL_CELL_SIZE},
        {"REFUSED/s", "refused_per_s", VGPU_CTL_CELL_NUMBER},
        {"QUEUED", "queue_depth", VGPU_CTL_CELL_NUMBER},
        {"OUTSTANDING", "outstanding", VGPU_CTL_CELL_NUMBER},
        {"P50 us", "latency.p50_us", VGPU_CTL_CELL_MICROS},
        {"P99 us", "latency.p99_us", VGPU_CTL_CELL_MICROS},
        {"MAX us", "latency.max_us", VGPU_CTL_CELL_MICROS},
    };
    char *text = NULL, clock[16], rate_text[VGPU_CTL_CELL_BYTES];
    size_t bytes;
    time_t now = time(NULL);
    struct tm tm;
    FILE *out = open_memstream(&text, &bytes);

    if (!out)
        return NULL;
    strftime(clock, sizeof(clock), "%H:%M:%S", localtime_r(&now, &tm));
    vgpu_ctl_cell(json_object_get(frame, "bytes_per_s"), VGPU_CTL_CELL_SIZE, rate_text);
    fprintf(out,
            "vgpu-ctl top  %s  up %.0f s  %" JSON_INTEGER_FORMAT " of %zu VMs attached  %" JSON_INTEGER_FORMAT
            " done/s  %sB/s\n",
            clock, json_number_value(json_object_get(frame, "uptime_s")), number(frame, "attached"),
            json_array_size(json_object_get(frame, "vms")), number(frame, "completed_per_s"), rate_text);
    print_pools(out, json_object_get(frame, "pools"));
    fputc('\n', out);
    VGPU_CTL_TABLE(out, json_object_get(frame, "vms"), columns, t->local->color);
    if (t->terminal.live)
        fprintf(out, "\nq quits, space draws now, s sorts (%s)\n", sort_names[t->sort]);
    else
        fputc('\n', out);
    if (fclose(out)) {
        free(text);
        return NULL;
    }
    return text;
}

/* Asks for stats; the first answer only starts the difference. 0, or the exit code that a failure would give. */
static int sample(struct top *t, json_t **frame)
{
    json_t *now = NULL;
    int exit_code;

    *frame = NULL;
    t->failed = vgpu_ctl_ask(t->local->line, "stats", NULL, &now, &exit_code, &t->error) != 0;
    if (t->failed)
        return exit_code;
    uint64_t at_ns = now_ns();
    if (t->before)
        *frame = frame_make(t, now, (double)(at_ns - t->before_ns + 1) / 1e9);
    json_decref(t->before);
    t->before = now;
    t->before_ns = at_ns;
    return VGPU_CTL_OK;
}

static void show(struct top *t, const json_t *frame)
{
    if (t->local->line->json) {
        vgpu_ctl_emit(t->local, frame);
        fflush(t->local->out);
        return;
    }
    char *text = frame_text(t, frame);
    if (text)
        vgpu_ctl_terminal_draw(&t->terminal, text);
    free(text);
}

/* On a live screen a daemon that went away may come back. */
static void show_failure(struct top *t)
{
    char text[sizeof(t->error.text) + 64], line[sizeof(t->error.text)];

    vgpu_ctl_clean(t->error.text, line, sizeof(line));
    snprintf(text, sizeof(text), "%s\n\nq quits; tries again\n", line);
    vgpu_ctl_terminal_draw(&t->terminal, text);
}

static int run_frames(struct top *t, uint64_t frames)
{
    for (uint64_t shown = 0;;) {
        json_t *frame;
        int code = sample(t, &frame), key;
        if (code && !t->terminal.live)
            return vgpu_ctl_complain(t->local, &t->error, code);
        if (code)
            show_failure(t);
        if (frame)
            show(t, frame);
        shown += frame != NULL;
        json_decref(frame);
        if (frames && shown >= frames)
            return VGPU_CTL_OK;
        /* The first screen soon: it needs two samples. */
        key = vgpu_ctl_terminal_wait(&t->terminal, shown || frames == 1 || t->interval_ms < 200 ? t->interval_ms : 200);
        if (key < 0 || key == 'q' || key == 'Q')
            return VGPU_CTL_OK;
        if (key == 's')
            t->sort = (t->sort + 1) % SORT_COUNT;
    }
}

/* A pool that is not there has no VMs, which looks like one that is idle: better said at once. 0, or the exit code. */
static int pool_check(struct vgpu_ctl_local *local, const char *pool)
{
    json_t *args = json_pack("{s:s}", "pool", pool), *result = NULL;
    struct vgpu_err err;
    int code = VGPU_CTL_OK;

    if (vgpu_ctl_ask(local->line, "show-pool", args, &result, &code, &err))
        vgpu_ctl_complain(local, &err, code);
    json_decref(args);
    json_decref(result);
    return code;
}

int vgpu_ctl_top(struct vgpu_ctl_local *local, int argc, char **argv)
{
    const json_t *args = local->line->args;
    const json_t *interval = json_object_get(args, "interval_ms"), *count = json_object_get(args, "count");
    struct top t = {.local = local,
                    .pool = json_string_value(json_object_get(args, "pool")),
                    .interval_ms = interval ? (uint64_t)json_integer_value(interval) : 1000};
    uint64_t frames = json_object_get(args, "once") ? 1 : count ? (uint64_t)json_integer_value(count) : 0;

    (void)argc;
    (void)argv;
    int code = t.pool ? pool_check(local, t.pool) : VGPU_CTL_OK;
    if (code)
        return code;
    vgpu_ctl_terminal_open(&t.terminal, local->out, !local->line->json && frames == 0);
    code = run_frames(&t, frames);
    vgpu_ctl_terminal_close(&t.terminal);
    json_decref(t.before);
    return code;
}
