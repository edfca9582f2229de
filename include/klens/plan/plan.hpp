// Plan: one Precision per site of a model, as a value. plan.hpp files hold one; the specialised build compiles for it, the
// generic way reads the same thing from plan.json. Aggregates without member functions, shared by all ISA levels.
#pragma once

#include <klens/format/scheme.hpp>

#include <array>
#include <cstddef>
#include <cstdint>

namespace klens {

enum class Family : std::uint8_t { hymba };

/// Sizes of a model, in the field's names. Two models of equal Shape and layer shapes run the same specialised program.
struct Shape {
  Family family = Family::hymba;
  int layers = 0, hidden = 0, vocab = 0;
  int heads = 0, kv_heads = 0, qk_dim = 0, v_dim = 0;   // attention: query heads, kv heads, widths of a q/k head and a v head
  int inner = 0, n_state = 0, conv_taps = 0, dt_rank = 0;  // mamba: channels, state per channel
  int ffn = 0;
  int meta = 0;                                         // learned tokens before position 0
  bool tied_head = false;
  float norm_eps = 0, rope_theta = 0;
  bool operator==(const Shape&) const = default;
};

/// What one layer does, and in which precision. window 0: global attention. kv_source: the layer whose K and V it reads
/// (itself: own).
struct LayerPlan {
  int window = 0;
  int kv_source = 0;
  Precision in_proj = {}, x_proj = {}, dt_proj = {}, out_proj = {}, gate_proj = {}, up_proj = {}, down_proj = {};
  Precision scan = {}, attention = {};                  // activation and state only
  bool operator==(const LayerPlan&) const = default;
};

template <std::size_t Layers>
struct Plan {
  Shape shape = {};
  Precision embedding = {};                             // and head, where tied
  std::array<LayerPlan, Layers> layers = {};
  Precision lm_head = {};                               // read only where the head is not tied
  bool operator==(const Plan&) const = default;
};

/// The linears of a layer, in the order of the forward pass, and the model's own two.
enum class Role : std::uint8_t { embedding, lm_head, in_proj, x_proj, dt_proj, out_proj, gate_proj, up_proj, down_proj };

KLENS_INLINE constexpr const Precision& precision_of(const LayerPlan& l, Role role) {
  switch (role) {
    case Role::x_proj: return l.x_proj;
    case Role::dt_proj: return l.dt_proj;
    case Role::out_proj: return l.out_proj;
    case Role::gate_proj: return l.gate_proj;
    case Role::up_proj: return l.up_proj;
    case Role::down_proj: return l.down_proj;
    default: return l.in_proj;
  }
}

/// Rows and columns of a linear. in_proj rows: q | k | v | x | gate, without k and v where kv_source is another layer.
struct Extent { int rows, cols; };

KLENS_INLINE constexpr Extent extent_of(const Shape& s, bool own_kv, Role role) {
  switch (role) {
    case Role::in_proj: return {s.heads * s.qk_dim + (own_kv ? s.kv_heads * (s.qk_dim + s.v_dim) : 0) + 2 * s.inner, s.hidden};
    case Role::x_proj: return {s.dt_rank + 2 * s.n_state, s.inner};
    case Role::dt_proj: return {s.inner, s.dt_rank};
    case Role::out_proj: return {s.hidden, s.inner};
    case Role::gate_proj:
    case Role::up_proj: return {s.ffn, s.hidden};
    case Role::down_proj: return {s.hidden, s.ffn};
    default: return {s.vocab, s.hidden};
  }
}

}  // namespace klens
