/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vgpu-lab-agent: commands that dom0 gives to domains, through xenstore. To start a program is what costs most in an
 * emulated machine (a PV kernel asks the hypervisor for each page table), so one program does on either side what a shell
 * would start a dozen for.
 *
 *   in a domain: serve               runs what dom0 writes to its node lab/command, one after the other, in a shell; says
 *                                    "NUMBER STATUS LAST-LINE" in data/reply. For ever.
 *   in dom0:     id NAME             the number of the domain of that name
 *                start NAME COMMAND  has it run there
 *                wait NAME SECONDS   waits for the answer to the last: prints STATUS LAST-LINE
 *                run NAME SECONDS COMMAND     both
 *                await SECONDS PATH...        until all these nodes of xenstore are there
 *
 * Exit 0; 124: no answer in time; 3: no such domain; 2: wrong arguments, or no xenstore.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <xenstore.h>

#define REPLY_MAX 400
#define OUT "/tmp/out"
#define LOOK_MS 1000 /* also without a word from a watch: a domain's number may have changed */

static struct xs_handle *xs;

static uint64_t now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* Until a watch fires, or for that long. All that have fired are taken in. */
static void watch_wait(int ms)
{
    struct pollfd p = {.fd = xs_fileno(xs), .events = POLLIN};
    char **fired;

    if (poll(&p, 1, ms) <= 0)
        return;
    while ((fired = xs_check_watch(xs)))
        free(fired);
}

/* ---- in a domain ---- */

/* The last line of what the command said, fit for a node: no line ends, none too long. */
static void last_line(char line[REPLY_MAX])
{
    char text[4096];
    int fd = open(OUT, O_RDONLY | O_CLOEXEC);
    off_t bytes = fd < 0 ? 0 : lseek(fd, 0, SEEK_END), from = bytes > 4000 ? bytes - 4000 : 0;
    ssize_t n = fd < 0 ? 0 : pread(fd, text, sizeof(text) - 1, from);

    if (fd >= 0)
        close(fd);
    n = n < 0 ? 0 : n;
    while (n > 0 && text[n - 1] == '\n')
        n--;
    text[n] = '\0';
    char *start = strrchr(text, '\n');
    snprintf(line, REPLY_MAX, "%s", start ? start + 1 : text);
    for (char *c = line; *c; c++)
        if ((unsigned char)*c < ' ')
            *c = ' ';
}

static int command_run(const char *command)
{
    int status;
    pid_t child = fork();

    if (child == 0) {
        int in = open("/dev/null", O_RDONLY), out = open(OUT, O_WRONLY | O_CREAT | O_TRUNC, 0644);
        if (in < 0 || out < 0 || dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(out, 2) < 0)
            _exit(126);
        close(in);
        close(out);
        execl("/bin/sh", "sh", "-c", command, (char *)NULL);
        _exit(127);
    }
    if (child < 0)
        return 126;
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR)
            return 126;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void console_show(void)
{
    char text[4096];
    ssize_t n;
    int fd = open(OUT, O_RDONLY | O_CLOEXEC);

    while (fd >= 0 && (n = read(fd, text, sizeof(text))) > 0)
        fwrite(text, 1, (size_t)n, stdout);
    if (fd >= 0)
        close(fd);
    fflush(stdout);
}

/* A path relative to the domain's own, which changes when it is restored. */
static int serve(void)
{
    unsigned long last = 0;

    if (!xs_watch(xs, "lab/command", "command") || !xs_write(xs, XBT_NULL, "data/ready", "1", 1))
        return 2;
    for (;;) {
        char line[REPLY_MAX], reply[REPLY_MAX + 32], *end;
        unsigned bytes;
        watch_wait(LOOK_MS);
        char *command = xs_read(xs, XBT_NULL, "lab/command", &bytes);
        unsigned long number = command ? strtoul(command, &end, 10) : 0;
        if (!command || number == last || *end != ' ') {
            free(command);
            continue;
        }
        last = number;
        printf("lab: %s\n", end + 1);
        fflush(stdout);
        int status = command_run(end + 1);
        free(command);
        console_show();
        last_line(line);
        int n = snprintf(reply, sizeof(reply), "%lu %d %s", number, status, line);
        if (!xs_write(xs, XBT_NULL, "data/reply", reply, (unsigned)n))
            printf("lab: the answer cannot be written: %s\n", strerror(errno));
    }
}

