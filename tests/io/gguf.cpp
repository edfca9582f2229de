// GGUF: reading, dequantizing, tokenizers inside, refusing. Oracles: the package gguf (tests/data/gguf/make.py), and
// recorded answers of Hugging Face tokenizers.
#include "io/fuzz.hpp"

#include <klens/io/gguf_checkpoint.hpp>
#include <klens/io/gguf_types.hpp>
#include <klens/io/safetensors.hpp>
#include <klens/io/tokenizer.hpp>

#include <cmath>

using namespace klens;

namespace {

const std::string data = std::string(KLENS_TEST_DATA) + "/gguf";

/// Bytes of a file, put together piece by piece.
struct Writer {
  std::string bytes;
  template <class T>
  Writer& number(T v) {
    bytes.append(reinterpret_cast<const char*>(&v), sizeof v);
    return *this;
  }
  Writer& string(std::string_view s) { return number(std::uint64_t(s.size())).raw(s); }
  Writer& raw(std::string_view s) { return bytes += s, *this; }
  Writer& start(std::uint64_t tensors, std::uint64_t values, std::uint32_t version = 3) {
    return raw("GGUF").number(version).number(tensors).number(values);
  }
  Writer& info(std::string_view name, std::vector<std::uint64_t> sizes, std::uint32_t type, std::uint64_t offset) {
    string(name).number(std::uint32_t(sizes.size()));
    for (const std::uint64_t n : sizes) number(n);
    return number(type).number(offset);
  }
  Writer& pad(std::size_t to, std::size_t payload) {
    bytes.resize((bytes.size() + to - 1) / to * to + payload);
    return *this;
  }
};

std::string fault(const std::string& path, const Writer& w) {
  test::put(path, w.bytes);
  const auto g = GgufFile::open(path);
  return g ? "" : g.error().message().substr(path.size());
}

/// Equal bits, but any NaN is a NaN.
bool same(float a, float b) {
  return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b) || (std::isnan(a) && std::isnan(b));
}

/// Uses everything that an opened file offers.
void touch(const GgufFile& g) {
  for (const auto& [key, value] : g.metadata()) {
    CHECK(value.text().size() > 2);
    for (const bool ok : {bool(g.integer(key, -9, 9)), bool(g.number(key, -1, 1)), bool(g.boolean_or(key, true)),
                          bool(g.string(key)), bool(g.floats(key)), bool(g.integers(key, 3, -9, 9))})
      CHECK((ok || !ok));
    if (const auto all = g.strings(key)) CHECK(all->size() == value.count);
  }
  for (const auto& [name, tensor] : g.tensors()) {
    const auto values = read_gguf(g.path(), tensor);
    if (values)
      CHECK(std::int64_t(values->size()) == *klens::detail::element_count(tensor.shape));
    else
      test::check_clear(values.error().message(), g.path());
  }
}

}  // namespace

TEST_CASE("gguf: metadata of every type") {
  const auto g = GgufFile::open(data + "/types.gguf");
  REQUIRE_MESSAGE(g, g.error().message());
  CHECK(g->version() == 3);
  CHECK(g->alignment() == 32);
  CHECK(*g->string("general.architecture") == "test");
  for (const char* key : {"test.u8", "test.u16", "test.u32", "test.u64"}) CHECK(*g->integer(key, 0, 1000) == 250);
  for (const char* key : {"test.i16", "test.i32", "test.i64"}) CHECK(*g->integer(key, -1000, 0) == -7);
  CHECK(*g->integer("test.i8", -1000, 0) == -128);
  CHECK(*g->number("test.f32", -1, 1) == -0.15625);
  CHECK(*g->number("test.f64", 0, 1) == 1e-300);
  CHECK(*g->boolean_or("test.bool", false));
  CHECK(*g->string("test.string") == "gr\xc3\xbcn");
  CHECK(*g->integers("test.integers", 3, -9, 9) == std::vector<std::int64_t>{3, 0, -2});
  CHECK(*g->integers("test.u8", 2, 0, 255) == std::vector<std::int64_t>{250, 250});
  CHECK(*g->strings("test.strings") == std::vector<std::string_view>{"", "a", "bc"});
  CHECK(*g->floats("test.floats") == std::vector<float>{0.5f, -1.0f});
  CHECK(*g->integer_or("none", 5, 0, 9) == 5);
  const std::string at = g->path() + ": 'test.";
  CHECK(g->integer("test.u8", 0, 9).error().message() == at + "u8': expected an integer in 0..9, found 250");
  CHECK(g->integer("test.f32", 0, 9).error().message() == at + "f32': expected an integer in 0..9, found a f32");
  CHECK(g->integers("test.integers", 4, 0, 9).error().message() ==
        at + "integers': expected 4 integers, found an array of 3 i32");
  CHECK(g->string("test.none").error().message() == at + "none': expected metadata under this key, found none");
}

