/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What becomes of trace records (core/base/trace.h): those of one descriptor, by several components, put together as its
 * life; lives as a waterfall by percentile, and as a file for trace viewers. vgpud, vgpu-ctl and vgpu-bench use it. Any
 * thread; nothing here is on a data path.
 */
#ifndef VGPU_TRACE_TRACE_H
#define VGPU_TRACE_TRACE_H

#include <stdio.h>

#include "core/base/log.h"
#include "core/base/trace.h"

/* A descriptor's way. Times are ticks of one clock, 0: it did not pass there, or nobody knows when. */
struct vgpu_trace_life {
    uint64_t position;
    uint32_t vm_id;
    uint16_t status;    /* of the completion; of the verdict while there is none */
    uint8_t opcode;
    uint8_t device;     /* enum vgpu_trace_device */
    uint32_t poll_core; /* which one took it */
    uint64_t at[VGPU_HOP_COUNT];
};

/* Names in files and for people: "seen", "device_start". */
extern const char *const vgpu_hop_names[VGPU_HOP_COUNT];
/* What happens between the hop before and this one, for people: "in the submission ring". */
extern const char *const vgpu_hop_spans[VGPU_HOP_COUNT];
/* Index of a name, or -1. */
int vgpu_hop_find(const char *name);

struct vgpu_trace_entry {
    struct vgpu_trace_record record;
    uint32_t component, index;
};
/* Records out of several rings. Starts as all zero; vgpu_trace_set_free(). */
struct vgpu_trace_set {
    struct vgpu_trace_entry *entries;
    size_t count, room;
    uint64_t missed; /* were written over before they could be read */
};
/*
 * Adds what a ring holds of this VM (0: of all), from `since` (ticks of its first hop) on. The ring may be written
 * meanwhile. component, slots: what the reader knows, not what the ring says, which may be another process's. index: of
 * the poll core. 0 or -ENOMEM.
 */
int vgpu_trace_collect(struct vgpu_trace_set *set, const struct vgpu_trace_ring *ring, uint32_t component, uint32_t slots,
                       uint32_t index, uint32_t vm_id, uint64_t since);
void vgpu_trace_set_free(struct vgpu_trace_set *set);

/* Lives by the time they were seen, malloc'ed. Sorts the set's entries. 0 or -ENOMEM. */
int vgpu_trace_lives(struct vgpu_trace_set *set, struct vgpu_trace_life **out, size_t *count);

/*
 * A guest's own two hops, from the file that libvgpu wrote (VGPU_TRACE), into lives whose times are ticks of this
 * machine. Those that contradict the host's are left out and counted: the file is the guest's word. 0, or -errno with err:
 * no such file, or no trace of this kernel (then its clock says nothing here).
 */
struct vgpu_trace_guest {
    uint64_t records, used, contradict;
};
int vgpu_trace_guest_read(const char *path, struct vgpu_trace_life *lives, size_t count, struct vgpu_trace_guest *out,
                          struct vgpu_err *err);
/* For the ring's header: of the kernel that runs here. All zero where it does not say. */
void vgpu_trace_host(uint8_t out[16]);

/* ---- waterfall: where the time goes, at which percentile ---- */
#define VGPU_WATERFALL_ROWS 4u /* p50, p90, p99, p99.9 */
struct vgpu_waterfall_row {
    double q;
    uint32_t lives;  /* whose mean it is: those next to the percentile */
    double total_ns; /* sum of the spans */
    double span_ns[VGPU_HOP_COUNT]; /* from the hop before; NAN where this hop is not known */
};
struct vgpu_waterfall {
    uint32_t hops;      /* bits: those that are known */
    uint64_t lives;     /* that had exactly these hops, and all from first to last */
    uint64_t left_out;  /* that had others, or are not over */
    struct vgpu_waterfall_row row[VGPU_WATERFALL_ROWS]; /* those with lives == 0 have too few lives to say */
};
/*
 * Of the lives that are over. Where they differ in what is known of them, of the largest group; the rest is left out.
 * 0, -ENOMEM, or -ENODATA: none is over.
 */
int vgpu_waterfall(const struct vgpu_trace_life *lives, size_t count, uint64_t ticks_hz, struct vgpu_waterfall *out);
const char *vgpu_waterfall_name(unsigned row); /* "p99.9" */
/* With bars, `columns` wide. */
void vgpu_waterfall_print(FILE *to, const struct vgpu_waterfall *w, unsigned columns);

/* ---- chrome.c ---- */
/*
 * Lives in Chrome's trace event format (JSON object form), which ui.perfetto.dev and chrome://tracing open. backend: the
 * name of the executor's, or NULL. 0 or -errno.
 */
int vgpu_trace_chrome(FILE *to, const struct vgpu_trace_life *lives, size_t count, uint64_t ticks_hz, const char *backend);

#endif
