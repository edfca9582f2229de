// Every family against transformers (tests/data/families, and the fixtures beside the repository where they are): logits,
// hidden states, greedy tokens; the same bits however the tokens are cut; formats; every parameter counts.
// docs/families.md has the errors: they are equal on all levels, so its table must say exactly these.
#include "fixture.hpp"

#include <klens/lens/float64_forward.hpp>

#include <cstdio>
#include <fstream>

using namespace fixture;
namespace fs = std::filesystem;

namespace {

const std::string own = std::string(KLENS_TEST_DATA) + "/families";
const std::string beside = std::string(KLENS_EXAMPLES) + "/../../shared/fixtures";

/// Folders with a model of a family and its golden values.
std::vector<std::string> fixtures() {
  std::vector<std::string> found;
  for (const auto& entry : fs::directory_iterator(own))
    if (entry.is_directory()) found.push_back(entry.path().string());
  REQUIRE(found.size() >= 8);
  int absent = 0;
  for (const std::string_view family : klens::family_names) {
    const std::string folder = beside + "/" + std::string(family);
    if (fs::exists(folder + "/model.safetensors")) found.push_back(folder);
    else if (family != "hymba") ++absent;   // golden.cpp has that one
  }
  if (absent > 0) MESSAGE("skipped: " << absent << " fixtures that are not beside the repository");
  std::ranges::sort(found);
  return found;
}

/// "own mamba2" or "shared mamba2".
std::string title(const std::string& folder) {
  return (folder.starts_with(own) ? "own " : "shared ") + fs::path(folder).filename().string();
}

struct Golden {
  klens::Safetensors file;
  std::int64_t sequences, length;
  std::vector<std::int32_t> ids;
  std::vector<std::int64_t> greedy;
};

Golden golden_of(const std::string& folder) {
  auto file = need(klens::Safetensors::open(folder + "/golden.safetensors"));
  const auto shape = file.find("input_ids")->shape;
  std::vector<std::int32_t> ids = golden_ids(file);
  auto greedy = need(klens::read_i64(*file.find("greedy")));
  return {std::move(file), shape[0], shape[1], std::move(ids), std::move(greedy)};
}

std::vector<std::int32_t> sequence(const Golden& g, std::int64_t i) {
  return {g.ids.begin() + i * g.length, g.ids.begin() + (i + 1) * g.length};
}

/// Rows of sequence i of a golden tensor.
std::vector<float> rows_of(const Golden& g, const std::string& name, std::int64_t i) {
  const std::vector<float> all = floats(g.file, name);
  const auto size = std::ptrdiff_t(all.size()) / std::ptrdiff_t(g.sequences);
  return {all.begin() + i * size, all.begin() + (i + 1) * size};
}

/// transformers' Mamba, FalconMamba and Mamba2 leave the embedding's output out (and so does our mamba3): hidden.i is what layer i gave, before the
/// norm. Name of our hidden state l, or none.
std::string golden_hidden(klens::Family family, int layers, int l) {
  using klens::Family;
  const bool shifted = family == Family::mamba || family == Family::falcon_mamba || family == Family::mamba2 || family == Family::mamba3;
  if (!shifted || l == layers) return "hidden." + std::to_string(l);
  return l == 0 ? std::string() : "hidden." + std::to_string(l - 1);
}

/// Largest differences, as shares of the reference's rms.
struct Errors {
  double logits = 0, hidden = 0;
  bool agree() const { return logits <= 2e-4 && hidden <= 1e-3; }
  void take(const Errors& e) { logits = std::max(logits, e.logits), hidden = std::max(hidden, e.hidden); }
};

struct Run {
  std::vector<float> logits;
  std::vector<std::vector<float>> hidden;
};

Run run(klens::Session& session, const klens::Shape& s, const std::vector<std::int32_t>& ids) {
  Run r;
  const auto n = std::int64_t(ids.size()), stride = klens::logit_stride(s);
  std::vector<float> wide(ids.size() * std::size_t(stride));
  r.hidden.resize(std::size_t(s.layers + 1), std::vector<float>(ids.size() * std::size_t(s.hidden)));
  std::vector<klens::Rows<float>> taps;
  for (auto& h : r.hidden) taps.push_back({h.data(), n, s.hidden, s.hidden});
  session.reset();
  need(session.prefill(ids, {.logits = {wide.data(), n, s.vocab, stride}, .hidden = taps}));
  for (std::int64_t t = 0; t < n; ++t) r.logits.insert(r.logits.end(), wide.begin() + t * stride, wide.begin() + t * stride + s.vocab);
  return r;
}

Errors errors_of(const Run& r, const klens::Shape& s, const Golden& g, std::int64_t i) {
  Errors e;
  e.logits = distance(r.logits, rows_of(g, "logits", i), r.logits.size()).largest;
  for (int l = 0; l <= s.layers; ++l)
    if (const std::string name = golden_hidden(s.family, s.layers, l); !name.empty())
      e.hidden = std::max(e.hidden, distance(r.hidden[std::size_t(l)], rows_of(g, name, i), r.hidden[std::size_t(l)].size()).largest);
  return e;
}

Errors errors_of(const std::string& folder, const Golden& g, std::int64_t length) {
  const klens::Model model = need(klens::load_model(folder));
  klens::Session session = open(model);
  Errors most;
  for (std::int64_t i = 0; i < g.sequences; ++i) {
    std::vector<std::int32_t> ids = sequence(g, i);
    ids.resize(std::size_t(length));
    most.take(errors_of(run(session, model.shape(), ids), model.shape(), g, i));
  }
  return most;
}

/// The same numbers by the float64 forward.
Run exact_run(const std::string& folder, const std::vector<std::int32_t>& ids) {
  const auto exact = need(klens::Float64Forward::open(folder, need(klens::read_skeleton(need(klens::read_config(folder))))));
  std::vector<klens::Float64Forward::Matrix> hidden;
  const std::vector<double> logits = need(exact.logits(ids, {}, &hidden));
  Run r{{logits.begin(), logits.end()}, {}};
  for (const auto& h : hidden) r.hidden.push_back({h.values.begin(), h.values.end()});
  return r;
}

/// How far float32 carries a model from float64: ours, and transformers'. Random weights can make a model that blows rounding up.
struct Rounding { Errors ours, theirs; };

Rounding rounding_of(const std::string& folder, const Golden& g) {
  const klens::Model model = need(klens::load_model(folder));
  const klens::Shape& s = model.shape();
  klens::Session session = open(model);
  Rounding r;
  for (std::int64_t i = 0; i < g.sequences; ++i) {
    const Run exact = exact_run(folder, sequence(g, i)), ours = run(session, s, sequence(g, i));
    r.theirs.take(errors_of(exact, s, g, i));
    r.ours.logits = std::max(r.ours.logits, distance(ours.logits, exact.logits, ours.logits.size()).largest);
    for (std::size_t l = 0; l < ours.hidden.size(); ++l)
      r.ours.hidden = std::max(r.ours.hidden, distance(ours.hidden[l], exact.hidden[l], ours.hidden[l].size()).largest);
  }
  return r;
}

std::string table_row(const std::string& folder, const Golden& g, const Errors& e) {
  char text[200];
  std::snprintf(text, sizeof text, "| %s | %d x %d | %.1e | %.1e |", title(folder).c_str(), int(g.sequences), int(g.length), e.logits, e.hidden);
  return text;
}

/// Logits of all tokens, fed in calls of `piece` tokens.
std::vector<float> in_pieces(klens::Session& session, const klens::Shape& s, const std::vector<std::int32_t>& ids, std::size_t piece) {
  std::vector<float> out;
  const std::int64_t stride = klens::logit_stride(s);
  session.reset();
  for (std::size_t at = 0; at < ids.size(); at += piece) {
    const std::size_t n = std::min(piece, ids.size() - at);
    if (piece == 1) {
      const auto logits = need(session.step(ids[at]));
      out.insert(out.end(), logits.begin(), logits.end());
      continue;
    }
    std::vector<float> wide(n * std::size_t(stride));
    need(session.prefill(std::span(ids).subspan(at, n), {.logits = {wide.data(), std::int64_t(n), s.vocab, stride}}));
    for (std::size_t t = 0; t < n; ++t)
      out.insert(out.end(), wide.begin() + std::ptrdiff_t(t) * stride, wide.begin() + std::ptrdiff_t(t) * stride + s.vocab);
  }
  return out;
}

/// A copy of a checkpoint with `by` added to one value of one tensor.
void write_disturbed(const std::string& from, const std::string& to, const std::string& tensor, std::size_t at, float by) {
  const auto source = need(klens::Safetensors::open(from));
  std::vector<klens::TensorSpec> specs;
  for (const std::string_view name : source.names()) specs.push_back({std::string(name), source.find(name)->dtype, source.find(name)->shape});
  auto writer = need(klens::SafetensorsWriter::create(to + "/model.safetensors", specs));
  for (const klens::TensorSpec& spec : specs) {
    const klens::TensorView& t = *source.find(spec.name);
    std::vector<std::byte> data(t.data.begin(), t.data.end());
    if (spec.name == tensor) {
      float value;
      REQUIRE(t.dtype == klens::DType::f32);
      std::memcpy(&value, data.data() + 4 * at, 4);
      value += by;
      std::memcpy(data.data() + 4 * at, &value, 4);
    }
    need(writer.append(std::span<const std::byte>(data)));
  }
  need(writer.finish());
}

}  // namespace

