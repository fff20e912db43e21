/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Walks a YAML document along the table of keys. libyaml keeps the place of every node, so each fault has its line and
 * column; all faults of a file are found in one run. The walk follows the table, never the document's depth, so an
 * alias that contains itself ends it as any wrong value does.
 */
#include "core/config_int.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <yaml.h>

#include "core/base/suggest.h"

#define MAX_KEYS_PER_MAPPING 32u /* more than any mapping of the table has */
#define MAX_DEPTH            16u /* the table needs 4 */

struct walk {
    yaml_document_t doc;
    struct vgpu_config *config;
    struct vgpu_faults *faults;
};

void vgpu_fault_at(struct vgpu_faults *f, uint32_t line, uint32_t column, const char *key, const char *fmt, ...)
{
    uint32_t i = f->count++;
    if (i >= VGPU_CONFIG_MAX_FAULTS)
        return;
    struct vgpu_fault *fault = &f->fault[i];
    int n = key[0] ? snprintf(fault->text, sizeof(fault->text), "%s: ", key) : 0;
    va_list ap;

    fault->line = line;
    fault->column = column;
    fault->order = i;
    va_start(ap, fmt);
    vsnprintf(fault->text + n, sizeof(fault->text) - (size_t)n, fmt, ap);
    va_end(ap);
}

static const struct vgpu_place *place_find(const struct vgpu_faults *f, const char *key)
{
    for (uint32_t i = 0; i < f->place_count; i++)
        if (!strcmp(f->place[i].key, key))
            return &f->place[i];
    return NULL;
}

bool vgpu_place_known(const struct vgpu_faults *f, const char *key)
{
    return place_find(f, key) != NULL;
}

void vgpu_fault_key(struct vgpu_faults *f, const char *key, const char *fmt, ...)
{
    char around[VGPU_KEY_BYTES], text[384];
    const struct vgpu_place *place;
    va_list ap;

    snprintf(around, sizeof(around), "%s", key);
    while (!(place = place_find(f, around)) && around[0]) {
        char *end = strrchr(around, '.'), *bracket = strrchr(around, '[');
        if (bracket > end)
            end = bracket;
        *(end ? end : around) = 0;
    }
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    vgpu_fault_at(f, place ? place->line : 1, place ? place->column : 1, key, "%s", text);
}

static void fault_node(struct walk *w, const yaml_node_t *node, const char *key, const char *text)
{
    vgpu_fault_at(w->faults, (uint32_t)node->start_mark.line + 1, (uint32_t)node->start_mark.column + 1, key, "%s",
                  text);
}

static void place_add(struct walk *w, const char *key, const yaml_node_t *node)
{
    struct vgpu_faults *f = w->faults;
    if (f->place_count == sizeof(f->place) / sizeof(f->place[0]))
        return; /* more than the table can have: the surplus is faulty anyway */
    struct vgpu_place *p = &f->place[f->place_count++];
    memcpy(p->key, key, strnlen(key, sizeof(p->key) - 1) + 1);
    p->key[sizeof(p->key) - 1] = 0;
    p->line = (uint32_t)node->start_mark.line + 1;
    p->column = (uint32_t)node->start_mark.column + 1;
}

static bool node_plain(const yaml_node_t *node)
{
    return node->type == YAML_SCALAR_NODE && node->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
}

static bool node_empty(const yaml_node_t *node)
{
    return node_plain(node) && !node->data.scalar.length;
}

/* "a list", "a mapping", or the quoted scalar. */
static void node_describe(const yaml_node_t *node, char *out, size_t bytes)
{
    if (node->type == YAML_SCALAR_NODE)
        vgpu_key_quote((const char *)node->data.scalar.value, node->data.scalar.length, out, bytes);
    else
        snprintf(out, bytes, "%s", node->type == YAML_SEQUENCE_NODE ? "a list" : "a mapping");
}

static void fault_expected(struct walk *w, const yaml_node_t *node, const char *key, const char *what,
                           const char *expected)
{
    char text[320];
    snprintf(text, sizeof(text), "%s; expected %s", what, expected);
    fault_node(w, node, key, text);
}

