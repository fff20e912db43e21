/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/run.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ctl/ask.h"
#include "ctl/local.h"

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

int vgpu_ctl_complain(struct vgpu_ctl_local *local, const struct vgpu_err *err, int exit_code)
{
    return complain(local->errors, err, false, exit_code);
}

void vgpu_ctl_emit(struct vgpu_ctl_local *local, const json_t *result)
{
    json_dumpf(result, local->out, JSON_COMPACT | JSON_REAL_PRECISION(12));
    fputc('\n', local->out);
}

/* Takes the reference. */
static void print_json(FILE *out, json_t *json)
{
    struct vgpu_ctl_local local = {.out = out};

    vgpu_ctl_emit(&local, json);
    json_decref(json);
}

/* One request, and its result printed. */
static int ask(struct vgpu_ctl_local *local)
{
    const struct vgpu_ctl_line *line = local->line;
    struct vgpu_err err;
    json_t *result = NULL;
    int code;

    if (vgpu_ctl_ask(line, line->command->name, line->args, &result, &code, &err))
        return complain(local->errors, &err, code == VGPU_CTL_REFUSED, code);
    if (line->json)
        vgpu_ctl_emit(local, result);
    else
        line->command->print(local->out, result, local->color);
    json_decref(result);
    return VGPU_CTL_OK;
}

static int run_command(struct vgpu_ctl_line *line, FILE *out, FILE *errors)
{
    struct vgpu_ctl_local local = {.line = line, .out = out, .errors = errors, .color = want_color(out)};
    char name[64], *words[] = {name, line->word, NULL};

    if (!line->command->run)
        return ask(&local);
    snprintf(name, sizeof(name), "%s", line->command->name);
    return line->command->run(&local, line->word ? 2 : 1, words);
}

int vgpu_ctl_run(int argc, char **argv, FILE *out, FILE *errors)
{
    struct vgpu_ctl_line line;
    struct vgpu_err err;
    int code = VGPU_CTL_OK;

    if (vgpu_ctl_parse(argc, argv, &line, &err))
        code = complain(errors, &err, false, VGPU_CTL_USAGE);
    else if (line.action == VGPU_CTL_DO_HELP && line.json)
        print_json(out, vgpu_ctl_help_json(line.command));
    else if (line.action == VGPU_CTL_DO_HELP)
        vgpu_ctl_help(out, line.command);
    else if (line.action == VGPU_CTL_DO_VERSION && line.json)
        print_json(out, json_pack("{s:s}", "version", VGPU_VERSION));
    else if (line.action == VGPU_CTL_DO_VERSION)
        fprintf(out, "vgpu-ctl %s\n", VGPU_VERSION);
    else
        code = run_command(&line, out, errors);
    vgpu_ctl_line_free(&line);
    /* A result that nobody could read is no success; a reader that had enough (| head) needs no words about it. */
    if ((fflush(out) || ferror(out)) && code == VGPU_CTL_OK) {
        code = VGPU_CTL_REFUSED;
        if (errno != EPIPE) {
            vgpu_err_set(&err, errno, "cannot write the result: %s", strerror(errno));
            complain(errors, &err, false, code);
        }
    }
    return code;
}
