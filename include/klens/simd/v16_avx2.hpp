// v16f on the levels avx2 and avx_vnni: two registers, lanes 0-7 and 8-15. xsimd (fma3<avx2>) for add, sub, mul, div,
// compare, select, load, store; fma, min, max, rounding and conversions are instructions named here.
#pragma once

#include <klens/core/half.hpp>
#include <klens/simd/intrinsics.hpp>

#include <cstdint>
#include <xsimd/xsimd.hpp>

namespace klens::inline KLENS_NS {

namespace simd {
using arch8 = xsimd::fma3<xsimd::avx2>;
using batch8f = xsimd::batch<float, arch8>;
using batch8i = xsimd::batch<std::int32_t, arch8>;
using bool8 = xsimd::batch_bool<float, arch8>;
}  // namespace simd

struct v16f { simd::batch8f a, b; };
struct v16i { simd::batch8i a, b; };
struct m16 { simd::bool8 a, b; };

namespace simd {

KLENS_INLINE __m256 reg(batch8f x) { return x.data; }
KLENS_INLINE __m256i reg(batch8i x) { return x.data; }
KLENS_INLINE __m256 reg(bool8 x) { return x.data; }
KLENS_INLINE v16f lanes_f(__m256 a, __m256 b) { return {batch8f(a), batch8f(b)}; }
KLENS_INLINE v16i lanes_i(__m256i a, __m256i b) { return {batch8i(a), batch8i(b)}; }
KLENS_INLINE m16 lanes_m(__m256 a, __m256 b) { return {bool8(a), bool8(b)}; }
KLENS_INLINE m16 lanes_m(__m256i a, __m256i b) { return lanes_m(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b)); }
KLENS_INLINE __m256i lanes_below(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
KLENS_INLINE __m128i half_line(const void* p, int i) { return _mm_loadu_si128(static_cast<const __m128i*>(p) + i); }
KLENS_INLINE __m128i quarter_line(const void* p, int i) {
  return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(static_cast<const char*>(p) + 8 * i));
}

/// Low 16 bits of the 16 lanes, in order.
KLENS_INLINE __m256i low_halves(v16i x) {
  const __m256i m = _mm256_set1_epi32(0xffff);
  // packus works in 128-bit halves: lanes 0-3 8-11 4-7 12-15.
  const __m256i packed = _mm256_packus_epi32(_mm256_and_si256(reg(x.a), m), _mm256_and_si256(reg(x.b), m));
  return _mm256_permute4x64_epi64(packed, 0xd8);
}

}  // namespace simd

KLENS_INLINE v16f load(const float* p) {
  return {simd::batch8f::load_unaligned(p), simd::batch8f::load_unaligned(p + 8)};
}
KLENS_INLINE void store(float* p, v16f x) { x.a.store_unaligned(p), x.b.store_unaligned(p + 8); }
KLENS_INLINE v16f load_n(const float* p, int n) {
  return simd::lanes_f(_mm256_maskload_ps(p, simd::lanes_below(n)),
      _mm256_maskload_ps(p + 8, simd::lanes_below(n - 8)));
}
KLENS_INLINE void store_n(float* p, v16f x, int n) {
  _mm256_maskstore_ps(p, simd::lanes_below(n), simd::reg(x.a));
  _mm256_maskstore_ps(p + 8, simd::lanes_below(n - 8), simd::reg(x.b));
}
KLENS_INLINE v16i load_i(const std::int32_t* p) {
  return {simd::batch8i::load_unaligned(p), simd::batch8i::load_unaligned(p + 8)};
}
KLENS_INLINE void store_i(std::int32_t* p, v16i x) { x.a.store_unaligned(p), x.b.store_unaligned(p + 8); }
KLENS_INLINE v16i load_i8(const std::int8_t* p) {
  return simd::lanes_i(_mm256_cvtepi8_epi32(simd::quarter_line(p, 0)), _mm256_cvtepi8_epi32(simd::quarter_line(p, 1)));
}
KLENS_INLINE v16i load_u8(const std::uint8_t* p) {
  return simd::lanes_i(_mm256_cvtepu8_epi32(simd::quarter_line(p, 0)), _mm256_cvtepu8_epi32(simd::quarter_line(p, 1)));
}
KLENS_INLINE v16i load_i16(const std::int16_t* p) {
  return simd::lanes_i(_mm256_cvtepi16_epi32(simd::half_line(p, 0)), _mm256_cvtepi16_epi32(simd::half_line(p, 1)));
}
KLENS_INLINE v16f load_half(const half* p) {
  return simd::lanes_f(_mm256_cvtph_ps(simd::half_line(p, 0)), _mm256_cvtph_ps(simd::half_line(p, 1)));
}
KLENS_INLINE v16f load_bf16(const bf16* p) {
  const __m256i a = _mm256_cvtepu16_epi32(simd::half_line(p, 0)), b = _mm256_cvtepu16_epi32(simd::half_line(p, 1));
  return simd::lanes_f(_mm256_castsi256_ps(_mm256_slli_epi32(a, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(b, 16)));
}
KLENS_INLINE void store_half(half* p, v16f x) {
  constexpr int mode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(simd::reg(x.a), mode));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p) + 1, _mm256_cvtps_ph(simd::reg(x.b), mode));
}
/// Low 8 (16) bits of every lane.
KLENS_INLINE void store_i8(std::int8_t* p, v16i x) {
  const __m256i low = _mm256_and_si256(simd::low_halves(x), _mm256_set1_epi16(0xff));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                   _mm_packus_epi16(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1)));
}
KLENS_INLINE void store_i16(std::int16_t* p, v16i x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), simd::low_halves(x));
}

