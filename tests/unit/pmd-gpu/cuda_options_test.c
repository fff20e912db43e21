/* SPDX-License-Identifier: Apache-2.0 */
/* The options of the cuda backend: what each takes, and that an error says so. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "pmd-gpu/cuda/options.h"

static struct vgpu_cuda_options parsed(const char *text)
{
    struct vgpu_cuda_options o;
    struct vgpu_err err = {0};

    memset(&o, 0xa5, sizeof(o));
    cr_assert_eq(vgpu_cuda_options_parse(text, &o, &err), 0, "\"%.100s\": %s", text, err.text);
    return o;
}

/* Refused, with both words in the text. */
static void refused(const char *text, const char *word, const char *other)
{
    struct vgpu_cuda_options o;
    struct vgpu_err err = {0};

    cr_assert_eq(vgpu_cuda_options_parse(text, &o, &err), -EINVAL, "\"%.100s\" is accepted", text);
    cr_assert_eq(err.code, EINVAL);
    cr_assert(strstr(err.text, "backend cuda: "), "%s", err.text);
    cr_assert(strstr(err.text, word), "\"%.100s\": no \"%s\" in: %s", text, word, err.text);
    cr_assert(strstr(err.text, other), "\"%.100s\": no \"%s\" in: %s", text, other, err.text);
}

Test(cuda_options, defaults)
{
    const char *const empty[] = {"", NULL};

    for (int i = 0; i < 2; i++) {
        struct vgpu_cuda_options o;
        struct vgpu_err err = {0};
        memset(&o, 0xa5, sizeof(o));
        cr_assert_eq(vgpu_cuda_options_parse(empty[i], &o, &err), 0);
        cr_assert_eq(o.device, 0);
        cr_assert_eq(o.engine, VGPU_ENGINE_AUTO);
        cr_assert_eq(o.workers, 48);
        cr_assert(o.worker_hold && !o.partition_pools && o.register_arenas && !o.register_parks);
        cr_assert_eq(o.reserve_sms, 0);
        cr_assert_eq(o.deadline_ms, 10000);
        cr_assert_eq(o.park_ms, 1000);
        cr_assert_eq(o.staging_mib, 256);
        cr_assert_eq(o.launcher_cpu, -1);
        cr_assert(o.driver[0] == 0 && o.cublas[0] == 0 && o.nvml[0] == 0);
    }
}

#define AT(member) offsetof(struct vgpu_cuda_options, member)
static const struct {
    const char *key;
    size_t offset, bytes;
    unsigned long long min, max;
} numbers[] = {
    {"device", AT(device), 4, 0, 63},
    {"workers", AT(workers), 4, 1, 64},
    {"worker_hold", AT(worker_hold), 1, 0, 1},
    {"reserve_sms", AT(reserve_sms), 4, 0, 128},
    {"deadline_ms", AT(deadline_ms), 4, 0, 86400000},
    {"park_ms", AT(park_ms), 4, 0, 86400000},
    {"staging_mib", AT(staging_mib), 4, 0, 65536},
    {"register", AT(register_arenas), 1, 0, 1},
    {"register_parks", AT(register_parks), 1, 0, 1},
    {"launcher_cpu", AT(launcher_cpu), 4, 0, 4095},
};
#define NUMBERS (sizeof(numbers) / sizeof(numbers[0]))

static uint32_t value_of(const struct vgpu_cuda_options *o, size_t i)
{
    uint32_t value = 0;

    memcpy(&value, (const char *)o + numbers[i].offset, numbers[i].bytes); /* little endian, as all hosts of ours */
    return value;
}

Test(cuda_options, numbers_take_their_range_and_nothing_else)
{
    for (size_t i = 0; i < NUMBERS; i++) {
        char text[128], range[64], name[64];
        snprintf(name, sizeof(name), "option %s takes", numbers[i].key);
        snprintf(range, sizeof(range), "from %llu to %llu", numbers[i].min, numbers[i].max);
        for (int end = 0; end < 2; end++) {
            unsigned long long value = end ? numbers[i].max : numbers[i].min;
            snprintf(text, sizeof(text), "%s=%llu", numbers[i].key, value);
            struct vgpu_cuda_options o = parsed(text), defaults = parsed("");
            cr_assert_eq(value_of(&o, i), value, "%s gives %u", text, value_of(&o, i));
            memcpy((char *)&o + numbers[i].offset, (char *)&defaults + numbers[i].offset, numbers[i].bytes);
            for (size_t other = 0; other < NUMBERS; other++)
                cr_assert_eq(value_of(&o, other), value_of(&defaults, other), "%s changes %s", text,
                             numbers[other].key);
        }
        snprintf(text, sizeof(text), "%s=%llu", numbers[i].key, numbers[i].max + 1);
        refused(text, name, range);
        if (numbers[i].min > 0) {
            snprintf(text, sizeof(text), "%s=%llu", numbers[i].key, numbers[i].min - 1);
            refused(text, name, range);
        }
        const char *const wrong[] = {"", "-1", "+1", " 1", "1 ", "1x", "x", "0x1", "1.0", "99999999999999999999999"};
        for (size_t w = 0; w < sizeof(wrong) / sizeof(wrong[0]); w++) {
            snprintf(text, sizeof(text), "%s=%s", numbers[i].key, wrong[w]);
            refused(text, name, range);
        }
        /* No value at all, also where others come after it. */
        snprintf(text, sizeof(text), "no value for \"%s\"", numbers[i].key);
        refused(numbers[i].key, text, "KEY=VALUE");
        char list[128];
        snprintf(list, sizeof(list), "%s,device=1", numbers[i].key);
        refused(list, text, "KEY=VALUE");
    }
}

