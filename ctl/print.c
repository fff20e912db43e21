/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/print.h"

#include <stdlib.h>
#include <string.h>

#include "ctl/table.h"

/* Sentences about a row, too long for its table. */
static const char *const notes[][2] = {
    {"device", "device: "},
    {"fallback", "backend auto fell back: "},
    {"fault", "fault: "},
    {"last_fault", "last fault: "},
};
#define NOTE_COUNT (sizeof(notes) / sizeof(notes[0]))

static bool is_note(const char *key)
{
    for (size_t i = 0; i < NOTE_COUNT; i++)
        if (!strcmp(key, notes[i][0]))
            return true;
    return false;
}

static void print_notes(FILE *out, const json_t *rows)
{
    size_t i;
    const json_t *row;
    char name[VGPU_CTL_CELL_BYTES], text[512];

    json_array_foreach((json_t *)rows, i, row) for (size_t n = 0; n < NOTE_COUNT; n++)
    {
        const char *said = json_string_value(json_object_get(row, notes[n][0]));
        if (!said || !said[0])
            continue;
        vgpu_ctl_cell(json_object_get(row, "name"), VGPU_CTL_CELL_TEXT, name);
        vgpu_ctl_clean(said, text, sizeof(text));
        fprintf(out, "%s: %s%s\n", name, notes[n][1], text);
    }
}

/* A table of objects whose keys we do not know: the first one's plain values are the columns. */
static void print_unknown(FILE *out, const char *title, const json_t *rows, bool color)
{
    struct vgpu_ctl_column columns[VGPU_CTL_COLUMNS_MAX];
    char titles[VGPU_CTL_COLUMNS_MAX][40];
    int count = 0;
    const char *key;
    json_t *value;

    if (!json_array_size(rows))
        return;
    json_object_foreach(json_array_get(rows, 0), key, value)
    {
        if (count == VGPU_CTL_COLUMNS_MAX || json_is_object(value) || json_is_array(value) || strchr(key, '.') ||
            is_note(key))
            continue;
        vgpu_ctl_clean(key, titles[count], sizeof(titles[count]));
        columns[count] = (struct vgpu_ctl_column){titles[count], key,
                                                  json_is_string(value) ? VGPU_CTL_CELL_TEXT : VGPU_CTL_CELL_NUMBER};
        count++;
    }
    fprintf(out, "\n%s\n", title);
    if (count)
        vgpu_ctl_table(out, rows, columns, count, color);
    print_notes(out, rows);
}

/* One row for each pool and priority. */
static void print_pool_stats(FILE *out, const json_t *pools, bool color)
{
    static const char *const priorities[] = {"high", "medium", "low"};
    static const struct vgpu_ctl_column columns[] = {
        {"POOL", "pool", VGPU_CTL_CELL_TEXT},
        {"PRIORITY", "priority", VGPU_CTL_CELL_TEXT},
        {"QUEUED", "queue_depth", VGPU_CTL_CELL_NUMBER},
        {"IN-FLIGHT", "in_flight", VGPU_CTL_CELL_NUMBER},
        {"COMPLETED", "completed", VGPU_CTL_CELL_NUMBER},
        {"P50 us", "latency.p50_us", VGPU_CTL_CELL_MICROS},
        {"P95 us", "latency.p95_us", VGPU_CTL_CELL_MICROS},
        {"P99 us", "latency.p99_us", VGPU_CTL_CELL_MICROS},
        {"P99.9 us", "latency.p99_9_us", VGPU_CTL_CELL_MICROS},
        {"MAX us", "latency.max_us", VGPU_CTL_CELL_MICROS},
    };
    json_t *rows = json_array();
    size_t i;
    json_t *pool;

    json_array_foreach((json_t *)pools, i, pool) for (int p = 0; p < 3; p++)
    {
        json_t *row = json_copy(json_object_get(json_object_get(pool, "priorities"), priorities[p]));
        if (!row)
            continue;
        json_object_set(row, "pool", json_object_get(pool, "name"));
        json_object_set_new(row, "priority", json_string(priorities[p]));
        json_array_append_new(rows, row);
    }
    if (json_array_size(rows)) {
        fputs("\npools\n", out);
        VGPU_CTL_TABLE(out, rows, columns, color);
    }
    json_decref(rows);
}

