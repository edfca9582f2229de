// Compile-time loops: gcc 12 keeps an array of accumulators in registers only where every index is a constant.
#pragma once

#include <klens/config.hpp>

#include <utility>

namespace klens::inline KLENS_NS {

namespace unroll_detail {
template <class Body, int... I>
KLENS_INLINE void run(std::integer_sequence<int, I...>, const Body& body) { (body(I), ...); }
}  // namespace unroll_detail

/// body(0), body(1), ..., body(N - 1), each with a literal. The body must be inlined (KLENS_INLINE_LAMBDA) for the
/// index to be a constant inside it. Plain ints, not types: nested loops of types would instantiate every combination
/// (20 s per unit). On ref it is a loop: there are no registers to win, and sixteen lanes of everything would be
/// compiled N times.
template <int N, class Body>
KLENS_INLINE void unroll(const Body& body) {
#if defined(KLENS_LEVEL_REF)
  for (int i = 0; i < N; ++i) body(i);
#else
  unroll_detail::run(std::make_integer_sequence<int, N>{}, body);
#endif
}

}  // namespace klens::inline KLENS_NS
