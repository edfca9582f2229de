// The linears of one dot kind as an array: what a level's table is made of, and what a unit defines to instantiate them.
#pragma once

#include <klens/isa/native.hpp>
#include <klens/kernel/kinds.hpp>
#include <klens/kernel/linear_args.hpp>

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

}  // namespace klens::inline KLENS_NS
