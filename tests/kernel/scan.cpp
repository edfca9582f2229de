// kernel/scan.hpp against a float64 recurrence of the same inputs: short and 65 536 tokens long, constant and varying
// steps, states of every format; every chunking, every split of channels and every level give the same bits.
#include "kernel/fixture.hpp"
#include "oracle/sequence.hpp"

namespace {

using fixture::Guarded;

struct ScanCase {
  int channels, states, tokens, padded, stride;
  bool gate;
  klens::State format;
  std::int64_t scales_at;
  Guarded x, dt, z, bc, dt_bias, a2, d, state, y;

  /// dt_raw = `step` (before softplus) plus normal noise of deviation `noise`; A = -(1 .. states) as S4D starts it.
  ScanCase(int c, int n, int t, bool gated, double step, double noise, unsigned seed = 1,
           klens::State f = klens::State::f32)
      : channels(c), states(n), tokens(t), padded(int(klens::round_up(c, 16))), stride(padded + 16), gate(gated),
        format(f), scales_at(klens::scan_scales_at(f, c, n) / 4),
        x(std::int64_t(t) * stride), dt(std::int64_t(t) * stride), z(std::int64_t(t) * stride),
            bc(std::int64_t(t) * 2 * n), dt_bias(padded),
        a2(std::int64_t(n) * padded), d(padded), state(klens::scan_state_bytes(f, c, n) / 4), y(std::int64_t(t) * stride) {
    fixture::Random random(seed);
    random.fill(x);
    random.fill(z, 2.0);
    random.fill(bc);
    random.fill(dt, noise);
    dt_bias.fill(0.0f);
    a2.fill(0.0f);
    d.fill(0.0f);
    state.fill(0.0f);
    for (int i = 0; i < c; ++i) {
      dt_bias[i] = float(step);
      d[i] = float(1 + 0.1 * random.normal());
      for (int s = 0; s < n; ++s) a2[s * padded + i] = -float((s + 1) * 1.4426950408889634);
    }
  }
  klens::ScanArgs args() {
    return {.x = x.data(), .x_stride = stride, .dt = dt.data(), .dt_stride = stride, .dt_bias = dt_bias.data(),
            .b = bc.data(), .b_stride = 2 * states, .c = bc.data() + states, .c_stride = 2 * states,
            .z = gate ? z.data() : nullptr, .z_stride = stride, .a2 = a2.data(), .d = d.data(), .state = state.data(),
            .y = y.data(), .y_stride = stride, .channels = channels,
            .n_state = states, .tokens = tokens, .begin = 0, .end = padded / 16, .format = format,
            .scales = state.data() + scales_at, .key = 5, .position = 0};
  }
  /// State n of channel i, widened.
  double value(int i, int n) const {
    const std::int64_t at = (std::int64_t(i) / 16 * states + n) * 16 + i % 16;
    const void* values = state.data();
    switch (format) {
      case klens::State::f32: return state[at];
      case klens::State::f16: return klens::to_float(static_cast<const klens::half*>(values)[at]);
      case klens::State::s16: return double(static_cast<const std::int16_t*>(values)[at]) * state[scales_at + i];
      default: return double(static_cast<const std::int8_t*>(values)[at]) * state[scales_at + i];
    }
  }
  void run(const klens::KernelTable& table, int from, int to) {
    auto a = args();
    a.x += std::int64_t(from) * stride, a.dt += std::int64_t(from) * stride, a.y += std::int64_t(from) * stride;
    a.b += std::int64_t(from) * 2 * states, a.c += std::int64_t(from) * 2 * states;
    if (a.z != nullptr) a.z += std::int64_t(from) * stride;
    a.tokens = to - from, a.position = from;
    table.scan(a);
  }
};

struct Verdict { fixture::Judge y, h; double drift = 0; };

/// Compares y of every token and the final state with float64; `x_error` corrupts one input of the oracle (token 0).
Verdict compare(const ScanCase& c, double x_error = 0) {
  Verdict v;
  std::vector<double> b(std::size_t(c.tokens) * std::size_t(c.states)), cc(b.size());
  for (int t = 0; t < c.tokens; ++t)
    for (int n = 0; n < c.states; ++n) {
      b[std::size_t(t * c.states + n)] = c.bc[std::int64_t(t) * 2 * c.states + n];
      cc[std::size_t(t * c.states + n)] = c.bc[std::int64_t(t) * 2 * c.states + c.states + n];
    }
  for (int i = 0; i < c.channels; ++i) {
    std::vector<double> h(std::size_t(c.states), 0.0), a2(std::size_t(c.states)), want(std::size_t(c.tokens)),
        terms(std::size_t(c.tokens)), sum_c(std::size_t(c.tokens));
    for (int n = 0; n < c.states; ++n) a2[std::size_t(n)] = c.a2[n * c.padded + i];
    double decay = 0, largest = 0;
    for (int t = 0; t < c.tokens; ++t) {
      const std::int64_t at = std::int64_t(t) * c.stride + i;
      const oracle::ScanToken in{double(c.x[at]) + (t == 0 ? x_error : 0.0), double(c.dt[at]), double(c.z[at]),
          &b[std::size_t(t * c.states)], &cc[std::size_t(t * c.states)]};
      want[std::size_t(t)] = oracle::scan_step(h, in, a2.data(), c.d[i], c.dt_bias[i], c.gate, &decay);
      terms[std::size_t(t)] = std::abs(double(c.d[i]) * in.x);
      for (int n = 0; n < c.states; ++n) {
        largest = std::max(largest, std::abs(h[std::size_t(n)]));
        terms[std::size_t(t)] += std::abs(h[std::size_t(n)] * in.c[n]);
        sum_c[std::size_t(t)] += std::abs(in.c[n]);
      }
    }
    const double h_bound = fixture::eps * (8 + 2 / (1 - decay)) * largest;
    for (int n = 0; n < c.states; ++n) {
      const double got = c.value(i, n);
      v.h(got, h[std::size_t(n)], h_bound);
      v.drift = std::max(v.drift, std::abs(got - h[std::size_t(n)]) / largest);
    }
    for (int t = 0; t < c.tokens; ++t) {
      const std::int64_t at = std::int64_t(t) * c.stride + i;
      const double gate = c.gate ? std::abs(oracle::silu(c.z[at])) : 1.0;
      // The chain of states + 1 terms, the state's own error through C, silu's 3 ulp and the last product.
      const double bound = gate * ((c.states + 2) * fixture::eps * terms[std::size_t(t)] +
          h_bound * sum_c[std::size_t(t)]) + 8 * fixture::eps * std::abs(want[std::size_t(t)]);
      v.y(c.y[at], want[std::size_t(t)], bound);
    }
  }
  return v;
}

}  // namespace

