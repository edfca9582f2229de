// Sequences that are saved, doubled and taken back: what follows has the bits of a session that never went there.
#include "fixture.hpp"

#include <klens/io/session_file.hpp>
#include <klens/model/sample.hpp>

#include <atomic>

using namespace fixture;

// Counts requests to operator new. AddressSanitizer keeps its own operators: there nothing is counted, and the test
// says so.
namespace {
std::atomic<std::size_t> counted{0};
[[maybe_unused]] void watch(std::size_t) noexcept { counted.fetch_add(1, std::memory_order_relaxed); }
}  // namespace

#include "support/watched_new.hpp"

namespace fixture {
std::size_t allocations();
std::size_t allocations() { return counted.load(); }
}  // namespace fixture

namespace {

std::vector<std::int32_t> some_ids(int count, int first = 0) {
  const auto golden = need(klens::Safetensors::open(data + "/golden.safetensors"));
  std::vector<std::int32_t> ids = golden_ids(golden);
  REQUIRE(std::size_t(first + count) <= ids.size());
  return {ids.begin() + first, ids.begin() + first + count};
}

/// Logits after each of the ids, one step at a time or in one prefill: what a test compares after it went somewhere.
std::vector<float> continued(klens::Session& session, std::span<const std::int32_t> ids, bool stepping) {
  const std::size_t vocab = std::size_t(session.model().shape().vocab);
  std::vector<float> out(ids.size() * vocab);
  if (!stepping) {
    const klens::Rows<float> rows{out.data(), std::int64_t(ids.size()), std::int64_t(vocab), std::int64_t(vocab)};
    need(session.prefill(ids, {.logits = rows}));
    return out;
  }
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const auto logits = need(session.step(ids[i]));
    std::memcpy(out.data() + i * vocab, logits.data(), vocab * sizeof(float));
  }
  return out;
}

std::vector<float> row_of(const klens::Session& session) { return {session.logits().begin(), session.logits().end()}; }

/// The logits of `ids`, those of the tokens from number `from` on, by a session that did nothing else.
std::vector<float> never_left(const klens::Model& model, std::span<const std::int32_t> ids, std::size_t from) {
  klens::Session session = open(model);
  const std::vector<float> all = continued(session, ids, false);
  return {all.begin() + std::ptrdiff_t(from * std::size_t(model.shape().vocab)), all.end()};
}

klens::Model load_in(const std::string& name) {
  klens::Model model = load();
  const std::string first = name.substr(0, name.find(' '));
  if (!name.empty()) need(model.set_uniform(format(first)));
  for (int s = 0; first != name && s < int(model.states().size()); ++s)  // "... kv s4"
    if (model.states()[std::size_t(s)].kind == klens::StateKind::kv) need(model.set_state_format(s, klens::State::s4));
  return model;
}

}  // namespace

TEST_CASE("a snapshot goes on in any session of the model: other context, chunk, threads, level") {
  const int head = tokens(131, 5),
            tail = tokens(20, 2);  // 16 meta tokens + 131: past the window of 128, no multiple of 16
  const std::vector<std::int32_t> ids = some_ids(head + tail);
  const std::span<const std::int32_t> before(ids.data(), std::size_t(head)),
      after(ids.data() + head, std::size_t(tail));
  klens::ThreadTeam two(2);
  for (const std::string name : {"", "w4g32a8", "w8s8", "w4a16s8 kv s4"}) {
    if (is_ref() && name != "w4g32a8") continue;
    CAPTURE(name);
    const klens::Model model = load_in(name);
    const std::vector<float> expected = never_left(model, ids, std::size_t(head));
    klens::Session first = open(model, {}, {.context = head + 3});
    need(first.prefill(before));
    const klens::SessionState state = need(first.snapshot());
    CHECK(state.ids == std::vector<std::int32_t>(before.begin(), before.end()));
    CHECK(state.position == model.shape().meta + head);
    CHECK(state.bytes() > 0);

    const klens::Model again = load_in(name);  // another object, equal weights
    klens::Session second = open(again, two.team(), {.context = 400, .chunk = 7});
    need(second.prefill(some_ids(9, 3)));  // something else stands there
    need(second.restore(state));
    CHECK(second.length() == head);
    CHECK(same_bits(row_of(first), row_of(second)));
    CHECK(need(second.snapshot()) == state);
    CHECK(same_bits(expected, continued(second, after, true)));
    need(second.restore(state));  // as often as one likes
    CHECK(same_bits(expected, continued(second, after, false)));
    if (const klens::KernelTable* ref = klens::table_of(klens::Level::ref); ref != nullptr && !is_ref()) {
      klens::Session scalar = need(klens::Session::create(model, klens::generic_program(*ref)));
      need(scalar.restore(state));
      const auto one = continued(scalar, after.first(1), true);
      CHECK(same_bits(one, {expected.begin(), expected.begin() + std::ptrdiff_t(one.size())}));
    }

    // Tripwire: every part of the state matters, and the comparison sees it.
    for (const klens::StatePartKind kind :
         {klens::StatePartKind::scan, klens::StatePartKind::conv, klens::StatePartKind::k, klens::StatePartKind::v,
          klens::StatePartKind::k_scale}) {
      if (kind == klens::StatePartKind::k_scale && name.find('s') == std::string::npos) continue;  // no scales
      CAPTURE(klens::name_of(kind));
      klens::SessionState changed = state;
      for (klens::StatePart& p : changed.parts)
        if (p.kind == kind && p.layer == 3)  // several bytes: one value may vanish in the rounding of int8 rows
          for (std::size_t i = 0; i < p.bytes.size() && i < 256; ++i) p.bytes[i] ^= std::byte(0x10);
      REQUIRE_FALSE(changed == state);
      need(second.restore(changed));
      CHECK_FALSE(same_bits(expected, continued(second, after, false)));
    }
  }
}

