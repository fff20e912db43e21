/* SPDX-License-Identifier: Apache-2.0 */
#define SUITE   conformance_fault_cpu
#define BACKEND "fault:cpu"
#include "tests/unit/pmd-gpu/conformance_criterion.h"
