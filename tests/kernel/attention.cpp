// kernel/attention.hpp and kernel/kv.hpp against float64, of the numbers in the cache and of those that went in:
// grouped heads, windows, meta tokens, odd sizes, every KV format. A query's bits do not depend on its tile, on the
// chunking of the prefill, on other work items, on partitions, on stale cache contents, or on the level.
#include "kernel/fixture.hpp"
#include "oracle/sequence.hpp"

namespace {

using fixture::Guarded;
using klens::State;

struct Shape { int heads, kv_heads, qk_dim, v_dim, window, meta, tokens; };

constexpr State formats[] = {State::f32, State::f16, State::s8, State::s4};

enum class Work { whole, backwards, partitions };

struct AttentionCase {
  Shape s;
  State format;
  int capacity, kv_stride, q_stride, out_stride;
  Guarded q, kv, memory, out, scratch;

  explicit AttentionCase(Shape shape, State f = State::f32, unsigned seed = 1, float stale = 0.0f)
      : s(shape), format(f), capacity(int(klens::round_up(shape.tokens, 16)) + 16),
        kv_stride(int(klens::round_up(shape.kv_heads * (shape.qk_dim + shape.v_dim), 16))),
        q_stride(int(klens::round_up(shape.heads * shape.qk_dim, 16)) + 16), out_stride(shape.heads * shape.v_dim + 5),
        q(std::int64_t(shape.tokens) * q_stride), kv(std::int64_t(shape.tokens) * kv_stride),
        memory(klens::kv_bytes_per_layer(f, shape.kv_heads, shape.qk_dim, shape.v_dim, capacity) / 4),
        out(std::int64_t(shape.tokens) * out_stride), scratch(klens::attention_scratch()) {
    fixture::Random random(seed);
    random.fill(q, 1.5);
    random.fill(kv);
    memory.fill(stale);
  }

  klens::KvView cache() { return klens::kv_view(memory.data(), format, s.kv_heads, s.qk_dim, s.v_dim, capacity); }

  void append(const klens::KernelTable& table, int from, int to) {
    const float* rows = kv.data() + std::int64_t(from) * kv_stride;
    const klens::KvAppendArgs a{cache(), rows, rows + s.kv_heads * s.qk_dim, kv_stride, to - from, from, 0, s.kv_heads};
    table.kv_append(a);
  }

  void attend(const klens::KernelTable& table, int from, int to, Work work = Work::whole) {
    int items = klens::attention_items(s.heads, s.kv_heads, to - from);
    klens::AttentionArgs a{.q = q.data() + std::int64_t(from) * q_stride, .q_stride = q_stride, .cache = cache(),
                           .heads = s.heads, .window = s.window, .meta = s.meta,
                           .scale = float(1 / std::sqrt(double(s.qk_dim))), .tokens = to - from, .position = from,
                           .out = out.data() + std::int64_t(from) * out_stride, .out_stride = out_stride,
                           .scratch = scratch.data(), .begin = 0, .end = items};
    if (work == Work::whole) return table.attention(a);
    Guarded partial(klens::attention_partial_floats(s.heads, to - from, s.v_dim, to));
    if (work == Work::partitions) {
      partial.fill(NAN);
      a.partial = partial.data(), a.partitions = klens::attention_partitions(to), items *= a.partitions;
    }
    for (int i = items - 1; i >= 0; --i) {
      a.begin = i, a.end = i + 1;
      table.attention(a);
    }
    if (work != Work::partitions) return;
    CHECK(partial.margins_intact());
    const klens::AttentionMergeArgs merge{a.partial, a.partitions, s.heads, s.v_dim, a.out, a.out_stride, 0,
                                          (to - from) * s.heads};
    table.attention_merge(merge);
  }

  /// Tokens [from, to) as one prefill chunk.
  void run(const klens::KernelTable& table, int from, int to, Work work = Work::whole) {
    append(table, from, to);
    attend(table, from, to, work);
  }

