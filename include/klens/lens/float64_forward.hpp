// The forward pass of every family in float64 by plain loops (over 400 lines: all kinds of layers), straight from the checkpoint: what the
// noise floor is measured against. It shares names, config and file reader with the rest of klens, and no arithmetic. Formulas:
// model/decoder.hpp and the papers it cites. One matrix is widened at a time, so that memory is that of the activations.
// Tests: tests/lens/evaluate.cpp (PyTorch in float64), tests/model/families.cpp (transformers, every family).
#pragma once

#include <klens/io/checkpoint.hpp>
#include <klens/lens/float64_math.hpp>
#include <klens/lens/windows.hpp>
#include <klens/model/families.hpp>

#include <numbers>

namespace klens {

class Float64Forward {
 public:
  using Matrix = float64::Matrix;

  /// `folder`: the checkpoint; `skeleton`: its sizes (Model::plan()).
  static Result<Float64Forward> open(const std::string& folder, RuntimePlan skeleton) {
    KLENS_TRY(Checkpoint checkpoint, Checkpoint::open(folder));
    return Float64Forward(std::move(checkpoint), std::move(skeleton));
  }

  /// Logits [ids, vocab] of a window that starts with the meta tokens. `hidden`: receives layers + 1 matrices [ids, hidden]:
  /// the embedding's output, then each layer's, the last one after the final norm.
  Result<std::vector<double>> logits(Ids ids, const Team& team, std::vector<Matrix>* hidden = nullptr) const {
    const Shape& s = plan_.shape;
    const SmallNames& names = reader_of(s.family).names;
    Matrix x(s.meta + int(ids.size()), s.hidden);
    KLENS_TRY(const std::vector<float> table, tensor(component_name(s.family, Role::embedding, -1) + ".weight", std::int64_t(s.vocab) * s.hidden));
    if (s.meta > 0) {
      KLENS_TRY(const std::vector<float> meta, tensor(std::string(names.meta), std::int64_t(s.meta) * s.hidden));
      std::copy(meta.begin(), meta.end(), x.values.begin());
    }
    for (std::size_t t = 0; t < ids.size(); ++t)
      for (int i = 0; i < s.hidden; ++i)
        x.row(s.meta + int(t))[i] = double(table[std::size_t(ids[t]) * std::size_t(s.hidden) + std::size_t(i)]) * double(s.embedding_scale);
    const Matrix first = x;   // what shared blocks read beside x
    const auto text_of = [&](const Matrix& all) {
      Matrix text(int(ids.size()), s.hidden);
      std::copy(all.values.begin() + std::ptrdiff_t(s.meta) * s.hidden, all.values.end(), text.values.begin());
      return text;
    };
    Cache cache(plan_.layers.size());
    for (int l = 0; l < s.layers; ++l) {
      if (hidden != nullptr) hidden->push_back(text_of(x));
      KLENS_OK(layer(l, x, first, cache, team));
    }
    KLENS_TRY(const std::vector<float> final_norm, tensor(std::string(names.final_norm), s.hidden));
    const Matrix text = float64::rms_norm(text_of(x), s.hidden, final_norm, double(s.norm_eps));
    if (hidden != nullptr) hidden->push_back(text);
    const Role head = s.tied_head ? Role::embedding : Role::lm_head;
    KLENS_TRY(Matrix z, project(text, head, -1, team));
    return std::move(z.values);
  }

 private:
  /// K and V of the layers so far, [tokens, kv_heads * width].
  struct KeysAndValues { Matrix k, v; };
  using Cache = std::vector<KeysAndValues>;

  Float64Forward(Checkpoint checkpoint, RuntimePlan plan) : file_(std::move(checkpoint)), plan_(std::move(plan)) {}

  const LayerPlan& plan_of(int l) const { return plan_.layers[std::size_t(l)]; }
  bool makes_kv(int l) const { return plan_of(l).kv_source == l; }

