// Sensitivity of states: measure against plain evaluation of the whole model, KL by position against evaluate(), and the
// knapsack with states under a limit of memory.
#include "lens/fixture.hpp"

#include <klens/lens/audit.hpp>
#include <klens/lens/by_position.hpp>
#include <klens/lens/measure.hpp>
#include <klens/lens/select.hpp>

#include <doctest/doctest.h>

namespace {

using namespace klens;
using namespace fixture;
using test::TempFolder;

/// States of a first, a K and V making and a last layer, with one format of weights between them.
MeasureOptions some_states(const Model& m) {
  MeasureOptions o;
  o.window = 32, o.windows = 20, o.formats = {"w4g32"}, o.components = {m.find("model.layers.1.mamba.in_proj")};
  o.state_formats = {State::s16, State::s8}, o.cache_formats = {State::s8, State::s4};
  for (const char* name : {"model.layers.0.mamba.scan_state", "model.layers.1.kv_cache", "model.layers.7.mamba.conv_state"})
    o.states.push_back(m.find_state(name));
  return o;
}

SensitivityEntry entry(const std::string& component, const std::string& format, EntryKind kind, double kl) {
  SensitivityEntry e;
  e.component = component, e.format = format, e.kind = kind;
  e.kl_pq.mean = e.kl_qp.mean = kl, e.kl_pq.se = e.kl_qp.se = 0;
  return e;
}

}  // namespace

TEST_CASE("a state's candidate from the cached inputs equals an evaluation of the whole model") {
  Model m = loaded();
  const Model reference = loaded();
  const TempFolder folder;
  ThreadTeam team(2);
  const MeasureOptions o = some_states(m);
  const auto report = measure(m, program(), calibration(), team.team(), folder / "a.json", o);
  REQUIRE_MESSAGE(report, report.error().message());
  const auto got = read_sensitivity(folder / "a.json");
  REQUIRE_MESSAGE(got, got.error().message());
  REQUIRE(got->entries.size() == 1 + 3 * 2);
  CHECK(states_are_f32(got->reference->plan));
  const Runner base{&reference, program()};
  for (const SensitivityEntry& e : got->entries) {
    if (e.kind == EntryKind::weight) continue;
    CAPTURE(e.component);
    CAPTURE(e.format);
    const bool cache = e.component.ends_with("kv_cache");
    CHECK(e.kind == (cache ? EntryKind::cache : EntryKind::state));
    REQUIRE(m.set_reference());
    const int state = m.find_state(e.component);
    CHECK(e.bytes_reference == m.state_bytes(state, o.window));
    REQUIRE(m.set_state_format(state, *parse_state(e.format)));
    CHECK(e.bytes == m.state_bytes(state, o.window));
    CHECK(e.bytes < e.bytes_reference);
    const auto whole = evaluate({&m, program()}, calibration(), {}, {.window = 32, .windows = 20}, &base);
    REQUIRE_MESSAGE(whole, whole.error().message());
    CHECK(whole->kl_pq.mean == e.kl_pq.mean);   // equal bits
    CHECK(whole->kl_qp.max == e.kl_qp.max);
    CHECK(whole->mse == e.mse);
    CHECK(e.kl_pq.mean > 0);
  }
  const auto kl = [&](std::size_t i) { return got->entries[i].kl_pq.mean; };
  CHECK(kl(1) < kl(2));   // scan: s16 before s8
  CHECK(kl(3) < kl(4));   // cache: s8 before s4

  SUBCASE("stopped again and again it ends in the same file") {
    int rounds = 0;
    for (;; ++rounds) {
      REQUIRE(rounds < 60);
      Model other = loaded();
      MeasureOptions stopping = o;
      std::atomic<bool> cancel = false;
      int calls = 0;
      stopping.cancel = &cancel, stopping.progress = [&](std::int64_t, std::int64_t) { cancel = ++calls > 2; };
      if (measure(other, program(), calibration(), {}, folder / "b.json", stopping)) break;
    }
    CHECK(rounds > 3);
    CHECK(*read_text(folder / "a.json", 1 << 24) == *read_text(folder / "b.json", 1 << 24));
  }
  SUBCASE("audit runs the states too") {
    MeasureNllOptions options;
    options.window = 32, options.windows = 20;
    const auto nll = measure_nll(m, program(), calibration(), {}, *got, options);
    REQUIRE_MESSAGE(nll, nll.error().message());
    for (std::size_t i = 0; i < got->entries.size(); ++i) {
      double mean = 0;
      for (int w = 0; w < 20; ++w) mean += (nll->entries[i][std::size_t(w)] - nll->reference[std::size_t(w)]) / 20;
      CHECK(std::fabs(mean - got->entries[i].delta_nll.mean) < 1e-12);
    }
  }
}

TEST_CASE("measure refuses formats that a state does not have") {
  Model m = loaded();
  const TempFolder folder;
  MeasureOptions o = some_states(m);
  o.cache_formats = {State::s16};
  const auto refused = measure(m, program(), calibration(), {}, folder / "a.json", o);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().message().find("format 's16': expected f32, f16, s8 or s4 for a KV cache") != std::string::npos);
  o = some_states(m), o.formats = {}, o.state_formats = {}, o.cache_formats = {};
  CHECK(measure(m, program(), calibration(), {}, folder / "a.json", o).error().message().find("at least one format") != std::string::npos);
  const Json j = parse_json(R"({"entries": [{"component": "a", "kind": "state", "format": "w8", "kl_pq": {"mean": 1}}]})", "x").operator*();
  CHECK(sensitivity_from_json(j, "x").error().message().find("expected f32, f16, s16, s8 or s4") != std::string::npos);
}

