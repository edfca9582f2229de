// What a plan costs, as constant expressions: static_assert(klens::weight_bytes(plan) <= 4 << 20).
//
//   weight_bytes   the payload of model.klens: lines, scales and padding of every linear (a tied table once), and the small
//                  tensors (norms, conv, A_log, D, biases, meta tokens) as the checkpoint has them
//   state_bytes    conv and scan state of one sequence           kv_bytes   K and V of one sequence at a context length
//   parameters     values of the checkpoint, tied tensors once; bits per weight = 8 weight_bytes / parameters
#pragma once

#include <klens/format/dline.hpp>
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

/// Calls visit(values) for every tensor that no format applies to. Per layer: two norms of the residual stream, two of the
/// paths, the norms of dt, B and C, conv weight and bias, A_log, D, dt bias; then the final norm and the meta tokens.
template <class Visit>
constexpr void for_each_small(const Shape& s, Visit&& visit) {
  const std::int64_t inner = s.inner;
  for (int layer = 0; layer < s.layers; ++layer)
    for (const std::int64_t values : {std::int64_t(s.hidden), std::int64_t(s.hidden), inner, inner, std::int64_t(s.dt_rank),
                                      std::int64_t(s.n_state), std::int64_t(s.n_state), inner * s.conv_taps, inner,
                                      inner * s.n_state, inner, inner})
      visit(values);
  visit(std::int64_t(s.hidden));
  if (s.meta > 0) visit(std::int64_t(s.meta) * s.hidden);
}

constexpr std::int64_t small_values(const Shape& s) {
  std::int64_t total = 0;
  for_each_small(s, [&total](std::int64_t values) { total += values; });
  return total;
}

/// Their payload when all are stored in `value_bytes` bytes: each tensor is padded to 64.
constexpr std::int64_t small_bytes(const Shape& s, int value_bytes = 2) {
  std::int64_t total = 0;
  for_each_small(s, [&](std::int64_t values) { total += round_up(values * value_bytes, 64); });
  return total;
}

/// The payload of the packed file. `small`: bytes of the small tensors, where they are not all 16 bits wide.
template <class AnyPlan>
constexpr std::int64_t weight_bytes(const AnyPlan& plan, std::int64_t small) { return linear_bytes(plan) + small; }
template <class AnyPlan>
constexpr std::int64_t weight_bytes(const AnyPlan& plan) { return weight_bytes(plan, small_bytes(plan.shape)); }

template <class AnyPlan>
constexpr std::int64_t parameters(const AnyPlan& plan) {
  std::int64_t total = small_values(plan.shape);
  for_each_site(plan, [&total](const Site& site) { total += std::int64_t(site.rows) * site.cols; });
  return total;
}

template <class AnyPlan>
constexpr double bits_per_weight(const AnyPlan& plan, std::int64_t small) {
  return 8.0 * double(weight_bytes(plan, small)) / double(parameters(plan));
}
template <class AnyPlan>
constexpr double bits_per_weight(const AnyPlan& plan) { return bits_per_weight(plan, small_bytes(plan.shape)); }

/// Conv inputs and scan state, per sequence; they do not grow with its length.
KLENS_INLINE constexpr std::int64_t state_bytes(const Shape& s) {
  const std::int64_t channels = round_up(s.inner, lanes);
  return s.layers * channels * (s.conv_taps - 1 + s.n_state) * 4;
}

/// Positions a cache must hold for `context` tokens: meta tokens come first, blocks of 16.
KLENS_INLINE constexpr int kv_capacity(const Shape& s, int context) { return int(round_up(std::int64_t(s.meta) + context, lanes)); }

/// K and V of the layers that own theirs, per sequence.
template <class AnyPlan>
constexpr std::int64_t kv_bytes(const AnyPlan& plan, int context) {
  const Shape& s = plan.shape;
  const std::int64_t per_layer = std::int64_t(s.kv_heads) * kv_capacity(s, context) * (s.qk_dim + round_up(s.v_dim, lanes)) * 4;
  std::int64_t total = 0;
  for (int layer = 0; layer < int(plan.layers.size()); ++layer)
    if (owns_kv(plan.layers, layer)) total += per_layer;
  return total;
}

}  // namespace klens
