// Linear for a few tokens: packed weights stream through registers once per token tile and are unpacked there.
//
//   y[t][n] = sum_k w[n][k] x[t][k],  one lane per n, one chain per (t, n), k ascending      (folds: linear_common.hpp)
//
// A tile is T tokens x P panels of 16 outputs. Integers add up exactly in any order, so integer dots take one panel, in
// several accumulators: the weights are one stream from front to back. Float chains must not be split: P of them in T tokens
// hide the latency of the FMA. Bytes read: the panels once, T rows of x from L1.
//
// What the hardware prefetches is chosen by measurement: one stream of single lines needs no help (w8a8, Zen 4: 99 % of a plain
// read without fetches, 75 to 92 % with them). Units of several lines are read out of order, and two or four streams at a time
// are more than one: those fetch a little ahead (fetch_of). Group scales are a thin second stream: fetched 16 groups ahead.
#pragma once

#include <klens/kernel/linear_common.hpp>

namespace klens::inline KLENS_NS {

namespace gemv_detail {

/// How far ahead of its use a line is fetched, and into which cache (3: L1, 2: L2); 0: not at all.
struct Fetch { int bytes, locality; };
template <Codec C, Dot K>
inline constexpr Fetch fetch_of = K == Dot::f32 ? (C == Codec::f32 ? Fetch{0, 0} : Fetch{512, 3})
    : codec_unit<C>.lines == 1                  ? Fetch{0, 0}
    : vector_registers == 32                    ? Fetch{768, 2}
                                                : Fetch{512, 3};
inline constexpr int scales_ahead = 16 * lanes;

/// Tokens of the largest tile. Ref has no registers to fill; on 16 of half the width unpacking takes many of them.
template <Codec C, Dot K>
inline constexpr int most_tokens = vector_registers == 0                                      ? 1
    : vector_registers == 32 || is_float(C) || (C == Codec::i8 && K != Dot::f32)              ? 4
    : K == Dot::u4 || C == Codec::i3 || (K == Dot::f32 && codec_unit<C>.lines > 1)            ? 1
                                                                                              : 2;

/// Panels of a tile of T tokens: integers need one; f32 lines arrive more slowly than an FMA takes, so two chains do.
template <Codec C, Dot K, int T>
inline constexpr int panels = K != Dot::f32 || vector_registers == 0 ? 1
    : T == 4                                                         ? vector_registers / 16
    : T == 2                                                         ? (vector_registers == 32 || is_float(C) ? 2 : 1)
    : C == Codec::f32                                                ? 2
    : vector_registers == 32 || is_float(C)                          ? 4
    : codec_unit<C>.lines == 1                                       ? 2
                                                                     : 1;

/// Accumulators of each token of an integer tile. A VNNI dot takes 4 or 5 cycles, so a few are kept in flight; without VNNI the
/// chain is an addition.
template <int T>
inline constexpr int parts = !has_dot_u8 || T == 4 ? 1 : vector_registers / (8 * T);

/// Fetches for the N lines that P streams will be at later; a stream is a panel, and the tile after it goes on P panels later.
template <Codec C, Dot K, int P, int N>
KLENS_INLINE void fetch_ahead(const unsigned char* begin, const unsigned char* at, std::int64_t panel_bytes) {
  constexpr Fetch f = fetch_of<C, K>;
  if constexpr (f.bytes > 0) {
    const std::int64_t next = at - begin + f.bytes;
    const unsigned char* const ahead = begin + (next < panel_bytes ? next : next + (P - 1) * panel_bytes);
    unroll<P>([&](int p) KLENS_INLINE_LAMBDA {
      unroll<N>([&](int l) KLENS_INLINE_LAMBDA {
        __builtin_prefetch(ahead + p * panel_bytes + l * line_bytes, 0, f.locality);
      });
    });
  }
}

/// acc[t][p] += inputs [begin, end) in f32.
template <Codec C, int T, int P>
KLENS_INLINE void chain(v16f (&acc)[T][P], const unsigned char* lines, std::int64_t panel_bytes, const float* x,
                        std::int64_t stride, int begin, int end) {
  constexpr Unit unit = codec_unit<C>;
  [[maybe_unused]] const Levels<C> levels;
  const unsigned char* at = lines + std::int64_t(begin / unit.inputs) * unit_bytes<C>;
  for (int k = begin; k < end; k += unit.inputs, at += unit_bytes<C>) {
    fetch_ahead<C, Dot::f32, P, unit.lines>(lines, at, panel_bytes);
    if constexpr (has_codes<C>)
      unroll<unit.inputs / 4>([&](int i) KLENS_INLINE_LAMBDA {
        v16i packed[P];
        unroll<P>([&](int p) KLENS_INLINE_LAMBDA { packed[p] = not_kept(codes<C>(at + p * panel_bytes, i)); });
        unroll<4>([&](int j) KLENS_INLINE_LAMBDA {
          unroll<P>([&](int p) KLENS_INLINE_LAMBDA {
            const v16f w = float_of_code<C>(packed[p], levels, i, j);
            unroll<T>([&](int t) KLENS_INLINE_LAMBDA { fma_step(acc[t][p], w, x + t * stride + k + 4 * i + j); });
          });
        });
      });
    else
      unroll<unit.inputs>([&](int i) KLENS_INLINE_LAMBDA {
        unroll<P>([&](int p) KLENS_INLINE_LAMBDA {
          const v16f w = value<C>(at + p * panel_bytes, i);
          unroll<T>([&](int t) KLENS_INLINE_LAMBDA { fma_step(acc[t][p], w, x + t * stride + k + i); });
        });
      });
  }
}

/// acc[t][.] += 4 N inputs, in exact integers: u8 lines x int8 rows, or both halves of a line x int16 rows (order 0 2 1 3).
template <Codec C, Dot K, int N, int T, int A>
KLENS_INLINE void dots_of(v16i (&acc)[T][A], const unsigned char* at, const Row<K>* x, std::int64_t stride) {
  constexpr int per_unit = codec_unit<C>.inputs / 4;
  v16i narrow[T];
  unroll<N>([&](int i) KLENS_INLINE_LAMBDA {
    const v16i line = not_kept(u8_line<C>(at + i / per_unit * unit_bytes<C>, i % per_unit));
    if constexpr (K == Dot::u8) {
      unroll<T>([&](int t) KLENS_INLINE_LAMBDA { dot_u8(acc[t][i % A], line, x + t * stride + 4 * i); });
    } else if constexpr (K == Dot::u4) {
      unroll<T>([&](int t) KLENS_INLINE_LAMBDA {
        if (i == 0) narrow[t] = splat_i(0);
        dot_u4(narrow[t], line, x + t * stride + 4 * i);
      });
    } else {
      const v16i even = even16(line), odd = odd16(line);
      unroll<T>([&](int t) KLENS_INLINE_LAMBDA {
        dot_s16(acc[t][i % A], even, x + t * stride + 4 * i);
        dot_s16(acc[t][(i + A / 2) % A], odd, x + t * stride + 4 * i + 2);
      });
    }
  });
  if constexpr (K == Dot::u4)
    unroll<T>([&](int t) KLENS_INLINE_LAMBDA { add_pairs(acc[t][0], narrow[t]); });
}

/// 32 inputs at a time (8 lines of u8): a group, or part of one; the end of a row may have fewer.
template <Codec C, Dot K, int T, int A>
KLENS_INLINE void dots(v16i (&acc)[T][A], const unsigned char* lines, std::int64_t panel_bytes, const Row<K>* x,
                       std::int64_t stride, int begin, int end) {
  constexpr Unit unit = codec_unit<C>;
  constexpr int block = 32, units = block / unit.inputs;
  static_assert(block % unit.inputs == 0 && block <= 4 * dot_u4_steps);
  const unsigned char* at = lines + std::int64_t(begin / unit.inputs) * unit_bytes<C>;
  int k = begin;
  for (; k + block <= end; k += block, at += units * unit_bytes<C>) {
    fetch_ahead<C, K, 1, units * unit.lines>(lines, at, panel_bytes);
    dots_of<C, K, block / 4>(acc, at, x + k, stride);
  }
  for (; k < end; k += unit.inputs, at += unit_bytes<C>) dots_of<C, K, unit.inputs / 4>(acc, at, x + k, stride);
}

/// Inputs [begin, end) of T tokens and one panel, with the zero point's correction: -zero point * sum of the inputs.
template <Codec C, Dot K, int T>
KLENS_INLINE void integer_part(v16f (&part)[T][1], const LinearArgs& a, std::int64_t panel_bytes,
                               const unsigned char* lines, const Row<K>* x, int token, int begin, int end) {
  constexpr int A = parts<T>;
  v16i acc[T][A];
  unroll<T>([&](int t) KLENS_INLINE_LAMBDA {
    const std::int32_t* sums = a.x.sums + (token + t) * (a.x.stride / 32);
    v16i total = splat_i(sums[begin / 32]);
    for (int i = begin / 32 + 1; i < (end + 31) / 32; ++i) total = total + splat_i(sums[i]);
    acc[t][0] = splat_i(0) - shl(total, zero_shift<C>);
    unroll<A - 1>([&](int i) KLENS_INLINE_LAMBDA { acc[t][i + 1] = splat_i(0); });
  });
  dots<C, K, T, A>(acc, lines, panel_bytes, x, a.x.stride, begin, end);
  unroll<T>([&](int t) KLENS_INLINE_LAMBDA {
    unroll<A - 1>([&](int i) KLENS_INLINE_LAMBDA { acc[t][0] = acc[t][0] + acc[t][i + 1]; });
    part[t][0] = to_float(acc[t][0]);
  });
}

/// Tokens token .. token + T - 1 of panels panel .. panel + P - 1.
template <Codec C, DotKind D, Fold F, int T, int P>
KLENS_NOINLINE void tile(const LinearArgs& a, const LinearShape& s, int token, int panel) {
  constexpr Dot kind = dot_of<C, D>;
  const unsigned char* lines = a.w.lines + panel * s.panel_bytes;
  const Row<kind>* x = first_row<kind>(a.x) + token * a.x.stride;
  v16f sum[T][P];
  unroll<T>([&](int t) KLENS_INLINE_LAMBDA { unroll<P>([&](int p) KLENS_INLINE_LAMBDA { sum[t][p] = zero(); }); });
  std::int64_t group = 0;
  for (int begin = 0; begin < s.cols_padded; begin += s.segment, ++group) {
    const int end = s.cols_padded - begin < s.segment ? s.cols_padded : begin + s.segment;
    v16f part[T][P];
    if constexpr (kind == Dot::f32) {
      unroll<T>([&](int t) KLENS_INLINE_LAMBDA { unroll<P>([&](int p) KLENS_INLINE_LAMBDA { part[t][p] = zero(); }); });
      chain<C, T, P>(part, lines, s.panel_bytes, x, a.x.stride, begin, end);
    } else {
      integer_part<C, kind, T>(part, a, s.panel_bytes, lines, x, token, begin, end);
    }
    unroll<P>([&](int p) KLENS_INLINE_LAMBDA {
      if constexpr (F == Fold::scale) {
        const v16f scale = group_scales(a, s, panel + p, group);
        __builtin_prefetch(static_cast<const half*>(a.w.scales) + ((panel + p) * s.groups + group) * lanes + scales_ahead, 0, 3);
        unroll<T>([&](int t) KLENS_INLINE_LAMBDA { sum[t][p] = fma(scale, part[t][p], sum[t][p]); });
      } else if constexpr (F == Fold::add) {
        unroll<T>([&](int t) KLENS_INLINE_LAMBDA { sum[t][p] = sum[t][p] + part[t][p]; });
      } else {
        unroll<T>([&](int t) KLENS_INLINE_LAMBDA { sum[t][p] = part[t][p]; });
      }
    });
  }
  unroll<T>([&](int t) KLENS_INLINE_LAMBDA {
    unroll<P>([&](int p) KLENS_INLINE_LAMBDA { finish<C>(a, s, sum[t][p], token + t, panel + p); });
  });
}

/// T tokens of panels [panel, end); panels that do not fill a tile go one token and one panel at a time (the bits are the same).
template <Codec C, DotKind D, Fold F, int T>
KLENS_INLINE void tokens(const LinearArgs& a, const LinearShape& s, int token, int panel, int end) {
  constexpr int P = panels<C, dot_of<C, D>, T>;
  for (; panel + P <= end; panel += P) tile<C, D, F, T, P>(a, s, token, panel);
  if constexpr (P > 1)
    for (; panel < end; ++panel)
      for (int t = 0; t < T; ++t) tile<C, D, F, 1, 1>(a, s, token + t, panel);
}

}  // namespace gemv_detail

/// All tokens, in tiles of 4, 2, 1. A few panels at a time, so that the second tile finds their weights in the cache.
template <Codec C, DotKind D, Fold F>
KLENS_INLINE void gemv(const LinearArgs& a, const LinearShape& s) {
  constexpr int most = gemv_detail::most_tokens<C, dot_of<C, D>>;
  constexpr int step = gemv_detail::panels<C, dot_of<C, D>, 1>;
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
