// The a8 linears of a level with some of its instructions emulated; see emulated_linear.hpp.
#include "emulated_linear.hpp"

#include <klens/dispatch/registry.hpp>
#include <klens/kernel/linear.hpp>
#include <klens/simd/dot_s8.hpp>

namespace klens::inline KLENS_NS {

namespace {
constinit const LinearKernels<DotKind::a8> kernels = linear_kernels<DotKind::a8>();
}

Kernel<LinearArgs> emulated_linear(Codec codec, bool grouped) { return kernels.of[int(codec)][grouped]; }

#if defined(KLENS_EMULATE_AMX)
void emulated_tile_product(const probe::TileProduct& p) {
  TileShapes shapes;
  const int rows[3] = {p.m, p.m, p.k}, bytes[3] = {4 * p.n, 4 * p.k, 4 * p.n};
  for (int i = 0; i < 3; ++i)
    shapes.rows[2 * i] = std::uint8_t(rows[i]), shapes.row_bytes[2 * i] = std::uint16_t(bytes[i]);
  TileRegisters t;
  configure(t, shapes);
  load_tile<0>(t, p.c, p.c_stride), load_tile<2>(t, p.a, p.a_stride), load_tile<4>(t, p.b, p.b_stride);
  dot_tiles<0, 2, 4>(t);
  store_tile<0>(t, p.c, p.c_stride);
  release(t);
}
#endif

#if defined(KLENS_EMULATE_VNNI_INT8)
void emulated_dot_s8(std::int32_t* sums, const std::int32_t* w, const std::int8_t* x) {
  v16i acc = load_i(sums);
  dot_s8(acc, load_i(w), x);
  store_i(sums, acc);
}
#endif

}  // namespace klens::inline KLENS_NS
