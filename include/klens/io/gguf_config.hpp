// The config of a GGUF file: llama.cpp's metadata in the keys of transformers' config.json. What a config says with a
// switch (a bias, a norm) is there if its tensors are. Keys of the architecture that have no meaning here are errors.
// What the file does not say has the family's default: limits of dt (mamba2 and Granite: none, nemotron_h: from 0.001),
// falcon_mamba's mixer_rms_eps.
#pragma once

#include <klens/io/gguf.hpp>
#include <klens/io/gguf_names.hpp>

#include <algorithm>
#include <charconv>
#include <cmath>

namespace klens {
namespace detail {

/// The config that llama.cpp's metadata says, in transformers' keys.
class GgufConfig {
 public:
  GgufConfig(const GgufFile& file, const GgufFamily& family)
      : file_(file), family_(family), at_(std::string(family.architecture) + ".") {}

  Result<Json> read() {
    KLENS_OK(only_known_keys());
    const GgufTensor* embedding = file_.tensor("token_embd.weight");
    if (embedding == nullptr || embedding->shape.size() != 2)
      return Error{ErrorCode::missing, file_.path() + ": tensor 'token_embd.weight'", "a matrix",
                   embedding == nullptr ? "no such tensor" : klens::shape_text(embedding->shape)};
    KLENS_TRY(layers_, integer("block_count", 1, 1024));
    KLENS_TRY(hidden_, integer("embedding_length", 1, largest));
    json_["num_hidden_layers"] = layers_, json_["hidden_size"] = hidden_, json_["vocab_size"] = embedding->shape[0];
    json_["tie_word_embeddings"] = file_.tensor("output.weight") == nullptr;
    json_["model_type"] = name_of(family_.family);
    const bool rms = file_.has(at_ + "attention.layer_norm_rms_epsilon");
    KLENS_TRY(eps_, file_.number(at_ + (rms ? "attention.layer_norm_rms_epsilon" : "attention.layer_norm_epsilon"),
                                 1e-12, 0.1));
    switch (family_.family) {
      case Family::mamba: KLENS_OK(mamba()); break;
      case Family::mamba2: KLENS_OK(mamba2()); break;
      case Family::lfm2: KLENS_OK(lfm2()); break;
      case Family::falcon_h1: KLENS_OK(falcon_h1()); break;
      case Family::jamba: KLENS_OK(jamba()); break;
      case Family::granitemoehybrid: KLENS_OK(granite()); break;
      default: KLENS_OK(nemotron_h());
    }
    return std::move(json_);
  }
  std::int64_t heads() const { return heads_; }
  std::int64_t kv_heads() const { return kv_heads_; }

 private:
  static constexpr std::int64_t largest = 1 << 22;

  Result<std::int64_t> integer(std::string_view key, std::int64_t min, std::int64_t max) const {
    return file_.integer(at_ + std::string(key), min, max);
  }

  /// A tensor that ends so: what a config says with a switch.
  bool any(std::string_view end) const {
    return std::ranges::any_of(file_.tensors(),
                               [end](const auto& t) { return t.first.starts_with("blk.") && t.first.ends_with(end); });
  }

