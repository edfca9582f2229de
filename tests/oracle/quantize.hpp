// Oracle for formats: round to nearest and the packed bytes, in double and int64, written from design.md's words and
// the diagrams of docs/formats.md alone. Shares no code with include/klens.
#pragma once

#include <cfenv>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace oracle {

/// What a format is, spelled out: no klens types here.
struct Format {
  std::string name;
  int bits;   // of a stored code
  int group;  // 0: one fp32 scale per row (or a float grid)
  enum Kind { integer, nf4, half, bfloat, single } kind;
};

inline const std::vector<Format>& formats() {
  static const std::vector<Format> all = [] {
    std::vector<Format> f;
    for (int bits : {8, 6, 5, 4, 3, 2})
      for (int group : {0, 32, 64, 128})
        f.push_back(
            {"w" + std::to_string(bits) + (group ? "g" + std::to_string(group) : ""), bits, group, Format::integer});
    for (int group : {32, 64, 128}) f.push_back({"nf4g" + std::to_string(group), 4, group, Format::nf4});
    f.push_back({"f16", 16, 0, Format::half});
    f.push_back({"bf16", 16, 0, Format::bfloat});
    f.push_back({"f32", 32, 0, Format::single});
    return f;
  }();
  return all;
}

/// x to `digits` significant bits with smallest exponent `least` (of the last place), ties to even, in exact double
/// steps.
inline double round_to(double x, int digits, int least) {
  if (x == 0 || !std::isfinite(x)) return x;
  int e;
  std::frexp(x, &e);  // |x| in [2^(e-1), 2^e)
  const int place = std::max(e - digits, least);
  return std::ldexp(std::nearbyint(std::ldexp(x, -place)), place);
}

inline double to_half(double x) { return round_to(x, 11, -24); }  // without the overflow to infinity
inline double to_bfloat(double x) { return round_to(x, 8, -133); }
inline double to_single(double x) { return round_to(x, 24, -149); }

/// Bit pattern of a value that is already representable.
inline std::uint32_t half_bits(double x) {
  const std::uint32_t sign = std::signbit(x) ? 0x8000u : 0u;
  x = std::fabs(x);
  if (x == 0) return sign;
  int e;
  std::frexp(x, &e);
  if (e - 1 < -14) return sign | std::uint32_t(std::ldexp(x, 24));
  return sign | (std::uint32_t(e - 1 + 15) << 10) | (std::uint32_t(std::ldexp(x, 11 - e)) - 1024u);
}
inline std::uint32_t single_bits(double x) {
  const float f = float(x);
  std::uint32_t u;
  std::memcpy(&u, &f, 4);
  return u;
}

inline const double nf4_table[16] = {
    -1,        -0.6961928, -0.52507305, -0.39491749, -0.28444138, -0.18477343, -0.09105004, 0,
    0.0795803, 0.1609302,  0.2461123,   0.33791524,  0.44070983,  0.562617,    0.72295684,  1};

/// A quantized matrix, unpacked.
struct Quantized {
  std::int64_t rows, cols, groups;
  std::vector<std::int64_t> q;  // [rows][cols]: q, level index, or bit pattern
  std::vector<double> scale;    // [rows][groups], as stored
  std::vector<double> value;    // [rows][cols], dequantized, rounded once to float
};

inline Quantized quantize(const Format& f, const std::vector<float>& w, std::int64_t rows, std::int64_t cols) {
  const bool scaled = f.kind == Format::integer || f.kind == Format::nf4;
  const std::int64_t group = f.group ? f.group : cols, groups = scaled ? (cols + group - 1) / group : 0;
  Quantized z{rows,
              cols,
              groups,
              std::vector<std::int64_t>(rows * cols),
              std::vector<double>(rows * groups),
              std::vector<double>(rows * cols)};
  const std::int64_t qmax = (std::int64_t(1) << (f.bits - 1)) - 1;
  for (std::int64_t n = 0; n < rows; ++n) {
    for (std::int64_t g = 0; g < groups; ++g) {
      double absmax = 0;
      for (std::int64_t k = g * group; k < std::min(cols, (g + 1) * group); ++k)
        absmax = std::max(absmax, std::fabs(double(w[n * cols + k])));
      double s = f.kind == Format::nf4 ? absmax : to_single(absmax / double(qmax));
      if (f.group) s = to_half(s);
      z.scale[n * groups + g] = s;
    }
    for (std::int64_t k = 0; k < cols; ++k) {
      const double x = w[n * cols + k];
      const std::int64_t at = n * cols + k;
      if (!scaled) {
        z.value[at] = f.kind == Format::half ? to_half(x) : f.kind == Format::bfloat ? to_bfloat(x) : x;
        z.q[at] = f.kind == Format::half     ? half_bits(z.value[at])
                  : f.kind == Format::bfloat ? single_bits(z.value[at]) >> 16
                                             : single_bits(x);
        continue;
      }
      const double s = z.scale[n * groups + k / group];
      const double ratio =
          s == 0 ? 0 : to_single(x / s);  // a quotient of floats: rounding it twice is harmless (53 >= 2*24 + 2)
      if (f.kind == Format::nf4) {
        std::int64_t best = 0;
        for (int i = 1; i < 16; ++i)
          if (std::fabs(ratio - double(float(nf4_table[i]))) < std::fabs(ratio - double(float(nf4_table[best]))))
            best = i;
        z.q[at] = s == 0 ? 7 : best;
        z.value[at] = to_single(s * double(float(nf4_table[z.q[at]])));
      } else {
        const double q = std::nearbyint(ratio);
        z.q[at] = std::int64_t(std::min(std::max(q, -double(qmax)), double(qmax)));
        z.value[at] = to_single(s * double(z.q[at]));
      }
    }
  }
  return z;
}

