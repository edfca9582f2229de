// Applying formats to a model: one for all, by component, or a plan's. Always from the pristine weights.
#pragma once

#include <klens/model/model.hpp>

#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace klens {

/// A component by name and its format.
struct FormatChoice {
  std::string component;
  Precision precision;
};

/// Weights that rounding turned to zero, by component; see QuantizeNotes.
struct ApplyNotes {
  std::vector<std::pair<std::string, QuantizeNotes>> lost;
};

/// Sets the named components; the others keep their formats. A name that the model does not have, or that comes twice, is an
/// error before anything changes; a format that fails leaves the components before it changed.
inline Result<void> apply_formats(Model& model, std::span<const FormatChoice> choices, ApplyNotes* notes = nullptr) {
  std::vector<int> components;
  for (const FormatChoice& choice : choices) {
    const int c = model.find(choice.component);
    if (c < 0) return Error{ErrorCode::missing, model.path(), "a component of the model", "'" + choice.component + "'"};
    if (std::ranges::find(components, c) != components.end())
      return Error{ErrorCode::usage, model.path() + ": component '" + choice.component + "'", "one format", "two"};
    components.push_back(c);
  }
  for (std::size_t i = 0; i < choices.size(); ++i) {
    QuantizeNotes found;
    KLENS_OK(model.set_format(components[i], choices[i].precision, &found));
    if (notes != nullptr && found.lost_groups != 0) notes->lost.emplace_back(choices[i].component, found);
  }
  return {};
}

/// Every 2-D projection and the embedding in one format, and every state in that of its suffix (w8a8s8; none: f32).
inline Result<void> apply_uniform(Model& model, const Precision& precision, ApplyNotes* notes = nullptr) {
  KLENS_OK(model.set_states(precision.state));
  Precision weights = precision;
  weights.state = State::f32;
  std::vector<FormatChoice> choices;
  for (const Component& c : model.components()) choices.push_back({c.name, weights});
  return apply_formats(model, choices, notes);
}

/// Every state of one kind, or of all (nothing), in a format. A kind that does not have it is an error before anything changes.
struct StateChoice {
  std::optional<StateKind> kind;
  State format = State::f32;
};

inline constexpr std::string_view state_kind_names[] = {"scan", "conv", "kv"};

/// "s8", or "scan=s8,conv=s16,kv=s4" (kinds left out stay as they are).
inline Result<std::vector<StateChoice>> parse_states(const std::string& text) {
  std::vector<StateChoice> choices;
  for (std::size_t at = 0; at <= text.size();) {
    const std::size_t comma = std::min(text.find(',', at), text.size());
    std::string_view part = std::string_view(text).substr(at, comma - at);
    at = comma + 1;
    StateChoice choice;
    if (const std::size_t equals = part.find('='); equals != part.npos) {
      const auto known = std::ranges::find(state_kind_names, part.substr(0, equals));
      if (known != std::end(state_kind_names)) choice.kind = StateKind(known - std::begin(state_kind_names));
      part.remove_prefix(choice.kind ? equals + 1 : 0);
    }
    const auto format = parse_state(part);
    if (!format || (!choice.kind && text.find(',') != text.npos))
      return Error{ErrorCode::usage, "states", "f32, f16, s16, s8 or s4, or kinds as in scan=s8,conv=s16,kv=s4", "'" + text.substr(0, 80) + "'"};
    choice.format = *format;
    choices.push_back(choice);
  }
  return choices;
}

inline Result<void> apply_states(Model& model, std::span<const StateChoice> choices) {
  for (const StateChoice& choice : choices) {
    if (!choice.kind) KLENS_OK(model.set_states(choice.format));
    for (int s = 0; choice.kind && s < int(model.states().size()); ++s)
      if (model.states()[std::size_t(s)].kind == *choice.kind) KLENS_OK(model.set_state_format(s, choice.format));
  }
  return {};
}

/// The same of parse_states' text; an empty one leaves them as they are.
inline Result<void> apply_states(Model& model, const std::string& text) {
  if (text.empty()) return {};
  KLENS_TRY(const std::vector<StateChoice> choices, parse_states(text));
  return apply_states(model, choices);
}

/// The formats of a plan, which must be of this model's sizes.
inline Result<void> apply_plan(Model& model, const RuntimePlan& plan, ApplyNotes* notes = nullptr) {
  if (shape_hash(plan) != model.hash())
    return Error{ErrorCode::shape, model.path(), "a plan of this model's sizes (hash " + std::to_string(model.hash()) + ")",
                 "one of others (hash " + std::to_string(shape_hash(plan)) + ")"};
  std::vector<FormatChoice> choices;
  for_each_site(plan, [&](const Site& site) {
    choices.push_back({component_name(plan.shape.family, site.role, site.layer, site.expert), site.precision});
  });
  std::vector<State> states;
  for_each_state(plan, [&](const StateSite& site) { states.push_back(site.format); });
  for (std::size_t s = 0; s < states.size(); ++s) KLENS_OK(model.set_state_format(int(s), states[s]));
  return apply_formats(model, choices, notes);
}

/// Writes the file of `path` for the model in its present formats, after setting those of `plan` (if any).
inline Result<void> pack_model(Model& model, const RuntimePlan* plan, const std::string& path, const PackOptions& options,
                               ApplyNotes* notes = nullptr) {
  if (plan != nullptr) KLENS_OK(apply_plan(model, *plan, notes));
  return model.write(path, options);
}

}  // namespace klens
