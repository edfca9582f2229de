// klens doctor: what this machine can run, what was compiled in, and what would be chosen.
#include "common.hpp"
#include "policy.hpp"

#include <klens/report/table.hpp>
#include <klens/version.hpp>

#include <boost/version.hpp>
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <utf8proc.h>
#include <xsimd/config/xsimd_config.hpp>

namespace klens::cli {
namespace {

std::string cpu_name() {
  unsigned words[12] = {};
  for (unsigned leaf = 0; leaf < 3; ++leaf)
    if (!__get_cpuid(0x80000002u + leaf, &words[4 * leaf], &words[4 * leaf + 1], &words[4 * leaf + 2], &words[4 * leaf + 3])) return "unknown";
  std::string name(reinterpret_cast<const char*>(words), sizeof words);
  name = name.substr(0, name.find('\0'));
  const auto first = name.find_first_not_of(' '), last = name.find_last_not_of(' ');
  return first == std::string::npos ? "unknown" : name.substr(first, last - first + 1);
}

std::string_view tiles_text() {
  switch (tiles_of_process()) {
    case Tiles::granted: return "granted by the system";
    case Tiles::refused: return "refused by the system (Linux before 5.16, or a sandbox): level amx_int8 is absent";
    default: return "none in this CPU";
  }
}

Result<void> run(const Common& common) {
  const Features cpu = detect();
  KLENS_TRY(const KernelTable* const chosen, choose_table(common.isa));
  const std::vector<std::pair<std::string, std::string>> libraries = {
      {"xsimd", fmt::format("{}.{}.{}", XSIMD_VERSION_MAJOR, XSIMD_VERSION_MINOR, XSIMD_VERSION_PATCH)},
      {"Boost", fmt::format("{}.{}.{}", BOOST_VERSION / 100000, BOOST_VERSION / 100 % 1000, BOOST_VERSION % 100)},
      {"nlohmann/json", fmt::format("{}.{}.{}", NLOHMANN_JSON_VERSION_MAJOR, NLOHMANN_JSON_VERSION_MINOR, NLOHMANN_JSON_VERSION_PATCH)},
      {"fmt", fmt::format("{}.{}.{}", FMT_VERSION / 10000, FMT_VERSION / 100 % 100, FMT_VERSION % 100)},
      {"CLI11", CLI11_VERSION},
      {"PCRE2", fmt::format("{}.{}", PCRE2_MAJOR, PCRE2_MINOR)},
      {"utf8proc", utf8proc_version()}};
  nlohmann::json levels = nlohmann::json::array(), versions = nlohmann::json::object();
  Table table{{"level", "compiled in", "this CPU", "needs", "kernels", ""}, {}};
  for (Level level : all_levels) {
    const bool compiled = table_of(level) != nullptr, runs = supports(cpu, level), is_chosen = chosen->level == level;
    levels.push_back({{"level", name_of(level)}, {"compiled", compiled}, {"cpu", runs}, {"chosen", is_chosen}, {"base", name_of(base_of(level))},
                      {"kernels", compiled ? kernel_count(*table_of(level)) : 0}, {"own_kernels", compiled ? kernel_count(*own_table_of(level)) : 0}});
    table.rows.push_back({std::string(name_of(level)), compiled ? "yes" : "no", runs ? "yes" : "no", feature_list(needs(level)), kernels_text(level),
                          is_chosen ? "<- chosen" : ""});
  }
  for (const auto& [name, version] : libraries) versions[name] = version;
  const Result<Program> fast = fast_program(*chosen);
  nlohmann::json policies = {"exact"};
  if (fast) policies.push_back("fast");
  if (common.json) {
    fmt::print("{}\n", nlohmann::json{{"klens", KLENS_VERSION}, {"cpu", cpu_name()}, {"features", feature_list(cpu)}, {"tiles", tiles_text()}, {"threads", common.thread_count()},
                                      {"level", name_of(chosen->level)}, {"policies", policies}, {"levels", levels},
                                      {"libraries", versions}}.dump(1));
    return {};
  }
  fmt::print("klens {}, compiled by {}\n", KLENS_VERSION, __VERSION__);
  fmt::print("CPU: {}, {} threads\nfeatures: {}\nAMX tiles: {}\n\n{}\n", cpu_name(), common.thread_count(), feature_list(cpu), tiles_text(), table.text());
  fmt::print("kernels of every site run on level {}: {}\n", name_of(chosen->level), kernels_text(chosen->level));
  fmt::print("--policy fast: {}\n",
             fast ? "bf16 weights with f32 activations by bf16 products" : fast.error().message());
  std::string line;
  for (const auto& [name, version] : libraries) line += (line.empty() ? "" : ", ") + name + " " + version;
  fmt::print("libraries: {}\n", line);
  return {};
}

}  // namespace

void add_doctor(CLI::App& app, int& status) {
  auto o = std::make_shared<Common>();
  CLI::App* c = app.add_subcommand("doctor", "What this CPU has, which ISA levels were compiled in, and which one is chosen\nExample: klens doctor --isa avx2");
  add_common(*c, *o);
  c->callback([o, &status] { status = finish(run(*o)); });
}

}  // namespace klens::cli
