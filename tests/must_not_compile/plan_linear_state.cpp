// A state on a linear.
// expect: state_of_a_linear_must_be_f32
// expect: Field::layers_x_proj
#include <klens/plan/check.hpp>
#include <klens/plan/presets.hpp>

constexpr auto make() {
  auto plan = klens::presets::hymba_tiny(klens::formats::w4g32);
#ifndef KLENS_REPAIRED
  plan.layers[2].x_proj.state = klens::State::s8;
#endif
  return plan;
}
inline constexpr auto plan = klens::checked(make());
