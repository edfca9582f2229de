// kernel/ssd.hpp against a float64 recurrence and the chunked dual form: shapes, groups of heads, columns that are not a
// multiple of 16, clamped steps; 65 536 tokens in every state format; every chunking, every split and every level give the
// same bits.
#include "kernel/fixture.hpp"
#include "oracle/ssd.hpp"

#include <bit>

namespace {

using fixture::Guarded;
using klens::State;

struct SsdCase {
  int heads, groups, dim, states, tokens, padded, width, stride, bc_stride;
  bool gate;
  State format;
  std::int64_t decays_at, scales_at;
  Guarded x, dt, z, bc, dt_bias, a2, d, state, y;
  float dt_min = 0, dt_max = 3.4e38f;

  /// dt_raw = `step` (before softplus) plus normal noise; A = -1, -2, ... over the heads.
  SsdCase(int h, int g, int p, int n, int t, bool gated, double step, double noise, State f = State::f32)
      : heads(h), groups(g), dim(p), states(n), tokens(t), padded(int(klens::round_up(p, 16))), width(h * p), stride(width + 5),
        bc_stride(2 * g * n + 3), gate(gated), format(f), decays_at(klens::ssd_decays_at(f, h, p, n) / 4),
        scales_at(klens::ssd_scales_at(f, h, p, n) / 4), x(std::int64_t(t) * stride), dt(std::int64_t(t) * (h + 1)),
        z(std::int64_t(t) * stride), bc(std::int64_t(t) * bc_stride), dt_bias(h), a2(h), d(h),
        state(klens::ssd_state_bytes(f, h, p, n) / 4), y(std::int64_t(t) * stride) {
    fixture::Random random(3);
    random.fill(x);
    random.fill(z, 2.0);
    random.fill(bc);
    random.fill(dt, noise);
    state.fill(0.0f);
    for (int i = 0; i < h; ++i) {
      dt_bias[i] = float(step);
      d[i] = float(1 + 0.1 * random.normal());
      a2[i] = -float((i % 16 + 1) * 1.4426950408889634);
    }
  }
  klens::SsdArgs args() {
    return {.x = x.data(), .x_stride = stride, .dt = dt.data(), .dt_stride = heads + 1, .dt_bias = dt_bias.data(),
            .a2 = a2.data(), .d = d.data(), .b = bc.data(), .b_stride = bc_stride, .c = bc.data() + groups * states,
            .c_stride = bc_stride, .z = gate ? z.data() : nullptr, .z_stride = stride, .dt_min = dt_min, .dt_max = dt_max,
            .state = state.data(), .decay = state.data() + decays_at, .y = y.data(), .y_stride = stride, .heads = heads,
            .groups = groups, .head_dim = dim, .n_state = states, .tokens = tokens, .begin = 0, .end = items(),
            .format = format, .scales = state.data() + scales_at, .key = 3, .position = 0};
  }
  int items() const { return heads * padded / 16; }
  void run(const klens::KernelTable& table, int from, int to) {
    auto a = args();
    a.x += std::int64_t(from) * stride, a.dt += std::int64_t(from) * (heads + 1), a.y += std::int64_t(from) * stride;
    a.b += std::int64_t(from) * bc_stride, a.c += std::int64_t(from) * bc_stride;
    if (a.z != nullptr) a.z += std::int64_t(from) * stride;
    a.tokens = to - from, a.position = from;
    table.ssd(a);
  }
  /// S[p][n] of a head.
  double value(int h, int p, int n) const {
    const std::int64_t item = std::int64_t(h) * padded / 16 + p / 16, at = (item * states + n) * 16 + p % 16;
    const void* values = state.data();
    const double decay = state[decays_at + item];
    const double scale = klens::state_has_scales(format) ? double(state[scales_at + item * 16 + p % 16]) : 1;
    switch (format) {
      case State::f32: return decay * state[at];
      case State::f16: return decay * klens::to_float(static_cast<const klens::half*>(values)[at]);
      case State::s16: return decay * scale * static_cast<const std::int16_t*>(values)[at];
      default: return decay * scale * static_cast<const std::int8_t*>(values)[at];
    }
  }
  oracle::SsdToken token(int h, int t) const {
    const double raw = oracle::softplus(double(dt[std::int64_t(t) * (heads + 1) + h]) + dt_bias[h]);
    oracle::SsdToken in{std::clamp(raw, double(dt_min), double(dt_max)), {}, {}, {}};
    in.x = fixture::doubles(x.data() + std::int64_t(t) * stride + h * dim, dim);
    const float* b = bc.data() + std::int64_t(t) * bc_stride + h / (heads / groups) * states;
    in.b = fixture::doubles(b, states), in.c = fixture::doubles(b + groups * states, states);
    return in;
  }
};

/// Largest step of a format's grid where values are at most `most`; g <= 2 S in f16, and the lane's maximum scales s16, s8.
double grid_step(State format, double most) {
  if (format == State::f32) return 0;
  if (format == State::f16) return 0x1p-10 * most + 0x1p-23;
  return most / (format == State::s16 ? 32766.5 : 126.5);
}

struct Verdict { fixture::Judge y, s; double drift = 0, first = 0, last = 0; };

/// Compares y of every token and the final state with float64. x_error corrupts one input of the oracle; chunk > 0: the
/// dual form in chunks instead of the recurrence.
Verdict compare(const SsdCase& c, double x_error = 0, std::size_t chunk = 0) {
  Verdict v;
  for (int h = 0; h < c.heads; ++h) {
    std::vector<oracle::SsdToken> in;
    for (int t = 0; t < c.tokens; ++t) in.push_back(c.token(h, t));
    in[0].x[0] += x_error;
    const double a = double(c.a2[h]) / 1.4426950408889634;
    oracle::Matrix s(c.dim, c.states);
    double decay = 0, largest = 0, most_c = 0;
    std::vector<std::vector<double>> want;
    if (chunk > 0) want = oracle::ssd_chunked(s, in, a, c.d[h], chunk);
    for (const oracle::SsdToken& token : in) {
      if (chunk == 0) want.push_back(oracle::ssd_step(s, token, a, c.d[h]));
      decay = std::max(decay, std::min(std::exp(token.step * a), 1 - 1e-9));
      for (const double x : s.v) largest = std::max(largest, std::abs(x));
      double sum = 0;
      for (const double x : token.c) sum += std::abs(x);
      most_c = std::max(most_c, sum);
    }
    // f32: docs of kernel/ssd.hpp. Formats: six standard deviations of stochastic rounding, as in tests/kernel/scan.cpp.
    const double bound = fixture::eps * (8 + 3 / (1 - decay)) * largest +
                         3 * grid_step(c.format, 1.5 * largest) / std::sqrt(1 - decay * decay);
    for (int p = 0; p < c.dim; ++p) {
      for (int n = 0; n < c.states; ++n) {
        v.s(c.value(h, p, n), s(p, n), bound);
        v.drift = std::max(v.drift, std::abs(c.value(h, p, n) - s(p, n)) / largest);
      }
      for (int t = 0; t < c.tokens; ++t) {
        const std::int64_t at = std::int64_t(t) * c.stride + h * c.dim + p;
        const double gate = c.gate ? oracle::silu(c.z[at]) : 1.0, exact = want[std::size_t(t)][std::size_t(p)];
        const double skip = std::abs(double(c.d[h]) * c.x[at]);
        const double rounding = fixture::eps * ((c.states + 4) * most_c * largest + 4 * skip + 8 * std::abs(exact));
        v.y(c.y[at], exact * gate, std::abs(gate) * (most_c * bound + rounding));
        const double error = double(c.y[at]) - exact * gate;
        if (t < c.tokens / 4) v.first += error * error;
        if (t >= c.tokens - c.tokens / 4) v.last += error * error;
      }
    }
  }
  return v;
}

}  // namespace

