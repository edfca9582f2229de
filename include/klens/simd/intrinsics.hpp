// The compiler's intrinsics, without gcc 12's false warning: its _mm512_undefined_* initialise a variable with itself,
// and -Wuninitialized reports that wherever they are inlined (GCC bug 105593). The pragma applies at the header's own
// lines.
#pragma once

#pragma GCC diagnostic push
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#pragma GCC diagnostic pop
