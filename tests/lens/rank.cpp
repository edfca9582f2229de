// Kendall's tau-b against the count over all pairs, statistics against hand values, bootstrap against its definition.
#include <klens/lens/rank.hpp>

#include <doctest/doctest.h>

namespace {

using namespace klens;

double tau_by_pairs(const std::vector<double>& x, const std::vector<double>& y) {
  long concordant = 0, discordant = 0, x_only = 0, y_only = 0;
  for (std::size_t i = 0; i < x.size(); ++i)
    for (std::size_t j = 0; j < i; ++j) {
      const double s = (x[i] - x[j]) * (y[i] - y[j]);
      if (s > 0)
        ++concordant;
      else if (s < 0)
        ++discordant;
      else if (x[i] != x[j])
        ++y_only;
      else if (y[i] != y[j])
        ++x_only;
    }
  const double base = double(concordant + discordant);
  return (double(concordant) - double(discordant)) / std::sqrt((base + double(x_only)) * (base + double(y_only)));
}

TEST_CASE("tau-b equals the count over all pairs, with ties") {
  std::uint64_t state = 7;
  for (int round = 0; round < 300; ++round) {
    const std::size_t n = 2 + detail::draw(state, 40), levels = 2 + detail::draw(state, 30);
    std::vector<double> x(n), y(n);
    for (auto& v : x) v = double(detail::draw(state, levels));
    for (auto& v : y) v = double(detail::draw(state, levels));
    const double expected = tau_by_pairs(x, y), got = kendall_tau_b(x, y);
    if (std::isnan(expected))
      CHECK(std::isnan(got));
    else
      CHECK(got == doctest::Approx(expected).epsilon(1e-13));
  }
}

TEST_CASE("tau-b of known orders") {
  const std::vector<double> x{1, 2, 3, 4}, same{10, 20, 30, 40}, back{4, 3, 2, 1}, one_swap{1, 3, 2, 4},
      equal{5, 5, 5, 5};
  CHECK(kendall_tau_b(x, same) == 1);
  CHECK(kendall_tau_b(x, back) == -1);
  CHECK(kendall_tau_b(x, one_swap) == doctest::Approx(4.0 / 6));
  CHECK(std::isnan(kendall_tau_b(x, equal)));
  CHECK(std::isnan(kendall_tau_b(std::vector<double>{1}, std::vector<double>{1})));
}

TEST_CASE("statistics") {
  const std::vector<double> x{1, 2, 3, 4};
  CHECK(mean_of(x) == 2.5);
  CHECK(standard_error(x) == doctest::Approx(std::sqrt(5.0 / 3) / 2));
  CHECK(std::isnan(standard_error(std::vector<double>{1})));
  const std::vector<float> s{0, 1, 2, 10};
  CHECK(percentile(std::span<const float>(s), 0.5) == 1.5);
  CHECK(percentile(std::span<const float>(s), 0.95) == doctest::Approx(2 + 0.85 * 8));
  CHECK(percentile(std::span<const float>(s), 1.0) == 10);
  std::vector<float> tokens{3, 1, 2};
  const Distribution d = distribution(x, tokens);
  CHECK(d.mean == 2.5);
  CHECK(d.p50 == 2);
  CHECK(d.max == 3);
}

TEST_CASE("Student's t: table values, and the verdict of a paired difference") {
  // 95 % one-sided points of the usual tables.
  const std::pair<int, double> table[] = {{1, 6.314}, {2, 2.920},  {3, 2.353},  {4, 2.132},
                                          {5, 2.015}, {10, 1.812}, {30, 1.697}, {63, 1.669}};
  for (const auto& [freedom, t] : table) CHECK(student_quantile(0.95, freedom) == doctest::Approx(t).epsilon(3e-4));
  CHECK(student_cdf(0, 5) == 0.5);
  const std::vector<double> better{-0.01, -0.012, -0.011, -0.009}, unsure{-0.1, 0.1, -0.1, 0.1};
  const PairedDifference a = paired_difference(better), b = paired_difference(unsure);
  CHECK(a.shown);
  CHECK(a.bound == doctest::Approx(a.mean + 2.3534 * a.se).epsilon(1e-4));
  CHECK_FALSE(b.shown);
  CHECK_FALSE(paired_difference(std::vector<double>{-1}).shown);
}

TEST_CASE("bootstrap: equal on every run, holds the value, narrow for a clear order and wide for noise") {
  std::uint64_t state = 3;
  std::vector<double> x(57), clear(57), noise(57);
  for (std::size_t i = 0; i < x.size(); ++i) {
    x[i] = double(i);
    clear[i] = double(i) + 4 * double(detail::draw(state, 1000)) / 1000;
    noise[i] = double(detail::draw(state, 1000));
  }
  const Interval a = bootstrap_components(x, clear), again = bootstrap_components(x, clear),
                 b = bootstrap_components(x, noise);
  CHECK(a.low == again.low);
  CHECK(a.high == again.high);
  CHECK(a.low <= a.value);
  CHECK(a.value <= a.high);
  CHECK(a.high - a.low < b.high - b.low);

  // By windows: component c has the value c in every window, so no resample changes the order.
  const auto fixed = [](std::size_t c, std::span<const int> draws) { return double(c) * double(draws.size()); };
  const Interval w = bootstrap_windows(10, fixed, 8, fixed, 4, 1.0);
  CHECK(w.low == 1);
  CHECK(w.high == 1);
}

}  // namespace
