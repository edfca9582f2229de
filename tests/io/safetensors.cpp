// safetensors: reading, writing, and refusing.
#include "io/fuzz.hpp"

#include <klens/io/safetensors.hpp>
#include <klens/io/safetensors_writer.hpp>

#include <array>
#include <cmath>

using namespace klens;

namespace {

/// A file with any header text, and `payload` zero bytes.
std::string file_of(std::string header, std::size_t payload) {
  std::string bytes(8, '\0');
  const std::uint64_t n = header.size();
  std::memcpy(bytes.data(), &n, 8);
  return bytes + header + std::string(payload, '\0');
}

std::string fault(const std::string& path) {
  const auto s = Safetensors::open(path);
  return s ? "" : s.error().message().substr(path.size());
}

/// Uses everything that an opened file offers.
void touch(const Safetensors& s) {
  for (std::string_view name : s.names()) {
    const TensorView& t = *s.find(name);
    CHECK(t.count() >= 0);
    if (t.dtype != DType::other) CHECK(std::size_t(t.count()) * std::size_t(size_of(t.dtype)) == t.data.size());
    unsigned sum = 0;
    for (std::byte b : t.data) sum += std::to_integer<unsigned>(b);
    CHECK(sum + 1 > 0);
    if (is_float(t.dtype)) {
      std::vector<float> out(std::size_t(t.count()));
      CHECK(read_f32(t, out));
    } else if (is_integer(t.dtype)) {
      CHECK(read_i64(t));
    } else {
      CHECK_FALSE(read_i64(t));
    }
  }
}

}  // namespace

TEST_CASE("safetensors: hymba-tiny, one known value of each kind") {
  auto s = Safetensors::open(std::string(KLENS_EXAMPLES) + "/models/hymba-tiny");
  REQUIRE(s);
  CHECK(s->names().size() == 155);
  const auto t = s->require("model.layers.0.mamba.conv1d.weight", {384, 1, 4});
  REQUIRE(t);
  CHECK((*t)->dtype == DType::f16);
  CHECK(s->require("model.norm", {1}).error().message() ==
        s->path() + ": expected tensor 'model.norm' [1], found no such tensor");
  CHECK(s->require("model.layers.0.mamba.A_log.0", {384, 8})
            .error()
            .message()
            .ends_with("tensor 'model.layers.0.mamba.A_log.0': expected shape [384, 8], found [384, 16]"));
  std::vector<float> short_row(3);
  CHECK_FALSE(read_f32(**t, short_row));
  const TensorView before = **t;
  const Safetensors moved = *std::move(s);
  CHECK(moved.find(before.name)->data.data() == before.data.data());
}

TEST_CASE("safetensors: golden file") {
  const auto s = Safetensors::open(std::string(KLENS_TEST_DATA) + "/hymba-tiny/golden.safetensors");
  REQUIRE(s);
  const auto ids = read_i64(**s->require("input_ids", {1, 200}));
  REQUIRE(ids);
  CHECK(ids->size() == 200);
  for (std::int64_t id : *ids) CHECK((id >= 0 && id < 4096));
  std::vector<float> logits(200 * 4096);
  REQUIRE(read_f32(**s->require("logits", {1, 200, 4096}), logits));
  for (float x : logits) CHECK(std::isfinite(x));
  CHECK_FALSE(read_i64(*s->find("logits")));
  CHECK(read_f32(*s->find("input_ids"), std::span(logits).first(200))
            .error()
            .message()
            .ends_with("tensor 'input_ids': expected F32, F16, BF16 or F64, found I64"));
}

