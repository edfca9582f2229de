// Round to nearest: what the format names mean. Always from the pristine weights; better rounding is another recipe.
//
//   uniform   qmax = 2^(b-1) - 1;  s = absmax / qmax, one fp32 division, rounded to binary16 where it belongs to a group;
//             q = clamp(round_half_even(w / s), -qmax, qmax), w / s one fp32 division by the scale as stored
//   nf4       s = absmax rounded to binary16; the level nearest to w / s, at equal distance the lower one
//   f16 bf16  nearest even;  f32 as it is
//
// absmax runs over the row, or over the group of the row; the last group of a row may be short. A group of zeros, or
// one whose scale rounds to 0, has s = 0 and q = 0; weights lost that way are counted in QuantizeNotes. Errors name the
// place: a weight that is not finite, a scale beyond binary16, a weight beyond f16 or bf16. The same on every thread:
// denormals count, whatever MXCSR says.
//
// Loops have constant trip counts (16, 32) and restrict pointers, because gcc 12 at -O2 vectorises no others: with SSE2
// alone one core does some 10^9 weights a second (docs/formats.md). Oracle: tests/oracle/quantize.hpp.
#pragma once

#include <klens/core/denormals.hpp>
#include <klens/format/qtensor.hpp>

namespace klens {

/// What round-to-nearest had to give up, counted.
struct QuantizeNotes {
  std::int64_t lost_groups = 0;   // rows or groups with weights other than 0 whose scale rounds to 0
  std::int64_t lost_weights = 0;  // those weights
  std::int64_t first_row = -1;    // the first such group: its row,
  std::int64_t first_col = -1;    // and its first column
};

/// One line for a person; empty where nothing was lost.
inline std::string note_text(const QuantizeNotes& notes) {
  if (notes.lost_groups == 0) return {};
  return std::to_string(notes.lost_weights) + " weights became 0 in " + std::to_string(notes.lost_groups) +
         " groups whose scale rounds to 0 (first: " + detail::place_text(notes.first_row, notes.first_col) + ")";
}

namespace detail {

/// max |x[k]| as bits: NaN > infinity > any finite value in this order, so one pass finds absmax and bad values.
inline std::uint32_t absmax_bits(const float* x, std::int64_t count) {
  std::int32_t most[16] = {};
  std::int64_t k = 0;
  for (; k + 16 <= count; k += 16)
    for (int j = 0; j < 16; ++j) {
      const std::int32_t a = std::bit_cast<std::int32_t>(x[k + j]) & 0x7fffffff;
      most[j] = a > most[j] ? a : most[j];
    }
  std::int32_t best = 0;
  for (; k < count; ++k) best = std::max(best, std::bit_cast<std::int32_t>(x[k]) & 0x7fffffff);
  for (std::int32_t m : most) best = std::max(best, m);
  return std::uint32_t(best);
}

/// codes[j] = bias + clamp(round_half_even(x[j] / scale)), 32 of them. The quotient is clamped first: the limits are
/// integers, so the order does not matter, and the magic sum stays in its range.
inline void encode_uniform(const float* KLENS_RESTRICT x, float scale, float limit, std::uint32_t bias,
                           unsigned char* KLENS_RESTRICT codes) {
  for (int j = 0; j < block_inputs; ++j) {
    float t = x[j] / scale;
    t = t > limit ? limit : t;
    t = t < -limit ? -limit : t;
    codes[j] = static_cast<unsigned char>(std::bit_cast<std::uint32_t>(t + 12582912.0f) + bias);
  }
}

inline void encode_levels(const float* KLENS_RESTRICT x, float scale, unsigned char* KLENS_RESTRICT codes) {
  constexpr float middle[15] = {nf4_middle(0),  nf4_middle(1),  nf4_middle(2),  nf4_middle(3),  nf4_middle(4),
                                nf4_middle(5),  nf4_middle(6),  nf4_middle(7),  nf4_middle(8),  nf4_middle(9),
                                nf4_middle(10), nf4_middle(11), nf4_middle(12), nf4_middle(13), nf4_middle(14)};
  std::int32_t code[block_inputs] = {};
  float t[block_inputs];
  for (int j = 0; j < block_inputs; ++j) t[j] = x[j] / scale;
  for (int i = 0; i < 15; ++i)
    for (int j = 0; j < block_inputs; ++j) code[j] += t[j] > middle[i] ? 1 : 0;
  for (int j = 0; j < block_inputs; ++j) codes[j] = static_cast<unsigned char>(code[j]);
}

/// Scale of columns [k0, k1) of row n, as it is stored.
inline Result<float> rtn_scale(const Precision& p, const Rows<const float>& w, std::int64_t n, std::int64_t k0,
                               std::int64_t k1, QuantizeNotes& notes) {
  const float* x = row(w, n);
  const std::uint32_t bits = absmax_bits(x + k0, k1 - k0);
  if (bits >= 0x7f800000u)
    for (std::int64_t k = k0; k < k1; ++k)
      if (!(x[k] - x[k] == 0.0f))
        return Error{ErrorCode::format, place_text(n, k), "a finite weight", number_text(x[k])};
  const float absmax = std::bit_cast<float>(bits);
  float scale = p.scheme.grid == Grid::nf4 ? absmax : absmax / float(qmax_of(p.weight_bits));
  if (p.scheme.scale == Granularity::group) {
    const float stored = to_float(to_half(scale));
    if (stored > 65504.0f)
      return Error{ErrorCode::overflow, place_text(n, k0) + " (" + weight_name(p) + " group)",
                   "a scale of at most 65504 (binary16)", number_text(scale)};
    scale = stored;
  }
  if (scale == 0.0f && bits != 0) {
    if (notes.lost_groups++ == 0) notes.first_row = n, notes.first_col = k0;
    for (std::int64_t k = k0; k < k1; ++k)
      notes.lost_weights += (std::bit_cast<std::uint32_t>(x[k]) & 0x7fffffffu) != 0;
  }
  return scale;
}

/// Codes of columns [k0, k0 + inputs) of row n; all 32 are written, padding as zero weights.
inline void rtn_codes(const Precision& p, const float* x, int inputs, float scale, unsigned char* codes) {
  if (scale == 0.0f) {
    std::memset(codes, int(zero_code(p.weight_bits, p.scheme.grid)), block_inputs);
    return;
  }
  float padded[block_inputs];
  if (inputs < block_inputs) {
    std::memset(padded, 0, sizeof padded);
    std::memcpy(padded, x, std::size_t(inputs) * sizeof(float));
    x = padded;
  }
  if (p.scheme.grid == Grid::nf4)
    encode_levels(x, scale, codes);
  else
    encode_uniform(x, scale, float(qmax_of(p.weight_bits)), std::uint32_t(bias_of(p.weight_bits)), codes);
}

}  // namespace detail

/// Quantizes w by the rule above and packs it. `notes`, where given, is added to.
inline Result<PackedBuffer> quantize_rtn(const Precision& p, const Rows<const float>& w,
                                         QuantizeNotes* notes = nullptr) {
  if (is_float_grid(p.scheme.grid)) return pack_floats(p, w);
  KLENS_TRY(PackedBuffer out, PackedBuffer::make(p, w.rows, w.cols));
  const PackedLayout& l = out.layout();
  const Unit u = unit_of(p.weight_bits, p.scheme.grid);
  const bool grouped = p.scheme.scale == Granularity::group;
  const std::int64_t group = grouped ? p.scheme.group : w.cols;
  QuantizeNotes found;
  alignas(64) detail::BlockCodes codes;
  const KeepDenormals exact;
  for (std::int64_t panel = 0; panel < l.panels; ++panel) {
    const int rows_here = int(std::min<std::int64_t>(lanes, w.rows - panel * lanes));
    if (rows_here < lanes) std::memset(codes, int(zero_code(p.weight_bits, p.scheme.grid)), sizeof codes);  // row padding
    for (std::int64_t g = 0; g < l.groups; ++g) {
      const std::int64_t begin = g * group, end = std::min<std::int64_t>(begin + group, w.cols);
      float scale[lanes] = {};
      for (int r = 0; r < rows_here; ++r) {
        KLENS_TRY(scale[r], detail::rtn_scale(p, w, panel * lanes + r, begin, end, found));
        if (grouped)
          reinterpret_cast<half*>(out.panel_scales(panel))[g * lanes + r] = to_half(scale[r]);
        else
          reinterpret_cast<float*>(out.panel_scales(panel))[r] = scale[r];
      }
      for (std::int64_t k0 = begin; k0 < end; k0 += detail::block_inputs) {
        const int inputs = int(std::min<std::int64_t>(detail::block_inputs, end - k0));
        for (int r = 0; r < rows_here; ++r)
          detail::rtn_codes(p, row(w, panel * lanes + r) + k0, inputs, scale[r], codes + r * detail::block_inputs);
        detail::put_block(p.weight_bits, codes, int(std::min<std::int64_t>(detail::block_inputs, l.cols_padded - k0)),
                          out.panel_lines(panel) + k0 / u.inputs * u.lines * line_bytes);
      }
    }
  }
  if (notes != nullptr && found.lost_groups != 0) {
    if (notes->lost_groups == 0) notes->first_row = found.first_row, notes->first_col = found.first_col;
    notes->lost_groups += found.lost_groups, notes->lost_weights += found.lost_weights;
  }
  return out;
}

/// The same with the format as a type: `quantize<4, groups_of(32)>(w)`.
template <int Bits, Scheme S>
requires Storable<Bits, S>
inline Result<QBuffer<Bits, S>> quantize(const Rows<const float>& w, QuantizeNotes* notes = nullptr) {
  KLENS_TRY(PackedBuffer packed, quantize_rtn(QTensor<Bits, S>::precision, w, notes));
  return QBuffer<Bits, S>::from(std::move(packed));
}

}  // namespace klens
