// Sites: every linear of a plan once, in the order of the packed file, for whoever sums, emits or checks over all of them.
// Works on Plan<N> (constexpr) and on RuntimePlan alike: both have shape, embedding, lm_head and layers.
#pragma once

#include <klens/plan/plan.hpp>

#include <bit>

namespace klens {

/// The linears of one layer, in the order of the forward pass.
inline constexpr Role layer_roles[] = {Role::in_proj, Role::x_proj, Role::dt_proj, Role::out_proj,
                                       Role::gate_proj, Role::up_proj, Role::down_proj};

/// One linear of a plan. `layer` is -1 for the model's own two.
struct Site {
  Role role = Role::embedding;
  int layer = -1;
  int rows = 0, cols = 0;
  Precision precision = {};
};

template <class Layers>
KLENS_INLINE constexpr bool owns_kv(const Layers& layers, int layer) {
  return layers[std::size_t(layer)].kv_source == layer;
}

/// Calls visit(Site) for the embedding, the head where it is not tied, and every linear of every layer.
template <class AnyPlan, class Visit>
constexpr void for_each_site(const AnyPlan& plan, Visit&& visit) {
  const Extent table = extent_of(plan.shape, true, Role::embedding);
  visit(Site{Role::embedding, -1, table.rows, table.cols, plan.embedding});
  if (!plan.shape.tied_head) visit(Site{Role::lm_head, -1, table.rows, table.cols, plan.lm_head});
  for (int layer = 0; layer < int(plan.layers.size()); ++layer)
    for (const Role role : layer_roles) {
      const Extent e = extent_of(plan.shape, owns_kv(plan.layers, layer), role);
      visit(Site{role, layer, e.rows, e.cols, precision_of(plan.layers[std::size_t(layer)], role)});
    }
}

/// FNV-1a, 64 bits, over the sizes of a model: Shape, and window and kv_source of every layer. Precisions do not enter: the
/// hash says which programs fit a model, the formats in the packed file say which plan.
template <class Layers>
constexpr std::uint64_t shape_hash(const Shape& s, const Layers& layers) {
  std::uint64_t hash = 0xcbf29ce484222325u;
  const auto mix = [&hash](std::int64_t value) {
    for (int byte = 0; byte < 8; ++byte) hash = (hash ^ (std::uint64_t(value) >> (8 * byte) & 255u)) * 0x100000001b3u;
  };
  mix(int(s.family));
  for (const int value : {s.layers, s.hidden, s.vocab, s.heads, s.kv_heads, s.qk_dim, s.v_dim, s.inner, s.n_state,
                          s.conv_taps, s.dt_rank, s.ffn, s.meta, int(s.tied_head)})
    mix(value);
  mix(std::bit_cast<std::uint32_t>(s.norm_eps));
  mix(std::bit_cast<std::uint32_t>(s.rope_theta));
  for (const auto& layer : layers) {
    mix(layer.window);
    mix(layer.kv_source);
  }
  return hash;
}

template <class AnyPlan>
constexpr std::uint64_t shape_hash(const AnyPlan& plan) { return shape_hash(plan.shape, plan.layers); }

}  // namespace klens