TEST_CASE("oracle: scan_step by hand") {
  // softplus(0) = ln 2; a2 = -1: decay = 2^-ln2 = 0.618503...; h = 0.618503 * 2 + ln2 * 3 * 0.5; y = h * 4 + 10 * 3.
  std::vector<double> h{2};
  const double b = 0.5, c = 4, a2 = -1;
  const double y = oracle::scan_step(h, {3, 0, 0, &b, &c}, &a2, 10, 0, false);
  CHECK(h[0] == doctest::Approx(2.2767270));
  CHECK(y == doctest::Approx(39.1069081));
}

TEST_CASE("scan: inside the error bound for every shape") {
  for (int states : {1, 4, 16, 17, 64})
    for (int channels : {1, 16, 21, 48})
      for (bool gate : {false, true}) {
        CAPTURE(states);
        CAPTURE(channels);
        ScanCase c(channels, states, 33, gate, -2.0, 1.0);
        c.run(fixture::active(), 0, c.tokens);
        const Verdict v = compare(c);
        CHECK(v.y.wrong == 0);
        CHECK(v.h.wrong == 0);
        CHECK(compare(c, 0.05).y.wrong > 0);
        for (int t = 0; t < c.tokens; ++t) {
          for (int i = channels; i < c.padded; ++i) CHECK(c.y[t * c.stride + i] == 0.0f);
          for (int i = c.padded; i < c.stride; ++i) CHECK(c.y[t * c.stride + i] == Guarded::canary);
        }
        for (int n = 0; n < states; ++n)
          for (int i = channels; i < c.padded; ++i) CHECK(c.state[((i / 16) * states + n) * 16 + i % 16] == 0.0f);
        CHECK(c.y.margins_intact());
        CHECK(c.state.margins_intact());
      }
}

