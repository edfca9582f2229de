// The definition of generic_steps(): the decoder over TableOps. Included by one unit of a program, which klens_add_levels() writes.
#pragma once

#include <klens/model/decoder.hpp>
#include <klens/model/generic.hpp>

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

}  // namespace klens::inline KLENS_NS

namespace klens {

inline constexpr GenericSteps compiled_generic_steps = {
    &generic::embed,
    {&generic::layers<Policy::exact>, &generic::layers<Policy::fast>},
    {&generic::head<Policy::exact>, &generic::head<Policy::fast>}};
static_assert(int(Policy::exact) == 0 && int(Policy::fast) == 1);

}  // namespace klens
