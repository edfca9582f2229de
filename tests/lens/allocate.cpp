// The knapsack against exhaustive search, the frontier against the knapsack, greedy and segments on cases done by hand.
#include <klens/lens/allocate.hpp>
#include <klens/lens/rank.hpp>

#include <doctest/doctest.h>

namespace {

using namespace klens;

std::vector<std::vector<Option>> random_items(std::uint64_t& state, int max_items, int max_options, int max_weight) {
  std::vector<std::vector<Option>> items(1 + detail::draw(state, std::size_t(max_items)));
  for (auto& item : items) {
    item.resize(1 + detail::draw(state, std::size_t(max_options)));
    for (Option& o : item)
      o = {double(1 + detail::draw(state, std::size_t(max_weight))), double(detail::draw(state, 1000)) / 64};
  }
  return items;
}

/// Least cost over all selections within the limit; infinity if none fits.
double exhaustive(const std::vector<std::vector<Option>>& items, std::size_t i, double left) {
  if (left < 0) return std::numeric_limits<double>::infinity();
  if (i == items.size()) return 0;
  double best = std::numeric_limits<double>::infinity();
  for (const Option& o : items[i]) best = std::min(best, o.cost + exhaustive(items, i + 1, left - o.weight));
  return best;
}

double sum(const std::vector<std::vector<Option>>& items, const std::vector<int>& picks, double Option::*member) {
  double s = 0;
  for (std::size_t i = 0; i < items.size(); ++i) s += items[i][std::size_t(picks[i])].*member;
  return s;
}

TEST_CASE("knapsack equals exhaustive search") {
  std::uint64_t state = 11;
  int feasible = 0;
  for (int round = 0; round < 400; ++round) {
    const auto items = random_items(state, 7, 5, 40);
    const double limit = double(detail::draw(state, 200));
    const Selection got = knapsack(items, limit);
    const double expected = exhaustive(items, 0, limit);
    REQUIRE(got.feasible == std::isfinite(expected));
    if (!got.feasible) continue;
    ++feasible;
    CHECK(got.cost == expected);  // costs are multiples of 1/64: sums are exact
    CHECK(got.gap == 0);
    CHECK(sum(items, got.picks, &Option::weight) <= limit);
    CHECK(sum(items, got.picks, &Option::cost) == got.cost);
  }
  CHECK(feasible > 200);
}

TEST_CASE("every point of the frontier is optimal for its weight") {
  std::uint64_t state = 5;
  for (int round = 0; round < 60; ++round) {
    const auto items = random_items(state, 6, 5, 40);
    const auto frontier = knapsack_frontier(items);
    REQUIRE(!frontier.empty());
    for (const Selection& s : frontier) CHECK(s.cost == exhaustive(items, 0, s.weight));
    for (std::size_t k = 1; k < frontier.size(); ++k) CHECK(frontier[k].weight > frontier[k - 1].weight);
  }
}

TEST_CASE("a knapsack of the size of a large model is solved exactly and at once") {
  std::uint64_t state = 9;
  std::vector<std::vector<Option>> items(400);
  for (auto& item : items) {
    const double size = double(64 * (1 + detail::draw(state, 50000))),
                 pain = std::exp(double(detail::draw(state, 1000)) / 120 - 12);
    for (const double bits : {2.5, 3.5, 4.5, 6.1, 8.1, 16.0})
      item.push_back({std::floor(size * bits / 8) * 64,
                      pain * std::exp2(-2 * bits) * (1 + double(detail::draw(state, 100)) / 200)});
  }
  const auto frontier = knapsack_frontier(items);
  const double limit = 0.37 * (frontier.front().weight + frontier.back().weight);
  const Selection got = knapsack(items, limit);
  CHECK(got.feasible);
  CHECK(got.gap == 0);
  CHECK(got.weight <= limit);
  double below = 0, above = std::numeric_limits<double>::infinity();  // neighbours on the frontier bound the optimum
  for (const Selection& s : frontier) {
    if (s.weight <= limit)
      above = s.cost;
    else {
      below = s.cost;
      break;
    }
  }
  CHECK(got.cost <= above);
  CHECK(got.cost >= below);
}

/// Three components: reference 1000 bytes; w8 500, w4 250. KL chosen so that the order is a8 b8 c8 a4 b4 c4.
AllocationProblem three() {
  AllocationProblem p;
  p.fixed_bytes = 100, p.parameters = 1500;
  const Precision f16{16, floats(Grid::f16)}, w8{8, per_row()}, w4{4, per_row()};
  const double kl8[] = {0.01, 0.02, 0.03}, kl4[] = {0.1, 0.2, 0.4};
  for (int i = 0; i < 3; ++i)
    p.items.push_back({std::string(1, char('a' + i)),
                       {{f16, 1000, 0, 0, false}, {w8, 500, kl8[i], kl8[i], false}, {w4, 250, kl4[i], kl4[i], false}}});
  return p;
}

TEST_CASE("budgets of bytes, bits and PPL") {
  const AllocationProblem p = three();
  const auto a = allocate_bytes(p, 100 + 1250);
  REQUIRE(a);
  CHECK(a->picks == std::vector<int>{2, 1, 1});
  CHECK(a->bytes == 1350);
  CHECK(a->kl == doctest::Approx(0.15));
  CHECK(bytes_for_bits(p, 8) == 1500);
  CHECK(bits_per_weight(p, *a) == doctest::Approx(8.0 * 1350 / 1500));
  const auto b = allocate_kl(p, kl_for_ppl(0.165));  // ln 1.165 = 0.1527 >= 0.15
  REQUIRE(b);
  CHECK(b->bytes == 1350);
  const auto none = allocate_kl(p, 0);
  REQUIRE(none);
  CHECK(none->bytes == 3100);
  const auto too_small = allocate_bytes(p, 849);
  REQUIRE_FALSE(too_small);
  CHECK(too_small.error().expected.find("850") != std::string::npos);
  CHECK(reason_of(p.items[0], 1) == "KL(p||q) 0.01; f16 would save 0.0205 nat/KiB; w4 would cost 0.369 nat/KiB");
}

TEST_CASE("greedy keeps what stays under gamma times the original base, undoes the rest") {
  const AllocationProblem p = three();
  std::vector<std::vector<int>> asked;
  const PplOf ppl_of = [&](const std::vector<int>& picks) -> Result<double> {
    asked.push_back(picks);
    return 10 * std::exp(allocation_of(p, picks).kl);
  };
  // ln 1.10 = 0.0953: a8 b8 c8 add up to 0.06; a4 would be 0.15, b4 0.24, c4 0.43: all undone.
  const auto a = allocate_greedy(p, ppl_of, 1.10);
  REQUIRE(a);
  CHECK(a->picks == std::vector<int>{1, 1, 1});
  CHECK(asked.size() == 7);
  CHECK(asked[4] == std::vector<int>{2, 1, 1});
  CHECK(asked[5] == std::vector<int>{1, 2, 1});  // a4 was undone
  // With 1.17 (0.157) a4 stays; the base does not move, so b4 (0.33) is still refused.
  const auto b = allocate_greedy(p, ppl_of, 1.17);
  REQUIRE(b);
  CHECK(b->picks == std::vector<int>{2, 1, 1});
}

TEST_CASE("greedy skips a pair that would raise bytes, and passes errors on") {
  AllocationProblem p = three();
  p.items[0].candidates[1].kl_qp = 0.5;  // w8 of `a` now comes after its w4
  int calls = 0;
  const auto a = allocate_greedy(p, [&](const std::vector<int>&) -> Result<double> { return ++calls, 1.0; });
  REQUIRE(a);
  CHECK(a->picks == std::vector<int>{2, 2, 2});
  CHECK(calls == 6);  // base, and five of the six pairs
  const auto failed = allocate_greedy(p, [](const std::vector<int>&) -> Result<double> {
    return Error{ErrorCode::io, "text", "", "gone"};
  });
  CHECK_FALSE(failed);
}

TEST_CASE("segments: prefixes of floor((n - 1) / 10) pairs, the last pair of a component wins") {
  AllocationProblem p;
  const Precision f16{16, floats(Grid::f16)}, w8{8, per_row()}, w4{4, per_row()};
  for (int i = 0; i < 12; ++i) {  // 24 pairs: segment = 2
    const double kl = 0.001 * (i + 1);
    p.items.push_back({"c" + std::to_string(100 + i),
                       {{f16, 64, 0, 0, false}, {w8, 32, kl, kl, false}, {w4, 16, 100 * kl, 100 * kl, false}}});
  }
  const auto plans = allocate_segments(p);
  REQUIRE(plans.size() == 10);
  CHECK(plans[0].picks == std::vector<int>{1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0});
  CHECK(plans[5].picks == std::vector<int>(12, 1));
  CHECK(plans[6].picks == std::vector<int>{2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1});
  CHECK(plans[9].picks == std::vector<int>{2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1});  // 20 of 24
}

}  // namespace
