// Dynamic quantization of activation rows, one scale per token:
//
//   s = absmax(x) / qmax (true division), qmax = 127 (a8) or 32767 (a16);  q = clamp(round_half_even(x / s), -qmax,
//                                                                          qmax)
//
// A zero row, or one whose s rounds to 0, gives s = 0 and q = 0. Written as the union of what linears read: int8, int16
// (each 4 inputs as 0 2 1 3), float(q), and sums of 32. Columns cols .. stride become zeros. Reads x once for the
// maximum and once to quantize. NaN counts as no maximum and becomes 0. Exact against tests/oracle/linear.hpp.
#pragma once

#include <klens/kernel/args.hpp>
#include <klens/simd/v16f.hpp>

namespace klens::inline KLENS_NS {

inline void quantize_row(const QuantizeRowArgs& a) {
  KLENS_ASSERT(a.stride % row_unit == 0 && a.stride >= a.cols);
  const bool wide = a.activation == Activation::a16;
  const float qmax = wide ? 32767.0f : 127.0f;
  const v16f top = splat(qmax), bottom = splat(-qmax);
  for (int t = a.begin; t < a.end; ++t) {
    const float* x = a.x + t * a.x_stride;
    v16f largest = zero();
    int k = 0;
    // A NaN on the left is not greater.
    for (; k + lanes <= a.cols; k += lanes) largest = max(abs(load(x + k)), largest);
    if (k < a.cols) largest = max(abs(load_n(x + k, a.cols - k)), largest);
    const float scale = max_of(largest) / qmax;
    a.scale[t] = scale;
    const v16f divisor = splat(scale == 0.0f ? 1.0f : scale), keep = splat(scale == 0.0f ? 0.0f : 1.0f);
    for (std::int64_t at = 0; at < a.stride; at += row_unit) {
      v16i sum = splat_i(0);
      for (int h = 0; h < row_unit; h += lanes) {
        const std::int64_t c = at + h, left = a.cols - c, out = t * a.stride + c;
        const v16f v = load_n(x + (left > 0 ? c : 0), left >= lanes ? lanes : left > 0 ? int(left) : 0);
        const v16f r = round_even(max(min(v * keep / divisor, top), bottom));
        const v16f q = select(eq(r, r), r, zero());
        const v16i n = to_int(q);
        sum = sum + n;
        if (a.f32) store(a.f32 + out, to_float(n));  // from the integer: no negative zero
        if (a.q8) store_i8(a.q8 + out, n);
        if (a.q16) {
          alignas(32) std::int16_t s[lanes];
          store_i16(s, n);
          std::int16_t* q16 = a.q16 + out;
          for (int i = 0; i < lanes; i += 4)
            q16[i] = s[i], q16[i + 1] = s[i + 2], q16[i + 2] = s[i + 1], q16[i + 3] = s[i + 3];
        }
      }
      if (a.sums) a.sums[t * (a.stride / row_unit) + at / row_unit] = sum_i(sum);
    }
  }
}

}  // namespace klens::inline KLENS_NS
