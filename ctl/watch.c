/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vgpu-ctl watch: what changes, as it happens: VMs that come, go, attach, break or are given another pool, priority or
 * limit; pools whose executor goes down or comes back; vgpud itself. It compares one answer of list-vms and list-pools
 * with the next, so what changes twice within an interval is seen once.
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ctl/ask.h"
#include "ctl/local.h"
#include "ctl/table.h"
#include "ctl/terminal.h"

struct watch {
    struct vgpu_ctl_local *local;
    json_int_t vm_id;    /* only this VM; 0: all */
    uint64_t seen, most; /* changes; most 0: no bound */
    json_t *vms, *pools; /* the last answers, objects by id and name */
    bool away;           /* vgpud did not answer the last time */
};

static bool enough(const struct watch *w)
{
    return w->most && w->seen >= w->most;
}

static void value_text(const json_t *value, char out[VGPU_CTL_CELL_BYTES])
{
    vgpu_ctl_cell(value, VGPU_CTL_CELL_NUMBER, out);
}

/* One change, on a line of its own. `what` is a key of the object, or "registered", "removed", "gone", "back". */
static void say(struct watch *w, const char *kind, const json_t *id, const char *what, const json_t *old,
                const json_t *now)
{
    FILE *out = w->local->out;
    char stamp[32], a[VGPU_CTL_CELL_BYTES], b[VGPU_CTL_CELL_BYTES], name[VGPU_CTL_CELL_BYTES];
    struct timespec ts;
    struct tm tm;

    if (enough(w))
        return;
    w->seen++;
    clock_gettime(CLOCK_REALTIME, &ts);
    if (w->local->line->json) {
        size_t n = strftime(stamp, sizeof(stamp), "%Y-%m-%dT%H:%M:%S", gmtime_r(&ts.tv_sec, &tm));
        snprintf(stamp + n, sizeof(stamp) - n, ".%03ldZ", ts.tv_nsec / 1000000);
        json_t *line = json_pack("{s:s,s:s,s:O?,s:s,s:O?,s:O?}", "time", stamp, "object", kind, "id", id, "change",
                                 what, "old", old, "new", now);
        vgpu_ctl_emit(w->local, line);
        json_decref(line);
    } else {
        strftime(stamp, sizeof(stamp), "%H:%M:%S", localtime_r(&ts.tv_sec, &tm));
        value_text(id, name);
        fprintf(out, "%s  %s%s%s  %s", stamp, kind, id ? " " : "", id ? name : "", what);
        value_text(old, a);
        value_text(now, b);
        if (old)
            fprintf(out, ": %s -> %s", a, b);
        else if (now)
            fprintf(out, " in pool %s", b);
        fputc('\n', out);
    }
    fflush(out);
}

/* What a person or a script cares about; the rest of an answer is derived or moves all the time. */
static const char *const vm_keys[] = {"name",      "pool",         "priority",      "engine",       "state",
                                      "uid",       "uuid",         "in_flight",     "arena_bytes",  "pid",
                                      "isolation", "iommu_domain", "broken_reason", "device_bytes", "reason"};
static const char *const pool_keys[] = {"capacity",     "executor", "backend", "state",
                                        "executor_pid", "fault",    "sm_share"};

static void compare_one(struct watch *w, const char *kind, const json_t *id, const json_t *old, const json_t *now,
                        const char *const *keys, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const json_t *a = json_object_get(old, keys[i]), *b = json_object_get(now, keys[i]);
        if (a && b && !json_equal((json_t *)a, (json_t *)b))
            say(w, kind, id, keys[i], a, b);
    }
}

/* Two answers, both objects by id. */
static void compare(struct watch *w, const char *kind, const char *id_key, json_t *old, json_t *now,
                    const char *const *keys, size_t count, const char *come, const char *gone)
{
    const char *key;
    json_t *value;

    json_object_foreach(old, key, value) if (!json_object_get(now, key))
        say(w, kind, json_object_get(value, id_key), gone, NULL, NULL);
    json_object_foreach(now, key, value)
    {
        const json_t *id = json_object_get(value, id_key), *before = json_object_get(old, key);
        if (before)
            compare_one(w, kind, id, before, value, keys, count);
        else
            say(w, kind, id, come, NULL, json_object_get(value, "pool"));
    }
}

