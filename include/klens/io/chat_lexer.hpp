// Tokens of a chat template (io/chat_template.hpp): text between tags, and what is inside them. White space is cut as
// Jinja does with trim_blocks and lstrip_blocks, the way transformers sets it up:
//   a new line right after %} or #} goes; spaces and tabs before {% or {# at the start of a line go, unless {%+
//   "-" inside a delimiter takes all white space on its side; one new line at the end of the template goes; \r\n is \n
#pragma once

#include <klens/io/chat_value.hpp>

#include <string>
#include <string_view>
#include <vector>

namespace klens::detail::chat {

enum class TokenKind : std::uint8_t { text, print, print_end, tag, tag_end, name, string, integer, number, mark, end };

struct Token {
  TokenKind kind;
  int line;
  std::string text;  // of a string literal: its value
};

class Lexer {
 public:
  Lexer(Run& run, std::string_view source) : run_(run) {
    for (std::size_t i = 0; i < source.size(); ++i) {
      const bool pair = source[i] == '\r' && i + 1 < source.size() && source[i + 1] == '\n';
      if (!pair) source_ += source[i] == '\r' ? '\n' : source[i];
    }
    if (source_.ends_with('\n')) source_.pop_back();
  }

  std::vector<Token> tokens() {
    while (at_ < source_.size() && !run_.failed()) outside();
    add(TokenKind::end, "");
    return std::move(tokens_);
  }

 private:
  void add(TokenKind kind, std::string text) { tokens_.push_back({kind, run_.line, std::move(text)}); }
  void advance(std::size_t to) {
    run_.line += int(std::count(source_.begin() + std::ptrdiff_t(at_), source_.begin() + std::ptrdiff_t(to), '\n'));
    at_ = to;
  }
  std::string_view rest() const { return std::string_view(source_).substr(at_); }
  char ahead(std::size_t n) const { return at_ + n < source_.size() ? source_[at_ + n] : '\0'; }

  /// Text up to the next tag, and the tag.
  void outside() {
    std::size_t begin = source_.find('{', at_);
    while (begin != std::string::npos && (begin + 1 == source_.size() || !is_second(source_[begin + 1])))
      begin = source_.find('{', begin + 1);
    const bool line_start = at_ == 0 || source_[at_ - 1] == '\n';
    std::string_view text = rest().substr(0, begin == std::string::npos ? begin : begin - at_);
    if (begin == std::string::npos) {
      add(TokenKind::text, std::string(text));
      advance(source_.size());
      return;
    }
    const char kind = source_[begin + 1], sign = begin + 2 < source_.size() ? source_[begin + 2] : '\0';
    if (sign == '-') {
      text = strip(text, false, true);
    } else if (sign != '+' && kind != '{') {
      const std::size_t line = text.rfind('\n') + 1;  // 0 where there is none
      const std::string_view last = text.substr(line);
      if ((line > 0 || line_start) && !last.empty() && spaces_at(last) == last.size()) text = text.substr(0, line);
    }
    if (!text.empty()) add(TokenKind::text, std::string(text));
    advance(begin + 2 + (sign == '-' || sign == '+'));
    if (kind == '#')
      comment();
    else
      inside(kind == '{');
  }
  static bool is_second(char c) { return c == '{' || c == '%' || c == '#'; }

  void comment() {
    const std::size_t end = source_.find("#}", at_);
    if (end == std::string::npos)
      return void(run_.fail(ErrorCode::format, "the end of a comment, #}", "the end of the template"));
    const char sign = end > at_ ? source_[end - 1] : '\0';
    advance(end + 2);
    after_tag(sign, true);
  }

  /// White space after a closing delimiter.
  void after_tag(char sign, bool block) {
    if (sign == '-')
      advance(at_ + spaces_at(rest()));
    else if (sign != '+' && block && ahead(0) == '\n')
      advance(at_ + 1);
  }

  void inside(bool print) {
    add(print ? TokenKind::print : TokenKind::tag, "");
    const std::string_view close = print ? "}}" : "%}";
    std::string open;  // brackets
    while (!run_.failed()) {
      if (at_ == source_.size())
        return void(run_.fail(ErrorCode::format, "the end of a tag, " + std::string(close), "the end of the template"));
      if (open.empty()) {
        const char sign = ahead(0) == '-' || (ahead(0) == '+' && !print) ? ahead(0) : '\0';
        if (rest().substr(sign != '\0').starts_with(close)) {
          add(print ? TokenKind::print_end : TokenKind::tag_end, "");
          advance(at_ + 2 + (sign != '\0'));
          return after_tag(sign, !print);
        }
      }
      if (const std::size_t n = spaces_at(rest()); n > 0)
        advance(at_ + n);
      else if (is_digit(ahead(0)))
        number();
      else if (is_letter(ahead(0)))
        name();
      else if (ahead(0) == '\'' || ahead(0) == '"')
        string();
      else
        mark(open);
    }
  }

