// Linear for many tokens: a panel's inputs are expanded once per block of K (2048 inputs as bytes, else 512) into a
// panel of plain numbers, and one micro-kernel per kind of number multiplies it with tiles of tokens. The bits are
// those of gemv.hpp.
//
//   kind   expanded line                   inputs per line   rows of x
//   f32    16 floats                       1                 f32
//   u8     16 dwords of 4 biased bytes     4                 int8          (VNNI; signed bytes with AVX-VNNI-INT8)
//   u4     the same, codes of <= 4 bits    4                 int8          (other levels: int16 sums, dot.hpp)
//   s16    16 dwords of 2 signed int16     2                 int16, each 4 inputs as 0 2 1 3
//
// f32 and w8 lines are stored as such panels already and are used in place. A tile is `tile_tokens` x `tile_panels`;
// between blocks of K accumulators wait in scratch, so a chain crosses blocks unbroken. Groups: float sums stay in
// registers beside the integers of the group (through memory, 24 stores per group of 32 cost 30 % of the time).
// Exactness and bit equality: tests/kernel/linear*.cpp. Rows of x want row_stride(): rows 1 KB apart evict each other
// from L1.
#pragma once

#include <klens/kernel/linear_common.hpp>
#if defined(KLENS_HAS_VNNI_INT8)
#include <klens/simd/dot_s8.hpp>
#endif

