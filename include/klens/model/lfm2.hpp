// LFM2 (LiquidAI): config fields and names of `LiquidAI/LFM2-1.2B` and of checkpoints like it.
//   layers of a gated short convolution or of attention with normed q and k, each followed by SwiGLU
#pragma once

#include <klens/model/family.hpp>

namespace klens::lfm2 {

/// The ffn's width: 2/3 of the config's, times a multiplier, rounded up to a multiple; or the config's own.
inline Result<std::int64_t> ffn_width(const ModelConfig& c) {
  KLENS_TRY(std::int64_t width, c.integer_or("intermediate_size", 12288, 1, max_width));
  if (c.json.contains("block_ff_dim") && !c.json["block_ff_dim"].is_null()) {   // the published checkpoints' own key
    KLENS_TRY(width, c.integer("block_ff_dim", 1, max_width));
  }
  KLENS_TRY(const bool adjust, c.boolean_or("block_auto_adjust_ff_dim", true));
  if (!adjust) return width;
  KLENS_TRY(const double multiplier, c.number_or("block_ffn_dim_multiplier", 1.0, 1e-3, 1e3));
  KLENS_TRY(const std::int64_t multiple, c.integer_or("block_multiple_of", 256, 1, 65536));
  const double scaled = multiplier * double(2 * width / 3);
  if (scaled < 1 || scaled > max_width) return c.unsupported("block_ffn_dim_multiplier", "an ffn of 1 to " + std::to_string(max_width) + " channels");
  return round_up(std::int64_t(scaled), multiple);
}

inline Result<RuntimePlan> skeleton(const ModelConfig& c) {
  using namespace klens::detail;
  RuntimePlan plan = start_skeleton(c, Family::lfm2, Mixer::short_conv, Ffn::swiglu);
  Shape& s = plan.shape;
  KLENS_TRY(const double eps, c.number_or("norm_eps", 1e-5, 1e-12, 0.1));
  s.norm_eps = float(eps);
  KLENS_TRY(s.ffn, ffn_width(c));
  bool any_attention = false, any_conv = false;
  const auto attention = [&](std::int64_t l) { plan.layers[std::size_t(l)].mixer = Mixer::attention, any_attention = true; };
  if (c.json.contains("layer_types") && !c.json["layer_types"].is_null()) {
    KLENS_TRY(const Json* const types, json_array(c.json, "layer_types", c.path));
    if (std::int64_t(types->size()) != c.layers) return c.unsupported("layer_types", "a kind for each of " + std::to_string(c.layers) + " layers");
    for (std::size_t l = 0; l < types->size(); ++l) {
      if ((*types)[l] == "full_attention") attention(std::int64_t(l));
      else if ((*types)[l] != "conv") return c.unsupported("layer_types", "'conv' or 'full_attention'");
    }
  } else {
    KLENS_TRY(const std::vector<std::int64_t> at, c.integers("full_attn_idxs", 0, c.layers - 1));
    for (const std::int64_t l : at) attention(l);
  }
  for (const LayerPlan& l : plan.layers) any_conv |= l.mixer == Mixer::short_conv;
  if (any_conv) {
    s.inner = s.hidden;
    KLENS_TRY(s.conv_taps, c.integer_or("conv_L_cache", 3, 2, 4));
  }
  if (any_attention) {
    KLENS_OK(read_heads(c, s));
    KLENS_OK(read_rope(c, s, 1e6));
    s.qk_norm = true;
  }
  KLENS_TRY(s.conv_bias, c.boolean_or("conv_bias", false));   // of the convolution and of its two linears
  s.conv_bias = s.in_proj_bias = s.out_proj_bias = s.conv_bias && any_conv;
  return finish_skeleton(c, std::move(plan));
}

inline constexpr FamilyReader reader = {{.final_norm = "model.embedding_norm.weight",
                                         .input_norm = "operator_norm.weight",
                                         .ffn_norm = "ffn_norm.weight",
                                         .conv_weight = "conv.weight",
                                         .conv_bias = "conv.bias",
                                         .q_norm = "q_layernorm.weight",
                                         .k_norm = "k_layernorm.weight"},
                                        &skeleton};

}  // namespace klens::lfm2
