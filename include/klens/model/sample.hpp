// The next token from a row of logits: greedy, or sampled with temperature, top-k and top-p under a seed.
#pragma once

#include <klens/core/det_math.hpp>

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

namespace klens {

struct SamplingOptions {
  float temperature = 0;   // 0: greedy
  int top_k = 0;           // keep the k most likely; 0: all
  float top_p = 1;         // keep the smallest set of tokens whose probability reaches top_p
  std::uint64_t seed = 0;
};

/// Index of the largest logit, the lowest id among equals (design.md §8).
inline std::int32_t argmax(std::span<const float> logits) {
  std::int32_t best = 0;
  for (std::size_t i = 1; i < logits.size(); ++i)
    if (logits[i] > logits[std::size_t(best)]) best = std::int32_t(i);
  return best;
}

/// Draws tokens one after another. The same seed and logits give the same tokens on every machine: exp is klens' own, the
/// generator is splitmix64 (public domain, Vigna), and candidates are ordered by logit, then id.
class Sampler {
 public:
  explicit Sampler(SamplingOptions options) : options_(options), state_(options.seed) {}

  std::int32_t next(std::span<const float> logits) {
    if (options_.temperature <= 0 || logits.empty()) return argmax(logits);
    order_.resize(logits.size());
    for (std::size_t i = 0; i < order_.size(); ++i) order_[i] = std::int32_t(i);
    const auto before = [&](std::int32_t a, std::int32_t b) {
      const float la = logits[std::size_t(a)], lb = logits[std::size_t(b)];
      return la != lb ? la > lb : a < b;
    };
    std::size_t kept = order_.size();
    if (options_.top_k > 0) kept = std::min(kept, std::size_t(options_.top_k));
    std::partial_sort(order_.begin(), order_.begin() + std::ptrdiff_t(kept), order_.end(), before);

    weights_.resize(kept);
    const double top = logits[std::size_t(order_[0])];
    double total = 0;
    for (std::size_t i = 0; i < kept; ++i) total += weights_[i] = det::exp(std::max((double(logits[std::size_t(order_[i])]) - top) / options_.temperature, -700.0));
    if (options_.top_p < 1) {
      double mass = 0;
      std::size_t n = 0;
      while (n < kept && mass < options_.top_p * total) mass += weights_[n++];
      kept = std::max<std::size_t>(n, 1);
      total = mass;
    }
    double u = uniform() * total;
    for (std::size_t i = 0; i < kept; ++i)
      if ((u -= weights_[i]) < 0) return order_[i];
    return order_[kept - 1];
  }

 private:
  /// In [0, 1), 53 bits.
  double uniform() {
    std::uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return double((z ^ (z >> 31)) >> 11) * 0x1p-53;
  }

  SamplingOptions options_;
  std::uint64_t state_;
  std::vector<std::int32_t> order_;
  std::vector<double> weights_;
};

}  // namespace klens
