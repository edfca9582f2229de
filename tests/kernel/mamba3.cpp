// kernel/mamba3.hpp with kernel/ssd.hpp against a float64 recurrence: shapes, groups of heads, columns that are not a multiple of 16,
// angles of some pairs; 65 536 tokens; every chunking, every split of heads and ref give the same bits, in every state format.
#include "kernel/fixture.hpp"
#include "oracle/mamba3.hpp"

namespace {

using fixture::Guarded;
using klens::State;

struct Mamba3Case {
  int heads, groups, dim, states, angles, tokens, width, keys, stride, factors;
  bool gate;
  State format;
  std::int64_t decays_at, scales_at;
  klens::Mamba3Carried at;
  Guarded in, z, dt_bias, b_bias, c_bias, d, state, carried, key, query, delayed, step, shrink, skip, y;
  float least_rate = 0.3f;

  Mamba3Case(int h, int g, int p, int n, int s, int t, bool gated, double step_at, State f = State::f32)
      : heads(h), groups(g), dim(p), states(n), angles(s), tokens(t), width(h * p), keys(h * n),
        stride(width + 2 * g * n + 3 * h + s + 3), factors(int(klens::round_up(h, 16))), gate(gated), format(f),
        decays_at(klens::ssd_decays_at(f, h, p, n) / 4), scales_at(klens::ssd_scales_at(f, h, p, n) / 4),
        at(klens::mamba3_carried(h, p, n, s)), in(std::int64_t(t) * stride), z(std::int64_t(t) * width), dt_bias(h), b_bias(keys),
        c_bias(keys), d(h), state(klens::ssd_state_bytes(f, h, p, n) / 4), carried(at.floats), key(std::int64_t(t) * keys),
        query(std::int64_t(t) * keys), delayed(std::int64_t(t) * width), step(std::int64_t(t) * factors),
        shrink(std::int64_t(t) * factors), skip(std::int64_t(t) * factors), y(std::int64_t(t) * width) {
    fixture::Random random(5);
    random.fill(in), random.fill(z, 2.0), random.fill(d, 0.1, 1), random.fill(b_bias, 0.3, 1), random.fill(c_bias, 0.3, 1);
    random.fill(dt_bias, 0.5, step_at);
    state.fill(0.0f), carried.fill(0.0f);
  }
  klens::Mamba3Args inputs(int from, int to) {
    klens::Mamba3Args a;
    a.x = in.data() + std::int64_t(from) * stride, a.b = a.x + width, a.c = a.b + groups * states, a.dt = a.c + groups * states;
    a.a = a.dt + heads, a.trap = a.a + heads, a.angle = a.trap + heads, a.stride = stride;
    a.dt_bias = dt_bias.data(), a.b_bias = b_bias.data(), a.c_bias = c_bias.data(), a.d = d.data(), a.least_rate = least_rate;
    a.heads = heads, a.groups = groups, a.head_dim = dim, a.n_state = states, a.angles = angles, a.tokens = to - from;
    a.turns = carried.data(), a.gain = a.turns + at.gain, a.last_key = a.turns + at.last_key, a.last_x = a.turns + at.last_x;
    a.key = key.data() + std::int64_t(from) * keys, a.query = query.data() + std::int64_t(from) * keys, a.key_stride = keys;
    a.delayed = delayed.data() + std::int64_t(from) * width, a.delayed_stride = width, a.factor_stride = factors;
    const std::int64_t row = std::int64_t(from) * factors;
    a.step = step.data() + row, a.shrink = shrink.data() + row, a.skip = skip.data() + row;
    a.begin = 0, a.end = heads;
    return a;
  }
  void recur(const klens::KernelTable& table, int from, int to) {
    const klens::Mamba3Args i = inputs(from, to);
    klens::SsdArgs a;
    a.x = i.delayed, a.x_stride = width, a.b = i.key, a.c = i.query, a.b_stride = a.c_stride = keys;
    a.step = i.step, a.shrink = i.shrink, a.skip = i.skip, a.factor_stride = factors, a.skip_x = i.x, a.skip_stride = stride;
    if (gate) a.z = z.data() + std::int64_t(from) * width, a.z_stride = width;
    a.state = state.data(), a.decay = state.data() + decays_at, a.scales = state.data() + scales_at, a.format = format;
    a.y = y.data() + std::int64_t(from) * width, a.y_stride = width;
    a.heads = a.groups = heads, a.head_dim = dim, a.n_state = states, a.tokens = to - from, a.key = 3, a.position = from;
    a.begin = 0, a.end = heads * int(klens::div_up(dim, 16));
    table.ssd(a);
  }
  void run(const klens::KernelTable& table, int from, int to) { table.mamba3_inputs(inputs(from, to)), recur(table, from, to); }
  /// A bias as the checkpoint has it: element n of head h.
  double bias(const Guarded& all, int h, int n) const { return all[h * states + n % 2 * (states / 2) + n / 2]; }
  oracle::Mamba3Token token(int h, int t) const {
    const float* row = in.data() + std::int64_t(t) * stride;
    const int shared = h / (heads / groups) * states, factor = width + 2 * groups * states + h;
    oracle::Mamba3Token one{double(row[factor]) + dt_bias[h], row[factor + heads], row[factor + 2 * heads], {}, {}, {}, {}};
    one.x = fixture::doubles(row + h * dim, dim);
    one.angle = fixture::doubles(row + width + 2 * groups * states + 3 * heads, angles);
    for (int n = 0; n < states; ++n) {
      one.b.push_back(row[width + shared + n] + bias(b_bias, h, n));
      one.c.push_back(row[width + groups * states + shared + n] + bias(c_bias, h, n));
    }
    return one;
  }
};

struct Verdict { double worst = 0, first = 0, last = 0; };

/// y against float64, as a share of the head's largest y; mean squares of the first and the last quarter of the tokens.
/// trap_error: added to the oracle's trapezoid of the first token.
Verdict compare(const Mamba3Case& c, double trap_error = 0) {
  Verdict v;
  for (int h = 0; h < c.heads; ++h) {
    oracle::Mamba3Head head(c.dim, c.states, c.angles);
    head.d = c.d[h], head.least_rate = c.least_rate;
    std::vector<double> errors;
    double most = 0;
    for (int t = 0; t < c.tokens; ++t) {
      oracle::Mamba3Token in = c.token(h, t);
      if (t == 0) in.trap += trap_error;
      const auto want = oracle::mamba3_step(head, in);
      for (int p = 0; p < c.dim; ++p) {
        const std::int64_t at = std::int64_t(t) * c.width + h * c.dim + p;
        const double gate = c.gate ? oracle::silu(c.z[at]) : 1.0;
        const double error = std::abs(double(c.y[at]) - gate * want[std::size_t(p)]);
        errors.push_back(std::isnan(error) ? INFINITY : error), most = std::max(most, std::abs(want[std::size_t(p)]));
      }
    }
    const std::size_t quarter = errors.size() / 4;
    for (std::size_t i = 0; i < errors.size(); ++i) {
      v.worst = std::max(v.worst, errors[i] / most);
      if (i < quarter) v.first += errors[i] * errors[i];
      if (i >= errors.size() - quarter) v.last += errors[i] * errors[i];
    }
  }
  return v;
}

}  // namespace

