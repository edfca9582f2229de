// Arguments of the kernels that mix tokens. Conventions: kernel/args.hpp; layouts of what they remember: format/state.hpp.
#pragma once

#include <klens/core/half.hpp>
#include <klens/format/dline.hpp>
#include <klens/format/state.hpp>

namespace klens {

/// KV cache of one layer, a format for both. K in blocks of 16 positions, lane = position; V one row per position.
///   f32, f16   the numbers; f16 clamped to +-65504
///   s8         codes q in [-127, 127]; the number is q * scale, one bf16 scale per position and head
///   s4         codes in [-7, 7], a scale per position, head and 32 columns; two columns d, d + 1 of K (16 positions in 16
///              bytes), and c, c + 16 of V (32 columns in 16 bytes), share a byte, the first in its low half
/// Scales per position, made when it is appended: nothing depends on later tokens. Scales per channel of K (KIVI) would
/// need values known before the text, which no plan carries; groups of 32 columns keep an outlier channel to its group.
struct KvView {
  void* k = nullptr;                    // [kv_heads][capacity / 16][kv_k_columns][16]
  void* v = nullptr;                    // [kv_heads][capacity][kv_v_columns]
  int capacity = 0;                     // positions, a multiple of 16
  int kv_heads = 0, qk_dim = 0, v_dim = 0;
  State format = State::f32;            // f32 f16 s8 s4
  bf16* k_scale = nullptr;              // [kv_heads][kv_groups(qk_dim)][capacity], s8 and s4
  bf16* v_scale = nullptr;              // [kv_heads][kv_groups(v_dim)][capacity]
};

/// The view of a cache in `memory`, 64-byte aligned.
KLENS_INLINE KvView kv_view(void* memory, State s, int kv_heads, int qk_dim, int v_dim, int capacity) {
  const KvLayout at = kv_layout(s, kv_heads, qk_dim, v_dim, capacity);
  unsigned char* p = static_cast<unsigned char*>(memory);
  KvView view{p + at.k, p + at.v, capacity, kv_heads, qk_dim, v_dim, s};
  if (!is_quantized_kv(s)) return view;
  view.k_scale = reinterpret_cast<bf16*>(p + at.k_scale), view.v_scale = reinterpret_cast<bf16*>(p + at.v_scale);
  return view;
}

/// Stores k and v rows of positions position .. position + tokens - 1. Work item: one kv head.
struct KvAppendArgs {
  KvView cache;
  const float* k = nullptr;             // [tokens, stride], kv_heads x qk_dim columns, after RoPE
  const float* v = nullptr;             // [tokens, stride], kv_heads x v_dim columns
  std::int64_t stride = 0;              // of k and v (they are columns of one in_proj row)
  int tokens = 0, position = 0;
  int begin = 0, end = 0;
};

inline constexpr int query_tile = 8;            // tokens whose queries share each load of K and V, with
inline constexpr int query_heads = 8;           //   up to as many query heads of a kv head
inline constexpr int attention_partition = 256; // positions whose softmax is one pass; partitions are merged in order
inline constexpr int attention_most_dim = 512;  // largest qk_dim and v_dim

/// out[t][h] = sum_j softmax_j(scale q[t][h] . k[j]) v[j] over visible j: j <= i, and (window == 0, or i - j <= window, or
/// j < meta), i = position + t. Work item, of attention_items():
///   partial == nullptr   (kv head, query_heads of its query heads, tile of query_tile tokens); writes out
///   else                 the same times partitions: item * partitions + partition; writes partial, for attention_merge
/// Same bits either way. Partitions are for few items on many threads: one token, long contexts.
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
  float* scratch = nullptr;             // attention_scratch floats per thread, 64-byte aligned
  int begin = 0, end = 0;
  float* partial = nullptr;             // [tokens][heads][partitions][attention_partial_stride]
  int partitions = 0;                   // attention_partitions(position + tokens), where partial is given
};

KLENS_INLINE constexpr int attention_items(int heads, int kv_heads, int tokens) {
  return kv_heads * int(div_up(heads / kv_heads, query_heads) * div_up(tokens, query_tile));
}
KLENS_INLINE constexpr int attention_partitions(int positions) { return int(div_up(positions, attention_partition)); }
/// Floats of one partial result: columns of o, then its largest score and its sum of exponentials.
KLENS_INLINE constexpr std::int64_t attention_partial_stride(int v_dim) { return round_up(v_dim, lanes) + lanes; }
KLENS_INLINE constexpr std::int64_t attention_partial_floats(int heads, int tokens, int v_dim, int positions) {
  return std::int64_t(heads) * tokens * attention_partitions(positions) * attention_partial_stride(v_dim);
}

