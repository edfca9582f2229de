// klens bench kernels, the sequence kernels: convolutions, scans, attention, norms, rotations of six published models,
// one thread, each beside what bounds it, measured in the same rounds.
//
//   memory   the time to walk the bytes that a call must read and write, by lines, in the same places: plain reads
//            where nothing is written (the best reader), else lines read and written
//   compute  its exponentials (or SiLUs) and multiply-adds at the rates of loops on registers; they share ports, so
//            their times add. Attention of one query and the scan are not charged for both
//   limit    the longer of the two; share = limit / time, within each round, the median counts
#pragma once

#include "bench_run.hpp"
#include "common.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>

namespace klens::cli {

/// Rows of one level: decode, and prefills of so many tokens, on each of the teams where a session splits the kernel; `step()`
/// after each kernel.
Result<nlohmann::json> run_sequence(const RoundOptions& options, const KernelTable& table, const std::vector<Team>& teams, int prefill,
                                    const std::function<void()>& step);
std::int64_t sequence_row_count();

/// Levels that differ in their sequence kernels: VNNI adds nothing to them.
inline bool runs_sequence(const std::vector<Level>& levels, Level level) {
  const auto has = [&](Level l) { return std::find(levels.begin(), levels.end(), l) != levels.end(); };
  if (base_of(level) != level) return levels.size() == 1;
  if (level == Level::avx_vnni) return !has(Level::avx2);
  if (level == Level::avx512_vnni) return !has(Level::avx512);
  return true;
}

}  // namespace klens::cli
