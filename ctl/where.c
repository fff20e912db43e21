/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/where.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DEFAULT_CONFIG VGPU_SYSCONFDIR "/vgpu/vgpud.yaml"

const char *vgpu_ctl_config_named(const struct vgpu_ctl_line *line)
{
    const char *named = line && line->config ? line->config : getenv(VGPU_CTL_CONFIG_ENV);

    return named && named[0] ? named : NULL;
}

int vgpu_ctl_config_read(const char *named, struct vgpu_config *out, struct vgpu_err *err)
{
    const char *path = named ? named : vgpu_ctl_config_named(NULL);
    char *said = NULL;
    size_t bytes;

    if (!path && access(DEFAULT_CONFIG, F_OK)) {
        vgpu_config_defaults(out);
        return 0;
    }
    FILE *errors = open_memstream(&said, &bytes);
    int rc = errors ? vgpu_config_load(out, path ? path : DEFAULT_CONFIG, errors) : -ENOMEM;
    if (errors)
        fclose(errors);
    if (rc)
        vgpu_err_set(err, -rc, "%.*s", said ? (int)strcspn(said, "\n") : 0, said ? said : "");
    free(said);
    return rc;
}

int vgpu_ctl_find(const struct vgpu_ctl_line *line, struct vgpu_ctl_where *out, struct vgpu_err *err)
{
    const char *env = getenv(VGPU_CTL_SOCKET_ENV);
    const char *socket = line->socket ? line->socket : line->config ? NULL : env && env[0] ? env : NULL;

    memset(out, 0, sizeof(*out));
    snprintf(out->socket, sizeof(out->socket), "%s", VGPU_CTL_DEFAULT_SOCKET);
    if (line->db) {
        snprintf(out->store, sizeof(out->store), "%s", line->db);
        vgpu_store_holder(line->db, out->socket);
        return 0;
    }
    if (socket) {
        if (strlen(socket) >= sizeof(out->socket))
            return vgpu_err_set(err, ENAMETOOLONG, "cannot reach vgpud at %s: File name too long", socket);
        memcpy(out->socket, socket, strlen(socket) + 1);
        return 0;
    }
    struct vgpu_config *config = calloc(1, sizeof(*config));
    int rc = config ? vgpu_ctl_config_read(line->config, config, &out->unusable)
                    : vgpu_err_set(&out->unusable, ENOMEM, "out of memory");
    if (rc == 0 && strlen(config->control_socket) >= sizeof(out->socket))
        rc = vgpu_err_set(&out->unusable, ENAMETOOLONG, "the path of its control socket is too long");
    if (rc == 0) {
        out->unusable.code = 0;
        memcpy(out->socket, config->control_socket, strlen(config->control_socket) + 1);
        memcpy(out->store, config->store, sizeof(out->store));
    } else if (vgpu_ctl_config_named(line)) {
        *err = out->unusable; /* a viewer may not be allowed to read the installed one, but this one was named */
    } else {
        rc = 0;
    }
    free(config);
    return rc;
}
