// Runs every operation of v16f.hpp once on given lanes and writes all results one after the other: compiled once per
// ISA level, compared by tests/simd/v16f.cpp.
#pragma once

#include <cstdint>

namespace probe {

struct Inputs { float a[16], b[16], c[16]; };

/// 32-bit words of the results, in the order of probe.cpp. NaNs are all written as 0x7fc00000.
inline constexpr int words = 2048;

using Run = int (*)(const Inputs&, std::uint32_t* out);  // returns the words written

}  // namespace probe