void vgpu_ctl_print_stats(FILE *out, const json_t *result, bool color)
{
    static const struct vgpu_ctl_column columns[] = {
        {"VM", "vm_id", VGPU_CTL_CELL_NUMBER},
        {"POOL", "pool", VGPU_CTL_CELL_TEXT},
        {"PRIORITY", "priority", VGPU_CTL_CELL_TEXT},
        {"ACCEPTED", "accepted", VGPU_CTL_CELL_NUMBER},
        {"COMPLETED", "completed", VGPU_CTL_CELL_NUMBER},
        {"REFUSED", "refused", VGPU_CTL_CELL_NUMBER},
        {"FAILED", "failed", VGPU_CTL_CELL_NUMBER},
        {"LOST", "lost", VGPU_CTL_CELL_NUMBER},
        {"QUEUED", "queue_depth", VGPU_CTL_CELL_NUMBER},
        {"BYTES", "bytes", VGPU_CTL_CELL_SIZE},
        {"P50 us", "latency.p50_us", VGPU_CTL_CELL_MICROS},
        {"P95 us", "latency.p95_us", VGPU_CTL_CELL_MICROS},
        {"P99 us", "latency.p99_us", VGPU_CTL_CELL_MICROS},
        {"P99.9 us", "latency.p99_9_us", VGPU_CTL_CELL_MICROS},
        {"MAX us", "latency.max_us", VGPU_CTL_CELL_MICROS},
    };
    const json_t *vms = json_object_get(result, "vms");

    if (json_is_object(json_object_get(result, "daemon"))) {
        fputs("daemon\n", out);
        vgpu_ctl_object(out, json_object_get(result, "daemon"), "  ");
    }
    print_unknown(out, "poll cores", json_object_get(result, "poll_cores"), color);
    print_unknown(out, "executors", json_object_get(result, "executors"), color);
    print_pool_stats(out, json_object_get(result, "pools"), color);
    if (json_array_size(vms)) {
        fputs("\nVMs\n", out);
        VGPU_CTL_TABLE(out, vms, columns, color);
    }
}

void vgpu_ctl_print_registered(FILE *out, const json_t *result, bool color)
{
    size_t i;
    const json_t *vm;

    (void)color;
    json_array_foreach(json_object_get(result, "vms"), i, vm)
    {
        char id[VGPU_CTL_CELL_BYTES], file[VGPU_CTL_CELL_BYTES * 8];
        const char *token_file = json_string_value(json_object_get(vm, "token_file"));
        vgpu_ctl_cell(json_object_get(vm, "vm_id"), VGPU_CTL_CELL_NUMBER, id);
        vgpu_ctl_clean(token_file ? token_file : "", file, sizeof(file));
        fprintf(out, "registered VM %s%s%s\n", id, token_file ? ", token in " : ", without identity: it cannot attach",
                file);
    }
}

void vgpu_ctl_print_removed(FILE *out, const json_t *result, bool color)
{
    const json_t *removed = json_object_get(result, "removed");
    char name[VGPU_CTL_CELL_BYTES];
    size_t i;
    const json_t *id;

    (void)color;
    if (json_is_string(removed)) {
        vgpu_ctl_cell(removed, VGPU_CTL_CELL_TEXT, name);
        fprintf(out, "removed pool %s\n", name);
    }
    json_array_foreach(removed, i, id) fprintf(out, "removed VM %" JSON_INTEGER_FORMAT "\n", json_integer_value(id));
}

/* What stands in the table and is not in force yet. */
static void print_pending(FILE *out, const json_t *vms)
{
    char id[VGPU_CTL_CELL_BYTES], key[VGPU_CTL_CELL_BYTES], attached[VGPU_CTL_CELL_BYTES];
    size_t i, k;
    const json_t *vm, *what;

    json_array_foreach(vms, i, vm)
    {
        json_array_foreach(json_object_get(vm, "pending"), k, what)
        {
            vgpu_ctl_cell(json_object_get(vm, "vm_id"), VGPU_CTL_CELL_NUMBER, id);
            vgpu_ctl_cell(what, VGPU_CTL_CELL_TEXT, key);
            vgpu_ctl_cell(json_object_get(vm, "attached_arena_bytes"), VGPU_CTL_CELL_SIZE, attached);
            bool arena = !strcmp(key, "arena_bytes");
            fprintf(out, "VM %s runs: its %s counts from its next attach on%s%s%s\n", id, key,
                    arena ? "; it has an arena of " : "", arena ? attached : "", arena ? " now" : "");
        }
    }
}