static void fault_type(struct walk *w, const yaml_node_t *node, const char *key, const struct vgpu_key *row)
{
    char found[64], what[96], expected[160];

    node_describe(node, found, sizeof(found));
    vgpu_key_expected(row, expected, sizeof(expected));
    if (node_empty(node))
        snprintf(what, sizeof(what), "has no value");
    else
        snprintf(what, sizeof(what), "is %s", found);
    fault_expected(w, node, key, what, expected);
}

static void walk_scalar(struct walk *w, const struct vgpu_key *row, void *base, const char *key,
                        const yaml_node_t *node)
{
    char why[320];

    if (node->type != YAML_SCALAR_NODE || node_empty(node)) {
        fault_type(w, node, key, row);
        return;
    }
    if (!vgpu_key_set(row, base, (const char *)node->data.scalar.value, node->data.scalar.length, node_plain(node), why,
                      sizeof(why)))
        fault_node(w, node, key, why);
}

/* Is it a list with as many entries as the key takes? Else the fault is told. */
static bool is_list(struct walk *w, const struct vgpu_key *row, const char *key, const yaml_node_t *node)
{
    if (node->type != YAML_SEQUENCE_NODE) {
        fault_type(w, node, key, row);
        return false;
    }
    ptrdiff_t items = node->data.sequence.items.top - node->data.sequence.items.start;
    if (items < (ptrdiff_t)row->min || items > (ptrdiff_t)row->max) {
        char what[48], expected[160];
        snprintf(what, sizeof(what), "has %td entries", items);
        vgpu_key_expected(row, expected, sizeof(expected));
        fault_expected(w, node, key, what, expected);
        return false;
    }
    return true;
}

/* A list of scalars: CPUs or devices. */
static void walk_scalars(struct walk *w, const struct vgpu_key *row, const char *key, const yaml_node_t *node)
{
    bool cpus = row->type == VGPU_KEY_CPUS;
    uint32_t count = 0;

    if (!is_list(w, row, key, node))
        return;
    for (const yaml_node_item_t *i = node->data.sequence.items.start; i < node->data.sequence.items.top; i++) {
        const yaml_node_t *item = yaml_document_get_node(&w->doc, *i);
        char item_key[VGPU_KEY_BYTES];
        const struct vgpu_key one = {.path = "",
                                     .type = cpus ? VGPU_KEY_CPU : VGPU_KEY_DEVICE,
                                     .unit = "",
                                     .offset = 0,
                                     .bytes = cpus ? sizeof(int) : sizeof(struct vgpu_device_config),
                                     .doc = ""};

        snprintf(item_key, sizeof(item_key), "%.48s[%u]", key, count); /* the table's keys are shorter */
        place_add(w, item_key, item);
        walk_scalar(w, &one, (char *)w->config + row->offset + count * one.bytes, item_key, item);
        count++;
    }
    *(cpus ? &w->config->poll_core_count : &w->config->device_count) = count;
}

/* The name of a direct child of `prefix` that the row describes, or NULL: "limits" + "limits.handles" = "handles". */
static const char *child_name(const struct vgpu_key *row, const char *prefix)
{
    size_t n = strlen(prefix);

    if (strncmp(row->path, prefix, n))
        return NULL;
    const char *rest = row->path + n;
    if (n) {
        if (*rest != '.')
            return NULL;
        rest++;
    }
    return strpbrk(rest, ".[") ? NULL : rest;
}

static const struct vgpu_key *child_find(const char *prefix, const char *name)
{
    for (uint32_t i = 0; i < vgpu_key_count; i++) {
        const char *child = child_name(&vgpu_keys[i], prefix);
        if (child && !strcmp(child, name))
            return &vgpu_keys[i];
    }
    return NULL;
}

static void fault_unknown(struct walk *w, const yaml_node_t *node, const char *prefix, const char *where)
{
    char quoted[64], known[256] = "", text[320];
    const char *best = NULL;
    unsigned distance = ~0u;
    const char *name = (const char *)node->data.scalar.value;
    bool text_key = !memchr(name, 0, node->data.scalar.length);

    for (uint32_t i = 0; i < vgpu_key_count; i++) {
        const char *child = child_name(&vgpu_keys[i], prefix);
        if (!child)
            continue;
        if (text_key)
            vgpu_suggest_consider(name, child, &best, &distance);
        size_t n = strlen(known);
        snprintf(known + n, sizeof(known) - n, "%s%s", n ? ", " : "", child);
    }
    vgpu_key_quote(name, node->data.scalar.length, quoted, sizeof(quoted));
    if (best)
        snprintf(text, sizeof(text), "%s is no key here; expected one like it: %s", quoted, best);
    else
        snprintf(text, sizeof(text), "%s is no key here; expected one of %s", quoted, known);
    fault_node(w, node, where, text);
}

