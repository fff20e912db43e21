/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/direct.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "control/control.h"
#include "ctl/client.h"
#include "ctl/where.h"

static bool same_file(const char *a, const char *b)
{
    char x[PATH_MAX], y[PATH_MAX];

    return realpath(a, x) && realpath(b, y) && !strcmp(x, y);
}

/*
 * Token files of a store that is not the configuration's go beside it: those of the configuration's directory belong to
 * another vgpud's VMs. A directory below /run may be missing while vgpud does not run.
 */
static int place(struct vgpu_config *config, const char *store, bool *other, struct vgpu_err *err)
{
    int n = 0;

    *other = !same_file(store, config->store);
    if (*other) {
        n = snprintf(config->token_dir, sizeof(config->token_dir), "%s.tokens", store);
    } else {
        char parent[sizeof(config->token_dir)];
        snprintf(parent, sizeof(parent), "%s", config->token_dir);
        char *slash = strrchr(parent, '/');
        if (slash && slash != parent) {
            *slash = 0;
            if (mkdir(parent, 0755) < 0 && errno != EEXIST)
                return vgpu_err_set(err, errno, "cannot make %s, where token files go: %s", parent, strerror(errno));
        }
    }
    return n >= 0 && (size_t)n < sizeof(config->token_dir)
               ? 0
               : vgpu_err_set(err, ENAMETOOLONG, "--db: the path is too long for the token files beside it");
}

/*
 * The pools of the configuration are in its store before vgpud started for the first time, so that a VM's hook may come
 * first. Where that cannot be (a pool with more VMs than its new capacity) the store stays as it is and can be mended: vgpud
 * says so at its start.
 */
static void pools_put(struct vgpu_store *s, const struct vgpu_config *config)
{
    struct vgpu_caller self;
    struct vgpu_err ignored;

    vgpu_caller_self(&self);
    vgpu_control_put_pools(s, &self, "configuration", config, &ignored);
}

static int handle(struct vgpu_control *control, const char *store, const char *command, json_t *args, json_t **result,
                  bool *refused, struct vgpu_err *err)
{
    struct vgpu_caller self;
    size_t bytes = 0;
    json_t *json = json_pack("{s:s,s:O}", "command", command, "args", args);
    char *request = json ? json_dumps(json, JSON_COMPACT) : NULL, *response = NULL;
    int rc = -ENOMEM;

    vgpu_caller_self(&self);
    if (request)
        response = vgpu_control_handle(control, &self, request, strlen(request), &bytes);
    if (response)
        rc = vgpu_ctl_response(store, response, bytes, result, refused, err);
    else
        vgpu_err_set(err, ENOMEM, "out of memory");
    json_decref(json);
    free(request);
    free(response);
    return rc;
}

int vgpu_ctl_direct(const char *named, const char *store, const char *command, json_t *args, json_t **result,
                    bool *refused, struct vgpu_err *err)
{
    struct vgpu_config *config = calloc(1, sizeof(*config));
    struct vgpu_control_params params = {.config = config};
    struct vgpu_control *control = NULL;
    int rc = config ? vgpu_ctl_config_read(named, config, err) : vgpu_err_set(err, ENOMEM, "out of memory");

    *result = NULL;
    *refused = false;
    if (rc)
        goto out;
    rc = vgpu_store_open_wait(store, 0, &params.store, err);
    if (!rc)
        rc = place(config, store, &params.other_store, err);
    if (!rc && !params.other_store)
        pools_put(params.store, config);
    if (!rc)
        rc = vgpu_control_direct(&params, &control, err);
    if (!rc)
        rc = handle(control, store, command, args, result, refused, err);
out:
    vgpu_control_close(control);
    vgpu_store_close(params.store);
    free(config);
    return rc;
}
