/* SPDX-License-Identifier: Apache-2.0 */
#include "fake.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <xenevtchn.h>
#include <xengnttab.h>
#include <xenstore.h>

#define NODES 4096
#define GRANTS 16384
#define PORTS 256
#define MAPS 1024
#define PAGE 4096u

static uint32_t current;
static uint32_t handles;
static struct fake_xen_totals done;

void fake_xen_domain(uint32_t domid)
{
    current = domid;
}

static const char *failing;
static unsigned failing_in;

void fake_xen_fail(const char *function, unsigned nth)
{
    failing = function;
    failing_in = nth;
}

static bool fails(const char *function)
{
    if (!failing || strcmp(failing, function) || --failing_in)
        return false;
    failing = NULL;
    errno = ENOMEM;
    return true;
}

/* ---- xenstore ---- */

struct node {
    char path[192];
    char value[512];
    uint32_t owner, reader;
};
static struct node *nodes[NODES];
static uint32_t node_count;
static void (*write_hook)(const char *path, const char *value);

struct watch {
    struct watch *next;
    char path[192], token[32];
};
struct event {
    struct event *next;
    char path[192], token[32];
};
struct xs_handle {
    struct xs_handle *next;
    uint32_t domid;
    int fd;
    struct watch *watches;
    struct event *first, **last;
};
static struct xs_handle *stores;

static void full_path(const struct xs_handle *h, const char *path, char out[192])
{
    if (path[0] == '/' || path[0] == '@')
        snprintf(out, 192, "%s", path);
    else
        snprintf(out, 192, "/local/domain/%u/%s", h->domid, path);
}

static struct node *node_find(const char *path)
{
    for (uint32_t i = 0; i < node_count; i++)
        if (!strcmp(nodes[i]->path, path))
            return nodes[i];
    return NULL;
}

static bool below(const char *path, const char *root)
{
    size_t n = strlen(root);

    return !strncmp(path, root, n) && (path[n] == '/' || path[n] == '\0');
}

static void event_push(struct xs_handle *h, const char *path, const char *token)
{
    struct event *e = calloc(1, sizeof(*e));
    uint64_t one = 1;

    snprintf(e->path, sizeof(e->path), "%s", path);
    snprintf(e->token, sizeof(e->token), "%s", token);
    *h->last = e;
    h->last = &e->next;
    if (write(h->fd, &one, sizeof(one)) < 0)
        abort();
}

static void fire(const char *path)
{
    for (struct xs_handle *h = stores; h; h = h->next)
        for (struct watch *w = h->watches; w; w = w->next)
            if (below(path, w->path) || below(w->path, path))
                event_push(h, below(path, w->path) ? path : w->path, w->token);
}

/* The node, made with its parents where it is not there; a parent's owner and reader are passed on. */
static struct node *node_make(const char *path, uint32_t by)
{
    struct node *n = node_find(path), *parent = NULL;
    char up[192];

    if (n)
        return n;
    snprintf(up, sizeof(up), "%s", path);
    char *slash = strrchr(up, '/');
    if (slash && slash != up) {
        *slash = '\0';
        parent = node_make(up, by);
        if (!parent)
            return NULL;
    }
    if (by && (!parent || parent->owner != by)) {
        errno = EACCES;
        return NULL;
    }
    if (node_count == NODES)
        abort();
    n = calloc(1, sizeof(*n));
    snprintf(n->path, sizeof(n->path), "%s", path);
    n->owner = parent ? parent->owner : 0;
    n->reader = parent ? parent->reader : 0;
    nodes[node_count++] = n;
    return n;
}

const char *fake_xen_node(const char *path)
{
    struct node *n = node_find(path);

    return n ? n->value : NULL;
}

void fake_xen_on_write(void (*hook)(const char *path, const char *value))
{
    write_hook = hook;
}

struct xs_handle *xs_open(unsigned long flags)
{
    if (fails(__func__))
        return NULL;
    struct xs_handle *h = calloc(1, sizeof(*h));

    h->domid = current;
    h->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    h->last = &h->first;
    h->next = stores;
    stores = h;
    handles++;
    return h;
}

