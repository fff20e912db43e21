/* SPDX-License-Identifier: Apache-2.0 */
#define SUITE   conformance_fault_null
#define BACKEND "fault:null"
#include "tests/unit/pmd-gpu/conformance_criterion.h"
