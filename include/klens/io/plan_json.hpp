// plan.json, schema klens.plan/1:
//   {"schema", "model", "shape": {family, layers, hidden, ...}, "layers": [{"window", "kv_source"}], "shape_hash": "0x...",
//    "bytes", "small_bytes", "bits_per_weight", "entries": [{"component", "format", "bytes", "kl", "reason"}],
//    "provenance": {key: text}}
// Equal plans give equal text. `bytes` of the reader's result are recomputed; a file that says otherwise is refused.
#pragma once

#include <klens/io/atomic_file.hpp>
#include <klens/io/json.hpp>
#include <klens/plan/document.hpp>
#include <klens/plan/emit.hpp>

namespace klens {
namespace detail {

/// The integer members of Shape under their names in the file.
struct ShapeMember { const char* name; int Shape::*member; };
inline constexpr ShapeMember shape_members[] = {
    {"layers", &Shape::layers},   {"hidden", &Shape::hidden},       {"vocab", &Shape::vocab},     {"heads", &Shape::heads},
    {"kv_heads", &Shape::kv_heads}, {"qk_dim", &Shape::qk_dim},     {"v_dim", &Shape::v_dim},     {"inner", &Shape::inner},
    {"n_state", &Shape::n_state}, {"conv_taps", &Shape::conv_taps}, {"dt_rank", &Shape::dt_rank}, {"ffn", &Shape::ffn},
    {"meta", &Shape::meta}};

}  // namespace detail

inline Json plan_to_json(const PlanDocument& document) {
  const RuntimePlan& plan = document.plan;
  Json shape = {{"family", "hymba"}, {"tied_head", plan.shape.tied_head}, {"norm_eps", plan.shape.norm_eps},
                {"rope_theta", plan.shape.rope_theta}};
  for (const auto& m : detail::shape_members) shape[m.name] = plan.shape.*m.member;
  Json layers = Json::array(), entries = Json::array(), provenance = Json::object();
  for (const LayerPlan& l : plan.layers) layers.push_back({{"window", l.window}, {"kv_source", l.kv_source}});
  for (const PlanEntry& e : document.entries)
    entries.push_back({{"component", e.component}, {"format", format_name(e.format)}, {"bytes", e.bytes},
                       {"kl", e.kl ? Json(*e.kl) : Json()}, {"reason", e.reason}});
  for (const auto& [key, value] : document.provenance) provenance[key] = value;
  return {{"schema", "klens.plan/1"}, {"model", document.model}, {"shape", shape}, {"layers", layers},
          {"shape_hash", detail::hex(shape_hash(plan))}, {"bytes", weight_bytes(document)},
          {"small_bytes", document.small_bytes}, {"bits_per_weight", bits_per_weight(document)},
          {"entries", entries}, {"provenance", provenance}};
}

/// The plan in a JSON document. `where` names the file in errors.
inline Result<PlanDocument> plan_from_json(const Json& j, const std::string& where) {
  KLENS_TRY(const std::string schema, json_string(j, "schema", where));
  if (schema != "klens.plan/1") return Error{ErrorCode::format, where + ": 'schema'", "klens.plan/1", detail::clip(schema, 60)};
  KLENS_TRY(const std::string model, json_string_or(j, "model", where, ""));

  RuntimePlan skeleton;
  KLENS_TRY(const Json* const shape, json_object(j, "shape", where));
  const std::string in_shape = where + ": 'shape'";
  KLENS_TRY(const std::string family, json_string(*shape, "family", in_shape));
  if (family != "hymba") return Error{ErrorCode::unsupported, in_shape + ": 'family'", "hymba", detail::clip(family, 60)};
  for (const auto& m : detail::shape_members) {
    KLENS_TRY(const std::int64_t value, json_int(*shape, m.name, in_shape, 0, 1 << 24));
    skeleton.shape.*m.member = int(value);
  }
  KLENS_TRY(skeleton.shape.tied_head, json_bool(*shape, "tied_head", in_shape));
  KLENS_TRY(const double norm_eps, json_number(*shape, "norm_eps", in_shape, 0, 1));
  KLENS_TRY(const double rope_theta, json_number(*shape, "rope_theta", in_shape, 0, 1e30));
  skeleton.shape.norm_eps = float(norm_eps);
  skeleton.shape.rope_theta = float(rope_theta);

  KLENS_TRY(const Json* const layers, json_array(j, "layers", where));
  if (layers->size() > 4096) return detail::key_error(layers, "layers", where, "at most 4096 layers");
  for (std::size_t i = 0; i < layers->size(); ++i) {
    const std::string in_layer = where + ": 'layers'[" + std::to_string(i) + "]";
    LayerPlan l;
    KLENS_TRY(const std::int64_t window, json_int((*layers)[i], "window", in_layer, 0, 1 << 24));
    KLENS_TRY(const std::int64_t kv_source, json_int((*layers)[i], "kv_source", in_layer, 0, 4096));
    l.window = int(window);
    l.kv_source = int(kv_source);
    skeleton.layers.push_back(l);
  }

  KLENS_TRY(const Json* const entries, json_array(j, "entries", where));
  if (entries->size() > 8 * (layers->size() + 1)) return detail::key_error(entries, "entries", where, "one entry per component");
  std::vector<PlanEntry> choices;
  for (std::size_t i = 0; i < entries->size(); ++i) {
    const Json& entry = (*entries)[i];
    const std::string in_entry = where + ": 'entries'[" + std::to_string(i) + "]";
    PlanEntry e;
    KLENS_TRY(e.component, json_string(entry, "component", in_entry));
    KLENS_TRY(const std::string format, json_string(entry, "format", in_entry));
    const auto precision = parse_format(format);
    if (!precision)
      return Error{ErrorCode::format, in_entry + ": 'format'", "a format name such as w4g32 or w8a8", "'" + detail::clip(format, 40) + "'"};
    e.format = *precision;
    KLENS_TRY(e.bytes, json_int_or(entry, "bytes", in_entry, 0, 0, std::int64_t(1) << 50));
    if (!json_absent(entry, "kl")) {
      KLENS_TRY(e.kl, json_number(entry, "kl", in_entry));
    }
    KLENS_TRY(e.reason, json_string_or(entry, "reason", in_entry, ""));
    choices.push_back(std::move(e));
  }

  std::vector<std::pair<std::string, std::string>> provenance;
  if (!json_absent(j, "provenance")) {
    KLENS_TRY(const Json* const given, json_object(j, "provenance", where));
    for (const auto& [key, value] : given->items()) {
      if (!value.is_string()) return detail::key_error(&value, key, where + ": 'provenance'", "a string");
      provenance.emplace_back(key, value.get<std::string>());
    }
  }
  KLENS_TRY(const std::int64_t small, json_int_or(j, "small_bytes", where, small_bytes(skeleton.shape), 0, std::int64_t(1) << 50));
  KLENS_TRY(PlanDocument document, make_plan(model, std::move(skeleton), small, std::move(choices), std::move(provenance), where));
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
