// kernel/softmax.hpp against long double; rows sum to 1; ties, masks, temperatures; splits and the bits of ref.
#include <klens/core/denormals.hpp>

#include "kernel/fixture.hpp"
#include "oracle/sequence.hpp"

namespace {

using fixture::Guarded;

struct Rows {
  int vocab, stride, tokens = 3;
  Guarded z, log_p, p;
  std::vector<std::int32_t> targets;
  std::vector<klens::RowStats> stats;
  Rows(int v, double deviation)
      : vocab(v), stride(int(klens::round_up(v, 16)) + 16), z(3 * stride), log_p(3 * stride), p(3 * stride),
        targets{0, v / 2, -1}, stats(3) {
    fixture::Random random{unsigned(v)};
    random.fill(z, deviation);
  }
  void run(const klens::KernelTable& table, float temperature, int begin = 0, int end = 3) {
    const klens::FlushDenormals flush;
    table.softmax({z.data(), stride, vocab, temperature, targets.data(), stats.data(), log_p.data(), p.data(), stride,
        begin, end});
  }
};

bool same(const Rows& a, const Rows& b) {
  return fixture::same_bits(a.log_p, b.log_p) && fixture::same_bits(a.p, b.p) &&
         std::memcmp(a.stats.data(), b.stats.data(), a.stats.size() * sizeof(klens::RowStats)) == 0;
}

}  // namespace

TEST_CASE("oracle: log_sum_exp by hand") {
  const float z[2] = {0, 1};
  CHECK(double(oracle::log_sum_exp(z, 2)) == doctest::Approx(1.3132616875182228));
}

TEST_CASE("softmax: statistics and rows against long double, padding, the bits of ref and of any split") {
  for (const int vocab : {1, 15, 16, 17, 255, 256, 257, 5003})
    for (const float temperature : {1.0f, 0.7f, 2.5f})
      for (const double deviation : {0.5, 20.0}) {
        CAPTURE(vocab);
        CAPTURE(temperature);
        CAPTURE(deviation);
        Rows r(vocab, deviation);
        r.run(fixture::active(), temperature);
        fixture::Judge sums, rows, tripwire;
        int wrong = 0;
        for (int t = 0; t < r.tokens; ++t) {
          const float* z = r.z.data() + t * r.stride;
          long double total = 0, top = *std::max_element(z, z + vocab);
          const long double temp = temperature;
          for (int i = 0; i < vocab; ++i) total += expl((z[i] - top) / temp);
          const double log_sum = double(top / temp + logl(total)), size = std::abs(double(top)) / temperature;
          const auto& s = r.stats[std::size_t(t)];
          sums(s.log_sum, log_sum, 1e-6 + 0x1p-23 * size);
          wrong += s.top != float(top) || z[s.argmax] != float(top);
          const int target = r.targets[std::size_t(t)];
          const double distance = target < 0 ? 0 : double((top - z[target]) / temp);
          sums(s.nll, target < 0 ? 0.0 : double(distance + logl(total)), 1e-6 + 0x1p-23 * distance);
          tripwire(s.log_sum, log_sum + 1e-4, 1e-6 + 0x1p-23 * size);
          double one = 0;
          for (int i = 0; i < vocab; ++i) {
            const double x = double((z[i] - top) / temp), p = std::exp(x) / double(total);
            const double bound = 0x1p-22 * (1 + std::abs(x));
            rows(r.log_p[t * r.stride + i], x - double(logl(total)), bound + 0x1p-22 * std::abs(double(logl(total))));
            rows(r.p[t * r.stride + i], p, bound * p + 0x1p-125);   // below exp(-87): 0
            tripwire(r.p[t * r.stride + i], p * (1 + 1e-4), bound * p);
            one += double(r.p[t * r.stride + i]);
          }
          rows(one, 1, 0x1p-21);
          for (int i = vocab; i < klens::round_up(vocab, 16); ++i)
            wrong += r.p[t * r.stride + i] != 0 || r.log_p[t * r.stride + i] != -INFINITY;
        }
        CHECK(sums.wrong == 0);
        CHECK(rows.wrong == 0);
        CHECK(tripwire.wrong > 0);
        CHECK(wrong == 0);
        CHECK(r.p.margins_intact());
        Rows ref(vocab, deviation), split(vocab, deviation);
        ref.run(fixture::reference(), temperature);
        CHECK(same(r, ref));
        for (int t = 2; t >= 0; --t) split.run(fixture::active(), temperature, t, t + 1);
        CHECK(same(r, split));
        split.z[0] += 1.0f;
        split.run(fixture::active(), temperature);
        CHECK((vocab == 1 || !same(r, split)));
      }
}

TEST_CASE("softmax: lowest id among equals, masked logits have p 0, in place") {
  Rows r(600, 1.0);
  for (const int i : {3, 299, 300, 590}) r.z[i] = 9.0f;
  for (const int i : {0, 16, 599}) r.z[i] = -INFINITY;
  r.targets[0] = 7;
  r.run(fixture::active(), 1.0f);
  CHECK(r.stats[0].argmax == 3);
  CHECK(r.stats[0].top == 9.0f);
  CHECK(r.p[0] == 0.0f);
  CHECK(r.p[599] == 0.0f);
  CHECK(r.log_p[16] == -INFINITY);
  CHECK(std::isfinite(r.stats[0].log_sum));
  const Guarded p = [&] {
    Guarded copy(r.p.size());
    for (std::int64_t i = 0; i < copy.size(); ++i) copy[i] = r.p[i];
    return copy;
  }();
  klens::SoftmaxArgs a;
  a.z = r.z.data(), a.stride = r.stride, a.vocab = 600, a.p = r.z.data(), a.y_stride = r.stride, a.begin = 0, a.end = 3;
  fixture::active().softmax(a);
  for (int t = 0; t < 3; ++t) CHECK(std::memcmp(r.z.data() + t * r.stride, p.data() + t * r.stride, 600 * 4) == 0);
}
