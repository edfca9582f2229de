// A group size without a layout, in layer 3.
// expect: scheme_group_must_be_32_64_or_128
// expect: Field::layers_in_proj
// expect: in_layer
#include <klens/plan/check.hpp>
#include <klens/plan/presets.hpp>

constexpr auto make() {
  auto plan = klens::presets::hymba_tiny(klens::formats::w4g32);
#ifndef KLENS_REPAIRED
  plan.layers[3].in_proj.scheme.group = 48;
#endif
  return plan;
}
inline constexpr auto plan = klens::checked(make());
