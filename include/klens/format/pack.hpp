// Packed matrices: PackedBuffer owns one, packed_view checks somebody else's bytes, pack_* fill, unpack* read back.
//
//   unpack            W[n, k] = scale[n, group of k] * value(code[n, k])      one rounding; exact for float grids
//   unpack_integers   q[n, k] (nf4: the level's index)
//
// The work is done in blocks of 16 rows x 32 inputs: every unit divides 32, and every group is a multiple of 32. A
// block's codes are bytes in a 512-byte scratch; four of them at a time are shifted into place as one dword, so that
// packing costs about one operation per weight without any vector instruction. Exact places: codec.hpp.
#pragma once

#include <klens/core/aligned.hpp>
#include <klens/core/result.hpp>
#include <klens/format/codec.hpp>
#include <klens/format/name.hpp>

#include <algorithm>
#include <cstdio>
#include <limits>

namespace klens {

/// Largest matrix, in weights: keeps every size in an int64 with room to spare (4 TiB of f32).
inline constexpr std::int64_t max_weights = std::int64_t(1) << 40;

namespace detail {

inline constexpr int block_inputs = 32;

inline std::string number_text(double x) {
  char text[40];
  std::snprintf(text, sizeof text, "%.9g", x);
  return text;
}

inline std::string shape_text(std::int64_t rows, std::int64_t cols) {
  return std::to_string(rows) + " x " + std::to_string(cols);
}

inline std::string place_text(std::int64_t row, std::int64_t col) {
  return "row " + std::to_string(row) + ", column " + std::to_string(col);
}

/// A shape that can be packed at all.
inline Result<void> check_shape(const Precision& p, std::int64_t rows, std::int64_t cols) {
  if (!storable(p.weight_bits, p.scheme))
    return Error{ErrorCode::unsupported, "packed matrix " + shape_text(rows, cols), "a format with a packed layout",
                 format_name(p)};
  constexpr std::int64_t most = std::numeric_limits<std::int32_t>::max() - lanes;
  if (rows < 1 || cols < 1 || rows > most || cols > most || rows > max_weights / cols)
    return Error{ErrorCode::shape, "packed matrix", "1 to 2^31 rows and columns, at most 2^40 weights",
                 shape_text(rows, cols)};
  return {};
}

/// Codes of 16 rows x 32 inputs, one byte each. Row r starts at codes + 32 r.
using BlockCodes = unsigned char[lanes * block_inputs];

inline std::uint32_t load_u32(const unsigned char* p) {
  std::uint32_t u;
  std::memcpy(&u, p, 4);
  return u;
}
inline void store_u32(unsigned char* p, std::uint32_t u) { std::memcpy(p, &u, 4); }

// Planes: `inputs` codes of row r (a multiple of the plane's inputs per line) to and from its lines; c points at the
// row's codes, line at dword r of the first line. The low bits of a code go to the plane; `from` says which.
inline void put_bytes(const unsigned char* c, int inputs, unsigned char* line) {
  for (int k = 0; k < inputs; k += 4, line += line_bytes) store_u32(line, load_u32(c + k));
}
inline void put_nibbles(const unsigned char* c, int inputs, unsigned char* line) {
  for (int k = 0; k < inputs; k += 8, line += line_bytes)
    store_u32(line, (load_u32(c + k) & 0x0f0f0f0fu) | (load_u32(c + k + 4) & 0x0f0f0f0fu) << 4);
}
inline void put_crumbs(const unsigned char* c, int inputs, int from, unsigned char* line) {
  for (int k = 0; k < inputs; k += 16, line += line_bytes) {
    std::uint32_t dword = 0;
    for (int i = 0; i < 4; ++i) dword |= (load_u32(c + k + 4 * i) >> from & 0x03030303u) << (2 * i);
    store_u32(line, dword);
  }
}
inline void put_bits(const unsigned char* c, int from, unsigned char* line) {
  std::uint32_t dword = 0;
  for (int i = 0; i < 8; ++i) dword |= (load_u32(c + 4 * i) >> from & 0x01010101u) << i;
  store_u32(line, dword);
}

inline void get_bytes(unsigned char* c, int inputs, const unsigned char* line) {
  for (int k = 0; k < inputs; k += 4, line += line_bytes) store_u32(c + k, load_u32(line));
}
inline void get_nibbles(unsigned char* c, int inputs, const unsigned char* line) {
  for (int k = 0; k < inputs; k += 8, line += line_bytes) {
    const std::uint32_t dword = load_u32(line);
    store_u32(c + k, dword & 0x0f0f0f0fu);
    store_u32(c + k + 4, dword >> 4 & 0x0f0f0f0fu);
  }
}
/// Adds to the codes: the plane holds bits `from` and up of them.
inline void add_crumbs(unsigned char* c, int inputs, int from, const unsigned char* line) {
  for (int k = 0; k < inputs; k += 16, line += line_bytes)
    for (int i = 0; i < 4; ++i)
      store_u32(c + k + 4 * i, load_u32(c + k + 4 * i) | (load_u32(line) >> (2 * i) & 0x03030303u) << from);
}
inline void add_bits(unsigned char* c, int from, const unsigned char* line) {
  for (int i = 0; i < 8; ++i) store_u32(c + 4 * i, load_u32(c + 4 * i) | (load_u32(line) >> i & 0x01010101u) << from);
}

/// Packs `inputs` (a multiple of the unit, at most 32) inputs of 16 rows into the lines that start at `lines`.
inline void put_block(int bits, const BlockCodes& codes, int inputs, unsigned char* lines) {
  for (int r = 0; r < lanes; ++r) {
    const unsigned char* c = codes + r * block_inputs;
    unsigned char* line = lines + 4 * r;
    switch (bits) {
      case 8: put_bytes(c, inputs, line); break;
      case 6: put_nibbles(c, 32, line), put_crumbs(c, 32, 4, line + 4 * line_bytes); break;
      case 5: put_nibbles(c, 32, line), put_bits(c, 4, line + 4 * line_bytes); break;
      case 4: put_nibbles(c, inputs, line); break;
      case 3: put_crumbs(c, 32, 0, line), put_bits(c, 2, line + 2 * line_bytes); break;
      default: put_crumbs(c, inputs, 0, line); break;
    }
  }
}

/// Inverse of put_block; codes beyond `inputs` are left as they are.
inline void get_block(int bits, BlockCodes& codes, int inputs, const unsigned char* lines) {
  for (int r = 0; r < lanes; ++r) {
    unsigned char* c = codes + r * block_inputs;
    const unsigned char* line = lines + 4 * r;
    switch (bits) {
      case 8: get_bytes(c, inputs, line); break;
      case 6: get_nibbles(c, 32, line), add_crumbs(c, 32, 4, line + 4 * line_bytes); break;
      case 5: get_nibbles(c, 32, line), add_bits(c, 4, line + 4 * line_bytes); break;
      case 4: get_nibbles(c, inputs, line); break;
      case 3: std::memset(c, 0, 32), add_crumbs(c, 32, 0, line), add_bits(c, 2, line + 2 * line_bytes); break;
      default: std::memset(c, 0, std::size_t(inputs)), add_crumbs(c, inputs, 0, line); break;
    }
  }
}

/// The byte every line of a plane holds where all weights are 0; unit line `line` of the format.
inline unsigned char zero_line_byte(int bits, Grid grid, int line) {
  unsigned char unit[6 * line_bytes] = {};
  for (int i = 0; i < unit_of(bits, grid).inputs; ++i) store_code(unit, bits, grid, 0, i, zero_code(bits, grid));
  return unit[line * line_bytes];
}

}  // namespace detail

/// Owns a packed matrix: lines, then scales, in one 64-byte aligned allocation of packed_bytes (and 64 readable bytes
/// behind it). Starts as the zero matrix, padding encoded; moves, never copies. The shape must pass `make`'s checks.
class PackedBuffer {
 public:
  PackedBuffer() = default;

