// The specialised way gives the bits of the generic way: every level that the CPU has, 1, 2 and 3 threads, prefill and step,
// for a plan that mixes all codecs, scales and activations (mixed_plan.hpp). And what is not of the plan is refused.
#include "mixed_plan.hpp"

#include <klens/core/thread_team.hpp>
#include <klens/dispatch/select.hpp>
#include <klens/model/choose.hpp>
#include <klens/model/generic.hpp>
#include <klens/model/session.hpp>
#include <klens/quant/apply.hpp>

#include <mixed.hpp>

#include <doctest/doctest.h>

#include <cstring>

using namespace klens;

namespace {

constexpr int tokens = 70, decoded = 4;   // over the 64 rows of a chunk, so that prefill takes two passes

Model mixed_model() {
  auto model = load_model(KLENS_EXAMPLES "/models/hymba-tiny");
  REQUIRE_MESSAGE(bool(model), model.error().message());
  const auto set = apply_plan(*model, runtime_plan(klens_plan::mixed_plan));
  REQUIRE_MESSAGE(bool(set), set.error().message());
  return std::move(*model);
}

std::vector<std::int32_t> ids(int count) {
  std::vector<std::int32_t> out;
  for (int i = 0; i < count; ++i) out.push_back((i * 7919 + 101) % 4096);
  return out;
}

/// Logits of all tokens of a prefill, then of `decoded` steps.
std::vector<float> run(const Model& model, const Program& program, int threads, bool by_steps) {
  ThreadTeam team(threads);
  auto session = Session::create(model, program, team.team(), {.context = 128});
  REQUIRE_MESSAGE(bool(session), session.error().message());
  const std::int64_t vocab = model.shape().vocab, stride = logit_stride(model.shape());
  std::vector<float> out(std::size_t((tokens + decoded) * stride));
  const auto text = ids(tokens + decoded);
  int done = 0;
  if (!by_steps) {
    const auto filled = session->prefill(std::span(text).first(tokens), {.logits = {out.data(), tokens, vocab, stride}});
    REQUIRE_MESSAGE(bool(filled), filled.error().message());
    done = tokens;
  }
  for (; done < tokens + decoded; ++done) {
    const auto logits = session->step(text[std::size_t(done)]);
    REQUIRE(logits);
    std::copy(logits->begin(), logits->end(), out.begin() + std::ptrdiff_t(done * stride));
  }
  return out;
}

/// The generic way on the weakest level that was compiled: ref, unless a build leaves it out.
Program generic_reference() {
  for (const Level level : all_levels)
    if (runnable(level)) return generic_program(*table_of(level));
  FAIL("no level runs here");
  return {};
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

}  // namespace

TEST_CASE("specialised: the bits of the generic way on every level") {
  const Model model = mixed_model();
  const std::vector<float> expected = run(model, generic_reference(), 2, false);
  float largest = 0;
  for (const float x : expected) largest = std::max(largest, std::abs(x));
  CHECK(largest > 1);   // a model that says nothing would agree with anything
  int levels = 0, lacking = 0;
  for (const SpecialisedTable* table : klens_model::mixed::tables()) {
    CAPTURE(std::string(name_of(table->level)));
    if (!supports(detect(), table->level)) {
      ++lacking;
      continue;
    }
    ++levels;
    CHECK(table->layer_classes == 7);   // 4 and 7 are one
    for (const int threads : {1, 2, 3}) {
      CAPTURE(threads);
      CHECK(same_bits(run(model, program_of(*table), threads, false), expected));
    }
    CHECK(same_bits(run(model, program_of(*table), 1, true), expected));
  }
  MESSAGE(levels << " levels compared, " << lacking << " that this CPU lacks");
  CHECK(levels >= 1);
}

TEST_CASE("specialised: another format or another shape is refused, and would not give the same bits") {
  Model model = mixed_model();
  const SpecialisedTable& table = *klens_model::mixed::tables()[0];
  const std::vector<float> expected = run(model, generic_reference(), 1, false);
  const int component = model.find("model.layers.3.mamba.x_proj.0");
  REQUIRE(component >= 0);
  REQUIRE(model.set_format(component, formats::w8));
  const auto refused = Session::create(model, program_of(table), {}, {.context = 128});
  REQUIRE_FALSE(refused);
  CHECK(refused.error().message().find("model.layers.3.mamba.x_proj.0': expected f16a8") != std::string::npos);
  CHECK_FALSE(same_bits(run(model, generic_reference(), 1, false), expected));

  REQUIRE(model.set_format(component, formats::f16a8));
  REQUIRE(model.set_state_format("model.layers.3.mamba.scan_state", State::s16));
  const auto state = Session::create(model, program_of(table), {}, {.context = 128});
  REQUIRE_FALSE(state);
  CHECK(state.error().message().find("'model.layers.3.mamba.scan_state': expected s8, which the program was compiled for, found s16") != std::string::npos);
  CHECK_FALSE(same_bits(run(model, generic_reference(), 1, false), expected));
  REQUIRE(model.set_state_format("model.layers.3.mamba.scan_state", State::s8));
  REQUIRE(Session::create(model, program_of(table), {}, {.context = 128}));

  SpecialisedTable other = table;
  other.shape_hash ^= 1;
  const auto wrong = Session::create(model, program_of(other), {}, {.context = 128});
  REQUIRE_FALSE(wrong);
  CHECK(wrong.error().message().find("shape of the model") != std::string::npos);
}

TEST_CASE("specialised: memory of a session is what the budget says") {
  const Model model = mixed_model();
  const SpecialisedTable& table = *klens_model::mixed::tables()[0];
  const auto& plan = klens_plan::mixed_plan;
  CHECK(table.linear_bytes == linear_bytes(plan));
  CHECK(model.payload_bytes() == weight_bytes(plan));
  CHECK(model.parameters() == parameters(plan));
  CHECK(model.hash() == shape_hash(plan));
  std::int64_t states = 0;
  for (int l = 0; l < plan.shape.layers; ++l) {
    const LayerPlan& layer = plan.layers[std::size_t(l)];
    states += state_extent(plan.shape, layer.mixer, owns_kv(plan.layers, l), {layer.attention.state, layer.conv.state, layer.scan.state},
                           kv_capacity(plan.shape, 500)).bytes();
  }
  CHECK(states == state_bytes(plan) + kv_bytes(plan, 500));
}

TEST_CASE("specialised: choosing a level is a function of tables and features") {
  const auto tables = klens_model::mixed::tables();
  for (std::size_t i = 1; i < tables.size(); ++i) CHECK(int(tables[i - 1]->level) < int(tables[i]->level));
  const Features nothing{};
  const SpecialisedTable* weakest = select_specialised(tables, nothing);
  CHECK((weakest == nullptr || weakest->level == Level::ref));
  for (const SpecialisedTable* table : tables) {
    CHECK(select_specialised(tables, needs(table->level)) == table);
    CHECK(find_specialised(tables, table->level) == table);
  }
  CHECK(select_specialised({}, nothing) == nullptr);
  for (const SpecialisedTable* table : tables) {
    const auto chosen = choose_specialised(tables, name_of(table->level));
    CHECK(bool(chosen) == supports(detect(), table->level));
    if (chosen) CHECK(*chosen == table);
  }
  const auto unknown = choose_specialised(tables, "avx9");
  REQUIRE_FALSE(unknown);
  CHECK(unknown.error().message().find("'avx9'") != std::string::npos);
}