/// Joins the partial results of attention: out[t][h] from partial[t][h][0 .. partitions). Work item: a row (token,
/// head) = token * heads + head.
struct AttentionMergeArgs {
  const float* partial = nullptr;       // [tokens][heads][partitions][attention_partial_stride]
  int partitions = 0, heads = 0, v_dim = 0;
  float* out = nullptr;                 // [tokens, out_stride]
  std::int64_t out_stride = 0;
  int begin = 0, end = 0;
};

/// Rows of an attention's scratch: query rows of an item, rows of a register tile. Strides are constants, so that every
/// address of a tile is one register and a constant, and odd numbers of cache lines, so that rows do not share a set of L1.
inline constexpr int attention_rows = query_tile * query_heads, attention_tile_rows = 8;
inline constexpr int attention_row_stride = attention_most_dim + lanes, attention_score_stride = attention_partition + lanes;
static_assert(attention_row_stride / lanes % 2 == 1 && attention_score_stride / lanes % 2 == 1);

/// Floats of scratch per thread, whatever the capacity: queries, scores, two pairs of softmax numbers per row; and for
/// one tile weights and sums.
inline constexpr std::int64_t attention_scratch_floats =
    attention_rows * (attention_row_stride + attention_score_stride + 2) + 2 * lanes +
    attention_tile_rows * (attention_row_stride + attention_score_stride);
KLENS_INLINE constexpr std::int64_t attention_scratch(std::int64_t /*capacity*/ = 0) { return attention_scratch_floats; }

/// y = act(bias + sum_{k<taps} weight[k] x[t - taps + 1 + k]), causal and depthwise; lane = channel. Every x, the
/// token's own too, is rounded to the format of the state first. Work item: 16 channels.
struct Conv1dArgs {
  const float* x = nullptr;             // [tokens, x_stride]
  std::int64_t x_stride = 0;
  const float* weight = nullptr;        // [taps][channels_padded], zero padded
  const float* bias = nullptr;          // [channels_padded] or nullptr
  void* state = nullptr;                // [taps - 1][channels_padded] of `format`, oldest first; read and updated
  float* y = nullptr;                   // [tokens, y_stride]
  std::int64_t y_stride = 0;
  int taps = 4;                         // 2 to 4
  int channels = 0;
  int tokens = 0;
  bool silu = true;
  int begin = 0, end = 0;               // groups of 16 channels
  State format = State::f32;            // f32, f16, s16, s8
  float* scales = nullptr;              // [taps - 1][channels / 16] of s16 and s8: conv_scales_offset behind state
  float* absmax = nullptr;              // [tokens, absmax_stride] or nullptr: max |y| of each 16 channels, NaN left out
  std::int64_t absmax_stride = 0;
};

/// LFM2's gated short convolution: y = c * (bias + sum_{k<taps} weight[k] v[t - taps + 1 + k]), v = b * x rounded to
/// the format of the state. Work item: 16 channels.
struct ShortConvArgs {
  const float* b = nullptr;             // [tokens, stride]: three columns of one in_proj row
  const float* c = nullptr;
  const float* x = nullptr;
  std::int64_t stride = 0;
  const float* weight = nullptr;        // as Conv1dArgs
  const float* bias = nullptr;
  void* state = nullptr;
  State format = State::f32;
  float* scales = nullptr;
  float* y = nullptr;                   // [tokens, y_stride]; may be b, c or x where the strides agree
  std::int64_t y_stride = 0;
  float* absmax = nullptr;
  std::int64_t absmax_stride = 0;
  int taps = 3;                         // 2 to 4
  int channels = 0;
  int tokens = 0;
  int begin = 0, end = 0;               // groups of 16 channels
};

/// Mamba-1 selective scan; lane = channel. Work item: 16 channels.
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
  void* state = nullptr;                // [channels_padded / 16][n_state][16] values of `format`; read and updated
  float* y = nullptr;                   // [tokens, y_stride]
  std::int64_t y_stride = 0;
  int channels = 0, n_state = 16;
  int tokens = 0;
  int begin = 0, end = 0;               // groups of 16 channels
  State format = State::f32;            // f32, f16, s16, s8; n_state <= scan_most_states in s16 and s8
  float* scales = nullptr;              // [channels_padded], s16 and s8 only; read and updated
  std::uint32_t key = 0;                // of the random rounding: the layer
  int position = 0;                     // absolute, of token 0
};

