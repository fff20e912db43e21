/* SPDX-License-Identifier: Apache-2.0 */
/* Attaching: what works, and a sentence for each thing that does not. */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "fixture.h"

TestSuite(open, .init = fix_setup, .fini = fix_teardown, .timeout = 30);

Test(open, attaches_and_reads_its_properties)
{
    struct vgpu_properties p;

    fix_attach(NULL);
    cr_assert_eq(vgpu_properties_get(fix_guest, &p), 0);
    cr_assert_eq(p.vm_id, 3u);
    cr_assert_eq(p.priority, (uint32_t)VGPU_PRIO_HIGH);
    cr_assert_eq(p.state, (uint32_t)VGPU_VM_RUNNING);
    cr_assert_eq(p.max_in_flight, 256u);
    cr_assert_eq(p.arena_bytes, (uint64_t)16 << 20, "all that it may have");
    cr_assert_eq(p.epoch, 1u);
    cr_assert_str_eq(p.pool, "A");
    cr_assert_str_eq(p.vm_name, "fake-vm");
    cr_assert_str_eq(vgpu_strerror(fix_guest), "");
}

Test(open, takes_the_environment)
{
    fix_start();
    setenv("VGPU_VM_ID", "3", 1);
    setenv("VGPU_SOCKET", fix_socket, 1);
    setenv("VGPU_TOKEN_FILE", fix_token, 1);
    cr_assert_eq(vgpu_open(NULL, &fix_guest, fix_error, sizeof(fix_error)), 0, "%s", fix_error);
    cr_assert_eq(vgpu_nop(fix_guest), 0);
}

Test(open, takes_a_raw_token_too)
{
    fix_write_token("%c");
    fix_attach(NULL);
}

Test(open, hugepages_fall_back_to_plain_pages)
{
    struct vgpu_options o = {.flags = VGPU_OPEN_HUGEPAGES};

    fix_attach(&o);
    cr_assert_eq(vgpu_nop(fix_guest), 0);
}

Test(open, no_daemon)
{
    cr_assert_eq(fix_open(NULL), -ENOENT);
    fix_has(fix_error, "cannot connect to ");
    fix_has(fix_error, fix_socket);
    fix_has(fix_error, "is vgpud running");
    /* A socket file whose owner died. */
    fix_start();
    char other[80];
    snprintf(other, sizeof(other), "%s.dead", fix_socket);
    cr_assert_eq(link(fix_socket, other), 0);
    fake_host_stop(fix_host);
    fix_host = NULL;
    struct vgpu_options o = {.socket_path = other};
    cr_assert_eq(fix_open(&o), -ECONNREFUSED);
    fix_has(fix_error, "is vgpud running");
    unlink(other);
}

Test(open, socket_path_too_long)
{
    char path[200];

    memset(path, 'x', sizeof(path) - 1);
    path[sizeof(path) - 1] = '\0';
    struct vgpu_options o = {.socket_path = path};
    cr_assert_eq(fix_open(&o), -ENAMETOOLONG);
    fix_has(fix_error, "longer than");
}

Test(open, no_vm_id)
{
    unsetenv("VGPU_VM_ID");
    cr_assert_eq(vgpu_open(NULL, &fix_guest, fix_error, sizeof(fix_error)), -EINVAL);
    fix_has(fix_error, "VGPU_VM_ID");
    const char *const bad[] = {"", "x", "0", "-1", "3x", " 3", "99999999999"};
    for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        setenv("VGPU_VM_ID", bad[i], 1);
        cr_assert_eq(vgpu_open(NULL, &fix_guest, fix_error, sizeof(fix_error)), -EINVAL, "\"%s\"", bad[i]);
        cr_assert_null(fix_guest);
    }
}

Test(open, no_token_or_a_bad_one)
{
    struct vgpu_options o = {.token_path = "/nonexistent/token"};

    fix_start();
    cr_assert_eq(fix_open(&o), -EACCES);
    fix_has(fix_error, "/nonexistent/token");
    fix_has(fix_error, "register-vm");
    fix_write_token("%02xz");
    cr_assert_eq(fix_open(NULL), -EACCES);
    fix_has(fix_error, "does not hold a token");
}

Test(open, wrong_token_is_not_registered)
{
    fix_start();
    fix_options.token[0] ^= 1;
    fix_write_token("%02x");
    cr_assert_eq(fix_open(NULL), -EACCES);
    fix_has(fix_error, "refused VM 3");
    fix_has(fix_error, "register");
}

Test(open, refusals_have_their_errno)
{
    static const struct {
        uint32_t error;
        int code;
    } table[] = {{VGPU_ATTACH_E_PROTOCOL, -EPROTO}, {VGPU_ATTACH_E_VERSION, -EPROTO},
                 {VGPU_ATTACH_E_UNKNOWN_VM, -EACCES}, {VGPU_ATTACH_E_BUSY, -EBUSY},
                 {VGPU_ATTACH_E_REGION, -EINVAL}, {VGPU_ATTACH_E_LIMIT, -E2BIG},
                 {VGPU_ATTACH_E_NOMEM, -ENOMEM}, {VGPU_ATTACH_E_UNAVAILABLE, -EAGAIN}, {77, -EPROTO}};

    for (unsigned i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        fix_options.refuse = table[i].error;
        fix_start();
        cr_assert_eq(fix_open(NULL), table[i].code, "error %u", table[i].error);
        fix_has(fix_error, "told to refuse");
        fake_host_stop(fix_host);
        fix_host = NULL;
    }
}

