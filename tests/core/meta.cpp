// Distinct classes of a compile-time list, against a loop over the same list.
#include <klens/core/meta.hpp>

#include <doctest/doctest.h>

namespace {

template <std::uint64_t... Keys>
constexpr bool agrees_with_a_loop() {
  constexpr std::uint64_t keys[] = {Keys...};
  constexpr auto made = klens::meta::classes<Keys...>();
  int distinct = 0;
  for (std::size_t i = 0; i < sizeof...(Keys); ++i) {
    std::size_t first = 0;
    while (keys[first] != keys[i]) ++first;
    if (made.first[i] != int(first)) return false;
    distinct += first == i;
  }
  return made.count == distinct;
}

static_assert(agrees_with_a_loop<7>());
static_assert(agrees_with_a_loop<7, 9, 7, ~std::uint64_t(0), 9, 0>());
static_assert(agrees_with_a_loop<1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16>());
static_assert(agrees_with_a_loop<5, 5, 5, 5, 5, 5, 5, 5>());
static_assert(klens::meta::classes<7, 9, 7>().first == std::array<int, 3>{0, 1, 0});

}  // namespace

TEST_CASE("meta: classes are found at compile time") { CHECK(klens::meta::classes<3, 3, 4>().count == 2); }