TEST_CASE("gguf: every block type has the values of the package gguf, to the bit") {
  const auto g = GgufFile::open(data + "/types.gguf");
  const auto expected = Safetensors::open(data + "/types.safetensors");
  REQUIRE((g && expected));
  int compared = 0;
  for (const GgmlBlock& block : ggml_blocks) {
    CAPTURE(block.name);
    const GgufTensor* t = g->tensor(block.name);
    REQUIRE(t != nullptr);
    CHECK(t->shape == std::vector<std::int64_t>{3, 256});
    const auto mine = read_gguf(g->path(), *t);
    REQUIRE(mine);
    std::vector<float> theirs(3 * 256);
    REQUIRE(read_f32(*expected->find(block.name), theirs));
    int unequal = 0, finite = 0;
    for (std::size_t i = 0; i < theirs.size(); ++i)
      unequal += !same((*mine)[i], theirs[i]), finite += std::isfinite(theirs[i]) && theirs[i] != 0;
    CHECK(unequal == 0);
    CHECK(finite > 256);
    // Tripwire: one bit of the first block changes a value.
    GgufTensor damaged = *t;
    std::vector<std::byte> bytes(t->data.begin(), t->data.end());
    bytes[std::size_t(block.bytes) / 2] ^= std::byte{1};
    damaged.data = bytes;
    const auto other = read_gguf(g->path(), damaged);
    for (std::size_t i = 0; i < theirs.size(); ++i) unequal += !same((*other)[i], theirs[i]);
    CHECK(unequal > 0);
    ++compared;
  }
  CHECK(compared == 14);
  CHECK(read_gguf(g->path(), *g->tensor("MXFP4")).error().message() ==
        g->path() +
            ": tensor 'MXFP4': expected a type among F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K "
            "IQ4_NL, found MXFP4 (39)");
}

TEST_CASE("gguf: tokenizers encode and decode as recorded") {
  const std::pair<const char*, const char*> kinds[] = {{"gpt2", "/gpt2_byte_level"},
                                                       {"llama3", "/tokenizers/llama3"},
                                                       {"tekken", "/tokenizers/o200k"},
                                                       {"sentencepiece", "/tokenizers/llama_sentencepiece"}};
  for (const auto& kind : kinds) {
    const char *name = kind.first, *folder = kind.second;
    CAPTURE(name);
    const auto g = GgufFile::open(data + "/tokenizer." + name + ".gguf");
    REQUIRE_MESSAGE(g, g.error().message());
    const auto text = gguf_tokenizer(*g);
    REQUIRE_MESSAGE(text, text.error().message());
    const auto t = Tokenizer::parse(*text, g->path());
    REQUIRE_MESSAGE(t, t.error().message());
    const auto cases = read_json(KLENS_TEST_DATA + std::string(folder) + "/cases.json");
    REQUIRE(cases);
    REQUIRE(cases->size() >= 18);
    for (const Json& c : *cases) {
      const std::string input = c["text"];
      CAPTURE(input);
      const auto ids = c["ids"].get<std::vector<std::int32_t>>();
      CHECK(t->encode(input, true) == ids);
      CHECK(t->encode(input) == c["ids_without_special"].get<std::vector<std::int32_t>>());
      CHECK(t->decode(ids) == c["decoded"].get<std::string>());
      CHECK(t->decode(ids, false) == c["decoded_with_special"].get<std::string>());
    }
  }
}

