/* SPDX-License-Identifier: Apache-2.0 */
#include "core/probe.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/clock.h"

#define SOON_NS UINT64_C(20000000000) /* a loaded machine; what is measured is shorter */

static char dir[] = "/tmp/vgpu-probe-XXXXXX";
static char script[64];
static struct vgpu_err err;
static char what[128];

static void setup(void)
{
    cr_assert_not_null(mkdtemp(dir));
    snprintf(script, sizeof(script), "%s/exec", dir);
    vgpu_clock_init();
    memset(&err, 0, sizeof(err));
    what[0] = 0;
}

static void teardown(void)
{
    char command[96];

    snprintf(command, sizeof(command), "rm -rf %s", dir);
    cr_assert_eq(system(command), 0);
}

TestSuite(probe, .init = setup, .fini = teardown);

/* The executor is this shell script. */
static void executor(const char *body)
{
    FILE *f = fopen(script, "w");

    cr_assert_not_null(f);
    fprintf(f, "#!/bin/sh\n%s\n", body);
    fclose(f);
    cr_assert_eq(chmod(script, 0755), 0);
}

static int probe(const char *body, uint64_t timeout_ns)
{
    executor(body);
    return vgpu_backend_probe(script, "cuda", "device=1", NULL, timeout_ns, what, sizeof(what), &err);
}

Test(probe, its_last_line_counts)
{
    cr_assert_eq(probe("echo noise; echo \"$1 $2 of $#\"", SOON_NS), 0, "%s", err.text);
    cr_assert_str_eq(what, "--probe=cuda --options=device=1 of 2");
    cr_assert_eq(probe("printf 'no newline'", SOON_NS), 0);
    cr_assert_str_eq(what, "no newline");
    cr_assert_eq(probe("printf 'ctrl\\033[2J \\377\\n\\n\\n'", SOON_NS), 0);
    cr_assert_str_eq(what, "ctrl?[2J ?");
    cr_assert_eq(probe(":", SOON_NS), 0);
    cr_assert_str_eq(what, "");
    cr_assert_eq(probe("echo to the log >&2; echo good", SOON_NS), 0);
    cr_assert_str_eq(what, "good");
    cr_assert_eq(probe("i=0; while [ $i -lt 20000 ]; do echo \"line $i of very many lines\"; i=$((i+1)); done",
                       SOON_NS), 0);
    cr_assert_str_eq(what, "line 19999 of very many lines");
}

Test(probe, a_no_is_a_no)
{
    cr_assert_eq(probe("echo the driver is too old; exit 1", SOON_NS), -ENODEV);
    cr_assert_str_eq(err.text, "the driver is too old");
    cr_assert_eq(probe("exit 2", SOON_NS), -ENODEV);
    cr_assert(strstr(err.text, "--probe=cuda exited with status 2"), "%s", err.text);
    cr_assert_eq(probe("kill -KILL $$", SOON_NS), -ENODEV);
    cr_assert(strstr(err.text, "ended with signal 9"), "%s", err.text);
    cr_assert_eq(vgpu_backend_probe("/no/such/program", "cuda", "", NULL, SOON_NS, what, sizeof(what), &err), -ENOENT);
    cr_assert(strstr(err.text, "/no/such/program"), "%s", err.text);
    cr_assert_str_eq(what, "");
}

Test(probe, it_does_not_wait_for_ever)
{
    char command[128], pid_text[32] = "";
    uint64_t start = vgpu_now_ns();

    cr_assert_eq(probe("echo $$ > $0.pid; echo here it comes; exec sleep 600", 300000000), -ETIMEDOUT);
    uint64_t took = vgpu_now_ns() - start;
    cr_assert(took >= 300000000 && took < SOON_NS, "%llu ns", (unsigned long long)took);
    cr_assert(strstr(err.text, "a driver that hangs"), "%s", err.text);
    snprintf(command, sizeof(command), "%s.pid", script);
    FILE *f = fopen(command, "r");
    cr_assert(f && fgets(pid_text, sizeof(pid_text), f));
    fclose(f);
    cr_assert(kill(atoi(pid_text), 0) == -1 && errno == ESRCH, "the probe %s runs on", pid_text);
    /* Someone else keeps its output open: that holds up nobody. */
    start = vgpu_now_ns();
    cr_assert_eq(probe("sleep 5 & echo done", SOON_NS), 0, "%s", err.text);
    cr_assert_str_eq(what, "done");
    cr_assert(vgpu_now_ns() - start < 4000000000u);
}

