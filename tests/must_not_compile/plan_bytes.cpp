// A plan over its byte budget: the assertion of the user's own.
// expect: edge plan: at most 3 MiB of weights
#include <klens/plan/budget.hpp>
#include <klens/plan/check.hpp>
#include <klens/plan/presets.hpp>

#ifdef KLENS_REPAIRED
inline constexpr auto plan = klens::checked(klens::presets::hymba_tiny(klens::formats::w3g32));
#else
inline constexpr auto plan = klens::checked(klens::presets::hymba_tiny(klens::formats::w4g32));
#endif
static_assert(klens::weight_bytes(plan) <= 3 << 20, "edge plan: at most 3 MiB of weights");
