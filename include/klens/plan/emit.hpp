// plan_header(document): the text of plan.hpp, one constexpr value a person can read and edit, with bytes, KL and the reason
// of each choice beside it, its hash and its bytes asserted. klens_add_model() compiles for it.
#pragma once

#include <klens/plan/document.hpp>
#include <klens/version.hpp>

#include <charconv>
#include <string>
#include <string_view>

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

/// "w4g32,  // 122880 bytes   KL 1.23e-04   reason"
inline std::string choice_line(const std::string& indent, const std::string& field, const PlanEntry& e) {
  std::string note = padded(std::to_string(e.bytes) + " bytes", 16);
  note += (e.kl ? "KL " + scientific(*e.kl) : std::string("KL not measured"));
  if (!e.reason.empty()) note += "   " + comment_text(e.reason);
  return indent + padded(padded("." + field, 10) + " = " + format_name(e.format) + ",", 24) + "// " + note + "\n";
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
         fixed(bits_per_weight(document), 3) + " bits per weight. KL: of each choice alone, nat per token.\n"
         "#pragma once\n\n"
         "#include <klens/plan/budget.hpp>\n#include <klens/plan/check.hpp>\n#include <klens/plan/formats.hpp>\n\n"
         "namespace klens_plan {\n\nusing namespace klens::formats;\n\n";
  out += "inline constexpr auto " + constant + " = klens::checked(klens::Plan<" + std::to_string(plan.layers.size()) + ">{\n";
  const auto n = [](const char* field, int value) { return std::string(".") + field + " = " + std::to_string(value); };
  const std::string gap(15, ' ');
  out += "    .shape = {.family = klens::Family::hymba, " + n("layers", s.layers) + ", " + n("hidden", s.hidden) + ", " +
         n("vocab", s.vocab) + ",\n" +
         gap + n("heads", s.heads) + ", " + n("kv_heads", s.kv_heads) + ", " + n("qk_dim", s.qk_dim) + ", " +
         n("v_dim", s.v_dim) + ",\n" +
         gap + n("inner", s.inner) + ", " + n("n_state", s.n_state) + ", " + n("conv_taps", s.conv_taps) + ", " +
         n("dt_rank", s.dt_rank) + ",\n" +
         gap + n("ffn", s.ffn) + ", " + n("meta", s.meta) + ", .tied_head = " + (s.tied_head ? "true" : "false") + ",\n" +
         gap + ".norm_eps = " + float_literal(s.norm_eps) + ", .rope_theta = " + float_literal(s.rope_theta) + "},\n";

  std::size_t next = 0;
  std::string head;
  out += choice_line("    ", "embedding", document.entries[next++]);
  if (!s.tied_head) head = choice_line("    ", "lm_head", document.entries[next++]);
  out += "    .layers = {{\n";
  constexpr const char* fields[] = {"in_proj", "x_proj", "dt_proj", "out_proj", "gate_proj", "up_proj", "down_proj"};
  for (std::size_t i = 0; i < plan.layers.size(); ++i) {
    const LayerPlan& l = plan.layers[i];
    out += "        {" + n("window", l.window) + ", " + n("kv_source", l.kv_source) + ",  // layer " + std::to_string(i) +
           (l.window == 0 ? ": global attention" : ": sliding window") +
           (l.kv_source == int(i) ? "" : ", K and V of layer " + std::to_string(l.kv_source)) + "\n";
    for (const char* field : fields) out += choice_line("         ", field, document.entries[next++]);
    out += "        },\n";
  }
  out += "    }},\n" + head + "});\n\n";
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
