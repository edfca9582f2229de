// Exact multiple-choice knapsack: one candidate of every item, least total cost with total weight <= limit.
//
// States (weight, cost) are kept item by item as a Pareto list: dynamic programming over the weights that occur, no
// grid, so true bytes need no rounding. A state is dropped when another is no heavier and no dearer, or when the
// Lagrangian bound
//   cost + sum over items to come of min_c(cost_c + lambda weight_c) + lambda (weight - limit) >= best known cost
// shows that it cannot win (valid for every lambda >= 0; taken where the bound of the whole problem is largest). With
// it a few thousand states remain for hundreds of items. Should a hostile instance pass the limit of states, the result
// is the best found, with the distance to the bound as `gap`; 0 means proven optimal.
#pragma once

#include <klens/lens/statistics.hpp>

#include <cstdint>
#include <span>
#include <vector>

namespace klens {

struct Option {
  double weight = 0, cost = 0;
};  // both >= 0, finite

struct Selection {
  std::vector<int> picks;  // candidate of each item
  double weight = 0, cost = 0;
  double gap = 0;         // the optimum is at least cost - gap
  bool feasible = false;  // false: even the lightest candidates are over the limit
};

namespace detail {

/// Lower convex hull of one item's options in (weight, cost): indices by increasing weight, cost strictly falling,
/// slopes flattening.
inline std::vector<int> lower_hull(const std::vector<Option>& options) {
  std::vector<int> order(options.size()), hull;
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = int(i);
  const auto at = [&](int i) -> const Option& { return options[std::size_t(i)]; };
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
    return at(a).weight != at(b).weight ? at(a).weight < at(b).weight : at(a).cost < at(b).cost;
  });
  for (const int i : order) {
    if (!hull.empty() && at(i).cost >= at(hull.back()).cost) continue;
    while (hull.size() > 1) {
      const Option &a = at(hull[hull.size() - 2]), &b = at(hull.back()), &c = at(i);
      if ((b.cost - a.cost) * (c.weight - a.weight) < (c.cost - a.cost) * (b.weight - a.weight))
        break;  // b lies below a-c
      hull.pop_back();
    }
    hull.push_back(i);
  }
  return hull;
}

/// One step along an item's hull: what it saves per unit of weight.
struct HullStep {
  double slope;
  int item, to;
};

/// All steps, steepest first; ties by item, then order on its hull, so that an item's steps stay in order.
inline std::vector<HullStep> hull_steps(std::span<const std::vector<Option>> items, std::vector<int>& lightest) {
  std::vector<HullStep> steps;
  for (std::size_t i = 0; i < items.size(); ++i) {
    const std::vector<int> hull = lower_hull(items[i]);
    lightest.push_back(hull.front());
    for (std::size_t k = 1; k < hull.size(); ++k) {
      const Option &a = items[i][std::size_t(hull[k - 1])], &b = items[i][std::size_t(hull[k])];
      steps.push_back({(a.cost - b.cost) / (b.weight - a.weight), int(i), hull[k]});
    }
  }
  std::stable_sort(steps.begin(), steps.end(), [](const HullStep& a, const HullStep& b) { return a.slope > b.slope; });
  return steps;
}

inline void total(std::span<const std::vector<Option>> items, Selection& s) {
  s.weight = s.cost = 0;
  for (std::size_t i = 0; i < items.size(); ++i) {
    const Option& o = items[i][std::size_t(s.picks[i])];
    s.weight += o.weight, s.cost += o.cost;
  }
}

}  // namespace detail

/// Every selection on the Lagrangian frontier, lightest first: each is optimal for its own weight. One more pick per
/// step.
inline std::vector<Selection> knapsack_frontier(std::span<const std::vector<Option>> items) {
  std::vector<Selection> frontier(1);
  Selection& first = frontier.front();
  const std::vector<detail::HullStep> steps = detail::hull_steps(items, first.picks);
  first.feasible = true;
  detail::total(items, first);
  for (std::size_t k = 0; k < steps.size(); ++k) {
    Selection next = frontier.back();
    next.picks[std::size_t(steps[k].item)] = steps[k].to;
    detail::total(items, next);
    // Steps of equal slope are equally good in any order: between them the selections are still on the frontier.
    frontier.push_back(std::move(next));
  }
  return frontier;
}

