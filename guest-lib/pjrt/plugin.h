/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside libvgpu_pjrt.so, a PJRT plugin over libvgpu. The PJRT functions may be called by any thread.
 *
 *   api.c       the table of functions, errors, events; what is not served says so
 *   client.c    client, device, memory, topology: what is there
 *   queue.c     operations in order: issued by whoever adds one, completed by the client's one thread
 *   buffer.c    PJRT_Buffer: host memory to tensors and back
 *   program.c   compiling and executing
 *   bytecode.c  what a StableHLO artifact says about its main function: name, donated arguments
 *
 * | datum                          | who may touch it                                                        |
 * |--------------------------------|-------------------------------------------------------------------------|
 * | struct vgpu                    | under the client's lock; polled by the client's thread alone            |
 * | operations, handles, buffers'  | under the client's lock                                                 |
 * |   and programs' states         |                                                                         |
 * | reference counts               | anybody, atomically; whoever drops the last one holds no lock           |
 * | events                         | under the one lock of events (api.c); callbacks run without any lock    |
 */
#ifndef VGPU_GUEST_LIB_PJRT_PLUGIN_H
#define VGPU_GUEST_LIB_PJRT_PLUGIN_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "guest-lib/vgpu.h"
#include "rings/abi/vgpu_abi.h"

#include <pjrt_c_api.h>

#define FLIGHTS       1024u /* descriptors that may be outstanding */
#define HANDLES       VGPU_HANDLE_MAX
#define PLATFORM_NAME "vgpu"
#define VGPU_PJRT_TEXT_BYTES 400u /* of what the host says about a failure */

struct PJRT_Error {
    atomic_uint refs;
    PJRT_Error_Code code;
    size_t bytes;
    const char *text; /* behind it */
};

struct waiter {
    struct waiter *next;
    PJRT_Event_OnReadyCallback call;
    void *arg;
};

/* Several PJRT handles may be one event. */
struct PJRT_Event {
    atomic_uint refs;
    bool ready;
    unsigned made_in; /* how many forks away from the first process */
    PJRT_Error *error;
    struct waiter *waiters;
};

struct PJRT_Buffer {
    atomic_uint refs;
    PJRT_Client *client;
    struct PJRT_Buffer *prev, *next; /* of the client */
    uint32_t handle;                 /* of the host's tensor; 0: none any more */
    uint8_t dtype, rank;
    bool deleted;
    int64_t dims[VGPU_RANK_MAX], minor_to_major[VGPU_RANK_MAX];
    uint64_t bytes;
    PJRT_Event *ready;  /* it was made, or could not be */
    bool made;          /* ready, and well */
    PJRT_Error *failed; /* why there is no tensor */
};

/* PJRT_LoadedExecutable and PJRT_Executable are two names of it. */
struct PJRT_LoadedExecutable {
    atomic_uint refs;
    PJRT_Client *client;
    struct PJRT_LoadedExecutable *prev, *next; /* of the client */
    uint32_t handle;
    bool loaded, loading, deleted;
    PJRT_Error *failed; /* the last loading */
    uint8_t *code;      /* kept: a worker that died is replaced, and loads it again */
    uint64_t code_bytes;
    uint8_t format; /* VGPU_PROGRAM_* */
    char name[128], fingerprint[40];
    uint32_t outputs;
    struct vgpu_tensor_info *output;
    uint64_t device_code_bytes, device_temp_bytes;
    bool *donated; /* [arguments]; NULL: none, or not known */
    uint32_t arguments;
    /* As PJRT wants to see them. */
    PJRT_Buffer_Type *types;
    int64_t *dims;
    size_t *ranks;
    const char **kinds;
    size_t *kind_bytes;
};

enum op_kind { OP_PUT, OP_GET, OP_EXECUTE, OP_FREE, OP_LOAD, OP_UNLOAD, OP_INFO, OP_ASK };

