// Zamba2 (arXiv 2411.15242): config fields of `Zyphra/Zamba2-1.2B`, `-2.7B` and `-7B`.
//   Mamba-2; every few layers one of `num_mem_blocks` transformer blocks in turn runs before it, with low-rank adapters of the layer
#pragma once

#include <klens/model/zamba.hpp>

namespace klens::zamba2 {

inline Result<RuntimePlan> skeleton(const ModelConfig& c) {
  using namespace klens::detail;
  RuntimePlan plan = start_skeleton(c, Family::zamba2, Mixer::mamba2, Ffn::none);
  Shape& s = plan.shape;
  KLENS_TRY(const double eps, c.number_or("rms_norm_eps", 1e-5, 1e-12, 0.1));
  s.norm_eps = float(eps), s.inner_norm_eps = 1e-5f;   // transformers' gated norm has an epsilon of its own
  KLENS_TRY(const std::vector<int> blocks, zamba::block_layers(c));
  KLENS_TRY(const int count, c.integer_or("num_mem_blocks", 1, 1, max_positions));
  if (!s.tied_head && !blocks.empty()) return c.unsupported("tie_word_embeddings", "true");   // else adapters that no layer uses are stored
  zamba::place_blocks(plan, blocks, count, Mixer::block_mamba2);
  if (!json_absent(c.json, "hybrid_layer_ids")) {
    KLENS_TRY(const std::vector<std::int64_t> ids, c.integers("hybrid_layer_ids", 0, c.layers - 1));
    if (!std::ranges::equal(ids, blocks)) return c.unsupported("hybrid_layer_ids", "the layers of kind hybrid");
  }
  if (!blocks.empty()) {
    KLENS_OK(zamba::read_block(c, s));
    KLENS_TRY(s.ffn, c.integer_or("intermediate_size", 4 * c.hidden_size, 1, max_width));
    KLENS_OK(only(c, "ffn_hidden_size", std::int64_t(s.ffn)));
    KLENS_TRY(s.adapter_rank, c.integer_or("adapter_rank", 128, 1, max_width));
    KLENS_TRY(s.attention_adapters, c.boolean_or("use_shared_attention_adapter", false));
    if (s.attention_adapters && s.kv_heads != s.heads) return c.unsupported("num_key_value_heads", "num_attention_heads");
    KLENS_TRY(const bool rope, c.boolean_or("use_mem_rope", false));
    if (rope) KLENS_OK(read_rope(c, s, 10000.0));
    if (rope && s.rotary_dim != s.qk_dim) return c.unsupported("partial_rotary_factor", "1");
  }
  KLENS_TRY(const std::int64_t expand, c.integer_or("mamba_expand", 2, 1, 64));
  if (expand * c.hidden_size > max_width) return c.unsupported("mamba_expand", "at most " + std::to_string(max_width) + " channels");
  s.inner = int(expand * c.hidden_size);
  KLENS_TRY(s.ssm_heads, c.integer("n_mamba_heads", 1, max_heads));
  if (s.inner % s.ssm_heads != 0) return c.unsupported("n_mamba_heads", "a divisor of " + std::to_string(s.inner) + " channels");
  KLENS_OK(only(c, "mamba_headdim", std::int64_t(s.inner / s.ssm_heads)));
  KLENS_TRY(s.ssm_groups, c.integer_or("mamba_ngroups", 1, 1, max_heads));
  KLENS_TRY(s.n_state, c.integer_or("mamba_d_state", 64, 1, 4096));
  KLENS_TRY(s.conv_taps, c.integer_or("mamba_d_conv", 4, 2, 4));
  s.norm_groups = s.ssm_groups;
  KLENS_TRY(const double least, c.number_or("time_step_min", 0.001, 0.0, 1e6));   // as transformers limits dt
  s.dt_min = float(least);
  for (const auto& [key, value] : {std::pair{"use_conv_bias", true}, {"use_long_context", false}}) KLENS_OK(only(c, key, value));
  KLENS_TRY(s.in_proj_bias, c.boolean_or("add_bias_linear", false));
  s.out_proj_bias = s.in_proj_bias, s.ffn_bias = s.in_proj_bias && !blocks.empty();
  if (!json_absent(c.json, "time_step_limit")) return c.unsupported("time_step_limit", "null");
  return finish_skeleton(c, std::move(plan));
}

/// Names in the file, where they are not the components': mamba's beside a block; gate and up, halves of one tensor; adapters,
/// stored in the block's layer under the number of the layer among those with a block.
inline WeightSource source(const RuntimePlan& plan, const Site& site) {
  const Shape& s = plan.shape;
  if (site.layer < 0) return {};
  const LayerPlan& l = plan.layers[std::size_t(site.layer)];
  if (!has_block(l.mixer)) return {};
  int number = 0;
  for (int i = 0; i < site.layer; ++i) number += has_block(plan.layers[std::size_t(i)].mixer);
  const std::string at = layer_prefix(s.family, site.layer), block = layer_prefix(s.family, l.block_source) + "shared_transformer.";
  const auto adapter = [&](const char* list, int which) { return block + list + "_adapter_list." + std::to_string(number) + (which ? ".1.weight" : ".0.weight"); };
  const std::vector<std::int64_t> whole{site.rows, site.cols}, pair{2 * std::int64_t(site.rows), site.cols};
  switch (site.role) {
    case Role::in_proj: return {at + "mamba_decoder.mamba.in_proj.weight", whole};
    case Role::out_proj: return {at + "mamba_decoder.mamba.out_proj.weight", whole};
    case Role::gate_proj: return {block + "feed_forward.gate_up_proj.weight", pair};
    case Role::up_proj: return {block + "feed_forward.gate_up_proj.weight", pair, site.rows};
    case Role::q_adapter_in: return {adapter("self_attn.linear_q", 0), whole};
    case Role::q_adapter_out: return {adapter("self_attn.linear_q", 1), whole};
    case Role::k_adapter_in: return {adapter("self_attn.linear_k", 0), whole};
    case Role::k_adapter_out: return {adapter("self_attn.linear_k", 1), whole};
    case Role::v_adapter_in: return {adapter("self_attn.linear_v", 0), whole};
    case Role::v_adapter_out: return {adapter("self_attn.linear_v", 1), whole};
    case Role::ffn_adapter_in: return {adapter("feed_forward.gate_up_proj", 0), whole};
    case Role::gate_adapter_out: return {adapter("feed_forward.gate_up_proj", 1), pair};
    case Role::up_adapter_out: return {adapter("feed_forward.gate_up_proj", 1), pair, site.rows};
    default: return {};
  }
}

inline constexpr FamilyReader reader = {{.beside_block = "mamba_decoder.", .block_norm = "shared_transformer.input_layernorm.weight",
                                         .block_ffn_norm = "shared_transformer.pre_ff_layernorm.weight"},
                                        &skeleton, nullptr, &source};

}  // namespace klens::zamba2