TEST_CASE("gguf: every pre-tokenizer's patterns compile; an unknown one, or kind, is an error that names it") {
  test::TempFolder dir;
  const std::string path = dir / "t.gguf";
  const auto with = [&](const char* model, const char* pre) -> std::string {
    Writer w;
    w.start(0, 4)
        .string("tokenizer.ggml.model")
        .number(8u)
        .string(model)
        .string("tokenizer.ggml.pre")
        .number(8u)
        .string(pre);
    w.string("tokenizer.ggml.tokens").number(9u).number(8u).number(std::uint64_t(2)).string("a").string("b");
    w.string("tokenizer.ggml.merges").number(9u).number(8u).number(std::uint64_t(0));
    test::put(path, w.bytes);
    const auto g = GgufFile::open(path);
    REQUIRE_MESSAGE(g, g.error().message());
    const auto text = gguf_tokenizer(*g);
    if (!text) return text.error().message().substr(path.size());
    const auto t = Tokenizer::parse(*text, path);
    REQUIRE_MESSAGE(t, t.error().message());
    CHECK(t->encode("ab") == std::vector<std::int32_t>{0, 1});
    return "";
  };
  for (const char* pre : {"gpt-2", "default", "falcon", "smollm", "qwen2", "gpt-4o", "mpt"})
    CHECK(with("gpt2", pre) == "");
  CHECK(with("gpt2", "lfm2") == ": 'tokenizer.ggml.bos_token_id': expected metadata under this key, found none");
  CHECK(with("gpt2", "jabber").find(": 'tokenizer.ggml.pre': expected one of: gpt-2, ") == 0);
  CHECK(with("gpt2", "jabber").find("found 'jabber'") != std::string::npos);
  CHECK(with("bert", "gpt-2") == ": 'tokenizer.ggml.model': expected 'gpt2' or 'llama', found 'bert'");
}

