// evaluate, select and the float64 forward against numbers that others computed: PPL of uniform formats in lens.json
// (PyTorch) and logits in golden.safetensors (PyTorch, float64).
#include "lens/fixture.hpp"

#include <klens/lens/float64_forward.hpp>
#include <klens/lens/select.hpp>
#include <klens/lens/sensitivity_json.hpp>

#include <doctest/doctest.h>

#include <thread>

namespace {

using namespace klens;
using namespace fixture;

TEST_CASE("the float64 forward gives the golden logits") {
  auto model = load_model(model_path);
  REQUIRE(model);
  const auto golden = Safetensors::open(std::string(KLENS_TEST_DATA) + "/hymba-tiny/golden.safetensors");
  REQUIRE(golden);
  const auto wide = read_i64(*golden->find("input_ids"));
  REQUIRE(wide);
  const std::vector<std::int32_t> ids(wide->begin(),
                                      wide->begin() + 80);  // the first 80 of 200: causal, so they stand alone
  std::vector<float> expected(std::size_t(golden->find("logits")->count()));
  REQUIRE(read_f32(*golden->find("logits"), expected));
  const auto exact = Float64Forward::open(model_path, model->plan());
  REQUIRE(exact);
  const auto z = exact->logits(ids, {});
  REQUIRE_MESSAGE(z, z.error().message());
  double worst = 0, shifted = 0;
  for (std::size_t i = 0; i < z->size(); ++i) {
    worst = std::fmax(worst, std::fabs((*z)[i] - double(expected[i])));
    shifted = std::fmax(shifted, std::fabs((*z)[i] - double(expected[(i + 1) % z->size()])));
  }
  CHECK(worst < 2e-6);  // the file holds float32: half an ulp below 16 is 5e-7
  CHECK(shifted > 1);   // tripwire
}

TEST_CASE("KL of float64 logits: exact cases, and 1e-12 resolved") {
  const double p[] = {std::log(0.5), std::log(0.25), std::log(0.25)};
  const float q[] = {0, 0, 0};
  const PairOfKl kl = float64_kl(p, q, 3);
  CHECK(kl.pq == doctest::Approx(0.5 * std::log(1.5) + 0.5 * std::log(0.75)));
  CHECK(kl.qp == doctest::Approx((std::log(2.0 / 3) + 2 * std::log(4.0 / 3)) / 3));
  const double same[] = {1, 2, 3};
  const float same_f[] = {1, 2, 3}, near_f[] = {1, 2, std::nextafter(3.0f, 4.0f)};
  CHECK(float64_kl(same, same_f, 3).pq == 0);
  const double step = double(near_f[2]) - 3, share = std::exp(3.0) / (std::exp(1.0) + std::exp(2.0) + std::exp(3.0));
  CHECK(float64_kl(same, near_f, 3).pq ==
        doctest::Approx(0.5 * step * step * share * (1 - share)).epsilon(1e-3));  // 4e-15
}

TEST_CASE("PPL of the reference and of uniform formats as in lens.json") {
  auto model = load_model(model_path);
  REQUIRE(model);
  const auto json = read_json(std::string(KLENS_TEST_DATA) + "/hymba-tiny/lens.json");
  REQUIRE(json);
  const std::vector<std::int32_t> ids = text("heldout.txt");
  ThreadTeam team(int(std::thread::hardware_concurrency()));
  const EvaluateOptions options{.window = 256, .windows = 24};
  const Runner runner{&*model, program()};
  const auto base = evaluate(runner, ids, team.team(), options);
  REQUIRE_MESSAGE(base, base.error().message());
  // Their PPL was summed in float32: 1e-6 of it.
  CHECK(base->ppl == doctest::Approx((*json)["base_ppl"].get<double>()).epsilon(1e-5));
  CHECK(base->windows == 24);
  CHECK(base->ppl_se == doctest::Approx(base->ppl * standard_error(base->nll)));
  for (const char* format : {"w4", "w3g32"}) {
    REQUIRE(model->set_uniform(*parse_format(format)));
    const auto e = evaluate(runner, ids, team.team(), options);
    REQUIRE(e);
    CHECK(e->ppl == doctest::Approx((*json)["uniform_ppl"][format].get<double>()).epsilon(1e-5));
    const auto d = paired_difference(*e, *base);
    REQUIRE(d);
    CHECK(d->mean == doctest::Approx(std::log(e->ppl / base->ppl)));
    CHECK_FALSE(d->shown);
  }
}

TEST_CASE("evaluation: a model against itself is 0, numbers do not depend on threads, wrong texts are errors") {
  auto model = load_model(model_path), other = load_model(model_path);
  REQUIRE(model);
  REQUIRE(other);
  REQUIRE(other->set_uniform(*parse_format("w4g32a8")));
  const std::vector<std::int32_t> ids = text("wikitext.txt");
  const Runner p{&*model, program()}, q{&*other, program()};
  const EvaluateOptions options{.window = 48, .windows = 5};
  const auto same = evaluate(p, ids, {}, options, &p);
  REQUIRE(same);
  CHECK(same->kl_pq.max == 0);
  CHECK(same->kl_qp.max == 0);
  CHECK(same->top1 == 1);
  const auto one = evaluate(q, ids, {}, options, &p);
  REQUIRE(one);
  ThreadTeam team(3);
  const auto three = evaluate(q, ids, team.team(), options, &p);
  REQUIRE(three);
  CHECK(one->kl_pq.mean > 0);
  CHECK(one->kl_pq.mean == three->kl_pq.mean);
  CHECK(one->nll == three->nll);
  CHECK(one->kl_qp.p95 == three->kl_qp.p95);
  const auto plain = evaluate(q, ids, team.team(), options);
  REQUIRE(plain);
  CHECK(plain->nll == one->nll);
  CHECK_FALSE(plain->compared);
  CHECK_FALSE(evaluate(p, Ids(ids).first(47), {}, options));
  CHECK_FALSE(evaluate(p, ids, {}, {.window = 1}));
  std::atomic<bool> cancel = true;
  const auto stopped = evaluate(p, ids, {}, {.window = 48, .cancel = &cancel});
  REQUIRE_FALSE(stopped);
  CHECK(stopped.error().code == ErrorCode::interrupted);
}

TEST_CASE(
    "a plan from measured sensitivities: bytes of the packed file, and never worse than a uniform format that fits") {
  auto model = load_model(model_path);
  REQUIRE(model);
  auto s = read_sensitivity(std::string(KLENS_TEST_DATA) + "/hymba-tiny/lens.json");
  REQUIRE(s);
  CHECK_FALSE(allocation_problem(*s));  // the file alone has no shapes
  REQUIRE(attach_reference(*s, *model));
  const auto problem = allocation_problem(*s);
  REQUIRE_MESSAGE(problem, problem.error().message());
  CHECK(problem->parameters == model->parameters());
  REQUIRE(model->set_uniform(*parse_format("w3g32")));
  const std::int64_t budget = model->payload_bytes();
  const auto plan = allocate_bytes(*problem, budget);
  REQUIRE_MESSAGE(plan, plan.error().message());
  CHECK(plan->gap == 0);
  CHECK(plan->bytes <= budget);
  CHECK(plan->bytes > budget - 4096);
  const auto document = plan_of(*s, *problem, *plan, {{"method", "knapsack"}});
  REQUIRE_MESSAGE(document, document.error().message());
  CHECK(weight_bytes(*document) == plan->bytes);
  for (const PlanEntry& e : document->entries) CHECK(e.reason.find("KL(p||q)") == 0);

  std::vector<Precision> formats = uniform_formats(*problem);
  CHECK(formats.size() == 6);  // five measured ones, and the checkpoint's own
  const std::vector<std::int32_t> ids = text("calibration.txt");
  ThreadTeam team(int(std::thread::hardware_concurrency()));
  const auto contenders = run_contenders(*model, program(), *problem, *plan, budget, formats, ids, team.team(),
                                         {.window = 256, .windows = 8});
  REQUIRE_MESSAGE(contenders, contenders.error().message());
  CHECK(contenders->size() == 3);  // the plan, w3g32, w2g32
  CHECK(best_of(*contenders) == 0);
  for (const Contender& c : *contenders) CHECK(c.bytes <= budget);
  CHECK((*contenders)[0].result.ppl < (*contenders)[1].result.ppl);
  CHECK(model->payload_bytes() > 2 * budget);  // the reference again
}

}  // namespace