TEST_CASE("scan: every chunking, every split of channels and ref give the same bits") {
  for (int states : {16, 5}) {
    ScanCase whole(40, states, 29, true, -1.0, 1.0), reference(40, states, 29, true, -1.0, 1.0);
    whole.run(fixture::active(), 0, 29);
    reference.run(fixture::reference(), 0, 29);
    CHECK(fixture::same_bits(whole.y, reference.y));
    CHECK(fixture::same_bits(whole.state, reference.state));
    for (int chunk : {1, 2, 7, 28}) {
      CAPTURE(chunk);
      ScanCase c(40, states, 29, true, -1.0, 1.0);
      for (int t = 0; t < 29; t += chunk) c.run(fixture::active(), t, std::min(29, t + chunk));
      CHECK(fixture::same_bits(whole.y, c.y));
      CHECK(fixture::same_bits(whole.state, c.state));
    }
    ScanCase groups(40, states, 29, true, -1.0, 1.0);
    for (int g = 2; g >= 0; --g) {
      auto a = groups.args();
      a.begin = g, a.end = g + 1;
      fixture::active().scan(a);
    }
    CHECK(fixture::same_bits(whole.y, groups.y));
    CHECK(fixture::same_bits(whole.state, groups.state));
  }
}

TEST_CASE("scan: 65 536 tokens do not drift") {
  constexpr int tokens = 65536;
  // softplus(step) is the time step: 0.05 and 0.005 varying from token to token, then 0.005 constant (systematic
  // rounding).
  struct Run { double step, noise; bool constant; double drift; };
  for (const Run& run : {Run{-3.0, 0.7, false, 1e-5}, Run{-5.3, 0.7, false, 1e-5}, Run{-5.3, 0.0, true, 1e-4}}) {
    CAPTURE(run.step);
    CAPTURE(run.constant);
    ScanCase c(16, 16, tokens, false, run.step, run.noise);
    if (run.constant)  // constant input too: the slow modes converge to a fixed point, rounding the same way each time
      for (std::int64_t i = 0; i < c.x.size(); ++i) c.x[i] = 0.7f + 0.01f * float(i % c.stride);
    if (run.constant) c.bc.fill(0.3f);
    c.run(fixture::active(), 0, tokens);
    const Verdict v = compare(c);
    MESSAGE("drift of the state / max |h| after 65536 tokens: ", v.drift, "; worst y at ", v.y.worst, " of its bound");
    CHECK(v.y.wrong == 0);
    CHECK(v.h.wrong == 0);
    CHECK(v.drift <= run.drift);
    if (!run.constant) continue;
    for (int n = 0; n < 16; ++n) c.state[n * 16] *= 1.001f;  // tripwire of the state's bound
    CHECK(compare(c).h.wrong > 0);
  }
}

