/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The history: rows of changes, of requests that were refused, and of pools that the configuration changed.
 *
 * What an administrator was refused is noted each time. Others can be refused as often as they like, and each row waits
 * for the disk: of theirs, and of what is no request at all, REFUSALS in REFUSALS_NS are noted one by one; the rest is one
 * row with their number.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "control/records.h"
#include "core/base/clock.h"

#define REFUSALS      20u
#define REFUSALS_NS   UINT64_C(10000000000)
#define ARGUMENTS_MAX 4096u /* of a refused request, as they are noted */

/* Takes both; each may be NULL. */
int vgpu_history_row(struct vgpu_store *s, const struct vgpu_caller *caller, const char *command, const char *object,
                     uint32_t vm_id, json_t *old, json_t *now, const char *result, struct vgpu_err *err)
{
    struct vgpu_audit_record a = {.vm_id = vm_id, .uid = -1, .pid = -1, .result = result};
    char *old_text = old ? json_dumps(old, JSON_COMPACT) : NULL, *new_text = now ? json_dumps(now, JSON_COMPACT) : NULL;

    if (caller) {
        a.uid = caller->uid;
        a.pid = caller->pid;
        snprintf(a.user, sizeof(a.user), "%s", caller->user);
    }
    snprintf(a.command, sizeof(a.command), "%s", command);
    snprintf(a.object, sizeof(a.object), "%s", object);
    a.old_json = old_text;
    a.new_json = new_text;
    int rc = (old && !old_text) || (now && !new_text) ? vgpu_err_set(err, ENOMEM, "out of memory")
                                                      : vgpu_store_audit_add(s, &a, err);
    free(old_text);
    free(new_text);
    json_decref(old);
    json_decref(now);
    return rc;
}

int vgpu_control_note(struct vgpu_control *c, const char *command, const char *object, json_t *now, struct vgpu_err *err)
{
    return vgpu_history_row(c->params.store, c->caller, command, object, 0, NULL, now, "ok", err);
}

/* ---- refusals ---- */

/* The disk may be what refuses: then the log has to do. */
static void note(struct vgpu_control *c, const struct vgpu_caller *caller, const char *command, const char *object,
                 uint32_t vm_id, json_t *now, const char *result)
{
    struct vgpu_err why;

    if (vgpu_history_row(c->params.store, caller, command, object, vm_id, NULL, now, result, &why) && c->listen_fd >= 0)
        vgpu_log(VGPU_LOG_WARN, "a refusal of %s is not in the history (%s): %s", command, result, why.text);
}

void vgpu_refusals_flush(struct vgpu_control *c, uint64_t now_ns)
{
    struct vgpu_refusals *r = &c->refusals;
    char result[96];

    if (now_ns - r->since_ns < REFUSALS_NS)
        return;
    uint32_t unnoted = r->unnoted;
    *r = (struct vgpu_refusals){.since_ns = now_ns};
    if (!unnoted)
        return;
    snprintf(result, sizeof(result), "%u more requests were refused than are noted one by one", unnoted);
    note(c, NULL, "refused", "", 0, NULL, result);
}

uint64_t vgpu_refusals_due_ns(const struct vgpu_control *c)
{
    return c->refusals.unnoted ? c->refusals.since_ns + REFUSALS_NS : UINT64_MAX;
}

static bool allowed(struct vgpu_control *c)
{
    struct vgpu_refusals *r = &c->refusals;

    vgpu_refusals_flush(c, vgpu_now_ns());
    if (r->noted < REFUSALS) {
        r->noted++;
        return true;
    }
    r->unnoted++;
    return false;
}

/* What it was about, of arguments that were found to be well-formed. */
static uint32_t object_of(const json_t *args, char *out, size_t bytes)
{
    const json_t *ids = json_object_get(args, "vm_ids");
    const char *pool = vgpu_arg_string(args, "pool");
    size_t n = json_array_size(ids);
    int64_t vm_id = n == 1 ? json_integer_value(json_array_get(ids, 0)) : n ? 0 : vgpu_arg_int(args, "vm_id", 0);

    out[0] = 0;
    if (vm_id)
        snprintf(out, bytes, "vm %" PRId64, vm_id);
    else if (n)
        snprintf(out, bytes, "%zu VMs", n);
    else if (pool)
        snprintf(out, bytes, "pool %s", pool);
    return (uint32_t)vm_id;
}

