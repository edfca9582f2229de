// Lanes that change places, one shuffle per register (swap_lanes<8> on avx2: none):
//
//   swap_lanes<D>(v)   lane i gets lane i ^ D, D = 1, 2, 4, 8: what a butterfly over neighbouring lanes needs
//   order_0213(v)      each four lanes as 0 2 1 3: int16 rows of linears (kernel/args.hpp, ActRows)
#pragma once

#include <klens/core/rows.hpp>
#include <klens/simd/v16f.hpp>

namespace klens::inline KLENS_NS {

template <int D>
KLENS_INLINE v16f swap_lanes(v16f v) {
  static_assert(D == 1 || D == 2 || D == 4 || D == 8, "klens::swap_lanes<D>: D is 1, 2, 4 or 8");
#if defined(KLENS_HAS_AVX512)
  const __m512 x = simd::reg(v);
  if constexpr (D == 8) return simd::lanes_f(_mm512_shuffle_f32x4(x, x, 0x4e));
  else if constexpr (D == 4) return simd::lanes_f(_mm512_shuffle_f32x4(x, x, 0xb1));
  else return simd::lanes_f(_mm512_permute_ps(x, D == 2 ? 0x4e : 0xb1));
#elif defined(KLENS_HAS_AVX2)
  if constexpr (D == 8) return {v.b, v.a};
  else if constexpr (D == 4) return {_mm256_permute2f128_ps(v.a, v.a, 1), _mm256_permute2f128_ps(v.b, v.b, 1)};
  else return {_mm256_permute_ps(v.a, D == 2 ? 0x4e : 0xb1), _mm256_permute_ps(v.b, D == 2 ? 0x4e : 0xb1)};
#else
  v16f r = v;
  for (int i = 0; i < lanes; ++i) r.v[i] = v.v[i ^ D];
  return r;
#endif
}

KLENS_INLINE v16i order_0213(v16i v) {
#if defined(KLENS_HAS_AVX512)
  return simd::lanes_i(_mm512_shuffle_epi32(simd::reg(v), _MM_PERM_ENUM(0xd8)));
#elif defined(KLENS_HAS_AVX2)
  return simd::lanes_i(_mm256_shuffle_epi32(simd::reg(v.a), 0xd8), _mm256_shuffle_epi32(simd::reg(v.b), 0xd8));
#else
  v16i r = v;
  for (int i = 0; i < lanes; i += 4) r.v[i + 1] = v.v[i + 2], r.v[i + 2] = v.v[i + 1];
  return r;
#endif
}

}  // namespace klens::inline KLENS_NS