struct op {
    struct op *next;
    enum op_kind kind;
    bool issued;      /* all its descriptors were submitted, or none will be any more */
    bool asked;       /* the host was asked why it failed */
    bool reloaded;    /* OP_EXECUTE: its program was loaded again for it, once */
    uint32_t flying;  /* descriptors without a completion */
    uint16_t status;  /* of the first that failed */
    bool lost_here;   /* the library completed that one: the host went away */
    uint64_t failure; /* which failure of the client's it is */
    uint64_t value;   /* of the last completion */
    PJRT_Error *error;
    PJRT_Event *done;
    PJRT_LoadedExecutable *program;
    struct op *about; /* OP_ASK */
    struct op *feeds; /* OP_GET: the OP_PUT that waits for what it brings */
    bool waits;
    /* OP_PUT, OP_GET: host memory, and how far it got */
    const uint8_t *from;
    uint8_t *to;
    uint64_t at, begin, end;
    void *owned;           /* freed at the end */
    PJRT_Event *host_done; /* the source is needed no more */
    struct shuffle *shuffle;
    /* OP_FREE, OP_UNLOAD */
    uint32_t handle;
    /* Inputs, then outputs, of OP_EXECUTE; the one tensor of OP_PUT and OP_GET. Each holds a reference. */
    uint32_t n_in, n_out;
    bool *donated; /* [n_in] of OP_EXECUTE, or NULL */
    PJRT_Buffer *buffer[];
};

/* A dense row-major array in `dense` and the same elsewhere with strides. */
struct shuffle {
    uint8_t *outside;
    uint32_t rank, element;
    int64_t dims[VGPU_RANK_MAX], strides[VGPU_RANK_MAX];
};

/* A descriptor on its way. */
struct flight {
    struct op *op;
    struct vgpu_buffer room; /* of the arena; bytes 0: none */
    uint64_t at, bytes;      /* of the tensor: OP_GET */
    uint32_t next_free;
};

struct handles {
    uint64_t used[HANDLES / 64 + 1];
    uint32_t last;
};

struct PJRT_DeviceDescription {
    char kind[80], text[160];
    PJRT_NamedValue attributes[2];
};
struct PJRT_Memory {
    PJRT_Client *client;
};
struct PJRT_Device {
    PJRT_Client *client;
};
struct PJRT_TopologyDescription {
    PJRT_Client *client;
};

struct PJRT_Client {
    atomic_uint refs;
    struct PJRT_Client *next; /* of the process */
    bool forked;              /* it is the parent's: this process is a child of fork */
    pthread_mutex_t lock;
    pthread_t thread;
    bool thread_runs, stop;
    uint64_t stop_ns;
    int wake_fd;
    uint64_t spin_ns;
    uint64_t since_ns, gap_ns; /* the last completion, or the first descriptor after a pause; between those, on average */
    struct vgpu *v; /* NULL: closed */
    char platform_version[256];
    /* Operations: what waits to be issued, in order; what may overtake; what is over and is to be told. */
    struct op *head, **tail, *urgent, *finished, **finished_tail;
    bool issuing;
    struct flight flights[FLIGHTS];
    uint32_t flight_free, flying, flying_max;
    uint64_t arena_bytes;
    struct handles tensors, programs;
    PJRT_Buffer *buffers;
    PJRT_LoadedExecutable *executables;
    uint64_t failures;
    uint64_t told_of;                      /* the failure that `told` is about */
    char told[VGPU_PJRT_TEXT_BYTES + 1];   /* what the host said last */
    bool down; /* that the host went away was noticed */
    uint64_t live_bytes, peak_bytes, allocations;
    struct PJRT_Device device, *devices[1];
    struct PJRT_Memory memory, *memories[1];
    struct PJRT_DeviceDescription description, *descriptions[1];
    struct PJRT_TopologyDescription topology;
};

