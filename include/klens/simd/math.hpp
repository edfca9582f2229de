// exp2, exp, softplus, sigmoid, SiLU on 16 virtual lanes: the same bits on every ISA level.
//
//   exp2(x)     x = k / 8 + r, k = nearest integer by the magic number 1.5 2^20, r in [-1/16, 1/16]; 2^(k/8) from a
//               table of 8 in a register, 2^r by a degree-3 minimax polynomial with c0 = 1 exactly (and 2^0 of the table
//               exact: 1 - exp2(x) keeps its accuracy for x -> 0, where the scan's gain is 1 / (1 - decay)). 4 FMA and a
//               shuffle; degree 6 without a table took 6 FMA, the port that bounds the scan. <= 1.15 ulp
//   exp(x)      x = n ln2 + r, n = nearest integer by 1.5 2^23, r in two pieces, a degree-6 polynomial with c0 = c1 = 1;
//               2^n by an integer add to the exponent field. <= 1.1 ulp
//   softplus    max(x, 0) + log1p(exp(-|x|)), log1p(f) = f - s (f - R(s^2)), s = f / (2 + f). <= 2 ulp for every x,
//               x << 0 too, where it tends to exp(x)
//   sigmoid     1 / (1 + exp(-x)), true division. <= 2.5 ulp;   silu   x / (1 + exp(-x)). <= 2.5 ulp
//   tanh        |x| < 5/8: x + x z P(z), z = x^2, degree 4; else 1 - 2 / (exp(2 |x|) + 1) with x's sign. <= 2 ulp
//   turned      cos and sin of 2 pi t, t in turns, |t| < 2^20: 4 t = k + r, r in [-1/2, 1/2] exactly; polynomials in r^2 of
//               degree 3 (sine) and 4 (cosine, c0 = 1 exactly), swapped and signed by k mod 4. <= 2^-23 of 1; whole quarters exact
//
// Arguments are clamped: exp2 to [-126, 127.93], exp to [-126, 128) over log2(e), so results are normal numbers, never
// 0 or infinity; NaN gives NaN. Division, not reciprocal approximations: those differ between vendors.
// Proof: dense sweeps against float64 in tests/kernel/math.cpp.
#pragma once

#include <klens/simd/unroll.hpp>
#include <klens/simd/v16f.hpp>

