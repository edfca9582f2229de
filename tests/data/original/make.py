"""Makes tests/data/original: the first two layers of tests/data/families/{mamba,mamba2} in float16, in the spelling of state-spaces'
own checkpoints (package mamba_ssm):
    pip install torch==2.13.0 safetensors==0.8.0 && python make.py FAMILIES_DIR OUT_DIR"""
import json, os, sys
import torch
from safetensors.torch import load_file

COMMON = {"rms_norm": True, "residual_in_fp32": True, "fused_add_norm": True}
CONFIGS = {
    # mamba_ssm 1: no layer kind, no tie_embeddings (tied)
    "mamba": {"d_model": 40, "n_layer": 2, "vocab_size": 93, "ssm_cfg": {"d_state": 8, "d_conv": 3, "dt_rank": 5, "bias": True, "conv_bias": False},
              **COMMON, "pad_vocab_size_multiple": 1},
    # mamba_ssm 2
    "mamba2": {"d_model": 48, "d_intermediate": 0, "n_layer": 2, "vocab_size": 93,
               "ssm_cfg": {"layer": "Mamba2", "d_state": 20, "headdim": 24, "ngroups": 2, "bias": True, "dt_limit": [0.05, 0.4], "chunk_size": 8},
               "attn_layer_idx": [], "attn_cfg": {}, **COMMON, "pad_vocab_size_multiple": 8, "tie_embeddings": False},
}
for name, config in CONFIGS.items():
    g = torch.Generator().manual_seed(len(name))
    tied = config.get("tie_embeddings", True)
    rows = -config["vocab_size"] % config["pad_vocab_size_multiple"]
    state = {}
    for key, value in load_file(os.path.join(sys.argv[1], name, "model.safetensors")).items():
        if key.startswith("backbone.layers.2.") or tied and key == "lm_head.weight":
            continue
        if key in ("backbone.embeddings.weight", "lm_head.weight"):
            value = torch.cat([value, torch.randn(rows, value.shape[1], generator=g)])
        state[key.replace("backbone.embeddings.", "backbone.embedding.")] = value.half()
    if tied:
        state["lm_head.weight"] = state["backbone.embedding.weight"]   # one storage under two names
    folder = os.path.join(sys.argv[2], name)
    os.makedirs(folder, exist_ok=True)
    torch.save(state, os.path.join(folder, "pytorch_model.bin"))
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(config, f)
    print(name, os.path.getsize(os.path.join(folder, "pytorch_model.bin")))
