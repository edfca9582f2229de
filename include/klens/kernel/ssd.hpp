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
//
// f32: four tokens a pass over two vectors of columns (two over one with 16 registers): g is read and written once for
// them. What is not a pass over n (factors, D x, gates: ssd_block.hpp) is done for 16 tokens at a time, chunks of 64 go
// through all heads, so that b and c stay near: 80 % of the FMA peak, where a pass that did its own reached 66 (Zen 4,
// avx512, 24 heads of 64, 128 states, 512 tokens). A lone token fetches 16 KiB ahead, since two streams of 8 KiB are too
// short for the hardware: 46 % of a walk of the same bytes became 84 and more (states in L3). f16, s16, s8: one token a
// pass, of 64 columns on 512 bits, so that the chains over n, sum and noise, hide each other: 4.6 to 5.0 cycles per 16 values
// on Zen 5, where FMA alone take 1 and rounding does the rest. Columns beyond head_dim are 0 in the state and not written in y.
// Steps, decays and what multiplies x in y may come ready made (Mamba-3: kernel/mamba3.hpp).
// Bytes per token: the state read and written once per tile of tokens. Cost per 16 values: 2 FMA.
// Error: max |err(S)| <= 2^-24 (8 + 3 / (1 - a_max)) max |S| against float64 of the same inputs, in f32: a, the product
// P and g each add one rounding per token. Oracle: tests/oracle/sequence.hpp, ssd_step and ssd_chunked (the dual form);
// tests tests/kernel/ssd.cpp (65 536 tokens).
#pragma once

#include <klens/isa/native.hpp>
#include <klens/kernel/ssd_block.hpp>
#include <klens/simd/unroll.hpp>

#include <type_traits>

