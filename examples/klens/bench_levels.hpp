// klens bench kernels: which rows are measured, level by level. Each level runs in a process of its own, because the
// libraries of the rivals take the cap on their instructions once per process; the rows come back through a pipe as
// JSON.
#pragma once

#include "bench_rivals.hpp"
#include "bench_sequence.hpp"
#include "common.hpp"

#include <klens/version.hpp>

#include <sys/prctl.h>
#include <sys/wait.h>

#include <filesystem>
#include <fstream>

namespace klens::cli {

struct KernelsOptions {
  std::vector<std::pair<std::string, Precision>> formats;
  std::vector<BenchShape> shapes;
  std::vector<int> tokens, threads;
  std::vector<std::string> kinds;
  std::vector<Level> levels;
  RoundOptions rounds;
  std::string rivals;  // path of the module, empty: none
  bool linears = true, sequence = true;
  bool quick = false;
  std::int64_t cold_bytes = 0;  // that the copies of a cold row fill

  bool wants(std::string_view kind) const { return std::find(kinds.begin(), kinds.end(), kind) != kinds.end(); }
};

/// A file in the folder of the running program.
inline std::string beside_program(const std::string& name) {
  std::error_code error;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", error);
  return error ? name : (self.parent_path() / name).string();
}

/// The processor's name in /proc/cpuinfo.
inline std::string cpu_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("model name")) return line.substr(std::min(line.find(": ") + 2, line.size()));
  return "unknown";
}

inline nlohmann::json json_of(const BenchRow& r) {
  nlohmann::json rivals = nlohmann::json::array();
  for (const auto& v : r.rivals)
    rivals.push_back({{"name", v.name}, {"microseconds", v.seconds * 1e6}, {"ratio", v.ratio}});
  const auto time = [](double s) { return s > 0 ? nlohmann::json(s * 1e6) : nlohmann::json(); };
  return {{"kernel", r.kernel},
          {"format", r.format},
          {"level", r.level},
          {"shape", r.shape},
          {"kind", r.kind},
          {"rows", r.rows},
          {"cols", r.cols},
          {"tokens", r.tokens},
          {"threads", r.threads},
          {"bytes", r.bytes},
          {"copies", r.copies},
          {"microseconds", r.seconds * 1e6},
          {"gigabytes_per_second", double(r.bytes) / r.seconds * 1e-9},
          {"gigamacs_per_second", double(r.rows) * r.cols * r.tokens / r.seconds * 1e-9},
          {"memory", r.memory_name},
          {"memory_microseconds", time(r.memory)},
          {"multiplier", r.multiplier},
          {"multiply_microseconds", time(r.multiply)},
          {"port", r.port_name},
          {"port_microseconds", time(r.port)},
          {"limit", r.limit_name()},
          {"share", r.share > 0 ? nlohmann::json(r.share) : nlohmann::json()},
          {"error", r.error},
          {"kernel_error", r.kernel_error},
          {"rivals", rivals}};
}

/// All rows of one level.
class LevelRun {
 public:
  LevelRun(const KernelsOptions& options, const KernelTable& table)
      : o_(options),
        table_(table),
        caches_(caches()),
        readers_(options.quick ? 1 : 3),
        rounds_(options.rounds, readers_, caches_) {
    if (!o_.rivals.empty()) rivals_.load(o_.rivals, table.level);
    for (const int n : o_.threads) teams_.push_back(std::make_unique<ThreadTeam>(n));
    for (const auto& team : teams_) {
      ports_.emplace_back(peaks_of(table.level), team->team());
      fork_joins_.push_back(fork_join_seconds(team->team()));
    }
  }

