// Checkpoints in other spellings and containers: state-spaces' own (tests/data/original), names under other prefixes,
// shards. Each gives the bits of the same weights under transformers' names in one model.safetensors. And the configs
// that Hymba, Mamba and Mamba-2 were published with give the published sizes.
#include "fixture.hpp"
#include "io/fuzz.hpp"

#include <klens/lens/float64_forward.hpp>
#include <klens/plan/budget.hpp>

#include <fstream>

using namespace fixture;
namespace fs = std::filesystem;

namespace {

const std::string own = std::string(KLENS_TEST_DATA) + "/families",
                  originals = std::string(KLENS_TEST_DATA) + "/original";

struct Tensor {
  std::string name;
  klens::DType type;
  std::vector<std::int64_t> shape;
  std::vector<std::byte> data;
};

void write_tensors(const std::string& file, const std::vector<Tensor>& tensors) {
  std::vector<klens::TensorSpec> specs;
  for (const Tensor& t : tensors) specs.push_back({t.name, t.type, t.shape});
  auto writer = need(klens::SafetensorsWriter::create(file, specs));
  for (const Tensor& t : tensors) need(writer.append(std::span<const std::byte>(t.data)));
  need(writer.finish());
}

std::vector<Tensor> read_tensors(const std::string& folder) {
  const auto source = need(klens::Safetensors::open(folder));
  std::vector<Tensor> all;
  for (const auto& [name, t] : source.tensors())
    all.push_back({name, t.dtype, t.shape, {t.data.begin(), t.data.end()}});
  return all;
}

std::string text_of(const std::string& file) {
  std::ifstream in(file);
  REQUIRE(in.good());
  return {std::istreambuf_iterator<char>(in), {}};
}
void put(const std::string& file, const std::string& text) { std::ofstream(file) << text; }

/// The model of tests/data/families that tests/data/original/make.py began with, cut and rounded as it says, under
/// transformers' names. No reader or config of the other spelling is involved.
void write_transformers(const std::string& name, const std::string& folder, bool tied) {
  std::vector<Tensor> kept;
  for (Tensor& t : read_tensors(own + "/" + name)) {
    if (t.name.starts_with("backbone.layers.2.") || (tied && t.name == "lm_head.weight")) continue;
    REQUIRE(t.type == klens::DType::f32);
    std::vector<std::byte> half(t.data.size() / 2);
    for (std::size_t i = 0; i < half.size() / 2; ++i) {
      float value;
      std::memcpy(&value, t.data.data() + 4 * i, 4);
      const klens::half h = klens::to_half(value);
      std::memcpy(half.data() + 2 * i, &h, 2);
    }
    kept.push_back({t.name, klens::DType::f16, t.shape, half});
  }
  write_tensors(folder + "/model.safetensors", kept);
  auto config = klens::Json::parse(text_of(own + "/" + name + "/config.json"));
  config["num_hidden_layers"] = 2, config["layer_norm_epsilon"] = 1e-5, config["tie_word_embeddings"] = tied;
  put(folder + "/config.json", config.dump());
}

std::vector<std::int32_t> some_ids(std::int64_t vocab) {
  std::vector<std::int32_t> ids;
  for (int i = 0; i < (is_ref() ? 9 : 33); ++i) ids.push_back(std::int32_t((i * 29 + 7) % vocab));
  return ids;
}

/// Logits of all tokens, the first `columns` of each.
std::vector<float> logits_of(const klens::Model& model, const std::vector<std::int32_t>& ids, std::int64_t columns) {
  klens::Session session = open(model);
  const std::int64_t vocab = model.shape().vocab, stride = klens::logit_stride(model.shape());
  std::vector<float> wide(ids.size() * std::size_t(stride)), out;
  need(session.prefill(ids, {.logits = {wide.data(), std::int64_t(ids.size()), vocab, stride}}));
  for (std::size_t t = 0; t < ids.size(); ++t)
    out.insert(out.end(), wide.begin() + std::ptrdiff_t(t) * stride,
               wide.begin() + std::ptrdiff_t(t) * stride + columns);
  return out;
}

std::string error_of(const std::string& path) {
  const auto model = klens::load_model(path);
  REQUIRE_FALSE(bool(model));
  return model.error().message().substr(path.size());
}

std::string with(std::string text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  REQUIRE(at != std::string::npos);
  return text.replace(at, from.size(), to);
}

klens::RuntimePlan skeleton_of(const std::string& config) {
  return need(klens::read_skeleton(need(klens::parse_config(config, "config.json"))));
}

}  // namespace

