// Where a pass's time goes: the generic program with a clock around every kernel call and every layer. It runs the same kernels on
// the same data (TimedOps is TableOps with clocks), so that only the clocks differ: two readings per call, some 50 ns.
#pragma once

#include <klens/model/decoder.hpp>

#include <array>
#include <atomic>
#include <chrono>
#include <string_view>
#include <vector>

namespace klens::cli {

/// What kernel calls are counted under: linears by role, the others by what they do.
inline constexpr std::array<std::string_view, 37> part_names = {
    "embed",    "head",      "in_proj",   "x_proj", "dt_proj", "out_proj", "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj",
    "up_proj",  "down_proj", "block_out", "q_adapter_in", "q_adapter_out", "k_adapter_in", "k_adapter_out", "v_adapter_in",
    "v_adapter_out", "ffn_adapter_in", "gate_adapter_out", "up_adapter_out", "shared_up", "shared_down", "latent_in", "latent_out",
    "norm",      "quantize", "rope",  "kv_append", "attention", "conv", "scan",   "ssd", "route", "other"};
inline constexpr int part_count = int(part_names.size());
static_assert(part_names[role_count - 1] == "latent_out" && part_names[std::size_t(Role::lm_head)] == "head");

/// The part of a kernel of KLENS_KERNELS by its name.
constexpr int part_of(std::string_view kernel) {
  const auto index = [](std::string_view name) {
    for (int i = 0; i < part_count; ++i)
      if (part_names[std::size_t(i)] == name) return i;
    return part_count - 1;
  };
  if (kernel.find("norm") != kernel.npos) return index("norm");
  if (kernel == "quantize_row" || kernel == "round_rows") return index("quantize");
  if (kernel.starts_with("attention")) return index("attention");
  if (kernel == "conv1d" || kernel == "short_conv") return index("conv");
  if (kernel == "mamba3_inputs") return index("ssd");
  return index(kernel);
}

/// Nanoseconds by part, summed over threads; by layer, as the caller sees them; calls of the program's steps in all.
struct Profile {
  Policy policy = Policy::exact;
  struct alignas(64) Count { std::atomic<std::int64_t> nanoseconds{0}; };
  std::array<Count, part_count> parts;
  std::vector<std::int64_t> layers;
  std::int64_t steps = 0;   // embed, layers, head

  void clear(int layer_count) {
    for (Count& c : parts) c.nanoseconds = 0;
    layers.assign(std::size_t(layer_count), 0);
    steps = 0;
  }
};

/// The profile that timed_program() fills: a Program has plain functions. One at a time.
inline Profile* profile_in_use = nullptr;

inline std::int64_t nanoseconds_of(auto&& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - start).count();
}

struct TimedOps : TableOps {
  static void count(int part, auto&& work) {
    profile_in_use->parts[std::size_t(part)].nanoseconds.fetch_add(nanoseconds_of(work), std::memory_order_relaxed);
  }
  void linear(int l, Role role, const SiteView& site, const LinearArgs& a) const {
    count(int(role), [&] { TableOps::linear(l, role, site, a); });
  }
  void round_rows(const RoundRowsArgs& a) const {
    count(part_of("round_rows"), [&] { TableOps::round_rows(a); });
  }
#define KLENS_ENTRY(name, Args) \
  void name(const Args& a) const { count(part_of(#name), [&] { TableOps::name(a); }); }
  KLENS_KERNELS(KLENS_ENTRY)
#undef KLENS_ENTRY
};

/// The generic program of a level with clocks. Set profile_in_use before it runs.
inline Program timed_program(const Program& program) {
  Program timed = program;
  timed.embed = [](const Pass& pass) {
    profile_in_use->steps += nanoseconds_of([&] { run_embed(TimedOps{{pass.model, pass.table, profile_in_use->policy}}, pass); });
  };
  timed.layers = [](const Pass& pass, int begin, int end) {
    const TimedOps ops{{pass.model, pass.table, profile_in_use->policy}};
    for (int l = begin; l < end; ++l) {
      const std::int64_t spent = nanoseconds_of([&] { run_layer(ops, l, pass); });
      profile_in_use->layers[std::size_t(l)] += spent, profile_in_use->steps += spent;
    }
  };
  timed.head = [](const Pass& pass, int begin, int end, float* logits, std::int64_t stride) {
    profile_in_use->steps += nanoseconds_of([&] {
      run_head(TimedOps{{pass.model, pass.table, profile_in_use->policy}}, pass.model->shape.layers, pass, begin, end, logits, stride);
    });
  };
  return timed;
}

}  // namespace klens::cli
