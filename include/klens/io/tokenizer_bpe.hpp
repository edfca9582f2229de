// Byte-pair encoding: a word starts as its characters; the pair of neighbours that stands first in the list of merges
// is joined (leftmost first), until no pair is in the list. A heap over linked symbols: O(n log n) per word.
#pragma once

#include <klens/io/tokenizer_normalize.hpp>

#include <algorithm>
#include <array>
#include <limits>
#include <queue>
#include <string>
#include <unordered_map>
#include <vector>

namespace klens {
namespace detail {

/// Largest id among `count` tokens: files leave holes, but not many; a table by id must not be one token's to blow up.
constexpr std::int64_t max_token_id(std::size_t count) {
  return std::min<std::int64_t>(4 * std::int64_t(count) + (1 << 16), 1 << 24);
}
inline constexpr std::size_t max_token_bytes = 16 << 10;

struct StringHash {
  using is_transparent = void;
  std::size_t operator()(std::string_view s) const { return std::hash<std::string_view>()(s); }
};
using TokenIds = std::unordered_map<std::string, std::int32_t, StringHash, std::equal_to<>>;

/// Tokens in both directions. Ids may have holes.
struct Vocabulary {
  TokenIds ids;
  std::vector<std::string> tokens;  // by id; empty where there is none
  std::vector<bool> present;        // by id

  const std::int32_t* find(std::string_view token) const {
    const auto it = ids.find(token);
    return it == ids.end() ? nullptr : &it->second;
  }
  bool has(std::int64_t id) const { return id >= 0 && id < std::int64_t(present.size()) && present[std::size_t(id)]; }
  Result<void> add(const std::string& token, std::int64_t id, const std::string& where) {
    if (token.size() > max_token_bytes)
      return Error{ErrorCode::overflow, where, "tokens of at most " + std::to_string(max_token_bytes) + " bytes",
                   std::to_string(token.size())};
    if (std::size_t(id) >= tokens.size()) tokens.resize(std::size_t(id) + 1), present.resize(std::size_t(id) + 1);
    if (present[std::size_t(id)] || !ids.emplace(token, std::int32_t(id)).second)
      return Error{ErrorCode::format, where + ": token '" + clip(token, 60) + "'", "every token and id once",
                   "id " + std::to_string(id) + " again"};
    tokens[std::size_t(id)] = token;
    present[std::size_t(id)] = true;
    return {};
  }
};

class Bpe {
 public:
  static Result<Bpe> read(const Json& model, const std::string& where, Vocabulary& vocabulary) {
    KLENS_OK(only_keys(model, where,
                       {"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk",
                        "byte_fallback", "ignore_merges", "vocab", "merges"}));
    KLENS_TRY(const double dropout, json_number_or(model, "dropout", where, 0, 0, 1));
    if (dropout != 0)
      return key_error(&model["dropout"], "dropout", where, "null or 0 (klens encodes deterministically)");
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      KLENS_TRY(const std::string text, json_string_or(model, key, where, ""));
      if (!text.empty())
        return Error{ErrorCode::unsupported, where + ": '" + key + "'", "null or ''", "'" + clip(text, 40) + "'"};
    }
    Bpe bpe;
    KLENS_TRY(bpe.fuse_unknown_, json_bool_or(model, "fuse_unk", where, false));
    KLENS_TRY(const bool byte_fallback, json_bool_or(model, "byte_fallback", where, false));
    KLENS_TRY(bpe.ignore_merges_, json_bool_or(model, "ignore_merges", where, false));
    KLENS_TRY(const Json* const vocab, json_object(model, "vocab", where));
    const std::int64_t largest = max_token_id(vocab->size());
    for (const auto& [token, id] : vocab->items()) {
      const std::int64_t n = id.is_number_integer() && id <= largest && id >= 0 ? id.get<std::int64_t>() : -1;
      if (n < 0)
        return Error{ErrorCode::format, where + ": 'vocab': token '" + clip(token, 60) + "'",
                     "an id in 0.." + std::to_string(largest), describe(id)};
      KLENS_OK(vocabulary.add(token, n, where + ": 'vocab'"));
    }
    KLENS_TRY(const std::string unknown, json_string_or(model, "unk_token", where, ""));
    if (!json_absent(model, "unk_token")) {
      const std::int32_t* id = vocabulary.find(unknown);
      if (id == nullptr)
        return Error{ErrorCode::missing, where + ": 'unk_token'", "a token of 'vocab'", "'" + clip(unknown, 60) + "'"};
      bpe.unknown_ = *id;
    }
    bpe.byte_tokens_.fill(-1);
    for (int b = 0; byte_fallback && b < 256; ++b) {
      constexpr char digits[] = "0123456789ABCDEF";
      const char name[] = {'<', '0', 'x', digits[b >> 4], digits[b & 15], '>'};
      if (const std::int32_t* id = vocabulary.find(std::string_view(name, 6))) bpe.byte_tokens_[std::size_t(b)] = *id;
    }
    KLENS_OK(bpe.read_merges(model, where, vocabulary));
    return bpe;
  }

  /// Appends the tokens of a word of valid UTF-8.
  void encode(std::string_view word, const Vocabulary& vocabulary, std::vector<std::int32_t>& out) const {
    if (ignore_merges_)
      if (const std::int32_t* id = vocabulary.find(word)) {
        out.push_back(*id);
        return;
      }
    std::vector<Symbol> symbols;
    start(word, vocabulary, symbols);
    merge(symbols);
    for (const Symbol& s : symbols)
      if (s.live) out.push_back(s.id);
  }

