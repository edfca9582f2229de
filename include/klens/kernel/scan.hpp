// Selective scan of Mamba-1 (kernel/args.hpp, ScanArgs); lane = channel, one group of 16 channels at a time.
//
//   dt = softplus(dt_raw + dt_bias);   u = dt x
//   h[n] = fma(exp2(dt A2[n]), h[n], u B[t][n])                                    n = 0 .. n_state - 1
//   y = fma(h[N-1], C[t][N-1], ... fma(h[0], C[t][0], D x)),  then y silu(z) where there is a gate
//   h[n] = rounded to the state's format, after every token (kernel/state_round.hpp); y sees h before that
//
// One FMA chain over n ascending, started from D x; everything is elementwise in the lane, so chunking the tokens,
// stepping, or splitting the channels cannot change a bit. Any n_state up to scan_most_states. f32 and f16: tokens go
// four at a time (two with 16 registers), so h is read and written once for them and their chains overlap; a lone
// token takes two groups at a time. s16 and s8, whose scales need all of a token: one token at a time, h in L1.
// In the last, partial group only real channels are read (the rest counts as 0 and the state there stays 0), whole
// vectors are written. Bytes per token and channel: 16 read and written, plus B and C once per group. Cost per 16
// updates: 8 multiplications or FMA, 4 additions or maxima, 2 integer operations, a shuffle, 2 broadcasts; the first
// of these bound it: 8 cycles of a 16-lane FMA, exp2 alone 5.25 (21 of 4 x 256 bits on Zen 4).
// Error: max |err(h)| <= 2^-24 (8 + 2 / (1 - decay_max)) max |h| against float64 of the same inputs, in f32.
// Oracle: tests/oracle/sequence.hpp, scan_step; tests tests/kernel/scan.cpp (65 536 tokens).
#pragma once

#include <klens/kernel/args.hpp>
#include <klens/kernel/state_round.hpp>
#include <klens/simd/math.hpp>
#include <klens/simd/unroll.hpp>

