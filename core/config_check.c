/* SPDX-License-Identifier: Apache-2.0 */
/* The rules that join several keys. Each key by itself is known to be right here. */
#include "core/config_int.h"

#include <string.h>

#include "core/base/suggest.h"

static void check_paths(struct vgpu_config *c, struct vgpu_faults *f)
{
    for (uint32_t i = 0; i < VGPU_DERIVED_COUNT; i++) {
        const struct vgpu_derived *d = &vgpu_derived[i];
        if (!vgpu_config_derive(c, d))
            vgpu_fault_key(f, d->from_path, "is too long for %s below it; expected room for /%s in %zu bytes", d->path,
                           d->leaf, vgpu_key_find(d->path)->bytes - 1);
    }
    if (!strcmp(c->attach_socket, c->control_socket))
        vgpu_fault_key(f, vgpu_place_known(f, "paths.control_socket") ? "paths.control_socket" : "paths.attach_socket",
                       "is the same as the other socket; expected two different paths");
}

static void check_poll_cores(const struct vgpu_config *c, struct vgpu_faults *f)
{
    for (uint32_t i = 0; i < c->poll_core_count; i++)
        for (uint32_t j = 0; j < i; j++)
            if (c->poll_cpu[i] != VGPU_CPU_ANY && c->poll_cpu[i] == c->poll_cpu[j]) {
                char key[VGPU_KEY_BYTES];
                snprintf(key, sizeof(key), "poll_cores.cpus[%u]", i);
                vgpu_fault_key(f, key, "CPU %d has a poll core already; expected each CPU once", c->poll_cpu[i]);
                break;
            }
}

static int executor_index(const struct vgpu_config *c, const char *name)
{
    for (uint32_t i = 0; i < c->executor_count; i++)
        if (!strcmp(c->executors[i].name, name))
            return (int)i;
    return -1;
}

static bool executor_used(const struct vgpu_config *c, const char *name)
{
    for (uint32_t i = 0; i < c->pool_count; i++)
        if (!strcmp(c->pools[i].executor, name))
            return true;
    return false;
}

/* Executors that nobody asked for are not started: the defaults give way to the file's pools. */
static void drop_unused_defaults(struct vgpu_config *c, const struct vgpu_faults *f)
{
    uint32_t kept = 0;

    if (vgpu_place_known(f, "executors"))
        return;
    for (uint32_t i = 0; i < c->executor_count; i++) {
        if (!executor_used(c, c->executors[i].name))
            continue;
        if (kept != i)
            c->executors[kept] = c->executors[i];
        kept++;
    }
    c->executor_count = kept;
}

#define MEMORY_MIN_BYTES (UINT64_C(64) << 20) /* of an executor: libraries, stacks, tables */

static void check_executors(struct vgpu_config *c, struct vgpu_faults *f)
{
    bool given = vgpu_place_known(f, "executors");

    for (uint32_t i = 0; i < c->executor_count; i++) {
        const struct vgpu_executor_config *e = &c->executors[i];
        char key[VGPU_KEY_BYTES];

        snprintf(key, sizeof(key), "executors[%u].name", i);
        if (executor_index(c, e->name) < (int)i)
            vgpu_fault_key(f, key, "\"%s\" names an executor above; expected a name of its own", e->name);
        else if (given && !executor_used(c, e->name))
            vgpu_fault_key(f, key, "no pool uses \"%s\"; expected a pool whose executor it is", e->name);
        snprintf(key, sizeof(key), "executors[%u].in_process", i);
        if (e->in_process && (!strcmp(e->backend, "cuda") || !strcmp(e->backend, "auto")))
            vgpu_fault_key(f, key, "is true with backend %s; expected backend null, cpu, fault:null or fault:cpu",
                           e->backend);
        snprintf(key, sizeof(key), "executors[%u].cpu", i);
        if (e->in_process && e->cpu != VGPU_CPU_ANY)
            vgpu_fault_key(f, key, "is %d, but it runs in_process on a poll core; expected any", e->cpu);
        snprintf(key, sizeof(key), "executors[%u].memory_bytes", i);
        if (e->memory_bytes && e->in_process)
            vgpu_fault_key(f, key, "is set, but it runs in_process on a poll core; expected 0");
        else if (e->memory_bytes && e->memory_bytes < MEMORY_MIN_BYTES)
            vgpu_fault_key(f, key, "is too little for any executor to start; expected 0 (no limit) or at least 64M");
        snprintf(key, sizeof(key), "executors[%u].heap_bytes", i);
        if (e->heap_bytes < c->device_bytes && (given || i == 0))
            vgpu_fault_key(
                f, vgpu_place_known(f, key) ? key : "limits.device_bytes",
                "executor %s has a smaller heap than one VM's share; expected limits.device_bytes <= heap_bytes",
                e->name);
    }
}

