// The forward pass of Hymba, written once over an `Ops` policy: TableOps calls through a KernelTable (any formats, chosen at
// run time); a specialised build brings FixedOps<Plan>, whose formats and shapes are constants. Both run the same kernels in
// the same order on the same buffers, hence the same bits.
//
//   x <- x + out_proj( 1/2 (norm(attention) + norm(scan)) ),  x <- x + down( silu(gate n) * up n ),  n = norm(x)
//   fused: norm and the quantization of its result; gate and up in one pass, silu(gate) * up and the maxima of its rows
//   in up's epilogue; the residual in out_proj's and down's
//   in_proj rows: q | k | v | x | gate, without k and v where K and V are another layer's (arXiv 2411.13676)
//
// An Ops has: shape(), window(l), kv_source(l), widens_a8(), precision(l, role, site), linear(l, role, site, args), a member
// per kernel, and is_fast(precision) where it knows the policy `fast`. `l` is an int or a std::integral_constant: FixedOps
// passes constants and its branches fold away. Nothing here allocates or does arithmetic on values: kernels do.
#pragma once

#include <klens/isa/features.hpp>
#include <klens/model/view.hpp>

#include <type_traits>

namespace klens::inline KLENS_NS {

/// Kernels by table, formats by site.
struct TableOps {
  const ModelView* model;
  const KernelTable* table;
  Policy policy = Policy::exact;

