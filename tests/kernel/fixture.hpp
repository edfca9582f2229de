// What the kernel tests share: the active level's table and the reference level's, guarded buffers, random numbers, and
// counting of violations, so that every bound can be shown to fail when one value is corrupted.
#pragma once

#include <klens/core/aligned.hpp>
#include <klens/dispatch/select.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

namespace fixture {

/// The level this run is about (KLENS_ISA, or the best of the CPU).
inline const klens::KernelTable& active() {
  const auto table = klens::choose_table("");
  REQUIRE(bool(table));
  return **table;
}

inline const klens::KernelTable& reference() {
  const klens::KernelTable* table = klens::table_of(klens::Level::ref);
  REQUIRE(table != nullptr);
  return *table;
}

/// Floats between two margins of canaries; filled with canaries as well, so that what a kernel left out shows.
class Guarded {
 public:
  static constexpr float canary = -7.0078125e8f;
  static constexpr int margin = 32;

  explicit Guarded(std::int64_t count) : size_(count), all_(std::size_t(count + 2 * margin)) {
    for (float& x : all_.span()) x = canary;
  }
  float* data() { return all_.data() + margin; }
  const float* data() const { return all_.data() + margin; }
  std::int64_t size() const { return size_; }
  float& operator[](std::int64_t i) { return data()[i]; }
  float operator[](std::int64_t i) const { return data()[i]; }
  void fill(float x) { std::fill(data(), data() + size_, x); }

  bool margins_intact() const {
    for (int i = 0; i < margin; ++i)
      if (all_[std::size_t(i)] != canary || all_[std::size_t(size_ + margin + i)] != canary) return false;
    return true;
  }

 private:
  std::int64_t size_;
  klens::Buffer<float> all_;
};

inline bool same_bits(const Guarded& a, const Guarded& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), std::size_t(a.size()) * sizeof(float)) == 0;
}

/// Fills with normal numbers of the given mean and deviation.
class Random {
 public:
  explicit Random(unsigned seed) : engine_(seed) {}
  double uniform(double low, double high) { return low + (high - low) * double(engine_() >> 11) * 0x1p-53; }
  double normal() { return std::sqrt(-2 * std::log(uniform(1e-12, 1))) * std::cos(6.283185307179586 * uniform(0, 1)); }
  int integer(int low, int high) { return low + int(engine_() % std::uint64_t(high - low + 1)); }
  void fill(Guarded& out, double deviation = 1, double mean = 0) {
    for (std::int64_t i = 0; i < out.size(); ++i) out[i] = float(mean + deviation * normal());
  }

 private:
  std::mt19937_64 engine_;
};

/// Entries that differ from the oracle by more than their bound (NaN counts).
struct Judge {
  int wrong = 0;
  double worst = 0;  // largest error in units of its bound
  void operator()(double got, double want, double bound) {
    const double error = std::abs(got - want);
    if (!(error <= bound)) ++wrong;
    if (bound > 0) worst = std::max(worst, error / bound);
  }
};

/// Half a unit in the last place of 1: the relative error of one fp32 rounding.
inline constexpr double eps = 0x1p-24;

/// Columns of a row as doubles.
inline std::vector<double> doubles(const float* x, int n) { return std::vector<double>(x, x + n); }

}  // namespace fixture
