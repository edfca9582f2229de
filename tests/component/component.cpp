// Linear<P>, SelectiveScan<P>, Attention<P> as a user meets them: against float64, step against prefill, names of kernels.
#include <klens/component/attention.hpp>
#include <klens/component/linear.hpp>
#include <klens/component/selective_scan.hpp>
#include <klens/core/thread_team.hpp>
#include <klens/quant/rtn.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <vector>

namespace {

std::vector<float> normal(std::size_t count, unsigned seed, float scale = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<float> draw(0, scale);
  std::vector<float> v(count);
  for (float& x : v) x = draw(random);
  return v;
}

template <class T>
T need(klens::Result<T> result) {
  INFO((result ? std::string() : result.error().message()));
  REQUIRE(bool(result));
  return *std::move(result);
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

template <klens::Precision P>
void check_linear(int rows, int cols) {
  const std::string name = klens::format_name(P);
  CAPTURE(name);
  CAPTURE(rows);
  CAPTURE(cols);
  const std::vector<float> w = normal(std::size_t(rows * cols), 1, 0.1f), bias = normal(std::size_t(rows), 2);
  const int tokens = 70;   // more than one call of the kernel, and a rest
  const std::vector<float> x = normal(std::size_t(tokens * cols), 3);
  const auto packed = need(klens::quantize<P.weight_bits, P.scheme>({w.data(), rows, cols, cols}));
  klens::Linear<P> linear(packed.view(), bias.data());
  std::vector<float> y(std::size_t(tokens * rows)), one(y.size());
  linear.prefill({x.data(), tokens, cols, cols}, {y.data(), tokens, rows, rows});

  // Float64 over the dequantized weights and the rounded inputs.
  std::vector<float> back(w.size());
  klens::unpack(packed.matrix(), {back.data(), rows, cols, cols});
  const double qmax = P.activation == klens::Activation::a16 ? 32767 : 127;
  std::vector<double> expected(y.size()), bound(y.size());
  for (int t = 0; t < tokens; ++t) {
    std::vector<double> in(x.begin() + t * cols, x.begin() + (t + 1) * cols);
    if (P.activation != klens::Activation::f32) {
      float most = 0;
      for (int k = 0; k < cols; ++k) most = std::max(most, std::abs(x[std::size_t(t * cols + k)]));
      const float scale = most / float(qmax);
      for (int k = 0; k < cols; ++k) in[std::size_t(k)] = std::clamp(double(std::nearbyint(x[std::size_t(t * cols + k)] / scale)), -qmax, qmax) * scale;
    }
    for (int n = 0; n < rows; ++n) {
      double sum = bias[std::size_t(n)], size = std::abs(sum);
      for (int k = 0; k < cols; ++k) {
        const double term = double(back[std::size_t(n * cols + k)]) * in[std::size_t(k)];
        sum += term, size += std::abs(term);
      }
      expected[std::size_t(t * rows + n)] = sum, bound[std::size_t(t * rows + n)] = size * (cols + 8) * 0x1p-24;
    }
  }
  const auto outside = [&] {
    int count = 0;
    for (std::size_t i = 0; i < y.size(); ++i) count += !(std::abs(double(y[i]) - expected[i]) <= bound[i]);
    return count;
  };
  CHECK(outside() == 0);

  for (int t = 0; t < tokens; ++t) linear.step(x.data() + t * cols, one.data() + t * rows);
  CHECK(same_bits(y, one));
  klens::ThreadTeam three(3);
  klens::Linear<P> threaded(packed.view(), bias.data(), three.team());
  threaded.prefill({x.data(), tokens, cols, cols}, {one.data(), tokens, rows, rows});
  CHECK(same_bits(y, one));

  y[y.size() / 3] += float(bound[y.size() / 3]) * 4 + 1e-3f;
  CHECK(outside() == 1);
}

}  // namespace

TEST_CASE("Linear: float64 agrees, steps give the bits of prefill") {
  using klens::Activation, klens::Precision, klens::State;
  check_linear<Precision{8, klens::per_row(), Activation::f32, State::f32}>(40, 96);
  check_linear<Precision{8, klens::per_row(), Activation::a8, State::f32}>(17, 44);
  check_linear<Precision{4, klens::groups_of(32), Activation::f32, State::f32}>(33, 130);
  check_linear<Precision{4, klens::groups_of(32), Activation::a8, State::f32}>(40, 96);
  check_linear<Precision{3, klens::groups_of(64), Activation::a16, State::f32}>(33, 130);
  check_linear<Precision{4, klens::nf4_groups_of(64), Activation::a8, State::f32}>(40, 96);
  check_linear<Precision{16, klens::floats(klens::Grid::f16), Activation::f32, State::f32}>(17, 44);
  check_linear<Precision{2, klens::per_row(), Activation::a8, State::f32}>(16, 12);
  check_linear<klens::Precision{}>(1, 1);
}

TEST_CASE("names of kernels say formats and level") {
  constexpr klens::Precision p{4, klens::groups_of(32), klens::Activation::f32, klens::State::f32};
  CHECK(klens::Linear<p>::kernel_name() == "linear<w4g32,f32>/" KLENS_STRING(KLENS_LEVEL));
  CHECK(klens::SelectiveScan<klens::Precision{}>::kernel_name() == "scan<f32>/" KLENS_STRING(KLENS_LEVEL));
  CHECK(klens::linear_kernel_name(klens::Level::avx_vnni, *klens::parse_format("w8a16")) == "linear<w8,a16>/avx_vnni");
}

TEST_CASE("SelectiveScan: float64 agrees, steps give the bits of prefill") {
  const int channels = 20, n_state = 16, tokens = 50, width = 32;
  std::vector<float> a_log = normal(std::size_t(channels * n_state), 4, 0.5f), d = normal(channels, 5), bias = normal(channels, 6);
  const std::vector<float> x = normal(tokens * width, 7), dt = normal(tokens * width, 8), z = normal(tokens * width, 9);
  const std::vector<float> b = normal(tokens * n_state, 10), c = normal(tokens * n_state, 11);
  const klens::ScanParameters parameters(channels, n_state, a_log.data(), d.data(), bias.data());
  klens::ThreadTeam two(2);
  const klens::SelectiveScan<klens::Precision{}> scan(parameters, two.team());
  klens::ScanState state(channels, n_state);
  std::vector<float> y(std::size_t(tokens * width)), one(y.size());
  scan.prefill(state,
               {{x.data(), tokens, channels, width}, {dt.data(), tokens, channels, width}, {b.data(), tokens, n_state, n_state},
                {c.data(), tokens, n_state, n_state}, {z.data(), tokens, channels, width}},
               {y.data(), tokens, channels, width});
  std::vector<double> h(std::size_t(channels * n_state), 0.0);
  double worst = 0;
  for (int t = 0; t < tokens; ++t)
    for (int ch = 0; ch < channels; ++ch) {
      const std::size_t i = std::size_t(t * width + ch);
      const double step = std::log1p(std::exp(double(dt[i]) + bias[std::size_t(ch)]));
      double sum = double(d[std::size_t(ch)]) * x[i];
      for (int n = 0; n < n_state; ++n) {
        double& s = h[std::size_t(ch * n_state + n)];
        s = std::exp(-std::exp(double(a_log[std::size_t(ch * n_state + n)])) * step) * s + step * x[i] * b[std::size_t(t * n_state + n)];
        sum += s * c[std::size_t(t * n_state + n)];
      }
      const double expected = sum * z[i] / (1 + std::exp(-double(z[i])));
      worst = std::max(worst, std::abs(expected - y[i]) / (1 + std::abs(expected)));
    }
  CHECK(worst < 2e-5);
  CHECK(state.value(channels - 1, 3) == doctest::Approx(h[std::size_t((channels - 1) * n_state + 3)]).epsilon(1e-4));
  klens::ScanState other(channels, n_state);
  for (int t = 0; t < tokens; ++t)
    scan.step(other, x.data() + t * width, dt.data() + t * width, b.data() + t * n_state, c.data() + t * n_state, z.data() + t * width,
              one.data() + t * width);
  CHECK(same_bits(y, one));
  other.clear();
  CHECK(other.value(3, 3) == 0.0f);
}

TEST_CASE("Attention: float64 agrees, steps give the bits of prefill") {
  const int heads = 6, kv_heads = 2, qk = 32, vd = 24, tokens = 45, window = 9, meta = 3;
  const std::vector<float> q = normal(std::size_t(tokens * heads * qk), 12), k = normal(std::size_t(tokens * kv_heads * qk), 13),
                           v = normal(std::size_t(tokens * kv_heads * qk), 14);   // v rows: as far apart as k rows
  klens::ThreadTeam two(2);
  klens::Attention<klens::Precision{}> attention({.heads = heads, .window = window, .meta = meta}, two.team());
  klens::KvCache cache(kv_heads, qk, vd, tokens);
  std::vector<float> y(std::size_t(tokens * heads * vd)), one(y.size());
  const std::int64_t kv_stride = kv_heads * qk;
  attention.prefill(cache, {q.data(), tokens, heads * qk, heads * qk}, {k.data(), tokens, kv_heads * qk, kv_stride},
                    {v.data(), tokens, kv_heads * vd, kv_stride}, {y.data(), tokens, heads * vd, heads * vd});
  CHECK(cache.size() == tokens);
  double worst = 0;
  for (int i = 0; i < tokens; ++i)
    for (int h = 0; h < heads; ++h) {
      const int g = h / (heads / kv_heads);
      std::vector<double> p(std::size_t(i + 1), 0.0);
      double total = 0;
      for (int j = 0; j <= i; ++j) {
        if (i - j > window && j >= meta) continue;
        double s = 0;
        for (int e = 0; e < qk; ++e) s += double(q[std::size_t((i * heads + h) * qk + e)]) * k[std::size_t(j * kv_stride + g * qk + e)];
        total += p[std::size_t(j)] = std::exp(s / std::sqrt(double(qk)));
      }
      for (int c = 0; c < vd; ++c) {
        double sum = 0;
        for (int j = 0; j <= i; ++j) sum += p[std::size_t(j)] / total * v[std::size_t(j * kv_stride + g * vd + c)];
        worst = std::max(worst, std::abs(sum - y[std::size_t((i * heads + h) * vd + c)]));
      }
    }
  CHECK(worst < 1e-5);
  cache.truncate();
  for (int t = 0; t < tokens; ++t)
    attention.step(cache, q.data() + t * heads * qk, k.data() + t * kv_stride, v.data() + t * kv_stride, one.data() + t * heads * vd);
  CHECK(same_bits(y, one));
}

namespace {

template <klens::State Format>
void check_cache_format(double bound) {
  constexpr klens::Precision precision{.state = Format};
  const int heads = 4, kv_heads = 2, qk = 32, vd = 40, tokens = 30;
  const std::vector<float> q = normal(std::size_t(tokens * heads * qk), 15), k = normal(std::size_t(tokens * kv_heads * vd), 16),
                           v = normal(std::size_t(tokens * kv_heads * vd), 17);
  const std::int64_t kv_stride = kv_heads * vd;
  const auto rows = [&](const std::vector<float>& x, int from, int to, std::int64_t cols) {
    return klens::Rows<const float>{x.data() + from * cols, to - from, cols, cols};
  };
  const auto attend = [&](auto& attention, klens::KvCache& cache, int from, int to, std::vector<float>& y) {
    attention.prefill(cache, rows(q, from, to, heads * qk), {k.data() + from * kv_stride, to - from, kv_heads * qk, kv_stride},
                      rows(v, from, to, kv_stride), {y.data() + from * heads * vd, to - from, heads * vd, heads * vd});
  };
  klens::Attention<precision> attention({.heads = heads});
  klens::Attention<klens::Precision{}> reference({.heads = heads});
  klens::KvCache cache(kv_heads, qk, vd, tokens, Format), exact(kv_heads, qk, vd, tokens);
  CHECK(cache.format() == Format);
  std::vector<float> y(std::size_t(tokens * heads * vd)), again(y.size()), want(y.size());
  attend(attention, cache, 0, tokens, y);
  attend(reference, exact, 0, tokens, want);
  double worst = 0;
  for (std::size_t i = 0; i < y.size(); ++i) worst = std::max(worst, double(std::abs(y[i] - want[i])));
  CHECK(worst < bound);
  CHECK(worst > bound / 20);   // it was rounded
  // Rolled back over a wrong continuation, the right one gives the same bits: nothing of a later token stays.
  klens::KvCache rolled(kv_heads, qk, vd, tokens, Format);
  attend(attention, rolled, 0, 21, again);
  rolled.truncate(11);
  std::vector<float> unused(y.size());
  attention.prefill(rolled, rows(q, 0, 9, heads * qk), {k.data(), 9, kv_heads * qk, kv_stride}, rows(v, 0, 9, kv_stride),
                    {unused.data(), 9, heads * vd, heads * vd});
  rolled.truncate(11);
  for (int t = 11; t < tokens; ++t) attend(attention, rolled, t, t + 1, again);
  CHECK(same_bits(y, again));
  CHECK(attention.kernel_name().find("attention<kv=" + std::string(klens::name_of(Format)) + ">/") == 0);
}

}  // namespace

TEST_CASE("Attention: caches of every format, rolled back and continued") {
  check_cache_format<klens::State::f16>(4e-3);
  check_cache_format<klens::State::s8>(0.05);
  check_cache_format<klens::State::s4>(0.8);
  CHECK(klens::KvCache(2, 64, 128, 100).capacity() == 112);
}

TEST_CASE("Attention: a token over 2048 positions, one thread and two: the same bits") {
  const int heads = 3, qk = 16, vd = 16, tokens = 2048;
  const std::vector<float> q = normal(std::size_t(heads * qk), 18), kv = normal(std::size_t(tokens * 2 * qk), 19);
  for (const int window : {0, 700}) {
    klens::ThreadTeam two(2);
    klens::Attention<klens::Precision{.state = klens::State::s8}> alone({.heads = heads, .window = window, .meta = 5}),
        shared({.heads = heads, .window = window, .meta = 5}, two.team());
    klens::KvCache cache(1, qk, vd, tokens, klens::State::s8);
    klens::KvAppendArgs append;
    append.cache = cache.view(), append.k = kv.data(), append.v = kv.data() + qk, append.stride = 2 * qk;
    append.tokens = tokens, append.end = 1;
    cache.grow(tokens);
    klens::kv_append(append);
    std::vector<float> one(std::size_t(heads * vd)), other(one.size());
    alone.attend(cache, {q.data(), 1, heads * qk, heads * qk}, {one.data(), 1, heads * vd, heads * vd});
    shared.attend(cache, {q.data(), 1, heads * qk, heads * qk}, {other.data(), 1, heads * vd, heads * vd});
    CHECK(same_bits(one, other));
    CHECK(one[0] != 0.0f);
  }
}
