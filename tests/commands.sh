#!/usr/bin/env bash
# The command as scripts see it: exit status, what goes to which stream, results, files. Prints every expectation that is not
# met and ends with 1; 77 when the model is missing. Usage: tests/commands.sh HOTSET_BINARY MODEL
# With HOTSET_TESTS_THINNED=1 a machine is measured once instead of three times.
set -uo pipefail
hotset=$1 model=$2 here=$(cd "$(dirname "$0")" && pwd)
[ -x "$hotset" ] || { echo "commands: $hotset is not there"; exit 1; }
[ -f "$model" ] || { echo "SKIP: $model is not there"; exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export XDG_CACHE_HOME=$work/cache # plans and what was measured for them
out=$work/out err=$work/err
vocab_n=4096 # of the model
failed=0 checked=0
thinned=${HOTSET_TESTS_THINNED-0}

# expect WHAT COMMAND...: the command succeeds.
expect() {
    local what=$1
    shift
    checked=$((checked + 1))
    "$@" && return
    failed=$((failed + 1))
    echo "FAILED: $what"
    echo "  not met: $*"
    head -c 600 "$err" | sed 's/^/  stderr: /'
}

# run STATUS ARGUMENT...: runs hotset on $input; its output goes to $out and $err.
input=/dev/null
run() {
    local wanted=$1 status
    shift
    timeout 120 "$hotset" "$@" >"$out" 2>"$err" <"$input"
    status=$?
    expect "hotset $*: exit status" [ "$status" -eq "$wanted" ]
}

lines() { wc -l <"$1"; }
same() { cmp -s "$1" "$2"; }
differ() { ! cmp -s "$1" "$2"; }

# refuse STATUS WORD ARGUMENT...: one line on standard error that contains the word, nothing on standard output.
refuse() {
    local status=$1 word=$2
    shift 2
    run "$status" "$@"
    expect "hotset $*: one line on standard error" [ "$(lines "$err")" -eq 1 ]
    expect "hotset $*: names itself" grep -q '^hotset' "$err"
    expect "hotset $*: says $word" grep -qF -e "$word" "$err"
    expect "hotset $*: nothing on standard output" [ ! -s "$out" ]
}

check_wrong_usage() {
    refuse 2 "a command is missing"
    refuse 2 "unknown command" walk
    refuse 2 "unknown option" --walk
    refuse 2 "did you mean --temp" run "$model" --tmp 1
    refuse 2 "MODEL is missing" run
    refuse 2 "unexpected argument" inspect "$model" "$model"
    refuse 2 "must be 0 to 1" run "$model" -p x --top-p 1.5
    refuse 2 "must be 0 to 1000" run "$model" -p x --temp -1
    refuse 2 "not a number" run "$model" -p x --min-p nan
    refuse 2 "not a whole number" run "$model" -p x -n many
    refuse 2 "must be one of f16|f32|q8_0" run "$model" -p x --kv-type f8
    refuse 2 "not a size" run "$model" -p x --ram 12Gib
    refuse 2 "needs a value" run "$model" -p
    refuse 2 "exclude each other" run "$model" -p x -f "$model"
    refuse 2 "ID=BIAS" run "$model" -p x --logit-bias 7
    refuse 2 "ID=BIAS" run "$model" -p x --logit-bias 7=nan
    refuse 2 "--text is required" eval "$model"
    refuse 2 "-o is required" logits "$model" --tokens 1
    refuse 2 "one of --tokens" logits "$model" -o "$work/never"
    refuse 2 "one of --tokens" logits "$model" --tokens 1 --tokens-file "$model" -o "$work/never"
    refuse 2 "must be 1 to" bench "$model" -r 0
}

check_errors() {
    printf 'GGUF but not really' >"$work/broken"
    : >"$work/empty"
    local command file
    for command in run bench tokenize inspect "eval --text $model" "logits --tokens 1 -o $work/never"; do
        for file in "$work/missing" "$work" "$work/broken" "$work/empty"; do
            # shellcheck disable=SC2086 # the command's own options are words
            refuse 1 "$file" $command "$file"
        done
    done
    refuse 1 "$work/missing" run "$model" -f "$work/missing"
    refuse 1 "$work/missing" eval "$model" --text "$work/missing"
    refuse 1 "at least 2" eval "$model" --text "$work/empty"
    refuse 1 "not an id" logits "$model" --tokens 1,two -o "$work/never"
    refuse 1 "not an id" logits "$model" --tokens -1 -o "$work/never"
    refuse 1 "token $vocab_n" logits "$model" --tokens 1,$vocab_n -o "$work/never"
    refuse 1 "the context" logits "$model" --tokens 1,2,3,4 --ctx 3 -o "$work/never"
    refuse 1 "$work/no/folder" logits "$model" --tokens 1 -o "$work/no/folder"
    refuse 1 "see --ctx" run "$model" -p "one two three four five six" --ctx 3
    refuse 1 "token $vocab_n" run "$model" -p x --logit-bias $vocab_n=1
    refuse 1 "MiB" run "$model" -p x --ram 1kB
    refuse 1 "activation" run "$model" -p x --activation nonsense
    refuse 1 "no pre-tokenizer 'nonsense'" run "$model" -p x --pre nonsense
    refuse 1 "no pre-tokenizer 'nonsense'" tokenize "$model" --pre nonsense
    expect "failures leave no file" [ -z "$(find "$work" -name 'never*')" ]
}

check_help() {
    run 0 --version
    expect "--version" grep -qxE 'hotset [0-9]+\.[0-9]+\.[0-9]+' "$out"
    run 0 --help
    local command commands
    cp "$out" "$work/help"
    mapfile -t commands < <(sed -n 's/^  \([a-z]*\) .*/\1/p' "$work/help")
    expect "the help lists commands" [ ${#commands[@]} -ge 7 ]
    for command in "${commands[@]}"; do
        run 0 "$command" --help
        expect "$command --help: usage" grep -q "^Usage: hotset $command [][A-Z ]* \[options\]$" "$out"
        expect "$command --help: examples" grep -q "^  hotset $command " "$out"
        expect "$command --help: nothing on standard error" [ ! -s "$err" ]
    done
}

# The quoted pieces of the table put together again.
untokenize() { sed -E 's/^ *[0-9]+ "(.*)"$/\1/; s/\\"/\\042/g' | while IFS= read -r piece; do printf '%b' "$piece"; done; }

check_tokenize() {
    local text=$work/text
    input=$text
    printf 'It is a truth, universally acknowledged:\n\n\t"caf\xc3\xa9" \\ 1234 \xe2\x82\xac\n' >"$text"
    run 0 tokenize "$model" --no-bos
    untokenize <"$out" >"$work/again"
    expect "the pieces make the text again" same "$text" "$work/again"
    sed -E 's/^ *([0-9]+) .*/\1/' "$out" | paste -sd ' ' >"$work/ids"
    run 0 tokenize "$model" --no-bos --ids
    expect "--ids are those of the table, on one line" same "$work/ids" "$out"
    run 0 tokenize "$model" --ids
    expect "BOS comes first" [ "$(cat "$out")" = "0 $(cat "$work/ids")" ]
    printf '<|endoftext|>' >"$text"
    run 0 tokenize "$model" --no-bos --ids --special
    expect "special tokens are recognised with --special" [ "$(cat "$out")" = 0 ]
    run 0 tokenize "$model" --no-bos --ids
    expect "and only with --special" [ "$(wc -w <"$out")" -gt 1 ]
    LC_ALL=C sed 's/gpt-2/gpt-9/' "$model" >"$work/pre.gguf"
    refuse 1 "pre-tokenizer 'gpt-9' is not supported; see --pre" tokenize "$work/pre.gguf"
    run 0 tokenize "$work/pre.gguf" --pre gpt-2 --ids
    expect "tokenize --pre: a file whose own is unknown" [ -s "$out" ]
    printf '12345' >"$text"
    run 0 tokenize "$model" --no-bos --ids --pre qwen2
    expect "tokenize --pre: digits one by one" [ "$(wc -w <"$out")" -eq 5 ]
    input=/dev/null
    run 0 tokenize "$model" --json
    expect "the ids as JSON" grep -qxF '{"ids": [0]}' "$out"
    yes 'the same words again and again' | head -c 300000 >"$text"
    input=$text
    run 0 tokenize "$model" --no-bos
    input=/dev/null
    expect "long input is tokenized whole" [ "$(sed -E 's/^ *[0-9]+ "(.*)"$/\1/; s/\\n/N/g' "$out" | tr -d '\n' | wc -c)" -eq 300000 ]
}

check_logits() {
    run 0 logits "$model" --tokens 0,776,349 -o "$work/a.f32"
    expect "logits: nothing on standard output" [ ! -s "$out" ]
    expect "logits: size" [ "$(stat -c %s "$work/a.f32")" -eq $((3 * vocab_n * 4)) ]
    printf '0 776,\n349\n' >"$work/tokens"
    run 0 logits "$model" --tokens-file "$work/tokens" --threads 1 -o -
    expect "logits: same from a file, with one thread, to standard output" same "$work/a.f32" "$out"
    ln -s a.f32 "$work/link.f32"
    run 0 logits "$model" --tokens 0,776 -o "$work/link.f32"
    expect "logits: a link stays a link" [ -L "$work/link.f32" ]
    expect "logits: an older file is replaced" [ "$(stat -c %s "$work/a.f32")" -eq $((2 * vocab_n * 4)) ]
    run 1 logits "$model" --tokens 1 -o /dev/full
    expect "logits: a full disk is an error" grep -q "No space left" "$err"
    expect "logits: no temporary files are left" [ "$(find "$work" -name '*.f32*' | wc -l)" -eq 2 ]
    # by a plan: with its state, whatever is usual here
    run 0 plan "$model" --machine "$(dirname "$0")/../profiles/machines/cpu-ddr5.json" --kv-type f32 -o "$work/f32.json"
    run 0 logits "$model" --tokens 0,776 -o - --plan "$work/f32.json"
    expect "logits --plan: the same" same "$work/a.f32" "$out"
    refuse 1 "--kv-type and --plan" logits "$model" --tokens 0 -o - --plan "$work/f32.json" --kv-type q8_0
    refuse 1 "--against dense and --plan" eval "$model" --text "$work/tokens" --plan "$work/f32.json" --against dense
}

check_run() {
    run 0 run "$model" -p "The whale" -n 24 --seed 1
    cp "$out" "$work/first"
    expect "run: tells the speed" grep -q "24 tokens at .* tokens/s" "$err"
    run 0 run "$model" -p "The whale" -n 24 --seed 1 --quiet
    expect "run: same seed, same text" same "$work/first" "$out"
    expect "run: --quiet is quiet" [ ! -s "$err" ]
    expect "run: the prompt comes first" grep -q "^The whale" "$out"
    run 0 run "$model" -p "The whale" -n 24 --seed 1 --no-echo
    expect "run: --no-echo" [ "The whale$(cat "$out")" = "$(cat "$work/first")" ]
    run 0 run "$model" -p "The whale" -n 24 --seed 2
    expect "run: another seed, another text" differ "$work/first" "$out"
    printf 'The whale\n' >"$work/text"
    run 0 run "$model" -f "$work/text" -n 24 --seed 1
    expect "run: same text from a file" same "$work/first" "$out"
    input=$work/text
    run 0 run "$model" -n 24 --seed 1
    input=/dev/null
    expect "run: same text from standard input" same "$work/first" "$out"
    run 0 run "$model" -p "The whale" -n 24 --seed 1 --memory mapped --threads 1
    expect "run: same text mapped and with one thread" same "$work/first" "$out"
    run 0 run "$model" -p "The whale" -n 12 --temp 0 --seed 1
    cp "$out" "$work/greedy"
    run 0 run "$model" -p "The whale" -n 12 --top-k 1 --seed 5
    expect "run: top-k 1 is greedy" same "$work/greedy" "$out"
    run 0 run "$model" -p "The whale" -n 12 --top-p 0 --top-k 0 --seed 5
    expect "run: top-p 0 is greedy" same "$work/greedy" "$out"
    run 0 run "$model" -p "The whale" -n 12 --temp 0 --repeat-penalty 1.5 --repeat-last-n 0
    expect "run: no token is recent" same "$work/greedy" "$out"
    run 0 run "$model" -p "The whale" -n 5 --stats --seed 77
    expect "run: --stats tells the seed" grep -q "seed 77" "$err"
    run 0 run "$model" -p "The whale" -n 0 --no-echo
    expect "run: -n 0 adds nothing" [ -z "$(cat "$out")" ]
    run 0 run "$model" -p "The whale" --ctx 16 --ignore-eos
    expect "run: stops at the end of the context" grep -q "context full" "$err"
    run 0 run "$model" -p "The \"whale\"" -n 5 --json --seed 1
    expect "run: --json, at the end the whole" \
        perl -e 'exit !((<>)[-1] =~ /^\{"prompt": "The \\"whale\\"", "text": ".*"token_n": 5, .*\}$/)' "$out"
    expect "run: --json, before it the pieces" [ "$(lines "$out")" -ge 4 ]
    expect "run: --json, together the text" [ "$(sed -n 's/^{"piece": "\(.*\)"}$/\1/p' "$out" | tr -d '\n')" = \
        "$(sed -nE 's/.*"text": "(.*)", "stopped".*/\1/p' "$out")" ]
    local forbidden
    forbidden=$(seq -s, 1 $((vocab_n - 1)) | sed 's/,/=-inf,/g; s/$/=-inf/')
    run 0 run "$model" -p "The whale" -n 5 --logit-bias "$forbidden"
    expect "run: what may only end, ends" grep -q "1 tokens at .*stopped: end of text" "$err"
    run 0 run "$model" -p "<|endoftext|>The whale" -n 3 --special
    expect "run: --special prints special tokens" grep -qF "<|endoftext|>" "$out"
    run 0 run "$model" -p "The whale" -n 3 --trace "$work/trace.json"
    expect "run: the trace is there" [ -s "$work/trace.json" ]
    ln -sf trace.json "$work/trace.link"
    run 0 run "$model" -p "The whale" -n 1 --trace "$work/trace.link"
    expect "run --trace: a link stays a link" [ -L "$work/trace.link" ]
    expect "run --trace: no temporary files are left" [ "$(find "$work" -name 'trace*' | wc -l)" -eq 2 ]
    run 1 run "$model" -p "The whale" -n 1 --trace /dev/full
    expect "run --trace: a full disk is an error" grep -q "/dev/full: No space left" "$err"
    expect "run --trace: a device stays one" [ -c /dev/full ]
    refuse 1 "/none/t.json" run "$model" -p "The whale" -n 1 --plan cpu --trace /none/t.json
}

# What a text and its answer need, where the model was trained for more than 4096 tokens.
check_long_texts() {
    run 0 synth "$work/long.gguf" --shape tiny --type Q4_0 --ctx 16384 -q
    printf 'ab %.0s' {1..2100} >"$work/long.txt"
    run 0 run "$work/long.gguf" -f "$work/long.txt" --no-echo --ignore-eos --plan cpu --seed 1
    expect "run: room for an answer behind a long text" [ "$(sed -nE 's/.*: ([0-9]+) tokens at .*context full$/\1/p' "$err")" -ge 1024 ]
    run 0 run "$work/long.gguf" -f "$work/long.txt" --no-echo --ignore-eos --plan cpu -n 4
    expect "run: and for one of some tokens" grep -q "stopped: length" "$err"
}

check_stop() {
    "$hotset" run "$model" -p "The whale" -n 100000 --ctx 100100 --ignore-eos >"$out" 2>"$err" </dev/null &
    local pid=$! i
    for ((i = 0; i < 300; i++)); do
        [ "$(wc -c <"$out")" -gt 20 ] && break
        sleep 0.1
    done
    kill -TERM $pid
    wait $pid
    expect "a signal stops the answer" [ $? -eq 1 ]
    expect "and says so in one line" grep -qE "stopped: interrupted$" "$err"
    cp "$model" "$work/cut.gguf"
    "$hotset" bench "$work/cut.gguf" --memory mapped -p 64 -n 64 -r 1000 >"$out" 2>"$err" </dev/null &
    pid=$!
    sleep 2
    truncate -s 1M "$work/cut.gguf"
    wait $pid
    expect "a file that is cut while it is mapped is an error" [ $? -eq 1 ]
    expect "of one line that names it" grep -q "cut.gguf.*: .*cut" "$err"
    expect "and no more" [ "$(lines "$err")" -eq 1 ]
    "$hotset" inspect "$model" --tensors 2>"$err" | head -n 1 >"$out"
    expect "a reader that goes away is no error to tell" [ ! -s "$err" ]
    "$hotset" inspect "$model" >/dev/full 2>"$err"
    expect "a full disk is an error" [ $? -eq 1 ]
    expect "a full disk is named" grep -q "standard output: No space left" "$err"
}

# perplexity KV_TYPE: of the text, in millionths.
perplexity() {
    "$hotset" eval "$model" --text "$work/text" --ctx 64 --score all --kv-type "$1" --json -q |
        sed -E 's/.*"perplexity": ([0-9.]+).*/\1/' | awk '{ printf "%.0f", $1 * 1e6 }'
}

check_state_types() {
    local f16 q8_0
    printf 'It was the whale, and the sea was the sea of the whale, %d times.\n' 1 2 3 4 5 6 >"$work/text"
    f16=$(perplexity f16) q8_0=$(perplexity q8_0)
    expect "--kv-type q8_0: another perplexity" [ "$f16" -ne "$q8_0" ]
    expect "--kv-type q8_0: less than 0.5 % away" [ $((f16 > q8_0 ? f16 - q8_0 : q8_0 - f16)) -lt $((f16 / 200)) ]
    run 0 plan "$model" --machine "$(dirname "$0")/../profiles/machines/cpu-ddr5.json" --kv-type q8_0 -o "$work/q8_0.json"
    expect "plan: the state's type" grep -q '"state": "Q8_0"' "$work/q8_0.json"
    run 0 run "$model" -p "The whale" -n 8 --temp 0 --kv-type q8_0 --plan cpu -q
    mv "$out" "$work/straight"
    run 0 run "$model" -p "The whale" -n 8 --temp 0 --plan "$work/q8_0.json" -q
    expect "run: the same by a plan that was written" cmp -s "$out" "$work/straight"
    run 0 synth "$work/narrow.gguf" --layers 1 --embd 96 --heads 2 --ff 64 --vocab 300 --type F16 -q
    refuse 1 "keys of 48 and values of 48 numbers a head are no multiples of 32" run "$work/narrow.gguf" -p x --kv-type q8_0
}

check_eval() {
    printf 'It was the whale, and the sea was the sea of the whale, %d times.\n' 1 2 3 4 5 6 >"$work/text"
    run 0 eval "$model" --text "$work/text" --ctx 32 --json
    expect "eval: one object" [ "$(lines "$out")" -eq 1 ]
    expect "eval: second half of each chunk" grep -q '"scored_token_n": \([0-9]*\), "scored": "half", "chunk_n": \([0-9]*\), "context_n": 32' "$out"
    local chunk_n token_n
    chunk_n=$(sed -E 's/.*"chunk_n": ([0-9]+).*/\1/' "$out") token_n=$(sed -E 's/.*"scored_token_n": ([0-9]+).*/\1/' "$out")
    expect "eval: 15 of 32 positions are scored" [ "$token_n" -eq $((15 * chunk_n)) ]
    run 0 eval "$model" --text "$work/text" --score all --chunks 1 --ctx 32
    expect "eval: for people" grep -qE '^perplexity [0-9.]+ \+- [0-9.]+ \([0-9.]+ nats per token; 31 tokens scored' "$out"
    expect "eval: a trained model beats chance by far" [ "$(sed -E 's/perplexity ([0-9]+).*/\1/' "$out")" -lt $((vocab_n / 8)) ]
    expect "eval: no progress bar in a file" [ ! -s "$err" ]

    # exact skipping on the way of decoding is the dense model up to rounding, dense itself to the last bit
    run 0 eval "$model" --text "$work/text" --ctx 32 --batch 1 --against dense --json
    expect "eval: against dense, everything is compared" grep -q "\"scored_token_n\": $token_n," "$out"
    expect "eval: against dense, next to nothing differs" grep -qE '"divergence_mean_nats": ([0-9.]+e-(0[6-9]|[1-9][0-9])|0\.0000[0-9]+|0), ' "$out"
    expect "eval: against dense, the same tokens" grep -qE '"same_top_token_share": (1|0\.99)' "$out"
    run 0 eval "$model" --text "$work/text" --ctx 32 --sparsity off --against dense --json
    expect "eval: dense against dense says so" grep -q 'dense is compared with dense' "$err"
    expect "eval: dense is dense" grep -q '"divergence_mean_nats": 0, .*"divergence_largest_nats": 0, "same_top_token_share": 1}' "$out"
    run 0 synth "$work/predicted.gguf" --shape tiny --type F16 --activation relu --active 0.2 --predictor-rank 96 -q
    run 0 eval "$work/predicted.gguf" --text "$work/text" --ctx 32 --sparsity predict --against dense
    expect "eval: predictors are judged layer by layer" [ "$(grep -cE '^ +([0-9]+|all)( +[0-9]+\.[0-9]{2}){4}$' "$out")" -eq $((1 + $(grep -cE '^ +[0-9]+ ' "$out"))) ]
    cp "$out" "$work/judged"
    run 0 eval "$work/predicted.gguf" --text "$work/text" --ctx 32 --sparsity predict --against dense --json
    expect "eval --json: an object a layer" [ "$(grep -c '"recall": ' "$out")" -eq "$(grep -cE '^ +[0-9]+ ' "$work/judged")" ]
    refuse 1 "predictors" eval "$model" --text "$work/text" --sparsity predict
}

check_bench() {
    run 0 bench "$model" -p 16 -n 4 -r 1 --json
    local key
    for key in prefill_tokens_per_s decode_tokens_per_s weight_bytes_per_token touched_bytes_per_token dense_bytes_per_token ideal_speedup \
        read_bytes_per_s_limit read_anonymous_bytes_per_s fraction_of_limit fraction_of_limit_by_median_token token_median_s token_p90_s token_max_s int8_op_per_s float_flop_per_s \
        prefill_op_per_s prefill_fraction_of_int8_peak prefill_fraction_of_float_peak open_s footprint_bytes \
        resident_anonymous_bytes resident_bytes threads; do
        expect "bench: $key is a positive number" grep -qE "\"$key\": [0-9.e+-]*[1-9]" "$out"
    done
    for key in prefill_stolen_fraction decode_stolen_fraction bf16_flop_per_s prefill_fraction_of_bf16_peak; do expect "bench: $key" grep -qE "\"$key\": [0-9.e+-]+" "$out"; done
    for key in model machine isa; do expect "bench: $key" grep -qE "\"$key\": \"[^\"]+\"" "$out"; done
    run 0 bench "$model" -p 8 -n 2 -r 2
    expect "bench: a table for people" grep -qE '^decode +[0-9.]+ tokens/s over 2 tokens' "$out"
    run 0 bench "$model" -d 24 -p 8 -n 2 -r 2
    expect "bench: tokens before the prompt" grep -qE '^depth +24 tokens before the prompt' "$out"
    run 0 bench --kernels --type q4_0 --mib 1 --columns 8
    expect "bench --kernels: rows alone" grep -qE '^Q4_0 +[0-9.]+ ' "$out"
    expect "bench --kernels: a name above each column" awk '
        /^type/ { single = gsub(/GB\/s|Gop\/s|of read|of peak/, ""); pairs = gsub(/(dot|sum) +[0-9]+%/, "") }
        /^Q4_0 +[0-9.]+ / { seen = 1; bad += NF - 1 != single + 2 * pairs }
        END { exit bad || !seen }' "$out"
    refuse 2 "no type that has kernels" bench --kernels --type q9_9
    refuse 2 "--isa avx9: must be one of scalar" bench --kernels --isa avx9
    refuse 2 "--length 300: not a multiple of 256" bench --kernels --length 300
    refuse 2 "--mib x: not a whole number" bench --kernels --mib x
    run 0 bench --kernels --help
    expect "bench --kernels: help" grep -q '^  *--columns' "$out"
}

check_inspect() {
    run 0 inspect "$model"
    expect "inspect: the architecture" grep -q llama "$out"
    run 0 inspect "$model" --tensors --json
    expect "inspect: an object" grep -q '^{.*token_embd.weight' <(tr -d '\n' <"$out")
    run 0 synth "$work/random.gguf" --shape tiny --type F32 --quiet
    run 0 run "$work/random.gguf" -p x -n 2 --quiet
}

# Profiles of two texts: recorded at once, one after the other, merged; shown; drawn.
check_profile() {
    local a=$work/pa.gguf b=$work/pb.gguf both=$work/pboth.gguf sum=$work/psum.gguf other
    printf 'It was the whale, and the sea was the sea of the whale, %d times.\n' {1..60} >"$work/one.txt"
    printf 'She was not the first to think it a truth that %d are too many.\n' {1..50} >"$work/two.txt"
    run 0 profile "$model" --text "$work/one.txt" -o "$a" --svg "$work/use.svg" --batch 100
    expect "profile: a table" grep -qE '^ +5 +1024 +[0-9.]+ +[0-9.]+ %' "$out"
    expect "profile: tells the speed, and no progress bar in a file" [ "$(lines "$err")" -eq 1 ]
    expect "profile: a picture" grep -q '^</svg>$' "$work/use.svg"
    expect "profile: of one row a layer" [ "$(grep -c 'class="mark"' "$work/use.svg")" -eq 7 ]
    ! command -v xmllint >/dev/null || expect "profile: the picture is XML" xmllint --noout "$work/use.svg"
    expect "profile: without xmllint, at least as many ends as beginnings" \
        [ "$(grep -o '<text' "$work/use.svg" | wc -l)" -eq "$(grep -o '</text>' "$work/use.svg" | wc -l)" ]
    refuse 1 "--profile: with --plan cpu nothing is planned" bench "$model" --profile "$a"
    refuse 1 "--profile: with --plan cpu nothing is planned" run "$model" -p x --plan cpu --profile "$a"
    run 0 profile "$model" --text "$work/two.txt" -o "$b" --quiet --batch 100 # AMX rounds a few rows otherwise than many
    expect "profile: --quiet is quiet" [ ! -s "$err" ]
    run 0 profile "$model" --text "$work/one.txt" "$work/two.txt" -o "$both" --batch 100 --threads 1
    cp "$out" "$work/report"
    for other in "$a $b" "$b $a"; do
        # shellcheck disable=SC2086 # two names
        run 0 profile --merge $other -o "$sum"
        expect "profile: merged, the same bytes" same "$both" "$sum"
        expect "profile: the same report" same "$work/report" "$out"
    done
    run 0 profile "$model" --text "$work/two.txt" --continue "$a" -o "$sum" --batch 100
    expect "profile: continued, the same bytes" same "$both" "$sum"
    run 0 inspect "$both"
    expect "inspect: the report of a profile" same "$work/report" "$out"
    run 0 inspect "$both" --json
    expect "inspect: a profile as JSON, an object a layer" [ "$(grep -c '^{.*}$' "$out")" -eq 7 ]
    run 0 inspect "$both" --tensors
    expect "inspect: a profile as the GGUF that it is" grep -q 'blk.5.count' "$out"
    run 0 inspect "$a" --against "$b"
    expect "inspect --against: a line for each layer and three for all" \
        [ "$(grep -cE '^ *([0-5] +1024|all +6144|joint +6144|even) ' "$out")" -eq 9 ]
    run 0 inspect "$a" --against "$a" --json
    expect "inspect --against itself: nothing could be better" \
        [ "$(grep -c '"of_best": 1}' "$out")" -eq "$(lines "$out")" ]
    run 0 profile "$model" --text "$work/one.txt" -n 300 -o "$sum" --json
    expect "profile: -n limits the tokens" grep -q '"token_n": 300,' "$out"
    run 0 profile "$model" --text "$work/one.txt" --continue "$a" -o "$sum"
    expect "profile: a text seen again is told" grep -q "counts once more" "$err"
    cp "$model" "$work/here.gguf"
    run 0 profile "$work/here.gguf" --text "$work/one.txt" -q --batch 100
    expect "profile: without -o it stands beside the model" same "$a" "$work/here.activation.gguf"
    run 0 profile "$model" --activation silu --text "$work/one.txt" -n 100 -o "$sum" --svg "$work/sizes.svg" -q
    expect "profile: silu has no hot neurons, and it is said" grep -q 'neurons are always active (silu)' "$out"
    expect "profile: sizes are drawn" grep -q 'none is hot' "$work/sizes.svg"
    refuse 1 "no layer with hot units" inspect "$sum" --against "$sum"
    run 0 synth "$work/experts.gguf" --shape tiny-moe --type Q4_0 --quiet
    run 0 profile "$work/experts.gguf" --text "$work/one.txt" -n 100 -o "$sum" -q
    expect "profile: experts have router weights" grep -q 'mean router weight' "$out"
    check_profile_errors "$a"
    check_profile_stop
}

check_profile_errors() {
    local a=$1 never=$work/never.gguf
    refuse 2 "MODEL is missing" profile --text "$model"
    refuse 2 "--text is required" profile "$model"
    refuse 2 "-o is required" profile --merge "$a"
    refuse 2 "no MODEL" profile "$model" --merge "$a" -o "$never"
    refuse 2 "excludes" profile --merge "$a" -o "$never" --text "$a"
    refuse 1 "$work/missing" profile "$model" --text "$work/one.txt" "$work/missing" -o "$never"
    refuse 1 "no token" profile "$model" --text "$work/empty" -o "$never"
    refuse 1 "the model itself" profile "$model" --text "$work/one.txt" -o "$model"
    refuse 1 "$work/no/folder" profile "$model" --text "$work/one.txt" -o "$work/no/folder"
    run 0 synth "$work/fewer.gguf" --layers 5 --embd 256 --heads 8 --kv-heads 4 --ff 1024 --vocab 4096 --type F16 -q \
        --activation relu
    refuse 1 "another shape: fingerprint" profile "$work/fewer.gguf" --text "$work/one.txt" --continue "$a" -o "$never"
    refuse 1 "runs with silu" profile "$model" --activation silu --text "$work/one.txt" --continue "$a" -o "$never"
    refuse 1 "not an activation profile" profile "$model" --text "$work/one.txt" --continue "$model" -o "$never"
    refuse 1 "not an activation profile" inspect "$a" --against "$model"
    run 0 profile "$work/fewer.gguf" --text "$work/one.txt" -n 64 -o "$work/pfewer.gguf"
    refuse 1 "different shapes" profile --merge "$a" "$work/pfewer.gguf" -o "$never"
    refuse 1 "different shapes" inspect "$a" --against "$work/pfewer.gguf"
    head -c 20000 "$a" >"$work/cut.gguf"
    refuse 1 "$work/cut.gguf" inspect "$work/cut.gguf"
    refuse 1 "$work/cut.gguf" profile --merge "$a" "$work/cut.gguf" -o "$never"
    # counts far above the tokens: the last bytes of the file are of the last layer's unions
    cp "$a" "$work/above.gguf"
    printf '\377\377\377\377\377\377\377\017' |
        dd of="$work/above.gguf" bs=1 seek=$(($(stat -c %s "$a") - 4096)) conv=notrunc status=none
    refuse 1 "layer 5" inspect "$work/above.gguf"
    refuse 1 "layer 5" profile "$model" --text "$work/one.txt" --continue "$work/above.gguf" -o "$never"
    expect "failures leave no file" [ -z "$(find "$work" -name 'never*')" ]
}

check_profile_stop() {
    yes "$(cat "$work/one.txt")" | head -c 3000000 >"$work/long.txt"
    "$hotset" profile "$model" --text "$work/long.txt" -o "$work/stopped.gguf" --trace "$work/t.json" \
        >"$out" 2>"$err" </dev/null &
    local pid=$! i
    for ((i = 0; i < 600; i++)); do # until some steps have been traced
        [ -f "$work/t.json.part" ] && [ "$(stat -c %s "$work/t.json.part")" -gt 40000 ] && break
        sleep 0.1
    done
    kill -TERM $pid
    wait $pid
    expect "profile: a signal ends it with 1" [ $? -eq 1 ]
    expect "profile: what was seen is told" grep -q "interrupted: $work/stopped.gguf holds the [0-9]* tokens" "$err"
    run 0 inspect "$work/stopped.gguf"
    run 0 profile "$model" --text "$work/two.txt" --continue "$work/stopped.gguf" -o "$work/further.gguf" -q
}

# root_mean_square A B: of the differences of two files of logits.
root_mean_square() {
    perl -e 'my @f = map { local (@ARGV, $/) = ($_); [unpack "f<*", <>] } @ARGV; my $sum = 0;
             @{$f[0]} == @{$f[1]} && @{$f[0]} or die "not as many\n";
             $sum += ($f[0][$_] - $f[1][$_]) ** 2 for 0 .. $#{$f[0]};
             printf "%g\n", sqrt($sum / @{$f[0]})' "$1" "$2"
}
below() { perl -e 'exit !($ARGV[0] ne "" && $ARGV[0] < $ARGV[1])' "$1" "$2"; }

# logits_of MODEL FILE OPTION...
logits_of() {
    local from=$1 to=$2
    shift 2
    run 0 logits "$from" --tokens 0,776,349,21,5,1000 -o "$to" "$@"
}

check_convert() {
    local stock=$work/stock.f32 got=$work/got.f32 profile=$work/pc.gguf a=$work/ca.gguf b=$work/cb.gguf
    logits_of "$model" "$stock"
    run 0 convert "$model" "$a"
    expect "convert: nothing on standard output" [ ! -s "$out" ]
    expect "convert: tells what it did, in one line" [ "$(grep -c 'down by neuron in 6 tensors' "$err")" -eq "$(lines "$err")" ]
    logits_of "$a" "$got"
    expect "convert: by neuron, the same logits" same "$stock" "$got"
    logits_of "$a" "$got" --memory mapped
    expect "convert: mapped, the same logits" same "$stock" "$got"
    run 0 inspect "$a"
    expect "inspect: down stands by neuron" grep -q '^down  *stored by "neuron"$' "$out"
    expect "inspect: nothing is sorted" [ "$(grep -c sorted "$out")" -eq 0 ]
    run 0 convert "$a" "$b" -q
    expect "convert: --quiet is quiet" [ ! -s "$err" ]
    expect "convert: twice is once" same "$a" "$b"
    run 0 convert "$a" "$b" --keep-down
    run 0 inspect "$b"
    expect "inspect: --keep-down has put it back" [ "$(grep -c '^down' "$out")" -eq 0 ]
    logits_of "$b" "$got"
    expect "convert: --keep-down, the same logits" same "$stock" "$got"

    run 0 profile "$model" --text "$work/one.txt" -n 300 -o "$profile" -q
    run 0 convert "$model" "$b" --profile "$profile"
    expect "convert: tells that it sorted" grep -q 'neurons sorted in 6 layers' "$err"
    run 0 inspect "$b"
    expect "inspect: neurons are sorted" grep -q '^neurons  *sorted, hot ones first$' "$out"
    logits_of "$b" "$got"
    expect "convert: sorted, the same logits but for rounding" below "$(root_mean_square "$stock" "$got")" 1e-4
    expect "convert: and not the same bits: it is another order" differ "$stock" "$got"
    run 0 profile "$b" --text "$work/two.txt" --continue "$profile" -n 300 -o "$work/pd.gguf"
    expect "profile: a sorted model continues the original's, without a word" [ "$(lines "$err")" -eq 1 ]
    run 0 profile "$b" --text "$work/one.txt" -n 300 -o "$work/pd.gguf" -q
    run 0 inspect "$profile" --against "$work/pd.gguf" --json
    expect "profile: of a sorted model, the hot neurons of the original" \
        below 0.999 "$(sed -nE 's/.*"of_best": ([0-9.]+).*/\1/p' "$out" | sort -g | head -n 1)"

    run 0 convert "$model" "$b" --type Q8_0 --profile "$profile" --threads 1
    expect "convert: --type tells the error" grep -qE 'down by row in 6 tensors, neurons sorted in 6 layers, RMSE 0\.0' "$err"
    run 0 inspect "$b"
    expect "inspect: down stands by row" grep -q '^down  *stored by "row"$' "$out"
    expect "inspect: of the type" grep -q '^  Q8_0 ' "$out"
    logits_of "$b" "$got"
    expect "convert: Q8_0, nearly the same logits" below "$(root_mean_square "$stock" "$got")" 0.1
    run 0 convert "$model" "$work/cc.gguf" --type Q8_0 --profile "$profile" --threads 2 -v
    expect "convert: any number of threads, the same bytes" same "$b" "$work/cc.gguf"
    expect "convert: --verbose, a line for each tensor" [ "$(lines "$err")" -gt 40 ]
    run 0 synth "$work/experts.gguf" --shape tiny-moe --type Q4_0 --quiet
    run 0 profile "$work/experts.gguf" --text "$work/one.txt" -n 100 -o "$work/pe.gguf" -q
    run 0 convert "$work/experts.gguf" "$b" --profile "$work/pe.gguf"
    expect "convert: experts are sorted" grep -q 'experts sorted in' "$err"
    logits_of "$work/experts.gguf" "$stock"
    logits_of "$b" "$got"
    expect "convert: experts sorted, the same logits" same "$stock" "$got"
    check_convert_text "$profile"
    check_convert_errors "$profile"
}

# number FIELD: of the last JSON object.
number() { sed -nE "s/.*\"$1\": ([-+0-9.e]+).*/\1/p" "$out" | tail -n 1; }

# The comparison with the original over a text: nothing where only the order changes, what the type costs where it is
# quantised, and the same figures as eval's.
check_convert_text() {
    local profile=$1 text=$work/one.txt to=$work/ct.gguf
    run 0 convert "$model" "$to" --profile "$profile" --text "$text" -q
    expect "convert --text: two lines for people" [ "$(lines "$out")" -eq 2 ]
    expect "convert --text: both perplexities" grep -qE '^perplexity [0-9.]+ \+- [0-9.]+, of the original [0-9.]+ \+- [0-9.]+ \([0-9]+ tokens scored: second half of [0-9]+ chunks' "$out"
    expect "convert --text: the divergence" grep -qE '^divergence from the original: mean .* nats; the same likeliest token at [0-9.]+ %' "$out"
    expect "convert --text: --quiet is quiet" [ ! -s "$err" ]
    run 0 convert "$model" "$to" --profile "$profile" --text "$text" -q --json
    expect "convert --text --json: the file, then the comparison" [ "$(lines "$out")" -eq 2 ]
    expect "convert --text: sorting costs nothing" below "$(number divergence_mean_nats)" 1e-4
    run 0 convert "$model" "$to" --type Q8_0 --text "$text" --json
    local eight original four
    eight=$(number divergence_mean_nats) original=$(number original_perplexity) four=$(number perplexity)
    expect "convert --json: every tensor" [ "$(grep -c '^{"tensor": "blk.*"to": "Q8_0", .*"rmse": ' "$out")" -gt 40 ]
    expect "convert --json: the file" grep -q "^{\"model\": \"$to\", \"original\": " "$out"
    expect "convert --text: Q8_0 costs something" below 1e-9 "$eight"
    expect "convert --text: but little" below "$eight" 0.01
    run 0 eval "$model" --text "$text" --sparsity off --json
    expect "convert --text: the original's perplexity is eval's" [ "$(number perplexity)" = "$original" ]
    run 0 eval "$to" --text "$text" --sparsity off --json
    expect "convert --text: OUT's perplexity is eval's" [ "$(number perplexity)" = "$four" ]
    run 0 convert "$model" "$to" --type Q4_0 --text "$text" --json
    expect "convert --text: Q4_0 costs more than ten times Q8_0" below "$(perl -e 'print 10 * $ARGV[0]' "$eight")" "$(number divergence_mean_nats)"
    four=$(number same_top_token_share)
    expect "convert --text: and other tokens become likeliest" below "$four" 0.999
    input=$text
    run 0 convert "$model" "$to" --type Q8_0 --text - --json
    input=/dev/null
    expect "convert --text -: the same from standard input" [ "$(number divergence_mean_nats)" = "$eight" ]
    # before anything is written
    rm -f "$to"
    refuse 1 "$work/missing" convert "$model" "$to" --type Q8_0 --text "$work/missing"
    refuse 1 "at least 2" convert "$model" "$to" --type Q8_0 --text "$work/empty"
    refuse 2 "--text" convert "$model" "$to" --type Q8_0 --text
    expect "convert --text: what cannot be compared is not converted" [ ! -e "$to" ]
}

check_convert_errors() {
    local profile=$1 never=$work/never.gguf
    refuse 2 "IN is missing" convert
    refuse 2 "OUT is missing" convert "$model"
    refuse 2 "unknown type 'Q3_K'" convert "$model" "$never" --type Q3_K
    refuse 1 "$work/missing" convert "$work/missing" "$never"
    refuse 1 "$work/broken" convert "$work/broken" "$never"
    cp "$model" "$work/itself.gguf"
    ln -sf itself.gguf "$work/link.gguf"
    refuse 1 "is the model itself" convert "$work/itself.gguf" "$work/itself.gguf"
    refuse 1 "is the model itself" convert "$work/itself.gguf" "$work/link.gguf"
    expect "convert: the model is as it was" same "$model" "$work/itself.gguf"
    refuse 1 "is not a file" convert "$model" /dev/null
    refuse 1 "$work/no/folder" convert "$model" "$work/no/folder.gguf"
    refuse 1 "$work/missing" convert "$model" "$never" --profile "$work/missing"
    refuse 1 "not an activation profile" convert "$model" "$never" --profile "$model"
    run 0 synth "$work/tiny.gguf" --shape tiny --type Q4_0 --quiet
    refuse 1 "another shape: fingerprint" convert "$work/tiny.gguf" "$never" --activation relu --profile "$profile"
    refuse 1 "give --activation relu" convert "$model" "$never" --activation relu2 --profile "$profile"
    refuse 1 "Q4_0 already" convert "$work/tiny.gguf" "$never" --type Q8_0
    refuse 1 "never zero" convert "$work/tiny.gguf" "$never"
    refuse 1 "nothing is to be done with --keep-down" convert "$model" "$never" --keep-down
    expect "failures leave no file" [ -z "$(find "$work" -name 'never*')" ]
    # a file that grows too large in the middle of writing
    (ulimit -f 1000; trap '' XFSZ; exec "$hotset" convert "$model" "$never" >"$out" 2>"$err")
    expect "convert: a full disk is an error" [ $? -eq 1 ]
    expect "convert: a full disk is named" grep -q "$never.*File too large" "$err"
    expect "convert: and leaves no file" [ -z "$(find "$work" -name 'never*')" ]
}

check_machine() {
    local machines
    machines=$(dirname "$0")/../profiles/machines
    run 0 inspect "$machines/rtx4090-ddr4.json"
    expect "inspect: a machine" grep -q "RTX 4090" "$out"
    run 0 inspect --json "$machines/rtx4090-ddr4.json"
    expect "inspect --json: the machine's file" same "$machines/rtx4090-ddr4.json" "$out"
    printf '{"format": "hotset.machine", "version": 3}' >"$work/newer.json"
    refuse 1 "version 3" inspect "$work/newer.json"
    refuse 1 "$work/missing" machine "$work/missing"
    refuse 1 "or more" machine "$work/newer.json"
    refuse 1 "$work/no/folder" machine -o "$work/no/folder"
    refuse 2 "unknown option" machine --through
    [ "$thinned" = 1 ] || check_measuring
    refuse 1 "devices: 'gpu'" machine --devices cpu,gpu
    refuse 1 "'8Gib': neither a size" machine --devices emu:8Gib
    refuse 1 "named twice" machine --devices cuda0,cuda0
    refuse 1 "cuda99: " machine --devices cpu,cuda99
    refuse 1 "no machine profile rtx1*.json" machine --devices emu@rtx1
    "$hotset" machine --no-file -o "$work/never.json" >"$out" 2>"$err" </dev/null &
    local pid=$!
    sleep 1
    kill -TERM $pid
    wait $pid
    expect "machine: a signal stops it" [ $? -eq 1 ]
    expect "machine: and leaves no file" [ -z "$(find "$work" -name 'never*')" ]
}

check_measuring() {
    run 0 machine --devices cpu,emu:64MiB --threads 1 --no-file --quiet --note "a test" -o "$work/two.json"
    expect "machine: the table" grep -q "of 1 thread\|1 of " "$out"
    expect "machine --devices: an emulated device" grep -q "^emu0 " "$out"
    expect "machine --devices: its links" [ "$(grep -cE '^(cpu to emu0|emu0 to cpu)$' "$out")" -eq 2 ]
    run 0 inspect "$work/two.json"
    expect "machine: what was written is read" grep -q "^a test$" "$out"
    run 0 plan "$model" --machine "$work/two.json" --threads 1
    expect "plan --machine: with its column" grep -q "emu0" "$out"
}

check_planning_for_devices() {
    run 0 plan "$model" --devices cpu,emu:2GiB@rtx4070 --threads 1 --verify
    expect "plan --devices: a recorded GPU" grep -q "emu0: NVIDIA GeForce RTX 4070 (declared" "$out"
    expect "plan --devices: is told" grep -q "emu0 stands in for NVIDIA GeForce RTX 4070" "$err"
    expect "plan --verify: a declared device is not timed" grep -q "emu0: its rates are declared" "$err"
    run 0 plan "$model" --devices cpu,emu:2GiB@rtx4070 --threads 1
    expect "plan --devices: measures no more" [ "$(grep -c measuring "$err")" -eq 0 ]
    # more than the host may have, with copied weights
    local beyond=("$model" -p "The whale" -n 2 --temp 0 --sparsity exact --ram 13MiB --threads 1)
    run 0 run "${beyond[@]}" --devices cpu,emu:2GiB@rtx4070
    expect "run: planned though the host alone has no room" grep -q "planned for this machine: exact" "$err"
    refuse 1 "host memory: needs" run "${beyond[@]}" --devices cpu
    expect "run: refused without measuring" [ "$(grep -c measuring "$err")" -eq 0 ]
    # a device with less memory than when the plan was made, and than when the machine was measured
    local kept=$XDG_CACHE_HOME/hotset large small
    large=$(newest "$kept"/plan-*)
    run 0 run "${beyond[@]}" --devices cpu,emu:20MiB@rtx4070
    small=$(newest "$kept"/plan-*)
    cp "$large" "$small"
    sed -i "s/_bytes\": $((20 << 20)),/_bytes\": $((2 << 30)),/" "$(newest "$kept"/machine-*)"
    run 0 run "${beyond[@]}" --devices cpu,emu:20MiB@rtx4070
    expect "run: a kept plan that the GPU has no room for is made anew" grep -q "planning anew: .* of emu0's memory, there are 20.0" "$err"
}

# The file that was written last.
newest() {
    local newest=$1
    for file in "$@"; do [ "$file" -nt "$newest" ] && newest=$file; done
    echo "$newest"
}

check_plan() {
    local machines shapes kept plan=$work/plan.json page=$work/plan.html
    machines=$(dirname "$0")/../profiles/machines shapes=$(dirname "$0")/shapes
    local there=(--machine "$machines/cpu-ddr5.json" --threads 1)
    # for a machine that is not here: the same input gives the same bytes
    run 0 plan "$model" "${there[@]}" -o "$plan" --html "$page"
    expect "plan: the table" grep -q "tokens/s" "$out"
    expect "plan: a page that is whole" grep -q '</html>' "$page"
    run 0 plan "$model" "${there[@]}" -o "$work/again.json" --json
    expect "plan: the same bytes" same "$plan" "$work/again.json"
    expect "plan --json: the plan itself" same "$plan" "$out"
    run 0 plan "$model" "${there[@]}" -o -
    expect "plan -o -: the plan on standard output" same "$plan" "$out"
    run 0 inspect "$plan"
    expect "inspect: a plan" grep -q "tokens/s" "$out"
    run 0 inspect "$plan" --json
    expect "inspect --json: the plan's file" same "$plan" "$out"
    run 0 plan --shape "$shapes/qwen3-30b-a3b.json" --machine "$machines/rtx4090-ddr5.json"
    expect "plan --shape: a GPU's column" grep -q cuda0 "$out"
    run 0 plan --shape "$shapes/deepseek-v3.json" --machine "$machines/rtx5090-ddr5.json" --ctx 2048 --json
    expect "plan --shape: options count" grep -q '"context_n": 2048' "$out"

    # by a plan, the same text; what the plan says is not asked for twice
    run 0 run "$model" -p "The whale" -n 12 --temp 0 --plan "$plan"
    cp "$out" "$work/by_plan"
    run 0 run "$model" -p "The whale" -n 12 --temp 0 --plan cpu --threads 1
    expect "run --plan: the same text" same "$work/by_plan" "$out"
    run 0 bench "$model" -p 8 -n 2 -r 1 --plan "$plan"
    refuse 1 "--threads" run "$model" -p x --plan "$plan" --threads 2
    refuse 1 "planned for 512 tokens" run "$model" -p x --plan "$plan" --ctx 513
    refuse 1 "$work/missing" run "$model" -p x --plan "$work/missing"
    refuse 1 "$machines/cpu-ddr5.json" run "$model" -p x --plan "$machines/cpu-ddr5.json"
    refuse 1 "activations are recorded" profile "$model" --text "$work/one.txt" -o "$work/never" --plan "$plan"
    run 0 synth "$work/other.gguf" --shape tiny --type Q4_0 -q
    refuse 1 "shape 0x" run "$work/other.gguf" -p x --plan "$plan"
    sed 's/"version": 1/"version": 9/' "$plan" >"$work/newer.json"
    refuse 1 "version 9" run "$model" -p x --plan "$work/newer.json"
    head -c 3000 "$plan" >"$work/half.json"
    refuse 1 "$work/half.json" inspect "$work/half.json"

    # for this machine: measured once, kept, found again, made anew where it no longer fits
    run 0 run "$model" -p "The whale" -n 2 --seed 1 --ctx 200
    expect "run: says that it plans" grep -q "planned for this machine" "$err"
    run 0 run "$model" -p "The whale" -n 2 --seed 1 --ctx 200
    expect "run: finds the plan" grep -q "the kept plan" "$err"
    expect "run: measures no more" [ "$(grep -c measuring "$err")" -eq 0 ]
    for kept in "$XDG_CACHE_HOME"/hotset/machine-*; do run 0 inspect "$kept"; done
    run 0 run "$model" -p "The whale" -n 2 --seed 1 --ctx 200 --quiet
    expect "run --quiet: without a word" [ ! -s "$err" ]
    for kept in "$XDG_CACHE_HOME"/hotset/plan-*; do echo broken >"$kept"; done
    run 0 run "$model" -p "The whale" -n 2 --seed 1 --ctx 200
    expect "run: a broken kept plan is made anew, with a word" grep -q "planning anew" "$err"
    run 0 plan "$model" --verify
    expect "plan --verify: measured beside predicted" grep -qi "measured" "$out"
    run 0 plan "$model" "${there[@]}" --verify
    expect "plan --verify: devices with declared rates are left out, with a word" grep -q "cpu: its rates are declared" "$err"
    [ "$thinned" = 1 ] || check_planning_for_devices
    refuse 1 "exclude each other" run "$model" -p x --plan cpu --devices emu
    refuse 1 "the plan has no 'emu0'" run "$model" -p x --plan "$plan" --devices emu

    # by hand, on an emulated device: the same text, and what each device does
    run 0 run "$model" -p "The whale" -n 6 --temp 0 --plan cpu --quiet
    local said
    said=$(cat "$out")
    run 0 run "$model" -p "The whale" -n 6 --temp 0 --place attn=emu0:3,ffn=emu0:0.5,head=gpu0 --devices emu:64MiB \
        --stats --trace "$work/trace.json"
    expect "run --place: the same text" [ "$(cat "$out")" = "$said" ]
    expect "run --stats: the device's memory and times" grep -q "emu0: .*planned; a step: busy" "$err"
    expect "run --stats: overlap and bytes through the bus" grep -q "emu0: .* overlap with the CPU.* bytes per token" "$err"
    expect "run --trace: a lane for each device" grep -q '"tid":"emu0"' "$work/trace.json"
    expect "run --trace: waits" grep -q '"cat":"wait"' "$work/trace.json"
    run 0 run "$model" -p "The whale" -n 6 --temp 0 --place attn=emu0,ffn=emu0:0.5,stream=2 --trace "$work/trace.json"
    expect "run --place stream: the same text" [ "$(cat "$out")" = "$said" ]
    expect "run --trace: a lane for copies" grep -q '"tid":"emu0 copies"' "$work/trace.json"
    refuse 1 "not a number of rows" run "$model" -p x --place attn=emu0,stream=0
    refuse 1 "no such device" run "$model" -p x --place attn=gpu3
    refuse 1 "there are 6 left of 6" run "$model" -p x --place attn=emu0:7
    refuse 1 "are needed, there are 1048576" run "$model" -p x --place ffn=emu0 --devices emu:1MiB
    refuse 1 "exclude each other" run "$model" -p x --place ffn=emu0 --plan cpu
    refuse 1 "not attn=" run "$model" -p x --place gpu=all
    refuse 2 "--place" plan "$model" --place ffn=emu0
    local cache=$XDG_CACHE_HOME home=$HOME
    export XDG_CACHE_HOME=/proc/none
    run 0 run "$model" -p "The whale" -n 2 --seed 1
    expect "run: a folder that cannot be written to is told" grep -q "/proc/none/hotset cannot be written to" "$err"
    unset XDG_CACHE_HOME HOME
    run 0 run "$model" -p "The whale" -n 2 --seed 1
    expect "run: no folder at all is told" grep -q "HOME is set" "$err"
    refuse 1 "name a machine" plan "$model"
    export XDG_CACHE_HOME=$cache HOME=$home

    refuse 2 "is missing" plan
    refuse 2 "exclude each other" plan "$model" --shape "$shapes/qwen3-8b.json"
    refuse 2 "needs the model itself" plan --shape "$shapes/qwen3-8b.json" --verify
    refuse 2 "must be one of decode|prefill|balanced" plan "$model" --optimise speed
    refuse 1 "$work/missing" plan --shape "$work/missing" "${there[@]}"
    refuse 1 "no device 'cuda3'" plan "$model" "${there[@]}" --devices cpu,cuda3
    refuse 1 "$work/no/folder" plan "$model" "${there[@]}" --quiet -o "$work/no/folder" --json
    run 0 plan "$model" "${there[@]}" --memory copied --sparsity off --json
    local needed
    needed=$(sed -nE 's/^ *"total_bytes": ([0-9]+).*/\1/p; s/.*"total_bytes": ([0-9]+).*/\1/p' "$out" | head -n 1)
    refuse 1 "needs $needed bytes" plan "$model" "${there[@]}" --memory copied --sparsity off --ram $((needed - 1))B
    run 0 plan "$model" "${there[@]}" --memory copied --sparsity off --ram "${needed}B"
}

# compare STATUS WORD ARGUMENT...: runs tools/compare.sh with no llama.cpp on the PATH; its output has the word.
compare() {
    local wanted=$1 word=$2 status
    shift 2
    PATH=$work/tools "$here/../tools/compare.sh" --hotset "$hotset" "$@" >"$out" 2>&1
    status=$?
    expect "compare.sh $*: exit status" [ "$status" -eq "$wanted" ]
    expect "compare.sh $*: says $word" grep -qF -e "$word" "$out"
}

check_compare() {
    local tool
    mkdir -p "$work/tools"
    for tool in bash cat dirname basename perl awk seq mktemp rm tail tee; do ln -sf "$(command -v $tool)" "$work/tools/$tool"; done
    ln -sf "$(command -v env)" "$work/tools/env"
    compare 2 "Usage"
    compare 2 "is not a number" -r x "$model"
    compare 1 "cannot be read" "$work/missing"
    compare 1 "no llama.cpp here" "$model"
    compare 1 "not there, or not a program" --peer "$work/missing" "$model"
    # a peer that says what llama-bench would: 100 and 10 tokens/s, while hotset's figures are what they are
    printf '#!/bin/bash\necho '"'"'[{"n_prompt": 8, "n_gen": 0, "avg_ts": 100.0}, {"n_prompt": 0, "n_gen": 4, "avg_ts": 10.0}]'"'"'\n' \
        >"$work/llama-bench"
    chmod +x "$work/llama-bench"
    compare 0 "median" --peer "$work/llama-bench" -r 3 -p 8 -n 4 "$model"
    # shellcheck disable=SC2016
    expect "compare.sh: ratios of every round" awk '
        /^[0-9]/ { rounds++; if ($3 != 10 || $6 != 100 || $4 / ($2 / 10) < 0.99 || $4 / ($2 / 10) > 1.01) wrong = 1 }
        END { exit rounds != 3 || wrong }' "$out"
    printf '#!/bin/bash\necho "it is tired" >&2\nexit 3\n' >"$work/llama-bench"
    compare 1 "it is tired" --peer "$work/llama-bench" -r 1 -p 8 -n 4 "$model"
    compare 1 "failed on" --peer "$work/llama-bench" -r 1 -p 8 -n 4 "$model"
    printf '#!/bin/bash\nexit 3\n' >"$work/hotset"
    chmod +x "$work/hotset"
    compare 1 "hotset bench failed" --hotset "$work/hotset" --peer "$work/llama-bench" -r 1 -p 8 -n 4 "$model"
}

for check in wrong_usage errors help tokenize logits run long_texts stop state_types eval bench inspect profile convert machine plan compare; do "check_$check"; done
echo "$checked expectations, $failed not met"
[ $failed -eq 0 ]
