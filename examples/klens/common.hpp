// What every command of the program shares: options, the progress line, errors, Ctrl-C.
#pragma once

#include <klens/core/result.hpp>
#include <klens/core/thread_team.hpp>
#include <klens/dispatch/select.hpp>
#include <klens/io/mapped_file.hpp>
#include <klens/report/number.hpp>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <iostream>
#include <iterator>
#include <string>
#include <thread>
#include <unistd.h>
#include <vector>

namespace klens::cli {

/// Set by Ctrl-C; long loops look at it and end with ErrorCode::interrupted. A second Ctrl-C ends the program at once.
inline std::atomic<bool> interrupted{false};

inline void catch_interrupts() {
  std::signal(SIGINT, [](int) {
    if (interrupted.exchange(true)) _exit(130);
  });
}

/// Options that every command has.
struct Common {
  bool json = false;
  int threads = 0;  // 0: all processors
  std::string isa;  // empty: KLENS_ISA, else the best level

  int thread_count() const { return threads > 0 ? threads : std::max(1, int(std::thread::hardware_concurrency())); }
};

inline void add_common(CLI::App& command, Common& common) {
  command.add_flag("--json", common.json, "Print JSON instead of text");
  command.add_option("--threads", common.threads, "Threads (default: one per processor)")->check(CLI::Range(1, 256));
  command.add_option("--isa", common.isa, "ISA level: ref avx2 avx_vnni avx_vnni_int8 avx512 avx512_vnni avx512_bf16 amx_int8 (default: KLENS_ISA, else the best)");
}

/// Of --no-mmap: Model::gather_weights(true).
inline constexpr const char* no_mmap_help =
    "Copy a .klens file's weights into huge pages instead of using them where the file is mapped: faster where file pages are 4 KiB";

/// Of --states: text of parse_states().
inline constexpr const char* states_help = "Formats of scan and conv states and of the KV cache: s8, or scan=s8,conv=s16,kv=s4";

/// Prints an error in one line; the exit status of a failed command.
inline int fail(const Error& error) {
  fmt::print(stderr, "klens: {}\n", error.message());
  return error.code == ErrorCode::interrupted ? 130 : error.code == ErrorCode::usage ? 2 : 1;
}

inline int finish(const Result<void>& result) { return result ? 0 : fail(result.error()); }

/// One line on the terminal, redrawn: name, share done, time left. Silent when stderr is no terminal, and in the first second.
class Progress {
 public:
  explicit Progress(std::string name) : name_(std::move(name)), start_(Clock::now()), on_(isatty(2)) {}
  ~Progress() { clear(); }

  void operator()(std::int64_t done, std::int64_t total) {
    const auto now = Clock::now();
    const double spent = std::chrono::duration<double>(now - start_).count();
    if (!on_ || total <= 0 || spent < 1 || (done < total && now - drawn_ < std::chrono::milliseconds(200))) return;
    drawn_ = now;
    shown_ = true;
    const double share = double(done) / double(total);
    const int filled = int(share * 30);
    fmt::print(stderr, "\r\033[K{} [{}{}] {:3.0f} %  {}", name_, std::string(filled, '='), std::string(30 - filled, ' '), share * 100,
               done > 0 ? clock_text(spent * double(total - done) / double(done)) + " left" : "");
    std::fflush(stderr);
  }

  void clear() {
    if (shown_) fmt::print(stderr, "\r\033[K"), std::fflush(stderr);
    shown_ = false;
  }

 private:
  using Clock = std::chrono::steady_clock;
  std::string name_;
  Clock::time_point start_, drawn_{};
  bool on_, shown_ = false;
};

/// The whole of a text file, or of standard input for "-". More than 1 GiB is refused.
inline Result<std::string> input_text(const std::string& path) {
  constexpr std::size_t limit = std::size_t(1) << 30;
  if (path != "-") return read_text(path, limit);
  std::string text((std::istreambuf_iterator<char>(std::cin)), {});
  if (text.size() > limit) return Error{ErrorCode::io, "standard input", "at most 1 GiB of text", bytes_text(std::int64_t(text.size()))};
  return text;
}

/// A command registers itself on the application and leaves its exit status in `status`.
using AddCommand = void (*)(CLI::App& app, int& status);

void add_doctor(CLI::App&, int&);
void add_inspect(CLI::App&, int&);
void add_measure(CLI::App&, int&);
void add_audit(CLI::App&, int&);
void add_compare(CLI::App&, int&);
void add_plan(CLI::App&, int&);
void add_pack(CLI::App&, int&);
void add_build(CLI::App&, int&);
void add_eval(CLI::App&, int&);
void add_generate(CLI::App&, int&);
void add_bench(CLI::App&, int&);
void add_report(CLI::App&, int&);
void add_logits(CLI::App&, int&);
void add_tokenize(CLI::App&, int&);

}  // namespace klens::cli
