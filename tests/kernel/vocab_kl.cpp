// kernel/vocab_kl.hpp against long double of the same fp32 logits: KL from 1e-13 to 80 nat both ways, never negative,
// exactly 0 for equal rows; the other statistics; splits and levels bit for bit.
#include "kernel/fixture.hpp"
#include "oracle/sequence.hpp"

namespace {

using fixture::Guarded;

/// Rows of logits and a perturbed copy.
struct Pair {
  int tokens, vocab, stride;
  Guarded zp, zq;
  std::vector<std::int32_t> targets;
  std::vector<klens::TokenStats> out;
  Pair(int t, int v) : tokens(t), vocab(v), stride(int(klens::round_up(v, 16))), zp(std::int64_t(t) * stride),
      zq(std::int64_t(t) * stride), targets(std::size_t(t), -1), out(std::size_t(t)) {}
  klens::VocabKlArgs args() { return {zp.data(), zq.data(), stride, vocab, targets.data(), out.data(), 0, tokens}; }
};

/// Logits of deviation 3 around -2, one of them raised by `peak`; q differs by `noise` (deviation) and `offset`.
Pair make(int tokens, int vocab, double noise, double peak, double offset, unsigned seed) {
  Pair p(tokens, vocab);
  fixture::Random random(seed);
  for (int t = 0; t < tokens; ++t) {
    for (int i = 0; i < vocab; ++i) p.zp[std::int64_t(t) * p.stride + i] = float(-2 + 3 * random.normal());
    p.zp[std::int64_t(t) * p.stride + random.integer(0, vocab - 1)] += float(peak);
    for (std::int64_t i = std::int64_t(t) * p.stride, end = i + vocab; i < end; ++i)
      p.zq[i] = float(double(p.zp[i]) + noise * random.normal() + offset);
    p.targets[std::size_t(t)] = random.integer(0, vocab - 1);
  }
  return p;
}

struct Verdict {
  fixture::Judge kl, nll, squares;
  double smallest = 1e300, largest = 0, worst_relative = 0;
};

/// |error| <= 1e-15 + relative * KL; the sums to 1e-6, the NLL to 1e-6 absolute. `corrupt` changes one logit of the
/// oracle.
Verdict judge(Pair& p, double relative, float corrupt = 0) {
  Verdict v;
  for (int t = 0; t < p.tokens; ++t) {
    float* zp = p.zp.data() + std::int64_t(t) * p.stride;
    const float* zq = p.zq.data() + std::int64_t(t) * p.stride;
    const klens::TokenStats& got = p.out[std::size_t(t)];
    zp[got.top_p] += corrupt;
    const oracle::RowStats want = oracle::row_stats(zp, zq, p.vocab);
    zp[got.top_p] -= corrupt;
    v.kl(got.kl_pq, double(want.kl_pq), 1e-15 + relative * double(want.kl_pq));
    v.kl(got.kl_qp, double(want.kl_qp), 1e-15 + relative * double(want.kl_qp));
    if (!(got.kl_pq >= 0) || !(got.kl_qp >= 0)) ++v.kl.wrong;
    v.smallest = std::min(v.smallest, double(want.kl_pq));
    v.largest = std::max(v.largest, double(want.kl_pq));
    if (want.kl_pq > 0) v.worst_relative = std::max(v.worst_relative,
        double(fabsl(got.kl_pq - want.kl_pq) / want.kl_pq));
    if (want.kl_qp > 0) v.worst_relative = std::max(v.worst_relative,
        double(fabsl(got.kl_qp - want.kl_qp) / want.kl_qp));
    v.squares(got.sum_z2, double(want.sum_z2), 1e-6 * double(want.sum_z2));
    v.squares(got.sum_d2, double(want.sum_d2), 1e-6 * double(want.sum_d2));
    v.squares(got.sum_zc2, double(want.sum_zc2), 1e-6 * double(want.sum_zc2));
    v.squares(got.sum_dc2, double(want.sum_dc2), 1e-6 * double(want.sum_dc2));
    if (got.top_p != want.top_p || got.top_q != want.top_q) ++v.squares.wrong;
    const int target = p.targets[std::size_t(t)];
    const double nll_p = target < 0 ? 0 : double(want.lse_p - zp[target]),
        nll_q = target < 0 ? 0 : double(want.lse_q - zq[target]);
    v.nll(got.nll_p, nll_p, 1e-6);
    v.nll(got.nll_q, nll_q, 1e-6);
  }
  return v;
}

}  // namespace

