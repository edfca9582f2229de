// kernel/epilogue.hpp: what a linear does to its result before it is stored. Every step against scalar float arithmetic
// or float64 on the oracle's outputs; the bits of ref, of any split, and of the separate kernels that the steps
// replace.
#include "linear_fixture.hpp"
#include "oracle/sequence.hpp"

#include <limits>
#include <memory>
#include <utility>

namespace {

using fixture::Guarded;
using fixture::LinearCase;

const char* const some_formats[] = {"f32", "bf16", "nf4g64a8", "w4g32", "w8a8", "w4g32a8", "w5a16", "w3g128a16"};
constexpr int token_counts[] = {1, 3, 8, 13};   // GEMV tiles and GEMM

/// Everything an epilogue may read or write, for 70 outputs: 4 panels and 6 rows of a fifth.
struct Extra {
  static constexpr int rows = 70, panels = 5, q_stride = 96;
  klens::Epilogue e;
  Guarded gate, absmax, column_scale;
  std::vector<std::int8_t> q8;
  std::vector<std::int16_t> q16;
  std::vector<std::int32_t> sums;

  Extra(int tokens, std::int64_t y_stride, unsigned seed)
      : gate(tokens * y_stride), absmax(tokens * panels), column_scale(panels * 16),
        q8(std::size_t(tokens * q_stride), 99),
        q16(std::size_t(tokens * q_stride), 999), sums(std::size_t(tokens * q_stride / 32), 9999) {
    fixture::Random dice(seed);
    gate.fill(0.0f), column_scale.fill(0.0f);
    for (int n = 0; n < rows; ++n) column_scale[n] = float(0.5 + dice.uniform(0, 1));
    for (int t = 0; t < tokens; ++t)
      for (int n = 0; n < rows; ++n) gate[t * y_stride + n] = float(2 * dice.normal());
    e.gate_stride = y_stride, e.absmax_stride = panels, e.q_stride = q_stride;
  }
  void scale_columns() { e.column_scale = column_scale.data(); }
  void square() { e.relu2 = true; }
  void multiply() { e.gate = gate.data(); }
  void maxima() { e.absmax = absmax.data(); }
  void requantize(float step) { e.step = step, e.q8 = q8.data(), e.q16 = q16.data(), e.sums = sums.data(); }
};

/// y and extras by `table` in calls over the panels [0, cut) and [cut, 5).
Guarded run(const LinearCase& c, const klens::KernelTable& table, const klens::Epilogue* e, int cut = 0) {
  Guarded y(c.tokens * c.y_stride);
  const klens::FlushDenormals flush;
  for (const auto& [begin, end] : {std::pair{0, cut}, std::pair{cut, Extra::panels}}) {
    klens::LinearArgs a = c.args(y.data(), fixture::scratch());
    a.epilogue = e, a.begin = begin, a.end = end;
    if (begin < end) klens::linear_of(table, c.precision)(a);
  }
  return y;
}

/// The oracle's v = scales (W x) + bias, which kernels give exactly.
float before(LinearCase& c, int t, int n) {
  const bool residual = std::exchange(c.with_residual, false);
  const float v = c.answer(t, n).expected;
  c.with_residual = residual;
  return v;
}

int integer(float v, float step) {
  const double x = double(v / step), below = std::floor(x), rest = x - below;
  if (x != x) return 0;
  const double near = rest > 0.5 || (rest == 0.5 && std::fmod(below, 2.0) != 0) ? below + 1 : below;
  return near > 127 ? 127 : near < -127 ? -127 : int(near);
}

/// Outputs that differ from scalar steps: gate, residual, maxima, integers.
struct Violations { int y = 0, absmax = 0, q = 0, sums = 0; };

Violations violations(LinearCase& c, const Guarded& y, const Extra& x) {
  constexpr int place[4] = {0, 2, 1, 3};
  Violations wrong;
  for (int t = 0; t < c.tokens; ++t) {
    float most[Extra::panels] = {};
    int sum[Extra::q_stride / 32] = {};
    for (int n = 0; n < Extra::panels * 16; ++n) {
      float v = 0;
      if (n < c.rows) {
        v = before(c, t, n);
        if (x.e.column_scale) v = v * x.column_scale[n];
        if (x.e.relu2) v = (v < 0 ? 0.0f : v) * (v < 0 ? 0.0f : v);
        if (x.e.gate) v = x.gate[t * c.y_stride + n] * v;
        if (c.with_residual) v = v + c.residual[std::size_t(t * c.y_stride + n)];
      }
      wrong.y += y[t * c.y_stride + n] != v;
      most[n / 16] = std::abs(v) > most[n / 16] ? std::abs(v) : most[n / 16];
      if (x.e.step == 0) continue;
      const int q = integer(v, x.e.step);
      const int at = t * Extra::q_stride + n;
      wrong.q += x.q8[std::size_t(at)] != q, wrong.q += x.q16[std::size_t(at / 4 * 4 + place[at % 4])] != q;
      sum[n / 32] += q;
    }
    for (int n = Extra::panels * 16; n < c.y_stride; ++n) wrong.y += y[t * c.y_stride + n] != Guarded::canary;
    for (int p = 0; p < Extra::panels; ++p)
      wrong.absmax += x.absmax[t * Extra::panels + p] != (x.e.absmax ? most[p] : Guarded::canary);
    for (int n = x.e.step > 0 ? Extra::panels * 16 : 0; n < Extra::q_stride; ++n) {
      const std::size_t at = std::size_t(t * Extra::q_stride + n);
      wrong.q += (x.q8[at] != 99) + (x.q16[at] != 999);
    }
    for (int i = 0; i < Extra::q_stride / 32; ++i)
      wrong.sums += x.sums[std::size_t(t * (Extra::q_stride / 32) + i)] != (x.e.step > 0 ? sum[i] : 9999);
  }
  wrong.y += !y.margins_intact(), wrong.absmax += !x.absmax.margins_intact();
  return wrong;
}

bool clean(const Violations& v) { return v.y == 0 && v.absmax == 0 && v.q == 0 && v.sums == 0; }

float step_for(const Guarded& y) {
  float most = 0;
  for (std::int64_t i = 0; i < y.size(); ++i)
    if (y[i] != Guarded::canary) most = std::max(most, std::abs(y[i]));
  return most / 100;   // some 1 % of values lie outside and are clamped
}

}  // namespace