namespace klens::inline KLENS_NS {

/// Tokens whose partial results fit in scratch beside two expanded panels (64 KB), and whose rows stay in a 1 MB L2.
inline constexpr int gemm_most_tokens = 504;

namespace gemm_detail {

/// Tile: 12 x 2 of 16 lanes fill 32 registers with accumulators (24) and two lines; half as many tokens where each has
/// an accumulator of integers and one of floats. On 16 registers of 256 bits: 6 x 1 and 3 x 1.
template <Dot K, Fold F>
inline constexpr bool two_sums = (F == Fold::scale && K != Dot::f32) || K == Dot::u4;
template <Dot K, Fold F>
inline constexpr int tile_tokens = vector_registers == 0 ? 1 : vector_registers * 3 / (two_sums<K, F> ? 16 : 8);
inline constexpr int tile_panels = vector_registers == 32 ? 2 : 1;
inline constexpr int most_tile_tokens = 12;

inline constexpr std::int64_t panel_scratch = std::int64_t(gemm_k_block) * line_bytes;  // f32, the widest
inline constexpr int partial_stride = 2 * lanes;
/// Inputs of a block: of bytes four times as many fit in as much, and the accumulators wait in scratch four times less
/// often (w8a8, K = 2048: 1.5 % faster).
template <Dot K>
inline constexpr int block_inputs = K == Dot::u8 || K == Dot::u4 ? 4 * gemm_k_block : gemm_k_block;
inline constexpr int starts_stride = block_inputs<Dot::u8> / 32;
inline constexpr std::int64_t partial_scratch = std::int64_t(gemm_most_tokens + most_tile_tokens) * partial_stride * 4;
inline constexpr std::int64_t starts_scratch = std::int64_t(gemm_most_tokens + most_tile_tokens) * starts_stride * 4;
static_assert(2 * panel_scratch + partial_scratch + starts_scratch <= linear_scratch_bytes);
static_assert(gemm_k_block % 128 == 0, "groups must not cross a block");

template <Dot K>
inline constexpr int inputs_per_line = K == Dot::f32 ? 1 : K == Dot::s16 ? 2 : 4;

/// Byte panels of AVX-VNNI-INT8 hold signed weights: their dots need no correction.
#if defined(KLENS_HAS_VNNI_INT8)
inline constexpr bool signed_bytes = true;
#else
inline constexpr bool signed_bytes = false;
#endif
template <Dot K>
inline constexpr bool needs_starts = (K == Dot::u8 && !signed_bytes) || K == Dot::u4;

template <Dot K>
struct SumType { using type = v16i; };
template <>
struct SumType<Dot::f32> { using type = v16f; };
template <Dot K>
using Sum = typename SumType<K>::type;

/// Stored lines are the panel.
template <Codec C, Dot K>
inline constexpr bool in_place = (C == Codec::f32 && K == Dot::f32) || (C == Codec::i8 && K == Dot::u8 && !signed_bytes);

/// u8 halves (even16, odd16) minus the zero point, as int16: no carry leaves a half, v + 0x8000 - zp < 0x10000.
template <Codec C>
KLENS_INLINE v16i signed16(v16i half_line) {
  constexpr std::int32_t offset = 0x8000 - zero_point<C>;
  return (half_line + splat_i(offset << 16 | offset)) ^ splat_i(std::int32_t(0x80008000u));
}

/// u8 bytes minus the zero point, as int8, in the same way: v + 0x80 - zp < 0x100.
template <Codec C>
KLENS_INLINE v16i signed8(v16i line) {
  constexpr std::uint32_t offset = 0x01010101u * (0x80 - zero_point<C>);
  return (line + splat_i(std::int32_t(offset))) ^ splat_i(std::int32_t(0x80808080u));
}

/// Inputs of one panel from `lines`, `depth` of them (whole units), to out.
template <Codec C, Dot K>
KLENS_NOINLINE void expand(const unsigned char* lines, int depth, unsigned char* out) {
  constexpr Unit unit = codec_unit<C>;
  [[maybe_unused]] const Levels<C> levels;
  for (int k = 0; k < depth; k += unit.inputs, lines += unit_bytes<C>) {
    if constexpr (K == Dot::f32) {
      for_each_input<C>(lines, levels, [&](int i, v16f w) KLENS_INLINE_LAMBDA {
        store(reinterpret_cast<float*>(out + i * line_bytes), w);
      });
      out += unit.inputs * line_bytes;
    } else {
      unroll<unit.inputs / 4>([&](int i) KLENS_INLINE_LAMBDA {
        const v16i line = u8_line<C>(lines, i);
        if constexpr (K == Dot::s16) {
          store_i(reinterpret_cast<std::int32_t*>(out), signed16<C>(even16(line)));
          store_i(reinterpret_cast<std::int32_t*>(out + line_bytes), signed16<C>(odd16(line))), out += 2 * line_bytes;
        } else {
          const v16i bytes = K == Dot::u8 && signed_bytes ? signed8<C>(line) : line;
          store_i(reinterpret_cast<std::int32_t*>(out), bytes), out += line_bytes;
        }
      });
    }
  }
}

/// One block of K for one tile of tokens.
struct Block {
  const unsigned char* panel;      // first expanded panel, the second at + panel_stride
  std::int64_t panel_stride;       // bytes
  const void* x;                   // first token, first input of the block
  std::int64_t x_stride;           // elements
  int depth, segment;
  bool first;                      // block of its tokens
  float* partial;                  // [tokens][2][16]; int32 where integers are carried
  const half* scales;              // of the first group of the block, first panel
  std::int64_t scale_stride;       // halves, to the second panel
  const std::int32_t* starts;      // [tokens][starts_stride]: accumulators begin so, per 32 inputs; per row for carry
};

template <Dot K>
KLENS_INLINE void step(Sum<K>& acc, v16i w, const Row<K>* x) {
  if constexpr (K == Dot::f32) fma_step(acc, from_bits(w), x);
  else if constexpr (K == Dot::s16) dot_s16(acc, w, x);
  else if constexpr (K == Dot::u4) dot_u4(acc, w, x);
#if defined(KLENS_HAS_VNNI_INT8)
  else dot_s8(acc, w, x);
#elif defined(KLENS_HAS_VNNI)
  else dot_u8(acc, w, x);
#endif
}

KLENS_INLINE v16f as_float(v16f a) { return a; }
KLENS_INLINE v16f as_float(v16i a) { return to_float(a); }
KLENS_INLINE void load_raw(v16f& a, const float* p) { a = load(p); }
KLENS_INLINE void load_raw(v16i& a, const float* p) { a = bits(load(p)); }
KLENS_INLINE void store_raw(float* p, v16f a) { store(p, a); }
KLENS_INLINE void store_raw(float* p, v16i a) { store(p, from_bits(a)); }
KLENS_INLINE void set_zero(v16f& a) { a = zero(); }
KLENS_INLINE void set_zero(v16i& a) { a = splat_i(0); }

/// Rows of x of a tile, three per pointer (base, + stride, + 2 stride): leaves gcc registers to keep every address in
/// an operand.
template <class X, int R>
struct RowPointers {
  static constexpr int bases = (R + 2) / 3;
  const X* base[bases];
  std::int64_t stride;
  KLENS_INLINE RowPointers(const X* x, std::int64_t row_stride) : stride(row_stride) {
    unroll<bases>([&](int i) KLENS_INLINE_LAMBDA { base[i] = x + 3 * i * row_stride; });
  }
  KLENS_INLINE const X* row(int m) const { return base[m / 3] + (m % 3) * stride; }
  KLENS_INLINE void advance(int n) {
    unroll<bases>([&](int i) KLENS_INLINE_LAMBDA { base[i] += n; });
  }
};

/// acc += n inputs, one line of P panels at a time; n a multiple of a line's inputs.
template <Dot K, int R, int P>
KLENS_INLINE void lines_of(Sum<K> (&acc)[R][P], RowPointers<Row<K>, R>& x, const unsigned char*& w,
                           std::int64_t panel_stride, int n) {
  constexpr int inputs = inputs_per_line<K>;
  for (int i = 0; i < n; i += inputs, w += line_bytes) {
    v16i line[P];
    unroll<P>([&](int p) KLENS_INLINE_LAMBDA { line[p] = load_line(w + p * panel_stride); });
    unroll<R>([&](int m) KLENS_INLINE_LAMBDA {
      unroll<P>([&](int p) KLENS_INLINE_LAMBDA { step<K>(acc[m][p], line[p], x.row(m)); });
    });
    x.advance(inputs);
  }
}

/// The micro-kernel: R tokens x P panels, all segments of the block.
template <Dot K, Fold F, int R, int P>
KLENS_NOINLINE void multiply(const Block& b) {
  RowPointers<Row<K>, R> x(static_cast<const Row<K>*>(b.x), b.x_stride);
  const unsigned char* w = b.panel;
  const auto partial_of = [&](int m, int p) KLENS_INLINE_LAMBDA { return b.partial + m * partial_stride + p * lanes; };
  const auto all = [](const auto& body) KLENS_INLINE_LAMBDA {
    unroll<R>([&](int m) KLENS_INLINE_LAMBDA { unroll<P>([&](int p) KLENS_INLINE_LAMBDA { body(m, p); }); });
  };
  [[maybe_unused]] v16f sum[R][P];
  if constexpr (F == Fold::scale && two_sums<K, F>) {
    if (b.first) all([&](int m, int p) KLENS_INLINE_LAMBDA { sum[m][p] = zero(); });
    else all([&](int m, int p) KLENS_INLINE_LAMBDA { sum[m][p] = load(partial_of(m, p)); });
  }
  for (int k = 0; k < b.depth; k += b.segment) {
    const int n = b.depth - k < b.segment ? b.depth - k : b.segment;
    Sum<K> acc[R][P];
    if (F == Fold::carry && !b.first)
      all([&](int m, int p) KLENS_INLINE_LAMBDA { load_raw(acc[m][p], partial_of(m, p)); });
    else if constexpr (!needs_starts<K>) all([&](int m, int p) KLENS_INLINE_LAMBDA { set_zero(acc[m][p]); });
    else {
      const std::int32_t* starts = b.starts + (F == Fold::carry ? 0 : k / 32);
      all([&](int m, int p) KLENS_INLINE_LAMBDA { acc[m][p] = splat_i(starts[m * starts_stride]); });
      if constexpr (F == Fold::scale)
        for (int i = 1; 32 * i < n; ++i)
          all([&](int m, int p) KLENS_INLINE_LAMBDA { acc[m][p] = acc[m][p] + splat_i(starts[m * starts_stride + i]); });
    }
    if constexpr (K == Dot::u4) {
      constexpr int inputs = 4 * dot_u4_steps<4>;
      for (int i = 0; i < n; i += inputs) {
        v16i narrow[R][P];
        all([&](int m, int p) KLENS_INLINE_LAMBDA { narrow[m][p] = splat_i(0); });
        lines_of<K, R, P>(narrow, x, w, b.panel_stride, n - i < inputs ? n - i : inputs);
        all([&](int m, int p) KLENS_INLINE_LAMBDA { add_pairs(acc[m][p], narrow[m][p]); });
      }
    } else {
      lines_of<K, R, P>(acc, x, w, b.panel_stride, n);
    }
    if constexpr (F == Fold::carry) {
      all([&](int m, int p) KLENS_INLINE_LAMBDA { store_raw(partial_of(m, p), acc[m][p]); });
    } else if constexpr (F == Fold::add) {
      all([&](int m, int p) KLENS_INLINE_LAMBDA {
        store(partial_of(m, p), (b.first && k == 0 ? zero() : load(partial_of(m, p))) + as_float(acc[m][p]));
      });
    } else {
      unroll<P>([&](int p) KLENS_INLINE_LAMBDA {
        const v16f scale = load_half(b.scales + p * b.scale_stride + std::int64_t(k / b.segment) * lanes);
        unroll<R>([&](int m) KLENS_INLINE_LAMBDA {
          if constexpr (two_sums<K, F>) sum[m][p] = fma(scale, as_float(acc[m][p]), sum[m][p]);
          else {
            const v16f before = b.first && k == 0 ? zero() : load(partial_of(m, p));
            store(partial_of(m, p), fma(scale, as_float(acc[m][p]), before));
          }
        });
      });
    }
  }
  if constexpr (F == Fold::scale && two_sums<K, F>)
    all([&](int m, int p) KLENS_INLINE_LAMBDA { store(partial_of(m, p), sum[m][p]); });
}

/// Tiles of tokens [0, tokens) for P panels: full ones, then 8, 4, 2, 1. `b` describes the first token.
template <Dot K, Fold F, int P>
KLENS_NOINLINE void all_tokens(Block b, int tokens) {
  constexpr int most = tile_tokens<K, F>;
  const auto next = [&](int rows) KLENS_INLINE_LAMBDA {
    b.x = static_cast<const Row<K>*>(b.x) + rows * b.x_stride;
    b.partial += rows * partial_stride;
    b.starts += rows * starts_stride;
    tokens -= rows;
  };
  while (tokens >= most) multiply<K, F, most, P>(b), next(most);
  if constexpr (most > 8)
    if (tokens >= 8) multiply<K, F, 8, P>(b), next(8);
  if constexpr (most > 4 && K != Dot::u4)  // gcc 12 spills 4 x 2 of it on 32 registers
    if (tokens >= 4) multiply<K, F, 4, P>(b), next(4);
  if constexpr (most > 2)
    while (tokens >= 2) multiply<K, F, 2, P>(b), next(2);
  if constexpr (most > 1)
    if (tokens >= 1) multiply<K, F, 1, P>(b);
}

KLENS_INLINE std::int32_t* starts_of(const LinearArgs& a) {
  return reinterpret_cast<std::int32_t*>(static_cast<unsigned char*>(a.scratch) + 2 * panel_scratch + partial_scratch);
}

/// starts[t][i] = -zero_point * sum of inputs 32 i .. 32 i + 31 of the block.
template <Codec C>
KLENS_INLINE void group_starts(const ActRows& x, std::int64_t token, int tokens, int k, std::int32_t* starts) {
  static_assert(starts_stride % lanes == 0);
  const std::int64_t stride = x.stride / 32;
  const std::int32_t* sums = x.sums + token * stride + k / 32;
  const int left = int(stride - k / 32), n = left < starts_stride ? left : starts_stride;
  for (int t = 0; t < tokens; ++t, sums += stride, starts += starts_stride) {
    int i = 0;
    for (; i + lanes <= n; i += lanes) store_i(starts + i, splat_i(0) - shl(load_i(sums + i), zero_shift<C>));
    for (; i < n; ++i) starts[i] = std::int32_t(0u - std::uint32_t(zero_point<C>) * std::uint32_t(sums[i]));
  }
}

/// What the end of a token's P panels reads and writes. Rows lie kilobytes apart and a line or two of each are wanted,
/// which no hardware sees coming. Zen 4, 128 tokens of silu(gate) * up, 5504 x 1600 in w8a8: 8 ns per panel and token for
/// the epilogue, not 50; the residual of down_proj 0, not 3. (Huge pages; with small ones nothing is won.)
inline constexpr int rows_ahead = 8;
template <int P>
KLENS_INLINE void fetch_rows(const LinearArgs& a, std::int64_t token, std::int64_t panel) {
  const std::int64_t at = token * a.y_stride + panel * lanes;
  const float* const gate = a.epilogue != nullptr ? a.epilogue->gate : nullptr;
  unroll<P>([&](int p) KLENS_INLINE_LAMBDA {
    if (a.y != nullptr) __builtin_prefetch(a.y + at + p * lanes, 1, 3);
    if (a.residual != nullptr && a.residual != a.y) __builtin_prefetch(a.residual + at + p * lanes, 0, 3);
    if (gate != nullptr) __builtin_prefetch(gate + token * a.epilogue->gate_stride + (panel + p) * lanes, 0, 3);
  });
}

/// P panels from `panel` on, tokens [token, token + tokens).
template <Codec C, DotKind D, Fold F, int P>
KLENS_INLINE void panels(const LinearArgs& a, const LinearShape& s, int token, int tokens, int panel) {
  constexpr Dot kind = dot_of<C, D>;
  constexpr Unit unit = codec_unit<C>;
  unsigned char* expanded = static_cast<unsigned char*>(a.scratch);
  float* partial = reinterpret_cast<float*>(expanded + 2 * panel_scratch);
  std::int32_t* starts = starts_of(a);
  const unsigned char* lines = a.w.lines + panel * s.panel_bytes;
  constexpr int block = block_inputs<kind>;
  for (int k = 0; k < s.cols_padded; k += block) {
    const int depth = s.cols_padded - k < block ? s.cols_padded - k : block;
    const unsigned char* here = lines + std::int64_t(k / unit.inputs) * unit_bytes<C>;
    Block b;
    if constexpr (in_place<C, kind>) b.panel = here, b.panel_stride = s.panel_bytes;
    else {
      b.panel = expanded, b.panel_stride = panel_scratch;
      unroll<P>([&](int p) KLENS_INLINE_LAMBDA {
        expand<C, kind>(here + p * s.panel_bytes, depth, expanded + p * panel_scratch);
      });
    }
    b.x = first_row<kind>(a.x) + token * a.x.stride + k;
    b.x_stride = a.x.stride;
    b.depth = depth;
    b.segment = F == Fold::scale ? s.segment : depth;
    b.first = k == 0;
    b.partial = partial;
    b.scales = nullptr, b.scale_stride = s.groups * lanes;
    if constexpr (F == Fold::scale)
      b.scales = static_cast<const half*>(a.w.scales) + (panel * s.groups + k / s.segment) * lanes;
    b.starts = starts;
    if constexpr (needs_starts<kind> && F == Fold::scale) group_starts<C>(a.x, token, tokens, k, starts);
    all_tokens<kind, F, P>(b, tokens);
  }
  for (int t = 0; t < tokens; ++t) {
    if (t + rows_ahead < tokens) fetch_rows<P>(a, token + t + rows_ahead, panel);
    unroll<P>([&](int p) KLENS_INLINE_LAMBDA {
      v16f v = load(partial + t * partial_stride + p * lanes);
      if (D != DotKind::f32 && F == Fold::carry) v = to_float(bits(v));
      finish<C>(a, s, v, token + t, panel + p);
    });
  }
}

}  // namespace gemm_detail

template <Codec C, DotKind D, Fold F>
KLENS_INLINE void gemm(const LinearArgs& a, const LinearShape& s) {
  using namespace gemm_detail;
  KLENS_ASSERT(a.scratch != nullptr);
  constexpr Dot kind = dot_of<C, D>;
  const int chunks = int(div_up(a.tokens, gemm_most_tokens));
  const int chunk = int(round_up(div_up(a.tokens, chunks), tile_tokens<kind, F>));  // equal: none of a few tokens
  for (int token = 0; token < a.tokens; token += chunk) {
    const int tokens = a.tokens - token < chunk ? a.tokens - token : chunk;
    if constexpr (needs_starts<kind> && F == Fold::carry) {
      std::int32_t* starts = starts_of(a);
      for (int t = 0; t < tokens; ++t) starts[t * starts_stride] = row_correction<C>(a.x, token + t, s.cols_padded);
    }
    int panel = a.begin;
    for (; panel + tile_panels <= a.end; panel += tile_panels) panels<C, D, F, tile_panels>(a, s, token, tokens, panel);
    if constexpr (tile_panels > 1)
      for (; panel < a.end; ++panel) panels<C, D, F, 1>(a, s, token, tokens, panel);
  }
}

}  // namespace klens::inline KLENS_NS
