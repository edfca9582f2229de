// Selective scan of Mamba-1 (kernel/args.hpp, ScanArgs); lane = channel, one group of 16 channels at a time.
//
//   dt = softplus(dt_raw + dt_bias);   u = dt x
//   h[n] = fma(exp2(dt A2[n]), h[n], u B[t][n])                                    n = 0 .. n_state - 1
//   y = fma(h[N-1], C[t][N-1], ... fma(h[0], C[t][0], D x)),  then y silu(z) where there is a gate
//   h[n] = rounded to the state's format, after every token (kernel/state_round.hpp); y sees h before that
//
// One FMA chain over n ascending, started from D x; everything is elementwise in the lane, so chunking the tokens,
// stepping, or splitting the channels cannot change a bit. Any n_state up to scan_most_states. Work goes in blocks of up
// to 16 tokens and 64 pairs (token, group): begin_block takes softplus of all pairs, a run each group, end_block SiLU.
//   f32              run_float: four tokens in one pass over n, so h is read and written once for them
//   f16, s16, s8     run_token: token by token, h as f32 in L1 for the block; what the token before left is rounded when
//                    it is read, so s16 and s8, whose scales need all of a token, make no second pass
// In the last, partial group only real channels are read (the rest counts as 0 and the state there stays 0), whole
// vectors are written. Bytes per token and channel: 16 read and written, plus B and C once per group.
// Cost per 16 updates: 8 multiplications or FMA, 3 additions, 2 integer operations, a shuffle, 2 broadcasts; per token
// and group 30 multiplications or FMA and 2 divisions of softplus and SiLU. Zen 4 does one of the first kind per cycle:
// at N = 16 no less than 10 cycles per 16 updates, where exp2 alone takes 7 (simd/peaks.hpp). The pass over n takes 8.7
// (256 bits 11.3), begin_block 2.0 (2.5), end_block 1.0 (1.6). Zen 4, cycles per 16 updates, N = 16, 1536 channels, all
// included (512 bits, 256 bits):
//             f32           f16           s16           s8
//   prefill   12.6  16.6    22.6  28.5    22.0  27.0    21.5  26.0     without waiting for x, dt, z and y: f32 12.2, 15.8
//   1 token   13.1  17.4    26.9  31.2    26.1  30.4    26.3  31.1     from memory, not L3: f32 19 to 21, 26
// Error: max |err(h)| <= 2^-24 (8 + 2 / (1 - decay_max)) max |h| against float64 of the same inputs, in f32.
// Oracle: tests/oracle/sequence.hpp, scan_step; tests tests/kernel/scan.cpp (65 536 tokens).
#pragma once

#include <klens/kernel/args.hpp>
#include <klens/kernel/state_round.hpp>
#include <klens/simd/math.hpp>
#include <klens/simd/unroll.hpp>