TEST_CASE("families: logits and hidden states are transformers'; docs/families.md says how near") {
  std::ifstream file(std::string(KLENS_EXAMPLES) + "/../docs/families.md");
  const std::string page{std::istreambuf_iterator<char>(file), {}};
  for (const std::string& folder : fixtures()) {
    CAPTURE(folder);
    const Golden g = golden_of(folder);
    const Errors e = errors_of(folder, g, tokens(int(g.length), 9));
    if (!e.agree() && !is_ref()) {   // a fixture beyond the bound in float32 itself: no farther from float64 than transformers is, twice
      const Rounding r = rounding_of(folder, g);
      MESSAGE(title(folder) << ": float32 of ours " << r.ours.logits << ", of transformers " << r.theirs.logits << " from float64");
      CHECK(r.theirs.logits > 1e-4);
      CHECK(r.ours.logits <= 2 * r.theirs.logits);
      CHECK(r.ours.hidden <= 2 * r.theirs.hidden);
    } else {
      CHECK_MESSAGE((e.agree() || title(folder).starts_with("shared zamba")), e.logits << " " << e.hidden);
    }
    const std::string row = table_row(folder, g, e);
    if (!is_ref()) CHECK_MESSAGE(page.find(row) != std::string::npos, row);
  }
}

TEST_CASE("families: the float64 forward is transformers' too") {
  if (is_ref()) return;   // no kernel runs here: once is enough
  for (const std::string& folder : fixtures()) {
    CAPTURE(folder);
    const Golden g = golden_of(folder);
    const Rounding r = rounding_of(folder, g);
    // What separates them is transformers' float32, some 1e-5; where a model blows rounding up, as much as our float32 is off.
    CHECK_MESSAGE(r.theirs.logits < std::max(5e-5, 2 * r.ours.logits), r.theirs.logits << " " << r.ours.logits);
    CHECK_MESSAGE(r.theirs.hidden < std::max(5e-5, 2 * r.ours.hidden), r.theirs.hidden << " " << r.ours.hidden);
    CHECK(r.theirs.logits < 1e-3);
  }
}

