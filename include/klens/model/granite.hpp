// Granite 4.0 hybrids (IBM): config fields of `ibm-granite/granite-4.0-h-tiny` and of checkpoints like it (granitemoehybrid).
//   layers of Mamba-2 or of attention, each followed by SwiGLU, alone or beside a mixture of experts; muP multipliers
//   x <- x + m mixer(norm(x)),   x <- x + m (moe(n) + swiglu(n)),  n = norm(x)
#pragma once

#include <klens/model/family.hpp>

namespace klens::granite {

/// "layer_types", or its alias "layers_block_type": attention where it says so, Mamba-2 elsewhere.
inline Result<void> read_layers(const ModelConfig& c, RuntimePlan& plan) {
  const std::string_view key = klens::detail::spelling(c, {"layer_types", "layers_block_type"});
  if (json_absent(c.json, key)) return {};
  KLENS_TRY(const Json* const types, json_array(c.json, key, c.path));
  if (types->size() != plan.layers.size()) return c.unsupported(key, "a kind for each layer");
  for (std::size_t l = 0; l < types->size(); ++l) {
    const Json& type = (*types)[l];
    if (type == "full_attention" || type == "attention") plan.layers[l].mixer = Mixer::attention;
    else if (type != "linear_attention" && type != "mamba") return c.unsupported(key, "kinds mamba or attention");
  }
  return {};
}

inline Result<RuntimePlan> skeleton(const ModelConfig& c) {
  using namespace klens::detail;
  RuntimePlan plan = start_skeleton(c, Family::granitemoehybrid, Mixer::mamba2, Ffn::swiglu);
  Shape& s = plan.shape;
  KLENS_OK(read_layers(c, plan));
  KLENS_TRY(s.experts, c.integer_or("num_local_experts", 8, 0, most_experts));
  if (s.experts > 0) {
    for (LayerPlan& l : plan.layers) l.ffn = Ffn::moe_shared;
    KLENS_TRY(s.experts_used, c.integer_or("num_experts_per_tok", 2, 1, s.experts));
    KLENS_TRY(s.expert_ffn, c.integer("intermediate_size", 1, max_width));
  }
  KLENS_TRY(s.ffn, c.integer_or("shared_intermediate_size", 1024, 1, max_width));
  const Uses uses = uses_of(plan.layers);
  KLENS_TRY(const double eps, c.number_or("rms_norm_eps", 1e-6, 1e-12, 0.1));
  s.norm_eps = float(eps);
  if (uses.ssd) {
    KLENS_TRY(const std::int64_t expand, c.integer_or("mamba_expand", 2, 1, 64));
    KLENS_OK(read_mamba2(c, s, expand * c.hidden_size));
    s.norm_groups = s.ssm_groups, s.inner_norm_eps = s.norm_eps;
  }
  KLENS_OK(only(c, "mlp_bias", false));
  KLENS_TRY(s.attention_bias, c.boolean_or("attention_bias", false));
  if (uses.attention) {
    KLENS_OK(read_heads(c, s));
    KLENS_TRY(const double scale, c.number_or("attention_multiplier", 1.0, 1e-6, 1e6));
    s.attention_scale = float(scale);
    KLENS_TRY(const std::string positions, c.string_or("position_embedding_type", "nope"));
    if (positions == "rope") KLENS_OK(read_rope(c, s, 10000.0));
    else if (positions != "nope") return c.unsupported("position_embedding_type", "'rope' or 'nope'");
    if (s.rotary_dim > 0 && s.rotary_dim != s.qk_dim) return c.unsupported("partial_rotary_factor", "1");
  }
  KLENS_TRY(const double embedding, c.number_or("embedding_multiplier", 1.0, 1e-6, 1e6));
  s.embedding_scale = float(embedding);
  KLENS_OK(only(c, "hidden_act", std::string_view("silu")));
  KLENS_OK(only(c, "normalization_function", std::string_view("rmsnorm")));
  return finish_skeleton(c, std::move(plan));
}

/// What adds to the residual stream is multiplied, logits are divided.
inline Result<std::vector<float>> output_scale(const ModelConfig& c, const RuntimePlan& plan, Role role, int) {
  const auto all = [](int rows, double value) {
    return value == 1.0 ? std::vector<float>{} : std::vector<float>(std::size_t(rows), float(value));
  };
  if (role == Role::out_proj || role == Role::o_proj || role == Role::down_proj) {
    KLENS_TRY(const double residual, c.number_or("residual_multiplier", 1.0, -1e6, 1e6));
    return all(plan.shape.hidden, residual);
  }
  if (role == Role::embedding || role == Role::lm_head) {
    KLENS_TRY(const double scaling, c.number_or("logits_scaling", 1.0, 1e-6, 1e6));
    return all(plan.shape.vocab, 1.0 / scaling);
  }
  return std::vector<float>{};
}

/// Gate and up are the halves of one tensor; experts are stacked.
inline WeightSource source(const RuntimePlan& plan, const Site& site) {
  const Shape& s = plan.shape;
  if (site.layer < 0 || site.role < Role::gate_proj) return {};
  const bool down = site.role == Role::down_proj, up = site.role == Role::up_proj;
  const std::string at = layer_prefix(s.family, site.layer) + (site.expert < 0 ? "shared_mlp." : "block_sparse_moe.");
  WeightSource from{at + (down ? "output_linear.weight" : "input_linear.weight"), {down ? site.rows : 2 * site.rows, site.cols}};
  from.first_row = up ? site.rows : 0;
  if (site.expert >= 0) {
    from.first_row += std::int64_t(site.expert) * from.shape[0];
    from.shape.insert(from.shape.begin(), s.experts);
  }
  return from;
}

inline constexpr FamilyReader reader = {
    {.final_norm = "model.norm.weight", .ffn_norm = "post_attention_layernorm.weight", .router = "block_sparse_moe.router.layer.weight"},
    &skeleton, &output_scale, &source};

}  // namespace klens::granite