  Result<std::vector<float>> tensor(const std::string& name, std::int64_t count) const {
    const TensorView* t = file_.find(name);
    if (t == nullptr) return Error{ErrorCode::missing, "checkpoint", "tensor '" + name + "'", "no such tensor"};
    if (t->count() != count)
      return Error{ErrorCode::shape, detail::place_of(*t), std::to_string(count) + " elements", shape_text(t->shape)};
    std::vector<float> out(std::size_t(count), 0.0f);
    KLENS_OK(read_f32(*t, out));
    return out;
  }

  /// A small tensor of a layer, by the member of LayerView that it fills; none where the layer has none.
  Result<std::vector<float>> small(int l, const float* LayerView::* member) const {
    const bool of_block = has_block(plan_of(l).mixer) && (member == &LayerView::block_norm || member == &LayerView::ffn_norm);
    for (const LayerTensor& t : layer_tensors(reader_of(plan_.shape.family), plan_, of_block ? plan_of(l).block_source : l))
      if (t.member == member) return tensor(t.name, t.count());
    return std::vector<float>{};
  }

  /// The weights of a linear, which may be rows of a tensor with others in it.
  Result<std::vector<float>> weights(const Site& site) const {
    const WeightSource source = source_of(reader_of(plan_.shape.family), plan_, site);
    std::int64_t count = 1;
    for (const std::int64_t extent : source.shape) count *= extent;
    KLENS_TRY(std::vector<float> all, tensor(source.tensor, count));
    if (std::int64_t(site.rows) * site.cols == count && source.interleave == 1) return all;
    std::vector<float> rows;
    for (int r = 0; r < site.rows; ++r) {
      const auto from = all.begin() + std::ptrdiff_t((source.first_row + source.row_of(r, site.rows)) * site.cols);
      rows.insert(rows.end(), from, from + site.cols);
    }
    return rows;
  }

  /// A linear of the model, with its bias and its multipliers.
  Result<Matrix> project(const Matrix& x, Role role, int l, const Team& team, int expert = -1) const {
    const Shape& s = plan_.shape;
    const int rows = expert >= 0 ? expert_extent(s, role).rows
                                 : extent_of(s, l < 0 ? Mixer::none : plan_of(l).mixer, l < 0 || makes_kv(l), role).rows;
    const int owner = l < 0 ? l : owner_of(plan_.layers, l, role);
    KLENS_TRY(const std::vector<float> w, weights({role, owner, rows, x.cols, {}, expert}));
    Matrix y = float64::multiply(x, w, rows, team);
    if (expert < 0 && has_bias(s, l < 0 ? Mixer::none : plan_of(l).mixer, role)) {
      for (const LayerTensor& t : layer_tensors(reader_of(s.family), plan_, owner)) {
        if (t.member != nullptr || t.role != role) continue;
        KLENS_TRY(const std::vector<float> bias, tensor(t.name, t.count()));
        for (std::size_t i = 0; i < y.values.size(); ++i)
          y.values[i] += double(bias[std::size_t(t.first + WeightSource::interleaved_row(std::int64_t(i % std::size_t(rows)), rows, t.interleave))]);
      }
    }
    if (const auto scale_of = reader_of(s.family).output_scale; scale_of != nullptr) {
      KLENS_TRY(const std::vector<float> scale, scale_of(file_.config(), plan_, role, l));
      for (std::size_t i = 0; !scale.empty() && i < y.values.size(); ++i) y.values[i] *= double(scale[i % std::size_t(rows)]);
    }
    return y;
  }

  Result<Matrix> norm(const Matrix& x, int l, const float* LayerView::* weight, int width, float eps) const {
    KLENS_TRY(const std::vector<float> w, small(l, weight));
    return float64::rms_norm(x, width, w, double(eps));
  }

  /// -exp(A_log).
  Result<std::vector<double>> rates(int l) const {
    KLENS_TRY(const std::vector<float> logs, small(l, &LayerView::a2));
    std::vector<double> a;
    for (const float v : logs) a.push_back(-std::exp(double(v)));
    return a;
  }

