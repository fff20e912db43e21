/* SPDX-License-Identifier: Apache-2.0 */
#include "fake_host.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "fake_exec.h"
#include "rings/spsc.h"

#define BURST 32u

struct fake_host {
    struct fake_options o;
    char path[108];
    pthread_t thread;
    int listen_fd, stop_fd;
    int conn_fd;                /* the guest's socket, or -1 */
    int bell_in, bell_out;      /* our read end, our write end */
    int guest_bells[2];         /* the guest's ends, closed here after ATTACHED */
    bool greeted, attached;
    uint8_t *region;
    uint64_t region_bytes;
    struct vgpu_region_header header;
    struct vgpu_props *props;
    int props_fd;
    struct vgpu_cons sq;
    struct vgpu_prod cq;
    struct vgpu_guest_ctrl *guest_ctrl;
    struct vgpu_host_ctrl *host_ctrl;
    struct vgpu_memspace space;
    uint8_t *heap;
    uint64_t epoch;
    uint32_t fault; /* enum fake_fault, atomic */
    bool fault_done;
    struct fake_counters n;
};

void fake_options_defaults(struct fake_options *o, const char *socket_path)
{
    *o = (struct fake_options){.socket_path = socket_path, .vm_id = 3, .abi_version = VGPU_ABI_VERSION,
                               .max_arena_bytes = 16 << 20, .max_device_bytes = 16 << 20, .max_in_flight = 256,
                               .max_ring_slots = 4096, .max_handles = 64, .sq_start = 1000, .cq_start = 70000};
    for (unsigned i = 0; i < sizeof(o->token); i++)
        o->token[i] = (uint8_t)(0xa0 + i);
}

static void detach(struct fake_host *h)
{
    if (h->attached)
        vgpu_count(&h->n.detaches, 1);
    int *fds[] = {&h->conn_fd, &h->bell_in, &h->bell_out, &h->props_fd};
    for (unsigned i = 0; i < 4; i++) {
        if (*fds[i] >= 0)
            close(*fds[i]);
        *fds[i] = -1;
    }
    if (h->region)
        munmap(h->region, h->region_bytes);
    if (h->props)
        munmap(h->props, VGPU_PAGE_BYTES);
    h->region = NULL;
    h->props = NULL;
    h->greeted = h->attached = false;
}

static void refuse(struct fake_host *h, uint32_t error, const char *text)
{
    struct vgpu_msg_error e = {.magic = VGPU_ATTACH_MAGIC, .type = VGPU_ATTACH_ERROR, .error = error};

    snprintf(e.text, sizeof(e.text), "%s", text);
    (void)!send(h->conn_fd, &e, sizeof(e), MSG_NOSIGNAL);
    detach(h);
}

static void make_props(struct fake_host *h)
{
    h->props_fd = memfd_create("props", MFD_CLOEXEC);
    if (h->props_fd < 0 || ftruncate(h->props_fd, VGPU_PAGE_BYTES) < 0)
        abort();
    h->props = mmap(NULL, VGPU_PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, h->props_fd, 0);
    *h->props = (struct vgpu_props){.magic = VGPU_PROPS_MAGIC, .abi_version = VGPU_ABI_VERSION,
                                    .props_bytes = sizeof(*h->props), .update_seq = 2, .vm_id = h->o.vm_id,
                                    .priority = VGPU_PRIO_HIGH, .state = VGPU_VM_RUNNING,
                                    .max_in_flight = h->o.max_in_flight, .max_handles = h->o.max_handles,
                                    .max_arena_bytes = h->o.max_arena_bytes, .max_device_bytes = h->o.max_device_bytes,
                                    .device_generation = 1, .features = h->o.features, .epoch = h->epoch,
                                    .sq_start = h->o.sq_start, .cq_start = h->o.cq_start, .pool = "A",
                                    .vm_name = "fake-vm", .backend = "fake"};
}

/* What the real host checks too; a library that sends less is refused here. */
static const char *check_region(struct fake_host *h, int fd, uint64_t bytes)
{
    struct stat st;
    int seals = fcntl(fd, F_GET_SEALS);
    const struct vgpu_region_header *r = &h->header;

    if (seals < 0 ||
        (seals & (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)) != (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))
        return "not sealed";
    if (fstat(fd, &st) < 0 || (uint64_t)st.st_size != bytes)
        return "size differs";
    h->region_bytes = bytes;
    h->region = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (h->region == MAP_FAILED) {
        h->region = NULL;
        return "cannot map";
    }
    memcpy(&h->header, h->region, sizeof(h->header));
    if (r->magic != VGPU_REGION_MAGIC || r->header_bytes != sizeof(*r) || r->region_bytes != bytes)
        return "header wrong";
    if (r->arena_bytes > h->o.max_arena_bytes || r->sq_slots > h->o.max_ring_slots || r->cq_slots > h->o.max_ring_slots)
        return "too large";
    if (r->arena_off % VGPU_PAGE_BYTES || r->arena_off + r->arena_bytes > bytes)
        return "arena outside";
    for (uint64_t off = VGPU_PAGE_BYTES; off < r->arena_off; off++)
        if (h->region[off])
            return "control pages and rings are not zero";
    return NULL;
}

