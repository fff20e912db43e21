/* SPDX-License-Identifier: Apache-2.0 */
/* Private to vgpu-ctl precheck and doctor: gathering, reports, references. */
#ifndef VGPU_CTL_PRECHECK_H
#define VGPU_CTL_PRECHECK_H

#include "ctl/local.h"
#include "host/checks.h"

/* What only other programs can say of this machine; parts that cannot be had stay NULL. config: a file, or NULL for
 * vgpud's default. Each program is given 10 s. */
void vgpu_gather(const char *config, struct vgpu_facts_said *out);
/* Runs a program without a shell and returns what it printed (stdout, with errors also stderr) up to 256 KiB; NULL: it
 * could not be run or did not end in time. *status: its exit status. Caller frees. */
char *vgpu_gather_run(const char *const argv[], bool errors, uint32_t timeout_ms, int *status);
/* A program of ours: beside vgpu-ctl, where the build or the installation has it; false: not found. */
bool vgpu_gather_find(const char *program, char *out, size_t bytes);
/* What struct vgpu_facts_said wants of NVML: a line for each GPU, or a line that says why not; NULL: NVIDIA's driver is
 * not loaded. Caller frees. */
char *vgpu_nvml_text(void);
/* The same of the library of this name, whatever is loaded. */
char *vgpu_nvml_ask(const char *name, uint32_t timeout_ms);

/* The whole report; docs/schema/precheck.json describes it. New reference. */
json_t *vgpu_precheck_json(const struct vgpu_facts *f, const struct vgpu_report *r);
/* For people. all: also what passed and what does not apply. choices: the profile's choices and their prices. */
void vgpu_precheck_print(FILE *out, const json_t *report, bool all, bool choices, bool color);
void vgpu_precheck_print_drift(FILE *out, const json_t *drift, bool color);
void vgpu_precheck_print_history(FILE *out, const json_t *history, bool color);

/*
 * Saved reports, in VGPU_PRECHECK_DIR, else /var/lib/vgpu/precheck for root, else XDG_STATE_HOME/vgpu/precheck. Shipped
 * references (host/references.h) are found by their names too, and cannot be overwritten.
 */
int vgpu_precheck_save(const char *name, const json_t *report, struct vgpu_err *err);
/* {"name","about","profile","checks":{"id":"status"}}; new reference. */
int vgpu_precheck_load(const char *name, json_t **out, struct vgpu_err *err);
/* {"against","worse":[...],"better":[...],"other":[...]}: checks whose status differs, worst severity first. */
json_t *vgpu_precheck_drift(const json_t *report, const json_t *reference);
/* {"runs":[{"time","name","profile","score","worst","change"}]}: saved runs, oldest first. */
int vgpu_precheck_history(json_t **out, struct vgpu_err *err);

/*
 * Copies what the checks and the drawing read of the host into a new directory, without secrets; --root judges it.
 * *out: {"directory","files","bytes"}, new reference. On an error what was written stays, to be looked at.
 */
int vgpu_capture(struct vgpu_host_root *root, const char *config, const char *directory, json_t **out,
                 struct vgpu_err *err);

#endif