TEST_CASE("the oracle itself: rounding by hand") {
  CHECK(integer(2.5f, 1) == 2);
  CHECK(integer(-3.5f, 1) == -4);
  CHECK(integer(300, 2) == 127);
  CHECK(integer(-0.75f, 0.5f) == -2);
}

TEST_CASE("epilogue: column scales, relu2, gate, residual, maxima, static integers: equal to scalar steps, alone and together") {
  unsigned seed = 1;
  for (const std::string format : some_formats)
    for (const int tokens : token_counts) {
      CAPTURE(format);
      CAPTURE(tokens);
      LinearCase c(format, Extra::rows, 148, tokens, seed++);
      for (const int which : {0, 1, 2, 4, 7, 8, 16, 31}) {
        CAPTURE(which);
        Extra x(tokens, c.y_stride, 5);
        c.with_bias = which & 1, c.with_residual = which & 2;
        if (which & 1) x.multiply();
        if (which & 2) x.maxima();
        if (which & 8) x.scale_columns();
        if (which & 16) x.square();
        if (which & 4) x.requantize(step_for(run(c, fixture::active(), nullptr)) * (which & 1 ? 2.0f : 1.0f));
        CHECK(clean(violations(c, run(c, fixture::active(), &x.e), x)));
      }
    }
}

