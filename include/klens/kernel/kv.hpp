// Appends the K and V rows of new positions to the cache of one layer (kernel/args.hpp, KvView).
//
//   cache.k[g][p / 16][d][p mod 16] = k[t][g qk + d]        cache.v[g][p][c] = v[t][g vd + c]        p = position + t
//
// Pure copies. K is transposed in blocks of 16 positions, so that the score kernel's lane is the position; V rows are
// padded to 16 columns with zeros. Work item: one kv head. Test: tests/kernel/attention.cpp.
#pragma once

#include <klens/kernel/args.hpp>
#include <klens/simd/v16f.hpp>

namespace klens::inline KLENS_NS {

inline void kv_append(const KvAppendArgs& a) {
  const std::int64_t qk = a.cache.qk_dim, vd = a.cache.v_dim, v_stride = round_up(vd, lanes);
  for (int g = a.begin; g < a.end; ++g) {
    float* k_head = a.cache.k + g * std::int64_t(a.cache.capacity) * qk;
    float* v_head = a.cache.v + g * std::int64_t(a.cache.capacity) * v_stride;
    for (int t = 0; t < a.tokens; ++t) {
      const std::int64_t p = a.position + t;
      const float* k = a.k + t * a.stride + g * qk;
      const float* v = a.v + t * a.stride + g * vd;
      float* column = k_head + p / lanes * qk * lanes + p % lanes;
      for (std::int64_t d = 0; d < qk; ++d) column[d * lanes] = k[d];
      float* v_row = v_head + p * v_stride;
      for (std::int64_t c = 0; c < vd; c += lanes)
        store(v_row + c, load_n(v + c, int(vd - c < lanes ? vd - c : lanes)));
    }
  }
}

}  // namespace klens::inline KLENS_NS
