// Unigram: the segmentation of a word whose tokens have the largest sum of scores (Viterbi over byte positions). A
// character that no token covers costs the lowest score minus 10.
#pragma once

#include <klens/io/tokenizer_bpe.hpp>

#include <algorithm>
#include <limits>
#include <string>
#include <unordered_map>
#include <vector>

namespace klens {
namespace detail {

class Unigram {
 public:
  static Result<Unigram> read(const Json& model, const std::string& where, Vocabulary& vocabulary) {
    KLENS_OK(only_keys(model, where, {"type", "unk_id", "vocab", "byte_fallback"}));
    Unigram u;
    KLENS_TRY(const Json* const vocab, json_array(model, "vocab", where));
    constexpr std::size_t most = 1 << 22;
    if (vocab->empty() || vocab->size() > most)
      return key_error(vocab, "vocab", where, "1.." + std::to_string(most) + " tokens");
    double lowest = std::numeric_limits<double>::infinity();
    for (std::size_t i = 0; i < vocab->size(); ++i) {
      const Json& entry = (*vocab)[i];
      if (!entry.is_array() || entry.size() != 2 || !entry[0].is_string() || !entry[1].is_number())
        return Error{ErrorCode::format, where + ": 'vocab'[" + std::to_string(i) + "]", "[token, score]",
                     describe(entry)};
      const std::string& token = entry[0].get_ref<const std::string&>();
      KLENS_OK(vocabulary.add(token, std::int64_t(i), where + ": 'vocab'"));
      u.scores_.push_back(entry[1].get<double>());
      lowest = std::min(lowest, u.scores_.back());
      KLENS_OK(u.add_to_trie(token, std::int32_t(i), where));
    }
    u.unknown_score_ = lowest - 10.0;
    if (!json_absent(model, "unk_id")) {
      KLENS_TRY(const std::int64_t id, json_int(model, "unk_id", where, 0, std::int64_t(vocab->size()) - 1));
      u.unknown_ = std::int32_t(id);
    }
    KLENS_TRY(const bool byte_fallback, json_bool_or(model, "byte_fallback", where, false));
    if (byte_fallback) return Error{ErrorCode::unsupported, where + ": 'byte_fallback'", "false", "true"};
    return u;
  }

  /// Appends the tokens of a word of valid UTF-8. Without an unknown token, a word that needs one is an Error.
  Result<void> encode(std::string_view word, const Vocabulary&, const std::string& where,
                      std::vector<std::int32_t>& out) const {
    struct Node {
      double score = 0;
      std::size_t from = 0;
      std::int32_t id = -1;
      bool reached = false;
    };
    std::vector<Node> best(word.size() + 1);
    best[0].reached = true;
    const auto offer = [&](std::size_t from, std::size_t to, std::int32_t id, double score) {
      if (!best[to].reached || score > best[to].score) best[to] = {score, from, id, true};
    };
    for (std::size_t at = 0; at < word.size();) {
      const std::size_t length = next_char(word.substr(at)).length;
      bool single = false;
      std::int32_t node = 0;
      for (std::size_t i = at; i < word.size(); ++i) {
        const auto edge = edges_.find(edge_of(node, word[i]));
        if (edge == edges_.end()) break;
        node = edge->second;
        if (const std::int32_t id = ends_[std::size_t(node)]; id >= 0) {
          offer(at, i + 1, id, best[at].score + scores_[std::size_t(id)]);
          single |= i + 1 - at == length;
        }
      }
      if (!single) {
        if (unknown_ < 0)
          return Error{ErrorCode::missing, where + ": 'unk_id'", "an unknown token for '" + clip(word, 40) + "'",
                       "none"};
        offer(at, at + length, unknown_, best[at].score + unknown_score_);
      }
      at += length;
    }
    const std::size_t first = out.size();
    for (std::size_t at = word.size(); at > 0; at = best[at].from)
      if (best[at].id != unknown_ || out.size() == first || out.back() != unknown_)
        out.push_back(best[at].id);  // unknowns in a row are one
    std::reverse(out.begin() + std::ptrdiff_t(first), out.end());
    return {};
  }

 private:
  static std::uint64_t edge_of(std::int32_t node, char byte) {
    return std::uint64_t(std::uint32_t(node)) << 8 | static_cast<unsigned char>(byte);
  }

  Result<void> add_to_trie(std::string_view token, std::int32_t id, const std::string& where) {
    constexpr std::size_t longest = 1024;  // the search looks ahead that far at every character
    if (token.size() > longest)
      return Error{ErrorCode::overflow, where + ": 'vocab'", "tokens of at most " + std::to_string(longest) + " bytes",
                   std::to_string(token.size())};
    std::int32_t node = 0;
    for (char byte : token) {
      const auto [it, inserted] = edges_.try_emplace(edge_of(node, byte), std::int32_t(ends_.size()));
      if (inserted) ends_.push_back(-1);
      node = it->second;
    }
    if (node != 0) ends_[std::size_t(node)] = id;
    return {};
  }

  std::vector<double> scores_;
  std::unordered_map<std::uint64_t, std::int32_t> edges_;
  std::vector<std::int32_t> ends_ = {-1};  // by trie node: the token that ends here, or -1
  std::int32_t unknown_ = -1;
  double unknown_score_ = 0;
};

}  // namespace detail
}  // namespace klens
