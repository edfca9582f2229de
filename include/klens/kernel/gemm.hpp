// Linear for many tokens: a panel's inputs are expanded once per block of K (2048 inputs as bytes, else 512) into a
// panel of plain numbers, and one micro-kernel per kind of number (gemm_tile.hpp) multiplies it with tiles of tokens. The
// bits are those of gemv.hpp.
//
// f32 and w8 lines are stored as such panels already and are used in place. While a tile is multiplied, it fetches a part
// of the lines that come next and the rows its epilogue reads and writes, and the epilogue follows while its sums lie in
// L1 (Zen 5, 128 x 2048 x 2048 in one process: 256 bits w8a8 1.07, f32 1.07, w4g32a16 1.2 times as fast as with a pass over
// all tokens at the end, and no fetches of lines). Exactness and bit equality: tests/kernel/linear*.cpp.
#pragma once

#include <klens/kernel/gemm_tile.hpp>

namespace klens::inline KLENS_NS {

/// Tokens whose partial results fit in scratch beside two expanded panels (64 KB), and whose rows stay in a 1 MB L2.
inline constexpr int gemm_most_tokens = 504;

namespace gemm_detail {

inline constexpr int most_tile_tokens = 12;
inline constexpr std::int64_t panel_scratch = std::int64_t(gemm_k_block) * line_bytes;  // f32, the widest
inline constexpr std::int64_t partial_scratch = std::int64_t(gemm_most_tokens + most_tile_tokens) * partial_stride * 4;
inline constexpr std::int64_t starts_scratch = std::int64_t(gemm_most_tokens + most_tile_tokens) * starts_stride * 4;
static_assert(2 * panel_scratch + partial_scratch + starts_scratch <= linear_scratch_bytes);
static_assert(gemm_k_block % 128 == 0, "groups must not cross a block");

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

/// Tiles of tokens [0, tokens) for P panels. `b` describes the first token. before(t, n) and after(t, n): of the tile's n
/// tokens.
template <Dot K, Fold F, int P, class Before, class After>
KLENS_INLINE void all_tokens(Block& b, int tokens, const Before& before, const After& after) {
  constexpr bool fours = K != Dot::u4;  // gcc 12 spills 4 x 2 of it on 32 registers
  in_tiles<tile_tokens<K, F>, fours>(tokens, [&]<int R>(std::integral_constant<int, R>, int t) KLENS_INLINE_LAMBDA {
    before(t, R);
    multiply<K, F, R, P>(b);
    after(t, R);
    b.x = static_cast<const Row<K>*>(b.x) + R * b.x_stride;
    b.partial += R * partial_stride;
    b.starts += R * starts_stride;
  });
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
    const bool last = k + depth == s.cols_padded;
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
    if constexpr (needs_starts<kind> && F == Fold::scale)
      if (panel == a.begin || s.cols_padded > block) group_starts<C>(a.x, token, tokens, k, starts);
    const std::int64_t bytes = std::int64_t(depth / unit.inputs) * unit_bytes<C>;
    LinesAhead ahead(last ? lines + P * s.panel_bytes : here + bytes, s.panel_bytes, P, bytes,
                     int(div_up(tokens, tile_tokens<kind, F>)), int(div_up(depth, inputs_per_fetch<kind, F>)));
    b.next_step = ahead.step;
    all_tokens<kind, F, P>(b, tokens,
        [&](int t, int n) KLENS_INLINE_LAMBDA {
          b.next = ahead.take();
          if (last)
            for (int i = 0; i < n; ++i) fetch_rows<P>(a, token + t + i, panel);
        },
        [&](int t, int n) KLENS_INLINE_LAMBDA {
          if (!last) return;
          for (int i = t; i < t + n; ++i)
            unroll<P>([&](int p) KLENS_INLINE_LAMBDA {
              v16f v = load(partial + i * partial_stride + p * lanes);
              if (D != DotKind::f32 && F == Fold::carry) v = to_float(bits(v));
              finish<C>(a, s, v, token + i, panel + p);
            });
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
