// klens eval: one row per artefact: perplexity with its error on each text, KL and top-1, bytes, speed.
#include "common.hpp"
#include "policy.hpp"
#include "text.hpp"

#include <klens/lens/by_position.hpp>
#include <klens/lens/evaluate.hpp>
#include <klens/lens/speed.hpp>
#include <klens/quant/apply.hpp>
#include <klens/report/report.hpp>

namespace klens::cli {
namespace {

struct Options {
  Common common;
  std::vector<std::string> models, texts;
  std::string against, output, states;
  Policy policy = Policy::exact;
  int windows = 0, positions = 16384;
  bool no_speed = false, by_position = false;
};

/// A file in the formats it holds, or with other states.
Result<Model> load(const std::string& path, const std::string& states) {
  KLENS_TRY(Model model, load_model(path));
  KLENS_OK(apply_states(model, states));
  return model;
}

std::string name_of_row(const Options& o, const std::string& path) { return stem_of(path) + (o.states.empty() ? "" : " " + o.states); }

/// plan, uniform, or reference (float weights throughout).
std::string kind_of(const Model& model) {
  if (model.packed_info() != nullptr && !model.packed_info()->plan_json.empty()) return "plan";
  for (int c = 0; c < int(model.components().size()); ++c)
    if (const Grid g = model.precision(c).scheme.grid; g == Grid::uniform || g == Grid::nf4) return "uniform";
  return "reference";
}

/// The uniform row a plan is compared with: the smallest that is at least as large; where there is none, the largest.
int rival_of(const nlohmann::json& rows, std::size_t plan) {
  int best = -1;
  const auto bytes = [&](int r) { return rows[std::size_t(r)]["bytes"].get<std::int64_t>(); };
  const auto size = bytes(int(plan));
  for (int r = 0; r < int(rows.size()); ++r) {
    if (rows[std::size_t(r)]["kind"] != "uniform") continue;
    if (best < 0) best = r;
    else if (bytes(r) >= size ? bytes(best) < size || bytes(r) < bytes(best) : bytes(best) < size && bytes(r) > bytes(best)) best = r;
  }
  return best;
}

/// One long window of the first text: KL by position, one table per file.
Result<void> run_by_position(const Options& o) {
  KLENS_TRY(const KernelTable* const table, choose_table(o.common.isa));
  KLENS_TRY(const Program program, program_for(*table, o.policy));
  ThreadTeam team(o.common.thread_count());
  KLENS_TRY(const Model reference, load_model(o.against));
  KLENS_TRY(const std::vector<std::int32_t> ids, ids_of_text(o.against, o.texts.front()));
  nlohmann::json rows = nlohmann::json::array();
  Progress progress("eval");
  for (std::size_t m = 0; m < o.models.size(); ++m) {
    KLENS_TRY(const Model model, load(o.models[m], o.states));
    ByPositionOptions options;
    options.positions = o.positions, options.text_name = stem_of(o.texts.front()), options.cancel = &interrupted;
    options.progress = [&](std::int64_t done, std::int64_t all) { progress(std::int64_t(m) * all + done, std::int64_t(o.models.size()) * all); };
    KLENS_TRY(const ByPosition result, kl_by_position({&model, program}, {&reference, generic_program(*table)}, ids, team.team(), options));
    nlohmann::json buckets = nlohmann::json::array();
    for (const PositionBucket& b : result.buckets)
      buckets.push_back({{"begin", b.begin}, {"end", b.end}, {"kl_pq", b.kl_pq.mean}, {"kl_pq_se", b.kl_pq.se}, {"kl_pq_p50", b.kl_pq.p50}, {"kl_pq_p99", b.kl_pq.p99},
                         {"kl_pq_max", b.kl_pq.max}, {"kl_qp", b.kl_qp.mean}, {"top1", b.top1}, {"delta_nll", b.delta_nll}});
    rows.push_back({{"name", name_of_row(o, o.models[m])}, {"file", o.models[m]}, {"tokens", result.tokens}, {"buckets", buckets}});
  }
  progress.clear();
  const std::string machine = fmt::format("level {}, {} threads{}", name_of(table->level), o.common.thread_count(), o.policy == Policy::fast ? ", policy fast" : "");
  const nlohmann::json out = {{"schema", "klens.by_position/1"}, {"model", stem_of(o.against)}, {"text", stem_of(o.texts.front())}, {"machine", machine}, {"rows", rows}};
  if (!o.output.empty()) KLENS_OK(write_file(o.output, to_text(out, 1) + "\n"));
  if (o.common.json) {
    fmt::print("{}\n", to_text(out, 1));
    return {};
  }
  for (const auto& row : rows) {
    Table shown{{row["name"].get<std::string>() + ": positions", "KL(p||q)", "SE", "p50", "p99", "max", "top-1 %", "dNLL"}, {}};
    for (const auto& b : row["buckets"]) {
      const auto number = [&b](const char* key) { return b[key].is_number() ? fmt::format("{:.2e}", b[key].get<double>()) : std::string("-"); };
      shown.rows.push_back({fmt::format("{} .. {}", b["begin"].get<int>(), b["end"].get<int>() - 1), number("kl_pq"), number("kl_pq_se"), number("kl_pq_p50"),
                            number("kl_pq_p99"), number("kl_pq_max"), fmt::format("{:.2f}", 100 * b["top1"].get<double>()), number("delta_nll")});
    }
    fmt::print("{}\n", shown.text());
  }
  fmt::print("One window of {}, against {}: nat per token by position in the text; {}\n", stem_of(o.texts.front()), stem_of(o.against), machine);
  return {};
}

Result<void> run(const Options& o) {
  KLENS_TRY(const KernelTable* const table, choose_table(o.common.isa));
  KLENS_TRY(const Program program, program_for(*table, o.policy));
  const Program exact = generic_program(*table);  // of the reference, under either policy
  ThreadTeam team(o.common.thread_count());
  std::optional<Model> reference;
  if (!o.against.empty()) {
    KLENS_TRY(reference, load_model(o.against));
  }
  std::vector<std::vector<std::int32_t>> ids;
  for (const auto& text : o.texts) {
    KLENS_TRY(ids.emplace_back(), ids_of_text(o.against.empty() ? o.models.front() : o.against, text));
  }
  nlohmann::json rows = nlohmann::json::array();
  std::string policies;  // of the rows, where the policy is fast
  std::vector<std::vector<Evaluation>> results;
  Progress progress("eval");
  const std::int64_t total = std::int64_t(o.models.size() * o.texts.size());
  for (const auto& path : o.models) {
    KLENS_TRY(const Model model, load(path, o.states));
    nlohmann::json texts = nlohmann::json::array();
    auto& evaluations = results.emplace_back();
    for (std::size_t t = 0; t < ids.size(); ++t) {
      EvaluateOptions options;
      options.windows = o.windows, options.text_name = stem_of(o.texts[t]), options.cancel = &interrupted;
      const std::int64_t before = std::int64_t((results.size() - 1) * ids.size() + t);
      options.progress = [&](std::int64_t done, std::int64_t all) { progress(before * 1000 + done * 1000 / all, total * 1000); };
      const Runner runner{&model, program}, teacher{reference ? &*reference : nullptr, exact};
      KLENS_TRY(evaluations.emplace_back(), evaluate(runner, ids[t], team.team(), options, reference ? &teacher : nullptr));
      const Evaluation& e = evaluations.back();
      nlohmann::json row = {{"text", options.text_name}, {"ppl", e.ppl}, {"ppl_se", e.ppl_se}, {"windows", e.windows}};
      if (e.compared) {
        const Estimate delta = estimate(e.delta_nll);
        row.update({{"kl_pq", e.kl_pq.mean}, {"kl_pq_se", e.kl_pq.se}, {"kl_qp", e.kl_qp.mean}, {"kl_pq_p99", e.kl_pq.p99}, {"top1", e.top1}, {"mse", e.mse},
                    {"delta_nll", delta.mean}, {"delta_nll_se", delta.se}});
      }
      texts.push_back(row);
    }
    nlohmann::json row = {{"name", name_of_row(o, path)}, {"file", path}, {"kind", kind_of(model)}, {"bytes", model.payload_bytes()},
                          {"bits_per_weight", 8.0 * double(model.payload_bytes()) / double(model.parameters())}, {"texts", texts}};
    if (!o.no_speed) {
      KLENS_TRY(const Speed speed, measure_speed(model, program, team.team()));
      row.update({{"prefill_tokens_per_second", speed.prefill_tokens_per_second}, {"decode_tokens_per_second", speed.decode_tokens_per_second}});
    }
    name_policy(row, model, program);
    if (o.policy == Policy::fast) policies += fmt::format("{}: {}\n", stem_of(path), policy_text(model, program));
    rows.push_back(std::move(row));
  }
  progress.clear();

  nlohmann::json verdicts = nlohmann::json::array();
  for (std::size_t r = 0; r < rows.size(); ++r) {
    if (rows[r]["kind"] != "plan") continue;
    const int rival = rival_of(rows, r);
    if (rival < 0) continue;
    for (std::size_t t = 0; t < ids.size(); ++t) {
      KLENS_TRY(const PairedDifference d, paired_difference(results[r][t], results[std::size_t(rival)][t]));
      verdicts.push_back({{"plan", rows[r]["name"]}, {"against", rows[std::size_t(rival)]["name"]}, {"text", rows[r]["texts"][t]["text"]}, {"delta_nll", d.mean}, {"se", d.se},
                          {"bound", d.bound}, {"verdict", verdict_of(d)}});
    }
  }
  const std::string policy = o.policy == Policy::fast ? ", policy fast" : "";
  const std::string machine =
      fmt::format("level {}, {} threads{}", name_of(table->level), o.common.thread_count(), policy);
  nlohmann::json out = {{"schema", "klens.eval/1"},
                        {"model", stem_of(o.against.empty() ? o.models.front() : o.against)},
                        {"machine", machine},
                        {"rows", rows},
                        {"verdicts", verdicts}};
  if (o.policy == Policy::fast) out["policy"] = name_of(o.policy);
  if (!o.output.empty()) KLENS_OK(write_file(o.output, to_text(out, 1) + "\n"));
  if (o.common.json) {
    fmt::print("{}\n", to_text(out, 1));
    return {};
  }
  fmt::print("{}", klens::detail::eval_table(out).text());
  if (const Table table_of_verdicts = klens::detail::verdict_table(out); !table_of_verdicts.rows.empty()) fmt::print("\n{}", table_of_verdicts.text());
  fmt::print("\nPPL +- one standard error; KL and top-1 on {}{}; dNLL: plan minus uniform, paired by windows, "
             "nat per token; {}\n{}",
             stem_of(o.texts.front()),
             o.against.empty() ? " (none: give --against)" : ", against " + stem_of(o.against), machine, policies);
  return {};
}

}  // namespace

void add_eval(CLI::App& app, int& status) {
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("eval", "Perplexity with its error, KL, top-1, bytes and speed: one row for each file\n"
                                           "Example: klens eval w4.klens plan.klens --against examples/models/hymba-tiny --text examples/data/heldout.txt");
  add_common(*c, o->common);
  add_policy(*c, o->policy);
  c->add_option("MODELS", o->models, "Checkpoint folders, GGUF and .klens files")->required();
  c->add_option("--text", o->texts, "Text file; may come several times")->required()->expected(1)->take_all();
  c->add_option("--against", o->against, "Reference for KL and top-1 (the checkpoint)");
  c->add_option("--windows", o->windows, "Windows of 256 tokens of each text (0: all)")->check(CLI::Range(0, 1 << 20))->capture_default_str();
  c->add_option("--states", o->states, "Run the files with other states: s8, or scan=s8,conv=s16,kv=s4");
  auto* by_position = c->add_flag("--by-position", o->by_position, "KL by position in one long window of the text, in place of the table: does it drift?");
  c->add_option("--positions", o->positions, "Tokens of that window at most")->check(CLI::Range(16, 1 << 20))->needs(by_position)->capture_default_str();
  c->add_flag("--no-speed", o->no_speed, "Leave the speed columns out");
  c->add_option("-o,--output", o->output, "eval.json to write");
  c->callback([o, &status] {
    if (o->by_position && (o->against.empty() || o->texts.size() != 1))
      status = fail({ErrorCode::usage, "eval --by-position", "--against MODEL and one --text", o->against.empty() ? "no reference" : fmt::format("{} texts", o->texts.size())});
    else status = finish(o->by_position ? run_by_position(*o) : run(*o));
  });
}

}  // namespace klens::cli