  static Result<PackedBuffer> make(const Precision& precision, std::int64_t rows, std::int64_t cols) {
    KLENS_OK(detail::check_shape(precision, rows, cols));
    return PackedBuffer(precision, rows, cols);
  }

  PackedMatrix matrix() const {
    const bool has_scales = layout_.scale_plane_bytes > 0;
    return {data_.data(), has_scales ? data_.data() + layout_.line_plane_bytes : nullptr, rows_, cols_, precision_};
  }

  const Precision& precision() const { return precision_; }
  const PackedLayout& layout() const { return layout_; }
  std::int64_t rows() const { return rows_; }
  std::int64_t cols() const { return cols_; }
  std::int64_t bytes() const { return layout_.line_plane_bytes + layout_.scale_plane_bytes; }  // = packed_bytes(...)

  std::span<const std::byte> lines() const {
    return std::as_bytes(data_.span()).first(std::size_t(layout_.line_plane_bytes));
  }
  std::span<const std::byte> scales() const {
    return std::as_bytes(data_.span()).subspan(std::size_t(layout_.line_plane_bytes));
  }

  /// Lines of a panel, and its scales (float[16], or half[groups][16]); for the code that fills them.
  unsigned char* panel_lines(std::int64_t panel) { return data_.data() + panel * layout_.panel_bytes; }
  unsigned char* panel_scales(std::int64_t panel) {
    return data_.data() + layout_.line_plane_bytes + panel * layout_.scale_panel_bytes;
  }

