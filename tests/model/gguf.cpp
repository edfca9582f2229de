// Models from GGUF files: the families' small models, converted as llama.cpp's converter does, give the folder's
// logits. Oracle: tests/data/gguf/make.py with the package gguf. It keeps each file up to its data, and how the data
// follows from the folder's tensors, with a checksum of the bytes it wrote: the whole files would be the weights once
// more.
#include "fixture.hpp"

#include <klens/io/gguf_checkpoint.hpp>
#include <klens/io/packed.hpp>
#include <klens/lens/float64_forward.hpp>

#include <fstream>
#include <map>

using namespace fixture;
namespace fs = std::filesystem;
using klens::Json;
using namespace std::string_literals;

namespace {

const std::string golden = std::string(KLENS_TEST_DATA) + "/gguf/",
                  families = std::string(KLENS_TEST_DATA) + "/families/";

std::string bytes_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  REQUIRE(file.good());
  return {std::istreambuf_iterator<char>(file), {}};
}

void write(const std::string& path, const std::string& bytes) {
  std::ofstream file(path, std::ios::binary);
  file.write(bytes.data(), std::streamsize(bytes.size()));
  REQUIRE(file.good());
}

std::string fnv(const std::string& bytes) {
  std::uint64_t h = 0xcbf29ce484222325u;
  for (const unsigned char b : bytes) h = (h ^ b) * 0x100000001b3u;
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(h));
  return text;
}

/// The folder's values, after what the converter does to them.
std::vector<float> converted(std::vector<float> v, std::size_t rows, const Json& steps) {
  const std::size_t width = v.size() / rows;
  for (const Json& step : steps) {
    const std::string op = step[0];
    if (op == "neg_exp") {
      for (float& x : v) x = float(-std::exp(double(x)));
    } else if (op == "scale") {
      for (float& x : v) x *= float(step[1].get<double>());
    } else if (op == "scale_rows") {
      for (std::size_t i = step[1].get<std::size_t>() * width; i < step[2].get<std::size_t>() * width; ++i)
        v[i] *= float(step[3].get<double>());
    } else {
      REQUIRE(op == "permute");  // rows (head, half, j) to (head, j, half)
      const std::size_t heads = step[1], half = rows / heads / 2;
      const std::vector<float> from = v;
      for (std::size_t h = 0; h < heads; ++h)
        for (std::size_t s = 0; s < 2; ++s)
          for (std::size_t j = 0; j < half; ++j)
            std::copy_n(from.begin() + std::ptrdiff_t(((h * 2 + s) * half + j) * width), width,
                        v.begin() + std::ptrdiff_t(((h * half + j) * 2 + s) * width));
    }
  }
  return v;
}

/// A converted model beside the folder it has to equal.
struct Pair {
  TempFolder folder;  // config.json and model.safetensors with what a GGUF file cannot say, or rounds, changed
  std::string file;
  std::vector<std::int32_t> ids;
  Json manifest;
};

