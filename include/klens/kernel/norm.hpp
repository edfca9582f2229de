// RMS norm, RMS norm with the quantization of its result, and the mean of two RMS norms that joins Hymba's attention
// and SSM paths.
//
//   rms_norm       y[i] = (x[i] * r) * w[i],              r = float(1 / sqrt(double(sum x^2) / width + eps))
//   norm_quantize  the same y, to integers, sums of 32 and a scale as kernel/quantize_row.hpp makes them
//   mean_norm      y[i] = 1/2 ((a[i] ra) wa[i] + (b[i] rb) wb[i])
//
// Sum of squares: vector v of the row goes to accumulator v mod 4 of four 16-lane chains (fma), joined as
// (s0 + s1) + (s2 + s3), then the fixed tree over lanes: the order depends on the width alone. Columns past `width` are
// neither read nor counted; the outputs there are 0 up to round_up(width, 16). mean_norm may write onto a or b,
// rms_norm onto x. Bytes: a row is read twice (the second time from L1) and written once; norm_quantize reads it three
// times (two products per value are cheaper than a row of floats stored and loaded) and writes the integers, y only
// where asked.
// Error: 3 roundings of the product + half the relative error of the sum, <= (width / 64 + 8) 2^-25; in practice 3 ulp.
// Oracle: tests/oracle/sequence.hpp, rms_norm; norm_quantize equals rms_norm followed by quantize_row in every bit;
// test tests/kernel/norm.cpp.
#pragma once

#include <klens/kernel/args.hpp>
#include <klens/kernel/quantize_row.hpp>
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

/// Columns i .. i + n of a normed row, n = 16 but for the last vector; weight nullptr means 1.
struct Normed {
  const float* x;
  const float* weight;
  v16f r;
  KLENS_INLINE v16f operator()(int i, int n) const {
    const v16f scaled = (n >= lanes ? load(x + i) : load_n(x + i, n)) * r;
    return weight != nullptr ? scaled * load(weight + i) : scaled;
  }
};

KLENS_INLINE Normed normed(const RmsNormArgs& a, int t) {
  const float* x = a.x + t * a.x_stride;
  return {x, a.weight, splat(inverse_rms(x, a.width, a.eps))};
}

}  // namespace norm_detail

inline void rms_norm(const RmsNormArgs& a) {
  for (int t = a.begin; t < a.end; ++t) {
    const norm_detail::Normed values = norm_detail::normed(a, t);
    float* y = a.y + t * a.y_stride;
    for (int i = 0; i < a.width; i += lanes) store(y + i, values(i, a.width - i));
  }
}

inline void norm_quantize(const NormQuantizeArgs& a) {
  KLENS_ASSERT(a.row.stride % row_unit == 0 && a.row.stride >= a.norm.width);
  const int width = a.norm.width;
  for (int t = a.norm.begin; t < a.norm.end; ++t) {
    const norm_detail::Normed values = norm_detail::normed(a.norm, t);
    const float largest = quantize_detail::largest_of(width, values);
    quantize_detail::quantize(a.row, width, t, largest, values);
    if (a.norm.y == nullptr) continue;
    float* y = a.norm.y + t * a.norm.y_stride;   // last: it may be x
    for (int i = 0; i < width; i += lanes) store(y + i, values(i, width - i));
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
