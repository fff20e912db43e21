/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Completion scripts for bash, zsh and fish, printed from the table of commands: what is completed is what there is.
 * The build installs their output. Ids and pools come from the daemon where one answers.
 */
#include "ctl/local.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FOR_COMMANDS(c)                                                                                                \
    for (const struct vgpu_ctl_command *c = vgpu_ctl_commands; c < vgpu_ctl_commands + vgpu_ctl_command_count; c++)
#define FOR_OPTIONS(o, c) for (const struct vgpu_ctl_option *o = (c)->options; o->name; o++)

/* Options that may stand before or after each command; those that take a path. */
static const struct everywhere {
    const char *name, *doc;
    bool path;
} everywhere[] = {
    {"json", "one line of JSON", false},
    {"socket", "control socket", true},
    {"db", "store", true},
    {"config", "configuration of vgpud", true},
    {"help", "show what a command takes", false},
    {NULL, NULL, false},
};

/* "a|b|c" as words. */
static void print_choices(FILE *out, const char *choices)
{
    for (; choices && *choices; choices++)
        fputc(*choices == '|' ? ' ' : *choices, out);
}

/* In single quotes of a shell. */
static void print_quoted(FILE *out, const char *text)
{
    for (; *text; text++)
        if (*text == '\'')
            fputs("'\\''", out);
        else
            fputc(*text, out);
}

static const char bash_head[] = "# bash completion of vgpu-ctl; printed by: vgpu-ctl completion bash\n"
                                "_vgpu_ctl()\n"
                                "{\n"
                                "    local cur prev command='' word i options='' values=''\n"
                                "    COMPREPLY=()\n"
                                "    cur=${COMP_WORDS[COMP_CWORD]}\n"
                                "    prev=${COMP_WORDS[COMP_CWORD-1]}\n"
                                "    # bash breaks --pool=A into three words\n"
                                "    if [[ $cur == '=' ]]; then\n"
                                "        cur=''\n"
                                "    elif [[ $prev == '=' ]]; then\n"
                                "        prev=${COMP_WORDS[COMP_CWORD-2]}\n"
                                "    fi\n"
                                "    for ((i = 1; i < COMP_CWORD; i++)); do\n"
                                "        word=${COMP_WORDS[i]}\n"
                                "        case $word in\n"
                                "        --socket|--db|--config) ((i++)); [[ ${COMP_WORDS[i]} == '=' ]] && ((i++)) ;;\n"
                                "        -*|'='|help) ;;\n"
                                "        *) command=$word; break ;;\n"
                                "        esac\n"
                                "    done\n";

static const char bash_tail[] =
    "    case $prev in\n"
    "    --socket|--db|--input|--output|--config|--bundle|--svg|--root) COMPREPLY=($(compgen -f -- \"$cur\")); return "
    ";;\n"
    "    --pool) values=$(vgpu-ctl list-pools --json 2>/dev/null | grep -o '\"name\":\"[^\"]*\"' | cut -d'\"' -f4) ;;\n"
    "    --vm-id) values=$(vgpu-ctl list-vms --json 2>/dev/null | grep -o '\"vm_id\":[0-9]*' | cut -d: -f2) ;;\n"
    "    esac\n"
    "    if [[ -n $values ]]; then\n"
    "        COMPREPLY=($(compgen -W \"$values\" -- \"$cur\"))\n"
    "        return\n"
    "    fi\n"
    "    COMPREPLY=($(compgen -W \"$options --json --socket= --db= --config= --help\" -- \"$cur\"))\n"
    "    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace\n"
    "    return 0\n"
    "}\n"
    "complete -F _vgpu_ctl vgpu-ctl vgpu-admin\n";

static void bash(FILE *out)
{
    fputs(bash_head, out);
    fputs("    case $command in\n    '') options='help", out);
    FOR_COMMANDS(c)
    fprintf(out, " %s", c->name);
    fputs(" --version' ;;\n", out);
    FOR_COMMANDS(c)
    {
        fprintf(out, "    %s)\n        options='", c->name);
        print_choices(out, c->words);
        FOR_OPTIONS(o, c)
        fprintf(out, " --%s%s", o->name, o->type == VGPU_CTL_FLAG ? "" : "=");
        fputs("'\n        case $prev in\n", out);
        FOR_OPTIONS(o, c)
        if (o->type == VGPU_CTL_WORD) {
            fprintf(out, "        --%s) values='", o->name);
            print_choices(out, o->choices);
            fputs("' ;;\n", out);
        }
        fputs("        esac ;;\n", out);
    }
    fputs("    esac\n", out);
    fputs(bash_tail, out);
}

