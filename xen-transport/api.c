/* SPDX-License-Identifier: Apache-2.0 */
#include "xen-transport/api.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* By library; Xen 4.17's sonames first, older ones behind. */
static const char *const names[3][3] = {
    {"libxenstore.so.4", "libxenstore.so.3.0", NULL}, {"libxengnttab.so.1", NULL, NULL}, {"libxenevtchn.so.1", NULL, NULL}};

static void *library_open(const char *library, const char *const *candidates)
{
    void *lib = NULL;

    if (library)
        return dlopen(library, RTLD_NOW | RTLD_LOCAL);
    for (int i = 0; !lib && candidates[i]; i++)
        lib = dlopen(candidates[i], RTLD_NOW | RTLD_LOCAL);
    return lib;
}

int vgpu_xen_api_open(struct vgpu_xen_api *api, const char *library, struct vgpu_err *err)
{
    static const char *const functions[] = {
#define NAME(lib, name) #name,
        VGPU_XEN_FUNCTIONS(NAME)};
    static const uint8_t of[] = {
#define LIBRARY(lib, name) lib,
        VGPU_XEN_FUNCTIONS(LIBRARY)};
    static const size_t at[] = {
#define AT(lib, name) offsetof(struct vgpu_xen_api, name),
        VGPU_XEN_FUNCTIONS(AT)};

    memset(api, 0, sizeof(*api));
    for (int i = 0; i < 3; i++) {
        api->libraries[i] = library_open(library, names[i]);
        if (!api->libraries[i]) {
            const char *why = dlerror();
            vgpu_err_set(err, ENOENT, "cannot open Xen's library %s (Debian: libxenstore4, libxengnttab1, libxenevtchn1): %.120s",
                         library ? library : names[i][0], why ? why : "");
            vgpu_xen_api_close(api);
            return -ENOENT;
        }
    }
    for (size_t i = 0; i < sizeof(functions) / sizeof(functions[0]); i++) {
        void *f = dlsym(api->libraries[of[i]], functions[i]);
        if (!f) {
            vgpu_err_set(err, ENOENT, "Xen's library %s has no %s: Xen 4.11 or later is needed",
                         library ? library : names[of[i]][0], functions[i]);
            vgpu_xen_api_close(api);
            return -ENOENT;
        }
        memcpy((char *)api + at[i], &f, sizeof(f));
    }
    return 0;
}

void vgpu_xen_api_close(struct vgpu_xen_api *api)
{
    for (int i = 0; i < 3; i++)
        if (api->libraries[i])
            dlclose(api->libraries[i]);
    memset(api, 0, sizeof(*api));
}

/* ---- event channels ---- */

xenevtchn_handle *vgpu_xen_events_open(const struct vgpu_xen_api *api)
{
    xenevtchn_handle *events = api->xenevtchn_open(NULL, 0);

    if (!events)
        return NULL;
    int fd = api->xenevtchn_fd(events);
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0) {
        int saved = errno;
        api->xenevtchn_close(events);
        errno = saved;
        return NULL;
    }
    return events;
}

void vgpu_xen_events_take(const struct vgpu_xen_api *api, xenevtchn_handle *events)
{
    /* One port is bound on a handle, and it cannot ring again before it is unmasked: twice is enough. */
    for (int i = 0; i < 2; i++) {
        xenevtchn_port_or_error_t port = api->xenevtchn_pending(events);
        if (port < 0)
            return;
        api->xenevtchn_unmask(events, (evtchn_port_t)port);
    }
}

/* ---- nodes ---- */

static bool path_of(char *out, size_t bytes, const char *dir, const char *node)
{
    return (size_t)snprintf(out, bytes, "%s%s%s", dir, node[0] ? "/" : "", node) < bytes;
}

bool vgpu_xen_node_read(const struct vgpu_xen_api *api, struct xs_handle *xs, const char *dir, const char *node, char *out,
                        size_t bytes)
{
    char path[256];
    unsigned len = 0;

    out[0] = '\0';
    if (!path_of(path, sizeof(path), dir, node))
        return false;
    char *value = api->xs_read(xs, XBT_NULL, path, &len);
    if (!value)
        return false;
    bool fits = len < bytes;
    if (fits) {
        memcpy(out, value, len);
        out[len] = '\0';
    }
    free(value);
    if (!fits)
        errno = EMSGSIZE;
    return fits;
}

bool vgpu_xen_node_number(const struct vgpu_xen_api *api, struct xs_handle *xs, const char *dir, const char *node,
                          uint64_t max, uint64_t *out)
{
    char text[24], *end;

    if (!vgpu_xen_node_read(api, xs, dir, node, text, sizeof(text)) || text[0] < '0' || text[0] > '9')
        return false;
    errno = 0;
    unsigned long long v = strtoull(text, &end, 10);
    if (errno || *end || v > max)
        return false;
    *out = v;
    return true;
}

bool vgpu_xen_node_write(const struct vgpu_xen_api *api, struct xs_handle *xs, const char *dir, const char *node,
                         const char *fmt, ...)
{
    char path[256], value[320];
    va_list ap;

    va_start(ap, fmt);
    int n = vsnprintf(value, sizeof(value), fmt, ap);
    va_end(ap);
    if (n < 0 || (size_t)n >= sizeof(value) || !path_of(path, sizeof(path), dir, node))
        return false;
    return api->xs_write(xs, XBT_NULL, path, value, (unsigned)n);
}

void vgpu_xen_node_remove(const struct vgpu_xen_api *api, struct xs_handle *xs, const char *dir, const char *node)
{
    char path[256];

    if (path_of(path, sizeof(path), dir, node))
        api->xs_rm(xs, XBT_NULL, path);
}
