// compare: how stable a ranking is. Two sensitivity files of one model (other text, other number of windows, other
// machine), per format and direction of KL: tau-b over the components that both hold, overlap of the k most sensitive,
// ratio of the sums.
#pragma once

#include <klens/io/json.hpp>
#include <klens/lens/rank.hpp>
#include <klens/lens/sensitivity.hpp>

namespace klens {

struct ComparisonRow {
  std::string format;
  Metric metric = Metric::kl_pq;
  Interval tau;                                // bootstrap over components
  double top5 = not_known, top10 = not_known;  // share of A's most sensitive components that are among B's
  double ratio = not_known;                    // sum of B / sum of A
  int n = 0;
};

namespace detail {

/// Share of the k largest of x that are among the k largest of y; NaN where there are fewer than k. Ties: lower index
/// first.
inline double top_overlap(std::span<const double> x, std::span<const double> y, std::size_t k) {
  if (x.size() < k || k == 0) return not_known;
  const auto largest = [k](std::span<const double> v) {
    std::vector<std::size_t> order(v.size());
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return v[a] > v[b]; });
    order.resize(k);
    return order;
  };
  const auto a = largest(x), b = largest(y);
  std::size_t common = 0;
  for (const std::size_t i : a) common += std::find(b.begin(), b.end(), i) != b.end();
  return double(common) / double(k);
}

}  // namespace detail

/// Rows for every format that both files hold, KL(p||q) and KL(q||p). Errors: nothing in common.
inline Result<std::vector<ComparisonRow>> compare(const Sensitivity& a, const Sensitivity& b,
                                                  const BootstrapOptions& options = {}) {
  std::vector<ComparisonRow> rows;
  for (const std::string& format : formats_of(a))
    for (const Metric metric : {Metric::kl_pq, Metric::kl_qp}) {
      std::vector<double> x, y;
      for (const SensitivityEntry& e : a.entries) {
        if (e.format != format) continue;
        for (const SensitivityEntry& other : b.entries) {
          if (other.format != format || other.component != e.component) continue;
          if (std::isnan(value_of(e, metric)) || std::isnan(value_of(other, metric))) continue;
          x.push_back(value_of(e, metric)), y.push_back(value_of(other, metric));
        }
      }
      if (x.size() < 2) continue;
      ComparisonRow row{format,
                        metric,
                        bootstrap_components(x, y, options),
                        detail::top_overlap(x, y, 5),
                        detail::top_overlap(x, y, 10),
                        not_known,
                        int(x.size())};
      row.ratio = mean_of(y) / mean_of(x);
      rows.push_back(std::move(row));
    }
  if (rows.empty())
    return Error{ErrorCode::missing, "comparison", "formats and components that both files hold", "none"};
  return rows;
}

inline Json comparison_to_json(const std::vector<ComparisonRow>& rows) {
  const auto number = [](double v) { return std::isfinite(v) ? Json(v) : Json(); };
  Json list = Json::array();
  for (const ComparisonRow& r : rows)
    list.push_back({{"format", r.format},
                    {"metric", std::string(name_of(r.metric))},
                    {"tau", number(r.tau.value)},
                    {"low", number(r.tau.low)},
                    {"high", number(r.tau.high)},
                    {"top5", number(r.top5)},
                    {"top10", number(r.top10)},
                    {"ratio", number(r.ratio)},
                    {"n", r.n}});
  return {{"schema", "klens.comparison/1"}, {"rows", list}};
}

}  // namespace klens
