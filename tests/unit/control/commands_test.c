/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every command through vgpu_control_handle(), on a real store: what it answers, what it refuses and with which code, that
 * a refusal changes nothing, that what changed is in the history, and who may.
 */
#include <criterion/criterion.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "control/control_int.h"
#include "core/base/clock.h"
#include "control_rig.h"

#define UUID_1 "01234567-89ab-cdef-0123-456789abcdef"
#define UUID_2 "11111111-2222-3333-4444-555555555555"

static struct control_rig rig;
static struct vgpu_caller me;

static void setup(void)
{
    control_rig_setup(&rig, 0);
    vgpu_caller_self(&me);
}
static void teardown(void)
{
    control_rig_teardown(&rig);
}
TestSuite(commands, .init = setup, .fini = teardown);

static json_t *ask_as(const struct vgpu_caller *caller, struct vgpu_control *c, const char *request)
{
    size_t bytes = 0;
    char *text = vgpu_control_handle(c, caller, request, strlen(request), &bytes);
    json_t *response = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, NULL);

    cr_assert(response, "%s: %s", request, text);
    free(text);
    return response;
}

/* The result; fails on a refusal. */
static json_t *done(const char *request)
{
    json_t *response = ask_as(&me, rig.control, request);
    json_t *result = json_incref(json_object_get(response, "result"));

    cr_assert(json_is_true(json_object_get(response, "ok")), "%s: %s", request,
              json_string_value(json_object_get(json_object_get(response, "error"), "message")));
    json_decref(response);
    return result;
}

static void ok(const char *request)
{
    json_decref(done(request));
}

/* All that is stored, as text; what it changes of the history is told by its length. */
static char *stored(size_t *history)
{
    json_t *document = done("{\"command\":\"export\"}"), *list = done("{\"command\":\"history\",\"args\":{\"limit\":10000}}");
    char *text = json_dumps(document, JSON_COMPACT | JSON_SORT_KEYS);

    *history = json_array_size(json_object_get(list, "history"));
    json_decref(document);
    json_decref(list);
    return text;
}

static void refused_as(const struct vgpu_caller *caller, const char *request, const char *code, const char *words)
{
    size_t before_history, after_history;
    char *before = stored(&before_history);
    json_t *response = ask_as(caller, rig.control, request);
    const json_t *error = json_object_get(response, "error");
    const char *message = json_string_value(json_object_get(error, "message"));

    cr_assert(error, "%s was done", request);
    cr_expect_str_eq(json_string_value(json_object_get(error, "code")), code, "%s: %s", request, message);
    cr_expect(strstr(message, words), "%s: %s: expected %s", request, message, words);
    json_decref(response);
    char *after = stored(&after_history);
    cr_expect_str_eq(before, after, "%s changed something", request);
    free(before);
    free(after);
}

static void refused(const char *request, const char *code, const char *words)
{
    refused_as(&me, request, code, words);
}

/* A member of a VM, as text; free() it. */
static char *of_vm(uint32_t vm_id, const char *key)
{
    char request[64];

    snprintf(request, sizeof(request), "{\"command\":\"show-vm\",\"args\":{\"vm_id\":%u}}", vm_id);
    json_t *result = done(request);
    char *text = json_dumps(json_object_get(json_object_get(result, "vm"), key), JSON_ENCODE_ANY | JSON_COMPACT);
    json_decref(result);
    return text;
}

static void expect(uint32_t vm_id, const char *key, const char *value)
{
    char *text = of_vm(vm_id, key);

    cr_expect_str_eq(text, value, "VM %u %s: %s", vm_id, key, text);
    free(text);
}

static void three_vms(void)
{
    ok("{\"command\":\"register-vm\",\"args\":{\"vm_ids\":[1,2],\"pool\":\"A\",\"priority\":\"low\",\"uid\":0}}");
    ok("{\"command\":\"register-vm\",\"args\":{\"vm_ids\":[3],\"pool\":\"B\",\"name\":\"three\",\"uuid\":\"" UUID_1 "\"}}");
}

