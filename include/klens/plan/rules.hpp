// The rules of a plan, written once. checked() (check.hpp) turns the first broken one into a compile error, find_fault()
// (find_fault.hpp) into a value for plans that were read from a file.
#pragma once

#include <klens/plan/sites.hpp>

namespace klens {

/// What can be wrong. The name says what must hold; check.hpp declares a function of the same name for the compiler to print.
enum class Rule : std::uint8_t {
  none,
  must_be_positive,
  must_not_be_negative,
  must_be_at_most_2_to_24,
  must_equal_the_number_of_layer_plans,
  must_be_a_multiple_of_kv_heads,
  must_be_even,
  times_heads_must_equal_inner,
  must_be_2_to_4,
  must_be_a_positive_number,
  must_be_a_layer_not_after_its_reader,
  must_be_a_layer_with_its_own_kv,
  scheme_zero_point_must_be_false,
  scheme_scale_must_be_row_or_group,
  scheme_scale_of_a_float_grid_must_be_row,
  scheme_scale_of_nf4_must_be_group,
  weight_bits_of_a_float_grid_must_be_its_width,
  weight_bits_of_nf4_must_be_4,
  weight_bits_must_be_2_to_6_or_8,
  scheme_group_must_be_32_64_or_128,
  scheme_group_of_a_row_scale_must_be_0,
  activation_must_be_f32_a16_or_a8,
  activation_of_a_scan_or_attention_must_be_f32,
  state_of_a_linear_must_be_f32,
  state_must_be_f32_other_states_are_not_implemented,
};

/// Members of Plan that a rule speaks of, in the names of the members.
enum class Field : std::uint8_t {
  shape_layers, shape_hidden, shape_vocab, shape_heads, shape_kv_heads, shape_qk_dim, shape_v_dim, shape_inner,
  shape_n_state, shape_conv_taps, shape_dt_rank, shape_ffn, shape_meta, shape_norm_eps, shape_rope_theta,
  embedding, lm_head,
  layers_window, layers_kv_source,
  layers_in_proj, layers_x_proj, layers_dt_proj, layers_out_proj, layers_gate_proj, layers_up_proj, layers_down_proj,
  layers_scan, layers_attention,
};

constexpr Field field_of(Role role) {
  if (role == Role::embedding) return Field::embedding;
  if (role == Role::lm_head) return Field::lm_head;
  return Field(int(Field::layers_in_proj) + int(role) - int(Role::in_proj));
}

/// The first broken rule, or Rule::none. `layer` is -1 outside layers; `found` is the offending number (an enumerator's value
/// for enumerations; 0 for the two floats of Shape).
struct Finding {
  Rule rule = Rule::none;
  Field field = Field::shape_layers;
  int layer = -1;
  std::int64_t found = 0;
};

namespace detail {

constexpr void require(Finding& first, bool holds, Rule rule, Field field, int layer, std::int64_t found) {
  if (!holds && first.rule == Rule::none) first = {rule, field, layer, found};
}

constexpr void shape_rules(const Shape& s, std::int64_t layer_plans, Finding& first) {
  const auto size = [&first](int value, Field field) {
    require(first, value > 0, Rule::must_be_positive, field, -1, value);
    require(first, value <= 1 << 24, Rule::must_be_at_most_2_to_24, field, -1, value);
  };
  size(s.layers, Field::shape_layers);
  require(first, s.layers == layer_plans, Rule::must_equal_the_number_of_layer_plans, Field::shape_layers, -1, s.layers);
  size(s.hidden, Field::shape_hidden);
  size(s.vocab, Field::shape_vocab);
  size(s.heads, Field::shape_heads);
  size(s.kv_heads, Field::shape_kv_heads);
  require(first, s.kv_heads > 0 && s.heads % s.kv_heads == 0, Rule::must_be_a_multiple_of_kv_heads, Field::shape_heads, -1, s.heads);
  size(s.qk_dim, Field::shape_qk_dim);
  require(first, s.qk_dim % 2 == 0, Rule::must_be_even, Field::shape_qk_dim, -1, s.qk_dim);
  size(s.v_dim, Field::shape_v_dim);
  size(s.inner, Field::shape_inner);
  // Both paths of a Hymba layer are averaged element by element, so that they must have one width.
  require(first, std::int64_t(s.heads) * s.v_dim == s.inner, Rule::times_heads_must_equal_inner, Field::shape_v_dim, -1, s.v_dim);
  size(s.n_state, Field::shape_n_state);
  require(first, s.conv_taps >= 2 && s.conv_taps <= 4, Rule::must_be_2_to_4, Field::shape_conv_taps, -1, s.conv_taps);
  size(s.dt_rank, Field::shape_dt_rank);
  size(s.ffn, Field::shape_ffn);
  require(first, s.meta >= 0, Rule::must_not_be_negative, Field::shape_meta, -1, s.meta);
  require(first, s.meta <= 1 << 24, Rule::must_be_at_most_2_to_24, Field::shape_meta, -1, s.meta);
  require(first, s.norm_eps > 0 && s.norm_eps < 1, Rule::must_be_a_positive_number, Field::shape_norm_eps, -1, 0);
  require(first, s.rope_theta > 0 && s.rope_theta < 1e30f, Rule::must_be_a_positive_number, Field::shape_rope_theta, -1, 0);
}

constexpr void weight_rules(const Precision& p, Field field, int layer, Finding& first) {
  const Scheme& s = p.scheme;
  const bool is_float = s.grid == Grid::f32 || s.grid == Grid::f16 || s.grid == Grid::bf16;
  const auto rule = [&](bool holds, Rule id, std::int64_t found) { require(first, holds, id, field, layer, found); };
  rule(!s.zero_point, Rule::scheme_zero_point_must_be_false, s.zero_point);
  rule(s.scale == Granularity::row || s.scale == Granularity::group, Rule::scheme_scale_must_be_row_or_group, int(s.scale));
  if (is_float) {
    rule(s.scale == Granularity::row, Rule::scheme_scale_of_a_float_grid_must_be_row, int(s.scale));
    rule(p.weight_bits == (s.grid == Grid::f32 ? 32 : 16), Rule::weight_bits_of_a_float_grid_must_be_its_width, p.weight_bits);
  } else if (s.grid == Grid::nf4) {
    rule(s.scale == Granularity::group, Rule::scheme_scale_of_nf4_must_be_group, int(s.scale));
    rule(p.weight_bits == 4, Rule::weight_bits_of_nf4_must_be_4, p.weight_bits);
  } else {
    rule(p.weight_bits == 8 || (p.weight_bits >= 2 && p.weight_bits <= 6), Rule::weight_bits_must_be_2_to_6_or_8, p.weight_bits);
  }
  if (s.scale == Granularity::group)
    rule(s.group == 32 || s.group == 64 || s.group == 128, Rule::scheme_group_must_be_32_64_or_128, s.group);
  else
    rule(s.group == 0, Rule::scheme_group_of_a_row_scale_must_be_0, s.group);
  rule(p.activation != Activation::a8s, Rule::activation_must_be_f32_a16_or_a8, int(p.activation));
  rule(p.state == State::f32, Rule::state_of_a_linear_must_be_f32, int(p.state));
}

constexpr void state_rules(const Precision& p, Field field, int layer, Finding& first) {
  require(first, p.activation == Activation::f32, Rule::activation_of_a_scan_or_attention_must_be_f32, field, layer, int(p.activation));
  require(first, p.state == State::f32, Rule::state_must_be_f32_other_states_are_not_implemented, field, layer, int(p.state));
}

template <class Layers>
constexpr void layer_rules(const Layers& layers, int index, Finding& first) {
  const LayerPlan& l = layers[std::size_t(index)];
  require(first, l.window >= 0, Rule::must_not_be_negative, Field::layers_window, index, l.window);
  const bool known = l.kv_source >= 0 && l.kv_source <= index;
  require(first, known, Rule::must_be_a_layer_not_after_its_reader, Field::layers_kv_source, index, l.kv_source);
  if (known)
    require(first, owns_kv(layers, l.kv_source), Rule::must_be_a_layer_with_its_own_kv, Field::layers_kv_source, index, l.kv_source);
  for (const Role role : layer_roles) weight_rules(precision_of(l, role), field_of(role), index, first);
  state_rules(l.scan, Field::layers_scan, index, first);
  state_rules(l.attention, Field::layers_attention, index, first);
}

}  // namespace detail

/// The first rule that a Plan<N> or RuntimePlan breaks.
template <class AnyPlan>
constexpr Finding first_finding(const AnyPlan& plan) {
  Finding first;
  detail::shape_rules(plan.shape, std::int64_t(plan.layers.size()), first);
  detail::weight_rules(plan.embedding, Field::embedding, -1, first);
  if (!plan.shape.tied_head) detail::weight_rules(plan.lm_head, Field::lm_head, -1, first);
  for (int layer = 0; layer < int(plan.layers.size()) && first.rule == Rule::none; ++layer)
    detail::layer_rules(plan.layers, layer, first);
  return first;
}

}  // namespace klens
