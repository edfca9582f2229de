// What a family's header brings: how its config reads, how its small tensors are named. Everything else (loading, the forward
// pass, plans, bytes) follows from the Shape and the kinds of its layers. docs/families.md says how to add one.
#pragma once

#include <klens/io/config.hpp>
#include <klens/model/view.hpp>
#include <klens/plan/document.hpp>

#include <algorithm>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

namespace klens {

/// How a small tensor of the checkpoint becomes what kernels read: as it is; [channels, 1, taps] as [taps][channels]; or
/// -exp(v) log2(e), [channels, states] as [states][channels]; the columns of each head as Mamba3Args::b_bias.
enum class Use { vector, conv, a_log, pairs };

/// A tensor that no format applies to, and the member of LayerView it fills.
struct LayerTensor {
  std::string name;                     // whole: "model.layers.3.mamba.D"
  std::vector<std::int64_t> shape;
  Use use;
  const float* LayerView::* member;     // nullptr: the bias of the linear `role`
  Role role = Role::in_proj;
  std::int64_t width = shape[0];        // values or channels, the rest of the shape being columns of each
  int heads = 1;                        // of the channels, scan_pitch() apart
  int interleave = 1;                   // of the bias of a linear, as the next: WeightSource
  std::int64_t first = 0;
  std::int64_t head_columns = 0;        // of Use::pairs

  std::int64_t count() const {
    std::int64_t values = 1;
    for (const std::int64_t extent : shape) values *= extent;
    return values;
  }
  std::int64_t columns() const { return member == nullptr ? 1 : count() / width; }
  /// As kernels read it: [columns][padded()], channel i at place(i).
  std::int64_t padded() const { return round_up(std::int64_t(heads) * scan_pitch(int(width), heads), lanes); }
  std::int64_t place(std::int64_t i) const {
    if (use == Use::pairs) return i - i % head_columns + i % 2 * (head_columns / 2) + i % head_columns / 2;
    return i / (width / heads) * scan_pitch(int(width), heads) + i % (width / heads);
  }
};

/// Where a layer keeps a tensor.
template <class Layer>
auto& kept_in(Layer& l, const LayerTensor& t) {
  return t.member != nullptr ? l.*t.member : member_of(l, t.role).bias;
}

/// Names of the small tensors: of the layer (input_norm, ffn_norm), of its mamba or conv block, of its attention block.
struct SmallNames {
  std::string_view final_norm = "model.final_layernorm.weight";
  std::string_view input_norm = "input_layernorm.weight", ffn_norm = "pre_ff_layernorm.weight";
  std::string_view conv_weight = "conv1d.weight", conv_bias = "conv1d.bias";
  std::string_view a_log = "A_log", d = "D", dt_bias = "dt_bias";
  std::string_view dt_norm = "dt_layernorm.weight", b_norm = "b_layernorm.weight", c_norm = "c_layernorm.weight";
  std::string_view gated_norm = "norm.weight";
  std::string_view b_bias = "B_bias", c_bias = "C_bias";
  std::string_view attention_norm = {}, scan_norm = {};   // hymba: of the two paths
  std::string_view q_norm = {}, k_norm = {};
  std::string_view meta = {};
  std::string_view router = "feed_forward.router.weight", router_bias = {};   // in the layer
  std::string_view beside_block = {};   // what a layer with a shared block puts before its mamba's names, and before input_norm
  std::string_view block_norm = {}, block_ffn_norm = {};    // of a shared block
  bool heads_apart = false;             // A_log, D and dt_bias are [scan_heads, channels of one, ..]
};

/// Where a linear lies in the checkpoint: rows of a tensor that may hold others too. Row r of the linear is row first_row +
/// row_of(r) of the tensor as [rows, columns].
struct WeightSource {
  std::string tensor;
  std::vector<std::int64_t> shape;      // of the whole tensor; the last extent is the linear's columns
  std::int64_t first_row = 0;
  int interleave = 1;                   // 2: the first half of the linear's rows are the even ones, the second half the odd