void xs_close(struct xs_handle *h)
{
    for (struct xs_handle **p = &stores; *p; p = &(*p)->next)
        if (*p == h) {
            *p = h->next;
            break;
        }
    while (h->watches) {
        struct watch *w = h->watches;
        h->watches = w->next;
        free(w);
    }
    while (h->first) {
        struct event *e = h->first;
        h->first = e->next;
        free(e);
    }
    close(h->fd);
    free(h);
    handles--;
}

int xs_fileno(struct xs_handle *h)
{
    return h->fd;
}

void *xs_read(struct xs_handle *h, xs_transaction_t t, const char *path, unsigned int *len)
{
    char full[192];

    done.reads++;
    if (h->domid && fails(__func__))
        return NULL;
    full_path(h, path, full);
    struct node *n = node_find(full);
    if (!n || (h->domid && n->owner != h->domid && n->reader != h->domid)) {
        errno = n ? EACCES : ENOENT;
        return NULL;
    }
    *len = (unsigned)strlen(n->value);
    return strdup(n->value);
}

bool xs_write(struct xs_handle *h, xs_transaction_t t, const char *path, const void *data, unsigned int len)
{
    char full[192];

    full_path(h, path, full);
    if (h->domid == 0 && fails(__func__))
        return false;
    struct node *n = node_make(full, h->domid);
    if (!n || (h->domid && n->owner != h->domid) || len >= sizeof(n->value)) {
        errno = EACCES;
        return false;
    }
    memcpy(n->value, data, len);
    n->value[len] = '\0';
    if (write_hook)
        write_hook(full, n->value);
    fire(full);
    return true;
}

bool xs_mkdir(struct xs_handle *h, xs_transaction_t t, const char *path)
{
    char full[192];

    full_path(h, path, full);
    return node_find(full) || xs_write(h, t, full, "", 0);
}

bool xs_rm(struct xs_handle *h, xs_transaction_t t, const char *path)
{
    char full[192];
    uint32_t kept = 0;

    full_path(h, path, full);
    struct node *n = node_find(full);
    if (!n || (h->domid && n->owner != h->domid)) {
        errno = n ? EACCES : ENOENT;
        return false;
    }
    for (uint32_t i = 0; i < node_count; i++) {
        if (below(nodes[i]->path, full))
            free(nodes[i]);
        else
            nodes[kept++] = nodes[i];
    }
    node_count = kept;
    fire(full);
    return true;
}

char **xs_directory(struct xs_handle *h, xs_transaction_t t, const char *path, unsigned int *num)
{
    char full[192], names[64][64];
    unsigned n = 0;

    full_path(h, path, full);
    size_t root = strlen(full);
    for (uint32_t i = 0; i < node_count && n < 64; i++) {
        const char *rest = nodes[i]->path + root + 1;
        if (!below(nodes[i]->path, full) || strlen(nodes[i]->path) <= root || strchr(rest, '/'))
            continue;
        snprintf(names[n++], sizeof(names[0]), "%.63s", rest);
    }
    char **out = calloc(1, n * (sizeof(char *) + 64) + 1);
    char *text = (char *)(out + n);
    for (unsigned i = 0; i < n; i++) {
        out[i] = text + i * 64;
        memcpy(out[i], names[i], 64);
    }
    *num = n;
    return out;
}

struct xs_permissions *xs_get_permissions(struct xs_handle *h, xs_transaction_t t, const char *path, unsigned int *num)
{
    char full[192];

    full_path(h, path, full);
    struct node *n = node_find(full);
    if (!n)
        return NULL;
    struct xs_permissions *p = calloc(2, sizeof(*p));
    p[0].id = n->owner;
    p[1].id = n->reader;
    p[1].perms = XS_PERM_READ;
    *num = 2;
    return p;
}

bool xs_set_permissions(struct xs_handle *h, xs_transaction_t t, const char *path, struct xs_permissions *perms,
                        unsigned int num)
{
    char full[192];

    full_path(h, path, full);
    struct node *n = node_find(full);
    if (!n || h->domid)
        return false;
    n->owner = perms[0].id;
    n->reader = num > 1 ? perms[1].id : 0;
    return true;
}

