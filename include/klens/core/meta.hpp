// Folding a compile-time list into its distinct classes, with Boost.Hana, in constant evaluation only: no Hana type reaches a
// run-time value, a symbol or a mangled name. The only header that includes Hana.
//
//   classes<Keys...>   keys {7, 9, 7} -> first {0, 1, 0}: for every element the index of the first element equal to it,
//                      and how many distinct ones there are. Layers of a plan whose keys are equal share one instantiation.
#pragma once

#include <klens/config.hpp>

#include <boost/hana/append.hpp>
#include <boost/hana/contains.hpp>
#include <boost/hana/equal.hpp>
#include <boost/hana/fold_left.hpp>
#include <boost/hana/index_if.hpp>
#include <boost/hana/integral_constant.hpp>
#include <boost/hana/length.hpp>
#include <boost/hana/optional.hpp>
#include <boost/hana/tuple.hpp>

#include <array>
#include <cstddef>
#include <cstdint>

namespace klens::meta {

/// `first[i]`: index of the first element equal to element i. `count`: how many distinct elements there are.
template <std::size_t Elements>
struct Classes {
  std::array<int, Elements> first = {};
  int count = 0;
};

namespace detail {

struct AppendNew {
  template <class Seen, class Key>
  constexpr auto operator()(Seen seen, Key key) const {
    if constexpr (decltype(boost::hana::contains(seen, key))::value) return seen;
    else return boost::hana::append(seen, key);
  }
};

}  // namespace detail

template <std::uint64_t... Keys>
consteval Classes<sizeof...(Keys)> classes() {
  namespace hana = boost::hana;
  using List = hana::tuple<hana::integral_constant<std::uint64_t, Keys>...>;
  using Seen = decltype(hana::fold_left(List{}, hana::tuple<>{}, detail::AppendNew{}));
  return {{int(decltype(+*hana::index_if(List{}, hana::equal.to(hana::integral_constant<std::uint64_t, Keys>{})))::value)...},
          int(decltype(hana::length(Seen{}))::value)};
}

}  // namespace klens::meta
