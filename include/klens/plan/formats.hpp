// Every format name of klens as a constant, for plan.hpp files and hand-written plans: `using namespace klens::formats;`
//   w8 w6 w5 w4 w3 w2     one fp32 scale per output row          w4g32 ...   groups of 32, 64 or 128 inputs, fp16 scales
//   nf4g64 ...            the 16 levels of NF4                   f32 f16 bf16
// then a8 or a16: inputs rounded to int8 or int16 per token. tests/plan/formats.cpp compares each with parse_format().
#pragma once

#include <klens/format/scheme.hpp>

namespace klens::formats {

inline constexpr Precision f32 = {32, floats(Grid::f32)};
inline constexpr Precision f32a8 = {32, floats(Grid::f32), Activation::a8};
inline constexpr Precision f32a16 = {32, floats(Grid::f32), Activation::a16};
inline constexpr Precision f16 = {16, floats(Grid::f16)};
inline constexpr Precision f16a8 = {16, floats(Grid::f16), Activation::a8};
inline constexpr Precision f16a16 = {16, floats(Grid::f16), Activation::a16};
inline constexpr Precision bf16 = {16, floats(Grid::bf16)};
inline constexpr Precision bf16a8 = {16, floats(Grid::bf16), Activation::a8};
inline constexpr Precision bf16a16 = {16, floats(Grid::bf16), Activation::a16};

inline constexpr Precision w8 = {8, per_row()};
inline constexpr Precision w8a8 = {8, per_row(), Activation::a8};
inline constexpr Precision w8a16 = {8, per_row(), Activation::a16};
inline constexpr Precision w6 = {6, per_row()};
inline constexpr Precision w6a8 = {6, per_row(), Activation::a8};
inline constexpr Precision w6a16 = {6, per_row(), Activation::a16};
inline constexpr Precision w5 = {5, per_row()};
inline constexpr Precision w5a8 = {5, per_row(), Activation::a8};
inline constexpr Precision w5a16 = {5, per_row(), Activation::a16};
inline constexpr Precision w4 = {4, per_row()};
inline constexpr Precision w4a8 = {4, per_row(), Activation::a8};
inline constexpr Precision w4a16 = {4, per_row(), Activation::a16};
inline constexpr Precision w3 = {3, per_row()};
inline constexpr Precision w3a8 = {3, per_row(), Activation::a8};
inline constexpr Precision w3a16 = {3, per_row(), Activation::a16};
inline constexpr Precision w2 = {2, per_row()};
inline constexpr Precision w2a8 = {2, per_row(), Activation::a8};
inline constexpr Precision w2a16 = {2, per_row(), Activation::a16};

inline constexpr Precision w8g32 = {8, groups_of(32)};
inline constexpr Precision w8g32a8 = {8, groups_of(32), Activation::a8};
inline constexpr Precision w8g32a16 = {8, groups_of(32), Activation::a16};
inline constexpr Precision w8g64 = {8, groups_of(64)};
inline constexpr Precision w8g64a8 = {8, groups_of(64), Activation::a8};
inline constexpr Precision w8g64a16 = {8, groups_of(64), Activation::a16};
inline constexpr Precision w8g128 = {8, groups_of(128)};
inline constexpr Precision w8g128a8 = {8, groups_of(128), Activation::a8};
inline constexpr Precision w8g128a16 = {8, groups_of(128), Activation::a16};
inline constexpr Precision w6g32 = {6, groups_of(32)};
inline constexpr Precision w6g32a8 = {6, groups_of(32), Activation::a8};
inline constexpr Precision w6g32a16 = {6, groups_of(32), Activation::a16};
inline constexpr Precision w6g64 = {6, groups_of(64)};
inline constexpr Precision w6g64a8 = {6, groups_of(64), Activation::a8};
inline constexpr Precision w6g64a16 = {6, groups_of(64), Activation::a16};
inline constexpr Precision w6g128 = {6, groups_of(128)};
inline constexpr Precision w6g128a8 = {6, groups_of(128), Activation::a8};
inline constexpr Precision w6g128a16 = {6, groups_of(128), Activation::a16};
inline constexpr Precision w5g32 = {5, groups_of(32)};
inline constexpr Precision w5g32a8 = {5, groups_of(32), Activation::a8};
inline constexpr Precision w5g32a16 = {5, groups_of(32), Activation::a16};
inline constexpr Precision w5g64 = {5, groups_of(64)};
inline constexpr Precision w5g64a8 = {5, groups_of(64), Activation::a8};
inline constexpr Precision w5g64a16 = {5, groups_of(64), Activation::a16};
inline constexpr Precision w5g128 = {5, groups_of(128)};
inline constexpr Precision w5g128a8 = {5, groups_of(128), Activation::a8};
inline constexpr Precision w5g128a16 = {5, groups_of(128), Activation::a16};
inline constexpr Precision w4g32 = {4, groups_of(32)};
inline constexpr Precision w4g32a8 = {4, groups_of(32), Activation::a8};
inline constexpr Precision w4g32a16 = {4, groups_of(32), Activation::a16};
inline constexpr Precision w4g64 = {4, groups_of(64)};
inline constexpr Precision w4g64a8 = {4, groups_of(64), Activation::a8};
inline constexpr Precision w4g64a16 = {4, groups_of(64), Activation::a16};
inline constexpr Precision w4g128 = {4, groups_of(128)};
inline constexpr Precision w4g128a8 = {4, groups_of(128), Activation::a8};
inline constexpr Precision w4g128a16 = {4, groups_of(128), Activation::a16};
inline constexpr Precision w3g32 = {3, groups_of(32)};
inline constexpr Precision w3g32a8 = {3, groups_of(32), Activation::a8};
inline constexpr Precision w3g32a16 = {3, groups_of(32), Activation::a16};
inline constexpr Precision w3g64 = {3, groups_of(64)};
inline constexpr Precision w3g64a8 = {3, groups_of(64), Activation::a8};
inline constexpr Precision w3g64a16 = {3, groups_of(64), Activation::a16};
inline constexpr Precision w3g128 = {3, groups_of(128)};
inline constexpr Precision w3g128a8 = {3, groups_of(128), Activation::a8};
inline constexpr Precision w3g128a16 = {3, groups_of(128), Activation::a16};
inline constexpr Precision w2g32 = {2, groups_of(32)};
inline constexpr Precision w2g32a8 = {2, groups_of(32), Activation::a8};
inline constexpr Precision w2g32a16 = {2, groups_of(32), Activation::a16};
inline constexpr Precision w2g64 = {2, groups_of(64)};
inline constexpr Precision w2g64a8 = {2, groups_of(64), Activation::a8};
inline constexpr Precision w2g64a16 = {2, groups_of(64), Activation::a16};
inline constexpr Precision w2g128 = {2, groups_of(128)};
inline constexpr Precision w2g128a8 = {2, groups_of(128), Activation::a8};
inline constexpr Precision w2g128a16 = {2, groups_of(128), Activation::a16};

inline constexpr Precision nf4g32 = {4, nf4_groups_of(32)};
inline constexpr Precision nf4g32a8 = {4, nf4_groups_of(32), Activation::a8};
inline constexpr Precision nf4g32a16 = {4, nf4_groups_of(32), Activation::a16};
inline constexpr Precision nf4g64 = {4, nf4_groups_of(64)};
inline constexpr Precision nf4g64a8 = {4, nf4_groups_of(64), Activation::a8};
inline constexpr Precision nf4g64a16 = {4, nf4_groups_of(64), Activation::a16};
inline constexpr Precision nf4g128 = {4, nf4_groups_of(128)};
inline constexpr Precision nf4g128a8 = {4, nf4_groups_of(128), Activation::a8};
inline constexpr Precision nf4g128a16 = {4, nf4_groups_of(128), Activation::a16};

}  // namespace klens::formats
