// Tokenizers against recorded answers of Hugging Face tokenizers; text of any kind; damaged files.
#include "io/fuzz.hpp"

#include <klens/io/safetensors.hpp>
#include <klens/io/tokenizer.hpp>

using namespace klens;

namespace {

struct Kind {
  const char* name;
  const char* folder;
};
constexpr Kind kinds[] = {
    {"gpt2_byte_level", "/gpt2_byte_level"}, {"neox", "/tokenizers/neox"},
    {"falcon", "/tokenizers/falcon"},        {"llama3", "/tokenizers/llama3"},
    {"o200k", "/tokenizers/o200k"},          {"llama_sentencepiece", "/tokenizers/llama_sentencepiece"},
    {"unigram", "/tokenizers/unigram"}};

std::string folder_of(const Kind& k) { return std::string(KLENS_TEST_DATA) + k.folder; }

std::string stream(const Tokenizer& t, std::span<const std::int32_t> ids, bool skip_special) {
  StreamDecoder decoder(t, skip_special);
  std::string text;
  for (std::int32_t id : ids) {
    const std::string piece = decoder.push(id);
    CHECK(find_invalid_utf8(piece) == std::string::npos);
    text += piece;
  }
  return text + decoder.finish();
}

/// A small byte-level file that tests change piece by piece.
Json small_file() {
  Json vocab = {{"<e>", 0}};
  for (int b = 0; b < 256; ++b) {
    std::string c;
    append_utf8(c, byte_alphabet()[std::size_t(b)]);
    vocab[c] = b + 1;
  }
  vocab["ab"] = 257;
  vocab["abc"] = 258;
  vocab["bc"] = 259;
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", Json::array({{{"id", 0},
                                         {"content", "<e>"},
                                         {"single_word", false},
                                         {"lstrip", false},
                                         {"rstrip", false},
                                         {"normalized", false},
                                         {"special", true}}})},
          {"normalizer", nullptr},
          {"pre_tokenizer",
           {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}}},
          {"post_processor", nullptr},
          {"decoder", {{"type", "ByteLevel"}}},
          {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", {"b c", "a b", "ab c"}}}}};
}

std::string fault(const Json& file) {
  const auto t = Tokenizer::parse(file.dump(), "t.json");
  return t ? "" : t.error().message();
}

Tokenizer make(const Json& file) {
  auto t = Tokenizer::parse(file.dump(), "t.json");
  REQUIRE_MESSAGE(t, t.error().message());
  return *std::move(t);
}

using Ids = std::vector<std::int32_t>;

}  // namespace

TEST_CASE("tokenizer: seven kinds encode and decode as recorded") {
  for (const Kind& kind : kinds) {
    const auto t = Tokenizer::load(folder_of(kind) + "/tokenizer.json");
    REQUIRE_MESSAGE(t, t.error().message());
    const auto cases = read_json(folder_of(kind) + "/cases.json");
    REQUIRE(cases);
    REQUIRE(cases->size() >= 18);
    for (const Json& c : *cases) {
      const std::string text = c["text"];
      CAPTURE(kind.name);
      CAPTURE(text);
      const Ids ids = c["ids"].get<Ids>();
      CHECK(t->encode(text, true) == ids);
      CHECK(t->encode(text) == c["ids_without_special"].get<Ids>());
      CHECK(t->decode(ids) == c["decoded"].get<std::string>());
      CHECK(t->decode(ids, false) == c["decoded_with_special"].get<std::string>());
      CHECK(stream(*t, ids, true) == c["decoded"].get<std::string>());
      CHECK(stream(*t, ids, false) == c["decoded_with_special"].get<std::string>());
    }
  }
}

