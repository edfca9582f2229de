// 977 lines: the forward pass of every family, to be read from top to bottom. Written once over an `Ops` policy: TableOps calls
// through a KernelTable (any formats, chosen at run time); a specialised build brings FixedOps<Plan>, whose formats and shapes
// are constants. Both run the same kernels in the same order on the same buffers, hence the same bits.
//
// A layer is a mixer, then an ffn, either of which may be absent:
//
//   x <- x + mixer(norm(x)),   x <- x + ffn(norm(x))
//   hymba       out_proj( 1/2 (norm(attention) + norm(scan)) )   in_proj n = q | k | v | x | gate   (arXiv 2411.13676)
//   mamba       out_proj( scan(conv(x)) silu(gate) )             in_proj n = x | gate               (arXiv 2312.00752)
//   mamba2      out_proj( norm(ssd(conv(x B C)) silu(gate)) )    in_proj n = gate | x | B | C | dt  (arXiv 2405.21060)
//   attention   o_proj( attention(q, k, v) )                     parallel: mamba2 + attention of one n (Falcon-H1)
//   short_conv  out_proj( C conv(B x) )                          in_proj n = B | C | x              (LFM2)
//   conv_attention               out_proj( attention(conv(q k v)) ), no activation      (state-spaces' mamba2attn)
//   mamba3      out_proj( ssd(x, turned(norm(B)), turned(norm(C))) silu(gate) ), in_proj n = gate | x | B | C | dt | A | trapezoid |
//               angles; with norms of the heads before the gate where there are some   (kernel/mamba3.hpp)
//   block_mamba, block_mamba2    mamba or mamba2 of norm(x + block_out( f(a(norm([x | e]))) )) (Zamba, arXiv 2405.16712): attention
//               a and f(u) = down( gelu(gate v) * up v ), v = norm(u), of a block that layers share, without residuals; e the
//               embedding's output. Adapters: q n + q_adapter_out(q_adapter_in n), as k, v, gate and up (Zamba2, 2411.15242)
//   swiglu      down( silu(gate n) * up n )                      relu2   down( max(up n, 0)^2 )
//   moe         sum of weight[e] swiglu_e(n) over the experts e that the router chooses (kernel/route.hpp); moe_shared: and
//               swiglu(n), first; moe_relu2: relu2 experts, of latent_in n where there is one and back through latent_out, and
//               relu2(n), first. A token's sums are in the order of the experts' numbers, whatever tokens run beside it
//
// Fused: norms and the quantization of their results; all projections of one input in one pass; the maxima of the rows of a
// convolution; silu(gate) * up and the maxima of its rows in up's epilogue; multipliers of outputs and the residual in the
// epilogue of the linear.
//
// An Ops has: shape(), window(l), kv_source(l), with_mixer(l, f) and with_ffn(l, f), which call f with the kind of layer l as
// an integral_constant, widens_a8(), precision(l, role, site), linear(l, role, site, args), and one member per kernel;
// is_fast(precision) and round_rows where it knows the policy `fast`. `l` is an int or a type that stands for a constant:
// FixedOps passes those and its branches fold away. Nothing here allocates, and no
// arithmetic on values is done here: it is in the kernels.
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
  template <class F>
  KLENS_INLINE void with_mixer(int l, const F& f) const {
    switch (model->layers[l].mixer) {
      case Mixer::none: break;
      case Mixer::hymba: return f(std::integral_constant<Mixer, Mixer::hymba>{});
      case Mixer::mamba: return f(std::integral_constant<Mixer, Mixer::mamba>{});
      case Mixer::mamba2: return f(std::integral_constant<Mixer, Mixer::mamba2>{});
      case Mixer::attention: return f(std::integral_constant<Mixer, Mixer::attention>{});
      case Mixer::short_conv: return f(std::integral_constant<Mixer, Mixer::short_conv>{});
      case Mixer::parallel: return f(std::integral_constant<Mixer, Mixer::parallel>{});
      case Mixer::block_mamba: return f(std::integral_constant<Mixer, Mixer::block_mamba>{});
      case Mixer::block_mamba2: return f(std::integral_constant<Mixer, Mixer::block_mamba2>{});
      case Mixer::conv_attention: return f(std::integral_constant<Mixer, Mixer::conv_attention>{});
      case Mixer::mamba3: return f(std::integral_constant<Mixer, Mixer::mamba3>{});
    }
  }
  template <class F>
  KLENS_INLINE void with_ffn(int l, const F& f) const {
    switch (model->layers[l].ffn) {
      case Ffn::none: break;
      case Ffn::swiglu: return f(std::integral_constant<Ffn, Ffn::swiglu>{});
      case Ffn::relu2: return f(std::integral_constant<Ffn, Ffn::relu2>{});
      case Ffn::moe: return f(std::integral_constant<Ffn, Ffn::moe>{});
      case Ffn::moe_shared: return f(std::integral_constant<Ffn, Ffn::moe_shared>{});
      case Ffn::moe_relu2: return f(std::integral_constant<Ffn, Ffn::moe_relu2>{});
    }
  }
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
#define KLENS_ENTRY(name, Args) \
  KLENS_INLINE void name(const Args& a) const { table->name(a); }
  KLENS_KERNELS(KLENS_ENTRY)
#undef KLENS_ENTRY
};

