// Mamba-2 (arXiv 2405.21060): config fields of `Mamba2ForCausalLM`.
//   x <- x + out_proj( norm(ssd(conv(x B C)) silu(gate)) ),  in_proj n = gate | x | B | C | dt
#pragma once

#include <klens/model/family.hpp>

namespace klens::mamba2 {

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
  return finish_skeleton(c, std::move(plan));
}

inline constexpr FamilyReader reader = {
    {.final_norm = "backbone.norm_f.weight", .input_norm = "norm.weight"}, &skeleton};

}  // namespace klens::mamba2
