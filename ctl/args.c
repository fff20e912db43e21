/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/args.h"

#include <errno.h>
#include <inttypes.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/suggest.h"
#include "rings/abi/vgpu_abi.h"
#include "store/store.h"

#define VALUE_MAX 255u
#define BYTES_MAX (UINT64_C(1) << 40)
#define IDS(required, doc)                                                                                             \
    {                                                                                                                  \
        "vm-id", "vm_ids", VGPU_CTL_IDS, required, 1, VGPU_VM_ID_MAX, doc                                              \
    }
#define ID(required, doc)                                                                                              \
    {                                                                                                                  \
        "vm-id", "vm_id", VGPU_CTL_ID, required, 1, VGPU_VM_ID_MAX, doc                                                \
    }
#define POOL(required, doc)                                                                                            \
    {                                                                                                                  \
        "pool", "pool", VGPU_CTL_NAME, required, 0, 0, doc                                                             \
    }
#define PRIORITY(doc)                                                                                                  \
    {                                                                                                                  \
        "priority", "priority", VGPU_CTL_PRIORITY, false, 0, 0, doc                                                    \
    }

const struct vgpu_ctl_command vgpu_ctl_commands[] = {
    {"register-vm",
     "Register one VM or a range of them, all or nothing.",
     "vgpu-ctl register-vm --vm-id=1-7 --pool=A --priority=high --uid=1000",
     {IDS(true, "ids to register"),
      POOL(true, "the pool that serves them"),
      PRIORITY("default medium"),
      {"engine", "engine", VGPU_CTL_ENGINE, false, 0, 0, "preferred on a GPU; default auto"},
      {"name", "name", VGPU_CTL_NAME, false, 0, 0, "for one VM; default vm-ID"},
      {"uid", "uid", VGPU_CTL_USER, false, 0, 4294967294u, "user that may attach; without it nobody can"},
      {"in-flight", "in_flight", VGPU_CTL_COUNT, false, 1, VGPU_RING_SLOTS_MAX, "descriptors accepted, not completed"},
      {"arena-bytes", "arena_bytes", VGPU_CTL_SIZE, false, VGPU_PAGE_BYTES, BYTES_MAX, "largest shared arena"},
      {"device-bytes", "device_bytes", VGPU_CTL_SIZE, false, 0, BYTES_MAX, "device memory; 0: none"}}},
    {"remove-vm",
     "Remove VMs that are not attached, all or nothing.",
     "vgpu-ctl remove-vm --vm-id=8-10",
     {IDS(true, "ids to remove")}},
    {"list-vms",
     "List the registered VMs.",
     "vgpu-ctl list-vms --pool=A --priority=high",
     {POOL(false, "only this pool's"), PRIORITY("only those of this priority")}},
    {"show-vm", "Show all there is to know about one VM.", "vgpu-ctl show-vm --vm-id=3", {ID(true, "which VM")}},
    {"list-pools", "List the pools, their executors and members.", "vgpu-ctl list-pools", {{0}}},
    {"stats",
     "Show counters, queue depths and latencies.",
     "vgpu-ctl stats --vm-id=3 --json",
     {ID(false, "only this VM")}},
    {"version", "Show the daemon's version.", "vgpu-ctl version", {{0}}},
};
const uint32_t vgpu_ctl_command_count = sizeof(vgpu_ctl_commands) / sizeof(vgpu_ctl_commands[0]);

static const char *const placeholders[] = {[VGPU_CTL_IDS] = "N|N-M|N,M", [VGPU_CTL_ID] = "N",
                                           [VGPU_CTL_NAME] = "NAME",     [VGPU_CTL_PRIORITY] = "high|medium|low",
                                           [VGPU_CTL_ENGINE] = "auto|stream|batch|resident",
                                           [VGPU_CTL_COUNT] = "N",       [VGPU_CTL_SIZE] = "BYTES[K|M|G]",
                                           [VGPU_CTL_USER] = "N|NAME"};

static const char *const globals[] = {"socket", "json", "help", "version"};
#define GLOBAL_COUNT (sizeof(globals) / sizeof(globals[0]))

/* What the user typed, printable and short. Four at a time, for one message. */
static const char *shown(const char *text)
{
    static char buffers[4][64];
    static unsigned turn;
    char *out = buffers[turn++ % 4];
    size_t n = 0;

    out[n++] = '\'';
    for (; *text && n < 50; text++)
        out[n++] = (unsigned char)*text >= 0x20 && *text != 0x7f ? *text : '?';
    snprintf(out + n, 8, "%s'", *text ? "..." : "");
    return out;
}

