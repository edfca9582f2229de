// plan_header(document): the text of plan.hpp, one constexpr value a person can read and edit, with bytes, KL and the reason
// of each choice beside it, its hash and its bytes asserted. klens_add_model() compiles for it.
#pragma once

#include <klens/format/state.hpp>
#include <klens/plan/document.hpp>
#include <klens/version.hpp>

#include <charconv>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

namespace klens {
namespace detail {

/// Text for the rest of a // comment: one line, no backslash at its end (it would splice the next line).
inline std::string comment_text(std::string_view text) {
  std::string out;
  for (const char c : text) out += static_cast<unsigned char>(c) < 32 || c == '\\' || c == 127 ? ' ' : c;
  while (!out.empty() && out.back() == ' ') out.pop_back();
  return out;
}

inline std::string padded(std::string text, std::size_t width) {
  if (text.size() < width) text.append(width - text.size(), ' ');
  return text;
}

/// Shortest decimal that reads back as the same float, as a C++ literal.
inline std::string float_literal(float value) {
  char buffer[32];
  std::string text(buffer, std::to_chars(buffer, buffer + sizeof buffer, value).ptr);
  if (text.find_first_of(".e") == std::string::npos) text += ".0";
  return text + "f";
}

inline std::string hex(std::uint64_t value) {
  char buffer[16];
  std::string digits(buffer, std::to_chars(buffer, buffer + sizeof buffer, value, 16).ptr);
  return "0x" + std::string(16 - digits.size(), '0') + digits;
}

inline std::string fixed(double value, int decimals) {
  char buffer[64];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::fixed, decimals);
  return end.ec == std::errc() ? std::string(buffer, end.ptr) : "?";
}

inline std::string scientific(double value) {
  char buffer[64];
  return std::string(buffer, std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::scientific, 2).ptr);
}

/// "// 122880 bytes   KL 1.23e-04   reason"
inline std::string note_of(const PlanEntry& e) {
  std::string note = "// " + padded(std::to_string(e.bytes) + " bytes", 16);
  note += (e.kl ? "KL " + scientific(*e.kl) : std::string("KL not measured"));
  return e.reason.empty() ? note : note + "   " + comment_text(e.reason);
}

/// ".in_proj = w4g32,  // 122880 bytes   KL 1.23e-04   reason"
inline std::string choice_line(const std::string& indent, const std::string& field, const PlanEntry& e) {
  return indent + padded(padded("." + field, 10) + " = " + format_name(e.format) + ",", 24) + note_of(e) + "\n";
}

/// ".scan = {.state = klens::State::s8},  // 6144 bytes of memory   KL ..."; nothing for f32, the default.
inline std::string state_line(const std::string& indent, const std::string& field, State format, const PlanEntry* e) {
  if (format == State::f32) return {};
  const std::string line = indent + padded("." + field, 10) + " = {.state = klens::State::" + std::string(name_of(format)) + "},";
  return e == nullptr ? line + "\n" : padded(line, indent.size() + 42) + note_of(*e) + "\n";
}

}  // namespace detail

