// What a component remembers from token to token: ScanState, SsdState, ConvState, KvCache. Each owns its memory (zero at first)
// or looks at somebody else's. Scan states and the KV cache have formats; values are stored rounded.
#pragma once

#include <klens/core/aligned.hpp>
#include <klens/kernel/args.hpp>

#include <cstddef>
#include <cstring>

namespace klens {

namespace state_detail {
/// Value i of an array of a format, without its scale.
inline float stored_value(const void* values, State format, std::int64_t i) {
  switch (format) {
    case State::f32: return static_cast<const float*>(values)[i];
    case State::f16: return to_float(static_cast<const half*>(values)[i]);
    case State::s16: return static_cast<const std::int16_t*>(values)[i];
    default: return static_cast<const std::int8_t*>(values)[i];
  }
}
}  // namespace state_detail

/// h of a selective scan in f32, f16, s16 or s8, laid out as ScanArgs says, and how many tokens it has seen: random rounding
/// depends on the absolute position and on `key` (the layer; equal keys would round alike).
class ScanState {
 public:
  ScanState(int channels, int n_state, State format = State::f32, std::uint32_t key = 0)
      : channels_(channels), n_state_(n_state), format_(format), key_(key),
        own_(std::size_t(scan_state_bytes(format, channels, n_state))), data_(own_.data()) {
    KLENS_ASSERT(scan_state_format(format) && (!state_has_scales(format) || n_state <= scan_most_states));
  }
  /// Looks at scan_state_bytes(format, channels, n_state) bytes at a 64-byte boundary.
  ScanState(void* data, int channels, int n_state, State format = State::f32, std::uint32_t key = 0, int position = 0)
      : channels_(channels), n_state_(n_state), position_(position), format_(format), key_(key), data_(static_cast<std::byte*>(data)) {}

  void* data() { return data_; }
  float* scales() { return reinterpret_cast<float*>(data_ + scan_scales_at(format_, channels_, n_state_)); }
  int channels() const { return channels_; }
  int n_state() const { return n_state_; }
  State format() const { return format_; }
  std::uint32_t key() const { return key_; }
  std::int64_t bytes() const { return scan_state_bytes(format_, channels_, n_state_); }
  /// Tokens seen, and for whoever scans: so many more.
  int position() const { return position_; }
  void grow(int tokens) { position_ += tokens; }
  void clear() {
    std::memset(data_, 0, std::size_t(bytes()));
    position_ = 0;
  }
  /// State n of a channel.
  float value(int channel, int n) const {
    const float v = state_detail::stored_value(data_, format_, (std::int64_t(channel) / lanes * n_state_ + n) * lanes + channel % lanes);
    return state_has_scales(format_) ? v * const_cast<ScanState*>(this)->scales()[channel] : v;
  }

 private:
  int channels_, n_state_, position_ = 0;
  State format_;
  std::uint32_t key_;
  Buffer<std::byte> own_;
  std::byte* data_;
};

/// S of a state space dual: as ScanState, laid out as SsdArgs says.
class SsdState {
 public:
  SsdState(int heads, int head_dim, int n_state, State format = State::f32, std::uint32_t key = 0)
      : heads_(heads), head_dim_(head_dim), n_state_(n_state), format_(format), key_(key),
        own_(std::size_t(ssd_state_bytes(format, heads, head_dim, n_state))), data_(own_.data()) {
    KLENS_ASSERT(scan_state_format(format) && (!state_has_scales(format) || n_state <= scan_most_states));
  }
  /// Looks at ssd_state_bytes(format, heads, head_dim, n_state) bytes at a 64-byte boundary.
  SsdState(void* data, int heads, int head_dim, int n_state, State format = State::f32, std::uint32_t key = 0, int position = 0)
      : heads_(heads), head_dim_(head_dim), n_state_(n_state), position_(position), format_(format), key_(key),
        data_(static_cast<std::byte*>(data)) {}

  void* data() { return data_; }
  float* decay() { return reinterpret_cast<float*>(data_ + ssd_decays_at(format_, heads_, head_dim_, n_state_)); }
  float* scales() { return reinterpret_cast<float*>(data_ + ssd_scales_at(format_, heads_, head_dim_, n_state_)); }
  int heads() const { return heads_; }
  int head_dim() const { return head_dim_; }
  int n_state() const { return n_state_; }
  State format() const { return format_; }
  std::uint32_t key() const { return key_; }
  std::int64_t bytes() const { return ssd_state_bytes(format_, heads_, head_dim_, n_state_); }
  int position() const { return position_; }
  void grow(int tokens) { position_ += tokens; }
  void clear() {
    std::memset(data_, 0, std::size_t(bytes()));
    position_ = 0;
  }
  /// S[p][n] of a head.
  float value(int head, int p, int n) const {
    SsdState& self = const_cast<SsdState&>(*this);
    const std::int64_t item = head * div_up(head_dim_, lanes) + p / lanes;
    const float g = state_detail::stored_value(data_, format_, (item * n_state_ + n) * lanes + p % lanes);
    return self.decay()[item] * (state_has_scales(format_) ? g * self.scales()[item * lanes + p % lanes] : g);
  }

 private:
  int heads_, head_dim_, n_state_, position_ = 0;
  State format_;
  std::uint32_t key_;
  Buffer<std::byte> own_;
  std::byte* data_;
};

/// The last taps - 1 inputs of a causal convolution, oldest first: [taps - 1][round_up(channels, 16)].
class ConvState {
 public:
  ConvState(int channels, int taps)
      : channels_(channels), taps_(taps), own_(std::size_t(round_up(channels, lanes) * (taps - 1))), data_(own_.data()) {}
  ConvState(float* data, int channels, int taps) : channels_(channels), taps_(taps), data_(data) {}

  float* data() { return data_; }
  int channels() const { return channels_; }
  int taps() const { return taps_; }
  void clear() { std::memset(data_, 0, std::size_t(round_up(channels_, lanes) * (taps_ - 1)) * sizeof(float)); }

 private:
  int channels_, taps_;
  Buffer<float> own_;
  float* data_;
};

/// K and V of positions 0 .. size() - 1, laid out as KvView says. Copies of a looking cache share the memory, not the size.
class KvCache {
 public:
  /// `format`: f32, f16, s8 or s4, what Attention<P> has in P.state.
  KvCache(int kv_heads, int qk_dim, int v_dim, int capacity, State format = State::f32) {
    const int positions = int(round_up(capacity, lanes));
    own_ = Buffer<std::byte>(std::size_t(kv_bytes_per_layer(format, kv_heads, qk_dim, v_dim, positions)));
    view_ = kv_view(own_.data(), format, kv_heads, qk_dim, v_dim, positions);
  }
  explicit KvCache(const KvView& view, int size = 0) : view_(view), size_(size) {}

  const KvView& view() const { return view_; }
  int size() const { return size_; }
  int capacity() const { return view_.capacity; }
  State format() const { return view_.format; }
  /// Forgets all positions (0), or those from `size` on.
  void truncate(int size = 0) { KLENS_ASSERT(size >= 0 && size <= size_); size_ = size; }
  /// For whoever appends: positions size() .. size() + tokens - 1 are filled.
  void grow(int tokens) { KLENS_ASSERT(size_ + tokens <= view_.capacity); size_ += tokens; }

 private:
  Buffer<std::byte> own_;
  KvView view_;
  int size_ = 0;
};

}  // namespace klens
