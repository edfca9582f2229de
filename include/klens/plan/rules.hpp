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
  must_be_0_where_no_layer_uses_it,
  must_be_at_most_qk_dim,
  must_divide_inner,
  must_divide_ssm_heads,
  must_not_be_above_dt_max,
  must_be_a_known_kind,
  must_equal_the_number_of_layer_plans,
  must_be_a_multiple_of_kv_heads,
  must_be_even,
  times_heads_must_equal_inner,
  must_be_2_to_4,
  must_be_a_positive_number,
  must_be_a_layer_not_after_its_reader,
  must_be_a_layer_with_its_own_kv,
  must_be_a_layer_with_its_own_block,
  must_be_at_most_512,
  must_be_at_most_256,
  must_be_at_most_half_of_n_state,
  must_be_at_most_experts,
  must_divide_experts_into_two_or_more,
  must_be_at_most_router_groups,
  must_be_the_kind_of_all_layers_with_experts,
  must_equal_the_number_of_expert_plans,
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
  state_of_a_scan_must_be_f32_f16_s16_or_s8,
  state_of_a_conv_must_be_f32_f16_s16_or_s8,
  state_of_attention_must_be_f32_f16_s8_or_s4,
  state_of_attention_must_be_that_of_kv_source,
};

/// Members of Plan that a rule speaks of, in the names of the members.
enum class Field : std::uint8_t {
  shape_layers, shape_hidden, shape_vocab, shape_heads, shape_kv_heads, shape_qk_dim, shape_v_dim, shape_inner,
  shape_n_state, shape_conv_taps, shape_dt_rank, shape_ffn, shape_meta, shape_norm_eps, shape_rope_theta, shape_rotary_dim,
  shape_ssm_heads, shape_ssm_groups, shape_norm_groups, shape_inner_norm_eps, shape_dt_min, shape_embedding_scale,
  shape_attention_scale, shape_experts, shape_experts_used, shape_expert_ffn,
  shape_shared_ffn, shape_expert_latent, shape_router_groups, shape_router_groups_used, shape_router_scale,
  shape_adapter_rank, shape_scan_heads, shape_ssm_angles, shape_least_rate,
  embedding, lm_head,
  layers_mixer, layers_ffn, layers_window, layers_kv_source, layers_block_source,
  layers_in_proj, layers_x_proj, layers_dt_proj, layers_out_proj, layers_q_proj, layers_k_proj, layers_v_proj, layers_o_proj,
  layers_gate_proj, layers_up_proj, layers_down_proj,
  layers_block_out, layers_q_adapter_in, layers_q_adapter_out, layers_k_adapter_in, layers_k_adapter_out, layers_v_adapter_in,
  layers_v_adapter_out, layers_ffn_adapter_in, layers_gate_adapter_out, layers_up_adapter_out,
  layers_shared_up, layers_shared_down, layers_latent_in, layers_latent_out,
  layers_scan, layers_conv, layers_attention,
  experts_gate_proj, experts_up_proj, experts_down_proj,
};
inline constexpr int field_count = int(Field::experts_down_proj) + 1;

constexpr Field field_of(Role role) {
  if (role == Role::embedding) return Field::embedding;
  if (role == Role::lm_head) return Field::lm_head;
  return Field(int(Field::layers_in_proj) + int(role) - int(Role::in_proj));
}

constexpr Field expert_field_of(Role role) {
  return Field(int(Field::experts_gate_proj) + int(role) - int(Role::gate_proj));
}

/// The first broken rule, or Rule::none. `layer` is -1 outside layers, the index in `experts` of an expert's field; `found` is the offending number (an enumerator's value
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

