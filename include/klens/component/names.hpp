// Names of kernels, as components, reports and `klens doctor` print them: "linear<w4g32,a8>/avx512_vnni".
#pragma once

#include <klens/dispatch/table.hpp>
#include <klens/format/name.hpp>

#include <string>

namespace klens {

inline std::string activation_name(const Precision& p) {
  constexpr const char* names[] = {"f32", "a16", "a8", "a8s"};
  return names[int(p.activation)];
}

/// Of the linear that a table runs for a precision.
inline std::string linear_kernel_name(Level level, const Precision& p) {
  return "linear<" + weight_name(p) + "," + activation_name(p) + ">/" + std::string(name_of(level));
}

inline namespace KLENS_NS {

/// Of a kernel of this translation unit's level.
inline std::string component_kernel_name(const char* kernel, const std::string& formats) {
  return std::string(kernel) + "<" + formats + ">/" + KLENS_STRING(KLENS_LEVEL);
}

}  // namespace KLENS_NS
}  // namespace klens