Test(commands, changes_of_vms)
{
    three_vms();
    ok("{\"command\":\"set-priority\",\"args\":{\"vm_ids\":[1,2],\"priority\":\"high\"}}");
    expect(1, "priority", "\"high\"");
    expect(2, "priority", "\"high\"");
    ok("{\"command\":\"set-pool\",\"args\":{\"vm_ids\":[1],\"pool\":\"B\"}}");
    expect(1, "pool", "\"B\"");
    ok("{\"command\":\"set-limit\",\"args\":{\"vm_ids\":[1,3],\"in_flight\":7,\"device_bytes\":0}}");
    expect(3, "in_flight", "7");
    expect(3, "device_bytes", "0");
    ok("{\"command\":\"set-limit\",\"args\":{\"vm_ids\":[3],\"in_flight\":\"default\",\"device_bytes\":\"default\"}}");
    expect(3, "in_flight", "1024");
    expect(3, "device_bytes", "67108864");
    ok("{\"command\":\"update-vm\",\"args\":{\"vm_ids\":[2],\"name\":\"two\",\"isolation\":\"dedicated\",\"iommu_domain\":4,"
       "\"uuid\":\"11111111-2222-3333-4444-55555555ABCD\",\"engine\":\"batch\"}}");
    expect(2, "name", "\"two\"");
    expect(2, "isolation", "\"dedicated\"");
    expect(2, "iommu_domain", "4");
    expect(2, "uuid", "\"11111111-2222-3333-4444-55555555abcd\"");
    expect(2, "engine", "\"batch\"");
    expect(2, "priority", "\"high\"");
}

Test(commands, decisions_about_vms)
{
    three_vms();
    ok("{\"command\":\"drain-vm\",\"args\":{\"vm_ids\":[1,2],\"reason\":\"host goes down\"}}");
    expect(1, "state", "\"drained\"");
    expect(2, "reason", "\"host goes down\"");
    ok("{\"command\":\"drain-vm\",\"args\":{\"vm_ids\":[1],\"undo\":true}}");
    expect(1, "state", "\"registered\"");
    expect(1, "reason", "null");
    ok("{\"command\":\"quarantine-vm\",\"args\":{\"vm_ids\":[2],\"reason\":\"floods\"}}");
    expect(2, "admin_state", "\"quarantined\"");
    refused("{\"command\":\"drain-vm\",\"args\":{\"vm_ids\":[1,2]}}", "EBUSY", "clear-quarantine --vm-id=2");
    expect(1, "state", "\"registered\"");
    refused("{\"command\":\"attach\",\"args\":{\"vm_id\":2}}", "EPERM", "quarantined: floods");
    ok("{\"command\":\"drain-vm\",\"args\":{\"vm_ids\":[2],\"undo\":true}}"); /* it is not drained: nothing happens */
    expect(2, "admin_state", "\"quarantined\"");
    ok("{\"command\":\"clear-quarantine\",\"args\":{\"vm_ids\":[2]}}");
    expect(2, "admin_state", "\"active\"");
}

Test(commands, hooks_may_say_it_twice)
{
    size_t before, after;

    three_vms();
    ok("{\"command\":\"attach\",\"args\":{\"uuid\":\"" UUID_1 "\"}}");
    expect(3, "expected", "true");
    free(stored(&before));
    ok("{\"command\":\"attach\",\"args\":{\"vm_id\":3}}");
    free(stored(&after));
    cr_assert_eq(before, after, "nothing changed, nothing is noted");
    ok("{\"command\":\"detach\",\"args\":{\"vm_id\":3}}");
    ok("{\"command\":\"detach\",\"args\":{\"vm_id\":3}}");
    expect(3, "expected", "false");
    refused("{\"command\":\"attach\",\"args\":{}}", "EINVAL", "vm_id or uuid");
    ok("{\"command\":\"attach\",\"args\":{\"vm_id\":3,\"uuid\":\"" UUID_1 "\",\"pool\":\"A\"}}");
    expect(3, "pool", "\"B\""); /* what is registered is the administrator's */
    refused("{\"command\":\"attach\",\"args\":{\"vm_id\":2,\"uuid\":\"" UUID_1 "\"}}", "EEXIST", "is VM 3, not VM 2");
    refused("{\"command\":\"detach\",\"args\":{\"vm_id\":2,\"uuid\":\"" UUID_1 "\"}}", "EEXIST", "is VM 3, not VM 2");
    refused("{\"command\":\"attach\",\"args\":{\"vm_id\":3,\"uuid\":\"" UUID_2 "\",\"pool\":\"B\"}}", "EEXIST",
            "is registered with uuid");
    refused("{\"command\":\"attach\",\"args\":{\"uuid\":\"" UUID_2 "\"}}", "ENOENT", "is not registered");
    ok("{\"command\":\"attach\",\"args\":{\"uuid\":\"" UUID_2 "\",\"pool\":\"B\",\"priority\":\"low\"}}");
    expect(4, "uuid", "\"" UUID_2 "\""); /* the lowest that is free */
    expect(4, "expected", "true");
    refused("{\"command\":\"detach\",\"args\":{\"uuid\":\"ffffffff-ffff-ffff-ffff-ffffffffffff\"}}", "ENOENT",
            "is not registered");
}

