// Causal attention with an optional sliding window and always visible meta tokens (kernel/args.hpp, AttentionArgs).
//
//   s[j] = scale * (q[0] k[j][0] + q[1] k[j][1] + ...)      one FMA chain over d ascending; lane = position j
//   p[j] = exp(s[j] - max s);   total = sum p               16 lanes, blocks of 16 positions ascending, then the tree
//   out  = (p[0] v[0] + p[1] v[1] + ...) / total            one FMA chain over visible positions; lane = column
//
// Position j is visible to query i if j <= i and (window == 0 or i - j <= window or j < meta): two ranges [0,
// meta_end) and [low, high). Scores are kept for all positions of a tile of up to 8 queries (scratch), so the maximum
// is known before the first exponential: two passes, no rescaling. Every sum above depends on the query alone: blocks
// are aligned to absolute position, an invisible score adds +0 to a lane, an invisible value is not added at all. So a
// query's bits do not depend on the other queries of its tile: prefill in any chunks, and stepping, agree bit for bit.
// Loads of K and V are shared by the queries of a tile in registers: 8 queries x 2 vectors on AVX-512 (16
// accumulators), 4 x 1 on AVX2 (8 of 16 registers); one query takes 8 (4) vectors, enough independent chains to hide
// an FMA's 4 cycles.
// Cost: 2 (qk_dim + v_dim) FLOP per visible pair, and one exp. Error: 1e-5 of max |v| against
// float64. Oracle: tests/oracle/sequence.hpp, attention; tests tests/kernel/attention.cpp.
#pragma once

#include <klens/kernel/args.hpp>
#include <klens/simd/math.hpp>

