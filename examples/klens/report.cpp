// klens report: the page of a run folder.
#include "common.hpp"

#include <klens/io/atomic_file.hpp>
#include <klens/report/report.hpp>

namespace klens::cli {
namespace {

struct Options {
  Common common;
  std::string folder, output;
};

Result<void> run(const Options& o) {
  KLENS_TRY(const std::string page, report_page(o.folder));
  const std::string path = o.output.empty() ? o.folder + "/report.html" : o.output;
  KLENS_OK(write_file(path, page));
  if (o.common.json) fmt::print("{}\n", nlohmann::json{{"report", path}}.dump());
  else fmt::print("{}\n", path);
  return {};
}

}  // namespace

void add_report(CLI::App& app, int& status) {
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("report", "Make report.html from sensitivity.json, audit.json, plan*.json, frontier.json and eval.json of a folder\n"
                                             "Example: klens report out -o report.html");
  add_common(*c, o->common);
  c->add_option("RUN_DIR", o->folder, "Folder that holds the files")->required();
  c->add_option("-o,--output", o->output, "Page to write (default: RUN_DIR/report.html)");
  c->callback([o, &status] { status = finish(run(*o)); });
}

}  // namespace klens::cli
