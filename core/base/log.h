/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Log lines on stderr, one write each, with a syslog level prefix when started by systemd. Never on the data path.
 * Any thread. vgpu_log_level sets what is shown (default VGPU_LOG_INFO).
 */
#ifndef VGPU_BASE_LOG_H
#define VGPU_BASE_LOG_H

#include <stdbool.h>
#include <stdint.h>

enum vgpu_log_level { VGPU_LOG_ERROR = 3, VGPU_LOG_WARN = 4, VGPU_LOG_INFO = 6, VGPU_LOG_DEBUG = 7 };
extern int vgpu_log_level;
extern const char *vgpu_log_name; /* program name shown before each line */

void vgpu_log(enum vgpu_log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Keeps lines that others can cause at will down to some in a while. One thread each; zero but for the first two. */
struct vgpu_log_limit {
    const char *about;  /* "guests that were refused" */
    uint32_t lines_max; /* 0: VGPU_LOG_LIMIT_LINES */
    uint64_t since_ns;
    uint32_t lines, left_out;
};
#define VGPU_LOG_LIMIT_NS UINT64_C(10000000000)
#define VGPU_LOG_LIMIT_LINES 200u
/* May one more line be written? Says how many were not, once the next may. now_ns: vgpu_now_ns(). */
bool vgpu_log_allowed(struct vgpu_log_limit *limit, uint64_t now_ns);

/* An error with a text for a person; code is a positive errno. */
struct vgpu_err {
    int code;
    char text[512];
};
/* Fills err (may be NULL) and returns -code. */
int vgpu_err_set(struct vgpu_err *err, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

#endif
