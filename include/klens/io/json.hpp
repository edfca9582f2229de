// JSON with limits, and typed access that says what is wrong: file, key, expected, found. Duplicate keys are refused,
// since two readers may pick different ones. Nothing here throws: what nlohmann/json throws is caught.
#pragma once

#include <klens/io/mapped_file.hpp>

#include <nlohmann/json.hpp>

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

namespace klens {

using Json = nlohmann::json;

/// What a text may cost: a value takes up to about 100 bytes once parsed, whatever its text.
struct JsonLimits {
  std::size_t bytes = std::size_t(256) << 20;
  std::size_t depth = 64;
  std::size_t values = 4'000'000;
};

namespace detail {

/// Builds the document from the events of nlohmann's parser, and stops at the first thing it does not like.
class JsonBuilder {
 public:
  using number_integer_t = Json::number_integer_t;
  using number_unsigned_t = Json::number_unsigned_t;
  using number_float_t = Json::number_float_t;
  using string_t = Json::string_t;
  using binary_t = Json::binary_t;

  explicit JsonBuilder(const JsonLimits& limits) : limits_(limits) {}

  bool null() { return put(nullptr) != nullptr; }
  bool boolean(bool v) { return put(v) != nullptr; }
  bool number_integer(number_integer_t v) { return put(v) != nullptr; }
  bool number_unsigned(number_unsigned_t v) { return put(v) != nullptr; }
  bool number_float(number_float_t v, const string_t&) { return put(v) != nullptr; }
  bool string(string_t& v) { return put(std::move(v)) != nullptr; }
  bool binary(binary_t&) { return fail("JSON text", "binary data"); }
  bool start_object(std::size_t) { return open(Json::object()); }
  bool start_array(std::size_t) { return open(Json::array()); }
  bool end_object() { return close(); }
  bool end_array() { return close(); }
  bool key(string_t& k) {
    Json& object = *open_.back();
    const auto [it, inserted] = object.get_ref<Json::object_t&>().try_emplace(k);
    if (!inserted) return fail("every key once", "key '" + k.substr(0, 80) + "' twice");
    slot_ = &it->second;
    return true;
  }
  bool parse_error(std::size_t position, const std::string& token, const nlohmann::detail::exception& e) {
    place_ = "byte " + std::to_string(position);
    if (e.id == 406) return fail("a number that fits", token.substr(0, 40));
    std::string text =
        e.what();  // "[json.exception.parse_error.101] parse error at line 1, column 5: syntax error while ..."
    if (const std::size_t at = text.find(": "); at != std::string::npos) text.erase(0, at + 2);
    return fail("JSON", text.substr(0, 200));
  }

  Json take() { return std::move(root_); }
  Error error(const std::string& where) const {
    return {ErrorCode::format, place_.empty() ? where : where + ": " + place_, expected_, found_};
  }

 private:
  template <class T>
  Json* put(T&& value) {
    if (++values_ > limits_.values) {
      fail("at most " + std::to_string(limits_.values) + " JSON values", "more");
      return nullptr;
    }
    if (open_.empty()) return root_ = Json(std::forward<T>(value)), &root_;
    if (open_.back()->is_array()) return &open_.back()->get_ref<Json::array_t&>().emplace_back(std::forward<T>(value));
    return *slot_ = Json(std::forward<T>(value)), slot_;
  }
  bool open(Json container) {
    if (open_.size() >= limits_.depth)
      return fail("at most " + std::to_string(limits_.depth) + " nested JSON levels", "more");
    Json* place = put(std::move(container));
    if (place != nullptr) open_.push_back(place);
    return place != nullptr;
  }
  bool close() {
    open_.pop_back();
    return true;
  }
  bool fail(std::string expected, std::string found) {
    expected_ = std::move(expected);
    found_ = std::move(found);
    return false;
  }

