// Attention<P>: grouped-query attention over a KvCache, causal, with an optional window and always visible first positions.
//
//   out[i] = sum_j softmax_j(scale q[i] . k[j]) v[j]      j <= i and (window == 0 or i - j <= window or j < meta)
//
// Reads P.state, the format of the cache's K and V (f32, f16, s8, s4: kernel/args.hpp, KvView), and P.activation, which must
// be f32: queries are not quantized. A token sees its own K and V already rounded. prefill() gives the bits of as many
// steps, for any number of threads.
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
  static_assert(P.state != State::s16, "klens: Attention<P>: P.state must be f32, f16, s8 or s4: there is no KV cache of s16");
  static_assert(P.activation == Activation::f32, "klens: Attention<P>: P.activation must be f32: quantized queries are not implemented");

 public:
  explicit Attention(const AttentionShape& shape, Team team = {}) : shape_(shape), team_(team) {}

  /// One token: q (heads x qk_dim), k and v (kv heads x qk_dim, v_dim) after any rotary embedding; out: heads x v_dim.
  void step(KvCache& cache, const float* q, const float* k, const float* v, float* out) {
    prefill(cache, {q, 1, 0, 0}, {k, 1, 0, 0}, {v, 1, 0, 0}, {out, 1, 0, 0});
  }

  /// Appends k and v to the cache and attends; one row per token. `k` and `v` have equal strides.
  void prefill(KvCache& cache, const Rows<const float>& q, const Rows<const float>& k, const Rows<const float>& v, const Rows<float>& out) {
    KLENS_ASSERT(k.rows == q.rows && v.rows == q.rows && k.stride == v.stride && cache.format() == P.state);
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
    const KvView& kv = cache.view();
    const int tokens = int(q.rows), items = attention_items(shape_.heads, kv.kv_heads, tokens);
    const int threads = team_.threads < 1 ? 1 : team_.threads;
    const bool cut = threads > 1 && tokens <= query_tile && cache.size() >= most_whole;
    const std::int64_t per_thread = round_up(attention_scratch(), lanes);
    const std::int64_t partial = cut ? attention_partial_floats(shape_.heads, tokens, kv.v_dim, cache.capacity()) : 0;
    const std::int64_t need = per_thread * threads + partial;
    if (std::int64_t(scratch_.size()) < need) scratch_ = Buffer<float>(std::size_t(need));
    AttentionArgs a;
    a.q = q.data, a.q_stride = q.stride, a.cache = kv, a.heads = shape_.heads, a.window = shape_.window, a.meta = shape_.meta;
    a.scale = shape_.scale != 0 ? shape_.scale : float(1.0 / __builtin_sqrt(double(kv.qk_dim)));
    a.tokens = tokens, a.position = cache.size() - tokens, a.out = out.data, a.out_stride = out.stride;
    if (cut) a.partial = scratch_.data() + per_thread * threads, a.partitions = attention_partitions(cache.size());
    for_each(team_, cut ? items * a.partitions : items, [&](int item, int thread) {
      AttentionArgs part = a;
      part.scratch = scratch_.data() + thread * per_thread, part.begin = item, part.end = item + 1;
      attention(part);
    });
    if (!cut) return;
    AttentionMergeArgs merge;
    merge.partial = a.partial, merge.partitions = a.partitions, merge.heads = a.heads, merge.v_dim = kv.v_dim;
    merge.out = out.data, merge.out_stride = out.stride;
    for_each(team_, tokens, [&](int t, int) {
      AttentionMergeArgs part = merge;
      part.begin = t * a.heads, part.end = part.begin + a.heads;
      attention_merge(part);
    });
  }

  static std::string kernel_name() { return component_kernel_name("attention", "kv=" + std::string(name_of(P.state))); }

 private:
  /// Positions that a few tokens attend to whole heads at a time; from here on threads take partitions.
  static constexpr int most_whole = 4 * attention_partition;

  AttentionShape shape_;
  Team team_;
  Buffer<float> scratch_;
};

}  // namespace KLENS_NS
}  // namespace klens
