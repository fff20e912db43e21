/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libvgpu: use a shared GPU from a guest (a virtual machine, a container, a process).
 *
 * Ownership and threads: a struct vgpu is used by one thread at a time (one ring has one producer); open several VMs,
 * or lock around it, for more threads. Calls return 0 or a positive count, or -errno; vgpu_strerror() says what went
 * wrong with this handle in a sentence. Only vgpu_open, vgpu_close, vgpu_wait and the blocking calls block.
 *
 * Sizes and offsets are in bytes, element counts are named n, times are in nanoseconds.
 */
#ifndef VGPU_H
#define VGPU_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define VGPU_LIB_VERSION "0.1.0"

struct vgpu; /* an attachment to a host */

/*
 * How to attach. Zero everything you do not set; then the environment, then the default counts. VGPU_TRANSPORT is local, xen
 * or auto (the default): in a Xen guest, where no socket is named and none is there, grants and xenstore; vm_id,
 * socket_path and token_path are for the local transport.
 */
struct vgpu_options {
    uint32_t vm_id;           /* 0: VGPU_VM_ID */
    const char *socket_path;  /* NULL: VGPU_SOCKET, then /run/vgpu/attach.sock */
    const char *token_path;   /* NULL: VGPU_TOKEN_FILE, then /run/vgpu/tokens/vm-ID.token */
    uint64_t arena_bytes;     /* 0: the most that this VM may have */
    uint32_t ring_slots;      /* 0: 1024. Power of two, 8 to 65536 */
    uint32_t flags;           /* VGPU_OPEN_* */
    uint64_t spin_ns;         /* how long a wait polls before it sleeps; 0: 20,000, and up to 4,000,000 for a
                                 program's execution where those before took less than half of that, else 200,000 */
    uint64_t host_timeout_ns; /* how long the host may take to answer, at open and at close; 0: VGPU_HOST_TIMEOUT_MS, then
                                 5 s to answer a request, 90 s to map the arena, 2 s to let go of it */
};
#define VGPU_OPEN_HUGEPAGES 0x1u /* region in 2 MiB hugepages, fall back to plain pages */

/* Attaches. 0 and *out set; or -errno: EACCES (not registered, wrong token), EBUSY (attached already), EPROTO
 * (versions), E2BIG (larger than registered), ENOENT/ECONNREFUSED (no daemon), EINVAL, ENOMEM, EAGAIN (pool down for 2 s).
 * error_text (may be NULL) receives a sentence. opts may be NULL. */
int vgpu_open(const struct vgpu_options *opts, struct vgpu **out, char *error_text, size_t error_text_bytes);
/* What is outstanding is cancelled. Waits at most 2 s, or host_timeout_ns, for the host to let go of the arena, so that the
 * VM may attach again at once. NULL is fine. All pointers into the arena become invalid. */
void vgpu_close(struct vgpu *v);

/* The last error of this handle, "" if none, or if the blocking call after it succeeded; valid until the next call. */
const char *vgpu_strerror(const struct vgpu *v);
const char *vgpu_status_string(uint16_t status); /* a completion status as a sentence */

/* What the host says about this VM, read fresh. */
struct vgpu_properties {
    uint32_t vm_id, priority, state, reason, max_in_flight, max_handles;
    uint64_t arena_bytes, max_device_bytes, device_generation, features, epoch;
    char pool[32], vm_name[32], backend[32];
};
int vgpu_properties_get(struct vgpu *v, struct vgpu_properties *out);

/* ---- Buffers ---- */
/* A range of the arena (handle 0: memory that both sides see, at host_ptr) or of device memory (host_ptr NULL). */
struct vgpu_buffer {
    uint32_t handle;
    uint64_t offset;
    uint64_t bytes;
    void *host_ptr;
};
/* Arena allocation, 64-byte aligned. 0 or -ENOMEM. */
int vgpu_arena_alloc(struct vgpu *v, uint64_t bytes, struct vgpu_buffer *out);
void vgpu_arena_free(struct vgpu *v, struct vgpu_buffer *buf);
/* Device memory: submits MEM_ALLOC and waits. Zeroed. 0, -ENOMEM (quota), or another status's errno. */
int vgpu_device_alloc(struct vgpu *v, uint64_t bytes, struct vgpu_buffer *out);
int vgpu_device_free(struct vgpu *v, struct vgpu_buffer *buf);
/* Part of a buffer. The caller checks nothing: the host does. */
struct vgpu_buffer vgpu_buffer_at(const struct vgpu_buffer *buf, uint64_t offset);

