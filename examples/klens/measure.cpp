// klens measure: sensitivity.json of a model.
#include "common.hpp"
#include "text.hpp"

#include <klens/lens/measure.hpp>
#include <klens/model/generic.hpp>
#include <klens/report/table.hpp>

#include <regex>

namespace klens::cli {
namespace {

struct Options {
  Common common;
  std::string model, text, ids, output, formats, components, kinds = "weight";
  int tokens = 64 * 256, window = 256;
};

constexpr const char* weight_formats = "w8,w6,w4,w4g32,w3g32,w2g32";

/// Components or states whose names match.
template <class Named>
Result<std::vector<int>> matching(std::span<const Named> named, const std::string& pattern) {
  std::vector<int> found;
  try {
    const std::regex regex(pattern);
    for (std::size_t c = 0; c < named.size(); ++c)
      if (std::regex_search(named[c].name, regex)) found.push_back(int(c));
  } catch (const std::regex_error& e) {
    return Error{ErrorCode::usage, "--components", "a regular expression", "'" + pattern + "' (" + e.what() + ")"};
  }
  return found;
}

/// --formats and --kinds: a name goes to every kind asked for that has such a format.
Result<void> choose_formats(const Options& o, MeasureOptions& options) {
  const auto kinds = split_list(o.kinds);
  bool weights = false, states = false, caches = false;
  for (const auto& kind : kinds) {
    bool& wanted = kind == "weight" ? weights : kind == "state" ? states : caches;
    if (kind != "weight" && kind != "state" && kind != "cache") return Error{ErrorCode::usage, "--kinds", "weight, state or cache, separated by commas", "'" + kind + "'"};
    wanted = true;
  }
  if (o.formats.empty()) {
    if (weights) options.formats = split_list(weight_formats);
    if (states) options.state_formats = {State::f16, State::s16, State::s8};
    if (caches) options.cache_formats = {State::f16, State::s8, State::s4};
    return {};
  }
  for (const auto& name : split_list(o.formats)) {
    const auto state = parse_state(name);
    const bool of_scans = states && state && state_allowed(StateKind::scan, *state), of_caches = caches && state && state_allowed(StateKind::kv, *state);
    if (of_scans) options.state_formats.push_back(*state);
    if (of_caches) options.cache_formats.push_back(*state);
    const bool of_weights = weights && (!state || parse_format(name));
    if (of_weights) options.formats.push_back(name);
    if (!of_scans && !of_caches && !of_weights) return Error{ErrorCode::usage, "--formats", "formats of the kinds asked for (" + o.kinds + ")", "'" + name + "'"};
  }
  return {};
}

/// --components: the pattern picks among weights and states alike.
Result<void> choose_components(const Options& o, const Model& model, MeasureOptions& options) {
  if (o.components.empty()) return {};
  KLENS_TRY(options.components, matching(model.components(), o.components));
  KLENS_TRY(options.states, matching(model.states(), o.components));
  if (options.components.empty()) options.formats.clear();
  if (options.states.empty()) options.state_formats.clear(), options.cache_formats.clear();
  if (options.formats.empty() && options.state_formats.empty() && options.cache_formats.empty())
    return Error{ErrorCode::usage, "--components", "a pattern that matches a component of the model, of the kinds asked for", "'" + o.components + "'"};
  return {};
}

Result<void> run(const Options& o) {
  KLENS_TRY(const KernelTable* const table, choose_table(o.common.isa));
  KLENS_TRY(Model model, load_model(o.model));
  KLENS_TRY(const std::vector<std::int32_t> ids, o.ids.empty() ? ids_of_text(o.model, o.text) : ids_of_file(o.ids));
  MeasureOptions options;
  options.window = o.window, options.windows = o.tokens / o.window;
  if (options.windows < 1) return Error{ErrorCode::usage, "--tokens", fmt::format("at least one window of {} tokens", o.window), std::to_string(o.tokens)};
  KLENS_OK(choose_formats(o, options));
  KLENS_OK(choose_components(o, model, options));
  options.model_name = stem_of(o.model), options.text_name = stem_of(o.ids.empty() ? o.text : o.ids);
  Progress progress("measure");
  options.progress = [&](std::int64_t done, std::int64_t total) { progress(done, total); };
  options.cancel = &interrupted;
  ThreadTeam team(o.common.thread_count());
  const auto start = std::chrono::steady_clock::now();
  KLENS_TRY(const MeasureReport report, measure(model, generic_program(*table), ids, team.team(), o.output, options));
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  progress.clear();
  // What differs from run to run stays out of the measurement: equal work gives equal bytes.
  const nlohmann::json about = {{"seconds", seconds}, {"threads", o.common.thread_count()}, {"level", name_of(table->level)}, {"runs", report.runs}, {"resumed", report.resumed}};
  KLENS_OK(write_file(o.output + ".run.json", about.dump(1) + "\n"));
  if (o.common.json) fmt::print("{}\n", nlohmann::json{{"output", o.output}, {"entries", report.entries}, {"windows", report.windows}, {"run", about}}.dump());
  else fmt::print("{}: {} entries over {} windows in {:.1f} s (level {}, {} threads{})\n", o.output, report.entries, report.windows, seconds, name_of(table->level),
                  o.common.thread_count(), report.resumed > 0 ? fmt::format(", {} of {} runs resumed", report.resumed, report.runs) : "");
  return {};
}

}  // namespace

void add_measure(CLI::App& app, int& status) {
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("measure", "Measure what every component suffers from every format; a stopped run goes on where it stopped\n"
                                              "Example: klens measure examples/models/hymba-tiny --text examples/data/calibration.txt --tokens 4096 -o sensitivity.json");
  add_common(*c, o->common);
  c->add_option("MODEL", o->model, "Checkpoint folder or GGUF file")->required();
  auto* text = c->add_option("--text", o->text, "Text file to measure on");
  auto* ids = c->add_option("--ids", o->ids, "safetensors with input_ids in place of a text");
  text->excludes(ids);
  c->add_option("--tokens", o->tokens, "Tokens to use, whole windows")->check(CLI::Range(1, 1 << 30))->capture_default_str();
  c->add_option("--window", o->window, "Tokens per window")->check(CLI::Range(2, 1 << 16))->capture_default_str();
  c->add_option("--kinds", o->kinds, "What to measure: weight, state (scans and convolutions), cache (K and V)")->capture_default_str();
  c->add_option("--formats", o->formats, std::string("Formats, separated by commas; a8 and a16 alone: activations only (default: ") + weight_formats +
                                             "; states f16,s16,s8; caches f16,s8,s4)");
  c->add_option("--components", o->components, "Regular expression on component names (default: all)");
  c->add_option("-o,--output", o->output, "sensitivity.json to write")->required();
  c->callback([o, &status] {
    if (o->text.empty() && o->ids.empty()) status = fail({ErrorCode::usage, "measure", "--text FILE or --ids FILE", "neither"});
    else status = finish(run(*o));
  });
}

}  // namespace klens::cli
