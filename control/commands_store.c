/* SPDX-License-Identifier: Apache-2.0 */
/* Commands about the registry as a whole: its history, taking it out, putting it back. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "control/records.h"

#define EXPORT_FORMAT "vgpu-registry"
#define EXPORT_VERSION 1
#define HISTORY_DEFAULT 100
#define IMPORT_POOLS_MAX 1024u

struct listing {
    struct vgpu_control *c;
    json_t *list;
    bool failed;
};

static json_t *parsed_or_null(const char *text)
{
    json_t *v = text ? json_loads(text, 0, NULL) : NULL;

    return v ? v : json_null();
}

static bool list_change(void *ctx, const struct vgpu_audit_record *a)
{
    struct listing *l = ctx;

    l->failed = json_array_append_new(
                    l->list, json_pack("{s:I,s:I,s:o,s:o,s:o,s:s,s:s,s:o,s:o,s:o,s:o}", "seq", (json_int_t)a->seq, "time_us",
                                       (json_int_t)a->time_us, "uid", a->uid >= 0 ? json_integer(a->uid) : json_null(), "pid",
                                       a->pid >= 0 ? json_integer(a->pid) : json_null(), "user",
                                       a->user[0] ? vgpu_json_text(a->user) : json_null(), "command", a->command, "object",
                                       a->object, "vm_id", a->vm_id ? json_integer(a->vm_id) : json_null(), "old",
                                       parsed_or_null(a->old_json), "new", parsed_or_null(a->new_json), "result",
                                       vgpu_json_text(a->result))) != 0;
    return !l->failed;
}

json_t *vgpu_run_history(struct vgpu_control *c, const json_t *args, struct vgpu_err *err)
{
    const struct vgpu_audit_filter filter = {.vm_id = (uint32_t)vgpu_arg_int(args, "vm_id", 0),
                                             .since_us = vgpu_arg_int(args, "since_us", 0),
                                             .limit = (uint32_t)vgpu_arg_int(args, "limit", HISTORY_DEFAULT)};
    struct listing l = {.c = c, .list = json_array()};
    int rc = l.list ? vgpu_store_each_audit(c->params.store, &filter, list_change, &l, err) : 0;

    if (!rc && l.list && !l.failed)
        return vgpu_result(json_pack("{s:o}", "history", l.list), err);
    json_decref(l.list);
    return rc ? NULL : vgpu_result(NULL, err);
}

/* ---- export ---- */

static bool export_vm(void *ctx, const struct vgpu_vm_record *vm)
{
    struct listing *l = ctx;

    l->failed = json_array_append_new(l->list, vgpu_vm_record_json(vm)) != 0;
    return !l->failed;
}

static bool export_pool(void *ctx, const struct vgpu_pool_record *p)
{
    struct listing *l = ctx;

    l->failed = json_array_append_new(l->list, vgpu_pool_record_json(p)) != 0;
    return !l->failed;
}

/* No tokens: they are made anew where the document is imported. */
json_t *vgpu_run_export(struct vgpu_control *c, const json_t *args, struct vgpu_err *err)
{
    struct listing vms = {.c = c, .list = json_array()}, pools = {.c = c, .list = json_array()};
    int rc = vms.list && pools.list ? vgpu_store_each_pool(c->params.store, export_pool, &pools, err) : 0;

    if (!rc && vms.list && pools.list)
        rc = vgpu_store_each_vm(c->params.store, NULL, -1, export_vm, &vms, err);
    if (!rc && vms.list && pools.list && !vms.failed && !pools.failed)
        return vgpu_result(json_pack("{s:{s:s,s:i,s:o,s:o}}", "document", "format", EXPORT_FORMAT, "version", EXPORT_VERSION,
                                     "pools", pools.list, "vms", vms.list),
                           err);
    json_decref(vms.list);
    json_decref(pools.list);
    return rc ? NULL : vgpu_result(NULL, err);
}

/* ---- import ---- */

struct import {
    struct vgpu_control *c;
    struct vgpu_err *err;
    struct vgpu_change change;
    uint8_t named[(VGPU_VM_ID_MAX + 8) / 8]; /* VM ids of the document */
    uint32_t rooms;                          /* of change.vms */
    bool replace;
    int rc;
};

