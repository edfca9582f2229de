// Mamba (arXiv 2312.00752) and FalconMamba: config fields of `state-spaces/mamba-*-hf` and `tiiuae/falcon-mamba-7b`.
//   x <- x + out_proj( scan(conv(in_proj n)) ),  n = norm(x);  FalconMamba norms dt, B and C, without weights
#pragma once

#include <klens/model/family.hpp>

namespace klens::mamba {

inline Result<RuntimePlan> skeleton(const ModelConfig& c, Family family) {
  using namespace klens::detail;
  RuntimePlan plan = start_skeleton(c, family, Mixer::mamba, Ffn::none);
  Shape& s = plan.shape;
  KLENS_TRY(const std::int64_t expand, c.integer_or("expand", 2, 1, 64));
  KLENS_TRY(s.inner, c.integer_or("intermediate_size", expand * c.hidden_size, 1, max_width));
  KLENS_TRY(s.n_state, c.integer_or("state_size", 16, 1, 4096));
  KLENS_TRY(s.conv_taps, c.integer_or("conv_kernel", 4, 2, 4));
  KLENS_TRY(s.dt_rank, integer_or_auto(c, "time_step_rank", div_up(c.hidden_size, 16), max_width));
  KLENS_TRY(const double eps, c.number_or("layer_norm_epsilon", 1e-5, 1e-12, 0.1));
  s.norm_eps = float(eps);
  if (family == Family::falcon_mamba) {
    KLENS_TRY(const double inner_eps, c.number_or("mixer_rms_eps", 1e-6, 1e-12, 0.1));
    s.inner_norms = true, s.inner_norm_eps = float(inner_eps);
  }
  KLENS_TRY(s.conv_bias, c.boolean_or("use_conv_bias", true));
  KLENS_TRY(s.in_proj_bias, c.boolean_or("use_bias", false));
  s.out_proj_bias = s.in_proj_bias;
  KLENS_OK(only(c, "hidden_act", std::string_view("silu")));
  return finish_skeleton(c, std::move(plan));
}

inline constexpr SmallNames names = {.final_norm = "backbone.norm_f.weight", .input_norm = "norm.weight", .dt_bias = "dt_proj.bias"};

inline constexpr FamilyReader reader = {names, [](const ModelConfig& c) { return skeleton(c, Family::mamba); }};
inline constexpr FamilyReader falcon_reader = {names, [](const ModelConfig& c) { return skeleton(c, Family::falcon_mamba); }};

}  // namespace klens::mamba
