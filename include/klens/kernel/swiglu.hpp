// SwiGLU: y[t][i] = silu(gate[t][i]) * up[t][i], silu(x) = x / (1 + exp(-x)) with a true division; GeGLU: gelu for silu,
// gelu(x) = x Phi(x) = x - x erfc(x / sqrt 2) / 2, and of negative x: x erfc(-x / sqrt 2) / 2 (erf, not tanh).
//
//   erfc(z) = t exp(P(t) - z^2),  t = 1 / (1 + z / 2),  z >= 0;  P: degree 9, least squares on Chebyshev nodes for z in
//   [0, 9.4], within 4.5e-8; beyond, erfc is below 2^-126
//
// Whole vectors are read and written up to round_up(width, 16); zero padding stays zero. y may be gate or up.
// Bytes: 12 per element. Error: 4 ulp (3 of silu, 1 of the product); gelu:
// 4e-7 |x| (1 + x^2 erfc). Oracle: tests/oracle/sequence.hpp; test
// tests/kernel/norm.cpp.
#pragma once

#include <klens/kernel/args.hpp>
#include <klens/simd/math.hpp>

namespace klens::inline KLENS_NS {

namespace swiglu_detail {

/// erfc(z) for z >= 0.
KLENS_INLINE v16f erfc_of(v16f z) {
  const v16f t = splat(1.0f) / fma(splat(0.5f), z, splat(1.0f));
  v16f p = splat(0x1.1dcabap-3f);
  for (const float c : {-0x1.4d7ca0p-1f, 0x1.163fa4p+0f, -0x1.349110p-1f, -0x1.44284ap-3f, 0x1.60c698p-5f, 0x1.4bcc5ap-6f, 0x1.8f0714p-2f,
                        0x1.ff1decp-1f, -0x1.43f33cp+0f})
    p = fma(p, t, splat(c));
  return t * exp_below_88(fma(neg(z), z, p));
}

KLENS_INLINE v16f gelu(v16f x) {
  const v16f half = splat(0.5f) * erfc_of(abs(x) * splat(0x1.6a09e6p-1f));
  return x * select(lt(x, zero()), half, splat(1.0f) - half);
}

}  // namespace swiglu_detail

inline void geglu(const SwigluArgs& a) {
  for (int t = a.begin; t < a.end; ++t) {
    const float* gate = a.gate + t * a.stride;
    const float* up = a.up + t * a.stride;
    float* y = a.y + t * a.stride;
    for (int i = 0; i < a.width; i += lanes) store(y + i, swiglu_detail::gelu(load(gate + i)) * load(up + i));
  }
}

inline void swiglu(const SwigluArgs& a) {
  for (int t = a.begin; t < a.end; ++t) {
    const float* gate = a.gate + t * a.stride;
    const float* up = a.up + t * a.stride;
    float* y = a.y + t * a.stride;
    for (int i = 0; i < a.width; i += lanes) store(y + i, silu(load(gate + i)) * load(up + i));
  }
}

}  // namespace klens::inline KLENS_NS
