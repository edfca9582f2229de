// Which levels a program has peak loops of: one constant, defined by the unit that klens_add_peaks() writes.
#pragma once

#include <klens/simd/peaks.hpp>

namespace klens {

/// Tables by level, null where a level was not compiled.
struct CompiledPeaks {
  const Peaks* of[level_count];
};

extern const CompiledPeaks compiled_peaks;

}  // namespace klens
