#!/usr/bin/env bash
# Makes the Debian package of a build and tries it: its contents, its command, and a program built against its library, all
# in a folder that it is unpacked to. With --clean it is installed in a fresh Debian 12 too, which needs root, debootstrap
# and a mirror (that of this machine), and runs the model there. 77 when there is nothing to make packages with.
# Usage: tests/package.sh BUILD_DIR C_COMPILER MODEL [--clean]
set -euo pipefail
build=$1 cc=$2 model=$(realpath "$3") clean=${4-}
for tool in cpack dpkg-deb dpkg-shlibdeps; do
    command -v $tool >/dev/null || { echo "SKIP: no $tool"; exit 77; }
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { echo "package: $*"; exit 1; }

(cd "$build" && cpack -G DEB -B "$work/packages") >"$work/cpack.log" 2>&1 || { cat "$work/cpack.log"; exit 1; }
deb=$(echo "$work"/packages/hotset_*.deb)
[ -f "$deb" ] || fail "no package hotset"
dpkg-deb -c "$deb" >"$work/contents"
for file in bin/hotset include/hotset.h lib/libhotset.so lib/libhotset.a lib/libhotset-emu.so lib/pkgconfig/hotset.pc \
    lib/cmake/hotset/hotsetConfig.cmake share/man/man1/hotset.1 share/bash-completion/completions/hotset \
    share/zsh/vendor-completions/_hotset share/fish/vendor_completions.d/hotset.fish \
    share/hotset/machines/rtx4070-ddr4.json share/doc/hotset/copyright; do
    grep -qE " \./usr/$file( ->.*)?$" "$work/contents" || fail "/usr/$file is missing"
done
if grep -vE ' \./(usr/.*)?$| -> ' "$work/contents"; then fail "these stand outside of /usr"; fi
depends=$(dpkg-deb -f "$deb" Depends)
[[ $depends == *libhwloc15* && $depends == *libpcre2* && $depends != *amdhip* && $depends != *cuda* ]] ||
    fail "wrong dependencies: $depends"
echo "ok: contents; depends on $depends"

dpkg-deb -x "$deb" "$work/root"
"$work/root/usr/bin/hotset" run "$model" -p "The whale" -n 4 --seed 1 --plan cpu -q >"$work/text"
grep -q "^The whale" "$work/text" || fail "the command writes '$(cat "$work/text")'"

# A program of a few lines, in C and in C++: the first token of a text and what it stands for.
cat >"$work/program.c" <<'PROGRAM'
#include <stdio.h>
#include <hotset.h>
int main(int argc, char **argv) {
    hotset_tokenizer *t;
    hotset_error err;
    int32_t token[8];
    size_t n = 0;
    if (argc < 2 || hotset_tokenizer_open(&t, argv[1], NULL, &err) != HOTSET_OK) return 1;
    if (hotset_tokenize(t, "The whale", 9, HOTSET_TOKENIZE_BOS, token, 8, &n, &err) != HOTSET_OK) return 2;
    for (size_t i = 0; i < n; i++) printf("%d ", (int)token[i]);
    hotset_tokenizer_free(t);
    return 0;
}
PROGRAM
cp "$work/program.c" "$work/program.cc"
export PKG_CONFIG_PATH=$work/root/usr/lib/pkgconfig
read -ra flags <<<"$(pkg-config --cflags --libs hotset)"
case $cc in *clang*) cxx=${cc/clang/clang++} ;; *) cxx=c++ ;; esac
"$cc" -std=c11 -Wall -Wextra -Werror "$work/program.c" "${flags[@]}" -o "$work/program_c"
"$cxx" -std=c++11 -Wall -Wextra -Werror "$work/program.cc" "${flags[@]}" -o "$work/program_cxx"
wanted=$(printf 'The whale' | "$work/root/usr/bin/hotset" tokenize "$model" --ids)
for program in program_c program_cxx; do
    got=$(LD_LIBRARY_PATH=$work/root/usr/lib "$work/$program" "$model")
    [ "${got% }" = "$wanted" ] || fail "$program says '$got', the command '$wanted'"
done
echo "ok: the command, a program in C, a program in C++"

[ "$clean" = --clean ] || exit 0
[ "$(id -u)" -eq 0 ] || { echo "SKIP: --clean needs root"; exit 77; }
command -v debootstrap >/dev/null || { echo "SKIP: no debootstrap"; exit 77; }
mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Codename: bookworm' | grep -v security | head -n 1)
debian=$work/debian
debootstrap --variant=minbase bookworm "$debian" "$mirror" >"$work/debootstrap.log" 2>&1 ||
    { tail -n 20 "$work/debootstrap.log"; fail "debootstrap failed"; }
cp "$deb" "$debian/hotset.deb"
cp "$model" "$debian/model.gguf"
# With /proc and /sys, in a namespace of mounts of its own: they go away with the command.
inside() {
    # shellcheck disable=SC2016 # the inner shell expands them
    unshare --mount sh -c 'root=$1; shift; mount -t proc proc "$root/proc" && mount -t sysfs -o ro sys "$root/sys" &&
        exec chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root "$@"' sh "$debian" "$@"
}
inside apt-get install -qq -y --no-install-recommends /hotset.deb >"$work/install.log" 2>&1 ||
    { tail -n 20 "$work/install.log"; fail "it does not install"; }
inside hotset --version
inside hotset run /model.gguf -p "The whale" -n 4 --seed 1 --plan cpu -q >"$work/clean_text"
cmp "$work/text" "$work/clean_text" || fail "another text in a clean system"
inside hotset machine --devices cpu,emu:64MiB --threads 1 --no-file --quiet >"$work/machine" 2>&1 ||
    { cat "$work/machine"; fail "the emulated device is not found there"; }
inside dpkg -r hotset >/dev/null
[ ! -e "$debian/usr/bin/hotset" ] || fail "it does not go away"
echo "ok: installed, run and removed in a clean Debian 12"
