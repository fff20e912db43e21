/* SPDX-License-Identifier: Apache-2.0 */
#include "core/config.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/config_int.h"

static struct vgpu_config c;

/* Parses text; returns what was printed (free it). */
static char *parse(const char *text, size_t bytes, int *rc)
{
    char *out = NULL;
    size_t n = 0;
    FILE *errors = open_memstream(&out, &n);

    *rc = vgpu_config_parse(&c, text, bytes, "t.yaml", errors);
    fclose(errors);
    return out;
}

/* Exactly these faults, and nothing applied. */
static void refused(const char *text, const char *faults)
{
    int rc;

    memset(&c, 0x5a, sizeof(c));
    char *out = parse(text, strlen(text), &rc);
    cr_expect_eq(rc, -EINVAL, "accepted:\n%s", text);
    cr_expect_str_eq(out, faults, "for:\n%s\ngot:\n%s\nexpected:\n%s", text, out, faults);
    for (size_t i = 0; i < sizeof(c); i++)
        cr_assert_eq(((unsigned char *)&c)[i], 0x5a, "a refused file changed byte %zu of the configuration", i);
    free(out);
}

static void accepted(const char *text)
{
    int rc;
    char *out = parse(text, strlen(text), &rc);

    cr_assert_eq(rc, 0, "%s", out);
    cr_assert_str_eq(out, "");
    free(out);
}

static void same_as_defaults(void)
{
    struct vgpu_config *d = malloc(sizeof(*d));

    vgpu_config_defaults(d);
    memset(d->path, 0, sizeof(d->path));
    memset(c.path, 0, sizeof(c.path));
    cr_assert_eq(memcmp(d, &c, sizeof(c)), 0);
    free(d);
}

Test(config, defaults)
{
    vgpu_config_defaults(&c);
    cr_assert_str_eq(c.run_dir, "/run/vgpu");
    cr_assert_str_eq(c.attach_socket, "/run/vgpu/attach.sock");
    cr_assert_str_eq(c.control_socket, "/run/vgpu/control.sock");
    cr_assert_str_eq(c.store, "/var/lib/vgpu/vgpu.db");
    cr_assert_str_eq(c.token_dir, "/run/vgpu/tokens");
    cr_assert_str_eq(c.executor_path, "");
    cr_assert_eq(c.poll_core_count, 1);
    cr_assert_eq(c.poll_cpu[0], VGPU_CPU_ANY);
    cr_assert_eq(c.burst, 32);
    cr_assert_eq(c.poll_idle.spin_ns, 20000);
    cr_assert_eq(c.poll_idle.pause_ns, 80000);
    cr_assert(c.poll_idle.sleep);
    cr_assert_eq(c.exec_idle.pause_ns, 80000);
    cr_assert_eq(c.scope, VGPU_SCOPE_POOL);
    cr_assert_eq(c.window, 256);
    cr_assert_eq(c.max_vms, 64);
    cr_assert_eq(c.in_flight, 1024);
    cr_assert_eq(c.max_handles, 1024);
    cr_assert_eq(c.ring_slots, 4096);
    cr_assert_eq(c.arena_bytes, 64u << 20);
    cr_assert_eq(c.device_bytes, 64u << 20);
    cr_assert_eq(c.max_arena_bytes, UINT64_C(4) << 30);
    cr_assert(c.hugepages);
    cr_assert_not(c.lock_memory || c.debug_ops || c.expose_exec_seq);
    cr_assert_eq(c.pool_count, 2);
    cr_assert_eq(c.executor_count, 2);
    for (int i = 0; i < 2; i++) {
        cr_assert_eq(c.pools[i].name[0], 'A' + i);
        cr_assert_str_eq(c.pools[i].executor, c.executors[i].name);
        cr_assert_eq(c.pools[i].capacity, 32);
        cr_assert_eq(c.pools[i].budget[VGPU_PRIO_HIGH], 64);
        cr_assert_eq(c.pools[i].budget[VGPU_PRIO_MEDIUM], 32);
        cr_assert_eq(c.pools[i].budget[VGPU_PRIO_LOW], 16);
        cr_assert_str_eq(c.executors[i].backend, "cpu");
        cr_assert_eq(c.executors[i].heap_bytes, UINT64_C(4) << 30);
        cr_assert_eq(c.executors[i].cpu, VGPU_CPU_ANY);
    }
    cr_assert_str_eq(c.executors[1].name, "exec-B");
}

Test(config, empty_files_are_all_defaults)
{
    static const char *const empty[] = {"", "\n\n", "# nothing\n", "---\n", "limits:\n", "{}\n"};
    for (size_t i = 0; i < sizeof(empty) / sizeof(empty[0]); i++) {
        accepted(empty[i]);
        same_as_defaults();
    }
}