static int document_check(const json_t *document, struct vgpu_err *err)
{
    const char *key;
    json_t *value;
    const json_t *version = json_object_get(document, "version");

    json_object_foreach((json_t *)document, key, value)
    {
        if (strcmp(key, "format") && strcmp(key, "version") && strcmp(key, "pools") && strcmp(key, "vms"))
            return vgpu_err_set(err, EINVAL, "document: has a key that this version does not know; expected what export wrote");
    }
    const char *format = json_string_value(json_object_get(document, "format"));
    if (!format || strcmp(format, EXPORT_FORMAT))
        return vgpu_err_set(err, EINVAL, "document.format: expected \"%s\"; export writes such documents", EXPORT_FORMAT);
    if (!json_is_integer(version) || json_integer_value(version) < 1)
        return vgpu_err_set(err, EINVAL, "document.version: expected %d", EXPORT_VERSION);
    if (json_integer_value(version) > EXPORT_VERSION)
        return vgpu_err_set(err, ENOTSUP, "document.version: %" JSON_INTEGER_FORMAT
                                          " is newer than this version of vgpu knows (%d); import it with a newer one",
                            json_integer_value(version), EXPORT_VERSION);
    if (!json_is_array(json_object_get(document, "pools")) || !json_is_array(json_object_get(document, "vms")))
        return vgpu_err_set(err, EINVAL, "document: expected the lists pools and vms");
    return 0;
}

static int read_pools(struct import *im, const json_t *list)
{
    size_t n = json_array_size(list);
    char where[48];
    int rc = n <= IMPORT_POOLS_MAX ? 0 : vgpu_err_set(im->err, EINVAL, "document.pools: more than %u", IMPORT_POOLS_MAX);

    im->change.pools = rc ? NULL : calloc(n + 1, sizeof(*im->change.pools));
    if (!rc && !im->change.pools)
        rc = vgpu_err_set(im->err, ENOMEM, "out of memory");
    for (size_t i = 0; i < n && !rc; i++) {
        struct vgpu_pool_change *p = &im->change.pools[im->change.pool_count];
        snprintf(where, sizeof(where), "document.pools[%zu]", i);
        rc = vgpu_pool_record_parse(json_array_get(list, i), where, &p->now, im->err);
        for (uint32_t k = 0; k < im->change.pool_count && !rc; k++)
            if (!strcmp(im->change.pools[k].now.name, p->now.name))
                rc = vgpu_err_set(im->err, EINVAL, "%s: pool %s stands there twice", where, p->now.name);
        if (rc)
            break;
        struct vgpu_err none;
        p->have_now = true;
        p->have_old = vgpu_store_get_pool(im->c->params.store, p->now.name, &p->old, &none) == 0;
        im->change.pool_count++;
    }
    return rc;
}

static bool same_pool(const struct vgpu_pool_record *a, const struct vgpu_pool_record *b)
{
    return a->capacity == b->capacity && a->sm_share == b->sm_share && !strcmp(a->executor, b->executor);
}

static bool same_vm(const struct vgpu_vm_record *a, const struct vgpu_vm_record *b)
{
    return !strcmp(a->name, b->name) && !strcmp(a->pool, b->pool) && !strcmp(a->uuid, b->uuid) && !strcmp(a->reason, b->reason) &&
           a->priority == b->priority && a->engine == b->engine && a->in_flight == b->in_flight &&
           a->arena_bytes == b->arena_bytes && a->device_bytes == b->device_bytes && a->uid == b->uid &&
           a->isolation == b->isolation && a->iommu_domain == b->iommu_domain && a->admin_state == b->admin_state &&
           a->expected == b->expected;
}

static int read_vms(struct import *im, const json_t *list)
{
    size_t n = json_array_size(list);
    char where[48];
    int rc = 0;

    im->rooms = (uint32_t)n + VGPU_VM_ID_MAX;
    im->change.vms = n > VGPU_VM_ID_MAX ? NULL : calloc(n + 1, sizeof(*im->change.vms));
    if (!im->change.vms)
        return n > VGPU_VM_ID_MAX ? vgpu_err_set(im->err, EINVAL, "document.vms: more than %u", VGPU_VM_ID_MAX)
                                  : vgpu_err_set(im->err, ENOMEM, "out of memory");
    for (size_t i = 0; i < n && !rc; i++) {
        struct vgpu_vm_change *v = &im->change.vms[im->change.vm_count];
        struct vgpu_err none;
        snprintf(where, sizeof(where), "document.vms[%zu]", i);
        rc = vgpu_vm_record_parse(json_array_get(list, i), where, &v->now, im->err);
        if (rc)
            break;
        uint8_t *bits = &im->named[v->now.vm_id / 8], bit = (uint8_t)(1u << (v->now.vm_id % 8));
        if (*bits & bit)
            rc = vgpu_err_set(im->err, EINVAL, "%s: VM %u stands there twice", where, v->now.vm_id);
        *bits |= bit;
        v->have_now = true;
        v->have_old = vgpu_store_get_vm(im->c->params.store, v->now.vm_id, &v->old, &none) == 0;
        if (v->have_old && v->old.uid == v->now.uid) { /* the same user keeps its token */
            v->now.has_token = v->old.has_token;
            memcpy(v->now.token, v->old.token, sizeof(v->now.token));
        }
        im->change.vm_count++;
    }
    return rc;
}