namespace {

constexpr klens::State rounded_formats[] = {klens::State::f16, klens::State::s16, klens::State::s8};

/// Largest step of a format's grid where |h| <= `own`, and all values of the lane <= `lane`.
double grid_step(klens::State format, double own, double lane) {
  if (format == klens::State::f16) return 0x1p-10 * own + 0x1p-24;
  return lane / (format == klens::State::s16 ? 32766.5 : 126.5);
}

struct Drift { fixture::Judge h, y; double first = 0, last = 0; };

/// Six standard deviations of stochastic rounding: each token adds a variance of at most (step / 2)^2, of which a mode of
/// decay a keeps 1 / (1 - a^2); and the f32 bound. first, last: mean square error of y in quarters of the run.
/// `nearest`: judges a float64 recurrence that rounds to nearest on the same grid instead of the kernel.
Drift drift_of(const ScanCase& c, bool nearest = false) {
  Drift v;
  for (int i = 0; i < c.channels; ++i) {
    std::vector<double> h(std::size_t(c.states)), other(h), a2(h), largest(h), decay(h), want(std::size_t(c.tokens)),
        near(want);
    for (int n = 0; n < c.states; ++n) a2[std::size_t(n)] = c.a2[n * c.padded + i];
    double lane = 0;
    std::vector<double> b(h), cc(h), sum_c(h);
    for (int t = 0; t < c.tokens; ++t) {
      const std::int64_t at = std::int64_t(t) * c.stride + i;
      for (int n = 0; n < c.states; ++n) {
        b[std::size_t(n)] = c.bc[std::int64_t(t) * 2 * c.states + n];
        cc[std::size_t(n)] = c.bc[std::int64_t(t) * 2 * c.states + c.states + n];
        sum_c[std::size_t(n)] = std::max(sum_c[std::size_t(n)], std::abs(cc[std::size_t(n)]));
        decay[std::size_t(n)] = std::max(decay[std::size_t(n)],
                                         std::exp2(oracle::softplus(double(c.dt[at]) + c.dt_bias[i]) * a2[std::size_t(n)]));
      }
      const oracle::ScanToken in{double(c.x[at]), double(c.dt[at]), double(c.z[at]), b.data(), cc.data()};
      want[std::size_t(t)] = oracle::scan_step(h, in, a2.data(), c.d[i], c.dt_bias[i], false);
      if (nearest) {
        near[std::size_t(t)] = oracle::scan_step(other, in, a2.data(), c.d[i], c.dt_bias[i], false);
        double top = 0;
        for (const double x : other) top = std::max(top, std::abs(x));
        for (double& x : other) {
          const double step = c.format == klens::State::f16 ? std::ldexp(1.0, std::ilogb(x) - 10) : grid_step(c.format, 0, top);
          if (x != 0) x = step * std::nearbyint(x / step);
        }
      }
      for (int n = 0; n < c.states; ++n) {
        largest[std::size_t(n)] = std::max(largest[std::size_t(n)], std::abs(h[std::size_t(n)]));
        lane = std::max(lane, std::abs(h[std::size_t(n)]));
      }
    }
    double y_bound = 0;
    for (int n = 0; n < c.states; ++n) {
      const std::size_t k = std::size_t(n);
      const double step = grid_step(c.format, 1.5 * largest[k], 1.5 * lane);
      const double bound = 3 * step / std::sqrt(1 - decay[k] * decay[k]) + fixture::eps * (8 + 2 / (1 - decay[k])) * lane;
      v.h(nearest ? other[k] : c.value(i, n), h[k], bound);
      y_bound += sum_c[k] * bound;
    }
    for (int t = 0; t < c.tokens; ++t) {
      const double got = nearest ? near[std::size_t(t)] : double(c.y[std::int64_t(t) * c.stride + i]);
      const double error = got - want[std::size_t(t)];
      v.y(got, want[std::size_t(t)], y_bound + fixture::eps * (c.states + 2) * std::abs(want[std::size_t(t)]));
      if (t < c.tokens / 4) v.first += error * error;
      if (t >= c.tokens - c.tokens / 4) v.last += error * error;
    }
  }
  return v;
}

}  // namespace

