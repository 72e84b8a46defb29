#!/usr/bin/env bash
# Checks of the source that need no build: format, layering, headers, size, what the library may not do. With a build in
# build/ also the symbols of the library. Each finding is one line, FILE:LINE: what is wrong. Usage: tools/check.sh
# shellcheck disable=SC2317 # the checks are called by name in the loop at the end
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

# Limits that only ever go down, but for the header's, which is the manual: it grows with what there is to call.
function_lines_max=120
file_lines_max=800
public_header_lines_max=640

# Workshop commands may include these internal headers besides engine/hotset.h and tools/.
workshop_headers() {
    case $1 in
        tools/synth*) echo "engine/base.h engine/arch.h profiles/gguf.h devices/quant.h devices/quantise.h devices/cpu/kernels.h" ;;
        tools/convert*) echo "engine/base.h engine/model.h profiles/gguf.h profiles/activation.h devices/neurons.h devices/neurons_sort.h devices/quantise.h devices/cpu/kernels.h" ;;
        tools/predictor*) echo "engine/base.h engine/arch.h profiles/gguf.h" ;;
        tools/bench_kernels*) echo "engine/base.h profiles/gguf.h devices/quant.h devices/lanes.h devices/neurons.h devices/cpu/kernels.h" ;;
    esac
}

