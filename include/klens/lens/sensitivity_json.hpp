// sensitivity.json, schema klens.sensitivity/1 (design.md §7), and two other layouts that load too. One line per entry,
// numbers in their shortest form that reads back exactly: equal work gives equal bytes. What is not known is null.
//   {"schema", "model", "model_hash", "data": {"text", "hash", "window", "windows"},
//    "floor": {"kl_qp", "kl_pq", "max", "tokens"}, "ppl", "reference": {a klens.plan/1 of the checkpoint's formats},
//    "routing": [{"layer", "tokens": [those of each expert]}] where layers have experts,
//    "z2": [mean squared logit by window],
//    "entries": [{"component", "kind", "format", "bytes", "bytes_reference", "windows",
//                 "kl_qp": {"mean", "se", "p50", "p95", "p99", "max"}, "kl_pq": {..}, "mse", "sqnr_db",
//                 "sqnr_centred_db", "delta_nll": {"mean", "se"}, "top1", "marked", "by_window": {"kl_qp": [..], ..}}]}
// Entries without a schema load with what they have. Published files of the KL Lens authors:
//   {"component": {"kl_student_to_teacher", "sqnr_db", "delta_cross_entropy", "perplexity"}}
// KL summed over 512 tokens. Their "kl_teacher_to_student" is not a KL divergence (probabilities were passed as
// logarithms), so it is not read.
#pragma once

#include <klens/io/plan_json.hpp>
#include <klens/lens/sensitivity.hpp>

#include <charconv>
#include <map>
#include <utility>

