/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The attach handshake of the local transport: fixed-size little-endian messages over a unix
 * SOCK_SEQPACKET socket, file descriptors as SCM_RIGHTS.
 *
 *   guest                                   host
 *   HELLO  (vm_id, token)            ->
 *                                    <-     WELCOME (limits)            or ERROR
 *   ATTACH (region_bytes) + 1 fd     ->     the region memfd, sealed against shrinking
 *                                    <-     ATTACHED + 3 fds            or ERROR
 *                                           [0] properties page, [1] doorbell to ring, [2] doorbell to wait on
 *   ... the socket stays open; closing it, on either side, ends the attachment ...
 *
 * An ERROR ends the conversation: the host closes the socket after it.
 */
#ifndef VGPU_ATTACH_H
#define VGPU_ATTACH_H

#include "vgpu_abi.h"

#ifdef __cplusplus
extern "C" {
#endif

#define VGPU_ATTACH_MAGIC UINT32_C(0x54415647) /* "VGAT" in memory */
#define VGPU_TOKEN_BYTES 16u
#define VGPU_ATTACH_TEXT_BYTES 192u

enum vgpu_attach_type {
    VGPU_ATTACH_HELLO = 1,
    VGPU_ATTACH_WELCOME = 2,
    VGPU_ATTACH_ATTACH = 3,
    VGPU_ATTACH_ATTACHED = 4,
    VGPU_ATTACH_ERROR = 5,
};

enum vgpu_attach_error {
    VGPU_ATTACH_OK = 0,
    VGPU_ATTACH_E_PROTOCOL = 1,     /* malformed or unexpected message, wrong number of fds */
    VGPU_ATTACH_E_VERSION = 2,      /* ABI major version differs */
    VGPU_ATTACH_E_UNKNOWN_VM = 3,   /* no such VM, or the token or uid does not match (never says which) */
    VGPU_ATTACH_E_BUSY = 4,         /* this VM has a live attachment */
    VGPU_ATTACH_E_REGION = 5,       /* not a sealed memfd, wrong size, or a header that does not add up */
    VGPU_ATTACH_E_LIMIT = 6,        /* arena or rings larger than registered */
    VGPU_ATTACH_E_NOMEM = 7,        /* the host cannot reserve what the VM was promised */
    VGPU_ATTACH_E_UNAVAILABLE = 8,  /* pool down, daemon shutting down, VM draining */
};

struct vgpu_msg_hello {
    uint32_t magic;
    uint32_t type;         /* VGPU_ATTACH_HELLO */
    uint32_t abi_version;
    uint32_t vm_id;
    uint8_t token[VGPU_TOKEN_BYTES];
    uint8_t reserved[32];  /* zero */
};
VGPU_STATIC_ASSERT(sizeof(struct vgpu_msg_hello) == 64, "HELLO is 64 bytes");

struct vgpu_msg_welcome {
    uint32_t magic;
    uint32_t type;         /* VGPU_ATTACH_WELCOME */
    uint32_t abi_version;  /* of the host */
    uint32_t vm_id;
    uint64_t max_arena_bytes;
    uint64_t max_device_bytes;
    uint32_t max_in_flight;
    uint32_t max_ring_slots;
    uint8_t reserved[24];
};
VGPU_STATIC_ASSERT(sizeof(struct vgpu_msg_welcome) == 64, "WELCOME is 64 bytes");

struct vgpu_msg_attach {
    uint32_t magic;
    uint32_t type;         /* VGPU_ATTACH_ATTACH */
    uint64_t region_bytes; /* must equal the memfd's size and the header's region_bytes */
    uint8_t reserved[48];
};
VGPU_STATIC_ASSERT(sizeof(struct vgpu_msg_attach) == 64, "ATTACH is 64 bytes");

struct vgpu_msg_attached {
    uint32_t magic;
    uint32_t type;         /* VGPU_ATTACH_ATTACHED */
    uint64_t epoch;
    uint64_t sq_start;
    uint64_t cq_start;
    uint8_t reserved[32];
};
VGPU_STATIC_ASSERT(sizeof(struct vgpu_msg_attached) == 64, "ATTACHED is 64 bytes");

struct vgpu_msg_error {
    uint32_t magic;
    uint32_t type;         /* VGPU_ATTACH_ERROR */
    uint32_t error;        /* enum vgpu_attach_error */
    uint32_t reserved;
    char text[VGPU_ATTACH_TEXT_BYTES]; /* NUL-terminated, for a person */
};
VGPU_STATIC_ASSERT(sizeof(struct vgpu_msg_error) == 208, "ERROR is 208 bytes");

#ifdef __cplusplus
}
#endif
#endif