/// Every member after `family`: visit(name, pointer to member), in the order of declaration.
template <class Visit>
constexpr void for_each_shape_member(Visit&& visit) {
  visit("layers", &Shape::layers), visit("hidden", &Shape::hidden), visit("vocab", &Shape::vocab);
  visit("heads", &Shape::heads), visit("kv_heads", &Shape::kv_heads), visit("qk_dim", &Shape::qk_dim), visit("v_dim", &Shape::v_dim);
  visit("inner", &Shape::inner), visit("n_state", &Shape::n_state), visit("conv_taps", &Shape::conv_taps), visit("dt_rank", &Shape::dt_rank);
  visit("ffn", &Shape::ffn), visit("meta", &Shape::meta), visit("tied_head", &Shape::tied_head);
  visit("norm_eps", &Shape::norm_eps), visit("rope_theta", &Shape::rope_theta), visit("rotary_dim", &Shape::rotary_dim);
  visit("ssm_heads", &Shape::ssm_heads), visit("ssm_groups", &Shape::ssm_groups), visit("norm_groups", &Shape::norm_groups);
  visit("norm_before_gate", &Shape::norm_before_gate), visit("inner_norms", &Shape::inner_norms);
  visit("inner_norm_weights", &Shape::inner_norm_weights), visit("qk_norm", &Shape::qk_norm), visit("conv_bias", &Shape::conv_bias);
  visit("in_proj_bias", &Shape::in_proj_bias), visit("out_proj_bias", &Shape::out_proj_bias);
  visit("attention_bias", &Shape::attention_bias), visit("ffn_bias", &Shape::ffn_bias);
  visit("inner_norm_eps", &Shape::inner_norm_eps), visit("dt_min", &Shape::dt_min), visit("dt_max", &Shape::dt_max);
  visit("embedding_scale", &Shape::embedding_scale), visit("attention_scale", &Shape::attention_scale);
  visit("experts", &Shape::experts), visit("experts_used", &Shape::experts_used), visit("expert_ffn", &Shape::expert_ffn);
  visit("softmax_of_all", &Shape::softmax_of_all);
  visit("shared_ffn", &Shape::shared_ffn), visit("expert_latent", &Shape::expert_latent), visit("router_groups", &Shape::router_groups);
  visit("router_groups_used", &Shape::router_groups_used), visit("router_normed", &Shape::router_normed);
  visit("router_scale", &Shape::router_scale);
  visit("adapter_rank", &Shape::adapter_rank), visit("attention_adapters", &Shape::attention_adapters);
  visit("scan_heads", &Shape::scan_heads), visit("ssm_angles", &Shape::ssm_angles), visit("least_rate", &Shape::least_rate);
}

namespace detail {

/// ".shape = {...}," of a plan; members that have their default are left out, but for the sizes every model has.
inline std::string shape_text(const Shape& s) {
  std::string out = "    .shape = {.family = klens::Family::" + std::string(name_of(s.family)), line;
  const Shape none;
  const auto put = [&](const char* name, const std::string& value) {
    const std::string text = std::string(".") + name + " = " + value;
    const bool wrap = out.size() - out.rfind('\n') + text.size() > 110;
    out += wrap ? ",\n" + std::string(15, ' ') : ", ";
    out += text;
  };
  for_each_shape_member([&]<class T>(const char* name, T Shape::*member) {
    if (s.*member == none.*member) return;
    if constexpr (std::is_same_v<T, float>) put(name, float_literal(s.*member));
    else if constexpr (std::is_same_v<T, bool>) put(name, s.*member ? "true" : "false");
    else put(name, std::to_string(s.*member));
  });
  return out + "},\n";
}

inline std::string role_name(Role role) {
  constexpr const char* names[] = {"embedding", "lm_head", "in_proj", "x_proj", "dt_proj", "out_proj", "q_proj", "k_proj", "v_proj",
                                   "o_proj", "gate_proj", "up_proj", "down_proj", "block_out", "q_adapter_in", "q_adapter_out", "k_adapter_in",
                                   "k_adapter_out", "v_adapter_in", "v_adapter_out", "ffn_adapter_in", "gate_adapter_out", "up_adapter_out",
                                   "shared_up", "shared_down", "latent_in", "latent_out"};
  static_assert(sizeof names / sizeof *names == role_count);
  return names[int(role)];
}

}  // namespace detail

/// True for what may name the constant in plan.hpp.
inline bool is_identifier(std::string_view name) {
  const auto letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; };
  if (name.empty() || name.size() > 100 || !letter(name[0])) return false;
  for (const char c : name)
    if (!letter(c) && !(c >= '0' && c <= '9')) return false;
  return true;
}

