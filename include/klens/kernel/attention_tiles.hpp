// The two inner loops of attention (kernel/attention.hpp) over one partition of positions, for M rows (query heads of a
// kv head, and neighbouring tokens) that share every load of K and V:
//
//   score_strip   score[r][j] = scale * sum_g ks[g][j] * (q[r][0] k[j][0] + q[r][1] k[j][1] + ...)   lane = position
//   mix           o[r][c] += p[r][t] v[t][c], t ascending                                            lane = column
//
// g: the groups of columns that share a scale (s4; one group for s8; f32 and f16 have no scale). Each sum in brackets
// is one FMA chain over d ascending; codes become floats in registers, exactly. Tiles are M rows x blocks_of<M>
// vectors: 8 x 2 to 1 x 8 on 32 registers, 6 x 1 to 1 x 4 on 16 that come in pairs: enough chains to hide an FMA's 4
// cycles, and more FMAs than loads. A tile that hangs over the end repeats the last block or vector: no tails.
#pragma once

#include <klens/kernel/args.hpp>
#include <klens/simd/cells.hpp>
#include <klens/simd/unroll.hpp>

namespace klens::inline KLENS_NS {
namespace attention_detail {

/// 16 numbers of a cache of f32, f16 or s8 as floats, exact.
template <State F>
KLENS_INLINE v16f load_cells(const unsigned char* p) {
  static_assert(F == State::f32 || F == State::f16 || F == State::s8);
  if constexpr (F == State::f32) return load(reinterpret_cast<const float*>(p));
  else if constexpr (F == State::f16) return load_half(reinterpret_cast<const half*>(p));
  else return to_float(load_i8(reinterpret_cast<const std::int8_t*>(p)));
}

/// The same of one register.
template <State F>
KLENS_INLINE part load_part_of(const unsigned char* p) {
  if constexpr (F == State::f32) return load_part(reinterpret_cast<const float*>(p));
  else if constexpr (F == State::f16) return load_part(reinterpret_cast<const half*>(p));
  else return load_part(reinterpret_cast<const std::int8_t*>(p));
}

#if defined(KLENS_HAS_AVX512)
inline constexpr int most_rows = 8;
template <int M>
inline constexpr int blocks_of = M == 1 ? 8 : M <= 6 ? 4 : 2;
#elif defined(KLENS_HAS_AVX2)
inline constexpr int most_rows = 6;
template <int M>
inline constexpr int blocks_of = M == 1 ? 4 : M == 2 ? 2 : 1;  // 3 x 2 takes 17 registers: 45 % of the peak, not 75
#else
inline constexpr int most_rows = 1;  // ref: small code; the order of every sum is the same
template <int M>
inline constexpr int blocks_of = 1;
#endif

inline constexpr int parts = lanes / part_lanes;
inline constexpr int q_stride = attention_row_stride, o_stride = attention_row_stride;
inline constexpr int score_stride = attention_score_stride;
static_assert(most_rows <= attention_tile_rows);

KLENS_INLINE constexpr int least(int a, int b) { return a < b ? a : b; }
KLENS_INLINE constexpr int most(int a, int b) { return a > b ? a : b; }

/// How far ahead K and V are fetched to L2. Cold, 5 heads, f16: 20 GB/s, against 11 without and 24 of the FMAs (Zen 4;
/// half as far 15, and to L1 no more than 12: its 24 misses in flight stall the loads that hit).
inline constexpr int blocks_ahead = 8, rows_ahead = 64;

/// Rows of V that are mixed in all their columns before the next ones. 256 bits take 16 columns at a time, so that 256
/// rows were walked 4 or 8 times, a line of each: f32 of 8192 positions from memory took 1.2 times as long (Zen 4). 512
/// bits take 64 columns or 32, and lost 3 % with every strip's sums read and written.
#if defined(KLENS_HAS_AVX512)
inline constexpr int strip_rows = attention_partition;
#else
inline constexpr int strip_rows = 64;
#endif

/// Registers of V side by side: as many chains as hide an FMA's 4 cycles. Parts of 16 lanes, since 3 rows on 256 bits take two
/// vectors, 12 chains, only where half a vector at a time is read (83 to 91 % of the FMA peak, with one vector 72). s4: an even
/// number. f32 of more than 4 heads on 512 bits: 2 instead of 4. Half a row of 128 columns at a time, 8192 positions took 1.1
/// to 1.4 times as long, the longer the less of them L3 held; from a cache both take the same.
template <State F, int M>
inline constexpr int columns_of = F == State::s4              ? (blocks_of<M> > 1 ? 2 * parts : 2)
                                  : F == State::f32 && M > 4 && blocks_of<M> > 2 ? 2
                                  : parts > 1 && M == 3       ? 4
                                                              : blocks_of<M> * parts;

/// f(integer constant M) for M = rows, 1 to most_rows.
template <class F>
KLENS_INLINE void with_rows(int rows, F&& f) {
  switch (rows) {
#define KLENS_ROWS(M) \
  case M: if constexpr (M <= most_rows) f(std::integral_constant<int, M>{}); break;
    KLENS_ROWS(1) KLENS_ROWS(2) KLENS_ROWS(3) KLENS_ROWS(4) KLENS_ROWS(5) KLENS_ROWS(6) KLENS_ROWS(7) KLENS_ROWS(8)
#undef KLENS_ROWS
    default: break;
  }
}

/// Some blocks of 16 positions against M rows of queries.
struct Strip {
  const float* q;              // [M][q_stride], zeros behind qk_dim
  const unsigned char* k;      // first block
  std::int64_t block_bytes;
  const bf16* k_scale;         // of the first position; next group: + capacity
  std::int64_t capacity;
  float* score;                // [M][score_stride], slot of the first position
  int blocks, qk_dim;
  float scale;
};

template <State F, int M>
KLENS_NOINLINE void score_strip(const Strip& s) {
  constexpr int B = blocks_of<M>;
  constexpr bool scaled = is_quantized_kv(F);
  [[maybe_unused]] const NibbleValues nibbles;
  const int group = kv_group(F, s.qk_dim);
  for (int block = 0; block < s.blocks; block += B) {
    const unsigned char* k[B];
    int slot[B];
    unroll<B>([&](int j) KLENS_INLINE_LAMBDA {
      const int at = least(block + j, s.blocks - 1);
      k[j] = s.k + at * s.block_bytes, slot[j] = at * lanes;
    });
    const float* q = s.q;
    const bf16* k_scale = s.k_scale;
    // K of a head is one stream: a later strip is fetched in equal parts with this one's steps, across partitions too.
    const unsigned char* ahead = s.k + (block + blocks_ahead) * s.block_bytes;
    const auto fetch = [&]() KLENS_INLINE_LAMBDA {
      constexpr int bytes = B * lanes * (F == State::s4 ? 2 : 1) * bits_of(F) / 8;
      unroll<(bytes + 63) / 64>([&](int i) KLENS_INLINE_LAMBDA { prefetch_l2(ahead + i * 64); });
      ahead += bytes;
    };
    for (int first = 0; first < s.qk_dim; first += group, k_scale += s.capacity) {
      v16f sum[M][B];
      unroll<M>([&](int i) KLENS_INLINE_LAMBDA {
        unroll<B>([&](int j) KLENS_INLINE_LAMBDA { sum[i][j] = zero(); });
      });
      const auto step = [&](const v16f (&key)[B], const float* x) KLENS_INLINE_LAMBDA {
        unroll<M>([&](int i) KLENS_INLINE_LAMBDA {
          const v16f each = splat(x[i * q_stride]);
          unroll<B>([&](int j) KLENS_INLINE_LAMBDA { fma_tied(sum[i][j], key[j], each); });
        });
      };
      const int columns = least(group, s.qk_dim - first);
      if constexpr (F == State::s4) {
        for (int d = 0; d < columns; d += 2, q += 2) {
          v16f low[B], high[B];
          unroll<B>([&](int j) KLENS_INLINE_LAMBDA {
            const Nibbles two = load_nibbles(k[j], nibbles);
            low[j] = two.low, high[j] = two.high, k[j] += lanes;
          });
          fetch();
          step(low, q), step(high, q + 1);
        }
      } else {
        constexpr int step_bytes = lanes * bits_of(F) / 8;
        for (int d = 0; d < columns; ++d, ++q) {
          v16f key[B];
          unroll<B>([&](int j) KLENS_INLINE_LAMBDA { key[j] = load_cells<F>(k[j]), k[j] += step_bytes; });
          fetch();
          step(key, q);
        }
      }
      const bool last = first + group >= s.qk_dim;
      const v16f factor = splat(last ? s.scale : 1.0f);
      if constexpr (scaled) {
        unroll<B>([&](int j) KLENS_INLINE_LAMBDA {
          const v16f scale = load_bf16(k_scale + slot[j]);
          unroll<M>([&](int i) KLENS_INLINE_LAMBDA {
            sum[i][j] = fma(sum[i][j], scale, first == 0 ? zero() : load(s.score + i * score_stride + slot[j]));
          });
        });
      }
      unroll<M>([&](int i) KLENS_INLINE_LAMBDA {
        unroll<B>([&](int j) KLENS_INLINE_LAMBDA { store(s.score + i * score_stride + slot[j], sum[i][j] * factor); });
      });
    }
  }
}

/// sum[i][j] += value(j) * x[i * stride], each value and each x loaded once: the fewer of both stay in registers.
template <int M, int H, class Value>
KLENS_INLINE void fma_tile(part (&sum)[M][H], const float* x, std::int64_t stride, const Value& value) {
  if constexpr (M < H) {
    part each[M];
    unroll<M>([&](int i) KLENS_INLINE_LAMBDA { each[i] = splat_part(x[i * stride]); });
    unroll<H>([&](int j) KLENS_INLINE_LAMBDA {
      const part v = value(j);
      unroll<M>([&](int i) KLENS_INLINE_LAMBDA { fma_tied(sum[i][j], v, each[i]); });
    });
  } else {
    part v[H];
    unroll<H>([&](int j) KLENS_INLINE_LAMBDA { v[j] = value(j); });
    unroll<M>([&](int i) KLENS_INLINE_LAMBDA {
      const part each = splat_part(x[i * stride]);
      unroll<H>([&](int j) KLENS_INLINE_LAMBDA { fma_tied(sum[i][j], v[j], each); });
    });
  }
}

/// Some positions, visible to all of M rows, and vectors of 16 columns.
struct Mix {
  const float* p;              // [M][score_stride], slot 0 of the partition
  const unsigned char* v;      // row of slot 0
  std::int64_t row_bytes;
  float* o;                    // [M][o_stride]
  int begin, end;              // slots
  int first, count;            // vectors of columns
};

/// Registers first .. of x.count vectors. s4: low nibbles are a group's first vector, high ones its second, so that a
/// tile's registers come in pairs from the same bytes.
template <State F, int M>
KLENS_INLINE void mix_tile(const Mix& x, int first) {
  constexpr int H = columns_of<F, M>;
  constexpr int part_bytes = part_lanes * bits_of(F) / 8;
  [[maybe_unused]] const NibbleValues nibbles;
  const std::int64_t ahead = rows_ahead * x.row_bytes;
  const unsigned char* const rows = x.v + x.begin * x.row_bytes;
  const unsigned char* v[H];
  int column[H];
  unroll<H>([&](int j) KLENS_INLINE_LAMBDA {
    if constexpr (F == State::s4) {
      const int pair = (first + j) / 2, block = pair / parts, low = pair % parts;
      column[j] = (x.first + block * 2 + j % 2) * lanes + low * part_lanes;
      v[j] = rows + (x.first / 2 + block) * lanes + low * part_lanes;
    } else {   // a tile of whole vectors: both halves by one pointer
      const int at = x.first + least(first / parts + j / parts, x.count - 1);
      column[j] = at * lanes + j % parts * part_lanes, v[j] = rows + at * parts * part_bytes + j % parts * part_bytes;
    }
  });
  part sum[M][H];
  unroll<M>([&](int i) KLENS_INLINE_LAMBDA {
    unroll<H>([&](int j) KLENS_INLINE_LAMBDA { sum[i][j] = load_part(x.o + i * o_stride + column[j]); });
  });
  const float* p = x.p;
  for (int t = x.begin; t < x.end; ++t) {
    unroll<(H * part_bytes + 63) / 64>([&](int i) KLENS_INLINE_LAMBDA { prefetch_l2(v[0] + ahead + i * 64); });
    fma_tile<M, H>(sum, p + t, score_stride, [&](int j) KLENS_INLINE_LAMBDA {
      if constexpr (F == State::s4) return j % 2 == 0 ? low_part(v[j], nibbles) : high_part(v[j - 1], nibbles);
      else return load_part_of<F>(v[j]);
    });
    unroll<H>([&](int j) KLENS_INLINE_LAMBDA { v[j] += x.row_bytes; });
  }
  unroll<M>([&](int i) KLENS_INLINE_LAMBDA {
    unroll<H>([&](int j) KLENS_INLINE_LAMBDA { store_part(x.o + i * o_stride + column[j], sum[i][j]); });
  });
}

template <State F, int M>
KLENS_NOINLINE void mix(const Mix& x) {
  const int vectors = F == State::s4 ? (x.count + 1) / 2 * 2 : x.count;   // a pair may hang over the end: zeros in V
  for (int first = 0; first < vectors * parts; first += columns_of<F, M>) mix_tile<F, M>(x, first);
}

}  // namespace attention_detail
}  // namespace klens::inline KLENS_NS
