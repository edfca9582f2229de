// RMS norms: of a row, of each head of a row, of a gated row (Mamba-2), and the mean of two that joins Hymba's
// attention and SSM paths; each row norm also with the quantization of its result.
//
//   rms_norm       y[i] = (x[i] * r) * w[i],              r = float(1 / sqrt(double(sum x^2) / width + eps))
//   head_norm      the same for every head_dim columns, in place
//   gated_norm     y[i] = (g[i] * r) * w[i], g = x silu(z), r of g over each group of columns; or, the norm before the
//                  gate, y[i] = ((x[i] * r) * w[i]) * silu(z[i]), r of x
//   mean_norm      y[i] = 1/2 ((a[i] ra) wa[i] + (b[i] rb) wb[i])
//   *_quantize     the same y, to integers, sums of 32 and a scale as kernel/quantize_row.hpp makes them
//
// Sum of squares: vector v of the row (the head, the group) goes to accumulator v mod 4 of four 16-lane chains (fma),
// joined as (s0 + s1) + (s2 + s3), then the fixed tree over lanes: the order depends on the width alone. Columns past
// `width` are neither read nor counted; the outputs there are 0 up to round_up(width, 16), but for head_norm, which
// leaves them alone. mean_norm may write onto a or b, rms_norm onto x, gated_norm onto x or z. Bytes: a row is read
// twice (the second time from L1) and written once; norm_quantize and mean_norm_quantize read it three times (two
// products per value are cheaper than a row of floats stored and loaded) and write the integers, y only where asked;
// gated_norm leaves g in y between its passes, since a silu costs more than a store and a load; its SiLUs run several at
// once (512 bits: 21 cycles per 16 columns instead of 25). norm_quantize sums the squares of a row before the row ahead of it
// is quantized, which hides its root.
// Error: 3 roundings of the product + half the relative error of the sum, <= (width / 64 + 8) 2^-25; in practice 3 ulp;
// silu's 3 ulp and one product more where there is a gate.
// Oracle: tests/oracle/sequence.hpp, rms_norm; the *_quantize equal the norm followed by quantize_row in every bit;
// test tests/kernel/norm.cpp.
#pragma once

#include <klens/kernel/args.hpp>
#include <klens/kernel/quantize_row.hpp>
#include <klens/simd/math.hpp>

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
    const v16f scaled = load_upto(x + i, n) * r;
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
  if (a.norm.begin >= a.norm.end) return;
  norm_detail::Normed next = norm_detail::normed(a.norm, a.norm.begin);
  for (int t = a.norm.begin; t < a.norm.end; ++t) {
    const norm_detail::Normed values = next;
    const float largest = quantize_detail::largest_of(width, values);
    if (t + 1 < a.norm.end) next = norm_detail::normed(a.norm, t + 1);  // its root waits while this row is quantized
    quantize_detail::quantize(a.row, width, t, largest, values);
    if (a.norm.y == nullptr) continue;
    float* y = a.norm.y + t * a.norm.y_stride;   // last: it may be x
    for (int i = 0; i < width; i += lanes) store(y + i, values(i, width - i));
  }
}

inline void head_norm(const HeadNormArgs& a) {
  for (int t = a.begin; t < a.end; ++t) {
    for (int h = 0; h < a.heads; ++h) {
      float* x = a.x + t * a.x_stride + std::int64_t(h) * a.head_dim;
      const norm_detail::Normed values{x, a.weight, splat(norm_detail::inverse_rms(x, a.head_dim, a.eps))};
      int i = 0;
      for (; i + lanes <= a.head_dim; i += lanes) store(x + i, values(i, lanes));
      if (i < a.head_dim) store_n(x + i, values(i, a.head_dim - i), a.head_dim - i);
    }
  }
}

