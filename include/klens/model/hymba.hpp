// Hymba (arXiv 2411.13676): config fields, tensor names and shapes of `nvidia/Hymba-1.5B-Base` and of checkpoints like it.
// The forward pass is model/decoder.hpp; the names of the 2-D projections are component_name() in plan/document.hpp.
#pragma once

#include <klens/core/det_math.hpp>
#include <klens/model/family.hpp>

#include <utility>

namespace klens::hymba {

inline Result<RuntimePlan> skeleton(const ModelConfig& c) {
  using klens::detail::only;
  RuntimePlan plan = klens::detail::start_skeleton(c, Family::hymba, Mixer::hymba, Ffn::swiglu);
  Shape& s = plan.shape;
  const auto size = [&c](std::string_view key, std::int64_t max) { return c.integer(key, 1, max); };
  KLENS_TRY(s.heads, size("num_attention_heads", max_heads));
  KLENS_TRY(s.kv_heads, size("num_key_value_heads", max_heads));
  KLENS_TRY(s.n_state, size("mamba_d_state", 4096));
  KLENS_TRY(s.conv_taps, c.integer("mamba_d_conv", 2, 4));
  KLENS_TRY(s.ffn, size("intermediate_size", max_width));
  KLENS_TRY(s.meta, c.integer_or("num_memory_tokens", 0, 0, 1 << 16));
  KLENS_TRY(const std::int64_t expand, c.integer_or("mamba_expand", 2, 1, 64));
  const std::int64_t inner = expand * c.hidden_size;
  if (inner > max_width) return c.unsupported("mamba_expand", "at most " + std::to_string(max_width) + " channels");
  s.inner = int(inner);
  KLENS_TRY(s.dt_rank, klens::detail::integer_or_auto(c, "mamba_dt_rank", div_up(c.hidden_size, 16), max_width));
  if (s.hidden % s.heads != 0) return c.unsupported("num_attention_heads", "a divisor of hidden_size " + std::to_string(s.hidden));
  if (s.inner % s.heads != 0) return c.unsupported("num_attention_heads", "a divisor of " + std::to_string(s.inner) + " channels");
  if (s.heads % s.kv_heads != 0) return c.unsupported("num_key_value_heads", "a divisor of num_attention_heads " + std::to_string(s.heads));
  s.qk_dim = s.hidden / s.heads, s.v_dim = s.inner / s.heads;
  if (s.qk_dim % 2 != 0) return c.unsupported("num_attention_heads", "heads of even width");
  KLENS_TRY(const double eps, c.number_or("rms_norm_eps", 1e-6, 1e-12, 0.1));
  s.norm_eps = s.inner_norm_eps = float(eps);
  s.inner_norms = s.inner_norm_weights = true, s.rotary_dim = s.qk_dim;

  KLENS_OK(only(c, "rope", true));
  KLENS_TRY(double theta, c.number_or("rope_theta", 10000.0, 1.0, 1e12));
  KLENS_TRY(const std::string rope_type, c.string_or("rope_type", "default"));
  if (rope_type == "ntk" || rope_type == "dynamic_ntk") {   // base (2 max / original - 1)^(d / (d - 2)): the published checkpoint's
    KLENS_TRY(const std::int64_t longest, c.integer("max_position_embeddings", 1, max_positions));
    KLENS_TRY(const std::int64_t original, c.integer("orig_max_position_embeddings", 1, max_positions));
    if (s.qk_dim == 2) return c.unsupported("rope_type", "'default' for heads of width 2");
    const double factor = 2.0 * double(longest) / double(original) - 1.0;
    if (factor <= 0) return c.unsupported("orig_max_position_embeddings", "at most twice max_position_embeddings");
    theta *= det::pow(factor, double(s.qk_dim) / (s.qk_dim - 2));
  } else if (rope_type != "default") {
    return c.unsupported("rope_type", "'default' or 'ntk'");
  }
  s.rope_theta = float(theta);

  KLENS_OK(only(c, "kq_norm", std::string_view("none")));
  KLENS_OK(only(c, "mlp_hidden_act", std::string_view("silu")));
  KLENS_OK(only(c, "hidden_act", std::string_view("silu")));
  KLENS_OK(only(c, "num_experts", std::int64_t(1)));
  KLENS_OK(only(c, "num_mamba", std::int64_t(1)));
  KLENS_OK(only(c, "mamba_conv_bias", true));
  KLENS_OK(only(c, "mamba_proj_bias", false));
  KLENS_OK(only(c, "mamba_inner_layernorms", true));
  KLENS_OK(only(c, "kv_weight_reuse", false));

  KLENS_TRY(const std::int64_t window, c.integer_or("sliding_window", 0, 0, max_positions));
  for (LayerPlan& l : plan.layers) l.window = int(window);
  if (c.json.contains("global_attn_idx") && !c.json["global_attn_idx"].is_null()) {
    KLENS_TRY(const std::vector<std::int64_t> global, c.integers("global_attn_idx", 0, s.layers - 1));
    for (const std::int64_t l : global) plan.layers[std::size_t(l)].window = 0;
  }
  KLENS_TRY(const auto groups, c.integer_lists_or_none("kv_reuse_group", 0, s.layers - 1));
  std::vector<bool> grouped(std::size_t(s.layers), false);
  for (const auto& group : groups)
    for (const std::int64_t l : group) {
      if (grouped[std::size_t(l)]) return c.unsupported("kv_reuse_group", "every layer in at most one group");
      if (l < group[0]) return c.unsupported("kv_reuse_group", "the first layer of a group to come first in the model");
      grouped[std::size_t(l)] = true;
      plan.layers[std::size_t(l)].kv_source = int(group[0]);
    }
  return klens::detail::finish_skeleton(c, std::move(plan));
}

inline constexpr FamilyReader reader = {{.ffn_norm = "pre_moe_layernorm.weight",
                                         .a_log = "A_log.0",
                                         .d = "D.0",
                                         .dt_bias = "dt_proj.0.bias",
                                         .b_norm = "B_layernorm.weight",
                                         .c_norm = "C_layernorm.weight",
                                         .attention_norm = "pre_avg_layernorm1.weight",
                                         .scan_norm = "pre_avg_layernorm2.weight",
                                         .meta = "model.memory_tokens"},
                                        &skeleton};

}  // namespace klens::hymba
