/* SPDX-License-Identifier: Apache-2.0 */
/* host-reference: prints host/references.c, the shipped references, from their fixtures. */
#include <err.h>
#include <stdio.h>

#include "host/checks.h"
#include "tests/host/tree.h"

static const struct {
    const char *fixture, *about;
} references[] = {
    {"bare-kvm-host", "a server for KVM guests with one H100, set up as docs/precheck.md says"},
    {"xen-pvh-h100", "a PVH control domain of Xen with one H100"},
    {"developer-laptop", "a laptop to write code on: no NVIDIA GPU, the distribution's defaults"},
};

static void print_reference(const char *fixture, const char *about)
{
    static struct vgpu_report report;
    struct vgpu_facts facts;
    struct vgpu_host_root root;
    struct vgpu_err error;
    char *dir = tree_new();

    tree_make(dir, fixture);
    if (vgpu_host_root_open(&root, dir, &error))
        errx(1, "%s", error.text);
    if (vgpu_facts_read(&root, VGPU_PROFILE_BALANCED, NULL, &facts))
        errx(1, "out of memory");
    vgpu_checks_run(&facts, &report);
    printf("    {\"%s\", \"%s\", VGPU_PROFILE_BALANCED,\n", fixture, about);
    for (uint32_t i = 0; i < report.count; i++)
        if (report.result[i].status != VGPU_CHECK_PASS)
            printf("     \"%s=%s\\n\"\n", report.result[i].check->id, vgpu_check_status_name(report.result[i].status));
    printf("     \"\"},\n");
    vgpu_facts_free(&facts);
    vgpu_host_root_close(&root);
    tree_remove(dir);
}

int main(void)
{
    printf("/* SPDX-License-Identifier: Apache-2.0 */\n"
           "/* Printed by host-reference (tests/host/reference.c); do not edit. */\n"
           "#include \"host/references.h\"\n\n"
           "const struct vgpu_reference vgpu_references[] = {\n");
    for (size_t i = 0; i < sizeof(references) / sizeof(references[0]); i++)
        print_reference(references[i].fixture, references[i].about);
    printf("};\nconst uint32_t vgpu_reference_count = sizeof(vgpu_references) / sizeof(vgpu_references[0]);\n");
    return 0;
}