namespace norm_detail {

/// f(i, n) for the vectors of columns begin .. end, n = 16 but for the last.
template <class F>
KLENS_INLINE void for_vectors(int begin, int end, const F& f) {
  for (int i = begin; i < end; i += lanes) f(i, end - i < lanes ? end - i : lanes);
}

/// y = f(silu(z), i, n) of columns begin .. end, several vectors of SiLUs side by side.
template <class F>
KLENS_INLINE void for_gates(const float* z, float* y, int begin, int end, const F& f) {
  int i = begin;
  for (; i + at_once * lanes <= end; i += at_once * lanes) {
    v16f gate[at_once];
    unroll<at_once>([&](int k) KLENS_INLINE_LAMBDA { gate[k] = load(z + i + k * lanes); });
    silu<at_once>(gate);
    unroll<at_once>([&](int k) KLENS_INLINE_LAMBDA { store(y + i + k * lanes, f(gate[k], i + k * lanes, lanes)); });
  }
  for_vectors(i, end, [&](int at, int n) KLENS_INLINE_LAMBDA { store_upto(y + at, f(silu(load_upto(z + at, n)), at, n), n); });
}

/// One row of gated_norm.
KLENS_INLINE void gate_and_norm(const GatedNormArgs& a, int t) {
  const float* x = a.x + t * a.x_stride;
  const float* z = a.z + t * a.z_stride;
  float* y = a.y + t * a.y_stride;
  const int group = a.group > 0 ? a.group : a.width;
  for (int begin = 0; begin < a.width; begin += group) {
    const int end = begin + group;
    const auto weighted = [&](v16f v, int i, int n) KLENS_INLINE_LAMBDA {
      return a.weight != nullptr ? v * load_upto(a.weight + i, n) : v;
    };
    if (a.norm_before_gate) {
      const v16f r = splat(inverse_rms(x + begin, group, a.eps));
      for_gates(z, y, begin, end, [&](v16f gate, int i, int n) KLENS_INLINE_LAMBDA {
        return weighted(load_upto(x + i, n) * r, i, n) * gate;
      });
    } else {
      for_gates(z, y, begin, end, [&](v16f gate, int i, int n) KLENS_INLINE_LAMBDA { return load_upto(x + i, n) * gate; });
      const v16f r = splat(inverse_rms(y + begin, group, a.eps));
      for_vectors(begin, end, [&](int i, int n) KLENS_INLINE_LAMBDA {
        store_upto(y + i, weighted(load_upto(y + i, n) * r, i, n), n);
      });
    }
  }
  for (std::int64_t i = a.width; i < round_up(a.width, lanes); ++i) y[i] = 0;
}

}  // namespace norm_detail

inline void gated_norm(const GatedNormArgs& a) {
  KLENS_ASSERT(a.group == 0 || a.width % a.group == 0);
  for (int t = a.begin; t < a.end; ++t) norm_detail::gate_and_norm(a, t);
}

inline void gated_norm_quantize(const GatedNormQuantizeArgs& a) {
  KLENS_ASSERT(a.row.stride % row_unit == 0 && a.row.stride >= a.norm.width);
  const int width = a.norm.width;
  for (int t = a.norm.begin; t < a.norm.end; ++t) {
    norm_detail::gate_and_norm(a.norm, t);
    const float* y = a.norm.y + t * a.norm.y_stride;
    const auto values = [&](int c, int n) KLENS_INLINE_LAMBDA {
      return load_upto(y + c, n);
    };
    quantize_detail::quantize(a.row, width, t, quantize_detail::largest_of(width, values), values);
  }
}

namespace norm_detail {

/// Columns i .. i + n of a row of mean_norm.
struct Mean {
  const float *a, *b, *wa, *wb;
  v16f ra, rb;
  KLENS_INLINE v16f operator()(int i, int n) const {
    const v16f xa = load_upto(a + i, n);
    const v16f xb = load_upto(b + i, n);
    return splat(0.5f) * ((xa * ra) * load(wa + i) + (xb * rb) * load(wb + i));
  }
};

KLENS_INLINE Mean mean_of(const MeanNormArgs& m, int t) {
  const float* a = m.a + t * m.stride;
  const float* b = m.b + t * m.stride;
  return {a, b, m.wa, m.wb, splat(inverse_rms(a, m.width, m.eps)), splat(inverse_rms(b, m.width, m.eps))};
}

}  // namespace norm_detail

inline void mean_norm(const MeanNormArgs& m) {
  for (int t = m.begin; t < m.end; ++t) {
    const norm_detail::Mean values = norm_detail::mean_of(m, t);
    float* y = m.y + t * m.stride;
    for (int i = 0; i < m.width; i += lanes) store(y + i, values(i, m.width - i));
  }
}

inline void mean_norm_quantize(const MeanNormQuantizeArgs& a) {
  KLENS_ASSERT(a.row.stride % row_unit == 0 && a.row.stride >= a.norm.width);
  const int width = a.norm.width;
  for (int t = a.norm.begin; t < a.norm.end; ++t) {
    const norm_detail::Mean values = norm_detail::mean_of(a.norm, t);
    quantize_detail::quantize(a.row, width, t, quantize_detail::largest_of(width, values), values);
    if (a.norm.y == nullptr) continue;
    float* y = a.norm.y + t * a.norm.stride;   // last: it may be a or b
    for (int i = 0; i < width; i += lanes) store(y + i, values(i, width - i));
  }
}

}  // namespace klens::inline KLENS_NS
