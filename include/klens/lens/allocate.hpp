// From sensitivities to a plan: the knapsack over true bytes, and the two ways of the KL Lens paper.
//   knapsack   minimise the sum of mean KL(p||q) under a limit of bytes, or the bytes under a limit of summed KL
//   greedy     ascending KL(q||p); apply, keep if PPL <= gamma * PPL of the reference, else undo; never raises bytes
//   segments   ascending KL(q||p) over all n pairs; point i = the first i * floor((n - 1) / 10) pairs, i = 1..10
// Under a limit of memory (--ram), states are items too: their bytes are those of one sequence at a context length.
// KL per token adds up over components to first order (cross terms of independent rounding errors vanish in the mean),
// and is d ln PPL to first order, so a limit of +x % PPL is a limit of ln(1 + x / 100) nat.
#pragma once

#include <klens/lens/knapsack.hpp>
#include <klens/lens/sensitivity.hpp>

#include <cstdio>
#include <functional>

namespace klens {

/// One way to store a component.
struct Candidate {
  Precision format;
  std::int64_t bytes = 0;
  double kl_pq = 0, kl_qp = 0;  // mean; 0 for the checkpoint's own format
  bool marked = false;          // under the floor or two standard errors: the KL is not distinguishable from 0
};

struct AllocationItem {
  std::string component;
  std::vector<Candidate> candidates;  // [0]: the checkpoint's own format
  bool state = false;                 // of a sequence: formats are state_precision()
};

struct AllocationProblem {
  std::vector<AllocationItem> items;  // every component of the model, in the order of the plan; then the states, if any
  std::int64_t fixed_bytes = 0;       // of tensors that no format applies to
  std::int64_t parameters = 0;        // of the whole model
  int context = 0;                    // tokens of the KV caches in the states' bytes; 0: no states among the items
};

/// Candidate of every item, and what it comes to.
struct Allocation {
  std::vector<int> picks;
  std::int64_t bytes = 0;  // payload, fixed bytes included; with states: and theirs
  double kl = 0;           // sum of mean KL(p||q): predicted increase of ln PPL
  double gap = 0;          // of the knapsack: 0 is proven optimal (bytes or nat, as minimised)
};

/// Whether a format may be chosen; empty: any.
using FormatFilter = std::function<bool(const Precision&)>;

namespace detail {

/// Mean KL(p||q) and KL(q||p) of an entry. Published files hold KL(q||p) alone; the two agree to second order in the
/// rounding error.
inline Result<std::pair<double, double>> kl_of(const Sensitivity& s, const SensitivityEntry& e, const std::string& where) {
  const double kl_pq = s.published ? e.kl_qp.mean : e.kl_pq.mean;
  if (std::isnan(kl_pq) || std::isnan(e.kl_qp.mean))
    return Error{ErrorCode::missing, where + ": entry '" + e.component + "' in " + e.format, "kl_pq and kl_qp",
                 "no mean"};
  return std::pair{kl_pq, e.kl_qp.mean};
}

/// The states of the reference as items, with what was measured of them.
inline Result<void> add_states(const Sensitivity& s, int context, const std::string& where, AllocationProblem& problem) {
  problem.context = context;
  const RuntimePlan& plan = s.reference->plan;
  std::vector<StateSite> sites;
  for_each_state(plan, [&](const StateSite& site) { sites.push_back(site); });
  for (const StateSite& site : sites) {
    AllocationItem item{component_name(plan.shape.family, site.kind, site.layer), {}, true};
    item.candidates.push_back({state_precision(site.format), state_bytes(plan, site, context), 0, 0, false});
    for (const SensitivityEntry& e : s.entries) {
      if (!is_state(e.kind) || e.component != item.component) continue;
      const auto format = parse_state(e.format);
      if (!format || !state_allowed(site.kind, *format))
        return Error{ErrorCode::format, where + ": entry '" + e.component + "'", "a format of this state", "'" + e.format + "'"};
      if (*format == site.format) continue;
      KLENS_TRY(const auto kl, kl_of(s, e, where));
      const std::int64_t bytes = state_bytes(plan, StateSite{site.kind, site.layer, *format}, context);
      item.candidates.push_back({state_precision(*format), bytes, kl.first, kl.second, is_marked(e, s.floor)});
    }
    problem.items.push_back(std::move(item));
  }
  return {};
}

}  // namespace detail

/// The problem a measurement poses. `context`: with states, for so many tokens; 0: weights alone. Errors: no reference in
/// the file (shapes and bytes), an unknown component, a pair without KL.
inline Result<AllocationProblem> allocation_problem(const Sensitivity& s, const FormatFilter& allowed = {}, int context = 0) {
  const std::string where = "sensitivity of " + (s.model.empty() ? std::string("a model") : s.model);
  if (!s.reference)
    return Error{ErrorCode::missing, where,
                 "'reference' (shapes and bytes of the checkpoint) as klens measure writes it, or the model", "none"};
  AllocationProblem problem;
  problem.fixed_bytes = s.reference->small_bytes;
  problem.parameters = parameters(s.reference->plan);
  for (const PlanEntry& e : s.reference->entries)
    problem.items.push_back({e.component, {{e.format, e.bytes, 0, 0, false}}, false});
  std::vector<Site> sites;
  for_each_site(s.reference->plan, [&](const Site& site) { sites.push_back(site); });
  for (const SensitivityEntry& e : s.entries) {
    if (e.kind != EntryKind::weight) continue;
    std::size_t i = 0;
    while (i < problem.items.size() && problem.items[i].component != e.component) ++i;
    if (i == problem.items.size())
      return Error{ErrorCode::missing, where + ": entry '" + e.component + "'", "a component of the reference",
                   "another name"};
    const auto format = parse_format(e.format);
    if (!format)
      return Error{ErrorCode::format, where + ": entry '" + e.component + "'", "a format name", "'" + e.format + "'"};
    if (*format == problem.items[i].candidates[0].format || (allowed && !allowed(*format))) continue;
    KLENS_TRY(const auto kl, detail::kl_of(s, e, where));
    const std::int64_t bytes = packed_bytes(*format, sites[i].rows, sites[i].cols);
    if (e.bytes >= 0 && e.bytes != bytes)
      return Error{ErrorCode::format, where + ": entry '" + e.component + "' in " + e.format + ": 'bytes'",
                   std::to_string(bytes), std::to_string(e.bytes)};
    problem.items[i].candidates.push_back({*format, bytes, kl.first, kl.second, is_marked(e, s.floor)});
  }
  if (context > 0) KLENS_OK(detail::add_states(s, context, where, problem));
  return problem;
}

/// Bytes and predicted KL of picks.
inline Allocation allocation_of(const AllocationProblem& problem, std::vector<int> picks) {
  Allocation a{std::move(picks), problem.fixed_bytes, 0, 0};
  for (std::size_t i = 0; i < problem.items.size(); ++i) {
    const Candidate& c = problem.items[i].candidates[std::size_t(a.picks[i])];
    a.bytes += c.bytes, a.kl += c.kl_pq;
  }
  return a;
}

inline double bits_per_weight(const AllocationProblem& problem, const Allocation& a) {
  return 8.0 * double(a.bytes) / double(problem.parameters);
}
/// Bytes that a budget in bits per weight allows.
inline std::int64_t bytes_for_bits(const AllocationProblem& problem, double bits) {
  return std::int64_t(std::floor(bits * double(problem.parameters) / 8));
}
/// Summed KL that an increase of PPL by a share (0.01: 1 %) allows.
inline double kl_for_ppl(double share) { return std::log1p(share); }

namespace detail {

inline std::vector<std::vector<Option>> options_of(const AllocationProblem& problem, bool bytes_are_cost) {
  std::vector<std::vector<Option>> items;
  for (const AllocationItem& item : problem.items) {
    auto& options = items.emplace_back();
    for (const Candidate& c : item.candidates)
      options.push_back(bytes_are_cost ? Option{c.kl_pq, double(c.bytes)} : Option{double(c.bytes), c.kl_pq});
  }
  return items;
}

}  // namespace detail

/// Least summed KL(p||q) within `bytes` (payload, all tensors).
inline Result<Allocation> allocate_bytes(const AllocationProblem& problem, std::int64_t bytes) {
  if (problem.items.empty()) return Error{ErrorCode::usage, "allocation", "at least one component", "none"};
  const auto items = detail::options_of(problem, false);
  const Selection s = knapsack(items, double(bytes - problem.fixed_bytes));
  if (!s.feasible)
    return Error{
        ErrorCode::usage, "budget",
        "at least " + std::to_string(problem.fixed_bytes + std::int64_t(s.weight)) + " bytes for the measured formats",
        std::to_string(bytes) + " bytes"};
  Allocation a = allocation_of(problem, s.picks);
  a.gap = s.gap;
  return a;
}

/// Least bytes with a summed KL(p||q) of at most `nat` per token.
inline Result<Allocation> allocate_kl(const AllocationProblem& problem, double nat) {
  if (problem.items.empty()) return Error{ErrorCode::usage, "allocation", "at least one component", "none"};
  const auto items = detail::options_of(problem, true);
  const Selection s = knapsack(items, nat);
  if (!s.feasible) return Error{ErrorCode::usage, "budget", "a limit of KL that is not negative", std::to_string(nat)};
  Allocation a = allocation_of(problem, s.picks);
  a.gap = s.gap;
  return a;
}

/// The best plans of every size, smallest first: each has the least predicted KL of all plans of its bytes.
inline std::vector<Allocation> allocation_frontier(const AllocationProblem& problem) {
  const auto items = detail::options_of(problem, false);
  std::vector<Allocation> frontier;
  if (items.empty()) return frontier;
  for (Selection& s : knapsack_frontier(items)) frontier.push_back(allocation_of(problem, std::move(s.picks)));
  return frontier;
}

namespace detail {

/// One pair of the paper's list.
struct RankedPair {
  int item, candidate;
  double kl;
};

/// All pairs, ascending KL(q||p); ties by name, then bits.
inline std::vector<RankedPair> ranked_pairs(const AllocationProblem& problem) {
  std::vector<RankedPair> pairs;
  for (std::size_t i = 0; i < problem.items.size(); ++i)
    for (std::size_t c = 1; c < problem.items[i].candidates.size(); ++c)
      pairs.push_back({int(i), int(c), problem.items[i].candidates[c].kl_qp});
  const auto bits = [&](const RankedPair& p) {
    return problem.items[std::size_t(p.item)].candidates[std::size_t(p.candidate)].format.weight_bits;
  };
  std::stable_sort(pairs.begin(), pairs.end(), [&](const RankedPair& a, const RankedPair& b) {
    if (a.kl != b.kl) return a.kl < b.kl;
    const std::string &x = problem.items[std::size_t(a.item)].component,
                      &y = problem.items[std::size_t(b.item)].component;
    return x != y ? x < y : bits(a) < bits(b);
  });
  return pairs;
}

}  // namespace detail

/// PPL of picks on the selection text. The first call is for the reference (all picks 0).
using PplOf = std::function<Result<double>(const std::vector<int>& picks)>;

/// Phase 2 of the paper, with its bugs left out: the base PPL stays that of the reference, weights always come from the
/// pristine ones. `progress(done, total)` after every pair.
inline Result<Allocation> allocate_greedy(const AllocationProblem& problem, const PplOf& ppl_of, double gamma = 1.10,
                                          const std::function<void(int, int)>& progress = {}) {
  std::vector<int> picks(problem.items.size(), 0);
  KLENS_TRY(const double base, ppl_of(picks));
  const std::vector<detail::RankedPair> pairs = detail::ranked_pairs(problem);
  for (std::size_t k = 0; k < pairs.size(); ++k) {
    const std::size_t i = std::size_t(pairs[k].item);
    const auto& candidates = problem.items[i].candidates;
    if (candidates[std::size_t(pairs[k].candidate)].bytes <= candidates[std::size_t(picks[i])].bytes) {
      const int before = std::exchange(picks[i], pairs[k].candidate);
      KLENS_TRY(const double ppl, ppl_of(picks));
      if (!(ppl <= gamma * base)) picks[i] = before;
    }
    if (progress) progress(int(k + 1), int(pairs.size()));
  }
  return allocation_of(problem, std::move(picks));
}

/// The ten plans p01 .. p10; within a prefix the last pair of a component wins. Fewer than 11 pairs give empty
/// prefixes.
inline std::vector<Allocation> allocate_segments(const AllocationProblem& problem) {
  const std::vector<detail::RankedPair> pairs = detail::ranked_pairs(problem);
  const std::size_t segment = pairs.empty() ? 0 : (pairs.size() - 1) / 10;
  std::vector<Allocation> plans;
  for (std::size_t point = 1; point <= 10; ++point) {
    std::vector<int> picks(problem.items.size(), 0);
    for (std::size_t k = 0; k < segment * point; ++k) picks[std::size_t(pairs[k].item)] = pairs[k].candidate;
    plans.push_back(allocation_of(problem, std::move(picks)));
  }
  return plans;
}

namespace detail {

inline std::string three_digits(double v) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3g", v);
  return text;
}

/// The format's name: of a state the bare one.
inline std::string format_name_of(const AllocationItem& item, const Candidate& c) {
  return item.state ? std::string(name_of(c.format.state)) : format_name(c.format);
}

}  // namespace detail

