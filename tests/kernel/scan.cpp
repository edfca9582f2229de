// kernel/scan.hpp against a float64 recurrence of the same inputs: short and 65 536 tokens long, constant and varying
// steps; every chunking, every split of channels and every level give the same bits.
#include "kernel/fixture.hpp"
#include "oracle/sequence.hpp"

namespace {

using fixture::Guarded;

struct ScanCase {
  int channels, states, tokens, padded, stride;
  bool gate;
  Guarded x, dt, z, bc, dt_bias, a2, d, state, y;

  /// dt_raw = `step` (before softplus) plus normal noise of deviation `noise`; A = -(1 .. states) as S4D starts it.
  ScanCase(int c, int n, int t, bool gated, double step, double noise, unsigned seed = 1)
      : channels(c), states(n), tokens(t), padded(int(klens::round_up(c, 16))), stride(padded + 16), gate(gated),
        x(std::int64_t(t) * stride), dt(std::int64_t(t) * stride), z(std::int64_t(t) * stride),
            bc(std::int64_t(t) * 2 * n), dt_bias(padded),
        a2(std::int64_t(n) * padded), d(padded), state(std::int64_t(n) * padded), y(std::int64_t(t) * stride) {
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
            .n_state = states, .tokens = tokens, .begin = 0, .end = padded / 16};
  }
  void run(const klens::KernelTable& table, int from, int to) {
    auto a = args();
    a.x += std::int64_t(from) * stride, a.dt += std::int64_t(from) * stride, a.y += std::int64_t(from) * stride;
    a.b += std::int64_t(from) * 2 * states, a.c += std::int64_t(from) * 2 * states;
    if (a.z != nullptr) a.z += std::int64_t(from) * stride;
    a.tokens = to - from;
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
      const double got = c.state[(i / 16 * c.states + n) * 16 + i % 16];
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