/* In brackets of a specification of zsh's, in single quotes: brackets and colons have a meaning there. */
static void print_spec_text(FILE *out, const char *text)
{
    for (const char *p = text; *p; p++)
        fputs(*p == ':' ? "\\:" : *p == '[' || *p == ']' ? "" : *p == '\'' ? "'\\''" : (char[2]){*p, 0}, out);
}

/* What completes the value of an option, by its name or type; NULL: nothing does. */
static const char *zsh_values(const struct vgpu_ctl_option *o)
{
    return !strcmp(o->name, "pool")    ? "_vgpu_ctl_pools"
           : !strcmp(o->name, "vm-id") ? "_vgpu_ctl_vms"
           : o->type == VGPU_CTL_PATH  ? "_files"
                                       : NULL;
}

static void zsh_option(FILE *out, const struct vgpu_ctl_option *o)
{
    fprintf(out, " \\\n            '--%s%s[", o->name, o->type == VGPU_CTL_FLAG ? "" : "=");
    print_spec_text(out, o->doc);
    fputs("]", out);
    if (o->type == VGPU_CTL_WORD) {
        fprintf(out, ":%s:(", o->name);
        print_choices(out, o->choices);
        fputs(")", out);
    } else if (o->type != VGPU_CTL_FLAG) {
        fprintf(out, ":%s:%s", o->name, zsh_values(o) ? zsh_values(o) : " ");
    }
    fputs("'", out);
}

static const char zsh_head[] =
    "#compdef vgpu-ctl vgpu-admin\n"
    "# zsh completion of vgpu-ctl; printed by: vgpu-ctl completion zsh\n"
    "_vgpu_ctl_pools() {\n"
    "    compadd -- $(vgpu-ctl list-pools --json 2>/dev/null | grep -o '\"name\":\"[^\"]*\"' | cut -d'\"' -f4)\n"
    "}\n"
    "_vgpu_ctl_vms() {\n"
    "    compadd -- $(vgpu-ctl list-vms --json 2>/dev/null | grep -o '\"vm_id\":[0-9]*' | cut -d: -f2)\n"
    "}\n"
    "_vgpu_ctl() {\n"
    "    local curcontext=\"$curcontext\" state line ret=1\n"
    "    local -A opt_args\n"
    "    local -a commands everywhere\n"
    "    everywhere=(\n";

static void zsh(FILE *out)
{
    fputs(zsh_head, out);
    for (const struct everywhere *g = everywhere; g->name; g++) {
        fprintf(out, "        '--%s%s[", g->name, g->path ? "=" : "");
        print_spec_text(out, g->doc);
        fprintf(out, "]%s'\n", g->path ? ":file:_files" : "");
    }
    fputs("    )\n    commands=(\n        'help:List the commands, or show one.'\n", out);
    FOR_COMMANDS(c)
    {
        fprintf(out, "        '%s:", c->name);
        print_quoted(out, c->doc);
        fputs("'\n", out);
    }
    fputs("    )\n"
          "    _arguments -C $everywhere '--version[show the version]' '1: :->command' '*:: :->rest' && ret=0\n"
          "    case $state in\n"
          "    command) _describe -t commands command commands && ret=0 ;;\n"
          "    rest)\n"
          "        curcontext=\"${curcontext%:*}-$words[1]:\"\n"
          "        case $words[1] in\n"
          "        help) _describe -t commands command commands && ret=0 ;;\n",
          out);
    FOR_COMMANDS(c)
    {
        fprintf(out, "        %s) _arguments $everywhere", c->name);
        FOR_OPTIONS(o, c)
        zsh_option(out, o);
        if (c->words) {
            fputs(" '1: :(", out);
            print_choices(out, c->words);
            fputs(")'", out);
        } else if (c->file) {
            fputs(" '1:file:_files'", out);
        }
        fputs(" && ret=0 ;;\n", out);
    }
    fputs("        esac ;;\n    esac\n    return ret\n}\n_vgpu_ctl \"$@\"\n", out);
}

