// klens bench kernels | model: what the kernels do here. Timings of a model's components are the input of `plan --latency`.
#include "bench_kernels.hpp"
#include "common.hpp"
#include "text.hpp"

#include <klens/io/atomic_file.hpp>
#include <klens/lens/speed.hpp>

#include <klens/model/generic.hpp>
#include <klens/report/table.hpp>

namespace klens::cli {
namespace {

struct Options {
  Common common;
  std::string model, output, formats = "f32,f16,w8,w8a8,w4,w4g32,w4g32a8,w3g32,w2g32,nf4g64";
  int rows = 2048, cols = 2048, tokens = 128, repeats = 7;
};

Result<Precision> format_of(const std::string& name) {
  const auto p = parse_format(name);
  if (!p) return Error{ErrorCode::usage, "--formats", "format names such as w4g32 or w8a8", "'" + name + "'"};
  return *p;
}

/// Bytes per second at which one thread reads a buffer of this size, walked once from front to back: the limit of a GEMV.
double read_rate(std::int64_t bytes, int repeats) {
  Buffer<std::uint64_t> buffer(std::size_t(bytes / 8));
  for (std::size_t i = 0; i < buffer.size(); ++i) buffer[i] = i;
  std::vector<double> times;
  volatile std::uint64_t sink = 0;
  for (int r = 0; r <= repeats; ++r) {
    const double s = seconds_of([&] {
      std::uint64_t sums[8] = {};
      const std::uint64_t* p = buffer.data();
      for (std::size_t i = 0; i + 8 <= buffer.size(); i += 8)
        for (int j = 0; j < 8; ++j) sums[j] += p[i + std::size_t(j)];
      for (std::uint64_t v : sums) sink = sink + v;
    });
    if (r > 0) times.push_back(s);
  }
  return double(buffer.size() * 8) / median(times);
}

/// Times one linear on one level: `tokens` rows, median of the repeats, each long enough for the clock.
KernelTiming time_linear(LinearBench& bench, const KernelTable& table, const std::string& format, int rows, int cols, int tokens, int repeats) {
  bench.run(table);
  const double once = std::max(seconds_of([&] { bench.run(table); }), 1e-8);
  const int inner = int(std::clamp(2e-3 / once, 1.0, 10000.0));
  std::vector<double> times;
  for (int r = 0; r < repeats; ++r) times.push_back(seconds_of([&] { for (int i = 0; i < inner; ++i) bench.run(table); }) / inner);
  const double s = median(times);
  return {"linear<" + format + ">", std::string(name_of(table.level)), rows, cols, tokens, s * 1e6, double(bench.bytes()) / s * 1e-9,
          double(rows) * cols * tokens / s * 1e-9, 0, bench.error()};
}

Result<void> bench_kernels(const Options& o) {
  std::vector<KernelTiming> timings;
  KLENS_TRY(const KernelTable* const chosen, choose_table(o.common.isa));
  std::vector<const KernelTable*> tables;
  if (!o.common.isa.empty()) tables.push_back(chosen);
  else
    for (Level level : all_levels)
      if (level != Level::ref && runnable(level)) tables.push_back(table_of(level));
  if (tables.empty()) tables.push_back(chosen);
  Progress progress("bench");
  const auto formats = split_list(o.formats);
  std::int64_t done = 0;
  const std::int64_t total = std::int64_t(formats.size() * tables.size()) * 2;
  for (const auto& name : formats) {
    KLENS_TRY(const Precision p, format_of(name));
    for (int tokens : {1, o.tokens}) {
      KLENS_TRY(LinearBench bench, LinearBench::make(p, o.rows, o.cols, tokens));
      const double limit = tokens == 1 ? read_rate(bench.bytes(), 5) * 1e-9 : 0;
      for (const KernelTable* table : tables) {
        if (interrupted) return Error{ErrorCode::interrupted, "bench", "", "interrupted"};
        timings.push_back(time_linear(bench, *table, name, o.rows, o.cols, tokens, o.repeats));
        if (limit > 0) timings.back().share_of_read_rate = timings.back().gigabytes_per_second / limit;
        progress(++done, total);
      }
    }
  }
  progress.clear();
  nlohmann::json rows = nlohmann::json::array();
  Table table{{"kernel", "level", "N", "K", "tokens", "us", "GB/s", "of read rate", "GMAC/s", "error"}, {}};
  for (const auto& t : timings) {
    rows.push_back({{"kernel", t.kernel}, {"level", t.level}, {"rows", t.rows}, {"cols", t.cols}, {"tokens", t.tokens}, {"microseconds", t.microseconds},
                    {"gigabytes_per_second", t.gigabytes_per_second}, {"gigamacs_per_second", t.gigamacs_per_second},
                    {"share_of_read_rate", t.share_of_read_rate > 0 ? nlohmann::json(t.share_of_read_rate) : nlohmann::json()}, {"error", t.error}});
    table.rows.push_back({t.kernel, t.level, fmt::format("{}", t.rows), fmt::format("{}", t.cols), fmt::format("{}", t.tokens), fmt::format("{:.1f}", t.microseconds),
                          fmt::format("{:.1f}", t.gigabytes_per_second), t.share_of_read_rate > 0 ? fmt::format("{:.0f} %", 100 * t.share_of_read_rate) : "",
                          fmt::format("{:.1f}", t.gigamacs_per_second), fmt::format("{:.1e}", t.error)});
  }
  const nlohmann::json out = {{"schema", "klens.bench/1"}, {"rows", rows}};
  if (!o.output.empty()) KLENS_OK(write_file(o.output, out.dump(1) + "\n"));
  if (o.common.json) fmt::print("{}\n", out.dump(1));
  else fmt::print("{}one thread; error: rms against float64 over the quantized weights, activations rounded where the name says so\n", table.text());
  return {};
}

/// Decode time of every component in every format (one token, one thread), and the speed of the model as it is.
Result<void> bench_model(const Options& o) {
  KLENS_TRY(const KernelTable* const table, choose_table(o.common.isa));
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
      auto [it, fresh] = seen.try_emplace({int(c.rows), int(c.cols), name}, 0.0);
      if (fresh) {
        KLENS_TRY(LinearBench bench, LinearBench::make(p, int(c.rows), int(c.cols), 1));
        it->second = time_linear(bench, *table, name, int(c.rows), int(c.cols), 1, o.repeats).microseconds;
      }
      rows.push_back({{"component", c.name}, {"format", name}, {"microseconds", it->second}});
      progress(++done, std::int64_t(model.components().size() * formats.size()));
    }
  }
  progress.clear();
  KLENS_TRY(const Speed speed, measure_speed(model, generic_program(*table), team.team()));
  const nlohmann::json out = {{"schema", "klens.timings/1"}, {"model", o.model}, {"level", name_of(table->level)}, {"threads", o.common.thread_count()},
                              {"prefill_tokens_per_second", speed.prefill_tokens_per_second}, {"decode_tokens_per_second", speed.decode_tokens_per_second},
                              {"decode_microseconds", 1e6 / speed.decode_tokens_per_second}, {"entries", rows}};
  if (!o.output.empty()) KLENS_OK(write_file(o.output, out.dump(1) + "\n"));
  if (o.common.json) fmt::print("{}\n", out.dump(1));
  else {
    Table shown{{"rows x cols"}, {}};
    for (const auto& f : formats) shown.header.push_back(f);
    std::map<std::pair<int, int>, std::map<std::string, double>> by_shape;
    for (const auto& [key, us] : seen) by_shape[{std::get<0>(key), std::get<1>(key)}][std::get<2>(key)] = us;
    for (const auto& [shape, times] : by_shape) {
      auto& cells = shown.rows.emplace_back();
      cells.push_back(fmt::format("{} x {}", shape.first, shape.second));
      for (const auto& f : formats) cells.push_back(fmt::format("{:.1f}", times.at(f)));
    }
    fmt::print("{}microseconds per token, one thread, level {}\n", shown.text(), name_of(table->level));
    fmt::print("{}: prefill {:.0f} tokens/s, decode {:.0f} tokens/s on {} threads\n", o.model, speed.prefill_tokens_per_second, speed.decode_tokens_per_second,
               o.common.thread_count());
  }
  return {};
}

}  // namespace

