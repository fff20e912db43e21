/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A Xen inside one process: grants over memfds, event channels over pipes, xenstore with owners, readers and watches. The
 * same functions as Xen's libraries, in one shared library, for tests of xen-transport/ without a hypervisor. Handles
 * belong to the domain that fake_xen_domain() named when they were opened. One thread.
 */
#ifndef VGPU_FAKE_XEN_H
#define VGPU_FAKE_XEN_H

#include <stdbool.h>
#include <stdint.h>

/* Handles that are opened from here on belong to this domain. */
void fake_xen_domain(uint32_t domid);
/* Makes what a toolstack makes of a domain: its home, `domid` and `vm`. */
void fake_xen_domain_create(uint32_t domid, const char *uuid);
/* Its nodes go; what others have mapped of it stays. */
void fake_xen_domain_destroy(uint32_t domid);
/* What a save and restore leave of a domain: its memory. Its nodes are new, and its grants and ports are void; to unbind or
 * close one of those ports aborts, as Linux's xen-evtchn does. Before: fake_xen_domain_destroy(). */
void fake_xen_domain_restore(uint32_t domid, const char *uuid);
/* Called after each write to xenstore. */
void fake_xen_on_write(void (*hook)(const char *path, const char *value));
/* Value of a node, or NULL; valid until it changes. */
const char *fake_xen_node(const char *path);
/* Takes a grant back, as a hostile kernel would. */
void fake_xen_revoke(uint32_t ref);
/* The nth call from now of this function of xenstore's (xs_open, xs_watch, xs_write by domain 0, xs_read by another) fails,
 * once, with ENOMEM. NULL: none. */
void fake_xen_fail(const char *function, unsigned nth);
/* Each call that maps takes that much of its thread's time. */
void fake_xen_map_costs(uint64_t ns);
/* Channels seem to ring without end. */
void fake_xen_rings_on(bool on);
/* Was this grant ever mapped for writing? */
bool fake_xen_written(uint32_t ref);

/* What is held now. */
struct fake_xen_counts {
    uint32_t grants, mapped_pages, ports, handles;
};
void fake_xen_count(struct fake_xen_counts *out);
/* What was done since the start: pages granted and mapped, calls that unmapped, events sent, channels taken in, nodes read. */
struct fake_xen_totals {
    uint64_t granted, mapped, unmaps, sends, takes, reads;
};
void fake_xen_total(struct fake_xen_totals *out);

#endif
