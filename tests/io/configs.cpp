// Damaged configs of every family and spelling (hymba-tiny, tests/data/families, tests/data/original): each ends in one error
// that names the file and a field, or in a plan that keeps its rules, whose tensors have sizes and lie inside those they are
// read from. No weights are read. KLENS_FUZZ=N asks for N configs of every folder and of both kinds of damage, to the text and
// to what it says.
#include "io/fuzz.hpp"

#include <klens/model/families.hpp>
#include <klens/plan/budget.hpp>

#include <algorithm>

using namespace klens;

namespace {

constexpr const char* file = "config.json";

/// Damage to what a config says: fields that are gone, doubled, renamed, exchanged, of another type or size, of another family.
class Damage {
 public:
  Damage(test::Mutator& random, const std::vector<Json>& all) : random_(random), all_(all) {}

  std::string operator()(Json config) {
    std::string twice;
    for (std::size_t rounds = 1 + random_.below(4); rounds > 0; --rounds) {
      Json* at = &config;   // an object or array within, the deeper the rarer
      while (true) {
        Json* const inner = at->empty() ? nullptr : &*std::next(at->begin(), std::ptrdiff_t(random_.below(at->size())));
        if (inner == nullptr || !inner->is_structured() || inner->empty()) break;
        at = inner;
      }
      if (at->empty()) continue;
      if (at->is_object() && random_.below(12) == 0) twice = key_of(*at);
      else change(*at);
    }
    std::string text = config.dump();
    if (!twice.empty() && text.starts_with("{\"")) text.insert(1, Json(twice).dump() + ":" + hostile().dump() + ",");
    return text;
  }

 private:
  auto some(Json& in) { return std::next(in.begin(), std::ptrdiff_t(random_.below(in.size()))); }
  std::string key_of(Json& object) { return some(object).key(); }

  void change(Json& at) {
    const auto one = some(at);
    switch (random_.below(8)) {
      case 0: at.erase(one); break;
      case 1: std::swap(*one, *some(at)); break;
      case 2: {   // under another name
        if (!at.is_object()) break;
        const Json value = *one;
        at.erase(one);
        at[at.empty() || random_.below(3) == 0 ? "layer" : key_of(at) + (random_.below(2) ? "" : "s")] = value;
        break;
      }
      case 3: {   // deeper, or many times
        const Json value = *one;
        for (std::size_t depth = random_.below(4) == 0 ? 100 : 1; depth > 0; --depth)
          *one = random_.below(2) ? Json::array({std::move(*one)}) : Json{{"layer", std::move(*one)}};
        if (random_.below(2)) *one = Json(Json::array_t(random_.below(value.is_structured() || random_.below(2) ? 9 : 1100), value));
        break;
      }
      case 4: {   // what another family's config says there, or anywhere
        const Json& other = all_[random_.below(all_.size())];
        const auto from = std::next(other.begin(), std::ptrdiff_t(random_.below(other.size())));
        if (at.is_object() && random_.below(3) > 0) at[from.key()] = *from;
        else *one = *from;
        break;
      }
      default: *one = one->is_number_integer() && random_.below(3) > 0 ? Json(integer()) : hostile();
    }
  }

  template <class List>
  auto of(const List& list) { return list[random_.below(std::size(list))]; }

  std::int64_t integer() {
    constexpr std::int64_t integers[] = {0, 0, 0, 1, 1, 2, 3, 4, 5, 7, 12, 16, 64, 127, 1000, 1024, 1025, 4096, 65536, 1 << 18, 1 << 22,
                                         1 << 28, INT32_MAX, std::int64_t(1) << 32, std::int64_t(1) << 60, INT64_MAX};
    return of(integers) * (random_.below(6) == 0 ? -1 : 1);
  }

  Json hostile() {
    constexpr double numbers[] = {0.0, -0.5, 0.5, 1.0, 1e-45, 1e-310, 1e38, -1e300, 1.5};
    constexpr const char* words[] = {"", "auto", "Infinity", "NaN", "7", "mamba", "attention", "silu", "rope", "\xc3\xa9\n\"\\"};
    switch (random_.below(12)) {
      case 0: return nullptr;
      case 1: return random_.below(2) == 0;
      case 2: return of(numbers);
      case 3: return std::string(of(words));
      case 4: return std::string(random_.below(6000), 'x');
      case 5: return Json::array();
      case 6: return Json::object();
      case 7: return Json::array({integer(), of(words), nullptr});
      case 8: return ~std::uint64_t(0) - random_.below(2);
      default: return integer();
    }
  }