KLENS_INLINE v16f splat(float x) { return {simd::batch8f(x), simd::batch8f(x)}; }
KLENS_INLINE v16i splat_i(std::int32_t x) { return {simd::batch8i(x), simd::batch8i(x)}; }

KLENS_INLINE v16f operator+(v16f x, v16f y) { return {x.a + y.a, x.b + y.b}; }
KLENS_INLINE v16f operator-(v16f x, v16f y) { return {x.a - y.a, x.b - y.b}; }
KLENS_INLINE v16f operator*(v16f x, v16f y) { return {x.a * y.a, x.b * y.b}; }
KLENS_INLINE v16f operator/(v16f x, v16f y) { return {x.a / y.a, x.b / y.b}; }

// One instruction on both halves.
#define KLENS_BOTH(r, f, x, y) simd::lanes_##r(f(simd::reg(x.a), simd::reg(y.a)), f(simd::reg(x.b), simd::reg(y.b)))
KLENS_INLINE v16f fma(v16f x, v16f y, v16f z) {
  return simd::lanes_f(_mm256_fmadd_ps(simd::reg(x.a), simd::reg(y.a), simd::reg(z.a)),
                         _mm256_fmadd_ps(simd::reg(x.b), simd::reg(y.b), simd::reg(z.b)));
}
KLENS_INLINE v16f min(v16f x, v16f y) { return KLENS_BOTH(f, _mm256_min_ps, x, y); }
KLENS_INLINE v16f max(v16f x, v16f y) { return KLENS_BOTH(f, _mm256_max_ps, x, y); }
KLENS_INLINE v16f abs(v16f x) {
  const __m256 m = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
  return simd::lanes_f(_mm256_and_ps(simd::reg(x.a), m), _mm256_and_ps(simd::reg(x.b), m));
}
KLENS_INLINE v16f sqrt(v16f x) { return simd::lanes_f(_mm256_sqrt_ps(simd::reg(x.a)), _mm256_sqrt_ps(simd::reg(x.b))); }
KLENS_INLINE v16f round_even(v16f x) {
  constexpr int mode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return simd::lanes_f(_mm256_round_ps(simd::reg(x.a), mode), _mm256_round_ps(simd::reg(x.b), mode));
}

KLENS_INLINE m16 lt(v16f x, v16f y) { return {x.a < y.a, x.b < y.b}; }
KLENS_INLINE m16 le(v16f x, v16f y) { return {x.a <= y.a, x.b <= y.b}; }
KLENS_INLINE m16 eq(v16f x, v16f y) { return {x.a == y.a, x.b == y.b}; }
KLENS_INLINE m16 operator&(m16 x, m16 y) { return KLENS_BOTH(m, _mm256_and_ps, x, y); }
KLENS_INLINE m16 operator|(m16 x, m16 y) { return KLENS_BOTH(m, _mm256_or_ps, x, y); }
KLENS_INLINE m16 operator!(m16 x) {
  const __m256 ones = _mm256_castsi256_ps(_mm256_set1_epi32(-1));
  return simd::lanes_m(_mm256_xor_ps(simd::reg(x.a), ones), _mm256_xor_ps(simd::reg(x.b), ones));
}
KLENS_INLINE m16 first_n(int n) { return simd::lanes_m(simd::lanes_below(n), simd::lanes_below(n - 8)); }
KLENS_INLINE bool any(m16 x) { return (_mm256_movemask_ps(simd::reg(x.a)) | _mm256_movemask_ps(simd::reg(x.b))) != 0; }
KLENS_INLINE bool all(m16 x) {
  return (_mm256_movemask_ps(simd::reg(x.a)) & _mm256_movemask_ps(simd::reg(x.b))) == 255;
}
KLENS_INLINE v16f select(m16 m, v16f x, v16f y) { return {xsimd::select(m.a, x.a, y.a), xsimd::select(m.b, x.b, y.b)}; }

KLENS_INLINE v16i to_int(v16f x) {
  return simd::lanes_i(_mm256_cvtps_epi32(simd::reg(x.a)), _mm256_cvtps_epi32(simd::reg(x.b)));
}
KLENS_INLINE v16f to_float(v16i x) {
  return simd::lanes_f(_mm256_cvtepi32_ps(simd::reg(x.a)), _mm256_cvtepi32_ps(simd::reg(x.b)));
}
KLENS_INLINE v16i bits(v16f x) {
  return simd::lanes_i(_mm256_castps_si256(simd::reg(x.a)), _mm256_castps_si256(simd::reg(x.b)));
}
KLENS_INLINE v16f from_bits(v16i x) {
  return simd::lanes_f(_mm256_castsi256_ps(simd::reg(x.a)), _mm256_castsi256_ps(simd::reg(x.b)));
}
KLENS_INLINE v16i select(m16 m, v16i x, v16i y) { return bits(select(m, from_bits(x), from_bits(y))); }

