// Every macro of klens, and the ISA level of this translation unit.
//
// The level follows from the flags the compiler was given (KlensIsaFlags.cmake holds them); all code that can be
// compiled under more than one set of flags lives in the inline namespace klens::N_<level>, so that two objects built
// for two levels never share a weak symbol (docs/decisions/0001-levels.md).
#pragma once

#if defined(__FAST_MATH__)
#error "klens promises equal bits on every machine: build without -ffast-math (and without -Ofast)"
#endif

#if !defined(__x86_64__)
#error "klens targets x86-64"
#endif

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define KLENS_V4_ 1
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define KLENS_V3_ 1
#endif

// A stronger level has everything that the weaker ones of its width have.
#if defined(KLENS_FORCE_REF) || !(defined(KLENS_V4_) || defined(KLENS_V3_))
#define KLENS_LEVEL ref
#define KLENS_LEVEL_REF 1
#elif defined(KLENS_V4_) && defined(__AVX512VNNI__)
#define KLENS_HAS_AVX512 1
#define KLENS_HAS_AVX2 1
#define KLENS_HAS_VNNI 1
#if defined(__AVX512BF16__)
#define KLENS_HAS_BF16 1
#endif
#if defined(__AVX512BF16__) && (defined(__AMX_INT8__) || defined(__AMXINT8__))  // implies tiles; clang 14 spells it so
#define KLENS_LEVEL amx_int8
#define KLENS_HAS_AMX 1
#elif defined(__AVX512BF16__)
#define KLENS_LEVEL avx512_bf16
#else
#define KLENS_LEVEL avx512_vnni
#endif
#elif defined(KLENS_V4_)
#define KLENS_LEVEL avx512
#define KLENS_HAS_AVX512 1
#define KLENS_HAS_AVX2 1
#elif defined(__AVXVNNI__) && (defined(__AVXVNNIINT8__) || defined(KLENS_AVX_VNNI_INT8))
#define KLENS_LEVEL avx_vnni_int8  // gcc 12 has no flag for it: KLENS_AVX_VNNI_INT8 says it, its assembler knows it
#define KLENS_HAS_AVX2 1
#define KLENS_HAS_VNNI 1
#define KLENS_HAS_VNNI_INT8 1
#elif defined(__AVXVNNI__)
#define KLENS_LEVEL avx_vnni
#define KLENS_HAS_AVX2 1
#define KLENS_HAS_VNNI 1
#else
#define KLENS_LEVEL avx2
#define KLENS_HAS_AVX2 1
#endif

// Tests compile the kernels of hardware they do not have over any level, with the instructions in plain C++:
//   KLENS_EMULATE_AMX         tiles (simd/tile.hpp), over any level
//   KLENS_EMULATE_VNNI_INT8   256-bit dot products, signed ones among them, over avx2
#if defined(KLENS_EMULATE_AMX)
#define KLENS_HAS_AMX 1
#define KLENS_EMULATED_ _emulated
#endif
#if defined(KLENS_EMULATE_VNNI_INT8)
#if !defined(KLENS_V3_) || defined(KLENS_HAS_VNNI)
#error "KLENS_EMULATE_VNNI_INT8 needs the flags of level avx2"
#endif
#define KLENS_HAS_VNNI 1
#define KLENS_HAS_VNNI_INT8 1
#define KLENS_EMULATED_ _emulated
#endif

#define KLENS_CONCAT_(a, b) a##b
#define KLENS_CONCAT(a, b) KLENS_CONCAT_(a, b)
#define KLENS_STRING_(a) #a
#define KLENS_STRING(a) KLENS_STRING_(a)

/// Inline namespace of this translation unit's level: `namespace klens::inline KLENS_NS { ... }`.
#if defined(KLENS_EMULATED_)
#define KLENS_NS KLENS_CONCAT(KLENS_CONCAT(N_, KLENS_LEVEL), KLENS_EMULATED_)
#else
#define KLENS_NS KLENS_CONCAT(N_, KLENS_LEVEL)
#endif

/// Leaf functions: inlined at every optimisation level, so that no weak copy of them is left for the linker to choose.
#define KLENS_INLINE [[gnu::always_inline]] inline
#define KLENS_NOINLINE [[gnu::noinline]]
/// Kept in the object although nothing in it refers to it.
#define KLENS_USED [[gnu::used]]
/// After a lambda's parameter list: [&](auto i) KLENS_INLINE_LAMBDA { ... }
#define KLENS_INLINE_LAMBDA __attribute__((always_inline))
#define KLENS_RESTRICT __restrict__

/// Wrong calls (index, null): checked where KLENS_CHECKS is set (Debug and sanitizer presets), undefined otherwise.
#if defined(KLENS_CHECKS) && KLENS_CHECKS
#define KLENS_ASSERT(condition) ((condition) ? void(0) : __builtin_trap())
#else
#define KLENS_ASSERT(condition) void(0)
#endif