static void send_attached(struct fake_host *h)
{
    struct vgpu_msg_attached a = {.magic = VGPU_ATTACH_MAGIC, .type = VGPU_ATTACH_ATTACHED, .epoch = h->epoch,
                                  .sq_start = h->o.sq_start, .cq_start = h->o.cq_start};
    int fds[3] = {h->props_fd, h->guest_bells[0], h->guest_bells[1]};
    unsigned count = vgpu_load_relaxed(&h->fault) == FAKE_TWO_FDS ? 2 : 3;
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(fds))];
    } control = {0};
    struct iovec iov = {.iov_base = &a, .iov_len = sizeof(a)};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes,
                       .msg_controllen = CMSG_SPACE(count * sizeof(int))};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);

    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(count * sizeof(int));
    memcpy(CMSG_DATA(c), fds, count * sizeof(int));
    (void)!sendmsg(h->conn_fd, &m, MSG_NOSIGNAL);
}

static void attach(struct fake_host *h, int fd, uint64_t bytes)
{
    const char *wrong = check_region(h, fd, bytes);
    int to_host[2], to_guest[2];

    if (wrong) {
        refuse(h, VGPU_ATTACH_E_REGION, wrong);
        return;
    }
    if (pipe2(to_host, O_CLOEXEC | O_NONBLOCK) < 0 || pipe2(to_guest, O_CLOEXEC | O_NONBLOCK) < 0)
        abort();
    h->epoch++;
    h->o.sq_start += UINT64_C(1) << 32; /* each attachment starts elsewhere */
    h->o.cq_start += UINT64_C(1) << 33;
    make_props(h);
    h->bell_in = to_host[0];
    h->bell_out = to_guest[1];
    h->guest_bells[0] = to_host[1];
    h->guest_bells[1] = to_guest[0];
    h->guest_ctrl = (struct vgpu_guest_ctrl *)(h->region + h->header.guest_ctrl_off);
    h->host_ctrl = (struct vgpu_host_ctrl *)(h->region + h->header.host_ctrl_off);
    vgpu_cons_init(&h->sq, (struct vgpu_slot *)(h->region + h->header.sq_off), h->header.sq_slots,
                   &h->host_ctrl->sq_head, h->o.sq_start, false);
    vgpu_prod_init(&h->cq, (struct vgpu_slot *)(h->region + h->header.cq_off), h->header.cq_slots,
                   &h->guest_ctrl->cq_head, h->o.cq_start);
    vgpu_memspace_reset(&h->space);
    h->attached = true;
    h->fault_done = false;
    vgpu_count(&h->n.attaches, 1);
    send_attached(h);
    close(to_host[1]);
    close(to_guest[0]);
}

static void hello(struct fake_host *h, const struct vgpu_msg_hello *m)
{
    struct vgpu_msg_welcome w = {.magic = VGPU_ATTACH_MAGIC, .type = VGPU_ATTACH_WELCOME,
                                 .abi_version = h->o.abi_version, .vm_id = m->vm_id,
                                 .max_arena_bytes = h->o.max_arena_bytes, .max_device_bytes = h->o.max_device_bytes,
                                 .max_in_flight = h->o.max_in_flight, .max_ring_slots = h->o.max_ring_slots};
    uint32_t fault = vgpu_load_relaxed(&h->fault);

    if (fault == FAKE_MUTE_HELLO)
        return;
    if (fault == FAKE_GARBAGE)
        w.type = VGPU_ATTACH_ATTACH;
    if (h->o.refuse) {
        refuse(h, h->o.refuse, "told to refuse");
    } else if (m->vm_id != h->o.vm_id || memcmp(m->token, h->o.token, sizeof(m->token)) != 0) {
        refuse(h, VGPU_ATTACH_E_UNKNOWN_VM, "no such VM, or wrong token");
    } else {
        h->greeted = true;
        (void)!send(h->conn_fd, &w, sizeof(w), MSG_NOSIGNAL);
    }
}

