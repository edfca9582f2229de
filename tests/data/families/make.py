"""Makes the models of tests/data/families and what transformers says of them:
    pip install torch==2.13.0 transformers==5.23.0 && python make.py OUT_DIR
Random weights, every parameter disturbed, so that one that is ignored or misplaced shows. float32, eager attention."""
import json, math, os, sys
import torch, transformers as t
from safetensors.torch import save_file

INF = float("inf")
VARIANTS = {
    "mamba": t.MambaConfig(hidden_size=40, use_bias=True, state_size=8, conv_kernel=3, time_step_rank=5, use_conv_bias=False, num_hidden_layers=3,
                           tie_word_embeddings=False, layer_norm_epsilon=1e-4),
    "falcon_mamba": t.FalconMambaConfig(hidden_size=40, state_size=20, expand=1, conv_kernel=2, num_hidden_layers=2, tie_word_embeddings=True),
    "mamba2": t.Mamba2Config(hidden_size=48, use_bias=True, num_heads=4, head_dim=24, n_groups=2, state_size=20, num_hidden_layers=3, chunk_size=8,
                             time_step_limit=(0.05, 0.4), tie_word_embeddings=False),
    "bamba": t.BambaConfig(hidden_size=48, intermediate_size=72, num_hidden_layers=3, num_attention_heads=3, num_key_value_heads=1,
                           attn_layer_indices=[1], mamba_n_heads=6, mamba_d_head=16, mamba_n_groups=2, mamba_d_state=12,
                           mamba_conv_bias=False, mamba_chunk_size=8, attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
    "falcon_h1": t.FalconH1Config(hidden_size=40, intermediate_size=56, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=12,
                                  mamba_d_ssm=72, mamba_n_heads=6, mamba_d_head=12, mamba_n_groups=2, mamba_d_state=12, mamba_chunk_size=8,
                                  mamba_rms_norm=True, mamba_norm_before_gate=True, rope_theta=5e4, embedding_multiplier=2.5, lm_head_multiplier=0.3,
                                  key_multiplier=0.6, attention_in_multiplier=1.2, attention_out_multiplier=0.8, ssm_in_multiplier=1.3,
                                  ssm_out_multiplier=0.7, ssm_multipliers=[0.5, 1.25, 0.75, 1.5, 0.9], mlp_multipliers=[1.4, 0.6]),
    "falcon_h1.gate_first": t.FalconH1Config(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
                                             head_dim=20, mamba_d_ssm=None, mamba_n_heads=4, mamba_d_head="auto", mamba_n_groups=4, mamba_d_state=8,
                                             mamba_chunk_size=8, mamba_rms_norm=True, mamba_norm_before_gate=False, mamba_proj_bias=True, projectors_bias=True,
                                             attention_bias=True, mlp_bias=True, tie_word_embeddings=True,
                                             lm_head_multiplier=1.7),
    "lfm2": t.Lfm2Config(hidden_size=40, intermediate_size=56, block_auto_adjust_ff_dim=False, num_hidden_layers=4, num_attention_heads=5,
                         num_key_value_heads=1, full_attn_idxs=[0, 2], conv_bias=True, conv_L_cache=4, rope_theta=3e4),
    "nemotron_h": t.NemotronHConfig(hidden_size=40, intermediate_size=52, num_attention_heads=4, num_key_value_heads=2, head_dim=12,
                                    layers_block_type=["mlp", "linear_attention", "full_attention", "linear_attention"], mamba_num_heads=6,
                                    mamba_head_dim=10, n_groups=3, ssm_state_size=20, conv_kernel=3, chunk_size=8, time_step_min=0.1,
                                    use_conv_bias=False, use_bias=True, mlp_bias=True),
    "nemotron_h.moe": t.NemotronHConfig(hidden_size=40, intermediate_size=52, num_attention_heads=4, num_key_value_heads=1, head_dim=12,
                                        layers_block_type=["moe", "linear_attention", "mlp", "full_attention", "moe"], mamba_num_heads=4,
                                        mamba_head_dim=12, n_groups=2, ssm_state_size=12, chunk_size=8, n_routed_experts=6, num_experts_per_tok=3, n_group=3,
                                        topk_group=2, norm_topk_prob=True, routed_scaling_factor=1.7, moe_intermediate_size=20,
                                        moe_shared_expert_intermediate_size=36),
    "nemotron_h.latent": t.NemotronHConfig(hidden_size=40, intermediate_size=32, num_attention_heads=2, num_key_value_heads=2, head_dim=20,
                                           layers_block_type=["linear_attention", "moe", "full_attention", "moe"], mamba_num_heads=4,
                                           mamba_head_dim=12, n_groups=1, ssm_state_size=20, chunk_size=8, n_routed_experts=5, num_experts_per_tok=2,
                                           n_group=1, topk_group=1, norm_topk_prob=False, routed_scaling_factor=2.5, moe_intermediate_size=28,
                                           moe_latent_size=24, moe_shared_expert_intermediate_size=44, mlp_bias=True, tie_word_embeddings=False),
    "jamba": t.JambaConfig(hidden_size=40, intermediate_size=12, num_hidden_layers=4, num_attention_heads=5, num_key_value_heads=1, attn_layer_period=3,
                           attn_layer_offset=1, expert_layer_period=3, expert_layer_offset=0, num_experts=5, num_experts_per_tok=3, mamba_d_state=12,
                           mamba_d_conv=3, mamba_dt_rank=5, mamba_proj_bias=True, rms_norm_eps=1e-4),
    "jamba.top1": t.JambaConfig(hidden_size=48, intermediate_size=24, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, attn_layer_period=2,
                                attn_layer_offset=1, expert_layer_period=3, expert_layer_offset=1, num_experts=3, num_experts_per_tok=1, mamba_d_state=20,
                                mamba_d_conv=2, mamba_expand=1, mamba_dt_rank=5, mamba_conv_bias=False, tie_word_embeddings=True),
    "granitemoehybrid": t.GraniteMoeHybridConfig(hidden_size=40, intermediate_size=20, shared_intermediate_size=28, num_hidden_layers=3, num_attention_heads=4,
                                                 num_key_value_heads=2, layer_types=["linear_attention", "full_attention", "linear_attention"],
                                                 num_local_experts=5, num_experts_per_tok=3, position_embedding_type="rope",
                                                 rope_parameters={"rope_type": "default", "rope_theta": 3e4}, attention_bias=True, embedding_multiplier=2.5,
                                                 residual_multiplier=0.7, attention_multiplier=0.3, logits_scaling=1.9, mamba_n_heads=4, mamba_d_head=10,
                                                 mamba_n_groups=2, mamba_d_state=12, mamba_d_conv=3, mamba_expand=1, mamba_chunk_size=8, mamba_proj_bias=True,
                                                 time_step_limit=(0.05, 0.6), rms_norm_eps=1e-4, tie_word_embeddings=False),
    "granitemoehybrid.dense": t.GraniteMoeHybridConfig(hidden_size=40, intermediate_size=20, shared_intermediate_size=52, num_hidden_layers=4,
                                                       num_attention_heads=5, layer_types=["attention", "mamba", "mamba", "attention"],
                                                       num_local_experts=0, num_experts_per_tok=0, position_embedding_type="nope", embedding_multiplier=3.5,
                                                       residual_multiplier=0.6, attention_multiplier=0.2, logits_scaling=2.3, mamba_n_heads=4,
                                                       mamba_d_state=20, mamba_conv_bias=False, mamba_chunk_size=8, tie_word_embeddings=True),
    "zamba": t.ZambaConfig(hidden_size=40, intermediate_size=52, num_hidden_layers=4, layers_block_type=["hybrid", "linear_attention", "hybrid", "hybrid"],
                           num_attention_heads=4, num_key_value_heads=2, n_mamba_heads=1, mamba_d_state=12, mamba_d_conv=3, mamba_expand=1, mamba_dt_rank=5,
                           mamba_conv_bias=False, mamba_proj_bias=True, rms_norm_eps=1e-4),
    "zamba.untied": t.ZambaConfig(hidden_size=30, intermediate_size=36, num_hidden_layers=5, attn_layer_period=2, attn_layer_offset=1, num_attention_heads=3,
                                  num_key_value_heads=3, n_mamba_heads=3, mamba_d_state=12, mamba_expand=1, mamba_dt_rank="auto", tie_word_embeddings=False),
    "zamba2": t.Zamba2Config(hidden_size=36, intermediate_size=28, num_hidden_layers=4, layers_block_type=["linear_attention", "hybrid", "hybrid", "hybrid"],
                             num_attention_heads=4, num_mem_blocks=2, use_shared_attention_adapter=True, adapter_rank=6, use_mem_rope=True,
                             rope_parameters={"rope_type": "default", "rope_theta": 5e4}, add_bias_linear=True, n_mamba_heads=6, mamba_ngroups=2,
                             mamba_d_state=12, mamba_d_conv=3, mamba_expand=1, chunk_size=8),
    "zamba2.plain": t.Zamba2Config(hidden_size=40, intermediate_size=44, num_hidden_layers=3, layers_block_type=["linear_attention", "hybrid", "hybrid"],
                                   num_attention_heads=4, num_key_value_heads=2, adapter_rank=5, n_mamba_heads=5, mamba_d_state=20, time_step_min=0.3,
                                   chunk_size=8, rms_norm_eps=1e-2),
}


def disturb(name, p, g):
    noise = torch.randn(p.shape, generator=g)
    if name.endswith("A_log"):
        return p + 0.3 * noise
    if name.endswith(("dt_bias", "dt_proj.bias", "dt_proj_bias")):
        return noise - 1
    if "norm" in name and p.dim() == 1 or name.endswith((".D", ".B_bias", ".C_bias")):
        return 1 + 0.3 * noise
    if p.dim() == 1:
        return 0.3 * noise
    if "embed" in name:
        return noise
    return noise / math.sqrt(p.shape[-1])


def make(name, config, out):
    config.vocab_size, config.bos_token_id, config.eos_token_id, config.pad_token_id = 93, 0, 0, 0
    g = torch.Generator().manual_seed(sum(map(ord, name)))
    config._attn_implementation = "eager"
    model = t.AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        for key, p in model.named_parameters():
            p.copy_(disturb(key, p, g))
        for key, p in model.named_buffers():
            if key.endswith("e_score_correction_bias"):
                p.copy_(0.1 * torch.randn(p.shape, generator=g))
    ids = torch.randint(1, 93, (2, 21), generator=g)
    with torch.no_grad():
        o = model(ids, output_hidden_states=True, use_cache=False)
        longer = ids
        for _ in range(8):
            longer = torch.cat([longer, model(longer, use_cache=False).logits[:, -1:].argmax(-1)], 1)
    golden = {"input_ids": ids, "logits": o.logits, "greedy": longer[:, ids.shape[1]:].contiguous()}
    golden.update({f"hidden.{i}": h for i, h in enumerate(o.hidden_states)})
    folder = os.path.join(out, name)
    model.save_pretrained(folder)
    save_file({k: v.contiguous() for k, v in golden.items()}, os.path.join(folder, "golden.safetensors"))
    if os.path.exists(os.path.join(folder, "generation_config.json")):
        os.remove(os.path.join(folder, "generation_config.json"))
    print(name, sum(os.path.getsize(os.path.join(folder, f)) for f in os.listdir(folder)), float(o.logits.pow(2).mean().sqrt()))


# state-spaces/mamba2attn-2.7b (Mamba2 and MHA of mamba_ssm) has no class in transformers, so this one is written out after mamba_ssm 2.3.2's equations.
MAMBA2ATTN = {"d_model": 36, "n_layer": 4, "vocab_size": 93, "ssm_cfg": {"layer": "Mamba2", "d_state": 20, "headdim": 18, "ngroups": 2},
              "attn_layer_idx": [1, 3],
              "attn_cfg": {"causal": True, "d_conv": 4, "head_dim": 18, "num_heads": 6, "num_heads_kv": 2, "out_proj_bias": True, "qkv_proj_bias": True,
                           "rotary_emb_dim": 10, "rotary_emb_base": 5000.0},
              "rms_norm": True, "residual_in_fp32": True, "fused_add_norm": True, "pad_vocab_size_multiple": 8, "tie_embeddings": True}


def rms_norm(x, weight, groups=1):
    parts = x.unflatten(-1, (groups, -1))
    return (parts * torch.rsqrt(parts.pow(2).mean(-1, keepdim=True) + 1e-5)).flatten(-2) * weight


def causal_conv(x, w, at):
    """Zeros before the first token; no activation."""
    taps, bias = w[at + "conv1d.weight"], w[at + "conv1d.bias"]
    return torch.conv1d(torch.nn.functional.pad(x.mT, (taps.shape[-1] - 1, 0)), taps, bias, groups=taps.shape[0]).mT


def mamba2_mixer(x, w, at, state, width, groups):
    """in_proj n = gate | x | B | C | dt; the recurrence token by token."""
    heads = w[at + "A_log"].shape[0]
    inner, shared = heads * width, groups * state
    gate, xbc, dt = torch.nn.functional.linear(x, w[at + "in_proj.weight"]).split([inner, inner + 2 * shared, heads], -1)
    u, b, c = torch.nn.functional.silu(causal_conv(xbc, w, at)).split([inner, shared, shared], -1)
    u = u.unflatten(-1, (heads, width))
    b, c = (v.unflatten(-1, (groups, state)).repeat_interleave(heads // groups, -2) for v in (b, c))
    dt = torch.nn.functional.softplus(dt + w[at + "dt_bias"])
    decay = torch.exp(-dt * torch.exp(w[at + "A_log"]))
    s, ys = torch.zeros(x.shape[0], heads, width, state), []
    for t in range(x.shape[1]):
        s = s * decay[:, t, :, None, None] + (dt[:, t, :, None] * u[:, t])[..., None] * b[:, t, :, None]
        ys.append((s * c[:, t, :, None]).sum(-1) + w[at + "D"][:, None] * u[:, t])
    y = torch.stack(ys, 1).flatten(-2) * torch.nn.functional.silu(gate)
    return torch.nn.functional.linear(rms_norm(y, w[at + "norm.weight"], groups), w[at + "out_proj.weight"])


def rotated(x, turning, base):
    """The first `turning` elements of every head, halves against each other; x is [batch, token, head, element]."""
    i = torch.arange(0, turning, 2, dtype=torch.float32)
    angle = torch.outer(torch.arange(x.shape[1], dtype=torch.float32), base ** (-i / turning))[:, None]
    p, q, rest = x.split([turning // 2, turning // 2, x.shape[-1] - turning], -1)
    return torch.cat([p * angle.cos() - q * angle.sin(), q * angle.cos() + p * angle.sin(), rest], -1)


def attention_mixer(x, w, at, cfg):
    """in_proj n = q | k | v, all three through the convolution, then the rotation of q and k."""
    heads, shared, width = cfg["num_heads"], cfg["num_heads_kv"], cfg["head_dim"]
    qkv = causal_conv(torch.nn.functional.linear(x, w[at + "in_proj.weight"], w[at + "in_proj.bias"]), w, at)
    q, k, v = qkv.unflatten(-1, (heads + 2 * shared, width)).split([heads, shared, shared], -2)
    q, k = (rotated(r, cfg["rotary_emb_dim"], cfg["rotary_emb_base"]) for r in (q, k))
    k, v = (r.repeat_interleave(heads // shared, -2) for r in (k, v))
    scores = torch.einsum("bihd,bjhd->bhij", q, k) / math.sqrt(width)
    scores = scores.masked_fill(torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1), -INF).softmax(-1)
    return torch.nn.functional.linear(torch.einsum("bhij,bjhd->bihd", scores, v).flatten(-2), w[at + "out_proj.weight"], w[at + "out_proj.bias"])


def mamba2attn_forward(w, ids, c):
    """Logits, and hidden states where transformers' Mamba2 has them: what each layer gave, and the last one's after the norm."""
    x, hidden = w["backbone.embedding.weight"][ids], []
    for i in range(c["n_layer"]):
        at = f"backbone.layers.{i}."
        n = rms_norm(x, w[at + "norm.weight"])
        if i in c["attn_layer_idx"]:
            x = x + attention_mixer(n, w, at + "mixer.", c["attn_cfg"])
        else:
            x = x + mamba2_mixer(n, w, at + "mixer.", c["ssm_cfg"]["d_state"], c["ssm_cfg"]["headdim"], c["ssm_cfg"]["ngroups"])
        hidden.append(x)
    hidden.append(rms_norm(x, w["backbone.norm_f.weight"]))
    return torch.nn.functional.linear(hidden[-1], w.get("lm_head.weight", w["backbone.embedding.weight"])), hidden


def mamba2attn_weights(c, g):
    ssm, attn, d = c["ssm_cfg"], c["attn_cfg"], c["d_model"]
    inner, rows = 2 * d, -(-c["vocab_size"] // c["pad_vocab_size_multiple"]) * c["pad_vocab_size_multiple"]
    heads, channels = inner // ssm["headdim"], inner + 2 * ssm["ngroups"] * ssm["d_state"]
    qkv, out = (attn["num_heads"] + 2 * attn["num_heads_kv"]) * attn["head_dim"], attn["num_heads"] * attn["head_dim"]
    mamba2 = {"A_log": [heads], "D": [heads], "dt_bias": [heads], "in_proj.weight": [inner + channels + heads, d], "conv1d.weight": [channels, 1, 4],
              "conv1d.bias": [channels], "norm.weight": [inner], "out_proj.weight": [d, inner]}
    attention = {"in_proj.weight": [qkv, d], "in_proj.bias": [qkv], "conv1d.weight": [qkv, 1, attn["d_conv"]], "conv1d.bias": [qkv],
                 "out_proj.weight": [d, out], "out_proj.bias": [d]}
    shapes = {"backbone.embedding.weight": [rows, d], "backbone.norm_f.weight": [d]}
    for i in range(c["n_layer"]):
        mixer = attention if i in c["attn_layer_idx"] else mamba2
        shapes.update({f"backbone.layers.{i}.norm.weight": [d]}, **{f"backbone.layers.{i}.mixer.{k}": s for k, s in mixer.items()})
    first = torch.log(torch.arange(1, heads + 1, dtype=torch.float32))
    w = {k: disturb(k, first if k.endswith("A_log") else torch.zeros(s), g) for k, s in shapes.items()}
    w["backbone.embedding.weight"] *= 0.2   # tied: of rms 1, every token would be followed by itself
    return w


# state-spaces/mamba3-siso-* (Mamba3 of mamba_ssm, one input and one output a head) have no class in transformers either. The decay's rate is main's and the
# published checkpoints' `heavy_tail`; mamba_ssm 2.3.2.post1 on PyPI still has softplus in its place, and agrees in everything else.
MAMBA3 = {
    "mamba3": {"d_model": 40, "d_intermediate": 0, "n_layer": 3, "vocab_size": 93,
               "ssm_cfg": {"layer": "Mamba3", "d_state": 14, "expand": 2, "headdim": 10, "ngroups": 2, "rope_fraction": 0.5, "dt_min": 0.001, "dt_max": 0.1,
                           "dt_init_floor": 0.0001, "A_floor": 0.6, "chunk_size": 64, "is_mimo": False, "is_outproj_norm": False},
               "attn_layer_idx": [], "attn_cfg": {}, "rms_norm": True, "residual_in_fp32": True, "fused_add_norm": True, "pad_vocab_size_multiple": 16,
               "tie_embeddings": True},
    "mamba3.norm": {"d_model": 24, "d_intermediate": 120, "n_layer": 2, "vocab_size": 93,
                    "ssm_cfg": {"layer": "Mamba3", "d_state": 20, "expand": 3, "headdim": 24, "rope_fraction": 1.0, "is_outproj_norm": True},
                    "rms_norm": True, "residual_in_fp32": True, "fused_add_norm": True, "pad_vocab_size_multiple": 8, "tie_embeddings": False},
}


def mamba3_sizes(c):
    """Heads, width of a head, groups, state, angles: the turned part of a state is cut down to an even number."""
    s = c["ssm_cfg"]
    inner, state = int(s["expand"] * c["d_model"]), s["d_state"]
    return inner // s["headdim"], s["headdim"], s.get("ngroups", 1), state, int(state * s["rope_fraction"]) // 2


def heavy_tail(v):
    """1 + v from zero on, 1 / (1 - v) below."""
    return v.clamp(min=0) + 1 / (1 - v.clamp(max=0))


def turned(x, angle):
    """Neighbours against each other: pair i = elements 2i and 2i + 1 by angle i; pairs without an angle stay."""
    p, q = x.unflatten(-1, (-1, 2)).unbind(-1)
    angle = torch.nn.functional.pad(angle, (0, p.shape[-1] - angle.shape[-1]))
    return torch.stack([p * angle.cos() - q * angle.sin(), q * angle.cos() + p * angle.sin()], -1).flatten(-2)


def mamba3_mixer(x, w, at, c, rate=heavy_tail):
    """in_proj n = gate | x | B | C | dt | A | trap | angles; the recurrence token by token, the trapezoid's earlier end from the last token's k and v."""
    heads, width, groups, state, angles = mamba3_sizes(c)
    softplus, inner, shared = torch.nn.functional.softplus, heads * width, groups * state
    gate, v, b, k, dt, a, trap, turn = torch.nn.functional.linear(x, w[at + "in_proj.weight"]).split(
        [inner, inner, shared, shared, heads, heads, heads, angles], -1)
    v = v.unflatten(-1, (heads, width))
    k, q = (rms_norm(r.unflatten(-1, (groups, state)), w[at + n + "_norm.weight"]).repeat_interleave(heads // groups, -2) + w[at + n + "_bias"].flatten(1)
            for r, n in ((b, "B"), (k, "C")))
    dt, trap = softplus(dt + w[at + "dt_bias"]), torch.sigmoid(trap)
    keep = torch.exp(-rate(a).clamp(min=c["ssm_cfg"].get("A_floor", 1e-4)) * dt)
    s, theta = x.new_zeros(x.shape[0], heads, width, state), x.new_zeros(x.shape[0], heads, angles)
    last_k, last_v, ys = torch.zeros_like(k[:, 0]), torch.zeros_like(v[:, 0]), []
    for t in range(x.shape[1]):
        theta = (theta + math.pi * torch.tanh(turn[:, t, None]) * dt[:, t, :, None]) % (2 * math.pi)
        now_k, now_v = turned(k[:, t], theta), v[:, t]
        before, after = (keep * (1 - trap) * dt)[:, t, :, None], (trap * dt)[:, t, :, None]
        s = s * keep[:, t, :, None, None] + (before * last_v)[..., None] * last_k[:, :, None] + (after * now_v)[..., None] * now_k[:, :, None]
        ys.append((s * turned(q[:, t], theta)[:, :, None]).sum(-1) + w[at + "D"][:, None] * now_v)
        last_k, last_v = now_k, now_v
    y = torch.stack(ys, 1).flatten(-2)
    if c["ssm_cfg"].get("is_outproj_norm"):
        y = rms_norm(y, w[at + "norm.weight"], heads)
    return torch.nn.functional.linear(y * torch.nn.functional.silu(gate), w[at + "out_proj.weight"])


def mamba3_forward(w, ids, c):
    """As mamba2attn_forward; with d_intermediate every layer has an MLP behind the mixer, fc1 n = up | gate."""
    x, hidden = w["backbone.embedding.weight"][ids], []
    for i in range(c["n_layer"]):
        at = f"backbone.layers.{i}."
        x = x + mamba3_mixer(rms_norm(x, w[at + "norm.weight"]), w, at + "mixer.", c)
        if c["d_intermediate"]:
            up, gate = torch.nn.functional.linear(rms_norm(x, w[at + "norm2.weight"]), w[at + "mlp.fc1.weight"]).chunk(2, -1)
            x = x + torch.nn.functional.linear(up * torch.nn.functional.silu(gate), w[at + "mlp.fc2.weight"])
        hidden.append(x)
    hidden.append(rms_norm(x, w["backbone.norm_f.weight"]))
    return torch.nn.functional.linear(hidden[-1], w.get("lm_head.weight", w["backbone.embedding.weight"])), hidden


def mamba3_weights(c, g):
    heads, width, groups, state, angles = mamba3_sizes(c)
    d, inner, multiple = c["d_model"], heads * width, c["pad_vocab_size_multiple"]
    rows, mlp = -(-c["vocab_size"] // multiple) * multiple, -(-c["d_intermediate"] // 128) * 128   # GatedMLP rounds its width up
    layer = {"norm.weight": [d], "mixer.dt_bias": [heads], "mixer.B_bias": [heads, 1, state], "mixer.C_bias": [heads, 1, state], "mixer.D": [heads],
             "mixer.in_proj.weight": [2 * inner + 2 * groups * state + 3 * heads + angles, d], "mixer.B_norm.weight": [state], "mixer.C_norm.weight": [state],
             "mixer.out_proj.weight": [d, inner]}
    layer.update({"mixer.norm.weight": [inner]} if c["ssm_cfg"].get("is_outproj_norm") else {})
    layer.update({"norm2.weight": [d], "mlp.fc1.weight": [2 * mlp, d], "mlp.fc2.weight": [d, mlp]} if mlp else {})
    shapes = {"backbone.embedding.weight": [rows, d], "backbone.norm_f.weight": [d]}
    shapes.update({} if c["tie_embeddings"] else {"lm_head.weight": [rows, d]})
    for i in range(c["n_layer"]):
        shapes.update({f"backbone.layers.{i}.{k}": s for k, s in layer.items()})
    w = {k: disturb(k, torch.zeros(s), g) for k, s in shapes.items()}
    for k in w:
        if k.endswith("in_proj.weight"):   # of the size of the other rows, no angle would go round within 21 tokens
            w[k][-(2 * heads + angles):] *= 2
        if k.endswith("dt_bias"):
            w[k] += 1
    w["backbone.embedding.weight"] *= 0.2 if c["tie_embeddings"] else 1
    return w


def make_written_out(name, c, weights, forward, out):
    g = torch.Generator().manual_seed(sum(map(ord, name)))
    w = weights(c, g)
    ids = torch.randint(1, 93, (2, 21), generator=g)
    logits, hidden = forward(w, ids, c)
    longer = ids
    for _ in range(8):
        longer = torch.cat([longer, forward(w, longer, c)[0][:, -1:].argmax(-1)], 1)
    golden = {"input_ids": ids, "logits": logits, "greedy": longer[:, ids.shape[1]:].contiguous()}
    golden.update({f"hidden.{i}": h for i, h in enumerate(hidden)})
    folder = os.path.join(out, name)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(c, f, indent=2)
    save_file(w, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
    save_file({k: v.contiguous() for k, v in golden.items()}, os.path.join(folder, "golden.safetensors"))
    print(name, sum(os.path.getsize(os.path.join(folder, f)) for f in os.listdir(folder)), float(logits.pow(2).mean().sqrt()))


if __name__ == "__main__":
    for name, config in VARIANTS.items():
        make(name, config, sys.argv[1])
    make_written_out("mamba2attn", MAMBA2ATTN, mamba2attn_weights, mamba2attn_forward, sys.argv[1])
    for name, config in MAMBA3.items():
        make_written_out(name, config, mamba3_weights, mamba3_forward, sys.argv[1])
