/* SPDX-License-Identifier: Apache-2.0 */
/* Descriptors over a socket: none is lost and none leaks, whatever the sender sends. */
#include "core/base/clock.h"
#include "core/base/fdpass.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

static int sock[2];

static void setup(void)
{
    cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sock), 0);
}

static void teardown(void)
{
    close(sock[0]);
    close(sock[1]);
}

TestSuite(fdpass, .init = setup, .fini = teardown, .timeout = 20);

/* The number that the next descriptor gets: grows when one leaks. */
static int next_fd(void)
{
    while (vgpu_fd_discarding())
        usleep(100);
    int fd = dup(sock[0]);

    close(fd);
    return fd;
}

Test(fdpass, message_and_descriptors_arrive)
{
    int out[VGPU_FDPASS_MAX], in[VGPU_FDPASS_MAX], n = VGPU_FDPASS_MAX;
    char text[8] = "hello";

    for (int i = 0; i < VGPU_FDPASS_MAX; i++) {
        out[i] = memfd_create("x", 0);
        cr_assert(out[i] >= 0 && write(out[i], &i, sizeof(i)) == sizeof(i));
    }
    cr_assert_eq(vgpu_fd_send(sock[0], text, 5, out, VGPU_FDPASS_MAX, 0), 5);
    memset(text, 0, sizeof(text));
    cr_assert_eq(vgpu_fd_recv(sock[1], text, sizeof(text), in, &n, 0), 5);
    cr_expect(strcmp(text, "hello") == 0);
    cr_assert_eq(n, VGPU_FDPASS_MAX);
    for (int i = 0; i < n; i++) {
        int value = -1;
        cr_expect(pread(in[i], &value, sizeof(value), 0) == sizeof(value) && value == i, "in order");
        cr_expect(fcntl(in[i], F_GETFD) & FD_CLOEXEC);
        cr_expect(fcntl(out[i], F_GETFD) >= 0, "the sender keeps its own");
        close(in[i]);
        close(out[i]);
    }
}

Test(fdpass, none_at_all)
{
    int in[2], n = 2;
    char c = 'x';

    cr_assert_eq(vgpu_fd_send(sock[0], &c, 1, NULL, 0, 0), 1);
    cr_assert_eq(vgpu_fd_recv(sock[1], &c, 1, in, &n, 0), 1);
    cr_expect_eq(n, 0);
}

Test(fdpass, more_than_there_is_room_for_are_all_closed)
{
    int out[4] = {sock[0], sock[0], sock[0], sock[0]}, in[4] = {-7, -7, -7, -7};
    char c = 'x';
    int before = next_fd();

    for (int room = 0; room < 4; room++) {
        int n = room;
        cr_assert_eq(vgpu_fd_send(sock[0], &c, 1, out, 4, 0), 1);
        cr_expect_eq(vgpu_fd_recv(sock[1], &c, 1, in, &n, 0), -EMSGSIZE, "room for %d", room);
        cr_expect_eq(n, 0);
        cr_expect_eq(next_fd(), before, "room for %d: a descriptor leaked", room);
    }
}

Test(fdpass, a_message_cut_short_is_refused_with_its_descriptors)
{
    int in[2], n = 2, before = next_fd();
    char text[64] = {0};

    cr_assert_eq(vgpu_fd_send(sock[0], text, 64, &sock[0], 1, 0), 64);
    cr_expect_eq(vgpu_fd_recv(sock[1], text, 63, in, &n, 0), -EMSGSIZE);
    cr_expect_eq(n, 0);
    cr_expect_eq(next_fd(), before);
}

