// The config.json of state-spaces' own checkpoints (state-spaces/mamba-130m .. mamba2-2.7b, mamba3-siso-1.5b), which has no
// model_type, as the one that transformers would have: fields and defaults of MambaConfig, Mamba, Mamba2 and Mamba3 of the package
// mamba_ssm 2.
//   ssm_cfg.layer: "Mamba1" (or none) -> mamba, "Mamba2" -> mamba2, where attn_layer_idx and attn_cfg stay (mamba2attn-2.7b);
//   "Mamba3" -> mamba3 (model/mamba3.hpp), d_intermediate rounded up to a multiple of 128 as the package's MLP does
//   vocab_size is rounded up to pad_vocab_size_multiple, as the embedding's rows are;  norms have eps 1e-5, which no field changes
// A field that changes the arithmetic and has no counterpart is an error that names it, and so is one that is not known
// (the original refuses it too). Fields of initial values, fused kernels and chunk sizes do not matter here. Tests:
// tests/model/original.cpp.
#pragma once

#include <klens/io/config_limits.hpp>
#include <klens/io/json.hpp>

#include <algorithm>
#include <initializer_list>
#include <string>
#include <string_view>

namespace klens {

inline bool is_original_config(const Json& c) {
  return c.is_object() && !c.contains("model_type") && c.contains("d_model") && c.contains("n_layer");
}

namespace detail {

/// Every key of an object is one of these.
inline Result<void> only_original_keys(const Json& object, const std::string& where,
                                       std::initializer_list<std::string_view> known) {
  for (const auto& [key, value] : object.items())
    if (std::ranges::find(known, key) == known.end())
      return Error{ErrorCode::unsupported, where + ": '" + clip(key, 80) + "'",
                   "only fields of mamba_ssm's MambaConfig", describe(value)};
  return {};
}

/// A field that must be absent, null or empty, or what its absence means.
inline Result<void> only_default(const Json& object, std::string_view key, const std::string& where,
                                 const Json& value) {
  const Json* v = find_key(object, key);
  if (v == nullptr || v->is_null() || *v == value) return {};
  Error e = key_error(v, key, where, value.is_structured() ? "none" : to_text(value, -1));
  e.code = ErrorCode::unsupported;
  return e;
}

inline Result<void> read_original_mamba(const Json& ssm, const std::string& at, std::int64_t width, Json& out) {
  KLENS_OK(only_original_keys(ssm, at,
                              {"layer", "d_state", "d_conv", "expand", "dt_rank", "conv_bias", "bias", "dt_min",
                               "dt_max", "dt_init", "dt_scale", "dt_init_floor", "use_fast_path"}));
  out["model_type"] = "mamba";
  KLENS_TRY(out["state_size"], json_int_or(ssm, "d_state", at, 16, 1, 4096));
  const Json* rank = find_key(ssm, "dt_rank");
  if (rank == nullptr || rank->is_null() || *rank == "auto") {
    out["time_step_rank"] = (width + 15) / 16;
  } else {
    KLENS_TRY(out["time_step_rank"], json_int(ssm, "dt_rank", at, 1, max_width));
  }
  return {};
}

/// Groups and heads of Mamba-2 and Mamba-3 over `inner` channels.
inline Result<void> read_original_heads(const Json& ssm, const std::string& at, std::int64_t inner, Json& out) {
  KLENS_TRY(out["n_groups"], json_int_or(ssm, "ngroups", at, 1, 1, max_heads));
  KLENS_TRY(const std::int64_t head, json_int_or(ssm, "headdim", at, 64, 1, 4096));
  if (inner % head != 0)
    return key_error(find_key(ssm, "headdim"), "headdim", at, "a divisor of " + std::to_string(inner) + " channels");
  out["head_dim"] = head, out["num_heads"] = inner / head;
  return {};
}

inline Result<void> read_original_mamba2(const Json& ssm, const std::string& at, std::int64_t inner, Json& out) {
  KLENS_OK(
      only_original_keys(ssm, at, {"layer",    "d_state",   "d_conv",        "expand",           "headdim",
                                   "ngroups",  "d_ssm",     "rmsnorm",       "norm_before_gate", "D_has_hdim",
                                   "dt_limit", "conv_bias", "bias",          "conv_init",        "A_init_range",
                                   "dt_min",   "dt_max",    "dt_init_floor", "chunk_size",       "use_mem_eff_path"}));
  out["model_type"] = "mamba2";
  KLENS_TRY(out["state_size"], json_int_or(ssm, "d_state", at, 128, 1, 4096));
  KLENS_OK(read_original_heads(ssm, at, inner, out));
  KLENS_OK(only_default(ssm, "d_ssm", at, inner));
  KLENS_OK(only_default(ssm, "rmsnorm", at, true));
  KLENS_OK(only_default(ssm, "norm_before_gate", at, false));
  KLENS_OK(only_default(ssm, "D_has_hdim", at, false));
  if (const Json* limit = find_key(ssm, "dt_limit"); limit != nullptr && !limit->is_null())
    out["time_step_limit"] = *limit;
  return {};
}

/// The published checkpoints' Mamba3. The package on PyPI (2.3.2) has another rate of the decay than they were trained with, and
/// no field that says so.
inline Result<void> read_original_mamba3(const Json& c, const Json& ssm, const std::string& where, const std::string& at, std::int64_t inner,
                                         Json& out) {
  KLENS_OK(only_original_keys(ssm, at,
                              {"layer", "d_state", "expand", "headdim", "ngroups", "rope_fraction", "dt_min", "dt_max", "dt_init_floor",
                               "A_floor", "is_outproj_norm", "is_mimo", "mimo_rank", "chunk_size"}));
  out["model_type"] = "mamba3";
  KLENS_TRY(out["state_size"], json_int_or(ssm, "d_state", at, 128, 2, 4096));
  KLENS_OK(read_original_heads(ssm, at, inner, out));
  KLENS_TRY(const double turned, json_number_or(ssm, "rope_fraction", at, 0.5));
  if (turned != 0.5 && turned != 1.0) return key_error(find_key(ssm, "rope_fraction"), "rope_fraction", at, "0.5 or 1");
  out["rope_fraction"] = turned;
  KLENS_TRY(out["A_floor"], json_number_or(ssm, "A_floor", at, 1e-4));
  KLENS_TRY(out["is_outproj_norm"], json_bool_or(ssm, "is_outproj_norm", at, false));
  KLENS_OK(only_default(ssm, "is_mimo", at, false));
  KLENS_TRY(const std::int64_t mlp, json_int_or(c, "d_intermediate", where, 0, 0, max_width));
  out["intermediate_size"] = (mlp + 127) / 128 * 128;
  return only_default(c, "attn_layer_idx", where, Json::array());
}

/// Layers of attention between (mamba_ssm.modules.mha): checked, with its defaults filled in.
inline Result<void> read_original_attention(const Json& c, const std::string& where, std::int64_t width, Json& out) {
  const Json* layers = find_key(c, "attn_layer_idx");
  if (layers == nullptr || layers->is_null() || layers->empty()) return {};
  if (!layers->is_array()) return key_error(layers, "attn_layer_idx", where, "an array");
  KLENS_TRY(const Json* const given, json_object(c, "attn_cfg", where));
  const std::string at = where + ": 'attn_cfg'";
  KLENS_OK(only_original_keys(*given, at,
                              {"num_heads", "num_heads_kv", "head_dim", "mlp_dim", "qkv_proj_bias", "out_proj_bias", "softmax_scale",
                               "causal", "d_conv", "rotary_emb_dim", "rotary_emb_base", "rotary_emb_interleaved"}));
  Json a = Json::object();
  KLENS_TRY(a["num_heads"], json_int(*given, "num_heads", at, 1, max_heads));
  const std::int64_t heads = a["num_heads"].get<std::int64_t>();
  KLENS_TRY(a["num_heads_kv"], json_int_or(*given, "num_heads_kv", at, heads, 1, max_heads));
  KLENS_TRY(a["head_dim"], json_int_or(*given, "head_dim", at, std::max<std::int64_t>(width / heads, 1), 1, 4096));
  if (json_absent(*given, "head_dim") && width % heads != 0)
    return key_error(find_key(*given, "num_heads"), "num_heads", at, "a divisor of d_model " + std::to_string(width) + ", or head_dim");
  KLENS_TRY(a["d_conv"], json_int_or(*given, "d_conv", at, 0, 0, 4));
  if (a["d_conv"] != out["conv_kernel"])
    return key_error(find_key(*given, "d_conv"), "d_conv", at, "ssm_cfg's, " + to_text(out["conv_kernel"], -1));
  if (out["use_conv_bias"] != true) return key_error(find_key(c, "ssm_cfg"), "ssm_cfg", where, "conv_bias, which the attention layers have");
  KLENS_TRY(a["rotary_emb_dim"], json_int_or(*given, "rotary_emb_dim", at, 0, 0, a["head_dim"].get<std::int64_t>()));
  KLENS_TRY(a["rotary_emb_base"], json_number_or(*given, "rotary_emb_base", at, 10000.0, 1.0, 1e12));
  KLENS_TRY(a["qkv_proj_bias"], json_bool_or(*given, "qkv_proj_bias", at, true));
  KLENS_TRY(const bool out_bias, json_bool_or(*given, "out_proj_bias", at, true));
  if (a["qkv_proj_bias"] != out_bias) return key_error(find_key(*given, "out_proj_bias"), "out_proj_bias", at, "as qkv_proj_bias");
  KLENS_TRY(const bool causal, json_bool_or(*given, "causal", at, false));
  if (!causal) return key_error(find_key(*given, "causal"), "causal", at, "true");
  KLENS_OK(only_default(*given, "mlp_dim", at, 0));
  KLENS_OK(only_default(*given, "softmax_scale", at, Json()));
  KLENS_OK(only_default(*given, "rotary_emb_interleaved", at, false));
  out["attn_layer_idx"] = *layers, out["attn_cfg"] = a;
  return {};
}

}  // namespace detail

/// The same model in transformers' fields. `where` begins every error.
inline Result<Json> from_original_config(const Json& c, const std::string& where) {
  using namespace klens::detail;
  KLENS_OK(only_original_keys(
      c, where,
      {"d_model", "d_intermediate", "n_layer", "vocab_size", "ssm_cfg", "attn_layer_idx", "attn_cfg", "rms_norm",
       "residual_in_fp32", "fused_add_norm", "pad_vocab_size_multiple", "tie_embeddings"}));
  KLENS_OK(only_default(c, "rms_norm", where, true));     // false: LayerNorm
  Json out = Json::object();
  KLENS_TRY(const std::int64_t width, json_int(c, "d_model", where, 1, max_width));
  KLENS_TRY(out["num_hidden_layers"], json_int(c, "n_layer", where, 1, max_layers));
  KLENS_TRY(const std::int64_t vocab, json_int(c, "vocab_size", where, 1, max_vocab));
  KLENS_TRY(const std::int64_t multiple, json_int_or(c, "pad_vocab_size_multiple", where, 8, 1, max_vocab));
  out["hidden_size"] = width, out["vocab_size"] = (vocab + multiple - 1) / multiple * multiple;
  KLENS_TRY(out["tie_word_embeddings"], json_bool_or(c, "tie_embeddings", where, true));
  out["layer_norm_epsilon"] = 1e-5;

  const Json none = Json::object();
  const Json* ssm = json_absent(c, "ssm_cfg") ? &none : find_key(c, "ssm_cfg");
  if (!ssm->is_object()) return key_error(ssm, "ssm_cfg", where, "an object");
  const std::string at = where + ": 'ssm_cfg'";
  KLENS_TRY(const std::int64_t expand, json_int_or(*ssm, "expand", at, 2, 1, 64));
  KLENS_TRY(const std::string layer, json_string_or(*ssm, "layer", at, "Mamba1"));
  if (layer == "Mamba3") {
    KLENS_OK(read_original_mamba3(c, *ssm, where, at, expand * width, out));
    return out;
  }
  KLENS_OK(only_default(c, "d_intermediate", where, 0));  // gated MLPs between
  out["expand"] = expand;
  KLENS_TRY(out["conv_kernel"], json_int_or(*ssm, "d_conv", at, 4, 2, 4));
  KLENS_TRY(out["use_conv_bias"], json_bool_or(*ssm, "conv_bias", at, true));
  KLENS_TRY(out["use_bias"], json_bool_or(*ssm, "bias", at, false));
  if (layer == "Mamba1") {
    KLENS_OK(only_default(c, "attn_layer_idx", where, Json::array()));
    KLENS_OK(read_original_mamba(*ssm, at, width, out));
  } else if (layer == "Mamba2") {
    KLENS_OK(read_original_mamba2(*ssm, at, expand * width, out));
    KLENS_OK(read_original_attention(c, where, width, out));
  } else {
    Error e = key_error(find_key(*ssm, "layer"), "layer", at, "'Mamba1', 'Mamba2' or 'Mamba3'");
    e.code = ErrorCode::unsupported;
    return e;
  }
  return out;
}

}  // namespace klens
