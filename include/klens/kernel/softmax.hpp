// Softmax of rows of logits (kernel/args.hpp, SoftmaxArgs): statistics for sampling and NLL; log p or p where asked.
//
//   m = max z,  S = sum exp((z - m) / T),  log_sum = m / T + log S,  nll = log_sum - z[target] / T
//   log_p[i] = float((z[i] - m) / T) - float(log S)         p[i] = exp((z[i] - m) / T) / float(S)
//
// (z - m) / T is (z - m) * float(1 / T), rounded twice; T = 1 changes nothing. Two passes: the maximum with its lowest
// index, then the exponentials, 16 fp32 lanes, 256 logits at a time into a double total, in order: the row is the only
// thing a bit depends on. NLL and greedy or temperature sampling need the statistics alone and store no row. log of
// scalars: core/det_math.hpp. Bytes per logit: 8 read (the second time from cache), 4 written where a row is asked for.
// Error against float64 of the same logits: log_sum and nll 1e-6 + 2^-24 |z| / T absolute; p 2^-22 (1 + |z - m| / T)
// relative; rows of p sum to 1 within 2^-21. Logits are finite or -infinity (masked: p 0). Oracle:
// tests/oracle/sequence.hpp, log_sum_exp; test tests/kernel/softmax.cpp.
#pragma once

#include <klens/core/det_math.hpp>
#include <klens/kernel/args.hpp>
#include <klens/simd/math.hpp>

namespace klens::inline KLENS_NS {
namespace softmax_detail {

inline constexpr int chunk = 256;  // 16 values per lane between additions in double

/// Reads 16 logits, or the n < 16 left with -infinity behind them.
KLENS_INLINE v16f read(const float* z, int n) {
  return n >= lanes ? load(z) : select(first_n(n), load_n(z, n), splat(-__builtin_inff()));
}

struct Top { float value; int index; };

/// Maximum and its lowest index; 0 where no logit is a number.
KLENS_INLINE Top top_of(const float* z, int vocab) {
  Top top{-__builtin_inff(), 0};
  for (int begin = 0; begin < vocab; begin += chunk) {
    const int end = vocab - begin < chunk ? vocab : begin + chunk;
    v16f most = splat(-__builtin_inff());
    for (int i = begin; i < end; i += lanes) most = max(read(z + i, end - i), most);  // NaN on the left is not greater
    const float value = max_of(most);
    if (value > top.value) {  // > : the lowest chunk wins a tie
      top.value = value;
      for (top.index = begin; z[top.index] != value;) ++top.index;
    }
  }
  return top;
}

/// exp((z - m) / T); 0, not 2^-126, where z is so far below that exp is clamped.
KLENS_INLINE v16f weight_of(v16f z, v16f m, v16f inverse_t) {
  const v16f x = (z - m) * inverse_t;
  return select(lt(x, splat(-87.0f)), zero(), exp_below_88(x));
}

KLENS_INLINE double total_of(const float* z, int vocab, v16f m, v16f inverse_t) {
  double total = 0;
  for (int begin = 0; begin < vocab; begin += chunk) {
    const int end = vocab - begin < chunk ? vocab : begin + chunk;
    v16f part = zero();
    for (int i = begin; i < end; i += lanes) part = part + weight_of(read(z + i, end - i), m, inverse_t);
    total += double(sum(part));
  }
  return total;
}

}  // namespace softmax_detail

inline void softmax(const SoftmaxArgs& a) {
  using namespace softmax_detail;
  KLENS_ASSERT(a.temperature > 0);
  const v16f inverse_t = splat(1.0f / a.temperature);
  for (int t = a.begin; t < a.end; ++t) {
    const float* z = a.z + t * a.stride;
    const Top top = top_of(z, a.vocab);
    const v16f m = splat(top.value);
    const double total = total_of(z, a.vocab, m, inverse_t), log_total = det::log(total);
    const int target = a.targets != nullptr ? a.targets[t] : -1;
    KLENS_ASSERT(target < a.vocab);
    const double inverse = double(1.0f / a.temperature);
    if (a.stats != nullptr) {
      const double log_sum = double(top.value) * inverse + log_total;
      const double nll = target >= 0 ? (double(top.value) - double(z[target])) * inverse + log_total : 0;
      a.stats[t] = {log_sum, nll, top.value, top.index};
    }
    const v16f log_s = splat(float(log_total)), s = splat(float(total));
    float* log_p = a.log_p != nullptr ? a.log_p + t * a.y_stride : nullptr;
    float* p = a.p != nullptr ? a.p + t * a.y_stride : nullptr;
    if (log_p == nullptr && p == nullptr) continue;
    for (int i = 0; i < a.vocab; i += lanes) {
      const v16f x = read(z + i, a.vocab - i);
      if (log_p != nullptr) store(log_p + i, (x - m) * inverse_t - log_s);
      if (p != nullptr) store(p + i, weight_of(x, m, inverse_t) / s);
    }
  }
}

}  // namespace klens::inline KLENS_NS
