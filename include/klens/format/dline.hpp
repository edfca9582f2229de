// The D-line: 64 bytes = 16 output rows x one dword of consecutive inputs. One packed layout for every ISA level.
//
//   line = [row 0 dword][row 1 dword] ... [row 15 dword]          AVX-512 reads it as one vector, AVX2 as two
//
//   plane      inputs/line  dword of one row
//   byte  w8        4       byte j            = k0+j                              stored u8 = q + 128
//   nibble w4       8       bits 4..0 of byte j = k0+j, bits 7..4 = k0+4+j        stored u4 = q + 8, or the NF4 index
//   crumb w2       16       bits 2i+1..2i of byte j = k0+4i+j, i = 0..3           stored u2 = q + 2
//   bit            32       bit i of byte j = k0+4i+j, i = 0..7
//   f32             1       the float
//   bf16            2       low half k0, high half k0+1
//   f16             2       two half lines: 16 binary16 of k0, then 16 of k0+1
//
//   w3 = crumb x2, bit x1        (low two bits, then bit 2)          w5 = nibble x4, bit x1        w6 = nibble x4, crumb x2
//
// A unit is the smallest run of whole lines: K is padded to it, N to 16. Panels (16 rows) are contiguous, lines inside a
// panel run in increasing k, so that a GEMV streams memory in order. Groups (32, 64, 128 inputs) are whole units; the
// last group of a row may be short. Scales lie in a plane of their own: row scales fp32 [panel][16]; group scales fp16
// [panel][group][16]. Weight padding holds q = 0 (floats: 0), scale padding 0; activation padding is zero as well.
#pragma once

#include <klens/core/rows.hpp>
#include <klens/format/scheme.hpp>

namespace klens {

inline constexpr int line_bytes = 64;

/// Inputs in one unit of whole lines, and lines in it.
struct Unit { int inputs, lines; };

KLENS_INLINE constexpr Unit unit_of(int bits, Grid grid) {
  if (grid == Grid::f32) return {1, 1};
  if (grid == Grid::f16 || grid == Grid::bf16) return {2, 1};
  switch (bits) {
    case 8: return {4, 1};
    case 6: return {32, 6};
    case 5: return {32, 5};
    case 4: return {8, 1};
    case 3: return {32, 3};
    default: return {16, 1};  // 2
  }
}

/// Geometry of a packed [rows, cols] matrix. All sizes in elements unless the name says bytes.
struct PackedLayout {
  std::int64_t panels, groups;      // groups per row; 1 for a row scale, 0 for float grids
  std::int64_t cols_padded;         // cols rounded up to a unit
  std::int64_t panel_bytes;         // of one panel's lines
  std::int64_t scale_panel_bytes;   // of one panel's scales
  std::int64_t line_plane_bytes, scale_plane_bytes;
};

KLENS_INLINE constexpr PackedLayout layout_of(const Precision& p, std::int64_t rows, std::int64_t cols) {
  const Unit u = unit_of(p.weight_bits, p.scheme.grid);
  PackedLayout l{};
  l.panels = div_up(rows, lanes);
  l.cols_padded = round_up(cols, u.inputs);
  l.panel_bytes = l.cols_padded / u.inputs * u.lines * line_bytes;
  const bool is_float = p.scheme.grid == Grid::f32 || p.scheme.grid == Grid::f16 || p.scheme.grid == Grid::bf16;
  l.groups = is_float ? 0 : p.scheme.scale == Granularity::group ? div_up(cols, p.scheme.group) : 1;
  l.scale_panel_bytes = l.groups * lanes * (p.scheme.scale == Granularity::group ? 2 : 4);
  l.line_plane_bytes = l.panels * l.panel_bytes;
  l.scale_plane_bytes = l.panels * l.scale_panel_bytes;
  return l;
}

/// Payload bytes of a packed matrix: lines and scales, padding counted.
KLENS_INLINE constexpr std::int64_t packed_bytes(const Precision& p, std::int64_t rows, std::int64_t cols) {
  const PackedLayout l = layout_of(p, rows, cols);
  return l.line_plane_bytes + l.scale_plane_bytes;
}

/// What kernels see of a packed matrix; the run-time twin of QTensor<Bits, Scheme>. Owns nothing.
struct PackedMatrix {
  const unsigned char* lines = nullptr;   // 64-byte aligned, layout_of(...).line_plane_bytes
  const void* scales = nullptr;           // float [panels][16] or half [panels][groups][16]; null for float grids
  std::int32_t rows = 0, cols = 0;        // outputs, inputs
  Precision precision = {};
};

}  // namespace klens
