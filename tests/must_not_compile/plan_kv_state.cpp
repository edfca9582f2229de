// K and V of layer 1 in int8, but layer 2, which reads them, as if they were f32.
// expect: state_of_attention_must_be_that_of_kv_source
// expect: Field::layers_attention
// expect: in_layer<2>
#include <klens/plan/check.hpp>
#include <klens/plan/presets.hpp>

constexpr auto make() {
  auto plan = klens::presets::hymba_tiny(klens::formats::w4g32);
  plan.layers[1].attention.state = klens::State::s8;
#ifdef KLENS_REPAIRED
  plan.layers[2].attention.state = klens::State::s8;
#endif
  return plan;
}
inline constexpr auto plan = klens::checked(make());
