// Team: what kernels' callers see of a group of threads. A plain struct, so that objects of every ISA level can use it
// without instantiating a standard library template; core/thread_team.hpp owns the threads behind it.
#pragma once

#include <klens/config.hpp>

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

}  // namespace klens
