/* SPDX-License-Identifier: Apache-2.0 */
#define SUITE   conformance_cpu
#define BACKEND "cpu"
#include "tests/unit/pmd-gpu/conformance_criterion.h"
