// Bytes and parameters of plans as constant expressions. The sizes are counted by hand or taken from published models.
#include <klens/format/name.hpp>
#include <klens/plan/budget.hpp>
#include <klens/plan/check.hpp>
#include <klens/plan/presets.hpp>

#include <doctest/doctest.h>

#include <string>
#include <utility>

using namespace klens;
namespace f = klens::formats;

namespace {

constexpr auto tiny = checked(presets::hymba_tiny(f::w4g32));
constexpr auto large = checked(presets::hymba_1_5b_base());

static_assert(parameters(large) == 1522797824, "as published for nvidia/Hymba-1.5B-Base");
static_assert(parameters(tiny) == 5760544, "half the bytes of the tensors in examples/models/hymba-tiny/model.safetensors");

// One linear by hand: 44 rows take 3 panels; 384 inputs in w4g32 are 48 lines of 64 bytes and 12 groups of 16 halves each.
static_assert(site_bytes({Role::x_proj, 0, 44, 384, f::w4g32}) == 3 * (48 * 64 + 12 * 32));
// 12 inputs: w4 pads to 16 (2 lines), one fp32 scale per row.
static_assert(site_bytes({Role::dt_proj, 0, 384, 12, f::w4}) == 24 * (2 * 64 + 64));
static_assert(site_bytes({Role::dt_proj, 0, 384, 12, f::f32}) == 384 * 12 * 4);

static_assert(linear_bytes(presets::hymba_tiny(f::w8)) > 2 * linear_bytes(presets::hymba_tiny(f::w4)) * 9 / 10);
static_assert(weight_bytes(tiny, 1000) - weight_bytes(tiny, 0) == 1000);
static_assert(linear_bytes(tiny) == weight_bytes(tiny, 0));

constexpr bool budget_of_untied_head_counts_twice() {
  auto untied = presets::hymba_tiny(f::w4g32);
  untied.shape.tied_head = false, untied.lm_head = untied.embedding;
  return linear_bytes(untied) - linear_bytes(tiny) == packed_bytes(f::w4g32, 4096, 192);
}
static_assert(budget_of_untied_head_counts_twice());

// Per layer and channel: 3 conv inputs and 16 states, fp32. K: 32 and V: 64 values per position in 2 heads of 6 own layers.
static_assert(state_bytes(tiny) == 8 * 384 * (3 + 16) * 4);
static_assert(kv_capacity(tiny.shape, 497) == 528 && kv_capacity(tiny.shape, 496) == 512);
static_assert(kv_bytes(tiny, 496) == std::int64_t(6) * 2 * 512 * (32 + 64) * 4);

// The same in formats. Scan s8: a byte per state and a float per channel; conv s8: a byte per input and a float per 16; KV s8:
// a byte per value and a bf16 per position and head for K and V each; s4: half a byte, and a bf16 per 32 columns.
constexpr auto with_states(State scan, State conv, State kv) {
  auto plan = tiny;
  for (int l = 0; l < 8; ++l) plan.layers[std::size_t(l)].scan.state = scan, plan.layers[std::size_t(l)].conv.state = conv, plan.layers[std::size_t(l)].attention.state = kv;
  return plan;
}
static_assert(state_bytes(with_states(State::s8, State::f32, State::f32)) == 8 * 384 * (3 * 4 + 16 + 4));
static_assert(state_bytes(with_states(State::s16, State::s8, State::f32)) == 8 * (384 * (16 * 2 + 4) + 384 * 3 + round_up(3 * 24 * 4, 64)));
static_assert(state_bytes(with_states(State::f16, State::f16, State::f32)) == 8 * 384 * (3 + 16) * 2);
static_assert(kv_bytes(with_states(State::f32, State::f32, State::s8), 496) == 6 * 2 * 512 * (32 + 64 + 2 * 2));
static_assert(kv_bytes(with_states(State::f32, State::f32, State::s4), 496) == 6 * 2 * 512 * ((32 + 64) / 2 + 2 + 2 * 2));
static_assert(weight_bytes(with_states(State::s8, State::s8, State::s8)) == weight_bytes(tiny), "states are no part of the file");
static_assert(shape_hash(with_states(State::s8, State::s8, State::s8)) == shape_hash(tiny));

constexpr bool budget_of_each_state_adds_up() {
  const auto plan = with_states(State::s8, State::s16, State::s4);
  std::int64_t sum = 0;
  for_each_state(plan, [&](const StateSite& site) { sum += state_bytes(plan, site, 496); });
  return sum == state_bytes(plan) + kv_bytes(plan, 496);
}
static_assert(budget_of_each_state_adds_up());

constexpr bool hash_sees(auto change) {
  auto other = tiny;
  change(other);
  return shape_hash(other) != shape_hash(tiny);
}
static_assert(hash_sees([](auto& p) { p.shape.vocab = 4095; }));
static_assert(hash_sees([](auto& p) { p.shape.norm_eps = 1e-5f; }));
static_assert(hash_sees([](auto& p) { p.shape.tied_head = false; }));
static_assert(hash_sees([](auto& p) { p.layers[3].window = 127; }));
static_assert(hash_sees([](auto& p) { p.layers[2].kv_source = 2; }));
static_assert(!hash_sees([](auto& p) { p.layers[2].in_proj = f::w8; }), "formats are no part of the shape");

}  // namespace

TEST_CASE("budget: sums over sites in any order give the same bytes") {
  std::int64_t total = 0;
  int sites = 0;
  for_each_site(tiny, [&](const Site& s) { total += packed_bytes(s.precision, s.rows, s.cols), ++sites; });
  CHECK(total == linear_bytes(tiny));
  CHECK(sites == 57);
}

TEST_CASE("formats: every constant is what its name parses to") {
  const std::pair<const char*, Precision> constants[] = {
      {"f32", f::f32}, {"f16", f::f16}, {"bf16", f::bf16}, {"f16a8", f::f16a8}, {"bf16a16", f::bf16a16},
      {"w8", f::w8}, {"w6", f::w6}, {"w5", f::w5}, {"w4", f::w4}, {"w3", f::w3}, {"w2", f::w2},
      {"w8a8", f::w8a8}, {"w6a8", f::w6a8}, {"w4a16", f::w4a16}, {"w2a8", f::w2a8},
      {"w8g32", f::w8g32}, {"w6g64", f::w6g64}, {"w5g128", f::w5g128}, {"w4g32", f::w4g32}, {"w3g32", f::w3g32},
      {"w2g32", f::w2g32}, {"w4g32a8", f::w4g32a8}, {"w3g128a16", f::w3g128a16},
      {"nf4g32", f::nf4g32}, {"nf4g64", f::nf4g64}, {"nf4g128a8", f::nf4g128a8}};
  for (const auto& [spelled, value] : constants) {
    const std::string name = spelled;
    CAPTURE(name);
    REQUIRE(parse_format(name));
    CHECK(*parse_format(name) == value);
    CHECK(format_name(value) == name);
  }
}