/* ---- api.c ---- */
/* An error of its own, never NULL. */
PJRT_Error *vgpu_pjrt_error(PJRT_Error_Code code, const char *format, ...) __attribute__((format(printf, 2, 3)));
PJRT_Error *vgpu_pjrt_error_ref(PJRT_Error *e); /* NULL is fine */
void vgpu_pjrt_error_drop(PJRT_Error *e);
PJRT_Event *vgpu_pjrt_event_new(void); /* NULL: no memory */
PJRT_Event *vgpu_pjrt_event_ref(PJRT_Event *e);
void vgpu_pjrt_event_drop(PJRT_Event *e);
/* Makes it ready and calls back; the error stays the caller's. No lock may be held. */
void vgpu_pjrt_event_fire(PJRT_Event *e, PJRT_Error *error);
void vgpu_pjrt_events_in_child(void);
/* Blocks. A reference to its error, or NULL. */
PJRT_Error *vgpu_pjrt_event_wait(PJRT_Event *e);

/* The caller's struct must reach up to the last field that is used; earlier versions of it are shorter. */
#define HAS_FIELD(args, type, field) ((args)->struct_size >= offsetof(type, field) + sizeof((args)->field))
#define CHECK_ARGS(args, type, last)                                                                                   \
    do {                                                                                                               \
        if (!HAS_FIELD(args, type, last))                                                                              \
            return vgpu_pjrt_error(PJRT_Error_Code_INVALID_ARGUMENT,                                                   \
                                   "vgpu: " #type " has %zu bytes, which do not reach its field " #last                \
                                   "; the program was built for another version of PJRT",                              \
                                   (size_t)(args)->struct_size);                                                       \
    } while (0)
PJRT_Error *vgpu_pjrt_no_memory(void);

/* ---- queue.c ---- */
struct op *vgpu_pjrt_op_new(enum op_kind kind, uint32_t buffers); /* with an event; NULL: no memory */
void vgpu_pjrt_op_free(struct op *op);
void vgpu_pjrt_lock(PJRT_Client *c);
/* Unlocks and tells what is over. */
void vgpu_pjrt_unlock(PJRT_Client *c);
/* Under the lock. Hands it over: it is issued now, or when there is room, behind all earlier ones. */
void vgpu_pjrt_op_add(PJRT_Client *c, struct op *op);
/* Starts and stops the thread that polls. */
PJRT_Error *vgpu_pjrt_queue_open(PJRT_Client *c);
void vgpu_pjrt_queue_close(PJRT_Client *c);
/* Under the lock. NULL, or why this client cannot be used any more. */
PJRT_Error *vgpu_pjrt_client_dead(PJRT_Client *c);
/* 0: none is free. */
uint32_t vgpu_pjrt_handle_take(struct handles *h);
void vgpu_pjrt_handle_give(struct handles *h, uint32_t n);

/* ---- client.c ---- */
void vgpu_pjrt_client_drop(PJRT_Client *c);

/* ---- buffer.c ---- */
/* Of `rank` at most VGPU_RANK_MAX; registered with the client, which must be locked. NULL: no memory. */
PJRT_Buffer *vgpu_pjrt_buffer_new(PJRT_Client *c, uint8_t dtype, uint32_t rank, const int64_t *dims);
void vgpu_pjrt_buffer_drop(PJRT_Buffer *b);
/* Under the lock: the host's tensor goes, once all earlier operations with it are done. */
void vgpu_pjrt_buffer_delete(PJRT_Buffer *b);
/* Its copy, which comes behind all that was added before. No lock may be held. */
PJRT_Error *vgpu_pjrt_buffer_clone(PJRT_Buffer *b, PJRT_Buffer **out);
void vgpu_pjrt_shuffle_in(const struct shuffle *s, uint8_t *dense);
void vgpu_pjrt_shuffle_out(const struct shuffle *s, const uint8_t *dense);
PJRT_Buffer_Type vgpu_pjrt_type_of(uint8_t dtype);

/* ---- program.c ---- */
void vgpu_pjrt_program_drop(PJRT_LoadedExecutable *p);