TEST_CASE("safetensors: written files read back, all types, pieces of any size") {
  test::TempFolder dir;
  const std::string path = dir / "t.safetensors";
  const std::array<double, 3> f64 = {1.0, 1.0 + 0x1p-30, -0.1};
  const std::array<float, 4> f32 = {1, -2.5f, 0x1p-149f, 3e38f};
  const std::array<std::uint16_t, 4> f16 = {0x3c00, 0x0001, 0xfbff, 0x8000}, bf16 = {0x3f80, 0x0001, 0xc000, 0x7f7f};
  const std::array<std::int64_t, 2> i64 = {-1, 1ll << 40};
  const std::array<std::int32_t, 2> i32 = {-7, 1 << 30};
  const std::array<std::int16_t, 1> i16 = {-300};
  const std::array<std::int8_t, 3> i8 = {-128, 0, 127};
  const std::array<std::uint8_t, 2> u8 = {0, 255}, boolean = {0, 1};
  const auto bytes = [](const auto& a) { return std::as_bytes(std::span(a)); };
  const std::vector<TensorData> all = {
      {"f64", DType::f64, {3}, bytes(f64)},    {"f32", DType::f32, {2, 2}, bytes(f32)},
      {"f16", DType::f16, {4, 1}, bytes(f16)}, {"bf16", DType::bf16, {4}, bytes(bf16)},
      {"i64", DType::i64, {1, 2}, bytes(i64)}, {"i32", DType::i32, {2}, bytes(i32)},
      {"i16", DType::i16, {}, bytes(i16)},     {"i8", DType::i8, {3}, bytes(i8)},
      {"u8", DType::u8, {2}, bytes(u8)},       {"bool", DType::boolean, {2}, bytes(boolean)},
      {"none", DType::f32, {0, 5}, {}},        {"\"odd\\ n\xc3\xa4me\n", DType::u8, {2}, bytes(u8)}};
  REQUIRE(write_safetensors(path, all, {{"made_with", "klens"}}));
  const std::string file = test::get(path);
  std::uint64_t header = 0;
  std::memcpy(&header, file.data(), 8);
  CHECK(header % 8 == 0);
  CHECK((*parse_json(std::string_view(file).substr(8, header), "h"))["__metadata__"]["made_with"] == "klens");
  const auto s = Safetensors::open(path);
  REQUIRE_MESSAGE(s, s.error().message());
  CHECK(s->names().size() == all.size());
  for (const TensorData& t : all) {
    const auto r = s->require(t.name, t.shape);
    REQUIRE(r);
    CHECK((*r)->dtype == t.dtype);
    CHECK(std::ranges::equal((*r)->data, t.data));
  }
  std::vector<float> out(4);
  REQUIRE(read_f32(*s->find("f16"), out));
  CHECK(out == std::vector<float>{1, 0x1p-24f, -65504, -0.0f});
  CHECK(std::signbit(out[3]));
  REQUIRE(read_f32(*s->find("bf16"), out));
  CHECK(out == std::vector<float>{1, 0x1p-133f, -2, 0x1.fep127f});
  out.resize(3);
  REQUIRE(read_f32(*s->find("f64"), out));
  CHECK(out == std::vector<float>{1, 1, -0.1f});
  CHECK(*read_i64(*s->find("i64")) == std::vector<std::int64_t>{-1, 1ll << 40});
  CHECK(*read_i64(*s->find("i16")) == std::vector<std::int64_t>{-300});
  CHECK(*read_i64(*s->find("u8")) == std::vector<std::int64_t>{0, 255});

  auto w = SafetensorsWriter::create(dir / "pieces",
                                     {{"a", DType::f32, {2, 3}}, {"empty", DType::f32, {0}}, {"b", DType::u8, {5}}});
  REQUIRE(w);
  std::string payload(29, '\0');
  for (std::size_t i = 0; i < payload.size(); ++i) payload[i] = char(i);
  for (std::size_t at = 0, n = 1; at < payload.size(); at += n, n = n % 7 + 1)
    REQUIRE(w->append(std::as_bytes(std::span(payload)).subspan(at, std::min(n, payload.size() - at))));
  const std::byte extra{};
  CHECK_FALSE(w->append(std::span(&extra, 1)));
  REQUIRE(w->finish());
  CHECK(test::get(dir / "pieces").ends_with(payload));
  auto early = SafetensorsWriter::create(dir / "early", {{"a", DType::f32, {2}}});
  REQUIRE(early);
  CHECK(early->finish().error().message() == (dir / "early") + ": tensor 'a': expected 8 bytes, found 0");
  CHECK_FALSE(SafetensorsWriter::create(dir / "x", {{"a", DType::f32, {2}}, {"a", DType::f32, {2}}}));
  CHECK_FALSE(SafetensorsWriter::create(dir / "x", {{"a", DType::f32, {1ll << 40, 1ll << 40}}}));
  CHECK_FALSE(write_safetensors(dir / "x", std::vector<TensorData>{{"a", DType::f32, {3}, bytes(f32)}}));
  CHECK_FALSE(std::filesystem::exists(dir / "x"));
}

