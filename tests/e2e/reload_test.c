/* SPDX-License-Identifier: Apache-2.0 */
/* The configuration read again by a running daemon, and what systemd is told. */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "harness.h"

/* ---- the file ---- */

static char *file_read(const struct e2e_host *h)
{
    FILE *f = fopen(h->config, "re");
    char *text = calloc(1, 16384);

    e2e_check(f && text && fread(text, 1, 16383, f) > 0, "%s: %s", h->config, strerror(errno));
    fclose(f);
    return text;
}

static void file_write(const struct e2e_host *h, const char *text)
{
    FILE *f = fopen(h->config, "we");

    e2e_check(f && fputs(text, f) >= 0 && fclose(f) == 0, "%s: %s", h->config, strerror(errno));
}

/* Replaces the first `from`; the text must be there. */
static char *edited(const char *text, const char *from, const char *to)
{
    const char *at = strstr(text, from);
    char *out = calloc(1, strlen(text) + strlen(to) + 1);

    e2e_check(at && out, "the configuration has no \"%s\": %s", from, text);
    sprintf(out, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
    return out;
}

/* ---- what it did ---- */

static json_t *pool(const struct e2e_host *h, const char *name)
{
    const char *const args[] = {"list-pools", NULL};
    json_t *answer, *one, *found = NULL;
    char error[512];
    size_t i;

    e2e_check(e2e_ctl(h, &answer, error, sizeof(error), args) == 0, "list-pools: %s", error);
    json_array_foreach(json_object_get(answer, "pools"), i, one)
        if (!strcmp(json_string_value(json_object_get(one, "name")), name))
            found = json_incref(one);
    json_decref(answer);
    return found;
}

static int capacity(const struct e2e_host *h, const char *name)
{
    json_t *p = pool(h, name);
    int n = (int)json_integer_value(json_object_get(p, "capacity"));

    json_decref(p);
    return n;
}

static bool served(const struct e2e_host *h, const char *name)
{
    json_t *p = pool(h, name);
    const char *state = p ? json_string_value(json_object_get(p, "state")) : NULL;
    bool up = state && !strcmp(state, "up");

    json_decref(p);
    return up;
}

static unsigned limit(struct vgpu *v)
{
    struct vgpu_properties p;

    e2e_check(vgpu_properties_get(v, &p) == 0, "%s", vgpu_strerror(v));
    return p.max_in_flight;
}

static void reload_under_load(void)
{
    struct e2e_host h;
    struct e2e_flow f = {.work = E2E_VERIFIED, .total = UINT64_MAX, .check_order = true, .rng = 1};
    bool stop = false;

    e2e_host_start(&h, &(struct e2e_options){.debug = true, .in_flight = 256});
    e2e_register(&h, 1, 3, "A", "medium", NULL);
    char *old = file_read(&h);
    f.v = e2e_open(&h, 1, NULL);
    f.stop = &stop;
    while (f.completed < 1000)
        e2e_flow_step(&f);
    int was = capacity(&h, "A");
    e2e_check(limit(f.v) == 256, "%u", limit(f.v));

    /* All at once: a limit of a VM that runs, a pool's size and budget, poll cores, executors, and a pool that is new. */
    char *new = edited(old, "  in_flight: 256", "  in_flight: 100");
    char *more = edited(new, "  burst: 32", "  burst: 7");
    char *most = edited(more, "pools:\n", "executor_idle: {spin_us: 5}\npools:\n"
                                          "  - {name: extra, executor: exec-A, capacity: 3, budget: {low: 2}}\n");
    file_write(&h, most);
    e2e_check(kill(h.pid, SIGHUP) == 0, "kill");
    e2e_eventually((e2e_flow_step(&f), limit(f.v) == 100), "the VM's limit is %u", limit(f.v));
    e2e_check(served(&h, "extra") && capacity(&h, "extra") == 3, "the new pool is not served");
    e2e_register(&h, 11, 11, "extra", "low", NULL);
    struct vgpu *v = e2e_open(&h, 11, NULL);
    for (int i = 0; i < 100; i++) {
        e2e_flow_step(&f);
        e2e_check(vgpu_nop(v) == 0, "%s", vgpu_strerror(v));
    }
    vgpu_close(v);

    /* One part cannot be: then nothing is. */
    char *small = edited(most, "  in_flight: 100", "  in_flight: 50");
    char *wrong = edited(small, "capacity: 3", "capacity: 3, capacty: 4");
    file_write(&h, wrong);
    e2e_check(kill(h.pid, SIGHUP) == 0, "kill");
    for (int i = 0; i < 100; i++) {
        e2e_flow_step(&f);
        e2e_sleep_ms(1);
    }
    e2e_check(limit(f.v) == 100, "a faulty file changed the limit to %u", limit(f.v));
    e2e_check(capacity(&h, "A") == was, "or the capacity");
    e2e_register(&h, 12, 13, "extra", "low", NULL);
    char *narrow = edited(small, "capacity: 3", "capacity: 2"); /* three are registered */
    file_write(&h, narrow);
    e2e_check(kill(h.pid, SIGHUP) == 0, "kill");
    for (int i = 0; i < 100; i++) {
        e2e_flow_step(&f);
        e2e_sleep_ms(1);
    }
    e2e_check(limit(f.v) == 100 && capacity(&h, "extra") == 3, "half of a file was applied");

    /* What is in the file at the next start is what is then. */
    stop = true;
    e2e_flow_run(&f);
    e2e_check(f.lost_locally == 0 && f.status[VGPU_OK] == f.completed, "not all were done");
    e2e_flow_free(&f);
    vgpu_close(f.v);
    file_write(&h, small);
    e2e_host_stop(&h);
    e2e_host_restart(&h);
    e2e_check(served(&h, "extra"), "the new pool is gone after a restart");
    v = e2e_open(&h, 11, NULL);
    e2e_check(limit(v) == 50 && vgpu_nop(v) == 0, "%u, %s", limit(v), vgpu_strerror(v));
    vgpu_close(v);
    e2e_host_stop(&h);
    free(old), free(new), free(more), free(most), free(small), free(wrong), free(narrow);
}

/* ---- systemd ---- */

/* Waits for a message that begins so; others in between are counted where they begin with `also`. */
static unsigned told(int fd, const char *begin, const char *also)
{
    unsigned others = 0;
    char text[256];

    for (uint64_t until = e2e_now_ms() + E2E_WAIT_MS;;) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        e2e_check(e2e_now_ms() < until, "systemd is not told %s", begin);
        if (poll(&p, 1, 100) != 1)
            continue;
        ssize_t n = recv(fd, text, sizeof(text) - 1, 0);
        text[n > 0 ? n : 0] = 0;
        if (!strncmp(text, begin, strlen(begin)))
            return others;
        others += also && !strncmp(text, also, strlen(also));
    }
}