  /// `step()` after each row.
  Result<nlohmann::json> run(const std::function<void()>& step) {
    nlohmann::json rows = nlohmann::json::array();
    if (sequence(o_, table_.level)) {
      std::vector<Team> teams;
      for (const auto& team : teams_) teams.push_back(team->team());
      KLENS_TRY(rows, run_sequence(o_.rounds, table_, teams, o_.quick ? 64 : 512, step));
    }
    for (const BenchShape& shape : o_.linears ? o_.shapes : std::vector<BenchShape>{}) {
      quantize_rows(shape, rows);
      for (const auto& [name, precision] : o_.formats) {
        for (const int tokens : token_counts(shape)) {
          if (interrupted) return Error{ErrorCode::interrupted, "bench", "", "interrupted"};
          if (brings(precision)) KLENS_OK(rows_of(shape, name, precision, tokens, false, rows));
          if (is_fast(precision)) KLENS_OK(rows_of(shape, name + " fast", precision, tokens, true, rows));
          step();
        }
      }
    }
    nlohmann::json machine = nlohmann::json::array();
    for (std::size_t i = 0; i < teams_.size(); ++i) {
      nlohmann::json peaks = nlohmann::json::object();
      for (int p = 0; p < port_count; ++p)
        if (const double rate = ports_[i].rates()[std::size_t(p)]; rate > 0) peaks[port_key(Port(p))] = rate * 1e-9;
      machine.push_back({{"level", name_of(table_.level)},
                         {"threads", teams_[i]->threads()},
                         {"fork_join_microseconds", fork_joins_[i] * 1e6},
                         {"gigacounts_per_second", peaks},
                         {"rivals", rivals_.note()}});
    }
    return nlohmann::json{{"levels", machine}, {"rows", rows}};
  }

  /// Steps of run() on a level.
  static std::int64_t steps(const KernelsOptions& o, Level level) {
    const std::int64_t sequences = sequence(o, level) ? sequence_row_count() : 0;
    std::int64_t n = 0;
    if (!o.linears) return sequences;
    for (const BenchShape& shape : o.shapes) n += std::int64_t(token_counts(o, shape).size());
    return sequences + n * std::int64_t(o.formats.size());
  }

 private:
  static std::string port_key(Port p) {
    constexpr const char* names[port_count] = {"fma",   "dot_u8",  "dot_s16", "dot_bf16", "tile_u8", "logic",
                                               "shift", "shuffle", "convert", "half",     "mixed"};
    return names[int(p)];
  }

  static bool sequence(const KernelsOptions& o, Level level) { return o.sequence && runs_sequence(o.levels, level); }

  /// 1 for decode, then the prefill rows; a head runs on one token of a prefill.
  static std::vector<int> token_counts(const KernelsOptions& o, const BenchShape& shape) {
    std::vector<int> all;
    if (o.wants("cold") || o.wants("hot")) all.push_back(1);
    for (const int t : o.tokens) {
      const bool decode = t <= gemv_tokens;
      if (t != 1 && (decode ? o.wants("cold") || o.wants("hot") : o.wants("gemm") && !shape.name.ends_with(".head")))
        all.push_back(t);
    }
    return all;
  }
  std::vector<int> token_counts(const BenchShape& shape) const { return token_counts(o_, shape); }

  /// Whether the level has a linear of its own: what it takes from its base is measured there.
  bool brings(const Precision& p) const {
    const KernelTable* const base = table_of(base_of(table_.level));
    return base == &table_ || !base || linear_of(*base, p) != linear_of(table_, p);
  }
  bool is_fast(const Precision& p) const {
    return p.activation == Activation::f32 && is_float(codec_of(p)) && table_.linear_fast[int(codec_of(p))];
  }

