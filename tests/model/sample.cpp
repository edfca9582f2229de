// The sampler against a sorted list in float64, draw by draw and by frequency; and where a text ends.
#include <klens/model/sample.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <numeric>
#include <set>
#include <string>
#include <vector>

using namespace klens;

namespace {

struct Candidate {
  std::int32_t id;
  double p;
};

/// Probabilities of what may be drawn, likeliest first: sort everything, then cut as the documented order says.
std::vector<Candidate> candidates(std::vector<float> z, const std::vector<std::int32_t>& sequence,
                                  const SamplingOptions& o) {
  const std::size_t window = o.repetition_window > 0 ? std::size_t(o.repetition_window) : sequence.size();
  std::set<std::int32_t> repeated;
  for (std::size_t i = sequence.size() > window ? sequence.size() - window : 0; i < sequence.size(); ++i)
    repeated.insert(sequence[i]);
  for (const std::int32_t id : repeated)
    z[std::size_t(id)] =
        z[std::size_t(id)] > 0 ? z[std::size_t(id)] / o.repetition_penalty : z[std::size_t(id)] * o.repetition_penalty;
  std::vector<std::int32_t> order(z.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](std::int32_t a, std::int32_t b) { return z[std::size_t(a)] > z[std::size_t(b)]; });
  std::vector<Candidate> list;
  for (const std::int32_t id : order)
    list.push_back(
        {id, std::exp((double(z[std::size_t(id)]) - double(z[std::size_t(order[0])])) / double(o.temperature))});
  const auto normalise = [&list] {
    double sum = 0;
    for (const Candidate& c : list) sum += c.p;
    for (Candidate& c : list) c.p /= sum;
  };
  if (o.top_k > 0 && std::size_t(o.top_k) < list.size()) list.resize(std::size_t(o.top_k));
  normalise();
  if (o.top_p < 1) {
    double mass = 0;
    std::size_t n = 0;
    while (n < list.size() && mass < double(o.top_p)) mass += list[n++].p;
    list.resize(std::max<std::size_t>(n, 1));
  }
  const double least = double(o.min_p) * list[0].p;
  while (list.size() > 1 && list.back().p < least) list.pop_back();
  normalise();
  return list;
}

std::vector<float> some_logits(std::size_t count, std::uint64_t seed) {
  std::vector<float> z(count);
  for (std::size_t i = 0; i < count; ++i) z[i] = float(12 * unit_interval(random_at(seed, i)) - 6);
  if (count > 8) z[7] = z[3], z[8] = z[3];  // equals
  return z;
}

const std::vector<SamplingOptions>& settings() {
  static const std::vector<SamplingOptions> all = {
      {.temperature = 1},
      {.temperature = 0.7f, .top_k = 5},
      {.temperature = 1.3f, .top_p = 0.8f},
      {.temperature = 1, .top_k = 10, .top_p = 0.5f},
      {.temperature = 2, .min_p = 0.05f},
      {.temperature = 1.5f, .top_k = 30, .top_p = 0.95f, .min_p = 0.02f},
      {.temperature = 1, .top_p = 0},
      {.temperature = 1, .min_p = 1},
      {.temperature = 0.9f, .repetition_penalty = 1.8f, .repetition_window = 2},
      {.temperature = 0.9f, .top_p = 0.9f, .repetition_penalty = 0.5f, .repetition_window = 0},
      {.temperature = 1, .top_k = 1000},
      {.temperature = 0.001f},
  };
  return all;
}

}  // namespace

TEST_CASE("every draw is the one that the sorted list gives, and lies within its cuts") {
  const std::vector<std::int32_t> history = {3, 1, 4, 1, 5, 9, 2, 6};
  int draws = 0;
  for (const SamplingOptions& base : settings())
    for (std::uint64_t seed = 0; seed < 40; ++seed) {
      SamplingOptions o = base;
      o.seed = seed;
      const std::vector<float> z = some_logits(60, 1000 + seed);
      std::vector<std::int32_t> sequence = history;
      sequence.resize(std::size_t(1 + seed % 8));
      const std::vector<Candidate> list = candidates(z, sequence, o);
      const std::int32_t got = Sampler(o).next(z, sequence);
      double u = unit_interval(random_at(seed, sequence.size()));
      std::size_t i = 0;
      while (i + 1 < list.size() && u >= list[i].p) u -= list[i++].p;
      // Within rounding of a border between two candidates (1e-12 of 40 * 12 draws: never) either would be right.
      REQUIRE((u > 1e-12 || i == 0));
      CHECK(got == list[i].id);
      ++draws;
    }
  CHECK(draws == 480);
}

TEST_CASE("frequencies are the probabilities") {
  const std::vector<float> z = some_logits(12, 5);
  const SamplingOptions o{.temperature = 3, .top_k = 9, .top_p = 0.97f, .seed = 99, .min_p = 0.02f};
  const std::vector<Candidate> list = candidates(z, {}, o);
  REQUIRE(list.size() > 3);
  const auto chi_square = [&](double skew) {
    constexpr int n = 20000;
    std::vector<int> count(z.size());
    Sampler sampler(o);
    std::vector<std::int32_t> sequence;
    sequence.reserve(n);
    for (int i = 0; i < n; ++i) {
      ++count[std::size_t(sampler.next(z, sequence))];
      sequence.push_back(0);  // the position is what moves the stream
    }
    double x = 0;
    for (std::size_t i = 0; i < list.size(); ++i) {
      const double expected = n * (list[i].p + (i == 0 ? skew : i == 1 ? -skew : 0));
      x += (count[std::size_t(list[i].id)] - expected) * (count[std::size_t(list[i].id)] - expected) / expected;
    }
    return x;
  };
  const double degrees = double(list.size() - 1);
  CHECK(chi_square(0) < degrees + 5 * std::sqrt(2 * degrees));
  CHECK(chi_square(0.03) > degrees + 5 * std::sqrt(2 * degrees));  // tripwire: 3 % moved from one token to another
}

