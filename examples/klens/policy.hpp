// --policy of the commands that run a model: the program it names, and what the output says of it.
#pragma once

#include "common.hpp"

#include <klens/model/generic.hpp>
#include <klens/model/model.hpp>

namespace klens::cli {

inline void add_policy(CLI::App& command, Policy& policy) {
  const auto read = [&policy](const std::string& name) {
    policy = name == "fast" ? Policy::fast : Policy::exact;
  };
  const char* const help = "exact: the same bits on every level and machine; fast: bf16 weights with f32 "
                           "activations by bf16 products, an error where the level has none (default: exact)";
  command.add_option_function<std::string>("--policy", read, help)->check(CLI::IsMember({"exact", "fast"}));
}

/// The generic program of a level under a policy. `fast` on a level without faster linears is an error.
inline Result<Program> program_for(const KernelTable& table, Policy policy) {
  if (policy == Policy::fast) return fast_program(table);
  return generic_program(table);
}

/// How many linears of a model run fast. A tied head is the embedding's component; an untied embedding is no linear.
struct FastLinears { int fast = 0, all = 0; };

inline FastLinears fast_linears(const Model& model, const Program& program) {
  FastLinears n;
  for (int c = 0; c < int(model.components().size()); ++c) {
    if (model.components()[std::size_t(c)].role == Role::embedding && !model.shape().tied_head) continue;
    ++n.all, n.fast += program.policy == Policy::fast && fast_linear_of(*program.table, model.precision(c)) != nullptr;
  }
  return n;
}

/// "policy fast: 30 of 31 linears"; nothing under exact.
inline std::string policy_text(const Model& model, const Program& program) {
  if (program.policy == Policy::exact) return "";
  const FastLinears n = fast_linears(model, program);
  return fmt::format("policy fast: {} of {} linears", n.fast, n.all);
}

/// The same as fields of an output's JSON.
inline void name_policy(nlohmann::json& out, const Model& model, const Program& program) {
  if (program.policy == Policy::exact) return;
  const FastLinears n = fast_linears(model, program);
  out.update({{"policy", name_of(program.policy)}, {"fast_linears", n.fast}, {"linears", n.all}});
}

}  // namespace klens::cli