  Result<Matrix> conv(const Matrix& x, int l) const {
    KLENS_TRY(const std::vector<float> w, small(l, &LayerView::conv_weight));
    KLENS_TRY(const std::vector<float> bias, small(l, &LayerView::conv_bias));
    return float64::causal_conv(x, w, bias, plan_.shape.conv_taps);
  }

  Result<Matrix> conv_silu(const Matrix& x, int l) const {
    KLENS_TRY(Matrix y, conv(x, l));
    for (double& v : y.values) v = float64::silu(v);
    return y;
  }

  /// softplus(raw + dt_bias).
  Result<Matrix> time_steps(Matrix raw, int l) const {
    KLENS_TRY(const std::vector<float> bias, small(l, &LayerView::dt_bias));
    for (std::size_t i = 0; i < raw.values.size(); ++i)
      raw.values[i] = float64::softplus(raw.values[i] + double(bias[i % std::size_t(raw.cols)]));
    return raw;
  }

  /// Attention of projected q, k and v; where the layer reads another's K and V, k and v are empty.
  Result<Matrix> attend(Matrix q, Matrix k, Matrix v, int l, Cache& cache, const Team& team) const {
    const Shape& s = plan_.shape;
    const auto prepare = [&](Matrix& m, const float* LayerView::* weight) -> Result<void> {
      if (s.qk_norm) {
        KLENS_TRY(m, norm(m, l, weight, s.qk_dim, s.norm_eps));
      }
      float64::rotate(m, s.qk_dim, s.rotary_dim, double(s.rope_theta));
      return {};
    };
    KLENS_OK(prepare(q, &LayerView::q_norm));
    if (makes_kv(l)) {
      KLENS_OK(prepare(k, &LayerView::k_norm));
      cache[std::size_t(l)] = {std::move(k), std::move(v)};
    }
    const double scale = s.attention_scale != 0 ? double(s.attention_scale) : 1 / std::sqrt(double(s.qk_dim));
    const KeysAndValues& from = cache[std::size_t(plan_of(l).kv_source)];
    return float64::attention(q, from.k, from.v, {s.heads, s.kv_heads, s.qk_dim, s.v_dim, plan_of(l).window, s.meta, scale}, team);
  }

  /// Mamba-1 from x and its gate.
  Result<Matrix> selective_scan(const Matrix& x, const Matrix& gate, int l, const Team& team) const {
    const Shape& s = plan_.shape;
    KLENS_TRY(const Matrix u, conv_silu(x, l));
    KLENS_TRY(const std::vector<double> a, rates(l));
    KLENS_TRY(const std::vector<float> d, small(l, &LayerView::d));
    if (s.scan_heads > 1) return scan_heads(u, gate, a, d, l, team);
    KLENS_TRY(const Matrix small_rows, project(u, Role::x_proj, l, team));
    Matrix rank = float64::columns(small_rows, 0, s.dt_rank), b = float64::columns(small_rows, s.dt_rank, s.n_state);
    Matrix c = float64::columns(small_rows, s.dt_rank + s.n_state, s.n_state);
    if (s.inner_norms) {
      KLENS_TRY(rank, norm(rank, l, &LayerView::dt_norm, s.dt_rank, s.inner_norm_eps));
      KLENS_TRY(b, norm(b, l, &LayerView::b_norm, s.n_state, s.inner_norm_eps));
      KLENS_TRY(c, norm(c, l, &LayerView::c_norm, s.n_state, s.inner_norm_eps));
    }
    KLENS_TRY(Matrix raw, project(rank, Role::dt_proj, l, team));
    KLENS_TRY(const Matrix dt, time_steps(std::move(raw), l));
    Matrix y = float64::scan(u, dt, a, b, c, d, 1, team);
    float64::gate(y, gate);
    return y;
  }