TEST_CASE("an empty sequence can be saved, too") {
  const klens::Model model = load();
  const std::vector<std::int32_t> ids = some_ids(4);
  klens::Session session = open(model);
  const klens::SessionState empty = need(session.snapshot());
  CHECK(empty.position == 0);
  CHECK(empty.logits.empty());
  const std::vector<float> expected = continued(session, ids, false);
  need(session.restore(empty));
  CHECK(session.length() == 0);
  CHECK(same_bits(expected, continued(session, ids, false)));
}

TEST_CASE("two forks go different ways") {
  const int head = tokens(50, 4), tail = tokens(12, 2);
  const std::vector<std::int32_t> ids = some_ids(head), left = some_ids(tail, head),
                                  right = some_ids(tail, head + tail);
  const klens::Model model = load();
  std::vector<std::int32_t> whole_left = ids, whole_right = ids;
  whole_left.insert(whole_left.end(), left.begin(), left.end());
  whole_right.insert(whole_right.end(), right.begin(), right.end());
  klens::Session session = open(model, {}, {.context = 120, .checkpoints = 2});
  need(session.prefill(std::span(ids).first(std::size_t(head - 2))));
  need(session.checkpoint());
  need(session.prefill(std::span(ids).last(2)));
  klens::Session other = need(session.fork());
  CHECK(same_bits(row_of(session), row_of(other)));
  CHECK(other.bytes() == session.bytes());
  std::vector<float> l, r;
  for (int i = 0; i < tail; ++i) {  // turn by turn: nothing is shared
    const auto a = continued(session, std::span(left).subspan(std::size_t(i), 1), true);
    const auto b = continued(other, std::span(right).subspan(std::size_t(i), 1), true);
    l.insert(l.end(), a.begin(), a.end());
    r.insert(r.end(), b.begin(), b.end());
  }
  CHECK(same_bits(l, never_left(model, whole_left, std::size_t(head))));
  CHECK(same_bits(r, never_left(model, whole_right, std::size_t(head))));
  CHECK_FALSE(same_bits(l, r));
  need(other.roll_back(head));  // the checkpoint went with it
  CHECK(same_bits(continued(other, left, false), l));
}

TEST_CASE("rolled back to any length, with and without checkpoints") {
  const int length = tokens(40, 6), tail = tokens(5, 2);
  const std::vector<std::int32_t> ids = some_ids(length), after = some_ids(tail, 100);
  const klens::Model model = load_in(is_ref() ? "w8a8" : "w8a8s8 kv s4");
  for (const int checkpoints : {0, 1, 3}) {
    if (is_ref() && checkpoints != 3) continue;
    CAPTURE(checkpoints);
    klens::Session session = open(model, {}, {.context = 64, .checkpoints = checkpoints});
    for (int to = 0; to <= length; to += to < 3 || to >= length - 3 ? 1 : 11) {
      CAPTURE(to);
      session.reset();
      for (int i = 0; i < length; ++i) {
        need(session.step(ids[std::size_t(i)]));
        if (checkpoints > 0 && i % 6 == 3) need(session.checkpoint());
      }
      need(session.roll_back(to));
      CHECK(session.length() == to);
      std::vector<std::int32_t> now(ids.begin(), ids.begin() + to);
      CHECK(std::ranges::equal(session.ids(), now));
      klens::Session straight = open(model);
      if (to > 0) {
        need(straight.prefill(now));
        CHECK(same_bits(row_of(session), row_of(straight)));
      }
      CHECK(need(session.snapshot()) == need(straight.snapshot()));  // K beyond the sequence is not in it
      CHECK(same_bits(continued(session, after, true), continued(straight, after, false)));
      need(session.roll_back(to));  // back again, over what was taken back once
      CHECK(need(session.snapshot()).ids == now);
      if (to > 0) CHECK(same_bits(continued(session, after, false), continued(straight, after, false)) == false);
    }
  }
}

