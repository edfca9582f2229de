// A level's translation unit, part "linear_a8": every linear with DotKind::a8. The array is there to instantiate them.
#pragma once

#include <klens/dispatch/linear_kernels.hpp>
#include <klens/kernel/linear.hpp>

namespace klens::inline KLENS_NS {

extern const LinearKernels<DotKind::a8> linear_kernels_a8;
constinit const LinearKernels<DotKind::a8> linear_kernels_a8 = linear_kernels<DotKind::a8>();

}  // namespace klens::inline KLENS_NS