namespace klens::inline KLENS_NS {
namespace ssd_detail {

/// Tokens and vectors of columns per pass. f32: sums and inputs take 2 K G registers of 32, or 4 K G of 16. The others run a
/// token at a time, in which the sum and the noise are chains of 4 cycles per value: vectors hide each other's. Zen 5, 24 heads of
/// 64, 128 states, cycles per 16 values of 512 tokens (a lone one): 512 bits f16 1 vector 6.6 (6.5), 2 5.0 (5.0), 4 4.6 (5.0),
/// s16 2 5.8 (1: 10.6), 4 4.9 (5.4); 256 bits s16 1 10.5 (13.1), 2 9.6 (11.2), but f16, whose ports are full, 9.0 (8.9), 10.6.
/// Zen 4, 512 bits: s16 10.6 with 1, 8.9 with 2.
#if defined(KLENS_HAS_AVX512)
template <State S> inline constexpr int tile_tokens = S == State::f32 ? 4 : 1;
template <State S> inline constexpr int tile_columns = S == State::f32 ? 2 : 4;
#else
template <State S> inline constexpr int tile_tokens = S == State::f32 && vector_registers > 0 ? 2 : 1;
template <State S> inline constexpr int tile_columns = vector_registers > 0 && state_detail::scaled<S> ? 2 : 1;
#endif
static_assert(lanes % tile_tokens<State::f32> == 0 && tile_columns<State::f32> <= most_columns && tile_columns<State::s8> <= most_columns);
/// Of a token alone in f32; and how many values, 16 KiB, a token alone fetches ahead. f32 on Zen 4, avx2, states in L3: 4096, 8192,
/// 16384, 32768 bytes take 22, 21, 12, 12 us, none 26, a walk of the same bytes 11.7; four vectors 12 to 20, one 14 (its chain of
/// sums). States in L2 lose a sixth by it: 9.5 us without, 11. Zen 5, 512 bits, layers of 192 or 384 KB, together three L3, without
/// and with: f16 27.2, 16.9 us, s16 35, 21.6, s8 30, 17.1 (from L2 0, 7, 2 % slower).
inline constexpr int lone_columns = vector_registers > 0 ? 2 : 1;
template <State S> inline constexpr int lone_ahead = 16384 / int(sizeof(state_detail::stored<S>));
/// Neighbours n of a column in a line.
template <State S> inline constexpr int line_values = line_bytes / (lanes * int(sizeof(state_detail::stored<S>)));
/// Tokens that go through all heads before the next do, in blocks of 16.
inline constexpr int chunk_blocks = 4;

/// K tokens from t, tokens i .. of the block, of G vectors of columns of f32 in one pass over n. Rescale: a branch per token
/// (alike for all n), since multiplying for all of them would be half as much again.
template <int K, int G, bool Rescale>
KLENS_NOINLINE void run(const SsdArgs& a, int t, Block& block, int i) {
  v16f u[K * G], sum[K * G];
  unroll<K * G>([&](int j) KLENS_INLINE_LAMBDA { u[j] = load(block.u + (i * G + j) * lanes), sum[j] = zero(); });
  const float* b = a.b + t * a.b_stride + block.group;
  const float* c = a.c + t * a.c_stride + block.group;
  const std::int64_t b_stride = a.b_stride, c_stride = a.c_stride;   // copies: vector stores may alias what a points to
  float* state[G];
  unroll<G>([&](int j) KLENS_INLINE_LAMBDA { state[j] = state_of<State::f32>(block.columns[j]); });
  const std::int64_t ahead = block.ahead;
  const int states = a.n_state;
  const unsigned which = block.with->rescaled >> i;
  const auto one = [&](int n) KLENS_INLINE_LAMBDA {
    v16f g[G];
    unroll<G>([&](int j) KLENS_INLINE_LAMBDA {   // all loads before the stores: vectors may be 4096 bytes apart
      g[j] = load(state[j] + n * lanes);
    });
    unroll<K>([&](int k) KLENS_INLINE_LAMBDA {
      const v16f bn = splat(b[k * b_stride + n]), cn = splat(c[k * c_stride + n]);
      if constexpr (Rescale)
        if ((which >> k & 1u) != 0)
          unroll<G>([&](int j) KLENS_INLINE_LAMBDA { g[j] = g[j] * splat(block.with->grow[i + k]); });
      unroll<G>([&](int j) KLENS_INLINE_LAMBDA {
        g[j] = fma(u[k * G + j], bn, g[j]);
        sum[k * G + j] = fma(g[j], cn, sum[k * G + j]);
      });
    });
    unroll<G>([&](int j) KLENS_INLINE_LAMBDA { store(state[j] + n * lanes, g[j]); });
  };
  int n = 0;
  if constexpr (K == 1)   // by pairs: alone, prefetches took 14.3 us where these take 12.6 (avx2)
    for (; n + 2 <= states; n += 2) {
      unroll<G>([&](int j) KLENS_INLINE_LAMBDA {
        const float* const next = state[j] + n * lanes + ahead;
        __builtin_prefetch(next, 0, 2), __builtin_prefetch(next + lanes, 0, 2);
      });
      one(n), one(n + 1);
    }
  for (; n < states; ++n) one(n);
  unroll<K * G>([&](int j) KLENS_INLINE_LAMBDA { store(block.sum + (i * G + j) * lanes, sum[j]); });
}

/// Fetches what a pass over n reads block.ahead values later, of Count columns from j on.
template <State S, int Count>
KLENS_INLINE void fetch_next(const Block& block, int j, int n) {
  if (block.ahead > 0 && n % line_values<S> == 0)
    unroll<Count>([&](int i) KLENS_INLINE_LAMBDA {
      __builtin_prefetch(state_of<S>(block.columns[j + i]) + n * lanes + block.ahead, 0, 2);
    });
}

/// One token of G vectors of columns of f16. Of three neighbours n one is read, one updated and one rounded at a time: the
/// chain of 40 cycles becomes three, of which the window of Zen 4 holds more (a lone token: 36.9 us became 32.8).
template <int G, bool Rescale>
KLENS_NOINLINE void run_half(const SsdArgs& a, int t, Block& block, int i) {
  half* state[G];
  v16f u[G], sum[G], ahead[G];
  v16i words[G];
  unroll<G>([&](int j) KLENS_INLINE_LAMBDA {
    state[j] = state_of<State::f16>(block.columns[j]), ahead[j] = load_half(state[j]);
    u[j] = load(block.u + (i * G + j) * lanes), sum[j] = zero();
    words[j] = state_detail::token_words(a.key, block.columns[j].lane, a.position + t);
  });
  const float* const grow = block.with->grow + i;
  const float* b = a.b + t * a.b_stride + block.group;
  const float* c = a.c + t * a.c_stride + block.group;
  const int last = a.n_state - 1;
  const auto update = [&](int j, int n) KLENS_INLINE_LAMBDA {
    v16f g = ahead[j];
    ahead[j] = load_half(state[j] + (n < last ? n + 1 : n) * lanes);
    if constexpr (Rescale) g = g * splat(*grow);
    g = fma(u[j], splat(b[n]), g);
    sum[j] = fma(g, splat(c[n]), sum[j]);
    return state_detail::begin_cut(g);
  };
  state_detail::Cut cut[G];
  const auto finish = [&](int j, int n) KLENS_INLINE_LAMBDA {
    store_half(state[j] + n * lanes, state_detail::end_cut(cut[j], words[j]));
    words[j] = state_detail::next_words(words[j]);
  };
  unroll<G>([&](int j) KLENS_INLINE_LAMBDA { cut[j] = update(j, 0); });
  for (int n = 0; n < last; ++n) {
    unroll<G>([&](int j) KLENS_INLINE_LAMBDA { finish(j, n); });
    fetch_next<State::f16, G>(block, 0, n);
    unroll<G>([&](int j) KLENS_INLINE_LAMBDA { cut[j] = update(j, n + 1); });
  }
  unroll<G>([&](int j) KLENS_INLINE_LAMBDA { finish(j, last); });
  unroll<G>([&](int j) KLENS_INLINE_LAMBDA { store(block.sum + (i * G + j) * lanes, sum[j]); });
}

/// Few tokens rescale: the others are spared the multiplication.
template <State S, int K, int G>
KLENS_INLINE void run_tile(const SsdArgs& a, int t, Block& block, int i) {
  const bool rescale = (block.with->rescaled >> i & ((1u << K) - 1u)) != 0;
  if constexpr (S == State::f16) rescale ? run_half<G, true>(a, t, block, i) : run_half<G, false>(a, t, block, i);
  else rescale ? run<K, G, true>(a, t, block, i) : run<K, G, false>(a, t, block, i);
}

/// What a token of a format with scales, which need all of it, leaves to the next: values before rounding, in L1, those of two
/// vectors no multiple of 4 KiB apart.
template <int G>
struct Carry {
  static constexpr int stride = (scan_most_states + 2) * lanes;
  v16i most[G];   // their magnitudes
  alignas(64) float s[G * lanes], inv[G * lanes], work[G * stride];
  KLENS_INLINE float* at(int j, int n) { return work + j * stride + n * lanes; }
  KLENS_INLINE const float* at(int j, int n) const { return work + j * stride + n * lanes; }
};

/// Apart from the loop that uses them: with 16 registers it is to find them in memory. True: NaN or infinity is among the values.
template <State S, int G>
KLENS_NOINLINE bool scale_carry(Carry<G>& carry) {
  bool lost = false;
  unroll<G>([&](int j) KLENS_INLINE_LAMBDA {
    const state_detail::Scale scale = state_detail::scale_of<S>(carry.most[j]);
    store(carry.s + j * lanes, scale.s), store(carry.inv + j * lanes, scale.inv);
    lost = lost || !all(eq(scale.s, scale.s));
  });
  return lost;
}

/// Token t of G vectors of columns: from what is stored (First), or what the token before left and is rounded here.
template <State S, int G, bool First, bool Rescale>
KLENS_NOINLINE void run_scaled(const SsdArgs& a, int t, Block& block, int i, Carry<G>& carry) {
  constexpr bool in_registers = vector_registers == 0 || (vector_registers == 32 && First);   // what all n read: else from L1
  v16f sum[G], s[G], inv[G], u[G];
  v16i words[G], most[G];
  const auto keep = [&](int j) KLENS_INLINE_LAMBDA {
    s[j] = load(carry.s + j * lanes), inv[j] = load(carry.inv + j * lanes), u[j] = load(block.u + (i * G + j) * lanes);
  };
  unroll<G>([&](int j) KLENS_INLINE_LAMBDA {
    if constexpr (in_registers) keep(j);
    if constexpr (!First) words[j] = state_detail::token_words(a.key, block.columns[j].lane, a.position + t - 1);
    sum[j] = zero(), most[j] = splat_i(0);
  });
  const float* const grow = block.with->grow + i;
  const float* b = a.b + t * a.b_stride + block.group;
  const float* c = a.c + t * a.c_stride + block.group;
  const int states = a.n_state;
  for (int n = 0; n < states; ++n) {
    // Half of what is fetched, the rest in store_scaled: all of it here, a lone token in s16 took 26.9 us for 21.6.
    if constexpr (First) fetch_next<S, (G + 1) / 2>(block, 0, n);
    v16f g[G];
    const auto read = [&](int j) KLENS_INLINE_LAMBDA {
      if constexpr (!in_registers) keep(j);
      if constexpr (First) g[j] = state_detail::load_state(state_of<S>(block.columns[j]) + n * lanes);
      else {
        g[j] = state_detail::round_number(load(carry.at(j, n)), inv[j], words[j]);
        words[j] = state_detail::next_words(words[j]);
      }
    };
    const auto update = [&](int j) KLENS_INLINE_LAMBDA {
      g[j] = g[j] * s[j];
      if constexpr (Rescale) g[j] = g[j] * splat(*grow);
      g[j] = fma(u[j], splat(b[n]), g[j]);
      sum[j] = fma(g[j], splat(c[n]), sum[j]);
      most[j] = state_detail::wider(most[j], g[j]);
    };
    const auto write = [&](int j) KLENS_INLINE_LAMBDA { store(carry.at(j, n), g[j]); };
    // 16 registers hold the values of one vector at a time beside the chains of two.
    if constexpr (vector_registers == 16) unroll<G>([&](int j) KLENS_INLINE_LAMBDA { read(j), update(j), write(j); });
    else unroll<G>(read), unroll<G>(update), unroll<G>(write);
  }
  unroll<G>([&](int j) KLENS_INLINE_LAMBDA { store(block.sum + (i * G + j) * lanes, sum[j]), carry.most[j] = most[j]; });
}

/// Rounds and stores what token t left of G vectors of columns.
template <State S, int G>
KLENS_NOINLINE void store_scaled(const SsdArgs& a, int t, const Block& block, const Carry<G>& carry) {
  const Columns* const columns = block.columns;
  state_detail::stored<S>* state[G];
  v16f inv[G];
  v16i words[G];
  unroll<G>([&](int j) KLENS_INLINE_LAMBDA {
    store(a.scales + columns[j].lane, load(carry.s + j * lanes));
    state[j] = state_of<S>(columns[j]), inv[j] = load(carry.inv + j * lanes);
    words[j] = state_detail::token_words(a.key, columns[j].lane, a.position + t);
  });
  const int states = a.n_state;
  for (int n = 0; n < states; ++n) {
    fetch_next<S, G / 2>(block, (G + 1) / 2, n);
    unroll<G>([&](int j) KLENS_INLINE_LAMBDA {
      state_detail::store_state(state[j] + n * lanes, state_detail::round_integer(load(carry.at(j, n)), inv[j], words[j]));
      words[j] = state_detail::next_words(words[j]);
    });
  }
}

/// G vectors of columns of one head, `tokens` from `from`, whose factors are first .. of `with`, by blocks.
template <State S, int G>
KLENS_NOINLINE void run_columns(const SsdArgs& a, int from, int tokens, int head, int vector, const Factors* with, int first,
                                int ahead) {
  constexpr int K = tile_tokens<S>;
  Block block;
  open<S>(a, head, vector, G, with, ahead, block);
  [[maybe_unused]] std::conditional_t<state_detail::scaled<S>, Carry<G>, char> carry;
  [[maybe_unused]] bool lost = false;
  if constexpr (state_detail::scaled<S>)
    for (int j = 0; j < G; ++j) store(carry.s + j * lanes, load(a.scales + block.columns[j].lane)), store(carry.inv + j * lanes, zero());
  for (int t = from, end = from + tokens; t < end; t += lanes, ++block.with) {
    const int count = end - t < lanes ? end - t : lanes;
    KLENS_ASSERT(!state_detail::scaled<S> || a.n_state <= scan_most_states);
    begin_columns(a, t, count, first, block);
    int i = 0;
    if constexpr (state_detail::scaled<S>)
      for (; i < count; ++i, lost = scale_carry<S>(carry)) {
        // Which NaN a product of two of them is, compilers choose: those that were stored are all alike.
        if (lost) store_scaled<S, G>(a, t + i - 1, block, carry);
        const bool rescale = (block.with->rescaled >> (first + i) & 1u) != 0, stored = lost || t + i == from;
        const auto pass = stored ? (rescale ? &run_scaled<S, G, true, true> : &run_scaled<S, G, true, false>)
                                 : (rescale ? &run_scaled<S, G, false, true> : &run_scaled<S, G, false, false>);
        pass(a, t + i, block, first + i, carry);
      }
    else {
      if constexpr (K > 1)
        for (; i + K <= count; i += K) run_tile<S, K, G>(a, t + i, block, i);
      for (; i < count; ++i) run_tile<S, 1, G>(a, t + i, block, i);
    }
    end_columns(a, t, count, first, block);
  }
  if constexpr (state_detail::scaled<S>) store_scaled<S, G>(a, from + tokens - 1, block, carry);
}

/// run<G>(at) for vectors [from, to): Most at a time, then half as many, then one.
template <int Most, class Run>
KLENS_INLINE void in_columns(int from, int to, const Run& run) {
  for (; from + Most <= to; from += Most) run.template operator()<Most>(from);
  if constexpr (Most > 1) in_columns<Most / 2>(from, to, run);
}

/// Vectors [from, to) of a head, tokens of a chunk.
template <State S>
KLENS_NOINLINE void run_head(const SsdArgs& a, int head, int from, int to) {
  Factors with[chunk_blocks];
  const std::int64_t item = head * div_up(a.head_dim, lanes);
  float p = carried(a, item + from);
  for (int t = 0; t < a.tokens; t += lanes)
    p = begin_tokens<S>(a, head, t, a.tokens - t < lanes ? a.tokens - t : lanes, p, with[t / lanes]);
  for (int j = from; j < to; ++j) a.decay[item + j] = p;
  in_columns<tile_columns<S>>(from, to, [&]<int G>(int at) KLENS_INLINE_LAMBDA {
    run_columns<S, G>(a, 0, a.tokens, head, at, with, 0, 0);
  });
}

/// Token t of all items: its steps and decays with lane = head, so that no head waits for its own.
template <State S>
KLENS_INLINE void run_lone(const SsdArgs& a, int t) {
  const int vectors = int(div_up(a.head_dim, lanes)), heads = int(div_up(a.end, vectors));
  Factors with;
  Block block;
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
      const int head = first + i, from = head * vectors, to = from + vectors, end = to < a.end ? to : a.end;
      const int item = from < a.begin ? a.begin : from;
      const float p = advance<S>(carried(a, item), i, with);
      with.u[i] = with.step[i] / p;
      for (int j = item; j < end; ++j) a.decay[j] = p;
      in_columns<S == State::f32 ? lone_columns : tile_columns<S>>(item, end, [&]<int G>(int at) KLENS_INLINE_LAMBDA {
        const bool fetch = std::int64_t(a.end - at - G) * a.n_state * lanes >= lone_ahead<S>;   // other threads have the rest
        const int ahead = fetch ? lone_ahead<S> : 0;
        if constexpr (state_detail::scaled<S>) {
          run_columns<S, G>(a, t, 1, head, at - from, &with, i, ahead);
        } else {
          open<S>(a, head, at - from, G, &with, ahead, block);
          begin_columns(a, t, 1, i, block);
          run_tile<S, 1, G>(a, t, block, i);
          end_columns(a, t, 1, i, block);
        }
      });
    }
  }
}

}  // namespace ssd_detail

