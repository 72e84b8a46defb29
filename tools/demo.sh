#!/usr/bin/env bash
# Builds Hotset and shows it at work, offline, on the small model in tools/demo/. Usage: tools/demo.sh
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/packages.sh

packages_install "${packages_build[@]}"
mkdir -p build/logs
echo "building in build/ (log: build/logs/demo.log)"
if ! { cmake -S . -B build -G Ninja && ninja -C build hotset_command; } >build/logs/demo.log 2>&1; then
    tail -n 40 build/logs/demo.log >&2
    exit 1
fi

model=tools/demo/Gutenberg-7M-ReGLU-F16.gguf
# show COMMAND...: prints the command as it would be typed, and runs it. Its standard input is the text in $input, if any.
show() {
    local word
    printf '\n$'
    [ -z "${input-}" ] || printf " echo '%s' |" "$input"
    for word in "$@"; do
        case $word in *[!A-Za-z0-9_./-]*) printf " '%s'" "$word" ;; *) printf ' %s' "$word" ;; esac
    done
    printf '\n'
    if [ -n "${input-}" ]; then echo "$input" | "$@"; else "$@"; fi
}
PATH=$PWD/build:$PATH
show hotset inspect $model
# the same model by a name, as one that another program has fetched would have
mkdir -p build/demo.data/hotset/models
ln -sf "$PWD/$model" build/demo.data/hotset/models/whale.gguf
XDG_DATA_HOME=$PWD/build/demo.data show hotset models whale
input="It is a truth universally acknowledged" show hotset tokenize $model --ids
show hotset bench $model -p 128 -n 64 -r 3
show hotset profile $model --text README.md -o build/demo.activation.gguf --svg build/demo.svg
show hotset convert $model build/demo.neuron.gguf --profile build/demo.activation.gguf
model=build/demo.neuron.gguf
show hotset machine --no-file -o build/demo.machine.json
show hotset plan $model --machine build/demo.machine.json --profile build/demo.activation.gguf --verify \
    -o build/demo.plan.json --html build/demo.plan.html
show hotset run $model --plan build/demo.plan.json -p "The whale" -n 80 --seed 1

if grep -qE '"name": "(cuda|hip)0"' build/demo.machine.json; then
    gpu=()
    printf '\nA model of 28 million random weights on the GPU and the CPU of this machine:\n'
else
    gpu=(--devices emu:64MiB@rtx3060-ddr4)
    printf '\nNo GPU here: a model of 28 million random weights, planned for a recorded card with 64 MiB of free\n'
    printf 'memory, whose kernels run on the CPU thread by thread (slowly: seconds for a few tokens):\n'
fi
model=build/demo.relu.gguf
show hotset synth $model --layers 2 --embd 768 --heads 12 --ff 4096 --vocab 3000 --type F32 --activation relu \
    --active 0.1 --skew 0.8 --seed 1
show hotset plan $model "${gpu[@]}" --active 0.1 --skew 0.8 --ctx 128 -b 16 -o build/demo.gpu.json
show hotset run $model --plan build/demo.gpu.json ${gpu[@]+"${gpu[0]}" "${gpu[1]%@*}"} -p "1 2 3" -n 8 --seed 1 --stats
show hotset run $model --plan cpu --ctx 128 -b 16 -p "1 2 3" -n 8 --seed 1

echo
echo "What would a machine bring that is not here, for a model that is not here?"
show hotset plan --shape tests/shapes/qwen3-30b-a3b.json --machine profiles/machines/rtx3060-ddr4.json
