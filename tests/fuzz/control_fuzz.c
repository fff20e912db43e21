/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests of any bytes to the control server, which keeps its state (store, tokens) from one to the next: each gets
 * one well-formed response on one line.
 */
#include "fuzz.h"
#include "tests/unit/control/control_rig.h"

static struct control_rig rig;
static struct vgpu_caller caller;

static void leave(void)
{
    control_rig_teardown(&rig);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    control_rig_setup(&rig, 0);
    rig.attached_vm = 2;
    vgpu_caller_self(&caller);
    atexit(leave);
    return 0;
}

static void check_error(const json_t *response)
{
    const json_t *error = json_object_get(response, "error");
    const char *code = json_string_value(json_object_get(error, "code"));
    const char *message = json_string_value(json_object_get(error, "message"));

    fuzz_check(code && code[0] == 'E' && message && message[0], "an error without code or message");
    /* Nothing else can be wrong here: the disk works, there is memory, and all of the daemon's answers are good. */
    static const char *const codes[] = {"EINVAL", "ENOSYS", "ENOENT", "EEXIST", "ENOSPC", "EBUSY",
                                        "ENOTCONN", "EPERM",  "ENOTSUP"};
    for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++)
        if (strcmp(code, codes[i]) == 0)
            return;
    fuzz_check(false, "code %s: %s", code, message);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    json_error_t why;
    size_t n = 0;
    char *text = vgpu_control_handle(rig.control, &caller, (const char *)data, bytes, &n);

    fuzz_check(text, "no response");
    fuzz_check(n > 2 && strlen(text) == n && text[n - 1] == '\n' && memchr(text, '\n', n) == text + n - 1,
               "not one line: %s", text);
    json_t *response = json_loadb(text, n, JSON_REJECT_DUPLICATES, &why);
    fuzz_check(response, "%s: %s", why.text, text);
    const json_t *ok = json_object_get(response, "ok");
    fuzz_check(json_is_boolean(ok) && json_object_size(response) == 2, "%s", text);
    if (json_is_true(ok))
        fuzz_check(json_is_object(json_object_get(response, "result")), "%s", text);
    else
        check_error(response);
    json_decref(response);
    free(text);
    return 0;
}
