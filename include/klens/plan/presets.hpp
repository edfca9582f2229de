// Plans of known models with every linear in one format, for examples, benches and as a start for plans of one's own.
#pragma once

#include <klens/plan/formats.hpp>
#include <klens/plan/plan.hpp>

namespace klens::presets {

/// Every linear and the embedding in `precision`, the rest of the plan as it is ("uniform F" of the tables).
template <class AnyPlan>
constexpr AnyPlan uniform(AnyPlan plan, const Precision& precision) {
  plan.embedding = plan.lm_head = precision;
  for (LayerPlan& l : plan.layers)
    l.in_proj = l.x_proj = l.dt_proj = l.out_proj = l.gate_proj = l.up_proj = l.down_proj = precision;
  return plan;
}

/// The model bundled with klens: 5.8 M parameters, 8 layers, global attention in 0, 4 and 7, layers 2 and 6 read the KV of 1 and 5.
constexpr Plan<8> hymba_tiny(const Precision& precision = formats::f16) {
  Plan<8> plan;
  plan.shape = {.layers = 8, .hidden = 192, .vocab = 4096, .heads = 6, .kv_heads = 2, .qk_dim = 32, .v_dim = 64,
                .inner = 384, .n_state = 16, .conv_taps = 4, .dt_rank = 12, .ffn = 528, .meta = 16, .tied_head = true,
                .norm_eps = 1e-6f, .rope_theta = 10000.0f};
  for (int i = 0; i < 8; ++i) {
    plan.layers[std::size_t(i)].window = i == 0 || i == 4 || i == 7 ? 0 : 128;
    plan.layers[std::size_t(i)].kv_source = i == 2 ? 1 : i == 6 ? 5 : i;
  }
  return uniform(plan, precision);
}

/// nvidia/Hymba-1.5B-Base: 32 layers, global attention in 0, 15 and 31, pairs and one triple of layers share K and V.
constexpr Plan<32> hymba_1_5b_base(const Precision& precision = formats::bf16) {
  Plan<32> plan;
  plan.shape = {.layers = 32, .hidden = 1600, .vocab = 32001, .heads = 25, .kv_heads = 5, .qk_dim = 64, .v_dim = 128,
                .inner = 3200, .n_state = 16, .conv_taps = 4, .dt_rank = 100, .ffn = 5504, .meta = 128, .tied_head = true,
                .norm_eps = 1e-6f, .rope_theta = 74534.83f};
  for (int i = 0; i < 32; ++i) {
    LayerPlan& l = plan.layers[std::size_t(i)];
    const bool global = i == 0 || i == 15 || i == 31;
    l.window = global ? 0 : 1024;
    // Producers: 1 3 5 7 9 11 13, then 16 (read by 17 and 18), then 19 21 23 25 27 29.
    l.kv_source = global ? i : i < 15 ? i - (i + 1) % 2 : i <= 18 ? 16 : i - (i + 1) % 2;
  }
  return uniform(plan, precision);
}

}  // namespace klens::presets
