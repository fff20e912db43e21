/* SPDX-License-Identifier: Apache-2.0 */
/* The command: where from, which CPUs have a role, where to. */
#include "ctl/topology.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "ctl/client.h"
#include "ctl/local.h"
#include "ctl/where.h"

static const char *text_arg(const struct vgpu_ctl_local *local, const char *name)
{
    return json_string_value(json_object_get(local->line->args, name));
}

static void role_add(struct vgpu_topology *t, int64_t cpu, enum vgpu_topology_kind kind, const char *name)
{
    if (cpu < 0 || cpu > INT32_MAX || t->role_count == VGPU_TOPOLOGY_MAX_ROLES)
        return;
    struct vgpu_topology_role *r = &t->roles[t->role_count++];
    r->cpu = (int32_t)cpu;
    r->kind = kind;
    vgpu_host_print_safe(r->name, sizeof(r->name), name);
}

/* Of `stats`: each poll core and each executor that is pinned. */
static void roles_from_stats(struct vgpu_topology *t, const json_t *status)
{
    static const char *const lists[] = {"poll_cores", "executors"};
    uint32_t unpinned = 0;
    size_t i;
    json_t *one;
    char name[48];

    for (int kind = VGPU_TOPOLOGY_POLL; kind <= VGPU_TOPOLOGY_EXECUTOR; kind++)
        json_array_foreach(json_object_get(status, lists[kind]), i, one)
        {
            const char *given = json_string_value(json_object_get(one, "name"));
            const json_t *cpu = json_object_get(one, "cpu");
            if (!json_is_integer(cpu) || json_integer_value(cpu) < 0) {
                unpinned++;
                continue;
            }
            if (kind == VGPU_TOPOLOGY_POLL)
                snprintf(name, sizeof(name), "poll core %u", (unsigned)i);
            else
                snprintf(name, sizeof(name), "executor %.30s", given ? given : "?");
            role_add(t, json_integer_value(cpu), (enum vgpu_topology_kind)kind, name);
        }
    snprintf(t->roles_from, sizeof(t->roles_from), "cores as vgpud has them%s",
             unpinned ? "; it has some that are not pinned, and are not shown (poll_cores.cpus, executors.cpu)" : "");
}

/* --poll-cpus, --executor-cpus: what a placement would look like. 0 or -EINVAL. */
static int roles_from_options(const struct vgpu_ctl_local *local, struct vgpu_topology *t, struct vgpu_err *err)
{
    static const char *const options[] = {"poll_cpus", "executor_cpus"};

    for (int kind = VGPU_TOPOLOGY_POLL; kind <= VGPU_TOPOLOGY_EXECUTOR; kind++) {
        const char *text = text_arg(local, options[kind]);
        struct vgpu_host_cpuset set = {0};
        if (!text)
            continue;
        if (vgpu_host_cpuset_parse(text, &set) || !vgpu_host_cpuset_count(&set))
            return vgpu_err_set(err, EINVAL, "--%s: %.40s is no list of CPUs; expected one such as 2,4-7",
                                kind == VGPU_TOPOLOGY_POLL ? "poll-cpus" : "executor-cpus", text);
        uint32_t number = 0;
        struct vgpu_host_cpuset online = {0};
        char there[96];
        for (uint32_t i = 0; i < t->cpus.core_count; i++)
            vgpu_host_cpuset_add(&online, t->cpus.core[i].cpu);
        vgpu_host_cpuset_print(&online, there, sizeof(there));
        if (vgpu_host_cpuset_count(&set) + t->role_count > VGPU_TOPOLOGY_MAX_ROLES)
            return vgpu_err_set(err, EINVAL, "--poll-cpus and --executor-cpus: at most %u CPUs can have a role",
                                VGPU_TOPOLOGY_MAX_ROLES);
        for (int cpu = vgpu_host_cpuset_next(&set, 0); cpu >= 0; cpu = vgpu_host_cpuset_next(&set, cpu + 1)) {
            char name[48];
            if (t->cpus.core_count && !vgpu_host_cpu_find(&t->cpus, cpu))
                return vgpu_err_set(err, EINVAL, "--%s: CPU %d is not online on this host; %s are",
                                    kind == VGPU_TOPOLOGY_POLL ? "poll-cpus" : "executor-cpus", cpu, there);
            snprintf(name, sizeof(name), "%s %u", kind == VGPU_TOPOLOGY_POLL ? "poll core" : "executor", number++);
            role_add(t, cpu, (enum vgpu_topology_kind)kind, name);
        }
    }
    snprintf(t->roles_from, sizeof(t->roles_from), "cores as given on the command line");
    return 0;
}

