/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which backend an executor gets. vgpud opens no device itself: it asks the program that will (`vgpu-exec --probe`).
 * Control thread, at start only; blocks for as long as a driver takes to answer, at most timeout_ns.
 */
#ifndef VGPU_CORE_PROBE_H
#define VGPU_CORE_PROBE_H

#include <stddef.h>

#include "core/config.h"
#include "sandbox/sandbox.h"

#define VGPU_PROBE_TIMEOUT_NS UINT64_C(30000000000)

/* What was chosen, and what people are told about it. */
struct vgpu_backend_choice {
    char backend[VGPU_NAME_BYTES]; /* never "auto" */
    char options[256];             /* for it: those of the configuration, or none where auto fell back to another */
    char device[128];              /* what the probe found; "" : none was made */
    char fallback[256];            /* why auto did not choose cuda; "" : it did, or was not asked */
    uint32_t without;              /* layers of the sandbox (bit per number) in which it does not work */
    char without_text[256];        /* and what it said there */
};

/*
 * Runs `executor --probe=backend --options=options`, inside of this sandbox (NULL: none), and kills it when it takes longer.
 * 0 with its last line in `what`; or -errno with err holding that line, or why there is none: -ETIMEDOUT, -ENODEV (it says
 * no), -EINVAL (the options are wrong), what starting it gave.
 */
int vgpu_backend_probe(const char *executor, const char *backend, const char *options,
                       const struct vgpu_sandbox_policy *sandbox, uint64_t timeout_ns, char *what, size_t bytes,
                       struct vgpu_err *err);

/*
 * cuda: probed, and an error that says what to do when it does not work; auto: cuda when the probe works, else cpu (but
 * an error when the options are wrong); all others: as they are. 0 or -errno.
 *
 * What fails inside of the sandbox is tried outside of it. If it works there, the layer that is in its way is looked for and
 * left out, unless the sandbox requires it.
 */
int vgpu_backend_choose(const struct vgpu_executor_config *config, const char *executor,
                        const struct vgpu_sandbox_policy *sandbox, uint64_t timeout_ns, struct vgpu_backend_choice *out,
                        struct vgpu_err *err);

#endif
