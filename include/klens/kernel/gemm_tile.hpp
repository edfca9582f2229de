// The micro-kernel of gemm.hpp: a tile of `tile_tokens` tokens x `tile_panels` expanded panels, one block of K.
//
//   kind   expanded line                   inputs per line   rows of x
//   f32    16 floats                       1                 f32
//   u8     16 dwords of 4 biased bytes     4                 int8          (VNNI; signed bytes with AVX-VNNI-INT8)
//   u4     the same, codes of <= 4 bits    4                 int8          (other levels: int16 sums, dot.hpp)
//   s16    16 dwords of 2 signed int16     2                 int16, each 4 inputs as 0 2 1 3
//
// Between blocks accumulators wait in scratch, so a chain crosses blocks unbroken. Groups: float sums stay in registers
// beside the integers of the group (through memory, 24 stores per group of 32 cost 30 % of the time at 512 bits; two_sums says
// where not). Rows of x want row_stride(): rows 1 KB apart evict each other from L1.
#pragma once

#include <klens/kernel/linear_common.hpp>
#if defined(KLENS_HAS_VNNI_INT8)
#include <klens/simd/dot_s8.hpp>
#endif

namespace klens::inline KLENS_NS {

namespace gemm_detail {

/// Tile: 12 x 2 of 16 lanes fill 32 registers with accumulators (24) and two lines; half as many tokens where each has
/// an accumulator of integers and one of floats. On 16 registers of 256 bits: 6 x 1 and 3 x 1. With VNNI 3 x 1 would be six
/// chains, where dots of 4 cycles, two begun in each, want eight: float sums wait in memory (Zen 5, 128 tokens: w4g32a8 78 ->
/// 82 % of the dot peak, w4g32a16 78 -> 88; without VNNI so 0.98 to 0.99 times as fast, 512 bits 0.77 to 0.98).
template <Dot K, Fold F>
inline constexpr bool two_sums =
    K == Dot::u4 || (F == Fold::scale && (vector_registers == 32 || (K != Dot::f32 && !has_dot_u8)));
template <Dot K, Fold F>
inline constexpr int tile_tokens = vector_registers == 0 ? 1 : vector_registers * 3 / (two_sums<K, F> ? 16 : 8);
inline constexpr int tile_panels = vector_registers == 32 ? 2 : 1;

template <Dot K>
inline constexpr int inputs_per_line = K == Dot::f32 ? 1 : K == Dot::s16 ? 2 : 4;

/// Byte panels of AVX-VNNI-INT8 hold signed weights: their dots need no correction.
#if defined(KLENS_HAS_VNNI_INT8)
inline constexpr bool signed_bytes = true;
#else
inline constexpr bool signed_bytes = false;
#endif
template <Dot K>
inline constexpr bool needs_starts = (K == Dot::u8 && !signed_bytes) || K == Dot::u4;
/// Inputs that a tile multiplies per fetch of what is multiplied next. Loops that the front end bounds have it outside.
template <Dot K, Fold F>
inline constexpr int inputs_per_fetch = F == Fold::scale || K == Dot::u4 ? 32 : inputs_per_line<K>;

template <Dot K>
struct SumType { using type = v16i; };
template <>
struct SumType<Dot::f32> { using type = v16f; };
template <Dot K>
using Sum = typename SumType<K>::type;

/// Inputs of a block: of bytes four times as many fit in as much, and the accumulators wait in scratch four times less
/// often (w8a8, K = 2048: 1.5 % faster).
template <Dot K>
inline constexpr int block_inputs = K == Dot::u8 || K == Dot::u4 ? 4 * gemm_k_block : gemm_k_block;
inline constexpr int starts_stride = block_inputs<Dot::u8> / 32;
inline constexpr int partial_stride = 2 * lanes;

/// One block of K for one tile of tokens.
struct Block {
  const unsigned char* panel;      // first expanded panel, the second at + panel_stride
  std::int64_t panel_stride;       // bytes
  const void* x;                   // first token, first input of the block
  std::int64_t x_stride;           // elements
  int depth, segment;
  bool first;                      // block of its tokens
  float* partial;                  // [tokens][2][16]; int32 where integers are carried
  const half* scales;              // of the first group of the block, first panel
  std::int64_t scale_stride;       // halves, to the second panel
  const std::int32_t* starts;      // [tokens][starts_stride]: accumulators begin so, per 32 inputs; per row for carry
  const unsigned char* next;       // what this tile fetches of the stored lines that are multiplied next
  int next_step;                   // bytes of them per inputs_per_fetch
};

/// acc += w . x, or, for the first of the eight u4 products of a sum, acc = w . x. x: input_of four bytes.
template <Dot K, class X>
KLENS_INLINE void step(Sum<K>& acc, v16i w, X x, [[maybe_unused]] bool first) {
  if constexpr (K == Dot::f32) fma_step(acc, from_bits(w), x);
  else if constexpr (K == Dot::s16) dot_s16(acc, w, x);
  else if constexpr (K == Dot::u4) {
    if (first) acc = product_u4(w, x);
    else dot_u4(acc, w, x);
  }
#if defined(KLENS_HAS_VNNI_INT8)
  else dot_s8(acc, w, x);
#elif defined(KLENS_HAS_VNNI)
  else dot_u8(acc, w, x);
#endif
}

KLENS_INLINE v16f as_float(v16f a) { return a; }
KLENS_INLINE v16f as_float(v16i a) { return to_float(a); }
KLENS_INLINE void load_raw(v16f& a, const float* p) { a = load(p); }
KLENS_INLINE void load_raw(v16i& a, const float* p) { a = bits(load(p)); }
KLENS_INLINE void store_raw(float* p, v16f a) { store(p, a); }
KLENS_INLINE void store_raw(float* p, v16i a) { store(p, from_bits(a)); }
KLENS_INLINE void set_zero(v16f& a) { a = zero(); }
KLENS_INLINE void set_zero(v16i& a) { a = splat_i(0); }

/// Rows of x of a tile, three per pointer (base, + stride, + 2 stride): leaves gcc registers to keep every address in
/// an operand.
template <class X, int R>
struct RowPointers {
  static constexpr int bases = (R + 2) / 3;
  const X* base[bases];
  std::int64_t stride;
  KLENS_INLINE RowPointers(const X* x, std::int64_t row_stride) : stride(row_stride) {
    unroll<bases>([&](int i) KLENS_INLINE_LAMBDA { base[i] = x + 3 * i * row_stride; });
  }
  KLENS_INLINE const X* row(int m) const { return base[m / 3] + (m % 3) * stride; }
  KLENS_INLINE void advance(int n) {
    unroll<bases>([&](int i) KLENS_INLINE_LAMBDA { base[i] += n; });
  }
};

/// Inputs are broadcast once for two panels. Not where a product of int16 takes two instructions: it leaves loads idle
/// (Zen 5, without VNNI: 4 % slower so).
template <Dot K, int P>
inline constexpr bool shares_inputs = P > 1 && (K != Dot::s16 || has_dot_u8);

/// Lines of a round of the loop. Eight where a tile is small because it has two sums, or a group ends soon: rolled, 15
/// instructions took 3 cycles or 4.4 depending on where they came to lie (Zen 5, avx_vnni w4g32a8 in tiles of 3 x 1: 78 or
/// 57 % of the dot peak, at 32 and 0 modulo 64), unrolled 77 anywhere; avx2 w4a8 77 -> 81 %, w4g32a8 59 -> 63, w8g32a8
/// 71 -> 75, w4g32a16 72 -> 75.
template <Dot K, Fold F>
inline constexpr int lines_of_round = vector_registers > 0 && (F == Fold::scale || K == Dot::u4) ? 8 : 1;

/// acc += n inputs, one line of P panels at a time; n a multiple of a line's inputs. Fresh: acc = a round of them, of u4: the
/// first product of eight needs no addition (Zen 5, 128 tokens: avx2 w4a8 82 -> 85 % of the products' peak, w4g32a8 62 -> 68,
/// 512 bits 82 -> 85, 67 -> 69).
template <Dot K, Fold F, bool Fresh, int R, int P>
KLENS_INLINE void lines_of(Sum<K> (&acc)[R][P], RowPointers<Row<K>, R>& x, const unsigned char*& w, const Block& b,
                           const unsigned char*& next, int n) {
  constexpr int inputs = inputs_per_line<K>, lines = lines_of_round<K, F>;
  const auto one = [&](int line_of_round) KLENS_INLINE_LAMBDA {
    if constexpr (inputs_per_fetch<K, F> == inputs) __builtin_prefetch(next, 0, 2), next += b.next_step;
    v16i line[P];
    unroll<P>([&](int p) KLENS_INLINE_LAMBDA { line[p] = load_line(w + p * b.panel_stride); });
    unroll<R>([&](int m) KLENS_INLINE_LAMBDA {
      const auto input = input_of<shares_inputs<K, P>>(x.row(m));
      unroll<P>([&](int p) KLENS_INLINE_LAMBDA { step<K>(acc[m][p], line[p], input, Fresh && line_of_round == 0); });
    });
    x.advance(inputs), w += line_bytes;
  };
  if constexpr (Fresh) return unroll<lines>(one);
  if constexpr (lines > 1)
    for (; n >= lines * inputs; n -= lines * inputs) unroll<lines>(one);
  for (; n > 0; n -= inputs) one(0);
}

/// The micro-kernel: R tokens x P panels, all segments of the block.
template <Dot K, Fold F, int R, int P>
KLENS_NOINLINE void multiply(const Block& b) {
  RowPointers<Row<K>, R> x(static_cast<const Row<K>*>(b.x), b.x_stride);
  const unsigned char *w = b.panel, *next = b.next;
  const auto partial_of = [&](int m, int p) KLENS_INLINE_LAMBDA { return b.partial + m * partial_stride + p * lanes; };
  const auto all = [](const auto& body) KLENS_INLINE_LAMBDA {
    unroll<R>([&](int m) KLENS_INLINE_LAMBDA { unroll<P>([&](int p) KLENS_INLINE_LAMBDA { body(m, p); }); });
  };
  [[maybe_unused]] v16f sum[R][P];
  if constexpr (F == Fold::scale && two_sums<K, F>) {
    if (b.first) all([&](int m, int p) KLENS_INLINE_LAMBDA { sum[m][p] = zero(); });
    else all([&](int m, int p) KLENS_INLINE_LAMBDA { sum[m][p] = load(partial_of(m, p)); });
  }
  for (int k = 0; k < b.depth; k += b.segment) {
    const int n = b.depth - k < b.segment ? b.depth - k : b.segment;
    if constexpr (F == Fold::scale && K != Dot::u4)
      for (int i = 0; i < n; i += 32) __builtin_prefetch(next, 0, 2), next += b.next_step;
    Sum<K> acc[R][P];
    if (F == Fold::carry && !b.first)
      all([&](int m, int p) KLENS_INLINE_LAMBDA { load_raw(acc[m][p], partial_of(m, p)); });
    else if constexpr (!needs_starts<K>) all([&](int m, int p) KLENS_INLINE_LAMBDA { set_zero(acc[m][p]); });
    else {
      const std::int32_t* starts = b.starts + (F == Fold::carry ? 0 : k / 32);
      all([&](int m, int p) KLENS_INLINE_LAMBDA { acc[m][p] = splat_i(starts[m * starts_stride]); });
      if constexpr (F == Fold::scale)
        for (int i = 1; 32 * i < n; ++i)
          all([&](int m, int p) KLENS_INLINE_LAMBDA { acc[m][p] = acc[m][p] + splat_i(starts[m * starts_stride + i]); });
    }
    if constexpr (K == Dot::u4) {
      constexpr int inputs = 4 * dot_u4_steps<4>;
      for (int i = 0; i < n; i += inputs) {
        v16i narrow[R][P];
        __builtin_prefetch(next, 0, 2), next += b.next_step;
        if (n - i >= inputs) {
          lines_of<K, F, true>(narrow, x, w, b, next, inputs);
        } else {
          all([&](int m, int p) KLENS_INLINE_LAMBDA { narrow[m][p] = splat_i(0); });
          lines_of<K, F, false>(narrow, x, w, b, next, n - i);
        }
        all([&](int m, int p) KLENS_INLINE_LAMBDA { add_pairs(acc[m][p], narrow[m][p]); });
      }
    } else {
      lines_of<K, F, false>(acc, x, w, b, next, n);
    }
    if constexpr (F == Fold::carry) {
      all([&](int m, int p) KLENS_INLINE_LAMBDA { store_raw(partial_of(m, p), acc[m][p]); });
    } else if constexpr (F == Fold::add) {
      all([&](int m, int p) KLENS_INLINE_LAMBDA {
        store(partial_of(m, p), (b.first && k == 0 ? zero() : load(partial_of(m, p))) + as_float(acc[m][p]));
      });
    } else {
      unroll<P>([&](int p) KLENS_INLINE_LAMBDA {
        const v16f scale = load_half(b.scales + p * b.scale_stride + std::int64_t(k / b.segment) * lanes);
        unroll<R>([&](int m) KLENS_INLINE_LAMBDA {
          if constexpr (two_sums<K, F>) sum[m][p] = fma(scale, as_float(acc[m][p]), sum[m][p]);
          else {
            const v16f before = b.first && k == 0 ? zero() : load(partial_of(m, p));
            store(partial_of(m, p), fma(scale, as_float(acc[m][p]), before));
          }
        });
      });
    }
  }
  if constexpr (F == Fold::scale && two_sums<K, F>)
    all([&](int m, int p) KLENS_INLINE_LAMBDA { store(partial_of(m, p), sum[m][p]); });
}

}  // namespace gemm_detail

}  // namespace klens::inline KLENS_NS
