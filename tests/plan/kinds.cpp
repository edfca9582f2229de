// Plans of layers with experts and with shared blocks: sites, bytes, rules, plan.json and plan.hpp.
#include <klens/io/plan_json.hpp>
#include <klens/plan/check.hpp>
#include <klens/plan/formats.hpp>
#include <klens/plan/presets.hpp>

#include <doctest/doctest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>

using namespace klens;
namespace f = klens::formats;

namespace {

/// Mamba-1, attention with experts, Mamba-1 with experts and a shared ffn.
constexpr Plan<3, 8> with_experts() {
  Plan<3, 8> plan;
  plan.shape = {.family = Family::granitemoehybrid, .layers = 3, .hidden = 64, .vocab = 100, .heads = 4, .kv_heads = 2, .qk_dim = 16,
                .v_dim = 16, .inner = 128, .n_state = 16, .conv_taps = 4, .ffn = 80, .tied_head = true, .norm_eps = 1e-6f, .ssm_heads = 8,
                .ssm_groups = 1, .norm_groups = 1, .inner_norm_eps = 1e-6f, .experts = 4, .experts_used = 2, .expert_ffn = 48};
  const Mixer mixers[] = {Mixer::mamba2, Mixer::attention, Mixer::mamba2};
  const Ffn ffns[] = {Ffn::swiglu, Ffn::moe, Ffn::moe_shared};
  for (int l = 0; l < 3; ++l)
    plan.layers[std::size_t(l)].kv_source = l, plan.layers[std::size_t(l)].mixer = mixers[l], plan.layers[std::size_t(l)].ffn = ffns[l];
  plan = presets::uniform(plan, f::w8);
  plan.experts[5].up_proj = f::w4g32;   // layer 2, expert 1
  return plan;
}

/// Mamba-2 in four layers; 1 and 3 run the shared block of 1.
constexpr Plan<4> with_block() {
  Plan<4> plan;
  plan.shape = {.family = Family::zamba2, .layers = 4, .hidden = 64, .vocab = 100, .heads = 4, .kv_heads = 4, .qk_dim = 32, .v_dim = 32,
                .inner = 128, .n_state = 16, .conv_taps = 4, .ffn = 96, .tied_head = true, .norm_eps = 1e-5f, .ssm_heads = 8,
                .ssm_groups = 1, .norm_groups = 1, .inner_norm_eps = 1e-5f, .adapter_rank = 8, .attention_adapters = true};
  for (int l = 0; l < 4; ++l) {
    LayerPlan& layer = plan.layers[std::size_t(l)];
    layer.kv_source = l, layer.mixer = l % 2 == 1 ? Mixer::block_mamba2 : Mixer::mamba2, layer.ffn = Ffn::none;
    if (l % 2 == 1) layer.block_source = 1;
  }
  plan = presets::uniform(plan, f::w8);
  plan.layers[1].gate_proj = f::w4g32;
  return plan;
}

/// Mamba-3 and SwiGLU.
constexpr Plan<2> with_mamba3() {
  Plan<2> plan;
  plan.shape = {.family = Family::mamba3, .layers = 2, .hidden = 64, .vocab = 100, .inner = 128, .n_state = 24, .ffn = 96, .tied_head = true,
                .norm_eps = 1e-5f, .ssm_heads = 8, .ssm_groups = 2, .inner_norm_eps = 1e-5f, .ssm_angles = 6, .least_rate = 1e-4f};
  for (int l = 0; l < 2; ++l) plan.layers[std::size_t(l)].kv_source = l, plan.layers[std::size_t(l)].mixer = Mixer::mamba3;
  return presets::uniform(plan, f::w8);
}

/// Experts behind a router of sigmoids.
constexpr Plan<2, 4> with_sigmoids() {
  Plan<2, 4> plan;
  plan.shape = {.family = Family::nemotron_h, .layers = 2, .hidden = 64, .vocab = 100, .heads = 4, .kv_heads = 2, .qk_dim = 16, .v_dim = 16,
                .tied_head = true, .norm_eps = 1e-5f, .experts = 4, .experts_used = 2, .expert_ffn = 48, .shared_ffn = 80, .expert_latent = 32,
                .router_groups = 2, .router_groups_used = 1, .router_normed = true, .router_scale = 2.5f};
  for (int l = 0; l < 2; ++l) plan.layers[std::size_t(l)].kv_source = l;
  plan.layers[0].mixer = Mixer::attention, plan.layers[0].ffn = Ffn::none, plan.layers[1].mixer = Mixer::none, plan.layers[1].ffn = Ffn::moe_relu2;
  return presets::uniform(plan, f::w8);
}

constexpr auto sigmoid_plan = checked(with_sigmoids());
constexpr auto mamba3_plan = checked(with_mamba3());
constexpr auto experts_plan = checked(with_experts());
constexpr auto block_plan = checked(with_block());
// Linears: embedding; 2 + 3 of layer 0; 4 + 12 of 1; 2 + 3 + 12 of 2.
constexpr int sites_of(const auto& plan) {
  int n = 0;
  for_each_site(plan, [&n](const Site&) { ++n; });
  return n;
}
static_assert(sites_of(experts_plan) == 1 + 5 + 16 + 17);
// Embedding; in_proj and out_proj of 4 layers; 7 of the block, once; block_out, 6 + 3 adapters of 2 layers.
static_assert(sites_of(block_plan) == 1 + 8 + 7 + 2 * 10);
static_assert(has_role(block_plan, 1, Role::q_proj) && !has_role(block_plan, 3, Role::q_proj) && uses_role(block_plan, 3, Role::q_proj));

PlanDocument document(RuntimePlan plan) {
  auto made = make_plan("a model", plan, small_bytes(plan), {}, {}, "test");
  REQUIRE_MESSAGE(bool(made), made.error().message());
  return *std::move(made);
}

std::string fault_of(RuntimePlan plan, const std::function<void(RuntimePlan&)>& break_it) {
  break_it(plan);
  const auto fault = find_fault(plan);
  return fault ? fault->field : "";
}

}  // namespace