  /// Heads of channels with their own rows of x_proj and dt_proj (Zamba).
  Result<Matrix> scan_heads(const Matrix& u, const Matrix& gate, const std::vector<double>& a, const std::vector<float>& d, int l,
                            const Team& team) const {
    const Shape& s = plan_.shape;
    const int width = s.inner / s.scan_heads, rows = s.dt_rank + 2 * s.n_state;
    Matrix y(u.rows, u.cols), raw(u.rows, u.cols);
    std::vector<Matrix> b, c;
    for (int h = 0; h < s.scan_heads; ++h) {
      KLENS_TRY(const Matrix all, project(float64::columns(u, h * width, width), Role::x_proj, l, team));
      KLENS_TRY(const Matrix dt, project(float64::columns(all, h * rows, s.dt_rank), Role::dt_proj, l, team));
      for (int t = 0; t < u.rows; ++t) std::copy_n(dt.row(t) + h * width, width, raw.row(t) + h * width);
      b.push_back(float64::columns(all, h * rows + s.dt_rank, s.n_state));
      c.push_back(float64::columns(all, h * rows + s.dt_rank + s.n_state, s.n_state));
    }
    KLENS_TRY(const Matrix dt, time_steps(std::move(raw), l));
    for (int h = 0; h < s.scan_heads; ++h) {
      const std::size_t from = std::size_t(h) * std::size_t(width), n = std::size_t(s.n_state);
      const std::vector<double> rate(a.begin() + std::ptrdiff_t(from * n), a.begin() + std::ptrdiff_t((from + std::size_t(width)) * n));
      const std::vector<float> skip(d.begin() + std::ptrdiff_t(from), d.begin() + std::ptrdiff_t(from) + width);
      const Matrix part = float64::scan(float64::columns(u, h * width, width), float64::columns(dt, h * width, width), rate,
                                        b[std::size_t(h)], c[std::size_t(h)], skip, 1, team);
      for (int t = 0; t < u.rows; ++t) std::copy_n(part.row(t), width, y.row(t) + h * width);
    }
    float64::gate(y, gate);
    return y;
  }

  Result<Matrix> mamba(const Matrix& n, int l, const Team& team) const {
    const Shape& s = plan_.shape;
    KLENS_TRY(const Matrix in, project(n, Role::in_proj, l, team));
    KLENS_TRY(const Matrix y, selective_scan(float64::columns(in, 0, s.inner), float64::columns(in, s.inner, s.inner), l, team));
    return project(y, Role::out_proj, l, team);
  }

  /// Rows of in_proj: gate | x | B | C | dt.
  Result<Matrix> mamba2(const Matrix& n, int l, const Team& team) const {
    const Shape& s = plan_.shape;
    const int bc = s.ssm_groups * s.n_state;
    KLENS_TRY(const Matrix in, project(n, Role::in_proj, l, team));
    const Matrix gate = float64::columns(in, 0, s.inner);
    KLENS_TRY(const Matrix u, conv_silu(float64::columns(in, s.inner, s.inner + 2 * bc), l));
    KLENS_TRY(Matrix dt, time_steps(float64::columns(in, 2 * s.inner + 2 * bc, s.ssm_heads), l));
    for (double& v : dt.values) v = std::fmax(v, double(s.dt_min)), v = s.dt_max > 0 ? std::fmin(v, double(s.dt_max)) : v;
    KLENS_TRY(const std::vector<double> a, rates(l));
    KLENS_TRY(const std::vector<float> d, small(l, &LayerView::d));
    Matrix y = float64::scan(float64::columns(u, 0, s.inner), dt, a, float64::columns(u, s.inner, bc),
                             float64::columns(u, s.inner + bc, bc), d, s.ssm_groups, team);
    if (s.norm_groups == 0 || !s.norm_before_gate) float64::gate(y, gate);
    if (s.norm_groups > 0) {
      KLENS_TRY(y, norm(y, l, &LayerView::gated_norm, s.inner / s.norm_groups, s.inner_norm_eps));
      if (s.norm_before_gate) float64::gate(y, gate);
    }
    return project(y, Role::out_proj, l, team);
  }

