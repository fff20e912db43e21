/* SPDX-License-Identifier: Apache-2.0 */
/* host-checklist: prints the list of checks for docs/precheck.md. */
#include <stdio.h>

#include "host/checks.h"

int main(void)
{
    static const char letter[] = "-lmhc";

    for (uint32_t s = 0; s < VGPU_SUBSYSTEMS; s++) {
        const struct vgpu_subsystem *sub = &vgpu_subsystems[s];
        printf("### %s\n\nWeight %u.\n\n| check | what is wanted | p b s |\n|---|---|---|\n", sub->title, sub->weight);
        for (uint32_t i = 0; i < vgpu_subsystem_checks(s); i++) {
            const struct vgpu_check *c = &sub->checks[i];
            printf("| `%s` | %s: %s | %c %c %c |\n", c->id, c->title, c->wanted, letter[c->severity[0]],
                   letter[c->severity[1]], letter[c->severity[2]]);
        }
        printf("\n");
    }
    return 0;
}
