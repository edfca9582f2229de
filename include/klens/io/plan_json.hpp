// plan.json, schema klens.plan/1:
//   {"schema", "model", "shape": {family, layers, hidden, ...}, "layers": [{mixer, ffn, window, kv_source}], "shape_hash": "0x...",
//    "bytes", "small_bytes", "bits_per_weight", "entries": [{"component", "format", "bytes", "kl", "reason"}],
//    "states": [{"component", "format", "bytes", "kl", "reason"}], "context", "provenance": {key: text}}
// "states": scan states, convolution states and KV caches, format f32 f16 s16 s8 or s4, bytes of memory per sequence ("context"
// tokens of a KV cache), which are no part of "bytes". Absent: all are f32.
// Equal plans give equal text. `bytes` of the reader's result are recomputed; a file that says otherwise is refused.
#pragma once

#include <klens/io/atomic_file.hpp>
#include <klens/io/json.hpp>
#include <klens/plan/document.hpp>
#include <klens/plan/emit.hpp>

namespace klens {
inline Json plan_to_json(const PlanDocument& document) {
  const RuntimePlan& plan = document.plan;
  Json shape = {{"family", name_of(plan.shape.family)}};
  for_each_shape_member([&](const char* name, auto member) { shape[name] = plan.shape.*member; });
  Json layers = Json::array(), entries = Json::array(), provenance = Json::object();
  for (const LayerPlan& l : plan.layers) {
    layers.push_back({{"mixer", name_of(l.mixer)}, {"ffn", name_of(l.ffn)}, {"window", l.window}, {"kv_source", l.kv_source}});
    if (l.block_source >= 0) layers.back()["block_source"] = l.block_source;
  }
  const auto entry = [](const PlanEntry& e, const std::string& format) -> Json {
    return {{"component", e.component}, {"format", format}, {"bytes", e.bytes}, {"kl", e.kl ? Json(*e.kl) : Json()}, {"reason", e.reason}};
  };
  for (const PlanEntry& e : document.entries) entries.push_back(entry(e, format_name(e.format)));
  for (const auto& [key, value] : document.provenance) provenance[key] = value;
  Json j = {{"schema", "klens.plan/1"}, {"model", document.model}, {"shape", shape}, {"layers", layers},
            {"shape_hash", detail::hex(shape_hash(plan))}, {"bytes", weight_bytes(document)},
            {"small_bytes", document.small_bytes}, {"bits_per_weight", bits_per_weight(document)},
            {"entries", entries}, {"provenance", provenance}};
  if (!states_are_f32(plan)) {
    j["states"] = Json::array(), j["context"] = document.context;
    for (const PlanEntry& e : document.states) j["states"].push_back(entry(e, std::string(name_of(e.format.state))));
  }
  return j;
}

namespace detail {

/// Members of Shape; those that are absent keep their defaults, sizes that every model has are required.
inline Result<void> read_shape(const Json& j, const std::string& where, Shape& s) {
  Result<void> result;
  for_each_shape_member([&]<class T>(const char* name, T Shape::*member) {
    if (!result) return;
    const auto take = [&](auto&& found) {
      if (!found) result = found.error();
      else s.*member = T(*found);
    };
    if constexpr (std::is_same_v<T, float>) take(json_number_or(j, name, where, double(s.*member), 0, 1e30));
    else if constexpr (std::is_same_v<T, bool>) take(json_bool_or(j, name, where, s.*member));
    else if (member == &Shape::layers || member == &Shape::hidden || member == &Shape::vocab) take(json_int(j, name, where, 0, 1 << 24));
    else take(json_int_or(j, name, where, s.*member, 0, 1 << 24));
  });
  return result;
}

/// The choices in a list of components (format names) or states (bare state names).
inline Result<void> read_entries(const Json& j, const char* key, const std::string& where, std::size_t most, std::vector<PlanEntry>& choices) {
  const bool states = std::string_view(key) == "states";
  KLENS_TRY(const Json* const entries, json_array(j, key, where));
  if (entries->size() > most) return key_error(entries, key, where, "one entry per component");
  for (std::size_t i = 0; i < entries->size(); ++i) {
    const Json& entry = (*entries)[i];
    const std::string in_entry = where + ": '" + key + "'[" + std::to_string(i) + "]";
    PlanEntry e;
    KLENS_TRY(e.component, json_string(entry, "component", in_entry));
    KLENS_TRY(const std::string format, json_string(entry, "format", in_entry));
    std::optional<Precision> precision = parse_format(format);
    if (states) {
      const auto state = parse_state(format);
      precision = state ? std::optional(state_precision(*state)) : std::nullopt;
    }
    if (!precision)
      return Error{ErrorCode::format, in_entry + ": 'format'", states ? "f32, f16, s16, s8 or s4" : "a format name such as w4g32 or w8a8",
                   "'" + clip(format, 40) + "'"};
    e.format = *precision;
    KLENS_TRY(e.bytes, json_int_or(entry, "bytes", in_entry, 0, 0, std::int64_t(1) << 50));
    if (!json_absent(entry, "kl")) {
      KLENS_TRY(e.kl, json_number(entry, "kl", in_entry));
    }
    KLENS_TRY(e.reason, json_string_or(entry, "reason", in_entry, ""));
    choices.push_back(std::move(e));
  }
  return {};
}

}  // namespace detail

/// The plan in a JSON document. `where` names the file in errors.
inline Result<PlanDocument> plan_from_json(const Json& j, const std::string& where) {
  KLENS_TRY(const std::string schema, json_string(j, "schema", where));
  if (schema != "klens.plan/1") return Error{ErrorCode::format, where + ": 'schema'", "klens.plan/1", detail::clip(schema, 60)};
  KLENS_TRY(const std::string model, json_string_or(j, "model", where, ""));

  RuntimePlan skeleton;
  KLENS_TRY(const Json* const shape, json_object(j, "shape", where));
  const std::string in_shape = where + ": 'shape'";
  KLENS_TRY(const std::string family, json_string(*shape, "family", in_shape));
  const int known_family = index_of(family_names, family);
  if (known_family < 0)
    return Error{ErrorCode::unsupported, in_shape + ": 'family'", "a family that klens knows", detail::clip(family, 60)};
  skeleton.shape.family = Family(known_family);
  KLENS_OK(detail::read_shape(*shape, in_shape, skeleton.shape));

  KLENS_TRY(const Json* const layers, json_array(j, "layers", where));
  if (layers->size() > 4096) return detail::key_error(layers, "layers", where, "at most 4096 layers");
  for (std::size_t i = 0; i < layers->size(); ++i) {
    const std::string in_layer = where + ": 'layers'[" + std::to_string(i) + "]";
    LayerPlan l;
    KLENS_TRY(const std::int64_t window, json_int((*layers)[i], "window", in_layer, 0, 1 << 24));
    KLENS_TRY(const std::int64_t kv_source, json_int((*layers)[i], "kv_source", in_layer, 0, 4096));
    KLENS_TRY(const std::string mixer, json_string_or((*layers)[i], "mixer", in_layer, "hymba"));
    KLENS_TRY(const std::string ffn, json_string_or((*layers)[i], "ffn", in_layer, "swiglu"));
    if (index_of(mixer_names, mixer) < 0)
      return Error{ErrorCode::unsupported, in_layer + ": 'mixer'", "a mixer that klens knows", detail::clip(mixer, 60)};
    if (index_of(ffn_names, ffn) < 0)
      return Error{ErrorCode::unsupported, in_layer + ": 'ffn'", "an ffn that klens knows", detail::clip(ffn, 60)};
    l.mixer = Mixer(index_of(mixer_names, mixer)), l.ffn = Ffn(index_of(ffn_names, ffn));
    KLENS_TRY(const std::int64_t block_source, json_int_or((*layers)[i], "block_source", in_layer, -1, -1, 4096));
    l.window = int(window), l.block_source = int(block_source);
    l.kv_source = int(kv_source);
    skeleton.layers.push_back(l);
  }

  const int experts = skeleton.shape.experts;
  if (experts < 0 || experts > most_experts)
    return Error{ErrorCode::format, in_shape + ": 'experts'", "0 to " + std::to_string(most_experts), std::to_string(experts)};
  skeleton.experts.resize(expert_index(skeleton, int(layers->size()), 0));

  std::vector<PlanEntry> choices;
  KLENS_OK(detail::read_entries(j, "entries", where, std::size_t(role_count) * (layers->size() + 1) + 3 * skeleton.experts.size(), choices));
  if (!json_absent(j, "states")) KLENS_OK(detail::read_entries(j, "states", where, 3 * layers->size(), choices));
  KLENS_TRY(const std::int64_t context, json_int_or(j, "context", where, 512, 1, 1 << 22));

  std::vector<std::pair<std::string, std::string>> provenance;
  if (!json_absent(j, "provenance")) {
    KLENS_TRY(const Json* const given, json_object(j, "provenance", where));
    for (const auto& [key, value] : given->items()) {
      if (!value.is_string()) return detail::key_error(&value, key, where + ": 'provenance'", "a string");
      provenance.emplace_back(key, value.get<std::string>());
    }
  }
  KLENS_TRY(const std::int64_t small, json_int_or(j, "small_bytes", where, small_bytes(skeleton), 0, std::int64_t(1) << 50));
  KLENS_TRY(PlanDocument document, make_plan(model, std::move(skeleton), small, std::move(choices), std::move(provenance), where,
                                             int(context)));
  const std::string hash = detail::hex(shape_hash(document.plan));
  KLENS_TRY(const std::string said, json_string_or(j, "shape_hash", where, hash));
  if (said != hash)
    return Error{ErrorCode::shape, where + ": 'shape_hash'", hash + " (of the shape in the file)", detail::clip(said, 40)};
  KLENS_TRY(const std::int64_t bytes, json_int_or(j, "bytes", where, weight_bytes(document), 0,
                                                  std::numeric_limits<std::int64_t>::max()));
  if (bytes != weight_bytes(document))
    return Error{ErrorCode::format, where + ": 'bytes'", std::to_string(weight_bytes(document)), std::to_string(bytes)};
  return document;
}

inline Result<PlanDocument> read_plan(const std::string& path) {
  // A plan of 4096 layers is under 8 MiB; a component's line takes some 200 bytes.
  KLENS_TRY(const Json j, read_json(path, {.bytes = std::size_t(16) << 20, .values = 400'000}));
  return plan_from_json(j, path);
}

inline Result<void> write_plan(const std::string& path, const PlanDocument& document) {
  return write_file(path, to_text(plan_to_json(document)) + "\n");
}

/// plan.hpp beside it. `name`: the constant klens_plan::<name>.
inline Result<void> write_plan_header(const std::string& path, const PlanDocument& document, std::string_view name = "model_plan") {
  if (!is_identifier(name))
    return Error{ErrorCode::usage, path + ": name of the plan", "a C++ identifier", "'" + std::string(name.substr(0, 60)) + "'"};
  return write_file(path, plan_header(document, name));
}

}  // namespace klens
