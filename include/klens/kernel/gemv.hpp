// Linear for a few tokens: packed weights stream through registers once per token tile and are unpacked there.
//
//   y[t][n] = sum_k w[n][k] x[t][k],  one lane per n, one chain per (t, n), k ascending      (folds: linear_common.hpp)
//
// A tile is T tokens x P panels of 16 outputs: T P independent chains hide the latency of the FMA (4 cycles, so at
// least 4 chains), never a second chain per output. Bytes read: the panels once, T rows of x from L1.
#pragma once

#include <klens/kernel/linear_common.hpp>

namespace klens::inline KLENS_NS {

/// Largest token tile, and the panels that go with T tokens: the accumulators of T x P virtual registers stay in
/// registers. Level ref has none to fill: one accumulator. 8 tokens at a time were no faster than 4 twice, as four tokens
/// on two panels already give 8 chains.
inline constexpr int gemv_most_tokens = vector_registers == 0 ? 1 : 4;

template <int T>
inline constexpr int gemv_panels = vector_registers == 0 ? 1 : T == 1 ? 4 : T == 2 || vector_registers == 32 ? 2 : 1;

namespace gemv_detail {

/// acc[t][p] += inputs [begin, end) in f32.
template <Codec C, int T, int P>
KLENS_INLINE void chain(v16f (&acc)[T][P], const unsigned char* lines, std::int64_t panel_bytes, const float* x,
                        std::int64_t stride, int begin, int end) {
  constexpr Unit unit = codec_unit<C>;
  [[maybe_unused]] const Levels<C> levels;
  const unsigned char* at = lines + std::int64_t(begin / unit.inputs) * unit_bytes<C>;
  for (int k = begin; k < end; k += unit.inputs, at += unit_bytes<C>) {
    if constexpr (is_integer(C)) {
      unroll<unit.inputs / 4>([&](int i) KLENS_INLINE_LAMBDA {
        unroll<P>([&](int p) KLENS_INLINE_LAMBDA {
          const v16i line = u8_line<C>(at + p * panel_bytes, i);
          unroll<4>([&](int j) KLENS_INLINE_LAMBDA {
            const v16f w = float_of_byte<C>(line, levels, j);
            unroll<T>([&](int t) KLENS_INLINE_LAMBDA { fma_step(acc[t][p], w, x + t * stride + k + 4 * i + j); });
          });
        });
      });
    } else {
      unroll<unit.inputs>([&](int i) KLENS_INLINE_LAMBDA {
        unroll<P>([&](int p) KLENS_INLINE_LAMBDA {
          const v16f w = value<C>(at + p * panel_bytes, levels, i);
          unroll<T>([&](int t) KLENS_INLINE_LAMBDA { fma_step(acc[t][p], w, x + t * stride + k + i); });
        });
      });
    }
  }
}

/// The same in exact integers: u8 lines x int8 rows, or both halves of a line x int16 rows (order 0 2 1 3).
template <Codec C, int T, int P, class Q>
KLENS_INLINE void dots(v16i (&acc)[T][P], const unsigned char* lines, std::int64_t panel_bytes, const Q* x,
                       std::int64_t stride, int begin, int end) {
  constexpr Unit unit = codec_unit<C>;
  const unsigned char* at = lines + std::int64_t(begin / unit.inputs) * unit_bytes<C>;
  for (int k = begin; k < end; k += unit.inputs, at += unit_bytes<C>) {
    unroll<unit.inputs / 4>([&](int i) KLENS_INLINE_LAMBDA {
      unroll<P>([&](int p) KLENS_INLINE_LAMBDA {
        const v16i line = u8_line<C>(at + p * panel_bytes, i);
        if constexpr (sizeof(Q) == 1) {
          unroll<T>([&](int t) KLENS_INLINE_LAMBDA { dot_u8(acc[t][p], line, x + t * stride + k + 4 * i); });
        } else {
          const v16i even = even16(line), odd = odd16(line);
          unroll<T>([&](int t) KLENS_INLINE_LAMBDA {
            dot_s16(acc[t][p], even, x + t * stride + k + 4 * i);
            dot_s16(acc[t][p], odd, x + t * stride + k + 4 * i + 2);
          });
        }
      });
    });
  }
}

/// Tokens token .. token + T - 1 of panels panel .. panel + P - 1.
template <Codec C, DotKind D, int T, int P>
KLENS_NOINLINE void tile(const LinearArgs& a, const LinearShape& s, int token, int panel) {
  const unsigned char* lines = a.w.lines + panel * s.panel_bytes;
  const Row<D>* x = first_row<D>(a.x) + token * a.x.stride;
  v16f sum[T][P];
  unroll<T>([&](int t) KLENS_INLINE_LAMBDA { unroll<P>([&](int p) KLENS_INLINE_LAMBDA { sum[t][p] = zero(); }); });
  std::int64_t group = 0;
  for (int begin = 0; begin < s.cols_padded; begin += s.segment, ++group) {
    const int end = s.cols_padded - begin < s.segment ? s.cols_padded : begin + s.segment;
    v16f part[T][P];
    if constexpr (D == DotKind::f32) {
      unroll<T>([&](int t) KLENS_INLINE_LAMBDA { unroll<P>([&](int p) KLENS_INLINE_LAMBDA { part[t][p] = zero(); }); });
      chain<C, T, P>(part, lines, s.panel_bytes, x, a.x.stride, begin, end);
    } else {
      v16i dot[T][P];
      unroll<T>([&](int t) KLENS_INLINE_LAMBDA {
        const v16i start = splat_i(correction<C>(a.x, token + t, begin, end));
        unroll<P>([&](int p) KLENS_INLINE_LAMBDA { dot[t][p] = start; });
      });
      dots<C, T, P>(dot, lines, s.panel_bytes, x, a.x.stride, begin, end);
      unroll<T>([&](int t) KLENS_INLINE_LAMBDA {
        unroll<P>([&](int p) KLENS_INLINE_LAMBDA { part[t][p] = to_float(dot[t][p]); });
      });
    }
    unroll<P>([&](int p) KLENS_INLINE_LAMBDA {
      if (s.fold == Fold::scale) {
        const v16f scale = group_scales(a, s, panel + p, group);
        unroll<T>([&](int t) KLENS_INLINE_LAMBDA { sum[t][p] = fma(scale, part[t][p], sum[t][p]); });
      } else if (s.fold == Fold::add) {
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
template <Codec C, DotKind D, int T>
KLENS_INLINE void tokens(const LinearArgs& a, const LinearShape& s, int token, int panel, int end) {
  constexpr int P = gemv_panels<T>;
  for (; panel + P <= end; panel += P) tile<C, D, T, P>(a, s, token, panel);
  if constexpr (P > 1)
    for (; panel < end; ++panel)
      for (int t = 0; t < T; ++t) tile<C, D, 1, 1>(a, s, token + t, panel);
}

}  // namespace gemv_detail

/// All tokens, in tiles of 4, 2, 1. Four panels at a time, so that the second tile finds their weights in the cache.
template <Codec C, DotKind D>
KLENS_INLINE void gemv(const LinearArgs& a, const LinearShape& s) {
  constexpr int step = gemv_panels<1>;
  for (int panel = a.begin; panel < a.end; panel += step) {
    const int end = a.end - panel < step ? a.end : panel + step;
    int t = 0;
    if constexpr (gemv_most_tokens >= 4) {
      for (; t + 4 <= a.tokens; t += 4) gemv_detail::tokens<C, D, 4>(a, s, t, panel, end);
      for (; t + 2 <= a.tokens; t += 2) gemv_detail::tokens<C, D, 2>(a, s, t, panel, end);
    }
    for (; t < a.tokens; ++t) gemv_detail::tokens<C, D, 1>(a, s, t, panel, end);
  }
}

}  // namespace klens::inline KLENS_NS