  Result<void> rows_of(const BenchShape& shape, const std::string& name, const Precision& p, int tokens, bool fast,
                       nlohmann::json& rows) {
    if (!fast && !linear_of(table_, p))
      return Error{ErrorCode::no_kernel, "linear<" + name + ">",
                   "a kernel of level " + std::string(name_of(table_.level)), "none"};
    const bool gemm = tokens > gemv_tokens;
    const std::int64_t bytes = packed_bytes(p, shape.rows, shape.cols), walked = o_.cold_bytes;
    const int copies =
        gemm || !o_.wants("cold") ? 1 : int(std::clamp(div_up(walked, bytes), std::int64_t(1), std::int64_t(1) << 16));
    const int most = *std::max_element(o_.threads.begin(), o_.threads.end());
    KLENS_TRY(LinearBench bench, LinearBench::make(p, shape.rows, shape.cols, tokens, copies, most, fast));
    bench.quantize(table_);
    bench.run(table_, copies - 1, teams_.back()->team());
    const double error = bench.error(false), kernel_error = bench.error(true);
    // Random data: an f32 chain of 8192 stays under 1e-5; wrong panels or bits give far more.
    if (!(kernel_error < 1e-4) || bench.wrong_repeats() > 0)
      return Error{
          ErrorCode::no_kernel, "linear<" + name + "> on " + std::string(name_of(table_.level)),
          "the product in float64 within 1e-4",
          fmt::format("an error of {:.1e}, {} outputs unlike their equals", kernel_error, bench.wrong_repeats())};
    for (std::size_t i = 0; i < teams_.size(); ++i) {
      for (const char* kind : {"cold", "hot", "gemm"}) {
        if (!o_.wants(kind) || gemm != (std::string_view(kind) == "gemm")) continue;
        const bool cold = std::string_view(kind) == "cold";
        if (!gemm && !cold && bytes > caches_.l3 * 3 / 4) continue;
        BenchRow row;
        row.kernel = "linear<" + name + ">", row.format = name, row.level = name_of(table_.level),
        row.shape = shape.name, row.kind = kind;
        row.rows = shape.rows, row.cols = shape.cols, row.tokens = tokens, row.threads = teams_[i]->threads();
        row.error = error, row.kernel_error = kernel_error;
        const auto contenders =
            rivals_.contenders(p, row.rows, row.cols, tokens, cold ? copies : 1, row.threads, walked);
        rounds_.measure(row, bench, cold ? copies : 1, table_, ports_[i], teams_[i]->team(), contenders);
        rows.push_back(json_of(row));
        if (!rivals_.present()) rows.back()["rivals"] = nullptr;
      }
    }
    return {};
  }

  /// Rounding the activations, which no linear's time holds: one row of the table per format of activations.
  void quantize_rows(const BenchShape& shape, nlohmann::json& rows) {
    if (base_of(table_.level) != table_.level) return;  // its base's
    for (const auto activation : {Activation::a8, Activation::a16}) {
      const auto uses = [&](const auto& f) { return f.second.activation == activation; };
      if (std::none_of(o_.formats.begin(), o_.formats.end(), uses)) continue;
      const Precision p = std::find_if(o_.formats.begin(), o_.formats.end(), uses)->second;
      auto bench = LinearBench::make(p, 16, shape.cols, 128);
      if (!bench) continue;
      std::vector<double> times;
      for (int r = 0; r <= o_.rounds.repeats; ++r)
        times.push_back(seconds_of([&] {
                          for (int i = 0; i < 20; ++i) bench->quantize(table_);
                        }) /
                        20);
      const double s = median(times);
      rows.push_back({{"kernel", activation == Activation::a8 ? "quantize_row<a8>" : "quantize_row<a16>"},
                      {"format", ""},
                      {"level", name_of(table_.level)},
                      {"shape", shape.name},
                      {"kind", "rows"},
                      {"rows", 0},
                      {"cols", shape.cols},
                      {"tokens", 128},
                      {"threads", 1},
                      {"bytes", 128 * 4 * shape.cols},
                      {"microseconds", s * 1e6},
                      {"gigabytes_per_second", 128e-9 * 4 * shape.cols / s},
                      {"share", nullptr},
                      {"rivals", nlohmann::json::array()}});
    }
  }

  const KernelsOptions& o_;
  const KernelTable& table_;
  Caches caches_;
  ReaderChoice readers_;
  Rounds rounds_;
  Rivals rivals_;
  std::vector<std::unique_ptr<ThreadTeam>> teams_;
  std::vector<PortRates> ports_;
  std::vector<double> fork_joins_;
};