TEST_CASE("tokenizer: hymba-tiny's tokens are those of the golden file; texts come back") {
  const std::string examples = KLENS_EXAMPLES;
  const auto t = Tokenizer::load(examples + "/models/hymba-tiny/tokenizer.json");
  REQUIRE(t);
  CHECK(t->vocab_size() == 4096);
  CHECK(t->id_of("<|endoftext|>") == 0);
  CHECK(t->is_special(0));
  CHECK_FALSE(t->is_special(1));
  const auto golden = Safetensors::open(std::string(KLENS_TEST_DATA) + "/hymba-tiny/golden.safetensors");
  REQUIRE(golden);
  const auto want = read_i64(*golden->find("input_ids"));
  for (const char* name : {"calibration", "heldout", "shakespeare", "wikitext"}) {
    const std::string text = test::get(examples + "/data/" + name + ".txt");
    const auto ids = t->try_encode(text);
    REQUIRE(ids);
    CHECK(t->decode(*ids) == text);
    if (std::string_view(name) != "heldout") continue;
    for (std::size_t i = 0; i < 200; ++i) CHECK((*ids)[3000 + i] == (*want)[i]);
  }
}

TEST_CASE("tokenizer: merges by rank, then from the left; both spellings; unknown characters") {
  Json file = small_file();
  const Tokenizer t = make(file);
  const std::int32_t a = t.id_of("a"), b = t.id_of("b"), c = t.id_of("c"), bc = t.id_of("bc"), ab = t.id_of("ab");
  CHECK(t.encode("abc") == Ids{a, bc});  // "b c" ranks before "a b"
  CHECK(t.encode("abab") == Ids{ab, ab});
  CHECK(t.encode("abb") == Ids{ab, b});
  CHECK(t.encode("bcbcabc") == Ids{bc, bc, a, bc});
  CHECK(t.encode("cb a") == Ids{c, b, t.id_of("\xc4\xa0"), a});
  file["model"]["merges"] = Json::array({{"a", "b"}, {"ab", "c"}});
  CHECK(make(file).encode("abcab") == Ids{258, 257});
  file["model"]["ignore_merges"] = true;
  file["model"]["merges"] = Json::array();
  CHECK(make(file).encode("abc") == Ids{258});
  CHECK(make(file).encode("abcab abc") == Ids{a, b, c, a, b, t.id_of("\xc4\xa0"), a, b, c});
  file["model"]["vocab"].erase("b");
  CHECK(make(file).encode("bab") == Ids{a});  // no unknown token: left out
  file["model"]["unk_token"] = "<e>";
  CHECK(make(file).encode("bbabb") == Ids{0, 0, a, 0, 0});
  file["model"]["fuse_unk"] = true;
  CHECK(make(file).encode("bbabb") == Ids{0, a, 0});
}

TEST_CASE("tokenizer: added tokens") {
  Json file = small_file();
  const auto add = [&](int id, const char* text, Json options) {
    Json token = {{"id", id}, {"content", text}, {"special", false}, {"normalized", false}};
    token.update(options);
    file["added_tokens"].push_back(token);
  };
  add(300, "<e><e>", Json::object());
  add(301, "xy", {{"single_word", true}});
  add(302, "<l>", {{"lstrip", true}});
  add(303, "<r>", {{"rstrip", true}});
  const Tokenizer t = make(file);
  const std::int32_t a = t.id_of("a"), x = t.id_of("x"), y = t.id_of("y"), space = t.id_of("\xc4\xa0");
  CHECK(t.encode("<e>a<e><e><e>") == Ids{0, a, 300, 0});
  CHECK(t.encode("xy") == Ids{301});
  CHECK(t.encode("xyx xy") == Ids{x, y, x, space, 301});
  CHECK(t.encode("\xc3\xa9xy").size() == 4);
  CHECK(t.encode("a \n<l> a") == Ids{a, 302, space, a});
  CHECK(t.encode("a <r> \xc2\xa0 a") == Ids{a, space, 303, a});
  CHECK(t.decode(t.encode("a<e>xy a")) == "axy a");
  CHECK(t.decode(t.encode("a<e>xy a"), false) == "a<e>xy a");
  CHECK(t.decode(Ids{a, -5, 299, 70000, a}) == "aa");
  file["normalizer"] = {{"type", "Replace"}, {"pattern", {{"String", "A"}}}, {"content", "a"}};
  add(304, "AZ", {{"normalized", true}});
  CHECK(make(file).encode("aZAZAa") == Ids{304, 304, a, a});
}

