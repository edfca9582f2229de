// simd/math.hpp: errors in units of the last place over dense sweeps against float64, exact points, and the same bits
// on the active level (through swiglu, whose silu passes exp, and conv1d) as on ref.
#include <klens/simd/math.hpp>

#include "kernel/fixture.hpp"
#include "oracle/sequence.hpp"

namespace {

using klens::v16f;

/// Largest error of f over [low, high] in ulps of the float64 value, every `step`-th float (both signs where asked).
/// `nudge` moves each result by that many floats: the tripwire of the bound.
template <class F, class G>
double worst_ulps(F&& f, G&& exact, float low, float high, std::uint32_t step, int nudge = 0) {
  double worst = 0;
  float x[16], y[16];
  int n = 0;
  const auto flush = [&] {
    for (int i = n; i < 16; ++i) x[i] = x[0];
    klens::store(y, f(klens::load(x)));
    for (int i = 0; i < n; ++i) {
      const double want = exact(double(x[i]));
      const double ulp = std::ldexp(1.0, std::max(-126, std::ilogb(want)) - 23);
      const float got = std::bit_cast<float>(std::bit_cast<std::uint32_t>(y[i]) + std::uint32_t(nudge));
      const double error = std::abs(double(got) - want) / ulp;
      worst = std::isnan(error) ? INFINITY : std::max(worst, error);
    }
    n = 0;
  };
  for (std::uint32_t sign : {0u, 0x80000000u})
    for (std::uint64_t u = step % 7; u <= 0x7f7fffffu; u += step) {
      const float value = std::bit_cast<float>(std::uint32_t(u) | sign);
      if (value < low || value > high) continue;
      x[n++] = value;
      if (n == 16) flush();
    }
  if (n > 0) flush();
  return worst;
}

constexpr std::uint32_t stride = 4099;  // every 4099-th float: half a million arguments of each sign

template <class F>
float at(F&& f, float x) {
  float y[16];
  klens::store(y, f(klens::splat(x)));
  return y[0];
}

}  // namespace

TEST_CASE("math: exp2 and exp within 1.5 ulp") {
  const auto f2 = [](v16f x) { return klens::exp2(x); };
  const auto f = [](v16f x) { return klens::exp(x); };
  const auto exact2 = [](double x) { return std::exp2(x); };
  const auto exact = [](double x) { return std::exp(x); };
  const double worst2 = worst_ulps(f2, exact2, -126.0f, 127.93f, stride),
      worst = worst_ulps(f, exact, -87.3f, 88.7f, stride);
  MESSAGE("worst ulp: exp2 ", worst2, ", exp ", worst);
  CHECK(worst2 <= 1.2);
  CHECK(worst <= 1.2);
  // Dense where the scan and softmax live.
  CHECK(worst_ulps(f2, exact2, -4.0f, -0.0625f, 37) <= 1.2);
  CHECK(worst_ulps(f, exact, -4.0f, -0.0625f, 37) <= 1.2);
  CHECK(worst_ulps(f2, exact2, -126.0f, 127.93f, stride * 8, 2) > 1.2);  // tripwire: results two floats off
}

TEST_CASE("math: exact points, clamps, NaN") {
  for (int n = -126; n <= 127; ++n) CHECK(at([](v16f x) { return klens::exp2(x); }, float(n)) == std::ldexp(1.0f, n));
  CHECK(at([](v16f x) { return klens::exp2(x); }, -0.0f) == 1.0f);
  CHECK(at([](v16f x) { return klens::exp(x); }, 0.0f) == 1.0f);
  CHECK(at([](v16f x) { return klens::exp2(x); }, -1e30f) == 0x1p-126f);
  CHECK(at([](v16f x) { return klens::exp(x); }, -INFINITY) < 1.2e-38f);
  CHECK(at([](v16f x) { return klens::exp(x); }, -INFINITY) > 0.0f);
  CHECK(at([](v16f x) { return klens::exp(x); }, INFINITY) > 3.3e38f);
  CHECK(std::isfinite(at([](v16f x) { return klens::exp(x); }, INFINITY)));
  CHECK(std::isfinite(at([](v16f x) { return klens::exp2(x); }, 1e30f)));
  CHECK(at([](v16f x) { return klens::silu(x); }, 0.0f) == 0.0f);
  CHECK(at([](v16f x) { return klens::sigmoid(x); }, 0.0f) == 0.5f);
  CHECK(at([](v16f x) { return klens::softplus(x); }, 100.0f) == 100.0f);
  const auto nan_out = [](auto f) { return std::isnan(at(f, NAN)); };
  CHECK(nan_out([](v16f x) { return klens::exp2(x); }));
  CHECK(nan_out([](v16f x) { return klens::exp(x); }));
  CHECK(nan_out([](v16f x) { return klens::softplus(x); }));
  CHECK(nan_out([](v16f x) { return klens::sigmoid(x); }));
  CHECK(nan_out([](v16f x) { return klens::silu(x); }));
}

