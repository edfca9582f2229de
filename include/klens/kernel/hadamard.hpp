// Hadamard transform of rows of any useful length (kernel/args.hpp, HadamardArgs): outliers are spread over a row
// before it is quantized; the inverse is folded into the next matrix.
//
//   y = H x, H = H_b1 (x) H_b2 (x) H_2^k, n = b1 b2 2^k: column (i1 b2 + i2) 2^k + s, last factor first
//   H_2^k   entry (i, j) is -1 to the number of common bits of i and j
//   H_b     Paley II where b / 2 - 1 = q is a prime = 1 mod 4: C = [0 1; 1 Q], each +-1 as +-[1 1; 1 -1], each 0 as
//           [1 -1; -1 -1]; else Paley I where b - 1 = q is a prime = 3 mod 4: I + [0 1; -1 Q];
//           Q(i, j) = (j - i | q), the Legendre symbol. b <= 128
//   hadamard_plan(n) takes no base, else the smallest base that n = b 2^k has, else the smallest pair; else H_2^k on
//   consecutive blocks, 2^k the largest power of two in n. 1600 = 20 20 4, 4608 = 36 128, 5504 = 43 blocks of 128
//
// Sums in this order: butterflies of strides 1, 2, 4, ... (a + b, a - b); a base as one chain over j ascending, the
// signs as factors +-1 of an exact fma (Paley II: first sums and differences of pairs, last the diagonal term). A row's
// bits depend on the row alone. Orthonormal: one product with float(1 / sqrt(n)) at the end. `absmax` leaves each 16
// outputs' maximum for quantize_row. Signs are made anew by each call (q squarings); no tables.
// Cost per 16 columns: 2^k: 2 per swap stage, 1 add, half a load and store per further stage; a base: b fma (Paley II:
// b / 2) and a quarter of the loads; with 2^k < 16 columns behind it as many, 16 / 2^k times over. Bytes: the row twice
// in L1 per pass. Error of an entry: (log2(n) + 2) 2^-24 of the row's 2-norm |H x|.
// Oracle: the matrix itself in float64 from its definition, in tests/kernel/hadamard.cpp, with H H^T = n I exactly.
#pragma once

#include <klens/kernel/args.hpp>
#include <klens/simd/swap.hpp>
#include <klens/simd/unroll.hpp>
#include <klens/simd/v16f.hpp>

namespace klens::inline KLENS_NS {

/// Factors of a transform: width = blocks * base[0] * base[1] * 2^log2, bases 1 where there are none. order 0: none.
struct HadamardPlan {
  int blocks = 0, base[2] = {1, 1}, log2 = 0;
  KLENS_INLINE constexpr int order() const { return blocks > 0 ? base[0] * base[1] << log2 : 0; }
};

namespace hadamard_detail {

inline constexpr int largest_base = 128, largest_width = hadamard_scratch / 2;

KLENS_INLINE constexpr bool is_prime(int n) {
  for (int d = 2; d * d <= n; ++d)
    if (n % d == 0) return false;
  return n >= 2;
}
KLENS_INLINE constexpr bool paley2(int b) { return b % 4 == 0 && (b / 2 - 1) % 4 == 1 && is_prime(b / 2 - 1); }
KLENS_INLINE constexpr bool paley1(int b) { return b % 4 == 0 && is_prime(b - 1); }
KLENS_INLINE constexpr bool is_base(int b) { return b <= largest_base && (paley2(b) || paley1(b)); }

/// The smallest base odd * 2^j, 2 <= j <= most: its j, or 0.
KLENS_INLINE constexpr int base_log2(int odd, int most) {
  for (int j = 2; j <= most && odd << j <= largest_base; ++j)
    if (is_base(odd << j)) return j;
  return 0;
}

}  // namespace hadamard_detail

KLENS_INLINE constexpr HadamardPlan hadamard_plan(int width) {
  using namespace hadamard_detail;
  if (width < 1 || width > largest_width) return {};
  int odd = width, log2 = 0;
  for (; odd % 2 == 0; odd /= 2) ++log2;
  if (odd == 1) return {1, {1, 1}, log2};
  if (const int j = base_log2(odd, log2); j > 0) return {1, {odd << j, 1}, log2 - j};
  for (int a = 3; a * a <= odd; a += 2) {
    if (odd % a != 0) continue;
    const int i = base_log2(a, log2 - 2), j = base_log2(odd / a, log2 - i);
    if (i > 0 && j > 0) return {1, {a << i, odd / a << j}, log2 - i - j};
  }
  return {log2 > 0 ? odd : 0, {1, 1}, log2};
}

namespace hadamard_detail {

/// The rows of I + [0 1; -1 Q] (Paley I), or of C (Paley II), for columns j >= 1; column 0 is `first`.
struct Signs {
  int q;
  bool second;
  float ones[largest_base], cycle[2 * largest_base];   // cycle[q + d] = (d | q), d = -q .. q - 1