  Result<void> only_known_keys() const {
    constexpr std::string_view known[] = {"context_length",
                                          "embedding_length",
                                          "block_count",
                                          "feed_forward_length",
                                          "vocab_size",
                                          "attention.head_count",
                                          "attention.head_count_kv",
                                          "attention.key_length",
                                          "attention.value_length",
                                          "attention.layer_norm_rms_epsilon",
                                          "attention.layer_norm_epsilon",
                                          "rope.freq_base",
                                          "rope.dimension_count",
                                          "rope.scaling.finetuned",
                                          "ssm.conv_kernel",
                                          "ssm.inner_size",
                                          "ssm.state_size",
                                          "ssm.time_step_rank",
                                          "ssm.group_count",
                                          "ssm.dt_b_c_rms",
                                          "shortconv.l_cache"};
    constexpr std::string_view of_mixtures[] = {"expert_count", "expert_used_count"};
    constexpr std::string_view of_granite[] = {"expert_shared_feed_forward_length", "attention.scale",
                                               "embedding_scale", "residual_scale", "logit_scale"};
    const bool granite = family_.family == Family::granitemoehybrid;
    const bool mixture = granite || family_.family == Family::jamba;
    for (const auto& [key, value] : file_.metadata()) {
      if (!key.starts_with(at_)) continue;
      const std::string_view rest = std::string_view(key).substr(at_.size());
      if (std::ranges::find(known, rest) != std::end(known)) continue;
      if (mixture && std::ranges::find(of_mixtures, rest) != std::end(of_mixtures)) continue;
      if (granite && std::ranges::find(of_granite, rest) != std::end(of_granite)) continue;
      if (rest.starts_with("expert_")) {  // of mixtures of experts, or of other kinds of them
        KLENS_TRY([[maybe_unused]] const std::int64_t none, file_.integer(key, 0, 0));
      } else if (rest == "rope.scaling.type") {
        KLENS_TRY(const std::string type, file_.string(key));
        if (type != "none") return file_.fault(key, "'none'", "'" + shown(type, 40) + "'", ErrorCode::unsupported);
      } else if (rest == "attention.causal") {
        KLENS_TRY(const bool causal, file_.boolean_or(key, true));
        if (!causal) return file_.fault(key, "true", "false", ErrorCode::unsupported);
      } else {
        return file_.fault(key, "only keys that klens reads", value.text(), ErrorCode::unsupported);
      }
    }
    return {};
  }

  Result<void> copy(std::string_view from, const char* to, std::int64_t min, std::int64_t max) {
    KLENS_TRY(json_[to], integer(from, min, max));
    return {};
  }

  /// Sizes of Mamba-2 heads: inner channels, heads, groups.
  struct Ssd {
    std::int64_t inner, heads, width, groups, state, taps;
  };
  Result<Ssd> ssd() const {
    Ssd s{};
    KLENS_TRY(s.inner, integer("ssm.inner_size", 1, largest));
    KLENS_TRY(s.heads, integer("ssm.time_step_rank", 1, 4096));
    if (s.inner % s.heads != 0)
      return file_.fault(at_ + "ssm.time_step_rank", "heads that divide ssm.inner_size " + std::to_string(s.inner),
                         std::to_string(s.heads));
    s.width = s.inner / s.heads;
    KLENS_TRY(s.groups, integer("ssm.group_count", 1, 4096));
    KLENS_TRY(s.state, integer("ssm.state_size", 1, 4096));
    KLENS_TRY(s.taps, integer("ssm.conv_kernel", 1, 64));
    return s;
  }

  Result<void> expand(std::int64_t inner, const char* to = "expand") {
    if (inner % hidden_ != 0)
      return file_.fault(at_ + "ssm.inner_size", "a multiple of " + std::to_string(hidden_), std::to_string(inner),
                         ErrorCode::unsupported);
    json_[to] = inner / hidden_;
    return {};
  }

  void mamba_biases() {
    json_["layer_norm_epsilon"] = eps_;
    json_["use_conv_bias"] = any(".ssm_conv1d.bias"), json_["use_bias"] = any(".ssm_in.bias");
  }

  Result<void> mamba() {
    KLENS_OK(copy("ssm.inner_size", "intermediate_size", 1, largest));
    KLENS_OK(copy("ssm.state_size", "state_size", 1, 4096));
    KLENS_OK(copy("ssm.conv_kernel", "conv_kernel", 1, 64));
    KLENS_OK(copy("ssm.time_step_rank", "time_step_rank", 1, largest));
    KLENS_TRY(const bool normed, file_.boolean_or(at_ + "ssm.dt_b_c_rms", false));
    if (normed) json_["model_type"] = name_of(Family::falcon_mamba);
    mamba_biases();
    return {};
  }

