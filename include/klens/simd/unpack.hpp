// D-line planes to u8 lines (16 rows x 4 consecutive inputs), and stored codes to floats. The layouts are those of
// format/dline.hpp; everything is shifts and masks of dwords, the same on every level.
#pragma once

#include <klens/simd/v16f.hpp>

namespace klens::inline KLENS_NS {

KLENS_INLINE v16i load_line(const unsigned char* p) {
  return load_i(reinterpret_cast<const std::int32_t*>(p));
}

/// The same, for several uses of one register. As operands of each use gcc 12 would read the line as often, and Zen 4
/// reads 64 bytes a cycle: w4a8 in L1 takes 3.6 cycles per line so, read once 2.9.
KLENS_INLINE v16i load_line_once(const unsigned char* p) {
  v16i line = load_line(p);
#if defined(KLENS_HAS_AVX512)
  asm("" : "+v"(line.v.data));
#elif defined(KLENS_HAS_AVX2)
  asm("" : "+x"(line.a.data), "+x"(line.b.data));
#endif
  return line;
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

#if defined(__clang__)
inline constexpr bool is_clang = true;
#else
inline constexpr bool is_clang = false;
#endif

/// At 256 bits clang 14 spills where gcc 12 does not (tests/structure/spills.sh): its scheduler unpacks several steps
/// of a tile before their products (i2, one token of two panels: 98 stack accesses for 64 products, 2.4 times as slow),
/// and of two opposite shifts it makes a mask, one constant more (nf4: 2 for 32). What is done about it leaves gcc's
/// code alone: there nf4 of two tokens would be 3 % slower with clang's lookup16.
#if defined(__clang__) && defined(KLENS_HAS_AVX2) && !defined(KLENS_HAS_AVX512)
inline constexpr bool clang_spills = true;
/// The same codes, which are there to be unpacked only once `before` is known.
KLENS_INLINE v16i after(v16f before, v16i codes) {
  __m256i low = simd::reg(codes.a), high = simd::reg(codes.b);
  asm("" : "+x"(low), "+x"(high) : "x"(simd::reg(before.a)), "x"(simd::reg(before.b)));
  return simd::lanes_i(low, high);
}
#else
inline constexpr bool clang_spills = false;
KLENS_INLINE v16i after(const v16f&, v16i codes) { return codes; }
#endif

/// A value the compiler knows nothing of: it keeps one register for it, and offsets from it go into instructions.
template <class E>
KLENS_INLINE const E* opaque(const E* p) {
  asm("" : "+r"(p));
  return p;
}

/// Bits moved from position `from` to position `to`.
KLENS_INLINE v16i move_bits(v16i a, int from, int to) {
  return from > to ? shr(a, from - to) : from < to ? shl(a, to - from) : a;
}

/// Bits at .. at + bits - 1 of each half dword, as int16: a shift, a mask or both. Pass literals, at + bits <= 16.
KLENS_INLINE v16i field16(v16i a, int at, int bits) {
  const int mask = (1 << bits) - 1;
#if defined(KLENS_HAS_AVX512)
  if (at + bits == 16) return simd::lanes_i(_mm512_srli_epi16(simd::reg(a), at));
#elif defined(KLENS_HAS_AVX2)
  if (at + bits == 16) return simd::lanes_i(_mm256_srli_epi16(simd::reg(a.a), at), _mm256_srli_epi16(simd::reg(a.b), at));
#endif
  return move_bits(a, at, 0) & splat_i(mask << 16 | mask);
}

/// (a & mask) | b, the bits of a where mask is set and of b elsewhere, and (a | b) & (low | high) for a's bits in low
/// and b's in high: one instruction, or two, on AVX-512. Pass literals. The instruction replaces its first operand: a, which is
/// new each time, where the mask would be copied.
#if defined(KLENS_HAS_AVX512)
KLENS_INLINE v16i masked_or(v16i a, std::int32_t mask, std::int32_t b) {
  return simd::lanes_i(_mm512_ternarylogic_epi32(simd::reg(a), simd::reg(splat_i(mask)), simd::reg(splat_i(b)), 0xea));
}
KLENS_INLINE v16i merge_bits(std::int32_t mask, v16i a, v16i b) {
  return simd::lanes_i(_mm512_ternarylogic_epi32(simd::reg(a), simd::reg(splat_i(mask)), simd::reg(b), 0xe2));
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

#if defined(KLENS_HAS_AVX512)
/// table[code & 63], half dword by half dword; of one register table[code & 31].
KLENS_INLINE v16i lookup_words(v16i low, v16i high, v16i codes) {
  return simd::lanes_i(_mm512_permutex2var_epi16(simd::reg(low), simd::reg(codes), simd::reg(high)));
}
KLENS_INLINE v16i lookup_words(v16i table, v16i codes) {
  return simd::lanes_i(_mm512_permutexvar_epi16(simd::reg(codes), simd::reg(table)));
}
/// The same of one register in the upper halves, the lower ones zero.
KLENS_INLINE v16i lookup_upper_words(v16i table, v16i codes) {
  return simd::lanes_i(_mm512_maskz_permutexvar_epi16(0xaaaaaaaau, simd::reg(codes), simd::reg(table)));
}
KLENS_INLINE v16i shr16(v16i a, int n) { return simd::lanes_i(_mm512_srli_epi16(simd::reg(a), unsigned(n))); }
#endif

/// table[codes >> at & 15], lane by lane; at <= 28, a literal.
#if defined(KLENS_HAS_AVX512)
KLENS_INLINE v16f lookup16(v16f table, v16i codes, int at = 0) {
  return simd::lanes_f(_mm512_permutexvar_ps(simd::reg(move_bits(codes, at, 0)), simd::reg(table)));
}
#elif defined(KLENS_HAS_AVX2)
namespace simd {
KLENS_INLINE __m256 lookup8(v16f table, __m256i index, [[maybe_unused]] __m256i codes, [[maybe_unused]] int at) {
  const __m256 low = _mm256_permutevar8x32_ps(reg(table.a), index);
  const __m256 high = _mm256_permutevar8x32_ps(reg(table.b), index);
  // Bit 3 of the index, as the sign.
  const __m256i sign = clang_spills ? _mm256_slli_epi32(codes, 28 - at) : _mm256_slli_epi32(index, 28);
  return _mm256_blendv_ps(low, high, _mm256_castsi256_ps(sign));
}
}  // namespace simd
KLENS_INLINE v16f lookup16(v16f table, v16i codes, int at = 0) {
  const v16i index = move_bits(codes, at, 0);
  return simd::lanes_f(simd::lookup8(table, simd::reg(index.a), simd::reg(codes.a), at),
                       simd::lookup8(table, simd::reg(index.b), simd::reg(codes.b), at));
}
#else
KLENS_INLINE v16f lookup16(v16f table, v16i codes, int at = 0) {
  return simd::each<v16f>([&](int i) { return table.v[codes.v[i] >> at & 15]; });
}
#endif

}  // namespace klens::inline KLENS_NS
