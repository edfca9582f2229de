// Kernels of AMX and AVX-VNNI-INT8 where neither is. Compiled with the instructions emulated they give the integers and the
// bits of level ref; the emulation traps where the hardware would fault, and is itself held against plain loops. And the
// objects of the levels themselves, whose instructions the handler of SIGILL carries out where the CPU does not.
#include "linear_fixture.hpp"
#include "per_level/emulated_linear.hpp"
#include "support/trapped.hpp"

#include <optional>
#include <utility>

KLENS_DECLARE_EMULATION(ref)
KLENS_DECLARE_EMULATION(avx2)
KLENS_DECLARE_EMULATION(avx512_vnni)

namespace klens::N_amx_int8 { extern int tiles_answer; }  // simd/tile.hpp

namespace {

using fixture::Guarded;
using fixture::LinearCase;

using Linears = klens::Kernel<klens::LinearArgs> (*)(klens::Codec, bool);

/// level: what the CPU must have. own: the objects of which level, where it is not a unit of the tests; a trap takes 4 us, so
/// they run only when the tests run for `level`.
struct Emulation { const char* name; klens::Level level; Linears linears; std::optional<klens::Level> own = {}; };

template <klens::Level L>
klens::Kernel<klens::LinearArgs> own_linear(klens::Codec codec, bool grouped) {
  return klens::own_table_of(L)->linear[int(codec)][grouped][int(klens::DotKind::a8)];
}

/// Lets the objects of a level run here: traps what the CPU lacks, and says that tiles are granted where there are none.
class Runnable {
 public:
  explicit Runnable(std::optional<klens::Level> own) {
    if (!own || klens::supports(klens::detect(), *own)) return;
    traps_.emplace();
#if defined(KLENS_TRAPPED_amx_int8)
    if (own == klens::Level::amx_int8) answer_ = std::exchange(klens::N_amx_int8::tiles_answer, 1);
#endif
  }
  ~Runnable() {
#if defined(KLENS_TRAPPED_amx_int8)
    if (answer_) klens::N_amx_int8::tiles_answer = *answer_;
#endif
  }
  Runnable(const Runnable&) = delete;
  Runnable& operator=(const Runnable&) = delete;

 private:
  std::optional<trapped::Instructions> traps_;
  std::optional<int> answer_;
};

/// The emulations that are compiled in and whose level this CPU has.
std::vector<Emulation> emulations() {
  std::vector<Emulation> all;
#if defined(KLENS_EMULATED_amx_over_ref)
  all.push_back({"amx over ref", klens::Level::ref, &klens::N_ref_emulated::emulated_linear});
#endif
#if defined(KLENS_EMULATED_amx_over_avx512_vnni)
  all.push_back({"amx over avx512_vnni", klens::Level::avx512_vnni, &klens::N_avx512_vnni_emulated::emulated_linear});
#endif
#if defined(KLENS_EMULATED_vnni_int8)
  all.push_back({"vnni_int8 over avx2", klens::Level::avx2, &klens::N_avx2_emulated::emulated_linear});
#endif
#if defined(KLENS_TRAPPED_amx_int8)
  all.push_back({"amx_int8's objects", klens::Level::avx512_bf16, &own_linear<klens::Level::amx_int8>, klens::Level::amx_int8});
#endif
#if defined(KLENS_TRAPPED_avx_vnni_int8)
  all.push_back({"avx_vnni_int8's objects", klens::Level::avx2, &own_linear<klens::Level::avx_vnni_int8>,
                 klens::Level::avx_vnni_int8});
#endif
  const klens::Level active = fixture::active().level;
  std::erase_if(all, [active](const Emulation& e) {
    return !klens::supports(klens::detect(), e.level) || (e.own && e.level != active && *e.own != active);
  });
  return all;
}

/// A copy that ends at a page that cannot be read: a tile has 16 rows, the last tokens may be fewer.
template <class T>
fixture::Fenced<T> fenced(const klens::Buffer<T>& from) {
  fixture::Fenced<T> copy(from.size());
  std::copy_n(from.data(), from.size(), copy.data());
  return copy;
}

Guarded run(const LinearCase& c, const Emulation& e) {
  Guarded y(c.tokens * c.y_stride);
  const auto q8 = fenced(c.q8);
  const auto sums = fenced(c.sums);
  klens::LinearArgs a = c.args(y.data(), fixture::scratch());
  a.x.q8 = q8.data(), a.x.sums = sums.data();
  const klens::FlushDenormals flush;
  const Runnable runnable(e.own);
  e.linears(klens::codec_of(c.precision), c.precision.scheme.scale == klens::Granularity::group)(a);
  return y;
}

std::vector<std::string> formats() {
  std::vector<std::string> all;
  for (const char* bits : {"2", "3", "4", "5", "6", "8"})
    for (const char* group : {"", "g32", "g64", "g128"}) all.push_back("w" + std::string(bits) + group + "a8");
  return all;
}

void check(const LinearCase& c, const std::string& format) {
  const Guarded want = fixture::run(c, fixture::reference());
  for (const Emulation& e : emulations()) {
    const Guarded got = run(c, e);
    INFO(e.name, ": ", format, ", rows ", c.rows, " cols ", c.cols, " tokens ", c.tokens);
    CHECK(fixture::same_bits(got, want));
    CHECK(got.margins_intact());
  }
}

}  // namespace

TEST_CASE("emulated linears give the bits of ref: every format, K around tiles and blocks") {
  REQUIRE(!emulations().empty());
  struct Size { int rows, cols, tokens; };
  const Size sizes[] = {{16, 64, 16}, {33, 1, 17}, {32, 31, 32}, {80, 48, 33}, {15, 100, 47}, {50, 161, 18},
      {47, 1030, 31}, {20, 2090, 20}};
  unsigned seed = 21;
  for (const std::string& format : formats())
    for (const Size& s : sizes) check(LinearCase(format, s.rows, s.cols, s.tokens, seed++), format);
}

