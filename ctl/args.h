/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vgpu-ctl's command line, along one table of commands and options (commands.c). A new command is one row: its options
 * name the arguments of the control protocol that they become. Help, completion and the synopses of vgpu-ctl(8) come
 * from the table or are held against it by a test.
 */
#ifndef VGPU_CTL_ARGS_H
#define VGPU_CTL_ARGS_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "core/base/log.h"
#include "ctl/print.h"

#define VGPU_CTL_DEFAULT_SOCKET "/run/vgpu/control.sock"
#define VGPU_CTL_SOCKET_ENV     "VGPU_CONTROL_SOCKET"

/* Exit codes, as documented in vgpu-ctl(8). */
enum vgpu_ctl_exit {
    VGPU_CTL_OK = 0,
    VGPU_CTL_REFUSED = 1,     /* the daemon said no, or a local command found a fault */
    VGPU_CTL_USAGE = 2,       /* the command line is wrong; nothing was sent */
    VGPU_CTL_UNREACHABLE = 3, /* no daemon, no permission, no answer */
    VGPU_CTL_FOUND_MEDIUM = 4, /* precheck, doctor: the worst finding is of medium severity */
    VGPU_CTL_FOUND_HIGH = 5,
    VGPU_CTL_FOUND_CRITICAL = 6,
};

enum vgpu_ctl_option_type {
    VGPU_CTL_IDS,   /* 1, 1-7, 1-3,9 */
    VGPU_CTL_ID,    /* one VM id */
    VGPU_CTL_NAME,  /* letters, digits, '.', '_', '-' */
    VGPU_CTL_WORD,  /* one of `choices` */
    VGPU_CTL_COUNT, /* whole number */
    VGPU_CTL_SIZE,  /* bytes with K, M, G */
    VGPU_CTL_USER,  /* uid or user name */
    VGPU_CTL_TEXT,  /* printable text of at most `max` bytes */
    VGPU_CTL_PATH,  /* name of a file */
    VGPU_CTL_UUID,  /* 36 characters, in either case */
    VGPU_CTL_SINCE, /* 90s, 30m, 2h, 7d ago; 2026-01-31, 2026-01-31T12:00:00Z: microseconds since 1970 */
    VGPU_CTL_FLAG,  /* takes no value: true */
};
struct vgpu_ctl_option {
    const char *name;     /* behind the two dashes */
    const char *argument; /* of the protocol; of a local command: its key in the parsed arguments */
    enum vgpu_ctl_option_type type;
    bool required;
    uint64_t min, max;
    const char *doc;
    const char *choices; /* "high|medium|low"; of a count or size: words that stand for one, "default" */
};
struct vgpu_ctl_local;
#define VGPU_CTL_MAX_OPTIONS 16u
struct vgpu_ctl_command {
    const char *name;
    const char *doc;
    const char *example;
    struct vgpu_ctl_option options[VGPU_CTL_MAX_OPTIONS]; /* ends at name NULL */
    vgpu_ctl_printer print;                               /* of the result; NULL where `run` prints itself */
    /* NULL: one request to the daemon, and its result printed. Else see local.h. */
    int (*run)(struct vgpu_ctl_local *local, int argc, char **argv);
    const char *words; /* the one word that it needs besides options, "bash|zsh|fish"; NULL: none */
    bool change;       /* at least one of the options that are not required must be there */
    bool either;       /* one of the first two options must be there, or both */
    const char *file;  /* the option that a word without dashes stands for; NULL: none */
};
extern const struct vgpu_ctl_command vgpu_ctl_commands[];
extern const uint32_t vgpu_ctl_command_count;

enum vgpu_ctl_action { VGPU_CTL_DO_COMMAND, VGPU_CTL_DO_HELP, VGPU_CTL_DO_VERSION };
struct vgpu_ctl_line {
    enum vgpu_ctl_action action;
    /* What is talked to, in argv; NULL: none named. where.h says what then. */
    const char *socket, *db, *config;
    bool json;
    const struct vgpu_ctl_command *command; /* NULL: help for all */
    char *word;                             /* what stood there for command->words or ->file; points into argv */
    json_t *args;                           /* of the request; vgpu_ctl_line_free() */
};

/* 0, or -EINVAL with err: what is wrong and what was expected. Either way free the line. */
int vgpu_ctl_parse(int argc, char **argv, struct vgpu_ctl_line *out, struct vgpu_err *err);
void vgpu_ctl_line_free(struct vgpu_ctl_line *line);
/* command NULL: the overview. */
void vgpu_ctl_help(FILE *out, const struct vgpu_ctl_command *command);
/* The table as JSON, {"commands":[{"name","doc","example","words","options":[...]}]}; a new reference. */
json_t *vgpu_ctl_help_json(const struct vgpu_ctl_command *command);
/* What stands for an option's value in help and messages; NULL for a flag. */
const char *vgpu_ctl_placeholder(const struct vgpu_ctl_option *o);

#endif
