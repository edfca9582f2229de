// Causal depthwise convolution over time with optional SiLU (kernel/args.hpp, Conv1dArgs); lane = channel.
//
//   y[t] = act(fma(w[K-1], r[t], ... fma(w[1], r[t-K+2], fma(w[0], r[t-K+1], bias))))        K = taps, 2 to 4
//   r[t] = x[t] as the format of the state holds it:
//     f32   x;      f16   to nearest even, |x| limited to 65504
//     s16   s q,  s = max |x| over 16 channels of the token / 32767,  q = clamp(round_half_even(x / s), -32767, 32767)
//     s8    the same with 127
//
// A token sees its own input rounded too, so that outputs depend on what the state will hold, never on where a call
// ended: the chain starts from the bias and takes the taps in order, and any chunking of the tokens gives the bits of
// stepping. The last K - 1 inputs lie in `state` between tiles and calls. In the last, partial group of channels only
// real channels are read (the rest counts as 0), whole vectors are written. y may be x.
// Tiles of 8 tokens (256 bits: 4) x 16 channels, all channels of 8 tokens before the next 8: rows are walked along. One
// group down all tokens met another page and the same set of L1 with every row. 512 tokens, Zen 4: 1536 channels 250 us,
// 380 so; short_conv of 2048 channels 500, 2000 to 3000 so.
// `absmax` leaves each 16 outputs' maximum for quantize_row, which then reads y once.
// Bytes per element: 4 read, 4 written. Error: <= (K + 1) 2^-24 (|bias| + sum |w x|), then silu's 3 ulp; rounded states
// add sum |w| |x - r|: 2^-11 |x| (f16), max|x| / 65534 (s16), max|x| / 254 (s8). Inputs of s16 and s8 are finite.
// Oracle: tests/oracle/sequence.hpp, conv1d; test tests/kernel/conv1d.cpp.
#pragma once

#include <klens/kernel/args.hpp>
#include <klens/kernel/quantize_row.hpp>
#include <klens/simd/math.hpp>

namespace klens::inline KLENS_NS {
namespace conv1d_detail {

/// 16 channels of one token as the state holds them: the value that the taps see, and what is stored of it.
template <State S>
struct Held { v16f value; v16i code; float scale; };

template <State S>
inline constexpr float largest_code = S == State::s16 ? 32767.0f : 127.0f;

template <State S>
KLENS_INLINE Held<S> hold(v16f x) {
  if constexpr (S == State::f32) return {x, splat_i(0), 0};
  if constexpr (S == State::f16) {
    half bits[lanes];
    store_half(bits, max(splat(-65504.0f), min(splat(65504.0f), x)));  // NaN comes second: it stays
    return {load_half(bits), splat_i(0), 0};
  }
  const float scale = max_of(abs(x)) / largest_code<S>;
  const v16f divisor = splat(scale == 0.0f ? __builtin_inff() : scale);  // by infinity: 0
  const v16i q = quantize_detail::to_integers(x / divisor, splat(largest_code<S>));
  return {to_float(q) * splat(scale), q, scale};
}

/// The state of one group of 16 channels.
template <State S>
struct Place {
  void* values;
  float* scales;
  std::int64_t padded, first;

