// The three inner steps of every linear: acc += weights of 16 outputs x broadcast inputs. Exact integers, one rounding
// for fma.
//
//   fma_step(acc, w, x)   acc[r] = fma(w[r], *x, acc[r])                              16 floats x one float
//   dot_u8(acc, w, x)     acc[r] += sum_{j<4} u8 w[4r+j] * s8 x[j]                    vpdpbusd (never its saturating form)
//   dot_s16(acc, w, x)    acc[r] += sum_{j<2} s16 w[2r+j] * s16 x[j]                  vpdpwssd, or vpmaddwd and an add
//   even16(line), odd16(line)   bytes 0, 2 (1, 3) of each dword of u8 as two int16: q16 rows hold 4 inputs as 0 2 1 3
//
// x in memory, or, for several lines of w, shared_input(x), at 512 bits a register: CPUs with two 512-bit products a cycle
// have two loads a cycle too, and a tile of 12 x 2 with x in memory has 26 of them for 24 products (Zen 5: 88 to 91 % of the
// peak, broadcast once 94 to 98).
//
// int32 sums wrap, as the instructions do; callers see to it that the true value fits. Inline assembly with the
// accumulator tied: from intrinsics gcc 12 copies and spills a full tile (12 x 2 zmm: 18 stack accesses per step).
// 256-bit VNNI is spelled {vex}: without it the assembler may take the AVX-512 encoding, which AVX-VNNI machines do not
// have.
#pragma once

#include <klens/simd/v16f.hpp>

#include <cstring>

namespace klens::inline KLENS_NS {

#if defined(KLENS_HAS_AVX512)

/// The four bytes at p in every lane. Assembly: from intrinsics gcc 12 makes it an operand of each use again.
KLENS_INLINE v16i broadcast4(const void* p) {
  __m512i v;
  asm("vpbroadcastd %1, %0" : "=v"(v) : "m"(*static_cast<const unsigned char(*)[4]>(p)));
  return simd::lanes_i(v);
}
KLENS_INLINE void fma_step(v16f& acc, v16f w, v16i x) {
  __m512 a = acc.v.data;
  asm("vfmadd231ps %2, %1, %0" : "+v"(a) : "v"(w.v.data), "v"(x.v.data));
  acc.v.data = a;
}
KLENS_INLINE void fma_step(v16f& acc, v16f w, const float* x) {
  __m512 a = acc.v.data;
  asm("vfmadd231ps %2%{1to16%}, %1, %0" : "+v"(a) : "v"(w.v.data), "m"(*x));
  acc.v.data = a;
}
#if defined(KLENS_HAS_VNNI)
KLENS_INLINE void dot_u8(v16i& acc, v16i w, v16i x) {
  __m512i a = acc.v.data;
  asm("vpdpbusd %2, %1, %0" : "+v"(a) : "v"(w.v.data), "v"(x.v.data));
  acc.v.data = a;
}
KLENS_INLINE void dot_s16(v16i& acc, v16i w, v16i x) {
  __m512i a = acc.v.data;
  asm("vpdpwssd %2, %1, %0" : "+v"(a) : "v"(w.v.data), "v"(x.v.data));
  acc.v.data = a;
}
KLENS_INLINE void dot_u8(v16i& acc, v16i w, const std::int8_t* x) {
  __m512i a = acc.v.data;
  asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(a) : "v"(w.v.data), "m"(*reinterpret_cast<const std::int8_t(*)[4]>(x)));
  acc.v.data = a;
}
KLENS_INLINE void dot_s16(v16i& acc, v16i w, const std::int16_t* x) {
  __m512i a = acc.v.data;
  asm("vpdpwssd %2%{1to16%}, %1, %0" : "+v"(a) : "v"(w.v.data), "m"(*reinterpret_cast<const std::int16_t(*)[2]>(x)));
  acc.v.data = a;
}
#else
KLENS_INLINE void dot_s16(v16i& acc, v16i w, const std::int16_t* x) {
  int pair;
  std::memcpy(&pair, x, 4);
  __m512i a = acc.v.data, product = _mm512_madd_epi16(w.v.data, _mm512_set1_epi32(pair));
  asm("vpaddd %1, %0, %0" : "+v"(a) : "v"(product));
  acc.v.data = a;
}
#endif
KLENS_INLINE v16i even16(v16i line) { return line & splat_i(0x00ff00ff); }
KLENS_INLINE v16i odd16(v16i line) { return simd::lanes_i(_mm512_srli_epi16(simd::reg(line), 8)); }