TEST_CASE("original: state-spaces' own mamba and mamba2 give the bits of transformers' spelling") {
  for (const std::string name : {"mamba", "mamba2"}) {
    CAPTURE(name);
    const TempFolder folder;
    const bool tied = name == "mamba";
    write_transformers(name, folder.path(), tied);
    klens::Model theirs = need(klens::load_model(folder.path())),
                 original = need(klens::load_model(originals + "/" + name));
    CHECK(original.family() == theirs.family());
    CHECK(theirs.shape().vocab == 93);
    CHECK(original.shape().vocab ==
          (tied ? 93 : 96));  // rows that fill up to pad_vocab_size_multiple are rows like others
    CHECK(original.shape().tied_head == tied);
    CHECK(original.shape().layers == 2);
    REQUIRE(original.components().size() == theirs.components().size());
    for (std::size_t c = 0; c < original.components().size(); ++c)
      CHECK(original.components()[c].name == theirs.components()[c].name);
    const std::vector<std::int32_t> ids = some_ids(93);
    for (const char* format_name : {"", "w4g32a8"}) {
      CAPTURE(format_name);
      if (*format_name != '\0') {
        need(theirs.set_uniform(format(format_name)));
        need(original.set_uniform(format(format_name)));
      }
      const std::vector<float> expected = logits_of(theirs, ids, 93);
      std::vector<float> mine = logits_of(original, ids, 93);
      CHECK(same_bits(expected, mine));
      mine[mine.size() / 3] = std::nextafter(mine[mine.size() / 3], 1e9f);  // tripwire
      CHECK_FALSE(same_bits(expected, mine));
    }
    // A packed file keeps the config as it came, and what it means.
    need(original.write(folder.path() + "/m.klens", {}));
    const klens::Model packed = need(klens::load_model(folder.path() + "/m.klens"));
    CHECK(same_bits(logits_of(packed, ids, 93), logits_of(original, ids, 93)));
    CHECK(packed.config().text == text_of(originals + "/" + name + "/config.json"));
    if (is_ref()) continue;
    // The float64 forward reads it too.
    need(original.set_reference());
    const auto exact = need(klens::Float64Forward::open(originals + "/" + name, original.plan()));
    const std::vector<double> wide = need(exact.logits(ids, {}));
    const std::vector<float> rounded(wide.begin(), wide.end());
    CHECK(logits_agree(distance(logits_of(original, ids, original.shape().vocab), rounded, rounded.size())));
  }
}

