// Linear against the oracle: every codec, granularity and kind of row, shapes around the tiles; equal bits on all
// levels, for any split of panels and tokens.
#include "linear_fixture.hpp"

#include <initializer_list>

namespace {

using fixture::formats;
using fixture::Guarded;
using fixture::LinearCase;

struct Size { int rows, cols, tokens; };

void check(const LinearCase& c, const char* what) {
  const Guarded y = fixture::run(c, fixture::active());
  const auto j = fixture::judge(c, y);
  INFO(what, ": rows ", c.rows, " cols ", c.cols, " tokens ", c.tokens);
  CHECK(j.wrong == 0);
  CHECK(j.outside == 0);
  CHECK(j.dirty == 0);
}

}  // namespace

TEST_CASE("the oracle itself: hand-computed cases") {
  oracle::Linear m;
  m.rows = 2, m.cols = 2, m.integers = true, m.integer_dot = 8, m.q = {1, -2, 3, 4}, m.scale = {0.5f, 2.0f};
  const oracle::Row x{{10, 20}, true, 0.25f};
  const float bias = 1, residual = -3;
  CHECK(oracle::linear(m, x, 0, nullptr, nullptr).expected == -3.75f);   // (10 - 40) * 0.5 * 0.25
  CHECK(oracle::linear(m, x, 1, &bias, &residual).expected == 53.0f);    // (30 + 80) * 2 * 0.25 + 1 - 3
  m.group = 1, m.scale = {0.5f, 2.0f, 1.0f, 4.0f};
  CHECK(oracle::linear(m, x, 0, nullptr, nullptr).expected == -18.75f);  // (10 * 0.5 - 40 * 2) * 0.25
  CHECK(oracle::linear(m, x, 1, nullptr, nullptr).truth == 87.5);        // (30 * 1 + 80 * 4) * 0.25
  const auto q = oracle::quantize({-127, 2.5f, 3.5f, 0.49f}, 127);
  CHECK(q.scale == 1.0f);
  CHECK(q.q == std::vector<int>{-127, 2, 4, 0});
}

TEST_CASE("linear equals the oracle in every format") {
  // Rows around panels and panel pairs; inputs around units, groups and blocks; tokens around GEMV and GEMM tiles.
  const Size sizes[] = {{16, 31, 1}, {17, 48, 2}, {80, 44, 1}, {130, 192, 3}, {44, 528, 5}, {15, 12, 9}, {33, 96, 13},
      {44, 1030, 16}};
  unsigned seed = 1;
  for (const std::string& format : formats())
    for (const Size& s : sizes) check(LinearCase(format, s.rows, s.cols, s.tokens, seed++), format.c_str());
}

TEST_CASE("linear: every small token count, odd sizes") {
  unsigned seed = 7;
  for (const char* format : {"f32", "bf16", "nf4g64", "w8", "w4g32", "w8a8", "w5a8", "w4g32a8", "w3g128a8", "w6a16",
      "w8g64a16", "w2a16"}) {
    for (int tokens = 1; tokens <= 9; ++tokens) check(LinearCase(format, 70, 77, tokens, seed++), format);
    for (const Size& s : std::initializer_list<Size>{{1, 1, 1}, {1, 3, 40}, {15, 2049, 2}, {44, 2049, 13},
        {130, 31, 40}})
      check(LinearCase(format, s.rows, s.cols, s.tokens, seed++), format);
  }
}

TEST_CASE("linear: extreme integers stay exact") {
  unsigned seed = 3;
  for (const char* format : {"w8a8", "w8g32a8", "w4a8", "w2g128a8", "w8a16", "w8g128a16", "w6a16", "w5g32a16",
      "nf4g32a8", "w3a16"})
    for (const int tokens : {1, 4, 13})
      check(LinearCase(format, 47, 2049, tokens, seed++, LinearCase::extreme), format);
}

TEST_CASE("linear: all levels give the bits of ref; GEMM rows are GEMV rows; any split is the whole") {
  unsigned seed = 11;
  for (const std::string& format : formats()) {
    const LinearCase c(format, 95, 549, 27, seed++);
    const Guarded whole = fixture::run(c, fixture::active());
    INFO(format);
    CHECK(fixture::same_bits(whole, fixture::run(c, fixture::reference())));
    for (int t = 0; t < c.tokens;) {
      const int n = std::min(1 + t % 5, c.tokens - t);
      CHECK(fixture::part_is_equal(c, fixture::active(), whole, t, n));
      t += n;
    }
    const klens::FlushDenormals flush;
    Guarded by_panel(c.tokens * c.y_stride);
    for (const auto& [begin, end] : {std::pair{5, 6}, std::pair{0, 3}, std::pair{3, 5}}) {
      klens::LinearArgs a = c.args(by_panel.data(), fixture::scratch());
      a.begin = begin, a.end = end;
      klens::linear_of(fixture::active(), c.precision)(a);
    }
    CHECK(fixture::same_bits(whole, by_panel));
  }
}

TEST_CASE("linear: many tokens, more than one chunk") {
  for (const char* format : {"f32", "w4g32", "w8a8", "w8a16"}) check(LinearCase(format, 20, 520, 530, 5), format);
}

TEST_CASE("linear: the residual may be y") {
  for (const int tokens : {3, 20}) {
    LinearCase c("w4g32", 44, 528, tokens, 4);
    const Guarded apart = fixture::run(c, fixture::active());
    Guarded y(tokens * c.y_stride);
    std::copy(c.residual.data(), c.residual.data() + c.residual.size(), y.data());
    REQUIRE(c.with_residual);
    klens::LinearArgs a = c.args(y.data(), fixture::scratch());
    a.residual = y.data();
    const klens::FlushDenormals flush;
    klens::linear_of(fixture::active(), c.precision)(a);
    int wrong = 0;
    for (int t = 0; t < tokens; ++t)
      for (int n = 0; n < 44; ++n) wrong += y[t * c.y_stride + n] != apart[t * c.y_stride + n];
    CHECK(wrong == 0);
  }
}

TEST_CASE("linear: tripwires") {
  for (const char* format : {"f32", "w4g32", "w8a8", "w6g64a8", "w5a16", "nf4g32"}) {
    for (const int tokens : {2, 14}) {
      INFO(format);
      LinearCase weight(format, 33, 100, tokens, 9);
      weight.lines[64 * 3 + 6] ^= 0x40;  // a high bit of row 1 or 3: beyond the bound as well
      const auto j = fixture::judge(weight, fixture::run(weight, fixture::active()));
      CHECK(j.wrong > 0);
      CHECK(j.outside > 0);
      LinearCase input(format, 33, 100, tokens, 9);
      const std::size_t at = std::size_t(input.stride + 6);  // token 1, input 6: place 5 of the 16-bit order
      input.f32[at] += 1, input.q8[at] = std::int8_t(input.q8[at] ^ 1),
          input.q16[at - 1] = std::int16_t(input.q16[at - 1] ^ 1);
      CHECK(fixture::judge(input, fixture::run(input, fixture::active())).wrong > 0);
      if (input.truth.scale.empty()) continue;
      LinearCase scale(format, 33, 100, tokens, 9);
      scale.scales[1] ^= 0x04;
      CHECK(fixture::judge(scale, fixture::run(scale, fixture::active())).wrong > 0);
    }
  }
}
