/* SPDX-License-Identifier: Apache-2.0 */
/* What each backend promises to the conformance test, in one table. */
#ifndef VGPU_TESTS_SUBJECTS_H
#define VGPU_TESTS_SUBJECTS_H

#include "tests/unit/pmd-gpu/conformance.h"

extern const struct conformance_subject conformance_subjects[]; /* ends with an empty one */
const struct conformance_subject *conformance_subject_find(const char *backend);

#endif
