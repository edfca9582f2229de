// The forward pass of Hymba in float64 by plain loops, straight from the checkpoint's tensors: what the noise floor is
// measured against. It shares the file reader and the config with the rest of klens, and no arithmetic. Formulas:
// model/decoder.hpp, arXiv 2411.13676. One matrix is widened at a time, so that memory is that of the activations.
#pragma once

#include <klens/core/team.hpp>
#include <klens/io/safetensors.hpp>
#include <klens/lens/windows.hpp>
#include <klens/plan/document.hpp>

#include <cmath>

namespace klens {

class Float64Forward {
 public:
  /// `folder`: the checkpoint; `skeleton`: its sizes (Model::plan()).
  static Result<Float64Forward> open(const std::string& folder, RuntimePlan skeleton) {
    KLENS_TRY(Safetensors file, Safetensors::open(folder));
    return Float64Forward(std::move(file), std::move(skeleton));
  }

  /// Logits [ids, vocab] of a window that starts with the meta tokens.
  Result<std::vector<double>> logits(Ids ids, const Team& team) const {
    const Shape& s = plan_.shape;
    const int tokens = s.meta + int(ids.size());
    Matrix x(tokens, s.hidden);
    KLENS_TRY(const std::vector<float> table, tensor("model.embed_tokens.weight", std::int64_t(s.vocab) * s.hidden));
    if (s.meta > 0) {
      KLENS_TRY(const std::vector<float> meta, tensor("model.memory_tokens", std::int64_t(s.meta) * s.hidden));
      std::copy(meta.begin(), meta.end(), x.values.begin());
    }
    for (std::size_t t = 0; t < ids.size(); ++t)
      std::copy_n(table.begin() + std::ptrdiff_t(ids[t]) * s.hidden, s.hidden, x.row(s.meta + int(t)));
    std::vector<Matrix> keys(plan_.layers.size()), values(plan_.layers.size());
    for (int l = 0; l < s.layers; ++l) KLENS_OK(layer(l, x, keys, values, team));
    KLENS_TRY(const Matrix normed, norm(x, 0, s.hidden, "model.final_layernorm.weight"));
    Matrix text(int(ids.size()), s.hidden);
    std::copy(normed.values.begin() + std::ptrdiff_t(s.meta) * s.hidden, normed.values.end(), text.values.begin());
    if (s.tied_head) return multiply(text, table, s.vocab, team).values;
    KLENS_TRY(const std::vector<float> head, tensor("lm_head.weight", std::int64_t(s.vocab) * s.hidden));
    return multiply(text, head, s.vocab, team).values;
  }

 private:
  struct Matrix {
    Matrix() = default;
    Matrix(int r, int c) : rows(r), cols(c), values(std::size_t(r) * std::size_t(c)) {}
    double* row(int r) { return values.data() + std::ptrdiff_t(r) * cols; }
    const double* row(int r) const { return values.data() + std::ptrdiff_t(r) * cols; }
    int rows = 0, cols = 0;
    std::vector<double> values;
  };

  Float64Forward(Safetensors file, RuntimePlan plan) : file_(std::move(file)), plan_(std::move(plan)) {}

  Result<std::vector<float>> tensor(const std::string& name, std::int64_t count) const {
    const TensorView* t = file_.find(name);
    if (t == nullptr) return Error{ErrorCode::missing, "checkpoint", "tensor '" + name + "'", "no such tensor"};
    if (t->count() != count)
      return Error{ErrorCode::shape, detail::place_of(*t), std::to_string(count) + " elements", shape_text(t->shape)};
    std::vector<float> out(std::size_t(count), 0.0f);
    KLENS_OK(read_f32(*t, out));
    return out;
  }

