// A level's translation unit, part "table": the sequence kernels, and the one constant that the level exports.
#pragma once

#include <klens/dispatch/registry.hpp>

namespace klens::inline KLENS_NS {

extern const KernelTable kernel_table;
constinit const KernelTable kernel_table = level_kernels();

}  // namespace klens::inline KLENS_NS
