// A QTensor of seven bits: no packed layout.
// expect: QTensor
// expect: constraints not satisfied
// expect: storable(
#include <klens/format/qtensor.hpp>

#ifdef KLENS_REPAIRED
using Weights = klens::QTensor<6, klens::per_row()>;
#else
using Weights = klens::QTensor<7, klens::per_row()>;
#endif
inline constexpr double bits = Weights::bits_per_value;