TEST_CASE("scan: rounded states: every chunking, split of channels and ref give the same bits") {
  for (const klens::State format : rounded_formats)
    for (int states : {16, 5}) {
      CAPTURE(klens::state_value_bytes(format));
      ScanCase whole(40, states, 29, true, -1.0, 1.0, 1, format), reference(40, states, 29, true, -1.0, 1.0, 1, format);
      whole.run(fixture::active(), 0, 29);
      reference.run(fixture::reference(), 0, 29);
      CHECK(fixture::same_bits(whole.y, reference.y));
      CHECK(fixture::same_bits(whole.state, reference.state));
      CHECK(whole.state.margins_intact());
      for (int chunk : {1, 2, 3, 7}) {
        ScanCase c(40, states, 29, true, -1.0, 1.0, 1, format);
        for (int t = 0; t < 29; t += chunk) c.run(fixture::active(), t, std::min(29, t + chunk));
        CHECK(fixture::same_bits(whole.y, c.y));
        CHECK(fixture::same_bits(whole.state, c.state));
      }
      ScanCase groups(40, states, 29, true, -1.0, 1.0, 1, format);
      for (int g = 2; g >= 0; --g) {
        auto a = groups.args();
        a.begin = g, a.end = g + 1;
        fixture::active().scan(a);
      }
      CHECK(fixture::same_bits(whole.state, groups.state));
      for (int n = 0; n < states; ++n)
        for (int i = 40; i < whole.padded; ++i) CHECK(whole.value(i, n) == 0);
      // Another position or layer rounds otherwise; f32 does not look at them.
      ScanCase other(40, states, 29, true, -1.0, 1.0, 1, format);
      auto a = other.args();
      a.key = 6;
      fixture::active().scan(a);
      CHECK(!fixture::same_bits(whole.state, other.state));
    }
}

TEST_CASE("scan: zeros have one sign, however tokens are chunked") {
  // D x = -0 and u B = -0: y is -0 only if the state before is, which a stored q = 0 is not.
  for (const klens::State format : rounded_formats) {
    CAPTURE(klens::state_value_bytes(format));
    const auto zeros = [&] {
      ScanCase c(48, 1, 29, false, -1.0, 1.0, 1, format);
      c.x.fill(0.0f), c.d.fill(-1.0f);
      for (int t = 0; t < 29; ++t) c.bc[2 * t] = -1, c.bc[2 * t + 1] = 1;
      return c;
    };
    ScanCase whole = zeros();
    whole.run(fixture::active(), 0, 29);
    for (int chunk : {1, 3}) {
      ScanCase c = zeros();
      for (int t = 0; t < 29; t += chunk) c.run(fixture::active(), t, std::min(29, t + chunk));
      CHECK(fixture::same_bits(whole.y, c.y));
    }
  }
}

TEST_CASE("scan: rounded states stay inside their bound for 65 536 tokens and do not drift") {
  constexpr int tokens = 65536;
  struct Run { double step, noise; bool constant; };
  for (const klens::State format : rounded_formats)
    for (const Run& run : {Run{-3.0, 0.7, false}, Run{-6.0, 0.7, false}, Run{-7.0, 0.0, true}}) {
      CAPTURE(klens::state_value_bytes(format));
      CAPTURE(run.step);
      ScanCase c(16, 16, tokens, false, run.step, run.noise, 1, format);
      if (run.constant)
        for (std::int64_t i = 0; i < c.x.size(); ++i) c.x[i] = 0.7f + 0.01f * float(i % c.stride);
      if (run.constant) c.bc.fill(0.3f);
      c.run(fixture::active(), 0, tokens);
      const Drift v = drift_of(c), nearest = drift_of(c, true);
      MESSAGE("h at ", v.h.worst, " of its bound, y at ", v.y.worst, ", mean square error last / first quarter ",
              v.last / v.first, "; nearest rounding would be at ", nearest.h.worst, ", and have ", nearest.last / v.last,
              " times the error of y");
      CHECK(v.h.wrong == 0);
      CHECK(v.y.wrong == 0);
      CHECK(v.last < 2 * v.first);
      if (!run.constant) continue;
      // Why rounding is random: to nearest, a slow mode stops short of its fixed point.
      CHECK(nearest.last > 30 * v.last);
      if (format != klens::State::s8) CHECK(nearest.h.wrong > 0);
      // Tripwire: one channel of the other sign (the bound of a slow mode in s8 is 0.8 of it).
      auto* const halves = static_cast<klens::half*>(static_cast<void*>(c.state.data()));
      for (int n = 0; n < 16 && format == klens::State::f16; ++n) halves[n * 16] = klens::to_half(float(-c.value(0, n)));
      if (format != klens::State::f16) c.state[c.scales_at] *= -1;
      CHECK(drift_of(c).h.wrong > 0);
    }
}

