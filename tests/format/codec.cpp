// codec.hpp: values of every code, places in the lines, halves against all 65 536 patterns.
#include <klens/format/codec.hpp>

#include "../oracle/quantize.hpp"

#include <doctest/doctest.h>

using namespace klens;

TEST_CASE("format: integer codes are biased and cover the grid") {
  for (int bits : {2, 3, 4, 5, 6, 8}) {
    const int least = -(1 << (bits - 1)), most = (1 << (bits - 1)) - 1;
    CHECK(qmax_of(bits) == most);
    for (int q = least; q <= most; ++q) {
      const std::uint32_t code = encode_integer(bits, q);
      CHECK(code == std::uint32_t(q - least));
      CHECK(decode_integer(bits, code) == q);
      CHECK(code_value(bits, Grid::uniform, code) == float(q));
    }
    CHECK(code_value(bits, Grid::uniform, zero_code(bits, Grid::uniform)) == 0.0f);
  }
  CHECK(code_value(4, Grid::nf4, zero_code(4, Grid::nf4)) == 0.0f);
}

TEST_CASE("format: round_half_even equals nearbyint") {
  for (int i = -4000; i <= 4000; ++i) {
    const float x = float(i) * 0.125f;
    CHECK(round_half_even(x) == int(std::nearbyint(double(x))));
  }
  CHECK(round_half_even(4194303.0f) == 4194303);
  CHECK(round_half_even(-4194303.0f) == -4194303);
}

TEST_CASE("format: the nearest nf4 level, around every middle") {
  for (int i = 0; i < 16; ++i) CHECK(double(nf4_levels[i]) == double(float(oracle::nf4_table[i])));
  for (int i = 0; i < 15; ++i) {
    const float middle = nf4_middle(i), above = std::nextafterf(middle, 2.0f);
    CHECK(encode_nf4(middle) == std::uint32_t(i));
    CHECK(encode_nf4(above) == std::uint32_t(i + 1));
    const double low = nf4_levels[i], high = nf4_levels[i + 1];
    CHECK(double(middle) - low <= high - double(middle));  // exact: at most as far from the lower level
    CHECK(double(above) - low > high - double(above));
  }
}

TEST_CASE("format: halves and bfloats, every pattern and every middle between two") {
  for (std::uint32_t u = 0; u < 0x7c00; ++u) {
    const float x = to_float(half{std::uint16_t(u)}),
                up = u == 0x7bff ? 65536.0f : to_float(half{std::uint16_t(u + 1)});
    REQUIRE(to_half(x).bits == u);
    REQUIRE(to_half(-x).bits == (u | 0x8000));
    const float middle = float((double(x) + double(up)) / 2);  // 12 significant bits: exact
    REQUIRE(to_half(middle).bits == u + (u & 1));
    REQUIRE(to_half(std::nextafterf(middle, 0.0f)).bits == u);
    REQUIRE(to_half(std::nextafterf(middle, 1e9f)).bits == u + 1);
    if (u > 0) REQUIRE(oracle::half_bits(double(x)) == u);
  }
  for (std::uint32_t u = 0; u < 0x7f80; ++u) {
    const float x = to_float(bf16{std::uint16_t(u)});
    REQUIRE(to_bf16(x).bits == u);
    const float middle = std::bit_cast<float>(u << 16 | 0x8000u);
    REQUIRE(to_bf16(middle).bits == u + (u & 1));
  }
}

TEST_CASE("format: a code's place, against the bytes of the oracle") {
  // One code at a time is set to all ones among zeros: the oracle's bytes must show exactly those bits.
  for (const oracle::Format& f : oracle::formats()) {
    if (f.group > 32) continue;
    CAPTURE(f.name);
    const Grid grid = f.kind == oracle::Format::integer  ? Grid::uniform
                      : f.kind == oracle::Format::nf4    ? Grid::nf4
                      : f.kind == oracle::Format::half   ? Grid::f16
                      : f.kind == oracle::Format::bfloat ? Grid::bf16
                                                         : Grid::f32;
    const Unit u = unit_of(f.bits, grid);
    const std::int64_t ones = f.bits == 32 ? 0xffffffff : (std::int64_t(1) << f.bits) - 1;
    const std::int64_t bias = f.kind == oracle::Format::integer ? std::int64_t(1) << (f.bits - 1) : 0;
    for (int r : {0, 1, 7, 15})
      for (int k = 0; k < 2 * u.inputs; ++k) {
        oracle::Quantized z{16, 2 * u.inputs, 1, {}, std::vector<double>(16), {}};
        z.q.assign(std::size_t(16 * z.cols), -bias);  // code 0 everywhere
        z.q[std::size_t(r * z.cols + k)] = ones - bias;
        std::vector<unsigned char> lines(std::size_t(2 * u.lines * line_bytes));
        store_code(lines.data(), f.bits, grid, r, k, std::uint32_t(ones));
        const std::vector<unsigned char> want = oracle::pack(f, z);
        REQUIRE(std::memcmp(lines.data(), want.data(), lines.size()) == 0);
        REQUIRE(load_code(want.data(), f.bits, grid, r, k) == std::uint32_t(ones));
      }
  }
}
