// Oracle of linear and quantize_row: scalar loops over plain numbers, int64 and double, nothing shared with kernel/ or
// simd/.
//
// `expected` follows the definition of the result term by term (std::fma, one chain, k ascending; integers in int64, to
// float once per sum), so a correct kernel equals it in every bit; `truth` is the same sum in double from the same
// stored numbers. For S sums per row (groups, or segments of 512 inputs), every step rounded once:
//
//   integers   |expected - truth| <= (S + 6) 2^-24 mass,       mass = sum over sums |scale dot| + |bias| + |residual|
//   floats     |expected - truth| <= (K + S + 6) 2^-24 mass,   mass = sum over terms |scale w x| + |bias| + |residual|
//
// (6: conversion, row scale, token scale, bias, residual, and one for products of roundings.) The oracle is itself
// checked by hand-computed cases.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

namespace oracle {

struct Linear {
  int rows = 0, cols = 0;
  bool integers = false;                 // weights are integers in `q`; else floats (levels) in `w`
  int group = 0;                         // inputs per scale, 0: one scale per row; scale empty: none
  int integer_dot = 0;                   // 0: float chain; 8: one int sum per row or group; 16: sums over 512 inputs
  std::vector<int> q;                    // [rows][cols]
  std::vector<float> w;                  // [rows][cols]
  std::vector<float> scale;              // [rows][groups]

  int groups() const { return group ? (cols + group - 1) / group : 1; }
  int segment() const { return group ? group : integer_dot == 16 ? 512 : cols; }
  int sums() const { return (cols + segment() - 1) / segment(); }
  double bound_in_eps() const { return sums() + 6.0 + (integer_dot ? 0 : cols); }
};

struct Row {
  std::vector<float> x;                  // [cols]: f32 activations, or float(q)
  bool scaled = false;
  float scale = 0;
};

struct Answer { float expected; double truth, mass; };

inline Answer linear(const Linear& m, const Row& row, int n, const float* bias, const float* residual) {
  const std::size_t first = std::size_t(n) * std::size_t(m.cols);
  const int* q = m.integers ? m.q.data() + first : nullptr;
  const float* w = m.integers ? nullptr : m.w.data() + first;
  const float* x = row.x.data();
  const int segment = m.segment(), groups = m.groups();
  float acc = 0;
  double truth = 0, mass = 0;
  for (int begin = 0; begin < m.cols; begin += segment) {
    const int end = begin + segment < m.cols ? begin + segment : m.cols;
    const std::size_t at = std::size_t(n) * std::size_t(groups) + std::size_t(m.group ? begin / segment : 0);
    const float scale = m.scale.empty() ? 1.0f : m.scale[at];
    float part = 0;
    double exact = 0, terms = 0;
    if (m.integer_dot) {
      std::int64_t dot = 0;
      for (int k = begin; k < end; ++k) dot += std::int64_t(q[k]) * std::int64_t(x[k]);
      part = float(dot), exact = double(dot), terms = std::abs(exact);
    } else {
      for (int k = begin; k < end; ++k) {
        const float value = q ? float(q[k]) : w[k];
        part = std::fma(value, x[k], part);
        exact += double(value) * double(x[k]), terms += std::abs(double(value) * double(x[k]));
      }
    }
    if (m.group) acc = std::fma(scale, part, acc);
    else if (m.integer_dot == 16) acc = acc + part;
    else acc = part;
    truth += double(scale) * exact, mass += std::abs(double(scale)) * terms;
  }
  if (!m.group && !m.scale.empty()) acc = acc * m.scale[std::size_t(n)];
  if (row.scaled) acc = acc * row.scale, truth *= row.scale, mass *= std::abs(double(row.scale));
  if (bias) acc = acc + *bias, truth += *bias, mass += std::abs(double(*bias));
  if (residual) acc = acc + *residual, truth += *residual, mass += std::abs(double(*residual));
  return {acc, truth, mass};
}

/// q and scale of a row: absmax / qmax, nearest even, clamped.
struct Quantized { std::vector<int> q; float scale; };

inline Quantized quantize(const std::vector<float>& x, int qmax) {
  float largest = 0;
  for (const float v : x) largest = std::abs(v) > largest ? std::abs(v) : largest;
  Quantized r{std::vector<int>(x.size(), 0), largest / float(qmax)};
  if (r.scale == 0) return r;
  for (std::size_t k = 0; k < x.size(); ++k) {
    const float v = x[k] / r.scale;
    const double below = std::floor(double(v)), rest = double(v) - below;
    double n = rest > 0.5 || (rest == 0.5 && std::fmod(below, 2.0) != 0) ? below + 1 : below;
    n = n > qmax ? qmax : n < -qmax ? -qmax : n;
    r.q[k] = int(n);
  }
  return r;
}

}  // namespace oracle
