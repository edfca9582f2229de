// Loading: names and shapes are checked, errors say which; packed files give the same model; formats come from pristine weights.
#include "fixture.hpp"

#include <klens/quant/apply.hpp>

#include <fstream>
#include <random>

using namespace fixture;
namespace fs = std::filesystem;

namespace {

struct Tensor {
  klens::TensorSpec spec;
  std::vector<std::byte> data;
};

/// hymba-tiny again, after `change`, and with `config` in place of its own where not empty.
std::string write_variant(const TempFolder& folder, const std::function<void(std::vector<Tensor>&)>& change, const std::string& config = {}) {
  const auto source = need(klens::Safetensors::open(checkpoint));
  std::vector<Tensor> tensors;
  for (const std::string_view name : source.names()) {
    const klens::TensorView& t = *source.find(name);
    tensors.push_back({{t.name, t.dtype, t.shape}, {t.data.begin(), t.data.end()}});
  }
  change(tensors);
  std::vector<klens::TensorSpec> specs;
  for (const Tensor& t : tensors) specs.push_back(t.spec);
  auto writer = need(klens::SafetensorsWriter::create(folder.path() + "/model.safetensors", specs));
  for (const Tensor& t : tensors) need(writer.append(std::span<const std::byte>(t.data)));
  need(writer.finish());
  if (config.empty()) fs::copy_file(checkpoint + "/config.json", folder.path() + "/config.json", fs::copy_options::overwrite_existing);
  else std::ofstream(folder.path() + "/config.json") << config;
  return folder.path();
}

Tensor& named(std::vector<Tensor>& tensors, const std::string& name) {
  for (Tensor& t : tensors)
    if (t.spec.name == name) return t;
  FAIL("no tensor " << name);
  return tensors[0];
}

std::string error_of(const std::string& path) {
  const auto model = klens::load_model(path);
  REQUIRE_FALSE(bool(model));
  const std::string text = model.error().message();
  CHECK(text.find('\n') == std::string::npos);
  return text;
}

bool holds(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

std::string config_text() {
  std::ifstream file(checkpoint + "/config.json");
  return {std::istreambuf_iterator<char>(file), {}};
}

std::string with(std::string config, const std::string& from, const std::string& to) {
  const std::size_t at = config.find(from);
  REQUIRE(at != std::string::npos);
  return config.replace(at, from.size(), to);
}

}  // namespace

TEST_CASE("hymba-tiny: components, shapes, bytes") {
  const klens::Model model = load();
  const klens::Shape& s = model.shape();
  klens::Shape expected{.family = klens::Family::hymba, .layers = 8, .hidden = 192, .vocab = 4096, .heads = 6, .kv_heads = 2,
                        .qk_dim = 32, .v_dim = 64, .inner = 384, .n_state = 16, .conv_taps = 4, .dt_rank = 12, .ffn = 528,
                        .meta = 16, .tied_head = true, .norm_eps = 1e-6f, .rope_theta = 10000.0f, .rotary_dim = 32,
                        .inner_norms = true, .inner_norm_weights = true, .inner_norm_eps = 1e-6f};
  CHECK(s == expected);
  REQUIRE(model.components().size() == 57);
  CHECK(model.components()[0].name == "model.embed_tokens");
  CHECK(model.components()[2].name == "model.layers.0.mamba.x_proj.0");
  CHECK(model.components()[2].rows == 44);
  CHECK(model.components()[2].cols == 384);
  CHECK(model.components()[2].layer == 0);
  CHECK(model.components()[std::size_t(model.find("model.layers.1.mamba.in_proj"))].rows == 1152);
  CHECK(model.components()[std::size_t(model.find("model.layers.2.mamba.in_proj"))].rows == 960);   // reads layer 1's K and V
  CHECK(model.view().layers[2].kv_source == 1);
  CHECK(model.view().layers[6].kv_source == 5);
  CHECK(model.view().layers[4].window == 0);
  CHECK(model.view().layers[5].window == 128);
  CHECK(model.find("model.layers.8.mamba.in_proj") == -1);
  CHECK(model.parameters() == 5760544);
  CHECK(model.payload_bytes() == klens::weight_bytes(model.plan()));
  CHECK(model.small_payload_bytes() == klens::small_bytes(model.plan()));
}

TEST_CASE("a checkpoint that does not fit names the tensor") {
  const TempFolder folder;
  const std::string x_proj = "model.layers.3.mamba.x_proj.0.weight", norm = "model.layers.5.mamba.dt_layernorm.weight";

  SUBCASE("missing projection") {
    const std::string e = error_of(write_variant(folder, [&](auto& all) { std::erase_if(all, [&](const Tensor& t) { return t.spec.name == x_proj; }); }));
    CHECK(holds(e, "'" + x_proj + "' [44, 384]"));
  }
  SUBCASE("missing norm") {
    const std::string e = error_of(write_variant(folder, [&](auto& all) { std::erase_if(all, [&](const Tensor& t) { return t.spec.name == norm; }); }));
    CHECK(holds(e, "'" + norm + "' [12]"));
  }
  SUBCASE("wrong shape") {
    const std::string e = error_of(write_variant(folder, [&](auto& all) { named(all, x_proj).spec.shape = {384, 44}; }));
    CHECK(holds(e, x_proj));
    CHECK(holds(e, "expected shape [44, 384], found [384, 44]"));
  }
  SUBCASE("a consumer layer with K and V rows") {
    const std::string name = "model.layers.2.mamba.in_proj.weight";
    const std::string e = error_of(write_variant(folder, [&](auto& all) {
      Tensor& t = named(all, name);
      t.spec.shape = {1152, 192};
      t.data.resize(1152 * 192 * 2);
    }));
    CHECK(holds(e, "expected shape [960, 192], found [1152, 192]"));
  }
  SUBCASE("wrong type") {
    const std::string e = error_of(write_variant(folder, [&](auto& all) { named(all, norm).spec.dtype = klens::DType::i16; }));
    CHECK(holds(e, norm));
    CHECK(holds(e, "found I16"));
  }
  SUBCASE("a tensor too many") {
    const std::string e = error_of(write_variant(folder, [&](auto& all) {
      all.push_back({{"model.layers.0.mamba.in_proj.bias", klens::DType::f16, {1152}}, std::vector<std::byte>(2304)});
    }));
    CHECK(holds(e, "model.layers.0.mamba.in_proj.bias"));
  }
  SUBCASE("a weight that is not a number") {
    const std::string e = error_of(write_variant(folder, [&](auto& all) {
      named(all, x_proj).data[2 * (384 * 5 + 7) + 1] = std::byte{0x7f};
      named(all, x_proj).data[2 * (384 * 5 + 7)] = std::byte{0xff};
    }));
    CHECK(holds(e, "model.layers.3.mamba.x_proj.0"));
    CHECK(holds(e, "row 5, column 7"));
  }
  SUBCASE("an infinite norm") {
    const std::string e = error_of(write_variant(folder, [&](auto& all) {
      named(all, norm).data[3] = std::byte{0x7c};
      named(all, norm).data[2] = std::byte{0};
    }));
    CHECK(holds(e, norm));
    CHECK(holds(e, "finite"));
  }
  SUBCASE("truncated file") {
    write_variant(folder, [](auto&) {});
    const auto size = fs::file_size(folder.path() + "/model.safetensors");
    for (const std::uintmax_t left : {size - 1, size / 2, std::uintmax_t(5000), std::uintmax_t(8), std::uintmax_t(0)}) {
      fs::resize_file(folder.path() + "/model.safetensors", left);
      CHECK(holds(error_of(folder.path()), "model.safetensors"));
    }
  }
  SUBCASE("a tied head again, and tables of angles, are no error") {
    const std::string path = write_variant(folder, [&](auto& all) {
      all.push_back({{"lm_head.weight", klens::DType::f16, {4096, 192}}, std::vector<std::byte>(4096 * 192 * 2)});
    });
    CHECK(bool(klens::load_model(path)));
  }
  SUBCASE("no such folder, no config, not a model") {
    CHECK(holds(error_of(folder.path() + "/nothing"), "nothing"));
    CHECK(holds(error_of(folder.path()), "config.json"));
    std::ofstream(folder.path() + "/text") << "not a model";
    CHECK(holds(error_of(folder.path() + "/text"), "expected a checkpoint folder, a GGUF file or a packed .klens file"));
  }
}

TEST_CASE("flipped bits of header and config end in a model or in one line") {
  const TempFolder folder;
  write_variant(folder, [](auto&) {});
  std::mt19937 random(20);
  int refused = 0;
  const auto flip = [&](const std::string& file, std::size_t limit) {
    const std::string path = folder.path() + "/" + file;
    const std::size_t at = random() % std::min<std::size_t>(limit, fs::file_size(path));
    std::fstream stream(path, std::ios::in | std::ios::out | std::ios::binary);
    const auto change = [&](int mask) {
      stream.seekg(std::streamoff(at));
      const int byte = stream.get() ^ mask;
      stream.seekp(std::streamoff(at));
      stream.put(char(byte));
      stream.flush();
    };
    const int mask = 1 << random() % 8;
    change(mask);
    const auto model = klens::load_model(folder.path());
    if (!model) {
      ++refused;
      CHECK_FALSE(model.error().message().empty());
      CHECK(model.error().message().find('\n') == std::string::npos);
    }
    change(mask);
  };
  for (int i = 0; i < 60; ++i) flip("config.json", 1 << 20);
  for (int i = 0; i < 60; ++i) flip("model.safetensors", 15000);   // the header
  CHECK(refused > 60);
  CHECK(bool(klens::load_model(folder.path())));
}

TEST_CASE("a config that does not fit names the key") {
  const TempFolder folder;
  const std::string config = config_text();
  const auto refused = [&](const std::string& from, const std::string& to, const std::string& part) {
    const std::string e = error_of(write_variant(folder, [](auto&) {}, with(config, from, to)));
    CHECK_MESSAGE(holds(e, part), e);
  };
  refused("\"hidden_size\": 192", "\"hidden_size\": 193", "num_attention_heads");
  refused("\"num_hidden_layers\": 8", "\"num_hidden_layers\": 9", "model.layers.8.");
  refused("\"num_hidden_layers\": 8", "\"num_hidden_layers\": -8", "num_hidden_layers");
  refused("\"num_hidden_layers\": 8", "\"num_hidden_layers\": 7", "global_attn_idx");   // names layer 7
  refused("\"num_key_value_heads\": 2", "\"num_key_value_heads\": 4", "num_key_value_heads");
  refused("\"mamba_dt_rank\": 12", "\"mamba_dt_rank\": 13", "dt_layernorm");
  refused("\"mamba_d_conv\": 4", "\"mamba_d_conv\": 5", "mamba_d_conv");
  refused("\"kq_norm\": \"none\"", "\"kq_norm\": \"rms\"", "kq_norm");
  refused("\"num_experts\": 1", "\"num_experts\": 4", "num_experts");
  refused("\"rope\": true", "\"rope\": false", "rope");
  refused("\"vocab_size\": 4096", "\"vocab_size\": 4097", "model.embed_tokens.weight");
  refused("\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false", "lm_head.weight");
  refused("\"model_type\": \"hymba\"", "\"model_type\": \"gpt2\"", "model_type");
}

TEST_CASE("an untied head is a component of its own") {
  const TempFolder folder;
  const std::string path = write_variant(
      folder,
      [&](auto& all) {
        Tensor head = named(all, "model.embed_tokens.weight");
        head.spec.name = "lm_head.weight";
        all.push_back(head);
      },
      with(config_text(), "\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false"));
  klens::Model tied = load(), untied = need(klens::load_model(path));
  CHECK(untied.components().size() == tied.components().size() + 1);
  CHECK(untied.components()[1].name == "lm_head");
  const std::vector<std::int32_t> ids = {17, 4000, 3, 250};
  klens::Session a = open(tied), b = open(untied);
  CHECK(same_bits(logits_of(a, ids, 4096), logits_of(b, ids, 4096)));
  need(untied.set_format("lm_head", format("w4")));
  b.reset();
  a.reset();
  CHECK_FALSE(same_bits(logits_of(a, ids, 4096), logits_of(b, ids, 4096)));
}

TEST_CASE("formats come from the pristine weights, whatever was set before") {
  klens::Model model = load();
  const int c = model.find("model.layers.1.moe.experts.0.down_proj");
  const klens::PackedBuffer direct = need(model.quantize(c, format("w4g32")));
  const std::uint64_t version = model.version();
  need(model.set_format(c, format("w2g32")));
  need(model.set_format(c, format("w4g32")));
  CHECK(model.version() > version);
  const klens::PackedMatrix m = model.weights(c);
  CHECK(std::memcmp(m.lines, direct.lines().data(), direct.lines().size()) == 0);
  CHECK(std::memcmp(m.scales, direct.scales().data(), direct.scales().size()) == 0);
  CHECK(model.component_bytes(c) == klens::packed_bytes(format("w4g32"), 192, 528));

  // A large matrix is quantized in blocks of rows: the same bytes as in one piece.
  const int e = model.find("model.embed_tokens");
  std::vector<float> wide(4096 * 192);
  need(model.pristine_rows(e, 0, {wide.data(), 4096, 192, 192}));
  for (const char* name : {"w3", "w4g64", "nf4g64", "bf16", "w8"}) {
    CAPTURE(name);
    const klens::PackedBuffer whole = need(klens::quantize_rtn(format(name), {wide.data(), 4096, 192, 192}));
    const klens::PackedBuffer blocks = need(model.quantize(e, format(name)));
    CHECK(std::ranges::equal(whole.lines(), blocks.lines()));
    CHECK(std::ranges::equal(whole.scales(), blocks.scales()));
  }
  const auto static_scale = model.set_format(c, format("w8a8s"));
  REQUIRE_FALSE(bool(static_scale));
  CHECK(holds(static_scale.error().message(), "down_proj"));
  CHECK(holds(static_scale.error().message(), "activation"));
  CHECK_FALSE(bool(model.set_format("model.layers.1.mlp", format("w8"))));
}

TEST_CASE("weights gathered into huge pages are the same model") {
  const TempFolder folder;
  const std::string path = folder.path() + "/model.klens";
  klens::Model model = load();
  need(model.set_uniform(format("f32")));
  need(model.write(path, {}));
  const std::vector<std::int32_t> ids = {17, 4000, 3, 250, 9};
  klens::Session before = open(model);
  const std::vector<float> expected = logits_of(before, ids, 4096);
  const klens::PackedBuffer lent = need(model.quantize(2, format("f32")));
  model.bind(2, lent.matrix());
  klens::Model packed = need(klens::load_model(path));
  const klens::PackedMatrix mapped = packed.weights(0);
  packed.gather_weights();
  CHECK(packed.weights(0).lines == mapped.lines);
  packed.gather_weights(true);
  CHECK(packed.weights(0).lines != mapped.lines);
  model.gather_weights();
  CHECK(model.weights(2).lines == lent.matrix().lines);   // somebody else's weights stay in use
  for (klens::Model* m : {&model, &packed}) {
    const auto at = [&](int c) { return reinterpret_cast<std::uintptr_t>(m->weights(c).lines); };
    CHECK(at(4) == at(3) + std::uintptr_t(klens::round_up(m->component_bytes(3), 64)));
    const std::uintptr_t first = at(1);
    m->gather_weights(true);   // nothing left to move
    CHECK(at(1) == first);
    klens::Session session = open(*m);
    CHECK(same_bits(logits_of(session, ids, 4096), expected));
  }
  // Formats still come from the pristine weights, and unbind() finds what was gathered.
  const klens::PackedMatrix own = model.weights(3);
  const klens::PackedBuffer zeros = need(klens::PackedBuffer::make(format("f32"), own.rows, own.cols));
  model.bind(3, zeros.matrix());
  model.unbind(3);
  CHECK(model.weights(3).lines == own.lines);
  need(model.set_format(3, format("w8")));
  need(model.set_format(3, format("f32")));
  CHECK(model.weights(3).lines != own.lines);
  klens::Session after = open(model);
  CHECK(same_bits(logits_of(after, ids, 4096), expected));
}

TEST_CASE("a packed file is the same model") {
  const TempFolder folder;
  const std::string path = folder.path() + "/model.klens";
  klens::Model model = load();
  need(klens::apply_uniform(model, format("w4g32a8")));
  need(model.set_format("model.layers.3.mamba.x_proj.0", format("w8")));
  need(model.write(path, {.tokenizer_json = "{}", .plan_json = "", .provenance = "test"}));
  klens::Model packed = need(klens::load_model(path));
  CHECK(packed.is_packed());
  CHECK(packed.shape() == model.shape());
  CHECK(packed.payload_bytes() == model.payload_bytes());
  CHECK(packed.payload_bytes() == klens::weight_bytes(packed.plan()));
  CHECK(packed.plan() == model.plan());
  CHECK(packed.hash() == model.hash());
  const std::vector<std::int32_t> ids = {17, 4000, 3, 250, 9};
  klens::Session a = open(model), b = open(packed);
  CHECK(same_bits(logits_of(a, ids, 4096), logits_of(b, ids, 4096)));

  // No pristine weights in it: another format is refused, the present one is not.
  CHECK(bool(packed.set_format("model.layers.3.mamba.x_proj.0", format("w8"))));
  const auto refused = packed.set_format("model.layers.3.mamba.x_proj.0", format("w4"));
  REQUIRE_FALSE(bool(refused));
  CHECK(holds(refused.error().message(), "expected a checkpoint folder, which has pristine weights, found a packed file"));

  const auto size = fs::file_size(path);
  for (const std::uintmax_t left : {size - 1, size / 2, std::uintmax_t(100), std::uintmax_t(8)}) {
    fs::resize_file(path, left);
    CHECK_FALSE(error_of(path).empty());
  }
}

TEST_CASE("plans and lists of formats") {
  klens::Model model = load();
  klens::RuntimePlan plan = model.plan();
  plan.embedding = format("w6");
  plan.layers[3].x_proj = format("w8");
  need(klens::apply_plan(model, plan));
  CHECK(model.plan() == plan);
  plan.shape.ffn = 529;
  CHECK_FALSE(bool(klens::apply_plan(model, plan)));
  const std::vector<klens::FormatChoice> unknown = {{"model.embed_tokens", format("w4")}, {"model.layers.0.mamba.y_proj", format("w4")}};
  const auto refused = klens::apply_formats(model, unknown);
  REQUIRE_FALSE(bool(refused));
  CHECK(holds(refused.error().message(), "y_proj"));
  CHECK(model.precision(0) == format("w6"));   // nothing changed
  const std::vector<klens::FormatChoice> twice = {{"model.embed_tokens", format("w4")}, {"model.embed_tokens", format("w5")}};
  CHECK_FALSE(bool(klens::apply_formats(model, twice)));
}

TEST_CASE("a session refuses what does not fit") {
  klens::Model model = load();
  klens::Session session = open(model, {}, {.context = 6, .chunk = 4});
  const std::vector<std::int32_t> ids = {1, 2, 3, 4, 5};
  need(session.prefill(ids));
  CHECK(session.length() == 5);
  CHECK_FALSE(bool(session.prefill(ids)));          // 10 of 6
  CHECK(session.length() == 5);
  CHECK_FALSE(bool(session.step(4096)));
  CHECK_FALSE(bool(session.step(-1)));
  CHECK(bool(session.step(7)));
  CHECK_FALSE(bool(session.step(7)));
  session.reset();
  std::vector<float> small(4096);
  CHECK_FALSE(bool(session.prefill(ids, {.logits = {small.data(), 6, 4096, 4096}})));
  CHECK_FALSE(bool(session.prefill(ids, {.logits = {small.data(), 1, 4095, 4095}})));
  CHECK_FALSE(bool(klens::Session::create(model, klens::generic_program(active()), {}, {.context = 0})));
  CHECK_FALSE(bool(klens::Session::create(model, klens::generic_program(active()), {}, {.context = 1 << 30})));
}
