// klens bench kernels | model | table: what the kernels do here, beside what the machine can do. Timings of a model's
// components are the input of `plan --latency`.
#include "bench_levels.hpp"
#include "bench_table.hpp"
#include "common.hpp"
#include "policy.hpp"
#include "text.hpp"

#include <klens/io/atomic_file.hpp>
#include <klens/lens/speed.hpp>

#include <klens/report/table.hpp>

#include <charconv>

namespace klens::cli {
namespace {

struct Options {
  Common common;
  std::string model, output, formats = "f32,f16,w8,w8a8,w4,w4g32,w4g32a8,w3g32,w2g32,nf4g64";
  std::string shapes = "mamba-1.4b.head,lfm2-1.2b.o_proj", tokens = "128,512", threads, levels, kinds = "cold,hot,gemm";
  std::string run, reasons, rivals,
      kernel_formats = "f32,f16,bf16,w8,w8a16,w8a8,w6,w5,w4,w4a8,w3,w2,w4g32,w4g32a16,w4g32a8,nf4g64";
  int rows = 0, cols = 0, repeats = 7;
  Policy policy = Policy::exact;  // of bench model
  bool quick = false, no_rivals = false;
};

Result<Precision> format_of(const std::string& name) {
  const auto p = parse_format(name);
  if (!p) return Error{ErrorCode::usage, "--formats", "format names such as w4g32 or w8a8", "'" + name + "'"};
  return *p;
}

/// Decode time of one linear on one thread, its activations rounded within: microseconds, median of the repeats.
double decode_microseconds(LinearBench& bench, const KernelTable& table, int repeats) {
  const Team alone;
  const auto once = [&] { bench.quantize(table), bench.run(table, 0, alone); };
  once();
  const int inner = int(std::clamp(2e-3 / std::max(seconds_of(once), 1e-8), 1.0, 10000.0));
  std::vector<double> times;
  for (int r = 0; r < repeats; ++r)
    times.push_back(seconds_of([&] {
                      for (int i = 0; i < inner; ++i) once();
                    }) /
                    inner);
  return median(times) * 1e6;
}

Result<KernelsOptions> kernels_options(const Options& o) {
  KernelsOptions k;
  for (const auto& name : split_list(o.kernel_formats)) {
    KLENS_TRY(const Precision p, format_of(name));
    k.formats.emplace_back(name, p);
  }
  if (o.rows > 0 || o.cols > 0)
    k.shapes = {{"", o.rows > 0 ? o.rows : 2048, o.cols > 0 ? o.cols : 2048}};
  else {
    KLENS_TRY(k.shapes, shapes_named(split_list(o.shapes)));
  }
  const auto numbers = [](const std::string& list, const char* option, int most) -> Result<std::vector<int>> {
    std::vector<int> all;
    for (const auto& text : split_list(list)) {
      int n = 0;
      const auto end = text.data() + text.size();
      if (const auto r = std::from_chars(text.data(), end, n); r.ec != std::errc() || r.ptr != end || n < 1 || n > most)
        return Error{ErrorCode::usage, option, fmt::format("numbers from 1 to {}", most), "'" + text + "'"};
      all.push_back(n);
    }
    return all;
  };
  KLENS_TRY(k.tokens, numbers(o.tokens, "--tokens", 4096));
  if (!o.threads.empty()) {
    KLENS_TRY(k.threads, numbers(o.threads, "--threads", 256));
  } else {
    k.threads = {1};
    if (o.common.thread_count() > 1) k.threads.push_back(2);
  }
  k.rivals = o.no_rivals ? "" : !o.rivals.empty() ? o.rivals : beside_program("klens_rivals.so");
  for (const auto& kind : split_list(o.kinds)) {
    if (kind != "cold" && kind != "hot" && kind != "gemm")
      return Error{ErrorCode::usage, "--kinds", "cold, hot, gemm", "'" + kind + "'"};
    k.kinds.push_back(kind);
  }
  k.rounds.repeats = o.repeats;
  if (o.quick) k.rounds = {3, 3e-4, 0.1}, k.quick = true;
  if (!o.common.isa.empty() || std::getenv("KLENS_ISA")) {
    KLENS_TRY(const KernelTable* const chosen, choose_table(o.common.isa));
    k.levels = {chosen->level};
  } else if (!o.levels.empty()) {
    for (const auto& name : split_list(o.levels)) {
      KLENS_TRY(const KernelTable* const chosen, choose_table(name));
      k.levels.push_back(chosen->level);
    }
  } else {
    for (const Level level : all_levels)
      if (level != Level::ref && runnable(level)) k.levels.push_back(level);
    if (k.levels.empty()) k.levels = {Level::ref};
  }
  return k;
}

Result<void> bench_kernels(const Options& o) {
  KLENS_TRY(const KernelsOptions options, kernels_options(o));
  KLENS_TRY(const nlohmann::json run, run_kernels(options));
  if (!o.output.empty()) KLENS_OK(write_file(o.output, run.dump(1) + "\n"));
  if (o.common.json)
    fmt::print("{}\n", run.dump(1));
  else
    fmt::print("{}", bench_text(run));
  return {};
}

Result<void> bench_table(const Options& o) {
  KLENS_TRY(const nlohmann::json run, read_bench(o.run));
  nlohmann::json reasons = nlohmann::json::object();
  if (!o.reasons.empty()) {
    KLENS_TRY(const std::string text, read_text(o.reasons, 1 << 20));
    KLENS_TRY(reasons, parse_json(text, o.reasons));
  }
  const std::string page = bench_markdown(run, reasons);
  if (o.output.empty()) return void(fmt::print("{}", page)), Result<void>{};
  return write_file(o.output, page);
}

/// Decode time of every component in every format (one token, one thread), and the speed of the model as it is.
Result<void> bench_model(const Options& o) {
  KLENS_TRY(const KernelTable* const table, choose_table(o.common.isa));
  KLENS_TRY(const Program program, program_for(*table, o.policy));
  KLENS_TRY(Model model, load_model(o.model));
  ThreadTeam team(o.common.thread_count());
  const auto formats = split_list(o.formats);
  Progress progress("bench");
  std::map<std::tuple<int, int, std::string>, double> seen;  // equal shapes take equal time
  nlohmann::json rows = nlohmann::json::array();
  std::int64_t done = 0;
  for (const auto& c : model.components()) {
    for (const auto& name : formats) {
      if (interrupted) return Error{ErrorCode::interrupted, "bench", "", "interrupted"};
      KLENS_TRY(const Precision p, format_of(name));
      const bool fast = o.policy == Policy::fast && fast_linear_of(*table, p) != nullptr;
      auto [it, fresh] = seen.try_emplace({int(c.rows), int(c.cols), name}, 0.0);
      if (fresh) {
        KLENS_TRY(LinearBench bench, LinearBench::make(p, int(c.rows), int(c.cols), 1, 1, 1, fast));
        it->second = decode_microseconds(bench, *table, o.repeats);
      }
      rows.push_back({{"component", c.name}, {"format", name}, {"microseconds", it->second}});
      if (fast) rows.back()["policy"] = name_of(o.policy);
      progress(++done, std::int64_t(model.components().size() * formats.size()));
    }
  }
  progress.clear();
  KLENS_TRY(const Speed speed, measure_speed(model, program, team.team()));
  nlohmann::json out = {{"schema", "klens.timings/1"},
                              {"model", o.model},
                              {"level", name_of(table->level)},
                              {"threads", o.common.thread_count()},
                              {"prefill_tokens_per_second", speed.prefill_tokens_per_second},
                              {"decode_tokens_per_second", speed.decode_tokens_per_second},
                              {"decode_microseconds", 1e6 / speed.decode_tokens_per_second},
                              {"entries", rows}};
  name_policy(out, model, program);
  if (!o.output.empty()) KLENS_OK(write_file(o.output, out.dump(1) + "\n"));
  if (o.common.json)
    fmt::print("{}\n", out.dump(1));
  else {
    Table shown{{"rows x cols"}, {}};
    for (const auto& f : formats) {
      KLENS_TRY(const Precision p, format_of(f));
      const bool fast = o.policy == Policy::fast && fast_linear_of(*table, p) != nullptr;
      shown.header.push_back(fast ? f + " fast" : f);
    }
    std::map<std::pair<int, int>, std::map<std::string, double>> by_shape;
    for (const auto& [key, us] : seen) by_shape[{std::get<0>(key), std::get<1>(key)}][std::get<2>(key)] = us;
    for (const auto& [shape, times] : by_shape) {
      auto& cells = shown.rows.emplace_back();
      cells.push_back(fmt::format("{} x {}", shape.first, shape.second));
      for (const auto& f : formats) cells.push_back(fmt::format("{:.1f}", times.at(f)));
    }
    fmt::print("{}microseconds per token, one thread, level {}\n", shown.text(), name_of(table->level));
    fmt::print("{}: prefill {:.0f} tokens/s, decode {:.0f} tokens/s on {} threads{}\n", o.model,
               speed.prefill_tokens_per_second, speed.decode_tokens_per_second, o.common.thread_count(),
               o.policy == Policy::fast ? ", " + policy_text(model, program) : "");
  }
  return {};
}

}  // namespace

void add_bench(CLI::App& app, int& status) {
  auto o = std::make_shared<Options>();
  CLI::App* bench = app.add_subcommand("bench", "Time kernels, or a model's components");
  bench->require_subcommand(1);
  CLI::App* kernels = bench->add_subcommand(
      "kernels",
      "Linear kernels of every level and format, beside the limits of this machine and rivals\n"
      "Example: klens bench kernels --formats w8a8,w4g32 --shapes lfm2-1.2b --threads 1,2 -o kernels.json");
  CLI::App* model =
      bench->add_subcommand("model",
                            "Decode time of every component in every format, for plan --latency\nExample: klens bench "
                            "model examples/models/hymba-tiny -o timings.json");
  CLI::App* table = bench->add_subcommand(
      "table", "The page of a run of `bench kernels`\nExample: klens bench table kernels.json -o benchmarks.md");
  add_common(*model, o->common);
  add_policy(*model, o->policy);
  kernels->add_flag("--json", o->common.json, "Print JSON instead of text");
  kernels->add_option("--isa", o->common.isa, "One ISA level (default: KLENS_ISA, else every level this machine has)");
  kernels->add_option("--levels", o->levels, "ISA levels, separated by commas");
  kernels->add_option("--threads", o->threads, "Numbers of threads, separated by commas (default: 1 and 2)");
  for (CLI::App* c : {kernels, model}) {
    c->add_option("--formats", c == model ? o->formats : o->kernel_formats, "Formats, separated by commas")
        ->capture_default_str();
    c->add_option("--repeats", o->repeats, "Timed repeats; the median counts")
        ->check(CLI::Range(1, 1000))
        ->capture_default_str();
  }
  for (CLI::App* c : {kernels, model, table}) c->add_option("-o,--output", o->output, "File to write");
  kernels->add_option("--shapes", o->shapes, "Matrices by name: all, a model, model.projection")->capture_default_str();
  kernels->add_option("--rows", o->rows, "Outputs N of one matrix, instead of --shapes")->check(CLI::Range(1, 1 << 20));
  kernels->add_option("--cols", o->cols, "Inputs K of it")->check(CLI::Range(1, 1 << 17));
  kernels->add_option("--tokens", o->tokens, "Tokens of the prefill rows (decode, 1 token, is always there)")
      ->capture_default_str();
  kernels->add_option("--kinds", o->kinds, "Rows: cold (weights from memory), hot (from cache), gemm (prefill)")
      ->capture_default_str();
  kernels->add_option("--rivals", o->rivals, "Module with the rivals (default: klens_rivals.so beside the program)");
  kernels->add_flag("--no-rivals", o->no_rivals, "Time no rivals");
  kernels->add_flag("--quick", o->quick, "Short rounds: numbers to see that it runs");
  model->add_option("MODEL", o->model, "Checkpoint folder or .klens file")->required();
  table->add_option("RUN", o->run, "JSON of klens bench kernels")->required();
  table->add_option("--reasons", o->reasons, "JSON file with the reasons of rows that fall short");
  table->callback([o, &status] { status = finish(bench_table(*o)); });
  kernels->callback([o, &status] { status = finish(bench_kernels(*o)); });
  model->callback([o, &status] { status = finish(bench_model(*o)); });
}

}  // namespace klens::cli
