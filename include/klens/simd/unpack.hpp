// D-line planes to u8 lines (16 rows x 4 consecutive inputs), and stored codes to floats. The layouts are those of
// format/dline.hpp; everything is shifts and masks of dwords, the same on every level.
#pragma once

#include <klens/simd/v16f.hpp>

namespace klens::inline KLENS_NS {

KLENS_INLINE v16i load_line(const unsigned char* p) {
  return load_i(reinterpret_cast<const std::int32_t*>(p));
}

/// The same value, of which the compiler keeps nothing for later use: with 16 registers it would hold shifted lines of one
/// quarter for the next and spill accumulators (gcc 12, avx2).
KLENS_INLINE v16i not_kept(v16i a) {
#if defined(KLENS_HAS_AVX2) && !defined(KLENS_HAS_AVX512)
  asm volatile("" : "+x"(a.a.data), "+x"(a.b.data));
#endif
  return a;
}

/// Bits moved from position `from` to position `to`.
KLENS_INLINE v16i move_bits(v16i a, int from, int to) {
  return from > to ? shr(a, from - to) : from < to ? shl(a, to - from) : a;
}

/// (a & mask) | b, and the bits of a where mask is set, of b elsewhere: one instruction each on AVX-512. Pass literals.
#if defined(KLENS_HAS_AVX512)
KLENS_INLINE v16i masked_or(v16i a, std::int32_t mask, std::int32_t b) {
  return simd::lanes_i(_mm512_ternarylogic_epi32(simd::reg(a), simd::reg(splat_i(mask)), simd::reg(splat_i(b)), 0xea));
}
KLENS_INLINE v16i merge_bits(std::int32_t mask, v16i a, v16i b) {
  return simd::lanes_i(_mm512_ternarylogic_epi32(simd::reg(splat_i(mask)), simd::reg(a), simd::reg(b), 0xca));
}
#else
KLENS_INLINE v16i masked_or(v16i a, std::int32_t mask, std::int32_t b) { return (a & splat_i(mask)) | splat_i(b); }
KLENS_INLINE v16i merge_bits(std::int32_t mask, v16i a, v16i b) { return ((a ^ b) & splat_i(mask)) ^ b; }
#endif

/// table[index & 15], lane by lane.
#if defined(KLENS_HAS_AVX512)
KLENS_INLINE v16f lookup16(v16f table, v16i index) {
  return simd::lanes_f(_mm512_permutexvar_ps(simd::reg(index), simd::reg(table)));
}
#elif defined(KLENS_HAS_AVX2)
namespace simd {
KLENS_INLINE __m256 lookup8(v16f table, __m256i index) {
  const __m256 low = _mm256_permutevar8x32_ps(reg(table.a), index);
  const __m256 high = _mm256_permutevar8x32_ps(reg(table.b), index);
  // Bit 3 of the index, as the sign.
  return _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(index, 28)));
}
}  // namespace simd
KLENS_INLINE v16f lookup16(v16f table, v16i index) {
  return simd::lanes_f(simd::lookup8(table, simd::reg(index.a)), simd::lookup8(table, simd::reg(index.b)));
}
#else
KLENS_INLINE v16f lookup16(v16f table, v16i index) {
  return simd::each<v16f>([&](int i) { return table.v[index.v[i] & 15]; });
}
#endif

}  // namespace klens::inline KLENS_NS