/* ---- in dom0 ---- */

/* The domain's path; false: there is none of that name. */
static bool domain_path(const char *name, char path[64])
{
    unsigned n = 0, bytes;
    bool found = false;
    char **ids = xs_directory(xs, XBT_NULL, "/local/domain", &n);

    for (unsigned i = 0; ids && i < n && !found; i++) {
        snprintf(path, 64, "/local/domain/%.20s/name", ids[i]);
        char *value = xs_read(xs, XBT_NULL, path, &bytes);
        found = value && strcmp(value, name) == 0;
        free(value);
        snprintf(path, 64, "/local/domain/%.20s", ids[i]);
    }
    free(ids);
    return found;
}

/* How many commands that domain was given, in a file: shells and their subshells count as one. */
static unsigned long counted(const char *name, bool another)
{
    char path[128];
    unsigned long n = 0;

    snprintf(path, sizeof(path), "/tmp/started.%s", name);
    FILE *f = fopen(path, "r");
    if (f && fscanf(f, "%lu", &n) != 1)
        n = 0;
    if (f)
        fclose(f);
    if (another && (f = fopen(path, "w"))) {
        fprintf(f, "%lu\n", ++n);
        fclose(f);
    }
    return n;
}

static int start(const char *name, const char *command)
{
    char path[64], node[96], text[4096];

    if (!domain_path(name, path))
        return 3;
    int n = snprintf(text, sizeof(text), "%lu %s", counted(name, true), command);
    snprintf(node, sizeof(node), "%s/lab/command", path);
    return n < (int)sizeof(text) && xs_write(xs, XBT_NULL, node, text, (unsigned)n) ? 0 : 2;
}

static int wait_for(const char *name, uint64_t seconds)
{
    uint64_t until = now_ms() + seconds * 1000;
    unsigned long number = counted(name, false);
    char path[64], node[96], watched[96] = "";

    for (;; watch_wait(LOOK_MS)) {
        if (domain_path(name, path)) {
            char *rest = NULL;
            unsigned bytes;
            snprintf(node, sizeof(node), "%s/data/reply", path);
            if (strcmp(node, watched) && xs_watch(xs, node, "reply"))
                snprintf(watched, sizeof(watched), "%s", node);
            char *reply = xs_read(xs, XBT_NULL, node, &bytes);
            bool answered = reply && strtoul(reply, &rest, 10) == number && *rest == ' ';
            if (answered)
                printf("%s\n", rest + 1);
            free(reply);
            if (answered)
                return 0;
        }
        if (now_ms() >= until)
            return 124;
    }
}

static int await(uint64_t seconds, char **paths, int n)
{
    uint64_t until = now_ms() + seconds * 1000;

    for (int i = 0; i < n; i++)
        if (!xs_watch(xs, paths[i], paths[i]))
            return 2;
    for (int i = 0; i < n;) {
        unsigned bytes;
        char *value = xs_read(xs, XBT_NULL, paths[i], &bytes);
        free(value);
        if (value)
            i++;
        else if (now_ms() >= until)
            return 124;
        else
            watch_wait(LOOK_MS);
    }
    return 0;
}

int main(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "";
    char path[64];

    xs = xs_open(0);
    if (!xs) {
        fprintf(stderr, "xenstore: %s\n", strerror(errno));
        return 2;
    }
    if (strcmp(mode, "serve") == 0)
        return serve();
    if (strcmp(mode, "id") == 0 && argc == 3) {
        if (!domain_path(argv[2], path))
            return 3;
        printf("%s\n", strrchr(path, '/') + 1);
        return 0;
    }
    if (strcmp(mode, "start") == 0 && argc == 4)
        return start(argv[2], argv[3]);
    if (strcmp(mode, "wait") == 0 && argc == 4)
        return wait_for(argv[2], strtoull(argv[3], NULL, 10));
    if (strcmp(mode, "run") == 0 && argc == 5) {
        int rc = start(argv[2], argv[4]);
        return rc ? rc : wait_for(argv[2], strtoull(argv[3], NULL, 10));
    }
    if (strcmp(mode, "await") == 0 && argc > 3)
        return await(strtoull(argv[2], NULL, 10), argv + 3, argc - 3);
    return 2;
}
