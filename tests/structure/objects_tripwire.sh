#!/bin/sh
# objects.sh must see what it is there for: a weak symbol, a strong symbol, and an instruction of another level.
# usage: objects_tripwire.sh COMPILER
set -u
. "$(dirname "$0")/support.sh"
cat >"$work/bad.cpp" <<'EOS'
inline int weak(int x) { return x * 3; }
int (*pointer)(int) = weak;
void add(float* a, const float* b) { for (int i = 0; i < 1024; ++i) a[i] += b[i]; }
EOS
: >"$work/faults"
"$1" -O3 -march=x86-64-v4 -mprefer-vector-width=512 -c "$work/bad.cpp" -o "$work/bad.o" || echo "does not compile" >>"$work/faults"
if sh "$here/objects.sh" avx2 "$work/bad.o" >"$work/output"; then echo "a bad object passes" >>"$work/faults"; fi
for expected in 'weak(int)' 'add(float' '%zmm'; do
  grep -qF -- "$expected" "$work/output" || echo "not seen: $expected" >>"$work/faults"
done
if sh "$here/objects.sh" baseline "$work/bad.o" >/dev/null; then echo "zmm in a baseline object passes" >>"$work/faults"; fi
tell "objects.sh" "$work/faults"
finish "a wrong object is seen"