  /// Rows of in_proj: gate | x | B | C | dt | A | trapezoid | angles.
  Result<Matrix> mamba3(const Matrix& n, int l, const Team& team) const {
    const Shape& s = plan_.shape;
    const int bc = s.ssm_groups * s.n_state, heads = s.ssm_heads, width = s.inner / heads;
    KLENS_TRY(const Matrix in, project(n, Role::in_proj, l, team));
    const int rows = 2 * s.inner, factors = rows + 2 * bc;
    KLENS_TRY(const Matrix b, norm(float64::columns(in, rows, bc), l, &LayerView::b_norm, s.n_state, s.inner_norm_eps));
    KLENS_TRY(const Matrix c, norm(float64::columns(in, rows + bc, bc), l, &LayerView::c_norm, s.n_state, s.inner_norm_eps));
    KLENS_TRY(const Matrix dt, time_steps(float64::columns(in, factors, heads), l));
    KLENS_TRY(const std::vector<float> b_bias, small(l, &LayerView::b_bias));
    KLENS_TRY(const std::vector<float> c_bias, small(l, &LayerView::c_bias));
    KLENS_TRY(const std::vector<float> d, small(l, &LayerView::d));
    Matrix y(in.rows, s.inner);
    for (int h = 0; h < heads; ++h) {
      const int shared = h / (heads / s.ssm_groups) * s.n_state;
      std::vector<double> angles(std::size_t(s.ssm_angles), 0.0), state(std::size_t(width * s.n_state), 0.0);
      std::vector<double> last_k(std::size_t(s.n_state), 0.0), last_v(std::size_t(width), 0.0);
      for (int t = 0; t < in.rows; ++t) {
        const double step = dt.row(t)[h], raw = in.row(t)[factors + heads + h];
        const double keep = std::exp(-step * std::fmax(raw >= 0 ? 1 + raw : 1 / (1 - raw), double(s.least_rate)));
        const double now = step / (1 + std::exp(-in.row(t)[factors + 2 * heads + h])), before = keep * (step - now);
        std::vector<double> k(b.row(t) + shared, b.row(t) + shared + s.n_state), q(c.row(t) + shared, c.row(t) + shared + s.n_state);
        for (int i = 0; i < s.n_state; ++i) {
          k[std::size_t(i)] += double(b_bias[std::size_t(h * s.n_state + i)]);
          q[std::size_t(i)] += double(c_bias[std::size_t(h * s.n_state + i)]);
        }
        for (int i = 0; i < s.ssm_angles; ++i) {
          double& angle = angles[std::size_t(i)];
          angle += std::numbers::pi * std::tanh(in.row(t)[factors + 3 * heads + i]) * step;
          const double cosine = std::cos(angle), sine = std::sin(angle);
          float64::rotate_pair(k[std::size_t(2 * i)], k[std::size_t(2 * i + 1)], cosine, sine);
          float64::rotate_pair(q[std::size_t(2 * i)], q[std::size_t(2 * i + 1)], cosine, sine);
        }
        for (int p = 0; p < width; ++p) {
          const double v = in.row(t)[s.inner + h * width + p];
          double sum = 0;
          for (int i = 0; i < s.n_state; ++i) {
            double& value = state[std::size_t(p * s.n_state + i)];
            value = keep * value + before * last_v[std::size_t(p)] * last_k[std::size_t(i)] + now * v * k[std::size_t(i)];
            sum += value * q[std::size_t(i)];
          }
          y.row(t)[h * width + p] = sum + double(d[std::size_t(h)]) * v;
          last_v[std::size_t(p)] = v;
        }
        last_k = k;
      }
    }
    if (s.norm_groups > 0) {
      KLENS_TRY(y, norm(y, l, &LayerView::gated_norm, s.inner / s.norm_groups, s.inner_norm_eps));
    }
    float64::gate(y, float64::columns(in, 0, s.inner));
    return project(y, Role::out_proj, l, team);
  }

