// Rows<T>: a matrix somebody else owns. Small integer helpers that every layer shares.
#pragma once

#include <klens/config.hpp>

#include <cstdint>
#include <type_traits>

namespace klens {

/// Non-owning row-major matrix [rows, cols]; `stride` counts elements from one row to the next.
template <class T>
struct Rows {
  T* data = nullptr;
  std::int64_t rows = 0, cols = 0, stride = 0;

  KLENS_INLINE constexpr operator Rows<const T>() const requires(!std::is_const_v<T>) { return {data, rows, cols, stride}; }
};

template <class T>
KLENS_INLINE constexpr T* row(const Rows<T>& m, std::int64_t r) { return m.data + r * m.stride; }

KLENS_INLINE constexpr std::int64_t round_up(std::int64_t n, std::int64_t unit) { return (n + unit - 1) / unit * unit; }
KLENS_INLINE constexpr std::int64_t div_up(std::int64_t n, std::int64_t unit) { return (n + unit - 1) / unit; }

/// Virtual vector width: 16 output rows or channels, on every ISA level.
inline constexpr int lanes = 16;

/// Activation rows are stored with this stride unit (elements), the padding zero: it covers every D-line's K.
inline constexpr int row_unit = 32;

/// Stride of a buffer of activation rows of `cols` elements. Never a multiple of 256: rows 1 KB apart (256 floats, 1024
/// bytes) share a few sets of L1, and the 12 rows of a GEMM tile would evict each other (Zen 4, K = 2048 in f32: 85 %
/// of the FMA peak against 96).
KLENS_INLINE constexpr std::int64_t row_stride(std::int64_t cols) {
  const std::int64_t n = round_up(cols, row_unit);
  return n % 256 == 0 ? n + row_unit : n;
}

}  // namespace klens