  double original_k(int g, int t, int d) const { return kv[std::int64_t(t) * kv_stride + g * s.qk_dim + d]; }
  double original_v(int g, int t, int c) const {
    return kv[std::int64_t(t) * kv_stride + s.kv_heads * s.qk_dim + g * s.v_dim + c];
  }
  oracle::KvNumber stored_k(int g, int t, int d) {
    const klens::KvView view = cache();
    return oracle::kv_k(view.k, view.k_scale, klens::bits_of(format), capacity, s.qk_dim, g, t, d);
  }
  oracle::KvNumber stored_v(int g, int t, int c) {
    const klens::KvView view = cache();
    return oracle::kv_v(view.v, view.v_scale, klens::bits_of(format), capacity, s.v_dim, g, t, c);
  }
  /// What rounding to the format may do to a number: half a step, or half an ulp of f16.
  double rounding(double x, double step) const {
    if (format == State::f16) return std::max(std::abs(x) * 0x1p-11, 0x1p-25);
    return format == State::f32 ? 0 : step / 2 * (1 + 1e-6);
  }

  /// Every number of the cache within its rounding.
  fixture::Judge compare_cache() {
    fixture::Judge judge;
    for (int g = 0; g < s.kv_heads; ++g)
      for (int t = 0; t < s.tokens; ++t) {
        for (int d = 0; d < s.qk_dim; ++d) {
          const auto [value, step] = stored_k(g, t, d);
          judge(value, original_k(g, t, d), rounding(original_k(g, t, d), step));
        }
        for (int c = 0; c < s.v_dim; ++c) {
          const auto [value, step] = stored_v(g, t, c);
          judge(value, original_v(g, t, c), rounding(original_v(g, t, c), step));
        }
      }
    return judge;
  }

  /// Outputs of queries from `from` on against attention over the numbers of the cache.
  fixture::Judge compare(int from = 0, double k_error = 0) {
    fixture::Judge judge;
    for (int h = 0; h < s.heads; ++h) {
      const int g = h / (s.heads / s.kv_heads);
      oracle::Matrix k(s.tokens, s.qk_dim), v(s.tokens, s.v_dim);
      double largest = 0;
      for (int t = 0; t < s.tokens; ++t) {
        for (int d = 0; d < s.qk_dim; ++d) k(t, d) = stored_k(g, t, d).value;
        for (int c = 0; c < s.v_dim; ++c) largest = std::max(largest, std::abs(v(t, c) = stored_v(g, t, c).value));
      }
      k(0, 0) += k_error;
      for (int i = from; i < s.tokens; ++i) {
        const auto query = fixture::doubles(q.data() + std::int64_t(i) * q_stride + h * s.qk_dim, s.qk_dim);
        const auto want = oracle::attention(query, k, v, i, s.window, s.meta, 1 / std::sqrt(double(s.qk_dim)));
        for (int c = 0; c < s.v_dim; ++c)
          judge(out[std::int64_t(i) * out_stride + h * s.v_dim + c], want[std::size_t(c)], 1e-5 * largest);
      }
    }
    return judge;
  }