static void walk_mapping(struct walk *w, const char *prefix, const char *where, void *base, const yaml_node_t *node);

static void walk_list(struct walk *w, const struct vgpu_key *row, const char *key, const yaml_node_t *node)
{
    char element_prefix[VGPU_KEY_BYTES];
    uint32_t count = 0;

    if (!is_list(w, row, key, node))
        return;
    snprintf(element_prefix, sizeof(element_prefix), "%s[]", row->path);
    for (const yaml_node_item_t *i = node->data.sequence.items.start; i < node->data.sequence.items.top; i++) {
        const yaml_node_t *item = yaml_document_get_node(&w->doc, *i);
        char item_key[VGPU_KEY_BYTES];
        char *element = (char *)w->config + row->offset + count * row->bytes;

        snprintf(item_key, sizeof(item_key), "%.48s[%u]", key, count); /* the table's keys are shorter */
        place_add(w, item_key, item);
        vgpu_key_element_defaults(row, element);
        walk_mapping(w, element_prefix, item_key, element, item);
        count++;
    }
    memcpy((char *)w->config + row->count_offset, &count, sizeof(count));
}

static void walk_value(struct walk *w, const struct vgpu_key *row, void *base, const char *key, const yaml_node_t *node)
{
    if (row->type == VGPU_KEY_SECTION) {
        if (!node_empty(node)) /* a section whose keys are all commented out */
            walk_mapping(w, row->path, key, base, node);
    } else if (row->type == VGPU_KEY_LIST) {
        walk_list(w, row, key, node);
    } else if (row->type == VGPU_KEY_CPUS || row->type == VGPU_KEY_DEVICES) {
        walk_scalars(w, row, key, node);
    } else {
        walk_scalar(w, row, base, key, node);
    }
}

/* "pools[1]" and the row "pools[].name" make "pools[1].name". The table's longest is half of VGPU_KEY_BYTES. */
static void key_join(char key[VGPU_KEY_BYTES], const char *where, const struct vgpu_key *row)
{
    const char *dot = strrchr(row->path, '.');
    snprintf(key, VGPU_KEY_BYTES, "%.38s%s%.24s", where, where[0] ? "." : "", dot ? dot + 1 : row->path);
}

/* Keys of a list element without a default must be there. */
static void check_required(struct walk *w, const char *prefix, const char *where, const yaml_node_t *node)
{
    size_t n = strlen(prefix);

    if (n < 2 || strcmp(prefix + n - 2, "[]"))
        return;
    for (uint32_t i = 0; i < vgpu_key_count; i++) {
        const struct vgpu_key *row = &vgpu_keys[i];
        const char *child = child_name(row, prefix);
        char key[VGPU_KEY_BYTES], expected[160], what[64];

        if (!child || row->value || row->type == VGPU_KEY_SECTION)
            continue;
        key_join(key, where, row);
        if (vgpu_place_known(w->faults, key))
            continue;
        snprintf(what, sizeof(what), "%s is missing", child);
        vgpu_key_expected(row, expected, sizeof(expected));
        fault_expected(w, node, where, what, expected);
    }
}

