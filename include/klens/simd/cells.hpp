// Numbers of s4 as floats, and the multiply-add of attention's register tiles.
//
//   load_nibbles(p, of)   32 numbers of s4 in 16 bytes: the low nibbles, then the high ones, in [-8, 7]
//   load_nibble(p, odd)   the low 16 of them, or the high
//   prefetch_l2(p)        the line of p to L2, whatever p is. Assembly: gcc 12 takes a lambda of nothing but
//                         __builtin_prefetch for one without effect, and drops the call
//   fma_tied(acc, a, b)   acc = fma(a, b, acc), with the accumulator's register tied: see simd/dot.hpp
#pragma once

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

KLENS_INLINE v16f load_nibble(const unsigned char* p, bool odd) {
  return to_float(sar(shl(load_i8(reinterpret_cast<const std::int8_t*>(p)), odd ? 24 : 28), 28));
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

}  // namespace klens::inline KLENS_NS
