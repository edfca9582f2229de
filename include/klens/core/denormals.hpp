// Flush-to-zero as a scope: every thread that runs kernels sets FTZ and DAZ, so that denormals give the same bits on every
// level and never cost the 100-cycle microcode assist.
#pragma once

#include <klens/config.hpp>

#include <cstdint>

namespace klens {

/// Sets FTZ (bit 15) and DAZ (bit 6) of MXCSR, with round-to-nearest and all exceptions masked; the old word comes back at the end.
class FlushDenormals {
 public:
  KLENS_INLINE FlushDenormals() : saved_(__builtin_ia32_stmxcsr()) { __builtin_ia32_ldmxcsr(0x9fc0u); }
  KLENS_INLINE ~FlushDenormals() { __builtin_ia32_ldmxcsr(saved_); }
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;

 private:
  std::uint32_t saved_;
};

/// The opposite, for work that promises exact results on any thread (quantizers): IEEE arithmetic with denormals.
class KeepDenormals {
 public:
  KLENS_INLINE KeepDenormals() : saved_(__builtin_ia32_stmxcsr()) { __builtin_ia32_ldmxcsr(0x1f80u); }
  KLENS_INLINE ~KeepDenormals() { __builtin_ia32_ldmxcsr(saved_); }
  KeepDenormals(const KeepDenormals&) = delete;
  KeepDenormals& operator=(const KeepDenormals&) = delete;

 private:
  std::uint32_t saved_;
};

}  // namespace klens
