/* SPDX-License-Identifier: Apache-2.0 */
/* Who changed what: a line for each change, with what is different rather than with the whole records. */
#include "ctl/print.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ctl/table.h"

static void value_text(const json_t *value, char *out, size_t bytes)
{
    char *text = json_is_string(value) ? strdup(json_string_value(value))
                 : value && !json_is_null(value) ? json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY)
                                                 : NULL;

    vgpu_ctl_clean(text && text[0] ? text : "-", out, bytes);
    free(text);
}

/* "priority low -> high, pool A -> B" */
static void difference(const json_t *old, const json_t *now, char *out, size_t bytes)
{
    char key_text[40], was[64], is[64];
    const char *key;
    json_t *value;
    size_t n = 0;

    out[0] = 0;
    if (!json_is_object(old) || !json_is_object(now)) {
        snprintf(out, bytes, "%s", json_is_object(now) ? "added" : json_is_object(old) ? "removed" : "");
        return;
    }
    json_object_foreach((json_t *)now, key, value)
    {
        const json_t *before = json_object_get(old, key);
        if (json_equal(before, value) || n + 1 >= bytes)
            continue;
        vgpu_ctl_clean(key, key_text, sizeof(key_text));
        value_text(before, was, sizeof(was));
        value_text(value, is, sizeof(is));
        n += (size_t)snprintf(out + n, bytes - n, "%s%s %s -> %s", n ? ", " : "", key_text, was, is);
    }
}

/* "limits.in_flight 256 -> 100" of each value that was changed, and how many wait. */
static void reloaded(const json_t *result, char *out, size_t bytes)
{
    const json_t *applied = json_object_get(result, "applied"), *change;
    size_t i, n = 0, waits = json_array_size(json_object_get(result, "needs_restart"));
    char key[80], was[64], is[64];

    json_array_foreach((json_t *)applied, i, change)
    {
        if (n + 1 >= bytes)
            return;
        value_text(json_object_get(change, "key"), key, sizeof(key));
        value_text(json_object_get(change, "old"), was, sizeof(was));
        value_text(json_object_get(change, "new"), is, sizeof(is));
        n += (size_t)snprintf(out + n, bytes - n, "%s%s %s -> %s", n ? ", " : "", key, was, is);
    }
    if (n + 1 < bytes && (waits || !n))
        snprintf(out + n, bytes - n, "%s%s", n ? ", " : "", waits ? "some wait for the next start" : "nothing changed");
}

static void row_print(FILE *out, const json_t *row)
{
    static const char *const keys[] = {"user", "command", "object"};
    char texts[3][VGPU_CTL_CELL_BYTES], what[512], when[32] = "-";
    time_t at_s = (time_t)(json_integer_value(json_object_get(row, "time_us")) / 1000000);
    struct tm tm;

    if (gmtime_r(&at_s, &tm))
        strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%SZ", &tm);
    for (size_t i = 0; i < 3; i++)
        vgpu_ctl_cell(json_object_get(row, keys[i]), VGPU_CTL_CELL_TEXT, texts[i]);
    const json_t *now = json_object_get(row, "new");
    const char *said = json_string_value(json_object_get(row, "result"));
    bool done = said && !strcmp(said, "ok");
    what[0] = 0;
    if (!done)
        vgpu_ctl_clean(said ? said : "-", what, sizeof(what));
    else if (json_object_get(now, "applied"))
        reloaded(now, what, sizeof(what));
    else
        difference(json_object_get(row, "old"), now, what, sizeof(what));
    fprintf(out, "%s  %-12s  %-16s  %-10s  %-7s%s%s\n", when, texts[0], texts[1], texts[2], done ? "ok" : "refused",
            what[0] ? "  " : "", what);
}

void vgpu_ctl_print_history(FILE *out, const json_t *result, bool color)
{
    const json_t *rows = json_object_get(result, "history");
    size_t i;
    const json_t *row;

    (void)color;
    if (!json_array_size(rows))
        fputs("no history\n", out);
    json_array_foreach((json_t *)rows, i, row) row_print(out, row);
}
