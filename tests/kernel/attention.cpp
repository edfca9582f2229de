// kernel/attention.hpp and kernel/kv.hpp against float64: grouped heads, windows, meta tokens, odd sizes. A query's
// bits do not depend on its tile, on the chunking of the prefill, on other work items, on stale cache contents, or on
// the level.
#include "kernel/fixture.hpp"
#include "oracle/sequence.hpp"

namespace {

using fixture::Guarded;

struct Shape { int heads, kv_heads, qk_dim, v_dim, window, meta, tokens; };

struct AttentionCase {
  Shape s;
  int capacity, kv_stride, q_stride, out_stride;
  Guarded q, kv, k_cache, v_cache, out, scratch;

  explicit AttentionCase(Shape shape, unsigned seed = 1, float stale = 0.0f)
      : s(shape), capacity(int(klens::round_up(shape.tokens, 16)) + 16),
        kv_stride(int(klens::round_up(shape.kv_heads * (shape.qk_dim + shape.v_dim), 16))),
        q_stride(int(klens::round_up(shape.heads * shape.qk_dim, 16)) + 16), out_stride(shape.heads * shape.v_dim + 5),
        q(std::int64_t(shape.tokens) * q_stride), kv(std::int64_t(shape.tokens) * kv_stride),
        k_cache(std::int64_t(shape.kv_heads) * capacity * shape.qk_dim),
        v_cache(std::int64_t(shape.kv_heads) * capacity * klens::round_up(shape.v_dim, 16)),
        out(std::int64_t(shape.tokens) * out_stride), scratch(klens::attention_scratch(capacity)) {
    fixture::Random random(seed);
    random.fill(q, 1.5);
    random.fill(kv);
    k_cache.fill(stale);
    v_cache.fill(stale);
  }

  klens::KvView cache() { return {k_cache.data(), v_cache.data(), capacity, s.kv_heads, s.qk_dim, s.v_dim}; }

  /// Tokens [from, to) as one prefill chunk; work items in reverse when asked.
  void run(const klens::KernelTable& table, int from, int to, bool one_by_one = false) {
    const float* rows = kv.data() + std::int64_t(from) * kv_stride;
    klens::KvAppendArgs append{cache(), rows, rows + s.kv_heads * s.qk_dim, kv_stride, to - from, from, 0, s.kv_heads};
    table.kv_append(append);
    const int items = s.heads * int(klens::div_up(to - from, klens::query_tile));
    klens::AttentionArgs a{.q = q.data() + std::int64_t(from) * q_stride, .q_stride = q_stride, .cache = cache(),
                           .heads = s.heads, .window = s.window, .meta = s.meta,
                           .scale = float(1 / std::sqrt(double(s.qk_dim))), .tokens = to - from, .position = from,
                           .out = out.data() + std::int64_t(from) * out_stride, .out_stride = out_stride,
                           .scratch = scratch.data(), .begin = 0, .end = items};
    if (!one_by_one) return table.attention(a);
    for (int i = items - 1; i >= 0; --i) {
      a.begin = i, a.end = i + 1;
      table.attention(a);
    }
  }

  fixture::Judge compare(double k_error = 0) const {
    fixture::Judge judge;
    for (int h = 0; h < s.heads; ++h) {
      const int g = h / (s.heads / s.kv_heads);
      oracle::Matrix k(s.tokens, s.qk_dim), v(s.tokens, s.v_dim);
      double largest = 0;
      for (int t = 0; t < s.tokens; ++t) {
        for (int d = 0; d < s.qk_dim; ++d) k(t, d) = kv[std::int64_t(t) * kv_stride + g * s.qk_dim + d];
        for (int d = 0; d < s.v_dim; ++d) {
          v(t, d) = kv[std::int64_t(t) * kv_stride + s.kv_heads * s.qk_dim + g * s.v_dim + d];
          largest = std::max(largest, std::abs(v(t, d)));
        }
      }
      k(0, 0) += k_error;
      for (int i = 0; i < s.tokens; ++i) {
        const auto query = fixture::doubles(q.data() + std::int64_t(i) * q_stride + h * s.qk_dim, s.qk_dim);
        const auto want = oracle::attention(query, k, v, i, s.window, s.meta, 1 / std::sqrt(double(s.qk_dim)));
        for (int d = 0; d < s.v_dim; ++d)
          judge(out[std::int64_t(i) * out_stride + h * s.v_dim + d], want[std::size_t(d)], 1e-5 * largest);
      }
    }
    return judge;
  }
};

constexpr Shape shapes[] = {
    {1, 1, 16, 16, 0, 0, 1},     {2, 1, 64, 64, 0, 0, 40},   {6, 2, 32, 64, 0, 0, 37},   {6, 2, 32, 64, 13, 4, 70},
    {5, 1, 64, 128, 32, 16, 90}, {3, 3, 6, 10, 7, 0, 50},    {2, 2, 10, 17, 1, 3, 35},   {2, 1, 33, 100, 5, 40, 60},
    {2, 1, 64, 128, 16, 16, 65}, {1, 1, 8, 144, 0, 9, 21},   {2, 1, 16, 16, 100, 8, 70}, {1, 1, 16, 16, 3, 200, 50},
};

}  // namespace