TEST_CASE("oracle: mamba3_step by hand") {
  oracle::Mamba3Head h(1, 4, 1);
  h.d = 10;
  // dt = 1 (softplus of log(e - 1)), rate 1 / (1 - -1) = 0.5, l = 1/2, one pair turned by pi tanh(atanh(1/2)) = a quarter
  const double one = std::log(std::exp(1.0) - 1), quarter = std::atanh(0.5), decay = std::exp(-0.5);
  const auto first = oracle::mamba3_step(h, {one, -1, 0, {quarter}, {2}, {3, 0, 5, 7}, {1, 0, 0, 1}});
  // k = (0, 3, 5, 7), q = (0, 1, 0, 1);  S = k;  y = 3 + 7 + 20
  CHECK(first[0] == doctest::Approx(30));
  const auto second = oracle::mamba3_step(h, {one, 1, 0, {quarter}, {1}, {4, 0, 0, 0}, {0, 0, 1, 0}});
  // rate 2, decay e^-2; S[2] = e^-2 (5 + 1/2 * 2 * 5) + 0;  y = S[2] + 10
  CHECK(second[0] == doctest::Approx(std::exp(-2.0) * 10 + 10));
  CHECK(h.s(0, 0) == doctest::Approx(-2.0));   // turned by half a turn
  CHECK(decay < 1);
}

