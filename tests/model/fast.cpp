// The policy `fast`: other bits than exact, for bf16 weights alone; the same bits for any cut of the tokens and any
// number of threads; logits near the exact ones; a level without faster linears refuses by name.
#include "fixture.hpp"

using namespace fixture;

namespace {

bool has_fast() { return klens::has_fast_linears(active()); }

klens::Model with(const char* format_of_all) {
  klens::Model model = load();
  need(model.set_uniform(format(format_of_all)));
  return model;
}

std::vector<std::int32_t> some_ids(int count) {
  const auto golden = need(klens::Safetensors::open(data + "/golden.safetensors"));
  std::vector<std::int32_t> ids = golden_ids(golden);
  ids.resize(std::size_t(count));
  return ids;
}

/// Logits of all tokens, fed in calls of `piece` tokens.
std::vector<float> run(const klens::Model& model, const klens::Program& program, const std::vector<std::int32_t>& ids,
                       std::size_t piece, klens::Team team = {}, int chunk = 128) {
  klens::Session session = need(klens::Session::create(model, program, team, {.context = 150, .chunk = chunk}));
  const std::int64_t vocab = model.shape().vocab;
  std::vector<float> out(ids.size() * std::size_t(vocab));
  for (std::size_t at = 0; at < ids.size(); at += piece) {
    const std::size_t n = std::min(piece, ids.size() - at);
    const klens::Rows<float> to{out.data() + at * std::size_t(vocab), std::int64_t(n), vocab, vocab};
    need(session.prefill(std::span(ids).subspan(at, n), {.logits = to}));
  }
  return out;
}

/// Mean of KL(p || q) over the tokens, and the largest; in nat.
struct Divergence { double mean = 0, largest = 0; };

Divergence divergence(const std::vector<float>& p, const std::vector<float>& q, int vocab) {
  const int tokens = int(p.size()) / vocab;
  std::vector<klens::TokenStats> stats(static_cast<std::size_t>(tokens));
  const std::vector<std::int32_t> none(std::size_t(tokens), -1);
  klens::VocabKlArgs a;
  a.zp = p.data(), a.zq = q.data(), a.stride = vocab, a.vocab = vocab, a.targets = none.data();
  a.out = stats.data(), a.end = tokens;
  active().vocab_kl(a);
  Divergence d;
  for (const klens::TokenStats& s : stats) d.mean += s.kl_pq / tokens, d.largest = std::max(d.largest, s.kl_pq);
  return d;
}

/// hymba-tiny in bf16, 150 tokens: inputs of every linear off by up to 2^-9 give 1.5e-5 nat in the mean and 1.8e-4 at
/// most; the bound is four times that.
bool is_near(const Divergence& d) { return d.mean <= 6e-5 && d.largest <= 8e-4; }

}  // namespace

TEST_CASE("fast: refused by name where the level has no faster linears") {
  const auto program = klens::fast_program(active());
  REQUIRE(bool(program) == has_fast());
  if (has_fast()) {
    CHECK(program->policy == klens::Policy::fast);
    CHECK(klens::generic_program(active()).policy == klens::Policy::exact);
    return;
  }
  const std::string error = program.error().message();
  CAPTURE(error);
  CHECK(error.find("level " + std::string(klens::name_of(active().level)) + ":") != std::string::npos);
  for (const klens::Level level : {klens::Level::avx512_bf16, klens::Level::amx_int8})
    CHECK((error.find(std::string(klens::name_of(level))) != std::string::npos) == (klens::table_of(level) != nullptr));
}

TEST_CASE("fast: refused for a specialised program") {
  const klens::Model model = load();
  klens::Program program = klens::generic_program(active());
  program.specialised = true, program.policy = klens::Policy::fast;
  const auto session = klens::Session::create(model, program);
  REQUIRE_FALSE(bool(session));
  CHECK(session.error().message().find("expected exact: a specialised program") != std::string::npos);
}

