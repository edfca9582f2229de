// The fast linear against float64: bounds from bf16 inputs, rows rounded bit for bit, GEMM rows equal GEMV rows on one
// machine. Levels without it have nothing to test.
#include "linear_fixture.hpp"

namespace {

using fixture::Guarded;
using fixture::LinearCase;

/// f32 rows of a case and the same rounded.
klens::Buffer<klens::bf16> rounded_rows(const LinearCase& c) {
  klens::Buffer<klens::bf16> rows(std::size_t(c.tokens * c.stride));
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = klens::bf16{0x7fc0};
  klens::RoundRowsArgs a;
  a.x = c.f32.data(), a.x_stride = c.stride, a.cols = c.cols, a.y = rows.data(), a.stride = c.stride, a.end = c.tokens;
  fixture::active().round_rows(a);
  return rows;
}

Guarded run_fast(const LinearCase& c, const klens::Buffer<klens::bf16>& rows, int begin, int tokens, int first = 0) {
  Guarded y(c.tokens * c.y_stride);
  klens::LinearArgs a = c.args(y.data() + first * c.y_stride, fixture::scratch());
  a.x.rounded = rows.data() + first * c.stride, a.begin = begin, a.tokens = tokens;
  if (a.x.scale) a.x.scale += first;
  if (a.residual) a.residual += first * c.y_stride;
  const klens::FlushDenormals flush;
  fixture::active().linear_fast[int(klens::Codec::bf16)](a);
  return y;
}

struct Outside { int of_rounded = 0, of_given = 0; };

/// Outputs outside the bound from the rounded rows, and from the rows as given.
Outside judge(const LinearCase& c, const klens::Buffer<klens::bf16>& rows, const Guarded& y) {
  Outside outside;
  for (int t = 0; t < c.tokens; ++t)
    for (int n = 0; n < c.rows; ++n) {
      const double scale = c.precision.activation == klens::Activation::f32 ? 1.0 : double(c.scale[std::size_t(t)]);
      double given = 0, rounded = 0, mass = 0;
      for (int k = 0; k < c.cols; ++k) {
        const double w = c.truth.w[std::size_t(n * c.cols + k)], x = c.f32[std::size_t(t * c.stride + k)];
        given += w * x, mass += std::abs(w * x);
        rounded += w * double(klens::to_float(rows[std::size_t(t * c.stride + k)]));
      }
      double rest = 0, rest_mass = 0;
      if (c.with_bias) rest += c.bias[std::size_t(n)], rest_mass += std::abs(double(c.bias[std::size_t(n)]));
      if (c.with_residual) {
        const double r = c.residual[std::size_t(t * c.y_stride + n)];
        rest += r, rest_mass += std::abs(r);
      }
      mass = mass * scale + rest_mass;
      const double got = y[t * c.y_stride + n], bound = (1.5 * c.cols + 8) * fixture::eps * 1.01 * mass;
      outside.of_rounded += !(std::abs(got - (rounded * scale + rest)) <= bound);
      outside.of_given += !(std::abs(got - (given * scale + rest)) <= bound + 0x1p-9 * 1.01 * mass);
    }
  return outside;
}

bool has_fast() { return fixture::active().linear_fast[int(klens::Codec::bf16)] != nullptr; }

}  // namespace

TEST_CASE("the levels with a fast linear are those with AVX512_BF16") {
  const klens::Level level = fixture::active().level;
  CHECK(has_fast() == (level == klens::Level::avx512_bf16 || level == klens::Level::amx_int8));
  CHECK((fixture::active().round_rows != nullptr) == has_fast());
}

