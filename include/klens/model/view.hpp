// What the forward pass reads and writes, as plain structs: one set for every ISA level and for both ways (generic,
// specialised). Nothing here owns memory; model/model.hpp and model/session.hpp do.
//
// Buffers of the pass are rows of `tokens` with a stride of row_stride(width) floats. They start as zeros and
// every kernel writes whole 16-lane vectors whose padding is zero, so padding stays zero for good.
#pragma once

#include <klens/core/team.hpp>
#include <klens/dispatch/table.hpp>
#include <klens/kernel/args.hpp>
#include <klens/plan/plan.hpp>

#include <string_view>

namespace klens {

/// What linears may do to the bits. exact: the same on every machine and level (docs/numerics.md). fast: the faster
/// kernels of a level that has some, for the formats they serve; its bits are that level's own, still the same for any
/// cut of the tokens and any number of threads.
enum class Policy { exact, fast };

constexpr std::string_view name_of(Policy policy) { return policy == Policy::fast ? "fast" : "exact"; }

/// The kernel of the policy `fast` for a precision, or null: linear_of() then, under either policy.
KLENS_INLINE constexpr Kernel<LinearArgs> fast_linear_of(const KernelTable& table, const Precision& p) {
  return p.activation == Activation::f32 ? table.linear_fast[int(codec_of(p))] : nullptr;
}

/// A linear of the model. Its kernel follows from `w.precision` (linear_of, fast_linear_of).
struct SiteView {
  PackedMatrix w;
  const float* bias = nullptr;          // [round_up(rows, 16)] or nullptr
};

/// Parameters of one layer; vectors are padded with zeros to 16 (`p` below: round_up(inner, 16)).
struct LayerView {
  SiteView in_proj, x_proj, dt_proj, out_proj, gate_proj, up_proj, down_proj;
  const float* input_norm = nullptr;    // [hidden]
  const float* ffn_norm = nullptr;      // [hidden]
  const float* conv_weight = nullptr;   // [taps][p]
  const float* conv_bias = nullptr;     // [p] or nullptr
  const float* dt_norm = nullptr;       // [dt_rank]
  const float* b_norm = nullptr;        // [n_state]
  const float* c_norm = nullptr;        // [n_state]
  const float* dt_bias = nullptr;       // [p]
  const float* a2 = nullptr;            // [n_state][p]: -exp(A_log) * log2(e)
  const float* d = nullptr;             // [p]
  const float* attention_norm = nullptr;  // [p]
  const float* scan_norm = nullptr;     // [p]
  int window = 0;                       // 0: global
  int kv_source = 0;                    // layer whose K and V it reads; its own index: it makes them
};

KLENS_INLINE constexpr const SiteView& site_of(const LayerView& l, Role role) {
  switch (role) {
    case Role::x_proj: return l.x_proj;
    case Role::dt_proj: return l.dt_proj;
    case Role::out_proj: return l.out_proj;
    case Role::gate_proj: return l.gate_proj;
    case Role::up_proj: return l.up_proj;
    case Role::down_proj: return l.down_proj;
    default: return l.in_proj;
  }
}

struct ModelView {
  Shape shape;
  const LayerView* layers = nullptr;    // [shape.layers]
  PackedMatrix embedding;               // [vocab, hidden]
  SiteView head;                        // where tied: the embedding again
  const float* final_norm = nullptr;    // [hidden]
  const float* meta = nullptr;          // [shape.meta][row_stride(hidden)]
  float attention_scale = 0;            // 1 / sqrt(qk_dim)
};

/// State of one layer between calls. Layers that read another's K and V hold the same `kv` pointers as that layer.
struct LayerState {
  KvView kv;
  float* conv = nullptr;                // [taps - 1][p]
  float* scan = nullptr;                // [p / 16][n_state][16]
};

struct StateView {
  LayerState* layers = nullptr;         // [shape.layers]
  const float* rope = nullptr;          // [capacity][qk_dim]
  int capacity = 0;                     // positions, meta tokens counted, a multiple of 16
};

/// Floats of the state of one layer: its own K and V (if any), conv and scan state, each a multiple of 16.
struct StateExtent { std::int64_t k, v, conv, scan; };

KLENS_INLINE constexpr StateExtent state_extent(const Shape& s, bool own_kv, int capacity) {
  const std::int64_t p = round_up(s.inner, lanes), kv = own_kv ? std::int64_t(s.kv_heads) * capacity : 0;
  return {kv * s.qk_dim, kv * round_up(s.v_dim, lanes), (s.conv_taps - 1) * p, p * s.n_state};
}

/// Floats of the table of rotary angles.
KLENS_INLINE constexpr std::int64_t rope_floats(const Shape& s, int capacity) { return round_up(std::int64_t(capacity) * s.qk_dim, lanes); }

/// Where the buffers of a pass lie in one arena: offsets and strides in floats. A constant expression of the shape.
struct WorkspaceLayout {
  int tokens = 0, threads = 0, capacity = 0;
  std::int64_t hidden_stride = 0, in_stride = 0, inner_stride = 0, small_stride = 0, rank_stride = 0, state_stride = 0, ffn_stride = 0;
  std::int64_t act_stride = 0;          // widest input of any linear, for its quantized rows
  std::int64_t x = 0, normed = 0, in = 0, conv = 0, small = 0, rank = 0, b = 0, c = 0, dt = 0, attention = 0, scan = 0;
  std::int64_t gate = 0, up = 0;
  std::int64_t q8 = 0, q16 = 0, sums = 0, qf32 = 0, scale = 0;
  std::int64_t rounded = 0;             // rows of bf16, policy `fast`
  std::int64_t absmax = 0, absmax_stride = 0;   // of the rows of down_proj, a maximum per 16 columns
  std::int64_t attention_scratch = 0, attention_scratch_stride = 0, linear_scratch = 0;
  std::int64_t floats = 0;              // of the arena
};

namespace detail {
KLENS_INLINE constexpr std::int64_t widest(std::int64_t a, std::int64_t b) { return a > b ? a : b; }
KLENS_INLINE constexpr std::int64_t take(std::int64_t& used, std::int64_t floats) {
  const std::int64_t at = used;
  used += round_up(floats, lanes);
  return at;
}
}  // namespace detail

/// Layout for passes of up to `tokens` rows on up to `threads` threads, over a state of `capacity` positions.
KLENS_INLINE constexpr WorkspaceLayout workspace_layout(const Shape& s, int tokens, int threads, int capacity) {
  using detail::take;
  WorkspaceLayout w;
  w.tokens = tokens, w.threads = threads, w.capacity = capacity;
  w.hidden_stride = row_stride(s.hidden);
  // 16 columns more than its rows: the gate is read in whole vectors from wherever it starts.
  w.in_stride = row_stride(extent_of(s, true, Role::in_proj).rows + lanes);
  w.inner_stride = row_stride(s.inner);
  w.small_stride = row_stride(extent_of(s, true, Role::x_proj).rows + lanes);
  w.rank_stride = row_stride(s.dt_rank);
  w.state_stride = row_stride(s.n_state);
  w.ffn_stride = row_stride(s.ffn);
  w.act_stride = detail::widest(detail::widest(w.hidden_stride, w.inner_stride), detail::widest(w.ffn_stride, w.rank_stride));
  const std::int64_t t = tokens;
  std::int64_t used = 0;
  w.x = take(used, t * w.hidden_stride);
  w.normed = take(used, t * w.hidden_stride);
  w.in = take(used, t * w.in_stride);
  w.conv = take(used, t * w.inner_stride);
  w.small = take(used, t * w.small_stride);
  w.rank = take(used, t * w.rank_stride);
  w.b = take(used, t * w.state_stride);
  w.c = take(used, t * w.state_stride);
  w.dt = take(used, t * w.inner_stride);
  w.attention = take(used, t * w.inner_stride);
  w.scan = take(used, t * w.inner_stride);
  w.gate = take(used, t * w.ffn_stride);
  w.up = take(used, t * w.ffn_stride);
  w.q8 = take(used, div_up(t * w.act_stride, 4));
  w.q16 = take(used, div_up(t * w.act_stride, 2));
  w.sums = take(used, t * w.act_stride / row_unit);
  w.qf32 = take(used, t * w.act_stride);
  w.scale = take(used, t);
  w.rounded = take(used, div_up(t * w.act_stride, 2));
  w.absmax_stride = div_up(s.ffn, lanes);
  w.absmax = take(used, t * w.absmax_stride);
  w.attention_scratch_stride = round_up(attention_scratch(capacity), lanes);
  w.attention_scratch = take(used, threads * w.attention_scratch_stride);
  w.linear_scratch = take(used, threads * linear_scratch_bytes / 4);
  w.floats = used;
  return w;
}

struct Workspace {
  WorkspaceLayout at;
  float* base = nullptr;                // 64-byte aligned, at.floats floats, zero at first
};

/// One pass over `tokens` rows at absolute positions `position`.. (meta tokens count). Rows below shape.meta are meta tokens;
/// `ids` holds the tokens of the other rows, in order.
struct Pass {
  const ModelView* model = nullptr;
  const StateView* state = nullptr;
  const Workspace* work = nullptr;
  const KernelTable* table = nullptr;   // generic way only
  Team team;
  const std::int32_t* ids = nullptr;
  int position = 0, tokens = 0;
};

/// Three steps of a pass, as function pointers: the generic way (model/generic.hpp) or a specialised build's. `x`, the residual
/// stream, is work.base + work.at.x between the steps.
struct Program {
  Level level = Level::ref;
  bool specialised = false;
  const KernelTable* table = nullptr;   // kernels outside the decoder (vocab_kl); the generic way runs through it
  void (*embed)(const Pass&) = nullptr;                          // ids and meta tokens -> x
  void (*layers)(const Pass&, int begin, int end) = nullptr;     // x -> x through layers [begin, end)
  /// Final norm and logits of rows [begin, end) of x; the normed rows are left in work.at.normed (row 0: `begin`).
  void (*head)(const Pass&, int begin, int end, float* logits, std::int64_t stride) = nullptr;
  /// Specialised: what it was compiled for. A session refuses a model of another shape or other formats.
  std::uint64_t shape_hash = 0;
  const Precision* formats = nullptr;   // [sites], in the order of for_each_site
  int sites = 0;
  Policy policy = Policy::exact;        // fast: the generic way's alone (fast_program)
};

}  // namespace klens