namespace klens {
namespace detail {

inline constexpr std::size_t window_values_limit =
    256;  // windows; above, files keep the means alone (a few MiB at most)

/// Shortest decimal that reads back as the same number; null for what is not finite.
template <class T>
void append_number(std::string& out, T value) {
  if constexpr (std::is_floating_point_v<T>)
    if (!std::isfinite(value)) {
      out += "null";
      return;
    }
  char text[40];
  const auto end = std::to_chars(text, text + sizeof text, value).ptr;
  out.append(text, end);
}

inline void append_string(std::string& out, const std::string& text) { out += to_text(Json(text), -1); }

template <class T>
void append_array(std::string& out, const std::vector<T>& values) {
  out += '[';
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (i > 0) out += ',';
    append_number(out, values[i]);
  }
  out += ']';
}

template <class T>
void append_field(std::string& out, const char* key, const T& value) {
  out += ", \"";
  out += key;
  out += "\": ";
  if constexpr (std::is_same_v<T, std::string>)
    append_string(out, value);
  else
    append_number(out, value);
}

inline void append_distribution(std::string& out, const char* key, const Distribution& d) {
  out += std::string(", \"") + key + "\": {\"mean\": ";
  append_number(out, d.mean);
  append_field(out, "se", d.se);
  append_field(out, "p50", d.p50);
  append_field(out, "p95", d.p95);
  append_field(out, "p99", d.p99);
  append_field(out, "max", d.max);
  out += '}';
}

inline std::string entry_text(const SensitivityEntry& e, const NoiseFloor& floor) {
  std::string out = "{\"component\": ";
  append_string(out, e.component);
  append_field(out, "kind", std::string(entry_kind_names[int(e.kind)]));
  append_field(out, "format", e.format);
  if (e.bytes >= 0) append_field(out, "bytes", e.bytes);
  if (e.bytes_reference >= 0) append_field(out, "bytes_reference", e.bytes_reference);
  append_field(out, "windows", e.windows);
  append_distribution(out, "kl_qp", e.kl_qp);
  append_distribution(out, "kl_pq", e.kl_pq);
  append_field(out, "mse", e.mse);
  append_field(out, "sqnr_db", e.sqnr_db);
  append_field(out, "sqnr_centred_db", e.sqnr_centred_db);
  out += ", \"delta_nll\": {\"mean\": ";
  append_number(out, e.delta_nll.mean);
  append_field(out, "se", e.delta_nll.se);
  out += '}';
  append_field(out, "top1", e.top1);
  if (!std::isnan(e.delta_ppl)) append_field(out, "delta_ppl", e.delta_ppl);
  out += is_marked(e, floor) ? ", \"marked\": true" : ", \"marked\": false";
  if (!e.by_window.kl_qp.empty()) {
    const std::pair<const char*, const std::vector<float>*> lists[] = {{"kl_qp", &e.by_window.kl_qp},
                                                                       {"kl_pq", &e.by_window.kl_pq},
                                                                       {"mse", &e.by_window.mse},
                                                                       {"delta_nll", &e.by_window.delta_nll},
                                                                       {"top1", &e.by_window.top1}};
    out += ", \"by_window\": ";
    char separator = '{';
    for (const auto& [key, values] : lists) {
      out += separator;
      out += std::string("\"") + key + "\": ";
      append_array(out, *values);
      separator = ',';
    }
    out += '}';
  }
  return out + "}";
}

/// A number that may be absent or null: then NaN. Wrong types are errors.
inline Result<double> number_or_unknown(const Json& object, std::string_view key, const std::string& where) {
  return json_number_or(object, key, where, not_known);
}

inline Result<Distribution> read_distribution(const Json& entry, const char* key, const std::string& where) {
  Distribution d;
  if (json_absent(entry, key)) return d;
  KLENS_TRY(const Json* const j, json_object(entry, key, where));
  const std::string place = where + ": '" + key + "'";
  KLENS_TRY(d.mean, json_number(*j, "mean", place, 0));  // a KL is never negative
  const std::pair<const char*, double Distribution::*> rest[] = {{"se", &Distribution::se},
                                                                 {"p50", &Distribution::p50},
                                                                 {"p95", &Distribution::p95},
                                                                 {"p99", &Distribution::p99},
                                                                 {"max", &Distribution::max}};
  for (const auto& [name, member] : rest) {
    KLENS_TRY(d.*member, number_or_unknown(*j, name, place));
  }
  return d;
}

template <class T>
Result<std::vector<T>> read_numbers(const Json& object, const char* key, const std::string& where, std::size_t count) {
  std::vector<T> values;
  if (json_absent(object, key)) return values;
  KLENS_TRY(const Json* const list, json_array(object, key, where));
  if (list->size() != count)
    return key_error(list, key, where, "one number for each of " + std::to_string(count) + " windows");
  values.reserve(count);
  for (const Json& v : *list) {
    if (!v.is_number()) return key_error(&v, key, where, "numbers");
    values.push_back(T(v.get<double>()));
  }
  return values;
}

inline Result<SensitivityEntry> read_entry(const Json& j, const std::string& where, int windows) {
  SensitivityEntry e;
  if (!j.is_object()) return Error{ErrorCode::format, where, "an object", describe(j)};
  KLENS_TRY(e.component, json_string(j, "component", where));
  KLENS_TRY(e.format, json_string(j, "format", where));
  if (e.component.empty()) return Error{ErrorCode::format, where + ": 'component'", "a name", "an empty string"};
  KLENS_TRY(const std::string kind, json_string_or(j, "kind", where, "weight"));
  const auto known = std::find(std::begin(entry_kind_names), std::end(entry_kind_names), kind);
  if (known == std::end(entry_kind_names))
    return Error{ErrorCode::format, where + ": 'kind'", "weight, activation, state or cache",
                 "'" + clip(kind, 40) + "'"};
  e.kind = EntryKind(known - std::begin(entry_kind_names));
  if (e.kind == EntryKind::weight && !parse_format(e.format))
    return Error{ErrorCode::format, where + ": 'format'", "a format name such as w4g32",
                 "'" + clip(e.format, 40) + "'"};
  if (is_state(e.kind) && !parse_state(e.format))
    return Error{ErrorCode::format, where + ": 'format'", "f32, f16, s16, s8 or s4", "'" + clip(e.format, 40) + "'"};
  constexpr std::int64_t most = std::int64_t(1) << 50;
  KLENS_TRY(e.bytes, json_int_or(j, "bytes", where, -1, 0, most));
  KLENS_TRY(e.bytes_reference, json_int_or(j, "bytes_reference", where, -1, 0, most));
  KLENS_TRY(const std::int64_t n, json_int_or(j, "windows", where, windows, 0, 1 << 30));
  e.windows = int(n);
  KLENS_TRY(e.kl_qp, read_distribution(j, "kl_qp", where));
  KLENS_TRY(e.kl_pq, read_distribution(j, "kl_pq", where));
  KLENS_TRY(e.mse, number_or_unknown(j, "mse", where));
  KLENS_TRY(e.sqnr_db, number_or_unknown(j, "sqnr_db", where));
  KLENS_TRY(e.sqnr_centred_db, number_or_unknown(j, "sqnr_centred_db", where));
  if (!json_absent(j, "delta_nll")) {
    KLENS_TRY(const Json* const d, json_object(j, "delta_nll", where));
    KLENS_TRY(e.delta_nll.mean, number_or_unknown(*d, "mean", where + ": 'delta_nll'"));
    KLENS_TRY(e.delta_nll.se, number_or_unknown(*d, "se", where + ": 'delta_nll'"));
  }
  KLENS_TRY(e.top1, number_or_unknown(j, "top1", where));
  KLENS_TRY(e.delta_ppl, number_or_unknown(j, "delta_ppl", where));
  if (!json_absent(j, "by_window")) {
    KLENS_TRY(const Json* const w, json_object(j, "by_window", where));
    const std::string place = where + ": 'by_window'";
    const std::size_t count = std::size_t(e.windows);
    KLENS_TRY(e.by_window.kl_qp, read_numbers<float>(*w, "kl_qp", place, count));
    KLENS_TRY(e.by_window.kl_pq, read_numbers<float>(*w, "kl_pq", place, count));
    KLENS_TRY(e.by_window.mse, read_numbers<float>(*w, "mse", place, count));
    KLENS_TRY(e.by_window.delta_nll, read_numbers<float>(*w, "delta_nll", place, count));
    KLENS_TRY(e.by_window.top1, read_numbers<float>(*w, "top1", place, count));
  }
  return e;
}

/// A file of the KL Lens authors. Bits come from the file's name: "..._4bits.json".
inline Result<Sensitivity> read_published(const Json& j, const std::string& where) {
  Sensitivity s;
  s.published = true;
  const std::size_t slash = where.find_last_of('/');
  std::string stem = slash == std::string::npos ? where : where.substr(slash + 1);
  const std::size_t at = stem.find("bits");
  if (at == std::string::npos || at == 0 || stem[at - 1] < '2' || stem[at - 1] > '8')
    return Error{ErrorCode::format, where,
                 "schema klens.sensitivity/1, or a file name with its bits ('..._4bits.json')", "neither"};
  const std::string format = std::string("w") + stem[at - 1];
  if (!parse_format(format))
    return Error{ErrorCode::unsupported, where + ": bits in the file name", "2 to 6, or 8", format.substr(1)};
  s.model = stem.substr(0, stem.rfind(".json"));
  constexpr double tokens = 512;  // their sums run over sequences of 512 tokens
  for (const auto& [name, v] : j.items()) {
    const std::string place = where + ": '" + clip(name, 120) + "'";
    SensitivityEntry e;
    e.component = name, e.format = format;
    KLENS_TRY(const double kl, json_number(v, "kl_student_to_teacher", place));
    // Their sums over float16 terms can end a little below zero.
    e.kl_qp.mean = std::max(kl, 0.0) / tokens;
    KLENS_TRY(e.sqnr_db, number_or_unknown(v, "sqnr_db", place));
    KLENS_TRY(e.delta_nll.mean, number_or_unknown(v, "delta_cross_entropy", place));
    KLENS_TRY(e.delta_ppl, number_or_unknown(v, "perplexity", place));
    s.entries.push_back(std::move(e));
  }
  return s;
}

}  // namespace detail