  test::Mutator& random_;
  const std::vector<Json>& all_;
};

/// "config.json: <field, or place in the text>: expected .., found ..".
void check_named(const std::string& message) {
  test::check_clear(message, file);
  const std::size_t expected = message.find(": expected ");
  CHECK_MESSAGE(message.starts_with("config.json"), message);
  CHECK_MESSAGE(expected != std::string::npos, message);
  CHECK_MESSAGE(message.find("found ", expected) != std::string::npos, message);
  bool named = expected > std::string_view("config.json: ").size();
  for (const char* const whole : {"JSON", "4194304 bytes", "every key once, found key '"})   // the text itself
    named |= message.find(whole) != std::string::npos;
  CHECK_MESSAGE(named, message);
}

/// What a model of this config would be asked for before a tensor is read.
void check_sizes(const ModelConfig& config, const RuntimePlan& plan) {
  CHECK_FALSE(find_fault(plan));
  CHECK(plan.layers.size() == std::size_t(config.layers));
  CHECK(parameters(plan) > 0);
  CHECK(weight_bytes(plan) > 0);
  CHECK(state_bytes(plan) >= 0);
  CHECK(kv_bytes(plan, 4096) >= 0);
  const FamilyReader& reader = reader_of(plan.shape.family);
  for (int l = 0; l < plan.shape.layers; l += 1 + l / 8)   // all of a small model's, some of a thousand
    for (const LayerTensor& t : layer_tensors(reader, plan, l)) {
      CHECK_FALSE(t.name.empty());
      CHECK(t.count() > 0);
      CHECK(t.place(t.width - 1) < t.padded());
    }
  int seen = 0;
  for_each_site(plan, [&](const Site& site) {
    if (++seen > 200 && seen % 61 != 0) return;
    const WeightSource source = source_of(reader, plan, site);
    REQUIRE_FALSE(source.shape.empty());
    std::int64_t rows = 1;
    for (std::size_t i = 0; i + 1 < source.shape.size(); ++i) rows *= source.shape[i];
    CHECK((site.rows > 0 && site.cols == source.shape.back()));
    CHECK((source.first_row >= 0 && source.first_row + source.row_of(site.rows - 1, site.rows) < rows));
    if (reader.output_scale == nullptr || site.expert > 0) return;
    if (const auto scale = reader.output_scale(config, plan, site.role, site.layer); !scale) check_named(scale.error().message());
    else CHECK((scale->empty() || (std::int64_t(scale->size()) >= site.rows && std::int64_t(scale->size()) <= round_up(site.rows, lanes))));
  });
}

struct Count { int refused = 0, accepted = 0; };

void attempt(const std::string& text, Count& count) {
  const auto config = parse_config(text, file);
  if (!config) return ++count.refused, check_named(config.error().message());
  const auto plan = read_skeleton(*config);
  if (!plan) return ++count.refused, check_named(plan.error().message());
  ++count.accepted, check_sizes(*config, *plan);
}

TEST_CASE("configs: a damaged one of any family ends in an error that names a field, or in a plan that keeps the rules") {
  namespace fs = std::filesystem;
  std::vector<fs::path> folders{std::string(KLENS_EXAMPLES) + "/models/hymba-tiny"};
  for (const char* const of : {"/families", "/original"})
    for (const auto& entry : fs::directory_iterator(std::string(KLENS_TEST_DATA) + of))
      if (entry.is_directory()) folders.push_back(entry.path());
  std::sort(folders.begin() + 1, folders.end());   // the same configs on every machine
  REQUIRE(folders.size() >= 20);
  std::vector<std::string> texts;
  std::vector<Json> all;
  for (const fs::path& folder : folders) {
    texts.push_back(test::get(folder / "config.json"));
    const auto parsed = parse_json(detail::quote_non_finite(texts.back()), file);
    REQUIRE(bool(parsed));
    all.push_back(*parsed);
  }
  const int normal = 500, rounds = test::fuzz_count(normal);
  for (std::size_t i = 0; i < folders.size(); ++i) {
    CAPTURE(folders[i].string());
    test::Mutator random(7 + i);
    Damage damage(random, all);
    Count said, written;
    test::reset_largest_allocation();
    attempt(texts[i], said);
    REQUIRE(said.accepted == 1);
    for (int round = 0; round < rounds; ++round) {
      attempt(damage(all[i]), said);
      attempt(random(texts[i], texts[i].size()), written);
    }
    CHECK(test::largest_allocation() < (64 << 20));   // 4 MiB seen: the multipliers of a million rows
    for (const Count& count : {said, written}) {   // both ways are tried
      CHECK(count.refused > rounds / 4);
      CHECK(count.accepted > 0);
    }
    if (rounds > normal)
      MESSAGE(folders[i].filename().string() << ": " << said.accepted << " + " << written.accepted << " of 2 x " << rounds << " accepted");
  }
}

}  // namespace
