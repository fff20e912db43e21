/* SPDX-License-Identifier: Apache-2.0 */
/* Administrators: threads that ask the daemon over its control socket, one request after another, on what CPUs are left. */
#include "bench/path/path.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

struct path_clients {
    char to[sizeof(((struct sockaddr_un *)0)->sun_path)];
    uint32_t count;
    uint32_t stop;
    uint64_t asked, refused;
    pthread_t threads[PATH_CLIENTS_MAX];
};

bool path_ask(const char *socket_path, const char *request)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    char answer[4096], first[12] = "";
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    strncpy(to.sun_path, socket_path, sizeof(to.sun_path) - 1);
    bool good = fd >= 0 && connect(fd, (const struct sockaddr *)&to, sizeof(to)) == 0 &&
                write(fd, request, strlen(request)) == (ssize_t)strlen(request);
    size_t had = 0;
    ssize_t n;

    while (good && (n = read(fd, answer, sizeof(answer))) > 0) {
        for (ssize_t i = 0; i < n && had + 1 < sizeof(first); i++)
            first[had++] = answer[i];
    }
    if (fd >= 0)
        close(fd);
    return good && strncmp(first, "{\"ok\":true", 10) == 0;
}

static void *client_main(void *arg)
{
    static const char *const requests[] = {"{\"command\":\"list-vms\"}\n", "{\"command\":\"list-pools\"}\n",
                                           "{\"command\":\"stats\"}\n", "{\"command\":\"show-vm\",\"args\":{\"vm_id\":1}}\n"};
    struct path_clients *c = arg;

    for (uint32_t i = 0; !__atomic_load_n(&c->stop, __ATOMIC_RELAXED); i++) {
        bool good = path_ask(c->to, requests[i % 4]);
        __atomic_fetch_add(good ? &c->asked : &c->refused, 1, __ATOMIC_RELAXED);
    }
    return NULL;
}

struct path_clients *path_clients_start(const struct bench *b, const char *socket_path, uint32_t n)
{
    struct path_clients *c = calloc(1, sizeof(*c));
    pthread_attr_t attr;
    cpu_set_t cpus;

    if (!c)
        return NULL;
    strncpy(c->to, socket_path, sizeof(c->to) - 1);
    /* Not where guest, poll core and executor are, if there are others. */
    CPU_ZERO(&cpus);
    for (int i = b->n_cores > 3 ? 3 : 0; i < b->n_cores; i++)
        CPU_SET(b->cores[i], &cpus);
    pthread_attr_init(&attr);
    if (b->n_cores > 3)
        pthread_attr_setaffinity_np(&attr, sizeof(cpus), &cpus);
    while (c->count < n && c->count < PATH_CLIENTS_MAX &&
           pthread_create(&c->threads[c->count], &attr, client_main, c) == 0)
        c->count++;
    pthread_attr_destroy(&attr);
    return c;
}

uint64_t path_clients_stop(struct path_clients *c, uint64_t *refused)
{
    __atomic_store_n(&c->stop, 1, __ATOMIC_RELAXED);
    for (uint32_t i = 0; i < c->count; i++)
        pthread_join(c->threads[i], NULL);
    uint64_t asked = c->asked;
    *refused = c->refused;
    free(c);
    return asked;
}