/// Why an item's pick is what it is: its KL, and per KiB what the next larger and the next smaller useful candidate
/// would change.
inline std::string reason_of(const AllocationItem& item, int pick) {
  using detail::three_digits;
  const Candidate& c = item.candidates[std::size_t(pick)];
  const Candidate *up = nullptr, *down = nullptr;
  for (const Candidate& o : item.candidates) {
    if (o.bytes > c.bytes && o.kl_pq < c.kl_pq &&
        (!up || o.bytes < up->bytes || (o.bytes == up->bytes && o.kl_pq < up->kl_pq)))
      up = &o;
    if (o.bytes < c.bytes && (!down || o.kl_pq < down->kl_pq || (o.kl_pq == down->kl_pq && o.bytes < down->bytes)))
      down = &o;
  }
  const auto per_kib = [&](const Candidate& o) {
    return std::fabs(o.kl_pq - c.kl_pq) / (std::fabs(double(o.bytes - c.bytes)) / 1024);
  };
  std::string text = "KL(p||q) " + three_digits(c.kl_pq) + (c.marked ? " (under the floor)" : "");
  if (up) text += "; " + detail::format_name_of(item, *up) + " would save " + three_digits(per_kib(*up)) + " nat/KiB";
  if (down)
    text += (down->kl_pq < c.kl_pq
                 ? "; " + detail::format_name_of(item, *down) + " is smaller and no worse"
                 : "; " + detail::format_name_of(item, *down) + " would cost " + three_digits(per_kib(*down)) + " nat/KiB");
  return text;
}

/// The plan of an allocation, with a reason for every choice.
inline Result<PlanDocument> plan_of(const Sensitivity& s, const AllocationProblem& problem, const Allocation& a,
                                    std::vector<std::pair<std::string, std::string>> provenance) {
  std::vector<PlanEntry> choices;
  for (std::size_t i = 0; i < problem.items.size(); ++i) {
    const Candidate& c = problem.items[i].candidates[std::size_t(a.picks[i])];
    choices.push_back(
        {problem.items[i].component, c.format, c.bytes, c.kl_pq, reason_of(problem.items[i], a.picks[i])});
  }
  return make_plan(s.model, s.reference->plan, s.reference->small_bytes, std::move(choices), std::move(provenance),
                   "plan for " + s.model, problem.context > 0 ? problem.context : s.reference->context);
}

}  // namespace klens
