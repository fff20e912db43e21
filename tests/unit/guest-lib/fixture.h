/* SPDX-License-Identifier: Apache-2.0 */
/* A fake host in this process and a guest attached to it. Each Criterion test is a process of its own. */
#ifndef VGPU_TESTS_GUEST_FIXTURE_H
#define VGPU_TESTS_GUEST_FIXTURE_H

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "fake_host.h"
#include "guest-lib/vgpu.h"
#include "rings/abi/vgpu_abi.h"

static char fix_dir[] = "/tmp/vgpu-guest-XXXXXX";
static char fix_socket[64], fix_token[64];
static struct fake_options fix_options;
static struct fake_host *fix_host;
static struct vgpu *fix_guest;
static char fix_error[256];

static inline void fix_write_token(const char *format)
{
    FILE *f = fopen(fix_token, "w");

    cr_assert_not_null(f);
    for (unsigned i = 0; i < VGPU_TOKEN_BYTES; i++)
        fprintf(f, format, fix_options.token[i]);
    fclose(f);
}

static inline void fix_setup(void)
{
    cr_assert_not_null(mkdtemp(fix_dir));
    snprintf(fix_socket, sizeof(fix_socket), "%s/attach.sock", fix_dir);
    snprintf(fix_token, sizeof(fix_token), "%s/token", fix_dir);
    fake_options_defaults(&fix_options, fix_socket);
    fix_write_token("%02x");
}

static inline void fix_teardown(void)
{
    vgpu_close(fix_guest);
    if (fix_host)
        fake_host_stop(fix_host);
    unlink(fix_token);
    rmdir(fix_dir);
}

static inline void fix_start(void)
{
    fix_host = fake_host_start(&fix_options);
    cr_assert_not_null(fix_host);
}

static inline int fix_open(const struct vgpu_options *extra)
{
    struct vgpu_options o = extra ? *extra : (struct vgpu_options){0};

    o.vm_id = o.vm_id ? o.vm_id : 3;
    o.socket_path = o.socket_path ? o.socket_path : fix_socket;
    o.token_path = o.token_path ? o.token_path : fix_token;
    return vgpu_open(&o, &fix_guest, fix_error, sizeof(fix_error));
}

static inline void fix_attach(const struct vgpu_options *extra)
{
    fix_start();
    int rc = fix_open(extra);
    cr_assert_eq(rc, 0, "open: %s", fix_error);
}

static inline void fix_sleep_ms(long ms)
{
    struct timespec ts = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};

    nanosleep(&ts, NULL);
}

static inline void fix_has(const char *text, const char *part)
{
    cr_assert(strstr(text, part) != NULL, "\"%s\" does not contain \"%s\"", text, part);
}

#endif