constexpr void shape_rules(const Shape& s, std::int64_t layer_plans, const Uses& uses, Finding& first) {
  const auto rule = [&first](bool holds, Rule id, Field field, std::int64_t found) { require(first, holds, id, field, -1, found); };
  const auto size = [&](int value, Field field, bool used = true) {
    if (used) rule(value > 0, Rule::must_be_positive, field, value);
    else rule(value == 0, Rule::must_be_0_where_no_layer_uses_it, field, value);
    rule(value <= 1 << 24, Rule::must_be_at_most_2_to_24, field, value);
  };
  const auto number = [&](float value, Field field) {
    rule(value > 0 && value < 1e30f, Rule::must_be_a_positive_number, field, 0);
  };
  size(s.layers, Field::shape_layers);
  rule(s.layers == layer_plans, Rule::must_equal_the_number_of_layer_plans, Field::shape_layers, s.layers);
  size(s.hidden, Field::shape_hidden);
  size(s.vocab, Field::shape_vocab);
  size(s.heads, Field::shape_heads, uses.attention);
  size(s.kv_heads, Field::shape_kv_heads, uses.attention);
  if (uses.attention)
    rule(s.kv_heads > 0 && s.heads % s.kv_heads == 0, Rule::must_be_a_multiple_of_kv_heads, Field::shape_heads, s.heads);
  size(s.qk_dim, Field::shape_qk_dim, uses.attention);
  size(s.v_dim, Field::shape_v_dim, uses.attention);
  rule(s.rotary_dim >= 0, Rule::must_not_be_negative, Field::shape_rotary_dim, s.rotary_dim);
  rule(s.rotary_dim <= s.qk_dim, Rule::must_be_at_most_qk_dim, Field::shape_rotary_dim, s.rotary_dim);
  rule(s.rotary_dim % 2 == 0, Rule::must_be_even, Field::shape_rotary_dim, s.rotary_dim);
  size(s.inner, Field::shape_inner, uses.conv() || uses.mamba3);
  // Both paths of a Hymba layer are averaged element by element, so that they must have one width.
  if (uses.hymba)
    rule(std::int64_t(s.heads) * s.v_dim == s.inner, Rule::times_heads_must_equal_inner, Field::shape_v_dim, s.v_dim);
  const bool ssd_state = uses.ssd || uses.mamba3;
  size(s.n_state, Field::shape_n_state, uses.scan || ssd_state);
  if (uses.conv())
    rule(s.conv_taps >= 2 && s.conv_taps <= 4, Rule::must_be_2_to_4, Field::shape_conv_taps, s.conv_taps);
  else
    rule(s.conv_taps == 0, Rule::must_be_0_where_no_layer_uses_it, Field::shape_conv_taps, s.conv_taps);
  size(s.dt_rank, Field::shape_dt_rank, uses.scan);
  size(s.ssm_heads, Field::shape_ssm_heads, ssd_state);
  size(s.ssm_groups, Field::shape_ssm_groups, ssd_state);
  if (ssd_state) {
    rule(s.ssm_heads > 0 && s.inner % s.ssm_heads == 0, Rule::must_divide_inner, Field::shape_ssm_heads, s.ssm_heads);
    rule(s.ssm_groups > 0 && s.ssm_heads % s.ssm_groups == 0, Rule::must_divide_ssm_heads, Field::shape_ssm_groups, s.ssm_groups);
    rule(s.norm_groups >= 0, Rule::must_not_be_negative, Field::shape_norm_groups, s.norm_groups);
    if (s.norm_groups > 0)
      rule(s.inner % s.norm_groups == 0, Rule::must_divide_inner, Field::shape_norm_groups, s.norm_groups);
  }
  size(s.ssm_angles, Field::shape_ssm_angles, uses.mamba3);
  if (uses.mamba3) {
    rule(s.n_state % 2 == 0, Rule::must_be_even, Field::shape_n_state, s.n_state);
    rule(s.n_state <= scan_most_states, Rule::must_be_at_most_256, Field::shape_n_state, s.n_state);
    rule(s.ssm_angles <= s.n_state / 2, Rule::must_be_at_most_half_of_n_state, Field::shape_ssm_angles, s.ssm_angles);
    number(s.least_rate, Field::shape_least_rate);
    number(s.inner_norm_eps, Field::shape_inner_norm_eps);
  } else {
    rule(s.least_rate == 0, Rule::must_be_0_where_no_layer_uses_it, Field::shape_least_rate, 0);
  }
  rule(s.dt_min >= 0, Rule::must_not_be_negative, Field::shape_dt_min, 0);
  rule(s.dt_max == 0 || s.dt_min <= s.dt_max, Rule::must_not_be_above_dt_max, Field::shape_dt_min, 0);
  size(s.ffn, Field::shape_ffn, uses.ffn);
  size(s.experts, Field::shape_experts, uses.experts);
  size(s.experts_used, Field::shape_experts_used, uses.experts);
  size(s.expert_ffn, Field::shape_expert_ffn, uses.experts);
  rule(s.experts <= most_experts, Rule::must_be_at_most_512, Field::shape_experts, s.experts);
  size(s.shared_ffn, Field::shape_shared_ffn, uses.moe_relu2);
  size(s.router_groups, Field::shape_router_groups, uses.moe_relu2);
  size(s.router_groups_used, Field::shape_router_groups_used, uses.moe_relu2);
  rule(s.expert_latent >= 0, Rule::must_not_be_negative, Field::shape_expert_latent, s.expert_latent);
  rule(s.expert_latent <= 1 << 24, Rule::must_be_at_most_2_to_24, Field::shape_expert_latent, s.expert_latent);
  if (uses.moe_relu2) {
    number(s.router_scale, Field::shape_router_scale);
    const int groups = s.router_groups;
    if (groups > 1)   // a group counts by its two best
      rule(s.experts % groups == 0 && s.experts / groups > 1, Rule::must_divide_experts_into_two_or_more, Field::shape_router_groups, groups);
    rule(s.router_groups_used <= groups, Rule::must_be_at_most_router_groups, Field::shape_router_groups_used, s.router_groups_used);
    if (groups > 0)
      rule(std::int64_t(s.experts_used) * groups <= std::int64_t(s.experts) * s.router_groups_used, Rule::must_be_at_most_experts,
           Field::shape_experts_used, s.experts_used);
  } else {
    size(s.expert_latent, Field::shape_expert_latent, false);
    rule(s.router_scale == 0, Rule::must_be_0_where_no_layer_uses_it, Field::shape_router_scale, 0);
  }
  if (uses.block) rule(s.adapter_rank >= 0, Rule::must_not_be_negative, Field::shape_adapter_rank, s.adapter_rank);
  else size(s.adapter_rank, Field::shape_adapter_rank, false);
  rule(s.adapter_rank <= 1 << 24, Rule::must_be_at_most_2_to_24, Field::shape_adapter_rank, s.adapter_rank);
  size(s.scan_heads, Field::shape_scan_heads);
  if (uses.scan && s.scan_heads > 0) rule(s.inner % s.scan_heads == 0, Rule::must_divide_inner, Field::shape_scan_heads, s.scan_heads);
  rule(s.experts_used <= s.experts, Rule::must_be_at_most_experts, Field::shape_experts_used, s.experts_used);
  rule(s.meta >= 0, Rule::must_not_be_negative, Field::shape_meta, s.meta);
  rule(s.meta <= 1 << 24, Rule::must_be_at_most_2_to_24, Field::shape_meta, s.meta);
  rule(s.norm_eps > 0 && s.norm_eps < 1, Rule::must_be_a_positive_number, Field::shape_norm_eps, 0);
  if (s.rotary_dim > 0) number(s.rope_theta, Field::shape_rope_theta);
  if (s.inner_norms) number(s.inner_norm_eps, Field::shape_inner_norm_eps);
  number(s.embedding_scale, Field::shape_embedding_scale);
  if (s.attention_scale != 0) number(s.attention_scale, Field::shape_attention_scale);
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

constexpr void state_rules(const Precision& p, Rule formats, Field field, int layer, Finding& first) {
  require(first, p.activation == Activation::f32, Rule::activation_of_a_scan_or_attention_must_be_f32, field, layer, int(p.activation));
  const State odd_one = field == Field::layers_attention ? State::s16 : State::s4;   // KV has no s16, scan and conv no s4
  require(first, p.state != odd_one && int(p.state) <= int(State::s4), formats, field, layer, int(p.state));
}

/// Rule of a state format alone, whatever the layer.
constexpr void state_rules(StateKind kind, const Precision& p, int layer, Finding& first) {
  switch (kind) {
    case StateKind::scan: return state_rules(p, Rule::state_of_a_scan_must_be_f32_f16_s16_or_s8, Field::layers_scan, layer, first);
    case StateKind::conv: return state_rules(p, Rule::state_of_a_conv_must_be_f32_f16_s16_or_s8, Field::layers_conv, layer, first);
    case StateKind::kv: break;
  }
  state_rules(p, Rule::state_of_attention_must_be_f32_f16_s8_or_s4, Field::layers_attention, layer, first);
}

template <class AnyPlan>
constexpr void layer_rules(const AnyPlan& plan, int index, Finding& first) {
  const auto& layers = plan.layers;
  const LayerPlan& l = layers[std::size_t(index)];
  require(first, int(l.mixer) < mixer_count, Rule::must_be_a_known_kind, Field::layers_mixer, index, int(l.mixer));
  require(first, int(l.ffn) < ffn_count, Rule::must_be_a_known_kind, Field::layers_ffn, index, int(l.ffn));
  if (has_experts(l.ffn))   // one router's shape for all
    require(first, (l.ffn == Ffn::moe_relu2) == (plan.shape.router_groups > 0), Rule::must_be_the_kind_of_all_layers_with_experts,
            Field::layers_ffn, index, int(l.ffn));
  require(first, l.window >= 0, Rule::must_not_be_negative, Field::layers_window, index, l.window);
  if (l.mixer == Mixer::conv_attention)   // its k and v have no columns where another layer makes them
    require(first, l.kv_source == index, Rule::must_be_a_layer_with_its_own_kv, Field::layers_kv_source, index, l.kv_source);
  const bool known = l.kv_source >= 0 && l.kv_source <= index;
  require(first, known, Rule::must_be_a_layer_not_after_its_reader, Field::layers_kv_source, index, l.kv_source);
  if (known)
    require(first, owns_kv(layers, l.kv_source) && has_attention(layers[std::size_t(l.kv_source)].mixer) == has_attention(l.mixer),
            Rule::must_be_a_layer_with_its_own_kv, Field::layers_kv_source, index, l.kv_source);
  const bool block = has_block(l.mixer) ? l.block_source >= 0 && l.block_source <= index : l.block_source == -1;
  require(first, block && (!has_block(l.mixer) || (layers[std::size_t(l.block_source)].block_source == l.block_source &&
                                                   layers[std::size_t(l.block_source)].mixer == l.mixer)),
          Rule::must_be_a_layer_with_its_own_block, Field::layers_block_source, index, l.block_source);
  for (const Role role : layer_roles)
    if (first.rule == Rule::none && has_role(plan, index, role)) weight_rules(precision_of(l, role), field_of(role), index, first);
  state_rules(StateKind::scan, l.scan, index, first);
  state_rules(StateKind::conv, l.conv, index, first);
  state_rules(StateKind::kv, l.attention, index, first);
  if (known)
    require(first, l.attention.state == layers[std::size_t(l.kv_source)].attention.state,
            Rule::state_of_attention_must_be_that_of_kv_source, Field::layers_attention, index, int(l.attention.state));
}

}  // namespace detail

