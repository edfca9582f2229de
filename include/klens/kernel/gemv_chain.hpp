// The chains of a GEMV of f32 rows: acc[t][p] += a stretch of inputs of T tokens x P panels, one FMA per input, k ascending.
//
//   chain          unpacks where it multiplies, a unit of all panels at a time
//   staged_chain   one token: puts 32 inputs of each panel down in L1 as bytes, then multiplies all panels together
//   float_runs     f16 and bf16: as chain, with fetches in runs, where the CPU wants them so (isa/fetch.hpp)
//
// How far ahead what is fetched (fetch_of) is chosen by measurement, here for the integers of gemv.hpp too.
#pragma once

#include <klens/isa/fetch.hpp>
#include <klens/kernel/linear_common.hpp>

namespace klens::inline KLENS_NS {

namespace gemv_detail {

/// How far ahead of its use a line is fetched into L1 and into L2; 0: not at all. Zen 4, 2048 x 2048 from DRAM.
/// f32 rows: codes that become floats fill the window with arithmetic, so that few misses are under way by themselves: L2
/// far ahead hides memory, L1 the L2 (w6, 512 bits, cycles per 16 weights: 3.2 with 512 bytes of L1 alone, 2.9 with L2
/// alone, 2.5 to 2.6 with both). 256 bits take longer per line, and single lines come in order: L2 is enough (nf4: both
/// cost 4 %). f16 and bf16, four streams: 320 bytes 2 to 4 % faster than 512, 768 a quarter slower.
/// Integers, share of a plain read: w4g32a8 4096 ahead 91 to 93 %, 0 77 to 83 % (to L2 75 %, whatever the distance); w6a8
/// 2048 ahead 76 to 83 %, 512 or 768 64 to 82 %. w8 with groups has twice the lines per scale: 88 to 94 % without, 68 to
/// 88 % with; groups of 128 as well (95, 88 %), so those have none (tile).
/// Zen 5, us of 2048 x 2048 from DRAM with 0 (multi-line and groups: as above), 4096, 8192, 12288 ahead: w4a8 avx2 63, 53,
/// 44, 41, avx512_vnni 51, 48, 41, 39; w6a8 89, 79, 69, 77; w4g32a8 56, 56, 46, 42; from L3 8192 costs up to 3 %, 12288 4.
/// w8 gains at levels without 512-bit VNNI (w8a8 avx2 133, 117, 105), not at that one, on which Zen 4 runs (101, 107, 106).
/// Copies of the matrix that fill three L3 (above: one and a half), 4096, 6144, 8192 ahead: w4a8 avx2 56.2, 53.5, 54.3,
/// avx_vnni 56.6, 55.0, 56.9, avx512_vnni 53.0, 53.6, 55.6, w8a8 avx512 125, 121.5, 124; groups and several lines want 8192.
/// To L2 as well or instead: less. f32 rows: 8192 for L2 changes nothing, for f16 and bf16 it costs 7 to 10 %.
struct Fetch { int near, far; };
template <Codec C, Dot K, Fold F, bool FarFetches = false>
inline constexpr Fetch fetch_of = [] {
  constexpr bool single = codec_unit<C>.lines == 1;
  if (K == Dot::f32) {
    if (!has_codes<C>) return Fetch{C == Codec::f32 ? 0 : 320, 0};
    return Fetch{single && vector_registers == 16 ? 0 : 1024, 3072};
  }
  if (FarFetches) {
    if (C == Codec::i8 && vector_registers == 32 && has_dot_u8) return Fetch{0, 0};
    return Fetch{single && F != Fold::scale ? 6144 : 8192, 0};
  }
  if (F == Fold::scale && C != Codec::i8) return Fetch{4096, 0};
  return Fetch{single ? 0 : 2048, 0};
}();

/// Codes of which several panels of one token are a staged_chain. On 32 registers single lines are unpacked as fast where they
/// are. On 16, where a permutation has replaced mask, exponent and subtraction, w2 is 12 % slower staged; nf4 takes its index
/// from any bit.
template <Codec C, int T, int P>
inline constexpr bool by_stages = T == 1 && P > 1 && has_codes<C> &&
    (vector_registers == 32 ? codec_unit<C>.lines > 1 : vector_registers == 16 && C != Codec::i2 && C != Codec::nf4);

/// What is added to a line's address to reach what is read `bytes` later: `left` bytes of each of P panels lie there and
/// behind, and the next tile goes on P panels later. Without a branch: gcc 12 would make two loops of one.
template <int P>
KLENS_INLINE std::int64_t onward([[maybe_unused]] std::int64_t panel_bytes, [[maybe_unused]] std::int64_t left, std::int64_t bytes) {
  return bytes + (P == 1 ? 0 : (P - 1) * panel_bytes & -std::int64_t(left <= bytes));
}

struct Ahead { std::int64_t far, near; };
template <Codec C, Dot K, Fold F, int P>
KLENS_INLINE Ahead ahead_of(std::int64_t panel_bytes, std::int64_t left) {
  constexpr Fetch f = fetch_of<C, K, F>;
  return {onward<P>(panel_bytes, left, f.far), onward<P>(panel_bytes, left, f.near)};
}
template <Codec C, Dot K, Fold F>
KLENS_INLINE void fetch_line([[maybe_unused]] const unsigned char* line, [[maybe_unused]] const Ahead& ahead) {
  constexpr Fetch f = fetch_of<C, K, F>;
  if constexpr (f.far > 0) __builtin_prefetch(line + ahead.far, 0, 2);
  if constexpr (f.near > 0) __builtin_prefetch(line + ahead.near, 0, 3);
}

/// Where a tile reads next; all of it advances with the inputs.
template <Dot K>
struct Cursor {
  const unsigned char* at;       // first panel
  const Row<K>* x;               // first token
  const std::int32_t* sums;      // first token, integers only
  std::int64_t panel_bytes, stride;
};

/// Inputs of a chain's steps: on 32 registers broadcast once for all panels, else read by every product. Two loads a cycle do for
/// 64 products with as many inputs of their own, but not for lines and fetches beside them (Zen 5, cycles per 16 weights and
/// token from L3: f16 of two tokens 0.84 -> 0.65, w6 0.78 -> 0.72, of four 0.69 -> 0.62, w4g32 0.64 -> 0.60). One token gains
/// nothing with floats and loses registers in w2, four lose them in w3, and floats from DRAM a little.
template <Codec C, int T>
inline constexpr bool shares_chain_inputs =
    vector_registers == 32 && (has_codes<C> ? !(C == Codec::i2 && T == 1) && !(C == Codec::i3 && T == 4) : T == 2);
template <Codec C, int T>
using ChainInput = decltype(input_of<shares_chain_inputs<C, T>>(static_cast<const float*>(nullptr)));

/// acc[t][p] += one unit of floats of 16 bits, or one input of f32.
template <Codec C, int T, int P>
KLENS_INLINE void float_unit(v16f (&acc)[T][P], const Cursor<Dot::f32>& c) {
  constexpr Unit unit = codec_unit<C>;
  ChainInput<C, T> x[T];
  unroll<unit.inputs * P>([&](int n) KLENS_INLINE_LAMBDA {
    // Two inputs of bf16 share a line. Four panels of one token take both at once: clang 14 would keep the lines of
    // all in 8 of 16 registers and spill 12 times. Two tokens have no registers for their four inputs.
    constexpr bool by_line = C == Codec::bf16 && T == 1 && vector_registers == 16;
    const int i = by_line ? n % unit.inputs : n / P, p = by_line ? n / unit.inputs : n % P;
    if (by_line || p == 0)
      unroll<T>([&](int t) KLENS_INLINE_LAMBDA { x[t] = input_of<shares_chain_inputs<C, T>>(c.x + t * c.stride + i); });
    const v16f w = value<C>(c.at + p * c.panel_bytes, i);
    unroll<T>([&](int t) KLENS_INLINE_LAMBDA { fma_step(acc[t][p], w, x[t]); });
  });
}

/// Runs of 8 units of f16 or bf16 in four panels, as many as `inputs` holds: a run fetches the lines of a later one, 512 bytes
/// of a panel after another, 2 KB ahead. Zen 5's memory gives 40 GB/s to one stream and 33 to four of which a line each is read
/// in turn, and so 37: us of 2048 x 2048 from DRAM f16 257 -> 225, bf16 256 -> 228 (512 bits), 250 -> 227, 257 -> 222 (256 bits);
/// runs of 256 bytes 272, of 1 KB 235; 1.5 to 3 KB ahead within 5 %. The first unit stands apart: where the four fetches are
/// the same instructions in all units nothing is gained (260), presumably because fetches, too, train hardware prefetchers
/// by the instruction's address.
template <Codec C, int P>
inline constexpr bool has_runs = is_float(C) && C != Codec::f32 && P == 4;
template <Codec C, int T, int P>
KLENS_INLINE void float_runs(v16f (&acc)[T][P], Cursor<Dot::f32>& c, const unsigned char* end, int& inputs) {
  constexpr int units = 8, ahead = 4 * units * line_bytes, run = units * codec_unit<C>.inputs;
  static_assert(codec_unit<C>.lines == 1 && units % P == 0);
  for (; inputs >= run; inputs -= run) {
    const unsigned char* next = c.at + onward<P>(c.panel_bytes, end - c.at, ahead);
    const auto one = [&](int n) KLENS_INLINE_LAMBDA {
      unroll<P>([&](int l) KLENS_INLINE_LAMBDA { __builtin_prefetch(next + l * line_bytes, 0, 3); });
      next += P * line_bytes + (n % (units / P) == 0 ? c.panel_bytes - units * line_bytes : 0);
      float_unit<C>(acc, c);
      c.at += unit_bytes<C>, c.x += codec_unit<C>.inputs;
    };
    one(1);
    for (int n = 2; n <= units; ++n) one(n);
  }
}

/// Codes of `inputs` inputs of a panel as u8 lines (other bits are noise), P lines apart.
template <Codec C, int P>
KLENS_INLINE void stage(const unsigned char* from, unsigned char* to, int inputs) {
  constexpr int step = P * line_bytes;
  for (const unsigned char* const last = to + inputs / 4 * step; to < last; from += unit_bytes<C>)
    unroll<codec_unit<C>.inputs / 4>([&](int i) KLENS_INLINE_LAMBDA {
      store_i(reinterpret_cast<std::int32_t*>(to), move_bits(codes<C>(from, i), code_at<C>(i), 0)), to += step;
    });
}

/// acc[p] += four inputs of all panels, of which P staged lines hold the codes.
template <Codec C, int P>
KLENS_INLINE void staged_step(v16f (&acc)[P], const unsigned char* lines, [[maybe_unused]] const Levels<C>& levels, const float* x) {
#if defined(KLENS_HAS_AVX512)
  v16i packed[P];
  unroll<P>([&](int p) KLENS_INLINE_LAMBDA { packed[p] = load_line_once(lines + p * line_bytes); });
  unroll<4>([&](int j) KLENS_INLINE_LAMBDA {
    const v16i input = shared_input(x + j);
    unroll<P>([&](int p) KLENS_INLINE_LAMBDA { fma_step(acc[p], float_of_code<C>(packed[p], levels, 0, j), input); });
  });
#else
  // Read from its byte j on, a line has the codes of input j at bit 0: no shift, one mask, and codes stay in memory.
  unroll<4>([&](int j) KLENS_INLINE_LAMBDA {
    unroll<P>([&](int p) KLENS_INLINE_LAMBDA {
      fma_step(acc[p], float_of_code<C>(load_line(lines + p * line_bytes + j), levels, 0, 0), x + j);
    });
  });
#endif
}

/// Whether a panel of the next block is staged beside a part of this block's products, not all of it before them. A block's
/// lines take a store each, and two blocks' worth of instructions fill no window. Zen 5, cycles per 16 weights from L3: w3 1.12 ->
/// 0.93, w5 1.10 -> 1.02, 256 bits (of 8 lanes) w8 1.24 -> 1.16, w4 1.23 -> 1.16, w3 1.12 -> 1.07, w6 and w5 1 % slower. w6 at 512
/// bits 1.15 -> 1.04, but from DRAM, which binds it, 1.27 -> 1.33. clang 14 would spill at 256 bits. Groups end too soon.
template <Codec C, Fold F>
inline constexpr bool stages_beside =
    F == Fold::carry && !clang_spills && C != Codec::i6 && (C != Codec::i5 || vector_registers == 32);

/// chain of one token and P panels, 32 inputs at a time: the codes of one panel after the other go to L1 (stage), from where all
/// panels are multiplied step by step. Few registers hold lines so, and each panel is read in runs: P panels of 3 to 6 lines read
/// step by step are too many streams. Zen 5, cycles per 16 weights, chain of 4 panels (256 bits: of 2) and this with 8 (4): w6
/// 512 bits from L3 1.53 and 1.16, from DRAM 1.57 and 1.35, 256 bits 3.7 and 2.8; w3 2.5 and 2.3.
/// Fetched are, while `run` blocks are multiplied, the next `run` of one panel after the other: `turn` counts the blocks. The
/// same lines of all panels at each step: w6 from DRAM 1.45; runs half as long 1.53, twice as long, into L2, 1.40.
template <Codec C, Fold F, int P>
KLENS_INLINE void staged_chain(v16f (&acc)[P], Cursor<Dot::f32>& c, const unsigned char* end, int inputs, int& turn) {
  constexpr Unit unit = codec_unit<C>;
  constexpr int block = 32, units = block / unit.inputs, run = 8, part = (P * units * unit.lines + 7) / 8;
  constexpr int step = P * line_bytes, whole = block / 4 * step;
  const Levels<C> levels;
  alignas(line_bytes) unsigned char staged[(stages_beside<C, F> ? 2 : 1) * whole + line_bytes];
  unsigned char* lines = staged;
  const unsigned char *from = nullptr, *ahead = nullptr;
  // c.at: behind what is staged.
  const auto begin_block = [&]() KLENS_INLINE_LAMBDA {
    // Opaque: else clang 14 addresses the lines by the stack pointer, and they look like spills (tests/structure/spills.sh).
    from = opaque(lines);
    turn = (turn + 1) % run;
    const int bytes = (run - turn) * units * unit_bytes<C> + turn % (run / P) * (part * 8 * line_bytes);
    ahead = c.at + turn / (run / P) * c.panel_bytes + onward<P>(c.panel_bytes, end - c.at, bytes);
  };
  const auto multiply = [&]() KLENS_INLINE_LAMBDA {
    unroll<part>([&](int) KLENS_INLINE_LAMBDA { __builtin_prefetch(ahead, 0, 3), ahead += line_bytes; });
    staged_step<C>(acc, from, levels, c.x);
    from += step, c.x += 4;
  };
  while (inputs > 0) {
    const int count = units > 1 && inputs < block ? inputs : block;
    const unsigned char* panel = c.at;
    for (int p = 0; p < P; ++p, panel += c.panel_bytes) stage<C, P>(panel, lines + p * line_bytes, count);
    c.at += count / unit.inputs * unit_bytes<C>;
    begin_block();
    if constexpr (stages_beside<C, F>)
      for (; inputs >= 2 * block; inputs -= block) {
        unsigned char* to = lines = lines == staged ? staged + whole : staged;
        panel = c.at;
        for (const unsigned char* const last = from + whole; from < last; panel += c.panel_bytes, to += line_bytes) {
          stage<C, P>(panel, to, block);
          unroll<block / 4 / P>([&](int) KLENS_INLINE_LAMBDA { multiply(); });
        }
        c.at += units * unit_bytes<C>;
        begin_block();
      }
    for (const unsigned char* const last = from + count / 4 * step; from < last;) multiply();
    inputs -= count;
  }
}

/// acc[t][p] += `inputs` inputs in f32, whole units.
template <Codec C, int T, int P>
KLENS_INLINE void chain(v16f (&acc)[T][P], Cursor<Dot::f32>& c, const unsigned char* end, int inputs) {
  constexpr Unit unit = codec_unit<C>;
  [[maybe_unused]] const Levels<C> levels;
  if constexpr (has_runs<C, P>)
    if (far_fetches()) float_runs<C>(acc, c, end, inputs);
  for (; inputs > 0; inputs -= unit.inputs, c.at += unit_bytes<C>, c.x += unit.inputs) {
    // Codes: a share of the lines at every step. All at once, six lines of four panels hold up the loads behind them (Zen 5,
    // w6 from DRAM, 512 bits: 1.94 cycles per 16 weights, so 1.70); on 16 registers clang 14 would spill. Floats have one
    // line.
    [[maybe_unused]] const Ahead ahead = ahead_of<C, Dot::f32, Fold::carry, P>(c.panel_bytes, end - c.at);
    [[maybe_unused]] const auto fetch = [&](const unsigned char* panel, int step) KLENS_INLINE_LAMBDA {
      unroll<unit.lines>([&](int l) KLENS_INLINE_LAMBDA {
        const int at = clang_spills ? 0 : l * (unit.inputs / 4) / unit.lines;
        if (at == step) fetch_line<C, Dot::f32, Fold::carry>(panel + l * line_bytes, ahead);
      });
    };
    if constexpr (!has_codes<C>)
      unroll<P>([&](int p) KLENS_INLINE_LAMBDA { fetch_line<C, Dot::f32, Fold::carry>(c.at + p * c.panel_bytes, ahead); });
    if constexpr (has_codes<C>) {
      const float* row[T];
      unroll<T>([&](int t) KLENS_INLINE_LAMBDA { row[t] = opaque(c.x + t * c.stride); });
      unroll<unit.inputs / 4>([&](int i) KLENS_INLINE_LAMBDA {
        // gcc 12 would hold an address for each line of each panel, and of each input, more than there are registers.
        const unsigned char* panel = c.at;
        constexpr int together = P == 3 || (T == 2 && C == Codec::i4) ? 1 : P;
        ChainInput<C, T> x[4][T];
        const auto read_inputs = [&](int j) KLENS_INLINE_LAMBDA {
          unroll<T>([&](int t) KLENS_INLINE_LAMBDA { x[j][t] = input_of<shares_chain_inputs<C, T>>(row[t] + 4 * i + j); });
        };
        if constexpr (together == 1) unroll<4>(read_inputs);
        unroll<P / together>([&](int first) KLENS_INLINE_LAMBDA {
          v16i packed[together];
          unroll<together>([&](int p) KLENS_INLINE_LAMBDA {
            if constexpr (P > 1) panel = opaque(panel);
            packed[p] = codes<C>(panel, i);
            fetch(panel, i);
            panel += c.panel_bytes;
          });
          unroll<4>([&](int j) KLENS_INLINE_LAMBDA {
            if constexpr (together > 1) read_inputs(j);
            unroll<together>([&](int p) KLENS_INLINE_LAMBDA {
              packed[p] = after(acc[T - 1][first + (p + together - 1) % together], packed[p]);
              const v16f w = float_of_code<C, T == 1>(packed[p], levels, i, j);
              unroll<T>([&](int t) KLENS_INLINE_LAMBDA { fma_step(acc[t][first + p], w, x[j][t]); });
            });
          });
        });
      });
    } else {
      float_unit<C>(acc, c);
    }
  }
}

}  // namespace gemv_detail

}  // namespace klens::inline KLENS_NS
