// State formats: names, widths, and how many bytes the states of a layer take in each, as constant expressions. KV caches
// (KvView), convolutions (Conv1dArgs), scans (ScanArgs, SsdArgs): what the bytes mean stands in kernel/sequence_args.hpp.
#pragma once

#include <klens/core/rows.hpp>
#include <klens/format/scheme.hpp>

#include <array>
#include <optional>
#include <string_view>

namespace klens {

inline constexpr std::array<std::string_view, 5> state_names = {"f32", "f16", "s16", "s8", "s4"};

constexpr std::string_view name_of(State s) { return state_names[std::size_t(s)]; }

/// Inverse of name_of: the formats of state components, in every file and table.
constexpr std::optional<State> parse_state(std::string_view name) {
  for (std::size_t i = 0; i < state_names.size(); ++i)
    if (state_names[i] == name) return State(i);
  return std::nullopt;
}

KLENS_INLINE constexpr int bits_of(State s) {
  return s == State::f32 ? 32 : s == State::f16 || s == State::s16 ? 16 : s == State::s8 ? 8 : 4;
}

// --- KV caches, f32 f16 s8 s4

KLENS_INLINE constexpr bool is_quantized_kv(State s) { return s == State::s8 || s == State::s4; }
/// Columns that share a scale.
KLENS_INLINE constexpr int kv_group(State s, int dim) { return s == State::s4 && dim > 32 ? 32 : dim; }
KLENS_INLINE constexpr int kv_groups(State s, int dim) { return s == State::s4 ? int(div_up(dim, 32)) : 1; }
/// Columns stored, the padding zero.
KLENS_INLINE constexpr std::int64_t kv_k_columns(State s, int qk_dim) { return s == State::s4 ? round_up(qk_dim, 2) : qk_dim; }
KLENS_INLINE constexpr std::int64_t kv_v_columns(State s, int v_dim) { return round_up(v_dim, s == State::s4 ? 32 : lanes); }
/// Bytes of 16 positions of K, and of one row of V, of one head.
KLENS_INLINE constexpr std::int64_t kv_k_block_bytes(State s, int qk_dim) { return kv_k_columns(s, qk_dim) * lanes * bits_of(s) / 8; }
KLENS_INLINE constexpr std::int64_t kv_v_row_bytes(State s, int v_dim) { return kv_v_columns(s, v_dim) * bits_of(s) / 8; }

/// Where the arrays of a cache lie in one block of memory: offsets in bytes, multiples of 64, and the size of it.
struct KvLayout { std::int64_t k, v, k_scale, v_scale, bytes; };
KLENS_INLINE constexpr KvLayout kv_layout(State s, int kv_heads, int qk_dim, int v_dim, int capacity) {
  const std::int64_t cells = std::int64_t(kv_heads) * capacity, scales = is_quantized_kv(s) ? cells * 2 : 0;
  const std::int64_t v = round_up(cells / lanes * kv_k_block_bytes(s, qk_dim), 64);
  const std::int64_t k_scale = v + round_up(cells * kv_v_row_bytes(s, v_dim), 64);
  const std::int64_t v_scale = k_scale + round_up(scales * kv_groups(s, qk_dim), 64);
  return {0, v, k_scale, v_scale, v_scale + round_up(scales * kv_groups(s, v_dim), 64)};
}
/// Bytes of K, V and their scales for one layer; capacity: a multiple of 16.
KLENS_INLINE constexpr std::int64_t kv_bytes_per_layer(State s, int kv_heads, int qk_dim, int v_dim, int capacity) {
  return kv_layout(s, kv_heads, qk_dim, v_dim, capacity).bytes;
}

// --- convolutions, f32 f16 s16 s8

/// State of a depthwise convolution: [taps - 1][round_up(channels, 16)] values, oldest first, and for s16 and s8 behind
/// them, from a multiple of 64 bytes on, [taps - 1][channels / 16] floats: one scale per token and 16 channels. All
/// zeros: nothing came before. s4 is no format of it.
KLENS_INLINE constexpr std::int64_t conv_scales_offset(State format, int channels, int taps) {
  return round_up((taps - 1) * round_up(channels, lanes) * bits_of(format) / 8, 64);
}
KLENS_INLINE constexpr std::int64_t conv_state_bytes(State format, int channels, int taps) {
  const bool scaled = format == State::s16 || format == State::s8;
  return conv_scales_offset(format, channels, taps) +
         (scaled ? round_up((taps - 1) * div_up(channels, lanes) * std::int64_t(sizeof(float)), 64) : 0);
}

// --- scans, f32 f16 s16 s8

/// Bytes of one value of a recurrent state, and whether its lanes have scales.
KLENS_INLINE constexpr std::int64_t state_value_bytes(State s) { return s == State::f32 ? 4 : s == State::s8 ? 1 : 2; }
KLENS_INLINE constexpr bool state_has_scales(State s) { return s == State::s16 || s == State::s8; }
/// The formats that scan and ssd round to.
KLENS_INLINE constexpr bool scan_state_format(State s) { return s != State::s4; }

inline constexpr int scan_most_states = 256;

/// Bytes of a state: the values, then at scan_scales_at() the scales; each part a multiple of 64.
KLENS_INLINE constexpr std::int64_t scan_scales_at(State s, std::int64_t channels, std::int64_t n_state) {
  return round_up(round_up(channels, lanes) * n_state * state_value_bytes(s), 64);
}
KLENS_INLINE constexpr std::int64_t scan_state_bytes(State s, std::int64_t channels, std::int64_t n_state) {
  return scan_scales_at(s, channels, n_state) + (state_has_scales(s) ? round_up(channels, lanes) * 4 : 0);
}

/// Bytes of a state: the values, then the decays, then the scales; each part a multiple of 64.
KLENS_INLINE constexpr std::int64_t ssd_decays_at(State s, std::int64_t heads, std::int64_t head_dim, std::int64_t n_state) {
  return round_up(heads * round_up(head_dim, lanes) * n_state * state_value_bytes(s), 64);
}
KLENS_INLINE constexpr std::int64_t ssd_scales_at(State s, std::int64_t heads, std::int64_t head_dim, std::int64_t n_state) {
  return ssd_decays_at(s, heads, head_dim, n_state) + round_up(heads * div_up(head_dim, lanes) * 4, 64);
}
KLENS_INLINE constexpr std::int64_t ssd_state_bytes(State s, std::int64_t heads, std::int64_t head_dim, std::int64_t n_state) {
  return ssd_scales_at(s, heads, head_dim, n_state) + (state_has_scales(s) ? heads * round_up(head_dim, lanes) * 4 : 0);
}

/// What Mamba-3 carries beside that state, in floats (Mamba3Args): turns, then the others from these on; each part a multiple of 16.
struct Mamba3Carried { std::int64_t gain, last_key, last_x, floats; };
KLENS_INLINE constexpr Mamba3Carried mamba3_carried(std::int64_t heads, std::int64_t head_dim, std::int64_t n_state, std::int64_t angles) {
  const std::int64_t gain = heads * round_up(angles, lanes), last_key = gain + round_up(heads, lanes);
  const std::int64_t last_x = last_key + round_up(heads * n_state, lanes);
  return {gain, last_key, last_x, last_x + round_up(heads * head_dim, lanes)};
}

}  // namespace klens
