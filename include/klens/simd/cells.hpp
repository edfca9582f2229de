// Numbers of s4 as floats, and the multiply-add of attention's register tiles.
//
//   load_nibbles(p, of)   32 numbers of s4 in 16 bytes: the low nibbles, then the high ones, in [-8, 7]
//   part                  what one register holds of 16 lanes: half of them on 256 bits. load_part, store_part, splat_part
//   low_part, high_part   of bytes of s4, as load_nibbles
//   prefetch_l2(p)        the line of p to L2, whatever p is. Assembly: gcc 12 takes a lambda of nothing but
//                         __builtin_prefetch for one without effect, and drops the call
//   fma_tied(acc, a, b)   acc = fma(a, b, acc), with the accumulator's register tied: see simd/dot.hpp
#pragma once

#include <klens/core/rows.hpp>
#include <klens/simd/unpack.hpp>
#include <klens/simd/v16f.hpp>

namespace klens::inline KLENS_NS {

struct Nibbles { v16f low, high; };

/// AVX-512 looks them up in a register: three instructions instead of five.
struct NibbleValues {
#if defined(KLENS_HAS_AVX512)
  v16f values = simd::lanes_f(_mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1));
#endif
};
KLENS_INLINE Nibbles load_nibbles(const unsigned char* p, [[maybe_unused]] const NibbleValues& of) {
  const v16i bytes = load_i8(reinterpret_cast<const std::int8_t*>(p));
#if defined(KLENS_HAS_AVX512)
  return {lookup16(of.values, bytes), lookup16(of.values, shr(bytes, 4))};
#else
  return {to_float(sar(shl(bytes, 28), 28)), to_float(sar(bytes, 4))};
#endif
}

KLENS_INLINE void prefetch_l2(const void* p) {
  asm volatile("prefetcht1 %0" : : "m"(*static_cast<const unsigned char*>(p)));
}

#if defined(KLENS_HAS_AVX512)
KLENS_INLINE void fma_tied(v16f& acc, v16f a, v16f b) {
  __m512 sum = acc.v.data;
  asm("vfmadd231ps %2, %1, %0" : "+v"(sum) : "v"(a.v.data), "v"(b.v.data));
  acc.v.data = sum;
}
#elif defined(KLENS_HAS_AVX2)
KLENS_INLINE void fma_tied(v16f& acc, v16f a, v16f b) {
  __m256 low = acc.a.data, high = acc.b.data;
  asm("vfmadd231ps %2, %1, %0" : "+x"(low) : "x"(a.a.data), "x"(b.a.data));
  asm("vfmadd231ps %2, %1, %0" : "+x"(high) : "x"(a.b.data), "x"(b.b.data));
  acc.a.data = low, acc.b.data = high;
}
#else
KLENS_NOINLINE inline void fma_tied(v16f& acc, const v16f& a, const v16f& b) { acc = fma(a, b, acc); }
#endif

#if defined(KLENS_HAS_AVX2) && !defined(KLENS_HAS_AVX512)
struct part { __m256 v; };
inline constexpr int part_lanes = 8;

KLENS_INLINE part load_part(const float* p) { return {_mm256_loadu_ps(p)}; }
KLENS_INLINE part load_part(const half* p) { return {_mm256_cvtph_ps(simd::half_line(p, 0))}; }
KLENS_INLINE part load_part(const std::int8_t* p) { return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(simd::quarter_line(p, 0)))}; }
KLENS_INLINE part low_part(const unsigned char* p, const NibbleValues&) {
  return {_mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(_mm256_cvtepi8_epi32(simd::quarter_line(p, 0)), 28), 28))};
}
KLENS_INLINE part high_part(const unsigned char* p, const NibbleValues&) {
  return {_mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_cvtepi8_epi32(simd::quarter_line(p, 0)), 4))};
}
KLENS_INLINE void store_part(float* p, part x) { _mm256_storeu_ps(p, x.v); }
KLENS_INLINE part splat_part(float x) { return {_mm256_set1_ps(x)}; }
KLENS_INLINE void fma_tied(part& acc, part a, part b) {
  __m256 sum = acc.v;
  asm("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(a.v), "x"(b.v));
  acc.v = sum;
}
#else
using part = v16f;
inline constexpr int part_lanes = lanes;

KLENS_INLINE part load_part(const float* p) { return load(p); }
KLENS_INLINE part load_part(const half* p) { return load_half(p); }
KLENS_INLINE part load_part(const std::int8_t* p) { return to_float(load_i8(p)); }
KLENS_INLINE part low_part(const unsigned char* p, const NibbleValues& of) { return load_nibbles(p, of).low; }
KLENS_INLINE part high_part(const unsigned char* p, const NibbleValues& of) { return load_nibbles(p, of).high; }
KLENS_INLINE void store_part(float* p, part x) { store(p, x); }
KLENS_INLINE part splat_part(float x) { return splat(x); }
#endif

}  // namespace klens::inline KLENS_NS
