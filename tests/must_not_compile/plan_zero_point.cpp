// An asymmetric grid.
// expect: scheme_zero_point_must_be_false
// expect: Field::layers_gate_proj
#include <klens/plan/check.hpp>
#include <klens/plan/presets.hpp>

constexpr auto make() {
  auto plan = klens::presets::hymba_tiny(klens::formats::w4g32);
#ifndef KLENS_REPAIRED
  plan.layers[7].gate_proj.scheme.zero_point = true;
#endif
  return plan;
}
inline constexpr auto plan = klens::checked(make());
