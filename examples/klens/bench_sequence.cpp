// The rounds of the sequence kernels' rows (bench_sequence.hpp): a unit of its own, since its cases compile long.
#include "bench_sequence.hpp"

#include "bench_sequence_cases.hpp"

#include <algorithm>

namespace klens::cli {
namespace {

/// Every row: decode and prefill of each kernel that a model has.
inline std::vector<std::function<SequenceCase()>> sequence_cases(int prefill) {
  std::vector<std::function<SequenceCase()>> all;
  const auto add = [&](auto make) { all.push_back(make); };
  constexpr State scan_formats[] = {State::f32, State::f16, State::s16, State::s8};
  for (const SequenceShape& s : sequence_shapes) {
    for (const int tokens : {1, prefill}) {
      const bool formats = &s == &sequence_shapes[0];   // every format of a convolution's state once
      for (const State f : scan_formats) {
        if (s.conv_channels > 0 && (formats || f == State::f32)) add([=] { return sequence::conv1d(s, tokens, f); });
        if (s.short_channels > 0) add([=] { return sequence::short_conv(s, tokens, f); });
      }
      for (const State f : scan_formats) {
        if (s.scan_channels > 0) add([=] { return sequence::scan(s, tokens, f); });
        if (s.ssd_heads > 0) add([=] { return sequence::ssd(s, tokens, f); });
      }
      if (s.heads > 0) {
        for (const State f : {State::f32, State::f16, State::s8, State::s4})
          for (const int context : {1023, 8191})
            if (tokens == 1) add([=] { return sequence::attention(s, 1, context, f); });
            else if (context == 1023) add([=] { return sequence::attention(s, tokens, 0, f); });
        add([=] { return sequence::rope(s, tokens); });
      }
      if (s.short_channels > 0) add([=] { return sequence::head_norm(s, tokens); });
      if (s.ssd_heads > 0) add([=] { return sequence::gated_norm(s, tokens); });
      if (s.heads > 0 && s.scan_channels > 0) add([=] { return sequence::mean_norm(s, tokens); });
      add([=] { return sequence::rms_norm(s, tokens); });
      add([=] { return sequence::quantize_row(s, tokens); });
      if (s.hadamard > 0) add([=] { return sequence::hadamard(s, tokens); });
    }
  }
  return all;
}

/// The limits of one level on a team, and the rounds of its rows.
class SequenceRun {
 public:
  SequenceRun(const RoundOptions& options, const KernelTable& table, const Team& team)
      : options_(options), table_(table), team_(team), peaks_(peaks_of(table.level)), readers_(readers()) {
    for (int repeat = 0; repeat < 9; ++repeat) measure_rates();
  }

  nlohmann::json row(const SequenceCase& c) {
    const FlushDenormals flush;
    c.run(table_, 0);
    const double error = c.error();
    const auto kernel = [&] {
      for (int i = 0; i < c.copies; ++i)
        if (team_.threads > 1) c.run_on(table_, i, team_);
        else c.run(table_, i);
    };
    const auto memory = [&] { for (int i = 0; i < c.copies; ++i) walk(c, i); };
    choose_reader(c);
    const int inner = repeats_of(kernel), memory_inner = repeats_of(memory);
    std::vector<double> times, walks, shares;
    const auto start = std::chrono::steady_clock::now();
    const auto spent = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(); };
    for (int round = 0; round <= options_.repeats && (round <= 5 || spent() < options_.most); ++round) {
      const double walked = pass(memory, memory_inner) / c.copies;
      measure_rates();
      const double s = pass(kernel, inner) / c.copies;
      if (round > 0) times.push_back(s), walks.push_back(walked);
    }
    const double exp = rate_of(peaks_ ? exp_ : 0, c.exps), silu = rate_of(silu_, c.silus), fma = rate_of(fma_, c.fmas);
    const bool attends = c.exps > 0 && !c.judged_by_exp;
    const double compute = c.judged_by_exp ? exp : attends ? fma : silu + fma;
    const double memory_s = median(walks);
    for (std::size_t i = 0; i < times.size(); ++i)
      shares.push_back((c.judged_by_exp && compute > 0 ? std::max(compute, c.tokens == 1 ? walks[i] : 0.0)
                                                       : std::max(compute, walks[i])) / times[i]);
    const bool by_memory = memory_s > compute && !(c.judged_by_exp && c.tokens > 1);
    const char* const unit = c.judged_by_exp ? "exp2 rate" : c.silus > 0 ? "SiLU and FMA rates" : "FMA peak";
    return {{"kernel", c.kernel},
            {"format", ""},
            {"level", name_of(table_.level)},
            {"shape", c.shape},
            {"kind", "sequence"},
            {"rows", 0},
            {"cols", 0},
            {"tokens", c.tokens},
            {"threads", team_.threads},
            {"copies", c.copies},
            {"microseconds", median(times) * 1e6},
            {"memory_microseconds", memory_s * 1e6},
            {"compute_microseconds", compute > 0 ? nlohmann::json(compute * 1e6) : nlohmann::json()},
            {"limit", by_memory ? "memory walk" : unit},
            {"share", median(shares)},
            {"error", error},
            {"rivals", nlohmann::json::array()}};
  }

