// select: promise 4. The plan and every uniform format that fits the budget are run on the selection text, and the best
// is returned, so that on that text no fitting uniform format beats what the planner gives. Also the PPL that greedy
// asks for.
#pragma once

#include <klens/lens/allocate.hpp>
#include <klens/lens/evaluate.hpp>

namespace klens {

/// Gives a sensitivity without `reference` (an older or a published file) the shapes and bytes of its checkpoint.
inline Result<void> attach_reference(Sensitivity& s, Model& model) {
  if (model.is_packed())
    return Error{ErrorCode::usage, model.path(), "the checkpoint that was measured", "a packed file"};
  KLENS_OK(model.set_reference());
  KLENS_TRY(s.reference, make_plan(s.model, model.plan(), model.small_payload_bytes(), {}, {}, model.path()));
  return {};
}

/// Puts a model into the formats of picks.
inline Result<void> apply(Model& model, const AllocationProblem& problem, const std::vector<int>& picks) {
  for (std::size_t i = 0; i < problem.items.size(); ++i) {
    const AllocationItem& item = problem.items[i];
    const Precision& format = item.candidates[std::size_t(picks[i])].format;
    KLENS_OK(item.state ? model.set_state_format(item.component, format.state) : model.set_format(item.component, format));
  }
  return {};
}

/// PPL of picks on a text, for allocate_greedy. The arguments must outlive it.
inline PplOf ppl_on(Model& model, const Program& program, const AllocationProblem& problem, Ids ids, const Team& team,
                    const EvaluateOptions& options) {
  return [&model, program, &problem, ids, team, options](const std::vector<int>& picks) -> Result<double> {
    KLENS_OK(apply(model, problem, picks));
    KLENS_TRY(const Evaluation e, evaluate({&model, program}, ids, team, options));
    return e.ppl;
  };
}

/// Frontier points as the report reads them: bytes and predicted KL.
inline Json frontier_to_json(const AllocationProblem& problem, const std::vector<Allocation>& frontier) {
  Json points = Json::array();
  for (const Allocation& a : frontier)
    points.push_back({{"bytes", a.bytes}, {"bits_per_weight", bits_per_weight(problem, a)}, {"kl", a.kl}});
  return {{"schema", "klens.frontier/1"}, {"points", points}};
}

/// A plan that was run on the selection text.
struct Contender {
  std::string name;                // "plan", or the uniform format
  std::vector<PlanEntry> choices;  // what it stores each component as
  std::int64_t bytes = 0;          // payload
  Evaluation result;
  bool uniform = false;
};

/// Index of the best: least NLL; a tie goes to the earlier (the plan comes first).
inline std::size_t best_of(const std::vector<Contender>& contenders) {
  std::size_t best = 0;
  for (std::size_t i = 1; i < contenders.size(); ++i)
    if (mean_of(contenders[i].result.nll) < mean_of(contenders[best].result.nll)) best = i;
  return best;
}

/// The formats that a file measured for every component, as candidates of uniform plans.
inline std::vector<Precision> uniform_formats(const AllocationProblem& problem) {
  std::vector<Precision> formats;
  if (problem.items.empty()) return formats;
  for (const Candidate& c : problem.items.front().candidates) {
    bool everywhere = true;
    for (const AllocationItem& item : problem.items)
      everywhere = everywhere && (item.state || std::any_of(item.candidates.begin(), item.candidates.end(),
                                             [&](const Candidate& o) { return o.format == c.format; }));
    if (everywhere) formats.push_back(c.format);
  }
  return formats;
}

/// Runs the plan, and every uniform format of `formats` whose payload is at most `bytes`, on the selection text. The
/// first contender is the plan. Uniform formats leave states as the model has them, with states among the items as the
/// reference has them (their bytes count then). The model is left in its reference formats.
inline Result<std::vector<Contender>> run_contenders(Model& model, const Program& program,
                                                     const AllocationProblem& problem, const Allocation& plan,
                                                     std::int64_t bytes, const std::vector<Precision>& formats, Ids ids,
                                                     const Team& team, const EvaluateOptions& options) {
  std::vector<Contender> contenders;
  const auto run = [&](std::string name, bool uniform, const auto& format_of) -> Result<void> {
    Contender c{std::move(name), {}, problem.fixed_bytes, {}, uniform};
    for (std::size_t i = 0; i < problem.items.size(); ++i) {
      const AllocationItem& item = problem.items[i];
      if (item.state) {
        const Candidate& state = item.candidates[uniform ? 0 : std::size_t(plan.picks[i])];
        c.choices.push_back({item.component, state.format, state.bytes, std::nullopt, uniform ? "uniform" : ""});
        c.bytes += state.bytes;
        continue;
      }
      const int component = model.find(item.component);
      if (component < 0)
        return Error{ErrorCode::missing, model.path(), "component '" + problem.items[i].component + "'",
                     "no such component"};
      const Precision format = format_of(i);
      const std::int64_t size = packed_bytes(format, model.components()[std::size_t(component)].rows,
                                             model.components()[std::size_t(component)].cols);
      c.choices.push_back({problem.items[i].component, format, size, std::nullopt, uniform ? "uniform" : ""});
      c.bytes += size;
    }
    if (uniform && c.bytes > bytes) return {};
    for (std::size_t i = 0; i < c.choices.size(); ++i) {
      const PlanEntry& e = c.choices[i];
      KLENS_OK(problem.items[i].state ? model.set_state_format(e.component, e.format.state)
                                      : model.set_format(e.component, e.format));
    }
    KLENS_TRY(c.result, evaluate({&model, program}, ids, team, options));
    contenders.push_back(std::move(c));
    return {};
  };
  KLENS_OK(run("plan", false,
               [&](std::size_t i) { return problem.items[i].candidates[std::size_t(plan.picks[i])].format; }));
  for (const Precision& f : formats) KLENS_OK(run(format_name(f), true, [&](std::size_t) { return f; }));
  KLENS_OK(model.set_reference());
  return contenders;
}

}  // namespace klens