Test(commands, pools)
{
    three_vms();
    json_t *result = done("{\"command\":\"show-pool\",\"args\":{\"pool\":\"A\"}}");
    cr_assert_eq(json_array_size(json_object_get(result, "vms")), 2);
    json_decref(result);
    ok("{\"command\":\"create-pool\",\"args\":{\"pool\":\"C\",\"capacity\":1,\"executor\":\"exec-A\",\"sm_share\":25}}");
    ok("{\"command\":\"set-pool\",\"args\":{\"vm_ids\":[1],\"pool\":\"C\"}}");
    refused("{\"command\":\"set-pool\",\"args\":{\"vm_ids\":[2],\"pool\":\"C\"}}", "ENOSPC", "is full");
    refused("{\"command\":\"set-pool\",\"args\":{\"vm_ids\":[2,1],\"pool\":\"D\"}}", "ENOENT", "there is no pool D");
    refused("{\"command\":\"remove-pool\",\"args\":{\"pool\":\"C\"}}", "EBUSY", "C");
    refused("{\"command\":\"remove-pool\",\"args\":{\"pool\":\"A\"}}", "EBUSY", "configuration");
    refused("{\"command\":\"create-pool\",\"args\":{\"pool\":\"C\",\"executor\":\"exec-A\"}}", "EEXIST", "C");
    refused("{\"command\":\"create-pool\",\"args\":{\"pool\":\"E\"}}", "EINVAL", "which executor");
    refused("{\"command\":\"update-pool\",\"args\":{\"pool\":\"B\"}}", "EINVAL", "nothing to change");
    ok("{\"command\":\"update-pool\",\"args\":{\"pool\":\"C\",\"capacity\":2}}");
    ok("{\"command\":\"set-pool\",\"args\":{\"vm_ids\":[2],\"pool\":\"C\"}}");
    refused("{\"command\":\"update-pool\",\"args\":{\"pool\":\"C\",\"capacity\":1}}", "ENOSPC", "more VMs");
    ok("{\"command\":\"set-pool\",\"args\":{\"vm_ids\":[1,2],\"pool\":\"A\"}}");
    ok("{\"command\":\"remove-pool\",\"args\":{\"pool\":\"C\"}}");
    refused("{\"command\":\"show-pool\",\"args\":{\"pool\":\"C\"}}", "ENOENT", "there is no pool C");
}