TEST_CASE("experts and shared blocks: every linear once, by its name") {
  const PlanDocument experts = document(runtime_plan(experts_plan)), block = document(runtime_plan(block_plan));
  CHECK(experts.entries[25].component == "model.layers.2.shared_mlp.up_proj");
  CHECK(experts.entries.back().component == "model.layers.2.block_sparse_moe.experts.3.down_proj");
  for (const PlanEntry& e : experts.entries)
    CHECK((e.format == f::w4g32) == (e.component == "model.layers.2.block_sparse_moe.experts.1.up_proj"));
  int of_block = 0;
  for (const PlanEntry& e : block.entries) of_block += e.component.find("shared_transformer.") != std::string::npos;
  CHECK(of_block == 7 + 2 * 9);
  CHECK(block.entries.back().component == "model.layers.3.shared_transformer.feed_forward.up_proj_adapter.1");
  std::int64_t values = small_values(experts_plan);
  for_each_site(experts_plan, [&values](const Site& s) { values += std::int64_t(s.rows) * s.cols; });
  CHECK(parameters(experts_plan) == values);
}

TEST_CASE("experts and shared blocks: plan.json and plan.hpp give the same plan back") {
  const char* compiler = std::getenv("CXX");
  const std::string cxx = compiler != nullptr && *compiler != '\0' ? compiler : "c++";
  const auto folder = std::filesystem::temp_directory_path() / ("klens_kinds_" + std::to_string(getpid()));
  std::filesystem::create_directories(folder);
  int n = 0;
  for (const PlanDocument& d : {document(runtime_plan(experts_plan)), document(runtime_plan(block_plan)), document(runtime_plan(mamba3_plan)), document(runtime_plan(sigmoid_plan))}) {
    const auto read = plan_from_json(plan_to_json(d), "plan.json");
    REQUIRE_MESSAGE(bool(read), read.error().message());
    CHECK(read->plan == d.plan);
    REQUIRE(write_plan_header((folder / ("plan" + std::to_string(n) + ".hpp")).string(), d, "plan" + std::to_string(n)));
    ++n;
  }
  std::ofstream((folder / "use.cpp").string())
      << "#include \"plan0.hpp\"\n#include \"plan1.hpp\"\n"
         "static_assert(klens_plan::plan0.experts.size() == 8 && klens_plan::plan0.experts[5].up_proj == klens::formats::w4g32);\n"
         "static_assert(klens_plan::plan0.experts[4].up_proj == klens::formats::w8 && klens_plan::plan0.layers[2].ffn == klens::Ffn::moe_shared);\n"
         "static_assert(klens_plan::plan1.layers[3].block_source == 1 && klens_plan::plan1.layers[1].gate_proj == klens::formats::w4g32);\n";
  const std::string command = cxx + " -std=c++20 -fsyntax-only -Wall -Wextra -Werror -I" KLENS_EXAMPLES "/../include " + (folder / "use.cpp").string();
  CHECK(std::system(command.c_str()) == 0);
  std::filesystem::remove_all(folder);
  Json j = plan_to_json(document(runtime_plan(experts_plan)));
  j["shape"]["experts"] = 100000;
  const auto refused = plan_from_json(j, "plan.json");
  REQUIRE_FALSE(refused);
  CHECK(refused.error().message().find("'experts'") != std::string::npos);
}

