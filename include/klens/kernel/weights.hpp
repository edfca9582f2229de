// Reading packed weights: four consecutive inputs of a unit as a u8 line (16 rows x 4 bytes) for integer dots, or input
// k as 16 floats. Callers pass literals for the indices, so that a unit unrolls to loads, shifts and masks.
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
template <Codec C>
inline constexpr int zero_shift = bits_of(C) - 1;  // zero_point == 1 << zero_shift

/// Codecs whose weights are small unsigned codes; the others are floats.
template <Codec C>
inline constexpr bool has_codes = is_integer(C) || C == Codec::nf4;

/// How a code becomes a float: by arithmetic (float_at), or looked up in registers.
///   table    nf4; integers of 256 bits, where a register holds 8 floats, of at most 3 bits: one permutation of floats
///   halves   integers of at most 4 bits on AVX-512: the code in the lower half of a dword by a permutation of floats, the one in
///            the upper half by a permutation of bf16 into the upper halves, the lower ones zero. Two inputs share a shift
///   words    5 and 6 bits on AVX-512: one permutation of half dwords makes bf16 of two of a dword's four codes, exact for such
///            small integers, and a shift and a mask make floats of those: 7 instructions for four. float_at takes 9; a table of
///            32 floats 7, but all on the ports of shifts and permutations. Zen 5, 16 weights with their fma on registers: 0.81
///            cycles, float_at 1.0; staged GEMV (gemv_chain.hpp) in L1: w6 1.04, float_at 1.31, w5 1.02, table 1.13. For w3 2 to
///            4 % faster for one token, 2 % slower for two: left
enum class Lookup { none, table, halves, words };
template <Codec C>
inline constexpr Lookup lookup_of = [] {
  if (C == Codec::nf4) return Lookup::table;
  if (!is_integer(C)) return Lookup::none;
  if (vector_registers == 32) return bits_of(C) <= 4 ? Lookup::halves : bits_of(C) <= 6 ? Lookup::words : Lookup::none;
  return vector_registers == 16 && bits_of(C) <= 3 ? Lookup::table : Lookup::none;
}();

/// float(q) of the code in the low bits of an index 0..15, whose other bits do not matter; named by level, as
/// nf4_levels is.
struct SixteenFloats { float of[16]; };
template <int Bits, int At>
inline constexpr SixteenFloats code_levels = [] {
  SixteenFloats t{};
  for (int i = 0; i < 16; ++i) t.of[i] = float((i >> At & ((1 << Bits) - 1)) - bias_of(Bits));
  return t;
}();

/// bf16(q) of the code in the low bits of an index 0..63, whose other bits do not matter.
struct SixtyFourWords { std::uint16_t of[64]; };
template <int Bits, int At>
inline constexpr SixtyFourWords code_words = [] {
  SixtyFourWords t{};
  for (int i = 0; i < 64; ++i)
    t.of[i] = std::uint16_t(std::bit_cast<std::uint32_t>(float((i >> At & ((1 << Bits) - 1)) - bias_of(Bits))) >> 16);
  return t;
}();

/// The tables of a codec in registers; empty where it has none.
template <Codec C, Lookup L = lookup_of<C>>
struct Levels {};
template <int Bits, int At = 0>
KLENS_INLINE v16i words_from(int first) { return load_i(reinterpret_cast<const std::int32_t*>(code_words<Bits, At>.of + first)); }
template <Codec C>
struct Levels<C, Lookup::table> {
  v16f table;
  KLENS_INLINE Levels() : table(load(C == Codec::nf4 ? nf4_levels : code_levels<bits_of(C), 0>.of)) {}
};
/// [1]: of codes at bit 2, which crumb lines have.
template <Codec C>
struct Levels<C, Lookup::halves> {
  v16f table[C == Codec::i2 ? 2 : 1];
  v16i words[C == Codec::i2 ? 2 : 1];
  KLENS_INLINE Levels() {
    table[0] = load(code_levels<bits_of(C), 0>.of), words[0] = words_from<bits_of(C)>(0);
    if constexpr (C == Codec::i2) table[1] = load(code_levels<2, 2>.of), words[1] = words_from<2, 2>(0);
  }
};
/// `words` of at most 5 bits are one register, the second a copy.
template <Codec C>
struct Levels<C, Lookup::words> {
  v16i words, more;
  KLENS_INLINE Levels() : words(words_from<bits_of(C)>(0)), more(words_from<bits_of(C)>(32)) {}
};

