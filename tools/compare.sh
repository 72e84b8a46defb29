#!/usr/bin/env bash
# The same model through `hotset bench` and through llama.cpp, in turns, since speeds of a machine drift: decode and prefill of
# both, their ratios, and beside them what the memory gave in the same minute.
set -euo pipefail

usage() {
    cat <<'TEXT'
Usage: tools/compare.sh [options] MODEL.gguf
  --peer FILE     llama.cpp's llama-bench, or a Python that has the package llama-cpp-python (build it on this machine:
                  pip install --no-binary llama-cpp-python llama-cpp-python); without it llama-bench or python3 on the PATH
  --hotset FILE   the command (build/hotset)
  --isa NAME      of hotset: best, scalar, avx2, avxvnni, avx512, amx
  -t N            threads of both (hotset's choice: one per physical core)
  -p N            tokens of the prompt (256)
  -n N            tokens decoded one by one behind it (32); llama-bench decodes them behind nothing
  -r N            rounds, of which medians are told (5)
TEXT
}
die() { echo "compare.sh: $1" >&2; exit "${2:-1}"; }

here=$(cd "$(dirname "$0")/.." && pwd)
peer='' hotset=$here/build/hotset isa=best threads=0 prefill=256 decode=32 rounds=5 model=''
while [ $# -gt 0 ]; do
    case $1 in
        --help | -h) usage; exit 0 ;;
        --peer | --hotset | --isa | -t | -p | -n | -r) [ $# -ge 2 ] || die "$1 needs a value" 2 ;;&
        --peer) peer=$2; shift 2 ;;
        --hotset) hotset=$2; shift 2 ;;
        --isa) isa=$2; shift 2 ;;
        -t) threads=$2; shift 2 ;;
        -p) prefill=$2; shift 2 ;;
        -n) decode=$2; shift 2 ;;
        -r) rounds=$2; shift 2 ;;
        -*) usage >&2; exit 2 ;;
        *) [ -z "$model" ] || die "one model at a time" 2
           model=$1; shift ;;
    esac
done
[ -n "$model" ] || { usage >&2; exit 2; }
for number in "$threads" "$prefill" "$decode" "$rounds"; do
    [[ $number =~ ^[0-9]{1,7}$ ]] || die "$number is not a number of 1 to 7 digits" 2
done
[ "$rounds" -gt 0 ] || die "-r must be above 0" 2
[ -r "$model" ] || die "$model: cannot be read"
[ -x "$hotset" ] || die "$hotset: not there; build it first: cmake -S . -B build -G Ninja && ninja -C build hotset_command"

has_package() { "$1" -c 'import llama_cpp' 2>/dev/null; }
if [ -z "$peer" ]; then
    if command -v llama-bench >/dev/null; then
        peer=llama-bench
    elif command -v python3 >/dev/null && has_package python3; then
        peer=python3
    else
        die "no llama.cpp here: neither llama-bench nor the Python package llama-cpp-python is on the PATH; name one by --peer"
    fi
fi
command -v "$peer" >/dev/null || die "$peer: not there, or not a program"
kind=bench
case $(basename "$peer") in python*) kind=python; has_package "$peer" || die "$peer has no package llama_cpp" ;; esac

results=$(mktemp) errors=$(mktemp)
trap 'rm -f "$results" "$errors"' EXIT
peer_failed() { tail -n 3 "$errors" >&2; die "$peer failed on $model"; }

