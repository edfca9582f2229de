// State-space dual of Mamba-2 (kernel/args.hpp, SsdArgs), one token after the other; lane = column p of a head.
//
//   dt = clamp(softplus(dt_raw + dt_bias), dt_min, dt_max);   a = exp2(dt a2)       one number per head and token
//   P = P a;  where P falls below 2^-32:  g[n] = g[n] 2^e, P = P / 2^e, 2^e the power of two in P
//   g[n] = fma(dt / P x, B[n], g[n])                                                n = 0 .. n_state - 1
//   y = fma(P, sum_n g[n] C[n], D x),  then y silu(z) where there is a gate;  the state S[p][n] is P g[n]
//   g[n] = rounded to the state's format, after every token (kernel/state_round.hpp); y sees g before that
//
// The decay is the same for all of a head's values, so it is carried beside them: two FMA per value instead of three
// operations, and g is rounded once per token where S would be twice. Powers of two move between g and P exactly, at
// tokens that the data alone choose, so chunking or stepping cannot change a bit; one FMA chain over n ascending. (f16:
// below 1/2, so that |g| <= 2 |S| stays in the range of halves.) a is at least 2^-90: P stays a normal number.
// Tokens go four at a time over two vectors of columns (two over one with 16 registers): g is read and written once
// for them; a lone token takes two vectors. s16 and s8, whose scales need all of a token: one at
// a time, in L1. Columns beyond head_dim are 0 in the state and not written in y.
// Bytes per token: the state read and written once per tile of tokens. Cost per 16 values: 2 FMA.
// Error: max |err(S)| <= 2^-24 (8 + 3 / (1 - a_max)) max |S| against float64 of the same inputs, in f32: a, the product
// P and g each add one rounding per token. Oracle: tests/oracle/sequence.hpp, ssd_step and ssd_chunked (the dual form);
// tests tests/kernel/ssd.cpp (65 536 tokens).
#pragma once

#include <klens/kernel/args.hpp>
#include <klens/kernel/state_round.hpp>
#include <klens/simd/math.hpp>
#include <klens/simd/unroll.hpp>

#include <bit>