TEST_CASE("oracle: attention by hand") {
  // Scores 1 * (ln 3, 0): weights 3/4 and 1/4 of values (8, 0) and (0, 4).
  oracle::Matrix k(2, 1), v(2, 2);
  k(0, 0) = std::log(3.0);
  v(0, 0) = 8;
  v(1, 1) = 4;
  const auto out = oracle::attention({1}, k, v, 1, 0, 0, 1.0);
  CHECK(out[0] == doctest::Approx(6));
  CHECK(out[1] == doctest::Approx(1));
  CHECK(oracle::visible(10, 4, 5, 3) == false);
  CHECK(oracle::visible(10, 5, 5, 3) == true);
  CHECK(oracle::visible(10, 2, 5, 3) == true);
  CHECK(oracle::visible(10, 11, 0, 0) == false);
}

TEST_CASE("attention: within 1e-5 of the largest value, only its own columns written") {
  for (const Shape& s : shapes) {
    CAPTURE(s.qk_dim);
    CAPTURE(s.v_dim);
    CAPTURE(s.window);
    CAPTURE(s.meta);
    AttentionCase c(s);
    c.run(fixture::active(), 0, s.tokens);
    const fixture::Judge judge = c.compare();
    CAPTURE(judge.worst);
    CHECK(judge.wrong == 0);
    if (s.tokens > 1) CHECK(c.compare(0.05).wrong > 0);
    CHECK(c.out.margins_intact());
    CHECK(c.k_cache.margins_intact());
    CHECK(c.v_cache.margins_intact());
    CHECK(c.scratch.margins_intact());
    for (int t = 0; t < s.tokens; ++t)
      for (int i = s.heads * s.v_dim; i < c.out_stride; ++i) CHECK(c.out[t * c.out_stride + i] == Guarded::canary);
  }
}

TEST_CASE("attention: the same bits for every chunking, order of work, stale cache, and on ref") {
  for (const Shape& s : shapes) {
    CAPTURE(s.qk_dim);
    CAPTURE(s.window);
    CAPTURE(s.meta);
    AttentionCase whole(s), reference(s);
    whole.run(fixture::active(), 0, s.tokens);
    reference.run(fixture::reference(), 0, s.tokens);
    CHECK(fixture::same_bits(whole.out, reference.out));
    CHECK(fixture::same_bits(whole.k_cache, reference.k_cache));
    CHECK(fixture::same_bits(whole.v_cache, reference.v_cache));
    for (int chunk : {1, 3, 8, 17}) {
      CAPTURE(chunk);
      AttentionCase c(s, 1, chunk == 3 ? NAN : -1e30f);  // what the cache held before must not matter
      for (int t = 0; t < s.tokens; t += chunk) c.run(fixture::active(), t, std::min(s.tokens, t + chunk), chunk == 17);
      CHECK(fixture::same_bits(whole.out, c.out));
    }
  }
}

TEST_CASE("attention: a window that covers everything equals no window; equal keys average the values") {
  AttentionCase all({2, 1, 32, 32, 0, 0, 45}), wide({2, 1, 32, 32, 45, 7, 45});
  all.run(fixture::active(), 0, 45);
  wide.run(fixture::active(), 0, 45);
  CHECK(fixture::same_bits(all.out, wide.out));

  AttentionCase flat({1, 1, 16, 16, 0, 0, 32});
  for (int t = 0; t < 32; ++t)
    for (int d = 0; d < 16; ++d) {
      flat.kv[t * flat.kv_stride + d] = 1.0f;
      flat.kv[t * flat.kv_stride + 16 + d] = float(t);
    }
  flat.run(fixture::active(), 0, 32);
  // mean of 0 .. t, all sums exact
  for (int t = 0; t < 32; ++t) CHECK(flat.out[t * flat.out_stride + 3] == float(t) / 2);
}

TEST_CASE("attention: huge scores do not overflow") {
  AttentionCase c({1, 1, 16, 16, 0, 0, 33});
  for (std::int64_t i = 0; i < c.q.size(); ++i) c.q[i] *= 1e4f;
  c.run(fixture::active(), 0, 33);
  for (int t = 0; t < 33; ++t)
    for (int d = 0; d < 16; ++d) CHECK(std::isfinite(c.out[t * c.out_stride + d]));
}
