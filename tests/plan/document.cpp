// plan.json and plan.hpp: what is written reads back; what is wrong is refused with its key.
#include <klens/io/plan_json.hpp>
#include <klens/plan/presets.hpp>

#include <doctest/doctest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

using namespace klens;
namespace f = klens::formats;

namespace {

PlanDocument example() {
  const RuntimePlan skeleton = runtime_plan(presets::hymba_tiny(f::f16));
  std::vector<PlanEntry> choices = {
      {"model.embed_tokens", f::w6, 0, 3.25e-5, "fits"},
      {"model.layers.3.mamba.x_proj.0", f::w8, 0, 0.00123, "a reason with \"quotes\",\na new line and a trailing \\"},
      {"model.layers.7.moe.experts.0.down_proj", f::nf4g64, 0, std::nullopt, ""}};
  auto made = make_plan("hymba-tiny", skeleton, small_bytes(skeleton), choices, {{"text", "calibration.txt"}, {"method", "knapsack"}}, "test");
  REQUIRE(made);
  return *made;
}

PlanDocument with_states() {
  const RuntimePlan skeleton = runtime_plan(presets::hymba_tiny(f::f16));
  std::vector<PlanEntry> choices = {{"model.layers.3.mamba.scan_state", state_precision(State::s8), 0, 4.5e-6, "slow modes kept"},
                                    {"model.layers.1.kv_cache", state_precision(State::s4), 0, std::nullopt, "long text"},
                                    {"model.embed_tokens", f::w6, 0, 3.25e-5, "fits"}};
  auto made = make_plan("hymba-tiny", skeleton, small_bytes(skeleton), choices, {}, "test", 4096);
  REQUIRE_MESSAGE(bool(made), made.error().message());
  return *made;
}

std::string refusal(const Json& j) {
  const auto read = plan_from_json(j, "plan.json");
  REQUIRE_FALSE(read);
  return read.error().message();
}

bool contains(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_CASE("make_plan: choices land at their sites, the rest stays, bytes are exact") {
  const PlanDocument d = example();
  CHECK(d.plan.embedding == f::w6);
  CHECK(d.plan.layers[3].x_proj == f::w8);
  CHECK(d.plan.layers[7].down_proj == f::nf4g64);
  CHECK(d.plan.layers[7].up_proj == f::f16);
  CHECK(d.entries.size() == 57);
  std::int64_t total = d.small_bytes;
  for (const PlanEntry& e : d.entries) total += e.bytes;
  CHECK(total == weight_bytes(d));
}

TEST_CASE("make_plan: unknown, doubled and illegal choices are errors that name the component") {
  const RuntimePlan skeleton = runtime_plan(presets::hymba_tiny());
  const auto error_of = [&](std::vector<PlanEntry> choices) {
    const auto made = make_plan("m", skeleton, 0, std::move(choices), {}, "test");
    REQUIRE_FALSE(made);
    return made.error().message();
  };
  CHECK(contains(error_of({{"model.layers.8.mamba.in_proj", f::w4}}), "'model.layers.8.mamba.in_proj'"));
  CHECK(contains(error_of({{"model.embed_tokens", f::w4}, {"model.embed_tokens", f::w8}}), "expected one entry, found two"));
  CHECK(contains(error_of({{"model.embed_tokens", {7, per_row()}}}), "'model.embed_tokens'.weight_bits: expected 2 to 6, or 8, found 7"));
  CHECK(contains(error_of({{"model.embed_tokens", f::w4, 17}}), "bytes"));
  CHECK(contains(error_of({{"lm_head", f::w4}}), "'lm_head'"));  // tied: there is no such component
}

TEST_CASE("plan.json: reads back what was written, byte for byte") {
  const PlanDocument d = example();
  const std::string text = to_text(plan_to_json(d));
  const auto parsed = parse_json(text, "plan.json");
  REQUIRE(parsed);
  const auto read = plan_from_json(*parsed, "plan.json");
  REQUIRE_MESSAGE(bool(read), read.error().message());
  CHECK(read->plan == d.plan);
  CHECK(read->small_bytes == d.small_bytes);
  CHECK(to_text(plan_to_json(*read)) == text);
}

TEST_CASE("plan: states beside the weights, in make_plan, plan.json and plan.hpp") {
  const PlanDocument d = with_states();
  CHECK(d.plan.layers[3].scan.state == State::s8);
  CHECK(d.plan.layers[1].attention.state == State::s4);
  CHECK(d.plan.layers[2].attention.state == State::s4);   // reads those of 1
  CHECK(d.entries.size() == 57);
  REQUIRE(d.states.size() == 22);
  CHECK(weight_bytes(d) == weight_bytes(example()) - packed_bytes(f::w8, 44, 384) - packed_bytes(f::nf4g64, 192, 528) +
                               packed_bytes(f::f16, 44, 384) + packed_bytes(f::f16, 192, 528));
  std::int64_t total = 0;
  for (const PlanEntry& e : d.states) total += e.bytes;
  CHECK(total == state_bytes(d.plan) + kv_bytes(d.plan, 4096));

  const Json j = plan_to_json(d);
  CHECK(j["states"].size() == 22);
  CHECK(j["context"] == 4096);
  CHECK(j["states"][3 + 2]["component"] == "model.layers.1.kv_cache");
  CHECK(j["states"][3 + 2]["format"] == "s4");
  const auto read = plan_from_json(j, "plan.json");
  REQUIRE_MESSAGE(bool(read), read.error().message());
  CHECK(read->plan == d.plan);
  CHECK(to_text(plan_to_json(*read)) == to_text(j));
  CHECK_FALSE(plan_to_json(example()).contains("states"));   // f32: not said

  Json bad = j;
  bad["states"][0]["format"] = "w8";
  CHECK(contains(refusal(bad), "'states'[0]: 'format': expected f32, f16, s16, s8 or s4"));
  bad = j, bad["states"][0]["format"] = "s4";
  CHECK(contains(refusal(bad), "'model.layers.0.mamba.scan_state'.state: expected f32, f16, s16 or s8, found s4"));
  bad = j, bad["states"][0]["bytes"] = 12;
  CHECK(contains(refusal(bad), "'model.layers.0.mamba.scan_state': bytes"));
  bad = j, bad["context"] = 4097;
  CHECK(contains(refusal(bad), "bytes"));
  bad = j, bad["states"][0]["component"] = "model.layers.2.kv_cache";
  CHECK(contains(refusal(bad), "'model.layers.2.kv_cache'"));
  bad = j, bad["states"][0]["component"] = "model.embed_tokens";
  CHECK(contains(refusal(bad), "two"));
  bad = j, bad["states"] = 3;
  CHECK(contains(refusal(bad), "'states'"));
  const auto weights = make_plan("m", runtime_plan(presets::hymba_tiny()), 0, {{"model.layers.0.kv_cache", f::w4}}, {}, "test");
  REQUIRE_FALSE(weights);
  CHECK(contains(weights.error().message(), "'model.layers.0.kv_cache': expected the format of a state: f32, f16, s16, s8 or s4, found w4"));

  const std::string text = plan_header(d);
  CHECK(contains(text, ".scan      = {.state = klens::State::s8},"));
  CHECK(contains(text, "KL 4.50e-06   slow modes kept\n"));
  CHECK(contains(text, "KV caches for 4096 tokens"));
  CHECK_FALSE(contains(plan_header(example()), "State::"));
}

TEST_CASE("plan.json: wrong documents are refused with the key") {
  const Json good = plan_to_json(example());
  Json j = good;
  j["schema"] = "klens.plan/2";
  CHECK(contains(refusal(j), "'schema': expected klens.plan/1, found klens.plan/2"));
  j = good, j.erase("layers");
  CHECK(contains(refusal(j), "'layers'"));
  j = good, j["shape"]["heads"] = 5;
  CHECK(contains(refusal(j), "shape.heads"));
  j = good, j["shape"]["hidden"] = 1e300;
  CHECK(contains(refusal(j), "'hidden'"));
  j = good, j["shape"].erase("hidden");
  CHECK(contains(refusal(j), "'hidden'"));
  j = good, j["shape"].erase("tied_head");   // absent: false, another model
  CHECK(contains(refusal(j), "'shape_hash'"));
  j = good, j["shape"]["norm_eps"] = 1e-5;
  CHECK(contains(refusal(j), "'shape_hash'"));
  j = good, j["layers"][2]["kv_source"] = 3;
  CHECK(contains(refusal(j), "layers[2].kv_source"));
  j = good, j["layers"].push_back(j["layers"][0]);
  CHECK(contains(refusal(j), "shape.layers"));
  j = good, j["entries"][4]["format"] = "w9";
  CHECK(contains(refusal(j), "'entries'[4]: 'format'"));
  j = good, j["entries"][4]["format"] = "w8";
  CHECK(contains(refusal(j), "bytes"));
  j = good, j["entries"][4]["component"] = "no.such";
  CHECK(contains(refusal(j), "'no.such'"));
  j = good, j["entries"][4]["kl"] = "small";
  CHECK(contains(refusal(j), "'kl'"));
  j = good, j["bytes"] = 12;
  CHECK(contains(refusal(j), "'bytes'"));
  j = good, j["provenance"]["text"] = 3;
  CHECK(contains(refusal(j), "'provenance': 'text'"));
  for (const auto& [key, value] : good.items()) {
    if (key == "model" || key == "provenance" || key == "bits_per_weight") continue;
    j = good, j[key] = Json::array({Json::object()});
    CAPTURE(key);
    CHECK(refusal(j).find('\n') == std::string::npos);
  }
}

TEST_CASE("plan.json: a truncated or bit-flipped text ends in an error or in a plan that keeps every rule") {
  const std::string text = to_text(plan_to_json(example()), -1);
  unsigned state = 1;
  for (int round = 0; round < 300; ++round) {
    std::string bad = text;
    state = state * 1664525u + 1013904223u;
    if (round % 3 == 0) bad.resize(state % bad.size());
    else bad[state % bad.size()] = char(bad[state % bad.size()] ^ (1 << (state >> 28) % 8));
    const auto parsed = parse_json(bad, "plan.json");
    if (!parsed) continue;
    const auto read = plan_from_json(*parsed, "plan.json");
    if (read) CHECK_FALSE(find_fault(read->plan));
    else CHECK_FALSE(read.error().message().empty());
  }
}

TEST_CASE("plan.hpp: names are checked, comments cannot break out, equal plans give equal text") {
  const PlanDocument d = example();
  const std::string text = plan_header(d, "edge");
  CHECK(text == plan_header(d, "edge"));
  CHECK(contains(text, "inline constexpr auto edge = klens::checked(klens::Plan<8>{"));
  CHECK(contains(text, "// 606208 bytes    KL 3.25e-05   fits\n"));
  CHECK(contains(text, "a new line and a trailing\n"));
  CHECK_FALSE(is_identifier("model-plan"));
  CHECK_FALSE(is_identifier("1plan"));
  CHECK_FALSE(is_identifier(""));
  CHECK(is_identifier("model_plan"));
  CHECK_FALSE(write_plan_header("never_written.hpp", d, "two words"));
}

TEST_CASE("plan.hpp: compiles to the same plan") {
  const char* compiler = std::getenv("CXX");
  const std::string cxx = compiler != nullptr && *compiler != '\0' ? compiler : "c++";
  const auto folder = std::filesystem::temp_directory_path() / ("klens_plan_" + std::to_string(getpid()));
  std::filesystem::create_directories(folder);
  const PlanDocument d = example();
  REQUIRE(write_plan_header((folder / "plan.hpp").string(), d));
  REQUIRE(write_plan_header((folder / "states.hpp").string(), with_states(), "rounded"));
  std::ofstream((folder / "use.cpp").string())
      << "#include \"plan.hpp\"\n#include \"states.hpp\"\n"
         "static_assert(klens_plan::rounded.layers[2].attention.state == klens::State::s4);\n"
         "static_assert(klens_plan::rounded.layers[3].scan.state == klens::State::s8 && klens_plan::rounded.layers[3].conv.state == klens::State::f32);\n"
         "static_assert(klens_plan::model_plan.layers[3].x_proj == klens::formats::w8);\n"
         "static_assert(klens_plan::model_plan.layers[2].kv_source == 1 && klens_plan::model_plan.shape.norm_eps == 1e-6f);\n";
  const std::string command = cxx + " -std=c++20 -fsyntax-only -Wall -Wextra -Werror -I" KLENS_EXAMPLES "/../include " + (folder / "use.cpp").string();
  CHECK(std::system(command.c_str()) == 0);
  std::filesystem::remove_all(folder);
}
