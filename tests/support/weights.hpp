// Weights for format tests: normal-like, with outliers, exact zeros, ties and a zero group, the same on every machine.
#pragma once

#include <klens/core/rows.hpp>

#include <cstdint>
#include <vector>

namespace test {

struct Matrix {
  std::vector<float> data;
  std::int64_t rows = 0, cols = 0;

  klens::Rows<const float> view() const { return {data.data(), rows, cols, cols}; }
  klens::Rows<float> view() { return {data.data(), rows, cols, cols}; }
  float& at(std::int64_t n, std::int64_t k) { return data[std::size_t(n * cols + k)]; }
};

inline Matrix matrix(std::int64_t rows, std::int64_t cols) {
  return {std::vector<float>(std::size_t(rows * cols)), rows, cols};
}

/// splitmix64: small, and without the standard library's freedom in distributions.
inline std::uint64_t next_random(std::uint64_t& state) {
  std::uint64_t z = state += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

inline Matrix weights(std::int64_t rows, std::int64_t cols, std::uint64_t seed) {
  Matrix m = matrix(rows, cols);
  for (float& x : m.data) {
    double sum = 0;
    for (int i = 0; i < 4; ++i) sum += double(next_random(seed) >> 40) * 0x1p-24 - 0.5;  // variance 1/3
    x = float(sum * 0.05);
    const std::uint64_t dice = next_random(seed) % 64;
    if (dice == 0) x *= 12;
    if (dice == 1) x = 0;
    if (dice == 2) x = -0.0f;
  }
  if (rows > 2)
    for (std::int64_t k = 0; k < cols && k < 32; ++k) m.at(2, k) = 0;  // a zero group, or a zero row
  if (rows > 4)
    for (std::int64_t k = 0; k < cols; ++k)
      m.at(4, k) = float((k * 7) % 29 - 14) * 0.5f;  // scale 1 with 3 bits upwards in some groups: ties
  return m;
}

}  // namespace test