/* More than the receiver's control buffer holds: the kernel cuts, and installs what fitted. */
Test(fdpass, a_flood_of_descriptors_leaks_none)
{
    enum { MANY = 100 };
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int) * MANY)];
    } control;
    char c = 'x';
    struct iovec iov = {&c, 1};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
    int in[VGPU_FDPASS_MAX], n = VGPU_FDPASS_MAX, before = next_fd();

    memset(&control, 0, sizeof(control));
    struct cmsghdr *h = CMSG_FIRSTHDR(&msg);
    h->cmsg_level = SOL_SOCKET;
    h->cmsg_type = SCM_RIGHTS;
    h->cmsg_len = CMSG_LEN(sizeof(int) * MANY);
    for (int i = 0; i < MANY; i++)
        memcpy(CMSG_DATA(h) + (size_t)i * sizeof(int), &sock[0], sizeof(int));
    cr_assert_eq(sendmsg(sock[0], &msg, 0), 1);
    cr_expect_eq(vgpu_fd_recv(sock[1], &c, 1, in, &n, 0), -EMSGSIZE);
    cr_expect_eq(next_fd(), before);
}

/* A packet without a byte is no end of file: what came with it must not be forgotten. */
Test(fdpass, descriptors_without_a_byte_leak_none)
{
    int pair[2], in[VGPU_FDPASS_MAX], n = VGPU_FDPASS_MAX;
    char c;

    cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
    int before = next_fd();
    cr_assert_eq(vgpu_fd_send(pair[0], "", 0, sock, 2, 0), 0);
    cr_expect_eq(vgpu_fd_recv(pair[1], &c, 1, in, &n, 0), -EMSGSIZE);
    cr_expect_eq(n, 0);
    cr_expect_eq(next_fd(), before);
    close(pair[0]);
    close(pair[1]);
}

/* A socket with unsent data and SO_LINGER: close() takes two seconds. */
Test(fdpass, what_is_slow_to_close_holds_nobody_up)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t at_bytes = sizeof(at);
    struct linger linger = {.l_onoff = 1, .l_linger = 2};
    static char data[1 << 20];
    int server = socket(AF_INET, SOCK_STREAM, 0), slow = socket(AF_INET, SOCK_STREAM, 0), in[1], n = 1;
    char c = 'x';

    cr_assert_eq(bind(server, (struct sockaddr *)&at, sizeof(at)) | listen(server, 1), 0);
    cr_assert_eq(getsockname(server, (struct sockaddr *)&at, &at_bytes), 0);
    cr_assert_eq(connect(slow, (struct sockaddr *)&at, sizeof(at)), 0);
    while (send(slow, data, sizeof(data), MSG_DONTWAIT) > 0)
        ;
    cr_assert_eq(setsockopt(slow, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)), 0);
    cr_assert_eq(vgpu_fd_send(sock[0], &c, 1, &slow, 1, 0), 1);
    close(slow); /* the message holds the last one */
    cr_assert_eq(vgpu_fd_recv(sock[1], &c, 1, in, &n, 0), 1);
    uint64_t start = vgpu_now_ns();
    vgpu_fd_discard(in, n);
    cr_expect_lt(vgpu_now_ns() - start, 1000000000u);
    cr_expect_eq(vgpu_fd_discarding(), 1, "it does take long");
    while (vgpu_fd_discarding())
        usleep(1000);
    cr_expect_lt(fcntl(in[0], F_GETFD), 0);
    close(server);
}

Test(fdpass, errors_are_negative_errno)
{
    int fds[VGPU_FDPASS_MAX + 1] = {0}, n = 1;
    char c = 'x';

    cr_expect_eq(vgpu_fd_send(sock[0], &c, 1, fds, VGPU_FDPASS_MAX + 1, 0), -EINVAL);
    cr_expect_eq(vgpu_fd_recv(sock[1], &c, 1, fds, &n, MSG_DONTWAIT), -EAGAIN);
    n = 1;
    close(sock[0]);
    cr_expect_eq(vgpu_fd_recv(sock[1], &c, 1, fds, &n, 0), 0, "end of file");
    cr_expect_eq(vgpu_fd_send(sock[1], &c, 1, NULL, 0, 0), -EPIPE, "and no SIGPIPE");
    sock[0] = -1;
}
