/* SPDX-License-Identifier: Apache-2.0 */
#include "control/control.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "control_rig.h"

/* What comes last of a VM about which nothing was said. */
#define VM_MORE                                                                                                        \
    "\"isolation\":\"shared\",\"iommu_domain\":0,\"admin_state\":\"active\",\"reason\":null,"                          \
    "\"expected\":false,\"pending\":[]"

static struct control_rig rig;

static void setup(void)
{
    control_rig_setup(&rig, 0);
}
static void teardown(void)
{
    control_rig_teardown(&rig);
}
TestSuite(control, .init = setup, .fini = teardown);
TestSuite(control_slow); /* sets up by itself, with short deadlines */
TestSuite(control_child);

static int dial(void)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    strcpy(a.sun_path, rig.socket);
    cr_assert_eq(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0, "%s", strerror(errno));
    return fd;
}

/* Lets the server work, until the client's socket has something or `ms` pass. False: nothing came. */
static bool serve_until(int fd, int ms)
{
    struct pollfd p[2] = {{.fd = vgpu_control_fd(rig.control), .events = POLLIN}, {.fd = fd, .events = POLLIN}};

    while (poll(p, 2, ms) > 0) {
        if (p[1].revents)
            return true;
        vgpu_control_dispatch(rig.control);
    }
    return false;
}

/* Everything up to the server's close. */
static char *receive(int fd)
{
    static char text[1 << 22];
    size_t n = 0;

    while (serve_until(fd, 8000)) {
        ssize_t got = recv(fd, text + n, sizeof(text) - 1 - n, 0);
        if (got < 0 && errno == EAGAIN)
            continue;
        if (got <= 0)
            break;
        n += (size_t)got;
    }
    text[n] = 0;
    return text;
}

static char *ask_bytes(const char *request, size_t bytes)
{
    int fd = dial();
    size_t sent = 0;

    while (sent < bytes) {
        ssize_t n = send(fd, request + sent, bytes - sent, MSG_NOSIGNAL);
        if (n > 0)
            sent += (size_t)n;
        else if (errno != EAGAIN)
            break; /* it answered early */
        vgpu_control_dispatch(rig.control);
    }
    char *text = receive(fd);
    close(fd);
    return text;
}

static char *ask(const char *request)
{
    char line[4096];
    int n = snprintf(line, sizeof(line), "%s\n", request);
    return ask_bytes(line, (size_t)n);
}

/* A result; the test fails when it was refused. */
static json_t *result(const char *request)
{
    char *text = ask(request);
    json_t *response = json_loads(text, JSON_REJECT_DUPLICATES, NULL);

    cr_assert(json_is_true(json_object_get(response, "ok")), "%s\n%s", request, text);
    cr_assert_eq(text[strlen(text) - 1], '\n');
    json_t *r = json_incref(json_object_get(response, "result"));
    json_decref(response);
    return r;
}

/* result() equals this JSON. */
static void answers(const char *request, const char *expected)
{
    json_t *got = result(request), *want = json_loads(expected, 0, NULL);
    char *text = json_dumps(got, JSON_COMPACT);

    cr_assert_not_null(want, "the test's own JSON: %s", expected);
    cr_expect(json_equal(got, want), "%s\n%s\n%s", request, text, expected);
    free(text);
    json_decref(got);
    json_decref(want);
}

static void refused_bytes(const char *request, size_t bytes, const char *code, const char *message)
{
    char *text = ask_bytes(request, bytes);
    json_t *response = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    const json_t *error = json_object_get(response, "error");
    const char *got = json_string_value(json_object_get(error, "message"));

    cr_expect(json_is_false(json_object_get(response, "ok")), "%.200s\n%.200s", request, text);
    cr_expect_str_eq(json_string_value(json_object_get(error, "code")) ?: "-", code, "%.200s\n%.200s", request, text);
    cr_expect_not_null(strstr(got ?: "", message), "%.200s\n%.300s\nexpected %s", request, text, message);
    json_decref(response);
}

static void refused(const char *request, const char *code, const char *message)
{
    char line[4096];
    int n = snprintf(line, sizeof(line), "%s\n", request);
    refused_bytes(line, (size_t)n, code, message);
}

static uint32_t vm_count(void)
{
    json_t *r = result("{\"command\":\"list-vms\"}");
    uint32_t n = (uint32_t)json_array_size(json_object_get(r, "vms"));
    json_decref(r);
    return n;
}

static void token_path(uint32_t id, char out[128])
{
    snprintf(out, 128, "%s/tokens/vm-%u.token", rig.dir, id);
}

Test(control, version)
{
    answers("{\"command\":\"version\"}", "{\"version\":\"" VGPU_VERSION "\",\"abi\":\"1.1\"}");
    answers(" { \"args\" : { } , \"command\" : \"version\" } \r", "{\"version\":\"" VGPU_VERSION "\",\"abi\":\"1.1\"}");
}

