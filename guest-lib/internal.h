/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside libvgpu: the attachment and the functions that its files share. Nothing here is installed or exported.
 * A struct vgpu belongs to one thread at a time; there is no lock and no thread of our own.
 *
 *   open.c   options, region, attach, reattach, close, properties
 *   ring.c   submit, poll, wait, events; what happens when the host goes away
 *   arena.c  allocation inside the arena
 *   calls.c  blocking calls, device memory, request helpers
 *   trace.c  when a descriptor was published and its completion seen (VGPU_TRACE)
 *   programs.c  compiled programs and tensors
 */
#ifndef VGPU_GUEST_LIB_INTERNAL_H
#define VGPU_GUEST_LIB_INTERNAL_H

#include <stdbool.h>

/* Only what vgpu.h declares is exported; all else has hidden visibility. */
#pragma GCC visibility push(default)
#include "guest-lib/vgpu.h"
#pragma GCC visibility pop

#include "core/base/log.h"
#include "core/base/carrier.h"
#include "core/base/trace.h"
#include "rings/spsc.h"

#define VGPU_RING_SLOTS_DEFAULT 1024u
#define VGPU_SPIN_NS_DEFAULT 20000u
/* A blocking execution: the shortest takes 30 us on a GPU, a wait that sleeps is woken tens of microseconds late. Where they
 * took less than BUSY_WAIT of late, the next is polled for twice as long. */
#define VGPU_PROGRAM_SPIN_NS_DEFAULT 200000u
#define VGPU_PROGRAM_BUSY_WAIT_NS UINT64_C(2000000)
#define VGPU_ARENA_ALIGN 64u
#define VGPU_ATTACH_TIMEOUT_NS UINT64_C(5000000000) /* vgpud answers in microseconds; a stuck one is an error */
/* Once it has the region, the executor maps it: a device driver takes its time to register a large arena. */
#define VGPU_MAP_TIMEOUT_NS UINT64_C(90000000000)
#define VGPU_CLOSE_TIMEOUT_NS UINT64_C(2000000000)
#define VGPU_HOST_TIMEOUT_MAX_NS UINT64_C(86400000000000)
#define VGPU_REATTACH_INTERVAL_NS UINT64_C(50000000)

/*
 * UP -> LOSING (host gone, or the attachment broken) -> DOWN (host gone: reattaching) or BROKEN (for good).
 * LOSING: what came is handed out, then every outstanding descriptor as lost.
 */
enum vgpu_link { VGPU_LINK_UP = 0, VGPU_LINK_LOSING, VGPU_LINK_DOWN, VGPU_LINK_BROKEN };

/* An outstanding descriptor, at its position & window_mask. Private: the host's completions are checked against it. */
struct vgpu_outstanding {
    uint64_t pos_plus_1; /* 0: none */
    uint32_t tag;
    uint8_t opcode;
    uint8_t pad[3];
};

/* The arena as blocks in address order that cover it without gaps; two neighbours are never both free. */
struct vgpu_block {
    uint64_t off;
    uint64_t bytes; /* multiple of VGPU_ARENA_ALIGN */
    bool used;
};
struct vgpu_arena {
    struct vgpu_block *blocks;
    uint32_t count;
    uint32_t room; /* allocated entries */
};

struct vgpu {
    /* What submit and poll touch. */
    enum vgpu_link link;
    bool always_poll;             /* the host never sleeps: no fence, no event check */
    struct vgpu_prod sq;
    struct vgpu_cons cq;
    uint64_t outstanding;
    uint64_t submitted;   /* since open */
    uint64_t cap;                 /* most that may be outstanding */
    uint64_t window_tail;         /* no outstanding position is below */
    uint32_t window_mask;
    uint32_t empty_polls;
    struct vgpu_outstanding *window;
    struct vgpu_guest_ctrl *guest_ctrl;
    struct vgpu_host_ctrl *host_ctrl;
    struct vgpu_trace_ring *trace; /* NULL: nothing is traced, as mostly */

