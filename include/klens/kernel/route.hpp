// Router of a mixture of experts, and the sum of what the experts gave (kernel/args.hpp: RouteArgs, AddRowsArgs).
//
//   z = R x,  chosen = the `used` greatest z (ties: lowest index first), ascending
//   weight[e] = exp(z[e] - m) / sum exp(z - m),  m = max z,  summed over all experts or over the chosen
//   with groups (Nemotron-3):  weight[e] = scale s[e], s = sigmoid(z), where asked over 1e-20 + the sum of the chosen s; chosen by
//   s + bias, among the groups whose two greatest s + bias add up to most
//
// 16 lanes are 16 experts: R is read by columns, in four chains of hidden / 4 multiply-adds, added as (0 + 1) + (2 + 3). The order
// is a token's own, so that bits do not depend on the cut of the tokens. Bytes per token: 4 hidden experts of R, from cache
// behind the first; 16 experts of 4096 columns take 4096 multiply-adds of 16 lanes, some 1 us.
// Error: logits hidden 2^-24 sum |R x|; weights 2^-21 + 2^-24 (m - z) relative to those of the
// same logits in float64. Oracle and test:
// tests/kernel/route.cpp.
#pragma once

#include <klens/kernel/args.hpp>
#include <klens/simd/math.hpp>

namespace klens::inline KLENS_NS {
namespace route_detail {

KLENS_INLINE v16f logits_of(const float* x, const float* router, std::int64_t stride, int hidden) {
  v16f part[4] = {zero(), zero(), zero(), zero()};
  int k = 0;
  for (; k + 4 <= hidden; k += 4)
    for (int c = 0; c < 4; ++c) part[c] = fma(splat(x[k + c]), load(router + (k + c) * stride), part[c]);
  for (int c = 0; k + c < hidden; ++c) part[c] = fma(splat(x[k + c]), load(router + (k + c) * stride), part[c]);
  return (part[0] + part[1]) + (part[2] + part[3]);
}

/// exp(z - m) of 16 logits of which n count; 0 behind them, and where z is so far below that exp is clamped.
KLENS_INLINE v16f exp_of(const float* z, v16f m, int n) {
  const v16f x = load(z) - m;
  const v16f e = select(lt(x, splat(-87.0f)), zero(), exp_below_88(x));
  return n >= lanes ? e : select(first_n(n), e, zero());
}

/// The greatest logit that is none of chosen[0, count).
KLENS_INLINE int next_best(const float* z, int experts, const std::int32_t* chosen, int count) {
  int best = -1;
  for (int e = 0; e < experts; ++e) {
    bool taken = false;
    for (int i = 0; i < count; ++i) taken = taken || chosen[i] == e;
    if (!taken && (best < 0 || z[e] > z[best])) best = e;
  }
  return best;
}

KLENS_INLINE void sort_ascending(std::int32_t* values, int count) {
  for (int i = 1; i < count; ++i)
    for (int k = i; k > 0 && values[k - 1] > values[k]; --k) {
      const std::int32_t v = values[k];
      values[k] = values[k - 1], values[k - 1] = v;
    }
}

/// s + bias of all experts, those of groups that are not taken below any number.
KLENS_NOINLINE inline void choices_of(const RouteArgs& a, const float* z, float* choice) {
  for (int e = 0; e < a.experts; e += lanes) store(choice + e, sigmoid(load(z + e)) + load(a.bias + e));
  if (a.groups <= a.groups_used) return;
  const int each = a.experts / a.groups;
  float best[route_most_experts];
  std::int32_t taken[route_most_experts];
  for (int g = 0; g < a.groups; ++g) {
    const float* of = choice + g * each;
    const int first = next_best(of, each, nullptr, 0), second = next_best(of, each, &first, 1);
    best[g] = of[first] + of[second];
  }
  for (int i = 0; i < a.groups_used; ++i) taken[i] = next_best(best, a.groups, taken, i);
  for (int g = 0; g < a.groups; ++g) {
    bool kept = false;
    for (int i = 0; i < a.groups_used; ++i) kept = kept || taken[i] == g;
    for (int e = g * each; !kept && e < (g + 1) * each; ++e) choice[e] = -__builtin_inff();
  }
}

}  // namespace route_detail

inline void route(const RouteArgs& a) {
  using namespace route_detail;
  const std::int64_t stride = round_up(a.experts, lanes), weight_stride = round_up(a.used, lanes);
  alignas(64) float choice[route_most_experts];
  for (int t = a.begin; t < a.end; ++t) {
    float* z = a.logits + t * stride;
    std::int32_t* chosen = a.chosen + t * a.used;
    float* weight = a.weight + t * weight_stride;
    for (int e = 0; e < a.experts; e += lanes) store(z + e, logits_of(a.x + t * a.x_stride, a.router + e, stride, a.hidden));
    const bool grouped = a.groups > 0;
    if (grouped) choices_of(a, z, choice);
    for (int i = 0; i < a.used; ++i) chosen[i] = next_best(grouped ? choice : z, a.experts, chosen, i);
    const v16f m = splat(z[chosen[0]]);
    sort_ascending(chosen, a.used);
    for (int i = 0; i < a.used; ++i) weight[i] = z[chosen[i]];
    for (std::int64_t i = a.used; i < weight_stride; ++i) weight[i] = 0;
    v16f total = zero();
    if (grouped) {
      for (int i = 0; i < a.used; i += lanes) {
        const v16f s = sigmoid(load(weight + i)), real = a.used - i >= lanes ? s : select(first_n(a.used - i), s, zero());
        total = total + real, store(weight + i, real);
      }
      const v16f by = splat(a.scale), all = splat(sum(total) + 1e-20f);
      for (int i = 0; i < a.used; i += lanes) store(weight + i, (a.normed ? load(weight + i) / all : load(weight + i)) * by);
      continue;
    }
    const float* from = a.softmax_of_all ? z : weight;
    const int count = a.softmax_of_all ? a.experts : a.used;
    for (int e = 0; e < count; e += lanes) total = total + exp_of(from + e, m, count - e);
    const v16f all = splat(sum(total));
    for (int i = 0; i < a.used; i += lanes) store(weight + i, exp_of(weight + i, m, a.used - i) / all);
  }
}

inline void add_rows(const AddRowsArgs& a) {
  for (int i = a.begin; i < a.end; ++i) {
    const float* y = a.y + i * a.stride;
    float* x = a.x + a.row[i] * a.stride;
    const v16f weight = splat(a.weight[i]);
    for (int c = 0; c < a.width; c += lanes) store(x + c, fma(weight, load(y + c), load(x + c)));
  }
}

}  // namespace klens::inline KLENS_NS
