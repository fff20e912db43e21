/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/client.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define CROWDED_MS    20
#define CROWDED_TRIES 250u

static int unreachable(const char *path, int e, struct vgpu_err *err)
{
    const char *advice = e == ENOENT || e == ECONNREFUSED ? "; is vgpud running? --socket names another socket"
                         : e == EACCES || e == EPERM      ? "; only root and vgpud's own user may, try sudo"
                         : e == EAGAIN                    ? "; it does not answer"
                                                          : "";
    return vgpu_err_set(err, e, "cannot reach vgpud at %s: %s%s", path, strerror(e), advice);
}

static int dial(const char *path, int timeout_ms, int *out, struct vgpu_err *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct timeval timeout = {.tv_sec = timeout_ms / 1000};

    if (strlen(path) >= sizeof(address.sun_path))
        return unreachable(path, ENAMETOOLONG, err);
    strcpy(address.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return unreachable(path, errno, err);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
    if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
        int e = errno;
        close(fd);
        return unreachable(path, e, err);
    }
    *out = fd;
    return 0;
}

/* The daemon may answer, and close, before it has read all: then the answer counts, not the broken pipe. */
static void send_all(int fd, const char *text, size_t bytes)
{
    while (bytes) {
        ssize_t n = send(fd, text, bytes, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return;
        text += n;
        bytes -= (size_t)n;
    }
}

/* The whole response; malloc'ed. */
static int receive_all(int fd, const char *path, char **out, size_t *out_bytes, struct vgpu_err *err)
{
    size_t bytes = 0, room = 0;
    char *text = NULL;

    for (;;) {
        if (bytes == room) {
            room = room ? room * 2 : 16384;
            char *more = room <= VGPU_CTL_MAX_RESPONSE_BYTES ? realloc(text, room) : NULL;
            if (!more) {
                free(text);
                return vgpu_err_set(err, ENOMEM, "the answer of vgpud at %s is too long", path);
            }
            text = more;
        }
        ssize_t n = recv(fd, text + bytes, room - bytes, 0);
        if (n < 0 && errno == EINTR)
            continue;
        /* A reset behind a complete line says only that the daemon did not read all of the request. */
        if (n < 0 && !(bytes && text[bytes - 1] == '\n')) {
            int e = errno;
            free(text);
            return unreachable(path, e, err);
        }
        if (n <= 0)
            break;
        bytes += (size_t)n;
    }
    *out = text;
    *out_bytes = bytes;
    return 0;
}

static int errno_of(const char *name)
{
    for (int e = 1; e < 256; e++) {
        const char *known = strerrorname_np(e);
        if (known && !strcmp(known, name))
            return e;
    }
    return EIO;
}

int vgpu_ctl_response(const char *path, const char *text, size_t bytes, json_t **result, bool *refused,
                      struct vgpu_err *err)
{
    json_t *response = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, NULL);
    json_t *ok = json_object_get(response, "ok"), *value = json_object_get(response, "result");
    const json_t *error = json_object_get(response, "error");
    const char *code = json_string_value(json_object_get(error, "code"));
    const char *message = json_string_value(json_object_get(error, "message"));
    int rc;

    if (json_is_true(ok) && json_is_object(value)) {
        *result = json_incref(value);
        rc = 0;
    } else if (json_is_false(ok) && code && message) {
        *refused = true;
        rc = vgpu_err_set(err, errno_of(code), "%s", message);
    } else {
        rc = vgpu_err_set(err, bytes ? EPROTO : ECONNRESET, "vgpud at %s: %s", path,
                          bytes ? "the answer is not of the control protocol" : "closed without an answer");
    }
    json_decref(response);
    return rc;
}

static int call(const char *socket_path, const char *store, const char *command, json_t *args, json_t **result,
                  bool *refused, struct vgpu_err *err)
{
    char *request = NULL, *response = NULL;
    size_t bytes = 0;
    int fd = -1, rc;

    *result = NULL;
    *refused = false;
    json_t *json = json_pack("{s:s,s:O,s:s*}", "command", command, "args", args, "store", store);
    request = json ? json_dumps(json, JSON_COMPACT) : NULL;
    json_decref(json);
    if (!request)
        return vgpu_err_set(err, ENOMEM, "out of memory");
    size_t length = strlen(request);
    if (length > VGPU_CTL_MAX_REQUEST_BYTES) {
        rc = vgpu_err_set(err, E2BIG, "too long for one request, which has at most %u bytes", VGPU_CTL_MAX_REQUEST_BYTES);
        goto out;
    }
    rc = dial(socket_path, length > 65536 ? VGPU_CTL_LONG_TIMEOUT_MS : VGPU_CTL_TIMEOUT_MS, &fd, err);
    if (rc)
        goto out;
    request[length] = '\n'; /* in place of the NUL: it is sent by length */
    send_all(fd, request, length + 1);
    rc = receive_all(fd, socket_path, &response, &bytes, err);
    if (!rc)
        rc = vgpu_ctl_response(socket_path, response, bytes, result, refused, err);
out:
    if (fd >= 0)
        close(fd);
    free(response);
    free(request);
    return rc;
}

/* vgpud says at once that it has no place for one more of us: it has, soon. */
static bool crowded(int rc, const bool *refused, unsigned tries)
{
    if (rc != -EUSERS || !*refused || tries == CROWDED_TRIES)
        return false;
    nanosleep(&(struct timespec){.tv_nsec = CROWDED_MS * 1000000}, NULL);
    return true;
}

int vgpu_ctl_call(const char *socket_path, const char *store, const char *command, json_t *args, json_t **result,
                  bool *refused, struct vgpu_err *err)
{
    unsigned tries = 0;
    int rc;

    do
        rc = call(socket_path, store, command, args, result, refused, err);
    while (crowded(rc, refused, tries++));
    return rc;
}
