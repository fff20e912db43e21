/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The part of the PJRT C API that a worker uses, behind calls that return an error or NULL. One client, one device, one
 * thread. The header that names the API's structs comes with a plugin's package (meson option pjrt_include); a plugin
 * may be older or newer than it: a function counts as there if the plugin's table is long enough and the slot is
 * filled.
 */
#ifndef VGPU_PMD_GPU_PROGRAMS_PJRT_H
#define VGPU_PMD_GPU_PROGRAMS_PJRT_H

#include <stdbool.h>
#include <stdint.h>

#include "core/base/log.h"
#include <pjrt_c_api.h>
#include "rings/abi/vgpu_abi.h"

struct pjrt {
    const PJRT_Api *api;
    PJRT_Client *client;
    PJRT_Device *device;
    char platform[32];
    char about[512]; /* "name=value" in lines: the platform, the device's kind, numbers that the plugin says of itself */
};

/* Opens the plugin, checks its version, makes a client. options: "key=value;key=value", handed to the plugin. */
int pjrt_open(struct pjrt *p, const char *plugin, const char *options, struct vgpu_err *err);

/* The error's text and status; it is destroyed. NULL is VGPU_OK. */
uint16_t pjrt_failed(struct pjrt *p, PJRT_Error *error, const char *what, char *text, size_t text_bytes);

/* What a program gives back. */
struct pjrt_program {
    PJRT_LoadedExecutable *executable;
    uint32_t outputs;
    uint64_t code_bytes, temp_bytes;
    struct vgpu_tensor_info *output; /* [outputs] */
};
/* Compiles with our own options. On failure `out` holds nothing. Types and ranks that the wire does not have:
 * UNSUPPORTED. */
uint16_t pjrt_compile(struct pjrt *p, const char *format, const void *code, uint64_t bytes, struct pjrt_program *out,
                      char *text, size_t text_bytes);
void pjrt_program_free(struct pjrt *p, struct pjrt_program *program);

/* `data` must stay until *done is ready. */
PJRT_Error *pjrt_put(struct pjrt *p, const void *data, const struct vgpu_tensor_info *shape, PJRT_Buffer **out,
                     PJRT_Event **done);
/* Row-major into `to`, which must stay until *done is ready. */
PJRT_Error *pjrt_get(struct pjrt *p, PJRT_Buffer *buffer, const struct vgpu_tensor_info *shape, void *to,
                     uint64_t bytes, PJRT_Event **done);
PJRT_Error *pjrt_execute(struct pjrt *p, const struct pjrt_program *program, PJRT_Buffer *const *in, uint32_t n_in,
                         PJRT_Buffer **out, PJRT_Event **done);
bool pjrt_buffer_deleted(struct pjrt *p, PJRT_Buffer *buffer);
void pjrt_buffer_free(struct pjrt *p, PJRT_Buffer *buffer);
/* Calls back from a thread of the plugin, or from within; the event is the caller's still. */
PJRT_Error *pjrt_event_watch(struct pjrt *p, PJRT_Event *event, PJRT_Event_OnReadyCallback callback, void *arg);
void pjrt_event_free(struct pjrt *p, PJRT_Event *event);

/* Bytes of a tensor, or UINT64_MAX: dimensions below 0 or too many bytes. */
uint64_t pjrt_tensor_bytes(const struct vgpu_tensor_info *t);

#endif
