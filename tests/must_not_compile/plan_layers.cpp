// More layers in the shape than in the plan.
// expect: must_equal_the_number_of_layer_plans
// expect: Field::shape_layers
#include <klens/plan/check.hpp>
#include <klens/plan/presets.hpp>

constexpr auto make() {
  auto plan = klens::presets::hymba_tiny(klens::formats::w4g32);
#ifndef KLENS_REPAIRED
  plan.shape.layers = 9;
#endif
  return plan;
}
inline constexpr auto plan = klens::checked(make());
