// Linear of int8 rows for 16 tokens and more on AMX tiles. The integers, and so the bits, are those of gemm.hpp.
//
//   C[16 tokens x 16 outputs] += A[16 tokens x 64 inputs, rows of x.q8] * B[16 lines of 4 inputs of a u8 panel]
//
// Two token tiles x two panels share four accumulator tiles, two of A and two of B: 4 products per 4 loads, 16 cycles
// each at best. B is the stored w8 panel itself, or scratch that gemm.hpp's expand fills once per block of K; a block
// of 1024 inputs of two panels is 32 KB, which stays in L1 while the tokens pass by. The zero point is subtracted at
// the end: int32 sums wrap, so -zp * sum(q) may be added last as well as first. Groups: C goes to memory and into the
// float sums after each group; groups of 32 take tiles of half the depth. The last inputs of K % 64 come from copies
// padded with zeros. tests/kernel/emulated.cpp runs all of it with emulated tiles, anywhere.
#pragma once

#include <klens/kernel/gemm.hpp>
#include <klens/simd/tile.hpp>

#if defined(KLENS_HAS_AMX)

namespace klens::inline KLENS_NS {

inline constexpr int amx_tokens = tile_rows;  // fewer leave rows of A empty: VNNI is faster

namespace amx_detail {

inline constexpr int block_inputs = 1024;
inline constexpr int most_tokens = 512;  // rows of K = 2048 are 1 MB: half of L2
static_assert(block_inputs % 128 == 0, "groups must not cross a block");

struct Scratch {
  unsigned char panels[2][block_inputs / 4 * line_bytes];
  unsigned char last_lines[2][tile_rows][tile_bytes];
  std::int8_t last_inputs[most_tokens][tile_bytes];
  float sums[most_tokens][2][lanes];           // int32 where they are carried from block to block
  std::int32_t group[4][tile_rows][lanes];
  std::int32_t correction[most_tokens];
};
static_assert(sizeof(Scratch) <= linear_scratch_bytes && alignof(Scratch) <= 64);

/// One block of K of two panels for one tile of tokens.
struct Block {
  const unsigned char* panel;                  // whole steps; the second panel at + panel_stride bytes
  std::int64_t panel_stride;
  const unsigned char* last_panel;             // the padded last step
  std::int64_t last_stride;
  const std::int8_t* x;                        // first token, first input of the block
  std::int64_t x_stride;
  const std::int8_t* last_x;                   // [tokens][64]
  int depth, segment, step;                    // inputs: of the block, per fold, per tile
  int rows;                                    // tokens
  bool carry, first;                           // first: block of its row
  float (*sums)[2][lanes];
  std::int32_t (*group)[tile_rows][lanes];
  const half* scales;                          // of the block's first group
  std::int64_t scale_stride;                   // halves, to the second panel
  const std::int32_t* inputs;                  // x.sums of the first token, first 32 inputs of the block
  std::int64_t inputs_stride;
  std::uint32_t zero_point;
};

/// Tiles 0 to 3: C of (token tile, panel); 4, 5: A; 6, 7: B. `rows` tokens in all, `step` inputs deep.
KLENS_INLINE TileShapes shapes_of(int rows, int step) {
  TileShapes s;
  const auto put = [&s](int tile, int tile_rows_used, int bytes) KLENS_INLINE_LAMBDA {
    s.rows[tile] = std::uint8_t(tile_rows_used), s.row_bytes[tile] = std::uint16_t(bytes);
  };
  const int upper = rows < tile_rows ? rows : tile_rows, lower = rows - upper;
  put(0, upper, tile_bytes), put(1, upper, tile_bytes), put(4, upper, step);
  if (lower > 0) put(2, lower, tile_bytes), put(3, lower, tile_bytes), put(5, lower, step);
  put(6, step / 4, tile_bytes), put(7, step / 4, tile_bytes);
  return s;
}

/// C += A B of one step of K: M tiles of 16 tokens, P panels.
template <int M, int P>
KLENS_INLINE void step(TileRegisters& t, const std::int8_t* x, std::int64_t x_stride, const unsigned char* panel,
                       std::int64_t panel_stride) {
  load_tile<4>(t, x, x_stride);
  load_tile<6>(t, panel, tile_bytes);
  dot_tiles<0, 4, 6>(t);
  if constexpr (P == 2) load_tile<7>(t, panel + panel_stride, tile_bytes), dot_tiles<1, 4, 7>(t);
  if constexpr (M == 2) {
    load_tile<5>(t, x + tile_rows * x_stride, x_stride);
    dot_tiles<2, 5, 6>(t);
    if constexpr (P == 2) dot_tiles<3, 5, 7>(t);
  }
}

/// f(C tile's number) for the tiles in use, 2 * token tile + panel, as a type: tile numbers are literals.
template <int M, int P, class F>
KLENS_INLINE void for_each_sum(const F& f) {
  const auto visit = [&f]<int Tile>(std::integral_constant<int, Tile> tile) KLENS_INLINE_LAMBDA {
    if constexpr (Tile / 2 < M && Tile % 2 < P) f(tile);
  };
  visit(std::integral_constant<int, 0>{}), visit(std::integral_constant<int, 1>{});
  visit(std::integral_constant<int, 2>{}), visit(std::integral_constant<int, 3>{});
}

/// sums = fma(group scale, C - zero point * sum of the group's inputs, sums).
template <int P>
KLENS_INLINE void fold_group(const Block& b, int k, int inputs) {
  v16f scale[P];
  const bool first = b.first && k == 0;
  for (int p = 0; p < P; ++p) scale[p] = load_half(b.scales + p * b.scale_stride + std::int64_t(k / b.segment) * lanes);
  for (int row = 0; row < b.rows; ++row) {
    const std::int32_t* q = b.inputs + row * b.inputs_stride + k / 32;
    std::uint32_t total = 0;
    for (int i = 0; i < (inputs + 31) / 32; ++i) total += std::uint32_t(q[i]);
    const v16i correction = splat_i(std::int32_t(0u - b.zero_point * total));
    for (int p = 0; p < P; ++p) {
      const v16i dot = load_i(b.group[row / tile_rows * 2 + p][row % tile_rows]) + correction;
      float* sum = b.sums[row][p];
      store(sum, fma(scale[p], to_float(dot), first ? zero() : load(sum)));
    }
  }
}

/// All segments of a block for up to 16 M tokens and P panels.
template <int M, int P>
KLENS_NOINLINE void multiply(TileRegisters& t, const Block& b) {
  constexpr std::int64_t sums_stride = sizeof b.sums[0];
  for (int k = 0; k < b.depth; k += b.segment) {
    const int end = b.depth - k < b.segment ? b.depth : k + b.segment;
    for_each_sum<M, P>([&]<int Tile>(std::integral_constant<int, Tile>) KLENS_INLINE_LAMBDA {
      if (b.carry && !b.first) load_tile<Tile>(t, b.sums[Tile / 2 * tile_rows][Tile % 2], sums_stride);
      else zero_tile<Tile>(t);
    });
    int i = k;
    for (; i + b.step <= end; i += b.step)
      step<M, P>(t, b.x + i, b.x_stride, b.panel + std::int64_t(i / 4) * line_bytes, b.panel_stride);
    if (i < end) step<M, P>(t, b.last_x, tile_bytes, b.last_panel, b.last_stride);
    for_each_sum<M, P>([&]<int Tile>(std::integral_constant<int, Tile>) KLENS_INLINE_LAMBDA {
      if (b.carry) store_tile<Tile>(t, b.sums[Tile / 2 * tile_rows][Tile % 2], sums_stride);
      else store_tile<Tile>(t, b.group[Tile], tile_bytes);
    });
    if (!b.carry) fold_group<P>(b, k, end - k);
  }
}

/// Tokens [0, tokens) of a block, 32 at a time; `b` describes the first. `shaped`: rows the tiles are configured for.
template <int P>
KLENS_NOINLINE void all_tokens(TileRegisters& t, Block b, int tokens, int& shaped) {
  for (; tokens > 0; tokens -= b.rows) {
    b.rows = tokens < 2 * tile_rows ? tokens : 2 * tile_rows;
    if (shaped != b.rows) configure(t, shapes_of(b.rows, b.step)), shaped = b.rows;
    if (b.rows > tile_rows) multiply<2, P>(t, b);
    else multiply<1, P>(t, b);
    b.x += b.rows * b.x_stride, b.last_x += b.rows * tile_bytes;
    b.sums += b.rows, b.inputs += b.rows * b.inputs_stride;
  }
}

/// Copies the first 4 n bytes and fills up to 64 with zeros.
KLENS_INLINE void copy_padded(void* to, const void* from, int n) {
  std::int32_t words[lanes] = {};
  __builtin_memcpy(words, from, std::size_t(4 * n));
  store_i(static_cast<std::int32_t*>(to), load_i(words));
}

/// P panels from `panel` on for tokens [token, token + tokens).
template <Codec C, int P>
KLENS_INLINE void panels(TileRegisters& t, const LinearArgs& a, const LinearShape& s, int token, int tokens, int panel,
                         int& shaped) {
  Scratch& scratch = *static_cast<Scratch*>(a.scratch);
  constexpr Unit unit = codec_unit<C>;
  const int blocks = int(div_up(s.cols_padded, block_inputs));
  const int block = int(round_up(div_up(s.cols_padded, blocks), 128));
  Block b;
  b.step = s.fold == Fold::scale && s.segment == 32 ? 32 : tile_bytes;
  b.carry = s.fold == Fold::carry;
  b.x_stride = a.x.stride, b.inputs_stride = a.x.stride / 32;
  b.last_x = scratch.last_inputs[0];
  b.sums = scratch.sums, b.group = scratch.group;
  b.scale_stride = s.groups * lanes;
  b.zero_point = std::uint32_t(zero_point<C>);
  for (int k = 0; k < s.cols_padded; k += block) {
    b.depth = s.cols_padded - k < block ? s.cols_padded - k : block;
    b.segment = b.carry ? b.depth : s.segment;
    b.first = k == 0;
    const unsigned char* lines = a.w.lines + panel * s.panel_bytes + std::int64_t(k / unit.inputs) * unit_bytes<C>;
    const int whole = b.depth / b.step * b.step, last = b.depth - whole;
    if constexpr (C == Codec::i8) {
      b.panel = lines, b.panel_stride = s.panel_bytes;
    } else {
      b.panel = scratch.panels[0], b.panel_stride = sizeof scratch.panels[0];
      for (int p = 0; p < P; ++p)
        gemm_detail::expand<C, Dot::u8>(lines + p * s.panel_bytes, b.depth, scratch.panels[p]);
    }
    b.last_panel = scratch.last_lines[0][0], b.last_stride = sizeof scratch.last_lines[0];
    for (int p = 0; p < P && last > 0; ++p)
      for (int i = 0; i < b.step / 4; ++i) {
        const unsigned char* line = b.panel + p * b.panel_stride + std::int64_t(whole / 4 + i) * line_bytes;
        store_i(reinterpret_cast<std::int32_t*>(scratch.last_lines[p][i]),
                4 * i < last ? load_line(line) : splat_i(0));
      }
    b.x = a.x.q8 + token * a.x.stride + k;
    b.inputs = a.x.sums + token * b.inputs_stride + k / 32;
    b.scales = b.carry ? nullptr : static_cast<const half*>(a.w.scales) + (panel * s.groups + k / s.segment) * lanes;
    all_tokens<P>(t, b, tokens, shaped);
  }
  for (int i = 0; i < tokens; ++i)
    for (int p = 0; p < P; ++p) {
      v16f v = load(scratch.sums[i][p]);
      if (b.carry) v = to_float(bits(v) + splat_i(scratch.correction[i]));
      finish<C>(a, s, v, token + i, panel + p);
    }
}

/// What all panels of a chunk of tokens need: the last inputs padded, and the zero point's part of whole rows.
template <Codec C>
KLENS_INLINE void prepare(const LinearArgs& a, const LinearShape& s, int token, int tokens) {
  Scratch& scratch = *static_cast<Scratch*>(a.scratch);
  const int depth = s.fold == Fold::scale && s.segment == 32 ? 32 : tile_bytes;
  const int whole = s.cols_padded / depth * depth, last = s.cols_padded - whole;
  for (int i = 0; i < tokens; ++i) {
    const std::int64_t row = token + i;
    if (last > 0) copy_padded(scratch.last_inputs[i], a.x.q8 + row * a.x.stride + whole, last / 4);
    if (s.fold != Fold::carry) continue;
    scratch.correction[i] = row_correction<C>(a.x, row, s.cols_padded);
  }
}

}  // namespace amx_detail

/// All tokens of an a8 linear; tiles_allowed() must hold.
template <Codec C>
KLENS_INLINE void gemm_amx(const LinearArgs& a, const LinearShape& s) {
  KLENS_ASSERT(a.scratch != nullptr && a.x.q8 != nullptr);
  const int chunks = int(div_up(a.tokens, amx_detail::most_tokens));
  const int chunk = int(round_up(div_up(a.tokens, chunks), 2 * tile_rows));  // equal shares: no chunk of a few tokens
  TileRegisters t;
  int shaped = 0;
  for (int token = 0; token < a.tokens; token += chunk) {
    const int tokens = a.tokens - token < chunk ? a.tokens - token : chunk;
    amx_detail::prepare<C>(a, s, token, tokens);
    int panel = a.begin;
    for (; panel + 2 <= a.end; panel += 2) amx_detail::panels<C, 2>(t, a, s, token, tokens, panel, shaped);
    if (panel < a.end) amx_detail::panels<C, 1>(t, a, s, token, tokens, panel, shaped);
  }
  release(t);
}

}  // namespace klens::inline KLENS_NS

#endif
