// A level's unit of peak loops: one constant, compiled with the level's flags (klens_add_peaks in bench/peaks.cmake).
#pragma once

#include <klens/simd/peaks.hpp>

namespace klens::inline KLENS_NS {

extern const Peaks peak_table;
constinit const Peaks peak_table = peaks::level_peaks();

}  // namespace klens::inline KLENS_NS
