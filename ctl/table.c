/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/table.h"

#include <inttypes.h>
#include <stdint.h>
#include <string.h>

/* Terminal columns of UTF-8 text: its characters; wide and combining ones do not occur in names. */
static int width_of(const char *text)
{
    int width = 0;

    for (; *text; text++)
        width += ((unsigned char)*text & 0xc0) != 0x80;
    return width;
}

void vgpu_ctl_clean(const char *text, char *out, size_t bytes)
{
    size_t n = 0;

    for (; *text && n + 1 < bytes; text++) {
        unsigned char ch = (unsigned char)*text, next = (unsigned char)text[1];
        if (ch == 0xc2 && next >= 0x80 && next < 0xa0) { /* U+0080..9f steer terminals too */
            out[n++] = '?';
            text++;
        } else {
            out[n++] = ch < 0x20 || ch == 0x7f ? '?' : (char)ch;
        }
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

const json_t *vgpu_ctl_lookup(const json_t *row, const char *key)
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

/* "1, 2, 3": a list of plain values. */
static void list_text(const json_t *list, char out[VGPU_CTL_CELL_BYTES])
{
    char part[VGPU_CTL_CELL_BYTES];
    size_t i, n = 0;
    json_t *value;

    json_array_foreach((json_t *)list, i, value)
    {
        vgpu_ctl_cell(json_is_array(value) ? NULL : value, VGPU_CTL_CELL_NUMBER, part);
        int more = snprintf(out + n, VGPU_CTL_CELL_BYTES - n, "%s%s", i ? ", " : "", part);
        if (more < 0 || (size_t)more >= VGPU_CTL_CELL_BYTES - n) {
            strcpy(out + (n < VGPU_CTL_CELL_BYTES - 4 ? n : VGPU_CTL_CELL_BYTES - 4), "...");
            return;
        }
        n += (size_t)more;
    }
}

void vgpu_ctl_cell(const json_t *value, enum vgpu_ctl_cell_type type, char out[VGPU_CTL_CELL_BYTES])
{
    if (json_is_string(value) && json_string_length(value))
        vgpu_ctl_clean(json_string_value(value), out, VGPU_CTL_CELL_BYTES);
    else if (json_is_integer(value) && type == VGPU_CTL_CELL_SIZE)
        size_text((uint64_t)json_integer_value(value), out, VGPU_CTL_CELL_BYTES);
    else if (json_is_integer(value))
        snprintf(out, VGPU_CTL_CELL_BYTES, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
    else if (json_is_real(value))
        snprintf(out, VGPU_CTL_CELL_BYTES, type == VGPU_CTL_CELL_MICROS ? "%.1f" : "%.3f", json_real_value(value));
    else if (json_is_boolean(value))
        snprintf(out, VGPU_CTL_CELL_BYTES, "%s", json_is_true(value) ? "yes" : "no");
    else if (json_array_size(value))
        list_text(value, out);
    else
        snprintf(out, VGPU_CTL_CELL_BYTES, "-");
}

static bool alarming(const char *text)
{
    return !strcmp(text, "broken") || !strcmp(text, "down") || !strcmp(text, "restarting") ||
           !strcmp(text, "quarantined");
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

void vgpu_ctl_table(FILE *out, const json_t *rows, const struct vgpu_ctl_column *columns, int count, bool color)
{
    int width[VGPU_CTL_COLUMNS_MAX];
    size_t i;
    const json_t *row;
    char text[VGPU_CTL_CELL_BYTES];

    for (int c = 0; c < count; c++)
        width[c] = width_of(columns[c].title);
    json_array_foreach((json_t *)rows, i, row) for (int c = 0; c < count; c++)
    {
        vgpu_ctl_cell(vgpu_ctl_lookup(row, columns[c].key), columns[c].type, text);
        if (width_of(text) > width[c])
            width[c] = width_of(text);
    }
    for (int c = 0; c < count; c++)
        print_cell(out, columns[c].title, width[c], columns[c].type != VGPU_CTL_CELL_TEXT, c == count - 1, "\033[1m",
                   color);
    json_array_foreach((json_t *)rows, i, row) for (int c = 0; c < count; c++)
    {
        vgpu_ctl_cell(vgpu_ctl_lookup(row, columns[c].key), columns[c].type, text);
        print_cell(out, text, width[c], columns[c].type != VGPU_CTL_CELL_TEXT, c == count - 1,
                   alarming(text) ? "\033[31m" : "", color);
    }
}
/* A value of several lines, each below the other. */
static void print_lines(FILE *out, const char *indent, const char *name, int pad, const char *text)
{
    char line[512], cleaned[512];
    int column = width_of(name) + pad;

    while (*text) {
        size_t n = strcspn(text, "\n");
        snprintf(line, sizeof(line), "%.*s", (int)(n < sizeof(line) ? n : sizeof(line) - 1), text);
        vgpu_ctl_clean(line, cleaned, sizeof(cleaned));
        fprintf(out, "%s%s%*s  %s\n", indent, name, column - width_of(name), "", cleaned);
        name = "";
        text += n + (text[n] == '\n');
    }
}

/* A list of texts, each on a line. */
static void print_list(FILE *out, const char *indent, const char *key, int width, const json_t *list)
{
    char text[512], name[VGPU_CTL_CELL_BYTES];
    size_t i;
    const json_t *item;

    vgpu_ctl_clean(key, name, sizeof(name));
    int pad = width > width_of(name) ? width : width_of(name);
    json_array_foreach((json_t *)list, i, item)
    {
        const char *said = json_string_value(item);
        vgpu_ctl_clean(said ? said : "-", text, sizeof(text));
        fprintf(out, "%s%s%*s  %s\n", indent, i ? "" : name, pad - (i ? 0 : width_of(name)), "", text);
    }
}

void vgpu_ctl_object(FILE *out, const json_t *object, const char *indent)
{
    const char *key;
    json_t *value;
    int width = 0;
    char text[VGPU_CTL_CELL_BYTES], name[VGPU_CTL_CELL_BYTES];

    json_object_foreach((json_t *)object, key, value) if (width_of(key) > width && width_of(key) < 40) width =
        width_of(key);
    json_object_foreach((json_t *)object, key, value)
    {
        if (json_is_object(value) || json_is_object(json_array_get(value, 0)))
            continue;
        if (json_is_string(json_array_get(value, 0))) {
            print_list(out, indent, key, width, value);
            continue;
        }
        vgpu_ctl_clean(key, name, sizeof(name));
        int pad = width > width_of(name) ? width - width_of(name) : 0;
        if (json_is_string(value) && strchr(json_string_value(value), '\n')) {
            print_lines(out, indent, name, pad, json_string_value(value));
            continue;
        }
        size_t n = strlen(key);
        bool size = n > 6 && !strcmp(key + n - 6, "_bytes");
        vgpu_ctl_cell(value, size ? VGPU_CTL_CELL_SIZE : VGPU_CTL_CELL_NUMBER, text);
        fprintf(out, "%s%s%*s  %s\n", indent, name, pad, "", text);
    }
}
