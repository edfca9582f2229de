// What a checkpoint's folder says about talking to the model: its chat template with the special tokens the template is
// given, and generation_config.json. Test: tests/io/chat_template.cpp.
#pragma once

#include <klens/io/chat_template.hpp>

#include <filesystem>

namespace klens {

/// The chat template of a checkpoint: chat_template.jinja, else "chat_template" of tokenizer_config.json, a string or a
/// list of named ones with a "default".
class ChatFolder {
 public:
  static Result<ChatFolder> load(const std::string& folder) {
    const std::string config = folder + "/tokenizer_config.json", file = folder + "/chat_template.jinja";
    std::error_code ec;
    Json json = Json::object();
    if (std::filesystem::exists(config, ec)) {
      KLENS_TRY(json, read_json(config));
      if (!json.is_object()) return Error{ErrorCode::format, config, "an object", detail::describe(json)};
    }
    ChatFolder out;
    KLENS_OK(out.read_tokens(json, config));
    if (std::filesystem::exists(file, ec)) {
      KLENS_TRY(const std::string text, read_text(file, ChatLimits().template_bytes));
      KLENS_OK(out.parse(text, file));
      return out;
    }
    const Json* found = detail::find_key(json, "chat_template");
    if (found != nullptr && found->is_array()) {
      const Json* named = nullptr;
      for (const Json& entry : *found) {
        KLENS_TRY(const std::string name, json_string(entry, "name", config + ": 'chat_template'"));
        if (name == "default") named = &entry;
      }
      if (named == nullptr)
        return Error{ErrorCode::missing, config + ": 'chat_template'", "a template named 'default'", "others only"};
      KLENS_TRY(const std::string text, json_string(*named, "template", config + ": 'chat_template'"));
      KLENS_OK(out.parse(text, config + ": 'chat_template'"));
      return out;
    }
    if (json_absent(json, "chat_template"))
      return Error{ErrorCode::missing, folder, "a chat_template in tokenizer_config.json, or a chat_template.jinja",
                   "none: a model without one is not made to chat"};
    KLENS_TRY(const std::string text, json_string(json, "chat_template", config));
    KLENS_OK(out.parse(text, config + ": 'chat_template'"));
    return out;
  }

  /// The text of messages ([{"role", "content"} ...]); with `reply`, up to where the model's turn begins.
  Result<std::string> render(const nlohmann::ordered_json& messages, bool reply,
                             const std::optional<std::tm>& now = std::nullopt) const {
    nlohmann::ordered_json variables = tokens_;
    variables["messages"] = messages;
    variables["tools"] = nullptr, variables["documents"] = nullptr;  // given, and none: as transformers does
    variables["add_generation_prompt"] = reply;
    return template_->render(variables, now);
  }

  /// The token that ends a turn or a text; empty where the folder names none.
  std::string eos_token() const {
    const auto found = tokens_.find("eos_token");
    return found == tokens_.end() ? std::string() : found->get<std::string>();
  }

 private:
  Result<void> parse(const std::string& text, const std::string& where) {
    KLENS_TRY(template_, ChatTemplate::parse(text, where));
    return {};
  }
  /// "bos_token": a string, or {"content": a string}. Tokens that are not there stay undefined.
  Result<void> read_tokens(const Json& json, const std::string& where) {
    for (const char* name :
         {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"}) {
      if (json_absent(json, name)) continue;
      const bool object = json[name].is_object();
      KLENS_TRY(const std::string text, json_string(object ? json[name] : json, object ? "content" : name, where));
      tokens_[name] = text;
    }
    return {};
  }

  std::optional<ChatTemplate> template_;
  nlohmann::ordered_json tokens_ = nlohmann::ordered_json::object();
};

/// generation_config.json: the tokens that end a text, and, where it says do_sample, how to sample. What it leaves out
/// stays empty, save the temperature: sampling without one is sampling at 1.
struct GenerationConfig {
  std::vector<std::int32_t> ends;
  std::optional<float> temperature, top_p, min_p, repetition_penalty;
  std::optional<int> top_k;

  /// eos_token_id of an object: one id, or a list.
  static Result<std::vector<std::int32_t>> ends_of(const Json& json, const std::string& where, std::int64_t vocab) {
    if (json_absent(json, "eos_token_id")) return std::vector<std::int32_t>();
    const bool list = json["eos_token_id"].is_array();
    KLENS_TRY(const std::vector<std::int64_t> wide,
              json_ints(list ? json : Json{{"eos_token_id", Json::array({json["eos_token_id"]})}}, "eos_token_id",
                        where, 0, vocab - 1, 1024));
    return std::vector<std::int32_t>(wide.begin(), wide.end());
  }

  /// A folder without the file gives an empty one.
  static Result<GenerationConfig> load(const std::string& folder, std::int64_t vocab) {
    const std::string where = folder + "/generation_config.json";
    GenerationConfig out;
    std::error_code ec;
    if (!std::filesystem::exists(where, ec)) return out;
    KLENS_TRY(const Json json, read_json(where));
    if (!json.is_object()) return Error{ErrorCode::format, where, "an object", detail::describe(json)};
    KLENS_TRY(out.ends, ends_of(json, where, vocab));
    KLENS_TRY(const bool sample, json_bool_or(json, "do_sample", where, false));
    if (!sample) return out;
    out.temperature = 1.0f;
    const auto number = [&](const char* key, double low, double high, std::optional<float>& to) -> Result<void> {
      if (json_absent(json, key)) return {};
      KLENS_TRY(const double x, json_number(json, key, where, low, high));
      to = float(x);
      return {};
    };
    KLENS_OK(number("temperature", 0, 100, out.temperature));
    KLENS_OK(number("top_p", 0, 1, out.top_p));
    KLENS_OK(number("min_p", 0, 1, out.min_p));
    KLENS_OK(number("repetition_penalty", 0.01, 100, out.repetition_penalty));
    if (!json_absent(json, "top_k")) {
      KLENS_TRY(const std::int64_t k, json_int(json, "top_k", where, 0, 1 << 30));
      out.top_k = int(k);
    }
    return out;
  }
};

}  // namespace klens
