// What a plan costs, as constant expressions: static_assert(klens::weight_bytes(plan) <= 4 << 20).
//
//   weight_bytes   the payload of model.klens: lines, scales and padding of every linear (a tied table once), and the small
//                  tensors (norms, conv, A_log, D, biases, meta tokens) as the checkpoint has them
//   state_bytes    conv and scan state of one sequence           kv_bytes   K and V of one sequence at a context length,
//                  each in the formats of the plan; they are memory of a session and count in no payload
//   parameters     values of the checkpoint, tied tensors once; bits per weight = 8 weight_bytes / parameters
#pragma once

#include <klens/format/dline.hpp>
#include <klens/format/state.hpp>
#include <klens/plan/sites.hpp>

namespace klens {

/// Payload bytes of one linear.
KLENS_INLINE constexpr std::int64_t site_bytes(const Site& site) { return packed_bytes(site.precision, site.rows, site.cols); }

/// Bytes of all linears and the embedding.
template <class AnyPlan>
constexpr std::int64_t linear_bytes(const AnyPlan& plan) {
  std::int64_t total = 0;
  for_each_site(plan, [&total](const Site& site) { total += site_bytes(site); });
  return total;
}

/// Calls visit(values) for every tensor that no format applies to. Per layer: norms of the residual stream and of its shared block; of a convolution
/// weight and bias; A_log, D and dt bias of a scan (Mamba-3: no A_log, but biases of B and C); the norms inside the mixer; biases of linears; the router of
/// experts; then the final norm and the meta tokens.
template <class AnyPlan, class Visit>
constexpr void for_each_small(const AnyPlan& plan, Visit&& visit) {
  const Shape& s = plan.shape;
  const auto some = [&visit](bool there, std::int64_t values) { if (there) visit(values); };
  for (int layer = 0; layer < int(plan.layers.size()); ++layer) {
    const LayerPlan& l = plan.layers[std::size_t(layer)];
    const std::int64_t inner = s.inner, channels = conv_channels(s, l.mixer);
    some(l.mixer != Mixer::none, s.hidden);
    some(l.block_source == layer, 2 * std::int64_t(s.hidden));
    some(l.block_source == layer, s.hidden);
    some(l.ffn != Ffn::none, s.hidden);
    some(has_conv(l.mixer), channels * s.conv_taps);
    some(has_conv(l.mixer) && s.conv_bias, channels);
    if (has_scan(l.mixer)) {
      for (const std::int64_t values : {inner * s.n_state, inner, inner}) visit(values);
      for (const int width : {s.dt_rank, s.n_state, s.n_state}) some(s.inner_norms && s.inner_norm_weights, width);
    }
    if (has_ssd(l.mixer)) {
      for (int i = 0; i < 3; ++i) visit(std::int64_t(s.ssm_heads));
      some(s.norm_groups > 0, inner);
    }
    if (l.mixer == Mixer::mamba3) {
      const std::int64_t heads = s.ssm_heads, states = s.n_state;
      for (const std::int64_t values : {heads, heads, states, states, heads * states, heads * states}) visit(values);
      some(s.norm_groups > 0, inner);
    }
    for (int i = 0; i < 2; ++i) some(l.mixer == Mixer::hymba, inner);
    for (int i = 0; i < 2; ++i) some(has_attention(l.mixer) && s.qk_norm, s.qk_dim);
    for (const Role role : layer_roles)
      some(has_role(plan, layer, role) && has_bias(s, l.mixer, role), extent_of(s, l.mixer, owns_kv(plan.layers, layer), role).rows);
    some(has_experts(l.ffn), std::int64_t(s.experts) * s.hidden);
    some(l.ffn == Ffn::moe_relu2, s.experts);
  }
  visit(std::int64_t(s.hidden));
  some(s.meta > 0, std::int64_t(s.meta) * s.hidden);
}

template <class AnyPlan>
constexpr std::int64_t small_values(const AnyPlan& plan) {
  std::int64_t total = 0;
  for_each_small(plan, [&total](std::int64_t values) { total += values; });
  return total;
}

/// Their payload when all are stored in `value_bytes` bytes: each tensor is padded to 64.
template <class AnyPlan>
constexpr std::int64_t small_bytes(const AnyPlan& plan, int value_bytes = 2) {
  std::int64_t total = 0;
  for_each_small(plan, [&](std::int64_t values) { total += round_up(values * value_bytes, 64); });
  return total;
}

/// The payload of the packed file. `small`: bytes of the small tensors, where they are not all 16 bits wide.
template <class AnyPlan>
constexpr std::int64_t weight_bytes(const AnyPlan& plan, std::int64_t small) { return linear_bytes(plan) + small; }
template <class AnyPlan>
constexpr std::int64_t weight_bytes(const AnyPlan& plan) { return weight_bytes(plan, small_bytes(plan)); }

template <class AnyPlan>
constexpr std::int64_t parameters(const AnyPlan& plan) {
  std::int64_t total = small_values(plan);
  for_each_site(plan, [&total](const Site& site) { total += std::int64_t(site.rows) * site.cols; });
  return total;
}

template <class AnyPlan>
constexpr double bits_per_weight(const AnyPlan& plan, std::int64_t small) {
  return 8.0 * double(weight_bytes(plan, small)) / double(parameters(plan));
}
template <class AnyPlan>
constexpr double bits_per_weight(const AnyPlan& plan) { return bits_per_weight(plan, small_bytes(plan)); }

/// State of one layer and sequence: the convolution's last inputs, and the scan. Multiples of 64, as a session lays them out.
KLENS_INLINE constexpr std::int64_t conv_bytes(const Shape& s, const LayerPlan& l) {
  return has_conv(l.mixer) ? conv_state_bytes(l.conv.state, conv_channels(s, l.mixer), s.conv_taps) : 0;
}
KLENS_INLINE constexpr std::int64_t scan_bytes(const Shape& s, const LayerPlan& l) {
  return scan_bytes(s, l.mixer, l.scan.state);
}
/// K and V of one layer that owns its, at a capacity (kv_capacity).
KLENS_INLINE constexpr std::int64_t kv_bytes(const Shape& s, const LayerPlan& l, int capacity) {
  return has_attention(l.mixer) ? kv_bytes_per_layer(l.attention.state, s.kv_heads, s.qk_dim, s.v_dim, capacity) : 0;
}

/// Conv inputs and scan state, per sequence; they do not grow with its length.
template <class AnyPlan>
constexpr std::int64_t state_bytes(const AnyPlan& plan) {
  std::int64_t total = 0;
  for (const LayerPlan& l : plan.layers) total += conv_bytes(plan.shape, l) + scan_bytes(plan.shape, l);
  return total;
}

/// Positions a cache must hold for `context` tokens: meta tokens come first, blocks of 16.
KLENS_INLINE constexpr int kv_capacity(const Shape& s, int context) { return int(round_up(std::int64_t(s.meta) + context, lanes)); }

/// K and V of the layers that own theirs, per sequence.
template <class AnyPlan>
constexpr std::int64_t kv_bytes(const AnyPlan& plan, int context) {
  std::int64_t total = 0;
  for (int layer = 0; layer < int(plan.layers.size()); ++layer)
    if (owns_kv(plan.layers, layer)) total += kv_bytes(plan.shape, plan.layers[std::size_t(layer)], kv_capacity(plan.shape, context));
  return total;
}

/// Bytes of one state per sequence in a format; K and V: for `context` tokens.
template <class AnyPlan>
constexpr std::int64_t state_bytes(const AnyPlan& plan, const StateSite& site, int context) {
  LayerPlan l = plan.layers[std::size_t(site.layer)];
  state_of(l, site.kind) = site.format;
  if (site.kind == StateKind::scan) return scan_bytes(plan.shape, l);
  if (site.kind == StateKind::conv) return conv_bytes(plan.shape, l);
  return kv_bytes(plan.shape, l, kv_capacity(plan.shape, context));
}

}  // namespace klens
