// v16f on the level `ref`: sixteen scalars. Every function is the lane-wise twin of the instruction the wider levels
// use.
#pragma once

#include <klens/core/half.hpp>

#include <bit>
#include <cstdint>
#include <cstring>
#include <emmintrin.h>

namespace klens::inline KLENS_NS {

struct v16f { float v[16]; };
struct v16i { std::int32_t v[16]; };
struct m16 { bool v[16]; };

namespace simd {

template <class R, class F>
KLENS_INLINE R each(F&& lane) {
  R r;
  for (int i = 0; i < 16; ++i) r.v[i] = lane(i);
  return r;
}

/// cvtps2dq: nearest even, anything outside int32 gives INT_MIN.
KLENS_INLINE std::int32_t lane_to_int(float x) { return _mm_cvtss_si32(_mm_set_ss(x)); }

/// roundps: adding and subtracting 2^23 rounds to an integer in the current (nearest even) mode; the sign of zero is
/// kept.
KLENS_INLINE float lane_round_even(float x) {
  const std::uint32_t u = std::bit_cast<std::uint32_t>(x), sign = u & 0x80000000u;
  const float a = std::bit_cast<float>(u & 0x7fffffffu);
  if (!(a < 0x1p23f)) return x;
  const float r = (a + 0x1p23f) - 0x1p23f;
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(r) | sign);
}

/// The fixed tree: (i, i+8), (i, i+4), (i, i+2), (i, i+1).
template <class T, class Op>
KLENS_INLINE T tree(const T* v, Op&& op) {
  T a[16];
  for (int i = 0; i < 16; ++i) a[i] = v[i];
  for (int half = 8; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) a[i] = op(a[i], a[i + half]);
  return a[0];
}

}  // namespace simd

KLENS_INLINE v16f load(const float* p) { v16f r; std::memcpy(r.v, p, 64); return r; }
KLENS_INLINE void store(float* p, v16f a) { std::memcpy(p, a.v, 64); }
KLENS_INLINE v16f load_n(const float* p, int n) { return simd::each<v16f>([&](int i) { return i < n ? p[i] : 0.0f; }); }
KLENS_INLINE void store_n(float* p, v16f a, int n) { for (int i = 0; i < n; ++i) p[i] = a.v[i]; }
KLENS_INLINE v16i load_i(const std::int32_t* p) { v16i r; std::memcpy(r.v, p, 64); return r; }
KLENS_INLINE void store_i(std::int32_t* p, v16i a) { std::memcpy(p, a.v, 64); }
KLENS_INLINE v16i load_i8(const std::int8_t* p) { return simd::each<v16i>([&](int i) { return std::int32_t(p[i]); }); }
KLENS_INLINE v16i load_u8(const std::uint8_t* p) { return simd::each<v16i>([&](int i) { return std::int32_t(p[i]); }); }
KLENS_INLINE v16i load_i16(const std::int16_t* p) {
  return simd::each<v16i>([&](int i) { return std::int32_t(p[i]); });
}
KLENS_INLINE v16f load_half(const half* p) { return simd::each<v16f>([&](int i) { return to_float(p[i]); }); }
KLENS_INLINE v16f load_bf16(const bf16* p) { return simd::each<v16f>([&](int i) { return to_float(p[i]); }); }
KLENS_INLINE void store_half(half* p, v16f a) { for (int i = 0; i < 16; ++i) p[i] = to_half(a.v[i]); }
/// Low 8 (16) bits of every lane.
KLENS_INLINE void store_i8(std::int8_t* p, v16i a) { for (int i = 0; i < 16; ++i) p[i] = std::int8_t(a.v[i]); }
KLENS_INLINE void store_i16(std::int16_t* p, v16i a) { for (int i = 0; i < 16; ++i) p[i] = std::int16_t(a.v[i]); }

KLENS_INLINE v16f splat(float x) { return simd::each<v16f>([&](int) { return x; }); }
KLENS_INLINE v16i splat_i(std::int32_t x) { return simd::each<v16i>([&](int) { return x; }); }

