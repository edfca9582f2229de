// The generic way: any checkpoint, any formats, kernels by table. The specialised way is written by klens_add_model().
#pragma once

#include <klens/model/decoder.hpp>

namespace klens::inline KLENS_NS {
namespace generic {

inline void embed(const Pass& pass) { run_embed(TableOps{pass.model, pass.table}, pass); }

inline void layers(const Pass& pass, int begin, int end) {
  const TableOps ops{pass.model, pass.table};
  for (int l = begin; l < end; ++l) run_layer(ops, l, pass);
}

inline void head(const Pass& pass, int begin, int end, float* logits, std::int64_t stride) {
  run_head(TableOps{pass.model, pass.table}, pass.model->shape.layers, pass, begin, end, logits, stride);
}

}  // namespace generic

/// The generic program on the kernels of one level.
inline Program generic_program(const KernelTable& table) {
  return {table.level, false, &table, &generic::embed, &generic::layers, &generic::head};
}

}  // namespace klens::inline KLENS_NS