  Result<void> mamba2() {
    KLENS_TRY(const Ssd s, ssd());
    json_["num_heads"] = s.heads, json_["head_dim"] = s.width, json_["n_groups"] = s.groups;
    json_["state_size"] = s.state, json_["conv_kernel"] = s.taps;
    KLENS_OK(expand(s.inner));
    mamba_biases();
    return {};
  }

  /// Heads per layer, 0 where it has no attention; head_dim if the file says it.
  Result<std::vector<std::int64_t>> attention(bool rope) {
    KLENS_TRY(const std::vector<std::int64_t> heads, file_.integers(at_ + "attention.head_count", layers_, 0, 4096));
    KLENS_TRY(const std::vector<std::int64_t> kv, file_.integers(at_ + "attention.head_count_kv", layers_, 0, 4096));
    for (std::size_t l = 0; l < kv.size(); ++l) {
      if (kv[l] == 0) continue;
      if ((heads_ != 0 && heads_ != heads[l]) || (kv_heads_ != 0 && kv_heads_ != kv[l]) || heads[l] == 0)
        return file_.fault(at_ + "attention.head_count", "equal heads in all layers with attention",
                           "others in layer " + std::to_string(l), ErrorCode::unsupported);
      heads_ = heads[l], kv_heads_ = kv[l];
    }
    if (heads_ == 0) return kv;
    json_["num_attention_heads"] = heads_, json_["num_key_value_heads"] = kv_heads_;
    std::int64_t width = hidden_ / heads_;
    if (file_.has(at_ + "attention.key_length")) {
      KLENS_TRY(width, integer("attention.key_length", 1, largest));
      KLENS_TRY(const std::int64_t values, file_.integer_or(at_ + "attention.value_length", width, 1, largest));
      if (values != width)
        return file_.fault(at_ + "attention.value_length", std::to_string(width) + ", as key_length",
                           std::to_string(values), ErrorCode::unsupported);
    }
    json_["head_dim"] = width;
    if (!rope) return kv;
    KLENS_TRY(json_["rope_theta"], file_.number(at_ + "rope.freq_base", 1, 1e12));
    KLENS_TRY(const std::int64_t turned, file_.integer_or(at_ + "rope.dimension_count", width, 1, largest));
    if (turned != width)
      return file_.fault(at_ + "rope.dimension_count", std::to_string(width) + ", the width of a head",
                         std::to_string(turned), ErrorCode::unsupported);
    return kv;
  }

  Result<void> lfm2() {
    json_["norm_eps"] = eps_, json_["block_auto_adjust_ff_dim"] = false;
    KLENS_OK(copy("feed_forward_length", "intermediate_size", 1, largest));
    KLENS_OK(copy("shortconv.l_cache", "conv_L_cache", 1, 64));
    KLENS_TRY(const std::vector<std::int64_t> kv, attention(true));
    Json kinds = Json::array();
    for (const std::int64_t heads : kv) kinds.push_back(heads > 0 ? "full_attention" : "conv");
    json_["layer_types"] = std::move(kinds);
    json_["conv_bias"] = any(".shortconv.conv.bias");
    // The family has no key for the width of a head.
    if (heads_ != 0 && json_["head_dim"] != hidden_ / heads_)
      return file_.fault(at_ + "attention.key_length", std::to_string(hidden_ / heads_), json_["head_dim"].dump(),
                         ErrorCode::unsupported);
    return {};
  }

  Result<void> falcon_h1() {
    KLENS_TRY(const Ssd s, ssd());
    json_["mamba_d_ssm"] = s.inner, json_["mamba_n_heads"] = s.heads, json_["mamba_d_head"] = s.width;
    json_["mamba_n_groups"] = s.groups, json_["mamba_d_state"] = s.state, json_["mamba_d_conv"] = s.taps;
    json_["rms_norm_eps"] = eps_;
    KLENS_OK(copy("feed_forward_length", "intermediate_size", 1, largest));
    KLENS_TRY([[maybe_unused]] const std::vector<std::int64_t> kv, attention(true));
    json_["mamba_rms_norm"] = any(".ssm_norm.weight"),
    json_["mamba_norm_before_gate"] = false;  // as llama.cpp computes it
    json_["mamba_conv_bias"] = any(".ssm_conv1d.bias"), json_["mamba_proj_bias"] = any(".ssm_in.bias");
    json_["projectors_bias"] = any(".ssm_out.bias"), json_["attention_bias"] = any(".attn_q.bias"),
    json_["mlp_bias"] = any(".ffn_up.bias");
    return {};
  }

