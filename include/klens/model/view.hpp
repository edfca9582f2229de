// What the forward pass reads and writes, as plain structs: one set for every ISA level and for both ways (generic,
// specialised). Nothing here owns memory; model/model.hpp and model/session.hpp do.
//
// Buffers of the pass are rows of `tokens` with a stride of row_stride(width) floats. They start as zeros and
// every kernel writes whole 16-lane vectors whose padding is zero, so padding stays zero for good.
#pragma once

#include <klens/core/team.hpp>
#include <klens/dispatch/table.hpp>
#include <klens/kernel/args.hpp>
#include <klens/plan/sites.hpp>

#include <initializer_list>
#include <string_view>
#include <utility>

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
  const float* scale = nullptr;         // [round_up(rows, 16)] or nullptr: multipliers of the outputs
};

/// Formats of the states of a layer.
struct StateFormats {
  State kv = State::f32, conv = State::f32, scan = State::f32;
  bool operator==(const StateFormats&) const = default;
};

static_assert(most_experts <= route_most_experts);

/// One expert of a layer.
struct ExpertView { SiteView gate_proj, up_proj, down_proj; };

/// Parameters of one layer; vectors are padded with zeros to 16 (`p` below: round_up(inner, 16)).
struct LayerView {
  SiteView in_proj, x_proj, dt_proj, out_proj, q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj;
  SiteView block_out, q_adapter_in, q_adapter_out, k_adapter_in, k_adapter_out, v_adapter_in, v_adapter_out;
  SiteView ffn_adapter_in, gate_adapter_out, up_adapter_out, shared_up, shared_down, latent_in, latent_out;
  const float* input_norm = nullptr;    // [hidden]
  const float* ffn_norm = nullptr;      // [hidden]; of the ffn in a shared block too
  const float* block_norm = nullptr;    // [2 hidden]: of a shared block's input
  const float* conv_weight = nullptr;   // [taps][round_up(conv_channels, 16)]
  const float* conv_bias = nullptr;     // [round_up(conv_channels, 16)] or nullptr
  const float* dt_norm = nullptr;       // [dt_rank]; nullptr: 1
  const float* b_norm = nullptr;        // [n_state]
  const float* c_norm = nullptr;        // [n_state]
  const float* b_bias = nullptr;        // of mamba3, as the next: Mamba3Args
  const float* c_bias = nullptr;
  const float* dt_bias = nullptr;       // [p]; mamba2 and mamba3, as the next two: [round_up(ssm_heads, 16)]
  const float* a2 = nullptr;            // [n_state][p]: -exp(A_log) * log2(e)
  const float* d = nullptr;             // [p]; with several scan heads these three have scan_channels() columns
  const float* attention_norm = nullptr;  // [p]
  const float* scan_norm = nullptr;     // [p]
  const float* gated_norm = nullptr;    // [p]: of mamba2 behind the gate, of mamba3 before it
  const float* q_norm = nullptr;        // [qk_dim]
  const float* k_norm = nullptr;        // [qk_dim]
  const float* router = nullptr;        // [hidden][round_up(experts, 16)]
  const float* router_bias = nullptr;   // [round_up(experts, 16)]
  const ExpertView* experts = nullptr;  // [experts]
  Mixer mixer = Mixer::hymba;
  Ffn ffn = Ffn::swiglu;
  StateFormats states;
  int window = 0;                       // 0: global
  int kv_source = 0;                    // layer whose K and V it reads; its own index: it makes them
  int block_source = -1;                // layer whose shared block it runs
};

KLENS_INLINE constexpr const SiteView& site_of(const LayerView& l, Role role) { return member_of(l, role); }
KLENS_INLINE constexpr const SiteView& site_of(const ExpertView& e, Role role) { return expert_member(e, role); }

struct ModelView {
  Shape shape;
  const LayerView* layers = nullptr;    // [shape.layers]
  PackedMatrix embedding;               // [vocab, hidden]
  SiteView head;                        // where tied: the embedding again
  const float* final_norm = nullptr;    // [hidden]
  const float* meta = nullptr;          // [shape.meta][row_stride(hidden)]
  float attention_scale = 0;            // 1 / sqrt(qk_dim)
};

/// State of one layer and sequence between calls. Layers that read another's K and V hold the same `kv` as that layer.
struct LayerState {
  KvView kv;
  void* conv = nullptr;                 // Conv1dArgs or ShortConvArgs, as its scales
  float* conv_scales = nullptr;
  void* scan = nullptr;                 // ScanArgs or SsdArgs, as the next two
  float* scan_scales = nullptr;
  float* decay = nullptr;
  float* carried = nullptr;             // of mamba3: mamba3_carried()
  State conv_format = State::f32, scan_format = State::f32;
};

