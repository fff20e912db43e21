#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# ./run bundle [--with-cuda] [TARGET]: what build/ holds as one folder that runs on another x86-64 Linux (glibc 2.36 or
# later) without installing anything. TARGET ends with .tar.xz or .tar.gz: a tarball; otherwise a new folder.
#
# The folder keeps build/'s own layout, since programs find each other relative to themselves. Every program and library
# looks for libraries in the folder's lib/ first (an rpath relative to itself), whatever the environment says. libc and
# its parts come with the system; so do CUDA's libraries, unless --with-cuda.
set -euo pipefail

root=${VGPU_ROOT:-$(cd -- "$(dirname -- "$0")/.." && pwd)}
build=${VGPU_BUILD:-$root/build}
limit_bytes=$((40 << 20))
glibc_limit=2.36
libc_parts='^(libc|libm|libpthread|libdl|librt|libresolv|libutil|libanl|libmvec)\.so\.|^ld-linux'

die() { printf 'vgpu: error: bundle: %s\n' "$*" >&2; exit 1; }
say() { printf 'vgpu: %s\n' "$*" >&2; }

with_cuda=0
target=
for argument in "$@"; do
    case $argument in
    --with-cuda) with_cuda=1 ;;
    -*) printf 'usage: ./run bundle [--with-cuda] [FILE.tar.xz | FILE.tar.gz | FOLDER]\n' >&2; exit 2 ;;
    *) [ -z "$target" ] || { say 'bundle: one target'; exit 2; }; target=$argument ;;
    esac
done
[ "$(uname -m)" = x86_64 ] || die "bundles are made on x86-64; this is $(uname -m)"
for tool in patchelf xz strip objdump; do
    command -v $tool >/dev/null || die "$tool is missing (Debian, Ubuntu: packages patchelf, xz-utils, binutils)"
done
[ -x "$build/core/vgpud" ] || die "$build/core/vgpud is not there: build first (./run build)"
version=$("$build/core/vgpud" --version | grep -oE '[0-9]+\.[0-9]+\.[0-9]+' | head -n 1)
name=vgpu-$version-x86_64
target=${target:-$root/build/$name.tar.xz}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
dir=$work/$name
mkdir -p "$dir/bin" "$dir/lib" "$dir/licences"

# ---- programs, in build/'s layout ----
copy_programs() { # ROOM [find expressions]
    local room=$1 file
    shift
    [ -d "$build/$room" ] || return 0
    while IFS= read -r file; do
        mkdir -p "$dir/build/$(dirname "$file")"
        cp -L "$build/$file" "$dir/build/$file"
    done < <(cd "$build" && find "$room" -type f \( -perm -u+x -o -name '*.so' \) ! -path '*.p/*' "$@")
}
copy_programs core -name vgpud
copy_programs pmd-gpu -name vgpu-exec
copy_programs pmd-gpu -name vgpu-worker # where the build has it
copy_programs ctl -name vgpu-ctl
copy_programs bench
copy_programs guest-lib/examples -name 'vgpu-*'
copy_programs guest-lib/pjrt -name libvgpu_pjrt.so # where the build has it
copy_programs tests/e2e -name 'e2e-*'
copy_programs tests/unit/pmd-gpu -name conformance
copy_programs tests/gpu
copy_programs tests/fake-cuda -name '*.so'
for program in core/vgpud pmd-gpu/vgpu-exec ctl/vgpu-ctl bench/vgpu-bench guest-lib/examples/vgpu-demo-guest; do
    [ -x "$dir/build/$program" ] || die "$build/$program is not there"
    ln -s "../build/$program" "$dir/bin/${program##*/}"
done
ln -s vgpu-ctl "$dir/bin/vgpu-admin"
for program in "$dir"/build/guest-lib/examples/vgpu-*; do
    ln -sf "../build/guest-lib/examples/${program##*/}" "$dir/bin/${program##*/}"
done
cp "$build/guest-lib/examples/digits-weights.bin" "$root/guest-lib/examples/data/digits.csv" "$dir/build/guest-lib/examples/"

