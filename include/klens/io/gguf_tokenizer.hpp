// The tokenizer inside a GGUF file, as the text of a tokenizer.json: byte-level BPE ("gpt2": tokens, merges, and the
// name of a pre-tokenizer, which stands for patterns that llama.cpp has) and SentencePiece BPE ("llama": tokens with
// scores). A kind or a pre-tokenizer that is not here is an error that names it. Test: tests/io/gguf.cpp, against the
// recorded answers of Hugging Face tokenizers in tests/data.
#pragma once

#include <klens/io/gguf.hpp>
#include <klens/io/unicode.hpp>

#include <algorithm>
#include <array>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace klens {
namespace detail {

/// Types of tokens, by the format's numbers.
enum class GgufToken { normal = 1, unknown, control, user_defined, unused, byte };

/// What a pre-tokenizer's name stands for: patterns, each splitting what the one before left; then bytes.
struct GgufSplit {
  std::array<std::string_view, 7> names;  // empty ones: none
  std::array<std::string_view, 4> patterns;
  bool ignore_merges = false, add_bos = false;
};

inline constexpr std::string_view gguf_gpt2 =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
inline constexpr std::string_view gguf_llama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|)"
    R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
inline constexpr std::string_view gguf_qwen2 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
inline constexpr std::string_view gguf_tekken =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|)"
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|)"
    R"(\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
inline constexpr std::string_view gguf_gpt4o =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
    R"(\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

