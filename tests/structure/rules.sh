#!/bin/sh
# Rules of the house that a grep can hold: where intrinsics, Hana, json and CLI11 may stand, what kernels must not include,
# the length of headers, and no paths of somebody's machine in committed files.
set -u
. "$(dirname "$0")/support.sh"
cd "$root" || exit 1

# Committed and new files alike; without git (an unpacked archive) everything outside build folders.
if ! git ls-files --cached --others --exclude-standard >"$work/all" 2>/dev/null || [ ! -s "$work/all" ]; then
  find . -type f -not -path './build*' -not -path './out/*' -not -path './.git/*' | sed 's|^\./||' >"$work/all"
fi
while IFS= read -r file; do [ -f "$file" ] && printf '%s\n' "$file"; done <"$work/all" >"$work/files"
grep -E '\.(hpp|cpp|h|c|inc)$' "$work/files" >"$work/code"
grep -E '^include/' "$work/code" >"$work/headers"

# Prints FILE:LINE:TEXT of code lines (comments left out) that match.
code_lines() { # EREGEX FILE_LIST
  [ -s "$2" ] || return 0
  PATTERN=$1 xargs awk '{ line = $0; sub(/\/\/.*/, "", line) } line ~ ENVIRON["PATTERN"] { print FILENAME ":" FNR ":" line }' <"$2"
}

pattern='(^|[^A-Za-z0-9_])(_mm[0-9]*_[a-z0-9_]+|__m(128|256|512)[id]?|_tile_[a-z]+|__builtin_ia32_[a-z0-9_]+)|#[ ]*include[ ]*<([a-z]*intrin)\.h>|(^|[^A-Za-z0-9_])asm([^A-Za-z0-9_]|$)|__asm__'
grep -vE '^include/klens/(simd|isa)/' "$work/code" | grep -v '^include/klens/core/denormals.hpp$' >"$work/list"
code_lines "$pattern" "$work/list" | grep -v "__builtin_ia32_pause" >"$work/faults"  # a hint to a waiting thread, no arithmetic
tell "intrinsics and inline assembly live in include/klens/simd/ (CPUID in isa/, MXCSR in core/denormals.hpp)" "$work/faults"

grep -v '^include/klens/core/meta.hpp$' "$work/code" | grep -v '^tests/core/meta' >"$work/list"
code_lines 'boost/hana|boost::hana' "$work/list" >"$work/faults"
tell "Boost.Hana stands in core/meta.hpp only" "$work/faults"
printf '%s\n' include/klens/core/meta.hpp >"$work/list"
[ -f include/klens/core/meta.hpp ] && code_lines '<boost/hana\.hpp>' "$work/list" >"$work/faults"
tell "core/meta.hpp names the headers of Hana it needs, never all of it" "$work/faults"

grep -E '^include/klens/(kernel|simd)/' "$work/headers" >"$work/list"
code_lines '#[ ]*include[ ]*<(vector|string|iostream|functional|map|unordered_map|memory|thread|mutex|cstdio|fstream|sstream)>' "$work/list" >"$work/faults"
tell "kernel/ and simd/ include no containers, strings, streams, threads" "$work/faults"
code_lines '(^|[^A-Za-z0-9_])(throw|new|malloc|printf|std::vector|std::string)([^A-Za-z0-9_]|$)' "$work/list" >"$work/faults"
tell "kernel/ and simd/ allocate, print and throw nothing" "$work/faults"

grep -vE '^include/klens/(io|lens|report)/' "$work/headers" >"$work/list"
code_lines '#[ ]*include[ ]*<(nlohmann|fmt)/' "$work/list" >"$work/faults"
tell "nlohmann/json and fmt stay in io, lens and report" "$work/faults"
grep -vE '^examples/' "$work/code" >"$work/list"
code_lines '#[ ]*include[ ]*<CLI/' "$work/list" >"$work/faults"
tell "CLI11 stays in examples/" "$work/faults"

grep -E '^include/klens/(core|format|isa|simd|kernel|plan|dispatch|component)/' "$work/headers" >"$work/list"
code_lines '(^|[^A-Za-z0-9_])(throw|try|catch|typeid|dynamic_cast)([^A-Za-z0-9_]|$)' "$work/list" >"$work/faults"
tell "core to component build without exceptions and RTTI" "$work/faults"

code_lines 'XSIMD_WITH|xsimd::(supported_architectures|default_arch|best_arch|available_architectures)' "$work/headers" >"$work/faults"
tell "no use of xsimd's own detection or default architecture (its meaning changes with the flags of the unit)" "$work/faults"

: >"$work/faults"
while IFS= read -r file; do
  lines=$(wc -l <"$file")
  if [ "$lines" -gt 400 ] && ! head -n 1 "$file" | grep -qi 'lines'; then
    echo "$file: $lines lines, and line 1 does not say why (name the word 'lines')" >>"$work/faults"
  fi
  grep -q '^#pragma once' "$file" || echo "$file: no #pragma once" >>"$work/faults"
  head -n 1 "$file" | grep -q '^//' || echo "$file: no file comment on line 1" >>"$work/faults"
done <"$work/headers"
tell "headers" "$work/faults"

# The patterns are written so that they do not match themselves.
grep -E '\.(hpp|cpp|h|md|sh|cmake|txt|json|in|yml)$|(^|/)(run|\.clang-format)$' "$work/files" |
  grep -vE '^(examples/data|examples/models|tests/data)/' >"$work/list"
xargs grep -nHE '(^|[^A-Za-z0-9_.$}])/(work|root|home/[a-z]+)/[A-Za-z]|shared/[r]eference' <"$work/list" >"$work/faults"
tell "paths of somebody's machine" "$work/faults"

xargs grep -nHE '(^|[^A-Za-z])(TO[D]O|FIX[M]E|X[X]X|place[h]older)([^A-Za-z]|$)' <"$work/list" >"$work/faults"
tell "unfinished work" "$work/faults"

finish "$(wc -l <"$work/code" | tr -d ' ') sources, $(wc -l <"$work/list" | tr -d ' ') texts"