TEST_CASE("speculative decoding: drafts are taken back token by token, nothing is computed twice") {
  const klens::Model model = load();
  const std::vector<std::int32_t> ids = some_ids(tokens(24, 8));
  const std::vector<float> expected = never_left(model, ids, 0);
  const std::size_t vocab = std::size_t(model.shape().vocab);
  klens::Session session = open(model, {}, {.context = 64, .checkpoints = 4});
  need(session.step(ids[0]));
  std::size_t done = 1;
  std::uint64_t dice = 5;
  while (done < ids.size()) {
    need(session.checkpoint());
    const std::size_t right = std::size_t(klens::splitmix(dice) % 3);  // drafted tokens that turn out right
    for (std::size_t i = 0; i < 3; ++i) {
      const bool good = i < right && done + i < ids.size();
      need(session.step(good ? ids[done + i] : std::int32_t(7)));
      need(session.checkpoint());
    }
    const std::size_t keep = std::min(done + right, ids.size());
    need(session.roll_back(int(keep)));
    done = keep;
    CHECK(std::memcmp(session.logits().data(), expected.data() + (done - 1) * vocab, vocab * sizeof(float)) == 0);
    if (done < ids.size()) need(session.step(ids[done])), ++done;
  }
  CHECK(std::ranges::equal(session.ids(), ids));
  CHECK(std::memcmp(session.logits().data(), expected.data() + (ids.size() - 1) * vocab, vocab * sizeof(float)) == 0);
}

TEST_CASE("what is no whole sequence of the present formats cannot be saved or rolled back") {
  klens::Model model = load();
  const std::vector<std::int32_t> ids = some_ids(6);
  klens::Session session = open(model, {}, {.checkpoints = 1});
  need(session.prefill(ids));
  need(session.checkpoint());
  const klens::SessionState reference = need(session.snapshot());
  need(model.set_format(2, format("w4")));
  CHECK_FALSE(session.snapshot());
  CHECK_FALSE(session.roll_back(3));
  CHECK_FALSE(session.checkpoint());
  need(session.step(1));
  CHECK(session.snapshot().error().message().find("present formats") != std::string::npos);
  const std::string refused = session.restore(reference).error().message();
  CHECK_MESSAGE(
      refused.find("expected the weights and formats of this model (f16 and 1 other format") != std::string::npos,
      refused);
  CHECK(session.length() == 7);  // as it was
  need(model.set_format(2, format("f16")));
  need(session.restore(reference));
  CHECK(need(session.snapshot()) == reference);

  const klens::Shape& s = model.shape();
  std::vector<std::vector<float>> cached(std::size_t(s.layers),
                                         std::vector<float>(std::size_t((6 + s.meta) * s.hidden)));
  std::vector<klens::Rows<float>> inputs;
  for (auto& c : cached) inputs.push_back({c.data(), 6 + s.meta, s.hidden, s.hidden});
  session.reset();
  need(session.prefill(ids, {.inputs = inputs}));
  std::vector<float> logits(6 * std::size_t(s.vocab));
  need(session.run_from(0, inputs, {.logits = {logits.data(), 6, s.vocab, s.vocab}}));
  CHECK_FALSE(session.snapshot());
  session.reset();
  need(session.prefill(ids));
  CHECK(need(session.snapshot()) == reference);

  CHECK_FALSE(session.roll_back(7));
  CHECK_FALSE(session.roll_back(-1));
  klens::Session none = open(model);
  CHECK(none.checkpoint().error().message() ==
        "checkpoint: expected a session with options.checkpoints above 0, found 0");
  CHECK_FALSE(klens::Session::create(model, klens::generic_program(active()), {}, {.checkpoints = -1}));
  CHECK_FALSE(klens::Session::create(model, klens::generic_program(active()), {}, {.checkpoints = 1 << 20}));
}

