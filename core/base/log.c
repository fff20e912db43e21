/* SPDX-License-Identifier: Apache-2.0 */
#include "core/base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int vgpu_log_level = VGPU_LOG_INFO;
const char *vgpu_log_name = "vgpu";

void vgpu_log(enum vgpu_log_level level, const char *fmt, ...)
{
    if ((int)level > vgpu_log_level)
        return;
    static const char *const names[8] = {"", "", "", "error: ", "warning: ", "", "", "debug: "};
    char line[1024];
    int n = 0;

    if (getenv("JOURNAL_STREAM"))
        n = snprintf(line, sizeof(line), "<%d>", (int)level);
    n += snprintf(line + n, sizeof(line) - (size_t)n, "%s: %s", vgpu_log_name, names[level & 7]);
    va_list ap;
    va_start(ap, fmt);
    int m = vsnprintf(line + n, sizeof(line) - (size_t)n - 1, fmt, ap);
    va_end(ap);
    if (m < 0)
        return;
    n += m;
    if (n > (int)sizeof(line) - 2)
        n = (int)sizeof(line) - 2;
    line[n++] = '\n';
    ssize_t ignored = write(STDERR_FILENO, line, (size_t)n);
    (void)ignored;
}

bool vgpu_log_allowed(struct vgpu_log_limit *limit, uint64_t now_ns)
{
    if (limit->since_ns == 0 || now_ns - limit->since_ns >= VGPU_LOG_LIMIT_NS) {
        if (limit->left_out)
            vgpu_log(VGPU_LOG_WARN, "%u lines about %s were left out", limit->left_out, limit->about);
        limit->since_ns = now_ns;
        limit->lines = limit->left_out = 0;
    }
    if (limit->lines < (limit->lines_max ? limit->lines_max : VGPU_LOG_LIMIT_LINES)) {
        limit->lines++;
        return true;
    }
    limit->left_out++;
    return false;
}

int vgpu_err_set(struct vgpu_err *err, int code, const char *fmt, ...)
{
    if (err) {
        err->code = code;
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(err->text, sizeof(err->text), fmt, ap);
        va_end(ap);
    }
    return -code;
}
