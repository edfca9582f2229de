// Kendall's tau-b, and bootstrap intervals for it.
//   tau-b = (concordant - discordant) / sqrt((n0 - ties in x) (n0 - ties in y)),  n0 = n (n - 1) / 2
// Counted in integers by sorting (W. R. Knight, JASA 61, 1966): O(n log n), one division and one square root at the
// end.
#pragma once

#include <klens/core/random.hpp>
#include <klens/lens/statistics.hpp>

#include <cstdint>
#include <numeric>

namespace klens {
namespace detail {

/// Sorts `order[begin, end)` by y, stable, and returns the number of exchanges a bubble sort would need.
inline std::int64_t count_exchanges(std::span<const double> y, std::vector<int>& order, std::vector<int>& spare,
                                    std::size_t begin, std::size_t end) {
  if (end - begin < 2) return 0;
  const std::size_t middle = begin + (end - begin) / 2;
  std::int64_t count = count_exchanges(y, order, spare, begin, middle) + count_exchanges(y, order, spare, middle, end);
  std::size_t a = begin, b = middle, at = begin;
  while (a < middle || b < end) {
    const bool left = b == end || (a < middle && y[std::size_t(order[a])] <= y[std::size_t(order[b])]);
    if (!left) count += std::int64_t(middle - a);
    spare[at++] = left ? order[a++] : order[b++];
  }
  std::copy(spare.begin() + std::ptrdiff_t(begin), spare.begin() + std::ptrdiff_t(end),
            order.begin() + std::ptrdiff_t(begin));
  return count;
}

/// Sum of t (t - 1) / 2 over runs of equal neighbours.
template <class Equal>
std::int64_t tied_pairs(const std::vector<int>& order, Equal equal) {
  std::int64_t pairs = 0, run = 1;
  for (std::size_t i = 1; i <= order.size(); ++i) {
    if (i < order.size() && equal(order[i - 1], order[i])) {
      ++run;
    } else {
      pairs += run * (run - 1) / 2;
      run = 1;
    }
  }
  return pairs;
}

/// An index below n (n < 2^32; the bias is below n / 2^32).
inline std::size_t draw(std::uint64_t& state, std::size_t n) {
  return std::size_t(((splitmix(state) >> 32) * n) >> 32);
}

}  // namespace detail

/// NaN for fewer than two pairs, or where all of x or all of y are equal. Values must not be NaN.
inline double kendall_tau_b(std::span<const double> x, std::span<const double> y) {
  const std::size_t n = std::min(x.size(), y.size());
  if (n < 2) return not_known;
  std::vector<int> order(n), spare(n);
  std::iota(order.begin(), order.end(), 0);
  const auto at = [](std::span<const double> v, int i) { return v[std::size_t(i)]; };
  std::sort(order.begin(), order.end(),
            [&](int a, int b) { return at(x, a) != at(x, b) ? at(x, a) < at(x, b) : at(y, a) < at(y, b); });
  const std::int64_t in_x = detail::tied_pairs(order, [&](int a, int b) { return at(x, a) == at(x, b); });
  const std::int64_t in_both =
      detail::tied_pairs(order, [&](int a, int b) { return at(x, a) == at(x, b) && at(y, a) == at(y, b); });
  const std::int64_t discordant = detail::count_exchanges(y, order, spare, 0, n);
  const std::int64_t in_y = detail::tied_pairs(order, [&](int a, int b) { return at(y, a) == at(y, b); });
  const std::int64_t all = std::int64_t(n) * std::int64_t(n - 1) / 2;
  const std::int64_t difference = all - in_x - in_y + in_both - 2 * discordant;  // concordant - discordant
  if (all == in_x || all == in_y) return not_known;
  return double(difference) / std::sqrt(double(all - in_x) * double(all - in_y));
}

/// A statistic with its 95 % bootstrap interval (2.5 and 97.5 percentile of the resamples).
struct Interval {
  double value = not_known, low = not_known, high = not_known;
};

struct BootstrapOptions {
  int resamples = 1000;
  std::uint64_t seed = 1;
};

namespace detail {

inline Interval interval_of(double value, std::vector<double>& resampled) {
  std::erase_if(resampled, [](double v) { return std::isnan(v); });  // a resample of equal values has no tau
  std::sort(resampled.begin(), resampled.end());
  const std::span<const double> r = resampled;
  return {value, percentile(r, 0.025), percentile(r, 0.975)};
}

}  // namespace detail

/// Resamples components (pairs): for files that hold no values by window.
inline Interval bootstrap_components(std::span<const double> x, std::span<const double> y,
                                     const BootstrapOptions& options = {}) {
  const std::size_t n = std::min(x.size(), y.size());
  std::vector<double> taus, a(n), b(n);
  std::uint64_t state = options.seed;
  for (int r = 0; r < options.resamples && n > 1; ++r) {
    for (std::size_t i = 0; i < n; ++i) {
      const std::size_t k = detail::draw(state, n);
      a[i] = x[k], b[i] = y[k];
    }
    taus.push_back(kendall_tau_b(a, b));
  }
  return detail::interval_of(kendall_tau_b(x, y), taus);
}

/// One ranked quantity of all components as a function of the windows drawn: `of(component, draws)`, draws being window
/// indices (with repetition) of the text the quantity was measured on. A text of 0 windows has fixed values:
/// `of(component, {})`.
template <class X, class Y>
Interval bootstrap_windows(std::size_t components, const X& x_of, std::size_t x_windows, const Y& y_of,
                           std::size_t y_windows, double value, const BootstrapOptions& options = {}) {
  std::vector<double> taus, x(components), y(components);
  std::vector<int> x_draw(x_windows), y_draw(y_windows);
  std::uint64_t state = options.seed;
  for (int r = 0; r < options.resamples && components > 1; ++r) {
    for (int& i : x_draw) i = int(detail::draw(state, x_windows));  // independently per text
    for (int& i : y_draw) i = int(detail::draw(state, y_windows));
    for (std::size_t c = 0; c < components; ++c)
      x[c] = x_of(c, std::span<const int>(x_draw)), y[c] = y_of(c, std::span<const int>(y_draw));
    taus.push_back(kendall_tau_b(x, y));
  }
  return detail::interval_of(value, taus);
}

}  // namespace klens