/* prefix: as in the table ("pools[].budget"); where: this instance ("pools[1].budget"). */
static void walk_mapping(struct walk *w, const char *prefix, const char *where, void *base, const yaml_node_t *node)
{
    const struct vgpu_key *seen[MAX_KEYS_PER_MAPPING];
    uint32_t seen_count = 0;

    if (node->type != YAML_MAPPING_NODE) {
        char found[64], what[96];
        node_describe(node, found, sizeof(found));
        snprintf(what, sizeof(what), "is %s", found);
        fault_expected(w, node, where, what, "a mapping of keys to values");
        return;
    }
    for (const yaml_node_pair_t *p = node->data.mapping.pairs.start; p < node->data.mapping.pairs.top; p++) {
        const yaml_node_t *name = yaml_document_get_node(&w->doc, p->key);
        const yaml_node_t *value = yaml_document_get_node(&w->doc, p->value);
        const struct vgpu_key *row = NULL;
        char key[VGPU_KEY_BYTES];
        bool twice = false;

        if (name->type != YAML_SCALAR_NODE) {
            fault_expected(w, name, where, "a key is not a word", "a key's name");
            continue;
        }
        if (!memchr(name->data.scalar.value, 0, name->data.scalar.length))
            row = child_find(prefix, (const char *)name->data.scalar.value);
        if (!row) {
            fault_unknown(w, name, prefix, where);
            continue;
        }
        for (uint32_t i = 0; i < seen_count; i++)
            twice |= seen[i] == row;
        key_join(key, where, row);
        if (twice) {
            fault_expected(w, name, key, "stands here a second time", "each key once");
            continue;
        }
        seen[seen_count++] = row; /* at most one per row with this prefix */
        place_add(w, key, node_empty(value) || value->type != YAML_SCALAR_NODE ? name : value);
        walk_value(w, row, base, key, value);
    }
    check_required(w, prefix, where, node);
}

/* What libyaml itself refused. */
static void fault_parser(struct vgpu_faults *f, const yaml_parser_t *p, const char *text, size_t bytes)
{
    uint32_t line = (uint32_t)p->problem_mark.line + 1, column = (uint32_t)p->problem_mark.column + 1;

    if (p->error == YAML_READER_ERROR) { /* has an offset only */
        line = column = 1;
        for (size_t i = 0; i < p->problem_offset && i < bytes; i++) {
            column = text[i] == '\n' ? 1 : column + 1;
            line += text[i] == '\n';
        }
    }
    if (p->error == YAML_MEMORY_ERROR)
        vgpu_fault_at(f, 1, 1, "", "out of memory");
    else
        vgpu_fault_at(f, line, column, "", "not YAML: %s%s%s; expected well-formed YAML", p->problem ? p->problem : "?",
                      p->context ? " " : "", p->context ? p->context : "");
}

/*
 * libyaml's time grows with the square of the depth, so a file that nests deeper than any of ours is turned away before
 * it is loaded. Other faults are left to the loader.
 */
static bool depth_ok(struct walk *w, const char *text, size_t bytes)
{
    yaml_parser_t parser;
    yaml_event_t event;
    uint32_t depth = 0;
    bool end = false;

    if (!yaml_parser_initialize(&parser))
        return true;
    yaml_parser_set_input_string(&parser, (const unsigned char *)text, bytes);
    while (!end && depth <= MAX_DEPTH && yaml_parser_parse(&parser, &event)) {
        depth += event.type == YAML_SEQUENCE_START_EVENT || event.type == YAML_MAPPING_START_EVENT;
        depth -= event.type == YAML_SEQUENCE_END_EVENT || event.type == YAML_MAPPING_END_EVENT;
        end = event.type == YAML_STREAM_END_EVENT;
        if (depth > MAX_DEPTH)
            vgpu_fault_at(w->faults, (uint32_t)event.start_mark.line + 1, (uint32_t)event.start_mark.column + 1, "",
                          "nested too deep; expected at most %u levels", MAX_DEPTH);
        yaml_event_delete(&event);
    }
    yaml_parser_delete(&parser);
    return depth <= MAX_DEPTH;
}

static void walk_text(struct walk *w, const char *text, size_t bytes)
{
    yaml_parser_t parser;

    if (!depth_ok(w, text, bytes))
        return;
    if (!yaml_parser_initialize(&parser)) {
        vgpu_fault_at(w->faults, 1, 1, "", "out of memory");
        return;
    }
    yaml_parser_set_input_string(&parser, (const unsigned char *)text, bytes);
    if (!yaml_parser_load(&parser, &w->doc)) {
        fault_parser(w->faults, &parser, text, bytes);
        goto out_parser;
    }
    yaml_node_t *root = yaml_document_get_root_node(&w->doc);
    if (root && !node_empty(root))
        walk_mapping(w, "", "", w->config, root);
    bool more = root != NULL;
    yaml_document_delete(&w->doc);
    if (!more)
        goto out_parser;
    if (!yaml_parser_load(&parser, &w->doc)) {
        fault_parser(w->faults, &parser, text, bytes);
        goto out_parser;
    }
    root = yaml_document_get_root_node(&w->doc);
    if (root)
        fault_expected(w, root, "", "a second document begins", "one document in a file");
    yaml_document_delete(&w->doc);
out_parser:
    yaml_parser_delete(&parser);
}

