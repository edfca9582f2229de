// CPU features as a set of named bits, and what each level needs. Pure: tests feed invented CPUs.
#pragma once

#include <klens/isa/level.hpp>

#include <cstdint>

namespace klens {

enum class Feature : int {
  avx, avx2, fma, f16c, bmi2, avx_vnni, avx_vnni_int8,
  avx512f, avx512bw, avx512dq, avx512vl, avx512cd, avx512_vnni, avx512_bf16,
  amx_tile, amx_int8, amx_bf16
};
inline constexpr int feature_count = 17;

constexpr std::string_view name_of(Feature feature) {
  constexpr std::string_view names[feature_count] = {
      "avx",      "avx2",     "fma",      "f16c",     "bmi2",        "avx_vnni",    "avx_vnni_int8", "avx512f", "avx512bw",
      "avx512dq", "avx512vl", "avx512cd", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_int8",      "amx_bf16"};
  return names[int(feature)];
}

/// A set of features. A bit is set only when the CPU has the feature and the operating system saves its registers.
struct Features {
  std::uint32_t bits = 0;
  bool operator==(const Features&) const = default;
};

constexpr bool has(Features set, Feature f) { return (set.bits >> int(f)) & 1u; }
constexpr Features with(Features set, Feature f) { return {set.bits | 1u << int(f)}; }

template <class... F>
constexpr Features features(F... f) {
  Features set;
  ((set = with(set, f)), ...);
  return set;
}

/// What the compiler flags of a level may use: the CPU must have all of it. x86-64-v3 and v4 also imply bit-
/// manipulation instructions; bmi2 stands for them (every CPU with AVX2 and BMI2 has BMI1, LZCNT and MOVBE).
constexpr Features needs(Level level) {
  using enum Feature;
  constexpr Features v3 = features(avx, avx2, fma, f16c, bmi2);
  constexpr Features v4{v3.bits | features(avx512f, avx512bw, avx512dq, avx512vl, avx512cd).bits};
  switch (level) {
    case Level::ref: return {};
    case Level::avx2: return v3;
    case Level::avx_vnni: return with(v3, Feature::avx_vnni);
    case Level::avx512: return v4;
    case Level::avx512_vnni: return with(v4, Feature::avx512_vnni);
    case Level::avx_vnni_int8: return {v3.bits | features(avx_vnni, avx_vnni_int8).bits};
    case Level::avx512_bf16: return {v4.bits | features(avx512_vnni, avx512_bf16).bits};
    case Level::amx_int8: return {v4.bits | features(avx512_vnni, avx512_bf16, amx_tile, amx_int8).bits};
  }
  return {~0u};
}

constexpr bool supports(Features cpu, Level level) { return (cpu.bits & needs(level).bits) == needs(level).bits; }

}  // namespace klens
