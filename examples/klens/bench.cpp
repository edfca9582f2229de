// klens bench kernels | model | table: what the kernels do here, beside what the machine can do. Timings of a model's
// components are the input of `plan --latency`.
#include "bench_levels.hpp"
#include "bench_model.hpp"
#include "bench_model_text.hpp"
#include "bench_table.hpp"
#include "common.hpp"
#include "policy.hpp"
#include "text.hpp"

#include <klens/io/atomic_file.hpp>
#include <klens/io/plan_json.hpp>
#include <klens/lens/speed.hpp>
#include <klens/model/random_model.hpp>
#include <klens/plan/presets.hpp>
#include <klens/quant/apply.hpp>
#include <klens/report/table.hpp>

#include <charconv>

namespace klens::cli {
namespace {

struct Options {
  Common common;
  std::string model, output, formats;
  std::string like, plan, states, prefill, prompts;   // of bench model, as the next two
  int decode = 128, chunk = SessionOptions{}.chunk;
  bool synthetic = false, no_mmap = false;
  std::string shapes = "mamba-1.4b.head,lfm2-1.2b.o_proj", tokens = "128,512", threads, levels, kinds = "cold,hot,gemm";
  std::string run, reasons, rivals, only,
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

/// Numbers of a list, each in [least, most].
Result<std::vector<int>> numbers(const std::string& list, const char* option, int least, int most) {
  std::vector<int> all;
  for (const auto& text : split_list(list)) {
    int n = 0;
    const auto end = text.data() + text.size();
    if (const auto r = std::from_chars(text.data(), end, n); r.ec != std::errc() || r.ptr != end || n < least || n > most)
      return Error{ErrorCode::usage, option, fmt::format("numbers from {} to {}", least, most), "'" + text + "'"};
    all.push_back(n);
  }
  return all;
}

/// --threads, else one and every processor.
Result<std::vector<int>> thread_counts(const Options& o) {
  if (!o.threads.empty()) return numbers(o.threads, "--threads", 1, 256);
  std::vector<int> all = {1};
  if (o.common.thread_count() > 1) all.push_back(o.common.thread_count());
  return all;
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
  KLENS_TRY(k.tokens, numbers(o.tokens, "--tokens", 1, 4096));
  if (!o.threads.empty()) {
    KLENS_TRY(k.threads, numbers(o.threads, "--threads", 1, 256));
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
  if (!o.only.empty() && o.only != "sequence" && o.only != "linears")
    return Error{ErrorCode::usage, "--only", "sequence or linears", "'" + o.only + "'"};
  k.linears = o.only != "sequence", k.sequence = o.only != "linears";
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

Result<ModelBenchOptions> model_options(const Options& o) {
  ModelBenchOptions m;
  m.decode = o.decode, m.chunk = o.chunk, m.synthetic = o.synthetic || !o.like.empty();
  KLENS_TRY(m.threads, thread_counts(o));
  if (!o.prefill.empty()) {
    KLENS_TRY(m.prefill, numbers(o.prefill, "--prefill", 1, 1 << 16));
  }
  if (!o.prompts.empty()) {
    KLENS_TRY(m.prompts, numbers(o.prompts, "--prompts", 0, 1 << 20));
  } else if (m.synthetic) {
    m.prompts = {0, 1024, 8192};
  }
  return m;
}

Result<void> not_interrupted() {
  if (interrupted) return Error{ErrorCode::interrupted, "bench", "", "interrupted"};
  return {};
}

void print_runs(const std::string& title, const nlohmann::json& runs, bool synthetic) {
  for (const auto& run : runs) {
    const int threads = run["threads"];
    fmt::print("\n{}, {} thread{}{}\n{}\n{}", title, threads, threads == 1 ? "" : "s",
               synthetic ? "; prompts are not run: caches and states hold zeros" : "", speed_text(run), profile_text(run));
  }
}

std::string of_states(const Options& o) { return o.states.empty() ? "" : ", states " + o.states; }

/// Models with random weights in the shapes of a known one, in each of the formats or as a plan says.
Result<void> bench_like(const Options& o) {
  KLENS_TRY(const KernelTable* const table, choose_table(o.common.isa));
  KLENS_TRY(const Program program, program_for(*table, o.policy));
  KLENS_TRY(const ModelBenchOptions options, model_options(o));
  std::vector<std::pair<std::string, RuntimePlan>> plans;
  std::string names;
  const auto preset = [&](const Precision& p) {
    std::optional<RuntimePlan> found;
    presets::for_each_preset(p, [&](const char* name, const auto& plan) {
      names += names.empty() ? name : std::string(" ") + name;
      if (o.like == name) found = runtime_plan(plan);
    });
    return found;
  };
  const auto shape = preset({});
  if (!shape) return Error{ErrorCode::usage, "--like", "one of " + names, "'" + o.like + "'"};
  if (!o.plan.empty()) {
    KLENS_TRY(const PlanDocument document, read_plan(o.plan));
    if (shape_hash(document.plan) != shape_hash(*shape))
      return Error{ErrorCode::shape, o.plan, "a plan for the shapes of " + o.like, "one for others"};
    plans.emplace_back(o.plan, document.plan);
  } else {
    for (const auto& name : split_list(o.formats.empty() ? "w8a8,w4g32a8" : o.formats)) {
      KLENS_TRY(const Precision p, format_of(name));
      plans.emplace_back(name, *preset(p));
    }
  }
  nlohmann::json out = {{"schema", "klens.bench_model/1"}, {"like", o.like}, {"level", name_of(table->level)},
                        {"synthetic_context", options.synthetic}, {"models", nlohmann::json::array()}};
  for (const auto& [name, plan] : plans) {
    KLENS_TRY(Model model, random_model(plan, o.like));   // one at a time: a big one fills memory
    KLENS_OK(apply_states(model, o.states));
    KLENS_TRY(nlohmann::json runs, bench_runs(model, program, options, not_interrupted));
    if (!o.common.json) print_runs(fmt::format("{} {}{}, level {}", o.like, name, of_states(o), name_of(table->level)), runs, options.synthetic);
    std::fflush(stdout);
    nlohmann::json entry = {{"format", name}, {"parameters", model.parameters()}, {"runs", std::move(runs)}};
    if (!o.states.empty()) entry["states"] = o.states;
    name_policy(entry, model, program);
    out["models"].push_back(std::move(entry));
  }
  if (!o.output.empty()) KLENS_OK(write_file(o.output, out.dump(1) + "\n"));
  if (o.common.json) fmt::print("{}\n", out.dump(1));
  return {};
}

/// Decode time of every component in every format (one token, one thread), and the speed of the model as it is.
Result<void> bench_model(const Options& o) {
  if (o.model.empty() == o.like.empty()) return Error{ErrorCode::usage, "bench model", "MODEL or --like NAME", o.like.empty() ? "neither" : "both"};
  if (!o.plan.empty() && (o.like.empty() || !o.formats.empty()))
    return Error{ErrorCode::usage, "--plan", "--like NAME beside it, and no --formats", o.plan};
  if (!o.like.empty()) return bench_like(o);
  KLENS_TRY(const ModelBenchOptions options, model_options(o));
  KLENS_TRY(const KernelTable* const table, choose_table(o.common.isa));
  KLENS_TRY(const Program program, program_for(*table, o.policy));
  KLENS_TRY(Model model, load_model(o.model));
  KLENS_OK(apply_states(model, o.states));
  model.gather_weights(o.no_mmap);
  const int threads = options.threads.back();
  const auto formats = split_list(o.formats.empty() ? "f32,f16,w8,w8a8,w4,w4g32,w4g32a8,w3g32,w2g32,nf4g64" : o.formats);
  Progress progress("bench");
  std::map<std::tuple<int, int, std::string>, double> seen;  // equal shapes take equal time
  nlohmann::json rows = nlohmann::json::array();
  std::int64_t done = 0;
  for (const auto& c : model.components()) {
    for (const auto& name : formats) {
      KLENS_OK(not_interrupted());
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
  Speed speed;
  {
    ThreadTeam team(threads);
    KLENS_TRY(speed, measure_speed(model, program, team.team()));
  }
  KLENS_TRY(const nlohmann::json runs, bench_runs(model, program, options, not_interrupted));
  nlohmann::json out = {{"schema", "klens.timings/1"},
                              {"model", o.model},
                              {"level", name_of(table->level)},
                              {"threads", threads},
                              {"prefill_tokens_per_second", speed.prefill_tokens_per_second},
                              {"decode_tokens_per_second", speed.decode_tokens_per_second},
                              {"decode_microseconds", 1e6 / speed.decode_tokens_per_second},
                              {"synthetic_context", options.synthetic},
                              {"mapped", model.is_packed() && !o.no_mmap},
                              {"runs", runs},
                              {"entries", rows}};
  if (!o.states.empty()) out["states"] = o.states;
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
               speed.prefill_tokens_per_second, speed.decode_tokens_per_second, threads,
               o.policy == Policy::fast ? ", " + policy_text(model, program) : "");
    print_runs(fmt::format("{}{}, level {}", o.model, of_states(o), name_of(table->level)), runs, options.synthetic);
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
      "Linears of every level and format and sequence kernels, beside the limits of this machine and rivals\n"
      "Example: klens bench kernels --formats w8a8,w4g32 --shapes lfm2-1.2b --threads 1,2 -o kernels.json");
  CLI::App* model =
      bench->add_subcommand("model",
                            "A whole model: decode and prefill beside what bounds them, where the time goes; of MODEL also "
                            "the decode time of every component in every format, for plan --latency\n"
                            "Example: klens bench model examples/models/hymba-tiny -o timings.json\n"
                            "Example: klens bench model --like mamba-130m --formats w8a8 --threads 1");
  CLI::App* table = bench->add_subcommand(
      "table", "The page of a run of `bench kernels`\nExample: klens bench table kernels.json -o benchmarks.md");
  add_common(*model, o->common);
  model->remove_option(model->get_option("--threads"));   // one number there, a list here
  model->add_option("--threads", o->threads, "Numbers of threads, separated by commas (default: 1 and one per processor)");
  add_policy(*model, o->policy);
  kernels->add_flag("--json", o->common.json, "Print JSON instead of text");
  kernels->add_option("--isa", o->common.isa, "One ISA level (default: KLENS_ISA, else every level this machine has)");
  kernels->add_option("--levels", o->levels, "ISA levels, separated by commas");
  kernels->add_option("--threads", o->threads, "Numbers of threads, separated by commas (default: 1 and 2)");
  for (CLI::App* c : {kernels, model}) {
    c->add_option("--formats", c == model ? o->formats : o->kernel_formats,
                  c == model ? "Formats, separated by commas: of every component (MODEL), of the whole model (--like)"
                             : "Formats, separated by commas")
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
  kernels->add_option("--only", o->only, "Rows: sequence (scans, attention, norms) or linears (default: both)");
  kernels->add_option("--rivals", o->rivals, "Module with the rivals (default: klens_rivals.so beside the program)");
  kernels->add_flag("--no-rivals", o->no_rivals, "Time no rivals");
  kernels->add_flag("--quick", o->quick, "Short rounds: numbers to see that it runs");
  model->add_option("MODEL", o->model, "Checkpoint folder, GGUF or .klens file");
  model->add_option("--like", o->like, "Random weights in the shapes of a known model, such as mamba-130m, instead of MODEL");
  CLI::Option* plan = model->add_option("--plan", o->plan, "Formats of --like by component: a plan.json for its shapes");
  model->add_option("--states", o->states, states_help)->excludes(plan);
  model->add_option("--prefill", o->prefill, "Prompts whose prefill is timed (default: 128,512)");
  model->add_option("--decode", o->decode, "Tokens of each timed decode")->check(CLI::Range(8, 1 << 16))->capture_default_str();
  model->add_option("--prompts", o->prompts, "Prompts that decodes come after (default: 0,1024; with --like 8192 too)");
  model->add_option("--chunk", o->chunk, "Tokens per pass of a prefill")->check(CLI::Range(1, 4096))->capture_default_str();
  model->add_flag("--no-mmap", o->no_mmap, no_mmap_help);
  model->add_flag("--synthetic-context", o->synthetic,
                  "Do not run those prompts and the meta tokens: caches and states hold zeros (always so with --like)");
  table->add_option("RUN", o->run, "JSON of klens bench kernels")->required();
  table->add_option("--reasons", o->reasons, "JSON file with the reasons of rows that fall short");
  table->callback([o, &status] { status = finish(bench_table(*o)); });
  kernels->callback([o, &status] { status = finish(bench_kernels(*o)); });
  model->callback([o, &status] { status = finish(bench_model(*o)); });
}

}  // namespace klens::cli
