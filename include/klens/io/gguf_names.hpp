// Names of tensors in GGUF files and in checkpoints of transformers: one table per architecture, read in both
// directions. llama.cpp's are those of the package gguf (constants.py, tensor_mapping.py), which makes the files of
// tests/data/gguf.
#pragma once

#include <klens/plan/names.hpp>
#include <klens/plan/sites.hpp>

#include <charconv>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace klens {
namespace detail {

/// What became of a tensor on its way into the file. experts: those of a layer were stacked; gate_rows, up_rows: one
/// tensor, or each expert's, was cut into its two halves.
enum class GgufFix { none, flat, conv, a_log, query_rows, key_rows, experts, gate_rows, up_rows };

/// llama.cpp's name in a block, and transformers' in a layer. Without a suffix on the left: ".weight" and ".bias" both
/// stay. A '*' stands for an expert's number.
struct GgufName {
  std::string_view gguf, name;
  GgufFix fix = GgufFix::none;
};

struct GgufFamily {
  std::string_view architecture;
  Family family;
  std::string_view final_norm;
  std::span<const GgufName> names;
};

inline constexpr GgufName gguf_mamba[] = {{"attn_norm", "norm"},
                                          {"ssm_in", "mixer.in_proj"},
                                          {"ssm_conv1d.weight", "mixer.conv1d.weight", GgufFix::conv},
                                          {"ssm_conv1d", "mixer.conv1d"},
                                          {"ssm_x", "mixer.x_proj"},
                                          {"ssm_dt", "mixer.dt_proj"},
                                          {"ssm_a", "mixer.A_log", GgufFix::a_log},
                                          {"ssm_d", "mixer.D"},
                                          {"ssm_out", "mixer.out_proj"}};
inline constexpr GgufName gguf_mamba2[] = {{"attn_norm", "norm"},
                                           {"ssm_in", "mixer.in_proj"},
                                           {"ssm_conv1d.weight", "mixer.conv1d.weight", GgufFix::conv},
                                           {"ssm_conv1d", "mixer.conv1d"},
                                           {"ssm_dt.bias", "mixer.dt_bias"},
                                           {"ssm_a", "mixer.A_log", GgufFix::a_log},
                                           {"ssm_d", "mixer.D", GgufFix::flat},
                                           {"ssm_norm.weight", "mixer.norm.weight", GgufFix::flat},
                                           {"ssm_out", "mixer.out_proj"},
                                           // nemotron_h has these too
                                           {"attn_q", "mixer.q_proj", GgufFix::query_rows},
                                           {"attn_k", "mixer.k_proj", GgufFix::key_rows},
                                           {"attn_v", "mixer.v_proj"},
                                           {"attn_output", "mixer.o_proj"},
                                           {"ffn_up", "mixer.up_proj"},
                                           {"ffn_down", "mixer.down_proj"}};
inline constexpr GgufName gguf_falcon_h1[] = {
    {"attn_norm", "input_layernorm"},
    {"ffn_norm.weight", "pre_ff_layernorm.weight"},
    {"ffn_norm", "pre_ff_layernorm.weight"},  // the converter leaves the suffix out
    {"ssm_in", "mamba.in_proj"},
    {"ssm_conv1d.weight", "mamba.conv1d.weight", GgufFix::conv},
    {"ssm_conv1d", "mamba.conv1d"},
    {"ssm_dt.bias", "mamba.dt_bias"},
    {"ssm_a", "mamba.A_log", GgufFix::a_log},
    {"ssm_d", "mamba.D", GgufFix::flat},
    {"ssm_norm.weight", "mamba.norm.weight", GgufFix::flat},
    {"ssm_out", "mamba.out_proj"},
    {"attn_q", "self_attn.q_proj"},
    {"attn_k", "self_attn.k_proj"},
    {"attn_v", "self_attn.v_proj"},
    {"attn_output", "self_attn.o_proj"},
    {"ffn_gate", "feed_forward.gate_proj"},
    {"ffn_up", "feed_forward.up_proj"},
    {"ffn_down", "feed_forward.down_proj"}};
inline constexpr GgufName gguf_lfm2[] = {{"attn_norm", "operator_norm"},
                                         {"ffn_norm", "ffn_norm"},
                                         {"shortconv.conv.weight", "conv.conv.weight", GgufFix::conv},
                                         {"shortconv.conv", "conv.conv"},
                                         {"shortconv.in_proj", "conv.in_proj"},
                                         {"shortconv.out_proj", "conv.out_proj"},
                                         {"attn_q", "self_attn.q_proj"},
                                         {"attn_k", "self_attn.k_proj"},
                                         {"attn_v", "self_attn.v_proj"},
                                         {"attn_output", "self_attn.out_proj"},
                                         {"attn_q_norm", "self_attn.q_layernorm"},
                                         {"attn_k_norm", "self_attn.k_layernorm"},
                                         {"ffn_gate", "feed_forward.w1"},
                                         {"ffn_up", "feed_forward.w3"},
                                         {"ffn_down", "feed_forward.w2"}};
inline constexpr GgufName gguf_jamba[] = {
    {"attn_norm", "input_layernorm"},
    {"ffn_norm", "pre_ff_layernorm"},
    {"ssm_in", "mamba.in_proj"},
    {"ssm_conv1d.weight", "mamba.conv1d.weight", GgufFix::conv},
    {"ssm_conv1d", "mamba.conv1d"},
    {"ssm_x", "mamba.x_proj"},
    {"ssm_dt", "mamba.dt_proj"},
    {"ssm_dt_norm", "mamba.dt_layernorm"},
    {"ssm_b_norm", "mamba.b_layernorm"},
    {"ssm_c_norm", "mamba.c_layernorm"},
    {"ssm_a", "mamba.A_log", GgufFix::a_log},
    {"ssm_d", "mamba.D"},
    {"ssm_out", "mamba.out_proj"},
    {"attn_q", "self_attn.q_proj"},
    {"attn_k", "self_attn.k_proj"},
    {"attn_v", "self_attn.v_proj"},
    {"attn_output", "self_attn.o_proj"},
    {"ffn_gate_inp", "feed_forward.router"},
    {"ffn_gate_exps", "feed_forward.experts.*.gate_proj", GgufFix::experts},
    {"ffn_up_exps", "feed_forward.experts.*.up_proj", GgufFix::experts},
    {"ffn_down_exps", "feed_forward.experts.*.down_proj", GgufFix::experts},
    {"ffn_gate", "feed_forward.gate_proj"},
    {"ffn_up", "feed_forward.up_proj"},
    {"ffn_down", "feed_forward.down_proj"}};
inline constexpr GgufName gguf_granite[] = {
    {"attn_norm", "input_layernorm"},
    {"ffn_norm", "post_attention_layernorm"},
    {"ssm_in", "mamba.in_proj"},
    {"ssm_conv1d.weight", "mamba.conv1d.weight", GgufFix::conv},
    {"ssm_conv1d", "mamba.conv1d"},
    {"ssm_dt.bias", "mamba.dt_bias"},
    {"ssm_a", "mamba.A_log", GgufFix::a_log},
    {"ssm_d", "mamba.D", GgufFix::flat},
    {"ssm_norm.weight", "mamba.norm.weight", GgufFix::flat},
    {"ssm_out", "mamba.out_proj"},
    {"attn_q", "self_attn.q_proj", GgufFix::query_rows},
    {"attn_k", "self_attn.k_proj", GgufFix::key_rows},
    {"attn_v", "self_attn.v_proj"},
    {"attn_output", "self_attn.o_proj"},
    {"ffn_gate_inp", "block_sparse_moe.router.layer"},
    {"ffn_gate_exps", "block_sparse_moe.input_linear", GgufFix::gate_rows},
    {"ffn_up_exps", "block_sparse_moe.input_linear", GgufFix::up_rows},
    {"ffn_down_exps", "block_sparse_moe.output_linear"},
    {"ffn_gate_shexp", "shared_mlp.input_linear", GgufFix::gate_rows},  // beside experts
    {"ffn_up_shexp", "shared_mlp.input_linear", GgufFix::up_rows},
    {"ffn_down_shexp", "shared_mlp.output_linear"},
    {"ffn_gate", "shared_mlp.input_linear", GgufFix::gate_rows},  // alone
    {"ffn_up", "shared_mlp.input_linear", GgufFix::up_rows},
    {"ffn_down", "shared_mlp.output_linear"}};

inline constexpr GgufFamily gguf_families[] = {
    {"mamba", Family::mamba, "backbone.norm_f.weight", gguf_mamba},
    {"mamba2", Family::mamba2, "backbone.norm_f.weight", gguf_mamba2},
    {"falcon-h1", Family::falcon_h1, "model.final_layernorm.weight", gguf_falcon_h1},
    {"lfm2", Family::lfm2, "model.embedding_norm.weight", gguf_lfm2},
    {"nemotron_h", Family::nemotron_h, "backbone.norm_f.weight", gguf_mamba2},
    {"jamba", Family::jamba, "model.final_layernorm.weight", gguf_jamba},
    {"granitehybrid", Family::granitemoehybrid, "model.norm.weight", gguf_granite}};

/// The architecture that a family is read from, or nullptr.
constexpr const GgufFamily* gguf_family(Family family) {
  for (const GgufFamily& f : gguf_families)
    if (f.family == (family == Family::falcon_mamba ? Family::mamba : family)) return &f;
  return nullptr;
}

/// transformers' name of a tensor of GGUF, and what became of it; nothing for one without a place in this family.
inline std::optional<GgufName> name_from_gguf(const GgufFamily& f, std::string_view gguf, std::string& name) {
  const FamilyNames names = names_of(f.family);
  if (gguf == "token_embd.weight") return name = std::string(names.embedding) + ".weight", GgufName{};
  if (gguf == "output.weight") return name = "lm_head.weight", GgufName{};
  if (gguf == "output_norm.weight" || (f.family == Family::lfm2 && gguf == "token_embd_norm.weight"))
    return name = f.final_norm, GgufName{};
  int layer = -1;
  if (!gguf.starts_with("blk.")) return std::nullopt;
  const char *begin = gguf.data() + 4, *end = gguf.data() + gguf.size();
  const auto [rest, fault] = std::from_chars(begin, end, layer);
  if (fault != std::errc() || layer < 0 || rest == end || *rest != '.' || (*begin == '0' && rest != begin + 1))
    return std::nullopt;
  const std::string_view in_block(rest + 1, std::size_t(end - rest - 1));
  const std::string at = layer_prefix(f.family, layer);
  for (const GgufName& n : f.names) {
    if (in_block == n.gguf) return name = at + std::string(n.name), n;
    for (const std::string_view suffix : {".weight", ".bias"})
      if (in_block.size() == n.gguf.size() + suffix.size() && in_block.starts_with(n.gguf) &&
          in_block.ends_with(suffix))
        return name = at + std::string(n.name) + std::string(suffix), n;
  }
  return std::nullopt;
}

/// GGUF's name of the weight of a linear or of the embedding; nothing where llama.cpp's architecture has none. Experts
/// of a layer share one tensor; `ffn` is the layer's.
inline std::optional<std::string> gguf_weight_name(Family family, const Site& site, Ffn ffn) {
  const GgufFamily* const known = gguf_family(family);
  if (known == nullptr) return std::nullopt;
  if (site.role == Role::embedding) return "token_embd.weight";
  if (site.role == Role::lm_head) return "output.weight";
  const std::string block = "blk." + std::to_string(site.layer) + ".";
  const std::string_view kind = site.expert >= 0 ? "_exps" : ffn == Ffn::moe_shared ? "_shexp" : "";
  switch (site.role) {  // so called in all architectures
    case Role::gate_proj: return block + "ffn_gate" + std::string(kind) + ".weight";
    case Role::up_proj: return block + "ffn_up" + std::string(kind) + ".weight";
    case Role::down_proj: return block + "ffn_down" + std::string(kind) + ".weight";
    default: break;
  }
  const std::string prefix = layer_prefix(family, site.layer);
  const std::string name = component_name(family, site.role, site.layer).substr(prefix.size());
  for (const GgufName& n : known->names)
    if (n.name == name) return block + std::string(n.gguf) + ".weight";
  return std::nullopt;
}

}  // namespace detail
}  // namespace klens
