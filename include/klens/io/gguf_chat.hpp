// What a GGUF file says about talking to its model, as ChatFolder and GenerationConfig read it of a folder: the
// template with its special tokens, the tokens that end a text or a turn (eos, eot, eom), and recommended sampling
// (general.sampling.*). Of several templates, the unnamed one. Test: tests/io/gguf_chat.cpp.
#pragma once

#include <klens/io/gguf.hpp>

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

namespace klens {

/// {"bos_token": .., "chat_template": ..} for ChatFolder::parse(), empty without any. Errors: ids that no token has.
inline Result<std::string> gguf_chat(const GgufFile& file) {
  constexpr std::string_view tokens_key = "tokenizer.ggml.tokens", template_key = "tokenizer.chat_template";
  Json json = Json::object();
  if (file.has(tokens_key)) {
    KLENS_TRY(const std::vector<std::string_view> tokens, file.strings(tokens_key));
    // The format spells the separator so.
    constexpr std::string_view names[][2] = {{"bos", "bos_token"},        {"eos", "eos_token"},
                                             {"unknown", "unk_token"},    {"padding", "pad_token"},
                                             {"seperator", "sep_token"},  {"mask", "mask_token"}};
    for (const auto& [gguf, name] : names) {
      const std::string key = "tokenizer.ggml." + std::string(gguf) + "_token_id";
      if (!file.has(key)) continue;
      KLENS_TRY(const std::int64_t id, file.integer(key, 0, std::int64_t(tokens.size()) - 1));
      json[std::string(name)] = tokens[std::size_t(id)];
    }
  }
  if (file.has(template_key)) {
    KLENS_TRY(json["chat_template"], file.string(template_key));
  }
  return json.empty() ? std::string() : to_text(json, -1);
}

/// A generation_config.json for GenerationConfig::parse(), empty where the file says nothing of the kind.
inline Result<std::string> gguf_generation(const GgufFile& file) {
  Json json = Json::object(), ends = Json::array();
  for (const char* const end : {"eos", "eot", "eom"}) {
    const std::string key = "tokenizer.ggml." + std::string(end) + "_token_id";
    if (!file.has(key)) continue;
    KLENS_TRY(const std::int64_t id, file.integer(key, 0, (std::int64_t(1) << 31) - 1));
    if (std::ranges::find(ends, Json(id)) == ends.end()) ends.push_back(id);
  }
  if (!ends.empty()) json["eos_token_id"] = std::move(ends);
  constexpr std::string_view numbers[][2] = {
      {"temp", "temperature"}, {"top_p", "top_p"}, {"min_p", "min_p"}, {"penalty_repeat", "repetition_penalty"}};
  bool samples = false;
  for (const auto& [gguf, name] : numbers) {
    const std::string key = "general.sampling." + std::string(gguf);
    if (!file.has(key)) continue;
    KLENS_TRY(json[std::string(name)], file.number(key, -1e6, 1e6));
    samples = true;
  }
  if (file.has("general.sampling.top_k")) {
    KLENS_TRY(json["top_k"], file.integer("general.sampling.top_k", 0, 1 << 30));
    samples = true;
  }
  if (samples) json["do_sample"] = true;
  return json.empty() ? std::string() : to_text(json, -1);
}

}  // namespace klens
