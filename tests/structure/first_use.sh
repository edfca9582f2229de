#!/bin/sh
# The program of the first page: fifteen lines, one -I, nothing to link, the machine's own level; it compiles and runs.
# usage: first_use.sh COMPILER
set -u
. "$(dirname "$0")/support.sh"
file=$root/examples/01_quantize.cpp
lines=$(sed -n '/^int main/,/^}/p' "$file" | sed '1d;$d' | grep -c '[^ ]')
: >"$work/faults"
if [ "$lines" -gt 15 ]; then echo "$file: $lines lines in main, expected at most 15" >>"$work/faults"; fi
for flags in "-O2 -march=native" "-O0"; do
  # shellcheck disable=SC2086
  if ! "$1" -std=c++20 $flags -I"$root/include" "$file" -o "$work/first" >"$work/log" 2>&1; then
    echo "$flags: $(grep -m1 -E 'error|undefined' "$work/log")" >>"$work/faults"
  elif ! "$work/first" >"$work/output" 2>&1; then
    echo "$flags: ends with an error: $(head -n 1 "$work/output")" >>"$work/faults"
  else
    cat "$work/output"
  fi
done
tell "the first program" "$work/faults"
finish "$lines lines, one -I, nothing to link"
