// config.json: what is common to all families, and typed access for each family's header. One of state-spaces' own spelling
// (io/original_config.hpp) is read as transformers' would be; `text` stays as it is. Sizes are capped here,
// generously, so that a hostile file cannot ask for absurd memory; tensor shapes are checked against each.
#pragma once

#include <klens/io/config_limits.hpp>
#include <klens/io/json.hpp>
#include <klens/io/original_config.hpp>
#include <klens/plan/names.hpp>

#include <span>
#include <string>
#include <string_view>

namespace klens {

/// model_type values that klens can run.
inline constexpr std::span<const std::string_view> known_model_types = family_names;

/// A parsed config.json. Family headers read their own fields with the functions below: the file's name is in every
/// error.
struct ModelConfig {
  std::string path;  // of config.json, or the place it is embedded in
  std::string text;  // the JSON text, for packed files
  Json json;
  std::string model_type;
  std::int64_t hidden_size = 0, layers = 0, vocab_size = 0;
  bool tied_head = false;

  /// Integers are required in [min, max]; `_or` takes a default where the key is absent or null.
  Result<std::int64_t> integer(std::string_view key, std::int64_t min, std::int64_t max) const {
    return json_int(json, key, path, min, max);
  }
  Result<std::int64_t> integer_or(std::string_view key, std::int64_t fallback, std::int64_t min,
                                  std::int64_t max) const {
    return json_int_or(json, key, path, fallback, min, max);
  }
  Result<double> number(std::string_view key, double min, double max) const {
    return json_number(json, key, path, min, max);
  }
  Result<double> number_or(std::string_view key, double fallback, double min, double max) const {
    return json_number_or(json, key, path, fallback, min, max);
  }
  Result<bool> boolean(std::string_view key) const { return json_bool(json, key, path); }
  Result<bool> boolean_or(std::string_view key, bool fallback) const { return json_bool_or(json, key, path, fallback); }
  Result<std::string> string(std::string_view key) const { return json_string(json, key, path); }
  Result<std::string> string_or(std::string_view key, std::string fallback) const {
    return json_string_or(json, key, path, std::move(fallback));
  }
  Result<std::vector<std::int64_t>> integers(std::string_view key, std::int64_t min, std::int64_t max) const {
    return json_ints(json, key, path, min, max, max_layers);
  }
  /// An array of arrays of integers; none where the key is absent or null.
  Result<std::vector<std::vector<std::int64_t>>> integer_lists_or_none(std::string_view key, std::int64_t min,
                                                                       std::int64_t max) const {
    std::vector<std::vector<std::int64_t>> lists;
    if (json_absent(json, key)) return lists;
    KLENS_TRY(const Json* const outer, json_array(json, key, path));
    if (std::int64_t(outer->size()) > max_layers)
      return detail::key_error(outer, key, path, "at most " + std::to_string(max_layers) + " lists");
    for (const Json& inner : *outer) {
      KLENS_TRY(std::vector<std::int64_t> list,
                json_ints(Json{{std::string(key), inner}}, key, path, min, max, max_layers));
      lists.push_back(std::move(list));
    }
    return lists;
  }
  /// For a value that klens does not support: "config.json: 'kq_norm': expected 'none', found a string 'rms'".
  Error unsupported(std::string_view key, std::string expected) const {
    Error e = detail::key_error(detail::find_key(json, key), key, path, std::move(expected));
    e.code = ErrorCode::unsupported;
    return e;
  }
};

namespace detail {

/// Python writes Infinity and NaN, which are no JSON: outside strings they become the strings "Infinity" and "NaN", so
/// that a family that needs such a field can read it and all others parse.
inline std::string quote_non_finite(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  bool in_string = false;
  for (std::size_t i = 0; i < text.size();) {
    const char c = text[i];
    if (in_string && c == '\\' && i + 1 < text.size()) {
      out.append(text.substr(i, 2));
      i += 2;
      continue;
    }
    if (c == '"') in_string = !in_string;
    if (!in_string) {
      std::string_view word;
      for (std::string_view w : {"-Infinity", "Infinity", "NaN"})
        if (text.substr(i).starts_with(w)) word = w;
      if (!word.empty()) {
        out.append("\"").append(word).append("\"");
        i += word.size();
        continue;
      }
    }
    out.push_back(c);
    ++i;
  }
  return out;
}

}  // namespace detail

/// Parses the text of a config.json; `where` begins every error.
inline Result<ModelConfig> parse_config(std::string_view text, const std::string& where) {
  constexpr std::size_t limit = 4 << 20;  // bytes; published ones have at most 50 KB
  if (text.size() > limit)
    return Error{ErrorCode::overflow, where, "at most " + std::to_string(limit) + " bytes",
                 std::to_string(text.size())};
  ModelConfig c;
  c.path = where;
  c.text = std::string(text);
  KLENS_TRY(c.json, parse_json(detail::quote_non_finite(text), where, {.values = 200'000}));
  if (!c.json.is_object()) return Error{ErrorCode::format, where, "a JSON object", detail::describe(c.json)};
  if (is_original_config(c.json)) {
    KLENS_TRY(c.json, from_original_config(c.json, where));
  }
  KLENS_TRY(c.model_type, c.string("model_type"));
  bool known = false;
  std::string list;
  for (std::string_view type : known_model_types) {
    known |= type == c.model_type;
    list += (list.empty() ? "" : ", ") + std::string(type);
  }
  if (!known) return c.unsupported("model_type", "one of: " + list);
  KLENS_TRY(c.hidden_size, c.integer("hidden_size", 1, max_width));
  // Nemotron-H may say its layers by their kinds alone.
  std::int64_t listed = 0;
  if (const auto kinds = c.json.find("layers_block_type"); kinds != c.json.end() && kinds->is_array()) listed = std::int64_t(kinds->size());
  if (listed > 0 && json_absent(c.json, "num_hidden_layers")) {
    if (listed > max_layers) return c.unsupported("layers_block_type", "at most " + std::to_string(max_layers) + " layers");
    c.layers = listed;
  } else {
    KLENS_TRY(c.layers, c.integer("num_hidden_layers", 1, max_layers));
  }
  KLENS_TRY(c.vocab_size, c.integer("vocab_size", 1, max_vocab));
  // transformers leaves the key out where it has the family's default.
  bool tied = true;
  for (const std::string_view untied : {"falcon_h1", "bamba", "nemotron_h", "jamba", "granitemoehybrid"}) tied = tied && c.model_type != untied;
  KLENS_TRY(c.tied_head, c.boolean_or("tie_word_embeddings", tied));
  return c;
}

/// Reads FOLDER/config.json.
inline Result<ModelConfig> read_config(const std::string& folder) {
  const std::string path = folder + "/config.json";
  KLENS_TRY(const MappedFile file, MappedFile::open(path));
  return parse_config(file.text(), path);
}

}  // namespace klens
