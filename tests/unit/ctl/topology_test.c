/* SPDX-License-Identifier: Apache-2.0 */
/* The picture of odd hosts: nothing is lost, nothing escapes, and what is drawn is well formed. */
#include "ctl/topology.h"

#include <criterion/criterion.h>
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "tests/host/tree.h"

static struct vgpu_topology t;
static struct vgpu_host_root root;

static void read_fixture(const char *fixture)
{
    struct vgpu_err err;
    char *directory = tree_new();

    tree_make(directory, fixture);
    cr_assert_eq(vgpu_host_root_open(&root, directory, &err), 0, "%s", err.text);
    cr_assert_eq(vgpu_topology_read(&root, &t, &err), 0, "%s", err.text);
    tree_remove(directory);
}

static void role(int32_t cpu, enum vgpu_topology_kind kind, const char *name)
{
    struct vgpu_topology_role *r = &t.roles[t.role_count++];

    r->cpu = cpu;
    r->kind = kind;
    snprintf(r->name, sizeof(r->name), "%s", name);
}

static void end(void)
{
    vgpu_topology_free(&t);
    vgpu_host_root_close(&root);
}
TestSuite(topology, .fini = end);

static char *shown(void (*show)(const struct vgpu_topology *, FILE *))
{
    char *out = NULL;
    size_t bytes = 0;
    FILE *f = open_memstream(&out, &bytes);

    show(&t, f);
    fclose(f);
    return out;
}

static void as_text(const struct vgpu_topology *x, FILE *f)
{
    vgpu_topology_text(x, f, false);
}

static bool has(const char *text, const char *part)
{
    return strstr(text, part) != NULL;
}

/* Elements are closed in order, attributes are quoted, and no character stands where markup would begin by accident. */
static void well_formed(const char *svg)
{
    char open[32][32];
    int depth = 0;

    for (const char *p = svg; *p; p++) {
        cr_assert((unsigned char)*p >= 0x20 || *p == '\n', "a control character in the drawing");
        if (*p == '&')
            cr_assert(!strncmp(p, "&lt;", 4) || !strncmp(p, "&gt;", 4) || !strncmp(p, "&amp;", 5) ||
                          !strncmp(p, "&quot;", 6) || !strncmp(p, "&#39;", 5),
                      "a bare & at %.20s", p);
        if (*p != '<')
            continue;
        if (p[1] == '?') {
            p = strchr(p, '>');
            continue;
        }
        bool closing = p[1] == '/';
        const char *name = p + 1 + closing;
        size_t n = 0;
        while (isalnum((unsigned char)name[n]))
            n++;
        cr_assert(n > 0 && n < 32, "no element: %.30s", p);
        const char *q = name + n;
        for (bool quoted = false; *q && (quoted || *q != '>'); q++)
            quoted ^= *q == '"';
        cr_assert_eq(*q, '>', "an element does not end: %.60s", p);
        if (closing) {
            cr_assert(depth > 0 && !strncmp(open[depth - 1], name, n) && !open[depth - 1][n], "%.30s closes %s", p,
                      depth ? open[depth - 1] : "nothing");
            depth--;
        } else if (q[-1] != '/') {
            cr_assert_lt(depth, 32);
            snprintf(open[depth++], 32, "%.*s", (int)n, name);
        }
        p = q;
    }
    cr_assert_eq(depth, 0);
}

