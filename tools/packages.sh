# shellcheck shell=bash disable=SC2034
# packages.sh - the Debian 12 packages that building and testing need. Sourced by test.sh and demo.sh.

packages_build=(build-essential cmake git ninja-build pkg-config
    libhwloc-dev libjansson-dev libpcre2-dev libxxhash-dev libedit-dev libcriterion-dev)
packages_test=(clang clang-format libclang-rt-14-dev libomp-dev coinor-libcbc-dev)
packages_long=(valgrind debootstrap)

# Installs what is missing of the packages named. Needs neither network nor root when nothing is.
packages_install() {
    local package missing=() as_root=()
    for package in "$@"; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
    done
    if [ ${#missing[@]} -eq 0 ]; then return; fi
    [ "$(id -u)" -eq 0 ] || as_root=(sudo)
    echo "installing ${missing[*]}"
    "${as_root[@]}" apt-get update -qq &&
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}"
}
