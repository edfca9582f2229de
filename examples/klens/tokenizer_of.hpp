// The tokenizer of a MODEL argument: tokenizer.json beside a checkpoint, or the one inside a GGUF or .klens file.
#pragma once

#include <klens/io/gguf_tokenizer.hpp>
#include <klens/io/packed.hpp>
#include <klens/io/tokenizer.hpp>

#include <filesystem>

namespace klens::cli {

inline Result<Tokenizer> tokenizer_of(const std::string& model) {
  std::error_code ec;
  if (std::filesystem::is_directory(model, ec)) return Tokenizer::load(model + "/tokenizer.json");
  if (is_gguf_file(model)) {
    KLENS_TRY(const GgufFile file, GgufFile::open(model));
    KLENS_TRY(const std::string text, gguf_tokenizer(file));
    return Tokenizer::parse(text, model + ": tokenizer");
  }
  if (!is_packed_file(model)) {
    if (!std::filesystem::exists(model, ec)) return Error{ErrorCode::io, model, "a checkpoint folder, a GGUF or a .klens file", "no such file"};
    return Error{ErrorCode::format, model, "a checkpoint folder, a GGUF or a .klens file", "another kind of file"};
  }
  KLENS_TRY(const PackedFile file, PackedFile::open(model));
  if (file.info().tokenizer_json.empty()) return Error{ErrorCode::missing, model, "a tokenizer inside", "none: pack it from a folder with tokenizer.json"};
  return Tokenizer::parse(file.info().tokenizer_json, model + ": tokenizer");
}

}  // namespace klens::cli
