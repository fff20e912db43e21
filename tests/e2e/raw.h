/* SPDX-License-Identifier: Apache-2.0 */
/* A guest made by hand from rings/abi/ alone: it can say and offer what libvgpu never would. Any thread; blocks, bounded. */
#ifndef VGPU_TESTS_E2E_RAW_H
#define VGPU_TESTS_E2E_RAW_H

#include "harness.h"
#include "rings/abi/vgpu_attach.h"

struct raw_guest {
    int sock, region_fd;
    struct vgpu_msg_hello hello;
    struct vgpu_msg_welcome welcome;
    struct vgpu_msg_attached attached;
    struct vgpu_msg_error error; /* the last refusal; error.error is 0 when there was none */
    struct vgpu_region_header header;
    int fds[3]; /* properties page, doorbell to ring, doorbell to wait on */
};

/* Connects; the HELLO to send stands in g->hello (token of this VM), the header to offer in g->header. */
void raw_connect(struct raw_guest *g, const struct e2e_host *h, unsigned vm_id);
/* Sends g->hello; 0 with g->welcome, or the error of the refusal (enum vgpu_attach_error). */
uint32_t raw_hello(struct raw_guest *g);
/* A memfd with these flags and seals, of g->header.region_bytes, with g->header at its start. */
int raw_region(struct raw_guest *g, unsigned memfd_flags, int seals);
#define RAW_SEALS_GOOD (F_SEAL_SHRINK | F_SEAL_GROW)
/* Sends ATTACH with these descriptors; 0 with g->attached and g->fds, or the error. */
uint32_t raw_attach(struct raw_guest *g, uint64_t region_bytes, const int *fds, int n_fds);
/* Sends these bytes and takes the answer: 0 WELCOME or ATTACHED, or the error. UINT32_MAX: closed without a word. */
uint32_t raw_exchange(struct raw_guest *g, const void *bytes, size_t n, const int *fds, int n_fds);
/* Rings the host's doorbell as docs/abi.md says: 8 bytes, the number 1. */
void raw_ring(struct raw_guest *g);
void raw_close(struct raw_guest *g);

#endif
