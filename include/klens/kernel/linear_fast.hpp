// Linear of the policy `fast`: bf16 weights times rows rounded to bf16, by vdpbf16ps, twice the rate of fma where the
// CPU has two ports for it. It breaks the promise of equal bits between machines and levels, so nothing uses it unless
// asked to.
//
//   y[t][n] = (sum_k w[n][k] bf16(x[t][k])) * token scale[t], then the epilogue of linear.hpp
//
// One lane and one chain per output, pairs of k ascending: on one machine its own GEMV and GEMM agree bit for bit.
// Error: |y - sum w x| <= (2^-9 + (1.5 K + 8) 2^-24) sum |w x|: the rounding of x (2^-9; 0 for a8 rows, whose integers
// bf16 holds), and at most three roundings per pair; inputs and sums under 2^-126 count as 0. Test:
// tests/kernel/linear_fast.cpp.
#pragma once

#include <klens/kernel/linear_common.hpp>
#include <klens/simd/dot_bf16.hpp>

namespace klens::inline KLENS_NS {

/// Rows of f32 as linear_fast reads them.
inline void round_rows(const RoundRowsArgs& a) {
  KLENS_ASSERT(a.stride % row_unit == 0 && a.stride >= a.cols);
  for (int t = a.begin; t < a.end; ++t) {
    const float* x = a.x + t * a.x_stride;
    std::int16_t* y = reinterpret_cast<std::int16_t*>(a.y + t * a.stride);
    for (int c = 0; c < int(a.stride); c += lanes) {
      const int left = a.cols - c < lanes ? a.cols - c : lanes;
      store_i16(y + c, left > 0 ? round_bf16(load_n(x + c, left)) : splat_i(0));
    }
  }
}

#if defined(KLENS_HAS_BF16)

namespace fast_detail {

inline constexpr int block_inputs = 512;   // two panels of them are 32 KB
inline constexpr int most_tokens = 504, most_rows = 12;
inline constexpr int copied_stride = block_inputs + 32;
inline constexpr std::int64_t sums_bytes = std::int64_t(most_tokens) * 2 * lanes * 4;
static_assert(sums_bytes + most_rows * copied_stride * 2 <= linear_scratch_bytes);

/// Inputs [0, depth) of R tokens and P panels.
struct Block {
  const unsigned char* lines;
  std::int64_t panel_bytes;
  const bf16* x;
  std::int64_t stride;
  int depth;
  bool first;       // else sums go on
  float* sums;      // [R][P][16]
  const unsigned char* next;  // fetched meanwhile, next_step bytes on per line
  int next_step;
};

/// The micro-kernel. Rows are addressed as three per pointer, as in gemm_tile.hpp.
template <int R, int P, bool Fetches = true>
KLENS_NOINLINE void multiply(const Block& b) {
  constexpr int bases = (R + 2) / 3;
  v16f acc[R][P];
  unroll<R>([&](int m) KLENS_INLINE_LAMBDA {
    unroll<P>([&](int p) KLENS_INLINE_LAMBDA { acc[m][p] = b.first ? zero() : load(b.sums + (m * P + p) * lanes); });
  });
  const bf16* x[bases];
  const std::int64_t stride = b.stride;
  unroll<bases>([&](int i) KLENS_INLINE_LAMBDA { x[i] = b.x + 3 * i * stride; });
  [[maybe_unused]] const unsigned char* next = b.next;
  const unsigned char* w = b.lines;
  for (int k = 0; k < b.depth; k += 2, w += line_bytes) {
    if constexpr (Fetches) __builtin_prefetch(next, 0, 2), next += b.next_step;
    v16i line[P];
    unroll<P>([&](int p) KLENS_INLINE_LAMBDA { line[p] = load_line(w + p * b.panel_bytes); });
    unroll<R>([&](int m) KLENS_INLINE_LAMBDA {
      const auto input = input_of<P == 2>(x[m / 3] + (m % 3) * stride);
      unroll<P>([&](int p) KLENS_INLINE_LAMBDA { dot_bf16(acc[m][p], line[p], input); });
    });
    unroll<bases>([&](int j) KLENS_INLINE_LAMBDA { x[j] += 2; });
  }
  unroll<R>([&](int m) KLENS_INLINE_LAMBDA {
    unroll<P>([&](int p) KLENS_INLINE_LAMBDA { store(b.sums + (m * P + p) * lanes, acc[m][p]); });
  });
}

/// Tokens token .. token + R - 1 of panels panel .. panel + P - 1, all of K.
template <Codec C, int R, int P>
KLENS_INLINE void tile(const LinearArgs& a, const LinearShape& s, int token, int panel) {
  alignas(64) float sums[R * P * lanes];
  multiply<R, P, false>({a.w.lines + panel * s.panel_bytes, s.panel_bytes, a.x.rounded + token * a.x.stride, a.x.stride,
                         s.cols_padded, true, sums, nullptr, 0});
  for (int t = 0; t < R; ++t)
    for (int p = 0; p < P; ++p) finish<C>(a, s, load(sums + (t * P + p) * lanes), token + t, panel + p);
}

template <Codec C, int R, int P>
KLENS_INLINE void tiles(const LinearArgs& a, const LinearShape& s, int token) {
  int panel = a.begin;
  for (; panel + P <= a.end; panel += P) tile<C, R, P>(a, s, token, panel);
  for (; panel < a.end; ++panel) tile<C, R, 1>(a, s, token, panel);
}

/// Rows a multiple of 1 KB apart evict each other from L1 (gemm_tile.hpp): such a tile is copied.
KLENS_INLINE Block without_conflicts(Block b, bf16* to) {
  if (b.stride * 2 % 1024 != 0) return b;
  for (int r = 0; r < most_rows; ++r)
    for (int i = 0; i < b.depth; i += row_unit)  // rows are padded to a multiple of 32 inputs: one line
      store_i(reinterpret_cast<std::int32_t*>(to + r * copied_stride + i),
              load_i(reinterpret_cast<const std::int32_t*>(b.x + r * b.stride + i)));
  b.x = to, b.stride = copied_stride;
  return b;
}

/// P panels for tokens [token, token + tokens), block by block of K.
template <Codec C, int P>
KLENS_INLINE void panels(const LinearArgs& a, const LinearShape& s, int token, int tokens, int panel) {
  float* sums = static_cast<float*>(a.scratch);
  bf16* copied = reinterpret_cast<bf16*>(static_cast<unsigned char*>(a.scratch) + sums_bytes);
  for (int k = 0; k < s.cols_padded; k += block_inputs) {
    const int depth = s.cols_padded - k < block_inputs ? s.cols_padded - k : block_inputs;
    const bool last = k + depth == s.cols_padded;
    const std::int64_t bytes = std::int64_t(depth / 2) * line_bytes;
    const unsigned char* const lines = a.w.lines + panel * s.panel_bytes;
    const unsigned char* const here = lines + std::int64_t(k / 2) * line_bytes;
    LinesAhead ahead(last ? lines + P * s.panel_bytes : here + bytes, s.panel_bytes, P, bytes,
                     int(div_up(tokens, most_rows)), depth / 2);
    Block b{here, s.panel_bytes, a.x.rounded + token * a.x.stride + k, a.x.stride, depth, k == 0, sums, nullptr, ahead.step};
    in_tiles<most_rows>(tokens, [&]<int R>(std::integral_constant<int, R>, int t) KLENS_INLINE_LAMBDA {
      b.next = ahead.take();
      if (last)
        for (int i = 0; i < R; ++i) fetch_rows<P>(a, token + t + i, panel);
      multiply<R, P>(R == most_rows ? without_conflicts(b, copied) : b);
      if (last)
        for (int i = 0; i < R; ++i)
          for (int p = 0; p < P; ++p) finish<C>(a, s, load(b.sums + (i * P + p) * lanes), token + t + i, panel + p);
      b.x += R * b.stride, b.sums += R * P * lanes;
    });
  }
}

}  // namespace fast_detail

/// Panels [a.begin, a.end) for all tokens from a.x.rounded. Stored bf16 lines are the instruction's operand.
template <Codec C>
void linear_fast(const LinearArgs& a) {
  static_assert(C == Codec::bf16, "klens::linear_fast: bf16 weights only");
  KLENS_ASSERT(a.x.rounded != nullptr && codec_of(a.w.precision) == C);
  const LinearShape s = shape_of<C, DotKind::f32>(a, false);
  if (a.tokens <= gemv_tokens) {
    int t = 0;
    for (; t + 4 <= a.tokens; t += 4) fast_detail::tiles<C, 4, 2>(a, s, t);
    for (; t + 2 <= a.tokens; t += 2) fast_detail::tiles<C, 2, 2>(a, s, t);
    for (; t < a.tokens; ++t) fast_detail::tiles<C, 1, 4>(a, s, t);
    return;
  }
  KLENS_ASSERT(a.scratch != nullptr);
  const int chunks = int(div_up(a.tokens, fast_detail::most_tokens));
  const int chunk = int(round_up(div_up(a.tokens, chunks), fast_detail::most_rows));
  for (int token = 0; token < a.tokens; token += chunk) {
    const int tokens = a.tokens - token < chunk ? a.tokens - token : chunk;
    int panel = a.begin;
    for (; panel + 2 <= a.end; panel += 2) fast_detail::panels<C, 2>(a, s, token, tokens, panel);
    if (panel < a.end) fast_detail::panels<C, 1>(a, s, token, tokens, panel);
  }
}

#endif

}  // namespace klens::inline KLENS_NS
