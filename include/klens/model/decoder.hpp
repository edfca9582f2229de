// The forward pass of Hymba, written once over an `Ops` policy: TableOps calls through a KernelTable (any formats, chosen at
// run time); a specialised build brings FixedOps<Plan>, whose formats and shapes are constants. Both run the same kernels in
// the same order on the same buffers, hence the same bits.
//
//   x <- x + out_proj( 1/2 (norm(attention) + norm(scan)) ),  x <- x + down( silu(gate n) * up n ),  n = norm(x)
//   in_proj rows: q | k | v | x | gate, without k and v where K and V are another layer's (arXiv 2411.13676)
//
// An Ops has: shape(), window(l), kv_source(l), precision(l, role, site), linear(l, role, site, args), and one member per
// kernel. `l` is an int or a std::integral_constant: FixedOps passes constants and its branches fold away.
// Nothing here allocates, and no arithmetic on values is done here: it is in the kernels.
#pragma once

#include <klens/model/view.hpp>

namespace klens::inline KLENS_NS {

/// Kernels by table, formats by site.
struct TableOps {
  const ModelView* model;
  const KernelTable* table;

  KLENS_INLINE const Shape& shape() const { return model->shape; }
  KLENS_INLINE int window(int l) const { return model->layers[l].window; }
  KLENS_INLINE int kv_source(int l) const { return model->layers[l].kv_source; }
  KLENS_INLINE Precision precision(int, Role, const SiteView& site) const { return site.w.precision; }
  KLENS_INLINE void linear(int, Role, const SiteView& site, const LinearArgs& a) const { linear_of(*table, site.w.precision)(a); }
  KLENS_INLINE void quantize_row(const QuantizeRowArgs& a) const { table->quantize_row(a); }
  KLENS_INLINE void rms_norm(const RmsNormArgs& a) const { table->rms_norm(a); }
  KLENS_INLINE void mean_norm(const MeanNormArgs& a) const { table->mean_norm(a); }
  KLENS_INLINE void swiglu(const SwigluArgs& a) const { table->swiglu(a); }
  KLENS_INLINE void rope(const RopeArgs& a) const { table->rope(a); }
  KLENS_INLINE void kv_append(const KvAppendArgs& a) const { table->kv_append(a); }
  KLENS_INLINE void attention(const AttentionArgs& a) const { table->attention(a); }
  KLENS_INLINE void conv1d(const Conv1dArgs& a) const { table->conv1d(a); }
  KLENS_INLINE void scan(const ScanArgs& a) const { table->scan(a); }
  KLENS_INLINE void embed(const EmbedArgs& a) const { table->embed(a); }
};

namespace decoder {

/// body(begin, end, thread) over [0, items), in blocks of at least `grain`; four blocks per thread even out unequal cores.
template <class Body>
KLENS_INLINE void split(const Team& team, int items, int grain, const Body& body) {
  if (team.threads <= 1 || items <= grain) {
    if (items > 0) body(0, items, 0);
    return;
  }
  const int share = int(div_up(items, team.threads * 4)), block = share > grain ? share : grain;
  for_each(team, int(div_up(items, block)), [&](int i, int thread) {
    const int begin = i * block, end = begin + block;
    body(begin, end < items ? end : items, thread);
  });
}

inline constexpr int token_grain = 8;        // tokens per block of the row-wise kernels: some 10 us of work
inline constexpr int linear_grain = 32768;   // multiply-adds per block of a linear: below, waking a thread costs more

/// The input rows of one or more linears: f32 as they are, and quantized once per activation format that a reader asks for.
struct Input {
  const float* x;
  std::int64_t stride;
  int cols;
  Activation held = Activation::f32;   // what the quantized buffers hold now
  bool held_float = false;             // in which of the two shapes
};

/// Rows in the format a site of precision `p` reads.
template <class Ops>
KLENS_INLINE ActRows rows_for(const Ops& ops, const Pass& pass, Input& in, const Precision& p) {
  ActRows rows;
  rows.stride = in.stride;
  if (p.activation == Activation::f32) {
    rows.f32 = in.x;
    return rows;
  }
  const WorkspaceLayout& at = pass.work->at;
  float* base = pass.work->base;
  const bool as_float = dot_kind_of(p) == DotKind::f32, byte = p.activation != Activation::a16;
  auto* q8 = reinterpret_cast<std::int8_t*>(base + at.q8);
  auto* q16 = reinterpret_cast<std::int16_t*>(base + at.q16);
  auto* sums = reinterpret_cast<std::int32_t*>(base + at.sums);
  if (in.held != p.activation || in.held_float != as_float) {
    split(pass.team, pass.tokens, token_grain, [&](int begin, int end, int) {
      QuantizeRowArgs a;
      a.x = in.x, a.x_stride = in.stride, a.cols = in.cols, a.activation = p.activation, a.stride = in.stride;
      a.q8 = as_float || !byte ? nullptr : q8, a.q16 = as_float ? nullptr : q16, a.sums = as_float ? nullptr : sums;
      a.f32 = as_float ? base + at.qf32 : nullptr, a.scale = base + at.scale;
      a.begin = begin, a.end = end;
      ops.quantize_row(a);
    });
    in.held = p.activation, in.held_float = as_float;
  }
  if (as_float) rows.f32 = base + at.qf32;
  else rows.q8 = byte ? q8 : nullptr, rows.q16 = q16, rows.sums = sums;
  rows.scale = base + at.scale;
  return rows;
}

/// y = W x (+ residual) at one site. `first` row of `in` is row 0; y has `stride`.
template <class Ops, class Layer>
KLENS_INLINE void project(const Ops& ops, const Pass& pass, Layer l, Role role, const SiteView& site, Input& in, float* y,
                          std::int64_t stride, const float* residual = nullptr) {
  const Precision p = ops.precision(l, role, site);
  LinearArgs a;
  a.w = site.w, a.x = rows_for(ops, pass, in, p), a.tokens = pass.tokens, a.bias = site.bias, a.residual = residual;
  a.y = y, a.y_stride = stride;
  const int panels = int(div_up(site.w.rows, lanes));
  const std::int64_t work = std::int64_t(lanes) * site.w.cols * pass.tokens;
  int grain = int(div_up(linear_grain, work > 0 ? work : 1));
  if (pass.tokens > gemv_tokens) grain = int(round_up(grain, 2));   // GEMM tiles take panels in pairs
  float* scratch = pass.work->base + pass.work->at.linear_scratch;
  split(pass.team, panels, grain, [&](int begin, int end, int thread) {
    LinearArgs part = a;
    part.begin = begin, part.end = end, part.scratch = scratch + thread * (linear_scratch_bytes / 4);
    ops.linear(l, role, site, part);
  });
}

template <class Ops>
KLENS_INLINE void norm(const Ops& ops, const Pass& pass, const float* x, std::int64_t x_stride, const float* weight, float* y,
                       std::int64_t y_stride, int width) {
  split(pass.team, pass.tokens, token_grain, [&](int begin, int end, int) {
    RmsNormArgs a;
    a.x = x, a.x_stride = x_stride, a.weight = weight, a.y = y, a.y_stride = y_stride, a.width = width;
    a.eps = ops.shape().norm_eps, a.begin = begin, a.end = end;
    ops.rms_norm(a);
  });
}

}  // namespace decoder

/// Embedding rows and meta tokens into x.
template <class Ops>
inline void run_embed(const Ops& ops, const Pass& pass) {
  const Shape& s = ops.shape();
  const WorkspaceLayout& at = pass.work->at;
  float* x = pass.work->base + at.x;
  int first = s.meta - pass.position;   // rows before it are meta tokens
  first = first < 0 ? 0 : first > pass.tokens ? pass.tokens : first;
  for (int t = 0; t < first; ++t)
    __builtin_memcpy(x + t * at.hidden_stride, pass.model->meta + (pass.position + t) * at.hidden_stride,
                     std::size_t(at.hidden_stride) * sizeof(float));
  decoder::split(pass.team, pass.tokens - first, decoder::token_grain, [&](int begin, int end, int) {
    EmbedArgs a;
    a.w = pass.model->embedding, a.ids = pass.ids, a.y = x + first * at.hidden_stride, a.y_stride = at.hidden_stride;
    a.begin = begin, a.end = end;
    ops.embed(a);
  });
}

/// Attention heads of layer l: RoPE on q (and k), append, attend. Reads the in_proj rows, writes `attention`.
template <class Ops, class Layer>
inline void run_attention(const Ops& ops, Layer l, const Pass& pass) {
  using decoder::split;
  const Shape& s = ops.shape();
  const WorkspaceLayout& at = pass.work->at;
  const KvView& cache = pass.state->layers[int(l)].kv;
  float* q = pass.work->base + at.in;
  float* k = q + s.heads * s.qk_dim;
  const bool own_kv = ops.kv_source(l) == int(l);
  // k follows q in the row: one call turns the heads of both.
  split(pass.team, pass.tokens, decoder::token_grain, [&](int begin, int end, int) {
    RopeArgs a;
    a.x = q, a.x_stride = at.in_stride, a.heads = s.heads + (own_kv ? s.kv_heads : 0), a.head_dim = s.qk_dim;
    a.table = pass.state->rope, a.position = pass.position, a.begin = begin, a.end = end;
    ops.rope(a);
  });
  if (own_kv) {
    split(pass.team, s.kv_heads, pass.tokens >= decoder::token_grain ? 1 : s.kv_heads, [&](int begin, int end, int) {
      KvAppendArgs a;
      a.cache = cache, a.k = k, a.v = k + s.kv_heads * s.qk_dim, a.stride = at.in_stride;
      a.tokens = pass.tokens, a.position = pass.position, a.begin = begin, a.end = end;
      ops.kv_append(a);
    });
  }
  split(pass.team, s.heads * int(div_up(pass.tokens, query_tile)), 1, [&](int begin, int end, int thread) {
    AttentionArgs a;
    a.q = q, a.q_stride = at.in_stride, a.cache = cache, a.heads = s.heads, a.window = ops.window(l), a.meta = s.meta;
    a.scale = pass.model->attention_scale, a.tokens = pass.tokens, a.position = pass.position;
    a.out = pass.work->base + at.attention, a.out_stride = at.inner_stride;
    a.scratch = pass.work->base + at.attention_scratch + thread * at.attention_scratch_stride;
    a.begin = begin, a.end = end;
    ops.attention(a);
  });
}

/// Mamba heads of layer l: conv, x_proj, the three norms, dt_proj, scan with gate. Reads the in_proj rows, writes `scan`.
template <class Ops, class Layer>
inline void run_scan(const Ops& ops, Layer l, const Pass& pass) {
  using decoder::split;
  const Shape& s = ops.shape();
  const WorkspaceLayout& at = pass.work->at;
  const LayerView& layer = pass.model->layers[int(l)];
  float* base = pass.work->base;
  const bool own_kv = ops.kv_source(l) == int(l);
  const float* x = base + at.in + s.heads * s.qk_dim + (own_kv ? s.kv_heads * (s.qk_dim + s.v_dim) : 0);
  const float* gate = x + s.inner;
  const int groups = int(div_up(s.inner, lanes));
  split(pass.team, groups, pass.tokens >= decoder::token_grain ? 1 : groups, [&](int begin, int end, int) {
    Conv1dArgs a;
    a.x = x, a.x_stride = at.in_stride, a.weight = layer.conv_weight, a.bias = layer.conv_bias;
    a.state = pass.state->layers[int(l)].conv, a.y = base + at.conv, a.y_stride = at.inner_stride;
    a.taps = s.conv_taps, a.channels = s.inner, a.tokens = pass.tokens, a.begin = begin, a.end = end;
    ops.conv1d(a);
  });
  float* small = base + at.small;
  decoder::Input u{base + at.conv, at.inner_stride, s.inner};
  decoder::project(ops, pass, l, Role::x_proj, layer.x_proj, u, small, at.small_stride);
  decoder::norm(ops, pass, small, at.small_stride, layer.dt_norm, base + at.rank, at.rank_stride, s.dt_rank);
  decoder::norm(ops, pass, small + s.dt_rank, at.small_stride, layer.b_norm, base + at.b, at.state_stride, s.n_state);
  decoder::norm(ops, pass, small + s.dt_rank + s.n_state, at.small_stride, layer.c_norm, base + at.c, at.state_stride, s.n_state);
  decoder::Input delta{base + at.rank, at.rank_stride, s.dt_rank};
  decoder::project(ops, pass, l, Role::dt_proj, layer.dt_proj, delta, base + at.dt, at.inner_stride);
  split(pass.team, groups, pass.tokens >= decoder::token_grain ? 1 : 8, [&](int begin, int end, int) {
    ScanArgs a;
    a.x = base + at.conv, a.x_stride = at.inner_stride, a.dt = base + at.dt, a.dt_stride = at.inner_stride;
    a.dt_bias = layer.dt_bias, a.b = base + at.b, a.b_stride = at.state_stride, a.c = base + at.c, a.c_stride = at.state_stride;
    a.z = gate, a.z_stride = at.in_stride, a.a2 = layer.a2, a.d = layer.d, a.state = pass.state->layers[int(l)].scan;
    a.y = base + at.scan, a.y_stride = at.inner_stride, a.channels = s.inner, a.n_state = s.n_state, a.tokens = pass.tokens;
    a.begin = begin, a.end = end;
    ops.scan(a);
  });
}

/// Layer l on x, in place.
template <class Ops, class Layer>
inline void run_layer(const Ops& ops, Layer l, const Pass& pass) {
  using decoder::split;
  const Shape& s = ops.shape();
  const WorkspaceLayout& at = pass.work->at;
  const LayerView& layer = pass.model->layers[int(l)];
  float* base = pass.work->base;
  float* x = base + at.x;
  float* normed = base + at.normed;

  decoder::norm(ops, pass, x, at.hidden_stride, layer.input_norm, normed, at.hidden_stride, s.hidden);
  decoder::Input mixer{normed, at.hidden_stride, s.hidden};
  decoder::project(ops, pass, l, Role::in_proj, layer.in_proj, mixer, base + at.in, at.in_stride);
  run_attention(ops, l, pass);
  run_scan(ops, l, pass);
  split(pass.team, pass.tokens, decoder::token_grain, [&](int begin, int end, int) {
    MeanNormArgs a;
    a.a = base + at.attention, a.b = base + at.scan, a.stride = at.inner_stride, a.wa = layer.attention_norm, a.wb = layer.scan_norm;
    a.y = base + at.attention, a.width = s.inner, a.eps = s.norm_eps, a.begin = begin, a.end = end;
    ops.mean_norm(a);
  });
  decoder::Input fused{base + at.attention, at.inner_stride, s.inner};
  decoder::project(ops, pass, l, Role::out_proj, layer.out_proj, fused, x, at.hidden_stride, x);

  decoder::norm(ops, pass, x, at.hidden_stride, layer.ffn_norm, normed, at.hidden_stride, s.hidden);
  decoder::Input both{normed, at.hidden_stride, s.hidden};
  decoder::project(ops, pass, l, Role::gate_proj, layer.gate_proj, both, base + at.gate, at.ffn_stride);
  decoder::project(ops, pass, l, Role::up_proj, layer.up_proj, both, base + at.up, at.ffn_stride);
  split(pass.team, pass.tokens, decoder::token_grain, [&](int begin, int end, int) {
    SwigluArgs a;
    a.gate = base + at.gate, a.up = base + at.up, a.y = base + at.gate, a.stride = at.ffn_stride, a.width = s.ffn;
    a.begin = begin, a.end = end;
    ops.swiglu(a);
  });
  decoder::Input product{base + at.gate, at.ffn_stride, s.ffn};
  decoder::project(ops, pass, l, Role::down_proj, layer.down_proj, product, x, at.hidden_stride, x);
}

/// Final norm of rows [begin, end) of x into the first rows of `normed`; logits too, unless `logits` is null.
/// The head is asked for as layer shape.layers, Role::lm_head.
template <class Ops, class Layer>
inline void run_head(const Ops& ops, Layer l, const Pass& pass, int begin, int end, float* logits, std::int64_t stride) {
  const Shape& s = ops.shape();
  const WorkspaceLayout& at = pass.work->at;
  Pass part = pass;
  part.tokens = end - begin;
  float* normed = pass.work->base + at.normed;
  decoder::norm(ops, part, pass.work->base + at.x + begin * at.hidden_stride, at.hidden_stride, pass.model->final_norm, normed,
                at.hidden_stride, s.hidden);
  if (logits == nullptr) return;
  decoder::Input last{normed, at.hidden_stride, s.hidden};
  decoder::project(ops, part, l, Role::lm_head, pass.model->head, last, logits, stride);
}

}  // namespace klens::inline KLENS_NS
