// The chat template and the generation config of a MODEL argument: of a checkpoint's folder, or inside a GGUF or .klens
// file.
#pragma once

#include <klens/io/chat_folder.hpp>
#include <klens/io/gguf_chat.hpp>
#include <klens/io/packed.hpp>

#include <filesystem>
#include <string>

namespace klens::cli {

/// What a file keeps inside, and where: for ChatFolder::parse() and GenerationConfig::parse().
struct ChatTexts {
  std::string chat, generation, chat_place, generation_place;
};

/// Of a GGUF or .klens file.
inline Result<ChatTexts> chat_texts_of(const std::string& model) {
  ChatTexts out{"", "", model + ": chat template", model + ": generation config"};
  if (is_gguf_file(model)) {
    KLENS_TRY(const GgufFile file, GgufFile::open(model));
    KLENS_TRY(out.chat, gguf_chat(file));
    KLENS_TRY(out.generation, gguf_generation(file));
    return out;
  }
  KLENS_TRY(const PackedFile file, PackedFile::open(model, false));  // load_model has verified it
  out.chat = file.info().chat_json, out.generation = file.info().generation_json;
  return out;
}

inline Result<ChatFolder> chat_of(const std::string& model) {
  std::error_code ec;
  if (std::filesystem::is_directory(model, ec)) return ChatFolder::load(model);
  KLENS_TRY(const ChatTexts texts, chat_texts_of(model));
  return ChatFolder::parse(texts.chat.empty() ? "{}" : texts.chat, texts.chat_place);
}

}  // namespace klens::cli