 private:
  static double rate_of(double rate, double count) { return rate > 0 ? count / rate : 0; }

  /// The best seen: a port's peak is a matter of the clock.
  void measure_rates() {
    if (!peaks_) return;
    fma_ = std::max(fma_, port_rate(peaks_->of[int(Port::fma)], team_));
    silu_ = std::max(silu_, port_rate(peaks_->silu, team_));
    exp_ = std::max(exp_, port_rate(peaks_->exp2, team_));
  }

  /// Every thread walks its share of every span.
  void walk(const SequenceCase& c, int copy) const {
    const std::vector<Span> spans = c.spans(copy);
    for_each(team_, team_.threads, [&](int i, int) {
      for (const Span& s : spans) {
        const Share part = share_of(int(s.bytes / 64), i, team_.threads);
        const std::int64_t from = std::int64_t(part.begin) * 64, bytes = std::int64_t(part.end - part.begin) * 64;
        const bool last = i + 1 == team_.threads;
        if (s.to && (last || bytes > 0)) copy_(s.from + from, s.to + from, last ? s.bytes - from : bytes);
        if (!s.to && bytes > 0) reader_.run(s.from + from, bytes);
      }
    });
  }

  void choose_reader(const SequenceCase& c) {
    double best = 1e30;
    copy_ = peaks_ ? peaks_->copy : compiled_peaks.of[int(Level::ref)]->copy;
    Reader chosen;
    for (const Reader& r : readers_) {
      reader_ = r;
      for (int repeat = 0; repeat < 2; ++repeat) {
        const double s = seconds_of([&] { for (int i = 0; i < c.copies; ++i) walk(c, i); });
        if (s < best) best = s, chosen = r;
      }
    }
    reader_ = chosen;
  }

  int repeats_of(const auto& once) const {
    once();
    return int(std::clamp(options_.seconds / std::max(seconds_of(once), 1e-8), 1.0, 100000.0));
  }
  static double pass(const auto& once, int inner) {
    once();   // what ran before is driven out of the cache
    return seconds_of([&] { for (int i = 0; i < inner; ++i) once(); }) / inner;
  }

  RoundOptions options_;
  const KernelTable& table_;
  Team team_;
  const Peaks* peaks_;
  std::vector<Reader> readers_;
  Reader reader_;
  void (*copy_)(const unsigned char*, unsigned char*, std::int64_t) = nullptr;
  double fma_ = 0, silu_ = 0, exp_ = 0;
};

}  // namespace

std::int64_t sequence_row_count() { return std::int64_t(sequence_cases(1).size()); }

Result<nlohmann::json> run_sequence(const RoundOptions& options, const KernelTable& table, const std::vector<Team>& teams, int prefill,
                                    const std::function<void()>& step) {
  nlohmann::json rows = nlohmann::json::array();
  std::vector<SequenceRun> runs;
  for (const Team& team : teams) runs.emplace_back(options, table, team);
  for (const auto& make : sequence_cases(prefill)) {
    for (std::size_t i = 0; i < teams.size(); ++i) {
      if (interrupted) return Error{ErrorCode::interrupted, "bench", "", "interrupted"};
      const SequenceCase one = make();   // fresh: its error is that of the first call
      if (teams[i].threads == 1 || one.run_on) rows.push_back(runs[i].row(one));
    }
    step();
  }
  return rows;
}

}  // namespace klens::cli
