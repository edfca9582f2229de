// rtn.hpp against the double/int64 oracle, and its corner rows.
#include <klens/quant/rtn.hpp>

#include "../oracle/quantize.hpp"
#include "../support/weights.hpp"

#include <doctest/doctest.h>

#include <limits>

using namespace klens;

namespace {

constexpr float inf = std::numeric_limits<float>::infinity();

/// Elements and scales where the packed matrix and the oracle differ.
std::int64_t differences(const oracle::Format& f, const PackedMatrix& m, const test::Matrix& w) {
  const oracle::Quantized z = oracle::quantize(f, w.data, w.rows, w.cols);
  std::vector<std::int8_t> q(w.data.size());
  unpack_integers(m, {q.data(), w.rows, w.cols, w.cols});
  std::int64_t count = 0;
  for (std::size_t i = 0; i < q.size(); ++i) count += q[i] != z.q[i];
  for (std::int64_t n = 0; n < w.rows; ++n)
    for (std::int64_t g = 0; g < z.groups; ++g)
      count += double(scale_at(m, n / lanes, g, int(n % lanes))) != z.scale[std::size_t(n * z.groups + g)];
  return count;
}

oracle::Format named(const std::string& name) {
  for (const oracle::Format& f : oracle::formats())
    if (f.name == name) return f;
  FAIL("no such format: " << name);
  return {};
}

test::Matrix row_of(std::initializer_list<float> values) {
  return {std::vector<float>(values), 1, std::int64_t(values.size())};
}

std::vector<int> integers(const PackedBuffer& b) {
  std::vector<std::int8_t> q(std::size_t(b.rows() * b.cols()));
  unpack_integers(b.matrix(), {q.data(), b.rows(), b.cols(), b.cols()});
  return {q.begin(), q.end()};
}

}  // namespace

TEST_CASE("quant: the oracle on rows worked out by hand") {
  // absmax 3.5, qmax 7: s = 0.5; w/s = 7 -5 0.5 1.5 -2.5 -> ties to even
  const oracle::Quantized z = oracle::quantize(named("w4"), {3.5f, -2.5f, 0.25f, 0.75f, -1.25f}, 1, 5);
  CHECK(z.scale[0] == 0.5);
  CHECK(z.q == std::vector<std::int64_t>{7, -5, 0, 2, -2});
  CHECK(oracle::to_half(0.1) == 0.0999755859375);
  CHECK(oracle::to_half(1 + 0x1p-11) == 1);
  CHECK(oracle::to_half(1 + 0x1.8p-10) == 1 + 0x1p-9);
  CHECK(oracle::to_half(0x1p-25) == 0);
  CHECK(oracle::to_half(0x1.8p-24) == 0x1p-23);
  CHECK(oracle::half_bits(65504) == 0x7bff);
  CHECK(oracle::half_bits(-0x1p-24) == 0x8001);
}

TEST_CASE("quant: round to nearest equals the oracle for every format, and one changed weight is seen") {
  for (const oracle::Format& f : oracle::formats()) {
    if (f.kind != oracle::Format::integer && f.kind != oracle::Format::nf4) continue;
    for (const std::pair<int, int>& shape : {std::pair{1, 12}, {17, 44}, {80, 48}, {44, 528}, {3, 31}, {16, 129}}) {
      const int rows = shape.first, cols = shape.second;
      CAPTURE(f.name);
      CAPTURE(cols);
      test::Matrix w = test::weights(rows, cols, std::uint64_t(rows * 1000 + cols));
      const auto packed = quantize_rtn(*parse_format(f.name), w.view());
      REQUIRE(packed);
      CHECK(differences(f, packed->matrix(), w) == 0);
      w.at(rows - 1, cols - 1) = 3;  // beyond every weight here: scale and codes of its group change
      CHECK(differences(f, packed->matrix(), w) > 0);
    }
  }
}

TEST_CASE("quant: values far apart in size, from subnormal to 1e30") {
  std::uint64_t seed = 77;
  for (const char* name : {"w8", "w5", "w4", "w2"}) {
    test::Matrix w = test::matrix(48, 40);
    for (std::int64_t n = 0; n < w.rows; ++n)
      for (std::int64_t k = 0; k < w.cols; ++k)
        w.at(n, k) = std::ldexp(float(test::next_random(seed) >> 40) * 0x1p-23f - 1.0f,
                                int(n) * 5 - 138 + int(test::next_random(seed) % 4));
    const auto packed = quantize_rtn(*parse_format(name), w.view());
    REQUIRE(packed);
    CHECK(differences(named(name), packed->matrix(), w) == 0);
  }
}