Test(control, register_show_list_remove)
{
    char request[512], expected[1024];
    uint32_t uid = geteuid();

    snprintf(
        request, sizeof(request),
        "{\"command\":\"register-vm\",\"args\":{\"vm_ids\":[2,1],\"pool\":\"A\",\"priority\":\"high\","
        "\"engine\":\"resident\","
        "\"uid\":%u}}",
        uid);
    snprintf(expected, sizeof(expected),
             "{\"vms\":[{\"vm_id\":2,\"token_file\":\"%s/tokens/vm-2.token\"},{\"vm_id\":1,\"token_file\":\"%s/tokens/"
             "vm-1.token\"}]}",
             rig.dir, rig.dir);
    answers(request, expected);
    answers("{\"command\":\"register-vm\",\"args\":{\"vm_ids\":[9],\"pool\":\"B\",\"name\":\"nine\",\"in_flight\":16,"
            "\"arena_bytes\":4096,\"device_bytes\":0}}",
            "{\"vms\":[{\"vm_id\":9,\"token_file\":null}]}");
    answers("{\"command\":\"show-vm\",\"args\":{\"vm_id\":9}}",
            "{\"vm\":{\"vm_id\":9,\"name\":\"nine\",\"uuid\":null,\"pool\":\"B\",\"priority\":\"medium\","
            "\"engine\":\"auto\",\"state\":\"registered\","
            "\"uid\":null,\"pid\":null,\"in_flight\":16,\"arena_bytes\":4096,\"attached_arena_bytes\":null,"
            "\"arena_access\":null,"
            "\"device_bytes\":0,\"token_file\":null,\"broken_reason\":null," VM_MORE "}}");
    rig.attached_vm = 1;
    rig.attached_state = "broken";
    snprintf(
        expected, sizeof(expected),
        "{\"vms\":[{\"vm_id\":1,\"name\":\"vm-1\",\"uuid\":null,\"pool\":\"A\",\"priority\":\"high\","
        "\"engine\":\"resident\",\"state\":\"broken\","
        "\"uid\":%u,\"pid\":4242,\"in_flight\":1024,\"arena_bytes\":67108864,\"attached_arena_bytes\":1048576,"
        "\"arena_access\":\"bounce\","
        "\"device_bytes\":67108864,\"token_file\":\"%s/tokens/vm-1.token\",\"broken_reason\":\"a submission slot ran "
        "ahead\"," VM_MORE "},{\"vm_id\":2,\"name\":\"vm-2\",\"uuid\":null,\"pool\":\"A\",\"priority\":\"high\","
        "\"engine\":\"resident\",\"state\":\"registered\","
        "\"uid\":%u,\"pid\":null,\"in_flight\":1024,\"arena_bytes\":67108864,\"attached_arena_bytes\":null,"
        "\"arena_access\":null,"
        "\"device_bytes\":67108864,\"token_file\":\"%s/tokens/vm-2.token\",\"broken_reason\":null," VM_MORE "}]}",
        uid, rig.dir, uid, rig.dir);
    answers("{\"command\":\"list-vms\",\"args\":{\"pool\":\"A\",\"priority\":\"high\"}}", expected);
    answers("{\"command\":\"list-vms\",\"args\":{\"priority\":\"low\"}}", "{\"vms\":[]}");
    refused("{\"command\":\"remove-vm\",\"args\":{\"vm_ids\":[2,1]}}", "EBUSY", "VM 1 is broken; stop it first");
    cr_assert_eq(vm_count(), 3, "all or nothing");
    rig.attached_vm = 0;
    refused("{\"command\":\"remove-vm\",\"args\":{\"vm_ids\":[2,3]}}", "ENOENT", "VM 3 is not registered");
    cr_assert_eq(vm_count(), 3, "all or nothing");
    answers("{\"command\":\"remove-vm\",\"args\":{\"vm_ids\":[2,9]}}", "{\"removed\":[2,9]}");
    cr_assert_eq(vm_count(), 1);
}

Test(control, token_files)
{
    char request[256], path[128], text[64] = "", dir[64];
    struct stat st;
    struct vgpu_vm_record vm;
    struct vgpu_err err;

    snprintf(dir, sizeof(dir), "%s/tokens", rig.dir);
    cr_assert_eq(stat(dir, &st), 0);
    cr_assert_eq(st.st_mode & 07777, 0711, "entered, not listed");
    snprintf(request, sizeof(request),
             "{\"command\":\"register-vm\",\"args\":{\"vm_ids\":[5],\"pool\":\"A\",\"uid\":%u}}", geteuid());
    json_decref(result(request));
    token_path(5, path);
    cr_assert_eq(stat(path, &st), 0);
    cr_assert_eq(st.st_mode & 07777, 0600);
    cr_assert_eq(st.st_uid, geteuid());
    FILE *f = fopen(path, "r");
    cr_assert_eq(fread(text, 1, sizeof(text), f), 33);
    fclose(f);
    cr_assert_eq(vgpu_store_get_vm(rig.store, 5, &vm, &err), 0);
    for (uint32_t i = 0; i < VGPU_TOKEN_LEN; i++) {
        unsigned byte;
        cr_assert_eq(sscanf(text + 2 * i, "%2x", &byte), 1);
        cr_assert_eq(byte, vm.token[i]);
    }
    cr_assert_eq(text[32], '\n');
    /* run_dir is empty after a reboot: the daemon's start brings the files back, and removes those of nobody. */
    vgpu_control_close(rig.control);
    cr_assert_eq(unlink(path), 0);
    char stale[128], foreign[128];
    token_path(77, stale);
    snprintf(foreign, sizeof(foreign), "%s/tokens/README", rig.dir);
    fclose(fopen(stale, "w"));
    fclose(fopen(foreign, "w"));
    cr_assert_eq(control_rig_open(&rig, 0, &err), 0, "%s", err.text);
    cr_assert_eq(access(path, R_OK), 0);
    cr_assert_eq(access(stale, F_OK), -1);
    cr_assert_eq(access(foreign, F_OK), 0);
    json_decref(result("{\"command\":\"remove-vm\",\"args\":{\"vm_ids\":[5]}}"));
    cr_assert_eq(access(path, F_OK), -1);
}

