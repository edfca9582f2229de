// Argument structs of all kernels: aggregates shared by every ISA level, one line per field. The equations stand in the
// header of each kernel. Conventions, unless a field says otherwise:
//   * float, row-major, `*_stride` in elements; strides are multiples of row_unit where rows are linear inputs or outputs;
//   * a kernel writes whole 16-lane vectors: buffers are padded, parameters are zero in the padding, so padding stays 0;
//   * `begin`, `end`: the half-open range of work items this call does; the caller owns the threads;
//   * kernels allocate nothing, throw nothing, start no thread; scratch comes in the struct.
#pragma once

#include <klens/core/half.hpp>
#include <klens/format/dline.hpp>

namespace klens {

/// Activation rows of a linear, laid out once as the union of what its consumers read. stride: a multiple of
/// 32, at least K, best row_stride(K); elements K..stride are zero. f32 activations: `f32` alone, scale == nullptr. Quantized: integers in q8 or q16 (and
/// as floats in `f32` for float and nf4 weights), dynamic scale per token.
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
///   v = silu(v);   v = v * gate, or silu(gate) * v;   v = v + LinearArgs::residual;   y = v;   absmax of v;
///   q = clamp(round_half_even(v / step), -127, 127)
struct Epilogue {
  bool silu = false;
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
  void* scratch = nullptr;              // linear_scratch_bytes per thread, 64-byte aligned; needed for tokens > gemv_tokens
};

inline constexpr int gemv_tokens = 8;                       // up to here the weights are read once per token tile, in place
inline constexpr int gemm_k_block = 512;                    // inputs expanded at a time
inline constexpr std::int64_t linear_scratch_bytes = 512 << 10;

/// How callers cut linears into tasks for threads: by panels, never by inputs. A task is worth `linear_grain`
/// multiply-adds, or, for a few tokens, `linear_bytes_grain` bytes of weights: 3 us of memory beside the 0.1 us of
/// handing a task over.
inline constexpr int linear_grain = 32768;
inline constexpr int linear_bytes_grain = 65536;

/// Tasks for linears of `bytes` of weights in all, the largest of `panels`. Few tokens: up to 16 per thread, so that
/// unequal cores end together; many: 4, as each task streams the rows of x once.
KLENS_INLINE constexpr int linear_tasks(int threads, int tokens, std::int64_t panels, std::int64_t bytes,
                                        std::int64_t multiply_adds) {
  if (threads <= 1) return 1;
  const bool few = tokens <= gemv_tokens;
  const std::int64_t worth = few ? bytes / linear_bytes_grain : multiply_adds / linear_grain;
  const std::int64_t most = threads * (few ? 16 : 4), fours = div_up(panels, 4), tasks = worth < most ? worth : most;
  return int(tasks < 1 ? 1 : tasks < fours ? tasks : fours);
}

/// Share i of `count` of a matrix, a range of panels: in fours, as kernels take them. May be empty.
struct Share { int begin, end; };
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

/// y = silu(gate) * up, elementwise.
struct SwigluArgs {
  const float* gate = nullptr;
  const float* up = nullptr;
  float* y = nullptr;
  std::int64_t stride = 0;              // of all three
  int width = 0;                        // round_up(width, 16) written; padding of the inputs is zero
  int begin = 0, end = 0;               // tokens
};

/// Rotary embedding in place, half rotation: (x[i], x[i + d/2]) -> (x[i] c - x[i + d/2] s, x[i + d/2] c + x[i] s).
struct RopeArgs {
  float* x = nullptr;                   // [tokens, x_stride]: heads x head_dim columns
  std::int64_t x_stride = 0;
  int heads = 0, head_dim = 0;          // head_dim even
  const float* table = nullptr;         // [positions][head_dim]: head_dim/2 cosines, then as many sines
  int position = 0;                     // of token 0
  int begin = 0, end = 0;               // tokens
};

/// KV cache of one layer. K in blocks of 16 positions, lane = position; V one row per position.
struct KvView {
  float* k = nullptr;                   // [kv_heads][capacity / 16][qk_dim][16]
  float* v = nullptr;                   // [kv_heads][capacity][round_up(v_dim, 16)]
  int capacity = 0;                     // positions, a multiple of 16
  int kv_heads = 0, qk_dim = 0, v_dim = 0;
};

/// Stores k and v rows of positions position .. position + tokens - 1. Work item: one kv head.
struct KvAppendArgs {
  KvView cache;
  const float* k = nullptr;             // [tokens, stride], kv_heads x qk_dim columns, after RoPE
  const float* v = nullptr;             // [tokens, stride], kv_heads x v_dim columns
  std::int64_t stride = 0;              // of k and v (they are columns of one in_proj row)
  int tokens = 0, position = 0;
  int begin = 0, end = 0;
};

inline constexpr int query_tile = 8;    // queries of one head that share each load of K and V

/// out[t][h] = sum_j softmax_j(scale q[t][h] . k[j]) v[j] over visible j: j <= i, and (window == 0, or i - j <= window, or
/// j < meta), i = position + t. Work item: (head, tile of query_tile tokens) = head * div_up(tokens, query_tile) + tile.
struct AttentionArgs {
  const float* q = nullptr;             // [tokens, q_stride], heads x qk_dim columns, after RoPE
  std::int64_t q_stride = 0;
  KvView cache;                         // holds positions 0 .. position + tokens - 1
  int heads = 0;                        // query heads; head h reads kv head h / (heads / kv_heads)
  int window = 0, meta = 0;
  float scale = 0;                      // 1 / sqrt(qk_dim)
  int tokens = 0, position = 0;
  float* out = nullptr;                 // [tokens, out_stride], heads x v_dim columns
  std::int64_t out_stride = 0;
  float* scratch = nullptr;             // attention_scratch(capacity) floats per thread, 64-byte aligned
  int begin = 0, end = 0;
};

KLENS_INLINE constexpr std::int64_t attention_scratch(std::int64_t capacity) { return query_tile * (capacity + lanes); }

/// y = act(bias + sum_{k<4} weight[k] x[t - 3 + k]), causal and depthwise; lane = channel. Work item: 16 channels.
struct Conv1dArgs {
  const float* x = nullptr;             // [tokens, x_stride]
  std::int64_t x_stride = 0;
  const float* weight = nullptr;        // [taps][channels_padded], zero padded
  const float* bias = nullptr;          // [channels_padded] or nullptr
  float* state = nullptr;               // [taps - 1][channels_padded]: the last inputs, oldest first; read and updated
  float* y = nullptr;                   // [tokens, y_stride]
  std::int64_t y_stride = 0;
  int taps = 4;                         // 2 to 4
  int channels = 0;
  int tokens = 0;
  bool silu = true;
  int begin = 0, end = 0;               // groups of 16 channels
};

/// Mamba-1 selective scan; lane = channel, state in registers. Work item: 16 channels.
///   dt = softplus(dt_raw + dt_bias);  h[n] = exp2(dt A2[n]) h[n] + dt x B[n];  y = (D x + sum_n h[n] C[n]) * silu(z)
struct ScanArgs {
  const float* x = nullptr;             // [tokens, x_stride], after conv and SiLU
  std::int64_t x_stride = 0;
  const float* dt = nullptr;            // [tokens, dt_stride], before softplus
  std::int64_t dt_stride = 0;
  const float* dt_bias = nullptr;       // [channels_padded] or nullptr
  const float* b = nullptr;             // [tokens, b_stride], n_state columns
  std::int64_t b_stride = 0;
  const float* c = nullptr;             // [tokens, c_stride]
  std::int64_t c_stride = 0;
  const float* z = nullptr;             // [tokens, z_stride] or nullptr: no gate
  std::int64_t z_stride = 0;
  const float* a2 = nullptr;            // [n_state][channels_padded]: -exp(A_log) * log2(e)
  const float* d = nullptr;             // [channels_padded]
  float* state = nullptr;               // [channels_padded / 16][n_state][16]; read and updated
  float* y = nullptr;                   // [tokens, y_stride]
  std::int64_t y_stride = 0;
  int channels = 0, n_state = 16;
  int tokens = 0;
  int begin = 0, end = 0;               // groups of 16 channels
};

/// y[t] = row ids[t] of w, dequantized (one rounding: scale * value).
struct EmbedArgs {
  PackedMatrix w;                       // [vocabulary, hidden]
  const std::int32_t* ids = nullptr;
  float* y = nullptr;                   // [tokens, y_stride]
  std::int64_t y_stride = 0;
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
