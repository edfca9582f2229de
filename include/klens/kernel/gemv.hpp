// Linear for a few tokens: packed weights stream through registers once per token tile and are unpacked there.
//
//   y[t][n] = sum_k w[n][k] x[t][k],  one lane per n, one chain per (t, n), k ascending      (folds: linear_common.hpp)
//
// A tile is T tokens x P panels of 16 outputs. Integers add up exactly in any order, so integer dots take one panel, in
// several accumulators: the weights are one stream from front to back. Float chains must not be split: P of them in T
// tokens hide the latency of the FMA. Bytes read: the panels once, T rows of x from L1.
//
// Float chains are gemv_chain.hpp. What is fetched is chosen by measurement (fetch_of there), for integers by CPU
// (isa/fetch.hpp). One stream of single lines needs no help on Zen 4 (w8a8: 99 % of a plain read without fetches, 75 to 92 %
// with them), two pages ahead of it on Zen 5 (w8 at 512 bits with VNNI: 1024 to 4096 bytes ahead cost 5 % from DRAM and save
// 18 % from L3; memory was chosen). Units of several lines are read out of order, and two or four streams at a time are more
// than one: those fetch a little ahead. Beside group scales, a thin second stream that is fetched 4 groups ahead, lines are
// fetched a page ahead or more: hardware prefetchers stop at pages.
#pragma once

#include <klens/kernel/gemv_chain.hpp>

