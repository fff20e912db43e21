/* SPDX-License-Identifier: Apache-2.0 */
/* The two sides of a channel. The client or producer says with number STOP that it has ended. */
#include "bench/transport/transport.h"

#include <string.h>
#include <sys/socket.h>

#define STOP 0xffffffffu
#define CREDIT 512u /* of a stream: elements that are not yet acknowledged, at most; the array of io_uring-msg has more */

static void numbered(struct vgpu_slot *item, uint32_t number)
{
    item->w[0] = (uint64_t)number << 32;
}

/* Wakes the other side, too, where it sleeps in a socket: what cannot be sent must not be waited for. */
static bool failed(struct transport_load *l, int rc)
{
    if (rc >= 0)
        return false;
    __atomic_store_n(&l->rc, rc, __ATOMIC_RELAXED); /* relaxed: read when both threads have ended */
    for (int side = 0; side < 2; side++)
        if (l->channel->fd[side] >= 0)
            shutdown(l->channel->fd[side], SHUT_RDWR);
    return true;
}

/* A message with its payload, if there is one: both copy it, as a guest that has its data elsewhere does. */
static int give(struct transport_load *l, struct vgpu_slot *item)
{
    struct channel *c = l->channel;

    if (!l->payload)
        return c->ops->send(c, 0, item, 1);
    memcpy(l->buffer[0], item, sizeof(*item)); /* what the other side checks */
    if (!c->ops->by_reference)
        return c->ops->send_bytes(c, 0, l->buffer[0], l->payload);
    memcpy(c->shared, l->buffer[0], l->payload);
    return c->ops->send(c, 0, item, 1);
}

static int take(struct transport_load *l, struct vgpu_slot *item)
{
    struct channel *c = l->channel;
    int rc;

    if (!l->payload)
        return c->ops->receive(c, 1, item, 1);
    if (c->ops->by_reference) {
        rc = c->ops->receive(c, 1, item, 1);
        if (rc > 0)
            memcpy(l->buffer[1], c->shared, l->payload);
    } else {
        rc = c->ops->receive_bytes(c, 1, l->buffer[1], l->payload);
    }
    memcpy(item, l->buffer[1], sizeof(*item));
    return rc;
}

void transport_rtt_client(void *arg)
{
    struct transport_load *l = arg;
    struct channel *c = l->channel;
    struct vgpu_slot item = {{0}, 0}, answer;
    uint64_t from = vgpu_ticks(), last = from;
    uint32_t number = 0;

    while (last - from < l->ticks && !l->rc) {
        numbered(&item, number);
        if (failed(l, give(l, &item)) || failed(l, c->ops->receive(c, 0, &answer, 1)))
            break;
        l->errors += ring_tag(&answer) != number++;
        uint64_t now = vgpu_ticks();
        bench_hist_add(l->hist, now - last);
        last = now;
    }
    l->count = number;
    l->took = last - from;
    numbered(&item, STOP);
    failed(l, give(l, &item));
}

void transport_rtt_server(void *arg)
{
    struct transport_load *l = arg;
    struct channel *c = l->channel;
    struct vgpu_slot item, answer = {{0}, 0};

    for (;;) {
        if (failed(l, take(l, &item)) || ring_tag(&item) == STOP)
            return;
        numbered(&answer, ring_tag(&item));
        if (failed(l, c->ops->send(c, 1, &answer, 1)))
            return;
    }
}

/* The consumer acknowledges every half of the credit, so that no channel needs to hold more than that. */
void transport_producer(void *arg)
{
    struct transport_load *l = arg;
    struct channel *c = l->channel;
    struct vgpu_slot items[TRANSPORT_BURST_MAX], answer;
    uint64_t from = vgpu_ticks(), sent = 0, acknowledged = 0;
    uint64_t credit = c->bed->slots / 2 < CREDIT ? c->bed->slots / 2 : CREDIT;

    memset(items, 0, sizeof(items));
    while (vgpu_ticks() - from < l->ticks && !l->rc) {
        for (uint32_t i = 0; i < l->burst; i++)
            numbered(&items[i], (uint32_t)(sent + i));
        if (failed(l, c->ops->send(c, 0, items, l->burst)))
            break;
        sent += l->burst;
        while (sent - acknowledged + l->burst > credit) {
            if (failed(l, c->ops->receive(c, 0, &answer, 1)))
                return;
            acknowledged += credit / 2;
        }
    }
    numbered(&items[0], STOP);
    failed(l, c->ops->send(c, 0, items, 1));
}

void transport_consumer(void *arg)
{
    struct transport_load *l = arg;
    struct channel *c = l->channel;
    struct vgpu_slot items[TRANSPORT_BURST_MAX], answer = {{0}, 0};
    uint64_t number = 0, acknowledged = 0, from = vgpu_ticks();
    uint64_t credit = c->bed->slots / 2 < CREDIT ? c->bed->slots / 2 : CREDIT;
    struct ring_window window = {0, from};

    for (;;) {
        int got = c->ops->receive(c, 1, items, l->burst);
        if (failed(l, got))
            break;
        for (int i = 0; i < got; i++) {
            if (ring_tag(&items[i]) == STOP)
                goto out;
            l->errors += ring_tag(&items[i]) != (uint32_t)number++;
        }
        if (number - window.number >= RING_WINDOW)
            ring_window_end(&window, l->hist, number);
        for (; number - acknowledged >= credit / 2; acknowledged += credit / 2)
            if (failed(l, c->ops->send(c, 1, &answer, 1)))
                goto out;
    }
out:
    l->took = vgpu_ticks() - from;
    l->count = number;
}