/// Mamba-2 (SSD), head h of group h / (heads / groups); lane = a column p of the head. Work item: (head, 16 columns)
/// = head * div_up(head_dim, 16) + p / 16.
///   dt = clamp(softplus(dt_raw + dt_bias), dt_min, dt_max);  S = exp2(dt a2) S + dt x B^T;  y = (S C + D x) * silu(z)
struct SsdArgs {
  const float* x = nullptr;             // [tokens, x_stride]: heads x head_dim columns, after conv and SiLU
  std::int64_t x_stride = 0;
  const float* dt = nullptr;            // [tokens, dt_stride]: heads columns, before softplus
  std::int64_t dt_stride = 0;
  const float* dt_bias = nullptr;       // [heads] or nullptr
  const float* a2 = nullptr;            // [heads]: -exp(A_log) * log2(e)
  const float* d = nullptr;             // [heads] or nullptr: no skip
  const float* b = nullptr;             // [tokens, b_stride]: groups x n_state columns
  std::int64_t b_stride = 0;
  const float* c = nullptr;             // [tokens, c_stride]: groups x n_state columns
  std::int64_t c_stride = 0;
  const float* z = nullptr;             // [tokens, z_stride]: heads x head_dim columns, or nullptr: no gate
  std::int64_t z_stride = 0;
  float dt_min = 0, dt_max = 3.4e38f;   // the model's time_step_limit
  void* state = nullptr;                // [heads][head_dim_padded / 16][n_state][16] values of `format`: S / decay;
  float* decay = nullptr;               // [heads][head_dim_padded / 16]: what the state is to be multiplied by; 0 at
                                        //   first means 1. Both read and updated
  float* y = nullptr;                   // [tokens, y_stride]: heads x head_dim columns, those alone are written
  std::int64_t y_stride = 0;
  int heads = 0, groups = 1;            // heads a multiple of groups
  int head_dim = 64, n_state = 128;
  int tokens = 0;
  int begin = 0, end = 0;               // (head, 16 columns)
  State format = State::f32;            // f32, f16, s16, s8; n_state <= scan_most_states in s16 and s8
  float* scales = nullptr;              // [heads][head_dim_padded], s16 and s8 only; read and updated
  std::uint32_t key = 0;                // of the random rounding: the layer
  int position = 0;                     // absolute, of token 0
  // Made before, by mamba3_inputs: [tokens, factor_stride], one column per head; else nullptr. Then dt, dt_bias, a2, d and the
  // limits of dt are not read:  S = decay S + step x B^T;  y = (S C + skip * skip_x) * silu(z)
  const float* step = nullptr;
  const float* shrink = nullptr;        // decay, at least 2^-90
  const float* skip = nullptr;
  std::int64_t factor_stride = 0;
  const float* skip_x = nullptr;        // [tokens, skip_stride]: heads x head_dim columns
  std::int64_t skip_stride = 0;
};

/// What SsdArgs reads in a layer of Mamba-3 (kernel/mamba3.hpp), from a row of in_proj. Work item: a head.
struct Mamba3Args {
  const float* x = nullptr;             // [tokens, stride], as all up to angle: heads x head_dim columns
  const float* b = nullptr;             // groups x n_state columns, after their norm
  const float* c = nullptr;
  const float* dt = nullptr;            // heads columns, before softplus
  const float* a = nullptr;             // heads columns, before what makes them rates
  const float* trap = nullptr;          // heads columns, before the sigmoid
  const float* angle = nullptr;         // angles columns, before tanh
  std::int64_t stride = 0;
  const float* dt_bias = nullptr;       // [heads]
  const float* b_bias = nullptr;        // [heads][n_state], first elements of all pairs, then second ones
  const float* c_bias = nullptr;
  const float* d = nullptr;             // [heads]
  float least_rate = 0;
  int heads = 0, groups = 1;            // heads a multiple of groups
  int head_dim = 0, n_state = 0;        // n_state even, at most scan_most_states
  int angles = 0;                       // at most n_state / 2
  int tokens = 0;
  // State, zero at first, read and updated.
  float* turns = nullptr;               // [heads][round_up(angles, 16)]: angles of the rotation, in turns, [-1/2, 1/2]
  float* gain = nullptr;                // [heads]
  float* last_key = nullptr;            // [heads][n_state], in the order of b_bias
  float* last_x = nullptr;              // [heads][head_dim]
  // Written.
  float* key = nullptr;                 // [tokens, key_stride]: SsdArgs::b of as many groups as heads
  float* query = nullptr;               // [tokens, key_stride]: SsdArgs::c
  std::int64_t key_stride = 0;
  float* delayed = nullptr;             // [tokens, delayed_stride]: SsdArgs::x
  std::int64_t delayed_stride = 0;
  float* step = nullptr;                // [tokens, factor_stride], as the next two
  float* shrink = nullptr;
  float* skip = nullptr;
  std::int64_t factor_stride = 0;
  int begin = 0, end = 0;               // heads
};

}  // namespace klens