TEST_CASE("oracle: row_stats by hand") {
  // p = (1/2, 1/2), q = (1/4, 3/4): KL(p||q) = ln 2 - 1/2 ln 3 = 0.143841..., KL(q||p) = ln 2 - H(q) = 0.130812...
  const float zp[2] = {1, 1}, zq[2] = {0, std::log(3.0f)};
  const oracle::RowStats r = oracle::row_stats(zp, zq, 2);
  CHECK(double(r.kl_pq) == doctest::Approx(0.1438410362).epsilon(1e-6));
  CHECK(double(r.kl_qp) == doctest::Approx(0.1308120359).epsilon(1e-6));
  CHECK(double(r.lse_p) == doctest::Approx(1 + std::log(2.0)));
  CHECK(r.top_p == 0);
  CHECK(r.top_q == 1);
}

TEST_CASE("vocab_kl: KL from 1e-13 to tens of nats keeps its relative accuracy") {
  for (int vocab : {2, 15, 16, 17, 255, 257, 1000, 4096, 32001})
    for (double peak : {0.0, 15.0, 25.0})
      for (double offset : {0.0, 0.3, 9.0})
        for (double noise : {1e-6, 1e-5, 1e-3, 0.05, 0.4, 1.0, 5.0, 30.0}) {
          if (vocab == 32001 && (peak == 15.0 || offset == 0.3)) continue;
          CAPTURE(vocab);
          CAPTURE(peak);
          CAPTURE(offset);
          CAPTURE(noise);
          Pair p = make(3, vocab, noise, peak, offset, unsigned(vocab));
          fixture::active().vocab_kl(p.args());
          const Verdict v = judge(p, 1e-5);
          CAPTURE(v.kl.worst);
          CAPTURE(v.smallest);
          CHECK(v.kl.wrong == 0);
          CHECK(v.nll.wrong == 0);
          CHECK(v.squares.wrong == 0);
        }
}

TEST_CASE("vocab_kl: tiny KLs, and the tripwires of all bounds") {
  double worst = 0, smallest = 1;
  for (double noise : {1.5e-6, 4e-6, 2e-5, 2e-4}) {
    Pair p = make(8, 4096, noise, 4.0, 0.0, 77);
    fixture::active().vocab_kl(p.args());
    const Verdict v = judge(p, 1e-4);
    CHECK(v.kl.wrong == 0);
    worst = std::max(worst, v.worst_relative);
    smallest = std::min(smallest, v.smallest);
    const Verdict tripped = judge(p, 1e-4, 1e-4f);  // one logit of the oracle moved by 1e-4
    CHECK(tripped.kl.wrong > 0);
    CHECK(judge(p, 1e-4, 1e-2f).squares.wrong > 0);
    CHECK(judge(p, 1e-4, 1e-2f).nll.wrong > 0);
  }
  MESSAGE("smallest KL ", smallest, " nat; worst relative error ", worst);
  CHECK(smallest < 2e-12);
}

