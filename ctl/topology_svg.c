/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host as a drawing: one file, no script, no font and no picture from elsewhere; light or dark as the viewer
 * prefers. A card for each NUMA node: its memory, its cores, and its devices on their links; lines are as thick as
 * links are fast. Below: what lies between the cores of vgpud and the GPUs, and the distances between nodes.
 *
 * What is measured is laid out first; a card goes where its column ends first.
 */
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "ctl/topology.h"

#define WIDTH      1240
#define MARGIN     36
#define GAP        28
#define HEAD       132
#define PAD        22
#define CARD_HEAD  104 /* title, memory bar, huge pages */
#define DEVICE_H   74
#define DEVICE_GAP 12
#define LINK_W     168 /* from the bus to the box */

#define NUMBERED_TILE 26 /* from this size on a CPU has room for its number */
#define PATHS_MAX     64

struct draw {
    const struct vgpu_topology *t;
    FILE *out;
    int columns, card_width, tile, per_row;
};

/* ---- text ---- */

/* Text for an element or an attribute; at most so many characters of it. */
static void escape(FILE *out, const char *text, uint32_t most)
{
    for (uint32_t n = 0; *text && n < most; text++, n++) {
        if (n + 1 == most && text[1]) {
            fputs("…", out);
            return;
        }
        switch (*text) {
        case '<':
            fputs("&lt;", out);
            break;
        case '>':
            fputs("&gt;", out);
            break;
        case '&':
            fputs("&amp;", out);
            break;
        case '"':
            fputs("&quot;", out);
            break;
        case '\'':
            fputs("&#39;", out);
            break;
        default:
            fputc((unsigned char)*text >= 0x20 && (unsigned char)*text < 0x7f ? *text : '?', out);
        }
    }
}

static void text_at(const struct draw *d, int x, int y, const char *class, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));
static void text_at(const struct draw *d, int x, int y, const char *class, const char *fmt, ...)
{
    char text[256];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    fprintf(d->out, "<text x=\"%d\" y=\"%d\" class=\"%s\">", x, y, class);
    escape(d->out, text, 200);
    fputs("</text>\n", d->out);
}

static void rect(const struct draw *d, int x, int y, int w, int h, int r, const char *class)
{
    fprintf(d->out, "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" rx=\"%d\" class=\"%s\"/>\n", x, y, w, h, r,
            class);
}

/* Classes, not variables: simple viewers know those. The second half answers to the viewer's preference. */
static const char style[] =
    "<style>\n"
    "text{font-family:Inter,system-ui,'Segoe UI',Roboto,'DejaVu Sans',sans-serif;fill:#1b2430}\n"
    ".h1{font-size:26px;font-weight:700}.h2{font-size:18px;font-weight:650}.t{font-size:13px}.s{font-size:11.5px}\n"
    ".b{font-weight:650}.end{text-anchor:end}.mid{text-anchor:middle}.dim{fill:#64707f}.warnt{fill:#b45309}\n"
    ".bg{fill:#f4f6f9}.card{fill:#fff;stroke:#d9dfe7}.track{fill:#e6eaf0}.used{fill:#93a4ba}.huge{fill:#2b7de1}\n"
    ".core{fill:#eef1f5;stroke:#d3dae3}.cpu{fill:#c4cdd9}.iso{fill:#f5d9a3}.poll{fill:#1f9d61}.exec{fill:#2b6fe0}\n"
    ".letter{font-size:10px;font-weight:700;fill:#fff;text-anchor:middle}\n"
    ".number{font-size:9.5px;fill:#4b5868;text-anchor:middle}\n"
    ".bus{stroke:#8b98a9;stroke-width:6;stroke-linecap:round}.link{stroke:#2b7de1}\n"
    ".slow{stroke:#d97706;stroke-dasharray:7 3}.none{stroke:#b8c2cf;stroke-dasharray:3 5}\n"
    ".hop{fill:#fff;stroke:#5c6b7d;stroke-width:1.6}.gpu{fill:#e9f8ef;stroke:#1f9d61;stroke-width:1.6}\n"
    ".dev{fill:#f7f9fb;stroke:#d3dae3}.pill{fill:#e3ebfb}.pillt{fill:#24509c}.ok{fill:#1f9d61}.warn{fill:#d97706}\n"
    ".cell0{fill:#d5f0e0}.cell1{fill:#fbe8c8}.cell2{fill:#f6cfc0}.cellx{fill:#e6eaf0}\n"
    "@media (prefers-color-scheme:dark){\n"
    "text{fill:#e6ebf2}.dim{fill:#94a1b3}.warnt{fill:#fbbf5a}.bg{fill:#0f141b}.card{fill:#182029;stroke:#2a3542}\n"
    ".track{fill:#2a3542}.used{fill:#5d6f86}.huge{fill:#4b96f3}.core{fill:#202a35;stroke:#33404f}.cpu{fill:#44515f}\n"
    ".iso{fill:#8a6a2c}.poll{fill:#2bb673}.exec{fill:#4584ee}.bus{stroke:#66758a}.link{stroke:#4b96f3}.slow{stroke:#"
    "f59e0b}\n"
    ".none{stroke:#4a5867}.hop{fill:#182029;stroke:#9aa8b9}.gpu{fill:#12301f;stroke:#2bb673}.dev{fill:#1d2732;stroke:#"
    "33404f}\n"
    ".number{fill:#c3ccd8}.pill{fill:#223453}.pillt{fill:#a9c6f8}.ok{fill:#2bb673}.warn{fill:#f59e0b}\n"
    ".cell0{fill:#1d4a32}.cell1{fill:#574420}.cell2{fill:#5b3326}.cellx{fill:#2a3542}}\n"
    "</style>\n";