TEST_CASE("oracle: ssd_step by hand, and equal to the chunked dual form") {
  oracle::Matrix s(1, 2);
  s(0, 0) = 2;
  // decay e^-0.5; S = (1.2130613, 0) + 0.5 * 3 * (1, -1); y = S (4, 1) + 10 * 3
  const auto y = oracle::ssd_step(s, {0.5, {3}, {1, -1}, {4, 1}}, -1, 10);
  CHECK(s(0, 0) == doctest::Approx(2.7130613));
  CHECK(s(0, 1) == doctest::Approx(-1.5));
  CHECK(y[0] == doctest::Approx(39.3522453));
  const SsdCase c(1, 1, 5, 7, 21, false, -1.0, 1.0);
  oracle::Matrix one(5, 7), other(5, 7);
  std::vector<oracle::SsdToken> in;
  for (int t = 0; t < 21; ++t) in.push_back(c.token(0, t));
  const auto chunked = oracle::ssd_chunked(other, in, -1, 0.5, 8);
  for (int t = 0; t < 21; ++t) {
    const auto stepped = oracle::ssd_step(one, in[std::size_t(t)], -1, 0.5);
    for (std::size_t p = 0; p < 5; ++p) CHECK(std::abs(stepped[p] - chunked[std::size_t(t)][p]) < 1e-12);
  }
  for (std::size_t i = 0; i < one.v.size(); ++i) CHECK(std::abs(one.v[i] - other.v[i]) < 1e-12);
}