bool xs_watch(struct xs_handle *h, const char *path, const char *token)
{
    if (fails(__func__))
        return false;
    struct watch *w = calloc(1, sizeof(*w));

    full_path(h, path, w->path);
    snprintf(w->token, sizeof(w->token), "%s", token);
    w->next = h->watches;
    h->watches = w;
    event_push(h, w->path, w->token); /* each watch fires at once */
    return true;
}

bool xs_unwatch(struct xs_handle *h, const char *path, const char *token)
{
    char full[192];

    full_path(h, path, full);
    for (struct watch **p = &h->watches; *p; p = &(*p)->next)
        if (!strcmp((*p)->path, full) && !strcmp((*p)->token, token)) {
            struct watch *w = *p;
            *p = w->next;
            free(w);
            return true;
        }
    return false;
}

char **xs_check_watch(struct xs_handle *h)
{
    struct event *e = h->first;
    uint64_t all;

    if (!e) {
        if (read(h->fd, &all, sizeof(all)) < 0 && errno != EAGAIN)
            abort();
        errno = EAGAIN;
        return NULL;
    }
    h->first = e->next;
    if (!h->first)
        h->last = &h->first;
    char **out = calloc(1, 2 * sizeof(char *) + sizeof(e->path) + sizeof(e->token));
    out[XS_WATCH_PATH] = (char *)(out + 2);
    out[XS_WATCH_TOKEN] = (char *)(out + 2) + sizeof(e->path);
    memcpy(out[XS_WATCH_PATH], e->path, sizeof(e->path));
    memcpy(out[XS_WATCH_TOKEN], e->token, sizeof(e->token));
    free(e);
    return out;
}

static void node_set(const char *path, const char *value, uint32_t owner, uint32_t reader)
{
    struct node *n = node_make(path, 0);

    snprintf(n->value, sizeof(n->value), "%s", value);
    n->owner = owner;
    n->reader = reader;
}

void fake_xen_domain_create(uint32_t domid, const char *uuid)
{
    char path[64], value[64];

    snprintf(path, sizeof(path), "/local/domain/%u", domid);
    node_set(path, "", 0, domid);
    snprintf(path, sizeof(path), "/local/domain/%u/domid", domid);
    snprintf(value, sizeof(value), "%u", domid);
    node_set(path, value, 0, domid);
    snprintf(path, sizeof(path), "/local/domain/%u/vm", domid);
    snprintf(value, sizeof(value), "/vm/%s", uuid);
    node_set(path, value, 0, domid);
    fire("@introduceDomain");
}

void fake_xen_domain_destroy(uint32_t domid)
{
    struct xs_handle toolstack = {0};
    char path[64];

    snprintf(path, sizeof(path), "/local/domain/%u", domid);
    xs_rm(&toolstack, XBT_NULL, path);
    fire("@releaseDomain");
}

/* ---- event channels ---- */

struct core { /* what is behind a descriptor, however many handles name it */
    uint32_t domid;
    uint32_t users;
    int in;
    ino_t inode;
};
struct xenevtchn_handle {
    struct core *core;
    int fd;
};
static struct port {
    bool used, masked, pending;
    bool lost; /* in a restore: what is left of it in the guest's kernel */
    uint32_t domid, remote_domid;
    uint32_t remote; /* 0: unbound */
    struct core *core;
} ports[PORTS];
static struct core *cores[64];

static void deliver(uint32_t port)
{
    struct port *p = &ports[port];

    if (p->masked) {
        p->pending = true;
        return;
    }
    p->masked = true;
    if (write(p->core->in, &port, sizeof(port)) != sizeof(port))
        abort();
}

static void send_event(uint32_t from)
{
    if (from < PORTS && ports[from].used && ports[from].remote)
        deliver(ports[from].remote);
}

xenevtchn_handle *xenevtchn_open(struct xentoollog_logger *logger, unsigned int flags)
{
    xenevtchn_handle *h = calloc(1, sizeof(*h));
    struct stat st;
    int pair[2];

    if (pipe2(pair, O_CLOEXEC) || fstat(pair[0], &st))
        abort();
    h->core = calloc(1, sizeof(*h->core));
    h->core->domid = current;
    h->core->users = 1;
    h->core->in = pair[1];
    h->core->inode = st.st_ino;
    h->fd = pair[0];
    for (int i = 0; i < 64; i++)
        if (!cores[i]) {
            cores[i] = h->core;
            break;
        }
    handles++;
    return h;
}

