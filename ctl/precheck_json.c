/* SPDX-License-Identifier: Apache-2.0 */
/* The report of precheck as JSON; all other forms are made from it. */
#include <string.h>
#include <time.h>

#include "ctl/precheck.h"

static json_t *text_or_null(const char *text)
{
    return text && text[0] ? json_string(text) : json_null();
}

static json_t *gpus(const struct vgpu_facts *f)
{
    json_t *list = json_array();

    for (uint32_t i = 0; i < f->gpu_count; i++) {
        const struct vgpu_host_pci_device *d = &f->pci.device[f->gpu[i]];
        char id[16];
        snprintf(id, sizeof(id), "%04x:%04x", d->vendor, d->device);
        json_array_append_new(list, json_pack("{s:s, s:s, s:o, s:i, s:i, s:i, s:i, s:i}", "address", d->address, "id",
                                              id, "driver", text_or_null(d->driver), "numa_node", (int)d->node,
                                              "iommu_group", (int)d->group, "link_width", (int)d->width,
                                              "link_generation", (int)vgpu_host_pci_generation(d->speed_mts),
                                              "max_link_generation", (int)vgpu_host_pci_generation(d->max_speed_mts)));
    }
    return list;
}

/* "name=NVIDIA H200" of each line. */
static json_t *gpu_names(const struct vgpu_facts *f)
{
    json_t *list = json_array();

    for (const char *line = f->said.nvml; line && *line; line = strchr(line, '\n'), line = line ? line + 1 : NULL) {
        char row[512], safe[512];
        snprintf(row, sizeof(row), "%.*s", (int)strcspn(line, "\n"), line);
        vgpu_host_print_safe(safe, sizeof(safe), row);
        json_array_append_new(list, json_string(safe));
    }
    return list;
}

static json_t *host(const struct vgpu_facts *f)
{
    const char *place = f->dom0 ? "xen-dom0" : f->xen ? "xen-guest" : f->vm ? "virtual-machine" : "bare-metal";

    return json_pack("{s:s, s:o, s:o, s:i, s:i, s:I, s:o, s:o, s:o}", "place", place, "kernel",
                     text_or_null(f->kernel.release), "cpu", text_or_null(f->cpus.model), "cpus",
                     (int)f->cpus.core_count, "numa_nodes", (int)f->memory.node_count, "memory_bytes",
                     (json_int_t)f->memory.total_bytes, "xen_kind", text_or_null(f->xen_kind), "gpus", gpus(f), "nvml",
                     gpu_names(f));
}

static json_t *score(int v)
{
    return v == VGPU_SCORE_NONE ? json_null() : json_integer(v);
}

static json_t *subsystems(const struct vgpu_report *r)
{
    json_t *list = json_array();

    for (uint32_t s = 0; s < VGPU_SUBSYSTEMS; s++) {
        int count[5] = {0};
        for (uint32_t i = 0; i < r->count; i++)
            if (r->result[i].subsystem == s)
                count[r->result[i].status]++;
        json_array_append_new(list,
                              json_pack("{s:s, s:s, s:i, s:o, s:i, s:i, s:i, s:i, s:i}", "id", vgpu_subsystems[s].id,
                                        "title", vgpu_subsystems[s].title, "weight", (int)vgpu_subsystems[s].weight,
                                        "score", score(r->sub_score[s]), "pass", count[VGPU_CHECK_PASS], "warn",
                                        count[VGPU_CHECK_WARN], "fail", count[VGPU_CHECK_FAIL], "not-applicable",
                                        count[VGPU_CHECK_NA], "unknown", count[VGPU_CHECK_UNKNOWN]));
    }
    return list;
}

static json_t *check(const struct vgpu_result *r)
{
    const struct vgpu_check *c = r->check;
    const struct vgpu_finding *f = &r->finding;

    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s}", "id", c->id, "subsystem",
                     vgpu_subsystems[r->subsystem].id, "severity", vgpu_severity_name(r->severity), "status",
                     vgpu_check_status_name(r->status), "title", c->title, "found", f->found, "wanted", c->wanted, "why",
                     c->why, "remedy", f->remedy[0] ? f->remedy : c->remedy, "tradeoff", c->tradeoff, "effect",
                     f->effect[0] ? f->effect : c->effect, "source", c->source);
}

static json_t *choices(enum vgpu_profile profile)
{
    json_t *list = json_array();

    for (uint32_t i = 0; i < vgpu_choice_count; i++) {
        const struct vgpu_choice *c = &vgpu_choices[i];
        json_t *others = json_array();
        for (int p = 0; p < VGPU_PROFILES; p++)
            if (p != (int)profile && strcmp(c->recommends[p], c->recommends[profile]) != 0)
                json_array_append_new(others, json_pack("{s:s, s:s, s:s}", "profile", vgpu_profile_name(p),
                                                        "recommends", c->recommends[p], "price", c->price[p]));
        json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:s, s:s, s:o}", "topic", c->topic, "recommends",
                                              c->recommends[profile], "price", c->price[profile], "source", c->source,
                                              "checks", c->checks, "conflicts", others));
    }
    return list;
}

json_t *vgpu_precheck_json(const struct vgpu_facts *f, const struct vgpu_report *r)
{
    json_t *checks = json_array();
    char now[32];
    time_t t = time(NULL);
    struct tm tm;

    strftime(now, sizeof(now), "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&t, &tm));
    for (uint32_t i = 0; i < r->count; i++)
        json_array_append_new(checks, check(&r->result[i]));
    return json_pack("{s:i, s:s, s:s, s:s, s:o, s:o, s:s, s:o, s:o, s:o}", "format", 1, "vgpu", VGPU_VERSION, "time",
                     now, "profile", vgpu_profile_name(r->profile), "host", host(f), "score", score(r->score), "worst",
                     vgpu_severity_name(r->worst), "subsystems", subsystems(r), "checks", checks, "choices",
                     choices(r->profile));
}
