// Watches operator new, so that the readers' tests see a hostile length that is believed.
#include "io/fuzz.hpp"

#include <atomic>
#include <new>

namespace {
std::atomic<std::size_t> largest{0};

void* take(std::size_t bytes) {
  std::size_t seen = largest.load(std::memory_order_relaxed);
  while (bytes > seen && !largest.compare_exchange_weak(seen, bytes, std::memory_order_relaxed)) {
  }
  void* p = std::malloc(bytes ? bytes : 1);
  if (p == nullptr) throw std::bad_alloc();
  return p;
}
}  // namespace

void* operator new(std::size_t bytes) { return take(bytes); }
void* operator new[](std::size_t bytes) { return take(bytes); }
void operator delete(void* p) noexcept { std::free(p); }
void operator delete[](void* p) noexcept { std::free(p); }
void operator delete(void* p, std::size_t) noexcept { std::free(p); }
void operator delete[](void* p, std::size_t) noexcept { std::free(p); }

namespace test {
std::size_t largest_allocation() { return largest.load(); }
void reset_largest_allocation() { largest = 0; }
}  // namespace test