  Result<void> nemotron_h() {
    json_["layer_norm_epsilon"] = eps_;
    KLENS_TRY(const std::vector<std::int64_t> kv, attention(false));
    KLENS_TRY(const std::vector<std::int64_t> ffn, file_.integers(at_ + "feed_forward_length", layers_, 0, largest));
    std::int64_t width = 0;
    Json kinds = Json::array();
    bool scans = false;
    for (std::size_t l = 0; l < kv.size(); ++l) {
      if (ffn[l] != 0 && ((width != 0 && width != ffn[l]) || kv[l] != 0))
        return file_.fault(at_ + "feed_forward_length", "one width, in layers without attention",
                           "another in layer " + std::to_string(l), ErrorCode::unsupported);
      width = ffn[l] != 0 ? ffn[l] : width;
      scans |= kv[l] == 0 && ffn[l] == 0;
      kinds.push_back(kv[l] != 0 ? "attention" : ffn[l] != 0 ? "mlp" : "mamba");
    }
    json_["layers_block_type"] = std::move(kinds);
    if (width != 0) json_["intermediate_size"] = width;
    if (scans) {
      KLENS_TRY(const Ssd s, ssd());
      json_["mamba_num_heads"] = s.heads, json_["mamba_head_dim"] = s.width, json_["n_groups"] = s.groups;
      json_["ssm_state_size"] = s.state, json_["conv_kernel"] = s.taps;
    }
    json_["use_conv_bias"] = any(".ssm_conv1d.bias"), json_["use_bias"] = any(".ssm_in.bias"),
    json_["mlp_bias"] = any(".ffn_up.bias");
    if (any(".attn_q.bias")) json_["attention_bias"] = true;
    return {};
  }

  /// The layers `at`, as jamba's config says them: those whose number divided by a period leaves `offset`.
  Result<void> every(const std::vector<char>& at, const std::string& kind, const std::string& from) {
    const std::int64_t offset = std::ranges::find(at, char(1)) - at.begin();
    for (std::int64_t period = offset + 1; period <= layers_ + 1; ++period) {
      bool fits = true;
      for (std::int64_t l = 0; l < layers_; ++l) fits &= (l % period == offset) == (at[std::size_t(l)] != 0);
      if (!fits) continue;
      json_[kind + "_layer_period"] = period, json_[kind + "_layer_offset"] = offset;
      return {};
    }
    return file_.fault(from, "layers at equal distances", "others", ErrorCode::unsupported);
  }

  Result<void> jamba() {
    json_["rms_norm_eps"] = eps_;
    KLENS_OK(copy("feed_forward_length", "intermediate_size", 1, largest));
    KLENS_TRY(const std::vector<std::int64_t> kv, attention(false));
    std::vector<char> attends, mixes;
    for (std::int64_t l = 0; l < layers_; ++l) {
      attends.push_back(kv[std::size_t(l)] != 0);
      mixes.push_back(file_.tensor("blk." + std::to_string(l) + ".ffn_gate_inp.weight") != nullptr);
    }
    KLENS_OK(every(attends, "attn", at_ + "attention.head_count_kv"));
    KLENS_OK(every(mixes, "expert", "ffn_gate_inp"));
    KLENS_TRY(const std::int64_t experts, file_.integer_or(at_ + "expert_count", 0, 0, most_experts));
    json_["num_experts"] = std::max<std::int64_t>(experts, 1);
    if (experts > 1) KLENS_OK(copy("expert_used_count", "num_experts_per_tok", 1, experts));
    KLENS_TRY(const std::int64_t inner, integer("ssm.inner_size", 1, largest));
    KLENS_OK(expand(inner, "mamba_expand"));
    KLENS_OK(copy("ssm.state_size", "mamba_d_state", 1, 4096));
    KLENS_OK(copy("ssm.conv_kernel", "mamba_d_conv", 1, 64));
    KLENS_OK(copy("ssm.time_step_rank", "mamba_dt_rank", 1, largest));
    json_["mamba_conv_bias"] = any(".ssm_conv1d.bias"), json_["mamba_proj_bias"] = any(".ssm_in.bias");
    return {};
  }

