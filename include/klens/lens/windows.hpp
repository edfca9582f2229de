// Windows of a text, and what is summed over the tokens of one window (design.md §8): consecutive windows of `window`
// tokens from token 0, the rest dropped; KL, errors and top-1 over all tokens of a window, NLL over the next tokens
// inside it.
#pragma once

#include <klens/core/result.hpp>
#include <klens/kernel/args.hpp>
#include <klens/lens/statistics.hpp>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace klens {

using Ids = std::span<const std::int32_t>;

/// Sums over the tokens of one window.
struct WindowSums {
  double kl_qp = 0, kl_pq = 0;
  double z2 = 0, d2 = 0, zc2 = 0, dc2 = 0;  // also over the vocabulary: logits, differences, both centred
  double nll_p = 0, nll_q = 0;              // over the window - 1 next tokens
  double same_top = 0;                      // tokens with equal argmax
};

inline void add(WindowSums& s, const TokenStats& t) {
  s.kl_qp += t.kl_qp, s.kl_pq += t.kl_pq;
  s.z2 += t.sum_z2, s.d2 += t.sum_d2, s.zc2 += t.sum_zc2, s.dc2 += t.sum_dc2;
  s.nll_p += t.nll_p, s.nll_q += t.nll_q;
  s.same_top += t.top_p == t.top_q ? 1 : 0;
}

inline bool is_finite(const WindowSums& s) {
  return std::isfinite(s.kl_qp) && std::isfinite(s.kl_pq) && std::isfinite(s.z2) && std::isfinite(s.d2) &&
         std::isfinite(s.zc2) && std::isfinite(s.dc2) && std::isfinite(s.nll_p) && std::isfinite(s.nll_q);
}

/// Signal to noise in dB; +infinity where there is no noise.
inline double sqnr_db(double signal, double noise) { return 10 * std::log10(signal / noise); }

/// The token that follows each token of a window; -1 for the last.
inline std::vector<std::int32_t> targets_of(Ids window) {
  std::vector<std::int32_t> targets(window.begin(), window.end());
  std::rotate(targets.begin(), targets.begin() + (targets.empty() ? 0 : 1), targets.end());
  if (!targets.empty()) targets.back() = -1;
  return targets;
}

/// Number of windows a text gives: at most `wanted` (0: all of them). Errors: none fits, or an id outside the
/// vocabulary.
inline Result<int> count_windows(Ids ids, int window, int wanted, int vocab, const std::string& where) {
  if (window < 2) return Error{ErrorCode::usage, where + ": window", "at least 2 tokens", std::to_string(window)};
  if (wanted < 0) return Error{ErrorCode::usage, where + ": windows", "at least 1", std::to_string(wanted)};
  const std::int64_t whole = std::int64_t(ids.size()) / window;
  if (whole < 1)
    return Error{ErrorCode::usage, where, "at least one window of " + std::to_string(window) + " tokens",
                 std::to_string(ids.size()) + " tokens"};
  const std::int64_t windows = wanted > 0 && wanted < whole ? wanted : whole;
  if (windows > (1 << 24)) return Error{ErrorCode::usage, where, "at most 16777216 windows", std::to_string(windows)};
  for (std::int64_t i = 0; i < windows * window; ++i)
    if (ids[std::size_t(i)] < 0 || ids[std::size_t(i)] >= vocab)
      return Error{ErrorCode::usage, where + ": token " + std::to_string(i),
                   "an id from 0 to " + std::to_string(vocab - 1), std::to_string(ids[std::size_t(i)])};
  return int(windows);
}

inline Ids window_at(Ids ids, int window, int index) {
  return ids.subspan(std::size_t(index) * std::size_t(window), std::size_t(window));
}

}  // namespace klens