 private:
  PackedBuffer(const Precision& precision, std::int64_t rows, std::int64_t cols)
      : precision_(precision),
        rows_(std::int32_t(rows)),
        cols_(std::int32_t(cols)),
        layout_(layout_of(precision, rows, cols)),
        data_(std::size_t(layout_.line_plane_bytes + layout_.scale_plane_bytes)) {
    const Unit u = unit_of(precision.weight_bits, precision.scheme.grid);
    for (int line = 0; line < u.lines; ++line) {
      const unsigned char zero = detail::zero_line_byte(precision.weight_bits, precision.scheme.grid, line);
      if (zero == 0) continue;
      for (std::int64_t at = line * line_bytes; at < layout_.line_plane_bytes; at += std::int64_t(u.lines) * line_bytes)
        std::memset(data_.data() + at, zero, line_bytes);
    }
  }

  Precision precision_ = {};
  std::int32_t rows_ = 0, cols_ = 0;
  PackedLayout layout_ = {};
  Buffer<unsigned char> data_;
};

/// A view of packed bytes that somebody else owns (a mapped file), after checking format, shape, sizes and alignment.
inline Result<PackedMatrix> packed_view(const Precision& p, std::span<const std::byte> lines,
                                        std::span<const std::byte> scales, std::int64_t rows, std::int64_t cols) {
  KLENS_OK(detail::check_shape(p, rows, cols));
  const PackedLayout l = layout_of(p, rows, cols);
  const std::string where = weight_name(p) + " matrix " + detail::shape_text(rows, cols);
  if (std::int64_t(lines.size()) != l.line_plane_bytes)
    return Error{ErrorCode::shape, where + ": line plane", std::to_string(l.line_plane_bytes) + " bytes",
                 std::to_string(lines.size())};
  if (std::int64_t(scales.size()) != l.scale_plane_bytes)
    return Error{ErrorCode::shape, where + ": scale plane", std::to_string(l.scale_plane_bytes) + " bytes",
                 std::to_string(scales.size())};
  const auto misaligned = [](const void* p, std::uintptr_t unit) { return reinterpret_cast<std::uintptr_t>(p) % unit; };
  if (const auto rest = misaligned(lines.data(), line_bytes))
    return Error{ErrorCode::format, where + ": line plane", "a multiple of 64 as its address",
                 std::to_string(rest) + " bytes beyond one"};
  if (const auto rest = scales.empty() ? 0 : misaligned(scales.data(), 32))
    return Error{ErrorCode::format, where + ": scale plane", "a multiple of 32 as its address",
                 std::to_string(rest) + " bytes beyond one"};
  return PackedMatrix{reinterpret_cast<const unsigned char*>(lines.data()), scales.empty() ? nullptr : scales.data(),
                      std::int32_t(rows), std::int32_t(cols), p};
}

namespace detail {

/// Calls body(panel, k0, inputs, codes) for every block of an integer or nf4 matrix, k0 ascending inside a panel.
template <class Body>
inline void for_each_block(const PackedMatrix& m, const Body& body) {
  const Precision& p = m.precision;
  const Unit u = unit_of(p.weight_bits, p.scheme.grid);
  const PackedLayout l = layout_of(p, m.rows, m.cols);
  BlockCodes codes;
  for (std::int64_t panel = 0; panel < l.panels; ++panel)
    for (std::int64_t k0 = 0; k0 < m.cols; k0 += block_inputs) {
      const unsigned char* lines = m.lines + panel * l.panel_bytes + k0 / u.inputs * u.lines * line_bytes;
      get_block(p.weight_bits, codes, int(std::min<std::int64_t>(block_inputs, l.cols_padded - k0)), lines);
      body(panel, k0, int(std::min<std::int64_t>(block_inputs, m.cols - k0)), codes);
    }
}

inline void unpack_floats(const PackedMatrix& m, const Rows<float>& out) {
  const Grid grid = m.precision.scheme.grid;
  const PackedLayout l = layout_of(m.precision, m.rows, m.cols);
  for (std::int64_t n = 0; n < m.rows; ++n) {
    const unsigned char* panel = m.lines + n / lanes * l.panel_bytes;
    const int r = int(n % lanes);
    float* y = row(out, n);
    if (grid == Grid::f32)
      for (std::int64_t k = 0; k < m.cols; ++k) y[k] = std::bit_cast<float>(load_u32(panel + k * line_bytes + 4 * r));
    else
      for (std::int64_t k = 0; k < m.cols; ++k) y[k] = code_value(16, grid, load_code(panel, 16, grid, r, k));
  }
}

}  // namespace detail

/// Dequantizes. `out` is [m.rows, m.cols].
inline void unpack(const PackedMatrix& m, const Rows<float>& out) {
  KLENS_ASSERT(out.rows == m.rows && out.cols == m.cols);
  const Precision& p = m.precision;
  if (is_float_grid(p.scheme.grid)) return detail::unpack_floats(m, out);
  float value[256] = {};
  for (int code = 0; code < 1 << p.weight_bits; ++code)
    value[code] = code_value(p.weight_bits, p.scheme.grid, std::uint32_t(code));
  detail::for_each_block(m, [&](std::int64_t panel, std::int64_t k0, int inputs, const detail::BlockCodes& codes) {
    const std::int64_t group = p.scheme.scale == Granularity::group ? k0 / p.scheme.group : 0;
    for (int r = 0; r < lanes && panel * lanes + r < m.rows; ++r) {
      const float scale = scale_at(m, panel, group, r);
      float* y = row(out, panel * lanes + r) + k0;
      for (int k = 0; k < inputs; ++k) y[k] = scale * value[codes[r * detail::block_inputs + k]];
    }
  });
}

/// The integers q of a uniform grid, the level indices of nf4. `out` is [m.rows, m.cols]; float grids have none.
inline void unpack_integers(const PackedMatrix& m, const Rows<std::int8_t>& out) {
  KLENS_ASSERT(out.rows == m.rows && out.cols == m.cols && !is_float_grid(m.precision.scheme.grid));
  const int bias = m.precision.scheme.grid == Grid::nf4 ? 0 : bias_of(m.precision.weight_bits);
  detail::for_each_block(m, [&](std::int64_t panel, std::int64_t k0, int inputs, const detail::BlockCodes& codes) {
    for (int r = 0; r < lanes && panel * lanes + r < m.rows; ++r)
      for (int k = 0; k < inputs; ++k)
        row(out, panel * lanes + r)[k0 + k] = std::int8_t(int(codes[r * detail::block_inputs + k]) - bias);
  });
}

/// Packs given integers (uniform: q, nf4: level indices; [rows, cols]) with given scales ([rows, 1 or groups]). Errors:
/// a value outside the grid; a group scale that is not a finite binary16; shapes that differ.
inline Result<PackedBuffer> pack_integers(const Precision& p, const Rows<const std::int8_t>& q,
                                          const Rows<const float>& scales) {
  KLENS_TRY(PackedBuffer out, PackedBuffer::make(p, q.rows, q.cols));
  const PackedLayout& l = out.layout();
  const bool grouped = p.scheme.scale == Granularity::group, nf4 = p.scheme.grid == Grid::nf4;
  if (is_float_grid(p.scheme.grid))
    return Error{ErrorCode::unsupported, "packing integers", "a uniform or nf4 format", format_name(p)};
  if (scales.rows != q.rows || scales.cols != l.groups)
    return Error{ErrorCode::shape, "scales of " + format_name(p), detail::shape_text(q.rows, l.groups),
                 detail::shape_text(scales.rows, scales.cols)};
  const int bias = nf4 ? 0 : bias_of(p.weight_bits), least = -bias, most = (1 << p.weight_bits) - 1 - bias;
  const Unit u = unit_of(p.weight_bits, p.scheme.grid);
  for (std::int64_t panel = 0; panel < l.panels; ++panel) {
    const int rows_here = int(std::min<std::int64_t>(lanes, q.rows - panel * lanes));
    for (int r = 0; r < rows_here; ++r)
      for (std::int64_t g = 0; g < l.groups; ++g) {
        const float s = row(scales, panel * lanes + r)[g];
        const half h = to_half(s);
        if (!(s - s == 0.0f) || (grouped && to_float(h) != s))
          return Error{ErrorCode::format,
                       "scale of row " + std::to_string(panel * lanes + r) + ", group " + std::to_string(g),
                       grouped ? "a finite binary16 value" : "a finite value", detail::number_text(s)};
        if (grouped)
          reinterpret_cast<half*>(out.panel_scales(panel))[g * lanes + r] = h;
        else
          reinterpret_cast<float*>(out.panel_scales(panel))[r] = s;
      }
    for (std::int64_t k0 = 0; k0 < q.cols; k0 += detail::block_inputs) {
      detail::BlockCodes codes;
      std::memset(codes, int(zero_code(p.weight_bits, p.scheme.grid)), sizeof codes);
      const int inputs = int(std::min<std::int64_t>(detail::block_inputs, q.cols - k0));
      for (int r = 0; r < rows_here; ++r)
        for (int k = 0; k < inputs; ++k) {
          const int value = row(q, panel * lanes + r)[k0 + k];
          if (value < least || value > most)
            return Error{ErrorCode::format, detail::place_text(panel * lanes + r, k0 + k),
                         std::to_string(least) + " to " + std::to_string(most), std::to_string(value)};
          codes[r * detail::block_inputs + k] = static_cast<unsigned char>(value + bias);
        }
      detail::put_block(p.weight_bits, codes, int(std::min<std::int64_t>(detail::block_inputs, l.cols_padded - k0)),
                        out.panel_lines(panel) + k0 / u.inputs * u.lines * line_bytes);
    }
  }
  return out;
}

/// Packs floats on a float grid, to nearest even. Errors: a weight that is not finite, or leaves the grid's range.
inline Result<PackedBuffer> pack_floats(const Precision& p, const Rows<const float>& w) {
  KLENS_TRY(PackedBuffer out, PackedBuffer::make(p, w.rows, w.cols));
  const Grid grid = p.scheme.grid;
  if (!is_float_grid(grid)) return Error{ErrorCode::unsupported, "packing floats", "f32, f16 or bf16", format_name(p)};
  const std::uint32_t exponent = grid == Grid::f16 ? 0x7c00u : grid == Grid::bf16 ? 0x7f80u : 0x7f800000u;
  for (std::int64_t n = 0; n < w.rows; ++n) {
    const float* x = row(w, n);
    unsigned char* panel = out.panel_lines(n / lanes);
    const int r = int(n % lanes);
    for (std::int64_t k = 0; k < w.cols; ++k) {
      const std::uint32_t code = encode_float(grid, x[k]);
      if ((code & exponent) == exponent) {
        const bool finite = x[k] - x[k] == 0.0f;
        return Error{finite ? ErrorCode::overflow : ErrorCode::format, detail::place_text(n, k),
                     finite ? "a weight in the range of " + weight_name(p) : "a finite weight",
                     detail::number_text(x[k])};
      }
      if (grid == Grid::f32)
        detail::store_u32(panel + k * line_bytes + 4 * r, code);
      else
        store_code(panel, 16, grid, r, k, code);
    }
  }
  return out;
}

}  // namespace klens