# numbers KEY...: the values of the numbers of a JSON object on standard input, in that order.
numbers() { perl -0777 -ne 'BEGIN { @keys = splice @ARGV } for my $key (@keys) { /"\Q$key\E": *([0-9.eE+-]+)/ and print "$1 " }
                                     print "\n"' "$@"; }

# Both print prefill and decode in tokens/s, hotset also what it measured of the memory (bytes/s) and its share of that.
run_hotset() {
    "$hotset" bench "$model" -q --json --plan cpu --isa "$isa" -t "$threads" -p "$prefill" -n "$decode" -r 1 |
        numbers prefill_tokens_per_s decode_tokens_per_s read_bytes_per_s_limit fraction_of_limit threads
}
run_bench() {
    "$peer" -m "$model" -p "$prefill" -n "$decode" -r 1 -t "$threads" -ngl 0 -o json 2>"$errors" |
        perl -0777 -ne 'while (/"n_gen": *(\d+).*?"avg_ts": *([0-9.eE+-]+)/gs) { if ($1) { $decode = $2 } else { $prefill = $2 } }
                        print "$prefill $decode\n" if $prefill && $decode'
}
run_python() {
    "$peer" - "$model" "$prefill" "$decode" "$threads" 2>"$errors" <<'PYTHON'
import ctypes, sys, time
import llama_cpp as llama

path, prefill, decode, threads = sys.argv[1], *map(int, sys.argv[2:])
llama.llama_backend_init()
options = llama.llama_model_default_params()
options.n_gpu_layers = 0
model = llama.llama_model_load_from_file(path.encode(), options)
settings = llama.llama_context_default_params()
settings.n_ctx, settings.n_batch = prefill + decode + 64, prefill
settings.n_threads = settings.n_threads_batch = threads
context = llama.llama_init_from_model(model, settings)
vocab_n = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
tokens = (llama.llama_token * prefill)(*[17 + 31 * i % (vocab_n - 17) for i in range(prefill)])

def step(start, n):
    part = ctypes.cast(ctypes.byref(tokens, start * ctypes.sizeof(llama.llama_token)), ctypes.POINTER(llama.llama_token))
    if llama.llama_decode(context, llama.llama_batch_get_one(part, n)):
        sys.exit("llama_decode failed")

def timed(steps):
    start = time.perf_counter()
    for start_token, n in steps:
        step(start_token, n)
    return time.perf_counter() - start

step(0, 1)  # what is done once
llama.llama_memory_clear(llama.llama_get_memory(context), True)
seconds = timed([(0, prefill)])
step(0, 1)
print(prefill / seconds, decode / timed([(i % prefill, 1) for i in range(decode)]))
PYTHON
}

echo "$model, llama.cpp by $peer, $rounds rounds of $prefill tokens and $decode more"
echo "          ------ decode, tokens/s -------   ------ prefill, tokens/s ------   memory"
echo "round     hotset   llama.cpp    ratio       hotset   llama.cpp    ratio       read GB/s   hotset's share"

for round in $(seq "$rounds"); do
    own=$(run_hotset) || die "hotset bench failed on $model"
    read -r own_prefill own_decode read_rate fraction used <<<"$own"
    [ "$threads" -gt 0 ] || threads=$used
    read -r peer_prefill peer_decode < <("run_$kind") || peer_failed
    echo "$round $own_decode $peer_decode $own_prefill $peer_prefill $read_rate $fraction" | tee -a "$results" |
        awk '{ printf "%-8s %7.1f %11.1f %8.2f      %7.1f %11.1f %8.2f   %13.1f %10.2f\n",
                      $1, $2, $3, $2 / $3, $4, $5, $4 / $5, $6 / 1e9, $7 }'
done
# Medians, of the ratios too: each is formed of neighbours.
perl -ane 'push @{$column[0]}, $F[1]; push @{$column[1]}, $F[2]; push @{$column[2]}, $F[1] / $F[2];
           push @{$column[3]}, $F[3]; push @{$column[4]}, $F[4]; push @{$column[5]}, $F[3] / $F[4];
           push @{$column[6]}, $F[5] / 1e9; push @{$column[7]}, $F[6];
           END { for (@column) { my @s = sort { $a <=> $b } @$_; push @median, @s % 2 ? $s[@s / 2] : ($s[@s / 2] + $s[@s / 2 - 1]) / 2 }
                 printf "%-8s %7.1f %11.1f %8.2f      %7.1f %11.1f %8.2f   %13.1f %10.2f\n", "median", @median }' "$results"
