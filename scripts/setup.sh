# SPDX-License-Identifier: Apache-2.0
# vgpu_setup: installs what is missing. Nothing is run, and no time is lost, when all is there.
# Sourced by scripts/common.sh.

# Sets PACKAGES for the distribution; 1 where we know none.
vgpu_packages() {
    local id='' version='' rt
    if [ -r /etc/os-release ]; then
        id=$(. /etc/os-release && echo "${ID:-}")
        version=$(. /etc/os-release && echo "${VERSION_ID:-}")
    fi
    PACKAGES=(meson ninja-build pkg-config gcc g++ clang git python3 libdpdk-dev liburcu-dev libhwloc-dev
        libsqlite3-dev libcriterion-dev libopenblas-serial-dev libyaml-dev libjansson-dev libsystemd-dev libck-dev
        libboost-dev liburing-dev libxen-dev scdoc spin systemtap-sdt-dev valgrind)
    DISTRIBUTION="${id:-unknown} ${version:-}"
    case "$id-$version" in
    debian-12) rt=libclang-rt-14-dev ;;
    ubuntu-24.04) rt=libclang-rt-18-dev ;;
    *) return 1 ;;
    esac
    PACKAGES+=("$rt" ${VGPU_MORE_PACKAGES:-}) # what one command alone needs
}

# Sets MISSING to the packages that are not installed.
vgpu_missing_packages() {
    local installed package
    installed=" $(dpkg-query -W -f='${Package}=${db:Status-Status}\n' "${PACKAGES[@]}" 2>/dev/null | tr '\n' ' ') "
    MISSING=()
    for package in "${PACKAGES[@]}"; do
        case "$installed" in
        *" $package=installed "*) ;;
        *) MISSING+=("$package") ;;
        esac
    done
}

# Elsewhere nothing can be installed by name, but what is there may do: the build's hard needs, by tool and module.
vgpu_probe_tools() {
    local tool module lacking=()
    for tool in meson ninja pkg-config gcc python3; do
        command -v "$tool" >/dev/null 2>&1 || lacking+=("$tool")
    done
    for module in libdpdk liburcu-qsbr hwloc sqlite3 criterion yaml-0.1 jansson; do
        pkg-config --exists "$module" 2>/dev/null || lacking+=("$module (pkg-config)")
    done
    [ ${#lacking[@]} -eq 0 ] && return 0
    complain "this is $DISTRIBUTION; packages are known by name for Debian 12 and Ubuntu 24.04 only"
    printf '  not found here:     %s\n' "$(printf '%s, ' "${lacking[@]}" | sed 's/, $//')" >&2
    printf '  needed (as Debian): %s libclang-rt\n' "${PACKAGES[*]}" >&2
    printf '  Install what is not found, then run this again.\n' >&2
    return 1
}

vgpu_apt() {
    local sudo=()
    [ "$(id -u)" -eq 0 ] || sudo=(sudo -n)
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 "$@"
}

vgpu_apt_install() {
    local lists
    lists=$(find /var/lib/apt/lists -maxdepth 1 -name '*_Packages*' 2>/dev/null | head -n 1)
    if [ -z "$lists" ]; then
        vgpu_apt update || echo "apt-get update failed; trying to install with the lists that are there"
    fi
    vgpu_apt install -y --no-install-recommends "$@" && return 0
    # Old lists name package versions that mirrors no longer have: refresh them, once.
    vgpu_apt update && vgpu_apt install -y --no-install-recommends "$@"
}

vgpu_setup() {
    local by_hand
    if ! vgpu_packages; then
        vgpu_probe_tools && vgpu_find_python
        return
    fi
    vgpu_missing_packages
    if [ ${#MISSING[@]} -gt 0 ]; then
        by_hand="apt-get update && apt-get install -y --no-install-recommends ${MISSING[*]}"
        if [ -n "${VGPU_NO_INSTALL:-}" ]; then
            complain "VGPU_NO_INSTALL is set and packages are missing. As root:"
            printf '  %s\n' "$by_hand" >&2
            return 1
        fi
        # sudo may ask for a password where someone is there to type it; never otherwise.
        if [ "$(id -u)" -ne 0 ] && ! sudo -n true >/dev/null 2>&1 &&
            ! { [ -t 0 ] && [ -t 2 ] && [ -z "${CI:-}" ] && command -v sudo >/dev/null 2>&1 && sudo -v; }; then
            complain "packages are missing and this user may not install them. As root:"
            printf '  %s\n' "$by_hand" >&2
            return 1
        fi
        mkdir -p "$VGPU_LOG_DIR" || return
        step "install ${#MISSING[@]} packages" "$VGPU_LOG_DIR/setup.log" vgpu_apt_install "${MISSING[@]}" || {
            printf '  By hand, as root: %s\n' "$by_hand" >&2
            return 1
        }
        vgpu_missing_packages
        if [ ${#MISSING[@]} -gt 0 ]; then
            complain "apt-get said it was done, yet these are missing: ${MISSING[*]}"
            return 1
        fi
    fi
    vgpu_find_python || {
        complain "no python3 (3.9 or later) that runs was found"
        return 1
    }
}