/// The recurrence of one state format; a.format is not read.
template <State S>
inline void ssd_as(const SsdArgs& a) {
  static_assert(scan_state_format(S), "klens::ssd_as<S>: S must be f32, f16, s16 or s8: no kernel rounds a scan state to s4");
  using namespace ssd_detail;
  if (a.tokens == 1 || a.tokens < tile_tokens<S>) {
    for (int t = 0; t < a.tokens; ++t) run_lone<S>(a, t);
    return;
  }
  constexpr int most = chunk_blocks * lanes;
  const int vectors = int(div_up(a.head_dim, lanes));
  SsdArgs part = a;
  for (int left = a.tokens; left > 0; left -= most) {
    part.tokens = left < most ? left : most;
    for (int item = a.begin; item < a.end;) {
      const int head = item / vectors, from = item % vectors, rest = a.end - head * vectors, to = rest < vectors ? rest : vectors;
      run_head<S>(part, head, from, to);
      item = head * vectors + to;
    }
    part.x += most * a.x_stride, part.b += most * a.b_stride, part.c += most * a.c_stride, part.y += most * a.y_stride;
    part.position += most;
    if (a.z != nullptr) part.z += most * a.z_stride;
    if (a.skip != nullptr) part.skip += most * a.factor_stride, part.skip_x += most * a.skip_stride;
    if (a.step != nullptr) part.step += most * a.factor_stride, part.shrink += most * a.factor_stride;
    else part.dt += most * a.dt_stride;
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