# ---- libvgpu for those who write guests ----
find "$build/guest-lib" -maxdepth 1 -name 'libvgpu.*' ! -type d ! -name '*.symbols' -exec cp -P {} "$dir/lib/" \;
# A thin archive names objects that stay behind; this one must stand alone.
if head -c 7 "$dir/lib/libvgpu.a" | grep -q thin; then
    rm "$dir/lib/libvgpu.a"
    (cd "$build" && ar t guest-lib/libvgpu.a | xargs ar rcs "$dir/lib/libvgpu.a")
fi
mkdir -p "$dir/include/vgpu" "$dir/examples" "$dir/python"
cp "$root"/guest-lib/python/*.py "$dir/python/"
# JAX in a guest: the package and its library together, so that a guest copies one folder.
if [ -e "$build/guest-lib/pjrt/libvgpu_pjrt.so" ]; then
    mkdir -p "$dir/python/jax_plugins/vgpu"
    cp "$root/guest-lib/pjrt/python/jax_plugins/vgpu/__init__.py" "$dir/python/jax_plugins/vgpu/"
    ln -s ../../../build/guest-lib/pjrt/libvgpu_pjrt.so "$dir/python/jax_plugins/vgpu/libvgpu_pjrt.so"
fi
cp "$root/guest-lib/vgpu.h" "$root/rings/abi/vgpu_abi.h" "$root/rings/abi/vgpu_attach.h" "$dir/include/vgpu/"
cp "$root"/guest-lib/examples/*.[ch] "$dir/examples/"

# ---- scripts, tests, configuration, documents ----
mkdir -p "$dir/bench/gpu" "$dir/scripts" "$dir/tests/gpu" "$dir/tests/e2e" "$dir/config" "$dir/docs/man"
cp "$root"/scripts/demo.py "$root"/scripts/demoview.py "$root"/scripts/tour*.py "$dir/scripts/"
cp "$root"/scripts/testlog.py "$root/scripts/bench.sh" "$dir/scripts/"
cp "$root/bench/gpu/table" "$dir/bench/gpu/"
cp "$root/bench/report.py" "$root/bench/goals.py" "$root/bench/tables.py" "$root/bench/plots.py" "$dir/bench/"
cp "$root"/tests/gpu/*.py "$dir/tests/gpu/"
mkdir -p "$dir/tests/ml" "$dir/bench/programs"
cp "$root"/tests/ml/*.py "$root"/tests/ml/*.txt "$root"/tests/ml/*.sha256 "$dir/tests/ml/"
cp "$root/scripts/pjrt.py" "$dir/scripts/"
cp "$root"/bench/programs/*.py "$dir/bench/programs/"
cp "$root"/tests/e2e/*.py "$dir/tests/e2e/"
cp "$root/scripts/bundle-run.sh" "$dir/run"
chmod +x "$dir/run"
cp "$root"/config/*.yaml "$build/config/vgpud.service" "$root/config/README.md" "$dir/config/"
cp "$root"/docs/*.md "$dir/docs/"
cp "$root/README.md" "$root/LICENSE" "$root/SECURITY.md" "$dir/"
find "$build/docs" -maxdepth 1 -name '*.[1-8]' -exec cp {} "$dir/docs/man/" \;
printf '%s\n' "$version $(git -C "$root" rev-parse --short=12 HEAD 2>/dev/null || echo 'no commit')" >"$dir/VERSION"

# ---- libraries ----
elf_files() { find "$dir" -type f \( -perm -u+x -o -name '*.so*' \) -exec sh -c 'head -c 4 "$1" | grep -q ELF' _ {} \; -print; }
while IFS= read -r file; do
    # libvgpu.so is in lib/ already.
    listed=$(LD_LIBRARY_PATH=$dir/lib ldd "$file" 2>&1) || true
    if grep 'not found' <<<"$listed" >&2; then die "these libraries of $file are not on this machine either"; fi
    awk '$2 == "=>" && $3 ~ /^\// { print $1, $3 }' <<<"$listed"
done < <(elf_files) | sort -u >"$work/needed"
while read -r library path; do
    if [[ $library =~ $libc_parts ]] || [ -e "$dir/lib/$library" ]; then continue; fi
    cp -L "$path" "$dir/lib/$library"
    chmod u+w "$dir/lib/$library"
    # The licences of others go with their libraries.
    package=$(dpkg -S "$(readlink -f "$path")" 2>/dev/null | head -n 1 | cut -d: -f1 || true)
    if [ -n "$package" ] && [ -r "/usr/share/doc/$package/copyright" ]; then
        cp -L "/usr/share/doc/$package/copyright" "$dir/licences/$package"
    else
        printf '%s: from %s, licence not found\n' "$library" "$path" >>"$dir/licences/UNKNOWN"
    fi
done <"$work/needed"
if [ $with_cuda -eq 1 ]; then
    found=0
    cuda=${CUDA_HOME:-/usr/local/cuda}
    for library in "$cuda"/lib64/libcublas.so.[0-9]* "$cuda"/lib64/libcublasLt.so.[0-9]*; do
        soname=$(patchelf --print-soname "$library" 2>/dev/null) || continue
        [ "${library##*/}" = "$soname" ] || continue
        cp -L "$library" "$dir/lib/$soname"
        chmod u+w "$dir/lib/$soname"
        found=$((found + 1))
    done
    [ $found -ge 2 ] || die "--with-cuda: no libcublas in $cuda/lib64 (CUDA_HOME names another place)"
