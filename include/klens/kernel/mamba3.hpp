// Mamba-3, one input and one output per head (state-spaces, 2026; kernel/sequence_args.hpp, Mamba3Args): what turns its
// recurrence into that of kernel/ssd.hpp.
//
//   dt = softplus(dt_raw + dt_bias);  rate = max(r(a_raw), least_rate), r(v) = 1 + v for v >= 0, 1 / (1 - v) below
//   decay = exp(-rate dt);  l = sigmoid(trap_raw);  turns += tanh(angle) dt / 2, one angle per pair of state columns and head
//   k = turned(B + b_bias), q = turned(C + c_bias):  pair i = columns 2 i and 2 i + 1 by turns[i], those beyond the angles as they are
//   S_t = decay S_{t-1} + (1 - l) dt decay x_{t-1} k_{t-1}^T + l dt x_t k_t^T;   y = S_t q + D x_t       (the trapezoidal rule)
//
// x_t k_t enters S twice, at t and at t + 1. With W_t = S_t - l_t dt_t x_t k_t^T both meet in one product:
//
//   W_t = decay_t W_{t-1} + step_t x_{t-1} k_{t-1}^T,   step_t = decay_t (l_{t-1} dt_{t-1} + (1 - l_t) dt_t)
//   y_t = W_t q_t + skip_t x_t,                         skip_t = D + l_t dt_t (k_t . q_t)
//
// two FMA per value as Mamba-2, where the rule as it stands takes three. This kernel makes step, decay, skip, q, and k and x one
// token late; what the next token needs is state (turns, gain = l dt, last_key, last_x), in f32 whatever S is kept in: turns and
// dt are integrated, an error in them grows with the text.
// Columns of k and q: the first ones of all pairs, then the second ones. Turns, not radians: t - round(t) is exact, where an angle
// mod 2 pi is not.
// Tokens one after the other, lane = head for the factors, lane = pair for k and q; nothing but the state passes from token to
// token, so chunking or splitting the heads cannot change a bit. Cost per pair: 8 FMA and 25 operations for sine and cosine.
// Zen 4, 24 heads of 64 columns and 128 states: 1.8 us a token (256 bits: 2.7), where ssd takes 8.
// Error against float64: tests/kernel/mamba3.cpp (with ssd, 65 536 tokens). Oracle: tests/oracle/mamba3.hpp.
#pragma once

#include <klens/kernel/args.hpp>
#include <klens/simd/math.hpp>

