// What a linear kernel is compiled for: how its weights are stored (Codec), what it multiplies (DotKind). Both are
// table indices as well.
#pragma once

#include <klens/format/scheme.hpp>

namespace klens {

/// How a linear's weights are stored.
enum class Codec : int { f32, f16, bf16, nf4, i2, i3, i4, i5, i6, i8 };
inline constexpr int codec_count = 10;

KLENS_INLINE constexpr Codec codec_of(const Precision& p) {
  switch (p.scheme.grid) {
    case Grid::f32: return Codec::f32;
    case Grid::f16: return Codec::f16;
    case Grid::bf16: return Codec::bf16;
    case Grid::nf4: return Codec::nf4;
    case Grid::uniform: break;
  }
  return p.weight_bits == 8 ? Codec::i8 : Codec(int(Codec::i2) + p.weight_bits - 2);
}

/// Which integers a linear multiplies. Float and nf4 weights always take f32 rows (a quantized row is widened exactly).
enum class DotKind : int { f32, a16, a8 };
inline constexpr int dot_kind_count = 3;

KLENS_INLINE constexpr DotKind dot_kind_of(const Precision& p) {
  if (p.scheme.grid != Grid::uniform || p.activation == Activation::f32) return DotKind::f32;
  return p.activation == Activation::a16 ? DotKind::a16 : DotKind::a8;
}

KLENS_INLINE constexpr bool is_integer(Codec c) { return int(c) >= int(Codec::i2); }
KLENS_INLINE constexpr bool is_float(Codec c) { return int(c) <= int(Codec::bf16); }
KLENS_INLINE constexpr int bits_of(Codec c) {
  switch (c) {
    case Codec::f32: return 32;
    case Codec::f16:
    case Codec::bf16: return 16;
    case Codec::nf4: return 4;
    case Codec::i8: return 8;
    default: return int(c) - int(Codec::i2) + 2;
  }
}
KLENS_INLINE constexpr Grid grid_of(Codec c) {
  switch (c) {
    case Codec::f32: return Grid::f32;
    case Codec::f16: return Grid::f16;
    case Codec::bf16: return Grid::bf16;
    case Codec::nf4: return Grid::nf4;
    default: return Grid::uniform;
  }
}

/// The combinations that exist: floats have no groups, nf4 nothing else; integer dots need integer weights.
KLENS_INLINE constexpr bool linear_exists(Codec c, bool grouped, DotKind d) {
  if (is_float(c)) return !grouped && d == DotKind::f32;
  if (c == Codec::nf4) return grouped && d == DotKind::f32;
  return true;
}

}  // namespace klens
