// audit and compare on files whose tau-b others computed: tests/data/hymba-tiny/lens.json (its own column, float64
// PyTorch) and the files of the KL Lens authors (arXiv 2604.13440), whose Table of tau leaves the LM head out.
#include <klens/lens/audit.hpp>
#include <klens/lens/compare.hpp>

#include <doctest/doctest.h>

#include <unistd.h>
#include <cstdlib>

namespace {

using namespace klens;

const std::string data = KLENS_TEST_DATA;

const AuditRow* find_row(const Audit& a, const std::string& format, Metric metric) {
  for (const AuditRow& r : a.rows)
    if (r.format == format && r.metric == metric) return &r;
  return nullptr;
}

TEST_CASE("audit gives the tau-b of lens.json to 1e-9") {
  const auto s = read_sensitivity(data + "/hymba-tiny/lens.json");
  REQUIRE_MESSAGE(s, s.error().message());
  CHECK(s->entries.size() == 285);
  CHECK(s->windows == 8);
  const auto json = read_json(data + "/hymba-tiny/lens.json");
  REQUIRE(json);
  const auto a = audit(*s, nullptr, {.bootstrap = {.resamples = 50}});
  REQUIRE_MESSAGE(a, a.error().message());
  CHECK_FALSE(a->by_windows);
  int compared = 0;
  for (const auto& [format, metrics] : (*json)["kendall_tau_b"].items())
    for (const auto& [name, tau] : metrics.items())
      for (const Metric m : all_metrics) {
        if (name_of(m) != name) continue;
        const AuditRow* row = find_row(*a, format, m);
        REQUIRE(row != nullptr);
        CHECK(row->n == 57);
        CHECK(std::fabs(row->tau.value - tau.get<double>()) <= 1e-9);
        CHECK(row->tau.low <= row->tau.value);
        CHECK(row->tau.value <= row->tau.high);
        ++compared;
      }
  CHECK(compared == 25);
  const AuditRow* all = find_row(*a, "all", Metric::kl_qp);
  REQUIRE(all != nullptr);
  CHECK(all->n == 285);

  // Tripwire: two dPPL exchanged must be noticed.
  Sensitivity changed = *s;
  std::swap(changed.entries[3].delta_ppl, changed.entries[40].delta_ppl);
  const auto b = audit(changed, nullptr, {.bootstrap = {.resamples = 2}});
  REQUIRE(b);
  CHECK(find_row(*b, "w8", Metric::kl_qp)->tau.value != find_row(*a, "w8", Metric::kl_qp)->tau.value);
}

TEST_CASE("audit gives the authors' numbers on their files") {
  struct Row {
    const char* file;
    double kl, sqnr;
  };
  const Row rows[] = {{"mamba130m_sensitivity_results_4bits.json", 0.8386, 0.6904},
                      {"mamba1_4b_sensitivity_results_4bits.json", 0.8309, 0.7920},
                      {"sensitivity_results_mamba2-130m_4bits.json", 0.7996, 0.4681},
                      {"mamba130m_sensitivity_results_8bits.json", 0.2219, 0.1189},
                      {"mamba1_4b_sensitivity_results_8bits.json", 0.0083, -0.0122},
                      {"sensitivity_results_mamba2-130m_8bits_XAMBA.json", 0.1773, -0.108}};
  for (const Row& r : rows) {
    CAPTURE(r.file);
    const auto s = read_sensitivity(data + "/published/" + r.file);
    REQUIRE_MESSAGE(s, s.error().message());
    CHECK(s->published);
    const auto a = audit(*s, nullptr, {.skip_head = true, .bootstrap = {.resamples = 20}});
    REQUIRE(a);
    const std::string format = s->entries[0].format;
    CHECK(std::fabs(find_row(*a, format, Metric::kl_qp)->tau.value - r.kl) <= 0.5e-4);
    CHECK(std::fabs(find_row(*a, format, Metric::sqnr)->tau.value - r.sqnr) <= (r.sqnr == -0.108 ? 0.5e-3 : 0.5e-4));
    const auto with_head = audit(*s, nullptr, {.bootstrap = {.resamples = 2}});
    REQUIRE(with_head);
    CHECK(find_row(*with_head, format, Metric::kl_qp)->n == find_row(*a, format, Metric::kl_qp)->n + 1);
  }
}

TEST_CASE("a measured dPPL: windows are resampled, and the halves give the ceiling") {
  auto s = read_sensitivity(data + "/hymba-tiny/lens.json");
  REQUIRE(s);
  std::erase_if(s->entries, [](const SensitivityEntry& e) { return e.format != "w3g32"; });
  MeasuredNll nll;
  nll.reference = {3.0, 3.2, 2.9, 3.1};
  for (const SensitivityEntry& e : s->entries) {  // every window rises by the KL: all halves agree
    auto& w = nll.entries.emplace_back(nll.reference);
    for (double& v : w) v += e.kl_qp.mean;
  }
  const auto a = audit(*s, &nll);
  REQUIRE(a);
  CHECK(a->by_windows);
  const AuditRow* r = find_row(*a, "w3g32", Metric::kl_qp);
  REQUIRE(r != nullptr);
  CHECK(r->tau.value == doctest::Approx(1).epsilon(1e-3));
  CHECK(r->ceiling == doctest::Approx(1).epsilon(1e-3));
  CHECK(r->tau.low > 0.99);
  const Json j = audit_to_json(*a);
  CHECK(j["rows"].size() == a->rows.size());
  CHECK(j["points"].size() == 57);
}

TEST_CASE("entries under the floor or two standard errors are marked and not ranked") {
  Sensitivity s;
  s.floor.kl_qp = s.floor.kl_pq = 1e-6;
  for (int i = 0; i < 6; ++i) {
    SensitivityEntry e;
    e.component = "c" + std::to_string(i), e.format = "w8";
    e.kl_qp.mean = e.kl_pq.mean = i == 0 ? 1e-7 : 1e-4 * i;
    e.kl_qp.se = e.kl_pq.se = i == 1 ? 0.6e-4 : 1e-6;
    e.delta_ppl = i;
    s.entries.push_back(e);
  }
  CHECK(is_marked(s.entries[0], s.floor));
  CHECK(is_marked(s.entries[1], s.floor));
  CHECK_FALSE(is_marked(s.entries[2], s.floor));
  const auto a = audit(s, nullptr, {.bootstrap = {.resamples = 5}});
  REQUIRE(a);
  CHECK(find_row(*a, "w8", Metric::kl_qp)->n == 4);
  CHECK(find_row(*a, "w8", Metric::kl_qp)->marked == 2);
}

TEST_CASE("compare: a file with itself, and with the other direction reversed") {
  const auto s = read_sensitivity(data + "/hymba-tiny/lens.json");
  REQUIRE(s);
  const auto same = compare(*s, *s, {.resamples = 10});
  REQUIRE(same);
  CHECK(same->size() == 10);
  for (const ComparisonRow& r : *same) {
    CHECK(r.tau.value == 1);
    CHECK(r.top5 == 1);
    CHECK(r.top10 == 1);
    CHECK(r.ratio == 1);
    CHECK(r.n == 57);
  }
  Sensitivity reversed = *s;
  for (SensitivityEntry& e : reversed.entries) e.kl_pq.mean = 1 / e.kl_pq.mean;
  const auto back = compare(*s, reversed, {.resamples = 10});
  REQUIRE(back);
  CHECK((*back)[0].tau.value == -1);
  CHECK((*back)[0].top10 == 0);
  reversed.entries.clear();
  CHECK_FALSE(compare(*s, reversed));
}

TEST_CASE("sensitivity files: equal bytes after reading and writing, clear errors for wrong ones") {
  const auto s = read_sensitivity(data + "/hymba-tiny/lens.json");
  REQUIRE(s);
  const std::string path = "/tmp/klens-sensitivity-" + std::to_string(getpid()) + ".json";
  REQUIRE(write_sensitivity(path, *s));
  const auto first = read_text(path, 1 << 24);
  const auto again = read_sensitivity(path);
  REQUIRE_MESSAGE(again, again.error().message());
  REQUIRE(write_sensitivity(path, *again));
  const auto second = read_text(path, 1 << 24);
  unlink(path.c_str());
  REQUIRE(first);
  REQUIRE(second);
  CHECK(*first == *second);
  CHECK(again->entries[17].kl_qp.mean == s->entries[17].kl_qp.mean);

  const std::pair<const char*, const char*> wrong[] = {
      {R"([])", "a JSON object"},
      {R"({"schema": "klens.plan/1", "entries": []})", "klens.sensitivity/1"},
      {R"({"schema": "klens.sensitivity/1"})", "entries"},
      {R"({"entries": [3]})", "an object"},
      {R"({"entries": [{"format": "w4"}]})", "'component'"},
      {R"({"entries": [{"component": "a", "format": "w9"}]})", "'w9'"},
      {R"({"entries": [{"component": "a", "format": "w4", "kl_qp": {"mean": -1}}]})", "'mean'"},
      {R"({"entries": [{"component": "a", "format": "w4"}, {"component": "a", "format": "w4"}]})", "once"},
      {R"({"entries": [{"component": "a", "format": "w4", "kind": "x"}]})", "'kind'"},
      {R"({"entries": [{"component": "a", "format": "w4", "windows": 2, "by_window": {"kl_qp": [1]}}]})", "2 windows"},
      {R"({"a": {"kl_student_to_teacher": 1}})", "4bits"},
      {R"({"entries": [], "reference": {"schema": "x"}})", "reference"},
  };
  for (const auto& [text, part] : wrong) {
    CAPTURE(text);
    const auto json = parse_json(text, "file.json");
    REQUIRE(json);
    const auto bad = sensitivity_from_json(*json, "file.json");
    REQUIRE_FALSE(bad);
    CHECK(bad.error().message().find("file.json") == 0);
    CHECK(bad.error().message().find(part) != std::string::npos);
  }
  const auto a = read_sensitivity(data + "/published/mamba130m_sensitivity_results_4bits.json");
  const auto b = read_sensitivity(data + "/published/mamba130m_sensitivity_results_8bits.json");
  REQUIRE(a);
  REQUIRE(b);
  const auto both = merge(*a, *b);
  REQUIRE(both);
  CHECK(both->entries.size() == 2 * 97);
  CHECK_FALSE(merge(*a, *a));
}

}  // namespace
