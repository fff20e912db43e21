/* SPDX-License-Identifier: Apache-2.0 */
#define SUITE   conformance_null
#define BACKEND "null"
#include "tests/unit/pmd-gpu/conformance_criterion.h"
