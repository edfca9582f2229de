// Causal depthwise convolution over time with optional SiLU (kernel/args.hpp, Conv1dArgs); lane = channel.
//
//   y[t] = act(fma(w[K-1], x[t], ... fma(w[1], x[t-K+2], fma(w[0], x[t-K+1], bias))))        K = taps, 2 to 4
//
// The chain starts from the bias and takes the taps in order, so any chunking of the tokens gives the bits of stepping.
// The last K - 1 inputs are kept in registers along the tokens and in `state` between calls. In the last, partial group
// of channels only real channels are read (the rest counts as 0), whole vectors are written. y may be x.
// Bytes per element: 4 read, 4 written. Error: <= (K + 1) 2^-24 (|bias| + sum |w x|), then silu's 3 ulp.
// Oracle: tests/oracle/sequence.hpp, conv1d; test tests/kernel/conv1d.cpp.
#pragma once

#include <klens/kernel/args.hpp>
#include <klens/simd/math.hpp>

namespace klens::inline KLENS_NS {
namespace conv1d_detail {

template <int Taps>
KLENS_INLINE void convolve_group(const Conv1dArgs& a, std::int64_t first) {
  const std::int64_t padded = round_up(a.channels, lanes);
  const int n = a.channels - first < lanes ? int(a.channels - first) : lanes;
  v16f w[Taps], past[Taps - 1];
#pragma GCC unroll 4
  for (int k = 0; k < Taps; ++k) w[k] = load(a.weight + k * padded + first);
#pragma GCC unroll 4
  for (int k = 0; k < Taps - 1; ++k) past[k] = load(a.state + k * padded + first);
  const v16f bias = a.bias != nullptr ? load(a.bias + first) : zero();
  for (int t = 0; t < a.tokens; ++t) {
    const float* from = a.x + t * a.x_stride + first;
    const v16f x = n == lanes ? load(from) : load_n(from, n);
    v16f sum = bias;
#pragma GCC unroll 4
    for (int k = 0; k < Taps - 1; ++k) sum = fma(w[k], past[k], sum);
    sum = fma(w[Taps - 1], x, sum);
    store(a.y + t * a.y_stride + first, a.silu ? silu(sum) : sum);
#pragma GCC unroll 4
    for (int k = 0; k < Taps - 2; ++k) past[k] = past[k + 1];
    past[Taps - 2] = x;
  }
#pragma GCC unroll 4
  for (int k = 0; k < Taps - 1; ++k) store(a.state + k * padded + first, past[k]);
}

}  // namespace conv1d_detail

inline void conv1d(const Conv1dArgs& a) {
  for (int group = a.begin; group < a.end; ++group) {
    const std::int64_t first = std::int64_t(group) * lanes;
    switch (a.taps) {
      case 2: conv1d_detail::convolve_group<2>(a, first); break;
      case 3: conv1d_detail::convolve_group<3>(a, first); break;
      default: KLENS_ASSERT(a.taps == 4); conv1d_detail::convolve_group<4>(a, first); break;
    }
  }
}

}  // namespace klens::inline KLENS_NS
