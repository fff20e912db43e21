/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/args_int.h"

static void option_text(const struct vgpu_ctl_option *o, char *out, size_t bytes)
{
    const char *value = vgpu_ctl_placeholder(o);

    snprintf(out, bytes, "--%s%s%s", o->name, value ? "=" : "", value ? value : "");
}

static void help_command(FILE *out, const struct vgpu_ctl_command *command)
{
    char left[96];

    fprintf(out, "usage: vgpu-ctl %s%s%s", command->name, command->words ? " " : "",
            command->words ? command->words : "");
    for (const struct vgpu_ctl_option *o = command->options; o->name; o++) {
        option_text(o, left, sizeof(left));
        fprintf(out, o->required ? " %s" : " [%s]", left);
    }
    fprintf(out, " [--json] [--socket=PATH] [--db=FILE] [--config=FILE]\n%s\n", command->doc);
    for (const struct vgpu_ctl_option *o = command->options; o->name; o++) {
        option_text(o, left, sizeof(left));
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
    fputs("usage: vgpu-ctl COMMAND [OPTIONS]     talks to vgpud, or to its store while it does not run\n\ncommands:\n",
          out);
    for (uint32_t i = 0; i < vgpu_ctl_command_count; i++)
        fprintf(out, "  %-17s %s\n", vgpu_ctl_commands[i].name, vgpu_ctl_commands[i].doc);
    fputs("  help              This, or help COMMAND: its options and an example.\n"
          "\noptions, before or after the command:\n"
          "  --socket=PATH  control socket; default $" VGPU_CTL_SOCKET_ENV " or " VGPU_CTL_DEFAULT_SOCKET "\n"
          "  --db=FILE      this store: through the vgpud that has it, else by itself\n"
          "  --config=FILE  vgpud's configuration: it names socket and store; default $VGPU_CONFIG or the installed one\n"
          "  --json         print the result as one line of JSON\n"
          "  --help, --version\n"
          "\nexit codes: 0 done, 1 refused, 2 wrong command line, 3 vgpud cannot be reached;\n"
          "  precheck, doctor: 4, 5, 6 the worst finding is of medium, high, critical severity\n"
          "example: vgpu-ctl register-vm --vm-id=1 --pool=A --priority=high\n",
          out);
}

json_t *vgpu_ctl_help_json(const struct vgpu_ctl_command *command)
{
    static const char *const types[] = {
        [VGPU_CTL_IDS] = "ids",     [VGPU_CTL_ID] = "id",     [VGPU_CTL_NAME] = "name",   [VGPU_CTL_WORD] = "word",
        [VGPU_CTL_COUNT] = "count", [VGPU_CTL_SIZE] = "size", [VGPU_CTL_USER] = "user",   [VGPU_CTL_TEXT] = "text",
        [VGPU_CTL_PATH] = "path",   [VGPU_CTL_UUID] = "uuid", [VGPU_CTL_SINCE] = "since", [VGPU_CTL_FLAG] = "flag",
    };
    json_t *commands = json_array();

    for (uint32_t i = 0; i < vgpu_ctl_command_count; i++) {
        const struct vgpu_ctl_command *c = &vgpu_ctl_commands[i];
        if (command && c != command)
            continue;
        json_t *options = json_array();
        for (const struct vgpu_ctl_option *o = c->options; o->name; o++)
            json_array_append_new(options, json_pack("{s:s,s:s,s:b,s:I,s:I,s:s?,s:s}", "name", o->name, "type",
                                                     types[o->type], "required", o->required, "min", (json_int_t)o->min,
                                                     "max", (json_int_t)o->max, "choices", o->choices, "doc", o->doc));
        json_array_append_new(commands, json_pack("{s:s,s:s,s:s,s:s?,s:b,s:b,s:o}", "name", c->name, "doc", c->doc,
                                                  "example", c->example, "words", c->words, "change", c->change,
                                                  "either", c->either, "options", options));
    }
    return json_pack("{s:o}", "commands", commands);
}
