/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/ask.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "ctl/client.h"
#include "ctl/direct.h"
#include "ctl/where.h"
#include "store/store.h"

#define RETRY_MS 20
#define OTHER_MS 500

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

/*
 * May this command make the store that is not there yet? One that puts something into it, where vgpud would look for it at
 * its first start: so a VM's hook may come before. A question makes no store, and nothing makes its folder.
 */
static bool first(const char *command, const char *store)
{
    static const char *const put[] = {"attach", "register-vm", "create-pool", "import"};
    char folder[sizeof(((struct vgpu_ctl_where *)0)->store)];
    struct stat st;

    snprintf(folder, sizeof(folder), "%s", store);
    char *slash = strrchr(folder, '/');
    if (!slash || slash == folder)
        return false;
    *slash = 0;
    for (size_t i = 0; i < sizeof(put) / sizeof(put[0]); i++)
        if (!strcmp(command, put[i]))
            return stat(folder, &st) == 0 && S_ISDIR(st.st_mode);
    return false;
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
 * between its end and its socket's, nobody can be asked: both are over soon. What stands in the lock file is only a hint:
 * who is asked is told which file is meant, and refuses when it has another.
 */
static int on_store(const char *config, const char *store, const char *command, json_t *args, struct answer *a)
{
    char socket[VGPU_STORE_SOCKET_BYTES], identity[VGPU_STORE_IDENTITY_BYTES];
    uint64_t start_ms = now_ms();
    int rc;

    do {
        if (vgpu_store_holder(store, socket)) {
            rc = vgpu_store_identity_of(store, identity);
            rc = rc ? vgpu_err_set(a->err, -rc, "store %s: vgpud has it open, and it is gone: %s", store, strerror(-rc))
                    : vgpu_ctl_call(socket, identity, command, args, a->result, &a->refused, a->err);
            bool other = rc == -ESTALE && a->refused;
            if (other) {
                a->refused = false;
                vgpu_err_set(a->err, ESTALE, "store %s: its lock names the vgpud at %s, which has another file open; was it "
                                             "replaced while vgpud ran? then restart vgpud", store, socket);
            }
            bool stays = other && now_ms() - start_ms > OTHER_MS; /* not the text of one that just took over */
            if (stays || (!other && (!nobody(rc, command) || a->refused)))
                return rc;
        } else {
            rc = vgpu_ctl_direct(config, store, command, args, a->result, &a->refused, a->err);
            if (rc != -EBUSY || a->refused)
                return rc;
        }
    } while (again(start_ms));
    return rc;
}

static int ask(const struct vgpu_ctl_line *line, const char *command, json_t *args, struct answer *a)
{
    struct vgpu_ctl_where where;
    struct vgpu_err missing;
    int rc = vgpu_ctl_find(line, &where, a->err);

    if (rc)
        return rc;
    if (line->db)
        return on_store(line->config, line->db, command, args, a);
    rc = vgpu_ctl_call(where.socket, NULL, command, args, a->result, &a->refused, a->err);
    if (!nobody(rc, command) || a->refused)
        return rc;
    if (where.unusable.code)
        return vgpu_err_set(a->err, -rc, "vgpud does not run, and its store cannot be used: %s", where.unusable.text);
    if (!where.store[0] || (access(where.store, F_OK) && !first(command, where.store)))
        return rc;
    /* No daemon there. Whatever stands in the way of the store, the missing daemon is the news. */
    missing = *a->err;
    int direct = on_store(line->config, where.store, command, args, a);
    if (!direct || a->refused)
        return direct;
    if (direct == -EACCES || direct == -EPERM) { /* for vgpud's users the store is none of their business */
        *a->err = missing;
        return rc;
    }
    missing = *a->err;
    return vgpu_err_set(a->err, -rc, "vgpud does not run, and its store cannot be used: %s", missing.text);
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
