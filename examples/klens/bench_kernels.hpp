// One matrix in one format with everything that a linear kernel needs, to be timed and checked. The weights are real:
// up to 64 rows are quantized and repeated down the matrix, which takes the time of 64 rows and gives every panel
// honest bytes. Copies of the whole matrix let a benchmark walk more memory than the caches hold.
#pragma once

#include <klens/core/aligned.hpp>
#include <klens/core/team.hpp>
#include <klens/dispatch/table.hpp>
#include <klens/format/name.hpp>
#include <klens/format/pack.hpp>
#include <klens/quant/rtn.hpp>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <string>
#include <vector>

namespace klens::cli {

/// Deterministic values in [-1, 1): a 32-bit linear congruential generator (Numerical Recipes constants).
inline void fill_random(float* x, std::int64_t n, std::uint32_t seed) {
  for (std::int64_t i = 0; i < n; ++i)
    seed = seed * 1664525u + 1013904223u, x[i] = float(std::int32_t(seed)) * 0x1p-31f;
}

inline double seconds_of(auto&& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

inline double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v.empty() ? 0 : v[v.size() / 2];
}

class LinearBench {
 public:
  /// `fast`: linear_fast of the level, on rows of bf16.
  static Result<LinearBench> make(const Precision& p, int rows, int cols, int tokens, int copies = 1, int threads = 1,
                                  bool fast = false) {
    LinearBench b;
    b.fast_ = fast;
    b.rows_ = rows, b.cols_ = cols, b.tokens_ = tokens, b.precision_ = p;
    const int distinct = std::min(int(round_up(rows, lanes)), 64);
    b.w_ = Buffer<float>(std::size_t(distinct) * std::size_t(cols));
    fill_random(b.w_.data(), std::int64_t(distinct) * cols, 1);
    KLENS_TRY(b.tile_, quantize_rtn(p, Rows<const float>{b.w_.data(), distinct, cols, cols}));
    unpack(b.tile_.matrix(), Rows<float>{b.w_.data(), distinct, cols, cols});
    b.layout_ = layout_of(p, rows, cols);
    b.copy_bytes_ = round_up(b.layout_.line_plane_bytes, 64) + round_up(b.layout_.scale_plane_bytes, 64);
    b.weights_ = Buffer<unsigned char>(std::size_t(b.copy_bytes_ * copies));
    for (int i = 0; i < copies; ++i) {
      unsigned char* const lines = b.weights_.data() + i * b.copy_bytes_;
      repeat(lines, b.layout_.line_plane_bytes, b.tile_.matrix().lines, b.tile_.layout().line_plane_bytes);
      repeat(lines + round_up(b.layout_.line_plane_bytes, 64), b.layout_.scale_plane_bytes, b.tile_.matrix().scales,
             b.tile_.layout().scale_plane_bytes);
    }
    b.stride_ = row_stride(cols), b.y_stride_ = round_up(rows, row_unit);
    const auto n = std::size_t(b.stride_ * tokens);
    if (fast) b.bf16_ = Buffer<bf16>(n);
    b.x_ = Buffer<float>(n), b.widened_ = Buffer<float>(n), b.q8_ = Buffer<std::int8_t>(n),
    b.q16_ = Buffer<std::int16_t>(n);
    b.sums_ = Buffer<std::int32_t>(n / row_unit), b.scale_ = Buffer<float>(std::size_t(tokens));
    b.y_ = Buffer<float>(std::size_t(b.y_stride_ * tokens)),
    b.scratch_ = Buffer<std::byte>(std::size_t(linear_scratch_bytes * threads));
    for (int t = 0; t < tokens; ++t) fill_random(b.x_.data() + t * b.stride_, cols, 7u + unsigned(t));
    return b;
  }

  /// Rounds the activations as the format says. Not part of run().
  void quantize(const KernelTable& table) {
    if (fast_)
      table.round_rows({.x = x_.data(),
                        .x_stride = stride_,
                        .cols = cols_,
                        .y = bf16_.data(),
                        .stride = stride_,
                        .begin = 0,
                        .end = tokens_});
    if (precision_.activation == Activation::f32) return;
    table.quantize_row({.x = x_.data(),
                        .x_stride = stride_,
                        .cols = cols_,
                        .activation = precision_.activation,
                        .q8 = q8_.data(),
                        .q16 = q16_.data(),
                        .sums = sums_.data(),
                        .f32 = widened_.data(),
                        .scale = scale_.data(),
                        .stride = stride_,
                        .begin = 0,
                        .end = tokens_});
  }