TEST_CASE("emulated linears: tokens around tiles and chunks, extreme values") {
  unsigned seed = 22;
  for (const char* format : {"w8a8", "w8g32a8", "w4g64a8", "w5a8"}) {
    for (const int tokens : {1, 15, 16, 19, 63, 64, 65}) check(LinearCase(format, 35, 77, tokens, seed++), format);
    check(LinearCase(format, 18, 40, 515, seed++), format);
    check(LinearCase(format, 47, 2049, 34, seed++, LinearCase::extreme), format);
  }
}

TEST_CASE("emulated linears: any split of panels is the whole; tripwire") {
  for (const Emulation& e : emulations())
    for (const char* format : {"w8a8", "w3g32a8"}) {
      INFO(e.name, ": ", format);
      LinearCase c(format, 95, 300, 40, 23);
      const Guarded whole = run(c, e);
      Guarded parts(c.tokens * c.y_stride);
      const klens::FlushDenormals flush;
      const Runnable runnable(e.own);
      for (const auto& [begin, end] : {std::pair{5, 6}, std::pair{0, 3}, std::pair{3, 5}}) {
        klens::LinearArgs a = c.args(parts.data(), fixture::scratch());
        a.begin = begin, a.end = end;
        e.linears(klens::codec_of(c.precision), c.precision.scheme.scale == klens::Granularity::group)(a);
      }
      CHECK(fixture::same_bits(whole, parts));
      const std::size_t last = std::size_t(39 * c.stride + 299);  // of the last token, in a padded step
      c.q8[last] = std::int8_t(c.q8[last] ^ 1);
      CHECK(!fixture::same_bits(whole, run(c, e)));
    }
}

TEST_CASE("objects of a level the CPU lacks: its own instructions are what ran") {
  for (const Emulation& e : emulations()) {
    if (!e.own || klens::supports(klens::detect(), *e.own)) continue;
    INFO(e.name);
    const trapped::Counts before = trapped::counts;
    run(LinearCase("w4a8", 32, 128, 32, 26), e);  // 2 panels, two tiles of tokens, two steps: 8 products, 8 loads and more
    if (e.own == klens::Level::amx_int8) CHECK(trapped::counts.tiles - before.tiles >= 16 + 1 + 4 + 4 + 1);
    else CHECK(trapped::counts.dots - before.dots >= 2 * 2 * 32 * 32);
  }
}

#if defined(KLENS_EMULATED_amx_over_ref)
TEST_CASE("emulated tiles: s8 x u8 products of all shapes and extreme bytes, sums wrap") {
  fixture::Random dice(24);
  int wrong = 0, compared = 0;
  for (int m : {1, 7, 16})
    for (int n : {1, 16})
      for (int k : {1, 8, 16})
        for (int round = 0; round < 4; ++round) {
          std::int32_t c[16][20];
          std::int8_t a[16][72];
          std::uint8_t b[16][64];
          for (auto& row : c) for (auto& x : row) x = round == 3 ? INT32_MAX : dice.integer(-9999, 9999);
          for (auto& row : a)
            for (auto& x : row) x = std::int8_t(round == 1 ? -128 : round == 3 ? 127 : dice.integer(-128, 127));
          for (auto& row : b) for (auto& x : row) x = std::uint8_t(round & 1 ? 255 : dice.integer(0, 255));
          std::int32_t want[16][20];
          std::memcpy(want, c, sizeof c);
          for (int i = 0; i < m; ++i)
            for (int j = 0; j < n; ++j) {
              std::int64_t sum = c[i][j];
              for (int q = 0; q < 4 * k; ++q) sum += std::int64_t(a[i][q]) * b[q / 4][4 * j + q % 4];
              want[i][j] = std::int32_t(std::uint32_t(sum));
            }
          klens::N_ref_emulated::emulated_tile_product(
              {m, n, k, c[0], a[0], b[0], sizeof c[0], sizeof a[0], sizeof b[0]});
          for (int i = 0; i < 16; ++i)
            for (int j = 0; j < 20; ++j) wrong += c[i][j] != want[i][j], ++compared;
        }
  CHECK(wrong == 0);
  CHECK(compared == 3 * 2 * 3 * 4 * 320);
}
#endif

#if defined(KLENS_EMULATED_vnni_int8)
TEST_CASE("emulated signed dot product: every corner of its bytes, sums wrap") {
  if (!klens::supports(klens::detect(), klens::Level::avx2)) return;
  fixture::Random dice(25);
  int wrong = 0;
  for (int round = 0; round < 400; ++round) {
    const auto byte = [&] {
      constexpr int corners[] = {-128, -127, -1, 0, 1, 127};
      return std::int8_t(round % 2 ? corners[dice.integer(0, 5)] : dice.integer(-128, 127));
    };
    std::int8_t w[64], x[4];
    std::int32_t sums[16], want[16], words[16];
    for (auto& v : w) v = byte();
    for (auto& v : x) v = byte();
    for (int r = 0; r < 16; ++r) {
      sums[r] = round % 3 ? dice.integer(-9999, 9999) : r % 2 ? INT32_MAX : INT32_MIN;
      std::int64_t sum = sums[r];
      for (int j = 0; j < 4; ++j) sum += std::int64_t(w[4 * r + j]) * x[j];
      want[r] = std::int32_t(std::uint32_t(sum));
    }
    std::memcpy(words, w, sizeof w);
    klens::N_avx2_emulated::emulated_dot_s8(sums, words, x);
    wrong += std::memcmp(sums, want, sizeof sums) != 0;
  }
  CHECK(wrong == 0);
}
#endif