    /* Health. */
    enum vgpu_link after_losing;
    bool daemon_gone; /* its socket is closed; the executor may still be there */
    char gone_text[160]; /* its last words */
    bool cq_untrusted;            /* the host broke the protocol: nothing more is read from the ring */
    uint64_t next_check_ns;
    uint64_t next_attach_ns;
    uint64_t attach_deadline_ns;

    /* Region. */
    struct vgpu_carrier_region region;
    struct vgpu_region_header header; /* our own copy: what the shared one must say at each attach */
    struct vgpu_arena arena;

    /* Where trace is set: when the descriptor at position & window_mask was published, in ticks. */
    uint64_t *published;
    uint32_t trace_sample, trace_vm_id;

    /* Device handles that vgpu_device_alloc() gave out. */
    uint64_t handle_used[(VGPU_HANDLE_MAX + 1) / 64];
    uint32_t handle_last;
    uint64_t handle_generation;

    /* Attachment. */
    struct vgpu_carrier *carrier; /* how we reach the host */
    int event_fd;                 /* epoll over doorbell and what else the carrier watches */
    uint32_t vm_id_wanted;        /* 0: whatever the host says that we are */
    uint64_t spin_ns;
    uint64_t program_spin_ns; /* of a blocking call that runs a program; 0: by program_wait_ns */
    uint64_t program_wait_ns; /* how long such calls took, on average */
    uint64_t host_timeout_ns;     /* 0: not chosen, each wait has a limit of its own */

    /* Handles of programs and tensors, [0] and [1]; made by the first of them. */
    struct vgpu_handles *names;

    struct vgpu_completion last;  /* of a blocking call */
    const char *error_static;     /* set without formatting, or NULL: then error.text */
    struct vgpu_err error;
};

/* open.c: one bounded, non-blocking step towards a new attachment. 0: attached; -ENOTCONN: not yet. */
int vgpu_reattach(struct vgpu *v);
/* Prepares the data path for the attachment that v->carrier just got. */
int vgpu_link_begin(struct vgpu *v, struct vgpu_err *err);
/* trace.c. 0 where VGPU_TRACE asks for nothing; after the first attach, the window is there. */
int vgpu_guest_trace_open(struct vgpu *v, struct vgpu_err *err);
void vgpu_guest_trace_close(struct vgpu *v);
/* Where v->trace is set: it is about to be published; these were just fetched, at `now`. */
void vgpu_guest_trace_published(struct vgpu *v, uint64_t position);
void vgpu_guest_trace_seen(struct vgpu *v, const struct vgpu_slot *slots, uint32_t count, uint64_t now);
/* ring.c: looks whether the host is there and the attachment whole; cheap when called often. */
void vgpu_link_check(struct vgpu *v);
/* calls.c: submits, waits; 0 or -errno of the status, with a sentence. Nothing else may be outstanding. */
int vgpu_run_blocking(struct vgpu *v, const struct vgpu_request *req);
/* arena.c. 0 or -ENOMEM. */
int vgpu_arena_init(struct vgpu_arena *a, uint64_t bytes);
void vgpu_arena_fini(struct vgpu_arena *a);
/* First fit: 0 and *off, -EINVAL, -ENOMEM. */
int vgpu_arena_take(struct vgpu_arena *a, uint64_t bytes, uint64_t *off);
/* 0, or -EINVAL: no allocation starts at off. */
int vgpu_arena_give(struct vgpu_arena *a, uint64_t off);

/* Remembers a constant sentence for vgpu_strerror() and returns -code. */
static inline int vgpu_fail(struct vgpu *v, int code, const char *sentence)
{
    v->error_static = sentence;
    return -code;
}
/* The same for a sentence that was formatted into v->error. */
#define vgpu_failf(v, code, ...) ((v)->error_static = NULL, vgpu_err_set(&(v)->error, (code), __VA_ARGS__))

static inline const volatile struct vgpu_props *vgpu_props_page(const struct vgpu *v)
{
    return v->carrier->props;
}

#endif
