// Buffer: alignment, zeros, the readable tail, and the advice for huge pages, which the kernel shows in smaps.
#include <klens/core/aligned.hpp>

#include <doctest/doctest.h>

#include <cstdint>
#include <cstdio>
#include <fstream>
#include <string>
#include <utility>

namespace {

std::uintptr_t address(const void* p) { return reinterpret_cast<std::uintptr_t>(p); }

/// The flags that /proc/self/smaps gives for the mapping that holds `p`; empty where the system has none.
std::string flags_of(const void* p) {
  std::ifstream smaps("/proc/self/smaps");
  bool inside = false;
  for (std::string line; std::getline(smaps, line);) {
    unsigned long long begin = 0, end = 0;
    if (std::sscanf(line.c_str(), "%llx-%llx ", &begin, &end) == 2) inside = begin <= address(p) && address(p) < end;
    else if (inside && line.starts_with("VmFlags:")) return line.substr(8) + " ";
  }
  return {};
}

}  // namespace

TEST_CASE("Buffer: aligned, zero, with a tail of one vector that may be read") {
  for (const std::size_t count : {0u, 1u, 15u, 16u, 17u, 1000u, 3u << 20}) {
    CAPTURE(count);
    const klens::Buffer<float> buffer(count);
    CHECK(buffer.size() == count);
    CHECK(address(buffer.data()) % 64 == 0);
    int wrong = 0;
    for (std::size_t i = 0; i < count + 16; ++i) wrong += buffer.data()[i] != 0.0f;
    CHECK(wrong == 0);
  }
}

TEST_CASE("Buffer: what is moved keeps its address") {
  klens::Buffer<std::int8_t> a(100);
  a[99] = 7;
  const std::int8_t* data = a.data();
  klens::Buffer<std::int8_t> b = std::move(a);
  CHECK(b.data() == data);
  CHECK(b[99] == 7);
  CHECK(b.span().size() == 100);
}

TEST_CASE("Buffer: from 4 MiB on it starts at a huge page and is advised to be made of them") {
  const klens::Buffer<unsigned char> small(1 << 20), large(5 << 20);
  CHECK(address(large.data()) % (2 << 20) == 0);
  const std::string flags = flags_of(large.data() + (1 << 20));
  std::ifstream enabled("/sys/kernel/mm/transparent_hugepage/enabled");
  if (!enabled || flags.empty()) {
    MESSAGE("skipped: this system shows no transparent huge pages");
    return;
  }
  CHECK(flags.find(" hg ") != std::string::npos);
  CHECK(flags_of(small.data() + (1 << 19)).find(" hg ") == std::string::npos);
}
