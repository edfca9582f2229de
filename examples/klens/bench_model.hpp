// The speed of a whole model beside what bounds it, all taken in one run.
//
//   decode    tokens/s after a prompt; the bytes a token must touch; their rate as a share of the rate at which the fastest plain
//             reader walks the model's own weights, in the decoder's shares and between the same tokens
//   prefill   tokens/s; the time of its linears alone, each distinct matrix at the prompt's length, summed over the model
//   profile   where the time goes: by kernel (bench_profile.hpp), by layer, and what is left: dispatch and waiting
//
// Bytes of a token: weights of every linear once, one row of the embedding, small tensors (f32, as kernels read them), K and V of
// the positions its widest reader sees, once per cache, and its own, states read and written.
#pragma once

#include "bench_limits.hpp"
#include "bench_profile.hpp"

#include <klens/model/model.hpp>
#include <klens/model/session.hpp>
#include <klens/plan/budget.hpp>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <map>
#include <tuple>

namespace klens::cli {

struct ModelBenchOptions {
  std::vector<int> threads = {1}, prefill = {128, 512}, prompts = {0, 1024};
  int decode = 128, chunk = SessionOptions{}.chunk;
  bool synthetic = false;   // prompts of decode are skipped: caches and states hold zeros
};

/// The weights a token reads, in the pieces that the decoder deals out.
class WeightWalk {
 public:
  WeightWalk(const Model& model, int threads) {
    for (int c = 0; c < int(model.components().size()); ++c) {
      if (model.components()[std::size_t(c)].role == Role::embedding && !model.shape().tied_head) continue;
      const PackedMatrix& w = model.weights(c);
      const PackedLayout l = layout_of(w.precision, w.rows, w.cols);
      LinearDeal deal;
      deal_out(deal, threads, 1, l.panels, model.component_bytes(c), std::int64_t(w.rows) * w.cols);
      for (int i = 0; i < deal.deal.tasks; ++i) {
        const Share s = share_of(deal, int(l.panels), i);
        put(w.lines + s.begin * l.panel_bytes, (s.end - s.begin) * l.panel_bytes);
        if (w.scales != nullptr)
          put(static_cast<const unsigned char*>(w.scales) + s.begin * l.scale_panel_bytes,
              (s.end - s.begin) * l.scale_panel_bytes / 64 * 64);
      }
      bytes_ += model.component_bytes(c);
    }
  }
  std::int64_t bytes() const { return bytes_; }

  /// Bytes per second of one walk, by the better of the two readers that were best on this memory.
  double rate(const Team& team) {
    if (fastest_.empty()) {
      std::vector<std::pair<double, Reader>> timed;
      for (const Reader& r : readers()) walk(team, r), timed.push_back({walk(team, r), r});
      std::sort(timed.begin(), timed.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
      for (std::size_t i = 0; i < std::min<std::size_t>(2, timed.size()); ++i) fastest_.push_back(timed[i].second);
    }
    double best = 1e30;
    for (const Reader& r : fastest_) best = std::min(best, walk(team, r));
    return double(bytes_) / best;
  }

 private:
  void put(const unsigned char* p, std::int64_t bytes) {
    if (bytes > 0) pieces_.push_back({p, bytes});
  }
  double walk(const Team& team, const Reader& r) const {
    return seconds_of([&] { for_each(team, int(pieces_.size()), [&](int i, int) {
      r.run(pieces_[std::size_t(i)].first, pieces_[std::size_t(i)].second);
    }); });
  }

  std::vector<std::pair<const unsigned char*, std::int64_t>> pieces_;
  std::vector<Reader> fastest_;
  std::int64_t bytes_ = 0;
};

struct TokenBytes {
  std::int64_t weights = 0, embedding = 0, small = 0, kv = 0, state = 0;
  std::int64_t total() const { return weights + embedding + small + kv + state; }
};

/// What a token at text position `position` must touch.
inline TokenBytes token_bytes(const Model& model, int position) {
  TokenBytes b;
  const Shape& s = model.shape();
  const RuntimePlan plan = model.plan();
  for_each_site(plan, [&](const Site& site) {
    if (site.expert >= 0) b.weights += site_bytes(site) * s.experts_used / s.experts;   // of experts in one format: exact
    else if (site.role != Role::embedding || s.tied_head) b.weights += site_bytes(site);
  });
  b.embedding = packed_bytes(plan.embedding, lanes, s.hidden) / lanes;
  b.small = small_values(plan) * 4 - std::int64_t(s.meta) * s.hidden * 4;
  const int here = s.meta + position + 1, capacity = int(round_up(here, lanes));
  std::vector<int> visible(plan.layers.size(), 0);   // by cache: of its widest reader
  for (int l = 0; l < s.layers; ++l) {
    const LayerView& layer = model.view().layers[l];
    const StateExtent e = state_extent(s, layer.mixer, layer.kv_source == l, layer.states, capacity);
    b.state += 2 * (e.conv + e.scan);
    if (!has_attention(layer.mixer)) continue;
    const int seen = layer.window == 0 ? here : std::min(here, s.meta + layer.window + 1);
    int& of_cache = visible[std::size_t(layer.kv_source)];
    of_cache = std::max(of_cache, seen);
  }
  for (int l = 0; l < s.layers; ++l)
    if (visible[std::size_t(l)] > 0)
      b.kv += kv_bytes_per_layer(model.view().layers[l].states.kv, s.kv_heads, s.qk_dim, s.v_dim, capacity) / capacity *
              (visible[std::size_t(l)] + 1);
  return b;
}

/// Tokens without a meaning: the work does not depend on them.
inline std::vector<std::int32_t> any_tokens(int count, int vocab) {
  std::vector<std::int32_t> ids;
  for (int i = 0; i < count; ++i) ids.push_back(std::int32_t((std::uint64_t(i) * 2654435761u >> 7) % std::uint64_t(vocab)));
  return ids;
}

/// Empties a session and puts `prompt` tokens into it; synthetic: skips them and the meta tokens.
inline Result<void> put_prompt(Session& session, std::span<const std::int32_t> ids, int prompt, bool synthetic) {
  session.reset();
  if (synthetic) return session.skip(prompt);
  return session.prefill(ids.first(std::size_t(prompt)));
}

/// The linears of a model alone, at some number of tokens: each distinct one is timed, all are summed. The head: one token.
class LinearSum {
 public:
  static Result<LinearSum> make(const Model& model, const Program& program, int tokens, int threads) {
    LinearSum sum;
    for (int c = 0; c < int(model.components().size()); ++c) {
      const Component& part = model.components()[std::size_t(c)];
      const bool head = part.role == Role::lm_head || (part.role == Role::embedding && model.shape().tied_head);
      if (part.role == Role::embedding && !head) continue;
      const Precision& p = model.precision(c);
      const auto key = std::tuple(format_name(p), part.rows, part.cols, head);
      const auto known = sum.kinds_.find(key);
      if (known != sum.kinds_.end()) { ++known->second.uses; continue; }
      const bool fast = program.policy == Policy::fast && fast_linear_of(*program.table, p) != nullptr;
      KLENS_TRY(LinearBench bench, LinearBench::make(p, part.rows, part.cols, head ? 1 : tokens, 1, threads, fast));
      bench.quantize(*program.table);
      sum.kinds_.emplace(key, Kind{std::move(bench), 1, head});
    }
    return sum;
  }