/* ---- Submit and poll: non-blocking ---- */
/* The wire descriptor without its sequence (see vgpu_abi.h for opcodes and fields). */
struct vgpu_request {
    uint8_t opcode, flags, dtype, sub;
    uint32_t tag; /* yours */
    struct vgpu_buffer dst, src0, src1;
    uint64_t n;
    uint32_t arg[4];
};
struct vgpu_completion {
    uint32_t tag;
    uint16_t status;     /* 0: done */
    uint8_t opcode;
    uint8_t lost_locally; /* 1: made by the library after the host went away */
    uint64_t position;   /* that vgpu_submit returned */
    uint64_t value;
    uint64_t exec_seq;
    uint64_t latency_ns; /* as seen by the host */
};
/* Submits one. 0, or -EAGAIN (ring full or in-flight limit reached: poll, then try again), -ENOTCONN (host went away),
 * -EPROTO (attachment broken, see vgpu_strerror). *position (may be NULL) identifies it in its completion. */
int vgpu_submit(struct vgpu *v, const struct vgpu_request *req, uint64_t *position);
/* Submits up to n as one batch with one doorbell check. How many went in (the first ones), or -errno as above. */
int vgpu_submit_burst(struct vgpu *v, const struct vgpu_request *reqs, unsigned n, uint64_t *first_position);
/* Fetches up to n completions. Returns how many, 0 if none are ready; -ENOTCONN once the host is gone and every
 * outstanding descriptor was reported as lost. */
int vgpu_poll(struct vgpu *v, struct vgpu_completion *out, unsigned n);
/* As vgpu_poll, but waits for the first one: polls for spin_ns, then sleeps. timeout_ns: 0 returns at once, UINT64_MAX
 * is forever. -ETIMEDOUT. 0 when nothing is outstanding: then nothing can come. */
int vgpu_wait(struct vgpu *v, struct vgpu_completion *out, unsigned n, uint64_t timeout_ns);
/* Submitted and not yet fetched. */
uint64_t vgpu_outstanding(const struct vgpu *v);
/* Submitted since vgpu_open(), by the blocking calls too; over re-attachments. */
uint64_t vgpu_submitted(const struct vgpu *v);
/* Readable when a sleeping wait should wake (for your own event loop): call vgpu_event_arm() before you sleep on it; it
 * returns 1 when completions are there already. */
int vgpu_event_fd(struct vgpu *v);
int vgpu_event_arm(struct vgpu *v);

/* ---- Blocking convenience: submit, wait, return 0 or -errno of the status. Nothing else may be outstanding. ---- */
int vgpu_nop(struct vgpu *v);
int vgpu_fence(struct vgpu *v);
int vgpu_fill(struct vgpu *v, const struct vgpu_buffer *dst, uint32_t pattern, uint64_t bytes);
int vgpu_copy(struct vgpu *v, const struct vgpu_buffer *dst, const struct vgpu_buffer *src, uint64_t bytes);
int vgpu_vector_add(struct vgpu *v, const struct vgpu_buffer *dst, const struct vgpu_buffer *a,
                    const struct vgpu_buffer *b, uint64_t n);
int vgpu_axpy(struct vgpu *v, const struct vgpu_buffer *y, float alpha, const struct vgpu_buffer *x, uint64_t n);
enum vgpu_reduction { VGPU_SUM = 0, VGPU_MIN = 1, VGPU_MAX = 2 };
int vgpu_reduce(struct vgpu *v, const struct vgpu_buffer *dst, const struct vgpu_buffer *src, uint64_t n,
                enum vgpu_reduction how);
/* dst[m,n] = alpha op(a)[m,k] op(b)[k,n] + beta dst; row-major, packed. flags: VGPU_GEMM_* of vgpu_abi.h. */
int vgpu_gemm(struct vgpu *v, const struct vgpu_buffer *dst, const struct vgpu_buffer *a, const struct vgpu_buffer *b,
              uint32_t m, uint32_t n, uint32_t k, float alpha, float beta, unsigned flags, unsigned dtype);
