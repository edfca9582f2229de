// PlanDocument: a plan as a file holds it. RuntimePlan is the Plan of a model whose number of layers is known at run time;
// entries say for every component its format, bytes, KL and the reason, states the same for every scan, convolution and KV
// cache; provenance says what it was made from.
#pragma once

#include <klens/core/result.hpp>
#include <klens/format/name.hpp>
#include <klens/plan/budget.hpp>
#include <klens/plan/find_fault.hpp>
#include <klens/plan/names.hpp>

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
  std::vector<ExpertPlan> experts = {};
  bool operator==(const RuntimePlan&) const = default;
};

template <std::size_t Layers, std::size_t Experts>
RuntimePlan runtime_plan(const Plan<Layers, Experts>& plan) {
  return {plan.shape, plan.embedding, {plan.layers.begin(), plan.layers.end()}, plan.lm_head,
          {plan.experts.begin(), plan.experts.end()}};
}

/// The choice for a state component: nothing but its format.
constexpr Precision state_precision(State format) {
  Precision p;
  p.state = format;
  return p;
}

/// What was chosen for one component. `kl`: KL(p||q) of this choice alone, nat per token, where it was measured.
struct PlanEntry {
  std::string component;
  Precision format = {};              // of a state: state_precision(format)
  std::int64_t bytes = 0;             // payload, or of a state; 0 in an entry that asks for a format: make_plan fills it in
  std::optional<double> kl = {};
  std::string reason = {};
};

struct PlanDocument {
  std::string model;                                           // a name for people
  RuntimePlan plan;
  std::int64_t small_bytes = 0;                                // payload of the tensors that no format applies to
  std::vector<PlanEntry> entries;                              // one per site, in the order of for_each_site
  std::vector<std::pair<std::string, std::string>> provenance;
  std::vector<PlanEntry> states = {};                          // one per state, in the order of for_each_state
  int context = 512;                                           // tokens that a KV cache holds in the bytes of `states`
};

/// Whether a plan keeps every state in f32, as a checkpoint does.
template <class AnyPlan>
constexpr bool states_are_f32(const AnyPlan& plan) {
  bool all = true;
  for_each_state(plan, [&all](const StateSite& site) { all = all && site.format == State::f32; });
  return all;
}

/// Payload of the packed file for a plan; states are no part of it.
inline std::int64_t weight_bytes(const PlanDocument& document) { return weight_bytes(document.plan, document.small_bytes); }
inline double bits_per_weight(const PlanDocument& document) { return bits_per_weight(document.plan, document.small_bytes); }

namespace detail {

inline Precision* precision_at(RuntimePlan& plan, Role role, int layer, int expert = -1) {
  if (role == Role::embedding) return &plan.embedding;
  if (role == Role::lm_head) return &plan.lm_head;
  if (expert >= 0) return &expert_member(plan.experts[expert_index(plan, layer, expert)], role);
  return &member_of(plan.layers[std::size_t(layer)], role);
}

}  // namespace detail

/// A plan from a model's skeleton (shape, window and kv_source, and the formats that hold where `choices` say nothing) and the
/// choices, of weights and of states. `small_bytes`: of the model's other tensors in the packed file (small_bytes(plan) where
/// all are 16 bits wide); `context`: tokens of the KV caches whose bytes the states count.
/// Errors name the component: unknown, named twice, or a format that breaks a rule. `where` begins every error.
inline Result<PlanDocument> make_plan(std::string model, RuntimePlan skeleton, std::int64_t small_bytes,
                                      std::vector<PlanEntry> choices, std::vector<std::pair<std::string, std::string>> provenance,
                                      const std::string& where, int context = 512) {
  PlanDocument document{std::move(model), std::move(skeleton), small_bytes, {}, std::move(provenance), {}, context};
  if (document.plan.shape.tied_head) document.plan.lm_head = {};
  if (const auto fault = find_fault(document.plan))
    return Error{ErrorCode::format, where + ": " + fault->field, fault->expected, fault->found};
  std::vector<Site> sites;
  std::vector<StateSite> states;
  for_each_site(document.plan, [&sites](const Site& site) { sites.push_back(site); });
  for_each_state(document.plan, [&states](const StateSite& site) { states.push_back(site); });
  std::vector<char> used(choices.size(), 0);
  const auto choose = [&](PlanEntry& entry) -> Result<void> {   // what the choices say of the component, if anything
    bool seen = false;
    for (std::size_t i = 0; i < choices.size(); ++i) {
      if (choices[i].component != entry.component) continue;
      if (seen) return Error{ErrorCode::format, where + ": component '" + entry.component + "'", "one entry", "two"};
      seen = true;
      used[i] = 1;
    }
    for (std::size_t i = 0; seen && i < choices.size(); ++i)
      if (choices[i].component == entry.component) entry = choices[i];
    return {};
  };
  const auto check = [&where](const PlanEntry& entry, const Finding& finding) -> Result<void> {
    if (finding.rule == Rule::none) return {};
    return Error{ErrorCode::format, where + ": component '" + entry.component + "'" + detail::text_of(finding.rule).member,
                 detail::text_of(finding.rule).expected, detail::found_text(finding)};
  };
  const auto count = [&where](PlanEntry& entry, std::int64_t bytes, const std::string& format) -> Result<void> {
    if (entry.bytes != 0 && entry.bytes != bytes)
      return Error{ErrorCode::format, where + ": component '" + entry.component + "': bytes", std::to_string(bytes) + " for " + format,
                   std::to_string(entry.bytes)};
    entry.bytes = bytes;
    return {};
  };
  const Family family = document.plan.shape.family;
  for (Site& site : sites) {
    PlanEntry entry{component_name(family, site.role, site.layer, site.expert), site.precision, 0, std::nullopt, "not chosen: as given"};
    KLENS_OK(choose(entry));
    Finding finding;
    detail::weight_rules(entry.format, field_of(site.role), -1, finding);
    KLENS_OK(check(entry, finding));
    site.precision = entry.format;
    *detail::precision_at(document.plan, site.role, site.layer, site.expert) = entry.format;
    KLENS_OK(count(entry, site_bytes(site), format_name(entry.format)));
    document.entries.push_back(std::move(entry));
  }
  for (StateSite& site : states) {
    PlanEntry entry{component_name(family, site.kind, site.layer), state_precision(site.format), 0, std::nullopt, "not chosen: as given"};
    KLENS_OK(choose(entry));
    if (entry.format != state_precision(entry.format.state))
      return Error{ErrorCode::format, where + ": component '" + entry.component + "'", "the format of a state: f32, f16, s16, s8 or s4",
                   format_name(entry.format)};
    Finding finding;
    detail::state_rules(site.kind, entry.format, -1, finding);
    KLENS_OK(check(entry, finding));
    site.format = entry.format.state;
    set_state(document.plan, site.kind, site.layer, site.format);
    KLENS_OK(count(entry, state_bytes(document.plan, site, context), std::string(name_of(site.format))));
    document.states.push_back(std::move(entry));
  }
  for (std::size_t i = 0; i < choices.size(); ++i)
    if (!used[i])
      return Error{ErrorCode::missing, where + ": component '" + choices[i].component.substr(0, 200) + "'",
                   "a component of the model", "another name"};
  return document;
}

}  // namespace klens