/* A VM that is not in the document goes. */
static bool add_gone(void *ctx, const struct vgpu_vm_record *vm)
{
    struct import *im = ctx;

    if (im->named[vm->vm_id / 8] & (1u << (vm->vm_id % 8)))
        return true;
    struct vgpu_vm_change *more = realloc(im->change.vms, (im->change.vm_count + 1) * sizeof(*more));
    if (!more) {
        im->rc = vgpu_err_set(im->err, ENOMEM, "out of memory");
        return false;
    }
    im->change.vms = more;
    more[im->change.vm_count++] = (struct vgpu_vm_change){.have_old = true, .old = *vm};
    return true;
}

static bool add_gone_pool(void *ctx, const struct vgpu_pool_record *p)
{
    struct import *im = ctx;

    for (uint32_t i = 0; i < im->change.pool_count; i++)
        if (!strcmp(im->change.pools[i].now.name, p->name))
            return true;
    if (vgpu_pool_ruled(im->c, p->name))
        return true; /* the configuration's, which wins */
    struct vgpu_pool_change *more = realloc(im->change.pools, (im->change.pool_count + 1) * sizeof(*more));
    if (!more) {
        im->rc = vgpu_err_set(im->err, ENOMEM, "out of memory");
        return false;
    }
    im->change.pools = more;
    more[im->change.pool_count++] = (struct vgpu_pool_change){.have_old = true, .old = *p};
    return true;
}

/* Leaves only what is a change, and lists it. */
static json_t *differences(struct import *im)
{
    json_t *added = json_array(), *changed = json_array(), *removed = json_array(), *pools = json_array();
    uint32_t vms = 0, pool_count = 0;

    for (uint32_t i = 0; i < im->change.pool_count; i++) {
        struct vgpu_pool_change *p = &im->change.pools[i];
        if (p->have_old && p->have_now && same_pool(&p->old, &p->now))
            continue;
        json_array_append_new(pools, json_pack("{s:s,s:s}", "name", p->have_now ? p->now.name : p->old.name, "change",
                                               !p->have_old ? "added" : p->have_now ? "changed" : "removed"));
        im->change.pools[pool_count++] = *p;
    }
    for (uint32_t i = 0; i < im->change.vm_count; i++) {
        struct vgpu_vm_change *v = &im->change.vms[i];
        if (v->have_old && v->have_now && same_vm(&v->old, &v->now))
            continue;
        json_array_append_new(!v->have_old ? added : v->have_now ? changed : removed,
                              json_integer(v->have_now ? v->now.vm_id : v->old.vm_id));
        im->change.vms[vms++] = *v;
    }
    im->change.vm_count = vms;
    im->change.pool_count = pool_count;
    return json_pack("{s:o,s:o,s:o,s:o}", "added", added, "changed", changed, "removed", removed, "pools", pools);
}

json_t *vgpu_run_import(struct vgpu_control *c, const json_t *args, struct vgpu_err *err)
{
    static const char *const modes[] = {"merge", "replace"};
    const json_t *document = json_object_get(args, "document");
    struct import *im = calloc(1, sizeof(*im));
    json_t *result = NULL, *different = NULL;

    if (!im)
        return vgpu_result(NULL, err);
    *im = (struct import){.c = c, .err = err, .change = {.command = "import"}};
    im->replace = vgpu_arg_word(args, "mode", modes, 2, 0) == 1;
    int rc = document_check(document, err);
    rc = rc ? rc : read_pools(im, json_object_get(document, "pools"));
    rc = rc ? rc : read_vms(im, json_object_get(document, "vms"));
    if (!rc && im->replace) {
        rc = vgpu_store_each_vm(c->params.store, NULL, -1, add_gone, im, err);
        rc = rc ? rc : im->rc;
        rc = rc ? rc : vgpu_store_each_pool(c->params.store, add_gone_pool, im, err);
        rc = rc ? rc : im->rc;
    }
    if (!rc) {
        different = differences(im);
        rc = different ? 0 : vgpu_err_set(err, ENOMEM, "out of memory");
    }
    bool dry = vgpu_arg_bool(args, "dry_run");
    if (!rc && (im->change.vm_count || im->change.pool_count))
        rc = dry ? vgpu_change_try(c, &im->change, err) : vgpu_change_make(c, &im->change, err);
    if (!rc)
        result = vgpu_result(json_pack("{s:b,s:O}", "dry_run", dry, "differences", different), err);
    json_decref(different);
    free(im->change.vms);
    free(im->change.pools);
    free(im);
    return result;
}
