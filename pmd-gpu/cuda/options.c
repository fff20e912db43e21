/* SPDX-License-Identifier: Apache-2.0 */
#include "pmd-gpu/cuda/options.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum kind { NUMBER, FLAG, WORD, PATH, CPU };

static const char *const engines[] = {"auto", "stream", "batch", "resident", NULL};
static const char *const partitions[] = {"none", "pools", NULL};

struct option {
    const char *key;
    enum kind kind;
    size_t offset;
    uint64_t min, max;        /* NUMBER */
    const char *const *words; /* WORD: its index is the value */
};
#define AT(member) offsetof(struct vgpu_cuda_options, member)

static const struct option options[] = {
    {"device", NUMBER, AT(device), 0, 63, NULL},
    {"engine", WORD, AT(engine), 0, 0, engines},
    {"workers", NUMBER, AT(workers), 1, 64, NULL},
    {"worker_hold", FLAG, AT(worker_hold), 0, 1, NULL},
    {"partition", WORD, AT(partition_pools), 0, 0, partitions},
    {"reserve_sms", NUMBER, AT(reserve_sms), 0, 128, NULL},
    {"deadline_ms", NUMBER, AT(deadline_ms), 0, 86400000, NULL},
    {"park_ms", NUMBER, AT(park_ms), 0, 86400000, NULL},
    {"staging_mib", NUMBER, AT(staging_mib), 0, 65536, NULL},
    {"register", FLAG, AT(register_arenas), 0, 1, NULL},
    {"register_parks", FLAG, AT(register_parks), 0, 1, NULL},
    {"launcher_cpu", CPU, AT(launcher_cpu), 0, 4095, NULL},
    {"driver", PATH, AT(driver), 0, 0, NULL},
    {"cublas", PATH, AT(cublas), 0, 0, NULL},
    {"nvml", PATH, AT(nvml), 0, 0, NULL},
};
#define OPTION_COUNT (sizeof(options) / sizeof(options[0]))

static const struct option *option_find(const char *key, size_t bytes)
{
    for (size_t i = 0; i < OPTION_COUNT; i++)
        if (strlen(options[i].key) == bytes && memcmp(options[i].key, key, bytes) == 0)
            return &options[i];
    return NULL;
}

static int number_parse(const struct option *o, const char *value, uint64_t *out, struct vgpu_err *err)
{
    char *end;

    errno = 0;
    *out = strtoull(value, &end, 10);
    if (value[0] < '0' || value[0] > '9' || *end || errno || *out < o->min || *out > o->max)
        return vgpu_err_set(err, EINVAL, "backend cuda: option %s takes a whole number from %llu to %llu, got \"%s\"",
                            o->key, (unsigned long long)o->min, (unsigned long long)o->max, value);
    return 0;
}

static int word_parse(const struct option *o, const char *value, uint32_t *out, struct vgpu_err *err)
{
    for (uint32_t i = 0; o->words[i]; i++)
        if (strcmp(o->words[i], value) == 0) {
            *out = i;
            return 0;
        }
    char list[64] = "";
    for (uint32_t i = 0; o->words[i]; i++) {
        strcat(list, i ? ", " : "");
        strcat(list, o->words[i]);
    }
    return vgpu_err_set(err, EINVAL, "backend cuda: option %s takes one of %s, got \"%s\"", o->key, list, value);
}

static int option_set(const struct option *o, const char *value, struct vgpu_cuda_options *out, struct vgpu_err *err)
{
    void *at = (char *)out + o->offset;
    uint64_t number = 0;
    uint32_t word = 0;
    int rc = 0;

    switch (o->kind) {
    case NUMBER:
        rc = number_parse(o, value, &number, err);
        if (rc == 0)
            *(uint32_t *)at = (uint32_t)number;
        break;
    case FLAG:
        rc = number_parse(o, value, &number, err);
        if (rc == 0)
            *(bool *)at = number != 0;
        break;
    case WORD:
        rc = word_parse(o, value, &word, err);
        if (rc == 0 && o->words == engines)
            *(enum vgpu_engine *)at = (enum vgpu_engine)word;
        else if (rc == 0)
            *(bool *)at = word != 0;
        break;
    case CPU:
        if (strcmp(value, "any") == 0) {
            *(int *)at = -1;
            break;
        }
        rc = number_parse(o, value, &number, err);
        if (rc == 0)
            *(int *)at = (int)number;
        break;
    case PATH:
        if (value[0] != '/' || strlen(value) >= VGPU_CUDA_PATH_BYTES)
            return vgpu_err_set(err, EINVAL, "backend cuda: option %s takes an absolute path of at most %d bytes, got \"%s\"",
                                o->key, VGPU_CUDA_PATH_BYTES - 1, value);
        strcpy(at, value);
        break;
    }
    return rc;
}

int vgpu_cuda_options_parse(const char *text, struct vgpu_cuda_options *out, struct vgpu_err *err)
{
    *out = (struct vgpu_cuda_options){.engine = VGPU_ENGINE_AUTO,
                                      .workers = 48,
                                      .worker_hold = true,
                                      .deadline_ms = 10000,
                                      .park_ms = 1000,
                                      .staging_mib = 256,
                                      .register_arenas = true,
                                      .launcher_cpu = -1};
    for (const char *p = text ? text : ""; *p;) {
        size_t bytes = strcspn(p, ",");
        const char *equals = memchr(p, '=', bytes);
        size_t key = equals ? (size_t)(equals - p) : bytes;
        const struct option *o = option_find(p, key);
        char value[256];

        if (!o || !equals) {
            char list[256] = "";
            for (size_t i = 0; i < OPTION_COUNT; i++) {
                strcat(list, i ? " " : "");
                strcat(list, options[i].key);
            }
            return vgpu_err_set(err, EINVAL, "backend cuda: %s \"%.*s\"; options are KEY=VALUE, comma separated, with keys %s",
                                o ? "no value for" : "no option", (int)key, p, list);
        }
        size_t length = bytes - key - 1;
        if (length >= sizeof(value))
            return vgpu_err_set(err, EINVAL, "backend cuda: the value of option %s is too long", o->key);
        memcpy(value, equals + 1, length);
        value[length] = 0;
        int rc = option_set(o, value, out, err);
        if (rc)
            return rc;
        p += bytes + (p[bytes] == ',');
    }
    if (out->partition_pools && out->reserve_sms)
        return vgpu_err_set(err, EINVAL, "backend cuda: partition=pools and reserve_sms exclude each other");
    return 0;
}