KLENS_INLINE v16i operator+(v16i x, v16i y) { return {x.a + y.a, x.b + y.b}; }
KLENS_INLINE v16i operator-(v16i x, v16i y) { return {x.a - y.a, x.b - y.b}; }
KLENS_INLINE v16i operator*(v16i x, v16i y) { return KLENS_BOTH(i, _mm256_mullo_epi32, x, y); }
KLENS_INLINE v16i operator&(v16i x, v16i y) { return KLENS_BOTH(i, _mm256_and_si256, x, y); }
KLENS_INLINE v16i operator|(v16i x, v16i y) { return KLENS_BOTH(i, _mm256_or_si256, x, y); }
KLENS_INLINE v16i operator^(v16i x, v16i y) { return KLENS_BOTH(i, _mm256_xor_si256, x, y); }
KLENS_INLINE v16i shl(v16i x, int n) {
  return simd::lanes_i(_mm256_slli_epi32(simd::reg(x.a), n), _mm256_slli_epi32(simd::reg(x.b), n));
}
KLENS_INLINE v16i shr(v16i x, int n) {
  return simd::lanes_i(_mm256_srli_epi32(simd::reg(x.a), n), _mm256_srli_epi32(simd::reg(x.b), n));
}
KLENS_INLINE v16i sar(v16i x, int n) {
  return simd::lanes_i(_mm256_srai_epi32(simd::reg(x.a), n), _mm256_srai_epi32(simd::reg(x.b), n));
}
KLENS_INLINE m16 eq_i(v16i x, v16i y) { return KLENS_BOTH(m, _mm256_cmpeq_epi32, x, y); }
KLENS_INLINE m16 gt_i(v16i x, v16i y) { return KLENS_BOTH(m, _mm256_cmpgt_epi32, x, y); }
/// table[i & 7] of 8 words, stored twice: the low bits of an index choose.
KLENS_INLINE v16i lookup8(v16i table, v16i i) {
  return simd::lanes_i(_mm256_permutevar8x32_epi32(simd::reg(table.a), simd::reg(i.a)),
                       _mm256_permutevar8x32_epi32(simd::reg(table.a), simd::reg(i.b)));
}
/// Rounded to a binary16 (nearest even) and back.
KLENS_INLINE v16f through_half(v16f x) {
  constexpr int mode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return simd::lanes_f(_mm256_cvtph_ps(_mm256_cvtps_ph(simd::reg(x.a), mode)),
                       _mm256_cvtph_ps(_mm256_cvtps_ph(simd::reg(x.b), mode)));
}
KLENS_INLINE v16i min_i(v16i x, v16i y) { return KLENS_BOTH(i, _mm256_min_epi32, x, y); }
KLENS_INLINE v16i max_i(v16i x, v16i y) { return KLENS_BOTH(i, _mm256_max_epi32, x, y); }
#undef KLENS_BOTH

namespace simd {
/// The fixed tree: (i, i+8), (i, i+4), (i, i+2), (i, i+1); the first step has been done by the caller.
template <class Op4>
KLENS_INLINE float tree(__m256 h8, Op4&& op4) {
  const __m128 h4 = op4(_mm256_castps256_ps128(h8), _mm256_extractf128_ps(h8, 1));
  const __m128 h2 = op4(h4, _mm_movehl_ps(h4, h4));
  return _mm_cvtss_f32(op4(h2, _mm_shuffle_ps(h2, h2, 1)));
}
}  // namespace simd

KLENS_INLINE float sum(v16f x) {
  return simd::tree(_mm256_add_ps(simd::reg(x.a), simd::reg(x.b)), [](__m128 p, __m128 q) { return _mm_add_ps(p, q); });
}
KLENS_INLINE float max_of(v16f x) {
  return simd::tree(_mm256_max_ps(simd::reg(x.a), simd::reg(x.b)), [](__m128 p, __m128 q) { return _mm_max_ps(p, q); });
}
KLENS_INLINE float min_of(v16f x) {
  return simd::tree(_mm256_min_ps(simd::reg(x.a), simd::reg(x.b)), [](__m128 p, __m128 q) { return _mm_min_ps(p, q); });
}
KLENS_INLINE std::int32_t sum_i(v16i x) {
  const __m256i h8 = _mm256_add_epi32(simd::reg(x.a), simd::reg(x.b));
  const __m128i h4 = _mm_add_epi32(_mm256_castsi256_si128(h8), _mm256_extracti128_si256(h8, 1));
  const __m128i h2 = _mm_add_epi32(h4, _mm_unpackhi_epi64(h4, h4));
  return _mm_cvtsi128_si32(_mm_add_epi32(h2, _mm_shuffle_epi32(h2, 1)));
}

}  // namespace klens::inline KLENS_NS
