/* SPDX-License-Identifier: Apache-2.0 */
/* Checks a request along the command's table of arguments, so that commands see only what they take. */
#include "control/control_int.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/suggest.h"

static const char *const priorities[VGPU_PRIO_COUNT] = {"high", "medium", "low"};
static const char *const engines[VGPU_VM_ENGINE_COUNT] = VGPU_VM_ENGINE_NAMES;

/* What a client wrote, for a message: short, printable, quoted. */
static const char *shown(const char *text, char out[48])
{
    size_t n = 0;

    out[n++] = '"';
    for (; *text && n < 40; text++)
        out[n++] = *text >= 0x20 && *text < 0x7f ? *text : '?';
    if (*text)
        n = (size_t)(stpcpy(out + n, "...") - out);
    out[n++] = '"';
    out[n] = 0;
    return out;
}

const char *vgpu_priority_name(uint32_t priority)
{
    return priority < VGPU_PRIO_COUNT ? priorities[priority] : "?";
}

const char *vgpu_engine_name(uint32_t engine)
{
    return engine < VGPU_VM_ENGINE_COUNT ? engines[engine] : "?";
}

/* Its place among the names, or -1. */
static int find(const char *text, const char *const *names, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        if (!strcmp(text, names[i]))
            return (int)i;
    return -1;
}

static int priority_find(const char *text)
{
    return find(text, priorities, VGPU_PRIO_COUNT);
}

static bool name_ok(const char *text)
{
    size_t n = strlen(text);
    return n > 0 && n < VGPU_NAME_BYTES &&
           strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") == n;
}

static int check_ids(const struct vgpu_arg *arg, const json_t *value, struct vgpu_err *err)
{
    uint8_t seen[(VGPU_VM_ID_MAX + 8) / 8] = {0};
    size_t n = json_array_size(value); /* 0 for what is no array */

    if (!n)
        return vgpu_err_set(err, EINVAL, "%s: expected a list of VM ids, at least one", arg->name);
    for (size_t i = 0; i < n; i++) {
        const json_t *item = json_array_get(value, i);
        json_int_t id = json_integer_value(item); /* 0 for what is no integer */
        if (id < 1 || id > VGPU_VM_ID_MAX)
            return vgpu_err_set(err, EINVAL, "%s[%zu]: expected a VM id from 1 to %u", arg->name, i, VGPU_VM_ID_MAX);
        if (seen[id / 8] & (1u << (id % 8)))
            return vgpu_err_set(err, EINVAL, "%s[%zu]: VM %" JSON_INTEGER_FORMAT " stands there twice", arg->name, i,
                                id);
        seen[id / 8] |= (uint8_t)(1u << (id % 8));
    }
    return 0;
}

static bool word_ok(const char *words, const char *text)
{
    size_t n = strlen(text);

    for (const char *at = words; n && *at; at += *at == '|') {
        size_t length = strcspn(at, "|");
        if (length == n && !memcmp(at, text, n))
            return true;
        at += length;
    }
    return false;
}

static bool text_ok(const char *text, int64_t most)
{
    size_t n = strlen(text);

    for (size_t i = 0; i < n; i++)
        if ((unsigned char)text[i] < 0x20 || text[i] == 0x7f)
            return false;
    return n > 0 && n <= (uint64_t)most;
}

bool vgpu_uuid_read(const char *text, char out[VGPU_UUID_BYTES])
{
    char lower[VGPU_UUID_BYTES];

    for (uint32_t i = 0; i < VGPU_UUID_BYTES - 1; i++) {
        bool dash = i == 8 || i == 13 || i == 18 || i == 23;
        if (dash ? text[i] != '-' : !isxdigit((unsigned char)text[i]))
            return false; /* also at the end of a short one */
        lower[i] = (char)tolower((unsigned char)text[i]);
    }
    lower[VGPU_UUID_BYTES - 1] = 0;
    if (text[VGPU_UUID_BYTES - 1])
        return false;
    if (out)
        memcpy(out, lower, sizeof(lower));
    return true;
}

