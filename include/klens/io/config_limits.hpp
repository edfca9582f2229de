// Caps of what a config may ask for, each about ten times the largest published model.
#pragma once

#include <cstdint>

namespace klens {

inline constexpr std::int64_t max_layers = 1024, max_width = 1 << 18, max_heads = 4096, max_vocab = 1 << 22,
                              max_positions = 1 << 28;

}  // namespace klens
