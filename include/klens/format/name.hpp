// Format names, the only spelling in files and tables: f32 f16 bf16 w8 w4 w4g32 nf4g64, then a8 a16 a8s, then f16 s16 s8 s4.
//   weight := f32 | f16 | bf16 | wB | wBgN | nf4gN       activation := (nothing: f32) | a16 | a8 | a8s
//   state  := (nothing: f32) | f16 | s16 | s8 | s4       name := weight activation? state?     e.g. w4g32a8, w8a16, f16s8
// A state component alone has the bare name of its format: f32 f16 s16 s8 s4 (format/state.hpp).
#pragma once

#include <klens/format/scheme.hpp>

#include <optional>
#include <string>
#include <string_view>

namespace klens {
namespace detail {

constexpr bool eat(std::string_view& text, std::string_view token) {
  if (text.substr(0, token.size()) != token) return false;
  text.remove_prefix(token.size());
  return true;
}

/// A number without leading zeros, below 65536; else -1.
constexpr int eat_number(std::string_view& text) {
  int value = -1;
  if (text.substr(0, 1) == "0") return value;
  while (!text.empty() && text[0] >= '0' && text[0] <= '9' && value < 10000) {
    value = (value < 0 ? 0 : value * 10) + (text[0] - '0');
    text.remove_prefix(1);
  }
  return value < 65536 ? value : -1;
}

}  // namespace detail

/// The Precision a name stands for; nothing when the name is unknown or has no packed layout.
constexpr std::optional<Precision> parse_format(std::string_view text) {
  using namespace detail;
  Precision p;
  if (eat(text, "f32")) p.weight_bits = 32, p.scheme = floats(Grid::f32);
  else if (eat(text, "f16")) p.weight_bits = 16, p.scheme = floats(Grid::f16);
  else if (eat(text, "bf16")) p.weight_bits = 16, p.scheme = floats(Grid::bf16);
  else if (eat(text, "nf4g")) p.weight_bits = 4, p.scheme = nf4_groups_of(std::uint16_t(eat_number(text)));
  else if (eat(text, "w")) {
    const int bits = eat_number(text);
    if (bits < 2 || bits > 8) return std::nullopt;
    p.weight_bits = std::uint8_t(bits);
    p.scheme = eat(text, "g") ? groups_of(std::uint16_t(eat_number(text))) : per_row();
  } else return std::nullopt;
  if (eat(text, "a16")) p.activation = Activation::a16;
  else if (eat(text, "a8s")) {
    // "a8s8" is a8 followed by the state s8; "a8s" alone, and "a8ss8", have the static scale.
    if (!text.empty() && text[0] != 's' && text[0] != 'f') {
      p.activation = Activation::a8;
      p.state = text == "16" ? State::s16 : text == "8" ? State::s8 : text == "4" ? State::s4 : State::f32;
      if (p.state == State::f32) return std::nullopt;
      text = {};
    } else p.activation = Activation::a8s;
  } else if (eat(text, "a8")) p.activation = Activation::a8;
  if (eat(text, "f16")) p.state = State::f16;
  else if (eat(text, "s16")) p.state = State::s16;
  else if (eat(text, "s8")) p.state = State::s8;
  else if (eat(text, "s4")) p.state = State::s4;
  if (!text.empty() || !storable(p.weight_bits, p.scheme)) return std::nullopt;
  return p;
}

/// The weight part alone: "w4g32".
inline std::string weight_name(const Precision& p) {
  switch (p.scheme.grid) {
    case Grid::f32: return "f32";
    case Grid::f16: return "f16";
    case Grid::bf16: return "bf16";
    case Grid::nf4: return std::string("nf4g").append(std::to_string(p.scheme.group));
    case Grid::uniform: break;
  }
  std::string name = std::string("w").append(std::to_string(p.weight_bits));
  if (p.scheme.scale == Granularity::group) name.append("g").append(std::to_string(p.scheme.group));
  return name;
}

/// Inverse of parse_format.
inline std::string format_name(const Precision& p) {
  constexpr const char* activation[] = {"", "a16", "a8", "a8s"};
  constexpr const char* state[] = {"", "f16", "s16", "s8", "s4"};
  return weight_name(p) + activation[int(p.activation)] + state[int(p.state)];
}

static_assert(parse_format("w4g32a8")->scheme.group == 32 && parse_format("w8a16")->activation == Activation::a16);
static_assert(parse_format("w4a8s8")->state == State::s8 && parse_format("w4a8s")->activation == Activation::a8s);
static_assert(parse_format("f16f16")->state == State::f16 && parse_format("w4a8sf16")->activation == Activation::a8s);
static_assert(parse_format("w4a8ss8")->activation == Activation::a8s && !parse_format("w4g65568") && !parse_format("w04"));
static_assert(!parse_format("w7") && !parse_format("w4g33") && !parse_format("w4x") && !parse_format(""));

}  // namespace klens