void vgpu_ctl_print_vms(FILE *out, const json_t *result, bool color)
{
    static const struct vgpu_ctl_column columns[] = {
        {"VM", "vm_id", VGPU_CTL_CELL_NUMBER},        {"NAME", "name", VGPU_CTL_CELL_TEXT},
        {"POOL", "pool", VGPU_CTL_CELL_TEXT},         {"PRIORITY", "priority", VGPU_CTL_CELL_TEXT},
        {"STATE", "state", VGPU_CTL_CELL_TEXT},       {"UID", "uid", VGPU_CTL_CELL_NUMBER},
        {"PID", "pid", VGPU_CTL_CELL_NUMBER},         {"IN-FLIGHT", "in_flight", VGPU_CTL_CELL_NUMBER},
        {"ARENA", "arena_bytes", VGPU_CTL_CELL_SIZE}, {"DEVICE", "device_bytes", VGPU_CTL_CELL_SIZE},
    };
    const json_t *vms = json_object_get(result, "vms");

    if (!json_array_size(vms))
        fputs("no VMs\n", out);
    else
        VGPU_CTL_TABLE(out, vms, columns, color);
    print_pending(out, vms);
}

void vgpu_ctl_print_changed(FILE *out, const json_t *result, bool color)
{
    static const struct vgpu_ctl_column columns[] = {
        {"VM", "vm_id", VGPU_CTL_CELL_NUMBER},
        {"POOL", "pool", VGPU_CTL_CELL_TEXT},
        {"PRIORITY", "priority", VGPU_CTL_CELL_TEXT},
        {"STATE", "state", VGPU_CTL_CELL_TEXT},
        {"IN-FLIGHT", "in_flight", VGPU_CTL_CELL_NUMBER},
        {"ARENA", "arena_bytes", VGPU_CTL_CELL_SIZE},
        {"DEVICE", "device_bytes", VGPU_CTL_CELL_SIZE},
    };
    VGPU_CTL_TABLE(out, json_object_get(result, "vms"), columns, color);
    print_pending(out, json_object_get(result, "vms"));
}

void vgpu_ctl_print_vm(FILE *out, const json_t *result, bool color)
{
    (void)color;
    vgpu_ctl_object(out, json_object_get(result, "vm"), "");
}

void vgpu_ctl_print_pools(FILE *out, const json_t *result, bool color)
{
    static const struct vgpu_ctl_column columns[] = {
        {"POOL", "name", VGPU_CTL_CELL_TEXT},           {"MEMBERS", "members", VGPU_CTL_CELL_NUMBER},
        {"CAPACITY", "capacity", VGPU_CTL_CELL_NUMBER}, {"EXECUTOR", "executor", VGPU_CTL_CELL_TEXT},
        {"BACKEND", "backend", VGPU_CTL_CELL_TEXT},     {"PID", "executor_pid", VGPU_CTL_CELL_NUMBER},
        {"STATE", "state", VGPU_CTL_CELL_TEXT},
    };
    VGPU_CTL_TABLE(out, json_object_get(result, "pools"), columns, color);
    print_notes(out, json_object_get(result, "pools"));
}

void vgpu_ctl_print_pool(FILE *out, const json_t *result, bool color)
{
    vgpu_ctl_object(out, json_object_get(result, "pool"), "");
    if (json_array_size(json_object_get(result, "vms"))) {
        fputs("\n", out);
        vgpu_ctl_print_vms(out, result, color);
    }
}

void vgpu_ctl_print_reload(FILE *out, const json_t *result, bool color)
{
    static const struct vgpu_ctl_column columns[] = {
        {"KEY", "key", VGPU_CTL_CELL_TEXT},
        {"OLD", "old", VGPU_CTL_CELL_TEXT},
        {"NEW", "new", VGPU_CTL_CELL_TEXT},
    };
    static const char *const parts[][2] = {{"applied", "in force now"},
                                           {"needs_restart", "in force after a restart of vgpud"}};
    bool any = false, dry = json_is_true(json_object_get(result, "dry_run"));

    for (size_t p = 0; p < sizeof(parts) / sizeof(parts[0]); p++) {
        const json_t *rows = json_object_get(result, parts[p][0]);
        if (!json_array_size(rows))
            continue;
        fprintf(out, "%s%s\n", any ? "\n" : "", p == 0 && dry ? "would be in force at once" : parts[p][1]);
        VGPU_CTL_TABLE(out, rows, columns, color);
        any = true;
    }
    if (!any)
        fputs("nothing changes\n", out);
}

void vgpu_ctl_print_any(FILE *out, const json_t *result, bool color)
{
    const char *key;
    json_t *value;
    char name[VGPU_CTL_CELL_BYTES];

    vgpu_ctl_object(out, result, "");
    json_object_foreach((json_t *)result, key, value)
    {
        vgpu_ctl_clean(key, name, sizeof(name));
        if (json_is_object(json_array_get(value, 0)))
            print_unknown(out, name, value, color);
        else if (json_is_object(value)) {
            fprintf(out, "\n%s\n", name);
            vgpu_ctl_object(out, value, "  ");
        }
    }
}
