// The version of klens and of its files.
#pragma once

#define KLENS_VERSION_MAJOR 0
#define KLENS_VERSION_MINOR 1
#define KLENS_VERSION_PATCH 0
#define KLENS_VERSION "0.1.0"

namespace klens {
/// Version of the packed file model.klens; readers refuse a newer one.
inline constexpr unsigned packed_file_version = 1;
}  // namespace klens
