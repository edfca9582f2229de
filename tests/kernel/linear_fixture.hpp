// A linear to test: random or extreme codes packed through format/codec.hpp (which tests/format holds against bytes of
// an oracle of its own), rows in every form, and the oracle's view of the same numbers. Weights end at a page that
// cannot be read: they may be the end of a mapped file.
#pragma once

#include "fixture.hpp"
#include "oracle/linear.hpp"

#include <klens/core/denormals.hpp>
#include <klens/format/codec.hpp>
#include <klens/format/name.hpp>

#include <memory>
#include <string>
#include <vector>

#include <sys/mman.h>
#include <unistd.h>

namespace fixture {

/// Zeroed elements at a 64-byte boundary, the last of them before a page that cannot be read. What alignment leaves
/// between is all ones: NaN, or -1.
template <class T>
class Fenced {
 public:
  Fenced() = default;
  explicit Fenced(std::size_t count) : size_(count) {
    const std::size_t page = std::size_t(sysconf(_SC_PAGESIZE)), bytes = count * sizeof(T);
    const std::size_t kept = (bytes + 63) / 64 * 64, pages = (kept + page - 1) / page * page;
    const auto flags = MAP_PRIVATE | MAP_ANONYMOUS;
    void* p = mmap(nullptr, pages + page, PROT_READ | PROT_WRITE, flags, -1, 0);
    REQUIRE(p != MAP_FAILED);
    unsigned char* first = static_cast<unsigned char*>(p);
    REQUIRE(mprotect(first + pages, page, PROT_NONE) == 0);
    std::memset(first + pages - kept + bytes, 0xff, kept - bytes);
    mapping_ = {first, Unmap{pages + page}};
    data_ = reinterpret_cast<T*>(first + pages - kept);
  }
  T* data() { return data_; }
  const T* data() const { return data_; }
  std::size_t size() const { return size_; }
  T& operator[](std::size_t i) { return data_[i]; }
  const T& operator[](std::size_t i) const { return data_[i]; }

 private:
  struct Unmap {
    std::size_t bytes = 0;
    void operator()(unsigned char* p) const { munmap(p, bytes); }
  };
  std::unique_ptr<unsigned char, Unmap> mapping_;
  T* data_ = nullptr;
  std::size_t size_ = 0;
};

using Bytes = Fenced<unsigned char>;

/// Every combination of codec, granularity and kind of row that exists, by name.
inline std::vector<std::string> formats() {
  std::vector<std::string> all;
  for (const char* grid : {"f32", "f16", "bf16", "nf4", "w2", "w3", "w4", "w5", "w6", "w8"})
    for (const char* group : {"", "g32", "g64", "g128"})
      for (const char* activation : {"", "a16", "a8"}) {
        const std::string name = std::string(grid) + group + activation;
        const auto p = klens::parse_format(name);
        if (p && klens::linear_exists(klens::codec_of(*p), *group != 0, klens::dot_kind_of(*p))) all.push_back(name);
      }
  return all;
}

struct LinearCase {
  klens::Precision precision;
  int rows, cols, tokens;
  std::int64_t stride, y_stride;
  oracle::Linear truth;
  std::vector<oracle::Row> x;
  Bytes lines, scales;
  klens::Buffer<float> f32, scale, residual;
  Fenced<float> bias;
  klens::Buffer<std::int8_t> q8;
  klens::Buffer<std::int16_t> q16;
  klens::Buffer<std::int32_t> sums;
  bool with_bias = false, with_residual = false;

  /// random    every code; scales and rows as they come
  /// extreme   row n holds pattern n % 6 (all lowest, all -qmax, all highest, alternating, random, halves of both
  ///           signs), scales 0, denormal and largest halves among them; token t pattern t % 8: extreme_input()
  /// one_hot   token t is 1 at input t % cols
  enum Values { random, extreme, one_hot };

  LinearCase(const std::string& format, int n, int k, int t, unsigned seed, Values values = random, int more_stride = 0)
      : precision(klens::parse_format(format).value()), rows(n), cols(k), tokens(t) {
    Random dice(seed);
    stride = klens::round_up(cols, klens::row_unit) + more_stride, y_stride = klens::round_up(rows, klens::lanes) + 16;
    make_weights(dice, values);
    make_rows(dice, values);
    bias = Fenced<float>(std::size_t(klens::round_up(rows, 16)));
    residual = klens::Buffer<float>(std::size_t(tokens * y_stride));
    for (int i = 0; i < rows; ++i) bias[std::size_t(i)] = float(dice.normal());
    for (int i = 0; i < tokens; ++i)
      for (int j = 0; j < rows; ++j) residual[std::size_t(i * y_stride + j)] = float(dice.normal());
    with_bias = seed % 2, with_residual = seed % 3 == 1;
  }

