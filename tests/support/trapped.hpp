// Instructions this CPU lacks, carried out by the handler of SIGILL: AMX tiles (palette 1, int8), AVX-VNNI and
// AVX-VNNI-INT8. Objects of a level run as they were compiled, operands and encodings included, on machines that cannot run
// the level; what the hardware would refuse (Intel SDM vol. 2: #UD, #GP) ends the program. Written apart from simd/tile.hpp,
// which it checks. Linux on x86-64; one thread.
#pragma once

#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <ucontext.h>

namespace trapped {

/// How many instructions of each kind were carried out since the program began.
struct Counts { long tiles = 0, dots = 0; };
inline Counts counts;

struct Tiles {
  bool configured = false;
  std::uint8_t rows[16] = {};
  std::uint16_t bytes[16] = {};
  std::uint8_t data[8][16][64] = {};
};
inline Tiles tiles;

inline void require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "trapped instruction: the hardware would refuse: %s\n", what);
  std::abort();
}

/// One VEX instruction of map 0F38 at `at`. Three bytes of prefix (C4), opcode, ModRM, SIB and displacement.
struct Decoded {
  unsigned opcode = 0, prefix = 0, length = 0;  // prefix: 0 none, 1 66, 2 F3, 3 F2
  unsigned reg = 0, rm = 0, second = 0;         // register numbers; second: VEX.vvvv
  bool wide = false, memory = false, sib = false, ymm = false;
  std::uint64_t address = 0, stride = 0;        // stride: the scaled index register
};

