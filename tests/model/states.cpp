// States in formats, on every family: any cut of the tokens, any number of threads and every level give one bit pattern;
// formats follow the model into plans and packed files; memory is what the budget says; sessions refuse what they were
// not made for.
#include "fixture.hpp"

#include <klens/quant/apply.hpp>

using namespace fixture;
using klens::State;
using klens::StateKind;

namespace {

const std::string families = std::string(KLENS_TEST_DATA) + "/families/";

/// hymba-tiny and a model of every other kind of layer.
const std::vector<std::string> checkpoints = {checkpoint,          families + "mamba",     families + "mamba2", families + "falcon_h1",
                                              families + "lfm2", families + "nemotron_h"};

/// Formats of states that together are all there are.
const std::vector<std::string> choices = {"s8", "f16", "scan=s16,conv=s16,kv=s4", "scan=s8,conv=f16,kv=s8"};

klens::Model load_states(const std::string& path, const std::string& states) {
  klens::Model model = need(klens::load_model(path));
  need(klens::apply_states(model, need(klens::parse_states(states))));
  return model;
}

std::vector<std::int32_t> some_ids(int count, int vocab) {
  std::vector<std::int32_t> ids;
  for (int i = 0; i < count; ++i) ids.push_back((i * 7919 + i * i * 31 + 101) % vocab);
  return ids;
}

/// Logits of all tokens, fed in calls of `piece` tokens.
std::vector<float> in_pieces(klens::Session& session, const std::vector<std::int32_t>& ids, std::int64_t vocab, std::size_t piece) {
  std::vector<float> out(ids.size() * std::size_t(vocab)), rows;
  const std::int64_t stride = klens::round_up(vocab, klens::lanes);
  session.reset();
  for (std::size_t at = 0; at < ids.size(); at += piece) {
    const std::size_t n = std::min(piece, ids.size() - at);
    rows.resize(n * std::size_t(stride));
    need(session.prefill(std::span(ids).subspan(at, n), {.logits = {rows.data(), std::int64_t(n), vocab, stride}}));
    for (std::size_t t = 0; t < n; ++t)
      std::memcpy(out.data() + (at + t) * std::size_t(vocab), rows.data() + t * std::size_t(stride), std::size_t(vocab) * sizeof(float));
  }
  return out;
}

}  // namespace

TEST_CASE("states: prefill in any pieces, stepping and threads give the same bits, other than those of f32 states") {
  for (const std::string& path : checkpoints)
    for (const std::string& states : choices) {
      if (is_ref() && states != "s8") continue;
      CAPTURE(path);
      CAPTURE(states);
      const klens::Model model = load_states(path, states), f32 = need(klens::load_model(path));
      const std::int64_t vocab = model.shape().vocab;
      // Two tokens of a convolution's state and of a cache already differ from f32's.
      const std::vector<std::int32_t> ids = some_ids(tokens(150, 6), int(vocab));
      klens::Session whole = open(model), exact = open(f32);
      const std::vector<float> expected = in_pieces(whole, ids, vocab, ids.size());
      CHECK_FALSE(same_bits(expected, in_pieces(exact, ids, vocab, ids.size())));
      for (const float v : expected) REQUIRE(std::isfinite(v));
      klens::ThreadTeam two(2), three(3);
      const auto check = [&](klens::Team team, int chunk, std::size_t piece) {
        CAPTURE(chunk);
        CAPTURE(piece);
        klens::Session session = open(model, team, {.context = 150, .chunk = chunk});
        CHECK(same_bits(expected, in_pieces(session, ids, vocab, piece)));
      };
      check({}, 64, 1);
      check(two.team(), 17, 50);
      if (!is_ref()) check(three.team(), 9, 7);
      std::vector<float> changed = expected;   // tripwire
      changed[changed.size() / 2] = std::bit_cast<float>(std::bit_cast<std::uint32_t>(changed[changed.size() / 2]) ^ 1u);
      CHECK_FALSE(same_bits(expected, changed));
    }
}

