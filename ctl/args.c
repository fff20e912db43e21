/* SPDX-License-Identifier: Apache-2.0 */
/* Takes a command line apart: words, options of the command, options of all. */
#include "ctl/args_int.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/suggest.h"

static const char *const globals[] = {"socket", "db", "config", "json", "help", "version"};
#define GLOBAL_COUNT (sizeof(globals) / sizeof(globals[0]))

static int command_find(const char *name, const struct vgpu_ctl_command **out, struct vgpu_err *err)
{
    const char *best = NULL;
    unsigned distance = ~0u;

    for (uint32_t i = 0; i < vgpu_ctl_command_count; i++) {
        if (!strcmp(name, vgpu_ctl_commands[i].name)) {
            *out = &vgpu_ctl_commands[i];
            return 0;
        }
        vgpu_suggest_consider(name, vgpu_ctl_commands[i].name, &best, &distance);
    }
    vgpu_suggest_consider(name, "help", &best, &distance);
    return vgpu_err_set(err, EINVAL, "unknown command %s; %s%s%s", vgpu_ctl_shown(name),
                        best ? "did you mean " : "vgpu-ctl help lists them", best ? best : "", best ? "?" : "");
}

static int option_unknown(const struct vgpu_ctl_line *line, const char *name, struct vgpu_err *err)
{
    const char *best = NULL, *command = line->command ? line->command->name : NULL;
    unsigned distance = ~0u;

    for (const struct vgpu_ctl_option *o = line->command ? line->command->options : NULL; o && o->name; o++)
        vgpu_suggest_consider(name, o->name, &best, &distance);
    for (uint32_t i = 0; i < GLOBAL_COUNT; i++)
        vgpu_suggest_consider(name, globals[i], &best, &distance);
    if (best)
        return vgpu_err_set(err, EINVAL, "unknown option %s; did you mean --%s?", vgpu_ctl_shown(name), best);
    return vgpu_err_set(err, EINVAL, "unknown option %s; vgpu-ctl help%s%s lists what there is", vgpu_ctl_shown(name),
                        command ? " " : "", command ? command : "");
}

/* The pieces of one argument that starts with a dash. */
struct piece {
    char name[64];
    const char *value; /* behind '=', or NULL */
};

static int option_split(const char *arg, struct piece *p, struct vgpu_err *err)
{
    if (!strcmp(arg, "-h") || !strcmp(arg, "-V")) {
        snprintf(p->name, sizeof(p->name), "%s", arg[1] == 'h' ? "help" : "version");
        p->value = NULL;
        return 0;
    }
    if (arg[1] != '-' || !arg[2])
        return vgpu_err_set(err, EINVAL, "unknown option %s; options look like --vm-id=1", vgpu_ctl_shown(arg));
    const char *equals = strchr(arg + 2, '=');
    size_t n = equals ? (size_t)(equals - arg - 2) : strlen(arg + 2);
    if (n >= sizeof(p->name))
        return vgpu_err_set(err, EINVAL, "unknown option %s", vgpu_ctl_shown(arg));
    memcpy(p->name, arg + 2, n);
    p->name[n] = 0;
    for (char *c = p->name; (c = strchr(c, '_'));) /* limits are called in_flight elsewhere: both work */
        *c = '-';
    p->value = equals ? equals + 1 : NULL;
    return 0;
}

/* The value in the same or the next argument. */
static int option_value(struct piece *p, int argc, char **argv, int *i, struct vgpu_err *err)
{
    if (!p->value && *i + 1 < argc)
        p->value = argv[++*i];
    return p->value ? 0 : vgpu_err_set(err, EINVAL, "--%s: has no value", p->name);
}

/* --socket, --db, --config: what is talked to. 1, or -EINVAL. */
static int option_place(struct piece *p, int argc, char **argv, int *i, size_t most, const char **out,
                        struct vgpu_err *err)
{
    if (*out)
        return vgpu_err_set(err, EINVAL, "--%s: given twice", p->name);
    int rc = option_value(p, argc, argv, i, err);
    if (rc)
        return rc;
    size_t n = strlen(p->value);
    if (!n || n > most)
        return vgpu_err_set(err, EINVAL, "--%s: expected a path of 1 to %zu bytes", p->name, most);
    for (size_t k = 0; k < n; k++)
        if ((unsigned char)p->value[k] < 0x20 || p->value[k] == 0x7f)
            return vgpu_err_set(err, EINVAL, "--%s: %s holds a control character", p->name, vgpu_ctl_shown(p->value));
    *out = p->value;
    return 1;
}

