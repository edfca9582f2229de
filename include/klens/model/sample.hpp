// The next token from a row of logits, and where a text ends.
//
// Order, as in the field: repetition penalty, temperature, top-k, top-p, min-p, then the draw.
//   z_i  = logit_i, or for ids among the last `repetition_window`: logit_i / penalty if positive, else logit_i *
//   penalty w_i  = exp((z_i - max z) / temperature)                       temperature 0: the largest z, the lowest id
//   among equals candidates in the order of z, then id: the first top_k; of those the fewest whose w reach top_p of
//   their sum; of those the ones with w_i >= min_p * w_0. The first always stays. u    = number n of the seed's stream
//   (core/random.hpp), n = ids before this one; the draw takes the first candidate
//          at which the running sum of w exceeds u * sum w
// So a token depends on the seed, the logits and the sequence before it alone: a run that was stopped, saved and
// continued, or rolled back, draws what it would have drawn. exp is klens' own, all sums are in a fixed order: the same
// tokens on every machine. Cost: V exponentials and one heap of V; only candidates that are looked at get ordered.
// Oracle (sorting everything, float64 probabilities): tests/model/sample.cpp.
#pragma once

#include <klens/core/det_math.hpp>
#include <klens/core/random.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace klens {

struct SamplingOptions {
  float temperature = 0;  // 0: greedy
  int top_k = 0;          // keep the k most likely; 0: all
  float top_p = 1;        // keep the fewest tokens whose probability reaches top_p
  std::uint64_t seed = 0;
  float min_p = 0;               // keep tokens of at least this share of the likeliest one's probability
  float repetition_penalty = 1;  // above 1: tokens of the window become less likely; 1: off
  int repetition_window = 64;    // last tokens that count for it; 0: all
};

/// Index of the largest logit, the lowest id among equals (design.md §8).
inline std::int32_t argmax(std::span<const float> logits) {
  std::int32_t best = 0;
  for (std::size_t i = 1; i < logits.size(); ++i)
    if (logits[i] > logits[std::size_t(best)]) best = std::int32_t(i);
  return best;
}

/// Draws tokens. Holds buffers only, no stream: allocates in the first call (13 bytes per logit), not later.
class Sampler {
 public:
  explicit Sampler(SamplingOptions options) : options_(options) {}
  const SamplingOptions& options() const { return options_; }

  /// The token after `sequence` (all ids so far, the prompt's too), from the logits after its last. NaN counts as -inf.
  std::int32_t next(std::span<const float> logits, std::span<const std::int32_t> sequence) {
    const std::span<const float> z = penalised(logits, sequence);
    if (options_.temperature <= 0 || z.empty()) return argmax(z);
    return draw(z, unit_interval(random_at(options_.seed, sequence.size())));
  }

 private:
  std::span<const float> penalised(std::span<const float> logits, std::span<const std::int32_t> sequence) {
    const bool penalty = options_.repetition_penalty != 1;
    if (!penalty && options_.temperature <= 0) return logits;
    values_.assign(logits.begin(), logits.end());
    for (float& v : values_)
      if (std::isnan(v)) v = -std::numeric_limits<float>::infinity();
    if (!penalty) return values_;
    seen_.resize(logits.size());
    const std::size_t window =
        options_.repetition_window > 0 ? std::size_t(options_.repetition_window) : sequence.size();
    const auto last = sequence.last(std::min(window, sequence.size()));
    for (const std::int32_t id : last) {  // once per id, however often it stands there
      if (id < 0 || std::size_t(id) >= values_.size() || seen_[std::size_t(id)] != 0) continue;
      seen_[std::size_t(id)] = 1;
      float& v = values_[std::size_t(id)];
      v = v > 0 ? v / options_.repetition_penalty : v * options_.repetition_penalty;
    }
    for (const std::int32_t id : last)
      if (id >= 0 && std::size_t(id) < seen_.size()) seen_[std::size_t(id)] = 0;
    return values_;
  }

