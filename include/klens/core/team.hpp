// Team: what kernels' callers see of a group of threads. A plain struct, so that objects of every ISA level can use it
// without instantiating a standard library template; core/thread_team.hpp owns the threads behind it.
#pragma once

#include <klens/config.hpp>

#include <cstdint>

namespace klens {

/// Runs `task(context, i)` for i in [0, count), each i once, on `threads` threads; returns when all are done.
/// Tasks are handed out dynamically (unequal cores), so a task may depend on nothing but i. threads == 1: a plain loop.
struct Team {
  void (*run)(void* self, int count, void (*task)(void* context, int index, int thread), void* context) = nullptr;
  void* self = nullptr;
  int threads = 1;
};

/// Calls body(index, thread) for every index in [0, count); thread in [0, team.threads).
template <class Body>
KLENS_INLINE void for_each(const Team& team, int count, const Body& body) {
  if (team.threads <= 1 || count <= 1 || team.run == nullptr) {
    for (int i = 0; i < count; ++i) body(i, 0);
    return;
  }
  team.run(team.self, count,
           [](void* context, int index, int thread) { (*static_cast<const Body*>(context))(index, thread); },
           const_cast<void*>(static_cast<const void*>(&body)));
}

/// Units of work in order, dealt out for `threads` threads: task i is units begin[i] .. begin[i + 1]. Each takes a
/// (2 threads)-th of what is left, `least` or more: few tasks are handed over, the last are small, so that threads end
/// together although cores and tasks are unequal. (Eight equal tasks on two threads: they waited 9 to 11 % of a prefill.)
struct Deal {
  static constexpr int most = 512;
  int tasks = 0;
  std::uint16_t begin[most + 1];   // 1 KB
};

/// units: 1 to 65535.
KLENS_INLINE void deal_out(Deal& d, int threads, int units, int least) {
  const int bound = (units + Deal::most / 2 - 1) / (Deal::most / 2);
  least = least > bound ? least : bound;
  d.tasks = 0, d.begin[0] = 0;
  for (int at = 0; at < units; d.begin[++d.tasks] = std::uint16_t(at)) {
    const int left = units - at, share = (left + 2 * threads - 1) / (2 * threads), size = share > least ? share : least;
    at += size < left ? size : left;
  }
}

}  // namespace klens
