// klens audit and compare: does a metric rank what matters; are two measurements alike.
#include "common.hpp"
#include "text.hpp"

#include <klens/lens/audit.hpp>
#include <klens/lens/compare.hpp>
#include <klens/model/generic.hpp>
#include <klens/report/table.hpp>

namespace klens::cli {
namespace {

struct Options {
  Common common;
  std::vector<std::string> files;
  std::string model, text, output;
  int windows = 24;
  bool skip_head = false;
};

std::string interval(const Interval& i) { return std::isnan(i.low) ? "" : fmt::format("{:.3f} to {:.3f}", i.low, i.high); }

Result<void> run_audit(const Options& o) {
  KLENS_TRY(const Sensitivity s, read_sensitivity(o.files.front()));
  std::optional<MeasuredNll> measured;
  if (!o.text.empty()) {
    KLENS_TRY(const KernelTable* const table, choose_table(o.common.isa));
    KLENS_TRY(Model model, load_model(o.model));
    KLENS_TRY(const std::vector<std::int32_t> ids, ids_of_text(o.model, o.text));
    ThreadTeam team(o.common.thread_count());
    Progress progress("audit");
    MeasureNllOptions options;
    options.windows = o.windows, options.text_name = stem_of(o.text);
    options.progress = [&](std::int64_t done, std::int64_t total) { progress(done, total); };
    options.cancel = &interrupted;
    KLENS_TRY(measured, measure_nll(model, generic_program(*table), ids, team.team(), s, options));
  }
  AuditOptions options;
  options.skip_head = o.skip_head || s.published;
  KLENS_TRY(Audit a, audit(s, measured ? &*measured : nullptr, options));
  if (measured) a.text = stem_of(o.text);
  const Json out = audit_to_json(a);
  if (!o.output.empty()) KLENS_OK(write_file(o.output, to_text(out, 1) + "\n"));
  if (o.common.json) {
    fmt::print("{}\n", to_text(out, 1));
    return {};
  }
  Table table{{"format", "metric", "tau-b", "95 % interval", "ceiling", "n", "marked"}, {}};
  for (const AuditRow& r : a.rows)
    table.rows.push_back({r.format, std::string(name_of(r.metric)), fmt::format("{:.4f}", r.tau.value), interval(r.tau), std::isnan(r.ceiling) ? "" : fmt::format("{:.3f}", r.ceiling),
                          std::to_string(r.n), std::to_string(r.marked)});
  fmt::print("{}tau-b of each metric against dPPL ({}); intervals by bootstrap over {}; ceiling: dPPL of the two halves of the text against each other;\n"
             "marked: entries under max(floor, 2 standard errors)\n",
             table.text(), measured ? "measured on " + stem_of(o.text) : "the file's column", a.by_windows ? "windows" : "components");
  return {};
}

Result<void> run_compare(const Options& o) {
  KLENS_TRY(const Sensitivity a, read_sensitivity(o.files[0]));
  KLENS_TRY(const Sensitivity b, read_sensitivity(o.files[1]));
  KLENS_TRY(const std::vector<ComparisonRow> rows, compare(a, b));
  const Json out = comparison_to_json(rows);
  if (!o.output.empty()) KLENS_OK(write_file(o.output, to_text(out, 1) + "\n"));
  if (o.common.json) {
    fmt::print("{}\n", to_text(out, 1));
    return {};
  }
  Table table{{"format", "metric", "tau-b", "95 % interval", "top 5 shared", "top 10 shared", "sum B / sum A", "n"}, {}};
  const auto share = [](double v) { return std::isnan(v) ? std::string() : fmt::format("{:.0f} %", 100 * v); };
  for (const ComparisonRow& r : rows)
    table.rows.push_back({r.format, std::string(name_of(r.metric)), fmt::format("{:.4f}", r.tau.value), interval(r.tau), share(r.top5), share(r.top10), fmt::format("{:.3f}", r.ratio), std::to_string(r.n)});
  fmt::print("{}", table.text());
  return {};
}

}  // namespace

void add_audit(CLI::App& app, int& status) {
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("audit", "Kendall tau-b of every metric against dPPL: measured now, or the file's own column\n"
                                            "Example: klens audit sensitivity.json examples/models/hymba-tiny --text examples/data/heldout.txt -o audit.json");
  add_common(*c, o->common);
  o->files.resize(1);
  c->add_option("SENSITIVITY", o->files[0], "sensitivity.json, or a file of the KL Lens authors")->required();
  auto* model = c->add_option("MODEL", o->model, "Checkpoint folder or GGUF file, to measure dPPL now");
  auto* text = c->add_option("--text", o->text, "Text to measure dPPL on");
  model->needs(text), text->needs(model);
  c->add_option("--windows", o->windows, "Windows of 256 tokens of that text")->check(CLI::Range(2, 1 << 20))->capture_default_str();
  c->add_flag("--skip-head", o->skip_head, "Leave the LM head out, as the KL Lens authors did (always for their files)");
  c->add_option("-o,--output", o->output, "JSON file to write (report reads audit.json)");
  c->callback([o, &status] { status = finish(run_audit(*o)); });
}

void add_compare(CLI::App& app, int& status) {
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("compare", "How stable the ranking is between two measurements\nExample: klens compare a.json b.json");
  add_common(*c, o->common);
  o->files.resize(2);
  c->add_option("A", o->files[0], "sensitivity.json")->required();
  c->add_option("B", o->files[1], "sensitivity.json")->required();
  c->add_option("-o,--output", o->output, "JSON file to write");
  c->callback([o, &status] { status = finish(run_compare(*o)); });
}

}  // namespace klens::cli
