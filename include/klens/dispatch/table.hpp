// KernelTable: what an ISA level's translation units export, and all that a baseline caller needs to know of them.
#pragma once

#include <klens/isa/level.hpp>
#include <klens/kernel/args.hpp>
#include <klens/kernel/kinds.hpp>

// Every kernel but the linears, one line each: X(name, arguments). Its entry in the table follows from it.
#define KLENS_KERNELS(X)                        \
  X(quantize_row, QuantizeRowArgs)              \
  X(rms_norm, RmsNormArgs)                      \
  X(norm_quantize, NormQuantizeArgs)            \
  X(mean_norm, MeanNormArgs)                    \
  X(mean_norm_quantize, MeanNormQuantizeArgs)   \
  X(head_norm, HeadNormArgs)                    \
  X(gated_norm, GatedNormArgs)                  \
  X(gated_norm_quantize, GatedNormQuantizeArgs) \
  X(swiglu, SwigluArgs)                         \
  X(geglu, SwigluArgs)                          \
  X(route, RouteArgs)                           \
  X(add_rows, AddRowsArgs)                      \
  X(rope, RopeArgs)                             \
  X(hadamard, HadamardArgs)                     \
  X(kv_append, KvAppendArgs)                    \
  X(attention, AttentionArgs)                   \
  X(attention_merge, AttentionMergeArgs)        \
  X(conv1d, Conv1dArgs)                         \
  X(short_conv, ShortConvArgs)                  \
  X(scan, ScanArgs)                             \
  X(ssd, SsdArgs)                               \
  X(mamba3_inputs, Mamba3Args)                  \
  X(embed, EmbedArgs)                           \
  X(vocab_kl, VocabKlArgs)                      \
  X(softmax, SoftmaxArgs)

namespace klens {

/// Function pointers of one level. linear[codec][0: row scale, 1: groups][dot kind]; combinations that do not exist are
/// null. The fast entries break the promise of equal bits: null where a level has no faster way, used under the policy
/// `fast` only, and both or neither of a level's are there.
struct KernelTable {
  Level level;
  Kernel<LinearArgs> linear[codec_count][2][dot_kind_count];
#define KLENS_ENTRY(name, Args) Kernel<Args> name;
  KLENS_KERNELS(KLENS_ENTRY)
#undef KLENS_ENTRY
  Kernel<LinearArgs> linear_fast[codec_count];   // x.bf16 rows
  Kernel<RoundRowsArgs> round_rows;              // makes them
};

/// The linear kernel of a precision in a table.
KLENS_INLINE constexpr Kernel<LinearArgs> linear_of(const KernelTable& table, const Precision& p) {
  const int grouped = p.scheme.scale == Granularity::group;
  return table.linear[int(codec_of(p))][grouped][int(dot_kind_of(p))];
}

/// f(entry of a, entry of b) for every kernel of two tables; entries are references to function pointers.
template <class A, class B, class F>
KLENS_INLINE constexpr void for_each_kernel(A& a, B& b, const F& f) {
  for (int c = 0; c < codec_count; ++c)
    for (int grouped = 0; grouped < 2; ++grouped)
      for (int d = 0; d < dot_kind_count; ++d) f(a.linear[c][grouped][d], b.linear[c][grouped][d]);
#define KLENS_ENTRY(name, Args) f(a.name, b.name);
  KLENS_KERNELS(KLENS_ENTRY)
#undef KLENS_ENTRY
  for (int c = 0; c < codec_count; ++c) f(a.linear_fast[c], b.linear_fast[c]);
  f(a.round_rows, b.round_rows);
}

/// The complete table of a level that compiles only its overrides: every kernel it lacks is its base's.
KLENS_INLINE constexpr KernelTable merged(const KernelTable& overrides, const KernelTable& base) {
  KernelTable t = overrides;
  for_each_kernel(t, base, [](auto& kernel, auto base_kernel) { if (!kernel) kernel = base_kernel; });
  return t;
}

/// Kernels in a table.
KLENS_INLINE constexpr int kernel_count(const KernelTable& table) {
  int n = 0;
  for_each_kernel(table, table, [&n](auto kernel, auto) { n += kernel != nullptr; });
  return n;
}

}  // namespace klens
