// Tokenizer: tokenizer.json of Hugging Face, read and run. Byte-level and SentencePiece-style BPE, Unigram; whatever a
// file asks for beyond what is here is an Error that names it, never a guess. Needs PCRE2 (8 bit) and utf8proc to link.
//
//   text -> added tokens cut out -> normalizer -> pre_tokenizer (words) -> model (tokens) -> post_processor (template)
#pragma once

#include <klens/io/tokenizer_added.hpp>
#include <klens/io/tokenizer_bpe.hpp>
#include <klens/io/tokenizer_decode.hpp>
#include <klens/io/tokenizer_normalize.hpp>
#include <klens/io/tokenizer_split.hpp>
#include <klens/io/tokenizer_unigram.hpp>

#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace klens {

/// Immutable once loaded: threads may share it.
class Tokenizer {
 public:
  /// Reads a tokenizer.json.
  static Result<Tokenizer> load(const std::string& path);
  /// Reads the text of one; `where` begins every error.
  static Result<Tokenizer> parse(std::string_view text, const std::string& where);

  /// Ids of a text; with `add_special`, with the tokens that the file's template puts around it. Errors: text that is
  /// not UTF-8 (says where), a pattern of the file that exceeds its limits.
  Result<std::vector<std::int32_t>> try_encode(std::string_view text, bool add_special = false) const;

  /// As try_encode, for any bytes: each ill-formed sequence counts as U+FFFD. Empty where try_encode fails even so.
  std::vector<std::int32_t> encode(std::string_view text, bool add_special = false) const;

  /// Text of ids. Ids that stand for no token are left out, special tokens too unless asked for.
  std::string decode(std::span<const std::int32_t> ids, bool skip_special = true) const;

  /// Largest id plus one.
  std::int64_t vocab_size() const { return std::int64_t(vocabulary_.tokens.size()); }
  /// A token as the file spells it; empty for an id that stands for none.
  std::string_view token(std::int32_t id) const {
    return vocabulary_.has(id) ? std::string_view(vocabulary_.tokens[std::size_t(id)]) : "";
  }
  /// The id of a token as the file spells it, or -1.
  std::int32_t id_of(std::string_view token) const {
    const std::int32_t* id = vocabulary_.find(token);
    return id ? *id : -1;
  }
  bool is_special(std::int32_t id) const {
    return id >= 0 && std::size_t(id) < special_.size() && special_[std::size_t(id)];
  }

 private:
  friend class StreamDecoder;
  Tokenizer() = default;

  Result<void> read_added(const Json& file, const std::string& where);
  Result<void> read_template(const Json& processor, const std::string& where, int depth);
  Result<void> encode_stretch(std::string_view text, bool first,
                              std::unordered_map<std::string, std::vector<std::int32_t>>& cache,
                              std::vector<std::int32_t>& out) const;
  bool is_byte_level() const { return decoder_.size() == 1 && decoder_[0].kind == detail::DecodeStep::Kind::bytes; }

  std::string where_;
  detail::Vocabulary vocabulary_;
  std::variant<detail::Bpe, detail::Unigram> model_;
  std::vector<detail::NormalizeStep> normalizer_;
  std::vector<detail::SplitStep> splitter_;
  std::vector<detail::DecodeStep> decoder_;
  bool has_decoder_ = false;
  detail::AddedTokens raw_added_, normalized_added_;  // looked for before and after normalization
  std::vector<bool> special_;                         // by id
  std::vector<std::int32_t> before_, after_;          // the template
};

/// Text of a stream of ids, as early as it is certain: bytes of an unfinished character are held back.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer, bool skip_special = true)
      : tokenizer_(&tokenizer), skip_special_(skip_special) {}

  /// The text that this id completes; often empty, always valid UTF-8.
  std::string push(std::int32_t id);
  /// What was held back: bytes that never became a character count as U+FFFD.
  std::string finish();

 private:
  const Tokenizer* tokenizer_;
  bool skip_special_;
  std::string pending_;            // byte-level: bytes of an unfinished character
  std::vector<std::int32_t> ids_;  // others: the ids since the last cut
  std::size_t read_ = 0;           // ids_ whose text was given
};

}  // namespace klens

#include <klens/io/tokenizer_impl.hpp>
