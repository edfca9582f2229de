// The port bound of a linear: how long a level's vector units need for its instructions, if nothing else cost anything.
//
// Counts are 16-lane registers (one zmm, two ymm) per 64 weights = 16 outputs x 4 inputs, as simd/peaks.hpp counts:
//
//   multiply, per token   f32 rows 4 fma; a16 2 dot_s16; a8 1 dot_u8 with VNNI. Without VNNI a16 and a8 2 vpmaddwd, each
//                         with an add; a8 of 4 bits and fewer 1 vpmaddubsw and 1/8 vpmaddwd (at its rate), of eight with
//                         8 adds: 7 of products, 1 of their sum. Tiles of amx_int8 1/256 tile (a8, 16 tokens and more);
//                         linear_fast 2 dot_bf16
//   unpack, once          unpack_counts: shortest sequences known, from the packed line in a register to the operand
//   fold, per token       groups of g inputs: 4/g of convert and fma (f32 rows: of fma); 4/g of half for the scales
//
// Unpacking counts once for up to 8 tokens, as a GEMM of them does it (kernel/linear.hpp, gemm_from); of more tokens the
// multiplications alone count. Loads, stores and address arithmetic count nothing.
//
//   time = max( each class / its measured rate,  all counts / the best measured rate of any mix )
#pragma once

#include <klens/kernel/args.hpp>
#include <klens/kernel/kinds.hpp>
#include <klens/simd/peaks.hpp>

#include <algorithm>
#include <array>

