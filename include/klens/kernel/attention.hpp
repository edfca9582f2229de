// Causal attention with an optional sliding window and always visible meta tokens, over a cache of f32, f16, s8 or s4
// (kernel/sequence_args.hpp, AttentionArgs and KvView).
//
//   s[j] = scale * (q[0] k[j][0] + q[1] k[j][1] + ...)                 kernel/attention_tiles.hpp
//   for each partition P of 256 positions, in order:                   one pass of softmax
//     m = max_P s;   p[j] = exp(s[j] - m);   l = sum_P p;   o = sum_P p[j] v[j]
//     M' = max(M, m);   a = exp(M - M');   b = exp(m - M');   M = M';   L = a L + b l;   O = a O + b o
//   out = O / L
//
// Position j is visible to query i if j <= i and (window == 0 or i - j <= window or j < meta): two ranges [0, meta_end)
// and [low, high). Every sum above depends on the query alone: partitions and blocks of 16 are aligned to absolute
// position, an invisible score adds +0 to a lane, an invisible value is not added at all, a partition of which nothing
// is visible is left out. So a query's bits do not depend on the other queries of its tile: prefill in any chunks,
// stepping, and partitions on different threads agree bit for bit.
// Rows of a tile are the query heads of a kv head, then neighbouring tokens: each load of K and V serves all of them,
// and with 4 heads or more to a kv head one token fills the registers, decode runs as prefill does.
// Quantized: K's scales multiply the sum of their group, V's the weights p, so codes enter the FMAs as they are.
// Cost: 2 (qk_dim + v_dim) FLOP per visible pair, and one exp; bytes: the visible K and V once per 8 query heads.
// Error: 1e-5 of max |v| against float64 of the cache's numbers: per partition that of one pass (an FMA chain of
// qk_dim, exp 1.1 ulp, a chain of 256), each merge adds 3 roundings. Against the numbers that went in, where columns of
// k and v are off by ek and ev at most: (exp(2 scale |q|.ek) - 1) max |v| + ev more.
// Oracle: tests/oracle/sequence.hpp; tests: tests/kernel/attention.cpp.
#pragma once

#include <klens/kernel/attention_tiles.hpp>
#include <klens/simd/math.hpp>

