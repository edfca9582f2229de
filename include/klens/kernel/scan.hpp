// Selective scan of Mamba-1 (kernel/args.hpp, ScanArgs); lane = channel, one group of 16 channels at a time.
//
//   dt = softplus(dt_raw + dt_bias);   u = dt x
//   h[n] = fma(exp2(dt A2[n]), h[n], u B[t][n])                                    n = 0 .. n_state - 1
//   y = fma(h[N-1], C[t][N-1], ... fma(h[0], C[t][0], D x)),  then y silu(z) where there is a gate
//   h[n] = rounded to the state's format, after every token (kernel/state_round.hpp); y sees h before that
//
// One FMA chain over n ascending, started from D x; everything is elementwise in the lane, so chunking the tokens,
// stepping, or splitting the channels cannot change a bit. Any n_state up to scan_most_states. Work goes in blocks of up
// to 8 tokens and 32 pairs (token, group): begin_block takes softplus of all pairs, a run each group, end_block SiLU.
//   f32              run_float: four tokens in one pass over n, so h is read and written once for them
//   f16, s16, s8     run_token: token by token, h as f32 in L1 for the block; what the token before left is rounded when
//                    it is read, so s16 and s8, whose scales need all of a token, make no second pass
// In the last, partial group only real channels are read (the rest counts as 0 and the state there stays 0), whole
// vectors are written. Bytes per token and channel: 16 read and written, plus B and C once per group.
// Cost per 16 updates: 8 multiplications or FMA, 3 additions, 2 integer operations, a shuffle, 2 broadcasts; per token
// and group 30 multiplications or FMA and 2 divisions of softplus and SiLU. Zen 4 does one of the first kind per cycle:
// at N = 16 no less than 10 cycles per 16 updates, where exp2 alone takes 7 (simd/peaks.hpp). Zen 4, cycles per 16
// updates, N = 16, 1536 channels, all included (512 bits, 256 bits):
//             f32           f16           s16           s8
//   prefill   13.6  17.6    22.6  28.5    22.7  28.0    22.8  28.3     without waiting for x, dt, z and y: f32 13.0, 16.1
//   1 token   14.1  17.6    26.9  31.2    26.1  30.4    26.3  31.1
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

/// Tokens from t and groups of 16 channels from index. Pairs fill 6 KiB of L1; a few tokens share a block with more groups.
struct Block { int t, tokens, index, groups; };
inline constexpr int block_tokens = 8, block_pairs = 32;

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
/// Real channels of the group that starts at `first`.
KLENS_INLINE int real_lanes(const ScanArgs& a, std::int64_t first) { return a.channels - first < lanes ? int(a.channels - first) : lanes; }

/// dt, u and D x of all pairs. True: no decay of the block needs exp2's clamp at 2^-126 (a cycle per 16 updates).
KLENS_NOINLINE inline bool begin_block(const ScanArgs& a, const Block& block, Start* out) {
  for (int i = 0; i < block.tokens; ++i)
    for (int g = 0; g < block.groups; ++g) {
      const std::int64_t first = channel_of(block.index + g), t = block.t + i;
      const v16f bias = a.dt_bias != nullptr ? load(a.dt_bias + first) : zero();
      const v16f dt = load_upto(a.dt + t * a.dt_stride + first, real_lanes(a, first)) + bias;
      Start& start = out[g * block.tokens + i];
      store(start.dt, dt), store(start.y, softplus_first(dt));
      store(start.u, load_upto(a.x + t * a.x_stride + first, real_lanes(a, first)));
    }
  const std::int64_t padded = round_up(a.channels, lanes);
  bool normal = block.tokens > 1;  // of a lone token the look at A2 would cost as much as the clamp
  for (int g = 0; g < block.groups; ++g) {
    const std::int64_t first = channel_of(block.index + g);
    v16f longest = zero(), steepest = zero();
    for (int i = 0; i < block.tokens; ++i) {
      Start& start = out[g * block.tokens + i];
      const v16f dt = softplus_last(load(start.dt), load(start.y)), x = load(start.u);
      store(start.dt, dt), store(start.u, dt * x), store(start.y, load(a.d + first) * x);
      longest = max(dt, longest);  // without NaN, whose decay is NaN either way
    }
    for (int n = 0; normal && n < a.n_state; ++n) steepest = min(load(a.a2 + n * padded + first), steepest);
    normal = normal && all(ge(longest * steepest, splat(-126.0f)));
  }
  return normal;
}