Test(config, the_committed_reference_is_what_the_table_says)
{
    char *out = NULL, *file = NULL;
    size_t bytes = 0, file_bytes = 0, room = 1 << 20;
    FILE *stream = open_memstream(&out, &bytes);
    FILE *committed = fopen(VGPU_TEST_SOURCE_ROOT "/config/vgpud.yaml", "r");

    vgpu_config_reference(stream);
    fclose(stream);
    cr_assert_not_null(committed);
    file = calloc(1, room);
    file_bytes = fread(file, 1, room - 1, committed);
    fclose(committed);
    cr_assert_eq(file_bytes, bytes);
    cr_assert_str_eq(file, out, "config/vgpud.yaml is stale: run vgpu-config-reference");
    /* It parses to the defaults, and so does every key that it only shows. */
    accepted(file);
    same_as_defaults();
    for (char *p = file; (p = strstr(p, "\n  # ")); p++) {
        char *colon = strchr(p, ':'), *space = strchr(p + 5, ' ');
        if (colon && space == colon + 1 && colon[2] == '/')
            memmove(p + 3, p + 5, strlen(p + 5) + 1); /* "  # store: /x" becomes "  store: /x" */
    }
    cr_assert_not_null(strstr(file, "\n  store: /var/lib/vgpu/vgpu.db"));
    accepted(file);
    same_as_defaults();
    free(out);
    free(file);
}

/* A file that sets just this key: lists need their required neighbours. Returns the value's place. */
static void file_with(const struct vgpu_key *k, const char *value, char *out, size_t bytes, int *line, int *column)
{
    char path[VGPU_KEY_BYTES], *rest = path, *part;
    int n = 0, depth = 0;

    snprintf(path, sizeof(path), "%s", k->path);
    *line = 1;
    while ((part = strsep(&rest, "."))) {
        char *list = strstr(part, "[]");
        if (list) {
            *list = 0;
            bool pool = !strcmp(part, "pools");
            n += snprintf(out + n, bytes - (size_t)n, "%s:\n  -", part);
            if (strcmp(rest, "name"))
                n += snprintf(out + n, bytes - (size_t)n, " name: %s\n   ", pool ? "A" : "exec-A");
            if (pool && strcmp(rest, "executor"))
                n += snprintf(out + n, bytes - (size_t)n, " executor: exec-A\n   ");
            *line += 1 + (strcmp(rest, "name") != 0) + (pool && strcmp(rest, "executor"));
            depth = 2;
            out[n++] = ' ';
            out[n] = 0;
            *column = 5;
        } else {
            bool fresh = n && out[n - 1] != ' ';
            if (fresh)
                n += snprintf(out + n, bytes - (size_t)n, "%*s", 2 * depth, "");
            if (rest) {
                n += snprintf(out + n, bytes - (size_t)n, "%s:\n", part);
                ++*line;
                depth++;
            } else {
                int start = n;
                while (start && out[start - 1] != '\n')
                    start--;
                n += snprintf(out + n, bytes - (size_t)n, "%s: ", part);
                *column = n - start + 1;
                snprintf(out + n, bytes - (size_t)n, "%s\n", value);
            }
        }
    }
}

/* Each row of the table with a wrong value: the fault stands at the value and says what the table takes. */
static void each_key_refuses(const struct vgpu_key *k, const char *value, const char *what)
{
    char text[512], faults[512], expected[160], key[VGPU_KEY_BYTES + 2];
    int line = 0, column = 0, n = 0;

    file_with(k, value, text, sizeof(text), &line, &column);
    for (const char *p = k->path; *p; p++) {
        if (!strncmp(p, "[]", 2))
            n += snprintf(key + n, sizeof(key) - (size_t)n, "[0"), p++;
        key[n++] = *p;
    }
    key[n] = 0;
    vgpu_key_expected(k, expected, sizeof(expected));
    snprintf(faults, sizeof(faults), "t.yaml:%d:%d: %s: %s; expected %s\n", line, column, key, what, expected);
    refused(text, faults);
}

Test(config, every_key_refuses_a_wrong_type)
{
    uint32_t tried = 0;
    for (uint32_t i = 0; i < vgpu_key_count; i++) {
        const struct vgpu_key *k = &vgpu_keys[i];
        if (k->type == VGPU_KEY_SECTION || k->type == VGPU_KEY_LIST)
            continue;
        if (k->type != VGPU_KEY_CPUS && k->type != VGPU_KEY_DEVICES)
            each_key_refuses(k, "[1, 2]", "is a list");
        each_key_refuses(k, "{a: 1}", "is a mapping");
        tried++;
    }
    cr_assert_gt(tried, 30);
    refused("limits: 5\n", "t.yaml:1:9: limits: is \"5\"; expected a mapping of keys to values\n");
    refused("pools: 5\n", "t.yaml:1:8: pools: is \"5\"; expected a list of 1 to 16 entries\n");
    refused("pools:\n", "t.yaml:1:7: pools: has no value; expected a list of 1 to 16 entries\n");
    refused("pools: []\n", "t.yaml:1:8: pools: has 0 entries; expected a list of 1 to 16 entries\n");
    refused("pools: [A]\n", "t.yaml:1:9: pools[0]: is \"A\"; expected a mapping of keys to values\n");
    refused("[1]\n", "t.yaml:1:1: is a list; expected a mapping of keys to values\n");
    refused("hello\n", "t.yaml:1:1: is \"hello\"; expected a mapping of keys to values\n");
    refused("poll_cores: {cpus: 3}\n", "t.yaml:1:20: poll_cores.cpus: is \"3\"; expected a list of 1 to 16 entries, "
                                       "each any or a CPU number from 0 to 4095\n");
}