/* The command of the line so far is looked for here: a path behind --socket or --db is none. */
static const char fish_head[] =
    "# fish completion of vgpu-ctl; printed by: vgpu-ctl completion fish\n"
    "function __vgpu_ctl_command\n"
    "    set -l skip 0\n"
    "    for word in (commandline -opc)[2..-1]\n"
    "        if test $skip -eq 1\n"
    "            set skip 0\n"
    "        else if contains -- $word $__vgpu_ctl_takes_path\n"
    "            set skip 1\n"
    "        else if not string match -q -- '-*' $word\n"
    "            echo $word\n"
    "            return\n"
    "        end\n"
    "    end\n"
    "end\n"
    "function __vgpu_ctl_is\n"
    "    test \"$(__vgpu_ctl_command)\" = \"$argv[1]\"\n"
    "end\n"
    "function __vgpu_ctl_pools\n"
    "    vgpu-ctl list-pools --json 2>/dev/null | string match -ar '\"name\":\"([^\"]*)\"' --groups-only\n"
    "end\n"
    "function __vgpu_ctl_vms\n"
    "    vgpu-ctl list-vms --json 2>/dev/null | string match -ar '\"vm_id\":([0-9]+)' --groups-only\n"
    "end\n";

static void fish_option(FILE *out, const struct vgpu_ctl_command *c, const struct vgpu_ctl_option *o)
{
    fprintf(out, "    complete -c $program -n '__vgpu_ctl_is %s' -l %s", c->name, o->name);
    if (o->type == VGPU_CTL_PATH) {
        fputs(" -r -F", out);
    } else if (o->type != VGPU_CTL_FLAG) {
        fputs(" -x", out);
    }
    if (o->type == VGPU_CTL_WORD) {
        fputs(" -a '", out);
        print_choices(out, o->choices);
        fputs("'", out);
    } else if (!strcmp(o->name, "pool")) {
        fputs(" -a '(__vgpu_ctl_pools)'", out);
    } else if (!strcmp(o->name, "vm-id")) {
        fputs(" -a '(__vgpu_ctl_vms)'", out);
    }
    fputs(" -d '", out);
    print_quoted(out, o->doc);
    fputs("'\n", out);
}

static void fish(FILE *out)
{
    fputs(fish_head, out);
    fputs("set -g __vgpu_ctl_takes_path", out);
    for (const struct everywhere *g = everywhere; g->name; g++)
        if (g->path)
            fprintf(out, " --%s", g->name);
    fputs("\nfor program in vgpu-ctl vgpu-admin\n    complete -c $program -f\n", out);
    for (const struct everywhere *g = everywhere; g->name; g++)
        fprintf(out, "    complete -c $program -l %s%s -d '%s'\n", g->name, g->path ? " -r -F" : "", g->doc);
    fputs("    complete -c $program -n '__vgpu_ctl_is \"\"' -a help -d 'List the commands, or show one.'\n", out);
    FOR_COMMANDS(c)
    {
        fprintf(out, "    complete -c $program -n '__vgpu_ctl_is \"\"; or __vgpu_ctl_is help' -a %s -d '", c->name);
        print_quoted(out, c->doc);
        fputs("'\n", out);
        if (c->words) {
            fprintf(out, "    complete -c $program -n '__vgpu_ctl_is %s' -a '", c->name);
            print_choices(out, c->words);
            fputs("'\n", out);
        }
        if (c->file)
            fprintf(out, "    complete -c $program -n '__vgpu_ctl_is %s' -F\n", c->name);
        FOR_OPTIONS(o, c)
        fish_option(out, c, o);
    }
    fputs("end\n", out);
}

int vgpu_ctl_completion(struct vgpu_ctl_local *local, int argc, char **argv)
{
    const char *shell = argv[1]; /* the parser saw that it is one of these */
    struct vgpu_err err;
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = local->line->json ? open_memstream(&text, &bytes) : local->out;

    (void)argc;
    if (!out) {
        vgpu_err_set(&err, errno, "out of memory");
        return vgpu_ctl_complain(local, &err, VGPU_CTL_REFUSED);
    }
    if (!strcmp(shell, "bash"))
        bash(out);
    else if (!strcmp(shell, "zsh"))
        zsh(out);
    else
        fish(out);
    if (out != local->out) {
        fclose(out);
        json_t *result = json_pack("{s:s,s:s}", "shell", shell, "script", text);
        vgpu_ctl_emit(local, result);
        json_decref(result);
        free(text);
    }
    return VGPU_CTL_OK;
}
