/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Completion scripts for bash, zsh and fish, printed from the table of commands: what is completed is what there is.
 * The build installs their output. Ids and pools come from the daemon where one answers.
 */
#include "ctl/local.h"

#include <string.h>

#define FOR_COMMANDS(c)                                                                                                \
    for (const struct vgpu_ctl_command *c = vgpu_ctl_commands; c < vgpu_ctl_commands + vgpu_ctl_command_count; c++)
#define FOR_OPTIONS(o, c) for (const struct vgpu_ctl_option *o = (c)->options; o->name; o++)

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
                                "        --socket|--db) ((i++)); [[ ${COMP_WORDS[i]} == '=' ]] && ((i++)) ;;\n"
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
    "    COMPREPLY=($(compgen -W \"$options --json --socket= --db= --help\" -- \"$cur\"))\n"
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

static void zsh(FILE *out)
{
    fputs("#compdef vgpu-ctl vgpu-admin\n"
          "# zsh completion of vgpu-ctl; printed by: vgpu-ctl completion zsh\n"
          "_vgpu_ctl() {\n"
          "    local -a commands\n"
          "    local command=''\n"
          "    local word\n"
          "    commands=(\n        'help:List the commands, or show one.'\n",
          out);
    FOR_COMMANDS(c)
    {
        fprintf(out, "        '%s:", c->name);
        print_quoted(out, c->doc);
        fputs("'\n", out);
    }
    fputs("    )\n"
          "    for word in ${words[2,CURRENT-1]}; do\n"
          "        if [[ -n ${commands[(r)$word:*]} && $word != help ]]; then command=$word; break; fi\n"
          "    done\n"
          "    case $command in\n",
          out);
    FOR_COMMANDS(c)
    {
        fprintf(out,
                "    %s)\n        _arguments '--json[one line of JSON]' '--socket=[control socket]:socket:_files' "
                "'--db=[store]:store:_files' "
                "'*:: :->rest'",
                c->name);
        FOR_OPTIONS(o, c)
        {
            fprintf(out, " \\\n            '--%s%s[", o->name, o->type == VGPU_CTL_FLAG ? "" : "=");
            for (const char *p = o->doc; *p; p++) /* brackets and colons have a meaning there */
                fputs(*p == ':' ? "\\:" : *p == '[' || *p == ']' ? "" : *p == '\'' ? "'\\''" : (char[2]){*p, 0}, out);
            fputs("]", out);
            if (o->type == VGPU_CTL_WORD) {
                fprintf(out, ":%s:(", o->name);
                print_choices(out, o->choices);
                fputs(")", out);
            } else if (o->type == VGPU_CTL_PATH) {
                fprintf(out, ":%s:_files", o->name);
            } else if (o->type != VGPU_CTL_FLAG) {
                fprintf(out, ":%s:", o->name);
            }
            fputs("'", out);
        }
        if (c->words) {
            fputs("\n        compadd ", out);
            print_choices(out, c->words);
        }
        fputs(" ;;\n", out);
    }
    fputs("    *) _describe command commands ;;\n    esac\n}\n_vgpu_ctl \"$@\"\n", out);
}

static void fish(FILE *out)
{
    fputs("# fish completion of vgpu-ctl; printed by: vgpu-ctl completion fish\n"
          "for program in vgpu-ctl vgpu-admin\n"
          "    complete -c $program -f\n"
          "    complete -c $program -l json -d 'one line of JSON'\n"
          "    complete -c $program -l socket -r -F -d 'control socket'\n"
          "    complete -c $program -l db -r -F -d 'store'\n"
          "    complete -c $program -n __fish_use_subcommand -a help -d 'List the commands, or show one.'\n",
          out);
    FOR_COMMANDS(c)
    {
        fprintf(out, "    complete -c $program -n __fish_use_subcommand -a %s -d '", c->name);
        print_quoted(out, c->doc);
        fputs("'\n", out);
        if (c->words) {
            fprintf(out, "    complete -c $program -n '__fish_seen_subcommand_from %s' -a '", c->name);
            print_choices(out, c->words);
            fputs("'\n", out);
        }
        FOR_OPTIONS(o, c)
        {
            fprintf(out, "    complete -c $program -n '__fish_seen_subcommand_from %s' -l %s%s", c->name, o->name,
                    o->type == VGPU_CTL_FLAG ? "" : " -r");
            if (o->type == VGPU_CTL_WORD) {
                fputs(" -a '", out);
                print_choices(out, o->choices);
                fputs("'", out);
            } else if (o->type == VGPU_CTL_PATH) {
                fputs(" -F", out);
            }
            fputs(" -d '", out);
            print_quoted(out, o->doc);
            fputs("'\n", out);
        }
    }
    fputs("end\n", out);
}

int vgpu_ctl_completion(struct vgpu_ctl_local *local, int argc, char **argv)
{
    const char *shell = argv[1]; /* the parser saw that it is one of these */

    (void)argc;
    if (!strcmp(shell, "bash"))
        bash(local->out);
    else if (!strcmp(shell, "zsh"))
        zsh(local->out);
    else
        fish(local->out);
    return VGPU_CTL_OK;
}