TEST_CASE("ssd: inside the error bound for every shape, against the recurrence and the dual form") {
  struct Dims { int heads, groups, dim, states; };
  for (const Dims& s : {Dims{1, 1, 1, 1}, Dims{3, 1, 16, 16}, Dims{4, 2, 21, 17}, Dims{2, 2, 64, 128}, Dims{18, 3, 33, 5}})
    for (int tokens : {1, 3, 37})
      for (bool gate : {false, true}) {
        CAPTURE(s.dim);
        CAPTURE(tokens);
        SsdCase c(s.heads, s.groups, s.dim, s.states, tokens, gate, -1.0, 1.0);
        c.run(fixture::active(), 0, tokens);
        const Verdict v = compare(c), dual = compare(c, 0, 16);
        CHECK(v.y.wrong == 0);
        CHECK(v.s.wrong == 0);
        CHECK(dual.y.wrong == 0);
        CHECK(dual.s.wrong == 0);
        CHECK(compare(c, 0.05).y.wrong > 0);
        for (int t = 0; t < tokens; ++t)
          for (int i = c.width; i < c.stride; ++i) CHECK(c.y[t * c.stride + i] == Guarded::canary);
        for (int h = 0; h < s.heads; ++h)
          for (int p = s.dim; p < c.padded; ++p)
            for (int n = 0; n < s.states; ++n) CHECK(c.value(h, p, n) == 0);
        CHECK(c.y.margins_intact());
        CHECK(c.state.margins_intact());
      }
}

TEST_CASE("ssd: steps are clamped; no D and no gate where there is none") {
  SsdCase c(3, 1, 16, 8, 20, false, 0.0, 3.0);
  c.dt_min = 0.25f, c.dt_max = 0.75f;
  c.run(fixture::active(), 0, 20);
  CHECK(compare(c).y.wrong == 0);
  c.dt_max = 0.8f;
  CHECK(compare(c).y.wrong > 0);   // tripwire
  SsdCase plain(3, 1, 16, 8, 20, false, 0.0, 1.0);
  auto a = plain.args();
  a.d = nullptr;
  fixture::active().ssd(a);
  plain.d.fill(0.0f);
  CHECK(compare(plain).y.wrong == 0);
}

TEST_CASE("ssd: every chunking, every split of heads and ref give the same bits, in every format") {
  for (const State format : {State::f32, State::f16, State::s16, State::s8})
    for (int dim : {48, 21, 100})   // 100: 4, 2 and 1 vectors of columns side by side
      for (double step : {-2.0, 2.5}) {   // 2.5: decays down to 2^-40 per token: P moves its powers of two each time
        const auto fresh = [&] { return SsdCase(5, 1, dim, 19, 37, true, step, 1.0, format); };
        CAPTURE(klens::state_value_bytes(format));
        CAPTURE(dim);
        SsdCase whole = fresh(), reference = fresh();
        whole.run(fixture::active(), 0, 37);
        reference.run(fixture::reference(), 0, 37);
        CHECK(fixture::same_bits(whole.y, reference.y));
        CHECK(fixture::same_bits(whole.state, reference.state));
        CHECK(whole.state.margins_intact());
        for (int chunk : {1, 2, 3, 5, 16, 18}) {
          CAPTURE(chunk);
          SsdCase c = fresh();
          for (int t = 0; t < 37; t += chunk) c.run(fixture::active(), t, std::min(37, t + chunk));
          CHECK(fixture::same_bits(whole.y, c.y));
          CHECK(fixture::same_bits(whole.state, c.state));
        }
        for (int tokens : {1, 37})
          for (int share : {1, 2, 5}) {
            SsdCase parts = fresh(), all = fresh();
            auto a = parts.args();
            for (int i = parts.items(); i > 0; i -= share) {
              a.begin = std::max(0, i - share), a.end = i, a.tokens = tokens;
              fixture::active().ssd(a);
            }
            all.run(fixture::active(), 0, tokens);
            CHECK(fixture::same_bits(all.y, parts.y));
            CHECK(fixture::same_bits(all.state, parts.state));
          }
      }
}