Test(config, every_number_refuses_what_is_out_of_range)
{
    uint32_t tried = 0;
    for (uint32_t i = 0; i < vgpu_key_count; i++) {
        const struct vgpu_key *k = &vgpu_keys[i];
        char value[32], what[96];
        bool size = k->type == VGPU_KEY_SIZE;
        if (!size && k->type != VGPU_KEY_UINT && k->type != VGPU_KEY_MICROS)
            continue;
        tried++;
        snprintf(value, sizeof(value), "%llu", (unsigned long long)k->max + 1);
        snprintf(what, sizeof(what), "\"%s\" is too large", value);
        each_key_refuses(k, value, what);
        each_key_refuses(k, "18446744073709551616", "\"18446744073709551616\" is too large");
        each_key_refuses(k, "99999999999999999999999999", "\"99999999999999999999999999\" is too large");
        if (k->min) {
            snprintf(value, sizeof(value), "%llu", (unsigned long long)k->min - 1);
            snprintf(what, sizeof(what), "\"%s\" is too small", value);
            each_key_refuses(k, value, what);
        }
        const char *kind = size ? "is not a size" : "is not a whole number";
        static const char *const bad[] = {"-1", "abc", "1.5", "0x10", "1e3", "+1", "1 0", "12x", "true", "~"};
        for (size_t j = 0; j < sizeof(bad) / sizeof(bad[0]); j++) {
            snprintf(what, sizeof(what), "\"%s\" %s", bad[j], kind);
            each_key_refuses(k, bad[j], what);
        }
        each_key_refuses(k, "\"64\"", "\"64\" is quoted, so it is text");
        each_key_refuses(k, size ? "64Q" : "64K", size ? "\"64Q\" is not a size" : "\"64K\" is not a whole number");
        if (size)
            each_key_refuses(k, "99999999999999G", "\"99999999999999G\" is too large");
        if (k->power_of_two)
            each_key_refuses(k, "1000", "\"1000\" is not a power of two");
    }
    cr_assert_gt(tried, 15);
}

Test(config, every_word_and_string_refuses_nonsense)
{
    for (uint32_t i = 0; i < vgpu_key_count; i++) {
        const struct vgpu_key *k = &vgpu_keys[i];
        switch (k->type) {
        case VGPU_KEY_BOOL:
            each_key_refuses(k, "yes", "\"yes\" is neither");
            each_key_refuses(k, "1", "\"1\" is neither");
            each_key_refuses(k, "'true'", "\"true\" is quoted, so it is text");
            break;
        case VGPU_KEY_TRI:
            each_key_refuses(k, "yes", "\"yes\" is none of them");
            break;
        case VGPU_KEY_LEVEL:
            each_key_refuses(k, "loud", "\"loud\" is no level");
            break;
        case VGPU_KEY_SCOPE:
            each_key_refuses(k, "hosts", "\"hosts\" is no scope");
            break;
        case VGPU_KEY_SCHED:
            each_key_refuses(k, "rr", "\"rr\" is no scheduling class");
            break;
        case VGPU_KEY_CPU:
            each_key_refuses(k, "4096", "\"4096\" is no CPU");
            each_key_refuses(k, "-1", "\"-1\" is no CPU");
            each_key_refuses(k, "ANY", "\"ANY\" is no CPU");
            break;
        case VGPU_KEY_PATH:
        case VGPU_KEY_SOCKET:
        case VGPU_KEY_BINARY:
            each_key_refuses(k, "run/vgpu", "\"run/vgpu\" is not an absolute path");
            each_key_refuses(k, "\"/a\\nb\"", "\"/a?b\" has control characters");
            each_key_refuses(k, "\"/a\\0b\"", "\"/a?b\" holds a NUL");
            break;
        case VGPU_KEY_NAME:
            each_key_refuses(k, "a b", "\"a b\" is not a name");
            each_key_refuses(k, "\"\"", "\"\" is not a name");
            each_key_refuses(k, "a2345678901234567890123456789012",
                             "\"a2345678901234567890123456789012\" is not a name");
            break;
        case VGPU_KEY_BACKEND:
            each_key_refuses(k, "gpu", "\"gpu\" is no backend");
            each_key_refuses(k, "fault:cuda", "\"fault:cuda\" is no backend");
            break;
        default:
            break;
        }
    }
    char text[512] = "paths: {attach_socket: /", faults[512];
    memset(text + strlen(text), 'x', 107);
    strcat(text, "}\n");
    snprintf(faults, sizeof(faults),
             "t.yaml:1:24: paths.attach_socket: \"/%.39s...\" is too long; expected an absolute path of at most 107 "
             "bytes\n",
             text + 24);
    refused(text, faults);
}

