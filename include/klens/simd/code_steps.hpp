// Four inputs of two panels of codes times f32 rows, on the 16 registers of AVX2 alone: one block of assembly.
//
// A code becomes a float as in kernel/weights.hpp, float_at: the low mantissa bits of a power of two, from which that and the
// zero point are subtracted; exact. The instructions stand in the order in which they run: two panels are four chains and hide
// the fma; from intrinsics gcc 12 spills 60 times in 128 products. Zen 4, w6, 16 weights: 3.5 cycles; one panel by intrinsics
// 4.2.
#pragma once

#include <klens/simd/v16f.hpp>

#include <bit>
#include <cstdint>

namespace klens::inline KLENS_NS {

#if defined(KLENS_HAS_AVX2) && !defined(KLENS_HAS_AVX512)
/// acc[p] = fma(float(code - Zero), x[j], acc[p]), j = 0..3, for codes of Bits bits at bit 0 of each byte j of two panels.
template <int Bits, int Zero>
struct CodeSteps {
  struct alignas(32) Lanes { std::uint32_t of[8]; };
  static constexpr Lanes every(std::uint32_t bits) {
    Lanes t{};
    for (std::uint32_t& lane : t.of) lane = bits;
    return t;
  }
  static constexpr int code_mask = (1 << Bits) - 1;
  static constexpr Lanes mask8 = every(code_mask << 8);
  static constexpr Lanes zero0 = every(std::bit_cast<std::uint32_t>(float(1 << 23) + float(Zero)));
  static constexpr Lanes zero8 = every(std::bit_cast<std::uint32_t>(float(1 << 15) + float(Zero)));
  __m256i mask0 = _mm256_set1_epi32(code_mask);
  __m256i exponent0 = _mm256_set1_epi32(150 << 23), exponent8 = _mm256_set1_epi32(142 << 23);

  KLENS_INLINE void operator()(v16f (&acc)[2], v16i codes0, v16i codes1, const float* x) const {
    __m256 a0 = simd::reg(acc[0].a), a1 = simd::reg(acc[0].b), a2 = simd::reg(acc[1].a), a3 = simd::reg(acc[1].b), w, b;
    __m256i c0 = simd::reg(codes0.a), c1 = simd::reg(codes0.b), c2 = simd::reg(codes1.a), c3 = simd::reg(codes1.b);
#define KLENS_STEP(r, at)                                                                                            \
  "vpand %[m" #at "], %[c" #r "], %[w]\n vpor %[e" #at "], %[w], %[w]\n vsubps %[z" #at "], %[w], %[w]\n"             \
  "vfmadd231ps %[b], %[w], %[a" #r "]\n"
#define KLENS_STEPS(j, at)                                                                                           \
  "vbroadcastss %[x" #j "], %[b]\n" KLENS_STEP(0, at) KLENS_STEP(1, at) KLENS_STEP(2, at) KLENS_STEP(3, at)
    asm(KLENS_STEPS(0, 0) KLENS_STEPS(1, 8)
        "vpsrld $16, %[c0], %[c0]\n vpsrld $16, %[c1], %[c1]\n vpsrld $16, %[c2], %[c2]\n vpsrld $16, %[c3], %[c3]\n"
        KLENS_STEPS(2, 0) KLENS_STEPS(3, 8)
        : [a0] "+x"(a0), [a1] "+x"(a1), [a2] "+x"(a2), [a3] "+x"(a3), [c0] "+x"(c0), [c1] "+x"(c1), [c2] "+x"(c2),
          [c3] "+x"(c3), [w] "=&x"(w), [b] "=&x"(b)
        : [m0] "x"(mask0), [m8] "m"(mask8), [e0] "x"(exponent0), [e8] "x"(exponent8), [z0] "m"(zero0), [z8] "m"(zero8),
          [x0] "m"(x[0]), [x1] "m"(x[1]), [x2] "m"(x[2]), [x3] "m"(x[3]));
#undef KLENS_STEPS
#undef KLENS_STEP
    acc[0] = simd::lanes_f(a0, a1), acc[1] = simd::lanes_f(a2, a3);
  }
};
#endif

}  // namespace klens::inline KLENS_NS
