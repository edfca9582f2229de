// SelectiveScan<P>: the recurrence of Mamba-1 over a ScanState, gated (kernel/scan.hpp has the equations).
//
//   dt = softplus(dt_raw + dt_bias);  h = exp(dt A) h + dt x B;  y = (D x + h C) silu(z)
//
// Reads P.state, the format of the ScanState (f32, f16, s16, s8: rounded after every token, kernel/state_round.hpp), and
// P.activation (of its inputs), which must be f32. prefill() gives the bits of as many steps, for any number of threads.
#pragma once

#include <klens/component/names.hpp>
#include <klens/component/state.hpp>
#include <klens/core/denormals.hpp>
#include <klens/core/det_math.hpp>
#include <klens/core/team.hpp>
#include <klens/format/state.hpp>
#include <klens/kernel/scan.hpp>

namespace klens {

/// A, D and the bias of dt as the kernel reads them: padded to 16 channels, A as -exp(A_log) log2(e), state-major.
class ScanParameters {
 public:
  /// a_log [channels, n_state], d [channels], dt_bias [channels] or nullptr.
  ScanParameters(int channels, int n_state, const float* a_log, const float* d, const float* dt_bias)
      : channels_(channels), n_state_(n_state), padded_(round_up(channels, lanes)), a2_(std::size_t(padded_ * n_state)),
        d_(std::size_t(padded_)), dt_bias_(std::size_t(padded_)) {
    for (int c = 0; c < channels; ++c) {
      for (int n = 0; n < n_state; ++n)
        a2_[std::size_t(n * padded_ + c)] = det::decay_rate(a_log[c * n_state + n]);
      d_[std::size_t(c)] = d[c];
      if (dt_bias != nullptr) dt_bias_[std::size_t(c)] = dt_bias[c];
    }
  }

  int channels() const { return channels_; }
  int n_state() const { return n_state_; }
  const float* a2() const { return a2_.data(); }
  const float* d() const { return d_.data(); }
  const float* dt_bias() const { return dt_bias_.data(); }

 private:
  int channels_, n_state_;
  std::int64_t padded_;
  Buffer<float> a2_, d_, dt_bias_;
};

/// Inputs of a scan, one row per token. z.data may be nullptr: no gate.
struct ScanInputs {
  Rows<const float> x, dt;   // [tokens, channels]; dt before softplus
  Rows<const float> b, c;    // [tokens, n_state]
  Rows<const float> z = {};  // [tokens, channels]
};

inline namespace KLENS_NS {

template <Precision P>
class SelectiveScan {
  static_assert(P.state != State::s4, "klens: SelectiveScan<P>: P.state must be f32, f16, s16 or s8: there is no scan state of s4");
  static_assert(P.activation == Activation::f32, "klens: SelectiveScan<P>: P.activation must be f32: quantized scan inputs are not implemented");

 public:
  explicit SelectiveScan(const ScanParameters& parameters, Team team = {}) : parameters_(&parameters), team_(team) {}

  /// One token, from pointers to its row of each input; y: round_up(channels, 16) floats are written.
  void step(ScanState& state, const float* x, const float* dt, const float* b, const float* c, const float* z, float* y) const {
    const std::int64_t channels = parameters_->channels(), n = parameters_->n_state();
    prefill(state, {{x, 1, channels, 0}, {dt, 1, channels, 0}, {b, 1, n, 0}, {c, 1, n, 0}, {z, z != nullptr ? 1 : 0, channels, 0}},
            {y, 1, channels, 0});
  }

  /// All rows in order; y: round_up(channels, 16) floats of each row are written.
  void prefill(ScanState& state, const ScanInputs& in, const Rows<float>& y) const {
    KLENS_ASSERT(state.channels() == parameters_->channels() && state.n_state() == parameters_->n_state());
    KLENS_ASSERT(state.format() == P.state);
    KLENS_ASSERT(in.x.rows == y.rows && in.dt.rows == y.rows && in.b.rows == y.rows && in.c.rows == y.rows);
    const FlushDenormals flush;
    ScanArgs a;
    a.x = in.x.data, a.x_stride = in.x.stride, a.dt = in.dt.data, a.dt_stride = in.dt.stride, a.dt_bias = parameters_->dt_bias();
    a.b = in.b.data, a.b_stride = in.b.stride, a.c = in.c.data, a.c_stride = in.c.stride, a.z = in.z.data, a.z_stride = in.z.stride;
    a.a2 = parameters_->a2(), a.d = parameters_->d(), a.state = state.data(), a.y = y.data, a.y_stride = y.stride;
    a.channels = parameters_->channels(), a.n_state = parameters_->n_state(), a.tokens = int(y.rows);
    a.format = P.state, a.scales = state.scales(), a.key = state.key(), a.position = state.position();
    state.grow(a.tokens);
    const int groups = int(div_up(a.channels, lanes)), grain = a.tokens >= 8 ? 1 : 8;
    for_each(team_, int(div_up(groups, grain)), [&](int i, int) {
      ScanArgs part = a;
      part.begin = i * grain, part.end = part.begin + grain < groups ? part.begin + grain : groups;
      scan_as<P.state>(part);
    });
  }

  static std::string kernel_name() { return component_kernel_name("scan", std::string(name_of(P.state))); }

 private:
  const ScanParameters* parameters_;
  Team team_;
};

}  // namespace KLENS_NS
}  // namespace klens
