// Watches operator new, so that the readers' tests see a hostile length that is believed. AddressSanitizer keeps its
// own operators: there nothing is counted, and the largest request reads 0.
#include "io/fuzz.hpp"

#include <atomic>
#include <new>

namespace {
std::atomic<std::size_t> largest{0};
}

namespace test {
std::size_t largest_allocation() { return largest.load(); }
void reset_largest_allocation() { largest = 0; }
}  // namespace test

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define KLENS_TEST_ASAN 1
#endif
#endif

#if !defined(__SANITIZE_ADDRESS__) && !defined(KLENS_TEST_ASAN)
namespace {
void* take(std::size_t bytes) noexcept {
  std::size_t seen = largest.load(std::memory_order_relaxed);
  while (bytes > seen && !largest.compare_exchange_weak(seen, bytes, std::memory_order_relaxed)) {
  }
  return std::malloc(bytes ? bytes : 1);
}
void* take_or_throw(std::size_t bytes) {
  void* p = take(bytes);
  if (p == nullptr) throw std::bad_alloc();
  return p;
}
}  // namespace

void* operator new(std::size_t bytes) { return take_or_throw(bytes); }
void* operator new[](std::size_t bytes) { return take_or_throw(bytes); }
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept { return take(bytes); }
void* operator new[](std::size_t bytes, const std::nothrow_t&) noexcept { return take(bytes); }
void operator delete(void* p) noexcept { std::free(p); }
void operator delete[](void* p) noexcept { std::free(p); }
void operator delete(void* p, std::size_t) noexcept { std::free(p); }
void operator delete[](void* p, std::size_t) noexcept { std::free(p); }
#endif
