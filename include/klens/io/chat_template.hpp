// Chat templates: messages become the text a model was trained on, by the Jinja template its checkpoint brings.
//
//   auto t = ChatTemplate::parse(text, "tokenizer_config.json: chat_template");
//   auto prompt = t->render({{"messages", {{{"role", "user"}, {"content", "Hello"}}}}, {"add_generation_prompt", true},
//   {"bos_token", "<s>"}});
//
// What is rendered is the part of Jinja that published templates use, as transformers sets it up (trim_blocks,
// lstrip_blocks, nothing escaped, lenient undefined values, an immutable sandbox):
//   {{ }}, {# #}, {% if elif else %}, {% for x, y in z if c %} with else, break, continue and loop.*, {% set %} of
//   names, namespaces and blocks, {% macro %}, {% generation %}; all operators, slices, tests, inline if; list, tuple
//   and dict literals namespace range dict raise_exception strftime_now; filters and methods: io/chat_filters.hpp
// Whatever else a template asks for is an Error with the line and the construct, never a guess; so is everything that
// Jinja itself refuses. A hostile template ends: nesting, steps, work and output have limits (ChatLimits).
// Oracle: jinja2's ImmutableSandboxedEnvironment, tests/data/chat/make.py. Test: tests/io/chat_template.cpp.
#pragma once

#include <klens/io/chat_render.hpp>

namespace klens {

/// Immutable once parsed: threads may share it.
class ChatTemplate {
 public:
  /// `where` begins every error.
  static Result<ChatTemplate> parse(std::string_view text, std::string where, const ChatLimits& limits = {}) {
    if (text.size() > limits.template_bytes)
      return Error{ErrorCode::overflow, where,
                   "at most " + std::to_string(limits.template_bytes) + " bytes of template",
                   std::to_string(text.size())};
    if (const std::size_t at = find_invalid_utf8(text); at != std::string_view::npos)
      return Error{ErrorCode::format, where + ": byte " + std::to_string(at), "UTF-8", "other bytes"};
    detail::chat::Run run(where, limits);
    std::vector<detail::chat::Token> tokens = detail::chat::Lexer(run, text).tokens();
    ChatTemplate out;
    if (!run.failed()) {
      run.line = 1;
      out.nodes_ = detail::chat::Parser(run, std::move(tokens)).parse();
    }
    if (run.failed()) return run.error();
    out.where_ = std::move(where), out.limits_ = limits;
    return out;
  }

  /// The text for an object of variables (messages, add_generation_prompt, tools, bos_token ...). strftime_now formats
  /// `now`; without one it is an error, so that equal input gives equal text.
  Result<std::string> render(const nlohmann::ordered_json& variables,
                             const std::optional<std::tm>& now = std::nullopt) const {
    detail::chat::Run run(where_, limits_);
    if (!variables.is_object()) return Error{ErrorCode::format, where_, "an object of variables", "another value"};
    detail::chat::Renderer renderer(run, limits_, now);
    for (const auto& [name, value] : variables.items()) renderer.define(name, detail::chat::value_of(run, value));
    std::string text;
    if (!run.failed()) text = renderer.render(nodes_);
    if (run.failed()) return run.error();
    return text;
  }

 private:
  ChatTemplate() = default;
  std::vector<detail::chat::Node> nodes_;
  std::string where_;
  ChatLimits limits_;
};

}  // namespace klens