/// `items` must not be empty, nor any of its lists. `max_states`: per item, the limit above which the gap may stay
/// open.
inline Selection knapsack(std::span<const std::vector<Option>> items, double limit,
                          std::size_t max_states = 4'000'000) {
  struct Node {
    std::uint32_t parent;
    std::int32_t pick;
  };
  struct Partial {
    double weight, cost;
    std::uint32_t node;
  };
  Selection best;
  const std::vector<detail::HullStep> steps = detail::hull_steps(items, best.picks);
  detail::total(items, best);
  if (best.weight > limit) return best;
  best.feasible = true;

  // Greedy along the hull: lambda is the slope of the first step that does not fit; later steps that do are taken.
  double lambda = 0;
  {
    std::vector<char> blocked(items.size(), 0);
    Selection trial = best;
    for (const detail::HullStep& step : steps) {
      const std::size_t i = std::size_t(step.item);
      if (blocked[i]) continue;
      const Option &from = items[i][std::size_t(trial.picks[i])], &to = items[i][std::size_t(step.to)];
      if (trial.weight - from.weight + to.weight > limit) {
        blocked[i] = 1;
        if (lambda == 0) lambda = step.slope;
        continue;
      }
      trial.picks[i] = step.to;
      detail::total(items, trial);
    }
    best = trial;
  }
  if (best.weight > limit) return best;  // rounding of sums; cannot happen for whole bytes

  const std::size_t n = items.size();
  std::vector<double> rest(n + 1, 0);  // sum over items i.. of min(cost + lambda weight)
  for (std::size_t i = n; i-- > 0;) {
    double least = items[i][0].cost + lambda * items[i][0].weight;
    for (const Option& o : items[i]) least = std::min(least, o.cost + lambda * o.weight);
    rest[i] = rest[i + 1] + least;
  }
  std::vector<double> lightest(n + 1, 0);
  for (std::size_t i = n; i-- > 0;) {
    double least = items[i][0].weight;
    for (const Option& o : items[i]) least = std::min(least, o.weight);
    lightest[i] = lightest[i + 1] + least;
  }
  const double whole_bound = rest[0] - lambda * limit;
  const double slack =
      1e-12 * (std::fabs(best.cost) + std::fabs(lambda * limit));  // bounds are sums of rounded products

  std::vector<Node> nodes{{0, -1}};
  std::vector<Partial> states{{0, 0, 0}}, next;
  bool open = false;
  for (std::size_t i = 0; i < n; ++i) {
    next.clear();
    for (const Partial& s : states)
      for (std::size_t c = 0; c < items[i].size(); ++c) {
        const double weight = s.weight + items[i][c].weight, cost = s.cost + items[i][c].cost;
        if (weight + lightest[i + 1] > limit) continue;
        if (cost + rest[i + 1] + lambda * (weight - limit) > best.cost + slack) continue;
        // The node is made once the state has survived; until then it holds parent and pick in one number.
        next.push_back(
            {weight, cost, std::uint32_t((&s - states.data()) * std::ptrdiff_t(items[i].size()) + std::ptrdiff_t(c))});
      }
    std::stable_sort(next.begin(), next.end(), [](const Partial& a, const Partial& b) {
      return a.weight != b.weight ? a.weight < b.weight : a.cost < b.cost;
    });
    std::vector<Partial> kept;
    for (const Partial& s : next) {
      if (!kept.empty() && s.cost >= kept.back().cost) continue;
      const std::size_t parent = s.node / items[i].size(), pick = s.node % items[i].size();
      kept.push_back({s.weight, s.cost, std::uint32_t(nodes.size())});
      nodes.push_back({states[parent].node, std::int32_t(pick)});
    }
    if (kept.size() * 16 > max_states || nodes.size() > 16 * max_states) {
      open = true;
      break;
    }
    states = std::move(kept);
  }
  if (open) {
    best.gap = std::max(0.0, best.cost - whole_bound);
    return best;
  }
  // The last state is the cheapest. Equal to the greedy one within the rounding of sums: keep the greedy one's picks.
  if (!states.empty() && states.back().cost < best.cost) {
    std::uint32_t node = states.back().node;
    for (std::size_t i = n; i-- > 0; node = nodes[node].parent) best.picks[i] = nodes[node].pick;
    detail::total(items, best);
  }
  return best;
}

}  // namespace klens
