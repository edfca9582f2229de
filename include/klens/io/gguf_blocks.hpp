// ggml's block types, dequantized to f32: value = scale * code (+ or - minimum), one block of 32 or 256 columns at a
// time. Values are those of ggml-org's Python package gguf (quants.py) to the bit: every product and sum is rounded to
// f32 once, in its order. They are computed in double and narrowed, which rounds the same (53 >= 2 * 24 + 2) and cannot
// be fused. Oracle: that package's own results, tests/data/gguf; test: tests/io/gguf.cpp.
#pragma once

#include <klens/core/half.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>

namespace klens {

/// By ggml's numbers. Types that are not here are refused when a tensor of them is read.
enum class GgmlType : std::uint32_t {
  f32 = 0,
  f16 = 1,
  q4_0 = 2,
  q4_1 = 3,
  q5_0 = 6,
  q5_1 = 7,
  q8_0 = 8,
  q2_k = 10,
  q3_k = 11,
  q4_k = 12,
  q5_k = 13,
  q6_k = 14,
  iq4_nl = 20,
  bf16 = 30
};

/// A block: `values` elements in `bytes` bytes.
struct GgmlBlock {
  GgmlType type;
  std::string_view name;
  int values, bytes;
};

inline constexpr std::array<GgmlBlock, 14> ggml_blocks = {{{GgmlType::f32, "F32", 1, 4},
                                                           {GgmlType::f16, "F16", 1, 2},
                                                           {GgmlType::bf16, "BF16", 1, 2},
                                                           {GgmlType::q4_0, "Q4_0", 32, 18},
                                                           {GgmlType::q4_1, "Q4_1", 32, 20},
                                                           {GgmlType::q5_0, "Q5_0", 32, 22},
                                                           {GgmlType::q5_1, "Q5_1", 32, 24},
                                                           {GgmlType::q8_0, "Q8_0", 32, 34},
                                                           {GgmlType::q2_k, "Q2_K", 256, 84},
                                                           {GgmlType::q3_k, "Q3_K", 256, 110},
                                                           {GgmlType::q4_k, "Q4_K", 256, 144},
                                                           {GgmlType::q5_k, "Q5_K", 256, 176},
                                                           {GgmlType::q6_k, "Q6_K", 256, 210},
                                                           {GgmlType::iq4_nl, "IQ4_NL", 32, 18}}};

/// The block of a type by ggml's number; nullptr where klens does not read it.
constexpr const GgmlBlock* ggml_block(std::uint32_t type) {
  for (const GgmlBlock& b : ggml_blocks)
    if (std::uint32_t(b.type) == type) return &b;
  return nullptr;
}

/// Name of any type ggml has had, for messages.
constexpr std::string_view ggml_type_name(std::uint32_t type) {
  if (const GgmlBlock* b = ggml_block(type)) return b->name;
  constexpr struct {
    std::uint32_t type;
    std::string_view name;
  } others[] = {{9, "Q8_1"},   {15, "Q8_K"},  {16, "IQ2_XXS"}, {17, "IQ2_XS"}, {18, "IQ3_XXS"},
                {19, "IQ1_S"}, {21, "IQ3_S"}, {22, "IQ2_S"},   {23, "IQ4_XS"}, {24, "I8"},
                {25, "I16"},   {26, "I32"},   {27, "I64"},     {28, "F64"},    {29, "IQ1_M"},
                {34, "TQ1_0"}, {35, "TQ2_0"}, {39, "MXFP4"},   {40, "NVFP4"},  {41, "Q1_0"}};
  for (const auto& o : others)
    if (o.type == type) return o.name;
  return "unknown";
}

namespace detail {

/// Bytes of a block, as numbers.
struct BlockBytes {
  const std::byte* data;
  int operator[](int i) const { return std::to_integer<int>(data[i]); }
  int signed_at(int i) const { return std::int8_t(std::to_integer<unsigned char>(data[i])); }
  float half_at(int i) const {
    half h;
    std::memcpy(&h, data + i, 2);
    return to_float(h);
  }
};

/// One rounding to f32 each.
inline float rounded_product(float a, float b) { return float(double(a) * double(b)); }
inline float rounded_sum(float a, float b) { return float(double(a) + double(b)); }
inline float rounded_difference(float a, float b) { return float(double(a) - double(b)); }

/// 4 low bits per code in `low`, two codes a byte (i, i + 16); the fifth bit in `high`, or none.
inline int code_of_32(BlockBytes b, int low, int high, int i) {
  const int nibble = i < 16 ? b[low + i] & 15 : b[low + i - 16] >> 4;
  return high < 0 ? nibble : nibble | ((b[high + i / 8] >> (i % 8)) & 1) << 4;
}

/// Blocks of 32: a scale, perhaps a minimum, codes.
inline void dequantize_32(GgmlType type, BlockBytes b, float* out) {
  constexpr std::int8_t nonlinear[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
  const float d = b.half_at(0);
  for (int i = 0; i < 32; ++i) switch (type) {
      case GgmlType::q4_0: out[i] = rounded_product(d, float(code_of_32(b, 2, -1, i) - 8)); break;
      case GgmlType::q4_1:
        out[i] = rounded_sum(rounded_product(d, float(code_of_32(b, 4, -1, i))), b.half_at(2));
        break;
      case GgmlType::q5_0: out[i] = rounded_product(d, float(code_of_32(b, 6, 2, i) - 16)); break;
      case GgmlType::q5_1: out[i] = rounded_sum(rounded_product(d, float(code_of_32(b, 8, 4, i))), b.half_at(2)); break;
      case GgmlType::iq4_nl: out[i] = rounded_product(d, float(nonlinear[code_of_32(b, 2, -1, i)])); break;
      default: out[i] = rounded_product(float(b.signed_at(2 + i)), d); break;  // q8_0
    }
}

/// Scale and minimum of sub-block j of 8, 6 bits each, in 12 bytes (Q4_K, Q5_K).
struct ScaleMin {
  int scale, minimum;
};
inline ScaleMin scale_min_of(BlockBytes b, int at, int j) {
  if (j < 4) return {b[at + j] & 63, b[at + 4 + j] & 63};
  return {(b[at + 4 + j] & 15) | (b[at + j - 4] >> 6) << 4, (b[at + 4 + j] >> 4) | (b[at + j] >> 6) << 4};
}

/// Blocks of 256, in 16 runs of 16 values with one scale.
inline void dequantize_256(GgmlType type, BlockBytes b, float* out) {
  for (int run = 0; run < 16; ++run, out += 16) {
    const int half = run / 8, step = run % 8 / 2, at = run % 2 * 16;  // of 128 values; of 32 in it; of 16 in those
    switch (type) {
      case GgmlType::q2_k: {  // 16 scales of 4 + 4 bits, 64 bytes of codes, d, dmin
        const float scale = rounded_product(b.half_at(80), float(b[run] & 15));
        const float minimum = rounded_product(b.half_at(82), float(b[run] >> 4));
        for (int i = 0; i < 16; ++i) {
          const int code = (b[16 + 32 * half + at + i] >> (2 * step)) & 3;
          out[i] = rounded_difference(rounded_product(scale, float(code)), minimum);
        }
        break;
      }
      case GgmlType::q3_k: {  // 32 bytes of high bits, 64 of low ones, 12 of scales, d
        const int scale_low = run < 8 ? b[96 + run] & 15 : b[96 + run - 8] >> 4;
        const int scale_high = (b[104 + run % 4] >> (2 * (run / 4))) & 3;
        const float scale = rounded_product(b.half_at(108), float((scale_low | scale_high << 4) - 32));
        for (int i = 0; i < 16; ++i) {
          const int low = (b[32 + 32 * half + at + i] >> (2 * step)) & 3, high = (b[at + i] >> (4 * half + step)) & 1;
          out[i] = rounded_product(scale, float(high ? low : low - 4));
        }
        break;
      }
      case GgmlType::q4_k:
      case GgmlType::q5_k: {  // d, dmin, 12 bytes of scales and minima, (32 of fifth bits,) 128 of codes
        const bool five = type == GgmlType::q5_k;
        const int sub = run / 2, codes = (five ? 48 : 16) + 32 * (run / 4) + at;
        const ScaleMin s = scale_min_of(b, 4, sub);
        const float scale = rounded_product(b.half_at(0), float(s.scale));
        const float minimum = rounded_product(b.half_at(2), float(s.minimum));
        for (int i = 0; i < 16; ++i) {
          const int nibble = sub % 2 ? b[codes + i] >> 4 : b[codes + i] & 15;
          const int code = five ? nibble | ((b[16 + at + i] >> sub) & 1) << 4 : nibble;
          out[i] = rounded_difference(rounded_product(scale, float(code)), minimum);
        }
        break;
      }
      default: {  // q6_k: 128 bytes of low bits, 64 of high ones, 16 scales, d
        const float scale = rounded_product(b.half_at(208), float(b.signed_at(192 + run)));
        for (int i = 0; i < 16; ++i) {
          const int byte = b[64 * half + run % 4 * 16 + i], low = step < 2 ? byte & 15 : byte >> 4;
          const int high = (b[128 + 32 * half + at + i] >> (2 * step)) & 3;
          out[i] = rounded_product(scale, float((low | high << 4) - 32));
        }
        break;
      }
    }
  }
}

}  // namespace detail

/// All blocks of `data` (a whole number of them) into as many values.
inline void dequantize_blocks(const GgmlBlock& block, std::span<const std::byte> data, std::span<float> out) {
  const std::size_t blocks = out.size() / std::size_t(block.values);
  for (std::size_t i = 0; i < blocks; ++i) {
    const std::byte* from = data.data() + i * std::size_t(block.bytes);
    float* to = out.data() + i * std::size_t(block.values);
    switch (block.type) {
      case GgmlType::f32: std::memcpy(to, from, 4); break;
      case GgmlType::f16: *to = detail::BlockBytes{from}.half_at(0); break;
      case GgmlType::bf16: {
        bf16 v;
        std::memcpy(&v, from, 2);
        *to = to_float(v);
        break;
      }
      default:
        if (block.values == 32)
          detail::dequantize_32(block.type, {from}, to);
        else
          detail::dequantize_256(block.type, {from}, to);
    }
  }
}

}  // namespace klens
