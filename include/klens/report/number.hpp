// How numbers are printed for people: few digits, fixed width where columns line up, never a false zero.
#pragma once

#include <fmt/format.h>

#include <cmath>
#include <cstdint>
#include <string>

namespace klens {

/// Three significant digits, scientific below 1e-3: 0.0123, 1.05e-04, 42.1.
inline std::string short_number(double x) {
  if (x == 0) return "0";
  if (!std::isfinite(x)) return fmt::format("{}", x);
  const double a = std::fabs(x);
  if (a < 1e-3 || a >= 1e6) return fmt::format("{:.2e}", x);
  return fmt::format("{:.{}f}", x, a >= 100 ? 0 : a >= 10 ? 1 : a >= 1 ? 2 : 4);
}

/// Binary units: 2.29 MiB, 812 KiB, 96 B.
inline std::string bytes_text(std::int64_t bytes) {
  if (bytes >= (std::int64_t(1) << 30)) return fmt::format("{:.2f} GiB", double(bytes) / (1 << 30));
  if (bytes >= (1 << 20)) return fmt::format("{:.2f} MiB", double(bytes) / (1 << 20));
  if (bytes >= (1 << 10)) return fmt::format("{:.1f} KiB", double(bytes) / (1 << 10));
  return fmt::format("{} B", bytes);
}

/// 75 s -> "1:15"; 4000 s -> "1:06:40".
inline std::string clock_text(double seconds) {
  const long s = std::lround(std::fmax(seconds, 0));
  return s >= 3600 ? fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60) : fmt::format("{}:{:02}", s / 60, s % 60);
}

}  // namespace klens
