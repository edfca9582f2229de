// Text as the templates of io/chat_template.hpp see it: Python's str, on UTF-8. Positions count characters, white space
// is what str.isspace() says, searching takes linear time whatever the text. Case mapping is Unicode's one-to-one
// mapping; characters whose mapping is longer, or depends on their neighbours, are not mapped but reported.
// Test: tests/io/chat_template.cpp, against Python.
#pragma once

#include <klens/io/unicode.hpp>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace klens::detail::chat {

constexpr bool is_space(std::uint32_t c) { return is_white_space(c) || (c >= 0x1c && c <= 0x1f); }

inline std::size_t spaces_at(std::string_view text) {
  std::size_t n = 0;
  for (Utf8Char c; n < text.size() && is_space((c = next_char(text.substr(n))).code);) n += c.length;
  return n;
}

/// Where the last character begins. Precondition: text is not empty.
inline std::size_t last_char(std::string_view text) {
  std::size_t at = text.size() - 1;
  while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xc0) == 0x80) --at;
  return at;
}

/// str.strip(): characters of `set` (nullptr: white space) at the ends go.
inline std::string_view strip(std::string_view text, bool left, bool right, const std::string* set = nullptr) {
  const auto goes = [set](std::string_view c) {
    return set == nullptr ? is_space(next_char(c).code) : set->find(c) != std::string::npos;
  };
  while (left && !text.empty()) {
    const std::size_t n = next_char(text).length;
    if (!goes(text.substr(0, n))) break;
    text.remove_prefix(n);
  }
  while (right && !text.empty()) {
    const std::size_t at = last_char(text);
    if (!goes(text.substr(at))) break;
    text = text.substr(0, at);
  }
  return text;
}

inline std::int64_t count_chars(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; });
}

/// Byte offset of character `n`; the end of the text if it has fewer.
inline std::size_t byte_of_char(std::string_view text, std::int64_t n) {
  std::size_t at = 0;
  for (; n > 0 && at < text.size(); --n) at += next_char(text.substr(at)).length;
  return at;
}

/// Finds one text in others, in time linear in both (Knuth, Morris, Pratt): a hostile pattern is no slower.
class Finder {
 public:
  explicit Finder(std::string_view needle) : needle_(needle), border_(needle.size() + 1, 0) {
    for (std::size_t i = 1, k = 0; i < needle.size(); ++i) {
      while (k > 0 && needle[i] != needle[k]) k = border_[k];
      if (needle[i] == needle[k]) ++k;
      border_[i + 1] = k;
    }
  }
  std::size_t find(std::string_view text, std::size_t from = 0) const {
    if (needle_.empty()) return from <= text.size() ? from : std::string_view::npos;
    for (std::size_t i = from, k = 0; i < text.size(); ++i) {
      while (k > 0 && text[i] != needle_[k]) k = border_[k];
      if (text[i] == needle_[k]) ++k;
      if (k == needle_.size()) return i + 1 - k;
    }
    return std::string_view::npos;
  }

 private:
  std::string_view needle_;
  std::vector<std::size_t> border_;
};

/// Characters whose upper, lower or title case is longer than one character or depends on the neighbours, and the few
/// scripts whose mapping changed between versions of Unicode.
constexpr bool has_special_case(std::uint32_t c) {
  return c == 0xdf || c == 0x130 || c == 0x149 || c == 0x1f0 || c == 0x390 || c == 0x3a3 || c == 0x3b0 || c == 0x587 ||
         (c >= 0x10d0 && c <= 0x10ff) || (c >= 0x13a0 && c <= 0x13ff) || (c >= 0x1c80 && c <= 0x1cbf) ||
         (c >= 0x1e96 && c <= 0x1e9e) || (c >= 0x1f50 && c <= 0x1f56) || (c >= 0x1f80 && c <= 0x1fff) ||
         (c >= 0xa7c0 && c <= 0xa7ff) || (c >= 0xab70 && c <= 0xabbf) || (c >= 0xfb00 && c <= 0xfb17) || c >= 0x10400;
}

enum class Case { upper, lower, title, capital };

