// Nemotron-H and Nemotron-3 (NVIDIA): one block per layer, Mamba-2, attention without RoPE, an MLP with squared ReLU, or a mixture
// of such beside one that every token passes, behind a router of sigmoids.
#pragma once

#include <klens/model/family.hpp>

namespace klens::nemotron_h {

/// Kinds of the layers: "layers_block_type" (transformers), or "hybrid_override_pattern", M * - E (published checkpoints).
inline Result<void> read_layers(const ModelConfig& c, RuntimePlan& plan) {
  const auto set = [&plan](std::size_t l, Mixer mixer, Ffn ffn) { plan.layers[l].mixer = mixer, plan.layers[l].ffn = ffn; };
  const auto kind = [&](std::size_t l, std::string_view name, std::string_view key) -> Result<void> {
    if (name == "linear_attention" || name == "mamba" || name == "M") set(l, Mixer::mamba2, Ffn::none);
    else if (name == "full_attention" || name == "attention" || name == "*") set(l, Mixer::attention, Ffn::none);
    else if (name == "mlp" || name == "-") set(l, Mixer::none, Ffn::relu2);
    else if (name == "moe" || name == "E") set(l, Mixer::none, Ffn::moe_relu2);
    else return c.unsupported(key, "blocks of mamba, attention, mlp or moe");
    return {};
  };
  if (c.json.contains("layers_block_type") && c.json["layers_block_type"].is_array()) {
    const Json& types = c.json["layers_block_type"];
    if (types.size() != plan.layers.size()) return c.unsupported("layers_block_type", "a kind for each layer");
    for (std::size_t l = 0; l < types.size(); ++l) {
      if (!types[l].is_string()) return c.unsupported("layers_block_type", "strings");
      KLENS_OK(kind(l, types[l].get_ref<const std::string&>(), "layers_block_type"));
    }
    return {};
  }
  KLENS_TRY(const std::string pattern, c.string("hybrid_override_pattern"));
  if (pattern.size() != plan.layers.size()) return c.unsupported("hybrid_override_pattern", "a letter for each layer");
  for (std::size_t l = 0; l < pattern.size(); ++l) KLENS_OK(kind(l, std::string_view(pattern).substr(l, 1), "hybrid_override_pattern"));
  return {};
}

inline Result<void> read_experts(const ModelConfig& c, Shape& s) {
  using namespace klens::detail;
  KLENS_TRY(s.experts, c.integer(spelling(c, {"n_routed_experts", "num_local_experts"}), 1, most_experts));
  KLENS_TRY(s.experts_used, c.integer_or("num_experts_per_tok", 2, 1, s.experts));
  KLENS_TRY(s.expert_ffn, c.integer("moe_intermediate_size", 1, max_width));
  KLENS_TRY(s.shared_ffn, c.integer("moe_shared_expert_intermediate_size", 1, max_width));
  KLENS_TRY(s.expert_latent, c.integer_or("moe_latent_size", 0, 0, max_width));
  KLENS_TRY(s.router_groups, c.integer_or("n_group", 1, 1, s.experts));
  KLENS_TRY(s.router_groups_used, c.integer_or("topk_group", 1, 1, s.router_groups));
  KLENS_TRY(s.router_normed, c.boolean_or("norm_topk_prob", true));
  KLENS_TRY(const double scale, c.number_or("routed_scaling_factor", 1.0, 1e-6, 1e6));
  s.router_scale = float(scale);
  return only(c, "n_shared_experts", std::int64_t(1));
}

inline Result<RuntimePlan> skeleton(const ModelConfig& c) {
  using namespace klens::detail;
  RuntimePlan plan = start_skeleton(c, Family::nemotron_h, Mixer::mamba2, Ffn::none);
  Shape& s = plan.shape;
  KLENS_OK(read_layers(c, plan));
  const Uses uses = uses_of(plan.layers);
  KLENS_TRY(const double eps, c.number_or("layer_norm_epsilon", 1e-5, 1e-12, 0.1));
  s.norm_eps = s.inner_norm_eps = float(eps);
  if (uses.ssd) {
    KLENS_TRY(s.ssm_heads, c.integer("mamba_num_heads", 1, max_heads));
    KLENS_TRY(const std::int64_t width, c.integer_or("mamba_head_dim", 64, 1, 4096));
    if (width * s.ssm_heads > max_width) return c.unsupported("mamba_num_heads", "at most " + std::to_string(max_width) + " channels");
    s.inner = int(width * s.ssm_heads);
    KLENS_TRY(s.n_state, c.integer_or("ssm_state_size", 128, 1, 4096));
    KLENS_TRY(s.ssm_groups, c.integer_or(spelling(c, {"n_groups", "mamba_n_groups"}), 8, 1, max_heads));
    KLENS_TRY(s.conv_taps, c.integer_or(spelling(c, {"conv_kernel", "mamba_d_conv"}), 4, 2, 4));
    KLENS_TRY(s.conv_bias, c.boolean_or(spelling(c, {"use_conv_bias", "mamba_conv_bias"}), true));
    s.norm_groups = s.ssm_groups;
    // What transformers limits dt by; it leaves "time_step_limit" alone.
    KLENS_TRY(const double least, c.number_or(spelling(c, {"time_step_min", "mamba_dt_min"}), 0.001, 0.0, 1e6));
    s.dt_min = float(least);
  }
  if (uses.attention) KLENS_OK(read_heads(c, s, spelling(c, {"head_dim", "attention_head_dim"}), 128));
  if (uses.experts) KLENS_OK(read_experts(c, s));
  if (uses.ffn) {
    KLENS_TRY(s.ffn, c.integer("intermediate_size", 1, max_width));
  }
  KLENS_TRY(const bool ssm_bias, c.boolean_or("use_bias", false));
  s.in_proj_bias = s.out_proj_bias = ssm_bias && uses.ssd;
  KLENS_TRY(s.ffn_bias, c.boolean_or("mlp_bias", false));
  for (const std::string_view key : {"mamba_proj_bias", "attention_bias"}) KLENS_OK(only(c, key, false));
  KLENS_OK(only(c, "mlp_hidden_act", std::string_view("relu2")));
  KLENS_OK(only(c, "mamba_hidden_act", std::string_view("silu")));
  return finish_skeleton(c, std::move(plan));
}

inline constexpr FamilyReader reader = {
    {.final_norm = "backbone.norm_f.weight", .input_norm = "norm.weight", .ffn_norm = "norm.weight", .router = "mixer.gate.weight",
     .router_bias = "mixer.gate.e_score_correction_bias"},
    &skeleton};

}  // namespace klens::nemotron_h