Test(control, another_users_token_belongs_to_him)
{
    char path[128];
    struct stat st;

    if (geteuid() != 0) { /* then the change of owner is refused, and nothing stays behind */
        refused("{\"command\":\"register-vm\",\"args\":{\"vm_ids\":[5],\"pool\":\"A\",\"uid\":12345}}", "EPERM",
                "run vgpud as root");
        cr_assert_eq(vm_count(), 0);
        return;
    }
    json_decref(result("{\"command\":\"register-vm\",\"args\":{\"vm_ids\":[5],\"pool\":\"A\",\"uid\":12345}}"));
    token_path(5, path);
    cr_assert_eq(stat(path, &st), 0);
    cr_assert_eq(st.st_uid, 12345);
    cr_assert_eq(st.st_mode & 07777, 0600);
}

Test(control, a_token_that_cannot_be_written_takes_the_registration_back)
{
    char path[128], inside[160];

    /* Directories where the files of VM 2 would go: one cannot be renamed over. */
    token_path(2, path);
    snprintf(inside, sizeof(inside), "%s/x", path);
    cr_assert_eq(mkdir(path, 0700) | mkdir(inside, 0700), 0);
    refused("{\"command\":\"register-vm\",\"args\":{\"vm_ids\":[1,2],\"pool\":\"A\",\"uid\":0}}",
            geteuid() ? "EPERM" : "EISDIR", geteuid() ? "cannot give" : "cannot write");
    cr_assert_eq(vm_count(), 0);
    token_path(1, path);
    cr_assert_eq(access(path, F_OK), -1);
}

Test(control, list_pools)
{
    json_decref(result("{\"command\":\"register-vm\",\"args\":{\"vm_ids\":[1,2],\"pool\":\"A\"}}"));
    rig.pool_b_down = true;
    rig.fallback = "cuda does not work here: no driver";
    rig.fault = "exited with status 3 (device lost: Xid 79)";
    answers(
        "{\"command\":\"list-pools\"}",
        "{\"pools\":[{\"name\":\"A\",\"capacity\":3,\"members\":2,\"executor\":\"exec-A\",\"backend\":\"cpu\","
        "\"device\":null,\"fallback\":\"cuda does not work here: no driver\",\"fault\":\"exited with status 3 (device "
        "lost: Xid 79)\",\"state\":\"up\",\"executor_pid\":77,\"sm_share\":0},{\"name\":\"B\",\"capacity\":32,\"members\":0,"
        "\"executor\":\"exec-B\","
        "\"backend\":\"cpu\",\"device\":null,\"fallback\":null,"
        "\"fault\":null,\"state\":\"down\",\"executor_pid\":null,\"sm_share\":0}]}");
    struct vgpu_err err;
    rig.pool_b_down = false;
    json_t *both = result("{\"command\":\"list-pools\"}");
    cr_assert_str_eq(json_string_value(json_object_get(json_array_get(json_object_get(both, "pools"), 1), "device")),
                     "a GPU");
    json_decref(both);
    struct vgpu_pool_record old = {.name = "old", .capacity = 1};
    cr_assert_eq(vgpu_store_put_pool(rig.store, &old, &err), 0);
    json_t *r = result("{\"command\":\"list-pools\"}");
    cr_assert_eq(json_array_size(json_object_get(r, "pools")), 3);
    json_decref(r);
    answers("{\"command\":\"list-vms\",\"args\":{\"pool\":\"old\"}}", "{\"vms\":[]}");
}

Test(control, stats)
{
    json_t *r = result("{\"command\":\"stats\"}");
    cr_assert_eq(json_array_size(json_object_get(r, "vms")), 1);
    json_decref(r);
    refused("{\"command\":\"stats\",\"args\":{\"vm_id\":3}}", "ENOENT", "VM 3 is not registered");
    json_decref(result("{\"command\":\"register-vm\",\"args\":{\"vm_ids\":[3],\"pool\":\"A\"}}"));
    r = result("{\"command\":\"stats\",\"args\":{\"vm_id\":3}}");
    cr_assert_eq(json_array_size(json_object_get(r, "vms")), 0);
    json_decref(r);
    rig.stats_fail = true;
    refused("{\"command\":\"stats\"}", "ENOMEM", "out of memory");
}