namespace detail {

inline Result<std::vector<Routing>> read_routing(const Json& j, const std::string& where) {
  KLENS_TRY(const Json* const list, json_array(j, "routing", where));
  std::vector<Routing> routing;
  for (std::size_t i = 0; i < list->size(); ++i) {
    const std::string place = where + ": 'routing'[" + std::to_string(i) + "]";
    KLENS_TRY(const std::int64_t layer, json_int((*list)[i], "layer", place, 0, 1 << 16));
    KLENS_TRY(const Json* const tokens, json_array((*list)[i], "tokens", place));
    Routing r{int(layer), {}};
    for (const Json& count : *tokens) {
      if (!count.is_number_integer() || count < 0) return key_error(&count, "tokens", place, "counts");
      r.tokens.push_back(count.get<std::int64_t>());
    }
    routing.push_back(std::move(r));
  }
  return routing;
}

}  // namespace detail

/// A sensitivity in a JSON document. `where` names the file in errors (and a published file's bits).
inline Result<Sensitivity> sensitivity_from_json(const Json& j, const std::string& where) {
  using namespace detail;
  if (!j.is_object()) return Error{ErrorCode::format, where, "a JSON object", describe(j)};
  if (!j.contains("entries")) {
    const bool published = !j.empty() && j.begin()->is_object() && j.begin()->contains("kl_student_to_teacher");
    if (published) return read_published(j, where);
    return key_error(nullptr, "entries", where, "an array of measured components");
  }
  Sensitivity s;
  KLENS_TRY(const std::string schema, json_string_or(j, "schema", where, "klens.sensitivity/1"));
  if (schema != "klens.sensitivity/1")
    return Error{ErrorCode::format, where + ": 'schema'", "klens.sensitivity/1", "'" + clip(schema, 60) + "'"};
  KLENS_TRY(s.model, json_string_or(j, "model", where, ""));
  KLENS_TRY(s.model_hash, json_string_or(j, "model_hash", where, ""));
  const Json* data = &j;  // older files: window and windows beside the entries
  std::string data_place = where;
  if (!json_absent(j, "data")) {
    KLENS_TRY(data, json_object(j, "data", where));
    data_place += ": 'data'";
  }
  KLENS_TRY(s.text, json_string_or(*data, "text", data_place, ""));
  KLENS_TRY(s.text_hash, json_string_or(*data, "hash", data_place, ""));
  KLENS_TRY(const std::int64_t window, json_int_or(*data, "window", data_place, 0, 0, 1 << 24));
  KLENS_TRY(const std::int64_t windows, json_int_or(*data, "windows", data_place, 0, 0, 1 << 30));
  s.window = int(window), s.windows = int(windows);
  if (!json_absent(j, "floor")) {
    KLENS_TRY(const Json* const f, json_object(j, "floor", where));
    const std::string place = where + ": 'floor'";
    KLENS_TRY(s.floor.kl_qp, json_number(*f, "kl_qp", place, 0));
    KLENS_TRY(s.floor.kl_pq, json_number(*f, "kl_pq", place, 0));
    KLENS_TRY(s.floor.max, json_number_or(*f, "max", place, 0, 0));
    KLENS_TRY(const std::int64_t tokens, json_int_or(*f, "tokens", place, 0, 0, 1 << 30));
    s.floor.tokens = int(tokens);
  }
  KLENS_TRY(s.ppl, number_or_unknown(j, "ppl", where));
  if (!json_absent(j, "reference")) {
    KLENS_TRY(const Json* const reference, json_object(j, "reference", where));
    KLENS_TRY(PlanDocument document, plan_from_json(*reference, where + ": 'reference'"));
    s.reference = std::move(document);
  }
  if (!json_absent(j, "routing")) {
    KLENS_TRY(s.routing, read_routing(j, where));
  }
  KLENS_TRY(s.z2_by_window, read_numbers<double>(j, "z2", where, std::size_t(s.windows)));
  KLENS_TRY(const Json* const entries, json_array(j, "entries", where));
  std::map<std::pair<std::string, std::string>, std::size_t> seen;
  for (std::size_t i = 0; i < entries->size(); ++i) {
    const std::string place = where + ": 'entries'[" + std::to_string(i) + "]";
    KLENS_TRY(SensitivityEntry e, read_entry((*entries)[i], place, s.windows));
    const auto [first, fresh] = seen.try_emplace({e.component, e.format}, i);
    if (!fresh)
      return Error{ErrorCode::format, place, "every component and format once",
                   "'" + clip(e.component, 120) + "' in " + clip(e.format, 40) + " as in 'entries'[" +
                       std::to_string(first->second) + "]"};
    s.entries.push_back(std::move(e));
  }
  return s;
}

