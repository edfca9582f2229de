// An f16 of 8 bits.
// expect: weight_bits_of_a_float_grid_must_be_its_width
// expect: Field::layers_dt_proj
#include <klens/plan/check.hpp>
#include <klens/plan/presets.hpp>

constexpr auto make() {
  auto plan = klens::presets::hymba_tiny(klens::formats::w4g32);
#ifndef KLENS_REPAIRED
  plan.layers[0].dt_proj = {8, klens::floats(klens::Grid::f16)};
#endif
  return plan;
}
inline constexpr auto plan = klens::checked(make());
