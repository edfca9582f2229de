// klens generate --chat: one turn of a conversation. The messages so far stand beside the session, in FILE.chat.json,
// with the text that the session's tokens spell; a turn is the rest of the text that the template makes of all
// messages.
#pragma once

#include "chat_of.hpp"
#include "common.hpp"

#include <klens/io/atomic_file.hpp>

#include <ctime>
#include <filesystem>
#include <optional>

namespace klens::cli {

struct ChatOptions {
  bool on = false;
  std::string system, date;
};

class Conversation {
 public:
  /// With a session that holds `length` tokens, its messages must stand beside it.
  static Result<Conversation> open(const std::string& model, const ChatOptions& options, const std::string& session,
                                   std::size_t length) {
    KLENS_TRY(ChatFolder folder, chat_of(model));
    Conversation out(std::move(folder));
    if (!options.date.empty()) {
      KLENS_TRY(out.now_, date_of(options.date));
    }
    if (!session.empty()) out.path_ = session + ".chat.json";
    if (length == 0) {
      if (!options.system.empty()) out.say("system", options.system);
      return out;
    }
    if (!options.system.empty())
      return Error{ErrorCode::usage, "--system", "a new conversation", "one that " + session + " goes on with"};
    KLENS_OK(out.read(length));
    return out;
  }

  /// The text that the session has yet to see, up to where the model's turn begins.
  Result<std::string> ask(const std::string& text) {
    say("user", text);
    KLENS_TRY(std::string all, folder_.render(messages_, true, now_));
    if (!all.starts_with(text_))
      return Error{ErrorCode::format, path_,
                   "a template that goes on where the session stands (the earlier turns, as the model wrote them)",
                   "another text for them: the template changes what was said, or a stop text cut the reply"};
    std::string rest = all.substr(text_.size());
    text_ = std::move(all);
    return rest;
  }

  /// The reply: `text` as a message has it, `spelled` as the session has it, with its special tokens.
  void reply(const std::string& text, const std::string& spelled) {
    say("assistant", text);
    text_ += spelled;
  }

  /// Beside the session, which holds `length` tokens now.
  Result<void> write(std::size_t length) const {
    if (path_.empty()) return {};
    const nlohmann::ordered_json json = {
        {"schema", "klens.chat/1"}, {"length", length}, {"text", text_}, {"messages", messages_}};
    const std::string text = json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
    return write_file(path_, text);
  }

 private:
  explicit Conversation(ChatFolder folder) : folder_(std::move(folder)) {}
  void say(const char* role, const std::string& text) { messages_.push_back({{"role", role}, {"content", text}}); }

  Result<void> read(std::size_t length) {
    if (!std::filesystem::exists(path_))
      return Error{ErrorCode::missing, path_, "the messages of the session",
                   "no such file: the session was not begun with --chat"};
    KLENS_TRY(const Json json, read_json(path_));
    KLENS_TRY(const std::int64_t known, json_int(json, "length", path_, 0));
    if (std::size_t(known) != length)
      return Error{ErrorCode::format, path_ + ": 'length'", std::to_string(length) + ", the tokens of the session",
                   std::to_string(known) + ": the session went on without --chat"};
    KLENS_TRY(text_, json_string(json, "text", path_));
    KLENS_TRY(const Json* const messages, json_array(json, "messages", path_));
    for (const Json& m : *messages) {
      KLENS_TRY(const std::string role, json_string(m, "role", path_ + ": 'messages'"));
      KLENS_TRY(const std::string content, json_string(m, "content", path_ + ": 'messages'"));
      say(role.c_str(), content);
    }
    return {};
  }

  /// YYYY-MM-DD, at midnight.
  static Result<std::tm> date_of(const std::string& text) {
    std::tm t{};
    char rest = 0;
    const Error wrong{ErrorCode::usage, "--date", "a date YYYY-MM-DD", "'" + text + "'"};
    if (std::sscanf(text.c_str(), "%4d-%2d-%2d%c", &t.tm_year, &t.tm_mon, &t.tm_mday, &rest) != 3) return wrong;
    t.tm_year -= 1900, t.tm_mon -= 1;
    const std::tm asked = t;
    if (timegm(&t) == -1 || t.tm_mday != asked.tm_mday || t.tm_mon != asked.tm_mon || t.tm_year != asked.tm_year)
      return wrong;
    return t;
  }

  ChatFolder folder_;
  nlohmann::ordered_json messages_ = nlohmann::ordered_json::array();
  std::string text_, path_;
  std::optional<std::tm> now_;
};

}  // namespace klens::cli
