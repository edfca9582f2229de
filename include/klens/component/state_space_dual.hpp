// StateSpaceDual<P>: the recurrence of Mamba-2 over an SsdState (kernel/ssd.hpp has the equations).
//
//   dt = clamp(softplus(dt_raw + dt_bias), dt_min, dt_max);  S = exp(dt A) S + dt x B^T;  y = (S C + D x) silu(z)
//
// Reads P.state, the format of the SsdState (f32, f16, s16, s8: rounded after every token, kernel/state_round.hpp), and
// P.activation (of its inputs), which must be f32. prefill() gives the bits of as many steps, for any number of threads.
#pragma once

#include <klens/component/names.hpp>
#include <klens/component/state.hpp>
#include <klens/core/denormals.hpp>
#include <klens/core/det_math.hpp>
#include <klens/core/team.hpp>
#include <klens/format/state.hpp>
#include <klens/kernel/ssd.hpp>

namespace klens {

struct SsdShape {
  int heads = 0, groups = 1;   // heads share B and C by groups: a multiple of them
  int head_dim = 64, n_state = 128;
  float dt_min = 0, dt_max = 3.4e38f;
};

/// Shape, A, D and the bias of dt of each head; A as -exp(A_log) log2(e).
class SsdParameters {
 public:
  /// a_log, d and dt_bias [heads]; the last two may be nullptr.
  SsdParameters(const SsdShape& shape, const float* a_log, const float* d, const float* dt_bias)
      : shape_(shape), a2_(std::size_t(shape.heads)), d_(a2_.size()), dt_bias_(a2_.size()) {
    KLENS_ASSERT(shape.groups > 0 && shape.heads % shape.groups == 0);
    for (std::size_t h = 0; h < a2_.size(); ++h) {
      a2_[h] = det::decay_rate(a_log[h]);
      if (d != nullptr) d_[h] = d[h];
      if (dt_bias != nullptr) dt_bias_[h] = dt_bias[h];
    }
  }

  const SsdShape& shape() const { return shape_; }
  const float* a2() const { return a2_.data(); }
  const float* d() const { return d_.data(); }
  const float* dt_bias() const { return dt_bias_.data(); }

 private:
  SsdShape shape_;
  Buffer<float> a2_, d_, dt_bias_;
};

/// Inputs of a state space dual, one row per token. z.data may be nullptr: no gate (a gated norm follows).
struct SsdInputs {
  Rows<const float> x;       // [tokens, heads x head_dim]
  Rows<const float> dt;      // [tokens, heads], before softplus
  Rows<const float> b, c;    // [tokens, groups x n_state]
  Rows<const float> z = {};  // [tokens, heads x head_dim]
};

inline namespace KLENS_NS {

template <Precision P>
class StateSpaceDual {
  static_assert(P.state != State::s4, "klens: StateSpaceDual<P>: P.state must be f32, f16, s16 or s8: there is no scan state of s4");
  static_assert(P.activation == Activation::f32, "klens: StateSpaceDual<P>: P.activation must be f32: quantized scan inputs are not implemented");

 public:
  explicit StateSpaceDual(const SsdParameters& parameters, Team team = {}) : parameters_(&parameters), team_(team) {}

  /// One token, from pointers to its row of each input; y: heads x head_dim floats.
  void step(SsdState& state, const float* x, const float* dt, const float* b, const float* c, const float* z, float* y) const {
    prefill(state, {{x, 1, 0, 0}, {dt, 1, 0, 0}, {b, 1, 0, 0}, {c, 1, 0, 0}, {z, z != nullptr ? 1 : 0, 0, 0}}, {y, 1, 0, 0});
  }

  /// All rows in order.
  void prefill(SsdState& state, const SsdInputs& in, const Rows<float>& y) const {
    const SsdShape& s = parameters_->shape();
    KLENS_ASSERT(state.heads() == s.heads && state.head_dim() == s.head_dim && state.n_state() == s.n_state);
    KLENS_ASSERT(state.format() == P.state);
    KLENS_ASSERT(in.x.rows == y.rows && in.dt.rows == y.rows && in.b.rows == y.rows && in.c.rows == y.rows);
    const FlushDenormals flush;
    SsdArgs a;
    a.x = in.x.data, a.x_stride = in.x.stride, a.dt = in.dt.data, a.dt_stride = in.dt.stride, a.dt_bias = parameters_->dt_bias();
    a.a2 = parameters_->a2(), a.d = parameters_->d(), a.b = in.b.data, a.b_stride = in.b.stride, a.c = in.c.data, a.c_stride = in.c.stride;
    a.z = in.z.data, a.z_stride = in.z.stride, a.dt_min = s.dt_min, a.dt_max = s.dt_max;
    a.state = state.data(), a.decay = state.decay(), a.scales = state.scales(), a.format = P.state;
    a.y = y.data, a.y_stride = y.stride, a.heads = s.heads, a.groups = s.groups, a.head_dim = s.head_dim, a.n_state = s.n_state;
    a.tokens = int(y.rows), a.key = state.key(), a.position = state.position();
    state.grow(a.tokens);
    const int items = s.heads * int(div_up(s.head_dim, lanes)), grain = a.tokens >= 8 ? 2 : 8;
    for_each(team_, int(div_up(items, grain)), [&](int i, int) {
      SsdArgs part = a;
      part.begin = i * grain, part.end = part.begin + grain < items ? part.begin + grain : items;
      ssd_as<P.state>(part);
    });
  }

  static std::string kernel_name() { return component_kernel_name("ssd", std::string(name_of(P.state))); }

 private:
  const SsdParameters* parameters_;
  Team team_;
};

}  // namespace KLENS_NS
}  // namespace klens