/* 1: it was a global option; 0: it was not; -EINVAL. */
static int option_global(struct piece *p, int argc, char **argv, int *i, struct vgpu_ctl_line *line,
                         struct vgpu_err *err)
{
    if (!strcmp(p->name, "socket"))
        return option_place(p, argc, argv, i, 107, &line->socket, err);
    if (!strcmp(p->name, "db"))
        return option_place(p, argc, argv, i, PATH_MAX - 1, &line->db, err);
    if (!strcmp(p->name, "config"))
        return option_place(p, argc, argv, i, PATH_MAX - 1, &line->config, err);
    bool help = !strcmp(p->name, "help"), version = !strcmp(p->name, "version"), json = !strcmp(p->name, "json");
    if (!help && !version && !json)
        return 0;
    if (p->value)
        return vgpu_err_set(err, EINVAL, "--%s: takes no value", p->name);
    if (json)
        line->json = true;
    else if (line->action == VGPU_CTL_DO_COMMAND)
        line->action = help ? VGPU_CTL_DO_HELP : VGPU_CTL_DO_VERSION;
    return 1;
}

/* Flags take no value in any command that has them, so it is known before the command is. */
static bool is_flag(const char *name)
{
    for (uint32_t i = 0; i < vgpu_ctl_command_count; i++)
        for (const struct vgpu_ctl_option *o = vgpu_ctl_commands[i].options; o->name; o++)
            if (o->type == VGPU_CTL_FLAG && !strcmp(o->name, name))
                return true;
    return false;
}

/* First pass: what is a command's own option is only known once the command is. */
static int find_words(int argc, char **argv, struct vgpu_ctl_line *line, int *own, int *own_count, struct vgpu_err *err)
{
    bool literal = false;

    for (int i = 1; i < argc; i++) {
        struct piece p;
        int rc;

        if (!literal && !strcmp(argv[i], "--")) {
            literal = true;
        } else if (!literal && argv[i][0] == '-' && argv[i][1]) {
            int at = i;
            rc = option_split(argv[i], &p, err);
            if (!rc)
                rc = option_global(&p, argc, argv, &i, line, err);
            if (rc < 0)
                return rc;
            if (!rc) {
                own[(*own_count)++] = at;
                /* "--pool A": the next word is its value, unless it is an option itself */
                if (!p.value && i + 1 < argc && argv[i + 1][0] != '-' && !is_flag(p.name))
                    i++;
            }
        } else if (!line->command && !strcmp(argv[i], "help")) {
            line->action = VGPU_CTL_DO_HELP;
        } else if (!line->command) {
            rc = command_find(argv[i], &line->command, err);
            if (rc)
                return rc;
        } else if ((line->command->words || line->command->file) && !line->word) {
            line->word = argv[i];
        } else {
            return vgpu_err_set(err, EINVAL, "%s: unexpected argument %s", line->command->name,
                                vgpu_ctl_shown(argv[i]));
        }
    }
    return 0;
}

static int take_option(int argc, char **argv, int at, struct vgpu_ctl_line *line, struct vgpu_err *err)
{
    const struct vgpu_ctl_option *o = line->command->options;
    struct piece p;
    json_t *value = NULL;
    int rc = option_split(argv[at], &p, err);

    if (rc)
        return rc;
    while (o->name && strcmp(o->name, p.name))
        o++;
    if (!o->name)
        return option_unknown(line, p.name, err);
    if (json_object_get(line->args, o->argument))
        return vgpu_err_set(err, EINVAL, "--%s: given twice", o->name);
    if (o->type == VGPU_CTL_FLAG) {
        if (p.value)
            return vgpu_err_set(err, EINVAL, "--%s: takes no value", o->name);
        return json_object_set_new(line->args, o->argument, json_true()) ? vgpu_err_set(err, ENOMEM, "out of memory")
                                                                         : 0;
    }
    if (!p.value && at + 1 < argc && argv[at + 1][0] == '-')
        return vgpu_err_set(err, EINVAL, "--%s: has no value; expected --%s=%s", o->name, o->name,
                            vgpu_ctl_placeholder(o));
    rc = option_value(&p, argc, argv, &at, err);
    if (rc)
        return rc;
    rc = vgpu_ctl_value(o, p.value, &value, err);
    if (!rc && json_object_set_new(line->args, o->argument, value))
        rc = vgpu_err_set(err, ENOMEM, "out of memory");
    return rc;
}

