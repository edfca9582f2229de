// Which table of a specialised build runs: a pure function of the tables and the CPU's features, and the call that asks the
// CPU and KLENS_ISA. Nothing falls back in silence: a level that was named and cannot run is an error.
#pragma once

#include <klens/core/result.hpp>
#include <klens/dispatch/select.hpp>
#include <klens/model/specialised.hpp>

#include <span>
#include <string_view>

namespace klens {

/// The best table that `have` can run: they are listed weakest first. Null where there is none.
constexpr const SpecialisedTable* select_specialised(std::span<const SpecialisedTable* const> tables, Features have) {
  const SpecialisedTable* best = nullptr;
  for (const SpecialisedTable* table : tables)
    if (supports(have, table->level)) best = table;
  return best;
}

/// The table of exactly one level. Null where it was not compiled.
constexpr const SpecialisedTable* find_specialised(std::span<const SpecialisedTable* const> tables, Level level) {
  for (const SpecialisedTable* table : tables)
    if (table->level == level) return table;
  return nullptr;
}

/// The table to run. `request`: a level's name; empty means KLENS_ISA, and without that the best level of this CPU.
inline Result<const SpecialisedTable*> choose_specialised(std::span<const SpecialisedTable* const> tables,
                                                          std::string_view request = {}) {
  LevelSet compiled = 0;
  for (const SpecialisedTable* table : tables) compiled |= set_of(table->level);
  KLENS_TRY(const Level level, choose_level(detect(), compiled, effective_request(request)));
  return find_specialised(tables, level);
}

}  // namespace klens