static const struct {
    const char *request, *code, *words;
} wrong[] = {
    {"{\"command\":\"set-priority\",\"args\":{\"vm_ids\":[1,9],\"priority\":\"high\"}}", "ENOENT", "VM 9 is not registered"},
    {"{\"command\":\"set-priority\",\"args\":{\"vm_ids\":[1]}}", "EINVAL", "needs the argument priority"},
    {"{\"command\":\"set-priority\",\"args\":{\"vm_ids\":[1],\"priority\":\"urgent\"}}", "EINVAL", "no priority"},
    {"{\"command\":\"set-limit\",\"args\":{\"vm_ids\":[1]}}", "EINVAL", "no limit given"},
    {"{\"command\":\"set-limit\",\"args\":{\"vm_ids\":[1],\"in_flight\":\"many\"}}", "EINVAL", "or \"default\""},
    {"{\"command\":\"set-limit\",\"args\":{\"vm_ids\":[1,2],\"in_flight\":60000}}", "EINVAL", "limits.in_flight"},
    {"{\"command\":\"set-limit\",\"args\":{\"vm_ids\":[1],\"arena_bytes\":1099511627776}}", "EINVAL", "max_arena_bytes"},
    {"{\"command\":\"set-limit\",\"args\":{\"vm_ids\":[1],\"device_bytes\":1099511627776}}", "EINVAL", "heap"},
    {"{\"command\":\"update-vm\",\"args\":{\"vm_ids\":[1]}}", "EINVAL", "nothing to change"},
    {"{\"command\":\"update-vm\",\"args\":{\"vm_ids\":[1,2],\"name\":\"same\"}}", "EINVAL", "cannot share"},
    {"{\"command\":\"update-vm\",\"args\":{\"vm_ids\":[1],\"name\":\"three\"}}", "EEXIST", "is taken"},
    {"{\"command\":\"update-vm\",\"args\":{\"vm_ids\":[1],\"uuid\":\"" UUID_1 "\"}}", "EEXIST", "another VM has the uuid"},
    {"{\"command\":\"update-vm\",\"args\":{\"vm_ids\":[1],\"uuid\":\"no-uuid\"}}", "EINVAL", "no UUID"},
    {"{\"command\":\"update-vm\",\"args\":{\"vm_ids\":[1],\"isolation\":\"some\"}}", "EINVAL", "shared|dedicated"},
    {"{\"command\":\"update-vm\",\"args\":{\"vm_ids\":[1],\"iommu_domain\":-1}}", "EINVAL", "out of range"},
    {"{\"command\":\"drain-vm\",\"args\":{\"vm_ids\":[1],\"reason\":\"a\\nb\"}}", "EINVAL", "printable"},
    {"{\"command\":\"drain-vm\",\"args\":{\"vm_ids\":[1],\"reason\":\"\"}}", "EINVAL", "printable"},
    {"{\"command\":\"drain-vm\",\"args\":{\"vm_ids\":[1],\"undo\":1}}", "EINVAL", "true or false"},
    {"{\"command\":\"drain-vm\",\"args\":{\"vm_ids\":[1],\"undo\":true,\"reason\":\"x\"}}", "EINVAL", "takes no reason"},
    {"{\"command\":\"quarantine-vm\",\"args\":{\"vm_ids\":[7]}}", "ENOENT", "VM 7"},
    {"{\"command\":\"history\",\"args\":{\"limit\":0}}", "EINVAL", "out of range"},
    {"{\"command\":\"status\"}", "ENOTCONN", "running vgpud"},
    {"{\"command\":\"reload-config\"}", "ENOTCONN", "running vgpud"},
    {"{\"command\":\"import\",\"args\":{\"document\":[]}}", "EINVAL", "expected an object"},
    {"{\"command\":\"import\",\"args\":{\"document\":{}}}", "EINVAL", "document.format"},
    {"{\"command\":\"import\",\"args\":{\"document\":{\"format\":\"vgpu-registry\",\"version\":2,\"pools\":[],\"vms\":[]}}}",
     "ENOTSUP", "newer"},
    {"{\"command\":\"import\",\"args\":{\"document\":{\"format\":\"vgpu-registry\",\"version\":1,\"pools\":[],\"vms\":[{}]}}}",
     "EINVAL", "document.vms[0].vm_id"},
    {"{\"command\":\"import\",\"args\":{\"document\":{\"format\":\"vgpu-registry\",\"version\":1,\"pools\":[],\"vms\":[{"
     "\"vm_id\":8,\"pool\":\"A\",\"secret\":1}]}}}",
     "EINVAL", "does not know"},
    {"{\"command\":\"import\",\"args\":{\"document\":{\"format\":\"vgpu-registry\",\"version\":1,\"pools\":[],\"vms\":[{"
     "\"vm_id\":8,\"pool\":\"A\"},{\"vm_id\":8,\"pool\":\"A\"}]}}}",
     "EINVAL", "twice"},
    {"{\"command\":\"import\",\"args\":{\"document\":{\"format\":\"vgpu-registry\",\"version\":1,\"pools\":[],\"vms\":[{"
     "\"vm_id\":8,\"pool\":\"A\"},{\"vm_id\":9,\"pool\":\"Z\"}]}}}",
     "ENOENT", "there is no pool Z"},
    {"{\"command\":\"set-prioriti\",\"args\":{}}", "ENOSYS", "did you mean set-priority?"},
};

