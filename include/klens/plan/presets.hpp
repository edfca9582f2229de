// Plans of known models with every linear in one format, for examples, benches and as a start for plans of one's own.
#pragma once

#include <klens/plan/formats.hpp>
#include <klens/plan/sites.hpp>

namespace klens::presets {

/// Every linear and the embedding in `precision`, the rest of the plan as it is ("uniform F" of the tables).
template <class AnyPlan>
constexpr AnyPlan uniform(AnyPlan plan, const Precision& precision) {
  plan.embedding = precision;
  if (!plan.shape.tied_head) plan.lm_head = precision;
  std::size_t next = 0;
  for (int l = 0; l < int(plan.layers.size()); ++l) {
    for (const Role role : layer_roles)
      if (has_role(plan, l, role)) member_of(plan.layers[std::size_t(l)], role) = precision;
    const Ffn ffn = plan.layers[std::size_t(l)].ffn;
    for (int e = 0; has_experts(ffn) && e < plan.shape.experts; ++e, ++next)
      for (const Role role : expert_roles)
        if (expert_has(ffn, role)) expert_member(plan.experts[next], role) = precision;
  }
  return plan;
}

/// The model bundled with klens: 5.8 M parameters, 8 layers, global attention in 0, 4 and 7, layers 2 and 6 read the KV of 1 and 5.
constexpr Plan<8> hymba_tiny(const Precision& precision = formats::f16) {
  Plan<8> plan;
  plan.shape = {.layers = 8, .hidden = 192, .vocab = 4096, .heads = 6, .kv_heads = 2, .qk_dim = 32, .v_dim = 64,
                .inner = 384, .n_state = 16, .conv_taps = 4, .dt_rank = 12, .ffn = 528, .meta = 16, .tied_head = true,
                .norm_eps = 1e-6f, .rope_theta = 10000.0f, .rotary_dim = 32, .inner_norms = true,
                .inner_norm_weights = true, .inner_norm_eps = 1e-6f};
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
                .norm_eps = 1e-6f, .rope_theta = 74534.83f, .rotary_dim = 64, .inner_norms = true,
                .inner_norm_weights = true, .inner_norm_eps = 1e-6f};
  for (int i = 0; i < 32; ++i) {
    LayerPlan& l = plan.layers[std::size_t(i)];
    const bool global = i == 0 || i == 15 || i == 31;
    l.window = global ? 0 : 1024;
    // Producers: 1 3 5 7 9 11 13, then 16 (read by 17 and 18), then 19 21 23 25 27 29.
    l.kv_source = global ? i : i < 15 ? i - (i + 1) % 2 : i <= 18 ? 16 : i - (i + 1) % 2;
  }
  return uniform(plan, precision);
}

namespace detail {

/// Layers of one kind, each with its own K and V.
template <std::size_t Layers>
constexpr Plan<Layers> all_layers(const Shape& shape, Mixer mixer, Ffn ffn, const Precision& precision) {
  Plan<Layers> plan;
  plan.shape = shape;
  plan.shape.layers = int(Layers);
  for (std::size_t l = 0; l < Layers; ++l) plan.layers[l].kv_source = int(l), plan.layers[l].mixer = mixer, plan.layers[l].ffn = ffn;
  return uniform(plan, precision);
}

constexpr Shape mamba_shape(int hidden) {
  return {.family = Family::mamba, .hidden = hidden, .vocab = 50280, .inner = 2 * hidden, .n_state = 16, .conv_taps = 4,
          .dt_rank = hidden / 16, .tied_head = true, .norm_eps = 1e-5f};
}

constexpr Shape mamba2_shape(int hidden) {
  return {.family = Family::mamba2, .hidden = hidden, .vocab = 50288, .inner = 2 * hidden, .n_state = 128, .conv_taps = 4,
          .tied_head = true, .norm_eps = 1e-5f, .ssm_heads = hidden / 32, .ssm_groups = 1, .norm_groups = 1, .inner_norm_eps = 1e-5f};
}

}  // namespace detail

/// state-spaces/mamba-130m, mamba-1.4b: Mamba-1 in every layer, no ffn.
constexpr Plan<24> mamba_130m(const Precision& precision = formats::bf16) {
  return detail::all_layers<24>(detail::mamba_shape(768), Mixer::mamba, Ffn::none, precision);
}
constexpr Plan<48> mamba_1_4b(const Precision& precision = formats::bf16) {
  return detail::all_layers<48>(detail::mamba_shape(2048), Mixer::mamba, Ffn::none, precision);
}

/// state-spaces/mamba2-130m, mamba2-1.3b: Mamba-2 with heads of 64, one group.
constexpr Plan<24> mamba2_130m(const Precision& precision = formats::bf16) {
  return detail::all_layers<24>(detail::mamba2_shape(768), Mixer::mamba2, Ffn::none, precision);
}
constexpr Plan<48> mamba2_1_3b(const Precision& precision = formats::bf16) {
  return detail::all_layers<48>(detail::mamba2_shape(2048), Mixer::mamba2, Ffn::none, precision);
}

/// LiquidAI/LFM2-1.2B: attention in layers 2 5 8 10 12 14, a gated short convolution in the others, SwiGLU in all.
constexpr Plan<16> lfm2_1_2b(const Precision& precision = formats::bf16) {
  Plan<16> plan = detail::all_layers<16>(
      {.family = Family::lfm2, .hidden = 2048, .vocab = 65536, .heads = 32, .kv_heads = 8, .qk_dim = 64, .v_dim = 64,
       .inner = 2048, .conv_taps = 3, .ffn = 8192, .tied_head = true, .norm_eps = 1e-5f, .rope_theta = 1e6f,
       .rotary_dim = 64, .qk_norm = true, .conv_bias = false},
      Mixer::short_conv, Ffn::swiglu, precision);
  for (const int l : {2, 5, 8, 10, 12, 14}) plan.layers[std::size_t(l)].mixer = Mixer::attention;
  return uniform(plan, precision);
}

/// tiiuae/Falcon-H1-0.5B: Mamba-2 (gate alone, no norm) and attention side by side in every layer, SwiGLU; the head is its own.
constexpr Plan<36> falcon_h1_0_5b(const Precision& precision = formats::bf16) {
  return detail::all_layers<36>(
      {.family = Family::falcon_h1, .hidden = 1024, .vocab = 32784, .heads = 8, .kv_heads = 2, .qk_dim = 64, .v_dim = 64,
       .inner = 1536, .n_state = 128, .conv_taps = 4, .ffn = 2048, .norm_eps = 1e-5f, .rope_theta = 1e11f, .rotary_dim = 64,
       .ssm_heads = 24, .ssm_groups = 1, .inner_norm_eps = 1e-5f},
      Mixer::parallel, Ffn::swiglu, precision);
}

/// Calls visit(name, plan) for the presets of this file, every linear in `precision`.
template <class Visit>
constexpr void for_each_preset(const Precision& precision, Visit&& visit) {
  visit("hymba-tiny", hymba_tiny(precision));
  visit("mamba-130m", mamba_130m(precision));
  visit("mamba-1.4b", mamba_1_4b(precision));
  visit("mamba2-130m", mamba2_130m(precision));
  visit("mamba2-1.3b", mamba2_1_3b(precision));
  visit("hymba-1.5b", hymba_1_5b_base(precision));
  visit("lfm2-1.2b", lfm2_1_2b(precision));
  visit("falcon-h1-0.5b", falcon_h1_0_5b(precision));
}

}  // namespace klens::presets