TEST_CASE("epilogue: tripwires") {
  LinearCase c("w4g32a8", Extra::rows, 148, 3, 4);
  c.with_residual = true;
  Extra x(3, c.y_stride, 5);
  x.multiply(), x.maxima(), x.scale_columns(), x.requantize(step_for(run(c, fixture::active(), nullptr)));
  const Guarded y = run(c, fixture::active(), &x.e);
  REQUIRE(clean(violations(c, y, x)));
  // What the oracle finds when one value is not what the kernel had or gave.
  const auto broken = [&](auto& value, auto wrong) {
    const auto kept = std::exchange(value, wrong);
    const Violations v = violations(c, y, x);
    value = kept;
    return v;
  };
  float& gate = x.gate[c.y_stride + 17];
  CHECK(broken(gate, gate + 0.01f).y == 1);
  float& multiplier = x.column_scale[33];
  CHECK(broken(multiplier, multiplier * 1.01f).y == c.tokens);
  CHECK(broken(x.e.relu2, true).y > 0);
  CHECK(broken(x.e.step, x.e.step * 1.01f).q > 0);
  float& most = x.absmax[7];
  CHECK(broken(most, std::nextafter(most, 0.0f)).absmax == 1);
  CHECK(broken(x.sums[2], x.sums[2] + 1).sums == 1);
  CHECK(broken(x.q8[9], std::int8_t(x.q8[9] ^ 1)).q == 1);
  CHECK(broken(x.q16[5], std::int16_t(x.q16[5] ^ 1)).q == 1);
  REQUIRE(clean(violations(c, y, x)));
}

TEST_CASE("epilogue: silu and silu(gate) against float64, and the bits of the swiglu kernel") {
  for (const std::string format : some_formats)
    for (const int tokens : token_counts) {
      CAPTURE(format);
      CAPTURE(tokens);
      LinearCase c(format, Extra::rows, 148, tokens, 3);
      c.with_residual = false;
      Extra x(tokens, c.y_stride, 8);
      const Guarded plain = run(c, fixture::active(), nullptr);

      x.e.silu = true;
      const Guarded activated = run(c, fixture::active(), &x.e);
      fixture::Judge judge, tripwire;
      for (int t = 0; t < tokens; ++t)
        for (int n = 0; n < c.rows; ++n) {
          // exp(-v) ends at 2^126: below v = -87 silu is v 2^-126 instead of less.
          const double v = before(c, t, n), want = oracle::silu(v);
          const double bound = 2.5 * 0x1p-23 * std::abs(want) + std::abs(v) * 0x1p-126;
          judge(activated[t * c.y_stride + n], want, bound);
          tripwire(activated[t * c.y_stride + n], want * (1 + 1e-6), bound);
        }
      CHECK(judge.wrong == 0);
      CHECK(tripwire.wrong > 0);

      x.e.silu = false, x.e.silu_of_gate = true;
      x.multiply();
      const Guarded fused = run(c, fixture::active(), &x.e);
      Guarded separate(fused.size());
      const klens::FlushDenormals flush;
      fixture::active().swiglu({x.gate.data(), plain.data(), separate.data(), c.y_stride, c.rows, 0, tokens});
      int wrong = 0;
      for (int t = 0; t < tokens; ++t)
        wrong += std::memcmp(fused.data() + t * c.y_stride, separate.data() + t * c.y_stride, Extra::panels * 64) != 0;
      CHECK(wrong == 0);
    }
}