Test(commands, what_is_wrong_changes_nothing)
{
    three_vms();
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        refused(wrong[i].request, wrong[i].code, wrong[i].words);
}

Test(commands, history_tells_who_and_what)
{
    three_vms();
    ok("{\"command\":\"set-priority\",\"args\":{\"vm_ids\":[1,2],\"priority\":\"high\"}}");
    json_t *result = done("{\"command\":\"history\",\"args\":{\"vm_id\":2}}"), *list = json_object_get(result, "history");
    cr_assert_eq(json_array_size(list), 2);
    const json_t *last = json_array_get(list, 1);
    cr_expect_str_eq(json_string_value(json_object_get(last, "command")), "set-priority");
    cr_expect_str_eq(json_string_value(json_object_get(last, "object")), "vm 2");
    cr_expect_eq(json_integer_value(json_object_get(last, "uid")), geteuid());
    cr_expect_eq(json_integer_value(json_object_get(last, "pid")), getpid());
    cr_expect_str_eq(json_string_value(json_object_get(json_object_get(last, "old"), "priority")), "low");
    cr_expect_str_eq(json_string_value(json_object_get(json_object_get(last, "new"), "priority")), "high");
    char *text = json_dumps(result, 0);
    cr_expect(!strstr(text, "token"), "tokens are no history: %s", text);
    free(text);
    json_decref(result);
}

Test(commands, an_export_can_be_imported)
{
    size_t ignored;

    three_vms();
    ok("{\"command\":\"drain-vm\",\"args\":{\"vm_ids\":[2],\"reason\":\"why not\"}}");
    json_t *exported = done("{\"command\":\"export\"}"), *document = json_object_get(exported, "document");
    char *before = stored(&ignored);
    ok("{\"command\":\"remove-vm\",\"args\":{\"vm_ids\":[1,3]}}");
    ok("{\"command\":\"register-vm\",\"args\":{\"vm_ids\":[50],\"pool\":\"B\"}}");
    ok("{\"command\":\"set-priority\",\"args\":{\"vm_ids\":[2],\"priority\":\"high\"}}");
    for (int dry = 1; dry >= 0; dry--) {
        json_t *request = json_pack("{s:s,s:{s:O,s:s,s:b}}", "command", "import", "args", "document", document, "mode",
                                    "replace", "dry_run", dry);
        char *text = json_dumps(request, 0);
        json_t *result = done(text), *differences = json_object_get(result, "differences");
        cr_expect_eq(json_array_size(json_object_get(differences, "added")), 2);
        cr_expect_eq(json_array_size(json_object_get(differences, "changed")), 1);
        cr_expect_eq(json_array_size(json_object_get(differences, "removed")), 1);
        char *after = stored(&ignored);
        cr_expect(!strcmp(before, after) == !dry, "dry run %d", dry);
        free(after);
        free(text);
        json_decref(result);
        json_decref(request);
    }
    free(before);
    json_decref(exported);
}

Test(commands, who_may_what)
{
    struct vgpu_caller viewer = me, nobody = me;

    viewer.role = VGPU_ROLE_VIEWER;
    nobody.role = VGPU_ROLE_NONE;
    three_vms();
    json_t *response = ask_as(&viewer, rig.control, "{\"command\":\"list-vms\"}");
    cr_assert(json_is_true(json_object_get(response, "ok")));
    json_decref(response);
    refused_as(&viewer, "{\"command\":\"set-priority\",\"args\":{\"vm_ids\":[1],\"priority\":\"high\"}}", "EPERM", "may not");
    refused_as(&viewer, "{\"command\":\"import\",\"args\":{\"document\":{}}}", "EPERM", "may not");
    refused_as(&nobody, "{\"command\":\"list-vms\"}", "EPERM", "may not");
    json_t *result = done("{\"command\":\"history\"}"), *list = json_object_get(result, "history");
    const json_t *last = json_array_get(list, json_array_size(list) - 1);
    cr_expect_str_eq(json_string_value(json_object_get(last, "command")), "list-vms");
    cr_expect_eq(strncmp(json_string_value(json_object_get(last, "result")), "EPERM: ", 7), 0);
    json_decref(result);
}

