// kernel/route.hpp: the router of a mixture of experts against float64, and the sum of what experts gave; the bits of ref.
#include "kernel/fixture.hpp"

#include <numeric>

namespace {

using fixture::Guarded;
using fixture::Judge;

constexpr int tokens = 5;

/// Router weights of `experts` rows of `hidden`, as the kernel reads them and as doubles [experts][hidden].
struct Router {
  Guarded columns;
  std::vector<double> rows;
  Router(int experts, int hidden, fixture::Random& random)
      : columns(std::int64_t(hidden) * klens::round_up(experts, 16)), rows(std::size_t(experts * hidden)) {
    columns.fill(0.0f);
    for (int e = 0; e < experts; ++e)
      for (int k = 0; k < hidden; ++k) {
        const float w = float(random.normal() / std::sqrt(hidden));
        columns[k * klens::round_up(experts, 16) + e] = w, rows[std::size_t(e * hidden + k)] = double(w);
      }
  }
};

struct RouteCase {
  int hidden, experts, used, stride;
  bool all;
  Guarded x, logits, weight;
  Router router;
  std::vector<std::int32_t> chosen;

  RouteCase(int h, int e, int u, bool softmax_of_all, fixture::Random random)
      : hidden(h), experts(e), used(u), stride(int(klens::round_up(h, 32)) + 32), all(softmax_of_all), x(tokens * stride),
        logits(tokens * klens::round_up(e, 16)), weight(tokens * klens::round_up(u, 16)), router(e, h, random),
        chosen(std::size_t(tokens * u)) {
    random.fill(x, 2.0);
  }
  klens::RouteArgs args() {
    return {.x = x.data(), .x_stride = stride, .hidden = hidden, .experts = experts, .used = used, .softmax_of_all = all,
            .router = router.columns.data(), .logits = logits.data(), .chosen = chosen.data(), .weight = weight.data(), .begin = 0, .end = tokens};
  }
};

TEST_CASE("route: logits, choice and weights against float64; padding 0; the bits of ref, for any cut of the tokens") {
  for (const int hidden : {1, 7, 64, 203})
    for (const auto& size : {std::pair{2, 1}, {4, 2}, {5, 3}, {16, 16}, {33, 20}, {64, 6}})
      for (const bool all : {false, true}) {
        const int experts = size.first, used = size.second;
        CAPTURE(hidden);
        CAPTURE(experts);
        CAPTURE(all);
        RouteCase c(hidden, experts, used, all, fixture::Random{unsigned(hidden * 100 + experts)});
        fixture::active().route(c.args());
        Judge logits, weights, tripwire;
        for (int t = 0; t < tokens; ++t) {
          const float* z = c.logits.data() + t * klens::round_up(experts, 16);
          for (int e = 0; e < experts; ++e) {
            double want = 0, size = 0;
            for (int k = 0; k < hidden; ++k) {
              const double term = double(c.x[t * c.stride + k]) * c.router.rows[std::size_t(e * hidden + k)];
              want += term, size += std::abs(term);
            }
            logits(double(z[e]), want, hidden * fixture::eps * size);
          }
          std::vector<int> order(std::size_t(experts), 0);
          std::iota(order.begin(), order.end(), 0);
          std::stable_sort(order.begin(), order.end(), [z](int a, int b) { return z[a] > z[b]; });
          double total = 0;
          for (int i = 0; i < (all ? experts : used); ++i) total += std::exp(double(z[order[std::size_t(i)]]) - double(z[order[0]]));
          std::vector<int> expected(order.begin(), order.begin() + used);
          std::ranges::sort(expected);
          const float* weight = c.weight.data() + t * klens::round_up(used, 16);
          for (int i = 0; i < used; ++i) {
            const int e = c.chosen[std::size_t(t * used + i)];
            CHECK(e == expected[std::size_t(i)]);
            const double want = std::exp(double(z[e]) - double(z[order[0]])) / total;
            const double bound = want * (0x1p-21 + std::abs(double(z[e]) - double(z[order[0]])) * 0x1p-24);
            weights(double(weight[i]), want, bound);
            tripwire(double(weight[i]) * (1 + 1e-5), want, bound);
          }
          for (int i = used; i < klens::round_up(used, 16); ++i) CHECK(weight[i] == 0.0f);
        }
        CHECK(logits.wrong == 0);
        CHECK(weights.wrong == 0);
        CHECK(tripwire.wrong > 0);
        CHECK((c.logits.margins_intact() && c.weight.margins_intact()));
        RouteCase other(hidden, experts, used, all, fixture::Random{unsigned(hidden * 100 + experts)});
        klens::RouteArgs args = other.args();
        for (int t = 0; t < tokens; ++t) args.begin = t, args.end = t + 1, fixture::reference().route(args);
        CHECK(fixture::same_bits(c.logits, other.logits));
        CHECK(fixture::same_bits(c.weight, other.weight));
        CHECK(c.chosen == other.chosen);
      }
}

TEST_CASE("route: sigmoids and groups of experts against float64, the bits of ref") {
  struct Groups { int experts, used, groups, taken; bool normed; };
  for (const Groups& g : {Groups{6, 3, 3, 2, true}, {5, 2, 1, 1, false}, {40, 7, 4, 2, true}, {64, 20, 8, 3, false}, {2, 1, 1, 1, true}, {512, 22, 16, 4, true}}) {
    CAPTURE(g.experts);
    const auto fresh = [&] { return RouteCase(33, g.experts, g.used, false, fixture::Random{unsigned(g.experts)}); };
    RouteCase c = fresh(), other = fresh();
    Guarded bias(klens::round_up(g.experts, 16));
    fixture::Random random(9);
    random.fill(bias, 0.3);
    const auto with_groups = [&](RouteCase& of) {
      klens::RouteArgs a = of.args();
      a.groups = g.groups, a.groups_used = g.taken, a.normed = g.normed, a.scale = 1.7f, a.bias = bias.data();
      return a;
    };
    fixture::active().route(with_groups(c));
    klens::RouteArgs again = with_groups(other);
    for (int t = 0; t < tokens; ++t) again.begin = t, again.end = t + 1, fixture::reference().route(again);
    CHECK(fixture::same_bits(c.logits, other.logits));
    CHECK(fixture::same_bits(c.weight, other.weight));
    CHECK(c.chosen == other.chosen);
    Judge weights, tripwire;
    for (int t = 0; t < tokens; ++t) {
      const float* z = c.logits.data() + t * klens::round_up(g.experts, 16);
      std::vector<double> score, choice;
      for (int e = 0; e < g.experts; ++e) score.push_back(1 / (1 + std::exp(-double(z[e])))), choice.push_back(score.back() + double(bias[e]));
      const int each = g.experts / g.groups;
      std::vector<std::pair<double, int>> groups;
      for (int k = 0; g.groups > 1 && k < g.groups; ++k) {
        std::vector<double> of(choice.begin() + k * each, choice.begin() + (k + 1) * each);
        std::ranges::sort(of, std::greater());
        groups.emplace_back(-(of[0] + of[1]), k);
      }
      std::ranges::sort(groups);
      std::vector<std::pair<double, int>> order;
      for (int e = 0; e < g.experts; ++e) {
        bool open = g.groups == 1;
        for (int k = 0; k < g.taken && !open; ++k) open = groups[std::size_t(k)].second == e / each;
        if (open) order.emplace_back(-choice[std::size_t(e)], e);
      }
      std::ranges::sort(order);
      double total = 1e-20;
      for (int i = 0; i < g.used; ++i) total += score[std::size_t(order[std::size_t(i)].second)];
      std::vector<int> expected;
      for (int i = 0; i < g.used; ++i) expected.push_back(order[std::size_t(i)].second);
      std::ranges::sort(expected);
      for (int i = 0; i < g.used; ++i) {
        CHECK(c.chosen[std::size_t(t * g.used + i)] == expected[std::size_t(i)]);
        const double want = double(1.7f) * score[std::size_t(expected[std::size_t(i)])] / (g.normed ? total : 1);
        const double got = double(c.weight[t * klens::round_up(g.used, 16) + i]);
        weights(got, want, want * 0x1p-20), tripwire(got * (1 + 1e-5), want, want * 0x1p-20);
      }
      for (int i = g.used; i < klens::round_up(g.used, 16); ++i) CHECK(c.weight[t * klens::round_up(g.used, 16) + i] == 0.0f);
    }
    CHECK(weights.wrong == 0);
    CHECK(tripwire.wrong > 0);
    CHECK((c.logits.margins_intact() && c.weight.margins_intact()));
  }
}

TEST_CASE("route: equal logits go to the lowest index, each expert once; far ones weigh nothing") {
  RouteCase c(4, 6, 3, false, fixture::Random{1});
  c.router.columns.fill(0.0f);
  fixture::active().route(c.args());
  for (int t = 0; t < tokens; ++t)
    for (int i = 0; i < 3; ++i) {
      CHECK(c.chosen[std::size_t(t * 3 + i)] == i);
      CHECK(c.weight[t * 16 + i] == doctest::Approx(1.0 / 3).epsilon(1e-6));
    }
  for (int k = 0; k < 4; ++k) c.router.columns[k * 16 + 5] = 1000.0f;
  for (int i = 0; i < c.x.size(); ++i) c.x[i] = 1.0f;
  fixture::active().route(c.args());
  CHECK((c.chosen[0] == 0 && c.chosen[1] == 1 && c.chosen[2] == 5));
  CHECK((c.weight[0] == 0.0f && c.weight[1] == 0.0f && c.weight[2] == 1.0f));
}

TEST_CASE("add_rows: one rounding per element, other rows untouched, the bits of ref") {
  for (const int width : {1, 16, 17, 200}) {
    CAPTURE(width);
    const int stride = int(klens::round_up(width, 32));
    Guarded y(3 * stride), x(tokens * stride), expected(tokens * stride);
    fixture::Random random(4);
    y.fill(0.0f), x.fill(0.0f);
    for (int i = 0; i < width; ++i)
      for (int t = 0; t < tokens; ++t) {
        x[t * stride + i] = float(random.normal());
        if (t < 3) y[t * stride + i] = float(random.normal());
      }
    const std::int32_t row[] = {4, 0, 2};
    const float weight[] = {0.3f, -1.7f, 0.01f};
    for (std::int64_t i = 0; i < x.size(); ++i) expected[i] = x[i];
    for (int i = 0; i < 3; ++i)
      for (int k = 0; k < width; ++k)
        expected[row[i] * stride + k] = std::fma(weight[i], y[i * stride + k], x[row[i] * stride + k]);
    Guarded before(x.size());
    for (std::int64_t i = 0; i < x.size(); ++i) before[i] = x[i];
    fixture::active().add_rows({y.data(), x.data(), stride, row, weight, width, 0, 3});
    CHECK(fixture::same_bits(x, expected));
    CHECK(x.margins_intact());
    fixture::reference().add_rows({y.data(), before.data(), stride, row, weight, width, 0, 3});
    CHECK(fixture::same_bits(before, expected));
  }
}

}  // namespace
