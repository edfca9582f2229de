// find_fault(plan): the rules of rules.hpp for plans that come from a file or a user, as text: field, expected, found.
#pragma once

#include <klens/plan/rules.hpp>

#include <optional>
#include <string>

namespace klens {

/// "layers[3].in_proj.scheme.group", "32, 64 or 128", "48".
struct Fault {
  std::string field, expected, found;
};

namespace detail {

/// Of a rule: the member inside the field it speaks of, and what that must be.
struct RuleText { const char *member, *expected; };

inline RuleText text_of(Rule rule) {
  switch (rule) {
    case Rule::none: break;
    case Rule::must_be_positive: return {"", "a positive number"};
    case Rule::must_not_be_negative: return {"", "0 or more"};
    case Rule::must_be_at_most_2_to_24: return {"", "at most 16777216"};
    case Rule::must_be_0_where_no_layer_uses_it: return {"", "0 (no layer uses it)"};
    case Rule::must_be_at_most_qk_dim: return {"", "at most qk_dim"};
    case Rule::must_divide_inner: return {"", "a divisor of inner"};
    case Rule::must_divide_ssm_heads: return {"", "a divisor of ssm_heads"};
    case Rule::must_not_be_above_dt_max: return {"", "at most dt_max"};
    case Rule::must_be_a_known_kind: return {"", "a kind of mixer or ffn"};
    case Rule::must_equal_the_number_of_layer_plans: return {"", "the number of entries of 'layers'"};
    case Rule::must_be_a_multiple_of_kv_heads: return {"", "a multiple of kv_heads"};
    case Rule::must_be_even: return {"", "an even number (RoPE turns pairs)"};
    case Rule::times_heads_must_equal_inner: return {"", "inner / heads (both paths of a layer have one width)"};
    case Rule::must_be_2_to_4: return {"", "2, 3 or 4"};
    case Rule::must_be_a_positive_number: return {"", "a positive finite number in range"};
    case Rule::must_be_a_layer_not_after_its_reader: return {"", "0 .. the layer's own index"};
    case Rule::must_be_a_layer_with_its_own_kv: return {"", "a layer whose kv_source is itself"};
    case Rule::must_be_a_layer_with_its_own_block:
      return {"", "-1, or in a layer with a shared block: one not after it, whose block_source is itself"};
    case Rule::must_be_at_most_512: return {"", "at most 512"};
    case Rule::must_be_at_most_256: return {"", "at most 256"};
    case Rule::must_be_at_most_half_of_n_state: return {"", "at most n_state / 2"};
    case Rule::must_be_at_most_experts: return {"", "at most experts"};
    case Rule::must_be_at_most_router_groups: return {"", "at most router_groups"};
    case Rule::must_divide_experts_into_two_or_more: return {"", "a divisor of experts, two or more to a group"};
    case Rule::must_be_the_kind_of_all_layers_with_experts: return {"", "moe_relu2 in all layers with experts, or in none"};
    case Rule::must_equal_the_number_of_expert_plans: return {"", "the number of entries of 'experts', over all layers"};
    case Rule::scheme_zero_point_must_be_false: return {".scheme.zero_point", "false (no asymmetric layout)"};
    case Rule::scheme_scale_must_be_row_or_group: return {".scheme.scale", "row or group"};
    case Rule::scheme_scale_of_a_float_grid_must_be_row: return {".scheme.scale", "row (a float grid has no scales)"};
    case Rule::scheme_scale_of_nf4_must_be_group: return {".scheme.scale", "group (nf4)"};
    case Rule::weight_bits_of_a_float_grid_must_be_its_width: return {".weight_bits", "32 for f32, 16 for f16 and bf16"};
    case Rule::weight_bits_of_nf4_must_be_4: return {".weight_bits", "4 (nf4)"};
    case Rule::weight_bits_must_be_2_to_6_or_8: return {".weight_bits", "2 to 6, or 8"};
    case Rule::scheme_group_must_be_32_64_or_128: return {".scheme.group", "32, 64 or 128"};
    case Rule::scheme_group_of_a_row_scale_must_be_0: return {".scheme.group", "0 (one scale per row)"};
    case Rule::activation_must_be_f32_a16_or_a8: return {".activation", "f32, a16 or a8"};
    case Rule::activation_of_a_scan_or_attention_must_be_f32: return {".activation", "f32"};
    case Rule::state_of_a_linear_must_be_f32: return {".state", "f32 (a linear has no state)"};
    case Rule::state_of_a_scan_must_be_f32_f16_s16_or_s8:
    case Rule::state_of_a_conv_must_be_f32_f16_s16_or_s8: return {".state", "f32, f16, s16 or s8"};
    case Rule::state_of_attention_must_be_f32_f16_s8_or_s4: return {".state", "f32, f16, s8 or s4"};
    case Rule::state_of_attention_must_be_that_of_kv_source: return {".state", "the format of the layer whose K and V it reads"};
  }
  return {"", ""};
}

inline std::string path_of(Field field, int layer) {
  constexpr const char* names[] = {
      "shape.layers", "shape.hidden", "shape.vocab", "shape.heads", "shape.kv_heads", "shape.qk_dim", "shape.v_dim", "shape.inner",
      "shape.n_state", "shape.conv_taps", "shape.dt_rank", "shape.ffn", "shape.meta", "shape.norm_eps", "shape.rope_theta",
      "shape.rotary_dim", "shape.ssm_heads", "shape.ssm_groups", "shape.norm_groups", "shape.inner_norm_eps", "shape.dt_min",
      "shape.embedding_scale", "shape.attention_scale", "shape.experts", "shape.experts_used", "shape.expert_ffn",
      "shape.shared_ffn", "shape.expert_latent", "shape.router_groups", "shape.router_groups_used", "shape.router_scale",
      "shape.adapter_rank", "shape.scan_heads", "shape.ssm_angles", "shape.least_rate",
      "embedding", "lm_head",
      "mixer", "ffn", "window", "kv_source", "block_source",
      "in_proj", "x_proj", "dt_proj", "out_proj", "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
      "block_out", "q_adapter_in", "q_adapter_out", "k_adapter_in", "k_adapter_out", "v_adapter_in", "v_adapter_out",
      "ffn_adapter_in", "gate_adapter_out", "up_adapter_out", "shared_up", "shared_down", "latent_in", "latent_out",
      "scan", "conv", "attention", "gate_proj", "up_proj", "down_proj"};
  static_assert(sizeof names / sizeof *names == field_count);
  const std::string name = names[int(field)];
  const bool expert = int(field) >= int(Field::experts_gate_proj);
  return layer < 0 ? name : std::string(expert ? "experts[" : "layers[") + std::to_string(layer) + "]." + name;
}

inline std::string found_text(const Finding& f) {
  constexpr const char* scales[] = {"tensor", "row", "group", "two_level"};
  constexpr const char* activations[] = {"f32", "a16", "a8", "a8s"};
  constexpr const char* states[] = {"f32", "f16", "s16", "s8", "s4"};
  const std::string_view member = text_of(f.rule).member;
  const std::size_t i = std::size_t(f.found);
  if (member == ".scheme.scale" && i < 4) return scales[i];
  if (member == ".activation" && i < 4) return activations[i];
  if (member == ".state" && i < 5) return states[i];
  if (member == ".scheme.zero_point") return "true";
  if (f.rule == Rule::must_be_a_positive_number || f.field == Field::shape_dt_min) return "another";
  return std::to_string(f.found);
}

}  // namespace detail

/// The first rule the plan breaks, nothing when it keeps them all. Same rules, same order as checked().
template <class AnyPlan>
std::optional<Fault> find_fault(const AnyPlan& plan) {
  const Finding f = first_finding(plan);
  if (f.rule == Rule::none) return std::nullopt;
  return Fault{detail::path_of(f.field, f.layer) + detail::text_of(f.rule).member, detail::text_of(f.rule).expected,
               detail::found_text(f)};
}

}  // namespace klens
