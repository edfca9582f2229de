// Oracles of the state space dual in float64: the recurrence, and the dual form in chunks (arXiv 2405.21060, section 6),
// one head at a time. Plain loops that share no code with the library.
#pragma once

#include "oracle/sequence.hpp"

#include <cmath>
#include <cstddef>
#include <vector>

namespace oracle {

/// What a head sees of one token: its step (after softplus and clamp), x [head_dim], b and c [n_state].
struct SsdToken { double step; std::vector<double> x, b, c; };

/// S = e^(step a) S + step x b^T;  y = S c + d x.  S [head_dim][n_state].
inline std::vector<double> ssd_step(Matrix& s, const SsdToken& in, double a, double d) {
  std::vector<double> y(in.x.size());
  for (int p = 0; p < s.rows; ++p) {
    const std::size_t i = std::size_t(p);
    y[i] = d * in.x[i];
    for (int n = 0; n < s.cols; ++n) {
      s(p, n) = std::exp(in.step * a) * s(p, n) + in.step * in.x[i] * in.b[std::size_t(n)];
      y[i] += s(p, n) * in.c[std::size_t(n)];
    }
  }
  return y;
}

/// The same by chunks of q tokens: y_i = sum_{j <= i} e^(l_i - l_j) (c_i . b_j) X_j + e^(l_i) S c_i + d x_i, where l is the
/// running sum of step a inside the chunk and X = step x; then S = e^(l_last) S + sum_j e^(l_last - l_j) X_j b_j^T.
inline std::vector<std::vector<double>> ssd_chunked(Matrix& s, const std::vector<SsdToken>& in, double a, double d, std::size_t q) {
  std::vector<std::vector<double>> out;
  for (std::size_t first = 0; first < in.size(); first += q) {
    const std::size_t count = std::min(q, in.size() - first);
    std::vector<double> l(count);
    double sum = 0;
    for (std::size_t i = 0; i < count; ++i) l[i] = sum += in[first + i].step * a;
    for (std::size_t i = 0; i < count; ++i) {
      const SsdToken& now = in[first + i];
      std::vector<double> y(now.x.size());
      for (std::size_t p = 0; p < y.size(); ++p) {
        double carried = 0;
        for (int n = 0; n < s.cols; ++n) carried += s(int(p), n) * now.c[std::size_t(n)];
        y[p] = d * now.x[p] + std::exp(l[i]) * carried;
      }
      for (std::size_t j = 0; j <= i; ++j) {
        const SsdToken& then = in[first + j];
        double dot = 0;
        for (std::size_t n = 0; n < now.c.size(); ++n) dot += now.c[n] * then.b[n];
        const double weight = std::exp(l[i] - l[j]) * dot * then.step;
        for (std::size_t p = 0; p < y.size(); ++p) y[p] += weight * then.x[p];
      }
      out.push_back(y);
    }
    for (int p = 0; p < s.rows; ++p)
      for (int n = 0; n < s.cols; ++n) {
        s(p, n) *= std::exp(l[count - 1]);
        for (std::size_t j = 0; j < count; ++j)
          s(p, n) += std::exp(l[count - 1] - l[j]) * in[first + j].step * in[first + j].x[std::size_t(p)] * in[first + j].b[std::size_t(n)];
      }
  }
  return out;
}

}  // namespace oracle
