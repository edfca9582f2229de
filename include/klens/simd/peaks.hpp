// What a core can do at most, measured: loops of one instruction on registers alone, and loops of loads alone. bench/
// compiles them once per level; no kernel includes this. All counts are in virtual 16-lane registers (one zmm, two
// ymm), so rates of levels compare: a level of 256 bits needs two instructions per count.
//
//   Port       instruction (512 / 256 bits)                multiply-adds per count
//   fma        vfmadd231ps                                  16
//   dot_u8     vpdpbusd (levels with VNNI)                  64
//   dot_s16    vpdpwssd, without VNNI vpmaddwd alone        32
//   dot_bf16   vdpbf16ps (avx512_bf16)                      32
//   tile_u8    tdpbusd, 16 x 16 x 64 (amx_int8)             16384
//   logic vpand, shift vpsrld, shuffle vpermps, convert vcvtdq2ps, half vcvtph2ps, mixed: vfmadd231ps and vpand in turn
//
// exp2: simd/math.hpp's exp2_below_127 on registers, a limit of the scan. silu: its silu on registers, what a kernel with
// a SiLU cannot pass (on Zen 4 its fma and its division share
// two ports). copy: lines read and written, the limit of kernels that do little with a row.
// Accumulators: 24 of 32 registers, 12 of 16: more than latency x throughput (4 x 2) of every instruction here.
#pragma once

#include <klens/isa/native.hpp>
#include <klens/simd/math.hpp>

#include <cstdint>