TEST_CASE("safetensors: what does not fit is refused, and the message says which") {
  test::TempFolder dir;
  const std::string path = dir / "t.safetensors";
  const auto with = [&](const std::string& header, std::size_t payload) {
    test::put(path, file_of(header, payload));
    return fault(path);
  };
  test::put(path, "1234567");
  CHECK(fault(path) == ": expected a safetensors file of at least 8 bytes, found 7");
  test::put(path, std::string(8, '\xff') + "{}");
  CHECK(fault(path) == ": header length: expected at most 2, found 18446744073709551615");
  CHECK(with("{}", 0) == "");
  CHECK(with(" {}", 0) == ": header: expected a JSON object, found ' {}'");
  CHECK(with("{}", 3) == ": expected 0 bytes of tensor data, found 3");
  CHECK(with(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8) == "");
  CHECK(with(R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})", 8) ==
        ": tensor 'a': expected 12 bytes for F32 [3], found 8");
  CHECK(with(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 7) ==
        ": tensor 'a': data_offsets: expected begin <= end <= 7, found [0, 8]");
  CHECK(with(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})", 8) ==
        ": tensor 'a': data_offsets: expected begin <= end <= 8, found [8, 0]");
  CHECK(with(R"({"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", 8).find("-2") != std::string::npos);
  CHECK(with(R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}})", 8) ==
        ": tensor 'a': expected a shape that fits in memory, found [4294967296, 4294967296]");
  CHECK(with(R"({"a":{"dtype":"F32","shape":[4611686018427387906],"data_offsets":[0,8]}})", 8).find("tensor 'a'") !=
        std::string::npos);
  CHECK(
      with(
          R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}})",
          6) == ": tensor 'b': expected data at byte 4 (no overlap, no hole), found 2");
  CHECK(
      with(
          R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[2],"data_offsets":[6,8]}})",
          8) == ": tensor 'b': expected data at byte 4 (no overlap, no hole), found 6");
  CHECK(
      with(
          R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})",
          1) == ": header: expected every key once, found key 'a' twice");
  CHECK(with(R"({"a":{"shape":[1],"data_offsets":[0,1]}})", 1) ==
        ": tensor 'a': 'dtype': expected a string, found nothing");
  CHECK(with(R"({"a":7})", 1) == ": tensor 'a': 'dtype': expected a string, found nothing");
  CHECK(with(R"({"a":{"dtype":"F8_E4M3","shape":[3],"data_offsets":[0,3]}})", 3) == "");
  const auto s = Safetensors::open(path);
  std::vector<float> out(3);
  CHECK(read_f32(*s->find("a"), out).error().message() ==
        path + ": tensor 'a': expected F32, F16, BF16 or F64, found F8_E4M3");
}

TEST_CASE("safetensors: shards") {
  test::TempFolder dir;
  const std::array<std::uint8_t, 2> u8 = {1, 2};
  const auto shard = [&](const char* file, std::vector<std::string> names) {
    std::vector<TensorData> all;
    for (const auto& n : names) all.push_back({n, DType::u8, {2}, std::as_bytes(std::span(u8))});
    REQUIRE(write_safetensors(dir / file, all));
  };
  shard("one", {"a", "b"});
  shard("two", {"c"});
  const std::string index = dir / "model.safetensors.index.json";
  const auto with = [&](const std::string& map) {
    test::put(index, R"({"metadata": {}, "weight_map": )" + map + "}");
    return fault(dir.path());
  };
  CHECK(fault(dir.path()) == ": expected model.safetensors or model.safetensors.index.json, found neither");
  CHECK(with(R"({"a": "one", "b": "one", "c": "two"})") == "");
  CHECK(Safetensors::open(dir.path())->names().size() == 3);
  const std::string at = "/model.safetensors.index.json: tensor ";
  CHECK(with(R"({"a": "one", "b": "one", "c": "../two"})") ==
        at + "'c': expected a file name without folders, found '../two'");
  CHECK(with(R"({"a": "/etc/passwd"})") == at + "'a': expected a file name without folders, found '/etc/passwd'");
  CHECK(with(R"({"a": ".."})") == at + "'a': expected a file name without folders, found '..'");
  CHECK(with(R"({"a": 5})") == at + "'a': expected a file name, found 5");
  CHECK(with(R"({"a": "one", "b": "one", "d": "two"})") ==
        at + "'d': expected the tensor in two, found no such tensor there");
  CHECK(with(R"({"a": "one", "c": "two"})") ==
        "/one: tensor 'b': expected the index to place it in this file, found no mention");
  CHECK(with(R"({"a": "three"})") == "/three: cannot open: No such file or directory");
  shard("two", {"c", "a"});
  CHECK(with(R"({"a": "one", "b": "one", "c": "two"})") ==
        "/two: tensor 'a': expected the index to place it in this file, found another file");
}

TEST_CASE("safetensors: damaged files end in one clear error") {
  test::TempFolder dir;
  const std::string path = dir / "t.safetensors";
  std::vector<TensorData> all;
  std::vector<std::byte> data(600);
  for (int i = 0; i < 12; ++i)
    all.push_back({"model.layers." + std::to_string(i),
                   DType(i % 10),
                   {i, 3},
                   std::span(data).first(std::size_t(i * 3 * size_of(DType(i % 10))))});
  REQUIRE(write_safetensors(path, all, {{"format", "pt"}}));
  const std::string good = test::get(path);
  std::uint64_t header = 0;
  std::memcpy(&header, good.data(), 8);
  test::Mutator mutate(21);
  const int count = test::fuzz_count(500);
  int refused = 0;
  test::reset_largest_allocation();
  const auto attempt = [&](const std::string& bytes) {
    test::put(path, bytes);
    const auto s = Safetensors::open(path);
    if (s) return touch(*s);
    ++refused;
    test::check_clear(s.error().message(), path);
  };
  for (int i = 0; i < count; ++i) attempt(mutate(good, 8 + header));
  CHECK(refused > count / 2);
  refused = 0;
  int cuts = 0;
  for (std::size_t n = 0; n < good.size(); n += 1 + good.size() / 200, ++cuts) attempt(good.substr(0, n));
  CHECK(refused == cuts);
  CHECK(test::largest_allocation() < (1 << 20));
}
