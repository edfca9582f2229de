// The level of this translation unit, from the compiler's flags (config.hpp).
#pragma once

#include <klens/isa/level.hpp>

namespace klens::inline KLENS_NS {

inline constexpr Level level_of_this_unit = Level::KLENS_LEVEL;

/// Vector registers the level has: kernels size their tiles by it.
#if defined(KLENS_HAS_AVX512)
inline constexpr int vector_registers = 32;
#elif defined(KLENS_HAS_AVX2)
inline constexpr int vector_registers = 16;
#else
inline constexpr int vector_registers = 0;
#endif

}  // namespace klens::inline KLENS_NS