TEST_CASE("scan: rounding is unbiased") {
  // No input and a decay of 1 (dt = 0): each of 256 lanes is rounded once at each of 256 positions, from the same state.
  for (const klens::State format : rounded_formats) {
    CAPTURE(klens::state_value_bytes(format));
    ScanCase c(256, 2, 1, false, -200.0, 0.0, 1, format);
    c.x.fill(0.0f);
    void* const values = c.state.data();
    double sum = 0;
    for (int t = 0; t < 256; ++t) {
      for (int i = 0; i < 256; ++i) {  // in s16 and s8 the second state sets the scale, and the first lies between steps
        const std::int64_t at = i / 16 * 32 + i % 16;
        if (format == klens::State::s16)
          static_cast<std::int16_t*>(values)[at] = 9000, static_cast<std::int16_t*>(values)[at + 16] = 20000;
        if (format == klens::State::s8)
          static_cast<std::int8_t*>(values)[at] = 37, static_cast<std::int8_t*>(values)[at + 16] = 91;
        if (format == klens::State::f16) static_cast<klens::half*>(values)[at] = klens::to_half(0.3f);
        else c.state[c.scales_at + i] = 1;
      }
      auto args = c.args();
      args.position = t;
      fixture::active().scan(args);
      for (int i = 0; i < 256; ++i) sum += c.value(i, 0);
    }
    if (format == klens::State::f16) {  // a half stays: nothing is added to it
      CHECK(sum / 65536 == double(klens::to_float(klens::to_half(0.3f))));
      continue;
    }
    const double start = format == klens::State::s16 ? 9000 : 37, step = format == klens::State::s16 ? 20000 / 32766.5 : 91 / 126.5;
    // The mean is off by less than six of its standard deviations, step / 2 / 256; tripwire: a bias of an eighth of a step.
    CHECK(std::abs(sum / 65536 - start) <= 6 * step / 512);
    CHECK(std::abs(sum / 65536 - start + step / 8) > 6 * step / 512);
  }
}

TEST_CASE("scan: NaN poisons a rounded channel, and it alone; large states clamp in f16") {
  for (const klens::State format : rounded_formats) {
    ScanCase c(32, 16, 9, false, -1.0, 1.0, 1, format);
    c.x[3 * c.stride + 7] = NAN;
    c.run(fixture::active(), 0, 9);
    for (int i = 0; i < 32; ++i)
      for (int n = 0; n < 16; ++n) CHECK(std::isnan(c.value(i, n)) == (i == 7));
    CHECK(std::isnan(c.y[8 * c.stride + 7]));
    CHECK(!std::isnan(c.y[2 * c.stride + 7]));
    ScanCase large(16, 16, 9, false, 1.0, 0.0, 1, format);
    for (std::int64_t i = 0; i < large.x.size(); ++i) large.x[i] = 1e6f;
    large.run(fixture::active(), 0, 9);
    for (int i = 0; i < 16; ++i)
      for (int n = 0; n < 16; ++n) {
        CHECK(std::isfinite(large.value(i, n)));
        if (format == klens::State::f16) CHECK(std::abs(large.value(i, n)) <= 65504);
      }
  }
}

TEST_CASE("scan: extreme steps forget or keep the state, and never make NaN") {
  for (double step : {-200.0, -30.0, 30.0, 200.0}) {
    ScanCase c(16, 16, 9, true, step, 0.0);
    for (int n = 0; n < 16 * 16; ++n) c.state[n] = 1.0f;
    c.run(fixture::active(), 0, 9);
    for (std::int64_t i = 0; i < c.state.size(); ++i) CHECK(std::isfinite(c.state[i]));
    for (int t = 0; t < 9; ++t)
      for (int i = 0; i < 16; ++i) CHECK(std::isfinite(c.y[t * c.stride + i]));
    if (step == -200.0) CHECK(c.state[0] == 1.0f);
  }
}
