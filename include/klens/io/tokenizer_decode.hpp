// The "decoder" of a tokenizer.json: how the strings of tokens become text again.
#pragma once

#include <klens/io/tokenizer_split.hpp>

#include <string>
#include <vector>

namespace klens {
namespace detail {

/// One step; each maps a list of strings to a list of strings, which are joined at the end.
struct DecodeStep {
  enum class Kind { bytes, replace, byte_fallback, fuse, strip, metaspace } kind = Kind::bytes;
  TextPattern pattern;              // replace
  std::string content;              // replace, strip
  std::size_t start = 0, stop = 0;  // strip: characters to take from either end
  MetaspaceOptions metaspace;
};

inline Result<void> read_decoder(const Json& j, const std::string& where, std::vector<DecodeStep>& steps,
                                 int depth = 0) {
  KLENS_TRY(const std::string type, json_string(j, "type", where));
  const std::string place = where + " " + clip(type, 40);
  DecodeStep step;
  if (type == "Sequence") {
    KLENS_OK(only_keys(j, place, {"type", "decoders"}));
    KLENS_TRY(const Json* const list, json_array(j, "decoders", place));
    if (depth >= 8 || list->size() > 64) return Error{ErrorCode::overflow, place, "at most 64 steps, 8 levels", "more"};
    for (const Json& each : *list) KLENS_OK(read_decoder(each, place, steps, depth + 1));
    return {};
  }
  if (type == "ByteLevel") {
    KLENS_OK(only_keys(j, place,
                       {"type", "add_prefix_space", "trim_offsets", "use_regex"}));  // none of them changes the text
  } else if (type == "Replace") {
    KLENS_OK(only_keys(j, place, {"type", "pattern", "content"}));
    step.kind = DecodeStep::Kind::replace;
    KLENS_TRY(step.pattern, read_pattern(j, "pattern", place));
    KLENS_TRY(step.content, json_string(j, "content", place));
  } else if (type == "ByteFallback") {
    KLENS_OK(only_keys(j, place, {"type"}));
    step.kind = DecodeStep::Kind::byte_fallback;
  } else if (type == "Fuse") {
    KLENS_OK(only_keys(j, place, {"type"}));
    step.kind = DecodeStep::Kind::fuse;
  } else if (type == "Strip") {
    KLENS_OK(only_keys(j, place, {"type", "content", "start", "stop"}));
    step.kind = DecodeStep::Kind::strip;
    KLENS_TRY(step.content, json_string(j, "content", place));
    if (step.content.empty()) return Error{ErrorCode::format, place + ": 'content'", "one character", "''"};
    KLENS_TRY(const std::int64_t start, json_int(j, "start", place, 0, 1 << 20));
    KLENS_TRY(const std::int64_t stop, json_int(j, "stop", place, 0, 1 << 20));
    step.start = std::size_t(start);
    step.stop = std::size_t(stop);
  } else if (type == "Metaspace") {
    step.kind = DecodeStep::Kind::metaspace;
    KLENS_TRY(step.metaspace, read_metaspace(j, place));
  } else {
    return Error{ErrorCode::unsupported, where + ": 'type'",
                 "ByteLevel, Replace, ByteFallback, Fuse, Strip, Metaspace or Sequence", "'" + clip(type, 40) + "'"};
  }
  steps.push_back(std::move(step));
  return {};
}

/// The bytes a token of the byte alphabet stands for; a token with any other character (an added one) stands for
/// itself.
inline void append_bytes_of(std::string_view token, std::string& out) {
  const std::size_t before = out.size();
  for (std::size_t i = 0; i < token.size();) {
    const Utf8Char c = next_char(token.substr(i));
    const int byte = byte_of_alphabet(c.code);
    if (byte < 0) {
      out.resize(before);
      out.append(token);
      return;
    }
    out.push_back(char(byte));
    i += c.length;
  }
}

/// The byte of "<0x0A>", or -1.
inline int byte_of_fallback(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return -1;
  int value = 0;
  for (char c : token.substr(3, 2)) {
    const int digit = c >= '0' && c <= '9'   ? c - '0'
                      : c >= 'A' && c <= 'F' ? c - 'A' + 10
                      : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                             : -1;
    if (digit < 0) return -1;
    value = value * 16 + digit;
  }
  return value;
}

inline Result<void> apply_decoder(const DecodeStep& step, std::vector<std::string>& parts) {
  std::vector<std::string> out;
  switch (step.kind) {
    case DecodeStep::Kind::bytes: {
      std::string bytes;
      for (const std::string& p : parts) append_bytes_of(p, bytes);
      out.push_back(to_valid_utf8(bytes));
      break;
    }
    case DecodeStep::Kind::replace:
      for (const std::string& p : parts) {
        KLENS_TRY(std::string text,
                  step.pattern.replace(p, step.content, (std::size_t(1) << 20) + 64 * p.size(), "decoder Replace"));
        out.push_back(std::move(text));
      }
      break;
    case DecodeStep::Kind::byte_fallback: {
      std::string bytes;
      const auto flush = [&] {
        if (bytes.empty()) return;
        if (find_invalid_utf8(bytes) == std::string_view::npos)
          out.push_back(bytes);
        else
          out.insert(out.end(), bytes.size(), std::string(replacement_char));  // one per byte, as the reference has it
        bytes.clear();
      };
      for (std::string& p : parts) {
        if (const int byte = byte_of_fallback(p); byte >= 0) {
          bytes.push_back(char(byte));
        } else {
          flush();
          out.push_back(std::move(p));
        }
      }
      flush();
      break;
    }
    case DecodeStep::Kind::fuse: {
      std::string all;
      for (const std::string& p : parts) all += p;
      out.push_back(std::move(all));
      break;
    }
    case DecodeStep::Kind::strip:
      for (const std::string& p : parts) {
        std::string_view text = p;
        for (std::size_t i = 0; i < step.start && text.starts_with(step.content); ++i)
          text.remove_prefix(step.content.size());
        for (std::size_t i = 0; i < step.stop && text.ends_with(step.content); ++i)
          text.remove_suffix(step.content.size());
        out.emplace_back(text);
      }
      break;
    case DecodeStep::Kind::metaspace:
      for (std::size_t i = 0; i < parts.size(); ++i) {
        const TextPattern mark{step.metaspace.replacement, {}};
        const bool drop = i == 0 && step.metaspace.prefix != SplitStep::Prefix::never;
        KLENS_TRY(std::string text, mark.replace(parts[i], drop ? "" : " ", parts[i].size(), "decoder Metaspace"));
        out.push_back(std::move(text));
      }
      break;
  }
  parts = std::move(out);
  return {};
}

}  // namespace detail
}  // namespace klens