static int fault_order(const void *a, const void *b)
{
    const struct vgpu_fault *x = a, *y = b;
    if (x->line != y->line)
        return x->line < y->line ? -1 : 1;
    if (x->column != y->column)
        return x->column < y->column ? -1 : 1;
    return x->order < y->order ? -1 : x->order > y->order;
}

static void faults_print(struct vgpu_faults *f, const char *name, FILE *errors)
{
    uint32_t kept = f->count < VGPU_CONFIG_MAX_FAULTS ? f->count : VGPU_CONFIG_MAX_FAULTS;

    if (!errors)
        return;
    qsort(f->fault, kept, sizeof(f->fault[0]), fault_order);
    for (uint32_t i = 0; i < kept; i++)
        fprintf(errors, "%s:%u:%u: %s\n", name, f->fault[i].line, f->fault[i].column, f->fault[i].text);
    if (f->count > kept)
        fprintf(errors, "%s: and %u more faults\n", name, f->count - kept);
}

int vgpu_config_parse(struct vgpu_config *c, const char *text, size_t bytes, const char *name, FILE *errors)
{
    int rc = 0;
    struct vgpu_config *fresh = malloc(sizeof(*fresh));
    struct vgpu_faults *faults = calloc(1, sizeof(*faults));

    if (!fresh || !faults) {
        if (errors)
            fprintf(errors, "%s: no memory to read a configuration\n", name);
        rc = -ENOMEM;
        goto out;
    }
    vgpu_config_defaults_underived(fresh);
    snprintf(fresh->path, sizeof(fresh->path), "%s", name);
    struct walk w = {.config = fresh, .faults = faults};
    if (bytes > VGPU_CONFIG_MAX_FILE_BYTES)
        vgpu_fault_at(faults, 1, 1, "", "the file has %zu bytes; expected at most %u", bytes,
                      VGPU_CONFIG_MAX_FILE_BYTES);
    else
        walk_text(&w, text, bytes);
    /* Rules between keys are checked only when each key is right, so that one mistake is not reported twice. */
    if (!faults->count)
        vgpu_config_check(fresh, faults);
    if (faults->count) {
        faults_print(faults, name, errors);
        rc = -EINVAL;
        goto out;
    }
    *c = *fresh;
out:
    free(faults);
    free(fresh);
    return rc;
}

int vgpu_config_load(struct vgpu_config *c, const char *path, FILE *errors)
{
    struct stat st;
    int rc = 0;
    char *text = NULL;
    size_t bytes = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not hang us */

    if (fd < 0 || fstat(fd, &st) < 0) {
        rc = -errno;
        goto out;
    }
    if (S_ISDIR(st.st_mode)) {
        rc = -EISDIR;
        goto out;
    }
    text = malloc(VGPU_CONFIG_MAX_FILE_BYTES + 1);
    if (!text) {
        rc = -ENOMEM;
        goto out;
    }
    while (bytes <= VGPU_CONFIG_MAX_FILE_BYTES) { /* one byte more than allowed tells that it is too long */
        ssize_t n = read(fd, text + bytes, VGPU_CONFIG_MAX_FILE_BYTES + 1 - bytes);
        if (n < 0) {
            rc = -errno;
            goto out;
        }
        if (n == 0)
            break;
        bytes += (size_t)n;
    }
out:
    if (rc && errors)
        fprintf(errors, "%s: cannot read: %s; expected a configuration file\n", path, strerror(-rc));
    if (!rc)
        rc = vgpu_config_parse(c, text, bytes, path, errors);
    free(text);
    if (fd >= 0)
        close(fd);
    return rc;
}
