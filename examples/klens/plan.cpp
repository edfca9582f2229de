// klens plan: from sensitivities to plan.json and plan.hpp, under a budget.
#include "common.hpp"
#include "text.hpp"

#include <klens/io/gguf_types.hpp>
#include <klens/lens/select.hpp>
#include <klens/lens/sensitivity_json.hpp>
#include <klens/model/generic.hpp>
#include <klens/quant/apply.hpp>
#include <klens/report/table.hpp>
#include <klens/version.hpp>

#include <map>

namespace klens::cli {
namespace {

struct Options {
  Common common;
  std::string sensitivity, bytes, ppl, latency, timings, ram, method = "knapsack", model, text, output, header, frontier, formats, states, tensor_types;
  double bpw = 0, gamma = 1.10;
  int context = 512, windows = 64;
};

/// "4MiB", "2.5MB", "812k", "123456": a number and an optional unit; decimal units are powers of 1000.
Result<std::int64_t> bytes_of(const std::string& text, const std::string& option) {
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  const std::string unit = end;
  static const std::map<std::string, double> units = {{"", 1}, {"B", 1}, {"k", 1e3}, {"kB", 1e3}, {"M", 1e6}, {"MB", 1e6}, {"G", 1e9}, {"GB", 1e9},
                                                      {"KiB", 1024.0}, {"MiB", 1048576.0}, {"GiB", 1073741824.0}};
  const auto it = units.find(unit);
  if (end == text.c_str() || it == units.end() || !(value > 0) || value * it->second > 9e15)
    return Error{ErrorCode::usage, option, "bytes such as 4MiB, 2.5MB or 2500000", "'" + text + "'"};
  return std::int64_t(value * it->second);
}

/// "+1%", "1%" or "0.01" -> 0.01.
Result<double> share_of(const std::string& text) {
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  const std::string unit = end;
  if (end == text.c_str() || (unit != "%" && !unit.empty()) || !(value > 0) || value > 1e4) return Error{ErrorCode::usage, "--ppl", "an increase such as +1%", "'" + text + "'"};
  return unit == "%" ? value / 100 : value;
}

/// "2ms", "350us" -> microseconds.
Result<double> microseconds_of(const std::string& text) {
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  const std::string unit = end;
  const double scale = unit == "ms" ? 1e3 : unit == "us" ? 1 : unit == "s" ? 1e6 : 0;
  if (end == text.c_str() || scale == 0 || !(value > 0)) return Error{ErrorCode::usage, "--latency", "a time per token such as 2ms or 350us", "'" + text + "'"};
  return value * scale;
}

/// Least summed KL within a decode time per token: the same exact knapsack, microseconds in place of bytes.
Result<Allocation> allocate_latency(const AllocationProblem& problem, double limit, const std::string& path) {
  KLENS_TRY(const Json timings, read_json(path));
  KLENS_TRY(const double whole, json_number(timings, "decode_microseconds", path, 0, 1e12));
  KLENS_TRY(const Json* const entries, json_array(timings, "entries", path));
  std::map<std::pair<std::string, std::string>, double> times;
  for (const Json& e : *entries) {
    KLENS_TRY(const std::string component, json_string(e, "component", path));
    KLENS_TRY(const std::string format, json_string(e, "format", path));
    KLENS_TRY(times[(std::pair{component, format})], json_number(e, "microseconds", path, 0, 1e12));
  }
  double rest = whole;   // what no format changes: scan, attention, norms, and the barriers
  std::vector<std::vector<Option>> items;
  for (const AllocationItem& item : problem.items) {
    auto& options = items.emplace_back();
    for (const Candidate& c : item.candidates) {
      const auto it = times.find({item.component, format_name(c.format)});
      if (it == times.end()) return Error{ErrorCode::missing, path, "a time of '" + item.component + "' in " + format_name(c.format) + " (klens bench model --formats ...)", "none"};
      options.push_back({it->second, c.kl_pq});
    }
    rest -= options.front().weight;
  }
  const Selection s = knapsack(items, limit - std::max(rest, 0.0));
  if (!s.feasible) return Error{ErrorCode::usage, "--latency", fmt::format("at least {:.0f} us per token with these formats", s.weight + std::max(rest, 0.0)), fmt::format("{:.0f} us", limit)};
  Allocation a = allocation_of(problem, s.picks);
  a.gap = s.gap;
  return a;
}

/// State formats into the skeleton of a plan; make_plan refuses what breaks a rule.
Result<void> give_states(RuntimePlan& plan, std::span<const StateChoice> choices) {
  std::vector<StateSite> sites;
  for_each_state(plan, [&](const StateSite& site) { sites.push_back(site); });
  for (const StateChoice& choice : choices)
    for (const StateSite& site : sites) {
      if (choice.kind && *choice.kind != site.kind) continue;
      if (!state_allowed(site.kind, choice.format))
        return Error{ErrorCode::usage, "--states", site.kind == StateKind::kv ? "f32, f16, s8 or s4 for a KV cache" : "f32, f16, s16 or s8 for a state",
                     std::string(name_of(choice.format))};
      set_state(plan, site.kind, site.layer, choice.format);
    }
  return {};
}

/// The plan for llama-quantize; what it has no words for is counted.
Result<void> write_tensor_types(const PlanDocument& plan, const std::string& path) {
  KLENS_TRY(const GgufTypes types, gguf_types(plan));
  KLENS_OK(write_file(path, types.text));
  fmt::print(stderr, "{}: {} tensors; left out: {} states, {} activation formats\n", path, types.lines, types.states, types.activations);
  if (types.experts > 0)
    fmt::print(stderr, "{}: {} linears of experts would have another type: those of a layer share a tensor, in the type of most bits among theirs\n",
               path, types.experts);
  return {};
}

Result<void> write_plans(const Options& o, const PlanDocument& plan, const std::string& output, const std::string& header) {
  if (!output.empty()) KLENS_OK(write_plan(output, plan));
  if (!header.empty()) KLENS_OK(write_plan_header(header, plan));
  if (!o.common.json) fmt::print("{}: {} bytes, {:.3f} bits per weight\n", output.empty() ? "plan" : output, weight_bytes(plan), bits_per_weight(plan));
  return {};
}

/// plan.json -> plan.p03.json.
std::string numbered(const std::string& path, int point) {
  const auto dot = path.rfind('.');
  return fmt::format("{}.p{:02}{}", path.substr(0, dot), point, dot == std::string::npos ? ".json" : path.substr(dot));
}

Result<void> run(const Options& o) {
  KLENS_TRY(Sensitivity s, read_sensitivity(o.sensitivity));
  if (!s.reference && !o.model.empty()) {   // a file of others: shapes and bytes come from the checkpoint
    KLENS_TRY(Model checkpoint, load_model(o.model));
    KLENS_OK(attach_reference(s, checkpoint));
  }
  std::vector<Precision> allowed;
  for (const auto& name : split_list(o.formats)) {
    const auto p = parse_format(name);
    if (!p) return Error{ErrorCode::usage, "--formats", "format names such as w4g32", "'" + name + "'"};
    allowed.push_back(*p);
  }
  const FormatFilter filter = allowed.empty() ? FormatFilter{} : [&](const Precision& p) { return std::find(allowed.begin(), allowed.end(), p) != allowed.end(); };
  // States chosen by hand are the plan's skeleton; under --ram the knapsack chooses among the measured ones.
  std::vector<StateChoice> states;
  if (!o.states.empty()) {
    KLENS_TRY(states, parse_states(o.states));
    if (s.reference) KLENS_OK(give_states(s.reference->plan, states));
  }
  const bool states_are_items = !o.ram.empty() && o.states.empty();
  KLENS_TRY(const AllocationProblem problem, allocation_problem(s, filter, states_are_items ? o.context : 0));
  std::vector<std::pair<std::string, std::string>> provenance = {{"made by", "klens " KLENS_VERSION}, {"method", o.method}, {"measured on", s.text}};

  if (o.method == "segments") {
    const auto plans = allocate_segments(problem);
    nlohmann::json list = nlohmann::json::array();
    for (std::size_t i = 0; i < plans.size(); ++i) {
      KLENS_TRY(const PlanDocument plan, plan_of(s, problem, plans[i], provenance));
      const std::string path = o.output.empty() ? "" : numbered(o.output, int(i + 1));
      KLENS_OK(write_plans(o, plan, path, ""));
      list.push_back({{"plan", path}, {"bytes", weight_bytes(plan)}, {"kl", plans[i].kl}});
    }
    if (o.common.json) fmt::print("{}\n", list.dump());
    return {};
  }

  std::optional<Model> model;
  std::vector<std::int32_t> ids;
  KLENS_TRY(const KernelTable* const table, choose_table(o.common.isa));
  const Program program = generic_program(*table);
  ThreadTeam team(o.common.thread_count());
  if (!o.model.empty()) {
    KLENS_TRY(model, load_model(o.model));
    KLENS_OK(apply_states(*model, states));
  }
  if (!o.text.empty()) {
    KLENS_TRY(ids, ids_of_text(o.model, o.text));
  }
  EvaluateOptions evaluation;
  evaluation.windows = o.windows, evaluation.text_name = stem_of(o.text), evaluation.cancel = &interrupted;

  Allocation choice;
  std::int64_t budget = std::numeric_limits<std::int64_t>::max();
  if (o.method == "greedy") {
    if (!model || ids.empty()) return Error{ErrorCode::usage, "--method greedy", "--model MODEL --text FILE: it keeps what perplexity allows", "neither or one"};
    Progress progress("plan");
    KLENS_TRY(choice, allocate_greedy(problem, ppl_on(*model, program, problem, ids, team.team(), evaluation), o.gamma, [&](int done, int total) { progress(done, total); }));
    KLENS_OK(model->set_reference());
    provenance.emplace_back("budget", fmt::format("PPL at most {} times the reference's on {}", o.gamma, stem_of(o.text)));
  } else if (!o.bytes.empty() || o.bpw > 0 || !o.ram.empty()) {
    std::string from = o.bytes.empty() ? fmt::format("{} bits per weight", o.bpw) : o.bytes;
    if (!o.bytes.empty()) {
      KLENS_TRY(budget, bytes_of(o.bytes, "--bytes"));
    } else if (o.bpw > 0) {
      budget = bytes_for_bits(problem, o.bpw);
    } else {
      KLENS_TRY(const std::int64_t ram, bytes_of(o.ram, "--ram"));
      if (!model) return Error{ErrorCode::usage, "--ram", "--model MODEL: its state and work space count too", "no model"};
      KLENS_TRY(const Session session, Session::create(*model, program, team.team(), {.context = o.context}));
      std::int64_t rest = session.bytes();   // states that are items count there
      for (const AllocationItem& item : problem.items) rest -= item.state ? item.candidates.front().bytes : 0;
      budget = ram - rest;
      from = fmt::format("{} of memory less {} of {}work space at a context of {}", o.ram, bytes_text(rest), states_are_items ? "" : "state and ", o.context);
      if (budget <= 0) return Error{ErrorCode::usage, "--ram", "more than the " + bytes_text(rest) + " of state and work space", o.ram};
    }
    provenance.emplace_back("budget", fmt::format("{} bytes ({})", budget, from));
    KLENS_TRY(choice, allocate_bytes(problem, budget));
  } else if (!o.ppl.empty()) {
    KLENS_TRY(const double share, share_of(o.ppl));
    KLENS_TRY(choice, allocate_kl(problem, kl_for_ppl(share)));
    budget = choice.bytes;
    provenance.emplace_back("budget", fmt::format("predicted PPL at most +{:g} %", share * 100));
  } else {
    KLENS_TRY(const double limit, microseconds_of(o.latency));
    KLENS_TRY(choice, allocate_latency(problem, limit, o.timings));
    provenance.emplace_back("budget", fmt::format("{:g} us per decoded token by {}", limit, stem_of(o.timings)));
  }
  KLENS_TRY(PlanDocument plan, plan_of(s, problem, choice, provenance));

  nlohmann::json contenders = nlohmann::json::array();
  if (model && !ids.empty() && o.method == "knapsack") {
    // Promise 4: on the selection text nothing uniform that fits is better than what is returned.
    std::vector<Precision> uniform = uniform_formats(problem);
    for (const char* name : {"w8", "w6", "w5", "w4", "w4g32", "w3g32", "w3", "w2g32", "f16"})
      if (const auto p = *parse_format(name); std::find(uniform.begin(), uniform.end(), p) == uniform.end() && (allowed.empty() || filter(p))) uniform.push_back(p);
    KLENS_TRY(const std::vector<Contender> runs, run_contenders(*model, program, problem, choice, budget == std::numeric_limits<std::int64_t>::max() ? choice.bytes : budget, uniform, ids, team.team(), evaluation));
    const std::size_t best = best_of(runs);
    Table shown{{"on " + stem_of(o.text), "bytes", "PPL", "SE", ""}, {}};
    for (std::size_t i = 0; i < runs.size(); ++i) {
      contenders.push_back({{"name", runs[i].name}, {"bytes", runs[i].bytes}, {"ppl", runs[i].result.ppl}, {"ppl_se", runs[i].result.ppl_se}, {"chosen", i == best}});
      shown.rows.push_back({runs[i].name, std::to_string(runs[i].bytes), fmt::format("{:.3f}", runs[i].result.ppl), fmt::format("{:.3f}", runs[i].result.ppl_se), i == best ? "<- chosen" : ""});
    }
    if (!o.common.json) fmt::print("{}", shown.text());
    provenance.emplace_back("selected on", fmt::format("{}: PPL {:.3f}, the best of {} that fit", stem_of(o.text), runs[best].result.ppl, runs.size()));
    if (best != 0) {
      std::vector<PlanEntry> entries = runs[best].choices;
      KLENS_TRY(plan, make_plan(s.model, s.reference->plan, s.reference->small_bytes, std::move(entries), provenance, "plan for " + s.model,
                                      states_are_items ? o.context : s.reference->context));
    } else {
      KLENS_TRY(plan, plan_of(s, problem, choice, provenance));
    }
  } else if (!o.common.json && o.method == "knapsack") {
    fmt::print("not compared with uniform formats: give --model and --text for that\n");
  }
  KLENS_OK(write_plans(o, plan, o.output, o.header));
  if (!o.tensor_types.empty()) KLENS_OK(write_tensor_types(plan, o.tensor_types));
  if (!o.frontier.empty()) KLENS_OK(write_file(o.frontier, to_text(frontier_to_json(problem, allocation_frontier(problem)), 1) + "\n"));
  if (o.common.json)
    fmt::print("{}\n", nlohmann::json{{"plan", o.output}, {"header", o.header}, {"bytes", weight_bytes(plan)}, {"bits_per_weight", bits_per_weight(plan)}, {"kl", choice.kl},
                                      {"gap", choice.gap}, {"contenders", contenders}}.dump());
  else fmt::print("summed KL {} nat per token: PPL about +{:.2f} % predicted; {}\n", short_number(choice.kl), 100 * std::expm1(choice.kl), choice.gap == 0 ? "proven optimal" : "gap " + short_number(choice.gap));
  return {};
}

}  // namespace

void add_plan(CLI::App& app, int& status) {
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("plan", "Choose a format for every component under one budget: bytes, bits per weight, perplexity, latency or memory\n"
                                           "Example: klens plan sensitivity.json --bytes 2.4MiB --model examples/models/hymba-tiny --text examples/data/calibration.txt -o plan.json --header plan.hpp");
  add_common(*c, o->common);
  c->add_option("SENSITIVITY", o->sensitivity, "sensitivity.json of klens measure")->required();
  c->add_option("--bytes", o->bytes, "Payload: 4MiB, 2.5MB, 2500000");
  c->add_option("--bpw", o->bpw, "Bits per weight")->check(CLI::PositiveNumber);
  c->add_option("--ppl", o->ppl, "Predicted increase of perplexity: +1%");
  auto* latency = c->add_option("--latency", o->latency, "Time per decoded token: 2ms, 350us");
  latency->needs(c->add_option("--timings", o->timings, "timings.json of klens bench model, taken on the target"));
  c->add_option("--ram", o->ram, "Weights, state, KV cache and work space: 64MiB; chooses among states where they were measured (measure --kinds)");
  c->add_option("--states", o->states, fmt::format("{} (default: f32)", states_help));
  c->add_option("--context", o->context, "Tokens of context for --ram")->check(CLI::Range(1, 1 << 20))->capture_default_str();
  c->add_option("--method", o->method, "knapsack (exact), greedy or segments (the KL Lens paper's)")->check(CLI::IsMember({"knapsack", "greedy", "segments"}))->capture_default_str();
  c->add_option("--gamma", o->gamma, "greedy: keep a step while PPL is at most this many times the reference's")->check(CLI::Range(1.0, 100.0))->capture_default_str();
  c->add_option("--formats", o->formats, "Candidates, separated by commas (default: all in the file)");
  auto* model = c->add_option("--model", o->model, "Checkpoint folder or GGUF file, to run the plan and every uniform format that fits");
  c->add_option("--text", o->text, "Selection text")->needs(model);
  c->add_option("--windows", o->windows, "Windows of 256 tokens of the selection text")->check(CLI::Range(2, 1 << 20))->capture_default_str();
  c->add_option("-o,--output", o->output, "plan.json to write (segments: plan.p01.json to plan.p10.json)")->required();
  c->add_option("--header", o->header, "plan.hpp to write");
  c->add_option("--tensor-types", o->tensor_types, "FILE of NAME=TYPE lines to write, for llama-quantize --tensor-type-file");
  c->add_option("--frontier", o->frontier, "frontier.json to write: the best plan of every size");
  c->callback([o, &status] {
    const int budgets = !o->bytes.empty() + (o->bpw > 0) + !o->ppl.empty() + !o->latency.empty() + !o->ram.empty();
    const int wanted = o->method == "knapsack" ? 1 : 0;
    if (budgets != wanted)
      status = fail({ErrorCode::usage, "plan --method " + o->method, wanted ? "one budget: --bytes, --bpw, --ppl, --latency or --ram" : "no budget", fmt::format("{} of them", budgets)});
    else if (o->method == "segments" && !o->tensor_types.empty())
      status = fail({ErrorCode::usage, "plan --method segments", "no --tensor-types: it makes ten plans", "--tensor-types"});
    else status = finish(run(*o));
  });
}

}  // namespace klens::cli
