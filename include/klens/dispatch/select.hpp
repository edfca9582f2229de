// Which level runs: a pure function of (CPU features, compiled levels, request), and its use on this machine.
//
//   request   ""  or "auto": KLENS_ISA where it is set, else the strongest level that is compiled in and that the CPU
//             has
//             "avx2": exactly that level, or an error that lists what was compiled in and what the CPU has
//
// For baseline translation units that link a library made by klens_add_levels().
#pragma once

#include <klens/core/result.hpp>
#include <klens/dispatch/compiled.hpp>
#include <klens/isa/detect.hpp>

#include <cstdlib>
#include <span>

namespace klens {

/// Bit i: all_levels[i].
using LevelSet = std::uint32_t;

constexpr LevelSet set_of(Level level) { return 1u << int(level); }

enum class Choice { ok, unknown_name, not_compiled, not_supported, none };

struct Chosen {
  Choice result = Choice::none;
  Level level = Level::ref;
  constexpr bool operator==(const Chosen&) const = default;
};

/// The choice itself. `request` empty: the strongest. The order of strength is that of all_levels.
constexpr Chosen choose(Features cpu, LevelSet compiled, std::string_view request) {
  if (!request.empty()) {
    const auto level = parse_level(request);
    if (!level) return {Choice::unknown_name, Level::ref};
    if (!(compiled & set_of(*level))) return {Choice::not_compiled, *level};
    if (!supports(cpu, *level)) return {Choice::not_supported, *level};
    return {Choice::ok, *level};
  }
  Chosen best;
  for (const Level level : all_levels)
    if ((compiled & set_of(level)) && supports(cpu, level)) best = {Choice::ok, level};
  return best;
}

/// "ref, avx2, avx512", for messages.
inline std::string level_list(LevelSet set) {
  std::string text;
  for (const Level level : all_levels)
    if (set & set_of(level)) text += (text.empty() ? "" : ", ") + std::string(name_of(level));
  return text.empty() ? "none" : text;
}

/// "avx, avx2, fma".
inline std::string feature_list(Features set) {
  std::string text;
  for (int f = 0; f < feature_count; ++f)
    if (has(set, Feature(f))) text += (text.empty() ? "" : ", ") + std::string(name_of(Feature(f)));
  return text.empty() ? "none" : text;
}

/// The request that counts: an explicit one, else KLENS_ISA.
inline std::string_view effective_request(std::string_view request) {
  if (!request.empty() && request != "auto") return request;
  const char* from_environment = std::getenv("KLENS_ISA");
  const std::string_view text = from_environment ? from_environment : "";
  return text == "auto" ? std::string_view{} : text;
}

/// The chosen level, or the error to show. `request` as above, already effective.
inline Result<Level> choose_level(Features cpu, LevelSet compiled, std::string_view request) {
  const Chosen c = choose(cpu, compiled, request);
  if (c.result == Choice::ok) return c.level;
  const std::string have = "compiled in: " + level_list(compiled) + "; this CPU has: " + feature_list(cpu);
  const std::string where = "ISA level '" + std::string(request) + "'";
  switch (c.result) {
    case Choice::unknown_name:
      return Error{ErrorCode::no_kernel, where, "one of " + level_list((1u << level_count) - 1),
          "an unknown name (" + have + ")"};
    case Choice::not_compiled:
      return Error{ErrorCode::no_kernel, where, "a level that is compiled in", "none (" + have + ")"};
    case Choice::not_supported:
      return Error{ErrorCode::no_kernel, where, "a CPU with " + feature_list(needs(c.level)),
          "a CPU without (" + have + ")"};
    default: return Error{ErrorCode::no_kernel, "ISA level", "one that this CPU can run", have};
  }
}

/// Table of a level; nullptr if it is not compiled in. Whether the CPU can run it is another question: runnable().
inline const KernelTable* table_of(Level level) { return compiled_levels().of[int(level)]; }

/// What a level's own units brought: for a level with a base fewer kernels than its table has.
inline const KernelTable* own_table_of(Level level) { return compiled_levels().own[int(level)]; }

/// "64 kernels, 24 its own, the others those of avx512_vnni".
inline std::string kernels_text(Level level) {
  const KernelTable* all = table_of(level);
  const KernelTable* own = own_table_of(level);
  if (all == nullptr || own == nullptr) return "not compiled in";
  const int n = kernel_count(*all), mine = kernel_count(*own);
  if (base_of(level) == level) return std::to_string(n) + " kernels, all its own";
  return std::to_string(n) + " kernels, " + std::to_string(mine) + " its own, the others those of " +
         std::string(name_of(base_of(level)));
}

inline LevelSet compiled_set() {
  LevelSet set = 0;
  for (const Level level : all_levels)
    if (table_of(level)) set |= set_of(level);
  return set;
}

/// Compiled in, and this CPU has it.
inline bool runnable(Level level) { return table_of(level) != nullptr && supports(detect(), level); }

/// The table to use. `request`: a level's name, or "" ("auto") for KLENS_ISA and then the best.
inline Result<const KernelTable*> choose_table(std::string_view request) {
  KLENS_TRY(const Level level, choose_level(detect(), compiled_set(), effective_request(request)));
  return table_of(level);
}

/// All compiled tables, by level, null where a level is not compiled in.
inline std::span<const KernelTable* const> tables() { return compiled_levels().of; }

}  // namespace klens