fi

# ---- make them independent of where they lie ----
while IFS= read -r file; do
    chmod u+w "$file"
    [[ ${file##*/} == libcublas* ]] || strip --strip-unneeded "$file"
    relative=$(realpath --relative-to="$(dirname "$file")" "$dir/lib")
    [ "$relative" = . ] && origin='$ORIGIN' || origin="\$ORIGIN/$relative"
    patchelf --force-rpath --set-rpath "$origin" "$file"
done < <(elf_files)

# ---- and prove it: each file from an empty environment, each library from lib/ or libc ----
newest=0
while IFS= read -r file; do
    strange=$(env -i ldd "$file" | awk -v lib="$(realpath "$dir/lib")/" -v parts="$libc_parts" '
        /not found/ { print; next }
        $2 == "=>" && $1 !~ parts && index($3, lib) != 1 {
            cmd = "realpath " $3; cmd | getline real; close(cmd)
            if (index(real, lib) != 1) print
        }')
    [ -z "$strange" ] || die "$file would not find its libraries in the bundle: $strange"
    needs=$(objdump -T "$file" 2>/dev/null | grep -oE 'GLIBC_[0-9.]+' | sort -uV | tail -n 1 | cut -d_ -f2 || true)
    newest=$(printf '%s\n%s\n' "$newest" "${needs:-0}" | sort -V | tail -n 1)
done < <(elf_files)
if [ "$(printf '%s\n%s\n' "$newest" $glibc_limit | sort -V | tail -n 1)" != $glibc_limit ]; then
    say "warning: built here it needs glibc $newest; a build on Debian 12 needs $glibc_limit"
fi

# ---- hand over ----
facts="$(find "$dir/lib" -type f -name '*.so*' | wc -l) libraries; needs glibc $newest or later"
case $target in
*.tar.xz | *.tar.gz)
    mkdir -p "$(dirname "$target")"
    # Repeatable: the same files give the same bytes.
    pack=(tar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@${SOURCE_DATE_EPOCH:-0}" -C "$work" -c "$name")
    if [[ $target == *.xz ]]; then "${pack[@]}" | xz -T0 -6 >"$work/out"; else "${pack[@]}" | gzip -n6 >"$work/out"; fi
    bytes=$(stat -c %s "$work/out")
    if [ $with_cuda -eq 0 ] && [ "$bytes" -gt $limit_bytes ]; then
        du -a "$dir" | sort -n | tail -n 12 >&2
        die "the tarball has $bytes bytes, more than $limit_bytes"
    fi
    mv "$work/out" "$target"
    say "bundle: $target, $(awk "BEGIN { printf \"%.1f\", $bytes / 1048576 }") MiB, $facts"
    ;;
*)
    [ ! -e "$target" ] || die "$target exists already"
    mkdir -p "$(dirname "$target")"
    mv "$dir" "$target"
    say "bundle: $target, $(du -sh "$target" | cut -f1), $facts"
    ;;
esac
