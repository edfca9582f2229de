// Sites: every linear of a plan once, in the order of the packed file, and every state once, for whoever sums, emits or checks
// over all of them.
// Works on Plan<N> (constexpr) and on RuntimePlan alike: both have shape, embedding, lm_head and layers.
#pragma once

#include <klens/format/state.hpp>
#include <klens/plan/plan.hpp>

#include <bit>

namespace klens {

/// The linears of one layer, in the order of the forward pass; those around a shared block last.
inline constexpr Role layer_roles[] = {Role::in_proj, Role::x_proj, Role::dt_proj, Role::out_proj,
                                       Role::q_proj, Role::k_proj, Role::v_proj, Role::o_proj,
                                       Role::gate_proj, Role::up_proj, Role::down_proj,
                                       Role::block_out, Role::q_adapter_in, Role::q_adapter_out, Role::k_adapter_in,
                                       Role::k_adapter_out, Role::v_adapter_in, Role::v_adapter_out,
                                       Role::ffn_adapter_in, Role::gate_adapter_out, Role::up_adapter_out,
                                       Role::shared_up, Role::shared_down, Role::latent_in, Role::latent_out};

/// The linears of an expert, in the same order, where it has them (expert_has).
inline constexpr Role expert_roles[] = {Role::gate_proj, Role::up_proj, Role::down_proj};

/// One linear of a plan. `layer` is -1 for the model's own two, `expert` -1 for all that are no expert's.
struct Site {
  Role role = Role::embedding;
  int layer = -1;
  int rows = 0, cols = 0;
  Precision precision = {};
  int expert = -1;
};

template <class Layers>
KLENS_INLINE constexpr bool owns_kv(const Layers& layers, int layer) {
  return layers[std::size_t(layer)].kv_source == layer;
}

/// Layers with experts among those before `layer`.
template <class Layers>
constexpr int expert_layers_before(const Layers& layers, int layer) {
  int count = 0;
  for (int l = 0; l < layer; ++l) count += has_experts(layers[std::size_t(l)].ffn);
  return count;
}

/// Where a plan keeps an expert of a layer among its `experts`.
template <class AnyPlan>
constexpr std::size_t expert_index(const AnyPlan& plan, int layer, int expert) {
  return std::size_t(expert_layers_before(plan.layers, layer) * plan.shape.experts + expert);
}

/// What the layers of a model have between them. `Layers`: of LayerPlan, or of anything with its mixer and ffn.
struct Uses {
  bool attention = false, scan = false, ssd = false, short_conv = false, ffn = false, hymba = false, qkvo = false, experts = false;
  bool block = false, conv_attention = false, mamba3 = false, moe_relu2 = false;
  KLENS_INLINE constexpr bool conv() const { return scan || ssd || short_conv || conv_attention; }
};

template <class Layers>
constexpr Uses uses_of(const Layers& layers) {
  Uses u;
  for (const auto& l : layers) {
    u.attention |= has_attention(l.mixer), u.scan |= has_scan(l.mixer), u.ssd |= has_ssd(l.mixer);
    u.short_conv |= l.mixer == Mixer::short_conv, u.hymba |= l.mixer == Mixer::hymba, u.qkvo |= has_qkvo(l.mixer);
    u.ffn |= has_swiglu(l.ffn) || l.ffn == Ffn::relu2 || has_block(l.mixer), u.experts |= has_experts(l.ffn);
    u.block |= has_block(l.mixer), u.conv_attention |= l.mixer == Mixer::conv_attention, u.mamba3 |= l.mixer == Mixer::mamba3;
    u.moe_relu2 |= l.ffn == Ffn::moe_relu2;
  }
  return u;
}

/// The layer whose linear of this role layer `layer` runs: itself, or where it shares a block, the block's.
template <class Layers>
KLENS_INLINE constexpr int owner_of(const Layers& layers, int layer, Role role) {
  const auto& l = layers[std::size_t(layer)];
  return is_block_role(l.mixer, role) ? l.block_source : layer;
}

/// Whether layer `layer` of a plan runs a linear of this role, its own or a shared block's.
template <class AnyPlan>
KLENS_INLINE constexpr bool uses_role(const AnyPlan& plan, int layer, Role role) {
  const LayerPlan& l = plan.layers[std::size_t(layer)];
  return has_role(plan.shape, l.mixer, l.ffn, owns_kv(plan.layers, layer), role);
}

/// Whether it owns it: every linear has one owner.
template <class AnyPlan>
KLENS_INLINE constexpr bool has_role(const AnyPlan& plan, int layer, Role role) {
  return uses_role(plan, layer, role) && owner_of(plan.layers, layer, role) == layer;
}

/// Calls visit(Site) for the embedding, the head where it is not tied, and every linear of every layer, experts last.
template <class AnyPlan, class Visit>
constexpr void for_each_site(const AnyPlan& plan, Visit&& visit) {
  const Extent table = extent_of(plan.shape, Mixer::none, true, Role::embedding);
  visit(Site{Role::embedding, -1, table.rows, table.cols, plan.embedding});
  if (!plan.shape.tied_head) visit(Site{Role::lm_head, -1, table.rows, table.cols, plan.lm_head});
  std::size_t next = 0;
  for (int layer = 0; layer < int(plan.layers.size()); ++layer) {
    const LayerPlan& l = plan.layers[std::size_t(layer)];
    for (const Role role : layer_roles) {
      if (!has_role(plan, layer, role)) continue;
      const Extent e = extent_of(plan.shape, l.mixer, owns_kv(plan.layers, layer), role);
      visit(Site{role, layer, e.rows, e.cols, precision_of(l, role)});
    }
    for (int expert = 0; has_experts(l.ffn) && expert < plan.shape.experts; ++expert, ++next)
      for (const Role role : expert_roles) {
        if (!expert_has(l.ffn, role)) continue;
        const Extent e = expert_extent(plan.shape, role);
        visit(Site{role, layer, e.rows, e.cols, expert_member(plan.experts[next], role), expert});
      }
  }
}

/// What a layer keeps of earlier tokens: the state of its scan (Mamba-1 or -2), the last inputs of its convolution, K and V.
enum class StateKind : std::uint8_t { scan, conv, kv };
inline constexpr StateKind state_kinds[] = {StateKind::scan, StateKind::conv, StateKind::kv};

/// One state of a plan, at the layer that owns it.
struct StateSite {
  StateKind kind = StateKind::scan;
  int layer = 0;
  State format = State::f32;
};

/// The format of a state in a LayerPlan.
template <class AnyLayerPlan>
KLENS_INLINE constexpr auto& state_of(AnyLayerPlan& l, StateKind kind) {
  return kind == StateKind::scan ? l.scan.state : kind == StateKind::conv ? l.conv.state : l.attention.state;
}

KLENS_INLINE constexpr bool has_state(Mixer mixer, bool own_kv, StateKind kind) {
  return kind == StateKind::scan ? has_scan(mixer) || has_ssd_state(mixer)
         : kind == StateKind::conv ? has_conv(mixer) : has_attention(mixer) && own_kv;
}

/// Bytes of the state of a layer's scan, what Mamba-3 carries beside it (in f32 always) last; a multiple of 64.
KLENS_INLINE constexpr std::int64_t scan_bytes(const Shape& s, Mixer mixer, State format) {
  if (has_scan(mixer)) return round_up(scan_state_bytes(format, scan_channels(s), s.n_state), 64);
  if (!has_ssd_state(mixer)) return 0;
  const int width = s.inner / s.ssm_heads;
  const std::int64_t carried = mixer == Mixer::mamba3 ? mamba3_carried(s.ssm_heads, width, s.n_state, s.ssm_angles).floats * 4 : 0;
  return round_up(ssd_state_bytes(format, s.ssm_heads, width, s.n_state), 64) + carried;
}

/// Calls visit(StateSite) for every state, layer by layer: scan, conv, kv.
template <class AnyPlan, class Visit>
constexpr void for_each_state(const AnyPlan& plan, Visit&& visit) {
  for (int layer = 0; layer < int(plan.layers.size()); ++layer) {
    const LayerPlan& l = plan.layers[std::size_t(layer)];
    for (const StateKind kind : state_kinds)
      if (has_state(l.mixer, owns_kv(plan.layers, layer), kind)) visit(StateSite{kind, layer, state_of(l, kind)});
  }
}

/// Sets the format of a state, K and V in all layers that read them.
template <class AnyPlan>
constexpr void set_state(AnyPlan& plan, StateKind kind, int layer, State format) {
  state_of(plan.layers[std::size_t(layer)], kind) = format;
  if (kind == StateKind::kv)
    for (auto& l : plan.layers)
      if (l.kv_source == layer) l.attention.state = format;
}

/// FNV-1a, 64 bits, over the sizes of a model: Shape, and kind, window and kv_source of every layer. Precisions do not enter:
/// the hash says which programs fit a model, the formats in the packed file say which plan.
template <class Layers>
constexpr std::uint64_t shape_hash(const Shape& s, const Layers& layers) {
  std::uint64_t hash = 0xcbf29ce484222325u;
  const auto mix = [&hash](std::int64_t value) {
    for (int byte = 0; byte < 8; ++byte) hash = (hash ^ (std::uint64_t(value) >> (8 * byte) & 255u)) * 0x100000001b3u;
  };
  mix(int(s.family));
  for (const int value : {s.layers, s.hidden, s.vocab, s.heads, s.kv_heads, s.qk_dim, s.v_dim, s.inner, s.n_state,
                          s.conv_taps, s.dt_rank, s.ffn, s.meta, int(s.tied_head), s.rotary_dim, s.ssm_heads, s.ssm_groups,
                          s.norm_groups, int(s.norm_before_gate), int(s.inner_norms), int(s.inner_norm_weights),
                          int(s.qk_norm), int(s.conv_bias), int(s.in_proj_bias), int(s.out_proj_bias),
                          int(s.attention_bias), int(s.ffn_bias)})
    mix(value);
  for (const float value : {s.norm_eps, s.rope_theta, s.inner_norm_eps, s.dt_min, s.dt_max, s.embedding_scale, s.attention_scale})
    mix(std::bit_cast<std::uint32_t>(value));
  if (s.experts > 0)
    for (const int value : {s.experts, s.experts_used, s.expert_ffn, int(s.softmax_of_all)}) mix(value);
  if (s.router_groups > 0)
    for (const int value : {s.shared_ffn, s.expert_latent, s.router_groups, s.router_groups_used, int(s.router_normed),
                            std::bit_cast<int>(s.router_scale)})
      mix(value);
  if (s.adapter_rank > 0)
    for (const int value : {s.adapter_rank, int(s.attention_adapters)}) mix(value);
  if (s.scan_heads > 1) mix(s.scan_heads);
  if (s.least_rate > 0) mix(s.ssm_angles), mix(std::bit_cast<std::uint32_t>(s.least_rate));
  for (const auto& layer : layers) {
    if (layer.block_source >= 0) mix(layer.block_source);
    mix(layer.window);
    mix(layer.kv_source);
    mix(int(layer.mixer) << 8 | int(layer.ffn));
  }
  return hash;
}

template <class AnyPlan>
constexpr std::uint64_t shape_hash(const AnyPlan& plan) { return shape_hash(plan.shape, plan.layers); }

}  // namespace klens