mapfile -t files < <(git ls-files --cached --others --exclude-standard)
mapfile -t sources < <(printf '%s\n' "${files[@]}" | grep -E '\.([ch]|cu|cpp)$')
mapfile -t headers < <(printf '%s\n' "${files[@]}" | grep -E '\.h$')
mapfile -t library < <(printf '%s\n' "${sources[@]}" | grep -E '^(profiles|planner|devices|engine)/')
mapfile -t texts < <(printf '%s\n' "${sources[@]}" "${files[@]}" | grep -E '\.([ch]|cu|cpp|cmake|sh|txt|md|in|json)$|^\.ci/run$' | sort -u)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The sources with comments and the contents of literals blanked out, line for line, so that words in them are not findings.
bare() {
    perl -0777 -e 'for my $name (@ARGV) {
        open my $in, "<", $name or die "$name: $!"; my $text = <$in>;
        $text =~ s{(/\*.*?\*/|//[^\n]*)|("|\x27)((?:\\.|(?!\2)[^\\\n])*)\2}
                  { defined $1 ? $1 =~ s/[^\n]//gr : "$2$2" }gse;
        my $line = 0; print map { $line++; "$name:$line: $_\n" } split /\n/, $text; }' "$@"
}

check_format() {
    local clang_format=clang-format
    command -v clang-format-14 >/dev/null && clang_format=clang-format-14 # the version decides on details
    "$clang_format" --dry-run -Werror "${sources[@]}" 2>&1 | grep -E '^[^ ].*: (error|warning):' | sort -u -t: -k1,1
}

check_includes() {
    local file
    for file in "${sources[@]}"; do
        local allowed
        case $file in
            profiles/*) allowed='^(engine/(base|hotset)\.h|profiles/.*)$' ;;
            planner/*) allowed='^(engine/(base|hotset)\.h|(profiles|planner)/.*)$' ;;
            devices/*) allowed='^(engine/(base|hotset)\.h|(profiles|devices)/.*)$' ;;
            engine/*) allowed='^(profiles|planner|devices|engine)/' ;;
            tools/*) allowed='^(engine/hotset\.h|tools/.*)$' ;;
            *) continue ;;
        esac
        awk -v allowed="$allowed" -v extra=" $(workshop_headers "$file") " -F'"' '
            /^[ \t]*#[ \t]*include[ \t]*"/ && $2 !~ allowed && !index(extra, " " $2 " ") {
                print FILENAME ":" FNR ": this layer may not include \"" $2 "\""
            }' "$file"
    done
}

check_headers_alone() {
    local header flags=(-I. -D_GNU_SOURCE -Wall -Wextra -Werror -Wno-psabi -fsyntax-only)
    for header in "${headers[@]}"; do
        echo "#include \"$header\"" | gcc -std=gnu11 "${flags[@]}" -x c - 2>&1
    done | grep -E ': (fatal )?error:'
    echo '#include "engine/hotset.h"' | gcc -std=c11 -pedantic-errors -I. -Wall -Wextra -Werror -fsyntax-only -x c - 2>&1
    echo '#include "engine/hotset.h"' | g++ -std=c++11 -pedantic-errors -I. -Wall -Wextra -Werror -fsyntax-only -x c++ - 2>&1
}

check_text() {
    grep -nP '\t' "${sources[@]}" | sed -E 's/^([^:]*:[0-9]+):.*/\1: tab/'
    grep -nE '[[:blank:]]+$' "${texts[@]}" | sed -E 's/^([^:]*:[0-9]+):.*/\1: blank at the end of the line/'
    grep -n $'\r' "${texts[@]}" | sed -E 's/^([^:]*:[0-9]+):.*/\1: carriage return/'
    grep -nwE 'TO''DO|FIX''ME' "${texts[@]}" | sed -E 's/^([^:]*:[0-9]+):.*/\1: unfinished work belongs into an issue/'
    LC_ALL=C grep -P '^[^:]*:[0-9]+: .*[^\x00-\x7F]' "$work/all" | sed -E 's/^([^:]*:[0-9]+):.*/\1: character outside ASCII in code/'
}

check_heads() {
    local file
    for file in "${sources[@]}"; do
        [[ $(head -n 1 "$file") == "/* ${file##*/} - "* ]] || echo "$file:1: the first line does not say what the file is for"
    done
}

# The map in README.md names every file, and no file that is not there.
check_map() {
    local file stem
    for file in "${sources[@]}" "${files[@]}"; do
        case $file in
            tests/test_*.c | tests/fuzz/*) ;; # one line for all of them
            *.c | *.h | *.cu | *.cpp | *.sh)
                stem=${file##*/}
                grep -qE "(^|[ /])${stem%.*}\.(\{[a-z,]*\b${file##*.}\b|${file##*.}\b)" README.md ||
                    echo "README.md:1: the map lacks $file"
                ;;
        esac
    done | sort -u
    awk '/^```/ { if (inside) exit; code = !code } /^profiles\/ / && code { inside = 1 }
        inside && /^[a-z]/ { folder = $1; next }
        inside { for (i = 1; i <= NF && $i ~ /\.(\{h,c\}|[ch]|sh)$/; i++) print FNR, folder $i }' README.md |
        while read -r line file; do
            for stem in "${file/\{h,c\}/h}" "${file/\{h,c\}/c}"; do
                [ -f "$stem" ] || echo "README.md:$line: the map names $stem, which is not there"
            done
        done | sort -u
}

check_orphans() {
    local file
    for file in "${sources[@]}"; do
        case $file in
            tests/*.c | tests/*.cpp)
                grep -qE "\b$(basename "${file%.*}")\b|GLOB" "$(dirname "$file")/CMakeLists.txt" ;;
            devices/gpu/*.c | *.cu) grep -qF "$file" devices/gpu/modules.cmake ;;
            *.c | *.cpp) grep -qF "$file" CMakeLists.txt ;;
        esac || echo "$file:1: no CMakeLists.txt builds this file"
    done
}

# calls FILE NAMES MESSAGE: calls of these functions in bare code; members of the same name are somebody else's.
calls() {
    NAMES=$2 MESSAGE=$3 perl -ne '
        print "$1: $ENV{MESSAGE}: $2\n" if /^([^:]*:\d+): .*?(?<![\w.>])($ENV{NAMES}) *\(/' "$1"
}

check_banned() {
    calls "$work/all" 'strcpy|sprintf|vsprintf|gets|atoi|atol|atof|strtok' 'unbounded or unchecked call'
    calls "$work/library" 'printf|vprintf|puts|putchar|perror' 'the library does not print'
    grep -E '\<(stdout|stderr)\>' "$work/library" | sed -E 's/^([^:]*:[0-9]+): .*/\1: the library does not print/'
    calls "$work/library" 'exit|_exit|quick_exit|abort' 'the library does not end the program'
    calls "$work/library" 'getenv|secure_getenv|setenv|putenv' 'the library reads no environment variables'
}

# The length of each function of the sources: LINES NAME FILE:LINE, from a line that starts with a name and ends a signature
# with "{" up to the next "}" at the margin, which is how clang-format leaves every function.
function_lengths() {
    awk 'FNR == 1 { from = 0 }
        /^[A-Za-z_]/ && !inside { from = FNR; signature = "" }
        from && !inside {
            signature = signature " " $0
            if ($0 ~ /[;=]$/) from = 0
            else if ($0 ~ /\) \{$/) inside = 1
            else if ($0 ~ /\{$|\}$/) from = 0
        }
        /^\}/ && inside {
            gsub(/__attribute__ *\(\(.*\)\)/, "", signature)
            match(signature, signature ~ /^ (Parameterized)?Test\(/ ? "Test\\(.*\\)" : "[A-Za-z_0-9]+ *\\(")
            name = substr(signature, RSTART, RLENGTH)
            gsub(/ |\($/, "", name)
            print FNR - from + 1, name, FILENAME ":" from
            from = inside = 0
        }' "${sources[@]}" | sort -rn
}

check_lengths() {
    awk -v max="$function_lines_max" '$1 > max { print $3 ": function " $2 " has " $1 " lines, limit " max }' "$work/functions"
    awk -v max="$file_lines_max" '$1 > max { print $2 ":1: the file has " $1 " lines, limit " max }' "$work/lengths"
    awk -v max="$public_header_lines_max" '$2 == "engine/hotset.h" && $1 > max {
        print $2 ":1: the public header has " $1 " lines, limit " max }' "$work/lengths"
}

check_symbols() {
    [ -f build/libhotset.so ] || { echo "note: no build in build/: symbols not checked" >&2; return; }
    nm -D --defined-only build/libhotset.so | awk '$3 !~ /^hotset_/ { print "build/libhotset.so: exports " $3 }'
    # no global state: nothing that can be written to
    objdump -t build/libhotset.a | awk '
        /^[^ ]+\.o: / { object = $1 }
        / O \.(t?data|t?bss)/ && !/ \.data\.rel\.ro/ { print object " variable " $NF " is global state of the library" }'
}

bare "${sources[@]}" >"$work/all"
bare "${library[@]}" >"$work/library"
function_lengths >"$work/functions"
wc -l "${sources[@]}" | awk '$2 != "total" { print $1, $2 }' | sort -rn >"$work/lengths"

status=0
for check in format includes headers_alone text heads map orphans banned lengths symbols; do
    "check_$check" >"$work/findings"
    if [ -s "$work/findings" ]; then
        status=1
        sed "s/^/$check: /" "$work/findings"
    fi
done
echo "longest functions:" && head -n 5 "$work/functions" | sed 's/^/  /'
echo "longest files:" && head -n 5 "$work/lengths" | sed 's/^/  /'
[ $status -ne 0 ] || echo "no findings in ${#sources[@]} sources"
exit $status