Test(config, devices_bound_to_vfio)
{
    static const char *const bad[] = {"1", "0000:00:03", "0000:00:03.8", "000:00:03.0", "0000:0g:03.0", "0000:00:03.0@",
                                      "0000:00:03.0@0", "0000:00:03.0@65536", "0000:00:03.0@x", "0000:00:03.0:rw",
                                      "0000:00:03.0:ro@1", "../../../etc", "0000:00:03.0@1:ro:ro", ":ro", "@1",
                                      "00000000000:00:03.0", "0000:00:03.0 ", "0000:AB:03.0"};

    accepted("iommu: {devices: [0000:00:03.0, 10000:e1:1f.7@7, 0000:00:05.0@65535:ro]}\n");
    cr_assert_eq(c.device_count, 3);
    cr_expect_str_eq(c.devices[0].address, "0000:00:03.0");
    cr_expect(c.devices[0].domain == 0 && !c.devices[0].read_only);
    cr_expect_str_eq(c.devices[1].address, "10000:e1:1f.7");
    cr_expect(c.devices[1].domain == 7 && !c.devices[1].read_only);
    cr_expect(c.devices[2].domain == 65535 && c.devices[2].read_only);
    for (int i = 0; i < 3; i++) {
        struct vgpu_device_config again = {0};
        char text[40];
        vgpu_key_device_text(&c.devices[i], text, sizeof(text));
        cr_expect(vgpu_key_device(text, &again), "%s", text);
        cr_expect_eq(memcmp(&again, &c.devices[i], sizeof(again)), 0, "%s", text);
    }
    accepted("iommu: {devices: []}\n");
    same_as_defaults();
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct vgpu_device_config d;
        cr_expect_not(vgpu_key_device(bad[i], &d), "accepted: %s", bad[i]);
    }
    refused("iommu: {devices: [0000:00:03.0, x]}\n",
            "t.yaml:1:33: iommu.devices[1]: \"x\" is no such device; expected a PCI address such as 0000:01:00.0, then @N for a "
            "domain from 1 to 65535, then :ro\n");
    refused("iommu: {devices: [0000:00:03.0, 0000:00:03.0@1]}\n",
            "t.yaml:1:33: iommu.devices[1]: 0000:00:03.0 stands there already; expected each device once\n");
    refused("iommu: {devices: [0000:00:03.0@1, 0000:00:04.0@1:ro]}\n",
            "t.yaml:1:35: iommu.devices[1]: 0000:00:03.0 may write and 0000:00:04.0 may not, both in domain 1; expected :ro on "
            "all of a domain or none\n");
}

Test(config, unknown_keys_are_refused_with_the_nearest)
{
    refused("limts:\n  handles: 5\n", "t.yaml:1:1: \"limts\" is no key here; expected one like it: limits\n");
    refused("limits:\n  handels: 5\n",
            "t.yaml:2:3: limits: \"handels\" is no key here; expected one like it: handles\n");
    refused("memory: {swap: true}\n",
            "t.yaml:1:10: memory: \"swap\" is no key here; expected one of hugepages, lock\n");
    refused("poll_cores:\n  idle: {spin: 3}\n",
            "t.yaml:2:10: poll_cores.idle: \"spin\" is no key here; expected one like it: spin_us\n");
    refused("pools:\n  - {name: A, executor: exec-A, buget: {high: 1}}\n",
            "t.yaml:2:33: pools[0]: \"buget\" is no key here; expected one like it: budget\n");
    refused("\"a\\0b\": 1\n", "t.yaml:1:1: \"a?b\" is no key here; expected one of paths, transports, ring, "
                              "poll_cores, executors, executor_idle, recovery, scheduler, pools, limits, memory, "
                              "iommu, log, control, privileges, debug\n");
    refused("? [x]\n: 1\n", "t.yaml:1:3: a key is not a word; expected a key's name\n");
    refused(
        "<<: {limits: {handles: 1}}\n",
        "t.yaml:1:1: \"<<\" is no key here; expected one of paths, transports, ring, poll_cores, executors, "
        "executor_idle, recovery, scheduler, pools, limits, memory, iommu, log, control, privileges, debug\n");
}

