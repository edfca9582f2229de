// Watches operator new, so that the readers' tests see a hostile length that is believed. AddressSanitizer keeps its
// own operators: there nothing is counted, and the largest request reads 0.
#include "io/fuzz.hpp"

#include <atomic>

namespace {
std::atomic<std::size_t> largest{0};
[[maybe_unused]] void watch(std::size_t bytes) noexcept {
  std::size_t seen = largest.load(std::memory_order_relaxed);
  while (bytes > seen && !largest.compare_exchange_weak(seen, bytes, std::memory_order_relaxed)) {
  }
}
}  // namespace

#include "support/watched_new.hpp"

namespace test {
std::size_t largest_allocation() { return largest.load(); }
void reset_largest_allocation() { largest = 0; }
}  // namespace test
