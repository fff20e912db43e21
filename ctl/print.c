/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/print.h"

#include <inttypes.h>
#include <stdint.h>
#include <string.h>

#define CELL_BYTES  128
#define MAX_COLUMNS 20

enum cell_type { CELL_TEXT, CELL_NUMBER, CELL_SIZE, CELL_MICROS };
struct column {
    const char *title;
    const char *key; /* in the row's object; "latency.p50_us" looks one level down */
    enum cell_type type;
};

/* Terminal columns of UTF-8 text: its characters; wide and combining ones do not occur in names. */
static int width_of(const char *text)
{
    int width = 0;

    for (; *text; text++)
        width += ((unsigned char)*text & 0xc0) != 0x80;
    return width;
}

/* Copies without control characters; a cut never leaves half a character. */
static void clean(const char *text, char *out, size_t bytes)
{
    size_t n = 0;

    for (; *text && n + 1 < bytes; text++) {
        unsigned char ch = (unsigned char)*text;
        out[n++] = ch < 0x20 || ch == 0x7f ? '?' : (char)ch;
    }
    if (*text) {
        while (n && ((unsigned char)out[n - 1] & 0xc0) == 0x80)
            n--;
        if (n && ((unsigned char)out[n - 1] & 0x80))
            n--;
    }
    out[n] = 0;
}

static void size_text(uint64_t bytes, char *out, size_t out_bytes)
{
    static const char units[] = "BKMGT";
    double v = (double)bytes;
    int unit = 0;

    while (v >= 1024 && unit < 4) {
        v /= 1024;
        unit++;
    }
    if (!unit)
        snprintf(out, out_bytes, "%" PRIu64, bytes);
    else
        snprintf(out, out_bytes, v == (double)(uint64_t)v ? "%.0f%c" : "%.1f%c", v, units[unit]);
}

static const json_t *lookup(const json_t *row, const char *key)
{
    const char *dot = strchr(key, '.');
    char first[32];

    if (!dot)
        return json_object_get(row, key);
    snprintf(first, sizeof(first), "%.*s", (int)(dot - key), key);
    const json_t *inner = json_object_get(row, first);
    const json_t *count = json_object_get(inner, "count");
    /* A distribution without a single reading has no percentiles, though it says 0. */
    if (json_is_integer(count) && !json_integer_value(count))
        return NULL;
    return json_object_get(inner, dot + 1);
}