/// One sequence.
struct StateView {
  LayerState* layers = nullptr;         // [shape.layers]
  const float* rope = nullptr;          // [capacity][rotary_dim]
  int capacity = 0;                     // positions, meta tokens counted, a multiple of 16
};

/// Bytes of the states of one layer: its own K and V (if any), conv and scan state, each a multiple of 64.
struct StateExtent {
  std::int64_t kv = 0, conv = 0, scan = 0;
  KLENS_INLINE constexpr std::int64_t bytes() const { return kv + conv + scan; }
};

KLENS_INLINE constexpr StateExtent state_extent(const Shape& s, Mixer mixer, bool own_kv, const StateFormats& f, int capacity) {
  StateExtent e;
  if (own_kv && has_attention(mixer)) e.kv = kv_bytes_per_layer(f.kv, s.kv_heads, s.qk_dim, s.v_dim, capacity);
  if (has_conv(mixer)) e.conv = conv_state_bytes(f.conv, conv_channels(s, mixer), s.conv_taps);
  e.scan = scan_bytes(s, mixer, f.scan);
  return e;
}

/// The states of a layer in `memory` (64-byte aligned, zero at first); `kv` where it reads another layer's.
KLENS_INLINE LayerState layer_state(unsigned char* memory, const Shape& s, Mixer mixer, bool own_kv, const StateFormats& f,
                                    int capacity, const KvView& kv) {
  const StateExtent e = state_extent(s, mixer, own_kv, f, capacity);
  LayerState l;
  l.conv_format = f.conv, l.scan_format = f.scan;
  l.kv = own_kv && has_attention(mixer) ? kv_view(memory, f.kv, s.kv_heads, s.qk_dim, s.v_dim, capacity) : kv;
  unsigned char* at = memory + e.kv;
  const auto floats_at = [&at](std::int64_t offset) { return reinterpret_cast<float*>(at + offset); };
  if (has_conv(mixer))
    l.conv = at, l.conv_scales = floats_at(conv_scales_offset(f.conv, conv_channels(s, mixer), s.conv_taps));
  at += e.conv;
  if (has_scan(mixer)) l.scan = at, l.scan_scales = floats_at(scan_scales_at(f.scan, scan_channels(s), s.n_state));
  if (has_ssd_state(mixer)) {
    const int width = s.inner / s.ssm_heads;
    l.scan = at, l.decay = floats_at(ssd_decays_at(f.scan, s.ssm_heads, width, s.n_state));
    l.scan_scales = floats_at(ssd_scales_at(f.scan, s.ssm_heads, width, s.n_state));
    if (mixer == Mixer::mamba3) l.carried = floats_at(round_up(ssd_state_bytes(f.scan, s.ssm_heads, width, s.n_state), 64));
  }
  return l;
}

/// Floats of the table of rotary angles.
KLENS_INLINE constexpr std::int64_t rope_floats(const Shape& s, int capacity) {
  return round_up(std::int64_t(capacity) * s.rotary_dim, lanes);
}

/// Columns of a row of `in`: what a mixer's projections of the normed input leave. Heads first (q, k, v, each from a multiple
/// of 16 on where it has a linear of its own), then in_proj's.
struct InColumns { int k = 0, v = 0, in_proj = 0, total = 0; };

KLENS_INLINE constexpr InColumns in_columns(const Shape& s, Mixer mixer, bool own_kv) {
  InColumns at;
  const bool apart = has_qkvo(mixer);
  const auto width = [apart](int columns) { return apart ? int(round_up(columns, lanes)) : columns; };
  if (has_attention(mixer)) {
    at.k = width(s.heads * s.qk_dim);
    at.v = at.k + (own_kv ? width(s.kv_heads * s.qk_dim) : 0);
    at.in_proj = at.v + (own_kv ? width(s.kv_heads * s.v_dim) : 0);
  }
  at.total = at.in_proj;
  if (mixer == Mixer::hymba) at.in_proj = 0, at.total += 2 * s.inner;
  else if (mixer == Mixer::conv_attention) at.in_proj = 0;
  else if (has_in_proj(mixer)) at.total += extent_of(s, mixer, own_kv, Role::in_proj).rows;
  return at;
}