std::unique_ptr<Pair> make(const std::string& name) {
  auto pair = std::make_unique<Pair>();
  const auto source = need(klens::Safetensors::open(families + name));
  pair->manifest = need(klens::read_json(golden + name + ".json"));
  std::string file = bytes_of(golden + name + ".head.gguf");
  const std::size_t start = file.size();
  // What the folder has to hold: the same numbers where the file has them as they are or scaled, rounded ones where it
  // rounds. A tensor that comes in pieces is f32, unless all of them are of one type of 16 bits.
  struct Origin {
    std::vector<float> values;
    std::string type;
    std::size_t covered = 0;
  };
  std::map<std::string, Origin> origins;
  for (const std::string_view each : source.names())
    origins[std::string(each)].values = floats(source, std::string(each));
  for (const Json& entry : pair->manifest["tensors"]) {
    CAPTURE(entry["gguf"].get<std::string>());
    const std::string type = entry["type"];
    const bool pieces = entry.contains("parts");
    const Json parts = pieces ? entry["parts"] : Json::array({{entry["source"], 0, nullptr}});
    std::vector<float> values;
    for (const Json& part : parts) {
      const std::vector<float>& from = origins.at(part[0]).values;
      const std::size_t first = part[1], count = pieces ? part[2].get<std::size_t>() : from.size();
      values.insert(values.end(), from.begin() + std::ptrdiff_t(first), from.begin() + std::ptrdiff_t(first + count));
    }
    std::vector<float> rounded = values;
    const std::string origin = parts[0][0];
    const std::vector<std::int64_t>& shape = source.find(origin)->shape;
    if (!pieces) values = converted(values, std::size_t(shape[0]), entry["steps"]);
    std::string bytes(reinterpret_cast<const char*>(values.data()), 4 * values.size());
    if (type == "F16" || type == "BF16") {
      REQUIRE(entry["steps"].empty());
      bytes.resize(2 * values.size());
      for (std::size_t i = 0; i < values.size(); ++i) {
        const klens::half h = klens::to_half(values[i]);
        const klens::bf16 b = klens::to_bf16(values[i]);
        std::memcpy(bytes.data() + 2 * i, type == "F16" ? &h.bits : &b.bits, 2);
        rounded[i] = type == "F16" ? klens::to_float(h) : klens::to_float(b);
      }
    } else if (type != "F32") {  // the folder holds the quantized numbers, which tests/io/gguf.cpp compares
      const std::string hex = entry["bytes"];
      bytes.clear();
      for (std::size_t i = 0; i < hex.size(); i += 2) bytes.push_back(char(std::stoi(hex.substr(i, 2), nullptr, 16)));
      klens::GgufTensor quantized;
      for (const klens::GgmlBlock& b : klens::ggml_blocks)
        if (b.name == type) quantized.type = std::uint32_t(b.type);
      quantized.shape = shape, quantized.data = std::as_bytes(std::span(bytes));
      rounded = need(klens::read_gguf(name, quantized));
    }
    CHECK(fnv(bytes) == entry["fnv"].get<std::string>());
    std::size_t taken = 0;
    for (const Json& part : parts) {
      Origin& o = origins.at(part[0]);
      const std::size_t count = pieces ? part[2].get<std::size_t>() : o.values.size();
      std::copy_n(rounded.begin() + std::ptrdiff_t(taken), count, o.values.begin() + part[1].get<std::ptrdiff_t>());
      taken += count, o.covered += count;
      o.type = o.type.empty() || o.type == type ? type : "F32";
    }
    const std::size_t at = start + entry["offset"].get<std::size_t>();
    file.resize(std::max(file.size(), at + bytes.size()));
    std::copy(bytes.begin(), bytes.end(), file.begin() + std::ptrdiff_t(at));
  }
  std::vector<klens::TensorSpec> specs;
  std::vector<std::string> datas;
  for (const auto& [origin, o] : origins) {
    CAPTURE(origin);
    CHECK(o.covered == o.values.size());
    const bool half = o.type == "F16", bf16 = o.type == "BF16";
    const klens::DType dtype = half ? klens::DType::f16 : bf16 ? klens::DType::bf16 : klens::DType::f32;
    specs.push_back({origin, dtype, source.find(origin)->shape});
    std::string& mine = datas.emplace_back((half || bf16 ? 2 : 4) * o.values.size(), 0);
    for (std::size_t i = 0; i < o.values.size(); ++i) {
      const std::uint16_t bits = half ? klens::to_half(o.values[i]).bits : klens::to_bf16(o.values[i]).bits;
      if (half || bf16) std::memcpy(mine.data() + 2 * i, &bits, 2);
      else std::memcpy(mine.data() + 4 * i, &o.values[i], 4);
    }
  }
  pair->file = pair->folder.path() + "/model.gguf";
  write(pair->file, file);
  auto writer = need(klens::SafetensorsWriter::create(pair->folder.path() + "/model.safetensors", specs));
  for (const std::string& d : datas) need(writer.append(std::as_bytes(std::span(d.data(), d.size()))));
  need(writer.finish());
  Json config = Json::parse(bytes_of(families + name + "/config.json"));
  config.merge_patch(pair->manifest["config"]);
  std::ofstream(pair->folder.path() + "/config.json") << config.dump();
  const auto ids = golden_ids(need(klens::Safetensors::open(families + name + "/golden.safetensors")));
  pair->ids.assign(ids.begin(), ids.begin() + tokens(21, 5));
  return pair;
}

std::vector<float> logits(const klens::Model& model, const std::vector<std::int32_t>& ids) {
  klens::Session session = open(model);
  const std::int64_t stride = klens::logit_stride(model.shape());
  std::vector<float> wide(ids.size() * std::size_t(stride)), out;
  need(session.prefill(ids, {.logits = {wide.data(), std::int64_t(ids.size()), model.shape().vocab, stride}}));
  for (std::size_t t = 0; t < ids.size(); ++t)
    out.insert(out.end(), wide.begin() + std::ptrdiff_t(t) * stride,
               wide.begin() + std::ptrdiff_t(t) * stride + model.shape().vocab);
  return out;
}

