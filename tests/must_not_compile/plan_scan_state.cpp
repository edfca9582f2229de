// An int8 scan state.
// expect: state_must_be_f32_other_states_are_not_implemented
// expect: Field::layers_scan
#include <klens/plan/check.hpp>
#include <klens/plan/presets.hpp>

constexpr auto make() {
  auto plan = klens::presets::hymba_tiny(klens::formats::w4g32);
#ifndef KLENS_REPAIRED
  plan.layers[2].scan.state = klens::State::s8;
#endif
  return plan;
}
inline constexpr auto plan = klens::checked(make());
