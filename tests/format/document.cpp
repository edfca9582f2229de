// The table of docs/formats.md holds what packed_bytes says, for every format.
#include <klens/format/qtensor.hpp>

#include "../oracle/quantize.hpp"

#include <doctest/doctest.h>

#include <fstream>
#include <sstream>

using namespace klens;

TEST_CASE("format: the table in docs/formats.md") {
  std::ifstream file(KLENS_TEST_DATA "/../../docs/formats.md");
  REQUIRE(file);
  std::ostringstream text;
  text << file.rdbuf();
  const std::string page = text.str();
  for (const oracle::Format& f : oracle::formats()) {
    const Precision p = *parse_format(f.name);
    const Unit u = unit_of(p.weight_bits, p.scheme.grid);
    const auto bits = [&](std::int64_t n, std::int64_t k) {
      return 8.0 * double(packed_bytes(p, n, k)) / double(n * k);
    };
    char line[160];
    std::snprintf(line, sizeof line, "\n| `%s` | %d x %d | %lld | %.4f | %.4f | %.4f |\n", f.name.c_str(), u.inputs,
                  u.lines, static_cast<long long>(packed_bytes(p, 2048, 2048)), bits(2048, 2048), bits(80, 48),
                  bits(17, 44));
    CHECK_MESSAGE(page.find(line) != std::string::npos, line);
  }
}
