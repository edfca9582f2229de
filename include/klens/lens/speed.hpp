// speed: tokens per second of a model (design.md §8): prefill of 512 tokens; decode of 128 after 128. Medians of repeats in which
// the two alternate. Numbers of a shared machine: compare them within one run only.
#pragma once

#include <klens/model/session.hpp>

#include <algorithm>
#include <chrono>
#include <vector>

namespace klens {

struct Speed {
  double prefill_tokens_per_second = 0, decode_tokens_per_second = 0;
};

struct SpeedOptions {
  int prefill = 512, prompt = 128, decode = 128, repeats = 3;
};

inline Result<Speed> measure_speed(const Model& model, const Program& program, const Team& team, const SpeedOptions& options = {}) {
  KLENS_TRY(Session session, Session::create(model, program, team, {.context = std::max(options.prefill, options.prompt + options.decode)}));
  std::vector<std::int32_t> ids;   // any tokens will do: the work does not depend on them
  for (int i = 0; i < std::max(options.prefill, options.prompt); ++i) ids.push_back(std::int32_t((i * 2654435761ull >> 7) % std::uint64_t(model.shape().vocab)));
  const auto seconds = [](auto&& work) -> Result<double> {
    const auto start = std::chrono::steady_clock::now();
    KLENS_OK(work());
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  std::vector<double> prefill, decode;
  for (int r = 0; r <= options.repeats; ++r) {   // the first is a warm-up
    session.reset();
    KLENS_TRY(const double p, seconds([&] { return session.prefill(std::span(ids).first(std::size_t(options.prefill))); }));
    session.reset();
    KLENS_OK(session.prefill(std::span(ids).first(std::size_t(options.prompt))));
    KLENS_TRY(const double d, seconds([&]() -> Result<void> {
      for (int i = 0; i < options.decode; ++i) {
        KLENS_TRY(const std::span<const float> logits, session.step(ids[std::size_t(i) % ids.size()]));
        (void)logits;
      }
      return {};
    }));
    if (r > 0) prefill.push_back(p), decode.push_back(d);
  }
  const auto median = [](std::vector<double>& v) {
    std::sort(v.begin(), v.end());
    return v[v.size() / 2];
  };
  return Speed{options.prefill / median(prefill), options.decode / median(decode)};
}

}  // namespace klens
