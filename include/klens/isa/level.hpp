// The ISA levels klens is compiled for, weakest first. A level is a name, the CPU features it needs, and a set of compiler flags.
#pragma once

#include <klens/config.hpp>

#include <optional>
#include <string_view>

namespace klens {

enum class Level : int { ref, avx2, avx_vnni, avx512, avx512_vnni };

inline constexpr int level_count = 5;
inline constexpr Level all_levels[level_count] = {Level::ref, Level::avx2, Level::avx_vnni, Level::avx512, Level::avx512_vnni};

constexpr std::string_view name_of(Level level) {
  constexpr std::string_view names[level_count] = {"ref", "avx2", "avx_vnni", "avx512", "avx512_vnni"};
  return names[int(level)];
}

constexpr std::optional<Level> parse_level(std::string_view name) {
  for (Level level : all_levels)
    if (name_of(level) == name) return level;
  return std::nullopt;
}

}  // namespace klens
