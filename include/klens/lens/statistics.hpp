// Means, standard errors, percentiles, and the one-sided bound of a paired difference (design.md §8).
//   SE = sd(window means, ddof 1) / sqrt(windows)         percentile q: linear between the order statistics at q (n -
//   1)
// A standard error of fewer than two windows does not exist: it is NaN, and null in files.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numbers>
#include <span>
#include <vector>

namespace klens {

inline constexpr double not_known = std::numeric_limits<double>::quiet_NaN();

/// A mean and its standard error.
struct Estimate {
  double mean = not_known, se = not_known;
};

/// A mean over tokens with its standard error over windows, and percentiles over tokens.
struct Distribution {
  double mean = not_known, se = not_known, p50 = not_known, p95 = not_known, p99 = not_known, max = not_known;
};

inline double mean_of(std::span<const double> x) {
  double sum = 0;
  for (const double v : x) sum += v;
  return x.empty() ? not_known : sum / double(x.size());
}

inline double standard_error(std::span<const double> x) {
  if (x.size() < 2) return not_known;
  const double m = mean_of(x);
  double sum = 0;
  for (const double v : x) sum += (v - m) * (v - m);
  return std::sqrt(sum / double(x.size() - 1) / double(x.size()));
}

inline Estimate estimate(std::span<const double> window_means) {
  return {mean_of(window_means), standard_error(window_means)};
}

/// Percentile of sorted values, q in [0, 1].
template <class T>
double percentile(std::span<const T> sorted, double q) {
  if (sorted.empty()) return not_known;
  const double at = q * double(sorted.size() - 1);
  const std::size_t low = std::size_t(at), high = std::min(low + 1, sorted.size() - 1);
  const double a = double(sorted[low]), b = double(sorted[high]);
  return a + (b - a) * (at - double(low));
}

/// Mean and standard error from window means, the rest from the tokens' values, which are sorted in place.
inline Distribution distribution(std::span<const double> window_means, std::vector<float>& tokens) {
  std::sort(tokens.begin(), tokens.end());
  const std::span<const float> t = tokens;
  return {mean_of(window_means), standard_error(window_means), percentile(t, 0.50),
          percentile(t, 0.95),   percentile(t, 0.99),          t.empty() ? not_known : double(t.back())};
}

/// P(T <= t) of Student's t with `freedom` degrees of freedom: the finite sums in cos(theta), theta = atan(t /
/// sqrt(freedom)) (Abramowitz and Stegun 26.7.3 and 26.7.4).
inline double student_cdf(double t, int freedom) {
  const double theta = std::atan(t / std::sqrt(double(freedom))), s = std::sin(theta), c = std::cos(theta);
  double term = freedom % 2 ? c : 1, sum = freedom == 1 ? 0 : term;
  for (int k = freedom % 2 ? 3 : 2; k < freedom; k += 2) {
    term *= c * c * double(k - 1) / double(k);
    sum += term;
  }
  return freedom % 2 ? 0.5 + (theta + s * sum) / std::numbers::pi : 0.5 + 0.5 * s * sum;
}

/// t with P(T <= t) = p, for p in [0.5, 1).
inline double student_quantile(double p, int freedom) {
  double low = 0, high = 1;
  while (student_cdf(high, freedom) < p && high < 1e9) high *= 2;
  for (int i = 0; i < 200 && low < high; ++i) {
    const double middle = 0.5 * (low + high);
    if (middle == low || middle == high) break;
    (student_cdf(middle, freedom) < p ? low : high) = middle;
  }
  return high;
}

/// Largest difference in nat per token that still counts as none (design.md §5, promise 4).
inline constexpr double shown_margin = 0.005;

/// A paired difference by windows: its mean, and the bound it stays under with 95 % confidence (one-sided, Student's
/// t).
struct PairedDifference {
  double mean = not_known, se = not_known, bound = not_known;
  int windows = 0;
  bool shown = false;  // bound < shown_margin: "no worse" is shown on this text
};

inline PairedDifference paired_difference(std::span<const double> differences) {
  PairedDifference d;
  d.windows = int(differences.size());
  d.mean = mean_of(differences), d.se = standard_error(differences);
  if (d.windows < 2) return d;
  d.bound = d.mean + student_quantile(0.95, d.windows - 1) * d.se;
  d.shown = d.bound < shown_margin;
  return d;
}

/// "shown", or "not shown": the word that tables print.
inline const char* verdict_of(const PairedDifference& d) { return d.shown ? "shown" : "not shown"; }

}  // namespace klens