namespace klens::cli {

/// Counts per port; `mixed` is unused.
using PortCounts = std::array<double, port_count>;

/// What integer rows are multiplied by: u8 lines (VNNI, and 4 bits and fewer without it), or both halves as int16.
inline bool multiplies_bytes(Codec c, DotKind d, bool vnni) {
  return d == DotKind::a8 && (vnni || (is_integer(c) && bits_of(c) <= 4));
}

/// Unpacking 64 weights to f32 (four registers), u8 (one) or s16 (two). Per codec, for levels of 512 (`wide`) / 256
/// bits:
///   codes    w3, w5, w6: both planes moved into place and merged, 1 ternary operation / and, and, or
///   to u8    the codes (w4: shift every other time; w2: three times in four), then one and for those with other bits
///   to s16   w8, w6, w5, w3: the u8 line, then and (even bytes), shift (odd bytes); w4, w2: shift and and of each half
///   to f32   512 bits, 4 bits and fewer: a permutation, of floats or of bf16 into upper halves, and a shift for every two
///   inputs but those at bits 0 and 16 (w2: for every eight but those); w5, w6: a permutation of bf16 for every two inputs,
///   a shift for every other of those, then shift or and; w8: shift (inputs 2, 3), and-or (the mantissa of a power of two),
///   subtract. 256 bits: shift, and, convert, subtract; w3, w2 shift and permutation
///   floats   f16 convert; bf16 shift or and; nf4 as w4, on 256 bits two permutations and a blend by a shifted sign
inline PortCounts unpack_counts(Codec c, DotKind d, bool wide, bool bytes) {
  PortCounts n{};
  const auto add = [&](Port p, double count) { n[std::size_t(p)] += count; };
  if (c == Codec::f32) return n;
  if (c == Codec::f16) return add(Port::half, 4), n;
  if (c == Codec::bf16) return add(Port::shift, 2), add(Port::logic, 2), n;
  const bool two_planes = c == Codec::i3 || c == Codec::i5 || c == Codec::i6;
  if (two_planes)
    add(Port::logic, wide ? 1 : 3), add(Port::shift, c == Codec::i3 ? 1.625 : c == Codec::i5 ? 1.375 : 1.25);
  if (d == DotKind::f32) {
    const bool packed = c == Codec::i4 || c == Codec::nf4 || c == Codec::i2;  // at their place in the line
    if (c == Codec::nf4 && !wide)
      add(Port::shift, 3.5 + 4), add(Port::shuffle, 8), add(Port::logic, 4);
    else if (c == Codec::nf4 || (!wide && bits_of(c) <= 3))
      add(Port::shift, packed ? 3.5 : 3), add(Port::shuffle, 4);
    else if (wide && bits_of(c) <= 4)
      add(Port::shift, c == Codec::i4 ? 1.5 : c == Codec::i3 ? 1 : 0.75), add(Port::shuffle, 4);
    else if (wide && bits_of(c) <= 6)
      add(Port::shift, 3), add(Port::shuffle, 2), add(Port::logic, 2);
    else if (wide)
      add(Port::shift, 2), add(Port::logic, 8);
    else
      add(Port::shift, packed ? 3.5 : 3), add(Port::logic, packed ? 7.5 : 7), add(Port::convert, 4);
  } else if (bytes) {
    if (c == Codec::i4 || c == Codec::i2) add(Port::shift, c == Codec::i4 ? 0.5 : 0.75);
    if (bits_of(c) <= 4 || (two_planes && wide)) add(Port::logic, c == Codec::i3 && !wide ? 0 : 1);
  } else if (c == Codec::i4 || c == Codec::i2)
    add(Port::logic, c == Codec::i4 ? 1.5 : 1.75), add(Port::shift, c == Codec::i4 ? 1.5 : 1.75);
  else
    add(Port::logic, 1), add(Port::shift, 1);
  return n;
}

/// Seconds of `tokens` rows times `weights` weights on a level with these measured rates (counts per second, 0: no such
/// port). `multiply`: of the multiplications alone; `port`: the class that bounds the whole.
struct PortTime {
  double seconds = 0, multiply = 0;
  Port multiplier = Port::fma, port = Port::fma;
};

struct PortWork {
  Codec codec;
  DotKind dot;
  int group;  // inputs per scale, 0: none
  bool fast;  // linear_fast
  int tokens;
  double weights;
};

inline PortTime port_time(const std::array<double, port_count>& rate, Level level, const PortWork& w) {
  PortTime t;
  const auto of = [&](Port p) { return rate[std::size_t(p)]; };
  const bool wide = level >= Level::avx512, vnni = of(Port::dot_u8) > 0;
  if (of(Port::fma) <= 0) return t;  // ref: no vector unit is claimed
  const double lines = w.weights / 64;
  const auto only = [&](Port port, double count) {
    t.multiplier = t.port = port;
    t.multiply = t.seconds = lines * count * w.tokens / of(port);
    return t;
  };
  if (w.fast) return only(Port::dot_bf16, 2);
  if (w.dot == DotKind::a8 && level == Level::amx_int8 && w.tokens >= 16) return only(Port::tile_u8, 1.0 / 256);
  const bool bytes = multiplies_bytes(w.codec, w.dot, vnni);
  const Port multiplier = w.dot == DotKind::f32 ? Port::fma : bytes && vnni ? Port::dot_u8 : Port::dot_s16;
  const double products = w.dot == DotKind::f32 ? 4 : !bytes ? 2 : vnni ? 1 : 1.125;
  only(multiplier, products);
  if (w.tokens > gemv_tokens) return t;

  PortCounts n = unpack_counts(w.codec, w.dot, wide, bytes);
  n[std::size_t(multiplier)] += products * w.tokens;
  if (multiplier == Port::dot_s16 && !vnni) n[std::size_t(Port::logic)] += (bytes ? 1 : products) * w.tokens;
  if (w.group > 0) {
    const double folds = 4.0 / w.group;
    n[std::size_t(Port::fma)] += folds * w.tokens, n[std::size_t(Port::half)] += folds;
    if (w.dot != DotKind::f32) n[std::size_t(Port::convert)] += folds * w.tokens;
  }
  double all = 0;
  for (int p = 0; p < port_count; ++p) {
    const double count = n[std::size_t(p)];
    all += count;
    if (count > 0 && rate[std::size_t(p)] > 0 && lines * count / rate[std::size_t(p)] > t.seconds)
      t.seconds = lines * count / rate[std::size_t(p)], t.port = Port(p);
  }
  const double any = std::max({of(Port::logic), of(Port::mixed), of(multiplier)});
  if (lines * all / any > t.seconds) t.seconds = lines * all / any, t.port = Port::mixed;
  return t;
}

/// What a limit is called in tables: the multiplier's peak, or "unpack" where other instructions bound.
inline std::string_view name_of(Port port) {
  switch (port) {
    case Port::fma: return "FMA peak";
    case Port::dot_u8: return "u8-dot peak";
    case Port::dot_s16: return "int16-multiply peak";
    case Port::dot_bf16: return "bf16-dot peak";
    case Port::tile_u8: return "tile peak";
    default: return "unpack";
  }
}

}  // namespace klens::cli
