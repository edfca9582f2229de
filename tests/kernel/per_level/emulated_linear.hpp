// What the emulated units export, each in its own namespace: klens::N_<level>_emulated.
#pragma once

#include <klens/dispatch/table.hpp>

namespace probe {

/// C[m][n] += A[m][4k] * B[k][4n] on one tile each; strides in bytes.
struct TileProduct {
  int m, n, k;
  std::int32_t* c;
  const std::int8_t* a;
  const std::uint8_t* b;
  std::int64_t c_stride, a_stride, b_stride;
};

}  // namespace probe

#define KLENS_DECLARE_EMULATION(level)                                              \
  namespace klens::N_##level##_emulated {                                           \
  Kernel<LinearArgs> emulated_linear(Codec codec, bool grouped);                    \
  void emulated_tile_product(const probe::TileProduct& p);                          \
  void emulated_dot_s8(std::int32_t* sums, const std::int32_t* w, const std::int8_t* x); \
  }
