// What the model tests share: hymba-tiny, its float64 golden values, comparison by rms, and a folder of its own to write in.
#pragma once

#include "support/temp_folder.hpp"

#include <klens/core/thread_team.hpp>
#include <klens/dispatch/select.hpp>
#include <klens/io/safetensors.hpp>
#include <klens/io/safetensors_writer.hpp>
#include <klens/model/generic.hpp>
#include <klens/model/session.hpp>

#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

namespace fixture {

using test::TempFolder;

inline const std::string checkpoint = std::string(KLENS_EXAMPLES) + "/models/hymba-tiny";
inline const std::string data = std::string(KLENS_TEST_DATA) + "/hymba-tiny";

/// The level this run is about.
inline const klens::KernelTable& active() {
  const auto table = klens::choose_table("");
  REQUIRE(bool(table));
  return **table;
}
inline bool is_ref() { return active().level == klens::Level::ref; }
/// The scalar level runs at a hundredth of the speed: it gets fewer tokens.
inline int tokens(int full, int on_ref) { return is_ref() ? on_ref : full; }

template <class T>
T need(klens::Result<T> result) {
  INFO((result ? std::string() : result.error().message()));
  REQUIRE(bool(result));
  return *std::move(result);
}
inline void need(const klens::Result<void>& result) {
  INFO((result ? std::string() : result.error().message()));
  REQUIRE(bool(result));
}

inline klens::Model load() { return need(klens::load_model(checkpoint)); }

inline klens::Session open(const klens::Model& model, klens::Team team = {}, klens::SessionOptions options = {}) {
  return need(klens::Session::create(model, klens::generic_program(active()), team, options));
}

inline klens::Precision format(const std::string& name) {
  const auto p = klens::parse_format(name);
  REQUIRE(p.has_value());
  return *p;
}

inline std::vector<std::int32_t> golden_ids(const klens::Safetensors& file) {
  const klens::TensorView* t = file.find("input_ids");
  REQUIRE(t != nullptr);
  const auto wide = need(klens::read_i64(*t));
  return {wide.begin(), wide.end()};
}

inline std::vector<float> floats(const klens::Safetensors& file, const std::string& name) {
  const klens::TensorView* t = file.find(name);
  REQUIRE(t != nullptr);
  std::vector<float> values(std::size_t(t->count()));
  need(klens::read_f32(*t, values));
  return values;
}

/// Largest and rms difference of the first `count` values, as shares of the reference's rms.
struct Distance { double largest, rms; };

inline Distance distance(const std::vector<float>& mine, const std::vector<float>& reference, std::size_t count) {
  REQUIRE((count <= mine.size() && count <= reference.size() && count > 0));
  double most = 0, squares = 0, scale = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const double d = double(mine[i]) - double(reference[i]);
    most = std::isfinite(d) ? std::max(most, std::abs(d)) : std::numeric_limits<double>::infinity();
    squares += d * d;
    scale += double(reference[i]) * double(reference[i]);
  }
  scale = std::sqrt(scale / double(count));
  return {most / scale, std::sqrt(squares / double(count)) / scale};
}

inline bool logits_agree(const Distance& d) { return d.largest <= 1e-4 && d.rms <= 2e-5; }

inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

/// Logits of all tokens, prefilled.
inline std::vector<float> logits_of(klens::Session& session, const std::vector<std::int32_t>& ids, std::int64_t vocab) {
  std::vector<float> out(ids.size() * std::size_t(vocab));
  need(session.prefill(ids, {.logits = {out.data(), std::int64_t(ids.size()), vocab, vocab}}));
  return out;
}

}  // namespace fixture
