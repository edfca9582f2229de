// D-line planes to u8 lines (16 rows x 4 consecutive inputs), and stored codes to floats. The layouts are those of
// format/dline.hpp; everything is shifts and masks of dwords, the same on every level.
#pragma once

#include <klens/simd/v16f.hpp>

namespace klens::inline KLENS_NS {

KLENS_INLINE v16i load_line(const unsigned char* p) {
  return load_i(reinterpret_cast<const std::int32_t*>(p));
}

/// Bits moved from position `from` to position `to`.
KLENS_INLINE v16i move_bits(v16i a, int from, int to) {
  return from > to ? shr(a, from - to) : from < to ? shl(a, to - from) : a;
}

/// Inputs 4i..4i+3 of a nibble (crumb, bit) line, one per byte, the value at bit `to` of it. Pass literals.
KLENS_INLINE v16i nibbles(v16i line, int i) { return move_bits(line, 4 * i, 0) & splat_i(0x0f0f0f0f); }
KLENS_INLINE v16i crumbs(v16i line, int i, int to = 0) {
  return move_bits(line, 2 * i, to) & splat_i(0x03030303 << to);
}
KLENS_INLINE v16i one_bits(v16i line, int i, int to) { return move_bits(line, i, to) & splat_i(0x01010101 << to); }

/// Byte j of every dword, as an unsigned integer.
KLENS_INLINE v16i byte_of(v16i line, int j) {
  return j == 3 ? shr(line, 24) : move_bits(line, 8 * j, 0) & splat_i(255);
}

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