  void make_weights(Random& dice, Values values) {
    const auto grid = precision.scheme.grid;
    const int bits = precision.weight_bits;
    const klens::PackedLayout layout = klens::layout_of(precision, rows, cols);
    lines = Bytes(std::size_t(layout.line_plane_bytes)), scales = Bytes(std::size_t(layout.scale_plane_bytes));
    truth.rows = rows, truth.cols = cols, truth.integers = grid == klens::Grid::uniform;
    truth.group = precision.scheme.scale == klens::Granularity::group ? precision.scheme.group : 0;
    const auto dot = klens::dot_kind_of(precision);
    truth.integer_dot = dot == klens::DotKind::a8 ? 8 : dot == klens::DotKind::a16 ? 16 : 0;
    const std::size_t count = std::size_t(rows) * std::size_t(cols);
    if (truth.integers) truth.q.resize(count);
    else truth.w.resize(count);
    for (std::int64_t r = 0; r < layout.panels * 16; ++r) {
      unsigned char* panel = lines.data() + r / 16 * layout.panel_bytes;
      for (std::int64_t k = 0; k < layout.cols_padded; ++k) {
        std::uint32_t code = klens::zero_code(bits, grid);
        if (r < rows && k < cols) {
          const std::size_t at = std::size_t(r * cols + k);
          code = values == extreme ? extreme_code(dice, int(r), int(k)) : random_code(dice);
          if (truth.integers) truth.q[at] = int(code) - (1 << (bits - 1));
          else truth.w[at] = klens::code_value(bits, grid, code);
        }
        klens::store_code(panel, bits, grid, int(r % 16), k, code);
      }
    }
    if (klens::is_float_grid(grid)) return;
    truth.scale.resize(std::size_t(rows * layout.groups));
    for (int r = 0; r < rows; ++r) {
      for (int g = 0; g < layout.groups; ++g) {
        constexpr float edges[4] = {0.0f, 0x1p-24f, 0x1p-14f, 65504.0f};
        const bool edge = values == extreme && (r / 6 + g) % 2 == 1;
        const float s = edge ? edges[dice.integer(0, 3)] : float(0.01 * (1 + dice.uniform(0, 1)));
        float& kept = truth.scale[std::size_t(r * layout.groups + g)];
        const std::size_t at = std::size_t((r / 16 * layout.groups + g) * 16 + r % 16);
        if (truth.group) {
          reinterpret_cast<klens::half*>(scales.data())[at] = klens::to_half(s);
          kept = klens::to_float(klens::to_half(s));
        } else kept = reinterpret_cast<float*>(scales.data())[at] = s;
      }
    }
  }

  std::uint32_t random_code(Random& dice) const {
    const auto grid = precision.scheme.grid;
    if (klens::is_float_grid(grid)) return klens::encode_float(grid, float(dice.normal()));
    return std::uint32_t(dice.integer(0, (1 << precision.weight_bits) - 1));
  }

  /// Integers and nf4: code 0, 1 or the highest; floats: -big, -1, big.
  std::uint32_t extreme_code(Random& dice, int r, int k) const {
    const auto grid = precision.scheme.grid;
    const int pattern = r % 6;
    const bool high = pattern == 2 || (pattern == 3 && k % 2) || (pattern == 5 && k < cols / 2);
    const bool middle = pattern == 1;
    if (pattern == 4) return random_code(dice);
    if (!klens::is_float_grid(grid)) return high ? (1u << precision.weight_bits) - 1u : middle;
    const float big = grid == klens::Grid::f16 ? 65504.0f : 0x1p100f;  // times 30 000 x 2049 stays below 2^127
    return klens::encode_float(grid, high ? big : middle ? -1.0f : -big);
  }

  /// All highest, all lowest, alternating, zeros, one-hot, halves of both signs (their sum 0), random, and halves that
  /// nearly cancel: the sum of large partial sums is small, so that every low bit shows in the float result.
  int extreme_input(Random& dice, int t, int k, int top) const {
    const int sign = k < cols / 2 ? 1 : -1;
    switch (t % 8) {
      case 0: return top;
      case 1: return -top;
      case 2: return k % 2 ? -top : top;
      case 3: return 0;
      case 4: return k == (t * 37 + cols / 2) % cols ? top : 0;
      case 5: return sign * top;
      case 6: return dice.integer(-top, top);
      default: return sign * (top - dice.integer(0, 3));
    }
  }

  void make_rows(Random& dice, Values values) {
    const std::size_t count = std::size_t(tokens * stride);
    f32 = klens::Buffer<float>(count), q8 = klens::Buffer<std::int8_t>(count), q16 = klens::Buffer<std::int16_t>(count);
    sums = klens::Buffer<std::int32_t>(count / 32), scale = klens::Buffer<float>(std::size_t(tokens));
    const bool quantized = precision.activation != klens::Activation::f32;
    const int qmax = precision.activation == klens::Activation::a16 ? 32767 : 127;
    for (int t = 0; t < tokens; ++t) {
      oracle::Row row{std::vector<float>(std::size_t(cols)), quantized, quantized ? float(0.001 * (t + 1)) : 0.0f};
      if (quantized && values == extreme && t % 8 == 3) row.scale = 0;
      if (quantized && values == one_hot) row.scale = 1;
      for (int k = 0; k < cols; ++k) {
        float& x = row.x[std::size_t(k)];
        if (values == one_hot) x = k == t % cols;
        else if (values == extreme) x = float(extreme_input(dice, t, k, quantized ? qmax : 30000));
        else x = quantized ? float(dice.integer(-qmax, qmax)) : float(dice.normal());
        put(t, k, x, quantized, qmax);
      }
      scale[std::size_t(t)] = row.scale;
      x.push_back(row);
    }
  }