Test(config, duplicate_keys_are_refused)
{
    refused("debug: {exec_seq: true}\ndebug: {exec_seq: false}\n",
            "t.yaml:2:1: debug: stands here a second time; expected each key once\n");
    refused("limits:\n  handles: 5\n  handles: 5\n",
            "t.yaml:3:3: limits.handles: stands here a second time; expected each key once\n");
    refused("pools:\n  - {name: A, name: B, executor: exec-A}\n",
            "t.yaml:2:15: pools[0].name: stands here a second time; expected each key once\n");
}

Test(config, all_faults_are_told_in_one_run_in_file_order)
{
    refused("limits:\n  handles: 0\n  in_flight: x\nmemroy: 1\npools:\n  - name: A\n",
            "t.yaml:2:12: limits.handles: \"0\" is too small; expected a whole number from 1 to 65535 (buffers)\n"
            "t.yaml:3:14: limits.in_flight: \"x\" is not a whole number; expected a whole number from 1 to 65536 "
            "(descriptors)\n"
            "t.yaml:4:1: \"memroy\" is no key here; expected one like it: memory\n"
            "t.yaml:6:5: pools[0]: executor is missing; expected 1 to 31 of letters, digits, '.', '_' and '-'\n");
    char text[4096] = "", *out;
    int rc, n = 0, lines = 0;
    for (int i = 0; i < 100; i++)
        n += snprintf(text + n, sizeof(text) - (size_t)n, "unknown%d: 1\n", i);
    out = parse(text, strlen(text), &rc);
    for (char *p = out; *p; p++)
        lines += *p == '\n';
    cr_assert_eq(rc, -EINVAL);
    cr_assert_eq(lines, VGPU_CONFIG_MAX_FAULTS + 1);
    cr_assert_not_null(strstr(out, "t.yaml: and 36 more faults\n"));
    free(out);
}

Test(config, rules_between_keys)
{
    refused("pools:\n  - name: A\n    executor: exec-C\n",
            "t.yaml:3:15: pools[0].executor: pool A wants executor \"exec-C\", which there is not; expected one like "
            "it: exec-A\n");
    refused(
        "pools:\n  - name: A\n    executor: main\n",
        "t.yaml:3:15: pools[0].executor: pool A wants executor \"main\", which there is not; expected one of exec-A, "
        "exec-B\n");
    refused("executors:\n  - name: gpu-0\npools:\n  - name: A\n    executor: gpu0\n",
            "t.yaml:2:11: executors[0].name: no pool uses \"gpu-0\"; expected a pool whose executor it is\n"
            "t.yaml:5:15: pools[0].executor: pool A wants executor \"gpu0\", which there is not; expected one like it: "
            "gpu-0\n");
    refused("executors: [{name: exec-A}]\n",
            "t.yaml:1:1: executors: pool B wants executor \"exec-B\", which there is not; expected one like it: "
            "exec-A\n");
    refused("executors: [{name: x}, {name: x}]\npools: [{name: A, executor: x}]\n",
            "t.yaml:1:31: executors[1].name: \"x\" names an executor above; expected a name of its own\n");
    refused("pools:\n  - {name: A, executor: exec-A}\n  - {name: A, executor: exec-B}\n",
            "t.yaml:3:12: pools[1].name: \"A\" names a pool above; expected a name of its own\n");
    refused(
        "scheduler: {scope: host}\npools:\n  - {name: A, executor: exec-A}\n  - {name: B, executor: exec-B}\n",
        "t.yaml:4:25: pools[1].executor: differs from pool A's, and scheduler.scope is host; expected exec-A for all "
        "pools\n");
    refused(
        "scheduler: {scope: host}\n",
        "t.yaml:1:1: pools[1].executor: differs from pool A's, and scheduler.scope is host; expected exec-A for all "
        "pools\n");
    refused(
        "executors: [{name: x, backend: cuda, in_process: true}]\npools: [{name: A, executor: x}]\n",
        "t.yaml:1:50: executors[0].in_process: is true with backend cuda; expected backend null, cpu, fault:null or "
        "fault:cpu\n");
    refused("executors: [{name: x, cpu: 3, in_process: true}]\npools: [{name: A, executor: x}]\n",
            "t.yaml:1:28: executors[0].cpu: is 3, but it runs in_process on a poll core; expected any\n");
    refused("executors: [{name: x, memory_bytes: 1G, in_process: true}]\npools: [{name: A, executor: x}]\n",
            "t.yaml:1:37: executors[0].memory_bytes: is set, but it runs in_process on a poll core; expected 0\n");
    refused("executors: [{name: x, memory_bytes: 1M}]\npools: [{name: A, executor: x}]\n",
            "t.yaml:1:37: executors[0].memory_bytes: is too little for any executor to start; expected 0 (no limit) or at "
            "least 64M\n");
    refused("executors: [{name: x, heap_bytes: 1M}]\npools: [{name: A, executor: x}]\n",
            "t.yaml:1:35: executors[0].heap_bytes: executor x has a smaller heap than one VM's share; expected "
            "limits.device_bytes <= heap_bytes\n");
    refused("limits:\n  device_bytes: 5G\n",
            "t.yaml:2:17: limits.device_bytes: executor exec-A has a smaller heap than one VM's share; expected "
            "limits.device_bytes <= heap_bytes\n");
    refused("limits:\n  arena_bytes: 8G\n",
            "t.yaml:2:16: limits.arena_bytes: the default arena is larger than the largest; expected arena_bytes <= "
            "max_arena_bytes\n");
    refused(
        "limits:\n  max_arena_bytes: 1M\n",
        "t.yaml:2:20: limits.max_arena_bytes: the default arena is larger than the largest; expected arena_bytes <= "
        "max_arena_bytes\n");
    refused("limits:\n  ring_slots: 512\n",
            "t.yaml:2:15: limits.ring_slots: 1024 in flight do not fit into rings of 512 slots; expected in_flight <= "
            "ring_slots\n");
    refused("poll_cores: {cpus: [1, any, 2, 1, any]}\n",
            "t.yaml:1:32: poll_cores.cpus[3]: CPU 1 has a poll core already; expected each CPU once\n");
    refused("paths: {control_socket: /a/b, attach_socket: /a/b}\n",
            "t.yaml:1:25: paths.control_socket: is the same as the other socket; expected two different paths\n");
    refused("pools:\n  - {name: A, executor: exec-A, capacity: 65535}\n  - {name: B, executor: exec-B, capacity: 1}\n",
            "t.yaml:3:43: pools[1].capacity: makes 65536 VMs in all pools; expected at most 65535, the number of VM "
            "ids\n");
    refused("poll_cores: {cpus: [any, x]}\n",
            "t.yaml:1:26: poll_cores.cpus[1]: \"x\" is no CPU; expected any, or a CPU number from 0 to 4095\n");
}

