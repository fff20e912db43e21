/* SPDX-License-Identifier: Apache-2.0 */
/* The report of precheck for people. */
#include <stdlib.h>
#include <string.h>

#include "ctl/precheck.h"
#include "ctl/table.h"

#define WRAP 110 /* columns */

static const char *str(const json_t *object, const char *key)
{
    const char *v = json_string_value(json_object_get(object, key));
    return v ? v : "";
}

static json_int_t num(const json_t *object, const char *key)
{
    return json_integer_value(json_object_get(object, key));
}

static const char *paint(bool color, const char *code)
{
    return color ? code : "";
}

static const char *status_color(const char *status)
{
    return strcmp(status, "fail") == 0   ? "\033[1;31m"
           : strcmp(status, "warn") == 0 ? "\033[33m"
           : strcmp(status, "pass") == 0 ? "\033[32m"
                                         : "\033[2m";
}

/* "    label: text", wrapped at words; without control characters. */
static void field(FILE *out, const char *label, const char *text)
{
    char clean[1024];
    int column = fprintf(out, "      %-8s", label), indent = column;

    vgpu_ctl_clean(text, clean, sizeof(clean));
    for (char *word = clean; *word;) {
        int n = (int)strcspn(word, " ");
        if (column > indent && column + n > WRAP) {
            fprintf(out, "\n%*s", indent, "");
            column = indent;
        } else if (column > indent) {
            fputc(' ', out);
            column++;
        }
        column += fprintf(out, "%.*s", n, word);
        word += n + (word[n] == ' ');
    }
    fputc('\n', out);
}

static void print_host(FILE *out, const json_t *report)
{
    const json_t *h = json_object_get(report, "host");
    size_t i;
    json_t *gpu;

    fprintf(out, "%s, %s, %" JSON_INTEGER_FORMAT " CPUs, %" JSON_INTEGER_FORMAT " NUMA node%s, %.1f GiB; Linux %s\n",
            str(h, "place"), str(h, "cpu")[0] ? str(h, "cpu") : "unknown CPU", num(h, "cpus"), num(h, "numa_nodes"),
            num(h, "numa_nodes") == 1 ? "" : "s", (double)num(h, "memory_bytes") / (1 << 30),
            str(h, "kernel")[0] ? str(h, "kernel") : "of unknown version");
    json_array_foreach(json_object_get(h, "gpus"), i, gpu)
    {
        fprintf(out, "GPU %s %s, driver %s", str(gpu, "address"), str(gpu, "id"),
                str(gpu, "driver")[0] ? str(gpu, "driver") : "none");
        if (num(gpu, "link_width"))
            fprintf(out,
                    ", link x%" JSON_INTEGER_FORMAT " generation %" JSON_INTEGER_FORMAT " of %" JSON_INTEGER_FORMAT,
                    num(gpu, "link_width"), num(gpu, "link_generation"), num(gpu, "max_link_generation"));
        if (num(gpu, "numa_node") >= 0)
            fprintf(out, ", NUMA node %" JSON_INTEGER_FORMAT, num(gpu, "numa_node"));
        if (num(gpu, "iommu_group") >= 0)
            fprintf(out, ", IOMMU group %" JSON_INTEGER_FORMAT, num(gpu, "iommu_group"));
        fputc('\n', out);
    }
    json_array_foreach(json_object_get(h, "nvml"), i, gpu) fprintf(out, "NVML: %s\n", json_string_value(gpu));
}

static void print_score(FILE *out, const json_t *score, bool color)
{
    json_int_t v = json_integer_value(score);
    const char *code = v >= 90 ? "\033[32m" : v >= 70 ? "\033[33m" : "\033[1;31m";

    if (json_is_null(score))
        fprintf(out, "  -");
    else
        fprintf(out, "%s%3" JSON_INTEGER_FORMAT "%s", paint(color, code), v, paint(color, "\033[0m"));
}