TEST_CASE("greedy: the lowest id of the largest, after the penalty") {
  std::vector<float> z = {1, 3, 2, 3, -1};
  Sampler greedy({});
  CHECK(greedy.next(z, {}) == 1);
  Sampler penal({.repetition_penalty = 2, .repetition_window = 2});
  CHECK(penal.next(z, std::vector<std::int32_t>{0, 1}) == 3);
  CHECK(penal.next(z, std::vector<std::int32_t>{1, 3}) == 2);
  CHECK(penal.next(z, std::vector<std::int32_t>{1, 1, 3, 3}) == 1);  // once, however often; and only the last two
  CHECK(penal.next({}, std::vector<std::int32_t>{1}) == 0);
  z = {-1, -2, -3};
  CHECK(penal.next(z, std::vector<std::int32_t>{0, 0}) == 0);  // -1 becomes -2, once: equal, the lower id
  z = {-1, -1.5f, -3};
  CHECK(penal.next(z, std::vector<std::int32_t>{0, 0}) == 1);
  CHECK(penal.next(z, std::vector<std::int32_t>{2, 77, -5}) == 0);  // ids of no logit are no concern
}

TEST_CASE("logits that are no numbers") {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  Sampler sampler({.temperature = 1, .top_p = 0.9f, .seed = 1});
  for (std::int32_t i = 0; i < 50; ++i) {
    const std::vector<std::int32_t> sequence(std::size_t(i), 0);
    const std::int32_t got = sampler.next(std::vector<float>{nan, 1, -inf, 1, nan}, sequence);
    CHECK((got == 1 || got == 3));
  }
  CHECK(sampler.next(std::vector<float>{0, inf, 2}, {}) == 1);
  CHECK(sampler.next(std::vector<float>{-inf, -inf}, {}) == 0);
  CHECK(sampler.next(std::vector<float>{nan, nan}, {}) == 0);
}

TEST_CASE("a token depends on seed, logits and sequence alone, not on the calls before") {
  const std::vector<float> z = some_logits(500, 3);
  const SamplingOptions o{.temperature = 1, .seed = 12, .repetition_penalty = 1.2f};
  Sampler one(o);
  std::vector<std::int32_t> sequence;
  for (int i = 0; i < 50; ++i) {
    CHECK(Sampler(o).next(z, sequence) == one.next(z, sequence));
    sequence.push_back(one.next(z, sequence));
  }
  CHECK(std::set<std::int32_t>(sequence.begin(), sequence.end()).size() > 20);
  SamplingOptions other = o;
  other.seed = 13;
  int differ = 0;
  for (int i = 0; i < 50; ++i)
    differ += Sampler(other).next(z, std::span(sequence).first(std::size_t(i))) != sequence[std::size_t(i)];
  CHECK(differ > 30);
}

TEST_CASE("stop text: found in any pieces, what may become it is held back") {
  const std::vector<std::string> stops = {"END", "\n\n", "ENDLESS", "bc", "abcd", "\xc3\xa4\xc3\xb6"};
  struct Case {
    std::string text, shown;
    bool stopped;
  };
  const std::vector<Case> cases = {
      {"nothing", "nothing", false},
      {"one END two", "one ", true},
      {"EEND", "E", true},
      {"EN EN\nEN\n", "EN EN\nEN\n", false},
      {"one\n\ntwo", "one", true},
      {"xabcd", "xa", true},  // "bc" is complete before "abcd"
      {"x\xc3\xa4\xc3\xb6y", "x", true},
      {"x\xc3\xa4\xc3\xa4", "x\xc3\xa4\xc3\xa4", false},
      {"EN", "EN", false},
      {"", "", false},
  };
  for (const Case& c : cases) {
    CAPTURE(c.text);
    for (std::uint64_t seed = 0; seed < 30; ++seed) {
      StopText stop(stops);
      std::string shown;
      std::uint64_t state = seed;
      for (std::size_t at = 0; at < c.text.size();) {
        const std::size_t n = seed == 0 ? c.text.size() : seed == 1 ? 1 : 1 + splitmix(state) % 4;
        shown += stop.push(std::string_view(c.text).substr(at, n));
        CHECK(c.shown.starts_with(shown));  // nothing is shown that would have to be taken back
        at += n;
      }
      shown += stop.finish();
      CHECK(shown == c.shown);
      CHECK(stop.stopped() == c.stopped);
      CHECK(stop.push("more") == (c.stopped ? "" : "more"));
    }
  }
  StopText longest({"b", "ab"});
  CHECK(longest.push("xab") == "x");  // both end here: the longer one counts
  StopText held({"stop"});
  CHECK(held.push("a st") == "a ");
  CHECK(held.push("ep") == "step");
  CHECK(held.push("st") == "");
  CHECK(held.finish() == "st");
  StopText none({"", ""});
  CHECK(none.push("text") == "text");
  CHECK_FALSE(none.stopped());
}