TEST_CASE("gguf: a file that is not right is refused, with what is wrong") {
  test::TempFolder dir;
  const std::string path = dir / "t.gguf";
  const auto f = [&](const Writer& w) { return fault(path, w); };
  CHECK(f(Writer().start(0, 0)) == "");
  CHECK(f(Writer().start(0, 0, 2)) == "");
  CHECK(f(Writer().raw("GG")) == ": expected a GGUF file, found 2 bytes");
  CHECK(f(Writer().raw("GGML....")) == ": expected a GGUF file, found other bytes at its start");
  CHECK(f(Writer().start(0, 0, 1)) == ": version: expected 2 or 3, found 1");
  CHECK(f(Writer().start(0, 0, 0x03000000)) == ": version: expected a little-endian file, found a big-endian one");
  CHECK(f(Writer().start(0, 1)) ==
        ": metadata at byte 24: expected 1 values, found 0 bytes before the end of the file");
  CHECK(f(Writer().start(~0ull, 0)) ==
        ": tensor infos at byte 24: expected 18446744073709551615 tensors, found 0 bytes before the end of the file");
  const auto value = [&](std::uint32_t type) { return Writer().start(0, 1).string("key").number(type); };
  CHECK(f(value(13).number(0ull)) == ": 'key' at byte 39: expected a type of metadata, 0 to 12, found 13");
  CHECK(f(value(7).number(std::uint8_t(2))) == ": 'key' at byte 40: expected bools of 0 or 1, found 2");
  CHECK(f(value(9).number(9u).number(1ull)) ==
        ": 'key' at byte 51: expected an array of numbers, bools or strings, found an array of arrays");
  CHECK(f(value(9).number(4u).number(1ull << 62)) ==
        ": 'key' at byte 51: expected 4611686018427387904 values, found 0 bytes before the end of the file");
  CHECK(f(value(9).number(8u).number(1ull).number(5ull)) ==
        ": 'key' at byte 59: expected 5 bytes, found 0 bytes before the end of the file");
  CHECK(f(Writer().start(0, 1).string("").number(4u).number(1u).number(0ull)) ==
        ": key at byte 32: expected a name, found an empty one");
  CHECK(f(Writer().start(0, 1).string("general.alignment").number(4u).number(24u)) ==
        ": 'general.alignment': expected a power of two, found 24");
  CHECK(f(Writer().start(0, 2).string("key").number(4u).number(1u).string("key").number(4u).number(1u)) ==
        ": 'key' at byte 62: expected every key once, found it again");

  const auto infos = [](int n) { return Writer().start(std::uint64_t(n), 0); };
  CHECK(f(infos(1).info("t", {2, 3}, 0, 0).pad(32, 24)) == "");
  CHECK(f(infos(1).info("t", {2, 3}, 0, 0).pad(32, 23)) ==
        ": tensor 't': expected 24 bytes at 0 of the data, found 23 bytes of data");
  CHECK(f(infos(1).info("t", {2}, 0, 64).pad(32, 40)) ==
        ": tensor 't': expected 8 bytes at 64 of the data, found 40 bytes of data");
  CHECK(f(infos(1).info("t", {2}, 0, 8).pad(32, 40)) ==
        ": tensor 't' at byte 57: expected an offset that is a multiple of 32, found 8");
  CHECK(f(infos(1).info("t", {1, 1, 1, 1, 1}, 0, 0).pad(32, 40)) ==
        ": tensor 't' at byte 37: expected at most 4 dimensions, found 5");
  CHECK(f(infos(1).info("t", {0}, 0, 0).pad(32, 40)) ==
        ": tensor 't' at byte 45: expected sizes of 1 to 2^63 - 1, found 0");
  CHECK(f(infos(1).info("t", {1ull << 62, 8}, 0, 0).pad(32, 40)) ==
        ": tensor 't' at byte 65: expected a shape that fits in memory, found [8, 4611686018427387904]");
  CHECK(f(infos(1).info("t", {1ull << 62}, 0, 0).pad(32, 40)) ==
        ": tensor 't': expected a shape that fits in memory, found [4611686018427387904]");
  CHECK(f(infos(1).info("t", {48}, 8, 0).pad(32, 99)) ==
        ": tensor 't': expected rows of a multiple of 32 values, for Q8_0, found 48");
  CHECK(f(infos(2).info("t", {2}, 0, 0).info("t", {2}, 0, 32).pad(32, 99)) ==
        ": tensor 't' at byte 90: expected every tensor once, found it again");
  CHECK(f(infos(2).info("a", {9}, 0, 32).info("b", {9}, 0, 0).pad(32, 99)) ==
        ": tensor 'a': expected data after that of 'b', from 36, found 32");
}

TEST_CASE("gguf: cut anywhere before its data's end, a file is refused") {
  test::TempFolder dir;
  const std::string path = dir / "t.gguf";
  for (const char* name : {"types.gguf", "tokenizer.llama3.gguf"}) {
    const std::string good = test::get(data + "/" + name);
    const auto whole = GgufFile::open(data + "/" + name);
    REQUIRE(whole);
    std::size_t end = 0;  // of the last tensor's data, or of the last value
    for (const auto& [key, value] : whole->metadata())
      end = std::max(
          end, std::size_t(value.bytes.data() + value.bytes.size() - whole->metadata().begin()->second.bytes.data()));
    const auto base = std::size_t(std::string_view(good).find("general.architecture"));
    REQUIRE(base != std::string::npos);
    end += base;
    if (!whole->tensors().empty()) end = good.size() - 64;
    const std::size_t stride = std::string_view(name) == "types.gguf" ? 1 : 11;
    std::size_t step = stride;
    int cuts = 0, refused = 0;
    test::reset_largest_allocation();
    for (std::size_t n = 0; n < end; n += step, step = n < 1500 ? stride : 16 * stride + 1, ++cuts) {
      test::put(path, good.substr(0, n));
      const auto g = GgufFile::open(path);
      refused += !g;
      if (!g) test::check_clear(g.error().message(), path);
    }
    CHECK(refused == cuts);
    CHECK(cuts > 200);
    CHECK(test::largest_allocation() < (1 << 20));
  }
}