static void print_scores(FILE *out, const json_t *report, bool color)
{
    size_t i;
    json_t *s;

    fprintf(out, "\nScore ");
    print_score(out, json_object_get(report, "score"), color);
    fprintf(out, " of 100 (profile %s, %s)\n", str(report, "profile"), str(report, "time"));
    json_array_foreach(json_object_get(report, "subsystems"), i, s)
    {
        fprintf(out, "  ");
        print_score(out, json_object_get(s, "score"), color);
        fprintf(out, "  %-24s %3" JSON_INTEGER_FORMAT " passed", str(s, "title"), num(s, "pass"));
        static const char *const rest[][2] = {{"fail", "failed"}, {"warn", "warned"}, {"unknown", "unknown"}};
        for (int k = 0; k < 3; k++)
            if (num(s, rest[k][0]))
                fprintf(out, ", %" JSON_INTEGER_FORMAT " %s", num(s, rest[k][0]), rest[k][1]);
        if (num(s, "not-applicable"))
            fprintf(out, "%s, %" JSON_INTEGER_FORMAT " not applicable%s", paint(color, "\033[2m"),
                    num(s, "not-applicable"), paint(color, "\033[0m"));
        fputc('\n', out);
    }
}

static void print_finding(FILE *out, const json_t *c, bool color)
{
    fprintf(out, "\n  %s%-4s %-8s%s %s  %s\n", paint(color, status_color(str(c, "status"))), str(c, "status"),
            str(c, "severity"), paint(color, "\033[0m"), str(c, "id"), str(c, "title"));
    field(out, "found", str(c, "found"));
    field(out, "wanted", str(c, "wanted"));
    field(out, "why", str(c, "why"));
    field(out, "mend", str(c, "remedy"));
    field(out, "price", str(c, "tradeoff"));
    field(out, "effect", str(c, "effect"));
    field(out, "source", str(c, "source"));
}

/* All of one severity that fired. */
static uint32_t print_severity(FILE *out, const json_t *report, const char *severity, bool color)
{
    uint32_t n = 0;
    size_t i;
    json_t *c;

    json_array_foreach(json_object_get(report, "checks"), i, c)
    {
        bool fired = strcmp(str(c, "status"), "fail") == 0 || strcmp(str(c, "status"), "warn") == 0;
        if (!fired || strcmp(str(c, "severity"), severity) != 0)
            continue;
        print_finding(out, c, color);
        n++;
    }
    return n;
}

/* One line each. */
static uint32_t print_status(FILE *out, const json_t *report, const char *status, const char *title, bool color)
{
    uint32_t n = 0;
    size_t i;
    json_t *c;

    json_array_foreach(json_object_get(report, "checks"), i, c)
    {
        char clean[400];
        if (strcmp(str(c, "status"), status) != 0)
            continue;
        if (!n++)
            fprintf(out, "\n%s\n", title);
        vgpu_ctl_clean(str(c, "found"), clean, sizeof(clean));
        fprintf(out, "  %s%-26s%s %s\n", paint(color, status_color(status)), str(c, "id"), paint(color, "\033[0m"),
                clean);
    }
    return n;
}

static void print_choices(FILE *out, const json_t *report)
{
    size_t i, k;
    json_t *c, *other;

    fprintf(out, "\nWhat profile %s chooses, and what the others would\n", str(report, "profile"));
    json_array_foreach(json_object_get(report, "choices"), i, c)
    {
        fprintf(out, "\n  %s\n", str(c, "topic"));
        field(out, "choose", str(c, "recommends"));
        field(out, "price", str(c, "price"));
        json_array_foreach(json_object_get(c, "conflicts"), k, other)
        {
            char text[400];
            snprintf(text, sizeof(text), "%s: %s (price: %s)", str(other, "profile"), str(other, "recommends"),
                     str(other, "price"));
            field(out, "but", text);
        }
        field(out, "source", str(c, "source"));
        field(out, "checks", str(c, "checks"));
    }
}

