// Names that plans and files use: of families, of kinds of layers, and of components as each family's checkpoints spell them.
#pragma once

#include <klens/plan/sites.hpp>

#include <array>
#include <string>
#include <string_view>

namespace klens {

/// As config.json says them in "model_type".
inline constexpr std::array<std::string_view, family_count> family_names = {
    "hymba", "mamba", "falcon_mamba", "mamba2", "lfm2", "falcon_h1", "bamba", "nemotron_h", "jamba", "granitemoehybrid",
    "zamba", "zamba2", "mamba3"};
inline constexpr std::array<std::string_view, mixer_count> mixer_names = {
    "none", "hymba", "mamba", "mamba2", "attention", "short_conv", "parallel", "block_mamba", "block_mamba2", "conv_attention",
    "mamba3"};
inline constexpr std::array<std::string_view, ffn_count> ffn_names = {"none", "swiglu", "relu2", "moe", "moe_shared", "moe_relu2"};

constexpr std::string_view name_of(Family f) { return family_names[std::size_t(f)]; }
constexpr std::string_view name_of(Mixer m) { return mixer_names[std::size_t(m)]; }
constexpr std::string_view name_of(Ffn f) { return ffn_names[std::size_t(f)]; }

/// Index of a name in one of the lists above, or -1.
template <std::size_t N>
constexpr int index_of(const std::array<std::string_view, N>& names, std::string_view name) {
  for (std::size_t i = 0; i < N; ++i)
    if (names[i] == name) return int(i);
  return -1;
}

/// How a family spells its tensors.
struct FamilyNames {
  std::string_view embedding, layers;                    // "model.embed_tokens", "model.layers."
  std::string_view mamba, attention, ffn;                // prefixes inside a layer
  std::string_view x_proj = "x_proj", dt_proj = "dt_proj", o_proj = "o_proj";
  std::string_view gate = "gate_proj", up = "up_proj", down = "down_proj";
  std::string_view experts = "feed_forward.experts.";    // before an expert's number
};

constexpr FamilyNames names_of(Family family) {
  switch (family) {
    case Family::hymba:
      return {.embedding = "model.embed_tokens", .layers = "model.layers.", .mamba = "mamba.", .attention = "", .ffn = "moe.experts.0.",
              .x_proj = "x_proj.0", .dt_proj = "dt_proj.0"};
    case Family::mamba:
    case Family::falcon_mamba:
    case Family::mamba2:
    case Family::nemotron_h:
      return {.embedding = "backbone.embeddings", .layers = "backbone.layers.", .mamba = "mixer.", .attention = "mixer.", .ffn = "mixer.",
              .experts = "mixer.experts."};
    case Family::mamba3:   // an ffn's in its files: FamilyReader::source
      return {.embedding = "backbone.embeddings", .layers = "backbone.layers.", .mamba = "mixer.", .attention = "mixer.", .ffn = "mlp."};
    case Family::lfm2:
      return {.embedding = "model.embed_tokens", .layers = "model.layers.", .mamba = "conv.", .attention = "self_attn.",
              .ffn = "feed_forward.", .o_proj = "out_proj", .gate = "w1", .up = "w3", .down = "w2"};
    case Family::granitemoehybrid:   // fused in its files: FamilyReader::source
      return {.embedding = "model.embed_tokens", .layers = "model.layers.", .mamba = "mamba.", .attention = "self_attn.",
              .ffn = "shared_mlp.", .experts = "block_sparse_moe.experts."};
    case Family::zamba:   // where its files keep them: FamilyReader::source
      return {.embedding = "model.embed_tokens", .layers = "model.layers.", .mamba = "mamba.", .attention = "shared_transf.self_attn.",
              .ffn = "shared_transf.feed_forward."};
    case Family::zamba2:
      return {.embedding = "model.embed_tokens", .layers = "model.layers.", .mamba = "mamba.",
              .attention = "shared_transformer.self_attn.", .ffn = "shared_transformer.feed_forward."};
    case Family::falcon_h1:
    case Family::bamba:
    case Family::jamba: break;
  }
  return {.embedding = "model.embed_tokens", .layers = "model.layers.", .mamba = "mamba.", .attention = "self_attn.", .ffn = "feed_forward."};
}

/// "model.layers.3."
inline std::string layer_prefix(Family family, int layer) {
  return std::string(names_of(family).layers) + std::to_string(layer) + ".";
}

/// The checkpoint's name of a site, without ".weight": "model.layers.3.mamba.x_proj.0". `expert`: -1, or a linear of that expert.
inline std::string component_name(Family family, Role role, int layer, int expert = -1) {
  const FamilyNames n = names_of(family);
  std::string ffn(n.ffn);
  if (expert >= 0) ffn = std::string(n.experts) + std::to_string(expert) + ".";
  const auto in_layer = [&](std::string_view block, std::string_view rest) {
    return layer_prefix(family, layer) + std::string(block) + std::string(rest);
  };
  switch (role) {
    case Role::embedding: return std::string(n.embedding);
    case Role::lm_head: return "lm_head";
    case Role::in_proj: return in_layer(n.mamba, "in_proj");
    case Role::x_proj: return in_layer(n.mamba, n.x_proj);
    case Role::dt_proj: return in_layer(n.mamba, n.dt_proj);
    case Role::out_proj: return in_layer(n.mamba, "out_proj");
    case Role::q_proj: return in_layer(n.attention, "q_proj");
    case Role::k_proj: return in_layer(n.attention, "k_proj");
    case Role::v_proj: return in_layer(n.attention, "v_proj");
    case Role::o_proj: return in_layer(n.attention, n.o_proj);
    case Role::gate_proj: return in_layer(ffn, n.gate);
    case Role::up_proj: return in_layer(ffn, n.up);
    case Role::down_proj: return in_layer(ffn, n.down);
    case Role::block_out: return in_layer("", "linear");
    case Role::q_adapter_in: return in_layer(n.attention, "linear_q_adapter.0");
    case Role::q_adapter_out: return in_layer(n.attention, "linear_q_adapter.1");
    case Role::k_adapter_in: return in_layer(n.attention, "linear_k_adapter.0");
    case Role::k_adapter_out: return in_layer(n.attention, "linear_k_adapter.1");
    case Role::v_adapter_in: return in_layer(n.attention, "linear_v_adapter.0");
    case Role::v_adapter_out: return in_layer(n.attention, "linear_v_adapter.1");
    case Role::ffn_adapter_in: return in_layer(ffn, "gate_up_proj_adapter.0");
    case Role::gate_adapter_out: return in_layer(ffn, "gate_proj_adapter.1");
    case Role::up_adapter_out: return in_layer(ffn, "up_proj_adapter.1");
    case Role::shared_up: return in_layer(ffn, "shared_experts.up_proj");
    case Role::shared_down: return in_layer(ffn, "shared_experts.down_proj");
    case Role::latent_in: return in_layer(ffn, "fc1_latent_proj");
    case Role::latent_out: return in_layer(ffn, "fc2_latent_proj");
  }
  return {};
}

/// The name of a state: "model.layers.3.mamba.scan_state", "model.layers.3.mamba.conv_state", "model.layers.3.kv_cache".
inline std::string component_name(Family family, StateKind kind, int layer) {
  const FamilyNames n = names_of(family);
  const std::string at = layer_prefix(family, layer);
  switch (kind) {
    case StateKind::scan: return at + std::string(n.mamba) + "scan_state";
    case StateKind::conv: return at + std::string(n.mamba) + "conv_state";
    case StateKind::kv: break;
  }
  return at + std::string(n.attention) + "kv_cache";
}

}  // namespace klens