/// Bit of a byte at which codes<C>(unit, i) holds its code.
template <Codec C>
KLENS_INLINE constexpr int code_at(int i) {
  return C == Codec::i4 || C == Codec::nf4 ? 4 * i : C == Codec::i2 ? 2 * i : 0;
}

KLENS_INLINE constexpr std::int32_t every_byte(int mask) { return std::int32_t(0x01010101u * std::uint32_t(mask)); }

/// Codes of inputs 4i..4i+3 of a unit, one per byte at bit code_at<C>(i). Clean: other bits of the byte are 0, else
/// noise.
template <Codec C, bool Clean = false>
KLENS_INLINE v16i codes(const unsigned char* unit, int i) {
  static_assert(has_codes<C>);
  // On 32 registers the three lines of w3 stay in them, for floats: a load of 64 bytes takes a cycle. A 4-bit line gcc 12
  // would fold into each of its shifts, and load it eight times; eight lines of w2 it would keep for all of a unit and
  // spill 44 times in 128 products (gemv, 8 panels).
  const auto line = [unit](int n) KLENS_INLINE_LAMBDA {
    constexpr bool kept = vector_registers == 32 && !Clean && C == Codec::i3;
    constexpr bool again = codec_unit<C>.lines > 1 || vector_registers == 16 || (!Clean && bits_of(C) <= 4);
    return again && !kept ? load_line_again(unit + n * line_bytes) : load_line(unit + n * line_bytes);
  };
  [[maybe_unused]] const auto both = [](int low_bits, v16i low, v16i high) KLENS_INLINE_LAMBDA {
    const std::int32_t mask = every_byte((1 << low_bits) - 1), all = every_byte((1 << bits_of(C)) - 1);
    return Clean ? join_bits(mask, low, all ^ mask, high) : merge_bits(mask, low, high);
  };
  if constexpr (C == Codec::i6)
    return both(4, move_bits(line(i / 2), 4 * (i % 2), 0), move_bits(line(4 + i / 4), 2 * (i % 4), 4));
  else if constexpr (C == Codec::i5) return both(4, move_bits(line(i / 2), 4 * (i % 2), 0), move_bits(line(4), i, 4));
  else if constexpr (C == Codec::i3) return both(2, move_bits(line(i / 4), 2 * (i % 4), 0), move_bits(line(2), i, 2));
  else return line(0);
}

/// Inputs 4i..4i+3, u8, biased by zero_point<C>, of a unit that is this one line.
template <Codec C>
KLENS_INLINE v16i u8_of(v16i line, int i) {
  if constexpr (C == Codec::i8) return line;
  else return move_bits(line, code_at<C>(i), 0) & splat_i(every_byte((1 << bits_of(C)) - 1));
}

/// The same of any unit.
template <Codec C>
KLENS_INLINE v16i u8_line(const unsigned char* unit, int i) {
  static_assert(is_integer(C));
  const v16i four = codes<C, true>(unit, i);
  if constexpr (codec_unit<C>.lines > 1) return four;
  else return u8_of<C>(four, i);
}

/// float(q) of the code at bit `at` of every dword, at + bits <= 23, without a conversion: it becomes the low mantissa
/// bits of 2^(23 - at), and that plus the zero point is subtracted.
template <Codec C>
KLENS_INLINE v16f float_at(v16i v, int at) {
  return from_bits(masked_or(v, ((1 << bits_of(C)) - 1) << at, (150 - at) << 23)) -
      splat(float(1 << (23 - at)) + float(zero_point<C>));
}

