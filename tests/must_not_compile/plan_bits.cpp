// 7 bits.
// expect: weight_bits_must_be_2_to_6_or_8
// expect: Field::embedding
#include <klens/plan/check.hpp>
#include <klens/plan/presets.hpp>

constexpr auto make() {
  auto plan = klens::presets::hymba_tiny(klens::formats::w4g32);
#ifndef KLENS_REPAIRED
  plan.embedding = {7, klens::per_row()};
#endif
  return plan;
}
inline constexpr auto plan = klens::checked(make());
