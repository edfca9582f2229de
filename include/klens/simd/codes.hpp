// Small integers from 32-bit lanes, saved in fewer instructions than lanes of any size would need:
//
//   store_codes(p, a, b)          32 lanes in [-128, 127] as bytes
//   store_0213(p, v)              16 lanes in [-32768, 32767] as int16, each four as 0 2 1 3 (kernel/args.hpp, ActRows)
//   store_sums(p, a, b, c, d)     the sums of all lanes of each, |lane| <= 4096
//
// Packing with saturation keeps such numbers; truncation (store_i8, store_i16) takes a mask before each packing on avx2.
#pragma once

#include <klens/simd/swap.hpp>
#include <klens/simd/v16f.hpp>

namespace klens::inline KLENS_NS {

KLENS_INLINE void store_codes(std::int8_t* p, v16i a, v16i b) {
#if defined(KLENS_HAS_AVX2) && !defined(KLENS_HAS_AVX512)
  const __m256i words_a = _mm256_packs_epi32(simd::reg(a.a), simd::reg(a.b));
  const __m256i words_b = _mm256_packs_epi32(simd::reg(b.a), simd::reg(b.b));
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);  // packs work in 128-bit halves
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm256_permutevar8x32_epi32(_mm256_packs_epi16(words_a, words_b), order));
#else
  store_i8(p, a), store_i8(p + 16, b);
#endif
}

KLENS_INLINE void store_0213(std::int16_t* p, v16i v) {
#if defined(KLENS_HAS_AVX2) && !defined(KLENS_HAS_AVX512)
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(simd::reg(v.a), simd::reg(v.b)), 0xd8);
  const __m256i order = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_shuffle_epi8(words, order));
#else
  store_i16(p, order_0213(v));
#endif
}

KLENS_INLINE void store_sums(std::int32_t* p, v16i a, v16i b, v16i c, v16i d) {
#if defined(KLENS_HAS_AVX512)
  const __m512i ones = _mm512_set1_epi16(1);
  const __m512i ab = _mm512_madd_epi16(_mm512_packs_epi32(simd::reg(a), simd::reg(b)), ones);  // a a b b in 128 bits
  const __m512i cd = _mm512_madd_epi16(_mm512_packs_epi32(simd::reg(c), simd::reg(d)), ones);
  const __m512i abcd = _mm512_madd_epi16(_mm512_packs_epi32(ab, cd), ones);                    // a b c d
  const __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(abcd), _mm512_extracti64x4_epi64(abcd, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1)));
#elif defined(KLENS_HAS_AVX2)
  const __m256i ones = _mm256_set1_epi16(1);
  const auto both = [](v16i v) KLENS_INLINE_LAMBDA { return _mm256_add_epi32(simd::reg(v.a), simd::reg(v.b)); };
  const __m256i ab = _mm256_madd_epi16(_mm256_packs_epi32(both(a), both(b)), ones);
  const __m256i cd = _mm256_madd_epi16(_mm256_packs_epi32(both(c), both(d)), ones);
  const __m256i abcd = _mm256_madd_epi16(_mm256_packs_epi32(ab, cd), ones);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_add_epi32(_mm256_castsi256_si128(abcd), _mm256_extracti128_si256(abcd, 1)));
#else
  p[0] = sum_i(a), p[1] = sum_i(b), p[2] = sum_i(c), p[3] = sum_i(d);
#endif
}

}  // namespace klens::inline KLENS_NS
