// A plan for llama-quantize: a line "^name$=type" per linear and embedding, as its --tensor-type-file takes them, with
// the type of ggml that is nearest in bits. States and activations have no place there. The experts of a layer share
// one tensor there: its line has the type of most bits among theirs.
//   w8 q8_0 (8.5 bits), w6 q6_k (6.6), w5 q5_k (5.5), w4 q4_k (4.5), w3 q3_k (3.4), w2 q2_k (2.6), nf4 iq4_nl (4.5)
// K types need columns of a multiple of 256; else, of 32: w6 q8_0, w5 q5_0, w4 to w2 q4_0; else f16. Test:
// tests/io/gguf.cpp.
#pragma once

#include <klens/io/gguf_blocks.hpp>
#include <klens/io/gguf_names.hpp>
#include <klens/plan/document.hpp>

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

namespace klens {

/// ggml's type nearest to a format, for rows of `cols` weights.
constexpr std::string_view ggml_type_of(const Precision& p, std::int64_t cols) {
  switch (p.scheme.grid) {
    case Grid::f32: return "f32";
    case Grid::f16: return "f16";
    case Grid::bf16: return "bf16";
    case Grid::nf4:
    case Grid::uniform: break;
  }
  if (cols % 32 != 0) return "f16";
  if (p.scheme.grid == Grid::nf4) return "iq4_nl";
  const bool k = cols % 256 == 0;
  switch (p.weight_bits) {
    case 6: return k ? "q6_k" : "q8_0";
    case 5: return k ? "q5_k" : "q5_0";
    case 4: return k ? "q4_k" : "q4_0";
    case 3: return k ? "q3_k" : "q4_0";
    case 2: return k ? "q2_k" : "q4_0";
    default: return "q8_0";
  }
}

/// Bits of a weight in a type, times 256: of a K type's block of 256 weights.
constexpr int bits_of_ggml_type(std::string_view type) {
  for (const GgmlBlock& b : ggml_blocks)
    if (std::ranges::equal(b.name, type, {}, [](char c) { return c >= 'A' && c <= 'Z' ? char(c - 'A' + 'a') : c; }))
      return b.bytes * 8 * 256 / b.values;
  return 0;
}

/// Lines of a plan, and what they cannot say.
struct GgufTypes {
  std::string text;
  int lines = 0, states = 0, activations = 0;  // states other than f32, linears with integer inputs: left out
  int experts = 0;  // linears of experts whose type is another than their tensor's
};

/// Errors: a family that no architecture of llama.cpp stands for here.
inline Result<GgufTypes> gguf_types(const PlanDocument& plan) {
  GgufTypes out;
  const Family family = plan.plan.shape.family;
  if (detail::gguf_family(family) == nullptr) {
    std::string known = "falcon_mamba";  // the architecture of mamba has two
    for (const detail::GgufFamily& f : detail::gguf_families) known += ", " + std::string(name_of(f.family));
    return Error{ErrorCode::unsupported, plan.model, "a family that GGUF files are read of: " + known,
                 std::string(name_of(family))};
  }
  struct Line {
    std::string name;
    std::string_view type;  // of most bits
    std::vector<std::string_view> all;
  };
  std::vector<Line> lines;
  std::optional<Site> unnamed;
  for_each_site(plan.plan, [&](const Site& site) {
    const Ffn ffn = site.layer < 0 ? Ffn::none : plan.plan.layers[std::size_t(site.layer)].ffn;
    const auto name = detail::gguf_weight_name(family, site, ffn);
    if (!name) {
      unnamed = site;
      return;
    }
    out.activations += site.precision.activation != Activation::f32;
    const std::string_view type = ggml_type_of(site.precision, site.cols);
    // Experts of a layer stand one after another, and there are as many lines as tensors: from the end.
    const auto known = std::ranges::find(lines.rbegin(), lines.rend(), *name, &Line::name);
    if (known == lines.rend()) {
      lines.push_back({*name, type, {type}});
      return;
    }
    known->all.push_back(type);
    if (bits_of_ggml_type(type) > bits_of_ggml_type(known->type)) known->type = type;
  });
  if (unnamed)
    return Error{ErrorCode::unsupported, plan.model, "linears that llama.cpp has in this architecture",
                 component_name(family, unnamed->role, unnamed->layer, unnamed->expert)};
  for (const Line& line : lines) {
    out.text += '^';
    for (const char c : line.name) out.text += c == '.' ? "\\." : std::string(1, c);
    out.text += "$=" + std::string(line.type) + "\n";
    out.experts += int(line.all.size()) - int(std::ranges::count(line.all, line.type));
  }
  out.lines = int(lines.size());
  for_each_state(plan.plan, [&](const StateSite& state) { out.states += state.format != State::f32; });
  return out;
}

}  // namespace klens
