// RMS norm, and the mean of two RMS norms that joins Hymba's attention and SSM paths.
//
//   rms_norm   y[i] = (x[i] * r) * w[i],              r = float(1 / sqrt(double(sum x^2) / width + eps))
//   mean_norm  y[i] = 1/2 ((a[i] ra) wa[i] + (b[i] rb) wb[i])
//
// Sum of squares: vector v of the row goes to accumulator v mod 4 of four 16-lane chains (fma), joined as
// (s0 + s1) + (s2 + s3), then the fixed tree over lanes: the order depends on the width alone. Columns past `width` are
// neither read nor counted; the outputs there are 0 up to round_up(width, 16). mean_norm may write onto a or b,
// rms_norm onto x. Bytes: a row is read twice (the second time from L1) and written once.
// Error: 3 roundings of the product + half the relative error of the sum, <= (width / 64 + 8) 2^-25; in practice 3 ulp.
// Oracle: tests/oracle/sequence.hpp, rms_norm; test tests/kernel/norm.cpp.
#pragma once

#include <klens/kernel/args.hpp>
#include <klens/simd/v16f.hpp>

namespace klens::inline KLENS_NS {
namespace norm_detail {

/// 1 / sqrt(mean square + eps) of `width` values, correctly rounded from the fp32 sum.
KLENS_INLINE float inverse_rms(const float* x, int width, float eps) {
  v16f sum0 = zero(), sum1 = sum0, sum2 = sum0, sum3 = sum0;
  int i = 0;
  for (; i + 4 * lanes <= width; i += 4 * lanes) {  // four chains: an fma takes 4 cycles, and two can start per cycle
    const v16f x0 = load(x + i), x1 = load(x + i + 16), x2 = load(x + i + 32), x3 = load(x + i + 48);
    sum0 = fma(x0, x0, sum0);
    sum1 = fma(x1, x1, sum1);
    sum2 = fma(x2, x2, sum2);
    sum3 = fma(x3, x3, sum3);
  }
  const int left = width - i;  // 0..63: the rest keeps the rule "vector v to chain v mod 4"
  if (left > 0) {
    const v16f x0 = load_n(x + i, left < 16 ? left : 16);
    sum0 = fma(x0, x0, sum0);
  }
  if (left > 16) {
    const v16f x1 = load_n(x + i + 16, left < 32 ? left - 16 : 16);
    sum1 = fma(x1, x1, sum1);
  }
  if (left > 32) {
    const v16f x2 = load_n(x + i + 32, left < 48 ? left - 32 : 16);
    sum2 = fma(x2, x2, sum2);
  }
  if (left > 48) {
    const v16f x3 = load_n(x + i + 48, left - 48);
    sum3 = fma(x3, x3, sum3);
  }
  const double mean = double(sum((sum0 + sum1) + (sum2 + sum3))) / double(width);
  return float(1.0 / __builtin_sqrt(mean + double(eps)));
}

}  // namespace norm_detail

inline void rms_norm(const RmsNormArgs& a) {
  for (int t = a.begin; t < a.end; ++t) {
    const float* x = a.x + t * a.x_stride;
    float* y = a.y + t * a.y_stride;
    const v16f r = splat(norm_detail::inverse_rms(x, a.width, a.eps));
    for (int i = 0; i < a.width; i += lanes) {
      const int n = a.width - i;
      const v16f scaled = (n >= lanes ? load(x + i) : load_n(x + i, n)) * r;
      store(y + i, a.weight != nullptr ? scaled * load(a.weight + i) : scaled);
    }
  }
}

inline void mean_norm(const MeanNormArgs& m) {
  for (int t = m.begin; t < m.end; ++t) {
    const float* a = m.a + t * m.stride;
    const float* b = m.b + t * m.stride;
    float* y = m.y + t * m.stride;
    const v16f ra = splat(norm_detail::inverse_rms(a, m.width, m.eps));
    const v16f rb = splat(norm_detail::inverse_rms(b, m.width, m.eps));
    for (int i = 0; i < m.width; i += lanes) {
      const int n = m.width - i;
      const v16f xa = n >= lanes ? load(a + i) : load_n(a + i, n);
      const v16f xb = n >= lanes ? load(b + i) : load_n(b + i, n);
      store(y + i, splat(0.5f) * ((xa * ra) * load(m.wa + i) + (xb * rb) * load(m.wb + i)));
    }
  }
}

}  // namespace klens::inline KLENS_NS