static void notify_and_watchdog(void)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    struct e2e_host h;

    if (!getenv("VGPU_E2E_SYSTEMD"))
        e2e_skip("built without libsystemd");
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    snprintf(at.sun_path, sizeof(at.sun_path), "/tmp/vgpu-notify-%d", (int)getpid());
    e2e_check(fd >= 0 && bind(fd, (struct sockaddr *)&at, sizeof(at)) == 0, "bind: %s", strerror(errno));
    setenv("NOTIFY_SOCKET", at.sun_path, 1);
    setenv("WATCHDOG_USEC", "150000", 1);
    e2e_host_start(&h, NULL);
    unsetenv("NOTIFY_SOCKET");
    unsetenv("WATCHDOG_USEC");
    told(fd, "READY=1", NULL);
    /* An idle daemon pets it too, three times in its period. */
    uint64_t from = e2e_now_ms();
    for (int i = 0; i < 6; i++)
        told(fd, "WATCHDOG=1", NULL);
    e2e_check(e2e_now_ms() - from < 3000, "six of them took %llu ms", (unsigned long long)(e2e_now_ms() - from));
    e2e_check(kill(h.pid, SIGHUP) == 0, "kill");
    told(fd, "RELOADING=1\nMONOTONIC_USEC=", NULL);
    told(fd, "READY=1", NULL);
    /* A control loop that stands still does not. */
    e2e_check(kill(h.pid, SIGSTOP) == 0, "kill");
    e2e_sleep_ms(200);
    char junk[256];
    while (recv(fd, junk, sizeof(junk), MSG_DONTWAIT) > 0)
        ;
    e2e_sleep_ms(300);
    e2e_check(recv(fd, junk, sizeof(junk), MSG_DONTWAIT) < 0, "a daemon that stands still says %s", junk);
    e2e_check(kill(h.pid, SIGCONT) == 0, "kill");
    told(fd, "WATCHDOG=1", NULL);
    e2e_check(kill(h.pid, SIGTERM) == 0, "kill");
    told(fd, "STOPPING=1", NULL);
    unlink(at.sun_path);
    close(fd);
    e2e_host_stop(&h);
}

static const struct e2e_test tests[] = {
    {"reload_under_load", reload_under_load, 60},
    {"notify_and_watchdog", notify_and_watchdog, 60},
};
E2E_MAIN(tests)
