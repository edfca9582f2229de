// AMX tiles: eight two-dimensional registers of up to 16 rows x 64 bytes, and products of them into int32.
//
//   configure(t, shapes)     shapes of all tiles; their contents become zero
//   zero_tile<T>(t)          load_tile<T>(t, p, stride)   store_tile<T>(t, p, stride)      stride in bytes, row to row
//   dot_tiles<C, A, B>(t)    C[m][n] += sum_{k, j<4} s8 A[m][4k + j] * u8 B[k][4n + j]     tdpbsud: exact, adds wrap
//   release(t)               tiles empty again: the system saves none of their 8 KB at a switch
//
// C: M x 16 int32, A: M x 4K bytes, B: K x 16 dwords. B is K lines of a u8 panel as they lie, A the int8 rows of M
// tokens. The process must have been given tiles (isa/tiles.hpp). Tile numbers are part of the instruction, hence
// templates; the compiler keeps nothing in tiles, so inline assembly needs to name none. With KLENS_EMULATE_AMX the
// registers are memory and the instructions loops that trap where the hardware faults (#UD, #GP): tests run the kernels
// where there are no tiles.
#pragma once

#include <klens/config.hpp>

#include <cstdint>

namespace klens::inline KLENS_NS {

inline constexpr int tile_rows = 16, tile_bytes = 64, tile_count = 8;

/// What ldtilecfg reads (palette 1).
struct alignas(64) TileShapes {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t row_bytes[16] = {};   // of tile i; 8 to 15 stay 0
  std::uint8_t rows[16] = {};
};
static_assert(sizeof(TileShapes) == 64);

#if defined(KLENS_EMULATE_AMX)

struct TileRegisters {
  bool configured = false;
  TileShapes shape;
  std::uint8_t bytes[tile_count][tile_rows][tile_bytes];
};

namespace tile_detail {
KLENS_INLINE void require(bool condition) { if (!condition) __builtin_trap(); }
KLENS_INLINE void clear(TileRegisters& t, int tile) { __builtin_memset(t.bytes[tile], 0, sizeof t.bytes[tile]); }
KLENS_INLINE void require_tile(const TileRegisters& t, int tile) {
  require(t.configured && t.shape.rows[tile] != 0 && t.shape.row_bytes[tile] != 0);
}
}  // namespace tile_detail

KLENS_INLINE void configure(TileRegisters& t, const TileShapes& shapes) {
  tile_detail::require(shapes.palette == 1 && shapes.start_row == 0);
  for (const std::uint8_t b : shapes.reserved) tile_detail::require(b == 0);
  for (int i = 0; i < 16; ++i) {
    tile_detail::require(shapes.rows[i] <= tile_rows && shapes.row_bytes[i] <= tile_bytes);
    tile_detail::require((shapes.rows[i] == 0) == (shapes.row_bytes[i] == 0));
    tile_detail::require(i < tile_count || shapes.rows[i] == 0);
  }
  t.configured = true, t.shape = shapes;
  for (int i = 0; i < tile_count; ++i) tile_detail::clear(t, i);
}
KLENS_INLINE void release(TileRegisters& t) { t.configured = false; }

template <int T>
KLENS_INLINE void zero_tile(TileRegisters& t) { tile_detail::require_tile(t, T), tile_detail::clear(t, T); }

template <int T>
KLENS_INLINE void load_tile(TileRegisters& t, const void* p, std::int64_t stride) {
  zero_tile<T>(t);
  for (int m = 0; m < t.shape.rows[T]; ++m)
    __builtin_memcpy(t.bytes[T][m], static_cast<const char*>(p) + m * stride, t.shape.row_bytes[T]);
}

template <int T>
KLENS_INLINE void store_tile(const TileRegisters& t, void* p, std::int64_t stride) {
  tile_detail::require_tile(t, T);
  for (int m = 0; m < t.shape.rows[T]; ++m)
    __builtin_memcpy(static_cast<char*>(p) + m * stride, t.bytes[T][m], t.shape.row_bytes[T]);
}

template <int C, int A, int B>
KLENS_INLINE void dot_tiles(TileRegisters& t) {
  static_assert(C != A && C != B && A != B, "equal tile numbers are an illegal instruction");
  const TileShapes& s = t.shape;
  tile_detail::require_tile(t, C), tile_detail::require_tile(t, A), tile_detail::require_tile(t, B);
  tile_detail::require(s.rows[C] == s.rows[A] && s.row_bytes[C] == s.row_bytes[B] && s.row_bytes[A] == 4 * s.rows[B]);
  tile_detail::require(s.row_bytes[C] % 4 == 0);
  for (int m = 0; m < s.rows[C]; ++m)
    for (int k = 0; k < s.row_bytes[A] / 4; ++k)
      for (int n = 0; n < s.row_bytes[C] / 4; ++n) {
        std::uint32_t sum;
        __builtin_memcpy(&sum, t.bytes[C][m] + 4 * n, 4);
        for (int j = 0; j < 4; ++j)
          sum += std::uint32_t(int(std::int8_t(t.bytes[A][m][4 * k + j])) * int(t.bytes[B][k][4 * n + j]));
        __builtin_memcpy(t.bytes[C][m] + 4 * n, &sum, 4);
      }
}

KLENS_INLINE bool tiles_allowed() { return true; }

#elif defined(KLENS_HAS_AMX)

}  // namespace klens::inline KLENS_NS

#include <klens/isa/tiles.hpp>

namespace klens::inline KLENS_NS {

struct TileRegisters {};

KLENS_INLINE void configure(TileRegisters&, const TileShapes& shapes) {
  asm volatile("ldtilecfg %0" : : "m"(shapes) : "memory");
}
KLENS_INLINE void release(TileRegisters&) { asm volatile("tilerelease" : : : "memory"); }

template <int T>
KLENS_INLINE void zero_tile(TileRegisters&) { asm volatile("tilezero %%tmm%c0" : : "i"(T)); }

template <int T>
KLENS_INLINE void load_tile(TileRegisters&, const void* p, std::int64_t stride) {
  asm volatile("tileloadd (%1,%2,1), %%tmm%c0" : : "i"(T), "r"(p), "r"(stride) : "memory");
}

template <int T>
KLENS_INLINE void store_tile(const TileRegisters&, void* p, std::int64_t stride) {
  asm volatile("tilestored %%tmm%c0, (%1,%2,1)" : : "i"(T), "r"(p), "r"(stride) : "memory");
}

template <int C, int A, int B>
KLENS_INLINE void dot_tiles(TileRegisters&) {
  static_assert(C != A && C != B && A != B, "equal tile numbers are an illegal instruction");
  asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(C), "i"(A), "i"(B));
}

/// 0: not asked yet, 1: granted, 2: refused. Two threads that ask at once get the same answer.
inline constinit int tiles_answer = 0;

/// Whether this process may use tiles; asks the system the first time. For programs of one unit, which choose no level.
KLENS_INLINE bool tiles_allowed() {
  int answer = __atomic_load_n(&tiles_answer, __ATOMIC_RELAXED);
  if (answer == 0) {
    answer = request_tiles() ? 1 : 2;
    __atomic_store_n(&tiles_answer, answer, __ATOMIC_RELAXED);
  }
  return answer == 1;
}

#endif

}  // namespace klens::inline KLENS_NS
