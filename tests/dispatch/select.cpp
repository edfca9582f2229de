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
constexpr Features zen4 = needs(Level::avx512_vnni);
constexpr Features all_of_it{(1u << feature_count) - 1};
constexpr LevelSet every = (1u << level_count) - 1;

static_assert(choose(nothing, every, "") == Chosen{Choice::ok, Level::ref});
static_assert(choose(haswell, every, "") == Chosen{Choice::ok, Level::avx2});
static_assert(choose(alder_lake, every, "") == Chosen{Choice::ok, Level::avx_vnni});
static_assert(choose(skylake_x, every, "") == Chosen{Choice::ok, Level::avx512});
static_assert(choose(zen4, every, "") == Chosen{Choice::ok, Level::avx512_vnni});
static_assert(choose(all_of_it, set_of(Level::ref) | set_of(Level::avx2), "") == Chosen{Choice::ok, Level::avx2});
static_assert(choose(zen4, every, "avx2") == Chosen{Choice::ok, Level::avx2});
static_assert(choose(zen4, every, "avx_vnni") == Chosen{Choice::not_supported, Level::avx_vnni});
static_assert(choose(zen4, set_of(Level::ref), "avx2") == Chosen{Choice::not_compiled, Level::avx2});
static_assert(choose(zen4, every, "avx3").result == Choice::unknown_name);
static_assert(choose(zen4, every, "AVX2").result == Choice::unknown_name);
static_assert(choose(nothing, set_of(Level::avx2), "").result == Choice::none);
static_assert(!supports(haswell, Level::avx512) && !supports(skylake_x, Level::avx_vnni) &&
    supports(zen4, Level::avx512));

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
  CHECK(contains(unknown, "ref, avx2, avx_vnni, avx512, avx512_vnni"));
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