inline constexpr GgufSplit gguf_splits[] = {
    {{"gpt-2", "gpt2", "mpt", "olmo", "phi-2"}, {gguf_gpt2}},
    {{"default"}, {R"([\p{P}\$\+<=>\^~\|]+)", gguf_gpt2, R"(\p{N}+)", "[0-9][0-9][0-9]"}},
    {{"llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "lfm2"}, {gguf_llama3}, true, true},
    {{"falcon"}, {R"([\p{P}\$\+<=>\^~\|`]+)", gguf_gpt2, "[0-9][0-9][0-9]"}},
    {{"starcoder", "refact", "command-r", "smollm", "codeshell"}, {R"(\p{N})", gguf_gpt2}},
    {{"qwen2"}, {gguf_qwen2}},
    {{"tekken"}, {gguf_tekken}, true, true},
    {{"gpt-4o"}, {gguf_gpt4o}}};

/// The split of that name, or nullptr; `known` lists the names.
inline const GgufSplit* gguf_split(std::string_view name, std::string& known) {
  for (const GgufSplit& s : gguf_splits)
    for (const std::string_view n : s.names) {
      if (n.empty()) continue;
      if (n == name) return &s;
      known += (known.empty() ? "" : ", ") + std::string(n);
    }
  return nullptr;
}

/// A vocabulary, its added tokens, and what stands around a text.
struct GgufVocabulary {
  std::vector<std::string_view> tokens;
  Json vocab = Json::object(), added = Json::array();
};

inline Result<GgufVocabulary> read_gguf_vocabulary(const GgufFile& file) {
  constexpr std::string_view key = "tokenizer.ggml.tokens", types_key = "tokenizer.ggml.token_type";
  GgufVocabulary v;
  KLENS_TRY(v.tokens, file.strings(key));
  if (v.tokens.empty() || v.tokens.size() > (1u << 22))
    return file.fault(key, "1 to 4194304 tokens", std::to_string(v.tokens.size()));
  std::vector<std::int64_t> types(v.tokens.size(), 1);
  if (file.has(types_key)) {
    KLENS_TRY(types, file.integers(types_key, std::int64_t(v.tokens.size()), 1, 6));
  }
  std::set<std::string_view> seen;
  for (std::size_t i = 0; i < v.tokens.size(); ++i) {
    const std::string_view token = v.tokens[i];
    const auto type = GgufToken(types[i]);
    if (type == GgufToken::unused) continue;  // "[PAD1234]": rows of the embedding without a token
    const std::string where = "token " + std::to_string(i);
    if (find_invalid_utf8(token) != std::string_view::npos)
      return file.fault(key, "UTF-8", where + " with other bytes");
    if (!seen.insert(token).second)
      return file.fault(key, "every token once", where + " '" + shown(token, 60) + "' again");
    if (type == GgufToken::normal || type == GgufToken::byte || type == GgufToken::unknown)
      v.vocab[std::string(token)] = i;
    if (type == GgufToken::control || type == GgufToken::user_defined || type == GgufToken::unknown) {
      if (token.empty()) return file.fault(key, "special tokens with a text", where + ", empty");
      v.added.push_back({{"id", i},
                         {"content", token},
                         {"single_word", false},
                         {"lstrip", false},
                         {"rstrip", false},
                         {"normalized", false},
                         {"special", type != GgufToken::user_defined}});
    }
  }
  return v;
}

/// "single" of a TemplateProcessing: the special tokens around a text. Null without any.
inline Result<Json> gguf_template(const GgufFile& file, const GgufVocabulary& v, bool bos_default) {
  const std::int64_t last = std::int64_t(v.tokens.size()) - 1;
  Json single = Json::array(), specials = Json::object();
  const auto put = [&](const std::string& which, bool fallback) -> Result<void> {
    KLENS_TRY(const bool wanted, file.boolean_or("tokenizer.ggml.add_" + which + "_token", fallback));
    if (!wanted) return {};
    KLENS_TRY(const std::int64_t id, file.integer("tokenizer.ggml." + which + "_token_id", 0, last));
    const std::string name(v.tokens[std::size_t(id)]);
    single.push_back({{"SpecialToken", {{"id", name}, {"type_id", 0}}}});
    specials[name] = {{"id", name}, {"ids", {id}}, {"tokens", {name}}};
    return {};
  };
  KLENS_OK(put("bos", bos_default));
  single.push_back({{"Sequence", {{"id", "A"}, {"type_id", 0}}}});
  KLENS_OK(put("eos", false));
  if (specials.empty()) return Json();
  return Json{{"type", "TemplateProcessing"}, {"single", single}, {"pair", single}, {"special_tokens", specials}};
}

inline Result<Json> gguf_byte_level(const GgufFile& file) {
  constexpr std::string_view pre = "tokenizer.ggml.pre", merges_key = "tokenizer.ggml.merges";
  KLENS_TRY(const std::string name, file.string(pre));
  std::string known;
  const GgufSplit* const split = gguf_split(name, known);
  if (split == nullptr) return file.fault(pre, "one of: " + known, "'" + shown(name, 60) + "'", ErrorCode::unsupported);
  KLENS_TRY(GgufVocabulary v, read_gguf_vocabulary(file));
  KLENS_TRY(const std::vector<std::string_view> merges, file.strings(merges_key));
  Json list = Json::array();
  for (const std::string_view m : merges) {
    if (find_invalid_utf8(m) != std::string_view::npos)
      return file.fault(merges_key, "UTF-8", "merge " + std::to_string(list.size()) + " with other bytes");
    list.push_back(m);
  }
  Json steps = Json::array();
  for (const std::string_view pattern : split->patterns)
    if (!pattern.empty())
      steps.push_back(
          {{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}});
  const Json bytes = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}};
  steps.push_back(bytes);
  KLENS_TRY(const Json around, gguf_template(file, v, split->add_bos));
  return Json{{"version", "1.0"},
              {"added_tokens", std::move(v.added)},
              {"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", steps}}},
              {"post_processor", around},
              {"decoder", bytes},
              {"model",
               {{"type", "BPE"},
                {"ignore_merges", split->ignore_merges},
                {"vocab", std::move(v.vocab)},
                {"merges", std::move(list)}}}};
}

