// Rounds: in each, the readers, the multiplier's peak, the kernel and its rivals run once after another, and ratios are
// taken within the round; the median round counts. A noisy neighbour slows all four or spoils one round.
#pragma once

#include "bench_limits.hpp"
#include "bench_ports.hpp"
#include "bench_shapes.hpp"

#include <unistd.h>

#include <functional>
#include <optional>

namespace klens::cli {

/// One row of the table, times in seconds.
struct BenchRow {
  std::string kernel, format, level, shape, kind;  // kind: cold, hot (GEMV), gemm
  int rows = 0, cols = 0, tokens = 0, threads = 0, copies = 1;
  std::int64_t bytes = 0;
  double seconds = 0, memory = 0, multiply = 0, port = 0, share = 0;  // memory, port: lower bounds of the time
  std::string memory_name, multiplier, port_name;
  double error = 0, kernel_error = 0;
  struct Rival {
    std::string name;
    double seconds = 0, ratio = 0;
  };  // ratio = its time / ours
  std::vector<Rival> rivals;

  const std::string& limit_name() const { return memory >= port ? memory_name : port_name; }
};

/// Something to time beside a kernel: one call does the same product with the weights of one copy.
struct Contender {
  std::string name;
  std::function<void(int copy)> run;
};

struct RoundOptions {
  int repeats = 9;
  double seconds = 3e-3;  // of each timed piece, at least
  double most = 0.6;      // seconds after which a row has its rounds, if they are five
};

/// Runs the rounds of one kernel on one level. `hot`: the one copy stays in the cache; cold: every copy is walked in
/// turn.
class Rounds {
 public:
  Rounds(const RoundOptions& options, ReaderChoice& readers, const Caches& caches)
      : options_(options), readers_(readers), caches_(caches) {}

  void measure(BenchRow& row, LinearBench& bench, int copies, const KernelTable& table, PortRates& ports,
               const Team& team, const std::vector<Contender>& contenders) {
    const bool hot = row.kind != "cold";
    row.memory_name = memory_name(caches_, hot ? bench.bytes() : bench.bytes() * copies, team.threads);
    const auto& fastest = readers_.fastest(bench, copies, row.memory_name, team);
    const Precision& p = bench.precision();
    const bool grouped = p.scheme.scale == Granularity::group;
    const double weights = double(div_up(row.rows, lanes) * lanes) * double(row.cols);
    const PortWork work{codec_of(p), dot_kind_of(p), grouped ? p.scheme.group : 0, bench.fast(), row.tokens, weights};
    const auto port = [&] { return port_time(ports.rates(), table.level, work); };
    const auto kernel = [&](int copy) { bench.run(table, copy, team); };
    const int inner = repeats_of(kernel, copies);
    std::vector<int> reader_inner, rival_inner;
    for (const Reader& r : fastest)
      reader_inner.push_back(repeats_of([&](int copy) { bench.walk(copy, team, r.run); }, copies));
    for (const Contender& c : contenders) rival_inner.push_back(repeats_of(c.run, copies)), rest();

    std::vector<double> kernel_s, memory_s, shares;
    std::vector<std::vector<double>> rival_s(contenders.size()), ratios(contenders.size());
    const auto start = std::chrono::steady_clock::now();
    const auto spent = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(); };
    for (int round = 0; round <= options_.repeats && (round <= 5 || spent() < options_.most); ++round) {
      double memory = 1e30;
      for (std::size_t i = 0; i < fastest.size(); ++i)
        memory = std::min(
            memory, pass([&](int copy) { bench.walk(copy, team, fastest[i].run); }, copies, reader_inner[i], hot));
      ports.again(port().multiplier), ports.next();
      const double seconds = pass(kernel, copies, inner, hot);
      std::vector<double> rivals;
      for (std::size_t i = 0; i < contenders.size(); ++i)
        rivals.push_back(pass(contenders[i].run, copies, rival_inner[i], hot)), rest();
      if (round == 0) continue;  // warm-up
      kernel_s.push_back(seconds), memory_s.push_back(memory);
      for (std::size_t i = 0; i < rivals.size(); ++i)
        rival_s[i].push_back(rivals[i]), ratios[i].push_back(rivals[i] / seconds);
    }
    const PortTime bound = port();  // memory is shared with neighbours: its time is that of the same round
    for (std::size_t i = 0; i < kernel_s.size(); ++i)
      shares.push_back(std::max(memory_s[i], bound.seconds) / kernel_s[i]);
    row.multiplier = name_of(bound.multiplier), row.port_name = name_of(bound.port);
    row.multiply = bound.multiply, row.port = bound.seconds;
    row.bytes = bench.bytes(), row.copies = copies;
    row.seconds = median(kernel_s), row.memory = median(memory_s);
    row.share = median(shares);
    for (std::size_t i = 0; i < contenders.size(); ++i)
      row.rivals.push_back({contenders[i].name, median(rival_s[i]), median(ratios[i])});
  }

 private:
  /// Passes over all copies that take options_.seconds.
  int repeats_of(const std::function<void(int)>& run, int copies) const {
    for (int c = 0; c < copies; ++c) run(c);
    const double once = std::max(seconds_of([&] {
                                   for (int c = 0; c < copies; ++c) run(c);
                                 }),
                                 1e-8);
    return int(std::clamp(options_.seconds / once, 1.0, 100000.0));
  }

  /// Seconds per copy. Hot: what ran before is driven out of the cache by one pass that is not timed.
  static double pass(const auto& run, int copies, int inner, bool hot) {
    if (hot) run(0);
    return seconds_of([&] {
             for (int i = 0; i < inner; ++i)
               for (int c = 0; c < copies; ++c) run(c);
           }) /
           (double(inner) * copies);
  }

  /// Lets the threads of a rival's library fall asleep: they spin for a while after each call.
  static void rest() { usleep(2000); }

  RoundOptions options_;
  ReaderChoice& readers_;
  Caches caches_;
};

}  // namespace klens::cli