TEST_CASE("math: exp2 near 0 keeps 1 - exp2(x) exact to the rounding of exp2 and 1.2e-6 of its own") {
  // The scan's gain is 1 / (1 - decay): an error that does not vanish with x would be amplified without bound.
  fixture::Judge judge, tripwire;
  for (double e = -12; e < -0.3; e += 0.001) {
    const float x = -float(std::pow(10.0, e)), y = at([](v16f v) { return klens::exp2(v); }, x);
    // results below 1: ulp 2^-24
    const double want = std::exp2(double(x)), bound = 0.51 * 0x1p-24 + 8e-7 * std::abs(double(x));
    judge(double(y), want, bound);
    tripwire(double(y) - 0x1p-24, want, bound);
  }
  CHECK(judge.wrong == 0);
  CHECK(tripwire.wrong > 0);
}

TEST_CASE("math: softplus within 2 ulp, sigmoid and silu within 3") {
  const auto softplus = [](v16f x) { return klens::softplus(x); };
  const auto sigmoid = [](v16f x) { return klens::sigmoid(x); };
  const auto silu = [](v16f x) { return klens::silu(x); };
  const double a = worst_ulps(softplus, oracle::softplus, -87.0f, 100.0f, stride);
  const double b = worst_ulps(sigmoid, oracle::sigmoid, -87.0f, 100.0f, stride);
  const double c = worst_ulps(silu, oracle::silu, -87.0f, 100.0f, stride);
  MESSAGE("worst ulp: softplus ", a, ", sigmoid ", b, ", silu ", c);
  CHECK(a <= 2);
  CHECK(b <= 3);
  CHECK(c <= 3);
  // log(1 + e) in fp32 would lose all of it here
  CHECK(worst_ulps(softplus, oracle::softplus, -20.0f, -0.5f, 61) <= 2);
  CHECK(worst_ulps(softplus, oracle::softplus, -87.0f, 100.0f, stride * 8, 3) > 2);
  CHECK(worst_ulps(silu, oracle::silu, -87.0f, 100.0f, stride * 8, 4) > 3);
}

TEST_CASE("math: tanh within 2 ulp, cosine and sine of turns within 2^-23") {
  const auto f = [](v16f x) { return klens::tanh(x); };
  const auto exact = [](double x) { return std::tanh(x); };
  const double worst = worst_ulps(f, exact, -100.0f, 100.0f, stride);
  MESSAGE("worst ulp: tanh ", worst);
  CHECK(worst <= 2);
  CHECK(worst_ulps(f, exact, -0.7f, 0.7f, 997) <= 2);
  CHECK(worst_ulps(f, exact, -100.0f, 100.0f, stride * 8, 3) > 2);
  CHECK(at(f, -INFINITY) == -1.0f);
  CHECK(std::isnan(at(f, NAN)));

  const auto cosine = [](v16f t) { return klens::turned(t).cos; };
  const auto sine = [](v16f t) { return klens::turned(t).sin; };
  fixture::Judge judge, tripwire;
  for (int i = -40000; i <= 40000; ++i) {
    const float t = float(i) * 1.37e-5f + float(i % 7);
    const double angle = 2 * 3.14159265358979323846 * (double(t) - std::floor(double(t)));
    judge(double(at(cosine, t)), std::cos(angle), 0x1p-23), judge(double(at(sine, t)), std::sin(angle), 0x1p-23);
    tripwire(double(at(sine, t)) + 0x1p-22, std::sin(angle), 0x1p-23);
  }
  CHECK(judge.wrong == 0);
  CHECK(tripwire.wrong > 0);
  const float quarter[4][2] = {{1, 0}, {0, 1}, {-1, 0}, {0, -1}};
  for (int k = -9; k <= 9; ++k) {
    CHECK(at(cosine, float(k) * 0.25f) == quarter[(k + 12) % 4][0]);
    CHECK(at(sine, float(k) * 0.25f) == quarter[(k + 12) % 4][1]);
  }
  CHECK(std::isnan(at(sine, NAN)));
}

TEST_CASE("math: silu has the bits of ref on the active level") {
  constexpr int n = 1 << 16;
  fixture::Guarded x(n), one(n), y(n), expected(n);
  for (std::int64_t i = 0; i < n; ++i) {
    const std::uint32_t u = std::uint32_t(i) * 65537u;
    x[i] = std::bit_cast<float>(u);
    if (!std::isfinite(x[i])) x[i] = float(i);
  }
  one.fill(1.0f);
  klens::SwigluArgs args{x.data(), one.data(), y.data(), n, n, 0, 1};
  fixture::active().swiglu(args);
  args.y = expected.data();
  fixture::reference().swiglu(args);
  CHECK(fixture::same_bits(y, expected));
}