namespace klens::inline KLENS_NS {
namespace attention_detail {

inline constexpr int partition_blocks = attention_partition / lanes;

/// Visible positions of one query: [0, meta_end) and [low, high), meta_end <= low <= high. Absolute, or slots of a
/// partition.
struct Range { int meta_end, low, high; };

KLENS_INLINE Range visible_range(const AttentionArgs& a, int i) {
  if (a.window == 0) return {0, 0, i + 1};
  const int meta_end = least(a.meta, i + 1);
  return {meta_end, most(i - a.window, meta_end), i + 1};
}

KLENS_INLINE int slot_of(int position, int base) { return least(most(position - base, 0), attention_partition); }
KLENS_INLINE Range slots_of(const Range& r, int base) {
  return {slot_of(r.meta_end, base), slot_of(r.low, base), slot_of(r.high, base)};
}
KLENS_INLINE bool is_empty(const Range& r) { return r.meta_end == 0 && r.low >= r.high; }

/// x where the lanes of the block at slot `first` are visible, else `hidden`. Most blocks are wholly visible.
KLENS_INLINE v16f keep_visible(const Range& r, int first, v16f x, float hidden) {
  if ((first >= r.low && first + lanes <= r.high) || first + lanes <= r.meta_end) return x;
  const m16 meta = first_n(least(lanes, most(0, r.meta_end - first)));
  const m16 below = first_n(least(lanes, most(0, r.low - first)));
  const m16 until = first_n(least(lanes, most(0, r.high - first)));
  return select(meta | (until & !below), x, splat(hidden));
}

/// f(block) for the blocks of a range, ascending, each once.
template <class F>
KLENS_INLINE void for_blocks(const Range& r, F&& f) {
  const int meta_blocks = int(div_up(r.meta_end, lanes)), blocks = int(div_up(r.high, lanes));
  for (int b = 0; b < meta_blocks; ++b) f(b);
  for (int b = most(meta_blocks, r.low / lanes); b < blocks; ++b) f(b);
}

/// Scores of one row become exp(s - m), 0 where invisible.
struct Softmax { float m, l; };
KLENS_INLINE Softmax exponentials(float* score, const Range& r) {
  v16f top = splat(-__builtin_inff());
  for_blocks(r, [&](int b) KLENS_INLINE_LAMBDA {
    top = max(top, keep_visible(r, b * lanes, load(score + b * lanes), -__builtin_inff()));
  });
  const float m = max_of(top);
  const v16f largest = splat(m);
  v16f total = zero();
  for_blocks(r, [&](int b) KLENS_INLINE_LAMBDA {
    const v16f p = keep_visible(r, b * lanes, exp_below_88(load(score + b * lanes) - largest), 0.0f);
    store(score + b * lanes, p);
    total = total + p;
  });
  return {m, sum(total)};
}

/// M, L of rows, and what one more partition (m, l) multiplies: the running sums by a, its own by b. Nothing changes
/// where l == 0: no position was visible.
struct Join { v16f m, l, a, b; };
KLENS_INLINE Join join(v16f big_m, v16f big_l, v16f m, v16f l) {
  const m16 some = gt(l, zero());
  const v16f top = select(some, max(big_m, m), big_m);
  const v16f a = exp_below_88(big_m - top), b = exp_below_88(m - top);  // from -inf: 1e-38 times the zero it began with
  return {top, select(some, fma(l, b, big_l * a), big_l), a, b};
}

/// One work item: some query heads of a kv head, some tokens; row = token * heads + head.
struct Item {
  int tokens, heads, rows, piece;              // piece: rows of a tile
  int position;                                // of the first token
  const unsigned char* k; std::int64_t block_bytes;
  const unsigned char* v; std::int64_t row_bytes;
  const bf16* k_scale; const bf16* v_scale; std::int64_t capacity;
  int qk_dim, v_dim;
  float* out; std::int64_t out_stride;         // of token 0's first head
  float* partial; std::int64_t partial_head, partial_token;
  float* q; float* score; float* big_m; float* big_l; float* weight; float* o;
};

/// The widest tile that holds whole tokens; heads that do not fit are cut evenly.
KLENS_INLINE int piece_of(int heads, int rows) {
  const int piece = heads > most_rows ? int(div_up(heads, div_up(heads, most_rows))) : most_rows / heads * heads;
  return least(piece, rows);
}

/// Scores of all rows for blocks [begin, end) of the partition at `base`. A strip of K stays in L1 for all tiles.
template <State F>
KLENS_INLINE void score_blocks(const Item& x, float scale, int base, int begin, int end) {
  constexpr int strip_blocks = 8;
  const int strip = x.rows > x.piece ? strip_blocks / 2 : strip_blocks;
  for (int b = begin; b < end; b += strip) {
    Strip s;
    s.k = x.k + (base / lanes + b) * x.block_bytes, s.block_bytes = x.block_bytes;
    s.k_scale = is_quantized_kv(F) ? x.k_scale + base + b * lanes : nullptr, s.capacity = x.capacity;
    s.blocks = least(strip, end - b), s.qk_dim = x.qk_dim, s.scale = scale;
    for (int row = 0; row < x.rows; row += x.piece) {
      s.q = x.q + row * q_stride, s.score = x.score + row * score_stride + b * lanes;
      with_rows(least(x.piece, x.rows - row), [&]<int M>(std::integral_constant<int, M>) KLENS_INLINE_LAMBDA {
        score_strip<F, M>(s);
      });
    }
  }
}

/// o[row ..] += values of slots [begin, end), visible to all `rows` rows, weighted by p.
template <State F>
KLENS_INLINE void mix_rows(Mix m, int rows, int begin, int end) {
  for (; begin < end; begin = m.end) {
    m.begin = begin, m.end = least(begin + strip_rows, end);
    with_rows(rows, [&]<int M>(std::integral_constant<int, M>) KLENS_INLINE_LAMBDA { mix<F, M>(m); });
  }
}

/// All slots of `rows` rows from `row` on, ascending for each: meta tokens of all, what only some see of them, the low
/// edge of each, what all see, the high edge of each. Rows of one token have no edges.
template <State F>
KLENS_INLINE void mix_ranges(const Mix& m, int rows, const Range* range) {
  const Range first = range[0], last = range[rows - 1];
  const int begin = last.low, end = most(begin, first.high);
  const auto alone = [&](int i, int from, int to) KLENS_INLINE_LAMBDA {
    if (from >= to) return;
    Mix one = m;
    one.p += i * score_stride, one.o += i * o_stride, one.begin = from, one.end = to;
    mix<F, 1>(one);
  };
  mix_rows<F>(m, rows, 0, first.meta_end);
  for (int i = 0; i < rows; ++i) {
    alone(i, first.meta_end, range[i].meta_end);
    alone(i, range[i].low, least(range[i].high, begin));
  }
  mix_rows<F>(m, rows, begin, end);
  for (int i = 0; i < rows; ++i) alone(i, most(range[i].low, end), range[i].high);
}

/// o of `rows` rows from `row` on: values of the partition at `base` weighted by the rows' exponentials.
template <State F>
KLENS_INLINE void mix_partition(const Item& x, int row, int rows, int base, const Range* range) {
  const int vectors = int(div_up(x.v_dim, lanes));
  for (int i = 0; i < rows; ++i)
    for (int c = 0; c < round_up(vectors, 2); ++c) store(x.o + i * o_stride + c * lanes, zero());
  Mix m;
  m.v = x.v + base * x.row_bytes, m.row_bytes = x.row_bytes, m.o = x.o;
  m.p = x.score + row * score_stride, m.first = 0, m.count = vectors, m.begin = m.end = 0;
  if constexpr (!is_quantized_kv(F)) {
    mix_ranges<F>(m, rows, range);
  } else {
    const bf16* scale = x.v_scale + base;
    const int group = int(div_up(kv_group(F, x.v_dim), lanes));
    m.p = x.weight;
    for (; m.first < vectors; m.first += group, scale += x.capacity) {
      m.count = least(group, vectors - m.first);
      for (int i = 0; i < rows; ++i)
        for_blocks(range[i], [&](int b) KLENS_INLINE_LAMBDA {
          const float* p = x.score + (row + i) * score_stride + b * lanes;
          store(x.weight + i * score_stride + b * lanes, load(p) * load_bf16(scale + b * lanes));
        });
      mix_ranges<F>(m, rows, range);
    }
  }
}

/// out[c] = out[c] a + o[c] b
KLENS_INLINE void add_scaled(float* out, const float* o, float a, float b, int dim) {
  int c = 0;
  for (; c + lanes <= dim; c += lanes) store(out + c, fma(load(o + c), splat(b), load(out + c) * splat(a)));
  if (c < dim) store_n(out + c, fma(load(o + c), splat(b), load_n(out + c, dim - c) * splat(a)), dim - c);
}

KLENS_INLINE void set_zero(float* out, int dim) {
  for (int c = 0; c < dim; c += lanes) store_n(out + c, zero(), least(lanes, dim - c));
}

KLENS_INLINE void divide(float* out, float by, int dim) {
  for (int c = 0; c < dim; c += lanes) {
    const int n = least(lanes, dim - c);
    store_n(out + c, load_n(out + c, n) / splat(by), n);
  }
}

/// One partition for all rows: into the running sums and out, or to its place in `partial`.
template <State F>
KLENS_NOINLINE void run_partition(const AttentionArgs& a, const Item& x, int index) {
  const int base = index * attention_partition;
  const Range first = slots_of(visible_range(a, x.position), base);
  const Range last = slots_of(visible_range(a, x.position + x.tokens - 1), base);
  const int meta_blocks = int(div_up(last.meta_end, lanes));
  score_blocks<F>(x, a.scale, base, 0, meta_blocks);
  score_blocks<F>(x, a.scale, base, most(meta_blocks, first.low / lanes), int(div_up(last.high, lanes)));
  for (int row = 0; row < x.rows; row += x.piece) {
    const int rows = least(x.piece, x.rows - row);
    Range range[attention_tile_rows];
    alignas(64) float m[lanes] = {}, l[lanes] = {}, scale_a[lanes], scale_b[lanes];
    for (int i = 0; i < rows; ++i) {
      range[i] = slots_of(visible_range(a, x.position + (row + i) / x.heads), base);
      const Softmax s = is_empty(range[i]) ? Softmax{0, 0} : exponentials(x.score + (row + i) * score_stride, range[i]);
      m[i] = s.m, l[i] = s.l;
    }
    mix_partition<F>(x, row, rows, base, range);
    if (x.partial != nullptr) {
      for (int i = 0; i < rows; ++i) {
        float* to = x.partial + (row + i) / x.heads * x.partial_token + (row + i) % x.heads * x.partial_head;
        int c = 0;
        for (; c < x.v_dim; c += lanes) store(to + c, load(x.o + i * o_stride + c));
        to[c] = m[i], to[c + 1] = l[i];
      }
      continue;
    }
    const Join j = join(load(x.big_m + row), load(x.big_l + row), load(m), load(l));
    store_n(x.big_m + row, j.m, rows), store_n(x.big_l + row, j.l, rows);
    store(scale_a, j.a), store(scale_b, j.b);
    for (int i = 0; i < rows; ++i)
      if (l[i] != 0)
        add_scaled(x.out + (row + i) / x.heads * x.out_stride + (row + i) % x.heads * x.v_dim, x.o + i * o_stride,
                   scale_a[i], scale_b[i], x.v_dim);
  }
}

template <State F>
KLENS_INLINE void run_item(const AttentionArgs& a, const Item& x, int partition) {
  for (int row = 0; row < x.rows; ++row) {
    const float* q = a.q + (x.position - a.position + row / x.heads) * a.q_stride + row % x.heads * x.qk_dim;
    int d = 0;
    for (; d + lanes <= x.qk_dim; d += lanes) store(x.q + row * q_stride + d, load(q + d));
    if (d < x.qk_dim) store(x.q + row * q_stride + d, load_n(q + d, x.qk_dim - d));
  }
  const auto visible = [&](int index) KLENS_INLINE_LAMBDA {
    const int base = index * attention_partition;
    const Range last = slots_of(visible_range(a, x.position + x.tokens - 1), base);
    const Range first = slots_of(visible_range(a, x.position), base);
    return last.meta_end > 0 || first.low < last.high;
  };
  if (x.partial != nullptr) return run_partition<F>(a, x, partition);
  for (int row = 0; row < x.rows; ++row) {
    x.big_m[row] = -__builtin_inff(), x.big_l[row] = 0;
    set_zero(x.out + row / x.heads * x.out_stride + row % x.heads * x.v_dim, x.v_dim);
  }
  const int end = attention_partitions(x.position + x.tokens);
  for (int index = 0; index < end; ++index)
    if (visible(index)) run_partition<F>(a, x, index);
  for (int row = 0; row < x.rows; ++row)
    divide(x.out + row / x.heads * x.out_stride + row % x.heads * x.v_dim, x.big_l[row], x.v_dim);
}

template <State F>
KLENS_NOINLINE void attention_of(const AttentionArgs& a) {
  const KvView& cache = a.cache;
  const int tiles = int(div_up(a.tokens, query_tile)), per_kv = a.heads / cache.kv_heads;
  const int cuts = int(div_up(per_kv, query_heads)), partitions = a.partial != nullptr ? a.partitions : 1;
  Item x;
  x.block_bytes = kv_k_block_bytes(F, cache.qk_dim), x.row_bytes = kv_v_row_bytes(F, cache.v_dim);
  x.capacity = cache.capacity, x.qk_dim = cache.qk_dim, x.v_dim = cache.v_dim, x.out_stride = a.out_stride;
  x.q = a.scratch, x.score = x.q + attention_rows * q_stride;
  x.big_m = x.score + attention_rows * score_stride, x.big_l = x.big_m + attention_rows + lanes;
  x.weight = x.big_l + attention_rows + lanes, x.o = x.weight + attention_tile_rows * score_stride;
  for (int i = a.begin; i < a.end; ++i) {
    const int partition = i % partitions, item = i / partitions, tile = item % tiles, group = item / tiles;
    const int kv_head = group / cuts, cut = group % cuts;
    const int begin = per_kv * cut / cuts, head = kv_head * per_kv + begin, t = tile * query_tile;
    x.heads = per_kv * (cut + 1) / cuts - begin, x.tokens = least(query_tile, a.tokens - t);
    x.rows = x.heads * x.tokens, x.piece = piece_of(x.heads, x.rows), x.position = a.position + t;
    x.k = static_cast<const unsigned char*>(cache.k) + kv_head * (x.capacity / lanes) * x.block_bytes;
    x.v = static_cast<const unsigned char*>(cache.v) + kv_head * x.capacity * x.row_bytes;
    if constexpr (is_quantized_kv(F)) {
      x.k_scale = cache.k_scale + kv_head * x.capacity * kv_groups(F, x.qk_dim);
      x.v_scale = cache.v_scale + kv_head * x.capacity * kv_groups(F, x.v_dim);
    } else x.k_scale = x.v_scale = nullptr;
    const std::int64_t stride = attention_partial_stride(x.v_dim);
    x.partial_head = a.partitions * stride, x.partial_token = a.heads * x.partial_head;
    x.partial = a.partial == nullptr ? nullptr
                                     : a.partial + t * x.partial_token + head * x.partial_head + partition * stride;
    x.out = a.out + t * a.out_stride + head * x.v_dim;
    const float* q = a.q + head * x.qk_dim;
    AttentionArgs here = a;
    here.q = q;
    run_item<F>(here, x, partition);
  }
}

}  // namespace attention_detail

inline void attention(const AttentionArgs& a) {
  using attention_detail::attention_of;
  KLENS_ASSERT(a.position + a.tokens <= a.cache.capacity && a.heads % a.cache.kv_heads == 0);
  KLENS_ASSERT(a.cache.qk_dim <= attention_most_dim && a.cache.v_dim <= attention_most_dim);
  switch (a.cache.format) {
    case State::f32: return attention_of<State::f32>(a);
    case State::f16: return attention_of<State::f16>(a);
    case State::s8: return attention_of<State::s8>(a);
    case State::s4: return attention_of<State::s4>(a);
    default: __builtin_trap();
  }
}

inline void attention_merge(const AttentionMergeArgs& a) {
  using namespace attention_detail;
  const std::int64_t stride = attention_partial_stride(a.v_dim);
  for (int row = a.begin; row < a.end; ++row) {
    float* out = a.out + row / a.heads * a.out_stride + row % a.heads * a.v_dim;
    v16f big_m = splat(-__builtin_inff()), big_l = zero();
    set_zero(out, a.v_dim);
    for (int p = 0; p < a.partitions; ++p) {
      const float* part = a.partial + (std::int64_t(row) * a.partitions + p) * stride;
      const float* ml = part + stride - lanes;
      if (ml[1] == 0) continue;
      const Join j = join(big_m, big_l, splat(ml[0]), splat(ml[1]));
      big_m = j.m, big_l = j.l;
      add_scaled(out, part, max_of(j.a), max_of(j.b), a.v_dim);
    }
    divide(out, max_of(big_l), a.v_dim);
  }
}

}  // namespace klens::inline KLENS_NS