TEST_CASE("states: the bits of the scalar level") {
  if (is_ref()) return;
  const klens::KernelTable* ref = klens::table_of(klens::Level::ref);
  REQUIRE(ref != nullptr);
  for (const std::string& path : checkpoints)
    for (const std::string& states : choices) {
      CAPTURE(path);
      CAPTURE(states);
      const klens::Model model = load_states(path, states);
      const std::int64_t vocab = model.shape().vocab;
      const std::vector<std::int32_t> ids = some_ids(20, int(vocab));
      klens::Session mine = open(model);
      klens::Session scalar = need(klens::Session::create(model, klens::generic_program(*ref)));
      CHECK(same_bits(in_pieces(mine, ids, vocab, 20), in_pieces(scalar, ids, vocab, 3)));
    }
}

TEST_CASE("states: after reset a session starts anew") {
  for (const std::string& path : {checkpoint, families + "mamba2"}) {
    const klens::Model model = load_states(path, "s8");
    const std::int64_t vocab = model.shape().vocab;
    const std::vector<std::int32_t> ids = some_ids(tokens(60, 4), int(vocab)), others = some_ids(tokens(90, 7), int(vocab) - 1);
    klens::Session session = open(model);
    const std::vector<float> expected = in_pieces(session, ids, vocab, ids.size());
    (void)in_pieces(session, others, vocab, others.size());
    CHECK(same_bits(expected, in_pieces(session, ids, vocab, 1)));
  }
}

TEST_CASE("states: a run from the cached inputs of any layer, K and V of others too") {
  klens::Model model = load();
  const klens::Shape& s = model.shape();
  const std::vector<std::int32_t> ids = some_ids(tokens(150, 3), s.vocab);
  const std::int64_t n = std::int64_t(ids.size()), rows = n + s.meta;
  std::vector<std::vector<float>> cached(std::size_t(s.layers), std::vector<float>(std::size_t(rows * s.hidden)));
  std::vector<klens::Rows<float>> inputs;
  for (auto& c : cached) inputs.push_back({c.data(), rows, s.hidden, s.hidden});
  klens::Session session = open(model);
  std::vector<float> got(std::size_t(n * s.vocab));
  need(session.prefill(ids, {.logits = {got.data(), n, s.vocab, s.vocab}, .inputs = inputs}));
  for (const char* name : {"model.layers.1.kv_cache", "model.layers.5.mamba.scan_state", "model.layers.6.mamba.conv_state"}) {
    CAPTURE(name);
    const int state = model.find_state(name);
    REQUIRE(state >= 0);
    need(model.set_state_format(state, State::s8));
    klens::Session rounded = open(model);
    need(rounded.run_from(model.states()[std::size_t(state)].layer, inputs, {.logits = {got.data(), n, s.vocab, s.vocab}}));
    klens::Session whole = open(model);
    CHECK(same_bits(logits_of(whole, ids, s.vocab), got));
    need(model.set_state_format(state, State::f32));
  }
}

TEST_CASE("states: names, formats, and the layers that read another's K and V") {
  klens::Model model = load();
  CHECK(model.states().size() == 8 + 8 + 6);
  CHECK(model.states()[0].name == "model.layers.0.mamba.scan_state");
  CHECK(model.states()[1].name == "model.layers.0.mamba.conv_state");
  CHECK(model.states()[2].name == "model.layers.0.kv_cache");
  CHECK(model.find_state("model.layers.2.kv_cache") == -1);   // layer 2 reads that of 1
  need(model.set_state_format("model.layers.1.kv_cache", State::s4));
  CHECK(model.view().layers[2].states.kv == State::s4);
  CHECK(model.plan().layers[2].attention.state == State::s4);
  CHECK_FALSE(klens::find_fault(model.plan()));

  const std::uint64_t version = model.version();
  const auto refused = model.set_state_format("model.layers.1.kv_cache", State::s16);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().message().find("'model.layers.1.kv_cache'.state: expected f32, f16, s8 or s4, found s16") != std::string::npos);
  CHECK_FALSE(model.set_state_format("model.layers.1.mamba.scan_state", State::s4));
  CHECK_FALSE(model.set_state_format("model.layers.1.mamba.in_proj", State::s8));
  CHECK_FALSE(model.set_states(State::s16));                  // a KV cache has none: nothing may change
  CHECK_FALSE(model.set_uniform(format("w8s4")));
  CHECK(model.version() == version);
  need(model.set_uniform(format("w8a8s8")));
  for (int i = 0; i < int(model.states().size()); ++i) CHECK(model.state_format(i) == State::s8);
  for (int c = 0; c < int(model.components().size()); ++c) CHECK(model.precision(c) == format("w8a8"));
  need(model.set_reference());
  for (int i = 0; i < int(model.states().size()); ++i) CHECK(model.state_format(i) == State::f32);

  for (const char* text : {"s9", "", "scan", "scan=", "kv=s8,", "s8,f16", "mlp=s8", "scan=s8 "}) CHECK_FALSE(klens::parse_states(text));
  CHECK(need(klens::parse_states("kv=s4,scan=s16")).size() == 2);
  CHECK_FALSE(klens::apply_states(model, need(klens::parse_states("kv=s16"))));

  const klens::Model lfm2 = need(klens::load_model(families + "lfm2"));
  CHECK(lfm2.find_state("model.layers.1.conv.conv_state") >= 0);
  CHECK(lfm2.find_state("model.layers.2.self_attn.kv_cache") >= 0);
  CHECK(need(klens::load_model(families + "mamba")).find_state("backbone.layers.1.mixer.scan_state") >= 0);
}

