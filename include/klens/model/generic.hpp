// The generic way: any checkpoint, any formats, kernels by table. The specialised way is written by klens_add_model().
#pragma once

#include <klens/core/result.hpp>
#include <klens/dispatch/select.hpp>
#include <klens/model/decoder.hpp>

namespace klens::inline KLENS_NS {
namespace generic {

inline void embed(const Pass& pass) { run_embed(TableOps{pass.model, pass.table}, pass); }

template <Policy P>
void layers(const Pass& pass, int begin, int end) {
  const TableOps ops{pass.model, pass.table, P};
  for (int l = begin; l < end; ++l) run_layer(ops, l, pass);
}

template <Policy P>
void head(const Pass& pass, int begin, int end, float* logits, std::int64_t stride) {
  run_head(TableOps{pass.model, pass.table, P}, pass.model->shape.layers, pass, begin, end, logits, stride);
}

}  // namespace generic

/// The generic program on the kernels of one level.
inline Program generic_program(const KernelTable& table) {
  return {table.level, false, &table, &generic::embed, &generic::layers<Policy::exact>, &generic::head<Policy::exact>};
}

/// A level of this table runs some linears faster than exactly.
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
  program.layers = &generic::layers<Policy::fast>, program.head = &generic::head<Policy::fast>;
  program.policy = Policy::fast;
  return program;
}

}  // namespace klens::inline KLENS_NS
