#!/bin/sh
# Every file here must fail to compile, with a message that holds each text of its "// expect:" lines; with KLENS_REPAIRED
# defined, the mistake repaired, it must compile, so that nothing fails for another reason.
# usage: CXX=g++ sh run.sh INCLUDE_FOLDER
set -u
here=$(cd "$(dirname "$0")" && pwd)
include=${1:-$here/../../include}
compiler=${CXX:-c++}
failed=0
count=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT
for file in "$here"/*.cpp; do
  name=$(basename "$file")
  count=$((count + 1))
  if ! "$compiler" -std=c++20 -fsyntax-only -DKLENS_REPAIRED -I"$include" "$file" > "$log" 2>&1; then
    echo "FAILED $name: does not compile with the mistake repaired"
    cat "$log"
    failed=1
    continue
  fi
  if "$compiler" -std=c++20 -fsyntax-only -I"$include" "$file" > "$log" 2>&1; then
    echo "FAILED $name: compiles"
    failed=1
    continue
  fi
  expected=$(sed -n 's|^// expect: ||p' "$file")
  if [ -z "$expected" ]; then
    echo "FAILED $name: has no '// expect:' line"
    failed=1
  fi
  while IFS= read -r text; do
    if ! grep -qF -- "$text" "$log"; then
      echo "FAILED $name: message without '$text'"
      cat "$log"
      failed=1
    fi
  done <<EXPECTED
$expected
EXPECTED
done
[ "$failed" -eq 0 ] && echo "$count wrong programs are refused with the right words ($compiler)"
exit "$failed"