/* ---- one node ---- */

static uint32_t node_cpus(const struct draw *d, uint32_t node)
{
    return vgpu_host_cpuset_count(&d->t->memory.node[node].cpus);
}

static uint32_t node_devices(const struct draw *d, int32_t place)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < d->t->device_count; i++)
        n += vgpu_topology_place(d->t, d->t->devices[i].pci->node) == place;
    return n;
}

static int cores_height(const struct draw *d, uint32_t node)
{
    uint32_t cpus = node_cpus(d, node);
    uint32_t rows = (cpus + (uint32_t)d->per_row - 1) / (uint32_t)d->per_row;

    return (int)rows * (d->tile + 6) + 30;
}

static int devices_height(uint32_t devices)
{
    return devices ? 26 + (int)devices * (DEVICE_H + DEVICE_GAP) : 0;
}

static int card_height(const struct draw *d, uint32_t node)
{
    return PAD + CARD_HEAD + cores_height(d, node) + devices_height(node_devices(d, (int32_t)node)) + PAD;
}

static void node_memory(const struct draw *d, uint32_t n, int x, int y)
{
    const struct vgpu_host_node *node = &d->t->memory.node[n];
    char total[32], free_text[32];
    int w = d->card_width - 2 * PAD;
    double used = node->total_bytes > node->free_bytes ? 1 - (double)node->free_bytes / (double)node->total_bytes : 0;
    double huge = node->total_bytes
                      ? ((double)node->huge_2m.total * (2 << 20) + (double)node->huge_1g.total * (1 << 30)) /
                            (double)node->total_bytes
                      : 0;

    vgpu_topology_bytes(node->total_bytes, total, sizeof(total));
    vgpu_topology_bytes(node->free_bytes, free_text, sizeof(free_text));
    text_at(d, x, y + 20, "h2", "NUMA node %d", node->id);
    text_at(d, x + w, y + 20, "t end", "%s, %s free", total, free_text);
    rect(d, x, y + 34, w, 14, 7, "track");
    if (used > 0.005)
        rect(d, x, y + 34, (int)(w * (used > 1 ? 1 : used)), 14, 7, "used");
    if (huge > 0.002)
        rect(d, x, y + 34, (int)(w * (huge > 1 ? 1 : huge)) + 2, 14, 7, "huge");
    if (node->huge_2m.total || node->huge_1g.total)
        text_at(d, x, y + 68, "s dim",
                "huge pages: %" PRIu64 " of 2 MiB (%" PRIu64 " free), %" PRIu64 " of 1 GiB (%" PRIu64 " free)",
                node->huge_2m.total, node->huge_2m.free, node->huge_1g.total, node->huge_1g.free);
    else
        text_at(d, x, y + 68, "s warnt", "no huge pages");
}

