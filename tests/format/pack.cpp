// pack.hpp: bytes, padding, round trips, views of foreign bytes, and the errors.
#include <klens/format/pack.hpp>
#include <klens/quant/rtn.hpp>

#include "../oracle/quantize.hpp"
#include "../support/weights.hpp"

#include <doctest/doctest.h>

using namespace klens;

namespace {

struct Extent {
  std::int64_t rows, cols;
};
constexpr Extent shapes[] = {{1, 12}, {17, 44}, {80, 48}, {44, 528}, {16, 32}, {17, 1}, {33, 129}};

std::vector<unsigned char> all_bytes(const PackedBuffer& b) {
  std::vector<unsigned char> bytes(std::size_t(b.bytes()));
  std::memcpy(bytes.data(), b.lines().data(), b.lines().size());
  if (!b.scales().empty()) std::memcpy(bytes.data() + b.lines().size(), b.scales().data(), b.scales().size());
  return bytes;
}

}  // namespace

TEST_CASE("format: packed bytes are the oracle's, to the last padding bit") {
  for (const oracle::Format& f : oracle::formats())
    for (const Extent& e : shapes) {
      CAPTURE(f.name);
      CAPTURE(e.rows);
      CAPTURE(e.cols);
      const test::Matrix w = test::weights(e.rows, e.cols, 7);
      const Precision p = *parse_format(f.name);
      const auto packed = quantize_rtn(p, w.view());
      REQUIRE(packed);
      const std::vector<unsigned char> want = oracle::pack(f, oracle::quantize(f, w.data, e.rows, e.cols));
      std::vector<unsigned char> got = all_bytes(*packed);
      CHECK(packed_bytes(p, e.rows, e.cols) == std::int64_t(want.size()));
      CHECK(packed->bytes() == std::int64_t(want.size()));
      CHECK(std::int64_t(packed->lines().size() + packed->scales().size()) == packed->bytes());
      REQUIRE(got == want);
      for (std::size_t at : {std::size_t(0), got.size() / 2, got.size() - 1}) {  // tripwire: one flipped bit is seen
        got[at] ^= 1;
        CHECK(got != want);
        got[at] ^= 1;
      }
    }
}

TEST_CASE("format: a fresh buffer is the zero matrix") {
  for (const oracle::Format& f : oracle::formats()) {
    CAPTURE(f.name);
    const test::Matrix zero = test::matrix(17, 44);
    const auto fresh = PackedBuffer::make(*parse_format(f.name), 17, 44);
    REQUIRE(fresh);
    CHECK(all_bytes(*fresh) == oracle::pack(f, oracle::quantize(f, zero.data, 17, 44)));
    CHECK(std::uintptr_t(fresh->matrix().lines) % 64 == 0);
    CHECK((fresh->matrix().scales == nullptr) == is_float_grid(fresh->precision().scheme.grid));
  }
}

TEST_CASE("format: unpack gives scale times value with one rounding; a corrupted line or scale is seen") {
  for (const oracle::Format& f : oracle::formats())
    for (const Extent& e : shapes) {
      CAPTURE(f.name);
      CAPTURE(e.rows);
      CAPTURE(e.cols);
      const test::Matrix w = test::weights(e.rows, e.cols, 21);
      auto packed = quantize_rtn(*parse_format(f.name), w.view());
      REQUIRE(packed);
      const oracle::Quantized z = oracle::quantize(f, w.data, e.rows, e.cols);
      test::Matrix out = test::matrix(e.rows, e.cols);
      const auto differences = [&] {
        unpack(packed->matrix(), out.view());
        std::int64_t count = 0;
        for (std::size_t i = 0; i < out.data.size(); ++i) count += double(out.data[i]) != z.value[i];
        return count;
      };
      CHECK(differences() == 0);
      CHECK(weight_at(packed->matrix(), e.rows - 1, e.cols - 1) == out.data.back());
      CHECK(weight_at(packed->matrix(), e.rows / 2, e.cols / 2) == out.at(e.rows / 2, e.cols / 2));
      // Row 0 holds weights other than zero; its last input is in the last group.
      const Precision& p = packed->precision();
      const std::uint32_t code = load_code(packed->panel_lines(0), p.weight_bits, p.scheme.grid, 0, e.cols - 1);
      store_code(packed->panel_lines(0), p.weight_bits, p.scheme.grid, 0, e.cols - 1, code ^ 1u);
      CHECK(differences() == 1);
      store_code(packed->panel_lines(0), p.weight_bits, p.scheme.grid, 0, e.cols - 1, code);
      CHECK(differences() == 0);
      if (!packed->scales().empty()) {
        packed->panel_scales(0)[p.scheme.scale == Granularity::group ? 1 : 3] ^=
            4;  // the exponent of row 0's first scale
        CHECK(differences() > 0);
      }
    }
}

TEST_CASE("format: integers and scales round-trip through the lines, whole range") {
  for (const oracle::Format& f : oracle::formats()) {
    if (f.kind != oracle::Format::integer && f.kind != oracle::Format::nf4) continue;
    for (const Extent& e : shapes) {
      CAPTURE(f.name);
      const Precision p = *parse_format(f.name);
      std::uint64_t seed = 5;
      const std::int64_t groups = layout_of(p, e.rows, e.cols).groups;
      std::vector<std::int8_t> q(std::size_t(e.rows * e.cols)), back(q.size());
      const int bias = f.kind == oracle::Format::nf4 ? 0 : 1 << (f.bits - 1);
      for (auto& x : q) x = std::int8_t(int(test::next_random(seed) % (1u << f.bits)) - bias);
      std::vector<float> scales(std::size_t(e.rows * groups));
      for (float& s : scales) s = to_float(half{std::uint16_t(0x2000 + test::next_random(seed) % 0x1000)});
      const auto packed = pack_integers(p, {q.data(), e.rows, e.cols, e.cols}, {scales.data(), e.rows, groups, groups});
      REQUIRE(packed);
      unpack_integers(packed->matrix(), {back.data(), e.rows, e.cols, e.cols});
      CHECK(back == q);
      for (std::int64_t n = 0; n < e.rows; ++n)
        for (std::int64_t g = 0; g < groups; ++g)
          CHECK(scale_at(packed->matrix(), n / lanes, g, int(n % lanes)) == scales[std::size_t(n * groups + g)]);
    }
  }
}