/// What rounding may cost: of A through exp and log, and of falcon-h1's weights times their multipliers. Found:
/// mamba 1.7e-7, mamba2 9.7e-8, falcon_h1 2.7e-7, jamba 4.3e-7, granitemoehybrid 2.0e-7, dense 9.2e-8, the others 0.
double limit_of(const std::string& name) { return name == "lfm2" ? 0 : 1e-6; }

constexpr const char* names[] = {"mamba", "mamba2", "falcon_h1", "lfm2", "nemotron_h", "jamba", "granitemoehybrid",
                                 "granitemoehybrid.dense"};

}  // namespace

TEST_CASE("gguf model: the logits of the folder it was made from") {
  for (const std::string name : names) {
    CAPTURE(name);
    const auto pair = make(name);
    const klens::Model folder = need(klens::load_model(pair->folder.path()));
    klens::Model file = need(klens::load_model(pair->file));
    CHECK((folder.hash() == file.hash()) == (name != "falcon_h1"));  // its embedding's multiplier went into the weights
    CHECK(folder.parameters() == file.parameters());
    const std::vector<float> expected = logits(folder, pair->ids), found = logits(file, pair->ids);
    const Distance d = distance(found, expected, expected.size());
    CHECK_MESSAGE(d.rms <= limit_of(name), d.rms);
    // Formats come from the pristine weights, as often as asked for: those that lie in memory too.
    for (const char* f : {"w4g32", "w8", "f32"}) need(file.set_uniform(format(f)));
    need(file.set_reference());
    CHECK(same_bits(logits(file, pair->ids), found));
  }
}

TEST_CASE("gguf model: one value of any kind of tensor counts") {
  for (const std::string name : names) {
    CAPTURE(name);
    const auto pair = make(name);
    const std::vector<float> expected = logits(need(klens::load_model(pair->file)), pair->ids);
    const std::string good = bytes_of(pair->file);
    const std::size_t start = bytes_of(golden + name + ".head.gguf").size();
    const std::size_t hidden = std::size_t(need(klens::read_config(pair->folder.path())).hidden_size);
    std::map<std::string, Json> kinds;  // the first tensor of every kind: "ssm_a", "attn_q.weight"
    for (const Json& entry : pair->manifest["tensors"]) {
      const std::string full = entry["gguf"];
      kinds.emplace(full.substr(full.starts_with("blk.") ? full.find('.', 4) + 1 : 0), entry);
    }
    CHECK(kinds.size() >= 11);
    int changed = 0;
    for (const auto& each : kinds) {
      const std::string& kind = each.first;
      const Json& entry = each.second;
      CAPTURE(kind);
      std::string bytes = good;
      std::size_t at = start + entry["offset"].get<std::size_t>();
      const std::string type = entry["type"];
      if (kind == "token_embd.weight")
        at += std::size_t(pair->ids[0]) * hidden * (type == "F32" ? 4 : 2);
      if (type == "F32") {
        float v;
        std::memcpy(&v, bytes.data() + at, 4);
        v = v * 1.5f - 0.5f;  // below 0 stays there, as A must
        std::memcpy(bytes.data() + at, &v, 4);
      } else {
        bytes[at + 1] = char(bytes[at + 1] ^ 4);  // the exponent of a half, a bf16, or a block's scale
      }
      write(pair->file, bytes);
      const std::vector<float> found = logits(need(klens::load_model(pair->file)), pair->ids);
      const Distance d = distance(found, expected, expected.size());
      CHECK_MESSAGE(d.rms > std::max(limit_of(name), 1e-6), d.rms);
      ++changed;
      if (is_ref() && changed >= 4) break;
    }
  }
}

TEST_CASE("gguf model: the float64 forward and packed files work from it") {
  if (is_ref()) return;
  for (const std::string name : {"nemotron_h", "jamba", "granitemoehybrid"}) {
    CAPTURE(name);
    const auto pair = make(name);
    const klens::Model model = need(klens::load_model(pair->file));
    const std::vector<float> expected = logits(model, pair->ids);
    const auto exact = need(klens::Float64Forward::open(pair->file, model.plan()));
    const std::vector<double> wide = need(exact.logits(pair->ids, {}));
    CHECK(distance(expected, {wide.begin(), wide.end()}, expected.size()).largest < 5e-5);
    const std::string packed = pair->folder.path() + "/model.klens";
    need(model.write(packed, {}));
    CHECK(same_bits(logits(need(klens::load_model(packed)), pair->ids), expected));
  }
}