TEST_CASE("experts and shared blocks: a broken rule is found with its field") {
  const RuntimePlan experts = runtime_plan(experts_plan), block = runtime_plan(block_plan);
  CHECK(fault_of(experts, [](auto&) {}) == "");
  CHECK(fault_of(experts, [](auto& p) { p.shape.experts = 0; }) == "shape.experts");
  CHECK(fault_of(experts, [](auto& p) { p.shape.experts = 513; }) == "shape.experts");
  CHECK(fault_of(experts, [](auto& p) { p.shape.experts_used = 5; }) == "shape.experts_used");
  CHECK(fault_of(experts, [](auto& p) { p.shape.expert_ffn = 0; }) == "shape.expert_ffn");
  CHECK(fault_of(experts, [](auto& p) { p.experts.pop_back(); }) == "shape.experts");
  CHECK(fault_of(experts, [](auto& p) { p.experts[6].down_proj = {7, per_row()}; }) == "experts[6].down_proj.weight_bits");
  CHECK(fault_of(experts, [](auto& p) { p.layers[1].ffn = p.layers[2].ffn = Ffn::swiglu; }) == "shape.experts");
  CHECK(fault_of(experts, [](auto& p) { p.shape.adapter_rank = 4; }) == "shape.adapter_rank");
  CHECK(fault_of(experts, [](auto& p) { p.shape.scan_heads = 0; }) == "shape.scan_heads");
  CHECK(fault_of(experts, [](auto& p) { p.layers[1].block_source = 0; }) == "layers[1].block_source");
  CHECK(fault_of(block, [](auto&) {}) == "");
  const RuntimePlan sigmoids = runtime_plan(sigmoid_plan);
  CHECK(fault_of(sigmoids, [](auto&) {}) == "");
  CHECK(fault_of(sigmoids, [](auto& p) { p.shape.router_groups = 4; }) == "shape.router_groups");   // of one expert each
  CHECK(fault_of(sigmoids, [](auto& p) { p.shape.router_groups = 3; }) == "shape.router_groups");
  CHECK(fault_of(sigmoids, [](auto& p) { p.shape.router_groups_used = 3; }) == "shape.router_groups_used");
  CHECK(fault_of(sigmoids, [](auto& p) { p.shape.experts_used = 3; }) == "shape.experts_used");   // one group holds two
  CHECK(fault_of(sigmoids, [](auto& p) { p.shape.router_scale = 0; }) == "shape.router_scale");
  CHECK(fault_of(sigmoids, [](auto& p) { p.shape.shared_ffn = 0; }) == "shape.shared_ffn");
  CHECK(fault_of(sigmoids, [](auto& p) { p.shape.expert_latent = -1; }) == "shape.expert_latent");
  CHECK(fault_of(sigmoids, [](auto& p) { p.layers[1].latent_in = {7, per_row()}; }) == "layers[1].latent_in.weight_bits");
  CHECK(fault_of(sigmoids, [](auto& p) { p.layers[1].shared_down = {7, per_row()}; }) == "layers[1].shared_down.weight_bits");
  CHECK(fault_of(sigmoids, [](auto& p) { p.layers[1].ffn = Ffn::moe; }) == "shape.shared_ffn");
  CHECK(fault_of(experts, [](auto& p) { p.shape.router_groups = 1; }) == "shape.router_groups");
  CHECK(fault_of(experts, [](auto& p) { p.shape.expert_latent = 8; }) == "shape.expert_latent");
  const RuntimePlan mamba3 = runtime_plan(mamba3_plan);
  CHECK(fault_of(mamba3, [](auto&) {}) == "");
  CHECK(fault_of(mamba3, [](auto& p) { p.shape.ssm_angles = 13; }) == "shape.ssm_angles");
  CHECK(fault_of(mamba3, [](auto& p) { p.shape.ssm_angles = 0; }) == "shape.ssm_angles");
  CHECK(fault_of(mamba3, [](auto& p) { p.shape.n_state = 23; }) == "shape.n_state");
  CHECK(fault_of(mamba3, [](auto& p) { p.shape.n_state = 258; }) == "shape.n_state");
  CHECK(fault_of(mamba3, [](auto& p) { p.shape.least_rate = 0; }) == "shape.least_rate");
  CHECK(fault_of(mamba3, [](auto& p) { p.shape.conv_taps = 4; }) == "shape.conv_taps");
  CHECK(fault_of(experts, [](auto& p) { p.shape.ssm_angles = 2; }) == "shape.ssm_angles");
  CHECK(fault_of(experts, [](auto& p) { p.shape.least_rate = 1; }) == "shape.least_rate");
  for (const int source : {-1, 0, 2, 3, 4}) {
    CAPTURE(source);
    CHECK(fault_of(block, [&](auto& p) { p.layers[3].block_source = source; }) == (source == 3 ? "" : "layers[3].block_source"));
  }
  CHECK(fault_of(block, [](auto& p) { p.layers[3].block_out = {7, per_row()}; }) == "layers[3].block_out.weight_bits");
  CHECK(fault_of(block, [](auto& p) { p.layers[3].q_proj = {7, per_row()}; }) == "");   // that of layer 1 holds
  CHECK(fault_of(block, [](auto& p) { p.layers[1].q_proj = {7, per_row()}; }) == "layers[1].q_proj.weight_bits");
}
