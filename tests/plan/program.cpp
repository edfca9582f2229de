// The program of a plan (report/specialised_program.hpp), called as its main() calls it: logits equal to the generic way's,
// packed files of other formats refused, exit status 0, 1 and 2. And the project that `klens build` writes for a plan.
#include "mixed_plan.hpp"

#include <klens/model/generic.hpp>
#include <klens/quant/apply.hpp>
#include <klens/report/specialised_program.hpp>
#include <klens/report/specialised_project.hpp>

#include <mixed.hpp>

#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>

using namespace klens;

namespace {

/// A folder of the test, removed with everything in it.
struct Folder {
  std::filesystem::path path = std::filesystem::temp_directory_path() / ("klens_program_" + std::to_string(getpid()));
  Folder() { std::filesystem::create_directories(path); }
  ~Folder() { std::filesystem::remove_all(path); }
  std::string operator/(const char* name) const { return (path / name).string(); }
};

int call(std::vector<std::string> words) {
  words.insert(words.begin(), "mixed");
  std::vector<char*> argv;
  for (std::string& w : words) argv.push_back(w.data());
  return specialised_main(int(argv.size()), argv.data(), klens_model::mixed::tables());
}

Model tiny() {
  auto model = load_model(KLENS_EXAMPLES "/models/hymba-tiny");
  REQUIRE_MESSAGE(bool(model), model.error().message());
  return std::move(*model);
}

void set_plan(Model& model) { REQUIRE(apply_plan(model, runtime_plan(klens_plan::mixed_plan))); }

std::string file_text(const std::string& path) {
  const auto text = read_text(path, 1 << 20);
  REQUIRE(text);
  return *text;
}

}  // namespace

TEST_CASE("program: logits of a packed file are the generic way's, other files are refused") {
  const Folder folder;
  Model model = tiny();
  set_plan(model);
  PackOptions options;
  options.tokenizer_json = file_text(KLENS_EXAMPLES "/models/hymba-tiny/tokenizer.json");
  REQUIRE(model.write(folder / "mixed.klens", options));

  constexpr std::int64_t length = 24;
  std::vector<std::int64_t> wide;
  for (std::int64_t i = 0; i < length; ++i) wide.push_back((i * 613 + 7) % 4096);
  const TensorData ids{"input_ids", DType::i64, {1, length}, std::as_bytes(std::span(wide))};
  REQUIRE(write_safetensors(folder / "ids.safetensors", std::span(&ids, 1)));
  CHECK(call({"logits", folder / "mixed.klens", "--ids", folder / "ids.safetensors", "-o", folder / "out.safetensors"}) == 0);

  const auto table = choose_table("");
  REQUIRE(table);
  auto session = Session::create(model, generic_program(**table), {}, {.context = int(length)});
  REQUIRE(session);
  const std::int64_t vocab = model.shape().vocab, stride = logit_stride(model.shape());
  Buffer<float> expected(std::size_t(length * stride));
  const std::vector<std::int32_t> narrow(wide.begin(), wide.end());
  REQUIRE(session->prefill(narrow, {.logits = {expected.data(), length, vocab, stride}}));
  const auto out = Safetensors::open(folder / "out.safetensors");
  REQUIRE(out);
  const TensorView* logits = out->find("logits");
  REQUIRE(logits != nullptr);
  REQUIRE(logits->shape == std::vector<std::int64_t>{1, length, vocab});
  std::vector<float> got(std::size_t(length * vocab));
  REQUIRE(read_f32(*logits, got));
  for (std::int64_t t = 0; t < length; ++t)
    CHECK(std::memcmp(got.data() + t * vocab, expected.data() + t * stride, std::size_t(vocab) * sizeof(float)) == 0);

  CHECK(call({"info", folder / "mixed.klens"}) == 0);
  CHECK(call({"generate", folder / "mixed.klens", "--prompt", "The house", "--tokens", "3", "--threads", "2"}) == 0);
  CHECK(call({"eval", folder / "mixed.klens", "--text", KLENS_EXAMPLES "/data/heldout.txt", "--tokens", "64", "--window", "32", "--json"}) == 0);

  REQUIRE(model.set_format("model.layers.6.moe.experts.0.down_proj", formats::w4));
  REQUIRE(model.write(folder / "other.klens", options));
  CHECK(call({"info", folder / "other.klens"}) == 1);                        // another format at one site
  CHECK(call({"info", KLENS_EXAMPLES "/models/hymba-tiny"}) == 1);           // not packed
  CHECK(call({"info", folder / "none.klens"}) == 1);
  set_plan(model);
  REQUIRE(model.set_state_format("model.layers.0.kv_cache", State::f32));
  REQUIRE(model.write(folder / "states.klens", options));
  CHECK(call({"info", folder / "states.klens"}) == 1);                       // another format of one state
  std::filesystem::resize_file(folder / "mixed.klens", 100000);
  CHECK(call({"info", folder / "mixed.klens"}) == 1);
}

