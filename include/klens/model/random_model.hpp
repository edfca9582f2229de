// random_model: a model of given shapes and formats with random weights and no checkpoint, to time what a checkpoint of those
// shapes would take (`klens bench model --like`). Its text means nothing; its numbers stay finite for any number of tokens.
//
// A projection is made from 64 rows of nearly normal values, sd 1 / sqrt(cols), quantized by the rule of its format and repeated
// down the matrix: the time of a memcpy, with real codes and scales in every panel. Projections into the residual stream are
// 1 / sqrt(layers) smaller. Small tensors are what training starts from: norms 1, D 1, A_log = log(1 .. states) (mamba2: A from
// 1 to 16), dt_bias such that softplus gives 0.001 to 0.1 (log-uniform). Test: tests/model/random.cpp.
#pragma once

#include <klens/model/model.hpp>

namespace klens {
namespace detail {

/// Nearly normal values of variance 1 from a linear congruential generator: the sum of 12 uniform ones, minus 6.
class NearlyNormal {
 public:
  explicit NearlyNormal(std::uint32_t seed) : state_(seed * 2654435761u + 1u) {}
  float uniform() { return float((state_ = state_ * 1664525u + 1013904223u) >> 8) * 0x1p-24f; }
  float operator()() {
    float sum = -6;
    for (int i = 0; i < 12; ++i) sum += uniform();
    return sum;
  }