Test(control, iommu_status)
{
    json_decref(result("{\"command\":\"register-vm\",\"args\":{\"vm_ids\":[3,4],\"pool\":\"A\"}}"));
    json_t *r = result("{\"command\":\"show-iommu-status\"}");
    cr_assert_eq(json_array_size(json_object_get(r, "vms")), 2);
    cr_expect(json_is_boolean(json_object_get(r, "enabled")));
    cr_expect(json_is_array(json_object_get(r, "groups")) && json_is_array(json_object_get(r, "domains")));
    cr_expect(json_is_object(json_object_get(r, "faults")));
    json_decref(r);
    r = result("{\"command\":\"show-iommu-status\",\"args\":{\"vm_id\":4}}");
    const json_t *vms = json_object_get(r, "vms");
    cr_assert_eq(json_array_size(vms), 1);
    cr_expect_eq(json_integer_value(json_object_get(json_array_get(vms, 0), "vm_id")), 4);
    json_decref(r);
    refused("{\"command\":\"show-iommu-status\",\"args\":{\"vm_id\":5}}", "ENOENT", "VM 5 is not registered");
}

Test(control, registrations_that_are_refused)
{
    static const struct {
        const char *args, *code, *message;
    } bad[] = {
        {"{}", "EINVAL", "register-vm needs the argument vm_ids"},
        {"{\"vm_ids\":[1]}", "EINVAL", "register-vm needs the argument pool"},
        {"{\"vm_ids\":[],\"pool\":\"A\"}", "EINVAL", "vm_ids: expected a list of VM ids, at least one"},
        {"{\"vm_ids\":1,\"pool\":\"A\"}", "EINVAL", "vm_ids: expected a list"},
        {"{\"vm_ids\":{\"1\":1},\"pool\":\"A\"}", "EINVAL", "vm_ids: expected a list"},
        {"{\"vm_ids\":[1,0],\"pool\":\"A\"}", "EINVAL", "vm_ids[1]: expected a VM id from 1 to 65535"},
        {"{\"vm_ids\":[65536],\"pool\":\"A\"}", "EINVAL", "vm_ids[0]: expected"},
        {"{\"vm_ids\":[-1],\"pool\":\"A\"}", "EINVAL", "vm_ids[0]: expected"},
        {"{\"vm_ids\":[4294967297],\"pool\":\"A\"}", "EINVAL", "vm_ids[0]: expected"},
        {"{\"vm_ids\":[1.0],\"pool\":\"A\"}", "EINVAL", "vm_ids[0]: expected"},
        {"{\"vm_ids\":[\"1\"],\"pool\":\"A\"}", "EINVAL", "vm_ids[0]: expected"},
        {"{\"vm_ids\":[null],\"pool\":\"A\"}", "EINVAL", "vm_ids[0]: expected"},
        {"{\"vm_ids\":[1,2,1],\"pool\":\"A\"}", "EINVAL", "vm_ids[2]: VM 1 stands there twice"},
        {"{\"vm_ids\":[1,2,3,4],\"pool\":\"A\"}", "ENOSPC", "VM 4: pool A is full"},
        {"{\"vm_ids\":[1],\"pool\":\"a\"}", "ENOENT", "there is no pool a; did you mean A?"},
        {"{\"vm_ids\":[1],\"pool\":\"A \"}", "EINVAL", "pool: \"A \" is not a name"},
        {"{\"vm_ids\":[1],\"pool\":\"\"}", "EINVAL", "pool: \"\" is not a name"},
        {"{\"vm_ids\":[1],\"pool\":7}", "EINVAL", "pool: this is not a name"},
        {"{\"vm_ids\":[1],\"pool\":\"a\\u001b[2J\"}", "EINVAL", "pool: \"a?[2J\" is not a name"},
        {"{\"vm_ids\":[1],\"pool\":\"A\",\"priority\":\"urgent\"}", "EINVAL", "priority: \"urgent\" is no priority"},
        {"{\"vm_ids\":[1],\"pool\":\"A\",\"priority\":0}", "EINVAL", "priority: this is no priority"},
        {"{\"vm_ids\":[1],\"pool\":\"A\",\"engine\":\"fast\"}", "EINVAL",
         "engine: \"fast\" is no engine; expected auto, stream, batch or resident"},
        {"{\"vm_ids\":[1],\"pool\":\"A\",\"engine\":3}", "EINVAL", "engine: this is no engine"},
        {"{\"vm_ids\":[1],\"pool\":\"A\",\"uid\":-1}", "EINVAL", "uid: -1 is out of range; expected 0 to 4294967294"},
        {"{\"vm_ids\":[1],\"pool\":\"A\",\"uid\":4294967295}", "EINVAL", "uid: 4294967295 is out of range"},
        {"{\"vm_ids\":[1],\"pool\":\"A\",\"uid\":\"root\"}", "EINVAL", "uid: expected a whole number"},
        {"{\"vm_ids\":[1],\"pool\":\"A\",\"in_flight\":0}", "EINVAL", "in_flight: 0 is out of range"},
        {"{\"vm_ids\":[1],\"pool\":\"A\",\"in_flight\":1025}", "EINVAL", "more than limits.in_flight"},
        {"{\"vm_ids\":[1],\"pool\":\"A\",\"arena_bytes\":4095}", "EINVAL", "arena_bytes: 4095 is out of range"},
        {"{\"vm_ids\":[1],\"pool\":\"A\",\"arena_bytes\":4294967297}", "EINVAL", "more than limits.max_arena_bytes"},
        {"{\"vm_ids\":[1],\"pool\":\"A\",\"device_bytes\":-1}", "EINVAL", "device_bytes: -1 is out of range"},
        {"{\"vm_ids\":[1],\"pool\":\"A\",\"device_bytes\":1e9}", "EINVAL", "device_bytes: expected a whole number"},
        {"{\"vm_ids\":[1,2],\"pool\":\"A\",\"name\":\"x\"}", "EINVAL", "name: 2 VMs cannot share one"},
        {"{\"vm_ids\":[1],\"pool\":\"A\",\"name\":\"a/b\"}", "EINVAL", "name: \"a/b\" is not a name"},
        {"{\"vm_ids\":[1],\"pool\":\"A\",\"nam\":\"x\"}", "EINVAL", "no argument \"nam\"; did you mean name?"},
        {"{\"vm_ids\":[1],\"pool\":\"A\",\"zzzzzz\":\"x\"}", "EINVAL", "no argument \"zzzzzz\""},
        {"{\"vm_ids\":[1],\"vm_ids\":[2],\"pool\":\"A\"}", "EINVAL", "duplicate object key"},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        char request[512];
        snprintf(request, sizeof(request), "{\"command\":\"register-vm\",\"args\":%s}", bad[i].args);
        refused(request, bad[i].code, bad[i].message);
    }
    cr_assert_eq(vm_count(), 0);
    json_decref(result("{\"command\":\"register-vm\",\"args\":{\"vm_ids\":[2],\"pool\":\"A\"}}"));
    refused("{\"command\":\"register-vm\",\"args\":{\"vm_ids\":[1,2],\"pool\":\"A\"}}", "EEXIST",
            "VM 2 is registered already");
    cr_assert_eq(vm_count(), 1);
}

