/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The trace event format of Chrome, in its JSON object form. One process per component, so that a viewer groups them:
 *
 *   VM ID       nestable async events ("b", "e"), one per descriptor with one per span inside: they overlap freely
 *   vgpud       a thread per poll core: "X" while it works on a descriptor
 *   vgpu-exec   "X" while it hands one on, and an instant where it completes one
 *   device      "X" while one runs; as many threads as run at the same time
 *
 * and flow arrows ("s", "t", "f") along a descriptor through the latter three. Times are microseconds since the first.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>

#include "rings/opcode.h"
#include "trace/trace.h"

enum { PID_VGPUD = 1000001, PID_EXEC = 1000002, PID_DEVICE = 1000003 }; /* a guest's is its VM's id */
#define DEVICE_LANES 64u
#define POLL_CORES   256u

struct writer {
    FILE *to;
    const char *comma;
    uint64_t base; /* ticks */
    double us_per_tick;
    uint64_t poll_last[POLL_CORES]; /* when each was last at work: bursts are validated one after the other */
    uint64_t exec_last, lane_last[DEVICE_LANES];
    uint32_t lanes;
    bool poll_named[POLL_CORES];
};

static const char *opcode_name(uint8_t opcode)
{
    const struct vgpu_opcode_info *info = vgpu_opcode_info(opcode);

    return info ? info->name : "unknown";
}

static double us(const struct writer *w, uint64_t ticks)
{
    return (double)(ticks - w->base) * w->us_per_tick;
}

static void begin(struct writer *w, const char *ph, uint32_t pid, uint32_t tid)
{
    fprintf(w->to, "%s{\"ph\":\"%s\",\"pid\":%u,\"tid\":%u", w->comma, ph, pid, tid);
    w->comma = ",\n";
}

static void name_process(struct writer *w, uint32_t pid, const char *format, ...) __attribute__((format(printf, 3, 4)));
static void name_process(struct writer *w, uint32_t pid, const char *format, ...)
{
    va_list args;

    begin(w, "M", pid, 0);
    fprintf(w->to, ",\"name\":\"process_name\",\"args\":{\"name\":\"");
    va_start(args, format);
    vfprintf(w->to, format, args);
    va_end(args);
    fprintf(w->to, "\"}}");
}

static void name_thread(struct writer *w, uint32_t pid, uint32_t tid, const char *what, uint32_t number)
{
    begin(w, "M", pid, tid);
    fprintf(w->to, ",\"name\":\"thread_name\",\"args\":{\"name\":\"%s %u\"}}", what, number);
}

static void complete(struct writer *w, uint32_t pid, uint32_t tid, const char *cat, const struct vgpu_trace_life *l,
                     uint64_t from, uint64_t until)
{
    begin(w, "X", pid, tid);
    fprintf(w->to, ",\"cat\":\"%s\",\"name\":\"%s\",\"ts\":%.3f,\"dur\":%.3f", cat, opcode_name(l->opcode), us(w, from),
            (double)(until - from) * w->us_per_tick);
    fprintf(w->to, ",\"args\":{\"vm_id\":%u,\"position\":\"%llu\",\"status\":\"%s\"}}", l->vm_id,
            (unsigned long long)l->position, vgpu_status_name(l->status));
}

/* Bound to the slice around it. */
static void flow(struct writer *w, const char *ph, uint32_t pid, uint32_t tid, const struct vgpu_trace_life *l, uint64_t at)
{
    begin(w, ph, pid, tid);
    fprintf(w->to, ",\"cat\":\"flow\",\"name\":\"descriptor\",\"id\":\"%u.%llu\",\"ts\":%.3f%s}", l->vm_id,
            (unsigned long long)l->position, us(w, at), *ph == 'f' ? ",\"bp\":\"e\"" : "");
}

