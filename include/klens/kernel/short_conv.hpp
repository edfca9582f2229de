// LFM2's gated short convolution (kernel/args.hpp, ShortConvArgs); lane = channel.
//
//   v[t] = b[t] x[t], as the state's format holds it (kernel/conv1d.hpp);
//   y[t] = c[t] fma(w[K-1], v[t], ... fma(w[0], v[t-K+1], bias))                                       K = taps, 2 to 4
//
// No activation. b, c and x are columns of one in_proj row, so that nothing is copied. Any chunking of the tokens gives
// the bits of stepping. Bytes per channel and token: 12 read, 4 written. Error: (K + 3) 2^-24 |c| (|bias| + sum |w b
// x|), and what a rounded state adds. Oracle: tests/oracle/sequence.hpp, conv1d of the products; test
// tests/kernel/conv1d.cpp.
#pragma once

#include <klens/kernel/conv1d.hpp>

namespace klens::inline KLENS_NS {
namespace short_conv_detail {

template <int Taps, State S, int Tokens>
KLENS_INLINE void tile_of(const ShortConvArgs& a, std::int64_t first, int begin) {
  const int n = a.channels - first < lanes ? int(a.channels - first) : lanes;
  const auto read = [&](const float* row, int t) KLENS_INLINE_LAMBDA {
    return load_upto(row + t * a.stride + first, n);
  };
  const auto take = [&](int t) KLENS_INLINE_LAMBDA { return read(a.b, t) * read(a.x, t); };
  const auto put = [&](v16f (&y)[Tokens]) KLENS_INLINE_LAMBDA {
#pragma GCC unroll 8
    for (int t = 0; t < Tokens; ++t) y[t] = read(a.c, begin + t) * y[t];
    conv1d_detail::store_outputs(a, first, begin, y);
  };
  conv1d_detail::convolve_tile<Taps, S, Tokens>(a, first, begin, take, put);
}

}  // namespace short_conv_detail

inline void short_conv(const ShortConvArgs& args) {
  const ShortConvArgs a = args;
  conv1d_detail::for_format(a, [&]<int Taps, State S, int Tokens>(std::int64_t first, int t) KLENS_INLINE_LAMBDA {
    short_conv_detail::tile_of<Taps, S, Tokens>(a, first, t);
  });
}

}  // namespace klens::inline KLENS_NS
