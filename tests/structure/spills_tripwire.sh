#!/bin/sh
# spills.sh must see what it is there for, and nothing else: loops of both kinds in assembly, and a tile that no
# compiler can hold in registers.
# usage: spills_tripwire.sh COMPILER
set -u
. "$(dirname "$0")/support.sh"

# bad_*: inside the loop a store, an operand of a product, a load over the frame pointer, a load in a block that stands
# behind the loop's end, a load in a loop that is entered at its test. good_*: the stack outside of the inner loop,
# %rbp as a plain pointer, a general register reloaded, a loop that multiplies nothing.
cat >"$work/linear.s" <<'EOS2'
.text
.globl bad_store, bad_operand, bad_frame, bad_aside, bad_test, good_outer, good_pointer, good_general, good_idle
bad_store:
1: vpdpbusd (%rdi){1to16}, %zmm1, %zmm0
   vmovdqa64 %zmm0, -64(%rsp)
   dec %ecx
   jnz 1b
   ret
bad_operand:
1: vfmadd231ps -64(%rsp), %zmm1, %zmm0
   dec %ecx
   jnz 1b
   ret
bad_frame:
   push %rbp
   mov %rsp, %rbp
1: vmovaps -32(%rbp), %ymm2
   vpmaddwd %ymm2, %ymm1, %ymm0
   dec %ecx
   jnz 1b
   pop %rbp
   ret
bad_aside:
1: vfmadd231ps (%rdi), %ymm1, %ymm0
   test %ecx, %edx
   jz 3f
2: dec %ecx
   jnz 1b
   ret
3: vmovaps -32(%rsp), %ymm1
   jmp 2b
bad_test:
   jmp 2f
1: {vex} vpdpbusd (%rdi), %ymm1, %ymm0
   vmovdqa -32(%rsp), %ymm1
2: dec %ecx
   jnz 1b
   ret
good_outer:
1: vmovaps -64(%rsp), %zmm0
   mov %edx, %ecx
2: vfmadd231ps (%rdi){1to16}, %zmm1, %zmm0
   dec %ecx
   jnz 2b
   vmovaps %zmm0, -64(%rsp)
   dec %esi
   jnz 1b
   vmovaps -64(%rsp), %zmm0
   ret
good_pointer:
   push %rbp
   mov %rdi, %rbp
1: vfmadd231ps (%rbp), %ymm1, %ymm0
   add $32, %rbp
   dec %ecx
   jnz 1b
   pop %rbp
   ret
good_general:
1: mov -8(%rsp), %rax
   vfmadd231ps (%rax), %ymm1, %ymm0
   dec %ecx
   jnz 1b
   ret
good_idle:
1: vmovaps -32(%rsp), %ymm0
   vmovaps %ymm0, (%rdi)
   dec %ecx
   jnz 1b
2: vfmadd231ps (%rdi), %ymm1, %ymm0
   dec %edx
   jnz 2b
   ret
EOS2
: >"$work/faults"
"$1" -c "$work/linear.s" -o "$work/linear_a.o" || echo "linear.s: does not assemble" >>"$work/faults"
if sh "$here/spills.sh" tripwire "$work/linear_a.o" >"$work/output"; then echo "spills pass" >>"$work/faults"; fi
grep -o '[a-z]*_[a-z]*: loop at' "$work/output" | sed 's/: loop at//' | sort >"$work/seen"
printf '%s\n' bad_aside bad_frame bad_operand bad_store bad_test >"$work/expected"
diff "$work/seen" "$work/expected" | sed -n 's/^</not a spill: /p; s/^>/not seen: /p' >>"$work/faults"
grep -q '^tripwire: 9 functions, 9 inner loops, 5 vector spills, 1 general' "$work/output" ||
  sed 's/^/counted: /' "$work/output" >>"$work/faults"

# 40 accumulators do not fit in 32 registers.
cat >"$work/linear.cpp" <<'EOS2'
#include <immintrin.h>
void tile(float* y, const float* w, const float* x, long stride, int n) {
  __m512 acc[40];
  for (int i = 0; i < 40; ++i) acc[i] = _mm512_setzero_ps();
  for (int k = 0; k < n; ++k) {
    const __m512 line = _mm512_loadu_ps(w + 16 * k);
#pragma GCC unroll 40
    for (int i = 0; i < 40; ++i) acc[i] = _mm512_fmadd_ps(line, _mm512_set1_ps(x[i * stride + k]), acc[i]);
  }
  for (int i = 0; i < 40; ++i) _mm512_storeu_ps(y + 16 * i, acc[i]);
}
EOS2
"$1" -O2 -march=x86-64-v4 -mprefer-vector-width=512 -c "$work/linear.cpp" -o "$work/linear_b.o" ||
  echo "linear.cpp: does not compile" >>"$work/faults"
if sh "$here/spills.sh" tripwire "$work/linear_b.o" >"$work/output"; then
  echo "40 accumulators in 32 registers pass" >>"$work/faults"
fi
grep -q 'tile(float.*: loop at .* on the stack' "$work/output" || sed 's/^/compiled: /' "$work/output" >>"$work/faults"

# Nothing to look at is no success.
cp "$work/linear_a.o" "$work/other.o"
if sh "$here/spills.sh" tripwire "$work/other.o" >/dev/null; then echo "no linear object passes" >>"$work/faults"; fi
tell "spills.sh" "$work/faults"
finish "5 spills seen, 4 clean functions passed"
