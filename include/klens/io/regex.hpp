// A compiled regular expression of a tokenizer file, through PCRE2. Those files are written for Oniguruma; where the
// two differ (\s and \w) the pattern is rewritten, so that the same characters match. Patterns come from files nobody
// checked: length, memory, backtracking and total time are limited, and exceeding a limit is an Error.
#pragma once

#include <klens/core/result.hpp>

#ifndef PCRE2_CODE_UNIT_WIDTH
#define PCRE2_CODE_UNIT_WIDTH 8
#endif
#include <pcre2.h>

#include <chrono>
#include <memory>
#include <string>
#include <string_view>

namespace klens {
namespace detail {

/// \s \S \w \W as explicit classes. Unicode's White_Space leaves out U+180E, which PCRE2 counts; its \w lacks marks.
inline Result<std::string> portable_pattern(std::string_view pattern, const std::string& where) {
  constexpr std::string_view space =
      "\\t-\\r \\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}";
  constexpr std::string_view word = "\\p{L}\\p{M}\\p{N}\\p{Pc}";
  std::string out;
  bool in_class = false;
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c == '\\' && i + 1 < pattern.size()) {
      const char e = pattern[++i];
      const bool negated = e == 'S' || e == 'W';
      if (e == 's' || e == 'w' || negated) {
        if (negated && in_class)
          return Error{ErrorCode::unsupported, where + ": pattern", "no \\S or \\W inside brackets",
                       std::string(pattern.substr(0, 120))};
        const std::string_view set = e == 's' || e == 'S' ? space : word;
        if (in_class)
          out.append(set);
        else
          out.append(negated ? "[^" : "[").append(set).append("]");
      } else {
        out.append({c, e});
      }
      continue;
    }
    if (!in_class && c == '[') {
      in_class = true;
      out.push_back(c);
      // A bracket right after "[" or "[^" is a character of the class.
      if (i + 1 < pattern.size() && pattern[i + 1] == '^') out.push_back(pattern[++i]);
      if (i + 1 < pattern.size() && pattern[i + 1] == ']') out.push_back(pattern[++i]);
      continue;
    }
    if (in_class && c == ']') in_class = false;
    // "[a[bc]]" and "[a&&b]" are nested classes and intersections to Oniguruma, plain characters to PCRE2.
    if (in_class && (c == '[' || (c == '&' && pattern.substr(i).starts_with("&&"))))
      return Error{ErrorCode::unsupported, where + ": pattern", "no nested brackets",
                   std::string(pattern.substr(0, 120))};
    out.push_back(c);
  }
  return out;
}

}  // namespace detail

/// Shared and immutable; copies are cheap.
class Regex {
 public:
  struct Match {
    std::size_t begin, end;
  };

  static Result<Regex> compile(std::string_view pattern, const std::string& where) {
    constexpr std::size_t limit = 16 << 10;
    if (pattern.size() > limit)
      return Error{ErrorCode::overflow, where + ": pattern", "at most " + std::to_string(limit) + " bytes",
                   std::to_string(pattern.size())};
    KLENS_TRY(const std::string portable, detail::portable_pattern(pattern, where));
    int number = 0;
    PCRE2_SIZE offset = 0;
    constexpr std::uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C;
    pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(portable.data()), portable.size(), options, &number,
                                     &offset, nullptr);
    if (code == nullptr)
      return Error{ErrorCode::format, where + ": pattern '" + std::string(pattern.substr(0, 120)) + "'",
                   "a regular expression", message(number)};
    Regex r;
    r.where_ = where;
    r.code_.reset(code, pcre2_code_free);
    pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);  // twice as fast; without it the interpreter gives the same matches
    return r;
  }

  /// Calls sink(Match) for every match from left to right; `text` must be valid UTF-8. After an empty match the search
  /// goes on one character later; an empty match right behind another match does not count.
  template <class Sink>
  Result<void> for_each_match(std::string_view text, Sink&& sink) const {
    const Scratch& s = scratch();
    std::unique_ptr<pcre2_match_data, void (*)(pcre2_match_data*)> data(
        pcre2_match_data_create_from_pattern(code_.get(), nullptr), pcre2_match_data_free);
    if (!data || !s.context) return Error{ErrorCode::overflow, where_ + ": pattern", "memory for matching", "none"};
    // Ordinary patterns take under 0.1 s per MiB; the clock is read every 256 matches.
    using Clock = std::chrono::steady_clock;
    const auto deadline = Clock::now() + std::chrono::seconds(10 + 10 * (text.size() >> 20));
    std::size_t at = 0, last_end = std::string_view::npos;
    for (unsigned count = 1; at <= text.size(); ++count) {
      // The text was checked once; checking it again in every call would make a long text quadratic.
      const int rc = pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), at,
                                 PCRE2_NO_UTF_CHECK, data.get(), s.context.get());
      if (rc == PCRE2_ERROR_NOMATCH) return {};
      if (rc < 0) return Error{ErrorCode::overflow, where_ + ": pattern", "a match within the limits", message(rc)};
      if ((count & 255) == 0 && Clock::now() > deadline)
        return Error{ErrorCode::overflow, where_ + ": pattern", "matching in bounded time",
                     "over 10 s per MiB of text"};
      const PCRE2_SIZE* range = pcre2_get_ovector_pointer(data.get());
      const Match m{range[0], range[1]};
      if (m.begin > m.end || m.begin < at || m.end > text.size())
        return Error{ErrorCode::unsupported, where_ + ": pattern", "matches from left to right", "one that goes back"};
      const bool empty = m.begin == m.end;
      if (!empty || m.begin != last_end) KLENS_OK(sink(m));
      last_end = m.end;
      at = m.end;
      if (empty) {
        ++at;
        while (at < text.size() && (static_cast<unsigned char>(text[at]) & 0xc0) == 0x80) ++at;
      }
    }
    return {};
  }

 private:
  struct Scratch {
    std::unique_ptr<pcre2_match_context, void (*)(pcre2_match_context*)> context;
    std::unique_ptr<pcre2_jit_stack, void (*)(pcre2_jit_stack*)> stack;
  };

  /// Limits, and a stack for compiled matching, one per thread.
  static const Scratch& scratch() {
    thread_local const Scratch s = [] {
      Scratch fresh{{pcre2_match_context_create(nullptr), pcre2_match_context_free},
                    {pcre2_jit_stack_create(32 << 10, 8 << 20, nullptr), pcre2_jit_stack_free}};
      if (fresh.context) {
        pcre2_set_match_limit(fresh.context.get(), 5'000'000);
        pcre2_set_heap_limit(fresh.context.get(), 128 << 10);  // KiB
        pcre2_jit_stack_assign(fresh.context.get(), nullptr, fresh.stack.get());
      }
      return fresh;
    }();
    return s;
  }

  static std::string message(int number) {
    char text[160] = {};
    pcre2_get_error_message(number, reinterpret_cast<PCRE2_UCHAR*>(text), sizeof text);
    return text;
  }

  std::shared_ptr<pcre2_code> code_;
  std::string where_;
};

}  // namespace klens
