// Linear for many tokens: a panel's inputs are expanded once per block of 512 into a panel of plain numbers, and one
// micro-kernel per kind of number (f32, u8, s16) multiplies it with tiles of tokens. The bits are those of gemv.hpp.
//
//   panel kind   line                            inputs per line   rows of x
//   f32          16 floats                       1                 f32
//   u8           16 dwords of 4 biased bytes     4                 int8          (levels with VNNI)
//   s16          16 dwords of 2 signed int16     2                 int16, each 4 inputs as 0 2 1 3
//
// f32 and w8 lines are stored as such panels already and are used in place. A tile is 12 tokens x 2 panels on 32
// registers (24 accumulators, 2 weights), 6 x 1 (12 accumulators of 256 bits) on 16. Between blocks of K accumulators
// wait in scratch, so a chain crosses blocks unbroken. Exactness and bit equality: tests/kernel/linear*.cpp.
#pragma once

#include <klens/kernel/linear_common.hpp>

namespace klens::inline KLENS_NS {

enum class PanelKind { f32, u8, s16 };

template <DotKind D>
inline constexpr PanelKind panel_kind = D == DotKind::f32                 ? PanelKind::f32
                                        : D == DotKind::a8 && has_dot_u8 ? PanelKind::u8
                                                                         : PanelKind::s16;

inline constexpr int gemm_rows = vector_registers == 32 ? 12 : vector_registers == 0 ? 1 : 6;
inline constexpr int gemm_panels = vector_registers == 32 ? 2 : 1;

/// Tokens whose partial results fit in scratch beside two expanded panels (64 KB), and whose rows stay in a 1 MB L2.
inline constexpr int gemm_most_tokens = 504;

namespace gemm_detail {

inline constexpr std::int64_t panel_scratch = std::int64_t(gemm_k_block) * line_bytes;  // f32, the widest
inline constexpr int partial_stride = 2 * lanes;
inline constexpr std::int64_t partial_scratch = std::int64_t(gemm_most_tokens + gemm_rows) * partial_stride * 4;
inline constexpr int copied_stride = gemm_k_block + 32;  // elements
static_assert(2 * panel_scratch + partial_scratch + gemm_rows * copied_stride * 4 <= linear_scratch_bytes);
static_assert(gemm_k_block % 128 == 0, "groups must not cross a block");

template <PanelKind Kind>
inline constexpr int inputs_per_line = Kind == PanelKind::f32 ? 1 : Kind == PanelKind::u8 ? 4 : 2;

template <PanelKind Kind>
struct Types { using x = float; using sum = v16f; };
template <>
struct Types<PanelKind::u8> { using x = std::int8_t; using sum = v16i; };
template <>
struct Types<PanelKind::s16> { using x = std::int16_t; using sum = v16i; };

/// Stored lines are the panel.
template <Codec C, PanelKind Kind>
inline constexpr bool in_place = (C == Codec::f32 && Kind == PanelKind::f32) ||
    (C == Codec::i8 && Kind == PanelKind::u8);

/// u8 halves (even16, odd16) minus the zero point, as int16: no carry leaves a half, v + 0x8000 - zp < 0x10000.
template <Codec C>
KLENS_INLINE v16i signed16(v16i half_line) {
  constexpr std::int32_t offset = 0x8000 - zero_point<C>;
  return (half_line + splat_i(offset << 16 | offset)) ^ splat_i(std::int32_t(0x80008000u));
}

/// Inputs of one panel from `lines`, `depth` of them (whole units), to out.
template <Codec C, PanelKind Kind>
KLENS_NOINLINE void expand(const unsigned char* lines, int depth, unsigned char* out) {
  constexpr Unit unit = codec_unit<C>;
  [[maybe_unused]] const Levels<C> levels;
  for (int k = 0; k < depth; k += unit.inputs, lines += unit_bytes<C>) {
    if constexpr (Kind == PanelKind::f32 && !is_integer(C)) {
      unroll<unit.inputs>([&](int i) KLENS_INLINE_LAMBDA {
        store(reinterpret_cast<float*>(out), value<C>(lines, levels, i)), out += line_bytes;
      });
    } else {
      unroll<unit.inputs / 4>([&](int i) KLENS_INLINE_LAMBDA {
        const v16i line = u8_line<C>(lines, i);
        if constexpr (Kind == PanelKind::f32) {
          unroll<4>([&](int j) KLENS_INLINE_LAMBDA {
            store(reinterpret_cast<float*>(out), float_of_byte<C>(line, levels, j)), out += line_bytes;
          });
        } else if constexpr (Kind == PanelKind::u8) {
          store_i(reinterpret_cast<std::int32_t*>(out), line), out += line_bytes;
        } else {
          store_i(reinterpret_cast<std::int32_t*>(out), signed16<C>(even16(line)));
          store_i(reinterpret_cast<std::int32_t*>(out + line_bytes), signed16<C>(odd16(line))), out += 2 * line_bytes;
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
  Fold fold;
  bool first;                      // block of its tokens
  float* partial;                  // [tokens][2][16]; int32 where integers are carried
  const half* scales;              // of the first group of the block, first panel
  std::int64_t scale_stride;       // halves, to the second panel
  const std::int32_t* sums;        // u8: of the first token, first 32 inputs of the block (of the row for Fold::carry)
  std::int64_t sums_stride;
  int sums_in_row, zero_point;
  void* copied;                    // room for gemm_rows x copied_stride elements
};

KLENS_INLINE void step(v16f& acc, v16i w, const float* x) { fma_step(acc, from_bits(w), x); }
KLENS_INLINE void step(v16i& acc, v16i w, const std::int16_t* x) { dot_s16(acc, w, x); }
#if defined(KLENS_HAS_VNNI)
KLENS_INLINE void step(v16i& acc, v16i w, const std::int8_t* x) { dot_u8(acc, w, x); }
#endif

KLENS_INLINE v16f as_float(v16f a) { return a; }
KLENS_INLINE v16f as_float(v16i a) { return to_float(a); }
KLENS_INLINE void load_raw(v16f& a, const float* p) { a = load(p); }
KLENS_INLINE void load_raw(v16i& a, const float* p) { a = bits(load(p)); }
KLENS_INLINE void store_raw(float* p, v16f a) { store(p, a); }
KLENS_INLINE void store_raw(float* p, v16i a) { store(p, from_bits(a)); }

/// -zero_point * (sum of the inputs of the segment that starts at k).
KLENS_INLINE std::int32_t start_of(const Block& b, int token, int k, int n) {
  const std::int32_t* sums = b.sums + token * b.sums_stride + (b.fold == Fold::carry ? 0 : k / 32);
  const int count = b.fold == Fold::carry ? b.sums_in_row : (n + 31) / 32;
  std::uint32_t total = 0;
  for (int i = 0; i < count; ++i) total += std::uint32_t(sums[i]);
  return std::int32_t(0u - std::uint32_t(b.zero_point) * total);
}

/// The micro-kernel: R tokens x P panels, all segments of the block. Rows are addressed as three per pointer (base, +
/// stride, + 2 stride), which leaves gcc enough registers to keep every address in an operand.
template <PanelKind Kind, int R, int P>
KLENS_NOINLINE void multiply(const Block& b) {
  using X = typename Types<Kind>::x;
  using Sum = typename Types<Kind>::sum;
  constexpr int step_inputs = inputs_per_line<Kind>;
  constexpr int bases = (R + 2) / 3;
  const std::int64_t stride = b.x_stride;
  for (int k = 0; k < b.depth; k += b.segment) {
    const int n = b.depth - k < b.segment ? b.depth - k : b.segment;
    Sum acc[R][P];
    if (b.fold == Fold::carry && !b.first) {
      unroll<R>([&](int m) KLENS_INLINE_LAMBDA {
        unroll<P>([&](int p) KLENS_INLINE_LAMBDA { load_raw(acc[m][p], b.partial + m * partial_stride + p * lanes); });
      });
    } else {
      unroll<R>([&](int m) KLENS_INLINE_LAMBDA {
        if constexpr (Kind == PanelKind::f32) unroll<P>([&](int p) KLENS_INLINE_LAMBDA { acc[m][p] = zero(); });
        else if constexpr (Kind == PanelKind::s16)
          unroll<P>([&](int p) KLENS_INLINE_LAMBDA { acc[m][p] = splat_i(0); });
        else {
          const v16i start = splat_i(start_of(b, m, k, n));
          unroll<P>([&](int p) KLENS_INLINE_LAMBDA { acc[m][p] = start; });
        }
      });
    }
    const X* x[bases];
    unroll<bases>([&](int i) KLENS_INLINE_LAMBDA { x[i] = static_cast<const X*>(b.x) + k + 3 * i * stride; });
    const unsigned char* w = b.panel + std::int64_t(k / step_inputs) * line_bytes;
    for (int i = 0; i < n; i += step_inputs, w += line_bytes) {
      v16i line[P];
      unroll<P>([&](int p) KLENS_INLINE_LAMBDA { line[p] = load_line(w + p * b.panel_stride); });
      unroll<R>([&](int m) KLENS_INLINE_LAMBDA {
        unroll<P>([&](int p) KLENS_INLINE_LAMBDA { step(acc[m][p], line[p], x[m / 3] + (m % 3) * stride); });
      });
      unroll<bases>([&](int j) KLENS_INLINE_LAMBDA { x[j] += step_inputs; });
    }
    unroll<P>([&](int p) KLENS_INLINE_LAMBDA {
      v16f scale{};
      if (b.fold == Fold::scale) scale = load_half(b.scales + p * b.scale_stride + std::int64_t(k / b.segment) * lanes);
      unroll<R>([&](int m) KLENS_INLINE_LAMBDA {
        float* partial = b.partial + m * partial_stride + p * lanes;
        if (b.fold == Fold::carry) store_raw(partial, acc[m][p]);
        else {
          const v16f before = b.first && k == 0 ? zero() : load(partial);
          const v16f part = as_float(acc[m][p]);
          store(partial, b.fold == Fold::scale ? fma(scale, part, before) : before + part);
        }
      });
    });
  }
}

/// Rows a multiple of 1 KB apart share four or fewer sets of L1 and evict each other (12 rows of K = 2048 in f32: 82
/// instead of 97 GFLOP/s); such a tile is copied to rows that do not. Returns the block to multiply.
template <PanelKind Kind>
KLENS_INLINE Block without_conflicts(Block b, int rows) {
  using X = typename Types<Kind>::x;
  constexpr int line = line_bytes / int(sizeof(X));
  if (rows < 4 || b.x_stride * std::int64_t(sizeof(X)) % 1024 != 0) return b;
  for (int r = 0; r < rows; ++r) {
    const X* from = static_cast<const X*>(b.x) + r * b.x_stride;
    X* to = static_cast<X*>(b.copied) + r * copied_stride;
    int i = 0;
    for (; i + line <= b.depth; i += line)
      store(reinterpret_cast<float*>(to + i), load(reinterpret_cast<const float*>(from + i)));
    for (; i < b.depth; ++i) to[i] = from[i];
  }
  b.x = b.copied, b.x_stride = copied_stride;
  return b;
}

/// Tiles of tokens [0, tokens) for P panels: full ones, then 8, 4, 2, 1. `b` describes the first token.
template <PanelKind Kind, int P>
KLENS_NOINLINE void all_tokens(Block b, int tokens) {
  using X = typename Types<Kind>::x;
  const auto next = [&](int rows) KLENS_INLINE_LAMBDA {
    b.x = static_cast<const X*>(b.x) + rows * b.x_stride;
    b.partial += rows * partial_stride;
    b.sums += rows * b.sums_stride;
    tokens -= rows;
  };
  while (tokens >= gemm_rows) multiply<Kind, gemm_rows, P>(without_conflicts<Kind>(b, gemm_rows)), next(gemm_rows);
  if constexpr (gemm_rows > 8)
    if (tokens >= 8) multiply<Kind, 8, P>(b), next(8);
  if constexpr (gemm_rows > 4) {
    if (tokens >= 4) multiply<Kind, 4, P>(b), next(4);
    if (tokens >= 2) multiply<Kind, 2, P>(b), next(2);
    if (tokens >= 1) multiply<Kind, 1, P>(b);
  }
}

/// P panels from `panel` on, tokens [token, token + tokens).
template <Codec C, DotKind D, int P>
KLENS_INLINE void panels(const LinearArgs& a, const LinearShape& s, int token, int tokens, int panel) {
  constexpr PanelKind kind = panel_kind<D>;
  constexpr Unit unit = codec_unit<C>;
  unsigned char* expanded = static_cast<unsigned char*>(a.scratch);
  float* partial = reinterpret_cast<float*>(expanded + 2 * panel_scratch);
  const unsigned char* lines = a.w.lines + panel * s.panel_bytes;
  for (int k = 0; k < s.cols_padded; k += gemm_k_block) {
    const int depth = s.cols_padded - k < gemm_k_block ? s.cols_padded - k : gemm_k_block;
    const unsigned char* here = lines + std::int64_t(k / unit.inputs) * unit_bytes<C>;
    Block b;
    if constexpr (in_place<C, kind>) b.panel = here, b.panel_stride = s.panel_bytes;
    else {
      b.panel = expanded, b.panel_stride = panel_scratch;
      unroll<P>([&](int p) KLENS_INLINE_LAMBDA {
        expand<C, kind>(here + p * s.panel_bytes, depth, expanded + p * panel_scratch);
      });
    }
    b.x = first_row<D>(a.x) + token * a.x.stride + k;
    b.x_stride = a.x.stride;
    b.copied = expanded + 2 * panel_scratch + partial_scratch;
    b.depth = depth;
    b.segment = s.fold == Fold::scale ? s.segment : depth;
    b.fold = s.fold;
    b.first = k == 0;
    b.partial = partial;
    b.scales = nullptr, b.scale_stride = s.groups * lanes;
    if (s.fold == Fold::scale)
      b.scales = static_cast<const half*>(a.w.scales) + (panel * s.groups + k / s.segment) * lanes;
    b.sums = nullptr, b.sums_stride = 0, b.sums_in_row = (s.cols_padded + 31) / 32, b.zero_point = 0;
    if constexpr (kind == PanelKind::u8) {
      b.sums_stride = a.x.stride / 32, b.zero_point = zero_point<C>;
      b.sums = a.x.sums + token * b.sums_stride + (s.fold == Fold::carry ? 0 : k / 32);
    }
    all_tokens<kind, P>(b, tokens);
  }
  for (int t = 0; t < tokens; ++t) {
    unroll<P>([&](int p) KLENS_INLINE_LAMBDA {
      const float* at = partial + t * partial_stride + p * lanes;
      v16f v = load(at);
      if (D != DotKind::f32 && s.fold == Fold::carry) v = to_float(bits(v));
      finish<C>(a, s, v, token + t, panel + p);
    });
  }
}

}  // namespace gemm_detail

template <Codec C, DotKind D>
KLENS_INLINE void gemm(const LinearArgs& a, const LinearShape& s) {
  KLENS_ASSERT(a.scratch != nullptr);
  const int chunks = int(div_up(a.tokens, gemm_most_tokens));
  const int chunk = int(round_up(div_up(a.tokens, chunks), gemm_rows));  // equal shares: no chunk of a few tokens
  for (int token = 0; token < a.tokens; token += chunk) {
    const int tokens = a.tokens - token < chunk ? a.tokens - token : chunk;
    int panel = a.begin;
    for (; panel + gemm_panels <= a.end; panel += gemm_panels)
      gemm_detail::panels<C, D, gemm_panels>(a, s, token, tokens, panel);
    if constexpr (gemm_panels > 1)
      for (; panel < a.end; ++panel) gemm_detail::panels<C, D, 1>(a, s, token, tokens, panel);
  }
}

}  // namespace klens::inline KLENS_NS