/* ---- bytecode.c ---- */
struct vgpu_pjrt_main {
    char name[128]; /* of the module; "": not known */
    uint32_t arguments;
    bool *donated; /* [arguments], the caller's; NULL: none */
};
/* True where the artifact could be followed. It is judged by the host; here, what cannot be followed is not known. */
bool vgpu_pjrt_main_read(const uint8_t *code, uint64_t bytes, struct vgpu_pjrt_main *out);

/* All that the table refers to: declared in one place, so that a missing one does not link. */
#define VGPU_PJRT_SERVED(X)                                                                                            \
    X(Event_Destroy)                                                                                                   \
    X(Event_IsReady)                                                                                                   \
    X(Event_Error)                                                                                                     \
    X(Event_Await)                                                                                                     \
    X(Event_OnReady)                                                                                                   \
    X(Plugin_Initialize)                                                                                               \
    X(Plugin_Attributes)                                                                                               \
    X(Client_Create)                                                                                                   \
    X(Client_Destroy)                                                                                                  \
    X(Client_PlatformName)                                                                                             \
    X(Client_ProcessIndex)                                                                                             \
    X(Client_PlatformVersion)                                                                                          \
    X(Client_Devices)                                                                                                  \
    X(Client_AddressableDevices)                                                                                       \
    X(Client_LookupDevice)                                                                                             \
    X(Client_LookupAddressableDevice)                                                                                  \
    X(Client_AddressableMemories)                                                                                      \
    X(Client_Compile)                                                                                                  \
    X(Client_DefaultDeviceAssignment)                                                                                  \
    X(Client_BufferFromHostBuffer)                                                                                     \
    X(Client_TopologyDescription)                                                                                      \
    X(DeviceDescription_Id)                                                                                            \
    X(DeviceDescription_ProcessIndex)                                                                                  \
    X(DeviceDescription_Attributes)                                                                                    \
    X(DeviceDescription_Kind)                                                                                          \
    X(DeviceDescription_DebugString)                                                                                   \
    X(DeviceDescription_ToString)                                                                                      \
    X(Device_GetDescription)                                                                                           \
    X(Device_IsAddressable)                                                                                            \
    X(Device_LocalHardwareId)                                                                                          \
    X(Device_AddressableMemories)                                                                                      \
    X(Device_DefaultMemory)                                                                                            \
    X(Device_MemoryStats)                                                                                              \
    X(Memory_Id)                                                                                                       \
    X(Memory_Kind)                                                                                                     \
    X(Memory_Kind_Id)                                                                                                  \
    X(Memory_DebugString)                                                                                              \
    X(Memory_ToString)                                                                                                 \
    X(Memory_AddressableByDevices)                                                                                     \
    X(Executable_Destroy)                                                                                              \
    X(Executable_Name)                                                                                                 \
    X(Executable_NumReplicas)                                                                                          \
    X(Executable_NumPartitions)                                                                                        \
    X(Executable_NumOutputs)                                                                                           \
    X(Executable_SizeOfGeneratedCodeInBytes)                                                                           \
    X(Executable_OutputMemoryKinds)                                                                                    \
    X(Executable_OutputElementTypes)                                                                                   \
    X(Executable_OutputDimensions)                                                                                     \
    X(Executable_Fingerprint)                                                                                          \
    X(Executable_GetCompiledMemoryStats)                                                                               \
    X(LoadedExecutable_Destroy)                                                                                        \
    X(LoadedExecutable_GetExecutable)                                                                                  \
    X(LoadedExecutable_AddressableDevices)                                                                             \
    X(LoadedExecutable_Delete)                                                                                         \
    X(LoadedExecutable_IsDeleted)                                                                                      \
    X(LoadedExecutable_Execute)                                                                                        \
    X(LoadedExecutable_GetDeviceAssignment)                                                                            \
    X(LoadedExecutable_Fingerprint)                                                                                    \
    X(Buffer_Destroy)                                                                                                  \
    X(Buffer_ElementType)                                                                                              \
    X(Buffer_Dimensions)                                                                                               \
    X(Buffer_UnpaddedDimensions)                                                                                       \
    X(Buffer_DynamicDimensionIndices)                                                                                  \
    X(Buffer_GetMemoryLayout)                                                                                          \
    X(Buffer_OnDeviceSizeInBytes)                                                                                      \
    X(Buffer_Device)                                                                                                   \
    X(Buffer_Memory)                                                                                                   \
    X(Buffer_Delete)                                                                                                   \
    X(Buffer_IsDeleted)                                                                                                \
    X(Buffer_CopyToDevice)                                                                                             \
    X(Buffer_CopyToMemory)                                                                                             \
    X(Buffer_CopyRawToHost)                                                                                            \
    X(Buffer_ToHostBuffer)                                                                                             \
    X(Buffer_IsOnCpu)                                                                                                  \
    X(Buffer_ReadyEvent)                                                                                               \
    X(TopologyDescription_Destroy)                                                                                     \
    X(TopologyDescription_PlatformName)                                                                                \
    X(TopologyDescription_PlatformVersion)                                                                             \
    X(TopologyDescription_GetDeviceDescriptions)                                                                       \
    X(TopologyDescription_Attributes)                                                                                  \
    X(ExecuteContext_Create)                                                                                           \
    X(ExecuteContext_Destroy)
