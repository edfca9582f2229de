// The linears of a plan, instantiated in `fixed_linear_parts` units per ISA level, so that none takes more than some 20 s: the
// unit of fixed.hpp calls them directly. Written by klens_add_model().
#pragma once

#include <klens/core/meta.hpp>
#include <klens/kernel/linear_args.hpp>
#include <klens/kernel/linear.hpp>
#include <klens/plan/sites.hpp>

#include <array>
#include <utility>

namespace klens::inline KLENS_NS {

inline constexpr int fixed_linear_parts = 3;

namespace fixed {

/// What selects a linear's instantiation.
constexpr std::uint64_t kernel_key(const Precision& p) {
  return std::uint64_t(codec_of(p)) << 8 | std::uint64_t(p.scheme.scale == Granularity::group) << 4 |
         std::uint64_t(dot_kind_of(p));
}

template <class Tag>
inline constexpr int linear_count = [] {
  int n = 0;
  for_each_site(Tag::plan, [&n](const Site&) { ++n; });
  return n;
}();

template <class Tag>
consteval auto kernel_keys() {
  std::array<std::uint64_t, std::size_t(linear_count<Tag>)> keys = {};
  std::size_t n = 0;
  for_each_site(Tag::plan, [&](const Site& site) { keys[n++] = kernel_key(site.precision); });
  return keys;
}

template <class Tag, int... S>
consteval auto classes_of_linears(std::integer_sequence<int, S...>) {
  return meta::classes<kernel_keys<Tag>()[std::size_t(S)]...>();
}

/// Every fixed_linear_parts-th distinct linear of the plan, from the Part-th on.
template <int Sites>
struct PartKeys {
  std::array<std::uint64_t, std::size_t(Sites)> keys = {};
  std::size_t count = 0;
};

template <class Tag, int Part>
consteval auto keys_of_part() {
  constexpr auto keys = kernel_keys<Tag>();
  constexpr auto classes = classes_of_linears<Tag>(std::make_integer_sequence<int, linear_count<Tag>>{});
  PartKeys<linear_count<Tag>> part;
  for (int s = 0, n = 0; s < linear_count<Tag>; ++s)
    if (classes.first[std::size_t(s)] == s && n++ % fixed_linear_parts == Part) part.keys[part.count++] = keys[std::size_t(s)];
  return part;
}

template <std::uint64_t Key>
consteval Kernel<LinearArgs> kernel_of_key() { return &linear<Codec(Key >> 8), (Key >> 4 & 1) != 0, DotKind(Key & 15)>; }

template <class Tag, int Part, std::size_t... N>
consteval auto kernels_of_part(std::index_sequence<N...>) {
  return std::array<Kernel<LinearArgs>, sizeof...(N)>{kernel_of_key<keys_of_part<Tag, Part>().keys[N]>()...};
}

/// Pointers to the linears of one part: the array is there to instantiate them.
template <class Tag, int Part>
consteval auto linears_of_part() {
  return kernels_of_part<Tag, Part>(std::make_index_sequence<keys_of_part<Tag, Part>().count>{});
}

}  // namespace fixed
}  // namespace klens::inline KLENS_NS
