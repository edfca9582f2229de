// Reading packed weights: for every Codec, input k of a unit as 16 floats (one per output row), and, for integer codecs, four
// consecutive inputs as a u8 line. All indices are constants, so that a unit unrolls to loads, shifts and masks.
#pragma once

#include <klens/format/codec.hpp>
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

/// The 16 levels of a codec that has a table (nf4); empty otherwise.
template <Codec C>
struct Levels {
  KLENS_INLINE Levels() {}
};
template <>
struct Levels<Codec::nf4> {
  v16f table;
  KLENS_INLINE Levels() : table(load(nf4_levels)) {}
};

/// Inputs 4I..4I+3 of a unit, u8, biased by zero_point<C>.
template <Codec C, int I>
KLENS_INLINE v16i u8_line(const unsigned char* unit) {
  static_assert(is_integer(C) && 4 * I < codec_unit<C>.inputs);
  constexpr int nibble = I / 2 * line_bytes, crumb = I / 4 * line_bytes;
  if constexpr (C == Codec::i8) return load_line(unit);
  else if constexpr (C == Codec::i6) return nibbles<I % 2>(load_line(unit + nibble)) | crumbs<I % 4, 4>(load_line(unit + 4 * line_bytes + crumb));
  else if constexpr (C == Codec::i5) return nibbles<I % 2>(load_line(unit + nibble)) | one_bits<I, 4>(load_line(unit + 4 * line_bytes));
  else if constexpr (C == Codec::i4) return nibbles<I>(load_line(unit));
  else if constexpr (C == Codec::i3) return crumbs<I % 4>(load_line(unit + crumb)) | one_bits<I, 2>(load_line(unit + 2 * line_bytes));
  else return crumbs<I>(load_line(unit));
}

/// float(q) of byte J of a u8 line: exact.
template <Codec C, int J>
KLENS_INLINE v16f float_of_byte(v16i line) { return to_float(byte_of<J>(line)) - splat(float(zero_point<C>)); }

/// value of input K of a unit: float(q), the nf4 level, or the float itself.
template <Codec C, int K>
KLENS_INLINE v16f value(const unsigned char* unit, [[maybe_unused]] const Levels<C>& levels) {
  static_assert(K < codec_unit<C>.inputs);
  if constexpr (C == Codec::f32) return load(reinterpret_cast<const float*>(unit));
  else if constexpr (C == Codec::f16) return load_half(reinterpret_cast<const half*>(unit) + 16 * K);
  else if constexpr (C == Codec::bf16) {
    const v16i pair = load_line(unit);
    return from_bits(K == 0 ? shl(pair, 16) : pair & splat_i(std::int32_t(0xffff0000u)));
  } else if constexpr (C == Codec::nf4) {
    constexpr int shift = 8 * (K % 4) + 4 * (K / 4);
    const v16i codes = load_line(unit);
    return lookup16(levels.table, shift == 0 ? codes : shr(codes, shift));
  } else return float_of_byte<C, K % 4>(u8_line<C, K / 4>(unit));
}

}  // namespace klens::inline KLENS_NS