namespace klens::inline KLENS_NS {
namespace ssd_detail {

/// Tokens and vectors of columns per pass: sums and inputs take 2 K G registers of 32, or 4 K G of 16. Rounding to f16
/// takes the registers of the rest.
template <State S>
inline constexpr int most_tokens =
#if defined(KLENS_HAS_AVX512)
    S == State::f32 ? 4 : 2;
#elif defined(KLENS_HAS_AVX2)
    S == State::f32 ? 2 : 1;
#else
    1;
#endif
#if defined(KLENS_HAS_AVX512)
inline constexpr int most_columns = 2;   // in f32
#else
inline constexpr int most_columns = 1;
#endif
/// Of a token alone. Zen 4: 1, 2, 4 vectors take 3.9, 2.9, 3.6 cycles each, states in L2.
#if defined(KLENS_HAS_AVX2)
inline constexpr int lone_columns = 2;
#else
inline constexpr int lone_columns = 1;
#endif

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

/// Factors i of the head and token whose P was p; returns its P.
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
  out.decay[i] = p, out.u[i] = out.step[i] / p;
  return p;
}

/// Tokens t .. t + count - 1 of a head: lane = token. Returns P after the last.
template <State S>
KLENS_INLINE float begin_tokens(const SsdArgs& a, int head, int t, int count, float p, Factors& out) {
  if (a.step != nullptr) {
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
  for (int i = 0; i < count; ++i) p = advance<S>(p, i, out);
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

KLENS_NOINLINE inline void end_token(const SsdArgs& a, int head, int t, const Columns& c, float decay, const float* sum) {
  const v16f x = a.skip != nullptr ? load_upto(a.skip_x + t * a.skip_stride + c.at, c.n) : load_upto(a.x + t * a.x_stride + c.at, c.n);
  const float d = a.skip != nullptr ? a.skip[t * a.factor_stride + head] : a.d != nullptr ? a.d[head] : 0.0f;
  v16f y = fma(splat(decay), load(sum), splat(d) * x);
  if (a.z != nullptr) y = y * silu(load_upto(a.z + t * a.z_stride + c.at, c.n));
  store_upto(a.y + t * a.y_stride + c.at, y, c.n);
}

/// K tokens from t, tokens i .. of `with`, of G vectors of columns in one pass over n.
template <State S, int K, int G, bool Rescale>
KLENS_NOINLINE void run(const SsdArgs& a, int head, int t, const Factors& with, int i, const Columns* columns) {
  v16f u[K * G], sum[K * G];
  v16i words[K * G];
  unroll<K * G>([&](int j) KLENS_INLINE_LAMBDA {
    const Columns& at = columns[j % G];
    u[j] = splat(with.u[i + j / G]) * load_upto(a.x + (t + j / G) * a.x_stride + at.at, at.n);
    sum[j] = zero();
    if constexpr (S == State::f16) words[j] = state_detail::token_words(a.key, at.lane, a.position + t + j / G);
  });
  const std::int64_t group = head / (a.heads / a.groups);
  const float* b = a.b + t * a.b_stride + group * a.n_state;
  const float* c = a.c + t * a.c_stride + group * a.n_state;
  const std::int64_t b_stride = a.b_stride, c_stride = a.c_stride;   // copies: vector stores may alias what a points to
  state_detail::stored<S>* state[G];
  unroll<G>([&](int j) KLENS_INLINE_LAMBDA { state[j] = state_of<S>(columns[j]); });
  const int states = a.n_state;
  state_detail::Stride stride;
  for (int n = 0; n < states; ++n) {
    v16f g[G];
    unroll<G>([&](int j) KLENS_INLINE_LAMBDA { g[j] = state_detail::load_state(state[j] + n * lanes); });
    unroll<K>([&](int k) KLENS_INLINE_LAMBDA {
      const v16f bn = splat(b[k * b_stride + n]), cn = splat(c[k * c_stride + n]);
      unroll<G>([&](int j) KLENS_INLINE_LAMBDA {
        if constexpr (Rescale) g[j] = g[j] * splat(with.grow[i + k]);
        g[j] = fma(u[k * G + j], bn, g[j]);
        sum[k * G + j] = fma(g[j], cn, sum[k * G + j]);
        if constexpr (S == State::f16) g[j] = state_detail::round_half(g[j], stride.of(words[k * G + j]));
      });
    });
    unroll<G>([&](int j) KLENS_INLINE_LAMBDA { state_detail::store_state(state[j] + n * lanes, g[j]); });
    if constexpr (S == State::f16) stride.next();
  }
  alignas(64) float sums[K * G * lanes];
  unroll<K * G>([&](int j) KLENS_INLINE_LAMBDA { store(sums + j * lanes, sum[j]); });
  for (int j = 0; j < K * G; ++j)
    end_token(a, head, t + j / G, columns[j % G], with.decay[i + j / G], sums + j * lanes);
}

/// Few tokens rescale: the others are spared the multiplication where there is much of them.
template <State S, int K, int G>
KLENS_INLINE void run_tile(const SsdArgs& a, int head, int t, const Factors& with, int i, const Columns* columns) {
  constexpr bool apart = S == State::f32 && K * G > 1;
  if (!apart || (with.rescaled >> i & ((1u << K) - 1u)) != 0) run<S, K, G, true>(a, head, t, with, i, columns);
  else run<S, K, G, !apart>(a, head, t, with, i, columns);
}

/// G vectors of columns of one head, all tokens.
template <State S, int K, int G>
KLENS_INLINE void run_columns(const SsdArgs& a, int head, int vector) {
  Columns columns[G];
  for (int j = 0; j < G; ++j) columns[j] = columns_of<S>(a, head, vector + j);
  const std::int64_t item = head * div_up(a.head_dim, lanes) + vector;
  float p = carried(a, item);
  Factors with;
  for (int t = 0; t < a.tokens; t += lanes) {
    const int count = a.tokens - t < lanes ? a.tokens - t : lanes;
    p = begin_tokens<S>(a, head, t, count, p, with);
    int i = 0;
    if constexpr (K > 1)
      for (; i + K <= count; i += K) run_tile<S, K, G>(a, head, t + i, with, i, columns);
    for (; i < count; ++i) run_tile<S, 1, G>(a, head, t + i, with, i, columns);
  }
  for (int j = 0; j < G; ++j) a.decay[item + j] = p;
}

/// One vector of columns with a scale per column.
template <State S>
KLENS_NOINLINE void run_scaled(const SsdArgs& a, int head, int vector) {
  KLENS_ASSERT(a.n_state <= scan_most_states);
  alignas(64) float work[scan_most_states * lanes];
  const Columns columns = columns_of<S>(a, head, vector);
  float* scale = a.scales + columns.lane;
  state_detail::widen_lanes<S>(work, a.n_state, state_of<S>(columns), scale);
  const std::int64_t item = head * div_up(a.head_dim, lanes) + vector;
  float p = carried(a, item);
  const std::int64_t group = head / (a.heads / a.groups);
  Factors with;
  for (int t = 0; t < a.tokens; ++t) {
    const int i = t % lanes, left = a.tokens - t;
    if (i == 0) p = begin_tokens<S>(a, head, t, left < lanes ? left : lanes, p, with);
    const v16f u = splat(with.u[i]) * load_upto(a.x + t * a.x_stride + columns.at, columns.n), grow = splat(with.grow[i]);
    const float* b = a.b + t * a.b_stride + group * a.n_state;
    const float* c = a.c + t * a.c_stride + group * a.n_state;
    v16f sum = zero();
    v16i most = splat_i(0);
    for (int n = 0; n < a.n_state; ++n) {
      const v16f g = fma(u, splat(b[n]), load(work + n * lanes) * grow);
      sum = fma(g, splat(c[n]), sum);
      most = state_detail::wider(most, g);
      store(work + n * lanes, g);
    }
    const v16i words = state_detail::token_words(a.key, columns.lane, a.position + t);
    state_detail::round_lanes<S>(work, a.n_state, most, words, state_of<S>(columns), scale);
    alignas(64) float sums[lanes];
    store(sums, sum);
    end_token(a, head, t, columns, with.decay[i], sums);
  }
  a.decay[item] = p;
}

/// Token t of all items: its steps and decays with lane = head, so that no head waits for its own.
template <State S>
KLENS_INLINE void run_lone(const SsdArgs& a, int t) {
  const int vectors = int(div_up(a.head_dim, lanes)), heads = int(div_up(a.end, vectors));
  Factors with;
  for (int first = a.begin / vectors; first < heads; first += lanes) {
    const int count = heads - first < lanes ? heads - first : lanes;
    if (a.step != nullptr) {
      const std::int64_t at = t * a.factor_stride + first;
      store(with.step, load_n(a.step + at, count)), store(with.shrink, load_n(a.shrink + at, count));
    } else {
      const v16f bias = a.dt_bias != nullptr ? load_n(a.dt_bias + first, count) : zero();
      store(with.step, load_n(a.dt + t * a.dt_stride + first, count) + bias), store(with.shrink, load_n(a.a2 + first, count));
    }
    begin(a, with);
    for (int i = 0; i < count; ++i) {
      const int head = first + i, from = head * vectors, to = from + vectors;
      int item = from < a.begin ? a.begin : from;
      const int end = to < a.end ? to : a.end;
      const float p = advance<S>(carried(a, item), i, with);
      for (int j = item; j < end; ++j) a.decay[j] = p;
      Columns columns[lone_columns];
      if constexpr (S == State::f32 && lone_columns > 1)
        for (; item + lone_columns <= end; item += lone_columns) {
          for (int j = 0; j < lone_columns; ++j) columns[j] = columns_of<S>(a, head, item - from + j);
          run_tile<S, 1, lone_columns>(a, head, t, with, i, columns);
        }
      for (; item < end; ++item) {
        columns[0] = columns_of<S>(a, head, item - from);
        run_tile<S, 1, 1>(a, head, t, with, i, columns);
      }
    }
  }
}

}  // namespace ssd_detail

/// The recurrence of one state format; a.format is not read.
template <State S>
inline void ssd_as(const SsdArgs& a) {
  static_assert(scan_state_format(S), "klens::ssd_as<S>: S must be f32, f16, s16 or s8: no kernel rounds a scan state to s4");
  using namespace ssd_detail;
  const int vectors = int(div_up(a.head_dim, lanes));
  if constexpr (state_detail::scaled<S>) {
    for (int item = a.begin; item < a.end; ++item) run_scaled<S>(a, item / vectors, item % vectors);
  } else if (a.tokens < most_tokens<S>) {
    for (int t = 0; t < a.tokens; ++t) run_lone<S>(a, t);
  } else {
    for (int item = a.begin; item < a.end;) {
      const int head = item / vectors, vector = item % vectors;
      const bool wide = S == State::f32 && vector + most_columns <= vectors && item + most_columns <= a.end;
      if (wide) run_columns<S, most_tokens<S>, S == State::f32 ? most_columns : 1>(a, head, vector);
      else run_columns<S, most_tokens<S>, 1>(a, head, vector);
      item += wide ? most_columns : 1;
    }
  }
}

/// By a.format, which must be one that scan_state_format() knows.
inline void ssd(const SsdArgs& a) {
  switch (a.format) {
    case State::f32: return ssd_as<State::f32>(a);
    case State::f16: return ssd_as<State::f16>(a);
    case State::s16: return ssd_as<State::s16>(a);
    case State::s8: return ssd_as<State::s8>(a);
    case State::s4: break;
  }
  __builtin_trap();
}

}  // namespace klens::inline KLENS_NS
