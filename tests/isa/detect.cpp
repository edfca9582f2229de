// Features from invented CPUID words: a feature counts only when the operating system saves its registers.
#include <klens/isa/detect.hpp>

#include <doctest/doctest.h>

namespace {

using namespace klens;

/// A CPU that answers yes to everything, under an operating system that saves `xcr0`.
constexpr CpuidWords everything(std::uint64_t xcr0, bool osxsave = true) {
  CpuidWords w{~0u, ~0u, ~0u, ~0u, ~0u, ~0u, xcr0};
  if (!osxsave) w.leaf1_ecx &= ~(1u << 27);
  return w;
}

constexpr Features full = features_of(everything(0x600e7));
static_assert(full == Features{(1u << feature_count) - 1});
static_assert(supports(full, Level::avx512_vnni) && supports(full, Level::avx_vnni));
static_assert(features_of(everything(0x600e7, false)) == features(Feature::bmi2),
    "no OSXSAVE: no vector registers at all");
static_assert(features_of(everything(0x3)) == features(Feature::bmi2), "ymm state not saved");
static_assert(supports(features_of(everything(0x7)), Level::avx_vnni) &&
    !supports(features_of(everything(0x7)), Level::avx512));
static_assert(!has(features_of(everything(0x67)), Feature::avx512f), "opmask and the upper halves, but not zmm16-31");
static_assert(!has(features_of(everything(0x200e7)), Feature::amx_tile), "tile data not saved");
static_assert(features_of({}) == Features{});

constexpr CpuidWords without(int leaf7_ebx_bit) {
  CpuidWords w = everything(0xe7);
  w.leaf7_ebx &= ~(1u << leaf7_ebx_bit);
  return w;
}
static_assert(!supports(features_of(without(5)), Level::avx2) && !supports(features_of(without(30)), Level::avx512));
static_assert(supports(features_of(without(30)), Level::avx_vnni));

}  // namespace

TEST_CASE("names of features and levels are distinct and round-trip") {
  for (int i = 0; i < feature_count; ++i)
    for (int j = 0; j < i; ++j) CHECK(name_of(Feature(i)) != name_of(Feature(j)));
  for (const Level level : all_levels) CHECK(parse_level(name_of(level)) == level);
  CHECK(!parse_level("avx"));
}

TEST_CASE("detection agrees with the compiler's own") {
  const Features cpu = detect();
  CHECK(has(cpu, Feature::avx2) == bool(__builtin_cpu_supports("avx2")));
  CHECK(has(cpu, Feature::fma) == bool(__builtin_cpu_supports("fma")));
  CHECK(has(cpu, Feature::avx512f) == bool(__builtin_cpu_supports("avx512f")));
  CHECK(has(cpu, Feature::avx512bw) == bool(__builtin_cpu_supports("avx512bw")));
  CHECK(has(cpu, Feature::avx512_vnni) == bool(__builtin_cpu_supports("avx512vnni")));
}
