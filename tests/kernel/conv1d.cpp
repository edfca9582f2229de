// kernel/conv1d.hpp and kernel/short_conv.hpp against float64; rounded states; prefill in any chunking equals stepping
// bit for bit; the bits of ref.
#include <klens/core/denormals.hpp>

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

namespace {

using klens::State;

constexpr State formats[] = {State::f32, State::f16, State::s16, State::s8};

/// A conv1d or a short_conv over the columns b | c | x of rows of three times the padded channels.
struct Gated {
  int channels, taps, tokens, padded, stride;
  State format;
  bool gated;
  Guarded rows, weight, bias, y, absmax;
  std::vector<unsigned char> state;

  Gated(int c, int k, int t, State f, bool short_conv)
      : channels(c), taps(k), tokens(t), padded(int(klens::round_up(c, 16))), stride(3 * padded), format(f),
        gated(short_conv), rows(std::int64_t(t) * stride), weight(std::int64_t(k) * padded), bias(padded),
        y(std::int64_t(t) * padded), absmax(std::int64_t(t) * padded / 16),
        state(std::size_t(klens::conv_state_bytes(f, c, k)) + 64, 0) {
    fixture::Random random(unsigned(c * 31 + k));
    random.fill(rows, 1.5);
    weight.fill(0.0f), bias.fill(0.0f);
    for (int i = 0; i < c; ++i) {
      bias[i] = float(0.1 * random.normal());
      for (int j = 0; j < k; ++j) weight[j * padded + i] = float(0.5 * random.normal());
    }
    for (std::size_t i = state.size() - 64; i < state.size(); ++i) state[i] = 0xa5;
  }
  float* scales() { return reinterpret_cast<float*>(state.data() + klens::conv_scales_offset(format, channels, taps)); }
  void run(const klens::KernelTable& table, int from, int to, int begin = 0, int end = -1) {
    const float* row = rows.data() + std::int64_t(from) * stride;
    float* out = y.data() + std::int64_t(from) * padded;
    float* most = absmax.data() + std::int64_t(from) * padded / 16;
    if (end < 0) end = padded / 16;
    const klens::FlushDenormals flush;
    if (gated)
      table.short_conv({.b = row, .c = row + padded, .x = row + 2 * padded, .stride = stride, .weight = weight.data(),
          .bias = bias.data(), .state = state.data(), .format = format, .scales = scales(), .y = out,
          .y_stride = padded, .absmax = most, .absmax_stride = padded / 16, .taps = taps, .channels = channels,
          .tokens = to - from, .begin = begin, .end = end});
    else
      table.conv1d({.x = row + 2 * padded, .x_stride = stride, .weight = weight.data(), .bias = bias.data(),
          .state = state.data(), .y = out, .y_stride = padded, .taps = taps, .channels = channels, .tokens = to - from,
          .silu = false, .begin = begin, .end = end, .format = format, .scales = scales(), .absmax = most,
          .absmax_stride = padded / 16});
  }
  /// What enters the state at token t: b x, or x.
  float input(int t, int i) const {
    const float* row = rows.data() + std::int64_t(t) * stride;
    return gated ? row[i] * row[2 * padded + i] : row[2 * padded + i];
  }
  /// What the format makes of it: integers from the definition.
  double held(int t, int i) const {
    const double x = input(t, i);
    if (format == State::f32) return x;
    if (format == State::f16) {
      int e;
      std::frexp(x, &e);
      const double unit = std::ldexp(1.0, std::max(e - 11, -24));
      return std::nearbyint(x / unit) * unit;
    }
    const int first = i / 16 * 16, last = std::min(first + 16, channels);
    float most = 0;
    for (int j = first; j < last; ++j) most = std::max(most, std::abs(input(t, j)));
    const float scale = most / (format == State::s16 ? 32767.0f : 127.0f);
    return scale == 0 ? 0 : std::nearbyint(double(float(x) / scale)) * double(scale);
  }
};

}  // namespace

