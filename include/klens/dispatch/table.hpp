// KernelTable: what an ISA level's translation units export, and all that a baseline caller needs to know of them.
#pragma once

#include <klens/isa/level.hpp>
#include <klens/kernel/args.hpp>

namespace klens {

/// How a linear's weights are stored, as a table index.
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

template <class Args>
using Kernel = void (*)(const Args&);

/// Function pointers of one level. linear[codec][0: row scale, 1: groups][dot kind]; combinations that do not exist are null.
struct KernelTable {
  Level level;
  Kernel<LinearArgs> linear[codec_count][2][dot_kind_count];
  Kernel<QuantizeRowArgs> quantize_row;
  Kernel<RmsNormArgs> rms_norm;
  Kernel<MeanNormArgs> mean_norm;
  Kernel<SwigluArgs> swiglu;
  Kernel<RopeArgs> rope;
  Kernel<KvAppendArgs> kv_append;
  Kernel<AttentionArgs> attention;
  Kernel<Conv1dArgs> conv1d;
  Kernel<ScanArgs> scan;
  Kernel<EmbedArgs> embed;
  Kernel<VocabKlArgs> vocab_kl;
};

/// The linear kernel of a precision in a table.
KLENS_INLINE constexpr Kernel<LinearArgs> linear_of(const KernelTable& table, const Precision& p) {
  const int grouped = p.scheme.scale == Granularity::group;
  return table.linear[int(codec_of(p))][grouped][int(dot_kind_of(p))];
}

}  // namespace klens
