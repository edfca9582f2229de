// Mamba-2 (arXiv 2405.21060): config fields of `Mamba2ForCausalLM`; attention between as `state-spaces/mamba2attn-2.7b` has it.
//   x <- x + out_proj( norm(ssd(conv(x B C)) silu(gate)) ),  in_proj n = gate | x | B | C | dt
#pragma once

#include <klens/model/family.hpp>

namespace klens::mamba2 {

/// Layers of attention, checked by io/original_config.hpp: transformers' Mamba-2 has none.
inline Result<void> read_attention(const ModelConfig& c, RuntimePlan& plan) {
  if (json_absent(c.json, "attn_layer_idx")) return {};
  KLENS_TRY(const std::vector<std::int64_t> layers, c.integers("attn_layer_idx", 0, c.layers - 1));
  KLENS_TRY(const Json* const a, json_object(c.json, "attn_cfg", c.path));
  const std::string at = c.path + ": 'attn_cfg'";
  Shape& s = plan.shape;
  for (const std::int64_t l : layers) plan.layers[std::size_t(l)].mixer = Mixer::conv_attention;
  if (!uses_of(plan.layers).ssd) return c.unsupported("attn_layer_idx", "at least one layer without attention");
  KLENS_TRY(s.heads, json_int(*a, "num_heads", at, 1, max_heads));
  KLENS_TRY(s.kv_heads, json_int(*a, "num_heads_kv", at, 1, max_heads));
  KLENS_TRY(s.qk_dim, json_int(*a, "head_dim", at, 1, 4096));
  KLENS_TRY(s.rotary_dim, json_int(*a, "rotary_emb_dim", at, 0, s.qk_dim));
  KLENS_TRY(const double theta, json_number(*a, "rotary_emb_base", at));
  KLENS_TRY(s.attention_bias, json_bool_or(*a, "qkv_proj_bias", at, true));
  s.v_dim = s.qk_dim, s.rope_theta = float(theta);
  return {};
}

inline Result<RuntimePlan> skeleton(const ModelConfig& c) {
  using namespace klens::detail;
  RuntimePlan plan = start_skeleton(c, Family::mamba2, Mixer::mamba2, Ffn::none);
  Shape& s = plan.shape;
  KLENS_TRY(s.ssm_heads, c.integer("num_heads", 1, max_heads));
  KLENS_TRY(const std::int64_t width, c.integer_or("head_dim", 64, 1, 4096));
  KLENS_TRY(const std::int64_t expand, c.integer_or("expand", 2, 1, 64));
  if (width * s.ssm_heads != expand * c.hidden_size)
    return c.unsupported("num_heads", "expand * hidden_size / head_dim = " + std::to_string(expand * c.hidden_size / width));
  s.inner = int(width * s.ssm_heads);
  KLENS_TRY(s.n_state, c.integer_or("state_size", 128, 1, 4096));
  KLENS_TRY(s.ssm_groups, c.integer_or("n_groups", 8, 1, max_heads));
  KLENS_TRY(s.conv_taps, c.integer_or("conv_kernel", 4, 2, 4));
  KLENS_TRY(const double eps, c.number_or("layer_norm_epsilon", 1e-5, 1e-12, 0.1));
  s.norm_eps = s.inner_norm_eps = float(eps);
  s.norm_groups = s.ssm_groups;
  KLENS_OK(read_dt_limits(c, s));
  KLENS_TRY(s.conv_bias, c.boolean_or("use_conv_bias", true));
  KLENS_TRY(s.in_proj_bias, c.boolean_or("use_bias", false));
  s.out_proj_bias = s.in_proj_bias;
  KLENS_OK(only(c, "hidden_act", std::string_view("silu")));
  KLENS_OK(read_attention(c, plan));
  return finish_skeleton(c, std::move(plan));
}

inline constexpr FamilyReader reader = {
    {.final_norm = "backbone.norm_f.weight", .input_norm = "norm.weight"}, &skeleton};

}  // namespace klens::mamba2
