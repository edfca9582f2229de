// Two logit rows compared (kernel/args.hpp, VocabKlArgs): KL both ways, squared errors, NLL, argmax. KL is never < 0.
//
// With D = zp - zq, any constant c, v = D - c, phi(v) = exp(-v) - 1 + v >= 0, d = E_p[v], F = E_p[phi(v)]:
//   KL(p||q) = log E_p[exp(-D)] + E_p[D] = d + log1p(F - d)         exactly, for every c
// and KL(q||p) is the same with p, q exchanged and v negated. phi has full relative accuracy: the series of its even
// and odd part for |v| < 1/2, beyond that p phi(v) = e_p (v - 1) + K e_q with K = exp(max zq - max zp + c), no third
// exponential. c = D at the argmax of p; where d still cancels most of F (KL (1 + F - d) < F / 16) the second pass is
// run again with c + d. Where E_p[exp(-v)] = 1 + F - d is far from 1 it is read off the normalisers instead: log E =
// log K + log(sum e_q / sum e_p).
//
// Pass 1: maxima, argmax, sums of z, D and squares. Pass 2: exponentials and centred squares. 16 fp32 lanes, 256
// logits at a time into double totals, in order: the row is the only thing a bit depends on. Rows are read 2 x 8 bytes
// per logit, the second time from cache. log, exp of scalars: core/det_math.hpp, so that every libm gives the same
// bits. Error against long double of the same fp32 logits: |KL - exact| <= 1e-15 + 1e-5 KL (typically 2e-7 KL),
// exactly 0 for equal rows; NLL 1e-6 absolute. Logits must be finite: others give NaN. Oracle:
// tests/oracle/sequence.hpp, row_stats; tests tests/kernel/vocab_kl.cpp.
#pragma once

#include <klens/core/det_math.hpp>
#include <klens/kernel/args.hpp>
#include <klens/simd/math.hpp>