 private:
  struct Symbol {
    std::int32_t id, previous, next;
    bool live;
  };
  struct Merge {
    std::uint32_t rank;
    std::int32_t id;
  };
  struct Candidate {
    std::uint32_t rank;
    std::int32_t at, id;
    bool operator<(const Candidate& other) const {  // std::priority_queue gives the largest: lowest rank, then leftmost
      return rank != other.rank ? rank > other.rank : at > other.at;
    }
  };

  static std::uint64_t pair_of(std::int32_t a, std::int32_t b) {
    return std::uint64_t(std::uint32_t(a)) << 32 | std::uint32_t(b);
  }

  /// Merges come as ["a", "b"] or as "a b".
  Result<void> read_merges(const Json& model, const std::string& where, const Vocabulary& vocabulary) {
    KLENS_TRY(const Json* const merges, json_array(model, "merges", where));
    merges_.reserve(merges->size());
    std::string joined;
    for (std::size_t i = 0; i < merges->size(); ++i) {
      const Json& m = (*merges)[i];
      const auto place = [&] { return where + ": 'merges'[" + std::to_string(i) + "]"; };
      std::string_view left, right;
      if (m.is_array() && m.size() == 2 && m[0].is_string() && m[1].is_string()) {
        left = m[0].get_ref<const std::string&>();
        right = m[1].get_ref<const std::string&>();
      } else if (m.is_string()) {
        const std::string_view text = m.get_ref<const std::string&>();
        const std::size_t space = text.find(' ');
        if (space == std::string_view::npos || text.find(' ', space + 1) != std::string_view::npos)
          return Error{ErrorCode::format, place(), "two tokens and one space", describe(m)};
        left = text.substr(0, space);
        right = text.substr(space + 1);
      } else {
        return Error{ErrorCode::format, place(), "a pair of tokens", describe(m)};
      }
      joined.assign(left).append(right);
      const std::int32_t *a = vocabulary.find(left), *b = vocabulary.find(right), *c = vocabulary.find(joined);
      if (!a || !b || !c)
        return Error{ErrorCode::missing, place(), "tokens of 'vocab'",
                     "'" +
                         clip(!a   ? left
                              : !b ? right
                                   : std::string_view(joined),
                              60) +
                         "'"};
      merges_.insert_or_assign(pair_of(*a, *b), Merge{std::uint32_t(i), *c});
    }
    return {};
  }

  /// One symbol per character; characters without a token become bytes, or the unknown token, or nothing.
  void start(std::string_view word, const Vocabulary& vocabulary, std::vector<Symbol>& symbols) const {
    const auto push = [&](std::int32_t id) {
      symbols.push_back({id, std::int32_t(symbols.size()) - 1, std::int32_t(symbols.size()) + 1, true});
    };
    bool pending = false;  // an unknown token that may still be fused with the next
    for (std::size_t i = 0; i < word.size();) {
      const std::uint32_t length = next_char(word.substr(i)).length;
      const std::string_view c = word.substr(i, length);
      i += length;
      if (const std::int32_t* id = vocabulary.find(c)) {
        if (pending) push(unknown_);
        pending = false;
        push(*id);
        continue;
      }
      bool all = true;
      for (unsigned char b : c) all &= byte_tokens_[b] >= 0;
      if (all) {
        for (unsigned char b : c) push(byte_tokens_[b]);
        continue;
      }
      if (unknown_ < 0) continue;
      if (pending && !fuse_unknown_) push(unknown_);
      pending = true;
    }
    if (pending) push(unknown_);
    if (!symbols.empty()) symbols.back().next = -1;
  }

  void merge(std::vector<Symbol>& symbols) const {
    std::priority_queue<Candidate> queue;
    const auto consider = [&](std::int32_t left) {
      const std::int32_t right = symbols[std::size_t(left)].next;
      if (right < 0) return;
      const auto it = merges_.find(pair_of(symbols[std::size_t(left)].id, symbols[std::size_t(right)].id));
      if (it != merges_.end()) queue.push({it->second.rank, left, it->second.id});
    };
    for (std::int32_t i = 0; i + 1 < std::int32_t(symbols.size()); ++i) consider(i);
    while (!queue.empty()) {
      const Candidate c = queue.top();
      queue.pop();
      Symbol& left = symbols[std::size_t(c.at)];
      if (!left.live || left.next < 0) continue;
      Symbol& right = symbols[std::size_t(left.next)];
      const auto it = merges_.find(pair_of(left.id, right.id));
      if (it == merges_.end() || it->second.id != c.id) continue;  // one of the two was merged meanwhile
      left.id = c.id;
      right.live = false;
      left.next = right.next;
      if (left.next >= 0) symbols[std::size_t(left.next)].previous = c.at;
      if (left.previous >= 0) consider(left.previous);
      consider(c.at);
    }
  }

  std::unordered_map<std::uint64_t, Merge> merges_;
  std::array<std::int32_t, 256> byte_tokens_{};
  std::int32_t unknown_ = -1;
  bool fuse_unknown_ = false, ignore_merges_ = false;
};

}  // namespace detail
}  // namespace klens
