// The presets: rules of a plan, published numbers of parameters, and for some the published configs read through the families.
#include <klens/plan/presets.hpp>

#include <klens/model/families.hpp>
#include <klens/plan/check.hpp>

#include <doctest/doctest.h>

#include <map>

namespace {

using namespace klens;

// Numbers of parameters of the published checkpoints, tied tensors once.
static_assert(parameters(checked(presets::mamba_130m())) == 129'135'360);
static_assert(parameters(checked(presets::mamba_1_4b())) == 1'372'178'432);
static_assert(parameters(checked(presets::mamba2_130m())) == 128'989'632);
static_assert(parameters(checked(presets::mamba2_1_3b())) == 1'343'757'312);
static_assert(parameters(checked(presets::hymba_1_5b_base())) == 1'522'797'824);
static_assert(parameters(checked(presets::lfm2_1_2b())) == 1'170'340'608);
static_assert(parameters(checked(presets::falcon_h1_0_5b())) == 521'411'104);

/// A config as the model's publisher writes it, through the family's reader.
RuntimePlan read(const std::string& text) {
  auto config = parse_config(text, "config.json");
  REQUIRE_MESSAGE(config, (config ? "" : config.error().message()));
  auto plan = read_skeleton(*config);
  REQUIRE_MESSAGE(plan, (plan ? "" : plan.error().message()));
  return *plan;
}

/// Shape and kinds of the layers, without formats.
void check_same(const RuntimePlan& read, const RuntimePlan& preset) {
  CHECK(read.shape == preset.shape);
  REQUIRE(read.layers.size() == preset.layers.size());
  for (std::size_t l = 0; l < read.layers.size(); ++l) {
    CAPTURE(l);
    CHECK(read.layers[l].mixer == preset.layers[l].mixer);
    CHECK(read.layers[l].ffn == preset.layers[l].ffn);
    CHECK(read.layers[l].kv_source == preset.layers[l].kv_source);
  }
  CHECK(shape_hash(read) == shape_hash(preset));
}

const char* const mamba_config = R"({"model_type": "mamba", "hidden_size": 768, "num_hidden_layers": 24, "vocab_size": 50280,
  "intermediate_size": 1536, "state_size": 16, "conv_kernel": 4, "time_step_rank": 48, "layer_norm_epsilon": 1e-05,
  "use_bias": false, "use_conv_bias": true, "hidden_act": "silu", "tie_word_embeddings": true})";

TEST_CASE("presets have the shapes that the families read from the published configs") {
  check_same(read(mamba_config), runtime_plan(presets::mamba_130m()));
  check_same(read(R"({"model_type": "mamba2", "hidden_size": 768, "num_hidden_layers": 24, "vocab_size": 50288, "num_heads": 24,
                      "head_dim": 64, "state_size": 128, "n_groups": 1, "conv_kernel": 4, "layer_norm_epsilon": 1e-05,
                      "tie_word_embeddings": true})"),
             runtime_plan(presets::mamba2_130m()));
  check_same(read(R"({"model_type": "lfm2", "hidden_size": 2048, "num_hidden_layers": 16, "vocab_size": 65536, "norm_eps": 1e-05,
                      "num_attention_heads": 32, "num_key_value_heads": 8, "block_ff_dim": 12288, "block_multiple_of": 256,
                      "block_ffn_dim_multiplier": 1.0, "block_auto_adjust_ff_dim": true, "conv_L_cache": 3, "conv_bias": false,
                      "full_attn_idxs": [2, 5, 8, 10, 12, 14], "rope_theta": 1000000.0, "tie_word_embeddings": true})"),
             runtime_plan(presets::lfm2_1_2b()));
  check_same(read(R"({"model_type": "falcon_h1", "hidden_size": 1024, "num_hidden_layers": 36, "vocab_size": 32784,
                      "intermediate_size": 2048, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 64,
                      "mamba_d_ssm": 1536, "mamba_n_heads": 24, "mamba_d_head": 64, "mamba_d_state": 128, "mamba_n_groups": 1,
                      "mamba_d_conv": 4, "mamba_rms_norm": false, "mamba_norm_before_gate": false, "rms_norm_eps": 1e-05,
                      "rope_theta": 100000000000.0, "tie_word_embeddings": false})"),
             runtime_plan(presets::falcon_h1_0_5b()));
}

TEST_CASE("one number changed in a config is another shape") {
  std::string text = mamba_config;
  text.replace(text.find("\"time_step_rank\": 48"), 20, "\"time_step_rank\": 47");
  CHECK(shape_hash(read(text)) != shape_hash(presets::mamba_130m()));
}

TEST_CASE("every preset has its name once, keeps the rules and takes any format") {
  std::map<std::string, int> names;
  presets::for_each_preset(formats::w4g32a8, [&](const char* name, const auto& plan) {
    CAPTURE(name);
    ++names[name];
    CHECK(first_finding(plan).rule == Rule::none);
    int sites = 0;
    for_each_site(plan, [&](const Site& site) { sites += site.precision == formats::w4g32a8; });
    CHECK(sites > int(plan.layers.size()));
  });
  CHECK(names.size() == 8);
}

}  // namespace