#elif defined(KLENS_HAS_AVX2)

KLENS_INLINE void fma_step(v16f& acc, v16f w, const float* x) {
  const __m256 b = _mm256_broadcast_ss(x);
  __m256 low = acc.a.data, high = acc.b.data;
  asm("vfmadd231ps %2, %1, %0" : "+x"(low) : "x"(w.a.data), "x"(b));
  asm("vfmadd231ps %2, %1, %0" : "+x"(high) : "x"(w.b.data), "x"(b));
  acc.a.data = low, acc.b.data = high;
}
namespace simd {
KLENS_INLINE __m256i dword_of(const void* p) {
  int value;
  std::memcpy(&value, p, 4);
  return _mm256_set1_epi32(value);
}
}  // namespace simd
#if defined(KLENS_HAS_VNNI) && !defined(KLENS_EMULATE_VNNI_INT8)
KLENS_INLINE void dot_u8(v16i& acc, v16i w, const std::int8_t* x) {
  const __m256i b = simd::dword_of(x);
  __m256i low = acc.a.data, high = acc.b.data;
  asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(low) : "x"(w.a.data), "x"(b));
  asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(high) : "x"(w.b.data), "x"(b));
  acc.a.data = low, acc.b.data = high;
}
KLENS_INLINE void dot_s16(v16i& acc, v16i w, const std::int16_t* x) {
  const __m256i b = simd::dword_of(x);
  __m256i low = acc.a.data, high = acc.b.data;
  asm("%{vex%} vpdpwssd %2, %1, %0" : "+x"(low) : "x"(w.a.data), "x"(b));
  asm("%{vex%} vpdpwssd %2, %1, %0" : "+x"(high) : "x"(w.b.data), "x"(b));
  acc.a.data = low, acc.b.data = high;
}
#else
KLENS_INLINE void dot_s16(v16i& acc, v16i w, __m256i pairs) {
  __m256i low = acc.a.data, high = acc.b.data;
  asm("vpaddd %1, %0, %0" : "+x"(low) : "x"(_mm256_madd_epi16(w.a.data, pairs)));
  asm("vpaddd %1, %0, %0" : "+x"(high) : "x"(_mm256_madd_epi16(w.b.data, pairs)));
  acc.a.data = low, acc.b.data = high;
}
KLENS_INLINE void dot_s16(v16i& acc, v16i w, const std::int16_t* x) { dot_s16(acc, w, simd::dword_of(x)); }
#endif
KLENS_INLINE v16i even16(v16i line) { return line & splat_i(0x00ff00ff); }
KLENS_INLINE v16i odd16(v16i line) {
  return simd::lanes_i(_mm256_srli_epi16(simd::reg(line.a), 8), _mm256_srli_epi16(simd::reg(line.b), 8));
}
#if defined(KLENS_EMULATE_VNNI_INT8)
KLENS_NOINLINE inline void dot_u8(v16i& acc, v16i w, const std::int8_t* x) {
  const std::int16_t wide[4] = {x[0], x[2], x[1], x[3]};
  dot_s16(acc, even16(w), wide), dot_s16(acc, odd16(w), wide + 2);
}
#endif

#else

// Out of line: inlined into the unrolled tiles of every codec, sixteen lanes of code each would be megabytes.
KLENS_NOINLINE inline void fma_step(v16f& acc, const v16f& w, const float* x) {
  for (int r = 0; r < 16; ++r) acc.v[r] = __builtin_fmaf(w.v[r], *x, acc.v[r]);
}
KLENS_NOINLINE inline void dot_s16(v16i& acc, const v16i& w, const std::int16_t* x) {
  for (int r = 0; r < 16; ++r) {
    const std::uint32_t u = std::uint32_t(w.v[r]);
    const std::int32_t low = std::int16_t(u), high = std::int16_t(u >> 16);
    acc.v[r] = std::int32_t(std::uint32_t(acc.v[r]) + std::uint32_t(low * x[0]) + std::uint32_t(high * x[1]));
  }
}
KLENS_INLINE v16i even16(v16i line) { return line & splat_i(0x00ff00ff); }
KLENS_INLINE v16i odd16(v16i line) { return shr(line, 8) & splat_i(0x00ff00ff); }

