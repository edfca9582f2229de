// K and V of a layer that has none.
// expect: must_be_a_layer_with_its_own_kv
// expect: Field::layers_kv_source
#include <klens/plan/check.hpp>
#include <klens/plan/presets.hpp>

constexpr auto make() {
  auto plan = klens::presets::hymba_tiny(klens::formats::w4g32);
#ifndef KLENS_REPAIRED
  plan.layers[3].kv_source = 2;
#endif
  return plan;
}
inline constexpr auto plan = klens::checked(make());