static void conn_input(struct fake_host *h)
{
    union {
        struct vgpu_msg_hello hello;
        struct vgpu_msg_attach attach;
    } m;
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(4 * sizeof(int))];
    } control;
    struct iovec iov = {.iov_base = &m, .iov_len = sizeof(m)};
    struct msghdr msg = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof(control)};
    ssize_t got = recvmsg(h->conn_fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    struct cmsghdr *c = got > 0 ? CMSG_FIRSTHDR(&msg) : NULL;
    int fd = -1;

    if (c && c->cmsg_len == CMSG_LEN(sizeof(int)))
        memcpy(&fd, CMSG_DATA(c), sizeof(int));
    if (got <= 0 && !(got < 0 && errno == EAGAIN))
        detach(h);
    else if (got == sizeof(m) && !h->greeted && m.hello.type == VGPU_ATTACH_HELLO && fd < 0)
        hello(h, &m.hello);
    else if (got == sizeof(m) && h->greeted && !h->attached && m.attach.type == VGPU_ATTACH_ATTACH && fd >= 0)
        attach(h, fd, m.attach.region_bytes);
    else if (got >= 0)
        refuse(h, VGPU_ATTACH_E_PROTOCOL, "unexpected message");
    if (fd >= 0)
        close(fd);
}

static void put_completion(struct fake_host *h, const struct vgpu_cpl *c)
{
    uint64_t from = h->cq.pos;

    vgpu_prod_put(&h->cq, (const struct vgpu_slot *)c);
    if (vgpu_ring_event_wanted(&h->guest_ctrl->cq_event, from, h->cq.pos)) {
        vgpu_count(&h->n.bells, 1);
        (void)!write(h->bell_out, "", 1);
    }
}

static void complete(struct fake_host *h, const struct vgpu_desc *d, uint64_t sq_pos, uint32_t fault)
{
    struct vgpu_vm_view vm = {.arena_bytes = h->header.arena_bytes, .space = &h->space};
    struct vgpu_work w;
    struct vgpu_cpl c VGPU_ALIGNED(64) = {
        .tag = d->tag, .opcode = d->opcode, .sq_pos = sq_pos, .latency_ns = 1, .device_generation = 1};

    vgpu_validate(d, &vm, &w);
    c.status = fake_execute(&w, h->region + h->header.arena_off, h->heap, &c.value);
    if (fault == FAKE_BAD_POSITION)
        c.sq_pos += 7;
    if (fault == FAKE_BAD_TAG)
        c.tag ^= 1;
    put_completion(h, &c);
    if (fault == FAKE_TWICE)
        put_completion(h, &c);
}

/* One visit. Returns how many descriptors it took. */
static uint32_t serve(struct fake_host *h)
{
    struct vgpu_slot got[BURST];
    uint32_t fault = vgpu_load_relaxed(&h->fault);
    uint64_t first = h->sq.pos;
    /* Room for each completion is reserved before its descriptor is taken (one more for FAKE_TWICE). */
    int64_t room = vgpu_prod_room(&h->cq, 2 * BURST) / 2;
    uint32_t n = room < 1 ? 0 : vgpu_cons_pop(&h->sq, got, room < BURST ? (uint32_t)room : BURST);

    vgpu_count(&h->n.descriptors, n);
    if (n > 0 && h->o.delay_us)
        usleep(h->o.delay_us);
    for (uint32_t i = 0; fault != FAKE_HOLD && fault != FAKE_OVERRUN && i < n; i++) {
        uint32_t at = fault == FAKE_REVERSE ? n - 1 - i : i;
        complete(h, (const struct vgpu_desc *)&got[at], first + at, fault);
    }
    return n;
}

/* Faults that need no descriptor. True: the attachment ended. */
static bool act(struct fake_host *h)
{
    uint32_t fault = vgpu_load_relaxed(&h->fault);

    if (fault == FAKE_HANG_UP) {
        vgpu_store_relaxed(&h->fault, FAKE_NONE);
        refuse(h, VGPU_ATTACH_E_UNAVAILABLE, "the operator ended it");
        return true;
    }
    if (fault == FAKE_BAD_CREDIT) /* again and again: our own consumer publishes the right one in between */
        vgpu_store_release(&h->host_ctrl->sq_head, h->sq.pos + 100000);
    if (h->fault_done)
        return false;
    h->fault_done = true;
    if (fault == FAKE_OVERRUN)
        vgpu_store_release(&h->cq.slots[h->cq.pos & h->cq.mask].seq, h->cq.pos + 1 + h->header.cq_slots);
    else if (fault == FAKE_BREAK) {
        h->props->reason = VGPU_BROKEN_OPERATOR;
        __atomic_store_n(&h->props->state, VGPU_VM_BROKEN, __ATOMIC_RELEASE);
    } else
        h->fault_done = false;
    return false;
}