/* The list of an answer as an object by id, so that it can be looked up. */
static json_t *index_rows(const struct watch *w, const json_t *result, const char *list, const char *id_key)
{
    json_t *out = json_object(), *row;
    size_t i;

    json_array_foreach(json_object_get(result, list), i, row)
    {
        char key[VGPU_CTL_CELL_BYTES];
        json_t *id = json_object_get(row, id_key);
        if (w->vm_id && json_is_integer(id) && json_integer_value(id) != w->vm_id)
            continue;
        value_text(id, key);
        json_object_set(out, key, row);
    }
    return out;
}

/* One look. 0, or the exit code that no answer would give. */
static int look(struct watch *w, struct vgpu_err *err)
{
    json_t *vms = NULL, *pools = NULL;
    int code;

    if (vgpu_ctl_ask(w->local->line, "list-vms", NULL, &vms, &code, err) ||
        vgpu_ctl_ask(w->local->line, "list-pools", NULL, &pools, &code, err)) {
        json_decref(vms);
        return code;
    }
    json_t *vms_now = index_rows(w, vms, "vms", "vm_id"), *pools_now = index_rows(w, pools, "pools", "name");
    if (w->away)
        say(w, "vgpud", NULL, "answers again", NULL, NULL);
    w->away = false;
    if (w->vms) {
        compare(w, "VM", "vm_id", w->vms, vms_now, vm_keys, sizeof(vm_keys) / sizeof(vm_keys[0]), "registered",
                "removed");
        if (!w->vm_id)
            compare(w, "pool", "name", w->pools, pools_now, pool_keys, sizeof(pool_keys) / sizeof(pool_keys[0]),
                    "created", "removed");
    }
    json_decref(w->vms);
    json_decref(w->pools);
    w->vms = vms_now;
    w->pools = pools_now;
    json_decref(vms);
    json_decref(pools);
    return VGPU_CTL_OK;
}

static uint64_t argument(const json_t *args, const char *name, uint64_t otherwise)
{
    const json_t *v = json_object_get(args, name);
    return v ? (uint64_t)json_integer_value(v) : otherwise;
}

int vgpu_ctl_watch(struct vgpu_ctl_local *local, int argc, char **argv)
{
    const json_t *args = local->line->args;
    struct watch w = {
        .local = local, .vm_id = (json_int_t)argument(args, "vm_id", 0), .most = argument(args, "count", 0)};
    uint64_t interval_ms = argument(args, "interval_ms", 500), seconds = argument(args, "seconds", 0);
    struct vgpu_ctl_terminal terminal;
    struct vgpu_err err;
    time_t until = seconds ? time(NULL) + (time_t)seconds : 0;

    (void)argc;
    (void)argv;
    int code = look(&w, &err);
    if (code) /* nothing to compare with: most likely the wrong socket */
        return vgpu_ctl_complain(local, &err, code);
    if (local->line->json)
        fflush(local->out);
    else
        fprintf(local->errors, "watching %zu VMs and %zu pools\n", json_object_size(w.vms), json_object_size(w.pools));
    fflush(local->errors);
    vgpu_ctl_terminal_open(&terminal, local->out, false);
    while (!enough(&w) && !(until && time(NULL) >= until) && vgpu_ctl_terminal_wait(&terminal, interval_ms) >= 0)
        if (look(&w, &err) && !w.away) {
            w.away = true;
            say(&w, "vgpud", NULL, "does not answer", NULL, NULL);
        }
    vgpu_ctl_terminal_close(&terminal);
    json_decref(w.vms);
    json_decref(w.pools);
    return VGPU_CTL_OK;
}