/* Decimal digits of a length; false when it is none or above max. */
static bool parse_number(const char *text, size_t n, uint64_t max, uint64_t *out)
{
    uint64_t v = 0;

    if (!n)
        return false;
    for (size_t i = 0; i < n; i++) {
        if (text[i] < '0' || text[i] > '9')
            return false;
        v = v * 10 + (uint64_t)(text[i] - '0');
        if (v > max) /* max is far below the wrap */
            return false;
    }
    *out = v;
    return true;
}

static int parse_size(const struct vgpu_ctl_option *o, const char *text, json_t **out, struct vgpu_err *err)
{
    size_t n = strlen(text);
    char last = text[n - 1]; /* not empty, the caller checked */
    unsigned shift = last == 'K' ? 10 : last == 'M' ? 20 : last == 'G' ? 30 : 0;
    uint64_t v;

    if (!parse_number(text, n - (shift > 0), o->max >> shift, &v) || v << shift < o->min)
        return vgpu_err_set(err, EINVAL, "--%s: %s is no size that fits; expected %" PRIu64 " to 1024G, such as 64M",
                            o->name, shown(text), o->min);
    *out = json_integer((json_int_t)(v << shift));
    return 0;
}

static int add_range(const struct vgpu_ctl_option *o, const char *text, const char *part, size_t n, uint8_t *seen,
                     json_t *list, struct vgpu_err *err)
{
    const char *dash = memchr(part, '-', n);
    size_t first_n = dash ? (size_t)(dash - part) : n;
    uint64_t first, last;

    if (!parse_number(part, first_n, o->max, &first) ||
        !(dash ? parse_number(dash + 1, n - first_n - 1, o->max, &last) : ((last = first), true)) || first < o->min)
        return vgpu_err_set(err, EINVAL,
                            "--%s: %s is no list of VM ids; expected ids from 1 to %" PRIu64 " such as 3, 1-7 or 1-3,9",
                            o->name, shown(text), o->max);
    if (last < first)
        return vgpu_err_set(err, EINVAL, "--%s: %s: the range %" PRIu64 "-%" PRIu64 " runs backwards", o->name,
                            shown(text), first, last);
    for (uint64_t id = first; id <= last; id++) {
        if (seen[id / 8] & (1u << (id % 8)))
            return vgpu_err_set(err, EINVAL, "--%s: %s names VM %" PRIu64 " twice", o->name, shown(text), id);
        seen[id / 8] |= (uint8_t)(1u << (id % 8));
        json_array_append_new(list, json_integer((json_int_t)id));
    }
    return 0;
}

static int parse_ids(const struct vgpu_ctl_option *o, const char *text, json_t **out, struct vgpu_err *err)
{
    uint8_t seen[(VGPU_VM_ID_MAX + 8) / 8] = {0};
    json_t *list = json_array();
    int rc = 0;

    for (const char *part = text; part && !rc;) {
        const char *comma = strchr(part, ',');
        rc = add_range(o, text, part, comma ? (size_t)(comma - part) : strlen(part), seen, list, err);
        part = comma ? comma + 1 : NULL;
    }
    if (rc)
        json_decref(list);
    else
        *out = list;
    return rc;
}

/* One of a few words; `expected` is "no KIND; expected which". */
static int parse_word(const struct vgpu_ctl_option *o, const char *text, const char *const *names, unsigned count,
                      const char *expected, json_t **out, struct vgpu_err *err)
{
    const char *best = NULL;
    unsigned distance = ~0u;

    for (unsigned i = 0; i < count; i++) {
        if (!strcmp(text, names[i])) {
            *out = json_string(text);
            return 0;
        }
        vgpu_suggest_consider(text, names[i], &best, &distance);
    }
    return vgpu_err_set(err, EINVAL, "--%s: %s is %s%s%s%s", o->name, shown(text), expected,
                        best ? "; did you mean " : "", best ? best : "", best ? "?" : "");
}

static int parse_user(const struct vgpu_ctl_option *o, const char *text, json_t **out, struct vgpu_err *err)
{
    uint64_t uid;

    if (!parse_number(text, strlen(text), o->max, &uid)) {
        bool digits = text[strspn(text, "0123456789")] == 0;
        const struct passwd *pw = digits ? NULL : getpwnam(text);
        if (!pw)
            return vgpu_err_set(err, EINVAL,
                                "--%s: there is no user %s; expected a user's name or a uid from 0 to %" PRIu64,
                                o->name, shown(text), o->max);
        uid = pw->pw_uid;
    }
    *out = json_integer((json_int_t)uid);
    return 0;
}