Test(control, malformed_requests)
{
    static const struct {
        const char *request, *code, *message;
    } bad[] = {
        {"", "EINVAL", "not JSON"},
        {"   ", "EINVAL", "not JSON"},
        {"hello", "EINVAL", "not JSON"},
        {"{", "EINVAL", "not JSON"},
        {"{}}", "EINVAL", "not JSON"},
        {"{\"command\":\"version\"} {}", "EINVAL", "not JSON"},
        {"{\"command\":\"ver\\u0000sion\"}", "EINVAL", "not JSON"},
        {"{\"command\":\"version\xff\"}", "EINVAL", "not JSON"},
        {"{\"command\":\"version\",\"x\":9999999999999999999999}", "EINVAL", "not JSON"},
        {"[]", "EINVAL", "the request is not an object"},
        {"\"version\"", "EINVAL", "the request is not an object"},
        {"null", "EINVAL", "the request is not an object"},
        {"7", "EINVAL", "the request is not an object"},
        {"{}", "EINVAL", "command: expected a command's name"},
        {"{\"command\":5}", "EINVAL", "command: expected a command's name"},
        {"{\"command\":\"version\",\"args\":[]}", "EINVAL", "args: expected an object"},
        {"{\"command\":\"version\",\"args\":null}", "EINVAL", "args: expected an object"},
        {"{\"command\":\"version\",\"arg\":{}}", "EINVAL", "unknown key \"arg\""},
        {"{\"command\":\"version\",\"command\":\"version\"}", "EINVAL", "duplicate object key"},
        {"{\"command\":\"\"}", "ENOSYS", "unknown command \"\""},
        {"{\"command\":\"show-vms\"}", "ENOSYS", "did you mean show-vm?"},
        {"{\"command\":\"reboot\"}", "ENOSYS", "unknown command \"reboot\""},
        {"{\"command\":\"version\",\"args\":{\"x\":1}}", "EINVAL", "version takes no argument \"x\""},
        {"{\"command\":\"show-vm\"}", "EINVAL", "show-vm needs the argument vm_id"},
        {"{\"command\":\"show-vm\",\"args\":{\"vm_id\":0}}", "EINVAL", "vm_id: 0 is out of range; expected 1 to 65535"},
        {"{\"command\":\"show-vm\",\"args\":{\"vm_id\":[1]}}", "EINVAL", "vm_id: expected a whole number"},
        {"{\"command\":\"show-vm\",\"args\":{\"vm_id\":12}}", "ENOENT", "VM 12 is not registered"},
        {"{\"command\":\"remove-vm\",\"args\":{\"vm_ids\":[12]}}", "ENOENT", "VM 12 is not registered"},
        {"{\"command\":\"list-vms\",\"args\":{\"pool\":\"C\"}}", "ENOENT", "there is no pool C"},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        refused(bad[i].request, bad[i].code, bad[i].message);
    refused_bytes("{\"command\":\"version\"}\0\n", 23, "EINVAL", "not JSON");
    refused_bytes("\0\n", 2, "EINVAL", "not JSON");
    refused_bytes("{\"command\":\"version\"}\n{\"command\":\"version\"}\n", 44, "EINVAL", "more than one request");
    /* A very long name and deep nesting. */
    char *deep = malloc(VGPU_CONTROL_MAX_REQUEST_BYTES + 2);
    memset(deep, '[', 60000);
    deep[60000] = '\n';
    refused_bytes(deep, 60001, "EINVAL", "not JSON");
    memset(deep, 'x', 50000);
    memcpy(deep, "{\"command\":\"", 12);
    memcpy(deep + 50000, "\"}\n", 3);
    refused_bytes(deep, 50003, "ENOSYS", "xxx...\"");
    free(deep);
}

/* A request of so many bytes without its newline, padded with blanks, to `most` bytes of memory. */
static char *padded(size_t bytes, size_t most)
{
    char *text = malloc(most);

    cr_assert_not_null(text);
    memset(text, ' ', most);
    memcpy(text, "{\"command\":\"version\"}", 21);
    if (bytes < most)
        text[bytes] = '\n';
    return text;
}

Test(control, the_longest_request_fits_and_one_byte_more_does_not)
{
    static const size_t good[] = {VGPU_CONTROL_MAX_REQUEST_BYTES, VGPU_CONTROL_MAX_REQUEST_BYTES + 1,
                                  VGPU_CONTROL_MAX_REQUEST_BYTES + 2, 1000000, VGPU_CONTROL_MAX_LONG_BYTES};
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        char *text = padded(good[i], good[i] + 1), *answer = ask_bytes(text, good[i] + 1);
        cr_expect_not_null(strstr(answer, "\"ok\":true"), "%zu bytes: %.200s", good[i], answer);
        free(text);
    }
    char *text = padded(VGPU_CONTROL_MAX_LONG_BYTES + 1, 2 * VGPU_CONTROL_MAX_LONG_BYTES);
    refused_bytes(text, VGPU_CONTROL_MAX_LONG_BYTES + 2, "EMSGSIZE", "at most 33554432 bytes");
    text[VGPU_CONTROL_MAX_LONG_BYTES + 1] = ' '; /* no newline at all */
    refused_bytes(text, 2 * VGPU_CONTROL_MAX_LONG_BYTES, "EMSGSIZE", "at most 33554432 bytes");
    free(text);
}

