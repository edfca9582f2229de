// The "normalizer" of a tokenizer.json: what happens to the text between added tokens, before it is split.
#pragma once

#include <klens/io/json.hpp>
#include <klens/io/regex.hpp>
#include <klens/io/unicode.hpp>

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

namespace klens {
namespace detail {

/// Refuses keys a reader does not know: an option that is ignored would change token ids in silence.
inline Result<void> only_keys(const Json& object, const std::string& where,
                              std::initializer_list<std::string_view> known) {
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

  /// The text with `content` in place of every match; an Error once it is longer than `limit` bytes.
  Result<std::string> replace(std::string_view text, std::string_view content, std::size_t limit,
                              const std::string& where) const {
    std::string out;
    std::size_t last = 0;
    KLENS_OK(for_each_match(text, [&](Regex::Match m) -> Result<void> {
      out.append(text.substr(last, m.begin - last)).append(content);
      last = m.end;
      if (out.size() > limit)
        return Error{ErrorCode::overflow, where + ": replacement", "at most " + std::to_string(limit) + " bytes",
                     "more"};
      return {};
    }));
    return out.append(text.substr(last));
  }
};

inline Result<TextPattern> read_pattern(const Json& object, std::string_view key, const std::string& where) {
  KLENS_TRY(const Json* const j, json_object(object, key, where));
  const std::string place = where + ": '" + std::string(key) + "'";
  KLENS_OK(only_keys(*j, place, {"String", "Regex"}));
  if (j->size() != 1)
    return Error{ErrorCode::format, place, "either 'String' or 'Regex'", std::to_string(j->size()) + " keys"};
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
  int form = 0;  // utf8proc options
  std::string content;
  TextPattern pattern;
};

inline Result<void> read_normalizer(const Json& j, const std::string& where, std::vector<NormalizeStep>& steps,
                                    int depth = 0) {
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
    return Error{ErrorCode::unsupported, where + ": 'type'", "NFC, NFD, NFKC, NFKD, Prepend, Replace or Sequence",
                 "'" + clip(type, 40) + "'"};
  }
  steps.push_back(std::move(step));
  return {};
}

inline bool is_ascii(std::string_view text) {
  return std::ranges::all_of(text, [](unsigned char c) { return c < 0x80; });
}

/// Unicode normal form of valid UTF-8, in place; false where utf8proc refuses. Marks are put in canonical order with a
/// sort of our own, because utf8proc's is quadratic in the length of a run of marks: half a million of them would take
/// an hour.
inline bool to_normal_form(std::string& text, int form) {
  std::vector<utf8proc_int32_t> codes;
  codes.reserve(text.size());
  for (std::size_t i = 0; i < text.size();) {
    const Utf8Char c = next_char(std::string_view(text).substr(i, 4));
    utf8proc_int32_t parts[32];
    int boundary = 0;
    const utf8proc_ssize_t n =
        utf8proc_decompose_char(utf8proc_int32_t(c.code), parts, 32, utf8proc_option_t(form), &boundary);
    if (n < 0 || n > 32) return false;
    codes.insert(codes.end(), parts, parts + n);
    i += c.length;
  }
  const auto rank = [](utf8proc_int32_t c) { return utf8proc_get_property(c)->combining_class; };
  for (std::size_t i = 0; i < codes.size();) {
    std::size_t end = i;
    while (end < codes.size() && rank(codes[end]) != 0) ++end;
    std::stable_sort(codes.begin() + std::ptrdiff_t(i), codes.begin() + std::ptrdiff_t(end),
                     [&](utf8proc_int32_t a, utf8proc_int32_t b) { return rank(a) < rank(b); });
    i = end + 1;
  }
  const utf8proc_ssize_t n =
      utf8proc_normalize_utf32(codes.data(), utf8proc_ssize_t(codes.size()), utf8proc_option_t(form));
  if (n < 0) return false;
  text.clear();
  for (std::size_t i = 0; i < std::size_t(n); ++i) append_utf8(text, std::uint32_t(codes[i]));
  return true;
}

/// `text` is valid UTF-8; so is the result.
inline Result<std::string> normalize(const std::vector<NormalizeStep>& steps, std::string_view text,
                                     const std::string& where) {
  // Replacements multiply: a file may not turn a text into something unboundedly long.
  const std::size_t limit = (std::size_t(1) << 20) + 64 * text.size();
  std::string current(text);
  for (const NormalizeStep& step : steps) {
    switch (step.kind) {
      case NormalizeStep::Kind::form:
        if (!is_ascii(current) && !to_normal_form(current, step.form))
          return Error{ErrorCode::format, where + ": normalizer", "text that can be normalized", "other text"};
        break;
      case NormalizeStep::Kind::prepend:
        if (!current.empty()) current.insert(0, step.content);
        break;
      case NormalizeStep::Kind::replace: {
        KLENS_TRY(current, step.pattern.replace(current, step.content, limit, where));
        break;
      }
    }
    if (current.size() > limit)
      return Error{ErrorCode::overflow, where + ": normalizer", "at most " + std::to_string(limit) + " bytes",
                   std::to_string(current.size())};
  }
  return current;
}

}  // namespace detail
}  // namespace klens