#endif

/// x of several steps: broadcast once where registers are many, else as it is.
#if defined(KLENS_HAS_AVX512)
KLENS_INLINE v16i shared_input(const void* x) { return broadcast4(x); }
#else
template <class X>
KLENS_INLINE const X* shared_input(const X* x) { return x; }
#endif
template <bool Shared, class X>
KLENS_INLINE auto input_of(const X* x) {
  if constexpr (Shared) return shared_input(x);
  else return x;
}

/// Codes of at most 6 bits on levels without VNNI: int16 sums of products of bytes, at 4 bits twice as fast as dot_s16.
///   product_u4(w, x)    [r][h] = w[4r+2h] * x[2h] + w[4r+2h+1] * x[2h+1], h = 0, 1, in int16   vpmaddubsw
///   dot_u4(acc, w, x)   acc[r][h] += product_u4(w, x)[r][h]
///   add_pairs(acc, n)   acc[r] += n[r][0] + n[r][1]
/// A pair is at most 2 * (2^bits - 1) * 127, so dot_u4_steps of them stay below 32768: nothing saturates, nothing
/// wraps.
template <int Bits>
inline constexpr int dot_u4_steps = Bits <= 4 ? 8 : Bits == 5 ? 4 : Bits == 6 ? 2 : 1;
static_assert(8 * 2 * 15 * 127 < 32768 && 4 * 2 * 31 * 127 < 32768 && 2 * 2 * 63 * 127 < 32768);
#if defined(KLENS_HAS_AVX2) && !defined(KLENS_HAS_VNNI)
inline constexpr bool has_dot_u4 = true;
#if defined(KLENS_HAS_AVX512)
KLENS_INLINE v16i product_u4(v16i w, v16i x) { return simd::lanes_i(_mm512_maddubs_epi16(simd::reg(w), simd::reg(x))); }
KLENS_INLINE v16i product_u4(v16i w, const std::int8_t* x) {
  int four;
  std::memcpy(&four, x, 4);
  return product_u4(w, simd::lanes_i(_mm512_set1_epi32(four)));
}
template <class X>
KLENS_INLINE void dot_u4(v16i& acc, v16i w, X x) {
  __m512i a = acc.v.data;
  asm("vpaddw %1, %0, %0" : "+v"(a) : "v"(simd::reg(product_u4(w, x))));
  acc.v.data = a;
}
KLENS_INLINE void add_pairs(v16i& acc, v16i n) {
  __m512i a = acc.v.data;
  asm("vpaddd %1, %0, %0" : "+v"(a) : "v"(_mm512_madd_epi16(n.v.data, _mm512_set1_epi16(1))));
  acc.v.data = a;
}
#else
KLENS_INLINE v16i product_u4(v16i w, const std::int8_t* x) {
  const __m256i b = simd::dword_of(x);
  return simd::lanes_i(_mm256_maddubs_epi16(simd::reg(w.a), b), _mm256_maddubs_epi16(simd::reg(w.b), b));
}
KLENS_INLINE void dot_u4(v16i& acc, v16i w, const std::int8_t* x) {
  const v16i product = product_u4(w, x);
  __m256i low = acc.a.data, high = acc.b.data;
  asm("vpaddw %1, %0, %0" : "+x"(low) : "x"(simd::reg(product.a)));
  asm("vpaddw %1, %0, %0" : "+x"(high) : "x"(simd::reg(product.b)));
  acc.a.data = low, acc.b.data = high;
}
KLENS_INLINE void add_pairs(v16i& acc, v16i n) { dot_s16(acc, n, _mm256_set1_epi16(1)); }
#endif
#else
inline constexpr bool has_dot_u4 = false;
KLENS_INLINE v16i product_u4(v16i, const std::int8_t*) { __builtin_trap(); }
KLENS_INLINE void dot_u4(v16i&, v16i, const std::int8_t*) { __builtin_trap(); }
KLENS_INLINE void add_pairs(v16i&, v16i) { __builtin_trap(); }
#endif

/// Whether a8 multiplies u8 lines by q8 rows here; other levels widen both to int16 and read q16 rows. Equal integers.
#if defined(KLENS_HAS_VNNI)
inline constexpr bool has_dot_u8 = true;
#else
inline constexpr bool has_dot_u8 = false;
#endif

}  // namespace klens::inline KLENS_NS