  /// The same against the numbers that went in. Scores are off by at most e = scale max_j |q| . rounding of k[j], hence
  /// weights by a factor in exp(+-2 e), and outputs by (exp(2 e) - 1) max |v| and the rounding of v.
  fixture::Judge compare_original(int from = 0, double v_error = 0) {
    fixture::Judge judge;
    for (int h = 0; h < s.heads; ++h) {
      const int g = h / (s.heads / s.kv_heads);
      oracle::Matrix k(s.tokens, s.qk_dim), v(s.tokens, s.v_dim), k_rounding(s.tokens, s.qk_dim);
      std::vector<double> v_rounding(std::size_t(s.v_dim), 0.0);
      double largest = 0;
      for (int t = 0; t < s.tokens; ++t) {
        for (int d = 0; d < s.qk_dim; ++d) {
          k(t, d) = original_k(g, t, d);
          k_rounding(t, d) = rounding(k(t, d), stored_k(g, t, d).step);
        }
        for (int c = 0; c < s.v_dim; ++c) {
          v(t, c) = original_v(g, t, c);
          largest = std::max(largest, std::abs(v(t, c)));
          double& most = v_rounding[std::size_t(c)];
          most = std::max(most, rounding(v(t, c), stored_v(g, t, c).step));
        }
      }
      for (double& x : v.v) x += v_error;
      for (int i = from; i < s.tokens; ++i) {
        const auto query = fixture::doubles(q.data() + std::int64_t(i) * q_stride + h * s.qk_dim, s.qk_dim);
        double e = 0;
        for (int j = 0; j <= i; ++j) {
          double sum = 0;
          for (int d = 0; d < s.qk_dim; ++d) sum += std::abs(query[std::size_t(d)]) * k_rounding(j, d);
          e = std::max(e, sum / std::sqrt(double(s.qk_dim)));
        }
        const auto want = oracle::attention(query, k, v, i, s.window, s.meta, 1 / std::sqrt(double(s.qk_dim)));
        for (int c = 0; c < s.v_dim; ++c)
          judge(out[std::int64_t(i) * out_stride + h * s.v_dim + c], want[std::size_t(c)],
                std::expm1(2 * e) * largest + v_rounding[std::size_t(c)] + 1e-5 * largest);
      }
    }
    return judge;
  }
};

// Grouped 1 to 8 and beyond (16 heads to one are two work items), odd sizes, windows over the edges of partitions.
constexpr Shape shapes[] = {
    {1, 1, 16, 16, 0, 0, 1},     {2, 1, 64, 64, 0, 0, 40},    {6, 2, 32, 64, 0, 0, 37},   {6, 2, 32, 64, 13, 4, 70},
    {5, 1, 64, 128, 32, 16, 90}, {3, 3, 6, 10, 7, 0, 50},     {2, 2, 10, 17, 1, 3, 35},   {2, 1, 33, 100, 5, 40, 60},
    {2, 1, 64, 128, 16, 16, 65}, {1, 1, 8, 144, 0, 9, 21},    {2, 1, 16, 16, 100, 8, 70}, {1, 1, 16, 16, 3, 200, 50},
    {4, 1, 36, 40, 0, 0, 33},    {7, 1, 20, 33, 9, 2, 45},    {8, 1, 64, 64, 0, 0, 25},   {16, 1, 16, 48, 20, 1, 37},
    {6, 1, 7, 5, 0, 0, 19},      {3, 1, 24, 72, 250, 5, 300}, {5, 1, 16, 32, 0, 0, 530},  {2, 2, 16, 16, 30, 260, 600},
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

TEST_CASE("kv: bytes of a layer") {
  // 2 heads, 32 positions, 64 + 128 columns; scales of s4: 2 + 4 groups.
  CHECK(klens::kv_bytes_per_layer(State::f32, 2, 64, 128, 32) == 2 * 32 * 192 * 4);
  CHECK(klens::kv_bytes_per_layer(State::f16, 2, 64, 128, 32) == 2 * 32 * 192 * 2);
  CHECK(klens::kv_bytes_per_layer(State::s8, 2, 64, 128, 32) == 2 * 32 * (192 + 2 * 2));
  CHECK(klens::kv_bytes_per_layer(State::s4, 2, 64, 128, 32) == 2 * 32 * (96 + 6 * 2));
  CHECK(klens::kv_bytes_per_layer(State::s4, 1, 5, 17, 16) == 16 * (6 / 2 + 32 / 2) + 16 + 64 + 64);  // ends of 64
}

TEST_CASE("kv: codes by hand; zero rows, numbers that are not, and f16 beyond its range") {
  AttentionCase c({1, 1, 2, 2, 0, 0, 4}, State::s8);
  const float rows[4][4] = {{127, -63.5f, 254, 3}, {0, 0, 0, 0}, {NAN, 1, -1e-44f, 0}, {1e30f, -1e30f, 5e-30f, 0}};
  for (int t = 0; t < 4; ++t)
    for (int i = 0; i < 4; ++i) c.kv[t * c.kv_stride + i] = rows[t][i];
  for (const State format : {State::s8, State::s4}) {
    AttentionCase x({1, 1, 2, 2, 0, 0, 4}, format);
    std::copy(c.kv.data(), c.kv.data() + c.kv.size(), x.kv.data());
    x.append(fixture::active(), 0, 4);
    const double top = format == State::s8 ? 127 : 7;
    CHECK(x.stored_k(0, 0, 0).value == doctest::Approx(127).epsilon(0.005));
    CHECK(x.stored_k(0, 0, 1).value / x.stored_k(0, 0, 1).step == -std::nearbyint(top / 2));  // ties to even: -64, -4
    CHECK(x.stored_v(0, 0, 0).value == doctest::Approx(254).epsilon(0.005));
    for (int i = 0; i < 2; ++i) {
      CHECK(x.stored_k(0, 1, i).value == 0);
      CHECK(x.stored_k(0, 1, i).step == 0);
      CHECK(x.stored_v(0, 2, i).value == 0);
    }
    CHECK(x.stored_k(0, 2, 0).value == 0);  // NaN
    CHECK(x.stored_k(0, 2, 1).value == doctest::Approx(1).epsilon(0.005));
    CHECK(x.stored_k(0, 3, 1).value == doctest::Approx(-1e30).epsilon(0.005));
  }
  AttentionCase h({1, 1, 2, 2, 0, 0, 1}, State::f16);
  h.kv[0] = 1e6f, h.kv[1] = -INFINITY, h.kv[2] = 65519.0f, h.kv[3] = 1e-9f;
  h.append(fixture::active(), 0, 1);
  CHECK(h.stored_k(0, 0, 0).value == 65504);
  CHECK(h.stored_k(0, 0, 1).value == -65504);
  CHECK(h.stored_v(0, 0, 0).value == 65504);
  CHECK(h.stored_v(0, 0, 1).value == 0);
}

TEST_CASE("attention: within 1e-5 of the largest value, only its own columns written") {
  for (const State format : formats) {
    for (const Shape& s : shapes) {
      CAPTURE(klens::name_of(format));
      CAPTURE(s.heads);
      CAPTURE(s.qk_dim);
      CAPTURE(s.v_dim);
      CAPTURE(s.window);
      CAPTURE(s.meta);
      AttentionCase c(s, format);
      c.run(fixture::active(), 0, s.tokens);
      const int from = std::max(0, s.tokens - 100);
      const fixture::Judge judge = c.compare(from);
      CAPTURE(judge.worst);
      CHECK(judge.wrong == 0);
      if (s.tokens > 1 && (from == 0 || s.meta > 0 || s.window == 0)) CHECK(c.compare(from, 1.0).wrong > 0);
      CHECK(c.out.margins_intact());
      CHECK(c.memory.margins_intact());
      CHECK(c.scratch.margins_intact());
      for (int t = 0; t < s.tokens; ++t)
        for (int i = s.heads * s.v_dim; i < c.out_stride; ++i) CHECK(c.out[t * c.out_stride + i] == Guarded::canary);
    }
  }
}

TEST_CASE("attention: rounded K and V: every number within half a step, outputs within the bound of the steps") {
  for (const State format : {State::f16, State::s8, State::s4}) {
    for (const Shape& s : shapes) {
      CAPTURE(klens::name_of(format));
      CAPTURE(s.qk_dim);
      CAPTURE(s.v_dim);
      AttentionCase c(s, format);
      // So that the bound of s4 is no larger than the values.
      for (std::int64_t i = 0; i < c.q.size(); ++i) c.q[i] *= 0.1f;
      c.run(fixture::active(), 0, s.tokens);
      CHECK(c.compare_cache().wrong == 0);
      const int from = std::max(0, s.tokens - 50);
      CHECK(c.compare_original(from).wrong == 0);
      CHECK(c.compare_original(from, 5.0).wrong > 0);
      // One code of one key off by one, or one bit of an f16.
      auto* bytes = static_cast<unsigned char*>(c.cache().k);
      bytes[format == State::f16 ? 1 : 0] ^= 1;
      CHECK(c.compare_cache().wrong == 1);
      bytes[format == State::f16 ? 1 : 0] ^= 1;
      bytes = static_cast<unsigned char*>(c.cache().v);
      bytes[format == State::f16 ? 1 : 0] ^= 1;
      CHECK(c.compare_cache().wrong == 1);
    }
  }
}

TEST_CASE("attention: the same bits for every chunking, order of work, partition, stale cache, and on ref") {
  for (const State format : formats) {
    for (const Shape& s : shapes) {
      CAPTURE(klens::name_of(format));
      CAPTURE(s.heads);
      CAPTURE(s.qk_dim);
      CAPTURE(s.window);
      CAPTURE(s.meta);
      AttentionCase whole(s, format), reference(s, format);
      whole.run(fixture::active(), 0, s.tokens);
      reference.run(fixture::reference(), 0, s.tokens);
      CHECK(fixture::same_bits(whole.out, reference.out));
      CHECK(fixture::same_bits(whole.memory, reference.memory));
      for (int chunk : {1, 3, 8, 17}) {
        CAPTURE(chunk);
        AttentionCase c(s, format, 1, chunk == 3 ? NAN : -1e30f);  // what the cache held before must not matter
        const Work work = chunk == 17 ? Work::backwards : chunk == 8 || chunk == 1 ? Work::partitions : Work::whole;
        int t = s.tokens > 256 && chunk < 8 ? s.tokens - 50 : 0;
        if (t > 0) c.run(fixture::active(), 0, t);
        for (; t < s.tokens; t += chunk) c.run(fixture::active(), t, std::min(s.tokens, t + chunk), work);
        CHECK(fixture::same_bits(whole.out, c.out));
      }
      AttentionCase wrong(s, format);
      wrong.kv[s.kv_heads * s.qk_dim] += 3;  // V of the first token
      wrong.run(fixture::active(), 0, s.tokens);
      CHECK(!fixture::same_bits(whole.out, wrong.out));
    }
  }
}

TEST_CASE("attention: 20 000 positions, the last query, global and over a window with meta tokens") {
  for (const Shape& s : {Shape{4, 1, 32, 32, 0, 0, 20000}, Shape{2, 2, 16, 24, 4096, 700, 20000}}) {
    AttentionCase c(s);
    c.append(fixture::active(), 0, s.tokens);
    c.attend(fixture::active(), s.tokens - 1, s.tokens);
    const fixture::Judge judge = c.compare(s.tokens - 1);
    CAPTURE(judge.worst);
    CHECK(judge.wrong == 0);
    CHECK(judge.worst < 0.1);
    CHECK(c.compare(s.tokens - 1, 1e3).wrong > 0);
    const std::vector<float> out(c.out.data(), c.out.data() + c.out.size());
    c.attend(fixture::active(), s.tokens - 1, s.tokens, Work::partitions);
    CHECK(std::memcmp(out.data(), c.out.data(), out.size() * sizeof(float)) == 0);
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

TEST_CASE("attention: huge scores do not overflow, within a partition or between them") {
  for (const int tokens : {33, 300}) {
    AttentionCase c({1, 1, 16, 16, 0, 0, tokens});
    for (std::int64_t i = 0; i < c.q.size(); ++i) c.q[i] *= 1e4f;
    c.run(fixture::active(), 0, tokens);
    for (int t = 0; t < tokens; ++t)
      for (int d = 0; d < 16; ++d) CHECK(std::isfinite(c.out[t * c.out_stride + d]));
  }
}

TEST_CASE("attention: a number that is none, in the future, does not reach the past") {
  for (const State format : formats) {
    AttentionCase clean({3, 1, 16, 16, 40, 4, 60}, format), poisoned({3, 1, 16, 16, 40, 4, 60}, format);
    for (int i = 0; i < 32; ++i) poisoned.kv[50 * poisoned.kv_stride + i] = NAN;
    clean.run(fixture::active(), 0, 60);
    poisoned.run(fixture::active(), 0, 60);
    for (int t = 0; t < 50; ++t)
      for (int i = 0; i < 48; ++i)
        CHECK(clean.out[t * clean.out_stride + i] == poisoned.out[t * poisoned.out_stride + i]);
  }
}
