// What this machine can do, measured beside the kernels: cache sizes, the fastest plain reader of a given memory, the
// peak rates of a level's ports, the cost of a fork and join of the team.
#pragma once

#include "bench_kernels.hpp"
#include "compiled_peaks.hpp"

#include <klens/core/thread_team.hpp>
#include <klens/dispatch/select.hpp>

#include <array>
#include <atomic>
#include <fstream>
#include <map>
#include <thread>

namespace klens::cli {

struct Caches {
  std::int64_t l1 = 0, l2 = 0, l3 = 0;
};

/// Bytes of the data caches of processor 0, as the system tells; unknown ones as on a small desktop. Not sysconf():
/// glibc 2.36 adds up the L3 of a whole package (320 MiB where a core reaches 32).
inline Caches caches() {
  Caches c{32 << 10, 1 << 20, 32 << 20};
  for (int i = 0; i < 8; ++i) {
    const std::string folder = "/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(i) + "/";
    std::int64_t level = 0, kilobytes = 0;
    std::string type;
    std::ifstream(folder + "level") >> level, std::ifstream(folder + "type") >> type,
        std::ifstream(folder + "size") >> kilobytes;  // "32768K"
    if (type == "Instruction" || kilobytes <= 0) continue;
    if (level == 1) c.l1 = kilobytes << 10;
    if (level == 2) c.l2 = kilobytes << 10;
    if (level == 3) c.l3 = kilobytes << 10;
  }
  return c;
}

/// Name of the memory that holds `bytes` when `threads` walk them again and again, each its share.
inline std::string_view memory_name(const Caches& c, std::int64_t bytes, int threads) {
  if (bytes / threads <= c.l1 * 3 / 4) return "L1";
  if (bytes / threads <= c.l2 * 3 / 4) return "L2";
  return bytes <= c.l3 * 3 / 4 ? "L3" : "DRAM";
}

/// Peak loops of a level that has them; override levels have their own, unknown ones none.
inline const Peaks* peaks_of(Level level) { return compiled_peaks.of[int(level)]; }

/// Counts per second of one port with all threads of the team at work at once, over about `seconds`. Every thread waits
/// for the others before it starts, so that none does the work of two.
inline double port_rate(const PeakLoop& loop, const Team& team, double seconds = 2e-4) {
  if (!loop.run) return 0;
  const auto time = [&](std::int64_t steps) {
    std::atomic<int> here{0};
    return seconds_of([&] {
      for_each(team, team.threads, [&](int, int) {
        here.fetch_add(1);
        while (here.load() < team.threads) std::this_thread::yield();
        loop.run(steps);
      });
    });
  };
  std::int64_t steps = 256;
  double s = time(steps);
  while (s < seconds / 4) s = time(steps *= 4);
  steps = std::max(steps, std::int64_t(double(steps) * seconds / s));
  return double(steps) * loop.counts * team.threads / time(steps);
}

/// The rates of a level's ports with one team, the best seen so far: a port's peak is a matter of the clock, so that
/// what disturbs a loop must not flatter a kernel. Kernels' rounds go on measuring.
class PortRates {
 public:
  PortRates(const Peaks* peaks, Team team) : peaks_(peaks), team_(team) {
    for (int repeat = 0; peaks && repeat < 5; ++repeat)
      for (int p = 0; p < port_count; ++p) again(Port(p));
  }
  void again(Port port) {
    double& rate = rates_[std::size_t(port)];
    if (peaks_) rate = std::max(rate, port_rate(peaks_->of[int(port)], team_));
  }
  /// One port in turn.
  void next() { again(Port(turn_++ % port_count)); }
  const std::array<double, port_count>& rates() const { return rates_; }

