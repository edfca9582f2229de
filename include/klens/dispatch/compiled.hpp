// Which levels a program has compiled in: one function, defined by the unit that klens_add_levels() writes.
#pragma once

#include <klens/dispatch/table.hpp>

namespace klens {

/// Tables by level, null where a level was not compiled.
struct CompiledLevels {
  const KernelTable* of[level_count];    // complete: what runs
  const KernelTable* own[level_count];   // as the level's units export it: of a level with a base, its overrides alone
};

/// Safe from anywhere, other units' initialisers too: merged tables are made by the first call.
const CompiledLevels& compiled_levels();

}  // namespace klens
