// The plan of the tests of the specialised build: hymba-tiny in a mix of codecs, scales, activations and states.
#pragma once

#include <klens/plan/check.hpp>
#include <klens/plan/presets.hpp>

namespace klens_plan {

using namespace klens::formats;

constexpr klens::Plan<8> mix() {
  klens::Plan<8> plan = klens::presets::hymba_tiny(w4g32);
  plan.embedding = w6;                                  // tied head: a look-up and a linear of the same format
  plan.layers[0].in_proj = w8, plan.layers[0].x_proj = w6a8, plan.layers[0].out_proj = w4g32a8;
  plan.layers[1].in_proj = nf4g64, plan.layers[1].dt_proj = f16, plan.layers[1].down_proj = w3g32;
  plan.layers[3].x_proj = f16a8, plan.layers[3].gate_proj = w8a16, plan.layers[3].up_proj = w8a16;
  plan.layers[5].out_proj = nf4g64a8, plan.layers[5].gate_proj = w4g32a8, plan.layers[5].up_proj = w8a16;   // two readers, two kinds of rows
  plan.layers[6].dt_proj = f16, plan.layers[6].down_proj = w6a8;
  klens::set_state(plan, klens::StateKind::kv, 1, klens::State::s8);   // of 2 as well
  klens::set_state(plan, klens::StateKind::kv, 0, klens::State::s4);
  plan.layers[3].scan.state = klens::State::s8, plan.layers[3].conv.state = klens::State::s16;
  plan.layers[6].scan.state = klens::State::s16, plan.layers[6].conv.state = klens::State::s8;
  return plan;                                          // 2 reads K and V of 1; 4 and 7 are one class
}

inline constexpr auto mixed_plan = klens::checked(mix());

}  // namespace klens_plan