static void cell_text(const json_t *value, enum cell_type type, char out[CELL_BYTES])
{
    if (json_is_string(value) && json_string_length(value))
        clean(json_string_value(value), out, CELL_BYTES);
    else if (json_is_integer(value) && type == CELL_SIZE)
        size_text((uint64_t)json_integer_value(value), out, CELL_BYTES);
    else if (json_is_integer(value))
        snprintf(out, CELL_BYTES, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
    else if (json_is_real(value))
        snprintf(out, CELL_BYTES, type == CELL_MICROS ? "%.1f" : "%.3f", json_real_value(value));
    else if (json_is_boolean(value))
        snprintf(out, CELL_BYTES, "%s", json_is_true(value) ? "yes" : "no");
    else
        snprintf(out, CELL_BYTES, "-");
}

static bool alarming(const char *text)
{
    return !strcmp(text, "broken") || !strcmp(text, "down") || !strcmp(text, "restarting");
}

static void print_cell(FILE *out, const char *text, int width, bool right, bool last, const char *on, bool color)
{
    int pad = width - width_of(text);

    if (right)
        fprintf(out, "%*s", pad, "");
    fprintf(out, "%s%s%s", color ? on : "", text, color && on[0] ? "\033[0m" : "");
    if (!right && !last)
        fprintf(out, "%*s", pad, "");
    fputs(last ? "\n" : "  ", out);
}

static void print_table(FILE *out, const json_t *rows, const struct column *columns, int count, bool color)
{
    int width[MAX_COLUMNS];
    size_t i;
    const json_t *row;
    char text[CELL_BYTES];

    for (int c = 0; c < count; c++)
        width[c] = width_of(columns[c].title);
    json_array_foreach((json_t *)rows, i, row) for (int c = 0; c < count; c++)
    {
        cell_text(lookup(row, columns[c].key), columns[c].type, text);
        if (width_of(text) > width[c])
            width[c] = width_of(text);
    }
    for (int c = 0; c < count; c++)
        print_cell(out, columns[c].title, width[c], columns[c].type != CELL_TEXT, c == count - 1, "\033[1m", color);
    json_array_foreach((json_t *)rows, i, row) for (int c = 0; c < count; c++)
    {
        cell_text(lookup(row, columns[c].key), columns[c].type, text);
        print_cell(out, text, width[c], columns[c].type != CELL_TEXT, c == count - 1, alarming(text) ? "\033[31m" : "",
                   color);
    }
}
#define PRINT_TABLE(out, rows, columns, color)                                                                         \
    print_table(out, rows, columns, (int)(sizeof(columns) / sizeof((columns)[0])), color)

/* A value of several lines, each below the other. */
static void print_lines(FILE *out, const char *indent, const char *name, int pad, const char *text)
{
    char line[512], cleaned[512];
    int column = width_of(name) + pad;

    while (*text) {
        size_t n = strcspn(text, "\n");
        snprintf(line, sizeof(line), "%.*s", (int)(n < sizeof(line) ? n : sizeof(line) - 1), text);
        clean(line, cleaned, sizeof(cleaned));
        fprintf(out, "%s%s%*s  %s\n", indent, name, column - width_of(name), "", cleaned);
        name = "";
        text += n + (text[n] == '\n');
    }
}

/* "key   value" lines of one object; nested objects and lists are left to others. */
static void print_object(FILE *out, const json_t *object, const char *indent)
{
    const char *key;
    json_t *value;
    int width = 0;
    char text[CELL_BYTES], name[CELL_BYTES];

    json_object_foreach((json_t *)object, key, value) if (width_of(key) > width && width_of(key) < 40) width =
        width_of(key);
    json_object_foreach((json_t *)object, key, value)
    {
        if (json_is_object(value) || json_is_array(value))
            continue;
        clean(key, name, sizeof(name));
        int pad = width > width_of(name) ? width - width_of(name) : 0;
        if (json_is_string(value) && strchr(json_string_value(value), '\n')) {
            print_lines(out, indent, name, pad, json_string_value(value));
            continue;
        }
        size_t n = strlen(key);
        bool size = n > 6 && !strcmp(key + n - 6, "_bytes");
        cell_text(value, size ? CELL_SIZE : CELL_NUMBER, text);
        fprintf(out, "%s%s%*s  %s\n", indent, name, pad, "", text);
    }
}

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
    char name[CELL_BYTES], text[512];

    json_array_foreach((json_t *)rows, i, row) for (size_t n = 0; n < NOTE_COUNT; n++)
    {
        const char *said = json_string_value(json_object_get(row, notes[n][0]));
        if (!said || !said[0])
            continue;
        cell_text(json_object_get(row, "name"), CELL_TEXT, name);
        clean(said, text, sizeof(text));
        fprintf(out, "%s: %s%s\n", name, notes[n][1], text);
    }
}

/* A table of objects whose keys we do not know: the first one's plain values are the columns. */
static void print_unknown(FILE *out, const char *title, const json_t *rows, bool color)
{
    struct column columns[MAX_COLUMNS];
    char titles[MAX_COLUMNS][40];
    int count = 0;
    const char *key;
    json_t *value;

    if (!json_array_size(rows))
        return;
    json_object_foreach(json_array_get(rows, 0), key, value)
    {
        if (count == MAX_COLUMNS || json_is_object(value) || json_is_array(value) || strchr(key, '.') || is_note(key))
            continue;
        clean(key, titles[count], sizeof(titles[count]));
        columns[count] = (struct column){titles[count], key, json_is_string(value) ? CELL_TEXT : CELL_NUMBER};
        count++;
    }
    fprintf(out, "\n%s\n", title);
    if (count)
        print_table(out, rows, columns, count, color);
    print_notes(out, rows);
}

/* One row for each pool and priority. */
static void print_pool_stats(FILE *out, const json_t *pools, bool color)
{
    static const char *const priorities[] = {"high", "medium", "low"};
    static const struct column columns[] = {
        {"POOL", "pool", CELL_TEXT},
        {"PRIORITY", "priority", CELL_TEXT},
        {"QUEUED", "queue_depth", CELL_NUMBER},
        {"IN-FLIGHT", "in_flight", CELL_NUMBER},
        {"COMPLETED", "completed", CELL_NUMBER},
        {"P50 us", "latency.p50_us", CELL_MICROS},
        {"P95 us", "latency.p95_us", CELL_MICROS},
        {"P99 us", "latency.p99_us", CELL_MICROS},
        {"P99.9 us", "latency.p99_9_us", CELL_MICROS},
        {"MAX us", "latency.max_us", CELL_MICROS},
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
        PRINT_TABLE(out, rows, columns, color);
    }
    json_decref(rows);
}