KLENS_NOINLINE inline void end_block(const ScanArgs& a, const Block& block, const Start* in) {
  for (int i = 0; i < block.tokens; ++i)
    for (int g = 0; g < block.groups; ++g) {
      const std::int64_t first = channel_of(block.index + g), t = block.t + i;
      v16f y = load(in[g * block.tokens + i].y);
      if (a.z != nullptr) y = y * silu(load_upto(a.z + t * a.z_stride + first, real_lanes(a, first)));
      store(a.y + t * a.y_stride + first, y);
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
  std::int64_t first, padded;
  int states;
  const float *a2, *b, *c;
  stored<S>* state;
  KLENS_INLINE Group(const ScanArgs& a, int t, int index)
      : first(channel_of(index)), padded(round_up(a.channels, lanes)), states(a.n_state), a2(a.a2 + first),
        b(a.b + t * a.b_stride), c(a.c + t * a.c_stride), state(static_cast<stored<S>*>(a.state) + first * a.n_state) {}
};

template <bool Normal>
KLENS_INLINE v16f decay(const Start& start, const float* a2) {
  const v16f x = load(start.dt) * load(a2);
  return Normal ? exp2_normal(x) : exp2_below_127(x);
}

/// K tokens of f32 from t, of G groups from index, in one pass over n.
template <bool Normal, int K, int G>
KLENS_NOINLINE void run_float(const ScanArgs& a, int t, int index, Start* start) {
  const Group<State::f32> group(a, t, index);
  const std::int64_t b_stride = a.b_stride, c_stride = a.c_stride;
  constexpr int next = 4 * lanes;  // a lone token waits for its state and A2: four groups early, 16 cycles instead of 18
  v16f y[K * G];
  if constexpr (many_registers) unroll<K * G>([&](int i) KLENS_INLINE_LAMBDA { y[i] = load(start[i].y); });
  for (int n = 0; n < group.states; ++n)
    unroll<G>([&](int g) KLENS_INLINE_LAMBDA {
      float* const at = group.state + (g * group.states + n) * lanes;
      const float* const a2 = group.a2 + n * group.padded + g * lanes;
      if constexpr (K == 1) __builtin_prefetch(at + next * group.states, 1), __builtin_prefetch(a2 + next);
      v16f h = load(at);
      unroll<K>([&](int k) KLENS_INLINE_LAMBDA {
        const int i = g * K + k;
        h = fma(decay<Normal>(start[i], a2), h, load(start[i].u) * splat(group.b[k * b_stride + n]));
        const v16f c = splat(group.c[k * c_stride + n]);
        if constexpr (many_registers) y[i] = fma(h, c, y[i]);
        else store(start[i].y, fma(h, c, load(start[i].y)));
      });
      store(at, h);
    });
  if constexpr (many_registers) unroll<K * G>([&](int i) KLENS_INLINE_LAMBDA { store(start[i].y, y[i]); });
}

/// h[n] of a rounded format, not rounded yet, and with few registers the token's decays, which then take a loop of their
/// own (28 cycles per 16 updates instead of 30; with 512 bits 24.4 instead of 23). Side by side: loads and stores of two
/// arrays a multiple of 4 KiB apart wait for each other (34 cycles instead of 24).
struct alignas(64) Work { float h[lanes], e[lanes]; };

/// Token t of a rounded format. The block's first token reads the state, others round what the token before left.
template <State S, bool Normal, bool First>
KLENS_NOINLINE void run_token(const ScanArgs& a, int t, int index, Start& start, Work* work, Scale& scale) {
  const Group<S> group(a, t, index);
  if constexpr (!many_registers)
    for (int n = 0; n < group.states; ++n) store(work[n].e, decay<Normal>(start, group.a2 + n * group.padded));
  v16f y = load(start.y);
  v16i most = splat_i(0), noise = state_detail::token_words(a.key, group.first, a.position + t - 1);
  for (int n = 0; n < group.states; ++n) {
    const v16f e = many_registers ? decay<Normal>(start, group.a2 + n * group.padded) : load(work[n].e);
    v16f h;
    if constexpr (First) h = state_detail::load_state(group.state + n * lanes);
    else if constexpr (scaled<S>) h = to_float(state_detail::round_integer(load(work[n].h), scale.inv, noise));
    else h = state_detail::round_half(load(work[n].h), noise);
    if constexpr (scaled<S>) h = h * scale.s;
    if constexpr (!First) noise = state_detail::next_words(noise);
    h = fma(e, h, load(start.u) * splat(group.b[n]));
    y = fma(h, splat(group.c[n]), y);
    if constexpr (scaled<S>) most = state_detail::wider(most, h);
    store(work[n].h, h);
  }
  store(start.y, y);
  if constexpr (scaled<S>) scale = state_detail::scale_of<S>(most);
}

/// What token t, the last of a block, left: rounded and stored.
template <State S>
KLENS_NOINLINE void store_rounded(const ScanArgs& a, int t, int index, const Work* work, const Scale& scale) {
  const Group<S> group(a, t, index);
  v16i noise = state_detail::token_words(a.key, group.first, a.position + t);
  for (int n = 0; n < group.states; ++n, noise = state_detail::next_words(noise)) {
    const v16f h = load(work[n].h);
    if constexpr (scaled<S>) state_detail::store_state(group.state + n * lanes, state_detail::round_integer(h, scale.inv, noise));
    else state_detail::store_state(group.state + n * lanes, state_detail::round_half(h, noise));
  }
  if constexpr (scaled<S>) store(a.scales + group.first, scale.s);
}

template <State S, bool Normal>
KLENS_NOINLINE void run_rounded(const ScanArgs& a, const Block& block, int index, Start* start, Work* work) {
  const std::int64_t first = channel_of(index);
  Scale scale{};
  if constexpr (scaled<S>) scale.s = load(a.scales + first);
  for (int i = 0; i < block.tokens; ++i) {
    prefetch_token(a, block.t + i + block_tokens, first);
    if (i == 0) run_token<S, Normal, true>(a, block.t, index, start[0], work, scale);
    else run_token<S, Normal, false>(a, block.t + i, index, start[i], work, scale);
  }
  store_rounded<S>(a, block.t + block.tokens - 1, index, work, scale);
}

template <State S, bool Normal>
KLENS_INLINE void run_block(const ScanArgs& a, const Block& block, Start* start, Work* work) {
  constexpr int pass = Normal || many_registers ? pass_tokens : 1;  // gcc 12 spills in the clamped pass of four
  const int end = block.index + block.groups;
  int index = block.index;
  if constexpr (S == State::f32)
    for (; block.tokens == 1 && index + 2 <= end; index += 2, start += 2)  // 17.4 cycles per 16 updates instead of 19.3
      run_float<Normal, 1, 2>(a, block.t, index, start);
  for (; index < end; ++index, start += block.tokens) {
    if constexpr (S != State::f32) {
      run_rounded<S, Normal>(a, block, index, start, work);
    } else {
      int i = 0;
      for (; i + pass <= block.tokens; i += pass) {
        for (int k = i; k < i + pass; ++k) prefetch_token(a, block.t + k + block_tokens, channel_of(index));
        run_float<Normal, pass, 1>(a, block.t + i, index, start + i);
      }
      for (; i < block.tokens; ++i) run_float<Normal, 1, 1>(a, block.t + i, index, start + i);
    }
  }
}

}  // namespace scan_detail

/// The scan of one state format; a.format is not read.
template <State S>
inline void scan_as(const ScanArgs& a) {
  static_assert(scan_state_format(S), "klens::scan_as<S>: S must be f32, f16, s16 or s8: no kernel rounds a scan state to s4");
  using namespace scan_detail;
  KLENS_ASSERT(S == State::f32 || a.n_state <= scan_most_states);
  Start start[block_pairs];
  Work work[S == State::f32 ? 1 : scan_most_states];
  const int wide = block_pairs / (a.tokens < 1 ? 1 : least(a.tokens, block_tokens));
  for (int index = a.begin; index < a.end; index += wide)
    for (int t = 0; t < a.tokens; t += block_tokens) {
      const Block block{t, least(a.tokens - t, block_tokens), index, least(a.end - index, wide)};
      if (begin_block(a, block, start)) run_block<S, true>(a, block, start, work);
      else run_block<S, false>(a, block, start, work);
      end_block(a, block, start);
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
