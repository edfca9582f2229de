// checked(plan): a plan that breaks a rule does not compile, and the error names the field, the rule and the layer, as in
//
//   error: call to non-'constexpr' function 'void klens::fault::scheme_group_must_be_32_64_or_128()
//          [with klens::Field Where = klens::Field::layers_in_proj]'      ... in expansion of 'klens::fault::in_layer<3>'
//
// The functions of namespace fault are declared and never defined: calling one makes the constant expression ill-formed,
// and its name is the diagnostic.
#pragma once

#include <klens/plan/rules.hpp>

#include <utility>

namespace klens {
namespace fault {

template <Field Where> void must_be_positive();
template <Field Where> void must_not_be_negative();
template <Field Where> void must_be_at_most_2_to_24();
template <Field Where> void must_be_0_where_no_layer_uses_it();
template <Field Where> void must_be_at_most_qk_dim();
template <Field Where> void must_divide_inner();
template <Field Where> void must_divide_ssm_heads();
template <Field Where> void must_not_be_above_dt_max();
template <Field Where> void must_be_a_known_kind();
template <Field Where> void must_equal_the_number_of_layer_plans();
template <Field Where> void must_be_a_multiple_of_kv_heads();
template <Field Where> void must_be_even();
template <Field Where> void times_heads_must_equal_inner();
template <Field Where> void must_be_2_to_4();
template <Field Where> void must_be_a_positive_number();
template <Field Where> void must_be_a_layer_not_after_its_reader();
template <Field Where> void must_be_a_layer_with_its_own_kv();
template <Field Where> void must_be_a_layer_with_its_own_block();
template <Field Where> void must_be_at_most_512();
template <Field Where> void must_be_at_most_256();
template <Field Where> void must_be_at_most_half_of_n_state();
template <Field Where> void must_be_at_most_experts();
template <Field Where> void must_be_at_most_router_groups();
template <Field Where> void must_divide_experts_into_two_or_more();
template <Field Where> void must_be_the_kind_of_all_layers_with_experts();
template <Field Where> void must_equal_the_number_of_expert_plans();
template <Field Where> void scheme_zero_point_must_be_false();
template <Field Where> void scheme_scale_must_be_row_or_group();
template <Field Where> void scheme_scale_of_a_float_grid_must_be_row();
template <Field Where> void scheme_scale_of_nf4_must_be_group();
template <Field Where> void weight_bits_of_a_float_grid_must_be_its_width();
template <Field Where> void weight_bits_of_nf4_must_be_4();
template <Field Where> void weight_bits_must_be_2_to_6_or_8();
template <Field Where> void scheme_group_must_be_32_64_or_128();
template <Field Where> void scheme_group_of_a_row_scale_must_be_0();
template <Field Where> void activation_must_be_f32_a16_or_a8();
template <Field Where> void activation_of_a_scan_or_attention_must_be_f32();
template <Field Where> void state_of_a_linear_must_be_f32();
template <Field Where> void state_of_a_scan_must_be_f32_f16_s16_or_s8();
template <Field Where> void state_of_a_conv_must_be_f32_f16_s16_or_s8();
template <Field Where> void state_of_attention_must_be_f32_f16_s8_or_s4();
template <Field Where> void state_of_attention_must_be_that_of_kv_source();

template <Field Where>
constexpr void raise_at(Rule rule) {
  switch (rule) {
    case Rule::none: break;
    case Rule::must_be_positive: must_be_positive<Where>(); break;
    case Rule::must_not_be_negative: must_not_be_negative<Where>(); break;
    case Rule::must_be_at_most_2_to_24: must_be_at_most_2_to_24<Where>(); break;
    case Rule::must_be_0_where_no_layer_uses_it: must_be_0_where_no_layer_uses_it<Where>(); break;
    case Rule::must_be_at_most_qk_dim: must_be_at_most_qk_dim<Where>(); break;
    case Rule::must_divide_inner: must_divide_inner<Where>(); break;
    case Rule::must_divide_ssm_heads: must_divide_ssm_heads<Where>(); break;
    case Rule::must_not_be_above_dt_max: must_not_be_above_dt_max<Where>(); break;
    case Rule::must_be_a_known_kind: must_be_a_known_kind<Where>(); break;
    case Rule::must_equal_the_number_of_layer_plans: must_equal_the_number_of_layer_plans<Where>(); break;
    case Rule::must_be_a_multiple_of_kv_heads: must_be_a_multiple_of_kv_heads<Where>(); break;
    case Rule::must_be_even: must_be_even<Where>(); break;
    case Rule::times_heads_must_equal_inner: times_heads_must_equal_inner<Where>(); break;
    case Rule::must_be_2_to_4: must_be_2_to_4<Where>(); break;
    case Rule::must_be_a_positive_number: must_be_a_positive_number<Where>(); break;
    case Rule::must_be_a_layer_not_after_its_reader: must_be_a_layer_not_after_its_reader<Where>(); break;
    case Rule::must_be_a_layer_with_its_own_kv: must_be_a_layer_with_its_own_kv<Where>(); break;
    case Rule::must_be_a_layer_with_its_own_block: must_be_a_layer_with_its_own_block<Where>(); break;
    case Rule::must_be_at_most_512: must_be_at_most_512<Where>(); break;
    case Rule::must_be_at_most_256: must_be_at_most_256<Where>(); break;
    case Rule::must_be_at_most_half_of_n_state: must_be_at_most_half_of_n_state<Where>(); break;
    case Rule::must_be_at_most_experts: must_be_at_most_experts<Where>(); break;
    case Rule::must_be_at_most_router_groups: must_be_at_most_router_groups<Where>(); break;
    case Rule::must_divide_experts_into_two_or_more: must_divide_experts_into_two_or_more<Where>(); break;
    case Rule::must_be_the_kind_of_all_layers_with_experts: must_be_the_kind_of_all_layers_with_experts<Where>(); break;
    case Rule::must_equal_the_number_of_expert_plans: must_equal_the_number_of_expert_plans<Where>(); break;
    case Rule::scheme_zero_point_must_be_false: scheme_zero_point_must_be_false<Where>(); break;
    case Rule::scheme_scale_must_be_row_or_group: scheme_scale_must_be_row_or_group<Where>(); break;
    case Rule::scheme_scale_of_a_float_grid_must_be_row: scheme_scale_of_a_float_grid_must_be_row<Where>(); break;
    case Rule::scheme_scale_of_nf4_must_be_group: scheme_scale_of_nf4_must_be_group<Where>(); break;
    case Rule::weight_bits_of_a_float_grid_must_be_its_width: weight_bits_of_a_float_grid_must_be_its_width<Where>(); break;
    case Rule::weight_bits_of_nf4_must_be_4: weight_bits_of_nf4_must_be_4<Where>(); break;
    case Rule::weight_bits_must_be_2_to_6_or_8: weight_bits_must_be_2_to_6_or_8<Where>(); break;
    case Rule::scheme_group_must_be_32_64_or_128: scheme_group_must_be_32_64_or_128<Where>(); break;
    case Rule::scheme_group_of_a_row_scale_must_be_0: scheme_group_of_a_row_scale_must_be_0<Where>(); break;
    case Rule::activation_must_be_f32_a16_or_a8: activation_must_be_f32_a16_or_a8<Where>(); break;
    case Rule::activation_of_a_scan_or_attention_must_be_f32: activation_of_a_scan_or_attention_must_be_f32<Where>(); break;
    case Rule::state_of_a_linear_must_be_f32: state_of_a_linear_must_be_f32<Where>(); break;
    case Rule::state_of_a_scan_must_be_f32_f16_s16_or_s8: state_of_a_scan_must_be_f32_f16_s16_or_s8<Where>(); break;
    case Rule::state_of_a_conv_must_be_f32_f16_s16_or_s8: state_of_a_conv_must_be_f32_f16_s16_or_s8<Where>(); break;
    case Rule::state_of_attention_must_be_f32_f16_s8_or_s4: state_of_attention_must_be_f32_f16_s8_or_s4<Where>(); break;
    case Rule::state_of_attention_must_be_that_of_kv_source: state_of_attention_must_be_that_of_kv_source<Where>(); break;
  }
}

/// The field as a template argument, so that the compiler prints it.
template <int... F>
constexpr void raise(const Finding& f, std::integer_sequence<int, F...>) {
  ((int(f.field) == F ? raise_at<Field(F)>(f.rule) : void()), ...);
}

/// The layer (of an expert: its index) as a template argument, for the same reason.
template <int Layer>
constexpr void in_layer(const Finding& f) {
  raise(f, std::make_integer_sequence<int, field_count>{});
}

}  // namespace fault

/// The plan itself. A broken rule is a compile error that names the field: `inline constexpr auto plan = klens::checked(...)`.
template <std::size_t Layers, std::size_t Experts>
consteval Plan<Layers, Experts> checked(Plan<Layers, Experts> plan) {
  const Finding f = first_finding(plan);
  if (f.rule == Rule::none) return plan;
  if (f.layer < 0) fault::raise(f, std::make_integer_sequence<int, field_count>{});
  [&f]<int... L>(std::integer_sequence<int, L...>) {
    ((f.layer == L ? fault::in_layer<L>(f) : void()), ...);
  }(std::make_integer_sequence<int, int(Layers > Experts ? Layers : Experts)>{});
  return plan;
}

}  // namespace klens
