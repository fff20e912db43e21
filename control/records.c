/* SPDX-License-Identifier: Apache-2.0 */
#include "control/records.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

const char *const vgpu_isolations[VGPU_VM_ISOLATION_COUNT] = VGPU_VM_ISOLATION_NAMES;
const char *const vgpu_admin_states[VGPU_VM_ADMIN_COUNT] = VGPU_VM_ADMIN_NAMES;

static json_t *number_or_null(bool have, uint64_t v)
{
    return have ? json_integer((json_int_t)v) : json_null();
}

json_t *vgpu_vm_record_json(const struct vgpu_vm_record *vm)
{
    return json_pack("{s:i,s:s,s:s,s:s,s:s,s:o,s:o,s:o,s:o,s:o,s:s,s:I,s:s,s:s,s:b}", "vm_id", (int)vm->vm_id, "name",
                     vm->name, "pool", vm->pool, "priority", vgpu_priority_name(vm->priority), "engine",
                     vgpu_engine_name(vm->engine), "in_flight", number_or_null(vm->in_flight, vm->in_flight),
                     "arena_bytes", number_or_null(vm->arena_bytes, vm->arena_bytes), "device_bytes",
                     number_or_null(vm->device_bytes != UINT64_MAX, vm->device_bytes), "uid",
                     number_or_null(vm->uid >= 0, (uint64_t)vm->uid), "uuid",
                     vm->uuid[0] ? json_string(vm->uuid) : json_null(), "isolation", vgpu_isolations[vm->isolation],
                     "iommu_domain", (json_int_t)vm->iommu_domain, "admin_state", vgpu_admin_states[vm->admin_state],
                     "reason", vm->reason, "expected", vm->expected);
}

json_t *vgpu_pool_record_json(const struct vgpu_pool_record *p)
{
    return json_pack("{s:s,s:i,s:o,s:i}", "name", p->name, "capacity", (int)p->capacity, "executor",
                     p->executor[0] ? json_string(p->executor) : json_null(), "sm_share", (int)p->sm_share);
}

/* ---- the reverse ---- */

struct reader {
    const json_t *json;
    const char *where;
    struct vgpu_err *err;
    int rc;
    uint32_t taken; /* keys that were known */
};

static const json_t *take(struct reader *r, const char *key)
{
    const json_t *v = json_object_get(r->json, key);

    r->taken += v != NULL;
    return json_is_null(v) ? NULL : v;
}

static void wrong(struct reader *r, const char *key, const char *expected)
{
    if (!r->rc)
        r->rc = vgpu_err_set(r->err, EINVAL, "%s.%s: expected %s", r->where, key, expected);
}

static uint64_t take_number(struct reader *r, const char *key, uint64_t absent, uint64_t most)
{
    const json_t *v = take(r, key);
    char text[64];

    if (!v)
        return absent;
    if (!json_is_integer(v) || json_integer_value(v) < 0 || (uint64_t)json_integer_value(v) > most) {
        snprintf(text, sizeof(text), "a whole number from 0 to %" PRIu64 ", or null", most);
        wrong(r, key, text);
        return absent;
    }
    return (uint64_t)json_integer_value(v);
}

static void take_text(struct reader *r, const char *key, char *out, size_t bytes)
{
    const json_t *v = take(r, key);

    if (v && (!json_is_string(v) || json_string_length(v) >= bytes || strlen(json_string_value(v)) != json_string_length(v)))
        wrong(r, key, "a shorter text");
    else if (v)
        memcpy(out, json_string_value(v), json_string_length(v) + 1);
}

static uint32_t take_word(struct reader *r, const char *key, const char *const *words, uint32_t count, uint32_t absent)
{
    const json_t *v = take(r, key);
    char list[96] = "one of ";

    if (!v)
        return absent;
    for (uint32_t i = 0; i < count; i++) {
        if (json_is_string(v) && !strcmp(json_string_value(v), words[i]))
            return i;
        snprintf(list + strlen(list), sizeof(list) - strlen(list), "%s%s", i ? ", " : "", words[i]);
    }
    wrong(r, key, list);
    return absent;
}

