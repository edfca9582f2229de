// The 16 virtual lanes: every operation gives the bits of `ref` on every level, and `ref` those of plain scalar code.
#include "per_level/probe.hpp"

#include <klens/core/half.hpp>
#include <klens/dispatch/select.hpp>

#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

// levels.cmake says which levels are there.
#define KLENS_DECLARE_PROBE(level) \
  namespace klens::N_##level { int probe_level(const probe::Inputs&, std::uint32_t*); }
#if defined(KLENS_PROBE_ref)
KLENS_DECLARE_PROBE(ref)
#endif
#if defined(KLENS_PROBE_avx2)
KLENS_DECLARE_PROBE(avx2)
#endif
#if defined(KLENS_PROBE_avx_vnni)
KLENS_DECLARE_PROBE(avx_vnni)
#endif
#if defined(KLENS_PROBE_avx_vnni_int8)
KLENS_DECLARE_PROBE(avx_vnni_int8)
#endif
#if defined(KLENS_PROBE_avx512)
KLENS_DECLARE_PROBE(avx512)
#endif
#if defined(KLENS_PROBE_avx512_vnni)
KLENS_DECLARE_PROBE(avx512_vnni)
#endif
#if defined(KLENS_PROBE_avx512_bf16)
KLENS_DECLARE_PROBE(avx512_bf16)
#endif
#if defined(KLENS_PROBE_amx_int8)
KLENS_DECLARE_PROBE(amx_int8)
#endif

namespace {

using klens::Level;

probe::Run run_of(Level level) {
  switch (level) {
#if defined(KLENS_PROBE_ref)
    case Level::ref: return &klens::N_ref::probe_level;
#endif
#if defined(KLENS_PROBE_avx2)
    case Level::avx2: return &klens::N_avx2::probe_level;
#endif
#if defined(KLENS_PROBE_avx_vnni)
    case Level::avx_vnni: return &klens::N_avx_vnni::probe_level;
#endif
#if defined(KLENS_PROBE_avx_vnni_int8)
    case Level::avx_vnni_int8: return &klens::N_avx_vnni_int8::probe_level;
#endif
#if defined(KLENS_PROBE_avx512)
    case Level::avx512: return &klens::N_avx512::probe_level;
#endif
#if defined(KLENS_PROBE_avx512_vnni)
    case Level::avx512_vnni: return &klens::N_avx512_vnni::probe_level;
#endif
#if defined(KLENS_PROBE_avx512_bf16)
    case Level::avx512_bf16: return &klens::N_avx512_bf16::probe_level;
#endif
#if defined(KLENS_PROBE_amx_int8)
    case Level::amx_int8: return &klens::N_amx_int8::probe_level;
#endif
    default: return nullptr;
  }
}

/// Bit patterns of every kind: all exponents, infinities, NaN, denormals, zeros of both signs, halves and integers near
/// ties.
struct Source {
  std::mt19937 dice{7};
  float next(int kind) {
    const std::uint32_t u = std::uint32_t(dice());
    switch (kind) {
      case 0: return std::bit_cast<float>(u);
      case 1: return float(std::int32_t(u)) * 1e-8f;
      case 2: return float(std::int32_t(u) >> 20) * 0.5f;
      default: {
        constexpr float odd[] = {0.0f, -0.0f, 1e-42f, -1e-42f, INFINITY, -INFINITY, 3e9f, -2147483648.0f, 65520.0f,
            0x1p-25f, 8388609.5f, 1.0f};
        return odd[u % 12];
      }
    }
  }
  probe::Inputs inputs(int kind) {
    probe::Inputs in;
    for (int i = 0; i < 16; ++i) in.a[i] = next(kind), in.b[i] = next(kind), in.c[i] = next(kind == 3 ? 1 : kind);
    return in;
  }
};

std::uint32_t word(float f) { return f != f ? 0x7fc00000u : std::bit_cast<std::uint32_t>(f); }

}  // namespace

TEST_CASE("every operation gives the bits of ref") {
  const auto table = klens::choose_table("");
  REQUIRE(bool(table));
  const probe::Run active = run_of((*table)->level), ref = run_of(Level::ref);
  REQUIRE(bool(active));
  REQUIRE(bool(ref));
  Source source;
  int different = 0, compared = 0;
  for (int n = 0; n < 4000; ++n) {
    const probe::Inputs in = source.inputs(n % 4);
    std::vector<std::uint32_t> got(probe::words), want(probe::words);
    const int count = active(in, got.data());
    REQUIRE(count == ref(in, want.data()));
    REQUIRE(count <= probe::words);
    // max_of and min_of of NaN depend on where it stands in the tree; all else is compared with NaN as well.
    const int last = n % 4 == 0 ? count - 2 : count;
    for (int i = 0; i < last; ++i) different += got[std::size_t(i)] != want[std::size_t(i)], ++compared;
  }
  CHECK(different == 0);
  CHECK(compared > 4000 * 1000);
}

TEST_CASE("ref is scalar arithmetic; the tree of sums is fixed") {
  const probe::Run ref = run_of(Level::ref);
  REQUIRE(bool(ref));
  Source source;
  int wrong = 0;
  for (int n = 0; n < 400; ++n) {
    const probe::Inputs in = source.inputs(1 + n % 2);
    std::vector<std::uint32_t> got(probe::words);
    const int count = ref(in, got.data());
    for (int i = 0; i < 16; ++i) {
      const float a = in.a[i], b = in.b[i], c = in.c[i];
      const float want[] = {a + b, a - b, a * b, a / b, std::fma(a, b, c), std::fma(a, b, -c), std::fma(-a, b, c),
                            a < b ? a : b, a > b ? a : b, std::abs(a), -a, std::sqrt(a), std::nearbyint(a)};
      for (int k = 0; k < 13; ++k) wrong += got[std::size_t(16 * k + i)] != word(want[k]);
    }
    float tree[16];
    std::memcpy(tree, in.a, sizeof tree);
    for (int half = 8; half > 0; half /= 2)
      for (int i = 0; i < half; ++i) tree[i] += tree[i + half];
    wrong += got[std::size_t(count - 5)] != word(tree[0]);
  }
  CHECK(wrong == 0);
}

TEST_CASE("tripwire: one changed lane is seen") {
  const probe::Run ref = run_of(Level::ref);
  REQUIRE(bool(ref));
  Source source;
  probe::Inputs in = source.inputs(1);
  std::vector<std::uint32_t> before(probe::words), after(probe::words);
  ref(in, before.data());
  in.b[13] += 0.5f;
  ref(in, after.data());
  CHECK(before != after);
}
