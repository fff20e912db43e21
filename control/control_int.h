/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Private to this room. server.c is the server; args.c checks a request along a command's table of arguments; commands.c
 * has the commands; tokens.c the token files. A new command is one row of vgpu_commands, its arguments, and a function.
 */
#ifndef VGPU_CONTROL_INT_H
#define VGPU_CONTROL_INT_H

#include "control/control.h"

struct client;

/* Whom requests are refused, not being an administrator: refusals.c. */
#define VGPU_REFUSERS       17u
#define VGPU_REFUSER_OTHERS (-2) /* as a uid: all for whom there is no place */
struct vgpu_refuser {
    bool used, same;               /* same: all that are counted were like the last one that was noted */
    int64_t uid;
    uint32_t rows;                 /* that it has left */
    uint64_t row_ns;               /* when it got the last one */
    uint64_t since_ns, window_ns;  /* of what is counted */
    uint64_t unnoted;
    uint64_t last_ns;
    char last_command[64], last_object[64], last_result[sizeof(((struct vgpu_err *)0)->text) + 24]; /* as noted */
};

struct vgpu_control {
    struct vgpu_control_params params;
    char socket_path[VGPU_CONFIG_PATH_BYTES];
    uint64_t socket_dev, socket_ino; /* of our socket file, so that close removes no other's */
    int epoll_fd, listen_fd, timer_fd, token_dir_fd;
    bool listening;           /* accepting; off while all client slots are taken */
    bool accept_failed;       /* told once */
    uint64_t accept_retry_ns; /* 0: none due */
    uint32_t client_count;
    struct client *clients; /* [VGPU_CONTROL_MAX_CLIENTS] */
    struct client *long_client; /* whose request is longer than VGPU_CONTROL_MAX_REQUEST_BYTES; NULL: nobody's */
    const struct vgpu_caller *caller; /* of the request that is being handled */
    bool batch;           /* requests that came together are being handled */
    json_t *batch_stats;  /* the result of `stats` that they share; NULL: not asked for yet */
    struct vgpu_refuser refusers[VGPU_REFUSERS];
};

enum vgpu_arg_type {
    VGPU_ARG_INT,      /* min..max */
    VGPU_ARG_NAME,     /* letters, digits, '.', '_', '-'; 1 to 31 */
    VGPU_ARG_PRIORITY, /* high, medium, low */
    VGPU_ARG_ENGINE,   /* auto, stream, batch, resident */
    VGPU_ARG_VM_IDS,   /* [int...], 1..VGPU_VM_ID_MAX, no two alike, at least one */
    VGPU_ARG_WORD,     /* one of `words` */
    VGPU_ARG_UUID,     /* 36 characters, either case */
    VGPU_ARG_TEXT,     /* printable, 1 to `max` bytes */
    VGPU_ARG_BOOL,
    VGPU_ARG_LIMIT,    /* min..max, or "default" */
    VGPU_ARG_OBJECT,   /* the command looks into it itself */
};
struct vgpu_arg {
    const char *name;
    enum vgpu_arg_type type;
    bool required;
    int64_t min, max;
    const char *words; /* "merge|replace" */
};
#define VGPU_COMMAND_MAX_ARGS 20u
struct vgpu_command {
    const char *name;
    /* Checked args in, a new reference out; NULL with err filled. */
    json_t *(*run)(struct vgpu_control *c, const json_t *args, struct vgpu_err *err);
    struct vgpu_arg args[VGPU_COMMAND_MAX_ARGS]; /* ends at name NULL */
    bool changes;                                /* for administrators only */
};
extern const struct vgpu_command vgpu_commands[];
extern const uint32_t vgpu_command_count;

/* commands_iommu.c */
json_t *vgpu_run_iommu_status(struct vgpu_control *c, const json_t *args, struct vgpu_err *err);

/* Takes the request apart. 0, or -errno with err: -EINVAL for all that is malformed, -ENOSYS for an unknown command.
 * *args is borrowed from the request, NULL when it has none. */
int vgpu_request_check(const json_t *request, const struct vgpu_command **command, const json_t **args,
                       struct vgpu_err *err);
/* Checked arguments. */
int64_t vgpu_arg_int(const json_t *args, const char *name, int64_t otherwise);
const char *vgpu_arg_string(const json_t *args, const char *name); /* NULL: not given */
int vgpu_arg_priority(const json_t *args, int otherwise);
const char *vgpu_priority_name(uint32_t priority);
/* Where the argument is one of these words: its place among them; not given: otherwise. */
uint32_t vgpu_arg_word(const json_t *args, const char *name, const char *const *words, uint32_t count, uint32_t otherwise);
bool vgpu_arg_bool(const json_t *args, const char *name);
/* True when it was given: the number, or `standard` for "default". */
bool vgpu_arg_limit(const json_t *args, const char *name, uint64_t standard, uint64_t *out);
/* Lower-cases into out (may be NULL). False: it is none. */
bool vgpu_uuid_read(const char *text, char out[VGPU_UUID_BYTES]);
uint32_t vgpu_arg_engine(const json_t *args); /* not given: VGPU_VM_ENGINE_AUTO */
const char *vgpu_engine_name(uint32_t engine);
/* A string for a response; bytes that are not UTF-8 become '?'. */
json_t *vgpu_json_text(const char *text);

/* access.c. Who is at the other end of this connection, and what it may. */
void vgpu_caller_of(const struct vgpu_control *c, int fd, struct vgpu_caller *caller);
/* The name of a uid; "" : it has none. */
void vgpu_user_name(int64_t uid, char *out, size_t bytes);
/* Says which groups of the configuration are not there; again after a reload. */
void vgpu_groups_look(const struct vgpu_control *c);
/* Refuses: the whole sentence of who may do everything, and who may look. */
int vgpu_access_refuse(const struct vgpu_control *c, const struct vgpu_caller *caller, const char *what, struct vgpu_err *err);

/* refusals.c. Notes a refusal; command NULL: it was none that there is, `what` stands for it. args NULL: malformed ones. */
void vgpu_refusal_note(struct vgpu_control *c, const struct vgpu_command *command, const char *what, const json_t *args,
                       const struct vgpu_err *err);
/* The number of those that were not noted, once it is due; when that is (UINT64_MAX: never). */
void vgpu_refusals_flush(struct vgpu_control *c, uint64_t now_ns);
uint64_t vgpu_refusals_due_ns(const struct vgpu_control *c);
/* All that is counted, due or not. */
void vgpu_refusals_end(struct vgpu_control *c);
/* "ENOENT" */
const char *vgpu_code_name(int code);

/* Opens token_dir, makes it where it is missing; brings its files in line with the store. */
int vgpu_tokens_open(struct vgpu_control *c, struct vgpu_err *err);
/* Writes vm-ID.token, mode 0600, owned by the VM's uid; replaces it as a whole. */
int vgpu_token_write(struct vgpu_control *c, const struct vgpu_vm_record *vm, struct vgpu_err *err);
void vgpu_token_remove(struct vgpu_control *c, uint32_t vm_id);
json_t *vgpu_token_path(const struct vgpu_control *c, uint32_t vm_id);

#endif
