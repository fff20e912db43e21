/* SPDX-License-Identifier: Apache-2.0 */
/* Configuration from any bytes: either it is whole and within all limits, or each fault has its place and words. */
#include "core/config.h"
#include "fuzz.h"

static void check_name(const char *name)
{
    fuzz_check(name[0] && memchr(name, 0, VGPU_NAME_BYTES), "a name is empty or too long");
}

static void check_config(const struct vgpu_config *c)
{
    fuzz_check(c->pool_count >= 1 && c->pool_count <= VGPU_CONFIG_MAX_POOLS, "%u pools", c->pool_count);
    fuzz_check(c->executor_count >= 1 && c->executor_count <= VGPU_CONFIG_MAX_EXECUTORS, "%u executors",
               c->executor_count);
    fuzz_check(c->poll_core_count >= 1 && c->poll_core_count <= VGPU_CONFIG_MAX_POLL_CORES, "%u poll cores",
               c->poll_core_count);
    for (uint32_t i = 0; i < c->executor_count; i++) {
        check_name(c->executors[i].name);
        check_name(c->executors[i].backend);
        fuzz_check(memchr(c->executors[i].options, 0, sizeof(c->executors[i].options)), "options without an end");
        for (uint32_t j = 0; j < i; j++)
            fuzz_check(strcmp(c->executors[i].name, c->executors[j].name), "two executors %s", c->executors[i].name);
    }
    for (uint32_t i = 0; i < c->pool_count; i++) {
        uint32_t e = 0;
        check_name(c->pools[i].name);
        while (e < c->executor_count && strcmp(c->executors[e].name, c->pools[i].executor))
            e++;
        fuzz_check(e < c->executor_count, "pool %s has no executor", c->pools[i].name);
        for (uint32_t p = 0; p < VGPU_PRIO_COUNT; p++)
            fuzz_check(c->pools[i].budget[p] >= 1, "pool %s has no budget", c->pools[i].name);
        for (uint32_t j = 0; j < i; j++)
            fuzz_check(strcmp(c->pools[i].name, c->pools[j].name), "two pools %s", c->pools[i].name);
    }
    fuzz_check(c->window >= 2 && (c->window & (c->window - 1)) == 0, "window %u", c->window);
    fuzz_check(c->ring_slots >= VGPU_RING_SLOTS_MIN && c->ring_slots <= VGPU_RING_SLOTS_MAX &&
                   (c->ring_slots & (c->ring_slots - 1)) == 0,
               "ring_slots %u", c->ring_slots);
    fuzz_check(c->max_vms >= 1 && c->in_flight >= 1 && c->burst >= 1, "a limit is 0");
    fuzz_check(c->arena_bytes <= c->max_arena_bytes && c->max_arena_bytes <= VGPU_ARENA_BYTES_MAX, "arenas");
    fuzz_check(c->attach_socket[0] && c->control_socket[0] && strcmp(c->attach_socket, c->control_socket), "sockets");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    static struct vgpu_config c;
    char *said = NULL;
    size_t said_bytes = 0;
    FILE *errors = open_memstream(&said, &said_bytes);

    if (!errors)
        abort();
    memset(&c, 0xee, sizeof(c));
    int rc = vgpu_config_parse(&c, (const char *)data, bytes, "input", errors);
    fclose(errors);
    if (rc == 0) {
        fuzz_check(said_bytes == 0, "accepted, and complained: %s", said);
        check_config(&c);
    } else {
        fuzz_check(rc < 0 && rc > -4096, "%d", rc);
        fuzz_check(said_bytes > 8 && said[said_bytes - 1] == '\n', "refused without a word");
        fuzz_check(strncmp(said, "input", 5) == 0, "a fault without a place: %s", said);
    }
    free(said);
    return 0;
}
