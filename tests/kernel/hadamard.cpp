// kernel/hadamard.hpp: the matrix itself (H H^T = n I, exactly), rows against float64 of the matrix's definition, in
// place, maxima, splits, the bits of ref.
#include <klens/core/denormals.hpp>
#include <klens/kernel/hadamard.hpp>

#include "kernel/fixture.hpp"

#include <bit>

namespace {

using fixture::Guarded;

/// Entry of the definition, sharing nothing with the kernel: Euler's criterion for the Legendre symbol.
int legendre(int a, int q) {
  a = ((a % q) + q) % q;
  std::int64_t power = 1;
  for (int i = 0; i < (q - 1) / 2; ++i) power = power * a % q;
  return power == 0 ? 0 : power == 1 ? 1 : -1;
}

bool prime(int n) {
  int divisors = 0;
  for (int d = 1; d <= n; ++d) divisors += n % d == 0;
  return divisors == 2;
}

int base_entry(int b, int i, int j) {
  if (const int q = b / 2 - 1; prime(q) && q % 4 == 1) {
    constexpr int whole[2][2] = {{1, 1}, {1, -1}}, none[2][2] = {{1, -1}, {-1, -1}};
    const int r = i / 2, c = j / 2;
    if (r == c) return none[i % 2][j % 2];
    return whole[i % 2][j % 2] * (r == 0 || c == 0 ? 1 : legendre(c - r, q));
  }
  const int q = b - 1;
  if (i == j) return 1;
  return i == 0 ? 1 : j == 0 ? -1 : legendre(j - i, q);
}

struct Factors { int blocks, b1, b2, power; };

int entry(const Factors& f, int i, int j) {
  const int order = f.b1 * f.b2 * f.power;
  if (i / order != j / order) return 0;
  i %= order, j %= order;
  const int sign = std::popcount(unsigned(i % f.power & j % f.power)) % 2 ? -1 : 1;
  i /= f.power, j /= f.power;
  return sign * (f.b2 > 1 ? base_entry(f.b2, i % f.b2, j % f.b2) : 1) *
         (f.b1 > 1 ? base_entry(f.b1, i / f.b2, j / f.b2) : 1);
}

struct Length { int n; Factors f; };

/// Of models (systems.md 8.6), and small ones that leave every kind of tail.
constexpr Length lengths[] = {
    {1, {1, 1, 1, 1}},        {2, {1, 1, 1, 2}},       {8, {1, 1, 1, 8}},         {16, {1, 1, 1, 16}},
    {64, {1, 1, 1, 64}},      {128, {1, 1, 1, 128}},   {12, {1, 12, 1, 1}},       {24, {1, 12, 1, 2}},
    {40, {1, 20, 1, 2}},      {28, {1, 28, 1, 1}},     {36, {1, 36, 1, 1}},       {6, {3, 1, 1, 2}},
    {768, {1, 12, 1, 64}},    {1536, {1, 12, 1, 128}}, {2560, {1, 20, 1, 128}},   {1600, {1, 20, 20, 4}},
    {3200, {1, 20, 20, 8}},   {1792, {1, 28, 1, 64}},  {4608, {1, 36, 1, 128}},   {1664, {1, 104, 1, 16}},
    {2432, {1, 76, 1, 32}},   {5504, {43, 1, 1, 128}}, {6912, {1, 108, 1, 64}},   {2048, {1, 1, 1, 2048}}};

Guarded run(const klens::KernelTable& table, const Guarded& x, int width, int stride, int tokens, bool orthonormal,
            float* absmax = nullptr, int begin = 0) {
  Guarded y(x.size()), scratch(klens::hadamard_scratch);
  const klens::FlushDenormals flush;
  table.hadamard({x.data(), stride, y.data(), stride, width, orthonormal, absmax, klens::div_up(width, 16),
      scratch.data(), begin, tokens});
  return y;
}

}  // namespace

TEST_CASE("hadamard: the oracle's bases are Hadamard matrices; factors of every length") {
  for (const int b : {12, 20, 28, 36, 76, 84, 104, 108}) {
    int wrong = 0;
    for (int i = 0; i < b; ++i)
      for (int k = 0; k < b; ++k) {
        int dot = 0;
        for (int j = 0; j < b; ++j) dot += base_entry(b, i, j) * base_entry(b, k, j);
        wrong += dot != (i == k ? b : 0);
      }
    CHECK(wrong == 0);
  }
  for (const Length& length : lengths) {
    const int n = length.n;
    const Factors& f = length.f;
    const klens::HadamardPlan plan = klens::hadamard_plan(n);
    CAPTURE(n);
    CHECK(plan.blocks == f.blocks);
    CHECK(plan.base[0] == f.b1);
    CHECK(plan.base[1] == f.b2);
    CHECK((1 << plan.log2) == f.power);
    CHECK(plan.order() * plan.blocks == n);
  }
  for (const int n : {0, -4, 7, 33, 65536}) CHECK(klens::hadamard_plan(n).order() == 0);
}