/* The last completion of a blocking call. */
const struct vgpu_completion *vgpu_last_completion(const struct vgpu *v);

/* ---- Compiled programs and tensors, where the host has VGPU_FEATURE_PROGRAMS ----
 * They live in a process of the host that serves this VM alone. When it dies (-ETIMEDOUT, -ECONNRESET), or the VM attaches
 * again, all of them are gone: calls with them fail with -EBADF, and they are loaded and put anew. The blocking calls need
 * room in the arena for what they carry, and make do with little: large tensors go in pieces. vgpu_strerror() has the
 * host's own words. */
#define VGPU_RANK_MAX 8u
struct vgpu_tensor {
    uint32_t handle; /* 0: none */
    uint8_t dtype;   /* enum vgpu_dtype of vgpu_abi.h */
    uint8_t rank;
    int64_t dims[VGPU_RANK_MAX]; /* row-major, packed */
    uint64_t bytes;
};
enum vgpu_program_format { VGPU_STABLEHLO = 0, VGPU_HLO = 1 }; /* MLIR bytecode; a serialized HloModuleProto */
struct vgpu_program {
    uint32_t handle;
    uint32_t outputs;
    uint64_t code_bytes, temp_bytes; /* device memory; 0: not known */
    struct vgpu_tensor *output;      /* [outputs]: their types and shapes, handle 0; freed by vgpu_program_free() */
};
/* Compiles on the host: seconds. 0, or -errno: -EOPNOTSUPP (no programs here), -EINVAL (refused), -EIO (does not compile),
 * -ENOMEM (the arena has no room for all of it: larger than vgpu_options.arena_bytes, or that is used up). */
int vgpu_program_load(struct vgpu *v, enum vgpu_program_format format, const void *code, uint64_t bytes,
                      struct vgpu_program *out);
int vgpu_program_free(struct vgpu *v, struct vgpu_program *p);
/* Runs once and waits. out: [p->outputs], made here, the caller's; inputs stay, but those that the program donates. The host
 * checks how many inputs there are and how many bytes they have, not their shapes: a matrix in place of its transpose runs. */
int vgpu_program_execute(struct vgpu *v, const struct vgpu_program *p, const struct vgpu_tensor *const *in, uint32_t n_in,
                         struct vgpu_tensor *out);
/* A request for the same, to be submitted by the caller. `list` is arena memory of at least 2 * (n_in + p->outputs) bytes
 * that stays until the completion; out gets its handles now. If it fails: vgpu_tensor_forget() each of them. */
int vgpu_req_execute(struct vgpu *v, const struct vgpu_program *p, const struct vgpu_tensor *const *in, uint32_t n_in,
                     struct vgpu_tensor *out, const struct vgpu_buffer *list, struct vgpu_request *req);
/* Device time of the last vgpu_program_execute(), ns: vgpu_last_completion()->value. */

/* Bytes of one element of this type, 0: no such type. */
uint32_t vgpu_dtype_size(uint8_t dtype);
int vgpu_tensor_put(struct vgpu *v, uint8_t dtype, uint8_t rank, const int64_t *dims, const void *data,
                    struct vgpu_tensor *out);
/* data has room for t->bytes. */
int vgpu_tensor_get(struct vgpu *v, const struct vgpu_tensor *t, void *data);
int vgpu_tensor_free(struct vgpu *v, struct vgpu_tensor *t);
/* Gives its handle back without a word to the host: it was donated, or never made. */
void vgpu_tensor_forget(struct vgpu *v, struct vgpu_tensor *t);

/* ---- Fill a request without submitting it ---- */
struct vgpu_request vgpu_req_gemm(const struct vgpu_buffer *dst, const struct vgpu_buffer *a,
                                  const struct vgpu_buffer *b, uint32_t m, uint32_t n, uint32_t k, float alpha,
                                  float beta, unsigned flags, unsigned dtype);
struct vgpu_request vgpu_req_vector_add(const struct vgpu_buffer *dst, const struct vgpu_buffer *a,
                                        const struct vgpu_buffer *b, uint64_t n);

#ifdef __cplusplus
}
#endif
#endif