static void fault_no_executor(const struct vgpu_config *c, struct vgpu_faults *f, uint32_t pool)
{
    char key[VGPU_KEY_BYTES], known[256] = "";
    const char *best = NULL;
    unsigned distance = ~0u;

    for (uint32_t i = 0; i < c->executor_count; i++) {
        size_t n = strlen(known);
        vgpu_suggest_consider(c->pools[pool].executor, c->executors[i].name, &best, &distance);
        snprintf(known + n, sizeof(known) - n, "%s%s", n ? ", " : "", c->executors[i].name);
    }
    /* Without pools in the file it is the list of executors that does not fit the default pools. */
    snprintf(key, sizeof(key), "pools[%u].executor", pool);
    if (!vgpu_place_known(f, "pools") && vgpu_place_known(f, "executors"))
        snprintf(key, sizeof(key), "executors");
    vgpu_fault_key(f, key, "pool %s wants executor \"%s\", which there is not; expected %s%s", c->pools[pool].name,
                   c->pools[pool].executor, best ? "one like it: " : "one of ", best ? best : known);
}

static void check_pools(const struct vgpu_config *c, struct vgpu_faults *f)
{
    uint64_t capacity = 0;

    for (uint32_t i = 0; i < c->pool_count; i++) {
        char key[VGPU_KEY_BYTES];

        snprintf(key, sizeof(key), "pools[%u].name", i);
        for (uint32_t j = 0; j < i; j++)
            if (!strcmp(c->pools[i].name, c->pools[j].name)) {
                vgpu_fault_key(f, key, "\"%s\" names a pool above; expected a name of its own", c->pools[i].name);
                break;
            }
        if (executor_index(c, c->pools[i].executor) < 0)
            fault_no_executor(c, f, i);
        capacity += c->pools[i].capacity;
        snprintf(key, sizeof(key), "pools[%u].capacity", i);
        if (capacity > VGPU_VM_IDS && capacity - c->pools[i].capacity <= VGPU_VM_IDS)
            vgpu_fault_key(f, key, "makes %llu VMs in all pools; expected at most %u, the number of VM ids",
                           (unsigned long long)capacity, VGPU_VM_IDS);
        snprintf(key, sizeof(key), "pools[%u].executor", i);
        if (c->scope == VGPU_SCOPE_HOST && strcmp(c->pools[i].executor, c->pools[0].executor))
            vgpu_fault_key(f, key, "differs from pool %s's, and scheduler.scope is host; expected %s for all pools",
                           c->pools[0].name, c->pools[0].executor);
    }
}

static void check_limits(const struct vgpu_config *c, struct vgpu_faults *f)
{
    if (c->arena_bytes > c->max_arena_bytes)
        vgpu_fault_key(f, vgpu_place_known(f, "limits.arena_bytes") ? "limits.arena_bytes" : "limits.max_arena_bytes",
                       "the default arena is larger than the largest; expected arena_bytes <= max_arena_bytes");
    if (c->recovery.backoff_min_ns > c->recovery.backoff_max_ns)
        vgpu_fault_key(f, vgpu_place_known(f, "recovery.backoff_min_us") ? "recovery.backoff_min_us" : "recovery.backoff_max_us",
                       "the first wait is longer than the longest; expected backoff_min_us <= backoff_max_us");
    if (c->in_flight > c->ring_slots)
        vgpu_fault_key(f, vgpu_place_known(f, "limits.in_flight") ? "limits.in_flight" : "limits.ring_slots",
                       "%u in flight do not fit into rings of %u slots; expected in_flight <= ring_slots", c->in_flight,
                       c->ring_slots);
}

static void check_devices(const struct vgpu_config *c, struct vgpu_faults *f)
{
    for (uint32_t i = 0; i < c->device_count; i++)
        for (uint32_t j = 0; j < i; j++) {
            const struct vgpu_device_config *a = &c->devices[j], *b = &c->devices[i];
            char key[VGPU_KEY_BYTES];
            snprintf(key, sizeof(key), "iommu.devices[%u]", i);
            if (!strcmp(a->address, b->address)) {
                vgpu_fault_key(f, key, "%s stands there already; expected each device once", b->address);
                break;
            }
            if (a->domain == b->domain && a->read_only != b->read_only) {
                vgpu_fault_key(f, key, "%s may write and %s may not, both in domain %u; expected :ro on all of a domain or none",
                               a->read_only ? b->address : a->address, a->read_only ? a->address : b->address, b->domain);
                break;
            }
        }
}

void vgpu_config_check(struct vgpu_config *c, struct vgpu_faults *f)
{
    check_paths(c, f);
    check_poll_cores(c, f);
    check_executors(c, f);
    check_pools(c, f);
    drop_unused_defaults(c, f);
    check_limits(c, f);
    check_devices(c, f);
}