Test(open, wrong_abi_version)
{
    fix_options.abi_version = 2u << 16 | 5;
    fix_start();
    cr_assert_eq(fix_open(NULL), -EPROTO);
    fix_has(fix_error, "2.5");
    fix_has(fix_error, "install the libvgpu of this host");
}

Test(open, busy)
{
    struct vgpu *second = NULL;
    struct vgpu_options o = {.vm_id = 3, .socket_path = fix_socket, .token_path = fix_token};

    fix_attach(NULL);
    cr_assert_eq(vgpu_open(&o, &second, fix_error, sizeof(fix_error)), -EBUSY);
    fix_has(fix_error, "attached already");
    cr_assert_null(second);
}

Test(open, close_frees_the_slot_before_it_returns)
{
    fix_attach(NULL);
    for (int i = 0; i < 50; i++) {
        vgpu_close(fix_guest);
        fix_guest = NULL;
        cr_assert_eq(fix_open(NULL), 0, "round %d: %s", i, fix_error);
    }
}

Test(open, close_is_bounded_when_the_host_does_not_answer)
{
    struct timespec a, b;

    fix_attach(NULL);
    fake_host_fault(fix_host, FAKE_IGNORE_CLOSE);
    fix_sleep_ms(60);
    clock_gettime(CLOCK_MONOTONIC, &a);
    vgpu_close(fix_guest);
    fix_guest = NULL;
    clock_gettime(CLOCK_MONOTONIC, &b);
    double seconds = (double)(b.tv_sec - a.tv_sec) + 1e-9 * (double)(b.tv_nsec - a.tv_nsec);
    cr_assert_geq(seconds, 1.9);
    cr_assert_lt(seconds, 10.0);
}

Test(open, too_large)
{
    struct vgpu_options arena = {.arena_bytes = (16 << 20) + 1}, slots = {.ring_slots = 8192};

    fix_start();
    cr_assert_eq(fix_open(&arena), -E2BIG);
    fix_has(fix_error, "16777216");
    cr_assert_eq(fix_open(&slots), -E2BIG);
    fix_has(fix_error, "4096");
}

Test(open, bad_options)
{
    struct vgpu_options slots = {.ring_slots = 100}, small = {.ring_slots = 4}, flags = {.flags = 0x80};

    fix_start();
    cr_assert_eq(fix_open(&slots), -EINVAL);
    fix_has(fix_error, "power of two");
    cr_assert_eq(fix_open(&small), -EINVAL);
    cr_assert_eq(fix_open(&flags), -EINVAL);
}

Test(open, host_that_breaks_the_handshake)
{
    fix_start();
    fake_host_fault(fix_host, FAKE_GARBAGE);
    cr_assert_eq(fix_open(NULL), -EPROTO);
    fix_has(fix_error, "not what the protocol says");
    fake_host_fault(fix_host, FAKE_TWO_FDS);
    cr_assert_eq(fix_open(NULL), -EPROTO);
    fix_has(fix_error, "2 file descriptors");
}

Test(open, mute_host_is_given_up)
{
    fix_start();
    fake_host_fault(fix_host, FAKE_MUTE_HELLO);
    cr_assert_eq(fix_open(NULL), -ETIMEDOUT);
    fix_has(fix_error, "HELLO");
}

/* At 5 s each, the default, these would take longer than a test may. */
Test(open, mute_host_is_given_up_as_soon_as_asked)
{
    struct vgpu_options o = {.host_timeout_ns = 10000000};

    fix_start();
    for (int i = 0; i < 10; i++) {
        fake_host_fault(fix_host, FAKE_MUTE_HELLO);
        if (i == 5) {
            o.host_timeout_ns = 0;
            setenv("VGPU_HOST_TIMEOUT_MS", "10", 1);
        }
        cr_assert_eq(fix_open(&o), -ETIMEDOUT, "%d: %s", i, fix_error);
    }
    static const char *const wrong[] = {"0", "-1", "5s", "86400001", "99999999999999999999", " 5"};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        setenv("VGPU_HOST_TIMEOUT_MS", wrong[i], 1);
        cr_assert_eq(fix_open(NULL), -EINVAL, "%s", wrong[i]);
        fix_has(fix_error, "VGPU_HOST_TIMEOUT_MS");
    }
}

/* Nothing that open makes stays behind when it fails or after close. */
static int open_fds(void)
{
    int n = 0;

    for (int fd = 0; fd < 256; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

Test(open, leaks_no_descriptor)
{
    struct vgpu_options bad = {.arena_bytes = 1 << 30};

    fix_attach(NULL);
    vgpu_close(fix_guest);
    fix_guest = NULL;
    fix_sleep_ms(100);
    int before = open_fds();
    for (int i = 0; i < 10; i++) {
        cr_assert_eq(fix_open(&bad), -E2BIG);
        fake_host_fault(fix_host, FAKE_TWO_FDS);
        cr_assert_eq(fix_open(NULL), -EPROTO);
        fake_host_fault(fix_host, FAKE_NONE);
        cr_assert_eq(fix_open(NULL), 0, "%s", fix_error);
        vgpu_close(fix_guest);
        fix_guest = NULL;
    }
    fix_sleep_ms(100);
    cr_assert_eq(open_fds(), before);
}
