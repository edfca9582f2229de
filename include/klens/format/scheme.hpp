// What a number is stored as: Grid, Scheme, Activation, State, and Precision, the slice of a plan one component sees.
// All are structural (enums and integers), so that they can be template arguments.
#pragma once

#include <klens/config.hpp>

#include <cstdint>

namespace klens {

/// The values a stored weight may take, before its scale.
enum class Grid : std::uint8_t { uniform, nf4, f16, bf16, f32 };

/// What shares one scale. `two_level` (fp32 per row times a small integer per group) is named for later recipes.
enum class Granularity : std::uint8_t { tensor, row, group, two_level };

struct Scheme {
  Grid grid = Grid::f32;
  Granularity scale = Granularity::row;
  std::uint16_t group = 0;  // inputs per scale, Granularity::group only
  bool zero_point = false;
  bool operator==(const Scheme&) const = default;
};

/// Uniform symmetric, one fp32 scale per output row: w8, w6, ...
inline constexpr Scheme per_row() { return {Grid::uniform, Granularity::row, 0, false}; }
/// Uniform symmetric, one fp16 scale per `group` inputs of a row: w4g32, ...
inline constexpr Scheme groups_of(std::uint16_t group) { return {Grid::uniform, Granularity::group, group, false}; }
inline constexpr Scheme nf4_groups_of(std::uint16_t group) { return {Grid::nf4, Granularity::group, group, false}; }
inline constexpr Scheme floats(Grid grid) { return {grid, Granularity::row, 0, false}; }

/// Inputs of a linear: f32; a16, a8 (integers, dynamic scale per token); a8s (int8, static scale).
enum class Activation : std::uint8_t { f32, a16, a8, a8s };

/// Scan, conv and KV states: the format a value is rounded to after every token.
enum class State : std::uint8_t { f32, f16, s16, s8, s4 };

/// Everything one component may specialise on. The default is the reference: f32 throughout.
struct Precision {
  std::uint8_t weight_bits = 32;
  Scheme scheme = {};
  Activation activation = Activation::f32;
  State state = State::f32;
  bool operator==(const Precision&) const = default;
};

/// True for the pairs (bits, scheme) that have a packed layout.
constexpr bool storable(int bits, Scheme s) {
  if (s.zero_point || s.scale == Granularity::tensor || s.scale == Granularity::two_level) return false;
  switch (s.grid) {
    case Grid::f32: return bits == 32 && s.scale == Granularity::row && s.group == 0;
    case Grid::f16:
    case Grid::bf16: return bits == 16 && s.scale == Granularity::row && s.group == 0;
    case Grid::nf4: return bits == 4 && s.scale == Granularity::group && (s.group == 32 || s.group == 64 || s.group == 128);
    case Grid::uniform: break;
  }
  const bool known = bits == 8 || (bits >= 2 && bits <= 6);
  if (s.scale == Granularity::row) return known && s.group == 0;
  return known && (s.group == 32 || s.group == 64 || s.group == 128);
}

template <int Bits, Scheme S>
concept Storable = storable(Bits, S);

}  // namespace klens
