// KL by position: one long text in one window, a model beside its reference, token by token. What a rounded state, a
// quantized cache or a weight costs is one number over windows of 256 tokens; here it shows whether the cost grows with
// the length of what was read.
//   bucket b of position t (from 0, meta tokens not counted):  [0, 16), [16, 32), [32, 64), .. [2^k, 2^(k+1))
//   mean, percentiles, top-1: over the tokens of a bucket; standard error: over its means in 16 runs of equal length
// Neighbouring tokens are not independent, runs of a long bucket nearly are: early standard errors are too small.
// Cost: one prefill of the text by both models. Test: tests/lens/states.cpp, against evaluate() on the same tokens.
#pragma once

#include <klens/lens/evaluate.hpp>

namespace klens {

struct ByPositionOptions {
  int positions = 16384;      // tokens of the text; fewer where the text is shorter
  std::string text_name = {};  // for errors
  std::function<void(std::int64_t done, std::int64_t total)> progress = {};  // in tokens
  const std::atomic<bool>* cancel = nullptr;
};

/// Tokens [begin, end) of the text.
struct PositionBucket {
  int begin = 0, end = 0;
  Distribution kl_pq, kl_qp;  // nat per token
  double top1 = not_known;    // share of tokens with the same argmax
  double delta_nll = not_known;  // mean over the tokens that have a next one
};

struct ByPosition {
  int tokens = 0;
  std::vector<PositionBucket> buckets;
};

namespace detail {

inline constexpr int first_bucket = 16, runs_of_bucket = 16;

inline PositionBucket position_bucket(std::span<const TokenStats> stats, int begin, int end) {
  PositionBucket b{begin, end, {}, {}, 0, 0};
  const int count = end - begin, runs = std::min(runs_of_bucket, count);
  std::vector<double> run_pq, run_qp;
  std::vector<float> pq, qp;
  double nll = 0;
  for (int r = 0; r < runs; ++r) {
    const int from = begin + int(std::int64_t(count) * r / runs), to = begin + int(std::int64_t(count) * (r + 1) / runs);
    double sum_pq = 0, sum_qp = 0;
    for (int t = from; t < to; ++t) {
      const TokenStats& s = stats[std::size_t(t)];
      pq.push_back(float(s.kl_pq)), qp.push_back(float(s.kl_qp));
      sum_pq += s.kl_pq, sum_qp += s.kl_qp, nll += s.nll_q - s.nll_p, b.top1 += s.top_p == s.top_q ? 1 : 0;
    }
    run_pq.push_back(sum_pq / (to - from)), run_qp.push_back(sum_qp / (to - from));
  }
  b.kl_pq = distribution(run_pq, pq), b.kl_qp = distribution(run_qp, qp);
  b.top1 /= count, b.delta_nll = nll / count;
  return b;
}

}  // namespace detail

/// Errors: a text of fewer than 16 tokens, ids outside the vocabulary, a reference of another vocabulary.
inline Result<ByPosition> kl_by_position(const Runner& runner, const Runner& reference, Ids ids, const Team& team,
                                         const ByPositionOptions& options) {
  const int vocab = runner.model->shape().vocab;
  const std::string where = options.text_name.empty() ? "text" : options.text_name;
  if (reference.model->shape().vocab != vocab)
    return Error{ErrorCode::shape, reference.model->path(),
                 "a vocabulary of " + std::to_string(vocab) + " as in " + runner.model->path(),
                 std::to_string(reference.model->shape().vocab)};
  const int tokens = int(std::min<std::int64_t>(options.positions, std::int64_t(ids.size())));
  if (tokens < detail::first_bucket)
    return Error{ErrorCode::usage, where, "at least 16 tokens", std::to_string(tokens) + " tokens"};
  const Ids text = ids.first(std::size_t(tokens));
  KLENS_OK(count_windows(text, tokens, 1, vocab, where));
  const std::vector<std::int32_t> targets = targets_of(text);

  constexpr int chunk = 64;
  const std::int64_t stride = round_up(vocab, lanes);
  KLENS_TRY(Session session, Session::create(*runner.model, runner.program, team, {.context = tokens, .chunk = chunk}));
  KLENS_TRY(Session base, Session::create(*reference.model, reference.program, team, {.context = tokens, .chunk = chunk}));
  Buffer<float> zq(std::size_t(chunk * stride)), zp(std::size_t(chunk * stride));
  std::vector<TokenStats> stats(std::size_t(tokens), TokenStats{});
  for (int begin = 0; begin < tokens; begin += chunk) {
    if (options.cancel != nullptr && options.cancel->load()) return Error{ErrorCode::interrupted, where, "", "stopped"};
    const int count = std::min(chunk, tokens - begin);
    const Ids part = text.subspan(std::size_t(begin), std::size_t(count));
    KLENS_OK(session.prefill(part, {.logits = {zq.data(), count, vocab, stride}}));
    KLENS_OK(base.prefill(part, {.logits = {zp.data(), count, vocab, stride}}));
    for_each(team, count, [&](int t, int) {
      const FlushDenormals flush;
      VocabKlArgs a;
      a.zp = zp.data(), a.zq = zq.data(), a.stride = stride, a.vocab = vocab, a.targets = targets.data() + begin;
      a.out = stats.data() + begin, a.begin = t, a.end = t + 1;
      reference.program.table->vocab_kl(a);
    });
    for (int t = begin; t < begin + count; ++t) {
      const TokenStats& s = stats[std::size_t(t)];
      if (!std::isfinite(s.kl_pq) || !std::isfinite(s.kl_qp) || !std::isfinite(s.nll_q))
        return Error{ErrorCode::overflow, runner.model->path() + ": token " + std::to_string(t) + " of " + where,
                     "finite logits", "infinite or undefined ones"};
    }
    if (options.progress) options.progress(begin + count, tokens);
  }

  ByPosition out;
  out.tokens = tokens;
  for (int begin = 0, end = detail::first_bucket; begin < tokens; begin = end, end *= 2)
    out.buckets.push_back(detail::position_bucket(stats, begin, std::min(end, tokens)));
  return out;
}

}  // namespace klens