static int check_arg(const struct vgpu_arg *arg, const json_t *value, struct vgpu_err *err)
{
    char text[48];

    switch (arg->type) {
    case VGPU_ARG_INT:
        if (!json_is_integer(value))
            return vgpu_err_set(err, EINVAL, "%s: expected a whole number from %" PRId64 " to %" PRId64, arg->name,
                                arg->min, arg->max);
        if (json_integer_value(value) < arg->min || json_integer_value(value) > arg->max)
            return vgpu_err_set(err, EINVAL,
                                "%s: %" JSON_INTEGER_FORMAT " is out of range; expected %" PRId64 " to %" PRId64,
                                arg->name, json_integer_value(value), arg->min, arg->max);
        return 0;
    case VGPU_ARG_NAME:
        if (!json_is_string(value) || !name_ok(json_string_value(value)))
            return vgpu_err_set(err, EINVAL, "%s: %s is not a name; expected 1 to %u of letters, digits, '.', '_', '-'",
                                arg->name, json_is_string(value) ? shown(json_string_value(value), text) : "this",
                                VGPU_NAME_BYTES - 1);
        return 0;
    case VGPU_ARG_PRIORITY:
        if (!json_is_string(value) || priority_find(json_string_value(value)) < 0)
            return vgpu_err_set(err, EINVAL, "%s: %s is no priority; expected high, medium or low", arg->name,
                                json_is_string(value) ? shown(json_string_value(value), text) : "this");
        return 0;
    case VGPU_ARG_ENGINE:
        if (!json_is_string(value) || find(json_string_value(value), engines, VGPU_VM_ENGINE_COUNT) < 0)
            return vgpu_err_set(err, EINVAL, "%s: %s is no engine; expected auto, stream, batch or resident", arg->name,
                                json_is_string(value) ? shown(json_string_value(value), text) : "this");
        return 0;
    case VGPU_ARG_VM_IDS:
        return check_ids(arg, value, err);
    case VGPU_ARG_WORD:
        if (!json_is_string(value) || !word_ok(arg->words, json_string_value(value)))
            return vgpu_err_set(err, EINVAL, "%s: %s is not possible; expected one of %s", arg->name,
                                json_is_string(value) ? shown(json_string_value(value), text) : "this", arg->words);
        return 0;
    case VGPU_ARG_UUID:
        if (!json_is_string(value) || !vgpu_uuid_read(json_string_value(value), NULL))
            return vgpu_err_set(err, EINVAL,
                                "%s: %s is no UUID; expected 8-4-4-4-12 hexadecimal digits, as the hypervisor shows it",
                                arg->name, json_is_string(value) ? shown(json_string_value(value), text) : "this");
        return 0;
    case VGPU_ARG_TEXT:
        if (!json_is_string(value) || !text_ok(json_string_value(value), arg->max))
            return vgpu_err_set(err, EINVAL, "%s: expected 1 to %" PRId64 " printable bytes", arg->name, arg->max);
        return 0;
    case VGPU_ARG_BOOL:
        return json_is_boolean(value) ? 0 : vgpu_err_set(err, EINVAL, "%s: expected true or false", arg->name);
    case VGPU_ARG_LIMIT:
        if (json_is_string(value) && !strcmp(json_string_value(value), "default"))
            return 0;
        if (!json_is_integer(value))
            return vgpu_err_set(err, EINVAL,
                                "%s: expected a whole number from %" PRId64 " to %" PRId64 ", or \"default\"", arg->name,
                                arg->min, arg->max);
        if (json_integer_value(value) < arg->min || json_integer_value(value) > arg->max)
            return vgpu_err_set(err, EINVAL,
                                "%s: %" JSON_INTEGER_FORMAT " is out of range; expected %" PRId64 " to %" PRId64
                                ", or \"default\"",
                                arg->name, json_integer_value(value), arg->min, arg->max);
        return 0;
    case VGPU_ARG_OBJECT:
        return json_is_object(value) ? 0 : vgpu_err_set(err, EINVAL, "%s: expected an object", arg->name);
    }
    return vgpu_err_set(err, EINVAL, "%s: of no known type", arg->name);
}

static const struct vgpu_command *command_find(const char *name, struct vgpu_err *err)
{
    const char *best = NULL;
    unsigned distance = ~0u;
    char text[48];

    for (uint32_t i = 0; i < vgpu_command_count; i++) {
        if (!strcmp(vgpu_commands[i].name, name))
            return &vgpu_commands[i];
        vgpu_suggest_consider(name, vgpu_commands[i].name, &best, &distance);
    }
    vgpu_err_set(err, ENOSYS, "unknown command %s%s%s%s", shown(name, text), best ? "; did you mean " : "",
                 best ? best : "", best ? "?" : "");
    return NULL;
}

