// The "pre_tokenizer" of a tokenizer.json: how a normalized text is cut into words, which the model then splits.
#pragma once

#include <klens/io/tokenizer_normalize.hpp>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

namespace klens {
namespace detail {

/// GPT-2's pattern: contractions, then runs of letters, digits or others with one space before, then white space.
inline constexpr std::string_view gpt2_pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

/// What becomes of the matches of a split.
enum class SplitBehavior { isolated, removed, merged_with_previous, merged_with_next, contiguous };

/// A piece of text; `first` where nothing of the text came before it.
struct Word {
  std::string text;
  bool first = false;
};

/// Cuts words at matches. `find(text, sink)` calls sink(Match) from left to right.
template <class Find>
Result<void> split_words(std::vector<Word>& words, SplitBehavior behavior, bool invert, Find&& find) {
  struct Span {
    std::size_t begin, end;
    bool match;
  };
  std::vector<Word> out;
  std::vector<Span> spans, merged;
  for (Word& word : words) {
    const std::string_view text = word.text;
    spans.clear();
    std::size_t last = 0;
    KLENS_OK(find(text, [&](Regex::Match m) -> Result<void> {
      if (m.begin > last) spans.push_back({last, m.begin, invert});
      spans.push_back({m.begin, m.end, !invert});
      last = m.end;
      return {};
    }));
    if (last < text.size()) spans.push_back({last, text.size(), invert});
    merged.clear();
    bool previous = false;
    if (behavior == SplitBehavior::merged_with_next) {
      for (std::size_t i = spans.size(); i-- > 0;) {
        const Span s = spans[i];
        if (s.match && !previous && !merged.empty())
          merged.back().begin = s.begin;
        else
          merged.push_back(s);
        previous = s.match;
      }
      std::ranges::reverse(merged);
    } else {
      for (const Span s : spans) {
        switch (behavior) {
          case SplitBehavior::isolated: merged.push_back(s); break;
          case SplitBehavior::removed:
            if (!s.match) merged.push_back(s);
            break;
          case SplitBehavior::contiguous:
            if (s.match == previous && !merged.empty())
              merged.back().end = s.end;
            else
              merged.push_back(s);
            break;
          default:  // merged_with_previous
            if (s.match && !previous && !merged.empty())
              merged.back().end = s.end;
            else
              merged.push_back(s);
            break;
        }
        previous = s.match;
      }
    }
    for (const Span& s : merged)
      if (s.end > s.begin)
        out.push_back({std::string(text.substr(s.begin, s.end - s.begin)), word.first && s.begin == 0});
  }
  words = std::move(out);
  return {};
}

/// Calls sink for every single character that `is` accepts.
template <class Is, class Sink>
Result<void> for_each_char(std::string_view text, Is&& is, Sink&& sink) {
  for (std::size_t i = 0; i < text.size();) {
    const Utf8Char c = next_char(text.substr(i));
    if (is(c.code)) KLENS_OK(sink(Regex::Match{i, i + c.length}));
    i += c.length;
  }
  return {};
}

/// One step of a pre-tokenizer.
struct SplitStep {
  enum class Kind { pattern, digits, punctuation, bytes, metaspace } kind = Kind::pattern;
  SplitBehavior behavior = SplitBehavior::isolated;
  bool invert = false;
  TextPattern pattern;            // pattern; the GPT-2 pattern of bytes where it has one
  bool add_prefix_space = false;  // bytes
  std::string replacement;        // metaspace: stands for the space
  enum class Prefix { never, first, always } prefix = Prefix::never;
  bool split = true;
};

inline Result<SplitBehavior> read_behavior(const Json& j, const std::string& where) {
  KLENS_TRY(const std::string name, json_string(j, "behavior", where));
  constexpr std::pair<std::string_view, SplitBehavior> known[] = {
      {"Isolated", SplitBehavior::isolated},
      {"Removed", SplitBehavior::removed},
      {"MergedWithPrevious", SplitBehavior::merged_with_previous},
      {"MergedWithNext", SplitBehavior::merged_with_next},
      {"Contiguous", SplitBehavior::contiguous}};
  for (const auto& [text, behavior] : known)
    if (text == name) return behavior;
  return Error{ErrorCode::unsupported, where + ": 'behavior'",
               "Isolated, Removed, MergedWithPrevious, MergedWithNext or Contiguous", "'" + clip(name, 40) + "'"};
}

/// Options of Metaspace, shared by pre-tokenizer and decoder.
struct MetaspaceOptions {
  std::string replacement;
  SplitStep::Prefix prefix = SplitStep::Prefix::always;
  bool split = true;
};

inline Result<MetaspaceOptions> read_metaspace(const Json& j, const std::string& where) {
  KLENS_OK(only_keys(j, where, {"type", "replacement", "add_prefix_space", "prepend_scheme", "split", "str_rep"}));
  MetaspaceOptions m;
  KLENS_TRY(m.replacement, json_string(j, "replacement", where));
  if (m.replacement.empty() || next_char(m.replacement).length != m.replacement.size())
    return Error{ErrorCode::format, where + ": 'replacement'", "one character", "'" + clip(m.replacement, 40) + "'"};
  KLENS_TRY(const bool prefix_space, json_bool_or(j, "add_prefix_space", where, true));
  KLENS_TRY(const std::string scheme, json_string_or(j, "prepend_scheme", where, prefix_space ? "always" : "never"));
  if (scheme == "always")
    m.prefix = SplitStep::Prefix::always;
  else if (scheme == "first")
    m.prefix = SplitStep::Prefix::first;
  else if (scheme == "never")
    m.prefix = SplitStep::Prefix::never;
  else
    return Error{ErrorCode::unsupported, where + ": 'prepend_scheme'", "always, first or never",
                 "'" + clip(scheme, 40) + "'"};
  KLENS_TRY(m.split, json_bool_or(j, "split", where, true));
  return m;
}

inline Result<void> read_splitter(const Json& j, const std::string& where, std::vector<SplitStep>& steps,
                                  int depth = 0) {
  if (j.is_null()) return {};
  KLENS_TRY(const std::string type, json_string(j, "type", where));
  const std::string place = where + " " + clip(type, 40);
  SplitStep step;
  if (type == "Sequence") {
    KLENS_OK(only_keys(j, place, {"type", "pretokenizers"}));
    KLENS_TRY(const Json* const list, json_array(j, "pretokenizers", place));
    if (depth >= 8 || list->size() > 64) return Error{ErrorCode::overflow, place, "at most 64 steps, 8 levels", "more"};
    for (const Json& each : *list) KLENS_OK(read_splitter(each, place, steps, depth + 1));
    return {};
  }
  if (type == "ByteLevel") {
    KLENS_OK(only_keys(j, place, {"type", "add_prefix_space", "trim_offsets", "use_regex"}));
    step.kind = SplitStep::Kind::bytes;
    KLENS_TRY(step.add_prefix_space, json_bool(j, "add_prefix_space", place));
    KLENS_TRY(const bool use_regex, json_bool_or(j, "use_regex", place, true));
    if (use_regex) {
      KLENS_TRY(step.pattern.regex, Regex::compile(gpt2_pattern, place));
    }
  } else if (type == "Split") {
    KLENS_OK(only_keys(j, place, {"type", "pattern", "behavior", "invert"}));
    KLENS_TRY(step.pattern, read_pattern(j, "pattern", place));
    KLENS_TRY(step.behavior, read_behavior(j, place));
    KLENS_TRY(step.invert, json_bool_or(j, "invert", place, false));
  } else if (type == "Digits") {
    KLENS_OK(only_keys(j, place, {"type", "individual_digits"}));
    step.kind = SplitStep::Kind::digits;
    KLENS_TRY(const bool single, json_bool_or(j, "individual_digits", place, false));
    step.behavior = single ? SplitBehavior::isolated : SplitBehavior::contiguous;
  } else if (type == "Punctuation") {
    KLENS_OK(only_keys(j, place, {"type", "behavior"}));
    step.kind = SplitStep::Kind::punctuation;
    if (j.contains("behavior")) {
      KLENS_TRY(step.behavior, read_behavior(j, place));
    }
  } else if (type == "Metaspace") {
    step.kind = SplitStep::Kind::metaspace;
    KLENS_TRY(const MetaspaceOptions m, read_metaspace(j, place));
    step.replacement = m.replacement;
    step.prefix = m.prefix;
    step.split = m.split;
  } else {
    return Error{ErrorCode::unsupported, where + ": 'type'",
                 "ByteLevel, Split, Digits, Punctuation, Metaspace or Sequence", "'" + clip(type, 40) + "'"};
  }
  steps.push_back(std::move(step));
  return {};
}

/// A word in the byte alphabet.
inline std::string to_byte_alphabet(std::string_view text) {
  std::string out;
  out.reserve(text.size() + text.size() / 2);
  for (unsigned char b : text) append_utf8(out, byte_alphabet()[b]);
  return out;
}

inline Result<void> apply_split(const SplitStep& step, std::vector<Word>& words) {
  switch (step.kind) {
    case SplitStep::Kind::pattern:
      return split_words(words, step.behavior, step.invert,
                         [&](std::string_view text, auto&& sink) { return step.pattern.for_each_match(text, sink); });
    case SplitStep::Kind::digits:
      return split_words(words, step.behavior, false,
                         [&](std::string_view text, auto&& sink) { return for_each_char(text, is_numeric, sink); });
    case SplitStep::Kind::punctuation:
      return split_words(words, step.behavior, false,
                         [&](std::string_view text, auto&& sink) { return for_each_char(text, is_punctuation, sink); });
    case SplitStep::Kind::bytes:
      if (step.add_prefix_space)
        for (Word& w : words)
          if (!w.text.empty() && w.text[0] != ' ') w.text.insert(0, 1, ' ');
      if (step.pattern.regex)
        KLENS_OK(split_words(words, SplitBehavior::isolated, false, [&](std::string_view text, auto&& sink) {
          return step.pattern.for_each_match(text, sink);
        }));
      for (Word& w : words) w.text = to_byte_alphabet(w.text);
      return {};
    case SplitStep::Kind::metaspace: {
      const TextPattern space{" ", {}}, mark{step.replacement, {}};
      for (Word& w : words) {
        // A space becomes at most four bytes.
        KLENS_TRY(w.text, space.replace(w.text, step.replacement, 4 * w.text.size(), "Metaspace"));
        const bool wanted =
            step.prefix == SplitStep::Prefix::always || (step.prefix == SplitStep::Prefix::first && w.first);
        if (wanted && !w.text.empty() && !w.text.starts_with(step.replacement)) w.text.insert(0, step.replacement);
      }
      if (!step.split) return {};
      return split_words(words, SplitBehavior::merged_with_next, false,
                         [&](std::string_view text, auto&& sink) { return mark.for_each_match(text, sink); });
    }
  }
  return {};
}

}  // namespace detail
}  // namespace klens