/// str.upper(), .lower(), .title(), .capitalize(); nothing where a character has no simple mapping.
inline std::optional<std::string> change_case(std::string_view text, Case how) {
  std::string out;
  bool inside = false;  // of a word
  for (std::size_t at = 0; at < text.size();) {
    const Utf8Char c = next_char(text.substr(at));
    at += c.length;
    const auto code = utf8proc_int32_t(c.code);
    if (c.code < 0x80) {
      const bool letter = (c.code | 32u) >= 'a' && (c.code | 32u) <= 'z';
      const bool up = how == Case::upper || (how != Case::lower && !inside);
      out.push_back(char(!letter ? c.code : up ? c.code & ~32u : c.code | 32u));
      inside = how == Case::capital || letter;
      continue;
    }
    const utf8proc_category_t category = utf8proc_category(code);
    const utf8proc_int32_t upper = utf8proc_toupper(code), lower = utf8proc_tolower(code);
    const bool cased = category == UTF8PROC_CATEGORY_LU || category == UTF8PROC_CATEGORY_LL ||
                       category == UTF8PROC_CATEGORY_LT || upper != code || lower != code;
    if (cased && has_special_case(c.code)) return std::nullopt;
    const utf8proc_int32_t mapped = how == Case::upper             ? upper
                                    : how == Case::lower || inside ? lower
                                                                   : utf8proc_totitle(code);
    append_utf8(out, std::uint32_t(mapped));
    inside = how == Case::capital || cased;
  }
  return out;
}

/// repr() of a string.
inline std::string python_quoted(std::string_view text) {
  const char quote = text.find('\'') != text.npos && text.find('"') == text.npos ? '"' : '\'';
  const auto hex = [](std::string& out, std::uint32_t code, int digits) {
    for (int d = digits; d-- > 0;) out.push_back("0123456789abcdef"[(code >> (4 * d)) & 15]);
  };
  std::string out(1, quote);
  for (std::size_t at = 0; at < text.size();) {
    const Utf8Char c = next_char(text.substr(at));
    if (c.code == '\n') {
      out += "\\n";
    } else if (c.code == '\r') {
      out += "\\r";
    } else if (c.code == '\t') {
      out += "\\t";
    } else if (c.code == '\\' || c.code == std::uint32_t(quote)) {
      out += '\\', out += char(c.code);
    } else {
      const utf8proc_category_t g = utf8proc_category(utf8proc_int32_t(c.code));
      const bool prints = c.code == ' ' || !(g == UTF8PROC_CATEGORY_CN || g >= UTF8PROC_CATEGORY_ZS);
      if (prints)
        out += text.substr(at, c.length);
      else if (c.code < 0x100)
        out += "\\x", hex(out, c.code, 2);
      else if (c.code < 0x10000)
        out += "\\u", hex(out, c.code, 4);
      else
        out += "\\U", hex(out, c.code, 8);
    }
    at += c.length;
  }
  return out + quote;
}

/// A string as json.dumps(..., ensure_ascii=False) writes it; with `ascii`, as it does by default.
inline std::string json_quoted(std::string_view text, bool ascii) {
  std::string out = "\"";
  const auto unit = [&out](std::uint32_t code) {
    out += "\\u";
    for (int d = 4; d-- > 0;) out.push_back("0123456789abcdef"[(code >> (4 * d)) & 15]);
  };
  for (std::size_t at = 0; at < text.size();) {
    const Utf8Char c = next_char(text.substr(at));
    constexpr std::string_view from = "\"\\\n\r\t\b\f", to = "\"\\nrtbf";
    if (const std::size_t k = c.code < 0x80 ? from.find(char(c.code)) : from.npos; k != from.npos)
      out += '\\', out += to[k];
    else if (c.code < 0x20 || (ascii && c.code > 0x7e && c.code < 0x10000))
      unit(c.code);
    else if (ascii && c.code >= 0x10000)
      unit(0xd800 + ((c.code - 0x10000) >> 10)), unit(0xdc00 + ((c.code - 0x10000) & 0x3ff));
    else
      out += text.substr(at, c.length);
    at += c.length;
  }
  return out + '"';
}

/// repr() of a float: the shortest digits that read back as the same number.
inline std::string float_text(double x, bool json) {
  if (std::isnan(x)) return json ? "NaN" : "nan";
  if (std::isinf(x)) return std::string(x < 0 ? "-" : "") + (json ? "Infinity" : "inf");
  char buffer[400];
  const double size = std::fabs(x);
  if (size != 0 && (size < 1e-4 || size >= 1e16)) {  // 1e16 is the first that Python writes with an exponent
    const auto end = std::to_chars(buffer, buffer + sizeof buffer, x, std::chars_format::scientific).ptr;
    return std::string(buffer, end);
  }
  std::string text(buffer, std::to_chars(buffer, buffer + sizeof buffer, x, std::chars_format::fixed).ptr);
  return text.find('.') == text.npos ? text + ".0" : text;
}

}  // namespace klens::detail::chat