void add_bench(CLI::App& app, int& status) {
  auto o = std::make_shared<Options>();
  CLI::App* bench = app.add_subcommand("bench", "Time kernels, or a model's components");
  bench->require_subcommand(1);
  CLI::App* kernels = bench->add_subcommand("kernels", "Linear kernels of every level and format\nExample: klens bench kernels --rows 4096 --cols 1024 --formats w8a8,w4g32");
  CLI::App* model = bench->add_subcommand("model", "Decode time of every component in every format, for plan --latency\nExample: klens bench model examples/models/hymba-tiny -o timings.json");
  for (CLI::App* c : {kernels, model}) {
    add_common(*c, o->common);
    c->add_option("--formats", o->formats, "Formats, separated by commas")->capture_default_str();
    c->add_option("--repeats", o->repeats, "Timed repeats; the median counts")->check(CLI::Range(1, 1000))->capture_default_str();
    c->add_option("-o,--output", o->output, "JSON file to write");
  }
  kernels->add_option("--rows", o->rows, "Outputs N")->check(CLI::Range(1, 1 << 20))->capture_default_str();
  kernels->add_option("--cols", o->cols, "Inputs K")->check(CLI::Range(1, 1 << 17))->capture_default_str();
  kernels->add_option("--tokens", o->tokens, "Tokens of the prefill rows")->check(CLI::Range(1, 4096))->capture_default_str();
  model->add_option("MODEL", o->model, "Checkpoint folder or .klens file")->required();
  kernels->callback([o, &status] { status = finish(bench_kernels(*o)); });
  model->callback([o, &status] { status = finish(bench_model(*o)); });
}

}  // namespace klens::cli