TEST_CASE("gguf model: what klens does not know is an error that names it") {
  const auto pair = make("mamba");
  const std::string good = bytes_of(pair->file);
  const auto with = [&](const std::string& from, const std::string& to) {
    REQUIRE(from.size() == to.size());
    std::string bytes = good;
    REQUIRE(bytes.find(from) != std::string::npos);
    for (std::size_t at = bytes.find(from); at != std::string::npos; at = bytes.find(from, at + 1))
      bytes.replace(at, from.size(), to);
    write(pair->file, bytes);
    const auto model = klens::load_model(pair->file);
    REQUIRE_FALSE(bool(model));
    return model.error().message().substr(pair->file.size());
  };
  CHECK(with("blk.1.ssm_in.weight", "blk.1.ssm_on.weight") ==
        ": tensor 'blk.1.ssm_on.weight': expected only tensors of mamba, found one without a meaning there");
  CHECK(with("mamba.ssm.conv_kernel", "mamba.ssm.conv_kernal") ==
        ": 'mamba.ssm.conv_kernal': expected only keys that klens reads, found a u32");
  CHECK(
      with("blk.1.ssm_in.weight", "blk.9.ssm_in.weight") ==
      ": expected only tensors of a mamba model of this config, found tensor 'backbone.layers.9.mixer.in_proj.weight'");
  CHECK(with("general.architecture\x08\0\0\0\x05\0\0\0\0\0\0\0mamba"s,
             "general.architecture\x08\0\0\0\x05\0\0\0\0\0\0\0rwkv7"s) ==
        ": 'general.architecture': expected one of: mamba, mamba2, falcon-h1, lfm2, nemotron_h, jamba, granitehybrid, "
        "found 'rwkv7'");
}

TEST_CASE("gguf model: experts and halves that do not fit together are errors") {
  const auto error_of = [](const Pair& pair, const std::string& bytes) {
    write(pair.file, bytes);
    const auto model = klens::load_model(pair.file);
    REQUIRE_FALSE(bool(model));
    return model.error().message().substr(pair.file.size());
  };
  const auto renamed = [](std::string bytes, const std::string& from, const std::string& to) {
    REQUIRE(from.size() == to.size());
    const std::size_t at = bytes.find(from);
    REQUIRE(at != std::string::npos);
    return bytes.replace(at, from.size(), to);
  };
  const auto granite = make("granitemoehybrid");
  const std::string good = bytes_of(granite->file);
  CHECK(error_of(*granite, renamed(good, "blk.0.ffn_up_exps", "blk.3.ffn_up_exps")) ==
        ": tensor 'blk.0.ffn_gate_exps.weight': expected both halves of "
        "'model.layers.0.block_sparse_moe.input_linear.weight', found this one only");
  CHECK(error_of(*granite, renamed(good, "blk.0.ffn_up_shexp", "blk.3.ffn_up_shexp")) ==
        ": tensor 'blk.0.ffn_gate_shexp.weight': expected both halves of "
        "'model.layers.0.shared_mlp.input_linear.weight', found this one only");
  // [5, 20, 40] becomes [5, 40, 20]: sizes stand innermost first, after the name and their number.
  const std::string name = "blk.0.ffn_up_exps.weight";
  std::string turned = good;
  const std::size_t sizes = good.find(name) + name.size() + 4;
  std::swap(turned[sizes], turned[sizes + 8]);
  CHECK(error_of(*granite, turned) ==
        ": tensor 'blk.0.ffn_gate_exps.weight': expected the shape of 'blk.0.ffn_up_exps.weight', [5, 40, 20], "
        "found [5, 20, 40]");
  // RoPE on a part of each head, as Bamba has it, under the same architecture: after the key and its type stands 10.
  const std::string rotated = "granitehybrid.rope.dimension_count\x04\0\0\0"s;
  CHECK(error_of(*granite, renamed(good, rotated + "\x0a", rotated + "\x04")) ==
        ": 'granitehybrid.rope.dimension_count': expected 10, the width of a head, found 4");

  const auto jamba = make("jamba");
  const std::string whole = bytes_of(jamba->file);
  CHECK(error_of(*jamba, renamed(whole, "blk.0.ffn_gate_inp", "blk.2.ffn_gate_inp")) ==
        ": 'ffn_gate_inp': expected layers at equal distances, found others");
  CHECK(error_of(*jamba, renamed(whole, "blk.0.ffn_up_exps", "blk.2.ffn_up_exps")) ==
        ": expected only tensors of a jamba model of this config, found tensor "
        "'model.layers.2.feed_forward.experts.0.up_proj.weight'");
}