TEST_CASE("program: wrong calls end with status 2") {
  CHECK(call({}) == 2);
  CHECK(call({"measure"}) == 2);
  CHECK(call({"eval"}) == 2);
  CHECK(call({"info", "--nothing", "1"}) == 2);
  CHECK(call({"info", "--threads"}) == 2);
  CHECK(call({"info", "--threads", "two"}) == 2);
  CHECK(call({"info", "a", "b"}) == 2);
  CHECK(call({"info", "--isa", "avx9"}) == 1);
}

TEST_CASE("project: what klens build writes") {
  const Folder folder;
  Model model = tiny();
  set_plan(model);
  const auto document = make_plan("hymba-tiny", model.plan(), model.small_payload_bytes(), {}, {{"made by", "a test"}}, "test");
  REQUIRE(document);
  CHECK(weight_bytes(*document) == model.payload_bytes());
  const auto contains = [](const std::string& text, const char* part) { return text.find(part) != std::string::npos; };

  ProjectOptions options;
  options.levels = {"ref", "avx2"};
  options.klens_root = KLENS_EXAMPLES "/..";
  REQUIRE(write_specialised_project(folder / "project", *document, options));
  const std::string cmake = file_text(folder / "project/CMakeLists.txt");
  CHECK(contains(cmake, "add_subdirectory([["));
  CHECK(contains(cmake, "klens_add_model(specialised_model PLAN plan.hpp NAME specialised_model LEVELS ref avx2)"));
  const auto plan = read_plan(folder / "project/plan.json");
  REQUIRE(plan);
  CHECK(plan->plan == document->plan);
  CHECK(contains(file_text(folder / "project/main.cpp"), "klens_model::specialised_model::tables()"));

  options.klens_root = folder / "project/nowhere";
  REQUIRE(write_specialised_project(folder / "installed", *document, options));
  CHECK(contains(file_text(folder / "installed/CMakeLists.txt"), "find_package(klens CONFIG REQUIRED COMPONENTS io)"));

  options.levels = {"avx9"};
  const auto level = write_specialised_project(folder / "project", *document, options);
  REQUIRE_FALSE(level);
  CHECK(contains(level.error().message(), "'avx9'"));
  options.levels = {}, options.name = "two words";
  CHECK_FALSE(write_specialised_project(folder / "project", *document, options));
  options.name = "specialised";
  CHECK_FALSE(write_specialised_project(folder / "project/plan.json/below", *document, options));
}

TEST_CASE("project: a failing build quotes the line that complains") {
  const Folder folder;
  std::ofstream(folder / "CMakeLists.txt") << "cmake_minimum_required(VERSION 3.25)\nproject(x LANGUAGES NONE)\nmessage(FATAL_ERROR \"no such plan\")\n";
  const auto built = build_specialised_project(folder.path.string());
  REQUIRE_FALSE(built);
  CHECK(built.error().message().find("build.log: expected a build that succeeds, found status 1") != std::string::npos);
  CHECK(built.error().message().find("CMake Error at") != std::string::npos);
}