namespace klens::inline KLENS_NS {

namespace gemv_detail {

/// Codes of 5 and 6 bits have int16 sums too, of 4 and 2 steps: worth it here, not in a GEMM, whose tiles want the
/// registers.
template <Codec C, DotKind D>
inline constexpr Dot kind_of = D == DotKind::a8 && has_dot_u4 && is_integer(C) && bits_of(C) <= 6 ? Dot::u4 : dot_of<C, D>;

inline constexpr int longest_fetched_group = 64;
inline constexpr int groups_ahead = 4, scales_ahead = groups_ahead * lanes;

/// Tokens of the largest tile. Ref has no registers to fill; on 16 of half the width unpacking takes many of them.
template <Codec C, Dot K>
inline constexpr int most_tokens = vector_registers == 0                                      ? 1
    : vector_registers == 32 || is_float(C)                                                   ? 4
    : K == Dot::u4 || C == Codec::i3 || (K == Dot::f32 && codec_unit<C>.lines > 1)            ? 1
                                                                                              : 2;

/// Panels of a tile of T tokens: integers need one; f32 lines arrive more slowly than an FMA takes, so two chains do.
/// An FMA takes 4 cycles and Zen 5 begins two a cycle, whatever their width (Zen 4: two of 256 bits, one of 512): it wants
/// 8 chains. Zen 5, 2048 x 2048 in L3, cycles per 16 weights of one token at 512 bits: w4 1.14 with 4 panels, 0.88 with 8,
/// w2 1.10, 0.79 (from DRAM 1.15, 0.94; 1.10, 0.85); of two tokens w4 1.08 with 2 panels, 0.67 with 4, w6 1.24, 0.98. Eight
/// panels of w8 are too many streams (from DRAM 6 % slower), of several lines each far too many (w6 1.48, 1.84; in L2 1.27,
/// 1.21): staged_chain. w2 at 256 bits: 2.07 with 2, 1.73 with 3, each
/// unpacked by itself: together, or 4, would spill.
template <Codec C, Dot K, int T>
inline constexpr int panels = K != Dot::f32 || vector_registers == 0 ? 1
    : T == 4                                                   ? vector_registers / 16
    : C == Codec::f32                                          ? 2
    : T == 2                                                   ? (vector_registers == 32 ? 4 : is_float(C) ? 2 : 1)
    : by_stages<C, 1, 2>                                       ? vector_registers / 4
    : vector_registers == 32 && bits_of(C) <= 4 ? 8
    : vector_registers == 32 || is_float(C)                    ? 4
    : C == Codec::i2 && !clang_spills                          ? 3
                                                               : 2;

/// Panels of the tiles that take what fills no tile of P.
template <int P>
inline constexpr int rest_panels = P == 8 ? 4 : P == 3 || (P == 4 && vector_registers == 16) ? 2 : 1;

/// Accumulators of each token of an integer tile. A VNNI dot takes 4 or 5 cycles and Zen 5 begins two a cycle: as many as fit (16
/// registers of half the width hold 8 beside the lines). Half as many, Zen 5, from L3: avx_vnni w4a8 1.39 times the time, w8a16
/// 1.48, w4a8 and w8a8 of two tokens 1.57 to 1.65; 512 bits w4a8 1.12, of two tokens w4a8 1.37, w8a16 1.33. A group is short and groups
/// overlap: two do, four cost 4 to 9 %. Without VNNI the chain is an addition, and yet two of them are faster (Zen 4, w8a8: 1.60
/// cycles for 32 bytes in a loop on registers, one 1.76; the GEMV by 4 % on 256 bits, by 16 % on 512). Zen 5 adds integers in
/// two cycles: at 512 bits four are faster than two (w8a8 in L3 1.08, of two tokens 1.31 times), but for groups. Halves of
/// packed codes need registers of their own: with 16, eight accumulators of int16 products would spill for all but one token of w8.
template <Codec C, Dot K, Fold F, int T>
inline constexpr int parts = K == Dot::u4                       ? 1
    : has_dot_u8 && F != Fold::scale && (vector_registers == 32 || K == Dot::u8 || (C == Codec::i8 && T == 1))
                                                                 ? vector_registers / (4 * T)
    : T == 4                                                     ? 1
    : has_dot_u8                                                 ? (T == 1 ? 2 : vector_registers / (8 * T))
    : F == Fold::scale || vector_registers < 32                  ? (T == 1 ? 2 : 1)
                                                                 : 4 / T;

/// acc[t][.] += 4 N inputs in exact integers: u8 lines x int8 rows, or both halves of a line x int16 rows (order 0 2 1
/// 3). A unit of one line is read once for all its inputs: load_line_once.
template <Codec C, Dot K, int N, int T, int A>
KLENS_INLINE void dots_of(v16i (&acc)[T][A], const Cursor<K>& c) {
  constexpr int per_unit = codec_unit<C>.inputs / 4;
  [[maybe_unused]] constexpr int steps = dot_u4_steps<bits_of(C)>;
  [[maybe_unused]] v16i narrow[T], whole;
  constexpr bool one_line = codec_unit<C>.lines == 1;
  unroll<N>([&](int i) KLENS_INLINE_LAMBDA {
    if (one_line && i % per_unit == 0) whole = load_line_once(c.at + i / per_unit * unit_bytes<C>);
    const int at = code_at<C>(i % per_unit);
    v16i line;
    if constexpr (!one_line) line = u8_line<C>(c.at + i / per_unit * unit_bytes<C>, i % per_unit);
    else if constexpr (K != Dot::s16) line = u8_of<C>(whole, i % per_unit);
    if constexpr (K == Dot::u8) {
      unroll<T>([&](int t) KLENS_INLINE_LAMBDA { dot_u8(acc[t][i % A], line, c.x + t * c.stride + 4 * i); });
    } else if constexpr (K == Dot::u4) {
      unroll<T>([&](int t) KLENS_INLINE_LAMBDA {
        if (i % steps == 0) narrow[t] = product_u4(line, c.x + t * c.stride + 4 * i);
        else dot_u4(narrow[t], line, c.x + t * c.stride + 4 * i);
        if (i % steps == steps - 1 || i == N - 1) add_pairs(acc[t][0], narrow[t]);
      });
    } else {
      const v16i even = one_line ? field16(whole, at, bits_of(C)) : even16(line);
      const v16i odd = one_line ? field16(whole, at + 8, bits_of(C)) : odd16(line);
      unroll<T>([&](int t) KLENS_INLINE_LAMBDA {
        dot_s16(acc[t][i % A], even, c.x + t * c.stride + 4 * i);
        dot_s16(acc[t][(i + A / 2) % A], odd, c.x + t * c.stride + 4 * i + 2);
      });
    }
  });
}

/// The sum of `inputs` inputs, whole units and less than 32 only at the end of a row, with the zero point's correction:
/// -zero point * sum of the inputs, 32 at a time.
template <Codec C, Dot K, Fold F, int T>
KLENS_INLINE void integer_part(v16f (&part)[T][1], Cursor<K>& c, std::int64_t sums_stride, int inputs, int ahead) {
  constexpr Unit unit = codec_unit<C>;
  constexpr int A = parts<C, K, F, T>, block = 32, units = block / unit.inputs;
  static_assert(block % unit.inputs == 0);
  v16i acc[T][A];
  unroll<T>([&](int t) KLENS_INLINE_LAMBDA {
    unroll<A>([&](int i) KLENS_INLINE_LAMBDA { acc[t][i] = splat_i(0); });
  });
  const auto correct = [&]() KLENS_INLINE_LAMBDA {
    unroll<T>([&](int t) KLENS_INLINE_LAMBDA {
      acc[t][A - 1] = acc[t][A - 1] - shl(splat_i(c.sums[t * sums_stride]), zero_shift<C>);
    });
    ++c.sums;
  };
  for (; inputs >= block; inputs -= block) {
    if (ahead > 0)
      unroll<units * unit.lines>([&](int l) KLENS_INLINE_LAMBDA { __builtin_prefetch(c.at + ahead + l * line_bytes, 0, 3); });
    correct();
    dots_of<C, K, block / 4, T, A>(acc, c);
    c.at += units * unit_bytes<C>, c.x += block;
  }
  if (inputs > 0) correct();
  for (; inputs > 0; inputs -= unit.inputs, c.at += unit_bytes<C>, c.x += unit.inputs)
    dots_of<C, K, unit.inputs / 4, T, A>(acc, c);
  unroll<T>([&](int t) KLENS_INLINE_LAMBDA {
    unroll<A - 1>([&](int i) KLENS_INLINE_LAMBDA { acc[t][0] = acc[t][0] + acc[t][i + 1]; });
    part[t][0] = to_float(acc[t][0]);
  });
}

/// Tokens token .. token + T - 1 of panels panel .. panel + P - 1.
template <Codec C, DotKind D, Fold F, int T, int P>
KLENS_NOINLINE void tile(const LinearArgs& a, const LinearShape& s, int token, int panel) {
  constexpr Dot kind = kind_of<C, D>;
  Cursor<kind> c;
  c.at = a.w.lines + panel * s.panel_bytes, c.panel_bytes = s.panel_bytes;
  c.x = first_row<kind>(a.x) + token * a.x.stride, c.stride = a.x.stride;
  [[maybe_unused]] const std::int64_t sums_stride = a.x.stride / 32;
  if constexpr (kind != Dot::f32) c.sums = a.x.sums + token * sums_stride;
  [[maybe_unused]] const unsigned char* const end = c.at + s.panel_bytes;
  [[maybe_unused]] const half* scale = nullptr;
  if constexpr (F == Fold::scale) scale = static_cast<const half*>(a.w.scales) + panel * s.groups * lanes;
  [[maybe_unused]] int fetched = 0;
  if constexpr (kind != Dot::f32)
    if (F != Fold::scale || codec_unit<C>.lines > 1 || s.segment <= longest_fetched_group)
      fetched = far_fetches() ? fetch_of<C, kind, F, true>.near : fetch_of<C, kind, F>.near;
  [[maybe_unused]] int turn = 0;
  v16f sum[T][P];
  unroll<T>([&](int t) KLENS_INLINE_LAMBDA { unroll<P>([&](int p) KLENS_INLINE_LAMBDA { sum[t][p] = zero(); }); });
  for (int left = s.cols_padded; left > 0; left -= s.segment) {
    const int inputs = F == Fold::carry || left < s.segment ? left : s.segment;
    v16f part[T][P];
    if constexpr (kind == Dot::f32) {
      unroll<T>([&](int t) KLENS_INLINE_LAMBDA { unroll<P>([&](int p) KLENS_INLINE_LAMBDA { part[t][p] = zero(); }); });
      if constexpr (by_stages<C, T, P>) staged_chain<C, F>(part[0], c, end, inputs, turn);
      else chain<C, T, P>(part, c, end, inputs);
    } else {
      integer_part<C, kind, F, T>(part, c, sums_stride, inputs, fetched);
    }
    // Scales of the next tile begin P - 1 panels behind the end of the last panel's.
    [[maybe_unused]] const std::int64_t ahead =
        scales_ahead + (P == 1 || left > groups_ahead * s.segment ? 0 : (P - 1) * s.groups * lanes);
    [[maybe_unused]] const half* at = scale;
    unroll<P>([&](int p) KLENS_INLINE_LAMBDA {
      if constexpr (F == Fold::scale) {
        if constexpr (P > 1) at = opaque(at);
        const v16f s16 = load_half(at);
        __builtin_prefetch(at + ahead, 0, 3);
        at += s.groups * lanes;
        unroll<T>([&](int t) KLENS_INLINE_LAMBDA { sum[t][p] = fma(s16, part[t][p], sum[t][p]); });
      } else if constexpr (F == Fold::add) {
        unroll<T>([&](int t) KLENS_INLINE_LAMBDA { sum[t][p] = sum[t][p] + part[t][p]; });
      } else {
        unroll<T>([&](int t) KLENS_INLINE_LAMBDA { sum[t][p] = part[t][p]; });
      }
    });
    if constexpr (F == Fold::scale) scale += lanes;
    if constexpr (F == Fold::carry) break;
  }
  unroll<T>([&](int t) KLENS_INLINE_LAMBDA {
    unroll<P>([&](int p) KLENS_INLINE_LAMBDA { finish<C>(a, s, sum[t][p], token + t, panel + p); });
  });
}

/// T tokens of panels [panel, end); panels that do not fill a tile go a part of it at a time, or one token and one panel
/// (the bits are the same).
template <Codec C, DotKind D, Fold F, int T>
KLENS_INLINE void tokens(const LinearArgs& a, const LinearShape& s, int token, int panel, int end) {
  constexpr int P = panels<C, kind_of<C, D>, T>;
  for (; panel + P <= end; panel += P) tile<C, D, F, T, P>(a, s, token, panel);
  if constexpr (constexpr int R = rest_panels<P>; R > 1)
    for (; panel + R <= end; panel += R) tile<C, D, F, T, R>(a, s, token, panel);
  if constexpr (P > 1)
    for (; panel < end; ++panel)
      for (int t = 0; t < T; ++t) tile<C, D, F, 1, 1>(a, s, token + t, panel);
}

}  // namespace gemv_detail

/// All tokens, in tiles of 4, 2, 1. A few panels at a time, so that the second tile finds their weights in the cache.
template <Codec C, DotKind D, Fold F>
KLENS_INLINE void gemv(const LinearArgs& a, const LinearShape& s) {
  constexpr int most = gemv_detail::most_tokens<C, gemv_detail::kind_of<C, D>>;
  constexpr int step = gemv_detail::panels<C, gemv_detail::kind_of<C, D>, 1>;
  for (int panel = a.begin; panel < a.end; panel += step) {
    const int end = a.end - panel < step ? a.end : panel + step;
    int t = 0;
    if constexpr (most >= 4)
      for (; t + 4 <= a.tokens; t += 4) gemv_detail::tokens<C, D, F, 4>(a, s, t, panel, end);
    if constexpr (most >= 2)
      for (; t + 2 <= a.tokens; t += 2) gemv_detail::tokens<C, D, F, 2>(a, s, t, panel, end);
    for (; t < a.tokens; ++t) gemv_detail::tokens<C, D, F, 1>(a, s, t, panel, end);
  }
}

}  // namespace klens::inline KLENS_NS
