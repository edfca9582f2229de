// Appends the K and V rows of new positions to the cache of one layer (kernel/args.hpp, KvView).
//
//   cache.k[g][p / 16][d][p mod 16] = k[t][g qk + d]        cache.v[g][p][c] = v[t][g vd + c]        p = position + t
//
// f32: pure copies. f16: nearest even, clamped to +-65504. s8, s4, for each group of columns of a position and head:
//   scale = bf16(absmax / qmax), nearest even;   q = clamp(round_half_even(x / scale), -qmax, qmax), qmax = 127 or 7
// so |x - q scale| <= scale / 2: bf16 makes absmax / scale at most (1 + 2^-9) qmax = 127.25 or 7.01, which rounds to
// qmax. scale = 0 where it would be below 2^-126: q = 0. NaN becomes code 0.
// K is transposed in blocks of 16 positions, so that the score kernel's lane is the position; V rows are padded with
// zeros to 16 columns (s4: 32). Work item: one kv head. Test: tests/kernel/attention.cpp.
#pragma once

#include <klens/kernel/args.hpp>
#include <klens/simd/v16f.hpp>

namespace klens::inline KLENS_NS {
namespace kv_detail {

KLENS_INLINE int count(std::int64_t left) { return left < lanes ? int(left) : lanes; }

/// Codes of up to 32 columns, or of a whole head, as bytes: out[0 .. round_up(n, 16)), zeros behind n. The scale.
KLENS_INLINE bf16 quantize_group(const float* x, int n, float qmax, std::int8_t* out) {
  v16f top = zero();  // NaN on the left of max is not greater
  for (int c = 0; c < n; c += lanes) top = max(abs(load_n(x + c, count(n - c))), top);
  const bf16 scale = to_bf16(max_of(top) / qmax);
  const float step = to_float(scale);
  const v16f divisor = splat(step < 0x1p-126f ? __builtin_inff() : step), limit = splat(qmax);  // by infinity: 0
  for (int c = 0; c < n; c += lanes) {
    const v16f r = max(neg(limit), min(limit, load_n(x + c, count(n - c)) / divisor));
    store_i8(out + c, select(eq(r, r), to_int(r), splat_i(0)));
  }
  return step < 0x1p-126f ? bf16{0} : scale;
}

/// Codes of one row of a head in order, zeros behind it, and its scales, `capacity` apart.
template <State F>
KLENS_INLINE void quantize_head(const float* x, int dim, std::int8_t* codes, bf16* scale, std::int64_t capacity) {
  const int group = kv_group(F, dim);
  for (int c = 0; c < dim; c += group, scale += capacity)
    *scale = quantize_group(x + c, dim - c < group ? dim - c : group, F == State::s8 ? 127.0f : 7.0f, codes + c);
  for (int c = int(round_up(dim, lanes)); c < round_up(dim, 32); ++c) codes[c] = 0;
}

KLENS_INLINE std::int8_t nibbles(std::int8_t low, std::int8_t high) {
  return std::int8_t((low & 15) | std::uint8_t(high) << 4);
}

/// One position of one head. K: lane `lane` of its block.
template <State F>
KLENS_INLINE void append_row(const float* k, int qk, unsigned char* block, int lane, bf16* k_scale, const float* v,
                             int vd, unsigned char* row, bf16* v_scale, std::int64_t capacity) {
  if constexpr (F == State::f32) {
    for (int d = 0; d < qk; ++d) reinterpret_cast<float*>(block)[d * lanes + lane] = k[d];
    for (int c = 0; c < vd; c += lanes) store(reinterpret_cast<float*>(row) + c, load_n(v + c, count(vd - c)));
  } else if constexpr (F == State::f16) {
    const auto clamped = [](v16f x) KLENS_INLINE_LAMBDA { return max(splat(-65504.0f), min(splat(65504.0f), x)); };
    half packed[lanes];
    for (int d = 0; d < qk; d += lanes) {
      store_half(packed, clamped(load_n(k + d, count(qk - d))));
      for (int i = 0; i < count(qk - d); ++i) reinterpret_cast<half*>(block)[(d + i) * lanes + lane] = packed[i];
    }
    for (int c = 0; c < vd; c += lanes)
      store_half(reinterpret_cast<half*>(row) + c, clamped(load_n(v + c, count(vd - c))));
  } else {
    alignas(64) std::int8_t codes[attention_most_dim + 32];
    quantize_head<F>(k, qk, codes, k_scale, capacity);
    std::int8_t* cells = reinterpret_cast<std::int8_t*>(block) + lane;
    if constexpr (F == State::s8)
      for (int d = 0; d < qk; ++d) cells[d * lanes] = codes[d];
    else
      for (int d = 0; d < qk; d += 2) cells[d / 2 * lanes] = nibbles(codes[d], codes[d + 1]);
    quantize_head<F>(v, vd, codes, v_scale, capacity);
    std::int8_t* out = reinterpret_cast<std::int8_t*>(row);
    if constexpr (F == State::s8)
      for (int c = 0; c < round_up(vd, lanes); ++c) out[c] = codes[c];
    else
      for (int c = 0; c < vd; c += 32)
        for (int i = 0; i < lanes; ++i) out[c / 2 + i] = nibbles(codes[c + i], codes[c + lanes + i]);
  }
}

template <State F>
KLENS_NOINLINE void append(const KvAppendArgs& a) {
  const int qk = a.cache.qk_dim, vd = a.cache.v_dim;
  const std::int64_t capacity = a.cache.capacity;
  const std::int64_t block_bytes = kv_k_block_bytes(F, qk), row_bytes = kv_v_row_bytes(F, vd);
  constexpr bool scaled = is_quantized_kv(F);
  for (int g = a.begin; g < a.end; ++g) {
    unsigned char* k_head = static_cast<unsigned char*>(a.cache.k) + g * (capacity / lanes) * block_bytes;
    unsigned char* v_head = static_cast<unsigned char*>(a.cache.v) + g * capacity * row_bytes;
    bf16* k_scale = scaled ? a.cache.k_scale + g * kv_groups(F, qk) * capacity : nullptr;
    bf16* v_scale = scaled ? a.cache.v_scale + g * kv_groups(F, vd) * capacity : nullptr;
    for (int t = 0; t < a.tokens; ++t) {
      const std::int64_t p = a.position + t;
      append_row<F>(a.k + t * a.stride + g * qk, qk, k_head + p / lanes * block_bytes, int(p % lanes),
                    scaled ? k_scale + p : nullptr, a.v + t * a.stride + g * vd, vd, v_head + p * row_bytes,
                    scaled ? v_scale + p : nullptr, capacity);
    }
  }
}

}  // namespace kv_detail

inline void kv_append(const KvAppendArgs& a) {
  KLENS_ASSERT(a.position + a.tokens <= a.cache.capacity);
  KLENS_ASSERT(a.cache.qk_dim <= attention_most_dim && a.cache.v_dim <= attention_most_dim);
  switch (a.cache.format) {
    case State::f32: return kv_detail::append<State::f32>(a);
    case State::f16: return kv_detail::append<State::f16>(a);
    case State::s8: return kv_detail::append<State::s8>(a);
    case State::s4: return kv_detail::append<State::s4>(a);
    default: __builtin_trap();
  }
}

}  // namespace klens::inline KLENS_NS