static void span(struct writer *w, const char *ph, const struct vgpu_trace_life *l, const char *name, uint64_t at)
{
    begin(w, ph, l->vm_id, 1);
    fprintf(w->to, ",\"cat\":\"descriptor\",\"id\":\"%u.%llu\",\"name\":\"%s\",\"ts\":%.3f", l->vm_id,
            (unsigned long long)l->position, name, us(w, at));
}

static void life_spans(struct writer *w, const struct vgpu_trace_life *l)
{
    uint64_t first = 0, last = 0;
    uint32_t last_hop = 0;

    for (uint32_t h = 0; h < VGPU_HOP_COUNT; h++)
        if (l->at[h] && (!first || l->at[h] < first))
            first = l->at[h];
    span(w, "b", l, opcode_name(l->opcode), first);
    fprintf(w->to, ",\"args\":{\"position\":\"%llu\",\"status\":\"%s\"}}", (unsigned long long)l->position,
            vgpu_status_name(l->status));
    for (uint32_t h = 0; h < VGPU_HOP_COUNT; h++) {
        if (!l->at[h])
            continue;
        uint64_t at = l->at[h] > last ? l->at[h] : last; /* clocks of cores that are not quite together */
        if (last) {
            const char *name = last_hop + 1 == h ? vgpu_hop_spans[h] : vgpu_hop_names[h];
            span(w, "b", l, name, last);
            fputs("}", w->to);
            span(w, "e", l, name, at);
            fputs("}", w->to);
        }
        last = at;
        last_hop = h;
    }
    span(w, "e", l, opcode_name(l->opcode), last);
    fputs("}", w->to);
}

/* The first lane that is free by then; when all are busy the last one is shared, from when it is free. */
static uint32_t lane_of(struct writer *w, uint64_t *from)
{
    for (uint32_t i = 0; i < DEVICE_LANES; i++)
        if (w->lane_last[i] <= *from) {
            if (i >= w->lanes) {
                name_thread(w, PID_DEVICE, i + 1, "running at the same time:", i + 1);
                w->lanes = i + 1;
            }
            return i;
        }
    *from = w->lane_last[DEVICE_LANES - 1];
    return DEVICE_LANES - 1;
}

/* Work of a thread: from when it had finished with the one before, if that was later. */
static void life_validate(struct writer *w, const struct vgpu_trace_life *l)
{
    uint32_t core = l->poll_core % POLL_CORES;
    uint64_t from = l->at[VGPU_HOP_SEEN], until = l->at[VGPU_HOP_VALIDATED];

    if (!from || !until)
        return;
    from = from > w->poll_last[core] ? from : w->poll_last[core];
    until = until > from ? until : from;
    if (!w->poll_named[core])
        name_thread(w, PID_VGPUD, core + 1, "poll core", core);
    w->poll_named[core] = true;
    complete(w, PID_VGPUD, core + 1, "validate", l, from, until);
    if (l->at[VGPU_HOP_DEQUEUED])
        flow(w, "s", PID_VGPUD, core + 1, l, from);
    w->poll_last[core] = until;
}

static void life_submit(struct writer *w, const struct vgpu_trace_life *l)
{
    uint64_t from = l->at[VGPU_HOP_DEQUEUED], until = l->at[VGPU_HOP_SUBMITTED];

    if (!from || !until)
        return;
    from = from > w->exec_last ? from : w->exec_last;
    until = until > from ? until : from;
    complete(w, PID_EXEC, 1, "submit", l, from, until);
    if (l->at[VGPU_HOP_SEEN])
        flow(w, l->at[VGPU_HOP_DEVICE_START] && l->at[VGPU_HOP_DEVICE_END] ? "t" : "f", PID_EXEC, 1, l, from);
    w->exec_last = until;
}

static void life_completed(struct writer *w, const struct vgpu_trace_life *l)
{
    if (!l->at[VGPU_HOP_COMPLETED])
        return;
    begin(w, "i", PID_EXEC, 1);
    fprintf(w->to, ",\"s\":\"t\",\"cat\":\"complete\",\"name\":\"%s completed\",\"ts\":%.3f}", opcode_name(l->opcode),
            us(w, l->at[VGPU_HOP_COMPLETED]));
}