TEST_CASE("ssd: 65 536 tokens do not drift, in every format") {
  constexpr int tokens = 65536;
  struct Run { double step, noise; bool constant; };
  for (const State format : {State::f32, State::f16, State::s16, State::s8})
    for (const Run& run : {Run{-3.0, 0.7, false}, Run{-5.3, 0.7, false}, Run{-5.3, 0.0, true}}) {
      CAPTURE(klens::state_value_bytes(format));
      CAPTURE(run.step);
      SsdCase c(1, 1, 16, 8, tokens, false, run.step, run.noise, format);
      if (run.constant) {
        for (std::int64_t i = 0; i < c.x.size(); ++i) c.x[i] = 0.7f + 0.01f * float(i % c.stride);
        c.bc.fill(0.3f);
        c.dt.fill(0.0f);
      }
      c.run(fixture::active(), 0, tokens);
      const Verdict v = compare(c);
      MESSAGE("S at ", v.s.worst, " of its bound, y at ", v.y.worst, ", drift ", v.drift, ", mean square error last / first quarter ",
              v.last / v.first);
      CHECK(v.y.wrong == 0);
      CHECK(v.s.wrong == 0);
      if (format == State::f32) CHECK(v.drift <= (run.constant ? 1e-4 : 2e-5));
      else CHECK(v.last < 2 * v.first);
      if (format != State::f32 || !run.constant) continue;
      for (int n = 0; n < 8; ++n) c.state[n * 16] *= 1.001f;
      CHECK(compare(c).s.wrong > 0);
    }
}

TEST_CASE("ssd: extreme steps forget or keep the state; NaN stays in its head") {
  for (const State format : {State::f32, State::f16, State::s16, State::s8})
    for (double step : {-200.0, -30.0, 30.0, 200.0}) {
      CAPTURE(step);
      SsdCase c(2, 1, 16, 16, 9, true, step, 0.0, format);
      c.run(fixture::active(), 0, 9);
      for (int t = 0; t < 9; ++t)
        for (int i = 0; i < c.width; ++i) CHECK(std::isfinite(c.y[t * c.stride + i]));
      for (int h = 0; h < 2; ++h)
        for (int n = 0; n < 16; ++n) CHECK(std::isfinite(c.value(h, 5, n)));
      if (format == State::f32) CHECK(compare(c).y.wrong == 0);
      SsdCase bad(2, 1, 16, 16, 9, false, -1.0, 1.0, format);
      bad.dt[3 * 3 + 1] = NAN;   // head 1 of token 3
      bad.run(fixture::active(), 0, 9);
      for (int i = 0; i < 16; ++i) CHECK(std::isfinite(bad.y[8 * bad.stride + i]));
      for (int i = 16; i < 32; ++i) CHECK(std::isnan(bad.y[8 * bad.stride + i]));
    }
}

TEST_CASE("ssd: a state that is NaN has the same bits, however tokens are chunked and on ref") {
  for (const State format : {State::f16, State::s16, State::s8}) {
    CAPTURE(klens::state_value_bytes(format));
    const auto fresh = [&] {
      SsdCase c(2, 1, 64, 19, 29, true, -1.0, 1.0, format);
      c.x[5 * c.stride + 7] = std::bit_cast<float>(0xffc12345u);
      return c;
    };
    SsdCase whole = fresh(), reference = fresh();
    whole.run(fixture::active(), 0, 29);
    reference.run(fixture::reference(), 0, 29);
    CHECK(std::isnan(whole.y[28 * whole.stride + 7]));
    CHECK(std::isfinite(whole.y[28 * whole.stride + 8]));
    CHECK(fixture::same_bits(whole.y, reference.y));
    for (int chunk : {1, 2, 16}) {
      CAPTURE(chunk);
      SsdCase c = fresh();
      for (int t = 0; t < 29; t += chunk) c.run(fixture::active(), t, std::min(29, t + chunk));
      CHECK(fixture::same_bits(whole.y, c.y));
      CHECK(fixture::same_bits(whole.state, c.state));
    }
  }
}