TEST_CASE("gguf: damaged files end in one clear error") {
  test::TempFolder dir;
  const std::string path = dir / "t.gguf";
  for (const char* name : {"types.gguf", "mamba2.head.gguf", "nemotron_h.head.gguf", "jamba.head.gguf",
                           "granitemoehybrid.head.gguf", "tokenizer.sentencepiece.gguf", "tokenizer.llama3.gguf"}) {
    CAPTURE(name);
    std::string good = test::get(data + "/" + name);
    const bool head = std::string_view(name).find("head") != std::string_view::npos;
    if (head) good.resize(good.size() + 300'000, '\xbd');  // data: numbers below 0, as A has to be
    test::put(path, good);
    REQUIRE(GgufFile::open(path));
    if (head) REQUIRE(GgufCheckpoint::open(path));
    test::Mutator mutate(31);
    const int count = test::fuzz_count(200);
    int refused = 0;
    test::reset_largest_allocation();
    for (int i = 0; i < count; ++i) {
      test::put(path, mutate(good, head ? good.size() - 300'000 : std::min<std::size_t>(good.size(), 2600)));
      const auto g = GgufFile::open(path);
      if (!g) {
        ++refused;
        test::check_clear(g.error().message(), path);
        continue;
      }
      touch(*g);
      if (const auto text = gguf_tokenizer(*g); !text)
        test::check_clear(text.error().message(), path);
      else if (const auto t = Tokenizer::parse(*text, path); !t)
        test::check_clear(t.error().message(), path);
      if (const auto c = GgufCheckpoint::open(path); !c)
        test::check_clear(c.error().message(), path);
      else
        CHECK(c->names().size() > 10);
    }
    CHECK(refused > count / 4);
    CHECK(test::largest_allocation() < (16 << 20));
  }
}

TEST_CASE("gguf: a plan as types for llama-quantize") {
  PlanDocument plan;
  plan.model = "a model";
  Shape& s = plan.plan.shape;
  s.family = Family::lfm2, s.layers = 2, s.hidden = 256, s.vocab = 93, s.tied_head = true, s.ffn = 96, s.inner = 256,
  s.conv_taps = 3;
  s.heads = 4, s.kv_heads = 2, s.qk_dim = s.v_dim = 64;
  plan.plan.layers.resize(2);
  for (LayerPlan& l : plan.plan.layers) l.mixer = Mixer::short_conv, l.ffn = Ffn::swiglu;
  plan.plan.layers[1].mixer = Mixer::attention, plan.plan.layers[1].kv_source = 1;
  plan.plan.embedding = {6, per_row()};
  const auto types = gguf_types(plan);
  REQUIRE(types);
  CHECK(types->text.starts_with("^token_embd\\.weight$=q6_k\n^blk\\.0\\.shortconv\\.in_proj\\.weight$=f32\n"));
  CHECK(types->text.find("^blk\\.1\\.attn_output\\.weight$=f32\n") != std::string::npos);
  CHECK(types->text.find("^blk\\.1\\.ffn_down\\.weight$=f32\n") != std::string::npos);
  CHECK(types->lines == 1 + 2 + 4 + 2 * 3);
  CHECK(types->states == 0);
  set_state(plan.plan, StateKind::kv, 1, State::s8);
  CHECK(gguf_types(plan)->states == 1);
  s.family = Family::hymba;
  CHECK(gguf_types(plan).error().message() ==
        "a model: expected a family that GGUF files are read of: falcon_mamba, mamba, mamba2, falcon_h1, lfm2, "
        "nemotron_h, jamba, granitemoehybrid, found hymba");

  const auto type = [](int bits, Scheme scheme, int cols) { return ggml_type_of({std::uint8_t(bits), scheme}, cols); };
  CHECK(type(8, per_row(), 96) == "q8_0");
  CHECK(type(5, per_row(), 512) == "q5_k");
  CHECK(type(4, groups_of(32), 256) == "q4_k");
  CHECK(type(4, groups_of(32), 96) == "q4_0");
  CHECK(type(3, groups_of(32), 256) == "q3_k");
  CHECK(type(2, groups_of(32), 256) == "q2_k");
  CHECK(type(2, groups_of(32), 96) == "q4_0");
  CHECK(type(6, per_row(), 96) == "q8_0");
  CHECK(type(4, nf4_groups_of(64), 256) == "iq4_nl");
  CHECK(type(4, per_row(), 40) == "f16");
  CHECK(type(16, floats(Grid::bf16), 40) == "bf16");
  CHECK(type(32, {}, 256) == "f32");
}

TEST_CASE("gguf: experts of a layer have one line for llama-quantize, in the type of most bits") {
  PlanDocument plan;
  plan.model = "a model";
  Shape& s = plan.plan.shape;
  s.family = Family::granitemoehybrid, s.layers = 2, s.hidden = 256, s.vocab = 93, s.tied_head = true, s.ffn = 96;
  s.heads = 4, s.kv_heads = 2, s.qk_dim = s.v_dim = 64, s.experts = 3, s.experts_used = 2, s.expert_ffn = 96;
  plan.plan.layers.resize(2), plan.plan.experts.resize(3);
  for (LayerPlan& l : plan.plan.layers) l.mixer = Mixer::attention, l.ffn = Ffn::swiglu;
  plan.plan.layers[1].ffn = Ffn::moe_shared, plan.plan.layers[1].kv_source = 1;
  const Precision w4{4, groups_of(32)}, w6{6, per_row()}, nf4{4, nf4_groups_of(64)};
  for (int e = 0; e < 3; ++e) {
    ExpertPlan& expert = plan.plan.experts[std::size_t(e)];
    expert.gate_proj = e == 1 ? w6 : w4, expert.up_proj = nf4, expert.down_proj = e == 2 ? Precision{} : w4;
  }
  const auto types = gguf_types(plan);
  REQUIRE(types);
  CHECK(types->text.ends_with("^blk\\.1\\.ffn_gate_shexp\\.weight$=f32\n^blk\\.1\\.ffn_up_shexp\\.weight$=f32\n"
                              "^blk\\.1\\.ffn_down_shexp\\.weight$=f32\n^blk\\.1\\.ffn_gate_exps\\.weight$=q6_k\n"
                              "^blk\\.1\\.ffn_up_exps\\.weight$=iq4_nl\n^blk\\.1\\.ffn_down_exps\\.weight$=f32\n"));
  CHECK(types->text.find("^blk\\.0\\.ffn_gate\\.weight$=f32\n") != std::string::npos);
  CHECK(types->lines == 1 + 2 * (4 + 3) + 3);
  CHECK(types->experts == 2 + 0 + 2);
  plan.plan.experts[2].gate_proj = {4, per_row()};  // another format than w4g32, of the same type
  CHECK(gguf_types(plan)->experts == 2 + 0 + 2);
  // Of two formats of equal bits the first stays: q4_k and iq4_nl have 4.5 both.
  plan.plan.experts[1].up_proj = w4;
  CHECK(gguf_types(plan)->text.find("ffn_up_exps\\.weight$=iq4_nl\n") != std::string::npos);
  CHECK(gguf_types(plan)->experts == 5);

  // Jamba's layers have experts alone, or SwiGLU.
  s.family = Family::jamba;
  plan.plan.layers[1].ffn = Ffn::moe;
  CHECK(gguf_types(plan)->lines == 1 + 4 + 3 + 4 + 3);
  CHECK(gguf_types(plan)->text.find("shexp") == std::string::npos);
  CHECK(bits_of_ggml_type("q4_k") == 4.5 * 256);
  CHECK(bits_of_ggml_type("q8_0") == 8.5 * 256);
  CHECK(bits_of_ggml_type("f32") == 32 * 256);
}