  Result<Matrix> attention(const Matrix& n, int l, Cache& cache, const Team& team) const {
    KLENS_TRY(Matrix q, project(n, Role::q_proj, l, team));
    Matrix k, v;
    if (makes_kv(l)) {
      KLENS_TRY(k, project(n, Role::k_proj, l, team));
      KLENS_TRY(v, project(n, Role::v_proj, l, team));
    }
    KLENS_TRY(const Matrix y, attend(std::move(q), std::move(k), std::move(v), l, cache, team));
    return project(y, Role::o_proj, l, team);
  }

  /// Rows of in_proj: q | k | v.
  Result<Matrix> conv_attention(const Matrix& n, int l, Cache& cache, const Team& team) const {
    const Shape& s = plan_.shape;
    KLENS_TRY(const Matrix in, project(n, Role::in_proj, l, team));
    KLENS_TRY(const Matrix all, conv(in, l));
    const int q = s.heads * s.qk_dim, k = s.kv_heads * s.qk_dim;
    KLENS_TRY(const Matrix y, attend(float64::columns(all, 0, q), float64::columns(all, q, k),
                                     float64::columns(all, q + k, s.kv_heads * s.v_dim), l, cache, team));
    return project(y, Role::out_proj, l, team);
  }

  /// Rows of in_proj: B | C | x.
  Result<Matrix> short_conv(const Matrix& n, int l, const Team& team) const {
    const int width = plan_.shape.inner;
    KLENS_TRY(const Matrix in, project(n, Role::in_proj, l, team));
    Matrix product = float64::columns(in, 0, width);
    for (int t = 0; t < in.rows; ++t)
      for (int i = 0; i < width; ++i) product.row(t)[i] *= in.row(t)[2 * width + i];
    KLENS_TRY(Matrix y, conv(product, l));
    for (int t = 0; t < in.rows; ++t)
      for (int i = 0; i < width; ++i) y.row(t)[i] *= in.row(t)[width + i];
    return project(y, Role::out_proj, l, team);
  }

  /// Rows of in_proj: q | k | v | x | gate, k and v where the layer makes them.
  Result<Matrix> hymba(const Matrix& n, int l, Cache& cache, const Team& team) const {
    const Shape& s = plan_.shape;
    KLENS_TRY(const Matrix in, project(n, Role::in_proj, l, team));
    const int q_width = s.heads * s.qk_dim, k_width = s.kv_heads * s.qk_dim, v_width = s.kv_heads * s.v_dim;
    Matrix k, v;
    if (makes_kv(l)) k = float64::columns(in, q_width, k_width), v = float64::columns(in, q_width + k_width, v_width);
    const int x_at = makes_kv(l) ? q_width + k_width + v_width : q_width;
    KLENS_TRY(const Matrix heads, attend(float64::columns(in, 0, q_width), std::move(k), std::move(v), l, cache, team));
    KLENS_TRY(const Matrix scanned, selective_scan(float64::columns(in, x_at, s.inner), float64::columns(in, x_at + s.inner, s.inner), l, team));
    KLENS_TRY(Matrix mean, norm(heads, l, &LayerView::attention_norm, s.inner, s.norm_eps));
    KLENS_TRY(const Matrix other, norm(scanned, l, &LayerView::scan_norm, s.inner, s.norm_eps));
    for (std::size_t i = 0; i < mean.values.size(); ++i) mean.values[i] = 0.5 * (mean.values[i] + other.values[i]);
    return project(mean, Role::out_proj, l, team);
  }

  /// A projection and what the layer's adapter adds to it.
  Result<Matrix> adapted(const Matrix& n, Role role, bool adapts, Role in, Role out, int l, const Team& team) const {
    KLENS_TRY(Matrix y, project(n, role, l, team));
    if (!adapts) return y;
    KLENS_TRY(const Matrix rank, project(n, in, l, team));
    KLENS_TRY(const Matrix more, project(rank, out, l, team));
    float64::add(y, more);
    return y;
  }