/// float(q), or the nf4 level, of byte j of codes<C>(unit, i): exact. By table: shift and permute; else float_at. Zen 4,
/// 16 weights with their fma, cycles in a loop on registers of 512 bits: by table of 16 1.62, float_at 2.0, behind a shift
/// 2.4; shift, mask, convert and subtract 3.0. Zen 5 has four vector ports, of which two take FMA, two permutations, one of them
/// the same, and two shifts and additions, one of them the other that permutes. `Alone`, with one FMA each, a subtraction for one
/// permutation in eight evens them out; four tokens have FMA enough and no registers for its constants. GEMV of one token in L3,
/// cycles per 16 weights, each code shifted and looked up, by halves, and so: w4 0.89, 0.83, 0.80, w2 0.82, 0.82, 0.78.
template <Codec C, bool Alone = false>
KLENS_INLINE v16f float_of_code(v16i codes, [[maybe_unused]] const Levels<C>& levels, int i, int j) {
  const int at = 8 * j + code_at<C>(i);
  if constexpr (lookup_of<C> == Lookup::table && is_integer(C)) {
    return from_bits(lookup8(bits(levels.table), move_bits(codes, at, 0)));
#if defined(KLENS_HAS_AVX512)
  } else if constexpr (lookup_of<C> == Lookup::words) {
    // Inputs j and j + 2 share the look-up.
    const v16i index = j % 2 == 0 ? codes : shr16(codes, 8);
    const v16i two = bits_of(C) == 6 ? lookup_words(levels.words, levels.more, index) : lookup_words(levels.words, index);
    return from_bits(j < 2 ? shl(two, 16) : two & splat_i(std::int32_t(0xffff0000u)));
  } else if constexpr (lookup_of<C> == Lookup::halves) {
    // Inputs j and j + 2 share the index: their codes are at bits low and 16 + low. clang 14 would spill the constants.
    const int low = C == Codec::i2 ? at % 4 : 0;
    const v16i index = move_bits(codes, at % 16 - low, 0);
    if (Alone && !is_clang && j == 2 && (C == Codec::i4 ? i == 1 : C == Codec::i2 && low == 0)) return float_at<C>(index, 16);
    return j < 2 ? lookup16(levels.table[low / 2], index) : from_bits(lookup_upper_words(levels.words[low / 2], index));
#endif
  } else if constexpr (lookup_of<C> == Lookup::table) {
    return lookup16(levels.table, codes, at);
  } else {
    // 32 registers hold the constants of the positions below bit 23, which saves most shifts; 16 those of one.
    const int kept = vector_registers < 32 ? 0 : bits_of(C) <= 6 ? 8 * (j % 3) : 8 * (j % 2);
    return float_at<C>(move_bits(codes, at, kept), kept);
  }
}

/// Input k of a unit of a float codec.
template <Codec C>
KLENS_INLINE v16f value(const unsigned char* unit, int k) {
  static_assert(is_float(C));
  if constexpr (C == Codec::f32) return load(reinterpret_cast<const float*>(unit));
  else if constexpr (C == Codec::f16) return load_half(reinterpret_cast<const half*>(unit) + 16 * k);
  else {
    // AVX-512: hot GEMV 94 us for 8 MB from L3, read for each of the two 123 (Zen 4). 16 registers would spill: 165.
    const v16i pair = vector_registers == 32 ? load_line_once(unit) : load_line(unit);
    return from_bits(k == 0 ? shl(pair, 16) : pair & splat_i(std::int32_t(0xffff0000u)));
  }
}

/// f(k, w) for the inputs of a unit in order, w the 16 weights of input k as floats.
template <Codec C, class F>
KLENS_INLINE void for_each_input(const unsigned char* unit, [[maybe_unused]] const Levels<C>& levels, const F& f) {
  constexpr int inputs = codec_unit<C>.inputs;
  if constexpr (has_codes<C>)
    unroll<inputs / 4>([&](int i) KLENS_INLINE_LAMBDA {
      const v16i four = codes<C>(unit, i);
      unroll<4>([&](int j) KLENS_INLINE_LAMBDA { f(4 * i + j, float_of_code<C>(four, levels, i, j)); });
    });
  else unroll<inputs>([&](int k) KLENS_INLINE_LAMBDA { f(k, value<C>(unit, k)); });
}

}  // namespace klens::inline KLENS_NS
