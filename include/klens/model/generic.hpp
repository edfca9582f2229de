// The generic way: any checkpoint, any formats, kernels by table. The specialised way is written by klens_add_model().
#pragma once

#include <klens/core/result.hpp>
#include <klens/dispatch/select.hpp>
#include <klens/model/view.hpp>

namespace klens {

/// The steps of the generic way, by policy. Defined by a unit that klens_add_levels() writes (model/generic_steps.hpp): the
/// decoder over all kinds of layers takes 16 s to compile, once for a program and not in each of its units.
struct GenericSteps {
  void (*embed)(const Pass&);
  void (*layers[2])(const Pass&, int begin, int end);
  void (*head[2])(const Pass&, int begin, int end, float* logits, std::int64_t stride);
};

const GenericSteps& generic_steps();

/// The generic program on the kernels of one level.
inline Program generic_program(const KernelTable& table) {
  const GenericSteps& steps = generic_steps();
  return {table.level, false, &table, steps.embed, steps.layers[int(Policy::exact)], steps.head[int(Policy::exact)]};
}

/// The level of the table has faster linears than the exact ones.
constexpr bool has_fast_linears(const KernelTable& table) {
  for (const Kernel<LinearArgs> kernel : table.linear_fast)
    if (kernel != nullptr) return true;
  return false;
}

/// The generic program under the policy `fast`. A level without a faster kernel is an error that names those that have.
inline Result<Program> fast_program(const KernelTable& table) {
  if (!has_fast_linears(table)) {
    LevelSet fast = 0;
    for (const KernelTable* t : tables())
      if (t != nullptr && has_fast_linears(*t)) fast |= set_of(t->level);
    return Error{ErrorCode::no_kernel, "policy fast on level " + std::string(name_of(table.level)),
                 "a level with faster linears (compiled in: " + level_list(fast) + ")", "none of them here"};
  }
  Program program = generic_program(table);
  program.layers = generic_steps().layers[int(Policy::fast)], program.head = generic_steps().head[int(Policy::fast)];
  program.policy = Policy::fast;
  return program;
}

}  // namespace klens