Test(config, a_run_dir_too_long_for_its_sockets)
{
    char text[256], faults[512], dir[128];

    memset(dir, 'x', sizeof(dir));
    dir[0] = '/';
    dir[107 - 13 + 1] = 0; /* attach.sock (12 with its slash) fits in 107, control.sock (13) does not */
    snprintf(text, sizeof(text), "paths: {run_dir: %s}\n", dir);
    snprintf(faults, sizeof(faults),
             "t.yaml:1:18: paths.run_dir: is too long for paths.control_socket below it; expected room for "
             "/control.sock in 107 bytes\n");
    refused(text, faults);
    dir[107 - 13] = 0;
    snprintf(text, sizeof(text), "paths: {run_dir: %s}\n", dir);
    accepted(text);
    cr_assert_eq(strlen(c.control_socket), 107);
}

Test(config, derived_paths_follow_unless_they_are_set)
{
    accepted("paths: {run_dir: /tmp/v/, state_dir: /}\n");
    cr_assert_str_eq(c.attach_socket, "/tmp/v/attach.sock");
    cr_assert_str_eq(c.control_socket, "/tmp/v/control.sock");
    cr_assert_str_eq(c.token_dir, "/tmp/v/tokens");
    cr_assert_str_eq(c.store, "/vgpu.db");
    accepted("paths:\n  run_dir: /tmp/v\n  token_dir: /t\n  executor: /usr/bin/vgpu-exec\n");
    cr_assert_str_eq(c.token_dir, "/t");
    cr_assert_str_eq(c.executor_path, "/usr/bin/vgpu-exec");
    cr_assert_str_eq(c.attach_socket, "/tmp/v/attach.sock");
}

