// The same bits, however the tokens are cut, for any number of threads, on every level, from any layer on.
#include "fixture.hpp"

using namespace fixture;

namespace {

/// Sets of formats that together run every input path: f32 rows, int8 rows, int16 rows, shared and mixed.
struct Mix {
  const char* name;
  std::function<void(klens::Model&)> apply;
};

void each(klens::Model& model, const std::function<std::string(const klens::Component&)>& choose) {
  for (int c = 0; c < int(model.components().size()); ++c) need(model.set_format(c, format(choose(model.components()[std::size_t(c)]))));
}

const std::vector<Mix>& mixes() {
  static const std::vector<Mix> all = {
      {"reference", [](klens::Model&) {}},
      {"w4g32", [](klens::Model& m) { need(m.set_uniform(format("w4g32"))); }},
      {"w8a8", [](klens::Model& m) { need(m.set_uniform(format("w8a8"))); }},
      {"mixed",
       [](klens::Model& m) {
         each(m, [](const klens::Component& c) -> std::string {
           switch (c.role) {
             case klens::Role::embedding: return "w6";
             case klens::Role::in_proj: return c.layer % 2 ? "w3g64a16" : "w5a8";
             case klens::Role::x_proj: return c.layer % 2 ? "f32" : "nf4g64a8";
             case klens::Role::dt_proj: return "w8a16";
             case klens::Role::out_proj: return c.layer % 2 ? "w2g32" : "bf16";
             case klens::Role::gate_proj: return "w4g128a8";
             case klens::Role::up_proj: return c.layer % 3 == 0 ? "nf4g32a8" : c.layer % 3 == 1 ? "w6a16" : "w4a8";
             default: return c.layer % 2 ? "w2a16" : "w3";
           }
         });
       }},
  };
  return all;
}

std::vector<std::int32_t> some_ids(int count) {
  const auto golden = need(klens::Safetensors::open(data + "/golden.safetensors"));
  std::vector<std::int32_t> ids = golden_ids(golden);
  ids.resize(std::size_t(count));
  return ids;
}

/// Logits of all tokens, fed in calls of `piece` tokens.
std::vector<float> in_pieces(klens::Session& session, const std::vector<std::int32_t>& ids, std::int64_t vocab, std::size_t piece) {
  std::vector<float> out(ids.size() * std::size_t(vocab));
  session.reset();
  for (std::size_t at = 0; at < ids.size(); at += piece) {
    const std::size_t n = std::min(piece, ids.size() - at);
    if (n == 1) {
      const auto logits = need(session.step(ids[at]));
      std::memcpy(out.data() + at * std::size_t(vocab), logits.data(), logits.size() * sizeof(float));
    } else {
      need(session.prefill(std::span(ids).subspan(at, n), {.logits = {out.data() + at * std::size_t(vocab), std::int64_t(n), vocab, vocab}}));
    }
  }
  return out;
}

}  // namespace

TEST_CASE("prefill in any pieces, and stepping, on 1, 2 and 3 threads") {
  const std::vector<std::int32_t> ids = some_ids(tokens(150, 5));   // 150 + 16 meta tokens pass the window of 128
  for (const Mix& mix : mixes()) {
    if (is_ref() && std::string(mix.name) != "mixed") continue;
    CAPTURE(mix.name);
    klens::Model model = load();
    mix.apply(model);
    const std::int64_t vocab = model.shape().vocab;
    klens::Session whole = open(model);
    const std::vector<float> expected = in_pieces(whole, ids, vocab, ids.size());
    klens::ThreadTeam two(2), three(3);
    const auto check = [&](klens::Team team, int chunk, std::size_t piece) {
      CAPTURE(team.threads);
      CAPTURE(chunk);
      CAPTURE(piece);
      klens::Session session = open(model, team, {.context = 150, .chunk = chunk});
      CHECK(same_bits(expected, in_pieces(session, ids, vocab, piece)));
    };
    check({}, 64, 1);
    check(two.team(), 200, ids.size());
    check(three.team(), 17, 50);
    check(two.team(), 9, 7);
    check(three.team(), 64, 1);
    if (!is_ref()) check({}, 5, 33);

    // Tripwire: the comparison sees one token's change of one unit in the last place.
    std::vector<float> changed = expected;
    changed[changed.size() / 2] = std::bit_cast<float>(std::bit_cast<std::uint32_t>(changed[changed.size() / 2]) ^ 1u);
    CHECK_FALSE(same_bits(expected, changed));
  }
}

