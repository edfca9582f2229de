// Mamba-3 with one input and one output per head (`state-spaces/mamba3-siso-187m`, `-893m`, `-1.5b`), whose config io/original_config.hpp
// turns into these fields; transformers has no class for it.
//   x <- x + out_proj( ssd(..) silu(gate) ),   x <- x + swiglu(norm(x)) where d_intermediate says so   (kernel/mamba3.hpp)
#pragma once

#include <klens/model/family.hpp>

namespace klens::mamba3 {

inline Result<RuntimePlan> skeleton(const ModelConfig& c) {
  using namespace klens::detail;
  KLENS_TRY(const std::int64_t ffn, c.integer("intermediate_size", 0, max_width));
  RuntimePlan plan = start_skeleton(c, Family::mamba3, Mixer::mamba3, ffn > 0 ? Ffn::swiglu : Ffn::none);
  Shape& s = plan.shape;
  s.ffn = int(ffn);
  KLENS_TRY(s.ssm_heads, c.integer("num_heads", 1, max_heads));
  KLENS_TRY(const std::int64_t width, c.integer("head_dim", 1, 4096));
  if (width * s.ssm_heads > max_width) return c.unsupported("num_heads", "at most " + std::to_string(max_width) + " channels");
  s.inner = int(width * s.ssm_heads);
  KLENS_TRY(s.ssm_groups, c.integer("n_groups", 1, max_heads));
  KLENS_TRY(s.n_state, c.integer("state_size", 2, scan_most_states));
  KLENS_TRY(const double turned, c.number("rope_fraction", 0.0, 1.0));
  s.ssm_angles = int(s.n_state * turned) / 2;
  if (s.ssm_angles == 0) return c.unsupported("rope_fraction", "at least one angle");
  KLENS_TRY(const double least, c.number("A_floor", 1e-12, 1e6));
  s.least_rate = float(least);
  KLENS_TRY(const bool norm, c.boolean_or("is_outproj_norm", false));
  s.norm_groups = norm ? s.ssm_heads : 0, s.norm_before_gate = norm;
  KLENS_TRY(const double eps, c.number_or("layer_norm_epsilon", 1e-5, 1e-12, 0.1));
  s.norm_eps = s.inner_norm_eps = float(eps);
  return finish_skeleton(c, std::move(plan));
}

/// fc1 holds up, then gate.
inline WeightSource source(const RuntimePlan& plan, const Site& site) {
  if (site.layer < 0 || site.role < Role::gate_proj) return {};
  const bool down = site.role == Role::down_proj;
  WeightSource from{layer_prefix(plan.shape.family, site.layer) + (down ? "mlp.fc2.weight" : "mlp.fc1.weight"),
                    {down ? site.rows : 2 * site.rows, site.cols}};
  from.first_row = site.role == Role::gate_proj ? site.rows : 0;
  return from;
}

inline constexpr FamilyReader reader = {
    {.final_norm = "backbone.norm_f.weight", .input_norm = "norm.weight", .ffn_norm = "norm2.weight", .b_norm = "B_norm.weight", .c_norm = "C_norm.weight"},
    &skeleton, nullptr, &source};

}  // namespace klens::mamba3