namespace klens::inline KLENS_NS {
namespace math_detail {

/// p 2^n with n in the low bits of `magic_sum` = n + 1.5 2^23: the bits above n fall out at the top of the shift.
KLENS_INLINE v16f scale_by_power(v16f p, v16f magic_sum) { return from_bits(bits(p) + shl(bits(magic_sum), 23)); }

inline constexpr float magic = 0x1.8p23f;

/// 2^(k/8), less k at the bits where x + 1.5 2^20 shifted by 20 adds it (with the whole part of x above it).
alignas(64) inline constexpr std::int32_t roots[16] = {
    0x3f800000, 0x3f7b95c2, 0x3f7837f0, 0x3f75fed7, 0x3f7504f3, 0x3f75672a, 0x3f7744fd, 0x3f7ac0c7,
    0x3f800000, 0x3f7b95c2, 0x3f7837f0, 0x3f75fed7, 0x3f7504f3, 0x3f75672a, 0x3f7744fd, 0x3f7ac0c7};

}  // namespace math_detail

/// 2^x for -126 <= x <= 127 or NaN: two operations less where the caller knows both ends, the same bits.
KLENS_INLINE v16f exp2_normal(v16f x) {
  const v16f eighths = splat(0x1.8p20f), sum = x + eighths, r = x - (sum - eighths);
  v16f p = splat(0x1.c6b99ap-5f);
  p = fma(p, r, splat(0x1.ec0c32p-3f));
  p = fma(p, r, splat(0x1.62e430p-1f)) * r;
  const v16f root = from_bits(lookup8(load_i(math_detail::roots), bits(sum)) + shl(bits(sum), 20));
  return fma(root, p, root);
}

/// 2^x for x <= 127: one operation less where the caller knows the sign.
KLENS_INLINE v16f exp2_below_127(v16f x) {
  return exp2_normal(max(splat(-126.0f), x));  // the operand that may be NaN comes second: it is returned
}

/// 2^x.
KLENS_INLINE v16f exp2(v16f x) { return exp2_below_127(min(splat(0x1.ffbffep6f), x)); }  // above, k / 8 would be 128

/// How many of the functions below that take an array run best side by side: step by step, all of a step before the next.
/// One after the other each is a chain of fifteen steps and more, of which the scheduler holds two or three; Zen 4 takes 14
/// cycles for a SiLU of 16 lanes four at a time and 22 one by one (256 bits 27, two at a time, and 39).
#if defined(KLENS_HAS_AVX512)
inline constexpr int at_once = 4;
#elif defined(KLENS_HAS_AVX2)
inline constexpr int at_once = 2;
#else
inline constexpr int at_once = 1;
#endif

/// e^x of K vectors, x < 88.
template <int K>
KLENS_INLINE void exp_below_88(v16f* x) {
  v16f sum[K], n[K], r[K], p[K];
  unroll<K>([&](int k) KLENS_INLINE_LAMBDA { x[k] = max(splat(-0x1.5d589ep6f), x[k]); });  // -126 ln2
  unroll<K>([&](int k) KLENS_INLINE_LAMBDA { sum[k] = fma(x[k], splat(0x1.715476p+0f), splat(math_detail::magic)); });
  unroll<K>([&](int k) KLENS_INLINE_LAMBDA { n[k] = sum[k] - splat(math_detail::magic); });
  unroll<K>([&](int k) KLENS_INLINE_LAMBDA { r[k] = fma(n[k], splat(-0x1.62e4p-1f), x[k]); });  // 15 bits: n * hi is exact
  unroll<K>([&](int k) KLENS_INLINE_LAMBDA { r[k] = fma(n[k], splat(-0x1.7f7d1cp-20f), r[k]); });
  unroll<K>([&](int k) KLENS_INLINE_LAMBDA { p[k] = fma(splat(0x1.709b5ep-10f), r[k], splat(0x1.12903ep-7f)); });
  unroll<K>([&](int k) KLENS_INLINE_LAMBDA { p[k] = fma(p[k], r[k], splat(0x1.555160p-5f)); });
  unroll<K>([&](int k) KLENS_INLINE_LAMBDA { p[k] = fma(p[k], r[k], splat(0x1.5553c2p-3f)); });
  unroll<K>([&](int k) KLENS_INLINE_LAMBDA { p[k] = fma(p[k], r[k], splat(0x1.000002p-1f)); });
  unroll<K>([&](int k) KLENS_INLINE_LAMBDA { p[k] = fma(p[k], r[k], splat(1.0f)); });
  unroll<K>([&](int k) KLENS_INLINE_LAMBDA { p[k] = fma(p[k], r[k], splat(1.0f)); });
  unroll<K>([&](int k) KLENS_INLINE_LAMBDA { x[k] = math_detail::scale_by_power(p[k], sum[k]); });
}
KLENS_INLINE v16f exp_below_88(v16f x) {
  exp_below_88<1>(&x);
  return x;
}

/// e^x.
template <int K>
KLENS_INLINE void exp(v16f* x) {
  unroll<K>([&](int k) KLENS_INLINE_LAMBDA { x[k] = min(splat(0x1.62e42ep6f), x[k]); });  // 128 ln2, rounded down
  exp_below_88<K>(x);
}
KLENS_INLINE v16f exp(v16f x) {
  exp<1>(&x);
  return x;
}

/// log(1 + f) of K vectors, f in [0, 1].
template <int K>
KLENS_INLINE void log1p_unit(v16f* f) {
  v16f s[K], w[K], series[K];  // log((1 + s) / (1 - s)) = 2 s + s R, R = 2/3 w + 2/5 w^2 + ..., w <= 1/9
  unroll<K>([&](int k) KLENS_INLINE_LAMBDA { s[k] = f[k] / (splat(2.0f) + f[k]); });
  unroll<K>([&](int k) KLENS_INLINE_LAMBDA { w[k] = s[k] * s[k]; });
  unroll<K>([&](int k) KLENS_INLINE_LAMBDA { series[k] = fma(splat(2.0f / 13.0f), w[k], splat(2.0f / 11.0f)); });
  unroll<K>([&](int k) KLENS_INLINE_LAMBDA { series[k] = fma(series[k], w[k], splat(2.0f / 9.0f)); });
  unroll<K>([&](int k) KLENS_INLINE_LAMBDA { series[k] = fma(series[k], w[k], splat(2.0f / 7.0f)); });
  unroll<K>([&](int k) KLENS_INLINE_LAMBDA { series[k] = fma(series[k], w[k], splat(2.0f / 5.0f)); });
  unroll<K>([&](int k) KLENS_INLINE_LAMBDA { series[k] = fma(series[k], w[k], splat(2.0f / 3.0f)); });
  unroll<K>([&](int k) KLENS_INLINE_LAMBDA { series[k] = fnma(series[k], w[k], f[k]); });
  unroll<K>([&](int k) KLENS_INLINE_LAMBDA { f[k] = fnma(s[k], series[k], f[k]); });
}

template <int K>
KLENS_INLINE void softplus(v16f* x) {
  v16f e[K];
  unroll<K>([&](int k) KLENS_INLINE_LAMBDA { e[k] = neg(abs(x[k])); });
  exp_below_88<K>(e), log1p_unit<K>(e);
  unroll<K>([&](int k) KLENS_INLINE_LAMBDA { x[k] = max(zero(), x[k]) + e[k]; });
}
KLENS_INLINE v16f softplus(v16f x) {
  softplus<1>(&x);
  return x;
}

KLENS_INLINE v16f sigmoid(v16f x) { return splat(1.0f) / (splat(1.0f) + exp(neg(x))); }

template <int K>
KLENS_INLINE void silu(v16f* x) {
  v16f e[K];
  unroll<K>([&](int k) KLENS_INLINE_LAMBDA { e[k] = neg(x[k]); });
  exp<K>(e);
  unroll<K>([&](int k) KLENS_INLINE_LAMBDA { x[k] = x[k] / (splat(1.0f) + e[k]); });
}
KLENS_INLINE v16f silu(v16f x) {
  silu<1>(&x);
  return x;
}

KLENS_INLINE v16f tanh(v16f x) {
  const v16f z = x * x, size = abs(x);
  v16f p = splat(-0x1.75e1cep-8f);
  p = fma(p, z, splat(0x1.52269cp-6f));
  p = fma(p, z, splat(-0x1.b83c5ap-5f));
  p = fma(p, z, splat(0x1.110726p-3f));
  p = fma(p, z, splat(-0x1.555532p-2f));
  const v16f large = splat(1.0f) - splat(2.0f) / (exp(size + size) + splat(1.0f));
  const v16f with_sign = from_bits(bits(large) | (bits(x) & splat_i(std::int32_t(0x80000000u))));
  return select(lt(size, splat(0.625f)), fma(p * z, x, x), with_sign);
}

/// cos and sin of 2 pi `turns`.
struct Turned { v16f cos, sin; };
KLENS_INLINE Turned turned(v16f turns) {
  const v16f quarters = turns * splat(4.0f), sum = quarters + splat(math_detail::magic);
  const v16f r = quarters - (sum - splat(math_detail::magic)), z = r * r;
  v16f s = splat(-0x1.2d9302p-8f), c = splat(0x1.d9f7bcp-11f);
  s = fma(s, z, splat(0x1.465e92p-4f)), c = fma(c, z, splat(-0x1.55c664p-6f));
  s = fma(s, z, splat(-0x1.4abbbap-1f)), c = fma(c, z, splat(0x1.03c1dep-2f));
  s = fma(s, z, splat(0x1.921fb6p+0f)) * r, c = fma(c, z, splat(-0x1.3bd3ccp+0f));
  c = fma(c, z, splat(1.0f));
  const v16i k = bits(sum);
  const m16 odd = gt_i(k & splat_i(1), splat_i(0));
  return {from_bits(bits(select(odd, s, c)) ^ shl((k + splat_i(1)) & splat_i(2), 30)),
          from_bits(bits(select(odd, c, s)) ^ shl(k & splat_i(2), 30))};
}

}  // namespace klens::inline KLENS_NS