/* The arguments as a row's `new`: without a document, and not at any length. */
static json_t *arguments_of(const json_t *args)
{
    json_t *copy = json_object_size(args) ? json_copy((json_t *)args) : NULL;

    if (!copy)
        return NULL;
    json_object_del(copy, "document");
    char *text = json_dumps(copy, JSON_COMPACT);
    if (!text || strlen(text) > ARGUMENTS_MAX || !json_object_size(copy)) {
        json_decref(copy);
        copy = NULL;
    }
    free(text);
    return copy;
}

void vgpu_refusal_note(struct vgpu_control *c, const struct vgpu_command *command, const char *what, const json_t *args,
                       const struct vgpu_err *err)
{
    bool admin = c->caller && c->caller->role == VGPU_ROLE_ADMIN;
    char result[sizeof(err->text) + 24], object[64] = "";

    if (command && admin && !command->changes)
        return; /* a question without an answer; nobody was kept from anything */
    if (err->code == ENOTCONN)
        return; /* there is no daemon that could have refused */
    if ((!admin || !command) && !allowed(c))
        return;
    uint32_t vm_id = args ? object_of(args, object, sizeof(object)) : 0;
    snprintf(result, sizeof(result), "%s: %s", vgpu_code_name(err->code), err->text);
    for (char *p = result; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            *p = '?';
    note(c, c->caller, command ? command->name : what, object, vm_id, arguments_of(args), result);
}

/* ---- pools of the configuration ---- */

struct pools {
    struct vgpu_pool_record *list;
    uint32_t n;
    bool failed;
};

static bool pools_add(void *ctx, const struct vgpu_pool_record *p)
{
    struct pools *l = ctx;
    struct vgpu_pool_record *more = realloc(l->list, (l->n + 1) * sizeof(*more));

    l->failed = !more;
    if (!more)
        return false;
    l->list = more;
    l->list[l->n++] = *p;
    return true;
}

static int pools_read(struct vgpu_store *s, struct pools *l, struct vgpu_err *err)
{
    int rc = vgpu_store_each_pool(s, pools_add, l, err);

    return rc || !l->failed ? rc : vgpu_err_set(err, ENOMEM, "out of memory");
}

static const struct vgpu_pool_record *pools_find(const struct pools *l, const char *name)
{
    for (uint32_t i = 0; i < l->n; i++)
        if (!strcmp(l->list[i].name, name))
            return &l->list[i];
    return NULL;
}

static int pool_row(struct vgpu_store *s, const struct vgpu_caller *caller, const char *command, const char *name,
                    const struct vgpu_pool_record *old, const struct vgpu_pool_record *now, struct vgpu_err *err)
{
    char object[VGPU_NAME_BYTES + 8];

    snprintf(object, sizeof(object), "pool %s", name);
    return vgpu_history_row(s, caller, command, object, 0, old ? vgpu_pool_record_json(old) : NULL,
                            now ? vgpu_pool_record_json(now) : NULL, "ok", err);
}

int vgpu_control_put_pools(struct vgpu_store *s, const struct vgpu_caller *caller, const char *command,
                           const struct vgpu_config *config, struct vgpu_err *err)
{
    struct vgpu_pool_record pools[VGPU_CONFIG_MAX_POOLS] = {0};
    struct pools before = {0}, after = {0};
    uint32_t n = 0;
    int rc = vgpu_store_begin(s, err);

    if (rc)
        return rc;
    for (uint32_t i = 0; i < config->pool_count; i++) {
        if (config->pools[i].stored)
            continue;
        memcpy(pools[n].name, config->pools[i].name, sizeof(pools[n].name));
        pools[n++].capacity = config->pools[i].capacity;
    }
    rc = pools_read(s, &before, err);
    rc = rc ? rc : vgpu_store_put_pools(s, pools, n, err);
    rc = rc ? rc : pools_read(s, &after, err);
    for (uint32_t i = 0; i < before.n && !rc; i++)
        if (!pools_find(&after, before.list[i].name))
            rc = pool_row(s, caller, command, before.list[i].name, &before.list[i], NULL, err);
    for (uint32_t i = 0; i < after.n && !rc; i++) {
        const struct vgpu_pool_record *old = pools_find(&before, after.list[i].name);
        if (!old || old->capacity != after.list[i].capacity)
            rc = pool_row(s, caller, command, after.list[i].name, old, &after.list[i], err);
    }
    free(before.list);
    free(after.list);
    return vgpu_store_end(s, rc, err);
}
