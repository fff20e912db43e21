/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pmd-gpu/programs/programs.h"

static const struct {
    const char *key;
    size_t offset;
    uint64_t min, max, value;
} numbers[] = {
#define NUMBER(key, min, max, value)                                                                                   \
    {                                                                                                                  \
#key, offsetof(struct vgpu_programs_options, key), min, max, value                                             \
    }
    NUMBER(deadline_ms, 1, 3600000, 10000),
    NUMBER(load_deadline_ms, 1, 3600000, 300000),
    NUMBER(start_ms, 1, 600000, 60000),
    NUMBER(device_mib, 1, 1u << 20, 4096),
    NUMBER(memory_mib, 0, 1u << 20, 0),
    NUMBER(quantum_us, 1, 10000000, 8000),
    NUMBER(linger_us, 0, 1000000, 200),
    NUMBER(overstay_ms, 0, 3600000, 100),
    NUMBER(depth, 1, 32, 2),
    NUMBER(spin_us, 0, 1000000, 200),
};
static const struct {
    const char *key;
    size_t offset;
    bool path;
} texts[] = {
    {"plugin", offsetof(struct vgpu_programs_options, plugin), true},
    {"worker", offsetof(struct vgpu_programs_options, worker), true},
    {"client", offsetof(struct vgpu_programs_options, client), false},
};

#define LEN(a) (sizeof(a) / sizeof((a)[0]))

static int number_set(size_t i, const char *text, struct vgpu_programs_options *o, struct vgpu_err *err)
{
    char *end;

    errno = 0;
    unsigned long long v = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end || errno || v < numbers[i].min || v > numbers[i].max)
        return vgpu_err_set(err, EINVAL, "programs: %s needs a whole number from %llu to %llu, got \"%.40s\"",
                            numbers[i].key, (unsigned long long)numbers[i].min, (unsigned long long)numbers[i].max,
                            text);
    *(uint64_t *)((char *)o + numbers[i].offset) = v;
    return 0;
}

static int text_set(size_t i, const char *text, struct vgpu_programs_options *o, struct vgpu_err *err)
{
    if (strlen(text) >= VGPU_PROGRAMS_PATH_BYTES)
        return vgpu_err_set(err, EINVAL, "programs: %s is longer than %u characters", texts[i].key,
                            VGPU_PROGRAMS_PATH_BYTES - 1);
    if (texts[i].path && text[0] && text[0] != '/')
        return vgpu_err_set(err, EINVAL, "programs: %s needs an absolute path, got \"%.80s\"", texts[i].key, text);
    strcpy((char *)o + texts[i].offset, text);
    return 0;
}

static int option_set(const char *key, const char *value, struct vgpu_programs_options *o, struct vgpu_err *err)
{
    for (size_t i = 0; i < LEN(numbers); i++)
        if (strcmp(key, numbers[i].key) == 0)
            return number_set(i, value, o, err);
    for (size_t i = 0; i < LEN(texts); i++)
        if (strcmp(key, texts[i].key) == 0)
            return text_set(i, value, o, err);
    if (strcmp(key, "subprocess") == 0) {
        o->subprocess = strcmp(value, "yes") == 0;
        if (o->subprocess || strcmp(value, "no") == 0)
            return 0;
        return vgpu_err_set(err, EINVAL, "programs: subprocess is yes or no, got \"%.40s\"", value);
    }
    if (strcmp(key, "sharing") == 0) {
        o->together = strcmp(value, "together") == 0;
        if (o->together || strcmp(value, "turns") == 0)
            return 0;
        return vgpu_err_set(err, EINVAL, "programs: sharing is turns or together, got \"%.40s\"", value);
    }
    return vgpu_err_set(
        err, EINVAL,
        "programs: there is no \"%.40s\"; expected plugin, worker, client, deadline_ms, load_deadline_ms, "
        "start_ms, device_mib, memory_mib, quantum_us, linger_us, overstay_ms, depth, spin_us, sharing or subprocess",
        key);
}

void vgpu_programs_worker_path(const struct vgpu_programs_options *o, const char *executor_path,
                               char path[VGPU_PROGRAMS_PATH_BYTES])
{
    const char *slash = strrchr(executor_path, '/');
    int dir = slash ? (int)(slash - executor_path) : 0;

    snprintf(path, VGPU_PROGRAMS_PATH_BYTES, "%s", o->worker);
    if (!path[0] && slash && (size_t)dir + sizeof("/vgpu-worker") <= VGPU_PROGRAMS_PATH_BYTES)
        snprintf(path, VGPU_PROGRAMS_PATH_BYTES, "%.*s/vgpu-worker", dir, executor_path);
}

void vgpu_programs_worker_args(const struct vgpu_programs_options *o, uint64_t arena_off, uint64_t arena_bytes,
                               char *arena, size_t arena_size, char *limits, size_t limits_size)
{
    snprintf(arena, arena_size, "%llu:%llu", (unsigned long long)arena_off, (unsigned long long)arena_bytes);
    snprintf(limits, limits_size, "%llu:%llu:%llu:%d", (unsigned long long)o->device_mib,
             (unsigned long long)o->memory_mib, (unsigned long long)o->spin_us, o->subprocess);
}

int vgpu_programs_parse(const char *text, struct vgpu_programs_options *out, struct vgpu_err *err)
{
    char *copy = strdup(text), *save = NULL;
    int rc = 0;

    if (!copy)
        return vgpu_err_set(err, ENOMEM, "programs: no memory");
    memset(out, 0, sizeof(*out));
    out->starter_fd = -1;
    for (size_t i = 0; i < LEN(numbers); i++)
        *(uint64_t *)((char *)out + numbers[i].offset) = numbers[i].value;
    for (char *item = strtok_r(copy, ",", &save); item && rc == 0; item = strtok_r(NULL, ",", &save)) {
        char *eq = strchr(item, '=');
        if (!eq) {
            rc = vgpu_err_set(err, EINVAL, "programs: expected key=value, got \"%.40s\"", item);
            break;
        }
        *eq = '\0';
        rc = option_set(item, eq + 1, out, err);
    }
    if (rc == 0 && text[0] && !out->plugin[0])
        rc = vgpu_err_set(err, EINVAL, "programs: plugin=/path/to/pjrt_plugin.so is missing");
    free(copy);
    return rc;
}
