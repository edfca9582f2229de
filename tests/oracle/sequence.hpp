// Oracles of the sequence kernels in float64 (long double where a difference of large sums is taken): plain loops over
// the equations of kernel/args.hpp, sharing no code with the library. Inputs are the same fp32 values the kernels read.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace oracle {

/// Dense row-major matrix of doubles.
struct Matrix {
  int rows = 0, cols = 0;
  std::vector<double> v;
  Matrix(int r, int c) : rows(r), cols(c), v(std::size_t(r) * std::size_t(c), 0.0) {}
  double& operator()(int r, int c) { return v[std::size_t(r) * std::size_t(cols) + std::size_t(c)]; }
  double operator()(int r, int c) const { return v[std::size_t(r) * std::size_t(cols) + std::size_t(c)]; }
};

inline double softplus(double x) { return x > 0 ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x)); }
inline double sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }
inline double silu(double x) { return x / (1.0 + std::exp(-x)); }

/// y = x / sqrt(mean x^2 + eps) * w
inline std::vector<double> rms_norm(const std::vector<double>& x, const std::vector<double>& w, double eps) {
  double total = 0;
  for (double value : x) total += value * value;
  const double r = 1.0 / std::sqrt(total / double(x.size()) + eps);
  std::vector<double> y(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) y[i] = x[i] * r * (w.empty() ? 1.0 : w[i]);
  return y;
}

/// One head rotated by angle position * theta^(-2 i / d).
inline std::vector<double> rope(const std::vector<double>& x, int position, double theta) {
  const std::size_t d = x.size(), half = d / 2;
  std::vector<double> y(d);
  for (std::size_t i = 0; i < half; ++i) {
    const double angle = double(position) * std::pow(theta, -2.0 * double(i) / double(d));
    y[i] = x[i] * std::cos(angle) - x[i + half] * std::sin(angle);
    y[i + half] = x[i + half] * std::cos(angle) + x[i] * std::sin(angle);
  }
  return y;
}

inline bool visible(int i, int j, int window, int meta) {
  return j <= i && (window == 0 || i - j <= window || j < meta);
}

/// One query against all keys of its head: q [qk], k [positions, qk], v [positions, vd]; the query is at position i.
inline std::vector<double> attention(const std::vector<double>& q, const Matrix& k, const Matrix& v, int i, int window,
                                     int meta, double scale) {
  std::vector<double> score(std::size_t(i) + 1, 0.0), out(std::size_t(v.cols), 0.0);
  double top = -INFINITY, total = 0;
  for (int j = 0; j <= i; ++j) {
    if (!visible(i, j, window, meta)) continue;
    for (int d = 0; d < k.cols; ++d) score[std::size_t(j)] += q[std::size_t(d)] * k(j, d);
    score[std::size_t(j)] *= scale;
    top = std::max(top, score[std::size_t(j)]);
  }
  for (int j = 0; j <= i; ++j) {
    if (!visible(i, j, window, meta)) continue;
    const double p = std::exp(score[std::size_t(j)] - top);
    total += p;
    for (int c = 0; c < v.cols; ++c) out[std::size_t(c)] += p * v(j, c);
  }
  for (double& value : out) value /= total;
  return out;
}

/// Numbers of a KV cache, read from its bytes by the words of kernel/args.hpp (KvView): `bits` is 32, 16, 8 or 4.
inline double bf16_value(const void* scales, std::int64_t i) {
  std::uint16_t h;
  std::memcpy(&h, static_cast<const unsigned char*>(scales) + 2 * i, 2);
  const int exponent = h >> 7 & 255, mantissa = h & 127;
  const double size = exponent == 0 ? std::ldexp(mantissa, -133) : std::ldexp(128 + mantissa, exponent - 134);
  return h >> 15 ? -size : size;
}
inline double half_value(const void* cells, std::int64_t i) {
  std::uint16_t h;
  std::memcpy(&h, static_cast<const unsigned char*>(cells) + 2 * i, 2);
  const int exponent = h >> 10 & 31, mantissa = h & 1023;
  const double size = exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
  return h >> 15 ? -size : size;
}
inline int code_at(const void* cells, std::int64_t byte, bool high) {
  const int b = static_cast<const unsigned char*>(cells)[byte], nibble = high ? b / 16 : b % 16;
  return nibble < 8 ? nibble : nibble - 16;
}

/// A number of the cache, and the step between neighbouring codes (0 where there are none).
struct KvNumber { double value, step; };

