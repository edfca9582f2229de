// What gemv and gemm share: the geometry of one call and how segments of K are folded; epilogue.hpp ends both.
#pragma once

#include <klens/isa/native.hpp>
#include <klens/kernel/linear_args.hpp>
#include <klens/kernel/epilogue.hpp>
#include <klens/kernel/weights.hpp>
#include <klens/simd/dot.hpp>

namespace klens::inline KLENS_NS {

template <Codec C, DotKind D>
KLENS_INLINE LinearShape shape_of(const LinearArgs& a, bool grouped) {
  constexpr Unit u = codec_unit<C>;
  LinearShape s;
  s.panels = div_up(a.w.rows, lanes);
  s.cols_padded = int(round_up(a.w.cols, u.inputs));
  s.panel_bytes = std::int64_t(s.cols_padded / u.inputs) * unit_bytes<C>;
  s.groups = grouped ? div_up(a.w.cols, a.w.precision.scheme.group) : 1;
  s.fold = grouped ? Fold::scale : D == DotKind::a16 ? Fold::add : Fold::carry;
  s.segment = grouped ? a.w.precision.scheme.group : D == DotKind::a16 ? gemm_k_block : s.cols_padded;
  return s;
}

/// What a linear multiplies here. Levels with VNNI take bytes; the others widen weights and rows to int16, except that
/// codes of at most 4 bits have sums that fit int16 for a while.
enum class Dot { f32, s16, u8, u4 };

template <Codec C, DotKind D>
inline constexpr Dot dot_of = D == DotKind::f32   ? Dot::f32
    : D == DotKind::a16                           ? Dot::s16
    : has_dot_u8                                  ? Dot::u8
    : has_dot_u4 && is_integer(C) && bits_of(C) <= 4 ? Dot::u4
                                                  : Dot::s16;

/// Activation rows in the type that it reads.
template <Dot>
struct RowType { using type = std::int8_t; };
template <>
struct RowType<Dot::f32> { using type = float; };
template <>
struct RowType<Dot::s16> { using type = std::int16_t; };
template <Dot K>
using Row = typename RowType<K>::type;

template <Dot K>
KLENS_INLINE const Row<K>* first_row(const ActRows& x) {
  if constexpr (K == Dot::f32) return x.f32;
  else if constexpr (K == Dot::s16) return x.q16;
  else return x.q8;
}

/// Initial accumulator of a whole row: -zero_point * sum(q), so that biased weights give the signed dot product.
template <Codec C>
KLENS_INLINE std::int32_t row_correction(const ActRows& x, std::int64_t token, int cols_padded) {
  const std::int32_t* sums = x.sums + token * (x.stride / 32);
  const int count = (cols_padded + 31) / 32;
  v16i total = splat_i(0);
  int i = 0;
  for (; i + lanes <= count; i += lanes) total = total + load_i(sums + i);
  std::uint32_t all = std::uint32_t(sum_i(total));
  for (; i < count; ++i) all += std::uint32_t(sums[i]);
  return std::int32_t(0u - std::uint32_t(zero_point<C>) * all);
}

/// tile(R, t) for tiles of R tokens from t on: of Most, then 8, 4, 2, 1; 8 tokens in tiles of 6 are two of 4, since one of 2
/// has too few chains to be faster. Without Fours, two of 2 for 4.
template <int Most, bool Fours = true, class Tile>
KLENS_INLINE void in_tiles(int tokens, const Tile& tile) {
  int t = 0;
  const auto next = [&]<int R>(std::integral_constant<int, R> rows) KLENS_INLINE_LAMBDA { tile(rows, t), t += R; };
  while (tokens - t >= Most && !(Most == 6 && Fours && tokens - t == 8)) next(std::integral_constant<int, Most>{});
  if constexpr (Most > 8)
    if (tokens - t >= 8) next(std::integral_constant<int, 8>{});
  if constexpr (Most > 4 && Fours)
    while (tokens - t >= 4) next(std::integral_constant<int, 4>{});
  if constexpr (Most > 2)
    while (tokens - t >= 2) next(std::integral_constant<int, 2>{});
  if constexpr (Most > 1)
    if (tokens - t >= 1) next(std::integral_constant<int, 1>{});
}

/// The stored lines that the tiles of a block fetch into L2 while they multiply: `bytes` of each of one or two panels from
/// `next` on, the next block's or the next panels'. Every tile takes an equal part, in `fetches` steps.
struct LinesAhead {
  const unsigned char* next;
  std::int64_t panel_bytes, bytes, part, taken = 0;
  int step;
  KLENS_INLINE LinesAhead(const unsigned char* first, std::int64_t panel, int panels, std::int64_t each, int tiles, int fetches)
      : next(first), panel_bytes(panel), bytes(each), part(div_up(panels * each, tiles)),
        step(int(div_up(part, fetches) < line_bytes ? div_up(part, fetches) : line_bytes)) {}
  /// Where the next tile's part begins.
  KLENS_INLINE const unsigned char* take() {
    const unsigned char* const at = taken < bytes ? next + taken : next + panel_bytes + (taken - bytes);
    taken += part;
    return at;
  }
};

/// What the end of a token's P panels reads and writes, fetched before its tile is multiplied. Rows lie kilobytes apart
/// and a line or two of each are wanted, which no hardware sees coming.
template <int P>
KLENS_INLINE void fetch_rows(const LinearArgs& a, std::int64_t token, std::int64_t panel) {
  const std::int64_t at = token * a.y_stride + panel * lanes;
  const float* const gate = a.epilogue != nullptr ? a.epilogue->gate : nullptr;
  unroll<P>([&](int p) KLENS_INLINE_LAMBDA {
    if (a.y != nullptr) __builtin_prefetch(a.y + at + p * lanes, 1, 3);
    if (a.residual != nullptr && a.residual != a.y) __builtin_prefetch(a.residual + at + p * lanes, 0, 3);
    if (gate != nullptr) __builtin_prefetch(gate + token * a.epilogue->gate_stride + (panel + p) * lanes, 0, 3);
  });
}

}  // namespace klens::inline KLENS_NS
