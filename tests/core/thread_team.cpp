// ThreadTeam: every index once, on at most as many threads as asked, call after call; FTZ and DAZ on every one of them.
#include <klens/core/thread_team.hpp>

#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <vector>

TEST_CASE("every index runs once, for any count and any number of threads") {
  for (const int threads : {1, 2, 3, 7}) {
    CAPTURE(threads);
    klens::ThreadTeam team(threads);
    CHECK(team.team().threads == threads);
    for (const int count : {0, 1, 2, 5, 64, 1000}) {
      CAPTURE(count);
      std::vector<std::atomic<int>> seen(std::size_t(count) + 1);
      std::atomic<int> wrong_thread{0};
      klens::for_each(team.team(), count, [&](int i, int thread) {
        seen[std::size_t(i)].fetch_add(1);
        if (thread < 0 || thread >= threads) wrong_thread.fetch_add(1);
      });
      int wrong = 0;
      for (int i = 0; i < count; ++i) wrong += seen[std::size_t(i)].load() != 1;
      CHECK(wrong == 0);
      CHECK(seen[std::size_t(count)].load() == 0);
      CHECK(wrong_thread.load() == 0);
    }
  }
}

TEST_CASE("many short calls, and calls after a sleep") {
  klens::ThreadTeam team(3);
  long long total = 0;
  for (int call = 0; call < 20000; ++call) {
    std::atomic<int> sum{0};
    const int count = 2 + call % 9;
    klens::for_each(team.team(), count, [&](int i, int) { sum.fetch_add(i + 1, std::memory_order_relaxed); });
    total += sum.load() - count * (count + 1) / 2;
    if (call % 4000 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));   // workers fall asleep
  }
  CHECK(total == 0);
}

TEST_CASE("workers fall asleep and wake, and so does the caller: no call is lost or left open") {
  using std::chrono::microseconds;
  for (const int threads : {2, 5}) {
    CAPTURE(threads);
    klens::ThreadTeam team(threads);
    int wrong = 0;
    std::atomic<int> alone{0}, slept{0};
    for (int call = 0; call < 400; ++call) {
      std::atomic<int> seen[12] = {};
      std::atomic<int> begun{0};
      const int count = 2 + call % 11;
      klens::for_each(team.team(), count, [&](int i, int thread) {
        seen[i].fetch_add(1);
        begun.fetch_add(1);
        if (call % 4 == 0 && i == 0) {   // whoever runs task 0 waits for another thread: none may sleep through
          const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
          while (begun.load() < 2 && std::chrono::steady_clock::now() < end) std::this_thread::yield();
          if (begun.load() < 2) ++alone;
        }
        // Longer than the caller spins.
        if (call % 8 == 0 && thread != 0) std::this_thread::sleep_for(microseconds(300)), ++slept;
      });
      for (int i = 0; i < 12; ++i) wrong += seen[i].load() != (i < count);
      // Gaps around the time that workers spin, so that calls meet them at every point on their way to sleep.
      if (call % 3 == 0) std::this_thread::sleep_for(microseconds(40 + call % 100));
    }
    CHECK(wrong == 0);
    CHECK(alone == 0);
    CHECK(slept > 0);
  }
}

TEST_CASE("two threads of a team never share a thread index at a time") {
  klens::ThreadTeam team(4);
  std::atomic<int> busy[4] = {};
  std::atomic<int> shared{0};
  klens::for_each(team.team(), 2000, [&](int, int thread) {
    if (busy[thread].exchange(1) != 0) shared.fetch_add(1);
    for (int spin = 0; spin < 50; ++spin) __builtin_ia32_pause();
    busy[thread].store(0);
  });
  CHECK(shared.load() == 0);
}

TEST_CASE("denormals are flushed on every thread inside a call, and as before outside") {
  volatile float tiny = 1e-39f;
  klens::ThreadTeam team(3);
  std::atomic<int> kept{0};
  for (int call = 0; call < 50; ++call)
    klens::for_each(team.team(), 30, [&](int, int) {
      if (tiny * 1.0f != 0.0f) kept.fetch_add(1);
    });
  CHECK(kept.load() == 0);
  CHECK(tiny * 1.0f != 0.0f);
  {
    const klens::FlushDenormals flush;
    CHECK(tiny * 1.0f == 0.0f);
  }
  CHECK(tiny * 1.0f != 0.0f);
}

TEST_CASE("a team that is never used, and one that is gone at once") {
  for (int i = 0; i < 50; ++i) klens::ThreadTeam team(1 + i % 5);
  klens::ThreadTeam absurd(0);
  CHECK(absurd.threads() == 1);
}
