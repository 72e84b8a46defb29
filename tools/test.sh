#!/usr/bin/env bash
# Builds Hotset and runs its tests, on a fresh Debian 12 or anywhere that has the packages of tools/packages.sh.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
. tools/packages.sh

usage() {
    cat <<'EOF'
Usage: tools/test.sh [--quick | --all]
  (none)   gcc build and clang build with sanitizers, each with all tests (they replay the fuzz
           corpus; of every type with every kind of model half of the pairs, with sanitizers
           fewer, among the others), checks of the source: what CI runs
  --quick  gcc build and its tests only
  --all    also every test in full, with sanitizers too, the clang build without them and its tests,
           the GPU modules for every architecture that the toolkits here know, 10 minutes of
           fuzzing, valgrind on the portable kernels, and (as root) the Debian package in a clean
           Debian 12
Builds in build/; the output of every step is kept in build/logs/.
EOF
}
case ${1-} in
    '') level=1 thinned=HALF sanitized=FEW ;;
    --quick) level=0 thinned=HALF ;;
    --all) level=2 thinned=OFF sanitized=OFF ;;
    --help | -h) usage && exit 0 ;;
    *) usage >&2 && exit 2 ;;
esac

logs=build/logs
mkdir -p "$logs"
begin_all=$SECONDS

# step NAME COMMAND...: runs a command with its output in a log file. The first one that fails ends the run.
step() {
    local name=$1 log begin=$SECONDS status=0
    shift
    log=$logs/${name//[^a-z0-9+]/-}.log
    printf '%-28s' "$name"
    "$@" >"$log" 2>&1 </dev/null || status=$?
    if [ $status -ne 0 ]; then
        printf 'FAILED after %s s\n\n' $((SECONDS - begin))
        tail -n 40 "$log"
        printf '\n'
        grep -nE '\[FAIL\]|\[----\] .|[Ee]rror: |ERROR: |WARNING: Thread|\*\*\*Failed' "$log" | tail -n 20
        printf '\nFAILED: %s (exit status %s)\ncommand: %s\nlog: %s\n' "$name" $status "$*" "$log"
        exit 1
    fi
    printf 'ok %4s s' $((SECONDS - begin))
    if [ "$1" = ctest ]; then test_counts "$3/Testing/Temporary/LastTest.log"; fi
    printf '\n'
}

# How many programs ctest ran and how many tests the suites among them, and how many of those said SKIP.
test_counts() {
    awk '/^Command: / { programs++ } /Synthesis: Tested: / { sub(/.*Tested: /, ""); tests += $1 } /^\[SKIP\]|^SKIP/ { skipped++ }
        END { printf "   %d programs, %d tests in suites, %d skipped", programs, tests, skipped
              if (skipped) printf " (see %s)", FILENAME }' "$1"
}

# build NAME FOLDER COMPILER OPTION...: one build of everything.
build() {
    local name=$1 folder=$2 compiler=$3 cxx=g++
    shift 3
    if [ "$compiler" = clang ]; then cxx=clang++; fi # sanitizers of two compilers do not mix
    step "$name: configure" env CC="$compiler" CXX="$cxx" cmake -S . -B "$folder" -G Ninja -DHOTSET_WERROR=ON -DHOTSET_TESTS=ON "$@"
    step "$name: build" ninja -C "$folder"
}

build_and_test() {
    build "$@"
    step "$1: tests" ctest --test-dir "$2" -j "$(nproc)" --output-on-failure --no-tests=error
}

step "packages" packages_install "${packages_build[@]}"
build_and_test "gcc" build gcc -DHOTSET_TESTS_THINNED=$thinned
if [ "$level" -ge 1 ]; then
    step "packages for all checks" packages_install "${packages_test[@]}"
    step "source checks" tools/check.sh
    if [ "$level" -ge 2 ]; then build_and_test "clang" build/clang clang; fi
    # clang finds more here than gcc; in full, tests take long under it
    build_and_test "clang asan+ubsan" build/asan clang -DHOTSET_SANITIZE=address,undefined -DHOTSET_TESTS_THINNED=$sanitized
    build_and_test "clang tsan" build/tsan clang -DHOTSET_SANITIZE=thread -DHOTSET_TOOLS=OFF
fi
if [ "$level" -ge 2 ]; then
    step "packages for --all" packages_install "${packages_long[@]}"
    step "gpu modules: configure" cmake -S . -B build/gpu -G Ninja -DHOTSET_WERROR=ON -DHOTSET_GPU_ARCHITECTURES_ALL=ON
    mapfile -t modules < <(ninja -C build/gpu -t targets all | sed -nE 's/^(libhotset-(emu|cuda|hip)\.so): .*/\1/p')
    step "gpu modules: build" ninja -C build/gpu "${modules[@]}"
    for kind in cuda:nvcc hip:hipcc; do # what is left out is said
        [[ " ${modules[*]} " == *" libhotset-${kind%:*}.so "* ]] || printf '%-28sleft out: %s is not there\n' "gpu modules: ${kind%:*}" "${kind#*:}"
    done
    step "fuzzing, 600 s" tools/fuzz.sh 600
    step "valgrind, scalar kernels" valgrind --quiet --leak-check=full --show-leak-kinds=definite --errors-for-leak-kinds=definite \
        --error-exitcode=9 build/hotset run tools/demo/Gutenberg-7M-ReGLU-F16.gguf \
        -p "The whale" -n 4 --seed 1 --isa scalar --threads 2
    if [ "$(id -u)" -eq 0 ]; then # a fresh system is made in a folder, which takes root and a mirror
        step "package in a clean Debian" tests/package.sh build gcc tools/demo/Gutenberg-7M-ReGLU-F16.gguf --clean
    fi
fi
printf '\nall passed in %s s\n' $((SECONDS - begin_all))
