// K and V of a later layer.
// expect: must_be_a_layer_not_after_its_reader
// expect: Field::layers_kv_source
#include <klens/plan/check.hpp>
#include <klens/plan/presets.hpp>

constexpr auto make() {
  auto plan = klens::presets::hymba_tiny(klens::formats::w4g32);
#ifndef KLENS_REPAIRED
  plan.layers[3].kv_source = 5;
#endif
  return plan;
}
inline constexpr auto plan = klens::checked(make());
