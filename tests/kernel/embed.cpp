// kernel/embed.hpp against the format oracle: bytes packed by tests/oracle/quantize.hpp, values dequantized there in
// double. Every format, row counts and widths that do not fill panels, units or groups; equality, not a tolerance.
#include <klens/format/name.hpp>

#include "kernel/fixture.hpp"
#include "oracle/quantize.hpp"

namespace {

using fixture::Guarded;

struct Table {
  std::vector<float> weights;
  oracle::Quantized quantized;
  klens::Buffer<unsigned char> bytes;
  klens::PackedMatrix matrix;
};

Table make(const oracle::Format& f, int rows, int cols) {
  Table t;
  fixture::Random random(unsigned(rows * 7 + cols));
  t.weights.resize(std::size_t(rows) * std::size_t(cols));
  for (float& w : t.weights) w = float(0.5 * random.normal());
  for (int k = 0; k < cols; ++k) t.weights[std::size_t(k)] = 0.0f;  // row 0: an all-zero group
  t.quantized = oracle::quantize(f, t.weights, rows, cols);
  const auto packed = oracle::pack(f, t.quantized);
  t.bytes = klens::Buffer<unsigned char>(packed.size());
  std::memcpy(t.bytes.data(), packed.data(), packed.size());
  const auto precision = klens::parse_format(f.name);
  REQUIRE(precision.has_value());
  const klens::PackedLayout layout = klens::layout_of(*precision, rows, cols);
  REQUIRE(std::int64_t(packed.size()) == layout.line_plane_bytes + layout.scale_plane_bytes);
  t.matrix = {t.bytes.data(), layout.scale_plane_bytes ? t.bytes.data() + layout.line_plane_bytes : nullptr, rows,
      cols, *precision};
  return t;
}

}  // namespace

TEST_CASE("embed: every format gives the oracle's dequantized row, bit for bit") {
  for (const oracle::Format& f : oracle::formats())
    for (const auto& extent : {std::pair{1, 1}, {16, 32}, {17, 33}, {40, 100}, {33, 192}}) {
      const int rows = extent.first, cols = extent.second;  // clang 14 captures no structured binding (CAPTURE is a lambda)
      CAPTURE(f.name);
      CAPTURE(rows);
      CAPTURE(cols);
      const Table t = make(f, rows, cols);
      const int tokens = 2 * rows, stride = int(klens::round_up(cols, 32));
      std::vector<std::int32_t> ids;
      for (int i = 0; i < tokens; ++i) ids.push_back((i * 7 + 3) % rows);
      Guarded y(std::int64_t(tokens) * stride), again(y.size());
      klens::EmbedArgs args{t.matrix, ids.data(), y.data(), stride, 1, 0, tokens};
      fixture::active().embed(args);
      int wrong = 0, padding = 0;
      for (int i = 0; i < tokens; ++i)
        for (int k = 0; k < stride; ++k) {
          const float got = y[std::int64_t(i) * stride + k];
          if (k < cols)
            wrong += got != float(t.quantized.value[std::size_t(ids[std::size_t(i)]) * std::size_t(cols) +
                std::size_t(k)]);
          else
            padding += got != (k < klens::round_up(cols, 16) ? 0.0f : Guarded::canary);
        }
      CHECK(wrong == 0);
      CHECK(padding == 0);
      CHECK(y.margins_intact());

      args.y = again.data();
      for (int i = tokens - 1; i >= 0; --i) {
        args.begin = i, args.end = i + 1;
        fixture::active().embed(args);
      }
      CHECK(fixture::same_bits(y, again));
      args.begin = 0, args.end = tokens;
      fixture::reference().embed(args);
      CHECK(fixture::same_bits(y, again));
    }
}

TEST_CASE("embed: the comparison sees one flipped bit of one code") {
  Table t = make({"w3g32", 3, 32, oracle::Format::integer}, 20, 64);
  const std::int32_t id = 11;
  Guarded y(64);
  t.bytes.data()[4 * 11] ^= 1;  // line 0, row 11, input 0, code bit 0
  klens::EmbedArgs args{t.matrix, &id, y.data(), 64, 1, 0, 1};
  fixture::active().embed(args);
  int wrong = 0;
  for (int k = 0; k < 64; ++k) wrong += y[k] != float(t.quantized.value[std::size_t(11 * 64 + k)]);
  CHECK(wrong == 1);
}
