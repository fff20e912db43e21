/* SPDX-License-Identifier: Apache-2.0 */
/* One request, one response over the control socket. Blocks for at most VGPU_CTL_TIMEOUT_MS per step. Any thread. */
#ifndef VGPU_CTL_CLIENT_H
#define VGPU_CTL_CLIENT_H

#include <jansson.h>
#include <stdbool.h>

#include "core/base/log.h"

#define VGPU_CTL_TIMEOUT_MS         10000
#define VGPU_CTL_LONG_TIMEOUT_MS    120000 /* where the request is long, the answer takes its time */
#define VGPU_CTL_MAX_REQUEST_BYTES  33554432u
#define VGPU_CTL_MAX_RESPONSE_BYTES (64u * 1024u * 1024u)

/*
 * Sends {"command", "args"} (args borrowed) and waits for the answer. 0 with *result, a new reference; or -errno with
 * err: code and message of the daemon with *refused set, else why it could not be reached or understood. -E2BIG: the
 * request is longer than the protocol allows, nothing was sent. store: the identity of the one that is meant, NULL: the
 * daemon's, whichever that is; -ESTALE, refused: it has another.
 */
int vgpu_ctl_call(const char *socket_path, const char *store, const char *command, json_t *args, json_t **result,
                  bool *refused, struct vgpu_err *err);

/* Reads a response of the protocol, as vgpu_ctl_call() does; from: who gave it, for messages. */
int vgpu_ctl_response(const char *from, const char *text, size_t bytes, json_t **result, bool *refused,
                      struct vgpu_err *err);

#endif