TEST_CASE("tokenizer: white space and word characters are those of the reference engine") {
  Json file = small_file();
  file["pre_tokenizer"] = {
      {"type", "Split"}, {"pattern", {{"Regex", "\\s+"}}}, {"behavior", "Removed"}, {"invert", false}};
  file["model"]["vocab"]["\xe1\xa0\x8e"] = 400;  // U+180E is no white space, whatever PCRE2 thinks
  file["decoder"] = nullptr;
  const Tokenizer t = make(file);
  CHECK(t.encode("a\xe1\xa0\x8e"
                 "b") == Ids{t.id_of("a"), 400, t.id_of("b")});
  for (const char* space : {" ", "\t", "\n", "\v", "\f", "\r", "\xc2\x85", "\xc2\xa0", "\xe1\x9a\x80", "\xe2\x80\x80",
                            "\xe2\x80\xa8", "\xe3\x80\x80"})
    CHECK(t.encode(std::string("a") + space + "b") == Ids{t.id_of("a"), t.id_of("b")});
  CHECK(t.decode(Ids{98, 99}) == "a b");
  const auto split = [&](const char* pattern, const char* behavior, bool invert, const char* text) {
    std::vector<detail::Word> words = {{text, true}};
    std::vector<detail::SplitStep> steps;
    const Json j = {{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", behavior}, {"invert", invert}};
    REQUIRE(detail::read_splitter(j, "t", steps));
    REQUIRE(detail::apply_split(steps[0], words));
    std::string joined;
    for (const auto& w : words) joined += w.text + "|";
    return joined;
  };
  CHECK(split("-", "Isolated", false, "the-final--countdown") == "the|-|final|-|-|countdown|");
  CHECK(split("-", "Removed", false, "the-final--countdown") == "the|final|countdown|");
  CHECK(split("-", "MergedWithPrevious", false, "the-final--countdown") == "the-|final-|-|countdown|");
  CHECK(split("-", "MergedWithNext", false, "the-final--countdown") == "the|-final|-|-countdown|");
  CHECK(split("-", "Contiguous", false, "the-final--countdown") == "the|-|final|--|countdown|");
  CHECK(split("[a-z]+", "Removed", true, "the-final--countdown") == "the|final|countdown|");
  CHECK(split("x*", "Isolated", false, "axb") == "a|x|b|");
  CHECK(split("\\w+", "Isolated", false, "a\xcc\x81_ b\xe2\x80\xbf") == "a\xcc\x81_| |b\xe2\x80\xbf|");
  CHECK(split("[^\\s,]+", "Isolated", false,
              "a\xc2\x85"
              "b,c") == "a|\xc2\x85|b|,|c|");
}

TEST_CASE("tokenizer: bytes that are no UTF-8") {
  const auto t = Tokenizer::load(folder_of(kinds[0]) + "/tokenizer.json");
  REQUIRE(t);
  for (const auto& sample : {std::pair<std::string, int>{"\xff", 1},
                             {"\xe2\x82", 1},
                             {"\xf0\x9f\x98", 1},
                             {"\xc0\xaf", 2},
                             {"\xed\xa0\x80", 3},
                             {"\xf4\x90\x80\x80", 4},
                             {"\x80\x80", 2}}) {
    const std::string bytes = sample.first;
    const int characters = sample.second;
    CAPTURE(bytes);
    const std::string valid = to_valid_utf8("a" + bytes + "b");
    CHECK(valid.size() == 2 + std::size_t(characters) * replacement_char.size());
    CHECK(t->encode("a" + bytes + "b") == t->encode(valid));
    CHECK(t->try_encode("a" + bytes).error().message().starts_with("text: byte "));
  }
  CHECK(to_valid_utf8("\xe2\x28\xa1") == "\xef\xbf\xbd(\xef\xbf\xbd");
  CHECK(incomplete_tail("a\xf0\x9f\x98") == 3);
  CHECK(incomplete_tail("a\xe2\x28") == 0);
  CHECK(incomplete_tail("a\xf0\x9f\x98\x80") == 0);
  CHECK(incomplete_tail("\x80\x80") == 0);
  CHECK(incomplete_tail("a\xf4\x90") == 0);

  // A character of four tokens appears when it is complete, an unfinished one at the end as U+FFFD.
  Json file = small_file();
  const Tokenizer bytes = make(file);
  const Ids smile = bytes.encode("\xf0\x9f\x98\x80");
  REQUIRE(smile.size() == 4);
  StreamDecoder decoder(bytes);
  for (int i = 0; i < 3; ++i) CHECK(decoder.push(smile[std::size_t(i)]) == "");
  CHECK(decoder.push(smile[3]) == "\xf0\x9f\x98\x80");
  CHECK(decoder.push(smile[0]) == "");
  CHECK(decoder.push(bytes.id_of("a")) ==
        "\xef\xbf\xbd"
        "a");
  CHECK(decoder.push(smile[0]) == "");
  CHECK(decoder.finish() == "\xef\xbf\xbd");
  test::Mutator random(3);
  for (const Kind& kind : kinds) {
    const auto any = Tokenizer::load(folder_of(kind) + "/tokenizer.json");
    for (int round = 0; round < 30; ++round) {
      Ids ids;
      for (std::size_t n = random.below(60); n > 0; --n) ids.push_back(std::int32_t(random.below(920)) - 5);
      CHECK(stream(*any, ids, round % 2 == 0) == any->decode(ids, round % 2 == 0));
    }
  }
}

TEST_CASE("tokenizer: long words and long runs stay fast, and come back") {
  for (const Kind& kind : kinds) {
    const auto t = Tokenizer::load(folder_of(kind) + "/tokenizer.json");
    for (const char* piece :
         {"a", " ", "A", "\n", "7", "!", "the ", "<|en", "\xcc\xa7\xcc\x81", "\xe4\xb8\xad", " \n \t"}) {
      std::string text = "x";
      while (text.size() < 200'000) text += piece;
      const auto ids = t->try_encode(text);
      REQUIRE(ids);
      if (std::string_view(kind.name) != "unigram" && std::string_view(kind.name) != "neox")
        CHECK(t->decode(*ids) == text);
    }
  }
}

TEST_CASE("tokenizer: what is not understood is named") {
  CHECK(fault(small_file()) == "");
  const auto with = [](const char* pointer, Json value) {
    Json file = small_file();
    file[Json::json_pointer(pointer)] = std::move(value);
    return fault(file);
  };
  CHECK(with("/novelty", 1) == "t.json: expected known keys, found 'novelty'");
  CHECK(with("/version", "2.0") == "t.json: 'version': expected '1.0', found '2.0'");
  CHECK(with("/truncation", {{"max_length", 5}}) ==
        "t.json: 'truncation': expected null: klens never shortens a text, found an object");
  CHECK(with("/padding", {{"strategy", {{"Fixed", 5}}}}) ==
        "t.json: 'padding.strategy': expected 'BatchLongest', found an object");
  CHECK(with("/padding", {{"strategy", "BatchLongest"}}) == "");
  CHECK(with("/model/type", "WordPiece") == "t.json: 'model': 'type': expected BPE or Unigram, found 'WordPiece'");
  CHECK(with("/model/dropout", 0.1).find("'dropout'") != std::string::npos);
  CHECK(with("/model/end_of_word_suffix", "</w>") ==
        "t.json: 'model': 'end_of_word_suffix': expected null or '', found '</w>'");
  CHECK(with("/model/extra", true) == "t.json: 'model': expected known keys, found 'extra'");
  CHECK(with("/model/unk_token", "<u>") == "t.json: 'model': 'unk_token': expected a token of 'vocab', found '<u>'");
  CHECK(with("/model/merges/0", "b  c") ==
        "t.json: 'model': 'merges'[0]: expected two tokens and one space, found a string 'b  c'");
  CHECK(with("/model/merges/0", "c b") == "t.json: 'model': 'merges'[0]: expected tokens of 'vocab', found 'cb'");
  CHECK(with("/model/merges/0", 5) == "t.json: 'model': 'merges'[0]: expected a pair of tokens, found 5");
  CHECK(with("/model/vocab/ab", 2).find("every token and id once") != std::string::npos);
  CHECK(with("/model/vocab/ab", 99999999) ==
        "t.json: 'model': 'vocab': token 'ab': expected an id in 0..66576, found 99999999");
  CHECK(with("/model/vocab/ab", -1) == "t.json: 'model': 'vocab': token 'ab': expected an id in 0..66576, found -1");
  CHECK(with("/normalizer", {{"type", "BertNormalizer"}}) ==
        "t.json: 'normalizer': 'type': expected NFC, NFD, NFKC, NFKD, Prepend, Replace or Sequence, found "
        "'BertNormalizer'");
  CHECK(with("/pre_tokenizer", {{"type", "Whitespace"}}) ==
        "t.json: 'pre_tokenizer': 'type': expected ByteLevel, Split, Digits, Punctuation, Metaspace or Sequence, found "
        "'Whitespace'");
  CHECK(with("/pre_tokenizer/use_regexp", true) ==
        "t.json: 'pre_tokenizer' ByteLevel: expected known keys, found 'use_regexp'");
  CHECK(with("/pre_tokenizer",
             {{"type", "Split"}, {"pattern", {{"Regex", "(a"}}}, {"behavior", "Isolated"}, {"invert", false}})
            .starts_with("t.json: 'pre_tokenizer' Split: 'pattern': pattern '(a': expected a regular expression, found "
                         "missing closing"));
  CHECK(with("/pre_tokenizer", {{"type", "Split"}, {"pattern", {{"Regex", "[a[bc]]"}}}, {"behavior", "Isolated"}})
            .find("nested brackets") != std::string::npos);
  CHECK(with("/decoder", {{"type", "WordPiece"}}).find("found 'WordPiece'") != std::string::npos);
  CHECK(with("/post_processor", {{"type", "RobertaProcessing"}}) ==
        "t.json: 'post_processor': 'type': expected ByteLevel, TemplateProcessing or Sequence, found "
        "'RobertaProcessing'");
  CHECK(with("/added_tokens/0/id", 7) == "t.json: 'added_tokens'[0] '<e>': expected id 0, as in 'vocab', found 7");
  CHECK(with("/added_tokens/0/weight", 7) == "t.json: 'added_tokens'[0]: expected known keys, found 'weight'");
}

TEST_CASE("tokenizer: a pattern that explodes ends in an error, not in a hang") {
  Json file = small_file();
  file["pre_tokenizer"] = {
      {"type", "Split"}, {"pattern", {{"Regex", "(a+)+$"}}}, {"behavior", "Isolated"}, {"invert", false}};
  const Tokenizer t = make(file);
  CHECK(t.try_encode("aaaa"));
  const auto ids = t.try_encode(std::string(5000, 'a') + "b");
  REQUIRE_FALSE(ids);
  test::check_clear(ids.error().message(), "t.json");
  CHECK(t.encode(std::string(5000, 'a') + "b").empty());
  file["pre_tokenizer"] = nullptr;
  file["normalizer"] = {{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", std::string(100'000, 'b')}};
  CHECK(make(file).try_encode(std::string(100'000, 'a')).error().message().find("at most") != std::string::npos);
}

TEST_CASE("tokenizer: damaged files end in one clear error, or in a tokenizer that works") {
  test::Mutator mutate(41);
  for (const Kind& kind : kinds) {
    const std::string good = test::get(folder_of(kind) + "/tokenizer.json");
    const std::string text = "Hello, wor\xc3\xa9ld!  <|endoftext|> 12345\n\n\xe4\xb8\xad\xf0\x9f\x98\x80 it's";
    const int count = test::fuzz_count(kind.folder[1] == 'g' ? 500 : 100);
    int refused = 0;
    test::reset_largest_allocation();
    for (int i = 0; i < count; ++i) {
      const auto t = Tokenizer::parse(mutate(good, i % 2 ? 2000 : good.size()), "t.json");
      if (!t) {
        ++refused;
        test::check_clear(t.error().message(), "t.json");
        continue;
      }
      const auto ids = t->try_encode(text, true);
      if (!ids) {
        test::check_clear(ids.error().message(), "t.json");
        continue;
      }
      for (std::int32_t id : *ids) CHECK((id >= 0 && id < t->vocab_size()));
      CHECK(stream(*t, *ids, false) == t->decode(*ids, false));
    }
    CHECK(refused > count / 4);
    CHECK(test::largest_allocation() < (8 << 20));  // a table of strings by id, with the holes that a file may have
  }
}
