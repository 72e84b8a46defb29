#!/usr/bin/env bash
# Models by name in folders made like those of Hugging Face, Ollama, LM Studio and our own; the scripts for shells and the
# manual page. Prints every expectation that is not met and ends with 1. Usage: tests/stores.sh HOTSET_BINARY MODEL
set -uo pipefail
hotset=$(realpath "$1") model=$(realpath "$2")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export HOME=$work/home XDG_DATA_HOME=$work/data XDG_CACHE_HOME=$work/cache
unset HF_HOME HF_HUB_CACHE OLLAMA_MODELS
out=$work/out err=$work/err
failed=0 checked=0

expect() {
    local what=$1
    shift
    checked=$((checked + 1))
    "$@" && return
    failed=$((failed + 1))
    echo "FAILED: $what"
    echo "  not met: $*"
    head -c 600 "$err" | sed 's/^/  stderr: /'
    head -c 600 "$out" | sed 's/^/  stdout: /'
}
# run STATUS ARGUMENT...
run() {
    local wanted=$1 status
    shift
    timeout 120 "$hotset" "$@" >"$out" 2>"$err" </dev/null
    status=$?
    expect "hotset $*: exit status" [ "$status" -eq "$wanted" ]
}
# finds NAME PATH
finds() {
    run 0 models "$1" --json
    expect "$1 is $2" grep -qF "\"path\": \"$2\"" "$out"
}

# link_model PATH...: the model at these paths
link_model() {
    local path
    for path in "$@"; do
        mkdir -p "$(dirname "$path")"
        ln -s "$model" "$path"
    done
}

make_stores() {
    local hub=$XDG_CACHE_HOME/huggingface/hub
    link_model "$XDG_DATA_HOME/hotset/models/whale.gguf" "$XDG_DATA_HOME/hotset/models/small/Shared.gguf"
    # two revisions, of which one is current; a second repository with two files; a file that is still arriving
    link_model "$hub/models--acme--Whale-7M-GGUF/snapshots/0123/whale-f16.gguf" \
        "$hub/models--acme--Whale-7M-GGUF/snapshots/4567/old.gguf" \
        "$hub/models--acme--Two/snapshots/aa/one.gguf" "$hub/models--acme--Two/snapshots/aa/q8/two.gguf" \
        "$hub/models--acme--Two/blobs/part.gguf.incomplete" "$hub/models--none--Refless/snapshots/aa/x.gguf"
    mkdir -p "$hub/models--acme--Whale-7M-GGUF/refs" "$hub/models--acme--Two/refs"
    echo 0123 >"$hub/models--acme--Whale-7M-GGUF/refs/main"
    echo aa >"$hub/models--acme--Two/refs/main"
    # two tags of one model, one from another namespace, a manifest whose blob is gone, and one that is broken
    local ollama=$HOME/.ollama/models
    link_model "$ollama/blobs/sha256-abc"
    local layers='{"layers": [{"mediaType": "application/vnd.ollama.image.license", "digest": "sha256:fff"},
        {"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:DIGEST", "size": 1}]}'
    local host=$ollama/manifests/registry.example
    mkdir -p "$host/library/ahab" "$host/library/gone" "$host/melville/queequeg"
    echo "${layers/DIGEST/abc}" | tee "$host/library/ahab/latest" "$host/library/ahab/7m" >"$host/melville/queequeg/1b"
    echo "${layers/DIGEST/123}" >"$host/library/gone/latest"
    echo '{"layers": [' >"$host/library/gone/broken"
    # a model in parts (the second is no model: nobody opens it), one that stands in another store too, no model at all
    link_model "$HOME/.lmstudio/models/acme/Split/big-00001-of-00002.gguf" "$HOME/.lmstudio/models/small/Shared.gguf"
    head -c 1000 /dev/zero >"$HOME/.lmstudio/models/acme/Split/big-00002-of-00002.gguf"
    printf 'GGUF but not really' >"$HOME/.lmstudio/models/acme/broken.gguf"
    echo "# no model" >"$HOME/.lmstudio/models/acme/README.md"
}