  /// y = W x with the weights of one copy, panels dealt out as the decoder does.
  void run(const KernelTable& table, int copy, const Team& team) {
    LinearArgs a;
    a.w = matrix(copy), a.tokens = tokens_, a.y = y_.data(), a.y_stride = y_stride_;
    if (fast_)
      a.x.rounded = bf16_.data();
    else if (precision_.activation == Activation::f32)
      a.x.f32 = x_.data();
    else
      a.x.f32 = widened_.data(), a.x.q8 = q8_.data(), a.x.q16 = q16_.data(), a.x.sums = sums_.data(),
      a.x.scale = scale_.data();
    a.x.stride = stride_;
    const Kernel<LinearArgs> kernel =
        fast_ ? table.linear_fast[int(codec_of(precision_))] : linear_of(table, precision_);
    panels(team, [&](int begin, int end, int thread) {
      LinearArgs part = a;
      part.begin = begin, part.end = end, part.scratch = scratch_.data() + thread * linear_scratch_bytes;
      kernel(part);
    });
  }

  /// read(p, bytes) over the bytes of one copy, panels dealt out as run() does.
  template <class Read>
  void walk(int copy, const Team& team, const Read& read) const {
    const PackedMatrix w = matrix(copy);
    panels(team, [&](int begin, int end, int) {
      read(w.lines + begin * layout_.panel_bytes, (end - begin) * layout_.panel_bytes);
      if (w.scales)
        read(static_cast<const unsigned char*>(w.scales) + begin * layout_.scale_panel_bytes,
             (end - begin) * layout_.scale_panel_bytes / 64 * 64);
    });
  }

  /// rms(y - float64) / rms(float64), first token, up to 64 rows, over the quantized weights. `rounded`: with the
  /// rounded activations, so that what is left is the kernel's own error; else with the original ones.
  double error(bool rounded) const {
    double difference = 0, size = 0;
    const bool quantized = rounded && precision_.activation != Activation::f32;
    for (int n = 0; n < std::min(rows_, 64); ++n) {
      double y = 0;
      for (int k = 0; k < cols_; ++k) {
        const double x = rounded && fast_ ? double(to_float(bf16_[std::size_t(k)]))
                         : quantized      ? double(widened_[std::size_t(k)]) * double(scale_[0])
                                          : double(x_[std::size_t(k)]);
        y += double(w_[std::size_t(n) * std::size_t(cols_) + std::size_t(k)]) * x;
      }
      difference += (y - double(y_[std::size_t(n)])) * (y - double(y_[std::size_t(n)])), size += y * y;
    }
    return std::sqrt(difference / size);
  }

  /// Outputs that differ from those of the equal row 64 above it: 0, or panels were mixed up.
  int wrong_repeats() const {
    int wrong = 0;
    for (int t = 0; t < tokens_; ++t)
      for (int n = 64; n < rows_; ++n)
        wrong += y_[std::size_t(t * y_stride_ + n)] != y_[std::size_t(t * y_stride_ + n - 64)];
    return wrong;
  }

  std::int64_t bytes() const { return packed_bytes(precision_, rows_, cols_); }
  bool fast() const { return fast_; }
  const Precision& precision() const { return precision_; }

 private:
  PackedMatrix matrix(int copy) const {
    const unsigned char* const lines = weights_.data() + copy * copy_bytes_;
    return {lines, layout_.scale_plane_bytes > 0 ? lines + round_up(layout_.line_plane_bytes, 64) : nullptr, rows_,
            cols_, precision_};
  }

  /// body(begin, end, thread) over the panels, in the tasks of the decoder.
  template <class Body>
  void panels(const Team& team, const Body& body) const {
    LinearDeal deal;
    deal_out(deal, team.threads, tokens_, layout_.panels, bytes(), std::int64_t(rows_) * cols_ * tokens_);
    for_each(team, deal.deal.tasks, [&](int i, int thread) {
      const Share share = share_of(deal, int(layout_.panels), i);
      if (share.begin < share.end) body(share.begin, share.end, thread);
    });
  }

  static void repeat(unsigned char* out, std::int64_t bytes, const void* pattern, std::int64_t length) {
    for (std::int64_t at = 0; at < bytes; at += length)
      std::memcpy(out + at, pattern, std::size_t(std::min(length, bytes - at)));
  }

  int rows_ = 0, cols_ = 0, tokens_ = 0;
  bool fast_ = false;
  Precision precision_;
  PackedLayout layout_{};
  PackedBuffer tile_;
  std::int64_t copy_bytes_ = 0, stride_ = 0, y_stride_ = 0;
  Buffer<unsigned char> weights_;
  Buffer<float> w_, x_, widened_, scale_, y_;
  Buffer<bf16> bf16_;
  Buffer<std::int8_t> q8_;
  Buffer<std::int16_t> q16_;
  Buffer<std::int32_t> sums_;
  Buffer<std::byte> scratch_;
};

}  // namespace klens::cli