TEST_CASE("original: a field that changes the arithmetic is read, or an error that names it") {
  const TempFolder folder;
  const std::string config = folder.path() + "/config.json", mamba2 = text_of(originals + "/mamba2/config.json"),
                    mamba = text_of(originals + "/mamba/config.json");
  fs::copy_file(originals + "/mamba2/pytorch_model.bin", folder.path() + "/pytorch_model.bin");
  const auto fails = [&](const std::string& from, const std::string& to) {
    put(config, with(mamba2, from, to));
    return error_of(folder.path());
  };
  // Attention between: what mamba_ssm's MHA can do beyond ours.
  const auto attention = [&](const std::string& fields) {
    return fails("\"attn_layer_idx\": [], \"attn_cfg\": {}", "\"attn_layer_idx\": [1], \"attn_cfg\": {" + fields + "}");
  };
  const std::string good = "\"num_heads\": 3, \"d_conv\": 4, \"causal\": true";
  CHECK(attention("").starts_with("/config.json: 'attn_cfg': 'num_heads': expected"));
  CHECK(attention("\"num_heads\": 3, \"d_conv\": 4").starts_with("/config.json: 'attn_cfg': 'causal': expected true"));
  CHECK(attention("\"num_heads\": 3, \"causal\": true").starts_with("/config.json: 'attn_cfg': 'd_conv': expected ssm_cfg's, 4"));
  CHECK(attention(good + ", \"mlp_dim\": 8") == "/config.json: 'attn_cfg': 'mlp_dim': expected 0, found 8");
  CHECK(attention(good + ", \"out_proj_bias\": false").starts_with("/config.json: 'attn_cfg': 'out_proj_bias': expected as qkv_proj_bias"));
  CHECK(attention(good + ", \"rotary_emb_interleaved\": true") == "/config.json: 'attn_cfg': 'rotary_emb_interleaved': expected false, found true");
  CHECK(attention(good + ", \"heads\": 3").starts_with("/config.json: 'attn_cfg': 'heads': expected only fields of"));
  CHECK(attention(good).find("tensor 'backbone.layers.1.mixer.") != std::string::npos);   // the file beside it has no such layer
  CHECK(fails("\"d_intermediate\": 0", "\"d_intermediate\": 64") ==
        "/config.json: 'd_intermediate': expected 0, found 64");
  CHECK(fails("\"rms_norm\": true", "\"rms_norm\": false") == "/config.json: 'rms_norm': expected true, found false");
  CHECK(fails("\"Mamba2\"", "\"Mamba4\"") ==
        "/config.json: 'ssm_cfg': 'layer': expected 'Mamba1', 'Mamba2' or 'Mamba3', found a string 'Mamba4'");
  // Mamba-3: what mamba_ssm's can do beyond ours.
  const auto mamba3 = [&](const std::string& fields) {
    put(config, R"({"d_model": 40, "n_layer": 1, "vocab_size": 93, "ssm_cfg": {"layer": "Mamba3", "headdim": 10)" + fields + "}}");
    return error_of(folder.path());
  };
  CHECK(mamba3(", \"is_mimo\": true") == "/config.json: 'ssm_cfg': 'is_mimo': expected false, found true");
  CHECK(mamba3(", \"rope_fraction\": 0.25").starts_with("/config.json: 'ssm_cfg': 'rope_fraction': expected 0.5 or 1"));
  CHECK(mamba3(", \"d_conv\": 4").starts_with("/config.json: 'ssm_cfg': 'd_conv': expected only fields of"));
  CHECK(mamba3(", \"expand\": 3, \"headdim\": 25").starts_with("/config.json: "));
  CHECK(mamba3(", \"d_state\": 300").find("'state_size'") != std::string::npos);
  CHECK(mamba3(", \"d_state\": 15").find("shape.n_state") != std::string::npos);
  CHECK(mamba3(", \"A_floor\": 0").find("'A_floor'") != std::string::npos);
  CHECK(fails("\"headdim\": 24", "\"headdim\": 25") ==
        "/config.json: 'ssm_cfg': 'headdim': expected a divisor of 96 channels, found 25");
  CHECK(fails("\"bias\": true", "\"norm_before_gate\": true") ==
        "/config.json: 'ssm_cfg': 'norm_before_gate': expected false, found true");
  CHECK(fails("\"bias\": true", "\"d_ssm\": 48") == "/config.json: 'ssm_cfg': 'd_ssm': expected 96, found 48");
  CHECK(fails("\"bias\": true", "\"rmsnorm\": false") ==
        "/config.json: 'ssm_cfg': 'rmsnorm': expected true, found false");
  CHECK(fails("\"bias\": true", "\"D_has_hdim\": true") ==
        "/config.json: 'ssm_cfg': 'D_has_hdim': expected false, found true");
  CHECK(fails("\"bias\": true", "\"gain\": 2") ==
        "/config.json: 'ssm_cfg': 'gain': expected only fields of mamba_ssm's MambaConfig, found 2");
  CHECK(fails("\"rms_norm\"", "\"norm\": 1, \"rms_norm\"") ==
        "/config.json: 'norm': expected only fields of mamba_ssm's MambaConfig, found 1");
  CHECK(fails("\"d_state\": 20", "\"d_state\": 0") ==
        "/config.json: 'ssm_cfg': 'd_state': expected an integer in 1..4096, found 0");
  CHECK(fails("\"n_layer\": 2", "\"n_layer\": true") ==
        "/config.json: 'n_layer': expected an integer in 1..1024, found true");
  CHECK(fails("\"vocab_size\": 93", "\"vocab_size\": 97").find("(there 'backbone.embedding.weight')") !=
        std::string::npos);  // 104 rows
  CHECK(fails("\"ngroups\": 2, ", "").find("expected shape ") != std::string::npos);
  CHECK(fails("\"n_layer\": 2", "\"n_layer\": 3").find("expected tensor 'backbone.layers.2.") != std::string::npos);
  CHECK(fails("\"n_layer\": 2", "\"n_layer\": 1").find("found tensor 'backbone.layers.1.") != std::string::npos);
  // Mamba-1's defaults are the original's: rank ceil(d / 16), 16 states, 4 taps.
  const klens::RuntimePlan plain =
      skeleton_of(R"({"d_model": 40, "n_layer": 1, "vocab_size": 93, "ssm_cfg": {}, "rms_norm": true})");
  CHECK(plain.shape.dt_rank == 3);
  CHECK(plain.shape.n_state == 16);
  CHECK(plain.shape.conv_taps == 4);
  CHECK(plain.shape.inner == 80);
  CHECK(plain.shape.vocab == 96);
  CHECK(plain.shape.tied_head);
  CHECK(skeleton_of(with(mamba, "\"dt_rank\": 5", "\"dt_rank\": \"auto\"")).shape.dt_rank == 3);
}

