/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Xen's libraries, opened at run time: one vgpud, one vgpu-exec and one libvgpu run with and without Xen. The signatures
 * come from Xen's own headers; tests give one library that has them all.
 */
#ifndef VGPU_XEN_TRANSPORT_API_H
#define VGPU_XEN_TRANSPORT_API_H

#include <stdbool.h>
#include <stdint.h>
#include <xenevtchn.h>
#include <xengnttab.h>
#include <xenstore.h>

#include "core/base/log.h"

/* X(library, function) */
#define VGPU_XEN_FUNCTIONS(X)                                                                                          \
    X(0, xs_open)                                                                                                      \
    X(0, xs_close)                                                                                                     \
    X(0, xs_directory)                                                                                                 \
    X(0, xs_read)                                                                                                      \
    X(0, xs_write)                                                                                                     \
    X(0, xs_mkdir)                                                                                                     \
    X(0, xs_rm)                                                                                                        \
    X(0, xs_get_permissions)                                                                                           \
    X(0, xs_set_permissions)                                                                                           \
    X(0, xs_watch)                                                                                                     \
    X(0, xs_unwatch)                                                                                                   \
    X(0, xs_fileno)                                                                                                    \
    X(0, xs_check_watch)                                                                                               \
    X(1, xengnttab_open)                                                                                               \
    X(1, xengnttab_close)                                                                                              \
    X(1, xengnttab_map_grant_ref)                                                                                      \
    X(1, xengnttab_map_domain_grant_refs)                                                                              \
    X(1, xengnttab_map_grant_ref_notify)                                                                               \
    X(1, xengnttab_unmap)                                                                                              \
    X(1, xengntshr_open)                                                                                               \
    X(1, xengntshr_close)                                                                                              \
    X(1, xengntshr_share_pages)                                                                                        \
    X(1, xengntshr_share_page_notify)                                                                                  \
    X(1, xengntshr_unshare)                                                                                            \
    X(2, xenevtchn_open)                                                                                               \
    X(2, xenevtchn_fdopen)                                                                                             \
    X(2, xenevtchn_close)                                                                                              \
    X(2, xenevtchn_fd)                                                                                                 \
    X(2, xenevtchn_notify)                                                                                             \
    X(2, xenevtchn_bind_unbound_port)                                                                                  \
    X(2, xenevtchn_bind_interdomain)                                                                                   \
    X(2, xenevtchn_unbind)                                                                                             \
    X(2, xenevtchn_pending)                                                                                            \
    X(2, xenevtchn_unmask)

struct vgpu_xen_api {
    void *libraries[3];
#define VGPU_XEN_MEMBER(library, name) __typeof__(name) *name;
    VGPU_XEN_FUNCTIONS(VGPU_XEN_MEMBER)
#undef VGPU_XEN_MEMBER
};

/* library NULL: the installed ones; else this file has all functions. 0, or -ENOENT with err. */
int vgpu_xen_api_open(struct vgpu_xen_api *api, const char *library, struct vgpu_err *err);
void vgpu_xen_api_close(struct vgpu_xen_api *api);

/* Wakes the other end of the port; never blocks. */
static inline void vgpu_xen_notify(const struct vgpu_xen_api *api, xenevtchn_handle *events, uint32_t port)
{
    if (events)
        api->xenevtchn_notify(events, port);
}
/* Takes what rang and lets it ring again. The handle's descriptor is non-blocking. */
void vgpu_xen_events_take(const struct vgpu_xen_api *api, xenevtchn_handle *events);
/* A handle whose descriptor does not block, or NULL with errno. */
xenevtchn_handle *vgpu_xen_events_open(const struct vgpu_xen_api *api);

/* ---- xenstore nodes: `dir`/`node`. Values of strangers: bounded, judged at full width. ---- */
/* Reads a node into out. False: not there, not readable, or longer than there is room for. */
bool vgpu_xen_node_read(const struct vgpu_xen_api *api, struct xs_handle *xs, const char *dir, const char *node, char *out,
                        size_t bytes);
/* A decimal number of at most max. */
bool vgpu_xen_node_number(const struct vgpu_xen_api *api, struct xs_handle *xs, const char *dir, const char *node,
                          uint64_t max, uint64_t *out);
bool vgpu_xen_node_write(const struct vgpu_xen_api *api, struct xs_handle *xs, const char *dir, const char *node,
                         const char *fmt, ...) __attribute__((format(printf, 5, 6)));
void vgpu_xen_node_remove(const struct vgpu_xen_api *api, struct xs_handle *xs, const char *dir, const char *node);

#endif