  static Matrix multiply(const Matrix& x, const std::vector<float>& w, int outputs, const Team& team) {
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

  Result<Matrix> project(const Matrix& x, const std::string& name, int outputs, const Team& team) const {
    KLENS_TRY(const std::vector<float> w, tensor(name + ".weight", std::int64_t(outputs) * x.cols));
    return multiply(x, w, outputs, team);
  }

  /// RMSNorm of columns [first, first + width).
  Result<Matrix> norm(const Matrix& x, int first, int width, const std::string& name) const {
    KLENS_TRY(const std::vector<float> w, tensor(name, width));
    Matrix y(x.rows, width);
    for (int t = 0; t < x.rows; ++t) {
      double squares = 0;
      for (int i = 0; i < width; ++i) squares += x.row(t)[first + i] * x.row(t)[first + i];
      const double scale = 1 / std::sqrt(squares / width + double(plan_.shape.norm_eps));
      for (int i = 0; i < width; ++i) y.row(t)[i] = x.row(t)[first + i] * scale * double(w[std::size_t(i)]);
    }
    return y;
  }

  void rotate(double* x, int heads, int position) const {
    const int d = plan_.shape.qk_dim;
    for (int i = 0; i < d / 2; ++i) {
      const double angle = position * std::pow(double(plan_.shape.rope_theta), -2.0 * i / d), c = std::cos(angle),
                   s = std::sin(angle);
      for (int h = 0; h < heads; ++h) {
        double &a = x[h * d + i], &b = x[h * d + i + d / 2];
        const double turned = a * c - b * s;
        b = b * c + a * s;
        a = turned;
      }
    }
  }

  Matrix attention(const Matrix& in, const Matrix& k, const Matrix& v, int window, const Team& team) const {
    const Shape& s = plan_.shape;
    Matrix out(in.rows, s.heads * s.v_dim);
    for_each(team, in.rows, [&](int i, int) {
      std::vector<double> p(std::size_t(i) + 1);
      for (int h = 0; h < s.heads; ++h) {
        const int shared = h / (s.heads / s.kv_heads);
        const double* q = in.row(i) + h * s.qk_dim;
        double largest = -INFINITY, total = 0;
        const auto visible = [&](int j) { return window == 0 || i - j <= window || j < s.meta; };
        for (int j = 0; j <= i; ++j) {
          if (!visible(j)) continue;
          double dot = 0;
          for (int d = 0; d < s.qk_dim; ++d) dot += q[d] * k.row(j)[shared * s.qk_dim + d];
          p[std::size_t(j)] = dot / std::sqrt(double(s.qk_dim));
          largest = std::fmax(largest, p[std::size_t(j)]);
        }
        double* y = out.row(i) + h * s.v_dim;
        for (int j = 0; j <= i; ++j) {
          if (!visible(j)) continue;
          const double e = std::exp(p[std::size_t(j)] - largest);
          total += e;
          for (int d = 0; d < s.v_dim; ++d) y[d] += e * v.row(j)[shared * s.v_dim + d];
        }
        for (int d = 0; d < s.v_dim; ++d) y[d] /= total;
      }
    });
    return out;
  }

  Result<Matrix> scan(const std::string& prefix, const Matrix& in, int first, const Team& team) const {
    const Shape& s = plan_.shape;
    KLENS_TRY(const std::vector<float> w, tensor(prefix + "conv1d.weight", std::int64_t(s.inner) * s.conv_taps));
    KLENS_TRY(const std::vector<float> bias, tensor(prefix + "conv1d.bias", s.inner));
    Matrix u(in.rows, s.inner);
    for (int t = 0; t < in.rows; ++t)
      for (int c = 0; c < s.inner; ++c) {
        double sum = double(bias[std::size_t(c)]);
        for (int k = 0; k < s.conv_taps; ++k)
          if (const int at = t - s.conv_taps + 1 + k; at >= 0)
            sum += double(w[std::size_t(c * s.conv_taps + k)]) * in.row(at)[first + c];
        u.row(t)[c] = silu(sum);
      }
    KLENS_TRY(const Matrix small, project(u, prefix + "x_proj.0", s.dt_rank + 2 * s.n_state, team));
    KLENS_TRY(const Matrix rank, norm(small, 0, s.dt_rank, prefix + "dt_layernorm.weight"));
    KLENS_TRY(const Matrix b, norm(small, s.dt_rank, s.n_state, prefix + "B_layernorm.weight"));
    KLENS_TRY(const Matrix c, norm(small, s.dt_rank + s.n_state, s.n_state, prefix + "C_layernorm.weight"));
    KLENS_TRY(const Matrix delta, project(rank, prefix + "dt_proj.0", s.inner, team));
    KLENS_TRY(const std::vector<float> dt_bias, tensor(prefix + "dt_proj.0.bias", s.inner));
    KLENS_TRY(const std::vector<float> a_log, tensor(prefix + "A_log.0", std::int64_t(s.inner) * s.n_state));
    KLENS_TRY(const std::vector<float> d, tensor(prefix + "D.0", s.inner));
    Matrix y(in.rows, s.inner);
    for_each(team, s.inner, [&](int channel, int) {
      std::vector<double> h(std::size_t(s.n_state), 0.0);
      for (int t = 0; t < in.rows; ++t) {
        const double raw = delta.row(t)[channel] + double(dt_bias[std::size_t(channel)]);
        const double dt = raw > 30 ? raw : std::log1p(std::exp(raw)), x = u.row(t)[channel];
        double sum = double(d[std::size_t(channel)]) * x;
        for (int n = 0; n < s.n_state; ++n) {
          const double a = -std::exp(double(a_log[std::size_t(channel * s.n_state + n)]));
          h[std::size_t(n)] = std::exp(dt * a) * h[std::size_t(n)] + dt * x * b.row(t)[n];
          sum += h[std::size_t(n)] * c.row(t)[n];
        }
        y.row(t)[channel] = sum * silu(in.row(t)[first + s.inner + channel]);
      }
    });
    return y;
  }

  Result<void> layer(int l, Matrix& x, std::vector<Matrix>& keys, std::vector<Matrix>& values, const Team& team) const {
    const Shape& s = plan_.shape;
    const LayerPlan& own = plan_.layers[std::size_t(l)];
    const std::string at = "model.layers." + std::to_string(l) + ".", mamba = at + "mamba.",
                      ffn = at + "moe.experts.0.";
    const bool makes_kv = own.kv_source == l;
    KLENS_TRY(const Matrix mixer_in, norm(x, 0, s.hidden, at + "input_layernorm.weight"));
    KLENS_TRY(Matrix in, project(mixer_in, mamba + "in_proj", extent_of(s, makes_kv, Role::in_proj).rows, team));
    const int k_at = s.heads * s.qk_dim, v_at = k_at + s.kv_heads * s.qk_dim;
    const int x_at = makes_kv ? v_at + s.kv_heads * s.v_dim : k_at;
    for (int t = 0; t < x.rows; ++t) rotate(in.row(t), s.heads + (makes_kv ? s.kv_heads : 0), t);
    if (makes_kv) {
      Matrix k(x.rows, s.kv_heads * s.qk_dim), v(x.rows, s.kv_heads * s.v_dim);
      for (int t = 0; t < x.rows; ++t)
        std::copy_n(in.row(t) + k_at, k.cols, k.row(t)), std::copy_n(in.row(t) + v_at, v.cols, v.row(t));
      keys[std::size_t(l)] = std::move(k), values[std::size_t(l)] = std::move(v);
    }
    const Matrix heads =
        attention(in, keys[std::size_t(own.kv_source)], values[std::size_t(own.kv_source)], own.window, team);
    KLENS_TRY(const Matrix scanned, scan(mamba, in, x_at, team));
    KLENS_TRY(Matrix fused, norm(heads, 0, s.inner, mamba + "pre_avg_layernorm1.weight"));
    KLENS_TRY(const Matrix other, norm(scanned, 0, s.inner, mamba + "pre_avg_layernorm2.weight"));
    for (std::size_t i = 0; i < fused.values.size(); ++i) fused.values[i] = 0.5 * (fused.values[i] + other.values[i]);
    KLENS_TRY(const Matrix mixed, project(fused, mamba + "out_proj", s.hidden, team));
    for (std::size_t i = 0; i < x.values.size(); ++i) x.values[i] += mixed.values[i];

    KLENS_TRY(const Matrix ffn_in, norm(x, 0, s.hidden, at + "pre_moe_layernorm.weight"));
    KLENS_TRY(Matrix gate, project(ffn_in, ffn + "gate_proj", s.ffn, team));
    KLENS_TRY(const Matrix up, project(ffn_in, ffn + "up_proj", s.ffn, team));
    for (std::size_t i = 0; i < gate.values.size(); ++i) gate.values[i] = silu(gate.values[i]) * up.values[i];
    KLENS_TRY(const Matrix down, project(gate, ffn + "down_proj", s.hidden, team));
    for (std::size_t i = 0; i < x.values.size(); ++i) x.values[i] += down.values[i];
    return {};
  }

  static double silu(double v) { return v / (1 + std::exp(-v)); }

  Safetensors file_;
  RuntimePlan plan_;
};

/// KL both ways of one token, p from `p` (float64 logits) and q from `q` (float32), without cancellation: with d = zq -
/// zp less its mean under p, KL(p||q) = log1p(E_p[expm1(d)]) - E_p[d], and the other way round.
struct PairOfKl {
  double pq = 0, qp = 0;
};

inline PairOfKl float64_kl(const double* p, const float* q, int vocab) {
  double p_max = p[0], q_max = double(q[0]);
  for (int v = 1; v < vocab; ++v) p_max = std::fmax(p_max, p[v]), q_max = std::fmax(q_max, double(q[v]));
  double p_sum = 0, q_sum = 0, p_mean = 0, q_mean = 0;
  for (int v = 0; v < vocab; ++v) {
    const double ep = std::exp(p[v] - p_max), eq = std::exp(double(q[v]) - q_max), d = double(q[v]) - p[v];
    p_sum += ep, q_sum += eq, p_mean += ep * d, q_mean += eq * d;
  }
  p_mean /= p_sum, q_mean /= q_sum;
  double pq = 0, qp = 0;  // E_p[expm1(d)] with d centred under p; the same under q for -d
  for (int v = 0; v < vocab; ++v) {
    const double d = double(q[v]) - p[v];
    pq += std::exp(p[v] - p_max) * (std::expm1(d - p_mean) - (d - p_mean));
    qp += std::exp(double(q[v]) - q_max) * (std::expm1(q_mean - d) - (q_mean - d));
  }
  return {std::fmax(0.0, std::log1p(pq / p_sum)), std::fmax(0.0, std::log1p(qp / q_sum))};
}

}  // namespace klens
