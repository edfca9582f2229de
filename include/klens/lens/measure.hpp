// measure: every (component, format) of a model alone against the reference, over the windows of a text, into
// sensitivity.json; weights, activations, and states (scans, convolutions, KV caches). Finished windows go to a journal beside the output, so that a killed run goes on; the file is made
// from the journal alone and is the same, byte for byte, for any number of interruptions and threads. Weights are
// always quantized from the pristine ones.
#pragma once

#include <klens/lens/float64_forward.hpp>
#include <klens/lens/journal.hpp>
#include <klens/lens/probe.hpp>
#include <klens/lens/sensitivity_json.hpp>
#include <klens/version.hpp>

#include <atomic>
#include <functional>

namespace klens {

/// (runs done, runs in all); a run is one candidate over one window.
using ProgressOf = std::function<void(std::int64_t done, std::int64_t total)>;

struct MeasureOptions {
  int window = 256, windows = 64;     // tokens per window; windows at most (0: all)
  std::vector<std::string> formats;   // w4g32, w4g32a8, ...; a8 or a16: activations of the component alone
  std::vector<int> components;        // indices; empty: all
  std::vector<State> state_formats, cache_formats;  // of scans and convolutions; of KV caches
  std::vector<int> states;            // indices into Model::states(); empty: all
  std::string model_name, text_name;  // for people
  ProgressOf progress;
  const std::atomic<bool>* cancel = nullptr;  // looked at between candidates; ends with ErrorCode::interrupted
};

struct MeasureReport {
  int entries = 0, windows = 0;
  std::int64_t runs = 0, resumed = 0;  // in all; taken over from a run that was stopped
};

/// A component in a format. Of the kinds state and cache: a state, precision.state.
struct ProbeCandidate {
  int component = 0;  // index into Model::components() or Model::states()
  Precision precision;
  EntryKind kind = EntryKind::weight;
  std::string format;
};

/// The candidates of a measurement, component by component. Errors: a name that is unknown or that no kernel computes.
inline Result<std::vector<ProbeCandidate>> probe_candidates(const Model& model, const Program& program,
                                                            const std::vector<std::string>& formats,
                                                            std::vector<int> components) {
  if (components.empty())
    for (int c = 0; c < int(model.components().size()); ++c) components.push_back(c);
  std::vector<ProbeCandidate> candidates;
  for (const int c : components)
    for (std::size_t f = 0; f < formats.size(); ++f) {
      const std::string& name = formats[f];
      if (std::find(formats.begin(), formats.begin() + std::ptrdiff_t(f), name) != formats.begin() + std::ptrdiff_t(f))
        continue;
      ProbeCandidate candidate{c, {}, EntryKind::weight, name};
      if (name == "a8" || name == "a16") {
        candidate.kind = EntryKind::activation;
        candidate.precision = model.reference_precision(c);
        candidate.precision.activation = name == "a8" ? Activation::a8 : Activation::a16;
      } else if (const auto precision = parse_format(name)) {
        candidate.precision = *precision;
      } else {
        return Error{ErrorCode::usage, "format", "a name such as w8, w4g32, nf4g64, w4g32a8, f16, or a8 and a16 alone",
                     "'" + name + "'"};
      }
      if (candidate.precision.state != State::f32 || candidate.precision.activation == Activation::a8s ||
          linear_of(*program.table, candidate.precision) == nullptr)
        return Error{ErrorCode::no_kernel, "format '" + name + "'",
                     "one that the linears of level " + std::string(name_of(program.level)) + " compute", "no kernel"};
      candidates.push_back(std::move(candidate));
    }
  if (candidates.empty()) return Error{ErrorCode::usage, "measure", "at least one format and one component", "none"};
  return candidates;
}

/// The candidates among the states, state by state. Errors: a format that none of the states has.
inline Result<std::vector<ProbeCandidate>> state_candidates(const Model& model, std::span<const State> formats,
                                                            std::span<const State> cache_formats,
                                                            std::vector<int> states) {
  if (states.empty())
    for (int s = 0; s < int(model.states().size()); ++s) states.push_back(s);
  std::vector<ProbeCandidate> candidates;
  for (const int s : states) {
    const StateKind kind = model.states()[std::size_t(s)].kind;
    const std::span<const State> wanted = kind == StateKind::kv ? cache_formats : formats;
    for (std::size_t f = 0; f < wanted.size(); ++f) {
      if (std::find(wanted.begin(), wanted.begin() + std::ptrdiff_t(f), wanted[f]) !=
          wanted.begin() + std::ptrdiff_t(f))
        continue;
      if (!state_allowed(kind, wanted[f]))
        return Error{ErrorCode::no_kernel, "format '" + std::string(name_of(wanted[f])) + "'",
                     kind == StateKind::kv ? "f32, f16, s8 or s4 for a KV cache" : "f32, f16, s16 or s8 for a state",
                     "no kernel"};
      candidates.push_back({s, state_precision(wanted[f]), kind == StateKind::kv ? EntryKind::cache : EntryKind::state,
                            std::string(name_of(wanted[f]))});
    }
  }
  return candidates;
}

/// Hash of a checkpoint's numbers: packed reference weights and every small tensor, as kernels read them.
inline std::uint64_t model_hash(const Model& model) {
  Checksum sum;
  const std::uint64_t shape = model.hash();
  sum.update(std::as_bytes(std::span(&shape, 1)));
  for (int c = 0; c < int(model.components().size()); ++c) {
    const PackedMatrix& w = model.weights(c);
    sum.update(std::as_bytes(std::span(w.lines, std::size_t(layout_of(w.precision, w.rows, w.cols).line_plane_bytes))));
  }
  for (const Buffer<float>& small : model.small_tensors()) sum.update(std::as_bytes(small.span()));
  return sum.value();
}

/// KL of our f32 forward against the float64 one, on the first two windows. A large model takes fewer tokens of them:
/// float64 by plain loops does some 10^9 multiplications per second and thread.
inline Result<NoiseFloor> noise_floor(const Model& model, const Program& program, Ids ids, const Team& team, int window,
                                      int windows) {
  constexpr std::int64_t most_products = 2'000'000'000;
  const Shape& s = model.shape();
  const int tokens = int(std::clamp<std::int64_t>(most_products / model.parameters(), std::min(16, window), window));
  KLENS_TRY(const Float64Forward exact, Float64Forward::open(model.path(), model.plan()));
  KLENS_TRY(Session session, Session::create(model, program, team, {.context = tokens}));
  Buffer<float> logits(std::size_t(tokens) * std::size_t(logit_stride(s)));
  const Rows<float> rows{logits.data(), tokens, s.vocab, logit_stride(s)};
  NoiseFloor floor;
  for (int w = 0; w < std::min(windows, 2); ++w) {
    const Ids part = window_at(ids, window, w).first(std::size_t(tokens));
    session.reset();
    KLENS_OK(session.prefill(part, {.logits = rows}));
    KLENS_TRY(const std::vector<double> z, exact.logits(part, team));
    for (int t = 0; t < tokens; ++t) {
      const PairOfKl kl = float64_kl(z.data() + std::ptrdiff_t(t) * s.vocab, row(rows, t), s.vocab);
      floor.kl_pq += kl.pq, floor.kl_qp += kl.qp;
      floor.max = std::max({floor.max, kl.pq, kl.qp});
    }
    floor.tokens += tokens;
  }
  floor.kl_pq /= floor.tokens, floor.kl_qp /= floor.tokens;
  return floor;
}

namespace detail {

/// One entry from the journal's records of a candidate, `index(w)` being the record of window w.
template <class IndexOf>
Result<SensitivityEntry> entry_of(const Journal& journal, const IndexOf& index, int windows, int window, int vocab) {
  SensitivityEntry e;
  e.windows = windows;
  std::vector<double> qp, pq, nll;
  std::vector<float> qp_tokens, pq_tokens, kl(2 * std::size_t(window));
  WindowSums all;
  const double tokens = window, values = tokens * vocab;
  for (int w = 0; w < windows; ++w) {
    KLENS_TRY(const WindowSums s, journal.read(index(w), kl.data()));
    qp_tokens.insert(qp_tokens.end(), kl.begin(), kl.begin() + window);
    pq_tokens.insert(pq_tokens.end(), kl.begin() + window, kl.end());
    qp.push_back(s.kl_qp / tokens), pq.push_back(s.kl_pq / tokens), nll.push_back((s.nll_q - s.nll_p) / (tokens - 1));
    all.z2 += s.z2, all.d2 += s.d2, all.zc2 += s.zc2, all.dc2 += s.dc2, all.same_top += s.same_top;
    if (std::size_t(windows) > window_values_limit) continue;
    e.by_window.kl_qp.push_back(float(qp.back())), e.by_window.kl_pq.push_back(float(pq.back()));
    e.by_window.mse.push_back(float(s.d2 / values)), e.by_window.delta_nll.push_back(float(nll.back()));
    e.by_window.top1.push_back(float(s.same_top / tokens));
  }
  e.kl_qp = distribution(qp, qp_tokens), e.kl_pq = distribution(pq, pq_tokens);
  e.mse = all.d2 / values / windows;
  e.sqnr_db = sqnr_db(all.z2, all.d2), e.sqnr_centred_db = sqnr_db(all.zc2, all.dc2);
  e.delta_nll = estimate(nll);
  e.top1 = all.same_top / tokens / windows;
  return e;
}

/// Binds candidates one after the other; what two neighbours share (w4g32, w4g32a8) is quantized once.
class CandidateBinder {
 public:
  explicit CandidateBinder(Model& model) : model_(model) {}
  ~CandidateBinder() { release(); }
  CandidateBinder(const CandidateBinder&) = delete;
  CandidateBinder& operator=(const CandidateBinder&) = delete;

