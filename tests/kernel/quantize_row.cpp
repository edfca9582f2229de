// quantize_row against the oracle: equal integers, scales, sums and layouts on every level.
#include "fixture.hpp"
#include "oracle/linear.hpp"

#include <klens/core/denormals.hpp>

#include <limits>

namespace {

struct Outputs {
  klens::Buffer<std::int8_t> q8;
  klens::Buffer<std::int16_t> q16;
  klens::Buffer<std::int32_t> sums;
  klens::Buffer<float> f32, scale;
  std::int64_t stride;

  Outputs(const fixture::Guarded& x, int cols, int tokens, klens::Activation activation,
      const klens::KernelTable& table)
      : stride(klens::round_up(cols, 32)) {
    const std::size_t count = std::size_t(tokens * stride);
    q8 = klens::Buffer<std::int8_t>(count), q16 = klens::Buffer<std::int16_t>(count),
        sums = klens::Buffer<std::int32_t>(count / 32);
    f32 = klens::Buffer<float>(count), scale = klens::Buffer<float>(std::size_t(tokens));
    klens::QuantizeRowArgs a;
    a.x = x.data(), a.x_stride = cols, a.cols = cols, a.activation = activation;
    if (activation == klens::Activation::a8) a.q8 = q8.data();
    a.q16 = q16.data(), a.sums = sums.data(), a.f32 = f32.data(), a.scale = scale.data();
    a.stride = stride, a.begin = 0, a.end = tokens;
    table.quantize_row(a);
  }
};

int violations(const fixture::Guarded& x, int cols, int tokens, klens::Activation activation) {
  const Outputs out(x, cols, tokens, activation, fixture::active());
  const int qmax = activation == klens::Activation::a16 ? 32767 : 127;
  constexpr int place[4] = {0, 2, 1, 3};
  int wrong = 0;
  for (int t = 0; t < tokens; ++t) {
    const auto want = oracle::quantize(std::vector<float>(x.data() + t * cols, x.data() + (t + 1) * cols), qmax);
    wrong += out.scale[std::size_t(t)] != want.scale;
    std::vector<int> sums(std::size_t(out.stride / 32));
    for (int k = 0; k < out.stride; ++k) {
      const int q = k < cols ? want.q[std::size_t(k)] : 0;
      const std::int64_t at = t * out.stride + k;
      sums[std::size_t(k / 32)] += q;
      wrong += out.f32[std::size_t(at)] != float(q);
      wrong += out.q16[std::size_t(at / 4 * 4 + place[at % 4])] != q;
      if (qmax == 127) wrong += out.q8[std::size_t(at)] != q;
    }
    for (std::size_t i = 0; i < sums.size(); ++i) wrong += out.sums[std::size_t(t) * sums.size() + i] != sums[i];
  }
  return wrong;
}

}  // namespace

TEST_CASE("quantize_row: shapes, magnitudes, zero rows") {
  fixture::Random dice(5);
  for (const int cols : {1, 15, 16, 17, 31, 32, 33, 48, 100, 528}) {
    for (const auto activation : {klens::Activation::a8, klens::Activation::a16}) {
      fixture::Guarded x(5 * cols);
      dice.fill(x, 3);
      for (int k = 0; k < cols; ++k) {
        x[cols + k] = 0;                                       // a row of zeros
        x[2 * cols + k] *= 1e30f;
        x[3 * cols + k] = float(dice.integer(-254, 254)) / 2;  // ties, with s = 1 where 127 is the maximum
      }
      x[3 * cols] = 127;
      CHECK(violations(x, cols, 5, activation) == 0);
      CHECK(x.margins_intact());
    }
  }
}

TEST_CASE("quantize_row: tripwire, and equal bits on ref") {
  fixture::Random dice(6);
  fixture::Guarded x(3 * 70);
  dice.fill(x);
  const Outputs a(x, 70, 3, klens::Activation::a8, fixture::active()),
      b(x, 70, 3, klens::Activation::a8, fixture::reference());
  CHECK(std::memcmp(a.q8.data(), b.q8.data(), a.q8.size()) == 0);
  CHECK(std::memcmp(a.f32.data(), b.f32.data(), a.f32.size() * 4) == 0);
  CHECK(std::memcmp(a.scale.data(), b.scale.data(), a.scale.size() * 4) == 0);
  const Outputs before(x, 70, 3, klens::Activation::a16, fixture::active());
  x[75] += 0.01f;
  const Outputs after(x, 70, 3, klens::Activation::a16, fixture::active());
  CHECK(std::memcmp(before.q16.data(), after.q16.data(), before.q16.size() * 2) != 0);
}

TEST_CASE("quantize_row: NaN is no maximum and becomes 0; rows too small for a scale, or with infinity, become 0") {
  for (const auto activation : {klens::Activation::a8, klens::Activation::a16}) {
    constexpr int cols = 70;
    fixture::Random dice(8);
    fixture::Guarded x(3 * cols);
    dice.fill(x);
    const int qmax = activation == klens::Activation::a16 ? 32767 : 127;
    x[0] = x[18] = x[69] = std::numeric_limits<float>::quiet_NaN(), x[5] = -8;
    for (int k = 0; k < cols; ++k) x[cols + k] *= 1e-44f;                       // 0 where denormals are flushed
    x[2 * cols + 33] = std::numeric_limits<float>::infinity();
    const klens::FlushDenormals flush;
    const Outputs out(x, cols, 3, activation, fixture::active());
    CHECK(out.scale[0] == 8 / float(qmax));
    for (const int k : {0, 18, 69}) CHECK(out.f32[std::size_t(k)] == 0.0f);
    CHECK(out.f32[5] == float(-qmax));
    CHECK(out.scale[1] == 0.0f);
    int wrong = 0;
    for (std::int64_t k = 0; k < 2 * out.stride; ++k) wrong += out.f32[std::size_t(out.stride + k)] != 0.0f;
    CHECK(wrong == 0);
  }
}

TEST_CASE("quantize_row: given maxima replace the search") {
  for (const int cols : {1, 16, 33, 528}) {
    CAPTURE(cols);
    constexpr int tokens = 3, columns = 40;
    fixture::Random dice(9);
    fixture::Guarded x(tokens * cols), most(tokens * columns);
    dice.fill(x, 5);
    for (int t = 0; t < tokens; ++t)
      for (int k = 0; k < cols; ++k) {
        float& m = most[t * columns + k / 16];
        m = k % 16 == 0 ? std::abs(x[t * cols + k]) : std::max(m, std::abs(x[t * cols + k]));
      }
    const Outputs searched(x, cols, tokens, klens::Activation::a8, fixture::active());
    Outputs given(x, cols, tokens, klens::Activation::a8, fixture::reference());
    given.q8 = klens::Buffer<std::int8_t>(given.q8.size());
    klens::QuantizeRowArgs a;
    a.x = x.data(), a.x_stride = cols, a.cols = cols, a.stride = given.stride;
    a.q8 = given.q8.data(), a.scale = given.scale.data();
    a.absmax = most.data(), a.absmax_stride = columns, a.end = tokens;
    fixture::active().quantize_row(a);
    CHECK(std::memcmp(searched.q8.data(), given.q8.data(), searched.q8.size()) == 0);
    CHECK(std::memcmp(searched.scale.data(), given.scale.data(), searched.scale.size() * sizeof(float)) == 0);
    most[columns] *= 2;   // tripwire: they are what is used
    fixture::active().quantize_row(a);
    CHECK((given.scale[1] != searched.scale[1]) == (most[columns] > searched.scale[1] * 127.5f));
    CHECK(given.scale[0] == searched.scale[0]);
  }
}