 private:
  const Peaks* peaks_;
  Team team_;
  std::array<double, port_count> rates_{};
  int turn_ = 0;
};

/// A reader of memory and the level whose registers it uses.
struct Reader {
  void (*run)(const unsigned char*, std::int64_t) = nullptr;
  Level level = Level::ref;
  int streams = 1, ahead = 0;
};

/// The readers this machine can run, of the widest registers and of 256 bits.
inline std::vector<Reader> readers() {
  std::vector<Reader> all;
  for (const Level level : {Level::ref, Level::avx2, Level::avx512}) {
    const Peaks* const p = peaks_of(level);
    if (!p || !supports(detect(), level)) continue;
    if (level == Level::avx2) all.clear();
    for (const ReadLoop& r : p->read) all.push_back({r.run, level, r.streams, r.ahead});
  }
  return all;
}

/// Seconds of one pass over the copies [0, copies) of a matrix by a reader.
inline double read_pass(const LinearBench& bench, int copies, const Team& team, const Reader& reader) {
  return seconds_of([&] {
    for (int c = 0; c < copies; ++c) bench.walk(c, team, reader.run);
  });
}

/// The two fastest readers for memory like this one: kept by kind of memory, number of threads, and size to a factor of
/// two.
class ReaderChoice {
 public:
  /// Each reader is tried this often.
  explicit ReaderChoice(int repeats) : repeats_(repeats) {}

  const std::vector<Reader>& fastest(const LinearBench& bench, int copies, std::string_view memory, const Team& team) {
    int log2 = 0;
    for (std::int64_t b = bench.bytes() * copies; b > 1; b /= 2) ++log2;
    auto& kept = kept_[{std::string(memory), team.threads, log2}];
    if (!kept.empty()) return kept;
    std::vector<std::pair<double, Reader>> timed;
    const int inner = std::clamp(int(8e6 * repeats_ / double(bench.bytes() * copies)), 1, 10000);
    for (const Reader& r : readers()) {
      double best = 1e30;
      for (int repeat = 0; repeat < repeats_; ++repeat) {
        double s = 0;
        for (int i = 0; i < inner; ++i) s += read_pass(bench, copies, team, r);
        best = std::min(best, s);
      }
      timed.push_back({best, r});
    }
    std::sort(timed.begin(), timed.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    for (std::size_t i = 0; i < std::min<std::size_t>(2, timed.size()); ++i) kept.push_back(timed[i].second);
    return kept;
  }

 private:
  int repeats_;
  std::map<std::tuple<std::string, int, int>, std::vector<Reader>> kept_;
};

/// Bytes per second at which the team reads `bytes` of memory over and over, by the best of three walks of the widest
/// registers.
inline double read_rate(std::int64_t bytes, const Team& team) {
  constexpr std::int64_t block = 64 << 10;
  const int blocks = int(std::max(div_up(bytes, block), std::int64_t(1)));
  const Buffer<unsigned char> memory(std::size_t(blocks * block));
  const int inner = std::clamp(int(double(64 << 20) / double(bytes)), 1, 10000);
  double best = 0;
  for (const Reader& r : readers()) {
    if (r.ahead != 0 && r.ahead != 1024) continue;
    const auto walk = [&] { for_each(team, blocks, [&](int i, int) { r.run(memory.data() + i * block, block); }); };
    walk();
    best = std::max(best, double(blocks * block) * inner / seconds_of([&] {
                            for (int i = 0; i < inner; ++i) walk();
                          }));
  }
  return best;
}

/// Bytes to walk so that no cache helps: four times the L3 the system tells, or more where reading twice as much is
/// slower by 10 % (a share of a larger cache), up to 1 GiB.
inline std::int64_t cold_bytes(const Caches& c, const Team& team) {
  constexpr std::int64_t most = std::int64_t(1) << 30;
  std::int64_t bytes = std::min(4 * c.l3, most);
  while (2 * bytes <= most && read_rate(bytes, team) > 1.1 * read_rate(2 * bytes, team)) bytes *= 2;
  return bytes;
}

/// Median seconds of an empty task on every thread of the team, one after another.
inline double fork_join_seconds(const Team& team) {
  std::vector<double> times;
  for (int repeat = 0; repeat < 15; ++repeat)
    times.push_back(seconds_of([&] {
                      for (int i = 0; i < 200; ++i) for_each(team, team.threads * 4, [](int, int) {});
                    }) /
                    200);
  return median(times);
}

}  // namespace klens::cli