namespace klens::inline KLENS_NS {
namespace scan_detail {

/// Tokens per pass over n. Zen 4, cycles per 16 updates of a long prefill with N = 16, all included: 1, 2, 4 tokens take
/// 19.7, 13.4, 12.0 with 512 bits, 1 and 2 take 24.8 and 18.6 with 256. Rounding to f16 takes the registers of half of
/// them.
template <State S>
inline constexpr int most_tokens =
#if defined(KLENS_HAS_AVX512)
    S == State::f32 ? 4 : 2;
#elif defined(KLENS_HAS_AVX2)
    S == State::f32 ? 2 : 1;
#else
    1;
#endif

/// A group of 16 channels, n of them real.
struct Group {
  std::int64_t first;
  int n;
  void* state;
};

template <State S>
KLENS_INLINE Group group_of(const ScanArgs& a, int index) {
  const std::int64_t first = std::int64_t(index) * lanes, left = a.channels - first;
  return {first, left < lanes ? int(left) : lanes, static_cast<state_detail::stored<S>*>(a.state) + first * a.n_state};
}

template <State S>
KLENS_INLINE state_detail::stored<S>* state_of(const Group& g) { return static_cast<state_detail::stored<S>*>(g.state); }

/// What a token needs apart from the state, in memory: one copy of softplus, and of silu below, serves all callers.
struct alignas(64) Start { float dt[lanes], u[lanes], y[lanes]; };

KLENS_NOINLINE inline void begin_token(const ScanArgs& a, int t, const Group& g, Start& out) {
  const v16f bias = a.dt_bias != nullptr ? load(a.dt_bias + g.first) : zero();
  const v16f x = load_upto(a.x + t * a.x_stride + g.first, g.n);
  const v16f dt = softplus(load_upto(a.dt + t * a.dt_stride + g.first, g.n) + bias);
  store(out.dt, dt), store(out.u, dt * x), store(out.y, load(a.d + g.first) * x);
}

KLENS_NOINLINE inline void end_token(const ScanArgs& a, int t, const Group& g, const float* sum) {
  v16f y = load(sum);
  if (a.z != nullptr) y = y * silu(load_upto(a.z + t * a.z_stride + g.first, g.n));
  store(a.y + t * a.y_stride + g.first, y);
}

/// The same in registers.
struct Token { v16f dt, u, y; };
KLENS_INLINE Token token_of(const Start& s) { return {load(s.dt), load(s.u), load(s.y)}; }

/// One state of 16 channels: h = decay h + u b, y += h c.
KLENS_INLINE void update(v16f& h, v16f& y, const Token& token, v16f a2, float b, float c) {
  h = fma(exp2_below_127(token.dt * a2), h, token.u * splat(b));
  y = fma(h, splat(c), y);
}

/// K tokens from t of G groups in one pass over n.
template <State S, int K, int G>
KLENS_NOINLINE void run(const ScanArgs& a, int t, const Group* group) {
  Start start[K * G];
  for (int i = 0; i < K * G; ++i) begin_token(a, t + i / G, group[i % G], start[i]);
  Token token[K * G];
  v16i words[K * G];
  unroll<K * G>([&](int i) KLENS_INLINE_LAMBDA {
    token[i] = token_of(start[i]);
    if constexpr (S == State::f16) words[i] = state_detail::token_words(a.key, group[i % G].first, a.position + t + i / G);
  });
  const std::int64_t padded = round_up(a.channels, lanes), b_stride = a.b_stride, c_stride = a.c_stride;
  const float* b = a.b + t * b_stride;
  const float* c = a.c + t * c_stride;
  state_detail::stored<S>* state[G];   // copies: vector stores may alias what a and group point to
  const float* a2[G];
  unroll<G>([&](int g) KLENS_INLINE_LAMBDA { state[g] = state_of<S>(group[g]), a2[g] = a.a2 + group[g].first; });
  const int states = a.n_state;
  state_detail::Stride stride;
  for (int n = 0; n < states; ++n) {
    unroll<G>([&](int g) KLENS_INLINE_LAMBDA {
      v16f h = state_detail::load_state(state[g] + n * lanes);
      const v16f rate = load(a2[g] + n * padded);
      unroll<K>([&](int k) KLENS_INLINE_LAMBDA {
        Token& one = token[k * G + g];
        update(h, one.y, one, rate, b[k * b_stride + n], c[k * c_stride + n]);
        if constexpr (S == State::f16) h = state_detail::round_half(h, stride.of(words[k * G + g]));
      });
      state_detail::store_state(state[g] + n * lanes, h);
    });
    if constexpr (S == State::f16) stride.next();
  }
  unroll<K * G>([&](int i) KLENS_INLINE_LAMBDA { store(start[i].y, token[i].y); });
  for (int i = 0; i < K * G; ++i) end_token(a, t + i / G, group[i % G], start[i].y);
}

template <State S>
KLENS_INLINE void scan_float(const ScanArgs& a) {
  constexpr int most = most_tokens<S>;
  int index = a.begin;
  if constexpr (S == State::f32 && most > 1)
    for (; a.tokens < most && index + 2 <= a.end; index += 2) {
      const Group group[2] = {group_of<S>(a, index), group_of<S>(a, index + 1)};
      for (int t = 0; t < a.tokens; ++t) run<S, 1, 2>(a, t, group);
    }
  for (; index < a.end; ++index) {
    const Group group = group_of<S>(a, index);
    int t = 0;
    if constexpr (most > 1)
      for (; t + most <= a.tokens; t += most) run<S, most, 1>(a, t, &group);
    for (; t < a.tokens; ++t) run<S, 1, 1>(a, t, &group);
  }
}

/// One group with a scale per channel: h of a token in `work`, its maximum, then all of it rounded.
template <State S>
KLENS_NOINLINE void scan_scaled(const ScanArgs& a) {
  KLENS_ASSERT(a.n_state <= scan_most_states);
  alignas(64) float work[scan_most_states * lanes];
  Start start;
  const std::int64_t padded = round_up(a.channels, lanes);
  for (int index = a.begin; index < a.end; ++index) {
    const Group group = group_of<S>(a, index);
    float* scale = a.scales + group.first;
    state_detail::widen_lanes<S>(work, a.n_state, state_of<S>(group), scale);
    for (int t = 0; t < a.tokens; ++t) {
      begin_token(a, t, group, start);
      Token token = token_of(start);
      v16i most = splat_i(0);
      const float* b = a.b + t * a.b_stride;
      const float* c = a.c + t * a.c_stride;
      for (int n = 0; n < a.n_state; ++n) {
        v16f h = load(work + n * lanes);
        update(h, token.y, token, load(a.a2 + n * padded + group.first), b[n], c[n]);
        most = state_detail::wider(most, h);
        store(work + n * lanes, h);
      }
      const v16i words = state_detail::token_words(a.key, group.first, a.position + t);
      state_detail::round_lanes<S>(work, a.n_state, most, words, state_of<S>(group), scale);
      store(start.y, token.y);
      end_token(a, t, group, start.y);
    }
  }
}

}  // namespace scan_detail

/// The scan of one state format; a.format is not read.
template <State S>
inline void scan_as(const ScanArgs& a) {
  static_assert(scan_state_format(S), "klens::scan_as<S>: S must be f32, f16, s16 or s8: no kernel rounds a scan state to s4");
  if constexpr (state_detail::scaled<S>) scan_detail::scan_scaled<S>(a);
  else scan_detail::scan_float<S>(a);
}

/// By a.format, which must be one that scan_state_format() knows.
inline void scan(const ScanArgs& a) {
  switch (a.format) {
    case State::f32: return scan_as<State::f32>(a);
    case State::f16: return scan_as<State::f16>(a);
    case State::s16: return scan_as<State::s16>(a);
    case State::s8: return scan_as<State::s8>(a);
    case State::s4: break;
  }
  __builtin_trap();
}

}  // namespace klens::inline KLENS_NS
