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
# Instructions that a level's CPU may lack, and a level without its own: assembled here, so that no compiler flag is needed.
cat >"$work/dots.s" <<'EOS'
here:
  vpdpbusd %ymm16, %ymm1, %ymm2
  vdpbf16ps %zmm0, %zmm1, %zmm2
  tdpbsud %tmm2, %tmm1, %tmm0
EOS
"$1" -c "$work/dots.s" -o "$work/dots.o" || echo "does not assemble" >>"$work/faults"
for pair in 'avx_vnni EVEX form' 'avx512 vpdpbusd' 'avx512_vnni vdpbf16ps' 'avx512_bf16 tdpbsud'; do
  if sh "$here/objects.sh" "${pair%% *}" "$work/dots.o" >"$work/output"; then echo "${pair%% *}: foreign instructions pass" >>"$work/faults"; fi
  grep -qF -- "${pair#* }" "$work/output" || echo "not seen: $pair" >>"$work/faults"
done
printf 'here:\n  nop\n' >"$work/none.s"
"$1" -c "$work/none.s" -o "$work/none.o"
for bare in avx512_vnni avx512_bf16 amx_int8 avx_vnni_int8; do
  if sh "$here/objects.sh" "$bare" "$work/none.o" >/dev/null; then echo "$bare without its dot products passes" >>"$work/faults"; fi
done
if sh "$here/objects.sh" baseline "$work/bad.o" >/dev/null; then echo "zmm in a baseline object passes" >>"$work/faults"; fi
tell "objects.sh" "$work/faults"
finish "a wrong object is seen"