static void print_stats(FILE *out, const json_t *result, bool color)
{
    static const struct column columns[] = {
        {"VM", "vm_id", CELL_NUMBER},
        {"POOL", "pool", CELL_TEXT},
        {"PRIORITY", "priority", CELL_TEXT},
        {"ACCEPTED", "accepted", CELL_NUMBER},
        {"COMPLETED", "completed", CELL_NUMBER},
        {"REFUSED", "refused", CELL_NUMBER},
        {"FAILED", "failed", CELL_NUMBER},
        {"LOST", "lost", CELL_NUMBER},
        {"QUEUED", "queue_depth", CELL_NUMBER},
        {"BYTES", "bytes", CELL_SIZE},
        {"P50 us", "latency.p50_us", CELL_MICROS},
        {"P95 us", "latency.p95_us", CELL_MICROS},
        {"P99 us", "latency.p99_us", CELL_MICROS},
        {"P99.9 us", "latency.p99_9_us", CELL_MICROS},
        {"MAX us", "latency.max_us", CELL_MICROS},
    };
    const json_t *vms = json_object_get(result, "vms");

    if (json_is_object(json_object_get(result, "daemon"))) {
        fputs("daemon\n", out);
        print_object(out, json_object_get(result, "daemon"), "  ");
    }
    print_unknown(out, "poll cores", json_object_get(result, "poll_cores"), color);
    print_unknown(out, "executors", json_object_get(result, "executors"), color);
    print_pool_stats(out, json_object_get(result, "pools"), color);
    if (json_array_size(vms)) {
        fputs("\nVMs\n", out);
        PRINT_TABLE(out, vms, columns, color);
    }
}

static void print_registered(FILE *out, const json_t *vms)
{
    size_t i;
    const json_t *vm;

    json_array_foreach((json_t *)vms, i, vm)
    {
        char id[CELL_BYTES], file[CELL_BYTES * 8];
        const char *token_file = json_string_value(json_object_get(vm, "token_file"));
        cell_text(json_object_get(vm, "vm_id"), CELL_NUMBER, id);
        clean(token_file ? token_file : "", file, sizeof(file));
        fprintf(out, "registered VM %s%s%s\n", id, token_file ? ", token in " : ", without identity: it cannot attach",
                file);
    }
}

static void print_removed(FILE *out, const json_t *ids)
{
    size_t i;
    const json_t *id;

    json_array_foreach((json_t *)ids, i, id)
        fprintf(out, "removed VM %" JSON_INTEGER_FORMAT "\n", json_integer_value(id));
}

void vgpu_ctl_print(FILE *out, const char *command, const json_t *result, bool color)
{
    static const struct column vm_columns[] = {
        {"VM", "vm_id", CELL_NUMBER},        {"NAME", "name", CELL_TEXT},
        {"POOL", "pool", CELL_TEXT},         {"PRIORITY", "priority", CELL_TEXT},
        {"STATE", "state", CELL_TEXT},       {"UID", "uid", CELL_NUMBER},
        {"PID", "pid", CELL_NUMBER},         {"IN-FLIGHT", "in_flight", CELL_NUMBER},
        {"ARENA", "arena_bytes", CELL_SIZE}, {"DEVICE", "device_bytes", CELL_SIZE},
    };
    static const struct column pool_columns[] = {
        {"POOL", "name", CELL_TEXT},         {"MEMBERS", "members", CELL_NUMBER}, {"CAPACITY", "capacity", CELL_NUMBER},
        {"EXECUTOR", "executor", CELL_TEXT}, {"BACKEND", "backend", CELL_TEXT},   {"PID", "executor_pid", CELL_NUMBER},
        {"STATE", "state", CELL_TEXT},
    };
    const json_t *vms = json_object_get(result, "vms");

    if (!strcmp(command, "list-vms") && !json_array_size(vms))
        fputs("no VMs\n", out);
    else if (!strcmp(command, "list-vms"))
        PRINT_TABLE(out, vms, vm_columns, color);
    else if (!strcmp(command, "list-pools")) {
        PRINT_TABLE(out, json_object_get(result, "pools"), pool_columns, color);
        print_notes(out, json_object_get(result, "pools"));
    } else if (!strcmp(command, "register-vm"))
        print_registered(out, vms);
    else if (!strcmp(command, "remove-vm"))
        print_removed(out, json_object_get(result, "removed"));
    else if (!strcmp(command, "show-vm"))
        print_object(out, json_object_get(result, "vm"), "");
    else if (!strcmp(command, "stats"))
        print_stats(out, result, color);
    else
        print_object(out, result, "");
}
