/* SPDX-License-Identifier: Apache-2.0 */
/* export and import: the registry as a document in a file. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ctl/ask.h"
#include "ctl/client.h"
#include "ctl/local.h"
#include "ctl/table.h"

#define DOCUMENT_MAX_BYTES (64u * 1024u * 1024u)

/* The whole file or the one before: never half of a document under this name. */
static int write_file(const char *name, const json_t *document, struct vgpu_err *err)
{
    size_t bytes = strlen(name) + 8;
    char *temporary = malloc(bytes);
    int rc = 0;

    if (!temporary)
        return vgpu_err_set(err, ENOMEM, "out of memory");
    snprintf(temporary, bytes, "%s.XXXXXX", name);
    int fd = mkstemp(temporary);
    FILE *f = fd >= 0 ? fdopen(fd, "w") : NULL;
    if (!f) {
        rc = vgpu_err_set(err, errno, "cannot write %s: %s", name, strerror(errno));
        if (fd >= 0) {
            close(fd);
            unlink(temporary);
        }
        goto out;
    }
    bool failed = fchmod(fd, 0640) || json_dumpf(document, f, JSON_INDENT(2)) || fputc('\n', f) == EOF || fflush(f) ||
                  fsync(fd);
    int e = errno;
    if (fclose(f) && !failed) {
        failed = true;
        e = errno;
    }
    if (!failed && rename(temporary, name)) {
        failed = true;
        e = errno;
    }
    if (failed) {
        rc = vgpu_err_set(err, e, "cannot write %s: %s", name, strerror(e));
        unlink(temporary);
    }
out:
    free(temporary);
    return rc;
}

int vgpu_ctl_export(struct vgpu_ctl_local *local, int argc, char **argv)
{
    const char *name = json_string_value(json_object_get(local->line->args, "output"));
    json_t *result = NULL;
    struct vgpu_err err;
    int code;

    (void)argc;
    (void)argv;
    if (vgpu_ctl_ask(local->line, "export", NULL, &result, &code, &err))
        return vgpu_ctl_complain(local, &err, code);
    const json_t *document = json_object_get(result, "document");
    if (name && write_file(name, document, &err)) {
        code = vgpu_ctl_complain(local, &err, VGPU_CTL_REFUSED);
    } else if (name) {
        size_t pools = json_array_size(json_object_get(document, "pools"));
        size_t vms = json_array_size(json_object_get(document, "vms"));
        json_t *written = json_pack("{s:s,s:I,s:I}", "file", name, "pools", (json_int_t)pools, "vms", (json_int_t)vms);
        if (local->line->json)
            vgpu_ctl_emit(local, written);
        else
            fprintf(local->out, "wrote %zu pools and %zu VMs\n", pools, vms);
        json_decref(written);
    } else if (local->line->json) {
        vgpu_ctl_emit(local, document);
    } else {
        json_dumpf(document, local->out, JSON_INDENT(2));
        fputc('\n', local->out);
    }
    json_decref(result);
    return code;
}

/* What is null says nothing, and the length of a request is bounded. */
static void nulls_drop(json_t *list)
{
    size_t i;
    json_t *row, *value;
    const char *key;
    void *next;

    json_array_foreach(list, i, row) json_object_foreach_safe(row, next, key, value) if (json_is_null(value))
        json_object_del(row, key);
}

static int read_file(const char *name, json_t **out, struct vgpu_err *err)
{
    json_error_t fault;
    struct stat st;
    FILE *f = strcmp(name, "-") ? fopen(name, "re") : stdin;

    if (!f)
        return vgpu_err_set(err, errno, "cannot read %s: %s", name, strerror(errno));
    if (fstat(fileno(f), &st) == 0 && (S_ISDIR(st.st_mode) || st.st_size > DOCUMENT_MAX_BYTES)) {
        if (f != stdin)
            fclose(f);
        return vgpu_err_set(err, S_ISDIR(st.st_mode) ? EISDIR : EFBIG, "%s is no document of export", name);
    }
    *out = json_loadf(f, JSON_REJECT_DUPLICATES, &fault);
    if (f != stdin)
        fclose(f);
    if (*out && json_is_object(*out)) {
        nulls_drop(json_object_get(*out, "pools"));
        nulls_drop(json_object_get(*out, "vms"));
        return 0;
    }
    bool parsed = *out != NULL;
    json_decref(*out);
    *out = NULL;
    return parsed ? vgpu_err_set(err, EINVAL, "%s: expected a JSON object, as export writes it", name)
                  : vgpu_err_set(err, EINVAL, "%s:%d:%d: no JSON: %s", name, fault.line, fault.column, fault.text);
}

static void ids_print(FILE *out, const char *what, const json_t *ids)
{
    size_t i;
    const json_t *id;

    if (!json_array_size(ids))
        return;
    fprintf(out, "%s VM", what);
    json_array_foreach((json_t *)ids, i, id) fprintf(out, "%s %" JSON_INTEGER_FORMAT, i ? "," : "", json_integer_value(id));
    fputc('\n', out);
}

static void differences_print(FILE *out, const json_t *result)
{
    static const char *const kinds[] = {"added", "changed", "removed"};
    const json_t *d = json_object_get(result, "differences"), *pools = json_object_get(d, "pools"), *pool;
    bool any = json_array_size(pools) > 0;
    char name[VGPU_CTL_CELL_BYTES], change[VGPU_CTL_CELL_BYTES];
    size_t i;

    for (i = 0; i < 3; i++)
        any = any || json_array_size(json_object_get(d, kinds[i]));
    if (!any) {
        fputs("nothing changes\n", out);
        return;
    }
    if (json_is_true(json_object_get(result, "dry_run")))
        fputs("not done, it would be:\n", out);
    json_array_foreach((json_t *)pools, i, pool)
    {
        vgpu_ctl_cell(json_object_get(pool, "name"), VGPU_CTL_CELL_TEXT, name);
        vgpu_ctl_cell(json_object_get(pool, "change"), VGPU_CTL_CELL_TEXT, change);
        fprintf(out, "%s pool %s\n", change, name);
    }
    for (i = 0; i < 3; i++)
        ids_print(out, kinds[i], json_object_get(d, kinds[i]));
}

int vgpu_ctl_import(struct vgpu_ctl_local *local, int argc, char **argv)
{
    const char *name = json_string_value(json_object_get(local->line->args, "input"));
    json_t *document = NULL, *result = NULL;
    struct vgpu_err err;
    int code;

    (void)argc;
    (void)argv;
    if (read_file(name, &document, &err))
        return vgpu_ctl_complain(local, &err, VGPU_CTL_REFUSED);
    json_t *args = json_copy(local->line->args);
    json_object_del(args, "input");
    json_object_set_new(args, "document", document);
    int rc = vgpu_ctl_ask(local->line, "import", args, &result, &code, &err);
    json_decref(args);
    if (rc == -E2BIG) {
        vgpu_err_set(&err, E2BIG, "%s is too long for one request, which has at most %u bytes; import it in parts", name,
                     VGPU_CTL_MAX_REQUEST_BYTES);
        return vgpu_ctl_complain(local, &err, VGPU_CTL_REFUSED);
    }
    if (rc)
        return vgpu_ctl_complain(local, &err, code);
    if (local->line->json)
        vgpu_ctl_emit(local, result);
    else
        differences_print(local->out, result);
    json_decref(result);
    return VGPU_CTL_OK;
}
