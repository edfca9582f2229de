// Linear, exactly: every remainder of outputs, inputs and tokens, extreme codes and rows, in every format; the oracle's
// bits, the bits of ref and of every other level, GEMM rows = GEMV rows, and nothing written or read beside what a call
// owns.
#include "linear_fixture.hpp"

#include <initializer_list>

namespace {

using fixture::formats;
using fixture::Guarded;
using fixture::LinearCase;

/// The whole product: equal to the oracle, within the bound, clean, and the bits of ref.
Guarded check(const LinearCase& c, const std::string& what) {
  Guarded y = fixture::run(c, fixture::active());
  const auto j = fixture::judge(c, y);
  INFO(what, ": rows ", c.rows, " cols ", c.cols, " tokens ", c.tokens, " stride ", c.stride);
  CHECK(j.wrong == 0);
  CHECK(j.outside == 0);
  CHECK(j.dirty == 0);
  if (&fixture::active() != &fixture::reference())
    CHECK(fixture::same_bits(y, fixture::run(c, fixture::reference())));
  return y;
}

/// Calls of these many tokens, one after the other, give the rows of the whole.
void check_parts(const LinearCase& c, const Guarded& whole, std::initializer_list<int> counts,
                 const std::string& what) {
  int first = 0;
  for (const int count : counts) {
    if (first + count > c.tokens) return;
    INFO(what, ": rows ", c.rows, " cols ", c.cols, " tokens ", first, " + ", count);
    CHECK(fixture::part_is_equal(c, fixture::active(), whole, first, count));
    first += count;
  }
}

}  // namespace

TEST_CASE("exact: every format is tested") {
  const auto all = formats();
  CHECK(all.size() == 9 + 9 + 6 * 4 * 3);  // floats and nf4 take rows of every kind as floats
  for (const klens::Level level : klens::all_levels) {
    if (!klens::runnable(level)) continue;
    for (const std::string& format : all)
      CHECK(bool(klens::linear_of(*klens::table_of(level), *klens::parse_format(format))));
  }
}

TEST_CASE("exact: outputs, every remainder of 32, and up to nine panels") {
  unsigned seed = 100;
  for (const std::string& format : formats()) {
    for (int rows = 1; rows <= 32; ++rows) {
      const LinearCase c(format, rows, 36, 14, seed++);
      check_parts(c, check(c, format), {1, 2, 3, 8}, format);
    }
    for (int panels = 3; panels <= 9; ++panels) {
      const LinearCase c(format, panels * 16 - int(seed % 16), 36, 13, seed);
      ++seed;
      check_parts(c, check(c, format), {1, 2, 4, 5}, format);
    }
  }
}

TEST_CASE("exact: inputs, every count up to 160, and around blocks and segments of 512") {
  unsigned seed = 200;
  for (const std::string& format : formats()) {
    for (int cols = 1; cols <= 160; ++cols) {
      const LinearCase c(format, 3, cols, 12, seed++);
      check_parts(c, check(c, format), {1 + cols % 8, 1}, format);
    }
    for (const int cols : {255, 260, 480, 509, 511, 512, 513, 516, 530, 544, 640, 1023, 1024, 1025, 1057, 1567}) {
      const LinearCase c(format, 18, cols, 14, seed++);
      check_parts(c, check(c, format), {2, 1, 4}, format);
    }
  }
}

TEST_CASE("exact: tokens, every count up to 48, alone or out of more tokens") {
  unsigned seed = 300;
  for (const std::string& format : formats()) {
    const LinearCase c(format, 49, 97, 49, seed++);
    const Guarded whole = check(c, format);
    for (int count = 1; count < c.tokens; ++count) {
      INFO(format, ": ", count, " tokens");
      CHECK(fixture::part_is_equal(c, fixture::active(), whole, 0, count));
      CHECK(fixture::part_is_equal(c, fixture::active(), whole, c.tokens - count, count));
    }
  }
}

TEST_CASE("exact: tokens around a chunk of 504") {
  unsigned seed = 400;
  for (const std::string& format : formats()) {
    const LinearCase c(format, 17, 33, 512, seed++);
    const Guarded whole = check(c, format);
    for (const int count : {503, 504, 505}) {
      INFO(format, ": ", count, " tokens");
      CHECK(fixture::part_is_equal(c, fixture::active(), whole, 512 - count, count));
    }
  }
}

TEST_CASE("exact: extreme weights times extreme rows") {
  // 128 x 32767 x 512 and 255 x 127 x 2049 are what int32 and int16 pairs have to bear.
  unsigned seed = 500;
  for (const std::string& format : formats())
    for (const int cols : {64, 512, 2049}) {
      const LinearCase c(format, 36, cols, 24, seed++, LinearCase::extreme);
      check_parts(c, check(c, format), {1, 2, 4, 8, 9}, format);
    }
}

