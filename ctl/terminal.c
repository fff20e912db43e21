/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/terminal.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t ending, resized;
static const int ends[] = {SIGINT, SIGTERM, SIGHUP};
static struct sigaction before_ends[sizeof(ends) / sizeof(ends[0])], before_winch, before_cont;

static void on_end(int sig)
{
    (void)sig;
    ending = 1;
}

static void on_resize(int sig)
{
    (void)sig;
    resized = 1;
}

/* Screen and keyboard for drawing; also after SIGCONT, when a shell had them in between. */
static void enter(struct vgpu_ctl_terminal *t)
{
    struct termios raw = t->before;

    raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
    raw.c_cc[VMIN] = 0;
    raw.c_cc[VTIME] = 0;
    tcsetattr(STDIN_FILENO, TCSADRAIN, &raw);
    fputs("\033[?1049h\033[?25l", t->out); /* alternate screen, no cursor */
}

void vgpu_ctl_terminal_open(struct vgpu_ctl_terminal *t, FILE *out, bool want_live)
{
    struct sigaction end = {.sa_handler = on_end}, resize = {.sa_handler = on_resize};

    const char *term = getenv("TERM");

    *t = (struct vgpu_ctl_terminal){.out = out};
    bool can_draw = term && term[0] && strcmp(term, "dumb") != 0;
    t->live = want_live && can_draw && isatty(fileno(out)) == 1 && isatty(STDIN_FILENO) == 1 &&
              tcgetattr(STDIN_FILENO, &t->before) == 0;
    sigset_t held;

    ending = resized = 0;
    sigemptyset(&held);
    for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++) {
        sigaction(ends[i], &end, &before_ends[i]);
        sigaddset(&held, ends[i]);
    }
    sigprocmask(SIG_BLOCK, &held, &t->mask);
    sigaction(SIGWINCH, &resize, &before_winch);
    sigaction(SIGCONT, &resize, &before_cont);
    if (t->live)
        enter(t);
}

void vgpu_ctl_terminal_close(struct vgpu_ctl_terminal *t)
{
    if (t->live) {
        fputs("\033[?25h\033[?1049l", t->out);
        fflush(t->out);
        tcsetattr(STDIN_FILENO, TCSADRAIN, &t->before);
    }
    for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++)
        sigaction(ends[i], &before_ends[i], NULL);
    sigaction(SIGWINCH, &before_winch, NULL);
    sigaction(SIGCONT, &before_cont, NULL);
    sigprocmask(SIG_SETMASK, &t->mask, NULL);
}

static unsigned from_environment(const char *name, unsigned otherwise)
{
    const char *text = getenv(name);
    unsigned long n = text ? strtoul(text, NULL, 10) : 0;

    return n >= 1 && n <= 10000 ? (unsigned)n : otherwise;
}

void vgpu_ctl_terminal_size(const struct vgpu_ctl_terminal *t, unsigned *rows, unsigned *columns)
{
    struct winsize size = {0};

    *rows = *columns = 0;
    if (!t->live)
        return;
    /* A serial console knows no size: then what the shell says, or the least that there is. */
    bool told = ioctl(fileno(t->out), TIOCGWINSZ, &size) == 0;
    *rows = told && size.ws_row ? size.ws_row : from_environment("LINES", 24);
    *columns = told && size.ws_col ? size.ws_col : from_environment("COLUMNS", 80);
}

/* A line cut to so many columns; sequences that only color take none. */
static void put_line(FILE *out, const char *line, size_t n, unsigned columns)
{
    unsigned at = 0;

    for (size_t i = 0; i < n; i++) {
        if (line[i] == '\033') {
            while (i < n && line[i] != 'm')
                fputc(line[i++], out);
            if (i < n)
                fputc('m', out);
            continue;
        }
        if (((unsigned char)line[i] & 0xc0) != 0x80 && at++ >= columns)
            break;
        fputc(line[i], out);
    }
    fputs("\033[0m\033[K", out);
}

/* Lines, the last one with or without its end. */
static unsigned lines_of(const char *text)
{
    unsigned n = 0;

    for (; *text; text += strcspn(text, "\n"), text += *text == '\n')
        n++;
    return n;
}

static const char *last_line(const char *text)
{
    const char *last = text;

    for (; *text; text += strcspn(text, "\n"), text += *text == '\n')
        last = text;
    return last;
}

void vgpu_ctl_terminal_draw(struct vgpu_ctl_terminal *t, const char *text)
{
    unsigned rows, columns, row = 0;

    if (!t->live) {
        fputs(text, t->out);
        fflush(t->out);
        return;
    }
    vgpu_ctl_terminal_size(t, &rows, &columns);
    fputs("\033[H", t->out);
    bool cut = lines_of(text) > rows;
    for (; *text && row < rows; row++) {
        if (cut && rows > 3 && row == rows - 1)
            text = last_line(text); /* what the keys do */
        size_t n = strcspn(text, "\n");
        if (row)
            fputc('\n', t->out);
        put_line(t->out, text, n, columns);
        text += n + (text[n] == '\n');
    }
    fputs("\033[J", t->out); /* what the last screen had below */
    fflush(t->out);
}

static uint64_t now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

int vgpu_ctl_terminal_wait(struct vgpu_ctl_terminal *t, uint64_t interval_ms)
{
    uint64_t until = now_ms() + interval_ms, now = 0;

    while (!ending && !resized && !ferror(t->out) && (now = now_ms()) < until) {
        /* The write end is looked at as well: a reader that went away ends us although nothing changes. */
        struct pollfd fds[] = {{.fd = fileno(t->out), .events = 0}, {.fd = STDIN_FILENO, .events = POLLIN}};
        const struct timespec left = {.tv_sec = (time_t)((until - now) / 1000),
                                      .tv_nsec = (long)((until - now) % 1000) * 1000000};
        int n = ppoll(fds, t->live ? 2 : 1, &left, &t->mask);
        unsigned char key;
        if (n < 0 && errno != EINTR)
            return -1;
        if (n <= 0)
            continue;
        if (fds[0].revents & (POLLERR | POLLHUP))
            return -1;
        if (t->live && fds[1].revents) {
            ssize_t got = read(STDIN_FILENO, &key, 1);
            return got == 1 ? key : -1;
        }
    }
    if (ending || ferror(t->out))
        return -1;
    if (resized && t->live)
        enter(t);
    resized = 0;
    return 0;
}