/// The packed bytes of z: lines, then scales. Written plane by plane, line by line, dword by dword.
inline std::vector<unsigned char> pack(const Format& f, const Quantized& z) {
  std::vector<unsigned char> out;
  const std::int64_t panels = (z.rows + 15) / 16;
  const std::int64_t zero = f.kind == Format::integer ? std::int64_t(1) << (f.bits - 1) : f.kind == Format::nf4 ? 7 : 0;
  const auto code = [&](std::int64_t n, std::int64_t k) -> std::uint64_t {
    if (n >= z.rows || k >= z.cols) return std::uint64_t(zero);
    return std::uint64_t(z.q[n * z.cols + k] + (f.kind == Format::integer ? zero : 0));
  };
  // One line of a plane that holds `width` bits, code bits from `low` on, of 32 / width inputs from k on.
  const auto plane_line = [&](std::int64_t panel, std::int64_t k, int width, int low) {
    for (int r = 0; r < 16; ++r)
      for (int byte = 0; byte < 4; ++byte) {
        unsigned value = 0;
        for (int i = 0; i < 8 / width; ++i)
          value |= unsigned(code(panel * 16 + r, k + 4 * i + byte) >> low & ((1u << width) - 1u)) << (width * i);
        out.push_back(static_cast<unsigned char>(value));
      }
  };
  const auto put = [&](std::uint64_t value, int bytes) {
    for (int b = 0; b < bytes; ++b) out.push_back(static_cast<unsigned char>(value >> (8 * b)));
  };
  for (std::int64_t p = 0; p < panels; ++p) {
    if (f.kind == Format::single) {
      for (std::int64_t k = 0; k < z.cols; ++k)
        for (int r = 0; r < 16; ++r) put(code(p * 16 + r, k), 4);
    } else if (f.kind == Format::half) {
      for (std::int64_t k = 0; k < (z.cols + 1) / 2 * 2; ++k)
        for (int r = 0; r < 16; ++r) put(code(p * 16 + r, k), 2);
    } else if (f.kind == Format::bfloat) {
      for (std::int64_t k = 0; k < z.cols; k += 2)
        for (int r = 0; r < 16; ++r) put(code(p * 16 + r, k), 2), put(code(p * 16 + r, k + 1), 2);
    } else if (f.bits == 8) {
      for (std::int64_t k = 0; k < z.cols; k += 4) plane_line(p, k, 8, 0);
    } else if (f.bits == 4) {
      for (std::int64_t k = 0; k < z.cols; k += 8) plane_line(p, k, 4, 0);
    } else if (f.bits == 2) {
      for (std::int64_t k = 0; k < z.cols; k += 16) plane_line(p, k, 2, 0);
    } else {
      for (std::int64_t k = 0; k < z.cols; k += 32) {
        if (f.bits == 3)
          for (int c = 0; c < 2; ++c) plane_line(p, k + 16 * c, 2, 0);
        else
          for (int c = 0; c < 4; ++c) plane_line(p, k + 8 * c, 4, 0);
        if (f.bits == 6)
          for (int c = 0; c < 2; ++c) plane_line(p, k + 16 * c, 2, 4);
        else
          plane_line(p, k, 1, f.bits - 1);
      }
    }
  }
  for (std::int64_t p = 0; p < panels; ++p)
    for (std::int64_t g = 0; g < z.groups; ++g)
      for (int r = 0; r < 16; ++r) {
        const double s = p * 16 + r < z.rows ? z.scale[(p * 16 + r) * z.groups + g] : 0;
        f.group ? put(half_bits(s), 2) : put(single_bits(s), 4);
      }
  return out;
}

}  // namespace oracle
