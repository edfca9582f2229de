// Dynamic quantization of activation rows, one scale per token:
//
//   s = absmax(x) / qmax (true division), qmax = 127 (a8) or 32767 (a16)
//   q = clamp(round_half_even(x / s), -qmax, qmax)
//
// A zero row, or one whose s rounds to 0, gives s = 0 and q = 0. Written as the union of what linears read: int8, int16
// (each 4 inputs as 0 2 1 3), float(q), and sums of 32. Columns cols .. stride become zeros. Reads x once for the
// maximum (unless the linear before has left it in `absmax`) and once to quantize. NaN counts as no maximum and becomes
// 0. int8 by a multiplication, where it cannot be wrong, else by division: the same integers. Zen 4, 1536 columns, cycles per
// 16 (512 bits, 256 bits): 8.4, 8.5; where the maximum is there 6.2, 6.5; by division 12.7, 15.5 and 10.4, 13.8.
// Exact against tests/oracle/linear.hpp.
#pragma once

#include <klens/kernel/linear_args.hpp>
#include <klens/simd/codes.hpp>
#include <klens/simd/v16f.hpp>

namespace klens::inline KLENS_NS {
namespace quantize_detail {

/// Columns that are quantized again where one of them needs the division.
inline constexpr int block = 512;

KLENS_INLINE float largest_code(Activation a) { return a == Activation::a16 ? 32767.0f : 127.0f; }

/// Nearest even, clamped to [-top, top]; NaN, which min and max pass on from the right, gives 0.
KLENS_INLINE v16i to_integers(v16f v, v16f top) {
  const v16f r = max(neg(top), min(top, v));
  return select(eq(r, r), to_int(r), splat_i(0));
}

/// Largest |values(c, n)| of columns c .. c + n, n = 16 but for the last. Four chains (by name: gcc 12 keeps an array of
/// them on the stack, 4.6 cycles per 16 numbers instead of 1.5); NaN on the left is not greater.
template <class Values>
KLENS_INLINE float largest_of(int cols, const Values& values) {
  v16f most0 = zero(), most1 = most0, most2 = most0, most3 = most0;
  int c = 0;
  for (; c + 4 * lanes <= cols; c += 4 * lanes) {
    most0 = max(abs(values(c, lanes)), most0), most1 = max(abs(values(c + 16, lanes)), most1);
    most2 = max(abs(values(c + 32, lanes)), most2), most3 = max(abs(values(c + 48, lanes)), most3);
  }
  for (; c < cols; c += lanes) most0 = max(abs(values(c, cols - c < lanes ? cols - c : lanes)), most0);
  return max_of(max(max(most0, most1), max(most2, most3)));
}

/// Where the integers of one row go; what is not wanted is nullptr.
struct Row {
  float* f32;
  std::int8_t* q8;
  std::int16_t* q16;
  std::int32_t* sums;
};

KLENS_INLINE Row row_of(const QuantizeRowArgs& a, int t) {
  const std::int64_t row = t * a.stride;
  return {a.f32 ? a.f32 + row : nullptr, a.q8 ? a.q8 + row : nullptr, a.q16 ? a.q16 + row : nullptr,
          a.sums ? a.sums + row / row_unit : nullptr};
}

/// Columns [begin, end) by division, whole units; zeros from cols on.
template <class Values>
KLENS_INLINE void divide(const Row& to, int begin, int end, int cols, float scale, float qmax, const Values& values) {
  const v16f top = splat(qmax), divisor = splat(scale == 0.0f ? __builtin_inff() : scale);  // by infinity: 0
  const auto put = [&](int c) KLENS_INLINE_LAMBDA {
    const v16f v = c < cols ? values(c, cols - c < lanes ? cols - c : lanes) : zero();
    const v16i q = to_integers(v / divisor, top);
    if (to.f32) store(to.f32 + c, to_float(q));  // from the integer: no negative zero
    if (to.q8) store_i8(to.q8 + c, q);
    if (to.q16) store_0213(to.q16 + c, q);
    return q;
  };
  for (int c = begin; c < end; c += row_unit) {
    const v16i q = put(c) + put(c + lanes);
    if (to.sums) to.sums[c / row_unit] = sum_i(q);
  }
}

/// Units of columns [begin, end) in a8 without a division: 384.5 + x / s as a number in [256, 512), whose bits are
/// 0x87 | code + 128 (8 bits) | fraction + 1/2 (15 bits). With 1 / s rounded, the sum rounded, and the quotient that is
/// asked for rounded, it is 0.88 of its last bit off at most, so that no code is wrong unless the fraction's bits are
/// all zero (one of 32 768 numbers; every tie): false then, and where a number was NaN or infinite.
template <class Values>
KLENS_INLINE bool multiply(const Row& to, int begin, int end, float inverse, const Values& values) {
  v16i least = splat_i(0x7fff), every = splat_i(0);
  const auto code = [&](int c) KLENS_INLINE_LAMBDA {
    const v16i sum = bits(fma(values(c, lanes), splat(inverse), splat(384.5f)));
    least = min_i(least, sum & splat_i(0x7fff)), every = every | sum;
    return shr(sum, 15) - splat_i(0x8780);
  };
  const auto unit = [&](int c) KLENS_INLINE_LAMBDA {
    const v16i q0 = code(c), q1 = code(c + lanes);
    store_codes(to.q8 + c, q0, q1);
    if (to.q16) store_0213(to.q16 + c, q0), store_0213(to.q16 + c + lanes, q1);
    return q0 + q1;
  };
  int c = begin;
  for (; c + 4 * row_unit <= end; c += 4 * row_unit) {
    const v16i s0 = unit(c), s1 = unit(c + row_unit), s2 = unit(c + 2 * row_unit), s3 = unit(c + 3 * row_unit);
    store_sums(to.sums + c / row_unit, s0, s1, s2, s3);
  }
  for (; c < end; c += row_unit) to.sums[c / row_unit] = sum_i(unit(c));
  return !any(eq_i(least, splat_i(0)) | gt_i(splat_i(0), every) | gt_i(every, splat_i(0x43ffffff)));
}

/// Scale and integers of token t from values(c, n) and their largest magnitude. `a` is a copy: a store of bytes could
/// change what a reference names.
template <class Values>
KLENS_INLINE void quantize(const QuantizeRowArgs a, int cols, int t, float largest, const Values& values) {
  const float qmax = largest_code(a.activation), scale = largest / qmax;
  a.scale[t] = scale;
  const Row to = row_of(a, t);
  int c = 0;
  if (a.activation == Activation::a8 && to.q8 != nullptr && to.sums != nullptr && to.f32 == nullptr && cols >= 4 * row_unit) {
    const float inverse = scale == 0.0f ? 0.0f : 1.0f / scale;
    for (const int whole = cols - cols % row_unit; c < whole;) {
      const int end = whole - c < block ? whole : c + block;
      if (!multiply(to, c, end, inverse, values)) [[unlikely]] divide(to, c, end, cols, scale, qmax, values);
      c = end;
    }
  }
  divide(to, c, int(a.stride), cols, scale, qmax, values);
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
      const auto part = [&](int c, int n) KLENS_INLINE_LAMBDA { return load_upto(parts + c, n); };
      largest = quantize_detail::largest_of(int(div_up(a.cols, lanes)), part);
    } else {
      largest = quantize_detail::largest_of(a.cols, values);
    }
    quantize_detail::quantize(a, a.cols, t, largest, values);
  }
}

}  // namespace klens::inline KLENS_NS
