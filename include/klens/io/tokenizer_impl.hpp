// Bodies of tokenizer.hpp.
#pragma once

#include <klens/io/tokenizer.hpp>

namespace klens {

inline Result<Tokenizer> Tokenizer::load(const std::string& path) {
  KLENS_TRY(const MappedFile file, MappedFile::open(path));
  return parse(file.text(), path);
}

inline Result<Tokenizer> Tokenizer::parse(std::string_view text, const std::string& where) {
  using namespace detail;
  KLENS_TRY(const Json file, parse_json(text, where, {.bytes = 64 << 20}));
  KLENS_OK(only_keys(file, where,
                     {"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer",
                      "post_processor", "decoder", "model"}));
  Tokenizer t;
  t.where_ = where;
  KLENS_TRY(const std::string version, json_string_or(file, "version", where, "1.0"));
  if (version != "1.0")
    return Error{ErrorCode::unsupported, where + ": 'version'", "'1.0'", "'" + clip(version, 40) + "'"};
  if (!json_absent(file, "truncation"))
    return key_error(&file["truncation"], "truncation", where, "null: klens never shortens a text");
  if (!json_absent(file, "padding")) {
    // Padding to the longest of a batch does nothing to a single text; a fixed length would change it.
    const Json* strategy = find_key(file["padding"], "strategy");
    if (strategy == nullptr || *strategy != "BatchLongest")
      return key_error(strategy, "padding.strategy", where, "'BatchLongest'");
  }

  KLENS_TRY(const Json* const model, json_object(file, "model", where));
  const std::string place = where + ": 'model'";
  KLENS_TRY(const std::string type, json_string_or(*model, "type", place, model->contains("merges") ? "BPE" : ""));
  if (type == "BPE") {
    KLENS_TRY(t.model_, Bpe::read(*model, place, t.vocabulary_));
  } else if (type == "Unigram") {
    KLENS_TRY(t.model_, Unigram::read(*model, place, t.vocabulary_));
  } else {
    return Error{ErrorCode::unsupported, place + ": 'type'", "BPE or Unigram", "'" + clip(type, 40) + "'"};
  }
  if (!json_absent(file, "normalizer"))
    KLENS_OK(read_normalizer(file["normalizer"], where + ": 'normalizer'", t.normalizer_));
  if (!json_absent(file, "pre_tokenizer"))
    KLENS_OK(read_splitter(file["pre_tokenizer"], where + ": 'pre_tokenizer'", t.splitter_));
  if (!json_absent(file, "decoder")) {
    t.has_decoder_ = true;
    KLENS_OK(read_decoder(file["decoder"], where + ": 'decoder'", t.decoder_));
  }
  KLENS_OK(t.read_added(file, where));
  if (!json_absent(file, "post_processor"))
    KLENS_OK(t.read_template(file["post_processor"], where + ": 'post_processor'", 0));
  return t;
}

inline Result<void> Tokenizer::read_added(const Json& file, const std::string& where) {
  using namespace detail;
  if (json_absent(file, "added_tokens")) return {};
  KLENS_TRY(const Json* const list, json_array(file, "added_tokens", where));
  const std::int64_t largest = max_token_id(vocabulary_.ids.size() + list->size());
  for (std::size_t i = 0; i < list->size(); ++i) {
    const Json& j = (*list)[i];
    const std::string place = where + ": 'added_tokens'[" + std::to_string(i) + "]";
    KLENS_OK(only_keys(j, place, {"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"}));
    AddedToken token;
    KLENS_TRY(token.content, json_string(j, "content", place));
    KLENS_TRY(const std::int64_t id, json_int(j, "id", place, 0, largest));
    KLENS_TRY(token.single_word, json_bool_or(j, "single_word", place, false));
    KLENS_TRY(token.left_strip, json_bool_or(j, "lstrip", place, false));
    KLENS_TRY(token.right_strip, json_bool_or(j, "rstrip", place, false));
    KLENS_TRY(token.special, json_bool_or(j, "special", place, false));
    KLENS_TRY(token.normalized, json_bool_or(j, "normalized", place, !token.special));
    token.id = std::int32_t(id);
    const std::int32_t* known = vocabulary_.find(token.content);
    if (known != nullptr && *known != token.id)
      return Error{ErrorCode::format, place + " '" + clip(token.content, 60) + "'",
                   "id " + std::to_string(*known) + ", as in 'vocab'", std::to_string(id)};
    if (known == nullptr) KLENS_OK(vocabulary_.add(token.content, id, place));
    if (special_.size() < vocabulary_.tokens.size()) special_.resize(vocabulary_.tokens.size());
    special_[std::size_t(id)] = token.special;
    if (token.normalized) {
      KLENS_TRY(const std::string content, normalize(normalizer_, token.content, where));
      normalized_added_.add(content, token);
    } else {
      raw_added_.add(token.content, token);
    }
  }
  return {};
}

/// TemplateProcessing of a single text: special tokens before and after it. ByteLevel only concerns offsets.
inline Result<void> Tokenizer::read_template(const Json& processor, const std::string& where, int depth) {
  using namespace detail;
  KLENS_TRY(const std::string type, json_string(processor, "type", where));
  const std::string place = where + " " + clip(type, 40);
  if (type == "ByteLevel")
    return only_keys(processor, place, {"type", "add_prefix_space", "trim_offsets", "use_regex"});
  if (type == "Sequence") {
    KLENS_OK(only_keys(processor, place, {"type", "processors"}));
    KLENS_TRY(const Json* const list, json_array(processor, "processors", place));
    if (depth >= 8 || list->size() > 64) return Error{ErrorCode::overflow, place, "at most 64 steps, 8 levels", "more"};
    for (const Json& each : *list) KLENS_OK(read_template(each, place, depth + 1));
    return {};
  }
  if (type != "TemplateProcessing")
    return Error{ErrorCode::unsupported, where + ": 'type'", "ByteLevel, TemplateProcessing or Sequence",
                 "'" + clip(type, 40) + "'"};
  KLENS_OK(only_keys(processor, place, {"type", "single", "pair", "special_tokens"}));
  KLENS_TRY(const Json* const single, json_array(processor, "single", place));
  KLENS_TRY(const Json* const specials, json_object(processor, "special_tokens", place));
  std::vector<std::int32_t> before, after;
  bool text_seen = false;
  for (const Json& piece : *single) {
    if (const Json* sequence = find_key(piece, "Sequence")) {
      KLENS_TRY(const std::string id, json_string(*sequence, "id", place + ": 'single'"));
      if (id != "A" || text_seen)
        return Error{ErrorCode::format, place + ": 'single'", "the sequence 'A' once", "'" + clip(id, 40) + "'"};
      text_seen = true;
      continue;
    }
    KLENS_TRY(const Json* const token, json_object(piece, "SpecialToken", place + ": 'single'"));
    KLENS_TRY(const std::string name, json_string(*token, "id", place + ": 'single'"));
    KLENS_TRY(const Json* const entry, json_object(*specials, name, place + ": 'special_tokens'"));
    KLENS_TRY(const std::vector<std::int64_t> ids,
              json_ints(*entry, "ids", place + ": 'special_tokens'", 0, 1 << 24, 64));
    for (std::int64_t id : ids) {
      if (!vocabulary_.has(id))
        return Error{ErrorCode::missing, place + ": 'special_tokens'", "ids of tokens", std::to_string(id)};
      (text_seen ? after : before).push_back(std::int32_t(id));
    }
  }
  if (!text_seen) return Error{ErrorCode::missing, place + ": 'single'", "the sequence 'A'", "none"};
  before_.insert(before_.begin(), before.begin(),
                 before.end());  // a later processor works on what the earlier ones made
  after_.insert(after_.end(), after.begin(), after.end());
  return {};
}

inline Result<std::vector<std::int32_t>> Tokenizer::try_encode(std::string_view text, bool add_special) const {
  if (const std::size_t at = find_invalid_utf8(text); at != std::string_view::npos)
    return Error{ErrorCode::format, "text: byte " + std::to_string(at), "UTF-8", "other bytes"};
  std::vector<std::int32_t> ids;
  std::unordered_map<std::string, std::vector<std::int32_t>> cache;
  if (add_special) ids = before_;
  for (const detail::Stretch& outer : raw_added_.split(text)) {
    if (outer.id >= 0) {
      ids.push_back(outer.id);
      continue;
    }
    KLENS_TRY(const std::string normal,
              detail::normalize(normalizer_, text.substr(outer.begin, outer.end - outer.begin), where_));
    for (const detail::Stretch& inner : normalized_added_.split(normal)) {
      if (inner.id >= 0)
        ids.push_back(inner.id);
      else
        KLENS_OK(encode_stretch(std::string_view(normal).substr(inner.begin, inner.end - inner.begin),
                                outer.begin == 0 && inner.begin == 0, cache, ids));
    }
  }
  if (add_special) ids.insert(ids.end(), after_.begin(), after_.end());
  return ids;
}

inline Result<void> Tokenizer::encode_stretch(std::string_view text, bool first,
                                              std::unordered_map<std::string, std::vector<std::int32_t>>& cache,
                                              std::vector<std::int32_t>& out) const {
  // Words repeat: on English text nine of ten are found in the cache. Longer ones hardly ever come again.
  constexpr std::size_t cached_bytes = 48, cached_words = 1 << 16;
  std::vector<detail::Word> words = {{std::string(text), first}};
  for (const detail::SplitStep& step : splitter_) KLENS_OK(detail::apply_split(step, words));
  for (const detail::Word& word : words) {
    const bool cacheable = word.text.size() <= cached_bytes;
    if (cacheable)
      if (const auto hit = cache.find(word.text); hit != cache.end()) {
        out.insert(out.end(), hit->second.begin(), hit->second.end());
        continue;
      }
    const std::size_t before = out.size();
    if (const auto* bpe = std::get_if<detail::Bpe>(&model_))
      bpe->encode(word.text, vocabulary_, out);
    else
      KLENS_OK(std::get<detail::Unigram>(model_).encode(word.text, vocabulary_, where_, out));
    if (cacheable && cache.size() < cached_words)
      cache.emplace(word.text, std::vector(out.begin() + std::ptrdiff_t(before), out.end()));
  }
  return {};
}

inline std::vector<std::int32_t> Tokenizer::encode(std::string_view text, bool add_special) const {
  const bool valid = find_invalid_utf8(text) == std::string_view::npos;
  auto ids = valid ? try_encode(text, add_special) : try_encode(to_valid_utf8(text), add_special);
  return ids ? *std::move(ids) : std::vector<std::int32_t>();
}

inline std::string Tokenizer::decode(std::span<const std::int32_t> ids, bool skip_special) const {
  std::vector<std::string> parts;
  for (std::int32_t id : ids)
    if (vocabulary_.has(id) && !(skip_special && is_special(id))) parts.push_back(vocabulary_.tokens[std::size_t(id)]);
  std::string text;
  for (const detail::DecodeStep& step : decoder_)
    if (!detail::apply_decoder(step, parts)) return text;  // a pattern over its limits: nothing certain can be said
  for (std::size_t i = 0; i < parts.size(); ++i) {
    if (i > 0 && !has_decoder_) text += ' ';
    text += parts[i];
  }
  return text;
}

inline std::string StreamDecoder::push(std::int32_t id) {
  if (!tokenizer_->vocabulary_.has(id) || (skip_special_ && tokenizer_->is_special(id))) return {};
  if (tokenizer_->is_byte_level()) {
    detail::append_bytes_of(tokenizer_->token(id), pending_);
    const std::size_t held = incomplete_tail(pending_);
    std::string text = to_valid_utf8(std::string_view(pending_).substr(0, pending_.size() - held));
    pending_.erase(0, pending_.size() - held);
    return text;
  }
  ids_.push_back(id);
  // A run of byte tokens is one unit to the decoder: what it becomes is known when it ends.
  bool bytes = false, byte_fallback = false, strips_more = false;
  for (const detail::DecodeStep& step : tokenizer_->decoder_) {
    bytes |= step.kind == detail::DecodeStep::Kind::bytes;
    byte_fallback |= step.kind == detail::DecodeStep::Kind::byte_fallback;
    strips_more |= step.kind == detail::DecodeStep::Kind::strip && (step.start > 1 || step.stop > 0);
  }
  if (byte_fallback && detail::byte_of_fallback(tokenizer_->token(id)) >= 0) return {};
  // The text of the ids so far, less the text given. The ids given last stay as the beginning of the next round,
  // because a decoder may treat the first token of a text differently; all of them where more than its first character
  // may be stripped (no published tokenizer does), since the last ones could then lose what stood in the midst.
  const std::string before = tokenizer_->decode(std::span(ids_).first(read_), skip_special_);
  const std::string now = tokenizer_->decode(ids_, skip_special_);
  if (now.size() <= before.size() || (bytes && now.ends_with(replacement_char))) return {};
  std::string fresh = now.substr(before.size());
  if (!strips_more) ids_.erase(ids_.begin(), ids_.begin() + std::ptrdiff_t(read_));
  read_ = ids_.size();
  return fresh;
}

inline std::string StreamDecoder::finish() {
  std::string rest;
  if (tokenizer_->is_byte_level()) {
    rest = to_valid_utf8(pending_);
  } else {
    const std::string before = tokenizer_->decode(std::span(ids_).first(read_), skip_special_);
    const std::string now = tokenizer_->decode(ids_, skip_special_);
    if (now.size() > before.size()) rest = now.substr(before.size());
  }
  pending_.clear();
  ids_.clear();
  read_ = 0;
  return rest;
}

}  // namespace klens
