/* SPDX-License-Identifier: Apache-2.0 */
/* Writes the commented reference of all keys, from the table and the default configuration. */
#include "core/config_int.h"

#include <inttypes.h>
#include <string.h>

static void write_size(FILE *out, uint64_t v)
{
    static const char suffix[] = "KMG";
    int i = -1;

    while (i < 2 && v && v % 1024 == 0) {
        v /= 1024;
        i++;
    }
    fprintf(out, "%" PRIu64, v);
    if (i >= 0)
        fputc(suffix[i], out);
}

static void write_cpu(FILE *out, int cpu)
{
    if (cpu == VGPU_CPU_ANY)
        fputs("any", out);
    else
        fprintf(out, "%d", cpu);
}

void vgpu_key_write(FILE *out, const struct vgpu_key *k, const void *base, const struct vgpu_config *c)
{
    const void *p = (const char *)base + k->offset;

    switch (k->type) {
    case VGPU_KEY_SECTION:
    case VGPU_KEY_LIST:
        break;
    case VGPU_KEY_PATH:
    case VGPU_KEY_SOCKET:
    case VGPU_KEY_BINARY:
    case VGPU_KEY_NAME:
    case VGPU_KEY_BACKEND:
    case VGPU_KEY_TEXT:
        fputs(*(const char *)p ? p : "\"\"", out);
        break;
    case VGPU_KEY_UINT:
        fprintf(out, "%" PRIu32, *(const uint32_t *)p);
        break;
    case VGPU_KEY_SIZE:
        write_size(out, *(const uint64_t *)p);
        break;
    case VGPU_KEY_MICROS:
        fprintf(out, "%" PRIu64, *(const uint64_t *)p / 1000);
        break;
    case VGPU_KEY_BOOL:
        fputs(*(const bool *)p ? "true" : "false", out);
        break;
    case VGPU_KEY_TRI:
        fputs(*(const enum vgpu_tri *)p == VGPU_TRI_YES  ? "true"
              : *(const enum vgpu_tri *)p == VGPU_TRI_NO ? "false"
                                                         : "auto",
              out);
        break;
    case VGPU_KEY_SCHED:
        fputs(*(const enum vgpu_sched *)p == VGPU_SCHED_FIFO ? "fifo" : "other", out);
        break;
    case VGPU_KEY_SCOPE:
        fputs(*(const enum vgpu_scope *)p == VGPU_SCOPE_HOST ? "host" : "pool", out);
        break;
    case VGPU_KEY_LEVEL: {
        enum vgpu_log_level v = *(const enum vgpu_log_level *)p;
        fputs(v == VGPU_LOG_ERROR ? "error" : v == VGPU_LOG_WARN ? "warn" : v == VGPU_LOG_INFO ? "info" : "debug", out);
        break;
    }
    case VGPU_KEY_WORD:
        fputs(k->words[*(const int *)p], out);
        break;
    case VGPU_KEY_CPU:
        write_cpu(out, *(const int *)p);
        break;
    case VGPU_KEY_CPUS:
        fputc('[', out);
        for (uint32_t i = 0; i < c->poll_core_count; i++) {
            fputs(i ? ", " : "", out);
            write_cpu(out, c->poll_cpu[i]);
        }
        fputc(']', out);
        break;
    case VGPU_KEY_DEVICE:
        break;
    case VGPU_KEY_DEVICES:
        fputc('[', out);
        for (uint32_t i = 0; i < c->device_count; i++) {
            char text[40];
            vgpu_key_device_text(&c->devices[i], text, sizeof(text));
            fprintf(out, "%s%s", i ? ", " : "", text);
        }
        fputc(']', out);
        break;
    }
}

static const struct vgpu_derived *derived_of(const struct vgpu_key *k)
{
    for (uint32_t i = 0; i < VGPU_DERIVED_COUNT; i++)
        if (!strcmp(vgpu_derived[i].path, k->path))
            return &vgpu_derived[i];
    return NULL;
}

/* The comment lines above a key. */
static void write_comment(FILE *out, int indent, const struct vgpu_key *k)
{
    const struct vgpu_derived *d = derived_of(k);
    char expected[160];

    for (const char *line = k->doc; *line;) {
        int n = (int)strcspn(line, "\n");
        fprintf(out, "%*s# %.*s\n", indent, "", n, line);
        line += n + (line[n] == '\n');
    }
    if (k->type == VGPU_KEY_SECTION)
        return;
    vgpu_key_expected(k, expected, sizeof(expected));
    fprintf(out, "%*s# Takes %s", indent, "", expected);
    if (d)
        fprintf(out, "; default: %s in %s", d->leaf, strchr(d->from_path, '.') + 1);
    else if (k->type == VGPU_KEY_LIST)
        fprintf(out, "; default: as below");
    else if (k->value)
        fprintf(out, "; default %s", k->value[0] ? k->value : "\"\"");
    else
        fprintf(out, "; required");
    fputs(".\n", out);
}

