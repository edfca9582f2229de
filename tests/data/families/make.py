"""Makes the models of tests/data/families and what transformers says of them:
    pip install torch==2.13.0 transformers==5.23.0 && python make.py OUT_DIR
Random weights, every parameter disturbed, so that one that is ignored or misplaced shows. float32, eager attention."""
import math, os, sys
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
    if "norm" in name and p.dim() == 1 or name.endswith(".D"):
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


for name, config in VARIANTS.items():
    make(name, config, sys.argv[1])
