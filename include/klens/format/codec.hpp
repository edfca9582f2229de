// One value of every grid, and its place in the D-lines: constexpr, scalar, the definition that fast paths must equal.
//
// Codes. A stored weight is an unsigned code of `bits` bits:
//   uniform   code = q + 2^(bits-1), q in [-2^(bits-1), 2^(bits-1) - 1]; round-to-nearest uses [-qmax, qmax] of it
//   nf4       code = index of one of 16 levels (QLoRA's code book, values as float)
//   f16 bf16 f32   code = the bit pattern
// The value is code_value(code) for floats and scale * code_value(code) otherwise: one rounding.
//
// Places. Input k of panel row r lies in unit k / unit_of().inputs; with i = k mod that, inside the unit (d = 4r, the
// row's dword in a line):
//   w8        line 0             byte d + i                       bits 7..0
//   nibble    line i/8           byte d + i%4                     bits 3..0 for i%8 < 4, else bits 7..4
//   crumb     line i/16          byte d + i%4                     bits 2c+1..2c, c = i%16 / 4
//   bit       line 0             byte d + i%4                     bit i/4
//   f32       line 0             bytes d..d+3                     little endian
//   bf16      line 0             bytes d + 2i, d + 2i + 1
//   f16       line 0             bytes 32i + 2r, 32i + 2r + 1
//   w4, nf4 = nibble; w2 = crumb; w3 = crumbs in lines 0..1 (code bits 1..0), bit in line 2 (code bit 2);
//   w5 = nibbles in lines 0..3 (bits 3..0), bit in line 4 (bit 4);
//   w6 = nibbles in lines 0..3 (bits 3..0), crumbs in lines 4..5 (bits 5..4)
#pragma once

#include <klens/core/half.hpp>
#include <klens/format/dline.hpp>

