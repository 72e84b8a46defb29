#!/bin/sh
# Fuzzes every target of tests/fuzz for an equal share of SECONDS, with clang's libFuzzer, address and undefined-behaviour
# sanitizers; with 0 seconds it only replays the corpus. What is new goes to build-fuzz/corpus, findings to
# build-fuzz/findings; the corpus in the tree is only read. Exit status: 0 nothing found, 1 findings, 2 wrong usage or a
# failed build.
set -eu

case "${1:-}" in
'' | *[!0-9]*)
    echo "usage: tools/fuzz.sh SECONDS" >&2
    exit 2
    ;;
esac
root=$(cd "$(dirname "$0")/.." && pwd)
build=$root/build-fuzz
mkdir -p "$build/findings"

if ! { cmake -S "$root" -B "$build" -DCMAKE_C_COMPILER="${CC:-clang}" -DHOTSET_FUZZ=ON -DHOTSET_TOOLS=OFF \
    -DHOTSET_ONEDNN=OFF && cmake --build "$build" --target fuzz --parallel; } >"$build/build.log" 2>&1; then
    tail -n 20 "$build/build.log" >&2
    exit 2
fi

set -- "$1" "$root"/tests/fuzz/fuzz_*.c
seconds=$1
shift
share=$((seconds / $#))
limit=-max_total_time=$share
[ "$share" -gt 0 ] || limit=-runs=0 # a time of 0 would mean: for ever
found=0
for source in "$@"; do
    name=$(basename "$source" .c)
    corpus=corpus/${name#fuzz_}
    log=$build/$name.log
    mkdir -p "$build/$corpus"
    rm -f "$build/findings/$name-"*
    status=0
    "$build/tests/fuzz/$name" "$limit" -timeout=10 -rss_limit_mb=2048 -malloc_limit_mb=256 \
        -print_final_stats=1 -artifact_prefix="$build/findings/$name-" "$build/$corpus" "$root/tests/fuzz/$corpus" \
        >"$log" 2>&1 || status=$?
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    findings=$(find "$build/findings" -name "$name-*" | wc -l)
    if [ "$status" -ne 0 ] && [ "$findings" -eq 0 ]; then findings=1; fi # found while reading the corpus, or no run at all
    echo "$name: ${runs:-0} runs, $share s, $findings findings"
    if [ "$findings" -ne 0 ]; then
        found=1
        echo "  see $log and $build/findings" >&2
    fi
done
exit $found
