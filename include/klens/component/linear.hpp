// Linear<P>: y = W x + b with W packed in P's format and x rounded as P says.
//
//   Linear<P> f(weights);   f.step(x, y);   f.prefill(X, Y);   f.kernel_name() == "linear<w4g32,a8>/avx512_vnni"
//
// Reads weight_bits, scheme and activation of P. Rows of x and y are as long as the matrix says, without padding or alignment:
// they go through padded scratch of the component (K + N floats per token, beside K N multiply-adds).
#pragma once

#include <klens/component/names.hpp>
#include <klens/core/aligned.hpp>
#include <klens/core/denormals.hpp>
#include <klens/core/team.hpp>
#include <klens/format/qtensor.hpp>
#include <klens/kernel/linear.hpp>
#include <klens/kernel/quantize_row.hpp>

#include <cstring>

namespace klens::inline KLENS_NS {

template <Precision P>
class Linear {
  static_assert(storable(P.weight_bits, P.scheme),
                "klens: Linear<P>: P.weight_bits and P.scheme must name a packed format (w2 to w6, w8, with row scales or groups of "
                "32, 64, 128; nf4 groups; f16, bf16, f32)");
  static_assert(P.activation != Activation::a8s, "klens: Linear<P>: P.activation must be f32, a16 or a8: static scales (a8s) have no kernel");
  static_assert(P.state == State::f32, "klens: Linear<P>: P.state must be f32: a linear has no state");

 public:
  using Weights = QTensor<P.weight_bits, P.scheme>;

  /// Looks at `weights` (and at `bias`, of weights.rows() floats, which it copies); the owner must outlive it.
  explicit Linear(const Weights& weights, const float* bias = nullptr, Team team = {})
      : matrix_(weights.matrix(P.activation)), team_(team), in_stride_(row_stride(weights.cols())),
        out_stride_(round_up(weights.rows(), lanes)) {
    if (bias != nullptr) {
      bias_ = Buffer<float>(std::size_t(out_stride_));
      std::memcpy(bias_.data(), bias, std::size_t(weights.rows()) * sizeof(float));
    }
    reserve(1);
  }

  int rows() const { return matrix_.rows; }
  int cols() const { return matrix_.cols; }

  /// One token: x has cols() floats, y gets rows().
  void step(const float* x, float* y) { prefill({x, 1, cols(), cols()}, {y, 1, rows(), rows()}); }

  /// Many tokens; the bits of as many steps.
  void prefill(const Rows<const float>& x, const Rows<float>& y) {
    KLENS_ASSERT(x.rows == y.rows && x.cols == cols() && y.cols == rows());
    const FlushDenormals flush;
    for (std::int64_t first = 0; first < x.rows; first += most_tokens) {
      const std::int64_t left = x.rows - first;
      run(x, y, first, int(left < most_tokens ? left : most_tokens));
    }
  }

  /// Format and level of the kernel that runs.
  static std::string kernel_name() { return component_kernel_name("linear", weight_name(P) + "," + activation_name(P)); }

 private:
  static constexpr int most_tokens = 64;   // per kernel call: expanded weights are used that often

  void reserve(int tokens) {
    if (tokens <= reserved_) return;
    const std::size_t in = std::size_t(tokens * in_stride_);
    x_ = Buffer<float>(in);
    y_ = Buffer<float>(std::size_t(tokens * out_stride_));
    if constexpr (P.activation != Activation::f32) {
      f32_ = Buffer<float>(dot_kind_of(P) == DotKind::f32 ? in : 0);
      q8_ = Buffer<std::int8_t>(in);
      q16_ = Buffer<std::int16_t>(P.activation == Activation::a8 && has_dot_u8 ? 0 : in);
      sums_ = Buffer<std::int32_t>(in / row_unit);
      scale_ = Buffer<float>(std::size_t(tokens));
    }
    if (tokens >= gemm_least_tokens && scratch_.size() == 0)
      scratch_ = Buffer<unsigned char>(std::size_t(linear_scratch_bytes) * std::size_t(team_.threads < 1 ? 1 : team_.threads));
    reserved_ = tokens;
  }

  ActRows rounded(int tokens) {
    ActRows rows;
    rows.stride = in_stride_;
    if constexpr (P.activation == Activation::f32) {
      rows.f32 = x_.data();
    } else {
      constexpr bool as_float = dot_kind_of(P) == DotKind::f32, byte = P.activation == Activation::a8;
      QuantizeRowArgs a;
      a.x = x_.data(), a.x_stride = in_stride_, a.cols = cols(), a.activation = P.activation, a.stride = in_stride_;
      a.q8 = as_float || !byte ? nullptr : q8_.data(), a.q16 = as_float || (byte && has_dot_u8) ? nullptr : q16_.data();
      a.sums = as_float ? nullptr : sums_.data(), a.f32 = as_float ? f32_.data() : nullptr, a.scale = scale_.data();
      a.begin = 0, a.end = tokens;
      quantize_row(a);
      rows.f32 = a.f32, rows.q8 = a.q8, rows.q16 = a.q16, rows.sums = a.sums, rows.scale = a.scale;
    }
    return rows;
  }

  void run(const Rows<const float>& x, const Rows<float>& y, std::int64_t first, int tokens) {
    reserve(tokens);
    for (int t = 0; t < tokens; ++t)
      std::memcpy(x_.data() + t * in_stride_, row(x, first + t), std::size_t(cols()) * sizeof(float));
    LinearArgs a;
    a.w = matrix_, a.x = rounded(tokens), a.tokens = tokens, a.bias = bias_.data(), a.y = y_.data(), a.y_stride = out_stride_;
    const std::int64_t panels = out_stride_ / lanes, weights = std::int64_t(rows()) * cols();
    LinearDeal deal;
    deal_out(deal, team_.threads, tokens, panels, weights * P.weight_bits / 8, weights * tokens);
    for_each(team_, deal.deal.tasks, [&](int i, int thread) {
      LinearArgs part = a;
      const Share share = share_of(deal, int(panels), i);
      if (share.begin == share.end) return;
      part.begin = share.begin, part.end = share.end;
      if (scratch_.size() != 0) part.scratch = scratch_.data() + thread * linear_scratch_bytes;
      linear<codec_of(P), P.scheme.scale == Granularity::group, dot_kind_of(P)>(part);
    });
    for (int t = 0; t < tokens; ++t)
      std::memcpy(row(y, first + t), y_.data() + t * out_stride_, std::size_t(rows()) * sizeof(float));
  }

  PackedMatrix matrix_;
  Team team_;
  std::int64_t in_stride_, out_stride_;
  int reserved_ = 0;
  Buffer<float> bias_, x_, y_, f32_, scale_;
  Buffer<std::int8_t> q8_;
  Buffer<std::int16_t> q16_;
  Buffer<std::int32_t> sums_;
  Buffer<unsigned char> scratch_;
};

}  // namespace klens::inline KLENS_NS