TEST_CASE("short_conv and rounded states: inside the bound of float64 over the values as they are held") {
  for (const bool gated : {false, true})
    for (const State format : formats)
      for (const int taps : {2, 3, 4})
        for (const int channels : {1, 16, 23, 64}) {
          CAPTURE(gated);
          CAPTURE(int(format));
          CAPTURE(taps);
          CAPTURE(channels);
          Gated c(channels, taps, 21, format, gated);
          c.run(fixture::active(), 0, c.tokens);
          fixture::Judge judge, tripwire;
          for (int i = 0; i < channels; ++i) {
            std::vector<double> x, w;
            for (int t = 0; t < c.tokens; ++t) x.push_back(c.held(t, i));
            for (int k = 0; k < taps; ++k) w.push_back(c.weight[k * c.padded + i]);
            const auto want = oracle::conv1d(x, w, c.bias[i], false);
            x[5] *= 1.001;
            const auto other = oracle::conv1d(x, w, c.bias[i], false);
            for (int t = 0; t < c.tokens; ++t) {
              const double gate = gated ? double(c.rows[std::int64_t(t) * c.stride + c.padded + i]) : 1.0;
              // one rounding of the held value (scale times integer), taps + 1 of the chain, one of the gate
              const double bound = (taps + 3) * fixture::eps * std::abs(gate) * want.magnitude[std::size_t(t)];
              judge(c.y[std::int64_t(t) * c.padded + i], gate * want.y[std::size_t(t)], bound);
              tripwire(c.y[std::int64_t(t) * c.padded + i], gate * other.y[std::size_t(t)], bound);
            }
          }
          CHECK(judge.wrong == 0);
          CHECK(tripwire.wrong > 0);
          CHECK(c.y.margins_intact());
          CHECK(c.absmax.margins_intact());
          int wrong = 0;
          for (int t = 0; t < c.tokens; ++t)
            for (int g = 0; g < c.padded / 16; ++g) {
              float most = 0;
              for (int i = 16 * g; i < 16 * g + 16; ++i) {
                const float v = c.y[std::int64_t(t) * c.padded + i];
                most = std::max(most, std::abs(v)), wrong += i >= channels && v != 0.0f;
              }
              wrong += c.absmax[std::int64_t(t) * c.padded / 16 + g] != most;
            }
          for (std::size_t i = c.state.size() - 64; i < c.state.size(); ++i) wrong += c.state[i] != 0xa5;
          CHECK(wrong == 0);
        }
}

TEST_CASE("short_conv and rounded states: any chunking, any split of channels, and ref give the same bits") {
  for (const bool gated : {false, true})
    for (const State format : formats) {
      CAPTURE(gated);
      CAPTURE(int(format));
      constexpr int channels = 40, tokens = 17;
      const int taps = gated ? 3 : 4;
      Gated whole(channels, taps, tokens, format, gated);
      whole.run(fixture::active(), 0, tokens);
      const auto same = [&](const Gated& o) {
        return fixture::same_bits(whole.y, o.y) && fixture::same_bits(whole.absmax, o.absmax) && whole.state == o.state;
      };
      Gated reference(channels, taps, tokens, format, gated);
      reference.run(fixture::reference(), 0, tokens);
      CHECK(same(reference));
      for (const int chunk : {1, 2, 3, 5, 16}) {
        CAPTURE(chunk);
        Gated c(channels, taps, tokens, format, gated);
        for (int t = 0; t < tokens; t += chunk) c.run(fixture::active(), t, std::min(tokens, t + chunk));
        CHECK(same(c));
      }
      Gated groups(channels, taps, tokens, format, gated);
      for (int g = 2; g >= 0; --g) groups.run(fixture::active(), 0, tokens, g, g + 1);
      CHECK(same(groups));
      groups.rows[groups.stride * 3 + 2 * groups.padded + 7] += 0.5f;   // tripwire
      std::fill(groups.state.begin(), groups.state.end() - 64, std::uint8_t(0));
      groups.run(fixture::active(), 0, tokens);
      CHECK(!same(groups));
    }
}

TEST_CASE("conv state: a zero token has scale 0, f16 stops at 65504") {
  Gated zeros(16, 3, 4, State::s8, false);
  zeros.rows.fill(0.0f);
  zeros.run(fixture::active(), 0, 4);
  for (int i = 0; i < 16; ++i) CHECK(zeros.y[i] == zeros.bias[i]);
  CHECK(zeros.scales()[0] == 0.0f);
  Gated large(16, 3, 3, State::f16, false);
  large.rows.fill(1e6f);
  large.run(fixture::active(), 0, 3);
  for (int i = 0; i < 16; ++i) {
    const double want = oracle::conv1d({65504, 65504, 65504},
        {large.weight[i], large.weight[16 + i], large.weight[32 + i]}, large.bias[i], false).y[2];
    CHECK(large.y[32 + i] == doctest::Approx(want).epsilon(1e-4));
  }
  static_assert(klens::conv_state_bytes(State::f32, 40, 4) == 3 * 48 * 4);
  static_assert(klens::conv_state_bytes(State::s8, 40, 4) == 192 + 64);   // 3 x 48 bytes padded, 9 scales padded
}
