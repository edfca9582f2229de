// Attention<P>: grouped-query attention over a KvCache, causal, with an optional window and always visible first positions.
//
//   out[i] = sum_j softmax_j(scale q[i] . k[j]) v[j]      j <= i and (window == 0 or i - j <= window or j < meta)
//
// Reads P.activation and P.state (of K and V); both must be f32 so far. prefill() gives the bits of as many steps.
#pragma once

#include <klens/component/names.hpp>
#include <klens/component/state.hpp>
#include <klens/core/denormals.hpp>
#include <klens/core/team.hpp>
#include <klens/kernel/attention.hpp>
#include <klens/kernel/kv.hpp>

namespace klens {

struct AttentionShape {
  int heads = 0;             // query heads; a multiple of the cache's kv heads
  int window = 0, meta = 0;  // 0: all positions are visible
  float scale = 0;           // 0: 1 / sqrt(qk_dim)
};

inline namespace KLENS_NS {

template <Precision P>
class Attention {
  static_assert(P.state == State::f32, "klens: Attention<P>: P.state must be f32: rounded K and V (f16, s16, s8, s4) are not implemented");
  static_assert(P.activation == Activation::f32, "klens: Attention<P>: P.activation must be f32: quantized queries are not implemented");

 public:
  explicit Attention(const AttentionShape& shape, Team team = {}) : shape_(shape), team_(team) {}

  /// One token: q (heads x qk_dim), k and v (kv heads x qk_dim, v_dim) after any rotary embedding; out: heads x v_dim.
  void step(KvCache& cache, const float* q, const float* k, const float* v, float* out) {
    prefill(cache, {q, 1, 0, 0}, {k, 1, 0, 0}, {v, 1, 0, 0}, {out, 1, 0, 0});
  }

  /// Appends k and v to the cache and attends; one row per token. `k` and `v` have equal strides.
  void prefill(KvCache& cache, const Rows<const float>& q, const Rows<const float>& k, const Rows<const float>& v, const Rows<float>& out) {
    KLENS_ASSERT(k.rows == q.rows && v.rows == q.rows && k.stride == v.stride);
    const FlushDenormals flush;
    KvAppendArgs append;
    append.cache = cache.view(), append.k = k.data, append.v = v.data, append.stride = k.stride;
    append.tokens = int(q.rows), append.position = cache.size(), append.begin = 0, append.end = cache.view().kv_heads;
    cache.grow(int(q.rows));
    kv_append(append);
    attend(cache, q, out);
  }

  /// The last q.rows positions of the cache look at it; for layers that read another layer's K and V.
  void attend(const KvCache& cache, const Rows<const float>& q, const Rows<float>& out) {
    KLENS_ASSERT(out.rows == q.rows && q.rows <= cache.size());
    const FlushDenormals flush;
    const std::int64_t per_thread = round_up(attention_scratch(cache.capacity()), lanes);
    const int threads = team_.threads < 1 ? 1 : team_.threads;
    if (std::int64_t(scratch_.size()) < per_thread * threads) scratch_ = Buffer<float>(std::size_t(per_thread * threads));
    AttentionArgs a;
    a.q = q.data, a.q_stride = q.stride, a.cache = cache.view(), a.heads = shape_.heads, a.window = shape_.window, a.meta = shape_.meta;
    a.scale = shape_.scale != 0 ? shape_.scale : float(1.0 / __builtin_sqrt(double(cache.view().qk_dim)));
    a.tokens = int(q.rows), a.position = cache.size() - int(q.rows), a.out = out.data, a.out_stride = out.stride;
    for_each(team_, shape_.heads * int(div_up(q.rows, query_tile)), [&](int item, int thread) {
      AttentionArgs part = a;
      part.scratch = scratch_.data() + thread * per_thread, part.begin = item, part.end = item + 1;
      attention(part);
    });
  }

  static std::string kernel_name() { return component_kernel_name("attention", "f32"); }

 private:
  AttentionShape shape_;
  Team team_;
  Buffer<float> scratch_;
};

}  // namespace KLENS_NS
}  // namespace klens