static int args_check(const struct vgpu_command *command, const json_t *args, struct vgpu_err *err)
{
    const char *key;
    json_t *value;

    json_object_foreach((json_t *)args, key, value)
    {
        const struct vgpu_arg *arg = command->args;
        const char *best = NULL;
        unsigned distance = ~0u;
        char text[48];

        for (; arg->name && strcmp(arg->name, key); arg++)
            vgpu_suggest_consider(key, arg->name, &best, &distance);
        if (!arg->name)
            return vgpu_err_set(err, EINVAL, "%s takes no argument %s%s%s%s", command->name, shown(key, text),
                                best ? "; did you mean " : "", best ? best : "", best ? "?" : "");
        int rc = check_arg(arg, value, err);
        if (rc)
            return rc;
    }
    for (const struct vgpu_arg *arg = command->args; arg->name; arg++)
        if (arg->required && !json_object_get(args, arg->name))
            return vgpu_err_set(err, EINVAL, "%s needs the argument %s", command->name, arg->name);
    return 0;
}

int vgpu_request_check(const json_t *request, const struct vgpu_command **command, const json_t **args,
                       struct vgpu_err *err)
{
    const char *key;
    json_t *value;
    const json_t *name = json_object_get(request, "command");

    if (!json_is_object(request))
        return vgpu_err_set(err, EINVAL, "the request is not an object; expected {\"command\":NAME,\"args\":{...}}");
    json_object_foreach((json_t *)request, key, value)
    {
        char text[48];
        if (strcmp(key, "command") && strcmp(key, "args") && strcmp(key, "store"))
            return vgpu_err_set(err, EINVAL, "unknown key %s in the request; expected command and args",
                                shown(key, text));
    }
    value = json_object_get(request, "store");
    if (value && !json_is_string(value))
        return vgpu_err_set(err, EINVAL, "store: expected the text that says which file is meant");
    if (!json_is_string(name))
        return vgpu_err_set(err, EINVAL, "command: expected a command's name");
    *args = json_object_get(request, "args");
    if (*args && !json_is_object(*args))
        return vgpu_err_set(err, EINVAL, "args: expected an object");
    *command = command_find(json_string_value(name), err);
    if (!*command)
        return -ENOSYS;
    return args_check(*command, *args, err);
}

int64_t vgpu_arg_int(const json_t *args, const char *name, int64_t otherwise)
{
    const json_t *v = json_object_get(args, name);
    return v ? json_integer_value(v) : otherwise;
}

const char *vgpu_arg_string(const json_t *args, const char *name)
{
    return json_string_value(json_object_get(args, name));
}

int vgpu_arg_priority(const json_t *args, int otherwise)
{
    const char *text = vgpu_arg_string(args, "priority");
    return text ? priority_find(text) : otherwise;
}

uint32_t vgpu_arg_engine(const json_t *args)
{
    const char *text = vgpu_arg_string(args, "engine");
    return text ? (uint32_t)find(text, engines, VGPU_VM_ENGINE_COUNT) : VGPU_VM_ENGINE_AUTO;
}

json_t *vgpu_json_text(const char *text)
{
    json_t *v = json_string(text);
    char *plain;

    if (v || !(plain = strdup(text)))
        return v;
    for (char *p = plain; *p; p++)
        if ((unsigned char)*p >= 0x80)
            *p = '?';
    v = json_string(plain);
    free(plain);
    return v;
}

uint32_t vgpu_arg_word(const json_t *args, const char *name, const char *const *words, uint32_t count, uint32_t otherwise)
{
    const char *text = vgpu_arg_string(args, name);
    int at = text ? find(text, words, count) : -1;

    return at < 0 ? otherwise : (uint32_t)at;
}

bool vgpu_arg_bool(const json_t *args, const char *name)
{
    return json_is_true(json_object_get(args, name));
}

bool vgpu_arg_limit(const json_t *args, const char *name, uint64_t standard, uint64_t *out)
{
    const json_t *v = json_object_get(args, name);

    if (!v)
        return false;
    *out = json_is_string(v) ? standard : (uint64_t)json_integer_value(v);
    return true;
}
