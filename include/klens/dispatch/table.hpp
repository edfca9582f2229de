// KernelTable: what an ISA level's translation units export, and all that a baseline caller needs to know of them.
#pragma once

#include <klens/isa/level.hpp>
#include <klens/kernel/args.hpp>
#include <klens/kernel/kinds.hpp>

namespace klens {

template <class Args>
using Kernel = void (*)(const Args&);

/// Function pointers of one level. linear[codec][0: row scale, 1: groups][dot kind]; combinations that do not exist are
/// null.
struct KernelTable {
  Level level;
  Kernel<LinearArgs> linear[codec_count][2][dot_kind_count];
  Kernel<QuantizeRowArgs> quantize_row;
  Kernel<RmsNormArgs> rms_norm;
  Kernel<MeanNormArgs> mean_norm;
  Kernel<SwigluArgs> swiglu;
  Kernel<RopeArgs> rope;
  Kernel<KvAppendArgs> kv_append;
  Kernel<AttentionArgs> attention;
  Kernel<Conv1dArgs> conv1d;
  Kernel<ScanArgs> scan;
  Kernel<EmbedArgs> embed;
  Kernel<VocabKlArgs> vocab_kl;
};

/// The linear kernel of a precision in a table.
KLENS_INLINE constexpr Kernel<LinearArgs> linear_of(const KernelTable& table, const Precision& p) {
  const int grouped = p.scheme.scale == Granularity::group;
  return table.linear[int(codec_of(p))][grouped][int(dot_kind_of(p))];
}

}  // namespace klens