  /// Output of a shared block on [x | first], through the layer's own block_out.
  Result<Matrix> block(const Matrix& x, const Matrix& first, int l, Cache& cache, const Team& team) const {
    const Shape& s = plan_.shape;
    Matrix pair(x.rows, 2 * x.cols);
    for (int t = 0; t < x.rows; ++t) {
      std::copy_n(x.row(t), x.cols, pair.row(t));
      std::copy_n(first.row(t), x.cols, pair.row(t) + x.cols);
    }
    KLENS_TRY(const Matrix n, norm(pair, l, &LayerView::block_norm, pair.cols, s.norm_eps));
    const bool ffn = s.adapter_rank > 0, heads = ffn && s.attention_adapters;
    KLENS_TRY(Matrix q, adapted(n, Role::q_proj, heads, Role::q_adapter_in, Role::q_adapter_out, l, team));
    KLENS_TRY(Matrix k, adapted(n, Role::k_proj, heads, Role::k_adapter_in, Role::k_adapter_out, l, team));
    KLENS_TRY(Matrix v, adapted(n, Role::v_proj, heads, Role::v_adapter_in, Role::v_adapter_out, l, team));
    KLENS_TRY(const Matrix attended, attend(std::move(q), std::move(k), std::move(v), l, cache, team));
    KLENS_TRY(const Matrix u, project(attended, Role::o_proj, l, team));
    KLENS_TRY(const Matrix m, norm(u, l, &LayerView::ffn_norm, s.hidden, s.norm_eps));
    KLENS_TRY(const Matrix gate, adapted(m, Role::gate_proj, ffn, Role::ffn_adapter_in, Role::gate_adapter_out, l, team));
    KLENS_TRY(Matrix up, adapted(m, Role::up_proj, ffn, Role::ffn_adapter_in, Role::up_adapter_out, l, team));
    for (std::size_t i = 0; i < up.values.size(); ++i) up.values[i] *= float64::gelu(gate.values[i]);
    KLENS_TRY(const Matrix down, project(up, Role::down_proj, l, team));
    return project(down, Role::block_out, l, team);
  }

  Result<void> mixer(int l, Matrix& x, const Matrix& first, Cache& cache, const Team& team) const {
    const Mixer kind = plan_of(l).mixer;
    if (kind == Mixer::none) return {};
    Matrix stream = x;
    if (has_block(kind)) {
      KLENS_TRY(const Matrix y, block(x, first, l, cache, team));
      float64::add(stream, y);
    }
    KLENS_TRY(const Matrix n, norm(stream, l, &LayerView::input_norm, plan_.shape.hidden, plan_.shape.norm_eps));
    const auto run = [&](Mixer one) -> Result<Matrix> {
      switch (one) {
        case Mixer::hymba: return hymba(n, l, cache, team);
        case Mixer::block_mamba:
        case Mixer::mamba: return mamba(n, l, team);
        case Mixer::block_mamba2:
        case Mixer::mamba2: return mamba2(n, l, team);
        case Mixer::attention: return attention(n, l, cache, team);
        case Mixer::short_conv: return short_conv(n, l, team);
        case Mixer::conv_attention: return conv_attention(n, l, cache, team);
        case Mixer::mamba3: return mamba3(n, l, team);
        case Mixer::none:
        case Mixer::parallel: break;
      }
      return Matrix(x.rows, x.cols);
    };
    KLENS_TRY(const Matrix y, run(kind == Mixer::parallel ? Mixer::mamba2 : kind));
    float64::add(x, y);
    if (kind == Mixer::parallel) {
      KLENS_TRY(const Matrix z, run(Mixer::attention));
      float64::add(x, z);
    }
    return {};
  }

