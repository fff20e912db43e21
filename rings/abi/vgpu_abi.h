/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The wire format of vgpu: everything a guest and the host read from each other.
 *
 * This is the only copy. It is freestanding, compiles as C11 and C++, uses fixed-width little-endian
 * integers and no pointers. docs/abi.md is the prose twin; tests/unit/rings/abi_test.c pins each offset.
 *
 * A region (guest memory) holds: header page | guest control page | host control page | submission ring |
 * completion ring | arena. The properties page is host memory that the guest maps read-only.
 */
#ifndef VGPU_ABI_H
#define VGPU_ABI_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
#define VGPU_STATIC_ASSERT(cond, msg) static_assert(cond, msg)
extern "C" {
#else
#define VGPU_STATIC_ASSERT(cond, msg) _Static_assert(cond, msg)
#endif

/* ABI version: major in the high half (must match), minor in the low half (additions only). */
#define VGPU_ABI_MAJOR 1u
#define VGPU_ABI_MINOR 1u
#define VGPU_ABI_VERSION ((VGPU_ABI_MAJOR << 16) | VGPU_ABI_MINOR)

#define VGPU_REGION_MAGIC UINT64_C(0x314e475255504756) /* "VGPURGN1" in memory */
#define VGPU_PROPS_MAGIC UINT64_C(0x3150525055504756)  /* "VGPUPRP1" in memory */

#define VGPU_PAGE_BYTES 4096u
#define VGPU_SLOT_BYTES 64u
#define VGPU_RING_SLOTS_MIN 8u
#define VGPU_RING_SLOTS_MAX 65536u
#define VGPU_HANDLE_MAX 65535u       /* a handle is 16 bits; 0 is the arena */
#define VGPU_OFFSET_BITS 48u         /* an offset inside a buffer is 48 bits */
#define VGPU_OFFSET_MASK ((UINT64_C(1) << VGPU_OFFSET_BITS) - 1)
#define VGPU_ARENA_BYTES_MAX (UINT64_C(1) << 46)
#define VGPU_NAME_BYTES 32u          /* NUL-terminated names on the wire */

/* ---- Region header: guest writes once before attach; the host reads it once, into its own copy. ---- */
struct vgpu_region_header {
    uint64_t magic;          /* VGPU_REGION_MAGIC */
    uint32_t abi_version;    /* VGPU_ABI_VERSION of the guest */
    uint32_t header_bytes;   /* sizeof(struct vgpu_region_header) */
    uint64_t region_bytes;   /* whole region */
    uint64_t features;       /* VGPU_FEATURE_* the guest understands */
    uint64_t guest_ctrl_off; /* byte offsets from the region's start, multiples of VGPU_PAGE_BYTES */
    uint64_t host_ctrl_off;
    uint64_t sq_off;
    uint64_t cq_off;
    uint64_t arena_off;
    uint64_t arena_bytes;    /* may be 0 */
    uint32_t sq_slots;       /* power of two, VGPU_RING_SLOTS_MIN..MAX */
    uint32_t cq_slots;
    uint8_t reserved[40];    /* zero */
};
VGPU_STATIC_ASSERT(sizeof(struct vgpu_region_header) == 128, "region header is 128 bytes");
VGPU_STATIC_ASSERT(offsetof(struct vgpu_region_header, arena_bytes) == 72, "arena_bytes at 72");
VGPU_STATIC_ASSERT(offsetof(struct vgpu_region_header, sq_slots) == 80, "sq_slots at 80");

/* ---- Control pages. Each field has one writer and a 128-byte line pair of its own. ---- */
struct vgpu_guest_ctrl {      /* written by the guest only */
    uint64_t cq_head;         /* completion positions consumed so far (credit), published lazily */
    uint8_t pad0[120];
    uint64_t cq_event;        /* ring my doorbell when the completion at this position is published */
    uint8_t pad1[120];
};
struct vgpu_host_ctrl {       /* written by the host only */
    uint64_t sq_head;         /* submission positions consumed so far (credit), published lazily */
    uint8_t pad0[120];
    uint64_t sq_event;        /* ring my doorbell when the descriptor at this position is published */
    uint8_t pad1[120];
};
VGPU_STATIC_ASSERT(sizeof(struct vgpu_guest_ctrl) == 256, "guest control is 256 bytes");
VGPU_STATIC_ASSERT(sizeof(struct vgpu_host_ctrl) == 256, "host control is 256 bytes");
VGPU_STATIC_ASSERT(offsetof(struct vgpu_guest_ctrl, cq_event) == 128, "cq_event at 128");
VGPU_STATIC_ASSERT(offsetof(struct vgpu_host_ctrl, sq_event) == 128, "sq_event at 128");

/* ---- Descriptor: one slot of the submission ring. ---- */
/* A buffer reference: handle in the top 16 bits, byte offset in the low 48. */
#define VGPU_REF(handle, offset) (((uint64_t)(handle) << VGPU_OFFSET_BITS) | ((uint64_t)(offset) & VGPU_OFFSET_MASK))
#define VGPU_REF_HANDLE(ref) ((uint32_t)((ref) >> VGPU_OFFSET_BITS))
#define VGPU_REF_OFFSET(ref) ((ref) & VGPU_OFFSET_MASK)
#define VGPU_HANDLE_ARENA 0u

struct vgpu_desc {
    uint8_t opcode;   /* enum vgpu_opcode */
    uint8_t flags;    /* VGPU_DESC_* */
    uint8_t dtype;    /* enum vgpu_dtype */
    uint8_t sub;      /* opcode-specific bits, else 0 */
    uint32_t tag;     /* echoed in the completion, not interpreted */
    uint64_t dst;     /* buffer references */
    uint64_t src0;
    uint64_t src1;
    uint64_t n;       /* bytes or elements, see the opcode */
    uint32_t arg[4];  /* opcode-specific, else 0 */
    uint64_t seq;     /* position + 1, stored last with release order */
};
VGPU_STATIC_ASSERT(sizeof(struct vgpu_desc) == 64, "a descriptor is one cache line");
VGPU_STATIC_ASSERT(offsetof(struct vgpu_desc, tag) == 4, "tag at 4");
VGPU_STATIC_ASSERT(offsetof(struct vgpu_desc, dst) == 8, "dst at 8");
VGPU_STATIC_ASSERT(offsetof(struct vgpu_desc, src0) == 16, "src0 at 16");
VGPU_STATIC_ASSERT(offsetof(struct vgpu_desc, src1) == 24, "src1 at 24");
VGPU_STATIC_ASSERT(offsetof(struct vgpu_desc, n) == 32, "n at 32");
VGPU_STATIC_ASSERT(offsetof(struct vgpu_desc, arg) == 40, "arg at 40");
VGPU_STATIC_ASSERT(offsetof(struct vgpu_desc, seq) == 56, "seq at 56");

#define VGPU_DESC_INDEPENDENT 0x01u /* may run beside its predecessors of the same VM */
#define VGPU_DESC_FLAGS_KNOWN 0x01u

enum vgpu_opcode {
    VGPU_OP_NOP = 0,
    VGPU_OP_FILL = 1,       /* dst[0..n) bytes = arg[0], little endian, repeated; n multiple of 4 */
    VGPU_OP_COPY = 2,       /* dst[0..n) = src0[0..n), bytes; must not overlap */
    VGPU_OP_MEM_ALLOC = 3,  /* dst = handle chosen by the guest (offset 0), n = bytes; zeroed; a barrier */
    VGPU_OP_MEM_FREE = 4,   /* dst = handle; a barrier */
    VGPU_OP_VECTOR_ADD = 5, /* f32: dst[i] = src0[i] + src1[i], i < n */
    VGPU_OP_AXPY = 6,       /* f32: dst[i] += alpha * src0[i], alpha = arg[0] bits, i < n */
    VGPU_OP_REDUCE = 7,     /* f32: dst[0] = sum|min|max of src0[0..n), sub says which */
    VGPU_OP_GEMM = 8,       /* dst[m,n] = alpha op(src0)[m,k] op(src1)[k,n] + beta dst, row-major, packed */
    VGPU_OP_FENCE = 9,      /* completes after all earlier ones of this VM; later ones wait for it */
    /* Compiled programs, since 1.1; served where VGPU_FEATURE_PROGRAMS is set. Programs and tensors have handles of their
     * own (1..65535 each), chosen by the guest; they are not those of MEM_ALLOC. Everything else lies in the arena. */
    VGPU_OP_PROGRAM_LOAD = 32, /* dst = program, src0 = code, n = its bytes, sub = format; value = outputs */
    VGPU_OP_PROGRAM_FREE = 33, /* dst = program */
    VGPU_OP_PROGRAM_INFO = 34, /* dst = room, n = its bytes, src0 = program; sub = what; value = bytes that there are */
    VGPU_OP_EXECUTE = 35,      /* src0 = program, src1 = u16 tensors[n], the first arg[0] are inputs; value = device ns */
    VGPU_OP_BUFFER_PUT = 36,   /* dst = tensor and offset, src0 = n bytes of it, dtype; offset 0: src1 = i64 dims[arg[0]] */
    VGPU_OP_BUFFER_GET = 37,   /* dst = room, src0 = tensor and offset, n = bytes; value = bytes of the whole tensor */
    VGPU_OP_BUFFER_FREE = 38,  /* dst = tensor */
    VGPU_OP_DEBUG = 240,    /* fault injection for tests; refused unless the host enables it */
};
#define VGPU_OP_COUNT 10u /* contiguous opcodes of the device itself: 0..VGPU_OP_COUNT-1 */
#define VGPU_OP_PROGRAM_FIRST 32u /* contiguous opcodes of programs */
#define VGPU_OP_PROGRAM_COUNT 7u

enum vgpu_dtype {
    VGPU_F32 = 0,
    VGPU_BF16 = 1,
    /* The others in BUFFER_PUT and PROGRAM_INFO only. */
    VGPU_F16 = 2,
    VGPU_F64 = 3,
    VGPU_S8 = 4,
    VGPU_S16 = 5,
    VGPU_S32 = 6,
    VGPU_S64 = 7,
    VGPU_U8 = 8,
    VGPU_U16 = 9,
    VGPU_U32 = 10,
    VGPU_U64 = 11,
    VGPU_PRED = 12, /* a byte, 0 or 1 */
    VGPU_C64 = 13,  /* two f32 */
    VGPU_C128 = 14, /* two f64 */
};
#define VGPU_DTYPE_COUNT 15u

/* PROGRAM_LOAD: sub */
#define VGPU_PROGRAM_STABLEHLO 0u /* a StableHLO portable artifact: MLIR bytecode */
#define VGPU_PROGRAM_HLO 1u       /* a serialized HloModuleProto */
#define VGPU_PROGRAM_BYTES_MAX (UINT64_C(1) << 30)
/* PROGRAM_INFO: sub */
#define VGPU_PROGRAM_SIGNATURE 0u /* struct vgpu_program_info, then a struct vgpu_tensor_info for each output */
#define VGPU_PROGRAM_ERROR 1u     /* why the last program operation failed, told once: UTF-8, no NUL; src0 is 0 */
#define VGPU_PROGRAM_HOST 2u      /* what compiles here: lines "name=value", no NUL; src0 is 0 */
#define VGPU_TENSOR_RANK_MAX 8u
#define VGPU_TENSOR_NONE 0u /* among EXECUTE's outputs: this one is not wanted */

struct vgpu_tensor_info {
    uint8_t dtype; /* enum vgpu_dtype */
    uint8_t rank;
    uint8_t reserved[6];
    int64_t dims[VGPU_TENSOR_RANK_MAX]; /* row-major, packed; those from rank on are 0 */
};
VGPU_STATIC_ASSERT(sizeof(struct vgpu_tensor_info) == 72, "a tensor is 72 bytes");
struct vgpu_program_info {
    uint32_t outputs;
    uint32_t reserved0;
    uint64_t code_bytes; /* on the device; 0: not known */
    uint64_t temp_bytes; /* device memory while it runs; 0: not known */
    uint64_t reserved1;
};
VGPU_STATIC_ASSERT(sizeof(struct vgpu_program_info) == 32, "program information is 32 bytes");

/* REDUCE: sub */
#define VGPU_REDUCE_SUM 0u
#define VGPU_REDUCE_MIN 1u
#define VGPU_REDUCE_MAX 2u
/* GEMM: n = columns of dst, arg[0] = m (rows of dst), arg[1] = k, arg[2] = alpha bits, arg[3] = beta bits.
 * dtype is that of src0 and src1; dst is always f32. beta == 0 means dst is not read. */
#define VGPU_GEMM_TRANS_A 0x01u /* src0 is stored [k,m] */
#define VGPU_GEMM_TRANS_B 0x02u /* src1 is stored [n,k] */
#define VGPU_GEMM_RELU 0x04u    /* dst = max(0, result) */
#define VGPU_GEMM_SUB_KNOWN 0x07u
#define VGPU_GEMM_DIM_MAX (1u << 20)
/* DEBUG: sub; arg[0] = parameter */
#define VGPU_DEBUG_STALL 0u /* the device does nothing for arg[0] microseconds, then completes OK */
#define VGPU_DEBUG_FAIL 1u  /* completes with status BACKEND_ERROR */
#define VGPU_DEBUG_CRASH 2u /* the executor process dies by SIGKILL */
#define VGPU_DEBUG_HANG 3u  /* never completes */
#define VGPU_DEBUG_DEVICE_FAULT 4u /* breaks the device for its executor: what a wild kernel does */

/* ---- Completion: one slot of the completion ring. ---- */
struct vgpu_cpl {
    uint32_t tag;         /* of the descriptor */
    uint16_t status;      /* enum vgpu_status */
    uint8_t opcode;       /* of the descriptor */
    uint8_t flags;        /* 0 */
    uint64_t sq_pos;      /* position of the descriptor in the submission ring */
    uint64_t value;       /* opcode-specific result, else 0. MEM_ALLOC: bytes reserved */
    uint64_t exec_seq;    /* order in which the pool's executor started it; 0 unless the host exposes it */
    uint64_t latency_ns;  /* host time from seen by the poll core to this completion */
    uint32_t device_generation; /* low 32 bits of the generation that ran it */
    uint32_t reserved0;
    uint64_t reserved1;
    uint64_t seq;         /* position + 1, stored last with release order */
};
VGPU_STATIC_ASSERT(sizeof(struct vgpu_cpl) == 64, "a completion is one cache line");
VGPU_STATIC_ASSERT(offsetof(struct vgpu_cpl, status) == 4, "status at 4");
VGPU_STATIC_ASSERT(offsetof(struct vgpu_cpl, sq_pos) == 8, "sq_pos at 8");
VGPU_STATIC_ASSERT(offsetof(struct vgpu_cpl, value) == 16, "value at 16");
VGPU_STATIC_ASSERT(offsetof(struct vgpu_cpl, exec_seq) == 24, "exec_seq at 24");
VGPU_STATIC_ASSERT(offsetof(struct vgpu_cpl, latency_ns) == 32, "latency_ns at 32");
VGPU_STATIC_ASSERT(offsetof(struct vgpu_cpl, device_generation) == 40, "device_generation at 40");
VGPU_STATIC_ASSERT(offsetof(struct vgpu_cpl, seq) == 56, "seq at 56");

enum vgpu_status {
    VGPU_OK = 0,
    VGPU_E_OPCODE = 1,    /* unknown opcode */
    VGPU_E_FLAGS = 2,     /* unknown flag, or a field that must be zero is not */
    VGPU_E_DTYPE = 3,     /* this opcode does not take this dtype */
    VGPU_E_HANDLE = 4,    /* no such buffer */
    VGPU_E_RANGE = 5,     /* offset + length is outside the buffer */
    VGPU_E_ALIGN = 6,     /* offset or length not a multiple of the element size */
    VGPU_E_ARG = 7,       /* an argument is outside what the opcode takes */
    VGPU_E_OVERLAP = 8,   /* source and destination overlap */
    VGPU_E_NOMEM = 9,     /* device memory quota used up or too fragmented */
    VGPU_E_EXISTS = 10,   /* MEM_ALLOC of a handle that is in use */
    VGPU_E_CANCELLED = 11,
    VGPU_E_TIMEOUT = 12,
    VGPU_E_LOST = 13,     /* device, executor or daemon died: it may or may not have run */
    VGPU_E_FAULT = 14,    /* the guest's own memory was not there */
    VGPU_E_BACKEND = 15,  /* the backend failed this operation */
    VGPU_E_UNSUPPORTED = 16, /* this backend does not have this operation */
};
#define VGPU_STATUS_COUNT 17u

/* ---- Properties page: host memory; the guest maps it read-only. ---- */
enum vgpu_priority { VGPU_PRIO_HIGH = 0, VGPU_PRIO_MEDIUM = 1, VGPU_PRIO_LOW = 2 };
#define VGPU_PRIO_COUNT 3u

enum vgpu_vm_state {
    VGPU_VM_RUNNING = 1,
    VGPU_VM_PAUSED = 2,  /* executor restarting: descriptors wait in the ring */
    VGPU_VM_BROKEN = 3,  /* this attachment broke a rule (reason); detach and attach again */
    VGPU_VM_CLOSING = 4, /* the daemon shuts down or the VM was removed */
};

/* Why an attachment is broken. */
enum vgpu_broken_reason {
    VGPU_BROKEN_NONE = 0,
    VGPU_BROKEN_SQ_SEQ = 1,    /* a submission slot's sequence ran ahead of its position */
    VGPU_BROKEN_CQ_CREDIT = 2, /* cq_head went backwards or beyond what was reserved */
    VGPU_BROKEN_MEMORY = 3,    /* region memory vanished (hole punched, hugepages gone, grant revoked) */
    VGPU_BROKEN_OPERATOR = 4,  /* quarantined by the operator */
};

#define VGPU_FEATURE_ALWAYS_POLL (UINT64_C(1) << 0) /* host never sleeps: guests skip the doorbell check */
#define VGPU_FEATURE_EXEC_SEQ (UINT64_C(1) << 1)    /* completions carry exec_seq */
#define VGPU_FEATURE_DEBUG_OPS (UINT64_C(1) << 2)   /* VGPU_OP_DEBUG is served */
#define VGPU_FEATURE_PROGRAMS (UINT64_C(1) << 3)    /* the opcodes of programs are served */

struct vgpu_props {
    uint64_t magic;             /* VGPU_PROPS_MAGIC */
    uint32_t abi_version;       /* of the host */
    uint32_t props_bytes;       /* sizeof(struct vgpu_props) */
    uint32_t update_seq;        /* odd while the host rewrites; read before and after, retry if changed */
    uint32_t vm_id;
    uint32_t priority;          /* enum vgpu_priority */
    uint32_t state;             /* enum vgpu_vm_state */
    uint32_t reason;            /* enum vgpu_broken_reason */
    uint32_t max_in_flight;     /* descriptors accepted and not completed, at most */
    uint32_t max_handles;       /* handles 1..max_handles may be used */
    uint32_t reserved0;
    uint64_t max_arena_bytes;
    uint64_t max_device_bytes;
    uint64_t device_generation; /* goes up when device memory was lost */
    uint64_t features;          /* VGPU_FEATURE_* in force */
    uint64_t epoch;             /* of this attachment */
    uint64_t sq_start;          /* first submission position of this attachment */
    uint64_t cq_start;          /* first completion position of this attachment */
    char pool[VGPU_NAME_BYTES];
    char vm_name[VGPU_NAME_BYTES];
    char backend[VGPU_NAME_BYTES];
    uint8_t reserved1[56];
};
VGPU_STATIC_ASSERT(sizeof(struct vgpu_props) == 256, "properties are 256 bytes");
VGPU_STATIC_ASSERT(offsetof(struct vgpu_props, max_arena_bytes) == 48, "max_arena_bytes at 48");
VGPU_STATIC_ASSERT(offsetof(struct vgpu_props, pool) == 104, "pool at 104");

#ifdef __cplusplus
}
#endif
#endif