namespace klens::inline KLENS_NS {
namespace vocab_kl_detail {

inline constexpr int chunk = 256;  // 16 values per lane between additions in double

struct Scan1 {
  double sum_z = 0, sum_d = 0, sum_z2 = 0, sum_d2 = 0;
  float max_p = -__builtin_inff(), max_q = -__builtin_inff();
  int chunk_p = 0, chunk_q = 0;  // where the maxima were first seen
};

/// First index of `value` in the chunk that starts at `begin`; `begin` where there is none (NaN rows).
KLENS_INLINE int index_of(const float* z, int vocab, int begin, float value) {
  const int end = vocab - begin < chunk ? vocab : begin + chunk;
  for (int i = begin; i < end; ++i)
    if (z[i] == value) return i;
  return begin;
}

/// Reads 16 logits, or the n < 16 left with zeros behind them.
KLENS_INLINE v16f read(const float* z, int n) { return n >= lanes ? load(z) : load_n(z, n); }

KLENS_INLINE Scan1 first_pass(const float* zp, const float* zq, int vocab) {
  Scan1 r;
  for (int begin = 0; begin < vocab; begin += chunk) {
    const int end = vocab - begin < chunk ? vocab : begin + chunk;
    v16f sum_z = zero(), sum_d = zero(), sum_z2 = zero(), sum_d2 = zero();
    v16f max_p = splat(-__builtin_inff()), max_q = max_p;
    for (int i = begin; i < end; i += lanes) {
      const v16f p = read(zp + i, end - i), q = read(zq + i, end - i), d = p - q;
      sum_z = sum_z + p;
      sum_d = sum_d + d;
      sum_z2 = fma(p, p, sum_z2);
      sum_d2 = fma(d, d, sum_d2);
      const m16 real = first_n(end - i < lanes ? end - i : lanes);
      max_p = select(real, max(max_p, p), max_p);
      max_q = select(real, max(max_q, q), max_q);
    }
    r.sum_z += double(sum(sum_z));
    r.sum_d += double(sum(sum_d));
    r.sum_z2 += double(sum(sum_z2));
    r.sum_d2 += double(sum(sum_d2));
    const float top_p = max_of(max_p), top_q = max_of(max_q);
    if (top_p > r.max_p) { r.max_p = top_p; r.chunk_p = begin; }  // > : the lowest chunk wins a tie
    if (top_q > r.max_q) { r.max_q = top_q; r.chunk_q = begin; }
  }
  return r;
}

/// Sums over the row: e = exp(z - max), e v, e phi(+-v), and centred squares.
struct Scan2 { double p = 0, q = 0, pv = 0, qv = 0, p_phi = 0, q_phi = 0, zc2 = 0, dc = 0, dc2 = 0; };

struct Centre { float max_p, max_q, c, k, inverse_k, mean_z, mean_d; };

struct Lanes {
  v16f p = zero(), q = zero(), pv = zero(), qv = zero(), p_phi = zero(), q_phi = zero();
  v16f zc2 = zero(), dc = zero(), dc2 = zero();
};

/// One vector of logits; `real` masks the lanes behind the end of the row (whole: none).
template <bool Whole>
KLENS_INLINE void accumulate(Lanes& s, const Centre& at, v16f zp, v16f zq, m16 real) {
  const v16f d = zp - zq, t = d - zp;
  const v16f rest = (zp - (d - t)) - (zq + t);  // zp - zq = d + rest exactly (two_sum)
  v16f v = (d - splat(at.c)) + rest, zc = zp - splat(at.mean_z), dc = (d - splat(at.mean_d)) + rest;
  v16f ep = exp_below_88(zp - splat(at.max_p)), eq = exp_below_88(zq - splat(at.max_q));
  if constexpr (!Whole) {
    v = select(real, v, zero());
    zc = select(real, zc, zero());
    dc = select(real, dc, zero());
    ep = select(real, ep, zero());
    eq = select(real, eq, zero());
  }
  s.p = s.p + ep;
  s.q = s.q + eq;
  s.pv = fma(ep, v, s.pv);
  s.qv = fma(eq, v, s.qv);
  const v16f u = v * v;  // |v| < 1/2: the first terms left out are u^4/40320 and v u^4/362880, below 8e-7 of u/2
  const v16f even = u * fma(u, fma(u, splat(1.0f / 720.0f), splat(1.0f / 24.0f)), splat(0.5f));
  const v16f odd = (v * u) * fma(u, fma(u, splat(1.0f / 5040.0f), splat(1.0f / 120.0f)), splat(1.0f / 6.0f));
  const m16 small = lt(abs(v), splat(0.5f));
  const v16f far_p = fma(splat(at.k), eq, ep * (v - splat(1.0f)));
  const v16f far_q = fms(splat(at.inverse_k), ep, eq * (v + splat(1.0f)));
  s.p_phi = s.p_phi + select(small, ep * (even - odd), far_p);
  s.q_phi = s.q_phi + select(small, eq * (even + odd), far_q);
  s.zc2 = fma(zc, zc, s.zc2);
  s.dc = s.dc + dc;
  s.dc2 = fma(dc, dc, s.dc2);
}

KLENS_NOINLINE inline Scan2 second_pass(const float* zp, const float* zq, int vocab, const Centre& at) {
  Scan2 r;
  for (int begin = 0; begin < vocab; begin += chunk) {
    const int end = vocab - begin < chunk ? vocab : begin + chunk;
    Lanes s;
    int i = begin;
    for (; i + lanes <= end; i += lanes) accumulate<true>(s, at, load(zp + i), load(zq + i), m16{});
    if (i < end) accumulate<false>(s, at, load_n(zp + i, end - i), load_n(zq + i, end - i), first_n(end - i));
    r.p += double(sum(s.p));
    r.q += double(sum(s.q));
    r.pv += double(sum(s.pv));
    r.qv += double(sum(s.qv));
    r.p_phi += double(sum(s.p_phi));
    r.q_phi += double(sum(s.q_phi));
    r.zc2 += double(sum(s.zc2));
    r.dc += double(sum(s.dc));
    r.dc2 += double(sum(s.dc2));
  }
  return r;
}

/// log E_p[exp(-v)] from the normalisers: log K + log(sum e_q / sum e_p); for q and -v its negative.
KLENS_INLINE double log_mean(const Scan2& two, double log_k) { return log_k + (det::log(two.q) - det::log(two.p)); }

/// KL of one direction, and whether a better centre would improve it.
struct Divergence { double kl, d; bool recentre; };

KLENS_INLINE Divergence divergence(double weight, double weight_v, double weight_phi, double log_mean) {
  const double d = weight_v / weight, f = weight_phi / weight, rest = f - d;  // E[exp(-v)] - 1
  if (rest > -0.5 && rest < 1.0) {
    const double kl = d + det::log1p(rest);
    return {kl < 0 ? 0 : kl, d, kl * (1 + rest) < f * 0.0625};  // an error of F counts for 1 / (1 + F - d) of itself
  }
  // far apart, or badly centred: KL is read off the normalisers, to about 1e-7 absolute
  const double kl = d + log_mean;
  return {kl < 0 ? 0 : kl, d, kl < 0.5};
}

/// Largest |log K| for which K e stays far from overflow and clamped exponentials (1e-38 each) far from mattering;
/// beyond it K = infinity, phi is of no use and `divergence` takes the normalisers.
inline constexpr double log_k_limit = 20;

KLENS_INLINE double log_k_of(const Scan1& one, float c) { return double(one.max_q) - double(one.max_p) + double(c); }

KLENS_INLINE Centre centre_at(const Scan1& one, int vocab, float c) {
  const double log_k = log_k_of(one, c);
  const bool near = log_k <= log_k_limit && log_k >= -log_k_limit;
  return {one.max_p, one.max_q, c, near ? float(det::exp(log_k)) : __builtin_inff(),
      near ? float(det::exp(-log_k)) : __builtin_inff(),
          float(one.sum_z / vocab), float(one.sum_d / vocab)};
}

/// Both directions from one second pass.
struct Both { Divergence pq, qp; };

KLENS_INLINE Both divergences(const Scan2& two, double log_k) {
  const double mean = log_mean(two, log_k);
  return {divergence(two.p, two.pv, two.p_phi, mean), divergence(two.q, -two.qv, two.q_phi, -mean)};
}

/// Both directions with the centre at c.
KLENS_INLINE Both divergences_at(const float* zp, const float* zq, int vocab, const Scan1& one, float c) {
  return divergences(second_pass(zp, zq, vocab, centre_at(one, vocab, c)), log_k_of(one, c));
}

KLENS_INLINE TokenStats compare(const float* zp, const float* zq, int vocab, int target) {
  TokenStats r{};
  const Scan1 one = first_pass(zp, zq, vocab);
  r.top_p = index_of(zp, vocab, one.chunk_p, one.max_p);
  r.top_q = index_of(zq, vocab, one.chunk_q, one.max_q);
  r.sum_z2 = one.sum_z2;
  r.sum_d2 = one.sum_d2;

  const float c = zp[r.top_p] - zq[r.top_p];
  const Scan2 two = second_pass(zp, zq, vocab, centre_at(one, vocab, c));
  r.sum_zc2 = two.zc2;
  // the fp32 mean is off by 2^-24 of itself: matters beside a large offset
  r.sum_dc2 = two.dc2 - two.dc * two.dc / vocab;
  if (r.sum_dc2 < 0) r.sum_dc2 = 0;
  const Both both = divergences(two, log_k_of(one, c));
  r.kl_pq = both.pq.kl;
  r.kl_qp = both.qp.kl;
  if (both.pq.recentre) r.kl_pq = divergences_at(zp, zq, vocab, one, float(double(c) + both.pq.d)).pq.kl;
  if (both.qp.recentre) r.kl_qp = divergences_at(zp, zq, vocab, one, float(double(c) - both.qp.d)).qp.kl;
  if (target >= 0) {
    KLENS_ASSERT(target < vocab);
    r.nll_p = (double(one.max_p) - double(zp[target])) + det::log(two.p);
    r.nll_q = (double(one.max_q) - double(zq[target])) + det::log(two.q);
  }
  return r;
}

}  // namespace vocab_kl_detail

inline void vocab_kl(const VocabKlArgs& a) {
  for (int t = a.begin; t < a.end; ++t)
    a.out[t] = vocab_kl_detail::compare(a.zp + t * a.stride, a.zq + t * a.stride, a.vocab,
        a.targets != nullptr ? a.targets[t] : -1);
}

}  // namespace klens::inline KLENS_NS
