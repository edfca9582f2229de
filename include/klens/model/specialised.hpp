// SpecialisedTable: all that the translation unit of one (plan, ISA level) exports. A baseline program picks one by a pure
// function and runs Sessions with it, as it would with the generic way; klens_add_model() writes the units.
#pragma once

#include <klens/model/view.hpp>

namespace klens {

/// What one level of a specialised build brings. A constant-initialised aggregate: no code of the unit runs at start.
struct SpecialisedTable {
  Level level = Level::ref;
  const char* name = "";                 // of the plan's constant
  std::uint64_t shape_hash = 0;          // a model of another shape is refused
  std::int64_t linear_bytes = 0;         // payload of all sites
  int layer_classes = 0;                 // instantiations of a layer: layers of equal class share one
  int sites = 0;
  const Precision* formats = nullptr;    // [sites], in the order of for_each_site; behind them the states' (for_each_state)
  KernelTable kernels = {};              // of the formats that the plan uses; the rest of `linear` is null
  void (*embed)(const Pass&) = nullptr;
  void (*layers)(const Pass&, int begin, int end) = nullptr;
  void (*head)(const Pass&, int begin, int end, float* logits, std::int64_t stride) = nullptr;
};

/// The program of a table; the table must outlive it.
KLENS_INLINE constexpr Program program_of(const SpecialisedTable& table) {
  Program p;
  p.level = table.level, p.specialised = true, p.table = &table.kernels;
  p.embed = table.embed, p.layers = table.layers, p.head = table.head;
  p.shape_hash = table.shape_hash, p.formats = table.formats, p.sites = table.sites;
  return p;
}

}  // namespace klens