KLENS_INLINE v16f operator+(v16f a, v16f b) { return simd::each<v16f>([&](int i) { return a.v[i] + b.v[i]; }); }
KLENS_INLINE v16f operator-(v16f a, v16f b) { return simd::each<v16f>([&](int i) { return a.v[i] - b.v[i]; }); }
KLENS_INLINE v16f operator*(v16f a, v16f b) { return simd::each<v16f>([&](int i) { return a.v[i] * b.v[i]; }); }
KLENS_INLINE v16f operator/(v16f a, v16f b) { return simd::each<v16f>([&](int i) { return a.v[i] / b.v[i]; }); }
KLENS_INLINE v16f fma(v16f a, v16f b, v16f c) {
  return simd::each<v16f>([&](int i) { return __builtin_fmaf(a.v[i], b.v[i], c.v[i]); });
}
KLENS_INLINE v16f min(v16f a, v16f b) {
  return simd::each<v16f>([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
KLENS_INLINE v16f max(v16f a, v16f b) {
  return simd::each<v16f>([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
KLENS_INLINE v16f abs(v16f a) {
  return simd::each<v16f>([&](int i) { return __builtin_fabsf(a.v[i]); });
}
KLENS_INLINE v16f sqrt(v16f a) {
  return simd::each<v16f>([&](int i) { return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(a.v[i]))); });
}
KLENS_INLINE v16f round_even(v16f a) { return simd::each<v16f>([&](int i) { return simd::lane_round_even(a.v[i]); }); }

KLENS_INLINE m16 lt(v16f a, v16f b) { return simd::each<m16>([&](int i) { return a.v[i] < b.v[i]; }); }
KLENS_INLINE m16 le(v16f a, v16f b) { return simd::each<m16>([&](int i) { return a.v[i] <= b.v[i]; }); }
KLENS_INLINE m16 eq(v16f a, v16f b) { return simd::each<m16>([&](int i) { return a.v[i] == b.v[i]; }); }
KLENS_INLINE m16 operator&(m16 a, m16 b) { return simd::each<m16>([&](int i) { return a.v[i] && b.v[i]; }); }
KLENS_INLINE m16 operator|(m16 a, m16 b) { return simd::each<m16>([&](int i) { return a.v[i] || b.v[i]; }); }
KLENS_INLINE m16 operator!(m16 a) { return simd::each<m16>([&](int i) { return !a.v[i]; }); }
KLENS_INLINE m16 first_n(int n) { return simd::each<m16>([&](int i) { return i < n; }); }
KLENS_INLINE bool any(m16 a) { bool r = false; for (int i = 0; i < 16; ++i) r = r || a.v[i]; return r; }
KLENS_INLINE bool all(m16 a) { bool r = true; for (int i = 0; i < 16; ++i) r = r && a.v[i]; return r; }
KLENS_INLINE v16f select(m16 m, v16f a, v16f b) {
  return simd::each<v16f>([&](int i) { return m.v[i] ? a.v[i] : b.v[i]; });
}
KLENS_INLINE v16i select(m16 m, v16i a, v16i b) {
  return simd::each<v16i>([&](int i) { return m.v[i] ? a.v[i] : b.v[i]; });
}

KLENS_INLINE v16i to_int(v16f a) { return simd::each<v16i>([&](int i) { return simd::lane_to_int(a.v[i]); }); }
KLENS_INLINE v16f to_float(v16i a) { return simd::each<v16f>([&](int i) { return float(a.v[i]); }); }
KLENS_INLINE v16i bits(v16f a) { return std::bit_cast<v16i>(a); }
KLENS_INLINE v16f from_bits(v16i a) { return std::bit_cast<v16f>(a); }

// Integer lanes wrap, as the instructions do.
namespace simd {
template <class Op>
KLENS_INLINE v16i wrap(v16i a, v16i b, Op&& op) {
  return each<v16i>([&](int i) { return std::int32_t(op(std::uint32_t(a.v[i]), std::uint32_t(b.v[i]))); });
}
}  // namespace simd

KLENS_INLINE v16i operator+(v16i a, v16i b) { return simd::wrap(a, b, [](auto x, auto y) { return x + y; }); }
KLENS_INLINE v16i operator-(v16i a, v16i b) { return simd::wrap(a, b, [](auto x, auto y) { return x - y; }); }
KLENS_INLINE v16i operator*(v16i a, v16i b) { return simd::wrap(a, b, [](auto x, auto y) { return x * y; }); }
KLENS_INLINE v16i operator&(v16i a, v16i b) { return simd::wrap(a, b, [](auto x, auto y) { return x & y; }); }
KLENS_INLINE v16i operator|(v16i a, v16i b) { return simd::wrap(a, b, [](auto x, auto y) { return x | y; }); }
KLENS_INLINE v16i operator^(v16i a, v16i b) { return simd::wrap(a, b, [](auto x, auto y) { return x ^ y; }); }
KLENS_INLINE v16i shl(v16i a, int n) { return simd::wrap(a, a, [&](auto x, auto) { return x << n; }); }
KLENS_INLINE v16i shr(v16i a, int n) { return simd::wrap(a, a, [&](auto x, auto) { return x >> n; }); }
KLENS_INLINE v16i sar(v16i a, int n) { return simd::each<v16i>([&](int i) { return a.v[i] >> n; }); }
KLENS_INLINE m16 eq_i(v16i a, v16i b) { return simd::each<m16>([&](int i) { return a.v[i] == b.v[i]; }); }
KLENS_INLINE m16 gt_i(v16i a, v16i b) { return simd::each<m16>([&](int i) { return a.v[i] > b.v[i]; }); }
/// table[i & 7] of 8 words, stored twice: the low bits of an index choose.
KLENS_INLINE v16i lookup8(v16i table, v16i a) { return simd::each<v16i>([&](int i) { return table.v[a.v[i] & 7]; }); }
/// Rounded to a binary16 (nearest even) and back.
KLENS_INLINE v16f through_half(v16f a) { return simd::each<v16f>([&](int i) { return to_float(to_half(a.v[i])); }); }
KLENS_INLINE v16i min_i(v16i a, v16i b) {
  return simd::each<v16i>([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
KLENS_INLINE v16i max_i(v16i a, v16i b) {
  return simd::each<v16i>([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}

KLENS_INLINE float sum(v16f a) { return simd::tree(a.v, [](float x, float y) { return x + y; }); }
KLENS_INLINE float max_of(v16f a) { return simd::tree(a.v, [](float x, float y) { return x > y ? x : y; }); }
KLENS_INLINE float min_of(v16f a) { return simd::tree(a.v, [](float x, float y) { return x < y ? x : y; }); }
KLENS_INLINE std::int32_t sum_i(v16i a) {
  return simd::tree(a.v,
      [](std::int32_t x, std::int32_t y) { return std::int32_t(std::uint32_t(x) + std::uint32_t(y)); });
}

}  // namespace klens::inline KLENS_NS
