// IEEE binary16 and bfloat16 as storage types, with constexpr conversions that round to nearest even.
// All functions are always-inline: this header is used by objects of every ISA level.
#pragma once

#include <klens/config.hpp>

#include <bit>
#include <cstdint>

namespace klens {

struct half { std::uint16_t bits; };
struct bf16 { std::uint16_t bits; };

/// Exact: every binary16 value is a float. NaN payloads are kept as the hardware keeps them (quieted).
KLENS_INLINE constexpr float to_float(half h) {
  const std::uint32_t sign = std::uint32_t(h.bits & 0x8000u) << 16;
  const std::uint32_t exponent = (h.bits >> 10) & 31u, mantissa = h.bits & 1023u;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13) | (mantissa ? 0x400000u : 0u));
  if (exponent != 0) return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
  const float magnitude = float(mantissa) * 0x1p-24f;  // subnormal: mantissa * 2^-24, exact
  return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(magnitude));
}

/// Nearest even; beyond 65504 + half an ulp becomes infinity, below 2^-25 becomes (signed) zero.
KLENS_INLINE constexpr half to_half(float f) {
  const std::uint32_t u = std::bit_cast<std::uint32_t>(f), sign = (u >> 16) & 0x8000u, a = u & 0x7fffffffu;
  if (a > 0x7f800000u) return {std::uint16_t(sign | 0x7e00u | ((a >> 13) & 0x3ffu))};
  if (a >= 0x477ff000u) return {std::uint16_t(sign | 0x7c00u)};
  if (a >= 0x38800000u) {  // normal: rebias, round the 13 dropped bits
    const std::uint32_t r = a - 0x38000000u;
    return {std::uint16_t(sign | ((r + 0xfffu + ((r >> 13) & 1u)) >> 13))};
  }
  if (a < 0x33000000u) return {std::uint16_t(sign)};
  const std::uint32_t shift = 126u - (a >> 23), m = (a & 0x7fffffu) | 0x800000u;  // subnormal: m * 2^(e-150) in units of 2^-24
  const std::uint32_t q = m >> shift, rest = m & ((1u << shift) - 1u), tie = 1u << (shift - 1u);
  return {std::uint16_t(sign | (q + ((rest > tie || (rest == tie && (q & 1u))) ? 1u : 0u)))};
}

KLENS_INLINE constexpr float to_float(bf16 b) { return std::bit_cast<float>(std::uint32_t(b.bits) << 16); }

/// Nearest even; NaN stays NaN.
KLENS_INLINE constexpr bf16 to_bf16(float f) {
  const std::uint32_t u = std::bit_cast<std::uint32_t>(f);
  if ((u & 0x7fffffffu) > 0x7f800000u) return {std::uint16_t((u >> 16) | 0x40u)};
  return {std::uint16_t((u + 0x7fffu + ((u >> 16) & 1u)) >> 16)};
}

static_assert(to_half(1.0f).bits == 0x3c00 && to_half(65504.0f).bits == 0x7bff && to_half(65520.0f).bits == 0x7c00);
static_assert(to_half(0x1p-24f).bits == 1 && to_half(0x1p-25f).bits == 0 && to_half(0x1.8p-24f).bits == 2);
static_assert(to_float(half{0x3555}) == 0x1.554p-2f && to_float(half{0x0001}) == 0x1p-24f);
static_assert(to_bf16(1.00390625f).bits == 0x3f80 && to_bf16(-2.0f).bits == 0xc000);

}  // namespace klens
