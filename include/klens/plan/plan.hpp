// Plan: one Precision per site of a model, as a value. plan.hpp files hold one; the specialised build compiles for it, the
// generic way reads the same thing from plan.json. Aggregates without member functions, shared by all ISA levels.
#pragma once

#include <klens/format/scheme.hpp>

#include <array>
#include <cstddef>
#include <cstdint>

namespace klens {

/// Names and config of a checkpoint (model/families.hpp). What its layers compute is in Mixer, Ffn and Shape.
enum class Family : std::uint8_t { hymba, mamba, falcon_mamba, mamba2, lfm2, falcon_h1, bamba, nemotron_h, jamba, granitemoehybrid,
                                   zamba, zamba2, mamba3 };
inline constexpr int family_count = 13;

/// What mixes the tokens of a layer (equations: model/decoder.hpp).
enum class Mixer : std::uint8_t {
  none,
  hymba,        // attention and mamba heads of one in_proj, averaged
  mamba,        // selective scan of Mamba-1
  mamba2,       // state space dual, gated norm
  attention,
  short_conv,   // LFM2's gated short convolution
  parallel,     // mamba2 and attention of one normed input, both added to the residual stream
  block_mamba,  // a transformer block whose weights several layers share, then mamba (Zamba)
  block_mamba2, // the same, then mamba2 (Zamba2)
  conv_attention, // q, k and v of one in_proj, through a convolution without activation (state-spaces' mamba2attn)
  mamba3,       // state of Mamba-2 by the trapezoidal rule, B and C turned, no convolution
};
inline constexpr int mixer_count = 11;

enum class Ffn : std::uint8_t {
  none, swiglu, relu2,
  moe,          // mixture of experts, each a SwiGLU
  moe_shared,   // the same, and a SwiGLU that every token passes
  moe_relu2,    // mixture of relu2 experts behind a router of sigmoids, and a relu2 that every token passes (Nemotron-3)
};
inline constexpr int ffn_count = 6;

inline constexpr int most_experts = 512;   // of a layer

/// Sizes of a model, in the field's names. Two models of equal Shape and layer shapes run the same specialised program.
/// Sizes that no layer uses are 0.
struct Shape {
  Family family = Family::hymba;
  int layers = 0, hidden = 0, vocab = 0;
  int heads = 0, kv_heads = 0, qk_dim = 0, v_dim = 0;   // attention: query heads, kv heads, widths of a q/k head and a v head
  int inner = 0, n_state = 0, conv_taps = 0, dt_rank = 0;  // mamba: channels, state per channel; short_conv: channels, taps
  int ffn = 0;
  int meta = 0;                                         // learned tokens before position 0
  bool tied_head = false;
  float norm_eps = 0, rope_theta = 0;
  int rotary_dim = 0;                                   // columns of a q/k head that RoPE turns; 0: no RoPE
  int ssm_heads = 0, ssm_groups = 0;                    // mamba2, mamba3: heads of inner / ssm_heads columns; groups sharing B and C
  int norm_groups = 0;                                  // mamba2, mamba3: groups of the gated norm; 0: gate alone
  bool norm_before_gate = false;
  bool inner_norms = false, inner_norm_weights = false; // mamba: dt, B and C pass RMSNorm; which has weights
  bool qk_norm = false;                                 // RMSNorm of each q and k head, before RoPE
  bool conv_bias = true;
  bool in_proj_bias = false, out_proj_bias = false, attention_bias = false, ffn_bias = false;   // has_bias()
  float inner_norm_eps = 0;
  float dt_min = 0, dt_max = 0;                         // mamba2: limits of dt after softplus; 0, 0: none
  float embedding_scale = 1, attention_scale = 0;       // 0: 1 / sqrt(qk_dim)
  int experts = 0, experts_used = 0, expert_ffn = 0;    // moe: experts of a layer, those a token passes, width of one
  bool softmax_of_all = false;                          // moe: weights are softmax over all experts; else over those used
  int adapter_rank = 0;                                 // shared block: rank of what each layer adds to gate and up; 0: nothing
  bool attention_adapters = false;                      // and to q, k and v
  int scan_heads = 1;                                   // mamba: heads of inner / scan_heads channels, each with its own dt, B, C
  int shared_ffn = 0;                                   // moe_relu2: width of what every token passes
  int expert_latent = 0;                                // moe_relu2: inputs and outputs of an expert; 0: hidden
  int router_groups = 0, router_groups_used = 0;        // moe_relu2: groups of experts, and those of them a token may pass
  bool router_normed = false;                           // moe_relu2: weights add up to 1, before
  float router_scale = 0;                               // moe_relu2: what multiplies them
  int ssm_angles = 0;                                   // mamba3: pairs of state columns that are turned
  float least_rate = 0;                                 // mamba3: of a head's decay
  bool operator==(const Shape&) const = default;
};

/// What one layer does, and in which precision. window 0: global attention. kv_source: the layer whose K and V it reads
/// (itself: own). block_source: the layer whose shared block it runs (itself: own; -1: none). Linears that the layer does not
/// have (has_role) are not read.
struct LayerPlan {
  int window = 0;
  int kv_source = 0;
  Precision in_proj = {}, x_proj = {}, dt_proj = {}, out_proj = {}, q_proj = {}, k_proj = {}, v_proj = {}, o_proj = {};
  Precision gate_proj = {}, up_proj = {}, down_proj = {};
  Precision block_out = {};                             // of a shared block's output, the layer's own; as its adapters are
  Precision q_adapter_in = {}, q_adapter_out = {}, k_adapter_in = {}, k_adapter_out = {}, v_adapter_in = {}, v_adapter_out = {};
  Precision ffn_adapter_in = {}, gate_adapter_out = {}, up_adapter_out = {};
  Precision shared_up = {}, shared_down = {}, latent_in = {}, latent_out = {};   // moe_relu2
  Precision scan = {}, attention = {}, conv = {};       // state only: of the scan, K and V, the convolution's last inputs
  Mixer mixer = Mixer::hymba;
  Ffn ffn = Ffn::swiglu;
  int block_source = -1;
  bool operator==(const LayerPlan&) const = default;
};

/// The formats of one expert of one layer.
struct ExpertPlan {
  Precision gate_proj = {}, up_proj = {}, down_proj = {};   // gate_proj: not of moe_relu2
  bool operator==(const ExpertPlan&) const = default;
};

/// Experts: of all layers that have some, layer by layer.
template <std::size_t Layers, std::size_t Experts = 0>
struct Plan {
  Shape shape = {};
  Precision embedding = {};                             // and head, where tied
  std::array<LayerPlan, Layers> layers = {};
  Precision lm_head = {};                               // read only where the head is not tied
  std::array<ExpertPlan, Experts> experts = {};         // expert_index()
  bool operator==(const Plan&) const = default;
};

/// The linears of a layer, in the order of the forward pass, and the model's own two.
enum class Role : std::uint8_t {
  embedding, lm_head, in_proj, x_proj, dt_proj, out_proj, q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj,
  block_out, q_adapter_in, q_adapter_out, k_adapter_in, k_adapter_out, v_adapter_in, v_adapter_out,
  ffn_adapter_in, gate_adapter_out, up_adapter_out, shared_up, shared_down, latent_in, latent_out
};
inline constexpr int role_count = int(Role::latent_out) + 1;

/// Member of a per-layer aggregate (LayerPlan, LayerView) with one member per linear, by role.
template <class PerLayer>
KLENS_INLINE constexpr auto& member_of(PerLayer& l, Role role) {
  switch (role) {
    case Role::x_proj: return l.x_proj;
    case Role::dt_proj: return l.dt_proj;
    case Role::out_proj: return l.out_proj;
    case Role::q_proj: return l.q_proj;
    case Role::k_proj: return l.k_proj;
    case Role::v_proj: return l.v_proj;
    case Role::o_proj: return l.o_proj;
    case Role::gate_proj: return l.gate_proj;
    case Role::up_proj: return l.up_proj;
    case Role::down_proj: return l.down_proj;
    case Role::block_out: return l.block_out;
    case Role::q_adapter_in: return l.q_adapter_in;
    case Role::q_adapter_out: return l.q_adapter_out;
    case Role::k_adapter_in: return l.k_adapter_in;
    case Role::k_adapter_out: return l.k_adapter_out;
    case Role::v_adapter_in: return l.v_adapter_in;
    case Role::v_adapter_out: return l.v_adapter_out;
    case Role::ffn_adapter_in: return l.ffn_adapter_in;
    case Role::gate_adapter_out: return l.gate_adapter_out;
    case Role::up_adapter_out: return l.up_adapter_out;
    case Role::shared_up: return l.shared_up;
    case Role::shared_down: return l.shared_down;
    case Role::latent_in: return l.latent_in;
    case Role::latent_out: return l.latent_out;
    default: return l.in_proj;
  }
}

KLENS_INLINE constexpr const Precision& precision_of(const LayerPlan& l, Role role) { return member_of(l, role); }

/// Member of a per-expert aggregate (ExpertPlan, ExpertView), by role.
template <class PerExpert>
KLENS_INLINE constexpr auto& expert_member(PerExpert& e, Role role) {
  return role == Role::gate_proj ? e.gate_proj : role == Role::up_proj ? e.up_proj : e.down_proj;
}

/// A transformer block that layers share, before its mamba.
KLENS_INLINE constexpr bool has_block(Mixer m) { return m == Mixer::block_mamba || m == Mixer::block_mamba2; }
KLENS_INLINE constexpr bool has_attention(Mixer m) {
  return m == Mixer::hymba || m == Mixer::attention || m == Mixer::parallel || m == Mixer::conv_attention || has_block(m);
}
/// A scan of Mamba-1, its x_proj and dt_proj.
KLENS_INLINE constexpr bool has_scan(Mixer m) { return m == Mixer::hymba || m == Mixer::mamba || m == Mixer::block_mamba; }
KLENS_INLINE constexpr bool has_ssd(Mixer m) { return m == Mixer::mamba2 || m == Mixer::parallel || m == Mixer::block_mamba2; }
KLENS_INLINE constexpr bool has_conv(Mixer m) {
  return has_scan(m) || has_ssd(m) || m == Mixer::short_conv || m == Mixer::conv_attention;
}
/// The state of kernel/ssd.hpp.
KLENS_INLINE constexpr bool has_ssd_state(Mixer m) { return has_ssd(m) || m == Mixer::mamba3; }
/// in_proj and out_proj around it.
KLENS_INLINE constexpr bool has_in_proj(Mixer m) { return has_conv(m) || m == Mixer::mamba3; }
KLENS_INLINE constexpr bool has_experts(Ffn f) { return f == Ffn::moe || f == Ffn::moe_shared || f == Ffn::moe_relu2; }
/// Whether an expert has a linear of a role.
KLENS_INLINE constexpr bool expert_has(Ffn f, Role role) { return has_experts(f) && (f != Ffn::moe_relu2 || role != Role::gate_proj); }
/// A gated ffn that every token passes.
KLENS_INLINE constexpr bool has_swiglu(Ffn f) { return f == Ffn::swiglu || f == Ffn::moe_shared; }
/// Linears of their own for q, k, v and the output of the heads.
KLENS_INLINE constexpr bool has_qkvo(Mixer m) { return m == Mixer::attention || m == Mixer::parallel || has_block(m); }

/// Whether a linear belongs to the block of a layer that has one: stored once for all that share it.
KLENS_INLINE constexpr bool is_block_role(Mixer mixer, Role role) {
  return has_block(mixer) && role >= Role::q_proj && role <= Role::down_proj;
}

/// Whether a layer runs a linear of a role, beside those of its experts. own_kv: it makes its K and V.
KLENS_INLINE constexpr bool has_role(const Shape& s, Mixer mixer, Ffn ffn, bool own_kv, Role role) {
  if (is_block_role(mixer, role)) return true;
  switch (role) {
    case Role::in_proj:
    case Role::out_proj: return has_in_proj(mixer);
    case Role::x_proj:
    case Role::dt_proj: return has_scan(mixer);
    case Role::q_proj:
    case Role::o_proj: return has_qkvo(mixer);
    case Role::k_proj:
    case Role::v_proj: return has_qkvo(mixer) && own_kv;
    case Role::gate_proj: return has_swiglu(ffn);
    case Role::up_proj:
    case Role::down_proj: return has_swiglu(ffn) || ffn == Ffn::relu2;
    case Role::block_out: return has_block(mixer);
    case Role::ffn_adapter_in:
    case Role::gate_adapter_out:
    case Role::up_adapter_out: return has_block(mixer) && s.adapter_rank > 0;
    case Role::q_adapter_in:
    case Role::q_adapter_out:
    case Role::k_adapter_in:
    case Role::k_adapter_out:
    case Role::v_adapter_in:
    case Role::v_adapter_out: return has_block(mixer) && s.adapter_rank > 0 && s.attention_adapters;
    case Role::shared_up:
    case Role::shared_down: return ffn == Ffn::moe_relu2;
    case Role::latent_in:
    case Role::latent_out: return ffn == Ffn::moe_relu2 && s.expert_latent > 0;
    default: return false;
  }
}

/// Whether the linears of a role have a bias: attention_bias is that of q_proj, k_proj, v_proj and o_proj, and of what stands for
/// them in conv_attention. dt_proj's is dt_bias.
KLENS_INLINE constexpr bool has_bias(const Shape& s, Mixer mixer, Role role) {
  switch (role) {
    case Role::in_proj: return mixer == Mixer::conv_attention ? s.attention_bias : s.in_proj_bias;
    case Role::out_proj: return mixer == Mixer::conv_attention ? s.attention_bias : s.out_proj_bias;
    case Role::q_proj:
    case Role::k_proj:
    case Role::v_proj:
    case Role::o_proj: return s.attention_bias;
    case Role::gate_proj:
    case Role::up_proj:
    case Role::down_proj:
    case Role::shared_up:
    case Role::shared_down:
    case Role::latent_in:
    case Role::latent_out: return s.ffn_bias;
    default: return false;
  }
}

/// Rows and columns of a linear. in_proj rows: hymba q | k | v | x | gate, without k and v where kv_source is another layer;
/// mamba x | gate; mamba2 and parallel gate | x | B | C | dt; short_conv B | C | x; conv_attention q | k | v; mamba3 gate | x | B | C |
/// dt | A | trapezoid | angles.
struct Extent { int rows, cols; };

/// Channels from one head of a Mamba-1 scan to the next: a multiple of 32 where there are several, so that a head's rows are
/// inputs of linears.
KLENS_INLINE constexpr int scan_pitch(int inner, int heads) { return heads == 1 ? inner : (inner / heads + 31) / 32 * 32; }

/// Channels of the state of a Mamba-1 scan.
KLENS_INLINE constexpr int scan_channels(const Shape& s) { return s.scan_heads * scan_pitch(s.inner, s.scan_heads); }

KLENS_INLINE constexpr int qkv_columns(const Shape& s, bool own_kv) {
  return s.heads * s.qk_dim + (own_kv ? s.kv_heads * (s.qk_dim + s.v_dim) : 0);
}

/// Columns that the convolution of a layer runs over.
KLENS_INLINE constexpr int conv_channels(const Shape& s, Mixer mixer) {
  if (mixer == Mixer::conv_attention) return qkv_columns(s, true);
  return !has_conv(mixer) ? 0 : s.inner + (has_ssd(mixer) ? 2 * s.ssm_groups * s.n_state : 0);
}

KLENS_INLINE constexpr Extent extent_of(const Shape& s, Mixer mixer, bool own_kv, Role role) {
  const int wide = has_block(mixer) ? 2 * s.hidden : s.hidden;   // what q, k and v read
  switch (role) {
    case Role::in_proj:
      if (mixer == Mixer::hymba) return {qkv_columns(s, own_kv) + 2 * s.inner, s.hidden};
      if (mixer == Mixer::short_conv) return {3 * s.inner, s.hidden};
      if (mixer == Mixer::conv_attention) return {qkv_columns(s, true), s.hidden};
      if (has_ssd(mixer)) return {2 * s.inner + 2 * s.ssm_groups * s.n_state + s.ssm_heads, s.hidden};
      if (mixer == Mixer::mamba3) return {2 * s.inner + 2 * s.ssm_groups * s.n_state + 3 * s.ssm_heads + s.ssm_angles, s.hidden};
      return {2 * s.inner, s.hidden};
    case Role::x_proj: return {s.scan_heads * (s.dt_rank + 2 * s.n_state), s.inner / s.scan_heads};
    case Role::dt_proj: return {s.inner, s.dt_rank};
    case Role::out_proj: return {s.hidden, mixer == Mixer::conv_attention ? s.heads * s.v_dim : s.inner};
    case Role::q_proj: return {s.heads * s.qk_dim, wide};
    case Role::k_proj: return {s.kv_heads * s.qk_dim, wide};
    case Role::v_proj: return {s.kv_heads * s.v_dim, wide};
    case Role::q_adapter_in:
    case Role::k_adapter_in:
    case Role::v_adapter_in: return {s.adapter_rank, wide};
    case Role::q_adapter_out: return {s.heads * s.qk_dim, s.adapter_rank};
    case Role::k_adapter_out: return {s.kv_heads * s.qk_dim, s.adapter_rank};
    case Role::v_adapter_out: return {s.kv_heads * s.v_dim, s.adapter_rank};
    case Role::ffn_adapter_in: return {s.adapter_rank, s.hidden};
    case Role::gate_adapter_out:
    case Role::up_adapter_out: return {s.ffn, s.adapter_rank};
    case Role::block_out: return {s.hidden, s.hidden};
    case Role::shared_up: return {s.shared_ffn, s.hidden};
    case Role::shared_down: return {s.hidden, s.shared_ffn};
    case Role::latent_in: return {s.expert_latent, s.hidden};
    case Role::latent_out: return {s.hidden, s.expert_latent};
    case Role::o_proj: return {s.hidden, s.heads * s.v_dim};
    case Role::gate_proj:
    case Role::up_proj: return {s.ffn, s.hidden};
    case Role::down_proj: return {s.hidden, s.ffn};
    default: return {s.vocab, s.hidden};
  }
}

/// Inputs and outputs of an expert.
KLENS_INLINE constexpr int expert_width(const Shape& s) { return s.expert_latent > 0 ? s.expert_latent : s.hidden; }

/// Rows and columns of a linear of an expert.
KLENS_INLINE constexpr Extent expert_extent(const Shape& s, Role role) {
  const int width = expert_width(s);
  return role == Role::down_proj ? Extent{width, s.expert_ffn} : Extent{s.expert_ffn, width};
}

}  // namespace klens
