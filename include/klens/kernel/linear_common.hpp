// What gemv and gemm share: the geometry of one call, how segments of K are folded, and the epilogue.
#pragma once

#include <klens/isa/native.hpp>
#include <klens/kernel/args.hpp>
#include <klens/kernel/weights.hpp>
#include <klens/simd/dot.hpp>

namespace klens::inline KLENS_NS {

/// What happens to the accumulator of a segment of K.
///   carry   there is one segment: it is the result (row scales with f32 or a8, float grids)
///   add     acc = acc + float(segment)                     (a16 with row scales: 512 inputs keep int32 exact)
///   scale   acc = fma(group scale, float(segment), acc)    (groups)
enum class Fold { carry, add, scale };

struct LinearShape {
  std::int64_t panel_bytes, panels, groups;
  int cols_padded, segment;   // segment: inputs per fold
  Fold fold;
};

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

/// Activation rows in the type that this level multiplies.
template <DotKind D>
struct RowType { using type = std::int16_t; };
template <>
struct RowType<DotKind::f32> { using type = float; };
#if defined(KLENS_HAS_VNNI)
template <>
struct RowType<DotKind::a8> { using type = std::int8_t; };
#endif
template <DotKind D>
using Row = typename RowType<D>::type;

template <DotKind D>
KLENS_INLINE const Row<D>* first_row(const ActRows& x) {
  if constexpr (D == DotKind::f32) return x.f32;
  else if constexpr (D == DotKind::a8 && has_dot_u8) return x.q8;
  else return x.q16;
}

/// Sum of the quantized inputs [begin, end) of a token; both multiples of 32, or end is the padded end of the row.
KLENS_INLINE std::int32_t sum_of_inputs(const ActRows& x, std::int64_t token, int begin, int end) {
  const std::int32_t* sums = x.sums + token * (x.stride / 32);
  std::uint32_t total = 0;
  for (int i = begin / 32; i < (end + 31) / 32; ++i) total += std::uint32_t(sums[i]);
  return std::int32_t(total);
}

/// Initial accumulator: -zero_point * sum(q), so that biased weights give the signed dot product.
template <Codec C>
KLENS_INLINE std::int32_t correction(const ActRows& x, std::int64_t token, int begin, int end) {
  return std::int32_t(0u - std::uint32_t(zero_point<C>) * std::uint32_t(sum_of_inputs(x, token, begin, end)));
}

KLENS_INLINE v16f group_scales(const LinearArgs& a, const LinearShape& s, std::int64_t panel, std::int64_t group) {
  return load_half(static_cast<const half*>(a.w.scales) + (panel * s.groups + group) * lanes);
}

/// Row scale, the token's scale, bias, residual, store: in this order, each rounded once.
template <Codec C>
KLENS_INLINE void finish(const LinearArgs& a, const LinearShape& s, v16f v, std::int64_t token, std::int64_t panel) {
  if (!is_float(C) && s.fold != Fold::scale) v = v * load(static_cast<const float*>(a.w.scales) + panel * lanes);
  if (a.x.scale) v = v * splat(a.x.scale[token]);
  if (a.bias) v = v + load(a.bias + panel * lanes);
  const std::int64_t at = token * a.y_stride + panel * lanes;
  if (a.residual) v = v + load(a.residual + at);
  store(a.y + at, v);
}

}  // namespace klens::inline KLENS_NS