 private:
  std::uint32_t state_;
};

inline void repeat_bytes(unsigned char* out, std::int64_t bytes, const void* pattern, std::int64_t length) {
  for (std::int64_t at = 0; at < bytes; at += length) std::memcpy(out + at, pattern, std::size_t(std::min(length, bytes - at)));
}

/// A matrix of 64 different rows (fewer where it has fewer), repeated.
inline Result<PackedBuffer> random_matrix(const Precision& precision, std::int64_t rows, std::int64_t cols, float size, std::uint32_t seed) {
  KLENS_TRY(PackedBuffer whole, PackedBuffer::make(precision, rows, cols));
  const std::int64_t distinct = std::min<std::int64_t>(round_up(rows, lanes), 64);
  Buffer<float> values(std::size_t(distinct * cols));
  NearlyNormal random(seed);
  for (float& v : values.span()) v = size * random();
  KLENS_TRY(const PackedBuffer tile, quantize_rtn(precision, {values.data(), distinct, cols, cols}));
  repeat_bytes(whole.panel_lines(0), whole.layout().line_plane_bytes, tile.lines().data(), std::int64_t(tile.lines().size()));
  if (!tile.scales().empty())
    repeat_bytes(whole.panel_scales(0), whole.layout().scale_plane_bytes, tile.scales().data(), std::int64_t(tile.scales().size()));
  return whole;
}

/// Element i, k of a small tensor as kernels read it; `width` channels.
inline float random_small(const LayerTensor& t, std::int64_t i, std::int64_t k, NearlyNormal& random) {
  if (t.use == Use::a_log) {   // -A log2(e)
    const float a = t.shape.size() > 1 ? float(k + 1) : 1.0f + 15.0f * float(i) / float(t.shape[0]);
    return -a * 0x1.715476p+0f;
  }
  if (t.member == &LayerView::router) return random() / float(std::sqrt(double(t.shape[1])));
  if (t.member == &LayerView::router_bias) return 0.1f * random();
  if (t.use == Use::pairs) return 1.0f + 0.1f * random();
  if (t.use == Use::conv) return 0.5f * random() / float(t.shape[2]);
  if (t.member == &LayerView::dt_bias) {   // log(exp(dt) - 1), dt = 0.001 * 100^u
    const double dt = 0.001 * det::pow(100.0, double(random.uniform()));
    return float(det::log(det::exp(dt) - 1.0));
  }
  if (t.member == &LayerView::conv_bias || t.member == nullptr) return 0.0f;   // nullptr: the bias of a linear
  return 1.0f;   // norms, D
}

}  // namespace detail

/// A model of this plan. `like` names it in errors and output; states take the formats of the plan's scan, attention and conv.
inline Result<Model> random_model(const RuntimePlan& plan, const std::string& like) {
  if (const auto fault = find_fault(plan)) return Error{ErrorCode::format, "random weights like " + like + ": " + fault->field, fault->expected, fault->found};
  Model m;
  m.path_ = "random weights like " + like, m.random_ = true, m.skeleton_ = plan;
  const Shape& s = m.view_.shape = plan.shape;
  const FamilyReader& reader = reader_of(s.family);
  m.lay_out_layers();
  detail::NearlyNormal random(1);
  const auto small = [&m](std::int64_t values) {
    m.small_bytes_ += packed_tensor_bytes(values * 2), m.small_parameters_ += values;
  };
  for (int l = 0; l < s.layers; ++l) {
    LayerView& layer = m.layers_[std::size_t(l)];
    const LayerPlan& from = plan.layers[std::size_t(l)];
    layer.states = {from.attention.state, from.conv.state, from.scan.state};
    for (const LayerTensor& t : layer_tensors(reader, plan, l)) {
      const std::int64_t width = t.width, padded = t.padded(), columns = t.columns();
      Buffer<float> values(std::size_t(padded * columns));
      for (std::int64_t i = 0; i < width; ++i)
        for (std::int64_t k = 0; k < columns; ++k)
          values[std::size_t(k * padded + t.place(i))] = detail::random_small(t, i, k, random);
      small(width * columns);
      m.buffers_.push_back(std::move(values));
      kept_in(layer, t) = m.buffers_.back().data();
    }
    m.share_block(l);
  }
  Buffer<float> final_norm(std::size_t(round_up(s.hidden, lanes)));
  std::fill_n(final_norm.data(), s.hidden, 1.0f);
  m.buffers_.push_back(std::move(final_norm)), small(s.hidden);
  m.view_.final_norm = m.buffers_.back().data();
  if (s.meta > 0) {
    const std::int64_t stride = row_stride(s.hidden);
    Buffer<float> meta(std::size_t(s.meta * stride));
    for (std::int64_t i = 0; i < std::int64_t(s.meta) * s.hidden; ++i) meta[std::size_t(i / s.hidden * stride + i % s.hidden)] = random();
    m.buffers_.push_back(std::move(meta)), small(std::int64_t(s.meta) * s.hidden);
    m.view_.meta = m.buffers_.back().data();
  }
  if (s.qk_dim > 0) m.view_.attention_scale = s.attention_scale != 0 ? s.attention_scale : float(1.0 / std::sqrt(double(s.qk_dim)));

  std::uint32_t seed = 2;
  Result<void> made;
  for_each_site(plan, [&](const Site& site) {
    if (!made) return;
    const bool adds = site.role == Role::out_proj || site.role == Role::o_proj || site.role == Role::down_proj;
    const float size = site.role == Role::embedding ? 1.0f : float(1.0 / std::sqrt(double(site.cols) * (adds ? double(s.layers) : 1.0)));
    auto weights = detail::random_matrix(site.precision, site.rows, site.cols, size, seed++);
    if (!weights) return void(made = weights.error());
    m.components_.push_back({component_name(s.family, site.role, site.layer, site.expert), site.role, site.layer, site.rows, site.cols, site.expert});
    Model::Slot slot;
    slot.reference = site.precision, slot.owned = *std::move(weights);
    m.slots_.push_back(std::move(slot));
    m.bind(int(m.slots_.size()) - 1, m.slots_.back().owned.matrix());
  });
  KLENS_OK(std::move(made));
  // Multipliers of a family that has them: an empty config means 1 for all; one that is not makes all the others' code run.
  if (reader.output_scale != nullptr) {
    m.config_.path = m.path_;
    m.config_.json = Json{{"ssm_multipliers", {0.5, 0.5, 0.5, 0.5, 0.5}}, {"ssm_out_multiplier", 0.5}, {"key_multiplier", 0.5},
                          {"attention_out_multiplier", 0.9}, {"mlp_multipliers", {0.9, 0.6}}, {"lm_head_multiplier", 0.04}};
    KLENS_OK(m.load_scales());
  }
  m.list_states();
  m.gather_weights();
  return m;
}

}  // namespace klens
