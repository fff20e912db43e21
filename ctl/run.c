/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/run.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ctl/args.h"
#include "ctl/client.h"
#include "ctl/print.h"

static bool want_color(FILE *out)
{
    const char *term = getenv("TERM"), *no = getenv("NO_COLOR");
    return isatty(fileno(out)) == 1 && !(no && no[0]) && term && strcmp(term, "dumb");
}

static int complain(FILE *errors, const struct vgpu_err *err, bool with_code, int exit_code)
{
    const char *code = with_code ? strerrorname_np(err->code) : NULL;

    fputs("vgpu-ctl: ", errors);
    for (const char *p = err->text; *p; p++) /* may quote what came from elsewhere */
        fputc((unsigned char)*p < 0x20 || *p == 0x7f ? '?' : *p, errors);
    if (code)
        fprintf(errors, " (%s)", code);
    fputc('\n', errors);
    return exit_code;
}

static int run_command(const struct vgpu_ctl_line *line, FILE *out, FILE *errors)
{
    struct vgpu_err err;
    json_t *result = NULL;
    bool refused;
    int rc = vgpu_ctl_call(line->socket, line->command->name, line->args, &result, &refused, &err);

    if (rc)
        return complain(errors, &err, refused,
                        refused        ? VGPU_CTL_REFUSED
                        : rc == -E2BIG ? VGPU_CTL_USAGE
                                       : VGPU_CTL_UNREACHABLE);
    if (line->json) {
        json_dumpf(result, out, JSON_COMPACT | JSON_REAL_PRECISION(12));
        fputc('\n', out);
    } else {
        vgpu_ctl_print(out, line->command->name, result, want_color(out));
    }
    json_decref(result);
    return VGPU_CTL_OK;
}

int vgpu_ctl_run(int argc, char **argv, FILE *out, FILE *errors)
{
    struct vgpu_ctl_line line;
    struct vgpu_err err;
    int code = VGPU_CTL_OK;

    if (vgpu_ctl_parse(argc, argv, &line, &err))
        code = complain(errors, &err, false, VGPU_CTL_USAGE);
    else if (line.action == VGPU_CTL_DO_HELP)
        vgpu_ctl_help(out, line.command);
    else if (line.action == VGPU_CTL_DO_VERSION)
        fprintf(out, "vgpu-ctl %s\n", VGPU_VERSION);
    else
        code = run_command(&line, out, errors);
    vgpu_ctl_line_free(&line);
    /* A result that nobody could read is no success. */
    if ((fflush(out) || ferror(out)) && code == VGPU_CTL_OK) {
        vgpu_err_set(&err, errno, "cannot write the result: %s", strerror(errno));
        code = complain(errors, &err, false, VGPU_CTL_REFUSED);
    }
    return code;
}
