// Falcon-H1 (arXiv 2507.22448): config fields of `tiiuae/Falcon-H1-*`.
//   every layer: Mamba-2 and attention of one normed input, both added to the residual stream, then SwiGLU; muP multipliers
//   on the inputs and outputs of the linears, all of them factors of the outputs here
#pragma once

#include <klens/model/family.hpp>

#include <utility>

namespace klens::falcon_h1 {

inline Result<RuntimePlan> skeleton(const ModelConfig& c) {
  using namespace klens::detail;
  RuntimePlan plan = start_skeleton(c, Family::falcon_h1, Mixer::parallel, Ffn::swiglu);
  Shape& s = plan.shape;
  KLENS_TRY(const double eps, c.number_or("rms_norm_eps", 1e-5, 1e-12, 0.1));
  s.norm_eps = s.inner_norm_eps = float(eps);
  KLENS_TRY(s.ffn, c.integer("intermediate_size", 1, max_width));
  KLENS_TRY(const std::int64_t expand, c.integer_or("mamba_expand", 2, 1, 64));
  const bool expands = c.json.contains("mamba_d_ssm") && c.json["mamba_d_ssm"].is_null();
  KLENS_TRY(const std::int64_t inner, c.integer_or("mamba_d_ssm", expands ? expand * c.hidden_size : 1024, 1, max_width));
  KLENS_OK(read_mamba2(c, s, inner));
  KLENS_TRY(s.out_proj_bias, c.boolean_or("projectors_bias", false));
  // A multiplier of an input does not reach the bias, and ours are all of outputs.
  for (const auto& [bias, key] : {std::pair{s.in_proj_bias, "ssm_in_multiplier"}, {s.attention_bias, "attention_in_multiplier"}}) {
    KLENS_TRY(const double in, c.number_or(key, 1.0, -1e6, 1e6));
    if (bias && in != 1.0) return c.unsupported(key, "1 where the linear has a bias");
  }
  KLENS_OK(read_heads(c, s));
  KLENS_OK(read_rope(c, s, 10000.0));
  KLENS_TRY(const bool norms, c.boolean_or("mamba_rms_norm", false));
  KLENS_TRY(s.norm_before_gate, c.boolean_or("mamba_norm_before_gate", true));
  s.norm_groups = norms ? s.ssm_groups : 0;
  if (!norms) s.norm_before_gate = false;
  KLENS_TRY(const double scale, c.number_or("embedding_multiplier", 1.0, 1e-6, 1e6));
  s.embedding_scale = float(scale);
  return finish_skeleton(c, std::move(plan));
}

/// muP: multipliers of a linear's input and output are both factors of its output.
inline Result<std::vector<float>> output_scale(const ModelConfig& c, const RuntimePlan& plan, Role role, int layer) {
  const Shape& s = plan.shape;
  const auto number = [&c](std::string_view key) { return c.number_or(key, 1.0, -1e6, 1e6); };
  const auto list = [&c](std::string_view key, std::size_t count) -> Result<std::vector<double>> {
    if (!c.json.contains(key) || c.json[std::string(key)].is_null()) return std::vector<double>(count, 1.0);
    KLENS_TRY(const Json* const array, json_array(c.json, key, c.path));
    std::vector<double> values;
    for (const Json& v : *array) {
      if (!v.is_number()) return c.unsupported(key, std::to_string(count) + " numbers");
      values.push_back(v.get<double>());
    }
    if (values.size() != count) return c.unsupported(key, std::to_string(count) + " numbers");
    return values;
  };
  const auto all = [&](double value) {
    const int rows = extent_of(s, layer < 0 ? Mixer::none : plan.layers[std::size_t(layer)].mixer, true, role).rows;
    return value == 1.0 ? std::vector<float>{} : std::vector<float>(std::size_t(rows), float(value));
  };
  KLENS_TRY(const double attention_in, number("attention_in_multiplier"));
  KLENS_TRY(const std::vector<double> mlp, list("mlp_multipliers", 2));
  switch (role) {
    case Role::in_proj: {
      KLENS_TRY(const double in, number("ssm_in_multiplier"));
      KLENS_TRY(const std::vector<double> parts, list("ssm_multipliers", 5));   // of gate, x, B, C, dt
      const int bc = s.ssm_groups * s.n_state, widths[] = {s.inner, s.inner, bc, bc, s.ssm_heads};
      std::vector<float> scale;
      for (int i = 0; i < 5; ++i) scale.insert(scale.end(), std::size_t(widths[i]), float(in * parts[std::size_t(i)]));
      return scale;
    }
    case Role::out_proj: {
      KLENS_TRY(const double out, number("ssm_out_multiplier"));
      return all(out);
    }
    case Role::q_proj:
    case Role::v_proj: return all(attention_in);
    case Role::k_proj: {
      KLENS_TRY(const double key, number("key_multiplier"));
      return all(attention_in * key);
    }
    case Role::o_proj: {
      KLENS_TRY(const double out, number("attention_out_multiplier"));
      return all(out);
    }
    case Role::gate_proj: return all(mlp[0]);
    case Role::down_proj: return all(mlp[1]);
    case Role::embedding:
    case Role::lm_head: {
      KLENS_TRY(const double head, number("lm_head_multiplier"));
      return all(head);
    }
    default: return std::vector<float>{};
  }
}

inline constexpr FamilyReader reader = {{}, &skeleton, &output_scale};

}  // namespace klens::falcon_h1
