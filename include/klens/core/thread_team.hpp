// ThreadTeam: the threads behind a Team. Workers spin for some 20 us after their last task, then sleep until the next one.
#pragma once

#include <klens/core/denormals.hpp>
#include <klens/core/team.hpp>

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>

namespace klens {

/// Owns `threads - 1` workers; the caller of a task is the last one. One caller at a time. Results of kernels do not depend on
/// the number of threads: tasks are handed out in order of arrival, and a task depends on its index alone.
class ThreadTeam {
 public:
  static constexpr int max_threads = 256;

  explicit ThreadTeam(int threads) : threads_(threads < 1 ? 1 : threads > max_threads ? max_threads : threads) {
    workers_ = std::make_unique<std::thread[]>(std::size_t(threads_ - 1));
    for (int i = 0; i + 1 < threads_; ++i) workers_[std::size_t(i)] = std::thread([this, i] { work(i + 1); });
  }

  ~ThreadTeam() {
    stop_.store(true, std::memory_order_relaxed);
    epoch_.fetch_add(1, std::memory_order_seq_cst);
    epoch_.notify_all();
    for (int i = 0; i + 1 < threads_; ++i) workers_[std::size_t(i)].join();
  }

  ThreadTeam(const ThreadTeam&) = delete;
  ThreadTeam& operator=(const ThreadTeam&) = delete;

  int threads() const { return threads_; }

  /// The view that kernels' callers take; valid while this object lives.
  Team team() { return {&ThreadTeam::run, this, threads_}; }

 private:
  static constexpr int spins = 400;   // of a pause each, about 50 cycles

  static void run(void* self, int count, void (*task)(void*, int, int), void* context) {
    static_cast<ThreadTeam*>(self)->run_tasks(count, task, context);
  }

  void run_tasks(int count, void (*task)(void*, int, int), void* context) {
    const FlushDenormals flush;
    task_ = task, context_ = context, count_ = count;
    done_.store(0, std::memory_order_relaxed);
    left_.store(count, std::memory_order_release);
    epoch_.fetch_add(1, std::memory_order_seq_cst);
    if (threads_ > 1) epoch_.notify_all();
    take(0);
    for (int i = 0;; ++i) {
      const int done = done_.load(std::memory_order_acquire);
      if (done == count) return;
      if (i < spins) __builtin_ia32_pause();
      else done_.wait(done, std::memory_order_acquire);
    }
  }

  /// Runs tasks until none is left. `left_` counts down, so that a late worker of an old call finds 0 and touches nothing;
  /// whoever takes a task holds the call open (done_ < count_), so the other members are stable while he reads them.
  void take(int thread) {
    for (;;) {
      int left = left_.load(std::memory_order_acquire);
      do {
        if (left <= 0) return;
      } while (!left_.compare_exchange_weak(left, left - 1, std::memory_order_acq_rel, std::memory_order_acquire));
      const int count = count_;
      task_(context_, count - left, thread);
      if (done_.fetch_add(1, std::memory_order_acq_rel) + 1 == count) done_.notify_all();
    }
  }

  void work(int thread) {
    const FlushDenormals flush;
    for (;;) {
      const std::uint32_t epoch = epoch_.load(std::memory_order_seq_cst);
      take(thread);
      if (stop_.load(std::memory_order_relaxed)) return;
      bool more = false;
      for (int i = 0; i < spins && !more; ++i) {
        __builtin_ia32_pause();
        more = epoch_.load(std::memory_order_acquire) != epoch;
      }
      if (!more) epoch_.wait(epoch, std::memory_order_seq_cst);
    }
  }

  const int threads_;
  alignas(64) std::atomic<int> left_{0};
  alignas(64) std::atomic<int> done_{0};
  alignas(64) std::atomic<std::uint32_t> epoch_{0};
  std::atomic<bool> stop_{false};
  void (*task_)(void*, int, int) = nullptr;
  void* context_ = nullptr;
  int count_ = 0;
  std::unique_ptr<std::thread[]> workers_;
};

}  // namespace klens