namespace klens::inline KLENS_NS {
namespace mamba3_detail {

/// Rows of B and C of one group and token, pairs taken apart.
struct Pairs {
  alignas(64) float b[scan_most_states], c[scan_most_states];
};

KLENS_NOINLINE inline void take_apart(const Mamba3Args& a, int t, int group, Pairs& out) {
  const float* b = a.b + t * a.stride + group * a.n_state;
  const float* c = a.c + t * a.stride + group * a.n_state;
  const int half = a.n_state / 2;
  for (int i = 0; i < half; ++i) {
    out.b[i] = b[2 * i], out.b[half + i] = b[2 * i + 1];
    out.c[i] = c[2 * i], out.c[half + i] = c[2 * i + 1];
  }
}

struct Pair { v16f first, second; };

KLENS_INLINE Pair biased(const float* row, const float* bias, int i, int half, int n) {
  return {load_upto(row + i, n) + load_upto(bias + i, n), load_upto(row + half + i, n) + load_upto(bias + half + i, n)};
}

KLENS_INLINE Pair rotated(const Pair& p, const Turned& by) {
  return {fnma(p.second, by.sin, p.first * by.cos), fma(p.first, by.sin, p.second * by.cos)};
}

KLENS_INLINE void put(const Pair& p, float* row, int i, int half, int n) {
  store_upto(row + i, p.first, n), store_upto(row + half + i, p.second, n);
}

/// k and q of a head and token; returns their product. half_turn: tanh(angle) / 2 of all angles, then zeros.
KLENS_NOINLINE inline float key_and_query(const Mamba3Args& a, int head, const Pairs& rows, const float* half_turn, float dt,
                                          float* key, float* query) {
  const int half = a.n_state / 2;
  const float* b_bias = a.b_bias + std::int64_t(head) * a.n_state;
  const float* c_bias = a.c_bias + std::int64_t(head) * a.n_state;
  float* turns = a.turns + head * round_up(a.angles, lanes);
  v16f product = zero();
  for (int i = 0; i < half; i += lanes) {
    const int n = half - i < lanes ? half - i : lanes;
    Pair k = biased(rows.b, b_bias, i, half, n), q = biased(rows.c, c_bias, i, half, n);
    if (i < a.angles) {
      v16f turn = fma(load(half_turn + i), splat(dt), load(turns + i));
      turn = turn - round_even(turn);
      store(turns + i, turn);
      const Turned by = turned(turn);
      k = rotated(k, by), q = rotated(q, by);
    }
    put(k, key, i, half, n), put(q, query, i, half, n);
    product = fma(k.second, q.second, fma(k.first, q.first, product));
  }
  return sum(product);
}

/// Factors of up to 16 heads and a token; dt is left for the rotation, gain * k . q for skip.
struct Factors { alignas(64) float dt[lanes], gain[lanes]; };

KLENS_NOINLINE inline void make_factors(const Mamba3Args& a, int t, int head, int n, Factors& out) {
  const std::int64_t row = t * a.stride + head, factors = t * a.factor_stride + head;
  const v16f dt = softplus(load_upto(a.dt + row, n) + load_upto(a.dt_bias + head, n));
  const v16f raw = load_upto(a.a + row, n), one = splat(1.0f);
  const v16f rate = max(splat(a.least_rate), select(lt(raw, zero()), one / (one - raw), one + raw));
  const v16f decay = exp2_below_127(max(splat(-90.0f), rate * splat(-0x1.715476p+0f) * dt));
  const v16f gain = sigmoid(load_upto(a.trap + row, n)) * dt, before = load_upto(a.gain + head, n);
  store_upto(a.step + factors, decay * (before + (dt - gain)), n);
  store_upto(a.shrink + factors, decay, n);
  store_upto(a.gain + head, gain, n);
  store(out.dt, dt), store(out.gain, gain);
}

KLENS_INLINE void copy(const float* from, float* to, int n) { __builtin_memcpy(to, from, std::size_t(n) * sizeof(float)); }

}  // namespace mamba3_detail

inline void mamba3_inputs(const Mamba3Args& a) {
  using namespace mamba3_detail;
  KLENS_ASSERT(a.n_state <= scan_most_states && a.n_state % 2 == 0 && 2 * a.angles <= a.n_state);
  Pairs rows;
  Factors factors;
  alignas(64) float half_turn[scan_most_states / 2] = {}, products[lanes] = {};
  const int each = a.heads / a.groups;
  for (int head = a.begin; head < a.end; ++head) {
    copy(a.last_key + head * a.n_state, a.key + head * a.n_state, a.n_state);
    copy(a.last_x + head * a.head_dim, a.delayed + head * a.head_dim, a.head_dim);
  }
  for (int t = 0; t < a.tokens; ++t) {
    for (int i = 0; i < a.angles; i += lanes) {
      const int n = a.angles - i;
      store(half_turn + i, tanh(load_upto(a.angle + t * a.stride + i, n)) * splat(0.5f));
    }
    const bool last = t + 1 == a.tokens;
    int group = -1;
    for (int first = a.begin; first < a.end; first += lanes) {
      const int n = a.end - first < lanes ? a.end - first : lanes;
      make_factors(a, t, first, n, factors);
      for (int i = 0; i < n; ++i) {
        const int head = first + i;
        if (head / each != group) group = head / each, take_apart(a, t, group, rows);
        float* next_key = last ? a.last_key : a.key + (t + 1) * a.key_stride;
        float* next_x = last ? a.last_x : a.delayed + (t + 1) * a.delayed_stride;
        products[i] = key_and_query(a, head, rows, half_turn, factors.dt[i], next_key + head * a.n_state,
                                    a.query + t * a.key_stride + head * a.n_state);
        copy(a.x + t * a.stride + head * a.head_dim, next_x + head * a.head_dim, a.head_dim);
      }
      store_upto(a.skip + t * a.factor_stride + first, fma(load(factors.gain), load(products), load_upto(a.d + first, n)), n);
    }
  }
}

}  // namespace klens::inline KLENS_NS