  /// Weight of a value relative to the largest one. exp(-700) is 1e-304: no such token is ever drawn.
  double weight(float z, double top) const {
    return det::exp(std::max((double(z) - top) / options_.temperature, -700.0));
  }

  std::int32_t draw(std::span<const float> z, double u) {
    const double top = z[std::size_t(argmax(z))];
    if (!std::isfinite(top)) return argmax(z);  // no distribution to draw from
    order_.resize(z.size());
    for (std::size_t i = 0; i < order_.size(); ++i) order_[i] = std::int32_t(i);
    // A heap with the likeliest token on top; take() moves the next one to the end of order_.
    const auto after = [z](std::int32_t a, std::int32_t b) {
      const float za = z[std::size_t(a)], zb = z[std::size_t(b)];
      return za != zb ? za < zb : a > b;
    };
    std::make_heap(order_.begin(), order_.end(), after);
    std::size_t left = order_.size(), taken = 0;
    const auto take = [&] {
      std::pop_heap(order_.begin(), order_.begin() + std::ptrdiff_t(left), after);
      return ++taken, order_[--left];
    };
    const auto nth = [&](std::size_t i) { return order_[order_.size() - 1 - i]; };

    std::size_t kept = order_.size();
    double total = 0;
    if (options_.top_k > 0 && std::size_t(options_.top_k) < kept) {
      kept = std::size_t(options_.top_k);
      while (taken < kept) total += weight(z[std::size_t(take())], top);
    } else {
      for (const float v : z) total += weight(v, top);  // in the order of ids: nothing needs sorting yet
    }
    if (options_.top_p < 1 || options_.min_p > 0) {
      // Both cut the ordered list, so the shorter of the two lists is what is left after one and then the other.
      const double reach = options_.top_p < 1 ? options_.top_p * total : total;
      double mass = 0;
      std::size_t n = 0;
      while (n < kept && (n == 0 || options_.top_p >= 1 || mass < reach)) {
        if (n == taken) take();
        const double w = weight(z[std::size_t(nth(n))], top);
        if (n > 0 && w < options_.min_p) break;
        mass += w, ++n;
      }
      kept = n, total = mass;
    }
    double rest = u * total;
    for (std::size_t i = 0; i < kept; ++i) {
      if (i == taken) take();
      if ((rest -= weight(z[std::size_t(nth(i))], top)) < 0) return nth(i);
    }
    return nth(kept - 1);  // rounding left a little of u over
  }

  SamplingOptions options_;
  std::vector<float> values_;
  std::vector<std::int32_t> order_;
  std::vector<std::uint8_t> seen_;
};

/// Finds stop strings in a text that comes in pieces. The text ends before the first stop string that is complete,
/// the longest where two end together; so pieces do not matter. What may yet become one is held back.
class StopText {
 public:
  explicit StopText(std::vector<std::string> stops) : stops_(std::move(stops)) { std::erase(stops_, std::string()); }

  /// The text that is certain now. Nothing once stopped().
  std::string push(std::string_view piece) {
    if (stopped_) return {};
    std::size_t at = held_.size();
    held_ += piece;
    for (++at; at <= held_.size(); ++at) {
      const std::string_view text = std::string_view(held_).substr(0, at);
      std::size_t longest = 0;
      for (const std::string& stop : stops_)
        if (text.ends_with(stop)) longest = std::max(longest, stop.size());
      if (longest == 0) continue;
      stopped_ = true;
      return held_.substr(0, at - longest);
    }
    std::size_t keep = 0;
    for (const std::string& stop : stops_)
      for (std::size_t n = std::min(stop.size() - 1, held_.size()); n > keep; --n)
        if (std::string_view(held_).ends_with(std::string_view(stop).substr(0, n))) keep = n;
    std::string certain = held_.substr(0, held_.size() - keep);
    held_.erase(0, certain.size());
    return certain;
  }

  /// What was held back, at the end of the text.
  std::string finish() { return stopped_ ? std::string() : std::exchange(held_, {}); }
  bool stopped() const { return stopped_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace klens