/// One level in a child process; its result, or the error it reported.
inline Result<nlohmann::json> run_level(const KernelsOptions& options, Level level,
                                        const std::function<void(std::int64_t)>& progress) {
  int ends[2];
  if (pipe(ends) != 0) return Error{ErrorCode::io, "bench", "a pipe", "none"};
  std::fflush(nullptr);
  const pid_t child = fork();
  if (child < 0) return Error{ErrorCode::io, "bench", "a process", "none"};
  if (child == 0) {
    close(ends[0]);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    LevelRun run(options, *table_of(level));
    std::int64_t done = 0;
    const auto result = run.run([&] { progress(++done); });
    const std::string text = result ? result->dump()
                                    : nlohmann::json{{"code", int(result.error().code)},
                                                     {"where", result.error().where},
                                                     {"expected", result.error().expected},
                                                     {"found", result.error().found}}
                                          .dump();
    for (std::size_t at = 0; at < text.size();) {
      const ssize_t n = write(ends[1], text.data() + at, text.size() - at);
      if (n <= 0) break;
      at += std::size_t(n);
    }
    std::fflush(nullptr);
    _exit(0);  // no destructors: the libraries of rivals hang in some of theirs after a fork
  }
  close(ends[1]);
  std::string text;
  char buffer[1 << 16];
  for (ssize_t n; (n = read(ends[0], buffer, sizeof buffer)) != 0;) {
    if (n > 0)
      text.append(buffer, std::size_t(n));
    else if (errno != EINTR)
      break;
  }
  close(ends[0]);
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (interrupted) return Error{ErrorCode::interrupted, "bench", "", "interrupted"};
  nlohmann::json result = nlohmann::json::parse(text, nullptr, false);
  if (result.is_discarded() || !result.is_object())
    return Error{ErrorCode::io, "bench of level " + std::string(name_of(level)), "its rows",
                 WIFSIGNALED(status) ? fmt::format("the end by signal {}", WTERMSIG(status)) : "none"};
  if (result.contains("code"))
    return Error{ErrorCode(result["code"].get<int>()), result["where"], result["expected"], result["found"]};
  return result;
}

/// The whole run: schema klens.bench/2.
inline Result<nlohmann::json> run_kernels(KernelsOptions options) {
  const Caches c = caches();
  nlohmann::json read = nlohmann::json::array();
  options.cold_bytes = options.quick ? std::int64_t(4) << 20 : cold_bytes(c, Team{});
  for (const int threads : options.threads) {  // the team ends before a level's process starts
    ThreadTeam team(threads);
    for (const auto& [name, bytes] :
         {std::pair{"L1", c.l1 / 2}, {"L2", c.l2 * threads / 2}, {"L3", c.l3 / 2}, {"DRAM", options.cold_bytes}})
      read.push_back({{"memory", name},
                      {"threads", threads},
                      {"bytes", bytes},
                      {"gigabytes_per_second", read_rate(bytes, team.team()) * 1e-9}});
  }
  nlohmann::json run = {{"schema", "klens.bench/2"},
                        {"klens", KLENS_VERSION},
                        {"cpu", cpu_name()},
                        {"processors", std::thread::hardware_concurrency()},
                        {"caches", {{"l1", c.l1}, {"l2", c.l2}, {"l3", c.l3}}},
                        {"read", read},
                        {"repeats", options.rounds.repeats},
                        {"quick", options.quick},
                        {"levels", nlohmann::json::array()},
                        {"rows", nlohmann::json::array()}};
  Progress progress("bench");
  std::int64_t before = 0, total = 0;
  for (const Level level : options.levels) total += LevelRun::steps(options, level);
  for (const Level level : options.levels) {
    KLENS_TRY(const nlohmann::json part,
              run_level(options, level, [&](std::int64_t done) { progress(before + done, total); }));
    before += LevelRun::steps(options, level);
    for (const char* key : {"levels", "rows"})
      for (const auto& item : part[key]) run[key].push_back(item);
  }
  progress.clear();
  return run;
}

}  // namespace klens::cli