Test(config, everything_set)
{
    accepted("poll_cores:\n  cpus: [2, 3]\n  burst: 8\n  idle: {spin_us: 0, pause_us: 1, sleep: false}\n"
             "executors:\n  - {name: one, backend: \"fault:cpu\", options: \"a=1,b=2\", cpu: 5, heap_bytes: 100M}\n"
             "  - {name: two, backend: 'null', in_process: true}\n"
             "executor_idle: {spin_us: 7}\n"
             "recovery: {backoff_min_us: 1000, backoff_max_us: 1000, deaths: 64, window_s: 5, retry_s: 6}\n"
             "scheduler: {scope: pool, window: 8}\n"
             "pools:\n  - {name: p.1, executor: two, capacity: 3, budget: {high: 9, low: 1}}\n"
             "  - {name: p-2, executor: one}\n"
             "limits: {attached_vms: 4096, in_flight: 8, handles: 65535, ring_slots: 8, arena_bytes: 4K,\n"
             "  device_bytes: 0, max_arena_bytes: 1024G}\n"
             "memory: {hugepages: false, lock: true}\ndebug: {debug_ops: true, exec_seq: true}\n");
    cr_assert_eq(c.poll_core_count, 2);
    cr_assert_eq(c.poll_cpu[1], 3);
    cr_assert_eq(c.poll_idle.spin_ns, 0);
    cr_assert_eq(c.poll_idle.pause_ns, 1000);
    cr_assert_not(c.poll_idle.sleep);
    cr_assert_eq(c.exec_idle.spin_ns, 7000);
    cr_assert(c.recovery.backoff_min_ns == 1000000 && c.recovery.backoff_max_ns == 1000000);
    cr_assert(c.recovery.deaths == 64 && c.recovery.window_s == 5 && c.recovery.retry_s == 6);
    cr_assert_str_eq(c.executors[0].backend, "fault:cpu");
    cr_assert_str_eq(c.executors[0].options, "a=1,b=2");
    cr_assert_eq(c.executors[0].cpu, 5);
    cr_assert_eq(c.executors[0].heap_bytes, 100u << 20);
    cr_assert_str_eq(c.executors[1].backend, "null");
    cr_assert(c.executors[1].in_process);
    cr_assert_eq(c.executors[1].cpu, VGPU_CPU_ANY);
    cr_assert_eq(c.pools[0].budget[VGPU_PRIO_HIGH], 9);
    cr_assert_eq(c.pools[0].budget[VGPU_PRIO_MEDIUM], 32, "a key left out of a list element has its default");
    cr_assert_eq(c.pools[0].budget[VGPU_PRIO_LOW], 1);
    cr_assert_eq(c.pools[1].capacity, 32);
    cr_assert_eq(c.device_bytes, 0);
    cr_assert_eq(c.max_arena_bytes, UINT64_C(1) << 40);
    cr_assert(c.lock_memory && c.debug_ops && c.expose_exec_seq && !c.hugepages);
}

Test(config, default_executors_that_no_pool_uses_are_not_started)
{
    accepted("pools: [{name: solo, executor: exec-B}]\n");
    cr_assert_eq(c.executor_count, 1);
    cr_assert_str_eq(c.executors[0].name, "exec-B");
}

Test(config, what_is_no_yaml)
{
    refused("a: [1\n", "t.yaml:2:1: not YAML: did not find expected ',' or ']' while parsing a flow sequence; expected "
                       "well-formed YAML\n");
    refused("a: b: c\n", "t.yaml:1:5: not YAML: mapping values are not allowed in this context; expected well-formed "
                         "YAML\n");
    refused("x: *nobody\n", "t.yaml:1:4: not YAML: found undefined alias; expected well-formed YAML\n");
    refused("debug: {}\n---\ndebug: {}\n", "t.yaml:3:1: a second document begins; expected one document in a file\n");
    refused("debug:\n  exec_seq: \xff\n", "t.yaml:2:13: not YAML: invalid leading UTF-8 octet; expected well-formed "
                                          "YAML\n");
    /* An alias that contains itself must not loop. */
    int rc;
    static const char loop[] = "limits: &a\n  handles: *a\npools: &b [*b]\n";
    char *out = parse(loop, sizeof(loop) - 1, &rc);
    cr_assert_eq(rc, -EINVAL);
    cr_assert_not_null(strstr(out, "limits.handles: is a mapping; expected a whole number"));
    free(out);
    /* Nor deep nesting, a NUL, or a very long file. */
    char *deep = malloc(VGPU_CONFIG_MAX_FILE_BYTES + 1);
    memset(deep, '[', VGPU_CONFIG_MAX_FILE_BYTES + 1);
    out = parse(deep, VGPU_CONFIG_MAX_FILE_BYTES, &rc);
    cr_assert_eq(rc, -EINVAL);
    cr_assert_str_eq(out, "t.yaml:1:17: nested too deep; expected at most 16 levels\n");
    free(out);
    memset(deep, '#', VGPU_CONFIG_MAX_FILE_BYTES + 1);
    out = parse(deep, VGPU_CONFIG_MAX_FILE_BYTES, &rc);
    cr_assert_eq(rc, 0, "%s", out);
    free(out);
    out = parse(deep, VGPU_CONFIG_MAX_FILE_BYTES + 1, &rc);
    cr_assert_eq(rc, -EINVAL);
    cr_assert_str_eq(out, "t.yaml:1:1: the file has 262145 bytes; expected at most 262144\n");
    free(out);
    free(deep);
    out = parse("debug: {}\n\0debug: {}\n", 21, &rc);
    cr_assert_eq(rc, -EINVAL);
    free(out);
}

Test(config, the_example_for_a_gpu)
{
    static struct vgpu_config gpu;

    cr_assert_eq(vgpu_config_load(&gpu, VGPU_TEST_SOURCE_ROOT "/config/gpu.yaml", stderr), 0);
    cr_assert(gpu.executor_count == 1 && gpu.pool_count == 2);
    for (int i = 0; i < 2; i++) {
        cr_assert_str_eq(gpu.pools[i].name, i ? "B" : "A");
        cr_assert_str_eq(gpu.pools[i].executor, gpu.executors[0].name);
    }
    cr_assert_str_eq(gpu.executors[0].backend, "cuda");
    cr_assert_not_null(strstr(gpu.executors[0].options, "partition=pools"));
    cr_assert(gpu.poll_cpu[0] >= 0 && gpu.executors[0].cpu >= 0 && gpu.poll_cpu[0] != gpu.executors[0].cpu);
    cr_assert_eq(gpu.scope, VGPU_SCOPE_POOL);
}

