// Reading packed weights: for integer codecs four consecutive inputs of a unit as a u8 line (16 rows x 4 bytes), for
// the others input k as 16 floats. Callers pass literals for the indices, so that a unit unrolls to loads, shifts and
// masks.
#pragma once

#include <klens/format/codec.hpp>
#include <klens/isa/native.hpp>
#include <klens/kernel/kinds.hpp>
#include <klens/simd/unpack.hpp>
#include <klens/simd/unroll.hpp>

namespace klens::inline KLENS_NS {

template <Codec C>
inline constexpr Unit codec_unit = unit_of(bits_of(C), grid_of(C));

template <Codec C>
inline constexpr int unit_bytes = codec_unit<C>.lines * line_bytes;

/// What is added to q to make it unsigned.
template <Codec C>
inline constexpr int zero_point = bias_of(bits_of(C));

/// Codes of at most 4 bits become floats by one permutation of a 16-entry table where a register holds one (AVX-512:
/// shift and permute, 2 instructions per 16 weights; shift, mask, convert and subtract would be 4).
template <Codec C>
inline constexpr bool by_table = C == Codec::nf4 || (is_integer(C) && bits_of(C) <= 4 && vector_registers == 32);

/// float(q) of codes 0..15 for the narrow integer codecs; named by level, as nf4_levels is.
template <int Zero>
inline constexpr float integer_levels[16] = {0.0f - Zero,  1.0f - Zero,  2.0f - Zero,  3.0f - Zero,
                                             4.0f - Zero,  5.0f - Zero,  6.0f - Zero,  7.0f - Zero,
                                             8.0f - Zero,  9.0f - Zero,  10.0f - Zero, 11.0f - Zero,
                                             12.0f - Zero, 13.0f - Zero, 14.0f - Zero, 15.0f - Zero};

/// The table of a codec in a register; empty where it has none.
template <Codec C, bool Table = by_table<C>>
struct Levels {};
template <Codec C>
struct Levels<C, true> {
  v16f table;
  KLENS_INLINE Levels() : table(load(C == Codec::nf4 ? nf4_levels : integer_levels<zero_point<C>>)) {}
};

/// Inputs 4i..4i+3 of a unit, u8, biased by zero_point<C>.
template <Codec C>
KLENS_INLINE v16i u8_line(const unsigned char* unit, int i) {
  static_assert(is_integer(C));
  const unsigned char* const nibble = unit + i / 2 * line_bytes;
  const unsigned char* const crumb = unit + i / 4 * line_bytes;
  if constexpr (C == Codec::i8) return load_line(unit);
  else if constexpr (C == Codec::i6)
    return nibbles(load_line(nibble), i % 2) | crumbs(load_line(crumb + 4 * line_bytes), i % 4, 4);
  else if constexpr (C == Codec::i5)
    return nibbles(load_line(nibble), i % 2) | one_bits(load_line(unit + 4 * line_bytes), i, 4);
  else if constexpr (C == Codec::i4) return nibbles(load_line(unit), i);
  else if constexpr (C == Codec::i3)
    return crumbs(load_line(crumb), i % 4) | one_bits(load_line(unit + 2 * line_bytes), i, 2);
  else return crumbs(load_line(unit), i);
}

/// float(q) of byte j of a u8 line: exact. The table ignores index bits 4 and up, and a narrow byte has none set below
/// them.
template <Codec C>
KLENS_INLINE v16f float_of_byte(v16i line, [[maybe_unused]] const Levels<C>& levels, int j) {
  if constexpr (by_table<C>) return lookup16(levels.table, move_bits(line, 8 * j, 0));
  else return to_float(byte_of(line, j)) - splat(float(zero_point<C>));
}

/// Value of input k of a unit of a codec without integers: the float, or the nf4 level.
template <Codec C>
KLENS_INLINE v16f value(const unsigned char* unit, [[maybe_unused]] const Levels<C>& levels, int k) {
  static_assert(!is_integer(C));
  if constexpr (C == Codec::f32) return load(reinterpret_cast<const float*>(unit));
  else if constexpr (C == Codec::f16) return load_half(reinterpret_cast<const half*>(unit) + 16 * k);
  else if constexpr (C == Codec::bf16) {
    const v16i pair = load_line(unit);
    return from_bits(k == 0 ? shl(pair, 16) : pair & splat_i(std::int32_t(0xffff0000u)));
  } else return lookup16(levels.table, move_bits(load_line(unit), 8 * (k % 4) + 4 * (k / 4), 0));
}

}  // namespace klens::inline KLENS_NS