void vgpu_precheck_print(FILE *out, const json_t *report, bool all, bool with_choices, bool color)
{
    static const char *const order[] = {"critical", "high", "medium", "low"};
    uint32_t fired = 0;

    print_host(out, report);
    print_scores(out, report, color);
    for (int i = 0; i < 4; i++)
        fired += print_severity(out, report, order[i], color);
    if (!fired)
        fprintf(out, "\nNothing to mend.\n");
    print_status(out, report, "unknown", "Not for this user (run as root to know)", color);
    if (all) {
        print_status(out, report, "pass", "Passed", color);
        print_status(out, report, "not-applicable", "Not applicable", color);
    }
    if (with_choices)
        print_choices(out, report);
    fprintf(out, "\n%s%sdocs/precheck.md says how to read this.\n", all ? "" : "--all lists what passed. ",
            with_choices ? "" : "--profile=NAME shows what a profile chooses, and the price. ");
}

static void print_changes(FILE *out, const json_t *list, const char *title, bool color)
{
    size_t i;
    json_t *c;

    if (json_array_size(list))
        fprintf(out, "\n%s\n", title);
    json_array_foreach((json_t *)list, i, c)
    {
        char clean[400];
        vgpu_ctl_clean(str(c, "found"), clean, sizeof(clean));
        fprintf(out, "  %-8s %-26s %s -> %s%s%s: %s\n", str(c, "severity"), str(c, "id"), str(c, "was"),
                paint(color, status_color(str(c, "is"))), str(c, "is"), paint(color, "\033[0m"), clean);
        if (str(c, "was_found")[0])
            field(out, "was", str(c, "was_found"));
        if (str(c, "remedy")[0])
            field(out, "mend", str(c, "remedy"));
    }
}

static void print_host_facts(FILE *out, const json_t *list)
{
    size_t i;
    json_t *fact;

    if (json_array_size(list))
        fprintf(out, "\nThe host itself\n");
    json_array_foreach((json_t *)list, i, fact)
    {
        char *was = json_dumps(json_object_get(fact, "was"), JSON_ENCODE_ANY | JSON_ENSURE_ASCII);
        char *is = json_dumps(json_object_get(fact, "is"), JSON_ENCODE_ANY | JSON_ENSURE_ASCII);
        char clean[256];
        vgpu_ctl_clean(str(fact, "what"), clean, sizeof(clean));
        fprintf(out, "  %-35s %s -> %s\n", clean, was ? was : "?", is ? is : "?");
        free(was);
        free(is);
    }
}

void vgpu_precheck_print_drift(FILE *out, const json_t *drift, bool color)
{
    fprintf(out, "\nAgainst %s: %s\n", str(drift, "against"), str(drift, "about"));
    if (str(drift, "note")[0])
        fprintf(out, "%s\n", str(drift, "note"));
    print_host_facts(out, json_object_get(drift, "host"));
    print_changes(out, json_object_get(drift, "worse"), "Worse than there", color);
    print_changes(out, json_object_get(drift, "better"), "Better than there", color);
    print_changes(out, json_object_get(drift, "other"), "Differs (does not apply, or not known)", color);
    if (!json_array_size(json_object_get(drift, "worse")) && !json_array_size(json_object_get(drift, "better")) &&
        !json_array_size(json_object_get(drift, "other")) && !json_array_size(json_object_get(drift, "host")))
        fprintf(out, "no difference\n");
}

void vgpu_precheck_print_history(FILE *out, const json_t *history, bool color)
{
    static const struct vgpu_ctl_column columns[] = {
        {"TIME", "time", VGPU_CTL_CELL_TEXT},       {"NAME", "name", VGPU_CTL_CELL_TEXT},
        {"PROFILE", "profile", VGPU_CTL_CELL_TEXT}, {"SCORE", "score", VGPU_CTL_CELL_NUMBER},
        {"CHANGE", "change", VGPU_CTL_CELL_NUMBER}, {"WORST", "worst", VGPU_CTL_CELL_TEXT}};

    VGPU_CTL_TABLE(out, json_object_get(history, "runs"), columns, color);
    fprintf(out, "trend: %s\n", str(history, "trend"));
}
