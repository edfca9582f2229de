// kernel/rope.hpp against float64 angles; columns beyond the heads untouched; offsets and splits bit for bit.
#include <klens/core/det_math.hpp>

#include "kernel/fixture.hpp"
#include "oracle/sequence.hpp"

namespace {

using fixture::Guarded;

constexpr double theta = 10000.0;

Guarded table(int positions, int head_dim) {
  Guarded t(std::int64_t(positions) * head_dim);
  for (int p = 0; p < positions; ++p)
    for (int i = 0; i < head_dim / 2; ++i) {
      const double angle = double(p) * klens::det::pow(theta, -2.0 * i / head_dim);
      t[std::int64_t(p) * head_dim + i] = float(klens::det::cos(angle));
      t[std::int64_t(p) * head_dim + head_dim / 2 + i] = float(klens::det::sin(angle));
    }
  return t;
}

}  // namespace

TEST_CASE("oracle: rope by hand") {
  // One pair, position 2: the angle is 2; (1, 0) -> (cos 2, sin 2), (0, 1) -> (-sin 2, cos 2).
  CHECK(oracle::rope({1, 0}, 2, theta)[0] == doctest::Approx(-0.4161468365471424));
  CHECK(oracle::rope({1, 0}, 2, theta)[1] == doctest::Approx(0.9092974268256817));
  CHECK(oracle::rope({0, 1}, 2, theta)[0] == doctest::Approx(-0.9092974268256817));
}

TEST_CASE("rope: within 2^-23 of the pair's magnitude, only the heads' columns change") {
  for (int head_dim : {2, 6, 16, 32, 34, 64, 128}) {
    CAPTURE(head_dim);
    constexpr int tokens = 7, heads = 3, position = 1000;
    const int columns = heads * head_dim, stride = int(klens::round_up(columns, 32)) + 32;
    const Guarded angles = table(position + tokens, head_dim);
    Guarded x(tokens * stride), before(tokens * stride), expected(tokens * stride), split(tokens * stride);
    fixture::Random(unsigned(head_dim)).fill(x);
    for (std::int64_t i = 0; i < x.size(); ++i) before[i] = expected[i] = split[i] = x[i];
    klens::RopeArgs args{x.data(), stride, heads, head_dim, angles.data(), position, 0, tokens};
    fixture::active().rope(args);
    fixture::Judge judge, tripwire;
    for (int t = 0; t < tokens; ++t) {
      for (int h = 0; h < heads; ++h) {
        const std::int64_t base = std::int64_t(t) * stride + h * head_dim;
        const auto in = fixture::doubles(before.data() + base, head_dim);
        const auto want = oracle::rope(in, position + t, theta), off_by_one = oracle::rope(in, position + t + 1, theta);
        for (int i = 0; i < head_dim; ++i) {
          const int pair = (i + head_dim / 2) % head_dim;
          const double bound = 0x1p-23 * (std::abs(in[std::size_t(i)]) + std::abs(in[std::size_t(pair)]));
          judge(x[base + i], want[std::size_t(i)], bound);
          tripwire(x[base + i], off_by_one[std::size_t(i)], bound);
        }
      }
      for (int i = columns; i < stride; ++i) CHECK(x[t * stride + i] == before[t * stride + i]);
    }
    CHECK(judge.wrong == 0);
    CHECK(tripwire.wrong > 0);
    CHECK(x.margins_intact());

    args.x = expected.data();
    fixture::reference().rope(args);
    CHECK(fixture::same_bits(x, expected));
    for (int t = 0; t < tokens; ++t) {  // one token at a time, each at its own position
      klens::RopeArgs one{split.data() + t * stride, stride, heads, head_dim, angles.data(), position + t, 0, 1};
      fixture::active().rope(one);
    }
    CHECK(fixture::same_bits(x, split));
  }
}

TEST_CASE("rope: partial: the first rotary_dim columns of a head turn as a head of that size, the others stay") {
  for (const auto& sizes : {std::pair{64, 32}, {34, 6}, {128, 64}, {48, 48}}) {
    const int head_dim = sizes.first, rotary = sizes.second;
    CAPTURE(head_dim);
    CAPTURE(rotary);
    constexpr int tokens = 5, heads = 3, position = 77;
    const int stride = int(klens::round_up(heads * head_dim, 32));
    const Guarded angles = table(position + tokens, rotary);
    Guarded x(tokens * stride), before(tokens * stride), expected(tokens * stride);
    fixture::Random(unsigned(head_dim)).fill(x);
    for (std::int64_t i = 0; i < x.size(); ++i) before[i] = expected[i] = x[i];
    klens::RopeArgs a{x.data(), stride, heads, head_dim, angles.data(), position, 0, tokens};
    a.rotary_dim = rotary;
    fixture::active().rope(a);
    a.x = expected.data();
    fixture::reference().rope(a);
    CHECK(fixture::same_bits(x, expected));
    fixture::Judge judge, tripwire;
    int moved = 0;
    for (int t = 0; t < tokens; ++t)
      for (int h = 0; h < heads; ++h) {
        const std::int64_t base = std::int64_t(t) * stride + h * head_dim;
        const auto in = fixture::doubles(before.data() + base, rotary);
        const auto want = oracle::rope(in, position + t, theta);
        for (int i = 0; i < rotary; ++i) {
          const double bound =
              0x1p-23 * (std::abs(in[std::size_t(i)]) + std::abs(in[std::size_t((i + rotary / 2) % rotary)]));
          judge(x[base + i], want[std::size_t(i)], bound);
          tripwire(x[base + i], in[std::size_t(i)], bound);
        }
        for (int i = rotary; i < head_dim; ++i) moved += x[base + i] != before[base + i];
      }
    CHECK(judge.wrong == 0);
    CHECK(tripwire.wrong > 0);
    CHECK(moved == 0);
  }
}