  Result<void> use(const ProbeCandidate& c) {
    if (is_state(c.kind)) {
      release();
      state_ = c.component;
      return model_.set_state_format(state_, c.precision.state);
    }
    release_state();
    Precision stored = c.precision, reference = model_.reference_precision(c.component);
    stored.activation = reference.activation;
    if (component_ != c.component) release();
    if (stored == reference) {
      model_.unbind(c.component);
      PackedMatrix own = model_.weights(c.component);
      own.precision = c.precision;
      component_ = c.component;
      model_.bind(c.component, own);
      return {};
    }
    if (component_ != c.component || !(stored == stored_) || buffer_.rows() == 0) {
      KLENS_TRY(buffer_, model_.quantize(c.component, stored));
      stored_ = stored;
    }
    component_ = c.component;
    PackedMatrix matrix = buffer_.matrix();
    matrix.precision = c.precision;
    model_.bind(c.component, matrix);
    return {};
  }

  void release() {
    release_state();
    if (component_ >= 0) model_.unbind(component_);
    component_ = -1;
    buffer_ = {};
  }

 private:
  void release_state() {
    if (state_ >= 0) (void)model_.set_state_format(state_, model_.reference_state(state_));  // a format it had
    state_ = -1;
  }

  Model& model_;
  int component_ = -1, state_ = -1;
  Precision stored_;
  PackedBuffer buffer_;
};

/// The first layer that a candidate touches.
inline int first_layer(const Model& model, const ProbeCandidate& candidate) {
  if (is_state(candidate.kind)) return model.states()[std::size_t(candidate.component)].layer;
  const Component& c = model.components()[std::size_t(candidate.component)];
  return c.role == Role::embedding ? Probe::embedding_layer : c.role == Role::lm_head ? model.shape().layers : c.layer;
}

inline const std::string& name_of(const Model& model, const ProbeCandidate& c) {
  return is_state(c.kind) ? model.states()[std::size_t(c.component)].name
                          : model.components()[std::size_t(c.component)].name;
}

/// The reference's format of what a candidate changes.
inline Precision reference_of(const Model& model, const ProbeCandidate& c) {
  return is_state(c.kind) ? state_precision(model.reference_state(c.component)) : model.reference_precision(c.component);
}

/// Payload of a component in a format; memory of a state per sequence, for `context` tokens of a KV cache.
inline std::int64_t bytes_of(const Model& model, const RuntimePlan& plan, const ProbeCandidate& c, const Precision& p,
                             int context) {
  if (!is_state(c.kind)) {
    const Component& component = model.components()[std::size_t(c.component)];
    return packed_bytes(p, component.rows, component.cols);
  }
  const StateComponent& state = model.states()[std::size_t(c.component)];
  return state_bytes(plan, StateSite{state.kind, state.layer, p.state}, context);
}

/// Tokens of each expert, over all windows, in the model's present formats.
inline Result<std::vector<Routing>> count_routing(const Model& model, const Program& program, Ids ids, const Team& team, int window) {
  const Shape& s = model.shape();
  std::vector<Routing> routing;
  if (s.experts == 0) return routing;
  std::vector<std::int64_t> routed(std::size_t(s.layers) * std::size_t(s.experts), 0);
  KLENS_TRY(Session session, Session::create(model, program, team, {.context = window}));
  for (std::size_t first = 0; first + std::size_t(window) <= ids.size(); first += std::size_t(window)) {
    session.reset();
    KLENS_OK(session.prefill(ids.subspan(first, std::size_t(window)), {.routed = routed}));
  }
  for (int l = 0; l < s.layers; ++l) {
    const auto begin = routed.begin() + std::ptrdiff_t(l) * s.experts;
    if (has_experts(model.view().layers[l].ffn)) routing.push_back({l, {begin, begin + s.experts}});
  }
  return routing;
}

}  // namespace detail

/// Writes `output`. The model is put into its reference formats first, and left in them.
inline Result<MeasureReport> measure(Model& model, const Program& program, Ids ids, const Team& team,
                                     const std::string& output, const MeasureOptions& options) {
  using namespace detail;
  if (model.is_packed())
    return Error{ErrorCode::usage, model.path(), "a checkpoint: measuring quantizes the original weights",
                 "a packed file"};
  KLENS_OK(model.set_reference());
  const std::string where = options.text_name.empty() ? "text" : options.text_name;
  KLENS_TRY(const int windows, count_windows(ids, options.window, options.windows, model.shape().vocab, where));
  std::vector<ProbeCandidate> candidates;
  if (!options.formats.empty()) {
    KLENS_TRY(candidates, probe_candidates(model, program, options.formats, options.components));
  }
  KLENS_TRY(const std::vector<ProbeCandidate> states,
            state_candidates(model, options.state_formats, options.cache_formats, options.states));
  candidates.insert(candidates.end(), states.begin(), states.end());
  if (candidates.empty()) return Error{ErrorCode::usage, "measure", "at least one format and one component", "none"};
  const Ids used = ids.first(std::size_t(windows) * std::size_t(options.window));

  Sensitivity s;
  s.model = options.model_name, s.text = options.text_name;
  s.model_hash = hex64(model_hash(model)), s.text_hash = hex64(checksum(std::as_bytes(used)));
  s.window = options.window, s.windows = windows;
  KLENS_TRY(s.reference, make_plan(s.model, model.plan(), model.small_payload_bytes(), {}, {}, model.path()));

  KLENS_TRY(Probe probe, Probe::create(model, program, team, options.window));
  const int batch = probe.batch(), count = int(candidates.size());
  std::string key_text = std::string(KLENS_VERSION) + " " + s.model_hash + " " + s.text_hash + " " +
                         std::to_string(options.window) + " " + std::to_string(batch);
  for (const ProbeCandidate& c : candidates)
    key_text += "\n" + detail::name_of(model, c) + " " + c.format;
  std::vector<int> units;  // records of each (batch, candidate)
  for (int first = 0; first < windows; first += batch)
    units.insert(units.end(), std::size_t(count), std::min(batch, windows - first));
  KLENS_TRY(Journal journal, Journal::open(output + ".journal", checksum(key_text), options.window, units));

  MeasureReport report{count, windows, std::int64_t(count) * windows, journal.records()};
  const auto record_of = [&](int candidate, int w) {
    const int first = w / batch * batch, size = std::min(batch, windows - first);
    return std::int64_t(first) * count + std::int64_t(candidate) * size + (w - first);
  };
  if (options.progress) options.progress(report.resumed, report.runs);
  {
    CandidateBinder binder(model);
    std::vector<WindowResult> results;
    std::vector<Journal::Record> unit;
    for (int first = 0; first < windows; first += batch) {
      const int size = std::min(batch, windows - first);
      if (journal.records() >= record_of(count - 1, first) + size) continue;
      binder.release();
      KLENS_OK(probe.load(used, first, size));
      for (int c = 0; c < count; ++c) {
        if (journal.records() > record_of(c, first)) continue;
        if (options.cancel != nullptr && options.cancel->load())
          return Error{ErrorCode::interrupted, output, "", "stopped; the same command goes on from here"};
        const ProbeCandidate& candidate = candidates[std::size_t(c)];
        if (candidate.precision == reference_of(model, candidate)) {
          // The reference against itself: equal bits in, equal bits out, so that there is nothing to run.
          results.resize(std::size_t(size));
          for (int w = 0; w < size; ++w) {
            results[std::size_t(w)].sums = probe.caches()[std::size_t(w)].reference;
            results[std::size_t(w)].kl.assign(2 * std::size_t(options.window), 0.0f);
          }
        } else {
          KLENS_OK(binder.use(candidate));
          KLENS_OK(probe.compare(first_layer(model, candidate), results));
        }
        unit.clear();
        for (const WindowResult& r : results) {
          if (!is_finite(r.sums))
            return Error{
                ErrorCode::overflow,
                output + ": " + detail::name_of(model, candidate) + " in " + candidate.format,
                "finite logits", "infinite or undefined ones"};
          unit.push_back({r.sums, r.kl.data()});
        }
        KLENS_OK(journal.append(unit));
        if (options.progress) options.progress(journal.records(), report.runs);
      }
    }
  }
  KLENS_TRY(s.routing, count_routing(model, program, used, team, options.window));
  KLENS_TRY(s.floor, noise_floor(model, program, used, team, options.window, windows));

  std::vector<float> kl(2 * std::size_t(options.window));
  double nll = 0;
  for (int w = 0; w < windows; ++w) {
    KLENS_TRY(const WindowSums sums, journal.read(record_of(0, w), kl.data()));
    nll += sums.nll_p / (options.window - 1);
    if (std::size_t(windows) <= window_values_limit)
      s.z2_by_window.push_back(sums.z2 / options.window / model.shape().vocab);
  }
  s.ppl = std::exp(nll / windows);
  KLENS_TRY(AtomicFile file, AtomicFile::create(output));
  KLENS_OK(file.write(sensitivity_head_text(s)));
  const RuntimePlan plan = model.plan();
  for (int c = 0; c < count; ++c) {
    const ProbeCandidate& candidate = candidates[std::size_t(c)];
    KLENS_TRY(SensitivityEntry e,
              entry_of(
                  journal, [&](int w) { return record_of(c, w); }, windows, options.window, model.shape().vocab));
    e.component = detail::name_of(model, candidate), e.format = candidate.format, e.kind = candidate.kind;
    e.bytes = bytes_of(model, plan, candidate, candidate.precision, options.window);
    e.bytes_reference = bytes_of(model, plan, candidate, reference_of(model, candidate), options.window);
    KLENS_OK(file.write(std::string_view(c == 0 ? "\n" : ",\n")));
    KLENS_OK(file.write(entry_text(e, s.floor)));
  }
  KLENS_OK(file.write(std::string_view("\n]}\n")));
  KLENS_OK(file.commit());
  journal.remove();
  return report;
}

}  // namespace klens
