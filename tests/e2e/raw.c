/* SPDX-License-Identifier: Apache-2.0 */
#include "raw.h"

#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "core/base/fdpass.h"

static void read_token(const struct e2e_host *h, unsigned vm_id, uint8_t *token)
{
    char path[2 * E2E_PATH_BYTES];
    unsigned byte;

    e2e_token_path(h, vm_id, path, sizeof(path));
    FILE *f = fopen(path, "r");
    if (!f)
        return; /* all zero: none */
    for (unsigned i = 0; i < VGPU_TOKEN_BYTES; i++) {
        e2e_check(fscanf(f, "%2x", &byte) == 1, "%s holds no token", path);
        token[i] = (uint8_t)byte;
    }
    fclose(f);
}

void raw_connect(struct raw_guest *g, const struct e2e_host *h, unsigned vm_id)
{
    struct sockaddr_un sun = {.sun_family = AF_UNIX};

    memset(g, 0, sizeof(*g));
    g->region_fd = g->fds[0] = g->fds[1] = g->fds[2] = -1;
    g->hello = (struct vgpu_msg_hello){
        .magic = VGPU_ATTACH_MAGIC, .type = VGPU_ATTACH_HELLO, .abi_version = VGPU_ABI_VERSION, .vm_id = vm_id};
    read_token(h, vm_id, g->hello.token);
    g->header = (struct vgpu_region_header){.magic = VGPU_REGION_MAGIC,
                                            .abi_version = VGPU_ABI_VERSION,
                                            .header_bytes = sizeof(g->header),
                                            .region_bytes = 16 * VGPU_PAGE_BYTES,
                                            .guest_ctrl_off = VGPU_PAGE_BYTES,
                                            .host_ctrl_off = 2 * VGPU_PAGE_BYTES,
                                            .sq_off = 3 * VGPU_PAGE_BYTES,
                                            .cq_off = 4 * VGPU_PAGE_BYTES,
                                            .arena_off = 5 * VGPU_PAGE_BYTES,
                                            .arena_bytes = 11 * VGPU_PAGE_BYTES,
                                            .sq_slots = 64,
                                            .cq_slots = 64};
    g->sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    e2e_check(g->sock >= 0 && strlen(h->attach_socket) < sizeof(sun.sun_path), "socket: %s", strerror(errno));
    strcpy(sun.sun_path, h->attach_socket);
    e2e_check(connect(g->sock, (struct sockaddr *)&sun, sizeof(sun)) == 0, "%s: %s", sun.sun_path, strerror(errno));
}

uint32_t raw_exchange(struct raw_guest *g, const void *bytes, size_t n, const int *fds, int n_fds)
{
    union {
        struct vgpu_msg_welcome welcome;
        struct vgpu_msg_attached attached;
        struct vgpu_msg_error error;
    } m;
    int got_fds[VGPU_FDPASS_MAX], n_got = VGPU_FDPASS_MAX;

    memset(&g->error, 0, sizeof(g->error));
    ssize_t sent = vgpu_fd_send(g->sock, bytes, n, fds, n_fds, 0);
    e2e_check(sent == (ssize_t)n || sent == -EPIPE, "send: %s", strerror((int)-sent));
    struct pollfd p = {.fd = g->sock, .events = POLLIN};
    e2e_check(poll(&p, 1, E2E_WAIT_MS) == 1, "the host does not answer");
    ssize_t got = vgpu_fd_recv(g->sock, &m, sizeof(m), got_fds, &n_got, 0);
    if (got <= 0)
        return UINT32_MAX;
    if (got == sizeof(m.error) && m.error.type == VGPU_ATTACH_ERROR) {
        e2e_check(m.error.error != VGPU_ATTACH_OK && memchr(m.error.text, 0, sizeof(m.error.text)), "a broken ERROR");
        g->error = m.error;
        /* "An ERROR ends the conversation: the host closes the socket after it." */
        char more;
        e2e_check(poll(&p, 1, E2E_WAIT_MS) == 1 && recv(g->sock, &more, 1, 0) <= 0, "the socket is open after ERROR");
        return m.error.error;
    }
    e2e_check(got == 64 && m.welcome.magic == VGPU_ATTACH_MAGIC, "an answer of %zd bytes", got);
    if (m.welcome.type == VGPU_ATTACH_WELCOME) {
        e2e_check(n_got == 0, "WELCOME with %d descriptors", n_got);
        g->welcome = m.welcome;
    } else {
        e2e_check(m.attached.type == VGPU_ATTACH_ATTACHED && n_got == 3, "type %u, %d descriptors", m.attached.type,
                  n_got);
        g->attached = m.attached;
        memcpy(g->fds, got_fds, sizeof(g->fds));
    }
    return VGPU_ATTACH_OK;
}

uint32_t raw_hello(struct raw_guest *g)
{
    return raw_exchange(g, &g->hello, sizeof(g->hello), NULL, 0);
}

int raw_region(struct raw_guest *g, unsigned memfd_flags, int seals)
{
    uint64_t bytes = g->header.region_bytes;

    g->region_fd = memfd_create("vgpu-test", MFD_CLOEXEC | MFD_ALLOW_SEALING | memfd_flags);
    e2e_check(g->region_fd >= 0, "memfd_create: %s", strerror(errno));
    e2e_check(ftruncate(g->region_fd, (off_t)bytes) == 0, "ftruncate: %s", strerror(errno));
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, g->region_fd, 0);
    e2e_check(p != MAP_FAILED, "mmap: %s", strerror(errno));
    memcpy(p, &g->header, sizeof(g->header));
    munmap(p, bytes);
    e2e_check(seals == 0 || fcntl(g->region_fd, F_ADD_SEALS, seals) == 0, "seals: %s", strerror(errno));
    return g->region_fd;
}

uint32_t raw_attach(struct raw_guest *g, uint64_t region_bytes, const int *fds, int n_fds)
{
    struct vgpu_msg_attach m = {.magic = VGPU_ATTACH_MAGIC, .type = VGPU_ATTACH_ATTACH, .region_bytes = region_bytes};

    return raw_exchange(g, &m, sizeof(m), fds, n_fds);
}

void raw_ring(struct raw_guest *g)
{
    uint64_t one = 1;

    e2e_check(write(g->fds[1], &one, sizeof(one)) == sizeof(one), "doorbell: %s", strerror(errno));
}

void raw_close(struct raw_guest *g)
{
    close(g->sock);
    if (g->region_fd >= 0)
        close(g->region_fd);
    for (int i = 0; i < 3; i++)
        if (g->fds[i] >= 0)
            close(g->fds[i]);
}