namespace klens {

// The table is named by level, like everything an object of a level may have to emit (config.hpp).
inline namespace KLENS_NS {
inline constexpr float nf4_levels[16] = {
    -1.0f,      -0.6961928f, -0.52507305f, -0.39491749f, -0.28444138f, -0.18477343f, -0.09105004f, 0.0f,
    0.0795803f, 0.1609302f,  0.2461123f,   0.33791524f,  0.44070983f,  0.562617f,    0.72295684f,  1.0f};
}  // namespace KLENS_NS

inline constexpr std::uint32_t nf4_zero_code = 7;

KLENS_INLINE constexpr bool is_float_grid(Grid grid) {
  return grid == Grid::f32 || grid == Grid::f16 || grid == Grid::bf16;
}

/// Largest |q| that round-to-nearest uses: 127, 31, 15, 7, 3, 1.
KLENS_INLINE constexpr int qmax_of(int bits) { return (1 << (bits - 1)) - 1; }

/// What is added to q to make it unsigned: 128, 32, 16, 8, 4, 2.
KLENS_INLINE constexpr int bias_of(int bits) { return 1 << (bits - 1); }

/// The code of a zero weight: what padding holds.
KLENS_INLINE constexpr std::uint32_t zero_code(int bits, Grid grid) {
  return grid == Grid::uniform ? std::uint32_t(bias_of(bits)) : grid == Grid::nf4 ? nf4_zero_code : 0u;
}

KLENS_INLINE constexpr std::uint32_t encode_integer(int bits, int q) { return std::uint32_t(q + bias_of(bits)); }
KLENS_INLINE constexpr int decode_integer(int bits, std::uint32_t code) { return int(code) - bias_of(bits); }

/// Nearest even, |x| < 2^22: adding 1.5 * 2^23 leaves the integer in the low bits of the sum.
KLENS_INLINE constexpr int round_half_even(float x) {
  return int(std::bit_cast<std::uint32_t>(x + 12582912.0f)) - 0x4b400000;
}

/// Greatest float that is not above the middle of levels i and i + 1: x lies nearer to level i + 1 exactly when x > it.
/// The sum of the two levels is exact in double. A tie, which takes a representable middle, goes to the lower level.
KLENS_INLINE constexpr float nf4_middle(int i) {
  const double middle = (double(nf4_levels[i]) + double(nf4_levels[i + 1])) / 2;
  const float near = float(middle);
  if (double(near) <= middle) return near;
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(near);
  return std::bit_cast<float>(near > 0 ? bits - 1 : bits + 1);
}

/// Index of the nearest NF4 level; NaN gives 0.
KLENS_INLINE constexpr std::uint32_t encode_nf4(float x) {
  std::uint32_t code = 0;
  for (int i = 0; i < 15; ++i) code += x > nf4_middle(i);
  return code;
}

/// Code of w on a float grid, to nearest even. Overflow becomes infinity: callers that promise an error test for it.
KLENS_INLINE constexpr std::uint32_t encode_float(Grid grid, float w) {
  if (grid == Grid::f16) return to_half(w).bits;
  if (grid == Grid::bf16) return to_bf16(w).bits;
  return std::bit_cast<std::uint32_t>(w);
}

/// Code of w on any grid, given its scale (ignored by float grids; 0 means the weight is 0): the rule of quant/rtn.hpp.
KLENS_INLINE constexpr std::uint32_t encode(int bits, Grid grid, float w, float scale) {
  if (is_float_grid(grid)) return encode_float(grid, w);
  if (scale == 0.0f) return zero_code(bits, grid);
  const float x = w / scale;
  if (grid == Grid::nf4) return encode_nf4(x);
  const float limit = float(qmax_of(bits));
  return encode_integer(bits, round_half_even(x > limit ? limit : x < -limit ? -limit : x));
}

/// The value of a code before its scale.
KLENS_INLINE constexpr float code_value(int bits, Grid grid, std::uint32_t code) {
  switch (grid) {
    case Grid::uniform: return float(decode_integer(bits, code));
    case Grid::nf4: return nf4_levels[code & 15u];
    case Grid::f16: return to_float(half{std::uint16_t(code)});
    case Grid::bf16: return to_float(bf16{std::uint16_t(code)});
    case Grid::f32: break;
  }
  return std::bit_cast<float>(code);
}

/// Where the bits of one code stand: `width` bits from bit `shift` of byte `byte` (width 16, 32: little endian).
struct Place {
  int byte, shift, width;
};

KLENS_INLINE constexpr Place byte_place(int line, int r, int i) { return {line * line_bytes + 4 * r + i % 4, 0, 8}; }
KLENS_INLINE constexpr Place nibble_place(int line, int r, int i) {
  return {(line + i / 8) * line_bytes + 4 * r + i % 4, i % 8 / 4 * 4, 4};
}
KLENS_INLINE constexpr Place crumb_place(int line, int r, int i) {
  return {(line + i / 16) * line_bytes + 4 * r + i % 4, i % 16 / 4 * 2, 2};
}
KLENS_INLINE constexpr Place bit_place(int line, int r, int i) { return {line * line_bytes + 4 * r + i % 4, i / 4, 1}; }

/// The places of input i (of its unit) of row r: the code's low bits, then its high bits (width 0 where there are none).
struct Places {
  Place low, high;
};

KLENS_INLINE constexpr Places places_of(int bits, Grid grid, int r, int i) {
  constexpr Place none{0, 0, 0};
  if (grid == Grid::f32) return {{4 * r, 0, 32}, none};
  if (grid == Grid::bf16) return {{4 * r + 2 * i, 0, 16}, none};
  if (grid == Grid::f16) return {{32 * i + 2 * r, 0, 16}, none};
  switch (bits) {
    case 8: return {byte_place(0, r, i), none};
    case 6: return {nibble_place(0, r, i), crumb_place(4, r, i)};
    case 5: return {nibble_place(0, r, i), bit_place(4, r, i)};
    case 4: return {nibble_place(0, r, i), none};
    case 3: return {crumb_place(0, r, i), bit_place(2, r, i)};
    default: return {crumb_place(0, r, i), none};
  }
}

KLENS_INLINE constexpr std::uint32_t load_bits(const unsigned char* unit, Place p) {
  std::uint32_t value = 0;
  for (int b = 0; b * 8 < p.width; ++b) value |= std::uint32_t(unit[p.byte + b]) << (8 * b);
  value >>= p.shift;
  return p.width >= 32 ? value : value & ((1u << p.width) - 1u);
}

KLENS_INLINE constexpr void store_bits(unsigned char* unit, Place p, std::uint32_t value) {
  if (p.width >= 8) {
    for (int b = 0; b * 8 < p.width; ++b) unit[p.byte + b] = static_cast<unsigned char>(value >> (8 * b));
    return;
  }
  const std::uint32_t mask = ((1u << p.width) - 1u) << p.shift;
  unit[p.byte] = static_cast<unsigned char>((unit[p.byte] & ~mask) | ((value << p.shift) & mask));
}

/// Code of input k of row r (0..15) of a panel whose lines start at `panel`.
KLENS_INLINE constexpr std::uint32_t load_code(const unsigned char* panel, int bits, Grid grid, int r, std::int64_t k) {
  const Unit u = unit_of(bits, grid);
  const unsigned char* unit = panel + k / u.inputs * (u.lines * line_bytes);
  const Places p = places_of(bits, grid, r, int(k % u.inputs));
  return load_bits(unit, p.low) | (p.high.width ? load_bits(unit, p.high) << p.low.width : 0u);
}

/// Replaces that code and no other bit.
KLENS_INLINE constexpr void store_code(unsigned char* panel, int bits, Grid grid, int r, std::int64_t k,
                                       std::uint32_t code) {
  const Unit u = unit_of(bits, grid);
  unsigned char* unit = panel + k / u.inputs * (u.lines * line_bytes);
  const Places p = places_of(bits, grid, r, int(k % u.inputs));
  store_bits(unit, p.low, code);
  if (p.high.width) store_bits(unit, p.high, code >> p.low.width);
}

/// Scale of (row r of panel p, group g); 1 for float grids.
KLENS_INLINE float scale_at(const PackedMatrix& m, std::int64_t panel, std::int64_t group, int r) {
  if (is_float_grid(m.precision.scheme.grid)) return 1.0f;
  if (m.precision.scheme.scale != Granularity::group) return static_cast<const float*>(m.scales)[panel * lanes + r];
  const std::int64_t groups = div_up(m.cols, m.precision.scheme.group);
  return to_float(static_cast<const half*>(m.scales)[(panel * groups + group) * lanes + r]);
}

/// Dequantized weight [n, k]: scale * value, one rounding. For one value; whole matrices: format/pack.hpp.
KLENS_INLINE float weight_at(const PackedMatrix& m, std::int64_t n, std::int64_t k) {
  const Precision& p = m.precision;
  const std::int64_t panel = n / lanes, panel_bytes = layout_of(p, m.rows, m.cols).panel_bytes;
  const float value =
      code_value(p.weight_bits, p.scheme.grid,
                 load_code(m.lines + panel * panel_bytes, p.weight_bits, p.scheme.grid, int(n % lanes), k));
  if (is_float_grid(p.scheme.grid)) return value;
  return scale_at(m, panel, p.scheme.scale == Granularity::group ? k / p.scheme.group : 0, int(n % lanes)) * value;
}

namespace detail {

/// Every (row, input) of two units owns its bits: written in one order, read back in another, neighbours untouched.
constexpr bool codec_round_trips(int bits, Grid grid) {
  const Unit u = unit_of(bits, grid);
  unsigned char panel[2 * 6 * line_bytes] = {};
  const std::uint32_t mask = bits >= 32 ? 0xffffffffu : (1u << bits) - 1u;
  const auto code = [&](int r, int k) {
    return (std::uint32_t(r) * 2654435761u + std::uint32_t(k) * 40503u + 0x9e37u) >> 3 & mask;
  };
  for (int k = 2 * u.inputs - 1; k >= 0; --k)
    for (int r = 0; r < lanes; ++r) store_code(panel, bits, grid, r, k, code(r, k));
  for (int r = 0; r < lanes; ++r)
    for (int k = 0; k < 2 * u.inputs; ++k)
      if (load_code(panel, bits, grid, r, k) != code(r, k)) return false;
  return lanes * u.inputs * bits == u.lines * line_bytes * 8;  // and nothing is left over
}

}  // namespace detail

static_assert(detail::codec_round_trips(8, Grid::uniform) && detail::codec_round_trips(6, Grid::uniform));
static_assert(detail::codec_round_trips(5, Grid::uniform) && detail::codec_round_trips(4, Grid::uniform));
static_assert(detail::codec_round_trips(3, Grid::uniform) && detail::codec_round_trips(2, Grid::uniform));
static_assert(detail::codec_round_trips(4, Grid::nf4) && detail::codec_round_trips(16, Grid::f16));
static_assert(detail::codec_round_trips(16, Grid::bf16) && detail::codec_round_trips(32, Grid::f32));
static_assert(round_half_even(2.5f) == 2 && round_half_even(-3.5f) == -4 && round_half_even(-0.5f) == 0);
static_assert(encode_nf4(0.0f) == nf4_zero_code && encode_nf4(-9.0f) == 0 && encode_nf4(9.0f) == 15);

}  // namespace klens
