// Element types of tensors in files, by the names of safetensors.
#pragma once

#include <klens/config.hpp>

#include <cstdint>
#include <optional>
#include <string_view>

namespace klens {

/// `other`: a type klens has no use for (8-bit floats and such); it may be in a file, reading it is an error.
enum class DType : std::uint8_t { f64, f32, f16, bf16, i64, i32, i16, i8, u8, boolean, other };
inline constexpr int dtype_count = 11;

constexpr std::string_view name_of(DType t) {
  constexpr std::string_view names[dtype_count] = {"F64", "F32", "F16", "BF16", "I64", "I32",
                                                   "I16", "I8",  "U8",  "BOOL", "?"};
  return names[int(t)];
}

/// Bytes per element; 0 for `other`.
constexpr int size_of(DType t) {
  constexpr int sizes[dtype_count] = {8, 4, 2, 2, 8, 4, 2, 1, 1, 1, 0};
  return sizes[int(t)];
}

constexpr DType parse_dtype(std::string_view name) {
  for (int i = 0; i < dtype_count - 1; ++i)
    if (name_of(DType(i)) == name) return DType(i);
  return DType::other;
}

/// Types that read_f32 widens.
constexpr bool is_float(DType t) { return t == DType::f64 || t == DType::f32 || t == DType::f16 || t == DType::bf16; }
constexpr bool is_integer(DType t) { return t >= DType::i64 && t <= DType::boolean; }

}  // namespace klens