  static bool is_digit(char c) { return c >= '0' && c <= '9'; }
  static bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }

  void name() {
    std::size_t n = 1;
    while (is_letter(ahead(n)) || is_digit(ahead(n))) ++n;
    add(TokenKind::name, source_.substr(at_, n));
    advance(at_ + n);
  }

  /// 12, 1.5, 1e3, 1.5e-3. The other spellings of Python are outside.
  void number() {
    std::size_t n = 0;
    const auto digits = [&] {
      const std::size_t from = n;
      while (is_digit(ahead(n))) ++n;
      return n - from;
    };
    digits();
    const std::size_t whole = n;
    const bool indexes = !tokens_.empty() && tokens_.back().kind == TokenKind::mark && tokens_.back().text == ".";
    if (!indexes && ahead(n) == '.' && is_digit(ahead(n + 1))) ++n, digits();
    if (!indexes && (ahead(n) | 32) == 'e') {
      const std::size_t before = n++;
      n += ahead(n) == '+' || ahead(n) == '-';
      if (digits() == 0) n = before;
    }
    if (is_letter(ahead(n)) || is_digit(ahead(n)) || (whole > 1 && ahead(0) == '0' && n == whole))
      return void(run_.outside("the number '" + source_.substr(at_, n + 1) + "'"));
    add(n == whole ? TokenKind::integer : TokenKind::number, source_.substr(at_, n));
    advance(at_ + n);
  }

  void string() {
    const char quote = ahead(0);
    std::size_t end = at_ + 1;
    while (end < source_.size() && source_[end] != quote) end += source_[end] == '\\' ? 2 : 1;
    if (end >= source_.size())
      return void(run_.fail(ErrorCode::format, "the end of a string", "the end of the template"));
    std::string out;
    for (std::size_t i = at_ + 1; i < end; ++i) {
      if (source_[i] != '\\') {
        out += source_[i];
        continue;
      }
      constexpr std::string_view from = "ntr\\'\"abfv0", to = "\n\t\r\\'\"\a\b\f\v";
      const char c = source_[++i];
      if (c == '\n') continue;  // a joined line
      if (c == 'x' || c == 'u' || c == 'U') {
        const std::size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : 8;
        std::uint32_t code = 0;
        const char *begin = source_.data() + i + 1, *stop = begin + std::min(digits, end - i - 1);
        const bool whole = std::from_chars(begin, stop, code, 16).ptr == begin + digits;
        if (!whole || code > 0x10ffff || (code >= 0xd800 && code < 0xe000))
          return void(run_.fail(ErrorCode::format, "a character after \\" + std::string(1, c),
                                "'" + source_.substr(i + 1, digits) + "'"));
        append_utf8(out, code);
        i += digits;
      } else if (is_digit(c) || c == 'N') {
        return void(run_.outside(std::string("the escape \\") + c));
      } else if (const std::size_t k = from.find(c); k != from.npos) {
        out += to[k];
      } else {  // Python keeps a backslash that begins no escape
        out += '\\', out += c;
      }
    }
    add(TokenKind::string, std::move(out));
    advance(end + 1);
  }

  void mark(std::string& open) {
    constexpr std::string_view two[] = {"==", "!=", ">=", "<=", "//", "**"};
    for (const std::string_view m : two)
      if (rest().starts_with(m)) {
        add(TokenKind::mark, std::string(m));
        return advance(at_ + 2);
      }
    const char c = ahead(0);
    if (std::string_view("+-/*%~[](){}><=.:|,;").find(c) == std::string_view::npos)
      return void(
          run_.fail(ErrorCode::format, "an expression", "'" + source_.substr(at_, next_char(rest()).length) + "'"));
    if (c == '(' || c == '[' || c == '{') open += c == '(' ? ')' : c == '[' ? ']' : '}';
    if (c == ')' || c == ']' || c == '}') {
      if (open.empty() || open.back() != c)
        return void(run_.fail(ErrorCode::format,
                              open.empty() ? "an expression" : "'" + open.substr(open.size() - 1) + "'",
                              std::string("'") + c + "'"));
      open.pop_back();
    }
    add(TokenKind::mark, std::string(1, c));
    advance(at_ + 1);
  }

  Run& run_;
  std::string source_;
  std::size_t at_ = 0;
  std::vector<Token> tokens_;
};

}  // namespace klens::detail::chat
