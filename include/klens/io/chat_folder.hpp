// What a checkpoint's folder says about talking to the model: its chat template with the special tokens the template is
// given, and generation_config.json. Test: tests/io/chat_template.cpp.
#pragma once

#include <klens/io/chat_template.hpp>

#include <filesystem>

namespace klens {

/// The chat template of a checkpoint: chat_template.jinja, else "chat_template" of tokenizer_config.json, a string or a
/// list of named ones with a "default". Packed and GGUF files keep both parts in one text (text_of).
class ChatFolder {
 public:
  static Result<ChatFolder> load(const std::string& folder) {
    ChatFolder out;
    KLENS_TRY(const Found found, out.read(folder));
    if (found.where.empty())
      return Error{ErrorCode::missing, folder, "a chat_template in tokenizer_config.json, or a chat_template.jinja",
                   "none: a model without one is not made to chat"};
    KLENS_TRY(out.template_, ChatTemplate::parse(found.text, found.where));
    return out;
  }

  /// What load() reads of a folder, in one text: {"bos_token": .., "chat_template": ..}. Empty where there is nothing;
  /// the template itself may still be one that klens refuses.
  static Result<std::string> text_of(const std::string& folder) {
    ChatFolder out;
    KLENS_TRY(const Found found, out.read(folder));
    nlohmann::ordered_json json = out.tokens_;
    if (!found.where.empty()) json["chat_template"] = found.text;
    return json.empty() ? std::string() : json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  }

  /// Of such a text. `where` begins every error.
  static Result<ChatFolder> parse(std::string_view text, const std::string& where) {
    ChatFolder out;
    KLENS_TRY(const Json json, object_of(text, where));
    KLENS_OK(out.read_tokens(json, where));
    if (json_absent(json, "chat_template"))
      return Error{ErrorCode::missing, where, "a chat template", "none: a model without one is not made to chat"};
    KLENS_TRY(const std::string found, json_string(json, "chat_template", where));
    KLENS_TRY(out.template_, ChatTemplate::parse(found, where));
    return out;
  }

  /// The token that ends a turn or a text, of such a text; empty where it names none.
  static Result<std::string> eos_token_of(std::string_view text, const std::string& where) {
    if (text.empty()) return std::string();
    ChatFolder out;
    KLENS_TRY(const Json json, object_of(text, where));
    KLENS_OK(out.read_tokens(json, where));
    return out.eos_token();
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
  /// A template, and where it stands; nowhere where there is none.
  struct Found {
    std::string text, where;
  };

  static Result<Json> object_of(std::string_view text, const std::string& where) {
    KLENS_TRY(Json json, parse_json(text, where));
    if (!json.is_object()) return Error{ErrorCode::format, where, "an object", detail::describe(json)};
    return json;
  }

  Result<Found> read(const std::string& folder) {
    const std::string config = folder + "/tokenizer_config.json", file = folder + "/chat_template.jinja";
    std::error_code ec;
    Json json = Json::object();
    if (std::filesystem::exists(config, ec)) {
      KLENS_TRY(json, read_json(config));
      if (!json.is_object()) return Error{ErrorCode::format, config, "an object", detail::describe(json)};
    }
    KLENS_OK(read_tokens(json, config));
    if (std::filesystem::exists(file, ec)) {
      KLENS_TRY(const std::string text, read_text(file, ChatLimits().template_bytes));
      return Found{text, file};
    }
    const std::string where = config + ": 'chat_template'";
    const Json* found = detail::find_key(json, "chat_template");
    if (found != nullptr && found->is_array()) {
      const Json* named = nullptr;
      for (const Json& entry : *found) {
        KLENS_TRY(const std::string name, json_string(entry, "name", where));
        if (name == "default") named = &entry;
      }
      if (named == nullptr) return Error{ErrorCode::missing, where, "a template named 'default'", "others only"};
      KLENS_TRY(const std::string text, json_string(*named, "template", where));
      return Found{text, where};
    }
    if (json_absent(json, "chat_template")) return Found{};
    KLENS_TRY(const std::string text, json_string(json, "chat_template", config));
    return Found{text, where};
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
    std::error_code ec;
    if (!std::filesystem::exists(where, ec)) return GenerationConfig();
    KLENS_TRY(const Json json, read_json(where));
    return of(json, where, vocab);
  }

  /// The file's text, as packed files keep it; an empty one gives an empty config.
  static Result<GenerationConfig> parse(std::string_view text, const std::string& where, std::int64_t vocab) {
    if (text.empty()) return GenerationConfig();
    KLENS_TRY(const Json json, parse_json(text, where));
    return of(json, where, vocab);
  }

 private:
  static Result<GenerationConfig> of(const Json& json, const std::string& where, std::int64_t vocab) {
    GenerationConfig out;
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