check_names() {
    run 0 models
    expect "nothing is found in nothing" [ ! -s "$out" ]
    expect "and where was looked is told" grep -q "no models in .*hotset/models.*huggingface/hub.*ollama.*lmstudio" "$err"
    make_stores
    run 0 models --names
    cat >"$work/names" <<'NAMES'
small/Shared
whale
acme/Two/one
acme/Two/q8/two
acme/Whale-7M-GGUF/whale-f16
ahab:7m
ahab:latest
melville/queequeg:1b
acme/Split/big
acme/broken
small/Shared
NAMES
    expect "models --names" cmp -s "$work/names" "$out"
    finds whale "$XDG_DATA_HOME/hotset/models/whale.gguf"
    finds whale-f16 "$XDG_CACHE_HOME/huggingface/hub/models--acme--Whale-7M-GGUF/snapshots/0123/whale-f16.gguf"
    finds ahab "$HOME/.ollama/models/blobs/sha256-abc"
    expect "no note where models are" [ ! -s "$err" ]
    run 0 models nothing-like-it
    expect "what is not there is told" grep -q "no model whose name contains nothing-like-it" "$err"

    local name
    for name in whale small/Shared acme/Whale-7M-GGUF whale-f16 whale-f16.gguf WHALE-F16 acme/Two/q8/two two.gguf \
        ahab ahab:7m melville/queequeg queequeg:1b Shared; do
        run 0 inspect "$name" --json
        expect "inspect $name" grep -q '"name": "Gutenberg-7M-ReGLU"' "$out"
    done
    run 0 tokenize ahab --ids
    run 0 run whale -p "The whale" -n 3 --seed 1 --plan cpu -q
    expect "run by name: a text" grep -q "^The whale" "$out"
    run 1 run acme -p x
    expect "a name of several is refused" grep -q "acme: 5 models are called so, the first is acme/.*hotset models" "$err"
    run 1 run nobody -p x
    expect "a name of none is missed as a file is" grep -q "nobody: .*No such file" "$err"
    run 1 run ./whale -p x
    expect "what looks like a path is one" grep -q "./whale: .*No such file" "$err"
    (cd "$work" && ln -s "$model" nobody && "$hotset" inspect nobody >"$out" 2>"$err")
    expect "a file goes before a name" [ $? -eq 0 ]
}

check_variables() {
    mkdir -p "$work/hf" "$work/elsewhere"
    mv "$XDG_CACHE_HOME/huggingface/hub" "$work/hf/hub"
    HF_HOME=$work/hf run 0 inspect whale-f16
    HF_HUB_CACHE=$work/hf/hub run 0 inspect whale-f16
    run 1 inspect whale-f16
    mv "$HOME/.ollama/models" "$work/elsewhere/models"
    OLLAMA_MODELS=$work/elsewhere/models run 0 inspect ahab
    run 1 inspect ahab
    mv "$HOME/.lmstudio" "$HOME/.cache" && mkdir "$HOME/.cache/lm-studio" && mv "$HOME/.cache/models" "$HOME/.cache/lm-studio"
    run 0 inspect small/Shared
    env -u XDG_DATA_HOME -u XDG_CACHE_HOME -u HOME "$hotset" models --names >"$out" 2>"$err"
    expect "without any home nothing fails" [ $? -eq 0 ]
    mkdir -p "$HOME/.local/share" && cp -r "$XDG_DATA_HOME/hotset" "$HOME/.local/share"
    env -u XDG_DATA_HOME "$hotset" inspect whale >"$out" 2>"$err"
    expect "the usual folder without XDG_DATA_HOME" [ $? -eq 0 ]
}

check_facts() {
    run 0 models whale --json
    expect "models --json" grep -qE '"store": "hotset", "bytes": 14036832, "type": "F16", "architecture": "llama", "parameter_n": 6950144, "profile": false, "plan": false\}$' "$out"
    run 0 models
    expect "a table" grep -qE '^whale +14 MB +F16 +llama +- +- +hotset$' "$out"
    expect "a model in parts: all bytes" grep -qE '^acme/Split/big +14 MB' "$out"
    expect "what is broken is listed" grep -qE '^acme/broken +0 MB +- +- ' "$out"
    run 0 run whale -p x -n 1 -q --threads 1
    printf 'The whale rose slowly from the water.' >"$work/text"
    run 0 profile ahab --text "$work/text" -q
    expect "profile: nothing is written into another program's store" [ -z "$(find "$HOME/.ollama" -name '*activation*')" ]
    expect "profile: but among our own" [ -f "$XDG_DATA_HOME/hotset/profiles/ahab-latest.activation.gguf" ]
    run 0 models whale --json
    expect "a profile and a plan are found" grep -q '"profile": true, "plan": true}$' "$out"
    mv "$XDG_DATA_HOME/hotset/profiles/ahab-latest.activation.gguf" "$XDG_DATA_HOME/hotset/models/whale.activation.gguf"
    run 0 models whale
    expect "a profile beside its model" grep -qE '^whale +14 MB +F16 +llama +yes +yes +hotset$' "$out"
    expect "and is no model" [ "$(wc -l <"$out")" -eq 3 ]
    rm "$XDG_DATA_HOME/hotset/models/whale.activation.gguf"
}