static const char *kind_letter(const struct vgpu_topology_role *r)
{
    return r->kind == VGPU_TOPOLOGY_POLL ? "P" : "E";
}

static void one_cpu(const struct draw *d, int32_t cpu, int x, int y)
{
    const struct vgpu_topology_role *r = vgpu_topology_role_of(d->t, cpu);
    bool isolated = vgpu_host_cpuset_has(&d->t->cpus.isolated, cpu);
    const char *class = r ? (r->kind == VGPU_TOPOLOGY_POLL ? "poll" : "exec") : isolated ? "iso" : "cpu";

    fprintf(d->out, "<g><title>CPU %d%s", cpu, r ? ": " : "");
    escape(d->out, r ? r->name : "", sizeof(r->name));
    fprintf(d->out, "%s</title>\n", isolated ? " (isolated)" : "");
    rect(d, x, y, d->tile, d->tile, d->tile / 4, class);
    if (d->tile >= NUMBERED_TILE)
        fprintf(d->out, "<text x=\"%d\" y=\"%d\" class=\"%s\">%s%d</text>", x + d->tile / 2, y + d->tile / 2 + 4,
                r ? "letter" : "number", r ? kind_letter(r) : "", cpu);
    else if (r)
        fprintf(d->out, "<text x=\"%d\" y=\"%d\" class=\"letter\">%s</text>", x + d->tile / 2, y + d->tile / 2 + 4,
                kind_letter(r));
    fputs("</g>\n", d->out);
}

/* CPUs of one core stand side by side: in the order of their cores, then of their numbers. */
static int core_order(const void *a, const void *b)
{
    const struct vgpu_host_core *x = *(const struct vgpu_host_core *const *)a,
                                *y = *(const struct vgpu_host_core *const *)b;
    int32_t cx = x->first_sibling < 0 ? x->cpu : x->first_sibling,
            cy = y->first_sibling < 0 ? y->cpu : y->first_sibling;

    if (cx != cy)
        return cx < cy ? -1 : 1;
    return x->cpu < y->cpu ? -1 : x->cpu > y->cpu;
}

static void node_cores(const struct draw *d, uint32_t n, int x, int y)
{
    const struct vgpu_topology *t = d->t;
    const struct vgpu_host_core **list = calloc(t->cpus.core_count ? t->cpus.core_count : 1, sizeof(*list));
    uint32_t count = 0;

    for (uint32_t i = 0; list && i < t->cpus.core_count; i++)
        if (vgpu_host_cpuset_has(&t->memory.node[n].cpus, t->cpus.core[i].cpu))
            list[count++] = &t->cpus.core[i];
    if (count)
        qsort(list, count, sizeof(*list), core_order);
    text_at(d, x, y + 8, "s dim", "%u CPUs%s", count, t->cpus.smt ? ", those of one core side by side" : "");
    for (uint32_t i = 0; i < count; i++) {
        int column = (int)i % d->per_row, row = (int)i / d->per_row;
        int cx = x + column * (d->tile + 6), cy = y + 18 + row * (d->tile + 6);
        /* A bar joins a CPU to the one before it, where they are one core. */
        if (i && column && list[i]->first_sibling >= 0 && list[i]->first_sibling == list[i - 1]->first_sibling)
            rect(d, cx - 8, cy + d->tile / 2 - 2, 10, 4, 1, "used");
        one_cpu(d, list[i]->cpu, cx, cy);
    }
    free(list);
}

/* ---- devices ---- */

static double link_width(uint64_t bandwidth)
{
    double gb = (double)bandwidth / 1e9;
    return gb < 0.25 ? 1.5 : 1.5 + 1.7 * log2(gb / 0.25);
}

