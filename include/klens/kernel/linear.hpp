// Linear: y[t][n] = (sum_k w[n][k] x[t][k]) * token scale[t] + bias[n] + residual[t][n] for packed weights of every
// Codec.
//
// One lane per output, k ascending. Bits do not depend on level, threads, or how many tokens one call holds:
//   f32 rows          acc = fma(value(w), x, acc) from 0; groups: a fresh chain each, then acc = fma(scale, chain, acc)
//   a8                exact int32 per row (K <= 132 000) or group, to float once, nearest even
//   a16               exact int32 per 512 inputs, added in fp32 in order; groups as a8
//   then              * row scale; * x.scale[token] where rows are quantized; + bias; + residual: each rounded once
// value(w) is float(q), the nf4 level or the float. Padding inputs (zeros in w and x) take part, in the same way
// everywhere.
//
// Up to gemv_tokens tokens the weights are unpacked in registers (gemv.hpp), above in scratch, once per 512 inputs
// (gemm.hpp); a8 of 16 tokens and more goes to AMX tiles where there are some (gemm_amx.hpp). Levels with VNNI read
// x.q8 for a8, the others x.q16, or x.q8 for codes of at most 4 bits: the integers are the same. Oracle:
// tests/oracle/linear.hpp.
#pragma once

#include <klens/kernel/gemm.hpp>
#include <klens/kernel/gemv.hpp>
#if defined(KLENS_HAS_AMX)
#include <klens/kernel/gemm_amx.hpp>
#endif

namespace klens::inline KLENS_NS {

/// Panels [args.begin, args.end) for all args.tokens. Grouped: args.w has group scales, else row scales or none.
template <Codec C, bool Grouped, DotKind D>
void linear(const LinearArgs& args) {
  static_assert(linear_exists(C, Grouped, D),
      "klens::linear: floats have no groups, nf4 has nothing else; integer dots need integer weights");
  KLENS_ASSERT(codec_of(args.w.precision) == C && (args.w.precision.scheme.scale == Granularity::group) == Grouped);
  const LinearShape shape = shape_of<C, D>(args, Grouped);
#if defined(KLENS_HAS_AMX)
  if constexpr (D == DotKind::a8)
    if (args.tokens >= amx_tokens && tiles_allowed()) return gemm_amx<C>(args, shape);
#endif
  constexpr Fold fold = Grouped ? Fold::scale : D == DotKind::a16 ? Fold::add : Fold::carry;
  if (args.tokens <= gemv_tokens) gemv<C, D, fold>(args, shape);
  else gemm<C, D, fold>(args, shape);
}

}  // namespace klens::inline KLENS_NS
