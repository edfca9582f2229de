// Arguments of the linears and of what makes their input rows. Conventions: kernel/args.hpp. Apart from it, so that the
// units of the linears, minutes of compilation per level, do not depend on the other kernels.
#pragma once

#include <klens/core/half.hpp>
#include <klens/core/team.hpp>
#include <klens/format/dline.hpp>

namespace klens {

/// A kernel, as tables hold it.
template <class Args>
using Kernel = void (*)(const Args&);

/// Activation rows of a linear, laid out once as the union of what its consumers read. stride: a multiple of 32, at least K,
/// best row_stride(K); elements K..stride are zero. f32 activations: `f32` alone, scale == nullptr. Quantized: integers in q8
/// or q16 (and as floats in `f32` for float and nf4 weights), dynamic scale per token.
struct ActRows {
  const float* f32 = nullptr;           // [tokens, stride]
  const std::int8_t* q8 = nullptr;      // [tokens, stride]  a8, in [-127, 127]
  const std::int16_t* q16 = nullptr;    // [tokens, stride]  a8 or a16 widened, each 4 inputs in the order 0 2 1 3
  const std::int32_t* sums = nullptr;   // [tokens, stride / 32]: sum of q over each 32 inputs
  const float* scale = nullptr;         // [tokens], nullptr for f32 activations
  const bf16* rounded = nullptr;        // [tokens, stride]  f32 rounded to bf16: linear_fast alone reads it
  std::int64_t stride = 0;
};

/// What a linear does to v = W x + bias before it is stored, in this order, each step optional and rounded once:
///   v = v * column_scale;   v = silu(v);   v = max(v, 0)^2;   v = v * gate, or silu(gate) * v;
///   v = v + LinearArgs::residual;   y = v;   absmax of v;   q = clamp(round_half_even(v / step), -127, 127)
struct Epilogue {
  const float* column_scale = nullptr;  // [round_up(rows, 16)] or nullptr: multipliers of outputs (muP)
  bool silu = false;
  bool relu2 = false;                   // max(v, 0)^2, NaN stays
  bool silu_of_gate = false;            // SwiGLU, where v is up_proj's: the bits of kernel/swiglu.hpp
  const float* gate = nullptr;          // [tokens, gate_stride] or nullptr
  std::int64_t gate_stride = 0;
  float* absmax = nullptr;              // [tokens, absmax_stride]: max |v| of each panel's 16 outputs, NaN left out
  std::int64_t absmax_stride = 0;
  float step = 0;                       // static scale of q (a8s), > 0; 0: no q
  std::int8_t* q8 = nullptr;            // [tokens, q_stride]; any output may be nullptr, y too where step > 0
  std::int16_t* q16 = nullptr;          // [tokens, q_stride], each 4 outputs in the order 0 2 1 3
  std::int32_t* sums = nullptr;         // [tokens, q_stride / 32]; then LinearArgs::begin is even: 2 panels a sum
  std::int64_t q_stride = 0;            // a multiple of 32; columns from round_up(rows, 16) on are left alone
};

/// y[t][n] = sum_k w[n][k] x[t][k] (+ bias[n]) (+ residual[t][n]); work item: a panel of 16 outputs.
struct LinearArgs {
  PackedMatrix w;
  ActRows x;
  int tokens = 0;
  const float* bias = nullptr;          // [round_up(rows, 16)] or nullptr
  const float* residual = nullptr;      // [tokens, y_stride] or nullptr; may be y itself
  const Epilogue* epilogue = nullptr;   // more than bias and residual
  float* y = nullptr;                   // [tokens, y_stride], columns 0..round_up(rows, 16) written
  std::int64_t y_stride = 0;
  int begin = 0, end = 0;               // panels
  void* scratch = nullptr;              // linear_scratch_bytes per thread, 64-byte aligned; needed for tokens > gemv_tokens,
                                        //   from gemm_least_tokens on it makes some formats faster (linear.hpp, gemm_from)
};

inline constexpr int gemv_tokens = 8;                       // up to here the weights are read once per token tile, in place
inline constexpr int gemm_least_tokens = 4;
inline constexpr int gemm_k_block = 512;                    // inputs expanded at a time
inline constexpr std::int64_t linear_scratch_bytes = 512 << 10;

/// How callers cut linears into tasks for threads: by panels, never by inputs. A task is worth `linear_grain`
/// multiply-adds, or, for a few tokens, `linear_bytes_grain` bytes of weights: 1.5 us of memory beside the 0.1 us of
/// handing a task over.
inline constexpr int linear_grain = 32768;
inline constexpr int linear_bytes_grain = 32768;

/// Tasks of linears of which the largest has `panels`: units of `unit` panels, as kernels take them, two where there are few.
struct LinearDeal { int panels, unit; Deal deal; };

/// `bytes` of weights and `multiply_adds` of all of them. Where there is not work for two tasks a thread, equal ones.
KLENS_INLINE void deal_out(LinearDeal& d, int threads, int tokens, std::int64_t panels, std::int64_t bytes, std::int64_t multiply_adds) {
  d.panels = int(panels), d.unit = panels < 8 * threads ? 2 : 4;
  while (panels > 65535 * std::int64_t(d.unit)) d.unit *= 2;
  const int units = int(div_up(panels, d.unit));
  const std::int64_t worth = tokens <= gemv_tokens ? bytes / linear_bytes_grain : multiply_adds / linear_grain;
  const std::int64_t equal = threads <= 1 || worth <= 1 ? 1 : worth < threads ? worth : threads;
  deal_out(d.deal, threads, units, int(div_up(units, worth < 2 * threads || threads <= 1 ? equal : worth)));
}

/// Task i of a matrix of at most d.panels: the same columns of matrices of as many. May be empty.
struct Share { int begin, end; };
KLENS_INLINE constexpr Share share_of(const LinearDeal& d, int panels, int i) {
  const auto at = [&](int j) KLENS_INLINE_LAMBDA {
    if (j == d.deal.tasks) return panels;
    const int begin = d.deal.begin[j] * d.unit;
    return panels == d.panels ? begin : int(std::int64_t(panels) * begin / d.panels) / d.unit * d.unit;
  };
  return {at(i), at(i + 1)};
}

/// Share i of `count` equal ones, in fours. May be empty.
KLENS_INLINE constexpr Share share_of(int panels, int i, int count) {
  const int begin = int(std::int64_t(panels) * i / count) & ~3, end = int(std::int64_t(panels) * (i + 1) / count) & ~3;
  return {begin, i + 1 == count ? panels : end};
}

/// q = clamp(round_half_even(x / s), -qmax, qmax), s = absmax / qmax, qmax = 127 (a8) or 32767 (a16); s = 0, q = 0 for a zero row.
struct QuantizeRowArgs {
  const float* x = nullptr;             // [tokens, x_stride]
  std::int64_t x_stride = 0;
  int cols = 0;                         // K; outputs are padded with zeros to `stride`
  Activation activation = Activation::a8;
  std::int8_t* q8 = nullptr;            // any output may be nullptr
  std::int16_t* q16 = nullptr;
  std::int32_t* sums = nullptr;
  float* f32 = nullptr;                 // float(q)
  float* scale = nullptr;               // [tokens]
  std::int64_t stride = 0;
  const float* absmax = nullptr;        // [tokens, absmax_stride]: max |x| of each 16 columns, from an Epilogue, or
  std::int64_t absmax_stride = 0;       //   nullptr: x is read for its maximum too
  int begin = 0, end = 0;               // tokens
};

/// y = x rounded to bf16, nearest even; columns cols .. stride become zeros.
struct RoundRowsArgs {
  const float* x = nullptr;             // [tokens, x_stride]
  std::int64_t x_stride = 0;
  int cols = 0;
  bf16* y = nullptr;                    // [tokens, stride]
  std::int64_t stride = 0;              // a multiple of 32
  int begin = 0, end = 0;               // tokens
};

}  // namespace klens
