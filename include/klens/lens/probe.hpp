// The probe: one component in one format over a batch of windows, against the reference. The reference runs once per
// window and leaves behind the inputs of every layer and its logits (or, where logits are large, the normed last hidden
// states they are made from again); a candidate starts at the first layer it touches. Logits exist for one tile of
// tokens at a time.
//
// Windows run in parallel, one session per thread with a team of one: results are stored by window, so that no number
// depends on the number of threads. Memory depends on the model's sizes and the threads, not on the length of the text.
#pragma once

#include <klens/core/thread_team.hpp>
#include <klens/lens/windows.hpp>
#include <klens/model/decoder.hpp>
#include <klens/model/session.hpp>

#include <optional>

namespace klens {

inline constexpr std::int64_t probe_cache_bytes = 48
                                                  << 20;  // of a batch: some 8 windows of a small model, one of a large
inline constexpr std::int64_t probe_logits_bytes = 16
                                                   << 20;  // of a window: above, logits of the reference are made again
inline constexpr int probe_tile = 64;                      // tokens

/// What the reference leaves of one window.
struct WindowCache {
  Ids ids;
  std::vector<std::int32_t> targets;
  Buffer<float> inputs;                 // [layers][meta + window][stride]
  std::vector<Rows<float>> input_rows;  // of each layer
  Buffer<float> normed;                 // [window][stride]: last hidden states after the final norm
  Buffer<float> logits;                 // [window][logit_stride], or empty
  WindowSums reference;                 // compared with itself: z2, NLL, and no differences
};

/// Sums of one window and KL(q||p), KL(p||q) of its tokens (two runs of `window` floats).
struct WindowResult {
  WindowSums sums;
  std::vector<float> kl;
};

class Probe {
 public:
  /// The model must be a checkpoint in its reference formats; it must stay in place, and `team`'s owner alive.
  static Result<Probe> create(const Model& model, const Program& program, const Team& team, int window) {
    Probe probe(model, program, team, window);
    for (int t = 0; t < std::max(team.threads, 1); ++t) {
      KLENS_TRY(Session session, Session::create(model, program, {}, {.context = window}));
      probe.workers_.push_back(std::make_unique<Worker>(std::move(session), model.shape(), window));
    }
    return probe;
  }

  /// Windows per batch: by the model's sizes alone.
  int batch() const { return batch_; }

  /// Runs the reference over windows [first, first + count) of a text, count <= batch().
  Result<void> load(Ids ids, int first, int count) {
    caches_.resize(std::size_t(count));
    return over_windows([&](std::size_t w, Worker& worker) {
      return load_window(window_at(ids, window_, first + int(w)), caches_[w], worker);
    });
  }

  /// Compares the model as it is now with the reference, in every loaded window; `layer`: the first one that differs,
  /// or `embedding_layer` where the embedding does.
  Result<void> compare(int layer, std::vector<WindowResult>& results) {
    results.resize(caches_.size());
    return over_windows(
        [&](std::size_t w, Worker& worker) { return compare_window(layer, caches_[w], worker, results[w]); });
  }
  static constexpr int embedding_layer = -1;

  std::span<const WindowCache> caches() const { return caches_; }

 private:
  struct Worker {
    Worker(Session s, const Shape& shape, int window)
        : session(std::move(s)),
          normed(std::size_t(window) * std::size_t(row_stride(shape.hidden))),
          tile_p(std::size_t(probe_tile) * std::size_t(logit_stride(shape))),
          tile_q(tile_p.size()),
          stats(probe_tile) {
      work.at = workspace_layout(shape, probe_tile, 1, lanes);
      arena = Buffer<float>(std::size_t(work.at.floats));
      work.base = arena.data();
    }
    Session session;
    Buffer<float> normed, tile_p, tile_q, arena;
    Workspace work;  // of the head: quantized rows and scratch
    std::vector<TokenStats> stats;
  };

  Probe(const Model& model, const Program& program, const Team& team, int window)
      : model_(&model), program_(program), team_(team), window_(window), head_(model.view().head) {
    const Shape& s = model.shape();
    stride_ = row_stride(s.hidden);
    const std::int64_t logits = window * logit_stride(s) * 4;
    keeps_logits_ = logits <= probe_logits_bytes;
    const std::int64_t bytes =
        (std::int64_t(s.layers) * (s.meta + window) + window) * stride_ * 4 + (keeps_logits_ ? logits : 0);
    batch_ = int(std::clamp<std::int64_t>(probe_cache_bytes / bytes, 1, 16));
  }

  template <class Body>
  Result<void> over_windows(const Body& body) {
    std::vector<std::optional<Error>> errors(caches_.size());
    for_each(team_, int(caches_.size()), [&](int w, int thread) {
      const FlushDenormals flush;
      if (Result<void> done = body(std::size_t(w), *workers_[std::size_t(thread)]); !done)
        errors[std::size_t(w)] = done.error();
    });
    for (const auto& error : errors)
      if (error) return *error;
    return {};
  }

