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
// stepping. The last K - 1 inputs are kept in registers along the tokens and in `state` between calls. In the last,
// partial group of channels only real channels are read (the rest counts as 0), whole vectors are written. y may be x.
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

/// All tokens of one group: put(t, sum) gets the convolution of take(0 .. t). A is Conv1dArgs or ShortConvArgs. Fixed:
/// the taps, 0: a.taps says.
template <int Fixed, State S, class A, class Take, class Put>
KLENS_INLINE void convolve_group(const A& a, std::int64_t first, const Take& take, const Put& put) {
  constexpr int most = Fixed > 0 ? Fixed : 4;
  const int taps = Fixed > 0 ? Fixed : a.taps;
  const std::int64_t padded = round_up(a.channels, lanes);
  const Place<S> place{a.state, a.scales, padded, first};
  v16f w[most];
  Held<S> past[most - 1];
#pragma GCC unroll 4
  for (int k = 0; k < taps; ++k) w[k] = load(a.weight + k * padded + first);
#pragma GCC unroll 4
  for (int k = 0; k < taps - 1; ++k) past[k] = place.load_held(k);
  const v16f bias = a.bias != nullptr ? load(a.bias + first) : zero();
  for (int t = 0; t < a.tokens; ++t) {
    const Held<S> now = hold<S>(take(t));
    v16f sum = bias;
#pragma GCC unroll 4
    for (int k = 0; k < taps - 1; ++k) sum = fma(w[k], past[k].value, sum);
    put(t, fma(w[taps - 1], now.value, sum));
#pragma GCC unroll 4
    for (int k = 0; k < taps - 2; ++k) past[k] = past[k + 1];
    past[taps - 2] = now;
  }
#pragma GCC unroll 4
  for (int k = 0; k < taps - 1; ++k) place.store_held(k, past[k]);
}

/// Stores 16 outputs, and their maximum where it is wanted.
template <class A>
KLENS_INLINE void store_output(const A& a, int t, std::int64_t first, v16f y) {
  store(a.y + t * a.y_stride + first, y);
  if (a.absmax != nullptr) a.absmax[t * a.absmax_stride + first / lanes] = max_of(max(abs(y), zero()));
}

template <int Taps, State S>
KLENS_INLINE void conv_group(const Conv1dArgs& a, std::int64_t first) {
  const int n = a.channels - first < lanes ? int(a.channels - first) : lanes;
  const auto take = [&](int t) KLENS_INLINE_LAMBDA {
    const float* from = a.x + t * a.x_stride + first;
    __builtin_prefetch(from + 8 * a.x_stride);  // every row is another page: 512 x 4096 take 1 / 1.5 of the time
    return load_upto(from, n);
  };
  const auto put = [&](int t, v16f sum) KLENS_INLINE_LAMBDA { store_output(a, t, first, a.silu ? silu(sum) : sum); };
  convolve_group<Taps, S>(a, first, take, put);
}

/// Every group by group<taps, format>(first). On ref the taps stay a run-time number: there are no registers to win,
/// and sixteen lanes of everything would be compiled three times.
template <State S, class A, class Group>
KLENS_INLINE void for_groups(const A& a, const Group& group) {
  KLENS_ASSERT(a.taps >= 2 && a.taps <= 4);
  for (int g = a.begin; g < a.end; ++g) {
    const std::int64_t first = std::int64_t(g) * lanes;
#if defined(KLENS_LEVEL_REF)
    group.template operator()<0, S>(first);
#else
    if (a.taps == 4) group.template operator()<4, S>(first);
    else if (a.taps == 3) group.template operator()<3, S>(first);
    else group.template operator()<2, S>(first);
#endif
  }
}

template <class A, class Group>
KLENS_INLINE void for_format(const A& a, const Group& group) {
  switch (a.format) {
    case State::f16: return for_groups<State::f16>(a, group);
    case State::s16: return for_groups<State::s16>(a, group);
    case State::s8: return for_groups<State::s8>(a, group);
    default: KLENS_ASSERT(a.format == State::f32); return for_groups<State::f32>(a, group);
  }
}

}  // namespace conv1d_detail

inline void conv1d(const Conv1dArgs& a) {
  const auto group = [&]<int Taps, State S>(std::int64_t first) { conv1d_detail::conv_group<Taps, S>(a, first); };
  conv1d_detail::for_format(a, group);
}

}  // namespace klens::inline KLENS_NS