namespace klens::inline KLENS_NS {
namespace scan_detail {

using state_detail::Scale, state_detail::scaled, state_detail::stored;

/// Tokens from t and groups of 16 channels from index. Pairs fill 12 KiB of L1; a few tokens share a block with more groups.
/// a2: that of group `index`, its rows and its neighbours so far apart.
struct Block { int t, tokens, index, groups; const float* a2; std::int64_t a2_row, a2_group; };
inline constexpr int block_tokens = 16, block_pairs = 64;

/// A2 of the groups of a block, one behind the other, where it fits: rows of [n][channels] are kilobytes apart and fall into
/// two sets of L1. And its smallest value for each channel.
inline constexpr int table_rows = 64;
struct alignas(64) Table { float rows[table_rows * lanes], steepest[block_pairs * lanes]; };

/// Tokens of f32 per pass over n, and whether their y fit into registers. With 256 bits they stay in L1: four tokens
/// would spill 8 of 16 registers, two take 17.4 cycles per 16 updates instead of 16.5.
inline constexpr int pass_tokens = 4;
#if defined(KLENS_HAS_AVX512)
inline constexpr bool many_registers = true;
#else
inline constexpr bool many_registers = false;
#endif

/// What a pair needs apart from the state: [groups][tokens] of a block.
struct alignas(64) Start { float dt[lanes], u[lanes], y[lanes]; };

KLENS_INLINE int least(int a, int b) { return a < b ? a : b; }
KLENS_INLINE std::int64_t channel_of(int index) { return std::int64_t(index) * lanes; }

/// A2 of the block's groups, for all its tokens to come.
KLENS_NOINLINE inline void fill_table(const ScanArgs& a, Block& block, Table& table) {
  const bool dense = block.groups * a.n_state <= table_rows;
  const float* const a2 = block.a2;
  for (int g = 0; g < block.groups; ++g) {
    v16f steepest = zero();
    for (int n = 0; n < a.n_state; ++n) {
      const v16f row = load(a2 + n * block.a2_row + g * lanes);
      steepest = min(row, steepest);
      if (dense) store(table.rows + (g * a.n_state + n) * lanes, row);
    }
    store(table.steepest + g * lanes, steepest);
  }
  if (dense) block.a2 = table.rows, block.a2_row = lanes, block.a2_group = a.n_state * lanes;
}

/// Pairs side by side: the tokens of a group or, for a lone token, all groups of a block.
struct Run {
  bool lone, whole;        // whole: all channels are real
  int steps, left;         // left: real channels from `first` on
  std::int64_t at, first, token;
  KLENS_INLINE Run(const ScanArgs& a, const Block& block, int g)
      : lone(block.tokens == 1), whole(a.channels >= channel_of(block.index + (lone ? block.groups : g + 1))),
        steps(lone ? block.groups : block.tokens), left(int(a.channels - channel_of(block.index + g))),
        at(std::int64_t(g) * block.tokens), first(channel_of(block.index + g)), token(block.t) {}
  /// Where pair 0 is in rows so far apart, and how far it is from a pair to the next.
  template <class T>
  KLENS_INLINE T* start(T* p, std::int64_t stride) const { return p + token * stride + first; }
  KLENS_INLINE std::int64_t step(std::int64_t stride) const { return lone ? lanes : stride; }
  KLENS_INLINE v16f real(const float* p, int i) const {
    if (whole) [[likely]] return load(p);
    return load_n(p, least(left - (lone ? i * lanes : 0), lanes));
  }
  /// f<K>(i) for pairs i .. i + K.
  template <class F>
  KLENS_INLINE void each(const F& f) const {
    int i = 0;
    for (; i + at_once <= steps; i += at_once) f.template operator()<at_once>(i);
    if constexpr (at_once > 1)
      for (; i < steps; ++i) f.template operator()<1>(i);
  }
};
KLENS_INLINE int runs(const Block& block) { return block.tokens == 1 ? 1 : block.groups; }

alignas(64) inline constexpr float no_bias[block_pairs * lanes] = {};

/// dt, u and D x of all pairs; exponentials first, logarithms in a loop of their own: the constants of both would spill (52
/// cycles per pair instead of 31). True: no decay of the block needs exp2's clamp at 2^-126 (a cycle per 16 updates); of a lone token,
/// which has no table, the look at A2 would cost as much as the clamp.
KLENS_NOINLINE inline bool begin_block(const ScanArgs& a, const Block& block, const Table* table, Start* out) {
  bool normal = table != nullptr;
  const std::int64_t dt_stride = a.dt_stride, x_stride = a.x_stride;
  for (int g = 0; g < runs(block); ++g) {
    const Run run(a, block, g);
    const float* const bias = a.dt_bias != nullptr ? a.dt_bias + run.first : no_bias;
    const float *const d = a.d + run.first, *const dt_first = run.start(a.dt, dt_stride), *const x_first = run.start(a.x, x_stride);
    const std::int64_t dt_step = run.step(dt_stride), x_step = run.step(x_stride), step = run.step(0);
    Start* const start = out + run.at;
    run.each([&]<int K>(int i) KLENS_INLINE_LAMBDA {
      v16f e[K];
      unroll<K>([&](int k) KLENS_INLINE_LAMBDA {
        const v16f dt = run.real(dt_first + (i + k) * dt_step, i + k) + load(bias + (i + k) * step);
        store(start[i + k].dt, dt), e[k] = neg(abs(dt));
      });
      exp_below_88<K>(e);
      unroll<K>([&](int k) KLENS_INLINE_LAMBDA { store(start[i + k].y, e[k]); });
    });
    v16f longest = zero();
    run.each([&]<int K>(int i) KLENS_INLINE_LAMBDA {
      v16f e[K];
      unroll<K>([&](int k) KLENS_INLINE_LAMBDA { e[k] = load(start[i + k].y); });
      log1p_unit<K>(e);
      unroll<K>([&](int k) KLENS_INLINE_LAMBDA {
        const v16f dt = max(zero(), load(start[i + k].dt)) + e[k], x = run.real(x_first + (i + k) * x_step, i + k);
        store(start[i + k].dt, dt), store(start[i + k].u, dt * x), store(start[i + k].y, load(d + (i + k) * step) * x);
        longest = max(dt, longest);  // without NaN, whose decay is NaN either way
      });
    });
    normal = normal && all(ge(longest * load(table->steepest + g * lanes), splat(-126.0f)));
  }
  return normal;
}

KLENS_NOINLINE inline void end_block(const ScanArgs& a, const Block& block, const Start* in) {
  const std::int64_t z_stride = a.z_stride, y_stride = a.y_stride;
  const bool gated = a.z != nullptr;
  for (int g = 0; g < runs(block); ++g) {
    const Run run(a, block, g);
    const float* const z_first = gated ? run.start(a.z, z_stride) : nullptr;
    float* const y_first = run.start(a.y, y_stride);
    const std::int64_t z_step = run.step(z_stride), y_step = run.step(y_stride);
    const Start* const start = in + run.at;
    run.each([&]<int K>(int i) KLENS_INLINE_LAMBDA {
      v16f y[K], gate[K];
      unroll<K>([&](int k) KLENS_INLINE_LAMBDA { y[k] = load(start[i + k].y); });
      if (gated) {
        unroll<K>([&](int k) KLENS_INLINE_LAMBDA { gate[k] = run.real(z_first + (i + k) * z_step, i + k); });
        silu<K>(gate);
        unroll<K>([&](int k) KLENS_INLINE_LAMBDA { y[k] = y[k] * gate[k]; });
      }
      unroll<K>([&](int k) KLENS_INLINE_LAMBDA { store(y_first + (i + k) * y_step, y[k]); });
    });
  }
}

/// The lines of token t of a group, wanted a block later: rows are kilobytes apart (a cycle per 16 updates).
KLENS_INLINE void prefetch_token(const ScanArgs& a, std::int64_t t, std::int64_t first) {
  if (t >= a.tokens) return;
  __builtin_prefetch(a.x + t * a.x_stride + first), __builtin_prefetch(a.dt + t * a.dt_stride + first);
  if (a.z != nullptr) __builtin_prefetch(a.z + t * a.z_stride + first);
  __builtin_prefetch(a.y + t * a.y_stride + first, 1);
}

/// A group's columns at token t, and its state; copies, since vector stores may alias what ScanArgs holds.
template <State S>
struct Group {
  std::int64_t first, a2_row, a2_group;
  int states;
  const float *a2, *b, *c;
  stored<S>* state;
  KLENS_INLINE Group(const ScanArgs& a, const Block& block, int t, int index)
      : first(channel_of(index)), a2_row(block.a2_row), a2_group(block.a2_group), states(a.n_state),
        a2(block.a2 + (index - block.index) * block.a2_group), b(a.b + t * a.b_stride), c(a.c + t * a.c_stride),
        state(static_cast<stored<S>*>(a.state) + first * a.n_state) {}
};

template <bool Normal>
KLENS_INLINE v16f decay(v16f dt, const float* a2) {
  const v16f x = dt * load(a2);
  return Normal ? exp2_normal(x) : exp2_below_127(x);
}

/// A lone token waits for its state and A2. Into L2, so many groups early: from memory 29 cycles per 16 updates, where four
/// groups early into L1, which can wait for fewer lines, took 44; from L3 13 either way.
/// Rounded formats too (Zen 5, 512 bits, states and A2 of three L3, without and with: f16 28.4, 16.7, s16 28.9, 19.2, s8 24.4, 17.9; from
/// L2 5 to 8 % slower).
inline constexpr int ahead = 12;
KLENS_INLINE void fetch_early(const void* state, const float* a2) { __builtin_prefetch(state, 0, 2), __builtin_prefetch(a2, 0, 2); }

/// K tokens of f32 from t, of G groups from index, in one pass over n.
template <bool Normal, int K, int G>
KLENS_NOINLINE void run_float(const ScanArgs& a, const Block& block, int t, int index, Start* start) {
  const Group<State::f32> group(a, block, t, index);
  const std::int64_t b_stride = a.b_stride, c_stride = a.c_stride;
  v16f y[K * G], dt[K * G], u[K * G];
  if constexpr (many_registers)
    unroll<K * G>([&](int i) KLENS_INLINE_LAMBDA { y[i] = load(start[i].y), dt[i] = load(start[i].dt), u[i] = load(start[i].u); });
  for (int n = 0; n < group.states; ++n)
    unroll<G>([&](int g) KLENS_INLINE_LAMBDA {
      float* const at = group.state + (g * group.states + n) * lanes;
      const float* const a2 = group.a2 + n * group.a2_row + g * group.a2_group;
      if constexpr (K == 1) fetch_early(at + ahead * group.states * lanes, a2 + ahead * group.a2_group);
      v16f h = load(at);
      unroll<K>([&](int k) KLENS_INLINE_LAMBDA {
        const int i = g * K + k;
        const v16f b = splat(group.b[k * b_stride + n]);
        if constexpr (many_registers) h = fma(decay<Normal>(dt[i], a2), h, u[i] * b);
        else h = fma(decay<Normal>(load(start[i].dt), a2), h, load(start[i].u) * b);
        const v16f c = splat(group.c[k * c_stride + n]);
        if constexpr (many_registers) y[i] = fma(h, c, y[i]);
        else store(start[i].y, fma(h, c, load(start[i].y)));
      });
      store(at, h);
    });
  if constexpr (many_registers) unroll<K * G>([&](int i) KLENS_INLINE_LAMBDA { store(start[i].y, y[i]); });
}

/// Groups of a rounded format side by side: the noise is a chain of 5 cycles per value, and a scale waits for all of a token. Zen 5, 512
/// bits, 1536 channels, N = 16, cycles per 16 updates of prefill (one token): f16 13.4 with 1, 12.2 with 2 (16.2, 14.3), s16 14.4, 12.6
/// (22, 18), four as two; 256 bits the same within 3 %.
inline constexpr int rounded_groups = many_registers ? 2 : 1;

/// h[n] of a rounded format, not rounded yet, and with few registers the token's decays, which then take a loop of their
/// own (28 cycles per 16 updates instead of 30; with 512 bits 24.4 instead of 23). Side by side: loads and stores of two
/// arrays a multiple of 4 KiB apart wait for each other (34 cycles instead of 24).
struct alignas(64) Work { float h[lanes], e[lanes]; };

/// Token t of G groups of a rounded format. The block's first token reads the state, others round what the token before left.
/// `start`, `work` and `scale` are those of the first group; the second's are `apart`, `states` and one behind.
template <State S, bool Normal, bool First, int G>
KLENS_NOINLINE void run_token(const ScanArgs& a, const Block& block, int t, int index, Start* start, Work* work, Scale* scale) {
  const Group<S> group(a, block, t, index);
  const int apart = block.tokens, states = group.states;
  if constexpr (!many_registers)
    for (int g = 0; g < G; ++g)
      for (int n = 0; n < states; ++n)
        store(work[g * states + n].e, decay<Normal>(load(start[g * apart].dt), group.a2 + n * group.a2_row + g * group.a2_group));
  v16f y[G];
  v16i most[G], noise[G];
  unroll<G>([&](int g) KLENS_INLINE_LAMBDA {
    y[g] = load(start[g * apart].y), most[g] = splat_i(0);
    noise[g] = state_detail::token_words(a.key, group.first + g * lanes, a.position + t - 1);
  });
  for (int n = 0; n < states; ++n)
    unroll<G>([&](int g) KLENS_INLINE_LAMBDA {
      if (First && apart == 1)
        fetch_early(group.state + ((g + ahead) * states + n) * lanes, group.a2 + n * group.a2_row + (g + ahead) * group.a2_group);
      Work& at = work[g * states + n];
      v16f e, h;
      if constexpr (many_registers) e = decay<Normal>(load(start[g * apart].dt), group.a2 + n * group.a2_row + g * group.a2_group);
      else e = load(at.e);
      if constexpr (First) h = state_detail::load_state(group.state + (g * states + n) * lanes);
      else if constexpr (scaled<S>) h = to_float(state_detail::round_integer(load(at.h), scale[g].inv, noise[g]));
      else h = state_detail::round_half(load(at.h), noise[g]);
      if constexpr (scaled<S>) h = h * scale[g].s;
      if constexpr (!First) noise[g] = state_detail::next_words(noise[g]);
      h = fma(e, h, load(start[g * apart].u) * splat(group.b[n]));
      y[g] = fma(h, splat(group.c[n]), y[g]);
      if constexpr (scaled<S>) most[g] = state_detail::wider(most[g], h);
      store(at.h, h);
    });
  unroll<G>([&](int g) KLENS_INLINE_LAMBDA {
    store(start[g * apart].y, y[g]);
    if constexpr (scaled<S>) scale[g] = state_detail::scale_of<S>(most[g]);
  });
}

/// What token t, the last of a block, left: rounded and stored.
template <State S, int G>
KLENS_NOINLINE void store_rounded(const ScanArgs& a, const Block& block, int t, int index, const Work* work, const Scale* scale) {
  const Group<S> group(a, block, t, index);
  v16i noise[G];
  unroll<G>([&](int g) KLENS_INLINE_LAMBDA { noise[g] = state_detail::token_words(a.key, group.first + g * lanes, a.position + t); });
  for (int n = 0; n < group.states; ++n)
    unroll<G>([&](int g) KLENS_INLINE_LAMBDA {
      const v16f h = load(work[g * group.states + n].h);
      stored<S>* const to = group.state + (g * group.states + n) * lanes;
      if constexpr (scaled<S>) state_detail::store_state(to, state_detail::round_integer(h, scale[g].inv, noise[g]));
      else state_detail::store_state(to, state_detail::round_half(h, noise[g]));
      noise[g] = state_detail::next_words(noise[g]);
    });
  if constexpr (scaled<S>)
    for (int g = 0; g < G; ++g) store(a.scales + group.first + g * lanes, scale[g].s);
}

template <State S, bool Normal, int G>
KLENS_NOINLINE void run_rounded(const ScanArgs& a, const Block& block, int index, Start* start, Work* work) {
  const std::int64_t first = channel_of(index);
  Scale scale[G]{};
  if constexpr (scaled<S>)
    for (int g = 0; g < G; ++g) scale[g].s = load(a.scales + first + g * lanes);
  for (int i = 0; i < block.tokens; ++i) {
    for (int g = 0; g < G; ++g) prefetch_token(a, block.t + i + block_tokens, first + g * lanes);
    if (i == 0) run_token<S, Normal, true, G>(a, block, block.t, index, start, work, scale);
    else run_token<S, Normal, false, G>(a, block, block.t + i, index, start + i, work, scale);
  }
  store_rounded<S, G>(a, block, block.t + block.tokens - 1, index, work, scale);
}

template <State S, bool Normal>
KLENS_INLINE void run_block(const ScanArgs& a, const Block& block, Start* start, Work* work) {
  constexpr int pass = Normal || many_registers ? pass_tokens : 1;  // gcc 12 spills in the clamped pass of four
  const int end = block.index + block.groups;
  int index = block.index;
  if constexpr (S == State::f32)
    for (; block.tokens == 1 && index + 2 <= end; index += 2, start += 2)  // 17.4 cycles per 16 updates instead of 19.3
      run_float<Normal, 1, 2>(a, block, block.t, index, start);
  if constexpr (constexpr int G = rounded_groups; S != State::f32 && G > 1)
    for (; index + G <= end; index += G, start += G * block.tokens) run_rounded<S, Normal, G>(a, block, index, start, work);
  for (; index < end; ++index, start += block.tokens) {
    if constexpr (S != State::f32) {
      run_rounded<S, Normal, 1>(a, block, index, start, work);
    } else {
      int i = 0;
      for (; i + pass <= block.tokens; i += pass) {
        for (int k = i; k < i + pass; ++k) prefetch_token(a, block.t + k + block_tokens, channel_of(index));
        run_float<Normal, pass, 1>(a, block, block.t + i, index, start + i);
      }
      for (; i < block.tokens; ++i) run_float<Normal, 1, 1>(a, block, block.t + i, index, start + i);
    }
  }
}

/// What no group before it fetches early, while begin_block computes.
template <State S>
KLENS_INLINE void fetch_first(const ScanArgs& a, const Block& block) {
  const stored<S>* const state = static_cast<const stored<S>*>(a.state) + channel_of(block.index) * a.n_state;
  for (int g = 0; g < least(block.groups, ahead); ++g)
    for (int n = 0; n < a.n_state; ++n)
      fetch_early(state + (g * a.n_state + n) * lanes, block.a2 + n * block.a2_row + g * block.a2_group);
}

}  // namespace scan_detail

/// The scan of one state format; a.format is not read.
template <State S>
inline void scan_as(const ScanArgs& a) {
  static_assert(scan_state_format(S), "klens::scan_as<S>: S must be f32, f16, s16 or s8: no kernel rounds a scan state to s4");
  using namespace scan_detail;
  KLENS_ASSERT(S == State::f32 || a.n_state <= scan_most_states);
  Start start[block_pairs];
  Work work[S == State::f32 ? 1 : rounded_groups * scan_most_states];
  const int wide = block_pairs / (a.tokens < 1 ? 1 : least(a.tokens, block_tokens));
  Table table;
  for (int index = a.begin; index < a.end; index += wide) {
    Block block{0, 0, index, least(a.end - index, wide), a.a2 + channel_of(index), round_up(a.channels, lanes), lanes};
    if (a.tokens > 1) fill_table(a, block, table);
    else fetch_first<S>(a, block);
    for (; block.t < a.tokens; block.t += block_tokens) {
      block.tokens = least(a.tokens - block.t, block_tokens);
      if (begin_block(a, block, a.tokens > 1 ? &table : nullptr, start)) run_block<S, true>(a, block, start, work);
      else run_block<S, false>(a, block, start, work);
      end_block(a, block, start);
    }
  }
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
