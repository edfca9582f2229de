// The ISA levels klens is compiled for, weakest first. A level is a name, the CPU features it needs, and a set of
// compiler flags.
#pragma once

#include <klens/config.hpp>

#include <optional>
#include <string_view>

namespace klens {

enum class Level : int { ref, avx2, avx_vnni, avx_vnni_int8, avx512, avx512_vnni, avx512_bf16, amx_int8 };

inline constexpr int level_count = 8;
inline constexpr Level all_levels[level_count] = {
    Level::ref,    Level::avx2,        Level::avx_vnni,    Level::avx_vnni_int8,
    Level::avx512, Level::avx512_vnni, Level::avx512_bf16, Level::amx_int8};

/// Some levels compile only what they do better (their overrides) and take every other kernel from their base; the
/// others are their own base. Two steps never: a base has no base.
constexpr Level base_of(Level level) {
  switch (level) {
    case Level::avx_vnni_int8: return Level::avx_vnni;
    case Level::avx512_bf16:
    case Level::amx_int8: return Level::avx512_vnni;
    default: return level;
  }
}

constexpr std::string_view name_of(Level level) {
  constexpr std::string_view names[level_count] = {"ref",    "avx2",        "avx_vnni",    "avx_vnni_int8",
                                                   "avx512", "avx512_vnni", "avx512_bf16", "amx_int8"};
  return names[int(level)];
}

constexpr std::optional<Level> parse_level(std::string_view name) {
  for (Level level : all_levels)
    if (name_of(level) == name) return level;
  return std::nullopt;
}

}  // namespace klens
