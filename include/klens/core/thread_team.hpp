// ThreadTeam: the threads behind a Team. Between two calls workers spin for some 100 us, which covers what a pass
// computes on one thread between two linears; then they sleep until the next call.
//
// A call costs four transfers of a cache line between two cores: the ticket to a worker, the ticket as tasks are taken,
// the count of finished tasks back. Two cores of a Zen 4 server: 0.15 us for two empty tasks, 0.65 us for 32. System
// calls are made only where somebody sleeps; waking a worker costs the caller 8 us there, hence the long spin (20 us of
// work between two calls of a team that spins for 5 us: 0.65 us, at times 9).
#pragma once

#include <klens/core/denormals.hpp>
#include <klens/core/team.hpp>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <thread>

namespace klens {

/// Owns `threads - 1` workers; the caller of a task is the last one. One caller at a time. Results of kernels do not depend on
/// the number of threads: tasks are handed out in order of arrival, and a task depends on its index alone. A worker
/// that the system does not run delays a call only by the task it holds: the others take the rest.
class ThreadTeam {
 public:
  static constexpr int max_threads = 256;

  explicit ThreadTeam(int threads) : threads_(threads < 1 ? 1 : threads > max_threads ? max_threads : threads) {
    // More threads than cores: who spins keeps another from working.
    const unsigned cores = std::thread::hardware_concurrency();
    patience_ = std::chrono::microseconds(cores != 0 && unsigned(threads_) > cores ? 2 : 100);
    workers_ = std::make_unique<std::thread[]>(std::size_t(threads_ - 1));
    for (int i = 0; i + 1 < threads_; ++i) workers_[std::size_t(i)] = std::thread([this, i] { work(i + 1); });
  }

  ~ThreadTeam() {
    stop_.store(true, std::memory_order_relaxed);
    publish(0);
    for (int i = 0; i + 1 < threads_; ++i) workers_[std::size_t(i)].join();
  }

  ThreadTeam(const ThreadTeam&) = delete;
  ThreadTeam& operator=(const ThreadTeam&) = delete;

  int threads() const { return threads_; }

  /// The view that kernels' callers take; valid while this object lives.
  Team team() { return {&ThreadTeam::run, this, threads_}; }

 private:
  static constexpr std::uint32_t none = 1u << 30;

  static void run(void* self, int count, void (*task)(void*, int, int), void* context) {
    static_cast<ThreadTeam*>(self)->run_tasks(count, task, context);
  }

  void run_tasks(int count, void (*task)(void*, int, int), void* context) {
    if (count <= 0) return;
    const FlushDenormals flush;
    task_ = task, context_ = context, count_ = count;
    const std::uint32_t before = done_.load(std::memory_order_relaxed);   // nobody changes it between calls
    publish(std::uint32_t(count));
    const std::uint32_t all = before + std::uint32_t(count) - take(0);
    if (!spin([&] { return done_.load(std::memory_order_acquire) == all; })) {
      caller_sleeps_.store(true, std::memory_order_seq_cst);
      for (std::uint32_t done; (done = done_.load(std::memory_order_seq_cst)) != all;)
        done_.wait(done, std::memory_order_acquire);
      caller_sleeps_.store(false, std::memory_order_relaxed);
    }
  }

  /// Opens the next call with `count` tasks. A worker says that it is about to sleep before it looks at the ticket once
  /// more, and the ticket changes before that word is read here, all in one order (seq_cst): whoever is not woken has
  /// seen the new ticket. The word is taken back here, before the wake: a worker that takes long to wake costs one
  /// system call, not one per call.
  void publish(std::uint32_t count) {
    const std::uint64_t call = ticket_.load(std::memory_order_relaxed) >> 32;
    ticket_.store((call + 1) << 32 | (none + count), std::memory_order_seq_cst);
    if (!sleepers_.load(std::memory_order_seq_cst)) return;
    sleepers_.store(false, std::memory_order_seq_cst);
    wake_.fetch_add(1, std::memory_order_seq_cst);
    wake_.notify_all();
  }

  /// Runs tasks until none is left, and returns how many. The low half of the ticket counts down, below zero too
  /// (`none`: each thread that finds nothing subtracts one); one subtraction takes a task, which is one transfer of the
  /// line where looking first would be two (0.1 us each). Whoever has taken a task holds the call open (it is not in
  /// done_ yet), so task_, context_ and count_ are stable while he reads them, and read only then; nobody holds tasks
  /// of two calls.
  std::uint32_t take(int thread) {
    for (std::uint32_t mine = 0;; ++mine) {
      const std::uint32_t low = std::uint32_t(ticket_.fetch_sub(1, std::memory_order_acq_rel));
      if (low <= none) return mine;
      task_(context_, count_ - int(low - none), thread);
    }
  }

  void work(int thread) {
    const FlushDenormals flush;
    for (;;) {
      const std::uint64_t seen = ticket_.load(std::memory_order_acquire);
      if (const std::uint32_t mine = take(thread); mine != 0) {
        done_.fetch_add(mine, std::memory_order_seq_cst);
        if (caller_sleeps_.load(std::memory_order_seq_cst)) done_.notify_all();
      }
      if (stop_.load(std::memory_order_relaxed)) return;
      const auto changed = [&](std::memory_order order) { return ticket_.load(order) >> 32 != seen >> 32; };
      if (spin([&] { return changed(std::memory_order_acquire); })) continue;
      const std::uint32_t wake = wake_.load(std::memory_order_seq_cst);
      sleepers_.store(true, std::memory_order_seq_cst);
      if (!changed(std::memory_order_seq_cst)) wake_.wait(wake, std::memory_order_seq_cst);
    }
  }

  /// Until `ready`, but not for ever: false after patience_. The clock (25 ns) is asked every 16 pauses (each 40 to 140
  /// cycles).
  template <class Ready>
  bool spin(const Ready& ready) const {
    std::chrono::steady_clock::time_point start{};
    for (int i = 1;; ++i) {
      if (ready()) return true;
      __builtin_ia32_pause();
      if (i % 16 != 0) continue;
      const auto now = std::chrono::steady_clock::now();
      if (i == 16) start = now;
      else if (now - start > patience_) return false;
    }
  }

  const int threads_;
  std::chrono::nanoseconds patience_;
  // What the caller writes and workers read at a call, in one line; what workers write in two others.
  alignas(64) std::atomic<std::uint64_t> ticket_{none};   // call << 32 | none + tasks left
  void (*task_)(void*, int, int) = nullptr;
  void* context_ = nullptr;
  int count_ = 0;
  std::atomic<bool> stop_{false};
  alignas(64) std::atomic<std::uint32_t> done_{0};     // tasks that workers have finished, of all calls, modulo 2^32
  std::atomic<bool> caller_sleeps_{false};
  alignas(64) std::atomic<bool> sleepers_{false};      // some worker sleeps, or is about to
  std::atomic<std::uint32_t> wake_{0};
  alignas(64) std::unique_ptr<std::thread[]> workers_;
};

}  // namespace klens
