// core/det_math.hpp against long double (64-bit mantissa) over the ranges the library uses.
#include <klens/core/det_math.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <random>

namespace {

struct Worst {
  long double value = 0;
  void operator()(double got, long double want) { value = std::max(value, fabsl((got - want) / want)); }
};

struct Uniform {
  std::mt19937_64 engine{7};
  double operator()(double low, double high) { return low + (high - low) * double(engine() >> 11) * 0x1p-53; }
};

}  // namespace

TEST_CASE("det_math: relative errors stay below what the header states") {
  Uniform uniform;
  Worst exp, log, log1p, pow, sin, cos;
  for (int i = 0; i < 200000; ++i) {
    const double wide = uniform(-700, 700), narrow = uniform(-50, 50), base = std::exp(uniform(0, 20)),
        power = uniform(-20, 20);
    exp(klens::det::exp(wide), expl(wide));
    exp(klens::det::exp(narrow), expl(narrow));
    for (double x : {std::exp(wide), uniform(0.9, 1.1)}) log(klens::det::log(x), logl(x));
    for (double x : {std::exp(uniform(-80, 5)), -std::exp(uniform(-80, -1e-3))}) log1p(klens::det::log1p(x), log1pl(x));
    pow(klens::det::pow(base, power), powl(base, power));
    // x = k pi/2 as far as a double can tell: the hardest arguments of the reduction.
    for (double x : {uniform(-1e6, 1e6), uniform(-10, 10), std::floor(uniform(1, 6e5)) * 1.5707963267948966}) {
      sin(klens::det::sin(x), sinl(x));
      cos(klens::det::cos(x), cosl(x));
    }
  }
  CHECK(exp.value < 3e-16L);
  CHECK(log.value < 2e-16L);
  CHECK(log1p.value < 3e-16L);
  CHECK(pow.value < 4e-16L);
  CHECK(sin.value < 3e-16L);
  CHECK(cos.value < 3e-16L);
  Worst tripwire;  // the measure itself sees the last bits
  tripwire(std::nextafter(klens::det::exp(1.5), 1e9) + 4e-16, expl(1.5L));
  CHECK(tripwire.value > 1e-16L);
}

TEST_CASE("det_math: known values and corners") {
  const double inf = std::numeric_limits<double>::infinity();
  CHECK(klens::det::exp(1.0) == doctest::Approx(2.718281828459045).epsilon(3e-16));
  CHECK(klens::det::log(10.0) == 2.302585092994046);
  CHECK(klens::det::log(0x1p-1074) == doctest::Approx(-744.4400719213812).epsilon(1e-15));
  CHECK(klens::det::pow(10000.0, -0.5) == 0.01);
  CHECK(klens::det::exp(-1000.0) == 0.0);
  CHECK(klens::det::exp(1000.0) == inf);
  CHECK(klens::det::exp(709.78) == doctest::Approx(1.7928227943945155e308).epsilon(1e-13));
  CHECK(klens::det::log(0.0) == -inf);
  CHECK(std::isnan(klens::det::log(-1.0)));
  CHECK(std::isnan(klens::det::exp(std::nan(""))));
  CHECK(klens::det::log1p(1e-300) == 1e-300);
  CHECK(klens::det::log1p(-1.0) == -inf);
  for (int i = -50; i <= 50; ++i)
    CHECK(klens::det::log(klens::det::exp(double(i))) == doctest::Approx(double(i)).epsilon(1e-15));
}

TEST_CASE("det_math: constant evaluation and run time agree") {
  constexpr double table[] = {klens::det::exp(-3.7), klens::det::log(3.7), klens::det::sin(12345.678),
      klens::det::cos(12345.678),
                              klens::det::pow(74534.8, -0.03125)};
  volatile double a = -3.7, b = 3.7, c = 12345.678, d = 74534.8, e = -0.03125;
  CHECK(table[0] == klens::det::exp(a));
  CHECK(table[1] == klens::det::log(b));
  CHECK(table[2] == klens::det::sin(c));
  CHECK(table[3] == klens::det::cos(c));
  CHECK(table[4] == klens::det::pow(d, e));
}
