#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Copies vgpu-bench and the shared libraries that it needs, except libc's own, into a folder that runs on another x86-64
# Linux with a libc at least as new, where nothing is installed:
#   bench/bundle.sh DIR [PROGRAM]      PROGRAM defaults to build/bench/vgpu-bench
#   DIR/vgpu-bench rings --json=rings.jsonl
set -eu

if [ $# -lt 1 ] || [ $# -gt 2 ]; then
    echo "usage: $0 DIR [PROGRAM]" >&2
    exit 2
fi
dir=$1
program=${2:-$(dirname "$0")/../build/bench/vgpu-bench}
if [ ! -x "$program" ]; then
    echo "$0: $program is not there: build it, or name it" >&2
    exit 1
fi

mkdir -p "$dir/lib"
cp "$program" "$dir/lib/vgpu-bench"
if ldd "$program" | grep 'not found' >&2; then
    echo "$0: these libraries are not on this machine either" >&2
    exit 1
fi
# libc, its parts and the loader belong together and come with the system.
ldd "$program" | awk '$2 == "=>" && $3 ~ /^\// { print $1, $3 }' | while read -r name path; do
    case $name in
    libc.so.* | libm.so.* | libpthread.so.* | libdl.so.* | librt.so.*) ;;
    *) cp -L "$path" "$dir/lib/$name" ;;
    esac
done
# A wrapper rather than a changed binary: patchelf is often missing.
cat >"$dir/vgpu-bench" <<'WRAPPER'
#!/bin/sh
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
LD_LIBRARY_PATH=$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export LD_LIBRARY_PATH
exec "$here/lib/vgpu-bench" "$@"
WRAPPER
chmod +x "$dir/vgpu-bench"
echo "$dir: $(du -sh "$dir" | cut -f1), $(find "$dir/lib" -name '*.so*' | wc -l) libraries;" \
    "needs glibc $(objdump -T "$dir"/lib/* 2>/dev/null | grep -o 'GLIBC_[0-9.]*' | sort -uV | tail -1 | cut -d_ -f2) or later"