static int parse_value(const struct vgpu_ctl_option *o, const char *text, json_t **out, struct vgpu_err *err)
{
    static const char *const priorities[] = {"high", "medium", "low"};
    static const char *const engines[VGPU_VM_ENGINE_COUNT] = VGPU_VM_ENGINE_NAMES;
    uint64_t v;
    size_t n = strlen(text);

    if (!n)
        return vgpu_err_set(err, EINVAL, "--%s: has no value; expected --%s=%s", o->name, o->name,
                            placeholders[o->type]);
    if (n > VALUE_MAX)
        return vgpu_err_set(err, EINVAL, "--%s: the value has %zu bytes; expected at most %u", o->name, n, VALUE_MAX);
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)text[i] < 0x20 || text[i] == 0x7f)
            return vgpu_err_set(err, EINVAL, "--%s: %s holds a control character", o->name, shown(text));
    switch (o->type) {
    case VGPU_CTL_IDS:
        return parse_ids(o, text, out, err);
    case VGPU_CTL_ID:
    case VGPU_CTL_COUNT:
        if (!parse_number(text, n, o->max, &v) || v < o->min)
            return vgpu_err_set(err, EINVAL,
                                "--%s: %s is out of range; expected a whole number from %" PRIu64 " to %" PRIu64,
                                o->name, shown(text), o->min, o->max);
        *out = json_integer((json_int_t)v);
        return 0;
    case VGPU_CTL_NAME:
        if (n >= VGPU_NAME_BYTES ||
            strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") != n)
            return vgpu_err_set(err, EINVAL,
                                "--%s: %s is not a name; expected 1 to %u of letters, digits, '.', '_', '-'", o->name,
                                shown(text), VGPU_NAME_BYTES - 1);
        *out = json_string(text);
        return 0;
    case VGPU_CTL_PRIORITY:
        return parse_word(o, text, priorities, 3, "no priority; expected high, medium or low", out, err);
    case VGPU_CTL_ENGINE:
        return parse_word(o, text, engines, VGPU_VM_ENGINE_COUNT,
                          "no engine; expected auto, stream, batch or resident", out, err);
    case VGPU_CTL_SIZE:
        return parse_size(o, text, out, err);
    case VGPU_CTL_USER:
        return parse_user(o, text, out, err);
    }
    return vgpu_err_set(err, EINVAL, "--%s: of no known type", o->name);
}

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
    return vgpu_err_set(err, EINVAL, "unknown command %s; %s%s%s", shown(name),
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
        return vgpu_err_set(err, EINVAL, "unknown option %s; did you mean --%s?", shown(name), best);
    return vgpu_err_set(err, EINVAL, "unknown option %s; vgpu-ctl help%s%s lists what there is", shown(name),
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
        return vgpu_err_set(err, EINVAL, "unknown option %s; options look like --vm-id=1", shown(arg));
    const char *equals = strchr(arg + 2, '=');
    size_t n = equals ? (size_t)(equals - arg - 2) : strlen(arg + 2);
    if (n >= sizeof(p->name))
        return vgpu_err_set(err, EINVAL, "unknown option %s", shown(arg));
    memcpy(p->name, arg + 2, n);
    p->name[n] = 0;
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

/* 1: it was a global option; 0: it was not; -EINVAL. */
static int option_global(struct piece *p, int argc, char **argv, int *i, struct vgpu_ctl_line *line, bool *socket_given,
                         struct vgpu_err *err)
{
    int rc;

    if (!strcmp(p->name, "socket")) {
        if (*socket_given)
            return vgpu_err_set(err, EINVAL, "--socket: given twice");
        rc = option_value(p, argc, argv, i, err);
        if (rc)
            return rc;
        if (!p->value[0] || strlen(p->value) > 107)
            return vgpu_err_set(err, EINVAL, "--socket: expected a path of 1 to 107 bytes");
        *socket_given = true;
        line->socket = p->value;
        return 1;
    }
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

/* First pass: what is a command's own option is only known once the command is. */
static int find_words(int argc, char **argv, struct vgpu_ctl_line *line, int *own, int *own_count, struct vgpu_err *err)
{
    bool socket_given = false, literal = false;

    for (int i = 1; i < argc; i++) {
        struct piece p;
        int rc;

        if (!literal && !strcmp(argv[i], "--")) {
            literal = true;
        } else if (!literal && argv[i][0] == '-' && argv[i][1]) {
            int at = i;
            rc = option_split(argv[i], &p, err);
            if (!rc)
                rc = option_global(&p, argc, argv, &i, line, &socket_given, err);
            if (rc < 0)
                return rc;
            if (!rc) {
                own[(*own_count)++] = at;
                /* "--pool A": the next word is its value, unless it is an option itself */
                if (!p.value && i + 1 < argc && argv[i + 1][0] != '-')
                    i++;
            }
        } else if (!line->command && !strcmp(argv[i], "help")) {
            line->action = VGPU_CTL_DO_HELP;
        } else if (!line->command) {
            rc = command_find(argv[i], &line->command, err);
            if (rc)
                return rc;
        } else {
            return vgpu_err_set(err, EINVAL, "%s: unexpected argument %s", line->command->name, shown(argv[i]));
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
    if (!p.value && at + 1 < argc && argv[at + 1][0] == '-')
        return vgpu_err_set(err, EINVAL, "--%s: has no value; expected --%s=%s", o->name, o->name,
                            placeholders[o->type]);
    rc = option_value(&p, argc, argv, &at, err);
    if (rc)
        return rc;
    if (json_object_get(line->args, o->argument))
        return vgpu_err_set(err, EINVAL, "--%s: given twice", o->name);
    rc = parse_value(o, p.value, &value, err);
    if (!rc && json_object_set_new(line->args, o->argument, value))
        rc = vgpu_err_set(err, ENOMEM, "out of memory");
    return rc;
}

int vgpu_ctl_parse(int argc, char **argv, struct vgpu_ctl_line *out, struct vgpu_err *err)
{
    const char *env = getenv(VGPU_CTL_SOCKET_ENV);
    int own_count = 0;
    int *own = calloc((size_t)argc + 1, sizeof(*own));

    memset(out, 0, sizeof(*out));
    out->socket = env && env[0] ? env : VGPU_CTL_DEFAULT_SOCKET;
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
    for (const struct vgpu_ctl_option *o = out->command->options; o->name; o++)
        if (o->required && !json_object_get(out->args, o->argument))
            return vgpu_err_set(err, EINVAL, "%s: --%s=%s is missing; for example: %s", out->command->name, o->name,
                                placeholders[o->type], out->command->example);
    return 0;
}

void vgpu_ctl_line_free(struct vgpu_ctl_line *line)
{
    json_decref(line->args);
    line->args = NULL;
}

static void help_command(FILE *out, const struct vgpu_ctl_command *command)
{
    fprintf(out, "usage: vgpu-ctl %s", command->name);
    for (const struct vgpu_ctl_option *o = command->options; o->name; o++)
        fprintf(out, o->required ? " --%s=%s" : " [--%s=%s]", o->name, placeholders[o->type]);
    fprintf(out, " [--json] [--socket=PATH]\n%s\n", command->doc);
    for (const struct vgpu_ctl_option *o = command->options; o->name; o++) {
        char left[48];
        snprintf(left, sizeof(left), "--%s=%s", o->name, placeholders[o->type]);
        fprintf(out, "  %-29s %s\n", left, o->doc);
    }
    fprintf(out, "example: %s\n", command->example);
}

void vgpu_ctl_help(FILE *out, const struct vgpu_ctl_command *command)
{
    if (command) {
        help_command(out, command);
        return;
    }
    fputs("usage: vgpu-ctl COMMAND [OPTIONS]     talks to a running vgpud\n\ncommands:\n", out);
    for (uint32_t i = 0; i < vgpu_ctl_command_count; i++)
        fprintf(out, "  %-13s %s\n", vgpu_ctl_commands[i].name, vgpu_ctl_commands[i].doc);
    fputs("  help          This, or help COMMAND: its options and an example.\n"
          "\noptions, before or after the command:\n"
          "  --socket=PATH  control socket; default $" VGPU_CTL_SOCKET_ENV " or " VGPU_CTL_DEFAULT_SOCKET "\n"
          "  --json         print the result as one line of JSON\n"
          "  --help, --version\n"
          "\nexit codes: 0 done, 1 refused by vgpud, 2 wrong command line, 3 vgpud cannot be reached\n"
          "example: vgpu-ctl register-vm --vm-id=1 --pool=A --priority=high\n",
          out);
}
