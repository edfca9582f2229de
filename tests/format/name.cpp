// name.hpp: every name and its Precision, both ways; what is no name.
#include <klens/format/name.hpp>

#include <doctest/doctest.h>

using namespace klens;

TEST_CASE("format: names round-trip for every weight, activation and state") {
  int count = 0;
  for (const char* weight :
       {"f32",   "f16",    "bf16",  "w8",    "w6",     "w5",    "w4",    "w3",     "w2",     "w8g32",
        "w6g64", "w5g128", "w4g32", "w4g64", "w4g128", "w3g32", "w2g64", "nf4g32", "nf4g64", "nf4g128"})
    for (const char* activation : {"", "a8", "a16", "a8s"})
      for (const char* state : {"", "f16", "s16", "s8", "s4"}) {
        const std::string name = std::string(weight) + activation + state;
        CAPTURE(name);
        const auto p = parse_format(name);
        REQUIRE(p);
        CHECK(format_name(*p) == name);
        CHECK(weight_name(*p) == weight);
        ++count;
      }
  CHECK(count == 400);
}

TEST_CASE("format: what is no name") {
  for (const char* name : {"",         "w",      "w1",     "w7",       "w9",       "w16",
                           "w4g",      "w4g31",  "w4g0",   "w4g65536", "w4g65568", "w4g99999999999999999999",
                           "nf4",      "nf4g16", "f8",     "f32g32",   "w4 ",      " w4",
                           "w4a",      "w4a4",   "w4a8s3", "w4a88",    "w4s",      "w4s2",
                           "W4",       "w4g32x", "w04",    "w4g032",   "a8",       "w4a8ss",
                           "w4a8s8s8", "w4a16s"}) {
    CAPTURE(std::string(name));
    CHECK(!parse_format(name));
  }
}
