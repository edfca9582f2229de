// What a component remembers from token to token: ScanState, ConvState, KvCache. Each owns its memory (zero at first) or looks at
// somebody else's; all are f32, the only state format so far.
#pragma once

#include <klens/core/aligned.hpp>
#include <klens/kernel/args.hpp>

#include <cstring>

namespace klens {

/// h of a selective scan: [round_up(channels, 16) / 16][n_state][16].
class ScanState {
 public:
  ScanState(int channels, int n_state)
      : channels_(channels), n_state_(n_state), own_(std::size_t(round_up(channels, lanes) * n_state)), data_(own_.data()) {}
  /// Looks at round_up(channels, 16) * n_state floats at a 64-byte boundary.
  ScanState(float* data, int channels, int n_state) : channels_(channels), n_state_(n_state), data_(data) {}

  float* data() { return data_; }
  int channels() const { return channels_; }
  int n_state() const { return n_state_; }
  void clear() { std::memset(data_, 0, std::size_t(round_up(channels_, lanes) * n_state_) * sizeof(float)); }
  /// State n of a channel.
  float value(int channel, int n) const { return data_[(channel / lanes * n_state_ + n) * lanes + channel % lanes]; }

 private:
  int channels_, n_state_;
  Buffer<float> own_;
  float* data_;
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
  KvCache(int kv_heads, int qk_dim, int v_dim, int capacity) {
    const std::int64_t positions = round_up(capacity, lanes), k = kv_heads * positions * qk_dim, v = kv_heads * positions * round_up(v_dim, lanes);
    own_ = Buffer<float>(std::size_t(k + v));
    view_ = {own_.data(), own_.data() + k, int(positions), kv_heads, qk_dim, v_dim};
  }
  explicit KvCache(const KvView& view, int size = 0) : view_(view), size_(size) {}

  const KvView& view() const { return view_; }
  int size() const { return size_; }
  int capacity() const { return view_.capacity; }
  /// Forgets all positions (0), or those from `size` on.
  void truncate(int size = 0) { KLENS_ASSERT(size >= 0 && size <= size_); size_ = size; }
  /// For whoever appends: positions size() .. size() + tokens - 1 are filled.
  void grow(int tokens) { KLENS_ASSERT(size_ + tokens <= view_.capacity); size_ += tokens; }

 private:
  Buffer<float> own_;
  KvView view_;
  int size_ = 0;
};

}  // namespace klens
