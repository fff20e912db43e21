# SPDX-License-Identifier: Apache-2.0
# vgpu_build: configures and compiles build/. Starts over by itself when what it finds there cannot be continued.
# Sourced by scripts/common.sh.

vgpu_meson() {
    if [ -x /usr/bin/meson ]; then /usr/bin/meson "$@"; else meson "$@"; fi
}

# What build/ must have been made from to be continued: this tree (not a copy of it), by this meson.
vgpu_build_stamp() {
    printf '%s\nmeson %s\n' "$VGPU_ROOT" "$(vgpu_meson --version 2>/dev/null)"
}

vgpu_build_usable() {
    local build=$VGPU_ROOT/build
    [ -s "$build/build.ninja" ] && [ -s "$build/meson-private/coredata.dat" ] &&
        [ "$(cat "$build/.stamp" 2>/dev/null)" = "$(vgpu_build_stamp)" ]
}

vgpu_configure() {
    local build=$VGPU_ROOT/build
    # The logs stay: they say what went wrong before.
    find "$build" -mindepth 1 -maxdepth 1 ! -name log -exec rm -rf {} + || return
    step configure "$VGPU_LOG_DIR/configure.log" vgpu_meson setup "$build" "$VGPU_ROOT" || return
    vgpu_build_stamp >"$build/.stamp"
}

vgpu_compile() { # LOG
    ninja -C "$VGPU_ROOT/build" >"$1" 2>&1 </dev/null
}

vgpu_build_locked() {
    local log=$VGPU_LOG_DIR/build.log start=$SECONDS rc fresh=0
    if ! vgpu_build_usable; then
        vgpu_configure || return
        fresh=1
    fi
    # PJRT's header came after the build was configured: only then is there a vgpu-worker to build.
    if [ $fresh -eq 0 ] && [ -e "${XDG_CACHE_HOME:-$HOME/.cache}/vgpu/pjrt/include/pjrt_c_api.h" ] &&
        ! grep -q vgpu-worker "$VGPU_ROOT/build/build.ninja"; then
        vgpu_meson setup --reconfigure "$VGPU_ROOT/build" "$VGPU_ROOT" >"$log" 2>&1 </dev/null || vgpu_configure || return
    fi
    # A changed meson.build is taken up here. If that fails, the directory may be a half-finished one: start over, once.
    if [ $fresh -eq 0 ] && ! ninja -C "$VGPU_ROOT/build" build.ninja >"$log" 2>&1 </dev/null; then
        vgpu_configure || return
    fi
    if [ -t 2 ]; then printf 'vgpu: build ...' >&2; fi
    vgpu_compile "$log"
    rc=$?
    if [ -t 2 ]; then printf '\r\033[K' >&2; fi
    if [ $rc -ne 0 ]; then
        complain "build failed. The first errors of build/log/build.log:"
        { grep -E -A4 'error:|ninja: error|undefined reference|FAILED:' "$log" || tail -n 30 "$log"; } |
            cut -c1-240 | head -n 30 | sed 's/^/    /' >&2
        return 1
    fi
    if ! grep -q 'no work to do' "$log"; then say "build: done in $((SECONDS - start)) s"; fi
}

vgpu_build() {
    if ! mkdir -p "$VGPU_LOG_DIR" 2>/dev/null || ! [ -w "$VGPU_LOG_DIR" ]; then
        complain "cannot write to $VGPU_LOG_DIR: use a tree of your own, or the user who built this one"
        return 1
    fi
    # One build at a time in one tree; the lock ends with this process, however it ends.
    (
        flock 9 || exit
        vgpu_build_locked 9>&-
    ) 9>"$VGPU_LOG_DIR/.lock"
}