  /// The normed last hidden states of a run land in `normed`; the layers' hidden states before them are overwritten
  /// there.
  std::vector<Rows<float>> hidden_rows(float* normed) const {
    return std::vector<Rows<float>>(std::size_t(model_->shape().layers) + 1,
                                    Rows<float>{normed, window_, model_->shape().hidden, stride_});
  }

  /// Logits of `tokens` rows of normed hidden states, as the decoder makes them.
  void head(const SiteView& site, const float* normed, int tokens, Worker& worker, float* logits) const {
    Pass pass{&model_->view(), nullptr, &worker.work, program_.table, {}, nullptr, 0, tokens};
    decoder::Input in{normed, stride_, model_->shape().hidden};
    const TableOps ops{&model_->view(), program_.table, program_.policy};
    const decoder::Target<Role::lm_head> to{&site, logits, logit_stride(model_->shape())};
    decoder::project(ops, pass, model_->shape().layers, in, to);
  }

  Result<void> load_window(Ids ids, WindowCache& cache, Worker& worker) {
    const Shape& s = model_->shape();
    const std::int64_t rows = s.meta + window_, stride = logit_stride(s);
    cache.ids = ids;
    cache.targets = targets_of(ids);
    if (cache.inputs.size() == 0) {
      cache.inputs = Buffer<float>(std::size_t(s.layers * rows * stride_));
      cache.normed = Buffer<float>(std::size_t(window_ * stride_));
      if (keeps_logits_) cache.logits = Buffer<float>(std::size_t(window_ * stride));
      for (int l = 0; l < s.layers; ++l)
        cache.input_rows.push_back({cache.inputs.data() + l * rows * stride_, rows, s.hidden, stride_});
    }
    const auto hidden = hidden_rows(cache.normed.data());
    worker.session.reset();
    KLENS_OK(worker.session.prefill(ids, {.hidden = hidden, .inputs = cache.input_rows}));
    cache.reference = {};
    for (int begin = 0; begin < window_; begin += probe_tile) {
      const int tokens = std::min(probe_tile, window_ - begin);
      float* logits = keeps_logits_ ? cache.logits.data() + begin * stride : worker.tile_p.data();
      head(head_, cache.normed.data() + begin * stride_, tokens, worker, logits);
      stats(logits, logits, cache, begin, tokens, worker);
      for (int t = 0; t < tokens; ++t) add(cache.reference, worker.stats[std::size_t(t)]);
    }
    return {};
  }

  Result<void> compare_window(int layer, const WindowCache& cache, Worker& worker, WindowResult& result) {
    const std::int64_t stride = logit_stride(model_->shape());
    const auto hidden = hidden_rows(worker.normed.data());
    if (layer == embedding_layer) {
      worker.session.reset();
      KLENS_OK(worker.session.prefill(cache.ids, {.hidden = hidden}));
    } else if (layer < model_->shape().layers) {
      KLENS_OK(worker.session.run_from(layer, cache.input_rows, {.hidden = hidden}));
    }
    const float* normed =
        layer < model_->shape().layers ? worker.normed.data() : cache.normed.data();  // only the head differs
    result.sums = {};
    result.kl.resize(2 * std::size_t(window_));
    for (int begin = 0; begin < window_; begin += probe_tile) {
      const int tokens = std::min(probe_tile, window_ - begin);
      const float* p = worker.tile_p.data();
      if (keeps_logits_)
        p = cache.logits.data() + begin * stride;
      else
        head(head_, cache.normed.data() + begin * stride_, tokens, worker, worker.tile_p.data());
      head(model_->view().head, normed + begin * stride_, tokens, worker, worker.tile_q.data());
      stats(p, worker.tile_q.data(), cache, begin, tokens, worker);
      for (int t = 0; t < tokens; ++t) {
        const TokenStats& s = worker.stats[std::size_t(t)];
        add(result.sums, s);
        result.kl[std::size_t(begin + t)] = float(s.kl_qp);
        result.kl[std::size_t(window_ + begin + t)] = float(s.kl_pq);
      }
    }
    return {};
  }

  void stats(const float* p, const float* q, const WindowCache& cache, int begin, int tokens, Worker& worker) const {
    VocabKlArgs a;
    a.zp = p, a.zq = q, a.stride = logit_stride(model_->shape()), a.vocab = model_->shape().vocab;
    a.targets = cache.targets.data() + begin, a.out = worker.stats.data(), a.begin = 0, a.end = tokens;
    program_.table->vocab_kl(a);
  }

  const Model* model_;
  Program program_;
  Team team_;
  int window_, batch_ = 1;
  std::int64_t stride_ = 0;
  bool keeps_logits_ = false;
  SiteView head_;  // of the reference
  std::vector<std::unique_ptr<Worker>> workers_;
  std::vector<WindowCache> caches_;
};

}  // namespace klens
