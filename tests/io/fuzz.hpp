// Deterministic damage for the readers' tests: the same mutations on every machine. KLENS_FUZZ=N asks for N per reader.
#pragma once

#include "support/temp_folder.hpp"

#include <doctest/doctest.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>

#include <unistd.h>

namespace test {

inline int fuzz_count(int normal) {
  const char* text = std::getenv("KLENS_FUZZ");
  return text && std::atoi(text) > 0 ? std::atoi(text) : normal;
}

/// Largest single request to operator new since the last call of reset_largest_allocation (tests/io/allocation.cpp).
std::size_t largest_allocation();
void reset_largest_allocation();

inline void put(const std::string& path, std::string_view content) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(content.data(), std::streamsize(content.size()));
  REQUIRE(file.good());
}

inline std::string get(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  REQUIRE(file.good());
  return {std::istreambuf_iterator<char>(file), {}};
}

class Mutator {
 public:
  explicit Mutator(std::uint64_t seed) : state_(seed) {}

  std::uint64_t random() {  // splitmix64
    std::uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  std::size_t below(std::size_t n) { return n == 0 ? 0 : std::size_t(random() % n); }

  /// One to three mutations, half of them in the first `hot` bytes, where the structure is.
  std::string operator()(std::string bytes, std::size_t hot) {
    for (std::size_t rounds = 1 + below(3); rounds > 0; --rounds) mutate(bytes, hot);
    return bytes;
  }

 private:
  void mutate(std::string& b, std::size_t hot) {
    if (b.empty()) return;
    const std::size_t span = below(2) && hot < b.size() ? hot : b.size();
    const std::size_t at = below(span);
    switch (below(9)) {
      case 0: b.resize(at); break;
      case 1: b[at] = char(b[at] ^ (1 << below(8))); break;
      case 2: b[at] = char(random()); break;
      case 3: b.insert(at, std::string(1 + below(16), char(random()))); break;
      case 4: b.erase(at, 1 + below(16)); break;
      case 5: b.insert(at, b.substr(below(b.size()), 1 + below(64))); break;
      case 6: number(b, at); break;
      case 7: number(b, at); break;
      default: {  // swap two bytes that mean something in JSON
        constexpr std::string_view marks = "{}[]\",:\\0-";
        const std::size_t found = b.find_first_of(marks, at);
        if (found != std::string::npos) b[found] = marks[below(marks.size())];
      }
    }
  }

  /// The next decimal number becomes a hostile one.
  void number(std::string& b, std::size_t at) {
    constexpr std::string_view digits = "0123456789";
    constexpr std::string_view hostile[] = {"-1",
                                            "0",
                                            "1",
                                            "3",
                                            "4294967296",
                                            "9223372036854775807",
                                            "18446744073709551616",
                                            "1e308",
                                            "0.5",
                                            "1152921504606846975",
                                            "null",
                                            "\"7\"",
                                            "[]",
                                            "2147483647",
                                            "67108864",
                                            "16777216"};
    const std::size_t begin = b.find_first_of(digits, at);
    if (begin == std::string::npos) return;
    std::size_t end = b.find_first_not_of(digits, begin);
    if (end == std::string::npos) end = b.size();
    b.replace(begin, end - begin, hostile[below(std::size(hostile))]);
  }

  std::uint64_t state_;
};

/// An error is one line, names the file, and says something.
inline void check_clear(const std::string& message, std::string_view file) {
  CHECK_MESSAGE(message.find(file) != std::string::npos, message);
  CHECK_MESSAGE(message.find('\n') == std::string::npos, message);
  CHECK_MESSAGE(message.size() > file.size() + 5, message);
  CHECK_MESSAGE(message.size() < 1200, message);
}

}  // namespace test
