// Which levels a program has compiled in: one constant, defined by the unit that klens_add_levels() writes.
#pragma once

#include <klens/dispatch/table.hpp>

namespace klens {

/// Tables by level, null where a level was not compiled.
struct CompiledLevels {
  const KernelTable* of[level_count];
};

extern const CompiledLevels compiled_levels;

}  // namespace klens
