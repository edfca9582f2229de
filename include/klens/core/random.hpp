// splitmix64: 64 random bits from a counter, the same on every machine; not for secrets.
//   number i of a seed = mix(seed + (i + 1) * 0x9E3779B97F4A7C15),  i = 0, 1, ...
// so any number of a stream costs the same as the next one. Source: S. Vigna's splitmix64.c (public domain); the known
// answers are in tests/core/random.cpp.
#pragma once

#include <klens/config.hpp>

#include <cstdint>

namespace klens {

inline constexpr std::uint64_t splitmix_step = 0x9E3779B97F4A7C15u;

/// A bijection of 64 bits in which every bit depends on all.
constexpr std::uint64_t mix64(std::uint64_t z) {
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

/// The next number of a stream; a stream starts with state = seed.
constexpr std::uint64_t splitmix(std::uint64_t& state) { return mix64(state += splitmix_step); }

/// Number `index` of a seed's stream, without those before it.
constexpr std::uint64_t random_at(std::uint64_t seed, std::uint64_t index) {
  return mix64(seed + (index + 1) * splitmix_step);
}

/// In [0, 1): the high 53 bits.
constexpr double unit_interval(std::uint64_t bits) { return double(bits >> 11) * 0x1p-53; }

}  // namespace klens
