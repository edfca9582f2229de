// What ssd.hpp does once for 16 tokens and not along n: steps and decays of a head, the columns' x and y.
#pragma once

#include <klens/kernel/args.hpp>
#include <klens/kernel/state_round.hpp>
#include <klens/simd/math.hpp>

#include <bit>

namespace klens::inline KLENS_NS {
namespace ssd_detail {

/// Vectors of columns of a block.
inline constexpr int most_columns = 4;

template <State S>
inline constexpr float least_decay = S == State::f16 ? 0.5f : 0x1p-32f;

/// P of a state, which is zeros at first.
KLENS_INLINE float carried(const SsdArgs& a, std::int64_t item) { return a.decay[item] != 0 ? a.decay[item] : 1.0f; }

/// What 16 tokens of a head, or a token of 16 heads, need: step and decay first, then factor of x, power of two that g
/// takes, and P.
struct Factors {
  alignas(64) float step[lanes], shrink[lanes], u[lanes], grow[lanes], decay[lanes];
  unsigned rescaled;   // bit i: grow[i] != 1
};

/// dt before softplus and a2 in out.step and out.shrink; steps and decays that were made before stay.
KLENS_NOINLINE inline void begin(const SsdArgs& a, Factors& out) {
  out.rescaled = 0;
  if (a.step != nullptr) return;
  const v16f a2 = load(out.shrink), step = min(splat(a.dt_max), max(splat(a.dt_min), softplus(load(out.step))));
  store(out.step, step);
  store(out.shrink, exp2_below_127(max(splat(-90.0f), step * a2)));
}

/// Factors i, but for that of x, of the head and token whose P was p; returns its P.
template <State S>
KLENS_INLINE float advance(float p, int i, Factors& out) {
  p = p * out.shrink[i];
  out.grow[i] = 1;
  if (!(p >= least_decay<S>)) {
    const std::uint32_t word = std::bit_cast<std::uint32_t>(p);
    out.grow[i] = std::bit_cast<float>(word & 0x7f800000u);
    p = std::bit_cast<float>((word & 0x7fffffu) | 0x3f800000u);
    out.rescaled |= 1u << i;
  }
  return out.decay[i] = p;
}

/// Tokens t .. t + count - 1 of a head: lane = token. Returns P after the last.
template <State S>
KLENS_INLINE float begin_tokens(const SsdArgs& a, int head, int t, int count, float p, Factors& out) {
  if (a.step != nullptr) {
    store(out.step, zero());
    for (int i = 0; i < count; ++i) {
      const std::int64_t at = (t + i) * a.factor_stride + head;
      out.step[i] = a.step[at], out.shrink[i] = a.shrink[at];
    }
  } else {
    alignas(64) float raw[lanes] = {};
    for (int i = 0; i < count; ++i) raw[i] = a.dt[(t + i) * a.dt_stride + head];
    store(out.step, load(raw) + splat(a.dt_bias != nullptr ? a.dt_bias[head] : 0.0f)), store(out.shrink, splat(a.a2[head]));
  }
  begin(a, out);
  store(out.decay, splat(1.0f));
  for (int i = 0; i < count; ++i) p = advance<S>(p, i, out);
  store(out.u, load(out.step) / load(out.decay));
  return p;
}

/// Where 16 columns of a head stand.
struct Columns {
  std::int64_t at, lane;   // in a row of x, y and z; in a row of scales
  int n;
  void* state;
};

template <State S>
KLENS_INLINE Columns columns_of(const SsdArgs& a, int head, int vector) {
  const int left = a.head_dim - vector * lanes;
  const std::int64_t item = head * div_up(a.head_dim, lanes) + vector;
  return {std::int64_t(head) * a.head_dim + vector * lanes, item * lanes, left < lanes ? left : lanes,
          static_cast<state_detail::stored<S>*>(a.state) + item * lanes * a.n_state};
}

template <State S>
KLENS_INLINE state_detail::stored<S>* state_of(const Columns& c) { return static_cast<state_detail::stored<S>*>(c.state); }

/// Up to 16 tokens of some vectors of columns of a head: what enters each, and what is summed, [token][vector][lane].
struct Block {
  int head, vectors;
  std::int64_t group;   // first column of the head's group in a row of b and c
  Columns columns[most_columns];
  const Factors* with;
  int ahead;            // how many values behind its own a lone token fetches; 0: none
  alignas(64) float u[lanes * most_columns * lanes], sum[lanes * most_columns * lanes];
};

template <State S>
KLENS_INLINE void open(const SsdArgs& a, int head, int vector, int vectors, const Factors* with, int ahead, Block& block) {
  block.head = head, block.vectors = vectors, block.with = with, block.ahead = ahead;
  block.group = std::int64_t(head / (a.heads / a.groups)) * a.n_state;
  for (int j = 0; j < vectors; ++j) block.columns[j] = columns_of<S>(a, head, vector + j);
}

/// Tokens t .. t + count - 1, which have factors i .. . Their rows are pages apart, which no hardware walks: those of the
/// next tokens are fetched here.
KLENS_NOINLINE inline void begin_columns(const SsdArgs& a, int t, int count, int i, Block& block) {
  const int next = t + count, end = next + count < a.tokens ? next + count : a.tokens;
  for (int j = 0; j < block.vectors; ++j) {
    const Columns at = block.columns[j];
    for (int k = 0; k < count; ++k)
      store(block.u + ((i + k) * block.vectors + j) * lanes,
            splat(block.with->u[i + k]) * load_upto(a.x + (t + k) * a.x_stride + at.at, at.n));
    for (int k = next; k < end; ++k) {
      __builtin_prefetch(a.x + k * a.x_stride + at.at), __builtin_prefetch(a.y + k * a.y_stride + at.at, 1);
      if (a.z != nullptr) __builtin_prefetch(a.z + k * a.z_stride + at.at);
    }
  }
}

KLENS_NOINLINE inline void end_columns(const SsdArgs& a, int t, int count, int i, const Block& block) {
  const bool made = a.skip != nullptr;
  const float* const rows = made ? a.skip_x : a.x;
  const std::int64_t stride = made ? a.skip_stride : a.x_stride;
  v16f d = splat(!made && a.d != nullptr ? a.d[block.head] : 0.0f);
  for (int j = 0; j < block.vectors; ++j) {
    const Columns at = block.columns[j];
    for (int k = 0; k < count; ++k) {
      const v16f sum = load(block.sum + ((i + k) * block.vectors + j) * lanes);
      if (made) d = splat(a.skip[(t + k) * a.factor_stride + block.head]);
      v16f y = fma(splat(block.with->decay[i + k]), sum, d * load_upto(rows + (t + k) * stride + at.at, at.n));
      if (a.z != nullptr) y = y * silu(load_upto(a.z + (t + k) * a.z_stride + at.at, at.n));
      store_upto(a.y + (t + k) * a.y_stride + at.at, y, at.n);
    }
  }
}

}  // namespace ssd_detail
}  // namespace klens::inline KLENS_NS