Test(topology, two_nodes)
{
    read_fixture("draw-two-nodes");
    role(2, VGPU_TOPOLOGY_POLL, "poll core 0");
    role(20, VGPU_TOPOLOGY_EXECUTOR, "executor exec-A");
    cr_expect_eq(t.memory.node_count, 2);
    cr_assert_eq(t.device_count, 4);
    cr_expect(t.devices[0].gpu && t.devices[1].gpu && !t.devices[2].gpu);
    cr_expect_eq(t.devices[0].bridges, 3);
    cr_expect_str_eq(t.devices[0].model, "NVIDIA H100 80GB HBM3");
    cr_expect(vgpu_topology_link_degraded(&t.devices[1]) && !vgpu_topology_link_degraded(&t.devices[0]));
    cr_expect_eq(vgpu_topology_hops(&t, 0, 1), 1);
    cr_expect_eq(t.other_devices, 1);
    char *text = shown(as_text);
    cr_expect(has(text, "poll core 0 on CPU 2: isolated, without ticks"), "%s", text);
    cr_expect(has(text, "executor exec-A on CPU 20: not isolated"));
    cr_expect(has(text, "CPUs 3-7: isolated, without a role"));
    cr_expect(has(text, "link x8 16 GT/s, 15.8 GB/s (could be x16 32 GT/s, 63.0 GB/s)"));
    cr_expect(has(text, "poll core 0 (CPU 2) → GPU 0000:18:00.0: same node, 3 bridges"));
    cr_expect(has(text, "executor exec-A (CPU 20) → GPU 0000:18:00.0: a hop to another node (distance 21)"));
    cr_expect(has(text, "GPU 0000:18:00.0 ↔ GPU 0000:98:00.0: from node to node"));
    cr_expect(has(text, "IOMMU group 20"));
    cr_expect_not(strchr(text, 0x1b));
    free(text);
    char *svg = shown(vgpu_topology_svg);
    well_formed(svg);
    cr_expect(has(svg, "prefers-color-scheme:dark") && has(svg, "0000:98:00.0") && has(svg, "group 31") &&
              has(svg, "63.0 GB/s"));
    cr_expect_not(has(svg, "href") || has(svg, "url(") || has(svg, "<script"), "the drawing is not self-contained");
    free(svg);
    json_t *json = vgpu_topology_json(&t);
    cr_assert_not_null(json);
    cr_expect_eq(json_array_size(json_object_get(json, "cpus")), 32);
    cr_expect_eq(json_array_size(json_object_get(json, "paths")), 4);
    cr_expect_str_eq(json_string_value(json_object_get(json_array_get(json_object_get(json, "cpus"), 2), "role")),
                     "poll core 0");
    json_decref(json);
}

Test(topology, eight_nodes)
{
    read_fixture("draw-eight-nodes");
    role(2, VGPU_TOPOLOGY_POLL, "poll core 0");
    cr_expect_eq(t.memory.node_count, 8);
    cr_expect_eq(t.device_count, 4);
    cr_expect_eq(vgpu_topology_hops(&t, 0, 0), 0);
    cr_expect_eq(vgpu_topology_hops(&t, 0, 3), 1);
    cr_expect_eq(vgpu_topology_hops(&t, 0, 7), 2);
    char *text = shown(as_text), *svg = shown(vgpu_topology_svg);
    cr_expect(has(text, "NUMA node 7") && has(text, "more than a hop to another node (distance 32)"), "%s", text);
    well_formed(svg);
    for (int n = 0; n < 8; n++) {
        char title[32];
        snprintf(title, sizeof(title), ">NUMA node %d<", n);
        cr_expect(has(svg, title), "no card of node %d", n);
    }
    free(text);
    free(svg);
}

Test(topology, no_numa_no_pci_no_iommu)
{
    read_fixture("draw-bare");
    cr_expect_eq(t.memory.node_count, 1);
    cr_expect_eq(t.device_count, 0);
    cr_expect_eq(vgpu_topology_place(&t, -1), 0, "a host with one node has its devices there");
    char *text = shown(as_text), *svg = shown(vgpu_topology_svg);
    cr_expect(has(text, "4 CPUs, 1 NUMA node") && has(text, "CPUs 0-3") && has(text, "none in use"), "%s", text);
    well_formed(svg);
    free(text);
    free(svg);
}

Test(topology, hostile_names_are_text)
{
    read_fixture("draw-hostile");
    role(0, VGPU_TOPOLOGY_POLL, "</title><script>");
    cr_assert_geq(t.device_count, 1);
    char *text = shown(as_text), *svg = shown(vgpu_topology_svg);
    json_t *json = vgpu_topology_json(&t);
    well_formed(svg);
    cr_expect_not(has(svg, "<script") || has(svg, "<b>") || has(svg, "<![CDATA["), "markup from the host");
    cr_expect(has(svg, "&lt;b&gt;"), "the name is not there at all");
    for (const char *p = text; *p; p++)
        cr_assert((unsigned char)*p >= 0x20 || *p == '\n', "a control character in the text");
    cr_expect_not_null(json);
    json_decref(json);
    free(text);
    free(svg);
}

Test(topology, an_empty_tree)
{
    struct vgpu_err err;
    char *directory = tree_new();

    cr_assert_eq(vgpu_host_root_open(&root, directory, &err), 0);
    cr_assert_eq(vgpu_topology_read(&root, &t, &err), 0, "%s", err.text);
    tree_remove(directory);
    char *text = shown(as_text), *svg = shown(vgpu_topology_svg);
    well_formed(svg);
    free(text);
    free(svg);
}
