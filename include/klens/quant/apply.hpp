// Applying formats to a model: one for all, by component, or a plan's. Always from the pristine weights.
#pragma once

#include <klens/model/model.hpp>

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

/// Every 2-D projection and the embedding in one format.
inline Result<void> apply_uniform(Model& model, const Precision& precision, ApplyNotes* notes = nullptr) {
  std::vector<FormatChoice> choices;
  for (const Component& c : model.components()) choices.push_back({c.name, precision});
  return apply_formats(model, choices, notes);
}

/// The formats of a plan, which must be of this model's sizes.
inline Result<void> apply_plan(Model& model, const RuntimePlan& plan, ApplyNotes* notes = nullptr) {
  if (shape_hash(plan) != model.hash())
    return Error{ErrorCode::shape, model.path(), "a plan of this model's sizes (hash " + std::to_string(model.hash()) + ")",
                 "one of others (hash " + std::to_string(shape_hash(plan)) + ")"};
  std::vector<FormatChoice> choices;
  for_each_site(plan, [&](const Site& site) {
    choices.push_back({component_name(plan.shape.family, site.role, site.layer), site.precision});
  });
  return apply_formats(model, choices, notes);
}

/// Writes the file of `path` for the model in its present formats, after setting those of `plan` (if any).
inline Result<void> pack_model(Model& model, const RuntimePlan* plan, const std::string& path, const PackOptions& options,
                               ApplyNotes* notes = nullptr) {
  if (plan != nullptr) KLENS_OK(apply_plan(model, *plan, notes));
  return model.write(path, options);
}

}  // namespace klens