TEST_CASE("hadamard: unit rows give the columns of the matrix, exactly; H H^T = n I") {
  for (const Length& length : lengths) {
    const int n = length.n;
    const Factors& f = length.f;
    if (n > 1600) continue;
    CAPTURE(n);
    const int stride = int(klens::round_up(n, 16));
    Guarded x(std::int64_t(n) * stride);
    x.fill(0.0f);
    for (int t = 0; t < n; ++t) x[std::int64_t(t) * stride + t] = 1.0f;
    const Guarded y = run(fixture::active(), x, n, stride, n, false);
    int wrong = 0;
    for (int t = 0; t < n; ++t)
      for (int i = 0; i < n; ++i) wrong += y[std::int64_t(t) * stride + i] != float(entry(f, i, t));
    CHECK(wrong == 0);
    int products = 0;
    for (int t = 0; t < n; t += 1 + n / 40)
      for (int s = 0; s < n; s += 1 + n / 37) {
        float dot = 0;   // of +-1 and 0: exact
        for (int i = 0; i < n; ++i) dot += y[std::int64_t(t) * stride + i] * y[std::int64_t(s) * stride + i];
        products += dot != (s == t ? float(n / f.blocks) : 0.0f);
      }
    CHECK(products == 0);
  }
}

TEST_CASE("hadamard: rows within log2(n) 2^-24 of their norm, maxima, columns behind untouched, the bits of ref") {
  for (const Length& length : lengths)
    for (const bool orthonormal : {false, true}) {
      const int n = length.n;
      const Factors& f = length.f;
      CAPTURE(n);
      CAPTURE(orthonormal);
      constexpr int tokens = 3;
      const int stride = int(klens::round_up(n, 16)) + 16, order = n / f.blocks;
      Guarded x(tokens * stride), absmax(tokens * klens::div_up(n, 16));
      fixture::Random random{unsigned(n)};
      random.fill(x);
      if (n > 2) x[n / 2] = 50;   // an outlier to spread
      const Guarded y = run(fixture::active(), x, n, stride, tokens, orthonormal, absmax.data());
      fixture::Judge judge, tripwire;
      int wrong = 0;
      for (int t = 0; t < tokens; ++t) {
        double norm = 0;
        for (int j = 0; j < n; ++j) norm += double(x[t * stride + j]) * double(x[t * stride + j]);
        const double scale = orthonormal ? 1 / std::sqrt(double(order)) : 1;
        // of the scaled row's norm: |H x| = sqrt(order) |x|; an entry takes no more of it than the whole
        const double bound = (std::log2(double(order)) + 2) * fixture::eps * scale * std::sqrt(norm * order);
        for (int i = 0; i < n; i += 1 + n / 300) {
          double want = 0;
          const int first = i / order * order;
          for (int j = first; j < first + order; ++j) want += entry(f, i, j) * double(x[t * stride + j]);
          judge(y[t * stride + i], scale * want, bound);
          tripwire(y[t * stride + i], scale * (want + 1e-4 * std::sqrt(norm * order)), bound);
        }
        for (int g = 0; g < klens::div_up(n, 16); ++g) {
          float most = 0;
          for (int i = 16 * g; i < std::min(n, 16 * g + 16); ++i) most = std::max(most, std::abs(y[t * stride + i]));
          wrong += absmax[t * klens::div_up(n, 16) + g] != most;
        }
        for (int i = n; i < stride; ++i) wrong += y[t * stride + i] != Guarded::canary;
      }
      CHECK(judge.wrong == 0);
      CHECK(tripwire.wrong > 0);
      CHECK(wrong == 0);
      CHECK(y.margins_intact());
      CHECK(absmax.margins_intact());
      CHECK(fixture::same_bits(y, run(fixture::reference(), x, n, stride, tokens, orthonormal)));
      const Guarded last = run(fixture::active(), x, n, stride, tokens, orthonormal, nullptr, tokens - 1);
      const std::int64_t at = (tokens - 1) * stride;
      CHECK(std::memcmp(last.data() + at, y.data() + at, std::size_t(n) * 4) == 0);
      Guarded in_place(x.size()), scratch(klens::hadamard_scratch);
      for (std::int64_t i = 0; i < x.size(); ++i) in_place[i] = x[i];
      fixture::active().hadamard({in_place.data(), stride, in_place.data(), stride, n, orthonormal, nullptr, 0,
          scratch.data(), 0, tokens});
      for (int t = 0; t < tokens; ++t)
        CHECK(std::memcmp(in_place.data() + t * stride, y.data() + t * stride, std::size_t(n) * 4) == 0);
    }
}
