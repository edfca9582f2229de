// Permission to use AMX tiles: Linux gives a process the 8 KB of tile state only when it asks (5.16 and later). Until
// then the first tile instruction ends the process.
#pragma once

#include <klens/config.hpp>

namespace klens {

/// Asks the kernel, for all threads of the process; true where the answer is yes. False too where the CPU has no tiles.
/// One system call, arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA), by hand: kernels call nothing of the C
/// library.
KLENS_INLINE bool request_tiles() {
#if defined(__linux__)
  long result = 158;  // __NR_arch_prctl of x86-64
  asm volatile("syscall" : "+a"(result) : "D"(0x1023L), "S"(18L) : "rcx", "r11", "memory");
  return result == 0;
#else
  return false;
#endif
}

}  // namespace klens