/* The word that stands for a file's name, as the option would have it. */
static int take_file(struct vgpu_ctl_line *line, struct vgpu_err *err)
{
    const struct vgpu_ctl_option *o = line->command->options;
    json_t *value = NULL;

    if (!line->command->file || !line->word)
        return 0;
    while (strcmp(o->name, line->command->file))
        o++;
    if (json_object_get(line->args, o->argument))
        return vgpu_err_set(err, EINVAL, "%s: unexpected argument %s beside --%s", line->command->name,
                            vgpu_ctl_shown(line->word), o->name);
    int rc = vgpu_ctl_value(o, line->word, &value, err);
    if (!rc && json_object_set_new(line->args, o->argument, value))
        rc = vgpu_err_set(err, ENOMEM, "out of memory");
    return rc;
}

static uint32_t optional_given(const struct vgpu_ctl_line *line)
{
    uint32_t n = 0;

    for (const struct vgpu_ctl_option *o = line->command->options; o->name; o++)
        n += !o->required && json_object_get(line->args, o->argument);
    return n;
}

/* Is all there that the command needs? */
static int check_complete(const struct vgpu_ctl_line *line, struct vgpu_err *err)
{
    const struct vgpu_ctl_command *c = line->command;
    const char *best;

    for (const struct vgpu_ctl_option *o = line->command->options; o->name; o++)
        if (o->required && !json_object_get(line->args, o->argument))
            return vgpu_err_set(err, EINVAL, "%s: --%s=%s is missing; for example: %s", line->command->name, o->name,
                                vgpu_ctl_placeholder(o), line->command->example);
    if (c->change && !optional_given(line))
        return vgpu_err_set(err, EINVAL, "%s: nothing to change was given; for example: %s", c->name, c->example);
    if (c->either && !json_object_get(line->args, c->options[0].argument) &&
        !json_object_get(line->args, c->options[1].argument))
        return vgpu_err_set(err, EINVAL, "%s: expected --%s or --%s; for example: %s", c->name, c->options[0].name,
                            c->options[1].name, c->example);
    if (c->words && !line->word)
        return vgpu_err_set(err, EINVAL, "%s: %s is missing; for example: %s", c->name, c->words, c->example);
    if (c->words && !vgpu_ctl_choice(c->words, line->word, &best))
        return vgpu_err_set(err, EINVAL, "%s: unexpected argument %s; expected %s%s%s%s", c->name,
                            vgpu_ctl_shown(line->word), c->words, best ? "; did you mean " : "", best ? best : "",
                            best ? "?" : "");
    return 0;
}

int vgpu_ctl_parse(int argc, char **argv, struct vgpu_ctl_line *out, struct vgpu_err *err)
{
    int own_count = 0;
    int *own = calloc((size_t)argc + 1, sizeof(*own));

    memset(out, 0, sizeof(*out));
    out->args = json_object();
    if (!own || !out->args) {
        free(own);
        return vgpu_err_set(err, ENOMEM, "out of memory");
    }
    int rc = find_words(argc, argv, out, own, &own_count, err);
    if (!rc && out->action == VGPU_CTL_DO_COMMAND && !out->command)
        rc = vgpu_err_set(err, EINVAL, "no command; vgpu-ctl help lists them");
    if (out->action == VGPU_CTL_DO_COMMAND)
        for (int i = 0; i < own_count && !rc; i++)
            rc = take_option(argc, argv, own[i], out, err);
    free(own);
    if (rc || out->action != VGPU_CTL_DO_COMMAND)
        return rc;
    rc = take_file(out, err);
    return rc ? rc : check_complete(out, err);
}

void vgpu_ctl_line_free(struct vgpu_ctl_line *line)
{
    json_decref(line->args);
    line->args = NULL;
}
