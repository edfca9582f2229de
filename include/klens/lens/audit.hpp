// audit: does a metric rank components as perplexity does? Kendall's tau-b of every metric against dPPL over
// components, one row per format and metric and one over all formats, with a bootstrap interval; beside it the ceiling,
// tau between the dPPL of the two halves of the text: no metric can be expected above it. dPPL comes from the file, or
// is measured here.
#pragma once

#include <klens/lens/measure.hpp>
#include <klens/lens/rank.hpp>
#include <klens/lens/sensitivity.hpp>

#include <map>

namespace klens {

/// NLL of entries on a text, by windows.
struct MeasuredNll {
  std::vector<double> reference;             // mean of each window
  std::vector<std::vector<double>> entries;  // [entry][window], in the order of Sensitivity::entries
};

/// PPL(entry) - PPL(reference) over windows [first, first + count).
inline double delta_ppl_of(const MeasuredNll& m, std::size_t entry, std::size_t first, std::size_t count) {
  const auto part = [&](const std::vector<double>& v) {
    return mean_of(std::span<const double>(v).subspan(first, count));
  };
  return std::exp(part(m.entries[entry])) - std::exp(part(m.reference));
}

struct MeasureNllOptions {
  int window = 256, windows = 24;
  std::string text_name;
  ProgressOf progress;
  const std::atomic<bool>* cancel = nullptr;
};

/// Runs every entry of a file on a text. Errors: a component that the model does not have, a format without a kernel.
inline Result<MeasuredNll> measure_nll(Model& model, const Program& program, Ids ids, const Team& team,
                                       const Sensitivity& s, const MeasureNllOptions& options) {
  if (model.is_packed())
    return Error{ErrorCode::usage, model.path(), "a checkpoint: auditing quantizes the original weights",
                 "a packed file"};
  KLENS_OK(model.set_reference());
  const std::string where = options.text_name.empty() ? "text" : options.text_name;
  KLENS_TRY(const int windows, count_windows(ids, options.window, options.windows, model.shape().vocab, where));
  std::vector<ProbeCandidate> candidates;
  for (const SensitivityEntry& e : s.entries) {
    const bool state = is_state(e.kind);
    const int component = state ? model.find_state(e.component) : model.find(e.component);
    if (component < 0)
      return Error{ErrorCode::missing, model.path(), "component '" + e.component + "' of the sensitivity file",
                   "no such component"};
    if (const auto format = parse_state(e.format); state && format) {
      KLENS_TRY(const std::vector<ProbeCandidate> one,
                state_candidates(model, std::span(&*format, 1), std::span(&*format, 1), {component}));
      candidates.push_back(one.front());
      continue;
    }
    KLENS_TRY(const std::vector<ProbeCandidate> one, probe_candidates(model, program, {e.format}, {component}));
    candidates.push_back(one.front());
  }
  KLENS_TRY(Probe probe, Probe::create(model, program, team, options.window));
  detail::CandidateBinder binder(model);
  MeasuredNll out;
  out.entries.resize(candidates.size());
  std::vector<WindowResult> results;
  const std::int64_t total = std::int64_t(windows) * std::int64_t(candidates.size());
  std::int64_t done = 0;
  for (int first = 0; first < windows; first += probe.batch()) {
    const int size = std::min(probe.batch(), windows - first);
    binder.release();
    KLENS_OK(probe.load(ids, first, size));
    for (const WindowCache& cache : probe.caches())
      out.reference.push_back(cache.reference.nll_p / (options.window - 1));
    for (std::size_t c = 0; c < candidates.size(); ++c) {
      if (options.cancel != nullptr && options.cancel->load())
        return Error{ErrorCode::interrupted, where, "", "stopped"};
      KLENS_OK(binder.use(candidates[c]));
      KLENS_OK(probe.compare(detail::first_layer(model, candidates[c]), results));
      for (const WindowResult& r : results) out.entries[c].push_back(r.sums.nll_q / (options.window - 1));
      if (options.progress) options.progress(done += size, total);
    }
  }
  return out;
}

struct AuditPoint {
  std::string component, format;
  double kl_qp = not_known, kl_pq = not_known, delta_ppl = not_known;
  bool marked = false;
};

struct AuditRow {
  std::string format;  // "all": every format together
  Metric metric = Metric::kl_qp;
  Interval tau;
  double ceiling = not_known;
  int n = 0, marked = 0;  // pairs that were ranked; entries under the floor, which are not
};

struct Audit {
  std::string model, text;  // of dPPL; empty: the file's own column
  bool by_windows = false;  // bootstrap over windows, else over components
  std::vector<AuditPoint> points;
  std::vector<AuditRow> rows;
};

struct AuditOptions {
  bool skip_head = false;  // leave the LM head out, as the KL Lens authors did
  BootstrapOptions bootstrap;
};

namespace detail {

/// Metric of an entry over drawn windows; the fixed value where the file holds no windows.
inline double metric_over(const SensitivityEntry& e, Metric metric, const std::vector<double>& z2,
                          std::span<const int> draws) {
  const WindowValues& w = e.by_window;
  const auto mean = [&](const std::vector<float>& v) {
    double sum = 0;
    for (const int i : draws) sum += double(v[std::size_t(i)]);
    return sum / double(draws.size());
  };
  const auto value = [&](const std::vector<float>& v, double sign) {
    return v.empty() ? value_of(e, metric) : sign * mean(v);
  };
  switch (metric) {
    case Metric::kl_qp: return value(w.kl_qp, 1);
    case Metric::kl_pq: return value(w.kl_pq, 1);
    case Metric::mse: return value(w.mse, 1);
    case Metric::delta_nll: return value(w.delta_nll, 1);
    case Metric::top1: return value(w.top1, -1);
    case Metric::sqnr: {
      if (w.mse.empty() || z2.empty()) return value_of(e, metric);
      double signal = 0;
      for (const int i : draws) signal += z2[std::size_t(i)];
      return -10 * std::log10(signal / double(draws.size()) / mean(w.mse));
    }
    case Metric::sqnr_centred: break;
  }
  return value_of(e, metric);
}

}  // namespace detail

/// `measured`: dPPL of the entries on a text; without it the file's delta_ppl column. Errors: neither is there.
inline Result<Audit> audit(const Sensitivity& s, const MeasuredNll* measured, const AuditOptions& options = {}) {
  Audit out;
  out.model = s.model;
  const std::size_t text_windows = measured ? measured->reference.size() : 0;
  std::vector<double> delta(s.entries.size());
  for (std::size_t i = 0; i < s.entries.size(); ++i) {
    const SensitivityEntry& e = s.entries[i];
    delta[i] = measured ? delta_ppl_of(*measured, i, 0, text_windows) : e.delta_ppl;
    out.points.push_back({e.component, e.format, e.kl_qp.mean, e.kl_pq.mean, delta[i], is_marked(e, s.floor)});
  }
  std::size_t file_windows = s.entries.empty() ? 0 : std::size_t(s.windows);
  for (const SensitivityEntry& e : s.entries)
    if (e.by_window.kl_qp.size() != std::size_t(s.windows)) file_windows = 0;
  out.by_windows = file_windows > 1 || text_windows > 1;

  std::vector<std::string> formats = formats_of(s);
  if (formats.size() > 1) formats.push_back("all");
  for (const std::string& format : formats)
    for (const Metric metric : all_metrics) {
      AuditRow row{format, metric, {}, not_known, 0, 0};
      std::vector<std::size_t> ranked;
      std::vector<double> x, y;
      for (std::size_t i = 0; i < s.entries.size(); ++i) {
        const SensitivityEntry& e = s.entries[i];
        const double value = value_of(e, metric);
        if ((format != "all" && e.format != format) || (options.skip_head && is_head(e.component))) continue;
        if (std::isnan(value) || std::isnan(delta[i])) continue;
        if (is_marked(e, s.floor)) {
          ++row.marked;
          continue;
        }
        ranked.push_back(i), x.push_back(value), y.push_back(delta[i]);
      }
      row.n = int(ranked.size());
      if (row.n < 2) continue;
      const double tau = kendall_tau_b(x, y);
      if (out.by_windows) {
        const auto x_of = [&](std::size_t c, std::span<const int> draws) {
          return draws.empty() ? x[c] : detail::metric_over(s.entries[ranked[c]], metric, s.z2_by_window, draws);
        };
        // exp() is monotone and the base is common: mean NLL ranks as dPPL does.
        const auto y_of = [&](std::size_t c, std::span<const int> draws) {
          if (draws.empty()) return y[c];
          double sum = 0;
          for (const int w : draws) sum += measured->entries[ranked[c]][std::size_t(w)];
          return sum;
        };
        row.tau = bootstrap_windows(ranked.size(), x_of, file_windows, y_of, text_windows, tau, options.bootstrap);
      } else {
        row.tau = bootstrap_components(x, y, options.bootstrap);
      }
      if (const std::size_t half = text_windows / 2; half > 0) {
        std::vector<double> a, b;
        for (const std::size_t i : ranked)
          a.push_back(delta_ppl_of(*measured, i, 0, half)),
              b.push_back(delta_ppl_of(*measured, i, half, text_windows - half));
        row.ceiling = kendall_tau_b(a, b);
      }
      out.rows.push_back(std::move(row));
    }
  if (out.rows.empty())
    return Error{ErrorCode::missing, "audit of " + s.model,
                 "a dPPL for each entry: a 'delta_ppl' column, or a model and a text to measure it", "none"};
  return out;
}

inline Json audit_to_json(const Audit& a) {
  const auto number = [](double v) { return std::isfinite(v) ? Json(v) : Json(); };
  Json points = Json::array(), rows = Json::array();
  for (const AuditPoint& p : a.points)
    points.push_back({{"component", p.component},
                      {"format", p.format},
                      {"kl_qp", number(p.kl_qp)},
                      {"kl_pq", number(p.kl_pq)},
                      {"delta_ppl", number(p.delta_ppl)},
                      {"marked", p.marked}});
  for (const AuditRow& r : a.rows)
    rows.push_back({{"format", r.format},
                    {"metric", std::string(name_of(r.metric))},
                    {"tau", number(r.tau.value)},
                    {"low", number(r.tau.low)},
                    {"high", number(r.tau.high)},
                    {"ceiling", number(r.ceiling)},
                    {"n", r.n},
                    {"marked", r.marked}});
  return {{"schema", "klens.audit/1"},
          {"model", a.model},
          {"text", a.text},
          {"bootstrap", a.by_windows ? "windows" : "components"},
          {"points", points},
          {"rows", rows}};
}

}  // namespace klens
