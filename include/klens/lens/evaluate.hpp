// evaluate: perplexity of a model on a text with its standard error, and, beside a reference, KL both ways, errors and
// top-1.
//   NLL of a window = mean over its window - 1 next tokens;  PPL = exp(mean over windows);  SE(PPL) = PPL SE(NLL)
// Any model and program will do, packed and specialised ones too: logits are those of its sessions. Windows run in
// parallel, one session per thread, results by window.
#pragma once

#include <klens/core/thread_team.hpp>
#include <klens/lens/windows.hpp>
#include <klens/model/session.hpp>

#include <atomic>
#include <functional>
#include <memory>
#include <optional>

namespace klens {

struct EvaluateOptions {
  int window = 256, windows = 0;  // tokens per window; windows at most (0: all)
  std::string text_name = {};     // for errors
  std::function<void(std::int64_t done, std::int64_t total)> progress = {};  // in windows
  const std::atomic<bool>* cancel = nullptr;
};

/// A model and the program that runs it.
struct Runner {
  const Model* model = nullptr;
  Program program;
};

struct Evaluation {
  int window = 0, windows = 0;
  std::vector<double> nll;  // mean of each window
  double ppl = not_known, ppl_se = not_known;
  bool compared = false;          // with a reference: the rest is known
  std::vector<double> delta_nll;  // NLL less that of the reference, by window
  Distribution kl_qp, kl_pq;
  double mse = not_known, sqnr_db = not_known, sqnr_centred_db = not_known, top1 = not_known;
};

namespace detail {

struct EvaluateWorker {
  std::optional<Session> session, reference;
  Buffer<float> logits, reference_logits;
  std::vector<TokenStats> stats;
};

}  // namespace detail

/// Errors: a text shorter than a window, ids outside the vocabulary, a reference of another vocabulary.
inline Result<Evaluation> evaluate(const Runner& runner, Ids ids, const Team& team, const EvaluateOptions& options,
                                   const Runner* reference = nullptr) {
  const int vocab = runner.model->shape().vocab, window = options.window;
  const std::string where = options.text_name.empty() ? "text" : options.text_name;
  if (reference != nullptr && reference->model->shape().vocab != vocab)
    return Error{ErrorCode::shape, reference->model->path(),
                 "a vocabulary of " + std::to_string(vocab) + " as in " + runner.model->path(),
                 std::to_string(reference->model->shape().vocab)};
  KLENS_TRY(const int windows, count_windows(ids, window, options.windows, vocab, where));

  const std::int64_t stride = round_up(vocab, lanes);
  std::vector<detail::EvaluateWorker> workers(windows == 1 ? 1 : std::size_t(std::max(team.threads, 1)));
  for (detail::EvaluateWorker& w : workers) {
    KLENS_TRY(w.session, Session::create(*runner.model, runner.program, {}, {.context = window}));
    w.logits = Buffer<float>(std::size_t(window * stride));
    w.stats.resize(std::size_t(window));
    if (reference == nullptr) continue;
    KLENS_TRY(w.reference, Session::create(*reference->model, reference->program, {}, {.context = window}));
    w.reference_logits = Buffer<float>(std::size_t(window * stride));
  }

  std::vector<WindowSums> sums(std::size_t(windows), WindowSums{});
  std::vector<float> qp, pq;
  if (reference != nullptr) qp.resize(std::size_t(windows) * std::size_t(window)), pq.resize(qp.size());
  const auto run_window = [&](int w, detail::EvaluateWorker& worker) -> Result<void> {
    const FlushDenormals flush;
    const Ids part = window_at(ids, window, w);
    const std::vector<std::int32_t> targets = targets_of(part);
    worker.session->reset();
    KLENS_OK(worker.session->prefill(part, {.logits = {worker.logits.data(), window, vocab, stride}}));
    const float* p = worker.logits.data();
    if (reference != nullptr) {
      worker.reference->reset();
      KLENS_OK(worker.reference->prefill(part, {.logits = {worker.reference_logits.data(), window, vocab, stride}}));
      p = worker.reference_logits.data();
    }
    VocabKlArgs a;
    a.zp = p, a.zq = worker.logits.data(), a.stride = stride, a.vocab = vocab, a.targets = targets.data(),
    a.out = worker.stats.data();
    a.begin = 0, a.end = window;
    runner.program.table->vocab_kl(a);
    for (int t = 0; t < window; ++t) {
      const TokenStats& s = worker.stats[std::size_t(t)];
      add(sums[std::size_t(w)], s);
      if (reference == nullptr) continue;
      const std::size_t at = std::size_t(w) * std::size_t(window) + std::size_t(t);
      qp[at] = float(s.kl_qp), pq[at] = float(s.kl_pq);
    }
    if (is_finite(sums[std::size_t(w)])) return {};
    return Error{ErrorCode::overflow, runner.model->path() + ": window " + std::to_string(w) + " of " + where,
                 "finite logits", "infinite or undefined ones"};
  };

  const int chunk = 2 * int(workers.size());  // windows between two looks at `cancel`
  for (int first = 0; first < windows; first += chunk) {
    if (options.cancel != nullptr && options.cancel->load()) return Error{ErrorCode::interrupted, where, "", "stopped"};
    const int count = std::min(chunk, windows - first);
    std::vector<std::optional<Error>> errors(std::size_t(count), std::nullopt);
    const auto body = [&](int i, int thread) {
      if (Result<void> done = run_window(first + i, workers[std::size_t(thread)]); !done)
        errors[std::size_t(i)] = done.error();
    };
    for_each(team, count, body);  // a single window runs on thread 0
    for (const auto& error : errors)
      if (error) return *error;
    if (options.progress) options.progress(first + count, windows);
  }

  Evaluation e;
  e.window = window, e.windows = windows, e.compared = reference != nullptr;
  std::vector<double> mean_qp, mean_pq;
  WindowSums all;
  for (const WindowSums& s : sums) {
    e.nll.push_back(s.nll_q / (window - 1));
    e.delta_nll.push_back((s.nll_q - s.nll_p) / (window - 1));
    mean_qp.push_back(s.kl_qp / window), mean_pq.push_back(s.kl_pq / window);
    all.z2 += s.z2, all.d2 += s.d2, all.zc2 += s.zc2, all.dc2 += s.dc2, all.same_top += s.same_top;
  }
  const Estimate nll = estimate(e.nll);
  e.ppl = std::exp(nll.mean), e.ppl_se = e.ppl * nll.se;
  if (!e.compared) {
    e.delta_nll.clear();
    return e;
  }
  e.kl_qp = distribution(mean_qp, qp), e.kl_pq = distribution(mean_pq, pq);
  e.mse = all.d2 / window / vocab / windows;
  e.sqnr_db = sqnr_db(all.z2, all.d2), e.sqnr_centred_db = sqnr_db(all.zc2, all.dc2);
  e.top1 = all.same_top / window / windows;
  return e;
}

/// NLL of `a` less that of `b`, window by window on the same text.
inline Result<PairedDifference> paired_difference(const Evaluation& a, const Evaluation& b) {
  if (a.nll.size() != b.nll.size() || a.window != b.window)
    return Error{ErrorCode::usage, "paired difference", "two evaluations of the same windows",
                 std::to_string(a.nll.size()) + " and " + std::to_string(b.nll.size()) + " windows"};
  std::vector<double> differences;
  for (std::size_t w = 0; w < a.nll.size(); ++w) differences.push_back(a.nll[w] - b.nll[w]);
  return paired_difference(differences);
}

}  // namespace klens