inline std::uint64_t value_of(const ucontext_t& context, unsigned reg) {
  constexpr int place[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                             REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
  return std::uint64_t(context.uc_mcontext.gregs[place[reg]]);
}

inline std::int64_t displacement(const unsigned char* at, unsigned bytes) {
  std::int8_t narrow = 0;
  std::int32_t wide = 0;
  if (bytes == 1) std::memcpy(&narrow, at, 1);
  if (bytes == 4) std::memcpy(&wide, at, 4);
  return narrow + wide;
}

inline Decoded decode(const ucontext_t& context) {
  const auto* const at = reinterpret_cast<const unsigned char*>(context.uc_mcontext.gregs[REG_RIP]);
  Decoded d;
  if (at[0] != 0xc4 || (at[1] & 0x1f) != 2) return d;
  const unsigned r = at[1] & 0x80 ? 0 : 8, x = at[1] & 0x40 ? 0 : 8, b = at[1] & 0x20 ? 0 : 8;
  d.wide = at[2] & 0x80, d.ymm = at[2] & 4, d.prefix = at[2] & 3, d.second = ~at[2] >> 3 & 15u;
  d.opcode = at[3];
  const unsigned mode = at[4] >> 6, low = at[4] & 7;
  d.reg = (at[4] >> 3 & 7u) | r, d.rm = low | b, d.memory = mode != 3, d.length = 5;
  if (!d.memory) return d;
  d.sib = low == 4;
  const unsigned base = d.sib ? at[d.length] & 7u : low, index = d.sib ? (at[d.length] >> 3 & 7u) | x : 4;
  if (index != 4) d.stride = value_of(context, index) << (at[d.length] >> 6);
  d.length += d.sib;
  const bool absolute = mode == 0 && base == 5;  // no base register: of the next instruction, or with SIB of 0
  const unsigned bytes = absolute || mode == 2 ? 4 : mode;
  d.address = std::uint64_t(displacement(at + d.length, bytes));
  d.length += bytes;
  if (!absolute) d.address += value_of(context, base | b);
  else if (!d.sib) d.address += reinterpret_cast<std::uintptr_t>(at) + d.length;
  return d;
}

inline void configure(const unsigned char* from) {
  require(from[0] == 1, "palette");
  for (int i = 1; i < 16; ++i) require(from[i] == 0, "start row or reserved bytes of the configuration");
  Tiles next;
  next.configured = true;
  std::memcpy(next.bytes, from + 16, sizeof next.bytes), std::memcpy(next.rows, from + 48, sizeof next.rows);
  for (int i = 0; i < 16; ++i) {
    require(next.rows[i] <= 16 && next.bytes[i] <= 64, "shape of a tile");
    require((next.rows[i] == 0) == (next.bytes[i] == 0), "rows without columns");
    require(i < 8 || next.rows[i] == 0, "a ninth tile");
  }
  tiles = next;
}

inline void require_tile(unsigned t) {
  require(t < 8 && tiles.configured && tiles.rows[t] != 0, "a tile without a shape");
}

/// a: rows of a tile, b: lines of four; signs by the prefix, as in tdpbuud, tdpbusd, tdpbsud, tdpbssd.
inline void multiply(unsigned c, unsigned a, unsigned b, bool a_signed, bool b_signed) {
  require_tile(c), require_tile(a), require_tile(b);
  require(c != a && a != b && b != c, "equal tile numbers");
  require(tiles.bytes[c] % 4 == 0 && tiles.bytes[a] % 4 == 0 && tiles.bytes[b] % 4 == 0, "columns that are no dwords");
  require(tiles.rows[c] == tiles.rows[a] && tiles.bytes[c] == tiles.bytes[b] && tiles.bytes[a] / 4 == tiles.rows[b],
          "shapes that do not fit");
  const auto number = [](std::uint8_t byte, bool is_signed) { return is_signed ? int(std::int8_t(byte)) : int(byte); };
  for (int m = 0; m < tiles.rows[c]; ++m)
    for (int n = 0; n < tiles.bytes[c] / 4; ++n) {
      std::int32_t sum = 0;
      for (int i = 0; i < tiles.bytes[a]; ++i)
        sum += number(tiles.data[a][m][i], a_signed) * number(tiles.data[b][i / 4][4 * n + i % 4], b_signed);
      std::uint32_t total;
      std::memcpy(&total, &tiles.data[c][m][4 * n], 4);
      total += std::uint32_t(sum);
      std::memcpy(&tiles.data[c][m][4 * n], &total, 4);
    }
}

/// ldtilecfg, tilerelease, tilezero, tileloadd, tilestored and the products; false: none of them.
inline bool run_tiles(const Decoded& d) {
  if (d.wide || d.ymm) return false;
  if (d.opcode == 0x49 && d.memory && d.prefix == 0 && d.reg == 0) {
    configure(reinterpret_cast<const unsigned char*>(d.address + d.stride));
  } else if (d.opcode == 0x49 && !d.memory && d.prefix == 0) {
    tiles = {};
  } else if (d.opcode == 0x49 && !d.memory && d.prefix == 3) {
    require_tile(d.reg), std::memset(tiles.data[d.reg], 0, sizeof tiles.data[d.reg]);
  } else if (d.opcode == 0x4b && d.memory && d.prefix != 0) {
    require(d.sib, "a tile's address without SIB"), require_tile(d.reg);
    const bool store = d.prefix == 2;
    if (!store) std::memset(tiles.data[d.reg], 0, sizeof tiles.data[d.reg]);
    for (unsigned row = 0; row < tiles.rows[d.reg]; ++row) {
      auto* const memory = reinterpret_cast<unsigned char*>(d.address + row * d.stride);
      std::uint8_t* const line = tiles.data[d.reg][row];
      std::memcpy(store ? memory : line, store ? line : memory, tiles.bytes[d.reg]);
    }
  } else if (d.opcode == 0x5e && !d.memory) {
    multiply(d.reg, d.rm, d.second, d.prefix >= 2, d.prefix & 1);
  } else {
    return false;
  }
  ++counts.tiles;
  return true;
}

/// The lower or upper half of a register of 256 bits where the system saved it: XSAVE's standard format. Halves that were all
/// zero are not saved at all: they are made present.
inline unsigned char* half_of(unsigned char* saved, unsigned reg, int upper) {
  unsigned char* const all = saved + (upper ? 576 : 160);
  std::uint64_t present;
  std::memcpy(&present, saved + 512, 8);
  const std::uint64_t component = upper ? 4 : 2;
  if ((present & component) == 0) {
    std::memset(all, 0, 16 * 16);
    present |= component;
    std::memcpy(saved + 512, &present, 8);
  }
  return all + 16 * reg;
}

/// vpdpbuud, vpdpbusd, vpdpbsud, vpdpbssd on 256 bits; false: none of them. With one sign, it is the second operand's in
/// vpdpbusd and the first's in vpdpbsud.
inline bool run_dot(const Decoded& d, unsigned char* saved) {
  if (d.opcode != 0x50 || d.wide || !d.ymm) return false;
  for (int upper = 0; upper < 2; ++upper) {
    unsigned char sums[16], first[16], second[16];
    std::memcpy(sums, half_of(saved, d.reg, upper), 16), std::memcpy(first, half_of(saved, d.second, upper), 16);
    const auto* const memory = reinterpret_cast<const unsigned char*>(d.address + d.stride) + 16 * upper;
    std::memcpy(second, d.memory ? memory : half_of(saved, d.rm, upper), 16);
    for (int i = 0; i < 16; i += 4) {
      std::uint32_t sum;
      std::memcpy(&sum, sums + i, 4);
      for (int j = i; j < i + 4; ++j)
        sum += std::uint32_t((d.prefix >= 2 ? int(std::int8_t(first[j])) : first[j]) *
                             (d.prefix & 1 ? int(std::int8_t(second[j])) : second[j]));
      std::memcpy(sums + i, &sum, 4);
    }
    std::memcpy(half_of(saved, d.reg, upper), sums, 16);
  }
  ++counts.dots;
  return true;
}

inline void handle(int, siginfo_t*, void* at) {
  ucontext_t& context = *static_cast<ucontext_t*>(at);
  const Decoded d = decode(context);
  if (d.length == 0 || !(run_tiles(d) || run_dot(d, reinterpret_cast<unsigned char*>(context.uc_mcontext.fpregs)))) {
    std::signal(SIGILL, SIG_DFL);  // not ours: the instruction faults again, for good
    return;
  }
  context.uc_mcontext.gregs[REG_RIP] += d.length;
}

/// While it lives, the instructions above run on any CPU.
class Instructions {
 public:
  Instructions() {
    struct sigaction action = {};
    action.sa_sigaction = &handle, action.sa_flags = SA_SIGINFO | SA_NODEFER;
    sigemptyset(&action.sa_mask);
    sigaction(SIGILL, &action, &before_);
  }
  ~Instructions() { sigaction(SIGILL, &before_, nullptr); }
  Instructions(const Instructions&) = delete;
  Instructions& operator=(const Instructions&) = delete;

 private:
  struct sigaction before_ = {};
};

}  // namespace trapped
