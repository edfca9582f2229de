// Features from invented CPUID words: a feature counts only when the operating system saves its registers.
#include <klens/isa/detect.hpp>
#include <klens/isa/fetch.hpp>

#include <doctest/doctest.h>

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

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
static_assert(supports(full, Level::amx_int8) && supports(full, Level::avx512_bf16));
static_assert(supports(full, Level::avx_vnni_int8));
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
static_assert(!supports(features_of(everything(0x200e7)), Level::amx_int8) &&
    !supports(features_of(everything(0x400e7)), Level::amx_int8), "AMX needs both XCR0 17 and 18");
static_assert(supports(features_of(everything(0xe7)), Level::avx512_bf16));

/// Everything but one bit of leaf 7.
constexpr Features lacking(std::uint32_t CpuidWords::* word, int bit) {
  CpuidWords w = everything(0x600e7);
  w.*word &= ~(1u << bit);
  return features_of(w);
}
constexpr Features no_int8 = lacking(&CpuidWords::leaf7_1_edx, 4), no_bf16 = lacking(&CpuidWords::leaf7_1_eax, 5);
static_assert(!supports(no_int8, Level::avx_vnni_int8) && supports(no_int8, Level::avx_vnni));
static_assert(!supports(no_bf16, Level::avx512_bf16) && supports(no_bf16, Level::avx512_vnni));
static_assert(!supports(lacking(&CpuidWords::leaf7_edx, 24), Level::amx_int8));
static_assert(!supports(lacking(&CpuidWords::leaf7_edx, 25), Level::amx_int8));
static_assert(supports(lacking(&CpuidWords::leaf7_edx, 22), Level::amx_int8), "bf16 tiles are not used");

static_assert(permitted(full, Tiles::granted) == full);
constexpr Features refused = permitted(full, Tiles::refused);
static_assert(!supports(refused, Level::amx_int8) && supports(refused, Level::avx512_bf16));
static_assert((refused.bits | features(Feature::amx_tile, Feature::amx_int8, Feature::amx_bf16).bits) == full.bits);
static_assert(!supports(features_of(without(5)), Level::avx2) && !supports(features_of(without(30)), Level::avx512));
static_assert(supports(features_of(without(30)), Level::avx_vnni));

}  // namespace

TEST_CASE("weights are fetched far ahead on AMD from family 1Ah on") {
  constexpr unsigned intel = 0x756e6547;
  CHECK(stops_at_pages(signature_AMD_ebx, 0x00b00f21));        // Zen 5
  CHECK(!stops_at_pages(signature_AMD_ebx, 0x00a10f11));       // Zen 4
  CHECK(!stops_at_pages(signature_AMD_ebx, 0x00100f43));       // family 10h
  CHECK(!stops_at_pages(intel, 0x000806f8));                   // Sapphire Rapids
  CHECK(!stops_at_pages(intel, 0x00b00f21));
}

TEST_CASE("names of features and levels are distinct and round-trip") {
  for (int i = 0; i < feature_count; ++i)
    for (int j = 0; j < i; ++j) CHECK(name_of(Feature(i)) != name_of(Feature(j)));
  for (const Level level : all_levels) CHECK(parse_level(name_of(level)) == level);
  CHECK(!parse_level("avx"));
}

TEST_CASE("every level with a base needs what the base needs; a base has none") {
  for (const Level level : all_levels) {
    CHECK(base_of(base_of(level)) == base_of(level));
    CHECK(int(base_of(level)) <= int(level));
    CHECK((needs(level).bits & needs(base_of(level)).bits) == needs(base_of(level)).bits);
    if (base_of(level) != level) CHECK(needs(level).bits != needs(base_of(level)).bits);
  }
}

TEST_CASE("tiles are usable exactly where the system says so, and asked for once") {
  const Tiles tiles = tiles_of_process();
  CHECK(tiles_of_process() == tiles);
  CHECK((tiles == Tiles::absent) == !has(features_of(read_cpuid()), Feature::amx_tile));
  const bool in_cpu = has(features_of(read_cpuid()), Feature::amx_int8);
  CHECK(has(detect(), Feature::amx_int8) == (tiles == Tiles::granted && in_cpu));
#if defined(__linux__)
  // The bitmap of what this process may use, bit 18 the tile data; not on systems before 5.16.
  std::uint64_t states = 0;
  if (syscall(SYS_arch_prctl, 0x1022, &states) == 0) CHECK((states >> 18 & 1) == (tiles == Tiles::granted));
#endif
}

TEST_CASE("detection agrees with the compiler's own") {
  const Features cpu = detect();
  CHECK(has(cpu, Feature::avx2) == bool(__builtin_cpu_supports("avx2")));
  CHECK(has(cpu, Feature::fma) == bool(__builtin_cpu_supports("fma")));
  CHECK(has(cpu, Feature::avx512f) == bool(__builtin_cpu_supports("avx512f")));
  CHECK(has(cpu, Feature::avx512bw) == bool(__builtin_cpu_supports("avx512bw")));
  CHECK(has(cpu, Feature::avx512_vnni) == bool(__builtin_cpu_supports("avx512vnni")));
  CHECK(has(cpu, Feature::avx512_bf16) == bool(__builtin_cpu_supports("avx512bf16")));
}
