// bf16 dot product of levels with AVX512_BF16, for the policy `fast` alone:
//
//   dot_bf16(acc, w, x)   acc[r] += w[2r] * x[0] + w[2r + 1] * x[1]     bf16 pairs, fp32 sums
//   round_bf16(a)         the 16 floats as bf16, nearest even, NaN stays NaN, in the low halves of the lanes
//
// vdpbf16ps rounds its two products' sums as the CPU likes and flushes denormals: not the bits of fma_step.
#pragma once

#include <klens/simd/dot.hpp>

namespace klens::inline KLENS_NS {

#if defined(KLENS_HAS_BF16)
/// x: shared_input of two inputs (dot.hpp).
KLENS_INLINE void dot_bf16(v16f& acc, v16i w, v16i x) {
  __m512 a = acc.v.data;
  asm("vdpbf16ps %2, %1, %0" : "+v"(a) : "v"(w.v.data), "v"(x.v.data));
  acc.v.data = a;
}
KLENS_INLINE void dot_bf16(v16f& acc, v16i w, const bf16* x) {
  __m512 a = acc.v.data;
  asm("vdpbf16ps %2%{1to16%}, %1, %0" : "+v"(a) : "v"(w.v.data), "m"(*reinterpret_cast<const bf16(*)[2]>(x)));
  acc.v.data = a;
}
#endif

KLENS_INLINE v16i round_bf16(v16f a) {
  const v16i u = bits(a), odd = shr(u, 16) & splat_i(1);
  const v16i rounded = shr(u + splat_i(0x7fff) + odd, 16);
  return select(eq(a, a), rounded, shr(u, 16) | splat_i(0x40));
}

}  // namespace klens::inline KLENS_NS
