/* SPDX-License-Identifier: Apache-2.0 */
/* What differs between two configurations, key by key, along the table of keys. Elements of lists are told by name. */
#include "core/config_int.h"

#include <stdlib.h>
#include <string.h>

struct diff {
    const struct vgpu_config *old, *now;
    void (*each)(void *ctx, const struct vgpu_config_change *c);
    void *ctx;
};

/* A value as the file would have it, malloc'ed; NULL out of memory. */
static char *value_text(const struct vgpu_key *k, const void *base, const struct vgpu_config *c)
{
    char *text = NULL;
    size_t bytes;
    FILE *out = open_memstream(&text, &bytes);

    if (!out)
        return NULL;
    vgpu_key_write(out, k, base, c);
    if (fclose(out)) {
        free(text);
        return NULL;
    }
    return text;
}

/* base NULL: the element is not there. */
static void compare(struct diff *d, const struct vgpu_key *k, const char *element, const void *old, const void *now)
{
    char key[VGPU_KEY_BYTES + VGPU_NAME_BYTES];
    char *was = old ? value_text(k, old, d->old) : NULL, *is = now ? value_text(k, now, d->now) : NULL;
    const char *brackets = strstr(k->path, "[]");

    if (!((old && !was) || (now && !is)) && (!was || !is || strcmp(was, is))) {
        if (element && brackets)
            snprintf(key, sizeof(key), "%.*s[%s]%s", (int)(brackets - k->path), k->path, element, brackets + 2);
        else
            snprintf(key, sizeof(key), "%s", k->path);
        d->each(d->ctx, &(struct vgpu_config_change){
                            .path = k->path, .key = key, .element = element, .was = was, .is = is, .row = k});
    }
    free(was);
    free(is);
}

static const char *element_name(const void *element)
{
    return element; /* of pools and of executors it stands first */
}
_Static_assert(offsetof(struct vgpu_pool_config, name) == 0 && offsetof(struct vgpu_executor_config, name) == 0,
               "elements begin with their name");

static const void *element_find(const struct vgpu_key *list, const struct vgpu_config *c, const char *name)
{
    uint32_t count = *(const uint32_t *)((const char *)c + list->count_offset);

    for (uint32_t i = 0; i < count; i++) {
        const void *e = (const char *)c + list->offset + i * list->bytes;
        if (!strcmp(element_name(e), name))
            return e;
    }
    return NULL;
}

static void compare_element(struct diff *d, const struct vgpu_key *list, const char *name)
{
    const void *old = element_find(list, d->old, name), *now = element_find(list, d->now, name);
    size_t n = strlen(list->path);

    if (!old || !now) { /* one change for all of it: that of its name */
        char path[VGPU_KEY_BYTES];
        snprintf(path, sizeof(path), "%s[].name", list->path);
        compare(d, vgpu_key_find(path), name, old, now);
        return;
    }
    for (uint32_t i = 0; i < vgpu_key_count; i++) {
        const struct vgpu_key *k = &vgpu_keys[i];
        if (!strncmp(k->path, list->path, n) && !strncmp(k->path + n, "[].", 3) && k->type != VGPU_KEY_SECTION)
            compare(d, k, name, old, now);
    }
}

static void compare_list(struct diff *d, const struct vgpu_key *list)
{
    uint32_t old_count = *(const uint32_t *)((const char *)d->old + list->count_offset);
    uint32_t now_count = *(const uint32_t *)((const char *)d->now + list->count_offset);

    for (uint32_t i = 0; i < old_count; i++)
        compare_element(d, list, element_name((const char *)d->old + list->offset + i * list->bytes));
    for (uint32_t i = 0; i < now_count; i++) {
        const char *name = element_name((const char *)d->now + list->offset + i * list->bytes);
        if (!element_find(list, d->old, name))
            compare_element(d, list, name);
    }
}

void vgpu_config_diff(const struct vgpu_config *old, const struct vgpu_config *now,
                      void (*each)(void *ctx, const struct vgpu_config_change *c), void *ctx)
{
    struct diff d = {.old = old, .now = now, .each = each, .ctx = ctx};

    for (uint32_t i = 0; i < vgpu_key_count; i++) {
        const struct vgpu_key *k = &vgpu_keys[i];
        if (k->type == VGPU_KEY_LIST)
            compare_list(&d, k);
        else if (k->type != VGPU_KEY_SECTION && !strstr(k->path, "[]"))
            compare(&d, k, NULL, old, now);
    }
}

void vgpu_config_take(struct vgpu_config *to, const struct vgpu_config *from, const struct vgpu_config_change *c)
{
    const struct vgpu_key *k = c->row;
    char list_path[VGPU_KEY_BYTES];
    const char *brackets = strstr(k->path, "[]");
    char *dst = (char *)to;
    const char *src = (const char *)from;

    if (brackets) {
        snprintf(list_path, sizeof(list_path), "%.*s", (int)(brackets - k->path), k->path);
        const struct vgpu_key *list = vgpu_key_find(list_path);
        dst = (char *)(uintptr_t)element_find(list, to, c->element);
        src = element_find(list, from, c->element);
    }
    if (dst && src)
        memcpy(dst + k->offset, src + k->offset, k->bytes);
}
