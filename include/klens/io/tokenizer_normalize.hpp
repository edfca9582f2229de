// The "normalizer" of a tokenizer.json: what happens to the text between added tokens, before it is split.
#pragma once

#include <klens/io/json.hpp>
#include <klens/io/regex.hpp>
#include <klens/io/unicode.hpp>

#include <optional>
#include <string>
#include <vector>

namespace klens {
namespace detail {

/// Refuses keys a reader does not know: an option that is ignored would change token ids in silence.
inline Result<void> only_keys(const Json& object, const std::string& where, std::initializer_list<std::string_view> known) {
  if (!object.is_object()) return Error{ErrorCode::format, where, "an object", describe(object)};
  for (const auto& [key, value] : object.items()) {
    bool found = false;
    for (std::string_view k : known) found |= k == key;
    if (!found) return Error{ErrorCode::unsupported, where, "known keys", "'" + clip(key, 80) + "'"};
  }
  return {};
}

/// A literal or a regular expression: {"String": " "} or {"Regex": " {2,}"}.
struct TextPattern {
  std::string literal;
  std::optional<Regex> regex;

  template <class Sink>
  Result<void> for_each_match(std::string_view text, Sink&& sink) const {
    if (regex) return regex->for_each_match(text, sink);
    for (std::size_t at = 0; (at = text.find(literal, at)) != std::string_view::npos; at += literal.size())
      KLENS_OK(sink(Regex::Match{at, at + literal.size()}));
    return {};
  }

  Result<std::string> replace(std::string_view text, std::string_view content) const {
    std::string out;
    std::size_t last = 0;
    KLENS_OK(for_each_match(text, [&](Regex::Match m) -> Result<void> {
      out.append(text.substr(last, m.begin - last)).append(content);
      last = m.end;
      return {};
    }));
    return out.append(text.substr(last));
  }
};

inline Result<TextPattern> read_pattern(const Json& object, std::string_view key, const std::string& where) {
  KLENS_TRY(const Json* const j, json_object(object, key, where));
  const std::string place = where + ": '" + std::string(key) + "'";
  KLENS_OK(only_keys(*j, place, {"String", "Regex"}));
  if (j->size() != 1) return Error{ErrorCode::format, place, "either 'String' or 'Regex'", std::to_string(j->size()) + " keys"};
  TextPattern p;
  if (j->contains("String")) {
    KLENS_TRY(p.literal, json_string(*j, "String", place));
    if (p.literal.empty()) return Error{ErrorCode::format, place, "a string of at least one character", "''"};
  } else {
    KLENS_TRY(const std::string pattern, json_string(*j, "Regex", place));
    KLENS_TRY(p.regex, Regex::compile(pattern, place));
  }
  return p;
}

/// One step: a Unicode normal form, a prefix for texts that are not empty, or a replacement.
struct NormalizeStep {
  enum class Kind { form, prepend, replace } kind = Kind::form;
  int form = 0;              // utf8proc options
  std::string content;
  TextPattern pattern;
};

inline Result<void> read_normalizer(const Json& j, const std::string& where, std::vector<NormalizeStep>& steps, int depth = 0) {
  if (j.is_null()) return {};
  KLENS_TRY(const std::string type, json_string(j, "type", where));
  const std::string place = where + " " + clip(type, 40);
  NormalizeStep step;
  constexpr int compose = UTF8PROC_STABLE | UTF8PROC_COMPOSE, decompose = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE;
  if (type == "Sequence") {
    KLENS_OK(only_keys(j, place, {"type", "normalizers"}));
    KLENS_TRY(const Json* const list, json_array(j, "normalizers", place));
    if (depth >= 8 || list->size() > 64) return Error{ErrorCode::overflow, place, "at most 64 steps, 8 levels", "more"};
    for (const Json& each : *list) KLENS_OK(read_normalizer(each, place, steps, depth + 1));
    return {};
  }
  if (type == "NFC" || type == "NFD" || type == "NFKC" || type == "NFKD") {
    KLENS_OK(only_keys(j, place, {"type"}));
    step.form = (type.back() == 'C' ? compose : decompose) | (type[2] == 'K' ? UTF8PROC_COMPAT : 0);
  } else if (type == "Prepend") {
    KLENS_OK(only_keys(j, place, {"type", "prepend"}));
    step.kind = NormalizeStep::Kind::prepend;
    KLENS_TRY(step.content, json_string(j, "prepend", place));
  } else if (type == "Replace") {
    KLENS_OK(only_keys(j, place, {"type", "pattern", "content"}));
    step.kind = NormalizeStep::Kind::replace;
    KLENS_TRY(step.pattern, read_pattern(j, "pattern", place));
    KLENS_TRY(step.content, json_string(j, "content", place));
  } else {
    return Error{ErrorCode::unsupported, where + ": 'type'", "NFC, NFD, NFKC, NFKD, Prepend, Replace or Sequence", "'" + clip(type, 40) + "'"};
  }
  steps.push_back(std::move(step));
  return {};
}

/// `text` is valid UTF-8; so is the result.
inline Result<std::string> normalize(const std::vector<NormalizeStep>& steps, std::string_view text, const std::string& where) {
  // Replacements multiply: a file may not turn a text into something unboundedly long.
  const std::size_t limit = (std::size_t(1) << 20) + 64 * text.size();
  std::string current(text);
  for (const NormalizeStep& step : steps) {
    switch (step.kind) {
      case NormalizeStep::Kind::form: {
        utf8proc_uint8_t* out = nullptr;
        const utf8proc_ssize_t n = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(current.data()), utf8proc_ssize_t(current.size()), &out,
                                                utf8proc_option_t(step.form));
        if (n < 0) return Error{ErrorCode::format, where + ": normalizer", "text that can be normalized", utf8proc_errmsg(n)};
        current.assign(reinterpret_cast<const char*>(out), std::size_t(n));
        std::free(out);
        break;
      }
      case NormalizeStep::Kind::prepend:
        if (!current.empty()) current.insert(0, step.content);
        break;
      case NormalizeStep::Kind::replace: {
        KLENS_TRY(current, step.pattern.replace(current, step.content));
        break;
      }
    }
    if (current.size() > limit) return Error{ErrorCode::overflow, where + ": normalizer", "at most " + std::to_string(limit) + " bytes", std::to_string(current.size())};
  }
  return current;
}

}  // namespace detail
}  // namespace klens