xenevtchn_handle *xenevtchn_fdopen(struct xentoollog_logger *logger, int fd, unsigned open_flags)
{
    struct stat st;

    if (fstat(fd, &st))
        return NULL;
    for (int i = 0; i < 64; i++)
        if (cores[i] && cores[i]->inode == st.st_ino) {
            xenevtchn_handle *h = calloc(1, sizeof(*h));
            h->core = cores[i];
            h->core->users++;
            h->fd = fd;
            handles++;
            return h;
        }
    errno = EBADF;
    return NULL;
}

int xenevtchn_unbind(xenevtchn_handle *h, evtchn_port_t port)
{
    if (port >= PORTS || !ports[port].used || ports[port].core != h->core)
        return -1;
    if (ports[port].lost)
        abort();
    if (ports[port].remote)
        ports[ports[port].remote].remote = 0;
    memset(&ports[port], 0, sizeof(ports[port]));
    return 0;
}

int xenevtchn_close(xenevtchn_handle *h)
{
    close(h->fd);
    if (--h->core->users == 0) {
        for (uint32_t p = 1; p < PORTS; p++)
            if (ports[p].used && ports[p].core == h->core)
                xenevtchn_unbind(h, p);
        for (int i = 0; i < 64; i++)
            if (cores[i] == h->core)
                cores[i] = NULL;
        close(h->core->in);
        free(h->core);
    }
    free(h);
    handles--;
    return 0;
}

int xenevtchn_fd(xenevtchn_handle *h)
{
    return h->fd;
}

static uint32_t port_make(xenevtchn_handle *h, uint32_t remote_domid)
{
    for (uint32_t p = 1; p < PORTS; p++)
        if (!ports[p].used) {
            ports[p] = (struct port){.used = true, .domid = h->core->domid, .remote_domid = remote_domid, .core = h->core};
            return p;
        }
    abort();
}

xenevtchn_port_or_error_t xenevtchn_bind_unbound_port(xenevtchn_handle *h, uint32_t domid)
{
    return (xenevtchn_port_or_error_t)port_make(h, domid);
}

xenevtchn_port_or_error_t xenevtchn_bind_interdomain(xenevtchn_handle *h, uint32_t domid, evtchn_port_t remote)
{
    if (remote == 0 || remote >= PORTS || !ports[remote].used || ports[remote].domid != domid ||
        ports[remote].remote_domid != h->core->domid || ports[remote].remote) {
        errno = EINVAL;
        return -1;
    }
    uint32_t p = port_make(h, domid);
    ports[p].remote = remote;
    ports[remote].remote = p;
    deliver(p); /* as Xen does */
    return (xenevtchn_port_or_error_t)p;
}

int xenevtchn_notify(xenevtchn_handle *h, evtchn_port_t port)
{
    if (port >= PORTS || !ports[port].used || ports[port].domid != h->core->domid)
        return -1;
    done.sends++;
    send_event(port);
    return 0;
}

static bool rings_on;

void fake_xen_rings_on(bool on)
{
    rings_on = on;
}

xenevtchn_port_or_error_t xenevtchn_pending(xenevtchn_handle *h)
{
    uint32_t port;

    done.takes++;
    if (rings_on)
        return 1;
    return read(h->fd, &port, sizeof(port)) == sizeof(port) ? (xenevtchn_port_or_error_t)port : -1;
}

int xenevtchn_unmask(xenevtchn_handle *h, evtchn_port_t port)
{
    struct port *p = &ports[port];

    if (port >= PORTS || !p->used)
        return -1;
    p->masked = false;
    if (p->pending) {
        p->pending = false;
        deliver(port);
    }
    return 0;
}

/* ---- grants ---- */

