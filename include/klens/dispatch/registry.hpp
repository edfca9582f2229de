// Every kernel, one line each: its entry in the KernelTable, its test and its benchmark follow from it.
#pragma once

#include <klens/dispatch/table.hpp>
#include <klens/isa/native.hpp>
#include <klens/kernel/attention.hpp>
#include <klens/kernel/conv1d.hpp>
#include <klens/kernel/embed.hpp>
#include <klens/kernel/kv.hpp>
#include <klens/kernel/norm.hpp>
#include <klens/kernel/quantize_row.hpp>
#include <klens/kernel/rope.hpp>
#include <klens/kernel/scan.hpp>
#include <klens/kernel/swiglu.hpp>
#include <klens/kernel/vocab_kl.hpp>

// X(name, arguments)
#define KLENS_KERNELS(X)           \
  X(quantize_row, QuantizeRowArgs) \
  X(rms_norm, RmsNormArgs)         \
  X(mean_norm, MeanNormArgs)       \
  X(swiglu, SwigluArgs)            \
  X(rope, RopeArgs)                \
  X(kv_append, KvAppendArgs)       \
  X(attention, AttentionArgs)      \
  X(conv1d, Conv1dArgs)            \
  X(scan, ScanArgs)                \
  X(embed, EmbedArgs)              \
  X(vocab_kl, VocabKlArgs)

// X(codec): weights of each codec as linears. Floats have one scale (none), nf4 has groups, integers have either.
#define KLENS_FLOAT_CODECS(X) X(f32) X(f16) X(bf16)
#define KLENS_INTEGER_CODECS(X) X(i2) X(i3) X(i4) X(i5) X(i6) X(i8)

namespace klens::inline KLENS_NS {

/// Defined in kernel/linear.hpp, which only the units that instantiate linears include.
template <Codec C, bool Grouped, DotKind D>
void linear(const LinearArgs& a);

/// All linears of one dot kind; the array a unit defines to instantiate them.
template <DotKind D>
struct LinearKernels {
  Kernel<LinearArgs> of[codec_count][2];
};

template <DotKind D>
consteval LinearKernels<D> linear_kernels() {
  LinearKernels<D> t{};
  if constexpr (D == DotKind::f32) {
#define KLENS_LINEAR(codec) t.of[int(Codec::codec)][0] = &linear<Codec::codec, false, D>;
    KLENS_FLOAT_CODECS(KLENS_LINEAR)
#undef KLENS_LINEAR
    t.of[int(Codec::nf4)][1] = &linear<Codec::nf4, true, D>;
  }
#define KLENS_LINEAR(codec)                                    \
  t.of[int(Codec::codec)][0] = &linear<Codec::codec, false, D>; \
  t.of[int(Codec::codec)][1] = &linear<Codec::codec, true, D>;
  KLENS_INTEGER_CODECS(KLENS_LINEAR)
#undef KLENS_LINEAR
  return t;
}

/// The whole table of this unit's level.
consteval KernelTable level_kernels() {
  KernelTable t{};
  t.level = level_of_this_unit;
  const auto put = [&t](const auto& kernels, DotKind dot) {
    for (int c = 0; c < codec_count; ++c)
      for (int grouped = 0; grouped < 2; ++grouped) t.linear[c][grouped][int(dot)] = kernels.of[c][grouped];
  };
  put(linear_kernels<DotKind::f32>(), DotKind::f32);
  put(linear_kernels<DotKind::a16>(), DotKind::a16);
  put(linear_kernels<DotKind::a8>(), DotKind::a8);
#define KLENS_ENTRY(name, Args) t.name = &name;
  KLENS_KERNELS(KLENS_ENTRY)
#undef KLENS_ENTRY
  return t;
}

}  // namespace klens::inline KLENS_NS
