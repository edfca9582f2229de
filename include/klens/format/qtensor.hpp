// QTensor<Bits, Scheme>: a view of packed weights whose format is part of the type. QBuffer<Bits, Scheme> owns one.
//
//   using W = QTensor<4, groups_of(32)>;
//   W::bits_per_value == 4.5        W::bytes(80, 2048) == 97280 bytes, padding counted
//
// The same bytes as PackedMatrix, PackedBuffer (format/pack.hpp), where the format is a run-time value.
#pragma once

#include <klens/format/pack.hpp>

namespace klens {

template <int Bits, Scheme S>
requires Storable<Bits, S>
class QTensor {
 public:
  static constexpr int bits = Bits;
  static constexpr Scheme scheme = S;
  static constexpr Precision precision = {Bits, S, Activation::f32, State::f32};

  /// Of a large matrix: codes and group scales. Row scales add 32 / cols; padding adds what bytes() says.
  static constexpr double bits_per_value = Bits + (S.scale == Granularity::group ? 16.0 / S.group : 0.0);

  /// Exact payload of a [rows, cols] matrix: lines and scales, padding counted.
  KLENS_INLINE static constexpr std::int64_t bytes(std::int64_t rows, std::int64_t cols) {
    return packed_bytes(Precision{Bits, S, Activation::f32, State::f32}, rows, cols);
  }

  /// Looks at `lines` and `scales` (float grids: empty) after checking sizes and alignment (64 and 32 bytes).
  static Result<QTensor> view(std::span<const std::byte> lines, std::span<const std::byte> scales, std::int64_t rows,
                              std::int64_t cols) {
    KLENS_TRY(const PackedMatrix m, packed_view(precision, lines, scales, rows, cols));
    return QTensor(m);
  }

  /// Looks at a run-time matrix; the format must be this one.
  static Result<QTensor> view(const PackedMatrix& m) {
    if (m.precision.weight_bits != Bits || !(m.precision.scheme == S))
      return Error{ErrorCode::format, "QTensor", weight_name(precision), weight_name(m.precision)};
    return QTensor(m);
  }

  KLENS_INLINE std::int64_t rows() const { return rows_; }
  KLENS_INLINE std::int64_t cols() const { return cols_; }
  KLENS_INLINE const unsigned char* lines() const { return lines_; }
  KLENS_INLINE const void* scales() const { return scales_; }

  /// What kernels take. The activation chooses the kernel, not the bytes.
  KLENS_INLINE PackedMatrix matrix(Activation activation = Activation::f32) const {
    return {lines_, scales_, rows_, cols_, Precision{Bits, S, activation, State::f32}};
  }

 private:
  explicit QTensor(const PackedMatrix& m) : lines_(m.lines), scales_(m.scales), rows_(m.rows), cols_(m.cols) {}

  const unsigned char* lines_;  // [panel][unit][line], 64-byte aligned
  const void* scales_;          // float [panel][16] or half [panel][group][16]; null for float grids
  std::int32_t rows_, cols_;
};

/// Owns what a QTensor looks at; made by quantize<Bits, Scheme>() (quant/rtn.hpp) or from a PackedBuffer of that
/// format.
template <int Bits, Scheme S>
requires Storable<Bits, S>
class QBuffer {
 public:
  static Result<QBuffer> from(PackedBuffer packed) {
    const PackedMatrix m = packed.matrix();
    if (m.lines == nullptr) return Error{ErrorCode::format, "QBuffer", "a packed matrix", "an empty buffer"};
    KLENS_TRY(const auto view, (QTensor<Bits, S>::view(m)));
    return QBuffer(std::move(packed), view);
  }

  const QTensor<Bits, S>& view() const { return view_; }
  PackedMatrix matrix(Activation activation = Activation::f32) const { return view_.matrix(activation); }
  const PackedBuffer& packed() const { return packed_; }
  std::int64_t rows() const { return packed_.rows(); }
  std::int64_t cols() const { return packed_.cols(); }
  std::int64_t bytes() const { return packed_.bytes(); }

 private:
  QBuffer(PackedBuffer packed, const QTensor<Bits, S>& view) : packed_(std::move(packed)), view_(view) {}

  PackedBuffer packed_;  // moving it moves the pointer, not the bytes: the view stays valid
  QTensor<Bits, S> view_;
};

static_assert(QTensor<4, groups_of(32)>::bits_per_value == 4.5 &&
              QTensor<4, groups_of(32)>::bytes(80, 2048) == 80 * 2048 * 9 / 16);
static_assert(QTensor<8, per_row()>::bytes(1, 12) == 3 * 64 + 64 &&
              QTensor<16, floats(Grid::f16)>::bytes(17, 3) == 2 * 2 * 64);

}  // namespace klens
