// Embedding lookup: y[t][k] = scale * value of row ids[t] of a packed matrix of any format, one rounding per value, then
// times EmbedArgs::scale (Falcon-H1, Granite).
//
// A row is one dword (or half line) of each D-line of its panel, so a look-up touches every line of the panel:
// cols / 4 lines at w8, 12 KB for 768 columns; no second, row-major copy of the table is kept. The values are those of
// format/codec.hpp, the same scale * value that format/pack.hpp unpacks: bits equal to the dequantized matrix.
// Columns cols .. round_up(cols, 16) are written as zeros. Ids must lie in [0, rows). Test: tests/kernel/embed.cpp.
#pragma once

#include <klens/format/codec.hpp>
#include <klens/kernel/args.hpp>

namespace klens::inline KLENS_NS {
namespace embed_detail {

/// Bits and G are constants here, so that every place of a unit folds to an offset, a shift and a mask.
template <int Bits, Grid G>
KLENS_NOINLINE void lookup(const EmbedArgs& a) {
  constexpr Unit unit = unit_of(Bits, G);
  const PackedMatrix& m = a.w;
  const std::int64_t panel_bytes = layout_of(m.precision, m.rows, m.cols).panel_bytes;
  const std::int64_t group = m.precision.scheme.scale == Granularity::group ? m.precision.scheme.group : m.cols;
  for (int t = a.begin; t < a.end; ++t) {
    const std::int64_t id = a.ids[t], panel = id / lanes;
    const int r = int(id % lanes);
    KLENS_ASSERT(id >= 0 && id < m.rows);
    const unsigned char* lines = m.lines + panel * panel_bytes;
    float* y = a.y + t * a.y_stride;
    for (std::int64_t first = 0, g = 0; first < m.cols; first += group, ++g) {
      const float scale = scale_at(m, panel, g, r);
      const std::int64_t end = first + group < m.cols ? first + group : m.cols;
      for (std::int64_t k = first; k < end; k += unit.inputs) {  // groups are whole units
        const unsigned char* here = lines + k / unit.inputs * (unit.lines * line_bytes);
        const int n = end - k < unit.inputs ? int(end - k) : unit.inputs;
        for (int i = 0; i < n; ++i) {
          const Places p = places_of(Bits, G, r, i);
          std::uint32_t code = load_bits(here, p.low);
          if (p.high.width) code |= load_bits(here, p.high) << p.low.width;
          const float value = code_value(Bits, G, code);
          const float w = is_float_grid(G) ? value : scale * value;
          y[k + i] = w * a.scale;   // by 1 changes nothing
        }
      }
    }
    for (std::int64_t k = m.cols; k < round_up(m.cols, lanes); ++k) y[k] = 0.0f;
  }
}

}  // namespace embed_detail

inline void embed(const EmbedArgs& a) {
  switch (a.w.precision.scheme.grid) {
    case Grid::f32: return embed_detail::lookup<32, Grid::f32>(a);
    case Grid::f16: return embed_detail::lookup<16, Grid::f16>(a);
    case Grid::bf16: return embed_detail::lookup<16, Grid::bf16>(a);
    case Grid::nf4: return embed_detail::lookup<4, Grid::nf4>(a);
    case Grid::uniform: break;
  }
  switch (a.w.precision.weight_bits) {
    case 2: return embed_detail::lookup<2, Grid::uniform>(a);
    case 3: return embed_detail::lookup<3, Grid::uniform>(a);
    case 4: return embed_detail::lookup<4, Grid::uniform>(a);
    case 5: return embed_detail::lookup<5, Grid::uniform>(a);
    case 6: return embed_detail::lookup<6, Grid::uniform>(a);
    default: KLENS_ASSERT(a.w.precision.weight_bits == 8); return embed_detail::lookup<8, Grid::uniform>(a);
  }
}

}  // namespace klens::inline KLENS_NS
