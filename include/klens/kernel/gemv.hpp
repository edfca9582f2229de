// Linear for a few tokens: packed weights stream through registers once per token tile and are unpacked there.
//
//   y[t][n] = sum_k w[n][k] x[t][k],  one lane per n, one chain per (t, n), k ascending      (folds: linear_common.hpp)
//
// A tile is T tokens x P panels of 16 outputs. Integers add up exactly in any order, so integer dots take one panel, in
// several accumulators: the weights are one stream from front to back. Float chains must not be split: P of them in T
// tokens hide the latency of the FMA. Bytes read: the panels once, T rows of x from L1.
//
// What the hardware prefetches is chosen by measurement (fetch_of), for integers by CPU (isa/fetch.hpp). One stream of single
// lines needs no help on Zen 4 (w8a8: 99 % of a plain read without fetches, 75 to 92 % with them), two pages ahead of it on
// Zen 5. Units of several lines are read out of order, and two or four streams at a time are more than one: those fetch a
// little ahead. Beside group scales, a thin second stream that is fetched 4 groups ahead, lines are fetched a page ahead or
// more: hardware prefetchers stop at pages.
#pragma once

#include <klens/isa/fetch.hpp>
#include <klens/kernel/linear_common.hpp>

namespace klens::inline KLENS_NS {

namespace gemv_detail {

/// Codes of 5 and 6 bits have int16 sums too, of 4 and 2 steps: worth it here, not in a GEMM, whose tiles want the
/// registers.
template <Codec C, DotKind D>
inline constexpr Dot kind_of = D == DotKind::a8 && has_dot_u4 && is_integer(C) && bits_of(C) <= 6 ? Dot::u4 : dot_of<C, D>;

/// How far ahead of its use a line is fetched into L1 and into L2; 0: not at all. Zen 4, 2048 x 2048 from DRAM.
/// f32 rows: codes that become floats fill the window with arithmetic, so that few misses are under way by themselves: L2
/// far ahead hides memory, L1 the L2 (w6, 512 bits, cycles per 16 weights: 3.2 with 512 bytes of L1 alone, 2.9 with L2
/// alone, 2.5 to 2.6 with both). 256 bits take longer per line, and single lines come in order: L2 is enough (nf4: both
/// cost 4 %). f16 and bf16, four streams: 320 bytes 2 to 4 % faster than 512, 768 a quarter slower.
/// Integers, share of a plain read: w4g32a8 4096 ahead 91 to 93 %, 0 77 to 83 % (to L2 75 %, whatever the distance); w6a8
/// 2048 ahead 76 to 83 %, 512 or 768 64 to 82 %. w8 with groups has twice the lines per scale: 88 to 94 % without, 68 to
/// 88 % with; groups of 128 as well (95, 88 %), so those have none (tile).
/// Zen 5, us of 2048 x 2048 from DRAM with 0 (multi-line and groups: as above), 4096, 8192, 12288 ahead: w4a8 avx2 63, 53,
/// 44, 41, avx512_vnni 51, 48, 41, 39; w6a8 89, 79, 69, 77; w4g32a8 56, 56, 46, 42; from L3 8192 costs up to 3 %, 12288 4.
/// w8 gains at levels without 512-bit VNNI (w8a8 avx2 133, 117, 105), not at that one, on which Zen 4 runs (101, 107, 106).
/// To L2 as well or instead: less. f32 rows: 8192 for L2 changes nothing, for f16 and bf16 it costs 7 to 10 %.
struct Fetch { int near, far; };
template <Codec C, Dot K, Fold F, bool FarFetches = false>
inline constexpr Fetch fetch_of =
    K == Dot::f32 && !has_codes<C>       ? Fetch{C == Codec::f32 ? 0 : 320, 0}
    : K == Dot::f32                      ? Fetch{codec_unit<C>.lines == 1 && vector_registers == 16 ? 0 : 1024, 3072}
    : FarFetches                         ? Fetch{C == Codec::i8 && vector_registers == 32 && has_dot_u8 ? 0 : 8192, 0}
    : F == Fold::scale && C != Codec::i8 ? Fetch{4096, 0}
    : codec_unit<C>.lines == 1           ? Fetch{0, 0}
                                         : Fetch{2048, 0};
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
/// 1.21). w4 in 8: clang 14 makes 2 stack accesses for 64 products. w2 at 256 bits: 2.07 with 2, 1.73 with 3, each unpacked
/// by itself: together, or 4, would spill.
template <Codec C, Dot K, int T>
inline constexpr int panels = K != Dot::f32 || vector_registers == 0 ? 1
    : T == 4                                                   ? vector_registers / 16
    : C == Codec::f32                                          ? 2
    : T == 2                                                   ? (vector_registers == 32 ? 4 : is_float(C) ? 2 : 1)
    : vector_registers == 32 && codec_unit<C>.lines == 1 && bits_of(C) <= 4 && !(is_clang && C == Codec::i4) ? 8
    : vector_registers == 32 || is_float(C)                    ? 4
    : C == Codec::i2 && !clang_spills                          ? 3
    : clang_spills && C == Codec::i3                           ? 1  // two: 4 stack accesses for 128 products
                                                               : 2;

/// Panels of the tiles that take what fills no tile of P.
template <int P>
inline constexpr int rest_panels = P == 8 ? 4 : P == 3 ? 2 : 1;

/// Accumulators of each token of an integer tile. A VNNI dot takes 4 or 5 cycles, so a few are kept in flight; a group
/// is short and groups overlap, so two do. Without VNNI the chain is an addition, and yet two of them are faster (Zen 4,
/// w8a8: 1.60 cycles for 32 bytes in a loop on registers, one 1.76; the GEMV by 4 % on 256 bits, by 16 % on 512).
template <Dot K, Fold F, int T>
inline constexpr int parts = T == 4 || K == Dot::u4 ? 1
    : !has_dot_u8                                   ? (T == 1 ? 2 : 1)
    : F == Fold::scale                              ? (T == 1 ? 2 : vector_registers / (8 * T))
                                                    : vector_registers / (8 * T);

/// What is added to a line's address to fetch it ahead of its use: `left` bytes of each of P panels lie there and behind,
/// and the next tile goes on P panels later.
struct Ahead { std::int64_t far, near; };
template <Codec C, Dot K, Fold F, int P>
KLENS_INLINE Ahead ahead_of([[maybe_unused]] std::int64_t panel_bytes, [[maybe_unused]] std::int64_t left) {
  constexpr Fetch f = fetch_of<C, K, F>;
  // Without a branch: gcc 12 would make two loops of one.
  const auto from = [&](int bytes) KLENS_INLINE_LAMBDA {
    return bytes + (P == 1 ? 0 : (P - 1) * panel_bytes & -std::int64_t(left <= bytes));
  };
  return {from(f.far), from(f.near)};
}
template <Codec C, Dot K, Fold F>
KLENS_INLINE void fetch_line([[maybe_unused]] const unsigned char* line, [[maybe_unused]] const Ahead& ahead) {
  constexpr Fetch f = fetch_of<C, K, F>;
  if constexpr (f.far > 0) __builtin_prefetch(line + ahead.far, 0, 2);
  if constexpr (f.near > 0) __builtin_prefetch(line + ahead.near, 0, 3);
}

/// Where a tile reads next; all of it advances with the inputs.
template <Dot K>
struct Cursor {
  const unsigned char* at;       // first panel
  const Row<K>* x;               // first token
  const std::int32_t* sums;      // first token, integers only
  std::int64_t panel_bytes, stride;
};

/// acc[t][p] += one unit of floats of 16 bits, or one input of f32.
template <Codec C, int T, int P>
KLENS_INLINE void float_unit(v16f (&acc)[T][P], const Cursor<Dot::f32>& c) {
  constexpr Unit unit = codec_unit<C>;
  unroll<unit.inputs * P>([&](int n) KLENS_INLINE_LAMBDA {
    // Two inputs of bf16 share a line. Four panels of one token take both at once: clang 14 would keep the lines of
    // all in 8 of 16 registers and spill 12 times. Two tokens have no registers for their four inputs.
    constexpr bool by_line = C == Codec::bf16 && T == 1 && vector_registers == 16;
    const int i = by_line ? n % unit.inputs : n / P, p = by_line ? n / unit.inputs : n % P;
    const v16f w = value<C>(c.at + p * c.panel_bytes, i);
    unroll<T>([&](int t) KLENS_INLINE_LAMBDA { fma_step(acc[t][p], w, c.x + t * c.stride + i); });
  });
}

/// Runs of 8 units of f16 or bf16 in four panels, as many as `inputs` holds: a run fetches the lines of a later one, 512 bytes
/// of a panel after another, 2 KB ahead. Zen 5's memory gives 40 GB/s to one stream and 33 to four of which a line each is read
/// in turn, and so 37: us of 2048 x 2048 from DRAM f16 257 -> 225, bf16 256 -> 228 (512 bits), 250 -> 227, 257 -> 222 (256 bits);
/// runs of 256 bytes 272, of 1 KB 235; 1.5 to 3 KB ahead within 5 %. The first unit stands apart: where the four fetches are
/// the same instructions in all units nothing is gained (260), presumably because fetches, too, train hardware prefetchers
/// by the instruction's address.
template <Codec C, int P>
inline constexpr bool has_runs = is_float(C) && C != Codec::f32 && P == 4;
template <Codec C, int T, int P>
KLENS_INLINE void float_runs(v16f (&acc)[T][P], Cursor<Dot::f32>& c, const unsigned char* end, int& inputs) {
  constexpr int units = 8, ahead = 4 * units * line_bytes, run = units * codec_unit<C>.inputs;
  static_assert(codec_unit<C>.lines == 1 && units % P == 0);
  for (; inputs >= run; inputs -= run) {
    // At a panel's end the next tile's, P - 1 panels on.
    const unsigned char* next = c.at + ahead + (end - c.at <= ahead ? (P - 1) * c.panel_bytes : 0);
    const auto one = [&](int n) KLENS_INLINE_LAMBDA {
      unroll<P>([&](int l) KLENS_INLINE_LAMBDA { __builtin_prefetch(next + l * line_bytes, 0, 3); });
      next += P * line_bytes + (n % (units / P) == 0 ? c.panel_bytes - units * line_bytes : 0);
      float_unit<C>(acc, c);
      c.at += unit_bytes<C>, c.x += codec_unit<C>.inputs;
    };
    one(1);
    for (int n = 2; n <= units; ++n) one(n);
  }
}

/// acc[t][p] += `inputs` inputs in f32, whole units.
template <Codec C, int T, int P>
KLENS_INLINE void chain(v16f (&acc)[T][P], Cursor<Dot::f32>& c, const unsigned char* end, int inputs) {
  constexpr Unit unit = codec_unit<C>;
  [[maybe_unused]] const Levels<C> levels;
  if constexpr (has_runs<C, P>)
    if (far_fetches()) float_runs<C>(acc, c, end, inputs);
  for (; inputs > 0; inputs -= unit.inputs, c.at += unit_bytes<C>, c.x += unit.inputs) {
    // Codes: a share of the lines at every step. All at once, six lines of four panels hold up the loads behind them (Zen 5,
    // w6 from DRAM, 512 bits: 1.94 cycles per 16 weights, so 1.70); on 16 registers clang 14 would spill. Floats have one
    // line.
    [[maybe_unused]] const Ahead ahead = ahead_of<C, Dot::f32, Fold::carry, P>(c.panel_bytes, end - c.at);
    [[maybe_unused]] const auto fetch = [&](const unsigned char* panel, int step) KLENS_INLINE_LAMBDA {
      unroll<unit.lines>([&](int l) KLENS_INLINE_LAMBDA {
        const int at = clang_spills ? 0 : l * (unit.inputs / 4) / unit.lines;
        if (at == step) fetch_line<C, Dot::f32, Fold::carry>(panel + l * line_bytes, ahead);
      });
    };
    if constexpr (!has_codes<C>)
      unroll<P>([&](int p) KLENS_INLINE_LAMBDA { fetch_line<C, Dot::f32, Fold::carry>(c.at + p * c.panel_bytes, ahead); });
#if defined(KLENS_HAS_AVX2) && !defined(KLENS_HAS_AVX512)
    if constexpr (has_codes<C> && !by_table<C> && T == 1 && P == 2) {
      const CodeSteps<bits_of(C), zero_point<C>> steps;
      unroll<unit.inputs / 4>([&](int i) KLENS_INLINE_LAMBDA {
        const auto of = [&](int p) KLENS_INLINE_LAMBDA {
          fetch(c.at + p * c.panel_bytes, i);
          return move_bits(codes<C>(c.at + p * c.panel_bytes, i), code_at<C>(i), 0);
        };
        const v16i first = of(0), second = of(1);
        steps(acc[0], first, second, c.x + 4 * i);
      });
      continue;
    }
#endif
    if constexpr (has_codes<C>)
      unroll<unit.inputs / 4>([&](int i) KLENS_INLINE_LAMBDA {
        // gcc 12 would hold an address for each line of each panel, more than there are registers.
        const unsigned char* panel = c.at;
        constexpr int together = P == 3 ? 1 : P;
        unroll<P / together>([&](int first) KLENS_INLINE_LAMBDA {
          v16i packed[together];
          unroll<together>([&](int p) KLENS_INLINE_LAMBDA {
            if constexpr (P > 1) panel = opaque(panel);
            packed[p] = codes<C>(panel, i);
            fetch(panel, i);
            panel += c.panel_bytes;
          });
          unroll<4>([&](int j) KLENS_INLINE_LAMBDA {
            unroll<together>([&](int p) KLENS_INLINE_LAMBDA {
              packed[p] = after(acc[T - 1][first + (p + together - 1) % together], packed[p]);
              const v16f w = float_of_code<C>(packed[p], levels, i, j);
              unroll<T>([&](int t) KLENS_INLINE_LAMBDA { fma_step(acc[t][first + p], w, c.x + t * c.stride + 4 * i + j); });
            });
          });
        });
      });
    else
      float_unit<C>(acc, c);
  }
}

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
        if (i % steps == 0) narrow[t] = splat_i(0);
        dot_u4(narrow[t], line, c.x + t * c.stride + 4 * i);
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
  constexpr int A = parts<K, F, T>, block = 32, units = block / unit.inputs;
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
  v16f sum[T][P];
  unroll<T>([&](int t) KLENS_INLINE_LAMBDA { unroll<P>([&](int p) KLENS_INLINE_LAMBDA { sum[t][p] = zero(); }); });
  for (int left = s.cols_padded; left > 0; left -= s.segment) {
    const int inputs = F == Fold::carry || left < s.segment ? left : s.segment;
    v16f part[T][P];
    if constexpr (kind == Dot::f32) {
      unroll<T>([&](int t) KLENS_INLINE_LAMBDA { unroll<P>([&](int p) KLENS_INLINE_LAMBDA { part[t][p] = zero(); }); });
      chain<C, T, P>(part, c, end, inputs);
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