#define VGPU_PJRT_NOT_SERVED(X)                                                                                        \
    X(Client_CreateViewOfDeviceBuffer)                                                                                 \
    X(Client_CreateBuffersForAsyncHostToDevice)                                                                        \
    X(Client_DmaMap)                                                                                                   \
    X(Client_DmaUnmap)                                                                                                 \
    X(Client_CreateUninitializedBuffer)                                                                                \
    X(Client_UpdateGlobalProcessInfo)                                                                                  \
    X(Client_CreateAliasBuffer)                                                                                        \
    X(Client_FulfillAliasBuffer)                                                                                       \
    X(Executable_GetCostAnalysis)                                                                                      \
    X(Executable_OptimizedProgram)                                                                                     \
    X(Executable_Serialize)                                                                                            \
    X(Executable_DeserializeAndLoad)                                                                                   \
    X(Buffer_UnsafePointer)                                                                                            \
    X(Buffer_IncreaseExternalReferenceCount)                                                                           \
    X(Buffer_DecreaseExternalReferenceCount)                                                                           \
    X(Buffer_OpaqueDeviceMemoryDataPointer)                                                                            \
    X(CopyToDeviceStream_Destroy)                                                                                      \
    X(CopyToDeviceStream_AddChunk)                                                                                     \
    X(CopyToDeviceStream_TotalBytes)                                                                                   \
    X(CopyToDeviceStream_GranuleSize)                                                                                  \
    X(CopyToDeviceStream_CurrentBytes)                                                                                 \
    X(TopologyDescription_Create)                                                                                      \
    X(TopologyDescription_Serialize)                                                                                   \
    X(TopologyDescription_Deserialize)                                                                                 \
    X(Compile)                                                                                                         \
    X(AsyncHostToDeviceTransferManager_Destroy)                                                                        \
    X(AsyncHostToDeviceTransferManager_TransferData)                                                                   \
    X(AsyncHostToDeviceTransferManager_RetrieveBuffer)                                                                 \
    X(AsyncHostToDeviceTransferManager_Device)                                                                         \
    X(AsyncHostToDeviceTransferManager_BufferCount)                                                                    \
    X(AsyncHostToDeviceTransferManager_BufferSize)                                                                     \
    X(AsyncHostToDeviceTransferManager_SetBufferError)                                                                 \
    X(AsyncHostToDeviceTransferManager_AddMetadata)

#define DECLARE(name) PJRT_Error *vgpu_pjrt_##name(PJRT_##name##_Args *args);
VGPU_PJRT_SERVED(DECLARE)
#undef DECLARE

#endif