TEST_CASE("families: greedy tokens are transformers'") {
  for (const std::string& folder : fixtures()) {
    CAPTURE(folder);
    const Golden g = golden_of(folder);
    const klens::Model model = need(klens::load_model(folder));
    const std::int64_t steps = std::int64_t(g.greedy.size()) / g.sequences;
    klens::Session session = open(model);
    int compared = 0;
    for (std::int64_t i = 0; i < g.sequences; ++i) {
      session.reset();
      need(session.prefill(sequence(g, i)));
      for (std::int64_t k = 0; k < steps; ++k) {
        const std::vector<float> logits(session.logits().begin(), session.logits().end());
        const auto best = std::ranges::max_element(logits);
        double squares = 0;
        float second = -std::numeric_limits<float>::infinity();
        for (auto v = logits.begin(); v != logits.end(); ++v) squares += double(*v) * double(*v), second = v == best ? second : std::max(second, *v);
        if (double(*best - second) < 1e-3 * std::sqrt(squares / double(logits.size()))) break;   // as good as equal: either may follow
        CHECK(best - logits.begin() == g.greedy[std::size_t(i * steps + k)]);
        ++compared;
        need(session.step(std::int32_t(best - logits.begin())));
      }
    }
    CHECK(compared >= int(g.greedy.size()) / 2);
  }
}

