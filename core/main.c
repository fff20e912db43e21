/* SPDX-License-Identifier: Apache-2.0 */
/* vgpud: command line. See vgpud(8). */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/daemon.h"

#define DEFAULT_CONFIG VGPU_SYSCONFDIR "/vgpu/vgpud.yaml"

static const char usage[] =
    "vgpud: shares GPUs between virtual machines over rings in shared memory\n\n"
    "  vgpud [--config FILE] [--ready-fd N] [--verbose]   serve, in the foreground, until SIGTERM\n"
    "  vgpud --check-config FILE                          say what is wrong with a configuration\n"
    "  vgpud --print-config                               print the default configuration with every key explained\n"
    "  vgpud [--config FILE] --show-config                print what is in force, KEY=VALUE, defaults filled in\n"
    "  vgpud --version | --help\n\n"
    "Without --config, " DEFAULT_CONFIG " is read if it exists, else the defaults are used.\n";

static int load(struct vgpu_config *c, const char *path)
{
    if (!path && access(DEFAULT_CONFIG, F_OK) == 0)
        path = DEFAULT_CONFIG;
    if (!path) {
        vgpu_config_defaults(c);
        return 0;
    }
    return vgpu_config_load(c, path, stderr);
}

/* What the file cannot know: is it all in this build and on this machine? */
static int check(struct vgpu_config *c, const char *path)
{
    int faults = 0;

    if (vgpu_config_load(c, path, stderr))
        return 1;
    for (uint32_t i = 0; i < c->executor_count; i++) {
        const struct vgpu_executor_config *e = &c->executors[i];
        if (strcmp(e->backend, "auto") != 0 && !vgpu_backend_find(e->backend))
            faults += fprintf(stderr, "%s: executor %s: backend %s is not in this build; expected one of %s, or auto\n",
                              path, e->name, e->backend, vgpu_backend_names()) > 0;
        struct vgpu_err err;
        if (vgpud_programs_check(e, c->executor_path, &err))
            faults += fprintf(stderr, "%s: %s\n", path, err.text) > 0;
    }
    if (c->executor_path[0] && access(c->executor_path, X_OK))
        faults += fprintf(stderr, "%s: paths.executor: %s cannot be run: %s\n", path, c->executor_path,
                          strerror(errno)) > 0;
    if (faults == 0)
        printf("%s: good\n", path);
    return faults != 0;
}

static int serve(const char *config_path, int ready_fd)
{
    static struct vgpud d; /* large; zeroed */
    struct vgpu_err err = {0};

    if (load(&d.config, config_path))
        return 1;
    d.verbose = vgpu_log_level == VGPU_LOG_DEBUG;
    if (!d.verbose)
        vgpu_log_level = (int)d.config.log_level;
    if (vgpud_open(&d, &err)) {
        vgpu_log(VGPU_LOG_ERROR, "%s", err.text);
        return 1;
    }
    vgpud_run(&d, ready_fd);
    vgpud_close(&d);
    vgpu_log(VGPU_LOG_INFO, "stopped");
    return d.spawner_lost; /* systemd starts us again */
}

int main(int argc, char **argv)
{
    enum { CONFIG = 1, CHECK, PRINT, SHOW, READY_FD };
    static const struct option longs[] = {{"config", 1, 0, CONFIG},     {"check-config", 1, 0, CHECK},
                                          {"print-config", 0, 0, PRINT}, {"show-config", 0, 0, SHOW},
                                          {"ready-fd", 1, 0, READY_FD},
                                          {"verbose", 0, 0, 'v'},        {"version", 0, 0, 'V'},
                                          {"help", 0, 0, 'h'},           {0}};
    static struct vgpu_config config;
    const char *config_path = NULL;
    int ready_fd = -1, c;
    bool show = false;

    vgpu_log_name = "vgpud";
    while ((c = getopt_long(argc, argv, "hVv", longs, NULL)) != -1) {
        switch (c) {
        case CONFIG:
            config_path = optarg;
            break;
        case CHECK:
            return check(&config, optarg);
        case PRINT:
            vgpu_config_reference(stdout);
            return 0;
        case SHOW:
            show = true;
            break;
        case READY_FD:
            ready_fd = atoi(optarg);
            break;
        case 'v':
            vgpu_log_level = VGPU_LOG_DEBUG;
            break;
        case 'V':
            printf("vgpud %s (ABI %u.%u)\n", VGPU_VERSION, VGPU_ABI_MAJOR, VGPU_ABI_MINOR);
            return 0;
        case 'h':
            fputs(usage, stdout);
            return 0;
        default:
            fputs(usage, stderr);
            return 2;
        }
    }
    if (optind < argc) {
        fprintf(stderr, "vgpud: unexpected argument '%s'\n%s", argv[optind], usage);
        return 2;
    }
    if (show) {
        if (load(&config, config_path))
            return 1;
        vgpu_config_show(&config, stdout);
        return 0;
    }
    return serve(config_path, ready_fd);
}
