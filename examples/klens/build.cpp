// klens build: the program specialised to a plan, through klens_add_model().
#include "common.hpp"
#include "text.hpp"

#include <klens/io/plan_json.hpp>
#include <klens/report/specialised_project.hpp>

namespace klens::cli {
namespace {

struct Options {
  Common common;
  std::string plan, levels, folder, name = "specialised", klens;
};

/// Levels that this machine runs, strongest only: the default of a program built where it will run.
std::vector<std::string> native_levels() {
  for (int i = level_count; i-- > 0;)
    if (supports(detect(), all_levels[i])) return {std::string(name_of(all_levels[i]))};
  return {};
}

Result<void> run(const Options& o) {
  KLENS_TRY(const PlanDocument plan, read_plan(o.plan));
  ProjectOptions options;
  options.name = o.name;
  if (o.levels.empty()) options.levels = native_levels();
  else if (o.levels != "all") options.levels = split_list(o.levels);
#if defined(KLENS_SOURCE_DIR)
  options.klens_root = o.klens.empty() ? KLENS_SOURCE_DIR : o.klens;
#else
  options.klens_root = o.klens;
#endif
  options.jobs = std::min(o.common.thread_count(), 2);
  KLENS_OK(write_specialised_project(o.folder, plan, options));
  const auto start = std::chrono::steady_clock::now();
  KLENS_TRY(const std::string program, build_specialised_project(o.folder, options));
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (o.common.json) fmt::print("{}\n", nlohmann::json{{"program", program}, {"seconds", seconds}}.dump());
  else fmt::print("{} (built in {:.0f} s)\n", program, seconds);
  return {};
}

}  // namespace

void add_build(CLI::App& app, int& status) {
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("build", "Compile the model for a plan: one translation unit per ISA level\nExample: klens build --plan plan.json -o specialised");
  add_common(*c, o->common);
  c->add_option("--plan", o->plan, "plan.json")->required();
  c->add_option("--levels", o->levels, "Levels separated by commas, or all (default: the best level of this machine)");
  c->add_option("--name", o->name, "Name of the program")->capture_default_str();
  c->add_option("--klens", o->klens, "Source tree or install prefix of klens (default: where this program was built)");
  c->add_option("-o,--output", o->folder, "Folder for the project and its build")->required();
  c->callback([o, &status] { status = finish(run(*o)); });
}

}  // namespace klens::cli
