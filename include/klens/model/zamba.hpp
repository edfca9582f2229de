// Zamba (arXiv 2405.16712): config fields of `Zyphra/Zamba-7B-v1` and of checkpoints like it.
//   Mamba-1 in heads, each with its own dt, B and C; every few layers a transformer block of shared weights runs before it
#pragma once

#include <klens/model/family.hpp>

namespace klens::zamba {

/// Layers that run a shared block, in order.
inline Result<std::vector<int>> block_layers(const ModelConfig& c) {
  std::vector<int> at;
  const std::string_view key = klens::detail::spelling(c, {"layers_block_type", "layer_types"});
  if (!json_absent(c.json, key)) {
    KLENS_TRY(const Json* const types, json_array(c.json, key, c.path));
    if (std::int64_t(types->size()) != c.layers) return c.unsupported(key, "a kind for each layer");
    for (std::size_t l = 0; l < types->size(); ++l) {
      if ((*types)[l] == "hybrid") at.push_back(int(l));
      else if ((*types)[l] != "linear_attention" && (*types)[l] != "mamba") return c.unsupported(key, "kinds mamba or hybrid");
    }
    return at;
  }
  if (c.model_type == "zamba2") return c.unsupported(key, "a list of kinds");
  // Without a list: layer 2, then those that say so counting from layer 3.
  KLENS_TRY(const std::int64_t period, c.integer_or("attn_layer_period", 6, 1, max_positions));
  KLENS_TRY(const std::int64_t offset, c.integer_or("attn_layer_offset", 4, 0, max_positions));
  for (std::int64_t l = 2; l < c.layers; ++l)
    if (l == 2 || (l - 3) % period == offset) at.push_back(int(l));
  return at;
}

/// Marks the layers that run a block; `blocks` of them in turn. Untied models do not share: every layer has its own.
inline void place_blocks(RuntimePlan& plan, const std::vector<int>& at, int blocks, Mixer mixer) {
  for (std::size_t i = 0; i < at.size(); ++i) {
    LayerPlan& l = plan.layers[std::size_t(at[i])];
    l.mixer = mixer;
    l.block_source = plan.shape.tied_head ? at[i % std::size_t(blocks)] : at[i];
  }
}

/// Sizes of the block: attention on twice the width, GeGLU.
inline Result<void> read_block(const ModelConfig& c, Shape& s) {
  using klens::detail::only;
  KLENS_OK(only(c, "attention_hidden_size", 2 * c.hidden_size));
  KLENS_TRY(const std::int64_t heads, c.integer("num_attention_heads", 1, max_heads));
  KLENS_OK(klens::detail::read_heads(c, s, "attention_head_dim", std::max(int(2 * c.hidden_size / heads), 1)));
  s.attention_scale = float(1.0 / std::sqrt(double(s.qk_dim) / 2));   // both operations are exact to rounding in IEEE 754
  KLENS_OK(only(c, "hidden_act", std::string_view("gelu")));
  return {};
}

inline Result<RuntimePlan> skeleton(const ModelConfig& c) {
  using namespace klens::detail;
  RuntimePlan plan = start_skeleton(c, Family::zamba, Mixer::mamba, Ffn::none);
  Shape& s = plan.shape;
  KLENS_TRY(const double eps, c.number_or("rms_norm_eps", 1e-5, 1e-12, 0.1));
  s.norm_eps = float(eps);
  KLENS_TRY(const std::vector<int> blocks, block_layers(c));
  place_blocks(plan, blocks, 1, Mixer::block_mamba);
  if (!blocks.empty()) {
    KLENS_OK(read_block(c, s));
    KLENS_TRY(s.ffn, c.integer("intermediate_size", 1, max_width));
  }
  KLENS_OK(read_mamba(c, s));
  KLENS_TRY(s.scan_heads, c.integer_or("n_mamba_heads", 2, 1, max_heads));
  KLENS_OK(only(c, "hidden_mamba_act", std::string_view("silu")));
  KLENS_OK(only(c, "sliding_window", std::int64_t(0)));
  return finish_skeleton(c, std::move(plan));
}

/// Names of a layer's tensors in the file, where they are not the components': mamba's beside a block, and rows of in_proj in turn.
inline WeightSource source(const RuntimePlan& plan, const Site& site) {
  const Shape& s = plan.shape;
  if (site.layer < 0) return {};
  const bool beside = has_block(plan.layers[std::size_t(site.layer)].mixer);
  const std::string at = layer_prefix(s.family, site.layer) + (beside ? "mamba_decoder." : "") + "mamba.";
  const std::int64_t heads = s.scan_heads;
  switch (site.role) {
    case Role::in_proj: return {at + "in_proj.weight", {site.rows, site.cols}, 0, 2};
    case Role::out_proj: return {at + "out_proj.weight", {site.rows, site.cols}};
    case Role::x_proj: return {at + "x_proj_weight", {heads, site.rows / heads, site.cols}};
    case Role::dt_proj: return {at + "dt_proj_weight", {heads, site.rows / heads, site.cols}};
    default: return {};
  }
}

inline constexpr FamilyReader reader = {{.dt_bias = "dt_proj_bias", .beside_block = "mamba_decoder.",
                                         .block_norm = "shared_transf.input_layernorm.weight",
                                         .block_ffn_norm = "shared_transf.pre_ff_layernorm.weight", .heads_apart = true},
                                        &skeleton, nullptr, &source};

}  // namespace klens::zamba