  void put(int t, int k, float value, bool quantized, int qmax) {
    const std::int64_t at = t * stride + k;
    f32[std::size_t(at)] = value;
    if (!quantized) return;
    constexpr int place[4] = {0, 2, 1, 3};
    if (qmax == 127) q8[std::size_t(at)] = std::int8_t(value);
    q16[std::size_t(at / 4 * 4 + place[at % 4])] = std::int16_t(value);
    sums[std::size_t(at / 32)] += std::int32_t(value);
  }

  klens::LinearArgs args(float* y, void* scratch) const {
    klens::LinearArgs a;
    a.w = {lines.data(), truth.scale.empty() ? nullptr : scales.data(), rows, cols, precision};
    a.x.f32 = f32.data();
    if (precision.activation != klens::Activation::f32) {
      a.x.q8 = q8.data(), a.x.q16 = q16.data(), a.x.sums = sums.data(), a.x.scale = scale.data();
    }
    a.x.stride = stride;
    a.tokens = tokens;
    a.bias = with_bias ? bias.data() : nullptr;
    a.residual = with_residual ? residual.data() : nullptr;
    a.y = y, a.y_stride = y_stride;
    a.begin = 0, a.end = int(klens::div_up(rows, 16));
    a.scratch = scratch;
    return a;
  }

  oracle::Answer answer(int t, int n) const {
    const float r = residual[std::size_t(t * y_stride + n)];
    return oracle::linear(truth, x[std::size_t(t)], n, with_bias ? &bias[std::size_t(n)] : nullptr, with_residual ? &r
        : nullptr);
  }
};

/// All ones: what a kernel has not written itself is NaN, or -1.
inline void* scratch() {
  static Bytes bytes(static_cast<std::size_t>(klens::linear_scratch_bytes));
  std::memset(bytes.data(), 0xff, bytes.size());
  return bytes.data();
}

/// The same call for tokens [first, first + count) alone, into rows of y of its own.
inline klens::LinearArgs tokens_of(const LinearCase& c, klens::LinearArgs a, int first, int count) {
  a.tokens = count;
  a.x.f32 += first * c.stride;
  if (a.x.scale) a.x.q8 += first * c.stride, a.x.q16 += first * c.stride, a.x.sums += first * c.stride / 32;
  if (a.x.scale) a.x.scale += first;
  if (a.residual) a.residual += first * c.y_stride;
  return a;
}

/// The whole product by one call of a table's kernel.
inline Guarded run(const LinearCase& c, const klens::KernelTable& table) {
  Guarded y(c.tokens * c.y_stride);
  const klens::FlushDenormals flush;
  klens::linear_of(table, c.precision)(c.args(y.data(), scratch()));
  return y;
}

/// Whether tokens [first, first + count) in one call give the bits they have in `whole`, and nothing beside; a few tokens
/// without scratch and with it, by gemv and, where it is faster, by gemm.
inline bool part_is_equal(const LinearCase& c, const klens::KernelTable& table, const Guarded& whole, int first,
                          int count) {
  const klens::FlushDenormals flush;
  for (const bool room : {false, true}) {
    if (!room && count > klens::gemv_tokens) continue;
    Guarded y(count * c.y_stride);
    klens::linear_of(table, c.precision)(tokens_of(c, c.args(y.data(), room ? scratch() : nullptr), first, count));
    if (!y.margins_intact() ||
        std::memcmp(y.data(), whole.data() + first * c.y_stride, std::size_t(y.size()) * sizeof(float)) != 0)
      return false;
  }
  return true;
}

/// Values that differ from the oracle's expectation, and values outside the float64 bound.
struct LinearJudgement { int wrong = 0, outside = 0, dirty = 0; };

inline LinearJudgement judge(const LinearCase& c, const Guarded& y) {
  LinearJudgement j;
  const double steps = c.truth.bound_in_eps();
  for (int t = 0; t < c.tokens; ++t) {
    for (int n = 0; n < c.y_stride; ++n) {
      const float got = y[t * c.y_stride + n];
      if (n >= klens::round_up(c.rows, 16)) j.dirty += got != Guarded::canary;
      else if (n >= c.rows) j.dirty += got != 0.0f;
      else {
        const oracle::Answer a = c.answer(t, n);
        j.wrong += got != a.expected;
        j.outside += !(std::abs(double(got) - a.truth) <= steps * eps * a.mass);
      }
    }
  }
  j.dirty += !y.margins_intact();
  return j;
}

}  // namespace fixture
