// UTF-8 and the few Unicode properties a tokenizer asks for. Categories come from utf8proc.
#pragma once

#include <klens/config.hpp>

#include <utf8proc.h>

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace klens {

/// One character of a text: its code point and bytes. length 0 at the end of the text.
struct Utf8Char {
  std::uint32_t code = 0;
  std::uint32_t length = 0;
  bool valid = true;  // false: a maximal ill-formed sequence of `length` bytes; code is U+FFFD
};

/// Decodes the character at the start of `text`. Ill-formed bytes are taken as the Unicode standard recommends
/// ("maximal subpart", the rule of Rust's and Python's lossy decoders), so that all of them count the same
/// replacements.
inline Utf8Char next_char(std::string_view text) {
  if (text.empty()) return {0, 0, true};
  const auto byte = [&](std::size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
  const unsigned b0 = byte(0);
  if (b0 < 0x80) return {b0, 1, true};
  unsigned need = 0, low = 0x80, high = 0xbf;
  std::uint32_t code = 0;
  if (b0 >= 0xc2 && b0 <= 0xdf)
    need = 1, code = b0 & 0x1f;
  else if (b0 >= 0xe0 && b0 <= 0xef)
    need = 2, code = b0 & 0x0f, low = b0 == 0xe0 ? 0xa0 : 0x80, high = b0 == 0xed ? 0x9f : 0xbf;
  else if (b0 >= 0xf0 && b0 <= 0xf4)
    need = 3, code = b0 & 0x07, low = b0 == 0xf0 ? 0x90 : 0x80, high = b0 == 0xf4 ? 0x8f : 0xbf;
  else
    return {0xfffd, 1, false};
  for (unsigned i = 1; i <= need; ++i) {
    const unsigned b = byte(i);
    if (i >= text.size() || b < low || b > high) return {0xfffd, i, false};
    code = code << 6 | (b & 0x3f);
    low = 0x80, high = 0xbf;
  }
  return {code, need + 1, true};
}

/// Byte offset of the first ill-formed sequence, or npos.
inline std::size_t find_invalid_utf8(std::string_view text) {
  for (std::size_t i = 0; i < text.size();) {
    const Utf8Char c = next_char(text.substr(i));
    if (!c.valid) return i;
    i += c.length;
  }
  return std::string_view::npos;
}

inline constexpr std::string_view replacement_char = "\xef\xbf\xbd";  // U+FFFD

/// Each ill-formed sequence becomes one U+FFFD.
inline std::string to_valid_utf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t i = 0; i < text.size();) {
    const Utf8Char c = next_char(text.substr(i));
    out.append(c.valid ? text.substr(i, c.length) : replacement_char);
    i += c.length;
  }
  return out;
}

/// Bytes at the end of `text` that may still become a character: 0 to 3.
inline std::size_t incomplete_tail(std::string_view text) {
  for (std::size_t back = 1; back <= 3 && back <= text.size(); ++back) {
    const unsigned b = static_cast<unsigned char>(text[text.size() - back]);
    if ((b & 0xc0) == 0x80) continue;
    const std::size_t need = b >= 0xf0 && b <= 0xf4 ? 4 : b >= 0xe0 && b <= 0xef ? 3 : b >= 0xc2 && b <= 0xdf ? 2 : 1;
    // Held back only while what is there is a proper beginning.
    return need > back && next_char(text.substr(text.size() - back)).length == back ? back : 0;
  }
  return 0;
}

inline void append_utf8(std::string& out, std::uint32_t code) {
  if (code < 0x80)
    out.push_back(char(code));
  else if (code < 0x800)
    out.append({char(0xc0 | code >> 6), char(0x80 | (code & 0x3f))});
  else if (code < 0x10000)
    out.append({char(0xe0 | code >> 12), char(0x80 | (code >> 6 & 0x3f)), char(0x80 | (code & 0x3f))});
  else
    out.append({char(0xf0 | code >> 18), char(0x80 | (code >> 12 & 0x3f)), char(0x80 | (code >> 6 & 0x3f)),
                char(0x80 | (code & 0x3f))});
}

/// Property White_Space.
constexpr bool is_white_space(std::uint32_t c) {
  return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) ||
         c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

/// Categories N*.
inline bool is_numeric(std::uint32_t c) {
  if (c < 0x80) return c >= '0' && c <= '9';
  const utf8proc_category_t g = utf8proc_category(utf8proc_int32_t(c));
  return g == UTF8PROC_CATEGORY_ND || g == UTF8PROC_CATEGORY_NL || g == UTF8PROC_CATEGORY_NO;
}

/// ASCII punctuation and symbols, and categories P*.
inline bool is_punctuation(std::uint32_t c) {
  if (c < 0x80) return (c >= 33 && c <= 47) || (c >= 58 && c <= 64) || (c >= 91 && c <= 96) || (c >= 123 && c <= 126);
  const utf8proc_category_t g = utf8proc_category(utf8proc_int32_t(c));
  return g >= UTF8PROC_CATEGORY_PC && g <= UTF8PROC_CATEGORY_PO;
}

/// What \w means: letters, marks, decimal and letter numbers, connectors, joiners.
inline bool is_word(std::uint32_t c) {
  const utf8proc_category_t g = utf8proc_category(utf8proc_int32_t(c));
  return (g >= UTF8PROC_CATEGORY_LU && g <= UTF8PROC_CATEGORY_NL) || g == UTF8PROC_CATEGORY_PC || c == 0x200c ||
         c == 0x200d;
}

/// GPT-2's alphabet: a printable character for each byte (Latin-1 where it prints, else U+0100 upwards in byte order).
inline const std::array<std::uint16_t, 256>& byte_alphabet() {
  static const std::array<std::uint16_t, 256> table = [] {
    std::array<std::uint16_t, 256> t{};
    std::uint16_t next = 256;
    for (unsigned b = 0; b < 256; ++b) {
      const bool prints = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
      t[b] = prints ? std::uint16_t(b) : next++;
    }
    return t;
  }();
  return table;
}

/// Byte of an alphabet character, or -1.
inline int byte_of_alphabet(std::uint32_t code) {
  static const std::array<std::int16_t, 324> inverse = [] {
    std::array<std::int16_t, 324> t{};
    t.fill(-1);
    for (unsigned b = 0; b < 256; ++b) t[byte_alphabet()[b]] = std::int16_t(b);
    return t;
  }();
  return code < inverse.size() ? inverse[code] : -1;
}

}  // namespace klens
