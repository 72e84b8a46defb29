#!/usr/bin/env bash
# Installs a build into an empty folder, moves that folder, and builds and runs small programs against it: through
# pkg-config from C and C++, and through find_package(hotset) from C, each with the shared and with the static library.
# Usage: tests/install.sh BUILD_DIR C_COMPILER
set -euo pipefail
build=$1 cc=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cmake --install "$build" --prefix "$work/first" >"$work/install.log"
mv "$work/first" "$work/moved"
prefix=$work/moved
[ -f "$prefix/share/hotset/machines/rtx4070-ddr4.json" ] || { echo "install: recorded machines are missing"; exit 1; }
pc=$(find "$prefix" -name hotset.pc)
libdir=$(dirname "$(dirname "$pc")")
export PKG_CONFIG_PATH=${pc%/*}
version=$(pkg-config --modversion hotset)

if grep -rIl -e "$build" -e "$work/first" -e -Wall "$prefix/include" "$libdir/cmake" "$libdir/pkgconfig"; then
    echo "install: these files name the build or its warning flags"
    exit 1
fi

cat >"$work/program.c" <<'EOF'
#include <stdio.h>
#include <hotset.h>

int main(void) {
    return puts(hotset_version()) < 0;
}
EOF
cp "$work/program.c" "$work/program.cc"

# Runs one program; its only line has to be the version that the package files state.
expect_version() {
    local said
    said=$(LD_LIBRARY_PATH=$libdir "$2") || { echo "install: $1: exit status $?"; exit 1; }
    [ "$said" = "$version" ] || { echo "install: $1 says '$said', hotset.pc says '$version'"; exit 1; }
    echo "ok: $1"
}
uses_shared_library() { readelf -d "$1" | grep -q 'NEEDED.*libhotset'; }
# Which library a program was linked with must be the one asked for, or the test proves nothing.
expect_shared() { uses_shared_library "$2" || { echo "install: $1 does not use libhotset.so"; exit 1; }; expect_version "$@"; }
expect_static() { ! uses_shared_library "$2" || { echo "install: $1 uses libhotset.so"; exit 1; }; expect_version "$@"; }

read -ra shared_flags <<<"$(pkg-config --cflags --libs hotset)"
# All of the archive: every library that any part of it needs has to be among the flags.
whole='-Wl,--whole-archive -l:libhotset.a -Wl,--no-whole-archive'
read -ra static_flags <<<"$(pkg-config --static --cflags --libs hotset | sed "s/-lhotset/$whole/")"
strict=(-Wall -Wextra -pedantic -Werror)
"$cc" -std=c11 "${strict[@]}" "$work/program.c" "${shared_flags[@]}" -o "$work/c_shared"
expect_shared "pkg-config, C, shared" "$work/c_shared"
"$cc" -std=c11 "${strict[@]}" "$work/program.c" "${static_flags[@]}" -o "$work/c_static"
expect_static "pkg-config, C, static" "$work/c_static"
case $cc in *clang*) cxx=${cc/clang/clang++} ;; *) cxx=c++ ;; esac
"$cxx" -std=c++11 "${strict[@]}" "$work/program.cc" "${shared_flags[@]}" -o "$work/cc_shared"
expect_shared "pkg-config, C++, shared" "$work/cc_shared"
"$cxx" -std=c++11 "${strict[@]}" "$work/program.cc" "${static_flags[@]}" -o "$work/cc_static"
expect_static "pkg-config, C++, static" "$work/cc_static"

cat >"$work/CMakeLists.txt" <<EOF
cmake_minimum_required(VERSION 3.25)
project(user LANGUAGES C)
find_package(hotset ${version%.*} REQUIRED CONFIG)
add_executable(cmake_shared program.c)
target_link_libraries(cmake_shared PRIVATE hotset::hotset)
add_executable(cmake_static program.c)
target_link_libraries(cmake_static PRIVATE hotset::static)
EOF
cmake -S "$work" -B "$work/build" -G Ninja -DCMAKE_C_COMPILER="$cc" -DCMAKE_PREFIX_PATH="$prefix" >"$work/cmake.log" ||
    { cat "$work/cmake.log"; exit 1; }
cmake --build "$work/build" >"$work/cmake.log" || { cat "$work/cmake.log"; exit 1; }
expect_shared "find_package, C, shared" "$work/build/cmake_shared"
expect_static "find_package, C, static" "$work/build/cmake_static"

if [ -x "$prefix/bin/hotset" ]; then
    said=$("$prefix/bin/hotset" --version)
    [ "$said" = "hotset $version" ] || { echo "install: hotset --version says '$said'"; exit 1; }
    echo "ok: the command"
fi
