// The end of every linear: what happens to an accumulator before it is stored, in this order, each step rounded once.
//
//   v * row scale;  v * token scale;  + bias;  v * column scale;  silu(v);  max(v, 0)^2;  v * gate, or silu(gate) * v;
//   + residual;  y = v;  absmax = max |v| over the 16 outputs of a panel;
//   q = clamp(round_half_even(v / step), -127, 127), a true division
//
// The steps are run-time flags. A linear without any but the scales, bias and residual tests one pointer more per 16
// outputs; the others are one function that is not inlined (exp and a division would be copied into every tile of every
// format), so no inner loop holds any of it. A panel's tasks and tokens are independent but for `sums`: an even panel
// of 16 stores them, the odd one after it adds to them, so the same call must do both, in ascending order.
// Error: half an ulp per step, silu 2.5 ulp. Oracle: tests/oracle/linear.hpp; test tests/kernel/epilogue.cpp.
#pragma once

#include <klens/isa/native.hpp>
#include <klens/kernel/quantize_row.hpp>
#include <klens/kernel/weights.hpp>
#include <klens/simd/math.hpp>

namespace klens::inline KLENS_NS {

/// What happens to the accumulator of a segment of K.
///   carry   there is one segment: it is the result (row scales with f32 or a8, float grids)
///   add     acc = acc + float(segment)                     (a16 with row scales: 512 inputs keep int32 exact)
///   scale   acc = fma(group scale, float(segment), acc)    (groups)
enum class Fold { carry, add, scale };

struct LinearShape {
  std::int64_t panel_bytes, panels, groups;
  int cols_padded, segment;   // segment: inputs per fold
  Fold fold;
};

namespace epilogue_detail {

/// Static requantization of one panel of one token.
KLENS_INLINE void requantize(const Epilogue& e, v16f v, std::int64_t token, std::int64_t panel) {
  const v16i q = quantize_detail::to_integers(v / splat(e.step), splat(127.0f));
  const std::int64_t at = token * e.q_stride + panel * lanes;
  if (e.q8 != nullptr) store_i8(e.q8 + at, q);
  if (e.q16 != nullptr) store_0213(e.q16 + at, q);
  if (e.sums == nullptr) return;
  std::int32_t& sum = e.sums[token * (e.q_stride / row_unit) + panel / 2];
  sum = (panel % 2 == 0 ? 0 : sum) + sum_i(q);
}

/// The steps after bias. The accumulator comes through memory: a vector argument of two registers makes gcc 12 keep
/// halves of the callers' accumulators on the stack (avx2: a load and a store beside half of the FMAs).
KLENS_NOINLINE inline void finish_more(const LinearArgs& a, const float* accumulator, std::int64_t token,
                                       std::int64_t panel) {
  const Epilogue& e = *a.epilogue;
  v16f v = load(accumulator);
  const std::int64_t at = token * a.y_stride + panel * lanes;
  if (e.column_scale != nullptr) v = v * load(e.column_scale + panel * lanes);
  if (e.silu) v = silu(v);
  if (e.relu2) {
    const v16f positive = max(zero(), v);  // the operand that may be NaN comes second: it is returned
    v = positive * positive;
  }
  if (e.gate != nullptr) {
    const v16f gate = load(e.gate + token * e.gate_stride + panel * lanes);
    v = (e.silu_of_gate ? silu(gate) : gate) * v;
  }
  if (a.residual != nullptr) v = v + load(a.residual + at);
  if (a.y != nullptr) store(a.y + at, v);
  if (e.absmax != nullptr) e.absmax[token * e.absmax_stride + panel] = max_of(max(abs(v), zero()));
  if (e.step > 0) requantize(e, v, token, panel);
}

}  // namespace epilogue_detail

/// Scales, bias and the rest of the epilogue for one panel of one token, to memory.
template <Codec C>
KLENS_INLINE void finish(const LinearArgs& a, const LinearShape& s, v16f v, std::int64_t token, std::int64_t panel) {
  if (!is_float(C) && s.fold != Fold::scale) v = v * load(static_cast<const float*>(a.w.scales) + panel * lanes);
  if (a.x.scale) v = v * splat(a.x.scale[token]);
  if (a.bias) v = v + load(a.bias + panel * lanes);
  if (a.epilogue != nullptr) [[unlikely]] {
    alignas(64) float accumulator[lanes];
    store(accumulator, v);
    return epilogue_detail::finish_more(a, accumulator, token, panel);
  }
  const std::int64_t at = token * a.y_stride + panel * lanes;
  if (a.residual) v = v + load(a.residual + at);
  store(a.y + at, v);
}

}  // namespace klens::inline KLENS_NS