/* The newest row of the history: its result, and what it is about. */
static void noted(const char *command, const char *object, const char *result_start, const char *new_words)
{
    json_t *result = done("{\"command\":\"history\",\"args\":{\"limit\":1}}");
    const json_t *row = json_array_get(json_object_get(result, "history"), 0), *now = json_object_get(row, "new");
    char *text = json_is_object(now) ? json_dumps(now, JSON_COMPACT) : strdup("null");

    cr_expect_str_eq(json_string_value(json_object_get(row, "command")), command);
    cr_expect_str_eq(json_string_value(json_object_get(row, "object")), object, "%s: %s", command,
                     json_string_value(json_object_get(row, "object")));
    cr_expect_eq(strncmp(json_string_value(json_object_get(row, "result")), result_start, strlen(result_start)), 0, "%s",
                 json_string_value(json_object_get(row, "result")));
    cr_expect(strstr(text, new_words), "%s: %s", text, new_words);
    free(text);
    json_decref(result);
}

/* Whatever would have changed something and was refused is in the history: by whom, what was wanted, and why not. */
Test(commands, refusals_are_noted)
{
    size_t before, after;

    three_vms();
    refused("{\"command\":\"register-vm\",\"args\":{\"vm_ids\":[10,11],\"pool\":\"A\"}}", "ENOSPC", "is full");
    noted("register-vm", "2 VMs", "ENOSPC: VM 11: pool A is full", "\"vm_ids\":[10,11]");
    refused("{\"command\":\"set-pool\",\"args\":{\"vm_ids\":[1],\"pool\":\"D\"}}", "ENOENT", "there is no pool D");
    noted("set-pool", "vm 1", "ENOENT: there is no pool D", "\"pool\":\"D\"");
    refused("{\"command\":\"remove-pool\",\"args\":{\"pool\":\"A\"}}", "EBUSY", "configuration");
    noted("remove-pool", "pool A", "EBUSY: ", "{\"pool\":\"A\"}");
    refused("{\"command\":\"set-priority\",\"args\":{\"vm_ids\":[1],\"priority\":\"a\\nb\"}}", "EINVAL", "no priority");
    noted("set-priority", "", "EINVAL: priority: ", "null");
    refused("{\"command\":\"import\",\"args\":{\"document\":{},\"mode\":\"merge\"}}", "EINVAL", "document.format");
    noted("import", "", "EINVAL: document.format", "{\"mode\":\"merge\"}");
    refused("{\"command\":\"reboot\"}", "ENOSYS", "unknown command");
    noted("unknown", "", "ENOSYS: ", "null");
    refused("hello", "EINVAL", "not JSON");
    noted("malformed", "", "EINVAL: not JSON", "null");
    /* A question that has no answer kept nobody from anything. */
    free(stored(&before));
    refused("{\"command\":\"show-vm\",\"args\":{\"vm_id\":9}}", "ENOENT", "VM 9");
    refused("{\"command\":\"status\"}", "ENOTCONN", "running vgpud");
    refused("{\"command\":\"reload-config\"}", "ENOTCONN", "running vgpud");
    free(stored(&after));
    cr_expect_eq(before, after);
}

/* One refused request of this uid, which may look. */
static void knock(int64_t uid, int vm_id)
{
    struct vgpu_caller viewer = me;
    char request[96];

    viewer.role = VGPU_ROLE_VIEWER;
    viewer.uid = uid;
    snprintf(request, sizeof(request), "{\"command\":\"remove-vm\",\"args\":{\"vm_ids\":[%d]}}", vm_id);
    json_t *response = ask_as(&viewer, rig.control, request);
    cr_assert(json_is_false(json_object_get(response, "ok")));
    json_decref(response);
}

static size_t rows(void)
{
    json_t *result = done("{\"command\":\"history\",\"args\":{\"limit\":10000}}");
    size_t n = json_array_size(json_object_get(result, "history"));

    json_decref(result);
    return n;
}