TEST_CASE("mamba3: inside 2e-6 of the largest y for every shape") {
  struct Dims { int heads, groups, dim, states, angles; };
  for (const Dims& s : {Dims{1, 1, 1, 2, 1}, Dims{3, 1, 16, 16, 8}, Dims{4, 2, 21, 18, 3}, Dims{2, 1, 64, 128, 32}, Dims{18, 3, 33, 40, 20}})
    for (int tokens : {1, 3, 37})
      for (bool gate : {false, true}) {
        CAPTURE(s.dim);
        CAPTURE(tokens);
        Mamba3Case c(s.heads, s.groups, s.dim, s.states, s.angles, tokens, gate, 0.0);
        c.run(fixture::active(), 0, tokens);
        CHECK(compare(c).worst < 2e-6);
        CHECK(compare(c, 0.05).worst > 2e-6);   // tripwire
        for (const Guarded* g : {&c.state, &c.carried, &c.key, &c.query, &c.delayed, &c.step, &c.shrink, &c.skip, &c.y})
          CHECK(g->margins_intact());
      }
}

TEST_CASE("mamba3: every chunking, every split of heads and ref give the same bits, in every format") {
  for (const State format : {State::f32, State::f16, State::s16, State::s8}) {
    CAPTURE(klens::state_value_bytes(format));
    const auto fresh = [&] { return Mamba3Case(20, 2, 21, 18, 5, 37, true, 0.0, format); };
    Mamba3Case whole = fresh(), reference = fresh();
    whole.run(fixture::active(), 0, 37), reference.run(fixture::reference(), 0, 37);
    const auto same = [&](const Mamba3Case& other) {
      return fixture::same_bits(whole.y, other.y) && fixture::same_bits(whole.state, other.state) && fixture::same_bits(whole.carried, other.carried);
    };
    CHECK(same(reference));
    for (int chunk : {1, 2, 5, 16, 18}) {
      CAPTURE(chunk);
      Mamba3Case c = fresh();
      for (int t = 0; t < 37; t += chunk) c.run(fixture::active(), t, std::min(37, t + chunk));
      CHECK(same(c));
    }
    for (int share : {1, 7, 16}) {
      CAPTURE(share);
      Mamba3Case c = fresh();
      for (int i = c.heads; i > 0; i -= share) {
        klens::Mamba3Args a = c.inputs(0, 37);
        a.begin = std::max(0, i - share), a.end = i;
        fixture::active().mamba3_inputs(a);
      }
      c.recur(fixture::active(), 0, 37);
      CHECK(same(c));
    }
  }
}

TEST_CASE("mamba3: 65 536 tokens do not drift") {
  for (double step : {0.0, -4.0}) {   // -4: dt of 0.02, rates down to the floor: some 5000 tokens of memory
    CAPTURE(step);
    Mamba3Case c(1, 1, 16, 16, 8, 65536, false, step);
    if (step < 0) c.least_rate = 0.01f;
    c.run(fixture::active(), 0, c.tokens);
    const Verdict v = compare(c);
    MESSAGE("largest error ", v.worst, " of the largest y, mean square error last / first quarter ", v.last / v.first);
    CHECK(v.worst < 2e-6);
  }
}
