// Bamba (IBM): config fields of `ibm-ai-platform/Bamba-9B`.
//   layers of Mamba-2, or of attention with RoPE on half of each head, every one followed by SwiGLU
#pragma once

#include <klens/model/family.hpp>

namespace klens::bamba {

inline Result<RuntimePlan> skeleton(const ModelConfig& c) {
  using namespace klens::detail;
  RuntimePlan plan = start_skeleton(c, Family::bamba, Mixer::mamba2, Ffn::swiglu);
  Shape& s = plan.shape;
  KLENS_TRY(const double eps, c.number_or("rms_norm_eps", 1e-5, 1e-12, 0.1));
  s.norm_eps = s.inner_norm_eps = float(eps);
  KLENS_TRY(s.ffn, c.integer("intermediate_size", 1, max_width));
  if (!json_absent(c.json, "attn_layer_indices")) {
    KLENS_TRY(const std::vector<std::int64_t> attention, c.integers("attn_layer_indices", 0, c.layers - 1));
    for (const std::int64_t l : attention) plan.layers[std::size_t(l)].mixer = Mixer::attention;
  }
  const Uses uses = uses_of(plan.layers);
  if (!uses.ssd) return c.unsupported("attn_layer_indices", "at least one layer without attention");
  KLENS_TRY(const std::int64_t expand, c.integer_or("mamba_expand", 2, 1, 64));
  KLENS_OK(read_mamba2(c, s, expand * c.hidden_size));
  s.norm_groups = s.ssm_groups;
  if (uses.attention) {
    KLENS_OK(read_heads(c, s));
    KLENS_OK(read_rope(c, s, 10000.0, 0.5));
    if (!json_absent(c.json, "attn_rotary_emb")) {   // the published checkpoint's own key
      KLENS_TRY(s.rotary_dim, c.integer("attn_rotary_emb", 0, s.qk_dim));
    }
  }
  return finish_skeleton(c, std::move(plan));
}

inline constexpr FamilyReader reader = {{}, &skeleton};

}  // namespace klens::bamba