TEST_CASE("quant: ties go to even, the limits are symmetric") {
  const auto w4 =
      quantize_rtn(*parse_format("w4"), row_of({7, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -2.5f, 6.5f, -6.5f, -7}).view());
  REQUIRE(w4);
  CHECK(integers(*w4) == std::vector<int>{7, 0, 2, 2, 0, -2, -2, 6, -6, -7});
  const auto w2 = quantize_rtn(*parse_format("w2"), row_of({-4, 2, -2, 2.0001f, 4, 1}).view());
  REQUIRE(w2);
  CHECK(integers(*w2) == std::vector<int>{-1, 0, 0, 1, 1, 0});
}

TEST_CASE("quant: the stored binary16 scale divides, not the exact one") {
  // absmax 0.7 / 7 = 0.1 -> 0.09997559 in binary16; 0.24995 / 0.1 = 2.4995 would be 2, 0.24995 / 0.09997559 = 2.5001 is
  // 3
  const auto q = quantize_rtn(*parse_format("w4g32"), row_of({0.7f, 0.24995f}).view());
  REQUIRE(q);
  CHECK(integers(*q) == std::vector<int>{7, 3});
  const auto row = quantize_rtn(*parse_format("w4"), row_of({0.7f, 0.24995f}).view());
  REQUIRE(row);
  CHECK(integers(*row) == std::vector<int>{7, 2});
}

TEST_CASE("quant: groups of zeros, and scales that round to zero") {
  test::Matrix w = test::matrix(2, 70);
  for (int k = 0; k < 32; ++k) w.at(0, k) = 0.01f;
  for (int k = 32; k < 64; ++k) w.at(0, k) = k % 2 ? 1e-9f : 0.0f;  // 1e-9 / 7 is below half of 2^-24
  QuantizeNotes notes;
  const auto packed = quantize_rtn(*parse_format("w4g32"), w.view(), &notes);
  REQUIRE(packed);
  CHECK(notes.lost_groups == 1);
  CHECK(notes.lost_weights == 16);
  CHECK(notes.first_row == 0);
  CHECK(notes.first_col == 32);
  CHECK(note_text(notes) == "16 weights became 0 in 1 groups whose scale rounds to 0 (first: row 0, column 32)");
  CHECK(scale_at(packed->matrix(), 0, 1, 0) == 0.0f);
  for (int k = 32; k < 70; ++k) CHECK(weight_at(packed->matrix(), 0, k) == 0.0f);
  CHECK(weight_at(packed->matrix(), 0, 5) > 0.0f);
  QuantizeNotes quiet;
  CHECK(quantize_rtn(*parse_format("w4"), w.view(),
                     &quiet));  // the row's fp32 scale keeps row 0; row 1 is all zero: nothing lost
  CHECK(quiet.lost_groups == 0);
  CHECK(note_text(quiet).empty());
  const auto levels = quantize_rtn(*parse_format("nf4g32"), row_of({2e-8f, -1e-8f}).view(), &quiet);  // below 2^-25
  REQUIRE(levels);
  CHECK(quiet.lost_weights == 2);
  CHECK(integers(*levels) == std::vector<int>{7, 7});
}

TEST_CASE("quant: subnormal binary16 scales clamp instead of wrapping") {
  // absmax / 127 = 1.4 * 2^-24 -> 2^-24: quotients reach 1.4 * 127
  const float unit = 0x1p-24f;
  test::Matrix w = row_of({1.4f * 127 * unit, -1.4f * 127 * unit, 100 * unit, 128 * unit, 0.5f * unit, 1.5f * unit});
  const auto packed = quantize_rtn(*parse_format("w8g32"), w.view());
  REQUIRE(packed);
  CHECK(scale_at(packed->matrix(), 0, 0, 0) == unit);
  CHECK(integers(*packed) == std::vector<int>{127, -127, 100, 127, 0, 2});
  CHECK(differences(named("w8g32"), packed->matrix(), w) == 0);
}