TEST_CASE("original: damaged configs end in one clear error") {
  if (is_ref()) return;  // no kernel runs here: once is enough
  test::Mutator mutate(17);
  const int count = test::fuzz_count(500);
  int refused = 0;
  for (int i = 0; i < count; ++i) {
    const std::string good = text_of(originals + (i % 2 == 0 ? "/mamba2" : "/mamba") + "/config.json");
    const auto config = klens::parse_config(mutate(good, good.size()), "config.json");
    if (!config) {
      ++refused;
      test::check_clear(config.error().message(), "config.json");
    } else if (const auto skeleton = klens::read_skeleton(*config); !skeleton) {
      ++refused;
      test::check_clear(skeleton.error().message(), "config.json");
    }
  }
  CHECK(refused > count / 2);
  CHECK(refused < count);
}

TEST_CASE("original: names under any published prefix, and shards, give the same bits") {
  const TempFolder folder;
  for (const std::string name : {"mamba", "lfm2", "falcon_h1"}) {
    CAPTURE(name);
    const std::string from = own + "/" + name, prefix = name == "mamba" ? "backbone." : "model.";
    const klens::Model plain = need(klens::load_model(from));
    const std::vector<std::int32_t> ids = some_ids(plain.shape().vocab);
    const std::vector<float> expected = logits_of(plain, ids, plain.shape().vocab);
    fs::copy_file(from + "/config.json", folder.path() + "/config.json", fs::copy_options::overwrite_existing);
    const std::vector<Tensor> tensors = read_tensors(from);
    for (const std::string other : {"", "model.", "backbone.", "model.backbone."}) {
      CAPTURE(other);
      std::vector<Tensor> changed = tensors;
      for (Tensor& t : changed) {
        if (t.name.starts_with(prefix))
          t.name = other + t.name.substr(prefix.size());
        else if (other == "model.backbone.")
          t.name = "model." + t.name;  // its lm_head
      }
      write_tensors(folder.path() + "/model.safetensors", changed);
      const klens::Model model = need(klens::load_model(folder.path()));
      CHECK(same_bits(expected, logits_of(model, ids, model.shape().vocab)));
      if (is_ref()) break;
    }
    // A prefix that no one published is not guessed, and the names as they are in the file stand in the error.
    std::vector<Tensor> changed = tensors;
    for (Tensor& t : changed)
      if (t.name.starts_with(prefix)) t.name = "net." + t.name.substr(prefix.size());
    write_tensors(folder.path() + "/model.safetensors", changed);
    CHECK(error_of(folder.path()).find(": expected tensor '" + prefix + "layers.0.") == 0);
    // Shards, in three files of no order.
    fs::remove(folder.path() + "/model.safetensors");
    klens::Json index = {{"metadata", klens::Json::object()}, {"weight_map", klens::Json::object()}};
    std::vector<std::vector<Tensor>> parts(3);
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      parts[i % 3].push_back(tensors[i]);
      index["weight_map"][tensors[i].name] = "model-" + std::to_string(i % 3) + ".safetensors";
    }
    for (std::size_t p = 0; p < 3; ++p)
      write_tensors(folder.path() + "/model-" + std::to_string(p) + ".safetensors", parts[p]);
    put(folder.path() + "/model.safetensors.index.json", index.dump());
    const klens::Model sharded = need(klens::load_model(folder.path()));
    CHECK(same_bits(expected, logits_of(sharded, ids, sharded.shape().vocab)));
    fs::remove(folder.path() + "/model.safetensors.index.json");
    CHECK(error_of(folder.path()) ==
          ": expected model.safetensors, pytorch_model.bin or an index of either (.index.json), found none of them");
  }
}

TEST_CASE("original: two tensors of one name are refused") {
  const TempFolder folder;
  std::vector<Tensor> tensors = read_tensors(own + "/mamba");
  Tensor again = tensors[0];
  REQUIRE(again.name == "backbone.embeddings.weight");
  again.name = "backbone.embedding.weight";
  tensors.push_back(again);
  fs::copy_file(own + "/mamba/config.json", folder.path() + "/config.json");
  write_tensors(folder.path() + "/model.safetensors", tensors);
  CHECK(error_of(folder.path()).find("expected one tensor 'backbone.embeddings.weight', found another") !=
        std::string::npos);
}

