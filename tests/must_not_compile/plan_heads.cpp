// Heads that no kv head serves.
// expect: must_be_a_multiple_of_kv_heads
// expect: Field::shape_heads
#include <klens/plan/check.hpp>
#include <klens/plan/presets.hpp>

constexpr auto make() {
  auto plan = klens::presets::hymba_tiny(klens::formats::w4g32);
#ifndef KLENS_REPAIRED
  plan.shape.heads = 5;
#endif
  return plan;
}
inline constexpr auto plan = klens::checked(make());