/// Whether a kind of state can be kept in a format.
constexpr bool state_allowed(StateKind kind, State format) {
  Finding finding;
  Precision p;
  p.state = format;
  detail::state_rules(kind, p, 0, finding);
  return finding.rule == Rule::none;
}

/// The first rule that a Plan<N> or RuntimePlan breaks.
template <class AnyPlan>
constexpr Finding first_finding(const AnyPlan& plan) {
  Finding first;
  detail::shape_rules(plan.shape, std::int64_t(plan.layers.size()), uses_of(plan.layers), first);
  detail::weight_rules(plan.embedding, Field::embedding, -1, first);
  if (!plan.shape.tied_head) detail::weight_rules(plan.lm_head, Field::lm_head, -1, first);
  for (int layer = 0; layer < int(plan.layers.size()) && first.rule == Rule::none; ++layer)
    detail::layer_rules(plan, layer, first);
  const std::int64_t experts = std::int64_t(expert_layers_before(plan.layers, int(plan.layers.size()))) * plan.shape.experts;
  detail::require(first, std::int64_t(plan.experts.size()) == experts, Rule::must_equal_the_number_of_expert_plans, Field::shape_experts, -1,
                  std::int64_t(plan.experts.size()));
  for (int e = 0; e < int(plan.experts.size()) && first.rule == Rule::none; ++e)
    for (const Role role : expert_roles)
      detail::weight_rules(expert_member(plan.experts[std::size_t(e)], role), expert_field_of(role), e, first);
  return first;
}

}  // namespace klens
