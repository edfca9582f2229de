// The "added_tokens" of a tokenizer.json: strings that are tokens as they stand, found before anything else is done to
// the text: at every place the longest one, from left to right.
#pragma once

#include <klens/io/tokenizer_bpe.hpp>
#include <klens/io/unicode.hpp>

#include <string>
#include <unordered_map>
#include <vector>

namespace klens {
namespace detail {

struct AddedToken {
  std::string content;
  std::int32_t id = 0;
  bool single_word = false, left_strip = false, right_strip = false, normalized = false, special = false;
};

/// A stretch of text, or (id >= 0) an added token.
struct Stretch {
  std::size_t begin, end;
  std::int32_t id;
};

class AddedTokens {
 public:
  void add(std::string_view text, const AddedToken& token) {
    if (text.empty()) return;
    std::int32_t node = 0;
    for (char byte : text) {
      const auto [it, inserted] = edges_.try_emplace(edge_of(node, byte), std::int32_t(ends_.size()));
      if (inserted) ends_.push_back(-1);
      node = it->second;
    }
    ends_[std::size_t(node)] = std::int32_t(tokens_.size());
    tokens_.push_back(token);
    starts_[static_cast<unsigned char>(text[0])] = true;
  }

  std::vector<Stretch> split(std::string_view text) const {
    std::vector<Stretch> out;
    std::size_t last = 0;
    for (std::size_t i = 0; i < text.size();) {
      if (!starts_[static_cast<unsigned char>(text[i])]) {
        ++i;
        continue;
      }
      std::size_t begin = i, end = i;
      const AddedToken* token = nullptr;
      std::int32_t node = 0;
      for (std::size_t k = i; k < text.size(); ++k) {
        const auto edge = edges_.find(edge_of(node, text[k]));
        if (edge == edges_.end()) break;
        node = edge->second;
        if (const std::int32_t t = ends_[std::size_t(node)]; t >= 0) token = &tokens_[std::size_t(t)], end = k + 1;
      }
      if (token == nullptr) {
        ++i;
        continue;
      }
      i = end;
      if (begin < last || (token->single_word && !stands_alone(text, begin, end))) continue;
      if (token->left_strip)
        while (begin > last) {
          std::size_t b = begin - 1;
          while (b > last && (static_cast<unsigned char>(text[b]) & 0xc0) == 0x80) --b;
          if (!is_white_space(next_char(text.substr(b)).code)) break;
          begin = b;
        }
      if (token->right_strip)
        for (Utf8Char c; end < text.size() && is_white_space((c = next_char(text.substr(end))).code);) end += c.length;
      if (begin > last) out.push_back({last, begin, -1});
      out.push_back({begin, end, token->id});
      last = end;
    }
    if (last < text.size()) out.push_back({last, text.size(), -1});
    return out;
  }

 private:
  static std::uint64_t edge_of(std::int32_t node, char byte) {
    return std::uint64_t(std::uint32_t(node)) << 8 | static_cast<unsigned char>(byte);
  }

  static bool stands_alone(std::string_view text, std::size_t begin, std::size_t end) {
    if (end < text.size() && is_word(next_char(text.substr(end)).code)) return false;
    if (begin == 0) return true;
    std::size_t b = begin - 1;
    while (b > 0 && (static_cast<unsigned char>(text[b]) & 0xc0) == 0x80) --b;
    return !is_word(next_char(text.substr(b)).code);
  }

  std::vector<AddedToken> tokens_;
  std::unordered_map<std::uint64_t, std::int32_t> edges_;
  std::vector<std::int32_t> ends_ = {-1};
  bool starts_[256] = {};
};

}  // namespace detail
}  // namespace klens
