/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/ask.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#include "ctl/client.h"
#include "ctl/direct.h"
#include "store/store.h"

#define RETRY_MS 20

struct answer {
    json_t **result;
    bool refused;
    struct vgpu_err *err;
};

/*
 * Is it the whole daemon that is missing, and not only its good will? One that ended before it answered may have done
 * what it was asked: only what can be done twice is asked again.
 */
static bool nobody(int rc, const char *command)
{
    static const char *const once[] = {"register-vm", "remove-vm", "create-pool", "remove-pool", "import"};

    if (rc == -ECONNRESET)
        for (size_t i = 0; i < sizeof(once) / sizeof(once[0]); i++)
            if (!strcmp(command, once[i]))
                return false;
    return rc == -ENOENT || rc == -ECONNREFUSED || rc == -ECONNRESET;
}

static uint64_t now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* Waits a little; false when it has been long enough since start_ms. */
static bool again(uint64_t start_ms)
{
    nanosleep(&(struct timespec){.tv_nsec = RETRY_MS * 1000000}, NULL);
    return now_ms() - start_ms < VGPU_STORE_LOCK_WAIT_MS;
}

/*
 * The owner of this store, or this process as its owner. Between a vgpud that takes the store and its announcement, and
 * between its end and its socket's, nobody can be asked: both are over soon.
 */
static int on_store(const char *store, const char *command, json_t *args, struct answer *a)
{
    char socket[VGPU_STORE_SOCKET_BYTES];
    uint64_t start_ms = now_ms();
    int rc;

    do {
        if (vgpu_store_holder(store, socket)) {
            rc = vgpu_ctl_call(socket, command, args, a->result, &a->refused, a->err);
            if (!nobody(rc, command) || a->refused)
                return rc;
        } else {
            rc = vgpu_ctl_direct(store, command, args, a->result, &a->refused, a->err);
            if (rc != -EBUSY || a->refused)
                return rc;
        }
    } while (again(start_ms));
    return rc;
}

static int ask(const struct vgpu_ctl_line *line, const char *command, json_t *args, struct answer *a)
{
    if (line->db)
        return on_store(line->db, command, args, a);
    int rc = vgpu_ctl_call(line->socket, command, args, a->result, &a->refused, a->err);
    if (line->socket_named || !nobody(rc, command) || a->refused)
        return rc;
    /* No daemon at the default socket. Whatever stands in the way of the store, the missing daemon is the news. */
    struct vgpu_err why;
    uint64_t start_ms = now_ms();
    do {
        int direct = vgpu_ctl_direct(NULL, command, args, a->result, &a->refused, &why);
        if (!direct || a->refused) {
            *a->err = why;
            return direct;
        }
        if (direct == -ENOENT)
            return rc;
        if (direct != -EBUSY)
            return vgpu_err_set(a->err, -rc, "vgpud does not run, and its store cannot be used: %s", why.text);
        /* Somebody has it: a vgpud that starts, and will soon answer. */
        rc = vgpu_ctl_call(line->socket, command, args, a->result, &a->refused, a->err);
    } while (nobody(rc, command) && !a->refused && again(start_ms));
    return rc;
}

int vgpu_ctl_ask(const struct vgpu_ctl_line *line, const char *command, json_t *args, json_t **result, int *exit_code,
                 struct vgpu_err *err)
{
    struct answer a = {.result = result, .err = err};
    json_t *none = args ? NULL : json_object();

    *result = NULL;
    int rc = ask(line, command, args ? args : none, &a);
    json_decref(none);
    /* ENOTCONN: a command that only a daemon can serve, and there is none. */
    *exit_code = !rc                                  ? VGPU_CTL_OK
                 : a.refused && err->code != ENOTCONN ? VGPU_CTL_REFUSED
                 : rc == -E2BIG                       ? VGPU_CTL_USAGE
                                                      : VGPU_CTL_UNREACHABLE;
    return rc;
}