TEST_CASE("states: packed files carry them, f32 leaves no trace") {
  TempFolder folder;
  for (const std::string& path : {checkpoint, families + "mamba2"}) {
    klens::Model model = need(klens::load_model(path));
    need(model.write(folder.path() + "/f32.klens", {}));
    CHECK(need(klens::load_model(folder.path() + "/f32.klens")).packed_info()->sites.empty());
    need(model.set_uniform(format("w8s8")));
    need(model.set_state_format(0, State::s16));
    need(model.write(folder.path() + "/s8.klens", {}));
    klens::Model packed = need(klens::load_model(folder.path() + "/s8.klens"));
    CHECK(packed.plan() == model.plan());
    CHECK(packed.payload_bytes() == model.payload_bytes());   // states are no part of it
    const std::vector<std::int32_t> ids = some_ids(tokens(40, 3), model.shape().vocab);
    klens::Session a = open(model), b = open(packed);
    CHECK(same_bits(in_pieces(a, ids, model.shape().vocab, 7), in_pieces(b, ids, model.shape().vocab, 40)));
    need(packed.set_states(State::f32));
    need(packed.set_reference());                              // of a packed file: what it holds
    CHECK(packed.plan() == model.plan());
  }
}

TEST_CASE("states: memory of a session is what the budget says, and shrinks as the formats do") {
  for (const std::string& path : checkpoints)
    for (const char* states : {"f32", "f16", "s8", "scan=s16,conv=s16,kv=s4"}) {
      CAPTURE(path);
      CAPTURE(states);
      const klens::Model model = load_states(path, states), f32 = need(klens::load_model(path));
      const klens::Session mine = open(model, {}, {.context = 500}), exact = open(f32, {}, {.context = 500});
      const auto budget = [](const klens::Model& m) { return klens::state_bytes(m.plan()) + klens::kv_bytes(m.plan(), 500); };
      CHECK(mine.bytes() - exact.bytes() == budget(model) - budget(f32));
      std::int64_t sum = 0, laid_out = 0;
      for (int i = 0; i < int(model.states().size()); ++i) sum += model.state_bytes(i, 500);
      for (int l = 0; l < model.shape().layers; ++l) {
        const klens::LayerView& layer = model.view().layers[l];
        laid_out += klens::state_extent(model.shape(), layer.mixer, layer.kv_source == l, layer.states, klens::kv_capacity(model.shape(), 500)).bytes();
      }
      CHECK(sum == budget(model));
      CHECK(laid_out == budget(model));
      if (std::string(states) == "s8") CHECK(budget(model) < budget(f32) * 45 / 100);
    }
}

TEST_CASE("states: a session keeps the formats it was made with") {
  klens::Model model = load();
  const std::vector<std::int32_t> ids = some_ids(3, model.shape().vocab);
  klens::Session session = open(model);
  need(session.prefill(ids));
  need(model.set_state_format("model.layers.3.mamba.scan_state", State::s8));
  const auto refused = session.prefill(ids);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().message().find("states of layer 3") != std::string::npos);
  need(model.set_state_format("model.layers.3.mamba.scan_state", State::f32));
  need(session.prefill(ids));
}
