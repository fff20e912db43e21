/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A small host for tests of libvgpu: one thread, one VM, the attach handshake, the rings, and a plain executor of every
 * opcode. It can be told to misbehave in the ways that the library must survive.
 */
#ifndef VGPU_TESTS_FAKE_HOST_H
#define VGPU_TESTS_FAKE_HOST_H

#include <stdbool.h>
#include <stdint.h>

#include "rings/abi/vgpu_attach.h"

enum fake_fault {
    FAKE_NONE = 0,
    FAKE_HOLD,          /* takes descriptors and completes none */
    FAKE_REVERSE,       /* completes each batch in reverse order */
    FAKE_BAD_CREDIT,    /* publishes an impossible submission credit */
    FAKE_BAD_POSITION,  /* completes a position that is not outstanding */
    FAKE_BAD_TAG,       /* completes with another tag */
    FAKE_TWICE,         /* completes the same descriptor twice */
    FAKE_OVERRUN,       /* a completion slot's sequence ahead of its position */
    FAKE_BREAK,         /* declares the attachment broken by the operator */
    FAKE_HANG_UP,       /* sends an ERROR with a text, then closes */
    FAKE_MUTE_HELLO,    /* never answers HELLO */
    FAKE_GARBAGE,       /* answers HELLO with another message */
    FAKE_TWO_FDS,       /* one descriptor too few with ATTACHED */
    FAKE_IGNORE_CLOSE,  /* keeps the socket open after the guest said goodbye */
};

struct fake_options {
    const char *socket_path;
    uint32_t vm_id;
    uint8_t token[VGPU_TOKEN_BYTES];
    uint32_t abi_version;
    uint64_t max_arena_bytes;
    uint64_t max_device_bytes;
    uint32_t max_in_flight;
    uint32_t max_ring_slots;
    uint32_t max_handles;
    uint64_t features;
    uint64_t sq_start;
    uint64_t cq_start;
    uint32_t refuse;      /* enum vgpu_attach_error: refuse HELLO with it */
    uint32_t delay_us;    /* each batch takes so long */
    uint32_t spin_polls;  /* empty polls before it sleeps with an armed doorbell; 0: at once */
};

struct fake_counters {
    uint64_t attaches;
    uint64_t detaches;
    uint64_t descriptors;
    uint64_t sleeps;
    uint64_t wakes;       /* doorbells that the guest rang */
    uint64_t bells;       /* doorbells that we rang */
};

struct fake_host;

/* Reasonable values: VM 3, 16 MiB arena and device memory, 256 in flight, rings of at most 4096, 64 handles. */
void fake_options_defaults(struct fake_options *o, const char *socket_path);
/* Listens and serves in a thread of its own. NULL with errno. */
struct fake_host *fake_host_start(const struct fake_options *o);
/* Dies: closes everything without a word, whatever is in flight. Frees the host. */
void fake_host_stop(struct fake_host *h);
/* Takes effect at the next step of the host's thread. */
void fake_host_fault(struct fake_host *h, enum fake_fault fault);
void fake_host_counters(const struct fake_host *h, struct fake_counters *out);

#endif