TEST_CASE("original: the published configs give the published sizes") {
  struct Published {
    const char* layer;
    int width, layers, padded, multiple;
    std::int64_t parameters;
  };
  constexpr Published all[] = {
      {"", 768, 24, 50280, 8, 129135360},          {"", 1024, 48, 50280, 8, 371516416},
      {"", 1536, 48, 50280, 8, 793204224},         {"", 2048, 48, 50280, 8, 1372178432},
      {"", 2560, 64, 50280, 8, 2768345600},        {"Mamba2", 768, 24, 50288, 16, 128989632},
      {"Mamba2", 1024, 48, 50288, 16, 368346624},  {"Mamba2", 1536, 48, 50288, 16, 780161280},
      {"Mamba2", 2048, 48, 50288, 16, 1343757312}, {"Mamba2", 2560, 64, 50288, 16, 2702599680}};
  for (const Published& p : all) {
    CAPTURE(p.parameters);
    const std::string layer = *p.layer == '\0' ? "{}" : "{\"layer\": \"" + std::string(p.layer) + "\"}";
    const klens::RuntimePlan plan = skeleton_of(
        "{\"d_model\": " + std::to_string(p.width) + ", \"n_layer\": " + std::to_string(p.layers) +
        ", \"vocab_size\": 50277, \"ssm_cfg\": " + layer + ", \"rms_norm\": true, \"residual_in_fp32\": true, " +
        "\"fused_add_norm\": true, \"pad_vocab_size_multiple\": " + std::to_string(p.multiple) + "}");
    CHECK(plan.shape.vocab == p.padded);
    CHECK(klens::parameters(plan) == p.parameters);
  }
  // state-spaces/mamba3-siso-187m.
  CHECK(klens::parameters(skeleton_of(
            R"({"d_model": 768, "d_intermediate": 1536, "n_layer": 12, "vocab_size": 128256, "ssm_cfg": {"layer": "Mamba3"},
    "attn_layer_idx": [], "attn_cfg": {}, "rms_norm": true, "pad_vocab_size_multiple": 16, "tie_embeddings": true})")) == 186849600);

  // nvidia/Hymba-1.5B-Base: its config.json without the fields that klens has no use for.
  const std::string hymba = R"({"model_type": "hymba", "architectures": ["HymbaForCausalLM"], "hidden_size": 1600,
    "num_hidden_layers": 32, "num_attention_heads": 25, "num_key_value_heads": 5, "vocab_size": 32001,
    "intermediate_size": 5504, "mamba_d_state": 16, "mamba_d_conv": 4, "mamba_expand": 2, "mamba_dt_rank": 100,
    "mamba_conv_bias": true, "mamba_proj_bias": false, "mamba_inner_layernorms": true, "num_memory_tokens": 128,
    "rms_norm_eps": 1e-06, "rope": true, "rope_theta": 10000.0, "rope_type": "ntk", "max_position_embeddings": 8192,
    "orig_max_position_embeddings": 2048, "seq_length": 8192, "sliding_window": 1024, "global_attn_idx": [0, 15, 31],
    "kq_norm": "none", "kq_head_dim": -1, "v_head_dim": 128, "attn_hidden_size": -1, "kv_weight_reuse": false,
    "kv_reuse_every_i_layer": -1, "kv_reuse_group": [[1, 2], [3, 4], [5, 6], [7, 8], [9, 10], [11, 12], [13, 14],
    [16, 17, 18], [19, 20], [21, 22], [23, 24], [25, 26], [27, 28], [29, 30]], "hidden_act": "silu",
    "mlp_hidden_act": "silu", "num_experts": 1, "num_mamba": 1, "num_experts_per_tok": 1, "tie_word_embeddings": true})";
  const klens::RuntimePlan plan = skeleton_of(hymba);
  const klens::Shape& s = plan.shape;
  CHECK(std::abs(s.rope_theta - 74534.8f) < 0.05f);  // 10000 (2 8192 / 2048 - 1)^(64 / 62)
  CHECK(s.qk_dim == 64);
  CHECK(s.rotary_dim == 64);
  CHECK(s.v_dim == 128);
  CHECK(s.inner == 3200);
  CHECK(s.dt_rank == 100);
  CHECK(s.meta == 128);
  CHECK(s.norm_eps == 1e-6f);
  CHECK(klens::parameters(plan) == 1522797824);
  int readers = 0;
  for (int l = 0; l < s.layers; ++l) {
    const klens::LayerPlan& layer = plan.layers[std::size_t(l)];
    CHECK(layer.window == (l == 0 || l == 15 || l == 31 ? 0 : 1024));
    readers += layer.kv_source != l ? 1 : 0;
  }
  CHECK(readers == 15);
  CHECK(plan.layers[18].kv_source == 16);
  CHECK(skeleton_of(with(hymba, "\"rope_type\": \"ntk\"", "\"rope_type\": \"default\"")).shape.rope_theta == 10000.0f);
}
