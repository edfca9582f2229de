// What the lens tests share: hymba-tiny, texts as its tokens, the program of the level that this run is about.
#pragma once

#include "support/temp_folder.hpp"

#include <klens/dispatch/select.hpp>
#include <klens/io/tokenizer.hpp>
#include <klens/model/generic.hpp>
#include <klens/model/model.hpp>

#include <doctest/doctest.h>

#include <string>
#include <vector>

namespace fixture {

inline const std::string model_path = std::string(KLENS_EXAMPLES) + "/models/hymba-tiny";

/// A text of examples/data.
inline std::vector<std::int32_t> text(const char* name) {
  const auto tokenizer = klens::Tokenizer::load(model_path + "/tokenizer.json");
  const auto content = klens::read_text(std::string(KLENS_EXAMPLES) + "/data/" + name, 1 << 24);
  REQUIRE(tokenizer);
  REQUIRE(content);
  return tokenizer->encode(*content);
}

inline const std::vector<std::int32_t>& calibration() {
  static const std::vector<std::int32_t> ids = text("calibration.txt");
  return ids;
}

inline klens::Program program() {
  const auto table = klens::choose_table("");
  REQUIRE(table);
  return klens::generic_program(**table);
}

inline klens::Model loaded() {
  auto m = klens::load_model(model_path);
  REQUIRE_MESSAGE(m, m.error().message());
  return std::move(*m);
}

}  // namespace fixture
