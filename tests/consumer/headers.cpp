// Format arithmetic at compile time, from the headers alone.
#include <klens/format/name.hpp>

#include <cstdio>

int main() {
  const auto precision = klens::parse_format("w4g32a8");
  if (!precision || precision->weight_bits != 4 || precision->scheme.group != 32) return 1;
  std::puts("w4g32a8 is known");
}