static void life_device(struct writer *w, const struct vgpu_trace_life *l)
{
    uint64_t from = l->at[VGPU_HOP_DEVICE_START], until = l->at[VGPU_HOP_DEVICE_END];

    if (!from || !until)
        return;
    uint32_t lane = lane_of(w, &from);
    until = until > from ? until : from;
    complete(w, PID_DEVICE, lane + 1, l->device == VGPU_TRACE_DEVICE_MAPPED ? "run (mapped clock)" : "run", l, from, until);
    if (l->at[VGPU_HOP_SEEN] && l->at[VGPU_HOP_DEQUEUED])
        flow(w, "f", PID_DEVICE, lane + 1, l, from);
    w->lane_last[lane] = until;
}

struct keyed {
    uint64_t key;
    const struct vgpu_trace_life *life;
};

static int by_key(const void *a, const void *b)
{
    const struct keyed *x = a, *y = b;

    if (x->key != y->key)
        return x->key < y->key ? -1 : 1;
    return x->life < y->life ? -1 : x->life > y->life;
}

/* Each component's work in its own order: descriptors overtake each other on the way. */
static void in_order(struct writer *w, struct keyed *k, const struct vgpu_trace_life *lives, size_t count, enum vgpu_hop hop,
                     void (*each)(struct writer *w, const struct vgpu_trace_life *l))
{
    for (size_t i = 0; i < count; i++)
        k[i] = (struct keyed){lives[i].at[hop], &lives[i]};
    qsort(k, count, sizeof(*k), by_key);
    for (size_t i = 0; i < count; i++)
        each(w, k[i].life);
}

static void guests_name(struct writer *w, const struct vgpu_trace_life *lives, size_t count)
{
    uint32_t last = 0;

    for (size_t i = 0; i < count; i++) {
        bool known = lives[i].vm_id == last;
        for (size_t j = 0; j < i && !known; j++)
            known = lives[j].vm_id == lives[i].vm_id;
        last = lives[i].vm_id;
        if (known)
            continue;
        name_process(w, last, "VM %u: descriptors", last);
        name_thread(w, last, 1, "VM", last);
    }
}

int vgpu_trace_chrome(FILE *to, const struct vgpu_trace_life *lives, size_t count, uint64_t ticks_hz, const char *backend)
{
    struct writer w = {.to = to, .comma = "", .base = UINT64_MAX, .us_per_tick = 1e6 / (double)ticks_hz};
    struct keyed *k = malloc((count ? count : 1) * sizeof(*k));

    if (!k)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++)
        for (uint32_t h = 0; h < VGPU_HOP_COUNT; h++)
            if (lives[i].at[h] && lives[i].at[h] < w.base)
                w.base = lives[i].at[h];
    fprintf(to, "{\"displayTimeUnit\":\"ns\",\"otherData\":{\"producer\":\"vgpu %s\"},\"traceEvents\":[\n", VGPU_VERSION);
    name_process(&w, PID_VGPUD, "vgpud");
    name_process(&w, PID_EXEC, "vgpu-exec");
    name_thread(&w, PID_EXEC, 1, "loop", 0);
    name_process(&w, PID_DEVICE, "device%s%s", backend ? ": " : "", backend ? backend : "");
    guests_name(&w, lives, count);
    for (size_t i = 0; i < count; i++)
        life_spans(&w, &lives[i]);
    in_order(&w, k, lives, count, VGPU_HOP_SEEN, life_validate);
    in_order(&w, k, lives, count, VGPU_HOP_DEQUEUED, life_submit);
    in_order(&w, k, lives, count, VGPU_HOP_COMPLETED, life_completed);
    in_order(&w, k, lives, count, VGPU_HOP_DEVICE_START, life_device);
    fprintf(to, "\n]}\n");
    free(k);
    return ferror(to) ? -EIO : 0;
}
