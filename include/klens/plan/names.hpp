// Names that plans and files use: of families, of kinds of layers, and of components as each family's checkpoints spell them.
#pragma once

#include <klens/plan/sites.hpp>

#include <array>
#include <string>
#include <string_view>

namespace klens {

/// As config.json says them in "model_type".
inline constexpr std::array<std::string_view, family_count> family_names = {
    "hymba", "mamba", "falcon_mamba", "mamba2", "lfm2", "falcon_h1", "bamba", "nemotron_h"};
inline constexpr std::array<std::string_view, mixer_count> mixer_names = {
    "none", "hymba", "mamba", "mamba2", "attention", "short_conv", "parallel"};
inline constexpr std::array<std::string_view, ffn_count> ffn_names = {"none", "swiglu", "relu2"};

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
      return {.embedding = "backbone.embeddings", .layers = "backbone.layers.", .mamba = "mixer.", .attention = "mixer.", .ffn = "mixer."};
    case Family::lfm2:
      return {.embedding = "model.embed_tokens", .layers = "model.layers.", .mamba = "conv.", .attention = "self_attn.",
              .ffn = "feed_forward.", .o_proj = "out_proj", .gate = "w1", .up = "w3", .down = "w2"};
    case Family::falcon_h1:
    case Family::bamba: break;
  }
  return {.embedding = "model.embed_tokens", .layers = "model.layers.", .mamba = "mamba.", .attention = "self_attn.", .ffn = "feed_forward."};
}

/// "model.layers.3."
inline std::string layer_prefix(Family family, int layer) {
  return std::string(names_of(family).layers) + std::to_string(layer) + ".";
}

/// The checkpoint's name of a site, without ".weight": "model.layers.3.mamba.x_proj.0".
inline std::string component_name(Family family, Role role, int layer) {
  const FamilyNames n = names_of(family);
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
    case Role::gate_proj: return in_layer(n.ffn, n.gate);
    case Role::up_proj: return in_layer(n.ffn, n.up);
    case Role::down_proj: return in_layer(n.ffn, n.down);
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
