// A linear to test: random codes (extremes among them) packed through format/codec.hpp, rows in every form, and the
// oracle's view of the same numbers.
#pragma once

#include "fixture.hpp"
#include "oracle/linear.hpp"

#include <klens/core/denormals.hpp>
#include <klens/format/codec.hpp>
#include <klens/format/name.hpp>

#include <string>

namespace fixture {

/// Bytes at a 64-byte boundary.
using Bytes = klens::Buffer<unsigned char>;

struct LinearCase {
  klens::Precision precision;
  int rows, cols, tokens;
  std::int64_t stride, y_stride;
  oracle::Linear truth;
  std::vector<oracle::Row> x;
  Bytes lines, scales;
  klens::Buffer<float> f32, scale, bias, residual;
  klens::Buffer<std::int8_t> q8;
  klens::Buffer<std::int16_t> q16;
  klens::Buffer<std::int32_t> sums;
  bool with_bias = false, with_residual = false;

  enum Values { random, extreme };

  LinearCase(const std::string& format, int n, int k, int t, unsigned seed, Values values = random)
      : precision(klens::parse_format(format).value()), rows(n), cols(k), tokens(t) {
    Random dice(seed);
    stride = klens::round_up(cols, klens::row_unit), y_stride = klens::round_up(rows, klens::lanes) + 16;
    make_weights(dice, values);
    make_rows(dice, values);
    bias = klens::Buffer<float>(std::size_t(klens::round_up(rows, 16)));
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
    const int limit = truth.integers ? 1 << (bits - 1) : 0;   // of the codes of integer formats
    const int low = -limit, high = limit - 1;
    for (std::int64_t r = 0; r < layout.panels * 16; ++r) {
      unsigned char* panel = lines.data() + r / 16 * layout.panel_bytes;
      for (std::int64_t k = 0; k < layout.cols_padded; ++k) {
        std::uint32_t code = klens::zero_code(bits, grid);
        if (r < rows && k < cols) {
          const std::size_t at = std::size_t(r * cols + k);
          if (truth.integers) {
            truth.q[at] = values == extreme ? (r % 3 == 0 ? low : high) : dice.integer(low, high);
            code = std::uint32_t(truth.q[at] - low);
          } else if (grid == klens::Grid::nf4) {
            code = values == extreme ? (r % 2) * 15u : std::uint32_t(dice.integer(0, 15));
            truth.w[at] = klens::nf4_levels[code];
          } else {
            code = klens::encode_float(grid, float(dice.normal()));
            truth.w[at] = klens::code_value(bits, grid, code);
          }
        }
        klens::store_code(panel, bits, grid, int(r % 16), k, code);
      }
    }
    if (klens::is_float_grid(grid)) return;
    truth.scale.resize(std::size_t(rows * layout.groups));
    for (int r = 0; r < rows; ++r) {
      for (int g = 0; g < layout.groups; ++g) {
        const float s = float(0.01 * (1 + dice.uniform(0, 1)));
        float& kept = truth.scale[std::size_t(r * layout.groups + g)];
        const std::size_t at = std::size_t((r / 16 * layout.groups + g) * 16 + r % 16);
        if (truth.group) {
          reinterpret_cast<klens::half*>(scales.data())[at] = klens::to_half(s);
          kept = klens::to_float(klens::to_half(s));
        } else kept = reinterpret_cast<float*>(scales.data())[at] = s;
      }
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
      for (int k = 0; k < cols; ++k) {
        const int q = values == extreme ? (t % 2 ? -qmax : qmax) : dice.integer(-qmax, qmax);
        row.x[std::size_t(k)] = quantized ? float(q) : float(dice.normal());
        put(t, k, row.x[std::size_t(k)], quantized, qmax);
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

inline void* scratch() {
  static Bytes bytes(static_cast<std::size_t>(klens::linear_scratch_bytes));
  return bytes.data();
}

/// The whole product by one call of a table's kernel.
inline Guarded run(const LinearCase& c, const klens::KernelTable& table) {
  Guarded y(c.tokens * c.y_stride);
  const klens::FlushDenormals flush;
  klens::linear_of(table, c.precision)(c.args(y.data(), scratch()));
  return y;
}

/// Values that differ from the oracle's expectation, and values outside the float64 bound.
struct LinearJudgement { int wrong = 0, outside = 0, dirty = 0; };

inline LinearJudgement judge(const LinearCase& c, const Guarded& y) {
  LinearJudgement j;
  const double steps = c.truth.integer_dot ? c.truth.groups() + c.cols / 512 + 6 : c.cols + c.truth.groups() + 6;
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
