// model.klens: layout, round trip, and refusing.
#include "io/fuzz.hpp"

#include <klens/core/aligned.hpp>
#include <klens/io/packed.hpp>

using namespace klens;

namespace {

/// Planes with recognisable bytes; the formats are not decoded here.
struct Model {
  std::vector<PackedItem> items;
  std::vector<Buffer<std::byte>> planes;
  PackedInfo info;

  std::byte* plane(std::int64_t bytes) {
    planes.emplace_back(std::size_t(bytes));
    for (std::byte& b : planes.back().span()) b = std::byte(next_ = next_ * 5 + 13);
    return planes.back().data();
  }
  void matrix(const std::string& name, const char* format, int rows, int cols) {
    const Precision p = *parse_format(format);
    const PackedLayout l = layout_of(p, rows, cols);
    const std::byte* lines = plane(l.line_plane_bytes);
    const std::byte* scales = l.scale_plane_bytes ? plane(l.scale_plane_bytes) : nullptr;
    items.push_back({.name = name, .matrix = {reinterpret_cast<const unsigned char*>(lines), scales, rows, cols, p}});
  }
  void tensor(const std::string& name, DType type, std::vector<std::int64_t> shape) {
    const std::int64_t bytes = *detail::element_count(shape) * size_of(type);
    items.push_back({.name = name, .dtype = type, .shape = shape, .data = {plane(bytes), std::size_t(bytes)}});
  }

 private:
  unsigned char next_ = 1;
};

Model sample() {
  Model m;
  m.info = {"{\"model_type\": \"hymba\"}", "tokenizer \xc3\xa4 \"text\"", "", "made by a test",
            0xfedcba9876543210u,           {{"layers.0.scan", "s8"}},
            "{\"chat_template\": \"\xc3\xa4\"}", "{\"top_k\": 5}"};
  m.matrix("embed", "w4g32", 80, 44);
  m.tensor("norm", DType::f16, {12});
  m.matrix("a", "w8a8", 17, 12);
  m.matrix("b", "f16", 1, 7);
  m.matrix("c", "w3g64a16", 48, 100);
  m.tensor("A_log", DType::f32, {3, 5});
  m.matrix("d", "nf4g64", 16, 48);
  m.matrix("e", "w5", 33, 40);
  m.tensor("none", DType::f16, {0});
  m.matrix("f", "f32", 3, 3);
  m.matrix("g", "bf16", 18, 5);
  return m;
}

/// Replaces the header text and signs the file again, so that what is inside is judged and not the checksum.
std::string with_header(const std::string& file, std::string_view header, std::string_view payload) {
  detail::PackedPreamble p;
  std::memcpy(&p, file.data(), 64);
  p.header_bytes = header.size();
  p.payload_offset = std::uint64_t(round_up(std::int64_t(64 + header.size()), 4096));
  p.payload_bytes = payload.size();
  p.header_sum = checksum(header);
  p.payload_sum = checksum(payload);
  p.own_sum = detail::preamble_sum(p);
  std::string out(reinterpret_cast<const char*>(&p), 64);
  out += header;
  out.resize(p.payload_offset);
  return out += payload;
}

struct Parts {
  std::string header, payload;
};
Parts split(const std::string& file) {
  detail::PackedPreamble p;
  std::memcpy(&p, file.data(), 64);
  return {file.substr(64, p.header_bytes), file.substr(p.payload_offset)};
}

/// Reads every byte that the opened file hands out.
void touch(const PackedFile& f) {
  unsigned sum = 0;
  for (const std::string& name : f.names()) {
    if (const PackedMatrix* m = f.matrix(name)) {
      const PackedLayout l = layout_of(m->precision, m->rows, m->cols);
      for (std::int64_t i = 0; i < l.line_plane_bytes; ++i) sum += m->lines[i];
      for (std::int64_t i = 0; i < l.scale_plane_bytes; ++i) sum += static_cast<const unsigned char*>(m->scales)[i];
    } else {
      for (std::byte b : f.tensor(name)->data) sum += std::to_integer<unsigned>(b);
    }
  }
  CHECK(sum + 1 > 0);
}

}  // namespace

