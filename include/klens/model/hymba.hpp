// Hymba (arXiv 2411.13676): config fields, tensor names and shapes of `nvidia/Hymba-1.5B-Base` and of checkpoints like it.
// The forward pass is model/decoder.hpp; the names of the 2-D projections are component_name() in plan/document.hpp.
#pragma once

#include <klens/core/det_math.hpp>
#include <klens/io/config.hpp>
#include <klens/model/view.hpp>
#include <klens/plan/document.hpp>

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace klens::hymba {

namespace detail {

/// The key must be absent, or hold one of the two values that mean the same as its absence.
inline Result<void> only(const ModelConfig& c, std::string_view key, std::string_view value) {
  KLENS_TRY(const std::string found, c.string_or(key, std::string(value)));
  if (found != value) return c.unsupported(key, "'" + std::string(value) + "'");
  return {};
}

inline Result<void> only(const ModelConfig& c, std::string_view key, bool value) {
  KLENS_TRY(const bool found, c.boolean_or(key, value));
  if (found != value) return c.unsupported(key, value ? "true" : "false");
  return {};
}

inline Result<void> only(const ModelConfig& c, std::string_view key, std::int64_t value) {
  KLENS_TRY(const std::int64_t found, c.integer_or(key, value, 0, max_positions));
  if (found != value) return c.unsupported(key, std::to_string(value));
  return {};
}

}  // namespace detail

/// Sizes, window and K/V source of every layer. Formats are the default (f32) and have no meaning yet.
inline Result<RuntimePlan> read_skeleton(const ModelConfig& c) {
  using detail::only;
  RuntimePlan plan;
  Shape& s = plan.shape;
  s.family = Family::hymba;
  s.layers = int(c.layers), s.hidden = int(c.hidden_size), s.vocab = int(c.vocab_size), s.tied_head = c.tied_head;
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
  if (c.json.contains("mamba_dt_rank") && c.json["mamba_dt_rank"].is_string()) {
    KLENS_OK(only(c, "mamba_dt_rank", std::string_view("auto")));
    s.dt_rank = int(div_up(c.hidden_size, 16));
  } else {
    KLENS_TRY(s.dt_rank, c.integer_or("mamba_dt_rank", div_up(c.hidden_size, 16), 1, max_width));
  }
  if (s.hidden % s.heads != 0) return c.unsupported("num_attention_heads", "a divisor of hidden_size " + std::to_string(s.hidden));
  if (s.inner % s.heads != 0) return c.unsupported("num_attention_heads", "a divisor of " + std::to_string(s.inner) + " channels");
  if (s.heads % s.kv_heads != 0) return c.unsupported("num_key_value_heads", "a divisor of num_attention_heads " + std::to_string(s.heads));
  s.qk_dim = s.hidden / s.heads, s.v_dim = s.inner / s.heads;
  if (s.qk_dim % 2 != 0) return c.unsupported("num_attention_heads", "heads of even width");
  KLENS_TRY(const double eps, c.number_or("rms_norm_eps", 1e-6, 1e-12, 0.1));
  s.norm_eps = float(eps);

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
  plan.layers.resize(std::size_t(s.layers));
  for (int l = 0; l < s.layers; ++l) plan.layers[std::size_t(l)].window = int(window), plan.layers[std::size_t(l)].kv_source = l;
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
  if (const auto fault = find_fault(plan)) return Error{ErrorCode::unsupported, c.path + ": " + fault->field, fault->expected, fault->found};
  return plan;
}

/// How a small tensor of the checkpoint becomes what kernels read.
enum class Use { vector, conv, a_log };

/// A tensor that no format applies to, and the member of LayerView it fills.
struct LayerTensor {
  std::string_view name;               // after "model.layers.N."
  std::vector<std::int64_t> shape;
  Use use;
  const float* LayerView::* member;
};

inline std::vector<LayerTensor> layer_tensors(const Shape& s) {
  const std::int64_t hidden = s.hidden, inner = s.inner, rank = s.dt_rank, n = s.n_state;
  return {
      {"input_layernorm.weight", {hidden}, Use::vector, &LayerView::input_norm},
      {"pre_moe_layernorm.weight", {hidden}, Use::vector, &LayerView::ffn_norm},
      {"mamba.pre_avg_layernorm1.weight", {inner}, Use::vector, &LayerView::attention_norm},
      {"mamba.pre_avg_layernorm2.weight", {inner}, Use::vector, &LayerView::scan_norm},
      {"mamba.dt_layernorm.weight", {rank}, Use::vector, &LayerView::dt_norm},
      {"mamba.B_layernorm.weight", {n}, Use::vector, &LayerView::b_norm},
      {"mamba.C_layernorm.weight", {n}, Use::vector, &LayerView::c_norm},
      {"mamba.conv1d.weight", {inner, 1, s.conv_taps}, Use::conv, &LayerView::conv_weight},
      {"mamba.conv1d.bias", {inner}, Use::vector, &LayerView::conv_bias},
      {"mamba.A_log.0", {inner, n}, Use::a_log, &LayerView::a2},
      {"mamba.D.0", {inner}, Use::vector, &LayerView::d},
      {"mamba.dt_proj.0.bias", {inner}, Use::vector, &LayerView::dt_bias},
  };
}

inline constexpr std::string_view final_norm_name = "model.final_layernorm.weight";
inline constexpr std::string_view meta_name = "model.memory_tokens";

/// Tensors that checkpoints may hold beside ours, without a meaning of their own: the tied head again, tables of angles.
inline bool may_ignore(const Shape& s, std::string_view name) {
  return (s.tied_head && name == "lm_head.weight") || name.ends_with("rotary_emb.inv_freq");
}

}  // namespace klens::hymba