static int depth_of(const char *path)
{
    int depth = 0;

    for (; *path; path++)
        depth += *path == '.';
    return depth;
}

static const char *leaf_of(const char *path)
{
    const char *dot = strrchr(path, '.');
    return dot ? dot + 1 : path;
}

/* The keys of one list element; only the first element carries comments. */
static void write_element(FILE *out, const struct vgpu_key *list, const void *element, bool comments)
{
    size_t n = strlen(list->path);
    bool first = true;

    for (uint32_t i = 0; i < vgpu_key_count; i++) {
        const struct vgpu_key *k = &vgpu_keys[i];
        if (strncmp(k->path, list->path, n) || strncmp(k->path + n, "[].", 3))
            continue;
        int indent = 2 + 2 * depth_of(k->path + n + 2); /* of the text: the first stands behind "- " */
        if (comments)
            write_comment(out, first ? indent - 2 : indent, k);
        fprintf(out, "%*s%s%s:%s", first ? indent - 2 : indent, "", first ? "- " : "", leaf_of(k->path),
                k->type == VGPU_KEY_SECTION ? "" : " ");
        vgpu_key_write(out, k, element, NULL);
        fputc('\n', out);
        first = false;
    }
}

static void write_key(FILE *out, const struct vgpu_key *k, const struct vgpu_config *c)
{
    int indent = 2 * depth_of(k->path);

    if (!indent)
        fputc('\n', out);
    write_comment(out, indent, k);
    fprintf(out, "%*s%s%s:", indent, "", derived_of(k) ? "# " : "", leaf_of(k->path));
    if (k->type != VGPU_KEY_SECTION && k->type != VGPU_KEY_LIST)
        fputc(' ', out);
    vgpu_key_write(out, k, c, c);
    fputc('\n', out);
    if (k->type != VGPU_KEY_LIST)
        return;
    uint32_t count = *(const uint32_t *)((const char *)c + k->count_offset);
    for (uint32_t i = 0; i < count; i++)
        write_element(out, k, (const char *)c + k->offset + i * k->bytes, i == 0);
}

void vgpu_config_reference(FILE *out)
{
    static struct vgpu_config c; /* too large for a stack frame; control thread only */

    vgpu_config_defaults(&c);
    fputs("# SPDX-License-Identifier: Apache-2.0\n"
          "# The configuration of vgpud: every key, with what it takes and its default. All keys may be left out; an\n"
          "# empty file is all defaults. `vgpud --check-config FILE` checks a file and changes nothing.\n"
          "# This file is generated from the table in core/config.c by vgpu-config-reference.\n",
          out);
    for (uint32_t i = 0; i < vgpu_key_count; i++)
        if (!strstr(vgpu_keys[i].path, "[]"))
            write_key(out, &vgpu_keys[i], &c);
}

static void show_element(FILE *out, const struct vgpu_key *list, uint32_t index, const void *element)
{
    size_t n = strlen(list->path);

    for (uint32_t i = 0; i < vgpu_key_count; i++) {
        const struct vgpu_key *k = &vgpu_keys[i];
        if (strncmp(k->path, list->path, n) || strncmp(k->path + n, "[].", 3) || k->type == VGPU_KEY_SECTION)
            continue;
        fprintf(out, "%s[%" PRIu32 "]%s=", list->path, index, k->path + n + 2);
        vgpu_key_write(out, k, element, NULL);
        fputc('\n', out);
    }
}

void vgpu_config_show(const struct vgpu_config *c, FILE *out)
{
    for (uint32_t i = 0; i < vgpu_key_count; i++) {
        const struct vgpu_key *k = &vgpu_keys[i];
        if (k->type == VGPU_KEY_SECTION || strstr(k->path, "[]"))
            continue;
        if (k->type != VGPU_KEY_LIST) {
            fprintf(out, "%s=", k->path);
            vgpu_key_write(out, k, c, c);
            fputc('\n', out);
            continue;
        }
        uint32_t count = *(const uint32_t *)((const char *)c + k->count_offset);
        for (uint32_t e = 0; e < count; e++)
            show_element(out, k, e, (const char *)c + k->offset + e * k->bytes);
    }
}
