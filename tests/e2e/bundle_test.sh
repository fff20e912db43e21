#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# A bundle of this build, within its size, unpacked elsewhere, works with an empty environment: demo, conformance, bench.
#   bundle_test.sh SOURCE BUILD
set -u
source=$1 build=$2
for tool in patchelf xz python3; do
    command -v $tool >/dev/null || { echo "$tool is not installed: no bundle can be made here"; exit 77; }
done
work=$(mktemp -d /tmp/vgpu-bundle-XXXXXX) || exit 1
trap 'rm -rf "$work"' EXIT
number=0
bad=0
verdict() { # NAME, after a command: its exit status decides
    rc=$?
    number=$((number + 1))
    if [ $rc -eq 0 ]; then
        echo "ok $number - $1"
    else
        echo "not ok $number - $1"
        sed 's/^/# /' "$work/out"
        bad=1
    fi
}
bare() { env -i PATH=/usr/bin:/bin HOME=/nonexistent "$@" >"$work/out" 2>&1 </dev/null; }

echo "1..6"
VGPU_BUILD=$build "$source/scripts/bundle.sh" "$work/it.tar.gz" >"$work/out" 2>&1
verdict bundle_is_made_and_small_enough
mkdir "$work/a place" && tar -xzf "$work/it.tar.gz" -C "$work/a place" >"$work/out" 2>&1
verdict unpacks
cd "$work/a place"/vgpu-* || exit 1
bare ./run demo --seconds 0.5
verdict demo
bare ./run test conformance fill gemm_f32 regions
verdict conformance
bare ./run bench --list
verdict bench
# What a guest's author gets: headers and a library that link.
cat >"$work/guest.c" <<'C'
#include <vgpu/vgpu.h>
int main(void) { return vgpu_status_string(0) ? 0 : 1; }
C
cc -I include "$work/guest.c" lib/libvgpu.a -o "$work/guest" >"$work/out" 2>&1 && bare "$work/guest" &&
    cc -I include "$work/guest.c" -L lib -lvgpu -o "$work/guest2" >"$work/out" 2>&1 &&
    bare env LD_LIBRARY_PATH=lib "$work/guest2"
verdict libvgpu_links
exit $bad
