// A level's translation unit, part "linear_f32": every linear with DotKind::f32. The array is there to instantiate
// them.
#pragma once

#include <klens/dispatch/linear_kernels.hpp>
#include <klens/kernel/linear.hpp>

namespace klens::inline KLENS_NS {

extern const LinearKernels<DotKind::f32> linear_kernels_f32;
constinit const LinearKernels<DotKind::f32> linear_kernels_f32 = linear_kernels<DotKind::f32>();

}  // namespace klens::inline KLENS_NS
