#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# tsan_catches.sh PROGRAM: passes when ThreadSanitizer reports a data race in PROGRAM, which has a planted bug.
# A clean run means that the clean run of the real ring proves nothing either.
out=$(TSAN_OPTIONS='exitcode=66 halt_on_error=1' "$1" 8 1 20000 0 0 2>&1)
rc=$?
if [ "$rc" = 66 ] && echo "$out" | grep -q 'ThreadSanitizer: data race'; then
    echo "found, as it should be: $(echo "$out" | grep -m1 'SUMMARY')"
    exit 0
fi
echo "the planted bug in $1 was not reported (exit status $rc):"
echo "$out" | tail -20
exit 1