  Result<void> ffn(int l, Matrix& x, const Team& team) const {
    const Ffn kind = plan_of(l).ffn;
    if (kind == Ffn::none) return {};
    KLENS_TRY(const Matrix n, norm(x, l, &LayerView::ffn_norm, plan_.shape.hidden, plan_.shape.norm_eps));
    if (has_swiglu(kind)) {
      KLENS_TRY(const Matrix down, swiglu(n, l, -1, team));
      float64::add(x, down);
    } else if (kind == Ffn::relu2) {
      KLENS_TRY(const Matrix down, relu2(n, l, Role::up_proj, Role::down_proj, -1, team));
      float64::add(x, down);
    }
    if (kind == Ffn::moe_relu2) return relu2_experts(n, l, x, team);
    return has_experts(kind) ? experts(n, n, l, x, team) : Result<void>{};
  }

  Result<Matrix> relu2(const Matrix& n, int l, Role up, Role down, int expert, const Team& team) const {
    KLENS_TRY(Matrix y, project(n, up, l, team, expert));
    for (double& v : y.values) v = v > 0 ? v * v : 0;
    return project(y, down, l, team, expert);
  }

  Result<void> relu2_experts(const Matrix& n, int l, Matrix& x, const Team& team) const {
    KLENS_TRY(const Matrix shared, relu2(n, l, Role::shared_up, Role::shared_down, -1, team));
    float64::add(x, shared);
    if (plan_.shape.expert_latent == 0) return experts(n, n, l, x, team);
    KLENS_TRY(const Matrix latent, project(n, Role::latent_in, l, team));
    Matrix sum(latent.rows, latent.cols);
    KLENS_OK(experts(n, latent, l, sum, team));
    KLENS_TRY(const Matrix y, project(sum, Role::latent_out, l, team));
    float64::add(x, y);
    return {};
  }

  Result<Matrix> swiglu(const Matrix& n, int l, int expert, const Team& team) const {
    KLENS_TRY(Matrix y, project(n, Role::up_proj, l, team, expert));
    KLENS_TRY(const Matrix gate, project(n, Role::gate_proj, l, team, expert));
    float64::gate(y, gate);
    return project(y, Role::down_proj, l, team, expert);
  }

  /// Adds the experts that every row of n chooses, of the rows `in`, weighted; one expert's matrices are in memory at a time.
  Result<void> experts(const Matrix& n, const Matrix& in, int l, Matrix& x, const Team& team) const {
    const Shape& s = plan_.shape;
    KLENS_TRY(const std::vector<float> router, small(l, &LayerView::router));
    const Matrix logits = float64::multiply(n, router, s.experts, team);
    std::vector<std::vector<double>> weight;
    const bool sigmoids = plan_of(l).ffn == Ffn::moe_relu2;
    KLENS_TRY(const std::vector<float> bias, small(l, &LayerView::router_bias));
    for (int t = 0; t < n.rows; ++t)
      weight.push_back(sigmoids ? float64::routed(logits.row(t), bias, {s.experts, s.experts_used, s.router_groups, s.router_groups_used,
                                                                       s.router_normed, double(s.router_scale)})
                                : float64::routed(logits.row(t), s.experts, s.experts_used, s.softmax_of_all));
    for (int e = 0; e < s.experts; ++e) {
      std::vector<int> rows;
      for (int t = 0; t < n.rows; ++t)
        if (weight[std::size_t(t)][std::size_t(e)] > 0) rows.push_back(t);
      if (rows.empty()) continue;
      Matrix part(int(rows.size()), in.cols);
      for (std::size_t i = 0; i < rows.size(); ++i) std::copy(in.row(rows[i]), in.row(rows[i]) + in.cols, part.row(int(i)));
      KLENS_TRY(const Matrix y, sigmoids ? relu2(part, l, Role::up_proj, Role::down_proj, e, team) : swiglu(part, l, e, team));
      for (std::size_t i = 0; i < rows.size(); ++i)
        for (int c = 0; c < y.cols; ++c) x.row(rows[i])[c] += weight[std::size_t(rows[i])][std::size_t(e)] * y.row(int(i))[c];
    }
    return {};
  }

  Result<void> layer(int l, Matrix& x, const Matrix& first, Cache& cache, const Team& team) const {
    KLENS_OK(mixer(l, x, first, cache, team));
    return ffn(l, x, team);
  }

  Checkpoint file_;
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