  /// A multiplier; 0, as none, means 1. The shortest decimals that give the file's float: 1.9, where it came from 1.9.
  Result<void> multiplier(std::string_view from, const char* to) {
    const std::string key = at_ + std::string(from);
    if (!file_.has(key)) return {};
    KLENS_TRY(const double x, file_.number(key, -1e6, 1e6));
    if (x == 0) return {};
    char text[32];
    const auto end = std::to_chars(text, text + sizeof text, float(x)).ptr;
    double decimal = x;
    std::from_chars(text, end, decimal);
    json_[to] = decimal;
    return {};
  }

  Result<void> granite() {
    json_["rms_norm_eps"] = eps_;
    KLENS_TRY(const std::int64_t experts, file_.integer_or(at_ + "expert_count", 0, 0, most_experts));
    json_["num_local_experts"] = experts;
    KLENS_OK(copy("feed_forward_length", "intermediate_size", 1, largest));  // an expert's
    if (experts > 0) KLENS_OK(copy("expert_used_count", "num_experts_per_tok", 1, experts));
    const std::string shared = at_ + "expert_shared_feed_forward_length";
    json_["shared_intermediate_size"] = json_["intermediate_size"];
    if (experts > 0 || file_.has(shared)) {
      KLENS_TRY(json_["shared_intermediate_size"], file_.integer(shared, 1, largest));
    }
    // llama.cpp's switch for RoPE, whose converter writes false for all hybrids.
    KLENS_TRY(const bool rope, file_.boolean_or(at_ + "rope.scaling.finetuned", true));
    KLENS_TRY(const std::vector<std::int64_t> kv, attention(rope));
    json_["position_embedding_type"] = rope ? "rope" : "nope";
    Json kinds = Json::array();
    for (const std::int64_t heads : kv) kinds.push_back(heads > 0 ? "attention" : "mamba");
    json_["layer_types"] = std::move(kinds);
    json_["attention_bias"] = any(".attn_q.bias");
    if (heads_ != 0) json_["attention_multiplier"] = 1 / std::sqrt(json_["head_dim"].get<double>());
    KLENS_OK(multiplier("attention.scale", "attention_multiplier"));
    KLENS_OK(multiplier("embedding_scale", "embedding_multiplier"));
    KLENS_OK(multiplier("residual_scale", "residual_multiplier"));
    KLENS_OK(multiplier("logit_scale", "logits_scaling"));
    if (std::ranges::find(kv, 0) == kv.end()) return {};
    KLENS_TRY(const Ssd s, ssd());
    KLENS_OK(expand(s.inner, "mamba_expand"));
    json_["mamba_n_heads"] = s.heads, json_["mamba_d_head"] = s.width, json_["mamba_n_groups"] = s.groups;
    json_["mamba_d_state"] = s.state, json_["mamba_d_conv"] = s.taps;
    json_["mamba_conv_bias"] = any(".ssm_conv1d.bias"), json_["mamba_proj_bias"] = any(".ssm_in.bias");
    return {};
  }

  const GgufFile& file_;
  const GgufFamily& family_;
  std::string at_;
  Json json_ = Json::object();
  std::int64_t layers_ = 0, hidden_ = 0, heads_ = 0, kv_heads_ = 0;
  double eps_ = 0;
};

}  // namespace detail
}  // namespace klens