inline KvNumber plain_number(const void* cells, const void* scales, int bits, std::int64_t i, std::int64_t scale) {
  if (bits == 16) return {half_value(cells, i), 0};
  if (bits == 8) {
    const double step = bf16_value(scales, scale);
    return {static_cast<const signed char*>(cells)[i] * step, step};
  }
  float f;
  std::memcpy(&f, static_cast<const unsigned char*>(cells) + 4 * i, 4);
  return {f, 0};
}
/// K of head g, position j, column d; V of column c.
inline KvNumber kv_k(const void* k, const void* scales, int bits, int capacity, int qk, int g, int j, int d) {
  const std::int64_t block = std::int64_t(g) * (capacity / 16) + j / 16, lane = j % 16;
  if (bits != 4) return plain_number(k, scales, bits, (block * qk + d) * 16 + lane, std::int64_t(g) * capacity + j);
  const double step = bf16_value(scales, (std::int64_t(g) * ((qk + 31) / 32) + d / 32) * capacity + j);
  return {code_at(k, (block * ((qk + 1) / 2) + d / 2) * 16 + lane, d % 2 == 1) * step, step};
}
inline KvNumber kv_v(const void* v, const void* scales, int bits, int capacity, int vd, int g, int j, int c) {
  const std::int64_t row = std::int64_t(g) * capacity + j;
  if (bits != 4) return plain_number(v, scales, bits, row * ((vd + 15) / 16 * 16) + c, row);
  const double step = bf16_value(scales, (std::int64_t(g) * ((vd + 31) / 32) + c / 32) * capacity + j);
  return {code_at(v, row * ((vd + 31) / 32 * 16) + c / 32 * 16 + c % 16, c / 16 % 2 == 1) * step, step};
}

/// y[t] = act(bias + sum_k w[k] x[t - taps + 1 + k]) of one channel, zero history; `magnitude` = bias and terms in
/// absolute value.
struct ConvChannel { std::vector<double> y, magnitude; };
inline ConvChannel conv1d(const std::vector<double>& x, const std::vector<double>& w, double bias, bool act) {
  ConvChannel r{std::vector<double>(x.size()), std::vector<double>(x.size())};
  for (std::size_t t = 0; t < x.size(); ++t) {
    double sum = bias, size = std::abs(bias);
    for (std::size_t k = 0; k < w.size(); ++k) {
      const std::ptrdiff_t at = std::ptrdiff_t(t) - std::ptrdiff_t(w.size()) + 1 + std::ptrdiff_t(k);
      if (at < 0) continue;
      sum += w[k] * x[std::size_t(at)];
      size += std::abs(w[k] * x[std::size_t(at)]);
    }
    r.y[t] = act ? silu(sum) : sum;
    r.magnitude[t] = size;
  }
  return r;
}

/// One channel of the selective scan, one token: h is updated, y returned. a2 = -exp(A_log) log2(e).
struct ScanToken { double x, dt_raw, z; const double* b; const double* c; };
inline double scan_step(std::vector<double>& h, const ScanToken& in, const double* a2, double d, double dt_bias,
                        bool gate, double* largest_decay = nullptr) {
  const double dt = softplus(in.dt_raw + dt_bias);
  double y = d * in.x;
  for (std::size_t n = 0; n < h.size(); ++n) {
    const double decay = std::exp2(dt * a2[n]);
    if (largest_decay != nullptr) *largest_decay = std::max(*largest_decay, decay);
    h[n] = decay * h[n] + dt * in.x * in.b[n];
    y += h[n] * in.c[n];
  }
  return gate ? y * silu(in.z) : y;
}

/// Statistics of two logit rows by the plain definitions, in long double (64-bit mantissa).
struct RowStats {
  long double kl_pq, kl_qp, sum_z2, sum_d2, sum_zc2, sum_dc2, lse_p, lse_q;
  int top_p, top_q;
};

inline long double log_sum_exp(const float* z, int n) {
  long double top = -INFINITY, total = 0;
  for (int i = 0; i < n; ++i) top = std::max(top, (long double)z[i]);
  for (int i = 0; i < n; ++i) total += expl(z[i] - top);
  return top + logl(total);
}

/// KL as sum p * g(delta), delta = log p - log q: sum p delta = sum p (delta + exp(-delta) - 1) because sum p = sum q
/// = 1; each term is >= 0, so nothing cancels and KL of 1e-12 keeps ten digits.
inline long double kl(const float* zp, long double lse_p, const float* zq, long double lse_q, int n) {
  long double total = 0;
  for (int i = 0; i < n; ++i) {
    const long double delta = ((long double)zp[i] - zq[i]) - (lse_p - lse_q);
    total += expl(zp[i] - lse_p) * (expm1l(-delta) + delta);
  }
  return total;
}

inline RowStats row_stats(const float* zp, const float* zq, int n) {
  RowStats r{};
  r.lse_p = log_sum_exp(zp, n);
  r.lse_q = log_sum_exp(zq, n);
  r.kl_pq = kl(zp, r.lse_p, zq, r.lse_q, n);
  r.kl_qp = kl(zq, r.lse_q, zp, r.lse_p, n);
  long double mean_z = 0, mean_d = 0;
  for (int i = 0; i < n; ++i) {
    mean_z += zp[i];
    mean_d += (long double)zp[i] - zq[i];
  }
  mean_z /= n;
  mean_d /= n;
  for (int i = 0; i < n; ++i) {
    const long double z = zp[i], d = z - zq[i];
    r.sum_z2 += z * z;
    r.sum_d2 += d * d;
    r.sum_zc2 += (z - mean_z) * (z - mean_z);
    r.sum_dc2 += (d - mean_d) * (d - mean_d);
    if (zp[i] > zp[r.top_p]) r.top_p = i;
    if (zq[i] > zq[r.top_q]) r.top_q = i;
  }
  return r;
}

}  // namespace oracle