static void device_link(const struct draw *d, const struct vgpu_topology_device *v, int x, int y)
{
    const char *class = !v->bandwidth ? "none" : vgpu_topology_link_degraded(v) ? "slow" : "link";
    uint32_t dots = v->bridges < 6 ? v->bridges : 6;

    fprintf(d->out, "<line x1=\"%d\" y1=\"%d\" x2=\"%d\" y2=\"%d\" class=\"%s\" stroke-width=\"%.1f\"/>\n", x + 4, y,
            x + LINK_W, y, class, v->bandwidth ? link_width(v->bandwidth) : 1.5);
    for (uint32_t i = 0; i < dots; i++)
        fprintf(d->out, "<circle cx=\"%d\" cy=\"%d\" r=\"6.5\" class=\"hop\"/>\n", x + 22 + (int)i * 18, y);
    if (v->bandwidth) {
        text_at(d, x + LINK_W - 8, y - 14, "s b end", "%.1f GB/s", (double)v->bandwidth / 1e9);
        text_at(d, x + LINK_W - 8, y + 24, v->max_bandwidth > v->bandwidth ? "s warnt end" : "s dim end",
                "x%u %.3g GT/s", v->pci->width, v->pci->speed_mts / 1000.0);
    }
}

static void device_box(const struct draw *d, const struct vgpu_topology_device *v, int x, int y, int w)
{
    char model[72], pill[24] = "no group";
    uint32_t fits = (uint32_t)(w - 120) / 7;

    snprintf(model, sizeof(model), "%.*s%s", (int)(fits > 60 ? 60 : fits), v->model,
             strlen(v->model) > fits ? ".." : "");
    rect(d, x, y, w, DEVICE_H, 9, v->gpu ? "gpu" : "dev");
    text_at(d, x + 14, y + 24, "t b", "%s  %s", v->kind, v->pci->address);
    text_at(d, x + 14, y + 43, "t", "%s", model);
    text_at(d, x + 14, y + 61, "s dim", "driver %s", v->pci->driver[0] ? v->pci->driver : "none");
    if (vgpu_topology_link_degraded(v))
        text_at(d, x + w - 14, y + 61, "s warnt end", "could be x%u, %.1f GB/s", v->pci->max_width,
                (double)v->max_bandwidth / 1e9);
    if (v->pci->group >= 0)
        snprintf(pill, sizeof(pill), "group %d", v->pci->group);
    rect(d, x + w - 88, y + 11, 76, 20, 10, "pill");
    text_at(d, x + w - 50, y + 25, "s pillt mid", "%s", pill);
}

static void place_devices(const struct draw *d, int32_t place, int x, int y)
{
    int first = 0, last = 0, row = 0;
    int w = d->card_width - 2 * PAD - LINK_W;

    text_at(d, x, y + 10, "s dim", "PCI Express; a dot for each bridge on the way");
    for (uint32_t i = 0; i < d->t->device_count; i++) {
        if (vgpu_topology_place(d->t, d->t->devices[i].pci->node) != place)
            continue;
        int top = y + 26 + row++ * (DEVICE_H + DEVICE_GAP), middle = top + DEVICE_H / 2;
        first = first ? first : middle;
        last = middle;
        device_link(d, &d->t->devices[i], x, middle);
        device_box(d, &d->t->devices[i], x + LINK_W, top, w);
    }
    if (row)
        fprintf(d->out, "<line x1=\"%d\" y1=\"%d\" x2=\"%d\" y2=\"%d\" class=\"bus\"/>\n", x + 4, first - 18, x + 4,
                last + 18);
}

static void node_card(const struct draw *d, uint32_t n, int x, int y, int height)
{
    int at = y + PAD;

    rect(d, x, y, d->card_width, height, 14, "card");
    node_memory(d, n, x + PAD, at);
    at += CARD_HEAD - 14;
    node_cores(d, n, x + PAD, at);
    at += cores_height(d, n) + 14;
    if (node_devices(d, (int32_t)n))
        place_devices(d, (int32_t)n, x + PAD, at);
}

/* ---- head and foot ---- */

static int legend_item(const struct draw *d, int x, int y, const char *class, const char *text)
{
    rect(d, x, y - 11, 13, 13, 3, class);
    text_at(d, x + 19, y, "s", "%s", text);
    return x + 19 + (int)strlen(text) * 6 + 26;
}

