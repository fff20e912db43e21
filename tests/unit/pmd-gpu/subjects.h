/* SPDX-License-Identifier: Apache-2.0 */
/* What each backend promises to the conformance test, in one table; a backend may be there in several ways. */
#ifndef VGPU_TESTS_SUBJECTS_H
#define VGPU_TESTS_SUBJECTS_H

#include "tests/unit/pmd-gpu/conformance.h"

extern const struct conformance_subject conformance_subjects[]; /* ends with an empty one */
/* The subject with the options of its environment variable added. Valid until the next call; one thread. */
const struct conformance_subject *conformance_subject_find(const char *name);

#endif