  /// Seconds for `rows` rows of a prompt measured at `tokens`, and the head once.
  double seconds(const KernelTable& table, const Team& team, double rows_per_token) {
    double total = 0;
    for (auto& [key, kind] : kinds_) {
      kind.bench.run(table, 0, team);
      total += seconds_of([&] { kind.bench.run(table, 0, team); }) * kind.uses * (kind.head ? 1.0 : rows_per_token);
    }
    return total;
  }

 private:
  struct Kind { LinearBench bench; int uses; bool head; };
  std::map<std::tuple<std::string, int, int, bool>, Kind> kinds_;
};

/// Microseconds per token by part and by layer. A part's time is its threads' together, divided by their number; "waiting" is
/// what the parts leave of the time: dispatch, barriers, threads without work.
inline nlohmann::json profile_json(const Profile& profile, const Model& model, int threads, int tokens, double seconds) {
  nlohmann::json parts = nlohmann::json::object(), layers = nlohmann::json::array();
  const double scale = 1e-3 / tokens;
  double known = 0;
  for (int i = 0; i < part_count; ++i) {
    const double us = double(profile.parts[std::size_t(i)].nanoseconds.load()) * scale / threads;
    if (us > 0) parts[std::string(part_names[std::size_t(i)])] = us;
    known += us;
  }
  for (int l = 0; l < int(profile.layers.size()); ++l) {
    const LayerView& layer = model.view().layers[l];
    layers.push_back({{"mixer", name_of(layer.mixer)}, {"ffn", name_of(layer.ffn)}, {"window", layer.window},
                      {"microseconds", double(profile.layers[std::size_t(l)]) * scale}});
  }
  return {{"microseconds", seconds * 1e6 / tokens}, {"parts", parts}, {"waiting", seconds * 1e6 / tokens - known}, {"layers", layers}};
}

/// One model as it is, on every number of threads of the options.
inline Result<nlohmann::json> bench_runs(const Model& model, const Program& program, const ModelBenchOptions& o,
                                         const std::function<Result<void>()>& check) {
  constexpr int rounds = 8, warm_up = 2, profiled = 3, profile_rounds = 5;
  nlohmann::json runs = nlohmann::json::array();
  const int most_prompt = o.prompts.empty() ? 0 : *std::max_element(o.prompts.begin(), o.prompts.end());
  const int most_prefill = o.prefill.empty() ? 0 : *std::max_element(o.prefill.begin(), o.prefill.end());
  const int steps = std::max(1, o.decode / rounds);
  const SessionOptions sizes{.context = std::max(most_prompt + warm_up + std::max(rounds * steps, profiled * profile_rounds), most_prefill), .chunk = o.chunk};
  const std::vector<std::int32_t> ids = any_tokens(std::max({most_prompt, most_prefill, 1}), model.shape().vocab);
  const auto step = [&](Session& session, int count) -> Result<void> {
    for (int i = 0; i < count; ++i) {
      KLENS_TRY(const std::span<const float> logits, session.step(ids[std::size_t(i) % ids.size()]));
      (void)logits;
    }
    return {};
  };
  const auto timed = [](auto&& work) -> Result<double> {
    Result<void> done;
    const double seconds = seconds_of([&] { done = work(); });
    KLENS_OK(std::move(done));
    return seconds;
  };
  for (const int threads : o.threads) {
    ThreadTeam owner(threads);
    const Team team = owner.team();
    WeightWalk walk(model, threads);
    nlohmann::json run = {{"threads", threads}, {"prefill", nlohmann::json::array()}, {"decode", nlohmann::json::array()}};
    {
      KLENS_TRY(Session session, Session::create(model, program, team, sizes));
      for (const int tokens : o.prefill) {
        KLENS_OK(check());
        KLENS_TRY(LinearSum linears, LinearSum::make(model, program, tokens, threads));
        const double rows = o.synthetic ? 1.0 : double(model.shape().meta + tokens) / tokens;
        std::vector<double> seconds, alone, ratios;
        for (int r = 0; r < 4; ++r) {
          KLENS_OK(put_prompt(session, ids, 0, o.synthetic));
          KLENS_TRY(const double s, timed([&] { return session.prefill(std::span(ids).first(std::size_t(tokens))); }));
          const double a = linears.seconds(*program.table, team, rows);
          if (r > 0) seconds.push_back(s), alone.push_back(a), ratios.push_back(s / a);
        }
        run["prefill"].push_back({{"tokens", tokens}, {"tokens_per_second", tokens / median(seconds)},
                                  {"milliseconds", median(seconds) * 1e3}, {"linears_milliseconds", median(alone) * 1e3},
                                  {"ratio", median(ratios)}});
      }
      for (const int prompt : o.prompts) {
        KLENS_OK(check());
        KLENS_OK(put_prompt(session, ids, prompt, o.synthetic));
        KLENS_OK(step(session, warm_up));
        walk.rate(team);
        const TokenBytes bytes = token_bytes(model, prompt + warm_up + rounds * steps / 2);
        std::vector<double> seconds, rates, shares;
        for (int r = 0; r < rounds; ++r) {
          const double rate = walk.rate(team);
          KLENS_TRY(const double s, timed([&] { return step(session, steps); }));
          seconds.push_back(s / steps), rates.push_back(rate), shares.push_back(double(bytes.total()) * steps / s / rate);
        }
        const double token = median(seconds);
        run["decode"].push_back({{"prompt", prompt}, {"tokens", rounds * steps}, {"tokens_per_second", 1 / token},
                                 {"microseconds", token * 1e6},
                                 {"bytes", {{"weights", bytes.weights}, {"embedding", bytes.embedding}, {"small", bytes.small},
                                            {"kv", bytes.kv}, {"state", bytes.state}, {"total", bytes.total()}}},
                                 {"bytes_per_second", double(bytes.total()) / token},
                                 {"read_bytes_per_second", median(rates)}, {"share", median(shares)}});
      }
    }
    Profile profile;
    profile.policy = program.policy;
    profile_in_use = &profile;
    KLENS_TRY(Session session, Session::create(model, timed_program(program), team, sizes));
    // The round of median length counts, whole: a disturbed one would blame the kernel it hit.
    const auto measure = [&](nlohmann::json& entry, int tokens, auto&& before, auto&& work) -> Result<void> {
      std::vector<std::pair<double, nlohmann::json>> of_rounds;
      for (int r = 0; r < profile_rounds; ++r) {
        KLENS_OK(check());
        profile.clear(model.shape().layers);
        KLENS_OK(before(r));
        profile.clear(model.shape().layers);
        KLENS_TRY(const double seconds, timed(work));
        of_rounds.emplace_back(seconds, profile_json(profile, model, threads, tokens, seconds));
      }
      std::sort(of_rounds.begin(), of_rounds.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
      entry["profile"] = of_rounds[of_rounds.size() / 2].second;
      return {};
    };
    for (auto& entry : run["prefill"]) {
      const int tokens = entry["tokens"];
      KLENS_OK(measure(entry, tokens, [&](int) { return put_prompt(session, ids, 0, o.synthetic); },
                       [&] { return session.prefill(std::span(ids).first(std::size_t(tokens))); }));
    }
    for (auto& entry : run["decode"]) {
      const auto before = [&](int round) -> Result<void> {
        if (round > 0) return {};
        KLENS_OK(put_prompt(session, ids, entry["prompt"], o.synthetic));
        return step(session, warm_up);
      };
      KLENS_OK(measure(entry, profiled, before, [&] { return step(session, profiled); }));
    }
    profile_in_use = nullptr;
    runs.push_back(std::move(run));
  }
  return runs;
}

}  // namespace klens::cli