static void head(const struct draw *d)
{
    const struct vgpu_topology *t = d->t;
    int x = MARGIN;

    text_at(d, MARGIN, 56, "h1", "%.70s", t->cpus.model[0] ? t->cpus.model : "This host");
    text_at(d, MARGIN, 82, "t dim", "%u package%s, %u CPUs, %u NUMA node%s, %s", t->cpus.packages,
            t->cpus.packages == 1 ? "" : "s", t->cpus.core_count, t->memory.node_count,
            t->memory.node_count == 1 ? "" : "s",
            t->xen                 ? "IOMMU driven by Xen"
            : t->iommu.group_count ? "IOMMU in use"
                                   : "no IOMMU in use: a device reaches all memory");
    x = legend_item(d, x, 112, "poll", "P poll core");
    x = legend_item(d, x, 112, "exec", "E executor");
    x = legend_item(d, x, 112, "iso", "isolated, free");
    x = legend_item(d, x, 112, "cpu", "other CPU");
    x = legend_item(d, x, 112, "huge", "huge pages");
    x = legend_item(d, x, 112, "used", "memory in use");
    x = legend_item(d, x, 112, "warn", "slower than it could be, or far away");
}

/*
 * A row for each GPU and each node from which vgpud's cores reach it: which cores, and what lies between.
 * Returns how many rows there are; with draw they are drawn.
 */
static int paths(const struct draw *d, int x, int y, bool draw)
{
    const struct vgpu_topology *t = d->t;
    int rows = 0;

    for (uint32_t i = 0; i < t->device_count && t->devices[i].gpu; i++)
        for (int32_t from = -1; from < (int32_t)t->memory.node_count && rows < PATHS_MAX; from++) {
            char who[120] = "", cost[40] = "";
            uint32_t count = 0, distance;
            for (uint32_t r = 0; r < t->role_count; r++) {
                const struct vgpu_host_core *core = vgpu_host_cpu_find(&t->cpus, t->roles[r].cpu);
                size_t at = strlen(who);
                if ((core ? vgpu_topology_place(t, core->node) : -1) != from)
                    continue;
                if (at < sizeof(who) - 24)
                    snprintf(who + at, sizeof(who) - at, "%s%s%d", at ? " " : "", kind_letter(&t->roles[r]),
                             t->roles[r].cpu);
                else if (at < sizeof(who) - 4)
                    strcat(who, " ..");
                count++;
            }
            if (!count)
                continue;
            if (draw) {
                int32_t place = vgpu_topology_place(t, t->devices[i].pci->node);
                int32_t hops = vgpu_topology_hops(t, from, place);
                int at = y + rows * 24;
                distance = vgpu_topology_distance(t, from, place);
                fprintf(d->out, "<circle cx=\"%d\" cy=\"%d\" r=\"5\" class=\"%s\"/>\n", x + 5, at - 4,
                        hops == 0  ? "ok"
                        : hops > 0 ? "warn"
                                   : "used");
                if (hops > 0 && distance)
                    snprintf(cost, sizeof(cost), ", memory takes %.1f x local", distance / 10.0);
                text_at(d, x + 20, at, "t", "GPU %s from %s: %s%s, %u bridge%s", t->devices[i].pci->address, who,
                        hops == 0   ? "same node"
                        : hops == 1 ? "a hop to another node"
                        : hops > 1  ? "more than a hop"
                                    : "not known",
                        cost, t->devices[i].bridges, t->devices[i].bridges == 1 ? "" : "s");
            }
            rows++;
        }
    return rows;
}

static int foot_height(const struct draw *d)
{
    int matrix =
        d->t->memory.node_count > 1 ? (int)(d->t->memory.node_count < 16 ? d->t->memory.node_count : 16) * 34 + 74 : 0;
    int rows = paths(d, 0, 0, false);
    int high = (rows ? rows : 1) * 24 + 88;

    return matrix > high ? matrix : high;
}

static void foot_paths(const struct draw *d, int x, int y)
{
    text_at(d, x, y, "h2", "Memory paths");
    int row = paths(d, x, y + 30, true);
    if (!row)
        text_at(d, x, y + 30 + row++ * 24, "t dim", "no path between a core of vgpud's and a GPU");
    text_at(d, x, y + 34 + row * 24, "s dim", "%s", d->t->roles_from);
}

