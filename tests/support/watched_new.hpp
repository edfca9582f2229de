// Replaces operator new of a test program: every request goes to `watch(bytes)`, which the one source that includes this
// has defined before, noexcept, in an unnamed namespace. AddressSanitizer keeps its own operators: there nothing is
// watched, and `watching` is false.
#pragma once

#include <cstdlib>
#include <new>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define KLENS_TEST_ASAN 1
#endif
#endif

#if !defined(__SANITIZE_ADDRESS__) && !defined(KLENS_TEST_ASAN)
namespace {
[[maybe_unused]] constexpr bool watching = true;
void* take(std::size_t bytes) noexcept {
  watch(bytes);
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
#else
namespace {
[[maybe_unused]] constexpr bool watching = false;
}
#endif