/// SentencePiece joins the neighbours whose union has the best score: as merges, every way to cut a token into two
/// tokens, best score first (then the longer left part first, as Hugging Face's own conversion has it).
inline Json merges_of_scores(const GgufVocabulary& v, const std::vector<float>& scores) {
  struct Merge {
    float score;
    std::size_t left;
    std::string_view token;
  };
  std::vector<Merge> merges;
  for (const auto& [token, id] : v.vocab.items()) {
    const std::string_view text = v.tokens[id.get<std::size_t>()];
    for (std::size_t at = 1; at < text.size(); ++at)
      if ((static_cast<unsigned char>(text[at]) & 0xc0) != 0x80 && v.vocab.contains(text.substr(0, at)) &&
          v.vocab.contains(text.substr(at)))
        merges.push_back({scores[id.get<std::size_t>()], at, text});
  }
  std::ranges::stable_sort(
      merges, [](const Merge& a, const Merge& b) { return a.score != b.score ? a.score > b.score : a.left > b.left; });
  Json list = Json::array();
  for (const Merge& m : merges) list.push_back({m.token.substr(0, m.left), m.token.substr(m.left)});
  return list;
}

inline Result<Json> gguf_sentencepiece(const GgufFile& file) {
  constexpr std::string_view scores_key = "tokenizer.ggml.scores";
  KLENS_TRY(GgufVocabulary v, read_gguf_vocabulary(file));
  KLENS_TRY(const std::vector<float> scores, file.floats(scores_key));
  if (scores.size() != v.tokens.size())
    return file.fault(scores_key, std::to_string(v.tokens.size()) + " scores", std::to_string(scores.size()));
  for (const float s : scores)
    if (!(s == s)) return file.fault(scores_key, "numbers", "NaN");
  KLENS_TRY(const std::int64_t unknown,
            file.integer_or("tokenizer.ggml.unknown_token_id", 0, 0, std::int64_t(v.tokens.size()) - 1));
  v.vocab[std::string(v.tokens[std::size_t(unknown)])] = unknown;
  KLENS_TRY(const bool prefix, file.boolean_or("tokenizer.ggml.add_space_prefix", true));
  KLENS_TRY(const Json around, gguf_template(file, v, true));
  const std::string mark = "\xe2\x96\x81";
  Json normal = Json::array(), decode = Json::array();
  if (prefix) normal.push_back({{"type", "Prepend"}, {"prepend", mark}});
  normal.push_back({{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", mark}});
  decode.push_back({{"type", "Replace"}, {"pattern", {{"String", mark}}}, {"content", " "}});
  decode.push_back({{"type", "ByteFallback"}});
  decode.push_back({{"type", "Fuse"}});
  if (prefix) decode.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  Json merges = merges_of_scores(v, scores);
  return Json{{"version", "1.0"},
              {"added_tokens", std::move(v.added)},
              {"normalizer", {{"type", "Sequence"}, {"normalizers", normal}}},
              {"post_processor", around},
              {"decoder", {{"type", "Sequence"}, {"decoders", decode}}},
              {"model",
               {{"type", "BPE"},
                {"unk_token", v.tokens[std::size_t(unknown)]},
                {"fuse_unk", true},
                {"byte_fallback", true},
                {"vocab", std::move(v.vocab)},
                {"merges", std::move(merges)}}}};
}

}  // namespace detail

/// A tokenizer.json of the file's tokenizer. Errors: none inside, a kind that klens does not read.
inline Result<std::string> gguf_tokenizer(const GgufFile& file) {
  constexpr std::string_view key = "tokenizer.ggml.model";
  if (!file.has(key)) return Error{ErrorCode::missing, file.path(), "a tokenizer inside", "none"};
  KLENS_TRY(const std::string model, file.string(key));
  if (model != "gpt2" && model != "llama")
    return file.fault(key, "'gpt2' or 'llama'", "'" + detail::shown(model, 40) + "'", ErrorCode::unsupported);
  KLENS_TRY(const Json json, model == "gpt2" ? detail::gguf_byte_level(file) : detail::gguf_sentencepiece(file));
  return to_text(json, -1);
}

}  // namespace klens