TEST_CASE("exact: the longest rows of 8-bit integers") {
  // 128 x 127 x 132 000 < 2^31: the limit of kernel/linear.hpp.
  for (const int tokens : {2, 5, 17}) {
    const LinearCase c("w8a8", 6, 132000, tokens, 600 + unsigned(tokens), LinearCase::extreme);
    check_parts(c, check(c, "w8a8"), {1, 1, 3}, "w8a8");
  }
}

TEST_CASE("exact: one-hot rows read every weight back, with its scale") {
  unsigned seed = 700;
  for (const std::string& format : formats()) {
    LinearCase c(format, 20, 165, 165, seed++, LinearCase::one_hot);
    c.with_bias = c.with_residual = false;
    const Guarded whole = fixture::run(c, fixture::active());
    int wrong = 0;
    for (int t = 0; t < c.tokens; ++t)
      for (int n = 0; n < c.rows; ++n) {
        const oracle::Linear& m = c.truth;
        const std::size_t at = std::size_t(n * 165 + t), g = std::size_t(n * m.groups() + (m.group ? t / m.group : 0));
        const double w = m.integers ? double(m.q[at]) : double(m.w[at]);
        const double scale = m.scale.empty() ? 1.0 : double(m.scale[g]);
        wrong += whole[t * c.y_stride + n] != float(w * scale);
      }
    INFO(format);
    CHECK(wrong == 0);
    for (const int first : {0, 31, 77, 128, 157}) CHECK(fixture::part_is_equal(c, fixture::active(), whole, first, 8));
  }
}

TEST_CASE("exact: any range of panels, and nothing beside it") {
  unsigned seed = 800;
  for (const std::string& format : formats()) {
    const LinearCase c(format, 75, 44, 13, seed++);
    const Guarded whole = check(c, format);
    const klens::FlushDenormals flush;
    for (const int tokens : {1, 3, 13})
      for (int begin = 0; begin < 5; ++begin)
        for (int end = begin; end <= 5; ++end) {
          Guarded y(c.tokens * c.y_stride);
          klens::LinearArgs a = fixture::tokens_of(c, c.args(y.data(), fixture::scratch()), 0, tokens);
          a.begin = begin, a.end = end;
          klens::linear_of(fixture::active(), c.precision)(a);
          int wrong = 0;
          for (std::int64_t i = 0; i < y.size(); ++i) {
            const bool own = i / c.y_stride < tokens && i % c.y_stride >= begin * 16 && i % c.y_stride < end * 16;
            wrong += y[i] != (own ? whole[i] : Guarded::canary);
          }
          INFO(format, ": panels ", begin, " to ", end, ", tokens ", tokens);
          CHECK(wrong == 0);
        }
  }
}

TEST_CASE("exact: wide rows of tokens, and rows a multiple of 1 KB apart") {
  // Strides of 1024 elements put all rows of a tile into the same sets of a cache: kernels may copy them.
  unsigned seed = 900;
  for (const std::string& format : formats()) {
    for (const int more : {32, 96}) check(LinearCase(format, 18, 70, 13, seed++, LinearCase::random, more), format);
    for (const int more : {0, 24}) {
      const LinearCase c(format, 33, 1024 - more, 31, seed++);
      REQUIRE(c.stride % 1024 == 0);
      check_parts(c, check(c, format), {5, 12, 13}, format);
    }
  }
}

namespace {

constexpr float special[12] = {0.0f,       -0.0f,   1.0f,       -1.5f,    0x1p-126f, -0x1p-130f,
                               0x1.8p-149f, 0x1p127f, -0x1.8p127f, INFINITY, -INFINITY, NAN};

/// Rows, and weights of float grids, of special values: one in ten of the first `most`, the others of the first four.
void make_special(LinearCase& c, int most, unsigned seed) {
  fixture::Random dice(seed);
  const auto value = [&] { return special[dice.integer(0, dice.integer(0, 9) ? 3 : most - 1)]; };
  for (int t = 0; t < c.tokens; ++t)
    for (int k = 0; k < c.cols; ++k) c.f32[std::size_t(t * c.stride + k)] = value();
  const auto grid = c.precision.scheme.grid;
  if (!klens::is_float_grid(grid)) return;
  const std::int64_t panel_bytes = klens::layout_of(c.precision, c.rows, c.cols).panel_bytes;
  for (int n = 0; n < c.rows; ++n)
    for (int k = 0; k < c.cols; ++k)
      klens::store_code(c.lines.data() + n / 16 * panel_bytes, c.precision.weight_bits, grid, n % 16, k,
                        klens::encode_float(grid, value()));
}

/// NaN payloads and signs are outside the promise.
bool same_but_for_nan(const Guarded& a, const Guarded& b) {
  const auto bits = [](float x) { return std::isnan(x) ? 0x7fc00000u : std::bit_cast<std::uint32_t>(x); };
  for (std::int64_t i = 0; i < a.size(); ++i)
    if (bits(a[i]) != bits(b[i])) return false;
  return true;
}

}  // namespace

