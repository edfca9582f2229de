// TensorView: a named array that lies in a mapped file; widening reads.
#pragma once

#include <klens/core/half.hpp>
#include <klens/core/result.hpp>
#include <klens/io/dtype.hpp>

#include <cstddef>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace klens {

/// Row-major elements somewhere in a file, at any alignment. Lives as long as the file object it came from.
struct TensorView {
  std::string name;
  DType dtype = DType::other;
  std::string dtype_name;           // as the file spells it: "F16", "F8_E4M3"
  std::vector<std::int64_t> shape;  // outermost first; empty for a scalar
  std::span<const std::byte> data;  // count() * size_of(dtype) bytes
  std::string file;                 // for error messages
  bool in_memory = false;           // made on open, not a part of a mapped file: its pages must stay

  std::int64_t count() const {
    std::int64_t n = 1;
    for (std::int64_t d : shape) n *= d;
    return n;
  }
};

/// "[384, 1, 4]"
inline std::string shape_text(std::span<const std::int64_t> shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

namespace detail {

inline std::string place_of(const TensorView& t) { return t.file + ": tensor '" + t.name + "'"; }

template <class T>
T element(const TensorView& t, std::size_t i) {
  T v;
  std::memcpy(&v, t.data.data() + i * sizeof(T), sizeof v);
  return v;
}

/// Product of a shape; nothing if a size is negative or the product does not fit in 63 bits.
inline std::optional<std::int64_t> element_count(std::span<const std::int64_t> shape) {
  std::int64_t n = 1;
  bool empty = false, overflow = false;
  for (std::int64_t d : shape) {
    if (d < 0) return std::nullopt;
    if (d == 0)
      empty = true;
    else
      overflow |= __builtin_mul_overflow(n, d, &n);
  }
  if (empty) return 0;
  if (overflow) return std::nullopt;
  return n;
}

}  // namespace detail

/// Widens all elements of an F32, F16, BF16 tensor (exact) or an F64 one (rounded to nearest) into `out` of equal
/// count.
inline Result<void> read_f32(const TensorView& t, std::span<float> out) {
  if (std::size_t(t.count()) != out.size())
    return Error{ErrorCode::shape, detail::place_of(t), std::to_string(out.size()) + " elements", shape_text(t.shape)};
  switch (t.dtype) {
    case DType::f32:
      if (!out.empty()) std::memcpy(out.data(), t.data.data(), t.data.size());
      return {};
    case DType::f16:
      for (std::size_t i = 0; i < out.size(); ++i) out[i] = to_float(detail::element<half>(t, i));
      return {};
    case DType::bf16:
      for (std::size_t i = 0; i < out.size(); ++i) out[i] = to_float(detail::element<bf16>(t, i));
      return {};
    case DType::f64:
      for (std::size_t i = 0; i < out.size(); ++i) out[i] = float(detail::element<double>(t, i));
      return {};
    default: return Error{ErrorCode::unsupported, detail::place_of(t), "F32, F16, BF16 or F64", t.dtype_name};
  }
}

/// Widens all elements of an integer tensor (I64 I32 I16 I8 U8 BOOL).
inline Result<std::vector<std::int64_t>> read_i64(const TensorView& t) {
  if (!is_integer(t.dtype))
    return Error{ErrorCode::unsupported, detail::place_of(t), "an integer type (I64)", t.dtype_name};
  std::vector<std::int64_t> out(std::size_t(t.count()));
  for (std::size_t i = 0; i < out.size(); ++i) {
    switch (t.dtype) {
      case DType::i64: out[i] = detail::element<std::int64_t>(t, i); break;
      case DType::i32: out[i] = detail::element<std::int32_t>(t, i); break;
      case DType::i16: out[i] = detail::element<std::int16_t>(t, i); break;
      case DType::i8: out[i] = detail::element<std::int8_t>(t, i); break;
      default: out[i] = detail::element<std::uint8_t>(t, i); break;
    }
  }
  return out;
}

}  // namespace klens
