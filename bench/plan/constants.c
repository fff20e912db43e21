/* SPDX-License-Identifier: Apache-2.0 */
/* What was measured on which machine: constants.json, which is linked in, or a file like it. */
#include "bench/plan/plan.h"

#include <errno.h>
#include <jansson.h>
#include <string.h>

/* The file's text, made into an array when this is built. */
extern const char plan_constants_text[];

static bool curve_read(const json_t *from, struct plan_curve *out)
{
    size_t n = json_array_size(from);

    if (n < 1 || n > PLAN_POINTS_MAX)
        return false;
    for (size_t i = 0; i < n; i++) {
        const json_t *vms = json_array_get(json_array_get(from, i), 0), *ns = json_array_get(json_array_get(from, i), 1);
        if (!json_is_number(vms) || !json_is_number(ns) || json_number_value(ns) < 0 ||
            (i && json_number_value(vms) <= out->vms[i - 1]))
            return false;
        out->vms[i] = json_number_value(vms);
        out->ns[i] = json_number_value(ns);
    }
    out->n = (int)n;
    return true;
}

static int machine_read(const json_t *m, const char *file, struct plan_constants *out)
{
    const struct {
        const char *key;
        double *at;
        bool may_be_0;
    } numbers[] = {{"round_ns", &out->round, false},        {"hot_ns", &out->hot, true},
                   {"guest_send_ns", &out->guest_send, true}, {"guest_take_ns", &out->guest_take, true},
                   {"guest_more_ns", &out->guest_more, true},
                   {"guest_round_ns", &out->guest_round, true}, {"poll_share", &out->poll_share, false},
                   {"one_core_p50_ns", &out->one_core_p50, false}, {"one_core_p99_ns", &out->one_core_p99, false},
                   {"split_p50_ns", &out->split_p50, true}, {"split_p99_ns", &out->split_p99, true}};
    const struct {
        const char *key;
        struct plan_curve *at;
        bool may_be_none;
    } curves[] = {{"visit_ns", &out->visit, false}, {"descriptor_ns", &out->descriptor, false}, {"cold_ns", &out->cold, false},
                  {"split_visit_ns", &out->split_visit, true}, {"executor_visit_ns", &out->executor_visit, true}};
    const char *name = json_string_value(json_object_get(m, "name")), *what = json_string_value(json_object_get(m, "what"));
    const char *wrong = name ? NULL : "name";

    memset(out, 0, sizeof(*out));
    snprintf(out->name, sizeof(out->name), "%s", name ? name : "");
    snprintf(out->what, sizeof(out->what), "%s", what ? what : "");
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]) && !wrong; i++) {
        const json_t *v = json_object_get(m, numbers[i].key);
        *numbers[i].at = json_number_value(v);
        if (!json_is_number(v) || *numbers[i].at < 0 || (*numbers[i].at <= 0 && !numbers[i].may_be_0))
            wrong = numbers[i].key;
    }
    for (size_t i = 0; i < sizeof(curves) / sizeof(curves[0]) && !wrong; i++) {
        const json_t *points = json_object_get(m, curves[i].key);
        bool none = curves[i].may_be_none && json_is_array(points) && json_array_size(points) == 0;
        if (!none && !curve_read(points, curves[i].at))
            wrong = curves[i].key;
    }
    if (!wrong && out->poll_share >= 1)
        wrong = "poll_share";
    if (!wrong)
        return 0;
    fprintf(stderr, "vgpu-bench: %s: machine '%s': %s is missing or no fit number (plan --calibrate=FILE writes such a file)\n",
            file, out->name, wrong);
    return -EINVAL;
}

static json_t *file_read(const char *file)
{
    json_error_t error;
    json_t *all = file ? json_load_file(file, 0, &error) : json_loads(plan_constants_text, 0, &error);

    if (!all)
        fprintf(stderr, "vgpu-bench: %s:%d: %s\n", file ? file : "constants", error.line, error.text);
    return all;
}

int plan_constants_load(const char *file, const char *machine, struct plan_constants *out)
{
    json_t *all = file_read(file);
    const json_t *machines = json_object_get(all, "machines"), *found = NULL;
    int rc = -EINVAL;

    if (!all)
        return rc;
    for (size_t i = 0; i < json_array_size(machines) && !found; i++) {
        const char *name = json_string_value(json_object_get(json_array_get(machines, i), "name"));
        if (!machine || (name && !strcmp(name, machine)))
            found = json_array_get(machines, i);
    }
    if (found)
        rc = machine_read(found, file ? file : "constants", out);
    else if (machine)
        fprintf(stderr, "vgpu-bench: --machine: '%s' is not among the measured ones; plan --list names them\n", machine);
    else
        fprintf(stderr, "vgpu-bench: %s: it has no machines\n", file ? file : "constants");
    json_decref(all);
    return rc;
}

void plan_constants_names(FILE *to)
{
    json_t *all = file_read(NULL);
    const json_t *machines = json_object_get(all, "machines");

    for (size_t i = 0; i < json_array_size(machines); i++) {
        const json_t *m = json_array_get(machines, i);
        fprintf(to, "%-10s %s\n", json_string_value(json_object_get(m, "name")), json_string_value(json_object_get(m, "what")));
    }
    json_decref(all);
}

static void curve_print(const char *key, const struct plan_curve *c, FILE *to)
{
    fprintf(to, "    \"%s\": [", key);
    for (int i = 0; i < c->n; i++)
        fprintf(to, "%s[%g, %.4g]", i ? ", " : "", c->vms[i], c->ns[i]);
    fprintf(to, "],\n");
}

void plan_constants_print(const struct plan_constants *c, FILE *to)
{
    fprintf(to, "{\"machines\": [\n  {\n    \"name\": \"%s\",\n    \"what\": \"%s\",\n", c->name, c->what);
    fprintf(to, "    \"round_ns\": %.4g,\n    \"hot_ns\": %.4g,\n", c->round, c->hot);
    curve_print("visit_ns", &c->visit, to);
    curve_print("descriptor_ns", &c->descriptor, to);
    curve_print("cold_ns", &c->cold, to);
    curve_print("split_visit_ns", &c->split_visit, to);
    curve_print("executor_visit_ns", &c->executor_visit, to);
    fprintf(to, "    \"guest_send_ns\": %.4g,\n    \"guest_take_ns\": %.4g,\n    \"guest_more_ns\": %.4g,\n"
                "    \"guest_round_ns\": %.4g,\n", c->guest_send, c->guest_take, c->guest_more, c->guest_round);
    fprintf(to, "    \"poll_share\": %.3g,\n    \"one_core_p50_ns\": %.4g,\n    \"one_core_p99_ns\": %.4g,\n", c->poll_share,
            c->one_core_p50, c->one_core_p99);
    fprintf(to, "    \"split_p50_ns\": %.4g,\n    \"split_p99_ns\": %.4g\n  }\n]}\n", c->split_p50, c->split_p99);
}