struct notice {
    uint32_t off, port; /* port 0: none */
};
static struct grant {
    bool used, writable, written;
    uint32_t domid, to;
    int fd;
    off_t at;
} grants[GRANTS];
struct xengntdev_handle {
    uint32_t domid;
};
static struct map {
    void *at;
    uint32_t pages;
    bool shared; /* by its owner */
    uint32_t refs[64]; /* of the first pages; of a shared one, see first_ref */
    uint32_t first_ref;
    int fd;
    struct notice notice;
} maps[MAPS];

static struct map *map_make(void *at, uint32_t pages)
{
    for (int i = 0; i < MAPS; i++)
        if (!maps[i].at) {
            maps[i] = (struct map){.at = at, .pages = pages, .fd = -1};
            return &maps[i];
        }
    abort();
}

/* The file that is mapped at an address: a mapping may have been moved since it was made. */
static ino_t inode_at(const void *at)
{
    FILE *list = fopen("/proc/self/maps", "r");
    unsigned long long from, to, inode = 0;
    char line[512];

    while (list && fgets(line, sizeof(line), list) && !inode)
        if (sscanf(line, "%llx-%llx %*s %*s %*s %llu", &from, &to, &inode) != 3 || from > (uintptr_t)at || to <= (uintptr_t)at)
            inode = 0;
    if (list)
        fclose(list);
    return (ino_t)inode;
}

static bool map_is(const struct map *m, const void *at, bool shared)
{
    struct stat st;

    if (!m->at || m->shared != shared)
        return false;
    if (!shared)
        return m->at == at;
    return fstat(m->fd, &st) == 0 && st.st_ino == inode_at(at);
}

static void map_end(void *at, bool shared)
{
    for (int i = 0; i < MAPS; i++) {
        struct map *m = &maps[i];
        if (!map_is(m, at, shared))
            continue;
        m->at = at;
        if (m->notice.port) {
            ((uint8_t *)m->at)[m->notice.off] = 0;
            send_event(m->notice.port);
        }
        for (uint32_t p = 0; m->shared && p < m->pages && m->first_ref; p++)
            memset(&grants[m->first_ref + p], 0, sizeof(grants[0]));
        munmap(m->at, (size_t)m->pages * PAGE);
        if (m->fd >= 0)
            close(m->fd);
        memset(m, 0, sizeof(*m));
        return;
    }
    abort(); /* not mapped: a bug of the code under test */
}

static void *handle_open(void)
{
    struct xengntdev_handle *h = calloc(1, sizeof(*h));

    h->domid = current;
    handles++;
    return h;
}

xengnttab_handle *xengnttab_open(struct xentoollog_logger *logger, unsigned open_flags)
{
    return handle_open();
}

xengntshr_handle *xengntshr_open(struct xentoollog_logger *logger, unsigned open_flags)
{
    return handle_open();
}

int xengnttab_close(xengnttab_handle *h)
{
    free(h);
    handles--;
    return 0;
}

int xengntshr_close(xengntshr_handle *h)
{
    free(h);
    handles--;
    return 0;
}

static uint64_t map_costs_ns;

void fake_xen_map_costs(uint64_t ns)
{
    map_costs_ns = ns;
}

static uint64_t thread_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

