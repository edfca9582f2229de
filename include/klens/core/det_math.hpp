// Deterministic elementary functions in double: only + - * /, comparisons and bit casts, so that tables computed at
// load (rotary angles, -exp(A_log), log-sum-exp) have the same bits with every libm, compiler and ISA level.
//
//   exp    x = k ln2 + r, |r| <= ln2/2, Taylor to r^13, 2^k by bits         |relative error| < 3e-16 on [-700, 700]
//   log    x = m 2^e, m in [1/sqrt 2, sqrt 2), 2 atanh((m-1)/(m+1)) as a double pair   < 2e-16 for every normal x
//   log1p  log(1 + x) with the rounding error of 1 + x put back              < 3e-16, also for tiny x
//   pow    exp(y log x) with log x as a double pair                          < 4e-16 while |y log x| < 700
//   sin cos  x - k pi/2 with pi/2 in 33 + 33 + 53 bits, Taylor               < 3e-16 for |x| <= 1e6, near zeros too
//
// All are constexpr and always inline. Build with -ffp-contract=off (an INTERFACE option of klens::klens).
// Proof: tests/core/det_math.cpp against long double and 50-digit references.
#pragma once

#include <klens/config.hpp>

#include <bit>
#include <cstdint>

namespace klens::det {

/// hi + lo, |lo| <= ulp(hi) / 2 after two_sum and two_product.
struct Pair { double hi, lo; };

KLENS_INLINE constexpr Pair two_sum(double a, double b) {
  const double s = a + b, t = s - a;
  return {s, (a - (s - t)) + (b - t)};
}

/// Dekker's product: exact while neither factor exceeds 2^996.
KLENS_INLINE constexpr Pair two_product(double a, double b) {
  const double p = a * b, ca = a * 134217729.0, cb = b * 134217729.0;  // 2^27 + 1 splits 53 bits into 26 + 26
  const double ah = ca - (ca - a), al = a - ah, bh = cb - (cb - b), bl = b - bh;
  return {p, ((ah * bh - p) + ah * bl + al * bh) + al * bl};
}

/// Nearest integer, ties to even, for |x| < 2^51.
KLENS_INLINE constexpr double nearest(double x) { return (x + 0x1.8p52) - 0x1.8p52; }

inline constexpr double ln2_hi = 0x1.62e42feep-1, ln2_lo = 0x1.a39ef35793c76p-33;  // hi: 32 bits, k * hi is exact

/// e^x; 0 below -708 (no subnormal results), infinity above 709.78.
KLENS_INLINE constexpr double exp(double x) {
  if (x != x) return x;
  if (x > 709.78) return std::bit_cast<double>(std::uint64_t(0x7ff) << 52);
  if (x < -708.0) return 0.0;
  const double k = nearest(x * 0x1.71547652b82fep+0);
  const double r = (x - k * ln2_hi) - k * ln2_lo;
  double p = 1.0 / 6227020800.0;  // 1/13!
  p = p * r + 1.0 / 479001600.0;
  p = p * r + 1.0 / 39916800.0;
  p = p * r + 1.0 / 3628800.0;
  p = p * r + 1.0 / 362880.0;
  p = p * r + 1.0 / 40320.0;
  p = p * r + 1.0 / 5040.0;
  p = p * r + 1.0 / 720.0;
  p = p * r + 1.0 / 120.0;
  p = p * r + 1.0 / 24.0;
  p = p * r + 1.0 / 6.0;
  p = p * r + 0.5;
  const double y = 1.0 + (r + r * r * p);  // in [0.7, 1.42]: two factors, as 2^1024 is no double
  const std::int64_t n = std::int64_t(k), half = n / 2;
  const double low = std::bit_cast<double>(std::uint64_t(half + 1023) << 52);
  return y * low * std::bit_cast<double>(std::uint64_t(n - half + 1023) << 52);
}

/// log x as a pair of relative error about 1e-18, for finite x > 0.
KLENS_INLINE constexpr Pair log_pair(double x) {
  std::int64_t e = 0;
  if (x < 0x1p-1022) { x *= 0x1p54; e = -54; }
  const std::uint64_t u = std::bit_cast<std::uint64_t>(x);
  e += std::int64_t(u >> 52) - 1023;
  double m = std::bit_cast<double>((u & 0xfffffffffffffull) | 0x3ff0000000000000ull);
  if (m >= 0x1.6a09e667f3bcdp+0) { m *= 0.5; ++e; }
  const double f = m - 1.0;                        // exact
  const Pair g = two_sum(m, 1.0);
  const double s = f / g.hi;                       // |s| <= 0.1716
  const Pair sg = two_product(s, g.hi);
  const double s_lo = (((f - sg.hi) - sg.lo) - s * g.lo) / g.hi;
  const double w = s * s;
  double p = 1.0 / 25.0;
  p = p * w + 1.0 / 23.0;
  p = p * w + 1.0 / 21.0;
  p = p * w + 1.0 / 19.0;
  p = p * w + 1.0 / 17.0;
  p = p * w + 1.0 / 15.0;
  p = p * w + 1.0 / 13.0;
  p = p * w + 1.0 / 11.0;
  p = p * w + 1.0 / 9.0;
  p = p * w + 1.0 / 7.0;
  p = p * w + 1.0 / 5.0;
  p = p * w + 1.0 / 3.0;
  p = p * w;                                       // log m = 2 s (1 + p), p <= 0.01
  const Pair a = two_sum(double(e) * ln2_hi, 2.0 * s);
  const double lo = a.lo + (2.0 * s_lo + 2.0 * s * p + double(e) * ln2_lo);
  return two_sum(a.hi, lo);
}

/// Natural logarithm; -infinity at 0, NaN below.
KLENS_INLINE constexpr double log(double x) {
  if (x != x || x == std::bit_cast<double>(0x7ff0000000000000ull)) return x;
  if (x < 0.0) return std::bit_cast<double>(0x7ff8000000000000ull);
  if (x == 0.0) return std::bit_cast<double>(0xfff0000000000000ull);
  const Pair l = log_pair(x);
  return l.hi + l.lo;
}

/// log(1 + x) for x > -1, with full relative accuracy near 0.
KLENS_INLINE constexpr double log1p(double x) {
  const Pair u = two_sum(1.0, x);
  if (!(u.hi > 0.0) || u.hi > 0x1p1000) return log(u.hi);
  const Pair l = log_pair(u.hi);
  return l.hi + (l.lo + u.lo / u.hi);
}

/// x^y for x > 0.
KLENS_INLINE constexpr double pow(double x, double y) {
  const Pair l = log_pair(x), t = two_product(y, l.hi);
  return exp(t.hi) * (1.0 + (t.lo + y * l.lo));
}

/// x - quadrant * pi/2 as a pair, |hi| <= pi/4; for |x| <= 1.6e6 (k below 2^20 keeps k * part exact).
struct Reduced { Pair r; int quadrant; };

KLENS_INLINE constexpr Reduced reduce_angle(double x) {
  const double k = nearest(x * 0x1.45f306dc9c883p-1);
  const double a = x - k * 0x1.921fb544p+0;        // exact: both are multiples of one ulp and the difference is below 1
  const Pair b = two_sum(a, -(k * 0x1.0b4611a6p-34));
  const Pair c = two_sum(b.hi, b.lo - k * 0x1.3198a2e037073p-69);
  return {c, int(std::int64_t(k) & 3)};
}

KLENS_INLINE constexpr double sin_reduced(Pair r) {
  const double w = r.hi * r.hi;
  double p = 1.0 / 355687428096000.0;  // 1/17!
  p = p * w - 1.0 / 1307674368000.0;
  p = p * w + 1.0 / 6227020800.0;
  p = p * w - 1.0 / 39916800.0;
  p = p * w + 1.0 / 362880.0;
  p = p * w - 1.0 / 5040.0;
  p = p * w + 1.0 / 120.0;
  p = p * w - 1.0 / 6.0;
  return r.hi + (r.lo * (1.0 - 0.5 * w) + r.hi * w * p);
}

KLENS_INLINE constexpr double cos_reduced(Pair r) {
  const double w = r.hi * r.hi;
  double p = -1.0 / 6402373705728000.0;  // -1/18!
  p = p * w + 1.0 / 20922789888000.0;
  p = p * w - 1.0 / 87178291200.0;
  p = p * w + 1.0 / 479001600.0;
  p = p * w - 1.0 / 3628800.0;
  p = p * w + 1.0 / 40320.0;
  p = p * w - 1.0 / 720.0;
  p = p * w + 1.0 / 24.0;
  const double h = 0.5 * w, one = 1.0 - h;         // cos = 1 - w/2 + w^2 p - r lo; the rounding of 1 - w/2 is put back
  return one + (((1.0 - one) - h) + (w * w * p - r.hi * r.lo));
}

/// Angles in radians, |x| <= 1e6.
KLENS_INLINE constexpr double sin(double x) {
  const Reduced t = reduce_angle(x);
  const double y = (t.quadrant & 1) ? cos_reduced(t.r) : sin_reduced(t.r);
  return (t.quadrant & 2) ? -y : y;
}

KLENS_INLINE constexpr double cos(double x) {
  const Reduced t = reduce_angle(x);
  const double y = (t.quadrant & 1) ? sin_reduced(t.r) : cos_reduced(t.r);
  return ((t.quadrant + 1) & 2) ? -y : y;
}

static_assert(exp(0.0) == 1.0 && log(1.0) == 0.0 && sin(0.0) == 0.0 && cos(0.0) == 1.0 && pow(10.0, 2.0) == 100.0);

/// -e^x log2(e): the rate of a scan in the unit of exp2, from A_log.
KLENS_INLINE constexpr float decay_rate(float a_log) { return float(-exp(double(a_log)) * 0x1.71547652b82fep+0); }

}  // namespace klens::det