TEST_CASE("quant: nf4 ties, absmax of either sign, values beyond the rounded scale") {
  const auto packed = quantize_rtn(*parse_format("nf4g32"),
                                   row_of({-1, 1, 0, 0.5f * (0.562617f + 0.72295684f), 0.8614f, 0.8616f}).view());
  REQUIRE(packed);
  CHECK(integers(*packed) == std::vector<int>{0, 15, 7, 13, 14, 15});
  const test::Matrix w = row_of({0.1f, -0.09999f, 0.0999f});  // 0.1 is above its binary16
  const auto over = quantize_rtn(*parse_format("nf4g32"), w.view());
  REQUIRE(over);
  CHECK(integers(*over) == std::vector<int>{15, 0, 15});
  CHECK(differences(named("nf4g32"), over->matrix(), w) == 0);
}

TEST_CASE("quant: what is not finite is an error with its place, in every format and at every position") {
  for (const char* name : {"f32", "f16", "bf16", "w8", "w3", "w4g32", "w2g128", "nf4g64"})
    for (const float bad : {std::nanf(""), inf, -inf})
      for (const auto& [n, k] : {std::pair{0, 0}, {3, 43}, {16, 17}, {18, 32}}) {
        CAPTURE(name);
        test::Matrix w = test::weights(19, 44, 2);
        w.at(n, k) = bad;
        const auto packed = quantize_rtn(*parse_format(name), w.view());
        REQUIRE(!packed);
        CHECK(packed.error().code == ErrorCode::format);
        CHECK(packed.error().where == "row " + std::to_string(n) + ", column " + std::to_string(k));
        CHECK(packed.error().expected == "a finite weight");
      }
}

TEST_CASE("quant: scales and weights beyond binary16 are errors") {
  test::Matrix w = test::matrix(2, 64);
  w.at(1, 40) = 7 * 65519.0f;
  CHECK(quantize_rtn(*parse_format("w4g32"), w.view()));  // rounds to 65504
  w.at(1, 40) = 7 * 65520.0f;
  const auto packed = quantize_rtn(*parse_format("w4g32"), w.view());
  REQUIRE(!packed);
  CHECK(packed.error().message() ==
        "row 1, column 32 (w4g32 group): expected a scale of at most 65504 (binary16), found 65520");
  CHECK(packed.error().code == ErrorCode::overflow);
  CHECK(quantize_rtn(*parse_format("w4"), w.view()));  // fp32 scales do not mind
  CHECK(quantize_rtn(*parse_format("bf16"), w.view()));
  CHECK(quantize_rtn(*parse_format("f16"), w.view()).error().message() ==
        "row 1, column 40: expected a weight in the range of f16, found 458640");
  w.at(1, 40) = 65519.0f;
  CHECK(quantize_rtn(*parse_format("f16"), w.view()));
  w.at(1, 40) = std::numeric_limits<float>::max();
  CHECK(quantize_rtn(*parse_format("w8"), w.view()));
  CHECK(quantize_rtn(*parse_format("bf16"), w.view()).error().code == ErrorCode::overflow);
}

TEST_CASE("quant: notes add up, and the codec's scalar rule is the same rule") {
  const test::Matrix w = test::weights(17, 100, 8);
  for (const char* name : {"w6", "w4g64", "nf4g32", "bf16"}) {
    const Precision p = *parse_format(name);
    const auto packed = quantize_rtn(p, w.view());
    REQUIRE(packed);
    for (std::int64_t n = 0; n < w.rows; ++n)
      for (std::int64_t k = 0; k < w.cols; ++k) {
        const std::int64_t group = p.scheme.scale == Granularity::group ? k / p.scheme.group : 0;
        const float scale = scale_at(packed->matrix(), n / lanes, group, int(n % lanes));
        REQUIRE(load_code(packed->matrix().lines + n / lanes * packed->layout().panel_bytes, p.weight_bits,
                          p.scheme.grid, int(n % lanes),
                          k) == encode(p.weight_bits, p.scheme.grid, w.data[std::size_t(n * w.cols + k)], scale));
      }
  }
}

TEST_CASE("quant: the same on a thread that flushes denormals") {
  const test::Matrix w = row_of({0x1p-130f, -0x1p-131f, 0x1.8p-132f, 0x1p-149f});
  const FlushDenormals flush;
  const auto packed = quantize_rtn(*parse_format("w8"), w.view());
  REQUIRE(packed);
  CHECK(integers(*packed) == std::vector<int>{127, -64, 48, 0});  // scale 4128 * 2^-149
  CHECK(*static_cast<const std::uint32_t*>(packed->matrix().scales) == 4128);
}