  KLENS_INLINE std::int64_t at(int k) const { return k * padded + first; }
  KLENS_INLINE Held<S> load_held(int k) const {
    if constexpr (S == State::f32) return {load(static_cast<const float*>(values) + at(k)), splat_i(0), 0};
    if constexpr (S == State::f16) return {load_half(static_cast<const half*>(values) + at(k)), splat_i(0), 0};
    const float scale = S == State::s16 || S == State::s8 ? scales[at(k) / lanes] : 0;
    v16i q = splat_i(0);
    if constexpr (S == State::s16) q = load_i16(static_cast<const std::int16_t*>(values) + at(k));
    if constexpr (S == State::s8) q = load_i8(static_cast<const std::int8_t*>(values) + at(k));
    return {to_float(q) * splat(scale), q, scale};
  }
  KLENS_INLINE void store_held(int k, const Held<S>& h) const {
    if constexpr (S == State::f32) store(static_cast<float*>(values) + at(k), h.value);
    if constexpr (S == State::f16) store_half(static_cast<half*>(values) + at(k), h.value);  // exact
    if constexpr (S == State::s16) store_i16(static_cast<std::int16_t*>(values) + at(k), h.code);
    if constexpr (S == State::s8) store_i8(static_cast<std::int8_t*>(values) + at(k), h.code);
    if constexpr (S == State::s16 || S == State::s8) scales[at(k) / lanes] = h.scale;
  }
};

/// Tokens of a tile: what the registers hold, and no more rows than an L1 set has ways where rows are whole pages apart.
/// The taps' weights and the state are read once per tile. 256 bits: 8 tokens of f32 and f16 spill.
template <State S>
inline constexpr int tile_tokens =
#if defined(KLENS_LEVEL_REF)
    1;
#elif defined(KLENS_HAS_AVX512)
    8;
#else
    S == State::s16 || S == State::s8 ? 8 : 4;
#endif

/// Tokens [begin, begin + Tokens) of 16 channels: put(y) gets their convolutions of take(.. t). A is Conv1dArgs or
/// ShortConvArgs. Fixed: the taps, 0: a.taps says.
template <int Fixed, State S, int Tokens, class A, class Take, class Put>
KLENS_INLINE void convolve_tile(const A& a, std::int64_t first, int begin, const Take& take, const Put& put) {
  constexpr int most = Fixed > 0 ? Fixed : 4;
  const int taps = Fixed > 0 ? Fixed : a.taps;
  const std::int64_t padded = round_up(a.channels, lanes);
  const Place<S> place{a.state, a.scales, padded, first};
  v16f w[most], y[Tokens];
  Held<S> held[most - 1 + Tokens];
#pragma GCC unroll 4
  for (int k = 0; k < taps; ++k) w[k] = load(a.weight + k * padded + first);
#pragma GCC unroll 4
  for (int k = 0; k < taps - 1; ++k) held[k] = place.load_held(k);
  const v16f bias = a.bias != nullptr ? load(a.bias + first) : zero();
#pragma GCC unroll 8
  for (int t = 0; t < Tokens; ++t) held[taps - 1 + t] = hold<S>(take(begin + t));
#pragma GCC unroll 8
  for (int t = 0; t < Tokens; ++t) {
    y[t] = bias;
#pragma GCC unroll 4
    for (int k = 0; k < taps; ++k) y[t] = fma(w[k], held[t + k].value, y[t]);
  }
  put(y);
#pragma GCC unroll 4
  for (int k = 0; k < taps - 1; ++k) place.store_held(k, held[Tokens + k]);
}

/// Stores 16 outputs of each token, and their maximum where it is wanted.
template <class A, int Tokens>
KLENS_INLINE void store_outputs(const A& a, std::int64_t first, int begin, const v16f (&y)[Tokens]) {
#pragma GCC unroll 8
  for (int t = 0; t < Tokens; ++t) store(a.y + (begin + t) * a.y_stride + first, y[t]);
  if (a.absmax == nullptr) return;
  float* out = a.absmax + begin * a.absmax_stride + first / lanes;
#pragma GCC unroll 8
  for (int t = 0; t < Tokens; ++t) out[t * a.absmax_stride] = max_of(max(abs(y[t]), zero()));
}

template <int Taps, State S, int Tokens>
KLENS_INLINE void conv_tile(const Conv1dArgs& a, std::int64_t first, int begin) {
  const int n = a.channels - first < lanes ? int(a.channels - first) : lanes;
  const auto take = [&](int t) KLENS_INLINE_LAMBDA { return load_upto(a.x + t * a.x_stride + first, n); };
  const auto put = [&](v16f (&y)[Tokens]) KLENS_INLINE_LAMBDA {
    constexpr int k = Tokens % at_once == 0 ? at_once : 1;
    if (a.silu)  // one branch for all: between tokens it cost a reload of silu's constants for each, a fifth of the time
      unroll<Tokens / k>([&](int t) KLENS_INLINE_LAMBDA { silu<k>(y + t * k); });
    store_outputs(a, first, begin, y);
  };
  convolve_tile<Taps, S, Tokens>(a, first, begin, take, put);
}

/// Every tile by tile<taps, format, tokens>(first channel, first token).
template <int Taps, State S, class A, class Tile>
KLENS_INLINE void for_tiles(const A& a, const Tile& tile) {
  int t = 0;
  for (; t + tile_tokens<S> <= a.tokens; t += tile_tokens<S>)
    for (int g = a.begin; g < a.end; ++g) tile.template operator()<Taps, S, tile_tokens<S>>(std::int64_t(g) * lanes, t);
  for (; t < a.tokens; ++t)
    for (int g = a.begin; g < a.end; ++g) tile.template operator()<Taps, S, 1>(std::int64_t(g) * lanes, t);
}

/// On ref the taps stay a run-time number: there are no registers to win, and sixteen lanes of everything would be
/// compiled three times.
template <State S, class A, class Tile>
KLENS_INLINE void for_taps(const A& a, const Tile& tile) {
  KLENS_ASSERT(a.taps >= 2 && a.taps <= 4);
#if defined(KLENS_LEVEL_REF)
  for_tiles<0, S>(a, tile);
#else
  if (a.taps == 4) for_tiles<4, S>(a, tile);
  else if (a.taps == 3) for_tiles<3, S>(a, tile);
  else for_tiles<2, S>(a, tile);
#endif
}

template <class A, class Tile>
KLENS_INLINE void for_format(const A& a, const Tile& tile) {
  switch (a.format) {
    case State::f16: return for_taps<State::f16>(a, tile);
    case State::s16: return for_taps<State::s16>(a, tile);
    case State::s8: return for_taps<State::s8>(a, tile);
    default: KLENS_ASSERT(a.format == State::f32); return for_taps<State::f32>(a, tile);
  }
}

}  // namespace conv1d_detail

/// A copy of the arguments: a store could change what a reference names, and every vector would read them again.
inline void conv1d(const Conv1dArgs& args) {
  const Conv1dArgs a = args;
  conv1d_detail::for_format(a, [&]<int Taps, State S, int Tokens>(std::int64_t first, int t) KLENS_INLINE_LAMBDA {
    conv1d_detail::conv_tile<Taps, S, Tokens>(a, first, t);
  });
}

}  // namespace klens::inline KLENS_NS