static int roles_find(const struct vgpu_ctl_local *local, struct vgpu_topology *t, struct vgpu_err *err)
{
    struct vgpu_err why;
    json_t *status = NULL;
    bool refused;

    if (text_arg(local, "poll_cpus") || text_arg(local, "executor_cpus"))
        return roles_from_options(local, t, err);
    if (text_arg(local, "root")) {
        snprintf(t->roles_from, sizeof(t->roles_from),
                 "no roles: this is a copy of a host (--poll-cpus and --executor-cpus give some)");
        return 0;
    }
    json_t *args = json_object();
    struct vgpu_ctl_where where;
    if (args && vgpu_ctl_find(local->line, &where, &why) == 0 &&
        vgpu_ctl_call(where.socket, NULL, "stats", args, &status, &refused, &why) == 0)
        roles_from_stats(t, status);
    else
        snprintf(t->roles_from, sizeof(t->roles_from),
                 "no roles: vgpud does not answer (--poll-cpus and --executor-cpus give some)");
    json_decref(status);
    json_decref(args);
    return 0;
}

/* To a file, or with "-" to stdout. */
static int svg_write(FILE *out, const char *path, const struct vgpu_topology *t, struct vgpu_err *err)
{
    if (strcmp(path, "-") == 0) {
        vgpu_topology_svg(t, out);
        return fflush(out) || ferror(out) ? vgpu_err_set(err, EIO, "--svg=-: cannot write it all") : 0;
    }
    FILE *f = fopen(path, "we");

    if (!f)
        return vgpu_err_set(err, errno, "--svg: cannot write %.200s: %s", path, strerror(errno));
    vgpu_topology_svg(t, f);
    bool bad = ferror(f);
    if (fclose(f) || bad)
        return vgpu_err_set(err, EIO, "--svg: cannot write %.200s: %s", path, strerror(errno ? errno : EIO));
    return 0;
}

int vgpu_ctl_topology(struct vgpu_ctl_local *local, int argc, char **argv)
{
    const char *directory = text_arg(local, "root"), *svg = text_arg(local, "svg");
    struct vgpu_host_root root;
    struct vgpu_topology t;
    struct vgpu_err err;

    if (svg && strcmp(svg, "-") == 0 && local->line->json) {
        vgpu_err_set(&err, EINVAL, "topology: --svg=- and --json both write to stdout; give --svg a file");
        return vgpu_ctl_complain(local, &err, VGPU_CTL_USAGE);
    }
    if (vgpu_host_root_open(&root, directory ? directory : "/", &err))
        return vgpu_ctl_complain(local, &err, VGPU_CTL_REFUSED);
    int rc = vgpu_topology_read(&root, &t, &err), code = VGPU_CTL_OK;
    if (rc == 0 && (rc = roles_find(local, &t, &err)))
        code = VGPU_CTL_USAGE;
    else if (rc == 0 && svg)
        rc = svg_write(local->out, svg, &t, &err);
    if (rc) {
        code = vgpu_ctl_complain(local, &err, code ? code : VGPU_CTL_REFUSED);
    } else if (local->line->json) {
        json_t *json = vgpu_topology_json(&t);
        vgpu_ctl_emit(local, json);
        json_decref(json);
    } else if (svg) {
        if (strcmp(svg, "-"))
            fprintf(local->out, "wrote %s\n", svg);
    } else {
        vgpu_topology_text(&t, local->out, local->color);
    }
    vgpu_topology_free(&t);
    vgpu_host_root_close(&root);
    return code;
}