static void foot_matrix(const struct draw *d, int right, int y)
{
    const struct vgpu_topology *t = d->t;
    int n = t->memory.node_count < 16 ? (int)t->memory.node_count : 16, x = right - n * 40;

    if (n < 2)
        return;
    text_at(d, right, y, "h2 end", "Distances between nodes");
    for (int to = 0; to < n; to++)
        text_at(d, x + to * 40 + 18, y + 22, "s dim mid", "%d", t->memory.node[to].id);
    for (int from = 0; from < n; from++) {
        text_at(d, x - 12, y + 50 + from * 34, "s dim end", "%d", t->memory.node[from].id);
        for (int to = 0; to < n; to++) {
            uint32_t distance = vgpu_topology_distance(t, from, to);
            int32_t hops = vgpu_topology_hops(t, from, to);
            const char *class = !distance ? "cellx" : hops == 0 ? "cell0" : hops == 1 ? "cell1" : "cell2";
            rect(d, x + to * 40, y + 30 + from * 34, 36, 30, 6, class);
            text_at(d, x + to * 40 + 18, y + 50 + from * 34, "t mid", "%u", distance);
        }
    }
}

/* Nodes in two columns, each where its column ends first; returns where the longer one ends. */
static int cards(const struct draw *d, int top, bool draw)
{
    int end[2] = {top, top};

    for (uint32_t n = 0; n < d->t->memory.node_count; n++) {
        int column = d->columns == 2 && end[1] < end[0], high = card_height(d, n);
        if (draw)
            node_card(d, n, MARGIN + column * (d->card_width + GAP), end[column], high);
        end[column] += high + GAP;
    }
    return end[0] > end[1] ? end[0] : end[1];
}

void vgpu_topology_svg(const struct vgpu_topology *t, FILE *out)
{
    struct draw d = {.t = t, .out = out};
    uint32_t most = 1, homeless;
    int y, height;

    d.columns = t->memory.node_count > 1 ? 2 : 1;
    d.card_width = (WIDTH - 2 * MARGIN - (d.columns - 1) * GAP) / d.columns;
    for (uint32_t n = 0; n < t->memory.node_count; n++)
        most = node_cpus(&d, n) > most ? node_cpus(&d, n) : most;
    d.tile = most <= 128 ? NUMBERED_TILE : most <= 256 ? 16 : 10;
    d.per_row = (d.card_width - 2 * PAD + 6) / (d.tile + 6);
    /* Rows of one length, even, so that the threads of a core stay together. */
    uint32_t rows = (most + (uint32_t)d.per_row - 1) / (uint32_t)d.per_row;
    uint32_t even = ((most + rows - 1) / rows + 1) / 2 * 2;
    d.per_row = (int)even < d.per_row ? (int)even : d.per_row;
    homeless = node_devices(&d, -1);
    height = cards(&d, HEAD, false);
    if (homeless)
        height += 2 * PAD + 30 + devices_height(homeless) + GAP;
    height += foot_height(&d) + MARGIN;
    fprintf(out,
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" "
            "height=\"%d\" "
            "viewBox=\"0 0 %d %d\">\n<title>Topology of this host</title>\n%s",
            WIDTH, height, WIDTH, height, style);
    rect(&d, 0, 0, WIDTH, height, 0, "bg");
    head(&d);
    y = cards(&d, HEAD, true);
    if (homeless) {
        int h = 2 * PAD + 30 + devices_height(homeless);
        struct draw wide = d;
        wide.card_width = WIDTH - 2 * MARGIN;
        rect(&wide, MARGIN, y, wide.card_width, h, 14, "card");
        text_at(&wide, MARGIN + PAD, y + PAD + 18, "h2", "Node not told by the firmware");
        place_devices(&wide, -1, MARGIN + PAD, y + PAD + 30);
        y += h + GAP;
    }
    rect(&d, MARGIN, y, WIDTH - 2 * MARGIN, foot_height(&d), 14, "card");
    foot_paths(&d, MARGIN + PAD, y + PAD + 16);
    foot_matrix(&d, WIDTH - MARGIN - PAD, y + PAD + 16);
    fputs("</svg>\n", out);
}
