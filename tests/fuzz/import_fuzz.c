/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Store import: any bytes as the document, into a store that keeps what was imported before. The first byte chooses
 * merge or replace, and a trial. Refused, or tried: the store exports what it exported before. Imported: doing it again
 * changes nothing, and what is exported then can be imported, changes nothing, and passes a trial too.
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
    vgpu_caller_self(&caller);
    atexit(leave);
    return 0;
}

/* The answer to a request, or NULL where that is an error. */
static json_t *ask(const char *request, size_t bytes)
{
    json_error_t why;
    size_t n = 0;
    char *text = vgpu_control_handle(rig.control, &caller, request, bytes, &n);
    json_t *response = text ? json_loadb(text, n, JSON_REJECT_DUPLICATES, &why) : NULL, *result = NULL;

    fuzz_check(response, "no response, or not JSON");
    if (json_is_true(json_object_get(response, "ok")))
        result = json_incref(json_object_get(response, "result"));
    json_decref(response);
    free(text);
    return result;
}

static json_t *ask_import(const char *mode, bool dry, json_t *document)
{
    json_t *request = json_pack("{s:s,s:{s:s,s:b,s:O}}", "command", "import", "args", "mode", mode, "dry_run", dry,
                                "document", document);
    char *text = json_dumps(request, JSON_COMPACT);

    fuzz_check(text, "a document that cannot be written");
    json_t *result = ask(text, strlen(text));
    free(text);
    json_decref(request);
    return result;
}

static json_t *exported(void)
{
    json_t *result = ask("{\"command\":\"export\"}", 20);

    fuzz_check(result && json_is_object(json_object_get(result, "document")), "export failed");
    json_t *document = json_incref(json_object_get(result, "document"));
    json_decref(result);
    return document;
}

static void nothing_changes(const char *mode, bool dry, json_t *document)
{
    json_t *again = ask_import(mode, dry, document);

    fuzz_check(again, "what was imported or exported is refused");
    fuzz_check(json_array_size(json_object_get(again, "differences")) == 0, "and makes a difference: %s",
               json_dumps(again, JSON_COMPACT));
    json_decref(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    uint8_t how = bytes ? data[0] : 0;
    const char *mode = how & 1 ? "replace" : "merge";
    json_error_t why;
    json_t *document = bytes > 1 ? json_loadb((const char *)data + 1, bytes - 1, JSON_DECODE_ANY, &why) : NULL;

    if (!document)
        return 0; /* not JSON: the target `control` has those */
    json_t *before = exported(), *result = ask_import(mode, how & 2, document), *after = exported();
    if (!result || how & 2)
        fuzz_check(json_equal(before, after), "the store changed by what was %s", result ? "a trial" : "refused");
    if (result && !(how & 2)) {
        nothing_changes(mode, false, document);
        nothing_changes("replace", false, after);
        nothing_changes("merge", true, after);
        json_t *last = exported();
        fuzz_check(json_equal(after, last), "an import of what was exported changed the store");
        json_decref(last);
    }
    json_decref(result);
    json_decref(before);
    json_decref(after);
    json_decref(document);
    return 0;
}