TEST_CASE("exact: infinities, NaN, denormals and signed zeros are those of ref") {
  int infinite = 0, nan = 0, normal = 0;
  unsigned seed = 1000;
  for (const char* format : {"f32", "f16", "bf16", "nf4g32", "w2", "w3g32", "w4g32", "w5", "w6g64", "w8", "w8g128"})
    for (const int most : {7, 9, 11, 12})  // denormals; overflow; infinities; NaN
      for (const int tokens : {1, 4, 13}) {
        LinearCase c(format, 33, 70, tokens, seed++);
        c.with_bias = c.with_residual = false;
        make_special(c, most, seed);
        const Guarded y = fixture::run(c, fixture::active());
        INFO(format, ": tokens ", tokens, ", values ", most);
        CHECK(same_but_for_nan(y, fixture::run(c, fixture::reference())));
        for (int t = 0; t < tokens; ++t)
          for (int n = 0; n < c.rows; ++n) {
            const float v = y[t * c.y_stride + n];
            infinite += std::isinf(v), nan += std::isnan(v), normal += std::isnormal(v);
          }
      }
  CHECK(infinite > 100);  // or the inputs would not do what they are for
  CHECK(nan > 100);
  CHECK(normal > 100);
}

TEST_CASE("exact: every level of this machine gives the same bits") {
  unsigned seed = 1100;
  int ran = 0, skipped = 0;
  for (const klens::Level level : klens::all_levels) {
    if (!klens::table_of(level)) continue;
    if (!klens::runnable(level)) {
      ++skipped;
      MESSAGE("skipped: level " << std::string(klens::name_of(level)) << ": this CPU lacks it");
      continue;
    }
    ++ran;
    for (const std::string& format : formats()) {
      const LinearCase c(format, 41, 135, 21, seed);
      INFO(std::string(klens::name_of(level)), ": ", format);
      const Guarded whole = fixture::run(c, fixture::active());
      CHECK(fixture::same_bits(whole, fixture::run(c, *klens::table_of(level))));
      CHECK(fixture::part_is_equal(c, *klens::table_of(level), whole, 3, 4));
    }
  }
  CHECK(ran >= 1);
  MESSAGE(ran << " levels compared, " << skipped << " skipped");
}

TEST_CASE("exact: tripwires") {
  // What the tests above would miss if they could: one unit of a sum, a bound too wide, a stray store, a changed part.
  for (const std::string& format : formats()) {
    INFO(format);
    LinearCase c(format, 36, 64, 24, 7, LinearCase::extreme);
    const Guarded y = fixture::run(c, fixture::active());
    REQUIRE(fixture::judge(c, y).wrong == 0);
    if (c.truth.integers) ++c.truth.q[4 * 64 + 3];  // row 4: random codes
    else c.truth.w[4 * 64 + 3] += 1;
    const auto j = fixture::judge(c, y);
    CHECK(j.wrong > 0);
    CHECK(j.outside > 0);
  }
  for (const char* format : {"f32", "w4g32", "w8a8", "w6g64a16", "nf4g32"}) {
    INFO(format);
    const LinearCase c(format, 33, 100, 14, 9);
    Guarded y = fixture::run(c, fixture::active());
    const Guarded whole = fixture::run(c, fixture::active());
    REQUIRE(fixture::part_is_equal(c, fixture::active(), whole, 2, 3));
    y[3 * c.y_stride + 32] = std::nextafterf(y[3 * c.y_stride + 32], 1e9f);
    CHECK(fixture::judge(c, y).wrong == 1);
    CHECK(!fixture::part_is_equal(c, fixture::active(), y, 2, 3));
    CHECK(!fixture::same_bits(whole, y));
    y[3 * c.y_stride + 40] = 1;  // padding of the last panel
    y[3 * c.y_stride + 48] = 0;  // beside it
    CHECK(fixture::judge(c, y).dirty == 2);
    y.data()[y.size()] = 0;
    CHECK(fixture::judge(c, y).dirty == 3);
  }
  // What ends a linear: the scale of a token, bias, residual.
  for (const int tokens : {3, 14}) {
    const LinearCase good("w4g32a8", 33, 100, tokens, 7);
    REQUIRE((good.with_bias && good.with_residual));
    const Guarded y = fixture::run(good, fixture::active());
    for (const int what : {0, 1, 2}) {
      LinearCase c("w4g32a8", 33, 100, tokens, 7);
      if (what == 0) c.scale[1] *= 1.5f;
      if (what == 1) c.bias[32] += 1;
      if (what == 2) c.residual[std::size_t(c.y_stride + 32)] += 1;
      CHECK(!fixture::same_bits(y, fixture::run(c, fixture::active())));
    }
  }
}
