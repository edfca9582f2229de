// Result<T>: a value, or one Error that names the file, the place, what was expected and what was found.
#pragma once

#include <klens/config.hpp>

#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

namespace klens {

enum class ErrorCode { io, format, shape, unsupported, missing, usage, no_kernel, overflow, interrupted };

/// What went wrong, in the four parts a user needs. `message()` joins them in one line.
struct Error {
  ErrorCode code = ErrorCode::format;
  std::string where;     // file, and the place in it: "model.safetensors: tensor 'model.embed_tokens.weight'"
  std::string expected;  // may be empty
  std::string found;     // may be empty

  std::string message() const {
    std::string text = where;
    if (!expected.empty()) text += ": expected " + expected;
    if (!found.empty()) text += (expected.empty() ? ": " : ", found ") + found;
    for (char& c : text)
      if (static_cast<unsigned char>(c) < 32) c = ' ';  // one line, whatever a hostile file put into a name
    return text;
  }
};

/// Either a T or an Error. No exceptions: callers test it, or use KLENS_TRY.
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}
  Result(Error error) : error_(std::move(error)) {}

  explicit operator bool() const { return value_.has_value(); }
  T& operator*() & { KLENS_ASSERT(value_); return *value_; }
  const T& operator*() const& { KLENS_ASSERT(value_); return *value_; }
  T&& operator*() && { KLENS_ASSERT(value_); return std::move(*value_); }
  T* operator->() { KLENS_ASSERT(value_); return &*value_; }
  const T* operator->() const { KLENS_ASSERT(value_); return &*value_; }
  const Error& error() const { return error_; }

 private:
  std::optional<T> value_;
  Error error_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : error_(std::move(error)), failed_(true) {}
  explicit operator bool() const { return !failed_; }
  const Error& error() const { return error_; }

 private:
  Error error_;
  bool failed_ = false;
};

}  // namespace klens

/// `KLENS_TRY(auto file, open(path));` declares `file`, or returns the error to the caller.
#define KLENS_TRY(declaration, expression)                                     \
  auto KLENS_CONCAT(klens_try_, __LINE__) = (expression);                      \
  if (!KLENS_CONCAT(klens_try_, __LINE__)) return KLENS_CONCAT(klens_try_, __LINE__).error(); \
  declaration = *std::move(KLENS_CONCAT(klens_try_, __LINE__))

/// `KLENS_OK(write(path));` for Result<void>.
#define KLENS_OK(expression) \
  do { if (auto klens_ok_result = (expression); !klens_ok_result) return klens_ok_result.error(); } while (0)