TEST_CASE("format: pack_integers refuses what does not fit, and says where") {
  const Precision w4 = *parse_format("w4"), w4g32 = *parse_format("w4g32");
  std::vector<std::int8_t> q(40, 1);
  std::vector<float> scale(2, 0.5f);
  const Rows<const std::int8_t> view{q.data(), 1, 40, 40};
  CHECK(pack_integers(w4, view, {scale.data(), 1, 1, 1}));
  q[33] = 8;
  CHECK(pack_integers(w4, view, {scale.data(), 1, 1, 1}).error().message() ==
        "row 0, column 33: expected -8 to 7, found 8");
  q[33] = -8;
  CHECK(pack_integers(w4, view, {scale.data(), 1, 1, 1}));
  CHECK(pack_integers(w4, view, {scale.data(), 1, 2, 2}).error().message() ==
        "scales of w4: expected 1 x 1, found 1 x 2");
  scale[1] = 0.1f;
  CHECK(pack_integers(w4g32, view, {scale.data(), 1, 2, 2}).error().message() ==
        "scale of row 0, group 1: expected a finite binary16 value, found 0.100000001");
  scale[1] = std::nanf("");
  CHECK(pack_integers(w4g32, view, {scale.data(), 1, 2, 2}).error().code == ErrorCode::format);
  CHECK(pack_integers(*parse_format("f16"), view, {scale.data(), 1, 1, 1}).error().code == ErrorCode::unsupported);
}

TEST_CASE("format: shapes that cannot be packed are errors, not allocations") {
  const Precision p = *parse_format("w4g32");
  for (const Extent& e : {Extent{0, 5}, Extent{5, 0}, Extent{-1, 5}, Extent{std::int64_t(1) << 31, 1},
                          Extent{1 << 30, 1 << 30}, Extent{std::int64_t(1) << 62, std::int64_t(1) << 62}})
    CHECK(PackedBuffer::make(p, e.rows, e.cols).error().code == ErrorCode::shape);
  Precision odd = p;
  odd.weight_bits = 7;
  CHECK(PackedBuffer::make(odd, 4, 4).error().code == ErrorCode::unsupported);
  odd = p;
  odd.scheme.group = 48;
  CHECK(PackedBuffer::make(odd, 4, 4).error().code == ErrorCode::unsupported);
}

TEST_CASE("format: packed_view checks sizes and alignment") {
  const test::Matrix w = test::weights(17, 44, 3);
  const Precision p = *parse_format("w4g32");
  const auto packed = quantize_rtn(p, w.view());
  REQUIRE(packed);
  const auto view = packed_view(p, packed->lines(), packed->scales(), 17, 44);
  REQUIRE(view);
  test::Matrix a = test::matrix(17, 44), b = a;
  unpack(*view, a.view());
  unpack(packed->matrix(), b.view());
  CHECK(a.data == b.data);
  CHECK(packed_view(p, packed->lines().first(packed->lines().size() - 1), packed->scales(), 17, 44).error().message() ==
        "w4g32 matrix 17 x 44: line plane: expected 768 bytes, found 767");
  CHECK(packed_view(p, packed->lines(), packed->scales().first(30), 17, 44).error().message() ==
        "w4g32 matrix 17 x 44: scale plane: expected 128 bytes, found 30");
  CHECK(packed_view(p, packed->lines(), packed->scales(), 17, 49).error().code == ErrorCode::shape);
  Buffer<std::byte> bytes(2048);
  CHECK(packed_view(p, bytes.span().subspan(32, 768), bytes.span().subspan(1024, 128), 17, 44).error().message() ==
        "w4g32 matrix 17 x 44: line plane: expected a multiple of 64 as its address, found 32 bytes beyond one");
  CHECK(packed_view(p, bytes.span().subspan(0, 768), bytes.span().subspan(1025, 128), 17, 44).error().code ==
        ErrorCode::format);
  CHECK(packed_view(p, {}, {}, std::int64_t(1) << 40, std::int64_t(1) << 40).error().code == ErrorCode::shape);
}

TEST_CASE("format: the strides of rows are honoured") {
  test::Matrix wide = test::weights(20, 60, 9), narrow = test::matrix(20, 44);
  for (int n = 0; n < 20; ++n)
    for (int k = 0; k < 44; ++k) narrow.at(n, k) = wide.at(n, k);
  const Precision p = *parse_format("w5g32");
  const auto a = quantize_rtn(p, {wide.data.data(), 20, 44, 60}), b = quantize_rtn(p, narrow.view());
  REQUIRE(a);
  REQUIRE(b);
  CHECK(all_bytes(*a) == all_bytes(*b));
  test::Matrix out = test::matrix(20, 60);
  for (float& x : out.data) x = 99;
  unpack(a->matrix(), {out.data.data(), 20, 44, 60});
  for (int n = 0; n < 20; ++n)
    for (int k = 44; k < 60; ++k) CHECK(out.at(n, k) == 99);  // nothing beyond the columns is written
}
