// Arithmetic of lens/float64_forward.hpp: float64 by plain loops over rows of tokens. Shares nothing with the kernels.
#pragma once

#include <klens/core/team.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

namespace klens::float64 {

/// One row per token.
struct Matrix {
  Matrix() = default;
  Matrix(int r, int c) : rows(r), cols(c), values(std::size_t(r) * std::size_t(c)) {}
  double* row(int r) { return values.data() + std::ptrdiff_t(r) * cols; }
  const double* row(int r) const { return values.data() + std::ptrdiff_t(r) * cols; }
  int rows = 0, cols = 0;
  std::vector<double> values;
};

inline double silu(double v) { return v / (1 + std::exp(-v)); }
/// x Phi(x), with erf.
inline double gelu(double v) { return 0.5 * v * std::erfc(-v / std::sqrt(2.0)); }
inline double softplus(double v) { return v > 30 ? v : std::log1p(std::exp(v)); }   // beyond 30: equal in float64 to 1e-13

/// Columns [first, first + width).
inline Matrix columns(const Matrix& x, int first, int width) {
  Matrix y(x.rows, width);
  for (int t = 0; t < x.rows; ++t) std::copy_n(x.row(t) + first, width, y.row(t));
  return y;
}

inline void add(Matrix& x, const Matrix& y) {
  for (std::size_t i = 0; i < x.values.size(); ++i) x.values[i] += y.values[i];
}

/// y_i = silu(gate_i) y_i.
inline void gate(Matrix& y, const Matrix& gate) {
  for (std::size_t i = 0; i < y.values.size(); ++i) y.values[i] *= silu(gate.values[i]);
}

/// Weights of all experts of a token, 0 for those it does not pass: the `used` greatest logits (ties: lowest index first), softmax
/// over all experts or over the chosen.
inline std::vector<double> routed(const double* logits, int experts, int used, bool softmax_of_all) {
  std::vector<double> weight(std::size_t(experts), 0.0);
  std::vector<int> order(std::size_t(experts), 0);
  for (int e = 0; e < experts; ++e) order[std::size_t(e)] = e;
  std::stable_sort(order.begin(), order.end(), [logits](int a, int b) { return logits[a] > logits[b]; });
  double total = 0;
  for (int i = 0; i < (softmax_of_all ? experts : used); ++i) total += std::exp(logits[order[std::size_t(i)]] - logits[order[0]]);
  for (int i = 0; i < used; ++i) {
    const int e = order[std::size_t(i)];
    weight[std::size_t(e)] = std::exp(logits[e] - logits[order[0]]) / total;
  }
  return weight;
}

/// The same of a router of sigmoids: the `used` greatest score + bias, from the groups_used groups whose two best add up to most.
struct SigmoidRouter {
  int experts, used, groups, groups_used;
  bool normed;
  double scale;
};
inline std::vector<double> routed(const double* logits, const std::vector<float>& bias, const SigmoidRouter& r) {
  const std::size_t all = std::size_t(r.experts), each = all / std::size_t(r.groups);
  std::vector<double> weight(all, 0.0), score(all), choice(all);
  for (std::size_t e = 0; e < all; ++e) score[e] = 1 / (1 + std::exp(-logits[e])), choice[e] = score[e] + double(bias[e]);
  const auto best_first = [](std::size_t count, const std::vector<double>& by) {
    std::vector<std::size_t> order(count);
    for (std::size_t i = 0; i < count; ++i) order[i] = i;
    std::stable_sort(order.begin(), order.end(), [&by](std::size_t a, std::size_t b) { return by[a] > by[b]; });
    return order;
  };
  if (r.groups_used < r.groups) {
    std::vector<double> best;
    for (int g = 0; g < r.groups; ++g) {
      std::vector<double> of(choice.begin() + std::ptrdiff_t(g) * std::ptrdiff_t(each), choice.begin() + std::ptrdiff_t(g + 1) * std::ptrdiff_t(each));
      std::sort(of.rbegin(), of.rend());
      best.push_back(of[0] + of[1]);
    }
    const auto groups = best_first(best.size(), best);
    for (std::size_t i = std::size_t(r.groups_used); i < groups.size(); ++i)
      for (std::size_t e = groups[i] * each; e < (groups[i] + 1) * each; ++e) choice[e] = -INFINITY;
  }
  const auto order = best_first(all, choice);
  double total = 1e-20;
  for (int i = 0; i < r.used; ++i) total += score[order[std::size_t(i)]];
  for (int i = 0; i < r.used; ++i) weight[order[std::size_t(i)]] = r.scale * score[order[std::size_t(i)]] / (r.normed ? total : 1);
  return weight;
}

/// x W^T, W as [outputs, x.cols].
inline Matrix multiply(const Matrix& x, const std::vector<float>& w, int outputs, const Team& team) {
  Matrix y(x.rows, outputs);
  for_each(team, x.rows, [&](int t, int) {
    const double* in = x.row(t);
    for (int n = 0; n < outputs; ++n) {
      const float* weight = w.data() + std::ptrdiff_t(n) * x.cols;
      double sum[8] = {};
      int k = 0;
      for (; k + 8 <= x.cols; k += 8)
        for (int i = 0; i < 8; ++i) sum[i] += double(weight[k + i]) * in[k + i];
      for (; k < x.cols; ++k) sum[0] += double(weight[k]) * in[k];
      y.row(t)[n] = ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
    }
  });
  return y;
}

/// RMSNorm of every run of `width` columns. Weights repeat where they are shorter than a row (heads); none: 1.
inline Matrix rms_norm(const Matrix& x, int width, const std::vector<float>& w, double eps) {
  Matrix y(x.rows, x.cols);
  for (int t = 0; t < x.rows; ++t)
    for (int first = 0; first < x.cols; first += width) {
      double squares = 0;
      for (int i = first; i < first + width; ++i) squares += x.row(t)[i] * x.row(t)[i];
      const double scale = 1 / std::sqrt(squares / width + eps);
      for (int i = first; i < first + width; ++i)
        y.row(t)[i] = x.row(t)[i] * scale * (w.empty() ? 1.0 : double(w[std::size_t(i) % w.size()]));
    }
  return y;
}

/// (a, b) turned by the angle of this cosine and sine.
inline void rotate_pair(double& a, double& b, double c, double s) {
  const double x = a;
  a = x * c - b * s, b = b * c + x * s;
}

/// RoPE of the first `turned` columns of every run of `head_dim`: columns i and i + turned / 2 by t theta^(-2 i / turned).
inline void rotate(Matrix& x, int head_dim, int turned, double theta) {
  for (int t = 0; t < x.rows; ++t)
    for (int i = 0; i < turned / 2; ++i) {
      const double angle = t * std::pow(theta, -2.0 * i / turned), c = std::cos(angle), s = std::sin(angle);
      for (int first = 0; first < x.cols; first += head_dim) rotate_pair(x.row(t)[first + i], x.row(t)[first + i + turned / 2], c, s);
    }
}

struct Heads {
  int heads, kv_heads, qk_dim, v_dim;
  int window, meta;                     // key j is visible to query i >= j if i - j <= window or j < meta; window 0: all
  double scale;
};

inline Matrix attention(const Matrix& q, const Matrix& k, const Matrix& v, const Heads& a, const Team& team) {
  Matrix out(q.rows, a.heads * a.v_dim);
  for_each(team, q.rows, [&](int i, int) {
    std::vector<double> p(std::size_t(i) + 1);
    const auto visible = [&](int j) { return a.window == 0 || i - j <= a.window || j < a.meta; };
    for (int h = 0; h < a.heads; ++h) {
      const int shared = h / (a.heads / a.kv_heads);
      const double* query = q.row(i) + h * a.qk_dim;
      double largest = -INFINITY, total = 0;
      for (int j = 0; j <= i; ++j) {
        if (!visible(j)) continue;
        double dot = 0;
        for (int d = 0; d < a.qk_dim; ++d) dot += query[d] * k.row(j)[shared * a.qk_dim + d];
        p[std::size_t(j)] = dot * a.scale;
        largest = std::fmax(largest, p[std::size_t(j)]);
      }
      double* y = out.row(i) + h * a.v_dim;
      for (int j = 0; j <= i; ++j) {
        if (!visible(j)) continue;
        const double e = std::exp(p[std::size_t(j)] - largest);
        total += e;
        for (int d = 0; d < a.v_dim; ++d) y[d] += e * v.row(j)[shared * a.v_dim + d];
      }
      for (int d = 0; d < a.v_dim; ++d) y[d] /= total;
    }
  });
  return out;
}

/// Depthwise, over the last `taps` tokens; w as [channels][taps], bias may be empty.
inline Matrix causal_conv(const Matrix& x, const std::vector<float>& w, const std::vector<float>& bias, int taps) {
  Matrix y(x.rows, x.cols);
  for (int t = 0; t < x.rows; ++t)
    for (int c = 0; c < x.cols; ++c) {
      double sum = bias.empty() ? 0.0 : double(bias[std::size_t(c)]);
      for (int k = 0; k < taps; ++k)
        if (const int at = t - taps + 1 + k; at >= 0) sum += double(w[std::size_t(c * taps + k)]) * x.row(at)[c];
      y.row(t)[c] = sum;
    }
  return y;
}

/// Selective scan and state space dual, token by token: head i of dt.cols has columns of x, each with n_state states,
///   h_n <- exp(dt_i a_n) h_n + dt_i x b_n,   y = sum_n h_n c_n + d_i x
/// `a`: rates as [heads][n_state] (Mamba-1: a head has one column) or [heads]; b and c: [n_state] per group of heads.
inline Matrix scan(const Matrix& x, const Matrix& dt, const std::vector<double>& a, const Matrix& b, const Matrix& c,
                   const std::vector<float>& d, int groups, const Team& team) {
  Matrix y(x.rows, x.cols);
  const int heads = dt.cols, width = x.cols / heads, n_state = b.cols / groups;
  const bool rate_per_state = a.size() > std::size_t(heads);
  for_each(team, heads, [&](int i, int) {
    std::vector<double> states(std::size_t(width) * std::size_t(n_state), 0.0);
    const int shared = i / (heads / groups) * n_state;
    for (int t = 0; t < x.rows; ++t)
      for (int p = 0; p < width; ++p) {
        const double step = dt.row(t)[i], in = x.row(t)[i * width + p];
        double* h = states.data() + std::ptrdiff_t(p) * n_state;
        double sum = double(d[std::size_t(i)]) * in;
        for (int n = 0; n < n_state; ++n) {
          const double rate = a[std::size_t(rate_per_state ? i * n_state + n : i)];
          h[n] = std::exp(step * rate) * h[n] + step * in * b.row(t)[shared + n];
          sum += h[n] * c.row(t)[shared + n];
        }
        y.row(t)[i * width + p] = sum;
      }
  });
  return y;
}

}  // namespace klens::float64
