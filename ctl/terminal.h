/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A terminal that shows a screen which is drawn again and again, and a wait that keys and signals end. One at a time in
 * a process: signal handlers are process-wide.
 */
#ifndef VGPU_CTL_TERMINAL_H
#define VGPU_CTL_TERMINAL_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <termios.h>

struct vgpu_ctl_terminal {
    FILE *out;
    bool live; /* out and standard input are terminals: keys, alternate screen */
    struct termios before;
    sigset_t mask; /* during the wait; outside it the signals that end us are held back */
};

/* live only where it can be. SIGINT, SIGTERM, SIGHUP end the wait from here on. */
void vgpu_ctl_terminal_open(struct vgpu_ctl_terminal *t, FILE *out, bool want_live);
/* Gives the terminal back as it was. */
void vgpu_ctl_terminal_close(struct vgpu_ctl_terminal *t);
/* Rows and columns, also where the terminal does not know them; 0 where not live: no bound. */
void vgpu_ctl_terminal_size(const struct vgpu_ctl_terminal *t, unsigned *rows, unsigned *columns);
/* Draws text (lines) as the new screen, cut to its size, with its last line at the bottom; where not live, prints it. */
void vgpu_ctl_terminal_draw(struct vgpu_ctl_terminal *t, const char *text);
/* A key, 0 after interval_ms or a change of size, -1 when it is time to end. */
int vgpu_ctl_terminal_wait(struct vgpu_ctl_terminal *t, uint64_t interval_ms);

#endif