namespace decoder {

/// body(begin, end, thread) over [0, items), in blocks of whole `grain`s (core/team.hpp, Deal).
template <class Body>
KLENS_INLINE void split(const Team& team, int items, int grain, const Body& body) {
  if (team.threads <= 1 || items <= grain) {
    if (items > 0) body(0, items, 0);
    return;
  }
  while (items > 65535 * std::int64_t(grain)) grain *= 2;
  Deal deal;
  deal_out(deal, team.threads, int(div_up(items, grain)), 1);
  for_each(team, deal.tasks, [&](int i, int thread) {
    const int end = deal.begin[i + 1] * grain;
    body(deal.begin[i] * grain, end < items ? end : items, thread);
  });
}

inline constexpr int token_grain = 8;  // tokens per block of the row-wise kernels: some 10 us of work

/// Groups of 16 channels per block of a convolution: one block per thread, since its tiles walk along rows (narrow blocks of two
/// threads took as long as one thread). One token: one thread (two: 3 us for 1.0 hot; in a model no difference).
KLENS_INLINE int conv_grain(int groups, const Pass& pass) {
  return pass.tokens >= token_grain ? int(div_up(groups, pass.team.threads)) : groups;
}

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

/// Stands for a layer where the site is one of its experts: chosen at run time, so that an Ops goes by the site's own precision.
struct ExpertOf {
  int layer;
  KLENS_INLINE operator int() const { return layer; }
};

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
  Epilogue scaled[sizeof...(R)], *next = scaled;
  const auto args_of = [&](const auto& target, const Precision& p) KLENS_INLINE_LAMBDA {
    const SiteView& site = *target.site;
    LinearArgs a;
    a.w = site.w, a.x = rows_for(ops, pass, in, p), a.tokens = pass.tokens, a.bias = site.bias;
    a.residual = target.residual, a.epilogue = target.epilogue, a.y = target.y, a.y_stride = target.stride;
    if (site.scale != nullptr) {
      if (target.epilogue != nullptr) *next = *target.epilogue;
      next->column_scale = site.scale, a.epilogue = next++;
    }
    bytes += std::int64_t(site.w.rows) * site.w.cols * p.weight_bits / 8, outputs += site.w.rows;
    if (div_up(site.w.rows, lanes) > panels) panels = div_up(site.w.rows, lanes);
    return a;
  };
  const LinearArgs args[] = {args_of(targets, ops.precision(l, R, *targets.site))...};
  LinearDeal deal;
  deal_out(deal, pass.team.threads, pass.tokens, panels, bytes, outputs * in.cols * pass.tokens);
  float* scratch = pass.work->base + pass.work->at.linear_scratch;
  for_each(pass.team, deal.deal.tasks, [&](int i, int thread) {
    const LinearArgs* a = args;
    const auto one = [&](auto role, const SiteView& site) KLENS_INLINE_LAMBDA {
      LinearArgs part = *a++;
      const Share share = share_of(deal, int(div_up(site.w.rows, lanes)), i);
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

/// Rows [first, first + rows) of y = W x alone; whole panels are written, so that up to 15 columns beside them are too.
template <Role R, class Ops, class Layer>
KLENS_INLINE void project_rows(const Ops& ops, const Pass& pass, Layer l, Input& in, const SiteView& site, int first, int rows, float* y,
                               std::int64_t stride) {
  const Precision p = ops.precision(l, R, site);
  Epilogue scaled;
  scaled.column_scale = site.scale;
  LinearArgs a;
  a.w = site.w, a.x = rows_for(ops, pass, in, p), a.tokens = pass.tokens, a.bias = site.bias, a.y = y, a.y_stride = stride;
  if (site.scale != nullptr) a.epilogue = &scaled;
  const int begin = first / lanes, panels = int(div_up(first + rows, lanes)) - begin;
  const std::int64_t values = std::int64_t(rows) * site.w.cols;
  LinearDeal deal;
  deal_out(deal, pass.team.threads, pass.tokens, panels, values * p.weight_bits / 8, values * pass.tokens);
  float* scratch = pass.work->base + pass.work->at.linear_scratch;
  for_each(pass.team, deal.deal.tasks, [&](int i, int thread) {
    const Share share = share_of(deal, panels, i);
    LinearArgs part = a;
    part.begin = begin + share.begin, part.end = begin + share.end, part.scratch = scratch + thread * (linear_scratch_bytes / 4);
    if (share.begin < share.end) ops.linear(l, R, site, part);
  });
}

/// `width` columns of every row, from one buffer into another.
KLENS_INLINE void copy_columns(const Pass& pass, const float* from, std::int64_t from_stride, float* to, std::int64_t to_stride, int width) {
  split(pass.team, pass.tokens, token_grain, [&](int begin, int end, int) {
    for (int t = begin; t < end; ++t) __builtin_memcpy(to + t * to_stride, from + t * from_stride, std::size_t(width) * sizeof(float));
  });
}

template <class Ops>
KLENS_INLINE void norm(const Ops& ops, const Pass& pass, const float* x, std::int64_t x_stride, const float* weight, float* y,
                       std::int64_t y_stride, int width, float eps) {
  split(pass.team, pass.tokens, token_grain, [&](int begin, int end, int) {
    RmsNormArgs a;
    a.x = x, a.x_stride = x_stride, a.weight = weight, a.y = y, a.y_stride = y_stride, a.width = width;
    a.eps = eps, a.begin = begin, a.end = end;
    ops.rms_norm(a);
  });
}

/// Rows that a kernel makes as the input of linears with the precisions `readers`: where all of them read one quantized
/// format, by fused(begin, end, keep, row), which quantizes in the same call and writes the floats to y only where `keep`
/// says that somebody else wants them; else by plain(begin, end).
template <class Ops, class Plain, class Fused, class... Precisions>
KLENS_INLINE Input made_input(const Ops& ops, const Pass& pass, float* y, std::int64_t y_stride, int width, bool keep,
                              const Plain& plain, const Fused& fused, const Precisions&... readers) {
  Input in{y, y_stride, width};
  const Precision all[] = {readers...};
  const Activation format = all[0].activation;
  if (format == Activation::f32 || ((readers.activation != format) || ...)) {
    split(pass.team, pass.tokens, token_grain, [&](int begin, int end, int) { plain(begin, end); });
    return in;
  }
  in.held = format;
  in.floats = ((dot_kind_of(readers) == DotKind::f32) || ...);
  in.integers = ((dot_kind_of(readers) != DotKind::f32) || ...);
  if (!keep) in.x = nullptr;
  const QuantizeRowArgs row = quantized_rows(ops, pass, format, in.integers, in.floats, y_stride);
  split(pass.team, pass.tokens, token_grain, [&](int begin, int end, int) { fused(begin, end, keep, row); });
  return in;
}

/// The normed rows as the input of linears.
template <class Ops, class... Precisions>
KLENS_INLINE Input normed_input(const Ops& ops, const Pass& pass, const float* x, std::int64_t x_stride,
                                const float* weight, float* y, std::int64_t y_stride, int width, float eps,
                                bool keep_floats, const Precisions&... readers) {
  RmsNormArgs a;
  a.x = x, a.x_stride = x_stride, a.weight = weight, a.y = y, a.y_stride = y_stride, a.width = width, a.eps = eps;
  return made_input(
      ops, pass, y, y_stride, width, keep_floats,
      [&](int begin, int end) KLENS_INLINE_LAMBDA {
        RmsNormArgs part = a;
        part.begin = begin, part.end = end;
        ops.rms_norm(part);
      },
      [&](int begin, int end, bool keep, const QuantizeRowArgs& row) KLENS_INLINE_LAMBDA {
        NormQuantizeArgs part{a, row};
        if (!keep) part.norm.y = nullptr;
        part.norm.begin = begin, part.norm.end = end;
        ops.norm_quantize(part);
      },
      readers...);
}

}  // namespace decoder

/// Embedding rows and meta tokens into x.
template <class Ops>
inline void run_embed(const Ops& ops, const Pass& pass) {
  const Shape& s = ops.shape();
  const WorkspaceLayout& at = pass.work->at;
  for (int i = 0; i < pass.span_count; ++i) {
    const Span& span = pass.spans[i];
    float* x = pass.work->base + at.x + span.row * at.hidden_stride;
    int first = s.meta - span.position;   // rows before it are meta tokens
    first = first < 0 ? 0 : first > span.tokens ? span.tokens : first;
    for (int t = 0; t < first; ++t)
      __builtin_memcpy(x + t * at.hidden_stride, pass.model->meta + (span.position + t) * at.hidden_stride,
                       std::size_t(at.hidden_stride) * sizeof(float));
    decoder::split(pass.team, span.tokens - first, decoder::token_grain, [&](int begin, int end, int) {
      EmbedArgs a;
      a.w = pass.model->embedding, a.ids = span.ids, a.y = x + first * at.hidden_stride, a.y_stride = at.hidden_stride;
      a.scale = s.embedding_scale, a.begin = begin, a.end = end;
      ops.embed(a);
    });
  }
  if (at.pair_stride > 0)   // shared blocks read it in every layer
    decoder::copy_columns(pass, pass.work->base + at.x, at.hidden_stride, pass.work->base + at.first, at.hidden_stride, s.hidden);
}

/// Attention heads of layer l: norms of q and k where the family has them, RoPE, append, attend. Reads the rows of `in`,
/// writes `attention`.
template <class Ops, class Layer>
inline void run_attention(const Ops& ops, Layer l, const InColumns& columns, const Pass& pass) {
  using decoder::split;
  const Shape& s = ops.shape();
  const WorkspaceLayout& at = pass.work->at;
  const bool own_kv = ops.kv_source(l) == int(l);
  if (s.qk_norm) {
    const LayerView& layer = pass.model->layers[int(l)];
    split(pass.team, pass.tokens, decoder::token_grain, [&](int begin, int end, int) {
      HeadNormArgs a;
      a.x = pass.work->base + at.in, a.x_stride = at.in_stride, a.heads = s.heads, a.head_dim = s.qk_dim, a.weight = layer.q_norm;
      a.eps = s.norm_eps, a.begin = begin, a.end = end;
      ops.head_norm(a);
      if (own_kv) a.x += columns.k, a.heads = s.kv_heads, a.weight = layer.k_norm, ops.head_norm(a);
    });
  }
  for (int i = 0; i < pass.span_count; ++i) {
    const Span& span = pass.spans[i];
    const KvView& cache = span.state->layers[int(l)].kv;
    float* q = pass.work->base + at.in + span.row * at.in_stride;
    float* k = q + columns.k;
    if (s.rotary_dim > 0) {
      // One call turns the heads of both where k follows q.
      const bool together = own_kv && columns.k == s.heads * s.qk_dim;
      split(pass.team, span.tokens, decoder::token_grain, [&](int begin, int end, int) {
        RopeArgs a;
        a.x = q, a.x_stride = at.in_stride, a.heads = s.heads + (together ? s.kv_heads : 0), a.head_dim = s.qk_dim;
        a.rotary_dim = s.rotary_dim, a.table = span.state->rope, a.position = span.position, a.begin = begin, a.end = end;
        ops.rope(a);
        if (own_kv && !together) a.x = k, a.heads = s.kv_heads, ops.rope(a);
      });
    }
    if (own_kv) {
      split(pass.team, s.kv_heads, span.tokens >= decoder::token_grain ? 1 : s.kv_heads, [&](int begin, int end, int) {
        KvAppendArgs a;
        a.cache = cache, a.k = k, a.v = q + columns.v, a.stride = at.in_stride;
        a.tokens = span.tokens, a.position = span.position, a.begin = begin, a.end = end;
        ops.kv_append(a);
      });
    }
    AttentionArgs a;
    a.q = q, a.q_stride = at.in_stride, a.cache = cache, a.heads = s.heads, a.window = ops.window(l), a.meta = s.meta;
    a.scale = pass.model->attention_scale, a.tokens = span.tokens, a.position = span.position;
    a.out = pass.work->base + at.attention + span.row * at.heads_stride, a.out_stride = at.heads_stride;
    const int items = attention_items(s.heads, s.kv_heads, span.tokens), positions = span.position + span.tokens;
    // A few tokens far into a text: partitions of the positions, so that every thread has some. Same bits either way.
    const bool parts = pass.team.threads > 1 && span.tokens <= query_tile && positions >= 4 * attention_partition;
    if (parts) a.partitions = attention_partitions(positions), a.partial = pass.work->base + at.partial;
    split(pass.team, items * (parts ? a.partitions : 1), 1, [&](int begin, int end, int thread) {
      AttentionArgs part = a;
      part.scratch = pass.work->base + at.attention_scratch + thread * at.attention_scratch_stride;
      part.begin = begin, part.end = end;
      ops.attention(part);
    });
    if (!parts) continue;
    split(pass.team, span.tokens * s.heads, 8, [&](int begin, int end, int) {
      AttentionMergeArgs m;
      m.partial = a.partial, m.partitions = a.partitions, m.heads = s.heads, m.v_dim = s.v_dim;
      m.out = a.out, m.out_stride = a.out_stride, m.begin = begin, m.end = end;
      ops.attention_merge(m);
    });
  }
}

/// Causal convolution with SiLU over `channels` columns of `in`, from column `from` on, into `conv`; where `absmax` is not
/// null, the maxima of each row's 16 columns too. In place: without SiLU, back into `in`.
template <bool InPlace = false, class Ops, class Layer>
KLENS_INLINE void run_conv(const Ops& ops, Layer l, int from, int channels, float* absmax, const Pass& pass) {
  const Shape& s = ops.shape();
  const WorkspaceLayout& at = pass.work->at;
  const LayerView& layer = pass.model->layers[int(l)];
  float* base = pass.work->base;
  const int groups = int(div_up(channels, lanes));
  decoder::split(pass.team, groups, decoder::conv_grain(groups, pass), [&](int begin, int end, int) {
    for (int i = 0; i < pass.span_count; ++i) {
      const Span& span = pass.spans[i];
      const LayerState& state = span.state->layers[int(l)];
      Conv1dArgs a;
      a.x = base + at.in + span.row * at.in_stride + from, a.x_stride = at.in_stride;
      a.weight = layer.conv_weight, a.bias = layer.conv_bias, a.state = state.conv, a.format = state.conv_format, a.scales = state.conv_scales;
      a.y = base + at.conv + span.row * at.conv_stride, a.y_stride = at.conv_stride;
      if constexpr (InPlace) a.y = base + at.in + span.row * at.in_stride + from, a.y_stride = at.in_stride, a.silu = false;
      if (absmax != nullptr) a.absmax = absmax + span.row * at.absmax_stride, a.absmax_stride = at.absmax_stride;
      a.taps = s.conv_taps, a.channels = channels, a.tokens = span.tokens, a.begin = begin, a.end = end;
      ops.conv1d(a);
    }
  });
}

/// Mamba heads of layer l: conv, x_proj, norms of dt, B and C where the family has them, dt_proj, scan with gate. x and its
/// gate are columns `from` .. of `in`; writes `scan`.
template <class Ops, class Layer>
inline void run_scan(const Ops& ops, Layer l, int from, const Pass& pass) {
  using decoder::split;
  const Shape& s = ops.shape();
  const WorkspaceLayout& at = pass.work->at;
  const LayerView& layer = pass.model->layers[int(l)];
  float* base = pass.work->base;
  decoder::Input u{base + at.conv, at.conv_stride, s.inner};
  if (s.scan_heads == 1 && ops.precision(l, Role::x_proj, layer.x_proj).activation != Activation::f32)
    u.absmax = base + at.absmax, u.absmax_stride = at.absmax_stride;
  run_conv(ops, l, from, s.inner, const_cast<float*>(u.absmax), pass);

  ScanArgs common;   // rows of the pass; b and c: of one head
  common.dt_bias = layer.dt_bias, common.a2 = layer.a2, common.d = layer.d, common.key = std::uint32_t(int(l));
  common.channels = scan_channels(s), common.n_state = s.n_state;
  // dt's inputs, B and C from a row of x_proj's outputs.
  const auto split_small = [&](const float* small) KLENS_INLINE_LAMBDA {
    common.b = small + s.dt_rank, common.c = common.b + s.n_state, common.b_stride = common.c_stride = at.small_stride;
    if (s.inner_norms) {
      decoder::norm(ops, pass, common.b, at.small_stride, layer.b_norm, base + at.b, at.state_stride, s.n_state, s.inner_norm_eps);
      decoder::norm(ops, pass, common.c, at.small_stride, layer.c_norm, base + at.c, at.state_stride, s.n_state, s.inner_norm_eps);
      common.b = base + at.b, common.c = base + at.c, common.b_stride = common.c_stride = at.state_stride;
      return decoder::normed_input(ops, pass, small, at.small_stride, layer.dt_norm, base + at.rank, at.rank_stride, s.dt_rank,
                                   s.inner_norm_eps, false, ops.precision(l, Role::dt_proj, layer.dt_proj));
    }
    // Linears read rows whose padding is zero; behind dt lie B and C.
    decoder::copy_columns(pass, small, at.small_stride, base + at.rank, at.rank_stride, s.dt_rank);
    return decoder::Input{base + at.rank, at.rank_stride, s.dt_rank};
  };
  const auto scan_groups = [&](int first, int groups) KLENS_INLINE_LAMBDA {
    split(pass.team, groups, pass.tokens >= decoder::token_grain ? 1 : 8, [&](int begin, int end, int) {
      for (int i = 0; i < pass.span_count; ++i) {
        const Span& span = pass.spans[i];
        const LayerState& state = span.state->layers[int(l)];
        ScanArgs a = common;
        a.x += span.row * a.x_stride, a.dt += span.row * a.dt_stride, a.z += span.row * a.z_stride;
        a.b += span.row * a.b_stride, a.c += span.row * a.c_stride, a.y += span.row * a.y_stride;
        a.state = state.scan, a.format = state.scan_format, a.scales = state.scan_scales;
        a.position = span.position, a.tokens = span.tokens, a.begin = first + begin, a.end = first + end;
        ops.scan(a);
      }
    });
  };
  float* small = base + at.small;
  const float* gate = base + at.in + from + s.inner;
  if (s.scan_heads == 1) {
    decoder::project(ops, pass, l, u, decoder::Target<Role::x_proj>{&layer.x_proj, small, at.small_stride});
    decoder::Input delta = split_small(small);
    decoder::project(ops, pass, l, delta, decoder::Target<Role::dt_proj>{&layer.dt_proj, base + at.dt, at.inner_stride});
    common.x = base + at.conv, common.x_stride = at.conv_stride, common.dt = base + at.dt, common.dt_stride = at.inner_stride;
    common.z = gate, common.z_stride = at.in_stride, common.y = base + at.scan, common.y_stride = at.inner_stride;
    return scan_groups(0, int(div_up(s.inner, lanes)));
  }
  // Heads of their own x_proj, dt_proj, B and C, one after the other, each from a multiple of 32 channels on. Copies: 20 bytes per
  // channel and token, beside in_proj's hidden / 2 bytes at 4 bits.
  const int width = s.inner / s.scan_heads, pitch = common.channels / s.scan_heads, rows = s.dt_rank + 2 * s.n_state;
  common.x = base + at.heads_x, common.dt = base + at.heads_dt, common.z = base + at.heads_z, common.y = base + at.heads_y;
  common.x_stride = common.dt_stride = common.z_stride = common.y_stride = at.heads_scan_stride;
  for (int h = 0; h < s.scan_heads; ++h) {
    const auto head_columns = [&](const float* from_rows, std::int64_t stride, std::int64_t to) KLENS_INLINE_LAMBDA {
      decoder::copy_columns(pass, from_rows + h * width, stride, base + to + h * pitch, at.heads_scan_stride, width);
    };
    head_columns(base + at.conv, at.conv_stride, at.heads_x);
    head_columns(gate, at.in_stride, at.heads_z);
    decoder::Input x{base + at.heads_x + h * pitch, at.heads_scan_stride, width};
    decoder::project_rows<Role::x_proj>(ops, pass, l, x, layer.x_proj, h * rows, rows, small, at.small_stride);
    decoder::Input delta = split_small(small + h * rows);
    decoder::project_rows<Role::dt_proj>(ops, pass, l, delta, layer.dt_proj, h * width, width, base + at.dt, at.inner_stride);
    head_columns(base + at.dt, at.inner_stride, at.heads_dt);
    scan_groups(h * pitch / lanes, pitch / lanes);
    decoder::copy_columns(pass, base + at.heads_y + h * pitch, at.heads_scan_stride, base + at.scan + h * width, at.inner_stride, width);
  }
}

/// What every way into the state space dual has: rows of `span`, its state, gate and output.
template <class Ops, class Layer>
KLENS_INLINE SsdArgs ssd_args(const Ops& ops, Layer l, int from, const Span& span, const Pass& pass) {
  const Shape& s = ops.shape();
  const WorkspaceLayout& at = pass.work->at;
  const LayerState& state = span.state->layers[int(l)];
  SsdArgs a;
  if (s.norm_groups == 0) a.z = pass.work->base + at.in + span.row * at.in_stride + from, a.z_stride = at.in_stride;
  a.state = state.scan, a.decay = state.decay, a.format = state.scan_format, a.scales = state.scan_scales;
  a.key = std::uint32_t(int(l)), a.position = span.position;
  a.y = pass.work->base + at.scan + span.row * at.inner_stride, a.y_stride = at.inner_stride;
  a.heads = s.ssm_heads, a.head_dim = s.inner / s.ssm_heads, a.n_state = s.n_state, a.tokens = span.tokens;
  return a;
}

/// ssd(a) for all items of a pass, a = args_of(span).
template <class Ops, class ArgsOf>
KLENS_INLINE void split_ssd(const Ops& ops, const Pass& pass, const ArgsOf& args_of) {
  const Shape& s = ops.shape();
  const int items = s.ssm_heads * int(div_up(s.inner / s.ssm_heads, lanes));
  decoder::split(pass.team, items, pass.tokens >= decoder::token_grain ? 2 : 8, [&](int begin, int end, int) {   // pairs: tiles
    for (int i = 0; i < pass.span_count; ++i) {
      SsdArgs a = args_of(pass.spans[i]);
      a.begin = begin, a.end = end;
      ops.ssd(a);
    }
  });
}

/// State space dual of layer l: conv over x | B | C, ssd, gated norm. gate | x | B | C | dt are columns `from` .. of `in`;
/// writes `scan`.
template <class Ops, class Layer>
inline void run_ssd(const Ops& ops, Layer l, int from, const Pass& pass) {
  const Shape& s = ops.shape();
  const WorkspaceLayout& at = pass.work->at;
  const LayerView& layer = pass.model->layers[int(l)];
  const int channels = s.inner + 2 * s.ssm_groups * s.n_state;
  run_conv(ops, l, from + s.inner, channels, nullptr, pass);
  split_ssd(ops, pass, [&](const Span& span) KLENS_INLINE_LAMBDA {
    SsdArgs a = ssd_args(ops, l, from, span, pass);
    a.x = pass.work->base + at.conv + span.row * at.conv_stride, a.b = a.x + s.inner, a.c = a.b + s.ssm_groups * s.n_state;
    a.x_stride = a.b_stride = a.c_stride = at.conv_stride, a.groups = s.ssm_groups;
    a.dt = pass.work->base + at.in + span.row * at.in_stride + from + s.inner + channels, a.dt_stride = at.in_stride;
    a.dt_bias = layer.dt_bias, a.a2 = layer.a2, a.d = layer.d, a.dt_min = s.dt_min;
    if (s.dt_max > 0) a.dt_max = s.dt_max;
    return a;
  });
}

/// Mamba-3 of layer l: norms of B and C, k and q and factors of every head, ssd. The row of in_proj is columns `from` .. of `in`;
/// writes `scan`.
template <class Ops, class Layer>
inline void run_mamba3(const Ops& ops, Layer l, int from, const Pass& pass) {
  using decoder::split;
  const Shape& s = ops.shape();
  const WorkspaceLayout& at = pass.work->at;
  const LayerView& layer = pass.model->layers[int(l)];
  float* base = pass.work->base;
  const int shared = s.ssm_groups * s.n_state, width = s.inner / s.ssm_heads;
  float* b = base + at.in + from + 2 * s.inner;
  split(pass.team, pass.tokens, decoder::token_grain, [&](int begin, int end, int) {
    HeadNormArgs a;
    a.x = b, a.x_stride = at.in_stride, a.heads = s.ssm_groups, a.head_dim = s.n_state, a.weight = layer.b_norm;
    a.eps = s.inner_norm_eps, a.begin = begin, a.end = end;
    ops.head_norm(a);
    a.x += shared, a.weight = layer.c_norm, ops.head_norm(a);
  });
  split(pass.team, s.ssm_heads, pass.tokens >= decoder::token_grain ? 1 : s.ssm_heads, [&](int begin, int end, int) {
    for (int i = 0; i < pass.span_count; ++i) {
      const Span& span = pass.spans[i];
      Mamba3Args a;
      a.b = b + span.row * at.in_stride, a.x = a.b - s.inner, a.c = a.b + shared, a.dt = a.c + shared, a.a = a.dt + s.ssm_heads;
      a.trap = a.a + s.ssm_heads, a.angle = a.trap + s.ssm_heads, a.stride = at.in_stride;
      a.dt_bias = layer.dt_bias, a.b_bias = layer.b_bias, a.c_bias = layer.c_bias, a.d = layer.d, a.least_rate = s.least_rate;
      a.heads = s.ssm_heads, a.groups = s.ssm_groups, a.head_dim = width, a.n_state = s.n_state, a.angles = s.ssm_angles;
      const Mamba3Carried carried = mamba3_carried(s.ssm_heads, width, s.n_state, s.ssm_angles);
      float* state = span.state->layers[int(l)].carried;
      a.turns = state, a.gain = state + carried.gain, a.last_key = state + carried.last_key, a.last_x = state + carried.last_x;
      a.key = base + at.key + span.row * at.key_stride, a.query = base + at.query + span.row * at.key_stride, a.key_stride = at.key_stride;
      a.delayed = base + at.delayed + span.row * at.inner_stride, a.delayed_stride = at.inner_stride;
      const std::int64_t factors = span.row * at.factor_stride;
      a.step = base + at.step + factors, a.shrink = base + at.shrink + factors, a.skip = base + at.skip + factors;
      a.factor_stride = at.factor_stride, a.tokens = span.tokens, a.begin = begin, a.end = end;
      ops.mamba3_inputs(a);
    }
  });
  split_ssd(ops, pass, [&](const Span& span) KLENS_INLINE_LAMBDA {
    SsdArgs a = ssd_args(ops, l, from, span, pass);
    a.x = base + at.delayed + span.row * at.inner_stride, a.x_stride = at.inner_stride, a.groups = s.ssm_heads;
    a.b = base + at.key + span.row * at.key_stride, a.c = base + at.query + span.row * at.key_stride;
    a.b_stride = a.c_stride = at.key_stride;
    const std::int64_t factors = span.row * at.factor_stride;
    a.step = base + at.step + factors, a.shrink = base + at.shrink + factors, a.skip = base + at.skip + factors;
    a.factor_stride = at.factor_stride;
    a.skip_x = base + at.in + span.row * at.in_stride + from + s.inner, a.skip_stride = at.in_stride;
    return a;
  });
}

/// What out_proj reads behind run_ssd or run_mamba3: the gated norm of `scan`, quantized in the same call where it can be.
template <class Ops, class Layer>
KLENS_INLINE decoder::Input ssd_output(const Ops& ops, Layer l, int from, const Pass& pass) {
  const Shape& s = ops.shape();
  const WorkspaceLayout& at = pass.work->at;
  const LayerView& layer = pass.model->layers[int(l)];
  float* y = pass.work->base + at.scan;
  if (s.norm_groups == 0) return {y, at.inner_stride, s.inner};
  GatedNormArgs a;
  a.x = y, a.x_stride = at.inner_stride, a.z = pass.work->base + at.in + from, a.z_stride = at.in_stride;
  a.weight = layer.gated_norm, a.y = y, a.y_stride = at.inner_stride, a.width = s.inner;
  a.group = s.inner / s.norm_groups, a.norm_before_gate = s.norm_before_gate, a.eps = s.inner_norm_eps;
  return decoder::made_input(
      ops, pass, y, at.inner_stride, s.inner, true,
      [&](int begin, int end) KLENS_INLINE_LAMBDA {
        GatedNormArgs part = a;
        part.begin = begin, part.end = end;
        ops.gated_norm(part);
      },
      [&](int begin, int end, bool, const QuantizeRowArgs& row) KLENS_INLINE_LAMBDA {
        GatedNormQuantizeArgs part{a, row};
        part.norm.begin = begin, part.norm.end = end;
        ops.gated_norm_quantize(part);
      },
      ops.precision(l, Role::out_proj, layer.out_proj));
}

/// What out_proj reads in a hymba layer: the mean of the two normed paths.
template <class Ops, class Layer>
KLENS_INLINE decoder::Input hymba_output(const Ops& ops, Layer l, const Pass& pass) {
  const Shape& s = ops.shape();
  const WorkspaceLayout& at = pass.work->at;
  const LayerView& layer = pass.model->layers[int(l)];
  MeanNormArgs a;
  a.a = pass.work->base + at.attention, a.b = pass.work->base + at.scan, a.stride = at.inner_stride;
  a.wa = layer.attention_norm, a.wb = layer.scan_norm, a.y = pass.work->base + at.attention, a.width = s.inner, a.eps = s.norm_eps;
  return decoder::made_input(
      ops, pass, a.y, at.inner_stride, s.inner, false,
      [&](int begin, int end) KLENS_INLINE_LAMBDA {
        MeanNormArgs part = a;
        part.begin = begin, part.end = end;
        ops.mean_norm(part);
      },
      [&](int begin, int end, bool, const QuantizeRowArgs& row) KLENS_INLINE_LAMBDA {
        MeanNormQuantizeArgs part{a, row};
        part.norm.y = nullptr, part.norm.begin = begin, part.norm.end = end;
        ops.mean_norm_quantize(part);
      },
      ops.precision(l, Role::out_proj, layer.out_proj));
}

/// LFM2's gated short convolution. B | C | x are the columns of `in`; writes `scan`.
template <class Ops, class Layer>
inline void run_short_conv(const Ops& ops, Layer l, const Pass& pass) {
  const Shape& s = ops.shape();
  const WorkspaceLayout& at = pass.work->at;
  const LayerView& layer = pass.model->layers[int(l)];
  const int groups = int(div_up(s.inner, lanes));
  decoder::split(pass.team, groups, decoder::conv_grain(groups, pass), [&](int begin, int end, int) {
    for (int i = 0; i < pass.span_count; ++i) {
      const Span& span = pass.spans[i];
      const LayerState& state = span.state->layers[int(l)];
      ShortConvArgs a;
      a.b = pass.work->base + at.in + span.row * at.in_stride, a.c = a.b + s.inner, a.x = a.c + s.inner, a.stride = at.in_stride;
      a.weight = layer.conv_weight, a.bias = layer.conv_bias;
      a.state = state.conv, a.format = state.conv_format, a.scales = state.conv_scales;
      a.y = pass.work->base + at.scan + span.row * at.inner_stride, a.y_stride = at.inner_stride;
      a.taps = s.conv_taps, a.channels = s.inner, a.tokens = span.tokens, a.begin = begin, a.end = end;
      ops.short_conv(a);
    }
  });
}

/// The shared block of layer l: x + block_out(..) into `block`.
template <class Ops, class Layer>
inline void run_block(const Ops& ops, Layer l, const InColumns& columns, const Pass& pass) {
  using decoder::Input, decoder::Target, decoder::project;
  const Shape& s = ops.shape();
  const WorkspaceLayout& at = pass.work->at;
  const LayerView& layer = pass.model->layers[int(l)];
  float *base = pass.work->base, *x = base + at.x, *block = base + at.block, *in = base + at.in;
  const auto precision = [&](Role role) KLENS_INLINE_LAMBDA { return ops.precision(l, role, site_of(layer, role)); };
  const std::int64_t third = pass.tokens * at.adapter_stride;
  float* rank[3] = {base + at.adapter, base + at.adapter + third, base + at.adapter + 2 * third};
  const auto rank_rows = [&](int i) KLENS_INLINE_LAMBDA { return Input{rank[i], at.adapter_stride, s.adapter_rank}; };
  const bool adapts_heads = s.adapter_rank > 0 && s.attention_adapters;

  decoder::copy_columns(pass, x, at.hidden_stride, base + at.pair, at.pair_stride, s.hidden);
  decoder::copy_columns(pass, base + at.first, at.hidden_stride, base + at.pair + s.hidden, at.pair_stride, s.hidden);
  Input n = decoder::normed_input(ops, pass, base + at.pair, at.pair_stride, layer.block_norm, base + at.pair_normed, at.pair_stride,
                                  2 * s.hidden, s.norm_eps, adapts_heads, precision(Role::q_proj), precision(Role::k_proj),
                                  precision(Role::v_proj));
  float *q = in, *k = in + columns.k, *v = in + columns.v;
  if (adapts_heads) {
    Input same{base + at.pair_normed, at.pair_stride, 2 * s.hidden};
    project(ops, pass, l, same, Target<Role::q_adapter_in>{&layer.q_adapter_in, rank[0], at.adapter_stride},
            Target<Role::k_adapter_in>{&layer.k_adapter_in, rank[1], at.adapter_stride},
            Target<Role::v_adapter_in>{&layer.v_adapter_in, rank[2], at.adapter_stride});
    Input of_q = rank_rows(0), of_k = rank_rows(1), of_v = rank_rows(2);
    project(ops, pass, l, of_q, Target<Role::q_adapter_out>{&layer.q_adapter_out, q, at.in_stride});
    project(ops, pass, l, of_k, Target<Role::k_adapter_out>{&layer.k_adapter_out, k, at.in_stride});
    project(ops, pass, l, of_v, Target<Role::v_adapter_out>{&layer.v_adapter_out, v, at.in_stride});
    n = {base + at.pair_normed, at.pair_stride, 2 * s.hidden};   // the quantized buffers hold other rows now
  }
  project(ops, pass, l, n, Target<Role::q_proj>{&layer.q_proj, q, at.in_stride, adapts_heads ? q : nullptr},
          Target<Role::k_proj>{&layer.k_proj, k, at.in_stride, adapts_heads ? k : nullptr},
          Target<Role::v_proj>{&layer.v_proj, v, at.in_stride, adapts_heads ? v : nullptr});
  run_attention(ops, l, columns, pass);
  Input heads{base + at.attention, at.heads_stride, s.heads * s.v_dim};
  project(ops, pass, l, heads, Target<Role::o_proj>{&layer.o_proj, block, at.hidden_stride});

  const bool adapts = s.adapter_rank > 0;
  float *gate = base + at.gate, *up = base + at.up;
  n = decoder::normed_input(ops, pass, block, at.hidden_stride, layer.ffn_norm, base + at.normed, at.hidden_stride, s.hidden, s.norm_eps,
                            adapts, precision(Role::gate_proj), precision(Role::up_proj));
  if (adapts) {
    Input same{base + at.normed, at.hidden_stride, s.hidden};
    project(ops, pass, l, same, Target<Role::ffn_adapter_in>{&layer.ffn_adapter_in, rank[0], at.adapter_stride});
    Input rows = rank_rows(0);
    project(ops, pass, l, rows, Target<Role::gate_adapter_out>{&layer.gate_adapter_out, gate, at.ffn_stride},
            Target<Role::up_adapter_out>{&layer.up_adapter_out, up, at.ffn_stride});
    n = {base + at.normed, at.hidden_stride, s.hidden};
  }
  project(ops, pass, l, n, Target<Role::gate_proj>{&layer.gate_proj, gate, at.ffn_stride, adapts ? gate : nullptr},
          Target<Role::up_proj>{&layer.up_proj, up, at.ffn_stride, adapts ? up : nullptr});
  decoder::split(pass.team, pass.tokens, decoder::token_grain, [&](int begin, int end, int) {
    ops.geglu({gate, up, up, at.ffn_stride, s.ffn, begin, end});
  });
  Input product{up, at.ffn_stride, s.ffn};
  project(ops, pass, l, product, Target<Role::down_proj>{&layer.down_proj, base + at.normed, at.hidden_stride});
  Input out{base + at.normed, at.hidden_stride, s.hidden};
  project(ops, pass, l, out, Target<Role::block_out>{&layer.block_out, block, at.hidden_stride, x});
}

/// The mixer of layer l on x, in place.
template <Mixer M, class Ops, class Layer>
inline void run_mixer(const Ops& ops, Layer l, const Pass& pass) {
  const Shape& s = ops.shape();
  const WorkspaceLayout& at = pass.work->at;
  const LayerView& layer = pass.model->layers[int(l)];
  float* base = pass.work->base;
  float* x = base + at.x;
  const InColumns columns = in_columns(s, M, ops.kv_source(l) == int(l));
  float* in = base + at.in;
  const float* stream = x;   // what the mixer's norm reads
  const auto normed = [&](const auto&... readers) KLENS_INLINE_LAMBDA {
    return decoder::normed_input(ops, pass, stream, at.hidden_stride, layer.input_norm, base + at.normed, at.hidden_stride, s.hidden,
                                 s.norm_eps, false, readers...);
  };
  const auto precision = [&](Role role) KLENS_INLINE_LAMBDA { return ops.precision(l, role, site_of(layer, role)); };
  using decoder::Target;
  const auto out_proj = [&](decoder::Input y) KLENS_INLINE_LAMBDA {
    decoder::project(ops, pass, l, y, Target<Role::out_proj>{&layer.out_proj, x, at.hidden_stride, x});
  };
  if constexpr (has_block(M)) {
    run_block(ops, l, columns, pass);
    stream = base + at.block;
    decoder::Input n = normed(precision(Role::in_proj));
    decoder::project(ops, pass, l, n, Target<Role::in_proj>{&layer.in_proj, in + columns.in_proj, at.in_stride});
  } else if constexpr (has_qkvo(M)) {
    const Target<Role::q_proj> q{&layer.q_proj, in, at.in_stride};
    const Target<Role::k_proj> k{&layer.k_proj, in + columns.k, at.in_stride};
    const Target<Role::v_proj> v{&layer.v_proj, in + columns.v, at.in_stride};
    const bool own_kv = ops.kv_source(l) == int(l);
    if constexpr (M == Mixer::parallel) {
      decoder::Input n = normed(precision(Role::in_proj), precision(Role::q_proj), precision(Role::k_proj), precision(Role::v_proj));
      const Target<Role::in_proj> ssd{&layer.in_proj, in + columns.in_proj, at.in_stride};
      if (own_kv) decoder::project(ops, pass, l, n, ssd, q, k, v);
      else decoder::project(ops, pass, l, n, ssd, q);
    } else if (own_kv) {
      decoder::Input n = normed(precision(Role::q_proj), precision(Role::k_proj), precision(Role::v_proj));
      decoder::project(ops, pass, l, n, q, k, v);
    } else {
      decoder::Input n = normed(precision(Role::q_proj));
      decoder::project(ops, pass, l, n, q);
    }
  } else {
    decoder::Input n = normed(precision(Role::in_proj));
    decoder::project(ops, pass, l, n, Target<Role::in_proj>{&layer.in_proj, in, at.in_stride});
  }
  if constexpr (M == Mixer::conv_attention) run_conv<true>(ops, l, 0, columns.total, nullptr, pass);
  if constexpr (has_attention(M) && !has_block(M)) run_attention(ops, l, columns, pass);
  if constexpr (has_scan(M)) run_scan(ops, l, M == Mixer::hymba ? columns.total - 2 * s.inner : columns.in_proj, pass);
  if constexpr (has_ssd(M)) run_ssd(ops, l, columns.in_proj, pass);
  if constexpr (M == Mixer::mamba3) run_mamba3(ops, l, columns.in_proj, pass);
  if constexpr (M == Mixer::short_conv) run_short_conv(ops, l, pass);
  if constexpr (M == Mixer::hymba) out_proj(hymba_output(ops, l, pass));
  else if constexpr (M == Mixer::conv_attention) out_proj({base + at.attention, at.heads_stride, s.heads * s.v_dim});
  else if constexpr (has_ssd_state(M)) out_proj(ssd_output(ops, l, columns.in_proj, pass));
  else if constexpr (has_conv(M)) out_proj({base + at.scan, at.inner_stride, s.inner});
  if constexpr (has_qkvo(M) && !has_block(M)) {
    decoder::Input y{base + at.attention, at.heads_stride, s.heads * s.v_dim};
    decoder::project(ops, pass, l, y, Target<Role::o_proj>{&layer.o_proj, x, at.hidden_stride, x});
  }
}

/// down( silu(gate n) * up n ) or down( max(up n, 0)^2 ) (+ residual) of a layer's ffn or of one of its experts, of `width`
/// columns inside. `sites`: that LayerView or ExpertView; Up, Down: the roles of its linears.
template <Ffn F, Role Up = Role::up_proj, Role Down = Role::down_proj, class Ops, class Layer, class Sites>
KLENS_INLINE void run_linears(const Ops& ops, Layer l, const Sites& sites, decoder::Input& n, int width, float* y,
                             std::int64_t y_stride, const float* residual, const Pass& pass) {
  const WorkspaceLayout& at = pass.work->at;
  float* base = pass.work->base;
  Epilogue act;
  decoder::Input product{base + at.up, at.ffn_stride, width};
  const SiteView &up_site = site_of(sites, Up), &down_site = site_of(sites, Down);
  if (ops.precision(l, Down, down_site).activation != Activation::f32) {
    act.absmax = base + at.absmax, act.absmax_stride = at.absmax_stride;
    product.absmax = act.absmax, product.absmax_stride = at.absmax_stride;
  }
  const decoder::Target<Up> up{&up_site, base + at.up, at.ffn_stride, nullptr, &act};
  if constexpr (F == Ffn::relu2) {
    act.relu2 = true;
    decoder::project(ops, pass, l, n, up);
  } else {
    act.gate = base + at.gate, act.gate_stride = at.ffn_stride, act.silu_of_gate = true;
    decoder::project(ops, pass, l, n, decoder::Target<Role::gate_proj>{&sites.gate_proj, base + at.gate, at.ffn_stride}, up);
  }
  decoder::project(ops, pass, l, product, decoder::Target<Down>{&down_site, y, y_stride, residual});
}

/// The experts of layer l, chosen by the normed rows `n` (floats), on the rows `in` (floats; may be n), added to rows of `to`.
template <Ffn F, class Ops, class Layer>
inline void run_experts(const Ops& ops, Layer l, const decoder::Input& n, decoder::Input& rows_in, float* to, std::int64_t to_stride,
                        const Pass& pass) {
  using decoder::split;
  const Shape& s = ops.shape();
  const WorkspaceLayout& at = pass.work->at;
  const LayerView& layer = pass.model->layers[int(l)];
  float* base = pass.work->base;
  RouteArgs r;
  r.x = n.x, r.x_stride = n.stride, r.hidden = s.hidden, r.experts = s.experts, r.used = s.experts_used;
  r.softmax_of_all = s.softmax_of_all, r.groups = s.router_groups, r.groups_used = s.router_groups_used, r.normed = s.router_normed;
  r.scale = s.router_scale, r.bias = layer.router_bias, r.router = layer.router, r.logits = base + at.logits;
  r.chosen = reinterpret_cast<std::int32_t*>(base + at.chosen), r.weight = base + at.weight;
  split(pass.team, pass.tokens, decoder::token_grain, [&](int begin, int end, int) {
    RouteArgs a = r;
    a.begin = begin, a.end = end;
    ops.route(a);
  });
  const std::int64_t weight_stride = round_up(s.experts_used, lanes);
  std::int32_t* rows = reinterpret_cast<std::int32_t*>(base + at.routed_rows);
  float* weight = base + at.routed_weight;
  for (int e = 0; e < s.experts; ++e) {
    int count = 0;
    for (int t = 0; t < pass.tokens; ++t)
      for (int i = 0; i < s.experts_used; ++i)
        if (r.chosen[t * s.experts_used + i] == e) rows[count] = t, weight[count++] = r.weight[t * weight_stride + i];
    if (count == 0) continue;
    if (pass.routed != nullptr) pass.routed[std::int64_t(int(l)) * s.experts + e] += count;
    Pass part = pass;
    part.tokens = count;
    decoder::Input gathered{base + at.gathered, rows_in.stride, rows_in.cols};
    // Where all tokens pass the expert, as a single one does, its rows are all rows.
    decoder::Input& in = count == pass.tokens ? rows_in : gathered;
    if (count < pass.tokens)
      split(pass.team, count, decoder::token_grain, [&](int begin, int end, int) {
        for (int i = begin; i < end; ++i)
          __builtin_memcpy(base + at.gathered + i * rows_in.stride, rows_in.x + rows[i] * rows_in.stride, std::size_t(rows_in.stride) * sizeof(float));
      });
    run_linears<F>(ops, decoder::ExpertOf{int(l)}, layer.experts[e], in, s.expert_ffn, base + at.expert, to_stride, nullptr, part);
    rows_in.held = Activation::f32, rows_in.integers = rows_in.floats = rows_in.rounded = false;   // the quantized buffers hold down_proj's rows now
    split(pass.team, count, decoder::token_grain, [&](int begin, int end, int) {
      AddRowsArgs a;
      a.y = base + at.expert, a.x = to, a.stride = to_stride, a.row = rows, a.weight = weight, a.width = rows_in.cols;
      a.begin = begin, a.end = end;
      ops.add_rows(a);
    });
  }
}

/// The ffn of layer l on x, in place.
template <Ffn F, class Ops, class Layer>
inline void run_ffn(const Ops& ops, Layer l, const Pass& pass) {
  const Shape& s = ops.shape();
  const WorkspaceLayout& at = pass.work->at;
  const LayerView& layer = pass.model->layers[int(l)];
  float* base = pass.work->base;
  float* x = base + at.x;
  [[maybe_unused]] const auto precision = [&](Role role) KLENS_INLINE_LAMBDA { return ops.precision(l, role, site_of(layer, role)); };
  [[maybe_unused]] const auto normed = [&](const auto&... readers) KLENS_INLINE_LAMBDA {
    return decoder::normed_input(ops, pass, x, at.hidden_stride, layer.ffn_norm, base + at.normed, at.hidden_stride, s.hidden,
                                 s.norm_eps, has_experts(F), readers...);
  };
  if constexpr (F == Ffn::moe) {
    decoder::norm(ops, pass, x, at.hidden_stride, layer.ffn_norm, base + at.normed, at.hidden_stride, s.hidden, s.norm_eps);
    decoder::Input n{base + at.normed, at.hidden_stride, s.hidden};
    run_experts<Ffn::swiglu>(ops, l, n, n, x, at.hidden_stride, pass);
  } else if constexpr (F == Ffn::relu2) {
    decoder::Input n = normed(precision(Role::up_proj));
    run_linears<F>(ops, l, layer, n, s.ffn, x, at.hidden_stride, x, pass);
  } else if constexpr (F == Ffn::moe_relu2) {
    decoder::Input n = normed(precision(Role::shared_up));
    run_linears<Ffn::relu2, Role::shared_up, Role::shared_down>(ops, l, layer, n, s.shared_ffn, x, at.hidden_stride, x, pass);
    decoder::Input again{base + at.normed, at.hidden_stride, s.hidden};
    if (s.expert_latent == 0) return run_experts<Ffn::relu2>(ops, l, again, again, x, at.hidden_stride, pass);
    decoder::project(ops, pass, l, again, decoder::Target<Role::latent_in>{&layer.latent_in, base + at.latent, at.expert_stride});
    decoder::Input latent{base + at.latent, at.expert_stride, s.expert_latent}, sum{base + at.latent_sum, at.expert_stride, s.expert_latent};
    decoder::split(pass.team, pass.tokens, decoder::token_grain, [&](int begin, int end, int) {
      __builtin_memset(base + at.latent_sum + begin * at.expert_stride, 0, std::size_t((end - begin) * at.expert_stride) * sizeof(float));
    });
    run_experts<Ffn::relu2>(ops, l, again, latent, base + at.latent_sum, at.expert_stride, pass);
    decoder::project(ops, pass, l, sum, decoder::Target<Role::latent_out>{&layer.latent_out, x, at.hidden_stride, x});
  } else {
    decoder::Input n = normed(precision(Role::gate_proj), precision(Role::up_proj));
    run_linears<Ffn::swiglu>(ops, l, layer, n, s.ffn, x, at.hidden_stride, x, pass);
    if constexpr (F == Ffn::moe_shared) {
      decoder::Input again{base + at.normed, at.hidden_stride, s.hidden};
      run_experts<Ffn::swiglu>(ops, l, again, again, x, at.hidden_stride, pass);
    }
  }
}

/// Layer l on x, in place.
template <class Ops, class Layer>
inline void run_layer(const Ops& ops, Layer l, const Pass& pass) {
  ops.with_mixer(l, [&](auto kind) KLENS_INLINE_LAMBDA { run_mixer<kind.value>(ops, l, pass); });
  ops.with_ffn(l, [&](auto kind) KLENS_INLINE_LAMBDA { run_ffn<kind.value>(ops, l, pass); });
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
    return decoder::norm(ops, part, x, at.hidden_stride, weight, normed, at.hidden_stride, s.hidden, s.norm_eps);
  decoder::Input last =
      decoder::normed_input(ops, part, x, at.hidden_stride, weight, normed, at.hidden_stride, s.hidden, s.norm_eps, true,
                            ops.precision(l, Role::lm_head, pass.model->head));
  decoder::project(ops, part, l, last, decoder::Target<Role::lm_head>{&pass.model->head, logits, stride});
}

}  // namespace klens::inline KLENS_NS
