// Jamba (arXiv 2403.19887): config fields of `ai21labs/Jamba-v0.1` and of checkpoints like it.
//   layers of Mamba-1 with normed dt, B and C, or of attention without positions, each followed by SwiGLU or by a mixture of experts
#pragma once

#include <klens/model/family.hpp>

namespace klens::jamba {

/// Layers l with l % period == offset.
inline Result<std::vector<char>> every(const ModelConfig& c, std::string_view period_key, std::int64_t period, std::string_view offset_key,
                                       std::int64_t offset) {
  KLENS_TRY(const std::int64_t step, c.integer_or(period_key, period, 1, max_positions));
  KLENS_TRY(const std::int64_t first, c.integer_or(offset_key, offset, 0, max_positions));
  if (first >= step) return c.unsupported(offset_key, "less than " + std::string(period_key));
  std::vector<char> at;
  for (std::int64_t l = 0; l < c.layers; ++l) at.push_back(l % step == first);
  return at;
}

inline Result<RuntimePlan> skeleton(const ModelConfig& c) {
  using namespace klens::detail;
  RuntimePlan plan = start_skeleton(c, Family::jamba, Mixer::mamba, Ffn::swiglu);
  Shape& s = plan.shape;
  KLENS_TRY(const std::vector<char> attention, every(c, "attn_layer_period", 8, "attn_layer_offset", 4));
  KLENS_TRY(const std::vector<char> mixture, every(c, "expert_layer_period", 2, "expert_layer_offset", 1));
  KLENS_TRY(const int experts, c.integer_or(spelling(c, {"num_experts", "num_local_experts"}), 16, 1, most_experts));
  for (std::size_t l = 0; l < plan.layers.size(); ++l) {
    if (attention[l]) plan.layers[l].mixer = Mixer::attention;
    if (mixture[l] && experts > 1) plan.layers[l].ffn = Ffn::moe;
  }
  const Uses uses = uses_of(plan.layers);
  KLENS_TRY(const double eps, c.number_or("rms_norm_eps", 1e-6, 1e-12, 0.1));
  s.norm_eps = float(eps);
  KLENS_TRY(const int ffn, c.integer("intermediate_size", 1, max_width));
  if (uses.ffn) s.ffn = ffn;
  if (uses.experts) {
    KLENS_TRY(s.experts_used, c.integer_or("num_experts_per_tok", 2, 1, experts));
    s.experts = experts, s.expert_ffn = ffn, s.softmax_of_all = true;
  }
  if (uses.scan) {
    KLENS_OK(read_mamba(c, s));
    s.inner_norms = s.inner_norm_weights = true, s.inner_norm_eps = s.norm_eps;
  }
  if (uses.attention) KLENS_OK(read_heads(c, s));
  KLENS_OK(only(c, "hidden_act", std::string_view("silu")));
  KLENS_OK(only(c, "mamba_inner_layernorms", true));
  KLENS_OK(only(c, "sliding_window", std::int64_t(0)));
  return finish_skeleton(c, std::move(plan));
}

inline constexpr FamilyReader reader = {{.dt_bias = "dt_proj.bias"}, &skeleton};

}  // namespace klens::jamba
