// Two paths of different width.
// expect: times_heads_must_equal_inner
// expect: Field::shape_v_dim
#include <klens/plan/check.hpp>
#include <klens/plan/presets.hpp>

constexpr auto make() {
  auto plan = klens::presets::hymba_tiny(klens::formats::w4g32);
#ifndef KLENS_REPAIRED
  plan.shape.v_dim = 32;
#endif
  return plan;
}
inline constexpr auto plan = klens::checked(make());