  KLENS_INLINE const float* row(int i) const { return i == 0 ? ones : cycle + (q - i); }
  KLENS_INLINE float first(int i) const { return second ? (i == 0 ? 0.0f : 1.0f) : (i == 0 ? 1.0f : -1.0f); }
};

KLENS_INLINE void make_signs(Signs& s, int b) {
  s.second = paley2(b), s.q = s.second ? b / 2 - 1 : b - 1;
  for (int i = 0; i <= s.q; ++i) s.ones[i] = 1.0f;
  for (int i = 0; i < 2 * s.q; ++i) s.cycle[i] = -1.0f;
  s.cycle[0] = s.cycle[s.q] = s.second ? 0.0f : 1.0f;
  for (int i = 1; i < s.q; ++i) {
    const int square = i * i % s.q;
    s.cycle[square] = s.cycle[square + s.q] = 1.0f;
  }
}

/// Four rows i .. i + 3 of a base for n columns, the entries of x `r` apart. Four chains: an fma takes 4 cycles.
KLENS_INLINE void four_rows(const Signs& s, const float* x, float* y, std::int64_t r, int i, int n) {
  const float* sign[4] = {s.row(i), s.row(i + 1), s.row(i + 2), s.row(i + 3)};
  const v16f x0 = load_upto(x, n);
  v16f sum[4];
  unroll<4>([&](int k) KLENS_INLINE_LAMBDA { sum[k] = splat(s.first(i + k)) * x0; });
  for (int j = 1; j <= s.q; ++j) {
    const v16f xj = load_upto(x + j * r, n);
    unroll<4>([&](int k) KLENS_INLINE_LAMBDA { sum[k] = fma(splat(sign[k][j]), xj, sum[k]); });
  }
  unroll<4>([&](int k) KLENS_INLINE_LAMBDA { store_upto(y + (i + k) * r, sum[k], n); });
}

/// Rows 2i .. 2i + 3 of Paley II from sums (even entries of x) and differences (odd ones).
KLENS_INLINE void two_pairs(const Signs& s, const float* x, float* y, std::int64_t r, int i, int n) {
  const float* sign[2] = {s.row(i), s.row(i + 1)};
  const v16f p0 = load_upto(x, n), m0 = load_upto(x + r, n);
  v16f p[2], m[2];
  unroll<2>([&](int k) KLENS_INLINE_LAMBDA { p[k] = splat(s.first(i + k)) * p0, m[k] = splat(s.first(i + k)) * m0; });
  for (int j = 1; j <= s.q; ++j) {
    const v16f pj = load_upto(x + 2 * j * r, n), mj = load_upto(x + (2 * j + 1) * r, n);
    unroll<2>([&](int k) KLENS_INLINE_LAMBDA {
      const v16f c = splat(sign[k][j]);
      p[k] = fma(c, pj, p[k]), m[k] = fma(c, mj, m[k]);
    });
  }
  unroll<2>([&](int k) KLENS_INLINE_LAMBDA {
    const std::int64_t at = 2 * (i + k) * r;
    store_upto(y + at, p[k] + load_upto(x + at + r, n), n);
    store_upto(y + at + r, m[k] - load_upto(x + at, n), n);
  });
}

/// H_b over entries `r` apart of `count` arrays one after another: x (spoilt) to y.
KLENS_INLINE void base(int b, float* x, float* y, std::int64_t r, std::int64_t count) {
  Signs s;
  make_signs(s, b);
  for (std::int64_t block = 0; block < count; ++block, x += b * r, y += b * r) {
    for (std::int64_t c = 0; c < r; c += lanes) {
      const int n = r - c < lanes ? int(r - c) : lanes;
      if (!s.second) {
        for (int i = 0; i < b; i += 4) four_rows(s, x + c, y + c, r, i, n);
        continue;
      }
      for (int j = 0; j < b; j += 2) {
        const v16f even = load_upto(x + j * r + c, n), odd = load_upto(x + (j + 1) * r + c, n);
        store_upto(x + j * r + c, even + odd, n), store_upto(x + (j + 1) * r + c, even - odd, n);
      }
      for (int i = 0; i <= s.q; i += 2) two_pairs(s, x + c, y + c, r, i, n);
    }
  }
}

/// Lane i: -1 where bit D of i is set, else 1.
template <int D>
KLENS_INLINE v16f lane_signs() {
  alignas(64) float s[lanes];
  for (int i = 0; i < lanes; ++i) s[i] = (i & D) != 0 ? -1.0f : 1.0f;
  return load(s);
}

/// Strides 1 .. min(8, 2^log2 / 2), x to y.
KLENS_INLINE void within_lanes(const float* x, float* y, int width, int log2) {
  const v16f s1 = lane_signs<1>(), s2 = lane_signs<2>(), s4 = lane_signs<4>(), s8 = lane_signs<8>();
  for (int i = 0; i < width; i += lanes) {
    v16f v = load_upto(x + i, width - i);
    if (log2 > 0) v = fma(s1, v, swap_lanes<1>(v));
    if (log2 > 1) v = fma(s2, v, swap_lanes<2>(v));
    if (log2 > 2) v = fma(s4, v, swap_lanes<4>(v));
    if (log2 > 3) v = fma(s8, v, swap_lanes<8>(v));
    store_upto(y + i, v, width - i);
  }
}

/// Strides 16 .. 2^(log2 - 1) in place, two at a time.
KLENS_INLINE void across_vectors(float* x, int width, int log2) {
  int stage = 4;
  for (; stage + 1 < log2; stage += 2) {
    const int h = 1 << stage;
    for (int begin = 0; begin < width; begin += 4 * h) {
      for (int i = begin; i < begin + h; i += lanes) {
        const v16f a = load(x + i), b = load(x + i + h), c = load(x + i + 2 * h), d = load(x + i + 3 * h);
        const v16f ab = a + b, a_b = a - b, cd = c + d, c_d = c - d;
        store(x + i, ab + cd), store(x + i + h, a_b + c_d);
        store(x + i + 2 * h, ab - cd), store(x + i + 3 * h, a_b - c_d);
      }
    }
  }
  if (stage >= log2) return;
  const int h = 1 << stage;
  for (int begin = 0; begin < width; begin += 2 * h) {
    for (int i = begin; i < begin + h; i += lanes) {
      const v16f a = load(x + i), b = load(x + i + h);
      store(x + i, a + b), store(x + i + h, a - b);
    }
  }
}

}  // namespace hadamard_detail

inline void hadamard(const HadamardArgs& a) {
  using namespace hadamard_detail;
  const HadamardPlan plan = hadamard_plan(a.width);
  KLENS_ASSERT(plan.order() > 0);
  const float scale = a.orthonormal ? float(1.0 / __builtin_sqrt(double(plan.order()))) : 1.0f;
  const std::int64_t r = std::int64_t(1) << plan.log2;
  for (int t = a.begin; t < a.end; ++t) {
    float *from = a.scratch, *to = a.scratch + largest_width;
    within_lanes(a.x + t * a.x_stride, from, a.width, plan.log2);
    across_vectors(from, a.width, plan.log2);
    for (int i = 1; i >= 0; --i) {
      const int b = plan.base[i];
      if (b == 1) continue;
      base(b, from, to, i == 1 ? r : r * plan.base[1], i == 1 ? plan.base[0] : 1);
      float* const other = from;
      from = to, to = other;
    }
    float* y = a.y + t * a.y_stride;
    float* absmax = a.absmax != nullptr ? a.absmax + t * a.absmax_stride : nullptr;
    for (int i = 0; i < a.width; i += lanes) {
      const v16f v = splat(scale) * load_upto(from + i, a.width - i);
      store_upto(y + i, v, a.width - i);
      if (absmax != nullptr) absmax[i / lanes] = max_of(max(abs(v), zero()));
    }
  }
}

}  // namespace klens::inline KLENS_NS