static int reader_end(struct reader *r)
{
    if (!r->rc && r->taken != json_object_size(r->json))
        r->rc = vgpu_err_set(r->err, EINVAL, "%s: has keys that this version does not know", r->where);
    return r->rc;
}

int vgpu_vm_record_parse(const json_t *json, const char *where, struct vgpu_vm_record *out, struct vgpu_err *err)
{
    static const char *const priorities[] = {"high", "medium", "low"}, *const engines[] = VGPU_VM_ENGINE_NAMES;
    struct reader r = {.json = json, .where = where, .err = err};

    if (!json_is_object(json))
        return vgpu_err_set(err, EINVAL, "%s: expected an object", where);
    memset(out, 0, sizeof(*out));
    out->vm_id = (uint32_t)take_number(&r, "vm_id", 0, VGPU_VM_ID_MAX);
    if (!out->vm_id)
        wrong(&r, "vm_id", "a VM id from 1 to 65535");
    take_text(&r, "name", out->name, sizeof(out->name));
    take_text(&r, "pool", out->pool, sizeof(out->pool));
    out->priority = take_word(&r, "priority", priorities, VGPU_PRIO_COUNT, VGPU_PRIO_MEDIUM);
    out->engine = take_word(&r, "engine", engines, VGPU_VM_ENGINE_COUNT, VGPU_VM_ENGINE_AUTO);
    out->in_flight = (uint32_t)take_number(&r, "in_flight", 0, VGPU_RING_SLOTS_MAX);
    out->arena_bytes = take_number(&r, "arena_bytes", 0, UINT64_C(1) << 40);
    out->device_bytes = take_number(&r, "device_bytes", UINT64_MAX, UINT64_C(1) << 40);
    uint64_t uid = take_number(&r, "uid", UINT64_MAX, UINT64_C(4294967294));
    out->uid = uid == UINT64_MAX ? -1 : (int64_t)uid;
    take_text(&r, "uuid", out->uuid, sizeof(out->uuid));
    if (out->uuid[0] && !vgpu_uuid_read(out->uuid, out->uuid))
        wrong(&r, "uuid", "8-4-4-4-12 hexadecimal digits");
    out->isolation = take_word(&r, "isolation", vgpu_isolations, VGPU_VM_ISOLATION_COUNT, VGPU_VM_SHARED);
    out->iommu_domain = (uint32_t)take_number(&r, "iommu_domain", 0, UINT32_MAX);
    out->admin_state = take_word(&r, "admin_state", vgpu_admin_states, VGPU_VM_ADMIN_COUNT, VGPU_VM_ACTIVE);
    take_text(&r, "reason", out->reason, sizeof(out->reason));
    const json_t *expected = take(&r, "expected");
    if (expected && !json_is_boolean(expected))
        wrong(&r, "expected", "true or false");
    out->expected = json_is_true(expected);
    if (reader_end(&r))
        return r.rc;
    if (!out->name[0])
        snprintf(out->name, sizeof(out->name), "vm-%u", out->vm_id);
    return vgpu_store_check_vm(out, err);
}

int vgpu_pool_record_parse(const json_t *json, const char *where, struct vgpu_pool_record *out, struct vgpu_err *err)
{
    struct reader r = {.json = json, .where = where, .err = err};

    if (!json_is_object(json))
        return vgpu_err_set(err, EINVAL, "%s: expected an object", where);
    memset(out, 0, sizeof(*out));
    take_text(&r, "name", out->name, sizeof(out->name));
    out->capacity = (uint32_t)take_number(&r, "capacity", 0, VGPU_VM_ID_MAX);
    take_text(&r, "executor", out->executor, sizeof(out->executor));
    out->sm_share = (uint32_t)take_number(&r, "sm_share", 0, 100);
    return reader_end(&r) ? r.rc : vgpu_store_check_pool(out, err);
}
