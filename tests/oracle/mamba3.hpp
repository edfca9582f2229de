// Oracle of Mamba-3 in float64: one head, the trapezoidal rule as it stands, pairs of neighbours turned by angles in radians.
// Plain loops that share no code with the library.
#pragma once

#include "oracle/sequence.hpp"

#include <cmath>
#include <numbers>
#include <utility>
#include <vector>

namespace oracle {

/// What a head sees of one token, before any function: x [head_dim], b and c [n_state] with their biases.
struct Mamba3Token { double dt, a, trap; std::vector<double> angle, x, b, c; };

struct Mamba3Head {
  Matrix s;                                  // [head_dim][n_state]
  std::vector<double> angle, last_k, last_x;
  double d = 0, least_rate = 0;
  Mamba3Head(int head_dim, int n_state, int angles)
      : s(head_dim, n_state), angle(std::size_t(angles)), last_k(std::size_t(n_state)), last_x(std::size_t(head_dim)) {}
};

/// S = e^(-r dt) S + (1 - l) dt e^(-r dt) x' k'^T + l dt x k^T;  y = S q + d x.
inline std::vector<double> mamba3_step(Mamba3Head& h, const Mamba3Token& in) {
  const double dt = softplus(in.dt), rate = std::max(h.least_rate, in.a >= 0 ? 1 + in.a : 1 / (1 - in.a));
  const double decay = std::exp(-rate * dt), now = sigmoid(in.trap) * dt, before = (1 - sigmoid(in.trap)) * dt * decay;
  std::vector<double> k = in.b, q = in.c, y(in.x.size());
  for (std::size_t i = 0; i < h.angle.size(); ++i) {
    h.angle[i] += std::numbers::pi * std::tanh(in.angle[i]) * dt;
    for (std::vector<double>* v : {&k, &q}) {
      const double p = (*v)[2 * i], r = (*v)[2 * i + 1];
      (*v)[2 * i] = p * std::cos(h.angle[i]) - r * std::sin(h.angle[i]);
      (*v)[2 * i + 1] = p * std::sin(h.angle[i]) + r * std::cos(h.angle[i]);
    }
  }
  for (int p = 0; p < h.s.rows; ++p) {
    const std::size_t at = std::size_t(p);
    y[at] = h.d * in.x[at];
    for (int n = 0; n < h.s.cols; ++n) {
      const std::size_t i = std::size_t(n);
      h.s(p, n) = decay * h.s(p, n) + before * h.last_x[at] * h.last_k[i] + now * in.x[at] * k[i];
      y[at] += h.s(p, n) * q[i];
    }
  }
  h.last_k = std::move(k), h.last_x = in.x;
  return y;
}

}  // namespace oracle
