// SelectiveScan<P> and StateSpaceDual<P> with states of every format: steps against prefill, threads, states that look at
// memory, distance to float64.
#include <klens/component/selective_scan.hpp>
#include <klens/component/state_space_dual.hpp>
#include <klens/core/thread_team.hpp>

#include "oracle/ssd.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

namespace {

using klens::Precision;
using klens::State;

std::vector<float> normal(int count, unsigned seed, float scale = 1, float mean = 0) {
  std::mt19937 random(seed);
  std::normal_distribution<float> draw(mean, scale);
  std::vector<float> v(static_cast<std::size_t>(count));
  for (float& x : v) x = draw(random);
  return v;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

/// Error of y, over its largest value, that a rounded state may have here (measured: a tenth to a quarter of it).
double tolerance(State s) { return s == State::f32 ? 2e-6 : s == State::f16 ? 3e-3 : s == State::s16 ? 3e-4 : 6e-2; }

template <State S>
void check_scan() {
  constexpr Precision p{.state = S};
  const int channels = 150, n_state = 16, tokens = 50, width = 160;
  const std::vector<float> a_log = normal(channels * n_state, 4, 0.5f), d = normal(channels, 5), bias = normal(channels, 6);
  const std::vector<float> x = normal(tokens * width, 7), dt = normal(tokens * width, 8, 0.5f, -2), b = normal(tokens * n_state, 10),
                           c = normal(tokens * n_state, 11);
  const klens::ScanParameters parameters(channels, n_state, a_log.data(), d.data(), bias.data());
  klens::ThreadTeam three(3);
  const klens::SelectiveScan<p> scan(parameters, three.team()), alone(parameters);
  klens::ScanState state(channels, n_state, S, 4);
  std::vector<float> y(std::size_t(tokens * width)), one(y.size());
  const klens::ScanInputs in{{x.data(), tokens, channels, width}, {dt.data(), tokens, channels, width},
                             {b.data(), tokens, n_state, n_state}, {c.data(), tokens, n_state, n_state}};
  scan.prefill(state, in, {y.data(), tokens, channels, width});
  CHECK(state.position() == tokens);

  std::vector<double> h(std::size_t(channels * n_state), 0.0);
  double worst = 0, most = 0;
  for (int t = 0; t < tokens; ++t)
    for (int ch = 0; ch < channels; ++ch) {
      const std::size_t i = std::size_t(t * width + ch);
      const double step = oracle::softplus(double(dt[i]) + bias[std::size_t(ch)]);
      double sum = double(d[std::size_t(ch)]) * x[i];
      for (int n = 0; n < n_state; ++n) {
        double& s = h[std::size_t(ch * n_state + n)];
        s = std::exp(-std::exp(double(a_log[std::size_t(ch * n_state + n)])) * step) * s + step * x[i] * b[std::size_t(t * n_state + n)];
        sum += s * c[std::size_t(t * n_state + n)];
      }
      worst = std::max(worst, std::abs(sum - y[i])), most = std::max(most, std::abs(sum));
    }
  MESSAGE(klens::SelectiveScan<p>::kernel_name(), ": error of y / max |y| ", worst / most);
  CHECK(worst <= tolerance(S) * most);
  if (S != State::f32) CHECK(worst > tolerance(S) / 100 * most);   // it is rounded, and the tolerance is not idle

  std::vector<std::byte> memory(std::size_t(state.bytes()) + 64);
  void* at = memory.data();
  std::size_t room = memory.size();
  at = std::align(64, std::size_t(state.bytes()), at, room);
  klens::ScanState looking(at, channels, n_state, S, 4);
  for (int t = 0; t < tokens; ++t)
    alone.step(looking, x.data() + t * width, dt.data() + t * width, b.data() + t * n_state, c.data() + t * n_state, nullptr,
               one.data() + t * width);
  CHECK(same_bits(y, one));
  CHECK(std::memcmp(state.data(), looking.data(), std::size_t(state.bytes())) == 0);
  CHECK(state.value(channels - 1, 3) == doctest::Approx(h[std::size_t((channels - 1) * n_state + 3)]).epsilon(0.1));
  looking.clear();
  CHECK(looking.position() == 0);
  CHECK(looking.value(3, 3) == 0.0f);
}

template <State S>
void check_ssd() {
  constexpr Precision p{.state = S};
  const klens::SsdShape shape{.heads = 6, .groups = 2, .head_dim = 24, .n_state = 32, .dt_min = 0.01f, .dt_max = 0.5f};
  const int tokens = 50, width = shape.heads * shape.head_dim, bc = shape.groups * shape.n_state;
  const std::vector<float> a_log = normal(shape.heads, 4, 0.5f), d = normal(shape.heads, 5), bias = normal(shape.heads, 6);
  const std::vector<float> x = normal(tokens * width, 7), dt = normal(tokens * shape.heads, 8, 0.5f, -2), b = normal(tokens * bc, 10),
                           c = normal(tokens * bc, 11), z = normal(tokens * width, 12);
  const klens::SsdParameters parameters(shape, a_log.data(), d.data(), bias.data());
  klens::ThreadTeam three(3);
  const klens::StateSpaceDual<p> dual(parameters, three.team()), alone(parameters);
  klens::SsdState state(shape.heads, shape.head_dim, shape.n_state, S, 4), other(shape.heads, shape.head_dim, shape.n_state, S, 4);
  std::vector<float> y(std::size_t(tokens * width)), one(y.size());
  dual.prefill(state, {{x.data(), tokens, width, width}, {dt.data(), tokens, shape.heads, shape.heads}, {b.data(), tokens, bc, bc},
                       {c.data(), tokens, bc, bc}, {z.data(), tokens, width, width}},
               {y.data(), tokens, width, width});
  double worst = 0, most = 0;
  for (int h = 0; h < shape.heads; ++h) {
    std::vector<oracle::SsdToken> in;
    for (int t = 0; t < tokens; ++t) {
      const double step = oracle::softplus(double(dt[std::size_t(t * shape.heads + h)]) + bias[std::size_t(h)]);
      const auto row = [](const std::vector<float>& v, int from, int n) {
        return std::vector<double>(v.begin() + from, v.begin() + from + n);
      };
      const int group = t * bc + h / 3 * shape.n_state;
      in.push_back({std::clamp(step, double(shape.dt_min), double(shape.dt_max)), row(x, t * width + h * shape.head_dim, shape.head_dim),
                    row(b, group, shape.n_state), row(c, group, shape.n_state)});
    }
    oracle::Matrix s(shape.head_dim, shape.n_state);
    const auto want = oracle::ssd_chunked(s, in, -std::exp(double(a_log[std::size_t(h)])), d[std::size_t(h)], 16);
    for (int t = 0; t < tokens; ++t)
      for (int i = 0; i < shape.head_dim; ++i) {
        const std::size_t at = std::size_t(t * width + h * shape.head_dim + i);
        const double exact = want[std::size_t(t)][std::size_t(i)] * oracle::silu(z[at]);
        worst = std::max(worst, std::abs(exact - y[at])), most = std::max(most, std::abs(exact));
      }
    CHECK(state.value(h, 20, 7) == doctest::Approx(s(20, 7)).epsilon(0.1));
  }
  MESSAGE(klens::StateSpaceDual<p>::kernel_name(), ": error of y / max |y| ", worst / most);
  CHECK(worst <= tolerance(S) * most);
  if (S != State::f32) CHECK(worst > tolerance(S) / 100 * most);
  for (int t = 0; t < tokens; ++t)
    alone.step(other, x.data() + t * width, dt.data() + t * shape.heads, b.data() + t * bc, c.data() + t * bc, z.data() + t * width,
               one.data() + t * width);
  CHECK(same_bits(y, one));
  CHECK(std::memcmp(state.data(), other.data(), std::size_t(state.bytes())) == 0);
  other.clear();
  CHECK(other.position() == 0);
  CHECK(other.value(1, 1, 1) == 0.0f);
}

}  // namespace

TEST_CASE("SelectiveScan: every state format, steps give the bits of prefill") {
  check_scan<State::f32>();
  check_scan<State::f16>();
  check_scan<State::s16>();
  check_scan<State::s8>();
}

TEST_CASE("StateSpaceDual: every state format against the dual form, steps give the bits of prefill") {
  check_ssd<State::f32>();
  check_ssd<State::f16>();
  check_ssd<State::s16>();
  check_ssd<State::s8>();
}

TEST_CASE("names and bytes of scan states") {
  CHECK(klens::SelectiveScan<Precision{.state = State::s8}>::kernel_name() == "scan<s8>/" KLENS_STRING(KLENS_LEVEL));
  CHECK(klens::StateSpaceDual<Precision{}>::kernel_name() == "ssd<f32>/" KLENS_STRING(KLENS_LEVEL));
  // 130m: 1536 channels of 16 states; 24 heads of 64 x 128.
  static_assert(klens::scan_state_bytes(State::f32, 1536, 16) == 98304 && klens::scan_state_bytes(State::s8, 1536, 16) == 30720);
  static_assert(klens::ssd_state_bytes(State::f32, 24, 64, 128) == 786432 + 384);
  static_assert(klens::ssd_state_bytes(State::s8, 24, 64, 128) == 196608 + 384 + 6144);
}