  JsonLimits limits_;
  Json root_;
  std::vector<Json*> open_;
  Json* slot_ = nullptr;
  std::size_t values_ = 0;
  std::string place_, expected_, found_;
};

/// At most `limit` bytes of a text, cut between characters.
inline std::string clip(std::string_view text, std::size_t limit) {
  if (text.size() <= limit) return std::string(text);
  while (limit > 0 && (static_cast<unsigned char>(text[limit]) & 0xc0) == 0x80) --limit;
  return std::string(text.substr(0, limit)) + "...";
}

/// A value as an error message shows it: "a string 'abc'", "12", "an array of 3".
inline std::string describe(const Json& j) {
  switch (j.type()) {
    case Json::value_t::null: return "null";
    case Json::value_t::boolean: return j.get<bool>() ? "true" : "false";
    case Json::value_t::string: return "a string '" + clip(j.get_ref<const std::string&>(), 60) + "'";
    case Json::value_t::array: return "an array of " + std::to_string(j.size());
    case Json::value_t::object: return "an object";
    case Json::value_t::number_integer:
    case Json::value_t::number_unsigned:
    case Json::value_t::number_float: return j.dump();
    default: return "binary data";
  }
}

inline const Json* find_key(const Json& object, std::string_view key) {
  if (!object.is_object()) return nullptr;
  const auto it = object.find(key);
  return it == object.end() ? nullptr : &*it;
}

inline Error key_error(const Json* value, std::string_view key, const std::string& where, std::string expected) {
  return {value ? ErrorCode::format : ErrorCode::missing, where + ": '" + clip(key, 80) + "'", std::move(expected),
          value ? describe(*value) : "nothing"};
}

}  // namespace detail

/// Parses a text; `where` begins every error ("dir/config.json").
inline Result<Json> parse_json(std::string_view text, const std::string& where, const JsonLimits& limits = {}) {
  if (text.size() > limits.bytes)
    return Error{ErrorCode::overflow, where, "at most " + std::to_string(limits.bytes) + " bytes of JSON",
                 std::to_string(text.size())};
  detail::JsonBuilder builder(limits);
  try {
    if (!Json::sax_parse(text.data(), text.data() + text.size(), &builder)) return builder.error(where);
    return builder.take();
  } catch (const std::exception& e) {
    return Error{ErrorCode::format, where, "JSON", e.what()};
  }
}

inline Result<Json> read_json(const std::string& path, const JsonLimits& limits = {}) {
  KLENS_TRY(const MappedFile file, MappedFile::open(path));
  return parse_json(file.text(), path, limits);
}

/// JSON text of a document built by klens: two spaces per level (-1: one line). Bytes that are not UTF-8 become U+FFFD.
inline std::string to_text(const Json& j, int indent = 2) {
  return j.dump(indent, ' ', false, Json::error_handler_t::replace);
}

/// Typed access. `where` names the file (and the place in it); every function checks type and range.
inline Result<std::int64_t> json_int(const Json& object, std::string_view key, const std::string& where,
                                     std::int64_t min = std::numeric_limits<std::int64_t>::min(),
                                     std::int64_t max = std::numeric_limits<std::int64_t>::max()) {
  const Json* v = detail::find_key(object, key);
  constexpr std::int64_t largest = std::numeric_limits<std::int64_t>::max();
  if (v != nullptr && v->is_number_integer() &&
      !(v->is_number_unsigned() && v->get<std::uint64_t>() > std::uint64_t(largest))) {
    const std::int64_t n = v->get<std::int64_t>();
    if (n >= min && n <= max) return n;
  }
  const bool any = min == std::numeric_limits<std::int64_t>::min() && max == largest;
  return detail::key_error(v, key, where,
                           any              ? "an integer"
                           : max == largest ? "an integer >= " + std::to_string(min)
                                            : "an integer in " + std::to_string(min) + ".." + std::to_string(max));
}

/// A finite number in [min, max].
inline Result<double> json_number(const Json& object, std::string_view key, const std::string& where,
                                  double min = -std::numeric_limits<double>::max(),
                                  double max = std::numeric_limits<double>::max()) {
  const Json* v = detail::find_key(object, key);
  if (v != nullptr && v->is_number()) {
    const double x = v->get<double>();
    if (x >= min && x <= max) return x;
  }
  const bool any = min == -std::numeric_limits<double>::max() && max == std::numeric_limits<double>::max();
  return detail::key_error(v, key, where,
                           any ? "a number" : "a number in " + Json(min).dump() + ".." + Json(max).dump());
}

inline Result<bool> json_bool(const Json& object, std::string_view key, const std::string& where) {
  const Json* v = detail::find_key(object, key);
  if (v != nullptr && v->is_boolean()) return v->get<bool>();
  return detail::key_error(v, key, where, "true or false");
}

inline Result<std::string> json_string(const Json& object, std::string_view key, const std::string& where) {
  const Json* v = detail::find_key(object, key);
  if (v != nullptr && v->is_string()) return v->get_ref<const std::string&>();
  return detail::key_error(v, key, where, "a string");
}

/// The array or object under a key; the pointer lives as long as `object`.
inline Result<const Json*> json_array(const Json& object, std::string_view key, const std::string& where) {
  const Json* v = detail::find_key(object, key);
  if (v != nullptr && v->is_array()) return v;
  return detail::key_error(v, key, where, "an array");
}
inline Result<const Json*> json_object(const Json& object, std::string_view key, const std::string& where) {
  const Json* v = detail::find_key(object, key);
  if (v != nullptr && v->is_object()) return v;
  return detail::key_error(v, key, where, "an object");
}

/// An array of integers, each in [min, max], at most `limit` of them.
inline Result<std::vector<std::int64_t>> json_ints(const Json& object, std::string_view key, const std::string& where,
                                                   std::int64_t min, std::int64_t max, std::size_t limit = 1 << 20) {
  KLENS_TRY(const Json* const array, json_array(object, key, where));
  if (array->size() > limit)
    return detail::key_error(array, key, where, "at most " + std::to_string(limit) + " integers");
  std::vector<std::int64_t> values;
  values.reserve(array->size());
  for (std::size_t i = 0; i < array->size(); ++i) {
    // A wrapper object gives each element the messages of json_int.
    KLENS_TRY(const std::int64_t n,
              json_int(Json{{"value", (*array)[i]}}, "value",
                       where + ": '" + std::string(key) + "'[" + std::to_string(i) + "]", min, max));
    values.push_back(n);
  }
  return values;
}

/// As above, with a value for a key that is absent or null. A key of the wrong type is still an error.
inline bool json_absent(const Json& object, std::string_view key) {
  const Json* v = detail::find_key(object, key);
  return v == nullptr || v->is_null();
}
inline Result<std::int64_t> json_int_or(const Json& object, std::string_view key, const std::string& where,
                                        std::int64_t fallback, std::int64_t min, std::int64_t max) {
  return json_absent(object, key) ? Result<std::int64_t>(fallback) : json_int(object, key, where, min, max);
}
inline Result<double> json_number_or(const Json& object, std::string_view key, const std::string& where,
                                     double fallback, double min = -std::numeric_limits<double>::max(),
                                     double max = std::numeric_limits<double>::max()) {
  return json_absent(object, key) ? Result<double>(fallback) : json_number(object, key, where, min, max);
}
inline Result<bool> json_bool_or(const Json& object, std::string_view key, const std::string& where, bool fallback) {
  return json_absent(object, key) ? Result<bool>(fallback) : json_bool(object, key, where);
}
inline Result<std::string> json_string_or(const Json& object, std::string_view key, const std::string& where,
                                          std::string fallback) {
  return json_absent(object, key) ? Result<std::string>(std::move(fallback)) : json_string(object, key, where);
}

}  // namespace klens
