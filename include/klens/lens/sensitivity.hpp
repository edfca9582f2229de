// Sensitivity: what `klens measure` found out, one entry per (component, format), and where it came from. Data only;
// the files are read and written in lens/sensitivity_json.hpp.
#pragma once

#include <klens/lens/statistics.hpp>
#include <klens/plan/document.hpp>

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace klens {

/// What of a component was quantized.
enum class EntryKind : std::uint8_t { weight, activation, state, cache };
inline constexpr std::string_view entry_kind_names[] = {"weight", "activation", "state", "cache"};
/// Of a scan or convolution, or a KV cache: what a sequence keeps, not what the file holds.
constexpr bool is_state(EntryKind kind) { return kind == EntryKind::state || kind == EntryKind::cache; }

/// Means of one entry in each window, in order. Empty where a file holds none.
struct WindowValues {
  std::vector<float> kl_qp, kl_pq, mse, delta_nll, top1;
};

/// One component in one format, everything else as in the checkpoint. NaN: not in the file. KL and NLL in nat per
/// token.
struct SensitivityEntry {
  std::string component, format;
  EntryKind kind = EntryKind::weight;
  std::int64_t bytes = -1, bytes_reference = -1;  // payload in `format`, and in the checkpoint's; -1: not in the file.
                                                  // A state: memory per sequence; K and V: for one window
  int windows = 0;
  Distribution kl_qp, kl_pq;  // KL(q||p), KL(p||q)
  double mse = not_known, sqnr_db = not_known, sqnr_centred_db = not_known;
  Estimate delta_nll;
  double top1 = not_known;       // share of tokens with the same argmax
  double delta_ppl = not_known;  // on another text, where measured; published files: the PPL itself
  WindowValues by_window;
};

/// KL of our f32 forward against a float64 forward of the same weights: what is below is arithmetic, not quantization.
struct NoiseFloor {
  double kl_qp = 0, kl_pq = 0, max = 0;  // means over tokens; the largest of any token, either way
  int tokens = 0;
};

/// How often the experts of one layer were chosen, by the reference, over all tokens measured on.
struct Routing {
  int layer = 0;
  std::vector<std::int64_t> tokens;   // of each expert
};

struct Sensitivity {
  std::string model;                  // a name for people
  std::string text;                   // name of the text
  std::string text_hash, model_hash;  // of the token ids; of the checkpoint's weights
  int window = 0, windows = 0;        // tokens per window, windows
  NoiseFloor floor;
  double ppl = not_known;                 // of the reference on the same windows
  std::optional<PlanDocument> reference;  // the checkpoint's own formats: shapes and bytes for a plan
  std::vector<Routing> routing;           // of the layers with experts
  std::vector<double> z2_by_window;       // mean squared reference logit of each window: SQNR = z2 / mse
  std::vector<SensitivityEntry> entries;
  bool published = false;  // a file of the KL Lens authors
};

/// An entry is marked, not ranked, where its KL lies under max(floor, 2 standard errors).
inline bool is_marked(const Distribution& kl, double floor) { return kl.mean < std::fmax(floor, 2 * kl.se); }
inline bool is_marked(const SensitivityEntry& e, const NoiseFloor& floor) {
  return is_marked(e.kl_qp, floor.kl_qp) || is_marked(e.kl_pq, floor.kl_pq);
}

/// The head, by its usual names; the KL Lens authors leave it out of their ranking.
inline bool is_head(std::string_view component) { return component == "lm_head" || component.ends_with(".lm_head"); }

/// The metrics that can be ranked, each so that larger means worse.
enum class Metric : int { kl_qp, kl_pq, sqnr, sqnr_centred, mse, delta_nll, top1 };
inline constexpr std::array<Metric, 7> all_metrics = {
    Metric::kl_qp, Metric::kl_pq, Metric::sqnr, Metric::sqnr_centred, Metric::mse, Metric::delta_nll, Metric::top1};
inline constexpr std::string_view metric_names[] = {"kl_qp", "kl_pq",     "sqnr", "sqnr_centred",
                                                    "mse",   "delta_nll", "top1"};
constexpr std::string_view name_of(Metric metric) { return metric_names[int(metric)]; }

/// NaN where the file does not hold it.
inline double value_of(const SensitivityEntry& e, Metric metric) {
  switch (metric) {
    case Metric::kl_qp: return e.kl_qp.mean;
    case Metric::kl_pq: return e.kl_pq.mean;
    case Metric::sqnr: return -e.sqnr_db;
    case Metric::sqnr_centred: return -e.sqnr_centred_db;
    case Metric::mse: return e.mse;
    case Metric::delta_nll: return e.delta_nll.mean;
    case Metric::top1: return -e.top1;
  }
  return not_known;
}

/// Formats of the entries of one kind, each once, in the order of the file.
inline std::vector<std::string> formats_of(const Sensitivity& s) {
  std::vector<std::string> formats;
  for (const SensitivityEntry& e : s.entries)
    if (std::find(formats.begin(), formats.end(), e.format) == formats.end()) formats.push_back(e.format);
  return formats;
}

}  // namespace klens
