// Static activation scales.
// expect: activation_must_be_f32_a16_or_a8
// expect: Field::layers_down_proj
#include <klens/plan/check.hpp>
#include <klens/plan/presets.hpp>

constexpr auto make() {
  auto plan = klens::presets::hymba_tiny(klens::formats::w4g32);
#ifndef KLENS_REPAIRED
  plan.layers[1].down_proj.activation = klens::Activation::a8s;
#endif
  return plan;
}
inline constexpr auto plan = klens::checked(make());
