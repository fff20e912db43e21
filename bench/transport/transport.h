/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The suite `transport`: messages of one slot between two threads on two cores, through shared memory that both poll, or
 * through the kernel. Both sides of a kernel's channel sleep in it until something is there, as programs that use it do.
 */
#ifndef VGPU_BENCH_TRANSPORT_H
#define VGPU_BENCH_TRANSPORT_H

#include "bench/rings/rings.h"

int bench_transport_run(struct bench *b);
void bench_transport_list(FILE *to);

#define TRANSPORT_PAYLOAD_MAX (UINT32_C(1) << 20)
#define TRANSPORT_BURST_MAX   32u

/* A way between side 0, the client, and side 1. */
struct channel {
    const struct channel_ops *ops;
    struct ring_bed *bed;
    char *shared;  /* TRANSPORT_PAYLOAD_MAX that both sides see */
    int fd[2];     /* of each side */
    int event[2];  /* eventfd that wakes this side */
    void *state;   /* of the kind */
};
struct channel_ops {
    const char *name, *what;
    bool by_reference; /* a payload lies in shared memory, and a message says that it is there */
    /* 0, or -errno: it cannot be had here. */
    int (*open)(struct channel *c);
    void (*close)(struct channel *c);
    /* n <= TRANSPORT_BURST_MAX slots, all of them; blocks when there is no room. */
    int (*send)(struct channel *c, int side, const struct vgpu_slot *items, uint32_t n);
    /* At least one; blocks until there is. How many. */
    int (*receive)(struct channel *c, int side, struct vgpu_slot *out, uint32_t n);
    /* One message of so many bytes, all of it. NULL where by_reference. */
    int (*send_bytes)(struct channel *c, int side, const char *bytes, uint32_t n);
    int (*receive_bytes)(struct channel *c, int side, char *bytes, uint32_t n);
};
extern const struct channel_ops channel_vgpu, channel_eventfd, channel_pipe, channel_seqpacket, channel_stream, channel_uring,
    channel_uring_message;
extern const struct channel_ops *const transport_channels[]; /* ended by NULL */
extern const char *const transport_missing[];

/* ---- loops.c ---- */
struct transport_load {
    struct channel *channel;
    uint32_t burst, payload;
    uint64_t ticks;
    struct bench_hist *hist; /* round trips, or ticks an element x RING_WINDOW_SCALE of windows */
    uint64_t count, took, errors;
    int rc; /* of either side */
    char *buffer[2];
};
/* Two thread functions for each; arg: struct transport_load. */
void transport_rtt_client(void *arg);
void transport_rtt_server(void *arg);
void transport_producer(void *arg);
void transport_consumer(void *arg);

/* ---- report.c ---- */
#define TRANSPORT_PARAMS_BYTES 96
const char *transport_params(char *text, uint32_t slots, uint32_t payload, uint32_t burst);
void transport_report(struct bench *b, uint32_t slots);

#endif
