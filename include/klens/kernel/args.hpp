// Argument structs of all kernels: aggregates shared by every ISA level, one line per field. The equations stand in the
// header of each kernel. Conventions, unless a field says otherwise:
//   * float, row-major, `*_stride` in elements; strides are multiples of row_unit where rows are linear inputs or outputs;
//   * a kernel writes whole 16-lane vectors: buffers are padded, parameters are zero in the padding, so padding stays 0;
//   * `begin`, `end`: the half-open range of work items this call does; the caller owns the threads;
//   * kernels allocate nothing, throw nothing, start no thread; scratch comes in the struct.
#pragma once

#include <klens/kernel/linear_args.hpp>
#include <klens/kernel/sequence_args.hpp>

namespace klens {

/// y = x * (1 / sqrt(mean(x^2) + eps)) * weight, over `width` columns of each token; weight nullptr means 1.
struct RmsNormArgs {
  const float* x = nullptr;
  std::int64_t x_stride = 0;
  const float* weight = nullptr;        // [round_up(width, 16)], zero padded
  float* y = nullptr;                   // [tokens, y_stride], round_up(width, 16) written; may be x when the columns are its own
  std::int64_t y_stride = 0;
  int width = 0;
  float eps = 0;
  int begin = 0, end = 0;               // tokens
};

/// rms_norm of each head of a row by itself: heads x head_dim columns, one weight for all heads (the q and k of LFM2).
struct HeadNormArgs {
  float* x = nullptr;                   // [tokens, x_stride], in place
  std::int64_t x_stride = 0;
  int heads = 0, head_dim = 0;          // any head_dim; nothing behind heads * head_dim columns is touched
  const float* weight = nullptr;        // [round_up(head_dim, 16)] or nullptr
  float eps = 0;
  int begin = 0, end = 0;               // tokens
};

/// Mamba-2's norm with a gate, over each `group` columns by themselves:
///   y = rms_norm(x * silu(z)) * weight, or with norm_before_gate y = rms_norm(x) * weight * silu(z)
struct GatedNormArgs {
  const float* x = nullptr;             // [tokens, x_stride]
  std::int64_t x_stride = 0;
  const float* z = nullptr;             // [tokens, z_stride]
  std::int64_t z_stride = 0;
  const float* weight = nullptr;        // [round_up(width, 16)], zero padded, or nullptr
  float* y = nullptr;                   // [tokens, y_stride]; may be x or z
  std::int64_t y_stride = 0;
  int width = 0, group = 0;             // group divides width; 0: width
  bool norm_before_gate = false;
  float eps = 0;
  int begin = 0, end = 0;               // tokens
};

/// The rows of gated_norm, quantized. As NormQuantizeArgs; norm.y is needed: the row is made there first.
struct GatedNormQuantizeArgs {
  GatedNormArgs norm;
  QuantizeRowArgs row;
};

/// The rows of rms_norm, quantized: what RmsNormArgs and then QuantizeRowArgs would give, in one call per row.
struct NormQuantizeArgs {
  RmsNormArgs norm;                     // y may be nullptr: nobody reads the floats. begin and end count for both
  QuantizeRowArgs row;                  // x, x_stride, cols, absmax, begin and end are not read: norm says them
};

/// y = 1/2 (rms_norm(a) * wa + rms_norm(b) * wb): the fusion of Hymba's two paths.
struct MeanNormArgs {
  const float* a = nullptr;
  const float* b = nullptr;
  std::int64_t stride = 0;              // of a, b and y
  const float* wa = nullptr;            // [round_up(width, 16)]
  const float* wb = nullptr;
  float* y = nullptr;
  int width = 0;
  float eps = 0;
  int begin = 0, end = 0;               // tokens
};

/// The rows of mean_norm, quantized. As NormQuantizeArgs: norm.y may be nullptr.
struct MeanNormQuantizeArgs {
  MeanNormArgs norm;
  QuantizeRowArgs row;
};

/// y = silu(gate) * up, elementwise.
struct SwigluArgs {
  const float* gate = nullptr;
  const float* up = nullptr;
  float* y = nullptr;
  std::int64_t stride = 0;              // of all three
  int width = 0;                        // round_up(width, 16) written; padding of the inputs is zero
  int begin = 0, end = 0;               // tokens
};

inline constexpr int route_most_experts = 512;

/// Router of a mixture of experts: logits, the `used` greatest of them (ties: lowest index first), and their weights. With groups:
/// scores are sigmoids, experts are chosen by score + bias, from the groups_used groups whose two best add up to most.
struct RouteArgs {
  const float* x = nullptr;             // [tokens, x_stride]
  std::int64_t x_stride = 0;
  int hidden = 0, experts = 0, used = 0;
  bool softmax_of_all = false;          // weights: softmax over all experts; else over the chosen
  int groups = 0, groups_used = 0;      // of experts / groups each, two or more where there are several; 0: by softmax
  bool normed = false;                  // with groups: weight = score / (1e-20 + sum of the chosen scores), before
  float scale = 1;                      // with groups: what multiplies them
  const float* bias = nullptr;          // with groups: [round_up(experts, 16)]
  const float* router = nullptr;        // [hidden][round_up(experts, 16)], padding zero
  float* logits = nullptr;              // [tokens][round_up(experts, 16)]
  std::int32_t* chosen = nullptr;       // [tokens][used], ascending
  float* weight = nullptr;              // [tokens][round_up(used, 16)], padding zero
  int begin = 0, end = 0;               // tokens
};

/// x[row[i]] += weight[i] y[i], rounded once: rows of some tokens into those of all. Rows differ.
struct AddRowsArgs {
  const float* y = nullptr;             // [end, stride]
  float* x = nullptr;                   // [tokens, stride]
  std::int64_t stride = 0;
  const std::int32_t* row = nullptr;
  const float* weight = nullptr;
  int width = 0;                        // round_up(width, 16) written
  int begin = 0, end = 0;               // i
};

/// Rotary embedding in place, half rotation over the first d = rotary_dim columns of every head:
/// (x[i], x[i + d/2]) -> (x[i] c - x[i + d/2] s, x[i + d/2] c + x[i] s).
struct RopeArgs {
  float* x = nullptr;                   // [tokens, x_stride]: heads x head_dim columns
  std::int64_t x_stride = 0;
  int heads = 0, head_dim = 0;          // head_dim even
  const float* table = nullptr;         // [positions][d]: d/2 cosines, then as many sines
  int position = 0;                     // of token 0
  int begin = 0, end = 0;               // tokens
  int rotary_dim = 0;                   // even, <= head_dim; 0: head_dim
};

/// y = H x, H the Hadamard matrix of `width` (kernel/hadamard.hpp), times 1 / sqrt(width) where `orthonormal`.
struct HadamardArgs {
  const float* x = nullptr;             // [tokens, x_stride]
  std::int64_t x_stride = 0;
  float* y = nullptr;                   // [tokens, y_stride], may be x; exactly `width` columns written
  std::int64_t y_stride = 0;
  int width = 0;                        // hadamard_plan(width).order() > 0
  bool orthonormal = true;
  float* absmax = nullptr;              // [tokens, absmax_stride] or nullptr: max |y| of each 16 columns, NaN left out
  std::int64_t absmax_stride = 0;
  float* scratch = nullptr;             // hadamard_scratch floats per thread, 64-byte aligned
  int begin = 0, end = 0;               // tokens
};

inline constexpr int hadamard_scratch = 2 * 32768;  // two rows of the widest transform

/// What one row of logits says: maximum, log of the sum of exponentials, argmax, and the target's -log p.
struct RowStats {
  double log_sum;                       // log sum_i exp(z_i / T)
  double nll;                           // log_sum - z_target / T; 0 where target < 0
  float top;                            // max z_i
  std::int32_t argmax;                  // lowest id among equals
};

/// Softmax of rows of logits at a temperature: statistics, and where asked log p or p.
struct SoftmaxArgs {
  const float* z = nullptr;             // [tokens, stride]
  std::int64_t stride = 0;
  int vocab = 0;
  float temperature = 1;                // > 0
  const std::int32_t* targets = nullptr;  // [tokens], -1: none; nullptr: none
  RowStats* stats = nullptr;            // [tokens]
  float* log_p = nullptr;               // [tokens, y_stride] or nullptr; may be z
  float* p = nullptr;                   // [tokens, y_stride] or nullptr; may be z
  std::int64_t y_stride = 0;            // round_up(vocab, 16) written: log p -infinity, p 0 in the padding
  int begin = 0, end = 0;               // tokens
};

/// y[t] = row ids[t] of w, dequantized (one rounding: scale * value), then times `scale` where that is not 1.
struct EmbedArgs {
  PackedMatrix w;                       // [vocabulary, hidden]
  const std::int32_t* ids = nullptr;
  float* y = nullptr;                   // [tokens, y_stride]
  std::int64_t y_stride = 0;
  float scale = 1;
  int begin = 0, end = 0;               // tokens
};

/// Per-token comparison of two logit rows, p = softmax(zp) the reference, q = softmax(zq). Natural logarithms, double.
struct TokenStats {
  double kl_pq, kl_qp;                  // KL(p||q), KL(q||p), never negative, 0 for equal rows
  double sum_z2, sum_d2;                // sum zp^2, sum (zp - zq)^2
  double sum_zc2, sum_dc2;              // the same after subtracting each row's mean over the vocabulary
  double nll_p, nll_q;                  // -log softmax at the target (0 where target < 0)
  std::int32_t top_p, top_q;            // argmax, lowest id among equals
};

struct VocabKlArgs {
  const float* zp = nullptr;            // [tokens, stride]
  const float* zq = nullptr;            // may be zp: then all differences are 0
  std::int64_t stride = 0;
  int vocab = 0;
  const std::int32_t* targets = nullptr;  // [tokens], -1: none
  TokenStats* out = nullptr;            // [tokens]
  int begin = 0, end = 0;               // tokens
};

}  // namespace klens
