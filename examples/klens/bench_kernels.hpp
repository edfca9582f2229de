// Timing of single kernels through a level's table: median of interleaved repeats, bytes and operations per second, error
// against float64, and the share of the rate at which this thread reads a buffer of the same size.
#pragma once

#include <klens/core/aligned.hpp>
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

struct KernelTiming {
  std::string kernel, level;
  int rows = 0, cols = 0, tokens = 0;
  double microseconds = 0, gigabytes_per_second = 0, gigamacs_per_second = 0;
  double share_of_read_rate = 0;   // weights streamed, against a plain read of as many bytes
  double error = 0;                // rms(y - float64) / rms(float64), same quantized weights
};

/// Deterministic values in [-1, 1): a 32-bit linear congruential generator (Numerical Recipes constants).
inline void fill_random(float* x, std::int64_t n, std::uint32_t seed) {
  for (std::int64_t i = 0; i < n; ++i) seed = seed * 1664525u + 1013904223u, x[i] = float(std::int32_t(seed)) * 0x1p-31f;
}

inline double seconds_of(auto&& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

inline double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

/// One matrix in one format with everything a linear kernel needs: weights, a token tile, its quantized form, outputs.
class LinearBench {
 public:
  static Result<LinearBench> make(const Precision& p, int rows, int cols, int tokens) {
    LinearBench b;
    b.rows_ = rows, b.cols_ = cols, b.tokens_ = tokens, b.precision_ = p;
    Buffer<float> w(std::size_t(rows) * std::size_t(cols));
    fill_random(w.data(), std::int64_t(rows) * cols, 1);
    KLENS_TRY(b.packed_, quantize_rtn(p, Rows<const float>{w.data(), rows, cols, cols}));
    b.stride_ = round_up(cols, row_unit), b.y_stride_ = round_up(rows, row_unit);
    const auto n = std::size_t(b.stride_ * tokens);
    b.x_ = Buffer<float>(n), b.widened_ = Buffer<float>(n), b.q8_ = Buffer<std::int8_t>(n), b.q16_ = Buffer<std::int16_t>(n);
    b.sums_ = Buffer<std::int32_t>(n / row_unit), b.scale_ = Buffer<float>(std::size_t(tokens));
    b.y_ = Buffer<float>(std::size_t(b.y_stride_ * tokens)), b.scratch_ = Buffer<std::byte>(linear_scratch_bytes);
    for (int t = 0; t < tokens; ++t) fill_random(b.x_.data() + t * b.stride_, cols, 7u + unsigned(t));
    return b;
  }

  void run(const KernelTable& table) {
    ActRows rows{.f32 = x_.data(), .stride = stride_};
    if (precision_.activation != Activation::f32) {
      table.quantize_row({.x = x_.data(), .x_stride = stride_, .cols = cols_, .activation = precision_.activation, .q8 = q8_.data(), .q16 = q16_.data(),
                          .sums = sums_.data(), .f32 = widened_.data(), .scale = scale_.data(), .stride = stride_, .begin = 0, .end = tokens_});
      rows = {.f32 = widened_.data(), .q8 = q8_.data(), .q16 = q16_.data(), .sums = sums_.data(), .scale = scale_.data(), .stride = stride_};
    }
    linear_of(table, precision_)({.w = packed_.matrix(), .x = rows, .tokens = tokens_, .y = y_.data(), .y_stride = y_stride_, .begin = 0,
                                  .end = int(div_up(rows_, lanes)), .scratch = scratch_.data()});
  }

  /// Against float64 over the dequantized weights, first token, up to 64 rows.
  double error() const {
    Buffer<float> w(std::size_t(rows_) * std::size_t(cols_));
    unpack(packed_.matrix(), Rows<float>{w.data(), rows_, cols_, cols_});
    double difference = 0, size = 0;
    for (int n = 0; n < std::min(rows_, 64); ++n) {
      double y = 0;
      for (int k = 0; k < cols_; ++k) y += double(w[std::size_t(n) * std::size_t(cols_) + std::size_t(k)]) * double(x_[std::size_t(k)]);
      difference += (y - double(y_[std::size_t(n)])) * (y - double(y_[std::size_t(n)])), size += y * y;
    }
    return std::sqrt(difference / size);
  }

  std::int64_t bytes() const { return packed_bytes(precision_, rows_, cols_); }

 private:
  int rows_ = 0, cols_ = 0, tokens_ = 0;
  Precision precision_;
  PackedBuffer packed_;
  std::int64_t stride_ = 0, y_stride_ = 0;
  Buffer<float> x_, widened_, scale_, y_;
  Buffer<std::int8_t> q8_;
  Buffer<std::int16_t> q16_;
  Buffer<std::int32_t> sums_;
  Buffer<std::byte> scratch_;
};

}  // namespace klens::cli
