// splitmix64: known answers, and that a number found by its index is the one the stream gives.
#include <klens/core/random.hpp>

#include <doctest/doctest.h>

TEST_CASE("splitmix64 gives the published numbers") {
  // The first five of seed 1234567, from the reference implementation.
  constexpr std::uint64_t known[] = {6457827717110365317u, 3203168211198807973u, 9817491932198370423u,
                                     4593380528125082431u, 16408922859458223821u};
  std::uint64_t state = 1234567;
  for (std::uint64_t i = 0; i < 5; ++i) {
    CHECK(klens::random_at(1234567, i) == known[i]);
    CHECK(klens::splitmix(state) == known[i]);
  }
}

TEST_CASE("the unit interval is half open and its mean is a half") {
  CHECK(klens::unit_interval(0) == 0);
  CHECK(klens::unit_interval(~std::uint64_t(0)) == 1 - 0x1p-53);
  double sum = 0, squares = 0;
  constexpr int n = 1 << 16;
  for (std::uint64_t i = 0; i < n; ++i) {
    const double u = klens::unit_interval(klens::random_at(42, i));
    sum += u, squares += u * u;
  }
  // Standard errors: sqrt(1/12 / n) = 0.0011 and sqrt(4/45 / n) = 0.0012; five of them.
  CHECK(sum / n == doctest::Approx(0.5).epsilon(0.0056));
  CHECK(squares / n == doctest::Approx(1.0 / 3).epsilon(0.006));
}