/// Where the buffers of a pass lie in one arena: offsets and strides in floats. A constant expression of the shape and the
/// kinds of the layers.
struct WorkspaceLayout {
  int tokens = 0, threads = 0, capacity = 0;
  std::int64_t hidden_stride = 0, in_stride = 0, inner_stride = 0, conv_stride = 0, heads_stride = 0, small_stride = 0;
  std::int64_t rank_stride = 0, state_stride = 0, ffn_stride = 0;
  std::int64_t act_stride = 0;          // widest input of any linear, for its quantized rows
  std::int64_t x = 0, normed = 0, in = 0, conv = 0, small = 0, rank = 0, b = 0, c = 0, dt = 0, attention = 0, scan = 0;
  std::int64_t gate = 0, up = 0;
  std::int64_t q8 = 0, q16 = 0, sums = 0, qf32 = 0, scale = 0;
  std::int64_t rounded = 0;             // rows of bf16, policy `fast`
  std::int64_t absmax = 0, absmax_stride = 0;   // of the rows of down_proj or x_proj, a maximum per 16 columns
  std::int64_t attention_scratch = 0, attention_scratch_stride = 0, linear_scratch = 0;
  std::int64_t partial = 0;             // of attention in partitions; several threads only
  std::int64_t logits = 0, chosen = 0, weight = 0;   // RouteArgs
  std::int64_t routed_rows = 0, routed_weight = 0;   // of the tokens of one expert
  std::int64_t gathered = 0, expert = 0;             // their rows of `normed` or `latent`, and what the expert gives
  std::int64_t latent = 0, latent_sum = 0, expert_stride = 0;
  // Shared blocks: the embedding's output; [x | embedding] and its norm; the block's output on its way; of adapters q, k, v.
  std::int64_t first = 0, pair = 0, pair_normed = 0, block = 0, adapter = 0;
  std::int64_t pair_stride = 0, adapter_stride = 0;
  std::int64_t heads_x = 0, heads_dt = 0, heads_z = 0, heads_y = 0, heads_scan_stride = 0;   // several scan heads: run_scan_heads
  std::int64_t key = 0, query = 0, delayed = 0, step = 0, shrink = 0, skip = 0, key_stride = 0, factor_stride = 0;   // Mamba3Args
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

/// Layout for passes of up to `tokens` rows on up to `threads` threads, over states of `capacity` positions.
KLENS_INLINE constexpr WorkspaceLayout workspace_layout(const Shape& s, const Uses& uses, int tokens, int threads, int capacity) {
  using detail::take;
  using detail::widest;
  WorkspaceLayout w;
  w.tokens = tokens, w.threads = threads, w.capacity = capacity;
  w.hidden_stride = row_stride(s.hidden);
  // 16 columns more than its rows: a gate is read in whole vectors from wherever it starts.
  std::int64_t columns = 0;
  for (const auto& [used, mixer] : {std::pair{uses.hymba, Mixer::hymba}, {uses.scan, Mixer::mamba}, {uses.ssd, Mixer::mamba2},
                                    {uses.qkvo, Mixer::attention}, {uses.short_conv, Mixer::short_conv},
                                    {uses.ssd && uses.qkvo, Mixer::parallel}, {uses.scan && uses.block, Mixer::block_mamba},
                                    {uses.ssd && uses.block, Mixer::block_mamba2}, {uses.conv_attention, Mixer::conv_attention},
                                    {uses.mamba3, Mixer::mamba3}})
    if (used) columns = widest(columns, in_columns(s, mixer, true).total);
  w.in_stride = row_stride(columns + lanes);
  w.inner_stride = row_stride(s.inner);
  w.conv_stride = row_stride(conv_channels(s, uses.ssd ? Mixer::mamba2 : uses.conv() ? Mixer::mamba : Mixer::none));
  w.heads_stride = row_stride(s.heads * s.v_dim);
  w.small_stride = row_stride(extent_of(s, Mixer::mamba, true, Role::x_proj).rows + lanes);
  w.rank_stride = row_stride(s.dt_rank);
  w.state_stride = row_stride(s.n_state);
  w.ffn_stride = row_stride(widest(widest(s.ffn, s.shared_ffn), s.expert_ffn));
  w.expert_stride = row_stride(widest(s.hidden, s.expert_latent));
  w.act_stride = widest(widest(w.hidden_stride, w.inner_stride), widest(widest(w.ffn_stride, w.rank_stride), w.heads_stride));
  if (uses.scan && s.scan_heads > 1) w.heads_scan_stride = row_stride(scan_channels(s)), w.act_stride = widest(w.act_stride, w.heads_scan_stride);
  w.act_stride = widest(w.act_stride, w.expert_stride);
  if (uses.block) {
    w.pair_stride = row_stride(2 * std::int64_t(s.hidden)), w.adapter_stride = row_stride(s.adapter_rank);
    w.act_stride = widest(w.act_stride, widest(w.pair_stride, w.adapter_stride));
  }
  const std::int64_t t = tokens;
  std::int64_t used = 0;
  w.x = take(used, t * w.hidden_stride);
  w.normed = take(used, t * w.hidden_stride);
  w.in = take(used, t * w.in_stride);
  if (uses.conv()) w.conv = take(used, t * w.conv_stride);
  if (uses.scan) {
    w.small = take(used, t * w.small_stride);
    w.rank = take(used, t * w.rank_stride);
    w.b = take(used, t * w.state_stride);
    w.c = take(used, t * w.state_stride);
    w.dt = take(used, t * w.inner_stride);
  }
  if (uses.attention) w.attention = take(used, t * w.heads_stride);
  if (uses.conv() || uses.mamba3) w.scan = take(used, t * w.inner_stride);
  if (uses.mamba3) {
    w.key_stride = round_up(std::int64_t(s.ssm_heads) * s.n_state, lanes), w.factor_stride = round_up(s.ssm_heads, lanes);
    w.key = take(used, t * w.key_stride);
    w.query = take(used, t * w.key_stride);
    w.delayed = take(used, t * w.inner_stride);
    w.step = take(used, t * w.factor_stride);
    w.shrink = take(used, t * w.factor_stride);
    w.skip = take(used, t * w.factor_stride);
  }
  if (uses.ffn || uses.experts) {
    w.gate = take(used, t * w.ffn_stride);
    w.up = take(used, t * w.ffn_stride);
  }
  if (uses.block) {
    w.first = take(used, t * w.hidden_stride);
    w.pair = take(used, t * w.pair_stride);
    w.pair_normed = take(used, t * w.pair_stride);
    w.block = take(used, t * w.hidden_stride);
    w.adapter = take(used, 3 * t * w.adapter_stride);
  }
  if (w.heads_scan_stride > 0) {
    w.heads_x = take(used, t * w.heads_scan_stride);
    w.heads_dt = take(used, t * w.heads_scan_stride);
    w.heads_z = take(used, t * w.heads_scan_stride);
    w.heads_y = take(used, t * w.heads_scan_stride);
  }
  if (uses.experts) {
    w.logits = take(used, t * round_up(s.experts, lanes));
    w.chosen = take(used, t * s.experts_used);
    w.weight = take(used, t * round_up(s.experts_used, lanes));
    w.routed_rows = take(used, t);
    w.routed_weight = take(used, t);
    w.gathered = take(used, t * w.expert_stride);
    w.expert = take(used, t * w.expert_stride);
    if (s.expert_latent > 0) w.latent = take(used, t * w.expert_stride), w.latent_sum = take(used, t * w.expert_stride);
  }
  w.absmax_stride = div_up(widest(w.ffn_stride, s.inner), lanes);
  w.absmax = take(used, t * w.absmax_stride);
  w.q8 = take(used, div_up(t * w.act_stride, 4));
  w.q16 = take(used, div_up(t * w.act_stride, 2));
  w.sums = take(used, t * w.act_stride / row_unit);
  w.qf32 = take(used, t * w.act_stride);
  w.scale = take(used, t);
  w.rounded = take(used, div_up(t * w.act_stride, 2));
  if (uses.attention) {
    w.attention_scratch_stride = round_up(attention_scratch(), lanes);
    w.attention_scratch = take(used, threads * w.attention_scratch_stride);
    if (threads > 1)
      w.partial = take(used, attention_partial_floats(s.heads, tokens < query_tile ? tokens : query_tile, s.v_dim, capacity));
  }
  w.linear_scratch = take(used, threads * linear_scratch_bytes / 4);
  w.floats = used;
  return w;
}

struct Workspace {
  WorkspaceLayout at;
  float* base = nullptr;                // 64-byte aligned, at.floats floats, zero at first
};

/// Rows [row, row + tokens) of a pass: one sequence, at absolute positions position .. (meta tokens count). Rows below
/// shape.meta are meta tokens; `ids` holds the tokens of the other rows, in order.
struct Span {
  const StateView* state = nullptr;
  const std::int32_t* ids = nullptr;
  int row = 0, tokens = 0, position = 0;
};

/// One pass over `tokens` rows: those of its spans, one after the other, each of another sequence. Linears and row-wise
/// kernels see one matrix; convolutions, scans and attention run per span.
struct Pass {
  const ModelView* model = nullptr;
  const Workspace* work = nullptr;
  const KernelTable* table = nullptr;   // generic way only
  Team team;
  const Span* spans = nullptr;
  int span_count = 0;
  int tokens = 0;
  std::int64_t* routed = nullptr;       // [layers][experts]: tokens of each expert are added, where not null
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