namespace klens {

enum class Port : int { fma, dot_u8, dot_s16, dot_bf16, tile_u8, logic, shift, shuffle, convert, half, mixed };
inline constexpr int port_count = 11;

/// One loop: run(steps) does steps * counts operations. run == nullptr: the level has no such instruction.
struct PeakLoop {
  void (*run)(std::int64_t steps) = nullptr;
  int counts = 0;
};

/// Readers of memory: lines of 64 bytes in `streams` parallel walks, each prefetched `ahead` bytes early (0: never).
struct ReadLoop {
  void (*run)(const unsigned char* p, std::int64_t bytes) = nullptr;
  int streams = 1, ahead = 0;
};
inline constexpr int read_loop_count = 12;

struct Peaks {
  Level level;
  PeakLoop of[port_count];
  ReadLoop read[read_loop_count];
  PeakLoop silu;                                                                           // 16 lanes in registers
  PeakLoop exp2;                                                                           // as the scan has it
  void (*copy)(const unsigned char* from, unsigned char* to, std::int64_t bytes) = nullptr;  // from may be to
};

inline namespace KLENS_NS {
namespace peaks {

/// What the loops multiply: no zeros, no denormals, and sums that stay finite.
inline constexpr std::uint32_t operand[16] = {0x3c23d70a, 0x3ca3d70a, 0x3cf5c28f, 0x3d23d70a, 0x3d4ccccd, 0x3d75c28f,
                                              0x3d8f5c29, 0x3da3d70a, 0x3db851ec, 0x3dcccccd, 0x3de147ae, 0x3df5c28f,
                                              0x3e051eb8, 0x3e0f5c29, 0x3e19999a, 0x3e23d70a};

// A loop over all accumulators \r of one instruction; operands lie in registers A and B.
#if defined(KLENS_HAS_AVX512)
#define KLENS_PEAK_REGISTERS "0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23"
#define KLENS_PEAK_CLOBBERS                                                                                       \
  "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12",       \
      "xmm13", "xmm14", "xmm15", "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm30", \
      "xmm31", "cc", "memory"
#define KLENS_PEAK_LOOP(name, instructions)                                                                 \
  inline void name(std::int64_t steps) {                                                                    \
    asm volatile("vmovdqu32 %1, %%zmm30\n vmovdqu32 %1, %%zmm31\n"                                          \
                 ".irp r," KLENS_PEAK_REGISTERS "\n vpxord %%zmm\\r, %%zmm\\r, %%zmm\\r\n .endr\n"          \
                 ".p2align 5\n1:\n .irp r," KLENS_PEAK_REGISTERS "\n" instructions "\n .endr\n dec %0\n jnz 1b\n" \
                 : "+r"(steps) : "m"(operand) : KLENS_PEAK_CLOBBERS);                         \
  }
#define KLENS_PEAK_V "%%zmm"
#define KLENS_PEAK_H "%%ymm"
#define KLENS_PEAK_A "%%zmm30"
#define KLENS_PEAK_B "%%zmm31"
#define KLENS_PEAK_AH "%%ymm30"
#define KLENS_PEAK_AND "vpandd"
#define KLENS_PEAK_VEX ""
inline constexpr int counts = 24;
#elif defined(KLENS_HAS_AVX2)
#define KLENS_PEAK_REGISTERS "0,1,2,3,4,5,6,7,8,9,10,11"
#define KLENS_PEAK_CLOBBERS                                                                                     \
  "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm14",     \
      "xmm15", "cc", "memory"
#define KLENS_PEAK_LOOP(name, instructions)                                                                 \
  inline void name(std::int64_t steps) {                                                                    \
    asm volatile("vmovdqu %1, %%ymm14\n vmovdqu %1, %%ymm15\n"                                              \
                 ".irp r," KLENS_PEAK_REGISTERS "\n vpxor %%ymm\\r, %%ymm\\r, %%ymm\\r\n .endr\n"           \
                 ".p2align 5\n1:\n .irp r," KLENS_PEAK_REGISTERS "\n" instructions "\n .endr\n dec %0\n jnz 1b\n" \
                 : "+r"(steps) : "m"(operand) : KLENS_PEAK_CLOBBERS);                         \
  }
#define KLENS_PEAK_V "%%ymm"
#define KLENS_PEAK_H "%%xmm"
#define KLENS_PEAK_A "%%ymm14"
#define KLENS_PEAK_B "%%ymm15"
#define KLENS_PEAK_AH "%%xmm14"
#define KLENS_PEAK_AND "vpand"
#define KLENS_PEAK_VEX "%{vex%} "
inline constexpr int counts = 6;
#endif

#if defined(KLENS_HAS_AVX2)
KLENS_PEAK_LOOP(fma, "vfmadd231ps " KLENS_PEAK_A ", " KLENS_PEAK_B ", " KLENS_PEAK_V "\\r")
KLENS_PEAK_LOOP(logic, KLENS_PEAK_AND " " KLENS_PEAK_A ", " KLENS_PEAK_B ", " KLENS_PEAK_V "\\r")
KLENS_PEAK_LOOP(shift, "vpsrld $4, " KLENS_PEAK_A ", " KLENS_PEAK_V "\\r")
KLENS_PEAK_LOOP(shuffle, "vpermps " KLENS_PEAK_A ", " KLENS_PEAK_B ", " KLENS_PEAK_V "\\r")
KLENS_PEAK_LOOP(convert, "vcvtdq2ps " KLENS_PEAK_A ", " KLENS_PEAK_V "\\r")
KLENS_PEAK_LOOP(half, "vcvtph2ps " KLENS_PEAK_AH ", " KLENS_PEAK_V "\\r")
KLENS_PEAK_LOOP(mixed, KLENS_PEAK_AND " " KLENS_PEAK_A ", " KLENS_PEAK_B ", " KLENS_PEAK_V "\\r\n"
                "vfmadd231ps " KLENS_PEAK_A ", " KLENS_PEAK_B ", " KLENS_PEAK_V "\\r")
#if defined(KLENS_HAS_VNNI)
KLENS_PEAK_LOOP(dot_u8, KLENS_PEAK_VEX "vpdpbusd " KLENS_PEAK_A ", " KLENS_PEAK_B ", " KLENS_PEAK_V "\\r")
KLENS_PEAK_LOOP(dot_s16, KLENS_PEAK_VEX "vpdpwssd " KLENS_PEAK_A ", " KLENS_PEAK_B ", " KLENS_PEAK_V "\\r")
#else
KLENS_PEAK_LOOP(dot_s16, "vpmaddwd " KLENS_PEAK_A ", " KLENS_PEAK_B ", " KLENS_PEAK_V "\\r")
#endif
#if defined(KLENS_HAS_BF16)
KLENS_PEAK_LOOP(dot_bf16, "vdpbf16ps " KLENS_PEAK_A ", " KLENS_PEAK_B ", " KLENS_PEAK_V "\\r")
#endif
#endif  // KLENS_HAS_AVX2

#if defined(__AMX_INT8__)
/// Palette 1, eight tiles of 16 rows x 64 bytes: four sums, two of A, two of B. The caller holds the permission.
inline void tile_u8(std::int64_t steps) {
  struct alignas(64) Config {
    std::uint8_t palette, start, reserved[14];
    std::uint16_t bytes[16];
    std::uint8_t rows[16];
  };
  Config config{};
  config.palette = 1;
  for (int i = 0; i < 8; ++i) config.bytes[i] = 64, config.rows[i] = 16;
  asm volatile("ldtilecfg %1\n tilezero %%tmm0\n tilezero %%tmm1\n tilezero %%tmm2\n tilezero %%tmm3\n"
               "tilezero %%tmm4\n tilezero %%tmm5\n tilezero %%tmm6\n tilezero %%tmm7\n"
               "1:\n tdpbsud %%tmm6, %%tmm4, %%tmm0\n tdpbsud %%tmm7, %%tmm4, %%tmm1\n"
               "tdpbsud %%tmm6, %%tmm5, %%tmm2\n tdpbsud %%tmm7, %%tmm5, %%tmm3\n dec %0\n jnz 1b\n tilerelease\n"
               : "+r"(steps) : "m"(config) : "cc", "memory");
}
#endif

template <int Bytes>
struct Block { unsigned char bytes[Bytes]; };

/// Four lines of every stream per step; lines that fill no step are read one by one. `bytes` is a multiple of 64.
template <int Streams, int Ahead>
inline void read(const unsigned char* p, std::int64_t bytes) {
  const auto one = [](const unsigned char* at) KLENS_INLINE_LAMBDA {
    if constexpr (Ahead > 0) __builtin_prefetch(at + Ahead, 0, 3);
#if defined(KLENS_HAS_AVX512)
    asm volatile("vmovdqu64 %0, %%zmm16" : : "m"(*reinterpret_cast<const Block<64>*>(at)) : "xmm16");
#elif defined(KLENS_HAS_AVX2)
    asm volatile("vmovdqu %0, %%ymm0" : : "m"(*reinterpret_cast<const Block<32>*>(at)) : "xmm0");
    asm volatile("vmovdqu %0, %%ymm0" : : "m"(*reinterpret_cast<const Block<32>*>(at + 32)) : "xmm0");
#else
    for (int i = 0; i < 64; i += 16)
      asm volatile("movdqu %0, %%xmm0" : : "m"(*reinterpret_cast<const Block<16>*>(at + i)) : "xmm0");
#endif
  };
  const std::int64_t part = bytes / (Streams * 256) * 256;
  for (std::int64_t at = 0; at < part; at += 256)
    for (int s = 0; s < Streams; ++s)
      for (int line = 0; line < 4; ++line) one(p + s * part + at + 64 * line);
  for (std::int64_t at = part * Streams; at < bytes; at += 64) one(p + at);
}

#if defined(KLENS_HAS_AVX2)
/// The compiler must have v in registers here, and knows nothing of its value.
KLENS_INLINE void keep(v16f& v) {
#if defined(KLENS_HAS_AVX512)
  asm volatile("" : "+v"(v.v.data));
#else
  asm volatile("" : "+x"(v.a.data), "+x"(v.b.data));
#endif
}

/// silu of registers: its polynomial and its division, as kernels inline it; nothing hangs together.
inline void silu_loop(std::int64_t steps) {
  v16f x0 = splat(-0.5f), x1 = splat(0.25f), x2 = splat(1.5f), x3 = splat(-2.0f);
  for (std::int64_t i = 0; i < steps; ++i) {
    keep(x0), keep(x1), keep(x2), keep(x3);
    v16f y[4] = {x0, x1, x2, x3};
    unroll<4 / at_once>([&](int k) KLENS_INLINE_LAMBDA { silu<at_once>(y + k * at_once); });
    keep(y[0]), keep(y[1]), keep(y[2]), keep(y[3]);
  }
}
/// exp2_below_127 of eight registers, nothing hanging together: on Zen 4 21 halves on four ports, 5.25 cycles; 6.8 are
/// reached.
inline void exp2_loop(std::int64_t steps) {
  v16f x0 = splat(-0.5f), x1 = splat(-0.25f), x2 = splat(-1.5f), x3 = splat(-2.0f);
  v16f x4 = splat(-3.5f), x5 = splat(-0.01f), x6 = splat(-0.7f), x7 = splat(-9.0f);
  for (std::int64_t i = 0; i < steps; ++i) {
    const auto one = [](v16f& x) KLENS_INLINE_LAMBDA {
      keep(x);
      v16f y = exp2_below_127(x);
      keep(y);
    };
    one(x0), one(x1), one(x2), one(x3), one(x4), one(x5), one(x6), one(x7);
  }
}
#endif

/// Reads lines of `from` and writes them to `to`, four vectors at a time; a rest below 256 bytes is left.
inline void copy(const unsigned char* from, unsigned char* to, std::int64_t bytes) {
  const float* in = reinterpret_cast<const float*>(from);
  float* out = reinterpret_cast<float*>(to);
  for (std::int64_t i = 0; i + 64 <= bytes / 4; i += 64) {
    const v16f a = load(in + i), b = load(in + i + 16), c = load(in + i + 32), d = load(in + i + 48);
    store(out + i, a), store(out + i + 16, b), store(out + i + 32, c), store(out + i + 48, d);
  }
}

consteval Peaks level_peaks() {
  Peaks t{};
  t.level = level_of_this_unit;
#if defined(KLENS_HAS_AVX2)
  t.of[int(Port::fma)] = {&fma, counts};
  t.of[int(Port::dot_s16)] = {&dot_s16, counts};
  t.of[int(Port::logic)] = {&logic, counts};
  t.of[int(Port::shift)] = {&shift, counts};
  t.of[int(Port::shuffle)] = {&shuffle, counts};
  t.of[int(Port::convert)] = {&convert, counts};
  t.of[int(Port::half)] = {&half, counts};
  t.of[int(Port::mixed)] = {&mixed, 2 * counts};
#endif
#if defined(KLENS_HAS_VNNI)
  t.of[int(Port::dot_u8)] = {&dot_u8, counts};
#endif
#if defined(KLENS_HAS_BF16)
  t.of[int(Port::dot_bf16)] = {&dot_bf16, counts};
#endif
#if defined(__AMX_INT8__)
  t.of[int(Port::tile_u8)] = {&tile_u8, 4};
#endif
#if defined(KLENS_HAS_AVX2)
  t.silu = {&silu_loop, 4};
  t.exp2 = {&exp2_loop, 8};
#endif
  t.copy = &copy;
  int i = 0;
  const auto put = [&]<int Streams, int Ahead>() { t.read[i++] = {&read<Streams, Ahead>, Streams, Ahead}; };
  put.template operator()<1, 0>(), put.template operator()<1, 512>(), put.template operator()<1, 1024>();
  put.template operator()<1, 2048>(), put.template operator()<2, 0>(), put.template operator()<2, 1024>();
  put.template operator()<2, 2048>(), put.template operator()<4, 0>(), put.template operator()<4, 512>();
  put.template operator()<4, 1024>(), put.template operator()<4, 2048>(), put.template operator()<8, 0>();
  return t;
}

#undef KLENS_PEAK_LOOP
#undef KLENS_PEAK_REGISTERS
#undef KLENS_PEAK_CLOBBERS
#undef KLENS_PEAK_V
#undef KLENS_PEAK_H
#undef KLENS_PEAK_A
#undef KLENS_PEAK_B
#undef KLENS_PEAK_AH
#undef KLENS_PEAK_AND
#undef KLENS_PEAK_VEX

}  // namespace peaks
}  // namespace inline KLENS_NS
}  // namespace klens