namespace klens::inline KLENS_NS {
namespace attention_detail {

#if defined(KLENS_HAS_AVX512)
inline constexpr int most_queries = 8, accumulators = 16;
#elif defined(KLENS_HAS_AVX2)
inline constexpr int most_queries = 4, accumulators = 4;
#else
inline constexpr int most_queries = 1, accumulators = 1;  // ref: small code; the order of every sum is the same
#endif

/// Vectors per query that M queries keep in registers.
template <int M>
inline constexpr int vectors_of = accumulators / M < 8 ? accumulators / M : 8;

template <int N>
struct Count {};

KLENS_INLINE int least(int a, int b) { return a < b ? a : b; }
KLENS_INLINE int most(int a, int b) { return a > b ? a : b; }

/// Visible positions of one query: [0, meta_end) and [low, high), meta_end <= low.
struct Range { int meta_end, low, high; };

KLENS_INLINE Range visible_range(const AttentionArgs& a, int i) {
  if (a.window == 0) return {0, 0, i + 1};
  const int meta_end = least(a.meta, i + 1);
  return {meta_end, most(i - a.window, meta_end), i + 1};
}

/// x where the lanes of the block at `first` are visible, else `hidden`. Most blocks are wholly visible.
KLENS_INLINE v16f keep_visible(const Range& r, int first, v16f x, float hidden) {
  if ((first >= r.low && first + lanes <= r.high) || first + lanes <= r.meta_end) return x;
  const m16 meta = first_n(least(lanes, most(0, r.meta_end - first)));
  const m16 below = first_n(least(lanes, most(0, r.low - first)));
  const m16 until = first_n(least(lanes, most(0, r.high - first)));
  return select(meta | (until & !below), x, splat(hidden));
}

/// Calls f(Count<M>, i) for pieces of M queries i .. i + M - 1 that cover 0 .. queries - 1.
template <class F>
KLENS_INLINE void split_queries(int queries, F&& f) {
  int i = 0;
  if constexpr (most_queries == 8) {
    for (; queries - i >= 8; i += 8) f(Count<8>{}, i);
  }
  if constexpr (most_queries >= 4) {
    for (; queries - i >= 4; i += 4) f(Count<4>{}, i);
    for (; queries - i >= 2; i += 2) f(Count<2>{}, i);
  }
  for (; queries - i >= 1; i += 1) f(Count<1>{}, i);
}

/// One head's part of the arguments for one tile.
struct Tile {
  const float* q; std::int64_t q_stride;
  const float* k;                              // [capacity / 16][qk_dim][16]
  const float* v; std::int64_t v_stride;       // [capacity][v_stride]
  float* score; std::int64_t score_stride;     // [query_tile][positions]
  float* out; std::int64_t out_stride;
  int queries, qk_dim, v_dim;
  float scale;
};

/// Scores of M queries against B blocks of 16 positions.
template <int M, int B>
KLENS_INLINE void score_blocks(const Tile& tile, int query, int block) {
  v16f sum[M][B];
  for (int i = 0; i < M; ++i)
    for (int j = 0; j < B; ++j) sum[i][j] = zero();
  const float* q = tile.q + query * tile.q_stride;
  const std::int64_t block_stride = std::int64_t(tile.qk_dim) * lanes;
  const float* k = tile.k + block * block_stride;
  for (int d = 0; d < tile.qk_dim; ++d) {
    v16f key[B];
#pragma GCC unroll 8
    for (int j = 0; j < B; ++j) key[j] = load(k + j * block_stride + d * lanes);
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) {
      const v16f x = splat(q[i * tile.q_stride + d]);
#pragma GCC unroll 8
      for (int j = 0; j < B; ++j) sum[i][j] = fma(x, key[j], sum[i][j]);
    }
  }
  float* score = tile.score + query * tile.score_stride + std::int64_t(block) * lanes;
#pragma GCC unroll 8
  for (int i = 0; i < M; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < B; ++j) store(score + i * tile.score_stride + j * lanes, sum[i][j] * splat(tile.scale));
}

KLENS_INLINE void score_range(const Tile& tile, int begin, int end) {
  split_queries(tile.queries, [&]<int M>(Count<M>, int query) __attribute__((always_inline)) {
    int block = begin;
    if constexpr (vectors_of<M> > 1) {
      for (; block + vectors_of<M> <= end; block += vectors_of<M>) score_blocks<M, vectors_of<M>>(tile, query, block);
    }
    for (; block < end; ++block) score_blocks<M, 1>(tile, query, block);
  });
}

/// Scores of one query become exp(s - max), 0 where invisible; returns their sum.
KLENS_INLINE float exponentials(float* score, const Range& r) {
  const int meta_blocks = int(div_up(r.meta_end, lanes)), blocks = int(div_up(r.high, lanes));
  const int low_block = most(meta_blocks, r.low / lanes);
  v16f top = splat(-__builtin_inff());
  for (int b = meta_blocks > 0 ? 0 : low_block; b < blocks; b = b + 1 == meta_blocks ? low_block : b + 1)
    top = max(top, keep_visible(r, b * lanes, load(score + b * lanes), -__builtin_inff()));
  const v16f largest = splat(max_of(top));
  v16f total = zero();
  for (int b = meta_blocks > 0 ? 0 : low_block; b < blocks; b = b + 1 == meta_blocks ? low_block : b + 1) {
    const v16f p = keep_visible(r, b * lanes, exp_below_88(load(score + b * lanes) - largest), 0.0f);
    store(score + b * lanes, p);
    total = total + p;
  }
  return sum(total);
}

/// out[query + i][column ..] += sum_j p[query + i][j] v[j][column ..], C vectors of columns; n < 16 only with C == 1.
template <int M, int C>
KLENS_INLINE void mix_columns(const Tile& tile, int query, int begin, int end, int column, int n) {
  float* out = tile.out + query * tile.out_stride + column;
  v16f sum[M][C];
#pragma GCC unroll 8
  for (int i = 0; i < M; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < C; ++j) sum[i][j] = load_n(out + i * tile.out_stride + j * lanes, n);
  const float* p = tile.score + query * tile.score_stride;
  for (int t = begin; t < end; ++t) {
    const float* v = tile.v + t * tile.v_stride + column;
    v16f value[C];
#pragma GCC unroll 8
    for (int j = 0; j < C; ++j) value[j] = load(v + j * lanes);
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) {
      const v16f weight = splat(p[i * tile.score_stride + t]);
#pragma GCC unroll 8
      for (int j = 0; j < C; ++j) sum[i][j] = fma(weight, value[j], sum[i][j]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < M; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < C; ++j) store_n(out + i * tile.out_stride + j * lanes, sum[i][j], n);
}

/// Adds positions [begin, end), visible to all M queries, to their rows of `out`.
template <int M>
KLENS_INLINE void mix_range(const Tile& tile, int query, int begin, int end) {
  if (begin >= end) return;
  int column = 0;
  if constexpr (vectors_of<M> > 1) {
    for (; column + vectors_of<M> * lanes <= tile.v_dim; column += vectors_of<M> * lanes)
      mix_columns<M, vectors_of<M>>(tile, query, begin, end, column, lanes);
  }
  for (; column < tile.v_dim; column += lanes)
    mix_columns<M, 1>(tile, query, begin, end, column, least(lanes, tile.v_dim - column));
}

KLENS_INLINE void mix_shared(const Tile& tile, int begin, int end) {
  split_queries(tile.queries, [&]<int M>(Count<M>, int query) __attribute__((always_inline)) {
    mix_range<M>(tile, query, begin, end);
  });
}

/// What only some queries see, one query at a time; not inlined: few positions, and it keeps the code small.
KLENS_NOINLINE inline void mix_alone(const Tile& tile, int query, int begin, int end) {
  mix_range<1>(tile, query, begin, end);
}

}  // namespace attention_detail

inline void attention(const AttentionArgs& a) {
  using namespace attention_detail;
  const int tiles = int(div_up(a.tokens, query_tile)), heads_per_kv = a.heads / a.cache.kv_heads;
  const std::int64_t qk = a.cache.qk_dim, vd = a.cache.v_dim, v_stride = round_up(vd, lanes);
  const std::int64_t capacity = a.cache.capacity;
  KLENS_ASSERT(a.position + a.tokens <= capacity && a.heads % a.cache.kv_heads == 0);
  for (int item = a.begin; item < a.end; ++item) {
    const int head = item / tiles, t = item % tiles * query_tile, queries = least(query_tile, a.tokens - t);
    const int kv_head = head / heads_per_kv;
    const Tile tile{a.q + t * a.q_stride + head * qk, a.q_stride, a.cache.k + kv_head * capacity * qk,
                    a.cache.v + kv_head * capacity * v_stride, v_stride, a.scratch, capacity + lanes,
                    a.out + t * a.out_stride + head * vd, a.out_stride, queries, int(qk), int(vd), a.scale};
    const int i = a.position + t;
    const Range first = visible_range(a, i), last = visible_range(a, i + queries - 1);
    const int meta_blocks = int(div_up(last.meta_end, lanes));
    score_range(tile, 0, meta_blocks);
    score_range(tile, most(meta_blocks, first.low / lanes), int(div_up(last.high, lanes)));

    float total[query_tile];
    for (int query = 0; query < queries; ++query) {
      total[query] = exponentials(tile.score + query * tile.score_stride, visible_range(a, i + query));
      for (int c = 0; c < vd; c += lanes)
        store_n(tile.out + query * tile.out_stride + c, zero(), least(lanes, int(vd) - c));
    }
    // Ascending for every query: meta tokens of all, low edge of each, what all see, high edge of each.
    const int begin = last.low, end = most(begin, first.high);
    mix_shared(tile, 0, first.meta_end);
    for (int query = 0; query < queries; ++query) {
      const Range r = visible_range(a, i + query);
      mix_alone(tile, query, first.meta_end, r.meta_end);
      mix_alone(tile, query, r.low, least(r.high, begin));
    }
    mix_shared(tile, begin, end);
    for (int query = 0; query < queries; ++query) {
      const Range r = visible_range(a, i + query);
      mix_alone(tile, query, most(r.low, end), r.high);
    }
    for (int query = 0; query < queries; ++query)
      for (int c = 0; c < vd; c += lanes) {
        float* out = tile.out + query * tile.out_stride + c;
        const int n = least(lanes, int(vd) - c);
        store_n(out, load_n(out, n) / splat(total[query]), n);
      }
  }
}

}  // namespace klens::inline KLENS_NS