TEST_CASE("a state that does not fit is refused, and the session stays as it is") {
  const klens::Model model = load();
  const std::vector<std::int32_t> ids = some_ids(5);
  klens::Session session = open(model, {}, {.context = 16});
  need(session.prefill(ids));
  const klens::SessionState good = need(session.snapshot());
  need(session.step(3));
  const klens::SessionState present = need(session.snapshot());
  const auto refused = [&](const std::function<void(klens::SessionState&)>& spoil, const std::string& says) {
    klens::SessionState bad = good;
    spoil(bad);
    const auto result = session.restore(bad);
    REQUIRE_FALSE(result);
    const std::string message = result.error().message();
    CHECK_MESSAGE(message.find(says) != std::string::npos, message);
  };
  refused([](auto& s) { s.shape_hash ^= 1; }, "expected a model of shape ");
  refused([](auto& s) { s.weights_hash ^= 1, s.made_with = "w2"; }, "found others (w2, ");
  refused([](auto& s) { s.position = 5; }, "position: expected 21, found 5");
  refused([](auto& s) { s.position = 1 << 30; }, "position: expected 21, found 1073741824");
  refused([](auto& s) { s.ids[2] = 4096; }, "token id: expected 0 to 4095, found 4096");
  refused([](auto& s) { s.ids[2] = -1; }, "token id");
  refused([](auto& s) { s.ids.resize(17), s.position = 33; }, "expected at most 16 tokens of context, found 17");
  refused([](auto& s) { s.ids.pop_back(); }, "position");
  refused([](auto& s) { s.logits.pop_back(); }, "logits: expected 4096, found 4095");
  refused([](auto& s) { s.parts.pop_back(); }, " v f32 [");
  refused([](auto& s) { s.parts.clear(); }, "found 0 states");
  refused([](auto& s) { s.parts.push_back(s.parts[0]); }, " states, found layer 0 scan f32 [");
  refused([](auto& s) { s.parts[1].format = "s8"; }, "expected layer 0 conv f32 [");
  refused([](auto& s) { s.parts[1].format = "s8"; }, "found layer 0 conv s8 [");
  refused([](auto& s) { s.parts[2].dims[1] += 1; }, "expected layer 0 k f32 [");
  refused([](auto& s) { s.parts[2].bytes.pop_back(); }, "found layer 0 k f32 [");
  refused([](auto& s) { std::swap(s.parts[0], s.parts[1]); }, "expected layer 0 scan");
  refused([](auto& s) { s.parts[0].layer = 1; }, "found layer 1 scan");
  CHECK(need(session.snapshot()) == present);
  need(session.restore(good));
  CHECK(need(session.snapshot()) == good);
}

TEST_CASE("a session in a file goes on in another process's session") {
  const klens::Model model = load_in("w4g32");
  const std::vector<std::int32_t> ids = some_ids(tokens(30, 5)), after = some_ids(3, 50);
  klens::Session session = open(model);
  need(session.prefill(ids));
  const TempFolder folder;
  const std::string path = folder.path() + "/a.session";
  const klens::SessionState state = need(session.snapshot());
  need(klens::write_session_file(path, state));
  const klens::SessionState read = need(klens::read_session_file(path));
  CHECK(read == state);
  klens::Session other = open(model);
  need(other.restore(read));
  CHECK(same_bits(continued(session, after, false), continued(other, after, true)));
  // The same numbers in a packed file: the same hash.
  need(model.write(folder.path() + "/m.klens", {}));
  const klens::Model packed = need(klens::load_model(folder.path() + "/m.klens"));
  CHECK(klens::weights_hash(packed) == klens::weights_hash(model));
  klens::Session of_packed = open(packed);
  need(of_packed.restore(read));
  const klens::Model eight = load_in("w8");
  klens::Session wrong = open(eight);
  const std::string refused = wrong.restore(read).error().message();
  CHECK_MESSAGE(refused.find("(w8, ") != std::string::npos, refused);
  CHECK_MESSAGE(refused.find("others (w4g32, ") != std::string::npos, refused);
}

TEST_CASE("a step allocates nothing, nor do sampling, checkpoints and rolling back") {
  if (!watching) return;
  const klens::Model model = load_in("w4g32a8");
  klens::ThreadTeam team(2);
  const std::vector<std::int32_t> ids = some_ids(10);
  klens::Session session = open(model, team.team(), {.context = 64, .checkpoints = 2});
  klens::Sampler sampler(
      {.temperature = 0.8f, .top_k = 40, .top_p = 0.9f, .seed = 3, .min_p = 0.01f, .repetition_penalty = 1.1f});
  need(session.prefill(ids));
  std::int32_t next = sampler.next(session.logits(), session.ids());
  const auto round = [&] {
    bool fine = true;
    for (int i = 0; i < tokens(12, 2) && fine; ++i) {
      fine = bool(session.step(next)) && bool(session.checkpoint());
      next = sampler.next(session.logits(), session.ids());
    }
    return fine && bool(session.roll_back(11));
  };
  REQUIRE(round());
  const std::size_t before = allocations();
  const bool fine = round();
  const std::size_t made = allocations() - before;
  REQUIRE(fine);
  CHECK(made == 0);
  // Tripwire: the counter counts.
  const std::size_t then = allocations();
  const std::vector<int> some(100);
  CHECK(allocations() - then == 1);
}
