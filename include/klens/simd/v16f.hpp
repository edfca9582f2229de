// v16f, v16i, m16: 16 virtual lanes on every ISA level, so that elementwise code and reductions give the same bits on
// all.
//
//   avx512*   one 512-bit register             avx2, avx_vnni   two 256-bit registers (lanes 0-7, 8-15)
//   ref       plain arrays, written to be the twin of the hardware instruction, lane by lane
//
//   memory       load store load_n store_n load_upto store_upto load_i store_i load_i8 load_u8 load_i16 load_half store_half load_bf16
//   float        splat zero + - * / fma(a,b,c) = a*b+c rounded once, min max (a < b ? a : b, as the hardware does),
//                abs neg sqrt round_even
//   compare      lt le gt ge eq (ordered: false with NaN)  -> m16 & | !, any, all, first_n, select(m, a, b)
//   integer      splat_i + - * & | ^ shl shr (logical) sar eq_i gt_i min_i max_i lookup8
//   convert      to_int (nearest even; out of range: INT_MIN) to_float bits from_bits through_half
//   reduce       sum max_of min_of sum_i: the fixed tree (i, i+8), (i, i+4), (i, i+2), (i, i+1)
//
// Loads and stores may be unaligned. *_n touch only the first n lanes (0 <= n <= 16); the others read as zero.
#pragma once

#include <klens/config.hpp>
#include <klens/core/half.hpp>

#if defined(KLENS_HAS_AVX512)
#include <klens/simd/v16_avx512.hpp>
#elif defined(KLENS_HAS_AVX2)
#include <klens/simd/v16_avx2.hpp>
#else
#include <klens/simd/v16_ref.hpp>
#endif

namespace klens::inline KLENS_NS {

KLENS_INLINE v16f zero() { return splat(0.0f); }
/// The first n of 16 floats, and zeros; all where n >= 16, without the mask: what most vectors of a row are.
KLENS_INLINE v16f load_upto(const float* p, int n) { return n >= 16 ? load(p) : load_n(p, n); }
KLENS_INLINE void store_upto(float* p, v16f a, int n) {
  if (n >= 16) store(p, a);
  else store_n(p, a, n);
}
KLENS_INLINE v16f neg(v16f a) { return from_bits(bits(a) ^ splat_i(std::int32_t(0x80000000u))); }
KLENS_INLINE m16 gt(v16f a, v16f b) { return lt(b, a); }
KLENS_INLINE m16 ge(v16f a, v16f b) { return le(b, a); }
/// (a * b) - c in one rounding, and c - a * b in one rounding.
KLENS_INLINE v16f fms(v16f a, v16f b, v16f c) { return fma(a, b, neg(c)); }
KLENS_INLINE v16f fnma(v16f a, v16f b, v16f c) { return fma(neg(a), b, c); }

}  // namespace klens::inline KLENS_NS
