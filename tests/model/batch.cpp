// Sequences in one pass: each has the bits of the same tokens alone, whoever comes and goes beside it.
#include "fixture.hpp"

#include <klens/core/random.hpp>
#include <klens/model/batch.hpp>

#include <map>

using namespace fixture;

namespace fixture {
std::size_t allocations();  // tests/model/session.cpp; stays 0 under AddressSanitizer
}

namespace {

std::vector<std::int32_t> text_of(int number, int count) {
  std::vector<std::int32_t> ids;
  for (int i = 0; i < count; ++i)
    ids.push_back(std::int32_t(klens::random_at(std::uint64_t(100 + number), std::uint64_t(i)) % 4096));
  return ids;
}

/// A sequence of the test: its whole text, how much of it the batch has, and the logits of a session alone.
struct Script {
  std::vector<std::int32_t> ids;
  std::vector<float> alone;
  int given = 0;
};

Script script_of(const klens::Model& model, int number, int count) {
  Script s{text_of(number, count), {}, 0};
  klens::Session session = open(model);
  s.alone = logits_of(session, s.ids, model.shape().vocab);
  return s;
}

bool same_row(const klens::Batch& batch, int sequence, const Script& s) {
  const auto got = batch.logits(sequence);
  return std::memcmp(got.data(), s.alone.data() + (std::size_t(s.given) - 1) * got.size(),
                     got.size() * sizeof(float)) == 0;
}

klens::Batch batch_of(const klens::Model& model, klens::Team team, klens::BatchOptions options) {
  return need(klens::Batch::create(model, klens::generic_program(active()), team, options));
}

}  // namespace

TEST_CASE("sequences come and go, prompts and single tokens mixed: the bits of each alone") {
  klens::ThreadTeam two(2), three(3);
  struct Setting {
    const char* format;
    klens::Team team;
    int rows;
  };
  const Setting settings[] = {{"", {}, 64}, {"w4g32a8", two.team(), 9}, {"w8s8", three.team(), 33}, {"w4a16", {}, 3}};
  for (const Setting& setting : settings) {
    if (is_ref() && setting.rows != 9) continue;
    CAPTURE(setting.format);
    klens::Model model = load();
    if (*setting.format) need(model.set_uniform(format(setting.format)));
    klens::Batch batch = batch_of(model, setting.team, {.sequences = 4, .context = 200, .rows = setting.rows});
    std::map<int, Script> live;
    std::uint64_t dice = 7;
    int made = 0, compared = 0, mixed = 0, removed = 0;
    const int scripts = tokens(9, 3);
    while (made < scripts || !live.empty()) {
      if (made < scripts && live.size() < 4 && klens::splitmix(dice) % 2 == 0) {
        const int sequence = need(batch.add());
        CHECK(live.count(sequence) == 0);
        live[sequence] = script_of(model, made, tokens(12, 5) + int(klens::splitmix(dice) % 150) / tokens(1, 40));
        ++made;
      }
      bool decodes = false, prompts = false;
      for (auto& [sequence, s] : live) {
        if (batch.waiting(sequence) > 0) continue;
        const int left = int(s.ids.size()) - s.given;
        const bool prompt = s.given == 0 || klens::splitmix(dice) % 24 == 0;
        const int n = std::min(left, prompt ? 1 + int(klens::splitmix(dice) % 40) : 1);
        need(batch.append(sequence, std::span(s.ids).subspan(std::size_t(s.given), std::size_t(n))));
        s.given += n;
        (n == 1 ? decodes : prompts) = true;
      }
      for (auto& [sequence, s] : live) prompts |= batch.waiting(sequence) > 1;
      mixed += decodes && prompts;
      const int rows = need(batch.run());
      CHECK(rows <= setting.rows);
      for (auto it = live.begin(); it != live.end();) {
        const auto& [sequence, s] = *it;
        bool gone = false;
        if (batch.waiting(sequence) == 0) {
          CHECK(same_row(batch, sequence, s));
          ++compared;
          gone = s.given == int(s.ids.size());
        }
        gone |= klens::splitmix(dice) % 300 == 0;  // some leave in the middle, also with tokens that wait
        if (gone) need(batch.remove(sequence)), ++removed;
        it = gone ? live.erase(it) : std::next(it);
      }
    }
    CHECK(compared > tokens(100, 5));
    CHECK(removed == scripts);
    if (!is_ref()) CHECK(mixed > 5);
    CHECK(batch.size() == 0);

    // Tripwire: one sequence's token changed is seen, in that sequence alone.
    const int a = need(batch.add()), b = need(batch.add());
    Script one = script_of(model, 0, 6), other = script_of(model, 1, 6);
    std::vector<std::int32_t> changed = one.ids;
    changed[2] ^= 1;
    need(batch.append(a, changed));
    need(batch.append(b, other.ids));
    need(batch.run_all());
    one.given = other.given = 6;
    CHECK_FALSE(same_row(batch, a, one));
    CHECK(same_row(batch, b, other));
  }
}

