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
// Up to gemv_tokens tokens the weights are unpacked in registers (gemv.hpp), above, and with some formats before
// (gemm_from), in scratch, once per 512 inputs (gemm.hpp); a8 of 16 tokens and more goes to AMX tiles where there are some
// (gemm_amx.hpp). Levels with VNNI read x.q8 for a8, the others x.q16, or x.q8 for codes of at most 4 bits: the integers are
// the same. Oracle: tests/oracle/linear.hpp.
#pragma once

#include <klens/kernel/gemm.hpp>
#include <klens/kernel/gemv.hpp>
#if defined(KLENS_HAS_AMX)
#include <klens/kernel/gemm_amx.hpp>
#endif

namespace klens::inline KLENS_NS {

/// Fewest tokens for which gemm is the faster, where it is given scratch. With 16 registers of half the width gemv unpacks for
/// one or two tokens at a time, gemm once for all. Zen 5, 2048 x 2048, time of gemv / of gemm from L3 (DRAM) for 4, 6 and 8
/// tokens: avx2 w6 1.44 1.70 1.83 (1.46 1.79 1.82), w4 1.34 1.60 1.60 (the same), w4g32 1.12 1.37 1.32 (0.82 1.04 1.19), w3a8
/// 1.81 2.10 2.22 (1.42 1.77 2.05), f16 0.78 0.92 0.92 (1.36 1.47 1.30), w4a8 1.13 1.27 1.31 (0.71 0.87 1.07); avx_vnni w8a8 1.13 1.26
/// 1.14 (1.27 1.50 1.45), w4a16 1.13 1.47 1.45 (1.20 1.46 1.45); 512 bits with VNNI w8a8 0.80 0.84 1.39 (1.09 0.98 1.10).
template <Codec C, DotKind D, Fold F>
inline constexpr int gemm_from = [] {
  constexpr int never = gemv_tokens + 1;
  constexpr bool planes = C == Codec::i6 || C == Codec::i5 || C == Codec::i3, bytes = D == DotKind::a8 && !has_dot_u8;
  if (vector_registers == 32) return C == Codec::i8 && D == DotKind::a8 && F == Fold::carry && has_dot_u8 ? 8 : never;
  if (vector_registers != 16) return never;
  if (D == DotKind::f32) {
    if (F == Fold::scale) return C == Codec::i8 ? never : C == Codec::i2 ? 6 : 5;
    return C == Codec::f16 || C == Codec::bf16 ? 6 : 4;
  }
  if (C == Codec::i3 || (C == Codec::i2 && bytes)) return 4;
  if (F == Fold::scale) return never;
  if (D == DotKind::a16 && has_dot_u8) return C == Codec::i4 || C == Codec::i2 ? 4 : 6;
  if (planes) return 4;
  return C == Codec::i8 && has_dot_u8 ? 6 : never;
}();

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
  static_assert(gemm_from<C, D, fold> >= gemm_least_tokens);
  const int most = args.scratch == nullptr ? gemv_tokens : gemm_from<C, D, fold> - 1;
  if (args.tokens <= most) gemv<C, D, fold>(args, shape);
  else gemm<C, D, fold>(args, shape);
}

}  // namespace klens::inline KLENS_NS
