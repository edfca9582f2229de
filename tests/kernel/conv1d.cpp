// kernel/conv1d.hpp against float64; prefill in any chunking equals stepping bit for bit; the bits of ref.
#include "kernel/fixture.hpp"
#include "oracle/sequence.hpp"

namespace {

using fixture::Guarded;

struct ConvCase {
  int channels, taps, tokens, padded, stride;
  bool silu;
  Guarded x, weight, bias, state, y;
  ConvCase(int c, int k, int t, bool act)
      : channels(c), taps(k), tokens(t), padded(int(klens::round_up(c, 16))), stride(padded + 16), silu(act),
        x(std::int64_t(t) * stride), weight(std::int64_t(k) * padded), bias(padded),
            state(std::int64_t(k - 1) * padded),
        y(std::int64_t(t) * stride) {
    fixture::Random random(unsigned(c * 131 + k));
    random.fill(x, 2.0);  // the columns behind `channels` are other data, as in a row of in_proj
    weight.fill(0.0f);
    bias.fill(0.0f);
    state.fill(0.0f);
    for (int i = 0; i < c; ++i) {
      bias[i] = float(0.1 * random.normal());
      for (int j = 0; j < k; ++j) weight[j * padded + i] = float(0.5 * random.normal());
    }
  }
  klens::Conv1dArgs args() {
    return {x.data(), stride, weight.data(), bias.data(), state.data(), y.data(), stride, taps, channels, tokens, silu,
        0, padded / 16};
  }
  /// Runs tokens [from, to) with the state as it is.
  void run(const klens::KernelTable& table, int from, int to) {
    auto a = args();
    a.x += std::int64_t(from) * stride;
    a.y += std::int64_t(from) * stride;
    a.tokens = to - from;
    table.conv1d(a);
  }
};

}  // namespace

TEST_CASE("oracle: conv1d by hand") {
  // w = (2, 3), bias 1, x = (1, 10): y0 = 1 + 3 * 1, y1 = 1 + 2 * 1 + 3 * 10.
  const auto r = oracle::conv1d({1, 10}, {2, 3}, 1, false);
  CHECK(r.y[0] == 4);
  CHECK(r.y[1] == 33);
}

TEST_CASE("conv1d: inside (taps + 1) 2^-24 of the terms, and silu's 3 ulp") {
  for (int taps : {2, 3, 4})
    for (int channels : {1, 16, 23, 64})
      for (bool silu : {false, true}) {
        CAPTURE(taps);
        CAPTURE(channels);
        ConvCase c(channels, taps, 19, silu);
        c.run(fixture::active(), 0, c.tokens);
        fixture::Judge judge, tripwire;
        for (int i = 0; i < channels; ++i) {
          std::vector<double> x, w;
          for (int t = 0; t < c.tokens; ++t) x.push_back(c.x[std::int64_t(t) * c.stride + i]);
          for (int k = 0; k < taps; ++k) w.push_back(c.weight[k * c.padded + i]);
          const auto want = oracle::conv1d(x, w, c.bias[i], silu);
          w[0] += 1e-5;
          const auto other = oracle::conv1d(x, w, c.bias[i], silu);
          for (int t = 0; t < c.tokens; ++t) {
            const double size = want.magnitude[std::size_t(t)], y = want.y[std::size_t(t)];
            // silu' <= 1.1; its own rounding is 3 ulp of y
            const double bound = (taps + 1) * fixture::eps * size * (silu ? 1.1 : 1.0) +
                (silu ? 3 * 0x1p-23 * std::abs(y) : 0.0);
            judge(c.y[std::int64_t(t) * c.stride + i], y, bound);
            tripwire(c.y[std::int64_t(t) * c.stride + i], other.y[std::size_t(t)], bound);
          }
        }
        CHECK(judge.wrong == 0);
        CHECK(tripwire.wrong > 0);
        for (int t = 0; t < c.tokens; ++t) {
          for (int i = channels; i < c.padded; ++i) CHECK(c.y[t * c.stride + i] == 0.0f);
          for (int i = c.padded; i < c.stride; ++i) CHECK(c.y[t * c.stride + i] == Guarded::canary);
        }
        CHECK(c.y.margins_intact());
        CHECK(c.state.margins_intact());
        for (int k = 0; k < taps - 1; ++k)  // the state is the last inputs, oldest first
          for (int i = 0; i < channels; ++i)
            CHECK(c.state[k * c.padded + i] == c.x[std::int64_t(c.tokens - taps + 1 + k) * c.stride + i]);
      }
}

TEST_CASE("conv1d: every chunking and every split of channels gives the same bits, also on ref") {
  for (int taps : {2, 3, 4}) {
    ConvCase whole(40, taps, 17, true), reference(40, taps, 17, true);
    whole.run(fixture::active(), 0, 17);
    reference.run(fixture::reference(), 0, 17);
    CHECK(fixture::same_bits(whole.y, reference.y));
    CHECK(fixture::same_bits(whole.state, reference.state));
    for (int chunk : {1, 2, 3, 5, 16}) {
      CAPTURE(chunk);
      ConvCase c(40, taps, 17, true);
      for (int t = 0; t < 17; t += chunk) c.run(fixture::active(), t, std::min(17, t + chunk));
      CHECK(fixture::same_bits(whole.y, c.y));
      CHECK(fixture::same_bits(whole.state, c.state));
    }
    ConvCase groups(40, taps, 17, true);
    for (int g = 2; g >= 0; --g) {
      auto a = groups.args();
      a.begin = g, a.end = g + 1;
      fixture::active().conv1d(a);
    }
    CHECK(fixture::same_bits(whole.y, groups.y));
    CHECK(fixture::same_bits(whole.state, groups.state));
  }
}
