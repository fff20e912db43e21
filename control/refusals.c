/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Refusals in the history. What an administrator was refused is noted each time. Everybody else on the host can be refused
 * as often as they like, each row waits for the disk, and old ones make room for new ones (VGPU_AUDIT_REFUSALS): so each
 * uid has ROWS rows, one more each ROW_NS. What it is refused beyond them, or exactly as the time before, is counted, and
 * is one row once its window is over. Windows double from WINDOW_NS to WINDOW_MAX_NS for as long as there is something to
 * count: somebody who knocks all day costs some thirty rows, and each knock is in a number. UIDS uids are told apart at a
 * time; beyond that they share one budget.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "control/records.h"
#include "core/base/clock.h"

#define ROWS          20u
#define ROW_NS        UINT64_C(60000000000)
#define WINDOW_NS     UINT64_C(10000000000)
#define WINDOW_MAX_NS UINT64_C(3600000000000)
#define ARGUMENTS_MAX 4096u /* of a refused request, as they are noted */

static uint64_t since(uint64_t now_ns, uint64_t then_ns)
{
    return now_ns > then_ns ? now_ns - then_ns : 0;
}

/* The disk may be what refuses: then the log has to do. */
static void note(struct vgpu_control *c, const struct vgpu_caller *caller, const char *command, const char *object,
                 uint32_t vm_id, json_t *now, const char *result)
{
    struct vgpu_err why;

    if (vgpu_history_row(c->params.store, caller, command, object, vm_id, NULL, now, result, &why) && c->listen_fd >= 0)
        vgpu_log(VGPU_LOG_WARN, "a refusal of %s is not in the history (%s): %s", command, result, why.text);
}

/* The window is over: what was counted in it is a row, and the next is longer; nothing was: the next is a new one. */
static void window_end(struct vgpu_control *c, struct vgpu_refuser *r, uint64_t now_ns)
{
    const struct vgpu_caller who = {.uid = r->uid, .gid = -1, .pid = -1};
    char result[192];

    if (r->unnoted) {
        snprintf(result, sizeof(result), "%" PRIu64 " more %s refused in %" PRIu64 " s%s%s", r->unnoted,
                 r->unnoted == 1 ? "request was" : "requests were", since(now_ns, r->since_ns) / 1000000000u,
                 r->same ? ", each like the one before: " : "", r->same ? r->last_command : "");
        note(c, r->uid == VGPU_REFUSER_OTHERS ? NULL : &who, "refused", "", 0, NULL, result);
    }
    r->window_ns = !r->unnoted ? WINDOW_NS : r->window_ns * 2 < WINDOW_MAX_NS ? r->window_ns * 2 : WINDOW_MAX_NS;
    r->unnoted = 0;
    r->same = true;
    r->since_ns = now_ns;
}

void vgpu_refusals_flush(struct vgpu_control *c, uint64_t now_ns)
{
    for (uint32_t i = 0; i < VGPU_REFUSERS; i++) {
        struct vgpu_refuser *r = &c->refusers[i];
        if (r->used && r->unnoted && since(now_ns, r->since_ns) >= r->window_ns)
            window_end(c, r, now_ns);
    }
}

uint64_t vgpu_refusals_due_ns(const struct vgpu_control *c)
{
    uint64_t due = UINT64_MAX;

    for (uint32_t i = 0; i < VGPU_REFUSERS; i++) {
        const struct vgpu_refuser *r = &c->refusers[i];
        if (r->used && r->unnoted && r->since_ns + r->window_ns < due)
            due = r->since_ns + r->window_ns;
    }
    return due;
}

void vgpu_refusals_end(struct vgpu_control *c)
{
    for (uint32_t i = 0; i < VGPU_REFUSERS; i++)
        if (c->refusers[i].used && c->refusers[i].unnoted)
            window_end(c, &c->refusers[i], vgpu_now_ns());
}

/* Its rows are back and nothing is to be told of it: another one may have the place. */
static bool forgettable(const struct vgpu_refuser *r, uint64_t now_ns)
{
    return !r->unnoted && since(now_ns, r->since_ns) >= r->window_ns && since(now_ns, r->row_ns) >= ROWS * ROW_NS;
}

static struct vgpu_refuser *refuser_of(struct vgpu_control *c, int64_t uid, uint64_t now_ns)
{
    struct vgpu_refuser *place = NULL;

    for (uint32_t i = 0; i + 1 < VGPU_REFUSERS; i++) {
        struct vgpu_refuser *r = &c->refusers[i];
        if (r->used && r->uid == uid)
            return r;
        if (!place && (!r->used || forgettable(r, now_ns)))
            place = r;
    }
    if (!place) {
        place = &c->refusers[VGPU_REFUSERS - 1];
        uid = VGPU_REFUSER_OTHERS;
        if (place->used)
            return place;
    }
    *place = (struct vgpu_refuser){.used = true, .uid = uid, .rows = ROWS, .row_ns = now_ns, .since_ns = now_ns,
                                   .window_ns = WINDOW_NS, .same = true};
    return place;
}

/* One by one, or counted? */
static bool allowed(struct vgpu_control *c, const char *command, const char *object, const char *result)
{
    uint64_t now_ns = vgpu_now_ns();
    struct vgpu_refuser *r = refuser_of(c, c->caller ? c->caller->uid : -1, now_ns);

    if (since(now_ns, r->since_ns) >= r->window_ns)
        window_end(c, r, now_ns);
    uint64_t more = since(now_ns, r->row_ns) / ROW_NS;
    r->row_ns += more * ROW_NS;
    r->rows = r->rows + more < ROWS ? (uint32_t)(r->rows + more) : ROWS;
    bool same = !strcmp(r->last_command, command) && !strcmp(r->last_object, object) && !strcmp(r->last_result, result);
    if ((same && since(now_ns, r->last_ns) < r->window_ns) || !r->rows) {
        r->unnoted++;
        r->same = r->same && same;
        return false;
    }
    r->rows--;
    r->last_ns = now_ns;
    snprintf(r->last_command, sizeof(r->last_command), "%s", command);
    snprintf(r->last_object, sizeof(r->last_object), "%s", object);
    snprintf(r->last_result, sizeof(r->last_result), "%s", result);
    return true;
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
    uint32_t vm_id = args ? object_of(args, object, sizeof(object)) : 0;
    snprintf(result, sizeof(result), "%s: %s", vgpu_code_name(err->code), err->text);
    for (char *p = result; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            *p = '?';
    if ((!admin || !command) && !allowed(c, command ? command->name : what, object, result))
        return;
    note(c, c->caller, command ? command->name : what, object, vm_id, arguments_of(args), result);
}