TEST_CASE("vocab_kl: equal rows give exactly 0, shifted rows next to nothing") {
  for (int vocab : {1, 7, 16, 4096}) {
    Pair p = make(4, vocab, 0.0, 6.0, 0.0, 5);
    auto same = p.args();
    same.zq = same.zp;
    for (const auto& args : {p.args(), same}) {
      fixture::active().vocab_kl(args);
      for (const klens::TokenStats& s : p.out) {
        CHECK(s.kl_pq == 0.0);
        CHECK(s.kl_qp == 0.0);
        CHECK(s.sum_d2 == 0.0);
        CHECK(s.sum_dc2 == 0.0);
        CHECK(s.nll_p == s.nll_q);
        CHECK(s.top_p == s.top_q);
      }
    }
    for (std::int64_t i = 0; i < p.zp.size(); ++i) {  // multiples of 2^-8 below 64, shifted by 8: exact in fp32
      p.zp[i] = std::nearbyint(p.zp[i] * 256.0f) / 256.0f;
      p.zq[i] = p.zp[i] + 8.0f;
    }
    fixture::active().vocab_kl(p.args());
    for (const klens::TokenStats& s : p.out) {
      CHECK(s.kl_pq == 0.0);
      CHECK(s.kl_qp == 0.0);
    }
  }
}

TEST_CASE("vocab_kl: ties go to the lowest id, targets of -1 to 0") {
  Pair p = make(1, 600, 0.1, 0.0, 0.0, 3);
  p.zp[299] = p.zp[300] = p.zp[599] = 50.0f;
  p.zq[17] = p.zq[16] = p.zq[580] = 60.0f;
  p.targets[0] = -1;
  fixture::active().vocab_kl(p.args());
  CHECK(p.out[0].top_p == 299);
  CHECK(p.out[0].top_q == 16);
  CHECK(p.out[0].nll_p == 0.0);
  CHECK(p.out[0].nll_q == 0.0);
  auto args = p.args();
  args.targets = nullptr;
  fixture::active().vocab_kl(args);
  CHECK(p.out[0].nll_p == 0.0);
}

TEST_CASE("vocab_kl: a student that shares nothing with its teacher") {
  Pair p = make(2, 300, 0.0, 0.0, 0.0, 8);
  for (int i = 0; i < 300; ++i) {
    p.zp[i] = i == 5 ? 90.0f : 0.0f;
    p.zq[i] = i == 200 ? 90.0f : 0.0f;
  }
  fixture::active().vocab_kl(p.args());
  CHECK(judge(p, 1e-6).kl.wrong == 0);
  CHECK(p.out[0].kl_pq == doctest::Approx(90.0));
  CHECK(p.out[0].kl_qp == doctest::Approx(90.0));
}

TEST_CASE("vocab_kl: non-finite logits end in NaN, not in a crash") {
  for (float bad : {NAN, INFINITY, -INFINITY}) {
    Pair p = make(1, 100, 0.1, 0.0, 0.0, 8);
    p.zq[40] = bad;
    p.targets[0] = 3;
    fixture::active().vocab_kl(p.args());
    CHECK(!(p.out[0].kl_pq < 1e300));
    CHECK(p.out[0].top_p >= 0);
    CHECK(p.out[0].top_q < 100);
    for (std::int64_t i = 0; i < p.zq.size(); ++i) p.zp[i] = p.zq[i] = bad;
    fixture::active().vocab_kl(p.args());
    CHECK(p.out[0].top_p >= 0);
    CHECK(p.out[0].top_p < 100);
  }
}

TEST_CASE("vocab_kl: the same bits on ref, for any split of the tokens, and whatever lies behind the row") {
  for (int vocab : {100, 1000, 4099})
    for (double noise : {1e-4, 0.5, 20.0}) {
      Pair p = make(7, vocab, noise, 3.0, 0.1, 4);
      Pair q = make(7, vocab, noise, 3.0, 0.1, 4);
      fixture::active().vocab_kl(p.args());
      fixture::reference().vocab_kl(q.args());
      CHECK(std::memcmp(p.out.data(), q.out.data(), p.out.size() * sizeof(klens::TokenStats)) == 0);
      for (int t = 0; t < 7; ++t)
        for (int i = vocab; i < q.stride; ++i) q.zp[std::int64_t(t) * q.stride + i] = NAN;
      for (int t = 6; t >= 0; --t) {
        auto args = q.args();
        args.begin = t, args.end = t + 1;
        fixture::active().vocab_kl(args);
      }
      CHECK(std::memcmp(p.out.data(), q.out.data(), p.out.size() * sizeof(klens::TokenStats)) == 0);
    }
}
