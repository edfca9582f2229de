#!/bin/sh
# The C++ of the documents compiles: every block ```cpp of README.md and docs/ is a whole file; a block whose first line is
# "// FILE" for a file of this repository is that file, word for word.
# usage: snippets.sh COMPILER
set -u
. "$(dirname "$0")/support.sh"
compiler=$1
cd "$root" || exit 1
count=0
: >"$work/faults"
for document in README.md docs/*.md docs/*/*.md; do
  [ -f "$document" ] || continue
  rm -f "$work"/block*
  awk -v out="$work/block" '
    /^```cpp[ \t]*$/ { n++; inside = 1; file = sprintf("%s%02d.cpp", out, n); next }
    /^```/ { inside = 0 }
    inside { print > file }' "$document"
  for block in "$work"/block*.cpp; do
    [ -f "$block" ] || continue
    count=$((count + 1))
    first=$(sed -n '1s|^// \([A-Za-z0-9_./-]*\.[ch]pp\).*|\1|p' "$block")
    if [ -n "$first" ] && [ -f "$first" ]; then
      sed 1d "$block" >"$work/excerpt"
      # The file may begin with comments of its own.
      sed -n '/^#include/,$p' "$first" >"$work/whole"
      sed -n '/^#include/,$p' "$work/excerpt" >"$work/shown"
      if ! cmp -s "$work/whole" "$work/shown"; then echo "$document: block $count differs from $first" >>"$work/faults"; fi
    fi
    if ! "$compiler" -std=c++20 -fsyntax-only -ffp-contract=off -Wall -Wextra -Iinclude "$block" >"$work/log" 2>&1; then
      echo "$document: block $count: $(grep -m1 error "$work/log")" >>"$work/faults"
    fi
  done
done
tell "code in the documents" "$work/faults"
if [ "$count" -eq 0 ]; then
  echo "no block of C++ found" >"$work/none"
  tell "documents" "$work/none"
fi
finish "$count blocks of C++ in the documents compile"
