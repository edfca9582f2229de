// Every rule of a plan: broken once, found with its field; the untouched plan has none.
#include <klens/plan/document.hpp>
#include <klens/plan/presets.hpp>

#include <doctest/doctest.h>

#include <functional>

using namespace klens;
namespace f = klens::formats;

namespace {

struct Case {
  const char *field, *found;
  std::function<void(RuntimePlan&)> break_it;
};

const Case cases[] = {
    {"shape.layers", "9", [](auto& p) { p.shape.layers = 9; }},
    {"shape.hidden", "0", [](auto& p) { p.shape.hidden = 0; }},
    {"shape.hidden", "-4", [](auto& p) { p.shape.hidden = -4; }},
    {"shape.vocab", "16777217", [](auto& p) { p.shape.vocab = (1 << 24) + 1; }},
    {"shape.heads", "5", [](auto& p) { p.shape.heads = 5; }},
    {"shape.kv_heads", "0", [](auto& p) { p.shape.kv_heads = 0; }},
    {"shape.rotary_dim", "32", [](auto& p) { p.shape.qk_dim = 31; }},
    {"shape.rotary_dim", "31", [](auto& p) { p.shape.rotary_dim = 31; }},
    {"shape.ssm_heads", "2", [](auto& p) { p.shape.ssm_heads = 2; }},
    {"shape.ssm_heads", "7", [](auto& p) { p.layers[4].mixer = Mixer::mamba2, p.shape.ssm_heads = 7, p.shape.ssm_groups = 1; }},
    {"shape.ssm_groups", "5", [](auto& p) { p.layers[4].mixer = Mixer::mamba2, p.shape.ssm_heads = 6, p.shape.ssm_groups = 5; }},
    {"shape.dt_min", "another", [](auto& p) { p.shape.dt_min = 2, p.shape.dt_max = 1; }},
    {"layers[4].mixer", "99", [](auto& p) { p.layers[4].mixer = Mixer(99); }},
    {"layers[4].ffn", "9", [](auto& p) { p.layers[4].ffn = Ffn(9); }},
    {"shape.v_dim", "32", [](auto& p) { p.shape.v_dim = 32; }},
    {"shape.n_state", "0", [](auto& p) { p.shape.n_state = 0; }},
    {"shape.conv_taps", "5", [](auto& p) { p.shape.conv_taps = 5; }},
    {"shape.dt_rank", "-1", [](auto& p) { p.shape.dt_rank = -1; }},
    {"shape.ffn", "0", [](auto& p) { p.shape.ffn = 0; }},
    {"shape.meta", "-1", [](auto& p) { p.shape.meta = -1; }},
    {"shape.norm_eps", "another", [](auto& p) { p.shape.norm_eps = 0; }},
    {"shape.rope_theta", "another", [](auto& p) { p.shape.rope_theta = -1; }},
    {"layers[3].window", "-1", [](auto& p) { p.layers[3].window = -1; }},
    {"layers[3].kv_source", "4", [](auto& p) { p.layers[3].kv_source = 4; }},
    {"layers[3].kv_source", "-1", [](auto& p) { p.layers[3].kv_source = -1; }},
    {"layers[3].kv_source", "2", [](auto& p) { p.layers[3].kv_source = 2; }},
    {"embedding.scheme.zero_point", "true", [](auto& p) { p.embedding.scheme.zero_point = true; }},
    {"lm_head.weight_bits", "7", [](auto& p) { p.shape.tied_head = false, p.lm_head = {7, per_row()}; }},
    {"layers[0].in_proj.scheme.scale", "two_level", [](auto& p) { p.layers[0].in_proj.scheme.scale = Granularity::two_level; }},
    {"layers[1].x_proj.scheme.scale", "group", [](auto& p) { p.layers[1].x_proj = {32, {Grid::f32, Granularity::group, 32, false}}; }},
    {"layers[1].x_proj.scheme.scale", "row", [](auto& p) { p.layers[1].x_proj = {4, {Grid::nf4, Granularity::row, 0, false}}; }},
    {"layers[2].dt_proj.weight_bits", "16", [](auto& p) { p.layers[2].dt_proj = {16, floats(Grid::f32)}; }},
    {"layers[2].dt_proj.weight_bits", "3", [](auto& p) { p.layers[2].dt_proj = {3, nf4_groups_of(64)}; }},
    {"layers[4].out_proj.weight_bits", "7", [](auto& p) { p.layers[4].out_proj = {7, per_row()}; }},
    {"layers[5].gate_proj.scheme.group", "48", [](auto& p) { p.layers[5].gate_proj.scheme.group = 48; }},
    {"layers[6].up_proj.scheme.group", "32", [](auto& p) { p.layers[6].up_proj = {8, {Grid::uniform, Granularity::row, 32, false}}; }},
    {"layers[7].down_proj.activation", "a8s", [](auto& p) { p.layers[7].down_proj.activation = Activation::a8s; }},
    {"layers[7].down_proj.state", "s8", [](auto& p) { p.layers[7].down_proj.state = State::s8; }},
    {"layers[7].scan.state", "s4", [](auto& p) { p.layers[7].scan.state = State::s4; }},
    {"layers[7].conv.state", "s4", [](auto& p) { p.layers[7].conv.state = State::s4; }},
    {"layers[0].attention.state", "s16", [](auto& p) { p.layers[0].attention.state = State::s16; }},
    {"layers[2].attention.state", "f32", [](auto& p) { p.layers[1].attention.state = State::s8; }},
    {"layers[0].attention.activation", "a8", [](auto& p) { p.layers[0].attention.activation = Activation::a8; }},
};

}  // namespace

TEST_CASE("find_fault: names the first broken field") {
  const RuntimePlan good = runtime_plan(presets::hymba_tiny(f::w4g32));
  CHECK_FALSE(find_fault(good));
  CHECK_FALSE(find_fault(presets::hymba_1_5b_base(f::w4g32a8)));
  for (const Case& c : cases) {
    RuntimePlan bad = good;
    c.break_it(bad);
    const auto fault = find_fault(bad);
    CAPTURE(c.field);
    REQUIRE(fault);
    CHECK(fault->field == c.field);
    CHECK(fault->found == c.found);
    CHECK_FALSE(fault->expected.empty());
  }
}

TEST_CASE("find_fault: every format of a state, K and V in the layer that reads them too") {
  for (const StateKind kind : state_kinds)
    for (const State format : {State::f32, State::f16, State::s16, State::s8, State::s4}) {
      RuntimePlan plan = runtime_plan(presets::hymba_tiny(f::w4g32));
      set_state(plan, kind, 1, format);
      CHECK(bool(find_fault(plan)) == !state_allowed(kind, format));
      CHECK(state_allowed(kind, format) == (format != (kind == StateKind::kv ? State::s16 : State::s4)));
    }
}

TEST_CASE("find_fault: every format name of the readers is a legal weight") {
  for (const char* weight : {"f32", "f16", "bf16", "w8", "w6", "w5", "w4", "w3", "w2", "w8g32", "w4g64", "w3g128", "w2g32", "nf4g64"})
    for (const char* activation : {"", "a8", "a16"}) {
      const auto precision = parse_format(std::string(weight) + activation);
      REQUIRE(precision);
      CHECK_FALSE(find_fault(presets::hymba_tiny(*precision)));
    }
}