TEST_CASE("epilogue: all steps at once give the bits of ref, of any split, and of one token at a time") {
  for (const std::string format : some_formats) {
    CAPTURE(format);
    constexpr int tokens = 13;
    LinearCase c(format, Extra::rows, 148, tokens, 7);
    c.with_residual = c.with_bias = true;
    const float step = step_for(run(c, fixture::active(), nullptr));
    const auto all = [&] {
      auto x = std::make_unique<Extra>(tokens, c.y_stride, 8);
      x->e.silu = x->e.silu_of_gate = true, x->multiply(), x->scale_columns(), x->square(), x->maxima(), x->requantize(step);
      return x;
    };
    const auto one = all(), other = all(), halves = all(), tokenwise = all();
    Extra &whole = *one, &ref = *other, &cut = *halves, &single = *tokenwise;
    const Guarded y = run(c, fixture::active(), &whole.e);
    const auto same = [&](const Guarded& other, const Extra& x) {
      return fixture::same_bits(y, other) && fixture::same_bits(whole.absmax, x.absmax) && whole.q8 == x.q8 &&
             whole.q16 == x.q16 && whole.sums == x.sums;
    };
    CHECK(same(run(c, fixture::reference(), &ref.e), ref));
    CHECK(same(run(c, fixture::active(), &cut.e, 2), cut));
    Guarded by_token(y.size());
    const klens::FlushDenormals flush;
    for (int t = 0; t < tokens; ++t) {
      klens::LinearArgs a = fixture::tokens_of(c, c.args(by_token.data() + t * c.y_stride, nullptr), t, 1);
      klens::Epilogue e = single.e;
      e.gate += t * c.y_stride, e.absmax += t * Extra::panels, e.q8 += t * Extra::q_stride;
      e.q16 += t * Extra::q_stride, e.sums += t * Extra::q_stride / 32;
      a.epilogue = &e;
      klens::linear_of(fixture::active(), c.precision)(a);
    }
    CHECK(same(by_token, single));
  }
}

TEST_CASE("epilogue: static integers alone feed the next linear") {
  for (const int tokens : {2, 14}) {
    CAPTURE(tokens);
    LinearCase first("w4g32", Extra::rows, 96, tokens, 2), second("w8a8", 33, Extra::rows, tokens, 3);
    first.with_residual = false;
    REQUIRE(second.stride == Extra::q_stride);
    Extra x(tokens, first.y_stride, 4);
    const float step = step_for(run(first, fixture::active(), nullptr));
    x.requantize(step);
    std::fill(x.q8.begin(), x.q8.end(), std::int8_t(0)), std::fill(x.q16.begin(), x.q16.end(), std::int16_t(0));
    const klens::FlushDenormals flush;
    klens::LinearArgs a = first.args(nullptr, fixture::scratch());
    a.epilogue = &x.e;
    klens::linear_of(fixture::active(), first.precision)(a);

    Guarded y(tokens * second.y_stride);
    klens::LinearArgs b = second.args(y.data(), fixture::scratch());
    const std::vector<float> scale(std::size_t(tokens), step);
    b.x.q8 = x.q8.data(), b.x.q16 = x.q16.data(), b.x.sums = x.sums.data(), b.x.scale = scale.data();
    klens::linear_of(fixture::active(), second.precision)(b);
    int wrong = 0;
    for (int t = 0; t < tokens; ++t) {
      oracle::Row row{std::vector<float>(std::size_t(Extra::rows)), true, step};
      for (int n = 0; n < Extra::rows; ++n) row.x[std::size_t(n)] = float(integer(before(first, t, n), step));
      second.x[std::size_t(t)] = row;
      for (int n = 0; n < second.rows; ++n) wrong += y[t * second.y_stride + n] != second.answer(t, n).expected;
    }
    CHECK(wrong == 0);
  }
}

TEST_CASE("epilogue: NaN is no maximum and becomes 0, infinity is clamped") {
  LinearCase c("f32", Extra::rows, 32, 1, 5);
  c.with_bias = true, c.with_residual = false;
  c.bias[3] = std::numeric_limits<float>::quiet_NaN(), c.bias[40] = -std::numeric_limits<float>::infinity();
  Extra x(1, c.y_stride, 5);
  x.maxima(), x.requantize(0.25f);
  run(c, fixture::active(), &x.e);
  float most = 0;
  for (int n = 0; n < 16; ++n)
    if (n != 3) most = std::max(most, std::abs(before(c, 0, n)));
  CHECK(x.absmax[0] == most);
  CHECK(x.absmax[2] == std::numeric_limits<float>::infinity());
  CHECK(x.q8[3] == 0);
  CHECK(x.q8[40] == -127);

  x.square();
  const Guarded squared = run(c, fixture::active(), &x.e);
  CHECK(squared[3] != squared[3]);
  CHECK(squared[40] == 0);
}
