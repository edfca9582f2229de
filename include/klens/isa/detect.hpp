// What this CPU and this operating system can run: own CPUID and XGETBV (xsimd 8.1 reads the wrong leaf and asks no
// XGETBV). For translation units with baseline flags only: under -mavx... the compiler might use what has not been
// detected yet.
#pragma once

#include <klens/isa/features.hpp>
#include <klens/isa/tiles.hpp>

#include <cpuid.h>

namespace klens {

/// The answers of the CPU, apart from their meaning, so that tests can invent machines.
struct CpuidWords {
  std::uint32_t leaf1_ecx = 0, leaf7_ebx = 0, leaf7_ecx = 0, leaf7_edx = 0, leaf7_1_eax = 0, leaf7_1_edx = 0;
  std::uint64_t xcr0 = 0;
};

constexpr Features features_of(const CpuidWords& w) {
  using enum Feature;
  Features set;
  const auto put = [&set](bool present, Feature f) { if (present) set = with(set, f); };
  const auto bit = [](std::uint32_t word, int b) { return ((word >> b) & 1u) != 0; };
  const bool osxsave = bit(w.leaf1_ecx, 27);
  const bool ymm = osxsave && (w.xcr0 & 0x6) == 0x6, zmm = ymm && (w.xcr0 & 0xe0) == 0xe0;
  const bool tiles = osxsave && (w.xcr0 & 0x60000) == 0x60000;
  put(ymm && bit(w.leaf1_ecx, 28), avx);
  put(ymm && bit(w.leaf1_ecx, 12), fma);
  put(ymm && bit(w.leaf1_ecx, 29), f16c);
  put(ymm && bit(w.leaf7_ebx, 5), avx2);
  put(bit(w.leaf7_ebx, 8), bmi2);
  put(ymm && bit(w.leaf7_1_eax, 4), avx_vnni);
  put(ymm && bit(w.leaf7_1_edx, 4), avx_vnni_int8);
  put(zmm && bit(w.leaf7_ebx, 16), avx512f);
  put(zmm && bit(w.leaf7_ebx, 17), avx512dq);
  put(zmm && bit(w.leaf7_ebx, 28), avx512cd);
  put(zmm && bit(w.leaf7_ebx, 30), avx512bw);
  put(zmm && bit(w.leaf7_ebx, 31), avx512vl);
  put(zmm && bit(w.leaf7_ecx, 11), avx512_vnni);
  put(zmm && bit(w.leaf7_1_eax, 5), avx512_bf16);
  put(tiles && bit(w.leaf7_edx, 24), amx_tile);
  put(tiles && bit(w.leaf7_edx, 25), amx_int8);
  put(tiles && bit(w.leaf7_edx, 22), amx_bf16);
  return set;
}

inline CpuidWords read_cpuid() {
  CpuidWords w;
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return w;
  w.leaf1_ecx = c;
  if (c & (1u << 27)) {
    unsigned low = 0, high = 0;
    asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));  // _xgetbv() would need -mxsave
    w.xcr0 = std::uint64_t(high) << 32 | low;
  }
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return w;
  w.leaf7_ebx = b, w.leaf7_ecx = c, w.leaf7_edx = d;
  if (a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) w.leaf7_1_eax = a, w.leaf7_1_edx = d;
  return w;
}

/// Whether this process may use AMX tiles. `refused`: the CPU and XCR0 have them, the kernel said no.
enum class Tiles { absent, granted, refused };

/// Asked once per process, by the first call.
inline Tiles tiles_of_process() {
  static const Tiles answer = !has(features_of(read_cpuid()), Feature::amx_tile) ? Tiles::absent
                              : request_tiles()                                  ? Tiles::granted
                                                                                 : Tiles::refused;
  return answer;
}

/// A machine's features without the tiles it must not use.
constexpr Features permitted(Features cpu, Tiles tiles) {
  if (tiles == Tiles::granted) return cpu;
  return {cpu.bits & ~features(Feature::amx_tile, Feature::amx_int8, Feature::amx_bf16).bits};
}

/// Features of this machine that this process may use.
inline Features detect() { return permitted(features_of(read_cpuid()), tiles_of_process()); }

}  // namespace klens