TEST_CASE("round_rows is round-to-nearest-even, bit for bit") {
  if (!has_fast()) return;
  constexpr int cols = 100, stride = 128;
  klens::Buffer<float> x(3 * 104);
  klens::Buffer<klens::bf16> y(3 * stride);
  fixture::Random dice(3);
  int wrong = 0;
  for (int round = 0; round < 300; ++round) {
    for (float& v : x.span()) {
      const auto u = std::uint32_t(dice.integer(0, 0xffff)) << 16 | std::uint32_t(dice.integer(0, 0xffff));
      // Everything, ties, and what rounds to infinity or not.
      const std::uint32_t kinds[3] = {u, (u & 0xffff0000u) | 0x8000u, (u & 0x7fffu) | 0x7f7f8000u};
      v = std::bit_cast<float>(kinds[round % 3]);
    }
    for (klens::bf16& v : y.span()) v = klens::bf16{0x1234};
    klens::RoundRowsArgs a;
    a.x = x.data(), a.x_stride = 104, a.cols = cols, a.y = y.data(), a.stride = stride, a.begin = 1, a.end = 3;
    fixture::active().round_rows(a);
    for (int t = 0; t < 3; ++t)
      for (int k = 0; k < stride; ++k) {
        const auto got = y[std::size_t(t * stride + k)].bits;
        wrong += got != (t == 0 ? 0x1234 : k < cols ? klens::to_bf16(x[std::size_t(t * 104 + k)]).bits : 0);
      }
  }
  CHECK(wrong == 0);
}

TEST_CASE("linear_fast stays inside the bounds of bf16 inputs") {
  if (!has_fast()) return;
  struct Size { int rows, cols, tokens; };
  const Size sizes[] = {{16, 64, 1}, {1, 1, 1}, {33, 31, 2}, {80, 48, 3}, {130, 77, 4}, {70, 1030, 7}, {15, 513, 8},
      {50, 512, 9}, {47, 100, 12}, {44, 2049, 13}, {33, 1024, 31}, {20, 530, 517}};
  unsigned seed = 31;
  for (const char* format : {"bf16", "bf16a8"})
    for (const Size& s : sizes) {
      const LinearCase c(format, s.rows, s.cols, s.tokens, seed++);
      const auto rows = rounded_rows(c);
      const Guarded y = run_fast(c, rows, 0, c.tokens);
      INFO(format, ": rows ", s.rows, " cols ", s.cols, " tokens ", s.tokens);
      const Outside outside = judge(c, rows, y);
      CHECK(outside.of_rounded == 0);
      CHECK(outside.of_given == 0);
      CHECK(y.margins_intact());
      const Guarded exact = fixture::run(c, fixture::active());
      if (c.precision.activation == klens::Activation::f32 && s.cols > 8) CHECK(!fixture::same_bits(y, exact));
    }
}

TEST_CASE("linear_fast: GEMM rows are GEMV rows; any split of panels is the whole; tripwire") {
  if (!has_fast()) return;
  LinearCase c("bf16", 95, 1100, 41, 5);
  auto rows = rounded_rows(c);
  const Guarded whole = run_fast(c, rows, 0, c.tokens);
  int wrong = 0;
  for (int t = 0; t < c.tokens;) {
    const int n = std::min(1 + t % 8, c.tokens - t);
    const Guarded some = run_fast(c, rows, 0, n, t);
    for (std::int64_t i = t * c.y_stride; i < (t + n) * c.y_stride; ++i)
      wrong += std::bit_cast<std::uint32_t>(some[i]) != std::bit_cast<std::uint32_t>(whole[i]);
    t += n;
  }
  CHECK(wrong == 0);
  const Guarded last = run_fast(c, rows, 5, c.tokens);
  for (int t = 0; t < c.tokens; ++t)
    for (int n = 80; n < 95; ++n) wrong += last[t * c.y_stride + n] != whole[t * c.y_stride + n];
  CHECK(wrong == 0);
  rows[std::size_t(3 * c.stride + 1099)].bits ^= 0x4000;  // the exponent of the last input
  const Outside outside = judge(c, rows, whole);
  CHECK(outside.of_rounded > 0);
  c.truth.w[std::size_t(7 * c.cols + 500)] += 1;
  CHECK(judge(c, rounded_rows(c), whole).of_given > 0);
}