  std::int64_t row_of(std::int64_t r, std::int64_t rows) const { return interleaved_row(r, rows, interleave); }
  static constexpr std::int64_t interleaved_row(std::int64_t r, std::int64_t rows, int interleave) {
    const std::int64_t part = rows / interleave;
    return interleave == 1 ? r : r % part * interleave + r / part;
  }
};

struct FamilyReader {
  SmallNames names;
  /// Sizes, kinds, window and K/V source of every layer. Formats are the default (f32) and have no meaning yet.
  Result<RuntimePlan> (*skeleton)(const ModelConfig&);
  /// Multipliers of the outputs of a linear, round_up(rows, 16) of them, or none; nullptr: the family has none.
  Result<std::vector<float>> (*output_scale)(const ModelConfig&, const RuntimePlan&, Role, int layer) = nullptr;
  /// Linears that are not a tensor of their own name (source_of); nullptr: all are.
  WeightSource (*source)(const RuntimePlan&, const Site&) = nullptr;
};

/// Where a site's weights lie in a checkpoint.
inline WeightSource source_of(const FamilyReader& reader, const RuntimePlan& plan, const Site& site) {
  if (reader.source != nullptr)
    if (WeightSource source = reader.source(plan, site); !source.tensor.empty()) return source;
  return {component_name(plan.shape.family, site.role, site.layer, site.expert) + ".weight", {site.rows, site.cols}};
}

/// The small tensors of one layer, in the order of plan/budget.hpp's for_each_small.
inline std::vector<LayerTensor> layer_tensors(const FamilyReader& reader, const RuntimePlan& plan, int layer) {
  const SmallNames& names = reader.names;
  const Shape& s = plan.shape;
  const LayerPlan& l = plan.layers[std::size_t(layer)];
  const FamilyNames family = names_of(s.family);
  const std::string layer_at = layer_prefix(s.family, layer), heads = layer_at + std::string(family.attention);
  const std::string at = layer_at + std::string(has_block(l.mixer) ? names.beside_block : ""), mamba = at + std::string(family.mamba);
  std::vector<LayerTensor> out;
  const auto put = [&out](const std::string& prefix, std::string_view name, std::vector<std::int64_t> shape, const float* LayerView::* member,
                          Use use = Use::vector) { out.push_back({prefix + std::string(name), std::move(shape), use, member}); };
  if (l.mixer != Mixer::none) put(at, names.input_norm, {s.hidden}, &LayerView::input_norm);
  if (l.block_source == layer) {
    put(layer_at, names.block_norm, {2 * std::int64_t(s.hidden)}, &LayerView::block_norm);
    put(layer_at, names.block_ffn_norm, {s.hidden}, &LayerView::ffn_norm);
  }
  if (l.ffn != Ffn::none) put(at, names.ffn_norm, {s.hidden}, &LayerView::ffn_norm);
  if (has_conv(l.mixer)) {
    const std::int64_t channels = conv_channels(s, l.mixer);
    put(mamba, names.conv_weight, {channels, 1, s.conv_taps}, &LayerView::conv_weight, Use::conv);
    if (s.conv_bias) put(mamba, names.conv_bias, {channels}, &LayerView::conv_bias);
  }
  if (has_scan(l.mixer)) {
    const auto put_heads = [&](std::string_view name, std::vector<std::int64_t> more, const float* LayerView::* member, Use use) {
      std::vector<std::int64_t> shape{s.inner};
      if (names.heads_apart) shape = {s.scan_heads, s.inner / s.scan_heads};
      shape.insert(shape.end(), more.begin(), more.end());
      put(mamba, name, std::move(shape), member, use);
      out.back().width = s.inner, out.back().heads = s.scan_heads;
    };
    put_heads(names.a_log, {s.n_state}, &LayerView::a2, Use::a_log);
    put_heads(names.d, {}, &LayerView::d, Use::vector);
    put_heads(names.dt_bias, {}, &LayerView::dt_bias, Use::vector);
    if (s.inner_norms && s.inner_norm_weights) {
      put(mamba, names.dt_norm, {s.dt_rank}, &LayerView::dt_norm);
      put(mamba, names.b_norm, {s.n_state}, &LayerView::b_norm);
      put(mamba, names.c_norm, {s.n_state}, &LayerView::c_norm);
    }
  }
  if (has_ssd(l.mixer)) {
    put(mamba, names.a_log, {s.ssm_heads}, &LayerView::a2, Use::a_log);
    put(mamba, names.d, {s.ssm_heads}, &LayerView::d);
    put(mamba, names.dt_bias, {s.ssm_heads}, &LayerView::dt_bias);
    if (s.norm_groups > 0) put(mamba, names.gated_norm, {s.inner}, &LayerView::gated_norm);
  }
  if (l.mixer == Mixer::mamba3) {
    put(mamba, names.d, {s.ssm_heads}, &LayerView::d);
    put(mamba, names.dt_bias, {s.ssm_heads}, &LayerView::dt_bias);
    put(mamba, names.b_norm, {s.n_state}, &LayerView::b_norm);
    put(mamba, names.c_norm, {s.n_state}, &LayerView::c_norm);
    for (const auto& [name, member] : {std::pair{names.b_bias, &LayerView::b_bias}, {names.c_bias, &LayerView::c_bias}}) {
      put(mamba, name, {s.ssm_heads, 1, s.n_state}, member, Use::pairs);
      out.back().width = out.back().count(), out.back().head_columns = s.n_state;
    }
    if (s.norm_groups > 0) put(mamba, names.gated_norm, {s.inner}, &LayerView::gated_norm);
  }
  if (l.mixer == Mixer::hymba) {
    put(mamba, names.attention_norm, {s.inner}, &LayerView::attention_norm);
    put(mamba, names.scan_norm, {s.inner}, &LayerView::scan_norm);
  }
  if (has_attention(l.mixer) && s.qk_norm) {
    put(heads, names.q_norm, {s.qk_dim}, &LayerView::q_norm);
    put(heads, names.k_norm, {s.qk_dim}, &LayerView::k_norm);
  }
  for (const Role role : layer_roles)
    if (has_role(plan, layer, role) && has_bias(s, l.mixer, role)) {
      const Extent e = extent_of(s, l.mixer, owns_kv(plan.layers, layer), role);
      const WeightSource source = source_of(reader, plan, {role, layer, e.rows, e.cols});
      std::int64_t whole = 1;
      for (std::size_t i = 0; i + 1 < source.shape.size(); ++i) whole *= source.shape[i];
      out.push_back({source.tensor.substr(0, source.tensor.size() - std::string_view("weight").size()) + "bias", {whole}, Use::vector,
                     nullptr, role, e.rows, 1, source.interleave, source.first_row});
    }
  if (has_experts(l.ffn)) put(at, names.router, {s.experts, s.hidden}, &LayerView::router);
  if (l.ffn == Ffn::moe_relu2) put(at, names.router_bias, {s.experts}, &LayerView::router_bias);
  return out;
}

namespace detail {

/// The key must be absent, or hold the value that means the same as its absence.
inline Result<void> only(const ModelConfig& c, std::string_view key, std::string_view value) {
  KLENS_TRY(const std::string found, c.string_or(key, std::string(value)));
  if (found != value) return c.unsupported(key, "'" + std::string(value) + "'");
  return {};
}

inline Result<void> only(const ModelConfig& c, std::string_view key, bool value) {
  KLENS_TRY(const bool found, c.boolean_or(key, value));
  if (found != value) return c.unsupported(key, value ? "true" : "false");
  return {};
}

inline Result<void> only(const ModelConfig& c, std::string_view key, std::int64_t value) {
  KLENS_TRY(const std::int64_t found, c.integer_or(key, value, 0, max_positions));
  if (found != value) return c.unsupported(key, std::to_string(value));
  return {};
}

/// The first of the spellings of a field that the config has; the first of all where it has none.
inline std::string_view spelling(const ModelConfig& c, std::initializer_list<std::string_view> keys) {
  for (const std::string_view key : keys)
    if (!json_absent(c.json, key)) return key;
  return *keys.begin();
}

/// What every config says, and a LayerPlan per layer, each of one kind with its own K and V.
inline RuntimePlan start_skeleton(const ModelConfig& c, Family family, Mixer mixer, Ffn ffn) {
  RuntimePlan plan;
  Shape& s = plan.shape;
  s.family = family;
  s.layers = int(c.layers), s.hidden = int(c.hidden_size), s.vocab = int(c.vocab_size), s.tied_head = c.tied_head;
  plan.layers.resize(std::size_t(s.layers));
  for (int l = 0; l < s.layers; ++l) {
    LayerPlan& layer = plan.layers[std::size_t(l)];
    layer.kv_source = l, layer.mixer = mixer, layer.ffn = ffn;
  }
  return plan;
}

/// The rules of a plan, as errors of the config.
inline Result<RuntimePlan> finish_skeleton(const ModelConfig& c, RuntimePlan plan) {
  plan.experts.resize(expert_index(plan, int(plan.layers.size()), 0));
  if (const auto fault = find_fault(plan)) return Error{ErrorCode::unsupported, c.path + ": " + fault->field, fault->expected, fault->found};
  return plan;
}

/// An integer, "auto" for `automatic`, or absent for it.
inline Result<int> integer_or_auto(const ModelConfig& c, std::string_view key, std::int64_t automatic, std::int64_t max) {
  const auto found = c.json.find(key);
  if (found != c.json.end() && found->is_string()) {
    KLENS_OK(only(c, key, std::string_view("auto")));
    return int(automatic);
  }
  KLENS_TRY(const std::int64_t value, c.integer_or(key, automatic, 1, max));
  return int(value);
}

/// A number, or infinity as Python's writers spell it: Infinity, "Infinity" or {"__float__": "Infinity"}.
inline Result<double> number_or_infinity(const ModelConfig& c, const Json& j, std::string_view key) {
  if (j.is_number()) return j.get<double>();
  const Json* text = &j;
  if (j.is_object() && j.size() == 1 && j.contains("__float__")) text = &j["__float__"];
  if (text->is_string() && (*text == "Infinity" || *text == "inf")) return double(__builtin_inff());
  return c.unsupported(key, "numbers, or Infinity");
}

/// "time_step_limit": [min, max] of dt after softplus; none where it does not limit anything.
inline Result<void> read_dt_limits(const ModelConfig& c, Shape& s) {
  const auto limits = c.json.find("time_step_limit");
  if (limits == c.json.end() || limits->is_null()) return {};
  if (!limits->is_array() || limits->size() != 2) return c.unsupported("time_step_limit", "two numbers");
  KLENS_TRY(const double least, number_or_infinity(c, (*limits)[0], "time_step_limit"));
  KLENS_TRY(const double most, number_or_infinity(c, (*limits)[1], "time_step_limit"));
  if (!(least >= 0 && most > 0 && least <= most)) return c.unsupported("time_step_limit", "0 <= min <= max");
  s.dt_min = float(least), s.dt_max = most < 1e30 ? float(most) : 0.0f;
  return {};
}

/// RoPE from "rope_parameters" (today's spelling) or from the config's own keys; only the plain kind.
inline Result<void> read_rope(const ModelConfig& c, Shape& s, double theta_default, double part_default = 1) {
  double theta = theta_default, part = part_default;
  const auto nested = c.json.find("rope_parameters");
  const auto read = [&](const Json& j, const std::string& where) -> Result<void> {
    KLENS_TRY(theta, json_number_or(j, "rope_theta", where, theta, 1.0, 1e12));
    KLENS_TRY(part, json_number_or(j, "partial_rotary_factor", where, part, 0.0, 1.0));
    KLENS_TRY(const std::string type, json_string_or(j, "rope_type", where, "default"));
    if (type != "default") return Error{ErrorCode::unsupported, where + ": 'rope_type'", "'default'", "'" + type.substr(0, 40) + "'"};
    return {};
  };
  KLENS_OK(read(c.json, c.path));
  if (nested != c.json.end() && nested->is_object()) KLENS_OK(read(*nested, c.path + ": 'rope_parameters'"));
  if (const auto scaling = c.json.find("rope_scaling"); scaling != c.json.end() && !scaling->is_null())
    return c.unsupported("rope_scaling", "null");
  s.rope_theta = float(theta), s.rotary_dim = int(s.qk_dim * part) / 2 * 2;
  return {};
}

/// Sizes of Mamba-1 over mamba_expand * hidden_size channels, in the keys "mamba_*", and biases of linears.
inline Result<void> read_mamba(const ModelConfig& c, Shape& s) {
  KLENS_TRY(const std::int64_t expand, c.integer_or("mamba_expand", 2, 1, 64));
  if (expand * c.hidden_size > max_width) return c.unsupported("mamba_expand", "at most " + std::to_string(max_width) + " channels");
  s.inner = int(expand * c.hidden_size);
  KLENS_TRY(s.n_state, c.integer_or("mamba_d_state", 16, 1, 4096));
  KLENS_TRY(s.conv_taps, c.integer_or("mamba_d_conv", 4, 2, 4));
  KLENS_TRY(s.dt_rank, integer_or_auto(c, "mamba_dt_rank", div_up(c.hidden_size, 16), max_width));
  KLENS_TRY(s.conv_bias, c.boolean_or("mamba_conv_bias", true));
  KLENS_TRY(s.in_proj_bias, c.boolean_or("mamba_proj_bias", false));
  s.out_proj_bias = s.in_proj_bias;
  return {};
}

/// Sizes of Mamba-2 heads over `inner` channels, in the keys "mamba_*", and biases of linears.
inline Result<void> read_mamba2(const ModelConfig& c, Shape& s, std::int64_t inner) {
  if (inner > max_width) return c.unsupported("mamba_expand", "at most " + std::to_string(max_width) + " channels");
  s.inner = int(inner);
  KLENS_TRY(s.ssm_heads, c.integer_or("mamba_n_heads", 128, 1, max_heads));
  KLENS_TRY(const int width, integer_or_auto(c, "mamba_d_head", s.inner / s.ssm_heads, max_width));
  if (std::int64_t(width) * s.ssm_heads != s.inner)
    return c.unsupported("mamba_d_head", std::to_string(s.inner) + " channels / mamba_n_heads");
  KLENS_TRY(s.ssm_groups, c.integer_or("mamba_n_groups", 1, 1, max_heads));
  KLENS_TRY(s.n_state, c.integer_or("mamba_d_state", 256, 1, 4096));
  KLENS_TRY(s.conv_taps, c.integer_or("mamba_d_conv", 4, 2, 4));
  KLENS_TRY(s.conv_bias, c.boolean_or("mamba_conv_bias", true));
  KLENS_OK(read_dt_limits(c, s));
  KLENS_TRY(s.in_proj_bias, c.boolean_or("mamba_proj_bias", false));
  s.out_proj_bias = s.in_proj_bias;
  KLENS_TRY(s.attention_bias, c.boolean_or("attention_bias", false));
  KLENS_TRY(s.ffn_bias, c.boolean_or("mlp_bias", false));
  return only(c, "hidden_act", std::string_view("silu"));
}

/// Query heads, kv heads and their width.
inline Result<void> read_heads(const ModelConfig& c, Shape& s, std::string_view width_key = "head_dim", int width_default = 0) {
  KLENS_TRY(s.heads, c.integer("num_attention_heads", 1, max_heads));
  KLENS_TRY(s.kv_heads, c.integer_or("num_key_value_heads", s.heads, 1, max_heads));
  if (s.heads % s.kv_heads != 0)
    return c.unsupported("num_key_value_heads", "a divisor of num_attention_heads " + std::to_string(s.heads));
  const int width = width_default > 0 ? width_default : std::max(s.hidden / s.heads, 1);
  KLENS_TRY(s.qk_dim, c.integer_or(width_key, width, 1, max_width));
  s.v_dim = s.qk_dim;
  return {};
}

}  // namespace detail
}  // namespace klens