void *xengnttab_map_domain_grant_refs(xengnttab_handle *h, uint32_t count, uint32_t domid, uint32_t *refs, int prot)
{
    for (uint64_t began = map_costs_ns ? thread_ns() : 0; map_costs_ns && thread_ns() - began < map_costs_ns;)
        ;
    for (uint32_t i = 0; i < count; i++) {
        const struct grant *g = refs[i] < GRANTS ? &grants[refs[i]] : NULL;
        if (!g || !g->used || g->domid != domid || g->to != h->domid || ((prot & PROT_WRITE) && !g->writable)) {
            errno = EINVAL;
            return NULL;
        }
    }
    char *at = mmap(NULL, (size_t)count * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (uint32_t i = 0; i < count; i++) {
        struct grant *g = &grants[refs[i]];
        g->written |= (prot & PROT_WRITE) != 0;
        if (mmap(at + (size_t)i * PAGE, PAGE, prot, MAP_SHARED | MAP_FIXED, g->fd, g->at) == MAP_FAILED)
            abort();
    }
    map_make(at, count);
    done.mapped += count;
    return at;
}

void *xengnttab_map_grant_ref(xengnttab_handle *h, uint32_t domid, uint32_t ref, int prot)
{
    return xengnttab_map_domain_grant_refs(h, 1, domid, &ref, prot);
}

void *xengnttab_map_grant_ref_notify(xengnttab_handle *h, uint32_t domid, uint32_t ref, int prot, uint32_t notify_offset,
                                     evtchn_port_t notify_port)
{
    void *at = xengnttab_map_domain_grant_refs(h, 1, domid, &ref, prot);

    for (int i = 0; at && i < MAPS; i++)
        if (maps[i].at == at)
            maps[i].notice = (struct notice){notify_offset, notify_port};
    return at;
}

int xengnttab_unmap(xengnttab_handle *h, void *start, uint32_t count)
{
    done.unmaps++;
    map_end(start, false);
    return 0;
}

void *xengntshr_share_pages(xengntshr_handle *h, uint32_t domid, int count, uint32_t *refs, int writable)
{
    struct xengntdev_handle *own = (struct xengntdev_handle *)h;
    uint32_t first = 8, free_pages = 0;

    for (uint32_t r = 8; r < GRANTS && free_pages < (uint32_t)count; r++) {
        free_pages = grants[r].used ? 0 : free_pages + 1;
        first = r + 1 - free_pages;
    }
    if (free_pages < (uint32_t)count) {
        errno = ENOSPC;
        return NULL;
    }
    int fd = memfd_create("fake-grants", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, (off_t)count * PAGE))
        abort();
    void *at = mmap(NULL, (size_t)count * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    for (int i = 0; i < count; i++) {
        refs[i] = first + (uint32_t)i;
        grants[refs[i]] = (struct grant){.used = true, .writable = writable != 0, .domid = own->domid, .to = domid, .fd = fd,
                                         .at = (off_t)i * PAGE};
    }
    struct map *m = map_make(at, (uint32_t)count);
    done.granted += (uint32_t)count;
    m->shared = true;
    m->first_ref = first;
    m->fd = fd;
    return at;
}

void *xengntshr_share_page_notify(xengntshr_handle *h, uint32_t domid, uint32_t *ref, int writable, uint32_t notify_offset,
                                  evtchn_port_t notify_port)
{
    void *at = xengntshr_share_pages(h, domid, 1, ref, writable);

    for (int i = 0; at && i < MAPS; i++)
        if (maps[i].at == at)
            maps[i].notice = (struct notice){notify_offset, notify_port};
    return at;
}

int xengntshr_unshare(xengntshr_handle *h, void *start, uint32_t count)
{
    map_end(start, true);
    return 0;
}

void fake_xen_domain_restore(uint32_t domid, const char *uuid)
{
    for (uint32_t p = 1; p < PORTS; p++)
        if (ports[p].used && ports[p].domid == domid) {
            ports[p].lost = true;
            ports[p].remote = 0;
        }
    for (uint32_t i = 0; i < MAPS; i++)
        if (maps[i].at && maps[i].shared && grants[maps[i].first_ref].domid == domid) {
            for (uint32_t p = 0; p < maps[i].pages; p++)
                memset(&grants[maps[i].first_ref + p], 0, sizeof(grants[0]));
            maps[i].first_ref = 0;
        }
    fake_xen_domain_create(domid, uuid);
}

void fake_xen_revoke(uint32_t ref)
{
    grants[ref].used = false;
}

bool fake_xen_written(uint32_t ref)
{
    return grants[ref].written;
}

void fake_xen_count(struct fake_xen_counts *out)
{
    memset(out, 0, sizeof(*out));
    out->handles = handles;
    for (uint32_t i = 0; i < GRANTS; i++)
        out->grants += grants[i].used;
    for (uint32_t i = 0; i < PORTS; i++)
        out->ports += ports[i].used;
    for (uint32_t i = 0; i < MAPS; i++)
        if (maps[i].at && !maps[i].shared)
            out->mapped_pages += maps[i].pages;
}

void fake_xen_total(struct fake_xen_totals *out)
{
    *out = done;
}
