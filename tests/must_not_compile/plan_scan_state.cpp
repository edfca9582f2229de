// A scan state in 4 bits: it would die in a few tokens.
// expect: state_of_a_scan_must_be_f32_f16_s16_or_s8
// expect: Field::layers_scan
#include <klens/plan/check.hpp>
#include <klens/plan/presets.hpp>

constexpr auto make() {
  auto plan = klens::presets::hymba_tiny(klens::formats::w4g32);
#ifndef KLENS_REPAIRED
  plan.layers[2].scan.state = klens::State::s4;
#endif
  return plan;
}
inline constexpr auto plan = klens::checked(make());