/* A flood of others' refusals costs few writes, and their number is known in the end. */
Test(commands, a_flood_of_refusals_is_counted)
{
    const uint64_t second_ns = UINT64_C(1000000000);

    for (int i = 0; i < 1000; i++)
        knock(4001, 1);
    cr_expect_eq(rows(), 1, "the same again is only counted");
    for (int i = 0; i < 1000; i++)
        knock(4002, 1 + i);
    cr_expect_eq(rows(), 1 + 20, "another uid has its own rows, and no more than so many: %zu", rows());
    uint64_t now = vgpu_now_ns();
    vgpu_refusals_flush(rig.control, now);
    cr_expect_eq(rows(), 21, "not yet");
    uint64_t due = vgpu_refusals_due_ns(rig.control);
    cr_expect(due > now && due < now + 11 * second_ns);
    vgpu_refusals_flush(rig.control, now + 11 * second_ns);
    cr_expect_eq(rows(), 23);
    noted("refused", "", "980 more requests were refused in 1", "null");
    cr_expect_eq(vgpu_refusals_due_ns(rig.control), UINT64_MAX, "nothing is counted any more");
    /* Who goes on is told of ever more rarely. */
    for (uint64_t window = 20, t = now + 11 * second_ns; window < 3600; window *= 2) {
        knock(4002, 2000);
        cr_expect_eq(vgpu_refusals_due_ns(rig.control), t + window * second_ns, "window %" PRIu64, window);
        vgpu_refusals_flush(rig.control, t + window * second_ns);
        t += window * second_ns;
    }
    noted("refused", "", "1 more request was refused in 2560 s", "null");
}

/* More uids than are told apart: no row is lost to them, and no memory. */
Test(commands, refusals_of_many_uids)
{
    for (int uid = 5000; uid < 5200; uid++)
        for (int i = 0; i < 3; i++)
            knock(uid, 1);
    size_t before = rows();
    cr_expect_eq(before, 16 + 20, "16 with a place of their own, and the rest that has one together: %zu", before);
    vgpu_control_close(rig.control);
    struct vgpu_err err;
    cr_assert_eq(control_rig_open(&rig, 0, &err), 0, "%s", err.text);
    cr_expect_eq(rows(), before + 17);
    noted("refused", "", "532 more requests were refused in ", "null");
}

/* The same commands on a store without a daemon. */
Test(commands, without_a_daemon)
{
    struct vgpu_control *direct;
    struct vgpu_err err;
    const struct vgpu_control_params params = {.store = rig.store, .config = &rig.config};

    vgpu_control_close(rig.control);
    rig.control = NULL;
    cr_assert_eq(vgpu_control_direct(&params, &direct, &err), 0, "%s", err.text);
    rig.control = direct;
    three_vms();
    ok("{\"command\":\"set-pool\",\"args\":{\"vm_ids\":[1],\"pool\":\"B\"}}");
    expect(1, "pool", "\"B\"");
    expect(1, "state", "\"registered\"");
    refused("{\"command\":\"stats\"}", "ENOTCONN", "running vgpud");
    char path[128];
    snprintf(path, sizeof(path), "%s/tokens/vm-1.token", rig.dir);
    cr_assert_eq(access(path, R_OK), 0, "%s", path);
}

/* ---- every argument of every command, from the daemon's own table ---- */

static json_t *good_value(const struct vgpu_arg *a)
{
    static const char *const texts[] = {
        [VGPU_ARG_NAME] = "A", [VGPU_ARG_PRIORITY] = "high", [VGPU_ARG_ENGINE] = "auto", [VGPU_ARG_UUID] = UUID_1,
        [VGPU_ARG_TEXT] = "text"};

    switch (a->type) {
    case VGPU_ARG_INT:
    case VGPU_ARG_LIMIT:
        return json_integer(a->min);
    case VGPU_ARG_VM_IDS:
        return json_pack("[i]", 1);
    case VGPU_ARG_WORD:
        return json_stringn(a->words, strcspn(a->words, "|"));
    case VGPU_ARG_BOOL:
        return json_true();
    case VGPU_ARG_OBJECT:
        return json_object();
    case VGPU_ARG_NAME:
    case VGPU_ARG_PRIORITY:
    case VGPU_ARG_ENGINE:
    case VGPU_ARG_UUID:
    case VGPU_ARG_TEXT:
        return json_string(texts[a->type]);
    }
    return NULL; /* a type that this test does not know */
}

/* Wrong for every type, for texts, for numbers, for lists. NULL: ends. */
static const char *const wrong_for_all[] = {"null", "1.5", "[[1]]", "\"\"", "\"a\\u0001b\"",
                                            "\"a\\nb\"", "\"a\\u001b[2J\"", NULL};
