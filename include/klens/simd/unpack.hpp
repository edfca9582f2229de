// D-line planes to u8 lines (16 rows x 4 consecutive inputs), and stored codes to floats. The layouts are those of
// format/dline.hpp; everything is shifts and masks of dwords, the same on every level.
#pragma once

#include <klens/simd/v16f.hpp>

namespace klens::inline KLENS_NS {

KLENS_INLINE v16i load_line(const unsigned char* p) {
  return load_i(reinterpret_cast<const std::int32_t*>(p));
}

/// The same, read again each time: gcc 12 would keep lines in registers for later quarters of a unit and spill
/// accumulators for them.
KLENS_INLINE v16i load_line_again(const unsigned char* p) {
#if defined(KLENS_HAS_AVX512)
  __m512i line;
  asm volatile("vmovdqu32 %1, %0" : "=v"(line) : "m"(*reinterpret_cast<const unsigned char(*)[64]>(p)));
  return simd::lanes_i(line);
#elif defined(KLENS_HAS_AVX2)
  __m256i low, high;
  asm volatile("vmovdqu %1, %0" : "=x"(low) : "m"(*reinterpret_cast<const unsigned char(*)[32]>(p)));
  asm volatile("vmovdqu %1, %0" : "=x"(high) : "m"(*reinterpret_cast<const unsigned char(*)[32]>(p + 32)));
  return simd::lanes_i(low, high);
#else
  return load_line(p);
#endif
}

/// Bits moved from position `from` to position `to`.
KLENS_INLINE v16i move_bits(v16i a, int from, int to) {
  return from > to ? shr(a, from - to) : from < to ? shl(a, to - from) : a;
}

/// (a & mask) | b, the bits of a where mask is set and of b elsewhere, and (a | b) & (low | high) for a's bits in low
/// and b's in high: one instruction, or two, on AVX-512. Pass literals.
#if defined(KLENS_HAS_AVX512)
KLENS_INLINE v16i masked_or(v16i a, std::int32_t mask, std::int32_t b) {
  return simd::lanes_i(_mm512_ternarylogic_epi32(simd::reg(a), simd::reg(splat_i(mask)), simd::reg(splat_i(b)), 0xea));
}
KLENS_INLINE v16i merge_bits(std::int32_t mask, v16i a, v16i b) {
  return simd::lanes_i(_mm512_ternarylogic_epi32(simd::reg(splat_i(mask)), simd::reg(a), simd::reg(b), 0xca));
}
KLENS_INLINE v16i join_bits(std::int32_t low, v16i a, std::int32_t high, v16i b) {
  return merge_bits(low, a, b) & splat_i(low | high);
}
#else
KLENS_INLINE v16i masked_or(v16i a, std::int32_t mask, std::int32_t b) { return (a & splat_i(mask)) | splat_i(b); }
KLENS_INLINE v16i merge_bits(std::int32_t mask, v16i a, v16i b) { return ((a ^ b) & splat_i(mask)) ^ b; }
KLENS_INLINE v16i join_bits(std::int32_t low, v16i a, std::int32_t high, v16i b) {
  return (a & splat_i(low)) | (b & splat_i(high));
}
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
