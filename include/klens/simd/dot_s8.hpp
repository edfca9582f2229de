// Signed dot product of levels with AVX-VNNI-INT8: the weights need no bias and the accumulator no correction.
//
//   dot_s8(acc, w, x)   acc[r] += sum_{j<4} s8 w[4r+j] * s8 x[j]        vpdpbssd, 256 bits, VEX (it has no other form)
//
// int32 sums wrap. gcc 12 and clang 14 have no intrinsic; binutils 2.40 assembles it (cmake/KlensIsaFlags.cmake asks).
// With KLENS_EMULATE_VNNI_INT8 it is a loop, compiled over level avx2.
#pragma once

#include <klens/simd/dot.hpp>

namespace klens::inline KLENS_NS {

#if defined(KLENS_EMULATE_VNNI_INT8)
KLENS_NOINLINE inline void dot_s8(v16i& acc, v16i w, const std::int8_t* x) {
  std::int32_t sum[16], line[16];
  store_i(sum, acc), store_i(line, w);
  for (int r = 0; r < 16; ++r)
    for (int j = 0; j < 4; ++j) {
      const int byte = std::int8_t(std::uint32_t(line[r]) >> 8 * j);
      sum[r] = std::int32_t(std::uint32_t(sum[r]) + std::uint32_t(byte * x[j]));
    }
  acc = load_i(sum);
}
#elif defined(KLENS_HAS_VNNI_INT8)
KLENS_INLINE void dot_s8(v16i& acc, v16i w, const std::int8_t* x) {
  const __m256i b = simd::dword_of(x);
  __m256i low = acc.a.data, high = acc.b.data;
  asm("vpdpbssd %2, %1, %0" : "+x"(low) : "x"(w.a.data), "x"(b));
  asm("vpdpbssd %2, %1, %0" : "+x"(high) : "x"(w.b.data), "x"(b));
  acc.a.data = low, acc.b.data = high;
}
#endif

}  // namespace klens::inline KLENS_NS
