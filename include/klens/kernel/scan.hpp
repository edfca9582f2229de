// Selective scan of Mamba-1 (kernel/args.hpp, ScanArgs); lane = channel, one group of 16 channels at a time.
//
//   dt = softplus(dt_raw + dt_bias);   u = dt x
//   h[n] = fma(exp2(dt A2[n]), h[n], u B[t][n])                                    n = 0 .. n_state - 1
//   y = fma(h[N-1], C[t][N-1], ... fma(h[0], C[t][0], D x)),  then y silu(z) where there is a gate
//
// One FMA chain over n ascending, started from D x; everything is elementwise in the lane, so chunking the tokens,
// stepping, or splitting the channels cannot change a bit. Any n_state; h stays in `state`, 64 n_state bytes per
// group, in L1. In the last, partial group only real channels are read (the rest counts as 0 and the state there stays
// 0), whole vectors are written. Bytes per token and channel: 16 read and written, plus B and C once per group. Cost
// per 16 updates: 10 multiplications or FMA, 4 additions or maxima, 2 integer operations, 3 loads, 2 broadcasts, 1
// store. Error: max |err(h)| <= 2^-24 (8 + 2 / (1 - decay_max)) max |h| against float64 of the same inputs.
// Oracle: tests/oracle/sequence.hpp, scan_step; tests tests/kernel/scan.cpp (65 536 tokens).
#pragma once

#include <klens/kernel/args.hpp>
#include <klens/simd/math.hpp>

namespace klens::inline KLENS_NS {
namespace scan_detail {

/// What a token needs apart from the state.
struct Token { v16f dt, u, y; };

KLENS_INLINE v16f load_channels(const float* from, int n) { return n == lanes ? load(from) : load_n(from, n); }

KLENS_INLINE Token begin_token(const ScanArgs& a, int t, std::int64_t first, int n, v16f bias, v16f d) {
  const v16f x = load_channels(a.x + t * a.x_stride + first, n);
  const v16f dt = softplus(load_channels(a.dt + t * a.dt_stride + first, n) + bias);
  return {dt, dt * x, d * x};
}

KLENS_INLINE void end_token(const ScanArgs& a, int t, std::int64_t first, int n, v16f y) {
  if (a.z != nullptr) y = y * silu(load_channels(a.z + t * a.z_stride + first, n));
  store(a.y + t * a.y_stride + first, y);
}

/// One state of 16 channels: h = decay h + u b, y += h c.
KLENS_INLINE void update(v16f& h, v16f& y, const Token& token, v16f a2, float b, float c) {
  h = fma(exp2_below_128(token.dt * a2), h, token.u * splat(b));
  y = fma(h, splat(c), y);
}

/// All tokens of one group. Sixteen zmm of state beside exp2's ten constants do not fit 32 registers (gcc 12 spills
/// both), so the state stays in L1 on every level: as fast along many tokens, 1.6 times faster for one.
KLENS_INLINE void scan_group(const ScanArgs& a, std::int64_t first, int n) {
  const std::int64_t padded = round_up(a.channels, lanes);
  const v16f bias = a.dt_bias != nullptr ? load(a.dt_bias + first) : zero(), d = load(a.d + first);
  float* state = a.state + first * a.n_state;
  for (int t = 0; t < a.tokens; ++t) {
    Token token = begin_token(a, t, first, n, bias, d);
    const float* b = a.b + t * a.b_stride;
    const float* c = a.c + t * a.c_stride;
#pragma GCC unroll 4
    for (int i = 0; i < a.n_state; ++i) {
      v16f h = load(state + i * lanes);
      update(h, token.y, token, load(a.a2 + i * padded + first), b[i], c[i]);
      store(state + i * lanes, h);
    }
    end_token(a, t, first, n, token.y);
  }
}

}  // namespace scan_detail

inline void scan(const ScanArgs& a) {
  for (int group = a.begin; group < a.end; ++group) {
    const std::int64_t first = std::int64_t(group) * lanes;
    scan_detail::scan_group(a, first, a.channels - first < lanes ? int(a.channels - first) : lanes);
  }
}

}  // namespace klens::inline KLENS_NS