/// The text of plan.hpp. `name`: of the constant, `klens_plan::<name>` (is_identifier). Made by make_plan, so that every site
/// has its entry.
inline std::string plan_header(const PlanDocument& document, std::string_view name = "model_plan") {
  using namespace detail;
  const RuntimePlan& plan = document.plan;
  const Shape& s = plan.shape;
  const std::string constant(name);
  std::string out = "// The precision of every component of one model, as a value: `#include` it, or give it to klens_add_model().\n";
  out += "// Model: " + comment_text(document.model) + ", shape hash " + hex(shape_hash(plan)) + "\n";
  out += "// Written by klens " + std::string(KLENS_VERSION) + "\n";
  for (const auto& [key, value] : document.provenance) out += "//   " + comment_text(key) + ": " + comment_text(value) + "\n";
  out += "// " + std::to_string(document.entries.size()) + " components, " + std::to_string(weight_bytes(document)) + " bytes, " +
         fixed(bits_per_weight(document), 3) + " bits per weight. KL: of each choice alone, nat per token.\n" +
         (states_are_f32(plan) ? std::string() : "// States: bytes of memory per sequence, beside those of the file; KV caches for " +
                                                     std::to_string(document.context) + " tokens.\n") +
         "#pragma once\n\n"
         "#include <klens/plan/budget.hpp>\n#include <klens/plan/check.hpp>\n#include <klens/plan/formats.hpp>\n\n"
         "namespace klens_plan {\n\nusing namespace klens::formats;\n\n";
  out += "inline constexpr auto " + constant + " = klens::checked(klens::Plan<" + std::to_string(plan.layers.size()) +
         (plan.experts.empty() ? "" : ", " + std::to_string(plan.experts.size())) + ">{\n";
  const auto n = [](const char* field, int value) { return std::string(".") + field + " = " + std::to_string(value); };
  const std::string gap(15, ' ');
  out += shape_text(s);

  std::size_t next = 0, next_state = 0;
  std::string head, experts;
  out += choice_line("    ", "embedding", document.entries[next++]);
  if (!s.tied_head) head = choice_line("    ", "lm_head", document.entries[next++]);
  out += "    .layers = {{\n";
  for (std::size_t i = 0; i < plan.layers.size(); ++i) {
    const LayerPlan& l = plan.layers[i];
    out += "        {" + n("window", l.window) + ", " + n("kv_source", l.kv_source) + ",  // layer " + std::to_string(i) +
           (!has_attention(l.mixer) ? "" : l.window == 0 ? ": global attention" : ": sliding window") +
           (l.kv_source == int(i) ? "" : ", K and V of layer " + std::to_string(l.kv_source)) + "\n";
    for (const Role role : layer_roles)
      if (has_role(plan, int(i), role)) out += choice_line("         ", role_name(role), document.entries[next++]);
    for (int e = 0; has_experts(l.ffn) && e < s.experts; ++e) {
      experts += "        {  // layer " + std::to_string(i) + ", expert " + std::to_string(e) + "\n";
      for (const Role role : expert_roles)
        if (expert_has(l.ffn, role)) experts += choice_line("         ", role_name(role), document.entries[next++]);
      experts += "        },\n";
    }
    const PlanEntry* states[3] = {};   // scan, conv, kv: those that the layer owns
    for (const StateKind kind : state_kinds)
      if (has_state(l.mixer, owns_kv(plan.layers, int(i)), kind)) states[int(kind)] = &document.states[next_state++];
    out += state_line("         ", "scan", l.scan.state, states[int(StateKind::scan)]);
    out += state_line("         ", "attention", l.attention.state, states[int(StateKind::kv)]);
    out += state_line("         ", "conv", l.conv.state, states[int(StateKind::conv)]);
    out += "         .mixer = klens::Mixer::" + std::string(name_of(l.mixer)) + ", .ffn = klens::Ffn::" + std::string(name_of(l.ffn)) +
           (l.block_source < 0 ? "" : ", .block_source = " + std::to_string(l.block_source)) + "},\n";
  }
  out += "    }},\n" + head;
  if (!plan.experts.empty()) out += "    .experts = {{\n" + experts + "    }},\n";
  out += "});\n\n";
  out += "/// Norms, conv, A_log, D, biases and meta tokens, as the checkpoint has them.\ninline constexpr std::int64_t " + constant +
         "_small_bytes = " + std::to_string(document.small_bytes) + ";\n";
  out += "static_assert(klens::weight_bytes(" + constant + ", " + constant + "_small_bytes) == " +
         std::to_string(weight_bytes(document)) +
         ",\n              \"klens plan: the bytes of model.klens; change them with the formats\");\n";
  out += "static_assert(klens::shape_hash(" + constant + ") == " + hex(shape_hash(plan)) +
         "u,\n              \"klens plan: the shape of the model it was made for\");\n\n}  // namespace klens_plan\n";
  return out;
}

}  // namespace klens