/* Sends as much as is taken while the server works. */
static size_t push(int fd, const char *text, size_t bytes)
{
    size_t sent = 0;

    for (int idle = 0; sent < bytes && idle < 3;) {
        ssize_t n = send(fd, text + sent, bytes - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
        idle = n > 0 ? 0 : idle + 1;
        sent += n > 0 ? (size_t)n : 0;
        vgpu_control_dispatch(rig.control);
    }
    return sent;
}

/* One long request at a time has the memory for it: the second waits, short ones do not, and it goes on when its turn
 * comes, also where the first goes away or the newline was the first byte that had to wait. */
Test(control, long_requests_take_turns)
{
    const size_t bytes = 3000000;
    char *text = padded(bytes - 1, bytes), *just = padded(VGPU_CONTROL_MAX_REQUEST_BYTES + 1, VGPU_CONTROL_MAX_REQUEST_BYTES + 2);

    for (int gone = 0; gone < 2; gone++) {
        int first = dial(), second = dial(), third = dial();
        size_t had = push(first, text, 1000000);
        cr_assert_eq(had, 1000000);
        size_t waits = push(second, text, bytes);
        cr_expect_lt(waits, 2 * VGPU_CONTROL_MAX_REQUEST_BYTES + 1000000, "the second is read on: %zu", waits);
        push(third, just, VGPU_CONTROL_MAX_REQUEST_BYTES + 2);
        answers("{\"command\":\"version\"}", "{\"version\":\"" VGPU_VERSION "\",\"abi\":\"1.1\"}");
        if (gone) {
            close(first);
            vgpu_control_dispatch(rig.control);
        } else {
            cr_assert_eq(push(first, text + had, bytes - had), bytes - had);
            cr_expect_not_null(strstr(receive(first), "\"ok\":true"));
            close(first);
        }
        size_t rest = push(second, text + waits, bytes - waits);
        cr_assert_eq(rest, bytes - waits, "%d: %zu of %zu, %s", gone, rest, bytes - waits, strerror(errno));
        cr_expect_not_null(strstr(receive(second), "\"ok\":true"));
        cr_expect_not_null(strstr(receive(third), "\"ok\":true"));
        close(second);
        close(third);
    }
    /* Who waits and goes away is forgotten. */
    int first = dial(), second = dial();
    push(first, text, 1000000);
    push(second, text, bytes);
    close(second);
    for (int i = 0; i < 3; i++)
        vgpu_control_dispatch(rig.control);
    struct pollfd p = {.fd = vgpu_control_fd(rig.control), .events = POLLIN};
    cr_expect_eq(poll(&p, 1, 20), 0, "it does not spin");
    push(first, text + 1000000, bytes - 1000000);
    cr_expect_not_null(strstr(receive(first), "\"ok\":true"));
    close(first);
    free(just);
    free(text);
}

Test(control, byte_by_byte_is_fine_and_an_end_before_the_newline_is_not)
{
    static const char request[] = "{\"command\":\"version\"}\n";
    int fd = dial();

    for (size_t i = 0; i < sizeof(request) - 1; i++) {
        cr_assert_eq(send(fd, request + i, 1, MSG_NOSIGNAL), 1);
        vgpu_control_dispatch(rig.control);
    }
    cr_assert_not_null(strstr(receive(fd), "\"ok\":true"));
    close(fd);
    fd = dial();
    cr_assert_eq(send(fd, request, sizeof(request) - 2, MSG_NOSIGNAL), (ssize_t)sizeof(request) - 2);
    shutdown(fd, SHUT_WR);
    cr_assert_not_null(strstr(receive(fd), "the request ended without a newline"));
    close(fd);
    fd = dial();
    shutdown(fd, SHUT_WR);
    cr_assert_str_eq(receive(fd), "", "no request, no answer");
    close(fd);
}

/* Questions for figures that are here together cost one look at what poll cores write; one that comes later gets its own, and
 * so does one behind a change. */
Test(control, questions_that_come_together_share_a_look)
{
    static const char *const asked[] = {"{\"command\":\"stats\"}\n", "{\"command\":\"stats\"}\n",
                                        "{\"command\":\"list-vms\"}\n", "{\"command\":\"stats\"}\n",
                                        "{\"command\":\"register-vm\",\"args\":{\"vm_ids\":[1],\"pool\":\"A\"}}\n",
                                        "{\"command\":\"stats\"}\n", "{\"command\":\"stats\",\"args\":{\"vm_id\":1}}\n"};
    enum { ASKED = sizeof(asked) / sizeof(asked[0]) };
    int fds[ASKED];

    for (int round = 1; round <= 2; round++) {
        for (int i = 0; i < ASKED; i++) {
            fds[i] = dial();
            cr_assert_eq(send(fds[i], asked[i], strlen(asked[i]), MSG_NOSIGNAL), (ssize_t)strlen(asked[i]));
        }
        vgpu_control_dispatch(rig.control);
        for (int i = 0; i < ASKED; i++) {
            char *text = receive(fds[i]);
            cr_expect_not_null(strstr(text, round == 2 && i == 4 ? "EEXIST" : "\"ok\":true"), "%d: %s", i, text);
            close(fds[i]);
        }
        cr_expect_eq(rig.looks, (unsigned)(3 * round), "%u looks in %d rounds", rig.looks, round);
    }
}

/* Slow, silent and vanished clients, more of them than there are slots, and an honest one behind them. */
Test(control_slow, slow_clients_are_bounded_and_end)
{
    int slow[VGPU_CONTROL_MAX_CLIENTS];

    control_rig_setup(&rig, 2000); /* a starved machine is to have all of them here before it is over */
    for (uint32_t i = 0; i < VGPU_CONTROL_MAX_CLIENTS; i++) {
        slow[i] = dial();
        if (i % 2)
            cr_assert_eq(send(slow[i], "{\"comm", 6, MSG_NOSIGNAL), 6);
        vgpu_control_dispatch(rig.control);
    }
    int honest = dial();
    cr_assert_eq(send(honest, "{\"command\":\"version\"}\n", 22, MSG_NOSIGNAL), 22);
    cr_assert_not(serve_until(honest, 50), "all slots are taken, and the server does not spin");
    cr_assert_not_null(strstr(receive(honest), "\"ok\":true"), "served once the deadline freed a slot");
    close(honest);
    for (uint32_t i = 0; i < VGPU_CONTROL_MAX_CLIENTS; i++) {
        char *text = receive(slow[i]);
        cr_expect_not_null(strstr(text, "\"ETIMEDOUT\""), "client %u: %s", i, text);
        close(slow[i]);
    }
    /* Clients that vanish free their slots at once. */
    for (int round = 0; round < 500; round++) {
        int fd = dial();
        if (round % 3 == 0)
            cr_assert_eq(send(fd, "{\"command\":\"version\"}\n", 22, MSG_NOSIGNAL), 22);
        if (round % 2)
            vgpu_control_dispatch(rig.control);
        close(fd);
        vgpu_control_dispatch(rig.control);
    }
    answers("{\"command\":\"version\"}", "{\"version\":\"" VGPU_VERSION "\",\"abi\":\"1.1\"}");
    control_rig_teardown(&rig);
}

/* A client that asks for much and does not read it: the server neither waits nor keeps it for ever. */
Test(control_slow, a_client_that_does_not_read)
{
    struct vgpu_err err;
    static struct vgpu_vm_record vms[3000];

    control_rig_setup(&rig, 300);
    cr_assert_eq(vgpu_store_put_pool(rig.store, &(struct vgpu_pool_record){.name = "B", .capacity = 4000}, &err), 0);
    for (uint32_t i = 0; i < 3000; i++) {
        vms[i] = (struct vgpu_vm_record){.vm_id = i + 1, .pool = "B", .device_bytes = UINT64_MAX, .uid = -1};
    }
    cr_assert_eq(vgpu_store_add_vms(rig.store, vms, 3000, &err), 0, "%s", err.text);
    int deaf = dial();
    cr_assert_eq(send(deaf, "{\"command\":\"list-vms\"}\n", 23, MSG_NOSIGNAL), 23);
    vgpu_control_dispatch(rig.control);
    answers("{\"command\":\"version\"}", "{\"version\":\"" VGPU_VERSION "\",\"abi\":\"1.1\"}");
    struct pollfd p = {.fd = vgpu_control_fd(rig.control), .events = POLLIN};
    cr_assert_eq(poll(&p, 1, 2000), 1, "its deadline comes");
    vgpu_control_dispatch(rig.control);
    char *text = receive(deaf);
    cr_assert(text[0] && text[strlen(text) - 1] != '\n', "cut off, not complete");
    close(deaf);
    cr_assert_eq(vm_count(), 3000, "one who reads gets it all");
    control_rig_teardown(&rig);
}

Test(control, out_of_descriptors_it_pauses_and_recovers)
{
    struct rlimit old, none;
    int fd = dial();

    cr_assert_eq(getrlimit(RLIMIT_NOFILE, &old), 0);
    none = old;
    none.rlim_cur = (rlim_t)fd; /* all that is below is in use or is refused */
    for (int i = dup(0); i >= 0 && i < fd; i = dup(0))
        ;
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &none), 0);
    vgpu_control_dispatch(rig.control);
    struct pollfd p = {.fd = vgpu_control_fd(rig.control), .events = POLLIN};
    cr_expect_eq(poll(&p, 1, 20), 0, "it does not spin");
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &old), 0);
    cr_assert_eq(send(fd, "{\"command\":\"version\"}\n", 22, MSG_NOSIGNAL), 22);
    cr_assert_not_null(strstr(receive(fd), "\"ok\":true"));
    close(fd);
}

