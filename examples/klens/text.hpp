// Token ids of --text or --ids arguments, and lists separated by commas.
#pragma once

#include "tokenizer_of.hpp"

#include <klens/io/mapped_file.hpp>
#include <klens/io/safetensors.hpp>

#include <filesystem>
#include <string>
#include <vector>

namespace klens::cli {

inline constexpr std::size_t text_limit = std::size_t(1) << 30;

/// A text of a file, encoded once, without special tokens (design.md §8).
inline Result<std::vector<std::int32_t>> ids_of_text(const std::string& model, const std::string& path) {
  KLENS_TRY(const Tokenizer tokenizer, tokenizer_of(model));
  KLENS_TRY(const std::string text, read_text(path, text_limit));
  return tokenizer.try_encode(text, false);
}

/// input_ids of a safetensors file, all rows one after another.
inline Result<std::vector<std::int32_t>> ids_of_file(const std::string& path) {
  KLENS_TRY(const Safetensors file, Safetensors::open(path));
  const TensorView* tensor = file.find("input_ids");
  if (tensor == nullptr) return Error{ErrorCode::missing, path, "a tensor 'input_ids', I64", "none"};
  KLENS_TRY(const std::vector<std::int64_t> wide, read_i64(*tensor));
  std::vector<std::int32_t> ids;
  for (std::int64_t id : wide) {
    if (id < 0 || id > std::numeric_limits<std::int32_t>::max()) return Error{ErrorCode::format, path + ": tensor 'input_ids'", "token ids", std::to_string(id)};
    ids.push_back(std::int32_t(id));
  }
  return ids;
}

/// "heldout" of "examples/data/heldout.txt".
inline std::string stem_of(const std::string& path) {
  const std::filesystem::path p(path);
  return p.filename().empty() ? p.parent_path().filename().string() : p.stem().string();
}

inline std::vector<std::string> split_list(const std::string& text) {
  std::vector<std::string> out;
  for (std::size_t at = 0; at <= text.size();) {
    const auto comma = std::min(text.find(',', at), text.size());
    if (comma > at) out.push_back(text.substr(at, comma - at));
    at = comma + 1;
  }
  return out;
}

}  // namespace klens::cli