Test(cuda_options, words)
{
    cr_assert_eq(parsed("engine=auto").engine, VGPU_ENGINE_AUTO);
    cr_assert_eq(parsed("engine=stream").engine, VGPU_ENGINE_STREAM);
    cr_assert_eq(parsed("engine=batch").engine, VGPU_ENGINE_BATCH);
    cr_assert_eq(parsed("engine=resident").engine, VGPU_ENGINE_RESIDENT);
    cr_assert_not(parsed("partition=none").partition_pools);
    cr_assert(parsed("partition=pools").partition_pools);
    cr_assert_eq(parsed("launcher_cpu=any").launcher_cpu, -1);
    const char *const wrong[] = {"engine=", "engine=Auto", "engine=fast", "engine=streams", "engine=0"};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        refused(wrong[i], "option engine takes", "auto, stream, batch, resident");
    refused("partition=", "option partition takes", "none, pools");
    refused("partition=pool", "option partition takes", "none, pools");
    refused("launcher_cpu=all", "option launcher_cpu takes", "from 0 to 4095");
    refused("engine", "no value for \"engine\"", "KEY=VALUE");
    refused("partition,device=1", "no value for \"partition\"", "KEY=VALUE");
}

Test(cuda_options, paths)
{
    const char *const keys[] = {"driver", "cublas", "nvml"};

    for (int i = 0; i < 3; i++) {
        char text[600], path[400], name[64];
        snprintf(name, sizeof(name), "option %s", keys[i]);
        snprintf(text, sizeof(text), "%s=/a/b=c.so", keys[i]);
        struct vgpu_cuda_options o = parsed(text);
        const char *const got[] = {o.driver, o.cublas, o.nvml};
        for (int other = 0; other < 3; other++)
            cr_assert_str_eq(got[other], other == i ? "/a/b=c.so" : "", "%s sets %s", text, keys[other]);
        snprintf(text, sizeof(text), "%s=lib.so", keys[i]);
        refused(text, name, "an absolute path of at most 191 bytes");
        snprintf(text, sizeof(text), "%s=", keys[i]);
        refused(text, name, "an absolute path of at most 191 bytes");
        refused(keys[i], "no value for", keys[i]);
        memset(path, 'p', sizeof(path));
        path[0] = '/';
        for (size_t length = 190; length < 400; length++) {
            snprintf(text, sizeof(text), "%s=%.*s", keys[i], (int)length, path);
            if (length < VGPU_CUDA_PATH_BYTES) {
                o = parsed(text);
                const char *const at[] = {o.driver, o.cublas, o.nvml};
                cr_assert_eq(strlen(at[i]), length);
            } else {
                refused(text, name, length < 256 ? "at most 191 bytes" : "too long");
            }
        }
    }
}

Test(cuda_options, lists)
{
    struct vgpu_cuda_options o = parsed("device=3,engine=batch,workers=8,launcher_cpu=2,driver=/d,nvml=/n");

    cr_assert(o.device == 3 && o.engine == VGPU_ENGINE_BATCH && o.workers == 8 && o.launcher_cpu == 2);
    cr_assert(strcmp(o.driver, "/d") == 0 && strcmp(o.nvml, "/n") == 0 && o.cublas[0] == 0);
    /* The last one counts, whatever was before it; a comma at the end is nothing. */
    cr_assert_eq(parsed("device=3,device=4").device, 4);
    cr_assert_eq(parsed("engine=batch,device=4,engine=auto").engine, VGPU_ENGINE_AUTO);
    cr_assert_eq(parsed("launcher_cpu=3,launcher_cpu=any").launcher_cpu, -1);
    cr_assert_str_eq(parsed("driver=/long/path,driver=/d").driver, "/d");
    cr_assert_eq(parsed("device=5,").device, 5);
    refused("device=3,device=99", "option device", "from 0 to 63");
    /* Before and after what is wrong, all may be right. */
    refused("device=3,bogus=1,workers=4", "no option \"bogus\"", "workers");
}

Test(cuda_options, unknown_ones_are_named_with_those_that_exist)
{
    const char *const wrong[] = {"bogus=1",   "bogus",    "devic=1",   "devices=1",
                                 "Device=1",  "=1",       ",device=1", "device=1,,workers=4",
                                 " device=1", "device =1"};

    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        refused(wrong[i], "no option \"",
                "device engine workers worker_hold partition reserve_sms deadline_ms park_ms staging_mib register "
                "register_parks launcher_cpu driver cublas nvml");
}

Test(cuda_options, pools_and_reserved_sms_exclude_each_other)
{
    refused("partition=pools,reserve_sms=8", "partition=pools", "reserve_sms");
    refused("reserve_sms=1,device=0,partition=pools", "partition=pools", "reserve_sms");
    cr_assert_eq(parsed("partition=none,reserve_sms=8").reserve_sms, 8);
    cr_assert(parsed("partition=pools,reserve_sms=0").partition_pools);
    cr_assert_not(parsed("partition=pools,reserve_sms=8,partition=none").partition_pools);
}