inline Result<Sensitivity> read_sensitivity(const std::string& path) {
  // 2000 entries of 256 windows in five lists are under 3 million numbers.
  KLENS_TRY(const Json j, read_json(path, {.bytes = std::size_t(64) << 20, .values = 4'000'000}));
  return sensitivity_from_json(j, path);
}

/// Entries of both, for several files of one model (the published ones hold one bit width each).
inline Result<Sensitivity> merge(Sensitivity a, const Sensitivity& b) {
  for (const SensitivityEntry& e : b.entries) {
    for (const SensitivityEntry& known : a.entries)
      if (known.component == e.component && known.format == e.format)
        return Error{ErrorCode::format, "component '" + e.component + "' in " + e.format, "in one of the files",
                     "in two"};
    a.entries.push_back(e);
  }
  return a;
}

/// The head of the file, up to and with `"entries": [`. Split so that entries can be written as they are made.
inline std::string sensitivity_head_text(const Sensitivity& s) {
  using namespace detail;
  std::string out = "{\"schema\": \"klens.sensitivity/1\"";
  append_field(out, "model", s.model);
  append_field(out, "model_hash", s.model_hash);
  out += ",\n\"data\": {\"text\": ";
  append_string(out, s.text);
  append_field(out, "hash", s.text_hash);
  append_field(out, "window", s.window);
  append_field(out, "windows", s.windows);
  out += "},\n\"floor\": {\"kl_qp\": ";
  append_number(out, s.floor.kl_qp);
  append_field(out, "kl_pq", s.floor.kl_pq);
  append_field(out, "max", s.floor.max);
  append_field(out, "tokens", s.floor.tokens);
  out += "},\n\"ppl\": ";
  append_number(out, s.ppl);
  if (s.reference) out += ",\n\"reference\": " + to_text(plan_to_json(*s.reference), -1);
  for (std::size_t i = 0; i < s.routing.size(); ++i) {
    out += i == 0 ? ",\n\"routing\": [{\"layer\": " : ", {\"layer\": ";
    append_number(out, s.routing[i].layer);
    out += ", \"tokens\": ";
    append_array(out, s.routing[i].tokens);
    out += i + 1 == s.routing.size() ? "}]" : "}";
  }
  if (!s.z2_by_window.empty()) {
    out += ",\n\"z2\": ";
    append_array(out, s.z2_by_window);
  }
  return out + ",\n\"entries\": [";
}

inline Result<void> write_sensitivity(const std::string& path, const Sensitivity& s) {
  KLENS_TRY(AtomicFile file, AtomicFile::create(path));
  KLENS_OK(file.write(sensitivity_head_text(s)));
  for (std::size_t i = 0; i < s.entries.size(); ++i) {
    KLENS_OK(file.write(std::string_view(i == 0 ? "\n" : ",\n")));
    KLENS_OK(file.write(detail::entry_text(s.entries[i], s.floor)));
  }
  KLENS_OK(file.write(std::string_view("\n]}\n")));
  return file.commit();
}

}  // namespace klens