Test(config, no_prefix_of_the_reference_harms)
{
    char *text = NULL;
    size_t bytes = 0;
    FILE *stream = open_memstream(&text, &bytes);
    int rc;

    vgpu_config_reference(stream);
    fclose(stream);
    for (size_t n = 0; n <= bytes; n += 7) {
        char *copy = malloc(n + 1); /* exact, so that a sanitizer sees an overrun */
        memcpy(copy, text, n);
        free(parse(copy, n, &rc));
        cr_assert(rc == 0 || rc == -EINVAL);
        free(copy);
    }
    free(text);
}

Test(config, load_reads_files_and_says_why_not)
{
    char path[] = "/tmp/vgpu-config-XXXXXX", *out = NULL;
    size_t bytes = 0;
    int fd = mkstemp(path);

    cr_assert_geq(fd, 0);
    cr_assert_eq(write(fd, "debug: {exec_seq: true}\n", 24), 24);
    cr_assert_eq(vgpu_config_load(&c, path, stderr), 0);
    cr_assert(c.expose_exec_seq);
    cr_assert_str_eq(c.path, path);
    close(fd);
    unlink(path);
    FILE *errors = open_memstream(&out, &bytes);
    cr_assert_eq(vgpu_config_load(&c, path, errors), -ENOENT);
    cr_assert_eq(vgpu_config_load(&c, "/", errors), -EISDIR);
    fclose(errors);
    cr_assert_not_null(strstr(out, ": cannot read: No such file or directory; expected a configuration file\n"));
    cr_assert_not_null(strstr(out, "/: cannot read: Is a directory; expected a configuration file\n"));
    free(out);
}

/* ---- differences ---- */

struct differences {
    char text[1024];
    struct vgpu_config *to;
    const struct vgpu_config *from;
};

static void note_difference(void *ctx, const struct vgpu_config_change *change)
{
    struct differences *d = ctx;
    size_t n = strlen(d->text);

    snprintf(d->text + n, sizeof(d->text) - n, "%s: %s -> %s\n", change->key,
             change->was ? change->was : "none", change->is ? change->is : "none");
    if (change->was && change->is)
        vgpu_config_take(d->to, d->from, change);
}

Test(config, differences_are_told_by_key_and_by_name_of_the_element)
{
    static const char old_text[] = "pools:\n  - {name: A, executor: exec-A}\n  - {name: B, executor: exec-B}\n";
    static const char new_text[] = "poll_cores: {burst: 16}\nlog: {level: warn}\nlimits: {arena_bytes: 1M}\n"
                                   "control: {admin_group: gpu}\n"
                                   "executors:\n  - {name: exec-A, heap_bytes: 1G}\n"
                                   "pools:\n  - {name: C, executor: exec-A}\n"
                                   "  - {name: A, executor: exec-A, capacity: 7, budget: {low: 3}}\n";
    static struct vgpu_config old, now;
    struct differences d = {.to = &old, .from = &now};

    cr_assert_eq(vgpu_config_parse(&old, old_text, sizeof(old_text) - 1, "old", stderr), 0);
    cr_assert_eq(vgpu_config_parse(&now, new_text, sizeof(new_text) - 1, "new", stderr), 0);
    vgpu_config_diff(&old, &now, note_difference, &d);
    cr_assert_str_eq(d.text, "poll_cores.burst: 32 -> 16\n"
                             "executors[exec-A].heap_bytes: 4G -> 1G\n"
                             "executors[exec-B].name: exec-B -> none\n"
                             "pools[A].capacity: 32 -> 7\n"
                             "pools[A].budget.low: 16 -> 3\n"
                             "pools[B].name: B -> none\n"
                             "pools[C].name: none -> C\n"
                             "limits.arena_bytes: 64M -> 1M\n"
                             "log.level: info -> warn\n"
                             "control.admin_group: \"\" -> gpu\n");
    cr_assert_eq(old.pools[0].capacity, 7u);
    cr_assert_eq(old.pools[0].budget[VGPU_PRIO_LOW], 3u);
    cr_assert_eq(old.burst, 16u);
    d.text[0] = 0; /* what is left is what is not in both */
    vgpu_config_diff(&old, &now, note_difference, &d);
    cr_assert_str_eq(d.text, "executors[exec-B].name: exec-B -> none\npools[B].name: B -> none\npools[C].name: none -> C\n");
    d.text[0] = 0;
    vgpu_config_diff(&now, &now, note_difference, &d);
    cr_assert_str_eq(d.text, "");
}
