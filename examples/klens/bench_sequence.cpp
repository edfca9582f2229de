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

/// The limits of one level on one thread, and the rounds of its rows.
class SequenceRun {
 public:
  SequenceRun(const RoundOptions& options, const KernelTable& table)
      : options_(options), table_(table), peaks_(peaks_of(table.level)), readers_(readers()) {
    for (int repeat = 0; repeat < 9; ++repeat) measure_rates();
  }

  nlohmann::json row(const SequenceCase& c) {
    const FlushDenormals flush;
    c.run(table_, 0);
    const double error = c.error();
    const auto kernel = [&] { for (int i = 0; i < c.copies; ++i) c.run(table_, i); };
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
            {"threads", 1},
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
    const Team alone;
    fma_ = std::max(fma_, port_rate(peaks_->of[int(Port::fma)], alone));
    silu_ = std::max(silu_, port_rate(peaks_->silu, alone));
    exp_ = std::max(exp_, port_rate(peaks_->exp2, alone));
  }

  void walk(const SequenceCase& c, int copy) const {
    for (const Span& s : c.spans(copy)) {
      if (s.to) copy_(s.from, s.to, s.bytes);
      else reader_.run(s.from, s.bytes / 64 * 64);
    }
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
  const Peaks* peaks_;
  std::vector<Reader> readers_;
  Reader reader_;
  void (*copy_)(const unsigned char*, unsigned char*, std::int64_t) = nullptr;
  double fma_ = 0, silu_ = 0, exp_ = 0;
};

}  // namespace

std::int64_t sequence_row_count() { return std::int64_t(sequence_cases(1).size()); }

Result<nlohmann::json> run_sequence(const RoundOptions& options, const KernelTable& table, int prefill,
                                    const std::function<void()>& step) {
  nlohmann::json rows = nlohmann::json::array();
  SequenceRun run(options, table);
  for (const auto& make : sequence_cases(prefill)) {
    if (interrupted) return Error{ErrorCode::interrupted, "bench", "", "interrupted"};
    rows.push_back(run.row(make()));
    step();
  }
  return rows;
}

}  // namespace klens::cli
