// Dynamic quantization of activation rows, one scale per token:
//
//   s = absmax(x) / qmax (true division), qmax = 127 (a8) or 32767 (a16)
//   q = clamp(round_half_even(x / s), -qmax, qmax)
//
// A zero row, or one whose s rounds to 0, gives s = 0 and q = 0. Written as the union of what linears read: int8, int16
// (each 4 inputs as 0 2 1 3), float(q), and sums of 32. Columns cols .. stride become zeros. Reads x once for the
// maximum (unless the linear before has left it in `absmax`) and once to quantize. NaN counts as no maximum and becomes
// 0. Exact against tests/oracle/linear.hpp.
#pragma once

#include <klens/kernel/linear_args.hpp>
#include <klens/simd/swap.hpp>
#include <klens/simd/v16f.hpp>

namespace klens::inline KLENS_NS {
namespace quantize_detail {

KLENS_INLINE float largest_code(Activation a) { return a == Activation::a16 ? 32767.0f : 127.0f; }

/// Nearest even, clamped to [-top, top]; NaN, which min and max pass on from the right, gives 0.
KLENS_INLINE v16i to_integers(v16f v, v16f top) {
  const v16f r = max(neg(top), min(top, v));
  return select(eq(r, r), to_int(r), splat_i(0));
}

/// Each 4 lanes as 0 2 1 3.
KLENS_INLINE void store_0213(std::int16_t* out, v16i q) { store_i16(out, order_0213(q)); }

/// Largest |values(c, n)| of columns c .. c + n, n = 16 but for the last. Four chains; NaN on the left is not greater.
template <class Values>
KLENS_INLINE float largest_of(int cols, const Values& values) {
  v16f most[4] = {zero(), zero(), zero(), zero()};
  int c = 0;
  for (; c + 4 * lanes <= cols; c += 4 * lanes)
    for (int i = 0; i < 4; ++i) most[i] = max(abs(values(c + i * lanes, lanes)), most[i]);
  for (; c < cols; c += lanes) most[0] = max(abs(values(c, cols - c < lanes ? cols - c : lanes)), most[0]);
  return max_of(max(max(most[0], most[1]), max(most[2], most[3])));
}

/// Scale and integers of token t from values(c, n) and their largest magnitude. `a` is a copy: a store of bytes could
/// change what a reference names. The division bounds the loop (512 bits: 10 cycles on Zen 4); by a reciprocal in two
/// floats and an exact remainder the same quotients took 4 multiply-adds and 20 % longer.
template <class Values>
KLENS_INLINE void quantize(const QuantizeRowArgs a, int cols, int t, float largest, const Values& values) {
  const float qmax = largest_code(a.activation), scale = largest / qmax;
  a.scale[t] = scale;
  const v16f top = splat(qmax), divisor = splat(scale == 0.0f ? __builtin_inff() : scale);  // by infinity: 0
  const std::int64_t row = t * a.stride;
  float* f32 = a.f32 ? a.f32 + row : nullptr;
  std::int8_t* q8 = a.q8 ? a.q8 + row : nullptr;
  std::int16_t* q16 = a.q16 ? a.q16 + row : nullptr;
  std::int32_t* sums = a.sums ? a.sums + row / row_unit : nullptr;
  const auto put = [&](std::int64_t c, v16f v) KLENS_INLINE_LAMBDA {
    const v16i q = to_integers(v / divisor, top);
    if (f32) store(f32 + c, to_float(q));  // from the integer: no negative zero
    if (q8) store_i8(q8 + c, q);
    if (q16) store_0213(q16 + c, q);
    return q;
  };
  const auto some = [&](std::int64_t c) KLENS_INLINE_LAMBDA {
    return put(c, c < cols ? values(int(c), cols - c < lanes ? int(cols - c) : lanes) : zero());
  };
  std::int64_t c = 0;
  for (; c + row_unit <= cols; c += row_unit) {
    const v16i q = put(c, values(int(c), lanes)) + put(c + lanes, values(int(c) + lanes, lanes));
    if (sums) *sums++ = sum_i(q);
  }
  for (; c < a.stride; c += row_unit) {
    const v16i q = some(c) + some(c + lanes);
    if (sums) *sums++ = sum_i(q);
  }
}

}  // namespace quantize_detail

inline void quantize_row(const QuantizeRowArgs& a) {
  KLENS_ASSERT(a.stride % row_unit == 0 && a.stride >= a.cols);
  for (int t = a.begin; t < a.end; ++t) {
    const float* x = a.x + t * a.x_stride;
    const auto values = [&](int c, int n) KLENS_INLINE_LAMBDA { return load_upto(x + c, n); };
    float largest = 0;
    if (a.absmax != nullptr) {
      const float* parts = a.absmax + t * a.absmax_stride;
      for (int i = 0; i < int(div_up(a.cols, lanes)); ++i) largest = parts[i] > largest ? parts[i] : largest;
    } else {
      largest = quantize_detail::largest_of(a.cols, values);
    }
    quantize_detail::quantize(a, a.cols, t, largest, values);
  }
}

}  // namespace klens::inline KLENS_NS