TEST_CASE("snapshots of a batch are those of a session, and go on in either") {
  const klens::Model model = load();
  const std::vector<std::int32_t> ids = text_of(3, tokens(40, 5)), more = text_of(4, 4);
  klens::Session session = open(model);
  need(session.prefill(ids));
  klens::Batch batch = batch_of(model, {}, {.sequences = 3, .context = 100, .rows = 16});
  const int a = need(batch.add());
  need(batch.append(need(batch.add()), more));  // somebody beside it
  need(batch.append(a, ids));
  CHECK_FALSE(batch.snapshot(a));  // tokens wait
  need(batch.run_all());
  const klens::SessionState state = need(batch.snapshot(a));
  CHECK(state == need(session.snapshot()));
  const int c = need(batch.add(state));
  need(batch.append(c, more));
  need(batch.run_all());
  klens::Session other = open(model);
  need(other.restore(state));
  need(other.prefill(more));
  CHECK(std::memcmp(batch.logits(c).data(), other.logits().data(), other.logits().size() * sizeof(float)) == 0);
  CHECK(need(batch.snapshot(c)) == need(other.snapshot()));
  CHECK(std::ranges::equal(batch.ids(c), other.ids()));
  CHECK(batch.length(c) == other.length());
}

TEST_CASE("wrong calls change nothing and say what is wrong") {
  klens::Model model = load();
  const klens::Program program = klens::generic_program(active());
  CHECK_FALSE(klens::Batch::create(model, program, {}, {.sequences = 0}));
  CHECK_FALSE(klens::Batch::create(model, program, {}, {.context = 0}));
  CHECK_FALSE(klens::Batch::create(model, program, {}, {.rows = 5000}));
  klens::Batch batch = batch_of(model, {}, {.sequences = 2, .context = 8, .rows = 4});
  CHECK(need(batch.run()) == 0);
  const int a = need(batch.add()), b = need(batch.add());
  CHECK(a != b);
  CHECK(batch.add().error().message().find("at most 2 sequences") != std::string::npos);
  CHECK_FALSE(batch.append(2, 1));
  CHECK_FALSE(batch.append(-1, 1));
  CHECK_FALSE(batch.append(a, 4096));
  CHECK_FALSE(batch.append(a, std::vector<std::int32_t>(9, 1)));
  CHECK(batch.ids(a).empty());
  need(batch.append(a, std::vector<std::int32_t>(8, 1)));
  CHECK_FALSE(batch.append(a, 1));
  CHECK(batch.waiting(a) == 8);
  need(batch.remove(b));
  CHECK_FALSE(batch.remove(b));
  CHECK_FALSE(batch.has(b));
  need(batch.run_all());
  klens::SessionState state = need(batch.snapshot(a));
  state.weights_hash ^= 1;
  CHECK_FALSE(batch.add(state));
  CHECK(batch.size() == 1);
  need(model.set_format(3, format("w4")));
  CHECK_FALSE(batch.snapshot(a));
  need(model.set_states(klens::State::s8));
  CHECK(batch.run().error().message().find("make another batch") != std::string::npos);
}

TEST_CASE("a pass allocates nothing") {
  const klens::Model model = load();
  klens::ThreadTeam team(2);
  klens::Batch batch = batch_of(model, team.team(), {.sequences = 3, .context = 64, .rows = 16});
  int sequences[3];
  for (int& s : sequences) s = need(batch.add());
  const auto round = [&] {
    bool fine = true;
    for (const int s : sequences) fine = fine && bool(batch.append(s, s + 5));
    return fine && bool(batch.run_all());
  };
  REQUIRE(round());
  const std::size_t before = allocations();
  const bool fine = round() && round();
  const std::size_t made = allocations() - before;
  REQUIRE(fine);
  CHECK(made == 0);
}
