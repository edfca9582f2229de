// Models with random weights: every kind of layer runs, numbers stay finite, steps and prefill agree, and what needs a checkpoint
// says so. The shapes are the presets', made small.
#include "fixture.hpp"

#include <klens/model/random_model.hpp>
#include <klens/plan/presets.hpp>

namespace {

using namespace klens;

/// Layers [0, 3) of a preset, narrow; what its layers are stays.
RuntimePlan small_plan(RuntimePlan plan) {
  Shape& s = plan.shape;
  const Uses uses = uses_of(plan.layers);
  plan.layers.resize(std::min<std::size_t>(plan.layers.size(), 3));
  s.layers = int(plan.layers.size()), s.hidden = 96, s.vocab = 320;
  if (uses.hymba) s.heads = 4, s.kv_heads = 2, s.qk_dim = 16, s.v_dim = 32, s.rotary_dim = 16, s.meta = 5;
  else if (uses.attention) s.heads = 4, s.kv_heads = 2, s.qk_dim = s.v_dim = s.rotary_dim = 16;
  if (uses.conv()) s.inner = 128;
  if (uses.scan) s.dt_rank = 9;
  if (uses.ssd) s.ssm_heads = 4, s.n_state = 32;
  if (uses.ffn) s.ffn = 160;
  return plan;
}

bool all_finite(std::span<const float> values) {
  return std::all_of(values.begin(), values.end(), [](float v) { return std::isfinite(v); });
}

TEST_CASE("models with random weights run, stay finite, and step as they prefill") {
  for (const char* const name : {"f32", "w8a8", "w4g32a8", "nf4g64"})
    presets::for_each_preset(fixture::format(name), [&](const char* like, const auto& preset) {
      CAPTURE(name);
      CAPTURE(like);
      const RuntimePlan plan = small_plan(runtime_plan(preset));
      const Model model = fixture::need(random_model(plan, like));
      CHECK(model.plan() == plan);
      CHECK(model.parameters() == parameters(plan));
      const int tokens = fixture::tokens(700, 40), stepped = 9;
      std::vector<std::int32_t> ids;
      for (int i = 0; i < tokens; ++i) ids.push_back(i * 37 % plan.shape.vocab);
      Session whole = fixture::open(model, {}, {.context = tokens}), cut = fixture::open(model, {}, {.context = tokens, .chunk = 33});
      fixture::need(whole.prefill(ids));
      fixture::need(cut.prefill(std::span(ids).first(std::size_t(tokens - stepped))));
      for (int i = tokens - stepped; i < tokens; ++i) fixture::need(cut.step(ids[std::size_t(i)]));
      CHECK(all_finite(whole.logits()));
      CHECK(std::equal(whole.logits().begin(), whole.logits().end(), cut.logits().begin()));
      float least = whole.logits()[0], most = least;
      for (const float v : whole.logits()) least = std::min(least, v), most = std::max(most, v);
      CHECK(most - least > 1e-4f);
    });
}

TEST_CASE("random weights have no pristine ones, and nothing to write") {
  Model model = fixture::need(random_model(runtime_plan(presets::hymba_tiny(fixture::format("w8a8"))), "hymba-tiny"));
  CHECK(model.is_random());
  const auto changed = model.set_uniform(fixture::format("w4g32"));
  REQUIRE(!changed);
  CHECK(changed.error().message().find("random weights") != std::string::npos);
  CHECK(model.precision(0) == fixture::format("w8a8"));
  CHECK(!model.write("never_written.klens", {}));
  RuntimePlan wrong = model.plan();
  wrong.shape.kv_heads = 4;
  const auto refused = random_model(wrong, "nothing");
  REQUIRE(!refused);
  CHECK(refused.error().message().find("heads") != std::string::npos);
}

TEST_CASE("a session skips tokens without running them") {
  const Model model = fixture::need(random_model(runtime_plan(presets::hymba_tiny(fixture::format("w8a8"))), "hymba-tiny"));
  Session session = fixture::open(model, {}, {.context = 64});
  fixture::need(session.skip(50));
  CHECK(session.length() == 50);
  const std::span<const float> logits = fixture::need(session.step(7));
  CHECK(all_finite(logits));
  CHECK(session.length() == 51);
  CHECK(!session.skip(14));
  CHECK(!session.skip(-1));
  session.reset();
  CHECK(session.length() == 0);
}

}  // namespace