static void drain(int fd, uint64_t *count)
{
    char sink[64];

    while (read(fd, sink, sizeof(sink)) > 0)
        vgpu_count(count, 1);
}

/* Sleeps until something may have happened. False: told to stop. */
static bool rest(struct fake_host *h, int timeout_ms)
{
    bool mute = h->conn_fd >= 0 && vgpu_load_relaxed(&h->fault) == FAKE_IGNORE_CLOSE;
    struct pollfd p[4] = {{.fd = h->stop_fd, .events = POLLIN}, {.fd = h->listen_fd, .events = POLLIN},
                          {.fd = mute ? -1 : h->conn_fd, .events = POLLIN}, {.fd = h->bell_in, .events = POLLIN}};

    poll(p, 4, timeout_ms);
    if (p[0].revents)
        return false;
    if (p[3].revents)
        drain(h->bell_in, &h->n.wakes);
    if (p[2].revents)
        conn_input(h);
    if (p[1].revents) {
        int fd = accept4(h->listen_fd, NULL, NULL, SOCK_CLOEXEC);
        if (h->conn_fd >= 0 && fd >= 0) { /* one live attachment */
            int live = h->conn_fd;
            struct vgpu_msg_error e = {.magic = VGPU_ATTACH_MAGIC, .type = VGPU_ATTACH_ERROR,
                                       .error = VGPU_ATTACH_E_BUSY, .text = "attached already"};
            (void)!send(fd, &e, sizeof(e), MSG_NOSIGNAL);
            close(fd);
            h->conn_fd = live;
        } else {
            h->conn_fd = fd;
        }
    }
    return true;
}

static void *run(void *arg)
{
    struct fake_host *h = arg;
    uint32_t idle = 0;

    for (;;) {
        if (h->attached && !act(h) && serve(h) > 0) {
            idle = 0;
            continue;
        }
        if (!h->attached) {
            if (!rest(h, 20))
                break;
        } else if (++idle <= h->o.spin_polls) {
            if (idle % 256 == 0 && !rest(h, 0))
                break;
        } else {
            idle = 0;
            vgpu_ring_event_arm(&h->host_ctrl->sq_event, h->sq.pos);
            bool ready = vgpu_cons_ready(&h->sq);
            if (!ready)
                vgpu_count(&h->n.sleeps, 1);
            /* A slice, because faults are set without a doorbell; a lost wake-up shows as a 20 ms latency. */
            if (!rest(h, ready ? 0 : 20))
                break;
        }
    }
    return NULL;
}

struct fake_host *fake_host_start(const struct fake_options *o)
{
    struct fake_host *h = calloc(1, sizeof(*h));
    struct sockaddr_un addr = {.sun_family = AF_UNIX};

    if (!h)
        return NULL;
    h->o = *o;
    h->conn_fd = h->bell_in = h->bell_out = h->props_fd = -1;
    snprintf(h->path, sizeof(h->path), "%s", o->socket_path);
    snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", o->socket_path);
    unlink(h->path);
    h->heap = calloc(1, o->max_device_bytes + 1);
    h->stop_fd = eventfd(0, EFD_CLOEXEC);
    h->listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (!h->heap || vgpu_memspace_init(&h->space, 0, o->max_device_bytes, o->max_handles) < 0 ||
        bind(h->listen_fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 || listen(h->listen_fd, 16) < 0 ||
        pthread_create(&h->thread, NULL, run, h) != 0) {
        perror("fake host");
        abort();
    }
    return h;
}

void fake_host_stop(struct fake_host *h)
{
    uint64_t one = 1;

    (void)!write(h->stop_fd, &one, sizeof(one));
    pthread_join(h->thread, NULL);
    detach(h);
    close(h->listen_fd);
    close(h->stop_fd);
    unlink(h->path);
    vgpu_memspace_fini(&h->space);
    free(h->heap);
    free(h);
}

void fake_host_fault(struct fake_host *h, enum fake_fault fault)
{
    vgpu_store_relaxed(&h->fault, (uint32_t)fault);
}

void fake_host_counters(const struct fake_host *h, struct fake_counters *out)
{
    const uint64_t *from = (const uint64_t *)&h->n;
    uint64_t *to = (uint64_t *)out;

    for (unsigned i = 0; i < sizeof(*out) / sizeof(*to); i++)
        to[i] = vgpu_load_relaxed(&from[i]);
}