TEST_CASE("the bits of the scalar level") {
  if (is_ref()) return;
  const klens::KernelTable* ref = klens::table_of(klens::Level::ref);
  REQUIRE(ref != nullptr);
  const std::vector<std::int32_t> ids = some_ids(7);
  for (const Mix& mix : mixes()) {
    CAPTURE(mix.name);
    klens::Model model = load();
    mix.apply(model);
    const std::int64_t vocab = model.shape().vocab;
    klens::Session mine = open(model);
    klens::Session scalar = need(klens::Session::create(model, klens::generic_program(*ref)));
    CHECK(same_bits(in_pieces(mine, ids, vocab, 7), in_pieces(scalar, ids, vocab, 7)));
    CHECK(same_bits(in_pieces(mine, ids, vocab, 1), in_pieces(scalar, ids, vocab, 4)));
  }
}

TEST_CASE("a run from the cached inputs of any layer") {
  klens::Model model = load();
  const klens::Shape& s = model.shape();
  const std::vector<std::int32_t> ids = some_ids(tokens(150, 3));
  const std::int64_t n = std::int64_t(ids.size()), rows = n + s.meta;
  std::vector<std::vector<float>> cached(std::size_t(s.layers), std::vector<float>(std::size_t(rows * s.hidden)));
  std::vector<klens::Rows<float>> inputs;
  for (auto& c : cached) inputs.push_back({c.data(), rows, s.hidden, s.hidden});
  klens::Session session = open(model);
  std::vector<float> expected(std::size_t(n * s.vocab)), got(expected.size());
  need(session.prefill(ids, {.logits = {expected.data(), n, s.vocab, s.vocab}, .inputs = inputs}));
  for (int layer = 0; layer < s.layers; layer += is_ref() ? 4 : 1) {
    CAPTURE(layer);
    // A change in this layer, once from the cache and once in full.
    const int c = model.find("model.layers." + std::to_string(layer) + ".mamba.in_proj");
    need(model.set_format(c, format("w3g32")));
    need(session.run_from(layer, inputs, {.logits = {got.data(), n, s.vocab, s.vocab}}));
    session.reset();
    const std::vector<float> full = logits_of(session, ids, s.vocab);
    CHECK(same_bits(full, got));
    CHECK_FALSE(same_bits(full, expected));
    need(model.set_format(c, model.reference_precision(c)));
    need(session.run_from(layer, inputs, {.logits = {got.data(), n, s.vocab, s.vocab}}));
    CHECK(same_bits(expected, got));
  }
  CHECK(session.first_layer_of(2) == 1);
  CHECK(session.first_layer_of(6) == 5);
  CHECK(session.first_layer_of(3) == 3);
}

TEST_CASE("nothing of an earlier sequence is left after reset, not even NaN") {
  klens::Model model = load();
  const std::vector<std::int32_t> ids = some_ids(tokens(60, 4));
  const std::int64_t vocab = model.shape().vocab;
  klens::Session session = open(model);
  const std::vector<float> expected = in_pieces(session, ids, vocab, ids.size());
  const int c = model.find("model.layers.0.mamba.in_proj");
  klens::PackedBuffer poison = need(model.quantize(c, format("f32")));
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::memcpy(poison.panel_lines(3), &nan, 4);
  model.bind(c, poison.matrix());
  std::vector<std::int32_t> longer = ids;
  longer.insert(longer.end(), ids.begin(), ids.end());
  const std::vector<float> spoilt = in_pieces(session, longer, vocab, longer.size());
  CHECK(std::isnan(spoilt.back()));
  model.unbind(c);
  CHECK(same_bits(expected, in_pieces(session, ids, vocab, ids.size())));
  CHECK(same_bits(expected, in_pieces(session, ids, vocab, 1)));
}