static const char *const wrong_numbers[] = {"\"1\"", "-9223372036854775808", "{}", "[1]", "true", NULL};
static const char *const wrong_texts[] = {"1", "true", "{}", "[\"A\"]", NULL};
static const char *const wrong_lists[] = {"[]", "1", "[0]", "[65536]", "[1,1]", "[1,\"2\"]", "[1,null]", "{\"a\":1}", NULL};
static const char *const wrong_others[] = {"1", "0", "\"true\"", "[true]", NULL};

static void refused_args(const struct vgpu_command *command, const json_t *args, const char *words, uint32_t *count)
{
    json_t *request = json_pack("{s:s,s:O}", "command", command->name, "args", args);
    char *text = json_dumps(request, JSON_COMPACT);
    json_t *response = ask_as(&me, rig.control, text);
    const json_t *error = json_object_get(response, "error");
    const char *code = json_string_value(json_object_get(error, "code"));
    const char *message = json_string_value(json_object_get(error, "message"));

    cr_expect(code && !strcmp(code, "EINVAL"), "%s: %s", text, code ? code : "was done");
    cr_expect(message && strstr(message, words), "%s: %s: expected %s", text, message, words);
    for (const char *c = message; c && *c; c++)
        cr_expect((unsigned char)*c >= 0x20 && *c != 0x7f, "%s: control characters", text);
    (*count)++;
    json_decref(response);
    json_decref(request);
    free(text);
}

/* This argument with each of these values. */
static void each_wrong(const struct vgpu_command *command, const struct vgpu_arg *a, json_t *args,
                       const char *const *values, uint32_t *count)
{
    for (; *values; values++) {
        json_object_set_new(args, a->name, json_loads(*values, JSON_DECODE_ANY, NULL));
        refused_args(command, args, a->name, count);
    }
}

static void arg_tried(const struct vgpu_command *command, const struct vgpu_arg *a, uint32_t *count)
{
    json_t *args = json_object();
    char *long_text = malloc(5001);

    for (const struct vgpu_arg *other = command->args; other->name; other++)
        if (other->required && other != a)
            json_object_set_new(args, other->name, good_value(other));
    json_t *good = good_value(a);
    cr_assert_not_null(good, "%s %s: a type without rows here", command->name, a->name);
    if (a->required)
        refused_args(command, args, a->name, count);
    each_wrong(command, a, args, wrong_for_all, count);
    bool number = a->type == VGPU_ARG_INT || a->type == VGPU_ARG_LIMIT;
    bool other = a->type == VGPU_ARG_BOOL || a->type == VGPU_ARG_OBJECT;
    each_wrong(command, a, args,
               number                       ? wrong_numbers
               : a->type == VGPU_ARG_VM_IDS ? wrong_lists
               : other                      ? wrong_others
                                            : wrong_texts,
               count);
    if (number && a->max < INT64_MAX) {
        json_object_set_new(args, a->name, json_integer(a->max + 1));
        refused_args(command, args, a->name, count);
    }
    if (number) {
        json_object_set_new(args, a->name, json_integer(a->min - 1));
        refused_args(command, args, a->name, count);
    }
    memset(long_text, 'a', 5000);
    long_text[5000] = 0;
    json_object_set_new(args, a->name, json_string(long_text));
    refused_args(command, args, a->name, count);
    json_object_set_new(args, a->name, good);
    json_object_set_new(args, "frobnicate", json_true());
    refused_args(command, args, "takes no argument \"frobnicate\"", count);
    json_decref(args);
    free(long_text);
}

Test(commands, each_argument_of_each_command)
{
    size_t before_history, after_history;
    uint32_t count = 0, arguments = 0;

    three_vms();
    char *before = stored(&before_history);
    for (uint32_t i = 0; i < vgpu_command_count; i++)
        for (const struct vgpu_arg *a = vgpu_commands[i].args; a->name; a++, arguments++)
            arg_tried(&vgpu_commands[i], a, &count);
    char *after = stored(&after_history);
    cr_expect_str_eq(before, after, "something was changed");
    cr_expect_gt(count, 12 * arguments, "%u for %u arguments", count, arguments);
    free(before);
    free(after);
}