TEST_CASE("fast: other bits than exact, near them; exact keeps its bits") {
  if (!has_fast()) return;
  const klens::Model model = with("bf16");
  const int vocab = model.shape().vocab;
  const auto ids = some_ids(150);
  const klens::Program exact_program = klens::generic_program(active());
  const klens::Program fast_program = need(klens::fast_program(active()));
  const std::vector<float> exact = run(model, exact_program, ids, ids.size());
  const std::vector<float> fast = run(model, fast_program, ids, ids.size());
  CHECK_FALSE(same_bits(exact, fast));
  const Divergence d = divergence(exact, fast, vocab);
  MESSAGE("KL to exact: mean " << d.mean << ", largest " << d.largest << " nat");
  CHECK(d.mean > 0);
  CHECK(is_near(d));

  const klens::KernelTable* ref = klens::table_of(klens::Level::ref);
  REQUIRE(ref != nullptr);
  const std::vector<std::int32_t> few(ids.begin(), ids.begin() + 6);
  CHECK(same_bits(run(model, exact_program, few, 6), run(model, klens::generic_program(*ref), few, 6)));
  CHECK_FALSE(same_bits(run(model, fast_program, few, 6), run(model, klens::generic_program(*ref), few, 6)));

  // Tripwire: one weight of one linear is wrong.
  klens::Model other = with("bf16");
  const int c = other.find("model.layers.3.mamba.out_proj");
  klens::PackedBuffer wrong = need(other.quantize(c, format("bf16")));
  const klens::bf16 four = klens::to_bf16(4.0f);
  std::memcpy(wrong.panel_lines(3), &four, sizeof four);
  other.bind(c, wrong.matrix());
  const Divergence far = divergence(exact, run(other, fast_program, ids, ids.size()), vocab);
  MESSAGE("with one wrong weight: mean " << far.mean << ", largest " << far.largest << " nat");
  CHECK_FALSE(is_near(far));
}

TEST_CASE("fast: the same bits for any cut of the tokens, on 1, 2 and 3 threads") {
  if (!has_fast()) return;
  const klens::Program program = need(klens::fast_program(active()));
  for (const bool mixed : {false, true}) {
    klens::Model model = with("bf16");
    if (mixed)  // rows in f32, bf16, int8 and int16 beside each other, one input for a fast and a quantized linear
      for (int c = 0; c < int(model.components().size()); ++c) {
        const klens::Component& at = model.components()[std::size_t(c)];
        if (at.role == klens::Role::up_proj) need(model.set_format(c, format(at.layer % 2 ? "w4g32a8" : "f32")));
        if (at.role == klens::Role::down_proj) need(model.set_format(c, format("w8a16")));
        if (at.role == klens::Role::out_proj) need(model.set_format(c, format("bf16a8")));
      }
    CAPTURE(mixed);
    const auto ids = some_ids(150);
    const std::vector<float> whole = run(model, program, ids, ids.size());
    CHECK_FALSE(same_bits(whole, run(model, klens::generic_program(active()), ids, ids.size())));
    klens::ThreadTeam two(2), three(3);
    CHECK(same_bits(whole, run(model, program, ids, 1)));
    CHECK(same_bits(whole, run(model, program, ids, ids.size(), two.team(), 200)));
    CHECK(same_bits(whole, run(model, program, ids, 50, three.team(), 17)));
    CHECK(same_bits(whole, run(model, program, ids, 7, two.team(), 9)));
    std::vector<float> changed = whole;  // tripwire: one unit in the last place of one logit
    changed[changed.size() / 2] = std::bit_cast<float>(std::bit_cast<std::uint32_t>(changed[changed.size() / 2]) ^ 1u);
    CHECK_FALSE(same_bits(whole, changed));
  }
}

TEST_CASE("fast: formats it does not serve run exactly") {
  if (!has_fast()) return;
  const auto ids = some_ids(40);
  const klens::Program program = need(klens::fast_program(active())), exact = klens::generic_program(active());
  for (const char* name : {"f32", "f16", "bf16a8", "w8", "w4g32a8"}) {
    CAPTURE(name);
    klens::Model model = with(name);
    CHECK(same_bits(run(model, program, ids, ids.size()), run(model, exact, ids, ids.size())));
    // One linear in bf16 is fast, and seen.
    need(model.set_format("model.layers.3.mamba.in_proj", format("bf16")));
    CHECK_FALSE(same_bits(run(model, program, ids, ids.size()), run(model, exact, ids, ids.size())));
  }
}