Test(control, sockets_of_the_dead_and_of_the_living)
{
    struct vgpu_control *first = rig.control;
    struct vgpu_err err;
    struct stat st;

    cr_assert_eq(stat(rig.socket, &st), 0);
    cr_assert_eq(st.st_mode & 07777, 0666, "who may is told apart behind it");
    cr_assert_eq(control_rig_open(&rig, 0, &err), -EADDRINUSE);
    cr_assert_not_null(strstr(err.text, "a running vgpud serves it"), "%s", err.text);
    rig.control = first;
    cr_assert_eq(access(rig.socket, F_OK), 0, "the refused one did not take the socket away");
    answers("{\"command\":\"version\"}", "{\"version\":\"" VGPU_VERSION "\",\"abi\":\"1.1\"}");
    vgpu_control_close(rig.control);
    cr_assert_eq(access(rig.socket, F_OK), -1, "a clean end removes it");
    /* A dead daemon leaves its file. */
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    strcpy(a.sun_path, rig.socket);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    cr_assert_eq(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
    close(fd);
    cr_assert_eq(control_rig_open(&rig, 0, &err), 0, "%s", err.text);
    answers("{\"command\":\"version\"}", "{\"version\":\"" VGPU_VERSION "\",\"abi\":\"1.1\"}");
    /* The file is another's by now: close leaves it. */
    cr_assert_eq(unlink(rig.socket), 0);
    fd = open(rig.socket, O_CREAT | O_WRONLY, 0600);
    close(fd);
    vgpu_control_close(rig.control);
    cr_assert_eq(access(rig.socket, F_OK), 0);
    cr_assert_eq(control_rig_open(&rig, 0, &err), -EADDRINUSE);
    cr_assert_not_null(strstr(err.text, "something else is there"), "%s", err.text);
    rig.control = NULL;
}

Test(control, a_token_directory_that_others_may_write_is_refused)
{
    struct vgpu_err err;
    char dir[64];

    snprintf(dir, sizeof(dir), "%s/tokens", rig.dir);
    vgpu_control_close(rig.control);
    cr_assert_eq(chmod(dir, 0777), 0);
    cr_assert_eq(control_rig_open(&rig, 0, &err), -EPERM);
    cr_assert_not_null(strstr(err.text, "others may write to it"), "%s", err.text);
    rig.control = NULL;
}

Test(control_child, other_users_are_refused)
{
    if (geteuid() != 0)
        cr_skip_test("needs root, to become another user");
    struct control_rig_child child = control_rig_start(0);
    int fd, fds[2];
    char text[512] = "";

    cr_assert_eq(chmod(child.dir, 0755) | pipe(fds), 0);
    if (fork() == 0) {
        struct sockaddr_un a = {.sun_family = AF_UNIX};
        if (setresuid(12345, 12345, 12345))
            _exit(1);
        fd = socket(AF_UNIX, SOCK_STREAM, 0);
        strcpy(a.sun_path, child.socket);
        if (connect(fd, (struct sockaddr *)&a, sizeof(a)))
            _exit(1);
        ssize_t n = recv(fd, text, sizeof(text), 0);
        _exit(write(fds[1], text, n > 0 ? (size_t)n : 0) < 0);
    }
    close(fds[1]);
    cr_assert_gt(read(fds[0], text, sizeof(text) - 1), 0);
    close(fds[0]);
    cr_assert_not_null(strstr(text, "\"EPERM\""), "%s", text);
    json_t *response = json_loads(text, 0, NULL);
    cr_assert_not_null(response);
    json_decref(response);
    control_rig_stop(&child);
}
