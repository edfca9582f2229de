// A level's translation unit, part "linear_a16": every linear with DotKind::a16. The array is there to instantiate
// them.
#pragma once

#include <klens/dispatch/linear_kernels.hpp>
#include <klens/kernel/linear.hpp>

namespace klens::inline KLENS_NS {

extern const LinearKernels<DotKind::a16> linear_kernels_a16;
constinit const LinearKernels<DotKind::a16> linear_kernels_a16 = linear_kernels<DotKind::a16>();

}  // namespace klens::inline KLENS_NS
