// hymba-tiny against PyTorch in float64 (tests/data/hymba-tiny): logits, hidden states, greedy tokens, uniform formats.
#include "fixture.hpp"

using namespace fixture;

namespace {

struct Run {
  std::vector<float> logits;
  std::vector<std::vector<float>> hidden;
};

Run run(klens::Session& session, const klens::Shape& s, const std::vector<std::int32_t>& ids) {
  Run r;
  const std::int64_t n = std::int64_t(ids.size());
  r.logits.resize(ids.size() * std::size_t(s.vocab));
  r.hidden.resize(std::size_t(s.layers + 1), std::vector<float>(ids.size() * std::size_t(s.hidden)));
  std::vector<klens::Rows<float>> taps;
  for (auto& h : r.hidden) taps.push_back({h.data(), n, s.hidden, s.hidden});
  session.reset();
  need(session.prefill(ids, {.logits = {r.logits.data(), n, s.vocab, s.vocab}, .hidden = taps}));
  return r;
}

bool agrees(const Run& r, const klens::Safetensors& golden, std::string& what) {
  const Distance logits = distance(r.logits, floats(golden, "logits"), r.logits.size());
  what = "logits " + std::to_string(logits.largest) + " " + std::to_string(logits.rms);
  if (!logits_agree(logits)) return false;
  for (std::size_t l = 0; l < r.hidden.size(); ++l) {
    const Distance d = distance(r.hidden[l], floats(golden, "hidden." + std::to_string(l)), r.hidden[l].size());
    what = "hidden." + std::to_string(l) + " " + std::to_string(d.largest);
    if (!(d.largest <= 1e-3)) return false;
  }
  return true;
}

}  // namespace

TEST_CASE("logits and hidden states agree with float64, and a corrupted value does not") {
  klens::Model model = load();
  const auto golden = need(klens::Safetensors::open(data + "/golden.safetensors"));
  std::vector<std::int32_t> ids = golden_ids(golden);
  ids.resize(std::size_t(tokens(200, 24)));
  klens::Session session = open(model);
  Run r = run(session, model.shape(), ids);
  std::string what;
  CHECK_MESSAGE(agrees(r, golden, what), what);

  SUBCASE("one logit off by 2e-4 of the rms") {
    const Distance before = distance(r.logits, floats(golden, "logits"), r.logits.size());
    CHECK(before.largest < 5e-5);
    r.logits[4096 * 7 + 11] += 2e-4f * 4.4f;
    CHECK_FALSE(agrees(r, golden, what));
  }
  SUBCASE("one hidden value off") {
    r.hidden[3][192 * 5 + 1] += 2e-3f * 3.4f;
    CHECK_FALSE(agrees(r, golden, what));
  }
  SUBCASE("one weight of one projection off by a tenth") {
    const int c = model.find("model.layers.3.mamba.x_proj.0");
    REQUIRE(c >= 0);
    klens::PackedBuffer f32 = need(model.quantize(c, format("f32")));
    float w;
    std::memcpy(&w, f32.panel_lines(1) + 20, 4);
    w += 0.1f;
    std::memcpy(f32.panel_lines(1) + 20, &w, 4);
    model.bind(c, f32.matrix());
    CHECK_FALSE(agrees(run(session, model.shape(), ids), golden, what));
    model.unbind(c);
    CHECK(agrees(run(session, model.shape(), ids), golden, what));
  }
}

TEST_CASE("f32 weights give the bits of the checkpoint's f16") {
  klens::Model model = load();
  const auto golden = need(klens::Safetensors::open(data + "/golden.safetensors"));
  std::vector<std::int32_t> ids = golden_ids(golden);
  ids.resize(std::size_t(tokens(40, 6)));
  klens::Session session = open(model);
  const std::vector<float> f16 = logits_of(session, ids, model.shape().vocab);
  need(model.set_uniform(format("f32")));
  session.reset();
  CHECK(same_bits(f16, logits_of(session, ids, model.shape().vocab)));
}

TEST_CASE("greedy tokens are those of float64") {
  if (is_ref()) return;   // 232 tokens; the bits of all levels are equal (equality.cpp)
  const klens::Model model = load();
  const auto golden = need(klens::Safetensors::open(data + "/golden.safetensors"));
  const auto expected = need(klens::read_i64(*golden.find("greedy")));
  REQUIRE(expected.size() == 32);
  klens::Session session = open(model);
  need(session.prefill(golden_ids(golden)));
  std::span<const float> logits = session.logits();
  for (std::size_t i = 0; i < expected.size(); ++i) {
    std::int32_t best = 0;
    float second = -std::numeric_limits<float>::infinity();
    for (std::int32_t v = 1; v < model.shape().vocab; ++v)
      if (logits[std::size_t(v)] > logits[std::size_t(best)]) best = v;
    for (std::int32_t v = 0; v < model.shape().vocab; ++v)
      if (v != best) second = std::max(second, logits[std::size_t(v)]);
    if (logits[std::size_t(best)] - second < 1e-3f) break;   // two candidates as good as equal: either may follow
    CHECK(best == expected[i]);
    logits = need(session.step(best));
  }
}

TEST_CASE("uniform formats agree with float64 arithmetic on equally rounded weights") {
  if (is_ref()) return;   // 1400 tokens
  klens::Model model = load();
  const auto uniform = need(klens::Safetensors::open(data + "/uniform.safetensors"));
  const std::vector<std::int32_t> ids = golden_ids(uniform);
  klens::Session session = open(model);
  const std::int64_t vocab = model.shape().vocab;
  std::vector<float> previous;
  for (const char* name : {"f32", "w8", "w6", "w4", "w4g32", "w3g64", "w2g32"}) {
    CAPTURE(name);
    need(model.set_uniform(format(name)));
    session.reset();
    std::vector<float> logits(40 * std::size_t(vocab));
    need(session.prefill(ids, {.logits = {logits.data(), 40, vocab, vocab}}));
    const std::vector<float> reference = floats(uniform, std::string("logits.") + name);
    const Distance d = distance(logits, reference, logits.size());
    CHECK_MESSAGE(logits_agree(d), d.largest << " " << d.rms);
    if (!previous.empty()) CHECK_FALSE(logits_agree(distance(previous, reference, previous.size())));   // the tolerance tells formats apart
    previous = logits;
  }
}