TEST_CASE("KL by position: buckets cover the text, and their mean is that of one window") {
  Model m = loaded();
  const Model reference = loaded();
  REQUIRE(m.set_states(State::s8));
  const int tokens = 300;
  ThreadTeam team(3);
  const Runner runner{&m, program()}, base{&reference, program()};
  const auto got = kl_by_position(runner, base, calibration(), team.team(), {.positions = tokens});
  REQUIRE_MESSAGE(got, got.error().message());
  CHECK(got->tokens == tokens);
  REQUIRE(got->buckets.size() == 6);   // to 16, 32, 64, 128, 256, 300
  const auto whole = evaluate(runner, calibration(), {}, {.window = tokens, .windows = 1}, &base);
  REQUIRE_MESSAGE(whole, whole.error().message());
  double pq = 0, qp = 0, top1 = 0, nll = 0, most = 0;
  int at = 0;
  for (const PositionBucket& b : got->buckets) {
    CHECK(b.begin == at);
    at = b.end;
    const double n = b.end - b.begin;
    // Runs of a bucket of 44 tokens differ by one token, so that the mean of their means is not quite the mean.
    pq += n * b.kl_pq.mean, qp += n * b.kl_qp.mean, top1 += n * b.top1, nll += n * b.delta_nll;
    most = std::max(most, b.kl_pq.max);
    CHECK(b.kl_pq.mean > 0);
    CHECK(b.kl_pq.max >= b.kl_pq.p99);
    CHECK(b.kl_pq.se > 0);
  }
  CHECK(at == tokens);
  CHECK(pq / tokens == doctest::Approx(whole->kl_pq.mean).epsilon(0.02));
  CHECK(qp / tokens == doctest::Approx(whole->kl_qp.mean).epsilon(0.02));
  CHECK(most == whole->kl_pq.max);
  CHECK(top1 / tokens == doctest::Approx(whole->top1).epsilon(1e-9));
  CHECK(nll / (tokens - 1) == doctest::Approx(whole->delta_nll[0]).epsilon(1e-6));

  const auto itself = kl_by_position(base, base, calibration(), team.team(), {.positions = 64});
  REQUIRE(itself);
  for (const PositionBucket& b : itself->buckets) {
    CHECK(b.kl_pq.max == 0);
    CHECK(b.top1 == 1);
  }
  CHECK_FALSE(kl_by_position(runner, base, Ids(calibration()).first(15), {}, {}));
}

TEST_CASE("under a limit of memory the knapsack takes the states that cost least") {
  Model m = loaded();
  Sensitivity s;
  s.model = "hymba-tiny";
  REQUIRE(attach_reference(s, m));
  s.entries.push_back(entry("model.embed_tokens", "w8", EntryKind::weight, 1e-3));
  s.entries.push_back(entry("model.layers.0.kv_cache", "s8", EntryKind::cache, 1e-5));
  s.entries.push_back(entry("model.layers.0.kv_cache", "s4", EntryKind::cache, 1e-2));
  s.entries.push_back(entry("model.layers.0.mamba.scan_state", "s8", EntryKind::state, 5e-1));
  const int context = 4096;
  CHECK(allocation_problem(s)->items.size() == m.components().size());   // without a context: weights alone
  const auto problem = allocation_problem(s, {}, context);
  REQUIRE_MESSAGE(problem, problem.error().message());
  REQUIRE(problem->items.size() == m.components().size() + m.states().size());
  const Allocation all = allocation_of(*problem, std::vector<int>(problem->items.size(), 0));
  CHECK(all.bytes == m.payload_bytes() + state_bytes(m.plan()) + kv_bytes(m.plan(), context));

  const auto choice = allocate_bytes(*problem, all.bytes - 100000);
  REQUIRE_MESSAGE(choice, choice.error().message());
  CHECK(choice->bytes <= all.bytes - 100000);
  CHECK(choice->kl == 1e-5);
  const auto plan = plan_of(s, *problem, *choice, {});
  REQUIRE_MESSAGE(plan, plan.error().message());
  CHECK(plan->plan.layers[0].attention.state == State::s8);
  CHECK(plan->plan.layers[0].scan.state == State::f32);
  CHECK(plan->plan.embedding == *parse_format("f16"));
  CHECK(plan->context == context);
  CHECK(weight_bytes(*plan) == m.payload_bytes());
  const PlanEntry& cache = plan->states[std::size_t(m.find_state("model.layers.0.kv_cache"))];
  CHECK(cache.reason.find("s4 would cost") != std::string::npos);
  CHECK(cache.kl == 1e-5);

  REQUIRE(apply(m, *problem, choice->picks));
  CHECK(m.plan() == plan->plan);
  REQUIRE(m.set_reference());
  const std::vector<Contender> runs =
      *run_contenders(m, program(), *problem, *choice, all.bytes, {*parse_format("f16")}, calibration(), {}, {.window = 32, .windows = 2});
  REQUIRE(runs.size() == 2);
  CHECK(runs[0].bytes == choice->bytes);
  CHECK(runs[1].bytes == all.bytes);
  CHECK(runs[0].result.ppl != runs[1].result.ppl);   // the rounded cache ran
  CHECK(states_are_f32(m.plan()));

  s.entries.push_back(entry("model.layers.1.kv_cache", "s16", EntryKind::cache, 1e-5));
  CHECK_FALSE(allocation_problem(s, {}, context));
}