TEST_CASE("packed: round trip, alignment, exact bytes") {
  test::TempFolder dir;
  const std::string path = dir / "m.klens";
  const Model m = sample();
  REQUIRE(write_packed(path, m.info, m.items));
  CHECK(is_packed_file(path));
  auto opened = PackedFile::open(path);
  REQUIRE_MESSAGE(opened, opened.error().message());
  const PackedFile f = *std::move(opened);
  CHECK(f.info().config_json == m.info.config_json);
  CHECK(f.info().tokenizer_json == m.info.tokenizer_json);
  CHECK(f.info().provenance == "made by a test");
  CHECK(f.info().shape_hash == 0xfedcba9876543210u);
  CHECK(f.info().sites == m.info.sites);
  CHECK(f.info().chat_json == m.info.chat_json);
  CHECK(f.info().generation_json == m.info.generation_json);
  std::int64_t bytes = 0;
  REQUIRE(f.names().size() == m.items.size());
  for (std::size_t i = 0; i < m.items.size(); ++i) {
    const PackedItem& item = m.items[i];
    CAPTURE(item.name);
    CHECK(f.names()[i] == item.name);
    if (item.matrix.lines) {
      const PackedMatrix* got = f.matrix(item.name);
      REQUIRE(got);
      CHECK(f.tensor(item.name) == nullptr);
      CHECK(got->precision == item.matrix.precision);
      CHECK(got->rows == item.matrix.rows);
      CHECK(got->cols == item.matrix.cols);
      const PackedLayout l = layout_of(got->precision, got->rows, got->cols);
      CHECK(std::memcmp(got->lines, item.matrix.lines, std::size_t(l.line_plane_bytes)) == 0);
      CHECK(reinterpret_cast<std::uintptr_t>(got->lines) % 64 == 0);
      CHECK((got->scales == nullptr) == (l.scale_plane_bytes == 0));
      if (got->scales) {
        CHECK(std::memcmp(got->scales, item.matrix.scales, std::size_t(l.scale_plane_bytes)) == 0);
        CHECK(reinterpret_cast<std::uintptr_t>(got->scales) %
                  (got->precision.scheme.scale == Granularity::group ? 32 : 64) ==
              0);
      }
      bytes += packed_bytes(got->precision, got->rows, got->cols);
    } else {
      const TensorView* got = f.tensor(item.name);
      REQUIRE(got);
      CHECK(got->dtype == item.dtype);
      CHECK(got->shape == item.shape);
      CHECK(std::ranges::equal(got->data, item.data));
      CHECK(reinterpret_cast<std::uintptr_t>(got->data.data()) % 64 == 0);
      bytes += packed_tensor_bytes(std::int64_t(item.data.size()));
    }
  }
  CHECK(f.payload_bytes() == bytes);
  CHECK(packed_payload_bytes(m.items) == bytes);
  CHECK(split(test::get(path)).payload.size() == std::size_t(bytes));
  CHECK(f.matrix("none") == nullptr);
  CHECK(f.tensor("nothing") == nullptr);
  const std::string first = test::get(path);
  REQUIRE(write_packed(path, m.info, m.items));
  CHECK(test::get(path) == first);
  REQUIRE(write_packed(dir / "empty.klens", {}, {}));
  CHECK(PackedFile::open(dir / "empty.klens")->payload_bytes() == 0);
}

TEST_CASE("packed: texts for a chat may be absent, and other keys mean nothing") {
  test::TempFolder dir;
  const std::string path = dir / "m.klens";
  const Model m = sample();
  REQUIRE(write_packed(path, m.info, m.items));
  const Parts good = split(test::get(path));
  const auto with = [&](const auto& change) {
    nlohmann::ordered_json header = nlohmann::ordered_json::parse(good.header);
    change(header);
    const std::string text = header.dump();
    test::put(path, with_header(test::get(path), text, good.payload));
    return PackedFile::open(path);
  };
  const auto before = with([](auto& h) { h.erase("chat"), h.erase("generation"); });
  REQUIRE(before);
  CHECK((before->info().chat_json.empty() && before->info().generation_json.empty()));
  CHECK(before->info().tokenizer_json == m.info.tokenizer_json);
  CHECK(with([](auto& h) { h["of a later version"] = {1, 2}; }));
  const auto wrong = with([](auto& h) { h["chat"] = 3; });
  REQUIRE_FALSE(wrong);
  test::check_clear(wrong.error().message(), path + ": header: 'chat'");
  // Without them the header is as it always was.
  Model none = sample();
  none.info.chat_json.clear(), none.info.generation_json.clear();
  REQUIRE(write_packed(path, none.info, none.items));
  CHECK(split(test::get(path)).header.find("\"chat\"") == std::string::npos);
}

TEST_CASE("packed: what cannot be written is refused") {
  test::TempFolder dir;
  const std::string path = dir / "m.klens";
  Model m = sample();
  m.items.push_back(m.items[0]);
  CHECK(write_packed(path, m.info, m.items).error().message() ==
        path + ": entry 'embed': expected every name once, found it twice");
  m = sample();
  m.items[1].shape = {13};
  CHECK(write_packed(path, m.info, m.items).error().message() ==
        path + ": entry 'norm': expected F16 [13], found 24 bytes");
  m = sample();
  m.items[0].matrix.scales = nullptr;
  CHECK_FALSE(write_packed(path, m.info, m.items));
  m = sample();
  m.items[0].matrix.precision.weight_bits = 7;
  CHECK_FALSE(write_packed(path, m.info, m.items));
  m = sample();
  m.info.sites["x"] = "f33";
  CHECK(write_packed(path, m.info, m.items).error().message() ==
        path + ": site 'x': expected f32, f16, s16, s8 or s4, found 'f33'");
  m = sample();
  m.info.provenance = "\xff";
  CHECK_FALSE(write_packed(path, m.info, m.items));
  CHECK_FALSE(std::filesystem::exists(path));
}

