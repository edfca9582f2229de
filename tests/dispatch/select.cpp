// Choosing a level: the pure function on invented machines, the errors it gives, and this machine's tables.
#include <klens/dispatch/select.hpp>

#include <doctest/doctest.h>

#include <string>

namespace {

using namespace klens;

constexpr Features nothing{};
constexpr Features haswell = needs(Level::avx2);
constexpr Features alder_lake = needs(Level::avx_vnni);
constexpr Features skylake_x = needs(Level::avx512);
constexpr Features ice_lake = needs(Level::avx512_vnni);
constexpr Features zen4 = needs(Level::avx512_bf16);
constexpr Features sapphire_rapids{needs(Level::amx_int8).bits | needs(Level::avx_vnni).bits};
constexpr Features lunar_lake = needs(Level::avx_vnni_int8);
constexpr Features all_of_it{(1u << feature_count) - 1};
constexpr LevelSet every = (1u << level_count) - 1;

static_assert(choose(nothing, every, "") == Chosen{Choice::ok, Level::ref});
static_assert(choose(haswell, every, "") == Chosen{Choice::ok, Level::avx2});
static_assert(choose(alder_lake, every, "") == Chosen{Choice::ok, Level::avx_vnni});
static_assert(choose(skylake_x, every, "") == Chosen{Choice::ok, Level::avx512});
static_assert(choose(ice_lake, every, "") == Chosen{Choice::ok, Level::avx512_vnni});
static_assert(choose(zen4, every, "") == Chosen{Choice::ok, Level::avx512_bf16});
static_assert(choose(zen4, every & ~set_of(Level::avx512_bf16), "") == Chosen{Choice::ok, Level::avx512_vnni});
static_assert(choose(lunar_lake, every, "") == Chosen{Choice::ok, Level::avx_vnni_int8});
static_assert(choose(alder_lake, every, "avx_vnni_int8") == Chosen{Choice::not_supported, Level::avx_vnni_int8});
static_assert(choose(sapphire_rapids, every, "") == Chosen{Choice::ok, Level::amx_int8});
static_assert(choose(permitted(sapphire_rapids, Tiles::refused), every, "") == Chosen{Choice::ok, Level::avx512_bf16},
    "an operating system that refuses tiles");
static_assert(choose(permitted(sapphire_rapids, Tiles::refused), every, "amx_int8") ==
    Chosen{Choice::not_supported, Level::amx_int8});
static_assert(choose(sapphire_rapids, every & ~set_of(Level::amx_int8), "amx_int8") ==
    Chosen{Choice::not_compiled, Level::amx_int8});
static_assert(choose(all_of_it, set_of(Level::ref) | set_of(Level::avx2), "") == Chosen{Choice::ok, Level::avx2});
static_assert(choose(zen4, every, "avx2") == Chosen{Choice::ok, Level::avx2});
static_assert(choose(zen4, every, "avx_vnni") == Chosen{Choice::not_supported, Level::avx_vnni});
static_assert(choose(zen4, set_of(Level::ref), "avx2") == Chosen{Choice::not_compiled, Level::avx2});
static_assert(choose(zen4, every, "avx3").result == Choice::unknown_name);
static_assert(choose(zen4, every, "AVX2").result == Choice::unknown_name);
static_assert(choose(nothing, set_of(Level::avx2), "").result == Choice::none);
static_assert(!supports(haswell, Level::avx512) && !supports(skylake_x, Level::avx_vnni) &&
    supports(zen4, Level::avx512));

// Merging: what a level brings wins, what it lacks is its base's, what neither has stays null.
void own_linear(const LinearArgs&) {}
void base_linear(const LinearArgs&) {}
void base_norm(const RmsNormArgs&) {}
constexpr KernelTable made(Level level, Kernel<LinearArgs> a8, Kernel<LinearArgs> f32, Kernel<RmsNormArgs> norm) {
  KernelTable t{};
  t.level = level, t.rms_norm = norm;
  t.linear[int(Codec::i8)][0][int(DotKind::a8)] = a8, t.linear[int(Codec::f32)][0][int(DotKind::f32)] = f32;
  return t;
}
constexpr KernelTable overrides = made(Level::amx_int8, &own_linear, nullptr, nullptr);
constexpr KernelTable base = made(Level::avx512_vnni, &base_linear, &base_linear, &base_norm);
constexpr KernelTable both = merged(overrides, base);
static_assert(both.level == Level::amx_int8 && both.rms_norm == &base_norm && both.scan == nullptr);
static_assert(both.linear[int(Codec::i8)][0][int(DotKind::a8)] == &own_linear);
static_assert(both.linear[int(Codec::f32)][0][int(DotKind::f32)] == &base_linear);
static_assert(kernel_count(overrides) == 1 && kernel_count(base) == 3 && kernel_count(both) == 3);

std::string message(Features cpu, LevelSet compiled, std::string_view request) {
  const auto r = choose_level(cpu, compiled, request);
  REQUIRE(!r);
  CHECK(r.error().code == ErrorCode::no_kernel);
  return r.error().message();
}

bool contains(const std::string& text, std::string_view part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_CASE("a level that cannot run is an error that lists what was compiled in and what the CPU has") {
  const std::string unknown = message(haswell, every, "sse9");
  CHECK(contains(unknown, "sse9"));
  CHECK(contains(unknown, "ref, avx2, avx_vnni, avx_vnni_int8, avx512, avx512_vnni, avx512_bf16, amx_int8"));
  CHECK(contains(unknown, "this CPU has: avx, avx2, fma, f16c, bmi2"));
  const std::string missing = message(haswell, set_of(Level::ref) | set_of(Level::avx512), "avx2");
  CHECK(contains(missing, "compiled in: ref, avx512"));
  const std::string unsupported = message(haswell, every, "avx512");
  CHECK(contains(unsupported, "avx512bw"));
  CHECK(contains(message(nothing, set_of(Level::avx2), ""), "compiled in: avx2; this CPU has: none"));
}

TEST_CASE("every compiled level has a complete table of its own level") {
  int compiled = 0, checked = 0;
  for (const Level level : all_levels) {
    const KernelTable* t = table_of(level);
    if (!t) continue;
    ++compiled;
    CHECK(t->level == level);
    for (int c = 0; c < codec_count; ++c)
      for (int g = 0; g < 2; ++g)
        for (int d = 0; d < dot_kind_count; ++d) {
          CHECK((t->linear[c][g][d] != nullptr) == linear_exists(Codec(c), g == 1, DotKind(d)));
          ++checked;
        }
    CHECK((t->quantize_row && t->rms_norm && t->mean_norm && t->swiglu && t->rope && t->kv_append && t->attention));
    CHECK((t->conv1d && t->scan && t->embed && t->vocab_kl));
  }
  CHECK(compiled > 0);
  CHECK(checked == compiled * codec_count * 2 * dot_kind_count);
}

TEST_CASE("a level with a base brings only what it replaces, the rest is its base's") {
  for (const Level level : all_levels) {
    const KernelTable* own = own_table_of(level);
    const KernelTable* all = table_of(level);
    REQUIRE((own == nullptr) == (all == nullptr));
    if (!own) continue;
    INFO(name_of(level));
    CHECK(own->level == level);
    const KernelTable* under = table_of(base_of(level));
    REQUIRE(under != nullptr);
    const bool a8 = level == Level::avx_vnni_int8 || level == Level::amx_int8;
    const bool fast = level == Level::avx512_bf16 || level == Level::amx_int8;
    int foreign = 0, brought = 0, unexpected = 0;
    for_each_kernel(*own, *all, [&](auto mine, auto merged) { foreign += mine && mine != merged; });
    for_each_kernel(*all, *under, [&](auto merged, auto theirs) { brought += merged != theirs; });
    CHECK(foreign == 0);
    for (int c = 0; c < codec_count; ++c)
      for (int g = 0; g < 2; ++g)
        for (int d = 0; d < dot_kind_count; ++d) {
          const bool replaced = base_of(level) == level || (a8 && DotKind(d) == DotKind::a8);
          const bool here = replaced && linear_exists(Codec(c), g == 1, DotKind(d));
          unexpected += (own->linear[c][g][d] != nullptr) != here;
        }
    CHECK(unexpected == 0);
    CHECK((own->linear_fast[int(Codec::bf16)] != nullptr) == fast);
    CHECK((own->round_rows != nullptr) == fast);
    CHECK(brought == (base_of(level) == level ? 0 : kernel_count(*own)));
    CHECK(contains(kernels_text(level), std::to_string(kernel_count(*all)) + " kernels"));
    const std::string others = "those of " + std::string(name_of(base_of(level)));
    CHECK(contains(kernels_text(level), others) == (base_of(level) != level));
  }
}

TEST_CASE("choose_table honours an explicit name over the environment") {
  const auto ref = choose_table("ref");
  if (table_of(Level::ref)) {
    REQUIRE(bool(ref));
    CHECK((*ref)->level == Level::ref);
  }
  CHECK(!choose_table("avx1024"));
  for (const Level level : all_levels) {
    const auto chosen = choose_table(name_of(level));
    CHECK(bool(chosen) == runnable(level));
    if (chosen) CHECK((*chosen)->level == level);
  }
}
