/* SPDX-License-Identifier: Apache-2.0 */
/* Private to vgpu-ctl doctor: what it asked, and the bundle that it writes. */
#ifndef VGPU_CTL_DOCTOR_H
#define VGPU_CTL_DOCTOR_H

#include "ctl/precheck.h"

struct vgpu_doctor {
    const struct vgpu_ctl_line *line;
    struct vgpu_facts facts;
    json_t *findings;                               /* {"id","severity","status","found","remedy"} */
    json_t *version, *status, *vms, *pools, *stats; /* of the daemon; NULL: it did not say */
    json_t *precheck;
    char socket[256]; /* of the daemon */
    bool own;         /* that of the configuration that was read */
    bool guessed;     /* there is none that can be read, and nobody named another */
    int owner;        /* process that holds the lock in run_dir, or held it last; 0: none known */
    char owner_state; /* as in /proc/PID/stat; 0: there is no such process, or it is not vgpud */
    char *log;        /* lines of the kernel's log that tell of trouble; NULL: not readable */
    int worst;        /* enum vgpu_severity of what is wrong */
};

/* What must not leave this host, known by its exact text. */
#define VGPU_SECRETS_MAX 512u
struct vgpu_secrets {
    char text[VGPU_SECRETS_MAX][72];
    uint32_t count;
    char host[256], host_short[256];
};
/* Host names, and every token in this directory that can be read. */
void vgpu_secrets_read(struct vgpu_secrets *s, const char *token_dir);
/*
 * A copy without secrets: exact ones, hexadecimal runs of 16 or more, UUIDs, hardware and IP addresses, what follows
 * the words serial, token, secret, password and API key, users' folders, host names. Caller frees; NULL: out of memory.
 */
char *vgpu_redact(const struct vgpu_secrets *s, const char *text);
/* The same for each text of a value; what stands under the keys token, secret, password, serial and uuid goes whatever
 * it looks like. New reference. */
json_t *vgpu_redact_json(const struct vgpu_secrets *s, const json_t *value);
/* The kernel's command line with the values of parameters that this program does not judge taken out. Caller frees. */
char *vgpu_redact_cmdline(const char *cmdline);
/* Writes the tar: mode 0600, made anew; nothing is left on an error. */
int vgpu_doctor_bundle(const struct vgpu_doctor *d, const char *path, struct vgpu_err *err);

#endif
