#!/usr/bin/env bash
# check.sh - Hotset on a real GPU: packs what a bare machine lacks, and checks the card there in steps.
set -uo pipefail
shopt -s inherit_errexit
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

usage() {
    cat <<'EOF'
Usage: tests/gpu/check.sh pack [FOLDER]
       tests/gpu/check.sh run STEP|all [--device NAME] [--from FOLDER] [--out FOLDER] [--models FOLDER]
pack   builds the modules for every architecture that the toolkits here know, and puts them, the programs and the
       libraries that they need into FOLDER (build/gpu-pack), with this script: nothing else has to be there
run    one step on this machine, with what FOLDER (this script's, if it is a pack, else build/gpu-pack, else build)
       has. Each takes less than 9 minutes. Prints one JSON object, and keeps it and the programs' output in
       --out (build/gpu-results, or results beside a pack). Exit status: 0 passed or skipped, 1 failed
       --device: cuda0 (default), hip0 ..., or emu, which tests this script and the steps that need no card
STEP   probe               what the card is and reaches: memory, multipliers, copies
       handshake           how long handing over to the host and back takes, in every way there is
       kernels             every kernel against the CPU's plain C
       sanitize            the same kernels watched by compute-sanitizer, where that is installed
       drill               what must not hang while the card waits for the host
       bandwidth           products by weight type and rows, against the card's measured limits
       models-7b           writes a 7b model with 10 % of the neurons active (4 GB; hotset synth)
       bench-7b            its speed with 0 to 100 % of the neurons on the card, attention only, and no card at all
       models-30b-skewed, bench-30b-skewed      the same of 30b-a3b Q4_K (17 GB), some experts used much more
       models-30b-uniform, bench-30b-uniform    and of one that uses all alike
       A bench-* step that runs out of time says so, and goes on where it was when it is run again.
EOF
}

steps=(probe handshake kernels sanitize drill bandwidth models-7b bench-7b models-30b-skewed bench-30b-skewed
    models-30b-uniform bench-30b-uniform)
step_s_max=520 # of the 9 minutes that a step may take
begin=$SECONDS

# ---- pack ----

# Of glibc, which every machine has, and in another version than ours.
never_packed='^(ld-linux.*|libc|libm|libdl|libpthread|librt|libresolv|libutil|libnsl)\.so'

pack_libraries() { # FOLDER FILE...: the libraries of these files, but for glibc's
    local folder=$1 path
    shift
    # shellcheck disable=SC2016
    for path in $(ldd "$@" 2>/dev/null | awk '/=> \// { print $3 }' | sort -u); do
        [[ ${path##*/} =~ $never_packed ]] || cp -L "$path" "$folder/"
    done
}

pack() {
    local folder=${1:-$root/build/gpu-pack} build=$root/build/gpu log=$root/build/gpu-pack.log file modules files linked=() newest
    mkdir -p "$folder" "$build" || return 1
    folder=$(cd "$folder" && pwd)
    if ! { cmake -S "$root" -B "$build" -G Ninja -DHOTSET_GPU_ARCHITECTURES_ALL=ON -DHOTSET_WERROR=ON >"$log" 2>&1 &&
        modules=$(ninja -C "$build" -t targets all | sed -nE 's/^(libhotset-(emu|cuda|hip)\.so): .*/\1/p') &&
        mapfile -t modules <<<"$modules" &&
        ninja -C "$build" hotset test_gpu test_gpu_kernels gpu_check "${modules[@]}" >>"$log" 2>&1; }; then
        tail -n 30 "$log" >&2
        return 1
    fi
    files=(hotset tests/test_gpu tests/test_gpu_kernels tests/gpu_check "${modules[@]}")
    rm -rf "${folder:?}/bin" "${folder:?}/lib"
    mkdir -p "$folder/bin" "$folder/lib"
    for file in "${files[@]}"; do
        strip --strip-unneeded -o "$folder/bin/${file##*/}" "$build/$file" || return 1
        [[ $file == *-hip.so ]] || linked+=("$folder/bin/${file##*/}") # whose libraries come with the driver
    done
    pack_libraries "$folder/lib" "${linked[@]}"
    cp "$here/check.sh" "$folder/"
    cp "$root/README.md" "$folder/text.txt" # any text will do for counting which units are used
    newest=$(objdump -T "$folder"/bin/* "$folder"/lib/* 2>/dev/null | grep -oE 'GLIBC_[0-9.]+' | sort -Vu | tail -n 1)
    [ -f "$folder/bin/libhotset-cuda.so" ] || echo "no libhotset-cuda: nvcc is not there" >&2
    [ -f "$folder/bin/libhotset-hip.so" ] || echo "no libhotset-hip: hipcc is not there" >&2
    echo "$folder: $(du -sm "$folder" | cut -f 1) MB; needs ${newest/_/ } or newer and the card's driver"
}

# ---- run ----

text() { # as a JSON string
    printf '"%s"' "$(tr '\n\t\r' '   ' <<<"$1" | tr -d '\000-\037' | sed -E 's/[\\"]/\\&/g; s/ +$//')"
}

# finish STATUS REASON [RESULTS]: the step's object; ends the script.
finish() {
    local results=${3:-null}
    printf '{"step": "%s", "device": "%s", "status": "%s", "reason": %s, "seconds": %d, "results": %s}\n' \
        "$step" "$device" "$1" "$(text "$2")" $((SECONDS - begin)) "$results" | tee "$out/$step.json"
    [ "$1" != FAIL ]
    exit
}

program() { printf '%s/%s' "$programs" "$1"; }

# limited COMMAND...: within what is left of the step's time.
limited() {
    local left=$((step_s_max - SECONDS + begin))
    [ $left -gt 0 ] || return 124
    LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} timeout --kill-after=10 "$left" "$@"
}

# What the step's JSON is when one program makes it.
run_check() {
    local status=0
    limited "$(program gpu_check)" "$@" >"$out/$step.out" 2>"$out/$step.err" || status=$?
    [ $status -eq 0 ] && finish PASS "" "$(cat "$out/$step.out")"
    [ $status -eq 124 ] && finish FAIL "it took more than $step_s_max s"
    finish FAIL "exit status $status: $(tail -n 1 "$out/$step.err")"
}

step_probe() { run_check probe "$device"; }
step_handshake() { run_check handshake "$device"; }
step_bandwidth() { run_check bandwidth "$device"; }

# run_suite NAME [PREFIX...]: adds the suite's counts to `results`, what failed to `failed`.
run_suite() {
    local name=$1 log=$out/$step-$1.log status=0 counts other
    shift
    limited "$@" "$(program "$name")" -j1 --verbose >"$log" 2>&1 </dev/null || status=$?
    counts=$(sed -nE 's/.*Synthesis: Tested: ([0-9]+) \| Passing: ([0-9]+) \| Failing: ([0-9]+) \| Crashing: ([0-9]+).*/"tested": \1, "passing": \2, "failing": \3, "crashing": \4/p' "$log")
    other=$(grep -c '^OTHER BITS: ' "$log")
    results+="${results:+, }\"$name${tool:+ $tool}\": {${counts:-\"tested\": 0}, \"with other bits than the emulation\": $other, \"exit\": $status}"
    [ $status -eq 0 ] || failed+="${failed:+; }$name${tool:+ ($tool)}: exit status $status, $(grep -m 1 -A 2 'Assertion Failed\|\[FAIL\]\|ERROR SUMMARY' "$log" | tail -n 1)"
    [ -n "$counts" ] || failed+="${failed:+; }$name: no test ran"
}

step_kernels() {
    local results='' failed='' tool=''
    run_suite test_gpu
    run_suite test_gpu_kernels
    if [ -z "$failed" ] && [ "$device" != emu ] && ! grep -q "^CARDS: .*$device is there" "$out/$step-test_gpu.log"; then
        failed="the suites did not run on $device, which must be the first of its kind"
    fi
    finish "$([ -z "$failed" ] && echo PASS || echo FAIL)" "$failed" "{$results}"
}

step_sanitize() {
    local results='' failed='' tool sanitizer
    sanitizer=$(PATH=$PATH:/usr/local/cuda/bin command -v compute-sanitizer) ||
        finish SKIP "compute-sanitizer is not installed"
    [[ $device == cuda* ]] || finish SKIP "compute-sanitizer watches CUDA only"
    for tool in memcheck racecheck synccheck initcheck; do
        run_suite test_gpu "$sanitizer" --tool "$tool" --target-processes all --error-exitcode 86
    done
    tool=memcheck run_suite test_gpu_kernels "$sanitizer" --tool memcheck --target-processes all --error-exitcode 86
    finish "$([ -z "$failed" ] && echo PASS || echo FAIL)" "$failed" "{$results}"
}

step_drill() {
    local results='' failed='' what status said
    for what in alloc pinned launch record copy open close limit; do
        status=0
        limited timeout --kill-after=5 60 "$(program gpu_check)" drill "$device" "$what" >"$out/$step-$what.out" 2>"$out/$step-$what.err" || status=$?
        said=$(cat "$out/$step-$what.out")
        [ $status -eq 0 ] || said='"failed"'
        results+="${results:+, }\"$what\": $said"
        [ $status -eq 0 ] || failed+="${failed:+; }$what: exit status $status, $(tail -n 1 "$out/$step-$what.err")"
    done
    finish "$([ -z "$failed" ] && echo PASS || echo FAIL)" "$failed" "{$results}"
}

# ---- models ----

model_path() { printf '%s/hotset-check-%s.gguf' "$models" "${step#*-}"; }

# make_model OPTION...: and what of it a text uses, which is what the hot units are chosen by.
make_model() {
    local path log=$out/$step.log begin_model=$SECONDS failed=''
    path=$(model_path)
    mkdir -p "$models"
    if [[ $step == models-30b-* ]]; then rm -f "$models"/hotset-check-30b-*; fi # one at a time: they are large
    if ! limited "$(program hotset)" synth "$path.part" "$@" --quiet >"$log" 2>&1; then
        failed="hotset synth: $(tail -n 1 "$log")"
    elif ! mv "$path.part" "$path"; then
        failed="cannot rename $path.part"
    elif ! limited "$(program hotset)" profile "$path" --text "$text" -n 2000 -o "$path.profile" --quiet >>"$log" 2>&1; then
        failed="hotset profile: $(tail -n 1 "$log")"
    fi
    rm -f "$path.part"
    [ -z "$failed" ] || finish FAIL "$failed"
    finish PASS "" "{\"bytes\": $(stat -c %s "$path"), \"options\": $(text "$*"), \"seconds\": $((SECONDS - begin_model))}"
}

# On the emulation a model of the same kind that is small.
step_models() {
    local arch=() sparse=(--activation relu --active 0.1 --skew 0.8)
    case $step in
        models-7b) arch=(--arch llama --shape 7b --type Q4_0 "${sparse[@]}") ;;
        models-30b-skewed) arch=(--arch qwen3moe --shape 30b-a3b --type Q4_K --skew 0.8) ;;
        models-30b-uniform) arch=(--arch qwen3moe --shape 30b-a3b --type Q4_K --skew 0) ;;
    esac
    if [ "$device" = emu ]; then
        case $step in
            models-7b) arch=(--arch llama --shape tiny --type Q4_0 "${sparse[@]}") ;;
            *) arch=(--arch qwen3moe --shape tiny-moe --type Q8_0 --skew "$([ "${step##*-}" = skewed ] && echo 0.8 || echo 0)") ;;
        esac
    fi
    make_model "${arch[@]}" --seed 7
}

# bench_one NAME PLACE: adds what hotset bench says; PLACE "" is the CPU alone.
bench_one() {
    local name=$1 place=$2 log=$out/$step-${1// /-} options=(-r 3 -p 128 -n 64 -c 1024) status=0
    local list=cpu,$device
    [ "$device" = emu ] && options=(-r 1 -p 8 -n 4 -c 64)
    if [ -n "$place" ]; then
        options+=(--devices "$list" --place "$place")
        [ -z "$with_profile" ] || options+=(--profile "$(model_path).profile")
    else
        options+=(--plan cpu)
    fi
    if ! [ "$log.done" -nt "$(model_path)" ]; then # what an earlier run has measured stays
        rm -f "$log.done"
        limited "$(program hotset)" bench "$(model_path)" "${options[@]}" --json >"$log.out" 2>"$log.err" || status=$?
        [ $status -ne 0 ] || touch "$log.done"
    fi
    results+="${results:+, }{\"name\": \"$name\", \"place\": \"$place\", \"profile\": ${with_profile:-false}, "
    if [ $status -eq 0 ]; then
        results+="\"bench\": [$(paste -sd , "$log.out")]}"
    elif [ $status -eq 124 ]; then
        results+="\"not run\": \"no time was left\"}"
        late="no time was left for some: run the step again"
    else
        results+="\"error\": $(text "$(tail -n 1 "$log.err")")}"
        failed+="${failed:+; }$name: $(tail -n 1 "$log.err")"
    fi
}

step_bench() {
    local results='' failed='' late='' name=$device layers share with_profile=''
    [ -f "$(model_path)" ] || finish SKIP "the model is not there: run models-${step#bench-} first"
    "$(program hotset)" bench --help 2>&1 | grep -q -- --place || finish SKIP "this hotset places nothing on GPUs: bench has no --place"
    "$(program hotset)" bench --help 2>&1 | grep -q -- --profile && with_profile=true
    [ "$device" = emu ] && name=emu0
    layers=$(limited "$(program hotset)" inspect "$(model_path)" --json |
        sed -nE 's/.*\.block_count": .*"value": ([0-9]+).*/\1/p' | head -n 1)
    [ -n "$layers" ] || finish FAIL "hotset inspect does not tell the model's layers"
    bench_one "cpu alone" ""
    bench_one "attention only" "attn=$name:$layers"
    for share in 0 0.25 0.5 0.75 1; do
        bench_one "share $share" "attn=$name:$layers,ffn=$name:$share,head=$name"
    done
    finish "$([ -z "$failed" ] && echo PASS || echo FAIL)" "$failed$late" "[$results]"
}

# A pack, or a build, whose programs stand in two folders.
find_programs() {
    local folder folders=("$here" "$root/build/gpu-pack" "$root/build")
    [ -z "$from" ] || folders=("$from")
    for folder in "${folders[@]}"; do
        if [ -x "$folder/bin/gpu_check" ]; then
            programs=$folder/bin libraries=$folder/lib
            return 0
        fi
        [ -x "$folder/tests/gpu_check" ] || continue
        programs=$(mktemp -d) libraries=
        trap 'rm -rf "$programs"' EXIT
        ln -s "$(cd "$folder" && pwd)"/{hotset,tests/test_gpu,tests/test_gpu_kernels,tests/gpu_check} "$programs/"
        return 0
    done
    return 1
}

run_step() {
    local why
    case " ${steps[*]} " in *" $step "*) ;; *) usage >&2 && exit 2 ;; esac
    mkdir -p "$out" || exit 1
    find_programs || finish SKIP "nothing is built: check.sh pack, or a build in build/"
    if ! why=$(limited "$(program gpu_check)" there "$device" 2>&1 >/dev/null); then finish SKIP "${why:-the device does not answer}"; fi
    case $step in
        models-*) step_models ;;
        bench-*) step_bench ;;
        *) "step_$step" ;;
    esac
}

root=$(cd "$here/../.." && pwd)
case ${1-} in
    pack)
        if [ $# -gt 2 ]; then usage >&2 && exit 2; fi
        pack "${2-}" ;;
    run)
        step=${2-} device=cuda0 from='' out='' models=''
        shift $(($# < 2 ? $# : 2))
        while [ $# -ge 2 ]; do
            case $1 in
                --device) device=$2 ;;
                --from) from=$2 ;;
                --out) out=$2 ;;
                --models) models=$2 ;;
                *) usage >&2 && exit 2 ;;
            esac
            shift 2
        done
        if [ $# -ne 0 ] || ! [[ $device =~ ^[a-z]+[0-9]*$ ]]; then usage >&2 && exit 2; fi
        if [ -d "$here/bin" ]; then : "${out:=$here/results}"; fi
        : "${out:=$root/build/gpu-results}" "${models:=${TMPDIR:-/tmp}}"
        text=$here/text.txt
        [ -f "$text" ] || text=$root/README.md
        if [ "$step" != all ]; then run_step; exit; fi
        status=0
        for step in "${steps[@]}"; do (begin=$SECONDS; run_step) || status=1; done
        exit $status ;;
    --help | -h) usage ;;
    *) usage >&2 && exit 2 ;;
esac
