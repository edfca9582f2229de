// Chat template, special tokens, end tokens and recommended sampling of a GGUF file. Oracle: what
// tests/data/gguf/make.py gave the package gguf.
#include "io/fuzz.hpp"

#include <klens/io/chat_folder.hpp>
#include <klens/io/gguf_chat.hpp>

using namespace klens;

namespace {

const std::string data = std::string(KLENS_TEST_DATA) + "/gguf";

}  // namespace

TEST_CASE("gguf: chat template, special tokens, end tokens and sampling") {
  const auto file = GgufFile::open(data + "/chat.gguf");
  REQUIRE(file);
  const auto text = gguf_chat(*file), generation = gguf_generation(*file);
  REQUIRE(text);
  REQUIRE(generation);
  const auto chat = ChatFolder::parse(*text, "x");
  REQUIRE(chat);
  CHECK(chat->eos_token() == "<eos>");
  CHECK(*chat->render({{{"role", "user"}, {"content", "Hi"}}}, true) == "<bos>user: Hi\nassistant: ");
  const auto g = GenerationConfig::parse(*generation, "x", 262);
  REQUIRE(g);
  CHECK(g->ends == std::vector<std::int32_t>{1, 2});
  CHECK((*g->temperature == 0.75f && *g->top_k == 40 && *g->top_p == 0.875f && *g->min_p == 0.0625f));
  CHECK(*g->repetition_penalty == 1.25f);

  // A file that has none of it.
  const auto plain = GgufFile::open(data + "/tokenizer.llama3.gguf");
  REQUIRE(plain);
  CHECK(*gguf_generation(*plain) == "");
  CHECK(ChatFolder::parse(*gguf_chat(*plain), "x").error().message().starts_with("x: expected a chat template, "));
  test::TempFolder dir;
  const std::string path = dir / "t.gguf", good = test::get(data + "/chat.gguf");
  const auto with = [&](std::string_view key, std::string_view replacement) {
    std::string bytes = good;
    const std::size_t at = bytes.find(key);
    REQUIRE(at != std::string::npos);
    bytes.replace(at, replacement.size(), replacement);
    test::put(path, bytes);
    auto changed = GgufFile::open(path);
    REQUIRE(changed);
    return *std::move(changed);
  };
  const auto other = gguf_generation(with("tokenizer.ggml.eot_token_id", "tokenizer.ggml.xxx"));
  REQUIRE(other);
  const auto without = GenerationConfig::parse(*other, "x", 262);
  REQUIRE(without);
  CHECK(without->ends == std::vector<std::int32_t>{1});
  const auto message = [](const Result<std::string>& r) { return r ? "" : r.error().message(); };
  using namespace std::string_view_literals;
  CHECK(message(gguf_chat(with("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eos_token_id\4\0\0\0\xff\1"sv))) ==
        path + ": 'tokenizer.ggml.eos_token_id': expected an integer in 0..261, found 511");
}
