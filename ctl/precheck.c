/* SPDX-License-Identifier: Apache-2.0 */
/* vgpu-ctl precheck: is this host ready, what is wrong, what to type. Needs no daemon and no privilege. */
#include "ctl/precheck.h"
#include "ctl/where.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

/* Exit codes beyond those of all commands: the worst severity that fired (with --against: that got worse). */
static int exit_code(int severity)
{
    switch (severity) {
    case VGPU_SEV_CRITICAL:
        return VGPU_CTL_FOUND_CRITICAL;
    case VGPU_SEV_HIGH:
        return VGPU_CTL_FOUND_HIGH;
    case VGPU_SEV_MEDIUM:
        return VGPU_CTL_FOUND_MEDIUM;
    default:
        return VGPU_CTL_OK;
    }
}

static const char *text_arg(const struct vgpu_ctl_local *local, const char *name)
{
    return json_string_value(json_object_get(local->line->args, name));
}

static bool flag_arg(const struct vgpu_ctl_local *local, const char *name)
{
    return json_is_true(json_object_get(local->line->args, name));
}

/* Reads and judges; the report as JSON, or NULL with err. */
static json_t *judge(const struct vgpu_ctl_local *local, struct vgpu_err *err)
{
    const char *directory = text_arg(local, "root"), *name = text_arg(local, "profile");
    enum vgpu_profile profile = name ? (enum vgpu_profile)vgpu_profile_find(name) : VGPU_PROFILE_BALANCED;
    struct vgpu_facts_said said = {0};
    struct vgpu_host_root root;
    static struct vgpu_facts facts; /* large */
    struct vgpu_report *report = calloc(1, sizeof(*report));
    json_t *out = NULL;

    if (!report) {
        vgpu_err_set(err, ENOMEM, "out of memory");
        return NULL;
    }
    if (vgpu_host_root_open(&root, directory ? directory : "/", err))
        goto out_free;
    if (root.live)
        vgpu_gather(vgpu_ctl_config_named(local->line), &said);
    if (vgpu_facts_read(&root, profile, &said, &facts)) {
        vgpu_err_set(err, ENOMEM, "out of memory");
        goto out_close;
    }
    vgpu_checks_run(&facts, report);
    out = vgpu_precheck_json(&facts, report);
    if (!out)
        vgpu_err_set(err, ENOMEM, "out of memory");
    vgpu_facts_free(&facts);
out_close:
    vgpu_host_root_close(&root);
out_free:
    free(report);
    return out;
}

static int severity_of(const json_t *object)
{
    return vgpu_severity_find(json_string_value(json_object_get(object, "worst")));
}

static int history(struct vgpu_ctl_local *local)
{
    struct vgpu_err err;
    json_t *out = NULL;

    if (vgpu_precheck_history(&out, &err))
        return vgpu_ctl_complain(local, &err, VGPU_CTL_REFUSED);
    if (local->line->json)
        vgpu_ctl_emit(local, out);
    else
        vgpu_precheck_print_history(local->out, out, local->color);
    json_decref(out);
    return VGPU_CTL_OK;
}

static int capture(struct vgpu_ctl_local *local)
{
    const char *directory = text_arg(local, "root"), *to = text_arg(local, "capture");
    struct vgpu_host_root root;
    struct vgpu_err err;
    json_t *out = NULL;

    if (vgpu_host_root_open(&root, directory ? directory : "/", &err))
        return vgpu_ctl_complain(local, &err, VGPU_CTL_REFUSED);
    int rc = vgpu_capture(&root, vgpu_ctl_config_named(local->line), to, &out, &err);
    vgpu_host_root_close(&root);
    if (rc)
        return vgpu_ctl_complain(local, &err, VGPU_CTL_REFUSED);
    if (local->line->json)
        vgpu_ctl_emit(local, out);
    else
        fprintf(local->out,
                "captured %" JSON_INTEGER_FORMAT " files, %" JSON_INTEGER_FORMAT " KiB, in %s%s\n"
                "Look it through before you send it; `vgpu-ctl precheck --root=%s` judges it.\n",
                json_integer_value(json_object_get(out, "files")),
                (json_integer_value(json_object_get(out, "bytes")) + 1023) / 1024, to,
                geteuid() ? " (without what only root may read)" : "", to);
    json_decref(out);
    return VGPU_CTL_OK;
}

/* Options that ask for different things at once. */
static const char *contradiction(const struct vgpu_ctl_local *local)
{
    if (text_arg(local, "capture") &&
        (text_arg(local, "save") || text_arg(local, "against") || flag_arg(local, "history")))
        return "--capture only copies; give --save, --against and --history in runs of their own";
    if (flag_arg(local, "history") && (text_arg(local, "save") || text_arg(local, "against")))
        return "--history only lists; give --save and --against in runs of their own";
    return NULL;
}

int vgpu_ctl_precheck(struct vgpu_ctl_local *local, int argc, char **argv)
{
    const char *against = text_arg(local, "against"), *save = text_arg(local, "save");
    json_t *report = NULL, *reference = NULL, *drift = NULL;
    struct vgpu_err err;
    int code = VGPU_CTL_REFUSED;

    if (contradiction(local)) {
        vgpu_err_set(&err, EINVAL, "precheck: %s", contradiction(local));
        return vgpu_ctl_complain(local, &err, VGPU_CTL_USAGE);
    }
    if (text_arg(local, "capture"))
        return capture(local);
    if (flag_arg(local, "history"))
        return history(local);
    if (against && vgpu_precheck_load(against, &reference, &err))
        return vgpu_ctl_complain(local, &err, VGPU_CTL_REFUSED);
    report = judge(local, &err);
    if (!report || (save && vgpu_precheck_save(save, report, &err))) {
        vgpu_ctl_complain(local, &err, code);
        goto out;
    }
    code = exit_code(severity_of(report));
    if (reference) {
        drift = vgpu_precheck_drift(report, reference);
        code = exit_code(severity_of(drift));
        json_object_set(report, "drift", drift);
    }
    if (local->line->json) {
        vgpu_ctl_emit(local, report);
    } else {
        vgpu_precheck_print(local->out, report, flag_arg(local, "all"), text_arg(local, "profile") != NULL,
                            local->color);
        if (drift)
            vgpu_precheck_print_drift(local->out, drift, local->color);
    }
out:
    json_decref(drift);
    json_decref(reference);
    json_decref(report);
    return code;
}