static int choose(const char *backend, const char *body, struct vgpu_backend_choice *out)
{
    struct vgpu_executor_config config = {.name = "exec-X", .options = "device=1"};

    snprintf(config.backend, sizeof(config.backend), "%s", backend);
    executor(body);
    return vgpu_backend_choose(&config, script, NULL, SOON_NS, out, &err);
}

/* With a sandbox in which only these layers may be left out. */
static int choose_inside(const char *body, uint32_t required, struct vgpu_backend_choice *out)
{
    struct vgpu_executor_config config = {.name = "exec-X", .backend = "cuda", .options = "device=1"};
    struct vgpu_sandbox_policy p;

    vgpu_sandbox_defaults(&p);
    for (uint32_t i = 0; i < VGPU_SANDBOX_LAYERS; i++)
        if (required >> i & 1)
            p.want[i] = VGPU_SANDBOX_REQUIRED;
    executor(body);
    memset(out, 0, sizeof(*out));
    return vgpu_backend_choose(&config, script, &p, SOON_NS, out, &err);
}

Test(probe, the_layer_that_is_in_the_way_is_left_out)
{
    struct vgpu_backend_choice c;

    cr_assert_eq(choose_inside("echo \"${3%%=*}\"", 0, &c), 0, "%s", err.text);
    cr_assert(c.without == 0 && !strcmp(c.device, "--sandbox"), "%s", c.device);
    cr_assert_eq(choose_inside("case $3 in *network=auto*) echo no network; exit 1;; esac; echo a GPU", 0, &c), 0, "%s",
                 err.text);
    cr_assert(c.without == 1u << VGPU_SANDBOX_NETWORK && !strcmp(c.device, "a GPU") && strstr(c.without_text, "no network"));
    /* Two at once: files and their user. */
    cr_assert_eq(choose_inside("case $3 in *mounts=auto*|*user=auto*) echo no file; exit 1;; esac; echo a GPU", 0, &c), 0);
    cr_assert_eq(c.without, 1u << VGPU_SANDBOX_MOUNTS | 1u << VGPU_SANDBOX_USER);
    /* What is required stays, and a GPU that is not there is not the sandbox's doing. */
    cr_assert_eq(choose_inside("case $3 in *seccomp=required*) echo no call; exit 1;; esac; echo a GPU",
                               1u << VGPU_SANDBOX_SECCOMP, &c), -ENODEV);
    cr_assert(strstr(err.text, "no call") && c.without == 0, "%s", err.text);
    cr_assert_eq(choose_inside("echo no GPU; exit 1", 0, &c), -ENODEV);
    cr_assert(strstr(err.text, "no GPU") && c.without == 0, "%s", err.text);
}

Test(probe, what_is_chosen)
{
    static const char *const plain[] = {"cpu", "null", "fault:cpu"};
    struct vgpu_backend_choice c;

    for (int i = 0; i < 3; i++) {
        cr_assert_eq(choose(plain[i], "exit 1", &c), 0, "%s is asked for", plain[i]);
        cr_assert(!strcmp(c.backend, plain[i]) && !strcmp(c.options, "device=1") && !c.device[0] && !c.fallback[0]);
    }
    static const char *const gpu[] = {"cuda", "auto"};
    for (int i = 0; i < 2; i++) {
        cr_assert_eq(choose(gpu[i], "echo a GPU", &c), 0, "%s", err.text);
        cr_assert(!strcmp(c.backend, "cuda") && !strcmp(c.options, "device=1") && !strcmp(c.device, "a GPU") &&
                  !c.fallback[0]);
    }
    cr_assert_eq(choose("auto", "echo no driver; exit 1", &c), 0, "%s", err.text);
    cr_assert(!strcmp(c.backend, "cpu") && !c.options[0] && !c.device[0], "%s %s %s", c.backend, c.options, c.device);
    cr_assert_str_eq(c.fallback, "cuda does not work here: no driver");
    cr_assert_eq(choose("cuda", "echo no driver; exit 1", &c), -ENODEV);
    cr_assert_str_eq(err.text, "executor exec-X: backend cuda does not work here: no driver; install the NVIDIA driver, "
                               "or set executors.backend to auto or cpu");
    cr_assert_eq(choose("auto", "echo 'backend cuda: no driver'; exit 1", &c), 0);
    cr_assert_str_eq(c.fallback, "cuda does not work here: no driver");
    for (int i = 0; i < 2; i++) { /* not a matter of what there is here: no fallback hides it */
        cr_assert_eq(choose(gpu[i], "echo 'backend cuda: no option \"devcie\"'; exit 2", &c), -EINVAL);
        cr_assert_str_eq(err.text, "executor exec-X: backend cuda: no option \"devcie\"; correct executors.options");
    }
}
