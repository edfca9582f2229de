// Buffer<T>: the only owner of numeric memory in klens. 64-byte aligned, zero-filled, with a zero tail of one vector.
#pragma once

#include <klens/core/rows.hpp>

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <span>
#include <sys/mman.h>
#include <type_traits>

namespace klens {

/// Owns `size()` zeroed elements at a 64-byte boundary, followed by 64 zero bytes that may be read. Moves, never copies.
/// From 4 MiB on it asks for huge pages (one TLB entry covers 512 small pages; advice only, never an error).
/// Running out of memory ends the program: sizes come from checked headers, see io/.
template <class T>
class Buffer {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  Buffer() = default;
  explicit Buffer(std::size_t count) : size_(count) {
    const std::size_t bytes = std::size_t(round_up(std::int64_t(count * sizeof(T)), 64)) + 64;
    const std::size_t boundary = bytes >= (4u << 20) ? (2u << 20) : 64;
    void* p = nullptr;
    if (posix_memalign(&p, boundary, bytes) != 0) std::abort();
    if (boundary > 64) madvise(p, bytes, MADV_HUGEPAGE);
    std::memset(p, 0, bytes);
    data_.reset(static_cast<T*>(p));
  }

  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  std::size_t size() const { return size_; }
  T& operator[](std::size_t i) { KLENS_ASSERT(i < size_); return data_.get()[i]; }
  const T& operator[](std::size_t i) const { KLENS_ASSERT(i < size_); return data_.get()[i]; }
  std::span<T> span() { return {data(), size_}; }
  std::span<const T> span() const { return {data(), size_}; }

 private:
  struct Free { void operator()(T* p) const { std::free(p); } };
  std::unique_ptr<T, Free> data_;
  std::size_t size_ = 0;
};

}  // namespace klens