TEST_CASE("packed: every single flipped bit and every cut is noticed") {
  test::TempFolder dir;
  const std::string path = dir / "m.klens";
  const Model m = sample();
  REQUIRE(write_packed(path, m.info, m.items));
  const std::string good = test::get(path);
  const Parts parts = split(good);
  test::Mutator random(5);
  const int count = test::fuzz_count(500);
  for (int i = 0; i < count; ++i) {
    std::string bad = good;
    std::size_t at =
        i % 2 ? random.below(64 + parts.header.size()) : good.size() - 1 - random.below(parts.payload.size());
    bad[at] = char(bad[at] ^ (1 << random.below(8)));
    test::put(path, bad);
    const auto f = PackedFile::open(path);
    CAPTURE(at);
    REQUIRE_FALSE(f);
    test::check_clear(f.error().message(), path);
    bad = good.substr(0, random.below(good.size()));
    test::put(path, bad);
    const auto cut = PackedFile::open(path);
    REQUIRE_FALSE(cut);
    test::check_clear(cut.error().message(), path);
  }
  test::put(path, good + "x");
  CHECK_FALSE(PackedFile::open(path));
  std::string damaged = good;
  damaged.back() = char(damaged.back() ^ 1);
  test::put(path, damaged);
  CHECK(PackedFile::open(path).error().message().find("payload: expected checksum ") != std::string::npos);
  CHECK(PackedFile::open(path, false));
}

TEST_CASE("packed: a hostile header with a proper checksum") {
  test::TempFolder dir;
  const std::string path = dir / "m.klens";
  const Model m = sample();
  REQUIRE(write_packed(path, m.info, m.items));
  const std::string good = test::get(path);
  const Parts parts = split(good);
  const auto with = [&](std::string_view from, std::string_view to) {
    std::string header = parts.header;
    REQUIRE(header.find(from) != std::string::npos);
    header.replace(header.find(from), from.size(), to);
    test::put(path, with_header(good, header, parts.payload));
    const auto f = PackedFile::open(path);
    return f ? std::string() : f.error().message().substr(path.size());
  };
  CHECK(with("w4g32", "w4g32") == "");
  CHECK(with("w4g32", "w7") == ": header: tensors[0] 'embed': expected a format name, found 'w7'");
  CHECK(with("\"rows\":80", "\"rows\":0") ==
        ": header: tensors[0] 'embed': 'rows': expected an integer in 1..67108864, found 0");
  CHECK(with("\"rows\":80", "\"rows\":96").starts_with(": header: tensors: expected "));
  CHECK(with("\"rows\":80,\"cols\":44", "\"rows\":67108864,\"cols\":67108864")
            .starts_with(": header: tensors: expected "));
  CHECK(with("\"rows\":80", "\"rows\":79") == "");  // the same panels
  CHECK(with("\"lines\":0", "\"lines\":64") == ": header: tensor 'embed': 'lines': expected offset 0, found 64");
  CHECK(with("\"name\":\"a\"", "\"name\":\"b\"") ==
        ": header: tensors[3] 'b': expected every name once, found it twice");
  CHECK(with("\"shape\":[12]", "\"shape\":[13]") == "");  // within the padding
  CHECK(with("\"shape\":[12]", "\"shape\":[1099511627776,1099511627776]").find("a shape that fits") !=
        std::string::npos);
  CHECK(with("\"dtype\":\"F16\"", "\"dtype\":\"F8\"") ==
        ": header: tensors[1] 'norm': expected a known element type, found 'F8'");
  CHECK(with("fedcba98", "fedcbaZ8").starts_with(": header: 'shape_hash': expected 16 hexadecimal digits"));
  CHECK(with("fedcba98", "") == ": header: 'shape_hash': expected 16 hexadecimal digits, found '76543210'");
  CHECK(with("\"s8\"", "\"w8\"") == ": header: site 'layers.0.scan': expected f32, f16, s16, s8 or s4, found a string 'w8'");
  CHECK(with("\"plan\"", "\"plane\"") == ": header: 'plan': expected a string, found nothing");
  std::string newer = good;
  newer[8] = 9;
  test::put(path, newer);
  CHECK(PackedFile::open(path).error().message() == path + ": expected version 1, found 9");
  test::put(path, "GGUF");
  CHECK(PackedFile::open(path).error().message() ==
        path + ": expected a packed klens file, found other bytes at its start");
  CHECK_FALSE(is_packed_file(path));

  test::Mutator mutate(31);
  const int count = test::fuzz_count(500);
  int refused = 0;
  test::reset_largest_allocation();
  for (int i = 0; i < count; ++i) {
    test::put(path, with_header(good, mutate(parts.header, parts.header.size()), parts.payload));
    const auto f = PackedFile::open(path);
    if (f) {
      touch(*f);
      continue;
    }
    ++refused;
    test::check_clear(f.error().message(), path);
  }
  CHECK(refused > count / 2);
  CHECK(test::largest_allocation() < (1 << 20));
}
