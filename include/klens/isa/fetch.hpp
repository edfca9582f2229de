// Whether streams of weights are fetched by software on this CPU: a matter of its hardware prefetchers, which no feature flag
// tells. Measured on two (kernel/gemv.hpp, gemv_chain.hpp): Zen 4 reads one stream at 99 % of its best by itself and at 75 to 92 % with
// fetches; Zen 5 stops at pages, and fetching two pages ahead makes cold integer GEMVs 1.05 to 1.35 times as fast.
#pragma once

#include <klens/config.hpp>

#include <cpuid.h>

namespace klens::inline KLENS_NS {

/// AMD family 1Ah (Zen 5) and later; other CPUs are taken as Zen 4 is.
KLENS_INLINE bool stops_at_pages(unsigned vendor_ebx, unsigned signature) {
  const unsigned family = (signature >> 8 & 15) + (signature >> 20 & 255);
  return vendor_ebx == signature_AMD_ebx && (signature >> 8 & 15) == 15 && family >= 0x1a;
}

/// 0: not asked yet, 1: yes, 2: no. Two threads that ask at once get the same answer.
inline constinit int far_fetches_answer = 0;

/// Asks the CPU the first time.
KLENS_INLINE bool far_fetches() {
  int answer = __atomic_load_n(&far_fetches_answer, __ATOMIC_RELAXED);
  if (answer == 0) [[unlikely]] {
    unsigned a = 0, b = 0, c = 0, d = 0, vendor = 0;
    if (__get_cpuid(0, &a, &vendor, &c, &d) != 0) __get_cpuid(1, &a, &b, &c, &d);
    answer = stops_at_pages(vendor, a) ? 1 : 2;
    __atomic_store_n(&far_fetches_answer, answer, __ATOMIC_RELAXED);
  }
  return answer == 1;
}

}  // namespace klens::inline KLENS_NS