  KLENS_INLINE const Shape& shape() const { return model->shape; }
  KLENS_INLINE int window(int l) const { return model->layers[l].window; }
  KLENS_INLINE int kv_source(int l) const { return model->layers[l].kv_source; }
  KLENS_INLINE Precision precision(int, Role, const SiteView& site) const { return site.w.precision; }
  /// The level has no dot product of bytes and reads int8 rows as int16 too.
  KLENS_INLINE bool widens_a8() const {
    const Features f = needs(table->level);
    return !has(f, Feature::avx_vnni) && !has(f, Feature::avx512_vnni);
  }
  /// A site of this precision runs linear_fast, from rows of bf16.
  KLENS_INLINE bool is_fast(const Precision& p) const {
    return policy == Policy::fast && fast_linear_of(*table, p) != nullptr;
  }
  KLENS_INLINE void linear(int, Role, const SiteView& site, const LinearArgs& a) const {
    const Precision& p = site.w.precision;
    (is_fast(p) ? fast_linear_of(*table, p) : linear_of(*table, p))(a);
  }
  KLENS_INLINE void round_rows(const RoundRowsArgs& a) const { table->round_rows(a); }
  KLENS_INLINE void quantize_row(const QuantizeRowArgs& a) const { table->quantize_row(a); }
  KLENS_INLINE void rms_norm(const RmsNormArgs& a) const { table->rms_norm(a); }
  KLENS_INLINE void norm_quantize(const NormQuantizeArgs& a) const { table->norm_quantize(a); }
  KLENS_INLINE void mean_norm(const MeanNormArgs& a) const { table->mean_norm(a); }
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

inline constexpr int token_grain = 8;  // tokens per block of the row-wise kernels: some 10 us of work

/// The input rows of one or more linears: f32 as they are, and quantized once per activation format that a reader asks
/// for, rounded to bf16 once for all that run fast.
struct Input {
  const float* x;                      // nullptr: only quantized rows exist
  std::int64_t stride;
  int cols;
  const float* absmax = nullptr;       // [tokens][absmax_stride] where the linear that made x left it, else nullptr
  std::int64_t absmax_stride = 0;
  Activation held = Activation::f32;   // what the quantized buffers hold now
  bool integers = false, floats = false;   // in which shapes
  bool rounded = false;                // the rows of bf16 are there
};

/// Where the quantized rows of a pass go: integers (q8, q16 and sums), floats, or both.
template <class Ops>
KLENS_INLINE QuantizeRowArgs quantized_rows(const Ops& ops, const Pass& pass, Activation activation, bool integers,
                                            bool floats, std::int64_t stride) {
  const WorkspaceLayout& at = pass.work->at;
  float* base = pass.work->base;
  QuantizeRowArgs a;
  a.activation = activation, a.scale = base + at.scale, a.stride = stride;
  const bool wide = activation == Activation::a16;
  if (integers && !wide) a.q8 = reinterpret_cast<std::int8_t*>(base + at.q8);
  if (integers && (wide || ops.widens_a8())) a.q16 = reinterpret_cast<std::int16_t*>(base + at.q16);
  if (integers) a.sums = reinterpret_cast<std::int32_t*>(base + at.sums);
  if (floats) a.f32 = base + at.qf32;
  return a;
}

/// The rows of `in` as linear_fast reads them.
template <class Ops>
KLENS_INLINE const bf16* rounded_rows(const Ops& ops, const Pass& pass, Input& in) {
  bf16* rows = reinterpret_cast<bf16*>(pass.work->base + pass.work->at.rounded);
  if (!in.rounded) {
    split(pass.team, pass.tokens, token_grain, [&](int begin, int end, int) {
      RoundRowsArgs a;
      a.x = in.x, a.x_stride = in.stride, a.cols = in.cols, a.y = rows, a.stride = in.stride;
      a.begin = begin, a.end = end;
      ops.round_rows(a);
    });
    in.rounded = true;
  }
  return rows;
}

/// Rows in the format a site of precision `p` reads.
template <class Ops>
KLENS_INLINE ActRows rows_for(const Ops& ops, const Pass& pass, Input& in, const Precision& p) {
  ActRows rows;
  rows.stride = in.stride;
  if (p.activation == Activation::f32) {
    rows.f32 = in.x;
    if constexpr (requires { ops.is_fast(p); })
      if (ops.is_fast(p)) rows.rounded = rounded_rows(ops, pass, in);
    return rows;
  }
  const bool as_float = dot_kind_of(p) == DotKind::f32;
  const QuantizeRowArgs to = quantized_rows(ops, pass, p.activation, !as_float, as_float, in.stride);
  if (in.held != p.activation) in.integers = in.floats = false;
  if (!(as_float ? in.floats : in.integers)) {
    split(pass.team, pass.tokens, token_grain, [&](int begin, int end, int) {
      QuantizeRowArgs a = to;
      a.x = in.x, a.x_stride = in.stride, a.cols = in.cols, a.absmax = in.absmax, a.absmax_stride = in.absmax_stride;
      a.begin = begin, a.end = end;
      ops.quantize_row(a);
    });
    in.held = p.activation, (as_float ? in.floats : in.integers) = true;
  }
  rows.f32 = to.f32, rows.q8 = to.q8, rows.q16 = to.q16, rows.sums = to.sums, rows.scale = to.scale;
  return rows;
}

/// y = W x (+ residual, and what else the epilogue says) at one site.
template <Role R>
struct Target {
  const SiteView* site;
  float* y;
  std::int64_t stride;
  const float* residual = nullptr;
  const Epilogue* epilogue = nullptr;
};

/// One pass over linears of one input that agree on the format of its rows: task i computes share i of every matrix.
template <class Ops, class Layer, Role... R>
KLENS_INLINE void project_together(const Ops& ops, const Pass& pass, Layer l, Input& in, const Target<R>&... targets) {
  std::int64_t bytes = 0, outputs = 0, panels = 0;
  const auto args_of = [&](const auto& target, const Precision& p) KLENS_INLINE_LAMBDA {
    const SiteView& site = *target.site;
    LinearArgs a;
    a.w = site.w, a.x = rows_for(ops, pass, in, p), a.tokens = pass.tokens, a.bias = site.bias;
    a.residual = target.residual, a.epilogue = target.epilogue, a.y = target.y, a.y_stride = target.stride;
    bytes += std::int64_t(site.w.rows) * site.w.cols * p.weight_bits / 8, outputs += site.w.rows;
    if (div_up(site.w.rows, lanes) > panels) panels = div_up(site.w.rows, lanes);
    return a;
  };
  const LinearArgs args[] = {args_of(targets, ops.precision(l, R, *targets.site))...};
  const int tasks = linear_tasks(pass.team.threads, pass.tokens, panels, bytes, outputs * in.cols * pass.tokens);
  float* scratch = pass.work->base + pass.work->at.linear_scratch;
  for_each(pass.team, tasks, [&](int i, int thread) {
    const LinearArgs* a = args;
    const auto one = [&](auto role, const SiteView& site) KLENS_INLINE_LAMBDA {
      LinearArgs part = *a++;
      const Share share = share_of(int(div_up(site.w.rows, lanes)), i, tasks);
      part.begin = share.begin, part.end = share.end, part.scratch = scratch + thread * (linear_scratch_bytes / 4);
      if (share.begin < share.end) ops.linear(l, role, site, part);
    };
    (one(std::integral_constant<Role, R>{}, *targets.site), ...);
  });
}

/// One or more linears of one input: one pass where one quantized format serves all of them (the buffers hold one),
/// else one after the other. In the order of `targets` either way, so that an epilogue may read what an earlier matrix
/// of as many panels gave in the same columns.
template <class Ops, class Layer, Role... R>
KLENS_INLINE void project(const Ops& ops, const Pass& pass, Layer l, Input& in, const Target<R>&... targets) {
  const Activation formats[] = {ops.precision(l, R, *targets.site).activation...};
  Activation quantized = Activation::f32;
  bool one = true;
  for (const Activation a : formats) {
    if (a == Activation::f32) continue;
    one = one && (quantized == Activation::f32 || quantized == a);
    quantized = a;
  }
  if (one) project_together(ops, pass, l, in, targets...);
  else (project_together(ops, pass, l, in, targets), ...);
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

/// The normed rows as the input of linears with the precisions `readers`: quantized in the same call where all of them
/// read one quantized format; the floats are then written to y only if somebody else wants them.
template <class Ops, class... Precisions>
KLENS_INLINE Input normed_input(const Ops& ops, const Pass& pass, const float* x, std::int64_t x_stride,
                                const float* weight, float* y, std::int64_t y_stride, int width, bool keep_floats,
                                const Precisions&... readers) {
  Input in{y, y_stride, width};
  const Precision all[] = {readers...};
  const Activation format = all[0].activation;
  if (format == Activation::f32 || ((readers.activation != format) || ...)) {
    norm(ops, pass, x, x_stride, weight, y, y_stride, width);
    return in;
  }
  in.held = format;
  in.floats = ((dot_kind_of(readers) == DotKind::f32) || ...);
  in.integers = ((dot_kind_of(readers) != DotKind::f32) || ...);
  if (!keep_floats) in.x = nullptr;
  split(pass.team, pass.tokens, token_grain, [&](int begin, int end, int) {
    NormQuantizeArgs a;
    a.norm.x = x, a.norm.x_stride = x_stride, a.norm.weight = weight;
    a.norm.y = keep_floats ? y : nullptr, a.norm.y_stride = y_stride, a.norm.width = width;
    a.norm.eps = ops.shape().norm_eps, a.norm.begin = begin, a.norm.end = end;
    a.row = quantized_rows(ops, pass, format, in.integers, in.floats, y_stride);
    ops.norm_quantize(a);
  });
  return in;
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
  decoder::project(ops, pass, l, u, decoder::Target<Role::x_proj>{&layer.x_proj, small, at.small_stride});
  decoder::norm(ops, pass, small + s.dt_rank, at.small_stride, layer.b_norm, base + at.b, at.state_stride, s.n_state);
  decoder::norm(ops, pass, small + s.dt_rank + s.n_state, at.small_stride, layer.c_norm, base + at.c, at.state_stride, s.n_state);
  decoder::Input delta =
      decoder::normed_input(ops, pass, small, at.small_stride, layer.dt_norm, base + at.rank, at.rank_stride, s.dt_rank,
                            false, ops.precision(l, Role::dt_proj, layer.dt_proj));
  decoder::project(ops, pass, l, delta, decoder::Target<Role::dt_proj>{&layer.dt_proj, base + at.dt, at.inner_stride});
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

  decoder::Input mixer =
      decoder::normed_input(ops, pass, x, at.hidden_stride, layer.input_norm, normed, at.hidden_stride, s.hidden, false,
                            ops.precision(l, Role::in_proj, layer.in_proj));
  decoder::project(ops, pass, l, mixer, decoder::Target<Role::in_proj>{&layer.in_proj, base + at.in, at.in_stride});
  run_attention(ops, l, pass);
  run_scan(ops, l, pass);
  split(pass.team, pass.tokens, decoder::token_grain, [&](int begin, int end, int) {
    MeanNormArgs a;
    a.a = base + at.attention, a.b = base + at.scan, a.stride = at.inner_stride, a.wa = layer.attention_norm, a.wb = layer.scan_norm;
    a.y = base + at.attention, a.width = s.inner, a.eps = s.norm_eps, a.begin = begin, a.end = end;
    ops.mean_norm(a);
  });
  decoder::Input fused{base + at.attention, at.inner_stride, s.inner};
  decoder::project(ops, pass, l, fused, decoder::Target<Role::out_proj>{&layer.out_proj, x, at.hidden_stride, x});

  decoder::Input both =
      decoder::normed_input(ops, pass, x, at.hidden_stride, layer.ffn_norm, normed, at.hidden_stride, s.hidden, false,
                            ops.precision(l, Role::gate_proj, layer.gate_proj),
                            ops.precision(l, Role::up_proj, layer.up_proj));
  Epilogue swiglu;
  swiglu.gate = base + at.gate, swiglu.gate_stride = at.ffn_stride, swiglu.silu_of_gate = true;
  decoder::Input product{base + at.up, at.ffn_stride, s.ffn};
  if (ops.precision(l, Role::down_proj, layer.down_proj).activation != Activation::f32) {
    swiglu.absmax = base + at.absmax, swiglu.absmax_stride = at.absmax_stride;
    product.absmax = swiglu.absmax, product.absmax_stride = at.absmax_stride;
  }
  decoder::project(ops, pass, l, both,
                   decoder::Target<Role::gate_proj>{&layer.gate_proj, base + at.gate, at.ffn_stride},
                   decoder::Target<Role::up_proj>{&layer.up_proj, base + at.up, at.ffn_stride, nullptr, &swiglu});
  decoder::project(ops, pass, l, product, decoder::Target<Role::down_proj>{&layer.down_proj, x, at.hidden_stride, x});
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
  const float* x = pass.work->base + at.x + begin * at.hidden_stride;
  const float* weight = pass.model->final_norm;
  if (logits == nullptr)
    return decoder::norm(ops, part, x, at.hidden_stride, weight, normed, at.hidden_stride, s.hidden);
  decoder::Input last =
      decoder::normed_input(ops, part, x, at.hidden_stride, weight, normed, at.hidden_stride, s.hidden, true,
                            ops.precision(l, Role::lm_head, pass.model->head));
  decoder::project(ops, part, l, last, decoder::Target<Role::lm_head>{&pass.model->head, logits, stride});
}

}  // namespace klens::inline KLENS_NS
