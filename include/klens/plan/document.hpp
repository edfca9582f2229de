// PlanDocument: a plan as a file holds it. RuntimePlan is the Plan of a model whose number of layers is known at run time;
// entries say for every component its format, bytes, KL and the reason; provenance says what it was made from.
#pragma once

#include <klens/core/result.hpp>
#include <klens/format/name.hpp>
#include <klens/plan/budget.hpp>
#include <klens/plan/find_fault.hpp>

#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace klens {

/// Plan<N> without N. window and kv_source of the layers are the model's, the precisions the plan's.
struct RuntimePlan {
  Shape shape = {};
  Precision embedding = {};
  std::vector<LayerPlan> layers;
  Precision lm_head = {};
  bool operator==(const RuntimePlan&) const = default;
};

template <std::size_t Layers>
RuntimePlan runtime_plan(const Plan<Layers>& plan) {
  return {plan.shape, plan.embedding, {plan.layers.begin(), plan.layers.end()}, plan.lm_head};
}

/// What was chosen for one component. `kl`: KL(p||q) of this choice alone, nat per token, where it was measured.
struct PlanEntry {
  std::string component;
  Precision format = {};
  std::int64_t bytes = 0;             // payload; 0 in an entry that asks for a format: make_plan fills it in
  std::optional<double> kl = {};
  std::string reason = {};
};

struct PlanDocument {
  std::string model;                                           // a name for people
  RuntimePlan plan;
  std::int64_t small_bytes = 0;                                // payload of the tensors that no format applies to
  std::vector<PlanEntry> entries;                              // one per site, in the order of for_each_site
  std::vector<std::pair<std::string, std::string>> provenance;
};

/// Payload of the packed file for a plan.
inline std::int64_t weight_bytes(const PlanDocument& document) { return weight_bytes(document.plan, document.small_bytes); }
inline double bits_per_weight(const PlanDocument& document) { return bits_per_weight(document.plan, document.small_bytes); }

/// The checkpoint's name of a site, without ".weight": "model.layers.3.mamba.x_proj.0".
inline std::string component_name(Family, Role role, int layer) {
  const auto in_layer = [layer](const char* rest) { return "model.layers." + std::to_string(layer) + "." + rest; };
  switch (role) {
    case Role::embedding: return "model.embed_tokens";
    case Role::lm_head: return "lm_head";
    case Role::in_proj: return in_layer("mamba.in_proj");
    case Role::x_proj: return in_layer("mamba.x_proj.0");
    case Role::dt_proj: return in_layer("mamba.dt_proj.0");
    case Role::out_proj: return in_layer("mamba.out_proj");
    case Role::gate_proj: return in_layer("moe.experts.0.gate_proj");
    case Role::up_proj: return in_layer("moe.experts.0.up_proj");
    case Role::down_proj: return in_layer("moe.experts.0.down_proj");
  }
  return {};
}

namespace detail {

inline Precision* precision_at(RuntimePlan& plan, Role role, int layer) {
  if (role == Role::embedding) return &plan.embedding;
  if (role == Role::lm_head) return &plan.lm_head;
  return const_cast<Precision*>(&precision_of(plan.layers[std::size_t(layer)], role));  // `plan` is not const
}

}  // namespace detail

/// A plan from a model's skeleton (shape, window and kv_source, and the formats that hold where `choices` say nothing) and the
/// choices. `small_bytes`: of the model's other tensors in the packed file (small_bytes(shape) where all are 16 bits wide).
/// Errors name the component: unknown, named twice, or a format that breaks a rule. `where` begins every error.
inline Result<PlanDocument> make_plan(std::string model, RuntimePlan skeleton, std::int64_t small_bytes,
                                      std::vector<PlanEntry> choices, std::vector<std::pair<std::string, std::string>> provenance, const std::string& where) {
  PlanDocument document{std::move(model), std::move(skeleton), small_bytes, {}, std::move(provenance)};
  if (document.plan.shape.tied_head) document.plan.lm_head = {};
  if (const auto fault = find_fault(document.plan))
    return Error{ErrorCode::format, where + ": " + fault->field, fault->expected, fault->found};
  std::vector<Site> sites;
  for_each_site(document.plan, [&sites](const Site& site) { sites.push_back(site); });
  std::vector<char> used(choices.size(), 0);
  for (Site& site : sites) {
    const std::string name = component_name(document.plan.shape.family, site.role, site.layer);
    PlanEntry entry{name, site.precision, 0, std::nullopt, "not chosen: as given"};
    bool seen = false;
    for (std::size_t i = 0; i < choices.size(); ++i) {
      if (choices[i].component != name) continue;
      if (seen) return Error{ErrorCode::format, where + ": component '" + name + "'", "one entry", "two"};
      seen = true;
      used[i] = 1;
      entry = choices[i];
    }
    Finding finding;
    detail::weight_rules(entry.format, field_of(site.role), -1, finding);
    if (finding.rule != Rule::none)
      return Error{ErrorCode::format, where + ": component '" + name + "'" + detail::text_of(finding.rule).member,
                   detail::text_of(finding.rule).expected, detail::found_text(finding)};
    site.precision = entry.format;
    *detail::precision_at(document.plan, site.role, site.layer) = entry.format;
    const std::int64_t bytes = site_bytes(site);
    if (entry.bytes != 0 && entry.bytes != bytes)
      return Error{ErrorCode::format, where + ": component '" + name + "': bytes",
                   std::to_string(bytes) + " for " + format_name(entry.format),                   std::to_string(entry.bytes)};
    entry.bytes = bytes;
    document.entries.push_back(std::move(entry));
  }
  for (std::size_t i = 0; i < choices.size(); ++i)
    if (!used[i])
      return Error{ErrorCode::missing, where + ": component '" + choices[i].component.substr(0, 200) + "'",
                   "a component of the model", "another name"};
  return document;
}

}  // namespace klens
