// Rotary position embedding in place, half rotation, for every head of a row (kernel/args.hpp, RopeArgs). Partial: the
// first d = rotary_dim columns of a head turn among themselves, the others stay. No family that we load interleaves.
//
//   y[i]       = fma(x[i], c[i], -(x[i + d/2] s[i]))            i < d/2
//   y[i + d/2] = fma(x[i + d/2], c[i], x[i] s[i])
//
// c and s of a position come from a table made at load in double (core/det_math.hpp) and rounded once. Rows hold
// heads * head_dim columns; nothing beyond them is touched, halves need not be multiples of 16.
// Bytes: 8 per element. Error: 2^-23 (|x[i]| + |x[i + d/2]|). Oracle: tests/oracle/sequence.hpp; test
// tests/kernel/rope.cpp.
#pragma once

#include <klens/kernel/args.hpp>
#include <klens/simd/v16f.hpp>

namespace klens::inline KLENS_NS {
namespace rope_detail {

/// Rotates the n <= 16 pairs (x[i], x[i + half]).
KLENS_INLINE void rotate(float* x, int half, const float* cosine, const float* sine, int n) {
  const v16f c = load_n(cosine, n), s = load_n(sine, n), low = load_n(x, n), high = load_n(x + half, n);
  store_n(x, fms(low, c, high * s), n);
  store_n(x + half, fma(high, c, low * s), n);
}

}  // namespace rope_detail

inline void rope(const RopeArgs& a) {
  const int turning = a.rotary_dim > 0 ? a.rotary_dim : a.head_dim, half = turning / 2;
  KLENS_ASSERT(turning % 2 == 0 && turning <= a.head_dim);
  for (int t = a.begin; t < a.end; ++t) {
    const float* cosine = a.table + std::int64_t(a.position + t) * turning;
    for (int h = 0; h < a.heads; ++h) {
      float* x = a.x + t * a.x_stride + std::int64_t(h) * a.head_dim;
      for (int i = 0; i < half; i += lanes)
        rope_detail::rotate(x + i, half, cosine + i, cosine + half + i, half - i < lanes ? half - i : lanes);
    }
  }
}

}  // namespace klens::inline KLENS_NS
