// v16f on the AVX-512 levels: one register. xsimd for add, sub, mul, div, compare, select, load, store; fma, min, max,
// rounding and conversions are instructions named here (xsimd 8.1 compiles its avx512 fma to a multiply and an add).
#pragma once

#include <klens/core/half.hpp>
#include <klens/simd/intrinsics.hpp>

#include <cstdint>
#include <xsimd/xsimd.hpp>

namespace klens::inline KLENS_NS {

namespace simd {
using arch16 = xsimd::avx512bw;
}

struct v16f { xsimd::batch<float, simd::arch16> v; };
struct v16i { xsimd::batch<std::int32_t, simd::arch16> v; };
struct m16 { xsimd::batch_bool<float, simd::arch16> v; };

namespace simd {
KLENS_INLINE __mmask16 lanes_below(int n) { return __mmask16((1u << n) - 1u); }
KLENS_INLINE __mmask16 mask(m16 m) { return __mmask16(m.v.data); }
KLENS_INLINE m16 mask(__mmask16 m) { return {xsimd::batch_bool<float, arch16>(m)}; }
KLENS_INLINE __m512i reg(v16i a) { return a.v.data; }
KLENS_INLINE __m512 reg(v16f a) { return a.v.data; }
KLENS_INLINE v16f lanes_f(__m512 a) { return {xsimd::batch<float, arch16>(a)}; }
KLENS_INLINE v16i lanes_i(__m512i a) { return {xsimd::batch<std::int32_t, arch16>(a)}; }
}  // namespace simd

KLENS_INLINE v16f load(const float* p) { return {decltype(v16f::v)::load_unaligned(p)}; }
KLENS_INLINE void store(float* p, v16f a) { a.v.store_unaligned(p); }
KLENS_INLINE v16f load_n(const float* p, int n) {
  return simd::lanes_f(_mm512_maskz_loadu_ps(simd::lanes_below(n), p));
}
KLENS_INLINE void store_n(float* p, v16f a, int n) { _mm512_mask_storeu_ps(p, simd::lanes_below(n), simd::reg(a)); }
KLENS_INLINE v16i load_i(const std::int32_t* p) { return {decltype(v16i::v)::load_unaligned(p)}; }
KLENS_INLINE void store_i(std::int32_t* p, v16i a) { a.v.store_unaligned(p); }
KLENS_INLINE v16i load_i8(const std::int8_t* p) {
  return simd::lanes_i(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
KLENS_INLINE v16i load_u8(const std::uint8_t* p) {
  return simd::lanes_i(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
KLENS_INLINE v16i load_i16(const std::int16_t* p) {
  return simd::lanes_i(_mm512_cvtepi16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
}
KLENS_INLINE v16f load_half(const half* p) {
  return simd::lanes_f(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
}
KLENS_INLINE v16f load_bf16(const bf16* p) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  return simd::lanes_f(_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16)));
}
KLENS_INLINE void store_half(half* p, v16f a) {
  constexpr int mode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(simd::reg(a), mode));
}
/// Low 8 (16) bits of every lane.
KLENS_INLINE void store_i8(std::int8_t* p, v16i a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(simd::reg(a)));
}
KLENS_INLINE void store_i16(std::int16_t* p, v16i a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(simd::reg(a)));
}

KLENS_INLINE v16f splat(float x) { return {decltype(v16f::v)(x)}; }
KLENS_INLINE v16i splat_i(std::int32_t x) { return {decltype(v16i::v)(x)}; }

KLENS_INLINE v16f operator+(v16f a, v16f b) { return {a.v + b.v}; }
KLENS_INLINE v16f operator-(v16f a, v16f b) { return {a.v - b.v}; }
KLENS_INLINE v16f operator*(v16f a, v16f b) { return {a.v * b.v}; }
KLENS_INLINE v16f operator/(v16f a, v16f b) { return {a.v / b.v}; }
KLENS_INLINE v16f fma(v16f a, v16f b, v16f c) {
  return simd::lanes_f(_mm512_fmadd_ps(simd::reg(a), simd::reg(b), simd::reg(c)));
}
KLENS_INLINE v16f min(v16f a, v16f b) { return simd::lanes_f(_mm512_min_ps(simd::reg(a), simd::reg(b))); }
KLENS_INLINE v16f max(v16f a, v16f b) { return simd::lanes_f(_mm512_max_ps(simd::reg(a), simd::reg(b))); }
KLENS_INLINE v16f abs(v16f a) { return simd::lanes_f(_mm512_abs_ps(simd::reg(a))); }
KLENS_INLINE v16f sqrt(v16f a) { return simd::lanes_f(_mm512_sqrt_ps(simd::reg(a))); }
KLENS_INLINE v16f round_even(v16f a) {
  return simd::lanes_f(_mm512_roundscale_ps(simd::reg(a), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

KLENS_INLINE m16 lt(v16f a, v16f b) { return {a.v < b.v}; }
KLENS_INLINE m16 le(v16f a, v16f b) { return {a.v <= b.v}; }
KLENS_INLINE m16 eq(v16f a, v16f b) { return {a.v == b.v}; }
KLENS_INLINE m16 operator&(m16 a, m16 b) { return simd::mask(__mmask16(simd::mask(a) & simd::mask(b))); }
KLENS_INLINE m16 operator|(m16 a, m16 b) { return simd::mask(__mmask16(simd::mask(a) | simd::mask(b))); }
KLENS_INLINE m16 operator!(m16 a) { return simd::mask(__mmask16(~unsigned(simd::mask(a)))); }
KLENS_INLINE m16 first_n(int n) { return simd::mask(simd::lanes_below(n)); }
KLENS_INLINE bool any(m16 a) { return simd::mask(a) != 0; }
KLENS_INLINE bool all(m16 a) { return simd::mask(a) == 0xffff; }
KLENS_INLINE v16f select(m16 m, v16f a, v16f b) { return {xsimd::select(m.v, a.v, b.v)}; }
KLENS_INLINE v16i select(m16 m, v16i a, v16i b) {
  return simd::lanes_i(_mm512_mask_blend_epi32(simd::mask(m), simd::reg(b), simd::reg(a)));
}

KLENS_INLINE v16i to_int(v16f a) { return simd::lanes_i(_mm512_cvtps_epi32(simd::reg(a))); }
KLENS_INLINE v16f to_float(v16i a) { return simd::lanes_f(_mm512_cvtepi32_ps(simd::reg(a))); }
KLENS_INLINE v16i bits(v16f a) { return simd::lanes_i(_mm512_castps_si512(simd::reg(a))); }
KLENS_INLINE v16f from_bits(v16i a) { return simd::lanes_f(_mm512_castsi512_ps(simd::reg(a))); }

KLENS_INLINE v16i operator+(v16i a, v16i b) { return {a.v + b.v}; }
KLENS_INLINE v16i operator-(v16i a, v16i b) { return {a.v - b.v}; }
KLENS_INLINE v16i operator*(v16i a, v16i b) { return simd::lanes_i(_mm512_mullo_epi32(simd::reg(a), simd::reg(b))); }
KLENS_INLINE v16i operator&(v16i a, v16i b) { return simd::lanes_i(_mm512_and_si512(simd::reg(a), simd::reg(b))); }
KLENS_INLINE v16i operator|(v16i a, v16i b) { return simd::lanes_i(_mm512_or_si512(simd::reg(a), simd::reg(b))); }
KLENS_INLINE v16i operator^(v16i a, v16i b) { return simd::lanes_i(_mm512_xor_si512(simd::reg(a), simd::reg(b))); }
KLENS_INLINE v16i shl(v16i a, int n) { return simd::lanes_i(_mm512_slli_epi32(simd::reg(a), unsigned(n))); }
KLENS_INLINE v16i shr(v16i a, int n) { return simd::lanes_i(_mm512_srli_epi32(simd::reg(a), unsigned(n))); }
KLENS_INLINE v16i sar(v16i a, int n) { return simd::lanes_i(_mm512_srai_epi32(simd::reg(a), unsigned(n))); }
KLENS_INLINE m16 eq_i(v16i a, v16i b) { return simd::mask(_mm512_cmpeq_epi32_mask(simd::reg(a), simd::reg(b))); }
KLENS_INLINE m16 gt_i(v16i a, v16i b) { return simd::mask(_mm512_cmpgt_epi32_mask(simd::reg(a), simd::reg(b))); }
/// table[i & 7] of 8 words, stored twice: the low bits of an index choose.
KLENS_INLINE v16i lookup8(v16i table, v16i i) {
  return simd::lanes_i(_mm512_permutexvar_epi32(simd::reg(i), simd::reg(table)));
}
/// Rounded to a binary16 (nearest even) and back.
KLENS_INLINE v16f through_half(v16f a) {
  constexpr int mode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return simd::lanes_f(_mm512_cvtph_ps(_mm512_cvtps_ph(simd::reg(a), mode)));
}
KLENS_INLINE v16i min_i(v16i a, v16i b) { return simd::lanes_i(_mm512_min_epi32(simd::reg(a), simd::reg(b))); }
KLENS_INLINE v16i max_i(v16i a, v16i b) { return simd::lanes_i(_mm512_max_epi32(simd::reg(a), simd::reg(b))); }

namespace simd {
/// The fixed tree: (i, i+8), (i, i+4), (i, i+2), (i, i+1).
template <class Op8, class Op4>
KLENS_INLINE float tree(v16f a, Op8&& op8, Op4&& op4) {
  const __m256 h8 = op8(_mm512_castps512_ps256(reg(a)), _mm512_extractf32x8_ps(reg(a), 1));
  const __m128 h4 = op4(_mm256_castps256_ps128(h8), _mm256_extractf128_ps(h8, 1));
  const __m128 h2 = op4(h4, _mm_movehl_ps(h4, h4));
  return _mm_cvtss_f32(op4(h2, _mm_shuffle_ps(h2, h2, 1)));
}
}  // namespace simd

KLENS_INLINE float sum(v16f a) {
  return simd::tree(a, [](__m256 x, __m256 y) { return _mm256_add_ps(x, y); },
      [](__m128 x, __m128 y) { return _mm_add_ps(x, y); });
}
KLENS_INLINE float max_of(v16f a) {
  return simd::tree(a, [](__m256 x, __m256 y) { return _mm256_max_ps(x, y); },
      [](__m128 x, __m128 y) { return _mm_max_ps(x, y); });
}
KLENS_INLINE float min_of(v16f a) {
  return simd::tree(a, [](__m256 x, __m256 y) { return _mm256_min_ps(x, y); },
      [](__m128 x, __m128 y) { return _mm_min_ps(x, y); });
}
KLENS_INLINE std::int32_t sum_i(v16i a) { return _mm512_reduce_add_epi32(simd::reg(a)); }

}  // namespace klens::inline KLENS_NS
