// One level's part of the v16f test; see probe.hpp.
#include "probe.hpp"

#include <klens/simd/dot_s8.hpp>
#include <klens/simd/unpack.hpp>
#include <klens/simd/v16f.hpp>

namespace klens::inline KLENS_NS {
namespace {

struct Out {
  std::uint32_t* at;
  void word(std::uint32_t w) { *at++ = w; }
  void number(float f) { word(f != f ? 0x7fc00000u : __builtin_bit_cast(std::uint32_t, f)); }
  void operator()(v16f x) {
    float lane[16];
    store(lane, x);
    for (const float f : lane) number(f);
  }
  void operator()(v16i x) {
    std::int32_t lane[16];
    store_i(lane, x);
    for (const std::int32_t i : lane) word(std::uint32_t(i));
  }
  void operator()(m16 m) {
    (*this)(select(m, splat_i(1), splat_i(2)));
    word(any(m)), word(all(m));
  }
};

/// What dot_s8 gives; on the level that has it, by its instruction.
v16i signed_dots(v16i sums, v16i w, const std::int8_t* x) {
#if defined(KLENS_HAS_VNNI_INT8)
  dot_s8(sums, w, x);
  return sums;
#else
  for (int j = 0; j < 4; ++j) sums = sums + sar(shl(w, 24 - 8 * j), 24) * splat_i(x[j]);
  return sums;
#endif
}

}  // namespace

int probe_level(const probe::Inputs& in, std::uint32_t* words) {
  Out out{words};
  const v16f x = load(in.a), y = load(in.b), z = load(in.c);
  const v16i i = bits(x), j = bits(y);
  out(x + y), out(x - y), out(x * y), out(x / y), out(fma(x, y, z)), out(fms(x, y, z)), out(fnma(x, y, z));
  out(min(x, y)), out(max(x, y)), out(abs(x)), out(neg(x)), out(sqrt(x)), out(round_even(x));
  out(lt(x, y)), out(le(y, z)), out(gt(x, z)), out(ge(z, x)), out(eq(x, y)), out(lt(x, y) & le(y, z)),
      out(lt(x, y) | le(y, z));
  out(!lt(x, y)), out(select(lt(x, y), z, x)), out(eq_i(i, j)), out(gt_i(i, j));
  out(to_int(x)), out(to_float(j));
  out(i + j), out(i - j), out(i * j), out(i & j), out(i | j), out(i ^ j), out(shl(i, 5)), out(shr(i, 7)),
      out(sar(i, 9));
  out(min_i(i, j)), out(max_i(i, j)), out(signed_dots(i, j, reinterpret_cast<const std::int8_t*>(in.c)));
  out(load_half(reinterpret_cast<const half*>(in.a))), out(load_bf16(reinterpret_cast<const bf16*>(in.b)));
  out(load_i8(reinterpret_cast<const std::int8_t*>(in.a))), out(load_u8(reinterpret_cast<const std::uint8_t*>(in.b)));
  out(load_i16(reinterpret_cast<const std::int16_t*>(in.c))), out(lookup16(z, j));
  std::int32_t twice[16];
  for (int n = 0; n < 16; ++n) twice[n] = __builtin_bit_cast(std::int32_t, in.b[n % 8]);
  out(lookup8(load_i(twice), i)), out(through_half(x)), out(through_half(z));
  half h[16] = {};
  store_half(h, z);
  for (const half v : h) out.word((v.bits & 0x7c00u) == 0x7c00u && (v.bits & 0x3ffu) ? 0x7e00u : v.bits);
  std::int8_t bytes[16];
  std::int16_t shorts[16];
  store_i8(bytes, i), store_i16(shorts, j);
  for (const std::int8_t v : bytes) out.word(std::uint32_t(v));
  for (const std::int16_t v : shorts) out.word(std::uint32_t(v));
  for (int n = 0; n <= 16; ++n) {
    float some[16];
    store(some, splat(-1));
    store_n(some, x, n);
    out(load(some)), out(load_n(in.b, n)), out(first_n(n));
  }
  out.number(sum(x)), out.number(sum(y)), out.word(std::uint32_t(sum_i(i)));
  out.number(max_of(z)), out.number(min_of(z));
  return int(out.at - words);
}

}  // namespace klens::inline KLENS_NS