# complete_bash WORD...: what bash offers for the last word.
complete_bash() {
    (
        PATH=$work/bin:$PATH
        # shellcheck disable=SC1091
        . "$work/hotset.bash"
        # shellcheck disable=SC2034 # read by the function
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
        _hotset 2>/dev/null
        printf '%s\n' "${COMPREPLY[@]}"
    ) >"$out"
}

check_completion() {
    local shell
    mkdir -p "$work/bin"
    ln -s "$hotset" "$work/bin/hotset"
    for shell in bash zsh fish man; do
        run 0 completion "$shell"
        cp "$out" "$work/hotset.$shell"
        expect "completion $shell: knows every option of run" grep -q "logit..\?bias" "$out"
    done
    run 2 completion tcsh
    expect "completion: another shell is refused" grep -q "bash|zsh|fish|man" "$err"
    expect "bash reads it" bash -n "$work/hotset.bash"
    if command -v zsh >/dev/null; then expect "zsh reads it" zsh -n "$work/hotset.zsh"; fi
    if command -v fish >/dev/null; then expect "fish reads it" fish -n "$work/hotset.fish"; fi
    if command -v groff >/dev/null; then
        groff -man -Tutf8 -ww -z "$work/hotset.man" >"$out" 2>&1
        expect "groff has nothing to say" [ ! -s "$out" ]
    fi
    local command
    for command in $("$hotset" --help | sed -n 's/^  \([a-z]*\) .*/\1/p'); do
        expect "man: $command" grep -q "^.SS hotset $command" "$work/hotset.man"
        expect "zsh: $command" grep -q "^    $command)$" "$work/hotset.zsh"
        expect "fish: $command" grep -q "seen_subcommand_from $command'" "$work/hotset.fish"
    done
    complete_bash hotset mod
    expect "bash: commands" [ "$(cat "$out")" = models ]
    complete_bash hotset run wha
    expect "bash: models" grep -qx whale "$out"
    complete_bash hotset run x --isa av
    expect "bash: words of a choice" [ "$(paste -sd ' ' "$out")" = "avx2 avxvnni avx512" ]
    complete_bash hotset run x --top
    expect "bash: options" [ "$(paste -sd ' ' "$out")" = "--top-k --top-p" ]
    complete_bash hotset run x -f "$work/te"
    expect "bash: files" [ "$(cat "$out")" = "$work/text" ]
    complete_bash hotset run x --temp ""
    expect "bash: nothing for a number" [ -z "$(cat "$out")" ]
}

# What a terminal gets, and only that: `script` makes one.
check_terminal() {
    command -v script >/dev/null || { echo "SKIP: no script(1) for a terminal"; return; }
    local command="$hotset run whale -p 'The whale' -n 3 --seed 1 --plan cpu"
    TERM=xterm script -qec "$command" "$work/typescript" >"$out" 2>"$err" </dev/null
    expect "a terminal: the given text is pale" grep -qF $'\033[2mThe whale\033[0m' "$out"
    expect "a terminal: the prefix is pale" grep -qF $'\033[2mhotset run:\033[0m' "$out"
    TERM=xterm NO_COLOR=1 script -qec "$command" "$work/typescript" >"$out" 2>"$err" </dev/null
    expect "NO_COLOR" [ "$(grep -c $'\033' "$out")" -eq 0 ]
    run 0 run whale -p "The whale" -n 3 --seed 1 --plan cpu
    expect "no terminal, no colours" [ "$(cat "$out" "$err" | grep -c $'\033')" -eq 0 ]
    # a signal stops the answer, a second one the program
    "$hotset" run whale -p "The whale" -n 1000000 --ctx 1000000 --ignore-eos --plan cpu >"$out" 2>"$err" </dev/null &
    local pid=$! i
    for ((i = 0; i < 300; i++)); do
        [ "$(wc -c <"$out")" -gt 20 ] && break
        sleep 0.1
    done
    kill -TERM $pid
    kill -TERM $pid
    wait $pid
    expect "two signals end the program, whatever it does" [ $? -ge 1 ]
}

for check in names facts completion terminal variables; do "check_$check"; done
echo "$checked expectations, $failed not met"
[ $failed -eq 0 ]
