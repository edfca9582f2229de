// Rounding of recurrent states to f16, s16 and s8 after every token, 16 lanes at a time: shared by scan.hpp and ssd.hpp.
//
//   f16   h' = h to one of the two neighbouring halves, clamped to +-65504
//   s16   h' = q s, q = round(h / s + u), s = max |h| over the lane's N values / (qmax - 1/2), qmax = 32767;  s8: 127
//
// Rounding is stochastic: up with the probability of the distance, so E[h'] = h. Nearest loses every update below half
// a step, and a slow mode (1 - decay < 2^-11 in f16) then never moves: tests/kernel/scan.cpp measures both. u is a
// counter hash of (key, lane, n, absolute position): the same for every chunking, thread and ISA level.
// Error of one token: f16 |h' - h| <= 2^-10 |h| + 2^-25, s16 and s8 <= s; its variance at most a quarter of that step
// squared; a mode of decay a keeps 1 / (1 - a^2) of the variances, so the error stops growing.
// NaN or infinity makes the scale NaN: the lane's N values are NaN from then on. Below 2^-100 a lane is zero.
// Cost per value: f16 7 operations, s16 and s8 9, fused with the next token's update. Tests: tests/kernel/scan.cpp, tests/kernel/ssd.cpp.
#pragma once

#include <klens/core/rows.hpp>
#include <klens/format/scheme.hpp>
#include <klens/simd/v16f.hpp>

#include <cstdint>

namespace klens::inline KLENS_NS {
namespace state_detail {

template <State S> struct Stored;
template <> struct Stored<State::f32> { using type = float; };
template <> struct Stored<State::f16> { using type = half; };
template <> struct Stored<State::s16> { using type = std::int16_t; };
template <> struct Stored<State::s8> { using type = std::int8_t; };
template <State S>
using stored = typename Stored<S>::type;

/// Values share a scale per lane.
template <State S>
inline constexpr bool scaled = S == State::s16 || S == State::s8;

/// h / s of the largest value: half a step below qmax, so that no noise reaches qmax + 1.
template <State S>
inline constexpr float reach = S == State::s16 ? 32766.5f : 126.5f;

alignas(64) inline constexpr std::int32_t iota[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

/// A bijection of 32 bits that mixes each bit into all (two multiplications; bias below 0.2 %).
KLENS_INLINE std::uint32_t mix(std::uint32_t w) {
  w = (w ^ w >> 16) * 0x7feb352du;
  w = (w ^ w >> 15) * 0x846ca68bu;
  return w ^ w >> 16;
}

/// One random word per lane of a token; `lane`: of the vector's first.
KLENS_INLINE v16i token_words(std::uint32_t key, std::int64_t lane, int position) {
  const std::uint32_t seed = mix(std::uint32_t(position) + mix(key + 0x9e3779b9u));
  v16i w = (load_i(iota) + splat_i(std::int32_t(lane))) * splat_i(std::int32_t(0x9e3779b1u)) ^ splat_i(std::int32_t(seed));
  w = (w ^ shr(w, 16)) * splat_i(0x7feb352d);
  w = (w ^ shr(w, 15)) * splat_i(std::int32_t(0x846ca68bu));
  return w ^ shr(w, 16);
}

/// The word of the next value: one step of a linear congruential sequence, 4 cycles (Zen 4), and nothing to broadcast.
KLENS_INLINE v16i next_words(v16i words) { return words * splat_i(1664525) + splat_i(1013904223); }

/// Rounding to a half in two steps, which a loop may take for one value and the next; what the second returns is to be
/// stored as a half. The high bits of the noise are the good ones: adding 13 of them below a half's last carries with the
/// right probability; what is cut then is exact, but for subnormal halves (below 2^-14), which the conversion rounds to
/// nearest. Clamped before the sum: what is cut of 65504 is 65504, and NaN stays.
struct Cut { v16f in; m16 number; };
KLENS_INLINE Cut begin_cut(v16f h) { return {max(splat(-65504.0f), min(splat(65504.0f), h)), eq(h, h)}; }
KLENS_INLINE v16f end_cut(Cut c, v16i noise) {
  const v16i cut = (bits(c.in) + shr(noise, 19)) & splat_i(std::int32_t(0xffffe000u));
  return from_bits(select(c.number, cut, bits(c.in)));
}

KLENS_INLINE v16f round_half(v16f h, v16i noise) { return through_half(end_cut(begin_cut(h), noise)); }

/// h inv + u, u in [-1/2, 1/2).
KLENS_INLINE v16f with_noise(v16f h, v16f inv, v16i noise) {
  const v16f u = from_bits(shr(noise, 9) | splat_i(0x3f800000));   // [1, 2)
  return fma(h, inv, u - splat(1.5f));
}
KLENS_INLINE v16i round_integer(v16f h, v16f inv, v16i noise) { return to_int(with_noise(h, inv, noise)); }
/// float(q) by one instruction, where to_float(to_int) are two (Zen 5, SSD in s16 and s8: 1.07 times as fast at 512 bits, 1.11 at 256),
/// or -0 for q = 0. What is stored and read again is +0, so this is for sums that begin with +0, in which both are nothing (ssd); in the
/// scan's, which begins with D x, -0 - 0 would differ from -0 + 0.
KLENS_INLINE v16f round_number(v16f h, v16f inv, v16i noise) { return round_even(with_noise(h, inv, noise)); }

/// The running maximum of |h| as integers: there NaN is above infinity and stays.
KLENS_INLINE v16i wider(v16i most, v16f h) { return max_i(most, bits(h) & splat_i(0x7fffffff)); }

/// Scale of a lane whose largest |h| has these bits, and what to multiply h by.
struct Scale { v16f s, inv; };
template <State S>
KLENS_INLINE Scale scale_of(v16i most) {
  const m16 lost = gt_i(most, splat_i(0x7f7fffff)), tiny = gt_i(splat_i(0x0d800000), most);   // 2^-100
  const v16f top = select(tiny, splat(1.0f), from_bits(most));
  const v16f s = select(tiny, zero(), top * splat(1.0f / reach<S>)), inv = select(tiny, zero(), splat(reach<S>) / top);
  return {select(lost, from_bits(splat_i(0x7fc00000)), s), select(lost, zero(), inv)};
}

KLENS_INLINE v16f load_state(const float* p) { return load(p); }
KLENS_INLINE v16f load_state(const half* p) { return load_half(p); }
KLENS_INLINE v16f load_state(const std::int16_t* p) { return to_float(load_i16(p)); }
KLENS_INLINE v16f load_state(const std::int8_t* p) { return to_float(load_i8(p)); }
KLENS_INLINE void store_state(float* p, v16f h) { store(p, h); }
KLENS_INLINE void store_state(half* p, v16f h) { store_half(p, h); }
KLENS_INLINE void store_state(std::int16_t* p, v16i q) { store_i16(p, q); }
KLENS_INLINE void store_state(std::int8_t* p, v16i q) { store_i8(p, q); }

}  // namespace state_detail
}  // namespace klens::inline KLENS_NS
