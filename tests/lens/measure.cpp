// measure against lens.json (float64 PyTorch, other people's code), against plain evaluation of the quantized model,
// and against itself after interruptions, with other numbers of threads, and with a large vocabulary's way of keeping
// logits.
#include "lens/fixture.hpp"

#include <klens/lens/evaluate.hpp>
#include <klens/lens/measure.hpp>

#include <doctest/doctest.h>

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <thread>

namespace {

using namespace klens;
using namespace fixture;
using test::TempFolder;

#if defined(__SANITIZE_ADDRESS__)
constexpr bool slow_build = true;
#else
constexpr bool slow_build = false;
#endif

std::string content(const std::string& path) {
  const auto text = read_text(path, 1 << 26);
  return text ? *text : "(" + text.error().message() + ")";
}

/// A short measurement: KV producer and consumer, first and last layer, embedding; three batches.
MeasureOptions short_work(const Model& m) {
  MeasureOptions o;
  o.window = 32, o.windows = 36, o.formats = {"w4g32", "a8"}, o.model_name = "hymba-tiny",
  o.text_name = "calibration.txt";
  for (const char* name : {"model.embed_tokens", "model.layers.0.mamba.x_proj.0", "model.layers.2.mamba.in_proj",
                           "model.layers.7.mamba.out_proj"})
    o.components.push_back(m.find(name));
  return o;
}

/// A KL as lens.json judges it: above 1e-6 nat within 1 %, below it within 1e-8.
bool close_kl(double got, double expected) {
  return std::fabs(got - expected) <= (expected > 1e-6 ? 0.01 * expected : 1e-8);
}

TEST_CASE("measure reproduces lens.json") {
  Model m = loaded();
  const auto expected = read_sensitivity(std::string(KLENS_TEST_DATA) + "/hymba-tiny/lens.json");
  REQUIRE(expected);
  REQUIRE(calibration().size() > 8 * 256);
  MeasureOptions o;
  o.windows = 8, o.formats = {"w8", "w4", "w4g32", "w3g32", "w2g32"};
  if (slow_build || program().level == Level::ref)  // every role, but few layers
    for (int c = 0; c < int(m.components().size()); ++c)
      if (m.components()[std::size_t(c)].layer >= 7) o.components.push_back(c);
  const TempFolder folder;
  ThreadTeam team(int(std::thread::hardware_concurrency()));
  const auto report = measure(m, program(), calibration(), team.team(), folder / "a.json", o);
  REQUIRE_MESSAGE(report, report.error().message());
  CHECK(report->resumed == 0);
  CHECK(access((folder / "a.json.journal").c_str(), F_OK) != 0);
  const auto got = read_sensitivity(folder / "a.json");
  REQUIRE_MESSAGE(got, got.error().message());
  CHECK(got->floor.kl_pq > 0);
  CHECK(got->floor.kl_pq < 1e-10);  // f32 against float64: 6e-13 here
  CHECK(got->floor.tokens == 512);

  std::map<std::string, std::array<double, 2>> sums;
  std::size_t compared = 0;
  for (const SensitivityEntry& e : got->entries) {
    for (const SensitivityEntry& x : expected->entries) {
      if (x.component != e.component || x.format != e.format) continue;
      CAPTURE(e.component);
      CAPTURE(e.format);
      ++compared;
      CHECK(e.kl_qp.mean >= 0);
      CHECK(e.kl_pq.mean >= 0);
      CHECK(close_kl(e.kl_qp.mean, x.kl_qp.mean));
      CHECK(close_kl(e.kl_pq.mean, x.kl_pq.mean));
      CHECK_FALSE(close_kl(e.kl_pq.mean, 1.02 * x.kl_pq.mean + 2e-8));  // tripwire
      for (const auto member :
           {&Distribution::se, &Distribution::p50, &Distribution::p95, &Distribution::p99, &Distribution::max}) {
        CHECK(close_kl(e.kl_qp.*member, x.kl_qp.*member));
        CHECK(close_kl(e.kl_pq.*member, x.kl_pq.*member));
      }
      CHECK(e.mse == doctest::Approx(x.mse).epsilon(1e-3));
      CHECK(std::fabs(e.sqnr_db - x.sqnr_db) < 1e-2);
      CHECK(std::fabs(e.delta_nll.mean - x.delta_nll.mean) < 1e-6);
      CHECK(std::fabs(e.delta_nll.se - x.delta_nll.se) < 1e-6);
      CHECK(std::fabs(e.top1 - x.top1) <= 1.5 / 2048);  // one token may sit on a tie
      sums[e.format][0] += e.kl_pq.mean, sums[e.format][1] += x.kl_pq.mean;
    }
  }
  CHECK(compared == got->entries.size());
  for (const auto& [format, sum] : sums) CHECK(std::fabs(sum[0] - sum[1]) <= 0.01 * sum[1]);
}

TEST_CASE("a candidate from the cached inputs equals an evaluation of the whole quantized model") {
  Model m = loaded();
  Model reference = loaded();
  const Program program = fixture::program();
  MeasureOptions o = short_work(m);
  o.windows = 5;
  const TempFolder folder;
  REQUIRE(measure(m, program, calibration(), {}, folder / "a.json", o));
  const auto got = read_sensitivity(folder / "a.json");
  REQUIRE_MESSAGE(got, got.error().message());
  CHECK(got->entries.size() == 8);
  const Runner base{&reference, program};
  for (const SensitivityEntry& e : got->entries) {
    CAPTURE(e.component);
    CAPTURE(e.format);
    CHECK(e.kind == (e.format == "a8" ? EntryKind::activation : EntryKind::weight));
    CHECK(e.bytes_reference == packed_bytes({16, floats(Grid::f16)},
                                            m.components()[std::size_t(m.find(e.component))].rows,
                                            m.components()[std::size_t(m.find(e.component))].cols));
    Precision p = m.reference_precision(m.find(e.component));
    if (e.format == "a8")
      p.activation = Activation::a8;
    else
      p = *parse_format(e.format);
    REQUIRE(m.set_reference());
    REQUIRE(m.set_format(e.component, p));
    const auto whole = evaluate({&m, program}, calibration(), {}, {.window = 32, .windows = 5}, &base);
    REQUIRE_MESSAGE(whole, whole.error().message());
    CHECK(whole->kl_pq.mean == e.kl_pq.mean);  // equal bits: the same kernels on the same rows
    CHECK(whole->kl_qp.p99 == e.kl_qp.p99);
    CHECK(whole->mse == e.mse);
    CHECK(whole->top1 == e.top1);
    CHECK(mean_of(whole->delta_nll) == e.delta_nll.mean);
    CHECK(e.kl_pq.mean > 0);
  }
}

TEST_CASE("experts: components of their own; one that no token passes costs nothing; how many tokens each took") {
  const std::string families = std::string(KLENS_TEST_DATA) + "/families/";
  int idle = 0;
  for (const auto& one : {std::pair{"jamba.top1", 1}, {"jamba", 3}, {"granitemoehybrid", 3}}) {
    const std::string name = one.first;
    const int used = one.second;
    CAPTURE(name);
    auto m = load_model(families + name);
    REQUIRE_MESSAGE(m, m.error().message());
    const std::vector<std::int32_t> ids = {5, 17};   // fewer than jamba.top1's three experts
    MeasureOptions o;
    o.window = 2, o.windows = 1, o.formats = {"w2"};
    for (int c = 0; c < int(m->components().size()); ++c)
      if (m->components()[std::size_t(c)].expert >= 0) o.components.push_back(c);
    const TempFolder folder;
    const auto report = measure(*m, fixture::program(), ids, {}, folder / "a.json", o);
    REQUIRE_MESSAGE(report, report.error().message());
    const auto got = read_sensitivity(folder / "a.json");
    REQUIRE_MESSAGE(got, got.error().message());
    const Shape& s = m->shape();
    for (const Routing& r : got->routing) {
      CHECK(has_experts(m->view().layers[r.layer].ffn));
      CHECK(int(r.tokens.size()) == s.experts);
      std::int64_t all = 0;
      for (const std::int64_t tokens : r.tokens) all += tokens;
      CHECK(all == 2 * used);
    }
    CHECK(got->entries.size() == 3 * std::size_t(s.experts) * got->routing.size());
    for (const SensitivityEntry& e : got->entries) {
      CAPTURE(e.component);
      const Component& c = m->components()[std::size_t(m->find(e.component))];
      const auto r = std::find_if(got->routing.begin(), got->routing.end(), [&](const Routing& one) { return one.layer == c.layer; });
      REQUIRE(r != got->routing.end());
      const bool passed = r->tokens[std::size_t(c.expert)] > 0;
      CHECK((e.kl_pq.mean > 0) == passed);
      idle += !passed;
    }
  }
  CHECK(idle > 0);
}

TEST_CASE("logits that are too large to keep are made again, with equal results") {
  Model m = loaded();
  Model reference = loaded();
  const Program program = fixture::program();
  MeasureOptions o;
  o.window = 1040, o.windows = 1, o.formats = {"w3g32", "f16"},
  o.components = {m.find("model.layers.7.moe.experts.0.down_proj"), m.find("model.embed_tokens")};
  REQUIRE(o.window * logit_stride(m.shape()) * 4 > probe_logits_bytes);
  const TempFolder folder;
  REQUIRE(measure(m, program, calibration(), {}, folder / "a.json", o));
  const auto got = read_sensitivity(folder / "a.json");
  REQUIRE_MESSAGE(got, got.error().message());
  const Runner base{&reference, program};
  for (const SensitivityEntry& e : got->entries) {
    REQUIRE(m.set_reference());
    REQUIRE(m.set_format(e.component, *parse_format(e.format)));
    const auto whole = evaluate({&m, program}, calibration(), {}, {.window = 1040, .windows = 1}, &base);
    REQUIRE(whole);
    CHECK(whole->kl_pq.mean == e.kl_pq.mean);
    CHECK(std::isnan(e.kl_pq.se));  // one window
    if (e.format == "f16") {        // the checkpoint's own format
      CHECK(e.kl_pq.max == 0);
      CHECK(e.top1 == 1);
      CHECK(std::isnan(e.sqnr_db));
    }
  }
}

TEST_CASE("the file does not depend on threads or interruptions") {
  const Program program = fixture::program();
  const TempFolder folder;
  static std::string whole;  // once for all subcases
  if (whole.empty()) {
    Model m = loaded();
    REQUIRE(measure(m, program, calibration(), {}, folder / "a.json", short_work(m)));
    whole = content(folder / "a.json");
    CHECK(whole.size() > 1000);
    CHECK(whole.find(": nan") == std::string::npos);
  }
  SUBCASE("three threads") {
    Model m = loaded();
    ThreadTeam team(3);
    REQUIRE(measure(m, program, calibration(), team.team(), folder / "b.json", short_work(m)));
    CHECK(content(folder / "b.json") == whole);
  }
  SUBCASE("stopped again and again, with a damaged journal in between") {
    int rounds = 0;
    std::int64_t resumed = 0;
    for (;; ++rounds) {
      REQUIRE(rounds < 60);
      Model m = loaded();
      MeasureOptions o = short_work(m);
      std::atomic<bool> cancel = false;
      int calls = 0;
      o.cancel = &cancel;
      o.progress = [&](std::int64_t, std::int64_t) { cancel = ++calls > 3; };
      const auto report = measure(m, program, calibration(), {}, folder / "b.json", o);
      if (report) {
        resumed = report->resumed;
        break;
      }
      CHECK(report.error().code == ErrorCode::interrupted);
      CHECK(access((folder / "b.json").c_str(), F_OK) != 0);
      const std::string journal = folder / "b.json.journal";
      if (rounds == 2) {  // a write that was cut
        struct stat status {};
        REQUIRE(stat(journal.c_str(), &status) == 0);
        REQUIRE(truncate(journal.c_str(), status.st_size - 100) == 0);
      }
      if (rounds == 4) {  // a bit that flipped
        const int fd = open(journal.c_str(), O_RDWR);
        char byte = 0;
        REQUIRE(pread(fd, &byte, 1, 9000) == 1);
        byte = char(byte ^ 4);
        REQUIRE(pwrite(fd, &byte, 1, 9000) == 1);
        close(fd);
      }
    }
    CHECK(rounds > 5);
    CHECK(resumed > 0);
    CHECK(content(folder / "b.json") == whole);
  }
  SUBCASE("a journal of other work is not taken over") {
    Model m = loaded();
    MeasureOptions o = short_work(m);
    std::atomic<bool> cancel = false;
    o.cancel = &cancel;
    o.formats = {"w3g32"};
    o.progress = [&](std::int64_t done, std::int64_t) { cancel = done > 0; };
    REQUIRE_FALSE(measure(m, program, calibration(), {}, folder / "b.json", o));
    const auto report = measure(m, program, calibration(), {}, folder / "b.json", short_work(m));
    REQUIRE(report);
    CHECK(report->resumed == 0);
    CHECK(content(folder / "b.json") == whole);
  }
  SUBCASE("killed at a random moment") {
    for (const int milliseconds : {60, 150, 300}) {
      const pid_t child = fork();
      REQUIRE(child >= 0);
      if (child == 0) {
        auto m = load_model(model_path);
        if (m) (void)measure(*m, program, calibration(), {}, folder / "b.json", short_work(*m));
        _exit(0);
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
      kill(child, SIGKILL);
      int status = 0;
      waitpid(child, &status, 0);
    }
    Model m = loaded();
    REQUIRE(measure(m, program, calibration(), {}, folder / "b.json", short_work(m)));
    CHECK(content(folder / "b.json") == whole);
  }
}

TEST_CASE("memory: four times the tokens add at most 16 MiB") {
  if (slow_build) return;  // the sanitizer keeps freed memory
  const Program program = fixture::program();
  const TempFolder folder;
  long peak[2] = {};
  for (const int round : {0, 1}) {
    Model m = loaded();
    MeasureOptions o = short_work(m);
    o.window = 128, o.windows = round ? 128 : 32, o.formats = {"w4"},
    o.components = {m.find("model.layers.7.moe.experts.0.up_proj")};
    REQUIRE(measure(m, program, calibration(), {}, folder / "a.json", o));
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    peak[round] = usage.ru_maxrss;
  }
  CHECK(peak[1] - peak[0] <= 16 * 1024);
}

TEST_CASE("what cannot be measured is one clear error") {
  Model m = loaded();
  const Program program = fixture::program();
  const TempFolder folder;
  MeasureOptions o = short_work(m);
  const auto message = [&](const MeasureOptions& options, Ids ids) {
    const auto r = measure(m, program, ids, {}, folder / "a.json", options);
    REQUIRE_FALSE(r);
    return r.error().message();
  };
  o.formats = {"w9"};
  CHECK(message(o, calibration()).find("'w9'") != std::string::npos);
  o.formats = {"f16s8"};
  CHECK(message(o, calibration()).find("f16s8") != std::string::npos);
  o.formats = {};
  CHECK(message(o, calibration()).find("at least one format") != std::string::npos);
  o = short_work(m);
  CHECK(message(o, Ids(calibration()).first(31)).find("31 tokens") != std::string::npos);
  std::vector<std::int32_t> ids(64, 5);
  ids[40] = 4096;
  CHECK(message(o, ids).find("token 40") != std::string::npos);
  CHECK(access((folder / "a.json").c_str(), F_OK) != 0);
}

}  // namespace