TEST_CASE("families: the same bits in any pieces, on any threads, on every level, in formats too") {
  const klens::KernelTable* ref = klens::table_of(klens::Level::ref);
  REQUIRE(ref != nullptr);
  klens::ThreadTeam three(3);
  for (const std::string& folder : fixtures()) {
    CAPTURE(folder);
    const Golden g = golden_of(folder);
    klens::Model model = need(klens::load_model(folder));
    const klens::Shape& s = model.shape();
    std::vector<std::int32_t> ids = sequence(g, 0);
    if (is_ref()) ids.resize(7);
    std::vector<float> reference;
    for (const char* name : {"f32", "w8", "w4g32a8"}) {
      CAPTURE(name);
      need(model.set_uniform(format(name)));
      klens::Session whole = open(model), team = open(model, three.team(), {.context = 64, .chunk = 5});
      const std::vector<float> expected = in_pieces(whole, s, ids, ids.size());
      CHECK(same_bits(expected, in_pieces(whole, s, ids, 1)));
      CHECK(same_bits(expected, in_pieces(team, s, ids, 9)));
      CHECK(same_bits(expected, in_pieces(team, s, ids, 1)));
      if (!is_ref()) {
        klens::Session scalar = need(klens::Session::create(model, klens::generic_program(*ref)));
        CHECK(same_bits(expected, in_pieces(scalar, s, ids, 11)));
      }
      if (reference.empty()) {
        reference = expected;
        std::vector<float> changed = expected;   // tripwire: one unit in the last place of one logit
        changed[changed.size() / 2] = std::nextafter(changed[changed.size() / 2], 1e9f);
        CHECK_FALSE(same_bits(expected, changed));
        continue;
      }
      const double rms = distance(expected, reference, reference.size()).rms;
      // A format changes the logits, and not beyond recognition: logits of another model are at about 1.4. Random weights
      // average no error out; the largest are shared bamba's, 0.088 in w8 and 0.78 in w4g32a8, but for the shared fixtures that
      // blow rounding up: zamba2's 0.57 and 1.11.
      const bool tame = title(folder) != "shared jamba" && !title(folder).starts_with("shared zamba"), eight = std::string_view(name) == "w8";
      CHECK_MESSAGE((rms > 1e-5 && rms < (tame ? (eight ? 0.1 : 0.9) : (eight ? 0.7 : 1.2))), rms);
    }
  }
}

TEST_CASE("families: a run from the inputs of any layer ends with the bits of the whole run") {
  for (const std::string& folder : fixtures()) {
    CAPTURE(folder);
    const Golden g = golden_of(folder);
    klens::Model model = need(klens::load_model(folder));
    const klens::Shape& s = model.shape();
    std::vector<std::int32_t> ids = sequence(g, 0);
    ids.resize(std::size_t(tokens(int(g.length), 5)));
    const auto n = std::int64_t(ids.size());
    std::vector<std::vector<float>> kept(std::size_t(s.layers), std::vector<float>(ids.size() * std::size_t(s.hidden)));
    std::vector<klens::Rows<float>> inputs;
    for (auto& rows : kept) inputs.push_back({rows.data(), n, s.hidden, s.hidden});
    klens::Session session = open(model, {}, {.context = 64, .chunk = 8});
    need(session.prefill(ids, {.inputs = inputs}));
    const std::vector<float> expected(session.logits().begin(), session.logits().end());
    for (int l = 0; l < s.layers; ++l) {
      CAPTURE(l);
      need(session.run_from(l, inputs, {}));
      CHECK(same_bits(expected, {session.logits().begin(), session.logits().end()}));
    }
    kept[std::size_t(s.layers - 1)][std::size_t((n - 1) * s.hidden)] += 0.25f;   // tripwire: another input of the last layer
    need(session.run_from(s.layers - 1, inputs, {}));
    CHECK_FALSE(same_bits(expected, {session.logits().begin(), session.logits().end()}));
  }
}

TEST_CASE("families: every tensor counts, in the logits and in the hash that a saved session must share") {
  const TempFolder folder;
  for (const std::string& from : fixtures()) {
    if (!from.starts_with(own)) continue;
    CAPTURE(from);
    const Golden g = golden_of(from);
    fs::copy_file(from + "/config.json", folder.path() + "/config.json", fs::copy_options::overwrite_existing);
    const auto source = need(klens::Safetensors::open(from));
    const std::uint64_t hash = klens::weights_hash(need(klens::load_model(from)));
    int checked = 0;
    for (const std::string_view name : source.names()) {
      CAPTURE(name);
      const klens::TensorView& t = *source.find(name);
      const auto columns = std::size_t(t.count() / t.shape[0]);
      // A row that is in use: of the embedding, that of the first token; else the first.
      const std::size_t row = std::string(name).find("embed") != std::string::npos ? std::size_t(g.ids[0]) : 0;
      // dt is limited from above (time_step_limit), and a bias may lie beyond: down it always counts.
      const bool limited = t.name.find("dt_bias") != std::string::npos;
      write_disturbed(from, folder.path(), t.name, row * columns, limited ? -4.0f : 1.0f);
      const Errors e = errors_of(folder.path(), g, 9);
      CHECK_FALSE(e.agree());
      CHECK(klens::weights_hash(need(klens::load_model(folder.path()))) != hash);
      ++checked;
      if (is_ref() && checked >= 3) break;
    }
    CHECK(checked >= 3);
  }
}
